package handshake

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"sotto/crypto/key"
)

// deviceLink is a device link of ana's, and the request of her new laptop.
type deviceLink struct {
	invitation
	laptop *person
	body   *RequestBody
	theirs *NewDevice
}

func (p *person) deviceRequest() DeviceRequest {
	return DeviceRequest{Cert: p.cert(), Inbox: p.inbox(), Name: "laptop"}
}

func newDeviceLink() *deviceLink {
	l, sealed, in, err := NewDeviceLink(ana.options())
	if err != nil {
		panic(err)
	}
	d := &deviceLink{invitation: invitation{must(ParseDeviceLink(l.Text())), sealed, in}, laptop: newPerson(0x31, "laptop")}
	raw, n, err := BeginDevice(d.link, d.offer(), d.laptop.static, d.laptop.deviceRequest())
	if err != nil {
		panic(err)
	}
	d.body, d.theirs = must(ParseRequestBody(raw)), n
	return d
}

func kept(d *LinkingDevice) *LinkingDevice { return must(ParseLinkingDevice(d.Append(nil))) }
func keptNew(d *NewDevice) *NewDevice      { return must(ParseNewDevice(d.Append(nil))) }

// A device is linked, each side being killed and read back before every step (T41).
func TestLinkDevice(t *testing.T) {
	d := newDeviceLink()
	ours, err := d.state.ReadDevice(d.body)
	if err != nil {
		t.Fatal(err)
	}
	if ours.Request.Name != "laptop" || ours.Request.Cert != d.laptop.cert() || ours.Hash != d.theirs.RequestHash() {
		t.Errorf("read %+v", ours.Request)
	}
	answer := ours.Answer()
	if ours = kept(ours); !bytes.Equal(ours.Answer(), answer) {
		t.Error("read back, it answers otherwise")
	}
	theirs := keptNew(d.theirs)
	sas, reveal, err := theirs.Answer(must(ParseAcceptBody(answer)))
	if err != nil {
		t.Fatal(err)
	}
	if theirs = keptNew(theirs); !theirs.Answered() || theirs.SAS() != sas || len(sas) != Digits {
		t.Errorf("read back, it shows %q, before %q", theirs.SAS(), sas)
	}
	got, err := kept(ours).Reveal(must(ParseLinkBody(reveal)))
	if err != nil || got != sas {
		t.Errorf("the existing device shows %q, %v; the new one %q", got, err, sas)
	}
	grant, err := kept(ours).Grant([]byte("welcome"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keptNew(theirs).Grant(must(ParseLinkBody(grant))); err != nil || string(got) != "welcome" {
		t.Errorf("granted %q, %v", got, err)
	}
	ready, err := keptNew(theirs).Ready([]byte("ready"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := kept(ours).Ready(must(ParseLinkBody(ready))); err != nil || string(got) != "ready" {
		t.Errorf("ready %q, %v", got, err)
	}
	// A message in another's place does not open, nor does one of another link.
	for name, err := range map[string]error{
		"a reveal as ready":  func() error { _, err := kept(ours).Ready(must(ParseLinkBody(reveal))); return err }(),
		"a grant as reveal":  func() error { _, err := kept(ours).Reveal(must(ParseLinkBody(grant))); return err }(),
		"of another request": func() error { _, err := newDeviceLink().answered(t).Reveal(must(ParseLinkBody(reveal))); return err }(),
	} {
		if !errors.Is(err, ErrHandshake) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (d *deviceLink) answered(t *testing.T) *LinkingDevice {
	t.Helper()
	ours, err := d.state.ReadDevice(d.body)
	if err != nil {
		t.Fatal(err)
	}
	return ours
}

// Every byte of every letter that a relay changes on the way makes it one that does not
// hold, and the true one still counts.
func TestLinkSubstitutedBytes(t *testing.T) {
	d := newDeviceLink()
	raw := d.body.encode()
	for i := 0; i < len(raw); i += 13 {
		b := bytes.Clone(raw)
		b[i] ^= 1
		body, err := ParseRequestBody(b)
		if err != nil {
			continue
		}
		if _, err := d.state.ReadDevice(body); !errors.Is(err, ErrHandshake) {
			t.Fatalf("request with byte %d changed: %v", i, err)
		}
	}
	ours := d.answered(t)
	raw = ours.Answer()
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1
		body, err := ParseAcceptBody(b)
		if err != nil {
			continue
		}
		if _, _, err := d.theirs.Answer(body); !errors.Is(err, ErrHandshake) || d.theirs.Answered() {
			t.Fatalf("answer with byte %d changed: %v", i, err)
		}
	}
	sas, reveal, err := d.theirs.Answer(must(ParseAcceptBody(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range reveal {
		b := bytes.Clone(reveal)
		b[i] ^= 1
		body, err := ParseLinkBody(b)
		if err != nil {
			continue
		}
		if _, err := ours.Reveal(body); !errors.Is(err, ErrHandshake) {
			t.Fatalf("reveal with byte %d changed: %v", i, err)
		}
	}
	if got, err := ours.Reveal(must(ParseLinkBody(reveal))); err != nil || got != sas {
		t.Errorf("%q, %v; want %q", got, err, sas)
	}
}

// T27: somebody who has stolen the link links a device of his to ana and takes ana's place
// toward her laptop. He knows the laptop's digits only when he has shown his own number, and
// may not change it: whatever else he reveals is refused.
func TestLinkDigitsCannotBeGround(t *testing.T) {
	d := newDeviceLink()
	ours := d.answered(t)
	if _, _, err := d.theirs.Answer(must(ParseAcceptBody(ours.Answer()))); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		d.theirs.random[0]++ // another number than was committed to
		reveal := must(sealBody(d.theirs.run, d.theirs.RequestHash(), numberReveal, append([]byte{0, messageVersion}, d.theirs.random[:]...)))
		if _, err := ours.Reveal(must(ParseLinkBody(reveal))); !errors.Is(err, ErrMismatch) {
			t.Fatalf("a number that was not committed to: %v", err)
		}
	}
	// Two handshakes that somebody stands between have other digits but for one time in a
	// million: of 2^14 tries about none is the same.
	h, random := sha256.Sum256([]byte("one")), [32]byte{1}
	want, same := digits(h[:], random, random), 0
	for i := range 1 << 14 {
		binary.BigEndian.PutUint32(random[4:], uint32(i))
		other := sha256.Sum256(random[:])
		if digits(other[:], random, random) == want {
			same++
		}
	}
	if same > 3 {
		t.Errorf("%d of %d tries have the same digits", same, 1<<14)
	}
}

func TestDeviceRequestThatIsNotOne(t *testing.T) {
	d := newDeviceLink()
	for name, change := range map[string]func(m *DeviceRequest){
		"another's handshake key": func(m *DeviceRequest) { m.Cert.HandshakeKey = mallory.static.Public() },
		"another's inbox":         func(m *DeviceRequest) { m.Inbox = mallory.inbox() },
		"without a name":          func(m *DeviceRequest) { m.Name = "" },
	} {
		m := d.laptop.deviceRequest()
		change(&m)
		if _, _, err := BeginDevice(d.link, d.offer(), d.laptop.static, m); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// A link that makes a contact takes no device, and the other way round.
	i := ana.invite()
	if _, err := i.state.ReadDevice(d.body); !errors.Is(err, ErrHandshake) {
		t.Errorf("an invite takes a device: %v", err)
	}
	body, _ := i.begin(ben)
	if _, err := d.state.Read(body); !errors.Is(err, ErrHandshake) {
		t.Errorf("a device link makes a contact: %v", err)
	}
	if _, err := i.link.OpenOffer(i.slot(), d.sealed); !errors.Is(err, ErrOffer) {
		t.Errorf("another link's offer: %v", err)
	}
	for _, v := range []any{d.answered(t), d.theirs} {
		if s := fmt.Sprintf("%v %+v %#v %d", v, v, v, v); s != "a device link a device link a device link a device link" {
			t.Errorf("it prints as %s", s)
		}
	}
}

// linked is a whole link of a device, with everything that was drawn.
type linked struct {
	LinkSecret     hexBytes `json:"link_secret"`
	OfferHandshake hexBytes `json:"offer_handshake_seed"`
	OfferKEM       hexBytes `json:"offer_kem_seed"`
	OfferNonce     hexBytes `json:"offer_nonce"`
	Link           string   `json:"link"`
	OfferHash      hexBytes `json:"offer_hash"`
	NewEphemeral   hexBytes `json:"new_device_ephemeral_seed"`
	NewRandom      hexBytes `json:"new_device_r"`
	Commitment     hexBytes `json:"commitment"`
	Enc            hexBytes `json:"enc"`
	SS             hexBytes `json:"ss"`
	Request        hexBytes `json:"link_request_payload"`
	RequestBody    hexBytes `json:"link_request"`
	H              hexBytes `json:"h"`
	Ephemeral      hexBytes `json:"existing_device_ephemeral_seed"`
	Random         hexBytes `json:"existing_device_r"`
	Answer         hexBytes `json:"link_answer"`
	Reveal         hexBytes `json:"link_message_3"`
	SAS            string   `json:"digits"`
	GrantPayload   hexBytes `json:"link_message_4_payload"`
	Grant          hexBytes `json:"link_message_4"`
}

func (c *linked) make(t testing.TB) (*LinkingDevice, *NewDevice) {
	in := &Inviter{mode: Device, static: key.NoiseFromSeed(c.OfferHandshake), kem: key.SealingFromSeed(c.OfferKEM), salt: newSecret([32]byte(c.LinkSecret))}
	l, sealed, err := in.invite(ana.options(), [nonceSize]byte(c.OfferNonce))
	if err != nil {
		t.Fatal(err)
	}
	o := must(l.OpenOffer(slotID(l.Secret.SlotRead().Public()), sealed))
	c.Link, c.OfferHash = l.Text(), in.OfferHash[:]
	if c.Enc == nil {
		enc, ctx, err := hpke.NewSender(o.KEM.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(o.Hash()))
		if err != nil {
			t.Fatal(err)
		}
		c.Enc, c.SS = enc, must(ctx.Export(kemExport, 32))
	}
	laptop := newPerson(0x31, "laptop")
	m := laptop.deviceRequest()
	random := [32]byte(c.NewRandom)
	commitment := commit(random)
	n := &NewDevice{random: random, invitee: Invitee{session: session{Device, in.OfferHash, c.Enc, hide(c.SS), l.Secret}, peer: o.Handshake, static: laptop.static,
		seed: hide(c.NewEphemeral), payload: hide(m.encode(commitment))}}
	body := &RequestBody{in.OfferHash, c.Enc, must(n.begin())}
	c.Commitment, c.Request, c.RequestBody, c.H = commitment[:], n.invitee.payload(), body.encode(), n.h
	e := &LinkingDevice{in: in, body: body, seed: hide(c.Ephemeral), random: [32]byte(c.Random)}
	if err := e.begin(); err != nil {
		t.Fatal(err)
	}
	c.Answer = e.Answer()
	sas, reveal, err := n.Answer(must(ParseAcceptBody(c.Answer)))
	if err != nil {
		t.Fatal(err)
	}
	c.SAS, c.Reveal, c.Grant = sas, reveal, must(e.Grant(c.GrantPayload))
	return e, n
}

// spec/link.md: what is made from the same seeds is the same, and the digits are what the
// page says.
func TestDeviceVectors(t *testing.T) {
	c := linked{LinkSecret: fill(0x41), OfferHandshake: fill(0x42), OfferKEM: fill(0x43), OfferNonce: fill(0x44)[:nonceSize], NewEphemeral: fill(0x45),
		NewRandom: fill(0x46), Ephemeral: fill(0x47), Random: fill(0x48), GrantPayload: []byte("granted")}
	v := c
	if _, err := os.Stat("../../spec/vectors/invite/device.json"); err != nil && *makeVectors {
		v.make(t)
	}
	loadVectors(t, "device.json", &v)
	c.Enc, c.SS = v.Enc, v.SS
	c.make(t)
	if got, want := must(json.MarshalIndent(c, "", " ")), must(json.MarshalIndent(v, "", " ")); !bytes.Equal(got, want) {
		t.Errorf("made now: %s\nwant: %s", got, want)
	}
	sum := sha256.Sum256(bytes.Join([][]byte{[]byte("sotto/link sas/1"), v.H, v.NewRandom, v.Random}, nil))
	if want := fmt.Sprintf("%06d", binary.BigEndian.Uint64(sum[:8])%1000000); want != v.SAS {
		t.Errorf("digits %s, by the page %s", v.SAS, want)
	}
	if sum := sha256.Sum256(append([]byte("sotto/link commit/1"), v.NewRandom...)); !bytes.Equal(sum[:], v.Commitment) {
		t.Errorf("commitment %x, by the page %x", v.Commitment, sum)
	}
}

// Whoever has the link, or knows an inbox, writes what he likes to either device.
func FuzzLink(f *testing.F) {
	var c linked
	loadVectors(f, "device.json", &c)
	ours, theirs := c.make(f)
	seeds := [][]byte{c.RequestBody, c.Answer, c.Reveal, c.Grant, c.Request}
	for _, b := range seeds {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		unchanged(t, b, func() {
			if body, err := ParseLinkBody(b); err == nil {
				if !bytes.Equal(body.encode(), b) {
					t.Error("a link message is written otherwise than it was read")
				}
				if sas, err := ours.Reveal(body); err == nil && sas != c.SAS {
					t.Errorf("digits %s", sas)
				}
				if got, err := theirs.Grant(body); err == nil && !bytes.Equal(got, c.GrantPayload) {
					t.Errorf("granted %x", got)
				}
			}
			if body, err := ParseRequestBody(b); err == nil {
				if d, err := ours.in.ReadDevice(body); err == nil && d.Request.Cert.HandshakeKey != ours.Request.Cert.HandshakeKey {
					t.Error("a device that does not have the link is read")
				}
			}
			if m, commitment, err := parseDeviceRequest(b, ours.Request.Cert.HandshakeKey); err == nil && !bytes.Equal(m.encode(commitment), b) {
				t.Error("a device request is written otherwise than it was read")
			}
			ParseLinkingDevice(b)
			ParseNewDevice(b)
		})
	})
}
