package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	all := []benchmark{{name: "mls/send"}, {name: "mls/receive"}, {name: "relay/append_w1"}, {name: "relay/append_w16"}, {name: "node/start"}}
	for _, c := range []struct {
		name     string
		prefixes []string
		want     string // "": an error
	}{
		{"none", nil, "mls/send mls/receive relay/append_w1 relay/append_w16 node/start"},
		{"a group", []string{"mls/"}, "mls/send mls/receive"},
		{"two, in the table's order", []string{"node/", "relay/append"}, "relay/append_w1 relay/append_w16 node/start"},
		{"one within the other", []string{"relay/append_w1", "relay/"}, "relay/append_w1 relay/append_w16"},
		{"not the beginning", []string{"append"}, ""},
		{"one that fits nothing", []string{"mls/", "mos/"}, ""},
	} {
		chosen, err := choose(all, c.prefixes)
		var names []string
		for _, b := range chosen {
			names = append(names, b.name)
		}
		if got := strings.Join(names, " "); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestNamesAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range slices.Concat(benchmarks, long) {
		if seen[b.name] || b.unit == "" || b.what == "" || b.best != lower && b.best != higher {
			t.Errorf("%q: a second time, or something is missing", b.name)
		}
		seen[b.name] = true
	}
}

// A round measures each name once, and what they share once.
func TestRoundsInterleave(t *testing.T) {
	var log []string
	fake := func(name string) benchmark {
		return benchmark{name: name, round: func(_ context.Context, l *lab) (sample, error) {
			log = append(log, name)
			n, err := once(l.round, "shared", func() (int, error) {
				log = append(log, "shared")
				l.round.later(func() { log = append(log, "end") })
				return len(log), nil
			})
			return sample{value: float64(n)}, err
		}}
	}
	l := &lab{run: &scope{}, round: &scope{}}
	samples, err := measure(context.Background(), l, []benchmark{fake("a"), fake("b")}, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(log, " "), "a shared b end a shared b end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(samples) != 2 || !slices.Equal(samples[0], []sample{{2, 0}, {6, 0}}) || !slices.Equal(samples[0], samples[1]) {
		t.Errorf("samples %v", samples)
	}
}

func TestCalledWrongly(t *testing.T) {
	for _, args := range [][]string{{"--rounds", "0"}, {"--rounds", "many"}, {"nothing/"}, {"--unknown"}} {
		dir := t.TempDir()
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), dir, args, &stdout, &stderr); code != 2 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "--help") {
			t.Errorf("%q: exit code %d, %q, %q", args, code, &stdout, &stderr)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%q leaves %v", args, left)
		}
	}
}

// However a run ends, its processes end and its folder goes.
func TestNothingIsLeft(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		end  func(cancel func()) error
		want error
	}{
		{"done", func(func()) error { return nil }, nil},
		{"failed", func(func()) error { return broken }, broken},
		{"interrupted", func(cancel func()) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			dir := t.TempDir()
			var started []*process
			_, err := bench(ctx, dir, []benchmark{{name: "x", round: func(ctx context.Context, l *lab) (sample, error) {
				for _, s := range []*scope{l.run, l.round} {
					p, err := l.start(s, "/bin/sleep", nil, "600")
					if err != nil {
						return sample{}, err
					}
					started = append(started, p)
				}
				if err := c.end(cancel); err != nil {
					return sample{}, err
				}
				_, _, err := repeat(ctx, 2, 0, func(int) error { return nil })
				return sample{value: 1}, err
			}}}, 1, io.Discard)
			if !errors.Is(err, c.want) || err != nil && c.want == nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			if len(started) != 2 {
				t.Fatalf("%d processes were started", len(started))
			}
			for _, p := range started {
				select {
				case <-p.ended:
				default:
					t.Errorf("process %d goes on", p.cmd.Process.Pid)
					p.stop()
				}
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// Every name gives a figure, and nothing is left.
func TestEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs whole programs, which takes half a minute")
	}
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), dir, []string{"--rounds", "1", "--quick", "--json"}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	written, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil || !bytes.Equal(written, stdout.Bytes()) {
		t.Errorf("written is %q (%v), said %q", written, err, &stdout)
	}
	var results []result
	if err := json.Unmarshal(written, &results); err != nil {
		t.Fatal(err)
	}
	for i, b := range benchmarks {
		if i >= len(results) || results[i].Name != b.name {
			t.Fatalf("%s is missing", b.name)
		}
		if r := results[i]; r.Value <= 0 || r.Floor != nil && *r.Floor <= 0 {
			t.Errorf("%s: %v against %v", r.Name, r.Value, r.Floor)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		if line, _ := os.ReadFile(name); bytes.Contains(line, []byte(dir)) {
			t.Errorf("%s goes on: %q", name, line)
		}
	}
}
