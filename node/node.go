// Package node is a person's device: it holds the account's keys, contacts and
// conversations in a vault, carries messages to and from relays, and answers the
// local API.
//
// A home is made once by [Init]; [Open] unlocks it and [Node.Run] works until its
// context is over:
//
//	n, err := node.Open(home, node.Options{Passphrase: p})
//	…
//	defer n.Close()
//	go n.Run(ctx)
//	m, err := n.Send(ctx, "ben", "hello")
//
// # As a library
//
// A program of its own may be a node: the example opens two, with a relay between them,
// in one process. Its methods are safe for several goroutines, and are those that the
// local API shows (package api), which is the better choice for a program that can
// stand beside a node: a home is one process's. In the moment before Run has taken up
// what stands in the vault, and after it has returned, what is about a conversation is
// refused with ErrStopped. Close comes when Run has returned.
//
// # How it works
//
// One goroutine owns a conversation. For each thing that happens (a message typed, an
// entry read, a relay's answer, time) it asks the pure core what to do (package
// conversation), does what concerns MLS on a copy of the group's state, and writes
// everything in one transaction of the vault. Only when that is durable does the
// copy become the state, and only then does anything leave the device. After a
// write whose fate is unknown everything held in memory is dropped and read back.
//
// What must get done some time (making a mailbox, posting a letter, taking an
// invite) stands in the vault and is tried until it is done.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/wire"
	"sotto/storage/kv"
	"sotto/storage/search"
	"sotto/storage/vault"
)

// Version is the node's version, as status and doctor show it.
const Version = "0.1.0-dev"

// EmbeddedRelay is the relay inside this process, as the node sees it.
type EmbeddedRelay struct {
	Address wire.Address
	Ticket  func(life time.Duration) []byte // lets its bearer create mailboxes
}

// Options says how to open a home.
type Options struct {
	Passphrase []byte // stays the caller's
	Embedded   *EmbeddedRelay
	Logger     *slog.Logger
	Clock      func() time.Time // default: time.Now

	// Random returns a random time of 0 to below d, by which devices come apart that
	// heard the same; default: rand.N of math/rand/v2.
	Random func(d time.Duration) time.Duration

	// Dial connects to a relay; default: libp2p with a fresh host for each relay
	// and start.
	Dial Dial

	// Spread gives the time after which something is done that is not done at once:
	// random by default.
	Spread func(least, most time.Duration) time.Duration

	// Of the vault, for tests.
	Reserve int64
	Free    func(dir string) (uint64, error)
	Hook    kv.Hook
	Sealed  func(key [32]byte, nonce [24]byte)
	Stretch func(passphrase, salt []byte, p vault.Params) []byte
}

// Dial connects to a relay and returns the key of who answered.
type Dial func(ctx context.Context, a wire.Address) (net.Conn, key.RelayPublic, error)

// Node is an open home.
type Node struct {
	home  string
	opt   Options
	log   *slog.Logger
	clock func() time.Time
	db    store.DB

	started time.Time
	device  store.Device
	account ownLog
	signer  key.DeviceSecret
	sealing key.SealingSecret

	events *hub
	dues   *hub          // rung when something else may be due first
	lost   atomic.Uint64 // how often the vault was read back after doubt
	wishes atomic.Uint64 // counts writes on which more follows once they are durable; see accountChanged

	mu      sync.Mutex // guards the following fields
	running context.Context
	byHand  bool // a Stepper does what goroutines do otherwise
	stop    context.CancelFunc
	tasks   *tasks
	work    sync.WaitGroup // goroutines of Run
	owners  map[string]*owner
	relays  map[key.RelayPublic]*relay
	inbox   context.CancelFunc // stops the reader of the inbox
	problem string
	refused string // why a relay does not let this node create things
}

func (o *Options) complete() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Random == nil {
		o.Random = mrand.N[time.Duration]
	}
	if o.Spread == nil {
		o.Spread = func(least, most time.Duration) time.Duration { return least + o.Random(most-least+1) }
	}
	if o.Free == nil {
		o.Free = kv.FreeAt
	}
}

func (o *Options) vault() vault.Config {
	return vault.Config{Schema: store.Schema, Reserve: o.Reserve, Free: o.Free, MaxTx: 4 << 20, Hook: o.Hook, Sealed: o.Sealed, Stretch: o.Stretch, Logger: o.Logger}
}

// Open unlocks a home. It returns ErrNotFound if there is no account, ErrLocked,
// ErrBusy, ErrDamaged, ErrDiskFull.
func Open(home string, o Options) (*Node, error) {
	o.complete()
	if there, err := HasAccount(home); err != nil {
		return nil, fmt.Errorf("open %s: %w", home, err)
	} else if !there {
		return nil, fmt.Errorf("%w: there is no account in %s", ErrNotFound, home)
	}
	v, err := vault.Open(filepath.Join(home, vaultDir), vault.Unlock{Passphrase: o.Passphrase},
		o.vault())
	if err != nil {
		return nil, apiError(fmt.Errorf("open %s: %w", home, err))
	}
	n, err := newNode(home, o, v)
	if err != nil {
		return nil, apiError(fmt.Errorf("open %s: %w", home, err))
	}
	if err := n.load(); err != nil {
		v.Close()
		return nil, apiError(fmt.Errorf("open %s: %w", home, err))
	}
	return n, nil
}

// newNode closes the vault if it fails.
func newNode(home string, o Options, v *vault.Vault) (*Node, error) {
	index, err := search.Open(v)
	if err != nil {
		v.Close()
		return nil, err
	}
	o.Passphrase = nil
	return &Node{home: home, opt: o, log: o.Logger, clock: o.Clock, db: store.DB{Vault: v, Index: index}, started: o.Clock(), events: newHub(), dues: newHub(),
		owners: map[string]*owner{}, relays: map[key.RelayPublic]*relay{}}, nil
}

func (n *Node) load() error {
	err := n.view(func(tx *store.Tx) (err error) {
		n.device, err = tx.Device()
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: this home is not linked to an account yet; go on with sotto device link --enter", ErrNotReady)
	}
	if err != nil {
		return err
	}
	if err := n.readAccount(); err != nil {
		return err
	}
	n.signer = key.DeviceFromSeed(n.device.Seed)
	n.sealing = key.SealingFromSeed(n.device.Sealing)
	return nil
}

// Close locks the home. Run must have returned.
func (n *Node) Close() error {
	n.mu.Lock()
	relays := n.relays
	n.relays = map[key.RelayPublic]*relay{}
	n.mu.Unlock()
	for _, r := range relays {
		r.close()
	}
	// What the last hour has used up goes with the keys it was sealed under.
	if err := n.erase(); err != nil {
		n.log.Warn("keys that were used up are not erased yet", "err", err)
	}
	return n.db.Close()
}

// Shutdown makes Run return.
func (n *Node) Shutdown() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stop != nil {
		n.stop()
	}
}

// Running reports whether Run works: what changes a conversation needs it.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running != nil
}

// eraseEvery is how often used-up keys are made unreadable.
const eraseEvery = time.Hour

// Run works until ctx is over or Shutdown is called, and waits for everything it
// has started.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.running != nil {
		n.mu.Unlock()
		return errors.New("the node runs already")
	}
	ctx, stop := context.WithCancel(ctx)
	n.running, n.stop, n.tasks = ctx, stop, newTasks(ctx)
	n.mu.Unlock()
	defer stop()

	n.spawn(n.keepDues)
	err := n.begin()
	if err == nil {
		t := time.NewTicker(eraseEvery)
		defer t.Stop()
		for over := false; !over; {
			select {
			case <-ctx.Done():
				over = true
			case <-t.C:
				if err := n.erase(); err != nil {
					n.log.Warn("used-up keys are not erased yet", "err", err)
				}
				if err := n.update(func(tx *store.Tx) error { return tx.TrimEvents(keepEvents) }); err != nil {
					n.log.Warn("old events are not trimmed", "err", err)
				}
				n.task("overdue", func(context.Context) error { return n.dropOverdue() })
				n.task("old", func(context.Context) error { return n.dropOld() })
				n.cleanIndex()
			}
		}
	}
	stop()
	n.tasks.close()
	n.work.Wait()
	n.mu.Lock()
	n.running, n.owners, n.inbox = nil, map[string]*owner{}, nil
	n.mu.Unlock()
	return err
}

const keepEvents = 10_000

// begin takes up everything that stands in the vault, as far as it is not under way.
func (n *Node) begin() error {
	var conversations []store.Conversation
	var acceptances []store.Acceptance
	var invites []store.Invite
	err := n.view(func(tx *store.Tx) (err error) {
		if conversations, err = tx.Conversations(); err != nil {
			return err
		}
		if acceptances, err = tx.Acceptances(); err != nil {
			return err
		}
		invites, err = tx.Invites()
		return err
	})
	if err != nil {
		return apiError(err)
	}
	n.task("inbox", func(context.Context) error {
		if r := n.homeRelay(); r != "" {
			if err := n.ensureInbox(r, nil); err != nil {
				return err
			}
		}
		return n.startInbox()
	})
	for _, c := range conversations {
		n.startOwner(c)
		n.takeUp(c.Group) // in case that was interrupted
	}
	for _, a := range acceptances {
		if a.Step != store.AcceptDone && a.Step != store.AcceptFailed {
			n.advance(a.ID)
		}
	}
	for _, i := range invites {
		if i.State == store.InviteOpen && !i.Placed {
			n.placeInvite(i.OfferHash)
		}
	}
	n.startLetters()
	n.giveHistory()
	n.takeHistory()
	n.fetchInvited()
	n.collect()
	var joinings []store.Joining
	if err := n.view(func(tx *store.Tx) (err error) { joinings, err = tx.Joinings(); return err }); err != nil {
		return apiError(err)
	}
	for _, j := range joinings {
		if j.Step == store.AcceptTaking || j.Step == store.AcceptSending {
			n.advanceJoining(j.ID)
		}
	}
	n.keepIndex()
	n.lookAtDues()
	n.task("overdue", func(context.Context) error { return n.dropOverdue() })
	n.task("old", func(context.Context) error { return n.dropOld() })
	return nil
}

// spawn runs f until the node stops. It reports false if the node does not run.
func (n *Node) spawn(f func(ctx context.Context)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running == nil || n.running.Err() != nil || n.byHand {
		return false
	}
	ctx := n.running
	n.work.Add(1)
	go func() {
		defer n.work.Done()
		f(ctx)
	}()
	return true
}

// task starts a task; see tasks.start.
func (n *Node) task(name string, run func(context.Context) error) {
	n.mu.Lock()
	t := n.tasks
	n.mu.Unlock()
	if t != nil {
		t.start(name, func(ctx context.Context) error {
			err := run(ctx)
			if err != nil && ctx.Err() == nil {
				n.log.Debug("a task is tried again later", "err", err)
			}
			return n.doubt(err)
		})
	}
}

// doubt reads the vault back after a write whose fate is unknown, unless that has
// been done already. It returns err.
func (n *Node) doubt(err error) error {
	if !errors.Is(err, kv.ErrUnknown) {
		return err
	}
	if n.readBack() {
		// What failed may have happened, and then nobody has done what follows on it:
		// events are told of, entries go out, cores are asked again, and everything
		// that stands in the vault to be done is taken up as at a start.
		n.events.ring()
		if err := n.readAccount(); err != nil {
			n.log.Warn("the account's log is not read", "err", err)
		}
		n.hurry()
		n.task("begin", func(context.Context) error { return n.begin() })
	}
	return err
}

// readBack reopens a vault that is in doubt, and reports whether it has.
func (n *Node) readBack() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db.View(func(*store.Tx) error { return nil }) == nil {
		return false
	}
	if again := n.db.Reopen(); again != nil {
		n.problem = "the vault cannot be read back: " + again.Error() + "; restart the node"
		return false
	}
	n.problem = ""
	n.lost.Add(1)
	return true
}

// view is db.View, after the vault has been read back if a write is in doubt.
func (n *Node) view(f func(tx *store.Tx) error) error {
	err := n.db.View(f)
	if errors.Is(n.doubt(err), kv.ErrUnknown) {
		err = n.db.View(f)
	}
	return err
}

// update is db.Update, with events and doubt dealt with.
func (n *Node) update(f func(tx *store.Tx) error) error {
	wishes := n.wishes.Load()
	err := n.doubt(n.db.Update(f))
	if err == nil {
		n.events.ring()
		if n.wishes.Load() != wishes {
			n.wishes.Add(1) // what was looked at before this was durable is looked at again
			n.accountChanged()
		}
	}
	return err
}

// erase makes keys unreadable that were used up: what lives is sealed again under
// fresh ones, and the key that the old ones were wrapped under is destroyed.
func (n *Node) erase() error {
	var groups [][]byte
	err := n.view(func(tx *store.Tx) error {
		cs, err := tx.Conversations()
		for _, c := range cs {
			groups = append(groups, c.Group)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, g := range append(groups, nil) {
		if err := n.doubt(n.db.Update(func(tx *store.Tx) error { return tx.Rebucket(g) })); err != nil {
			return err
		}
	}
	return errors.Join(n.db.RotateErasure(vault.MLS), n.eraseMessages(groups))
}

// eraseMessages makes final what was erased of messages: what lives moves out of the
// buckets that hold something of it, and these are destroyed.
func (n *Node) eraseMessages(groups [][]byte) error {
	for _, g := range groups {
		var e store.Emptying
		for done := false; !done; {
			err := n.doubt(n.db.Update(func(tx *store.Tx) (err error) { done, err = tx.Empty(g, &e); return err }))
			if err != nil {
				return err
			}
		}
	}
	var erased, rotated uint64
	err := n.view(func(tx *store.Tx) (err error) { erased, rotated, err = tx.Unerased(); return err })
	if err != nil || erased == rotated {
		return err
	}
	// The index holds words of what is gone. What it cannot clean now it does within the hour.
	if err := n.db.Index.Maintain(context.Background(), n.db.Vault, true); err != nil {
		n.log.Warn("the search index still holds words of messages that are gone", "err", err)
	}
	if err := n.db.RotateErasure(vault.Messages); err != nil {
		return err
	}
	return n.doubt(n.db.Update(func(tx *store.Tx) error { return tx.PutRotated(erased) }))
}

// mlsConfig is what a group needs of this device.
func (n *Node) mlsConfig() mls.Config {
	return mls.Config{Signer: n.signer.Signer(), ValidateCredential: conversation.ValidateCredential}
}

// leaf returns what this device's leaf says: its credential and its inbox.
func (n *Node) leaf(inbox *store.Inbox) (mls.Credential, mls.Extensions, error) {
	c, err := n.account.now().Credential(n.device.ID)
	if err != nil {
		return mls.Credential{}, nil, err
	}
	ref, err := n.inboxRef(inbox)
	if err != nil {
		return mls.Credential{}, nil, err
	}
	return mls.BasicCredential(c.Append(nil)), mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionInbox), Data: ref.Append(nil)}}, nil
}

// inboxRef is what others need to write to this device's inbox.
func (n *Node) inboxRef(inbox *store.Inbox) (identity.InboxRef, error) {
	a, err := wire.ParseAddress(inbox.Mailbox.Relay)
	if err != nil {
		return identity.InboxRef{}, err
	}
	return identity.InboxRef{Relay: a.Append(nil), Mailbox: inbox.Mailbox.ID, AppendKey: key.CapabilityFromSeed(inbox.Append), SealingKey: n.sealing.Public()}, nil
}

// Account is this account's id.
func (n *Node) Account() identity.AccountID { return n.account.ID() }

func random16() (b [16]byte) { rand.Read(b[:]); return b }
func random32() (b [32]byte) { rand.Read(b[:]); return b }

// relay is a relay that the node uses.
type relay struct {
	client *client.Client
	close  func()

	mu      sync.Mutex // guards the following field
	address wire.Address
}

func (r *relay) where() wire.Address {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}
