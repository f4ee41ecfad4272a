package nodetest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"sotto/node"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/badgerbox"
	"sotto/storage/blob/dirblob"
)

// onDisk makes a relay that keeps everything on disk, flushes and all.
func (w *World) onDisk() *Relay {
	r := w.Relay()
	r.Stop()
	boxes, err := badgerbox.Open(badgerbox.Config{Dir: filepath.Join(w.t.TempDir(), "boxes")})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { boxes.Close() })
	blobs, err := dirblob.Open(dirblob.Config{Dir: filepath.Join(w.t.TempDir(), "blobs")})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { blobs.Close() })
	r.durable, r.Blobs = boxes, blobs
	r.Start()
	w.t.Cleanup(r.Stop)
	return r
}

// letters returns how many letters lie in somebody's inbox.
func (o *one) letters(t testing.TB) int {
	page, err := o.client.Read(context.Background(), o.read, o.inbox.Mailbox, 0, client.Place{Chain: mailbox.FirstChain(o.inbox.Mailbox)}, mailbox.Limit{Entries: 100, Bytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Items)
}

// BenchmarkConversation measures groups of a node whose vault, like the relay's store, is on
// disk. Node and relay are in one process, joined by pipes; the other members have devices
// and inboxes, and no nodes. What is measured ends when the last device that was added has
// its letter, and so everything that it takes to join.
func BenchmarkConversation(b *testing.B) {
	const size = 250
	setup := func(b *testing.B, extra int) (ana *Person, crowd []*one, names []string) {
		w := New(b)
		w.disk = true
		r := w.onDisk()
		ana = w.Person("Ana", r)
		crowd, names = ana.crowd(r, size-1+extra)
		return ana, crowd, names
	}
	made := func(ana *Person, id string, members int, last *one, letters int) {
		ana.Until("the members", func() bool {
			g, err := ana.Group(context.Background(), id)
			return err == nil && len(g.Members) == members && g.Changing == 0
		})
		for last.letters(b) < letters {
		}
	}
	b.Run("group_250", func(b *testing.B) {
		ana, crowd, names := setup(b, 0)
		for n := 1; b.Loop(); n++ {
			c, err := ana.CreateGroup(context.Background(), node.GroupOptions{Name: fmt.Sprint("Everybody ", n), Members: names})
			if err != nil {
				b.Fatal(err)
			}
			made(ana, c.ID, size, crowd[size-2], n)
		}
	})
	b.Run("add_250", func(b *testing.B) {
		const most = 40
		ana, crowd, names := setup(b, most)
		c, err := ana.CreateGroup(context.Background(), node.GroupOptions{Name: "Everybody", Members: names[:size-1], MaxLeaves: 2 * size})
		if err != nil {
			b.Fatal(err)
		}
		made(ana, c.ID, size, crowd[size-2], 1)
		n := 0
		for b.Loop() {
			if n == most {
				b.Fatal("it is faster than was thought possible: make a larger crowd")
			}
			at := size - 1 + n
			if _, err := ana.ChangeGroup(context.Background(), c.ID, node.GroupChange{Add: names[at : at+1]}); err != nil {
				b.Fatal(err)
			}
			n++
			made(ana, c.ID, size+n, crowd[at], 1)
		}
	})
}
