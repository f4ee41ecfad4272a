package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/mailboxtest"
	"sotto/relay/mailbox/membox"
	"sotto/relay/wire"
)

// counting is a store that tells what it was asked.
type counting struct {
	*membox.Store
	asked []string
}

func (s *counting) State(ctx context.Context, id mailbox.ID) (mailbox.State, error) {
	s.asked = append(s.asked, "state")
	return s.Store.State(ctx, id)
}

func (s *counting) Generation(ctx context.Context, id mailbox.ID, g mailbox.Gen) (mailbox.Generation, error) {
	s.asked = append(s.asked, "generation")
	return s.Store.Generation(ctx, id, g)
}

func (s *counting) Keys(ctx context.Context, id mailbox.SlotID) (owner, read [32]byte, err error) {
	s.asked = append(s.asked, "keys")
	return s.Store.Keys(ctx, id)
}

// world is a relay with a mailbox at generation 1, a slot, and every key to them.
type world struct {
	store *counting
	clock *mailboxtest.Clock
	relay key.RelaySecret
	box   mailbox.ID
	slot  mailbox.SlotID
	keys  map[wire.Claim]key.CapabilitySecret
	rooms int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	clock := mailboxtest.NewClock()
	w := &world{store: &counting{Store: membox.New(clock.Now, 0)}, clock: clock, relay: key.NewRelay(), keys: map[wire.Claim]key.CapabilitySecret{}, rooms: 100}
	secret := func(role wire.Role, object [32]byte, gen mailbox.Gen) key.CapabilitySecret {
		k := key.NewCapability()
		w.keys[wire.Claim{Role: role, Object: object, Gen: gen}] = k
		return k
	}
	admin := key.NewCapability()
	w.box = wire.MailboxID(w.relay.Public(), admin.Public(), [16]byte{})
	w.keys[wire.Claim{Role: wire.RoleAdmin, Object: w.box}] = admin
	create := wire.Create{Admin: admin.Public(), Read: secret(wire.RoleRead, w.box, 0).Public(), Append: secret(wire.RoleAppend, w.box, 0).Public()}
	terms := mailboxtest.Terms()
	terms.Meta = create.Caps()
	if err := w.store.Create(t.Context(), w.box, terms); err != nil {
		t.Fatal(err)
	}
	next := append(secret(wire.RoleRead, w.box, 1).Public().Bytes(), secret(wire.RoleAppend, w.box, 1).Public().Bytes()...)
	if o := w.store.Put(t.Context(), []mailbox.Deposit{{Mailbox: w.box, Kind: mailbox.Commit, Meta: next, Payload: []byte("c")}})[0]; o.Err != nil {
		t.Fatal(o.Err)
	}
	read := key.NewCapability()
	w.slot = wire.SlotID(w.relay.Public(), read.Public())
	w.keys[wire.Claim{Role: wire.RoleSlotRead, Object: w.slot}] = read
	owner := secret(wire.RoleSlotOwner, w.slot, 0)
	err := w.store.CreateSlot(t.Context(), w.slot, mailbox.Slot{Owner: [32]byte(owner.Public().Bytes()), Read: [32]byte(read.Public().Bytes()),
		Expires: mailbox.MinuteOf(clock.Now()) + 60, Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) session(n byte) *Session {
	id := wire.Session{Relay: w.relay.Public(), RelayNonce: wire.Nonce{n}, ClientNonce: wire.Nonce{n, 1}}
	return NewSession(id, Keys{Store: w.store, Slots: w.store, Room: NewRoom(w.rooms)})
}

func prove(t *testing.T, s *Session, p ...wire.Proof) string {
	t.Helper()
	out, err := s.Prove(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", out)
}

// T17, T20: a proof opens what it names, in its session, at its relay, and nothing else.
func TestProofs(t *testing.T) {
	w := newWorld(t)
	for claim, k := range w.keys {
		t.Run(fmt.Sprintf("role %d of generation %d", claim.Role, claim.Gen), func(t *testing.T) {
			s, other := w.session(1), w.session(2)
			good := s.ID().Prove(k, claim)
			elsewhere := *w
			elsewhere.relay = key.NewRelay()
			if got := prove(t, other, good); got != "00" || other.Shown(claim) {
				t.Error("it holds in another session")
			}
			if got := prove(t, elsewhere.session(1), good); got != "00" {
				t.Error("it holds at another relay")
			}
			change := func(f func(*wire.Claim)) wire.Claim { c := claim; f(&c); return c }
			for name, c := range map[string]wire.Claim{
				"another role":       change(func(c *wire.Claim) { c.Role = c.Role%5 + 1 }),
				"no role":            change(func(c *wire.Claim) { c.Role = 0 }),
				"a role to come":     change(func(c *wire.Claim) { c.Role = 6 }),
				"another object":     change(func(c *wire.Claim) { c.Object[0]++ }),
				"another generation": change(func(c *wire.Claim) { c.Gen ^= 1 }),
				"a generation ahead": change(func(c *wire.Claim) { c.Gen = 2 }),
				"generation 2^32-1":  change(func(c *wire.Claim) { c.Gen = 1<<32 - 1 }),
			} {
				relabelled := good
				relabelled.Claim = c
				for how, p := range map[string]wire.Proof{"relabelled for": relabelled, "signed anew for": s.ID().Prove(k, c)} {
					if got := prove(t, s, p); got != "00" || s.Shown(c) {
						t.Errorf("a proof %s %s holds", how, name)
					}
				}
			}
			bad := good
			bad.Signature[63] ^= 1
			if got := prove(t, s, bad, good, good); got != "000101" {
				t.Errorf("bad, good, good again: %s", got)
			}
			if !s.Shown(claim) {
				t.Error("it has not been noted")
			}
		})
	}
}

// T17: with the last entry of a generation its keys go, but for the admin's.
func TestKeysOfAGenerationThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.clock.Advance(mailbox.CommitMinutes)
	if _, err := w.store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for claim, k := range w.keys {
		s := w.session(1)
		want := "01"
		if (claim.Role == wire.RoleRead || claim.Role == wire.RoleAppend) && claim.Gen == 0 || claim.Role >= wire.RoleSlotRead {
			want = "00"
		}
		if got := prove(t, s, s.ID().Prove(k, claim)); got != want {
			t.Errorf("role %d of generation %d: %s, want %s", claim.Role, claim.Gen, got, want)
		}
	}
}

// T22: what does not exist and what is not one's own take the same work: the store is
// asked the same, and one signature is verified.
func TestUnknownTakesTheWorkOfUnauthorised(t *testing.T) {
	w := newWorld(t)
	for role := wire.Role(0); role <= 6; role++ {
		var work [2][]string
		for i, known := range []bool{true, false} {
			object := [32]byte{1, 2, 3}
			if known {
				if object = w.box; role == wire.RoleSlotRead || role == wire.RoleSlotOwner {
					object = w.slot
				}
			}
			s := w.session(1)
			s.verify = func(k key.CapabilityPublic, p wire.Proof) bool {
				w.store.asked = append(w.store.asked, "verify")
				return s.id.Verify(k, p)
			}
			w.store.asked = nil
			if got := prove(t, s, s.ID().Prove(key.NewCapability(), wire.Claim{Role: role, Object: object})); got != "00" {
				t.Errorf("role %d, known %v: a stranger's proof holds", role, known)
			}
			work[i] = w.store.asked
		}
		if !reflect.DeepEqual(work[0], work[1]) || len(work[0]) == 0 || work[0][len(work[0])-1] != "verify" {
			t.Errorf("role %d: a stranger costs %v, the unknown %v", role, work[0], work[1])
		}
	}
}

// Who has the secret of the key that stands for nobody opens nothing with it.
func TestNobodysKeyOpensNothing(t *testing.T) {
	mine := key.NewCapability()
	old := nobody
	nobody = mine.Public()
	defer func() { nobody = old }()
	s := newWorld(t).session(1)
	for role := wire.Role(0); role <= 6; role++ {
		if got := prove(t, s, s.ID().Prove(mine, wire.Claim{Role: role, Object: [32]byte{1, 2, 3}})); got != "00" {
			t.Errorf("role %d: it holds", role)
		}
	}
}

// Keys in the store that are none, as of a mailbox that another program created, open
// nothing either.
func TestRubbishForKeys(t *testing.T) {
	w := newWorld(t)
	id, terms := mailbox.ID{7}, mailboxtest.Terms()
	for _, meta := range [][]byte{nil, []byte("short"), make([]byte, key.Size+wire.NextCapsSize)} {
		id[1]++
		terms.Meta = meta
		if err := w.store.Create(t.Context(), id, terms); err != nil {
			t.Fatal(err)
		}
		s := w.session(1)
		for _, role := range []wire.Role{wire.RoleAdmin, wire.RoleRead, wire.RoleAppend} {
			c := wire.Claim{Role: role, Object: id}
			if got := prove(t, s, s.ID().Prove(key.NewCapability(), c), wire.Proof{Claim: c}); got != "0000" {
				t.Errorf("%d bytes of meta, role %d: %s", len(meta), role, got)
			}
		}
	}
}

func TestRoom(t *testing.T) {
	w := newWorld(t)
	room := NewRoom(10)
	session := func() *Session { return NewSession(w.session(1).ID(), Keys{Room: room}) }
	show := func(s *Session, n int) (shown int) {
		for i := range n {
			if s.Grant(wire.Claim{Gen: mailbox.Gen(i)}) {
				shown++
			}
		}
		return shown
	}
	greedy, modest := session(), session()
	if n := show(greedy, 200); n != freeShown+10 {
		t.Errorf("one session showed %d", n)
	}
	if n := show(greedy, 20); n != 20 {
		t.Errorf("of what it had shown it showed %d again", n)
	}
	if n := show(modest, 200); n != freeShown {
		t.Errorf("another session showed %d, want those that any can", n)
	}
	greedy.Close()
	greedy.Close()
	if greedy.Grant(wire.Claim{}) || greedy.Shown(wire.Claim{}) {
		t.Error("a closed session goes on")
	}
	if n := show(modest, 200); n != freeShown+10 {
		t.Errorf("with the first one gone the other showed %d", n)
	}
	vast := NewSession(modest.ID(), Keys{Room: NewRoom(1 << 40)})
	if n := show(vast, 2*maxShown); n != maxShown {
		t.Errorf("one session alone showed %d, at most %d", n, maxShown)
	}
	// A proof that holds and finds no room is not said to be wrong.
	w.rooms = 0
	s := w.session(1)
	show(s, freeShown)
	c := wire.Claim{Role: wire.RoleAdmin, Object: w.box}
	if _, err := s.Prove(t.Context(), []wire.Proof{s.ID().Prove(w.keys[c], c)}); !errors.Is(err, ErrFull) {
		t.Errorf("no room: %v, want ErrFull", err)
	}
}

func TestTickets(t *testing.T) {
	clock := mailboxtest.NewClock()
	now := mailbox.MinuteOf(clock.Now())
	mine, theirs := NewTickets(bytes.Repeat([]byte{1}, 32)), NewTickets(bytes.Repeat([]byte{2}, 32))
	l := NewLimiter(Policy{Tickets: mine, NeedTicket: true}, clock.Now)
	good := mine.Issue(now + 1)
	longer := bytes.Clone(good)
	longer[4]++
	version := bytes.Clone(good)
	version[0]++
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	for name, tt := range map[string]struct {
		ticket []byte
		ok     bool
	}{
		"good":                     {good, true},
		"none":                     {nil, false},
		"of another relay":         {theirs.Issue(now + 1), false},
		"forged":                   {forged, false},
		"made to last longer":      {longer, false},
		"of another version":       {version, false},
		"expired this minute":      {mine.Issue(now), false},
		"expired in 1970":          {mine.Issue(0), false},
		"good till the end":        {mine.Issue(1<<32 - 1), true},
		"cut short":                {good[:len(good)-1], false},
		"with something behind it": {append(bytes.Clone(good), 0), false},
		"one byte":                 {good[:1], false},
		"255 bytes":                {make([]byte, 255), false},
	} {
		err := l.Create(netip.MustParseAddr("192.0.2.1"), tt.ticket)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	clock.Advance(1)
	if err := l.Create(netip.Addr{}, good); !errors.Is(err, ErrRefused) {
		t.Errorf("a minute later: %v", err)
	}
	// A relay without tickets looks at none: what is shown does not lift the limit.
	open := NewLimiter(Policy{Burst: 1}, clock.Now)
	if err := open.Create(netip.Addr{}, good); err != nil {
		t.Error(err)
	}
	if err := open.Create(netip.Addr{}, good); !errors.Is(err, ErrRefused) {
		t.Errorf("with a ticket nobody checks: %v", err)
	}
	// The limiter keeps no secret of the caller's.
	secret := bytes.Repeat([]byte{3}, 32)
	own := NewTickets(secret)
	before := own.Issue(5)
	clear(secret)
	if !bytes.Equal(before, own.Issue(5)) {
		t.Error("the issuer's secret changed under it")
	}
}

// T25, in part: what strangers may create is bounded by what one household or customer
// has of addresses.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name, a, b string
		same       bool
	}{
		{"one address", "192.0.2.1", "192.0.2.1", true},
		{"one /24", "192.0.2.1", "192.0.2.254", true},
		{"two /24", "192.0.2.1", "192.0.3.1", false},
		{"v4 in v6", "192.0.2.1", "::ffff:192.0.2.9", true},
		{"one /48", "2001:db8:1::1", "2001:db8:1:ffff::1", true},
		{"two /48", "2001:db8:1::1", "2001:db8:2::1", false},
		{"with a zone", "fe80::1%eth0", "fe80::1%eth1", true},
		{"v4 and v6", "192.0.2.1", "2001:db8:1::1", false},
	} {
		clock := mailboxtest.NewClock()
		l := NewLimiter(Policy{PerMinute: 1, Burst: 3}, clock.Now)
		a, b := netip.MustParseAddr(tt.a), netip.MustParseAddr(tt.b)
		for i := range 3 {
			if err := l.Create(a, nil); err != nil {
				t.Errorf("%s: creation %d: %v", tt.name, i, err)
			}
		}
		if err := l.Create(a, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: one too many: %v", tt.name, err)
		}
		if err := l.Create(b, nil); errors.Is(err, ErrRefused) != tt.same {
			t.Errorf("%s: %s after %s: %v", tt.name, tt.b, tt.a, err)
		}
		clock.Advance(1)
		if err := l.Create(a, nil); err != nil {
			t.Errorf("%s: a minute later: %v", tt.name, err)
		}
		if err := l.Create(a, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: a minute later, one too many: %v", tt.name, err)
		}
	}
	// Whose address is not known shares one bucket, and has one.
	l := NewLimiter(Policy{Burst: 1}, nil)
	if l.Create(netip.Addr{}, nil) != nil || l.Create(netip.Addr{}, nil) == nil {
		t.Error("clients without an address are not bounded")
	}
}

// However many addresses a stranger has, the limiter remembers so many and is not made
// to look through all of them each time.
func TestLimiterMemoryIsBounded(t *testing.T) {
	clock := mailboxtest.NewClock()
	now := clock.Now()
	looked := 0
	l := NewLimiter(Policy{MaxPrefixes: 100, Burst: 2, PerMinute: 1}, func() time.Time { return now })
	for i := range 10_000 {
		cleaned := l.cleaned
		if err := l.Create(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), nil); err != nil {
			t.Fatal(err)
		}
		if len(l.buckets) > 100 {
			t.Fatalf("%d prefixes are remembered", len(l.buckets))
		}
		if l.cleaned != cleaned {
			looked++
		}
	}
	if looked > 1 {
		t.Errorf("all prefixes were looked at %d times in one moment", looked)
	}
	// Full buckets are as good as none, and go first: who is being bounded stays so.
	now = now.Add(2 * time.Minute)
	busy := netip.MustParseAddr("203.0.113.5")
	for l.Create(busy, nil) == nil {
	}
	for i := range 99 {
		l.Create(netip.AddrFrom4([4]byte{172, 16, byte(i), 1}), nil)
	}
	if _, ok := l.buckets[prefixOf(busy)]; !ok {
		t.Error("a prefix at its limit was forgotten while others were full again")
	}
}
