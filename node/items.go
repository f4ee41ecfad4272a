package node

import (
	"errors"
	"slices"
	"time"

	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// Rules of what says something about another message (spec/content.md, section 3). They
// judge by what everybody sees: the sender's account, its role at that place, the order.
const (
	editLife  = 48 * time.Hour   // in which a message can be edited or taken back
	clockSlip = 20 * time.Minute // by which the clocks of two places in a mailbox may differ
	maxEdits  = 100              // of one message
	maxPins   = 64
	maxAbout  = 1024 // accounts that are heard about one message

	maxEarly     = 256 // kept in one conversation until their message comes
	maxEarlyFrom = 32  // of these, of one account
)

// queuedSeq is the place of what has none yet: behind all others.
const queuedSeq = 1<<64 - 1

// item is something said about a message, and what it is judged by.
type item struct {
	id     content.ID
	from   [32]byte
	seq    uint64
	sent   time.Time
	rights conversation.Rights // of its sender, there
	role   conversation.Role
}

// act makes something of the user's durable that is said about a message, and applies it.
func (t *turn) act(c *content.Message) error {
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	own := t.n.account.ID()
	id, err := t.tell(c)
	if err != nil {
		return err
	}
	return t.apply(c, &item{id: id, from: own, seq: queuedSeq, sent: c.Sent, rights: info.May(own), role: info.Role(own)})
}

// placed gives what was applied when it was made its place among what others say.
func (t *turn) placed(m *store.Message) error {
	c, err := content.Decode(m.Content)
	if err != nil || m.State != store.MessageStored || t.group == nil {
		return nil
	}
	if _, ok := c.Target(); !ok {
		return nil
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	return t.apply(c, &item{id: m.ID, from: m.From, seq: m.Seq, sent: m.Sent, rights: info.May(m.From), role: info.Role(m.From)})
}

// apply does what an item says, or keeps it until its message is there. What breaks the
// rules is dropped without a word.
func (t *turn) apply(c *content.Message, it *item) error {
	target, ok := c.Target()
	if !ok {
		return nil
	}
	original, err := t.tx.Original(t.o.group, target)
	if err != nil {
		return err
	}
	m, err := t.tx.Message(t.o.group, original)
	if errors.Is(err, store.ErrNotFound) {
		return t.keepEarly(c, it, target)
	}
	if err != nil {
		return err
	}
	if m.Deleted != 0 || m.Kind != store.KindText && m.Kind != store.KindPoll && m.Kind != store.KindUnknown {
		return nil
	}
	switch c.Kind {
	case content.Text:
		return t.edit(c, it, &m)
	case content.Delete:
		if it.from != m.From || it.sent.Sub(m.Sent) > editLife+clockSlip {
			return nil
		}
		return t.blank(&m, store.DeletedByAuthor, it.from)
	case content.Moderate:
		if !t.mayModerate(it, &m) {
			return nil
		}
		return t.blank(&m, store.DeletedByAdmin, it.from)
	case content.Pin:
		return t.pin(c, it, &m)
	}
	return t.about(c, it, &m)
}

// mayModerate reports whether the sender of an item may take a message away from all: in
// a group, by the right to remove people, and not from who has its role or a higher one.
func (t *turn) mayModerate(it *item, m *store.Message) bool {
	info, err := conversation.Group(t.group.Context())
	return err == nil && t.rec.Many && it.rights&conversation.MayRemove != 0 && info.Role(m.From) < it.role
}

func (t *turn) edit(c *content.Message, it *item, m *store.Message) error {
	if it.from != m.From || m.Kind != store.KindText || it.sent.Sub(m.Sent) > editLife+clockSlip {
		return nil
	}
	versions, err := t.tx.Versions(t.o.group, m.ID)
	if err != nil || len(versions) > maxEdits {
		return err
	}
	if len(versions) == 0 {
		first := store.Version{ID: m.ID, Sent: m.Sent, Text: m.Text, Mentions: m.Mentions}
		if err := t.tx.PutVersion(t.o.group, m, &first); err != nil {
			return err
		}
		versions = append(versions, first)
	}
	v := store.Version{ID: it.id, Seq: it.seq, Sent: it.sent, Text: c.Text, Mentions: storedMentions(c.Mentions)}
	versions = append(slices.DeleteFunc(versions, func(o store.Version) bool { return o.ID == v.ID }), v)
	newest := slices.MaxFunc(versions, func(a, b store.Version) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	m.Text, m.Mentions, m.Version, m.Edited = newest.Text, newest.Mentions, newest.ID, newest.Sent
	t.events = true
	// The message first: it may have to leave its bucket.
	return errors.Join(t.tx.PutMessage(t.o.group, m), t.tx.PutVersion(t.o.group, m, &v), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

// blank takes the text of a message away for all; that it was there stays to be seen.
func (t *turn) blank(m *store.Message, how uint8, by [32]byte) error {
	if err := t.uncount(m); err != nil {
		return err
	}
	m.Deleted, m.DeletedBy = how, by
	m.Text, m.Mentions, m.Version, m.Edited, m.ReplyTo, m.Options, m.Until = "", nil, [32]byte{}, time.Time{}, [32]byte{}, nil, time.Time{}
	if m.State != store.MessageQueued { // else it is still to be sealed
		m.Content = nil
	}
	m.Proof = nil
	t.events = true
	return errors.Join(t.tx.BlankMessage(t.o.group, m), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

func (t *turn) pin(c *content.Message, it *item, m *store.Message) error {
	if t.rec.Many && it.rights&conversation.MayRename == 0 {
		return nil
	}
	was, err := t.tx.Pin(t.o.group, m.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if older(it, was.Seq) {
		return nil
	}
	if c.On && !was.On {
		pins, err := t.tx.Pins(t.o.group)
		if err != nil {
			return err
		}
		on := 0
		for _, p := range pins {
			if p.On {
				on++
			}
		}
		if on >= maxPins || len(pins) >= maxAbout {
			return nil
		}
	}
	t.events = true
	return errors.Join(t.tx.PutPin(t.o.group, &store.Pin{Message: m.ID, By: it.from, Seq: it.seq, Sent: it.sent, On: c.On}), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

// about takes in reactions, votes and the end of a poll. Of each account the last counts.
func (t *turn) about(c *content.Message, it *item, m *store.Message) error {
	a, err := t.tx.About(t.o.group, m.ID)
	if err != nil {
		return err
	}
	switch c.Kind {
	case content.Reaction:
		i := slices.IndexFunc(a.Reactions, func(r store.Reaction) bool { return r.Account == it.from })
		r := store.Reaction{Account: it.from, Seq: it.seq, Sent: it.sent, Set: c.Reactions}
		switch {
		case i < 0 && len(a.Reactions) >= maxAbout || i >= 0 && older(it, a.Reactions[i].Seq):
			return nil
		case i < 0:
			a.Reactions = append(a.Reactions, r)
		default:
			a.Reactions[i] = r
		}
	case content.Vote:
		if m.Kind != store.KindPoll || a.Closed != 0 && it.seq > a.Closed || len(c.Choices) > 1 && !m.Multiple {
			return nil
		}
		v := store.Vote{Account: it.from, Seq: it.seq}
		for _, n := range c.Choices {
			if n >= uint64(len(m.Options)) {
				return nil
			}
			v.Choices = append(v.Choices, uint32(n))
		}
		i := slices.IndexFunc(a.Votes, func(v store.Vote) bool { return v.Account == it.from })
		switch {
		case i < 0 && len(a.Votes) >= maxAbout || i >= 0 && older(it, a.Votes[i].Seq):
			return nil
		case i < 0:
			a.Votes = append(a.Votes, v)
		default:
			a.Votes[i] = v
		}
	case content.Close:
		if m.Kind != store.KindPoll || it.from != m.From || a.Closed != 0 && a.Closed != queuedSeq {
			return nil
		}
		// What was voted behind it does not count: our own that were overtaken.
		a.Closed = it.seq
		a.Votes = slices.DeleteFunc(a.Votes, func(v store.Vote) bool { return v.Seq > it.seq && v.Seq != queuedSeq })
	default:
		return nil
	}
	t.events = true
	return errors.Join(t.tx.PutAbout(t.o.group, m, &a), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

// older reports whether an item stands before what the same account said at seq. What
// was queued is then given its place.
func older(it *item, seq uint64) bool { return seq > it.seq && seq != queuedSeq }

// keepEarly keeps an item whose message is not here: it stands in a gap, or comes in
// another order. What is about a message of another conversation, or one that was removed,
// is dropped.
func (t *turn) keepEarly(c *content.Message, it *item, target content.ID) error {
	known, err := t.tx.Known(t.o.group, target)
	if err != nil || known {
		return err
	}
	if foreign, err := t.foreign(target); err != nil || foreign {
		return err
	}
	all, err := t.tx.Early(t.o.group, [32]byte{})
	if err != nil {
		return err
	}
	same := 0
	for _, e := range all {
		if e.ID == it.id {
			return nil
		}
		if e.From == it.from {
			same++
		}
	}
	if len(all) >= maxEarly || same >= maxEarlyFrom {
		return nil
	}
	encoded, err := c.Encode()
	if err != nil {
		return nil // it holds what this version does not know
	}
	return t.tx.AddEarly(t.o.group, &store.Early{Of: target, ID: it.id, From: it.from, Seq: it.seq, Sent: it.sent, Rights: uint32(it.rights), Role: uint8(it.role), Content: encoded})
}

// foreign reports whether an id is of another conversation.
func (t *turn) foreign(id [32]byte) (bool, error) {
	all, err := t.tx.Conversations()
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if string(c.Group) == string(t.o.group) {
			continue
		}
		if known, err := t.tx.Known(c.Group, id); err != nil || known {
			return known, err
		}
	}
	return false, nil
}

// takeEarly applies what came before a message that is there now.
func (t *turn) takeEarly(id [32]byte) error {
	waiting, err := t.tx.Early(t.o.group, id)
	if err != nil {
		return err
	}
	for i := range waiting {
		e := &waiting[i]
		if err := t.tx.DeleteEarly(t.o.group, e); err != nil {
			return err
		}
		c, err := content.Decode(e.Content)
		if err != nil {
			return err
		}
		it := &item{id: e.ID, from: e.From, seq: e.Seq, sent: e.Sent, rights: conversation.Rights(e.Rights), role: conversation.Role(e.Role)}
		if err := t.apply(c, it); err != nil {
			return err
		}
		if c.Edit() { // and what came before that
			if err := t.takeEarly(e.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *turn) blocked(account [32]byte) bool {
	c, err := t.tx.Contact(account)
	return err == nil && c.Blocked
}

func storedMentions(all []content.Mention) (out []store.Mention) {
	for _, m := range all {
		out = append(out, store.Mention{Start: uint32(m.Start), Length: uint32(m.Length), Account: m.Account})
	}
	return out
}
