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
	"sotto/relay/wire"
)

// Errors of a client; those of the relay are *wire.Error.
var (
	ErrClosed      = errors.New("client is closed")
	ErrUnreachable = errors.New("relay is not reachable")
	ErrWrongRelay  = errors.New("another relay answered")
	ErrProtocol    = errors.New("the relay does not keep to the protocol")
	ErrLost        = errors.New("connection to the relay was lost")
)

// lostError is what requests under way get when the connection goes.
type lostError struct{ cause error }

func (e *lostError) Error() string { return ErrLost.Error() + ": " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }
func (e *lostError) Is(target error) bool {
	return target == ErrLost || target == mailbox.ErrUnknown
}

// EvidenceError says that the relay has signed two things that cannot both be
// true. Both verify with its key alone.
type EvidenceError struct {
	What string
	A, B []byte // SignedHead or Status structures (spec/relay.md, section 5)
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
	headsSeen    = 4096
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

	mu    sync.Mutex // guards the following fields
	now   *session   // nil if not connected
	state State
	heads map[headKey]seen // heads that the relay has signed
	last  map[mailbox.ID]seen
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
	c.cancel()
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	if s != nil {
		s.fail(ErrClosed)
	}
	c.busy.Wait()
}

// Relay is the relay's key.
func (c *Client) Relay() key.RelayPublic { return c.cfg.Relay }

// State returns how the connection stands.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Client) setState(s State) {
	c.mu.Lock()
	c.state = s
	c.mu.Unlock()
	if c.cfg.Changed != nil {
		c.cfg.Changed()
	}
}

// session returns the session at hand, or connects.
func (c *Client) session(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s := c.now
		c.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-c.dialing:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
		case <-c.ctx.Done():
			return nil, ErrClosed
		}
		c.mu.Lock()
		s = c.now
		c.mu.Unlock()
		var err error
		if s == nil {
			s, err = c.connect(ctx)
		}
		c.dialing <- struct{}{}
		return s, err
	}
}

func (c *Client) connect(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	s, err := c.hello(ctx)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, ErrClosed
		}
		c.setState(State{Err: err, Retry: c.State().Retry})
		return nil, err
	}
	c.mu.Lock()
	c.now = s
	c.mu.Unlock()
	c.setState(State{Connected: true})
	c.busy.Add(1)
	go func() {
		defer c.busy.Done()
		s.read()
		c.mu.Lock()
		c.now = nil
		c.mu.Unlock()
		c.setState(State{Err: s.failure()})
	}()
	return s, nil
}

func (c *Client) hello(ctx context.Context) (*session, error) {
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
	if fr.Type == wire.TError {
		return fail(decodeError(fr.Body, "hello"))
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
	s := &session{c: c, conn: conn, in: in, id: wire.Session{Relay: who, RelayNonce: r.Nonce, ClientNonce: h.Nonce},
		tokens: make(chan struct{}, wire.MaxInFlight), pending: map[uint32]chan answer{}, proved: map[wire.Claim]bool{},
		subs: map[mailbox.ID]*subscription{}, over: make(chan struct{})}
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

func randBytes(b []byte) { rand.Read(b) }

// Capability is a key with what it is for.
type Capability struct {
	Claim wire.Claim
	Key   key.CapabilitySecret
}

// call sends a request once its capability has been shown, and returns the body
// of the answer.
func (c *Client) call(ctx context.Context, op string, t wire.Type, m func(s *session) wire.Message, caps ...Capability) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	s, err := c.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if err := s.prove(ctx, caps); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	b, err := s.ask(ctx, op, t, m(s))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return b, nil
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
	if r.Head.Head.Seq == 0 {
		return nil, fmt.Errorf("%w: a receipt for no position", ErrProtocol)
	}
	return r, nil
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
	return c.checkPage(p, id, from)
}

// Status returns where a mailbox stands now, signed for this question.
func (c *Client) Status(ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen) (*wire.Status, error) {
	m := &wire.StatusRequest{Mailbox: id, Gen: gen}
	randBytes(m.Nonce[:])
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
	c.mu.Lock()
	last, ok := c.last[id]
	c.mu.Unlock()
	if ok && !st.Ended && last.head.Era == st.Head.Era && st.Head.Seq < last.head.Seq {
		return nil, &EvidenceError{What: "it has gone back behind a position that it signed", A: last.signed, B: wire.Encode(st)}
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

// checkPage verifies a page.
func (c *Client) checkPage(p *wire.Page, id mailbox.ID, from Place) (*Page, error) {
	if err := c.checkHead(&p.End, id); err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*Page, error) {
		return nil, fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	out := &Page{Mailbox: id, Head: p.End, More: p.More}
	at, chain, entries, lost := from.At.Seq, from.Chain, p.Entries, p.Lost
	for len(entries)+len(lost) > 0 {
		switch {
		case len(entries) > 0 && entries[0].Seq == at+1:
			e := &entries[0]
			if e.Kind != mailbox.Message && e.Kind != mailbox.Commit {
				return bad("an entry of %v", e.Kind)
			}
			chain = mailbox.NextChain(chain, e.Era, e.Seq, e.Minute, e.Hash())
			at, entries = e.Seq, entries[1:]
			out.Items = append(out.Items, Item{Entry: e, Chain: chain})
		case len(lost) > 0 && lost[0].From == at+1 && lost[0].End.Seq > at && lost[0].End.Mailbox == id:
			s := &lost[0]
			at, chain, lost = s.End.Seq, s.End.Chain, lost[1:]
			out.Items = append(out.Items, Item{Span: s, Chain: chain})
		default:
			return bad("a page that leaves out what stands after %d", at)
		}
	}
	if p.End.Head.Seq != at || p.End.Head.Chain != chain {
		return bad("entries that do not lead to the head at %d", p.End.Head.Seq)
	}
	out.End = Place{At: p.End.Head.Mark(), Chain: chain}
	if len(out.Items) == 0 {
		out.End.At = from.At
	}
	return out, nil
}

// backoff returns how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	wait := firstWait
	for range min(failures, 10) {
		wait = min(wait*2, lastWait)
	}
	return wait/2 + time.Duration(mrand.Int64N(int64(wait)))
}
