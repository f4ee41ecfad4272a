package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"sotto/node"
	"sotto/node/store"
	"sotto/storage/search"
	"sotto/storage/vault"
)

// found returns the texts that a query finds, the newest first, page by page.
func (p *Person) found(query, in string) (out []string) {
	p.w.t.Helper()
	for cursor := ""; ; {
		page, err := p.Search(context.Background(), query, in, cursor, 2)
		if err != nil {
			p.w.t.Fatalf("search %q: %v", query, err)
		}
		for _, h := range page.Hits {
			out = append(out, h.Message.Text)
		}
		if cursor = page.Next; cursor == "" {
			return out
		}
	}
}

func (p *Person) finds(query, in string, want ...string) {
	p.w.t.Helper()
	if got := p.found(query, in); !slices.Equal(got, want) {
		p.w.t.Errorf("%q in %q: found %q, want %q", query, in, got, want)
	}
}

// Whatever was sent and received is found, with its filters, after a restart too, and what
// was edited or removed is not.
func TestSearch(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ada, bob, eve := w.Person("Ada", r), w.Person("Bob", r), w.Person("Eve", r)
	w.Meet(ada, bob, "bob", "ada")
	w.Meet(ada, eve, "eve", "ada")
	send := func(from *Person, to, text string) node.Message {
		t.Helper()
		m, err := from.Send(t.Context(), to, text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	send(ada, "bob", "the green tea is at https://tea.example")
	second := send(ada, "bob", "护照复印件 and coffee")
	third := send(ada, "eve", "tea for Eve")
	bob.Until("both", func() bool { return len(bob.Texts("ada")) >= 2 })
	send(bob, "ada", "more tea, CAFÉ")
	ada.Until("the answer", func() bool { return slices.Contains(ada.Texts("bob"), "more tea, CAFÉ") })
	for range 2 {
		ada.finds("tea", "", "more tea, CAFÉ", "tea for Eve", "the green tea is at https://tea.example")
		ada.finds("tea", "bob", "more tea, CAFÉ", "the green tea is at https://tea.example")
		ada.finds("tea in:eve", "", "tea for Eve")
		ada.finds("tea from:bob", "", "more tea, CAFÉ")
		ada.finds("tea -from:bob -in:eve", "", "the green tea is at https://tea.example")
		ada.finds("has:link", "", "the green tea is at https://tea.example")
		ada.finds("cafe", "", "more tea, CAFÉ")
		ada.finds("复印", "", "护照复印件 and coffee")
		ada.finds("tea before:2001", "")
		bob.finds("护照 coff*", "", "护照复印件 and coffee")
		eve.finds("green", "")
		ada.Stop()
		ada.Start()
	}
	if _, err := ada.Search(t.Context(), "tea in:nobody", "", "", 10); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("in:nobody: %v", err)
	}
	if _, err := ada.Search(t.Context(), `"tea`, "", "", 10); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("an open quotation: %v", err)
	}
	if _, err := ada.Search(t.Context(), "tea", "", "7-7", 10); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("another's cursor: %v", err)
	}
	around, err := ada.Around(t.Context(), "bob", second.ID, 3)
	if err != nil || len(around) != 3 || around[1].ID != second.ID {
		t.Errorf("around a message: %d messages, %v", len(around), err)
	}
	if _, err := ada.Around(t.Context(), "bob", third.ID, 3); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("around a message of another conversation: %v", err)
	}
	page, err := ada.Search(t.Context(), "green", "", "", 10)
	if err != nil || len(page.Hits) != 1 || !slices.Equal(page.Hits[0].Highlights, []search.Range{{Start: 4, End: 9}}) {
		t.Errorf("highlights: %+v, %v", page, err)
	}

	if _, err := ada.EditMessage(t.Context(), "bob", second.ID, "nothing but milk", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ada.DeleteMessage(t.Context(), "eve", third.ID, true); err != nil {
		t.Fatal(err)
	}
	ada.finds("milk", "", "nothing but milk")
	ada.finds("coffee", "")
	ada.finds("tea", "eve")
	bob.Until("the edit", func() bool { return slices.Contains(bob.Texts("ada"), "nothing but milk") })
	bob.finds("coffee", "")
	bob.finds("milk", "", "nothing but milk")
	eve.Until("the removal", func() bool { return !slices.Contains(eve.Texts("ada"), "tea for Eve") })
	eve.finds("tea", "")
}

// A history that no index knows is indexed when the node starts, and one that is damaged
// is made anew.
func TestSearchFindsOldHistory(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ada, bob := w.Person("Ada", r), w.Person("Bob", r)
	w.Meet(ada, bob, "bob", "ada")
	for i := range 20 {
		if _, err := ada.Send(t.Context(), "bob", fmt.Sprintf("tea %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	bob.Until("all", func() bool { return len(bob.Texts("ada")) == 20 })
	ada.Until("all", func() bool { s, _ := ada.Status(context.Background()); return s.Queued == 0 })
	want := ada.found("tea", "")
	if len(want) != 20 {
		t.Fatalf("found %d", len(want))
	}
	for _, how := range []string{"lost", "damaged"} {
		ada.Stop()
		v, err := vault.Open(ada.Home+"/vault", vault.Unlock{Passphrase: Passphrase}, vault.Config{Schema: store.Schema})
		if err != nil {
			t.Fatal(err)
		}
		err = v.Update(func(tx *vault.Tx) error {
			var all []string
			for o, err := range tx.Orders(search.Table, "search", "", false) {
				if err != nil {
					return err
				}
				all = append(all, o)
			}
			for _, o := range all {
				ref := vault.Ref{Table: search.Table, Partition: "search", Order: o}
				if how == "lost" {
					if err := tx.Delete(ref); err != nil {
						return err
					}
				} else if len(o) > 1 {
					if err := tx.Put(ref, vault.Bucket{}, []byte("damaged")); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err := errors.Join(err, v.Close()); err != nil {
			t.Fatal(err)
		}
		ada.Start()
		ada.untilIndexed()
		ada.finds("tea", "", want...)
	}
}

// untilIndexed waits until the index is whole: no event tells of that.
func (p *Person) untilIndexed() {
	p.w.t.Helper()
	for {
		page, err := p.Search(p.w.t.Context(), "tea", "", "", 1)
		if err == nil && !page.Partial {
			return
		}
		if p.w.t.Context().Err() != nil {
			p.w.t.Fatal(err)
		}
	}
}

// After any failed write, in both ways, the index says what the messages say.
func TestSearchSurvivesCrashes(t *testing.T) {
	d := newDoomed(t, 77, 120, "Ada", "Bob")
	ada, bob := d.people[0], d.people[1]
	d.every(0)
	ada.w.Meet(ada, bob, "bob", "ada")
	d.every(5)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 60 {
		m, err := ada.Send(t.Context(), "bob", fmt.Sprintf("tea %d", i))
		if err != nil {
			continue
		}
		switch rng.IntN(3) {
		case 0:
			ada.DeleteMessage(t.Context(), "bob", m.ID, false) // may fail
		case 1:
			ada.EditMessage(t.Context(), "bob", m.ID, fmt.Sprintf("tea %d, edited", i), nil)
		}
	}
	d.every(0)
	ada.Until("all is sent", func() bool { s, err := ada.Status(context.Background()); return err == nil && s.Queued == 0 })
	for _, p := range d.people {
		with := "bob"
		if p == bob {
			with = "ada"
		}
		ms, err := p.Messages(t.Context(), with, "", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, m := range ms {
			if m.Kind == "text" && m.Text != "" && m.Deleted == "" {
				want = append(want, m.Text)
			}
		}
		got := p.found("tea", "")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
	}
}
