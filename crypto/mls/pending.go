package mls

import (
	"bytes"
	"slices"
)

// A pendingProposal has arrived, or been made here, and may be committed.
type pendingProposal struct {
	content *authenticatedContent
	ref     []byte
	key     *privateKey // of one's own update
}

// addPending keeps p, once.
func (g *Group) addPending(p *pendingProposal) {
	for _, known := range g.pending {
		if bytes.Equal(known.ref, p.ref) {
			return
		}
	}
	g.pending = append(slices.Clip(g.pending), p)
	g.dirty.pending(g.cur, len(g.pending)-1)
}

// PendingProposal is a proposal that a commit may refer to.
type PendingProposal struct {
	Proposal Proposal
	Sender   Sender
	Ref      []byte
}

// PendingProposals returns the proposals received or made in this epoch, oldest
// first.
func (g *Group) PendingProposals() []PendingProposal {
	out := make([]PendingProposal, len(g.pending))
	for i, p := range g.pending {
		out[i] = PendingProposal{p.content.content.proposal, p.content.content.sender, p.ref}
	}
	return out
}

// DropProposal forgets a pending proposal that the application refuses. A commit
// that refers to it can then not be processed.
func (g *Group) DropProposal(ref []byte) {
	for i, p := range g.pending {
		if bytes.Equal(p.ref, ref) {
			for j := i; j < len(g.pending); j++ {
				g.dirty.pending(g.cur, j)
			}
			g.pending = slices.Concat(g.pending[:i], g.pending[i+1:])
			return
		}
	}
}

// maxPending bounds the pending proposals, so that a member that proposes
// without end does not fill the others' memory.
const maxPending = 1 << 10

// A selection is a list of proposals that go together (RFC 9420, Section 12.2). One
// that does not, whoever sent it, must not keep a member from committing the others.
type selection struct {
	tree       *ratchetTree
	extensions Extensions // of the next epoch
	required   *RequiredCapabilities
	changed    map[LeafIndex]bool
	keys       map[string]bool // that are in the tree, and names of pre-shared ones
	used       map[CredentialType]bool
	known      []CredentialType // to all members
}

func (e *epoch) selection() *selection {
	s := &selection{
		tree: e.tree, changed: make(map[LeafIndex]bool),
		keys: make(map[string]bool), used: make(map[CredentialType]bool),
	}
	s.setExtensions(e.context.Extensions)
	for x := nodeIndex(1); int(x) < len(e.tree.nodes); x += 2 {
		if p := e.tree.nodes[x].parent; p != nil {
			s.keys[string(p.encryptionKey)] = true
		}
	}
	e.tree.members(func(_ LeafIndex, l *LeafNode) bool {
		s.put(l)
		return true
	})
	return s
}

func (s *selection) setExtensions(x Extensions) {
	s.extensions, s.required = x, nil
	if data, ok := x.Get(ExtensionRequiredCapabilities); ok {
		if rc, err := ParseRequiredCapabilities(data); err == nil {
			s.required = &rc
		}
	}
}

// put adds a leaf.
func (s *selection) put(l *LeafNode) {
	s.keys[string(l.EncryptionKey)], s.keys[string(l.SignatureKey)] = true, true
	if len(s.used) == 0 {
		s.known = slices.Clone(l.Capabilities.Credentials)
	}
	s.used[l.Credential.Type] = true
	s.known = slices.DeleteFunc(s.known, func(t CredentialType) bool { return !slices.Contains(l.Capabilities.Credentials, t) })
}

// fits reports whether a leaf can be added.
func (s *selection) fits(l *LeafNode) bool {
	for t := range s.used {
		if !slices.Contains(l.Capabilities.Credentials, t) {
			return false
		}
	}
	return !s.keys[string(l.EncryptionKey)] && !s.keys[string(l.SignatureKey)] &&
		slices.Contains(s.known, l.Credential.Type) && l.supports(s.extensions, s.required) == nil
}

// take adds a proposal, if it goes with those taken before.
func (s *selection) take(p Proposal, sender Sender) bool {
	switch p := p.(type) {
	case Remove:
		if s.changed[p.Removed] {
			return false
		}
		s.changed[p.Removed] = true
		if l := s.tree.leaf(p.Removed); l != nil {
			delete(s.keys, string(l.EncryptionKey))
			delete(s.keys, string(l.SignatureKey))
		}
	case GroupContextExtensions:
		before := s.extensions
		s.setExtensions(p.Extensions)
		s.tree.members(func(i LeafIndex, l *LeafNode) bool {
			if !s.changed[i] && l.supports(s.extensions, s.required) != nil {
				s.setExtensions(before)
				return false
			}
			return true
		})
		return s.extensions.equal(p.Extensions)
	case Update:
		if s.changed[sender.Leaf] {
			return false
		}
		old := s.tree.leaf(sender.Leaf)
		delete(s.keys, string(old.EncryptionKey))
		delete(s.keys, string(old.SignatureKey))
		if !s.fits(p.LeafNode) {
			s.keys[string(old.EncryptionKey)], s.keys[string(old.SignatureKey)] = true, true
			return false
		}
		s.changed[sender.Leaf] = true
		s.put(p.LeafNode)
	case PreSharedKey:
		name := "psk " + string(p.ID.encode(nil))
		if s.keys[name] {
			return false
		}
		s.keys[name] = true
	case Add:
		if !s.fits(p.KeyPackage.LeafNode) {
			return false
		}
		s.put(p.KeyPackage.LeafNode)
	}
	return true
}

// committable returns the pending proposals that a commit of this member can
// carry together with those by value.
func (g *Group) committable(byValue []Proposal, o *CommitOptions) (out []PendingProposal) {
	if len(g.pending) == 0 {
		return nil
	}
	s := g.cur.selection()
	s.changed[g.cur.self] = true // its committer neither removes nor updates itself
	extensions := false
	for _, p := range byValue {
		switch p := p.(type) {
		case ReInit:
			return nil
		case GroupContextExtensions:
			s.setExtensions(p.Extensions)
			extensions = true
		default:
			s.take(p, Sender{})
		}
	}
	// Removes make room for the others, and updates and additions must fit the
	// extensions. Of one kind the newest wins.
	taken := make([]bool, len(g.pending))
	for _, kind := range []ProposalType{ProposalRemove, ProposalGroupContextExtensions, ProposalUpdate, ProposalAdd, ProposalPreSharedKey} {
		for i, p := range slices.Backward(g.pending) {
			c := &p.content.content
			if c.proposal.Type() != kind || kind == ProposalGroupContextExtensions && extensions {
				continue
			}
			if checkLifetime(c.proposal, o.Now) != nil {
				continue
			}
			if v, ok := c.proposal.(PreSharedKey); ok {
				if _, err := lookupPSKs([]PreSharedKeyID{v.ID}, o.PSK, g); err != nil {
					continue
				}
			}
			taken[i] = s.take(c.proposal, c.sender)
			extensions = extensions || kind == ProposalGroupContextExtensions && taken[i]
		}
	}
	all := g.PendingProposals()
	for i, p := range all {
		if taken[i] {
			out = append(out, p)
		}
	}
	if len(out) > 0 || len(byValue) > 0 {
		return out
	}
	// A reinitialization comes alone.
	if i := slices.IndexFunc(all, func(p PendingProposal) bool { return p.Proposal.Type() == ProposalReInit }); i >= 0 {
		return all[i : i+1]
	}
	return nil
}
