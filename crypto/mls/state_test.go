package mls

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"sotto/spec/vectors"
)

// A stateVector is a group on the disks of two members, and what arrives next
// (spec/mls-state.md). Every version of the format has one, which opens forever.
type stateVector struct {
	Suite   Suite               `json:"suite"`
	Signers map[string]hexBytes `json:"signers"` // Ed25519 seeds
	Records struct {
		Ana map[string]hexBytes `json:"ana"` // value by name
		Ben map[string]hexBytes `json:"ben"`
	} `json:"records"`
	Bundle hexBytes `json:"bundle"` // of dora, whom the commits add
	Staged hexBytes `json:"staged"` // by ana, of her private commit

	// From ana to ben, who has not processed them.
	Late    hexBytes `json:"late"`    // of the epoch before: "late"
	Skipped hexBytes `json:"skipped"` // overtaken: "skipped"
	Next    hexBytes `json:"next"`    // "next"
	Read    hexBytes `json:"read"`    // which he has read
	Private hexBytes `json:"private_commit"`
	Public  hexBytes `json:"public_commit"`
	Update  hexBytes `json:"public_update"`
	Welcome hexBytes `json:"welcome"` // of the private commit
	PSK     hexBytes `json:"psk"`     // what the commits mix in

	Before hexBytes `json:"authenticator_before"`
	After  hexBytes `json:"authenticator_after"` // the private commit
	Export hexBytes `json:"export_after"`        // Export("vector", "context", 32)
}

func (h hexBytes) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }

var stateVectors = []string{"state-1-suite1.json", "state-1-xwing.json"}

type fatal interface {
	Helper()
	Fatal(...any)
}

func loadState(t fatal, name string) *stateVector {
	t.Helper()
	b, err := vectors.FS.ReadFile("mls/" + name)
	if err != nil {
		t.Fatal(err)
	}
	v := &stateVector{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *stateVector) config(name string) Config {
	return Config{Signer: ed25519.NewKeyFromSeed(v.Signers[name]), ValidateCredential: anyCredential}
}

func (v *stateVector) psk(id PreSharedKeyID) ([]byte, error) {
	if string(id.ID) == "vector" {
		return v.PSK, nil
	}
	return nil, ErrMissingPSK
}

func (v *stateVector) load(t fatal, name string) *Group {
	t.Helper()
	from := v.Records.Ben
	if name == "ana" {
		from = v.Records.Ana
	}
	var records []Record
	for n, value := range from {
		raw, err := hex.DecodeString(n)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, Record{raw, bytes.Clone(value)})
	}
	g, err := LoadGroup(v.config(name), records)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var makeVectors = flag.Bool("make-vectors", false, "make the vectors of spec/vectors/mls that are not there")

// Old data opens forever.
func TestStateVectors(t *testing.T) {
	if *makeVectors {
		makeState(t, X25519AES128, stateVectors[0])
		makeState(t, XWing, stateVectors[1])
		return
	}
	for _, name := range stateVectors {
		t.Run(name, func(t *testing.T) {
			v := loadState(t, name)
			ben := &device{t: t, name: "ben", config: v.config("ben"), disk: make(map[string][]byte)}
			for n, value := range v.Records.Ben {
				raw, _ := hex.DecodeString(n)
				ben.disk[string(raw)] = value
			}
			ben.restart()
			ana := &device{t: t, name: "ana", config: v.config("ana"), g: v.load(t, "ana"), disk: make(map[string][]byte)}
			for n, value := range dump(ana.g) {
				if !bytes.Equal(value, v.Records.Ana[hex.EncodeToString([]byte(n))]) {
					t.Errorf("record %x is written differently now", n)
				}
				ana.disk[n] = value
			}
			same(t, "epoch authenticator", ben.g.EpochAuthenticator(), v.Before)
			ben.refuses(v.Read, ErrReplayed)
			ben.reads(v.Late, "late", ana)
			ben.reads(v.Skipped, "skipped", ana)
			ben.reads(v.Next, "next", ana)
			for _, msg := range [][]byte{v.Late, v.Skipped, v.Next} {
				ben.refuses(msg, ErrReplayed)
			}
			if got, err := ben.g.Clone().Process(v.Update, nil); err != nil || got.Proposal.Type() != ProposalUpdate {
				t.Errorf("the update: %v", err)
			}
			o := &ProcessOptions{PSK: v.psk}
			if _, err := ben.process(v.Public, o); err != nil {
				t.Errorf("the public commit: %v", err)
			}
			ben.follow(v.Private, o)
			same(t, "epoch authenticator afterwards", ben.g.EpochAuthenticator(), v.After)
			export, err := ben.g.Export("vector", []byte("context"), 32)
			ben.check(err)
			same(t, "exported secret", export, v.Export)

			s, err := ParseStaged(ana.config, v.Staged)
			ana.check(err)
			same(t, "staged commit, written again", s.Marshal(), v.Staged)
			same(t, "its message", s.Message(), v.Private)
			ana.merge(s)
			b, err := ParseKeyPackageBundle(v.Bundle)
			ana.check(err)
			same(t, "bundle, written again", b.Marshal(), v.Bundle)
			dora := &device{t: t, name: "dora", config: v.config("dora"), disk: make(map[string][]byte)}
			dora.join(v.Welcome, b, &JoinOptions{PSK: v.psk})
			agree(t, ana, ben, dora)
		})
	}
}

// makeState makes a vector. One that exists is never made again.
func makeState(t *testing.T, id Suite, name string) {
	path := filepath.Join("..", "..", "spec", "vectors", "mls", name)
	if _, err := os.Stat(path); err == nil {
		t.Logf("%s exists", path)
		return
	}
	v := &stateVector{Suite: id, Signers: make(map[string]hexBytes), PSK: []byte("a pre-shared key")}
	ds := newDevices(t, id, "ana", "ben", "cem", "dora")
	ana, ben, cem, dora := ds[0], ds[1], ds[2], ds[3]
	for _, d := range ds {
		v.Signers[d.name] = d.config.Signer.(ed25519.PrivateKey).Seed()
	}
	ana.create()
	ana.add(nil, ben, cem)
	agree(t, ana, ben, cem)
	v.Late = ana.encrypt("late")
	ben.reads(ana.encrypt("not so late"), "not so late", ana)
	cem.commit(nil, ana, ben)
	v.Skipped = ana.encrypt("skipped")
	v.Read = ana.encrypt("read")
	ben.reads(v.Read, "read", ana)
	cem.reads(ben.encrypt("hello"), "hello", ben)
	v.Next = ana.encrypt("next")
	v.Before = ana.g.EpochAuthenticator()

	// Pending: an update of ben's own and one of cem's.
	for i, from := range []*device{ben, cem} {
		next := from.g.Clone()
		msg, err := next.Propose(Update{}, &ProposeOptions{Public: i == 1, AuthenticatedData: []byte("why")})
		from.check(err)
		from.save(next)
		for _, to := range []*device{ana, ben, cem} {
			if to != from {
				_, err := to.process(msg, nil)
				to.check(err)
			}
		}
	}
	update, err := ana.g.Clone().Propose(Update{}, &ProposeOptions{Public: true})
	ana.check(err)
	v.Update = update
	b := dora.bundle(Extension{0xF053, []byte("inbox")})
	v.Bundle = b.Marshal()
	o := &CommitOptions{PSK: v.psk, Proposals: []Proposal{
		Add{b.KeyPackage()}, ExternalPSK([]byte("vector")),
		GroupContextExtensions{Extensions{{ExtensionApplicationID, []byte("group")}}},
	}}
	o.Public = true
	v.Public = ana.stage(o).Message()
	o.Public, o.AuthenticatedData = false, []byte("seen")
	s := ana.stage(o)
	v.Private, v.Welcome, v.Staged, v.After = s.Message(), s.Welcome(), s.Marshal(), s.EpochAuthenticator()
	v.Export, err = s.Export("vector", []byte("context"), 32)
	ana.check(err)
	v.Records.Ana, v.Records.Ben = make(map[string]hexBytes), make(map[string]hexBytes)
	for n, value := range ana.disk {
		v.Records.Ana[hex.EncodeToString([]byte(n))] = value
	}
	for n, value := range ben.disk {
		v.Records.Ben[hex.EncodeToString([]byte(n))] = value
	}
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What is stored has one form: whatever of it is changed, it is refused, or read
// and written again as it was.
func TestStoredFormsAreCanonical(t *testing.T) {
	v := loadState(t, stateVectors[0])
	config, bens := v.config("ana"), v.config("ben")
	stored := dump(v.load(t, "ben"))
	read := func(name string, b []byte) (again []byte, err error) {
		switch name {
		case "staged":
			s, err := ParseStaged(config, b)
			if err != nil {
				return nil, err
			}
			return s.Marshal(), nil
		case "bundle":
			k, err := ParseKeyPackageBundle(b)
			if err != nil {
				return nil, err
			}
			return k.Marshal(), nil
		}
		all := []Record{{[]byte(name), b}}
		for n, value := range stored {
			if n != name {
				all = append(all, Record{[]byte(n), value})
			}
		}
		g, err := LoadGroup(bens, all)
		if err != nil {
			return nil, err
		}
		return dump(g)[name], nil
	}
	forms := map[string][]byte{"staged": v.Staged, "bundle": v.Bundle}
	for name, value := range stored {
		forms[name] = value
	}
	for name, good := range forms {
		for i := range good {
			for _, x := range []byte{1, 2, 4, 0x20, 0x80, 0xe0, 0xff} {
				bad := bytes.Clone(good)
				bad[i] ^= x
				again, err := read(name, bad)
				if err == nil && !bytes.Equal(again, bad) {
					t.Fatalf("%q with byte %d of %#x instead of %#x is read, and written as %#x", name, i, bad[i], good[i], again[i])
				}
				if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrInvalid) {
					t.Fatalf("%q with byte %d of %#x instead of %#x: %v", name, i, bad[i], good[i], err)
				}
			}
		}
	}
	twice := []Record{}
	for n, value := range stored {
		twice = append(twice, Record{[]byte(n), value})
	}
	if _, err := LoadGroup(v.config("ben"), append(twice, twice[0])); !errors.Is(err, ErrCorrupt) {
		t.Errorf("one record twice: %v", err)
	}
}
