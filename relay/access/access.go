// Package access decides who may do what at a relay: it keeps the capabilities that
// a session has shown, bounds what strangers may create, and issues tickets.
//
// What does not exist and what is not allowed look alike from outside, in the
// answer and in the work: a proof for an object that is not there is verified
// against a key that nobody holds.
package access

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"sotto/crypto/codec"
	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// How many capabilities a session can show, and how many it always can.
const (
	maxShown  = 4*wire.MaxSubscribe + 1024
	freeShown = 64
)

// The errors of this package.
var (
	ErrRefused = errors.New("creating is not allowed")
	ErrFull    = errors.New("as much has been shown as may be")
)

// nobody is the key that proofs for what does not exist are checked against. Its
// secret half was never kept.
var nobody = key.NewCapability().Public()

// Keys is where the keys of objects are kept, and what bounds how many of them are
// shown.
type Keys struct {
	Store mailbox.Store
	Slots mailbox.Slots
	Room  *Room
}

// Room bounds what all sessions have shown together, beyond the first few of each:
// those who show much cannot keep out those who show little.
type Room struct{ left atomic.Int64 }

// NewRoom makes room for n capabilities.
func NewRoom(n int64) *Room {
	r := &Room{}
	r.left.Store(n)
	return r
}

func (r *Room) take() bool {
	if r.left.Add(-1) < 0 {
		r.left.Add(1)
		return false
	}
	return true
}

// of returns the key that c must be proved with; nobody's if there is none.
func (k Keys) of(ctx context.Context, c wire.Claim) (key.CapabilityPublic, error) {
	var b []byte
	switch c.Role {
	case wire.RoleAdmin: // outlives the record of generation 0
		st, err := k.Store.State(ctx, mailbox.ID(c.Object))
		if err != nil {
			return nobody, notFound(err)
		}
		if len(st.Terms.Meta) != key.Size+wire.NextCapsSize {
			return nobody, nil
		}
		b = st.Terms.Meta[:key.Size]
	case wire.RoleRead, wire.RoleAppend:
		g, err := k.Store.Generation(ctx, mailbox.ID(c.Object), c.Gen)
		if err != nil {
			return nobody, notFound(err)
		}
		meta := g.Meta
		if c.Gen == 0 {
			if len(meta) != key.Size+wire.NextCapsSize {
				return nobody, nil
			}
			meta = meta[key.Size:]
		}
		if len(meta) != wire.NextCapsSize {
			return nobody, nil
		}
		if b = meta[:key.Size]; c.Role == wire.RoleAppend {
			b = meta[key.Size:]
		}
	case wire.RoleBlobOwner: // speaks for itself
		b = c.Object[:]
	case wire.RoleSlotRead, wire.RoleSlotOwner:
		owner, read, err := k.Slots.Keys(ctx, mailbox.SlotID(c.Object))
		if err != nil {
			return nobody, notFound(err)
		}
		if b = read[:]; c.Role == wire.RoleSlotOwner {
			b = owner[:]
		}
	}
	p, err := key.ParsePublic[key.CapabilityPublic](b)
	if err != nil || p.IsZero() {
		return nobody, nil
	}
	return p, nil
}

func notFound(err error) error {
	if errors.Is(err, mailbox.ErrNotFound) {
		return nil
	}
	return err
}

// Session is what one session has shown. Its methods may be called concurrently.
type Session struct {
	id     wire.Session
	keys   Keys
	verify func(key.CapabilityPublic, wire.Proof) bool // id.Verify, counted in a test

	mu    sync.Mutex // guards the following fields
	shown map[wire.Claim]bool
	extra int64 // of Room's
}

// NewSession begins a session in which nothing has been shown.
func NewSession(id wire.Session, k Keys) *Session {
	return &Session{id: id, keys: k, verify: id.Verify, shown: map[wire.Claim]bool{}}
}

// Close forgets what has been shown.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys.Room.left.Add(s.extra)
	s.shown, s.extra = nil, 0
}

// ID is what the session's proofs are bound to.
func (s *Session) ID() wire.Session { return s.id }

// Prove checks proofs and returns, for each, 1 if it holds and 0 if not. It returns
// ErrFull if one holds and cannot be noted.
func (s *Session) Prove(ctx context.Context, proofs []wire.Proof) ([]byte, error) {
	out := make([]byte, len(proofs))
	for i, p := range proofs {
		if (p.Role == wire.RoleAdmin || p.Role == wire.RoleSlotRead || p.Role == wire.RoleSlotOwner || p.Role == wire.RoleBlobOwner) && p.Gen != 0 {
			continue
		}
		k, err := s.keys.of(ctx, p.Claim)
		if err != nil {
			return nil, err
		}
		if !s.verify(k, p) || k == nobody {
			continue
		}
		if !s.Grant(p.Claim) {
			return nil, ErrFull
		}
		out[i] = 1
	}
	return out, nil
}

// Grant notes a capability as shown. It reports false if the session has shown as
// many as it can, or been closed.
func (s *Session) Grant(c wire.Claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := len(s.shown); {
	case s.shown[c]:
		return true
	case s.shown == nil, n >= maxShown, n >= freeShown && !s.keys.Room.take():
		return false
	case n >= freeShown:
		s.extra++
	}
	s.shown[c] = true
	return true
}

// Shown reports whether a capability has been shown.
func (s *Session) Shown(c wire.Claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown[c]
}

// Policy says who may create mailboxes and slots.
type Policy struct {
	Tickets     *Tickets // nil: tickets are not looked at
	NeedTicket  bool     // without a ticket nothing is created
	PerMinute   float64  // without one, so many things a minute and address prefix; 0 means 30
	Burst       int      // and so many at once; 0 means 60
	MaxPrefixes int      // address prefixes remembered; 0 means 65,536
}

// Limiter applies a policy.
type Limiter struct {
	p     Policy
	clock func() time.Time

	mu      sync.Mutex // guards the following fields
	buckets map[netip.Prefix]*rate.Limiter
	cleaned time.Time // when the full buckets were last looked for
}

// NewLimiter makes one. A nil clock is time.Now.
func NewLimiter(p Policy, clock func() time.Time) *Limiter {
	if p.PerMinute == 0 {
		p.PerMinute = 30
	}
	if p.Burst == 0 {
		p.Burst = 60
	}
	if p.MaxPrefixes == 0 {
		p.MaxPrefixes = 1 << 16
	}
	if clock == nil {
		clock = time.Now
	}
	return &Limiter{p: p, clock: clock, buckets: map[netip.Prefix]*rate.Limiter{}}
}

// prefixOf is the part of an address that one household or provider customer has.
func prefixOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

// Create returns nil if a client at addr may create one thing now, with this
// ticket or without. It returns an error that wraps ErrRefused.
func (l *Limiter) Create(addr netip.Addr, ticket []byte) error { return l.take(addr, ticket, 1) }

// take returns nil if a client may have n units now.
func (l *Limiter) take(addr netip.Addr, ticket []byte, n int) error {
	now := l.clock()
	if len(ticket) > 0 && l.p.Tickets != nil {
		return l.p.Tickets.check(ticket, mailbox.MinuteOf(now))
	}
	if l.p.NeedTicket {
		return fmt.Errorf("%w: this relay wants a ticket", ErrRefused)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p := prefixOf(addr)
	b := l.buckets[p]
	if b == nil {
		if len(l.buckets) >= l.p.MaxPrefixes {
			l.forgetLocked(now)
		}
		b = rate.NewLimiter(rate.Limit(l.p.PerMinute/60), l.p.Burst)
		l.buckets[p] = b
	}
	if !b.AllowN(now, n) {
		return fmt.Errorf("%w: too many from one address", ErrRefused)
	}
	return nil
}

// forgetLocked drops the buckets that are full again, which are as good as new
// ones, and if there is still no room, any one. It looks at all of them once a
// minute at most: strangers must not make it work.
func (l *Limiter) forgetLocked(now time.Time) {
	if d := now.Sub(l.cleaned); d >= time.Minute || d < 0 {
		l.cleaned = now
		for p, b := range l.buckets {
			if b.TokensAt(now) >= float64(l.p.Burst) {
				delete(l.buckets, p)
			}
		}
	}
	for p := range l.buckets {
		if len(l.buckets) < l.p.MaxPrefixes {
			return
		}
		delete(l.buckets, p)
	}
}

// Tickets issues and checks tickets: the operator's word that the bearer may
// create things until a date. They name nobody.
//
//	struct { uint8 version = 1; uint32 expires; opaque mac[16]; } Ticket;
//	mac = HMAC-SHA-256(secret, "sotto/ticket/1" ‖ version ‖ expires)[0..16)
type Tickets struct{ secret []byte }

const ticketVersion = 1

// NewTickets makes an issuer from its 32-byte secret.
func NewTickets(secret []byte) *Tickets { return &Tickets{append([]byte(nil), secret...)} }

// Issue makes a ticket that is good before a minute.
func (t *Tickets) Issue(expires mailbox.Minute) []byte {
	b := codec.AppendU32([]byte{ticketVersion}, uint32(expires))
	return append(b, t.mac(b)...)
}

func (t *Tickets) mac(b []byte) []byte {
	h := hmac.New(sha256.New, t.secret)
	h.Write([]byte("sotto/ticket/1"))
	h.Write(b)
	return h.Sum(nil)[:16]
}

func (t *Tickets) check(b []byte, now mailbox.Minute) error {
	r := codec.NewReader(b)
	version, expires, mac := r.U8(), mailbox.Minute(r.U32()), r.Bytes(16)
	switch {
	case r.Done() != nil || version != ticketVersion || !hmac.Equal(mac, t.mac(b[:5])):
		return fmt.Errorf("%w: a ticket of another relay", ErrRefused)
	case expires <= now:
		return fmt.Errorf("%w: the ticket has expired", ErrRefused)
	}
	return nil
}
