package node

import (
	"errors"
	"fmt"

	"sotto/node/store"
	"sotto/relay/mailbox"
)

// dropOverdue ends what has waited for too long: invites that nobody opened in time
// lose their secrets, and an acquaintance of which nothing came is forgotten.
func (n *Node) dropOverdue() error {
	now := n.clock()
	var gone [][]byte
	err := n.update(func(tx *store.Tx) error {
		gone = nil
		invites, err := tx.Invites()
		if err != nil {
			return err
		}
		for i := range invites {
			v := &invites[i]
			if v.State != store.InviteOpen || v.Expires > uint32(mailbox.MinuteOf(now)) {
				continue
			}
			v.State, v.Secrets, v.Value = store.InviteExpired, nil, nil
			if err := tx.PutInvite(v); err != nil {
				return err
			}
		}
		acceptances, err := tx.Acceptances()
		if err != nil {
			return err
		}
		for i := range acceptances {
			a := &acceptances[i]
			if a.Step == store.AcceptDone || a.Step == store.AcceptFailed || now.Sub(a.Created) < pendingLife {
				continue
			}
			if err := n.giveUp(tx, a, CauseGone, "no answer came within 30 days; ask for a new invite"); err != nil {
				return err
			}
		}
		contacts, err := tx.Contacts()
		if err != nil {
			return err
		}
		for i := range contacts {
			c := &contacts[i]
			if c.State == store.ContactRequested && now.Sub(c.Since) >= pendingLife {
				if err := n.decline(tx, c); err != nil {
					return err
				}
				continue
			}
			if c.State != store.ContactPending || len(c.Group) == 0 || now.Sub(c.Since) < pendingLife {
				continue
			}
			gone = append(gone, c.Group)
			err := errors.Join(tx.DeleteConversation(c.Group), tx.DeleteContact(c.Account),
				n.notice(tx, fmt.Sprintf("%s has not been heard within 30 days and is no contact any more.", c.Name)))
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, group := range gone {
		n.endOwner(group)
	}
	n.tidyGroups()
	return apiError(err)
}

// endOwner makes the goroutines of a conversation that was deleted see that, and end.
func (n *Node) endOwner(group []byte) {
	if o := n.ownerOf(group); o != nil {
		o.wake(0)
	}
}
