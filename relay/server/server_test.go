package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/mailboxtest"
	"sotto/relay/mailbox/membox"
	"sotto/relay/server"
	"sotto/relay/wire"
)

// relay is a server over pipes.
type relay struct {
	t     *testing.T
	key   key.RelaySecret
	store *membox.Store
	srv   *server.Server
	clock *mailboxtest.Clock
	done  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // the clients' ends
}

func newRelay(t *testing.T, p access.Policy) *relay {
	c := mailboxtest.NewClock()
	r := &relay{t: t, key: key.NewRelay(), store: membox.New(c.Now, 0), clock: c}
	r.srv = server.New(server.Config{Key: r.key, Store: r.store, Slots: r.store, Clock: c.Now, Policy: p})
	t.Cleanup(func() { r.srv.Close(); r.done.Wait() })
	return r
}

func (r *relay) dial(ctx context.Context) (net.Conn, key.RelayPublic, error) {
	a, b := net.Pipe()
	r.done.Add(1)
	go func() { defer r.done.Done(); r.srv.ServeConn(b) }()
	r.mu.Lock()
	r.conns = append(r.conns, a)
	r.mu.Unlock()
	return a, r.key.Public(), nil
}

// cut breaks every connection.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func (r *relay) client() *client.Client {
	c := client.New(client.Config{Relay: r.key.Public(), Dial: r.dial})
	r.t.Cleanup(c.Close)
	return c
}

// caps are a mailbox's keys, generation by generation.
type caps struct {
	admin        key.CapabilitySecret
	id           mailbox.ID
	read, append []key.CapabilitySecret
}

func (c *caps) next() []byte {
	c.read, c.append = append(c.read, key.NewCapability()), append(c.append, key.NewCapability())
	n := len(c.read) - 1
	return c.append[n].Public().Append(c.read[n].Public().Bytes())
}

func create(t *testing.T, c *client.Client) *caps {
	t.Helper()
	k := &caps{admin: key.NewCapability()}
	k.next()
	req := client.CreateRequest{Admin: k.admin, Read: k.read[0].Public(), Append: k.append[0].Public()}
	rand.Read(req.Salt[:])
	h, err := c.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	k.id = req.ID(c.Relay())
	if h.Head.Mailbox != k.id || h.Head.Seq != 0 {
		t.Fatalf("created at %+v", h.Head)
	}
	return k
}

func (k *caps) msg(gen int, text string) mailbox.Deposit {
	return mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Message, Gen: mailbox.Gen(gen), Payload: []byte(text)}
}

func (k *caps) put(t *testing.T, c *client.Client, gen int, text string) *wire.Receipt {
	t.Helper()
	r, err := c.Append(t.Context(), k.append[gen], k.msg(gen, text))
	if err != nil {
		t.Fatalf("append %s: %v", text, err)
	}
	return r
}

func (k *caps) commit(t *testing.T, c *client.Client, expect mailbox.Mark) *wire.Receipt {
	t.Helper()
	gen := len(k.append) - 1
	d := mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Commit, Gen: mailbox.Gen(gen), Expect: expect, Meta: k.next(), Payload: []byte(fmt.Sprint("commit ", gen))}
	r, err := c.Append(t.Context(), k.append[gen], d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func texts(p *client.Page) (out []string) {
	for _, it := range p.Items {
		if it.Entry != nil {
			out = append(out, string(it.Entry.Payload))
		} else {
			out = append(out, "lost")
		}
	}
	return out
}

func TestDepositReadStatus(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	first := k.put(t, c, 0, "one")
	k.put(t, c, 0, "two")
	if again := k.put(t, c, 0, "one"); !again.Again || again.Head.Head != first.Head.Head {
		t.Errorf("a repeat: %+v", again)
	}
	p, err := c.Read(t.Context(), k.read[0], k.id, 0, client.Start(k.id), mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[one two]" || p.More {
		t.Fatalf("read %v, %v", p, err)
	}
	st, err := c.Status(t.Context(), k.read[0], k.id, 0)
	if err != nil || st.Head.Seq != 2 || st.Head.Chain != p.End.Chain || st.Ended {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := c.Trim(t.Context(), k.admin, k.id, 1); err != nil {
		t.Fatal(err)
	}
	p, err = c.Read(t.Context(), k.read[0], k.id, 0, client.Start(k.id), mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[lost two]" {
		t.Errorf("after a trim: %v, %v", texts(p), err)
	}
	if err := c.Delete(t.Context(), k.admin, k.id); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), k.append[0], k.msg(0, "x")); !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("append to a deleted mailbox: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// T17: who held a generation's keys reads up to the commit that ended it, and
// appends nothing; the next generation's keys open the rest.
func TestGenerationsEnd(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	k.put(t, c, 0, "a")
	k.commit(t, c, mailbox.Mark{})
	k.put(t, c, 1, "b")

	removed := r.client()
	p, err := removed.Read(t.Context(), k.read[0], k.id, 0, client.Start(k.id), mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[a commit 0]" {
		t.Fatalf("the old key reads %v, %v", p, err)
	}
	if _, err := removed.Read(t.Context(), k.read[0], k.id, 0, p.End, mailbox.Limit{}); !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("the old key reads on: %v", err)
	}
	st, err := removed.Status(t.Context(), k.read[0], k.id, 0)
	if err != nil || !st.Ended || st.Head.Seq != 2 {
		t.Errorf("the old key learns %+v, %v", st, err)
	}
	if _, err := removed.Append(t.Context(), k.append[0], k.msg(0, "late")); !errors.Is(err, mailbox.ErrStale) {
		t.Errorf("the old key appends: %v", err)
	}
	if _, err := removed.Append(t.Context(), k.append[0], k.msg(1, "late")); !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("the old key passes for the new: %v", err)
	}
	if _, err := removed.Read(t.Context(), k.read[0], k.id, 1, p.End, mailbox.Limit{}); !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("the old key passes for the new: %v", err)
	}
	p, err = c.Read(t.Context(), k.read[1], k.id, 1, p.End, mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[b]" {
		t.Errorf("the new key reads %v, %v", p, err)
	}
}

// T22: what does not exist and what is not one's own are one answer.
func TestUnknownAndUnauthorised(t *testing.T) {
	r := newRelay(t, access.Policy{})
	k := create(t, r.client())
	stranger := r.client()
	other := key.NewCapability()
	for name, id := range map[string]mailbox.ID{"another's": k.id, "none": {1, 2, 3}} {
		_, read := stranger.Read(t.Context(), other, id, 0, client.Start(id), mailbox.Limit{})
		_, app := stranger.Append(t.Context(), other, mailbox.Deposit{Mailbox: id, Kind: mailbox.Message, Payload: []byte("x")})
		_, status := stranger.Status(t.Context(), other, id, 0)
		trim := stranger.Trim(t.Context(), other, id, 1)
		sub := stranger.Subscribe(t.Context(), other, id, 0, client.Start(id), func(*client.Page) error { return nil })
		for _, err := range []error{read, app, status, trim, sub} {
			var we *wire.Error
			if !errors.As(err, &we) || we.Code != wire.CodeDenied || len(we.Detail) != 0 || we.Wait != 0 {
				t.Errorf("%s mailbox: %v, want denied and no more", name, err)
			}
		}
	}
	_, slot := stranger.TakeSlot(t.Context(), other, mailbox.Tag{})
	if !errors.Is(slot, mailbox.ErrNotFound) {
		t.Errorf("an unknown slot: %v", slot)
	}
}

func TestSubscribe(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c, writer := r.client(), r.client()
	k := create(t, writer)
	k.put(t, writer, 0, "before")
	got := make(chan string, 2000)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Subscribe(t.Context(), k.read[0], k.id, 0, client.Start(k.id), func(p *client.Page) error {
			for _, s := range texts(p) {
				got <- s
			}
			return nil
		})
	}()
	want := func(s string) {
		t.Helper()
		if g := <-got; g != s {
			t.Fatalf("got %s, want %s", g, s)
		}
	}
	want("before")
	k.put(t, writer, 0, "live")
	want("live")
	// More than there is credit for at once.
	for i := range 300 {
		k.put(t, writer, 0, fmt.Sprint(i))
	}
	for i := range 300 {
		want(fmt.Sprint(i))
	}
	// The connection breaks: it goes on behind what it had.
	r.cut()
	k.put(t, r.client(), 0, "meanwhile")
	want("meanwhile")
	k.commit(t, r.client(), mailbox.Mark{})
	want("commit 0")
	if err := <-ended; err != nil {
		t.Errorf("the generation ended with %v", err)
	}
	if err := c.Subscribe(t.Context(), k.read[0], k.id, 0, client.Place{At: mailbox.Mark{Era: 1, Seq: 1}}, nil); !errors.Is(err, mailbox.ErrEra) {
		t.Errorf("a place of another era: %v", err)
	}
	stop := errors.New("stop")
	err := c.Subscribe(t.Context(), k.read[1], k.id, 1, client.Start(k.id), func(p *client.Page) error { return stop })
	if err != stop {
		t.Errorf("the taker's error: %v", err)
	}
}

// Without credit nothing is sent, and a slow reader is only behind.
func TestCredit(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	for i := range 10 {
		k.put(t, c, 0, fmt.Sprint(i))
	}
	raw := r.raw(t)
	raw.prove(t, k.read[0], wire.Claim{Role: wire.RoleRead, Object: k.id})
	raw.write(wire.TSubscribe, 9, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: k.id}}})
	if fr := raw.read(t); fr.Type != wire.TOK || fr.Body[0] != wire.SubscribeOK {
		t.Fatalf("subscribe: %+v", fr)
	}
	raw.write(wire.TPing, 10, &wire.Ping{})
	if fr := raw.read(t); fr.Type != wire.TOK || fr.ID != 10 {
		t.Fatalf("without credit came %+v", fr)
	}
	raw.write(wire.TCredit, 0, &wire.Credit{Frames: 1, Bytes: 1})
	var e wire.Event
	if fr := raw.read(t); fr.Type != wire.TEvent || fr.ID != 9 || wire.Decode(fr.Body, &e) != nil || len(e.Page.Entries) != 1 {
		t.Fatalf("with credit for one byte came %+v", fr)
	}
	raw.write(wire.TCredit, 0, &wire.Credit{Frames: 1, Bytes: 1 << 20})
	if fr := raw.read(t); fr.Type != wire.TEvent || wire.Decode(fr.Body, &e) != nil || len(e.Page.Entries) != 9 {
		t.Fatalf("with credit for everything came %d entries", len(e.Page.Entries))
	}
}

func TestSlots(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	owner, read := key.NewCapability(), key.NewCapability()
	expires := mailbox.MinuteOf(r.clock.Now()) + 60
	for range 2 {
		if err := c.CreateSlot(t.Context(), owner, read, true, expires, []byte("value"), nil); err != nil {
			t.Fatal(err)
		}
	}
	taker := r.client()
	for range 2 {
		if v, err := taker.TakeSlot(t.Context(), read, mailbox.Tag{1}); err != nil || string(v) != "value" {
			t.Fatalf("take: %s, %v", v, err)
		}
	}
	_, err := r.client().TakeSlot(t.Context(), read, mailbox.Tag{2})
	var we *wire.Error
	if !errors.Is(err, mailbox.ErrGone) || !errors.As(err, &we) || we.Gone() != mailbox.SlotTaken {
		t.Errorf("a second taker: %v", err)
	}
	if st, err := r.client().SlotState(t.Context(), owner, read.Public()); err != nil || st.Taken == 0 || st.Expires != expires {
		t.Errorf("the owner sees %+v, %v", st, err)
	}
	if err := r.client().RevokeSlot(t.Context(), owner, read.Public()); err != nil {
		t.Error(err)
	}
	_, err = taker.TakeSlot(t.Context(), read, mailbox.Tag{1})
	if !errors.As(err, &we) || we.Gone() != mailbox.SlotRevoked {
		t.Errorf("after revoking: %v", err)
	}
	if _, err := r.client().SlotState(t.Context(), read, read.Public()); !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("the reader passes for the owner: %v", err)
	}
}

func TestCreationIsBounded(t *testing.T) {
	tickets := access.NewTickets(bytes.Repeat([]byte{7}, 32))
	r := newRelay(t, access.Policy{Tickets: tickets, PerMinute: 1, Burst: 2})
	try := func(ticket []byte) error {
		admin := key.NewCapability()
		_, err := r.client().Create(t.Context(), client.CreateRequest{Admin: admin, Read: admin.Public(), Append: admin.Public(), Ticket: ticket})
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		var we *wire.Error
		if !errors.As(err, &we) || we.Code != wire.CodeRefused {
			t.Errorf("%s: %v, want refused", what, err)
		}
	}
	for range 2 {
		if err := try(nil); err != nil {
			t.Fatal(err)
		}
	}
	refused("one too many", try(nil))
	now := mailbox.MinuteOf(r.clock.Now())
	good := tickets.Issue(now + 10)
	if err := try(good); err != nil {
		t.Errorf("with a ticket: %v", err)
	}
	refused("a ticket of another relay", try(access.NewTickets(make([]byte, 32)).Issue(now+10)))
	bad := bytes.Clone(good)
	bad[4]++
	refused("a ticket that was made to last longer", try(bad))
	refused("half a ticket", try(good[:9]))
	r.clock.Advance(10)
	refused("an old ticket", try(good))
	if err := try(nil); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

// raw speaks to a server frame by frame.
type raw struct {
	conn net.Conn
	in   *bufio.Reader
	id   wire.Session
	err  error
}

func (r *relay) raw(t *testing.T) *raw {
	t.Helper()
	conn, k, _ := r.dial(t.Context())
	w := &raw{conn: conn, in: bufio.NewReader(conn)}
	t.Cleanup(func() { conn.Close() })
	h := wire.ClientHello{MinVersion: 1, MaxVersion: 1, Nonce: wire.Nonce{1}}
	w.write(wire.THello, 0, &h)
	var rh wire.RelayHello
	if fr := w.read(t); wire.Decode(fr.Body, &rh) != nil {
		t.Fatalf("hello: %+v", fr)
	}
	w.id = wire.Session{Relay: k, RelayNonce: rh.Nonce, ClientNonce: h.Nonce}
	return w
}

func (w *raw) write(t wire.Type, id uint32, m wire.Message) {
	_, w.err = w.conn.Write(wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil))
}

func (w *raw) read(t *testing.T) wire.Frame {
	t.Helper()
	fr, err := wire.ReadFrame(w.in)
	if err != nil {
		t.Fatalf("the relay is gone: %v (after writing: %v)", err, w.err)
	}
	return fr
}

func (w *raw) prove(t *testing.T, k key.CapabilitySecret, c wire.Claim) {
	t.Helper()
	w.write(wire.TProve, 7, &wire.Prove{Proofs: []wire.Proof{w.id.Prove(k, c)}})
	if fr := w.read(t); fr.Type != wire.TOK || len(fr.Body) != 1 || fr.Body[0] != 1 {
		t.Fatalf("prove: %+v", fr)
	}
}

// T20: a proof is good in its session alone.
func TestProofsAreNotReplayed(t *testing.T) {
	r := newRelay(t, access.Policy{})
	k := create(t, r.client())
	claim := wire.Claim{Role: wire.RoleRead, Object: k.id}
	one, two := r.raw(t), r.raw(t)
	proof := one.id.Prove(k.read[0], claim)
	other := newRelay(t, access.Policy{})
	elsewhere := other.raw(t)
	for name, w := range map[string]*raw{"another session": two, "another relay": elsewhere} {
		w.write(wire.TProve, 1, &wire.Prove{Proofs: []wire.Proof{proof}})
		if fr := w.read(t); fr.Type != wire.TOK || fr.Body[0] != 0 {
			t.Errorf("in %s it was accepted: %+v", name, fr)
		}
	}
	wrong := []wire.Proof{one.id.Prove(k.append[0], claim), one.id.Prove(k.read[0], wire.Claim{Role: wire.RoleAppend, Object: k.id}),
		one.id.Prove(k.read[0], wire.Claim{Role: wire.RoleRead, Object: k.id, Gen: 1}), one.id.Prove(k.admin, wire.Claim{Role: wire.RoleAdmin, Object: k.id, Gen: 1}), proof}
	one.write(wire.TProve, 1, &wire.Prove{Proofs: wrong})
	if fr := one.read(t); string(fr.Body) != "\x00\x00\x00\x00\x01" {
		t.Errorf("proofs were answered %x", fr.Body)
	}
}

// A hostile client gets an answer or loses its session; the relay goes on.
func TestHostileClient(t *testing.T) {
	r := newRelay(t, access.Policy{})
	k := create(t, r.client())
	for name, b := range map[string][]byte{
		"a length of 0":              {0},
		"a length over the limit":    {0xff, 0xff, 0x7f},
		"a length without end":       {0xff, 0xff, 0xff, 0xff},
		"a length not the shortest":  {0x85, 0x00, 1, 2, 3, 4, 5},
		"a second hello":             wire.Frame{Type: wire.THello}.Append(nil),
		"half a frame, then nothing": {200, 1, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := r.raw(t)
			w.conn.SetDeadline(time.Now().Add(10 * time.Second))
			w.conn.Write(b)
			if name == "half a frame, then nothing" {
				w.conn.Close()
				return
			}
			for {
				if _, err := wire.ReadFrame(w.in); err != nil {
					if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
						return
					}
					t.Fatalf("the session did not end: %v", err)
				}
			}
		})
	}
	for typ := range 256 {
		if wire.Type(typ) == wire.THello {
			continue
		}
		w := r.raw(t)
		w.conn.SetDeadline(time.Now().Add(10 * time.Second))
		w.conn.Write(wire.Frame{Type: wire.Type(typ), ID: 5, Body: []byte{1, 2, 3}}.Append(nil))
		fr := w.read(t)
		if wire.Type(typ) == wire.TPing {
			continue
		}
		var we wire.Error
		if fr.Type != wire.TError || fr.ID != 5 || wire.Decode(fr.Body, &we) != nil || we.Code != wire.CodeMalformed {
			t.Errorf("type %#x with rubbish was answered %+v", typ, fr)
		}
		w.conn.Close()
	}
	// A commit whose meta is no pair of keys would make the mailbox unusable.
	w := r.raw(t)
	w.prove(t, k.append[0], wire.Claim{Role: wire.RoleAppend, Object: k.id})
	w.write(wire.TAppend, 3, &wire.Append{Mailbox: k.id, Kind: mailbox.Commit, Meta: []byte("short"), Payload: []byte("x")})
	var we wire.Error
	if fr := w.read(t); wire.Decode(fr.Body, &we) != nil || we.Code != wire.CodeMalformed {
		t.Errorf("a commit with rubbish for keys: %+v", fr)
	}
	c := r.client()
	k.put(t, c, 0, "the relay goes on")
}

// Requests of many goroutines share one stream, and those of one keep their order.
func TestPipelining(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			last := mailbox.Seq(0)
			for j := range 20 {
				rc, err := c.Append(t.Context(), k.append[0], k.msg(0, fmt.Sprint(i, ".", j)))
				if err != nil || rc.Head.Head.Seq <= last {
					t.Errorf("%d.%d: %+v, %v", i, j, rc, err)
					return
				}
				last = rc.Head.Head.Seq
			}
		}()
	}
	wg.Wait()
	if n := r.srv.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// Pages fit into frames whatever the entries' sizes.
func TestBigPages(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	for i := range 6 {
		d := k.msg(0, "")
		d.Payload = bytes.Repeat([]byte{byte(i)}, 150<<10+i*20<<10)
		if _, err := c.Append(t.Context(), k.append[0], d); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for at := client.Start(k.id); ; {
		p, err := c.Read(t.Context(), k.read[0], k.id, 0, at, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.Items)
		if at = p.End; !p.More {
			break
		}
	}
	if n != 6 {
		t.Errorf("read %d entries", n)
	}
}

func TestGoodbye(t *testing.T) {
	r := newRelay(t, access.Policy{})
	w := r.raw(t)
	go r.srv.Close()
	var g wire.GoAway
	if fr := w.read(t); fr.Type != wire.TGoAway || wire.Decode(fr.Body, &g) != nil || g.Reason != wire.GoStopping {
		t.Errorf("a stopping relay says %+v", fr)
	}
}
