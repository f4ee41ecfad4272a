package sim

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
)

// worlds is how many seeds are played; SOTTO_SIM_WORLDS sets another number.
func worlds(t *testing.T) int {
	if s := os.Getenv("SOTTO_SIM_WORLDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 20
}

// Whatever fails, in the end every device of every conversation has the same messages in
// the same order, none lost and none doubled.
func TestWorldsHeal(t *testing.T) {
	var mu sync.Mutex
	var sum Result
	t.Run("seed", func(t *testing.T) {
		for seed := range worlds(t) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				r, err := Run(t.Context(), Options{Devices: 2 + seed%5, Seed: uint64(seed), Steps: 300})
				if err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sum.Messages, sum.Commits = sum.Messages+r.Messages, sum.Commits+r.Commits
				for i, f := range sum.Faults.each() {
					*f += *r.Faults.each()[i]
				}
			})
		}
	})
	t.Logf("%+v", sum)
	for _, f := range append(sum.Faults.each(), &sum.Messages, &sum.Commits) {
		if *f == 0 {
			t.Errorf("something never happens: %+v", sum)
		}
	}
}

func (f *Faults) each() []*int {
	return []*int{&f.Lost, &f.Unanswered, &f.Doubled, &f.Late, &f.Unread, &f.Writes, &f.Partitions, &f.Crashes, &f.Restarts}
}

// A world that is played again is the same.
func TestReplay(t *testing.T) {
	var first Result
	for i := range 2 {
		r, err := Run(t.Context(), Options{Devices: 6, Seed: 5})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = r
		} else if r != first {
			t.Errorf("played again: %+v, the first time %+v", r, first)
		}
	}
	other, err := Run(t.Context(), Options{Devices: 6, Seed: 6})
	if err != nil {
		t.Fatal(err)
	}
	if other.Digest == first.Digest {
		t.Error("another seed is the same world")
	}
}
