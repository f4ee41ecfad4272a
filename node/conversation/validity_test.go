package conversation

import (
	"errors"
	"testing"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/relay/mailbox"
)

// person is an account with one device.
type person struct {
	t      *testing.T
	seed   identity.Seed
	log    *identity.Log
	id     identity.DeviceID
	signer key.DeviceSecret
	seal   key.SealingSecret
	group  *mls.Group
}

func newPerson(t *testing.T) *person {
	p := &person{t: t, seed: identity.NewSeed(), id: identity.NewDeviceID(), signer: key.NewDevice(), seal: key.NewSealing()}
	cert := identity.DeviceCert{Device: p.id, DeviceKey: p.signer.Public(), HandshakeKey: key.NewNoise().Public(), SealingHash: identity.SealingHash(p.seal.Public())}
	var err error
	if p.log, err = identity.NewLog(p.seed, cert, p.signer, [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *person) account() identity.AccountID { return p.log.ID() }

func (p *person) config() mls.Config {
	return mls.Config{Signer: p.signer.Signer(), ValidateCredential: ValidateCredential}
}

func (p *person) leaf() (mls.Credential, mls.Extensions) {
	c, err := p.log.Credential(p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	ref := identity.InboxRef{Relay: []byte("relay"), AppendKey: key.NewCapability(), SealingKey: p.seal.Public()}
	return mls.BasicCredential(c.Append(nil)), mls.Extensions{{Type: mls.ExtensionType(ExtensionInbox), Data: ref.Append(nil)}}
}

func capabilitiesOf() *mls.Capabilities {
	c := mls.DefaultCapabilities(mls.XWing, mls.ExtensionType(ExtensionGroup), mls.ExtensionType(ExtensionKeyPackage), mls.ExtensionType(ExtensionInbox))
	return &c
}

func (p *person) keyPackage() *mls.KeyPackageBundle {
	credential, leaf := p.leaf()
	b, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: p.signer.Signer(), Credential: credential, Lifetime: mls.Lifetime{NotAfter: 1 << 40},
		Capabilities: capabilitiesOf(), LeafExtensions: leaf})
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

var theBox = MailboxRef{Relay: []byte("relay"), Mailbox: mailbox.ID{1}}

// newCircle is a group of Ana (owner), Ben (admin) and Cem and Dov (members).
func newCircle(t *testing.T) []*person {
	people := []*person{newPerson(t), newPerson(t), newPerson(t), newPerson(t)}
	ana := people[0]
	credential, leaf := ana.leaf()
	info := NewGroup(theBox, ana.account(), Profile{Name: "Hikers"}, DefaultLeaves)
	var err error
	ana.group, err = mls.NewGroup(ana.config(), mls.GroupOptions{Suite: mls.XWing, Credential: credential, Lifetime: mls.Lifetime{NotAfter: 1 << 40}, Capabilities: capabilitiesOf(), LeafExtensions: leaf,
		Extensions: mls.Extensions{RequiredCapabilities(), {Type: mls.ExtensionType(ExtensionGroup), Data: info.Append(nil)}}})
	if err != nil {
		t.Fatal(err)
	}
	accounts := map[identity.AccountID]bool{}
	var proposals []mls.Proposal
	bundles := map[*person]*mls.KeyPackageBundle{}
	for _, p := range people {
		accounts[p.account()] = true
		if p != ana {
			bundles[p] = p.keyPackage()
			proposals = append(proposals, mls.Add{KeyPackage: bundles[p].KeyPackage()})
		}
	}
	info.Roles = Roles(info, accounts)
	setRole(info, people[1], Admin)
	s, meta := ana.commit(append(proposals, changeTo(ana, info))...)
	if err := Validate(ana.group, s, meta); err != nil {
		t.Fatalf("adding three members: %v", err)
	}
	welcome := s.Welcome()
	if ana.group, err = s.Merge(ana.group); err != nil {
		t.Fatal(err)
	}
	for p, b := range bundles {
		var by mls.LeafIndex
		if p.group, by, err = mls.Join(p.config(), welcome, b, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := ValidateWelcome(p.group, by, ana.account()); err != nil {
			t.Fatalf("the welcome: %v", err)
		}
		if _, err := ValidateWelcome(p.group, by, p.account()); !errors.Is(err, ErrInvalid) {
			t.Errorf("a welcome of somebody else: %v", err)
		}
	}
	return people
}

func setRole(g *GroupInfo, of *person, to Role) {
	for i := range g.Roles {
		if g.Roles[i].Account == of.account() {
			g.Roles[i].Role = to
		}
	}
}

// changeTo is the proposal that makes the group's information what is given.
func changeTo(p *person, info *GroupInfo) mls.Proposal {
	e := append(mls.Extensions(nil), p.group.Context().Extensions...)
	for i := range e {
		if e[i].Type == mls.ExtensionType(ExtensionGroup) {
			e[i].Data = info.Append(nil)
		}
	}
	return mls.GroupContextExtensions{Extensions: e}
}

// commit makes a commit whatever the rules say.
func (p *person) commit(proposals ...mls.Proposal) (*mls.Staged, []byte) {
	p.t.Helper()
	return p.commitWith(sampleContext().Proofs, proposals...)
}

// What each role may do, judged by a member who receives the commit.
func TestRulesOfGroups(t *testing.T) {
	people := newCircle(t)
	ana, ben, cem, dov := people[0], people[1], people[2], people[3]
	eve := newPerson(t)
	now := func() *GroupInfo {
		g, err := Group(ana.group.Context())
		if err != nil {
			t.Fatal(err)
		}
		return g.Clone()
	}
	with := func(change func(g *GroupInfo)) mls.Proposal {
		g := now()
		change(g)
		return changeTo(ana, g)
	}
	without := func(who ...*person) mls.Proposal {
		return with(func(g *GroupInfo) {
			accounts := map[identity.AccountID]bool{}
			for _, r := range g.Roles {
				accounts[r.Account] = true
			}
			for _, p := range who {
				delete(accounts, p.account())
			}
			g.Roles = Roles(now(), accounts)
		})
	}
	addEve := func(role Role) []mls.Proposal {
		return []mls.Proposal{mls.Add{KeyPackage: eve.keyPackage().KeyPackage()}, with(func(g *GroupInfo) {
			accounts := map[identity.AccountID]bool{eve.account(): true}
			for _, r := range g.Roles {
				accounts[r.Account] = true
			}
			g.Roles = Roles(now(), accounts)
			setRole(g, eve, role)
		})}
	}
	rename := with(func(g *GroupInfo) { g.Profile = Profile{Name: "Walkers"}.Append(nil) })
	mute := with(func(g *GroupInfo) { g.MemberMay &^= MayWrite })
	role := func(of *person, to Role) mls.Proposal {
		return with(func(g *GroupInfo) { setRole(g, of, to) })
	}
	remove := func(who *person) mls.Proposal { return mls.Remove{Removed: who.group.OwnLeaf()} }

	for _, tt := range []struct {
		name      string
		by        *person
		proposals []mls.Proposal
		ok        bool
	}{
		{"a member renews its keys", cem, nil, true},
		{"a member renames", cem, []mls.Proposal{rename}, false},
		{"an admin renames", ben, []mls.Proposal{rename}, true},
		{"an admin gives no name", ben, []mls.Proposal{with(func(g *GroupInfo) { g.Profile = nil })}, false},
		{"a member adds", cem, addEve(Member), false},
		{"an admin adds", ben, addEve(Member), true},
		{"an admin adds an admin", ben, addEve(Admin), false},
		{"an owner adds an admin", ana, addEve(Admin), true},
		{"an admin adds somebody without a role", ben, addEve(Member)[:1], false},
		{"a role for somebody who is not there", ana, []mls.Proposal{with(func(g *GroupInfo) {
			accounts := map[identity.AccountID]bool{eve.account(): true}
			for _, r := range g.Roles {
				accounts[r.Account] = true
			}
			g.Roles = Roles(now(), accounts)
		})}, false},
		{"a member removes a member", cem, []mls.Proposal{remove(dov), without(dov)}, false},
		{"an admin removes a member", ben, []mls.Proposal{remove(dov), without(dov)}, true},
		{"an admin removes a member and leaves its role", ben, []mls.Proposal{remove(dov)}, false},
		{"an admin removes an owner", ben, []mls.Proposal{remove(ana), without(ana)}, false},
		{"an owner removes an admin", ana, []mls.Proposal{remove(ben), without(ben)}, true},
		{"an admin makes a member admin", ben, []mls.Proposal{role(cem, Admin)}, false},
		{"an owner makes a member owner", ana, []mls.Proposal{role(cem, Owner)}, true},
		{"a member makes itself owner", cem, []mls.Proposal{role(cem, Owner)}, false},
		{"an admin steps down", ben, []mls.Proposal{role(ben, Member)}, true},
		{"the last owner steps down", ana, []mls.Proposal{role(ana, Member)}, false},
		{"an admin decides who writes", ben, []mls.Proposal{mute}, false},
		{"an owner decides who writes", ana, []mls.Proposal{mute}, true},
		{"an owner lets members add", ana, []mls.Proposal{with(func(g *GroupInfo) { g.MemberMay |= MayAdd })}, true},
		{"an owner takes from admins what they may", ana, []mls.Proposal{with(func(g *GroupInfo) { g.AdminMay = MayWrite })}, true},
		{"an owner gives a right that there is not", ana, []mls.Proposal{with(func(g *GroupInfo) { g.AdminMay |= 1 << 20 })}, false},
		{"an owner takes from owners what they may", ana, []mls.Proposal{with(func(g *GroupInfo) { g.OwnerMay &^= MayRemove })}, false},
		{"an admin gives itself rights", ben, []mls.Proposal{with(func(g *GroupInfo) { g.AdminMay |= MayChangeRoles })}, false},
		{"an admin changes the picture", ben, []mls.Proposal{with(func(g *GroupInfo) { g.Profile = Profile{Name: "Hikers", Picture: []byte("jpeg")}.Append(nil) })}, true},
		{"an admin makes the picture too large", ben, []mls.Proposal{with(func(g *GroupInfo) {
			g.Profile = Profile{Name: "Hikers", Picture: make([]byte, MaxPicture+1)}.Append(nil)
		})}, false},
		{"an owner changes the kind", ana, []mls.Proposal{with(func(g *GroupInfo) { g.Kind = Direct })}, false},
		{"an owner changes how many there may be", ana, []mls.Proposal{with(func(g *GroupInfo) { g.MaxLeaves = 1000 })}, false},
		{"an owner moves the mailbox without a term", ana, []mls.Proposal{with(func(g *GroupInfo) { g.Mailboxes[0].BaseEpoch = 5 })}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, meta := tt.by.commit(tt.proposals...)
			reader := cem
			if tt.by == reader {
				reader = ben
			}
			// Judged where it arrives: the reader's copy of the group stays as it is.
			r, err := reader.group.Clone().Process(s.Message(), nil)
			if err != nil {
				t.Fatal(err)
			}
			err = Validate(reader.group, r.Staged, meta)
			if tt.ok && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tt.ok && !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
			if own := Validate(tt.by.group, s, meta); (own == nil) != tt.ok {
				t.Errorf("the committer itself says %v", own)
			}
			if tt.ok && !r.Staged.RemovesSelf() {
				if err := Validate(reader.group, r.Staged, append([]byte{meta[0] ^ 1}, meta[1:]...)); !errors.Is(err, ErrInvalid) {
					t.Errorf("with other capabilities: %v", err)
				}
			}
		})
	}
}

// A member may only propose its own leave, and anybody may commit that.
func TestLeaveByReference(t *testing.T) {
	people := newCircle(t)
	ana, cem, dov := people[0], people[2], people[3]
	opts := &mls.ProposeOptions{AuthenticatedData: sampleContext().Append(nil)}
	leave, err := dov.group.Propose(mls.Remove{Removed: dov.group.OwnLeaf()}, opts)
	if err != nil {
		t.Fatal(err)
	}
	push, err := dov.group.Propose(mls.Remove{Removed: ana.group.OwnLeaf()}, opts)
	if err != nil {
		t.Fatal(err)
	}
	info, err := Group(ana.group.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		proposal []byte
		gone     *person
		ok       bool
	}{{"its own", leave, dov, true}, {"another's", push, ana, false}} {
		t.Run(tt.name, func(t *testing.T) {
			by, reader := *cem, *people[1]
			by.group, reader.group = by.group.Clone(), reader.group.Clone()
			for _, p := range []*person{&by, &reader} {
				if _, err := p.group.Process(tt.proposal, nil); err != nil {
					t.Fatal(err)
				}
			}
			accounts := map[identity.AccountID]bool{}
			for _, r := range info.Roles {
				accounts[r.Account] = r.Account != tt.gone.account()
			}
			delete(accounts, tt.gone.account())
			after := info.Clone()
			after.Roles = Roles(info, accounts)
			s, meta := by.commit(changeTo(&by, after))
			r, err := reader.group.Process(s.Message(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(reader.group, r.Staged, meta); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A group whose owner goes passes to the first of the highest role.
func TestOwnerOfWhatIsLeft(t *testing.T) {
	g := &GroupInfo{Roles: []RoleEntry{{[32]byte{1}, Member}, {[32]byte{2}, Admin}, {[32]byte{3}, Admin}, {[32]byte{4}, Owner}}}
	got := Roles(g, map[identity.AccountID]bool{{1}: true, {2}: true, {3}: true, {5}: true})
	want := []RoleEntry{{[32]byte{1}, Member}, {[32]byte{2}, Owner}, {[32]byte{3}, Admin}, {[32]byte{5}, Member}}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}

// A link leads into the group that it names, as long as who made it is there, by somebody who
// may let others in.
func TestLinkLeadsWhereItSays(t *testing.T) {
	people := newCircle(t)
	ana, ben, cem, dov := people[0], people[1], people[2], people[3]
	id := dov.group.GroupID()
	for _, tt := range []struct {
		name  string
		by    *person
		group []byte
		maker identity.AccountID
		ok    bool
	}{
		{"by who made the link", ana, id, ana.account(), true},
		{"by another who may add", ben, id, ana.account(), true},
		{"by one that may not add", cem, id, ana.account(), false},
		{"into another group", ana, []byte("another"), ana.account(), false},
		{"without who made the link", ana, id, newPerson(t).account(), false},
	} {
		_, by, err := ValidateLink(dov.group, tt.by.group.OwnLeaf(), tt.group, tt.maker)
		if tt.ok && (err != nil || by != tt.by.account()) || !tt.ok && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", tt.name, by, err)
		}
	}
}
