package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/crypto/identity"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/wire"
)

// Evidence is two things that a relay has signed about a conversation's mailbox and that
// cannot both be true (spec/relay.md, section 5).
type Evidence struct {
	Time   time.Time `json:"time"`
	What   string    `json:"what"`
	Relay  string    `json:"relay" doc:"its address, which holds the key that has signed"`
	First  []byte    `json:"first" doc:"a SignedHead"`
	Second []byte    `json:"second" doc:"a SignedHead, or a Status"`
	Status bool      `json:"status,omitempty" doc:"second is a Status: proof to who asked for it alone"`
	Nonce  []byte    `json:"nonce,omitempty" doc:"that the status was asked for with"`
	Holds  bool      `json:"holds" doc:"both signatures verify, and they contradict each other"`
}

// Evidence returns what a conversation's relay has contradicted itself by, the oldest
// first.
func (n *Node) Evidence(ctx context.Context, ref string) (out []Evidence, err error) {
	out = []Evidence{}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		kept, err := tx.Evidence(c.Group)
		for i := range kept {
			e := &kept[i]
			shown := Evidence{Time: e.When.UTC(), What: e.What, Relay: e.Relay, First: e.First, Second: e.Second, Status: e.Status, Holds: holds(e) == nil}
			if e.Status {
				shown.Nonce = e.Nonce[:]
			}
			out = append(out, shown)
		}
		return err
	})
	return out, apiError(err)
}

// holds verifies evidence with nothing but the relay's address.
func holds(e *store.Evidence) error {
	at, err := wire.ParseAddress(e.Relay)
	if err != nil {
		return err
	}
	var a, b wire.SignedHead
	if err := wire.Decode(e.First, &a); err != nil {
		return err
	}
	if err := a.Verify(at.Key); err != nil {
		return err
	}
	if e.Status {
		var s wire.Status
		if err := wire.Decode(e.Second, &s); err != nil {
			return err
		}
		if err := s.Verify(at.Key, e.Nonce); err != nil {
			return err
		}
		b.Head = s.Head
		if a.Head.Mailbox == b.Head.Mailbox && a.Head.Era == b.Head.Era && b.Head.Seq < a.Head.Seq && !s.Ended {
			return nil
		}
	} else {
		if err := wire.Decode(e.Second, &b); err != nil {
			return err
		}
		if err := b.Verify(at.Key); err != nil {
			return err
		}
	}
	if a.Head.Mailbox == b.Head.Mailbox && a.Head.Mark() == b.Head.Mark() && a.Head != b.Head {
		return nil
	}
	return errors.New("both can be true")
}

// suspect stops a conversation whose relay lies, and keeps what proves it; nil if nothing
// does.
func (o *owner) suspect(reason string, e *client.EvidenceError) error {
	return o.do(func(t *turn) error {
		if e != nil {
			kept := &store.Evidence{When: t.now, What: e.What, Relay: t.rec.Relay, First: e.A, Second: e.B, Status: e.Status, Nonce: e.Nonce}
			if err := t.tx.AddEvidence(t.o.group, kept); err != nil {
				return err
			}
			t.events = true
			if err := t.n.noteConversation(t.tx, t.o.group); err != nil {
				return err
			}
		}
		return t.step(conversation.Suspect{Reason: reason})
	})
}

// remind tells the client of the newest head that the relay had signed when this device
// last read, so that what the relay says now is held against it.
func (o *owner) remind(c *client.Client) error {
	var signed []byte
	err := o.n.view(func(tx *store.Tx) (err error) { signed, err = tx.Head(o.group); return err })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var h wire.SignedHead
	if err := wire.Decode(signed, &h); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c.Remember(&h)
}

// compare holds what the sender of a message had seen against what stands here: the relay
// may have shown it another history (spec/group.md, section 3).
func (t *turn) compare(authenticated []byte, from conversation.Leaf) error {
	ctx, err := conversation.ParseContext(authenticated)
	if err != nil || ctx.Seen.Seq == 0 {
		return nil
	}
	here, err := t.tx.Chain(t.o.group, ctx.Seen)
	if errors.Is(err, store.ErrNotFound) {
		return nil // too long ago, or of another era
	}
	if err != nil || bytes.Equal(here[:], ctx.Chain[:]) {
		return err
	}
	who := t.n.namer(t.tx).in(t.o.group, from.Account)
	if from.Account == identity.AccountID(t.n.account.ID()) {
		who = "another device of yours"
	}
	t.later = append(t.later, func() error {
		return t.step(conversation.Suspect{Reason: fmt.Sprintf("the relay has shown %s another history of this conversation than this device", who)})
	})
	return nil
}
