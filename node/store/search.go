package store

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"sotto/storage/search"
	"sotto/storage/vault"
)

// The index is kept by PutMessage, DeleteMessage and DeleteConversation, so that it says
// what the messages say in every transaction. Only what makes a text or a flag of a
// message otherwise than by these has to think of it.

// tFilled says, by era of the index and conversation, up to which place messages that were
// there before the index have been added to it.
const tFilled vault.Table = 49

const filled = "filled"

func filledRef(era uint64, group []byte) vault.Ref {
	return vault.Ref{Table: tFilled, Partition: filled, Order: vault.U64(era) + string(group)}
}

// The tags of messages.
func TagIn(group []byte) string       { return "in " + string(group) }
func TagFrom(account [32]byte) string { return "from " + string(account[:]) }
func TagHas(kind string) string       { return "has " + kind }

func docName(group []byte, id [32]byte) string { return string(group) + string(id[:]) }

// Indexed is what the index knows of a message; it is empty for one that cannot be found.
func (m *Message) Indexed(group []byte) search.Doc {
	text := m.Text
	switch m.Kind {
	case KindText:
	case KindPoll:
		text = strings.Join(append([]string{text}, m.Options...), "\n")
	default:
		return search.Doc{}
	}
	if text == "" {
		return search.Doc{}
	}
	d := search.Doc{Name: docName(group, m.ID), Time: m.Sent, Text: text, Tags: []string{TagIn(group), TagFrom(m.From)}}
	if strings.Contains(text, "https://") || strings.Contains(text, "http://") {
		d.Tags = append(d.Tags, TagHas("link"))
	}
	if m.Kind == KindPoll {
		d.Tags = append(d.Tags, TagHas("poll"))
	}
	return d
}

// indexMessage brings the index up to what a message is to say. At is where it stood, 0
// if it is new.
func (t *Tx) indexMessage(group []byte, at uint64, m *Message) error {
	if t.search == nil {
		return nil
	}
	now := m.Indexed(group)
	if at == 0 {
		if now.Name == "" {
			return nil
		}
		return t.mended(t.search.Add(t.tx, &now), &now)
	}
	old, err := load[Message](t, messageRef(group, at))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	was := old.Indexed(group)
	same := err == nil && was.Text == now.Text && slices.Equal(was.Tags, now.Tags)
	if same && (m.Seq == 0 || m.Seq == at) {
		return nil
	}
	if same { // it moves, and whoever fills the index may not meet it in its new place
		stats, err := t.search.Stats(t.tx)
		if err == nil && !stats.Filling {
			return nil
		}
	}
	if now.Name == "" {
		return t.unindexMessage(group, m.ID)
	}
	return t.mended(t.search.Put(t.tx, &now), &now)
}

// mended lets no message be lost to a damaged index: that is begun anew.
func (t *Tx) mended(err error, d *search.Doc) error {
	if !errors.Is(err, search.ErrDamaged) {
		return err
	}
	if err := t.search.ResetIn(t.tx); err != nil || d == nil {
		return err
	}
	return t.search.Add(t.tx, d)
}

func (t *Tx) unindexMessage(group []byte, id [32]byte) error {
	if t.search == nil {
		return nil
	}
	return t.mended(t.search.Remove(t.tx, docName(group, id)), nil)
}

func (t *Tx) unindexConversation(group []byte) error {
	if t.search == nil {
		return nil
	}
	return t.mended(t.search.RemoveTag(t.tx, TagIn(group)), nil)
}

// IndexStats says how far the index is.
func (t *Tx) IndexStats() (search.Stats, error) { return t.search.Stats(t.tx) }

// Found is a message that was searched for.
type Found struct {
	Group   []byte
	Message Message
}

// Search returns up to limit messages that fit a query and have all these tags and none of
// those, the newest first, and where the next page begins. It calls again now and then,
// and ends with its error.
func (t *Tx) Search(q *search.Query, has, not []string, cursor string, limit int, again func() error) (out []Found, next string, err error) {
	p, err := t.search.Search(t.tx, search.Request{Query: q, Tags: has, Cursor: cursor, Limit: limit}, func(name string) (bool, error) {
		if err := again(); err != nil {
			return false, err
		}
		group, id := []byte(name[:len(name)-32]), [32]byte([]byte(name[len(name)-32:]))
		m, err := t.Message(group, id)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		d := m.Indexed(group)
		lacks := func(tag string) bool { return !slices.Contains(d.Tags, tag) }
		if d.Name == "" || slices.ContainsFunc(has, lacks) || !q.Within(m.Sent) || !q.Match(d.Text) {
			return false, nil
		}
		if slices.ContainsFunc(not, func(tag string) bool { return !lacks(tag) }) {
			return false, nil
		}
		if _, err := t.Conversation(group); errors.Is(err, ErrNotFound) {
			return false, nil // it waits for its conversation
		} else if err != nil {
			return false, err
		}
		out = append(out, Found{group, m})
		return true, nil
	})
	return out, p.Next, err
}

// Unindexed returns the newest messages that were there before the index and are not in
// it yet, and a function that notes them as added. It is what search.Index.Fill reads.
func (db DB) Unindexed(vtx *vault.Tx) ([]search.Doc, func(*vault.Tx) error, error) {
	t := &Tx{vtx, db.Index}
	stats, err := t.IndexStats()
	if err != nil {
		return nil, nil, err
	}
	cs, err := t.Conversations()
	if err != nil {
		return nil, nil, err
	}
	// One reader for each conversation; the newest of what they are at comes next.
	type head struct {
		group []byte
		place uint64
		m     Message
		next  func() (vault.Record, error, bool)
	}
	var heads []*head
	done := map[string]uint64{}
	advance := func(h *head) (bool, error) {
		for {
			r, err, ok := h.next()
			if !ok || err != nil {
				return false, err
			}
			h.m = Message{}
			if err := decode(r.Value, &h.m); err != nil {
				return false, err
			}
			h.place, _ = vault.Number(r.Order)
			return true, nil
		}
	}
	for _, c := range cs {
		from := queuedPlace - uint64(1)
		b, err := t.tx.Get(filledRef(stats.Era, c.Group))
		switch {
		case err == nil:
			n, ok := vault.Number(string(b))
			if !ok {
				return nil, nil, fmt.Errorf("how far the index is filled: %w", vault.ErrDamaged)
			}
			from = n - 1
		case !errors.Is(err, ErrNotFound):
			return nil, nil, err
		}
		if from == 0 {
			continue
		}
		next, stop := iter.Pull2(t.tx.Range(tMessage, string(c.Group), vault.U64(from), true))
		defer stop()
		h := &head{group: c.Group, next: next}
		if ok, err := advance(h); err != nil {
			return nil, nil, err
		} else if ok {
			heads = append(heads, h)
		}
	}
	var docs []search.Doc
	for size := 0; len(heads) > 0 && len(docs) < search.Bulk && size < fillBytes; {
		i, newest := 0, time.Time{}
		for k, h := range heads {
			if h.m.Arrived.After(newest) {
				i, newest = k, h.m.Arrived
			}
		}
		h := heads[i]
		done[string(h.group)] = h.place
		if d := h.m.Indexed(h.group); d.Name != "" {
			docs, size = append(docs, d), size+len(d.Text)
		}
		ok, err := advance(h)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			heads = slices.Delete(heads, i, i+1)
		}
	}
	note := func(vtx *vault.Tx) error {
		t := &Tx{vtx, db.Index}
		for group, place := range done {
			if err := t.tx.Put(filledRef(stats.Era, []byte(group)), plain, []byte(vault.U64(place))); err != nil {
				return err
			}
		}
		if len(docs) > 0 {
			return nil
		}
		return errors.Join(t.indexQueued(cs), t.clear([]byte(filled), tFilled))
	}
	return docs, note, nil
}

// fillBytes bounds the texts of one page of Unindexed.
const fillBytes = 16 << 20

// indexQueued adds what has no position yet: its place is not steady enough to go by.
func (t *Tx) indexQueued(cs []Conversation) error {
	for _, c := range cs {
		for r, err := range t.tx.Range(tMessage, string(c.Group), vault.U64(queuedPlace), false) {
			if err != nil {
				return err
			}
			var m Message
			if err := decode(r.Value, &m); err != nil {
				return err
			}
			if d := m.Indexed(c.Group); d.Name != "" {
				if err := t.search.Put(t.tx, &d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
