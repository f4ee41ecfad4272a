package mls

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// updatePath is UpdatePath of RFC 9420, Section 7.6.
type updatePath struct {
	leaf  *LeafNode
	nodes []updatePathNode
}

type updatePathNode struct {
	key     []byte
	secrets []hpkeCiphertext // the path secret, for each node of a resolution
}

func (p *updatePath) encode(b []byte) []byte {
	b = p.leaf.encode(b)
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range p.nodes {
			b = codec.AppendVec(b, p.nodes[i].key)
			b = codec.AppendVecFunc(b, func(b []byte) []byte {
				for j := range p.nodes[i].secrets {
					b = p.nodes[i].secrets[j].encode(b)
				}
				return b
			})
		}
		return b
	})
}

func decodeUpdatePath(r *codec.Reader) *updatePath {
	p := &updatePath{leaf: decodeLeafNode(r)}
	r.Each(maxVec, func(r *codec.Reader) {
		if leafCount(1)<<len(p.nodes) >= maxLeaves {
			tooMany(r, "nodes of a path", len(p.nodes))
			return
		}
		n := updatePathNode{key: r.Vec(maxVec)}
		r.Each(maxVec, func(r *codec.Reader) { n.secrets = append(n.secrets, decodeHPKECiphertext(r)) })
		p.nodes = append(p.nodes, n)
	})
	return p
}

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

func (c *commit) encode(b []byte) []byte {
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

// CommittedProposal is a proposal in a commit.
type CommittedProposal struct {
	Proposal    Proposal
	Sender      Sender
	ByReference bool
}

// A proposalList is what a commit changes, checked and sorted by kind.
type proposalList struct {
	adds         []Add
	updates      []CommittedProposal
	removes      []LeafIndex
	psks         []PreSharedKeyID
	extensions   *Extensions // nil if they stay
	reinit       *ReInit
	externalInit []byte
	needsPath    bool
}

// checkProposal verifies what makes a proposal invalid by itself (Section 12.1),
// in epoch e and from this sender.
func (e *epoch) checkProposal(c *Config, p Proposal, sender Sender) error {
	switch sender.Type {
	case SenderExternal:
		switch p.(type) {
		case Add, Remove, PreSharedKey, ReInit, GroupContextExtensions:
		default:
			return fmt.Errorf("%w: external sender proposes type %d", ErrInvalid, p.Type())
		}
	case SenderNewMemberProposal:
		if _, ok := p.(Add); !ok {
			return fmt.Errorf("%w: new member proposes type %d", ErrInvalid, p.Type())
		}
	}
	switch p := p.(type) {
	case Add:
		if err := p.KeyPackage.verify(e.s); err != nil {
			return err
		}
		if err := c.ValidateCredential(p.KeyPackage.LeafNode, nil); err != nil {
			return fmt.Errorf("%w: credential: %w", ErrInvalid, err)
		}
	case Update:
		if sender.Type != SenderMember {
			return fmt.Errorf("%w: update of a sender that is no member", ErrInvalid)
		}
		return e.checkReplacement(c, p.LeafNode, SourceUpdate, sender.Leaf, e.tree.leaf(sender.Leaf))
	case Remove:
		if e.tree.leaf(p.Removed) == nil {
			return fmt.Errorf("%w: removal of leaf %d: %w", ErrInvalid, p.Removed, ErrNotMember)
		}
	case PreSharedKey:
		if len(p.ID.Nonce) != e.s.nh {
			return fmt.Errorf("%w: nonce of a pre-shared key of %d bytes", ErrInvalid, len(p.ID.Nonce))
		}
		// Others belong into the first commit of a new group (CommitOptions.Resumes),
		// which nobody but its creator sees.
		if p.ID.Type == PSKResumption && p.ID.Usage != ResumptionApplication &&
			(e.context.Epoch != 0 || sender != Sender{SenderMember, e.self}) {
			return fmt.Errorf("%w: resumption key of usage %d", ErrInvalid, p.ID.Usage)
		}
	case ReInit:
		if p.Version < version {
			return fmt.Errorf("%w: reinitialization with version %d", ErrInvalid, p.Version)
		}
		return p.Extensions.check()
	case GroupContextExtensions:
		return checkContextExtensions(p.Extensions)
	}
	return nil
}

// checkReplacement verifies a leaf that is to replace old at place l; old is nil
// for a new member's.
func (e *epoch) checkReplacement(c *Config, leaf *LeafNode, source LeafNodeSource, l LeafIndex, old *LeafNode) error {
	if err := leaf.validate(e.s, source, e.context.GroupID, l); err != nil {
		return err
	}
	return e.checkSuccessor(c, leaf, old)
}

// checkOwn is checkReplacement for a leaf that was made and signed here.
func (e *epoch) checkOwn(c *Config, leaf, old *LeafNode) error {
	if err := leaf.checkListed(e.s); err != nil {
		return err
	}
	return e.checkSuccessor(c, leaf, old)
}

func (e *epoch) checkSuccessor(c *Config, leaf, old *LeafNode) error {
	if old != nil && bytes.Equal(leaf.EncryptionKey, old.EncryptionKey) {
		return fmt.Errorf("%w: leaf node with the encryption key of the old one", ErrInvalid)
	}
	if err := c.ValidateCredential(leaf, old); err != nil {
		return fmt.Errorf("%w: credential: %w", ErrInvalid, err)
	}
	return nil
}

// checkContextExtensions verifies extensions that this package understands.
func checkContextExtensions(x Extensions) error {
	if err := x.check(); err != nil {
		return err
	}
	if data, ok := x.Get(ExtensionRequiredCapabilities); ok {
		if _, err := ParseRequiredCapabilities(data); err != nil {
			return err
		}
	}
	if data, ok := x.Get(ExtensionExternalSenders); ok {
		if _, err := ParseExternalSenders(data); err != nil {
			return err
		}
	}
	return nil
}

// checkLifetime verifies that an Add that one sends oneself is of now (Section 7.3).
func checkLifetime(p Proposal, now uint64) error {
	if a, ok := p.(Add); ok && now != 0 && !a.KeyPackage.LeafNode.Lifetime.Contains(now) {
		return fmt.Errorf("%w: key package outside its lifetime", ErrInvalid)
	}
	return nil
}

// maxProposals bounds the proposals of one commit.
const maxProposals = 1 << 14

// sortProposals verifies the list of a commit's proposals (Section 12.2).
func (e *epoch) sortProposals(c *Config, proposals []CommittedProposal, committer Sender) (*proposalList, error) {
	if len(proposals) > maxProposals {
		return nil, fmt.Errorf("%w: %d proposals in a commit", ErrUnsupported, len(proposals))
	}
	// A stranger can make an external commit: its shape comes before its parts.
	if committer.Type != SenderMember {
		if err := checkExternal(proposals); err != nil {
			return nil, err
		}
	}
	err := parallel(len(proposals), func(i int) error {
		if proposals[i].ByReference {
			return nil // checked when it became a pending one
		}
		return e.checkProposal(c, proposals[i].Proposal, proposals[i].Sender)
	})
	if err != nil {
		return nil, err
	}
	l := &proposalList{needsPath: len(proposals) == 0}
	leaves := make(map[LeafIndex]bool)
	psks := make(map[string]bool)
	for _, p := range proposals {
		l.needsPath = l.needsPath || p.Proposal.Type().needsPath()
		switch v := p.Proposal.(type) {
		case Add:
			l.adds = append(l.adds, v)
		case Update:
			if p.Sender == committer {
				return nil, fmt.Errorf("%w: committer's own update", ErrInvalid)
			}
			if leaves[p.Sender.Leaf] {
				return nil, fmt.Errorf("%w: leaf %d is changed twice", ErrInvalid, p.Sender.Leaf)
			}
			leaves[p.Sender.Leaf] = true
			l.updates = append(l.updates, p)
		case Remove:
			if committer.Type == SenderMember && v.Removed == committer.Leaf {
				return nil, fmt.Errorf("%w: committer removes itself", ErrInvalid)
			}
			if leaves[v.Removed] {
				return nil, fmt.Errorf("%w: leaf %d is changed twice", ErrInvalid, v.Removed)
			}
			leaves[v.Removed] = true
			l.removes = append(l.removes, v.Removed)
		case PreSharedKey:
			name := string(v.ID.encode(nil))
			if psks[name] {
				return nil, fmt.Errorf("%w: pre-shared key used twice", ErrInvalid)
			}
			psks[name] = true
			l.psks = append(l.psks, v.ID)
		case GroupContextExtensions:
			if l.extensions != nil {
				return nil, fmt.Errorf("%w: the group's extensions are changed twice", ErrInvalid)
			}
			l.extensions = &v.Extensions
		case ReInit:
			if len(proposals) > 1 {
				return nil, fmt.Errorf("%w: reinitialization with other proposals", ErrInvalid)
			}
			l.reinit = &v
		case ExternalInit:
			if committer.Type == SenderMember {
				return nil, fmt.Errorf("%w: external init of a member", ErrInvalid)
			}
			l.externalInit = append([]byte{}, v.KEMOutput...)
		}
	}
	return l, nil
}

// checkExternal verifies of what types the proposals of an external commit are
// (Section 12.2).
func checkExternal(proposals []CommittedProposal) error {
	inits, removes := 0, 0
	for _, p := range proposals {
		switch p.Proposal.(type) {
		case ExternalInit:
			inits++
		case Remove:
			removes++
		case PreSharedKey:
		default:
			return fmt.Errorf("%w: external commit of proposal type %d", ErrInvalid, p.Proposal.Type())
		}
	}
	if inits != 1 || removes > 1 {
		return fmt.Errorf("%w: external commit of %d external inits and %d removals", ErrInvalid, inits, removes)
	}
	return nil
}

// apply returns the tree after the proposals (Section 12.3) and the leaves that
// they added and updated.
func (e *epoch) apply(l *proposalList) (t *ratchetTree, added, updated []LeafIndex, err error) {
	t = e.tree.clone()
	for _, p := range l.updates {
		t.update(p.Sender.Leaf, p.Proposal.(Update).LeafNode)
		updated = append(updated, p.Sender.Leaf)
	}
	for _, r := range l.removes {
		t.remove(r)
	}
	if len(l.removes) > 0 {
		t.truncate()
	}
	for _, a := range l.adds {
		i, err := t.add(a.KeyPackage.LeafNode)
		if err != nil {
			return nil, nil, nil, err
		}
		added = append(added, i)
	}
	return t, added, updated, nil
}

// A pathKey is the private key of a tree node of one's own.
type pathKey struct {
	node nodeIndex
	key  *privateKey
}

// keyOf returns the private key of node x, or nil.
func keyOf(keys []pathKey, x nodeIndex) *privateKey {
	for i := range keys {
		if keys[i].node == x {
			return keys[i].key
		}
	}
	return nil
}

// remaining returns the keys whose nodes are not blank in t.
func remaining(keys []pathKey, t *ratchetTree) []pathKey {
	return slices.DeleteFunc(slices.Clone(keys), func(k pathKey) bool {
		return int(k.node) >= len(t.nodes) || t.nodes[k.node].blank()
	})
}

// withKey returns keys with one set, keeping the slice that was given.
func withKey(keys []pathKey, x nodeIndex, k *privateKey) []pathKey {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k pathKey) bool { return k.node == x })
	return append(keys, pathKey{x, k})
}

// A newPath is an update path of one's own in the making.
type newPath struct {
	steps   []pathStep
	secrets [][]byte // of the steps
	commit  []byte   // commit secret
	keys    []pathKey
	leaf    *LeafNode
}

// makePath renews the leaf l and its path in t (Section 7.5). template is the
// leaf without keys and signature.
func (t *ratchetTree) makePath(l LeafIndex, template LeafNode, signer crypto.Signer, groupID []byte) (*newPath, error) {
	s := t.s
	leafKey, err := s.generateKey()
	if err != nil {
		return nil, err
	}
	p := &newPath{steps: t.filteredDirectPath(l), keys: []pathKey{{l.node(), leafKey}}}
	secret := make([]byte, s.nh)
	rand.Read(secret)
	publics := make([][]byte, len(p.steps))
	for i := range p.steps {
		p.secrets = append(p.secrets, secret)
		key, err := s.pathNodeKey(secret)
		if err != nil {
			return nil, err
		}
		publics[i] = key.public()
		p.keys = append(p.keys, pathKey{p.steps[i].node, key})
		secret = s.deriveSecret(secret, "path")
	}
	p.commit = secret
	leaf := template
	leaf.EncryptionKey = leafKey.public()
	leaf.Source = SourceCommit
	leaf.Lifetime = Lifetime{}
	leaf.ParentHash = t.setPath(l, p.steps, publics)
	if err := leaf.sign(s, signer, groupID, l); err != nil {
		return nil, err
	}
	t.setLeaf(l, &leaf)
	p.leaf = &leaf
	return p, nil
}

// pathNodeKey derives the key pair of a node from its path secret.
func (s *suite) pathNodeKey(pathSecret []byte) (*privateKey, error) {
	node := s.deriveSecret(pathSecret, "node")
	defer clear(node)
	return s.deriveKey(node)
}

// seal encrypts the path secrets to all other members but those added.
func (p *newPath) seal(t *ratchetTree, context []byte, added []LeafIndex) (*updatePath, error) {
	out := &updatePath{leaf: p.leaf, nodes: make([]updatePathNode, len(p.steps))}
	type job struct {
		step, place int
		to          nodeIndex
	}
	var jobs []job
	for i, step := range p.steps {
		to := t.resolution(nil, step.copath, added)
		out.nodes[i] = updatePathNode{t.nodes[step.node].parent.encryptionKey, make([]hpkeCiphertext, len(to))}
		for j, x := range to {
			jobs = append(jobs, job{i, j, x})
		}
	}
	context = encryptContext("UpdatePathNode", context)
	return out, parallel(len(jobs), func(i int) (err error) {
		j := jobs[i]
		out.nodes[j.step].secrets[j.place], err = t.s.encrypt(t.nodes[j.to].encryptionKey(), context, p.secrets[j.step])
		return err
	})
}

func (p *newPath) wipe() {
	for _, s := range p.secrets {
		clear(s)
	}
	clear(p.commit)
}

// mergePath puts a path that arrived into t (Section 7.5), the leaf at l.
func (t *ratchetTree) mergePath(l LeafIndex, p *updatePath) ([]pathStep, error) {
	steps := t.filteredDirectPath(l)
	if len(steps) != len(p.nodes) {
		return nil, fmt.Errorf("%w: path of %d nodes where %d belong", ErrInvalid, len(p.nodes), len(steps))
	}
	keys := make([][]byte, len(p.nodes), len(p.nodes)+1)
	for i := range p.nodes {
		keys[i] = p.nodes[i].key
	}
	var fresh [256][][]byte // by their marks
	for _, key := range append(keys, p.leaf.EncryptionKey) {
		m := mark(key)
		if slices.ContainsFunc(fresh[m], func(k []byte) bool { return bytes.Equal(k, key) }) {
			return nil, fmt.Errorf("%w: one key twice in a path", ErrInvalid)
		}
		fresh[m] = append(fresh[m], key)
	}
	for i := range t.nodes {
		if t.nodes[i].blank() {
			continue
		}
		key := t.nodes[i].encryptionKey()
		for _, k := range fresh[mark(key)] {
			if bytes.Equal(k, key) {
				return nil, fmt.Errorf("%w: path with a key that is in the tree already", ErrInvalid)
			}
		}
	}
	parentHash := t.setPath(l, steps, keys)
	if !bytes.Equal(parentHash, p.leaf.ParentHash) {
		return nil, fmt.Errorf("%w: parent hash of the committer's leaf", ErrInvalid)
	}
	t.setLeaf(l, p.leaf)
	return steps, nil
}

// openPath decrypts the path secret for self and derives what follows from it.
// It returns own keys with the new ones among them and the commit secret.
func (t *ratchetTree) openPath(p *updatePath, steps []pathStep, self LeafIndex, keys []pathKey, context []byte, added []LeafIndex) ([]pathKey, []byte, error) {
	at := slices.IndexFunc(steps, func(s pathStep) bool { return s.copath.contains(self.node()) })
	if at < 0 {
		return nil, nil, fmt.Errorf("%w: path that passes this member by", ErrInvalid)
	}
	for i := range steps {
		if want := len(t.resolution(nil, steps[i].copath, added)); len(p.nodes[i].secrets) != want {
			return nil, nil, fmt.Errorf("%w: path secret for %d nodes instead of %d", ErrInvalid, len(p.nodes[i].secrets), want)
		}
	}
	for i := range at { // the others are compared with what is derived
		if err := t.s.checkPublicKey(p.nodes[i].key); err != nil {
			return nil, nil, fmt.Errorf("%w: path: %w", ErrInvalid, err)
		}
	}
	for j, x := range t.resolution(nil, steps[at].copath, added) {
		key := keyOf(keys, x)
		if key == nil {
			continue
		}
		secret, err := t.s.decryptWithLabel(key, "UpdatePathNode", context, p.nodes[at].secrets[j])
		if err != nil {
			return nil, nil, err
		}
		return t.followPath(secret, steps[at:], keys)
	}
	return nil, nil, fmt.Errorf("%w: path that this member holds no key for", ErrInvalid)
}

// followPath derives the keys of steps, from the path secret of the first.
func (t *ratchetTree) followPath(secret []byte, steps []pathStep, keys []pathKey) ([]pathKey, []byte, error) {
	if len(secret) != t.s.nh {
		return nil, nil, fmt.Errorf("%w: path secret of %d bytes", ErrInvalid, len(secret))
	}
	for _, step := range steps {
		key, err := t.s.pathNodeKey(secret)
		if err != nil {
			return nil, nil, err
		}
		if p := t.nodes[step.node].parent; p == nil || !bytes.Equal(key.public(), p.encryptionKey) {
			return nil, nil, fmt.Errorf("%w: path secret that does not fit its public key", ErrInvalid)
		}
		keys = withKey(keys, step.node, key)
		next := t.s.deriveSecret(secret, "path")
		clear(secret)
		secret = next
	}
	return keys, secret, nil
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

	AuthenticatedData []byte
	PSK               PSKs

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
		for _, p := range g.committable(byValue, o.PSK) {
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
		authData: o.AuthenticatedData, kind: ContentCommit, body: body.encode(nil),
	}}
	if o.Public {
		content.wire = wirePublicMessage
	}
	if err := content.sign(s, g.config.Signer, e.encoded); err != nil {
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

// lookupPSKs finds pre-shared keys, those of the epochs of groups at hand first.
func lookupPSKs(ids []PreSharedKeyID, psk PSKs, groups ...*Group) (out []preSharedKey, err error) {
	for _, id := range ids {
		var secret []byte
		for _, g := range groups {
			if g != nil && secret == nil && id.Type == PSKResumption && bytes.Equal(id.GroupID, g.cur.context.GroupID) {
				secret = g.resumption(id.Epoch)
			}
		}
		if secret == nil && psk != nil {
			if secret, err = psk(id); err != nil {
				if !errors.Is(err, ErrMissingPSK) {
					err = fmt.Errorf("%w: %w", ErrMissingPSK, err)
				}
				return nil, err
			}
		}
		if secret == nil {
			return nil, ErrMissingPSK
		}
		out = append(out, preSharedKey{id, secret})
	}
	return out, nil
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
