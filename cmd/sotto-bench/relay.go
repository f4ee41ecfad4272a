package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"sotto/crypto/key"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/server"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

const (
	appendSize  = 1 << 10
	appendTurn  = 100 * time.Millisecond
	appendTurns = 6 // in a round, each with one of the floor
	logSize     = 32 << 20
	idleTime    = 5 * time.Second
)

// relayProcess is a relay that serves.
type relayProcess struct {
	*process
	home    string
	address wire.Address
}

// startRelay runs a relay on a free port of the loopback; a home that exists keeps
// its port.
func (l *lab) startRelay(ctx context.Context, s *scope, name string) (*relayProcess, error) {
	bin, err := l.build(ctx, "sotto-relay")
	if err != nil {
		return nil, err
	}
	r := &relayProcess{home: l.path(name)}
	args := []string{"serve", "--home", r.home, "--log-level", "warn"}
	if _, err := os.Stat(r.home); errors.Is(err, fs.ErrNotExist) {
		args = append(args, "--listen", "/ip4/127.0.0.1/tcp/0")
	}
	if r.process, err = l.start(s, bin, nil, args...); err != nil {
		return nil, err
	}
	line, err := r.line(ctx)
	if err != nil {
		return nil, err
	}
	r.address, err = wire.ParseAddress(line)
	return r, err
}

// connect returns a client with a host, and thus a connection, of its own.
func (r *relayProcess) connect(s *scope) (*client.Client, error) {
	d, err := transport.NewDialer()
	if err != nil {
		return nil, err
	}
	c := client.New(client.Config{Relay: r.address.Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) {
		return d.Dial(ctx, r.address)
	}})
	s.later(func() {
		c.Close()
		d.Close()
	})
	return c, nil
}

// A writer appends to a mailbox of its own, over a connection of its own, as a
// device does. It speaks the protocol by itself and checks its receipts when the
// clock has stopped: in life each writer has a machine for that, and 256 of them on
// the relay's own would measure themselves.
type writer struct {
	conn     net.Conn
	in       *bufio.Reader
	session  wire.Session
	request  wire.Append
	asked    uint32
	receipts []wire.Receipt // not checked yet
}

func newWriter(ctx context.Context, s *scope, r *relayProcess) (*writer, error) {
	d, err := transport.NewDialer()
	if err != nil {
		return nil, err
	}
	s.later(func() { d.Close() })
	conn, who, err := d.Dial(ctx, r.address)
	if err != nil {
		return nil, err
	}
	s.later(func() { conn.Close() })
	context.AfterFunc(ctx, func() { conn.Close() })
	w := &writer{conn: conn, in: bufio.NewReader(conn), session: wire.Session{Relay: who}}
	if err := w.hello(); err != nil {
		return nil, err
	}
	ticket, err := server.TicketAt(r.home, time.Hour)
	if err != nil {
		return nil, err
	}
	admin, appender := key.NewCapability(), key.NewCapability()
	create := &wire.Create{Read: key.NewCapability().Public(), Append: appender.Public(), Ticket: ticket}
	create.Sign(w.session, admin)
	if err := w.ask(wire.TCreate, create, &wire.SignedHead{}); err != nil {
		return nil, err
	}
	w.request = wire.Append{Mailbox: create.ID(who), Kind: mailbox.Message, Payload: make([]byte, appendSize)}
	rand.Read(w.request.Payload)
	shown := &wire.Flags{}
	proof := w.session.Prove(appender, wire.Claim{Role: wire.RoleAppend, Object: w.request.Mailbox})
	if err := w.ask(wire.TProve, &wire.Prove{Proofs: []wire.Proof{proof}}, shown); err != nil {
		return nil, err
	}
	if !bytes.Equal(shown.Each, []byte{1}) {
		return nil, errors.New("the relay does not take a proof")
	}
	return w, nil
}

func (w *writer) hello() error {
	h := &wire.ClientHello{MinVersion: wire.Version, MaxVersion: wire.Version}
	rand.Read(h.Nonce[:])
	var answer wire.RelayHello
	if err := w.exchange(wire.THello, 0, h, wire.THello, &answer); err != nil {
		return err
	}
	w.session.ClientNonce, w.session.RelayNonce = h.Nonce, answer.Nonce
	return nil
}

// ask sends a request and reads its answer.
func (w *writer) ask(t wire.Type, m, answer wire.Message) error {
	w.asked++
	return w.exchange(t, w.asked, m, wire.TOK, answer)
}

func (w *writer) exchange(t wire.Type, id uint32, m wire.Message, want wire.Type, answer wire.Message) error {
	w.conn.SetDeadline(time.Now().Add(patience))
	if _, err := w.conn.Write(wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil)); err != nil {
		return err
	}
	fr, err := wire.ReadFrame(w.in)
	switch {
	case err != nil:
		return err
	case fr.Type == wire.TError:
		var e wire.Error
		return errors.Join(wire.Decode(fr.Body, &e), &e)
	case fr.Type != want || fr.ID != id:
		return fmt.Errorf("the relay answers request %d with frame %#x to %d", id, fr.Type, fr.ID)
	}
	return wire.Decode(fr.Body, answer)
}

// append stores one more entry, and returns when the relay has signed for it.
func (w *writer) append() error {
	binary.BigEndian.PutUint32(w.request.Payload, w.asked)
	var r wire.Receipt
	if err := w.ask(wire.TAppend, &w.request, &r); err != nil {
		return err
	}
	w.receipts = append(w.receipts, r)
	return nil
}

// check verifies the receipts: each is for the mailbox's next position.
func (w *writer) check() error {
	for i, r := range w.receipts {
		if err := r.Head.Verify(w.session.Relay); err != nil {
			return err
		}
		h := r.Head.Head
		if h.Mailbox != w.request.Mailbox || r.Again || i > 0 && h.Seq != w.receipts[i-1].Head.Head.Seq+1 {
			return fmt.Errorf("%w: on something else than was appended", wire.ErrSignature)
		}
	}
	w.receipts = w.receipts[:0]
	return nil
}

// appending is what a round tells of n writers.
type appending struct {
	sample
	cpu float64 // seconds of the relay's for 10,000 appends
}

// measureAppends has n writers append with one append in flight each. The floor is a
// log file on the same disk with as many writers, all of which share a flush. Both
// work in turns.
func measureAppends(ctx context.Context, l *lab, n int) (out appending, err error) {
	r, err := once(l.run, "relay of the writers", func() (*relayProcess, error) { return l.startRelay(ctx, l.run, "relay-append") })
	if err != nil {
		return out, err
	}
	writers, err := l.writers(ctx, r, n)
	if err != nil {
		return out, err
	}
	log, err := l.log()
	if err != nil {
		return out, err
	}
	var values, floors []float64
	var cpu time.Duration
	var stored int
	payload := make([]byte, appendSize)
	for range appendTurns {
		floor, _, err := repeat(ctx, n, appendTurn, func(int) error { return log.append(payload) })
		if err != nil {
			return out, err
		}
		floors = append(floors, floor)
		before, err := r.cpu()
		if err != nil {
			return out, err
		}
		value, did, err := repeat(ctx, n, appendTurn, func(i int) error { return writers[i].append() })
		if err != nil {
			return out, err
		}
		values = append(values, value)
		after, err := r.cpu()
		if err != nil {
			return out, err
		}
		cpu += after - before
		stored += did
		for _, w := range writers {
			if err := w.check(); err != nil {
				return out, err
			}
		}
	}
	return appending{sample{median(values), median(floors)}, cpu.Seconds() / float64(stored) * 1e4}, nil
}

// writers returns the first n writers, who may have to be made.
func (l *lab) writers(ctx context.Context, r *relayProcess, n int) ([]*writer, error) {
	all, err := once(l.run, "writers", func() (*[]*writer, error) { return new([]*writer), nil })
	for err == nil && len(*all) < n {
		var w *writer
		if w, err = newWriter(ctx, l.run, r); err == nil {
			*all = append(*all, w)
		}
	}
	if err != nil {
		return nil, err
	}
	return (*all)[:n], nil
}

func appends(n int) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		a, err := once(l.round, fmt.Sprint("appends ", n), func() (appending, error) { return measureAppends(ctx, l, n) })
		return a.sample, err
	}
}

func appendCPU(n int) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		a, err := once(l.round, fmt.Sprint("appends ", n), func() (appending, error) { return measureAppends(ctx, l, n) })
		return sample{value: a.cpu}, err
	}
}

// groupLog is a log file whose writers share a flush: the most that a disk gives. The
// file is laid out beforehand and filled again and again, for where a file grows the
// file system has to flush its journal too: a store that avoids this would be faster
// than the floor.
type groupLog struct {
	f    *os.File
	at   int64         // of what comes next
	work chan struct{} // holds one: something waits
	done chan struct{} // closed when nothing is written any more

	mu      sync.Mutex // guards the following fields
	buf     []byte
	waiting []chan error
}

var replies = sync.Pool{New: func() any { return make(chan error, 1) }}

// log is the log of the run.
func (l *lab) log() (*groupLog, error) {
	return once(l.run, "log", func() (*groupLog, error) {
		path := l.path("log")
		if err := layOut(path, logSize); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DSYNC, 0) // a write is a flush
		if err != nil {
			return nil, err
		}
		g := &groupLog{f: f, work: make(chan struct{}, 1), done: make(chan struct{})}
		go g.flush()
		l.run.later(func() {
			close(g.work)
			<-g.done
			f.Close()
		})
		return g, nil
	})
}

// layOut writes a file of zeros, in whole MiB, down to the disk.
func layOut(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size && err == nil; off += int64(len(zeros)) {
		_, err = f.Write(zeros)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// append returns when b is on the disk.
func (g *groupLog) append(b []byte) error {
	reply := replies.Get().(chan error)
	defer replies.Put(reply)
	g.mu.Lock()
	g.buf = append(g.buf, b...)
	g.waiting = append(g.waiting, reply)
	g.mu.Unlock()
	select {
	case g.work <- struct{}{}:
	default:
	}
	return <-reply
}

func (g *groupLog) flush() {
	defer close(g.done)
	var buf []byte
	var waiting []chan error
	for range g.work {
		g.mu.Lock()
		buf, g.buf = g.buf, buf[:0]
		waiting, g.waiting = g.waiting, waiting[:0]
		g.mu.Unlock()
		if len(waiting) == 0 {
			continue
		}
		if g.at+int64(len(buf)) > logSize {
			g.at = 0
		}
		_, err := g.f.WriteAt(buf, g.at)
		g.at += int64(len(buf))
		for _, reply := range waiting {
			reply <- err
		}
	}
}

// idleRelay is a relay that nobody uses, started anew in each round.
type idleRelay struct {
	*relayProcess
	start time.Duration
}

func startIdleRelay(ctx context.Context, l *lab) (idleRelay, error) {
	const home = "relay-idle"
	if _, err := once(l.run, home, func() (struct{}, error) {
		var s scope
		defer s.close()
		_, err := l.startRelay(ctx, &s, home)
		return struct{}{}, err
	}); err != nil {
		return idleRelay{}, err
	}
	return once(l.round, home, func() (idleRelay, error) {
		r, err := l.startRelay(ctx, l.round, home)
		if err != nil {
			return idleRelay{}, err
		}
		c, err := r.connect(l.round)
		if err == nil {
			err = c.Ping(ctx)
		}
		return idleRelay{r, time.Since(r.started)}, err
	})
}

func relayStart(ctx context.Context, l *lab) (sample, error) {
	r, err := startIdleRelay(ctx, l)
	return sample{value: r.start.Seconds() * 1e3}, err
}

func relayRSS(ctx context.Context, l *lab) (sample, error) {
	r, err := startIdleRelay(ctx, l)
	if err != nil {
		return sample{}, err
	}
	mib, err := r.rss(ctx, idleTime)
	return sample{value: mib}, err
}
