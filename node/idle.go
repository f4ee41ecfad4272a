package node

import (
	"errors"

	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
)

// A device that has not renewed its keys for long keeps a group from healing: whoever
// steals it reads on. An admin's node removes it (spec/group.md, section 5). When keys were
// renewed each device notes by its own clock, which only ever makes it wait longer.

func leafKey(account identity.AccountID, device identity.DeviceID) (k store.LeafKey) {
	copy(k[:], account[:])
	copy(k[len(account):], device[:])
	return k
}

// noteRenewal keeps whose keys a commit renews or brings in, and forgets who goes.
func (t *turn) noteRenewal(s *mls.Staged) error {
	if !t.rec.Many {
		return nil
	}
	note := func(leaf *mls.LeafNode, gone bool) error {
		account, device, err := conversation.LeafOf(leaf)
		if err != nil {
			return err
		}
		if gone {
			return t.tx.DeleteRenewed(t.o.group, leafKey(account, device))
		}
		return t.tx.PutRenewed(t.o.group, leafKey(account, device), t.now)
	}
	var errs []error
	for _, p := range s.Proposals() {
		if r, ok := p.Proposal.(mls.Remove); ok {
			if leaf, ok := t.group.Member(r.Removed); ok {
				errs = append(errs, note(leaf, true))
			}
		}
	}
	for _, at := range s.Added() {
		if leaf, ok := s.Member(at); ok {
			errs = append(errs, note(leaf, false))
		}
	}
	if leaf, ok := s.Member(s.Committer()); ok && s.HasPath() {
		errs = append(errs, note(leaf, false))
	}
	return errors.Join(errs...)
}

// noteRoster notes all of a group that has just been joined: nobody is idle yet.
func (n *Node) noteRoster(tx *store.Tx, g *mls.Group) error {
	for _, m := range g.Roster() {
		account, device, err := conversation.LeafOf(m.Node)
		if err != nil {
			return err
		}
		if err := tx.PutRenewed(g.GroupID(), leafKey(account, device), n.clock()); err != nil {
			return err
		}
	}
	return nil
}

// idle returns the leaves whose keys have not been renewed for as long as the group allows.
func (t *turn) idle(info *conversation.GroupInfo) (map[store.LeafKey]bool, error) {
	renewed, err := t.tx.Renewed(t.o.group)
	if err != nil || info.LeafIdle == 0 {
		return nil, err
	}
	out := map[store.LeafKey]bool{}
	for k, at := range renewed {
		if t.now.Sub(at) >= info.IdleAfter() {
			out[k] = true
		}
	}
	return out, nil
}

// removeIdle wishes away the idle devices that this account may remove.
func (t *turn) removeIdle() error {
	if !t.rec.Many || t.core.Over || t.core.Leaving || t.core.Frozen != "" {
		return nil
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	me := t.n.account.ID()
	if info.May(me)&conversation.MayRemove == 0 {
		return nil
	}
	idle, err := t.idle(info)
	if err != nil || len(idle) == 0 {
		return err
	}
	c := store.Change{What: store.ChangeIdle}
	for _, r := range info.Roles {
		if r.Account == me || r.Role >= info.Role(me) {
			continue
		}
		for k := range idle {
			if [32]byte(k[:32]) == r.Account {
				c.Leaves = append(c.Leaves, k)
			}
		}
	}
	all, err := t.tx.Changes(t.o.group)
	if err != nil {
		return err
	}
	for _, old := range all {
		if old.What == store.ChangeIdle { // under way
			return nil
		}
	}
	if len(c.Leaves) == 0 {
		return nil
	}
	t.events = true
	return errors.Join(t.tx.AddChange(t.o.group, &c), t.n.noteConversation(t.tx, t.o.group), t.step(conversation.Change{ID: conversation.ChangeID(c.ID)}))
}

// tidyGroups looks for idle devices in all groups.
func (n *Node) tidyGroups() {
	for _, o := range n.allOwners() {
		if err := o.do(func(t *turn) error { return t.removeIdle() }); err != nil && !errors.Is(err, errGone) {
			n.log.Warn("idle devices are not looked for", "err", err)
		}
	}
}

func (n *Node) allOwners() (all []*owner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.owners {
		all = append(all, o)
	}
	return all
}
