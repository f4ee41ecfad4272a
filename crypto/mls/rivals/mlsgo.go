package main

import (
	"context"
	"log/slog"

	theirs "github.com/thomas-vilte/mls-go"
	"github.com/thomas-vilte/mls-go/ciphersuite"
)

// mlsGo is a device of mls-go: its client, which stores its state in memory and keeps the
// group loaded, the faster of its two ways.
type mlsGo struct {
	client *theirs.Client
	group  []byte
}

var ctx = context.Background()

func newMLSGo(n int) (device, error) {
	c, err := theirs.NewClient([]byte(identityOf(n)), ciphersuite.MLS128DHKEMX25519,
		theirs.WithCacheStrategy(theirs.CacheAlways), theirs.WithLogger(slog.New(slog.DiscardHandler)))
	return &mlsGo{client: c}, err
}

func (d *mlsGo) keyPackage() (result, error) {
	return timed(func(r *result) (err error) {
		r.message, err = d.client.FreshKeyPackageBytes(ctx)
		return err
	})
}

func (d *mlsGo) create([]byte) (result, error) { // it names the group itself
	return timed(func(*result) (err error) {
		d.group, err = d.client.CreateGroup(ctx)
		return err
	})
}

func (d *mlsGo) add(packages [][]byte) (result, error) {
	return timed(func(r *result) (err error) {
		for _, p := range packages {
			if _, err := d.client.ProposeAddMember(ctx, d.group, p); err != nil {
				return err
			}
		}
		r.message, r.welcome, err = d.client.CommitPendingProposals(ctx, d.group)
		return err
	})
}

func (d *mlsGo) join(welcome []byte) (result, error) {
	return timed(func(*result) (err error) {
		d.group, err = d.client.JoinGroup(ctx, welcome)
		return err
	})
}

func (d *mlsGo) update() (result, error) {
	return timed(func(r *result) (err error) {
		r.message, err = d.client.SelfUpdate(ctx, d.group)
		return err
	})
}

func (d *mlsGo) remove(n int) (result, error) {
	return timed(func(r *result) (err error) {
		r.message, err = d.client.RemoveMember(ctx, d.group, []byte(identityOf(n)))
		return err
	})
}

func (d *mlsGo) process(message []byte) (result, error) {
	return timed(func(*result) error {
		if isApplication(message) {
			_, err := d.client.ReceiveMessage(ctx, d.group, message)
			return err
		}
		return d.client.ProcessCommit(ctx, d.group, message)
	})
}

func (d *mlsGo) encrypt(content []byte) (result, error) {
	return timed(func(r *result) (err error) {
		r.message, err = d.client.SendMessage(ctx, d.group, content)
		return err
	})
}

// isApplication tells by the content type of a PrivateMessage (RFC 9420, Section 6.3); what is
// public is none.
func isApplication(message []byte) bool {
	const private, application = 2, 1
	if len(message) < 5 || message[3] != private {
		return false
	}
	group := int(message[4]) // a length below 64 takes a byte
	return len(message) > 5+group+8 && message[5+group+8] == application
}
