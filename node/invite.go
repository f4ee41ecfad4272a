package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

// InviteOptions are the wishes for an invite.
type InviteOptions struct {
	Expires time.Duration // from now; 0 means DefaultInvite
	Name    string        // what to call who opens it; empty: by their profile name
	Ask     bool          // whoever opens it is shown as a request, about which the user decides
}

// How long an invite can be opened.
const (
	DefaultInvite = 7 * 24 * time.Hour
	maxInvite     = 90 * 24 * time.Hour
	minInvite     = time.Minute
	placeWait     = 3 * time.Second     // for the relay to take the offer, before Invite returns
	ticketLife    = maxInvite           // of the ticket in an offer
	pendingLife   = 30 * 24 * time.Hour // of a contact that is never heard
)

// Invite makes an invite. Whoever opens the link becomes a contact: making it is
// consent, unless o.Ask says that it is not. It returns ErrInvalid, and ErrUnreachable if no relay is known.
func (n *Node) Invite(ctx context.Context, o InviteOptions) (Invite, error) {
	switch {
	case o.Expires == 0:
		o.Expires = DefaultInvite
	case o.Expires < minInvite || o.Expires > maxInvite:
		return Invite{}, fmt.Errorf("%w: an invite can be opened for between a minute and 90 days", ErrInvalid)
	}
	if o.Name != "" {
		var err error
		if o.Name, err = identity.NormalizeName(o.Name); err != nil {
			return Invite{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	home, ref, err := n.inviting()
	if err != nil {
		return Invite{}, err
	}
	offer, at, err := n.offer(home, o.Expires)
	if err != nil {
		return Invite{}, err
	}
	offer.Inbox = ref
	link, value, secrets, err := handshake.NewInvite(offer)
	if err != nil {
		return Invite{}, err
	}
	read, owner := link.Secret.SlotRead(), key.NewCapability()
	rec := &store.Invite{OfferHash: secrets.OfferHash, Secrets: secrets.Append(nil), Relay: home, Slot: wire.SlotID(at.Key, read.Public()),
		Owner: owner.Seed(), Reader: read.Seed(), Value: value, Expires: offer.Expires, Name: o.Name, State: store.InviteOpen, Created: n.clock(), Ask: o.Ask}
	if err := n.update(func(tx *store.Tx) error { return tx.PutInvite(rec) }); err != nil {
		return Invite{}, apiError(err)
	}
	n.placeInvite(rec.OfferHash)
	placed := n.waitPlaced(ctx, rec.OfferHash)

	out := n.showInvite(rec)
	out.Link = link.Text()
	out.Words = n.placeWords(at, placed)
	return out, nil
}

// offer returns what an offer says of this node whatever it invites to, for the relay at home;
// the inbox is to be filled in.
func (n *Node) offer(home string, life time.Duration) (o handshake.InviteOptions, at wire.Address, err error) {
	r, err := n.relayAt(home)
	if err != nil {
		return o, at, err
	}
	at = r.where()
	o = handshake.InviteOptions{Log: n.account.now(), Actor: n.actor(), Name: n.device.Name, Relay: at.Key,
		Expires: uint32(mailbox.MinuteOf(n.clock().Add(life + time.Minute - 1))),
		SlotID:  func(read key.CapabilityPublic) [32]byte { return wire.SlotID(at.Key, read) }}
	for _, h := range at.Hints {
		o.Hints = append(o.Hints, h.Bytes())
	}
	if e := n.opt.Embedded; e != nil && e.Address.Key == at.Key {
		o.Ticket = e.Ticket(ticketLife)
	}
	return o, at, nil
}

// inviting makes sure that this device can be written to, and returns the relay for new
// mailboxes and the inbox.
func (n *Node) inviting() (home string, ref identity.InboxRef, err error) {
	if home = n.homeRelay(); home == "" {
		return "", ref, fmt.Errorf("%w: this node knows no relay; start it with its embedded relay, or name one with sotto config set relay ADDRESS", ErrUnreachable)
	}
	if err := n.ensureInbox(home, nil); err != nil {
		return "", ref, err
	}
	if err := n.startInbox(); err != nil {
		return "", ref, apiError(err)
	}
	var inbox store.Inbox
	if err := n.view(func(tx *store.Tx) (err error) { inbox, err = tx.Inbox(); return err }); err != nil {
		return "", ref, apiError(err)
	}
	ref, err = n.inboxRef(&inbox)
	return home, ref, err
}

// placeWords says what to know of a link at a relay.
func (n *Node) placeWords(at wire.Address, placed bool) string {
	n.mu.Lock()
	refused := n.refused
	n.mu.Unlock()
	return inviteWords(transport.ReachOf(at), n.opt.Embedded != nil && n.opt.Embedded.Address.Key == at.Key, placed, refused)
}

func inviteWords(reach transport.Reach, embedded, placed bool, refused string) string {
	var s []string
	switch reach {
	case transport.Machine:
		s = append(s, "Only this machine can reach the relay that the link names.")
	case transport.Network:
		s = append(s, "Only this local network can reach the relay that the link names.")
	}
	if embedded {
		s = append(s, "Its mailboxes are on this machine: they sleep when it does.")
	}
	switch {
	case !placed && refused != "":
		s = append(s, "It does not work yet: "+refused+".")
	case !placed:
		s = append(s, "The relay does not have the invite yet: it works as soon as the relay can be reached from here.")
	}
	return strings.Join(s, " ")
}

func (n *Node) actor() identity.Actor { return identity.Actor{Device: n.device.ID, Key: n.signer} }

func inviteID(offer [32]byte) string { return hex.EncodeToString(offer[:8]) }

func (n *Node) showInvite(i *store.Invite) Invite {
	out := Invite{ID: inviteID(i.OfferHash), Expires: mailbox.Minute(i.Expires).Time()}
	if r, err := n.relayAt(i.Relay); err == nil {
		out.Reach = string(transport.ReachOf(r.where()))
	}
	return out
}

// placeOffer puts an offer into its slot. The request to it comes to the inbox, which must be
// there first.
func (n *Node) placeOffer(ctx context.Context, relay string, owner, reader []byte, once bool, until mailbox.Minute, offer []byte) error {
	if _, err := n.openInbox(ctx); err != nil {
		return err
	}
	r, err := n.relayAt(relay)
	if err != nil {
		return err
	}
	return n.heed(r.client.CreateSlot(ctx, key.CapabilityFromSeed(owner), key.CapabilityFromSeed(reader), once, until, offer, n.ticket(relay)))
}

// revokeSlot makes a slot one that nobody takes any more.
func (n *Node) revokeSlot(task, relay string, owner, reader []byte) {
	n.task(task, func(ctx context.Context) error {
		r, err := n.relayAt(relay)
		if err != nil {
			return err
		}
		err = r.client.RevokeSlot(ctx, key.CapabilityFromSeed(owner), key.CapabilityFromSeed(reader).Public())
		if errors.Is(err, mailbox.ErrGone) || errors.Is(err, mailbox.ErrNotFound) {
			return nil
		}
		return err
	})
}

// placeInvite puts an offer into its slot.
func (n *Node) placeInvite(offer [32]byte) {
	n.task("invite "+inviteID(offer), func(ctx context.Context) error {
		var i store.Invite
		if err := n.view(func(tx *store.Tx) (err error) { i, err = tx.Invite(offer); return err }); err != nil {
			return nil
		}
		if i.State != store.InviteOpen || i.Placed || i.Expires <= uint32(mailbox.MinuteOf(n.clock())) {
			return nil
		}
		if err := n.placeOffer(ctx, i.Relay, i.Owner, i.Reader, len(i.Group) == 0, mailbox.Minute(i.Expires), i.Value); err != nil {
			return err
		}
		return n.update(func(tx *store.Tx) error {
			now, err := tx.Invite(offer)
			if err != nil {
				return err
			}
			now.Placed = true
			return tx.PutInvite(&now)
		})
	})
}

// waitPlaced waits a while for the relay to have the offer.
func (n *Node) waitPlaced(ctx context.Context, offer [32]byte) bool {
	return n.waitUntil(ctx, func(tx *store.Tx) bool {
		i, err := tx.Invite(offer)
		return err == nil && (i.Placed || i.State != store.InviteOpen)
	})
}

// waitUntil waits a while for ok, which an event tells of.
func (n *Node) waitUntil(ctx context.Context, ok func(tx *store.Tx) bool) (is bool) {
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	for {
		wake := n.events.next()
		n.view(func(tx *store.Tx) error { is = ok(tx); return nil })
		if is {
			return true
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		}
	}
}

// Invites returns the invites that can still be opened, and says of each whether it has
// been taken, as far as its relay can be asked now.
func (n *Node) Invites(ctx context.Context) (out []Invite, err error) {
	var open []store.Invite
	now := uint32(mailbox.MinuteOf(n.clock()))
	err = n.view(func(tx *store.Tx) error {
		all, err := tx.Invites()
		for _, i := range all {
			if i.State == store.InviteOpen && i.Expires > now && len(i.Group) == 0 {
				open = append(open, i)
			}
		}
		return err
	})
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	out = []Invite{}
	for i := range open {
		shown := n.showInvite(&open[i])
		if r, err := n.relayAt(open[i].Relay); err == nil && open[i].Placed {
			s, err := r.client.SlotState(ctx, key.CapabilityFromSeed(open[i].Owner), key.CapabilityFromSeed(open[i].Reader).Public())
			if err == nil && s.Taken != 0 {
				shown.Taken = s.Taken.Time()
			}
		}
		out = append(out, shown)
	}
	return out, apiError(err)
}

// RevokeInvite ends an invite: nobody can open it any more.
func (n *Node) RevokeInvite(ctx context.Context, id string) error {
	var found *store.Invite
	err := n.update(func(tx *store.Tx) error {
		all, err := tx.Invites()
		if err != nil {
			return err
		}
		for i := range all {
			if all[i].State == store.InviteOpen && inviteID(all[i].OfferHash) == id {
				found = &all[i]
			}
		}
		if found == nil {
			return fmt.Errorf("%w: there is no open invite %q", ErrNotFound, id)
		}
		found.State, found.Secrets, found.Value = store.InviteRevoked, nil, nil
		return tx.PutInvite(found)
	})
	if err != nil {
		return apiError(err)
	}
	n.revokeSlot("revoke "+id, found.Relay, found.Owner, found.Reader)
	return nil
}

// Accept opens an invite. It returns at once, with the contact pending; what comes of
// it shows in events. It returns ErrInvalid for a text that is no invite, damaged or
// of another kind, ErrGone if it has expired, ErrExists if it was opened here before.
func (n *Node) Accept(ctx context.Context, text, name string) (Contact, error) {
	link, err := handshake.ParseLink(text)
	if err != nil {
		return Contact{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := link.Check(uint32(mailbox.MinuteOf(n.clock()))); err != nil {
		return Contact{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if name != "" {
		if name, err = identity.NormalizeName(name); err != nil {
			return Contact{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	id := link.ID()
	var out Contact
	err = n.update(func(tx *store.Tx) error {
		if _, err := tx.Acceptance(id); err == nil {
			return fmt.Errorf("%w: this invite was opened here before; sotto contact list shows what came of it", ErrExists)
		}
		mine, err := tx.Invites()
		if err != nil {
			return err
		}
		for i := range mine {
			if bytes.Equal(mine[i].Reader, link.Secret.SlotRead().Seed()) {
				return fmt.Errorf("%w: this is your own invite; hand it to somebody else", ErrInvalid)
			}
		}
		shown := name
		if shown == "" {
			shown = "new contact"
		}
		if shown, err = freeName(tx, shown, id); err != nil {
			return err
		}
		a := &store.Acceptance{ID: id, Link: strings.TrimSpace(text), Tag: random16(), Step: store.AcceptTaking, Name: name, Created: n.clock()}
		c := &store.Contact{Account: id, Name: shown, State: store.ContactPending, Reason: "taking the invite from its relay", Since: n.clock()}
		out = showContact(c)
		return errors.Join(tx.PutAcceptance(a), tx.PutContact(c), n.noteContact(tx, id))
	})
	if err != nil {
		return Contact{}, apiError(err)
	}
	n.advance(id)
	return out, nil
}

// advance takes an invite that was opened here a step further, until the answer is
// awaited.
func (n *Node) advance(id [32]byte) {
	n.task(fmt.Sprintf("accept %x", id[:8]), func(ctx context.Context) error {
		for {
			var a store.Acceptance
			if err := n.view(func(tx *store.Tx) (err error) { a, err = tx.Acceptance(id); return err }); err != nil {
				return err
			}
			var err error
			switch a.Step {
			case store.AcceptTaking:
				err = n.takeOffer(ctx, &a)
			case store.AcceptSending:
				err = n.sendRequest(ctx, &a)
			default:
				return nil
			}
			var final *finalError
			if errors.As(err, &final) {
				return n.failAcceptance(id, final)
			}
			if err != nil {
				n.sayAcceptance(id, err)
				return err
			}
		}
	})
}

// finalError ends an acceptance: to try again would not help.
type finalError struct{ cause, reason string }

func (e *finalError) Error() string { return e.reason }

func final(cause, format string, args ...any) error {
	return &finalError{cause, fmt.Sprintf(format, args...)}
}

func (n *Node) failAcceptance(id [32]byte, f *finalError) error {
	return n.update(func(tx *store.Tx) error {
		a, err := tx.Acceptance(id)
		if err != nil {
			return err
		}
		return n.giveUp(tx, &a, f.cause, f.reason)
	})
}

// giveUp is failAcceptance within a transaction.
func (n *Node) giveUp(tx *store.Tx, a *store.Acceptance, cause, reason string) error {
	a.Step, a.Reason, a.State, a.KeyPackage, a.Entry, a.Link = store.AcceptFailed, reason, nil, nil, nil, ""
	c, err := tx.Contact(a.ID)
	if err != nil {
		return err
	}
	c.State, c.Reason, c.Cause = store.ContactFailed, reason, cause
	return errors.Join(tx.PutAcceptance(a), tx.PutContact(&c), n.noteContact(tx, c.Account))
}

// sayAcceptance shows what an acceptance waits for.
func (n *Node) sayAcceptance(id [32]byte, why error) {
	reason, cause := why.Error()+"; it is tried again", ""
	switch {
	case errors.Is(why, client.ErrWrongRelay):
		reason, cause = "another relay answers at the address that the invite names; it is tried again", CauseNotTrusted
	case errors.Is(why, client.ErrUnreachable):
		reason, cause = "the relay cannot be reached; it is tried again: "+why.Error(), CauseUnreachable
	}
	err := n.update(func(tx *store.Tx) error {
		c, err := tx.Contact(id)
		if err != nil || c.Reason == reason {
			return err
		}
		c.Reason, c.Cause = reason, cause
		return errors.Join(tx.PutContact(&c), n.noteContact(tx, c.Account))
	})
	if err != nil {
		n.log.Warn("what a contact waits for is not shown", "err", err)
	}
}

// takeOffer takes the offer out of its slot and makes the request.
func (n *Node) takeOffer(ctx context.Context, a *store.Acceptance) error {
	link, err := handshake.ParseLink(a.Link)
	if err != nil {
		return final(CauseInvalid, "%v", err)
	}
	if err := link.Check(uint32(mailbox.MinuteOf(n.clock()))); err != nil {
		return final(CauseGone, "%v", err)
	}
	at, err := linkAddress(link)
	if err != nil {
		return final(CauseInvalid, "the invite names no relay that this version can reach: %v", err)
	}
	value, err := n.takeSlot(ctx, link, at, a.Tag, "the invite has been used by somebody else; if that was not you, tell who gave it to you", "the invite was revoked by who made it")
	if errors.Is(err, mailbox.ErrNotFound) {
		// The inviter's relay does not have it yet, or never will.
		return fmt.Errorf("the relay does not have the invite (yet)")
	}
	if err != nil {
		return err
	}
	offer, err := link.OpenOffer(wire.SlotID(link.Relay, link.Secret.SlotRead().Public()), value)
	if err != nil {
		return final(CauseNotTrusted, "%v; no contact is made", err)
	}
	inviter := offer.Log.ID()
	if inviter == n.account.ID() {
		return final(CauseInvalid, "this is an invite of your own account")
	}
	q, err := n.contactRequest(ctx, link, offer, at, "the invite")
	if err != nil {
		return err
	}
	return n.update(func(tx *store.Tx) error {
		now, err := tx.Acceptance(a.ID)
		if err != nil || now.Step != store.AcceptTaking {
			return err
		}
		now.Step, now.State, now.KeyPackage = store.AcceptSending, q.state.Append(nil), q.bundle.Marshal()
		now.Relay, now.Inbox, now.AppendSeed = q.relay, offer.Inbox.Mailbox, offer.Inbox.AppendKey.Seed()
		now.Entry, now.Request, now.Log = q.entry, q.state.RequestHash(), entries(offer.Log)
		c, err := tx.Contact(a.ID)
		if err != nil {
			return err
		}
		// From here on it is known who the contact is.
		if old, err := tx.Contact(inviter); err == nil && old.State != store.ContactFailed {
			return n.giveUp(tx, &now, CauseExists, old.Name+" is a contact already")
		}
		c.Profile, c.Log, c.Reason, c.Cause = offer.Name, now.Log, "sending the request", ""
		if now.Name == "" {
			if c.Name, err = freeName(tx, offer.Name, c.Account); err != nil {
				return err
			}
		}
		return errors.Join(tx.PutAcceptance(&now), tx.PutContact(&c), n.noteContact(tx, c.Account))
	})
}

// takeSlot takes what lies in a link's slot, with the tag that lets it be taken again. If somebody
// else has taken it, or it was revoked, that is final and said in these words.
func (n *Node) takeSlot(ctx context.Context, link handshake.Link, at string, tag [16]byte, taken, revoked string) ([]byte, error) {
	r, err := n.relayAt(at)
	if err != nil {
		return nil, err
	}
	value, err := r.client.TakeSlot(ctx, link.Secret.SlotRead(), mailbox.Tag(tag))
	var refused *wire.Error
	if errors.As(err, &refused) {
		switch refused.Gone() {
		case mailbox.SlotTaken:
			return nil, final(CauseGone, "%s", taken)
		case mailbox.SlotExpired:
			return nil, final(CauseGone, "%v", handshake.ErrExpired)
		case mailbox.SlotRevoked:
			return nil, final(CauseGone, "%s", revoked)
		}
	}
	return value, err
}

// contactRequest answers an offer, and is on its way out.
type contactRequest struct {
	relay  string                // of the inbox that it goes to
	bundle *mls.KeyPackageBundle // that it hands out
	state  *handshake.Invitee    // for the handshake to go on
	entry  []byte                // sealed
}

// contactRequest makes the request to an offer whose link names the relay at. Without a relay of
// one's own that one is taken. The link is called name where it cannot be answered.
func (n *Node) contactRequest(ctx context.Context, link handshake.Link, offer *handshake.Offer, at, name string) (*contactRequest, error) {
	peer, err := wire.ReadAddress(offer.Inbox.Relay)
	if err != nil {
		return nil, final(CauseNotTrusted, "%v: its inbox: %v", handshake.ErrOffer, err)
	}
	home := n.homeRelay()
	if home == "" {
		home = at
	}
	var ticket []byte
	if same, err := wire.ParseAddress(home); err == nil && same.Key == link.Relay {
		ticket = offer.Ticket
	}
	if err := n.ensureInbox(home, ticket); err != nil {
		return nil, err
	}
	in, err := n.openInbox(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.startInbox(); err != nil {
		return nil, err
	}
	bundle, err := n.keyPackage(&in, 0)
	if err != nil {
		return nil, err
	}
	log := n.account.now()
	devices, err := log.DeviceSet(n.actor())
	if err != nil {
		return nil, err
	}
	ref, err := n.inboxRef(&in)
	if err != nil {
		return nil, err
	}
	body, state, err := handshake.Begin(link, offer, key.NoiseFromSeed(n.device.Handshake), handshake.ContactRequest{
		Log: log, Devices: devices, KeyPackages: [][]byte{bundle.KeyPackage().Marshal()}, Inbox: ref, Name: n.device.Name})
	if err != nil {
		return nil, final(CauseNotTrusted, "%s cannot be answered: %v", name, err)
	}
	entry, err := envelope.SealLetter(offer.Inbox.SealingKey, offer.Inbox.Mailbox, envelope.ContactRequest, body)
	if err != nil {
		return nil, final(CauseNotTrusted, "%s cannot be answered: %v", name, err)
	}
	return &contactRequest{peer.String(), bundle, state, entry}, nil
}

func linkAddress(l handshake.Link) (string, error) {
	a, err := wire.NewAddress(l.Relay, l.Hints)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// Key packages are good from an hour before they are made for 84 days.
const (
	lifetimeBefore = time.Hour
	lifetimeAfter  = 84 * 24 * time.Hour
)

func (n *Node) lifetime() mls.Lifetime {
	now := n.clock()
	return mls.Lifetime{NotBefore: uint64(now.Add(-lifetimeBefore).Unix()), NotAfter: uint64(now.Add(lifetimeAfter).Unix())}
}

func capabilities() *mls.Capabilities {
	c := mls.DefaultCapabilities(mls.XWing, mls.ExtensionType(conversation.ExtensionGroup), mls.ExtensionType(conversation.ExtensionKeyPackage), mls.ExtensionType(conversation.ExtensionInbox))
	return &c
}

func (n *Node) keyPackage(in *store.Inbox, flags byte) (*mls.KeyPackageBundle, error) {
	credential, leaf, err := n.leaf(in)
	if err != nil {
		return nil, err
	}
	return mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: n.signer.Signer(), Credential: credential, Lifetime: n.lifetime(),
		Capabilities: capabilities(), LeafExtensions: leaf,
		Extensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionKeyPackage), Data: conversation.KeyPackageFlags(flags)}}})
}

// sendRequest posts the request to the inviter's inbox.
func (n *Node) sendRequest(ctx context.Context, a *store.Acceptance) error {
	err := n.deposit(ctx, a.Relay, a.Inbox, a.AppendSeed, a.Entry)
	if errors.Is(err, mailbox.ErrTooLarge) {
		return final(CauseInvalid, "the inviter's relay does not take the request: %v", err)
	}
	if err != nil {
		return err
	}
	return n.update(func(tx *store.Tx) error {
		now, err := tx.Acceptance(a.ID)
		if err != nil || now.Step != store.AcceptSending {
			return err
		}
		now.Step, now.Entry, now.Link = store.AcceptWaiting, nil, ""
		c, err := tx.Contact(a.ID)
		if err != nil {
			return err
		}
		c.Reason, c.Cause = "waiting for the other side to answer", ""
		return errors.Join(tx.PutAcceptance(&now), tx.PutContact(&c), n.noteContact(tx, c.Account))
	})
}

// deposit appends an entry to somebody's inbox.
func (n *Node) deposit(ctx context.Context, address string, inbox [32]byte, seed, entry []byte) error {
	r, err := n.relayAt(address)
	if err != nil {
		return err
	}
	_, err = r.client.Append(ctx, key.CapabilityFromSeed(seed), mailbox.Deposit{Mailbox: inbox, Kind: mailbox.Message, Payload: entry})
	return err
}

// lettersAtOnce is how many letters are under way at once, less than a session may
// have requests.
const lettersAtOnce = 16

// errNotMade is about a letter that waits for its conversation's mailbox: the owner of
// that starts the letters again.
var errNotMade = errors.New("the conversation's mailbox is not made yet")

// startLetters sends what is to be sent to inboxes, once the mailbox that a letter is
// about is there.
func (n *Node) startLetters() {
	n.task("letters", func(ctx context.Context) error {
		var letters []store.Letter
		if err := n.view(func(tx *store.Tx) (err error) { letters, err = tx.Letters(); return err }); err != nil {
			return err
		}
		var failed error
		for ; len(letters) > 0; letters = letters[min(len(letters), lettersAtOnce):] {
			some := letters[:min(len(letters), lettersAtOnce)]
			errs := make([]error, len(some))
			var wg sync.WaitGroup
			for i, l := range some {
				made := true
				n.view(func(tx *store.Tx) error {
					c, err := tx.Conversation(l.Group)
					made = err != nil || c.Made == nil || c.Made.Created
					return nil
				})
				if !made {
					errs[i] = errNotMade
					continue
				}
				wg.Go(func() { errs[i] = n.deposit(ctx, l.Relay, l.Inbox, l.AppendSeed, l.Entry) })
			}
			wg.Wait()
			err := n.update(func(tx *store.Tx) error {
				for i, l := range some {
					if errs[i] == nil {
						if err := tx.DeleteLetter(l.Number); err != nil {
							return err
						}
					} else if errs[i] != errNotMade {
						failed = errs[i]
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return failed
	})
}
