package mls

import (
	"bytes"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"sotto/crypto/codec"
)

// Staged is the epoch to which a commit would lead. Nothing shows in the group
// before [Staged.Merge]; who drops it has changed nothing. It prints without its
// secrets.
type Staged struct {
	config  *Config
	signer  crypto.Signer // of the new epoch
	base    GroupContext
	next    *epoch // nil if the commit removes this member
	secrets secretTree

	message, welcome []byte
	committer        LeafIndex
	own              bool
	external         bool
	public           bool
	path             bool
	removesSelf      bool
	proposals        []CommittedProposal
	added            []LeafIndex
	authData         []byte
}

// Message returns one's own commit, an MLSMessage; nil for a commit of another.
func (s *Staged) Message() []byte { return s.message }

// Welcome returns the MLSMessage for those whom one's own commit adds, or nil. It
// must not be delivered before the commit is known to have been the first.
func (s *Staged) Welcome() []byte { return s.welcome }

// RatchetTree returns the tree of the new epoch, for who joins by a welcome or
// group info without it.
func (s *Staged) RatchetTree() []byte {
	if s.next == nil {
		return nil
	}
	return s.next.tree.encode(nil)
}

// Proposals returns what the commit changes, in its order.
func (s *Staged) Proposals() []CommittedProposal { return s.proposals }

// Committer returns the place of the committer in the tree: in the old and the new
// one, or in the new one alone if External.
func (s *Staged) Committer() LeafIndex { return s.committer }

// External reports whether the committer adds itself (RFC 9420, Section 12.4.3.2).
func (s *Staged) External() bool { return s.external }

// Own reports whether the commit is this member's.
func (s *Staged) Own() bool { return s.own }

// Public reports whether the commit is a PublicMessage.
func (s *Staged) Public() bool { return s.public }

// HasPath reports whether the commit renews its committer's keys.
func (s *Staged) HasPath() bool { return s.path }

// AuthenticatedData returns what the committer authenticated beside the commit.
func (s *Staged) AuthenticatedData() []byte { return s.authData }

// Added returns the places of new members, in the order of their Add proposals.
func (s *Staged) Added() []LeafIndex { return s.added }

// RemovesSelf reports whether the commit removes this member. Then there is no new
// epoch to look into: Merge and Export return ErrRemoved, and the other methods about
// it nothing.
func (s *Staged) RemovesSelf() bool { return s.removesSelf }

// OldContext returns the context of the epoch that the commit is from.
func (s *Staged) OldContext() GroupContext { return s.base }

// Context returns the context of the new epoch.
func (s *Staged) Context() GroupContext {
	if s.next == nil {
		return GroupContext{}
	}
	return s.next.context
}

// Epoch returns the number of the new epoch.
func (s *Staged) Epoch() uint64 { return s.base.Epoch + 1 }

// Roster returns the members of the new epoch.
func (s *Staged) Roster() []Member {
	if s.next == nil {
		return nil
	}
	return s.next.tree.roster()
}

// Member returns the member at leaf in the new epoch.
func (s *Staged) Member(leaf LeafIndex) (*LeafNode, bool) {
	if s.next == nil {
		return nil, false
	}
	l := s.next.tree.leaf(leaf)
	return l, l != nil
}

// EpochAuthenticator is [Group.EpochAuthenticator] of the new epoch.
func (s *Staged) EpochAuthenticator() []byte {
	if s.next == nil {
		return nil
	}
	return bytes.Clone(s.next.secrets.authenticator)
}

// Export is [Group.Export] of the new epoch.
func (s *Staged) Export(label string, context []byte, length int) ([]byte, error) {
	if s.next == nil {
		return nil, fmt.Errorf("export %q: %w", label, ErrRemoved)
	}
	return s.next.s.export(s.next.secrets.exporter, label, context, length)
}

// Merge returns the group in the new epoch. g is the group that Commit or Process
// was called on, or a later state of it in the same epoch: messages may have
// been sent and read meanwhile. It is left as it is, and the caller drops it once
// Changes of the new group is durable. For what [JoinExternal] staged g is nil.
//
// It returns ErrStale if g is in another epoch, and ErrRemoved if the commit
// removes this member: then the group's records are to be deleted, at the latest
// when late messages are no longer expected.
func (s *Staged) Merge(g *Group) (*Group, error) {
	if s.removesSelf {
		return nil, fmt.Errorf("merge commit: %w", ErrRemoved)
	}
	config := *s.config
	config.Signer = s.signer
	if s.own && s.external {
		if g != nil {
			return nil, fmt.Errorf("merge commit: %w", ErrStale)
		}
		return begun(&config, s.next, s.secrets), nil
	}
	if g == nil || !bytes.Equal(s.base.encode(nil), g.cur.encoded) {
		return nil, fmt.Errorf("merge commit: %w", ErrStale)
	}
	next := &Group{config: &config, cur: s.next, secrets: s.secrets, dirty: g.dirty.clone()}
	for i := range g.pending {
		next.dirty.pending(g.cur, i)
	}
	old := pastEpoch{g.cur.over(), g.secrets.receiving(g.cur.self), g.cur.tree.changedLeaves(s.next.tree)}
	next.dirty.epochEnds(g.cur, &g.secrets)
	next.past = slices.Insert(slices.Clone(g.past), 0, old)
	for len(next.past) > config.PastEpochs {
		last := len(next.past) - 1
		next.dirty.epochForgotten(&next.past[last])
		next.past = next.past[:last]
	}
	next.dirty.epochBegins(s.next, &s.secrets)
	next.dirty.tree(g.cur.tree, s.next.tree)
	return next, nil
}

func (s *Staged) String() string {
	if s == nil || s.config == nil {
		return "no commit"
	}
	return fmt.Sprintf("commit in group %x epoch %d", shortID(s.base.GroupID), s.base.Epoch)
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s *Staged) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s *Staged) LogValue() slog.Value { return slog.StringValue(s.String()) }

const stagedVersion = 1

// The flags of a stored Staged.
const (
	stagedOwn = 1 << iota
	stagedExternal
	stagedPublic
	stagedPath
	stagedRemovesSelf
	stagedUnknown // the first that has no meaning
)

// Marshal returns s with its secrets, for [ParseStaged].
func (s *Staged) Marshal() []byte {
	var flags uint8
	for i, set := range []bool{s.own, s.external, s.public, s.path, s.removesSelf} {
		if set {
			flags |= 1 << i
		}
	}
	b := codec.AppendU8(nil, stagedVersion)
	b = codec.AppendU8(b, flags)
	b = s.base.encode(b)
	b = codec.AppendU32(b, uint32(s.committer))
	b = codec.AppendVec(b, s.message)
	b = codec.AppendVec(b, s.welcome)
	b = codec.AppendVec(b, s.authData)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, p := range s.proposals {
			var ref uint8
			if p.ByReference {
				ref = 1
			}
			b = encodeProposal(codec.AppendU8(p.Sender.encode(b), ref), p.Proposal)
		}
		return b
	})
	b = codec.AppendVarint(b, 4*len(s.added))
	for _, l := range s.added {
		b = codec.AppendU32(b, uint32(l))
	}
	if s.removesSelf {
		return b
	}
	b = s.next.encodePublic(b)
	b = s.next.tree.encode(b)
	b = s.next.encodeReceiving(b)
	b = s.next.encodeSecret(b)
	return codec.AppendVec(b, s.secrets.subtrees[0].secret)
}

// ParseStaged reads what Marshal wrote. If the commit changed this member's
// signature key, c holds the new one. It keeps no part of b.
func ParseStaged(c Config, b []byte) (*Staged, error) {
	s, err := parseStaged(c, bytes.Clone(b))
	if err != nil {
		return nil, fmt.Errorf("read staged commit: %w", err)
	}
	return s, nil
}

func parseStaged(c Config, b []byte) (*Staged, error) {
	config, err := c.complete()
	if err != nil {
		return nil, err
	}
	r := codec.NewReader(b)
	if v := r.U8(); v != stagedVersion {
		return nil, fmt.Errorf("%w: version %d", ErrCorrupt, v)
	}
	flags := r.U8()
	if flags >= stagedUnknown {
		return nil, fmt.Errorf("%w: flags %#x", ErrCorrupt, flags)
	}
	s := &Staged{
		config: config, signer: c.Signer,
		own: flags&stagedOwn != 0, external: flags&stagedExternal != 0, public: flags&stagedPublic != 0,
		path: flags&stagedPath != 0, removesSelf: flags&stagedRemovesSelf != 0,
	}
	s.base = decodeGroupContext(r)
	s.committer = LeafIndex(r.U32())
	s.message, s.welcome, s.authData = orNil(r.Vec(codec.MaxVec)), orNil(r.Vec(codec.MaxVec)), r.Vec(maxVec)
	r.Each(codec.MaxVec, func(r *codec.Reader) {
		var p CommittedProposal
		p.Sender.decode(r)
		p.ByReference = present(r)
		p.Proposal = decodeProposal(r)
		s.proposals = append(s.proposals, p)
	})
	r.Each(maxVec, func(r *codec.Reader) { s.added = append(s.added, LeafIndex(r.U32())) })
	if s.removesSelf {
		return s, corrupt(r.Done())
	}
	suite, err := s.base.Suite.lookup()
	if err != nil && r.Err() == nil {
		return nil, err
	}
	if r.Err() != nil {
		return nil, corrupt(r.Err())
	}
	s.next = &epoch{s: suite, secrets: &epochSecrets{}}
	s.next.decodePublic(r)
	s.next.tree = decodeTree(suite, r)
	s.next.decodeReceiving(r)
	s.next.decodeSecret(r)
	encryption := r.Vec(maxVec)
	if err := r.Done(); err != nil {
		return nil, corrupt(err)
	}
	if c := &s.next.context; c.Suite != s.base.Suite || c.Epoch != s.base.Epoch+1 || !bytes.Equal(c.GroupID, s.base.GroupID) ||
		len(encryption) != suite.nh {
		return nil, fmt.Errorf("%w: an epoch that does not follow its base", ErrCorrupt)
	}
	s.secrets = newSecretTree(suite, s.next.tree.leaves, encryption)
	return s, s.next.checkStored(c.Signer)
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// corrupt makes err, unless it is nil, one about stored state.
func corrupt(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
