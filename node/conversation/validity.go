package conversation

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/relay/mailbox"
)

// ErrInvalid is wrapped by the errors of [Validate] and its like: every member
// refuses this commit, welcome or leaf alike.
var ErrInvalid = errors.New("against the rules of the conversation")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// The roles of a capability in its derivation (spec/envelope.md, section 2).
const (
	RoleRead   byte = 1
	RoleAppend byte = 2
)

// EnvelopeSecretSize is the length of what envelopes of an epoch are sealed under.
const EnvelopeSecretSize = 48

// Exporter is an epoch: a group, or one that is staged.
type Exporter interface {
	Export(label string, context []byte, length int) ([]byte, error)
}

// EpochKeys is what an epoch gives to the world outside MLS.
type EpochKeys struct {
	Envelope []byte // the secret of envelope.NewKeys
	Read     key.CapabilitySecret
	Append   key.CapabilitySecret
}

// DeriveKeys derives an epoch's keys for a mailbox.
func DeriveKeys(x Exporter, box mailbox.ID) (k EpochKeys, err error) {
	if k.Envelope, err = x.Export("sotto envelope", nil, EnvelopeSecretSize); err != nil {
		return EpochKeys{}, err
	}
	for role, into := range map[byte]*key.CapabilitySecret{RoleRead: &k.Read, RoleAppend: &k.Append} {
		seed, err := x.Export("sotto cap", append(box[:len(box):len(box)], role), key.Size)
		if err != nil {
			return EpochKeys{}, err
		}
		*into = key.CapabilityFromSeed(seed)
		clear(seed)
	}
	return k, nil
}

// NextCaps is the meta of a commit that leads to the epoch of these keys
// (spec/relay.md, section 4).
func (k EpochKeys) NextCaps() []byte {
	return k.Append.Public().Append(k.Read.Public().Append(nil))
}

// RequiredCapabilities is the extension that every group's context carries.
func RequiredCapabilities() mls.Extension {
	return mls.RequiredCapabilities{Extensions: []mls.ExtensionType{mls.ExtensionType(ExtensionGroup), mls.ExtensionType(ExtensionInbox)}}.Extension()
}

// Leaf is what a leaf of a tree says of its device.
type Leaf struct {
	Account identity.AccountID
	Device  identity.DeviceID
	Cert    identity.DeviceCert
	Inbox   identity.InboxRef
}

// ReadLeaf reads and verifies a leaf: its credential leads to its signature key,
// and it says where its inbox is.
func ReadLeaf(leaf *mls.LeafNode) (Leaf, error) {
	if leaf.Credential.Type != mls.CredentialBasic {
		return Leaf{}, invalid("a credential of type %d", leaf.Credential.Type)
	}
	c, err := identity.ParseCredential(leaf.Credential.Identity)
	if err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	cert, err := c.Verify()
	if err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !bytes.Equal(cert.DeviceKey.Bytes(), leaf.SignatureKey) {
		return Leaf{}, invalid("a leaf signed with another key than its device's")
	}
	raw, ok := leaf.Extensions.Get(mls.ExtensionType(ExtensionInbox))
	if !ok {
		return Leaf{}, invalid("a leaf without an inbox")
	}
	inbox, err := identity.ParseInboxRef(raw)
	if err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return Leaf{Account: c.Account, Device: c.Device, Cert: cert, Inbox: inbox}, nil
}

// LeafOf reads whose a leaf of a tree is. It verifies nothing: no leaf comes into a
// tree that ValidateCredential has not judged.
func LeafOf(leaf *mls.LeafNode) (identity.AccountID, identity.DeviceID, error) {
	c, err := identity.ParseCredential(leaf.Credential.Identity)
	if err != nil {
		return identity.AccountID{}, identity.DeviceID{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c.Account, c.Device, nil
}

// ValidateCredential is the ValidateCredential of [mls.Config]: bytes alone
// decide. A leaf that replaces another keeps account and device.
func ValidateCredential(leaf, old *mls.LeafNode) error {
	now, err := ReadLeaf(leaf)
	if err != nil || old == nil {
		return err
	}
	before, err := ReadLeaf(old)
	if err != nil {
		return err
	}
	if now.Account != before.Account || now.Device != before.Device {
		return invalid("a leaf that becomes another device's")
	}
	return nil
}

// Group reads the GroupInfo out of a group's context.
func Group(c mls.GroupContext) (*GroupInfo, error) {
	raw, ok := c.Extensions.Get(mls.ExtensionType(ExtensionGroup))
	if !ok {
		return nil, invalid("a group without extension 0xF051")
	}
	want := RequiredCapabilities()
	if got, ok := c.Extensions.Get(want.Type); !ok || !bytes.Equal(got, want.Data) {
		return nil, invalid("other required capabilities")
	}
	g, err := ParseGroupInfo(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return g, nil
}

// Validate judges a commit by spec/group.md, section 4: old is the group that it
// applies to, meta what the mailbox holds beside it. It returns an error that
// wraps ErrInvalid if every member must skip it.
func Validate(old *mls.Group, s *mls.Staged, meta []byte) error {
	before, err := Group(old.Context())
	if err != nil {
		return err
	}
	if s.External() || s.Public() {
		return invalid("a commit from outside the group, or one that shows itself")
	}
	context, err := ParseContext(s.AuthenticatedData())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	committer, ok := old.Member(s.Committer())
	if !ok {
		return invalid("a committer who is no member")
	}
	by, _, err := LeafOf(committer)
	if err != nil {
		return err
	}
	may := before.May(by)

	for _, p := range s.Proposals() {
		if p.ByReference {
			if !Parts(p.Proposal, p.Sender) {
				return invalid("a proposal by reference that is not a member's own leave")
			}
			continue
		}
		switch p := p.Proposal.(type) {
		case mls.Add:
			account, _, err := LeafOf(p.KeyPackage.LeafNode)
			if err != nil {
				return err
			}
			switch known := before.Role(account) != 0; {
			case known && account != by:
				return invalid("a device added by another account than its own")
			case !known && (before.Kind != ManyPeople || may&MayAdd == 0):
				return invalid("an account added by one that may not")
			}
		case mls.Remove:
			node, ok := old.Member(p.Removed)
			if !ok {
				return invalid("the removal of nobody")
			}
			account, _, err := LeafOf(node)
			if err != nil {
				return err
			}
			if account != by && (may&MayRemove == 0 || before.Role(account) >= before.Role(by)) && !revoked(old, node, context.Proofs) {
				return invalid("the removal of a device by one that may not")
			}
		case mls.GroupContextExtensions:
			// Judged below, by what it makes of the context.
		default:
			return invalid("a proposal of type %d", p.Type())
		}
	}
	if s.RemovesSelf() {
		return nil // the new epoch is not ours to look into
	}

	after, err := Group(s.Context())
	if err != nil {
		return err
	}
	if err := validChange(before, after, before.Role(by), may); err != nil {
		return err
	}
	accounts, err := validRoster(after, s.Roster())
	if err != nil {
		return err
	}
	if err := validRoles(before, after, by, accounts); err != nil {
		return err
	}
	keys, err := DeriveKeys(s, after.Mailboxes[0].Mailbox)
	if err != nil {
		return err
	}
	if !bytes.Equal(meta, keys.NextCaps()) {
		return invalid("other capabilities at the relay than the new epoch derives")
	}
	return nil
}

// revoked reports whether one of the proofs beside a commit revokes the device of a leaf:
// then any member may remove it.
func revoked(g *mls.Group, node *mls.LeafNode, proofs [][]byte) bool {
	c, err := identity.ParseCredential(node.Credential.Identity)
	if err != nil {
		return false
	}
	acting := func(id identity.DeviceID) (identity.DeviceCert, bool) {
		for _, m := range g.Roster() {
			if l, err := ReadLeaf(m.Node); err == nil && l.Account == c.Account && l.Device == id {
				return l.Cert, true
			}
		}
		return identity.DeviceCert{}, false
	}
	for _, raw := range proofs {
		if e, err := identity.ParseEntry(raw); err == nil && c.RevokedBy(&e, acting) == nil {
			return true
		}
	}
	return false
}

// validChange judges what a commit makes of the group's information.
func validChange(before, after *GroupInfo, role Role, may Rights) error {
	if after.Kind != before.Kind || !bytes.Equal(after.Binding, before.Binding) || after.MaxLeaves != before.MaxLeaves || after.LeafIdle != before.LeafIdle {
		return invalid("a change of what never changes in a group")
	}
	for _, c := range []struct {
		right   Rights
		changed bool
	}{
		{MayChangeRetention, after.Retention != before.Retention},
		{MayRename, !bytes.Equal(after.Profile, before.Profile)},
		{MayChangeRelays, !sameMailboxes(after, before) || after.Term != before.Term},
	} {
		if c.changed && may&c.right == 0 {
			return invalid("a change by one that may not")
		}
	}
	if after.OwnerMay != before.OwnerMay {
		return invalid("a change of what owners may")
	}
	if after.MemberMay != before.MemberMay || after.AdminMay != before.AdminMay {
		if role != Owner || before.Kind != ManyPeople {
			return invalid("a change of rights by one that is no owner")
		}
		if (after.MemberMay|after.AdminMay)&^allRights != 0 {
			return invalid("a right that there is not")
		}
	}
	if after.Kind == ManyPeople {
		if _, err := ParseProfile(after.Profile); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if !sameMailbox(after.Mailboxes[0], before.Mailboxes[0]) != (after.Term != before.Term) || after.Term < before.Term {
		return invalid("a first mailbox and a term that do not change together")
	}
	return nil
}

func sameMailbox(a, b MailboxRef) bool {
	return a.Mailbox == b.Mailbox && a.BaseEpoch == b.BaseEpoch && bytes.Equal(a.Relay, b.Relay)
}

func sameMailboxes(a, b *GroupInfo) bool {
	if len(a.Mailboxes) != len(b.Mailboxes) {
		return false
	}
	for i := range a.Mailboxes {
		if !sameMailbox(a.Mailboxes[i], b.Mailboxes[i]) {
			return false
		}
	}
	return true
}

// Parts reports whether a proposal is a member's own leave.
func Parts(p mls.Proposal, by mls.Sender) bool {
	r, ok := p.(mls.Remove)
	return ok && by.Type == mls.SenderMember && by.Leaf == r.Removed
}

// Roles returns the roles that the accounts of a group of many have by themselves
// once the group consists of these: those that they had, and of new ones that of a
// member. A group whose owners have gone passes to the first of the highest role.
func Roles(before *GroupInfo, accounts map[identity.AccountID]bool) []RoleEntry {
	var out []RoleEntry
	had := map[identity.AccountID]Role{}
	for _, r := range before.Roles {
		had[r.Account] = r.Role
	}
	for a := range accounts {
		out = append(out, RoleEntry{a, max(had[a], Member)})
	}
	slices.SortFunc(out, func(a, b RoleEntry) int { return bytes.Compare(a.Account[:], b.Account[:]) })
	if len(out) > 0 {
		first := 0
		for i := range out {
			if out[i].Role > out[first].Role {
				first = i
			}
		}
		out[first].Role = max(out[first].Role, Owner)
	}
	return out
}

// validRoles judges the roles after a commit: exactly the accounts that are there have
// one, and what differs from what they have by themselves the committer may change.
func validRoles(before, after *GroupInfo, by identity.AccountID, accounts map[identity.AccountID]bool) error {
	if after.Kind != ManyPeople {
		if !slices.Equal(after.Roles, before.Roles) {
			return invalid("a change of roles where all are equal")
		}
		return nil
	}
	want := Roles(before, accounts)
	if len(after.Roles) != len(want) {
		return invalid("%d accounts with a role, %d in the group", len(after.Roles), len(want))
	}
	owners := 0
	for i, r := range after.Roles {
		if r.Account != want[i].Account {
			return invalid("a role for an account that is not in the group")
		}
		if r.Role == Owner {
			owners++
		}
		if r.Role != want[i].Role && !before.mayGive(by, r.Account, want[i].Role, r.Role) {
			return invalid("a role given by one that may not")
		}
	}
	if owners == 0 {
		return invalid("a group without an owner")
	}
	return nil
}

// MayGive reports whether an account may make another's role to.
func (g *GroupInfo) MayGive(by, of identity.AccountID, to Role) bool {
	return g.mayGive(by, of, g.Role(of), to)
}

// mayGive reports whether an account may make another's role to from old.
func (g *GroupInfo) mayGive(by, of identity.AccountID, old, to Role) bool {
	switch mine := g.Role(by); {
	case g.May(by)&MayChangeRoles == 0:
		return by == of && to < old // who steps down asks nobody
	case mine == Owner:
		return true
	default:
		return old < mine && to < mine || by == of && to < old
	}
}

// validRoster checks that every leaf is of an account with a role, that no device
// is there twice, and that there are not too many. It returns the accounts.
func validRoster(g *GroupInfo, roster []mls.Member) (map[identity.AccountID]bool, error) {
	if len(roster) > int(g.MaxLeaves) {
		return nil, invalid("%d leaves, at most %d", len(roster), g.MaxLeaves)
	}
	roles := map[identity.AccountID]bool{}
	for _, r := range g.Roles {
		roles[r.Account] = true
	}
	accounts := map[identity.AccountID]bool{}
	type device struct {
		account identity.AccountID
		device  identity.DeviceID
	}
	seen := map[device]bool{}
	for _, m := range roster {
		var d device
		var err error
		if d.account, d.device, err = LeafOf(m.Node); err != nil {
			return nil, err
		}
		if seen[d] {
			return nil, invalid("one device with two leaves")
		}
		seen[d], accounts[d.account] = true, true
		if !roles[d.account] {
			return nil, invalid("a device of an account that is not in the group")
		}
	}
	return accounts, nil
}

// ValidateWelcome judges a group of many that a welcome has led to, before it is joined
// for good: by is the leaf that made the welcome, inviter the account whose device
// that must be.
func ValidateWelcome(g *mls.Group, by mls.LeafIndex, inviter identity.AccountID) (*GroupInfo, error) {
	info, account, err := validJoin(g, by)
	if err == nil && account != inviter {
		return nil, invalid("a welcome made by another than who was given the key package")
	}
	return info, err
}

// ValidateLink judges a group that a link has led to: it is the one that the link names, who
// made the link is still in it, and the welcome is of somebody who may let others in. It
// returns who that was.
func ValidateLink(g *mls.Group, by mls.LeafIndex, group []byte, maker identity.AccountID) (*GroupInfo, identity.AccountID, error) {
	info, account, err := validJoin(g, by)
	switch {
	case err != nil:
		return nil, identity.AccountID{}, err
	case !bytes.Equal(g.GroupID(), group):
		return nil, identity.AccountID{}, invalid("another group than the link names")
	case info.Role(maker) == 0:
		return nil, identity.AccountID{}, invalid("a group that who made the link is not in")
	case info.May(account)&MayAdd == 0:
		return nil, identity.AccountID{}, invalid("a welcome made by one that may not let anybody in")
	}
	return info, account, nil
}

// validJoin judges a group of many before it is joined, and returns who made the welcome.
func validJoin(g *mls.Group, by mls.LeafIndex) (*GroupInfo, identity.AccountID, error) {
	info, err := validGroup(g)
	if err != nil {
		return nil, identity.AccountID{}, err
	}
	node, ok := g.Member(by)
	if !ok {
		return nil, identity.AccountID{}, invalid("a welcome made by nobody")
	}
	account, _, err := LeafOf(node)
	return info, account, err
}

func validGroup(g *mls.Group) (*GroupInfo, error) {
	info, err := Group(g.Context())
	if err != nil {
		return nil, err
	}
	if info.Kind != ManyPeople || len(info.Binding) != 0 {
		return nil, invalid("a welcome into something else than a group")
	}
	if first := info.Mailboxes[0]; first.BaseEpoch > g.Epoch() || g.Epoch()-first.BaseEpoch > 1<<32-1 {
		return nil, invalid("a mailbox of a later epoch")
	}
	if _, err := ParseProfile(info.Profile); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	accounts, err := validRoster(info, g.Roster())
	if err != nil {
		return nil, err
	}
	if len(info.Roles) != len(accounts) {
		return nil, invalid("%d accounts with a role, %d in the group", len(info.Roles), len(accounts))
	}
	return info, nil
}

// ValidateOwnWelcome judges a group that another device of one's own account has brought
// this one into, by the leaf inviter: a conversation of any kind in which the account is.
func ValidateOwnWelcome(g *mls.Group, inviter mls.LeafIndex, account identity.AccountID) (*GroupInfo, Leaf, error) {
	fail := func(err error) (*GroupInfo, Leaf, error) { return nil, Leaf{}, err }
	info, err := Group(g.Context())
	if err != nil {
		return fail(err)
	}
	if first := info.Mailboxes[0]; first.BaseEpoch > g.Epoch() || g.Epoch()-first.BaseEpoch > 1<<32-1 {
		return fail(invalid("a mailbox of a later epoch"))
	}
	if _, err := validRoster(info, g.Roster()); err != nil {
		return fail(err)
	}
	switch {
	case info.Role(account) == 0:
		return fail(invalid("a conversation that the account is not in"))
	case info.Kind == Self && len(info.Roles) != 1, info.Kind == Direct && len(info.Roles) != 2:
		return fail(invalid("%d accounts in a conversation of kind %d", len(info.Roles), info.Kind))
	case info.Kind == ManyPeople:
		if _, err := ParseProfile(info.Profile); err != nil {
			return fail(fmt.Errorf("%w: %w", ErrInvalid, err))
		}
	}
	node, ok := g.Member(inviter)
	if !ok {
		return fail(invalid("a welcome made by nobody"))
	}
	by, err := ReadLeaf(node)
	if err != nil || by.Account != account {
		return fail(invalid("a welcome into one's own conversation made by another account"))
	}
	return info, by, nil
}

// ValidateDirect judges a group that an invite has led to, before it is joined for
// good: its members are this device and one of the inviter's, which is active, and its
// binding is that of the handshake (spec/invite.md, section 5).
func ValidateDirect(g *mls.Group, binding [32]byte, own identity.AccountID, device identity.DeviceID, inviter *identity.Log) (*GroupInfo, error) {
	a, b := own, inviter.ID()
	info, err := Group(g.Context())
	if err != nil {
		return nil, err
	}
	switch {
	case info.Kind != Direct:
		return nil, invalid("not a conversation between two")
	case !bytes.Equal(info.Binding, binding[:]):
		return nil, invalid("bound to another handshake")
	case len(info.Mailboxes) != 1 || info.Mailboxes[0].BaseEpoch != g.Epoch() || info.Term != 1:
		return nil, invalid("not a new conversation")
	case len(info.Roles) != 2 || info.Role(a) != Owner || info.Role(b) != Owner:
		return nil, invalid("other people than the two who met")
	case info.MemberMay|info.AdminMay|info.OwnerMay != allRights || info.OwnerMay != allRights:
		return nil, invalid("other rights than a conversation between two has")
	}
	roster := g.Roster()
	if _, err := validRoster(info, roster); err != nil {
		return nil, err
	}
	if len(roster) != 2 {
		return nil, invalid("%d devices, want two", len(roster))
	}
	for _, m := range roster {
		leaf, err := ReadLeaf(m.Node)
		if err != nil {
			return nil, err
		}
		_, state := inviter.Device(leaf.Device)
		mine, theirs := leaf.Account == own && leaf.Device == device, leaf.Account == b && state == identity.DeviceActive
		if !mine && !theirs {
			return nil, invalid("a device that was not announced")
		}
	}
	return info, nil
}
