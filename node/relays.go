package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sotto/crypto/key"
	"sotto/node/setting"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

// renewHost is how old a host toward a relay may be when it connects: an older one
// is replaced by one with a fresh PeerID, so that a relay cannot link a device's days.
const renewHost = 24 * time.Hour

// dialer makes hosts on demand, one for each relay.
type dialer struct {
	mu   sync.Mutex // guards the following fields, and is held while dialling
	host *transport.Dialer
	born time.Time
}

func (d *dialer) dial(ctx context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host != nil && time.Since(d.born) > renewHost {
		d.host.Close()
		d.host = nil
	}
	if d.host == nil {
		h, err := transport.NewDialer()
		if err != nil {
			return nil, key.RelayPublic{}, err
		}
		d.host, d.born = h, time.Now()
	}
	conn, k, err := d.host.Dial(ctx, a)
	if errors.Is(err, transport.ErrWrongRelay) {
		err = fmt.Errorf("%w: %w", client.ErrWrongRelay, err)
	}
	return conn, k, err
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host != nil {
		d.host.Close()
		d.host = nil
	}
}

// relayAt returns the relay of an address. What is known of where it is grows.
func (n *Node) relayAt(address string) (*relay, error) {
	a, err := wire.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if e := n.opt.Embedded; e != nil && e.Address.Key == a.Key {
		a = e.Address // where it is now
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.relays[a.Key]; r != nil {
		r.mu.Lock()
		r.address = a
		r.mu.Unlock()
		return r, nil
	}
	r := &relay{address: a}
	dial, stop := n.opt.Dial, func() {}
	if dial == nil {
		d := &dialer{}
		dial, stop = d.dial, d.close
	}
	r.client = client.New(client.Config{
		Relay: a.Key,
		Dial:  func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return dial(ctx, r.where()) },
		Changed: func() {
			if r.client.State().Connected {
				n.hurry()
			}
		},
	})
	r.close = func() { r.client.Close(); stop() }
	n.relays[a.Key] = r
	return r, nil
}

// hurry tries at once what waits for its next try: a relay is there again, or the
// vault has been read back.
func (n *Node) hurry() {
	n.mu.Lock()
	if n.byHand {
		n.mu.Unlock()
		return // everything is tried when its turn comes
	}
	t := n.tasks
	var os []*owner
	for _, o := range n.owners {
		os = append(os, o)
	}
	n.mu.Unlock()
	if t != nil {
		t.hurry()
	}
	for _, o := range os {
		o.hurryPost()
		o.hurryRead()
		o.wake(0)
	}
}

// homeRelay is the address of the relay for new mailboxes: the one that was named,
// else the embedded one, else the one that an invite brought; "" if there is none.
func (n *Node) homeRelay() string {
	var named string
	var inbox store.Inbox
	n.view(func(tx *store.Tx) error {
		named, _ = value(tx, nil, setting.Relay)
		inbox, _ = tx.Inbox()
		return nil
	})
	switch {
	case named != "":
		return named
	case n.opt.Embedded != nil:
		return n.opt.Embedded.Address.String()
	}
	return inbox.Mailbox.Relay
}

// ticket is what the node shows to create something at a relay: of its own relay one
// that is made for it, of the one for new mailboxes the one that was set.
func (n *Node) ticket(address string) []byte {
	at, err := wire.ParseAddress(address)
	if err != nil {
		return nil
	}
	if e := n.opt.Embedded; e != nil && at.Key == e.Address.Key {
		return e.Ticket(time.Hour)
	}
	var named, set string
	n.view(func(tx *store.Tx) error {
		named, _ = value(tx, nil, setting.Relay)
		set, _ = value(tx, nil, setting.Ticket)
		return nil
	})
	if own, err := wire.ParseAddress(named); err != nil || own.Key != at.Key || set == "" {
		return nil
	}
	b, err := setting.ParseTicket(set)
	if err != nil {
		return nil
	}
	return b
}

// heed keeps whether a relay lets this node create things, for people to see.
func (n *Node) heed(err error) error {
	var refused *wire.Error
	is := errors.As(err, &refused) && refused.Code == wire.CodeRefused
	if is || err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.refused = ""
		if is {
			n.refused = "the relay lets only those make mailboxes who have a ticket, or too many were made from this address; a ticket comes from its operator: sotto config set ticket TICKET"
		}
	}
	return err
}

// newMailbox makes the keys of a mailbox; the relay learns of it later.
func newMailbox(address string, t mailbox.Terms, read, append key.CapabilityPublic, ticket []byte) (store.Mailbox, error) {
	a, err := wire.ParseAddress(address)
	if err != nil {
		return store.Mailbox{}, err
	}
	admin, salt := key.NewCapability(), random16()
	return store.Mailbox{Relay: address, ID: wire.MailboxID(a.Key, admin.Public(), salt), Salt: salt, Admin: admin.Seed(),
		ReadKey: [32]byte(read.Bytes()), AppendKey: [32]byte(append.Bytes()),
		Keep: uint32(t.Keep), MaxEntries: t.MaxEntries, MaxBytes: t.MaxBytes, Full: uint8(t.Full), Ticket: ticket}, nil
}

// createMailbox makes a mailbox at its relay; a repeat does no harm.
func (n *Node) createMailbox(ctx context.Context, m *store.Mailbox) error {
	r, err := n.relayAt(m.Relay)
	if err != nil {
		return err
	}
	read, err := key.ParsePublic[key.CapabilityPublic](m.ReadKey[:])
	if err != nil {
		return err
	}
	app, err := key.ParsePublic[key.CapabilityPublic](m.AppendKey[:])
	if err != nil {
		return err
	}
	ticket := n.ticket(m.Relay)
	if ticket == nil {
		ticket = m.Ticket
	}
	_, err = r.client.Create(ctx, client.CreateRequest{Admin: key.CapabilityFromSeed(m.Admin), Salt: m.Salt, Read: read, Append: app, Ticket: ticket,
		Terms: mailbox.Terms{Keep: mailbox.Minute(m.Keep), MaxEntries: m.MaxEntries, MaxBytes: m.MaxBytes, Full: mailbox.Full(m.Full)}})
	return n.heed(err)
}

// inboxTerms: letters wait thirty days; strangers cannot make it drop any.
var inboxTerms = mailbox.Terms{Keep: 30 * 24 * 60, MaxEntries: 200, MaxBytes: 200 * (48 << 10), Full: mailbox.Refuse}

// ensureInbox makes this device's inbox if there is none: its keys at once, at the
// relay as soon as that is there.
func (n *Node) ensureInbox(address string, ticket []byte) error {
	err := n.update(func(tx *store.Tx) error {
		if _, err := tx.Inbox(); err == nil || !errors.Is(err, store.ErrNotFound) {
			return err
		}
		read, app := key.NewCapability(), key.NewCapability()
		m, err := newMailbox(address, inboxTerms, read.Public(), app.Public(), ticket)
		if err != nil {
			return err
		}
		return tx.PutInbox(&store.Inbox{Mailbox: m, Read: read.Seed(), Append: app.Seed(), Chain: mailbox.FirstChain(m.ID)})
	})
	return apiError(err)
}

// openInbox makes the inbox at its relay if that has not been done.
func (n *Node) openInbox(ctx context.Context) (store.Inbox, error) {
	var in store.Inbox
	err := n.view(func(tx *store.Tx) (err error) { in, err = tx.Inbox(); return err })
	if err != nil || in.Mailbox.Created {
		return in, err
	}
	if err := n.createMailbox(ctx, &in.Mailbox); err != nil {
		return in, err
	}
	err = n.update(func(tx *store.Tx) (err error) {
		if in, err = tx.Inbox(); err != nil {
			return err
		}
		in.Mailbox.Created = true
		return tx.PutInbox(&in)
	})
	return in, err
}

// words says how a connection stands, in a sentence.
func words(s client.State, now time.Time) (state, sentence string, retry int) {
	switch {
	case s.Connected:
		return "connected", "Connected.", 0
	case s.Err == nil:
		return "connecting", "Connecting.", 0
	}
	if wait := s.Retry.Sub(now); wait > 0 {
		retry = int(wait.Seconds()) + 1
	}
	sentence = fmt.Sprintf("Not connected: %v.", s.Err)
	if retry > 0 {
		sentence += fmt.Sprintf(" Next try in %d s.", retry)
	}
	return "waiting", sentence, retry
}
