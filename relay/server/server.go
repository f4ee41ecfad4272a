// Package server is the relay's end of the protocol (spec/relay.md).
//
// A session is one stream. Its requests are read by one goroutine, which answers
// what must be in order (Hello, proofs, creations) and hands the rest on: appends to
// one goroutine, which puts all that wait into the store with one call, so that
// they keep their order; everything else to a goroutine each, at most
// wire.MaxInFlight at once. Subscriptions keep a cursor and never a queue: what a
// subscriber gets next is read from the store when there is credit for it.
//
// Nothing that names a client, a mailbox or a slot is logged.
package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// Config says what a server serves.
type Config struct {
	Key    key.RelaySecret // signs; also the key of the transport
	Store  mailbox.Store
	Slots  mailbox.Slots
	Policy access.Policy
	Clock  func() time.Time // default: time.Now
	Idle   time.Duration    // a session without a frame is ended; default 5 minutes
	Terms  mailbox.Terms    // what a client gets that asks for none; zero fields have defaults
	Logger *slog.Logger
}

const (
	helloTimeout = 10 * time.Second // to say Hello
	writeTimeout = 30 * time.Second // for a client to take a frame
	pageBytes    = 192 << 10        // of entries read for one page
	appendQueue  = wire.MaxInFlight
	signedHeads  = 4096 // signed heads remembered
)

// Server serves sessions.
type Server struct {
	cfg     Config
	keys    access.Keys
	limiter *access.Limiter
	log     *slog.Logger
	stopped context.Context // over when the server closes
	stop    context.CancelFunc
	unring  func()

	mu       sync.Mutex // guards the following fields
	closed   bool
	live     sync.WaitGroup // sessions and listeners; Add only with mu held and not closed
	sessions map[*session]bool
	watching map[mailbox.ID]map[*session]bool
	signed   map[mailbox.Head]wire.SignedHead
}

// New makes a server. The caller closes the store after the server.
func New(c Config) *Server {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Minute
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
		cfg: c, keys: access.Keys{Store: c.Store, Slots: c.Slots}, limiter: access.NewLimiter(c.Policy, c.Clock), log: c.Logger,
		sessions: map[*session]bool{}, watching: map[mailbox.ID]map[*session]bool{}, signed: map[mailbox.Head]wire.SignedHead{},
	}
	s.stopped, s.stop = context.WithCancel(context.Background())
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
			if s.stopped.Err() != nil || errors.Is(err, net.ErrClosed) {
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

// Close tells clients to leave, ends all sessions and waits for them. The caller
// closes its listeners first.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	var all []*session
	for ss := range s.sessions {
		all = append(all, ss)
	}
	s.mu.Unlock()
	s.stop()
	s.unring()
	for _, ss := range all {
		go ss.goAway(wire.GoStopping, 30)
	}
	s.live.Wait()
}

// Sessions returns how many sessions there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// ring wakes the sessions that watch a mailbox.
func (s *Server) ring(id mailbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.watching[id] {
		ss.wake(id)
	}
}

func (s *Server) watch(ss *session, id mailbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watching[id] == nil {
		s.watching[id] = map[*session]bool{}
	}
	s.watching[id][ss] = true
}

func (s *Server) unwatch(ss *session, id mailbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watching[id], ss)
	if len(s.watching[id]) == 0 {
		delete(s.watching, id)
	}
}

// sign returns a head with a signature, from memory if it was signed lately.
func (s *Server) sign(h mailbox.Head) wire.SignedHead {
	s.mu.Lock()
	sh, ok := s.signed[h]
	s.mu.Unlock()
	if ok {
		return sh
	}
	sh = wire.SignHeads(s.cfg.Key, []mailbox.Head{h}).Head(0)
	s.remember(sh)
	return sh
}

func (s *Server) remember(sh wire.SignedHead) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 1<<10)
	conn.SetDeadline(time.Now().Add(helloTimeout))
	ss, err := s.hello(conn, in)
	if err != nil {
		return // nobody to tell
	}
	conn.SetDeadline(time.Time{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ss.goAway(wire.GoStopping, 30)
		return
	}
	s.sessions[ss] = true
	s.mu.Unlock()
	defer func() {
		ss.end()
		s.mu.Lock()
		delete(s.sessions, ss)
		s.mu.Unlock()
	}()
	ss.read(in)
}

// hello agrees on a version and on what proofs are bound to.
func (s *Server) hello(conn net.Conn, in *bufio.Reader) (*session, error) {
	fr, err := wire.ReadFrame(in)
	if err != nil {
		return nil, err
	}
	var c wire.ClientHello
	ss := &session{s: s, conn: conn, addr: remoteAddr(conn), tokens: make(chan struct{}, wire.MaxInFlight), over: make(chan struct{}),
		subs: map[mailbox.ID]*sub{}, dirty: map[mailbox.ID]bool{}, work: make(chan struct{}, 1)}
	if fr.Type != wire.THello || wire.Decode(fr.Body, &c) != nil {
		ss.refuse(0, &wire.Error{Code: wire.CodeMalformed})
		return nil, errors.New("no Hello")
	}
	if c.MinVersion > wire.Version || c.MaxVersion < wire.Version {
		ss.refuse(0, &wire.Error{Code: wire.CodeVersion})
		return nil, errors.New("no version in common")
	}
	h := wire.RelayHello{
		Version: wire.Version, Key: s.cfg.Key.Public(), Era: s.cfg.Store.Era(), Minute: mailbox.MinuteOf(s.cfg.Clock()),
		MaxFrame: wire.MaxFrame, MaxInFlight: wire.MaxInFlight, KeepMax: uint64(mailbox.MaxMinutes),
	}
	rand.Read(h.Nonce[:])
	ss.access = access.NewSession(wire.Session{Relay: h.Key, RelayNonce: h.Nonce, ClientNonce: c.Nonce}, s.keys)
	return ss, ss.send(wire.Frame{Type: wire.THello, Body: wire.Encode(&h)})
}

// remoteAddr is where a client is, as far as the transport knows; the zero Addr otherwise.
func remoteAddr(conn net.Conn) netip.Addr {
	if p, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		return p.Addr()
	}
	return netip.Addr{}
}
