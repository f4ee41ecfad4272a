package node

import (
	"context"
	"errors"
	"fmt"

	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/report"
	"sotto/node/store"
)

// MaxReported is how many messages a report holds at most.
const MaxReported = report.MaxItems

// Report is a report that was made.
type Report struct {
	Messages int    `json:"messages"`
	Data     []byte `json:"data" doc:"the report, base64 of what goes into a file (spec/report.md)"`
}

// prove keeps with a message that was received what shows who said it.
func (t *turn) prove(m *store.Message, r *mls.Received) error {
	said := r.Signed()
	credential := r.SenderNode.Credential.Identity
	m.Content = said.Content
	m.Proof = &store.Proof{Epoch: r.Epoch, Leaf: uint32(said.Leaf), Credential: store.CredentialName(credential), AuthData: said.AuthenticatedData, Signature: said.Signature}
	return t.tx.PutSpoken(t.o.group, r.Epoch, said.Context, credential)
}

// Report makes a report of messages of a conversation, which others wrote: a stranger
// who reads it sees who said what, and in which conversation, without believing this
// account, which it does not name. Nothing is sent. It returns ErrInvalid for a message
// of which this device has no proof: one's own, and one that came by another way than
// from its sender.
func (n *Node) Report(ctx context.Context, ref string, ids []string, reason string) (out Report, err error) {
	if len(ids) == 0 {
		return out, fmt.Errorf("%w: a report needs at least one message", ErrInvalid)
	}
	r := report.Report{Reason: reason}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		for _, s := range ids {
			id, err := content.ParseID(s)
			if err != nil {
				return fmt.Errorf("%w: %q is no message id", ErrInvalid, s)
			}
			m, err := tx.Message(c.Group, id)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("%w: this conversation has no message %s", ErrNotFound, s)
			}
			if err != nil {
				return err
			}
			if m.Proof == nil {
				return fmt.Errorf("%w: of message %s this device has no proof who wrote it", ErrInvalid, s)
			}
			context, credential, err := tx.Spoken(c.Group, m.Proof)
			if err != nil {
				return err
			}
			r.Items = append(r.Items, report.Item{Credential: credential, Signed: mls.Signed{Context: context, Leaf: mls.LeafIndex(m.Proof.Leaf),
				AuthenticatedData: m.Proof.AuthData, Content: m.Content, Signature: m.Proof.Signature}})
		}
		return nil
	})
	if err != nil {
		return out, apiError(err)
	}
	if out.Data, err = r.Encode(); err != nil {
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := r.Verify(); err != nil { // what would not be believed is not handed out
		return out, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	out.Messages = len(r.Items)
	return out, nil
}
