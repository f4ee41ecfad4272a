// Package server is the relay's end of the protocol (spec/relay.md).
//
// A session is one stream. Its requests are read by one goroutine, which answers
// what must be in order (Hello, proofs, creations) and hands the rest on: appends to
// one goroutine, which puts all that wait into the store with one call, so that
// they keep their order; everything else to a goroutine each. Subscriptions keep a
// cursor and never a queue: what a subscriber gets next is read from the store when
// there is credit for it.
//
// What a client can make the relay hold is bounded, for a session and for all: the
// requests under way in number and in bytes, from the first byte of a large frame
// to its answer; one page at a time being made or sent in a session; and the
// capabilities shown, without which nothing is subscribed. A client that does not
// read what it is sent loses its session.
//
// Nothing that names a client, a mailbox or a slot is logged.
package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/blob"
)

// Config says what a server serves.
type Config struct {
	Key    key.RelaySecret // signs; also the key of the transport
	Store  mailbox.Store
	Slots  mailbox.Slots
	Blobs  blob.Store // nil: it keeps none
	Policy access.Policy
	Clock  func() time.Time // default: time.Now
	Idle   time.Duration    // a session without a frame is ended; default 5 minutes
	// Terms are what a client gets that asks for none, and its entries and bytes
	// the most that a client may ask for; zero fields have defaults.
	Terms    mailbox.Terms
	Uploads  access.BlobPolicy
	Sessions int   // at once; default 100,000
	Bytes    int64 // of requests and answers under way in all sessions; default 256 MiB
	Shown    int64 // capabilities shown in all sessions, beyond the first 64 of each; default 20 for each session
	Logger   *slog.Logger
}

const (
	helloTimeout = 10 * time.Second // to say Hello
	frameTimeout = time.Minute      // to send the rest of a frame
	writeTimeout = 30 * time.Second // to take a frame
	drainTimeout = 5 * time.Second  // for what is under way when the relay stops
	lingerTime   = 2 * time.Second  // for a client to hang up when asked to

	pageBytes    = 192 << 10            // of entries read for one page
	inFlight     = 2 * wire.MaxInFlight // a client may have its answer before we have counted it
	appendQueue  = wire.MaxInFlight
	sessionBytes = 4 << 20 // of requests under way in one session
	signedHeads  = 4096    // signed heads remembered
	pagesAtOnce  = 64      // made; each holds up to 1 MiB
)

// Server serves sessions.
type Server struct {
	cfg     Config
	keys    access.Keys
	limiter *access.Limiter
	log     *slog.Logger
	ctx     context.Context // of what is under way
	cancel  context.CancelFunc
	unring  func()
	held    atomic.Int64  // bytes of requests and answers under way
	making  chan struct{} // one for each page that is being made

	// Whoever holds mu and a session's mu has taken this one first.
	mu       sync.Mutex // guards the following fields
	closed   bool
	live     sync.WaitGroup // sessions and listeners; Add only with mu held and not closed
	sessions map[*session]bool
	watching map[mailbox.ID]map[*session]bool

	signing sync.Mutex // guards the following field
	signed  map[mailbox.Head]wire.SignedHead

	blobLimiter *access.BlobLimiter
	audits      chan struct{} // one for each that is under way
}

// New makes a server. The caller closes the stores after the server.
func New(c Config) *Server {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Minute
	}
	if c.Sessions == 0 {
		c.Sessions = 100_000
	}
	if c.Bytes == 0 {
		c.Bytes = 256 << 20
	}
	if c.Shown == 0 {
		c.Shown = 20 * int64(c.Sessions)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Terms.Keep == 0 {
		c.Terms.Keep = 30 * 24 * 60
	}
	if c.Terms.MaxEntries == 0 {
		c.Terms.MaxEntries = 100_000
	}
	if c.Terms.MaxBytes == 0 {
		c.Terms.MaxBytes = 256 << 20
	}
	if c.Terms.Full == 0 {
		c.Terms.Full = mailbox.Refuse
	}
	s := &Server{
		cfg: c, keys: access.Keys{Store: c.Store, Slots: c.Slots, Room: access.NewRoom(c.Shown)}, limiter: access.NewLimiter(c.Policy, c.Clock), log: c.Logger,
		sessions: map[*session]bool{}, watching: map[mailbox.ID]map[*session]bool{}, signed: map[mailbox.Head]wire.SignedHead{},
		making: make(chan struct{}, pagesAtOnce),
	}
	s.blobLimiter, s.audits = access.NewBlobLimiter(s.limiter, c.Uploads, c.Clock), make(chan struct{}, audits)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.unring = c.Store.Listen(s.ring)
	return s
}

// Listener gives sessions' streams; package transport's is one, and any
// net.Listener.
type Listener interface {
	Accept() (net.Conn, error)
}

// Serve serves the streams that l gives until it gives no more, and returns its
// error, or nil if the server was closed.
func (s *Server) Serve(l Listener) error {
	if !s.begin() {
		return nil
	}
	defer s.live.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.closed || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if !s.begin() {
			conn.Close()
			return nil
		}
		go func() {
			defer s.live.Done()
			s.serve(conn)
		}()
	}
}

// ServeConn serves one session and returns when it is over.
func (s *Server) ServeConn(conn net.Conn) {
	if !s.begin() {
		conn.Close()
		return
	}
	defer s.live.Done()
	s.serve(conn)
}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.live.Add(1)
	return true
}

// Close begins no more requests, finishes and answers those under way, tells
// clients to leave, and waits for all of it; a client that does not take its
// answers is not waited for. The caller closes its listeners first.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.live.Wait()
		return
	}
	s.closed = true
	all := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	s.unring()
	for _, ss := range all {
		ss.leave(wire.GoStopping)
	}
	hurry := time.AfterFunc(drainTimeout, func() {
		s.cancel()
		for _, ss := range all {
			ss.conn.Close()
		}
	})
	s.live.Wait()
	hurry.Stop()
	s.cancel()
}

// take counts bytes as under way, unless it were too many.
func (s *Server) take(n int) bool {
	if s.held.Add(int64(n)) > s.cfg.Bytes {
		s.give(n)
		return false
	}
	return true
}

func (s *Server) give(n int) { s.held.Add(-int64(n)) }

// Sessions returns how many sessions there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// sign returns a head with a signature, from memory if it was signed lately.
func (s *Server) sign(h mailbox.Head) wire.SignedHead {
	s.signing.Lock()
	sh, ok := s.signed[h]
	s.signing.Unlock()
	if ok {
		return sh
	}
	sh = wire.SignHeads(s.cfg.Key, []mailbox.Head{h}).Head(0)
	s.remember(sh)
	return sh
}

func (s *Server) remember(sh wire.SignedHead) {
	s.signing.Lock()
	defer s.signing.Unlock()
	for h := range s.signed {
		if len(s.signed) < signedHeads {
			break
		}
		delete(s.signed, h) // any one: the map's order is random
	}
	s.signed[sh.Head] = sh
}

// receipt is the signed receipt for what the store took.
func (s *Server) receipt(r mailbox.Receipt) *wire.Receipt {
	tree := r.Batch.Sign(func(heads []mailbox.Head) any { return wire.SignHeads(s.cfg.Key, heads) }).(*wire.Tree)
	i, _ := tree.Find(r.Head)
	sh := tree.Head(i)
	s.remember(sh)
	return &wire.Receipt{Head: sh, Minute: r.Minute, Again: r.Again}
}

func (s *Server) serve(conn net.Conn) {
	ss := &session{s: s, conn: conn, addr: remoteAddr(conn), tokens: make(chan struct{}, inFlight), freed: make(chan struct{}, 1), audit: make(chan struct{}, 1),
		over: make(chan struct{}), subs: map[mailbox.ID]*sub{}, dirty: map[mailbox.ID]bool{}, work: make(chan struct{}, 1)}
	s.mu.Lock()
	switch {
	case s.closed:
		ss.leaving = wire.GoStopping
	case len(s.sessions) >= s.cfg.Sessions:
		ss.leaving = wire.GoTooMany
	}
	s.sessions[ss] = true
	s.mu.Unlock()
	in := bufio.NewReaderSize(conn, 1<<10)
	if err := ss.hello(in); err == nil {
		ss.read(in)
	}
	ss.end(in)
	s.mu.Lock()
	delete(s.sessions, ss)
	s.mu.Unlock()
}

// hello agrees on a version and on what proofs are bound to.
func (ss *session) hello(in *bufio.Reader) error {
	if !ss.await(helloTimeout) {
		return errLeaving
	}
	fr, err := wire.ReadFrame(in)
	if err != nil {
		return err
	}
	var c wire.ClientHello
	if fr.Type != wire.THello || wire.Decode(fr.Body, &c) != nil {
		ss.refuse(0, &wire.Error{Code: wire.CodeMalformed})
		return errors.New("no Hello")
	}
	if c.MinVersion > wire.Version || c.MaxVersion < wire.Version {
		ss.refuse(0, &wire.Error{Code: wire.CodeVersion})
		return errors.New("no version in common")
	}
	cfg := &ss.s.cfg
	h := wire.RelayHello{
		Version: wire.Version, Key: cfg.Key.Public(), Era: cfg.Store.Era(), Minute: mailbox.MinuteOf(cfg.Clock()),
		MaxFrame: wire.MaxFrame, MaxInFlight: wire.MaxInFlight, KeepMax: uint64(mailbox.MaxMinutes),
	}
	if cfg.Blobs != nil {
		h.Features |= wire.FeatureBlobs
	}
	rand.Read(h.Nonce[:])
	ss.access = access.NewSession(wire.Session{Relay: h.Key, RelayNonce: h.Nonce, ClientNonce: c.Nonce}, ss.s.keys)
	return ss.send(wire.Frame{Type: wire.THello, Body: wire.Encode(&h)})
}

// remoteAddr is where a client is, as far as the transport knows; the zero Addr otherwise.
func remoteAddr(conn net.Conn) netip.Addr {
	if p, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		return p.Addr()
	}
	return netip.Addr{}
}
