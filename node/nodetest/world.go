// Package nodetest is a world of nodes and relays in one process, for tests: real
// relays and real nodes, joined by pipes that can be cut.
package nodetest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"sotto/crypto/key"
	"sotto/node"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/badgerbox"
	"sotto/relay/mailbox/membox"
	"sotto/relay/relaytest"
	"sotto/relay/server"
	"sotto/relay/wire"
	"sotto/storage/blob"
	"sotto/storage/blob/memblob"
	"sotto/storage/kv"
	"sotto/storage/vault"
)

// World holds relays by their keys.
type World struct {
	t    testing.TB
	disk bool // homes are on disk

	mu     sync.Mutex // guards the following field
	relays map[key.RelayPublic]*Relay
}

// New makes an empty world.
func New(t testing.TB) *World { return &World{t: t, relays: map[key.RelayPublic]*Relay{}} }

// Relay is a relay that can be stopped and started; what it stores stays.
type Relay struct {
	Address wire.Address
	Store   *membox.Store
	Blobs   blob.Store
	durable *badgerbox.Store // in place of Store, where what a disk takes is to be measured
	key     key.RelaySecret
	tickets *access.Tickets

	mu    sync.Mutex                 // guards the following fields
	evil  *relaytest.Evil            // what it has for a store if it means ill
	views map[*Person]*server.Server // what some are shown in place of srv
	srv   *server.Server
	conns []net.Conn
	done  sync.WaitGroup
}

// Relay makes a relay and starts it.
func (w *World) Relay() *Relay {
	w.t.Helper()
	k := key.NewRelay()
	hint, err := ma.NewMultiaddr("/ip4/127.0.0.1/tcp/1")
	if err != nil {
		w.t.Fatal(err)
	}
	r := &Relay{Address: wire.Address{Key: k.Public(), Hints: []ma.Multiaddr{hint}}, Store: membox.New(nil, 0), Blobs: memblob.New(nil, nil), key: k, tickets: access.NewTickets(make([]byte, 32))}
	w.mu.Lock()
	w.relays[k.Public()] = r
	w.mu.Unlock()
	r.Start()
	w.t.Cleanup(r.Stop)
	return r
}

// Evil makes a relay that means ill, and starts it.
func (w *World) Evil() (*Relay, *relaytest.Evil) {
	w.t.Helper()
	r := w.Relay()
	r.Stop()
	e := relaytest.New(nil)
	r.Become(e)
	return r, e
}

// Become makes a relay one with another history, under the same key, and starts it.
func (r *Relay) Become(e *relaytest.Evil) {
	r.Stop()
	r.mu.Lock()
	r.evil = e
	r.mu.Unlock()
	r.Start()
}

// Show makes a relay show somebody another history than everybody else.
func (r *Relay) Show(p *Person, e *relaytest.Evil) {
	r.mu.Lock()
	if r.views == nil {
		r.views = map[*Person]*server.Server{}
	}
	r.views[p] = r.serve(e, e)
	r.mu.Unlock()
	r.Cut()
}

func (r *Relay) serve(s mailbox.Store, slots mailbox.Slots) *server.Server {
	return server.New(server.Config{Key: r.key, Store: s, Slots: slots, Blobs: r.Blobs, Policy: access.Policy{Tickets: r.tickets}})
}

// Start starts a relay that was stopped.
func (r *Relay) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.evil != nil:
		r.srv = r.serve(r.evil, r.evil)
	case r.durable != nil:
		r.srv = r.serve(r.durable, r.durable)
	default:
		r.srv = r.serve(r.Store, r.Store)
	}
}

// Stop ends a relay and every connection to it.
func (r *Relay) Stop() {
	r.mu.Lock()
	srv, conns, views := r.srv, r.conns, r.views
	r.srv, r.conns, r.views = nil, nil, nil
	r.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if srv != nil {
		srv.Close()
	}
	for _, v := range views {
		v.Close()
	}
	r.done.Wait()
}

// Cut breaks every connection to a relay that goes on.
func (r *Relay) Cut() {
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// Dial is the dial function of the world's nodes.
func (w *World) Dial(ctx context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) {
	return w.dial(nil, a)
}

// dial connects somebody.
func (w *World) dial(p *Person, a wire.Address) (net.Conn, key.RelayPublic, error) {
	w.mu.Lock()
	r := w.relays[a.Key]
	w.mu.Unlock()
	if r == nil {
		return nil, key.RelayPublic{}, errors.New("no such relay in this world")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.srv == nil {
		return nil, key.RelayPublic{}, errors.New("the relay is down")
	}
	mine, its := net.Pipe()
	srv := r.srv
	if v := r.views[p]; v != nil {
		srv = v
	}
	r.done.Add(1)
	go func() { defer r.done.Done(); srv.ServeConn(its) }()
	r.conns = append(r.conns, mine)
	return mine, a.Key, nil
}

// Person is somebody with a home.
type Person struct {
	*node.Node
	w    *World
	Home string
	opt  node.Options
	stop context.CancelFunc
	done chan struct{}
}

// Passphrase opens every home of the world.
var Passphrase = []byte("correct horse")

// Person makes somebody with a home at a relay (nil: none), and starts their node.
func (w *World) Person(name string, r *Relay) *Person {
	w.t.Helper()
	p := &Person{w: w, Home: filepath.Join(w.folder(), name)}
	p.opt.Spread = func(time.Duration, time.Duration) time.Duration { return time.Hour }
	o := node.InitOptions{Name: name, Passphrase: Passphrase, Params: vault.FloorParams}
	if r != nil {
		o.Relay = r.Address.String()
	}
	if _, err := node.Init(w.t.Context(), p.Home, o); err != nil {
		w.t.Fatal(err)
	}
	p.Start()
	w.t.Cleanup(p.Stop)
	return p
}

// folder makes an empty folder, in memory where that can be had: what fails in a world is
// made to fail, so the disk's flushes show nothing and take most of the time.
func (w *World) folder() string {
	dir, err := os.MkdirTemp("/dev/shm", "sotto-*")
	if err != nil || w.disk {
		os.Remove(dir)
		return w.t.TempDir()
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Hook lets a test stand between the node and its disk from the next start on.
func (p *Person) Hook(h kv.Hook) { p.opt.Hook = h }

// Sealed lets a test hear of every (key, nonce) used from the next start on.
func (p *Person) Sealed(f func(key [32]byte, nonce [24]byte)) { p.opt.Sealed = f }

// Clock sets the node's clock from the next start on.
func (p *Person) Clock(now func() time.Time) { p.opt.Clock = now }

// Prompt makes the node do at once, from the next start on, what is done after a random
// time: receipts. Otherwise they do not go out while a test runs.
func (p *Person) Prompt() {
	p.opt.Spread = func(time.Duration, time.Duration) time.Duration { return 0 }
}

// Start starts the node.
func (p *Person) Start() {
	p.w.t.Helper()
	o := p.opt
	o.Passphrase = Passphrase
	o.Dial = func(_ context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) { return p.w.dial(p, a) }
	n, err := node.Open(p.Home, o)
	if err != nil {
		p.w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.Node, p.stop, p.done = n, stop, make(chan struct{})
	go func() {
		defer close(p.done)
		if err := n.Run(ctx); err != nil {
			p.w.t.Errorf("%s: %v", filepath.Base(p.Home), err)
		}
	}()
	for !n.Running() {
		runtime.Gosched()
	}
}

// Stop stops the node; it may be stopped already.
func (p *Person) Stop() {
	if p.Node == nil {
		return
	}
	p.stop()
	<-p.done
	if err := p.Node.Close(); err != nil {
		p.w.t.Errorf("%s: close: %v", filepath.Base(p.Home), err)
	}
	p.Node = nil
}

// patience is how long Until waits: longer than any pause between two tries.
const patience = 3 * time.Minute

// Until waits for an event after which ok holds, looking once before.
func (p *Person) Until(what string, ok func() bool) {
	p.w.t.Helper()
	if ok() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last, err := p.LastEvent(ctx)
	if err != nil {
		p.w.t.Fatal(err)
	}
	if ok() {
		return
	}
	for _, err := range p.Events(ctx, last) {
		if err != nil {
			p.w.t.Fatal(err)
		}
		if ok() {
			return
		}
	}
	if ok() {
		p.w.t.Fatalf("%s: %s has come about, and no event has told of it", filepath.Base(p.Home), what)
	}
	contacts, _ := p.Contacts(context.Background())
	status, _ := p.Status(context.Background())
	p.w.t.Fatalf("%s: %s has not come about; contacts %+v, status %+v", filepath.Base(p.Home), what, contacts, status)
}

// Contacts returns a contact's state by name, "" if there is none.
func (p *Person) StateOf(name string) string {
	c, err := p.Contact(context.Background(), name)
	if err != nil {
		return ""
	}
	return c.State
}

// Texts returns the texts of a conversation with their states, oldest first.
func (p *Person) Texts(name string) (out []string) {
	ms, err := p.Messages(context.Background(), name, "", "", 0)
	if err != nil {
		return nil
	}
	for _, m := range ms {
		out = append(out, m.Text)
	}
	return out
}

// Meet makes contacts of two: a invites, b accepts.
func (w *World) Meet(a, b *Person, nameOfB, nameOfA string) {
	w.t.Helper()
	inv, err := a.Invite(w.t.Context(), node.InviteOptions{Name: nameOfB})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := b.Accept(w.t.Context(), inv.Link, nameOfA); err != nil {
		w.t.Fatal(err)
	}
	b.Until("the contact", func() bool { return b.StateOf(nameOfA) == node.ContactEstablished })
	a.Until("the contact", func() bool { return a.StateOf(nameOfB) == node.ContactEstablished })
}
