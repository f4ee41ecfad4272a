package conversation

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/relay/mailbox"
)

// The extensions of spec/group.md.
const (
	ExtensionGroup      uint16 = 0xf051 // of the group context: GroupInfo
	ExtensionKeyPackage uint16 = 0xf052 // of a key package: KeyPackageFlags
	ExtensionInbox      uint16 = 0xf053 // of a leaf: identity.InboxRef
)

// ErrMalformed is wrapped by the errors about an extension's bytes.
var ErrMalformed = errors.New("malformed group extension")

// GroupKind says what a conversation is for.
type GroupKind uint8

const (
	Direct     GroupKind = 1 // between two accounts
	ManyPeople GroupKind = 2
	Self       GroupKind = 3 // among one's own devices
)

// Role is what an account is in a group. More include less.
type Role uint8

const (
	Member Role = 1
	Admin  Role = 2
	Owner  Role = 3
)

// Rights is a set of things a role may do.
type Rights uint32

const (
	MayAdd Rights = 1 << iota
	MayRemove
	MayRename
	MayChangeRelays
	MayChangeRoles
	MayChangeRetention
	MayWrite

	allRights = MayWrite<<1 - 1
)

// RightNames are the names of rights, as people write them.
var RightNames = map[Rights]string{MayAdd: "add", MayRemove: "remove", MayRename: "rename", MayChangeRelays: "relays", MayChangeRoles: "roles",
	MayChangeRetention: "retention", MayWrite: "write"}

// MailboxRef says where a group's mailbox is.
type MailboxRef struct {
	Relay     []byte // a RelayAddress of spec/relay.md, opaque here; at most 600 bytes
	Mailbox   mailbox.ID
	BaseEpoch uint64 // the epoch of the mailbox's generation 0
}

// RoleEntry gives an account its role.
type RoleEntry struct {
	Account [32]byte
	Role    Role
}

// GroupInfo is the content of extension 0xF051 (spec/group.md, section 1).
type GroupInfo struct {
	Kind      GroupKind
	Mailboxes []MailboxRef // 1 to 4; the first orders commits
	Term      uint32
	Roles     []RoleEntry // ascending, each account once
	MemberMay Rights
	AdminMay  Rights
	OwnerMay  Rights
	Retention uint32 // minutes; 0 for no limit
	LeafIdle  uint32 // minutes; 0 for never
	MaxLeaves uint16
	Binding   []byte // 32 bytes, or none
	Profile   []byte // at most 10 KiB
}

// How many leaves a group has room for.
const (
	DefaultLeaves = 256
	MaxLeaves     = 1000
)

const (
	maxRelay     = 600
	maxMailboxes = 4
	maxRoles     = 1024
	maxProfile   = 10 << 10
	groupVersion = 1

	defaultLeafIdle = 60 * 24 * 60 // minutes
)

// NewDirect is the GroupInfo of a conversation between two accounts.
func NewDirect(box MailboxRef, a, b [32]byte, binding []byte) *GroupInfo {
	roles := []RoleEntry{{a, Owner}, {b, Owner}}
	if bytes.Compare(a[:], b[:]) > 0 {
		slices.Reverse(roles)
	}
	return &GroupInfo{Kind: Direct, Mailboxes: []MailboxRef{box}, Term: 1, Roles: roles,
		OwnerMay: allRights, MaxLeaves: DefaultLeaves, Binding: binding}
}

// NewGroup is the GroupInfo of a group of many, made by one account.
func NewGroup(box MailboxRef, owner [32]byte, p Profile, leaves int) *GroupInfo {
	return &GroupInfo{Kind: ManyPeople, Mailboxes: []MailboxRef{box}, Term: 1, Roles: []RoleEntry{{owner, Owner}},
		MemberMay: MayWrite, AdminMay: MayWrite | MayAdd | MayRemove | MayRename | MayChangeRetention, OwnerMay: allRights,
		LeafIdle: defaultLeafIdle, MaxLeaves: uint16(leaves), Profile: p.Append(nil)}
}

// IdleAfter is how long a leaf may go without a path update; 0 is for ever.
func (g *GroupInfo) IdleAfter() time.Duration { return time.Duration(g.LeafIdle) * time.Minute }

// NewSelf is the GroupInfo of the conversation among an account's own devices.
func NewSelf(box MailboxRef, account [32]byte) *GroupInfo {
	return &GroupInfo{Kind: Self, Mailboxes: []MailboxRef{box}, Term: 1, Roles: []RoleEntry{{account, Owner}}, OwnerMay: allRights, MaxLeaves: 256}
}

// Clone returns a copy that shares nothing that may be changed.
func (g *GroupInfo) Clone() *GroupInfo {
	c := *g
	c.Mailboxes, c.Roles = slices.Clone(g.Mailboxes), slices.Clone(g.Roles)
	return &c
}

// Profile is what a group shows of itself: the profile of a GroupInfo.
type Profile struct {
	Name        string // 1 to 64 characters
	Description string // at most 1,024 bytes
	Picture     []byte // JPEG, at most MaxPicture bytes; nil for none
}

// MaxPicture is the size of a group's picture at most, in bytes.
const MaxPicture = 8 << 10

const (
	maxGroupName   = 256 // bytes: 64 characters
	maxDescription = 1024
	profileVersion = 1
)

// Append appends the bytes of a profile.
func (p Profile) Append(b []byte) []byte {
	return codec.AppendVec(codec.AppendVec(codec.AppendVec(codec.AppendU16(b, profileVersion), p.Name), p.Description), p.Picture)
}

// ParseProfile reads a profile.
func ParseProfile(b []byte) (Profile, error) {
	r := codec.NewReader(b)
	if v := r.U16(); r.Err() == nil && v != profileVersion {
		r.Fail("profile of version %d", v)
	}
	p := Profile{Name: string(r.Vec(maxGroupName)), Description: string(r.Vec(maxDescription))}
	if picture := r.Vec(MaxPicture); len(picture) > 0 {
		p.Picture = picture
	}
	if err := r.Done(); err != nil {
		return Profile{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return p, p.Check()
}

// Check returns an error that wraps ErrMalformed for a profile that cannot be a group's.
func (p Profile) Check() error {
	name, err := identity.NormalizeName(p.Name)
	if err == nil && name != p.Name {
		err = errors.New("it is not in its one form")
	}
	if err != nil {
		return fmt.Errorf("%w: name: %w", ErrMalformed, err)
	}
	if len(p.Picture) > MaxPicture {
		return fmt.Errorf("%w: a picture of %d bytes, at most %d", ErrMalformed, len(p.Picture), MaxPicture)
	}
	if len(p.Description) > maxDescription || !utf8.ValidString(p.Description) {
		return fmt.Errorf("%w: a description is UTF-8 of at most %d bytes", ErrMalformed, maxDescription)
	}
	return nil
}

// Role returns the role of an account, 0 if it has none.
func (g *GroupInfo) Role(account [32]byte) Role {
	for _, r := range g.Roles {
		if r.Account == account {
			return r.Role
		}
	}
	return 0
}

// May returns what an account may do.
func (g *GroupInfo) May(account [32]byte) Rights {
	switch g.Role(account) {
	case Member:
		return g.MemberMay
	case Admin:
		return g.AdminMay
	case Owner:
		return g.OwnerMay
	}
	return 0
}

// Append appends the extension's bytes.
func (g *GroupInfo) Append(b []byte) []byte {
	b = codec.AppendU8(codec.AppendU16(b, groupVersion), uint8(g.Kind))
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, m := range g.Mailboxes {
			b = codec.AppendVec(b, m.Relay)
			b = codec.AppendU64(append(b, m.Mailbox[:]...), m.BaseEpoch)
		}
		return b
	})
	b = codec.AppendU32(b, g.Term)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, r := range g.Roles {
			b = codec.AppendU8(append(b, r.Account[:]...), uint8(r.Role))
		}
		return b
	})
	for _, v := range []uint32{uint32(g.MemberMay), uint32(g.AdminMay), uint32(g.OwnerMay), g.Retention, g.LeafIdle} {
		b = codec.AppendU32(b, v)
	}
	b = codec.AppendU16(b, g.MaxLeaves)
	return codec.AppendVec(codec.AppendVec(b, g.Binding), g.Profile)
}

// ParseGroupInfo reads the extension. Its slices are parts of b.
func ParseGroupInfo(b []byte) (*GroupInfo, error) {
	r := codec.NewReader(b)
	if v := r.U16(); r.Err() == nil && v != groupVersion {
		r.Fail("version %d", v)
	}
	g := &GroupInfo{Kind: GroupKind(r.U8())}
	if g.Kind < Direct || g.Kind > Self {
		r.Fail("kind %d", g.Kind)
	}
	r.Each(maxMailboxes*(maxRelay+64), func(r *codec.Reader) {
		m := MailboxRef{Relay: r.Vec(maxRelay)}
		r.Copy(m.Mailbox[:])
		m.BaseEpoch = r.U64()
		g.Mailboxes = append(g.Mailboxes, m)
	})
	if n := len(g.Mailboxes); n < 1 || n > maxMailboxes {
		r.Fail("%d mailboxes", n)
	}
	g.Term = r.U32()
	r.Each(maxRoles*33, func(r *codec.Reader) {
		var e RoleEntry
		r.Copy(e.Account[:])
		e.Role = Role(r.U8())
		if e.Role < Member || e.Role > Owner {
			r.Fail("role %d", e.Role)
		}
		if n := len(g.Roles); n > 0 && bytes.Compare(g.Roles[n-1].Account[:], e.Account[:]) >= 0 {
			r.Fail("roles out of order")
		}
		g.Roles = append(g.Roles, e)
	})
	for _, v := range []*Rights{&g.MemberMay, &g.AdminMay, &g.OwnerMay} {
		*v = Rights(r.U32())
	}
	g.Retention, g.LeafIdle, g.MaxLeaves = r.U32(), r.U32(), r.U16()
	g.Binding, g.Profile = r.Vec(32), r.Vec(maxProfile)
	if n := len(g.Binding); n != 0 && n != 32 {
		r.Fail("a binding of %d bytes", n)
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return g, nil
}

// LastResort is the flag of a key package that may be used more than once.
const LastResort byte = 1

// KeyPackageFlags is the content of extension 0xF052.
func KeyPackageFlags(flags byte) []byte { return []byte{flags} }

// Context is what a sender had seen: the authenticated data of every message
// and commit (spec/group.md, section 3).
type Context struct {
	Seen        mailbox.Mark // newest position it had processed
	Chain       mailbox.Hash
	AccountSeq  uint32
	AccountHead [32]byte
	Proofs      [][]byte // of a commit: entries of account logs that revoke the devices it removes
}

// The versions of a context: the second one has proofs.
const (
	contextVersion = 1
	contextProofs  = 2
	maxProof       = 2 << 10
	maxProofs      = 16
)

// Append appends the authenticated data.
func (c Context) Append(b []byte) []byte {
	version := uint16(contextVersion)
	if len(c.Proofs) > 0 {
		version = contextProofs
	}
	b = appendMark(codec.AppendU16(b, version), c.Seen)
	b = codec.AppendU32(append(b, c.Chain[:]...), c.AccountSeq)
	b = append(b, c.AccountHead[:]...)
	if version == contextVersion {
		return b
	}
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, p := range c.Proofs {
			b = codec.AppendVec(b, p)
		}
		return b
	})
}

// ParseContext reads authenticated data. Its slices are parts of b.
func ParseContext(b []byte) (c Context, err error) {
	r := codec.NewReader(b)
	version := r.U16()
	if r.Err() == nil && version != contextVersion && version != contextProofs {
		r.Fail("context of version %d", version)
	}
	c.Seen = readMark(r)
	r.Copy(c.Chain[:])
	c.AccountSeq = r.U32()
	r.Copy(c.AccountHead[:])
	if version == contextProofs {
		r.Each(maxProofs*(maxProof+2), func(r *codec.Reader) {
			if len(c.Proofs) == maxProofs {
				r.Fail("more than %d proofs", maxProofs)
			}
			c.Proofs = append(c.Proofs, r.Vec(maxProof))
		})
		if len(c.Proofs) == 0 {
			r.Fail("version 2 without proofs")
		}
	}
	if err := r.Done(); err != nil {
		return Context{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, nil
}
