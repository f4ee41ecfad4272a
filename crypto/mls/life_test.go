package mls

import (
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"testing"
)

// A letter is an application message on its way to one device.
type letter struct {
	from  *device
	text  string
	epoch uint64
	msg   []byte
}

// A life is a group to which random things happen.
type life struct {
	t       *testing.T
	rand    *mrand.Rand
	suite   Suite
	members []*device
	mail    map[*device][]letter
	sent    int
	born    int
}

func (l *life) pick(of []*device) *device { return of[l.rand.IntN(len(of))] }

func (l *life) others(d *device) []*device {
	return slices.DeleteFunc(slices.Clone(l.members), func(o *device) bool { return o == d })
}

func (l *life) newDevice() *device {
	l.born++
	d := newDevice(l.t, l.suite, fmt.Sprint("device ", l.born))
	d.reload = l.rand.IntN(2) == 0
	return d
}

// say sends a message that reaches the others whenever it likes.
func (l *life) say() {
	d := l.pick(l.members)
	l.sent++
	text := fmt.Sprint("message ", l.sent)
	msg := d.encrypt(text)
	for _, o := range l.others(d) {
		l.mail[o] = append(l.mail[o], letter{d, text, d.g.Epoch(), msg})
	}
}

// hear delivers one of the messages under way, any one; sometimes twice.
func (l *life) hear() {
	d := l.pick(l.members)
	if len(l.mail[d]) == 0 {
		return
	}
	i := l.rand.IntN(len(l.mail[d]))
	m := l.mail[d][i]
	l.mail[d] = slices.Delete(l.mail[d], i, i+1)
	if d.g.Epoch()-m.epoch > 3 {
		d.refuses(m.msg, ErrEpochForgotten)
		return
	}
	d.reads(m.msg, m.text, m.from)
	if l.rand.IntN(4) == 0 {
		d.refuses(m.msg, ErrReplayed)
	}
}

// change makes a commit of random content; with some luck another member tries
// at the same time and loses, and some proposals come by reference.
func (l *life) change() {
	d := l.pick(l.members)
	o := &CommitOptions{PSK: psksOf(map[string]string{"k": "v"}), Public: l.rand.IntN(4) == 0, TreeOutside: l.rand.IntN(4) == 0}
	var fresh []*device
	var bundles []*KeyPackageBundle
	gone := make(map[LeafIndex]bool)

	if l.rand.IntN(4) == 0 && len(l.members) > 1 { // by reference
		from := l.pick(l.others(d))
		next := from.g.Clone()
		msg, err := next.Propose(Update{}, &ProposeOptions{Public: l.rand.IntN(2) == 0})
		from.check(err)
		from.save(next)
		for _, other := range l.others(from) {
			_, err := other.process(msg, nil)
			other.check(err)
		}
	}
	for range l.rand.IntN(4) {
		switch l.rand.IntN(5) {
		case 0, 1:
			if len(l.members)+len(fresh) < 9 {
				f := l.newDevice()
				b := f.bundle()
				fresh, bundles = append(fresh, f), append(bundles, b)
				o.Proposals = append(o.Proposals, Add{b.KeyPackage()})
			}
		case 2:
			if v := l.pick(l.members); v != d && !gone[v.g.OwnLeaf()] && len(l.members)-len(gone) > 2 {
				gone[v.g.OwnLeaf()] = true
				o.Proposals = append(o.Proposals, Remove{v.g.OwnLeaf()})
			}
		case 3:
			o.Proposals = append(o.Proposals, ExternalPSK([]byte("k")))
		case 4:
			if !slices.ContainsFunc(o.Proposals, func(p Proposal) bool { return p.Type() == ProposalGroupContextExtensions }) {
				o.Proposals = append(o.Proposals, GroupContextExtensions{Extensions{{ExtensionApplicationID, []byte(fmt.Sprint(l.sent))}}})
			}
		}
	}
	o.NoPath = len(o.Proposals) > 0 && l.rand.IntN(2) == 0 && len(d.g.PendingProposals()) == 0 &&
		!slices.ContainsFunc(o.Proposals, func(p Proposal) bool { return p.Type().needsPath() })
	if l.rand.IntN(6) == 0 && !o.NoPath {
		o.Leaf = &LeafChange{Signer: newSigner(l.t, l.suite)}
	}
	staged := d.stage(o)
	if loser := l.pick(l.members); loser != d && l.rand.IntN(3) == 0 {
		loser.stage(nil) // and dropped
	}
	if l.rand.IntN(3) == 0 && len(d.g.PendingProposals()) == 0 {
		l.say() // while the commit is under way, unless proposals wait
	}
	for _, other := range l.others(d) {
		got, err := other.process(staged.Message(), &ProcessOptions{PSK: o.PSK})
		other.check(err)
		if gone[other.g.OwnLeaf()] {
			if !got.Staged.RemovesSelf() {
				l.t.Errorf("%s does not see its removal", other.name)
			}
			continue
		}
		other.merge(got.Staged)
	}
	d.merge(staged)
	l.members = slices.DeleteFunc(l.members, func(m *device) bool { return m != d && gone[m.g.OwnLeaf()] && m.g.Epoch() < d.g.Epoch() })
	for i, f := range fresh {
		j := &JoinOptions{PSK: o.PSK}
		if o.TreeOutside {
			j.RatchetTree = staged.RatchetTree()
		}
		f.join(staged.Welcome(), bundles[i], j)
		l.members = append(l.members, f)
	}
}

// Whatever happens to a group, members agree, every message that should be read is
// read once, and what is on disk is the group.
func TestLife(t *testing.T) {
	lives, steps := 30, 60
	if testing.Short() {
		lives = 4
	}
	for seed := range uint64(lives) {
		id := X25519AES128
		if seed%10 == 9 {
			id = XWing
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := &life{t: t, rand: mrand.New(mrand.NewPCG(seed, 0)), suite: id, mail: make(map[*device][]letter)}
			first := l.newDevice()
			first.create()
			l.members = []*device{first}
			for range steps {
				switch n := l.rand.IntN(10); {
				case n < 3:
					if len(l.members) > 1 && len(l.members[0].g.PendingProposals()) == 0 {
						l.say()
					}
				case n < 7:
					l.hear()
				default:
					if len(l.members[0].g.PendingProposals()) == 0 {
						l.change()
					}
				}
			}
			agree(t, l.members...)
		})
	}
}

// A tree on which anything is wrong is not joined.
func TestTreeIsVerified(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem", "dora", "ed")
	ana := ds[0]
	for _, d := range ds { // so that all nodes have keys
		d.commit(nil, slices.DeleteFunc(slices.Clone(ds), func(o *device) bool { return o == d })...)
	}
	fay := newDevice(t, X25519AES128, "fay")
	ana.add(ds[1:], fay) // an unmerged leaf: ana's path does not reach it
	gus := newDevice(t, X25519AES128, "gus")
	b := gus.bundle()
	s := ana.commit(&CommitOptions{NoPath: true, Proposals: []Proposal{Add{b.KeyPackage()}}}, append(ds[1:], fay)...)
	gus.join(s.Welcome(), b, nil)
	good := ana.g.cur.tree
	id := ana.g.GroupID()
	if err := good.verify(id, nil, anyCredential); err != nil {
		t.Fatal(err)
	}
	root := good.leaves.root()
	if p := good.nodes[root].parent; p == nil || len(p.unmerged) == 0 {
		t.Fatal("no unmerged leaves: the test tests too little")
	}
	changeParent := func(x nodeIndex, f func(*parentNode)) func(*ratchetTree) {
		return func(tree *ratchetTree) {
			p := *tree.nodes[x].parent
			p.unmerged = slices.Clone(p.unmerged)
			f(&p)
			tree.nodes[x].parent = &p
		}
	}
	key, err := good.s.generateKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*ratchetTree)
	}{
		{"another key at the root", changeParent(root, func(p *parentNode) { p.encryptionKey = key.public() })},
		{"another key below", changeParent(1, func(p *parentNode) { p.encryptionKey = key.public() })},
		{"another parent hash", changeParent(1, func(p *parentNode) { p.parentHash = make([]byte, 32) })},
		{"a parent hash at the root", changeParent(root, func(p *parentNode) { p.parentHash = make([]byte, 32) })},
		{"an unmerged leaf less", changeParent(root, func(p *parentNode) { p.unmerged = p.unmerged[:len(p.unmerged)-1] })},
		{"an unmerged leaf that is blank", changeParent(root, func(p *parentNode) { p.unmerged = append(p.unmerged, 7) })},
		{"an unmerged leaf out of range", changeParent(root, func(p *parentNode) { p.unmerged = append(p.unmerged, 1<<31) })},
		{"an unmerged leaf of another subtree", changeParent(1, func(p *parentNode) { p.unmerged = append(p.unmerged, 5) })},
		{"an unmerged leaf above only", changeParent(root, func(p *parentNode) { p.unmerged = append([]LeafIndex{1}, p.unmerged...) })},
		{"a key of no curve", changeParent(1, func(p *parentNode) { p.encryptionKey = []byte("short") })},
		{"one key in two parents", func(tree *ratchetTree) {
			changeParent(1, func(p *parentNode) { p.encryptionKey = tree.nodes[root].parent.encryptionKey })(tree)
		}},
		{"a member missing", func(tree *ratchetTree) { tree.nodes[4].leaf = nil }},
		{"two members exchanged", func(tree *ratchetTree) {
			tree.nodes[2].leaf, tree.nodes[4].leaf = tree.nodes[4].leaf, tree.nodes[2].leaf
		}},
		{"a member twice", func(tree *ratchetTree) { tree.nodes[14].leaf = tree.nodes[12].leaf }},
		{"a stranger's leaf", func(tree *ratchetTree) { tree.nodes[2].leaf = b.KeyPackage().LeafNode }},
		{"a parent that nobody made", func(tree *ratchetTree) {
			tree.nodes[11].parent = &parentNode{encryptionKey: key.public()}
		}},
		{"a parent blanked below another", func(tree *ratchetTree) { tree.nodes[3].parent = nil }},
	} {
		bad := good.clone()
		tt.spoil(bad)
		for i := range bad.nodes {
			bad.nodes[i].hash = nil
		}
		err := bad.verify(id, nil, anyCredential)
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrAuthentication) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := good.verify([]byte("another group"), nil, anyCredential); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a tree of another group: %v", err)
	}
}

// Whatever is stored and comes back damaged is refused, or is another valid state,
// but never a panic; and what is missing is noticed.
func TestDamagedState(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben := ds[0], ds[1]
	ana.commit(nil, ben, ds[2])
	ben.reads(ana.encrypt("x"), "x", ana)
	next := ben.g.Clone()
	_, err := next.Propose(Update{}, nil)
	ben.check(err)
	ben.save(next)
	for name := range ben.disk {
		k, err := parseRecordName([]byte(name))
		ben.check(err)
		if k.kind == recordProposal || k.epoch != ben.g.Epoch() && (k.kind == recordApplication || k.kind == recordSubtree) {
			continue // a group is whole without them
		}
		var rest []Record
		for _, r := range ben.records() {
			if string(r.Name) != name {
				rest = append(rest, r)
			}
		}
		if _, err := LoadGroup(ben.config, rest); !errors.Is(err, ErrCorrupt) {
			t.Errorf("without record %x: %v", name, err)
		}
	}
	for _, r := range ben.records() {
		for i := range r.Value {
			bad := ben.records()
			at := slices.IndexFunc(bad, func(o Record) bool { return string(o.Name) == string(r.Name) })
			bad[at].Value[i] ^= 0x41
			if _, err := LoadGroup(ben.config, bad); i == 0 && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v with a wrong version: %v", r, err)
			}
			bad[at].Value = bad[at].Value[:i]
			if _, err := LoadGroup(ben.config, bad); err == nil {
				if k, _ := parseRecordName(r.Name); k.kind != recordApplication && k.kind != recordHandshake {
					t.Errorf("%v with %d bytes of %d is accepted", r, i, len(r.Value))
				}
			}
		}
	}
	for _, name := range []string{"", "x", "gg", "12345678", "12345678x", "12345678n", "12345678r1234", "12345678n12345"} {
		if _, err := LoadGroup(ben.config, append(ben.records(), Record{[]byte(name), []byte{1}})); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a record named %q: %v", name, err)
		}
	}
	b := ana.bundle().Marshal()
	s := ana.stage(nil).Marshal()
	for i := range b {
		if _, err := ParseKeyPackageBundle(b[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes of a bundle: %v", i, err)
		}
	}
	for i := range s {
		if _, err := ParseStaged(ana.config, s[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes of a staged commit: %v", i, err)
		}
	}
	if _, err := LoadGroup(ben.config, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no records: %v", err)
	}
	if _, err := LoadGroup(Config{}, ben.records()); !errors.Is(err, ErrInvalid) {
		t.Errorf("no configuration: %v", err)
	}
	if _, err := LoadGroup(ana.config, ben.records()); !errors.Is(err, ErrInvalid) {
		t.Errorf("another's records: %v", err)
	}
}

func TestSuites(t *testing.T) {
	for _, id := range allSuites {
		if !id.Supported() {
			t.Errorf("%v is not supported", id)
		}
	}
	for _, id := range []Suite{0, 4, 6, 8, 0xF04F, 0xFFFF} {
		if _, err := NewKeyPackage(KeyPackageOptions{Suite: id}); !errors.Is(err, ErrUnsupported) || id.Supported() {
			t.Errorf("suite %#04x: %v", uint16(id), err)
		}
	}
	if _, err := NewKeyPackage(KeyPackageOptions{Suite: XWing}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key package without a signer: %v", err)
	}
	caps := DefaultCapabilities(XWing)
	unlisted := KeyPackageOptions{Suite: XWing, Signer: newSigner(t, XWing), Credential: BasicCredential(nil), Capabilities: &caps, Extensions: Extensions{{0xF052, nil}}}
	if _, err := NewKeyPackage(unlisted); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key package with an extension that is not listed: %v", err)
	}
	unlisted.Capabilities = nil
	if b, err := NewKeyPackage(unlisted); err != nil || len(b.KeyPackage().LeafNode.Capabilities.Extensions) != 1 {
		t.Errorf("a key package that lists its extensions itself: %v", err)
	}
	if _, err := NewGroup(Config{Signer: newSigner(t, XWing), ValidateCredential: anyCredential}, GroupOptions{Suite: 4}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a group of suite 4: %v", err)
	}
}

func TestExportIsBounded(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana")
	for _, n := range []int{-1, 255*32 + 1} {
		if _, err := ds[0].g.Export("x", nil, n); !errors.Is(err, ErrInvalid) {
			t.Errorf("exporting %d bytes: %v", n, err)
		}
	}
	long, err := ds[0].g.Export("x", nil, 255*32)
	if err != nil || len(long) != 255*32 {
		t.Errorf("exporting as much as there is: %v", err)
	}
	if short, err := ds[0].g.Export("y", nil, 32); err != nil || string(short) == string(long[:32]) {
		t.Errorf("two labels, one secret: %v", err)
	}
}

// A group and its clones may be used at the same time (run with -race).
func TestClonesAtTheSameTime(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben := ds[0], ds[1]
	ben.restart() // nothing is computed yet
	msg, commit := ana.encrypt("hello"), ana.stage(nil).Message()
	err := parallel(16, func(i int) error {
		g := ben.g.Clone()
		for range 3 {
			if _, err := g.Encrypt([]byte("x"), nil); err != nil {
				return err
			}
		}
		if _, err := g.Process(msg, nil); err != nil {
			return err
		}
		got, err := g.Process(commit, nil)
		if err != nil {
			return err
		}
		next, err := got.Staged.Merge(g)
		if err != nil {
			return err
		}
		if len(next.Changes()) == 0 {
			return errors.New("nothing to write")
		}
		_, err = next.Commit(nil)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	agree(t, ds...)
}
