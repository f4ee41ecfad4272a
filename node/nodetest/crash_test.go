package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
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
			crashes(t, uint64(life), min(points-life*pointsInLife, pointsInLife))
		})
	}
}

// pointsInLife is how many writes fail in one conversation's life.
const pointsInLife = 250

func crashes(t *testing.T, seed uint64, points int) {
	var left atomic.Int64
	left.Store(int64(points))
	w := New(t)
	r := w.Relay()
	rng := rand.New(rand.NewPCG(seed, 3))
	p := &pairs{t: t, seen: map[[56]byte]bool{}}
	var people [2]*Person
	var disks [2]*faults
	for i, name := range []string{"Ana", "Ben"} {
		people[i] = w.Person(name, r)
		people[i].Stop()
		disks[i] = &faults{rng: rand.New(rand.NewPCG(seed, uint64(10+i))), left: &left}
		people[i].Hook(disks[i])
		people[i].Sealed(p.record)
		people[i].Start()
	}
	ana, ben := people[0], people[1]
	// They meet under fire as well.
	disks[0].set(9)
	disks[1].set(9)
	var inv node.Invite
	for {
		var err error
		if inv, err = ana.Invite(context.Background(), node.InviteOptions{Name: "Ben"}); err == nil {
			break
		}
	}
	for {
		_, err := ben.Accept(context.Background(), inv.Link, "Ana")
		if err == nil || errors.Is(err, node.ErrExists) { // it failed but happened
			break
		}
	}
	ben.Until("the contact", func() bool { return ben.StateOf("Ana") == node.ContactEstablished })
	ana.Until("the contact", func() bool { return ana.StateOf("Ben") == node.ContactEstablished })

	names := [2]string{"Ben", "Ana"}
	acked := [2]map[string]bool{{}, {}}
	for n := 0; left.Load() > 0; n++ {
		i := rng.IntN(2)
		text := fmt.Sprint(filepath.Base(people[i].Home), " ", n)
		_, err := people[i].Send(context.Background(), names[i], text)
		switch {
		case err == nil:
			acked[i][text] = true
		case !errors.Is(err, node.ErrUncertain):
			t.Fatalf("send: %v", err)
		}
		if n%50 == 49 {
			// Now and then what is on its way arrives, so that epochs come and go.
			for k, to := range []*Person{ben, ana} {
				to.Until("what is on its way", func() bool { return has(to.Texts(names[1-k]), acked[k]) })
			}
		}
	}
	disks[0].set(0)
	disks[1].set(0)
	for k, to := range []*Person{ben, ana} {
		to.Until("everything", func() bool { return has(to.Texts(names[1-k]), acked[k]) })
	}
	for k, who := range people {
		newest := map[string]int{}
		for _, text := range who.Texts(names[k]) {
			var from string
			var n int
			if _, err := fmt.Sscan(text, &from, &n); err != nil {
				t.Fatal(err)
			}
			if last, ok := newest[from]; ok && n <= last {
				t.Errorf("%s sees number %d of %s behind number %d", filepath.Base(who.Home), n, from, last)
			}
			newest[from] = n
		}
		c, err := who.Conversation(context.Background(), names[k])
		if err != nil || c.Unreadable != 0 || c.Missing != 0 || c.State != "open" {
			t.Errorf("%s: conversation %+v, %v", filepath.Base(who.Home), c, err)
		}
	}
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
