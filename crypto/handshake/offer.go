package handshake

import (
	"bytes"
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
	maxGroupID   = 255
	offerStep    = 4 << 10
	maxOffer     = 15*offerStep - 4 // with its length and sealed it fits a slot of 64 KiB
	maxTicket    = 255
	nonceSize    = chacha20poly1305.NonceSizeX
	offerFront   = 1 + nonceSize // version, nonce
	maxSealed    = offerFront + 15*offerStep + chacha20poly1305.Overhead
)

// Offer is what an inviter, or a device that links another, puts into a relay's slot for
// who has the link.
type Offer struct {
	Mode      uint8 // the link's kind
	Expires   uint32
	Log       *identity.Log
	Device    identity.DeviceID
	Handshake key.NoisePublic   // made for this invite alone
	KEM       key.SealingPublic // likewise
	Inbox     identity.InboxRef // where the request goes
	Ticket    []byte            // lets the invitee create an inbox at the inviter's relay; may be empty
	Name      string            // profile name of the inviter
	Group     []byte            // the id of the group that the link leads to; nil in an invite
	GroupName string            // likewise

	hash [32]byte
}

// Hash is what the handshake is bound to.
func (o *Offer) Hash() [32]byte { return o.hash }

// sign returns the offer's bytes.
func (o *Offer) sign(device key.DeviceSecret) []byte {
	b := codec.AppendU8(codec.AppendU16(nil, offerVersion), o.Mode)
	b = codec.AppendU32(b, o.Expires)
	b = codec.AppendVec(b, o.Log.Append(nil))
	b = append(b, o.Device[:]...)
	b = append(o.Handshake.Append(b), o.KEM.Bytes()...)
	b = o.Inbox.Append(b)
	b = codec.AppendVec(codec.AppendVec(b, o.Ticket), o.Name)
	if o.Group != nil {
		b = codec.AppendVec(codec.AppendVec(b, o.Group), o.GroupName)
	}
	return append(b, device.Sign(offerLabel, b)...)
}

const offerLabel = "sotto/offer/1"

// parseOffer reads and verifies an offer, but for what its link says.
func parseOffer(raw []byte) (*Offer, error) {
	raw = bytes.Clone(raw)
	r := codec.NewReader(raw)
	if v := r.U16(); r.Err() == nil && v != offerVersion {
		r.Fail("version %d", v)
	}
	mode := r.U8()
	if r.Err() == nil && mode != Invite && mode != Group && mode != Device {
		r.Fail("mode %d", mode)
	}
	o := &Offer{Mode: mode, Expires: r.U32(), hash: sha256.Sum256(raw)}
	log := r.Vec(maxOffer)
	r.Copy(o.Device[:])
	noise, kem := r.Bytes(key.Size), r.Bytes(key.SealingSize)
	o.Inbox = identity.ReadInboxRef(r)
	o.Ticket = r.Vec(maxTicket)
	o.Name = string(r.Vec(maxName))
	if mode == Group {
		if o.Group = r.Vec(maxGroupID); len(o.Group) == 0 {
			r.Fail("a link to no group")
		}
		o.GroupName = string(r.Vec(maxName))
	}
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
	if o.Group != nil {
		if err := identity.CheckName(o.GroupName); err != nil {
			return nil, err
		}
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

// sealOffer seals an offer for who has the link's secret.
func sealOffer(raw []byte, s Secret, slot [32]byte, nonce [nonceSize]byte) ([]byte, error) {
	if len(raw) > maxOffer {
		return nil, fmt.Errorf("an offer of %d bytes, at most %d", len(raw), maxOffer)
	}
	plain := append(binary.BigEndian.AppendUint32(nil, uint32(len(raw))), raw...)
	return sealPadded(append(plain, make([]byte, -len(plain)&(offerStep-1))...), s, slot, nonce)
}

func sealPadded(plain []byte, s Secret, slot [32]byte, nonce [nonceSize]byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(s.offerKey())
	if err != nil {
		return nil, err
	}
	return aead.Seal(append([]byte{offerVersion}, nonce[:]...), nonce[:], plain, offerAAD(slot)), nil
}

func offerAAD(slot [32]byte) []byte { return append([]byte("sotto/offer/1"), slot[:]...) }

// OpenOffer opens what the link's slot held and checks it against the link. Its error
// wraps [ErrOffer].
func (l Link) OpenOffer(slot [32]byte, sealed []byte) (*Offer, error) {
	o, err := l.openOffer(slot, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOffer, err)
	}
	return o, nil
}

func (l Link) openOffer(slot [32]byte, sealed []byte) (*Offer, error) {
	switch {
	case len(sealed) > 0 && sealed[0] != offerVersion:
		return nil, fmt.Errorf("it is sealed in version %d, which this program does not know", sealed[0])
	case len(sealed) < offerFront || len(sealed) > maxSealed:
		return nil, fmt.Errorf("no offer has %d bytes", len(sealed))
	}
	aead, err := chacha20poly1305.NewX(l.Secret.offerKey())
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, sealed[1:offerFront], sealed[offerFront:], offerAAD(slot))
	if err != nil {
		return nil, errors.New("it was not sealed with the link's secret for this slot")
	}
	raw, err := unpadOffer(plain)
	if err != nil {
		return nil, err
	}
	o, err := parseOffer(raw)
	if err != nil {
		return nil, err
	}
	if o.Mode != l.Kind {
		return nil, errors.New("it is for another kind of link")
	}
	if o.Expires != l.Expires {
		return nil, errors.New("it expires at another time than the link says")
	}
	return o, nil
}

func unpadOffer(plain []byte) ([]byte, error) {
	r := codec.NewReader(plain)
	n := r.U32()
	if n > maxOffer {
		r.Fail("an offer of %d bytes, at most %d", n, maxOffer)
	}
	raw := r.Bytes(int(n))
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail("padding that is not zero")
		}
	}
	if len(plain)%offerStep != 0 {
		r.Fail("%d bytes, padded to no step", len(plain))
	}
	return raw, r.Err()
}
