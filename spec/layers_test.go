package spec

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "sotto/"

// layers says what each part of the project may import of the rest of it. The
// longest matching name counts, naming a package permits those under it, and a
// package may always import what lies under its own entry.
// It is a decision, not a description: to change it, change spec/layout.md.
var layers = map[string]string{
	"spec":         "",
	"spec/vectors": "",

	"crypto/codec":     "",
	"crypto/key":       "",
	"crypto/mls":       "crypto/codec",
	"crypto/identity":  "crypto/key crypto/codec",
	"crypto/envelope":  "crypto/key crypto/codec",
	"crypto/handshake": "crypto/key crypto/codec crypto/identity",

	"storage/kv":     "",
	"storage/vault":  "storage/kv crypto/codec",
	"storage/blob":   "storage/kv crypto/codec",
	"storage/search": "storage/vault crypto/codec",

	"relay/mailbox":             "crypto/codec",
	"relay/mailbox/badgerbox":   "relay/mailbox storage/kv crypto/codec",
	"relay/mailbox/membox":      "relay/mailbox",
	"relay/mailbox/mailboxtest": "relay/mailbox",
	"relay/relaytest":           "relay/mailbox",
	"relay/wire":                "relay/mailbox storage/blob crypto/key crypto/codec",
	"relay/transport":           "relay/wire crypto/key",
	"relay/client":              "relay/wire relay/mailbox relay/transport storage/blob crypto/key crypto/codec",
	"relay/access":              "relay/wire relay/mailbox storage/blob crypto/key crypto/codec",
	"relay/server":              "relay crypto/key crypto/codec storage/blob storage/kv",

	"node":              "node crypto storage relay/client relay/wire relay/mailbox relay/transport",
	"node/content":      "crypto",
	"node/conversation": "crypto relay/mailbox node/content",
	"node/report":       "crypto node/content",
	"node/api":          "node storage/search",
	"node/sim":          "node relay/server relay/mailbox relay/wire relay/access crypto/key storage/kv storage/vault",
	"node/setting":      "relay/wire",
	"node/nodetest":     "node relay crypto storage",

	"cmd/sotto":          "node relay/server relay/mailbox relay/wire crypto/key crypto/handshake crypto/identity",
	"cmd/sotto/examples": "node",
	"cmd/sotto-relay":    "relay/server relay/wire crypto/key",
	"cmd/sotto-bench":    "cmd/sotto node relay crypto storage",
}

// outside says which packages alone may import a module; it holds for tests too.
var outside = map[string]string{
	"github.com/dgraph-io/badger/": "storage/kv",
	"github.com/libp2p/go-libp2p":  "relay/transport node/p2p",
	"github.com/jackc/pgx/":        "relay/mailbox/pgbox",
	"github.com/minio/minio-go/":   "storage/blob",
	"github.com/flynn/noise":       "crypto/handshake",
	"filippo.io/age":               "storage/snapshot node/backup relay/ops",
}

type pkg struct {
	ImportPath, Doc                    string
	Imports, TestImports, XTestImports []string
}

func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Doc", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, complaint := range check(p) {
			t.Error(complaint)
		}
	}
	if seen < 3 {
		t.Errorf("go list named %d packages", seen)
	}
}

// check returns what is wrong with one package.
func check(p pkg) (complaints []string) {
	complain := func(parts ...string) { complaints = append(complaints, strings.Join(parts, "")) }
	name := strings.TrimPrefix(p.ImportPath, module)
	if p.Doc == "" && name != "spec" {
		complain(name, " has no package comment")
	}
	key, allowed := lookup(name)
	if key == "" {
		complain(name, " is in no layer")
	}
	for _, imp := range p.Imports {
		if own, ok := strings.CutPrefix(imp, module); ok && !within(own, allowed) && !within(own, key) {
			complain(name, " imports ", own, "; layer ", key, " may import: ", allowed)
		}
	}
	for _, imp := range append(append(p.Imports, p.TestImports...), p.XTestImports...) {
		for mod, only := range outside {
			if strings.HasPrefix(imp, mod) && !within(name, only) {
				complain(name, " imports ", imp, ", which only ", only, " may")
			}
		}
	}
	return complaints
}

// The check itself can fail.
func TestLayersNoticesAnIntruder(t *testing.T) {
	for _, p := range []pkg{
		{ImportPath: "sotto/crypto/mls", Doc: "x", Imports: []string{"sotto/relay/wire"}},
		{ImportPath: "sotto/node/contact", Doc: "x", Imports: []string{"sotto/relay/server"}},
		{ImportPath: "sotto/relay/server", Doc: "x", Imports: []string{"sotto/node"}},
		{ImportPath: "sotto/node/contact", Doc: "x", TestImports: []string{"github.com/dgraph-io/badger/v4"}},
		{ImportPath: "sotto/elsewhere", Doc: "x"},
		{ImportPath: "sotto/crypto/key"},
	} {
		if len(check(p)) == 0 {
			t.Errorf("%+v passes", p)
		}
	}
}

func lookup(name string) (key, allowed string) {
	for k, v := range layers {
		if within(name, k) && len(k) > len(key) {
			key, allowed = k, v
		}
	}
	return key, allowed
}

// within reports whether pkg is one of the packages in list or under one.
func within(pkg, list string) bool {
	for _, p := range strings.Fields(list) {
		if pkg == p || strings.HasPrefix(pkg, p+"/") {
			return true
		}
	}
	return false
}
