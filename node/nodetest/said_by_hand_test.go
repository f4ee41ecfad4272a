package nodetest

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/vault"
)

// A hand speaks in a conversation with the keys of somebody whose node has stopped, and
// says what no node would.
type hand struct {
	t       testing.TB
	account [32]byte
	group   []byte
	box     mailbox.ID
	gen     mailbox.Gen
	keys    envelope.Keys
	post    key.CapabilitySecret
	mls     *mls.Group
	context []byte
	client  *client.Client
	lamport uint64
}

// hand stops p and takes its place in a conversation.
func (p *Person) hand(name string) *hand {
	p.w.t.Helper()
	account := [32]byte(p.Account())
	group := groupBytes(p, name)
	p.Stop()
	h := &hand{t: p.w.t, account: account, group: group}
	v, err := vault.Open(filepath.Join(p.Home, "vault"), vault.Unlock{Passphrase: Passphrase}, vault.Config{Schema: store.Schema})
	if err != nil {
		h.t.Fatal(err)
	}
	defer v.Close()
	err = store.DB{Vault: v}.View(func(tx *store.Tx) error {
		rec, err := tx.Conversation(group)
		if err != nil {
			return err
		}
		core, err := conversation.ParseCore(rec.Core)
		if err != nil {
			return err
		}
		device, err := tx.Device()
		if err != nil {
			return err
		}
		records, err := tx.MLS(group)
		if err != nil {
			return err
		}
		keys, err := tx.EpochKeys(group)
		if err != nil {
			return err
		}
		newest := keys[len(keys)-1]
		if h.keys, err = envelope.NewKeys(newest.Envelope); err != nil {
			return err
		}
		h.box, h.gen, h.post, h.lamport = rec.Mailbox, core.Gen, key.CapabilityFromSeed(newest.Append), rec.Lamport
		h.context = conversation.Context{Seen: core.Cursor, Chain: core.Chain}.Append(nil)
		h.mls, err = mls.LoadGroup(mls.Config{Signer: key.DeviceFromSeed(device.Seed).Signer(), ValidateCredential: conversation.ValidateCredential}, records)
		if err != nil {
			return err
		}
		at, err := wire.ParseAddress(rec.Relay)
		if err != nil {
			return err
		}
		h.client = client.New(client.Config{Relay: at.Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return p.w.Dial(ctx, at) }})
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.client.Close)
	return h
}

// raw says bytes, and returns where they stand.
func (h *hand) raw(plain []byte) mailbox.Seq {
	h.t.Helper()
	message, err := h.mls.Encrypt(plain, h.context)
	if err != nil {
		h.t.Fatal(err)
	}
	payload, err := h.keys.Seal(envelope.Context{Mailbox: h.box, Kind: uint8(mailbox.Message), Generation: uint32(h.gen)}, message)
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := h.client.Append(h.t.Context(), h.post, mailbox.Deposit{Mailbox: h.box, Kind: mailbox.Message, Gen: h.gen, Payload: payload})
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Head.Head.Seq
}

// make makes a message without saying it.
func (h *hand) make(k content.Kind, fill func(*content.Message)) (plain []byte, id content.ID) {
	h.t.Helper()
	h.lamport++
	m := content.New(k, content.Common{Sent: time.Now(), Lamport: h.lamport})
	fill(m)
	plain, err := m.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return plain, content.IDOf(h.account, h.group, plain, m.Salt)
}

// say says a message and returns its id.
func (h *hand) say(k content.Kind, fill func(*content.Message)) content.ID {
	h.t.Helper()
	plain, id := h.make(k, fill)
	h.raw(plain)
	return id
}

func (h *hand) text(s string) content.ID {
	return h.say(content.Text, func(m *content.Message) { m.Text = s })
}
