package handshake

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

func TestOffer(t *testing.T) {
	i := ana.invite()
	o, err := i.link.OpenOffer(i.slot(), i.sealed)
	if err != nil {
		t.Fatal(err)
	}
	if o.Log.ID() != ana.log.ID() || o.Device != ana.Device || o.Name != "Ana" || o.Expires != expires || string(o.Ticket) != "ticket" || !o.Inbox.BelongsTo(ana.cert()) {
		t.Errorf("the offer is read as %+v", o)
	}
	if o.Handshake == ana.static.Public() || o.Handshake == ana.invite().offer().Handshake || bytes.Equal(o.KEM.Bytes(), ana.invite().offer().KEM.Bytes()) {
		t.Error("the keys of an invite are not its own")
	}
	if o.Hash() != i.state.OfferHash {
		t.Error("the two sides name the offer differently")
	}
}

// The relay, who has no secret of the link's, changes what is in the slot.
func TestOfferOfTheRelay(t *testing.T) {
	i, other := ana.invite(), mallory.invite()
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(i.sealed)) }
	elsewhere := i.slot()
	elsewhere[0] ^= 1
	for _, tt := range []struct {
		name   string
		slot   [32]byte
		sealed []byte
		want   string
	}{
		{"nothing", i.slot(), nil, "0 bytes"},
		{"a byte", i.slot(), []byte{1}, "1 bytes"},
		{"the front alone", i.slot(), i.sealed[:offerFront], "not sealed with the link's secret"},
		{"too long", i.slot(), append(bytes.Clone(i.sealed[:offerFront]), make([]byte, maxSealed)...), "no offer has"},
		{"sealed in version 0", i.slot(), change(func(b []byte) []byte { b[0] = 0; return b }), "version 0"},
		{"sealed in version 2", i.slot(), change(func(b []byte) []byte { b[0] = 2; return b }), "version 2"},
		{"the nonce changed", i.slot(), change(func(b []byte) []byte { b[1] ^= 1; return b }), "not sealed with the link's secret"},
		{"the first byte changed", i.slot(), change(func(b []byte) []byte { b[offerFront] ^= 1; return b }), "not sealed with the link's secret"},
		{"the last byte changed", i.slot(), change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "not sealed with the link's secret"},
		{"cut off", i.slot(), i.sealed[:len(i.sealed)-1], "not sealed with the link's secret"},
		{"of another invite", i.slot(), ana.invite().sealed, "not sealed with the link's secret"},
		{"of another account", i.slot(), other.sealed, "not sealed with the link's secret"},
		{"in another slot", elsewhere, i.sealed, "for this slot"},
	} {
		if o, err := i.link.OpenOffer(tt.slot, tt.sealed); !errors.Is(err, ErrOffer) || !strings.Contains(err.Error(), tt.want) || o != nil {
			t.Errorf("%s: %v, want ErrOffer with %q", tt.name, err, tt.want)
		}
	}
}

// rawOffer returns an offer's bytes after change, signed by the device by.
func rawOffer(by *person, change func(o *Offer)) []byte {
	o := &Offer{Mode: Invite, Expires: expires, Log: ana.log, Device: ana.Device, Handshake: key.NoiseFromSeed(fill(0x71)).Public(), KEM: key.SealingFromSeed(fill(0x72)).Public(),
		Inbox: ana.inbox(), Ticket: []byte("ticket"), Name: "Ana"}
	change(o)
	return o.sign(by.Key)
}

// Who has the link's secret, or made it, seals what does not hold.
func TestOfferThatDoesNotHold(t *testing.T) {
	l := sampleLink()
	slot := slotID(l.Secret.SlotRead().Public())
	raw := func(change func(o *Offer)) []byte { return rawOffer(ana, change) }
	good := raw(func(*Offer) {})
	signed := func(change func(b []byte)) []byte { // after the change, by the right device
		b := bytes.Clone(good[:len(good)-key.SignatureSize])
		change(b)
		return append(b, ana.Key.Sign(offerLabel, b)...)
	}
	without := must(must(ana.log.AddDevice(ana.seed.AccountKey(0), ana.Actor, ben.cert())).SuspendDevice(ben.Actor, ana.Device))
	kemAt := len(good) - key.SignatureSize - len(codec.AppendVec(nil, "Ana")) - len(codec.AppendVec(nil, "ticket")) - len(ana.inbox().Append(nil)) - key.SealingSize
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"", good, ""},
		{"version 0", signed(func(b []byte) { b[1] = 0 }), "version 0"},
		{"version 2", signed(func(b []byte) { b[1] = 2 }), "version 2"},
		{"mode 0", signed(func(b []byte) { b[2] = 0 }), "mode 0"},
		{"mode 3", signed(func(b []byte) { b[2] = Device }), "another kind of link"},
		{"mode 4", signed(func(b []byte) { b[2] = 4 }), "mode 4"},
		{"expires later than the link", raw(func(o *Offer) { o.Expires++ }), "expires at another time"},
		{"signed by another", rawOffer(mallory, func(*Offer) {}), "signature is wrong"},
		{"another's device", raw(func(o *Offer) { o.Device = mallory.Device }), "does not have"},
		{"a suspended device", raw(func(o *Offer) { o.Log = without }), "does not have"},
		{"another's inbox", raw(func(o *Offer) { o.Inbox = mallory.inbox() }), "another device's"},
		{"a name with a line break", raw(func(o *Offer) { o.Name = "Ana\nBen" }), "not a name"},
		{"without a name", raw(func(o *Offer) { o.Name = "" }), "not a name"},
		{"a ticket of 256 bytes", raw(func(o *Offer) { o.Ticket = make([]byte, 256) }), "at most 255"},
		{"an X-Wing key that is none", signed(func(b []byte) { b[kemAt], b[kemAt+1] = 0xff, 0xff }), "not a key"},
		{"a log changed", signed(func(b []byte) { b[200] ^= 1 }), "account log"},
		{"cut off", good[:len(good)-1], "malformed"},
		{"a byte more", append(bytes.Clone(good), 0), "malformed"},
		{"nothing", nil, "malformed"},
	} {
		o, err := l.OpenOffer(slot, must(sealOffer(tt.raw, l.Secret, slot, [nonceSize]byte{1})))
		if tt.name == "" {
			if err != nil || o == nil {
				t.Errorf("an offer that holds: %v", err)
			}
			continue
		}
		if !errors.Is(err, ErrOffer) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want ErrOffer with %q", tt.name, err, tt.want)
		}
	}
	for i := 0; i < len(good); i += 11 { // every byte is signed
		b := bytes.Clone(good)
		b[i] ^= 1
		if _, err := parseOffer(b); err == nil {
			t.Errorf("with byte %d changed the offer holds", i)
		}
	}

	padded := func(plain []byte) []byte { return must(sealPadded(plain, l.Secret, slot, [nonceSize]byte{1})) }
	front := func(n uint32, size int) []byte { return append(codec.AppendU32(nil, n), make([]byte, size-4)...) }
	behind := append(append(codec.AppendU32(nil, uint32(len(good))), good...), make([]byte, 2*offerStep-4-len(good))...)
	behind[len(behind)-1] = 1
	for name, sealed := range map[string][]byte{
		"no length":                   padded(nil),
		"a length beyond the end":     padded(front(offerStep, offerStep)),
		"a length beyond any offer":   padded(front(1<<32-1, offerStep)),
		"padded to no step":           padded(append(append(codec.AppendU32(nil, uint32(len(good))), good...), 0)),
		"padding that is not of zero": padded(behind),
	} {
		if _, err := l.OpenOffer(slot, sealed); !errors.Is(err, ErrOffer) || !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%s: %v, want ErrOffer, malformed", name, err)
		}
	}
}

// longLog is a log of ana's of nearly that many bytes: a device is suspended and comes
// back, again and again.
func longLog(size int) *identity.Log {
	account, other := ana.seed.AccountKey(0), newPerson(0x91, "laptop")
	l := must(ana.log.AddDevice(account, ana.Actor, other.cert()))
	for len(l.Append(nil)) < size-2000 {
		l = must(l.SuspendDevice(ana.Actor, other.Device))
		l = must(l.AddDevice(account, ana.Actor, other.cert()))
	}
	return l
}

// A relay's slot takes 64 KiB; an offer must fit.
func TestOfferFitsASlot(t *testing.T) {
	o := ana.options()
	o.Log = longLog(20 << 10)
	l, sealed, in, err := NewInvite(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed)%offerStep != (offerFront+16)%offerStep {
		t.Errorf("an offer of %d bytes is not padded", len(sealed))
	}
	if got, err := l.OpenOffer(slotID(l.Secret.SlotRead().Public()), sealed); err != nil || got.Hash() != in.OfferHash {
		t.Errorf("a long offer is read with %v", err)
	}
	sealed, err = sealOffer(make([]byte, maxOffer), l.Secret, [32]byte{}, [nonceSize]byte{})
	if err != nil || len(sealed) != maxSealed || maxSealed > 64<<10 {
		t.Errorf("the largest offer has %d bytes, %v, want %d", len(sealed), err, maxSealed)
	}
	if _, err := sealOffer(make([]byte, maxOffer+1), l.Secret, [32]byte{}, [nonceSize]byte{}); err == nil {
		t.Error("an offer of a byte more is sealed")
	}
}

// What an invitee would refuse is not made.
func TestNewInviteRefuses(t *testing.T) {
	for name, change := range map[string]func(o *InviteOptions){
		"a name with a control":  func(o *InviteOptions) { o.Name = "A\x00" },
		"no name":                func(o *InviteOptions) { o.Name = "" },
		"another's key":          func(o *InviteOptions) { o.Actor.Key = mallory.Key },
		"another's device":       func(o *InviteOptions) { o.Actor = mallory.Actor },
		"another's inbox":        func(o *InviteOptions) { o.Inbox = mallory.inbox() },
		"a ticket of 256 bytes":  func(o *InviteOptions) { o.Ticket = make([]byte, 256) },
		"a log beyond any offer": func(o *InviteOptions) { o.Log = longLog(maxOffer) },
	} {
		o := ana.options()
		change(&o)
		if _, sealed, in, err := NewInvite(o); err == nil || sealed != nil || in != nil {
			t.Errorf("%s: an invite is made", name)
		}
	}
}

// What an offer says it is for must be what its link is for.
func TestGroupOffer(t *testing.T) {
	o := newPerson(1, "Ana").options()
	o.Group, o.GroupName = []byte("group"), "Hikers"
	o.SlotID = func(key.CapabilityPublic) [32]byte { return [32]byte{7} }
	l, sealed, _, err := NewInvite(o)
	if err != nil || l.Kind != Group {
		t.Fatal(l.Kind, err)
	}
	offer, err := l.OpenOffer([32]byte{7}, sealed)
	if err != nil || string(offer.Group) != "group" || offer.GroupName != "Hikers" {
		t.Errorf("OpenOffer = %+v, %v", offer, err)
	}
	l.Kind = Invite
	if _, err := l.OpenOffer([32]byte{7}, sealed); !errors.Is(err, ErrOffer) {
		t.Errorf("a group's offer for an invite: %v", err)
	}
}
