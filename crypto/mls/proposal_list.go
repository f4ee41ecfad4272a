package mls

import (
	"bytes"
	"fmt"
)

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
		return c.checkContextExtensions(p.Extensions)
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
func (c *Config) checkContextExtensions(x Extensions) error {
	if err := x.check(); err != nil {
		return err
	}
	if data, ok := x.Get(ExtensionRequiredCapabilities); ok {
		if _, err := ParseRequiredCapabilities(data); err != nil {
			return err
		}
	}
	if data, ok := x.Get(ExtensionExternalSenders); ok {
		senders, err := ParseExternalSenders(data)
		if err != nil {
			return err
		}
		for _, s := range senders {
			if c.ValidateExternalSender == nil {
				break
			}
			if err := c.ValidateExternalSender(s); err != nil {
				return fmt.Errorf("%w: external sender: %w", ErrInvalid, err)
			}
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
