package mls

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"testing"

	"sotto/crypto/codec"
)

// The tests in this file go through what RFC 9420 says MUST be refused, by section:
// a member that knows all secrets breaks one rule at a time, and ben, who trusts
// nothing, gets it.

// A forger is a group in which ana signs whatever a test wants.
type forger struct {
	t             *testing.T
	s             *suite
	ana, ben, cem *device // the members
	dora          *device // who is none
	doraBundle    *KeyPackageBundle
}

const (
	groupExtension    ExtensionType = 0xF0F0 // required of all members
	unknownCredential               = CredentialType(0xF00D)
)

func forgerCaps() Capabilities {
	return DefaultCapabilities(X25519AES128, groupExtension)
}

func (f *forger) newDevice(name string, change func(*KeyPackageOptions)) (*device, *KeyPackageBundle) {
	f.t.Helper()
	d := newDevice(f.t, X25519AES128, name)
	caps := forgerCaps()
	o := KeyPackageOptions{
		Suite: d.suite, Signer: d.config.Signer, Credential: BasicCredential([]byte(name)), Capabilities: &caps,
		Lifetime: Lifetime{100, 200},
	}
	if change != nil {
		change(&o)
	}
	b, err := NewKeyPackage(o)
	d.check(err)
	return d, b
}

func newForger(t *testing.T) *forger {
	t.Helper()
	f := &forger{t: t}
	f.s, _ = X25519AES128.lookup()
	f.ana = newDevice(t, X25519AES128, "ana")
	caps := forgerCaps()
	required := RequiredCapabilities{Extensions: []ExtensionType{groupExtension}}.Extension()
	g, err := NewGroup(f.ana.config, GroupOptions{
		Suite: X25519AES128, Credential: BasicCredential([]byte("ana")), Capabilities: &caps,
		Extensions: Extensions{required, {groupExtension, []byte("x")}},
	})
	f.ana.check(err)
	f.ana.save(g)
	var o CommitOptions
	var bundles []*KeyPackageBundle
	for _, p := range []struct {
		name string
		into **device
	}{{"ben", &f.ben}, {"cem", &f.cem}} {
		d, b := f.newDevice(p.name, nil)
		*p.into = d
		bundles = append(bundles, b)
		o.Proposals = append(o.Proposals, Add{b.KeyPackage()})
	}
	s := f.ana.commit(&o)
	f.ben.join(s.Welcome(), bundles[0], nil)
	f.cem.join(s.Welcome(), bundles[1], nil)
	f.dora, f.doraBundle = f.newDevice("dora", nil)
	return f
}

// content is what a test changes before it is signed.
func (f *forger) content(kind ContentType, body []byte) *authenticatedContent {
	c := &f.ana.g.cur.context
	return &authenticatedContent{wire: wirePublicMessage, content: framedContent{
		groupID: c.GroupID, epoch: c.Epoch, sender: Sender{SenderMember, 0}, kind: kind, body: body,
	}}
}

func (f *forger) public(a *authenticatedContent, signer crypto.Signer) []byte {
	f.t.Helper()
	e := f.ana.g.cur
	if a.content.kind == ContentCommit && a.tag == nil {
		a.tag = make([]byte, 32)
	}
	f.ana.check(a.sign(f.s, signer, e.encoded))
	return a.publicMessage(f.s, e.secrets.membership, e.encoded)
}

func (f *forger) proposal(p Proposal) []byte {
	f.t.Helper()
	return f.public(f.content(ContentProposal, encodeProposal(nil, p)), f.ana.config.Signer)
}

func (f *forger) commit(ps ...Proposal) []byte {
	f.t.Helper()
	c := &commit{}
	for _, p := range ps {
		c.proposals = append(c.proposals, proposalOrRef{proposal: p})
	}
	return f.public(f.content(ContentCommit, c.encode(nil)), f.ana.config.Signer)
}

// private encrypts plain as the content of a private message of ana's.
func (f *forger) private(plain []byte, kind ContentType, d senderData) []byte {
	f.t.Helper()
	e := f.ana.g.cur
	w := newWorkspace()
	opened, err := f.ana.g.secrets.opened(0)
	f.ana.check(err)
	_, err = opened.ratchet(0, kindOf(kind)).next(f.s, &w.key)
	f.ana.check(err)
	d.generation = opened.ratchet(0, kindOf(kind)).generation
	out := codec.AppendVec(appendMessageHeader(nil, wirePrivateMessage), e.context.GroupID)
	out = codec.AppendU8(codec.AppendU64(out, e.context.Epoch), uint8(kind))
	senderAAD := bytes.Clone(out[messageHeaderLen:])
	out = codec.AppendVec(out, []byte(nil))
	d.applyGuard(&w.key.nonce)
	aead, err := f.s.newAEAD(w.key.key[:f.s.nk])
	f.ana.check(err)
	ct := aead.Seal(nil, w.key.nonce[:], plain, out[messageHeaderLen:])
	f.s.senderDataKey(&w.senderData, e.secrets.senderData, ct)
	aead, err = f.s.newAEAD(w.senderData.key[:f.s.nk])
	f.ana.check(err)
	sender := codec.AppendU32(codec.AppendU32(nil, uint32(d.leaf)), d.generation)
	sender = append(sender, d.guard[:]...)
	out = codec.AppendVec(out, aead.Seal(nil, w.senderData.nonce[:], sender, senderAAD))
	return codec.AppendVec(out, ct)
}

// Section 6: framing.
func TestRFC6Framing(t *testing.T) {
	f := newForger(t)
	ana := f.ana.config.Signer
	remove := encodeProposal(nil, Remove{2})
	from := func(s Sender, kind ContentType, body []byte) []byte {
		a := f.content(kind, body)
		a.content.sender = s
		return f.public(a, ana)
	}
	commitBody := (&commit{}).encode(nil)
	signed := func(a *authenticatedContent) []byte { // content and signature of a private message
		a.wire = wirePrivateMessage
		f.ana.check(a.sign(f.s, ana, f.ana.g.cur.encoded))
		return a.encodeAuth(bytes.Clone(a.content.body))
	}
	hello := signed(f.content(ContentApplication, codec.AppendVec(nil, "hello")))
	untagged := f.content(ContentProposal, remove)
	f.public(untagged, ana)
	for _, tt := range []struct {
		name string
		msg  []byte
		want error // nil: it is accepted
	}{
		{"6: what is right", f.private(hello, ContentApplication, senderData{}), nil},
		{"6: proposal that is right", from(Sender{SenderMember, 0}, ContentProposal, remove), nil},
		{"6.1: a member that is none", from(Sender{SenderMember, 3}, ContentProposal, remove), ErrNotMember},
		{"6.1: a member beyond the tree", from(Sender{SenderMember, 1 << 31}, ContentProposal, remove), ErrNotMember},
		{"6.1: another member's signature", from(Sender{SenderMember, 1}, ContentProposal, remove), ErrAuthentication},
		{"6.1: an external sender where there are none", from(Sender{SenderExternal, 0}, ContentProposal, remove), ErrNotMember},
		{"6.1: an external sender's commit", from(Sender{SenderExternal, 0}, ContentCommit, commitBody), ErrInvalid},
		{"6.1: a new member's removal", from(Sender{Type: SenderNewMemberProposal}, ContentProposal, remove), ErrInvalid},
		{"6.1: a commit of who proposes to join", from(Sender{Type: SenderNewMemberProposal}, ContentCommit, commitBody), ErrInvalid},
		{"6.1: a proposal of who joins by commit", from(Sender{Type: SenderNewMemberCommit}, ContentProposal, remove), ErrInvalid},
		{"6.1: a commit to join without a path", from(Sender{Type: SenderNewMemberCommit}, ContentCommit, commitBody), ErrInvalid},
		{"6.1: a sender of no type", from(Sender{Type: 9}, ContentProposal, remove), codec.ErrMalformed},
		{"6: an application message that is not encrypted", from(Sender{SenderMember, 0}, ContentApplication, []byte{0}), ErrInvalid},
		{"6: content of no type", from(Sender{SenderMember, 0}, 7, []byte{0}), codec.ErrMalformed},
		{"6.2: another membership tag", append(untagged.encodeAuth(untagged.content.encode(appendMessageHeader(nil, wirePublicMessage))), codec.AppendVec(nil, make([]byte, 32))...), ErrAuthentication},
		{"6.2: no membership tag", append(untagged.encodeAuth(untagged.content.encode(appendMessageHeader(nil, wirePublicMessage))), 0), ErrAuthentication},
		{"6.3.1: padding", f.private(append(bytes.Clone(hello), 0, 0, 0), ContentApplication, senderData{}), nil},
		{"6.3.1: padding that is not zero", f.private(append(bytes.Clone(hello), 0, 1, 0), ContentApplication, senderData{}), codec.ErrMalformed},
		{"6.3.1: no signature", f.private(codec.AppendVec(nil, "hello"), ContentApplication, senderData{}), codec.ErrMalformed},
		{"6.3.1: signed for another kind of content", f.private(hello, ContentProposal, senderData{}), ErrUnsupported},
		{"6.3.1: signed for a public message", f.private(untagged.encodeAuth(remove), ContentProposal, senderData{}), ErrAuthentication},
		{"6.3.2: a sender that is none", f.private(hello, ContentApplication, senderData{leaf: 3}), ErrNotMember},
		{"6.3.2: another member as sender", f.private(hello, ContentApplication, senderData{leaf: 2}), ErrAuthentication},
		{"6.3.2: a guard", f.private(hello, ContentApplication, senderData{guard: [4]byte{1, 2, 3, 4}}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := dump(f.ben.g)
			g := f.ben.g.Clone()
			if _, err := g.Process(tt.msg, nil); !errors.Is(err, tt.want) {
				t.Errorf("Process = %v, want %v", err, tt.want)
			} else if err != nil && !sameRecords(before, dump(g)) {
				t.Error("a message that failed changed the group")
			}
		})
	}
}

// leafRules break Section 7.3 for a leaf that is otherwise right. They are applied
// before it is signed.
var leafRules = []struct {
	name  string
	spoil func(l *LeafNode)
	want  error
}{
	{"right", func(*LeafNode) {}, nil},
	{"GREASE", func(l *LeafNode) { // Section 13.5
		l.Capabilities.Suites = append(slices.Clone(l.Capabilities.Suites), 0x0A0A)
		l.Capabilities.Extensions = append(slices.Clone(l.Capabilities.Extensions), 0x1A1A)
		l.Capabilities.Proposals = append(slices.Clone(l.Capabilities.Proposals), 0x2A2A)
		l.Capabilities.Credentials = append(slices.Clone(l.Capabilities.Credentials), 0x3A3A)
		l.Capabilities.Versions = append(slices.Clone(l.Capabilities.Versions), 0xEAEA)
		l.Extensions = Extensions{{0x1A1A, []byte("grease")}}
	}, nil},
	{"does not list the version", func(l *LeafNode) { l.Capabilities.Versions = []uint16{2} }, ErrInvalid},
	{"does not list the suite", func(l *LeafNode) { l.Capabilities.Suites = []Suite{XWing} }, ErrInvalid},
	{"does not list its credential type", func(l *LeafNode) { l.Capabilities.Credentials = []CredentialType{CredentialX509} }, ErrInvalid},
	{"does not list its extension", func(l *LeafNode) { l.Extensions = Extensions{{0xF052, nil}} }, ErrInvalid},
	{"two extensions of a type", func(l *LeafNode) { l.Extensions = Extensions{{1, nil}, {1, nil}} }, codec.ErrMalformed},
	{"encryption key too short", func(l *LeafNode) { l.EncryptionKey = l.EncryptionKey[1:] }, ErrInvalid},
	{"no encryption key", func(l *LeafNode) { l.EncryptionKey = nil }, ErrInvalid},
	{"another signature key", func(l *LeafNode) { l.SignatureKey = bytes.Repeat([]byte{5}, 32) }, ErrAuthentication},
	{"no signature key", func(l *LeafNode) { l.SignatureKey = nil }, ErrAuthentication},
	{"a credential of an unknown type", func(l *LeafNode) { l.Credential.Type = unknownCredential }, ErrUnsupported},
	{"lacks the group's extension", func(l *LeafNode) { l.Capabilities.Extensions = nil }, errOfGroup},
	{"does not know the others' credentials", func(l *LeafNode) {
		l.Credential = Credential{Type: CredentialX509, Certificates: [][]byte{{1}}}
		l.Capabilities.Credentials = []CredentialType{CredentialX509}
	}, errOfGroup},
	{"credential that the others do not know", func(l *LeafNode) {
		l.Credential = Credential{Type: CredentialX509, Certificates: [][]byte{{1}}}
		l.Capabilities.Credentials = []CredentialType{CredentialBasic, CredentialX509}
	}, errOfGroup},
}

// errOfGroup stands for ErrInvalid where a rule is about the whole group: it shows
// when a commit changes the tree, not in a proposal.
var errOfGroup = errors.New("in a commit")

// Sections 7.3, 10.1 and 12.1.1: key packages.
func TestRFC7KeyPackages(t *testing.T) {
	f := newForger(t)
	signer := f.dora.config.Signer
	add := func(change func(k *KeyPackage, l *LeafNode)) *KeyPackage {
		l := *f.doraBundle.pkg.LeafNode
		k := *f.doraBundle.pkg
		k.LeafNode, k.encoded = &l, nil
		change(&k, &l)
		f.ana.check(l.sign(f.s, signer, nil, 0))
		var err error
		k.Signature, err = f.s.sign(signer, "KeyPackageTBS", k.tbs(nil))
		f.ana.check(err)
		return &k
	}
	type rule struct {
		name  string
		spoil func(k *KeyPackage, l *LeafNode)
		want  error
	}
	rules := []rule{
		{"of another suite", func(k *KeyPackage, _ *LeafNode) { k.Suite = P256AES128 }, ErrInvalid},
		{"with its leaf key as init key", func(k *KeyPackage, l *LeafNode) { k.InitKey = l.EncryptionKey }, ErrInvalid},
		{"with a short init key", func(k *KeyPackage, _ *LeafNode) { k.InitKey = k.InitKey[1:] }, ErrInvalid},
		{"with the leaf of an update", func(_ *KeyPackage, l *LeafNode) { l.Source = SourceUpdate }, ErrInvalid},
		{"with the leaf of a commit", func(_ *KeyPackage, l *LeafNode) { l.Source = SourceCommit }, ErrInvalid},
		{"with a leaf of no source", func(_ *KeyPackage, l *LeafNode) { l.Source = 9 }, codec.ErrMalformed},
		{"with an extension twice", func(k *KeyPackage, _ *LeafNode) { k.Extensions = Extensions{{1, nil}, {1, nil}} }, codec.ErrMalformed},
		{"with GREASE", func(k *KeyPackage, _ *LeafNode) { k.Extensions = Extensions{{0x1A1A, []byte("x")}} }, nil},
		{"with a member's signature key", func(_ *KeyPackage, l *LeafNode) {
			signer = f.cem.config.Signer
			l.SignatureKey, _ = f.s.signatureKey(signer)
		}, errOfGroup},
		{"with a member's encryption key", func(_ *KeyPackage, l *LeafNode) { l.EncryptionKey = f.cem.g.cur.tree.leaf(2).EncryptionKey }, errOfGroup},
	}
	for _, r := range leafRules {
		rules = append(rules, rule{"whose leaf is " + r.name, func(_ *KeyPackage, l *LeafNode) { r.spoil(l) }, r.want})
	}
	for _, tt := range rules {
		t.Run("key package "+tt.name, func(t *testing.T) {
			signer = f.dora.config.Signer
			k := add(tt.spoil)
			want, inGroup := tt.want, tt.want
			if want == errOfGroup {
				want, inGroup = nil, ErrInvalid
			}
			if _, err := f.ben.g.Clone().Process(f.proposal(Add{k}), nil); !errors.Is(err, want) {
				t.Errorf("proposed: %v, want %v", err, want)
			}
			_, err := f.ben.g.Clone().Process(f.commit(Add{k}), nil)
			if inGroup == nil {
				inGroup = ErrAuthentication // of the confirmation tag, which comes last
			}
			if !errors.Is(err, inGroup) {
				t.Errorf("committed: %v, want %v", err, inGroup)
			}
			if inGroup == ErrAuthentication {
				return
			}
			o := &CommitOptions{Proposals: []Proposal{Add{k}}}
			if _, err := f.ana.g.Clone().Commit(o); err == nil {
				t.Error("this package commits it")
			}
		})
	}
	// Another version of the protocol cannot even be read.
	b := f.doraBundle.pkg.Marshal()
	b[1] = 2
	if _, err := ParseKeyPackage(b); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a key package of version 2: %v", err)
	}
}

// Sections 7.3 and 12.1.2: updates, and the leaf of a path.
func TestRFC7Updates(t *testing.T) {
	f := newForger(t)
	type rule struct {
		name  string
		spoil func(l *LeafNode)
		want  error
	}
	rules := []rule{
		{"with the old encryption key", func(l *LeafNode) { l.EncryptionKey = f.ana.g.cur.tree.leaf(0).EncryptionKey }, ErrInvalid},
		{"of a key package", func(l *LeafNode) { l.Source = SourceKeyPackage }, ErrInvalid},
	}
	for _, r := range leafRules {
		rules = append(rules, rule(r))
	}
	for _, tt := range rules {
		t.Run("update "+tt.name, func(t *testing.T) {
			key, err := f.s.generateKey()
			f.ana.check(err)
			l := *f.ana.g.cur.tree.leaf(0)
			l.Source, l.EncryptionKey = SourceUpdate, key.public()
			tt.spoil(&l)
			f.ana.check(l.sign(f.s, f.ana.config.Signer, f.ana.g.GroupID(), 0))
			want := tt.want
			if want == errOfGroup {
				want = nil
			}
			g := f.ben.g.Clone()
			if _, err := g.Process(f.proposal(Update{&l}), nil); !errors.Is(err, want) {
				t.Fatalf("proposed: %v, want %v", err, want)
			}
			if want != nil {
				return
			}
			// What the group cannot take stays out of a commit, and does not stop it.
			s, err := g.Commit(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(s.Proposals()) == 1; got != (tt.want == nil) {
				t.Errorf("committed: %v", got)
			}
		})
		t.Run("path "+tt.name, func(t *testing.T) {
			staged, err := f.ana.g.Clone().Commit(&CommitOptions{Public: true})
			f.ana.check(err)
			a, _, err := decodePublicMessage(staged.Message())
			f.ana.check(err)
			c := a.content.commit
			l := *c.path.leaf
			tt.spoil(&l)
			f.ana.check(l.sign(f.s, f.ana.config.Signer, f.ana.g.GroupID(), 0))
			c.path.leaf = &l
			want := tt.want
			switch want {
			case nil:
				want = ErrAuthentication // of the confirmation tag
			case errOfGroup:
				want = ErrInvalid
			}
			if _, err := f.ben.g.Clone().Process(f.public(f.content(ContentCommit, c.encode(nil)), f.ana.config.Signer), nil); !errors.Is(err, want) {
				t.Errorf("committed: %v, want %v", err, want)
			}
		})
	}
}

// Sections 12.1 and 12.2: lists of proposals in a commit of a member.
func TestRFC12ProposalLists(t *testing.T) {
	f := newForger(t)
	add := Add{f.doraBundle.pkg}
	psk := func(id PreSharedKeyID) PreSharedKey {
		id.Nonce = bytes.Repeat([]byte{1}, 32)
		return PreSharedKey{id}
	}
	unknown := Extensions{{groupExtension, nil}, {0xF0F1, nil}}
	strict := RequiredCapabilities{Proposals: []ProposalType{0xF00A}}.Extension()
	credential := RequiredCapabilities{Credentials: []CredentialType{CredentialX509}}.Extension()
	for _, tt := range []struct {
		name string
		ps   []Proposal
		want error
	}{
		{"12.1.1: one key package twice", []Proposal{add, add}, ErrInvalid},
		{"12.1.3: removal of a blank leaf", []Proposal{Remove{3}}, ErrNotMember},
		{"12.1.3: removal beyond the tree", []Proposal{Remove{1 << 20}}, ErrNotMember},
		{"12.1.4: nonce too short", []Proposal{PreSharedKey{PreSharedKeyID{Type: PSKExternal, Nonce: make([]byte, 31)}}}, ErrInvalid},
		{"12.1.4: key for a reinitialization", []Proposal{psk(PreSharedKeyID{Type: PSKResumption, Usage: ResumptionReInit})}, ErrInvalid},
		{"12.1.4: key for a branch", []Proposal{psk(PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch})}, ErrInvalid},
		{"8.4: key of no type", []Proposal{psk(PreSharedKeyID{Type: 3})}, codec.ErrMalformed},
		{"8.4: key for no usage", []Proposal{psk(PreSharedKeyID{Type: PSKResumption, Usage: 4})}, codec.ErrMalformed},
		{"12.1.5: reinitialization with an older version", []Proposal{ReInit{Suite: X25519AES128}}, ErrInvalid},
		{"12.1.5: reinitialization with an extension twice", []Proposal{ReInit{Version: 1, Extensions: Extensions{{1, nil}, {1, nil}}}}, codec.ErrMalformed},
		{"12.1.6: external init of a member", []Proposal{ExternalInit{[]byte("x")}}, ErrInvalid},
		{"12.1.7: extension that members do not know", []Proposal{GroupContextExtensions{unknown}}, ErrInvalid},
		{"11.1: required proposal that members do not know", []Proposal{GroupContextExtensions{Extensions{strict}}}, ErrInvalid},
		{"11.1: required credential that members do not know", []Proposal{GroupContextExtensions{Extensions{credential}}}, ErrInvalid},
		{"12.2: update of the committer", []Proposal{Update{f.ana.g.cur.tree.leaf(0)}}, ErrInvalid},
		{"12.2: removal of the committer", []Proposal{Remove{0}}, ErrInvalid},
		{"12.2: one member removed twice", []Proposal{Remove{2}, Remove{2}}, ErrInvalid},
		{"12.2: one key twice", []Proposal{psk(PreSharedKeyID{Type: PSKExternal}), psk(PreSharedKeyID{Type: PSKExternal})}, ErrInvalid},
		{"12.2: extensions twice", []Proposal{GroupContextExtensions{}, GroupContextExtensions{}}, ErrInvalid},
		{"12.2: reinitialization with others", []Proposal{ReInit{Version: 1}, add}, ErrInvalid},
		{"12.2: two reinitializations", []Proposal{ReInit{Version: 1}, ReInit{Version: 1}}, ErrInvalid},
		{"12.4: no path for nothing", nil, ErrInvalid},
		{"12.4: no path for a removal", []Proposal{Remove{2}}, ErrInvalid},
		{"12.4: no path for extensions", []Proposal{GroupContextExtensions{f.ana.g.cur.context.Extensions}}, ErrInvalid},
		{"12.4: no path needed for an addition", []Proposal{add}, ErrAuthentication}, // of the tag
		{"12.4: no path needed for a reinitialization", []Proposal{ReInit{Version: 1}}, ErrAuthentication},
		{"12.4: no path needed for a key", []Proposal{psk(PreSharedKeyID{Type: PSKExternal})}, ErrMissingPSK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := dump(f.ben.g)
			if _, err := f.ben.g.Process(f.commit(tt.ps...), nil); !errors.Is(err, tt.want) {
				t.Errorf("Process = %v, want %v", err, tt.want)
			}
			if !sameRecords(before, dump(f.ben.g)) {
				t.Error("a commit that failed changed the group")
			}
		})
	}
	// Section 12: a type of proposal that nobody knows.
	body := append([]byte{7, 1, 0xF0, 0x0A, 0, 0, 0, 0}, 0)
	msg := f.public(f.content(ContentCommit, body), f.ana.config.Signer)
	if _, err := f.ben.g.Process(msg, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a proposal of an unknown type: %v", err)
	}
}

// Section 12.2: external commits.
func TestRFC12ExternalCommits(t *testing.T) {
	f := newForger(t)
	info, err := f.ana.g.GroupInfo(true)
	f.ana.check(err)
	caps := forgerCaps()
	signer := f.dora.config.Signer
	good := func() *commit {
		two := LeafIndex(2)
		s, err := JoinExternal(f.dora.config, info, ExternalJoinOptions{Credential: BasicCredential([]byte("cem")), Capabilities: &caps, Replaces: &two})
		f.dora.check(err)
		a, _, err := decodePublicMessage(s.Message())
		f.dora.check(err)
		return a.content.commit
	}
	value := func(p Proposal) proposalOrRef { return proposalOrRef{proposal: p} }
	for _, tt := range []struct {
		name  string
		spoil func(c *commit)
		want  error
	}{
		{"right but for the tag", func(*commit) {}, ErrAuthentication},
		{"without external init", func(c *commit) { c.proposals = c.proposals[1:] }, ErrInvalid},
		{"with two external inits", func(c *commit) { c.proposals = append(c.proposals, c.proposals[0]) }, ErrInvalid},
		{"with two removals", func(c *commit) { c.proposals = append(c.proposals, value(Remove{1})) }, ErrInvalid},
		{"with the removal of nobody", func(c *commit) { c.proposals[1] = value(Remove{3}) }, ErrNotMember},
		{"with an addition", func(c *commit) { c.proposals = append(c.proposals, value(Add{f.doraBundle.pkg})) }, ErrInvalid},
		{"with an update", func(c *commit) { c.proposals = append(c.proposals, value(Update{c.path.leaf})) }, ErrInvalid},
		{"with extensions", func(c *commit) { c.proposals = append(c.proposals, value(GroupContextExtensions{})) }, ErrInvalid},
		{"with a reinitialization", func(c *commit) { c.proposals = append(c.proposals, value(ReInit{Version: 1})) }, ErrInvalid},
		{"with a proposal by reference", func(c *commit) { c.proposals = append(c.proposals, proposalOrRef{ref: []byte("x")}) }, ErrInvalid},
		{"with an external init that does not decapsulate", func(c *commit) { c.proposals[0] = value(ExternalInit{make([]byte, 32)}) }, ErrAuthentication},
		{"with a path too short", func(c *commit) { c.path.nodes = nil }, ErrInvalid},
		{"without the extension of the group", func(c *commit) {
			l := *c.path.leaf
			l.Capabilities.Extensions = nil
			f.ana.check(l.sign(f.s, signer, f.ana.g.GroupID(), 2))
			c.path.leaf = &l
		}, ErrInvalid},
		{"with a leaf signed for another place", func(c *commit) {
			l := *c.path.leaf
			f.ana.check(l.sign(f.s, signer, f.ana.g.GroupID(), 3))
			c.path.leaf = &l
		}, ErrAuthentication},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.spoil(c)
			a := f.content(ContentCommit, c.encode(nil))
			a.content.sender = Sender{Type: SenderNewMemberCommit}
			if _, err := f.ben.g.Clone().Process(f.public(a, signer), nil); !errors.Is(err, tt.want) {
				t.Errorf("Process = %v, want %v", err, tt.want)
			}
		})
	}
	// The old leaf's successor is for the application to judge.
	two := LeafIndex(2)
	s, err := JoinExternal(f.dora.config, info, ExternalJoinOptions{Credential: BasicCredential([]byte("dora")), Capabilities: &caps, Replaces: &two})
	f.dora.check(err)
	g := f.ben.g.Clone()
	config := *g.config
	config.ValidateCredential = func(leaf, old *LeafNode) error {
		if old != nil && !bytes.Equal(leaf.Credential.Identity, old.Credential.Identity) {
			return fmt.Errorf("%s does not succeed %s", leaf.Credential.Identity, old.Credential.Identity)
		}
		return nil
	}
	g.config = &config
	if _, err := g.Process(s.Message(), nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("dora in cem's place: %v", err)
	}
}

// Section 12.4.3.1: welcomes.
func TestRFC12Welcomes(t *testing.T) {
	f := newForger(t)
	s, err := f.ana.g.Clone().Commit(&CommitOptions{Proposals: []Proposal{Add{f.doraBundle.pkg}}})
	f.ana.check(err)
	key := []byte("key")
	psk := func(PreSharedKeyID) ([]byte, error) { return key, nil }
	open := func() (*groupInfo, *groupSecrets) {
		w, err := parseWelcome(s.Welcome())
		f.ana.check(err)
		plain, err := f.s.decryptWithLabel(f.doraBundle.init, "Welcome", w.groupInfo, w.secrets[0].secrets)
		f.ana.check(err)
		secrets := parsed(t, plain, decodeGroupSecrets)
		ks := f.s.keySchedule(secrets.joiner, f.s.pskSecret(nil))
		k, nonce := ks.welcomeKey()
		opened, err := f.s.open(k, nonce, w.groupInfo, nil)
		f.ana.check(err)
		return parsed(t, opened, decodeGroupInfo), secrets
	}
	id := PreSharedKeyID{Type: PSKExternal, Nonce: make([]byte, 32)}
	branch := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, Nonce: make([]byte, 32)}
	tree := func(i *groupInfo, change func(*ratchetTree)) {
		data, _ := i.extensions.Get(ExtensionRatchetTree)
		next := parsed(t, bytes.Clone(data), func(r *codec.Reader) *ratchetTree { return decodeTree(f.s, r) })
		change(next)
		i.context.TreeHash = next.rootHash()
		i.extensions = Extensions{{ExtensionRatchetTree, next.encode(nil)}}
	}
	for _, tt := range []struct {
		name   string
		spoil  func(i *groupInfo, g *groupSecrets)
		signer crypto.Signer
		want   error
	}{
		{"right", func(*groupInfo, *groupSecrets) {}, nil, nil},
		{"right with GREASE", func(i *groupInfo, _ *groupSecrets) {
			i.extensions = append(i.extensions, Extension{0x3A3A, []byte("x")})
		}, nil, nil},
		{"of another suite", func(i *groupInfo, _ *groupSecrets) { i.context.Suite = X25519ChaCha20 }, nil, ErrInvalid},
		{"signed by who is no member", func(i *groupInfo, _ *groupSecrets) { i.signer = 9 }, nil, ErrNotMember},
		{"signed by another", func(i *groupInfo, _ *groupSecrets) { i.signer = 1 }, nil, ErrAuthentication},
		{"signed with another key", func(*groupInfo, *groupSecrets) {}, newSigner(t, X25519AES128), ErrAuthentication},
		{"with another tree", func(i *groupInfo, _ *groupSecrets) { i.context.TreeHash = make([]byte, 32) }, nil, ErrInvalid},
		{"without the tree", func(i *groupInfo, _ *groupSecrets) { i.extensions = nil }, nil, ErrInvalid},
		{"with a tree in which one is not", func(i *groupInfo, _ *groupSecrets) {
			tree(i, func(t *ratchetTree) { t.remove(3); t.truncate() })
		}, nil, ErrInvalid},
		{"with a tree that nobody made", func(i *groupInfo, _ *groupSecrets) {
			tree(i, func(t *ratchetTree) { t.nodes[1].parent = &parentNode{encryptionKey: t.nodes[2].leaf.EncryptionKey} })
		}, nil, ErrInvalid},
		{"with an extension twice", func(i *groupInfo, _ *groupSecrets) {
			i.extensions = append(i.extensions, i.extensions[0])
		}, nil, codec.ErrMalformed},
		{"with a context extension that members do not know", func(i *groupInfo, _ *groupSecrets) {
			i.context.Extensions = append(slices.Clone(i.context.Extensions), Extension{0xF0F1, nil})
		}, nil, ErrInvalid},
		{"with required capabilities that members lack", func(i *groupInfo, _ *groupSecrets) {
			i.context.Extensions = Extensions{RequiredCapabilities{Proposals: []ProposalType{0xF00A}}.Extension()}
		}, nil, ErrInvalid},
		{"with another confirmation tag", func(i *groupInfo, _ *groupSecrets) { i.tag = make([]byte, 32) }, nil, ErrAuthentication},
		{"of another epoch", func(i *groupInfo, _ *groupSecrets) { i.context.Epoch++ }, nil, ErrAuthentication},
		{"with another joiner secret", func(_ *groupInfo, g *groupSecrets) { g.joiner = make([]byte, 32) }, nil, ErrAuthentication},
		{"with another path secret", func(_ *groupInfo, g *groupSecrets) { g.pathSecret = make([]byte, 32) }, nil, ErrInvalid},
		{"with a short path secret", func(_ *groupInfo, g *groupSecrets) { g.pathSecret = g.pathSecret[1:] }, nil, ErrInvalid},
		{"with a path secret from oneself", func(i *groupInfo, _ *groupSecrets) { i.signer = 3 }, f.dora.config.Signer, ErrInvalid},
		{"with a key nobody mixed in", func(_ *groupInfo, g *groupSecrets) { g.psks = []PreSharedKeyID{id} }, nil, ErrAuthentication},
		{"with a key of a short nonce", func(_ *groupInfo, g *groupSecrets) {
			g.psks = []PreSharedKeyID{{Type: PSKExternal, Nonce: []byte("x")}}
		}, nil, ErrInvalid},
		{"that continues two groups", func(_ *groupInfo, g *groupSecrets) { g.psks = []PreSharedKeyID{branch, branch} }, nil, ErrInvalid},
		{"that continues an unknown group", func(_ *groupInfo, g *groupSecrets) { g.psks = []PreSharedKeyID{branch} }, nil, ErrMissingPSK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			info, secrets := open()
			tt.spoil(info, secrets)
			signer := tt.signer
			if signer == nil {
				signer = f.ana.config.Signer
			}
			var err error
			info.signature, err = f.s.sign(signer, "GroupInfoTBS", info.tbs(nil))
			f.ana.check(err)
			var psks []preSharedKey
			for _, id := range secrets.psks {
				psks = append(psks, preSharedKey{id, key})
			}
			ks := f.s.keySchedule(secrets.joiner, f.s.pskSecret(psks))
			k, nonce := ks.welcomeKey()
			aead, err := f.s.newAEAD(k)
			f.ana.check(err)
			w := &welcomeMessage{suite: f.s.id, groupInfo: aead.Seal(nil, nonce, info.encode(nil), nil)}
			ct, err := f.s.encryptWithLabel(f.doraBundle.pkg.InitKey, "Welcome", w.groupInfo, secrets.encode(nil))
			f.ana.check(err)
			w.secrets = []encryptedGroupSecrets{{f.doraBundle.Ref(), ct}}
			msg := w.encode(appendMessageHeader(nil, wireWelcome))
			if _, _, err := Join(f.dora.config, msg, f.doraBundle, &JoinOptions{PSK: psk}); !errors.Is(err, tt.want) {
				t.Errorf("Join = %v, want %v", err, tt.want)
			}
		})
	}
}

// Section 12.4.3.2: group infos by which one joins oneself.
func TestRFC12GroupInfos(t *testing.T) {
	f := newForger(t)
	msg, err := f.ana.g.GroupInfo(true)
	f.ana.check(err)
	caps := forgerCaps()
	for _, tt := range []struct {
		name  string
		spoil func(i *groupInfo)
		want  error
	}{
		{"right", func(*groupInfo) {}, nil},
		{"right with GREASE", func(i *groupInfo) { i.extensions = append(i.extensions, Extension{0x3A3A, []byte("x")}) }, nil},
		{"without external key", func(i *groupInfo) { i.extensions = i.extensions[1:] }, ErrInvalid},
		{"with an external key of no curve", func(i *groupInfo) { i.extensions[0].Data = []byte{1, 1} }, ErrInvalid},
		{"with an external key cut off", func(i *groupInfo) { i.extensions[0].Data = []byte{9} }, codec.ErrMalformed},
		{"of another suite", func(i *groupInfo) { i.context.Suite = XWing }, ErrInvalid},
		{"of no suite", func(i *groupInfo) { i.context.Suite = 4 }, ErrUnsupported},
		{"with another tree", func(i *groupInfo) { i.context.TreeHash = make([]byte, 32) }, ErrInvalid},
		{"signed by another", func(i *groupInfo) { i.signer = 2 }, ErrAuthentication},
	} {
		t.Run(tt.name, func(t *testing.T) {
			info := parsed(t, bytes.Clone(msg[messageHeaderLen:]), decodeGroupInfo)
			tt.spoil(info)
			var err error
			info.signature, err = f.s.sign(f.ana.config.Signer, "GroupInfoTBS", info.tbs(nil))
			f.ana.check(err)
			_, err = JoinExternal(f.dora.config, info.encode(appendMessageHeader(nil, wireGroupInfo)), ExternalJoinOptions{Credential: BasicCredential([]byte("dora")), Capabilities: &caps})
			if !errors.Is(err, tt.want) {
				t.Errorf("JoinExternal = %v, want %v", err, tt.want)
			}
		})
	}
}

// A proposal that cannot be committed does not keep the others from being.
func TestPoisonedProposals(t *testing.T) {
	f := newForger(t)
	twin := newDevice(t, X25519AES128, "twin of ben")
	twin.config = f.ben.config
	psk := withNonce(f.s, ExternalPSK([]byte("k")))
	_, k := f.newDevice("foreign", func(o *KeyPackageOptions) { *o.Capabilities = DefaultCapabilities(X25519AES128) })
	_, expired := f.newDevice("expired", func(o *KeyPackageOptions) { o.Lifetime = Lifetime{1, 2} })
	for _, p := range []Proposal{
		Add{expired.KeyPackage()},
		Add{twin.bundle().KeyPackage()},
		Add{k.KeyPackage()},
		GroupContextExtensions{Extensions{{0xF0F1, nil}}},
		GroupContextExtensions{Extensions{RequiredCapabilities{Proposals: []ProposalType{0xF00A}}.Extension()}},
		psk,
		withNonce(f.s, ExternalPSK([]byte("known to nobody"))),
		Remove{1}, // the committer
		Add{f.doraBundle.pkg},
	} {
		if _, err := f.ben.process(f.proposal(p), nil); err != nil {
			t.Fatal(err)
		}
	}
	// Cem repeats ana's pre-shared key.
	a := f.content(ContentProposal, encodeProposal(nil, psk))
	a.content.sender.Leaf = 2
	if _, err := f.ben.process(f.public(a, f.cem.config.Signer), nil); err != nil {
		t.Fatal(err)
	}
	s := f.ben.stage(&CommitOptions{PSK: psksOf(map[string]string{"k": "v"}), Now: 150})
	if ps := s.Proposals(); len(ps) != 2 || ps[0].Proposal.Type() != ProposalAdd || ps[1].Proposal.Type() != ProposalPreSharedKey {
		t.Errorf("committed %v", ps)
	}
	f.ben.merge(s)
	f.dora.join(s.Welcome(), f.doraBundle, &JoinOptions{PSK: psksOf(map[string]string{"k": "v"})})
	agree(t, f.ben, f.dora)
}

// A group that continues another is made as the RFC demands, or not at all.
func TestResumes(t *testing.T) {
	ds := newGroupOf(t, X25519AES128, "ana", "ben")
	ana, ben := ds[0], ds[1]
	x := Extensions{{ExtensionApplicationID, []byte("new")}}
	branch := func(old *Group, id Suite, name string, x Extensions) (*device, *device, *KeyPackageBundle, *CommitOptions) {
		maker, other := newDevice(t, id, "ana"), newDevice(t, id, "ben")
		b := other.bundle()
		g, err := NewGroup(maker.config, GroupOptions{Suite: id, GroupID: []byte(name), Credential: BasicCredential([]byte("ana")), Extensions: x})
		maker.check(err)
		maker.save(g)
		return maker, other, b, &CommitOptions{Proposals: []Proposal{Add{b.KeyPackage()}}, Resumes: old}
	}
	maker, other, b, o := branch(ana.g, X25519AES128, "branch", nil)
	s := maker.commit(o)
	other.join(s.Welcome(), b, &JoinOptions{Resumes: ben.g})
	agree(t, maker, other)
	if _, err := maker.g.Commit(&CommitOptions{Resumes: ana.g}); !errors.Is(err, ErrInvalid) {
		t.Errorf("continuing a group later than at first: %v", err)
	}
	maker, _, _, o = branch(ana.g, XWing, "branch", nil)
	if _, err := maker.g.Commit(o); !errors.Is(err, ErrInvalid) {
		t.Errorf("a branch of another suite: %v", err)
	}
	ana.commit(&CommitOptions{Proposals: []Proposal{ReInit{GroupID: []byte("next"), Version: 1, Suite: XWing, Extensions: x}}}, ben)
	for _, tt := range []struct {
		suite Suite
		name  string
		x     Extensions
		want  error
	}{
		{X25519AES128, "next", x, ErrInvalid},
		{XWing, "elsewhere", x, ErrInvalid},
		{XWing, "next", nil, ErrInvalid},
		{XWing, "next", x, nil},
	} {
		maker, other, b, o := branch(ana.g, tt.suite, tt.name, tt.x)
		s, err := maker.g.Commit(o)
		if !errors.Is(err, tt.want) {
			t.Errorf("continuing as %v %s %v: %v, want %v", tt.suite, tt.name, tt.x, err, tt.want)
		}
		if tt.want == nil {
			maker.merge(s)
			other.join(s.Welcome(), b, &JoinOptions{Resumes: ben.g})
			agree(t, maker, other)
		}
	}
}
