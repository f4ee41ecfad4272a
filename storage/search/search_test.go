package search

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/storage/vault"
)

var testKey = make([]byte, 32)

// folder is in memory where that can be had: the disk's flushes show nothing here.
func folder(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "sotto-*")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "vault")
}

func create(t testing.TB, dir string) (*vault.Vault, *Index) {
	t.Helper()
	v, err := vault.Create(dir, vault.Options{Keys: map[string][]byte{"test": testKey}, Config: vault.Config{Reserve: -1, MaxTx: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	return v, opened(t, v)
}

func opened(t testing.TB, v *vault.Vault) *Index {
	t.Helper()
	x, err := Open(v)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func reopen(t testing.TB, v *vault.Vault, dir string) (*vault.Vault, *Index) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(dir, vault.Unlock{Key: testKey}, vault.Config{Reserve: -1, MaxTx: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return v, opened(t, v)
}

// world is an index beside the texts that are in it.
type world struct {
	t     testing.TB
	dir   string
	v     *vault.Vault
	x     *Index
	texts map[string]Doc
	order []string // as they came
	clock int
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: folder(t), texts: map[string]Doc{}}
	w.v, w.x = create(t, w.dir)
	t.Cleanup(func() { w.v.Close() })
	w.fill(nil)
	return w
}

// fill ends the filling of a new index, with docs from the newest on.
func (w *world) fill(docs []Doc) {
	w.t.Helper()
	at := 0
	err := w.x.Fill(context.Background(), w.v, func(*vault.Tx) ([]Doc, func(*vault.Tx) error, error) {
		page := docs[at:min(len(docs), at+700)]
		return page, func(*vault.Tx) error { at += len(page); return nil }, nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) doc(text string, tags ...string) Doc {
	w.clock++
	return Doc{Name: fmt.Sprintf("doc %d", w.clock), Time: time.Unix(int64(w.clock)*3600, 0), Text: text, Tags: tags}
}

func (w *world) update(f func(tx *vault.Tx) error) {
	w.t.Helper()
	if err := w.v.Update(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) add(d Doc) {
	w.t.Helper()
	w.update(func(tx *vault.Tx) error { return w.x.Add(tx, &d) })
	w.texts[d.Name] = d
	w.order = append(w.order, d.Name)
}

func (w *world) put(d Doc) {
	w.t.Helper()
	w.update(func(tx *vault.Tx) error { return w.x.Put(tx, &d) })
	if _, had := w.texts[d.Name]; !had {
		w.order = append(w.order, d.Name)
	}
	w.texts[d.Name] = d
}

func (w *world) remove(name string) {
	w.t.Helper()
	w.update(func(tx *vault.Tx) error { return w.x.Remove(tx, name) })
	delete(w.texts, name)
	w.order = slices.DeleteFunc(w.order, func(n string) bool { return n == name })
}

func (w *world) maintain(clean bool) {
	w.t.Helper()
	if err := w.x.Maintain(context.Background(), w.v, clean); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) matches(q *Query, tags []string, d Doc) bool {
	for _, tag := range tags {
		if !slices.Contains(d.Tags, tag) {
			return false
		}
	}
	return q.Within(d.Time) && q.Match(d.Text)
}

// naive looks at every text.
func (w *world) naive(query string, tags ...string) (out []string) {
	q, err := Parse(query, time.UTC)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range slices.Backward(w.order) {
		if w.matches(q, tags, w.texts[name]) {
			out = append(out, name)
		}
	}
	return out
}

// find asks the index, page by page.
func (w *world) find(limit int, query string, tags ...string) (out []string) {
	w.t.Helper()
	q, err := Parse(query, time.UTC)
	if err != nil {
		w.t.Fatal(err)
	}
	r := Request{Query: q, Tags: tags, Limit: limit}
	for {
		err := w.v.View(func(tx *vault.Tx) error {
			p, err := w.x.Search(tx, r, func(name string) (bool, error) {
				d, ok := w.texts[name]
				if !ok {
					w.t.Errorf("asked about %q, which was removed", name)
				}
				return ok && w.matches(q, tags, d), nil
			})
			out, r.Cursor = append(out, p.Names...), p.Next
			if len(p.Names) > limit {
				w.t.Errorf("%d hits on a page of %d", len(p.Names), limit)
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Cursor == "" {
			return out
		}
	}
}

func (w *world) same(query string, tags ...string) {
	w.t.Helper()
	got, want := w.find(1+rand.IntN(40), query, tags...), w.naive(query, tags...)
	if !slices.Equal(got, want) {
		w.t.Fatalf("%q %q: found %d %v, want %d %v", query, tags, len(got), head(got), len(want), head(want))
	}
}

func head(s []string) []string { return s[:min(len(s), 8)] }

var (
	words = strings.Fields("the a of tea café Straße naïve photo photos photograph Paris 2026 hello world 👍 🎉 über don't résumé")
	han   = []rune("护照复印件七万你好世界火车票东京ラーメン한국어")
)

// sentence makes a text of few words, so that they meet.
func sentence(rng *rand.Rand) string {
	var b strings.Builder
	for range 1 + rng.IntN(8) {
		if rng.IntN(2) == 0 {
			b.WriteString(words[rng.IntN(len(words))] + []string{" ", ", ", " "}[rng.IntN(3)])
			continue
		}
		for range 1 + rng.IntN(5) {
			b.WriteRune(han[rng.IntN(len(han))])
		}
		b.WriteString([]string{"", " ", "。"}[rng.IntN(3)])
	}
	return b.String()
}

func question(rng *rand.Rand) string {
	one := func() string {
		switch rng.IntN(6) {
		case 0:
			return string(han[rng.IntN(len(han))])
		case 1:
			i := rng.IntN(len(han) - 3)
			return string(han[i : i+2+rng.IntN(2)])
		case 2:
			return `"` + words[rng.IntN(len(words))] + " " + words[rng.IntN(len(words))] + `"`
		case 3:
			return []string{"pho*", "photo*", "photog*", "hel*", "caf*", "str*"}[rng.IntN(6)]
		default:
			return words[rng.IntN(len(words))]
		}
	}
	q := one()
	for range rng.IntN(3) {
		q += " " + one()
	}
	if rng.IntN(3) == 0 {
		q += " -" + one()
	}
	if rng.IntN(6) == 0 {
		q += " after:1970-01-10"
	}
	if rng.IntN(6) == 0 {
		q += " before:1970-02"
	}
	return q
}

// An index finds what a look at every text finds, in the same order, after any additions,
// changes, removals, maintenance and restarts.
func TestFindsWhatIsThere(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t)
			for range 1500 {
				switch n := rng.IntN(100); {
				case n < 80 || len(w.order) == 0:
					w.add(w.doc(sentence(rng), fmt.Sprint("in ", rng.IntN(4))))
				case n < 88:
					w.remove(w.order[rng.IntN(len(w.order))])
				case n < 94:
					d := w.texts[w.order[rng.IntN(len(w.order))]]
					d.Text = sentence(rng)
					w.put(d)
				case n < 95:
					w.put(w.doc(sentence(rng), "in 1"))
				case n < 97:
					w.maintain(rng.IntN(4) == 0)
				case n < 98 && rng.IntN(10) == 0:
					w.v, w.x = reopen(t, w.v, w.dir)
				default:
					if rng.IntN(3) == 0 {
						w.same(question(rng), fmt.Sprint("in ", rng.IntN(5)))
					} else {
						w.same(question(rng))
					}
				}
			}
			w.update(func(tx *vault.Tx) error { return w.x.RemoveTag(tx, "in 2") })
			w.order = slices.DeleteFunc(w.order, func(n string) bool {
				gone := slices.Contains(w.texts[n].Tags, "in 2")
				if gone {
					delete(w.texts, n)
				}
				return gone
			})
			for range 2 {
				for range 60 {
					w.same(question(rng))
				}
				w.maintain(true)
			}
			w.leftovers()
		})
	}
}

// leftovers complains of what clean maintenance should have taken away.
func (w *world) leftovers() {
	w.t.Helper()
	err := w.v.View(func(tx *vault.Tx) error {
		s, err := load(tx)
		if err != nil {
			return err
		}
		gone, err := s.count(tx, gonePart)
		if err != nil {
			return err
		}
		buckets, err := tx.Buckets(vault.Messages, partition)
		if err != nil {
			return err
		}
		if gone != 0 || s.Unclean || s.Dropped {
			w.t.Errorf("%d docs are gone and not cleaned away; %+v", gone, s)
		}
		if len(buckets) > len(s.Segments)+1 {
			w.t.Errorf("%d buckets for %d segments", len(buckets), len(s.Segments))
		}
		docs := 0
		for _, g := range s.Segments {
			docs += int(g.Docs)
		}
		loose, err := s.count(tx, loosePart)
		if docs+loose != len(w.texts) {
			w.t.Errorf("%d docs and %d loose, want %d", docs, loose, len(w.texts))
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// What was there before the index is added behind what came since, and what changes
// meanwhile is neither lost nor doubled.
func TestFill(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	w := &world{t: t, dir: folder(t), texts: map[string]Doc{}}
	w.v, w.x = create(t, w.dir)
	t.Cleanup(func() { w.v.Close() })
	var old []Doc
	for range 2500 {
		d := w.doc(sentence(rng))
		old = append(old, d)
		w.texts[d.Name] = d
	}
	slices.Reverse(old) // from the newest on
	changed := func(i int, d *Doc) {
		if d == nil {
			w.update(func(tx *vault.Tx) error { return w.x.Remove(tx, old[i].Name) })
			delete(w.texts, old[i].Name)
			return
		}
		w.update(func(tx *vault.Tx) error { return w.x.Put(tx, d) })
		w.texts[d.Name] = *d
	}
	at, reads := 0, 0
	fill := func(stop int) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return w.x.Fill(ctx, w.v, func(*vault.Tx) ([]Doc, func(*vault.Tx) error, error) {
			if reads++; reads == stop {
				cancel()
				return nil, nil, ctx.Err()
			}
			var page []Doc
			end := min(len(old), at+300)
			for _, d := range old[at:end] {
				if now, ok := w.texts[d.Name]; ok {
					page = append(page, now)
				}
			}
			return page, func(*vault.Tx) error { at = end; return nil }, nil
		})
	}
	edit := w.texts[old[10].Name]
	edit.Text = "edited before it was filled in"
	changed(10, &edit)
	changed(11, nil)
	if err := fill(4); !errors.Is(err, context.Canceled) {
		t.Fatalf("a fill that was stopped: %v", err)
	}
	edit2 := w.texts[old[2000].Name]
	edit2.Text = "edited before it was filled in, too"
	changed(2000, &edit2)
	edit3 := w.texts[old[20].Name]
	edit3.Text = "edited once it was there"
	changed(20, &edit3)
	w.v, w.x = reopen(t, w.v, w.dir)
	if err := fill(0); err != nil {
		t.Fatal(err)
	}
	// What was edited while it was not yet there counts as new.
	for _, d := range slices.Backward(old) {
		if _, ok := w.texts[d.Name]; ok && d.Name != edit.Name && d.Name != edit2.Name {
			w.order = append(w.order, d.Name)
		}
	}
	w.order = append(w.order, edit.Name, edit2.Name)
	for range 2 {
		for _, q := range []string{"the", "edited", "护照", "东", "photo*", "café tea", "after:1970-01-02", "before:1970-01-05"} {
			w.same(q)
		}
		w.maintain(true)
	}
	w.leftovers()
	err := w.v.View(func(tx *vault.Tx) error {
		if st, err := w.x.Stats(tx); err != nil || st.Filling || st.Docs != len(w.texts) {
			t.Errorf("%+v, %v", st, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A text that is changed while its page is being added is asked for again.
func TestFillIsOvertaken(t *testing.T) {
	w := &world{t: t, dir: folder(t), texts: map[string]Doc{}}
	w.v, w.x = create(t, w.dir)
	t.Cleanup(func() { w.v.Close() })
	old := []Doc{w.doc("first"), w.doc("second"), w.doc("third")}
	reads := 0
	err := w.x.Fill(t.Context(), w.v, func(tx *vault.Tx) ([]Doc, func(*vault.Tx) error, error) {
		page := slices.Clone(old)
		switch reads++; reads {
		case 1:
			old[0].Text = "first, edited"
			d := old[0]
			w.update(func(tx *vault.Tx) error { return w.x.Put(tx, &d) })
			w.update(func(tx *vault.Tx) error { return w.x.Remove(tx, old[1].Name) })
			old = slices.Delete(old, 1, 2)
		case 3:
			page = nil
		}
		return page, func(*vault.Tx) error { return nil }, nil
	})
	if err != nil || reads != 3 {
		t.Fatalf("%d pages, %v; want the first one twice", reads, err)
	}
	for _, d := range old {
		w.texts[d.Name] = d
	}
	w.order = []string{old[1].Name, old[0].Name}
	for _, q := range []string{"first", "edited", "second", "third"} {
		w.same(q)
	}
}

// A merge that a removal overtakes is given up, and done the next time.
func TestMergeIsOvertaken(t *testing.T) {
	w := newWorld(t)
	for i := range 200 {
		w.add(w.doc(fmt.Sprint("text ", i)))
	}
	p, err := w.x.plan(w.v, false)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	w.remove(w.order[50])
	w.add(w.doc("text of another")) // which does not matter
	if done, err := w.x.carryOut(t.Context(), w.v, p); done || err != nil {
		t.Fatalf("the merge went on: %v, %v", done, err)
	}
	w.same("text")
	w.maintain(true)
	w.same("text")
	w.leftovers()
}

// Whatever of the index is damaged or lost, the answer is an error and never less than
// what there is; made anew it is whole.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	for i := range 3000 {
		text := "common"
		if i%100 == 0 {
			text = "common rare"
		}
		w.add(w.doc(text))
		if i%200 == 0 {
			w.maintain(false)
		}
	}
	w.maintain(false)
	want := w.naive("common")
	var orders []string
	err := w.v.View(func(tx *vault.Tx) error {
		for o, err := range tx.Orders(Table, partition, "", false) {
			if err != nil {
				return err
			}
			orders = append(orders, o)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{} // one of each kind
	for _, o := range orders {
		kind := o
		if len(o) > 8 {
			kind = o[8:9]
		}
		if kind == segPart {
			kind += o[17:18]
		}
		parts[kind] = o
	}
	for kind, o := range parts {
		if kind == orderKey || kind == loosePart {
			continue // found by Open; and one that is lost cannot be told from none
		}
		for _, how := range []string{"lost", "cut", "other"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				w.t = t
				var was []byte
				w.update(func(tx *vault.Tx) (err error) {
					if was, err = tx.Get(ref(o)); err != nil {
						return err
					}
					switch how {
					case "lost":
						return tx.Delete(ref(o))
					case "cut":
						return tx.Put(ref(o), vault.Bucket{}, was[:len(was)/2])
					}
					return tx.Put(ref(o), vault.Bucket{}, append([]byte{9}, was...))
				})
				err := w.v.View(func(tx *vault.Tx) error {
					q, _ := Parse("common", time.UTC)
					p, err := w.x.Search(tx, Request{Query: q, Limit: 1 << 20}, func(string) (bool, error) { return true, nil })
					if err == nil && len(p.Names) != len(want) {
						t.Errorf("%d of %d were found, and no error", len(p.Names), len(want))
					}
					return err
				})
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%v, want that it is damaged", err)
				}
				w.update(func(tx *vault.Tx) error { return tx.Put(ref(o), vault.Bucket{}, was) })
			})
		}
	}
	w.t = t
	if err := w.x.Reset(w.v); err != nil {
		t.Fatal(err)
	}
	if got := w.find(10, "common"); len(got) != 0 {
		t.Errorf("%d hits in an empty index", len(got))
	}
	var all []Doc
	for _, name := range slices.Backward(w.order) {
		all = append(all, w.texts[name])
	}
	w.fill(all)
	w.same("rare")
	w.maintain(true)
	w.same("common")
	w.leftovers()
}

// A cursor holds while docs are added, removed and merged, and not for another index.
func TestCursor(t *testing.T) {
	w := newWorld(t)
	for range 1000 {
		w.add(w.doc("tea"))
	}
	q, _ := Parse("tea", time.UTC)
	page := func(cursor string) (p Page, err error) {
		err = w.v.View(func(tx *vault.Tx) error {
			p, err = w.x.Search(tx, Request{Query: q, Limit: 300, Cursor: cursor}, func(string) (bool, error) { return true, nil })
			return err
		})
		return p, err
	}
	first, err := page("")
	if err != nil || len(first.Names) != 300 {
		t.Fatal(len(first.Names), err)
	}
	w.remove(w.order[699]) // the next one
	w.add(w.doc("tea"))
	w.maintain(true)
	second, err := page(first.Next)
	if err != nil || len(second.Names) != 300 || second.Names[0] != w.order[698] {
		t.Fatal(len(second.Names), second.Names[0], w.order[698], err)
	}
	if err := w.x.Reset(w.v); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{first.Next, "x", "1", "-", "1-x", strings.Repeat("9", 40) + "-1"} {
		if _, err := page(c); !errors.Is(err, ErrCursor) {
			t.Errorf("cursor %q: %v", c, err)
		}
	}
}

// A query that little fits is answered in parts, each of bounded work.
func TestCandidatesAreBounded(t *testing.T) {
	w := newWorld(t)
	var old []Doc
	for range maxCandidates + 10 {
		old = append(old, w.doc("b a"))
	}
	if err := w.x.Reset(w.v); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(old)
	w.fill(old)
	q, _ := Parse(`"a b"`, time.UTC)
	looked := 0
	err := w.v.View(func(tx *vault.Tx) error {
		p, err := w.x.Search(tx, Request{Query: q, Limit: 10}, func(string) (bool, error) { looked++; return false, nil })
		if p.Next == "" || len(p.Names) != 0 || looked != maxCandidates {
			t.Errorf("%d texts were looked at, %+v", looked, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The orders of records, which are not sealed, hold neither terms nor names.
func TestOrdersDoNotBetrayTerms(t *testing.T) {
	w := newWorld(t)
	for range 200 {
		w.add(w.doc("xylophone"))
	}
	w.maintain(false)
	err := w.v.View(func(tx *vault.Tx) error {
		for o, err := range tx.Orders(Table, partition, "", false) {
			if err != nil {
				return err
			}
			if strings.Contains(o, "xylo") || strings.Contains(o, "doc ") {
				t.Errorf("order %q", o)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
