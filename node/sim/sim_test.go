package sim

import (
	"fmt"
	"os"
	"strconv"
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
	for seed := range worlds(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r, err := Run(t.Context(), Options{Devices: 2 + seed%5, Seed: uint64(seed)})
			if err != nil {
				t.Fatal(err)
			}
			if r.Messages == 0 || r.Faults.Lost == 0 || r.Faults.Unanswered == 0 {
				t.Errorf("nothing has happened: %+v", r)
			}
		})
	}
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
