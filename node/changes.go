package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"sotto/crypto/envelope"
	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// maxAdds is how many devices one commit adds (spec/group.md, section 5).
const maxAdds = 64

// plan is what a commit of ours is to hold.
type plan struct {
	proposals []mls.Proposal
	proofs    [][]byte                // entries of account logs that give the right to some of them
	made      []conversation.ChangeID // by the proposals
	moot      []conversation.ChangeID // they need none
}

// stage makes the commit that the core asks for. A change that turns out to be against
// the rules is told to the user and dropped; the others are made without it.
func (t *turn) stage(e conversation.Stage) error {
	var moot []conversation.ChangeID
	for ids := e.Changes; ; {
		p, err := t.plan(ids)
		if err != nil {
			return err
		}
		moot = append(moot, p.moot...)
		if len(p.made) == 0 && !e.Update {
			return errors.Join(t.forgetChanges(moot), t.step(conversation.Unstaged{Moot: moot}))
		}
		staged, meta, err := t.commit(p)
		switch {
		case err == nil:
			inner, spills, err := t.spill(staged)
			if err != nil {
				return err
			}
			h, err := t.enclose(mailbox.Commit, inner, store.Outgoing{Expect: e.Expect, Meta: meta, Spills: spills})
			if err != nil {
				return err
			}
			t.staged = staged
			if err := errors.Join(t.tx.PutStaged(t.o.group, staged.Marshal()), t.forgetChanges(moot)); err != nil {
				return err
			}
			return t.step(conversation.Staged{Hash: h, Changes: p.made, Moot: moot})
		case len(p.made) == 0:
			return err
		case len(p.made) > 1:
			ids = p.made[:1] // the rest keeps its turn
		default:
			if err := t.n.notice(t.tx, fmt.Sprintf("A change of %s cannot be made: %v.", t.title(), err)); err != nil {
				return err
			}
			t.events = true
			moot, ids = append(moot, p.made...), nil
		}
	}
}

// commit makes a commit that every member will accept, or says why there is none.
func (t *turn) commit(p *plan) (*mls.Staged, []byte, error) {
	seen := t.seen()
	seen.Proofs = p.proofs
	staged, err := t.group.Commit(&mls.CommitOptions{Proposals: p.proposals, AuthenticatedData: seen.Append(nil), Now: uint64(t.now.Unix()), TreeOutside: true})
	if err != nil {
		return nil, nil, err
	}
	keys, err := conversation.DeriveKeys(staged, t.rec.Mailbox)
	if err != nil {
		return nil, nil, err
	}
	meta := keys.NextCaps()
	if err := conversation.Validate(t.group, staged, meta); err != nil {
		return nil, nil, err
	}
	return staged, meta, nil
}

// plan puts the changes together that can be made in one commit.
func (t *turn) plan(ids []conversation.ChangeID) (*plan, error) {
	p := &plan{}
	before, err := conversation.Group(t.group.Context())
	if err != nil {
		return nil, err
	}
	leaves := map[mls.LeafIndex]identity.AccountID{} // once the commit is made
	keys := map[mls.LeafIndex]store.LeafKey{}        // now
	for _, m := range t.group.Roster() {
		account, device, err := conversation.LeafOf(m.Node)
		if err != nil {
			return nil, err
		}
		leaves[m.Leaf], keys[m.Leaf] = account, leafKey(account, device)
	}
	for _, w := range t.group.PendingProposals() { // who wants to leave
		if r, ok := w.Proposal.(mls.Remove); ok {
			delete(leaves, r.Removed)
		}
	}
	accounts := map[identity.AccountID]bool{}
	for _, a := range leaves {
		accounts[a] = true
	}
	remove := func(leaf mls.LeafIndex) { // its account stays while it has others
		account := leaves[leaf]
		p.proposals = append(p.proposals, mls.Remove{Removed: leaf})
		delete(leaves, leaf)
		delete(accounts, account)
		for _, a := range leaves {
			accounts[a] = true
		}
	}
	after, adds := before.Clone(), 0
	var roles []store.Change
	for _, id := range ids {
		c, err := t.tx.Change(t.o.group, uint64(id))
		if err != nil {
			return nil, err
		}
		some := false
		switch c.What {
		case store.ChangeAdd:
			if adds += len(c.Packages); adds > maxAdds && adds > len(c.Packages) {
				continue // the next commit has room
			}
			for _, raw := range c.Packages {
				kp, account, err := readPackage(raw)
				if err != nil {
					return nil, err
				}
				if before.Role(account) == 0 {
					p.proposals = append(p.proposals, mls.Add{KeyPackage: kp})
					accounts[account], some = true, true
				}
			}
		case store.ChangeRemove:
			for leaf, account := range leaves {
				if slices.Contains(c.Accounts, [32]byte(account)) {
					p.proposals = append(p.proposals, mls.Remove{Removed: leaf})
					delete(leaves, leaf)
					delete(accounts, account)
					some = true
				}
			}
		case store.ChangeIdle:
			idle, err := t.idle(before)
			if err != nil {
				return nil, err
			}
			for leaf, account := range leaves {
				if idle[keys[leaf]] && slices.Contains(c.Leaves, keys[leaf]) && before.Role(account) < before.Role(t.n.account.ID()) {
					remove(leaf)
					some = true
				}
			}
		case store.ChangeEnlist:
			if adds += len(c.Packages); adds > maxAdds {
				continue
			}
			for _, raw := range c.Packages {
				kp, account, err := readPackage(raw)
				if err != nil {
					return nil, err
				}
				_, device, err := conversation.LeafOf(kp.LeafNode)
				if err != nil {
					return nil, err
				}
				there := slices.Contains(slices.Collect(maps.Values(keys)), leafKey(account, device))
				if !there && t.n.account.active(device) {
					p.proposals, some = append(p.proposals, mls.Add{KeyPackage: kp}), true
				}
			}
		case store.ChangeDismiss:
			for leaf, account := range leaves {
				_, device := keys[leaf].Parts()
				if !slices.Contains(c.Devices, device) {
					continue
				}
				log, err := t.logOf(account)
				if err != nil {
					return nil, err
				}
				if log == nil {
					continue
				}
				e, ok := log.Revocation(device)
				if !ok {
					continue // it is active again
				}
				if account != t.n.account.ID() {
					p.proofs = append(p.proofs, e.Append(nil))
				}
				remove(leaf)
				some = true
			}
		case store.ChangeRole:
			roles, some = append(roles, c), true
		default:
			if some, err = applyToInfo(after, &c); err != nil {
				return nil, err
			}
		}
		if some {
			p.made = append(p.made, id)
		} else {
			p.moot = append(p.moot, id)
		}
	}
	if after.Kind == conversation.ManyPeople {
		after.Roles = conversation.Roles(before, accounts)
		for _, c := range roles {
			for i := range after.Roles {
				if slices.Contains(c.Accounts, after.Roles[i].Account) {
					after.Roles[i].Role = conversation.Role(c.Role)
				}
			}
		}
	}
	if data := after.Append(nil); string(data) != string(before.Append(nil)) {
		extensions := slices.Clone(t.group.Context().Extensions)
		for i := range extensions {
			if extensions[i].Type == mls.ExtensionType(conversation.ExtensionGroup) {
				extensions[i].Data = data
			}
		}
		p.proposals = append(p.proposals, mls.GroupContextExtensions{Extensions: extensions})
	}
	return p, nil
}

// applyToInfo makes a change of what a group shows, and reports whether it is one.
func applyToInfo(g *conversation.GroupInfo, c *store.Change) (bool, error) {
	var profile conversation.Profile
	if g.Kind == conversation.ManyPeople {
		var err error
		if profile, err = conversation.ParseProfile(g.Profile); err != nil {
			return false, err
		}
	}
	was, member, admin, retention := string(g.Profile), g.MemberMay, g.AdminMay, g.Retention
	switch c.What {
	case store.ChangeName:
		profile.Name = c.Text
	case store.ChangeAbout:
		profile.Description = c.Text
	case store.ChangePicture:
		profile.Picture = c.Picture
	case store.ChangePolicy:
		may := &g.MemberMay
		if conversation.Role(c.Role) == conversation.Admin {
			may = &g.AdminMay
		}
		*may &^= conversation.Rights(c.Right)
		if c.On {
			*may |= conversation.Rights(c.Right)
		}
	case store.ChangeAnnounce:
		g.MemberMay |= conversation.MayWrite
		if c.Role == 1 {
			g.MemberMay &^= conversation.MayWrite
		}
	case store.ChangeTimer:
		minutes, err := strconv.ParseUint(c.Text, 10, 32)
		if err != nil {
			return false, err
		}
		g.Retention = uint32(minutes)
	}
	if g.Kind == conversation.ManyPeople {
		g.Profile = profile.Append(nil)
	}
	return string(g.Profile) != was || g.MemberMay != member || g.AdminMay != admin || g.Retention != retention, nil
}

// forgetChanges removes changes that are made, or need not be.
func (t *turn) forgetChanges(ids []conversation.ChangeID) error {
	for _, id := range ids {
		if err := t.tx.DeleteChange(t.o.group, uint64(id)); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	t.events = true // there is less to come
	return t.n.noteConversation(t.tx, t.o.group)
}

// welcomeLetter is the letter to the devices that a commit adds, but for the names of
// their key packages.
func (t *turn) welcomeLetter(s *mls.Staged) (*conversation.Welcome, error) {
	w := &conversation.Welcome{At: t.core.Cursor, Chain: t.core.Chain}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return nil, err
	}
	for _, r := range info.Roles {
		name, err := t.profileName(r.Account)
		if err != nil {
			return nil, err
		}
		if name != "" {
			w.AddName(r.Account, name)
		}
	}
	for _, out := range t.outbox {
		for _, x := range out.Spills {
			if x.What == store.SpillInvitation {
				w.Relay = info.Mailboxes[0].Relay
				w.Spilled, err = envelope.ParseSpilled(x.Spilled)
				return w, err
			}
		}
	}
	w.Inline = spillContent(s, store.SpillInvitation)
	return w, nil
}

// profileName is what an account calls itself, "" if that is not known here.
func (t *turn) profileName(account identity.AccountID) (string, error) {
	if account == t.n.account.ID() {
		return t.n.device.Name, nil
	}
	if c, err := t.tx.Contact(account); err == nil {
		return c.Profile, nil
	} else if !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	return t.tx.Name(t.o.group, account)
}

// welcome writes to the devices that our commit, which is merged now, has added.
func (t *turn) welcome(s *mls.Staged) error {
	if len(s.Added()) == 0 {
		return nil
	}
	letter, err := t.welcomeLetter(s)
	if err != nil {
		return err
	}
	refs, err := mls.WelcomeRefs(s.Welcome())
	if err != nil {
		return err
	}
	for i, leaf := range s.Added() {
		letter.Package = conversation.PackageName(refs[i])
		node, ok := t.group.Member(leaf)
		if !ok {
			continue
		}
		l, err := conversation.ReadLeaf(node)
		if err != nil {
			return err
		}
		at, err := wire.ReadAddress(l.Inbox.Relay)
		if err != nil {
			t.n.log.Warn("a device that was added has an inbox that cannot be reached", "err", err)
			continue
		}
		entry, err := envelope.SealLetter(l.Inbox.SealingKey, l.Inbox.Mailbox, envelope.Welcome, letter.Append(nil))
		if err != nil { // its key is no key: that is its own fault, and not the group's
			t.n.log.Warn("a device that was added cannot be written to", "err", err)
			continue
		}
		if err := t.tx.AddLetter(&store.Letter{Relay: at.String(), Inbox: l.Inbox.Mailbox, AppendSeed: l.Inbox.AppendKey.Seed(), Entry: entry, Group: t.o.group}); err != nil {
			return err
		}
	}
	t.letters = true
	return nil
}

// title is what the user knows the conversation by.
func (t *turn) title() string {
	if t.rec.Many {
		return t.rec.Name
	}
	if t.rec.Own {
		return "your own devices"
	}
	return t.contactName()
}

// tellChanges shows in the history of a conversation what a commit changes in it. Nobody
// can suppress it: each device says it for itself.
func (t *turn) tellChanges(s *mls.Staged) error {
	if t.rec.Own {
		return nil // the account's log tells of them
	}
	before, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	node, _ := t.group.Member(s.Committer())
	committer, err := conversation.ReadLeaf(node)
	if err != nil {
		return err
	}
	by := committer.Account
	var idle map[store.LeafKey]bool
	if slices.ContainsFunc(s.Proposals(), func(p mls.CommittedProposal) bool { return p.Proposal.Type() == mls.ProposalRemove }) {
		if idle, err = t.idle(before); err != nil {
			return err
		}
	}
	var told []store.Told
	tell := func(what uint8, of identity.AccountID) {
		if !slices.ContainsFunc(told, func(x store.Told) bool { return x.What == what && x.Of == of }) {
			told = append(told, store.Told{What: what, Of: of})
		}
	}
	// Whose devices remain. Who is removed itself does not see into the next epoch.
	remains := map[identity.AccountID]bool{}
	if s.RemovesSelf() {
		remains[t.n.account.ID()] = true
	} else {
		for _, m := range s.Roster() {
			account, _, err := conversation.LeafOf(m.Node)
			if err != nil {
				return err
			}
			remains[account] = true
		}
	}
	for _, p := range s.Proposals() {
		switch r := p.Proposal.(type) {
		case mls.Add:
			of, _, err := conversation.LeafOf(r.KeyPackage.LeafNode)
			if err != nil {
				return err
			}
			if before.Role(of) != 0 {
				l, err := conversation.ReadLeaf(r.KeyPackage.LeafNode)
				if err != nil {
					return err
				}
				told = append(told, store.Told{What: store.ToldNewDevice, Of: of, Text: l.Cert.Fingerprint(), Other: committer.Cert.Fingerprint()})
			} else {
				tell(store.ToldAdded, of)
			}
		case mls.Remove:
			gone, ok := t.group.Member(r.Removed)
			if !ok {
				continue
			}
			of, device, err := conversation.LeafOf(gone)
			if err != nil {
				return err
			}
			switch {
			case remains[of] && !idle[leafKey(of, device)]:
				l, err := conversation.ReadLeaf(gone)
				if err != nil {
					return err
				}
				told = append(told, store.Told{What: store.ToldGoneDevice, Of: of, Text: l.Cert.Fingerprint()})
			case p.ByReference:
				tell(store.ToldLeft, of)
			case idle[leafKey(of, device)]:
				tell(store.ToldIdle, of)
			default:
				tell(store.ToldRemoved, of)
			}
		}
	}
	if !s.RemovesSelf() {
		after, err := conversation.Group(s.Context())
		if err != nil {
			return err
		}
		if t.rec.Retention = after.Retention; after.Retention != before.Retention {
			told = append(told, store.Told{What: store.ToldTimer, Value: after.Retention})
		}
		if !t.rec.Many {
			return t.told(by, told)
		}
		old, err := conversation.ParseProfile(before.Profile)
		if err != nil {
			return err
		}
		now, err := conversation.ParseProfile(after.Profile)
		if err != nil {
			return err
		}
		if t.rec.Name = now.Name; now.Name != old.Name {
			told = append(told, store.Told{What: store.ToldName, Text: now.Name})
		}
		if now.Description != old.Description {
			told = append(told, store.Told{What: store.ToldAbout, Text: now.Description})
		}
		if string(now.Picture) != string(old.Picture) {
			told = append(told, store.Told{What: store.ToldPicture})
		}
		if (after.MemberMay^before.MemberMay)&^conversation.MayWrite != 0 || after.AdminMay != before.AdminMay {
			told = append(told, store.Told{What: store.ToldPolicy})
		}
		for _, r := range after.Roles {
			if was := before.Role(r.Account); was != 0 && was != r.Role {
				told = append(told, store.Told{What: store.ToldRole, Of: r.Account, Value: uint32(r.Role)})
			}
		}
		if mute := after.MemberMay&conversation.MayWrite == 0; mute != (before.MemberMay&conversation.MayWrite == 0) {
			told = append(told, store.Told{What: store.ToldAnnounce, Value: uint32(boolBit(mute))})
		}
	}
	return t.told(by, told)
}

// told shows what a commit of an account has changed.
func (t *turn) told(by identity.AccountID, told []store.Told) error {
	if len(told) == 0 {
		return nil
	}
	t.events = true
	id := sha256.Sum256(fmt.Appendf([]byte("sotto/told"), "%x/%d", t.o.group, t.core.Cursor.Seq))
	return errors.Join(t.n.noteConversation(t.tx, t.o.group),
		t.show(&store.Message{ID: id, Seq: uint64(t.core.Cursor.Seq), State: store.MessageReceived, Kind: store.KindChange,
			From: by, Mine: by == t.n.account.ID(), Sent: t.now, Arrived: t.now, Told: told}))
}

func boolBit(v bool) uint8 {
	if v {
		return 1
	}
	return 0
}

// ended keeps what this device was a member of as history, and forgets the rest.
func (t *turn) ended() error {
	t.events, t.staged, t.outbox = true, nil, nil
	if t.rec.Own { // what the others say of it this device does not hear any more
		if err := t.n.notice(t.tx, "This device was taken out of your account by another one: it reads and sends nothing any more."); err != nil {
			return err
		}
	}
	return errors.Join(t.n.noteConversation(t.tx, t.o.group), t.tx.ForgetGroup(t.o.group))
}
