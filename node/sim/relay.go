package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/membox"
	"sotto/relay/server"
	"sotto/relay/wire"
)

// How often what goes wrong at a relay's door, in a hundred deposits or readings.
const (
	lost       = 5
	unanswered = 5
	doubled    = 3
	late       = 3
	unread     = 5
)

// relay is a relay with its store and its door: what the server takes for its store.
type relay struct {
	mailbox.Store // the store itself; methods that have no faults are its own
	w             *world
	address       wire.Address
	key           key.RelaySecret
	slots         mailbox.Slots
	server        *server.Server // nil while it is down
	down          time.Time      // until then
	lines         []*line
	commits       int

	mu   sync.Mutex // guards the following fields: the server works in goroutines of its own
	rng  *rand.Rand
	held []mailbox.Deposit // that arrive later
}

func (w *world) newRelay() *relay {
	k := key.NewRelay()
	hint, err := ma.NewMultiaddr("/ip4/127.0.0.1/tcp/1")
	if err != nil {
		panic("sim: " + err.Error()) // unreachable
	}
	store := membox.New(w.time, 0)
	r := &relay{Store: store, slots: store, w: w, key: k, address: wire.Address{Key: k.Public(), Hints: []ma.Multiaddr{hint}},
		rng: rand.New(rand.NewPCG(w.o.Seed, 1<<32+uint64(len(w.relays))))}
	r.start()
	return r
}

func (r *relay) start() {
	r.server = server.New(server.Config{Key: r.key, Store: r, Slots: r.slots, Clock: r.w.time,
		Policy: access.Policy{PerMinute: 1e9, Burst: 1 << 30}})
}

// stop ends the relay's process.
func (r *relay) stop() {
	if r.server == nil {
		return
	}
	r.hangUp(nil)
	r.server.Close()
	r.server = nil
}

// line is a connection, at the client's end.
type line struct {
	net.Conn
	of    *device
	its   net.Conn
	ended chan struct{} // closed when the client has hung up
	once  sync.Once
	done  chan struct{} // closed when the server has
}

func (l *line) Close() error {
	l.once.Do(func() { close(l.ended) })
	return l.Conn.Close()
}

func (r *relay) connect(d *device) net.Conn {
	mine, its := net.Pipe()
	l := &line{Conn: mine, of: d, its: its, ended: make(chan struct{}), done: make(chan struct{})}
	srv := r.server
	go func() { defer close(l.done); srv.ServeConn(its) }()
	r.lines = append(r.lines, l)
	return l
}

// hangUp ends the connections of a device, or all, and returns when both sides know.
func (r *relay) hangUp(d *device) {
	var left []*line
	for _, l := range r.lines {
		if d != nil && l.of != d {
			left = append(left, l)
			continue
		}
		l.its.Close()
		<-l.ended
		<-l.done
	}
	r.lines = left
}

// Put has the faults of the way to a relay, and of the way back.
func (r *relay) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]mailbox.Outcome, len(ds))
	for i := range ds {
		out[i] = r.putLocked(ctx, ds[i])
	}
	return out
}

func (r *relay) putLocked(ctx context.Context, d mailbox.Deposit) mailbox.Outcome {
	unknown := mailbox.Outcome{Err: fmt.Errorf("%w: the answer is lost", mailbox.ErrUnknown)}
	if !r.w.storming {
		return r.storeLocked(ctx, d)
	}
	if len(r.held) > 0 && r.rng.IntN(3) == 0 {
		i := r.rng.IntN(len(r.held))
		h := r.held[i]
		r.held = append(r.held[:i], r.held[i+1:]...)
		r.storeLocked(ctx, h)
	}
	n := r.rng.IntN(100)
	if n -= lost; n < 0 {
		r.w.faults.Lost++
		return unknown
	}
	if n -= unanswered; n < 0 {
		r.w.faults.Unanswered++
		r.storeLocked(ctx, d)
		return unknown
	}
	if n -= doubled; n < 0 {
		r.w.faults.Doubled++
		r.storeLocked(ctx, d)
		return r.storeLocked(ctx, d)
	}
	if n -= late; n < 0 {
		r.w.faults.Late++
		r.held = append(r.held, mailbox.Deposit{Mailbox: d.Mailbox, Kind: d.Kind, Gen: d.Gen, Expect: d.Expect,
			Meta: append([]byte(nil), d.Meta...), Payload: append([]byte(nil), d.Payload...)})
		return unknown
	}
	return r.storeLocked(ctx, d)
}

func (r *relay) storeLocked(ctx context.Context, d mailbox.Deposit) mailbox.Outcome {
	out := r.Store.Put(ctx, []mailbox.Deposit{d})[0]
	if out.Err == nil && !out.Receipt.Again && d.Kind == mailbox.Commit {
		r.commits++
	}
	return out
}

// deliverAll lets everything arrive that was held back.
func (r *relay) deliverAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.held {
		r.storeLocked(r.w.ctx, d)
	}
	r.held = nil
}

// Read fails now and then.
func (r *relay) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, limit mailbox.Limit) (mailbox.Page, error) {
	r.mu.Lock()
	fails := r.w.storming && r.rng.IntN(100) < unread
	r.mu.Unlock()
	if fails {
		r.w.faults.Unread++
		return mailbox.Page{}, fmt.Errorf("%w: the answer is lost", mailbox.ErrUnknown)
	}
	return r.Store.Read(ctx, id, after, limit)
}
