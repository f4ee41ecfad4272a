package handshake

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

// ErrOffer is wrapped when an offer is not what its link promised: the relay, or who
// sits before it, has put something else there, or the inviter does not keep to the
// protocol.
var ErrOffer = errors.New("the invite's offer does not hold")

const (
	offerVersion = 1
	modeOneTime  = 1
	maxOffer     = 60 << 10
	offerStep    = 4 << 10
	maxTicket    = 255
	maxName      = 256
)

// Offer is what an inviter puts into a relay's slot for who has the link.
type Offer struct {
	Expires   uint32
	Log       *identity.Log
	Device    identity.DeviceID
	Handshake key.NoisePublic   // made for this invite alone
	KEM       key.SealingPublic // likewise
	Inbox     identity.InboxRef // where the request goes
	Ticket    []byte            // lets the invitee create an inbox at the inviter's relay; may be empty
	Name      string            // profile name of the inviter

	encoded []byte
}

// Hash is what the handshake is bound to.
func (o *Offer) Hash() [32]byte { return sha256.Sum256(o.encoded) }

func (o *Offer) unsigned() []byte {
	b := codec.AppendU8(codec.AppendU16(nil, offerVersion), modeOneTime)
	b = codec.AppendU32(b, o.Expires)
	b = codec.AppendVec(b, o.Log.Append(nil))
	b = append(b, o.Device[:]...)
	b = append(o.Handshake.Append(b), o.KEM.Bytes()...)
	b = o.Inbox.Append(b)
	return codec.AppendVec(codec.AppendVec(b, o.Ticket), o.Name)
}

const offerLabel = "sotto/offer/1"

// parseOffer reads and verifies an offer, but for what its link says.
func parseOffer(raw []byte) (*Offer, error) {
	raw = bytes.Clone(raw)
	r := codec.NewReader(raw)
	if v := r.U16(); r.Err() == nil && v != offerVersion {
		r.Fail("an offer of version %d", v)
	}
	if m := r.U8(); r.Err() == nil && m != modeOneTime {
		r.Fail("an offer of mode %d", m)
	}
	o := &Offer{Expires: r.U32(), encoded: raw}
	log := r.Vec(maxOffer)
	r.Copy(o.Device[:])
	noise, kem := r.Bytes(key.Size), r.Bytes(key.SealingSize)
	o.Inbox = identity.ReadInboxRef(r)
	o.Ticket = r.Vec(maxTicket)
	o.Name = string(r.Vec(maxName))
	signed := len(raw) - r.Len()
	sig := r.Bytes(key.SignatureSize)
	if err := r.Done(); err != nil {
		return nil, err
	}
	var err error
	if o.Log, err = identity.ParseLog(log); err != nil {
		return nil, err
	}
	if o.Handshake, err = key.ParseNoise(noise); err != nil {
		return nil, err
	}
	if o.KEM, err = key.ParseSealing(kem); err != nil {
		return nil, err
	}
	if err := identity.CheckName(o.Name); err != nil {
		return nil, err
	}
	cert, state := o.Log.Device(o.Device)
	switch {
	case state != identity.DeviceActive:
		return nil, errors.New("made by a device that its account does not have")
	case !cert.DeviceKey.Verify(sig, offerLabel, raw[:signed]):
		return nil, errors.New("its signature is wrong")
	case !o.Inbox.BelongsTo(cert):
		return nil, errors.New("its inbox is another device's")
	}
	return o, nil
}

// seal seals the offer for who has the link's secret.
func (o *Offer) seal(s Secret, slot [32]byte) ([]byte, error) {
	if len(o.encoded) > maxOffer {
		return nil, fmt.Errorf("an offer of %d bytes, at most %d", len(o.encoded), maxOffer)
	}
	plain := append(binary.BigEndian.AppendUint32(nil, uint32(len(o.encoded))), o.encoded...)
	plain = append(plain, make([]byte, (offerStep-len(plain)%offerStep)%offerStep)...)
	aead, err := chacha20poly1305.NewX(s.offerKey())
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+chacha20poly1305.NonceSizeX)
	out[0] = offerVersion
	rand.Read(out[1:])
	return aead.Seal(out, out[1:], plain, offerAAD(slot)), nil
}

func offerAAD(slot [32]byte) []byte { return append([]byte("sotto/offer/1"), slot[:]...) }

// OpenOffer opens what the link's slot held and checks it against the link.
func (l Link) OpenOffer(slot [32]byte, sealed []byte) (*Offer, error) {
	bad := func(err error) (*Offer, error) { return nil, fmt.Errorf("%w: %w", ErrOffer, err) }
	const front = 1 + chacha20poly1305.NonceSizeX
	if len(sealed) < front || sealed[0] != offerVersion || len(sealed) > maxOffer+2*offerStep {
		return bad(errors.New("it is of another form"))
	}
	aead, err := chacha20poly1305.NewX(l.Secret.offerKey())
	if err != nil {
		return bad(err)
	}
	plain, err := aead.Open(nil, sealed[1:front], sealed[front:], offerAAD(slot))
	if err != nil {
		return bad(errors.New("it was not sealed with the link's secret"))
	}
	r := codec.NewReader(plain)
	raw := r.Bytes(int(min(r.U32(), maxOffer+1)))
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail("padding that is not zero")
		}
	}
	if err := r.Err(); err != nil {
		return bad(err)
	}
	o, err := parseOffer(raw)
	if err != nil {
		return bad(err)
	}
	if o.Expires != l.Expires {
		return bad(errors.New("it expires at another time than the link says"))
	}
	return o, nil
}
