package mls

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// T38: the package has nothing to look at but its arguments.
func TestT38Imports(t *testing.T) {
	allowed := []string{
		"bytes", "cmp", "crypto", "encoding", "encoding/binary", "errors", "fmt", "hash", "io", "log/slog", "math", "math/bits",
		"runtime", "slices", "sort", "strings", "sync", "sync/atomic", "unsafe",
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		seen++
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range tree.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(allowed, name) && !strings.HasPrefix(name, "crypto/") &&
				!strings.HasPrefix(name, "golang.org/x/crypto/") && name != "sotto/crypto/codec" {
				t.Errorf("%s imports %s", f.Name(), name)
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d files were read", seen)
	}
}

// A recording is a group as two of its members had it stored, and what came after.
type recording struct {
	configs []Config
	stored  []map[string][]byte
	log     [][]byte
	bundle  []byte // of one who joins by welcome
	joins   Config
	welcome []byte
	at      int // the commit in the log that the welcome is of
}

func record(t *testing.T) *recording {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem", "dora")
	warm(ds)
	ana := ds[0]
	r := &recording{}
	for _, d := range ds[1:3] {
		r.configs, r.stored = append(r.configs, d.config), append(r.stored, maps.Clone(d.disk))
	}
	psk := psksOf(map[string]string{"k": "v"})
	others := ds[1:]
	do := func(o *CommitOptions) *Staged {
		o.PSK = psk
		s := ana.commit(o, others...)
		r.log = append(r.log, s.Message())
		return s
	}
	over := newDevice(t, X25519AES128, "whose time is over")
	for i, l := range []Lifetime{{0, 1}, {1 << 62, 1 << 63}} { // over, and not begun
		b, err := NewKeyPackage(KeyPackageOptions{
			Suite: X25519AES128, Signer: newSigner(t, X25519AES128), Credential: BasicCredential(fmt.Append(nil, i)), Lifetime: l,
		})
		ana.check(err)
		do(&CommitOptions{Public: i == 0, Proposals: []Proposal{Add{b.KeyPackage()}}})
	}
	b := over.bundle()
	r.welcome = do(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}}).Welcome()
	r.bundle, r.joins, r.at = b.Marshal(), over.config, len(r.log)
	do(&CommitOptions{Proposals: []Proposal{ExternalPSK([]byte("k")), GroupContextExtensions{Extensions{{ExtensionApplicationID, nil}}}}})
	dora := ds[3]
	next := dora.g.Clone()
	update, err := next.Propose(Update{}, nil)
	dora.check(err)
	dora.save(next)
	for _, d := range ds[:3] {
		_, err := d.process(update, nil)
		d.check(err)
	}
	r.log = append(r.log, update)
	do(&CommitOptions{})
	others = ds[1:3]
	do(&CommitOptions{Proposals: []Proposal{Remove{dora.g.OwnLeaf()}}})
	return r
}

// A stand is what a member has after each entry of a recording.
type stand struct {
	authenticator, exported []byte
	records                 map[string][]byte
}

// play lets all members of r read it, with local settings, and returns their stands.
func (r *recording) play(t *testing.T, local func(*Config), wait func()) (out [][]stand) {
	t.Helper()
	o := &ProcessOptions{PSK: psksOf(map[string]string{"k": "v"})}
	follow := func(g *Group, log [][]byte) (stands []stand) {
		for i, msg := range log {
			wait()
			g = g.Clone()
			got, err := g.Process(msg, o)
			if err != nil {
				t.Fatalf("entry %d: %v", i, err)
			}
			if got.Staged != nil {
				if g, err = got.Staged.Merge(g); err != nil {
					t.Fatalf("entry %d: %v", i, err)
				}
			}
			x, err := g.Export("purity", nil, 32)
			if err != nil {
				t.Fatal(err)
			}
			stands = append(stands, stand{g.EpochAuthenticator(), x, dump(g)})
		}
		return stands
	}
	for i, stored := range r.stored {
		c := r.configs[i]
		local(&c)
		var records []Record
		for name, value := range stored {
			records = append(records, Record{[]byte(name), bytes.Clone(value)})
		}
		g, err := LoadGroup(c, records)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, follow(g, r.log))
	}
	b, err := ParseKeyPackageBundle(r.bundle)
	if err != nil {
		t.Fatal(err)
	}
	c := r.joins
	local(&c)
	g, _, err := Join(c, r.welcome, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, follow(g, r.log[r.at:]))
}

// T38: one recorded log leads every member, at any time and with any settings of its
// own, to the same epochs; and at any time to the same state, byte for byte.
func TestT38Purity(t *testing.T) {
	r := record(t)
	want := r.play(t, func(*Config) {}, func() {})
	last := want[0][len(want[0])-1]
	for i, stands := range want {
		if got := stands[len(stands)-1]; !bytes.Equal(got.authenticator, last.authenticator) || !bytes.Equal(got.exported, last.exported) {
			t.Errorf("member %d is in another epoch", i)
		}
	}
	compare := func(t *testing.T, got [][]stand, whole bool) {
		t.Helper()
		for i := range want {
			for j := range want[i] {
				w, g := want[i][j], got[i][j]
				if !bytes.Equal(w.authenticator, g.authenticator) || !bytes.Equal(w.exported, g.exported) {
					t.Errorf("member %d is in another epoch after entry %d", i, j)
				}
				if whole && !sameRecords(w.records, g.records) {
					t.Errorf("member %d has another state after entry %d", i, j)
				}
			}
		}
	}
	for _, wait := range []time.Duration{time.Nanosecond, 400 * 24 * time.Hour} {
		t.Run(fmt.Sprint("a clock that goes on by ", wait), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in which waiting takes no time
				compare(t, r.play(t, func(*Config) {}, func() { time.Sleep(wait) }), true)
			})
		})
	}
	for _, n := range []int{-1, 1, 5000} {
		t.Run(fmt.Sprint("settings of ", n), func(t *testing.T) {
			blocked := make(map[string]bool) // a local list; what may depend on it is above
			compare(t, r.play(t, func(c *Config) {
				c.OutOfOrder, c.MaxForward, c.PastEpochs, c.Padding = n, n, n, n
				c.ValidateCredential = func(leaf, _ *LeafNode) error {
					blocked[string(leaf.Credential.Identity)] = true
					return nil
				}
			}, func() {}), false)
			if len(blocked) == 0 {
				t.Error("no credential was judged")
			}
		})
	}
}
