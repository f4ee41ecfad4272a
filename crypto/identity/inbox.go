package identity

import (
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// maxRelay is the largest RelayAddress (spec/relay.md, section 1) in bytes, as an
// InboxRef bounds it.
const maxRelay = 600

// InboxRef says where a device's inbox is, lets its holder append to it, and says
// to which key what is appended there is sealed (spec/identity.md, section 5).
type InboxRef struct {
	Relay      []byte               // RelayAddress of spec/relay.md, opaque here; at most 600 bytes
	Mailbox    [32]byte             // id of the mailbox
	AppendKey  key.CapabilitySecret // its append capability
	SealingKey key.SealingPublic
}

// Append appends the encoding of ref to b. The encoding holds a secret: the
// append capability. It panics if the relay address is too long.
func (ref InboxRef) Append(b []byte) []byte {
	if len(ref.Relay) > maxRelay {
		panic(fmt.Sprintf("identity: a relay address of %d bytes", len(ref.Relay)))
	}
	b = codec.AppendVec(b, ref.Relay)
	b = append(b, ref.Mailbox[:]...)
	b = append(b, ref.AppendKey.Seed()...)
	return append(b, ref.SealingKey.Bytes()...)
}

// ParseInboxRef reads an InboxRef. It copies what it keeps.
func ParseInboxRef(b []byte) (InboxRef, error) {
	r := codec.NewReader(b)
	ref := ReadInboxRef(r)
	if err := r.Done(); err != nil {
		return InboxRef{}, fmt.Errorf("inbox reference: %w", err)
	}
	return ref, nil
}

// ReadInboxRef reads an InboxRef that stands within another structure.
func ReadInboxRef(r *codec.Reader) (ref InboxRef) {
	ref.Relay = append([]byte(nil), r.Vec(maxRelay)...)
	r.Copy(ref.Mailbox[:])
	seed := r.Bytes(key.Size)
	sealing := r.Bytes(key.SealingSize)
	if r.Err() != nil {
		return InboxRef{}
	}
	ref.AppendKey = key.CapabilityFromSeed(seed)
	var err error
	if ref.SealingKey, err = key.ParseSealing(sealing); err != nil {
		r.Fail("sealing key: %v", err)
		return InboxRef{}
	}
	return ref
}

// BelongsTo reports whether ref is the inbox that a device's certificate names.
func (ref InboxRef) BelongsTo(c DeviceCert) bool { return SealingHash(ref.SealingKey) == c.SealingHash }
