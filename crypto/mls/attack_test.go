package mls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"sotto/crypto/codec"
)

// The tests of this file are named after the attacks of the threat model. Work is
// counted, not timed.

// A toll counts what is dear.
type toll struct {
	keys        atomic.Int64 // KEM keys parsed, derived or used
	credentials atomic.Int64 // judged
	psks        atomic.Int64 // looked up
}

func (t *toll) String() string {
	return fmt.Sprintf("%d keys, %d credentials, %d pre-shared keys", t.keys.Load(), t.credentials.Load(), t.psks.Load())
}

func (t *toll) psk(PreSharedKeyID) ([]byte, error) { t.psks.Add(1); return nil, ErrMissingPSK }

type tollKEM struct {
	hpke.KEM
	t *toll
}

func (k tollKEM) NewPublicKey(b []byte) (hpke.PublicKey, error) {
	k.t.keys.Add(1)
	return k.KEM.NewPublicKey(b)
}

func (k tollKEM) DeriveKeyPair(ikm []byte) (hpke.PrivateKey, error) {
	k.t.keys.Add(1)
	return k.KEM.DeriveKeyPair(ikm)
}

// tolled returns a clone of g that counts.
func tolled(g *Group) (*Group, *toll) {
	t := new(toll)
	s := *g.cur.s
	s.kem = tollKEM{s.kem, t}
	c := g.Clone()
	e := *c.cur
	e.s = &s
	e.tree = e.tree.clone()
	e.tree.s = &s
	e.keys = slices.Clone(e.keys)
	for i, k := range e.keys {
		parse := k.key.parse
		e.keys[i].key = &privateKey{raw: k.key.raw, parse: func() (hpke.PrivateKey, error) {
			t.keys.Add(1)
			return parse()
		}}
	}
	c.cur = &e
	c.secrets.s = &s
	config := *c.config
	judge := config.ValidateCredential
	config.ValidateCredential = func(leaf, old *LeafNode) error {
		t.credentials.Add(1)
		return judge(leaf, old)
	}
	c.config = &config
	return c, t
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// contentOf takes a PublicMessage apart.
func contentOf(t *testing.T, msg []byte) *authenticatedContent {
	t.Helper()
	msg = bytes.Clone(msg)
	r := codec.NewReader(msg[messageHeaderLen:])
	a := &authenticatedContent{wire: wirePublicMessage}
	a.content.decodeHeader(r)
	a.content.decodeBody(r, msg)
	a.decodeAuth(r)
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return a
}

// commitOf returns the body of a public commit that d could make, to be spoiled.
func (d *device) commitOf(o CommitOptions) *commit {
	d.t.Helper()
	o.Public = true
	s, err := d.g.Clone().Commit(&o)
	d.check(err)
	return contentOf(d.t, s.Message()).content.commit
}

// signed returns c as a public commit of d.
func (d *device) signed(c *commit, tag []byte) []byte {
	d.t.Helper()
	e := d.g.cur
	a := &authenticatedContent{wire: wirePublicMessage, tag: tag, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, e.self},
		kind: ContentCommit, body: c.encode(nil),
	}}
	d.check(a.sign(e.s, d.config.Signer, e.encoded))
	return a.publicMessage(e.s, e.secrets.membership, e.encoded)
}

// signedByStranger returns c as an external commit of the holder of d's key.
func (d *device) signedByStranger(of *Group, c *commit) []byte {
	d.t.Helper()
	e := of.cur
	a := &authenticatedContent{wire: wirePublicMessage, tag: make([]byte, e.s.nh), content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{Type: SenderNewMemberCommit},
		kind: ContentCommit, body: c.encode(nil),
	}}
	d.check(a.sign(e.s, d.config.Signer, e.encoded))
	return a.publicMessage(e.s, nil, e.encoded)
}

func byValue(ps ...Proposal) (c *commit) {
	c = &commit{}
	for _, p := range ps {
		c.proposals = append(c.proposals, proposalOrRef{proposal: p})
	}
	return c
}

func rest(all []*device, not ...*device) []*device {
	return slices.DeleteFunc(slices.Clone(all), func(d *device) bool { return slices.Contains(not, d) })
}

// warm makes every member commit, so that the tree has all its keys.
func warm(ds []*device) {
	for _, d := range ds {
		d.commit(nil, rest(ds, d)...)
	}
}

// T12: garbage in the place of a commit costs next to nothing before it is known
// to be of nobody, and a thousand pieces of it do not stop the group.
func TestT12GarbageCommits(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem", "dora", "ed")
	warm(ds)
	ana, ben := ds[0], ds[1]
	eve := newDevice(t, X25519AES128, "eve") // no member; she knows the group's context
	big := make([]Proposal, 4000)
	for i := range big {
		big[i] = Remove{LeafIndex(i % 5)}
	}
	packages := make([]Proposal, 500)
	k := eve.bundle().KeyPackage()
	for i := range packages {
		packages[i] = Add{k}
	}
	psks := make([]Proposal, 4000)
	for i := range psks {
		psks[i] = withNonce(ana.g.cur.s, ExternalPSK([]byte("k")))
	}
	good := ana.commitOf(CommitOptions{})
	public, private := ana.stage(&CommitOptions{Public: true}).Message(), ana.stage(nil).Message()
	changed := func(msg []byte, at int) []byte {
		msg = bytes.Clone(msg)
		msg[at] ^= 1
		return msg
	}
	e := ana.g.cur
	untagged := contentOf(t, ana.signed(byValue(big...), make([]byte, 32)))
	external := append([]Proposal{ExternalInit{make([]byte, 32)}}, packages...)
	for _, tt := range []struct {
		name string
		msg  []byte
		want error
		keys int64 // that are looked at all the same
	}{
		{"without the membership tag", untagged.publicMessage(e.s, make([]byte, 32), e.encoded), ErrAuthentication, 0},
		{"with another signature", changed(public, len(public)-80), ErrAuthentication, 0},
		{"with another proposal", changed(public, 60), ErrAuthentication, 0},
		{"private, with other sender data", changed(private, 60), ErrAuthentication, 0},
		{"private, with another end", changed(private, len(private)-1), ErrAuthentication, 0},
		{"private, cut off", private[:len(private)-1], codec.ErrMalformed, 0},
		{"of a member that is none", (&authenticatedContent{wire: wirePublicMessage, tag: make([]byte, 32), content: framedContent{
			groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, 77}, kind: ContentCommit, body: good.encode(nil),
		}}).publicMessage(e.s, e.secrets.membership, e.encoded), ErrNotMember, 0},
		// A stranger can sign an external commit: then the shape is wrong.
		{"external without a path", eve.signedByStranger(ana.g, byValue(ExternalInit{make([]byte, 32)})), ErrInvalid, 0},
		{"external, of removals", eve.signedByStranger(ana.g, &commit{byValue(big...).proposals, eve.pathOf(ana.g)}), ErrInvalid, 0},
		{"external, of key packages", eve.signedByStranger(ana.g, &commit{byValue(external...).proposals, eve.pathOf(ana.g)}), ErrInvalid, 0},
		{"external, of pre-shared keys", eve.signedByStranger(ana.g, &commit{byValue(append(psks, ExternalInit{make([]byte, 32)})...).proposals, eve.pathOf(ana.g)}), ErrMissingPSK, 0},
		{"external, with a short path", eve.signedByStranger(ana.g, &commit{byValue(ExternalInit{make([]byte, 32)}).proposals, eve.pathOf(ana.g)}), ErrInvalid, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, toll := tolled(ben.g)
			var err error
			size := allocated(func() { _, err = g.Process(tt.msg, &ProcessOptions{PSK: toll.psk}) })
			if !errors.Is(err, tt.want) {
				t.Errorf("Process = %v, want %v", err, tt.want)
			}
			if toll.keys.Load() > tt.keys || toll.credentials.Load() > tt.keys || toll.psks.Load() > 1 {
				t.Errorf("it costs %v", toll)
			}
			if limit := uint64(64*len(tt.msg) + 1<<16); size > limit {
				t.Errorf("%d bytes are allocated for a message of %d", size, len(tt.msg))
			}
			if !sameRecords(dump(g), dump(ben.g)) {
				t.Error("it changed the group")
			}
		})
	}
	random := mrand.New(mrand.NewPCG(12, 0))
	before := dump(ben.g)
	for range 1000 {
		msg := bytes.Clone([][]byte{public, private}[random.IntN(2)])
		for range 1 + random.IntN(3) {
			msg[messageHeaderLen+random.IntN(len(msg)-messageHeaderLen)] ^= byte(1 + random.IntN(255))
		}
		if _, err := ben.g.Process(msg, nil); err == nil || !expected(err) {
			t.Fatalf("garbage: %v", err)
		}
	}
	if !sameRecords(before, dump(ben.g)) {
		t.Fatal("garbage changed the group")
	}
	ben.commit(nil, rest(ds, ben)...)
	agree(t, ds...)
}

// pathOf returns an update path of a stranger to a group of five, without nodes.
func (d *device) pathOf(of *Group) *updatePath {
	leaf := *d.bundle().KeyPackage().LeafNode
	leaf.Source, leaf.Lifetime, leaf.ParentHash = SourceCommit, Lifetime{}, make([]byte, 32)
	s, err := d.suite.lookup()
	d.check(err)
	d.check(leaf.sign(s, d.config.Signer, of.GroupID(), 5))
	return &updatePath{leaf: &leaf}
}

// T15: a member makes a commit that one member alone cannot follow, in both
// variants of RFC 9420, Section 16.12. The victim stays where it is, knows who
// did it, and is back after it was removed and added again.
func TestT15MalformedUpdatePath(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(s *suite, ct *hpkeCiphertext, to, context []byte)
		want  error
	}{
		{"a path secret that does not decrypt", func(_ *suite, ct *hpkeCiphertext, _, _ []byte) {
			ct.ciphertext = bytes.Clone(ct.ciphertext)
			ct.ciphertext[0] ^= 1
		}, ErrAuthentication},
		{"a path secret of another key", func(s *suite, ct *hpkeCiphertext, to, context []byte) {
			var err error
			if *ct, err = s.encryptWithLabel(to, "UpdatePathNode", context, make([]byte, s.nh)); err != nil {
				t.Fatal(err)
			}
		}, ErrInvalid},
	} {
		for _, id := range []Suite{X25519AES128, XWing} {
			t.Run(fmt.Sprintf("%s, %v", tt.name, id), func(t *testing.T) {
				ds := newGroupOf(t, id, "mallory", "ana", "ben", "cem")
				mallory, ana, ben, cem := ds[0], ds[1], ds[2], ds[3]
				// ben and cem meet mallory at the root, where no key stands between them.
				msg, authenticator := mallory.forge(func(path *updatePath, context []byte) {
					top := path.nodes[1]
					if len(top.secrets) != 2 {
						t.Fatalf("%d path secrets at the root", len(top.secrets))
					}
					tt.spoil(mallory.g.cur.s, &top.secrets[0], ben.g.cur.tree.leaf(2).EncryptionKey, context)
				})
				for _, d := range []*device{ana, cem} {
					d.follow(msg, nil)
					if !bytes.Equal(d.g.EpochAuthenticator(), authenticator) {
						t.Fatalf("%s is not where mallory wants it", d.name)
					}
				}
				before := dump(ben.g)
				_, err := ben.process(msg, nil)
				if !errors.Is(err, tt.want) {
					t.Errorf("the victim sees %v, want %v", err, tt.want)
				}
				var blame *SenderError
				if !errors.As(err, &blame) || blame.Sender != (Sender{SenderMember, mallory.g.OwnLeaf()}) {
					t.Errorf("the victim does not know the committer: %v", err)
				}
				if !sameRecords(before, dump(ben.g)) {
					t.Error("the victim's group has changed")
				}
				// ana heals it: mallory goes, ben comes again.
				b := ben.bundle()
				heal := ana.commit(&CommitOptions{Proposals: []Proposal{
					Remove{mallory.g.OwnLeaf()}, Remove{ben.g.OwnLeaf()}, Add{b.KeyPackage()},
				}}, cem)
				ben.join(heal.Welcome(), b, nil)
				agree(t, ana, ben, cem)
			})
		}
	}
}

// forge makes a public commit of d without proposals, with its path spoiled before
// it is signed, and returns it with the epoch authenticator of who can follow it.
// spoil gets the context that path secrets are encrypted in.
func (d *device) forge(spoil func(path *updatePath, context []byte)) (msg, authenticator []byte) {
	d.t.Helper()
	e, s := d.g.cur, d.g.cur.s
	me := Sender{SenderMember, e.self}
	list, err := e.sortProposals(d.g.config, nil, me)
	d.check(err)
	next, err := e.begin(list)
	d.check(err)
	leaf := *e.tree.leaf(e.self)
	leaf.encoded, leaf.Signature = nil, nil
	path, err := next.tree.makePath(e.self, leaf, d.config.Signer, e.context.GroupID)
	d.check(err)
	next.keys, next.commit, next.hasPath = path.keys, path.commit, true
	provisional := next.provisional()
	body := &commit{}
	body.path, err = path.seal(next.tree, provisional.encode(nil), nil)
	d.check(err)
	spoil(body.path, provisional.encode(nil))
	a := &authenticatedContent{wire: wirePublicMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: me, kind: ContentCommit, body: body.encode(nil),
	}}
	d.check(a.sign(s, d.config.Signer, e.encoded))
	made, _, _, _, err := next.finish(a, true, e.secrets.init, nil)
	d.check(err)
	return a.publicMessage(s, e.secrets.membership, e.encoded), made.secrets.authenticator
}

// T30: what is for another suite or version is refused everywhere.
func TestT30Downgrade(t *testing.T) {
	const product = XWing
	ds := newGroupOf(t, product, "ana", "ben")
	ana := ds[0]
	foreign := []Suite{0, 1, 2, 3, 4, 5, 6, 7, 0x004D, 0x004E, 0x004F, 0xF04F, 0xFFFF}

	for _, id := range foreign {
		t.Run(fmt.Sprintf("key package of %#04x", uint16(id)), func(t *testing.T) {
			// One that is right but for the suite, and, where there is such a suite, a right one.
			packages := []*KeyPackage{newDevice(t, product, "cem").packageOf(id)}
			if id.Supported() {
				packages = append(packages, newDevice(t, id, "cem").bundle().KeyPackage())
			}
			for _, k := range packages {
				if _, err := ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{k}}}); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrAuthentication) {
					t.Errorf("Commit = %v", err)
				}
				if _, err := ana.g.Clone().Propose(Add{k}, nil); err == nil {
					t.Error("it is proposed")
				}
				c := ana.commitOf(CommitOptions{})
				c.proposals = byValue(Add{k}).proposals
				if _, err := ds[1].g.Clone().Process(ana.signed(c, make([]byte, 48)), nil); !errors.Is(err, ErrInvalid) {
					t.Errorf("Process = %v", err)
				}
			}
		})
		t.Run(fmt.Sprintf("welcome of %#04x", uint16(id)), func(t *testing.T) {
			cem := newDevice(t, product, "cem")
			b := cem.bundle()
			staged, err := ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}})
			ana.check(err)
			welcome := bytes.Clone(staged.Welcome())
			binary.BigEndian.PutUint16(welcome[messageHeaderLen:], uint16(id))
			if _, _, err := Join(cem.config, welcome, b, nil); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("Join = %v", err)
			}
			// The group info in it tells another suite than the welcome.
			welcome = ana.welcome(b, nil, func(w *forgedWelcome) { w.info.context.Suite = id })
			if _, _, err := Join(cem.config, welcome, b, nil); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("Join by group info = %v", err)
			}
		})
		t.Run(fmt.Sprintf("group info of %#04x", uint16(id)), func(t *testing.T) {
			cem := newDevice(t, product, "cem")
			info, err := ana.g.GroupInfo(true)
			ana.check(err)
			r := codec.NewReader(bytes.Clone(info[messageHeaderLen:]))
			i := decodeGroupInfo(r)
			i.context.Suite = id
			for _, signed := range []bool{false, true} {
				if signed {
					i.signature, err = ana.g.cur.s.sign(ana.config.Signer, "GroupInfoTBS", i.tbs(nil))
					ana.check(err)
				}
				_, err = JoinExternal(cem.config, i.encode(appendMessageHeader(nil, wireGroupInfo)), ExternalJoinOptions{Credential: BasicCredential([]byte("cem"))})
				if err == nil || !expected(err) {
					t.Errorf("JoinExternal, signed %t: %v", signed, err)
				}
			}
		})
	}
	// A version that is not ours, wherever one stands.
	b := newDevice(t, product, "cem").bundle()
	for _, v := range []uint16{0, 2, 0x0A0A, 0xFFFF} {
		k := b.KeyPackage().Marshal()
		binary.BigEndian.PutUint16(k, v)
		if _, err := ParseKeyPackage(k); !errors.Is(err, ErrUnsupported) {
			t.Errorf("key package of version %d: %v", v, err)
		}
		for _, msg := range [][]byte{ana.g.mustEncrypt(t), ana.stage(&CommitOptions{Public: true}).Message()} {
			binary.BigEndian.PutUint16(msg, v)
			if _, err := ds[1].g.Clone().Process(msg, nil); !errors.Is(err, ErrUnsupported) {
				t.Errorf("message of version %d: %v", v, err)
			}
		}
		if _, err := ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{ReInit{Version: v, Suite: product}}}); v == 0 && !errors.Is(err, ErrInvalid) {
			t.Errorf("reinitialization with version %d: %v", v, err)
		}
	}
	// A group that goes to another suite says so before anyone follows.
	staged := ana.stage(&CommitOptions{Public: true, Proposals: []Proposal{ReInit{Version: 1, Suite: X25519AES128}}})
	got, err := ds[1].process(staged.Message(), nil)
	ds[1].check(err)
	if p, ok := got.Staged.Proposals()[0].Proposal.(ReInit); !ok || p.Suite != X25519AES128 {
		t.Errorf("the commit changes %v", got.Staged.Proposals())
	}
	agree(t, ds...)
}

func (g *Group) mustEncrypt(t *testing.T) []byte {
	t.Helper()
	msg, err := g.Clone().Encrypt([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// packageOf returns a key package of d that is right but for its suite.
func (d *device) packageOf(id Suite) *KeyPackage {
	d.t.Helper()
	s, err := d.suite.lookup()
	d.check(err)
	k := *d.bundle().KeyPackage()
	leaf := *k.LeafNode
	leaf.Capabilities.Suites = []Suite{d.suite, id}
	d.check(leaf.sign(s, d.config.Signer, nil, 0))
	k.Suite, k.LeafNode, k.encoded = id, &leaf, nil
	k.Signature, err = s.sign(d.config.Signer, "KeyPackageTBS", k.tbs(nil))
	d.check(err)
	k.encoded = k.encode(nil)
	return &k
}

// A forgedWelcome is a welcome in the making, by a member who puts into it what it
// likes and signs that.
type forgedWelcome struct {
	tree    *ratchetTree
	info    *groupInfo
	secrets *groupSecrets
	psk     []byte
}

// welcome makes a welcome of d for b. early spoils tree, context and secrets, from which
// everything follows; late spoils what followed, before it is signed. Both may be nil.
func (d *device) welcome(b *KeyPackageBundle, early, late func(*forgedWelcome)) []byte {
	d.t.Helper()
	staged, err := d.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}})
	d.check(err)
	s := d.g.cur.s
	w := &forgedWelcome{
		tree:    staged.next.tree.clone(),
		info:    &groupInfo{context: staged.next.context, signer: d.g.cur.self},
		secrets: &groupSecrets{joiner: bytes.Repeat([]byte{7}, s.nh)},
		psk:     s.pskSecret(nil),
	}
	if early != nil {
		early(w)
	}
	for i := range w.tree.nodes {
		w.tree.nodes[i].hash = nil
	}
	w.info.context.TreeHash = w.tree.rootHash()
	ks := s.keySchedule(w.secrets.joiner, w.psk)
	secrets, _ := ks.epoch(w.info.context.encode(nil))
	w.info.tag = s.mac(secrets.confirmation, w.info.context.ConfirmedTranscriptHash)
	w.info.extensions = Extensions{{ExtensionRatchetTree, w.tree.encode(nil)}}
	if late != nil {
		late(w)
	}
	w.info.signature, err = s.sign(d.config.Signer, "GroupInfoTBS", w.info.tbs(nil))
	d.check(err)
	key, nonce := ks.welcomeKey()
	aead, err := s.newAEAD(key)
	d.check(err)
	m := &welcomeMessage{suite: s.id, groupInfo: aead.Seal(nil, nonce, w.info.encode(nil), nil)}
	ct, err := s.encryptWithLabel(b.pkg.InitKey, "Welcome", m.groupInfo, w.secrets.encode(nil))
	d.check(err)
	m.secrets = []encryptedGroupSecrets{{b.Ref(), ct}}
	return m.encode(appendMessageHeader(nil, wireWelcome))
}

// The insider's welcome is one that is joined, if nothing in it is spoiled.
func TestForgedWelcomeIsGood(t *testing.T) {
	for _, id := range []Suite{X25519AES128, XWing} {
		ana, cem := newGroupOf(t, id, "ana", "ben")[0], newDevice(t, id, "cem")
		b := cem.bundle()
		if _, _, err := Join(cem.config, ana.welcome(b, nil, nil), b, nil); err != nil {
			t.Errorf("%v: %v", id, err)
		}
	}
}

// An insider may put any tree, secrets and names into a welcome.
func TestMalformedWelcomeOfInsider(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "dora", "ed")
	warm(ds)
	ana := ds[0]
	cem := newDevice(t, X25519AES128, "cem")
	b := cem.bundle()
	s := ana.g.cur.s
	key := func() []byte {
		k, err := s.generateKey()
		ana.check(err)
		return k.public()
	}
	manyPSKs := func(n int) func(*forgedWelcome) {
		return func(w *forgedWelcome) {
			for range n {
				w.secrets.psks = append(w.secrets.psks, PreSharedKeyID{Type: PSKExternal, ID: []byte("k"), Nonce: make([]byte, 32)})
			}
		}
	}
	parent := func(x nodeIndex, f func(*parentNode)) func(*forgedWelcome) {
		return func(w *forgedWelcome) {
			p := *w.tree.nodes[x].parent
			p.unmerged = slices.Clone(p.unmerged)
			f(&p)
			w.tree.nodes[x].parent = &p
		}
	}
	for _, tt := range []struct {
		name        string
		early, late func(*forgedWelcome)
		want        error
	}{
		{"a tree without the new member", func(w *forgedWelcome) { w.tree.nodes[8].leaf = nil; w.tree.truncate() }, nil, ErrInvalid},
		{"a tree without the signer", func(w *forgedWelcome) { w.tree.nodes[0].leaf = nil }, nil, ErrNotMember},
		{"a member twice", func(w *forgedWelcome) { w.tree.nodes[10].leaf = w.tree.nodes[2].leaf }, nil, ErrAuthentication},
		{"the new member twice", func(w *forgedWelcome) { w.tree.nodes[10].leaf = w.tree.nodes[8].leaf }, nil, ErrInvalid},
		{"a parent that nobody made", func(w *forgedWelcome) { w.tree.nodes[9].parent = &parentNode{encryptionKey: key()} }, nil, ErrInvalid},
		{"a parent of another key", parent(1, func(p *parentNode) { p.encryptionKey = key() }), nil, ErrInvalid},
		{"a parent with a parent hash in a circle", parent(3, func(p *parentNode) { p.parentHash = make([]byte, 32) }), nil, ErrInvalid},
		{"unmerged leaves all over", parent(3, func(p *parentNode) {
			p.unmerged = nil
			for i := range LeafIndex(5000) {
				p.unmerged = append(p.unmerged, i)
			}
		}), nil, ErrInvalid},
		{"unmerged leaves out of order", nil, func(w *forgedWelcome) {
			p := *w.tree.nodes[3].parent
			p.unmerged = []LeafIndex{3, 1}
			w.tree.nodes[3].parent = &p
			w.info.extensions[0].Data = w.tree.encode(nil)
		}, codec.ErrMalformed},
		{"a tree that ends in a blank", nil, func(w *forgedWelcome) {
			tree := w.tree.encode(nil)
			w.info.extensions[0].Data = codec.AppendVec(nil, append(tree[codec.VarintLen(len(tree)):], 0))
		}, codec.ErrMalformed},
		{"a tree of 131,073 blanks", nil, func(w *forgedWelcome) {
			w.info.extensions[0].Data = codec.AppendVec(nil, make([]byte, 1<<17+1))
		}, codec.ErrMalformed},
		{"a tree that is empty", nil, func(w *forgedWelcome) { w.info.extensions[0].Data = []byte{0} }, codec.ErrMalformed},
		{"no tree", nil, func(w *forgedWelcome) { w.info.extensions = nil }, ErrInvalid},
		{"another tree than the hash tells", nil, func(w *forgedWelcome) { w.info.context.TreeHash = make([]byte, 32) }, ErrInvalid},
		{"a signer beyond the tree", nil, func(w *forgedWelcome) { w.info.signer = math.MaxUint32 }, ErrNotMember},
		{"another's name under it", nil, func(w *forgedWelcome) { w.info.signer = 1 }, ErrAuthentication},
		{"another confirmation tag", nil, func(w *forgedWelcome) { w.info.tag = make([]byte, 32) }, ErrAuthentication},
		{"no confirmation tag", nil, func(w *forgedWelcome) { w.info.tag = nil }, ErrAuthentication},
		{"another epoch than the tag's", nil, func(w *forgedWelcome) { w.info.context.Epoch++ }, ErrAuthentication},
		{"another group", func(w *forgedWelcome) { w.info.context.GroupID = []byte("another") }, nil, ErrAuthentication},
		{"extensions that a member lacks", func(w *forgedWelcome) { w.info.context.Extensions = Extensions{{0xF051, nil}} }, nil, ErrInvalid},
		{"required capabilities cut off", func(w *forgedWelcome) {
			w.info.context.Extensions = Extensions{{ExtensionRequiredCapabilities, []byte{2, 0}}}
		}, nil, codec.ErrMalformed},
		{"a path secret of nothing", func(w *forgedWelcome) { w.secrets.pathSecret = make([]byte, 32) }, nil, ErrInvalid},
		{"a path secret too short", func(w *forgedWelcome) { w.secrets.pathSecret = []byte{1} }, nil, ErrInvalid},
		{"a welcome of oneself", func(w *forgedWelcome) { w.secrets.pathSecret = make([]byte, 32) }, func(w *forgedWelcome) { w.info.signer = 4 }, ErrAuthentication},
		{"a short joiner secret", nil, func(w *forgedWelcome) { w.secrets.joiner = []byte{1} }, ErrAuthentication},
		{"a pre-shared key that is not known", manyPSKs(1), nil, ErrMissingPSK},
		{"a hundred thousand of them", manyPSKs(100000), nil, ErrMissingPSK},
		{"a group that continues two", func(w *forgedWelcome) {
			id := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, Nonce: make([]byte, 32)}
			w.secrets.psks = []PreSharedKeyID{id, id}
			w.psk = s.pskSecret([]preSharedKey{{id, []byte("resumed")}, {id, []byte("resumed")}})
		}, nil, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			welcome := ana.welcome(b, tt.early, tt.late)
			judged, looked := 0, 0
			c := cem.config
			c.ValidateCredential = func(leaf, old *LeafNode) error { judged++; return nil }
			var err error
			size := allocated(func() {
				_, _, err = Join(c, welcome, b, &JoinOptions{PSK: func(id PreSharedKeyID) ([]byte, error) {
					if id.Type == PSKResumption {
						return []byte("resumed"), nil
					}
					looked++
					return nil, ErrMissingPSK
				}})
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("Join = %v, want %v", err, tt.want)
			}
			if judged > 8 || looked > 1 {
				t.Errorf("%d credentials are judged, %d keys looked up", judged, looked)
			}
			if limit := uint64(256*len(welcome) + 1<<18); size > limit {
				t.Errorf("%d bytes are allocated for a welcome of %d", size, len(welcome))
			}
		})
	}
}

// T31: a key or ciphertext of X-Wing of which one half is another's, or zero, opens
// nothing, and breaks nothing.
func TestT31XWingHalves(t *testing.T) {
	const pq = mlkem.CiphertextSize768 // of a ciphertext; the rest is X25519
	ds := newGroupOf(t, XWing, "mallory", "ana", "ben", "cem")
	mallory, ben := ds[0], ds[2]
	s := mallory.g.cur.s
	other, err := s.encryptWithLabel(ben.g.cur.tree.leaf(2).EncryptionKey, "x", nil, nil)
	mallory.check(err)
	halves := []struct {
		name  string
		spoil func(enc []byte)
	}{
		{"another ML-KEM half", func(enc []byte) { copy(enc[:pq], other.kemOutput) }},
		{"another X25519 half", func(enc []byte) { copy(enc[pq:], other.kemOutput[pq:]) }},
		{"one bit of the ML-KEM half", func(enc []byte) { enc[17] ^= 1 }},
		{"one bit of the X25519 half", func(enc []byte) { enc[pq+17] ^= 1 }},
		{"no ML-KEM half", func(enc []byte) { clear(enc[:pq]) }},
		{"no X25519 half", func(enc []byte) { clear(enc[pq:]) }},
		{"nothing", func(enc []byte) { clear(enc) }},
	}
	for _, h := range halves {
		t.Run("path secret with "+h.name, func(t *testing.T) {
			msg, _ := mallory.forge(func(path *updatePath, _ []byte) {
				enc := bytes.Clone(path.nodes[1].secrets[0].kemOutput)
				h.spoil(enc)
				path.nodes[1].secrets[0].kemOutput = enc
			})
			ben.refuses(msg, ErrAuthentication)
		})
		t.Run("welcome with "+h.name, func(t *testing.T) {
			dora := newDevice(t, XWing, "dora")
			b := dora.bundle()
			w, err := parseWelcome(mallory.welcome(b, nil, nil))
			mallory.check(err)
			w.secrets[0].secrets.kemOutput = bytes.Clone(w.secrets[0].secrets.kemOutput)
			h.spoil(w.secrets[0].secrets.kemOutput)
			if _, _, err := Join(dora.config, w.encode(appendMessageHeader(nil, wireWelcome)), b, nil); !errors.Is(err, ErrAuthentication) {
				t.Errorf("Join = %v", err)
			}
		})
		t.Run("external init with "+h.name, func(t *testing.T) {
			dora := newDevice(t, XWing, "dora")
			info, err := mallory.g.GroupInfo(true)
			mallory.check(err)
			staged, err := JoinExternal(dora.config, info, ExternalJoinOptions{Credential: BasicCredential([]byte("dora"))})
			dora.check(err)
			a := contentOf(t, staged.Message())
			c := a.content.commit
			enc := bytes.Clone(c.proposals[0].proposal.(ExternalInit).KEMOutput)
			h.spoil(enc)
			c.proposals[0].proposal = ExternalInit{enc}
			a.content.body = c.encode(nil)
			dora.check(a.sign(s, dora.config.Signer, ben.g.cur.encoded))
			ben.refuses(a.publicMessage(s, nil, nil), ErrAuthentication)
		})
	}
	agree(t, ds...)
}

// Public keys to which nothing can be encrypted do not come into a tree: else the
// next who commits could not. They are the points of low order of X25519 and, of
// ML-KEM, what is not reduced.
func TestBadPublicKeys(t *testing.T) {
	low := func(name string) []byte {
		b, err := hex.DecodeString(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	points := [][]byte{
		low(strings.Repeat("00", 32)),
		low("01" + strings.Repeat("00", 31)),
		low("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
		low("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
		low("ec" + strings.Repeat("ff", 30) + "7f"),
		low("ed" + strings.Repeat("ff", 30) + "7f"),
		low("ee" + strings.Repeat("ff", 30) + "7f"),
	}
	for _, p := range slices.Clone(points) { // the highest bit does not count
		p = bytes.Clone(p)
		p[31] |= 0x80
		points = append(points, p)
	}
	for _, id := range []Suite{X25519AES128, X25519ChaCha20, XWing} {
		t.Run(id.String(), func(t *testing.T) {
			ds := newGroupOf(t, id, "mallory", "ana", "ben")
			mallory, ana := ds[0], ds[1]
			s := ana.g.cur.s
			good, err := s.generateKey()
			ana.check(err)
			var keys [][]byte
			for _, p := range points {
				keys = append(keys, append(good.public()[:len(good.public())-32:len(good.public())-32], p...))
			}
			if id == XWing {
				bad := good.public()
				copy(bad, bytes.Repeat([]byte{0xff}, mlkem.EncapsulationKeySize768-32))
				keys = append(keys, bad)
			}
			keys = append(keys, nil, []byte{1}, good.public()[1:], append(good.public(), 0))
			if err := s.checkPublicKey(good.public()); err != nil {
				t.Errorf("a good key: %v", err)
			}
			for i, key := range keys {
				if s.checkPublicKey(key) == nil {
					t.Errorf("key %d, %x, is taken", i, key)
					continue
				}
				// As the key of a leaf, by commit, and as the init key of a key package.
				e := mallory.g.cur
				c := mallory.commitOf(CommitOptions{})
				leaf := *c.path.leaf
				leaf.EncryptionKey = key
				mallory.check(leaf.sign(s, mallory.config.Signer, e.context.GroupID, e.self))
				c.path.leaf = &leaf
				ana.refuses(mallory.signed(c, make([]byte, s.nh)), ErrInvalid)
				dora := newDevice(t, id, "dora")
				k := *dora.bundle().KeyPackage()
				k.InitKey, k.encoded = key, nil
				k.Signature, err = s.sign(dora.config.Signer, "KeyPackageTBS", k.tbs(nil))
				dora.check(err)
				if _, err := ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{&k}}}); !errors.Is(err, ErrInvalid) {
					t.Errorf("key package with key %d: %v", i, err)
				}
			}
			if len(points) == 14 && id == X25519AES128 {
				for i, p := range points { // they are what they are said to be
					if _, err := s.encryptWithLabel(p, "x", nil, nil); err == nil {
						t.Errorf("something is encrypted to point %d", i)
					}
				}
			}
			agree(t, ds...)
		})
	}
}

// What is said of an X-Wing key is what the standard library says, of every coefficient.
func TestXWingKeysAreReduced(t *testing.T) {
	s, err := XWing.lookup()
	must(t, err)
	k, err := s.generateKey()
	must(t, err)
	key := k.public()
	for i := range 768 {
		at := key[i/2*3:]
		for _, v := range []uint{0, 3328, 3329, 4095} {
			was := [3]byte(at)
			if i%2 == 0 {
				at[0], at[1] = byte(v), at[1]&0xf0|byte(v>>8)
			} else {
				at[1], at[2] = at[1]&0x0f|byte(v<<4), byte(v>>4)
			}
			_, want := s.kem.NewPublicKey(key)
			if (want == nil) != (v < 3329) {
				t.Fatalf("the library says of coefficient %d, %d: %v", i, v, want)
			}
			if got := s.checkPublicKey(key); (got == nil) != (want == nil) {
				t.Errorf("coefficient %d, %d: %v, the library says %v", i, v, got, want)
			}
			copy(at, was[:])
		}
	}
}

// withGeneration returns msg, a PrivateMessage of suite 1, with another generation
// in its sender data: any member can do that to any other's message. It is the RFC
// once more, apart from the package (Section 6.3.2).
func withGeneration(t *testing.T, secret, msg []byte, generation uint32) []byte {
	t.Helper()
	r := codec.NewReader(msg[messageHeaderLen:])
	r.Vec(maxVec)  // group
	r.Bytes(8 + 1) // epoch, content type
	aad := msg[messageHeaderLen : len(msg)-r.Len()]
	r.Vec(maxVec) // authenticated data
	sender := r.Vec(maxVec)
	at := len(msg) - r.Len() - len(sender)
	sample := r.Vec(maxVec)[:sha256.Size]
	expand := func(label string, n int) []byte {
		info := codec.AppendVec(codec.AppendVec(codec.AppendU16(nil, uint16(n)), "MLS 1.0 "+label), sample)
		out, err := hkdf.Expand(sha256.New, secret, string(info), n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expand("nonce", 12)
	plain, err := aead.Open(nil, nonce, sender, aad)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(plain[4:], generation)
	msg = bytes.Clone(msg)
	copy(msg[at:], aead.Seal(nil, nonce, plain, aad))
	return msg
}

// T37: a message whose generation is far ahead is refused at once, whatever it says,
// and the ratchet stays where it was.
func TestT37FarGenerations(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	secret := ben.g.cur.secrets.senderData
	ben.reads(ana.encrypt("first"), "first", ana)
	last := ana.encrypt("second")
	next := generationOf(t, ben.g, last)
	before := dump(ben.g)
	far := [][]byte{}
	for _, generation := range []uint32{next + 1001, next + 1002, 1 << 20, math.MaxInt32, math.MaxUint32 - 1, math.MaxUint32} {
		for _, msg := range [][]byte{last, ana.stage(nil).Message()} {
			msg = withGeneration(t, secret, msg, generation)
			ben.refuses(msg, ErrTooFarAhead)
			far = append(far, msg)
		}
	}
	// What it costs does not depend on how far: a step of the ratchet costs more than this.
	cost := func(msg []byte) uint64 {
		const rounds = 100
		return allocated(func() {
			for range rounds {
				ben.g.Process(msg, nil)
			}
		}) / rounds
	}
	near := cost(far[0])
	for i, msg := range far {
		if c := cost(msg); c > 2*near+4096 {
			t.Errorf("message %d costs %d bytes, message 0 %d", i, c, near)
		}
	}
	// As far as it may go, it goes nowhere unless it is authentic.
	ben.refuses(withGeneration(t, secret, last, next+1000), ErrAuthentication)
	for i := range 10000 {
		if _, err := ben.g.Process(far[i%len(far)], nil); !errors.Is(err, ErrTooFarAhead) {
			t.Fatal(err)
		}
	}
	if !sameRecords(before, dump(ben.g)) {
		t.Error("the ratchet has moved")
	}
	ben.reads(last, "second", ana)
	agree(t, ds...)
}

// T39: a welcome is for one device, and once: with the key package's secrets gone
// nothing opens it again. A key package that serves twice makes two groups that
// share nothing once the device has renewed its leaf.
func TestT39WelcomeReplay(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana := ds[0]
	cem, dora := newDevice(t, X25519AES128, "cem"), newDevice(t, X25519AES128, "dora")
	b := cem.bundle()
	staged := ana.commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}}, ds[1])
	welcome, authenticator := staged.Welcome(), ana.g.EpochAuthenticator()
	refs, err := WelcomeRefs(welcome)
	if err != nil || len(refs) != 1 || !bytes.Equal(refs[0], b.Ref()) {
		t.Fatalf("WelcomeRefs = %x, %v", refs, err)
	}
	cem.join(welcome, b, nil)
	// For another device, and for another key package of the same one.
	for _, d := range []*device{dora, cem} {
		if _, _, err := Join(d.config, welcome, d.bundle(), nil); !errors.Is(err, ErrNotForUs) {
			t.Errorf("%s joins by another's welcome: %v", d.name, err)
		}
	}
	// With another's name on what is encrypted for cem.
	stolen := dora.bundle()
	renamed := bytes.Replace(welcome, refs[0], stolen.Ref(), 1)
	if _, _, err := Join(dora.config, renamed, stolen, nil); !errors.Is(err, ErrAuthentication) {
		t.Errorf("dora joins by cem's secrets: %v", err)
	}
	// The same key package in the same group.
	for _, o := range []*CommitOptions{
		{Proposals: []Proposal{Add{b.KeyPackage()}}},
		{Proposals: []Proposal{Remove{cem.g.OwnLeaf()}, Add{b.KeyPackage()}, Add{b.KeyPackage()}}},
	} {
		if _, err := ana.g.Clone().Commit(o); !errors.Is(err, ErrInvalid) {
			t.Errorf("a key package serves twice in one group: %v", err)
		}
	}
	// A replay, by who has not deleted the bundle, leads to the epoch that was, never to another.
	ds = append(ds, cem)
	cem.commit(nil, ana, ds[1])
	old, _, err := Join(cem.config, welcome, b, nil)
	if err != nil || old.Epoch() != cem.g.Epoch()-1 || !bytes.Equal(old.EpochAuthenticator(), authenticator) {
		t.Errorf("the welcome, replayed: %v, %v", old, err)
	}
	if _, err := old.Process(ana.encrypt("later"), nil); !errors.Is(err, ErrWrongEpoch) {
		t.Errorf("who has joined by it reads on: %v", err)
	}
	// In two groups.
	other := newGroupOf(t, X25519AES128, "fay", "gus")
	again := other[0].commit(&CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}}, other[1])
	twin := &device{t: t, name: "cem", suite: X25519AES128, config: cem.config, disk: make(map[string][]byte)}
	twin.join(again.Welcome(), b, nil)
	key := func(d *device) []byte { return d.g.cur.tree.leaf(d.g.OwnLeaf()).EncryptionKey }
	if !bytes.Equal(key(twin), b.KeyPackage().LeafNode.EncryptionKey) {
		t.Error("twin's leaf is not the key package's")
	}
	twin.commit(nil, other...)
	if bytes.Equal(key(twin), key(cem)) || bytes.Equal(key(twin), b.KeyPackage().LeafNode.EncryptionKey) {
		t.Error("the leaf was not renewed")
	}
	twin.refuses(cem.encrypt("x"), ErrWrongGroup)
	agree(t, append(other, twin)...)
	agree(t, ds...)
}

// seeds are messages and parts of messages. Those of the shared vectors are among
// them where they are.
func seeds(t testing.TB) (out [][]byte) {
	t.Helper()
	v := loadState(t, stateVectors[0])
	for _, m := range []hexBytes{v.Private, v.Public, v.Update, v.Next, v.Late, v.Welcome} {
		out = append(out, m)
	}
	ana := v.load(t, "ana")
	info, err := ana.GroupInfo(true)
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, info, ana.RatchetTree())
	dir := os.Getenv("SOTTO_MLS_VECTORS")
	if dir == "" {
		return out
	}
	b, err := os.ReadFile(filepath.Join(dir, "messages.json"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []map[string]hexBytes
	if err := json.Unmarshal(b, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, name := range slices.Sorted(maps.Keys(e)) {
			out = append(out, e[name])
		}
	}
	return out
}

// vectorsIn returns the places at which a vector may begin in b: a length that has
// room for what it counts.
func vectorsIn(b []byte) (at []int) {
	for i := range b {
		r := codec.NewReader(b[i:])
		if n := r.Varint(); r.Err() == nil && n > 0 && n <= r.Len() {
			at = append(at, i)
		}
	}
	return at
}

// misshape changes the structure of b: a vector in it, by its number, becomes
// shorter, longer, empty, doubled or gone, or has a length that is too much.
func misshape(b []byte, vector uint32, how uint8) []byte {
	all := vectorsIn(b)
	if len(all) == 0 || how == 0 {
		return b
	}
	at := all[int(vector)%len(all)]
	r := codec.NewReader(b[at:])
	content := r.Bytes(r.Varint())
	before, after := b[:at], r.Rest()
	var vec []byte
	switch how % 8 {
	case 1:
		vec = codec.AppendVec(vec, content[:len(content)-1])
	case 2:
		vec = codec.AppendVec(vec, append(bytes.Clone(content), 0))
	case 3:
		vec = codec.AppendVec(vec, []byte{})
	case 4:
		vec = codec.AppendVec(vec, slices.Concat(content, content))
	case 5:
		vec = []byte{0xbf, 0xff, 0xff, 0xff}
	case 6:
		vec = append(codec.AppendVarint(nil, len(content)+1), content...)
	case 7:
		vec = append([]byte{0x80, 0, byte(len(content) >> 8), byte(len(content))}, content...) // not the shortest form
	}
	return slices.Concat(before, vec, after)
}

// A victim reads whatever comes.
type victim struct {
	group  *Group
	config Config
	bundle *KeyPackageBundle
	before map[string][]byte
}

func newVictim(t testing.TB) *victim {
	v := loadState(t, stateVectors[0])
	w := &victim{group: v.load(t, "ben"), config: v.config("dora")}
	var err error
	if w.bundle, err = ParseKeyPackageBundle(v.Bundle); err != nil {
		t.Fatal(err)
	}
	w.before = dump(w.group)
	return w
}

// read tries b as everything that a stranger or a member may send.
func (w *victim) read(t testing.TB, b []byte) {
	t.Helper()
	check := func(what string, err error) {
		if err != nil && !expected(err) {
			t.Errorf("%s: an error of no kind: %v", what, err)
		}
	}
	_, err := Peek(b)
	check("Peek", err)
	g := w.group.Clone()
	if _, err = g.Process(b, nil); err != nil && !sameRecords(w.before, dump(g)) {
		t.Error("a message that failed changed the group")
	}
	check("Process", err)
	_, err = WelcomeRefs(b)
	check("WelcomeRefs", err)
	_, _, err = Join(w.config, b, w.bundle, nil)
	check("Join", err)
	_, err = JoinExternal(w.config, b, ExternalJoinOptions{Credential: BasicCredential(nil)})
	check("JoinExternal", err)
	for _, k := range [][]byte{b, b[min(len(b), messageHeaderLen):]} {
		if k, err := ParseKeyPackage(k); err != nil {
			check("ParseKeyPackage", err)
		} else {
			check("Verify", k.Verify())
		}
	}
	_, err = ParseExternalSenders(b)
	check("ParseExternalSenders", err)
	_, err = ParseRequiredCapabilities(b)
	check("ParseRequiredCapabilities", err)
	for _, decode := range []func(*codec.Reader){
		func(r *codec.Reader) { decodeTree(w.group.cur.s, r) },
		func(r *codec.Reader) { decodeCommit(r) },
		func(r *codec.Reader) { decodeProposal(r) },
		func(r *codec.Reader) { decodeGroupSecrets(r) },
	} {
		r := codec.NewReader(b)
		decode(r)
		check("decode", r.Done())
	}
}

// FuzzT36Shapes is about structure; the other targets flip bytes.
func FuzzT36Shapes(f *testing.F) {
	for i, b := range seeds(f) {
		f.Add(b, uint32(i), uint8(i%8))
	}
	w := newVictim(f)
	f.Fuzz(func(t *testing.T, b []byte, vector uint32, how uint8) { w.read(t, misshape(b, vector, how)) })
}

// T36: no message breaks who reads it, whichever of its parts is misshapen.
func TestT36Shapes(t *testing.T) {
	w := newVictim(t)
	random := mrand.New(mrand.NewPCG(36, 0))
	all := seeds(t)
	for _, b := range all {
		rounds := 4
		if len(all) < 100 {
			rounds = 200
		}
		for range rounds {
			w.read(t, misshape(misshape(b, random.Uint32(), uint8(1+random.IntN(7))), random.Uint32(), uint8(random.IntN(8))))
		}
	}
}

// T36: nor does one of 300 KiB, whatever it is made of, take more than 16 MiB to read.
func TestT36Memory(t *testing.T) {
	const frame, limit = 300 << 10, 16 << 20
	w := newVictim(t)
	// fill returns the vector of as many elements as fit.
	fill := func(element []byte) []byte {
		return codec.AppendVec(nil, bytes.Repeat(element, (frame-2048)/len(element)))
	}
	many := func(n int, element func(i int) []byte) (out []byte) {
		return codec.AppendVecFunc(nil, func(b []byte) []byte {
			for i := range n {
				b = append(b, element(i)...)
			}
			return b
		})
	}
	content := func(kind ContentType, body []byte) []byte {
		e := w.group.cur
		a := &authenticatedContent{wire: wirePublicMessage, tag: make([]byte, 32), signature: make([]byte, 64), content: framedContent{
			groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, 0}, kind: kind, body: body,
		}}
		return a.publicMessage(e.s, e.secrets.membership, e.encoded)
	}
	k := w.bundle.KeyPackage()
	leafWith := func(f func(*LeafNode)) []byte {
		l := *k.LeafNode
		l.encoded = nil
		f(&l)
		return l.encode(nil)
	}
	path := func(leaf, nodes []byte) []byte { return slices.Concat([]byte{0, 1}, leaf, nodes) }
	extensions := many(frame/4, func(i int) []byte { return []byte{byte(i >> 8), byte(i), 0} })
	ciphertext := []byte{0, 0}
	info := func(extensions []byte) []byte {
		c := w.group.Context()
		c.Extensions = nil
		b := appendMessageHeader(nil, wireGroupInfo)
		b = append(c.encode(b), extensions...)
		return append(b, 0, 0, 0, 0, 0, 0)
	}
	welcome := func(secrets, groupInfo []byte) []byte {
		return slices.Concat(appendMessageHeader(nil, wireWelcome), []byte{0, 1}, secrets, groupInfo)
	}
	for name, msg := range map[string][]byte{
		"removals":                     content(ContentCommit, append(fill([]byte{1, 0, 3, 0, 0, 0, 1}), 0)),
		"references":                   content(ContentCommit, append(fill([]byte{2, 0}), 0)),
		"pre-shared keys":              content(ContentCommit, append(fill([]byte{1, 0, 4, 1, 0, 0}), 0)),
		"external inits":               content(ContentCommit, append(fill([]byte{1, 0, 6, 0}), 0)),
		"extensions of the context":    content(ContentCommit, append(fill([]byte{1, 0, 7, 0}), 0)),
		"key packages":                 content(ContentCommit, append(fill(append([]byte{1, 0, 1}, k.Marshal()...)), 0)),
		"nodes of a path":              content(ContentCommit, path(k.LeafNode.encode(nil), fill([]byte{0, 0}))),
		"secrets of a path":            content(ContentCommit, path(k.LeafNode.encode(nil), codec.AppendVec(nil, append([]byte{0}, fill(ciphertext)...)))),
		"extensions":                   content(ContentProposal, append([]byte{0, 7}, extensions...)),
		"one extension, over and over": content(ContentProposal, append([]byte{0, 7}, fill([]byte{0, 1, 0})...)),
		"certificates": content(ContentCommit, path(leafWith(func(l *LeafNode) {
			l.Credential = Credential{Type: CredentialX509, Certificates: make([][]byte, frame-4096)}
		}), []byte{0})),
		"capabilities": content(ContentCommit, path(leafWith(func(l *LeafNode) {
			l.Capabilities.Extensions = make([]ExtensionType, (frame-4096)/2)
		}), []byte{0})),
		"an application message": content(ContentApplication, fill([]byte{0})),
		"a tree of blanks":       info(many(1, func(int) []byte { return append([]byte{0, 2}, codec.AppendVec(nil, fill([]byte{0}))...) })),
		"a tree of 65,536 blanks": info(many(1, func(int) []byte {
			return append([]byte{0, 2}, codec.AppendVec(nil, codec.AppendVec(nil, append(make([]byte, 1<<16), append([]byte{1, 1}, k.LeafNode.encode(nil)...)...)))...)
		})),
		"a tree of empty parents": info(many(1, func(int) []byte { return append([]byte{0, 2}, codec.AppendVec(nil, fill([]byte{0, 1, 2, 0, 0, 0}))...) })),
		"unmerged leaves": info(many(1, func(int) []byte {
			return append([]byte{0, 2}, codec.AppendVec(nil, codec.AppendVec(nil, slices.Concat([]byte{0, 1, 2, 0, 0}, many(frame/4-2048, func(i int) []byte { return codec.AppendU32(nil, uint32(i)) }))))...)
		})),
		"extensions of a group info": info(extensions),
		"new members":                welcome(fill([]byte{0, 0, 0}), []byte{0}),
		"an encrypted group info":    welcome([]byte{0}, fill([]byte{0})),
		"external senders":           fill([]byte{0, 0, 1, 0}),
		"a list of types":            slices.Concat(fill([]byte{0, 1}), []byte{0, 0}),
		"a length that is not there": append(appendMessageHeader(nil, wireWelcome), 0, 1, 0xbf, 0xff, 0xff, 0xff),
		"a private message of nothing": slices.Concat(appendMessageHeader(nil, wirePrivateMessage), codec.AppendVec(nil, w.group.GroupID()),
			codec.AppendU64(nil, w.group.Epoch()), []byte{2, 0}, codec.AppendVec(nil, make([]byte, 28)), fill([]byte{0})),
	} {
		if len(msg) > frame {
			t.Errorf("%s: %d bytes", name, len(msg))
		}
		for what, f := range map[string]func(){
			"Process":      func() { w.group.Clone().Process(msg, nil) },
			"Join":         func() { Join(w.config, msg, w.bundle, nil) },
			"JoinExternal": func() { JoinExternal(w.config, msg, ExternalJoinOptions{Credential: BasicCredential(nil)}) },
			"senders":      func() { ParseExternalSenders(msg) },
			"capabilities": func() { ParseRequiredCapabilities(msg) },
		} {
			limit := uint64(limit)
			if strings.HasPrefix(name, "a tree of ") {
				limit = 64 << 20 // all told, not at one time: every node is hashed
			}
			if size := allocated(f); size > limit {
				t.Errorf("%s of %s: %d bytes are allocated", what, name, size)
			}
		}
		w.read(t, msg)
	}
}
