package handshake

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// A fuzzWorld is the first contact of the vectors, in which fuzzed bytes arrive. It is the
// same in every process, so that what one finds means the same to others.
type fuzzWorld struct {
	contact
	link    Link
	inviter *Inviter
	invitee *Invitee
}

func newFuzzWorld(f *testing.F) *fuzzWorld {
	w := &fuzzWorld{}
	loadVectors(f, "contact.json", &w.contact)
	w.link, w.inviter = must(ParseLink(w.Link)), w.contact.inviter()
	w.inviter.OfferHash = [32]byte(w.OfferHash)
	peer := w.inviter.static.Public()
	w.invitee = &Invitee{session: session{Invite, w.inviter.OfferHash, w.Enc, hide(w.SS), w.link.Secret}, peer: peer, static: key.NoiseFromSeed(w.InviteeStatic),
		seed: hide(w.InviteeEphemeral), payload: hide(w.Request)}
	must(w.invitee.begin())
	return w
}

// unchanged runs f and sees that it leaves its input alone.
func unchanged(t *testing.T, b []byte, f func()) {
	before := bytes.Clone(b)
	f()
	if !bytes.Equal(b, before) {
		t.Error("reading changed its input")
	}
}

// People paste anything, and whoever makes a link writes into it what he likes.
func FuzzParseLink(f *testing.F) {
	l := sampleLink([]byte{4, 127, 0, 0, 1, 6, 0x1f, 0x90})
	f.Add(l.Text(), codec.Write(l.fields))
	for _, b := range badLinks() {
		f.Add(b.Text, []byte(b.Text))
	}
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		for _, text := range []string{text, toText(inviteLetter, body)} {
			l, err := ParseLink(text)
			if err != nil {
				known := false
				for _, e := range expectedLink {
					known = known || errors.Is(err, e)
				}
				if !known {
					t.Errorf("%q: an error of no kind: %v", text, err)
				}
				continue
			}
			written := strings.NewReplacer("\r", "", "\n", "").Replace(strings.TrimSpace(text))
			if l.Text() != written {
				t.Errorf("%q is read, and written as %q", text, l.Text())
			}
			if err := l.check(); err != nil {
				t.Errorf("%q is read and could not be made: %v", text, err)
			}
		}
	})
}

// A relay puts anything into a slot; who makes an invite seals and signs what he likes.
func FuzzOffer(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add([]byte(w.Sealed))
	f.Add([]byte(w.Offer[:len(w.Offer)-key.SignatureSize]))
	f.Add([]byte{0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		unchanged(t, b, func() {
			if o, err := w.link.OpenOffer([32]byte(w.Slot), b); err != nil && (!errors.Is(err, ErrOffer) || o != nil) {
				t.Errorf("OpenOffer: %v", err)
			}
			if raw, err := unpadOffer(b); err == nil && !bytes.HasPrefix(b, append(codec.AppendU32(nil, uint32(len(raw))), raw...)) {
				t.Errorf("%x is unpadded to %x", b, raw)
			}
		})
		raw := append(bytes.Clone(b), ana.Key.Sign(offerLabel, b)...)
		if o, err := parseOffer(raw); err == nil && !bytes.Equal(o.sign(ana.Key), raw) {
			t.Errorf("%x is read, and written as %x", raw, o.sign(ana.Key))
		}
	})
}

// Anybody writes to an inbox; who has a link says what he likes in a request.
func FuzzRequest(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add([]byte(w.RequestBody))
	f.Add([]byte(w.Request))
	f.Fuzz(func(t *testing.T, b []byte) {
		unchanged(t, b, func() {
			if body, err := ParseRequestBody(b); err == nil {
				if !bytes.Equal(body.encode(), b) {
					t.Errorf("%x is read, and written as %x", b, body.encode())
				}
				if q, err := w.inviter.Read(body); err != nil && (!errors.Is(err, ErrHandshake) || q != nil) {
					t.Errorf("Read: %v", err)
				}
			} else if !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("an error of no kind: %v", err)
			}
			if m, random, err := parseRequest(b, ben.static.Public()); err == nil && !bytes.Equal(m.encode(random), b) {
				t.Errorf("%x is read, and written as %x", b, m.encode(random))
			}
		})
	})
}

// Likewise an answer.
func FuzzAccept(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add([]byte(w.AcceptBody))
	f.Add([]byte(w.Accept))
	f.Fuzz(func(t *testing.T, b []byte) {
		unchanged(t, b, func() {
			if body, err := ParseAcceptBody(b); err == nil {
				if !bytes.Equal(body.encode(), b) {
					t.Errorf("%x is read, and written as %x", b, body.encode())
				}
				body.RequestHash = w.invitee.hash
				if a, _, err := w.invitee.Finish(body); err != nil && (!errors.Is(err, ErrHandshake) || a != nil) {
					t.Errorf("Finish: %v", err)
				}
			} else if !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("an error of no kind: %v", err)
			}
			if m, random, err := parseAccept(b); err == nil && !bytes.Equal(m.encode(random), b) {
				t.Errorf("%x is read, and written as %x", b, m.encode(random))
			}
		})
	})
}

// A vault gives back what it was given, or says that it cannot; and still.
func FuzzState(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add(w.inviter.Append(nil))
	f.Add(w.invitee.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		unchanged(t, b, func() {
			if in, err := ParseInviter(b); err != nil && !errors.Is(err, ErrState) {
				t.Errorf("ParseInviter: %v", err)
			} else if err == nil && !bytes.Equal(in.Append(nil), b) {
				t.Errorf("an inviter's %x comes back as %x", b, in.Append(nil))
			}
			if e, err := ParseInvitee(b); err != nil && !errors.Is(err, ErrState) {
				t.Errorf("ParseInvitee: %v", err)
			} else if err == nil && !bytes.Equal(e.Append(nil), b) {
				t.Errorf("an invitee's %x comes back as %x", b, e.Append(nil))
			}
		})
	})
}
