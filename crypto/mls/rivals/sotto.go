package main

import (
	"crypto/ed25519"
	"math"

	"sotto/crypto/mls"
)

// sotto is a device of ours. It keeps its state as a node does: each operation is on a
// clone, whose records are what would be written.
type sotto struct {
	config mls.Config
	n      int
	bundle *mls.KeyPackageBundle
	group  *mls.Group
}

func newSotto(n int) (device, error) {
	_, signer, err := ed25519.GenerateKey(nil)
	return &sotto{n: n, config: mls.Config{
		Signer:             signer,
		ValidateCredential: func(leaf, old *mls.LeafNode) error { return nil },
	}}, err
}

func (d *sotto) credential() mls.Credential { return mls.BasicCredential([]byte(identityOf(d.n))) }

func (d *sotto) keep(next *mls.Group) {
	next.Changes()
	if d.group != nil {
		d.group.Retire(next)
	}
	d.group = next
}

var always = mls.Lifetime{NotAfter: math.MaxInt64}

func (d *sotto) keyPackage() (result, error) {
	return timed(func(r *result) (err error) {
		d.bundle, err = mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.X25519AES128, Signer: d.config.Signer, Credential: d.credential(), Lifetime: always})
		if err == nil {
			r.message = d.bundle.KeyPackage().Message()
		}
		return err
	})
}

func (d *sotto) create(group []byte) (result, error) {
	return timed(func(*result) error {
		g, err := mls.NewGroup(d.config, mls.GroupOptions{Suite: mls.X25519AES128, GroupID: group, Credential: d.credential(), Lifetime: always})
		if err == nil {
			d.keep(g)
		}
		return err
	})
}

func (d *sotto) commit(proposals []mls.Proposal) (result, error) {
	return timed(func(r *result) error {
		next := d.group.Clone()
		s, err := next.Commit(&mls.CommitOptions{Proposals: proposals})
		if err != nil {
			return err
		}
		r.message, r.welcome = s.Message(), s.Welcome()
		if next, err = s.Merge(next); err == nil {
			d.keep(next)
		}
		return err
	})
}

func (d *sotto) add(packages [][]byte) (result, error) {
	return timed(func(r *result) error {
		var adds []mls.Proposal
		for _, p := range packages {
			k, err := mls.ParseKeyPackageMessage(p)
			if err != nil {
				return err
			}
			adds = append(adds, mls.Add{KeyPackage: k})
		}
		made, err := d.commit(adds)
		r.message, r.welcome = made.message, made.welcome
		return err
	})
}

func (d *sotto) join(welcome []byte) (result, error) {
	return timed(func(*result) error {
		g, _, err := mls.Join(d.config, welcome, d.bundle, nil)
		if err == nil {
			d.keep(g)
		}
		return err
	})
}

func (d *sotto) update() (result, error) { return d.commit(nil) }

func (d *sotto) remove(n int) (result, error) {
	return d.commit([]mls.Proposal{mls.Remove{Removed: mls.LeafIndex(n)}})
}

func (d *sotto) process(message []byte) (result, error) {
	return timed(func(*result) error {
		next := d.group.Clone()
		got, err := next.Process(message, nil)
		if err != nil {
			return err
		}
		if got.Staged != nil {
			if next, err = got.Staged.Merge(next); err != nil {
				return err
			}
		}
		d.keep(next)
		return nil
	})
}

func (d *sotto) encrypt(content []byte) (result, error) {
	return timed(func(r *result) (err error) {
		next := d.group.Clone()
		if r.message, err = next.Encrypt(content, nil); err == nil {
			d.keep(next)
		}
		return err
	})
}
