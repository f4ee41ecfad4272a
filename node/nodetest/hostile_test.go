package nodetest

import (
	"context"
	"net"
	"testing"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node"
	"sotto/node/conversation"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// A stranger speaks the protocol without a node, and says in it what no node would: to
// its inbox nobody can seal anything.
type stranger struct {
	identity.Actor
	static key.NoiseSecret
	log    *identity.Log
	inbox  identity.InboxRef
	client *client.Client
}

func newStranger(t *testing.T, w *World, r *Relay) *stranger {
	s := &stranger{Actor: identity.Actor{Device: identity.NewDeviceID(), Key: key.NewDevice()}, static: key.NewNoise()}
	raw := key.NewSealing().Public().Bytes()
	clear(raw[len(raw)-32:]) // the X25519 half
	sealing, err := key.ParseSealing(raw)
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.DeviceCert{Device: s.Device, DeviceKey: s.Key.Public(), HandshakeKey: s.static.Public(), SealingHash: identity.SealingHash(sealing)}
	if s.log, err = identity.NewLog(identity.NewSeed(), cert, s.Key, [16]byte{}); err != nil {
		t.Fatal(err)
	}
	s.inbox = identity.InboxRef{Relay: r.Address.Append(nil), Mailbox: [32]byte{1}, AppendKey: key.NewCapability(), SealingKey: sealing}
	s.client = client.New(client.Config{Relay: r.Address.Key,
		Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return w.Dial(ctx, r.Address) }})
	t.Cleanup(s.client.Close)
	return s
}

func (s *stranger) keyPackage(t *testing.T) []byte {
	c, err := s.log.Credential(s.Device)
	if err != nil {
		t.Fatal(err)
	}
	capabilities := mls.DefaultCapabilities(mls.XWing, mls.ExtensionType(conversation.ExtensionGroup), mls.ExtensionType(conversation.ExtensionKeyPackage), mls.ExtensionType(conversation.ExtensionInbox))
	now := time.Now()
	b, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: s.Key.Signer(), Credential: mls.BasicCredential(c.Append(nil)),
		Lifetime:     mls.Lifetime{NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(24 * time.Hour).Unix())},
		Capabilities: &capabilities, LeafExtensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionInbox), Data: s.inbox.Append(nil)}},
		Extensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionKeyPackage), Data: conversation.KeyPackageFlags(0)}}})
	if err != nil {
		t.Fatal(err)
	}
	return b.KeyPackage().Marshal()
}

// A stranger's request that cannot be answered is passed over, and does not keep from
// the inbox what comes after it.
func TestRequestThatCannotBeAnswered(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben, mallory := w.Person("Ana", r), w.Person("Ben", r), newStranger(t, w, r)
	inv, err := ana.Invite(t.Context(), node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	link, err := handshake.ParseLink(inv.Link)
	if err != nil {
		t.Fatal(err)
	}
	read := link.Secret.SlotRead()
	value, err := mallory.client.TakeSlot(t.Context(), read, mailbox.Tag{1})
	if err != nil {
		t.Fatal(err)
	}
	offer, err := link.OpenOffer(wire.SlotID(link.Relay, read.Public()), value)
	if err != nil {
		t.Fatal(err)
	}
	devices, err := mallory.log.DeviceSet(mallory.Actor)
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := handshake.Begin(link, offer, mallory.static, handshake.ContactRequest{Log: mallory.log, Devices: devices,
		KeyPackages: [][]byte{mallory.keyPackage(t)}, Inbox: mallory.inbox, Name: "Mallory"})
	if err != nil {
		t.Fatal(err)
	}
	letter, err := envelope.SealLetter(offer.Inbox.SealingKey, offer.Inbox.Mailbox, envelope.ContactRequest, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mallory.client.Append(t.Context(), offer.Inbox.AppendKey, mailbox.Deposit{Mailbox: offer.Inbox.Mailbox, Kind: mailbox.Message, Payload: letter}); err != nil {
		t.Fatal(err)
	}
	w.Meet(ana, ben, "Ben", "Ana")
	if s := ana.StateOf("Mallory"); s != "" {
		t.Errorf("Mallory is a contact, %s", s)
	}
}

// An invite that cannot be answered ends with a word, not with a contact that is pending
// for ever.
func TestInviteThatCannotBeAnswered(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ben, mallory := w.Person("Ben", r), newStranger(t, w, r)
	expires := mailbox.MinuteOf(time.Now().Add(time.Hour))
	var hints [][]byte
	for _, h := range r.Address.Hints {
		hints = append(hints, h.Bytes())
	}
	link, value, _, err := handshake.NewInvite(handshake.InviteOptions{Log: mallory.log, Actor: mallory.Actor, Inbox: mallory.inbox, Name: "Mallory",
		Expires: uint32(expires), Relay: r.Address.Key, Hints: hints,
		SlotID: func(read key.CapabilityPublic) [32]byte { return wire.SlotID(r.Address.Key, read) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := mallory.client.CreateSlot(t.Context(), key.NewCapability(), link.Secret.SlotRead(), true, expires, value, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ben.Accept(t.Context(), link.Text(), "Mallory"); err != nil {
		t.Fatal(err)
	}
	ben.Until("the failure", func() bool { return ben.StateOf("Mallory") == node.ContactFailed })
}
