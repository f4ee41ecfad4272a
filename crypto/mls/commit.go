package mls

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// proposalOrRef is a proposal by value or the reference of one.
type proposalOrRef struct {
	proposal Proposal // nil if by reference
	ref      []byte
}

// commit is Commit of Section 12.4.
type commit struct {
	proposals []proposalOrRef
	path      *updatePath
}

// size returns about as many bytes as encode appends: no less, unless it changes the
// group's extensions or the like.
func (c *commit) size() int {
	n := 16
	for _, p := range c.proposals {
		n += 8 + len(p.ref)
		if add, ok := p.proposal.(Add); ok {
			n += len(add.KeyPackage.encoded)
		}
	}
	if c.path != nil {
		n += c.path.size()
	}
	return n
}

func (c *commit) encode(b []byte) []byte {
	b = slices.Grow(b, c.size())
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, p := range c.proposals {
			if p.proposal != nil {
				b = encodeProposal(append(b, 1), p.proposal)
			} else {
				b = codec.AppendVec(append(b, 2), p.ref)
			}
		}
		return b
	})
	if c.path == nil {
		return append(b, 0)
	}
	return c.path.encode(append(b, 1))
}

func decodeCommit(r *codec.Reader) *commit {
	c := &commit{}
	r.Each(maxVec, func(r *codec.Reader) {
		if len(c.proposals) == maxProposals {
			tooMany(r, "proposals in a commit", maxProposals)
			return
		}
		switch kind := r.U8(); kind {
		case 1:
			c.proposals = append(c.proposals, proposalOrRef{proposal: decodeProposal(r)})
		case 2:
			c.proposals = append(c.proposals, proposalOrRef{ref: r.Vec(maxVec)})
		default:
			r.Fail("proposal or reference of type %d", kind)
		}
	})
	if present(r) {
		c.path = decodeUpdatePath(r)
	}
	return c
}

// checkTree verifies the tree of a new epoch as far as the commit changed it.
func (t *ratchetTree) checkTree(context Extensions, contextChanged bool, leaves []LeafIndex) error {
	nodes := make([]nodeIndex, 0, len(leaves))
	for _, l := range leaves {
		nodes = append(nodes, l.node())
	}
	if err := t.checkChanged(nodes); err != nil {
		return err
	}
	if contextChanged {
		leaves = nil // all
	} else if leaves == nil {
		leaves = []LeafIndex{}
	}
	return t.checkMembers(context, leaves)
}

// A transition is the way from one epoch to the next, while it is made.
type transition struct {
	from       *epoch
	list       *proposalList
	tree       *ratchetTree
	added      []LeafIndex
	changed    []LeafIndex // added, updated and the committer's
	extensions Extensions
	keys       []pathKey
	self       LeafIndex
	commit     []byte // commit secret
	hasPath    bool
}

func (e *epoch) begin(l *proposalList) (*transition, error) {
	tree, added, updated, err := e.apply(l)
	if err != nil {
		return nil, err
	}
	t := &transition{
		from: e, list: l, tree: tree, added: added, self: e.self,
		changed:    slices.Concat(added, updated),
		extensions: e.context.Extensions,
		commit:     make([]byte, e.s.nh),
	}
	if l.extensions != nil {
		t.extensions = *l.extensions
	}
	return t, nil
}

// provisional returns the context that path secrets are encrypted in
// (Section 12.4.1).
func (t *transition) provisional() GroupContext {
	c := t.from.context
	c.Epoch++
	c.TreeHash = t.tree.rootHash()
	c.Extensions = t.extensions
	return c
}

// finish runs the key schedule for content, which is signed, and returns the
// next epoch. The confirmation tag of content is set if the commit is our own and
// must be right if it is not. The key schedule that is also returned serves for
// welcomes.
func (t *transition) finish(content *authenticatedContent, own bool, initSecret []byte, psks []preSharedKey) (e *epoch, encryption, joiner []byte, ks keySchedule, err error) {
	s := t.from.s
	context := t.provisional()
	context.ConfirmedTranscriptHash = s.confirmedTranscriptHash(t.from.interim, content)
	e = &epoch{
		s: s, context: context, encoded: context.encode(nil),
		tree: t.tree, self: t.self, keys: t.keys, reinit: t.list.reinit,
	}
	joiner = s.joinerSecret(initSecret, t.commit, e.encoded)
	psk := s.pskSecret(psks)
	ks = s.keySchedule(joiner, psk)
	clear(psk)
	e.secrets, encryption = ks.epoch(e.encoded)
	e.tag = s.mac(e.secrets.confirmation, context.ConfirmedTranscriptHash)
	switch {
	case own:
		content.tag = e.tag
	case !sameTag(content.tag, e.tag):
		clear(joiner)
		clear(encryption)
		ks.wipe()
		return nil, nil, nil, ks, fmt.Errorf("%w: confirmation tag", ErrAuthentication)
	}
	e.interim = s.interimTranscriptHash(context.ConfirmedTranscriptHash, e.tag)
	return e, encryption, joiner, ks, nil
}

// LeafChange says what is to be different in one's own leaf. Nil fields stay.
type LeafChange struct {
	Credential   *Credential
	Capabilities *Capabilities
	Extensions   *Extensions
	Signer       crypto.Signer // the new signature key, which the next epoch's Config must hold
}

// apply returns leaf changed, without its signature, and who signs it.
func (c *LeafChange) apply(s *suite, leaf *LeafNode, signer crypto.Signer) (LeafNode, crypto.Signer, error) {
	l := *leaf
	l.encoded, l.Signature = nil, nil
	if c == nil {
		return l, signer, nil
	}
	if c.Credential != nil {
		l.Credential = *c.Credential
	}
	if c.Capabilities != nil {
		l.Capabilities = *c.Capabilities
	}
	if c.Extensions != nil {
		if err := c.Extensions.check(); err != nil {
			return l, nil, err
		}
		l.Extensions = *c.Extensions
	}
	if c.Signer != nil {
		key, err := s.signatureKey(c.Signer)
		if err != nil {
			return l, nil, err
		}
		l.SignatureKey, signer = key, c.Signer
	}
	return l, signer, nil
}

// CommitOptions says what a commit does. A nil *CommitOptions commits the pending
// proposals, if any, and renews the committer's keys.
type CommitOptions struct {
	// Proposals go into the commit by value: Add, Remove, PreSharedKey, ReInit
	// and GroupContextExtensions.
	Proposals []Proposal

	// OmitPending leaves out the proposals of PendingProposals. Otherwise those
	// go in that can: of several that concern one leaf a Remove, or else the
	// newest Update; none that collides with Proposals.
	OmitPending bool

	// NoPath does not renew the committer's keys. It is an error unless there is
	// a proposal and all are Add, PreSharedKey or ReInit (Section 12.4).
	NoPath bool

	// Public makes a PublicMessage, which shows the relay what changes.
	Public bool

	AuthenticatedData []byte // not encrypted; everyone who reads the commit sees that it is the committer's
	PSK               PSKs   // the keys of PreSharedKey proposals

	// Resumes is the group that this one, by its first commit, continues: if it was
	// ended by a ReInit proposal this is the group announced by that, else a
	// branch (RFC 9420, Sections 11.2 and 11.3). Its resumption key is mixed in, and
	// what the RFC demands of the new group is verified; which members it has is
	// for the caller to judge.
	Resumes *Group

	// Leaf changes the committer's leaf. It needs a path.
	Leaf *LeafChange

	// TreeOutside keeps the tree out of the welcome; Staged.RatchetTree has it.
	// That saves much where many are added at once: the committer and
	// everyone it adds hash the whole welcome for each of them.
	TreeOutside bool

	// Now, in seconds since 1970, is the time at which the lifetimes of added key
	// packages must hold. Zero checks none.
	Now uint64
}

// Commit makes a commit of this member and the welcome for whom it adds. The
// epoch stays as it is: the result leads to the next once it is merged. But
// like Encrypt it uses up a message key, and Changes must be durable before the
// commit leaves the device.
func (g *Group) Commit(o *CommitOptions) (*Staged, error) {
	if o == nil {
		o = &CommitOptions{}
	}
	st, err := g.commit(o)
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return st, nil
}

func (g *Group) commit(o *CommitOptions) (*Staged, error) {
	e, s := g.cur, g.cur.s
	if e.reinit != nil {
		return nil, ErrReInit
	}
	me := Sender{SenderMember, e.self}
	body := &commit{}
	var all []CommittedProposal
	var byValue []Proposal
	for _, p := range o.Proposals {
		switch p.(type) {
		case Add, Remove, PreSharedKey, ReInit, GroupContextExtensions:
		default:
			return nil, fmt.Errorf("%w: proposal %T by value", ErrInvalid, p)
		}
		byValue = append(byValue, withNonce(s, p))
	}
	if o.Resumes != nil {
		byValue = append(byValue, withNonce(s, PreSharedKey{o.Resumes.resumptionID()}))
	}
	if !o.OmitPending {
		for _, p := range g.committable(byValue, o) {
			body.proposals = append(body.proposals, proposalOrRef{ref: p.Ref})
			all = append(all, CommittedProposal{p.Proposal, p.Sender, true})
		}
	}
	for _, p := range byValue {
		body.proposals = append(body.proposals, proposalOrRef{proposal: p})
		all = append(all, CommittedProposal{p, me, false})
	}
	list, err := e.sortProposals(g.config, all, me)
	if err != nil {
		return nil, err
	}
	for _, a := range list.adds {
		if err := checkLifetime(a, o.Now); err != nil {
			return nil, err
		}
	}
	if o.NoPath && (list.needsPath || o.Leaf != nil) {
		return nil, fmt.Errorf("%w: no path where one is needed", ErrInvalid)
	}
	psks, err := lookupPSKs(list.psks, o.PSK, g, o.Resumes)
	if err != nil {
		return nil, err
	}
	t, err := e.begin(list)
	if err != nil {
		return nil, err
	}
	if o.Resumes != nil {
		provisional := t.provisional()
		if err := checkResumed(list.psks, &provisional, o.Resumes); err != nil {
			return nil, err
		}
	}
	t.keys = remaining(e.keys, t.tree)
	signer := g.config.Signer
	var path *newPath
	if !o.NoPath {
		template, newSigner, err := o.Leaf.apply(s, e.tree.leaf(e.self), signer)
		if err != nil {
			return nil, err
		}
		if path, err = t.tree.makePath(e.self, template, newSigner, e.context.GroupID); err != nil {
			return nil, err
		}
		defer path.wipe()
		if err := e.checkOwn(g.config, path.leaf, e.tree.leaf(e.self)); err != nil {
			return nil, err
		}
		signer = newSigner
		t.changed = append(t.changed, e.self)
		t.keys = remaining(t.keys, t.tree)
		for _, k := range path.keys {
			t.keys = withKey(t.keys, k.node, k.key)
		}
		t.commit, t.hasPath = path.commit, true
	}
	if err := t.tree.checkTree(t.extensions, list.extensions != nil, t.changed); err != nil {
		return nil, err
	}
	if path != nil {
		provisional := t.provisional()
		if body.path, err = path.seal(t.tree, provisional.encode(nil), t.added); err != nil {
			return nil, err
		}
	}
	content := &authenticatedContent{wire: wirePrivateMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: me,
		authData: o.AuthenticatedData, kind: ContentCommit,
	}}
	if o.Public {
		content.wire = wirePublicMessage
	}
	if err := content.signCommit(s, g.config.Signer, e.encoded, body); err != nil {
		return nil, err
	}
	next, encryption, joiner, ks, err := t.finish(content, true, e.secrets.init, psks)
	if err != nil {
		return nil, err
	}
	defer ks.wipe()
	defer clear(joiner)

	staged := &Staged{
		config: g.config, signer: signer, base: e.context, next: next,
		secrets:   newSecretTree(s, next.tree.leaves, encryption),
		committer: e.self, own: true, public: o.Public, path: path != nil,
		proposals: all, added: t.added, authData: bytes.Clone(o.AuthenticatedData),
	}
	if len(list.adds) > 0 {
		staged.welcome, err = next.welcome(signer, ks, joiner, list, t.added, path, !o.TreeOutside)
		if err != nil {
			return nil, err
		}
	}
	if o.Public {
		staged.message = content.publicMessage(s, e.secrets.membership, e.encoded)
		return staged, nil
	}
	staged.message, err = g.seal(content)
	return staged, err
}

// receive verifies a commit that arrived and is authentic, and stages it.
func (g *Group) receive(content *authenticatedContent, psk PSKs) (*Staged, error) {
	e, s, c := g.cur, g.cur.s, content.content.commit
	sender := content.content.sender
	all := make([]CommittedProposal, 0, len(c.proposals))
	var ownUpdate *privateKey // of an update of ours that is committed
	for _, p := range c.proposals {
		if p.proposal != nil {
			all = append(all, CommittedProposal{p.proposal, sender, false})
			continue
		}
		if sender.Type != SenderMember {
			return nil, fmt.Errorf("%w: external commit refers to a proposal", ErrInvalid)
		}
		i := slices.IndexFunc(g.pending, func(q *pendingProposal) bool { return bytes.Equal(q.ref, p.ref) })
		if i < 0 {
			return nil, ErrUnknownProposal
		}
		pending := g.pending[i]
		all = append(all, CommittedProposal{pending.content.content.proposal, pending.content.content.sender, true})
		if pending.key != nil {
			ownUpdate = pending.key
		}
	}
	list, err := e.sortProposals(g.config, all, sender)
	if err != nil {
		return nil, err
	}
	if c.path == nil && list.needsPath {
		return nil, fmt.Errorf("%w: commit without the path it needs", ErrInvalid)
	}
	staged := &Staged{
		config: g.config, signer: g.config.Signer, base: e.context,
		committer: sender.Leaf, external: sender.Type != SenderMember,
		public: content.wire == wirePublicMessage, path: c.path != nil,
		proposals: all, authData: content.content.authData,
	}
	removed := slices.Contains(list.removes, e.self)
	var psks []preSharedKey
	if !removed {
		if psks, err = lookupPSKs(list.psks, psk, g); err != nil {
			return nil, err
		}
	}
	t, err := e.begin(list)
	if err != nil {
		return nil, err
	}
	staged.added = t.added
	if c.path != nil {
		old := e.tree.leaf(sender.Leaf)
		if staged.external {
			if staged.committer, err = t.tree.blankLeaf(); err != nil {
				return nil, err
			}
			old = nil
			if len(list.removes) > 0 {
				old = e.tree.leaf(list.removes[0])
			}
		}
		if err := e.checkReplacement(g.config, c.path.leaf, SourceCommit, staged.committer, old); err != nil {
			return nil, err
		}
		t.changed = append(t.changed, staged.committer)
		t.keys = e.keys
		if ownUpdate != nil {
			t.keys = withKey(t.keys, e.self.node(), ownUpdate)
		}
		t.keys = remaining(t.keys, t.tree)
		steps, err := t.tree.mergePath(staged.committer, c.path)
		if err != nil {
			return nil, err
		}
		if err := t.tree.checkTree(t.extensions, list.extensions != nil, t.changed); err != nil {
			return nil, err
		}
		if removed {
			staged.removesSelf = true
			return staged, nil
		}
		provisional := t.provisional()
		keys, secret, err := t.tree.openPath(c.path, steps, e.self, t.keys, provisional.encode(nil), t.added)
		if err != nil {
			return nil, err
		}
		// What the path blanked without renewing it goes now.
		t.keys, t.commit, t.hasPath = remaining(keys, t.tree), secret, true
	} else {
		t.keys = remaining(e.keys, t.tree)
		if err := t.tree.checkTree(t.extensions, list.extensions != nil, t.changed); err != nil {
			return nil, err
		}
	}
	defer clear(t.commit)
	initSecret := e.secrets.init
	if list.externalInit != nil {
		if initSecret, err = s.decapsulateInit(e.secrets.external, list.externalInit); err != nil {
			return nil, err
		}
		defer clear(initSecret)
	}
	next, encryption, joiner, ks, err := t.finish(content, false, initSecret, psks)
	if err != nil {
		return nil, err
	}
	ks.wipe()
	clear(joiner)
	staged.next = next
	staged.secrets = newSecretTree(s, next.tree.leaves, encryption)
	return staged, nil
}
