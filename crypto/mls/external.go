package mls

import (
	"bytes"
	"crypto"
	"fmt"

	"sotto/crypto/codec"
)

// ExternalSender may send proposals to a group from outside (RFC 9420,
// Section 12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// ExternalSendersExtension returns senders as an extension of a group's context.
// Their credentials are judged by Config.ValidateExternalSender.
func ExternalSendersExtension(senders []ExternalSender) Extension {
	return Extension{ExtensionExternalSenders, codec.AppendVecFunc(nil, func(b []byte) []byte {
		for i := range senders {
			b = senders[i].Credential.encode(codec.AppendVec(b, senders[i].SignatureKey))
		}
		return b
	})}
}

// ParseExternalSenders reads the data of such an extension; of nil, none.
func ParseExternalSenders(data []byte) (out []ExternalSender, err error) {
	if data == nil {
		return nil, nil
	}
	r := codec.NewReader(data)
	r.Each(maxVec, func(r *codec.Reader) {
		if len(out) == maxExternalSenders {
			tooMany(r, "external senders", maxExternalSenders)
			return
		}
		s := ExternalSender{SignatureKey: r.Vec(maxVec)}
		s.Credential.decode(r)
		out = append(out, s)
	})
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read external_senders: %w", err)
	}
	return out, nil
}

// ProposeExternal makes a proposal from outside: by the external sender at this
// place of the group's list, or, with an Add of one's own key package and a sender
// of -1, by who wants to become a member (RFC 9420, Section 12.1.8).
func ProposeExternal(signer crypto.Signer, s Suite, groupID []byte, epoch uint64, sender int, p Proposal) ([]byte, error) {
	suite, err := s.lookup()
	if err != nil {
		return nil, fmt.Errorf("propose from outside: %w", err)
	}
	p = withNonce(suite, p)
	from := Sender{Type: SenderNewMemberProposal}
	if sender >= 0 {
		from = Sender{SenderExternal, LeafIndex(sender)}
	}
	a := &authenticatedContent{wire: wirePublicMessage, content: framedContent{
		groupID: groupID, epoch: epoch, sender: from,
		kind: ContentProposal, body: encodeProposal(nil, p), proposal: p,
	}}
	if err := a.sign(suite, signer, nil); err != nil {
		return nil, fmt.Errorf("propose from outside: %w", err)
	}
	return a.publicMessage(suite, nil, nil), nil
}

// GroupInfo returns an MLSMessage with which others can join the current epoch by
// an external commit. It shows the group's context and, if it holds the tree, the members.
func (g *Group) GroupInfo(withTree bool) ([]byte, error) {
	e := g.cur
	if e.reinit != nil {
		return nil, fmt.Errorf("make group info: %w", ErrReInit)
	}
	key, err := e.s.deriveKey(e.secrets.external)
	if err != nil {
		return nil, fmt.Errorf("make group info: %w", err)
	}
	extensions := Extensions{{ExtensionExternalPub, codec.AppendVec(nil, key.public())}}
	if withTree {
		extensions = append(extensions, Extension{ExtensionRatchetTree, e.tree.encode(nil)})
	}
	info, err := e.groupInfo(g.config.Signer, extensions)
	if err != nil {
		return nil, fmt.Errorf("make group info: %w", err)
	}
	return info.encode(appendMessageHeader(nil, wireGroupInfo)), nil
}

// GroupInfo is what a group info says of its group. [Group.GroupInfo] makes one.
type GroupInfo struct {
	Context    GroupContext
	Extensions Extensions // of the group info itself
	Signer     LeafIndex  // the member who made it
	Roster     []Member   // nil if the tree is neither in it nor given
}

// ParseGroupInfo reads a group info, an MLSMessage, to see of which suite one's signer must
// be, who is a member, or whom to replace. ratchetTree is the tree, if the group info may
// not carry it, or nil. It verifies nothing, which [JoinExternal] does, and keeps no part
// of either.
func ParseGroupInfo(info, ratchetTree []byte) (*GroupInfo, error) {
	r, err := readMessageOf(bytes.Clone(info), wireGroupInfo)
	if err != nil {
		return nil, err
	}
	i := decodeGroupInfo(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read group info: %w", err)
	}
	out := &GroupInfo{Context: i.context, Extensions: i.extensions, Signer: i.signer}
	if encoded := i.encodedTree(ratchetTree); encoded != nil {
		tree, err := parseTree(nil, encoded)
		if err != nil {
			return nil, err
		}
		out.Roster = tree.roster()
	}
	return out, nil
}

// ExternalJoinOptions says how a device joins by itself.
type ExternalJoinOptions struct {
	Credential        Credential
	Capabilities      *Capabilities // as in KeyPackageOptions
	LeafExtensions    Extensions
	RatchetTree       []byte     // the tree, if the group info does not carry it
	Replaces          *LeafIndex // an old leaf of one's own to remove
	PreSharedKeys     []PreSharedKey
	PSK               PSKs
	AuthenticatedData []byte
}

// JoinExternal makes a commit that adds its maker to the group of a group info
// (RFC 9420, Section 12.4.3.2). The result is merged with no group, and only
// when the commit is known to have been the first of its epoch. It keeps no part of info.
func JoinExternal(c Config, info []byte, o ExternalJoinOptions) (*Staged, error) {
	s, err := joinExternal(c, info, o)
	if err != nil {
		return nil, fmt.Errorf("join by external commit: %w", err)
	}
	return s, nil
}

func joinExternal(c Config, msg []byte, o ExternalJoinOptions) (*Staged, error) {
	config, err := c.complete()
	if err != nil {
		return nil, err
	}
	r, err := readMessageOf(bytes.Clone(msg), wireGroupInfo)
	if err != nil {
		return nil, err
	}
	info := decodeGroupInfo(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read group info: %w", err)
	}
	s, err := info.context.Suite.lookup()
	if err != nil {
		return nil, err
	}
	tree, err := info.ratchetTree(s, o.RatchetTree, config)
	if err != nil {
		return nil, err
	}
	data, ok := info.extensions.Get(ExtensionExternalPub)
	if !ok {
		return nil, fmt.Errorf("%w: group info without external key", ErrInvalid)
	}
	r = codec.NewReader(data)
	externalPub := r.Vec(maxVec)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read external_pub: %w", err)
	}
	kemOutput, initSecret, err := s.encapsulateInit(externalPub)
	if err != nil {
		return nil, err
	}
	defer clear(initSecret)

	// The epoch as one sees it from outside.
	e := &epoch{s: s, context: info.context, encoded: info.context.encode(nil), tree: tree, tag: info.tag}
	e.interim = s.interimTranscriptHash(e.context.ConfirmedTranscriptHash, e.tag)
	me := Sender{Type: SenderNewMemberCommit}
	proposals := []Proposal{ExternalInit{kemOutput}}
	var old *LeafNode
	if o.Replaces != nil {
		proposals = append(proposals, Remove{*o.Replaces})
		old = tree.leaf(*o.Replaces)
	}
	for _, p := range o.PreSharedKeys {
		proposals = append(proposals, withNonce(s, p))
	}
	body := &commit{}
	var all []CommittedProposal
	for _, p := range proposals {
		body.proposals = append(body.proposals, proposalOrRef{proposal: p})
		all = append(all, CommittedProposal{p, me, false})
	}
	list, err := e.sortProposals(config, all, me)
	if err != nil {
		return nil, err
	}
	psks, err := lookupPSKs(list.psks, o.PSK)
	if err != nil {
		return nil, err
	}
	t, err := e.begin(list)
	if err != nil {
		return nil, err
	}
	if t.self, err = t.tree.blankLeaf(); err != nil {
		return nil, err
	}
	template, _, err := newLeafNode(s, KeyPackageOptions{
		Signer: c.Signer, Credential: o.Credential, Capabilities: o.Capabilities,
		LeafExtensions: o.LeafExtensions, Extensions: e.context.Extensions,
	})
	if err != nil {
		return nil, err
	}
	path, err := t.tree.makePath(t.self, *template, c.Signer, e.context.GroupID)
	if err != nil {
		return nil, err
	}
	defer path.wipe()
	if err := e.checkOwn(config, path.leaf, old); err != nil {
		return nil, err
	}
	t.changed, t.keys, t.commit, t.hasPath = []LeafIndex{t.self}, path.keys, path.commit, true
	if err := t.tree.checkTree(t.extensions, false, t.changed); err != nil {
		return nil, err
	}
	provisional := t.provisional()
	if body.path, err = path.seal(t.tree, provisional.encode(nil), nil); err != nil {
		return nil, err
	}
	content := &authenticatedContent{wire: wirePublicMessage, content: framedContent{
		groupID: e.context.GroupID, epoch: e.context.Epoch, sender: me,
		authData: bytes.Clone(o.AuthenticatedData), kind: ContentCommit,
	}}
	if err := content.signCommit(s, c.Signer, e.encoded, body); err != nil {
		return nil, err
	}
	next, encryption, joiner, ks, err := t.finish(content, true, initSecret, psks)
	if err != nil {
		return nil, err
	}
	ks.wipe()
	clear(joiner)
	return &Staged{
		config: config, signer: c.Signer, base: e.context, next: next,
		secrets:   newSecretTree(s, next.tree.leaves, encryption),
		message:   content.publicMessage(s, nil, nil),
		committer: t.self, own: true, external: true, public: true, path: true,
		proposals: all, authData: content.content.authData,
	}, nil
}
