package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"sotto/relay/mailbox"
	"sotto/relay/server"
)

// witness stands between a relay and its store and writes down all that a relay gets
// to see of what it keeps.
type witness struct {
	server.Store

	news chan struct{} // holds one: something was seen

	mu    sync.Mutex // guards the following fields
	seen  []sight
	given bytes.Buffer // every byte that it was to keep
}

func newWitness(s server.Store) *witness { return &witness{Store: s, news: make(chan struct{}, 1)} }

// sight is one thing seen. Mailboxes and slots show the first letters of their ids.
type sight struct {
	Time  time.Time   `json:"time"`
	Where string      `json:"where"` // "mailbox 3fa2"
	What  string      `json:"what"`  // made, taken, message, commit; read or trimmed, up to an entry
	Entry mailbox.Seq `json:"entry,omitempty"`
	Bytes int         `json:"bytes,omitempty"`
}

// String is what stands on the screen.
func (s sight) String() string {
	what := s.What
	switch {
	case s.Entry > 0 && s.Bytes > 0:
		what = fmt.Sprintf("entry %d: a %s, %s bytes", s.Entry, s.What, thousands(s.Bytes))
	case s.Entry > 0:
		what = fmt.Sprintf("%s up to entry %d", s.What, s.Entry)
	case s.Bytes > 0:
		what = fmt.Sprintf("%s, %s bytes", s.What, thousands(s.Bytes))
	}
	return fmt.Sprintf("%s  %-12s  %s", s.Time.Local().Format(time.TimeOnly), s.Where, what)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// take returns what was seen since it was last called.
func (w *witness) take() []sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := append([]sight{}, w.seen...)
	w.seen = nil
	return seen
}

// until waits until so many things of a kind were seen.
func (w *witness) until(ctx context.Context, n int, what string) error {
	for {
		w.mu.Lock()
		got := 0
		for _, s := range w.seen {
			if s.What == what {
				got++
			}
		}
		w.mu.Unlock()
		if got >= n {
			return nil
		}
		select {
		case <-w.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holds reports whether b is in what the relay was given, and how many bytes that is.
func (w *witness) holds(b []byte) (found bool, of int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.given.Bytes(), b), w.given.Len()
}

func (w *witness) saw(s sight, given ...[]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range given {
		w.given.Write(b)
	}
	s.Time = time.Now()
	if s.What == "read" || s.What == "trimmed" { // one line says how far it has come
		w.seen = slices.DeleteFunc(w.seen, func(old sight) bool { return old.Where == s.Where && old.What == s.What })
	}
	w.seen = append(w.seen, s)
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func mailboxName(id mailbox.ID) string  { return "mailbox " + hex.EncodeToString(id[:2]) }
func slotName(id mailbox.SlotID) string { return "slot " + hex.EncodeToString(id[:2]) }

func (w *witness) Create(ctx context.Context, id mailbox.ID, t mailbox.Terms) error {
	err := w.Store.Create(ctx, id, t)
	if err == nil {
		w.saw(sight{Where: mailboxName(id), What: "made"}, id[:], t.Meta)
	}
	return err
}

func (w *witness) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	out := w.Store.Put(ctx, ds)
	for i, o := range out {
		if d := ds[i]; o.Err == nil && !o.Receipt.Again {
			w.saw(sight{Where: mailboxName(d.Mailbox), What: d.Kind.String(), Entry: o.Receipt.Head.Seq, Bytes: len(d.Payload)}, d.Meta, d.Payload)
		}
	}
	return out
}

func (w *witness) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, limit mailbox.Limit) (mailbox.Page, error) {
	p, err := w.Store.Read(ctx, id, after, limit)
	if err == nil && len(p.Entries) > 0 {
		w.saw(sight{Where: mailboxName(id), What: "read", Entry: p.End.Seq})
	}
	return p, err
}

func (w *witness) Trim(ctx context.Context, id mailbox.ID, through mailbox.Seq) error {
	err := w.Store.Trim(ctx, id, through)
	if err == nil {
		w.saw(sight{Where: mailboxName(id), What: "trimmed", Entry: through})
	}
	return err
}

func (w *witness) CreateSlot(ctx context.Context, id mailbox.SlotID, s mailbox.Slot) error {
	err := w.Store.CreateSlot(ctx, id, s)
	if err == nil {
		w.saw(sight{Where: slotName(id), What: "made", Bytes: len(s.Value)}, id[:], s.Owner[:], s.Read[:], s.Value)
	}
	return err
}

func (w *witness) TakeSlot(ctx context.Context, id mailbox.SlotID, tag mailbox.Tag) (mailbox.Slot, error) {
	s, err := w.Store.TakeSlot(ctx, id, tag)
	if err == nil {
		w.saw(sight{Where: slotName(id), What: "taken"}, tag[:])
	}
	return s, err
}
