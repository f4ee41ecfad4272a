package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/vault"
)

// one is somebody of a crowd: an account with a device and an inbox, and no node.
type one struct {
	identity.Actor
	log     *identity.Log
	sealing key.SealingSecret
	read    key.CapabilitySecret
	client  *client.Client
	inbox   identity.InboxRef
	bundle  *mls.KeyPackageBundle
}

func (o *one) name() string { return "m" + o.log.ID().String()[:12] }

// newOne makes somebody with an inbox at the relay of a client.
func newOne(t testing.TB, address wire.Address, c *client.Client, ticket []byte) *one {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	o := &one{Actor: identity.Actor{Device: identity.NewDeviceID(), Key: key.NewDevice()}, sealing: key.NewSealing(), read: key.NewCapability()}
	cert := identity.DeviceCert{Device: o.Device, DeviceKey: o.Key.Public(), HandshakeKey: key.NewNoise().Public(), SealingHash: identity.SealingHash(o.sealing.Public())}
	var err error
	o.log, err = identity.NewLog(identity.NewSeed(), cert, o.Key, [16]byte{})
	must(err)
	box := client.CreateRequest{Admin: key.NewCapability(), Read: o.read.Public(), Ticket: ticket}
	o.inbox = identity.InboxRef{Relay: address.Append(nil), Mailbox: box.ID(address.Key), AppendKey: key.NewCapability(), SealingKey: o.sealing.Public()}
	box.Append = o.inbox.AppendKey.Public()
	_, err = c.Create(t.Context(), box)
	must(err)
	o.client = c
	credential, err := o.log.Credential(o.Device)
	must(err)
	capabilities := mls.DefaultCapabilities(mls.XWing, mls.ExtensionType(conversation.ExtensionGroup), mls.ExtensionType(conversation.ExtensionKeyPackage), mls.ExtensionType(conversation.ExtensionInbox))
	now := time.Now()
	o.bundle, err = mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: o.Key.Signer(), Credential: mls.BasicCredential(credential.Append(nil)),
		Lifetime:     mls.Lifetime{NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(24 * time.Hour).Unix())},
		Capabilities: &capabilities, LeafExtensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionInbox), Data: o.inbox.Append(nil)}},
		Extensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionKeyPackage), Data: conversation.KeyPackageFlags(0)}}})
	must(err)
	return o
}

// crowded makes two people who are contacts, and so many of whom the first knows.
func (w *World) crowded(r *Relay, n int) (ana, ben *Person, crowd []*one, names []string) {
	ana, ben = w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	crowd, names = ana.crowd(r, n)
	return ana, ben, crowd, names
}

// crowd makes so many people at a relay, and contacts of them, with a key package of
// each, as if they had met and talked. The node is stopped for it.
func (p *Person) crowd(r *Relay, n int) (all []*one, names []string) {
	all, names = p.w.crowd(r, n)
	p.Stop()
	p.know(all)
	p.Start()
	return all, names
}

// know makes a crowd contacts of somebody whose node does not run.
func (p *Person) know(crowd []*one) {
	p.w.t.Helper()
	v, err := vault.Open(filepath.Join(p.Home, "vault"), vault.Unlock{Passphrase: Passphrase}, vault.Config{Schema: store.Schema, MaxTx: 4 << 20})
	if err != nil {
		p.w.t.Fatal(err)
	}
	defer v.Close()
	for _, o := range crowd {
		err := store.DB{Vault: v}.Update(func(tx *store.Tx) error {
			var log [][]byte
			for i := range o.log.Len() {
				e := o.log.Entry(uint32(i))
				log = append(log, e.Append(nil))
			}
			c := &store.Contact{Account: o.log.ID(), Name: o.name(), Profile: o.name(), State: store.ContactEstablished, Log: log, Since: time.Now()}
			if err := tx.PutContact(c); err != nil {
				return err
			}
			return tx.AddPackage(&store.Package{Contact: c.Account, Device: o.Device, LastResort: true, Package: o.bundle.KeyPackage().Marshal()})
		})
		if err != nil {
			p.w.t.Fatal(err)
		}
	}
}

// crowd makes so many people at a relay.
func (w *World) crowd(r *Relay, n int) (all []*one, names []string) {
	c := client.New(client.Config{Relay: r.Address.Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return w.Dial(ctx, r.Address) }})
	w.t.Cleanup(c.Close)
	ticket := r.tickets.Issue(mailbox.MinuteOf(time.Now().Add(time.Hour)))
	for range n {
		o := newOne(w.t, r.Address, c, ticket)
		all, names = append(all, o), append(names, o.name())
	}
	return all, names
}

// welcome returns the welcome in somebody's inbox, opened, or an error.
func (o *one) welcome(ctx context.Context) (*conversation.Welcome, error) {
	from := client.Place{Chain: mailbox.FirstChain(o.inbox.Mailbox)}
	page, err := o.client.Read(ctx, o.read, o.inbox.Mailbox, 0, from, mailbox.Limit{Entries: 10, Bytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	if len(page.Items) == 0 {
		return nil, errors.New("no letter has come")
	}
	typ, body, err := envelope.OpenLetter(o.sealing, o.inbox.Mailbox, page.Items[0].Entry.Payload)
	if err != nil || typ != envelope.Welcome {
		return nil, fmt.Errorf("a letter of type %d, %w", typ, err)
	}
	return conversation.ParseWelcome(body)
}

// invitation returns what a welcome leads to, fetched if it must be.
func (o *one) invitation(ctx context.Context, w *conversation.Welcome) (conversation.Invitation, error) {
	content := w.Inline
	if content == nil {
		var blobs [][]byte
		for _, id := range w.Spilled.Blobs {
			b, err := o.client.GetBlob(ctx, id)
			if err != nil {
				return conversation.Invitation{}, err
			}
			blobs = append(blobs, b)
		}
		var err error
		if content, err = w.Spilled.Open(blobs); err != nil {
			return conversation.Invitation{}, err
		}
	}
	return conversation.ParseInvitation(content)
}

// join joins the group of the welcome in somebody's inbox.
func (o *one) join(ctx context.Context) (g *mls.Group, inviter mls.LeafIndex, err error) {
	w, err := o.welcome(ctx)
	if err != nil {
		return nil, 0, err
	}
	i, err := o.invitation(ctx, w)
	if err != nil {
		return nil, 0, err
	}
	return mls.Join(mls.Config{Signer: o.Key.Signer(), ValidateCredential: conversation.ValidateCredential}, i.Welcome, o.bundle, &mls.JoinOptions{RatchetTree: i.Tree})
}
