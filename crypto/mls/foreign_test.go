package mls_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"sotto/crypto/mls"
)

// A party is a device of ours or of another implementation. What goes wrong in
// one ends the test.
type party interface {
	identity() string
	keyPackage() []byte
	create(group []byte)
	join(welcome []byte)
	joinExternal(info []byte) (commit []byte)
	info() []byte

	// The makers of commits go to the new epoch at once.
	add(packages ...[]byte) (commit, welcome []byte)
	remove(identity string, leaf mls.LeafIndex) (commit []byte)
	update() (commit []byte)
	commitPending() (commit []byte)

	// These return nil where the implementation offers no such thing.
	proposeUpdate() []byte
	proposeRemove(leaf mls.LeafIndex) []byte

	process(msg []byte) (content []byte, removed bool)
	encrypt(content []byte) []byte
	refuses(msg []byte)

	// secrets returns the epoch authenticator, or nil where it is not shown, and an
	// exported secret.
	secrets() (authenticator, exported []byte)
}

// The identities are as Wire's library wants them.
func identityOf(n int) string {
	return fmt.Sprintf("00000000-0000-4000-8000-%012d:%x@sotto.test", n, n)
}

// ours is a device of this package.
type ours struct {
	t      *testing.T
	id     string
	suite  mls.Suite
	config mls.Config
	bundle *mls.KeyPackageBundle
	group  *mls.Group
	public bool // handshakes are PublicMessages
}

func signerFor(t *testing.T, id mls.Suite) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	if id == mls.P256AES128 {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		_, k, err = ed25519.GenerateKey(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newOurs(t *testing.T, n int, id mls.Suite, public bool) *ours {
	return &ours{t: t, id: identityOf(n), suite: id, public: public, config: mls.Config{
		Signer:             signerFor(t, id),
		ValidateCredential: func(leaf, old *mls.LeafNode) error { return nil },
	}}
}

func (d *ours) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%s, ours: %v", d.id, err)
	}
}

// capabilities name both types of credential, which Wire's library demands.
func (d *ours) capabilities() *mls.Capabilities {
	c := mls.DefaultCapabilities(d.suite)
	c.Credentials = append(c.Credentials, mls.CredentialX509)
	return &c
}

// lifetime is wide: the other side looks at its clock.
var lifetime = mls.Lifetime{NotBefore: 1, NotAfter: 1 << 40}

func (d *ours) identity() string { return d.id }

func (d *ours) keyPackage() []byte {
	var err error
	d.bundle, err = mls.NewKeyPackage(mls.KeyPackageOptions{
		Suite: d.suite, Signer: d.config.Signer, Credential: mls.BasicCredential([]byte(d.id)),
		Lifetime: lifetime, Capabilities: d.capabilities(),
	})
	d.check(err)
	return d.bundle.KeyPackage().Message()
}

func (d *ours) create(group []byte) {
	var err error
	d.group, err = mls.NewGroup(d.config, mls.GroupOptions{
		Suite: d.suite, GroupID: group, Credential: mls.BasicCredential([]byte(d.id)),
		Lifetime: lifetime, Capabilities: d.capabilities(),
	})
	d.check(err)
}

func (d *ours) join(welcome []byte) {
	var err error
	d.group, _, err = mls.Join(d.config, welcome, d.bundle, nil)
	d.check(err)
}

func (d *ours) joinExternal(info []byte) []byte {
	staged, err := mls.JoinExternal(d.config, info, mls.ExternalJoinOptions{
		Credential: mls.BasicCredential([]byte(d.id)), Capabilities: d.capabilities(),
	})
	d.check(err)
	d.group, err = staged.Merge(nil)
	d.check(err)
	return staged.Message()
}

func (d *ours) info() []byte {
	info, err := d.group.GroupInfo(true)
	d.check(err)
	return info
}

func (d *ours) commit(ps ...mls.Proposal) *mls.Staged {
	staged, err := d.group.Commit(&mls.CommitOptions{Proposals: ps, Public: d.public})
	d.check(err)
	d.group, err = staged.Merge(d.group)
	d.check(err)
	return staged
}

func (d *ours) add(packages ...[]byte) ([]byte, []byte) {
	var ps []mls.Proposal
	for _, msg := range packages {
		k, err := mls.ParseKeyPackage(msg[4:]) // version and wire format
		d.check(err)
		ps = append(ps, mls.Add{KeyPackage: k})
	}
	staged := d.commit(ps...)
	return staged.Message(), staged.Welcome()
}

func (d *ours) remove(_ string, leaf mls.LeafIndex) []byte {
	return d.commit(mls.Remove{Removed: leaf}).Message()
}

func (d *ours) update() []byte        { return d.commit().Message() }
func (d *ours) commitPending() []byte { return d.commit().Message() }

func (d *ours) propose(p mls.Proposal) []byte {
	msg, err := d.group.Propose(p, &mls.ProposeOptions{Public: d.public})
	d.check(err)
	return msg
}

func (d *ours) proposeUpdate() []byte { return d.propose(mls.Update{}) }

func (d *ours) proposeRemove(leaf mls.LeafIndex) []byte { return d.propose(mls.Remove{Removed: leaf}) }

func (d *ours) process(msg []byte) ([]byte, bool) {
	got, err := d.group.Process(msg, nil)
	d.check(err)
	if got.Staged == nil {
		return got.Content, false
	}
	if got.Staged.RemovesSelf() {
		return nil, true
	}
	d.group, err = got.Staged.Merge(d.group)
	d.check(err)
	return nil, false
}

func (d *ours) encrypt(content []byte) []byte {
	msg, err := d.group.Encrypt(content, nil)
	d.check(err)
	return msg
}

func (d *ours) refuses(msg []byte) {
	d.t.Helper()
	if _, err := d.group.Clone().Process(msg, nil); err == nil {
		d.t.Errorf("%s, ours, reads what it should not", d.id)
	}
}

func (d *ours) secrets() ([]byte, []byte) {
	exported, err := d.group.Export("exporter", nil, 32)
	d.check(err)
	return d.group.EpochAuthenticator(), exported
}

// A driver is a process that plays devices of another implementation.
type driver struct {
	in  io.Writer
	out *bufio.Reader
}

type request struct {
	Op       string        `json:"op"`
	Device   int           `json:"device"`
	Suite    mls.Suite     `json:"suite,omitempty"`
	Identity string        `json:"identity,omitempty"`
	Group    []byte        `json:"group,omitempty"`
	Welcome  []byte        `json:"welcome,omitempty"`
	Info     []byte        `json:"info,omitempty"`
	Message  []byte        `json:"message,omitempty"`
	Content  []byte        `json:"content,omitempty"`
	Packages [][]byte      `json:"packages,omitempty"`
	Leaf     mls.LeafIndex `json:"leaf"`
	Public   bool          `json:"public"`
}

type answer struct {
	Error         string `json:"error"`
	KeyPackage    []byte `json:"keyPackage"`
	Commit        []byte `json:"commit"`
	Welcome       []byte `json:"welcome"`
	Info          []byte `json:"info"`
	Proposal      []byte `json:"proposal"`
	Message       []byte `json:"message"`
	Content       []byte `json:"content"`
	Removed       bool   `json:"removed"`
	Authenticator []byte `json:"authenticator"`
	Exported      []byte `json:"exported"`
}

// install puts the other implementations into a temporary folder. It skips the test
// unless it is asked for: a plain go test downloads nothing.
func install(t *testing.T) (dir string) {
	t.Helper()
	if os.Getenv("SOTTO_MLS_FOREIGN") == "" {
		t.Skip("SOTTO_MLS_FOREIGN is not set: no groups with other implementations, which npm would download")
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s: no groups with other implementations", tool)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "foreign"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("npm ci: %v: no groups with other implementations\n%s", err, out)
	}
	return dir
}

func start(t *testing.T, dir, script string) *driver {
	t.Helper()
	cmd := exec.Command("node", script)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &driver{in, bufio.NewReader(out)}
}

// try returns what the driver answers, and as errRefused what its library
// threw.
func (d *driver) try(r request) (a answer, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if _, err := d.in.Write(append(b, '\n')); err != nil {
		return a, err
	}
	line, err := d.out.ReadBytes('\n')
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("%w in %s", err, line)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%w: %s", errRefused, a.Error)
	}
	return a, nil
}

var errRefused = errors.New("refused")

// theirs is a device of another implementation.
type theirs struct {
	t      *testing.T
	driver *driver
	n      int
	suite  mls.Suite
	public bool
}

func (d *theirs) call(r request) answer {
	d.t.Helper()
	r.Device, r.Suite, r.Identity, r.Public = d.n, d.suite, cmp.Or(r.Identity, d.identity()), d.public
	a, err := d.driver.try(r)
	if err != nil {
		d.t.Fatalf("%s, theirs: %s: %v", d.identity(), r.Op, err)
	}
	return a
}

func (d *theirs) identity() string    { return identityOf(d.n) }
func (d *theirs) keyPackage() []byte  { return d.call(request{Op: "keyPackage"}).KeyPackage }
func (d *theirs) create(group []byte) { d.call(request{Op: "create", Group: group}) }
func (d *theirs) join(welcome []byte) { d.call(request{Op: "join", Welcome: welcome}) }
func (d *theirs) info() []byte        { return d.call(request{Op: "info"}).Info }

func (d *theirs) joinExternal(info []byte) []byte {
	return d.call(request{Op: "joinExternal", Info: info}).Commit
}

func (d *theirs) add(packages ...[]byte) ([]byte, []byte) {
	a := d.call(request{Op: "add", Packages: packages})
	return a.Commit, a.Welcome
}

func (d *theirs) remove(identity string, leaf mls.LeafIndex) []byte {
	return d.call(request{Op: "remove", Identity: identity, Leaf: leaf}).Commit
}

func (d *theirs) update() []byte        { return d.call(request{Op: "update"}).Commit }
func (d *theirs) commitPending() []byte { return d.call(request{Op: "commitPending"}).Commit }
func (d *theirs) proposeUpdate() []byte { return nil }

func (d *theirs) proposeRemove(leaf mls.LeafIndex) []byte {
	return d.call(request{Op: "proposeRemove", Leaf: leaf}).Proposal
}

func (d *theirs) process(msg []byte) ([]byte, bool) {
	d.t.Helper()
	a := d.call(request{Op: "process", Message: msg})
	return a.Content, a.Removed
}

func (d *theirs) encrypt(content []byte) []byte {
	return d.call(request{Op: "encrypt", Content: content}).Message
}

func (d *theirs) refuses(msg []byte) {
	d.t.Helper()
	if _, err := d.driver.try(request{Op: "process", Device: d.n, Message: msg}); !errors.Is(err, errRefused) {
		d.t.Errorf("%s, theirs, reads what it should not: %v", d.identity(), err)
	}
}

func (d *theirs) secrets() ([]byte, []byte) {
	a := d.call(request{Op: "secrets"})
	return a.Authenticator, a.Exported
}

// A mixed group is of our devices and theirs. What one does the others follow.
type mixed struct {
	t       *testing.T
	members []party
}

// leafOf finds a member's place in a tree of ours.
func (g *mixed) leafOf(p party) mls.LeafIndex {
	g.t.Helper()
	for _, m := range g.members {
		if o, ok := m.(*ours); ok {
			for _, member := range o.group.Roster() {
				if string(member.Node.Credential.Identity) == p.identity() {
					return member.Leaf
				}
			}
		}
	}
	g.t.Fatalf("%s is in no tree of ours", p.identity())
	return 0
}

// follow makes all members but by read msg, of which removed, if there is one, sees that it goes.
func (g *mixed) follow(by party, msg []byte, removed party) {
	g.t.Helper()
	for _, m := range g.members {
		if m == by {
			continue
		}
		if _, gone := m.process(msg); gone != (m == removed) {
			g.t.Fatalf("%s thinks of itself as removed: %t", m.identity(), gone)
		}
	}
	g.members = slices.DeleteFunc(g.members, func(m party) bool { return m == removed })
}

func (g *mixed) add(by party, fresh ...party) {
	g.t.Helper()
	var packages [][]byte
	for _, f := range fresh {
		packages = append(packages, f.keyPackage())
	}
	commit, welcome := by.add(packages...)
	g.follow(by, commit, nil)
	for _, f := range fresh {
		f.join(welcome)
		g.members = append(g.members, f)
	}
	g.agree()
}

func (g *mixed) update(by party) {
	g.t.Helper()
	g.follow(by, by.update(), nil)
	g.agree()
}

func (g *mixed) remove(by, gone party) {
	g.t.Helper()
	g.follow(by, by.remove(gone.identity(), g.leafOf(gone)), gone)
	g.agree()
	gone.refuses(by.encrypt([]byte("without you")))
}

func (g *mixed) joinExternal(through, fresh party) {
	g.t.Helper()
	g.update(through) // some know a group info only of the commit that was their own
	commit := fresh.joinExternal(through.info())
	g.follow(nil, commit, nil)
	g.members = append(g.members, fresh)
	g.agree()
}

// agree checks that all are in one epoch, and that each can speak to all.
func (g *mixed) agree() {
	g.t.Helper()
	var authenticator, exported []byte
	for _, m := range g.members {
		a, x := m.secrets()
		if a != nil && authenticator != nil && !bytes.Equal(a, authenticator) || exported != nil && !bytes.Equal(x, exported) || len(x) != 32 {
			g.t.Fatalf("%s is in another epoch", m.identity())
		}
		if a != nil {
			authenticator = a
		}
		exported = x
	}
	g.talk(1)
}

// talk makes each say n things to all, which do not arrive in order.
func (g *mixed) talk(n int) {
	g.t.Helper()
	for _, from := range g.members {
		var said, sent [][]byte
		for i := range n {
			said = append(said, fmt.Appendf(nil, "%d from %s", i, from.identity()))
			sent = append(sent, from.encrypt(said[i]))
		}
		for _, to := range g.members {
			if to == from {
				continue
			}
			for i := range n {
				i = n - 1 - i // backwards
				if content, _ := to.process(sent[i]); !bytes.Equal(content, said[i]) {
					g.t.Fatalf("%s reads %q of %s", to.identity(), content, from.identity())
				}
			}
			to.refuses(sent[0])
		}
	}
}

// mingle plays the life of a group in which every other device is theirs, the first
// being ours or not.
func mingle(t *testing.T, device func(n int) party) {
	var ds []party
	for n := range 8 {
		ds = append(ds, device(n))
	}
	g := &mixed{t: t, members: slices.Clone(ds[:1])}
	ds[0].create([]byte(t.Name()))
	g.add(ds[0], ds[1], ds[2])
	for _, d := range ds[:3] {
		g.update(d)
	}
	g.add(ds[1], ds[3]) // by the other side, and into a tree with keys
	g.add(ds[2], ds[4])
	for _, d := range ds[:5] {
		g.update(d)
	}
	for _, d := range ds[:5] { // by reference
		if p := d.proposeUpdate(); p != nil {
			by := ds[0]
			if d == by {
				by = ds[1]
			}
			g.follow(d, p, nil)
			g.follow(by, by.commitPending(), nil)
			g.agree()
		}
	}
	g.remove(ds[0], ds[3])
	g.remove(ds[1], ds[2])
	if p := ds[0].proposeRemove(g.leafOf(ds[4])); p != nil {
		g.follow(ds[0], p, nil)
		g.follow(ds[1], ds[1].commitPending(), ds[4])
		g.agree()
	} else {
		g.remove(ds[0], ds[4])
	}
	g.joinExternal(ds[0], ds[5])
	g.joinExternal(ds[1], ds[6])
	g.add(ds[5], ds[7])
	for _, d := range g.members {
		g.update(d)
	}
	g.talk(2) // as far behind as the strictest of them takes it
}

func TestForeign(t *testing.T) {
	dir := install(t)
	for _, tt := range []struct {
		script string
		suites []mls.Suite
		public []bool // whether handshakes are
	}{
		{"ts-mls.mjs", []mls.Suite{mls.X25519AES128, mls.X25519ChaCha20, mls.XWing}, []bool{false, true}},
		// It refuses private handshakes.
		{"core-crypto.mjs", []mls.Suite{mls.X25519AES128, mls.P256AES128, mls.X25519ChaCha20}, []bool{true}},
	} {
		t.Run(tt.script, func(t *testing.T) {
			d := start(t, dir, tt.script)
			for _, id := range tt.suites {
				for _, public := range tt.public {
					for first := range 2 {
						t.Run(fmt.Sprintf("%v/public=%t/created by %s", id, public, []string{"us", "them"}[first]), func(t *testing.T) {
							mingle(t, func(n int) party {
								if n%2 == first {
									return newOurs(t, n, id, public)
								}
								return &theirs{t: t, driver: d, n: n, suite: id, public: public}
							})
						})
					}
				}
			}
		})
	}
}
