package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"
)

const goBenchOutput = `goos: linux
BenchmarkSend1K/against/N=2-2         	     100	     30167 floor-ns	     31667.5 op-ns
BenchmarkSend1K/against/N=20-2        	     100	     1 floor-ns	     2 op-ns
BenchmarkPlain 	    6949	     37589 ns/op	    7344 B/op	      57 allocs/op
BenchmarkOdd-2 	    6949	     37589
BenchmarkWord-2 	    6949	     fast ns/op
PASS
`

func TestParseGoBench(t *testing.T) {
	for _, c := range []struct {
		name string
		want map[string]float64 // nil: an error
	}{
		{"BenchmarkSend1K/against/N=2", map[string]float64{"floor-ns": 30167, "op-ns": 31667.5}},
		{"BenchmarkPlain", map[string]float64{"ns/op": 37589, "B/op": 7344, "allocs/op": 57}},
		{"BenchmarkSend1K", nil},
		{"BenchmarkOdd", nil},
		{"BenchmarkWord", nil},
	} {
		got, err := parseGoBench(goBenchOutput, c.name)
		if len(got) != len(c.want) || errors.Is(err, errBenchOutput) != (c.want == nil) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
		for unit, x := range c.want {
			if got[unit] != x {
				t.Errorf("%s: %v %s, want %v", c.name, got[unit], unit, x)
			}
		}
	}
}

func TestGoSample(t *testing.T) {
	for _, c := range []struct {
		name    string
		metrics map[string]float64
		want    sample // none: an error
	}{
		{"against a floor", map[string]float64{"ns/op": 1, "op-ns": 30000, "floor-ns": 20000}, sample{30, 20}},
		{"any other", map[string]float64{"ns/op": 30000, "B/op": 7}, sample{30, 0}},
		{"the floor is missing", map[string]float64{"ns/op": 1, "op-ns": 30000}, sample{}},
		{"nothing was measured", map[string]float64{"B/op": 7}, sample{}},
	} {
		got, err := goSample(c.metrics)
		if got != c.want || errors.Is(err, errBenchOutput) != (c.want == sample{}) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestParseRSS(t *testing.T) {
	got, err := parseRSS("Name:\tsotto\nVmHWM:\t  300000 kB\nVmRSS:\t   35328 kB\nRssAnon:\t 1 kB\n")
	if err != nil || got != 34.5 {
		t.Errorf("%v, %v", got, err)
	}
	// So it looks once a process has ended and nobody has waited for it.
	if got, err := parseRSS("Name:\tsotto\nState:\tZ (zombie)\n"); err == nil {
		t.Errorf("%v MiB of nothing", got)
	}
}

func TestParseCPU(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 5000 0 17 0 123 45 6 7 20 0 9 0 33 1 2\n"
	for _, name := range []string{"(sotto-relay)", "(a b)", "(a) 1 2 3 (b)"} {
		if got, err := parseCPU("4711 " + name + rest); err != nil || got != 1680*time.Millisecond {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "4711 (sotto) S 1 2", "4711 (sotto) S 1 2 3 0 -1 4 5 0 17 0 x 45 6"} {
		if got, err := parseCPU(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestRepeat(t *testing.T) {
	var mu sync.Mutex
	each := make([]int, 3)
	rate, calls, err := repeat(context.Background(), 3, 20*time.Millisecond, func(i int) error {
		mu.Lock()
		defer mu.Unlock()
		each[i]++
		return nil
	})
	if sum := each[0] + each[1] + each[2]; err != nil || calls != sum || rate <= 0 || rate > float64(sum)/0.02 {
		t.Errorf("%v a second, %d in all, of %v (%v)", rate, calls, each, err)
	}
	broken := errors.New("broken")
	if _, _, err := repeat(context.Background(), 3, time.Hour, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, _, err := repeat(ctx, 3, time.Hour, func(int) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The floor's log holds all that it has said is durable.
func TestLog(t *testing.T) {
	l, err := newLab(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	log, err := l.log()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 20 {
				if err := log.append([]byte{'a' + byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(log.f.Name())
	if err != nil || len(b) != logSize || bytes.IndexByte(b, 0) != 16*20 {
		t.Fatalf("%d bytes, %d of them written, %v", len(b), bytes.IndexByte(b, 0), err)
	}
	for i := range 16 {
		if n := bytes.Count(b, []byte{'a' + byte(i)}); n != 20 {
			t.Errorf("writer %d stands there %d times", i, n)
		}
	}
}

// At its end the log begins again; when it cannot be written it says so.
func TestLogEnds(t *testing.T) {
	l, err := newLab(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	log, err := l.log()
	if err != nil {
		t.Fatal(err)
	}
	log.at = logSize - 1 // the last byte is written, and then the first again
	for _, c := range "yz" {
		if err := log.append([]byte{byte(c)}); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(log.f.Name()); err != nil || len(b) != logSize || b[0] != 'z' || b[logSize-1] != 'y' {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	log.f.Close()
	if err := log.append([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}
