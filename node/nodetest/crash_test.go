package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/node"
	"sotto/storage/kv"
)

// faults makes writes fail: half of them failed, half failed but happened.
type faults struct {
	mu    sync.Mutex
	rng   *rand.Rand
	every int // one write in so many; 0 for none
	after bool
	left  *atomic.Int64
}

var errFault = errors.New("the disk failed")

func (f *faults) BeforeCommit([]kv.Write) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after = false
	if f.every == 0 || f.rng.IntN(f.every) != 0 {
		return nil
	}
	if f.left.Add(-1) < 0 {
		return nil
	}
	if f.rng.IntN(2) == 0 {
		f.after = true
		return nil
	}
	return errFault
}

func (f *faults) AfterCommit() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.after {
		return errFault
	}
	return nil
}

func (f *faults) set(every int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.every = every
}

// pairs remembers every (key, nonce) that sealed something.
type pairs struct {
	t    *testing.T
	mu   sync.Mutex
	seen map[[56]byte]bool
}

func (p *pairs) record(key [32]byte, nonce [24]byte) {
	k := [56]byte(append(key[:], nonce[:]...))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[k] {
		p.t.Error("one key and nonce sealed two things")
	}
	p.seen[k] = true
}

// T18: 10,000 writes of people's nodes fail at random moments of their conversations, in
// both ways, and each time the vault is closed and read back. Nothing that was
// acknowledged is lost, nothing is shown twice or out of order, no key is used twice, and
// everything that was sent opens.
//
// SOTTO_CRASH_POINTS sets another number. The race detector takes a tenth: what it looks
// for shows in each of them.
func TestCrashPoints(t *testing.T) {
	points := 10_000
	if raceDetector {
		points = 1000
	}
	if testing.Short() {
		points = 200
	}
	if s := os.Getenv("SOTTO_CRASH_POINTS"); s != "" {
		var err error
		if points, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for life := 0; life*pointsInLife < points; life++ {
		t.Run(fmt.Sprint(life), func(t *testing.T) {
			t.Parallel()
			live := crashes
			if life%4 == 3 {
				live = groupCrashes
			}
			live(t, uint64(life), min(points-life*pointsInLife, pointsInLife))
		})
	}
}

// pointsInLife is how many writes fail in one conversation's life; every fourth is a group's.
const pointsInLife = 250

// doomed are people whose disks fail.
type doomed struct {
	t      *testing.T
	people []*Person
	disks  []*faults
	left   atomic.Int64
}

func newDoomed(t *testing.T, seed uint64, points int, names ...string) *doomed {
	d := &doomed{t: t}
	d.left.Store(int64(points))
	w := New(t)
	r := w.Relay()
	p := &pairs{t: t, seen: map[[56]byte]bool{}}
	for i, name := range names {
		one := w.Person(name, r)
		one.Stop()
		disk := &faults{rng: rand.New(rand.NewPCG(seed, uint64(10+i))), left: &d.left}
		one.Hook(disk)
		one.Sealed(p.record)
		one.Prompt() // receipts come and go as well
		one.Start()
		d.people, d.disks = append(d.people, one), append(d.disks, disk)
	}
	d.every(9)
	return d
}

// every makes one write in so many fail; 0 for none.
func (d *doomed) every(n int) {
	for _, disk := range d.disks {
		disk.set(n)
	}
}

// meet makes contacts of two, whatever fails.
func (d *doomed) meet(a, b *Person, nameOfB, nameOfA string) {
	var inv node.Invite
	for {
		var err error
		if inv, err = a.Invite(context.Background(), node.InviteOptions{Name: nameOfB}); err == nil {
			break
		}
	}
	for {
		_, err := b.Accept(context.Background(), inv.Link, nameOfA)
		if err == nil || errors.Is(err, node.ErrExists) { // it failed but happened
			break
		}
	}
	b.Until("the contact", func() bool { return b.StateOf(nameOfA) == node.ContactEstablished })
	a.Until("the contact", func() bool { return a.StateOf(nameOfB) == node.ContactEstablished })
}

// send sends a text and reports whether that was acknowledged.
func (d *doomed) send(p *Person, to, text string) bool {
	_, err := p.Send(context.Background(), to, text)
	if err != nil && !errors.Is(err, node.ErrUncertain) {
		d.t.Fatalf("send: %v", err)
	}
	return err == nil
}

// act does something with a message, at random, and returns which text stands or is gone
// if that was acknowledged; after doubt neither is known.
func (d *doomed) act(rng *rand.Rand, p *Person, name string) (text, instead string, known bool) {
	ctx := context.Background()
	ms, err := p.Messages(ctx, name, "", "", 8)
	if err != nil || len(ms) == 0 {
		return "", "", true
	}
	m := ms[rng.IntN(len(ms))]
	if m.Kind != "text" || m.Deleted != "" {
		return "", "", true
	}
	text, known = m.Text, true
	switch kind := rng.IntN(8); {
	case kind == 0 && m.Mine:
		instead = m.Text + " edited"
		_, err = p.EditMessage(ctx, name, m.ID, instead, nil)
	case kind == 1 && m.Mine:
		_, err = p.DeleteMessage(ctx, name, m.ID, true)
	case kind == 2:
		_, err = p.MarkRead(ctx, name, node.ReadMark{Through: m.ID})
		if errors.Is(err, node.ErrInvalid) { // not stored yet
			err = nil
		}
		text = ""
	default:
		_, err = p.React(ctx, name, m.ID, []string{fmt.Sprint("r", rng.IntN(3))})
		text = ""
	}
	if errors.Is(err, node.ErrInvalid) && p.message(name, m.ID).Deleted != "" {
		err = nil // its author was faster
	}
	if err != nil && !errors.Is(err, node.ErrUncertain) {
		d.t.Fatalf("act: %v", err)
	}
	return text, instead, err == nil
}

// seen is what a person sees of a conversation, without names.
func seen(p *Person, name string) (out []string) {
	ms, _ := p.Messages(context.Background(), name, "", "", 0)
	for _, m := range ms {
		if m.Kind != "text" {
			continue // who came later has not been told of the same changes
		}
		s := fmt.Sprint(m.ID[:8], " ", m.Text, " ", m.Deleted, " ", m.Edited.IsZero())
		for _, r := range m.Reactions {
			s += fmt.Sprint(" ", r.Reaction, len(r.By))
		}
		out = append(out, s)
	}
	return out
}

// same compares what people see of one conversation, once everybody has read everything:
// when all that was said is stored, each says a last word, and waits for the others'.
func (d *doomed) same(names map[*Person]string) {
	d.t.Helper()
	for p, name := range names {
		p.Until("an empty outbox", func() bool { c, err := p.Conversation(context.Background(), name); return err == nil && c.Queued == 0 })
	}
	last := map[string]bool{}
	for p, name := range names {
		word := fmt.Sprint(filepath.Base(p.Home), " 1000000")
		last[word] = true
		d.send(p, name, word)
	}
	var first []string
	for p, name := range names {
		p.Until("the last words", func() bool { return has(p.Texts(name), last) })
		p.Until("an empty outbox", func() bool { c, err := p.Conversation(context.Background(), name); return err == nil && c.Queued == 0 })
		mine := seen(p, name)
		slices.Sort(mine) // the last words may stand in another order yet
		if first == nil {
			first = mine
		} else if !slices.Equal(first, mine) {
			for _, s := range mine {
				if !slices.Contains(first, s) {
					d.t.Errorf("%s alone sees %q", filepath.Base(p.Home), s)
				}
			}
			for _, s := range first {
				if !slices.Contains(mine, s) {
					d.t.Errorf("%s does not see %q", filepath.Base(p.Home), s)
				}
			}
		}
	}
}

// check looks at what everybody sees in the end: what one person wrote in its order, once,
// and nothing that did not open.
func (d *doomed) check(p *Person, conversation string) {
	newest := map[string]int{}
	for _, said := range p.said(conversation) {
		var by, from string
		var n int
		if _, err := fmt.Sscan(said, &by, &from, &n); err != nil {
			d.t.Fatalf("%q: %v", said, err)
		}
		if last, ok := newest[from]; ok && n <= last {
			d.t.Errorf("%s sees number %d of %s behind number %d", filepath.Base(p.Home), n, from, last)
		}
		newest[from] = n
	}
	c, err := p.Conversation(context.Background(), conversation)
	if err != nil || c.Unreadable != 0 || c.Missing != 0 || c.State != node.StateOpen {
		d.t.Errorf("%s: conversation %+v, %v", filepath.Base(p.Home), c, err)
	}
	if left := d.left.Load(); left > 0 {
		d.t.Errorf("%d crash points are left", left)
	}
}

// crashes is the life of a conversation between two.
func crashes(t *testing.T, seed uint64, points int) {
	d := newDoomed(t, seed, points, "Ana", "Ben")
	rng := rand.New(rand.NewPCG(seed, 3))
	ana, ben := d.people[0], d.people[1]
	d.meet(ana, ben, "Ben", "Ana") // under fire as well
	names := [2]string{"Ben", "Ana"}
	acked := [2]map[string]bool{{}, {}}
	arrive := func() {
		for k, to := range []*Person{ben, ana} {
			to.Until("what is on its way", func() bool { return has(to.Texts(names[1-k]), acked[k]) })
		}
	}
	for n := 0; d.left.Load() > 0; n++ {
		i := rng.IntN(2)
		text := fmt.Sprint(filepath.Base(d.people[i].Home), " ", n)
		if d.send(d.people[i], names[i], text) {
			acked[i][text] = true
		}
		if text, instead, known := d.act(rng, d.people[i], names[i]); text != "" {
			delete(acked[i], text)
			if instead != "" && known {
				acked[i][instead] = true
			}
		}
		if n%50 == 49 {
			arrive() // so that epochs come and go
		}
	}
	d.every(0)
	arrive()
	d.same(map[*Person]string{ana: names[0], ben: names[1]})
	for k, who := range d.people {
		d.check(who, names[k])
	}
}

// groupCrashes is the life of a group of three, who change it while they write.
func groupCrashes(t *testing.T, seed uint64, points int) {
	const name = "Trio"
	ctx := context.Background()
	d := newDoomed(t, seed, points, "Ana", "Ben", "Cem")
	rng := rand.New(rand.NewPCG(seed, 4))
	ana := d.people[0]
	d.meet(ana, d.people[1], "Ben", "Ana")
	d.meet(ana, d.people[2], "Cem", "Ana")
	ana.Until("key packages", func() bool {
		for {
			_, err := ana.CreateGroup(ctx, node.GroupOptions{Name: name, Members: []string{"Ben", "Cem"}})
			if err == nil || ana.stateIn(name) != "" { // it failed but happened
				return true
			}
			if !errors.Is(err, node.ErrUncertain) {
				return false
			}
		}
	})
	for _, p := range d.people {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	acked := map[string]bool{}
	arrive := func() {
		for _, p := range d.people {
			p.Until("what is on its way", func() bool { return has(p.Texts(name), acked) })
		}
	}
	for n := 0; d.left.Load() > 0; n++ {
		p := d.people[rng.IntN(len(d.people))]
		if rng.IntN(12) == 0 {
			about := fmt.Sprint(n)
			if _, err := ana.ChangeGroup(ctx, name, node.GroupChange{Description: &about}); err != nil && !errors.Is(err, node.ErrUncertain) {
				t.Fatal(err)
			}
		}
		text := fmt.Sprint(filepath.Base(p.Home), " ", n)
		if d.send(p, name, text) {
			acked[text] = true
		}
		if text, instead, known := d.act(rng, p, name); text != "" {
			delete(acked, text)
			if instead != "" && known {
				acked[instead] = true
			}
		}
		if n%50 == 49 {
			arrive()
		}
	}
	d.every(0)
	arrive()
	for _, p := range d.people {
		p.Until("the outbox", func() bool { s, err := p.Status(ctx); return err == nil && s.Queued == 0 })
	}
	arrive()
	d.same(map[*Person]string{d.people[0]: name, d.people[1]: name, d.people[2]: name})
	for _, p := range d.people {
		p.Until("the same as others", func() bool { return len(p.said(name)) == len(ana.said(name)) })
		d.check(p, name)
		if got, want := texts(p, name), texts(ana, name); !slices.Equal(got, want) {
			t.Errorf("%s reads %q, Ana %q", filepath.Base(p.Home), got, want)
		}
	}
}

// texts is what was said, without by whom: names differ.
func texts(p *Person, conversation string) (out []string) {
	for _, s := range p.said(conversation) {
		_, text, _ := strings.Cut(s, ": ")
		out = append(out, text)
	}
	return out
}

// has reports whether all of want are among texts.
func has(texts []string, want map[string]bool) bool {
	found := map[string]bool{}
	for _, s := range texts {
		found[s] = true
	}
	for s := range want {
		if !found[s] {
			return false
		}
	}
	return true
}
