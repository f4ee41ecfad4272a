package conversation

import (
	"errors"
	"testing"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
)

// device makes one more device of an account, which all its devices know of.
func (p *person) device() *person {
	p.t.Helper()
	d := &person{t: p.t, seed: p.seed, id: identity.NewDeviceID(), signer: key.NewDevice(), seal: key.NewSealing()}
	cert := identity.DeviceCert{Device: d.id, DeviceKey: d.signer.Public(), HandshakeKey: key.NewNoise().Public(), SealingHash: identity.SealingHash(d.seal.Public())}
	log, err := p.log.AddDevice(p.seed.AccountKey(0), p.actor(), cert)
	if err != nil {
		p.t.Fatal(err)
	}
	p.log, d.log = log, log
	return d
}

func (p *person) actor() identity.Actor { return identity.Actor{Device: p.id, Key: p.signer} }

// commitWith makes a commit with proofs beside it.
func (p *person) commitWith(proofs [][]byte, proposals ...mls.Proposal) (*mls.Staged, []byte) {
	p.t.Helper()
	seen := sampleContext()
	seen.Proofs = proofs
	s, err := p.group.Commit(&mls.CommitOptions{Proposals: proposals, AuthenticatedData: seen.Append(nil)})
	if err != nil {
		p.t.Fatal(err)
	}
	keys, err := DeriveKeys(s, theBox.Mailbox)
	if err != nil {
		p.t.Fatal(err)
	}
	return s, keys.NextCaps()
}

// T2: a device of an account that has one already is added by that account alone, though
// its certificate holds.
func TestGhostDeviceOfAMember(t *testing.T) {
	people := newCircle(t)
	dov := people[3]
	add := mls.Add{KeyPackage: dov.device().keyPackage().KeyPackage()}
	for i, name := range []string{"an owner", "an admin", "a member", "its own account"} {
		s, meta := people[i].commit(add)
		err := Validate(people[i].group, s, meta)
		if name == "its own account" && err != nil || name != "its own account" && !errors.Is(err, ErrInvalid) {
			t.Errorf("added by %s: %v", name, err)
		}
	}
}

// Any member may take out a device whose account has revoked it, and says by what entry.
func TestRevokedDeviceMayBeRemovedByAnybody(t *testing.T) {
	people := newCircle(t)
	ana, cem, dov := people[0], people[2], people[3]
	lost := dov.device()
	kp := lost.keyPackage()
	s, meta := dov.commit(mls.Add{KeyPackage: kp.KeyPackage()})
	if err := Validate(dov.group, s, meta); err != nil {
		t.Fatal(err)
	}
	r, err := cem.group.Process(s.Message(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if cem.group, err = r.Staged.Merge(cem.group); err != nil {
		t.Fatal(err)
	}
	leaf := s.Added()[0]

	last := func(l *identity.Log, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e := l.Entry(l.Head().Seq)
		return e.Append(nil)
	}
	suspended := last(dov.log.SuspendDevice(dov.actor(), lost.id))
	final := last(dov.log.RevokeDevice(dov.seed.AccountKey(0), dov.actor(), lost.id))
	third := dov.device()
	thiefs, err := dov.log.SuspendDevice(identity.Actor{Device: third.id, Key: third.signer}, dov.id)
	if err != nil {
		t.Fatal(err)
	}
	// Of the account's log the member needs nothing; of the one that acted, a leaf.
	byThird := last(dov.log.SuspendDevice(identity.Actor{Device: third.id, Key: third.signer}, lost.id))
	forged := append([]byte(nil), final...)
	forged[len(forged)-1-64-16-64] ^= 1 // in the account's signature
	stranger := newPerson(t)
	strangers := last(stranger.device().log.SuspendDevice(stranger.actor(), stranger.id))
	for _, tt := range []struct {
		name  string
		proof []byte
		ok    bool
	}{
		{"a suspension by another device", suspended, true},
		{"a final revocation", final, true},
		{"nothing", nil, false},
		{"the suspension of another device", last(thiefs, nil), false},
		{"a suspension by a device that is not in the group", byThird, false},
		{"a forged signature", forged, false},
		{"another account's", strangers, false},
		{"no entry", []byte("x"), false},
	} {
		var proofs [][]byte
		if tt.proof != nil {
			proofs = [][]byte{tt.proof}
		}
		s, meta := cem.commitWith(proofs, mls.Remove{Removed: leaf})
		if err := Validate(cem.group, s, meta); tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", tt.name, err)
		}
		// It gives no right to take out anybody else.
		s, meta = cem.commitWith(proofs, mls.Remove{Removed: ana.group.OwnLeaf()})
		if err := Validate(cem.group, s, meta); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, for another's removal: %v", tt.name, err)
		}
	}
	// A context that says it has proofs has some.
	c := sampleContext()
	c.Proofs = [][]byte{suspended}
	if got, err := ParseContext(c.Append(nil)); err != nil || len(got.Proofs) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	empty := append(append([]byte(nil), 0, 2), sampleContext().Append(nil)[2:]...)
	for _, b := range [][]byte{empty, append(empty, 0)} {
		if _, err := ParseContext(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x is read: %v", b, err)
		}
	}
}
