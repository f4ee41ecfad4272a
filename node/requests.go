package node

import (
	"context"
	"errors"
	"fmt"

	"sotto/crypto/handshake"
	"sotto/node/store"
)

// ask keeps a request to an invite that asks, and shows who it is from. Nothing leaves
// this device: who asks sees what they would see if it were off.
func (n *Node) ask(tx *store.Tx, inv *store.Invite, body []byte, hash [32]byte, q *handshake.Request) error {
	them := q.Log.ID()
	if _, err := tx.Contact(them); err == nil {
		return passOver("a request of somebody who is known")
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	name := inv.Name
	if name == "" {
		name = q.Name
	}
	name, err := freeName(tx, name, them)
	if err != nil {
		return err
	}
	inv.State, inv.Asked, inv.Request, inv.Contact = store.InviteAsked, body, hash, them
	c := &store.Contact{Account: them, Name: name, Profile: q.Name, State: store.ContactRequested, Reason: "asks to be your contact", Log: entries(q.Log), Since: n.clock()}
	return errors.Join(tx.PutInvite(inv), tx.PutContact(c), n.noteContact(tx, them))
}

// askedBy returns the invite that somebody who asks has opened.
func askedBy(tx *store.Tx, c *store.Contact) (*store.Invite, error) {
	all, err := tx.Invites()
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].State == store.InviteAsked && all[i].Contact == c.Account {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %s asks for nothing", ErrInvalid, c.Name)
}

// decline forgets somebody who asks. Who is blocked stays known as that.
func (n *Node) decline(tx *store.Tx, c *store.Contact) error {
	inv, err := askedBy(tx, c)
	if err != nil {
		return err
	}
	inv.State, inv.Secrets, inv.Value, inv.Asked = store.InviteRevoked, nil, nil, nil
	err = errors.Join(tx.PutInvite(inv), n.notice(tx, fmt.Sprintf("%s, who asked to be your contact, was forgotten. They are not told.", c.Name)))
	if !c.Blocked {
		return errors.Join(err, tx.DeleteContact(c.Account))
	}
	c.State, c.Reason = store.ContactFailed, "declined"
	return errors.Join(err, tx.PutContact(c), n.noteContact(tx, c.Account))
}

// Decide makes a contact of somebody who has opened an invite that asks, or forgets them.
// In neither case are they told more than that: who is accepted becomes a contact as if
// just now, who is declined waits in vain. It returns ErrInvalid for somebody who does
// not ask, and ErrBlocked.
func (n *Node) Decide(ctx context.Context, ref string, accept bool) (out Contact, err error) {
	var group []byte
	err = n.update(func(tx *store.Tx) error {
		group = nil
		c, err := findContact(tx, ref)
		if err != nil {
			return err
		}
		out = showContact(c)
		if !accept {
			return n.decline(tx, c)
		}
		inv, err := askedBy(tx, c)
		if err != nil {
			return err
		}
		if c.Blocked {
			return fmt.Errorf("%w: %s", ErrBlocked, c.Name)
		}
		in, err := tx.Inbox()
		if err != nil {
			return err
		}
		// What was asked is answered as if it came now. The name may have been changed.
		body, name := inv.Asked, c.Name
		inv.State, inv.Ask, inv.Asked, inv.Name = store.InviteOpen, false, nil, name
		if err := errors.Join(tx.PutInvite(inv), tx.DeleteContact(c.Account)); err != nil {
			return err
		}
		if group, err = n.request(tx, &in, body); err != nil {
			return err
		}
		made, err := tx.Contact(c.Account)
		if err == nil {
			out = showContact(&made)
		}
		return err
	})
	var passed *passedOver
	if errors.As(err, &passed) {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err == nil && group != nil {
		n.takeUp(group)
		n.startLetters()
	}
	return out, apiError(err)
}
