package mls

import (
	"errors"
	"fmt"

	"sotto/crypto/codec"
)

// Signed is an application message as its sender signed it: enough for somebody
// outside the group to see that the holder of a signature key said it there. It opens
// nothing else. Whoever gets it also learns the group's context of that epoch, which the
// signature covers (RFC 9420, Section 6.1).
type Signed struct {
	Context           []byte // the GroupContext, encoded: the same for all messages of an epoch
	Leaf              LeafIndex
	AuthenticatedData []byte
	Content           []byte
	Signature         []byte
}

// Signed returns what the sender of an application message signed, and nil of another
// message. The slices are those of r and of the group, which the caller does not change.
func (r *Received) Signed() *Signed {
	if r.Type != ContentApplication {
		return nil
	}
	return &Signed{Context: r.context, Leaf: r.Sender.Leaf, AuthenticatedData: r.AuthenticatedData, Content: r.Content, Signature: r.signature}
}

// Verify checks the signature against a signature key and returns the context it was
// made in. Whose key it is, and whether that leaf was theirs, the caller must know: a
// credential may say so. It returns an error that wraps ErrAuthentication for a
// signature that is not the key's.
func (s *Signed) Verify(signatureKey []byte) (GroupContext, error) {
	r := codec.NewReader(s.Context)
	c := decodeGroupContext(r)
	if err := r.Done(); err != nil {
		return c, fmt.Errorf("verify signed message: group context: %w", err)
	}
	suite, err := c.Suite.lookup()
	if err != nil {
		return c, fmt.Errorf("verify signed message: %w", err)
	}
	a := authenticatedContent{wire: wirePrivateMessage, signature: s.Signature, content: framedContent{
		groupID: c.GroupID, epoch: c.Epoch, sender: Sender{SenderMember, s.Leaf}, authData: s.AuthenticatedData, kind: ContentApplication,
		body: codec.AppendVec(nil, s.Content),
	}}
	if err := a.verify(suite, signatureKey, s.Context); err != nil {
		if errors.Is(err, ErrAuthentication) {
			err = fmt.Errorf("%w: the signature is not this key's over this message", ErrAuthentication)
		}
		return c, fmt.Errorf("verify signed message: %w", err)
	}
	return c, nil
}
