package mls

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"

	"sotto/crypto/codec"
)

// PSKs looks up pre-shared keys. It returns ErrMissingPSK for one it does not
// know. Resumption keys of the group at hand are found without it. What it
// returns is neither changed nor kept.
type PSKs func(id PreSharedKeyID) ([]byte, error)

// Config is what a group needs from its surroundings. A number that is zero
// means its default, a negative one none.
type Config struct {
	// Signer holds the member's signature key, Ed25519 or ECDSA as the suite
	// demands. Required. One that also has a method
	//
	//	AppendSignature(b, message []byte) []byte
	//
	// is asked by it for Ed25519 signatures of messages, which saves the garbage.
	Signer crypto.Signer

	// ValidateCredential judges the credential and signature key of a leaf that
	// comes into the tree: by a key package, an update, a commit or, when
	// joining, with the whole tree (RFC 9420, Section 5.3.1). old is the leaf it
	// replaces, or nil; a changed credential must be a fit successor. An error
	// makes the message invalid. So that all members agree, the answer must
	// depend on the arguments alone. It may be called from several goroutines at
	// once. Required.
	ValidateCredential func(leaf, old *LeafNode) error

	// ValidateExternalSender judges the credential of who may propose from outside, when
	// it comes into the group's extensions and when joining (RFC 9420,
	// Section 5.3.1). As above, the answer must depend on the argument alone. Nil
	// judges none.
	ValidateExternalSender func(ExternalSender) error

	// OutOfOrder is how many skipped message keys are kept for each sender,
	// epoch and kind of message. Default 64.
	OutOfOrder int

	// MaxForward is how far one message may move a sender's ratchet. Default 1000.
	MaxForward int

	// PastEpochs is for how many epochs before the current one late application
	// messages can still be read. Default 3.
	PastEpochs int

	// Padding rounds the content of private messages up to a multiple of this
	// many bytes. Default none: envelopes pad.
	Padding int
}

// complete returns c with its defaults filled in.
func (c Config) complete() (*Config, error) {
	if c.Signer == nil || c.ValidateCredential == nil {
		return nil, fmt.Errorf("%w: configuration without signer or credential check", ErrInvalid)
	}
	c.OutOfOrder = orDefault(c.OutOfOrder, 64)
	c.MaxForward = orDefault(c.MaxForward, 1000)
	c.PastEpochs = orDefault(c.PastEpochs, 3)
	c.Padding = orDefault(c.Padding, 0)
	return &c, nil
}

func orDefault(n, def int) int {
	if n == 0 {
		n = def
	}
	return max(n, 0)
}

// GroupOptions says how a group begins.
type GroupOptions struct {
	Suite          Suite
	GroupID        []byte // default: random, of the suite's hash length
	Credential     Credential
	Lifetime       Lifetime
	Capabilities   *Capabilities // default: as in KeyPackageOptions, with the types of Extensions
	LeafExtensions Extensions
	Extensions     Extensions // of the group's context
}

// GroupContext is what all members of an epoch agree on (RFC 9420, Section 8.1).
// It must not be changed.
type GroupContext struct {
	Suite                   Suite
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

// Member is a leaf of the tree with its place.
type Member struct {
	Leaf LeafIndex
	Node *LeafNode
}

// An epoch is what does not change while an epoch lasts.
type epoch struct {
	s       *suite
	context GroupContext
	encoded []byte // of context
	tree    *ratchetTree
	self    LeafIndex

	// The following fields are nil in an epoch that is over, but for the secrets
	// that late messages and resumption need.
	secrets *epochSecrets
	keys    []pathKey // of one's leaf and the nodes above it
	tag     []byte    // confirmation tag
	interim []byte    // interim transcript hash
	reinit  *ReInit   // what ended the group
}

// over returns what is kept of e once the next epoch has begun.
func (e *epoch) over() *epoch {
	return &epoch{
		s: e.s, context: e.context, encoded: e.encoded, tree: e.tree, self: e.self,
		secrets: &epochSecrets{senderData: e.secrets.senderData, resumption: e.secrets.resumption},
	}
}

// A pastEpoch still opens late application messages.
type pastEpoch struct {
	epoch   *epoch // when it was stored, with the leaves of its tree alone
	secrets secretTree
	changed []changedLeaf // by the next epoch
}

// Group is one member's state of a group. It is not safe for concurrent use,
// but a group and its clones may be used at the same time. It prints without
// its secrets.
type Group struct {
	config  *Config
	cur     *epoch
	secrets secretTree         // of the current epoch
	past    []pastEpoch        // newest first
	pending []*pendingProposal // oldest first
	dirty   dirtySet
	own     owner        // of the ratchets that g shares with no clone; zero if it has none
	room    *messageRoom // for what the next Changes returns; nil once it is used
}

// A messageRoom holds the records of one message. It is made with the clone that sends or
// reads that, so that to write the state each time takes one allocation and no more.
type messageRoom struct {
	keys    [1]recordKey
	records [1]Record
	bytes   [recordRoom]byte
}

// NewGroup makes a group of one member, in epoch 0. Slices in o must not be
// changed afterwards.
func NewGroup(c Config, o GroupOptions) (*Group, error) {
	g, err := newGroup(c, o)
	if err != nil {
		return nil, fmt.Errorf("make group: %w", err)
	}
	return g, nil
}

func newGroup(c Config, o GroupOptions) (*Group, error) {
	config, err := c.complete()
	if err != nil {
		return nil, err
	}
	s, err := o.Suite.lookup()
	if err != nil {
		return nil, err
	}
	if err := config.checkContextExtensions(o.Extensions); err != nil {
		return nil, err
	}
	k := KeyPackageOptions{
		Suite: o.Suite, Signer: c.Signer, Credential: o.Credential, Lifetime: o.Lifetime,
		Capabilities: o.Capabilities, LeafExtensions: o.LeafExtensions, Extensions: o.Extensions,
	}
	leaf, key, err := newLeafNode(s, k)
	if err != nil {
		return nil, err
	}
	if err := leaf.validate(s, SourceKeyPackage, nil, 0); err != nil {
		return nil, err
	}
	if err := config.ValidateCredential(leaf, nil); err != nil {
		return nil, fmt.Errorf("%w: credential: %w", ErrInvalid, err)
	}
	tree := newTree(s, leaf)
	if err := tree.checkMembers(o.Extensions, nil); err != nil {
		return nil, err
	}
	id := bytes.Clone(o.GroupID)
	if len(id) == 0 {
		id = make([]byte, s.nh)
		rand.Read(id)
	}
	e := &epoch{
		s: s, tree: tree,
		context: GroupContext{Suite: s.id, GroupID: id, TreeHash: tree.rootHash(), Extensions: o.Extensions},
		keys:    []pathKey{{0, key}},
	}
	e.encoded = e.context.encode(nil)
	secret := make([]byte, s.nh)
	rand.Read(secret)
	var encryption []byte
	e.secrets, encryption = s.epochSecrets(secret)
	clear(secret)
	e.tag = s.mac(e.secrets.confirmation, nil)
	e.interim = s.interimTranscriptHash(nil, e.tag)
	return begun(config, e, newSecretTree(s, 1, encryption)), nil
}

// begun returns a group that has not been stored yet.
func begun(c *Config, e *epoch, secrets secretTree) *Group {
	g := &Group{config: c, cur: e, secrets: secrets}
	g.dirty.epochBegins(e, &secrets)
	g.dirty.tree(nil, e.tree)
	return g
}

// Clone returns an independent copy of g. It costs some hundred bytes: the two
// share what neither changes afterwards.
func (g *Group) Clone() *Group {
	atomic.StoreUint64(&g.own, 0)
	c := &struct {
		Group
		room messageRoom
	}{Group: Group{
		config: g.config, cur: g.cur, secrets: g.secrets, past: g.past,
		pending: slices.Clip(g.pending), dirty: g.dirty.clone(),
	}}
	c.Group.room = &c.room
	if len(c.dirty.keys) == 0 {
		c.dirty.keys = c.room.keys[:0]
	}
	return &c.Group
}

// Suite returns the group's cipher suite.
func (g *Group) Suite() Suite { return g.cur.context.Suite }

// GroupID returns the group's name, which must not be changed.
func (g *Group) GroupID() []byte { return g.cur.context.GroupID }

// Epoch returns the number of the current epoch.
func (g *Group) Epoch() uint64 { return g.cur.context.Epoch }

// Context returns the context of the current epoch.
func (g *Group) Context() GroupContext { return g.cur.context }

// OwnLeaf returns this member's place in the tree.
func (g *Group) OwnLeaf() LeafIndex { return g.cur.self }

// Roster returns the members in the order of their leaves.
func (g *Group) Roster() []Member { return g.cur.tree.roster() }

// Member returns the member at leaf, and whether there is one.
func (g *Group) Member(leaf LeafIndex) (*LeafNode, bool) {
	l := g.cur.tree.leaf(leaf)
	return l, l != nil
}

// RatchetTree returns the current epoch's tree, as a ratchet_tree structure.
func (g *Group) RatchetTree() []byte { return g.cur.tree.encode(nil) }

// Export derives a secret of length bytes, at most 255 times the suite's hash,
// for use outside MLS (MLS-Exporter, RFC 9420, Section 8.5). All members of the
// current epoch derive the same.
func (g *Group) Export(label string, context []byte, length int) ([]byte, error) {
	return g.cur.s.export(g.cur.secrets.exporter, label, context, length)
}

// EpochAuthenticator returns a value that members may compare to see that they
// are in the same epoch (RFC 9420, Section 8.7).
func (g *Group) EpochAuthenticator() []byte { return bytes.Clone(g.cur.secrets.authenticator) }

// ResumptionPSK returns the current epoch's resumption key (RFC 9420,
// Section 8.6), for a PSKs of another group.
func (g *Group) ResumptionPSK() []byte { return bytes.Clone(g.cur.secrets.resumption) }

// ReInit returns the proposal that has ended the group, or nil.
func (g *Group) ReInit() *ReInit { return g.cur.reinit }

// resumption returns the resumption key of an epoch of g that is still held.
func (g *Group) resumption(epoch uint64) []byte {
	if epoch == g.cur.context.Epoch {
		return g.cur.secrets.resumption
	}
	if p := g.pastEpoch(epoch); p != nil {
		return p.epoch.secrets.resumption
	}
	return nil
}

func (g *Group) pastEpoch(epoch uint64) *pastEpoch {
	for i := range g.past {
		if g.past[i].epoch.context.Epoch == epoch {
			return &g.past[i]
		}
	}
	return nil
}

// String tells group and epoch; it holds no secret.
func (g *Group) String() string {
	if g == nil || g.cur == nil {
		return "no group"
	}
	return fmt.Sprintf("group %x epoch %d", shortID(g.cur.context.GroupID), g.cur.context.Epoch)
}

func shortID(id []byte) []byte { return id[:min(4, len(id))] }

// Format implements [fmt.Formatter]: every verb prints String.
func (g *Group) Format(w fmt.State, verb rune) { io.WriteString(w, g.String()) }

// LogValue implements [slog.LogValuer].
func (g *Group) LogValue() slog.Value { return slog.StringValue(g.String()) }

// Encrypt makes an application message (a PrivateMessage in an MLSMessage).
// authenticatedData is not encrypted, and the reader sees that it is the sender's. Encrypt
// changes the group: Changes must be durable before the message leaves the
// device. On an error the group is as it was. It returns ErrPendingProposals and
// ErrReInit where RFC 9420 forbids to send.
func (g *Group) Encrypt(content, authenticatedData []byte) ([]byte, error) {
	e := g.cur
	if e.reinit != nil {
		return nil, fmt.Errorf("encrypt: %w", ErrReInit)
	}
	if len(g.pending) > 0 {
		return nil, fmt.Errorf("encrypt: %w", ErrPendingProposals)
	}
	if len(content) > maxVec/2 || len(authenticatedData) > maxVec/4 {
		return nil, fmt.Errorf("encrypt: %w: %d bytes and %d of authenticated data", ErrInvalid, len(content), len(authenticatedData))
	}
	w := newWorkspace()
	defer w.done()
	w.buf = codec.AppendVec(w.buf, content)
	a := authenticatedContent{wire: wirePrivateMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{SenderMember, e.self},
		authData: authenticatedData, kind: ContentApplication, body: w.buf,
	}}
	if err := a.signInto(w.signature[:0], e.s, g.config.Signer, e.encoded); err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	msg, err := g.seal(&a)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return msg, nil
}

// seal encrypts a with the next key of one's own ratchet, which moves on.
func (g *Group) seal(a *authenticatedContent) ([]byte, error) {
	e, kind := g.cur, kindOf(a.content.kind)
	secrets, err := g.secrets.opened(e.self)
	if err != nil {
		return nil, err
	}
	w := newWorkspace()
	defer w.done()
	r := secrets.ratchet(e.self, kind)
	next, err := r.next(e.s, &w.key)
	if err != nil {
		return nil, err
	}
	msg, err := e.s.seal(w, a, senderData{e.self, r.generation, newGuard()}, e.secrets.senderData, g.config.Padding)
	if err != nil {
		return nil, err
	}
	g.dirty.opened(e, &g.secrets, e.self)
	g.dirty.ratchet(e, e.self, kind)
	secrets.set(g.writer(), e.self, kind, next)
	g.secrets = secrets
	return msg, nil
}

// writer returns what g marks as its own, and so may overwrite.
func (g *Group) writer() owner {
	if g.own == 0 {
		g.own = newOwner()
	}
	return g.own
}

// ProposeOptions says how a proposal is made. A nil *ProposeOptions is empty.
type ProposeOptions struct {
	Public            bool // make a PublicMessage
	AuthenticatedData []byte
	Leaf              *LeafChange // for an Update; the Signer must stay

	// Now, in seconds since 1970, is the time at which the lifetime of an added key
	// package must hold. Zero checks none.
	Now uint64
}

// Propose makes a proposal for another member to commit by reference. An Update
// is made from this member's leaf; its LeafNode is ignored. The proposal is
// pending from then on. Changes must be durable before it leaves the device.
func (g *Group) Propose(p Proposal, o *ProposeOptions) ([]byte, error) {
	if o == nil {
		o = &ProposeOptions{}
	}
	msg, err := g.propose(p, o)
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	return msg, nil
}

func (g *Group) propose(p Proposal, o *ProposeOptions) ([]byte, error) {
	e, s := g.cur, g.cur.s
	if e.reinit != nil {
		return nil, ErrReInit
	}
	me := Sender{SenderMember, e.self}
	pending := &pendingProposal{}
	switch p.(type) {
	case Update:
		if o.Leaf != nil && o.Leaf.Signer != nil {
			return nil, fmt.Errorf("%w: an update with another signature key; commit it instead", ErrInvalid)
		}
		leaf, _, err := o.Leaf.apply(s, e.tree.leaf(e.self), g.config.Signer)
		if err != nil {
			return nil, err
		}
		if pending.key, err = s.generateKey(); err != nil {
			return nil, err
		}
		leaf.EncryptionKey = pending.key.public()
		leaf.Source, leaf.Lifetime, leaf.ParentHash = SourceUpdate, Lifetime{}, nil
		if err := leaf.sign(s, g.config.Signer, e.context.GroupID, e.self); err != nil {
			return nil, err
		}
		p = Update{&leaf}
	case ExternalInit:
		return nil, fmt.Errorf("%w: external init by a member", ErrInvalid)
	case nil:
		return nil, fmt.Errorf("%w: no proposal", ErrInvalid)
	default:
		p = withNonce(s, p)
	}
	if err := checkLifetime(p, o.Now); err != nil {
		return nil, err
	}
	if err := e.checkProposal(g.config, p, me); err != nil {
		return nil, err
	}
	a := &authenticatedContent{wire: wirePrivateMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: me,
		authData: bytes.Clone(o.AuthenticatedData), kind: ContentProposal,
		body: encodeProposal(nil, p), proposal: p,
	}}
	if o.Public {
		a.wire = wirePublicMessage
	}
	if err := a.sign(s, g.config.Signer, e.encoded); err != nil {
		return nil, err
	}
	var msg []byte
	if o.Public {
		msg = a.publicMessage(s, e.secrets.membership, e.encoded)
	} else {
		var err error
		if msg, err = g.seal(a); err != nil {
			return nil, err
		}
	}
	pending.content, pending.ref = a, a.proposalRef(s)
	g.addPending(pending)
	return msg, nil
}

// ForgetBefore deletes the secrets of all past epochs before epoch: their late
// messages cannot be read any more.
func (g *Group) ForgetBefore(epoch uint64) {
	keep := make([]pastEpoch, 0, len(g.past))
	for _, p := range g.past {
		if p.epoch.context.Epoch >= epoch {
			keep = append(keep, p)
		} else {
			g.dirty.epochForgotten(&p)
		}
	}
	g.past = keep
}
