package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/mailbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

// GroupLink is a link to a group that this node has made.
type GroupLink struct {
	ID      string    `json:"id"`
	Link    string    `json:"link,omitempty" doc:"only when it is made"`
	Words   string    `json:"words,omitempty" doc:"what to know about where it works"`
	Expires time.Time `json:"expires"`
}

// GroupRequest is somebody who has opened a link to a group and asks to be let in.
type GroupRequest struct {
	Account string    `json:"account"`
	Name    string    `json:"name" doc:"what they call themselves"`
	Since   time.Time `json:"since"`
}

// Joining is a group that this account has asked to be let into.
type Joining struct {
	ID    string    `json:"id"`
	Group string    `json:"group,omitempty" doc:"its name, once the link has been opened"`
	By    string    `json:"by,omitempty" doc:"who made the link"`
	State string    `json:"state" enum:"opening,asking,waiting,joined,failed"`
	Words string    `json:"reason,omitempty"`
	Since time.Time `json:"since"`
}

var joiningStates = map[uint8]string{store.AcceptTaking: "opening", store.AcceptSending: "asking", store.AcceptWaiting: "waiting", store.AcceptDone: "joined", store.AcceptFailed: "failed"}

// maxRequests is how many may wait to be let into one group.
const maxRequests = 100

// LinkGroup makes a link to a group: whoever opens it asks to be let in, until it expires or
// is revoked. It takes the right to add, and returns ErrNotAllowed without.
func (n *Node) LinkGroup(ctx context.Context, ref string, expires time.Duration) (GroupLink, error) {
	if expires == 0 {
		expires = DefaultInvite
	}
	if expires < minInvite || expires > maxInvite {
		return GroupLink{}, fmt.Errorf("%w: a link can be opened for between a minute and 90 days", ErrInvalid)
	}
	home := n.homeRelay()
	if home == "" {
		return GroupLink{}, fmt.Errorf("%w: this node knows no relay", ErrUnreachable)
	}
	offer, at, err := n.offer(home, expires)
	if err != nil {
		return GroupLink{}, err
	}
	var rec *store.Invite
	var link handshake.Link
	err = n.inGroup(ref, func(t *turn, info *conversation.GroupInfo) error {
		if info.May(n.account.ID())&conversation.MayAdd == 0 {
			return fmt.Errorf("%w: as %s you may not add anybody to %s", ErrNotAllowed, roleNames[info.Role(n.account.ID())], t.rec.Name)
		}
		in, err := t.tx.Inbox()
		if err != nil {
			return err
		}
		if offer.Inbox, err = n.inboxRef(&in); err != nil {
			return err
		}
		offer.Group, offer.GroupName = t.o.group, t.rec.Name
		var value []byte
		var secrets *handshake.Inviter
		link, value, secrets, err = handshake.NewInvite(offer)
		if err != nil {
			return err
		}
		read, owner := link.Secret.SlotRead(), key.NewCapability()
		rec = &store.Invite{OfferHash: secrets.OfferHash, Secrets: secrets.Append(nil), Relay: home, Slot: wire.SlotID(at.Key, read.Public()),
			Owner: owner.Seed(), Reader: read.Seed(), Value: value, Expires: offer.Expires, State: store.InviteOpen, Created: t.now, Group: t.o.group}
		return t.tx.PutInvite(rec)
	})
	if err != nil {
		return GroupLink{}, err
	}
	n.placeInvite(rec.OfferHash)
	placed := n.waitPlaced(ctx, rec.OfferHash)
	return GroupLink{ID: inviteID(rec.OfferHash), Link: link.Text(), Expires: mailbox.Minute(rec.Expires).Time(),
		Words: inviteWords(transport.ReachOf(at), n.opt.Embedded != nil && n.opt.Embedded.Address.Key == at.Key, placed, "")}, nil
}

// GroupLinks returns the links to a group that this node has made and that can be opened.
func (n *Node) GroupLinks(ctx context.Context, ref string) (out []GroupLink, err error) {
	out = []GroupLink{}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		all, err := tx.Invites()
		for _, i := range all {
			if string(i.Group) == string(c.Group) && i.State == store.InviteOpen && i.Expires > uint32(mailbox.MinuteOf(n.clock())) {
				out = append(out, GroupLink{ID: inviteID(i.OfferHash), Expires: mailbox.Minute(i.Expires).Time()})
			}
		}
		return err
	})
	return out, apiError(err)
}

// groupRequest takes in that somebody has opened a link of ours. The group's owner passes it
// on to the others who may let them in.
func (n *Node) groupRequest(tx *store.Tx, inv *store.Invite, b *handshake.RequestBody) error {
	if inv.State != store.InviteOpen || inv.Expires <= uint32(mailbox.MinuteOf(n.clock())) {
		return passOver("a request to a link that is over")
	}
	secrets, err := handshake.ParseInviter(inv.Secrets)
	if err != nil {
		return err
	}
	q, err := secrets.Read(b)
	if err != nil {
		return passOver("a request that does not hold: %w", err)
	}
	r := &store.GroupRequest{Account: q.Log.ID(), Name: q.Name, Log: q.Log.Append(nil), Set: q.Devices.Append(nil), Packages: q.KeyPackages, Since: n.clock(), Pass: true}
	if err := checkRequest(r); err != nil {
		return passOver("%w", err)
	}
	return n.putRequest(tx, inv.Group, r)
}

// putRequest keeps a request unless it is known or there are too many.
func (n *Node) putRequest(tx *store.Tx, group []byte, r *store.GroupRequest) error {
	all, err := tx.GroupRequests(group)
	if err != nil {
		return err
	}
	for _, old := range all {
		if old.Account == r.Account {
			return nil
		}
	}
	if len(all) >= maxRequests || r.Account == n.account.ID() {
		return nil
	}
	if c, err := tx.Contact(r.Account); err == nil && c.Blocked {
		return nil
	}
	return errors.Join(tx.PutGroupRequest(group, r), n.noteConversation(tx, group))
}

// checkRequest verifies that a request is of the account it names, by one of its devices:
// that brings the others in.
func checkRequest(r *store.GroupRequest) error {
	name, err := identity.NormalizeName(r.Name)
	if err != nil || name != r.Name {
		return fmt.Errorf("a name that is none (%v)", err)
	}
	log, err := identity.ParseLog(r.Log)
	if err != nil {
		return err
	}
	set, err := identity.ParseDeviceSet(r.Set)
	if err != nil {
		return err
	}
	if err := set.Verify(log); err != nil {
		return err
	}
	if log.ID() != r.Account || len(r.Packages) != 1 {
		return errors.New("not one key package, of a device of the account")
	}
	kp, account, err := readPackage(r.Packages[0])
	if err != nil {
		return err
	}
	if _, device, err := conversation.LeafOf(kp.LeafNode); err != nil || account != r.Account || !slices.Contains(set.Devices, device) {
		return fmt.Errorf("a key package of another device (%v)", err)
	}
	return nil
}

// passRequests tells the others in the group who asks to be let in.
func (t *turn) passRequests() error {
	all, err := t.tx.GroupRequests(t.o.group)
	if err != nil || !t.rec.Many || t.core.Over {
		return err
	}
	for i := range all {
		r := &all[i]
		if !r.Pass {
			continue
		}
		r.Pass = false
		t.rec.Lamport++
		if _, err := t.tell(content.NewGroupRequest(r.Name, r.Log, r.Set, r.Packages, t.now, t.rec.Lamport)); err != nil {
			return err
		}
		if err := t.tx.PutGroupRequest(t.o.group, r); err != nil {
			return err
		}
	}
	return nil
}

// takeRequest keeps what another member has passed on, if this account may let anybody in.
func (t *turn) takeRequest(c *content.Message, rights conversation.Rights) error {
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	if !t.rec.Many || rights&conversation.MayAdd == 0 || info.May(t.n.account.ID())&conversation.MayAdd == 0 {
		return nil
	}
	t.events = true
	if c.Kind == content.GroupRefusal {
		return errors.Join(t.tx.DeleteGroupRequest(t.o.group, [32]byte(c.Account)), t.n.noteConversation(t.tx, t.o.group))
	}
	log, err := identity.ParseLog(c.Log)
	if err != nil {
		return nil
	}
	r := &store.GroupRequest{Account: log.ID(), Name: c.Text, Log: c.Log, Set: c.DeviceSet, Packages: c.Packages, Since: t.now}
	if err := checkRequest(r); err != nil || info.Role(r.Account) != 0 {
		t.n.log.Debug("a request to be let in is passed over", "err", err)
		return nil
	}
	return t.n.putRequest(t.tx, t.o.group, r)
}

// settleRequests forgets the requests of those who are in.
func (t *turn) settleRequests() error {
	all, err := t.tx.GroupRequests(t.o.group)
	if err != nil || len(all) == 0 {
		return err
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	for _, r := range all {
		if info.Role(r.Account) == 0 {
			continue
		}
		t.events = true
		if err := errors.Join(t.tx.DeleteGroupRequest(t.o.group, r.Account), t.n.noteConversation(t.tx, t.o.group)); err != nil {
			return err
		}
	}
	return nil
}

// GroupRequests returns who asks to be let into a group, as far as this account may do that.
func (n *Node) GroupRequests(ctx context.Context, ref string) (out []GroupRequest, err error) {
	out = []GroupRequest{}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		all, err := tx.GroupRequests(c.Group)
		for _, r := range all {
			out = append(out, GroupRequest{Account: identity.AccountID(r.Account).String(), Name: r.Name, Since: r.Since})
		}
		return err
	})
	return out, apiError(err)
}

// AnswerRequest lets somebody into a group, or declines; who is by account or name. Whoever
// asked is not told of a refusal.
func (n *Node) AnswerRequest(ctx context.Context, ref, who string, in bool) error {
	return n.inGroup(ref, func(t *turn, info *conversation.GroupInfo) error {
		if info.May(n.account.ID())&conversation.MayAdd == 0 {
			return fmt.Errorf("%w: you may not let anybody into %s", ErrNotAllowed, t.rec.Name)
		}
		all, err := t.tx.GroupRequests(t.o.group)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(r store.GroupRequest) bool {
			return r.Name != who && identity.AccountID(r.Account).String() != who
		})
		switch {
		case len(all) == 0:
			return fmt.Errorf("%w: nobody called %q asks to be let into %s", ErrNotFound, who, t.rec.Name)
		case len(all) > 1:
			return fmt.Errorf("%w: %d who ask are called %q; use the account", ErrAmbiguous, len(all), who)
		}
		r := all[0]
		t.events = true
		if !in {
			t.rec.Lamport++
			_, err := t.tell(content.NewGroupRefusal(r.Account, t.now, t.rec.Lamport))
			return errors.Join(err, t.tx.DeleteGroupRequest(t.o.group, r.Account), n.noteConversation(t.tx, t.o.group))
		}
		if room := int(info.MaxLeaves) - len(t.group.Roster()); len(r.Packages) > room {
			return fmt.Errorf("%w: the group has room for %d devices", ErrTooLarge, info.MaxLeaves)
		}
		c := &store.Change{What: store.ChangeAdd, Accounts: [][32]byte{r.Account}, Packages: r.Packages}
		return errors.Join(t.tx.AddChange(t.o.group, c), n.noteConversation(t.tx, t.o.group), t.step(conversation.Change{ID: conversation.ChangeID(c.ID)}))
	})
}

// JoinGroup opens a link to a group and asks to be let in. It returns at once; what comes of
// it is told by notices, and the group is there when somebody has let this account in.
func (n *Node) JoinGroup(ctx context.Context, text string) (Joining, error) {
	link, err := handshake.ParseGroupLink(text)
	if err != nil {
		return Joining{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := link.Check(uint32(mailbox.MinuteOf(n.clock()))); err != nil {
		return Joining{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	j := store.Joining{ID: link.ID(), Link: text, Step: store.AcceptTaking, Since: n.clock()}
	err = n.update(func(tx *store.Tx) error {
		if old, err := tx.Joining(j.ID); err == nil && old.Step != store.AcceptFailed {
			return fmt.Errorf("%w: this link was opened here before", ErrExists)
		}
		return tx.PutJoining(&j)
	})
	if err != nil {
		return Joining{}, apiError(err)
	}
	n.advanceJoining(j.ID)
	return showJoining(&j), nil
}

func showJoining(j *store.Joining) Joining {
	return Joining{ID: fmt.Sprintf("%x", j.ID[:8]), Group: j.Name, By: j.By, State: joiningStates[j.Step], Words: j.Reason, Since: j.Since}
}

// Joinings returns the groups that this account has asked to be let into.
func (n *Node) Joinings(ctx context.Context) (out []Joining, err error) {
	out = []Joining{}
	err = n.view(func(tx *store.Tx) error {
		all, err := tx.Joinings()
		for i := range all {
			out = append(out, showJoining(&all[i]))
		}
		return err
	})
	return out, apiError(err)
}

// advanceJoining takes a link that was opened here on until it is with who made it.
func (n *Node) advanceJoining(id [32]byte) {
	n.task(fmt.Sprintf("join %x", id[:8]), func(ctx context.Context) error {
		for {
			var j store.Joining
			if err := n.view(func(tx *store.Tx) (err error) { j, err = tx.Joining(id); return err }); err != nil {
				return err
			}
			var err error
			switch j.Step {
			case store.AcceptTaking:
				err = n.openGroupLink(ctx, &j)
			case store.AcceptSending:
				if err = n.deposit(ctx, j.Relay, j.Inbox, j.AppendSeed, j.Entry); err == nil {
					err = n.update(func(tx *store.Tx) error {
						j.Step, j.Entry, j.Link = store.AcceptWaiting, nil, ""
						return errors.Join(tx.PutJoining(&j), n.notice(tx, fmt.Sprintf("%s has been asked to let you into %s.", j.By, j.Name)))
					})
				}
			default:
				return nil
			}
			var final *finalError
			if errors.As(err, &final) {
				return n.update(func(tx *store.Tx) error {
					j.Step, j.Reason, j.Link = store.AcceptFailed, final.reason, ""
					return errors.Join(tx.PutJoining(&j), n.notice(tx, "A link to a group does not work: "+final.reason+"."))
				})
			}
			if err != nil {
				return err
			}
		}
	})
}

// openGroupLink reads what a link leads to and makes the request.
func (n *Node) openGroupLink(ctx context.Context, j *store.Joining) error {
	link, err := handshake.ParseGroupLink(j.Link)
	if err != nil {
		return final(CauseInvalid, "%v", err)
	}
	if err := link.Check(uint32(mailbox.MinuteOf(n.clock()))); err != nil {
		return final(CauseGone, "%v", err)
	}
	at, err := linkAddress(link)
	if err != nil {
		return final(CauseInvalid, "it names no relay that this version can reach: %v", err)
	}
	r, err := n.relayAt(at)
	if err != nil {
		return err
	}
	read := link.Secret.SlotRead()
	_, value, err := r.client.ReadSlot(ctx, read)
	switch {
	case errors.Is(err, mailbox.ErrGone):
		return final(CauseGone, "it has expired, or was revoked by who made it")
	case err != nil:
		return err
	}
	offer, err := link.OpenOffer(wire.SlotID(link.Relay, read.Public()), value)
	if err != nil {
		return final(CauseNotTrusted, "%v", err)
	}
	q, err := n.contactRequest(ctx, link, offer, at, "it")
	if err != nil {
		return err
	}
	return n.update(func(tx *store.Tx) error {
		if c, err := tx.Conversation(offer.Group); err == nil {
			if core, err := coreOf(&c); err == nil && !core.Over {
				return final(CauseExists, "you are in %s already", c.Name)
			}
		}
		j.Step, j.Name, j.By, j.Group, j.Account = store.AcceptSending, offer.GroupName, offer.Name, offer.Group, offer.Log.ID()
		j.Relay, j.Inbox, j.AppendSeed, j.Entry = q.relay, offer.Inbox.Mailbox, offer.Inbox.AppendKey.Seed(), q.entry
		rec := &store.Bundle{Ref: conversation.PackageName(q.bundle.Ref()), Contact: j.Account, Joining: j.ID, Made: n.clock(), Bundle: q.bundle.Marshal()}
		return errors.Join(tx.PutBundle(rec), tx.PutJoining(j))
	})
}
