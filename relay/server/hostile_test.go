package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
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

// engine is a store of mailboxes and slots.
type engine interface {
	mailbox.Store
	mailbox.Slots
}

// tampered is a store that a test interferes with.
type tampered struct {
	engine
	mu         sync.Mutex
	gate       chan struct{} // if not nil, Put and State wait for it
	afterState func(mailbox.ID)
	readErr    error  // of the next Read
	afterRead  func() // of the next Read
}

func (s *tampered) set(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }

func (s *tampered) wait() {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

func (s *tampered) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	s.wait()
	return s.engine.Put(ctx, ds)
}

func (s *tampered) State(ctx context.Context, id mailbox.ID) (mailbox.State, error) {
	s.wait()
	st, err := s.engine.State(ctx, id)
	s.mu.Lock()
	after := s.afterState
	s.afterState = nil
	s.mu.Unlock()
	if after != nil {
		after(id)
	}
	return st, err
}

func (s *tampered) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, l mailbox.Limit) (mailbox.Page, error) {
	s.mu.Lock()
	err, done := s.readErr, s.afterRead
	s.readErr, s.afterRead = nil, nil
	s.mu.Unlock()
	if err != nil {
		return mailbox.Page{}, err
	}
	p, err := s.engine.Read(ctx, id, after, l)
	if done != nil {
		done()
	}
	return p, err
}

// tamper makes a relay whose store can be interfered with.
func tamper(t *testing.T, change func(*server.Config)) (*relay, *tampered) {
	r := newRelay(t, access.Policy{})
	return r, tamperWith(t, r, r.store, change)
}

func tamperWith(t *testing.T, r *relay, e engine, change func(*server.Config)) *tampered {
	s := &tampered{engine: e}
	cfg := server.Config{Key: r.key, Store: s, Slots: s, Clock: r.clock.Now}
	if change != nil {
		change(&cfg)
	}
	r.srv = server.New(cfg)
	t.Cleanup(r.srv.Close)
	return s
}

func readAll(t *testing.T, c *client.Client, k *caps, gen int) (items []client.Item) {
	t.Helper()
	for at := client.Start(k.id); ; {
		p, err := c.Read(t.Context(), k.read[gen], k.id, mailbox.Gen(gen), at, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, p.Items...)
		if at = p.End; !p.More {
			return items
		}
	}
}

// Commits outlive messages, so that a mailbox can be made to hold more spans than a
// page may name.
func TestMoreSpansThanAPageHolds(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	const n = 700
	var fence mailbox.Mark
	for i := range n {
		k.put(t, c, 0, fmt.Sprint("message ", i))
		d := mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Commit, Expect: fence, Payload: []byte(fmt.Sprint("commit ", i))}
		rc, err := c.Append(t.Context(), k.append[0], d)
		if err != nil {
			t.Fatal(err)
		}
		fence = rc.Head.Head.Mark()
	}
	r.clock.Advance(31 * 24 * 60)
	check := func(how string, items []client.Item) {
		commits, lost := 0, 0
		for _, it := range items {
			if it.Entry != nil {
				commits++
			} else {
				lost++
			}
		}
		if commits != n || lost != n {
			t.Errorf("%s: %d commits and %d spans, want %d of each", how, commits, lost, n)
		}
	}
	check("read", readAll(t, c, k, 0))
	var items []client.Item
	enough := errors.New("enough")
	err := c.Subscribe(t.Context(), k.read[0], k.id, 0, client.Start(k.id), func(p *client.Page) error {
		if items = append(items, p.Items...); len(items) >= 2*n {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatal(err)
	}
	check("subscribed", items)
}

// T17: a commit and a message that come while an old key reads do not slip
// through.
func TestGenerationEndsWhileItIsRead(t *testing.T) {
	r, s := tamper(t, nil)
	c := r.client()
	k := create(t, c)
	k.put(t, c, 0, "a")
	next := k.next()
	s.set(func() {
		s.afterState = func(id mailbox.ID) {
			for _, o := range s.engine.Put(t.Context(), []mailbox.Deposit{
				{Mailbox: id, Kind: mailbox.Commit, Meta: next, Payload: []byte("commit")},
				{Mailbox: id, Kind: mailbox.Message, Gen: 1, Payload: []byte("not for the old key")},
			}) {
				if o.Err != nil {
					t.Error(o.Err)
				}
			}
		}
	})
	p, err := c.Read(t.Context(), k.read[0], k.id, 0, client.Start(k.id), mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[a]" {
		t.Fatalf("while it ends the old key reads %v, %v", p, err)
	}
	p, err = c.Read(t.Context(), k.read[0], k.id, 0, p.End, mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(p)) != "[commit]" || p.More {
		t.Errorf("after that it reads %v, %v", p, err)
	}
}

// A subscriber follows a mailbox through many generations, each begun as soon as the
// one before has ended, and misses nothing.
func TestFollowingGenerations(t *testing.T) {
	r := newRelay(t, access.Policy{})
	writer, reader := r.client(), r.client()
	k := create(t, writer)
	const n = 60
	for range n {
		k.next()
	}
	done := make(chan []string, 1)
	go func() {
		var got []string
		at := client.Start(k.id)
		for gen := range n {
			err := reader.Subscribe(t.Context(), k.read[gen], k.id, mailbox.Gen(gen), at, func(p *client.Page) error {
				got, at = append(got, texts(p)...), p.End
				return nil
			})
			for errors.Is(err, mailbox.ErrNotFound) { // it has heard of the commit before the relay has answered it
				err = reader.Subscribe(t.Context(), k.read[gen], k.id, mailbox.Gen(gen), at, func(p *client.Page) error {
					got, at = append(got, texts(p)...), p.End
					return nil
				})
			}
			if err != nil {
				t.Errorf("generation %d: %v", gen, err)
				break
			}
		}
		done <- got
	}()
	var fence mailbox.Mark
	var want []string
	for gen := range n {
		text := fmt.Sprint("in ", gen)
		k.put(t, writer, gen, text)
		d := mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Commit, Gen: mailbox.Gen(gen), Expect: fence, Payload: []byte(fmt.Sprint("ends ", gen)),
			Meta: k.append[gen+1].Public().Append(k.read[gen+1].Public().Bytes())}
		rc, err := writer.Append(t.Context(), k.append[gen], d)
		if err != nil {
			t.Fatal(err)
		}
		fence = rc.Head.Head.Mark()
		want = append(want, text, string(d.Payload))
	}
	if got := <-done; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v", got)
	}
}

// Where an old generation ended is found in whatever era that was.
func TestStatusOfAnOldGenerationAcrossEras(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	k.put(t, c, 0, "a")
	end := k.commit(t, c, mailbox.Mark{})
	ask := func(when string) {
		t.Helper()
		st, err := r.client().Status(t.Context(), k.read[0], k.id, 0)
		if err != nil || !st.Ended || st.Head != end.Head.Head || st.Gen != 0 {
			t.Errorf("%s: %+v, %v; want %+v", when, st, err, end.Head.Head)
		}
	}
	ask("in the same era")
	r.store.RenewEra()
	k.put(t, c, 1, "b")
	ask("in another era")
}

// The admin key is good for as long as the mailbox is, also when nothing of
// generation 0 is left.
func TestAdminOutlivesItsGeneration(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	k.commit(t, c, mailbox.Mark{})
	r.clock.Advance(mailbox.CommitMinutes + 1)
	k.put(t, c, 1, "later")
	if _, err := r.store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Generation(t.Context(), k.id, 0); !errors.Is(err, mailbox.ErrNotFound) {
		t.Fatalf("generation 0 is still there: %v", err)
	}
	if err := r.client().Delete(t.Context(), k.admin, k.id); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// A subscriber of a mailbox that goes away is told.
func TestSubscriptionOfADeletedMailbox(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c, owner := r.client(), r.client()
	k := create(t, owner)
	k.put(t, owner, 0, "a")
	got := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- c.Subscribe(t.Context(), k.read[0], k.id, 0, client.Start(k.id), func(*client.Page) error { close(got); return nil })
	}()
	<-got
	if err := owner.Delete(t.Context(), k.admin, k.id); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, mailbox.ErrNotFound) {
		t.Errorf("the subscription ended with %v", err)
	}
}

// A store that fails for a moment costs a subscriber its session, and nothing that
// was sent meanwhile.
func TestSubscriptionSurvivesAFailingStore(t *testing.T) {
	r, s := tamper(t, nil)
	c, writer := r.client(), r.client()
	k := create(t, writer)
	k.put(t, writer, 0, "a")
	got := make(chan string)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Subscribe(ctx, k.read[0], k.id, 0, client.Start(k.id), func(p *client.Page) error {
			for _, text := range texts(p) {
				got <- text
			}
			return nil
		})
	}()
	if g := <-got; g != "a" {
		t.Fatalf("got %s", g)
	}
	s.set(func() { s.readErr = mailbox.ErrUnknown })
	k.put(t, writer, 0, "b")
	if g := <-got; g != "b" {
		t.Fatalf("got %s", g)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A second subscription of one mailbox is refused, and the first goes on.
func TestSubscribingTwice(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	k.put(t, c, 0, "a")
	got := make(chan string)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Subscribe(ctx, k.read[0], k.id, 0, client.Start(k.id), func(p *client.Page) error {
			for _, text := range texts(p) {
				got <- text
			}
			return nil
		})
	}()
	<-got
	if err := c.Subscribe(t.Context(), k.read[0], k.id, 0, client.Start(k.id), nil); !errors.Is(err, client.ErrSubscribed) {
		t.Errorf("a second subscription: %v", err)
	}
	k.put(t, c, 0, "b")
	if g := <-got; g != "b" {
		t.Errorf("got %s", g)
	}
	stop()
	<-ended
}

func TestTermsBeyondTheRelays(t *testing.T) {
	r := newRelay(t, access.Policy{})
	for name, terms := range map[string]mailbox.Terms{
		"entries": {MaxEntries: 100_001}, "bytes": {MaxBytes: 1 << 40}, "time": {Keep: mailbox.MaxMinutes + 1}, "rule": {Full: 9},
	} {
		admin := key.NewCapability()
		_, err := r.client().Create(t.Context(), client.CreateRequest{Admin: admin, Read: admin.Public(), Append: admin.Public(), Terms: terms})
		if !errors.Is(err, mailbox.ErrTerms) {
			t.Errorf("too much %s: %v", name, err)
		}
	}
}

// More requests at once than are allowed are refused, the allowed ones are not, and
// the relay does not read more than it may hold.
func TestTooManyRequests(t *testing.T) {
	r, s := tamper(t, nil)
	k := create(t, r.client())
	w := r.raw(t)
	w.prove(t, k.read[0], wire.Claim{Role: wire.RoleRead, Object: k.id})
	gate := make(chan struct{})
	s.set(func() { s.gate = gate })
	const n = 200
	go func() {
		for i := range n {
			w.write(wire.TStatus, uint32(100+i), &wire.StatusRequest{Mailbox: k.id})
		}
	}()
	var ok, busy int
	for range n {
		fr := w.read(t)
		var e wire.Error
		switch {
		case fr.Type == wire.TOK:
			ok++
		case wire.Decode(fr.Body, &e) == nil && e.Code == wire.CodeBusy && e.Wait > 0:
			if busy++; busy == n-2*wire.MaxInFlight {
				close(gate)
			}
		default:
			t.Fatalf("answered %+v", fr)
		}
	}
	if ok != 2*wire.MaxInFlight {
		t.Errorf("%d requests were carried out", ok)
	}
}

func bigAppend(k *caps, n byte) *wire.Append {
	return &wire.Append{Mailbox: k.id, Kind: mailbox.Message, Payload: bytes.Repeat([]byte{n}, mailbox.MaxPayload)}
}

// A session that has sent as much as it may is not read from until some of it is
// stored; nothing of it is lost.
func TestBigAppendsArePacedNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := tamper(t, nil)
		k := create(t, r.client())
		w := r.raw(t)
		w.prove(t, k.append[0], wire.Claim{Role: wire.RoleAppend, Object: k.id})
		gate := make(chan struct{})
		s.set(func() { s.gate = gate })
		sent := make(chan int, 100)
		const n = 30
		go func() {
			for i := range n {
				w.write(wire.TAppend, uint32(100+i), bigAppend(k, byte(i)))
				sent <- i
			}
		}()
		synctest.Wait()
		if got := len(sent); got < 4<<20/(mailbox.MaxPayload+200) || got > 18 {
			t.Errorf("%d appends of 256 KiB were taken before any was stored", got)
		}
		close(gate)
		for range n {
			if fr := w.read(t); fr.Type != wire.TOK {
				t.Fatalf("answered %+v", fr)
			}
		}
	})
}

// All sessions together hold no more than the relay's memory for it.
func TestAllSessionsTogether(t *testing.T) {
	r, s := tamper(t, func(c *server.Config) { c.Bytes = 1 << 20 })
	k := create(t, r.client())
	var ws []*raw
	for range 6 {
		w := r.raw(t)
		w.prove(t, k.append[0], wire.Claim{Role: wire.RoleAppend, Object: k.id})
		ws = append(ws, w)
	}
	gate := make(chan struct{})
	s.set(func() { s.gate = gate })
	for i, w := range ws[:3] { // three fit
		w.write(wire.TAppend, 1, bigAppend(k, byte(i)))
		w.write(wire.TPing, 2, &wire.Ping{})
		if fr := w.read(t); fr.ID != 2 {
			t.Fatalf("answered %+v", fr)
		}
	}
	for i, w := range ws[3:] {
		w.write(wire.TAppend, 1, bigAppend(k, byte(i)))
		var e wire.Error
		if fr := w.read(t); wire.Decode(fr.Body, &e) != nil || e.Code != wire.CodeBusy {
			t.Errorf("one too many was answered %+v", fr)
		}
	}
	close(gate)
	for _, w := range ws[:3] {
		if fr := w.read(t); fr.Type != wire.TOK || fr.ID != 1 {
			t.Errorf("answered %+v", fr)
		}
	}
}

// A relay that stops carries out and answers what it has begun.
func TestDrain(t *testing.T) {
	r, s := tamper(t, nil)
	k := create(t, r.client())
	w := r.raw(t)
	w.prove(t, k.append[0], wire.Claim{Role: wire.RoleAppend, Object: k.id})
	gate := make(chan struct{})
	s.set(func() { s.gate = gate })
	for i := range 5 {
		w.write(wire.TAppend, uint32(10+i), &wire.Append{Mailbox: k.id, Kind: mailbox.Message, Payload: []byte{byte(i)}})
	}
	w.write(wire.TPing, 2, &wire.Ping{})
	if fr := w.read(t); fr.ID != 2 {
		t.Fatalf("answered %+v", fr)
	}
	closed := make(chan struct{})
	go func() { r.srv.Close(); close(closed) }()
	close(gate)
	for i := range 5 {
		if fr := w.read(t); fr.Type != wire.TOK || fr.ID != uint32(10+i) {
			t.Errorf("append %d was answered %+v", i, fr)
		}
	}
	if fr := w.read(t); fr.Type != wire.TGoAway {
		t.Errorf("then came %+v", fr)
	}
	<-closed
	if conn, _, _ := r.dial(t.Context()); conn != nil {
		if _, err := wire.ReadFrame(&byteReader{conn}); err == nil {
			t.Error("a closed server serves")
		}
	}
}

// byteReader reads byte by byte, so that nothing is buffered.
type byteReader struct{ net.Conn }

func (b *byteReader) ReadByte() (byte, error) {
	var one [1]byte
	_, err := io.ReadFull(b, one[:])
	return one[0], err
}

// What a client does not do in time.
func TestPatience(t *testing.T) {
	ends := func(t *testing.T, in wire.FrameReader, after time.Duration) (last wire.Frame) {
		t.Helper()
		start := time.Now()
		for {
			fr, err := wire.ReadFrame(in)
			if err != nil {
				break
			}
			last = fr
		}
		if took := time.Since(start); took < after-2*time.Second || took > after+2*time.Second {
			t.Errorf("the session ended after %v, want %v", took, after)
		}
		return last
	}
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRelay(t, access.Policy{}).raw(t)
			fr := ends(t, w.in, 5*time.Minute)
			var g wire.GoAway
			if fr.Type != wire.TGoAway || wire.Decode(fr.Body, &g) != nil || g.Reason != wire.GoIdle {
				t.Errorf("the last frame is %+v", fr)
			}
		})
	})
	t.Run("no hello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, _, _ := newRelay(t, access.Policy{}).dial(t.Context())
			ends(t, &byteReader{conn}, 10*time.Second)
		})
	})
	t.Run("half a frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRelay(t, access.Policy{}).raw(t)
			w.conn.Write([]byte{200, 1, 2, 3})
			ends(t, w.in, time.Minute)
		})
	})
	t.Run("not reading", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRelay(t, access.Policy{})
			c := r.client()
			k := create(t, c)
			k.put(t, c, 0, "a")
			w := r.raw(t)
			w.prove(t, k.read[0], wire.Claim{Role: wire.RoleRead, Object: k.id})
			w.write(wire.TCredit, 0, &wire.Credit{Frames: 100, Bytes: 1 << 20})
			w.write(wire.TSubscribe, 1, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: k.id}}})
			if fr := w.read(t); fr.ID != 1 {
				t.Fatalf("answered %+v", fr)
			}
			// The relay now sends an event that nobody takes.
			time.Sleep(31 * time.Second)
			synctest.Wait()
			if n := r.srv.Sessions(); n != 1 {
				t.Errorf("%d sessions, want only the other", n)
			}
		})
	})
}

func TestTooManySessions(t *testing.T) {
	r, _ := tamper(t, func(c *server.Config) { c.Sessions = 2 })
	r.raw(t)
	r.raw(t)
	conn, _, _ := r.dial(t.Context())
	var g wire.GoAway
	fr, err := wire.ReadFrame(&byteReader{conn})
	if err != nil || fr.Type != wire.TGoAway || wire.Decode(fr.Body, &g) != nil || g.Reason != wire.GoTooMany {
		t.Errorf("a session too many gets %+v, %v", fr, err)
	}
}

// FuzzSession sends a relay anything after Hello: it ends the session at the latest
// when the client hangs up, and nothing else happens.
func FuzzSession(f *testing.F) {
	admin := key.CapabilityFromSeed(bytes.Repeat([]byte{1}, 32))
	relayKey := key.RelayFromSeed(bytes.Repeat([]byte{2}, 32))
	id := wire.MailboxID(relayKey.Public(), admin.Public(), [16]byte{})
	frame := func(t wire.Type, m wire.Message) []byte {
		return wire.Frame{Type: t, ID: 1, Body: wire.Encode(m)}.Append(nil)
	}
	f.Add(frame(wire.TPing, &wire.Ping{Data: []byte("x")}))
	f.Add(frame(wire.TAppend, &wire.Append{Mailbox: id, Kind: mailbox.Commit, Payload: []byte("x")}))
	f.Add(append(frame(wire.TCredit, &wire.Credit{Frames: 1 << 31, Bytes: 1 << 31}), frame(wire.TSubscribe, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: id}}})...))
	f.Add(frame(wire.TProve, &wire.Prove{Proofs: make([]wire.Proof, 3)}))
	f.Add(frame(wire.TRead, &wire.Read{Cursor: wire.Cursor{Mailbox: id}, MaxEntries: 1 << 31, MaxBytes: 1 << 31}))
	f.Add(frame(wire.TStatus, &wire.StatusRequest{Mailbox: id}))
	f.Add(frame(wire.TSlotTake, &wire.SlotTake{}))
	store := membox.New(nil, 0)
	srv := server.New(server.Config{Key: relayKey, Store: store, Slots: store})
	f.Cleanup(srv.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { srv.ServeConn(there); close(done) }()
		go io.Copy(io.Discard, here)
		here.Write(wire.Frame{Type: wire.THello, Body: wire.Encode(&wire.ClientHello{MinVersion: 1, MaxVersion: 1})}.Append(nil))
		here.Write(b)
		here.Close()
		<-done
	})
}

// FuzzMember sends a relay anything in a session that has shown every capability of a
// mailbox and a slot: the session ends with the stream, and the mailbox can still be
// read, if it is still there.
func FuzzMember(f *testing.F) {
	relayKey := key.RelayFromSeed(bytes.Repeat([]byte{2}, 32))
	admin, read, app := key.CapabilityFromSeed(bytes.Repeat([]byte{1}, 32)), key.CapabilityFromSeed(bytes.Repeat([]byte{3}, 32)), key.CapabilityFromSeed(bytes.Repeat([]byte{4}, 32))
	id := wire.MailboxID(relayKey.Public(), admin.Public(), [16]byte{})
	slot := wire.SlotID(relayKey.Public(), read.Public())
	frame := func(t wire.Type, m wire.Message) []byte {
		return wire.Frame{Type: t, ID: 1, Body: wire.Encode(m)}.Append(nil)
	}
	caps := append(read.Public().Bytes(), app.Public().Bytes()...)
	credit := frame(wire.TCredit, &wire.Credit{Frames: 100, Bytes: 1 << 20})
	for _, gen := range []mailbox.Gen{0, 1} {
		cursor := wire.Cursor{Mailbox: id, Gen: gen, After: mailbox.Mark{Era: 7, Seq: 1}}
		f.Add(frame(wire.TAppend, &wire.Append{Mailbox: id, Gen: gen, Kind: mailbox.Message, Payload: []byte("x")}))
		f.Add(frame(wire.TAppend, &wire.Append{Mailbox: id, Gen: gen, Kind: mailbox.Commit, Expect: mailbox.Mark{Era: 7, Seq: 2}, Meta: caps, Payload: []byte("x")}))
		f.Add(frame(wire.TRead, &wire.Read{Cursor: cursor, MaxEntries: 1 << 31, MaxBytes: 1}))
		f.Add(frame(wire.TStatus, &wire.StatusRequest{Mailbox: id, Gen: gen}))
		f.Add(append(frame(wire.TSubscribe, &wire.Subscribe{Cursors: []wire.Cursor{cursor, {Mailbox: id, Gen: gen}}}), credit...))
		f.Add(append(credit, append(frame(wire.TSubscribe, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: id, Gen: gen}}}), frame(wire.TUnsubscribe, &wire.Object{ID: id})...)...))
	}
	f.Add(frame(wire.TTrim, &wire.Trim{Mailbox: id, Through: 1 << 63}))
	f.Add(frame(wire.TDelete, &wire.Object{ID: id}))
	f.Add(frame(wire.TSlotRead, &wire.Object{ID: slot}))
	f.Add(frame(wire.TSlotTake, &wire.SlotTake{Slot: slot, Tag: mailbox.Tag{1}}))
	f.Add(frame(wire.TSlotSet, &wire.SlotSet{Slot: slot, Version: 1, Value: []byte("y")}))
	f.Add(frame(wire.TSlotRevoke, &wire.Object{ID: slot}))
	f.Add(frame(wire.TSlotState, &wire.Object{ID: slot}))
	f.Fuzz(func(t *testing.T, b []byte) {
		clock := mailboxtest.NewClock()
		store := membox.New(clock.Now, 7)
		create := wire.Create{Admin: admin.Public(), Read: read.Public(), Append: app.Public()}
		terms := mailbox.Terms{Keep: 100, MaxEntries: 5, MaxBytes: mailbox.MaxPayload, Full: mailbox.DropOldest, Meta: create.Caps()}
		if err := store.Create(t.Context(), id, terms); err != nil {
			t.Fatal(err)
		}
		store.Put(t.Context(), []mailbox.Deposit{
			{Mailbox: id, Kind: mailbox.Message, Payload: []byte("a")},
			{Mailbox: id, Kind: mailbox.Commit, Meta: caps, Payload: []byte("c")},
			{Mailbox: id, Kind: mailbox.Message, Gen: 1, Payload: []byte("b")},
		})
		store.CreateSlot(t.Context(), slot, mailbox.Slot{Owner: [32]byte(admin.Public().Bytes()), Read: [32]byte(read.Public().Bytes()),
			Expires: mailbox.MinuteOf(clock.Now()) + 60, Value: []byte("v")})
		srv := server.New(server.Config{Key: relayKey, Store: store, Slots: store, Clock: clock.Now})
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { srv.ServeConn(there); close(done) }()
		hello := wire.ClientHello{MinVersion: 1, MaxVersion: 1}
		here.Write(frame(wire.THello, &hello))
		in := bufio.NewReader(here)
		var h wire.RelayHello
		if fr, err := wire.ReadFrame(in); err != nil || wire.Decode(fr.Body, &h) != nil {
			t.Fatal("no Hello")
		}
		s := wire.Session{Relay: relayKey.Public(), RelayNonce: h.Nonce}
		prove := wire.Prove{Proofs: []wire.Proof{
			s.Prove(admin, wire.Claim{Role: wire.RoleAdmin, Object: id}), s.Prove(admin, wire.Claim{Role: wire.RoleSlotOwner, Object: slot}), s.Prove(read, wire.Claim{Role: wire.RoleSlotRead, Object: slot}),
			s.Prove(read, wire.Claim{Role: wire.RoleRead, Object: id}), s.Prove(read, wire.Claim{Role: wire.RoleRead, Object: id, Gen: 1}),
			s.Prove(app, wire.Claim{Role: wire.RoleAppend, Object: id}), s.Prove(app, wire.Claim{Role: wire.RoleAppend, Object: id, Gen: 1}),
		}}
		here.Write(frame(wire.TProve, &prove))
		if fr, err := wire.ReadFrame(in); err != nil || string(fr.Body) != "\x01\x01\x01\x01\x01\x01\x01" {
			t.Fatalf("proofs were answered %x, %v", fr.Body, err)
		}
		drained := make(chan struct{})
		go func() { io.Copy(io.Discard, in); close(drained) }()
		here.Write(b)
		here.Close()
		<-done
		<-drained
		srv.Close()
		for after := (mailbox.Mark{}); ; {
			p, err := store.Read(t.Context(), id, after, mailbox.Limit{})
			if err != nil && !errors.Is(err, mailbox.ErrNotFound) {
				t.Fatal(err)
			}
			if after = p.End.Mark(); !p.More {
				break
			}
		}
	})
}
