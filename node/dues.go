package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/node/content"
	"sotto/node/store"
)

// lookAtDues makes keepDues look at what is due first.
func (n *Node) lookAtDues() { n.dues.ring() }

// duesAtOnce are looked at together; lookAgain is how long at most until they are looked
// at again, as the clock may be set.
const (
	duesAtOnce = 64
	lookAgain  = time.Minute
)

// keepDues does what stands in the vault to be done at a time: at its time, or at once if
// the node was not there then.
func (n *Node) keepDues(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		wake := n.dues.next() // before looking, so that nothing slips between
		wait, did, err := n.doDues()
		if err != nil {
			if ctx.Err() == nil {
				n.log.Debug("what is due is done later", "err", err)
			}
			if !pause(ctx, failures, nil) {
				return
			}
			failures++
			continue
		}
		failures = 0
		if did {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// doDues does what is due, and reports whether there was anything; else after how long to
// look again.
func (n *Node) doDues() (wait time.Duration, did bool, err error) {
	var dues []store.Due
	if err := n.view(func(tx *store.Tx) (err error) { dues, err = tx.Dues(duesAtOnce); return err }); err != nil {
		return 0, false, err
	}
	wait = lookAgain
	for i := range dues {
		d := &dues[i]
		if in := d.At.Sub(n.clock()); in > 0 {
			wait = min(wait, in)
			break
		}
		// One that cannot be done now does not keep from others.
		if failed := n.doDue(d); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		did = true
	}
	return wait, did, err
}

// doDue does what is due, and forgets it in the same transaction.
func (n *Node) doDue(d *store.Due) error {
	forget := func() error { return n.update(func(tx *store.Tx) error { return tx.DeleteDue(d) }) }
	do := func(t *turn) error {
		if err := t.tx.DeleteDue(d); err != nil {
			return err
		}
		switch d.What {
		case store.DueReceipts:
			return t.acknowledge()
		case store.DueExpiry:
			return t.expire(d.Message)
		case store.DueLater:
			return t.sendDue(d.Number)
		case store.DueUnmute:
			t.events = true
			return t.n.noteConversation(t.tx, t.o.group)
		}
		return nil
	}
	o := n.ownerOf(d.Group)
	if o == nil {
		err := n.view(func(tx *store.Tx) error { _, err := tx.Conversation(d.Group); return err })
		if errors.Is(err, store.ErrNotFound) {
			return forget()
		}
		return fmt.Errorf("%w: the conversation is not taken up yet", ErrBusy)
	}
	err := o.do(do)
	if errors.Is(err, errGone) {
		return forget()
	}
	return err
}

// expire makes a message disappear, unless it is gone already.
func (t *turn) expire(id [32]byte) error {
	m, err := t.tx.Message(t.o.group, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.remove(&m)
}

// remove takes a message away here, with everything said about it.
func (t *turn) remove(m *store.Message) error {
	if err := t.uncount(m); err != nil {
		return err
	}
	if t.rec.Messages > 0 {
		t.rec.Messages--
	}
	t.events = true
	return errors.Join(t.tx.RemoveMessage(t.o.group, m), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

// sendDue sends a text that was to be sent now.
func (t *turn) sendDue(number uint64) error {
	l, err := t.tx.Later(t.o.group, number)
	if errors.Is(err, store.ErrNotFound) {
		return nil // it was taken back
	}
	if err != nil {
		return err
	}
	t.events = true
	if err := t.tx.DeleteLater(t.o.group, number); err != nil {
		return err
	}
	if err := t.mayWrite(); err != nil {
		return errors.Join(t.n.noteConversation(t.tx, t.o.group),
			t.n.notice(t.tx, fmt.Sprintf("A text that was to be sent to %s at %s was not sent: %v.", t.title(), l.At.Format(time.RFC3339), err)))
	}
	c := content.New(content.Text, t.common())
	c.Text, c.Mentions = l.Text, contentMentions(l.Mentions)
	if l.ReplyTo != [32]byte{} {
		id := content.ID(l.ReplyTo)
		c.InReplyTo = &id
	}
	_, err = t.say(c)
	return errors.Join(err, t.n.noteConversation(t.tx, t.o.group))
}
