package node

import (
	"context"
	"crypto/sha256"
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
}

// Group is a group conversation with its members.
type Group struct {
	Conversation
	Description string        `json:"description,omitempty"`
	Announce    bool          `json:"announce,omitempty" doc:"members without another role may not write"`
	Members     []GroupMember `json:"members" nullable:"false"`
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
		box, err := newMailbox(home, conversationTerms, key.CapabilityPublic{}, key.CapabilityPublic{}, in.Mailbox.Ticket)
		if err != nil {
			return err
		}
		at, err := wire.ParseAddress(box.Relay)
		if err != nil {
			return err
		}
		credential, leaf, err := n.leaf(&in)
		if err != nil {
			return err
		}
		info := conversation.NewGroup(conversation.MailboxRef{Relay: at.Append(nil), Mailbox: box.ID}, n.account.ID(), profile)
		g, err := mls.NewGroup(n.mlsConfig(), mls.GroupOptions{Suite: mls.XWing, Credential: credential, Lifetime: n.lifetime(), Capabilities: capabilities(), LeafExtensions: leaf,
			Extensions: mls.Extensions{conversation.RequiredCapabilities(), {Type: mls.ExtensionType(conversation.ExtensionGroup), Data: info.Append(nil)}}})
		if err != nil {
			return err
		}
		keys, err := conversation.DeriveKeys(g, box.ID)
		if err != nil {
			return err
		}
		box.ReadKey, box.AppendKey = [32]byte(keys.Read.Public().Bytes()), [32]byte(keys.Append.Public().Bytes())
		rec = &store.Conversation{Group: g.GroupID(), Relay: box.Relay, Mailbox: box.ID, Made: &box, Since: n.clock(), Many: true, Name: name}
		core := &conversation.Core{Chain: mailbox.FirstChain(box.ID), Open: true, Updated: n.clock(), Active: n.clock()}
		t := &turn{ownerState: &ownerState{rec: *rec}, o: &owner{group: rec.Group}, n: n, tx: tx, now: n.clock()}
		if len(o.Members) > 0 {
			c, err := t.wishAdd(o.Members)
			if err != nil {
				return err
			}
			core.Changes = []conversation.ChangeID{conversation.ChangeID(c)}
		}
		return n.putConversation(tx, rec, g, core, keys)
	})
	if err != nil {
		return Conversation{}, apiError(err)
	}
	n.takeUp(rec.Group)
	return n.Conversation(ctx, groupID(rec.Group))
}

// wishAdd notes that contacts are to be added, with the key packages that takes.
func (t *turn) wishAdd(refs []string) (id uint64, err error) {
	c := store.Change{What: store.ChangeAdd}
	for _, ref := range refs {
		contact, err := findContact(t.tx, ref)
		switch {
		case err != nil:
			return 0, err
		case contact.State != store.ContactEstablished:
			return 0, fmt.Errorf("%w: %s is no complete contact yet: %s", ErrNotReady, contact.Name, contactWaits(contact))
		case contact.Blocked:
			return 0, fmt.Errorf("%w: %s", ErrBlocked, contact.Name)
		case slices.Contains(c.Accounts, contact.Account):
			continue
		}
		packages, err := t.setAside(contact)
		if err != nil {
			return 0, err
		}
		c.Accounts, c.Packages = append(c.Accounts, contact.Account), append(c.Packages, packages...)
	}
	err = t.tx.AddChange(t.o.group, &c)
	return c.ID, err
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
	o := n.ownerOf(group)
	if o == nil {
		return fmt.Errorf("%w: the node is stopping", ErrBusy)
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
		err := errors.Join(need(conversation.MayRename, g.Name != nil || g.Description != nil, "change name or description"),
			need(conversation.MayChangeRoles, g.Announce != nil, "decide who writes"),
			need(conversation.MayAdd, len(g.Add) > 0, "add anybody"), need(conversation.MayRemove, len(g.Remove) > 0, "remove anybody"))
		if err != nil {
			return err
		}
		var changes []store.Change
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
			id, err := t.wishAdd(g.Add)
			if err != nil {
				return err
			}
			return t.step(conversation.Change{ID: conversation.ChangeID(id)})
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
	out.Changing = len(s.core.Changes)
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
	joinAtOnce    = 4 // members up to which nobody waits
	joinSpread    = 30 * time.Second
	joinSpreadMax = 6 * time.Hour
)

// join joins a group by a letter. It returns the group.
func (n *Node) join(tx *store.Tx, body []byte) ([]byte, error) {
	w, err := conversation.ParseWelcome(body)
	if err != nil {
		return nil, passOver("%w", err)
	}
	refs, err := mls.WelcomeRefs(w.Welcome)
	if err != nil {
		return nil, passOver("%w", err)
	}
	var held store.Bundle
	for _, ref := range refs {
		held, err = tx.Bundle(sha256.Sum256(ref))
		if !errors.Is(err, store.ErrNotFound) {
			break
		}
	}
	if errors.Is(err, store.ErrNotFound) || len(refs) == 0 {
		return nil, passOver("a welcome for no key package of ours")
	}
	if err != nil {
		return nil, err
	}
	contact, err := tx.Contact(held.Contact)
	if err != nil {
		return nil, err
	}
	if contact.Blocked || contact.State != store.ContactEstablished {
		return nil, passOver("a welcome from a contact that is blocked or not complete")
	}
	bundle, err := mls.ParseKeyPackageBundle(held.Bundle)
	if err != nil {
		return nil, err
	}
	g, inviter, err := mls.Join(n.mlsConfig(), w.Welcome, bundle, nil)
	if err != nil {
		return nil, passOver("%w", err)
	}
	info, err := conversation.ValidateWelcome(g, inviter, contact.Account)
	if err != nil {
		return nil, passOver("%w", err)
	}
	profile, err := conversation.ParseProfile(info.Profile)
	if err != nil {
		return nil, passOver("%w", err)
	}
	group := g.GroupID()
	rec := store.Conversation{Group: group, Since: n.clock()}
	switch old, err := tx.Conversation(group); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		core, err := coreOf(&old)
		if err != nil {
			return nil, err
		}
		if !core.Over {
			return nil, passOver("a welcome into a group that this device is in")
		}
		rec = old // it has come back: the history goes on
	}
	ref := info.Mailboxes[0]
	at, err := wire.ReadAddress(ref.Relay)
	if err != nil {
		return nil, passOver("%w", err)
	}
	keys, err := conversation.DeriveKeys(g, ref.Mailbox)
	if err != nil {
		return nil, err
	}
	rec.Relay, rec.Mailbox, rec.BaseEpoch, rec.Made = at.String(), ref.Mailbox, ref.BaseEpoch, nil
	rec.Many, rec.Name, rec.Announced, rec.Retention = true, profile.Name, false, info.Retention
	core := &conversation.Core{Epoch: g.Epoch(), Gen: mailbox.Gen(g.Epoch() - ref.BaseEpoch), Cursor: w.At, Chain: w.Chain, Fence: w.At, Open: true, Wanted: true}
	if members := len(g.Roster()); members > joinAtOnce {
		core.Later = n.clock().Add(n.opt.Random(min(time.Duration(members)*joinSpread, joinSpreadMax)))
	}
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
	told := &store.Message{ID: random32(), Seq: uint64(w.At.Seq), State: store.MessageReceived, Kind: store.KindChange, From: contact.Account,
		Sent: now, Arrived: now, Told: []store.Told{{What: store.ToldAdded, Of: n.account.ID()}}}
	rec.Messages++
	err = errors.Join(n.putConversation(tx, &rec, g, core, keys), tx.PutMessage(group, told), n.noteMessage(tx, group, told.ID))
	// What was used up is replaced.
	n.takeUp(contact.Group)
	return group, err
}
