package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// GroupOptions are the wishes for a new group.
type GroupOptions struct {
	Name        string   `json:"name" doc:"1 to 64 characters"`
	Description string   `json:"description,omitempty" doc:"at most 1,024 bytes"`
	Members     []string `json:"members,omitempty" doc:"contacts to add, by name or id"`
	MaxLeaves   int      `json:"max_leaves,omitempty" minimum:"0" maximum:"750" doc:"how many devices it has room for, for good; 0 means 256"`
}

// Group is a group conversation with its members.
type Group struct {
	Conversation
	Description string        `json:"description,omitempty"`
	Announce    bool          `json:"announce,omitempty" doc:"members without another role may not write"`
	Members     []GroupMember `json:"members" nullable:"false"`
	Picture     []byte        `json:"picture,omitempty" doc:"a JPEG of 128 by 128 pixels"`
	Policy      []Policy      `json:"policy,omitempty"`
	MaxLeaves   int           `json:"max_leaves" doc:"how many devices the group has room for"`
	Changing    int           `json:"changing,omitempty" doc:"changes made here that are not yet the group's"`
}

// GroupMember is an account in a group.
type GroupMember struct {
	Account string `json:"account"`
	Name    string `json:"name" doc:"what you call them, else what they call themselves"`
	Role    string `json:"role" enum:"member,admin,owner"`
	You     bool   `json:"you,omitempty"`
	Devices int    `json:"devices"`
}

// GroupChange is a wish to change a group. What is nil or empty stays.
type GroupChange struct {
	Name        *string  `json:"name,omitempty"`
	Description *string  `json:"description,omitempty"`
	Announce    *bool    `json:"announce,omitempty" doc:"true: only admins and owners write"`
	Add         []string `json:"add,omitempty" doc:"contacts"`
	Remove      []string `json:"remove,omitempty" doc:"members, by name or account"`
	Roles       []RoleOf `json:"roles,omitempty"`
	Picture     *[]byte  `json:"picture,omitempty" doc:"a JPEG or PNG, which is shrunk; empty for none"`
	Policy      []Policy `json:"policy,omitempty" doc:"what roles may do; owners decide that"`
}

// Policy says whether a role may do something. What owners may is not changed.
type Policy struct {
	Role    string `json:"role" enum:"member,admin,owner"`
	Right   string `json:"right" enum:"add,remove,rename,relays,roles,retention,write"`
	Allowed bool   `json:"allowed"`
}

// policyOf lists what roles may do.
func policyOf(info *conversation.GroupInfo) (out []Policy) {
	for _, r := range []struct {
		role conversation.Role
		may  conversation.Rights
	}{{conversation.Member, info.MemberMay}, {conversation.Admin, info.AdminMay}, {conversation.Owner, info.OwnerMay}} {
		for right := conversation.MayAdd; right <= conversation.MayWrite; right <<= 1 {
			out = append(out, Policy{roleNames[r.role], conversation.RightNames[right], r.may&right != 0})
		}
	}
	return out
}

// change is the change that a policy asks for.
func (p Policy) change() (store.Change, error) {
	role, err := parseRole(p.Role)
	if err != nil {
		return store.Change{}, err
	}
	for right, name := range conversation.RightNames {
		if name != p.Right {
			continue
		}
		if role == conversation.Owner {
			return store.Change{}, fmt.Errorf("%w: owners may do everything", ErrInvalid)
		}
		return store.Change{What: store.ChangePolicy, Role: uint8(role), Right: uint32(right), On: p.Allowed}, nil
	}
	return store.Change{}, fmt.Errorf("%w: there is no right %q", ErrInvalid, p.Right)
}

// RoleOf gives a member a role.
type RoleOf struct {
	Member string `json:"member" doc:"by name or account"`
	Role   string `json:"role" enum:"member,admin,owner"`
}

var roleNames = map[conversation.Role]string{conversation.Member: "member", conversation.Admin: "admin", conversation.Owner: "owner"}

func parseRole(s string) (conversation.Role, error) {
	for r, name := range roleNames {
		if name == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%w: there is no role %q; there are member, admin and owner", ErrInvalid, s)
}

// CreateGroup makes a group of this account and adds contacts to it. It returns at once:
// the group is there, and its members are added as soon as the relay can be reached. It
// returns ErrInvalid, ErrNotFound, ErrBlocked, ErrNotReady for a contact that has not
// sent yet what adding it takes, and ErrUnreachable if no relay is known.
func (n *Node) CreateGroup(ctx context.Context, o GroupOptions) (Conversation, error) {
	name, err := identity.NormalizeName(o.Name)
	if err != nil {
		return Conversation{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	profile := conversation.Profile{Name: name, Description: o.Description}
	if err := profile.Check(); err != nil {
		return Conversation{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if o.MaxLeaves == 0 {
		o.MaxLeaves = conversation.DefaultLeaves
	}
	if o.MaxLeaves < minLeaves || o.MaxLeaves > maxLeaves {
		return Conversation{}, fmt.Errorf("%w: a group has room for %d to %d devices", ErrInvalid, minLeaves, maxLeaves)
	}
	home := n.homeRelay()
	if home == "" {
		return Conversation{}, fmt.Errorf("%w: this node knows no relay; start it with its embedded relay, or name one with sotto config set relay ADDRESS", ErrUnreachable)
	}
	if err := n.ensureInbox(home, nil); err != nil {
		return Conversation{}, err
	}
	var rec *store.Conversation
	err = n.update(func(tx *store.Tx) error {
		in, err := tx.Inbox()
		if err != nil {
			return err
		}
		g, box, err := n.foundGroup(&in, home, func(at conversation.MailboxRef) *conversation.GroupInfo {
			return conversation.NewGroup(at, n.account.ID(), profile, o.MaxLeaves)
		})
		if err != nil {
			return err
		}
		keys, err := openWith(&box, g)
		if err != nil {
			return err
		}
		rec = &store.Conversation{Group: g.GroupID(), Relay: box.Relay, Mailbox: box.ID, Made: &box, Since: n.clock(), Many: true, Name: name}
		core := &conversation.Core{Chain: mailbox.FirstChain(box.ID), Open: true, Updated: n.clock(), Active: n.clock()}
		t := &turn{ownerState: &ownerState{rec: *rec, group: g}, o: &owner{group: rec.Group}, n: n, tx: tx, now: n.clock()}
		if len(o.Members) > 0 {
			if core.Changes, err = t.wishAdd(o.Members, o.MaxLeaves); err != nil {
				return err
			}
		}
		return n.putConversation(tx, rec, g, core, keys)
	})
	if err != nil {
		return Conversation{}, apiError(err)
	}
	n.takeUp(rec.Group)
	return n.Conversation(ctx, groupID(rec.Group))
}

// foundGroup makes a group of this device alone, and a mailbox for it at a relay. describe says what
// kind of group it is. The mailbox is named in the group before the epoch is there whose keys
// open it: its id comes from the admin key and a salt alone.
func (n *Node) foundGroup(in *store.Inbox, relay string, describe func(at conversation.MailboxRef) *conversation.GroupInfo) (*mls.Group, store.Mailbox, error) {
	box, err := newMailbox(relay, conversationTerms, key.CapabilityPublic{}, key.CapabilityPublic{}, in.Mailbox.Ticket)
	if err != nil {
		return nil, box, err
	}
	at, err := wire.ParseAddress(box.Relay)
	if err != nil {
		return nil, box, err
	}
	credential, leaf, err := n.leaf(in)
	if err != nil {
		return nil, box, err
	}
	info := describe(conversation.MailboxRef{Relay: at.Append(nil), Mailbox: box.ID})
	g, err := mls.NewGroup(n.mlsConfig(), mls.GroupOptions{Suite: mls.XWing, Credential: credential, Lifetime: n.lifetime(), Capabilities: capabilities(), LeafExtensions: leaf,
		Extensions: mls.Extensions{conversation.RequiredCapabilities(), {Type: mls.ExtensionType(conversation.ExtensionGroup), Data: info.Append(nil)}}})
	return g, box, err
}

// openWith makes a mailbox one that the keys of a group's epoch open, and returns these.
func openWith(box *store.Mailbox, g *mls.Group) (conversation.EpochKeys, error) {
	keys, err := conversation.DeriveKeys(g, box.ID)
	if err == nil {
		box.ReadKey, box.AppendKey = [32]byte(keys.Read.Public().Bytes()), [32]byte(keys.Append.Public().Bytes())
	}
	return keys, err
}

// How much room a group is made with: at most what one transaction of the vault can
// hold of a tree, and of a commit that is staged.
const (
	minLeaves = 2
	maxLeaves = 750
)

// wishAdd notes that contacts are to be added, with the key packages that takes: as many
// changes as it takes commits.
func (t *turn) wishAdd(refs []string, room int) (ids []conversation.ChangeID, err error) {
	known, leaves := map[[32]byte]bool{}, len(t.group.Roster())
	c := store.Change{What: store.ChangeAdd}
	note := func() error {
		if len(c.Accounts) == 0 {
			return nil
		}
		err := t.tx.AddChange(t.o.group, &c)
		ids = append(ids, conversation.ChangeID(c.ID))
		c = store.Change{What: store.ChangeAdd}
		return err
	}
	contacts, err := t.tx.Contacts()
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		contact, err := pickContact(contacts, ref)
		switch {
		case err != nil:
			return nil, err
		case contact.State != store.ContactEstablished:
			return nil, fmt.Errorf("%w: %s is no complete contact yet: %s", ErrNotReady, contact.Name, contactWaits(contact))
		case contact.Blocked:
			return nil, fmt.Errorf("%w: %s", ErrBlocked, contact.Name)
		case known[contact.Account]:
			continue
		}
		packages, err := t.setAside(contact)
		if err != nil {
			return nil, err
		}
		if leaves += len(packages); leaves > room {
			return nil, fmt.Errorf("%w: the group has room for %d devices", ErrTooLarge, room)
		}
		if len(c.Packages)+len(packages) > maxAdds {
			if err := note(); err != nil {
				return nil, err
			}
		}
		known[contact.Account] = true
		c.Accounts, c.Packages = append(c.Accounts, contact.Account), append(c.Packages, packages...)
	}
	return ids, note()
}

// inGroup runs f in a turn of a group that this device is a member of.
func (n *Node) inGroup(ref string, f func(t *turn, info *conversation.GroupInfo) error) error {
	var group []byte
	err := n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		if !c.Many {
			return fmt.Errorf("%w: %q is no group", ErrInvalid, ref)
		}
		group = c.Group
		return nil
	})
	if err != nil {
		return apiError(err)
	}
	o := n.needOwner(group)
	if o == nil {
		return ErrStopped
	}
	return apiError(o.do(func(t *turn) error {
		if t.core.Over || t.core.Leaving {
			return fmt.Errorf("%w: you have left %s", ErrFrozen, t.rec.Name)
		}
		if t.core.Frozen != "" {
			return fmt.Errorf("%w: %s", ErrFrozen, t.core.Frozen)
		}
		info, err := conversation.Group(t.group.Context())
		if err != nil {
			return err
		}
		return f(t, info)
	}))
}

// ChangeGroup notes what is to be changed in a group; it comes about as soon as a commit
// with it is the first at the relay, which shows as an event. It returns ErrNotAllowed if
// this account's role does not permit it, ErrNotFound, ErrInvalid, ErrNotReady, ErrFrozen.
func (n *Node) ChangeGroup(ctx context.Context, ref string, g GroupChange) (Group, error) {
	err := n.inGroup(ref, func(t *turn, info *conversation.GroupInfo) error {
		may := info.May(n.account.ID())
		need := func(r conversation.Rights, wanted bool, what string) error {
			if wanted && may&r == 0 {
				return fmt.Errorf("%w: as %s you may not %s in %s", ErrNotAllowed, roleNames[info.Role(n.account.ID())], what, t.rec.Name)
			}
			return nil
		}
		err := errors.Join(need(conversation.MayRename, g.Name != nil || g.Description != nil || g.Picture != nil, "change name, description or picture"),
			need(conversation.MayAdd, len(g.Add) > 0, "add anybody"), need(conversation.MayRemove, len(g.Remove) > 0, "remove anybody"))
		if err != nil {
			return err
		}
		if (g.Announce != nil || len(g.Policy) > 0) && info.Role(n.account.ID()) != conversation.Owner {
			return fmt.Errorf("%w: only owners decide what others may do in %s", ErrNotAllowed, t.rec.Name)
		}
		var changes []store.Change
		if g.Picture != nil {
			c := store.Change{What: store.ChangePicture}
			if len(*g.Picture) > 0 {
				var err error
				if c.Picture, err = ShrinkPicture(*g.Picture); err != nil {
					return err
				}
			}
			changes = append(changes, c)
		}
		for _, p := range g.Policy {
			c, err := p.change()
			if err != nil {
				return err
			}
			changes = append(changes, c)
		}
		if g.Name != nil {
			name, err := identity.NormalizeName(*g.Name)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			changes = append(changes, store.Change{What: store.ChangeName, Text: name})
		}
		if g.Description != nil {
			if err := (conversation.Profile{Name: "x", Description: *g.Description}).Check(); err != nil {
				return fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			changes = append(changes, store.Change{What: store.ChangeAbout, Text: *g.Description})
		}
		if g.Announce != nil {
			changes = append(changes, store.Change{What: store.ChangeAnnounce, Role: boolBit(*g.Announce)})
		}
		members, err := n.members(t.tx, t.group)
		if err != nil {
			return err
		}
		if len(g.Remove) > 0 {
			c := store.Change{What: store.ChangeRemove}
			for _, who := range g.Remove {
				a, err := findMember(members, who)
				if err != nil {
					return err
				}
				if a == n.account.ID() {
					return fmt.Errorf("%w: to go yourself, leave the group", ErrInvalid)
				}
				if info.Role(a) >= info.Role(n.account.ID()) {
					return fmt.Errorf("%w: %s has a role that is no lower than yours", ErrNotAllowed, who)
				}
				c.Accounts = append(c.Accounts, a)
			}
			changes = append(changes, c)
		}
		for _, r := range g.Roles {
			a, err := findMember(members, r.Member)
			if err != nil {
				return err
			}
			to, err := parseRole(r.Role)
			if err != nil {
				return err
			}
			if !info.MayGive(n.account.ID(), a, to) {
				return fmt.Errorf("%w: as %s you may not make %s %s", ErrNotAllowed, roleNames[info.Role(n.account.ID())], r.Member, r.Role)
			}
			changes = append(changes, store.Change{What: store.ChangeRole, Accounts: [][32]byte{a}, Role: uint8(to)})
		}
		for i := range changes {
			if err := t.tx.AddChange(t.o.group, &changes[i]); err != nil {
				return err
			}
			if err := t.step(conversation.Change{ID: conversation.ChangeID(changes[i].ID)}); err != nil {
				return err
			}
		}
		if len(g.Add) > 0 {
			ids, err := t.wishAdd(g.Add, int(info.MaxLeaves))
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := t.step(conversation.Change{ID: id}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return Group{}, err
	}
	return n.Group(ctx, ref)
}

// LeaveGroup takes this account out of a group: what it can read stays, nothing new
// comes. The others see that it left.
func (n *Node) LeaveGroup(ctx context.Context, ref string) error {
	return n.inGroup(ref, func(t *turn, info *conversation.GroupInfo) error {
		t.events = true
		if len(info.Roles) == 1 { // nobody is there who could commit it
			t.core.Over = true
			return t.ended()
		}
		return errors.Join(t.n.noteConversation(t.tx, t.o.group), t.step(conversation.Leave{}))
	})
}

// Group returns a group with its members.
func (n *Node) Group(ctx context.Context, ref string) (out Group, err error) {
	if out.Conversation, err = n.Conversation(ctx, ref); err != nil {
		return out, err
	}
	out.Members = []GroupMember{}
	if out.Conversation.Kind != KindGroup {
		return out, fmt.Errorf("%w: %q is no group", ErrInvalid, ref)
	}
	if out.State == StateLeft {
		return out, nil
	}
	o := n.ownerOf(groupOf(out.Conversation.ID))
	if o == nil { // it has just been joined
		o = &owner{n: n, group: groupOf(out.Conversation.ID)}
	}
	s, err := o.snapshot()
	if err != nil {
		return out, apiError(err)
	}
	info, err := conversation.Group(s.group.Context())
	if err != nil {
		return out, err
	}
	profile, err := conversation.ParseProfile(info.Profile)
	if err != nil {
		return out, err
	}
	out.Description, out.Announce = profile.Description, info.MemberMay&conversation.MayWrite == 0
	out.Picture, out.Policy = shownPicture(profile.Picture), policyOf(info)
	out.Changing, out.MaxLeaves = len(s.core.Changes), int(info.MaxLeaves)
	err = n.view(func(tx *store.Tx) (err error) { out.Members, err = n.members(tx, s.group); return err })
	return out, apiError(err)
}

// members lists the accounts of a group, the highest roles first.
func (n *Node) members(tx *store.Tx, g *mls.Group) ([]GroupMember, error) {
	info, err := conversation.Group(g.Context())
	if err != nil {
		return nil, err
	}
	accounts, err := accountsOf(g)
	if err != nil {
		return nil, err
	}
	names := n.namer(tx)
	var out []GroupMember
	for _, r := range info.Roles {
		m := GroupMember{Account: identity.AccountID(r.Account).String(), Name: names.in(g.GroupID(), r.Account), Role: roleNames[r.Role], You: r.Account == n.account.ID()}
		for _, a := range accounts {
			if a == r.Account {
				m.Devices++
			}
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b GroupMember) int {
		ra, _ := parseRole(a.Role)
		rb, _ := parseRole(b.Role)
		return int(rb) - int(ra)
	})
	return out, nil
}

func findMember(members []GroupMember, ref string) (identity.AccountID, error) {
	var found []GroupMember
	for _, m := range members {
		if m.Name == ref || m.Account == ref {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return identity.ParseAccountID(found[0].Account)
	case 0:
		return identity.AccountID{}, fmt.Errorf("%w: there is no member %q; sotto group members shows them", ErrNotFound, ref)
	}
	return identity.AccountID{}, fmt.Errorf("%w: %d members are called %q; use the account", ErrAmbiguous, len(found), ref)
}

// joinSpread is for how long, for each member, those who join put off their first path
// update, so that they do not all commit at once; and joinSpreadMax for how long at most.
const (
	joinAtOnce    = 4  // members up to which nobody waits
	joinAside     = 32 // and beyond which a message is not kept waiting by the update
	joinSpread    = 30 * time.Second
	joinSpreadMax = 6 * time.Hour
)

// invitedBy returns the contact that a welcome can be from, or this account, and the key
// package that it was given for that.
func (n *Node) invitedBy(tx *store.Tx, w *conversation.Welcome) (contact store.Contact, held store.Bundle, err error) {
	held, err = tx.Bundle(w.Package)
	if errors.Is(err, store.ErrNotFound) {
		return contact, held, passOver("a welcome for no key package of ours")
	}
	if err != nil {
		return contact, held, err
	}
	if held.Joining != [32]byte{} { // who lets us in need not be somebody we know
		j, err := tx.Joining(held.Joining)
		return store.Contact{Account: j.Account, Name: j.By}, held, err
	}
	if held.Contact == n.account.ID() {
		return store.Contact{Account: held.Contact, Name: "Another device of yours"}, held, nil
	}
	if contact, err = tx.Contact(held.Contact); err != nil {
		return contact, held, err
	}
	if contact.Blocked || contact.State != store.ContactEstablished {
		err = passOver("a welcome from a contact that is blocked or not complete")
	}
	return contact, held, err
}

// join joins a group by a letter and its invitation. It returns the group.
func (n *Node) join(tx *store.Tx, w *conversation.Welcome, content []byte) ([]byte, error) {
	contact, held, err := n.invitedBy(tx, w)
	if err != nil {
		return nil, err
	}
	bundle, err := mls.ParseKeyPackageBundle(held.Bundle)
	if err != nil {
		return nil, err
	}
	invitation, err := conversation.ParseInvitation(content)
	if err != nil {
		return nil, passOver("%w", err)
	}
	g, inviter, err := mls.Join(n.mlsConfig(), invitation.Welcome, bundle, &mls.JoinOptions{RatchetTree: invitation.Tree})
	if err != nil {
		return nil, passOver("%w", err)
	}
	var info *conversation.GroupInfo
	var joining store.Joining
	from := identity.AccountID(contact.Account)
	own := from == n.account.ID()
	switch {
	case held.Joining != [32]byte{}:
		if joining, err = tx.Joining(held.Joining); err != nil {
			return nil, err
		}
		info, from, err = conversation.ValidateLink(g, inviter, joining.Group, joining.Account)
	case own:
		var by conversation.Leaf
		if info, by, err = conversation.ValidateOwnWelcome(g, inviter, from); err == nil && !n.account.active(by.Device) {
			err = errors.New("made by a device that the account no longer has")
		}
		if err == nil && info.Kind != conversation.ManyPeople {
			return n.joinOwn(tx, w, &held, g, info)
		}
	default:
		info, err = conversation.ValidateWelcome(g, inviter, from)
	}
	if err != nil {
		return nil, passOver("%w", err)
	}
	profile, err := conversation.ParseProfile(info.Profile)
	if err != nil {
		return nil, passOver("%w", err)
	}
	group := g.GroupID()
	rec, _, err := n.comeBack(tx, store.Conversation{Group: group, Since: n.clock()}, "a welcome into a group that this device is in")
	if err != nil {
		return nil, err
	}
	core, keys, err := n.enterGroup(&rec, w, &held, g, info)
	if err != nil {
		return nil, err
	}
	rec.Many, rec.Name, rec.Announced, rec.Retention = true, profile.Name, false, info.Retention
	if !held.LastResort {
		if err := tx.DeleteBundle(held.Ref); err != nil {
			return nil, err
		}
	}
	for _, m := range w.Names {
		if name, err := identity.NormalizeName(m.Name); err == nil && info.Role(m.Account) != 0 {
			if err := tx.PutName(group, m.Account, name); err != nil {
				return nil, err
			}
		}
	}
	now := n.clock()
	told := &store.Message{ID: random32(), Seq: uint64(w.At.Seq), State: store.MessageReceived, Kind: store.KindChange, From: from,
		Sent: now, Arrived: now, Told: []store.Told{{What: store.ToldAdded, Of: n.account.ID()}}}
	if own {
		told.Mine, told.Told = true, []store.Told{{What: store.ToldThisDevice, Of: n.account.ID()}}
	}
	rec.Messages++
	err = errors.Join(n.putConversation(tx, &rec, g, core, keys), n.noteRoster(tx, g), tx.PutMessage(group, told), n.noteMessage(tx, group, told.ID))
	if held.Joining != [32]byte{} {
		joining.Step = store.AcceptDone
		return group, errors.Join(err, tx.PutJoining(&joining))
	}
	// What was used up is replaced.
	if !own {
		n.takeUp(contact.Group)
	}
	return group, err
}

// enterGroup makes the record and the core of a group that a welcome has led to.
func (n *Node) enterGroup(rec *store.Conversation, w *conversation.Welcome, held *store.Bundle, g *mls.Group, info *conversation.GroupInfo) (*conversation.Core, conversation.EpochKeys, error) {
	ref := info.Mailboxes[0]
	at, err := wire.ReadAddress(ref.Relay)
	if err != nil {
		return nil, conversation.EpochKeys{}, passOver("%w", err)
	}
	keys, err := conversation.DeriveKeys(g, ref.Mailbox)
	if err != nil {
		return nil, keys, err
	}
	rec.Relay, rec.Mailbox, rec.BaseEpoch, rec.Made = at.String(), ref.Mailbox, ref.BaseEpoch, nil
	core := &conversation.Core{Epoch: g.Epoch(), Gen: mailbox.Gen(g.Epoch() - ref.BaseEpoch), Cursor: w.At, Chain: w.Chain, Fence: w.At, Open: true, Wanted: true}
	if members := len(g.Roster()); members > joinAtOnce {
		core.Later = n.clock().Add(n.opt.Random(min(time.Duration(members)*joinSpread, joinSpreadMax)))
		core.Aside = members > joinAside && !held.LastResort
	}
	return core, keys, nil
}

// comeBack returns the conversation that a device enters: the one it has left, whose history goes
// on, or fresh. One that it is in, still, it does not enter: why says so.
func (n *Node) comeBack(tx *store.Tx, fresh store.Conversation, why string) (rec store.Conversation, again bool, err error) {
	old, err := tx.Conversation(fresh.Group)
	if errors.Is(err, store.ErrNotFound) {
		return fresh, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	core, err := coreOf(&old)
	if err == nil && !core.Over {
		err = passOver("%s", why)
	}
	return old, true, err
}

// joinOwn joins a conversation between two, or the one among the account's devices, that
// another of these has brought this one into.
func (n *Node) joinOwn(tx *store.Tx, w *conversation.Welcome, held *store.Bundle, g *mls.Group, info *conversation.GroupInfo) ([]byte, error) {
	group := g.GroupID()
	rec, again, err := n.comeBack(tx, store.Conversation{Group: group, Since: n.clock(), Own: info.Kind == conversation.Self, Contact: n.account.ID()},
		"a welcome into a conversation that this device is in")
	if err != nil {
		return nil, err
	}
	if again { // the device is one again
		rec.LogTold = 0
	}
	core, keys, err := n.enterGroup(&rec, w, held, g, info)
	if err != nil {
		return nil, err
	}
	if rec.Own {
		own, err := tx.Self()
		own.Group = group
		return group, errors.Join(err, tx.PutSelf(&own), n.putConversation(tx, &rec, g, core, keys), n.noteDevice(tx, n.device.ID))
	}
	for _, r := range info.Roles {
		if r.Account != n.account.ID() {
			rec.Contact = r.Account
		}
	}
	rec.Retention = info.Retention
	c, err := tx.Contact(rec.Contact)
	switch {
	case errors.Is(err, store.ErrNotFound): // the account's devices will say more of it
		c = store.Contact{Account: rec.Contact, State: store.ContactEstablished, Since: n.clock()}
		name := identity.AccountID(rec.Contact).Short()
		for _, m := range w.Names {
			if named, err := identity.NormalizeName(m.Name); err == nil && m.Account == rec.Contact {
				name, c.Profile = named, named
			}
		}
		if c.Name, err = freeName(tx, name, rec.Contact); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	c.Group = group
	now := n.clock()
	told := &store.Message{ID: random32(), Seq: uint64(w.At.Seq), Mine: true, State: store.MessageReceived, Kind: store.KindChange, From: n.account.ID(),
		Sent: now, Arrived: now, Told: []store.Told{{What: store.ToldThisDevice, Of: n.account.ID()}}}
	rec.Messages++
	_, err = tx.AddEvent(&store.Event{Type: store.EventContact, Time: now, Contact: c.Account})
	return group, errors.Join(err, tx.PutContact(&c), n.putConversation(tx, &rec, g, core, keys), tx.PutMessage(group, told), n.noteMessage(tx, group, told.ID))
}
