package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/setting"
	"sotto/node/store"
)

// Receipts and typing (spec/content.md, section 4).
const (
	receiptSoonest = time.Second
	receiptLatest  = 30 * time.Second
	receiptPeople  = 32 // accounts above which there are none
	receiptIDs     = 10 // in one message, so that it is no larger than a short text
	receiptsAtOnce = 4  // messages with receipts that go out together

	typingLife  = 12 * time.Second // for which it shows
	typingEvery = 6 * time.Second  // between two that are sent
	typingStale = 30 * time.Second
)

// ReadMark says how far a conversation is read.
type ReadMark struct {
	Through string `json:"through,omitempty" doc:"id of the last message that was read; without it all that is there"`
	Unread  bool   `json:"unread,omitempty" doc:"true: marked as unread by hand, whatever was read"`
}

// counts reports whether a message makes the number of unread ones.
func counts(m *store.Message) bool {
	return !m.Mine && m.Deleted == 0 && (m.Kind == store.KindText || m.Kind == store.KindPoll || m.Kind == store.KindUnknown)
}

// arrived deals with a message of another that is about to be shown for the first time.
func (t *turn) arrived(m *store.Message) error {
	mark, err := t.tx.ReadMark(t.o.group)
	if err != nil {
		return err
	}
	read := m.Seq <= mark.Seq // it stood in a gap that was read over
	if !read && counts(m) {
		mark.Unread++
		if err := t.tx.PutReadMark(t.o.group, &mark); err != nil {
			return err
		}
	}
	if read {
		if err := t.startTimer(m); err != nil {
			return err
		}
	}
	t.untype(m.From)
	return t.owe(m, read)
}

// uncount takes a message that goes out of the number of unread ones.
func (t *turn) uncount(m *store.Message) error {
	mark, err := t.tx.ReadMark(t.o.group)
	if err != nil || m.Seq <= mark.Seq || !counts(m) || mark.Unread == 0 {
		return err
	}
	mark.Unread--
	return t.tx.PutReadMark(t.o.group, &mark)
}

// MarkRead notes how far the user has read. What was read is not unread again but by
// hand. Its authors get receipts, if the settings allow it.
func (n *Node) MarkRead(ctx context.Context, ref string, r ReadMark) (out Conversation, err error) {
	for done := false; !done && err == nil; {
		err = n.inConversation(ref, func(t *turn) error {
			mark, err := t.tx.ReadMark(t.o.group)
			if err != nil {
				return err
			}
			mark.Manual, mark.Changed, done = r.Unread, t.now, true
			if !r.Unread {
				if done, err = t.readThrough(&mark, r.Through); err != nil {
					return err
				}
			}
			t.events = true
			if err := errors.Join(t.tx.PutReadMark(t.o.group, &mark), t.n.noteConversation(t.tx, t.o.group)); err != nil {
				return err
			}
			return t.showInto(&out)
		})
	}
	return out, err
}

// readAtOnce is how many messages one transaction marks as read.
const readAtOnce = 256

// readThrough moves the mark on towards the message named, or the end, and reports
// whether it is there.
func (t *turn) readThrough(mark *store.ReadMark, through string) (done bool, err error) {
	end := uint64(queuedSeq)
	if through != "" {
		m, err := t.message1(through)
		if err != nil {
			return false, err
		}
		if m.Seq == 0 {
			return false, fmt.Errorf("%w: message %s is not stored by the relay yet", ErrInvalid, through)
		}
		end = m.Seq
	}
	var fresh []store.Message
	for m, err := range t.tx.MessagesBehind(t.o.group, mark.Seq) {
		if err != nil {
			return false, err
		}
		if m.Seq == 0 || m.Seq > end {
			break // what follows is on its way, or was not read
		}
		if len(fresh) == readAtOnce {
			return false, t.read(mark, fresh)
		}
		fresh = append(fresh, m)
	}
	return true, t.read(mark, fresh)
}

// read moves the mark over messages that were read.
func (t *turn) read(mark *store.ReadMark, fresh []store.Message) error {
	for i := range fresh {
		m := &fresh[i]
		mark.Seq = m.Seq
		if !counts(m) {
			continue
		}
		if mark.Unread > 0 {
			mark.Unread--
		}
		if err := t.owe(m, true); err != nil {
			return err
		}
		if m.Expires > 0 {
			if err := errors.Join(t.startTimer(m), t.tx.PutMessage(t.o.group, m)); err != nil {
				return err
			}
		}
	}
	return nil
}

// startTimer makes a message that disappears do so: it has been read, or sent.
func (t *turn) startTimer(m *store.Message) error {
	if m.Expires == 0 || !m.Until.IsZero() {
		return nil
	}
	m.Until = t.now.Add(time.Duration(m.Expires) * time.Second)
	t.dues, t.events = true, true
	return errors.Join(t.tx.AddDue(&store.Due{At: m.Until, What: store.DueExpiry, Group: t.o.group, Message: m.ID}), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

// answers reports whether receipts and typing are exchanged with an account here: it is a
// contact that was accepted, and the conversation is of few.
func (t *turn) answers(account [32]byte) (bool, error) {
	c, err := t.tx.Contact(account)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil || c.Blocked || c.State != store.ContactEstablished {
		return false, err
	}
	return t.few()
}

func (t *turn) few() (bool, error) {
	if t.core.Over || t.group == nil {
		return false, nil
	}
	info, err := conversation.Group(t.group.Context())
	return err == nil && len(info.Roles) <= receiptPeople, err
}

// owe notes that a message is to be acknowledged: a text, once, to a contact. Nothing
// else that somebody sends makes this device send anything.
func (t *turn) owe(m *store.Message, read bool) error {
	if m.Mine || m.Kind != store.KindText || m.Deleted != 0 {
		return nil
	}
	if ok, err := t.answers(m.From); err != nil || !ok {
		return err
	}
	delivered, err := isOn(t.tx, t.o.group, setting.Delivered)
	if err != nil {
		return err
	}
	seen, err := isOn(t.tx, t.o.group, setting.Receipts)
	if err != nil {
		return err
	}
	owes, err := t.tx.Owes(t.o.group)
	if err != nil {
		return err
	}
	switch {
	case read && seen:
		err = errors.Join(t.tx.AddOwed(t.o.group, store.OwedRead, m.ID), t.tx.DeleteOwed(t.o.group, store.OwedDelivered, m.ID))
	case delivered && !read:
		err = t.tx.AddOwed(t.o.group, store.OwedDelivered, m.ID)
	default:
		return nil
	}
	if err != nil || owes {
		return err
	}
	return t.oweLater()
}

// oweLater has the receipts that are owed sent after a while.
func (t *turn) oweLater() error {
	t.dues = true
	return t.tx.AddDue(&store.Due{At: t.now.Add(t.n.opt.Spread(receiptSoonest, receiptLatest)), What: store.DueReceipts, Group: t.o.group})
}

// acknowledge sends receipts that are owed.
func (t *turn) acknowledge() error {
	few, err := t.few()
	if err != nil {
		return err
	}
	may := few && t.core.Frozen == "" && !t.core.Leaving && (t.rec.Many || !t.blocked(t.rec.Contact))
	for range receiptsAtOnce {
		what, kind := store.OwedRead, content.Seen
		ids, err := t.tx.Owed(t.o.group, what, receiptIDs)
		if err == nil && len(ids) == 0 {
			what, kind = store.OwedDelivered, content.Delivered
			ids, err = t.tx.Owed(t.o.group, what, receiptIDs)
		}
		if err != nil || len(ids) == 0 {
			return err
		}
		c := content.New(content.Receipt, t.common())
		c.Receipt = kind
		for _, id := range ids {
			if err := t.tx.DeleteOwed(t.o.group, what, id); err != nil {
				return err
			}
			// What was deleted or blocked meanwhile is not spoken of.
			m, err := t.tx.Message(t.o.group, id)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err == nil && m.Deleted == 0 && !t.blocked(m.From) {
				c.IDs = append(c.IDs, id)
			}
		}
		if may && len(c.IDs) > 0 {
			if _, err := t.tell(c); err != nil {
				return err
			}
		}
	}
	if owes, err := t.tx.Owes(t.o.group); err != nil || !owes {
		return err
	}
	return t.oweLater()
}

// takeReceipt notes what a receipt says of messages of ours. Who sends none sees none.
func (t *turn) takeReceipt(c *content.Message, it *item) error {
	key := setting.Delivered
	if c.Receipt == content.Seen {
		key = setting.Receipts
	}
	if ok, err := isOn(t.tx, t.o.group, key); err != nil || !ok {
		return err
	}
	if it.from == t.n.account.ID() {
		return nil
	}
	if ok, err := t.answers(it.from); err != nil || !ok {
		return err
	}
	for _, id := range c.IDs {
		m, err := t.tx.Message(t.o.group, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && (!m.Mine || m.Kind != store.KindText || m.Deleted != 0) {
			continue
		}
		if err != nil {
			return err
		}
		a, err := t.tx.About(t.o.group, m.ID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(a.Receipts, func(r store.Receipt) bool { return r.Account == it.from })
		if i < 0 {
			a.Receipts = append(a.Receipts, store.Receipt{Account: it.from})
			i = len(a.Receipts) - 1
		}
		r := &a.Receipts[i]
		was := *r
		if r.Delivered.IsZero() {
			r.Delivered = it.sent
		}
		if c.Receipt == content.Seen && r.Read.IsZero() {
			r.Read = it.sent
		}
		if *r == was {
			continue
		}
		t.events = true
		if err := errors.Join(t.tx.PutAbout(t.o.group, &m, &a), t.n.noteMessage(t.tx, t.o.group, m.ID)); err != nil {
			return err
		}
	}
	return nil
}

// Typing tells the others in a conversation that the user writes. It is sent now or not at
// all: only if nothing else is on its way and the relay is there.
func (n *Node) Typing(ctx context.Context, ref string) error {
	return n.inConversation(ref, func(t *turn) error {
		if err := t.mayWrite(); err != nil {
			return err
		}
		on, err := isOn(t.tx, t.o.group, setting.Typing)
		if err != nil || !on {
			return err
		}
		ok, err := t.few()
		if !t.rec.Many {
			ok, err = t.answers(t.rec.Contact)
		}
		r, relayErr := n.relayAt(t.rec.Relay)
		if err != nil || !ok || relayErr != nil || !r.client.State().Connected || !t.core.Idle(t.now) {
			return err
		}
		t.o.mu.Lock()
		due := t.now.Sub(t.o.typed) >= typingEvery
		t.o.mu.Unlock()
		if !due {
			return nil
		}
		t.durable = append(t.durable, func() {
			t.o.mu.Lock()
			t.o.typed = t.now
			t.o.mu.Unlock()
		})
		c := content.New(content.Typing, t.common())
		c.On = true
		_, err = t.tell(c)
		return err
	})
}

// takeTyping shows for a while that somebody writes. Nothing of it is kept.
func (t *turn) takeTyping(c *content.Message, it *item) error {
	on, err := isOn(t.tx, t.o.group, setting.Typing)
	if err != nil || !on || it.from == t.n.account.ID() || t.now.Sub(it.sent) > typingStale {
		return err
	}
	if ok, err := t.answers(it.from); err != nil || !ok {
		return err
	}
	if !c.On {
		t.untype(it.from)
		return nil
	}
	until := t.now.Add(typingLife)
	t.o.mu.Lock()
	_, shown := t.o.typing[it.from]
	t.o.mu.Unlock()
	t.durable = append(t.durable, func() {
		t.o.mu.Lock()
		t.o.typing[it.from] = until
		t.o.mu.Unlock()
		if !shown {
			t.n.spawn(func(ctx context.Context) { t.o.endTyping(ctx, it.from) })
		}
	})
	if shown {
		return nil
	}
	t.events = true
	return t.n.noteConversation(t.tx, t.o.group)
}

// endTyping waits until somebody is not shown as writing any more, and tells of it.
func (o *owner) endTyping(ctx context.Context, account [32]byte) {
	for wait := typingLife; wait > 0; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		o.mu.Lock()
		if wait = o.typing[account].Sub(o.n.clock()); wait <= 0 {
			delete(o.typing, account)
		}
		o.mu.Unlock()
	}
	if err := o.n.update(func(tx *store.Tx) error { return o.n.noteConversation(tx, o.group) }); err != nil {
		o.n.log.Debug("the end of typing is not told", "err", err)
	}
}

// untype ends that an account is shown as writing: it has written.
func (t *turn) untype(account [32]byte) {
	t.durable = append(t.durable, func() {
		t.o.mu.Lock()
		delete(t.o.typing, account)
		t.o.mu.Unlock()
	})
}
