package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// ProcessOptions says what a message may need besides. A nil *ProcessOptions is
// empty.
type ProcessOptions struct {
	PSK PSKs // for commits with PreSharedKey proposals
}

// Received is what [Group.Process] found in a message.
type Received struct {
	Type              ContentType
	Epoch             uint64
	Sender            Sender
	SenderNode        *LeafNode // the sender's leaf in that epoch; nil if it had none
	AuthenticatedData []byte

	Generation uint32   // of an application message: its number among the sender's in the epoch
	Content    []byte   // of an application message
	Proposal   Proposal // of a proposal, which is pending now
	Ref        []byte   // of a proposal
	Staged     *Staged  // of a commit

	signature, context []byte // of an application message: see Signed
}

// Process reads an MLSMessage with a message of another member. It keeps no part
// of msg. An application message or a proposal changes the group, and Changes must be
// durable before the result is used; a commit leaves the group as it is and comes
// back staged. On an error the group is as it was.
//
// Among the errors, ErrOwnMessage, ErrReplayed, ErrWrongEpoch, ErrEpochForgotten
// and ErrUnknownProposal are normal where messages come late, twice or out of order.
func (g *Group) Process(msg []byte, o *ProcessOptions) (Received, error) {
	var psk PSKs
	if o != nil {
		psk = o.PSK
	}
	var out Received
	if err := g.process(&out, msg, psk); err != nil {
		return Received{}, fmt.Errorf("process message: %w", err)
	}
	return out, nil
}

func (g *Group) process(out *Received, msg []byte, psk PSKs) error {
	r, wire, err := readMessageHeader(msg)
	if err != nil {
		return err
	}
	switch wire {
	case wirePrivateMessage:
		p, err := decodePrivateMessage(&r)
		if err != nil {
			return err
		}
		return g.processPrivate(out, &p, msg, psk)
	case wirePublicMessage:
		return g.processPublic(out, bytes.Clone(msg), psk) // what is decoded stays
	}
	return fmt.Errorf("%w: wire format %d is not for a group", ErrInvalid, wire)
}

// checkEpoch refuses messages of another group, of epochs to come and, unless
// they are application messages, of past ones.
func (g *Group) checkEpoch(groupID []byte, epoch uint64, kind ContentType) error {
	cur := g.cur.context.Epoch
	switch {
	case !bytes.Equal(groupID, g.cur.context.GroupID):
		return ErrWrongGroup
	case epoch > cur, epoch < cur && kind != ContentApplication:
		return fmt.Errorf("%w: %d, now is %d", ErrWrongEpoch, epoch, cur)
	case epoch == cur && kind != ContentApplication && g.cur.reinit != nil:
		return ErrReInit
	}
	return nil
}

func (g *Group) processPrivate(out *Received, p *privateHeader, msg []byte, psk PSKs) error {
	if err := g.checkEpoch(p.groupID, p.epoch, p.kind); err != nil {
		return err
	}
	e, secrets := g.cur, &g.secrets
	if p.epoch != e.context.Epoch {
		g.past = slices.Clone(g.past) // which clones share
		past := g.pastEpoch(p.epoch)
		if past == nil {
			return fmt.Errorf("%w: %d", ErrEpochForgotten, p.epoch)
		}
		e, secrets = past.epoch, &past.secrets
	}
	w := newWorkspace()
	defer w.done()
	data, err := e.s.openSenderData(w, p, msg, e.secrets.senderData)
	if err != nil {
		return err
	}
	leaf := e.tree.leaf(data.leaf)
	if leaf == nil {
		return fmt.Errorf("%w: leaf %d", ErrNotMember, data.leaf)
	}
	kind := kindOf(p.kind)
	if data.leaf == e.self {
		return g.ownMessage(e, w, p, msg, data, kind)
	}
	opened, err := secrets.opened(data.leaf)
	if err != nil {
		return err
	}
	ratchet := opened.ratchet(data.leaf, kind)
	if ratchet == nil {
		return ErrReplayed
	}
	moved, err := ratchet.key(e.s, data.generation, &w.key, g.config.OutOfOrder, g.config.MaxForward)
	if err != nil {
		return err
	}
	var a authenticatedContent
	if err := e.s.openContent(w, p, msg, data, &a); err != nil {
		return err
	}
	if err := a.verify(e.s, leaf.SignatureKey, e.encoded); err != nil {
		return err
	}
	*out = Received{
		Type: p.kind, Epoch: p.epoch, Sender: a.content.sender, SenderNode: leaf,
		AuthenticatedData: bytes.Clone(p.authData),
	}
	if p.kind == ContentApplication {
		out.Content, out.Generation = a.content.application, data.generation
		out.signature, out.context = a.signature, e.encoded
	} else {
		kept := a // which an application message does not need to be
		kept.content.groupID, kept.content.authData = e.context.GroupID, out.AuthenticatedData
		if p.kind == ContentCommit {
			if out.Staged, err = g.receive(&kept, psk); err != nil {
				return &SenderError{out.Sender, err}
			}
			return nil
		}
		if err := g.receiveProposal(&kept, out); err != nil {
			return &SenderError{out.Sender, err}
		}
	}
	g.dirty.opened(e, secrets, data.leaf)
	g.dirty.ratchet(e, data.leaf, kind)
	opened.set(g.writer(), data.leaf, kind, moved)
	*secrets = opened
	return nil
}

// ownMessage says what is to be said of a message with this member's name on it:
// an ErrRolledBack that nobody else can provoke, or ErrOwnMessage.
func (g *Group) ownMessage(e *epoch, w *workspace, p *privateHeader, msg []byte, data senderData, kind ratchetKind) error {
	if e != g.cur {
		return ErrOwnMessage // one's own keys of past epochs are gone
	}
	opened, err := g.secrets.opened(e.self)
	if err != nil {
		return err
	}
	ratchet := opened.ratchet(e.self, kind)
	if data.generation < ratchet.generation {
		return ErrOwnMessage
	}
	if _, err := ratchet.key(e.s, data.generation, &w.key, 0, g.config.MaxForward); err != nil {
		return err
	}
	var a authenticatedContent
	if err := e.s.openContent(w, p, msg, data, &a); err != nil {
		return err
	}
	if err := a.verify(e.s, e.tree.leaf(e.self).SignatureKey, e.encoded); err != nil {
		return err
	}
	return fmt.Errorf("%w: generation %d, the next would be %d", ErrRolledBack, data.generation, ratchet.generation)
}

// receiveProposal verifies a proposal that is authentic and keeps it.
func (g *Group) receiveProposal(a *authenticatedContent, out *Received) error {
	if len(g.pending) >= maxPending {
		return fmt.Errorf("%w: more than %d pending proposals", ErrInvalid, maxPending)
	}
	if _, ok := a.content.proposal.(ExternalInit); ok {
		return fmt.Errorf("%w: external init as a proposal", ErrInvalid)
	}
	if err := g.cur.checkProposal(g.config, a.content.proposal, a.content.sender); err != nil {
		return err
	}
	out.Proposal, out.Ref = a.content.proposal, a.proposalRef(g.cur.s)
	g.addPending(&pendingProposal{content: a, ref: out.Ref})
	return nil
}

func (g *Group) processPublic(out *Received, msg []byte, psk PSKs) error {
	a, membershipTag, err := decodePublicMessage(msg)
	if err != nil {
		return err
	}
	e, f := g.cur, &a.content
	if f.kind == ContentApplication {
		return fmt.Errorf("%w: application message that is not encrypted", ErrInvalid)
	}
	if err := g.checkEpoch(f.groupID, f.epoch, f.kind); err != nil {
		return err
	}
	*out = Received{Type: f.kind, Epoch: f.epoch, Sender: f.sender, AuthenticatedData: f.authData}
	key, err := g.signatureKeyOf(f)
	if err != nil {
		return err
	}
	if f.sender.Type == SenderMember {
		out.SenderNode = e.tree.leaf(f.sender.Leaf)
		if !sameTag(membershipTag, a.membershipTag(e.s, e.secrets.membership, e.encoded)) {
			return fmt.Errorf("%w: membership tag", ErrAuthentication)
		}
	}
	if err := a.verify(e.s, key, e.encoded); err != nil {
		return err
	}
	if f.sender == (Sender{SenderMember, e.self}) {
		return ErrOwnMessage
	}
	if f.kind == ContentProposal {
		err = g.receiveProposal(a, out)
	} else {
		out.Staged, err = g.receive(a, psk)
	}
	if err != nil {
		return &SenderError{out.Sender, err}
	}
	return nil
}

// signatureKeyOf returns the key that signs for the sender of f (Section 6.1).
func (g *Group) signatureKeyOf(f *framedContent) ([]byte, error) {
	switch f.sender.Type {
	case SenderMember:
		leaf := g.cur.tree.leaf(f.sender.Leaf)
		if leaf == nil {
			return nil, fmt.Errorf("%w: leaf %d", ErrNotMember, f.sender.Leaf)
		}
		return leaf.SignatureKey, nil
	case SenderExternal:
		if f.kind != ContentProposal {
			return nil, fmt.Errorf("%w: commit of an external sender", ErrInvalid)
		}
		data, _ := g.cur.context.Extensions.Get(ExtensionExternalSenders)
		senders, err := ParseExternalSenders(data)
		if err != nil {
			return nil, err
		}
		if int64(f.sender.Leaf) >= int64(len(senders)) {
			return nil, fmt.Errorf("%w: external sender %d", ErrNotMember, f.sender.Leaf)
		}
		return senders[f.sender.Leaf].SignatureKey, nil
	case SenderNewMemberProposal:
		add, ok := f.proposal.(Add)
		if !ok {
			return nil, fmt.Errorf("%w: new member sends something else than an Add", ErrInvalid)
		}
		return add.KeyPackage.LeafNode.SignatureKey, nil
	case SenderNewMemberCommit:
		if f.kind != ContentCommit || f.commit.path == nil {
			return nil, fmt.Errorf("%w: new member sends something else than a commit with a path", ErrInvalid)
		}
		return f.commit.path.leaf.SignatureKey, nil
	}
	return nil, errors.New("mls: unreachable sender type")
}
