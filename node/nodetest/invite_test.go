package nodetest

import (
	"context"
	"strings"
	"testing"

	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// T26: Ben has opened an invite and been answered. Somebody else who has got hold of link
// and offer, as the relay's operator may with the link, answers it too, correctly: the
// inviter is told, and nobody joins the two.
func TestSecondAnswerToAnInvite(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	inv, err := ana.Invite(t.Context(), node.InviteOptions{Name: "Ben"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ben.Accept(t.Context(), inv.Link, "Ana"); err != nil {
		t.Fatal(err)
	}
	ana.Until("the contact", func() bool { return ana.StateOf("Ben") == node.ContactEstablished })

	link, err := handshake.ParseLink(inv.Link)
	if err != nil {
		t.Fatal(err)
	}
	id := wire.SlotID(link.Relay, link.Secret.SlotRead().Public())
	slot, err := r.Store.Slot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := link.OpenOffer(id, slot.Value)
	if err != nil {
		t.Fatal(err)
	}
	after, err := ana.LastEvent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	static, request := mallory(t, offer.Inbox)
	body, _, err := handshake.Begin(link, offer, static, request)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := envelope.SealLetter(offer.Inbox.SealingKey, offer.Inbox.Mailbox, envelope.ContactRequest, body)
	if err != nil {
		t.Fatal(err)
	}
	if out := r.Store.Put(t.Context(), []mailbox.Deposit{{Mailbox: offer.Inbox.Mailbox, Kind: mailbox.Message, Payload: entry}}); out[0].Err != nil {
		t.Fatal(out[0].Err)
	}
	ana.Until("a notice", func() bool {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		last, err := ana.LastEvent(ctx)
		if err != nil || last == after {
			return false
		}
		for e, err := range ana.Events(ctx, after) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == node.EventNotice && strings.HasPrefix(e.Notice, "Somebody else has tried an invite that was used already.") {
				return true
			}
			if e.Seq == last {
				break
			}
		}
		return false
	})

	// The two are as they were.
	if _, err := ben.Send(t.Context(), "Ana", "still here"); err != nil {
		t.Fatal(err)
	}
	ana.Until("the message", func() bool { return len(ana.Texts("Ben")) == 1 })
	contacts, err1 := ana.Node.Contacts(t.Context())
	conversations, err2 := ana.Conversations(t.Context())
	if err1 != nil || err2 != nil || len(contacts) != 1 || len(conversations) != 1 {
		t.Errorf("%d contacts and %d conversations, %v, %v", len(contacts), len(conversations), err1, err2)
	}
}

// mallory is a new account and what it says in a request.
func mallory(t *testing.T, inbox identity.InboxRef) (key.NoiseSecret, handshake.ContactRequest) {
	t.Helper()
	device, static, sealing := key.NewDevice(), key.NewNoise(), key.NewSealing()
	cert := identity.DeviceCert{Device: identity.NewDeviceID(), DeviceKey: device.Public(), HandshakeKey: static.Public(), SealingHash: identity.SealingHash(sealing.Public())}
	log, err := identity.NewLog(identity.NewSeed(), cert, device, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	set, err := log.DeviceSet(identity.Actor{Device: cert.Device, Key: device})
	if err != nil {
		t.Fatal(err)
	}
	inbox.SealingKey = sealing.Public()
	return static, handshake.ContactRequest{Log: log, Devices: set, KeyPackages: [][]byte{{1}}, Inbox: inbox, Name: "Mallory"}
}
