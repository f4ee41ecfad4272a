package handshake

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

var makeVectors = flag.Bool("make-vectors", false, "write vector files that do not exist; those that do are never changed")

// loadVectors reads the vector file of that name into v, once v has been written into it
// where there was none.
func loadVectors(t testing.TB, name string, v any) {
	t.Helper()
	path := filepath.Join("../../spec/vectors/invite", name)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *makeVectors {
		b = append(must(json.MarshalIndent(v, "", "  ")), '\n')
		os.MkdirAll(filepath.Dir(path), 0o755)
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// hexBytes shows in JSON as hex.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(s []byte) (err error) { *b, err = hex.DecodeString(string(s)); return }

// contact is a whole first contact, with everything that was drawn.
type contact struct {
	LinkSecret       hexBytes `json:"link_secret"`
	OfferHandshake   hexBytes `json:"offer_handshake_seed"`
	OfferKEM         hexBytes `json:"offer_kem_seed"`
	OfferNonce       hexBytes `json:"offer_nonce"`
	Link             string   `json:"link"`
	Slot             hexBytes `json:"slot_id"`
	Offer            hexBytes `json:"offer"`
	OfferHash        hexBytes `json:"offer_hash"`
	Sealed           hexBytes `json:"sealed_offer"`
	InviteeStatic    hexBytes `json:"invitee_handshake_seed"`
	InviteeEphemeral hexBytes `json:"invitee_ephemeral_seed"`
	InviteeRandom    hexBytes `json:"invitee_r"`
	Enc              hexBytes `json:"enc"`
	SS               hexBytes `json:"ss"`
	PSK              hexBytes `json:"psk"`
	Prologue         hexBytes `json:"prologue"`
	Request          hexBytes `json:"contact_request_payload"`
	RequestBody      hexBytes `json:"contact_request"`
	RequestHash      hexBytes `json:"request_hash"`
	H                hexBytes `json:"h"`
	InviterEphemeral hexBytes `json:"inviter_ephemeral_seed"`
	InviterRandom    hexBytes `json:"inviter_r"`
	Welcome          hexBytes `json:"welcome"`
	Accept           hexBytes `json:"contact_accept_payload"`
	AcceptBody       hexBytes `json:"contact_accept"`
	PSKID            hexBytes `json:"group_psk_id"`
	GroupPSK         hexBytes `json:"group_psk"`
	Binding          hexBytes `json:"binding"`
}

func (c *contact) inviter() *Inviter {
	return &Inviter{mode: Invite, static: key.NoiseFromSeed(c.OfferHandshake), kem: key.SealingFromSeed(c.OfferKEM), salt: newSecret([32]byte(c.LinkSecret))}
}

// make fills in what follows from the seeds, and from what X-Wing has drawn.
func (c *contact) make(t *testing.T) {
	in := c.inviter()
	l, sealed, err := in.invite(ana.options(), [nonceSize]byte(c.OfferNonce))
	if err != nil {
		t.Fatal(err)
	}
	slot := slotID(l.Secret.SlotRead().Public())
	o := must(l.OpenOffer(slot, sealed))
	c.Link, c.Slot, c.OfferHash, c.Sealed = l.Text(), slot[:], in.OfferHash[:], sealed
	c.Offer = rawOffer(ana, func(x *Offer) { x.Handshake, x.KEM = in.static.Public(), in.kem.Public() })

	m := ben.request()
	e := &Invitee{session: session{Invite, in.OfferHash, c.Enc, hide(c.SS), l.Secret}, peer: o.Handshake, static: key.NoiseFromSeed(c.InviteeStatic),
		seed: hide(c.InviteeEphemeral), payload: hide(m.encode([32]byte(c.InviteeRandom)))}
	first := must(e.begin())
	c.PSK, c.Prologue, c.Request = e.session.psk(), e.session.prologue(), e.payload()
	body := &RequestBody{in.OfferHash, c.Enc, first}
	c.RequestBody, c.RequestHash = body.encode(), e.hash[:]

	q := must(in.read(body, bytes.NewReader(append(bytes.Clone(c.InviterRandom), c.InviterEphemeral...))))
	c.H = q.run.hash()
	a := ContactAccept{Welcome: c.Welcome, Name: "Ana"}
	c.Accept, c.AcceptBody = a.encode([32]byte(c.InviterRandom)), must(q.Accept(a))
	s := q.Secrets()
	c.PSKID, c.GroupPSK, c.Binding = s.PSKID, s.PSK(), s.Binding[:]
}

// spec/invite.md, sections 2 to 5: the whole way, with the library and without.
func TestContactVectors(t *testing.T) {
	c := contact{LinkSecret: fill(0x61), OfferHandshake: fill(0x71), OfferKEM: fill(0x72), OfferNonce: fill(0x73)[:nonceSize], InviteeStatic: fill(0x22 ^ 0x40),
		InviteeEphemeral: fill(0x74), InviteeRandom: fill(0x75), InviterEphemeral: fill(0x76), InviterRandom: fill(0x78), Welcome: []byte("an MLS Welcome")}
	if _, err := os.Stat("../../spec/vectors/invite/contact.json"); err != nil && *makeVectors {
		l, sealed, err := c.inviter().invite(ana.options(), [nonceSize]byte(c.OfferNonce))
		if err != nil {
			t.Fatal(err)
		}
		o := must(l.OpenOffer(slotID(l.Secret.SlotRead().Public()), sealed))
		enc, ctx, err := hpke.NewSender(o.KEM.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(o.Hash()))
		if err != nil {
			t.Fatal(err)
		}
		c.Enc, c.SS = enc, must(ctx.Export(kemExport, 32))
		c.make(t)
	}
	var v contact
	v = c
	loadVectors(t, "contact.json", &v)

	// What is made now from the same seeds is the same.
	c.Enc, c.SS = v.Enc, v.SS
	c.make(t)
	if got, want := must(json.MarshalIndent(c, "", " ")), must(json.MarshalIndent(v, "", " ")); !bytes.Equal(got, want) {
		t.Errorf("made now: %s\nwant: %s", got, want)
	}

	// By the words of the page alone.
	label := func(s string, parts ...[]byte) []byte { return append([]byte(s), bytes.Join(parts, nil)...) }
	sum := func(b []byte) []byte { h := sha256.Sum256(b); return h[:] }
	equal := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s is %x, want %x", what, got, want)
		}
	}
	equal("offer hash", sum(v.Offer), v.OfferHash)
	ctx, err := hpke.NewRecipient(v.Enc, must(hpke.MLKEM768X25519().NewPrivateKey(v.OfferKEM)), hpke.HKDFSHA384(), hpke.ExportOnly(), label("sotto/kem/1", v.OfferHash))
	if err != nil {
		t.Fatal(err)
	}
	equal("ss", must(ctx.Export("sotto/contact/1", 32)), v.SS)
	bound := bytes.Join([][]byte{{1}, v.OfferHash, v.Enc}, nil)
	equal("psk", must(hkdf.Key(sha512.New384, v.SS, v.LinkSecret, "sotto/psk/1"+string(bound), 32)), v.PSK)
	equal("prologue", label("sotto/contact/1", bound), v.Prologue)
	responder, e, static := x25519(v.OfferHandshake).PublicKey(), x25519(v.InviteeEphemeral), x25519(v.InviteeStatic)
	s := newReference(v.Prologue, responder)
	first := s.first(v.PSK, e, static, responder, v.Request)
	equal("contact_request", codec.AppendVec(append(bytes.Clone(v.OfferHash), v.Enc...), first), v.RequestBody)
	equal("request hash", sum(first), v.RequestHash)
	equal("h", s.h, v.H)
	second := s.second(x25519(v.InviterEphemeral), e.PublicKey(), static.PublicKey(), v.Accept)
	equal("contact_accept", codec.AppendVec(bytes.Clone(v.RequestHash), second), v.AcceptBody)
	equal("psk id", label("sotto/contact", sum(v.H)), v.PSKID)
	equal("group psk", must(hkdf.Key(sha512.New384, bytes.Join([][]byte{v.InviteeRandom, v.InviterRandom, v.SS}, nil), v.H, "sotto/contact-psk/1", 48)), v.GroupPSK)
	equal("binding", sum(label("sotto/bind", v.H)), v.Binding)

	// By what a caller has.
	l := must(ParseLink(v.Link))
	o := must(l.OpenOffer([32]byte(v.Slot), v.Sealed))
	if o.Hash() != [32]byte(v.OfferHash) || o.Name != "Ana" {
		t.Errorf("the offer is read as %+v", o)
	}
}
