package nodetest

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"sotto/crypto/envelope"
	"sotto/crypto/key"
	"sotto/node"
	"sotto/node/conversation"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/storage/blob"
)

// evilBlobs gives out what it wants.
type evilBlobs struct {
	blob.Store
	read   atomic.Pointer[func(b []byte, err error) ([]byte, error)]
	create atomic.Pointer[error]
}

func (e *evilBlobs) Read(ctx context.Context, id blob.ID, offset, n int) ([]byte, error) {
	b, err := e.Store.Read(ctx, id, offset, n)
	if f := e.read.Load(); f != nil {
		return (*f)(b, err)
	}
	return b, err
}

func (e *evilBlobs) Create(ctx context.Context, id blob.ID, t blob.Terms) (blob.Chunks, error) {
	if err := e.create.Load(); err != nil {
		return 0, *err
	}
	return e.Store.Create(ctx, id, t)
}

// evil makes a relay that can be made to lie about blobs.
func (w *World) evil() (*Relay, *evilBlobs) {
	r := w.Relay()
	r.Stop()
	e := &evilBlobs{Store: r.Blobs}
	r.Blobs = e
	r.Start()
	return r, e
}

var lies = map[string]func(b []byte, err error) ([]byte, error){
	"withholds": func([]byte, error) ([]byte, error) { return nil, blob.ErrNotFound },
	"alters": func(b []byte, err error) ([]byte, error) {
		b = append([]byte(nil), b...)
		b[len(b)/2] ^= 1
		return b, err
	},
}

// untilTold waits for a notice that holds some words.
func (p *Person) untilTold(words string) {
	p.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for e, err := range p.Events(ctx, 0) {
		if err != nil {
			p.w.t.Fatalf("%q is not told: %v", words, err)
		}
		if e.Type == node.EventNotice && strings.Contains(e.Notice, words) {
			return
		}
	}
}

// A relay that withholds or alters what somebody needs to join a group, or to follow it,
// keeps them waiting, with a word why; nothing wrong comes of it, and nothing is lost.
func TestRelayWithholdsBlobs(t *testing.T) {
	for how, lie := range lies {
		t.Run(how, func(t *testing.T) {
			w := New(t)
			r, blobs := w.evil()
			ana, ben, _, names := w.crowded(r, 124)
			const name = "Everybody"
			blobs.read.Store(&lie)
			ana.group(node.GroupOptions{Name: name, Members: append(names[:60:60], "Ben")})
			ben.untilTold("cannot join it yet")
			if got := ben.stateIn(name); got != "" {
				t.Errorf("Ben is in the group: %s", got)
			}
			blobs.read.Store(nil)
			r.Cut()
			ben.Until("the group", func() bool { return len(ben.members(name)) == 62 })
			ben.send(name, "here I am")
			ana.Until("the message", func() bool { return len(ana.said(name)) == 1 })

			// The same of a commit.
			blobs.read.Store(&lie)
			if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Add: names[60:]}); err != nil {
				t.Fatal(err)
			}
			ana.Until("the change", func() bool { return len(ana.members(name)) == 126 })
			ana.send(name, "welcome")
			behind := func() bool {
				c, _ := ben.Conversation(t.Context(), name)
				return strings.Contains(c.Reason, "cannot be read yet") && !c.Complete
			}
			ben.Until("a word", behind)
			if len(ben.members(name)) != 62 || len(ben.said(name)) != 1 {
				t.Errorf("Ben has %d members and reads %q", len(ben.members(name)), ben.said(name))
			}
			blobs.read.Store(nil)
			r.Cut()
			ben.Until("the message", func() bool { return len(ben.said(name)) == 2 && len(ben.members(name)) == 126 })
			ben.Until("no word any more", func() bool { return !behind() })
			if c, err := ben.Conversation(t.Context(), name); err != nil || c.Unreadable != 0 || c.Missing != 0 {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// Where the relay has no room for what a large group needs, its changes are given up with
// a word; messages go on, and later changes too.
func TestRelayHasNoRoom(t *testing.T) {
	w := New(t)
	r, blobs := w.evil()
	ana, ben, _, names := w.crowded(r, 30)
	const name = "Everybody"
	ana.group(node.GroupOptions{Name: name, Members: []string{"Ben"}})
	ben.Until("the group", func() bool { return len(ben.members(name)) == 2 })
	blobs.create.Store(&blob.ErrQuota)
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Add: names}); err != nil {
		t.Fatal(err)
	}
	ana.untilTold("does not take")
	ana.send(name, "just us")
	ben.Until("the message", func() bool { return len(ben.said(name)) == 1 })
	if g, err := ana.Group(t.Context(), name); err != nil || g.Changing != 0 || len(g.Members) != 2 {
		t.Errorf("%+v, %v", g, err)
	}
	walkers := "Walkers"
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Name: &walkers}); err != nil {
		t.Fatal(err)
	}
	ben.Until("the name", func() bool { return len(ben.members(walkers)) == 2 })
}

// Nobody waits for a blob that a member only says is there: what does not look like a
// commit in every other respect is skipped at once.
func TestMemberNamesBlobsThatAreNot(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben, crowd, names := w.crowded(r, 1)
	const name = "Three"
	ana.group(node.GroupOptions{Name: name, Members: append(names, "Ben")})
	for _, p := range []*Person{ana, ben} {
		p.Until("the group", func() bool { return len(p.members(name)) == 3 })
	}
	// The welcome leads to the epoch before Ben's update: mallory follows as a member does.
	mallory := crowd[0]
	g, _, err := mallory.join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := conversation.Group(g.Context())
	if err != nil {
		t.Fatal(err)
	}
	box := info.Mailboxes[0].Mailbox
	keys, err := conversation.DeriveKeys(g, box)
	if err != nil {
		t.Fatal(err)
	}
	w1, err := mallory.welcome(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := client.Place{At: w1.At, Chain: w1.Chain}
	fence := w1.At
	follow := func() { // through the commits that are there
		for more := true; more; {
			more = false
			page, err := mallory.client.Read(t.Context(), keys.Read, box, mailbox.Gen(g.Epoch()), at, mailbox.Limit{Entries: 10, Bytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range page.Items {
				if it.Entry == nil {
					t.Fatalf("lost %+v", it.Span)
				}
				at = client.Place{At: mailbox.Mark{Era: it.Entry.Era, Seq: it.Entry.Seq}, Chain: it.Chain}
				if it.Entry.Kind != mailbox.Commit || it.Entry.Gen != mailbox.Gen(g.Epoch()) {
					continue
				}
				open, err := envelope.NewKeys(keys.Envelope)
				if err != nil {
					t.Fatal(err)
				}
				m, err := open.Open(envelope.Context{Mailbox: box, Kind: uint8(mailbox.Commit), Generation: uint32(it.Entry.Gen)}, it.Entry.Payload)
				if err != nil {
					t.Fatal(err)
				}
				got, err := g.Process(m, nil)
				if err != nil {
					t.Fatal(err)
				}
				if g, err = got.Staged.Merge(g); err != nil {
					t.Fatal(err)
				}
				if keys, err = conversation.DeriveKeys(g, box); err != nil {
					t.Fatal(err)
				}
				fence, more = at.At, true
			}
		}
	}
	spilled, _, err := envelope.Spill(envelope.NewSpillSeed(), make([]byte, envelope.MaxMessage+1))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []mailbox.Kind{mailbox.Message, mailbox.Commit} {
		for {
			follow()
			seal, err := envelope.NewKeys(keys.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			d := mailbox.Deposit{Kind: kind, Mailbox: box, Gen: mailbox.Gen(g.Epoch())}
			if kind == mailbox.Commit {
				d.Expect = fence
			}
			if d.Payload, err = seal.Seal(envelope.Context{Mailbox: box, Kind: uint8(kind), Generation: uint32(d.Gen)}, spilled.Append(nil)); err != nil {
				t.Fatal(err)
			}
			_, err = mallory.client.Append(t.Context(), key.CapabilityFromSeed(keys.Append.Seed()), d)
			if errors.Is(err, mailbox.ErrStale) || errors.Is(err, mailbox.ErrConflict) {
				continue // Ben's update has come first
			}
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	ana.send(name, "still here")
	ben.Until("the message", func() bool { return len(ben.said(name)) == 1 })
	about := "still ours"
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Description: &about}); err != nil {
		t.Fatal(err)
	}
	ben.Until("the change", func() bool { g, _ := ben.Group(t.Context(), name); return g.Description == about })
	if c, err := ben.Conversation(t.Context(), name); err != nil || c.Unreadable != 1 || c.State != node.StateOpen {
		t.Errorf("%+v, %v", c, err)
	}
}
