package node

import (
	"context"
	"errors"
	"fmt"

	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// startInbox begins to read this device's inbox, if there is one and nobody does.
func (n *Node) startInbox() error {
	err := n.view(func(tx *store.Tx) error { _, err := tx.Inbox(); return err })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	if n.inbox != nil || n.running == nil {
		n.mu.Unlock()
		return nil
	}
	ctx, stop := context.WithCancel(n.running)
	n.inbox = stop
	n.mu.Unlock()
	if !n.spawn(func(context.Context) { n.readInbox(ctx) }) {
		stop()
	}
	return nil
}

func (n *Node) readInbox(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := n.inboxOn(ctx, (*client.Client).Subscribe, func() { failures = 0 })
		if err != nil && ctx.Err() == nil {
			n.log.Debug("the inbox is not read", "err", err)
		}
		if !pause(ctx, failures, nil) {
			return
		}
	}
}

// inboxOn reads the inbox, and calls got at each page.
func (n *Node) inboxOn(ctx context.Context, bring reading, got func()) error {
	in, err := n.openInbox(ctx)
	if err != nil {
		return err
	}
	r, err := n.relayAt(in.Mailbox.Relay)
	if err != nil {
		return err
	}
	from := client.Place{At: in.Cursor, Chain: in.Chain}
	err = bring(r.client, ctx, key.CapabilityFromSeed(in.Read), in.Mailbox.ID, 0, from, func(p *client.Page) error {
		got()
		return n.takeLetters(ctx, p)
	})
	if errors.Is(err, mailbox.ErrEra) {
		// The relay was restored from a copy: letters are read again from
		// what it has, and those dealt with are known.
		return n.update(func(tx *store.Tx) error {
			in, err := tx.Inbox()
			if err != nil {
				return err
			}
			in.Cursor, in.Chain = mailbox.Mark{}, mailbox.FirstChain(in.Mailbox.ID)
			return tx.PutInbox(&in)
		})
	}
	return err
}

// behind moves an inbox's cursor behind an item.
func behind(in *store.Inbox, it *client.Item) {
	if in.Chain = it.Chain; it.Entry == nil {
		in.Cursor = it.Span.End.Mark()
	} else {
		in.Cursor = mailbox.Mark{Era: it.Entry.Era, Seq: it.Entry.Seq}
	}
}

// takeLetters deals with a page of the inbox, letter by letter, and trims it.
func (n *Node) takeLetters(ctx context.Context, p *client.Page) error {
	for _, it := range p.Items {
		var start [][]byte
		err := n.update(func(tx *store.Tx) error {
			in, err := tx.Inbox()
			if err != nil {
				return err
			}
			if it.Entry != nil && it.Entry.Seq <= in.Cursor.Seq {
				return nil
			}
			behind(&in, &it)
			if it.Entry == nil {
				return tx.PutInbox(&in)
			}
			group, err := n.letter(tx, &in, it.Entry.Payload)
			if err != nil {
				return err
			}
			if group != nil {
				start = append(start, group)
			}
			return tx.PutInbox(&in)
		})
		if err != nil {
			return err
		}
		for _, g := range start {
			n.takeUp(g)
		}
	}
	n.startLetters() // what was answered
	n.fetchInvited()
	n.trimInbox()
	return nil
}

// takeUp starts a conversation that has just come about.
func (n *Node) takeUp(group []byte) {
	n.task(fmt.Sprintf("take up %x", group[:8]), func(context.Context) error {
		var rec store.Conversation
		err := n.view(func(tx *store.Tx) (err error) { rec, err = tx.Conversation(group); return err })
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		n.startOwner(rec)
		o := n.ownerOf(group)
		if o == nil {
			return nil
		}
		return o.do(func(t *turn) error {
			if t.rec.Many {
				return errors.Join(t.announce(), t.keepUp(), t.passRequests())
			}
			if t.rec.Own {
				return errors.Join(t.keepUp(), t.handOut())
			}
			return errors.Join(t.takeWaiting(t.rec.Contact), t.keepUp(), t.handOut())
		})
	})
}

func (n *Node) trimInbox() {
	n.task("trim", func(ctx context.Context) error {
		in, err := n.openInbox(ctx)
		if err != nil {
			return err
		}
		if uint64(in.Cursor.Seq) <= in.Trimmed {
			return nil
		}
		r, err := n.relayAt(in.Mailbox.Relay)
		if err != nil {
			return err
		}
		through := in.Cursor.Seq
		if err := r.client.Trim(ctx, key.CapabilityFromSeed(in.Mailbox.Admin), in.Mailbox.ID, through); err != nil {
			return err
		}
		return n.update(func(tx *store.Tx) error {
			in, err := tx.Inbox()
			if err != nil {
				return err
			}
			in.Trimmed = uint64(through)
			return tx.PutInbox(&in)
		})
	})
}

// letter deals with one letter. It returns the group of a conversation that came of
// it. An error is ours: what is wrong with a letter makes it be passed over.
func (n *Node) letter(tx *store.Tx, in *store.Inbox, entry []byte) (group []byte, err error) {
	t, body, err := envelope.OpenLetter(n.sealing, in.Mailbox.ID, entry)
	if err != nil {
		n.log.Debug("a letter is passed over", "err", err)
		return nil, nil
	}
	switch t {
	case envelope.ContactRequest:
		group, err = n.request(tx, in, body)
	case envelope.ContactAccept:
		group, err = n.answer(tx, body)
	case envelope.Welcome:
		group, err = n.welcomed(tx, body)
	case envelope.LinkRequest:
		err = n.linkRequest(tx, body)
	case envelope.LinkMessage:
		group, err = n.linkMessage(tx, body)
	}
	var passed *passedOver
	if errors.As(err, &passed) {
		n.log.Debug("a letter is passed over", "err", err)
		return nil, nil
	}
	return group, err
}

// passedOver is what is wrong with a letter.
type passedOver struct{ error }

func (p *passedOver) Unwrap() error { return p.error }

func passOver(format string, args ...any) error { return &passedOver{fmt.Errorf(format, args...)} }

// conversationTerms: thirty days, then the oldest messages go; commits stay.
var conversationTerms = mailbox.Terms{Keep: 30 * 24 * 60, MaxEntries: 100_000, MaxBytes: 256 << 20, Full: mailbox.DropOldest}

// request answers who has opened an invite of ours: the group, its mailbox's keys
// and the answer are made in one go, and leave once they are durable.
func (n *Node) request(tx *store.Tx, in *store.Inbox, body []byte) ([]byte, error) {
	b, err := handshake.ParseRequestBody(body)
	if err != nil {
		return nil, passOver("%w", err)
	}
	inv, err := tx.Invite(b.OfferHash)
	if err != nil {
		return nil, passOver("a request to no invite of ours")
	}
	if len(inv.Group) > 0 {
		return inv.Group, n.groupRequest(tx, &inv, b)
	}
	switch {
	case inv.State == store.InviteAnswered && inv.Request == b.Hash():
		return nil, passOver("a repeat of a request that has been answered")
	case inv.State == store.InviteAnswered:
		return nil, n.notice(tx, "Somebody else has tried an invite that was used already. Compare safety numbers with who you gave it to.")
	case inv.State == store.InviteAsked:
		return nil, passOver("a request to an invite about which is to be decided")
	case inv.State != store.InviteOpen:
		return nil, passOver("a request to an invite that is over")
	}
	secrets, err := handshake.ParseInviter(inv.Secrets)
	if err != nil {
		return nil, err
	}
	q, err := secrets.Read(b)
	if err != nil {
		if err := n.notice(tx, "Somebody has answered an invite of yours with bytes that do not hold: "+err.Error()+". Nothing came of it."); err != nil {
			return nil, err
		}
		return nil, nil
	}
	them := q.Log.ID()
	if them == n.account.ID() {
		return nil, passOver("a request of one's own account")
	}
	switch old, err := tx.Contact(them); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	case old.Blocked:
		return nil, passOver("a request of an account that is blocked")
	case old.State == store.ContactEstablished:
		return nil, n.notice(tx, old.Name+" has opened an invite and is a contact already.")
	case len(old.Group) > 0: // one more try after a first of which nothing came
		if err := tx.DeleteConversation(old.Group); err != nil {
			return nil, err
		}
		n.endOwner(old.Group)
	}

	if inv.Ask {
		return nil, n.ask(tx, &inv, body, b.Hash(), q)
	}

	sec := q.Secrets()
	var packages []mls.Proposal
	for _, raw := range q.KeyPackages {
		kp, err := mls.ParseKeyPackage(raw)
		if err != nil {
			return nil, passOver("a key package: %w", err)
		}
		l, err := conversation.ReadLeaf(kp.LeafNode)
		if err != nil || l.Account != them || l.Inbox.Mailbox != q.Inbox.Mailbox {
			return nil, passOver("a key package of another device than it was sent for (%v)", err)
		}
		packages = append(packages, mls.Add{KeyPackage: kp})
	}
	// The group, of this device alone at first.
	g, box, err := n.foundGroup(in, in.Mailbox.Relay, func(at conversation.MailboxRef) *conversation.GroupInfo {
		at.BaseEpoch = 1
		return conversation.NewDirect(at, n.account.ID(), them, sec.Binding[:])
	})
	if err != nil {
		return nil, err
	}
	psk := mls.ExternalPSK(sec.PSKID)
	staged, err := g.Commit(&mls.CommitOptions{Proposals: append(packages, psk), Now: uint64(n.clock().Unix()), PSK: pskOf(sec)})
	if err != nil {
		return nil, passOver("adding its devices: %w", err)
	}
	if g, err = staged.Merge(g); err != nil {
		return nil, err
	}
	keys, err := openWith(&box, g)
	if err != nil {
		return nil, err
	}

	// The answer.
	// Their devices may be too many for one, and their inbox's key may be one to which
	// nothing can be sealed: that stops no other letter.
	answer, err := q.Accept(handshake.ContactAccept{Welcome: staged.Welcome(), Name: n.device.Name})
	if err != nil {
		return nil, passOver("answering it: %w", err)
	}
	entry, err := envelope.SealLetter(q.Inbox.SealingKey, q.Inbox.Mailbox, envelope.ContactAccept, answer)
	if err != nil {
		return nil, passOver("answering it: %w", err)
	}
	theirs, err := wire.ReadAddress(q.Inbox.Relay)
	if err != nil {
		return nil, passOver("its inbox: %w", err)
	}
	name := inv.Name
	if name == "" {
		name = q.Name
	}
	if name, err = freeName(tx, name, them); err != nil {
		return nil, err
	}
	inv.State, inv.Request, inv.Contact, inv.Secrets, inv.Value = store.InviteAnswered, b.Hash(), them, nil, nil
	group := g.GroupID()
	c := &store.Contact{Account: them, Name: name, Profile: q.Name, State: store.ContactPending, Reason: "waiting for the other side to join",
		Log: entries(q.Log), Group: group, Since: n.clock()}
	rec := &store.Conversation{Group: group, Contact: them, Relay: box.Relay, Mailbox: box.ID, BaseEpoch: 1, Made: &box, Since: n.clock(), LogTold: 1}
	return group, errors.Join(
		tx.PutInvite(&inv),
		tx.AddLetter(&store.Letter{Relay: theirs.String(), Inbox: q.Inbox.Mailbox, AppendSeed: q.Inbox.AppendKey.Seed(), Entry: entry, Group: group}),
		n.newConversation(tx, rec, c, g, &conversation.Core{Epoch: 1, Chain: mailbox.FirstChain(box.ID), Updated: n.clock(), Active: n.clock()}, keys))
}

func pskOf(s handshake.Secrets) mls.PSKs {
	return func(id mls.PreSharedKeyID) ([]byte, error) {
		if id.Type == mls.PSKExternal && string(id.ID) == string(s.PSKID) {
			return s.PSK(), nil
		}
		return nil, mls.ErrMissingPSK
	}
}

// newConversation writes a conversation with a contact that has come about.
func (n *Node) newConversation(tx *store.Tx, rec *store.Conversation, c *store.Contact, g *mls.Group, core *conversation.Core, keys conversation.EpochKeys) error {
	return errors.Join(tx.PutContact(c), n.putConversation(tx, rec, g, core, keys), n.noteContact(tx, c.Account))
}

// putConversation writes a conversation with its group.
func (n *Node) putConversation(tx *store.Tx, rec *store.Conversation, g *mls.Group, core *conversation.Core, keys conversation.EpochKeys) error {
	rec.Core = core.Append(nil)
	return errors.Join(
		tx.PutConversation(rec), tx.PutMLS(rec.Group, g.Changes()),
		tx.PutEpochKeys(rec.Group, &store.EpochKeys{Epoch: core.Epoch, Envelope: keys.Envelope, Read: keys.Read.Seed(), Append: keys.Append.Seed()}),
		n.noteConversation(tx, rec.Group))
}

// answer joins the group that an inviter has made.
func (n *Node) answer(tx *store.Tx, body []byte) ([]byte, error) {
	b, err := handshake.ParseAcceptBody(body)
	if err != nil {
		return nil, passOver("%w", err)
	}
	all, err := tx.Acceptances()
	if err != nil {
		return nil, err
	}
	var a *store.Acceptance
	for i := range all {
		if all[i].Request == b.RequestHash && (all[i].Step == store.AcceptWaiting || all[i].Step == store.AcceptSending) {
			a = &all[i]
		}
	}
	if a == nil {
		return nil, passOver("an answer to no request of ours")
	}
	state, err := handshake.ParseInvitee(a.State)
	if err != nil {
		return nil, err
	}
	// What does not hold may have been put there by anybody who knows the inbox:
	// the true answer may still come.
	bad := func(err error) ([]byte, error) {
		c, missing := tx.Contact(a.ID)
		if missing != nil {
			return nil, missing
		}
		c.Reason, c.Cause = "an answer came that does not hold ("+err.Error()+"); waiting for the true one", CauseNotTrusted
		return nil, errors.Join(tx.PutContact(&c), n.noteContact(tx, c.Account))
	}
	acc, sec, err := state.Finish(b)
	if err != nil {
		return bad(err)
	}
	bundle, err := mls.ParseKeyPackageBundle(a.KeyPackage)
	if err != nil {
		return nil, err
	}
	g, _, err := mls.Join(n.mlsConfig(), acc.Welcome, bundle, &mls.JoinOptions{PSK: pskOf(sec)})
	if err != nil {
		return bad(err)
	}
	log, err := parseLog(a.Log)
	if err != nil {
		return nil, err
	}
	them := log.ID()
	info, err := conversation.ValidateDirect(g, sec.Binding, n.account.ID(), n.device.ID, log)
	if err != nil {
		return bad(err)
	}
	ref := info.Mailboxes[0]
	at, err := wire.ReadAddress(ref.Relay)
	if err != nil {
		return bad(err)
	}
	keys, err := conversation.DeriveKeys(g, ref.Mailbox)
	if err != nil {
		return nil, err
	}
	c, err := tx.Contact(a.ID)
	if err != nil {
		return nil, err
	}
	group := g.GroupID()
	if err := tx.DeleteContact(a.ID); err != nil {
		return nil, err
	}
	waited := waitingGroup(a.ID)
	c.Account, c.Profile, c.State, c.Reason, c.Cause, c.Group = them, acc.Name, store.ContactPending, "joining", "", group
	a.Step, a.State, a.KeyPackage, a.Entry, a.Link = store.AcceptDone, nil, nil, nil, ""
	rec := &store.Conversation{Group: group, Contact: them, Relay: at.String(), Mailbox: ref.Mailbox, BaseEpoch: ref.BaseEpoch, Since: n.clock(), LogTold: 1}
	// The first thing is an update of the path: the key package has been in others' hands.
	core := &conversation.Core{Epoch: g.Epoch(), Chain: mailbox.FirstChain(ref.Mailbox), Wanted: true}
	return group, errors.Join(tx.PutAcceptance(a), tx.MoveMessages(waited, waitingGroup(them)), n.newConversation(tx, rec, &c, g, core, keys))
}
