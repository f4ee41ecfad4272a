// Package client is a client of one relay: it connects when it is asked something,
// proves capabilities once a session, pipelines requests, keeps subscriptions
// across reconnects, and believes nothing that the relay has not signed.
//
// Every request may be repeated. One whose answer was lost returns an error that
// is mailbox.ErrUnknown: it may or may not have taken effect.
package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"sync"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
	"sotto/storage/blob"
)

// Errors of a client; those of the relay are *wire.Error.
var (
	ErrClosed      = errors.New("client is closed")
	ErrUnreachable = errors.New("relay is not reachable")
	ErrWrongRelay  = transport.ErrWrongRelay
	ErrProtocol    = errors.New("the relay does not keep to the protocol")
	ErrLost        = errors.New("connection to the relay was lost")
)

// lostError is what requests under way get when the connection goes.
type lostError struct{ cause error }

func (e *lostError) Error() string { return ErrLost.Error() + ": " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }
func (e *lostError) Is(target error) bool {
	return target == ErrLost || target == mailbox.ErrUnknown || target == blob.ErrUnknown
}

// errUnsent is wrapped when the session ended before a request was sent on it.
var errUnsent = errors.New("not sent")

// EvidenceError says that the relay has signed two things that cannot both be
// true (spec/relay.md, section 5). Both verify with its key and what is here. Two
// heads convince anybody; a status is proof to who asked for it, as only that one
// knows that the head had been signed before.
type EvidenceError struct {
	What   string
	A      []byte // a SignedHead
	B      []byte // a SignedHead, or a Status
	Status bool   // B is a Status
	Nonce  wire.Nonce
}

func (e *EvidenceError) Error() string { return "the relay contradicts itself: " + e.What }

// Config says which relay.
type Config struct {
	Relay key.RelayPublic

	// Dial connects and returns the key of who answered, as the transport
	// authenticated it. It is not called twice at once.
	Dial func(ctx context.Context) (net.Conn, key.RelayPublic, error)

	// Changed, if not nil, is called after each change of State, from any
	// goroutine. It must not block.
	Changed func()

	Timeout time.Duration // of one request; default 20 s
}

const (
	dialTimeout  = 15 * time.Second
	creditFrames = 64
	creditBytes  = 4 << 20
	firstWait    = 250 * time.Millisecond
	lastWait     = 30 * time.Second
	pingAfter    = 2 * time.Minute // of silence
	pingTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	longestWait  = 2 * time.Minute // that a relay can ask of us
	headsSeen    = 4096
	maxSeq       = 1 << 48 // a relay that claims more makes sport of us
	tries        = 3       // of sessions that end before a request is sent
)

// State says how the connection stands.
type State struct {
	Connected bool
	Err       error     // of the last try, if not connected
	Retry     time.Time // when a subscription tries next; zero if none does
}

// Client is safe for concurrent use.
type Client struct {
	cfg    Config
	ctx    context.Context // over when the client is closed
	cancel context.CancelFunc
	busy   sync.WaitGroup

	dialing chan struct{} // holds one: who takes it may dial

	// Whoever holds mu and a session's mu has taken the session's first.
	mu     sync.Mutex // guards the following fields
	closed bool
	now    *session  // nil if not connected
	later  time.Time // not to connect before: the relay has asked for it
	state  State
	heads  map[headKey]seen    // heads that the relay has signed
	last   map[mailbox.ID]seen // of each mailbox the last of them
}

type headKey struct {
	id  mailbox.ID
	era mailbox.Era
	seq mailbox.Seq
}

type seen struct {
	head   mailbox.Head
	signed []byte
}

// New makes a client. It does not connect yet.
func New(c Config) *Client {
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	cl := &Client{cfg: c, dialing: make(chan struct{}, 1), heads: map[headKey]seen{}, last: map[mailbox.ID]seen{}}
	cl.dialing <- struct{}{}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	return cl
}

// Close ends the connection and everything under way, and waits for it.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	s := c.now
	c.mu.Unlock()
	c.cancel()
	if s != nil {
		s.fail(ErrClosed)
	}
	c.busy.Wait()
}

// spawn runs f in a goroutine that Close waits for. It reports false if the client is
// closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.busy.Add(1)
	go func() {
		defer c.busy.Done()
		f()
	}()
	return true
}

// Relay is the relay's key.
func (c *Client) Relay() key.RelayPublic { return c.cfg.Relay }

// State returns how the connection stands.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// change sets the state by f, which is called with mu held and reports whether it
// changed anything.
func (c *Client) change(f func() bool) {
	c.mu.Lock()
	changed := f()
	c.mu.Unlock()
	if changed && c.cfg.Changed != nil {
		c.cfg.Changed()
	}
}

// session returns the session at hand, or connects.
func (c *Client) session(ctx context.Context) (*session, error) {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	if s != nil && s.failure() == nil {
		return s, nil
	}
	select {
	case <-c.dialing:
		defer func() { c.dialing <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	case <-c.ctx.Done():
		return nil, ErrClosed
	}
	c.mu.Lock()
	s = c.now
	c.mu.Unlock()
	if s != nil {
		if s.failure() == nil {
			return s, nil
		}
		c.drop(s)
	}
	return c.connect(ctx)
}

// drop forgets a session that has failed.
func (c *Client) drop(s *session) {
	err := s.failure()
	c.change(func() bool {
		if c.now != s {
			return false
		}
		c.heedLocked(err)
		c.now, c.state = nil, State{Err: err}
		return true
	})
}

// heedLocked waits as long as a relay that sent us away has asked for.
func (c *Client) heedLocked(err error) {
	var g *goneError
	if errors.As(err, &g) {
		c.later = time.Now().Add(g.wait)
	}
}

func (c *Client) connect(ctx context.Context) (*session, error) {
	s, err := c.hello(ctx)
	if err == nil {
		c.change(func() bool {
			c.now, c.state = s, State{Connected: true}
			return true
		})
		if c.spawn(func() { s.read(); c.drop(s) }) {
			return s, nil
		}
		s.fail(ErrClosed)
		c.drop(s)
		return nil, ErrClosed
	}
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if errors.Is(err, context.Canceled) {
		return nil, err // who asked no longer waits: that says nothing of the relay
	}
	c.change(func() bool {
		c.heedLocked(err)
		c.state = State{Err: err, Retry: c.state.Retry}
		return true
	})
	return nil, err
}

// asked waits until the relay is to be connected to.
func (c *Client) asked(ctx context.Context) error {
	c.mu.Lock()
	wait := time.Until(c.later)
	c.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: it has asked us to wait: %w", ErrUnreachable, ctx.Err())
	}
}

func (c *Client) hello(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	if err := c.asked(ctx); err != nil {
		return nil, err
	}
	ctx, dialed := context.WithTimeout(ctx, dialTimeout)
	defer dialed()
	conn, who, err := c.cfg.Dial(ctx)
	if err != nil {
		if errors.Is(err, ErrWrongRelay) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fail := func(err error) (*session, error) {
		conn.Close()
		return nil, err
	}
	if who != c.cfg.Relay {
		return fail(ErrWrongRelay)
	}
	h := wire.ClientHello{MinVersion: wire.Version, MaxVersion: wire.Version}
	randBytes(h.Nonce[:])
	if _, err := conn.Write(wire.Frame{Type: wire.THello, Body: wire.Encode(&h)}.Append(nil)); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrUnreachable, err))
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	fr, err := wire.ReadFrame(in)
	if err != nil {
		if errors.Is(err, wire.ErrFrame) {
			return fail(fmt.Errorf("%w: %w", ErrProtocol, err))
		}
		return fail(fmt.Errorf("%w: %w", ErrUnreachable, err))
	}
	switch fr.Type {
	case wire.TError:
		return fail(decodeError(fr.Body, "hello"))
	case wire.TGoAway:
		return fail(decodeGone(fr.Body))
	}
	var r wire.RelayHello
	if fr.Type != wire.THello {
		return fail(fmt.Errorf("%w: it did not say Hello", ErrProtocol))
	}
	if err := wire.Decode(fr.Body, &r); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	if r.Version != wire.Version {
		return fail(fmt.Errorf("%w: it chose version %d", ErrProtocol, r.Version))
	}
	if r.Key != who {
		return fail(fmt.Errorf("%w: it claims a key that is not the connection's", ErrWrongRelay))
	}
	if !stop() {
		return fail(fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err()))
	}
	conn.SetDeadline(time.Time{})
	s := &session{c: c, conn: conn, in: in, features: r.Features, id: wire.Session{Relay: who, RelayNonce: r.Nonce, ClientNonce: h.Nonce},
		tokens: make(chan struct{}, wire.MaxInFlight), over: make(chan struct{}), pending: map[uint32]chan answer{},
		showing: map[wire.Claim]*showing{}, subs: map[mailbox.ID]*subscription{}, frames: creditFrames, bytes: creditBytes}
	return s, s.write(wire.TCredit, 0, &wire.Credit{Frames: creditFrames, Bytes: creditBytes})
}

func decodeError(b []byte, op string) error {
	var e wire.Error
	if err := wire.Decode(b, &e); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	e.Op = op
	return &e
}

// goneError is what a session ends with that the relay has ended.
type goneError struct {
	reason uint8
	wait   time.Duration // a random part of what the relay asked for
}

func (e *goneError) Error() string {
	switch e.reason {
	case wire.GoStopping:
		return "the relay is stopping"
	case wire.GoIdle:
		return "the relay found us idle"
	case wire.GoTooMany:
		return "the relay has too many clients"
	}
	return "the relay asked us to go"
}

func decodeGone(b []byte) error {
	var g wire.GoAway
	if err := wire.Decode(b, &g); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	wait := min(time.Duration(g.Wait)*time.Second, longestWait)
	return &goneError{g.Reason, time.Duration(mrand.Int64N(int64(wait) + 1))}
}

func randBytes(b []byte) { rand.Read(b) }

// Capability is a key with what it is for.
type Capability struct {
	Claim wire.Claim
	Key   key.CapabilitySecret
}

// call sends a request once its capability has been shown, and returns the body
// of the answer. A session that ends before the request was sent does not count.
func (c *Client) call(ctx context.Context, op string, t wire.Type, m func(s *session) wire.Message, caps ...Capability) ([]byte, error) {
	return c.callWithin(ctx, c.cfg.Timeout, op, t, m, caps...)
}

func (c *Client) callWithin(ctx context.Context, d time.Duration, op string, t wire.Type, m func(s *session) wire.Message, caps ...Capability) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for try := 1; ; try++ {
		b, err := c.callOnce(ctx, t, m, caps)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, errUnsent) && try < tries && ctx.Err() == nil && c.ctx.Err() == nil {
			continue
		}
		var we *wire.Error
		if errors.As(err, &we) && we.Op == "" {
			we.Op = op
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", op, err)
	}
}

func (c *Client) callOnce(ctx context.Context, t wire.Type, m func(s *session) wire.Message, caps []Capability) ([]byte, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.prove(ctx, caps); err != nil {
		return nil, err
	}
	return s.ask(ctx, t, m(s), nil)
}

func decode[M wire.Message](c *Client, b []byte, err error, m M) (M, error) {
	if err != nil {
		return m, err
	}
	if err := wire.Decode(b, m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m, nil
}

func still(m wire.Message) func(*session) wire.Message {
	return func(*session) wire.Message { return m }
}

// within refuses what no relay reads.
func within(what string, b []byte, most int) error {
	if len(b) > most {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", mailbox.ErrTooLarge, what, len(b), most)
	}
	return nil
}

// CreateRequest asks for a mailbox.
type CreateRequest struct {
	Admin        key.CapabilitySecret
	Salt         [16]byte
	Read, Append key.CapabilityPublic // of generation 0
	Terms        mailbox.Terms        // zero fields: the relay's own; Meta is not used
	Ticket       []byte
}

// ID is the id that the mailbox gets.
func (r CreateRequest) ID(relay key.RelayPublic) mailbox.ID {
	return wire.MailboxID(relay, r.Admin.Public(), r.Salt)
}

// Create makes a mailbox and returns where it stands.
func (c *Client) Create(ctx context.Context, r CreateRequest) (wire.SignedHead, error) {
	if err := within("a ticket", r.Ticket, wire.MaxTicket); err != nil {
		return wire.SignedHead{}, fmt.Errorf("create mailbox: %w", err)
	}
	m := &wire.Create{Salt: r.Salt, Read: r.Read, Append: r.Append, Keep: r.Terms.Keep, MaxEntries: r.Terms.MaxEntries,
		MaxBytes: r.Terms.MaxBytes, Full: r.Terms.Full, Ticket: r.Ticket}
	b, err := c.call(ctx, "create mailbox", wire.TCreate, func(s *session) wire.Message { m.Sign(s.id, r.Admin); return m })
	h, err := decode(c, b, err, &wire.SignedHead{})
	if err != nil {
		return wire.SignedHead{}, err
	}
	return *h, c.checkHead(h, r.ID(c.cfg.Relay))
}

// Append stores an entry. The receipt is signed, and about this mailbox.
func (c *Client) Append(ctx context.Context, append key.CapabilitySecret, d mailbox.Deposit) (*wire.Receipt, error) {
	if err := d.Check(); err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	m := &wire.Append{Mailbox: d.Mailbox, Gen: d.Gen, Kind: d.Kind, Expect: d.Expect, Meta: d.Meta, Payload: d.Payload}
	cap := Capability{wire.Claim{Role: wire.RoleAppend, Object: d.Mailbox, Gen: d.Gen}, append}
	b, err := c.call(ctx, "append", wire.TAppend, still(m), cap)
	r, err := decode(c, b, err, &wire.Receipt{})
	if err != nil {
		return nil, err
	}
	if err := c.checkHead(&r.Head, d.Mailbox); err != nil {
		return nil, err
	}
	if err := c.checkReceipt(r, &d); err != nil {
		return nil, err
	}
	return r, nil
}

// checkReceipt holds a receipt against what it is for.
func (c *Client) checkReceipt(r *wire.Receipt, d *mailbox.Deposit) error {
	h := r.Head.Head
	switch {
	case h.Seq == 0:
		return fmt.Errorf("%w: a receipt for no position", ErrProtocol)
	case d.Kind == mailbox.Commit && h.Commit != h.Mark():
		return fmt.Errorf("%w: a commit's receipt that leaves the fence at %d", ErrProtocol, h.Commit.Seq)
	}
	before, known := mailbox.FirstChain(d.Mailbox), h.Seq == 1
	if !known {
		c.mu.Lock()
		old, ok := c.heads[headKey{d.Mailbox, h.Era, h.Seq - 1}]
		c.mu.Unlock()
		before, known = old.head.Chain, ok
	}
	if known && mailbox.NextChain(before, h.Era, h.Seq, r.Minute, d.Hash()) != h.Chain {
		return fmt.Errorf("%w: a receipt for another entry", ErrProtocol)
	}
	return nil
}

// Place is where a reader stands: a cursor and the chain value there.
type Place struct {
	At    mailbox.Mark
	Chain mailbox.Hash
}

// Start is the place before a mailbox's first entry.
func Start(id mailbox.ID) Place { return Place{Chain: mailbox.FirstChain(id)} }

// Page is a stretch of a mailbox, verified: entries and spans cover every position
// after the reader's place, and the chain leads to the signed end.
type Page struct {
	Mailbox mailbox.ID
	Items   []Item
	End     Place
	Head    wire.SignedHead
	More    bool // there was more when the relay answered
}

// Item is an entry or a span, with the chain value after it.
type Item struct {
	Entry *mailbox.Entry // or nil
	Span  *mailbox.Span  // or nil
	Chain mailbox.Hash
}

// Read returns what stands behind a place.
func (c *Client) Read(ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen, from Place, limit mailbox.Limit) (*Page, error) {
	m := &wire.Read{Cursor: wire.Cursor{Mailbox: id, Gen: gen, After: from.At}, MaxEntries: uint32(limit.Entries), MaxBytes: uint32(limit.Bytes)}
	b, err := c.call(ctx, "read", wire.TRead, still(m), Capability{wire.Claim{Role: wire.RoleRead, Object: id, Gen: gen}, read})
	p, err := decode(c, b, err, &wire.Page{})
	if err != nil {
		return nil, err
	}
	return c.checkPage(p, id, gen, from)
}

// Status returns where a mailbox stands now, signed for this question.
func (c *Client) Status(ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen) (*wire.Status, error) {
	m := &wire.StatusRequest{Mailbox: id, Gen: gen}
	randBytes(m.Nonce[:])
	// What is signed while the relay answers may well be newer than its answer.
	c.mu.Lock()
	last, ok := c.last[id]
	c.mu.Unlock()
	b, err := c.call(ctx, "status", wire.TStatus, still(m), Capability{wire.Claim{Role: wire.RoleRead, Object: id, Gen: gen}, read})
	st, err := decode(c, b, err, &wire.Status{})
	if err != nil {
		return nil, err
	}
	if err := st.Verify(c.cfg.Relay, m.Nonce); err != nil {
		return nil, err
	}
	if st.Head.Mailbox != id {
		return nil, fmt.Errorf("%w: a status of another mailbox", wire.ErrSignature)
	}
	bad := func(what string, a seen) error {
		return &EvidenceError{What: what, A: a.signed, B: wire.Encode(st), Status: true, Nonce: m.Nonce}
	}
	if ok && !st.Ended && last.head.Era == st.Head.Era && st.Head.Seq < last.head.Seq {
		return nil, bad("it has gone back behind a position that it signed", last)
	}
	c.mu.Lock()
	old, ok := c.heads[headKey{id, st.Head.Era, st.Head.Seq}]
	c.mu.Unlock()
	if ok && st.Head.Seq > 0 && old.head != st.Head {
		return nil, bad("two heads for one position", old)
	}
	return st, nil
}

// Trim removes entries up to and including through.
func (c *Client) Trim(ctx context.Context, admin key.CapabilitySecret, id mailbox.ID, through mailbox.Seq) error {
	_, err := c.call(ctx, "trim", wire.TTrim, still(&wire.Trim{Mailbox: id, Through: through}), Capability{wire.Claim{Role: wire.RoleAdmin, Object: id}, admin})
	return err
}

// Delete removes a mailbox.
func (c *Client) Delete(ctx context.Context, admin key.CapabilitySecret, id mailbox.ID) error {
	_, err := c.call(ctx, "delete", wire.TDelete, still(&wire.Object{ID: id}), Capability{wire.Claim{Role: wire.RoleAdmin, Object: id}, admin})
	return err
}

// CreateSlot makes a slot of the two keys.
func (c *Client) CreateSlot(ctx context.Context, owner, read key.CapabilitySecret, once bool, expires mailbox.Minute, value, ticket []byte) error {
	if err := errors.Join(within("a ticket", ticket, wire.MaxTicket), within("a value", value, mailbox.MaxSlot)); err != nil {
		return fmt.Errorf("create slot: %w", err)
	}
	m := &wire.SlotCreate{Once: once, Expires: expires, Value: value, Ticket: ticket}
	_, err := c.call(ctx, "create slot", wire.TSlotCreate, func(s *session) wire.Message { m.Sign(s.id, owner, read); return m })
	return err
}

func (c *Client) slot(role wire.Role, read key.CapabilityPublic, secret key.CapabilitySecret) (mailbox.SlotID, Capability) {
	id := wire.SlotID(c.cfg.Relay, read)
	return id, Capability{wire.Claim{Role: role, Object: id}, secret}
}

// TakeSlot takes a slot under a tag.
func (c *Client) TakeSlot(ctx context.Context, read key.CapabilitySecret, tag mailbox.Tag) ([]byte, error) {
	id, cap := c.slot(wire.RoleSlotRead, read.Public(), read)
	b, err := c.call(ctx, "take slot", wire.TSlotTake, still(&wire.SlotTake{Slot: id, Tag: tag}), cap)
	v, err := decode(c, b, err, &wire.SlotValue{})
	return v.Value, err
}

// ReadSlot reads a slot that is not to be taken, and returns its version and value.
func (c *Client) ReadSlot(ctx context.Context, read key.CapabilitySecret) (uint32, []byte, error) {
	id, cap := c.slot(wire.RoleSlotRead, read.Public(), read)
	b, err := c.call(ctx, "read slot", wire.TSlotRead, still(&wire.Object{ID: id}), cap)
	v, err := decode(c, b, err, &wire.SlotValue{})
	return v.Version, v.Value, err
}

// SetSlot replaces a slot's value if version is the one that stands.
func (c *Client) SetSlot(ctx context.Context, owner key.CapabilitySecret, read key.CapabilityPublic, version uint32, value []byte) error {
	if err := within("a value", value, mailbox.MaxSlot); err != nil {
		return fmt.Errorf("set slot: %w", err)
	}
	id, cap := c.slot(wire.RoleSlotOwner, read, owner)
	_, err := c.call(ctx, "set slot", wire.TSlotSet, still(&wire.SlotSet{Slot: id, Version: version, Value: value}), cap)
	return err
}

// SlotState tells its owner how a slot stands.
func (c *Client) SlotState(ctx context.Context, owner key.CapabilitySecret, read key.CapabilityPublic) (*wire.SlotState, error) {
	id, cap := c.slot(wire.RoleSlotOwner, read, owner)
	b, err := c.call(ctx, "slot state", wire.TSlotState, still(&wire.Object{ID: id}), cap)
	return decode(c, b, err, &wire.SlotState{})
}

// RevokeSlot removes a slot.
func (c *Client) RevokeSlot(ctx context.Context, owner key.CapabilitySecret, read key.CapabilityPublic) error {
	id, cap := c.slot(wire.RoleSlotOwner, read, owner)
	_, err := c.call(ctx, "revoke slot", wire.TSlotRevoke, still(&wire.Object{ID: id}), cap)
	return err
}

// Ping asks the relay for a sign of life.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, "ping", wire.TPing, still(&wire.Ping{Data: []byte("ping")}))
	return err
}

// Remember tells the client of a head that the relay had signed before: what it signs from
// now on is held against it.
func (c *Client) Remember(h *wire.SignedHead) error { return c.checkHead(h, h.Head.Mailbox) }

// checkHead verifies a head and holds it against those seen before.
func (c *Client) checkHead(h *wire.SignedHead, id mailbox.ID) error {
	if h.Head.Mailbox != id {
		return fmt.Errorf("%w: a head of another mailbox", wire.ErrSignature)
	}
	if err := h.Verify(c.cfg.Relay); err != nil {
		return err
	}
	k := headKey{id, h.Head.Era, h.Head.Seq}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.heads[k]; ok {
		if old.head != h.Head {
			return &EvidenceError{What: "two heads for one position", A: old.signed, B: wire.Encode(h)}
		}
		return nil
	}
	for old := range c.heads {
		if len(c.heads) < headsSeen {
			break
		}
		delete(c.heads, old) // any one: the map's order is random
	}
	s := seen{h.Head, wire.Encode(h)}
	c.heads[k] = s
	if last, ok := c.last[id]; !ok || last.head.Era != h.Head.Era || last.head.Seq < h.Head.Seq {
		c.last[id] = s
	}
	return nil
}

// checkPage verifies a page that was read with the key of a generation.
func (c *Client) checkPage(p *wire.Page, id mailbox.ID, gen mailbox.Gen, from Place) (*Page, error) {
	if err := c.checkHead(&p.End, id); err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*Page, error) {
		return nil, fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	out := &Page{Mailbox: id, Head: p.End, More: p.More}
	at, chain, entries, lost := from.At.Seq, from.Chain, p.Entries, p.Lost
	var fence *mailbox.Mark // as far as the page tells
	for len(entries)+len(lost) > 0 {
		switch {
		case len(entries) > 0 && entries[0].Seq == at+1:
			e := &entries[0]
			switch {
			case e.Kind != mailbox.Message && e.Kind != mailbox.Commit:
				return bad("an entry of %v", e.Kind)
			case e.Kind == mailbox.Message && len(e.Meta) > 0, len(e.Payload) == 0:
				return bad("an entry that no relay may take")
			case e.Gen > gen || len(out.Items) > 0 && out.Items[len(out.Items)-1].ends(gen):
				return bad("an entry behind the end of generation %d", gen)
			case e.Kind == mailbox.Commit:
				fence = &mailbox.Mark{Era: e.Era, Seq: e.Seq}
			}
			chain = mailbox.NextChain(chain, e.Era, e.Seq, e.Minute, e.Hash())
			at, entries = e.Seq, entries[1:]
			out.Items = append(out.Items, Item{Entry: e, Chain: chain})
		case len(lost) > 0 && lost[0].From == at+1 && lost[0].End.Seq > at && lost[0].End.Mailbox == id:
			s := &lost[0]
			if len(entries) < len(p.Entries) {
				return bad("a span behind an entry, which nothing then vouches for")
			}
			if s.End.Seq > maxSeq {
				return bad("a mailbox of %d entries", s.End.Seq)
			}
			at, chain, fence, lost = s.End.Seq, s.End.Chain, &s.End.Commit, lost[1:]
			out.Items = append(out.Items, Item{Span: s, Chain: chain})
		default:
			return bad("a page that leaves out what stands after %d", at)
		}
	}
	end := p.End.Head
	if len(out.Items) == 0 && p.More {
		return bad("an empty page that says there is more")
	}
	if end.Seq != at || end.Chain != chain || fence != nil && *fence != end.Commit {
		return bad("entries that do not lead to the head at %d", end.Seq)
	}
	out.End = Place{At: end.Mark(), Chain: chain}
	if len(out.Items) == 0 {
		out.End.At = from.At
	}
	return out, nil
}

// ends reports whether an item is the commit that ends a generation.
func (it Item) ends(gen mailbox.Gen) bool {
	e := it.Entry
	return e != nil && e.Kind == mailbox.Commit && len(e.Meta) > 0 && e.Gen == gen
}

// backoff returns how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	wait := firstWait
	for range min(failures, 10) {
		wait = min(wait*2, lastWait)
	}
	return wait/2 + time.Duration(mrand.Int64N(int64(wait)))
}
