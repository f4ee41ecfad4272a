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
	maxOwed        = 1024
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
		if err := errors.Join(t.tx.PutReadMark(t.o.group, &mark), t.n.noteConversation(t.tx, t.o.group)); err != nil {
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
	return errors.Join(t.tx.PutReadMark(t.o.group, &mark), t.n.noteConversation(t.tx, t.o.group))
}

// MarkRead notes how far the user has read. What was read is not unread again but by
// hand. Its authors get receipts, if the settings allow it.
func (n *Node) MarkRead(ctx context.Context, ref string, r ReadMark) (out Conversation, err error) {
	err = n.inConversation(ref, func(t *turn) error {
		mark, err := t.tx.ReadMark(t.o.group)
		if err != nil {
			return err
		}
		mark.Manual, mark.Changed = r.Unread, t.now
		if !r.Unread {
			if err := t.readThrough(&mark, r.Through); err != nil {
				return err
			}
		}
		t.events = true
		if err := errors.Join(t.tx.PutReadMark(t.o.group, &mark), t.n.noteConversation(t.tx, t.o.group)); err != nil {
			return err
		}
		return t.showInto(&out)
	})
	return out, err
}

// readThrough moves the mark on to the message named, or to the end.
func (t *turn) readThrough(mark *store.ReadMark, through string) error {
	end := uint64(queuedSeq)
	if through != "" {
		m, err := t.message1(through)
		if err != nil {
			return err
		}
		if m.Seq == 0 {
			return fmt.Errorf("%w: message %s is not stored by the relay yet", ErrInvalid, through)
		}
		end = m.Seq
	}
	var fresh []store.Message
	last, unread := mark.Seq, uint32(0)
	for m, err := range t.tx.Messages(t.o.group, [32]byte{}, true) {
		if err != nil {
			return err
		}
		switch {
		case m.Seq == 0:
			continue // ours, on its way
		case m.Seq <= mark.Seq:
		case m.Seq > end:
			if counts(&m) {
				unread++
			}
			continue
		default:
			last = max(last, m.Seq)
			fresh = append(fresh, m)
			continue
		}
		break
	}
	if end > mark.Seq {
		mark.Seq, mark.Unread = last, unread
	}
	for i := range fresh {
		m := &fresh[i]
		if !counts(m) {
			continue
		}
		if err := errors.Join(t.startTimer(m), t.owe(m, true)); err != nil {
			return err
		}
		if m.Expires > 0 || m.Owed&store.OwedRead != 0 {
			if err := t.tx.PutMessage(t.o.group, m); err != nil {
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
	owed, err := t.tx.Owed(t.o.group)
	if err != nil {
		return err
	}
	idle := len(owed.Delivered)+len(owed.Read) == 0
	switch {
	case read && seen && m.Owed&store.OwedRead == 0 && len(owed.Read) < maxOwed:
		m.Owed |= store.OwedRead | store.OwedDelivered
		owed.Read = append(owed.Read, m.ID)
		owed.Delivered = slices.DeleteFunc(owed.Delivered, func(id [32]byte) bool { return id == m.ID })
	case delivered && m.Owed&store.OwedDelivered == 0 && len(owed.Delivered) < maxOwed:
		m.Owed |= store.OwedDelivered
		owed.Delivered = append(owed.Delivered, m.ID)
	default:
		return nil
	}
	if idle {
		t.dues = true
		err = t.tx.AddDue(&store.Due{At: t.now.Add(t.n.opt.Spread(receiptSoonest, receiptLatest)), What: store.DueReceipts, Group: t.o.group})
	}
	return errors.Join(err, t.tx.PutOwed(t.o.group, &owed))
}

// acknowledge sends the receipts that are owed.
func (t *turn) acknowledge() error {
	owed, err := t.tx.Owed(t.o.group)
	if err != nil {
		return err
	}
	if few, err := t.few(); err != nil || !few || t.core.Frozen != "" || t.core.Leaving || !t.rec.Many && t.blocked(t.rec.Contact) {
		return errors.Join(err, t.tx.PutOwed(t.o.group, &store.Owed{}))
	}
	for range receiptsAtOnce {
		list, kind := &owed.Read, content.Seen
		if len(*list) == 0 {
			list, kind = &owed.Delivered, content.Delivered
		}
		// What was deleted or blocked meanwhile is not spoken of.
		var ids []content.ID
		for len(*list) > 0 && len(ids) < receiptIDs {
			id := (*list)[0]
			*list = (*list)[1:]
			m, err := t.tx.Message(t.o.group, id)
			if errors.Is(err, store.ErrNotFound) || err == nil && (m.Deleted != 0 || t.blocked(m.From)) {
				continue
			}
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		if len(ids) == 0 {
			continue
		}
		c := content.New(content.Receipt, t.common())
		c.Receipt, c.IDs = kind, ids
		if _, err := t.tell(c); err != nil {
			return err
		}
	}
	if len(owed.Read)+len(owed.Delivered) > 0 {
		t.dues = true
		err = t.tx.AddDue(&store.Due{At: t.now.Add(t.n.opt.Spread(receiptSoonest, receiptLatest)), What: store.DueReceipts, Group: t.o.group})
	}
	return errors.Join(err, t.tx.PutOwed(t.o.group, &owed))
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
