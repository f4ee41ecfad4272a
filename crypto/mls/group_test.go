package mls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sotto/crypto/codec"
)

// A device is a member, or one to be, with its storage.
type device struct {
	t      *testing.T
	name   string
	config Config
	suite  Suite
	g      *Group
	disk   map[string][]byte

	// reload makes the device forget what it has in memory after each step.
	reload bool
}

func newSigner(t testing.TB, id Suite) crypto.Signer {
	t.Helper()
	s, err := id.lookup()
	if err != nil {
		t.Fatal(err)
	}
	if s.curve == nil {
		_, k, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k, err := ecdsa.GenerateKey(s.curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newDevice(t *testing.T, id Suite, name string) *device {
	t.Helper()
	return &device{
		t: t, name: name, suite: id, disk: make(map[string][]byte),
		config: Config{Signer: newSigner(t, id), ValidateCredential: anyCredential},
	}
}

func newDevices(t *testing.T, id Suite, names ...string) (out []*device) {
	t.Helper()
	for _, name := range names {
		out = append(out, newDevice(t, id, name))
	}
	return out
}

func (d *device) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%s: %v", d.name, err)
	}
}

func (d *device) create(x ...Extension) {
	d.t.Helper()
	g, err := NewGroup(d.config, GroupOptions{Suite: d.suite, Credential: BasicCredential([]byte(d.name)), Extensions: x})
	d.check(err)
	d.save(g)
}

func (d *device) bundle(x ...Extension) *KeyPackageBundle {
	d.t.Helper()
	b, err := NewKeyPackage(KeyPackageOptions{
		Suite: d.suite, Signer: d.config.Signer, Credential: BasicCredential([]byte(d.name)),
		Lifetime: Lifetime{100, 200}, LeafExtensions: x,
	})
	d.check(err)
	b, err = ParseKeyPackageBundle(b.Marshal())
	d.check(err)
	return b
}

// save writes what has changed in next, which takes the place of the group.
func (d *device) save(next *Group) {
	d.t.Helper()
	for _, r := range next.Changes() {
		if r.Value == nil {
			delete(d.disk, string(r.Name))
		} else {
			d.disk[string(r.Name)] = r.Value
		}
	}
	if want := dump(next); !sameRecords(d.disk, want) {
		d.t.Fatalf("%s: what Changes returned over time is not the group: %v instead of %v", d.name, names(d.disk), names(want))
	}
	if d.g != nil {
		d.g.Retire(next)
	}
	d.g = next
	if d.reload {
		d.restart()
	}
}

// restart restores the group from storage.
func (d *device) restart() {
	d.t.Helper()
	g, err := LoadGroup(d.config, d.records())
	d.check(err)
	if want := dump(g); !sameRecords(d.disk, want) {
		d.t.Fatalf("%s: the restored group is not the stored one", d.name)
	}
	if n := len(g.Changes()); n != 0 {
		d.t.Fatalf("%s: a restored group has %d changes", d.name, n)
	}
	d.g = g
}

func (d *device) records() (out []Record) {
	for name, value := range d.disk {
		out = append(out, Record{[]byte(name), bytes.Clone(value)})
	}
	return out
}

// dump returns all records of g.
func dump(g *Group) map[string][]byte {
	c := g.Clone()
	c.dirty = dirtySet{}
	c.dirty.epochBegins(c.cur, &c.secrets)
	c.dirty.tree(nil, c.cur.tree)
	for i := range c.past {
		e := c.past[i].epoch
		c.dirty.add(recordKey{e.context.Epoch, recordReceiving, 0})
		c.dirty.add(recordKey{e.context.Epoch, recordLeaves, 0})
		c.dirty.secretTree(e, &c.past[i].secrets)
	}
	for i := range c.pending {
		c.dirty.pending(c.cur, i)
	}
	out := make(map[string][]byte)
	for _, r := range c.Changes() {
		out[string(r.Name)] = r.Value
	}
	return out
}

func sameRecords(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}

func names(records map[string][]byte) (out []string) {
	for name, value := range records {
		out = append(out, fmt.Sprintf("%x (%d bytes)", name, len(value)))
	}
	slices.Sort(out)
	return out
}

func (d *device) encrypt(text string) []byte {
	d.t.Helper()
	next := d.g.Clone()
	msg, err := next.Encrypt([]byte(text), []byte("aad of "+d.name))
	d.check(err)
	d.save(next)
	return msg
}

// process reads a message and stores what it changed; a commit is not merged.
func (d *device) process(msg []byte, o *ProcessOptions) (Received, error) {
	d.t.Helper()
	before := dump(d.g)
	next := d.g.Clone()
	got, err := next.Process(msg, o)
	if err != nil || got.Staged != nil {
		if !sameRecords(before, dump(next)) {
			d.t.Fatalf("%s: Process changed the group: %v", d.name, err)
		}
		return got, err
	}
	if !sameRecords(before, dump(d.g)) {
		d.t.Fatalf("%s: a clone changed what it was cloned from", d.name)
	}
	d.save(next)
	return got, nil
}

func (d *device) reads(msg []byte, text string, from *device) {
	d.t.Helper()
	got, err := d.process(msg, nil)
	d.check(err)
	if string(got.Content) != text || string(got.AuthenticatedData) != "aad of "+from.name {
		d.t.Errorf("%s read %q with %q, want %q of %s", d.name, got.Content, got.AuthenticatedData, text, from.name)
	}
	if got.Type != ContentApplication || string(got.SenderNode.Credential.Identity) != from.name || got.Sender.Type != SenderMember {
		d.t.Errorf("%s: message of %q, want %s", d.name, got.SenderNode.Credential.Identity, from.name)
	}
}

func (d *device) refuses(msg []byte, want error) {
	d.t.Helper()
	if _, err := d.process(msg, nil); !errors.Is(err, want) {
		d.t.Errorf("%s: Process = %v, want %v", d.name, err, want)
	}
}

// stage makes a commit that the device stores and merges nowhere yet.
func (d *device) stage(o *CommitOptions) *Staged {
	d.t.Helper()
	next := d.g.Clone()
	staged, err := next.Commit(o)
	d.check(err)
	d.save(next)
	staged, err = ParseStaged(d.nextConfig(o), staged.Marshal())
	d.check(err)
	return staged
}

func (d *device) nextConfig(o *CommitOptions) Config {
	c := d.config
	if o != nil && o.Leaf != nil && o.Leaf.Signer != nil {
		c.Signer = o.Leaf.Signer
	}
	return c
}

func (d *device) merge(s *Staged) {
	d.t.Helper()
	next, err := s.Merge(d.g)
	d.check(err)
	d.config.Signer = s.signer
	d.save(next)
}

// follow processes and merges a commit.
func (d *device) follow(msg []byte, o *ProcessOptions) *Staged {
	d.t.Helper()
	got, err := d.process(msg, o)
	d.check(err)
	if got.Type != ContentCommit || got.Staged == nil {
		d.t.Fatalf("%s: no commit", d.name)
	}
	d.merge(got.Staged)
	return got.Staged
}

// commit makes a commit that all members take over.
func (d *device) commit(o *CommitOptions, others ...*device) *Staged {
	d.t.Helper()
	staged := d.stage(o)
	var p *ProcessOptions
	if o != nil {
		p = &ProcessOptions{PSK: o.PSK}
	}
	for _, other := range others {
		theirs := other.follow(staged.Message(), p)
		if !bytes.Equal(theirs.EpochAuthenticator(), staged.EpochAuthenticator()) {
			d.t.Fatalf("%s and %s are in different epochs", d.name, other.name)
		}
		if theirs.Own() || theirs.Committer() != d.g.OwnLeaf() || theirs.HasPath() != staged.HasPath() || theirs.Public() != staged.Public() {
			d.t.Errorf("%s sees another commit than %s made", other.name, d.name)
		}
	}
	d.merge(staged)
	return staged
}

func (d *device) join(welcome []byte, b *KeyPackageBundle, o *JoinOptions) {
	d.t.Helper()
	g, _, err := Join(d.config, welcome, b, o)
	d.check(err)
	d.g = nil
	clear(d.disk)
	d.save(g)
}

// add adds devices; others are the members besides d.
func (d *device) add(others []*device, fresh ...*device) {
	d.t.Helper()
	var o CommitOptions
	var bundles []*KeyPackageBundle
	for _, f := range fresh {
		b := f.bundle()
		bundles = append(bundles, b)
		o.Proposals = append(o.Proposals, Add{b.KeyPackage()})
	}
	staged := d.commit(&o, others...)
	for i, f := range fresh {
		f.join(staged.Welcome(), bundles[i], nil)
		if f.g.OwnLeaf() != staged.Added()[i] {
			d.t.Errorf("%s is at leaf %d, want %d", f.name, f.g.OwnLeaf(), staged.Added()[i])
		}
	}
}

// newGroupOf returns devices in one group.
func newGroupOf(t *testing.T, id Suite, names ...string) []*device {
	t.Helper()
	ds := newDevices(t, id, names...)
	ds[0].create()
	if len(ds) > 1 {
		ds[0].add(nil, ds[1:]...)
	}
	agree(t, ds...)
	return ds
}

// agree checks that members are in one epoch and can talk.
func agree(t *testing.T, ds ...*device) {
	t.Helper()
	for _, d := range ds {
		if !bytes.Equal(d.g.EpochAuthenticator(), ds[0].g.EpochAuthenticator()) {
			t.Fatalf("%s and %s are in different epochs", d.name, ds[0].name)
		}
		a, err1 := d.g.Export("test", []byte("context"), 300)
		b, err2 := ds[0].g.Export("test", []byte("context"), 300)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s and %s export different secrets: %v, %v", d.name, ds[0].name, err1, err2)
		}
		checkKeys(t, d)
	}
	for i, d := range ds {
		text := fmt.Sprint("hello from ", d.name)
		msg := d.encrypt(text)
		for j, other := range ds {
			if i != j {
				other.reads(msg, text, d)
			}
		}
	}
}

// checkKeys verifies that a device holds exactly the keys it should: of its
// leaf, and of the nodes above that are not blank and where it is not unmerged.
func checkKeys(t *testing.T, d *device) {
	t.Helper()
	e := d.g.cur
	want := []nodeIndex{e.self.node()}
	for _, x := range e.tree.leaves.directPath(e.self.node()) {
		if p := e.tree.nodes[x].parent; p != nil && !slices.Contains(p.unmerged, e.self) {
			want = append(want, x)
		}
	}
	for _, x := range want {
		k := keyOf(e.keys, x)
		if k == nil {
			t.Fatalf("%s has no key for node %d", d.name, x)
		}
		if !bytes.Equal(k.public(), e.tree.nodes[x].encryptionKey()) {
			t.Fatalf("%s has another key for node %d", d.name, x)
		}
	}
	if len(e.keys) != len(want) {
		t.Fatalf("%s has %d keys, want %d", d.name, len(e.keys), len(want))
	}
	if err := e.tree.verify(e.context.GroupID, e.context.Extensions, anyCredential); err != nil {
		t.Fatalf("%s has an invalid tree: %v", d.name, err)
	}
}

var allSuites = []Suite{X25519AES128, P256AES128, X25519ChaCha20, P521AES256, P384AES256, XWing}

func psksOf(known map[string]string) PSKs {
	return func(id PreSharedKeyID) ([]byte, error) {
		if v, ok := known[string(id.ID)]; ok && id.Type == PSKExternal {
			return []byte(v), nil
		}
		return nil, ErrMissingPSK
	}
}

// Two people meet, talk, renew their keys and part, under every suite.
func TestTwoPeople(t *testing.T) {
	for _, id := range allSuites {
		t.Run(id.String(), func(t *testing.T) { twoPeople(t, id) })
	}
}

// Other implementations have the product's suite under another number until it is
// assigned one. Only tests know that.
func TestTwoPeopleUnderAnAlias(t *testing.T) {
	alias := *XWing.known()
	alias.id = 0x004E
	if alias.id.Supported() {
		t.Error("the alias is known outside of tests")
	}
	before := suites
	suites = append(slices.Clip(suites), &alias)
	defer func() { suites = before }()
	twoPeople(t, alias.id)
}

func twoPeople(t *testing.T, id Suite) {
	ds := newDevices(t, id, "ana", "ben")
	ana, ben := ds[0], ds[1]
	ana.reload, ben.reload = true, true
	ana.create()
	b := ben.bundle()
	psk := psksOf(map[string]string{"contact": "a shared secret"})
	staged := ana.stage(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}, ExternalPSK([]byte("contact"))}, PSK: psk})
	if ana.g.Epoch() != 0 || len(ana.g.Roster()) != 1 {
		t.Error("a staged commit shows in the group")
	}
	refs, err := WelcomeRefs(staged.Welcome())
	if err != nil || len(refs) != 1 || !bytes.Equal(refs[0], b.Ref()) {
		t.Errorf("WelcomeRefs = %x, %v", refs, err)
	}
	ana.merge(staged)
	if _, _, err := Join(ben.config, staged.Welcome(), b, nil); !errors.Is(err, ErrMissingPSK) {
		t.Errorf("joining without the key: %v", err)
	}
	wrong := psksOf(map[string]string{"contact": "another secret"})
	if _, _, err := Join(ben.config, staged.Welcome(), b, &JoinOptions{PSK: wrong}); !errors.Is(err, ErrAuthentication) {
		t.Errorf("joining with a wrong key: %v", err)
	}
	ben.join(staged.Welcome(), b, &JoinOptions{PSK: psk})
	agree(t, ana, ben)
	for range 2 {
		ben.commit(nil, ana)
		agree(t, ana, ben)
		ana.commit(&CommitOptions{Public: true, AuthenticatedData: []byte("x")}, ben)
		agree(t, ana, ben)
	}
	if got, want := ana.g.Epoch(), uint64(5); got != want {
		t.Errorf("epoch %d, want %d", got, want)
	}
	bye := ana.stage(&CommitOptions{Proposals: []Proposal{Remove{ben.g.OwnLeaf()}}})
	got, err := ben.process(bye.Message(), nil)
	ben.check(err)
	if !got.Staged.RemovesSelf() {
		t.Error("ben does not see that he is removed")
	}
	if _, err := got.Staged.Merge(ben.g); !errors.Is(err, ErrRemoved) {
		t.Errorf("merging one's removal: %v", err)
	}
	// Who does not look whether he is removed finds nothing, and does not fall.
	r := got.Staged
	if _, err := r.Export("x", nil, 32); !errors.Is(err, ErrRemoved) {
		t.Errorf("exporting from an epoch without oneself: %v", err)
	}
	_, found := r.Member(0)
	if found || r.Roster() != nil || r.RatchetTree() != nil || r.EpochAuthenticator() != nil || r.Context().GroupID != nil || r.Epoch() != ben.g.Epoch()+1 {
		t.Error("something of an epoch without oneself")
	}
	if again, err := ParseStaged(ben.config, got.Staged.Marshal()); err != nil || !again.RemovesSelf() {
		t.Errorf("a stored removal: %v", err)
	}
	ana.merge(bye)
	if r := ana.g.Roster(); len(r) != 1 || string(r[0].Node.Credential.Identity) != "ana" {
		t.Errorf("%d members left", len(r))
	}
	late := ben.encrypt("my last words")
	ana.reads(late, "my last words", ben)
	ben.refuses(ana.encrypt("for myself"), ErrWrongEpoch)
}

// What a commit looks like to who judges it.
func TestStagedTellsAll(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0], ds[1], ds[2]
	dora := newDevice(t, X25519AES128, "dora")
	b := dora.bundle(Extension{0xF053, []byte("inbox")})
	x := Extension{ExtensionApplicationID, []byte("new name")}
	s := ana.stage(&CommitOptions{
		Proposals:         []Proposal{Remove{cem.g.OwnLeaf()}, Add{b.KeyPackage()}, GroupContextExtensions{Extensions{x}}},
		AuthenticatedData: []byte("seen"), TreeOutside: true,
	})
	got, err := ben.process(s.Message(), nil)
	ben.check(err)
	for _, s := range []*Staged{s, got.Staged} {
		if s.Committer() != 0 || s.External() || !s.HasPath() || s.Public() || string(s.AuthenticatedData()) != "seen" || s.Own() != (s != got.Staged) {
			t.Errorf("wrong description of the commit: %+v", s)
		}
		ps := s.Proposals()
		if len(ps) != 3 || ps[0].Proposal.(Remove).Removed != 2 || ps[1].Proposal.(Add).KeyPackage.LeafNode == nil || ps[2].ByReference || ps[2].Sender != (Sender{SenderMember, 0}) {
			t.Errorf("wrong proposals: %v", ps)
		}
		if _, ok := s.OldContext().Extensions.Get(x.Type); ok || s.OldContext().Epoch != 1 {
			t.Error("wrong old context")
		}
		if v, _ := s.Context().Extensions.Get(x.Type); string(v) != "new name" || s.Epoch() != 2 {
			t.Error("wrong new context")
		}
		if r := s.Roster(); len(r) != 3 || string(r[2].Node.Credential.Identity) != "dora" {
			t.Error("wrong new roster")
		}
		if l, ok := s.Member(2); !ok || !bytes.Equal(l.encoded, b.KeyPackage().LeafNode.encoded) {
			t.Error("wrong leaf of the new member")
		}
		if _, ok := s.Member(3); ok {
			t.Error("a member beyond the tree")
		}
		if !slices.Equal(s.Added(), []LeafIndex{2}) {
			t.Errorf("added %v", s.Added())
		}
	}
	a, err := s.Export("sotto cap", nil, 32)
	ana.check(err)
	c, err := got.Staged.Export("sotto cap", nil, 32)
	ben.check(err)
	if !bytes.Equal(a, c) {
		t.Error("different exports of the new epoch")
	}
	if now, err := ana.g.Export("sotto cap", nil, 32); err != nil || bytes.Equal(now, a) {
		t.Errorf("the old epoch exports what the new one does: %v", err)
	}
	if _, _, err := Join(dora.config, s.Welcome(), b, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("joining without the tree: %v", err)
	}
	ana.merge(s)
	ben.merge(got.Staged)
	dora.join(s.Welcome(), b, &JoinOptions{RatchetTree: s.RatchetTree()})
	agree(t, ana, ben, dora)
	if v, _ := dora.g.Roster()[2].Node.Extensions.Get(0xF053); string(v) != "inbox" {
		t.Error("dora's leaf lost its extension")
	}
	if !bytes.Equal(ana.g.RatchetTree(), dora.g.RatchetTree()) {
		t.Error("different trees")
	}
}

// A staged commit that is dropped has never been, and two in one epoch lead
// nowhere but to one.
func TestStagedDropped(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0], ds[1], ds[2]
	first := ana.stage(nil)
	second := ben.stage(nil)
	cem.follow(second.Message(), nil)
	got, err := ana.process(second.Message(), nil)
	ana.check(err)
	ana.merge(got.Staged)
	ben.merge(second)
	if _, err := first.Merge(ana.g); !errors.Is(err, ErrStale) {
		t.Errorf("merging a commit that lost: %v", err)
	}
	cem.refuses(first.Message(), ErrWrongEpoch)
	agree(t, ana, ben, cem)

	// A commit that is dropped before it is sent, and another in its place: no
	// message key is used twice.
	one, two := ana.stage(nil), ana.stage(&CommitOptions{AuthenticatedData: []byte("2")})
	if a, b := generationOf(t, ben.g, one.Message()), generationOf(t, ben.g, two.Message()); a == b {
		t.Errorf("two commits with generation %d", a)
	}
	ben.follow(two.Message(), nil)
	cem.follow(two.Message(), nil)
	ana.merge(two)
	agree(t, ana, ben, cem)
	if _, err := two.Merge(nil); !errors.Is(err, ErrStale) {
		t.Errorf("merging with no group: %v", err)
	}
}

func generationOf(t *testing.T, g *Group, msg []byte) uint32 {
	t.Helper()
	r, err := readMessageOf(msg, wirePrivateMessage)
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodePrivateMessage(r)
	if err != nil {
		t.Fatal(err)
	}
	d, err := g.cur.s.openSenderData(newWorkspace(), &p, msg, g.cur.secrets.senderData)
	if err != nil {
		t.Fatal(err)
	}
	return d.generation
}

// Messages go on between a commit's making and its merging.
func TestMessagesWhileStaged(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	s := ana.stage(nil)
	m1 := ben.encrypt("one")
	ana.reads(m1, "one", ben)
	m2 := ben.encrypt("two")
	m3 := ana.encrypt("three")
	ana.merge(s)
	ana.refuses(m1, ErrReplayed)
	ana.reads(m2, "two", ben)
	ben.reads(m3, "three", ana)
	ben.follow(s.Message(), nil)
	agree(t, ana, ben)
}

func TestOutOfOrder(t *testing.T) {
	for _, reload := range []bool{false, true} {
		ds := newGroupOf(t, X25519AES128, "ana", "ben")
		ana, ben := ds[0], ds[1]
		ben.reload = reload
		var msgs [][]byte
		for i := range 70 {
			msgs = append(msgs, ana.encrypt(fmt.Sprint(i)))
		}
		ben.reads(msgs[69], "69", ana)
		order := mrand.New(mrand.NewPCG(1, 2)).Perm(69)
		for _, i := range order {
			if i < 5 { // 64 of 69 are kept
				ben.refuses(msgs[i], ErrReplayed)
			} else {
				ben.reads(msgs[i], fmt.Sprint(i), ana)
			}
		}
		for _, m := range msgs {
			ben.refuses(m, ErrReplayed)
		}
		if r := ben.g.secrets.ratchet(0, application); len(r.skipped) != 0 {
			t.Errorf("%d skipped keys left", len(r.skipped))
		}
	}
}

// The number of skipped keys stays bounded however messages are dropped.
func TestSkippedKeysAreBounded(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	ben.config.OutOfOrder = 5
	ben.restart()
	var last []byte
	for i := range 60 {
		msg := ana.encrypt("x")
		switch {
		case i%4 == 3:
			ben.reads(msg, "x", ana)
			if n := len(ben.g.secrets.ratchet(0, application).skipped); n > 5 {
				t.Fatalf("%d keys are kept", n)
			}
		case i%4 == 2:
			last = msg
		}
	}
	ben.reads(last, "x", ana)
	ben.config.OutOfOrder = -1
	ben.restart()
	skipped := ana.encrypt("skipped")
	ben.reads(ana.encrypt("y"), "y", ana)
	ben.refuses(skipped, ErrReplayed)
}

func TestTooFarAhead(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	far := func(generation uint32) []byte {
		c := ana.g.Clone()
		opened, err := c.secrets.opened(0)
		ana.check(err)
		r := *opened.ratchet(0, application)
		step := ratchetStepper{c.cur.s, r.secret}
		for g := r.generation; g < min(generation, 1003); g++ {
			step.step(g, nil)
		}
		r.generation, r.secret = generation, step.secret
		opened.set(newOwner(), 0, application, r)
		c.secrets = opened
		msg, err := c.Encrypt([]byte("far"), []byte("aad of ana"))
		ana.check(err)
		return msg
	}
	next := ana.g.secrets.ratchet(0, application).generation // agree has sent
	ben.refuses(far(next+1001), ErrTooFarAhead)
	ben.refuses(far(math.MaxUint32-1), ErrTooFarAhead)
	ben.reads(far(next+1000), "far", ana)
	ben.reads(far(next+999), "far", ana)

	// The sender's end of it: the last generation is not used.
	r := &ratchet{generation: math.MaxUint32}
	if _, err := r.next(ana.g.cur.s, new(messageKey)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a ratchet at its end: %v", err)
	}
	if _, err := r.key(ana.g.cur.s, math.MaxUint32, new(messageKey), 64, 1000); !errors.Is(err, ErrTooFarAhead) {
		t.Errorf("the last generation: %v", err)
	}
}

func TestPastEpochs(t *testing.T) {
	for _, reload := range []bool{false, true} {
		ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
		ana, ben, cem := ds[0], ds[1], ds[2]
		ben.reload = reload
		var late [][]byte
		for i := range 5 {
			late = append(late, cem.encrypt(fmt.Sprint("said in ", i)), cem.encrypt(fmt.Sprint("and again ", i)))
			ana.commit(nil, ben, cem)
		}
		// The current epoch is 6; 3, 4 and 5 are kept.
		ben.refuses(late[1], ErrEpochForgotten)
		ben.refuses(late[3], ErrEpochForgotten)
		for i := 4; i >= 2; i-- {
			ben.reads(late[2*i+1], fmt.Sprint("and again ", i), cem)
			ben.refuses(late[2*i+1], ErrReplayed)
		}
		next := ben.g.Clone()
		next.ForgetBefore(5)
		ben.save(next)
		ben.refuses(late[6], ErrEpochForgotten)
		ben.reads(late[8], "said in 4", cem)
		agree(t, ana, ben, cem)
		next = ben.g.Clone()
		next.ForgetBefore(math.MaxUint64)
		ben.save(next)
		if len(ben.g.past) != 0 {
			t.Error("past epochs are left")
		}
		for name := range ben.disk {
			if len(name) > 8 && name[7] != 6 {
				t.Errorf("a record of a forgotten epoch is left: %x", name)
			}
		}
	}
}

func TestOwnMessages(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	old := ana.records()
	m := ana.encrypt("mine")
	ana.refuses(m, ErrOwnMessage)
	public := ana.stage(&CommitOptions{Public: true})
	ana.refuses(public.Message(), ErrOwnMessage)
	private := ana.stage(nil)
	ana.refuses(private.Message(), ErrOwnMessage)

	// Ana's disk is replaced by an old copy of itself.
	rolled, err := LoadGroup(ana.config, old)
	ana.check(err)
	if _, err := rolled.Process(m, nil); !errors.Is(err, ErrRolledBack) {
		t.Errorf("an own message from the future: %v", err)
	}
	if _, err := rolled.Process(private.Message(), nil); !errors.Is(err, ErrRolledBack) {
		t.Errorf("an own commit from the future: %v", err)
	}

	// Ben cannot make Ana believe that.
	forged := ben.g.Clone()
	forged.cur = &epoch{}
	*forged.cur = *ben.g.cur
	forged.cur.self = 0
	b, err := forged.Encrypt([]byte("not hers"), nil)
	ben.check(err)
	for range 3 {
		b, err = forged.Encrypt([]byte("not hers"), nil)
		ben.check(err)
	}
	ana.refuses(b, ErrAuthentication)

	ana.merge(private)
	ana.refuses(m, ErrOwnMessage)
}

// Every single byte of a message counts, and a bad message changes nothing.
func TestTampered(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0], ds[1], ds[2]
	dora := newDevice(t, X25519AES128, "dora")
	b := dora.bundle()
	staged := ana.stage(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}})
	public := ana.stage(&CommitOptions{Public: true})
	propose := func(o *ProposeOptions) []byte {
		next := cem.g.Clone()
		msg, err := next.Propose(Remove{0}, o)
		cem.check(err)
		return msg
	}
	messages := map[string][]byte{
		"application message": cem.encrypt("hello"),
		"private commit":      staged.Message(),
		"public commit":       public.Message(),
		"private proposal":    propose(nil),
		"public proposal":     propose(&ProposeOptions{Public: true}),
	}
	for name, msg := range messages {
		if _, err := ben.g.Clone().Process(msg, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range msg {
			bad := bytes.Clone(msg)
			bad[i] ^= 1 << (i % 8)
			if _, err := ben.process(bad, nil); err == nil {
				t.Errorf("%s: byte %d of %d does not matter", name, i, len(msg))
			}
			if i%16 == 0 {
				if _, err := ben.process(msg[:i], nil); err == nil {
					t.Errorf("%s: the first %d bytes of %d are enough", name, i, len(msg))
				}
			}
		}
		if _, err := ben.process(append(bytes.Clone(msg), 0), nil); err == nil {
			t.Errorf("%s: a byte more does not matter", name)
		}
	}
	for i := range staged.Welcome() {
		bad := bytes.Clone(staged.Welcome())
		bad[i] ^= 1 << (i % 8)
		if _, _, err := Join(dora.config, bad, b, nil); err == nil {
			t.Errorf("welcome: byte %d of %d does not matter", i, len(bad))
		}
	}
	for i := range b.KeyPackage().Marshal() {
		bad := b.KeyPackage().Marshal()
		bad[i] ^= 1 << (i % 8)
		if k, err := ParseKeyPackage(bad); err == nil && k.Verify() == nil {
			t.Errorf("key package: byte %d of %d does not matter", i, len(bad))
		}
	}
}

// A thief of the state after a message was read cannot read it again: whatever the
// state holds, no secret in it opens the message.
func TestStolenState(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem", "dora", "ed")
	ana, ben, cem := ds[0], ds[1], ds[2]
	before := ana.encrypt("before")
	skipped := ana.encrypt("skipped")
	after := ana.encrypt("after")
	ben.reads(before, "before", ana)
	ben.reads(after, "after", ana)
	thief := func() *Group {
		g, err := LoadGroup(ben.config, ben.records())
		ben.check(err)
		return g
	}
	for name, msg := range map[string][]byte{"before": before, "after": after} {
		if _, err := thief().Process(msg, nil); !errors.Is(err, ErrReplayed) {
			t.Errorf("%s: %v", name, err)
		}
		// Not even with the ratchets of all leaves that can be made from it.
		g := thief()
		var secrets [][]byte
		for _, s := range g.secrets.subtrees {
			secrets = append(secrets, s.secret)
			if s.node.contains(0) {
				t.Errorf("%s: the secret of node %d is still there", name, s.node)
			}
		}
		if len(secrets) == 0 {
			t.Error("no secret left in the tree: the test tests nothing")
		}
	}
	if got, err := thief().Process(skipped, nil); err != nil || string(got.Content) != "skipped" {
		t.Errorf("what was not read yet: %v", err)
	}
	ben.reads(skipped, "skipped", ana)
	if _, err := thief().Process(skipped, nil); !errors.Is(err, ErrReplayed) {
		t.Errorf("skipped: %v", err)
	}
	// Nor can what ben sent himself be read from his state.
	own := ben.encrypt("own")
	g := thief()
	r := g.secrets.ratchet(1, application)
	if _, err := r.key(g.cur.s, generationOf(t, g, own), new(messageKey), 64, 1000); !errors.Is(err, ErrReplayed) {
		t.Errorf("own message: %v", err)
	}
	// And an epoch later the init secret and old keys are gone from the disk.
	oldInit, oldLeaf := bytes.Clone(ben.g.cur.secrets.init), bytes.Clone(keyOf(ben.g.cur.keys, 2).raw)
	oldExporter := bytes.Clone(ben.g.cur.secrets.exporter)
	ben.commit(nil, ana, cem, ds[3], ds[4])
	for name, value := range ben.disk {
		for _, secret := range [][]byte{oldInit, oldLeaf, oldExporter} {
			if bytes.Contains(value, secret) {
				t.Errorf("record %x holds a secret of the epoch before", name)
			}
		}
	}
	agree(t, ds...)
}

// Retire overwrites what was used up, and nothing else.
func TestRetire(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	next := ana.g.Clone()
	before := ana.g.secrets.ratchet(0, application)
	_, err := next.Encrypt([]byte("x"), nil)
	ana.check(err)
	want := dump(next)
	ana.g.Retire(next)
	if before.secret != [maxHash]byte{} {
		t.Error("the used ratchet secret is still there")
	}
	if !sameRecords(dump(next), want) {
		t.Error("Retire changed the next state")
	}
	if _, err := ana.g.Encrypt([]byte("x"), nil); err == nil {
		t.Error("a retired group encrypts")
	}
	ana.g = next
	// What was staged before a message goes on after it.
	staged, err := ana.g.Clone().Commit(nil)
	ana.check(err)
	next = ana.g.Clone()
	_, err = next.Encrypt([]byte("y"), nil)
	ana.check(err)
	ana.g.Retire(next)
	ana.g, err = staged.Merge(next)
	ana.check(err)
	next.Retire(ana.g)
	_, err = ana.g.Encrypt([]byte("z"), nil)
	ana.check(err)
	s := ben.stage(nil)
	merged, err := s.Merge(ben.g)
	ben.check(err)
	want = dump(merged)
	init := ben.g.cur.secrets.init
	ben.g.Retire(merged)
	if !bytes.Equal(init, make([]byte, len(init))) {
		t.Error("the init secret is still there")
	}
	if !sameRecords(dump(merged), want) {
		t.Error("Retire changed the merged state")
	}
}

func TestAllProposalsByReference(t *testing.T) {
	for _, public := range []bool{false, true} {
		ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem", "dora")
		for _, d := range ds {
			d.reload = true
		}
		ana, ben, cem, dora := ds[0], ds[1], ds[2], ds[3]
		ed := newDevice(t, X25519AES128, "ed")
		b := ed.bundle()
		psk := psksOf(map[string]string{"k": "v"})
		propose := func(from *device, p Proposal, o *ProposeOptions) (ref []byte) {
			t.Helper()
			if o == nil {
				o = &ProposeOptions{}
			}
			o.Public, o.AuthenticatedData = public, []byte("why")
			next := from.g.Clone()
			msg, err := next.Propose(p, o)
			from.check(err)
			from.save(next)
			for _, d := range ds {
				if d == from {
					d.refuses(msg, ErrOwnMessage)
					continue
				}
				got, err := d.process(msg, nil)
				d.check(err)
				if got.Type != ContentProposal || got.Proposal.Type() != p.Type() || got.Sender.Leaf != from.g.OwnLeaf() || string(got.AuthenticatedData) != "why" {
					t.Errorf("%s sees another proposal: %v", d.name, got)
				}
				ref = got.Ref
			}
			return ref
		}
		x := Extensions{{ExtensionApplicationID, []byte("leaf of ben")}}
		propose(ben, Update{}, &ProposeOptions{Leaf: &LeafChange{Extensions: &x}})
		propose(cem, Update{}, nil) // loses against the removal
		propose(ana, Update{}, nil) // the committer's own is left out
		propose(dora, Remove{cem.g.OwnLeaf()}, nil)
		propose(dora, Remove{cem.g.OwnLeaf()}, nil) // the same again
		propose(cem, Add{b.KeyPackage()}, nil)
		propose(ben, Add{b.KeyPackage()}, nil)
		propose(ben, PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("k")}}, nil)
		propose(ana, GroupContextExtensions{}, nil)
		propose(ben, GroupContextExtensions{Extensions{{ExtensionApplicationID, []byte("name")}}}, nil)
		propose(ben, ReInit{GroupID: []byte("new"), Version: 1, Suite: XWing}, nil)
		refused := propose(dora, Remove{ana.g.OwnLeaf()}, nil)
		if n := len(ana.g.PendingProposals()); n != 11 {
			t.Errorf("%d proposals are pending", n)
		}
		next := ana.g.Clone()
		next.DropProposal(refused)
		next.DropProposal([]byte("unknown"))
		ana.save(next)
		if _, err := ana.g.Encrypt(nil, nil); !errors.Is(err, ErrPendingProposals) {
			t.Errorf("sending before the commit: %v", err)
		}
		s := ana.stage(&CommitOptions{PSK: psk})
		var types []ProposalType
		for _, p := range s.Proposals() {
			types = append(types, p.Proposal.Type())
			if !p.ByReference {
				t.Error("a proposal by value")
			}
		}
		if want := []ProposalType{ProposalUpdate, ProposalRemove, ProposalAdd, ProposalPreSharedKey, ProposalGroupContextExtensions}; !slices.Equal(types, want) {
			t.Errorf("committed %v, want %v", types, want)
		}
		o := &ProcessOptions{PSK: psk}
		ben.follow(s.Message(), o)
		dora.follow(s.Message(), o)
		got, err := cem.process(s.Message(), o)
		cem.check(err)
		if !got.Staged.RemovesSelf() {
			t.Error("cem is not removed")
		}
		if _, err := ben.process(s.Message(), o); !errors.Is(err, ErrWrongEpoch) {
			t.Errorf("a commit again: %v", err)
		}
		ana.merge(s)
		ed.join(s.Welcome(), b, &JoinOptions{PSK: psk})
		agree(t, ana, ben, dora, ed)
		if l, _ := ana.g.Member(ben.g.OwnLeaf()); l.Source != SourceUpdate || !l.Extensions.equal(x) {
			t.Error("ben's update is not in the tree")
		}
		if n := len(ben.g.PendingProposals()); n != 0 {
			t.Errorf("%d proposals survive the epoch", n)
		}
		ben.commit(nil, ana, dora, ed)
		agree(t, ana, ben, dora, ed)
	}
}

func TestCommitRefersToUnknownProposal(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0], ds[1], ds[2]
	next := cem.g.Clone()
	proposal, err := next.Propose(Update{}, nil)
	cem.check(err)
	cem.save(next)
	_, err = ana.process(proposal, nil)
	ana.check(err)
	s := ana.stage(nil)
	ben.refuses(s.Message(), ErrUnknownProposal)
	_, err = ben.process(proposal, nil)
	ben.check(err)
	ben.follow(s.Message(), nil)
	cem.follow(s.Message(), nil)
	ana.merge(s)
	agree(t, ana, ben, cem)
	ben.refuses(proposal, ErrWrongEpoch)
}

func TestInvalidCommits(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben := ds[0], ds[1]
	pkg := func(name string) *KeyPackage { return newDevice(t, X25519AES128, name).bundle().KeyPackage() }
	dora := pkg("dora")
	broken := *pkg("ed")
	broken.Signature, broken.encoded = bytes.Clone(broken.Signature), nil
	broken.Signature[0] ^= 1
	foreign := newDevice(t, XWing, "foreign").bundle().KeyPackage()
	twin := newDevice(t, X25519AES128, "twin of ben")
	twin.config = ben.config
	psk := psksOf(map[string]string{"k": "v"})
	long := PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("k"), Nonce: []byte("short")}}
	once := withNonce(ana.g.cur.s, ExternalPSK([]byte("k")))
	required := RequiredCapabilities{Extensions: []ExtensionType{0xF051}}.Extension()
	for _, tt := range []struct {
		name string
		o    CommitOptions
		want error
	}{
		{"the committer removes itself", CommitOptions{Proposals: []Proposal{Remove{0}}}, ErrInvalid},
		{"removal of nobody", CommitOptions{Proposals: []Proposal{Remove{3}}}, ErrNotMember},
		{"removal beyond the tree", CommitOptions{Proposals: []Proposal{Remove{1 << 31}}}, ErrNotMember},
		{"one member removed twice", CommitOptions{Proposals: []Proposal{Remove{1}, Remove{1}}}, ErrInvalid},
		{"one key package twice", CommitOptions{Proposals: []Proposal{Add{dora}, Add{dora}}}, ErrInvalid},
		{"key package with a bad signature", CommitOptions{Proposals: []Proposal{Add{&broken}}}, ErrAuthentication},
		{"key package of another suite", CommitOptions{Proposals: []Proposal{Add{foreign}}}, ErrInvalid},
		{"a member's signature key again", CommitOptions{Proposals: []Proposal{Add{twin.bundle().KeyPackage()}}}, ErrInvalid},
		{"key package that has expired", CommitOptions{Proposals: []Proposal{Add{dora}}, Now: 201}, ErrInvalid},
		{"key package from the future", CommitOptions{Proposals: []Proposal{Add{dora}}, Now: 99}, ErrInvalid},
		{"an update by value", CommitOptions{Proposals: []Proposal{Update{}}}, ErrInvalid},
		{"external init", CommitOptions{Proposals: []Proposal{ExternalInit{}}}, ErrInvalid},
		{"pre-shared key unknown", CommitOptions{Proposals: []Proposal{ExternalPSK([]byte("unknown"))}, PSK: psk}, ErrMissingPSK},
		{"no pre-shared keys at all", CommitOptions{Proposals: []Proposal{ExternalPSK([]byte("k"))}}, ErrMissingPSK},
		{"pre-shared key twice", CommitOptions{Proposals: []Proposal{once, once}, PSK: psk}, ErrInvalid},
		{"nonce too short", CommitOptions{Proposals: []Proposal{long}, PSK: psk}, ErrInvalid},
		{"extensions twice", CommitOptions{Proposals: []Proposal{GroupContextExtensions{}, GroupContextExtensions{}}}, ErrInvalid},
		{"extension of one type twice", CommitOptions{Proposals: []Proposal{GroupContextExtensions{Extensions{{1, nil}, {1, nil}}}}}, ErrInvalid},
		{"extension that members do not know", CommitOptions{Proposals: []Proposal{GroupContextExtensions{Extensions{{0xF051, nil}}}}}, ErrInvalid},
		{"capability that members lack", CommitOptions{Proposals: []Proposal{GroupContextExtensions{Extensions{required}}}}, ErrInvalid},
		{"required capabilities cut off", CommitOptions{Proposals: []Proposal{GroupContextExtensions{Extensions{{ExtensionRequiredCapabilities, []byte{2, 0}}}}}}, codec.ErrMalformed},
		{"external senders cut off", CommitOptions{Proposals: []Proposal{GroupContextExtensions{Extensions{{ExtensionExternalSenders, []byte{2, 0}}}}}}, codec.ErrMalformed},
		{"reinit with others", CommitOptions{Proposals: []Proposal{ReInit{Version: 1, Suite: XWing}, Remove{1}}}, ErrInvalid},
		{"reinit with version 0", CommitOptions{Proposals: []Proposal{ReInit{Suite: XWing}}}, ErrInvalid},
		{"resumption key of usage reinit", CommitOptions{Proposals: []Proposal{PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionReInit}}}}, ErrInvalid},
		{"no path for nothing", CommitOptions{NoPath: true}, ErrInvalid},
		{"no path for a removal", CommitOptions{NoPath: true, Proposals: []Proposal{Remove{1}}}, ErrInvalid},
		{"changed leaf without a path", CommitOptions{NoPath: true, Proposals: []Proposal{Add{dora}}, Leaf: &LeafChange{}}, ErrInvalid},
		{"leaf extension not listed", CommitOptions{Leaf: &LeafChange{Extensions: &Extensions{{0xF053, nil}}}}, ErrInvalid},
		{"leaf without its suite", CommitOptions{Leaf: &LeafChange{Capabilities: &Capabilities{Versions: []uint16{1}, Credentials: []CredentialType{1}}}}, ErrInvalid},
		{"signer of another algorithm", CommitOptions{Leaf: &LeafChange{Signer: newSigner(t, P256AES128)}}, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := dump(ana.g)
			if _, err := ana.g.Commit(&tt.o); !errors.Is(err, tt.want) {
				t.Errorf("Commit = %v, want %v", err, tt.want)
			}
			if !sameRecords(before, dump(ana.g)) {
				t.Error("a commit that failed changed the group")
			}
		})
	}
	agree(t, ds...)
}

// The same rules hold for what arrives: ben, who trusts nothing, gets commits from a
// member that breaks them and signs correctly.
func TestInvalidCommitsOfOthers(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben := ds[0], ds[1]
	s := ana.g.cur.s
	pkg := func(name string) *KeyPackage { return newDevice(t, X25519AES128, name).bundle().KeyPackage() }
	// forge signs body as a public commit of ana.
	forge := func(c *commit, tag []byte) []byte {
		e := ana.g.cur
		a := &authenticatedContent{wire: wirePublicMessage, tag: tag, content: framedContent{
			groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, 0},
			kind: ContentCommit, body: c.encode(nil),
		}}
		ana.check(a.sign(s, ana.config.Signer, e.encoded))
		return a.publicMessage(s, e.secrets.membership, e.encoded)
	}
	// good returns a valid commit body to be spoiled.
	good := func(ps ...Proposal) *commit {
		staged, err := ana.g.Clone().Commit(&CommitOptions{Public: true, Proposals: ps})
		ana.check(err)
		a, _, err := decodePublicMessage(staged.Message())
		ana.check(err)
		return a.content.commit
	}
	byValue := func(ps ...Proposal) (c *commit) {
		c = &commit{}
		for _, p := range ps {
			c.proposals = append(c.proposals, proposalOrRef{proposal: p})
		}
		return c
	}
	leaf := *ana.g.cur.tree.leaf(0)
	for _, tt := range []struct {
		name  string
		spoil func() *commit
		want  error
	}{
		{"no path for an empty commit", func() *commit { return byValue() }, ErrInvalid},
		{"no path for a removal", func() *commit { return byValue(Remove{2}) }, ErrInvalid},
		{"removal of the committer", func() *commit { c := good(); c.proposals = byValue(Remove{0}).proposals; return c }, ErrInvalid},
		{"update of the committer", func() *commit { c := good(); c.proposals = byValue(Update{&leaf}).proposals; return c }, ErrInvalid},
		{"external init", func() *commit { return byValue(ExternalInit{[]byte("x")}) }, ErrInvalid},
		{"unknown proposal", func() *commit { c := good(); c.proposals = []proposalOrRef{{ref: []byte("x")}}; return c }, ErrUnknownProposal},
		{"reinit with others", func() *commit { return byValue(ReInit{Version: 1}, Add{pkg("dora")}) }, ErrInvalid},
		{"two adds of one key", func() *commit { k := pkg("dora"); return byValue(Add{k}, Add{k}) }, ErrInvalid},
		{"path too short", func() *commit { c := good(); c.path.nodes = c.path.nodes[:1]; return c }, ErrInvalid},
		{"path too long", func() *commit { c := good(); c.path.nodes = append(c.path.nodes, c.path.nodes[0]); return c }, ErrInvalid},
		{"path with one key twice", func() *commit { c := good(); c.path.nodes[1].key = c.path.nodes[0].key; return c }, ErrInvalid},
		{"path with a key of the tree", func() *commit { c := good(); c.path.nodes[1].key = ana.g.cur.tree.leaf(2).EncryptionKey; return c }, ErrInvalid},
		{"path with another key", func() *commit {
			c := good()
			k, err := s.generateKey()
			ana.check(err)
			c.path.nodes[1].key = k.public()
			return c
		}, ErrInvalid},
		{"path secret missing", func() *commit { c := good(); c.path.nodes[0].secrets = nil; return c }, ErrInvalid},
		{"path secret too many", func() *commit {
			c := good()
			c.path.nodes[1].secrets = append(c.path.nodes[1].secrets, c.path.nodes[1].secrets...)
			return c
		}, ErrInvalid},
		{"path secret that does not decrypt", func() *commit { c := good(); c.path.nodes[0].secrets[0].ciphertext[3] ^= 1; return c }, ErrAuthentication},
		{"path secret to a bad point", func() *commit { c := good(); clear(c.path.nodes[0].secrets[0].kemOutput); return c }, ErrAuthentication},
		{"leaf of an update", func() *commit {
			c := good()
			l := *c.path.leaf
			l.Source = SourceUpdate
			ana.check(l.sign(s, ana.config.Signer, ana.g.GroupID(), 0))
			c.path.leaf = &l
			return c
		}, ErrInvalid},
		{"leaf with the old key", func() *commit {
			c := good()
			l := *c.path.leaf
			l.EncryptionKey = ana.g.cur.tree.leaf(0).EncryptionKey
			ana.check(l.sign(s, ana.config.Signer, ana.g.GroupID(), 0))
			c.path.leaf = &l
			return c
		}, ErrInvalid},
		{"leaf with another parent hash", func() *commit {
			c := good()
			l := *c.path.leaf
			l.ParentHash = make([]byte, 32)
			ana.check(l.sign(s, ana.config.Signer, ana.g.GroupID(), 0))
			c.path.leaf = &l
			return c
		}, ErrInvalid},
		{"leaf signed for another place", func() *commit {
			c := good()
			l := *c.path.leaf
			ana.check(l.sign(s, ana.config.Signer, ana.g.GroupID(), 1))
			c.path.leaf = &l
			return c
		}, ErrAuthentication},
		{"leaf with ben's signature key", func() *commit {
			c := good()
			l := *c.path.leaf
			l.SignatureKey = ben.g.cur.tree.leaf(1).SignatureKey
			ana.check(l.sign(s, ben.config.Signer, ana.g.GroupID(), 0))
			c.path.leaf = &l
			return c
		}, ErrInvalid},
		{"leaf that does not list its credential type", func() *commit {
			c := good()
			l := *c.path.leaf
			l.Capabilities.Credentials = nil
			ana.check(l.sign(s, ana.config.Signer, ana.g.GroupID(), 0))
			c.path.leaf = &l
			return c
		}, ErrInvalid},
		{"wrong confirmation tag", func() *commit { return good() }, ErrAuthentication},
	} {
		t.Run(tt.name, func(t *testing.T) { ben.refuses(forge(tt.spoil(), make([]byte, 32)), tt.want) })
	}
	t.Run("no confirmation tag", func(t *testing.T) { ben.refuses(forge(good(), nil), ErrAuthentication) })
	agree(t, ds...)
}

func TestCredentialsAreJudged(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben := ds[0], ds[1]
	judge := func(leaf, old *LeafNode) error {
		if string(leaf.Credential.Identity) == "mallory" {
			return errors.New("no such person")
		}
		if old != nil && !bytes.Equal(leaf.Credential.Identity, old.Credential.Identity) {
			return errors.New("no successor")
		}
		return nil
	}
	ben.config.ValidateCredential = judge
	ben.restart()
	mallory := newDevice(t, X25519AES128, "mallory")
	b := mallory.bundle()
	ben.refuses(ana.stage(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}}).Message(), ErrInvalid)
	if _, err := ben.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("ben adds mallory: %v", err)
	}
	other := BasicCredential([]byte("anna"))
	ben.refuses(ana.stage(&CommitOptions{Leaf: &LeafChange{Credential: &other}}).Message(), ErrInvalid)
	next := ana.g.Clone()
	update, err := next.Propose(Update{}, &ProposeOptions{Leaf: &LeafChange{Credential: &other}})
	ana.check(err)
	ben.refuses(update, ErrInvalid)

	// Someone who joins judges all members.
	dora := newDevice(t, X25519AES128, "dora")
	k := dora.bundle()
	s := ana.stage(&CommitOptions{Proposals: []Proposal{Add{k.KeyPackage()}}})
	dora.config.ValidateCredential = func(leaf, old *LeafNode) error {
		if string(leaf.Credential.Identity) == "cem" {
			return errors.New("not cem")
		}
		return nil
	}
	if _, _, err := Join(dora.config, s.Welcome(), k, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("dora joins a group with cem: %v", err)
	}
	ben.follow(s.Message(), nil)
	ds[2].follow(s.Message(), nil)
	ana.merge(s)
	agree(t, ds...)
}

// A member changes its signature key, credential and extensions in one commit.
func TestLeafChange(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana := ds[0]
	caps := DefaultCapabilities(X25519AES128, 0xF053)
	cred := BasicCredential([]byte("ana maria"))
	ana.name = "ana maria"
	old := ana.config.Signer
	ana.commit(&CommitOptions{Leaf: &LeafChange{
		Signer: newSigner(t, X25519AES128), Credential: &cred, Capabilities: &caps,
		Extensions: &Extensions{{0xF053, []byte("inbox")}},
	}}, ds[1:]...)
	agree(t, ds...)
	for _, d := range ds {
		l, _ := d.g.Member(0)
		if v, _ := l.Extensions.Get(0xF053); string(v) != "inbox" {
			t.Errorf("%s does not see the change", d.name)
		}
	}
	c := ana.config
	c.Signer = old
	if _, err := LoadGroup(c, ana.records()); !errors.Is(err, ErrInvalid) {
		t.Errorf("loading with the old signer: %v", err)
	}
	ana.restart()
	ana.commit(nil, ds[1:]...)
	agree(t, ds...)
}

func TestRequiredCapabilities(t *testing.T) {
	ana := newDevice(t, X25519AES128, "ana")
	required := RequiredCapabilities{Extensions: []ExtensionType{0xF051, 0xF053}, Credentials: []CredentialType{CredentialBasic}}
	group := Extension{0xF051, []byte("group")}
	caps := DefaultCapabilities(X25519AES128, 0xF051, 0xF053)
	g, err := NewGroup(ana.config, GroupOptions{
		Suite: X25519AES128, GroupID: []byte("id"), Credential: BasicCredential([]byte("ana")), Capabilities: &caps,
		Extensions: Extensions{required.Extension(), group}, LeafExtensions: Extensions{{0xF053, nil}},
	})
	ana.check(err)
	ana.save(g)
	if string(ana.g.GroupID()) != "id" {
		t.Errorf("group id %q", ana.g.GroupID())
	}
	ben := newDevice(t, X25519AES128, "ben")
	if _, err := ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{ben.bundle().KeyPackage()}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("adding who lacks capabilities: %v", err)
	}
	b, err := NewKeyPackage(KeyPackageOptions{Suite: X25519AES128, Signer: ben.config.Signer, Credential: BasicCredential([]byte("ben")), Capabilities: &caps})
	ben.check(err)
	s := ana.commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}})
	ben.join(s.Welcome(), b, nil)
	agree(t, ana, ben)
	rc, err := ParseRequiredCapabilities(ben.g.Context().Extensions[0].Data)
	if err != nil || !slices.Equal(rc.Extensions, required.Extensions) || !slices.Equal(rc.Credentials, required.Credentials) {
		t.Errorf("required capabilities %v, %v", rc, err)
	}
	// A group cannot be made that its maker is not fit for.
	if _, err := NewGroup(ana.config, GroupOptions{Suite: X25519AES128, Credential: BasicCredential([]byte("ana")), Extensions: Extensions{RequiredCapabilities{Credentials: []CredentialType{CredentialX509}}.Extension()}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a group without its maker: %v", err)
	}
}

func TestX509Credential(t *testing.T) {
	ds := newDevices(t, X25519AES128, "ana", "ben")
	cred := Credential{Type: CredentialX509, Certificates: [][]byte{[]byte("leaf"), []byte("root")}}
	caps := DefaultCapabilities(X25519AES128)
	caps.Credentials = []CredentialType{CredentialBasic, CredentialX509}
	var bundles []*KeyPackageBundle
	for _, d := range ds {
		b, err := NewKeyPackage(KeyPackageOptions{Suite: d.suite, Signer: d.config.Signer, Credential: cred, Capabilities: &caps})
		d.check(err)
		bundles = append(bundles, b)
	}
	g, err := NewGroup(ds[0].config, GroupOptions{Suite: X25519AES128, Credential: BasicCredential([]byte("ana")), Capabilities: &caps})
	ds[0].check(err)
	ds[0].save(g)
	s := ds[0].commit(&CommitOptions{Proposals: []Proposal{Add{bundles[1].KeyPackage()}}})
	ds[1].join(s.Welcome(), bundles[1], nil)
	if l, _ := ds[0].g.Member(1); len(l.Credential.Certificates) != 2 || string(l.Credential.Certificates[1]) != "root" {
		t.Error("the certificates are lost")
	}
	// Who knows only basic credentials cannot be in a group with others.
	if _, err := ds[0].g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{newDevice(t, X25519AES128, "cem").bundle().KeyPackage()}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("adding who does not know the credential type: %v", err)
	}
}

func TestPadding(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	ana.config.Padding = 256
	ana.restart()
	sizes := make(map[int]bool)
	for n := range 150 {
		text := strings.Repeat("x", n)
		msg := ana.encrypt(text)
		sizes[len(msg)] = true
		ben.reads(msg, text, ana)
	}
	if len(sizes) != 1 {
		t.Errorf("%d sizes", len(sizes))
	}
}

func TestExternalJoin(t *testing.T) {
	for _, withTree := range []bool{true, false} {
		ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
		ana, ben, cem := ds[0], ds[1], ds[2]
		dora := newDevice(t, X25519AES128, "dora")
		psk := psksOf(map[string]string{"k": "v"})
		join := func(d *device, from *device, members []*device, o ExternalJoinOptions) *Staged {
			t.Helper()
			info, err := from.g.GroupInfo(withTree)
			from.check(err)
			var tree []byte
			if !withTree {
				if seen, err := ParseGroupInfo(info, nil); err != nil || seen.Roster != nil {
					t.Errorf("ParseGroupInfo without the tree = %v, %v", seen, err)
				}
				tree = from.g.RatchetTree()
			}
			seen, err := ParseGroupInfo(info, tree)
			from.check(err)
			if !bytes.Equal(seen.Context.encode(nil), from.g.cur.encoded) || seen.Signer != from.g.OwnLeaf() || len(seen.Roster) != len(from.g.Roster()) {
				t.Errorf("ParseGroupInfo = %v", seen)
			}
			for i, m := range from.g.Roster() {
				if got := seen.Roster[i]; got.Leaf != m.Leaf || !got.Node.same(m.Node) {
					t.Errorf("ParseGroupInfo shows leaf %d as %v", m.Leaf, got)
				}
			}
			if !withTree {
				o.RatchetTree = from.g.RatchetTree()
			}
			o.Credential, o.PSK, o.AuthenticatedData = BasicCredential([]byte(d.name)), psk, []byte("may I")
			s, err := JoinExternal(d.config, info, o)
			d.check(err)
			s, err = ParseStaged(d.config, s.Marshal())
			d.check(err)
			for _, m := range members {
				theirs := m.follow(s.Message(), &ProcessOptions{PSK: psk})
				if !theirs.External() || theirs.Committer() != s.Committer() || string(theirs.AuthenticatedData()) != "may I" {
					t.Errorf("%s sees another commit", m.name)
				}
			}
			d.g = nil
			clear(d.disk)
			d.merge2(s)
			return s
		}
		s := join(dora, ben, ds, ExternalJoinOptions{PreSharedKeys: []PreSharedKey{ExternalPSK([]byte("k"))}})
		if s.Committer() != 3 {
			t.Errorf("dora is at leaf %d", s.Committer())
		}
		agree(t, ana, ben, cem, dora)

		// Cem has lost his state and comes back in his own place.
		old := cem.g.OwnLeaf()
		cem.g = nil
		s = join(cem, ana, []*device{ana, ben, dora}, ExternalJoinOptions{Replaces: &old})
		if s.Committer() != old {
			t.Errorf("cem is at leaf %d", s.Committer())
		}
		agree(t, ana, ben, cem, dora)
		dora.commit(nil, ana, ben, cem)
		agree(t, ana, ben, cem, dora)

		// A spoiled group info is refused.
		info, err := ana.g.GroupInfo(true)
		ana.check(err)
		for i := range info {
			bad := bytes.Clone(info)
			bad[i] ^= 1 << (i % 8)
			if _, err := JoinExternal(newDevice(t, X25519AES128, "ed").config, bad, ExternalJoinOptions{Credential: BasicCredential([]byte("ed"))}); err == nil {
				t.Fatalf("group info: byte %d of %d does not matter", i, len(info))
			}
		}
	}
}

// merge2 merges what led into a group.
func (d *device) merge2(s *Staged) {
	d.t.Helper()
	g, err := s.Merge(nil)
	d.check(err)
	d.save(g)
}

func TestProposalsFromOutside(t *testing.T) {
	server := newSigner(t, X25519AES128)
	serverKey := server.Public().(ed25519.PublicKey)
	ana, ben := newDevice(t, X25519AES128, "ana"), newDevice(t, X25519AES128, "ben")
	ana.create(ExternalSendersExtension([]ExternalSender{{serverKey, BasicCredential([]byte("server"))}}))
	ana.add(nil, ben)
	dora := newDevice(t, X25519AES128, "dora")
	b := dora.bundle()
	outside := func(signer crypto.Signer, sender int, p Proposal) []byte {
		t.Helper()
		msg, err := ProposeExternal(signer, X25519AES128, ana.g.GroupID(), ana.g.Epoch(), sender, p)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	for _, tt := range []struct {
		name string
		msg  []byte
		want error
	}{
		{"unknown external sender", outside(server, 1, Add{b.KeyPackage()}), ErrNotMember},
		{"external sender with another key", outside(newSigner(t, X25519AES128), 0, Add{b.KeyPackage()}), ErrAuthentication},
		{"external sender's update", outside(server, 0, Update{b.KeyPackage().LeafNode}), ErrInvalid},
		{"external sender's external init", outside(server, 0, ExternalInit{}), ErrInvalid},
		{"removal of nobody", outside(server, 0, Remove{9}), ErrInvalid},
		{"new member removes somebody", outside(server, -1, Remove{1}), ErrInvalid},
		{"new member signs with another key", outside(server, -1, Add{b.KeyPackage()}), ErrAuthentication},
	} {
		if _, err := ben.process(tt.msg, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	// Who does not trust the server neither joins nor lets it in.
	strict := ben.config
	strict.ValidateExternalSender = func(s ExternalSender) error {
		if string(s.Credential.Identity) == "server" {
			return errors.New("not trusted")
		}
		return nil
	}
	senders, _ := ana.g.Context().Extensions.Get(ExtensionExternalSenders)
	if _, err := NewGroup(strict, GroupOptions{Suite: X25519AES128, Credential: BasicCredential(nil), Extensions: Extensions{{ExtensionExternalSenders, senders}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a group with a sender that is not trusted: %v", err)
	}
	wary, err := LoadGroup(strict, ben.records())
	ben.check(err)
	again := outside(server, 0, GroupContextExtensions{ana.g.Context().Extensions})
	if _, err := wary.Process(again, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("extensions with a sender that is not trusted: %v", err)
	}
	info, err := ana.g.GroupInfo(true)
	ana.check(err)
	if _, err := JoinExternal(strict, info, ExternalJoinOptions{Credential: BasicCredential(nil)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("joining a group with a sender that is not trusted: %v", err)
	}

	add := outside(dora.config.Signer, -1, Add{b.KeyPackage()})
	extensions := outside(server, 0, GroupContextExtensions{Extensions{{ExtensionApplicationID, []byte("x")}}})
	for _, d := range []*device{ana, ben} {
		d.reload = true
		for _, msg := range [][]byte{add, extensions} {
			got, err := d.process(msg, nil)
			d.check(err)
			if got.SenderNode != nil {
				t.Error("a sender from outside with a leaf")
			}
		}
	}
	s := ben.commit(nil, ana)
	if len(s.Proposals()) != 2 {
		t.Errorf("%d proposals", len(s.Proposals()))
	}
	dora.join(s.Welcome(), b, nil)
	agree(t, ana, ben, dora)
}

// A group moves to the product's suite, and a part of it branches off.
func TestReInitAndBranch(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0], ds[1], ds[2]
	x := Extensions{{ExtensionApplicationID, []byte("new")}}
	ana.commit(&CommitOptions{Proposals: []Proposal{ReInit{GroupID: []byte("next"), Version: 1, Suite: XWing, Extensions: x}}}, ben, cem)
	for _, d := range ds {
		d.restart()
		if _, err := d.g.Encrypt(nil, nil); !errors.Is(err, ErrReInit) {
			t.Errorf("sending in a group that has ended: %v", err)
		}
		if _, err := d.g.Commit(nil); !errors.Is(err, ErrReInit) {
			t.Errorf("committing in a group that has ended: %v", err)
		}
		if d.g.ReInit() == nil || d.g.ReInit().Suite != XWing {
			t.Error("the reinitialization is forgotten")
		}
	}
	resume := func(g *Group, usage ResumptionUsage) (PreSharedKey, PSKs) {
		id := PreSharedKeyID{Type: PSKResumption, Usage: usage, GroupID: g.GroupID(), Epoch: g.Epoch()}
		return PreSharedKey{id}, func(got PreSharedKeyID) ([]byte, error) {
			if bytes.Equal(got.GroupID, g.GroupID()) && got.Epoch == g.Epoch() && got.Type == PSKResumption {
				return g.ResumptionPSK(), nil
			}
			return nil, ErrMissingPSK
		}
	}
	// start makes the group that continues old.
	start := func(id Suite, groupID string, x Extensions, usage ResumptionUsage, old *Group, others ...*device) (*device, []*device, []*KeyPackageBundle, *Staged) {
		t.Helper()
		maker := newDevice(t, id, "ana")
		g, err := NewGroup(maker.config, GroupOptions{Suite: id, GroupID: []byte(groupID), Credential: BasicCredential([]byte("ana")), Extensions: x})
		maker.check(err)
		maker.save(g)
		p, psk := resume(old, usage)
		o := &CommitOptions{Proposals: []Proposal{p}, PSK: psk}
		var fresh []*device
		var bundles []*KeyPackageBundle
		for _, d := range others {
			f := newDevice(t, id, d.name)
			b := f.bundle()
			fresh, bundles = append(fresh, f), append(bundles, b)
			o.Proposals = append(o.Proposals, Add{b.KeyPackage()})
		}
		return maker, fresh, bundles, maker.commit(o)
	}
	maker, fresh, bundles, s := start(XWing, "next", x, ResumptionReInit, ana.g, ben, cem)
	for i, f := range fresh {
		if _, _, err := Join(f.config, s.Welcome(), bundles[i], nil); !errors.Is(err, ErrMissingPSK) {
			t.Errorf("joining without the old group: %v", err)
		}
		f.join(s.Welcome(), bundles[i], &JoinOptions{Resumes: ds[i+1].g})
	}
	agree(t, append(fresh, maker)...)

	for name, tt := range map[string]struct {
		suite Suite
		group string
		x     Extensions
	}{
		"another suite":      {X25519AES128, "next", x},
		"another name":       {XWing, "elsewhere", x},
		"another extensions": {XWing, "next", nil},
	} {
		_, fresh, bundles, s := start(tt.suite, tt.group, tt.x, ResumptionReInit, ana.g, ben)
		if _, _, err := Join(fresh[0].config, s.Welcome(), bundles[0], &JoinOptions{Resumes: ben.g}); !errors.Is(err, ErrInvalid) {
			t.Errorf("a reinitialization with %s: %v", name, err)
		}
	}

	// The new group branches.
	branch, twig, bundles, s := start(XWing, "branch", nil, ResumptionBranch, maker.g, ben)
	if _, _, err := Join(twig[0].config, s.Welcome(), bundles[0], &JoinOptions{Resumes: ben.g}); !errors.Is(err, ErrMissingPSK) {
		t.Errorf("a branch of another group: %v", err)
	}
	twig[0].join(s.Welcome(), bundles[0], &JoinOptions{Resumes: fresh[0].g})
	agree(t, branch, twig[0])
	if _, _, err := Join(twig[0].config, s.Welcome(), bundles[0], &JoinOptions{Resumes: ana.g}); err == nil {
		t.Error("a branch of a group that it is not of")
	}
	// A welcome that continues nothing is not taken for one that does.
	plain, other, bundles, s := start(XWing, "other", nil, ResumptionApplication, maker.g, ben)
	_ = plain
	if _, _, err := Join(other[0].config, s.Welcome(), bundles[0], &JoinOptions{Resumes: fresh[0].g}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a welcome that continues nothing: %v", err)
	}
	other[0].join(s.Welcome(), bundles[0], &JoinOptions{PSK: func(PreSharedKeyID) ([]byte, error) { return maker.g.ResumptionPSK(), nil }})
}

// Resumption keys of the group's own epochs need no look-up.
func TestResumptionOfOwnEpochs(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	ana.commit(nil, ben)
	ana.commit(nil, ben)
	resume := func(epoch uint64) Proposal {
		return PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: ana.g.GroupID(), Epoch: epoch}}
	}
	ben.restart()
	ana.commit(&CommitOptions{Proposals: []Proposal{resume(3), resume(1)}}, ben)
	agree(t, ana, ben)
	if _, err := ana.g.Commit(&CommitOptions{Proposals: []Proposal{resume(99)}}); !errors.Is(err, ErrMissingPSK) {
		t.Errorf("the key of an epoch to come: %v", err)
	}
}

func TestJoinRefuses(t *testing.T) {
	ana, ben, cem := newDevice(t, X25519AES128, "ana"), newDevice(t, X25519AES128, "ben"), newDevice(t, X25519AES128, "cem")
	ana.create()
	b := ben.bundle()
	s := ana.commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}})
	if _, _, err := Join(cem.config, s.Welcome(), cem.bundle(), nil); !errors.Is(err, ErrNotForUs) {
		t.Errorf("a welcome for another: %v", err)
	}
	if _, _, err := Join(cem.config, s.Welcome(), b, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("joining with another signer: %v", err)
	}
	if _, _, err := Join(Config{}, s.Welcome(), b, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("joining without a configuration: %v", err)
	}
	if _, _, err := Join(ben.config, s.Message(), b, nil); err == nil {
		t.Error("joining by a commit")
	}
	ben.join(s.Welcome(), b, nil)
	agree(t, ana, ben)
}

func TestMessagesForOthers(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	other := newGroupOf(t, X25519AES128, "cem", "dora")
	msg := other[0].encrypt("hello")
	ds[0].refuses(msg, ErrWrongGroup)
	info, err := Peek(msg)
	if err != nil || !bytes.Equal(info.GroupID, other[0].g.GroupID()) || info.Epoch != 1 || info.Type != ContentApplication || info.Public {
		t.Errorf("Peek = %v, %v", info, err)
	}
	public := other[0].stage(&CommitOptions{Public: true}).Message()
	ds[0].refuses(public, ErrWrongGroup)
	if info, err := Peek(public); err != nil || info.Type != ContentCommit || !info.Public {
		t.Errorf("Peek = %v, %v", info, err)
	}
	k := ds[0].bundle().KeyPackage().Message()
	if _, err := Peek(k); err == nil {
		t.Error("a key package is for a group")
	}
	if p, err := ParseKeyPackageMessage(k); err != nil || p.Verify() != nil || !bytes.Equal(p.Message(), k) {
		t.Errorf("ParseKeyPackageMessage: %v", err)
	}
	if _, err := ParseKeyPackageMessage(msg); err == nil {
		t.Error("an application message is a key package")
	}
	ds[0].refuses(k, ErrInvalid)
	ds[0].refuses([]byte{0, 2, 0, 1}, ErrUnsupported)
	ds[0].refuses([]byte{0, 1, 0, 9}, ErrUnsupported)

	// An application message must be encrypted.
	e := ds[1].g.cur
	a := &authenticatedContent{wire: wirePublicMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, 1}, kind: ContentApplication, body: []byte{0},
	}}
	ds[1].check(a.sign(e.s, ds[1].config.Signer, e.encoded))
	ds[0].refuses(a.publicMessage(e.s, e.secrets.membership, e.encoded), ErrInvalid)
}

// Nothing prints a secret.
func TestSecretsDoNotPrint(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana := ds[0]
	b := ana.bundle()
	s := ana.stage(nil)
	records := ana.records()
	var out bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&out, nil))
	values := []any{ana.g, b, s, records, records[0], struct{ g *Group }{ana.g}, struct{ G *Group }{ana.g}, []*Staged{s}}
	for _, v := range values {
		l.Info("x", "v", v)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	secrets := [][]byte{b.init.raw, b.leaf.raw, ana.g.cur.keys[0].key.raw, ana.g.cur.secrets.init, s.next.secrets.exporter, s.secrets.subtrees[0].secret, ana.g.secrets.ratchet(0, application).secret[:32]}
	for _, secret := range secrets {
		for _, form := range []string{string(secret[:8]), fmt.Sprintf("%x", secret[:8]), fmt.Sprint(secret[:8])[1:20], fmt.Sprintf("%#v", secret[:4])[7:20]} {
			if bytes.Contains(out.Bytes(), []byte(form)) {
				t.Errorf("output holds a secret as %q", form)
			}
		}
	}
	for _, v := range []fmt.Stringer{(*Group)(nil), (*Staged)(nil), (*KeyPackageBundle)(nil), Record{}} {
		if v.String() == "" {
			t.Errorf("%T prints nothing", v)
		}
	}
}

// A message writes little, however large the group.
func TestChangesAreSmall(t *testing.T) {
	ana := newDevice(t, X25519AES128, "ana")
	ana.create()
	var members []*device
	for i := range 99 {
		members = append(members, newDevice(t, X25519AES128, fmt.Sprint("member ", i)))
	}
	ana.add(nil, members...)
	ben := members[40]
	size := func(g *Group) (n, bytes int) {
		for _, r := range g.Changes() {
			n++
			bytes += len(r.Name) + len(r.Value)
		}
		return n, bytes
	}
	ben.restart()
	msgs := make([][]byte, 4)
	for i := range msgs {
		m, err := ana.g.Encrypt([]byte("hi"), nil)
		ana.check(err)
		msgs[i] = m
	}
	for i, limit := range [][2]int{{10, 600}, {1, 64}, {1, 64}, {1, 64}} {
		_, err := ben.g.Process(msgs[i], nil)
		ben.check(err)
		if n, b := size(ben.g); n > limit[0] || b > limit[1] {
			t.Errorf("message %d: %d records of %d bytes", i, n, b)
		}
	}
	if _, err := ben.g.Encrypt([]byte("hi"), nil); err != nil {
		t.Fatal(err)
	}
	if n, b := size(ben.g); n > 10 || b > 600 {
		t.Errorf("first message sent: %d records of %d bytes", n, b)
	}
	if _, err := ben.g.Encrypt([]byte("hi"), nil); err != nil {
		t.Fatal(err)
	}
	if n, b := size(ben.g); n != 1 || b > 64 {
		t.Errorf("second message sent: %d records of %d bytes", n, b)
	}
	// Who never asks does not collect without end.
	for range 300 {
		if _, err := ben.g.Encrypt(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(ben.g.dirty.keys); n > 1 {
		t.Errorf("%d changes of one record", n)
	}
}
