package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/badgerbox"
	"sotto/relay/server"
	"sotto/relay/wire"
)

func read0(k *caps) wire.Claim   { return wire.Claim{Role: wire.RoleRead, Object: k.id} }
func append0(k *caps) wire.Claim { return wire.Claim{Role: wire.RoleAppend, Object: k.id} }

func (w *raw) credit(frames, bytes uint32) {
	w.write(wire.TCredit, 0, &wire.Credit{Frames: frames, Bytes: bytes})
}

func (w *raw) subscribe(t *testing.T, id uint32, c wire.Cursor) {
	t.Helper()
	w.write(wire.TSubscribe, id, &wire.Subscribe{Cursors: []wire.Cursor{c}})
	if fr := w.read(t); fr.Type != wire.TOK || fr.ID != id || fr.Body[0] != wire.SubscribeOK {
		t.Fatalf("subscribe: %+v", fr)
	}
}

func (w *raw) event(t *testing.T, id uint32) (e wire.Event) {
	t.Helper()
	if fr := w.read(t); fr.Type != wire.TEvent || fr.ID != id || wire.Decode(fr.Body, &e) != nil {
		t.Fatalf("want an event of %d, got %+v", id, fr)
	}
	return e
}

func (w *raw) refused(t *testing.T, id uint32) *wire.Error {
	t.Helper()
	var e wire.Error
	if fr := w.read(t); fr.Type != wire.TError || fr.ID != id || wire.Decode(fr.Body, &e) != nil {
		t.Fatalf("request %d was answered %+v", id, fr)
	}
	return &e
}

// quiet checks that the relay has nothing to say.
func (w *raw) quiet(t *testing.T) {
	t.Helper()
	w.write(wire.TPing, 99, &wire.Ping{})
	if fr := w.read(t); fr.ID != 99 {
		t.Errorf("out of turn came %+v", fr)
	}
}

// Spans with causes in turn do not become one: as many as a page may name and a largest
// entry behind them do not fit into one frame.
func TestLargestEntryBehindManySpans(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := &caps{admin: key.NewCapability()}
	k.next()
	req := client.CreateRequest{Admin: k.admin, Read: k.read[0].Public(), Append: k.append[0].Public(), Terms: mailbox.Terms{MaxEntries: 700, Full: mailbox.DropOldest}}
	if _, err := c.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	k.id = req.ID(c.Relay())
	var fence mailbox.Mark
	put := func(kind mailbox.Kind, payload []byte) {
		t.Helper()
		d := mailbox.Deposit{Mailbox: k.id, Kind: kind, Payload: payload}
		if kind == mailbox.Commit {
			d.Expect = fence
		}
		o := r.store.Put(t.Context(), []mailbox.Deposit{d})[0]
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		fence = o.Receipt.Head.Commit
	}
	const pairs = 600
	for i := range pairs {
		put(mailbox.Message, fmt.Append(nil, "is dropped ", i))
		put(mailbox.Commit, fmt.Append(nil, "expires ", i))
	}
	r.clock.Advance(mailbox.CommitMinutes)
	put(mailbox.Message, bytes.Repeat([]byte{1}, mailbox.MaxPayload))
	put(mailbox.Message, bytes.Repeat([]byte{2}, mailbox.MaxPayload))
	entries, lost, gone := 0, 0, mailbox.Seq(0)
	for _, it := range readAll(t, c, k, 0) {
		if it.Entry != nil {
			entries++
		} else {
			lost++
			gone = it.Span.End.Seq
		}
	}
	if entries != 2 || gone != 2*pairs || lost < 2*(pairs-110) {
		t.Errorf("read %d entries behind %d spans up to %d", entries, lost, gone)
	}
}

// A span can go on behind the end of a generation: who holds only that generation's
// key is told that there is nothing for it, not what stands behind, and not for ever.
func TestSpanAcrossTheEndOfAGeneration(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, access.Policy{})
			tamperWith(t, r, open(t, r), nil)
			spanAcrossTheEnd(t, r)
		})
	}
}

// engines are the stores of a relay. Badgerbox keeps of a span only its ends, membox
// every position.
var engines = map[string]func(t *testing.T, r *relay) engine{
	"membox": func(t *testing.T, r *relay) engine { return r.store },
	"badgerbox": func(t *testing.T, r *relay) engine {
		s, err := badgerbox.Open(badgerbox.Config{Dir: t.TempDir(), Clock: r.clock.Now, Small: true, SweepPeriod: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	},
}

func spanAcrossTheEnd(t *testing.T, r *relay) {
	c := r.client()
	k := create(t, c)
	old := r.raw(t)
	old.prove(t, k.read[0], read0(k)) // while it can be proved
	k.put(t, c, 0, "a")
	end := k.commit(t, c, mailbox.Mark{})
	for i := range 5 {
		k.put(t, c, 1, fmt.Sprint("not for the old key ", i))
	}
	old.credit(10, 1<<20)
	old.subscribe(t, 3, wire.Cursor{Mailbox: k.id})
	if e := old.event(t, 3); e.Page.End.Head != end.Head.Head || e.Page.More {
		t.Errorf("the old key hears of %+v", e.Page)
	}
	if err := c.Trim(t.Context(), k.admin, k.id, 5); err != nil {
		t.Fatal(err)
	}
	old.write(wire.TRead, 4, &wire.Read{Cursor: wire.Cursor{Mailbox: k.id}})
	var e wire.Error
	var p wire.Page
	if fr := old.read(t); fr.ID != 4 || fr.Type == wire.TOK && (wire.Decode(fr.Body, &p) != nil || p.End.Head != end.Head.Head) ||
		fr.Type == wire.TError && (wire.Decode(fr.Body, &e) != nil || e.Code != wire.CodeDenied) {
		t.Errorf("a read across the end: %+v, %v", p, e)
	}
	old.write(wire.TSubscribe, 5, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: k.id}}})
	switch fr := old.read(t); {
	case fr.Type != wire.TOK || fr.ID != 5:
		t.Errorf("a subscription across the end: %+v", fr)
	case p.End.Head.Seq > 0:
		if e := old.event(t, 5); e.Page.End.Head != end.Head.Head {
			t.Errorf("the subscription ended with %+v", e.Page)
		}
	default: // its end follows
		if e := old.refused(t, 5); e.Code != wire.CodeDenied || !bytes.Equal(e.Detail, k.id[:]) {
			t.Errorf("the subscription ended with %v", e)
		}
	}
	old.write(wire.TStatus, 6, &wire.StatusRequest{Mailbox: k.id})
	var st wire.Status
	if fr := old.read(t); fr.ID != 6 || wire.Decode(fr.Body, &st) != nil || !st.Ended || st.Head != end.Head.Head {
		t.Errorf("status: %+v", st)
	}
	old.quiet(t)
	rest, err := c.Read(t.Context(), k.read[1], k.id, 1, client.Start(k.id), mailbox.Limit{})
	if err != nil || fmt.Sprint(texts(rest)) != "[lost not for the old key 3 not for the old key 4]" {
		t.Errorf("the new key reads %v, %v", rest, err)
	}
}

// A generation ends and everything is trimmed while an old key reads: the head of
// what lies behind was told to who may not know it.
func TestTrimmedWhileAnOldKeyReads(t *testing.T) {
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, access.Policy{})
			trimmedWhileAnOldKeyReads(t, r, tamperWith(t, r, open(t, r), nil))
		})
	}
}

func trimmedWhileAnOldKeyReads(t *testing.T, r *relay, s *tampered) {
	c := r.client()
	k := create(t, c)
	k.put(t, c, 0, "a")
	next := k.next()
	s.set(func() {
		s.afterState = func(id mailbox.ID) {
			s.engine.Put(t.Context(), []mailbox.Deposit{
				{Mailbox: id, Kind: mailbox.Commit, Meta: next, Payload: []byte("commit")},
				{Mailbox: id, Kind: mailbox.Message, Gen: 1, Payload: []byte("not for the old key")},
			})
			s.engine.Trim(t.Context(), id, 3)
		}
	})
	w := r.raw(t)
	w.prove(t, k.read[0], read0(k))
	w.write(wire.TRead, 4, &wire.Read{Cursor: wire.Cursor{Mailbox: k.id}})
	fr := w.read(t)
	var p wire.Page
	if fr.Type == wire.TOK && wire.Decode(fr.Body, &p) == nil && p.End.Head.Seq > 2 {
		t.Errorf("the old key reads up to %+v", p.End.Head)
	}
}

// Credit for less than an entry lets that entry through, and nothing more before the
// debt is paid.
func TestCreditSmallerThanAnEntry(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	for i := range 3 {
		d := k.msg(0, "")
		d.Payload = bytes.Repeat([]byte{byte(i)}, mailbox.MaxPayload)
		if _, err := c.Append(t.Context(), k.append[0], d); err != nil {
			t.Fatal(err)
		}
	}
	w := r.raw(t)
	w.prove(t, k.read[0], read0(k))
	w.subscribe(t, 9, wire.Cursor{Mailbox: k.id})
	w.credit(10, 1)
	if e := w.event(t, 9); len(e.Page.Entries) != 1 || !e.Page.More {
		t.Fatalf("with credit for one byte came %d entries", len(e.Page.Entries))
	}
	w.credit(0, mailbox.MaxPayload)
	w.quiet(t) // a frame is more than its payload
	w.credit(0, 1<<10)
	if e := w.event(t, 9); len(e.Page.Entries) != 1 || e.Page.Entries[0].Seq != 2 {
		t.Errorf("with the debt paid came %+v", e.Page.End)
	}
	w.credit(1<<32-1, 1<<32-1)
	w.credit(1<<32-1, 1<<32-1) // neither overflows
	if e := w.event(t, 9); len(e.Page.Entries) != 1 || e.Page.Entries[0].Seq != 3 {
		t.Errorf("then came %+v", e.Page.End)
	}
}

// A page that was being made for a subscription that has been replaced goes to nobody.
func TestSubscriptionReplacedWhileItsPageIsMade(t *testing.T) {
	r, s := tamper(t, nil)
	c := r.client()
	k := create(t, c)
	var marks []mailbox.Mark
	for i := range 3 {
		marks = append(marks, k.put(t, c, 0, fmt.Sprint(i)).Head.Head.Mark())
	}
	w := r.raw(t)
	w.prove(t, k.read[0], read0(k))
	w.subscribe(t, 5, wire.Cursor{Mailbox: k.id})
	made, gate := make(chan struct{}), make(chan struct{})
	s.set(func() { s.afterRead = func() { close(made); <-gate } })
	w.credit(10, 1<<20)
	<-made
	w.write(wire.TUnsubscribe, 6, &wire.Object{ID: k.id})
	if fr := w.read(t); fr.Type != wire.TOK || fr.ID != 6 {
		t.Fatalf("unsubscribe: %+v", fr)
	}
	w.write(wire.TSubscribe, 7, &wire.Subscribe{Cursors: []wire.Cursor{{Mailbox: k.id, After: marks[1]}}})
	close(gate)
	if fr := w.read(t); fr.Type != wire.TOK || fr.ID != 7 || fr.Body[0] != wire.SubscribeOK {
		t.Fatalf("before the answer came %+v", fr)
	}
	if e := w.event(t, 7); len(e.Page.Entries) != 1 || e.Page.Entries[0].Seq != 3 {
		t.Errorf("the new subscription hears of %+v", e.Page.Entries)
	}
	w.quiet(t)
}

// What comes between the look at a mailbox and the page made it say that there is
// more behind an empty page, for which the client took the relay for a liar.
func TestEmptyPageSaidThereIsMore(t *testing.T) {
	r, s := tamper(t, nil)
	c := r.client()
	k := create(t, c)
	at := k.put(t, c, 0, "a").Head.Head
	s.set(func() {
		s.afterState = func(id mailbox.ID) {
			s.engine.Put(t.Context(), []mailbox.Deposit{{Mailbox: id, Kind: mailbox.Message, Payload: []byte("b")}})
		}
	})
	p, err := c.Read(t.Context(), k.read[0], k.id, 0, client.Place{At: at.Mark(), Chain: at.Chain}, mailbox.Limit{})
	if err != nil || len(p.Items) != 0 || p.More {
		t.Errorf("read %+v, %v", p, err)
	}
}

// Large frames of which the end does not come hold no more than the relay's memory
// for requests, and small ones go on.
func TestHalfSentFramesFilledMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := tamper(t, func(c *server.Config) { c.Bytes = 1 << 20 })
		k := create(t, r.client())
		frame := wire.Frame{Type: wire.TAppend, ID: 7, Body: wire.Encode(bigAppend(k, 1))}.Append(nil)
		half := frame[:len(frame)-10]
		const fit = 3 // as many as fit into a MiB
		for range fit {
			w := r.raw(t)
			if _, err := w.conn.Write(half); err != nil {
				t.Fatal(err)
			}
		}
		late := r.raw(t)
		late.prove(t, k.append[0], append0(k))
		if _, err := late.conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		if e := late.refused(t, 7); e.Code != wire.CodeBusy || e.Wait == 0 {
			t.Errorf("one too many was answered %v", e)
		}
		late.write(wire.TAppend, 8, &wire.Append{Mailbox: k.id, Kind: mailbox.Message, Payload: []byte("small")})
		if fr := late.read(t); fr.Type != wire.TOK || fr.ID != 8 {
			t.Errorf("a small one was answered %+v", fr)
		}
		time.Sleep(2 * time.Minute) // they are given up on
		late.conn.Write(frame)
		if fr := late.read(t); fr.Type != wire.TOK || fr.ID != 7 {
			t.Errorf("with room again: %+v", fr)
		}
	})
}

// Pages on their way to clients that do not read hold no more than the relay's memory
// for them; who does read is served when there is room again.
func TestPagesNobodyReadsFilledMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := tamper(t, func(c *server.Config) { c.Bytes = 2 << 20 })
		c := r.client()
		k := create(t, c)
		if _, err := c.Append(t.Context(), k.append[0], bigAppend(k, 1).Deposit()); err != nil {
			t.Fatal(err)
		}
		const fit = 3 // each page is held twice
		for range fit {
			w := r.raw(t)
			w.prove(t, k.read[0], read0(k))
			w.subscribe(t, 9, wire.Cursor{Mailbox: k.id})
			w.credit(1, 1)
		}
		synctest.Wait() // three pages are stuck
		w := r.raw(t)
		w.prove(t, k.read[0], read0(k))
		w.write(wire.TRead, 4, &wire.Read{Cursor: wire.Cursor{Mailbox: k.id}})
		if e := w.refused(t, 4); e.Code != wire.CodeBusy || e.Wait == 0 {
			t.Errorf("a page too many was answered %v", e)
		}
		w.subscribe(t, 5, wire.Cursor{Mailbox: k.id})
		w.credit(10, 1<<20)
		w.quiet(t)
		start := time.Now()
		if e := w.event(t, 5); len(e.Page.Entries) != 1 {
			t.Errorf("then came %+v", e.Page)
		}
		if took := time.Since(start); took < 20*time.Second || took > 40*time.Second {
			t.Errorf("it took %v, until the others are given up on", took)
		}
	})
}

// A session in which 9,024 capabilities had been shown was denied every further one.
// It is sent away, and the client comes back and goes on.
func TestSessionThatHasShownMuch(t *testing.T) {
	synctest.Test(t, sessionThatHasShownMuch)
}

func sessionThatHasShownMuch(t *testing.T) {
	r, _ := tamper(t, func(c *server.Config) { c.Shown, c.Policy = 10, access.Policy{Burst: 1000} })
	k := create(t, r.client())
	const each = 80 // more than a session always can and all may
	var ids []*caps
	for range each {
		ids = append(ids, create(t, r.client()))
	}
	w := r.raw(t)
	var proofs []wire.Proof
	for _, k := range ids {
		proofs = append(proofs, w.id.Prove(k.read[0], read0(k)))
	}
	w.write(wire.TProve, 1, &wire.Prove{Proofs: proofs})
	if e := w.refused(t, 1); e.Code != wire.CodeBusy {
		t.Errorf("too many proofs were answered %v", e)
	}
	var g wire.GoAway
	if fr := w.read(t); fr.Type != wire.TGoAway || wire.Decode(fr.Body, &g) != nil || g.Reason != wire.GoTooMany {
		t.Errorf("then came %+v", fr)
	}
	// What it had shown is free for others.
	for range 3 {
		w := r.raw(t)
		proofs = proofs[:0]
		for _, k := range ids[:70] {
			proofs = append(proofs, w.id.Prove(k.read[0], read0(k)))
		}
		w.write(wire.TProve, 1, &wire.Prove{Proofs: proofs})
		if fr := w.read(t); fr.Type != wire.TOK || bytes.Contains(fr.Body, []byte{0}) {
			t.Errorf("as many as there is room for: %+v", fr)
		}
		w.conn.Close()
		synctest.Wait() // for its end
	}
	c := r.client()
	var err error
	for i, k := range append(ids, k) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for {
			if _, err = c.Status(ctx, k.read[0], k.id, 0); !errors.Is(err, mailbox.ErrBusy) && !errors.Is(err, mailbox.ErrUnknown) {
				break
			}
		}
		cancel()
		if err != nil {
			t.Fatalf("mailbox %d: %v", i, err)
		}
	}
}

// A ticket longer than a relay reads, as a hostile invite could hold, and entries that
// no relay takes ended the client's process.
func TestClientRefusesWhatNoRelayReads(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	long := make([]byte, 256)
	admin := key.NewCapability()
	_, create := c.Create(t.Context(), client.CreateRequest{Admin: admin, Read: admin.Public(), Append: admin.Public(), Ticket: long})
	_, big := c.Append(t.Context(), k.append[0], mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Message, Payload: make([]byte, mailbox.MaxPayload+1)})
	_, none := c.Append(t.Context(), k.append[0], mailbox.Deposit{Mailbox: k.id, Kind: 3, Payload: []byte("x")})
	for what, err := range map[string]error{
		"a ticket": create, "an entry": big,
		"a slot's ticket": c.CreateSlot(t.Context(), admin, admin, true, 1, []byte("x"), long),
		"a slot":          c.CreateSlot(t.Context(), admin, admin, true, 1, make([]byte, mailbox.MaxSlot+1), nil),
		"a slot's value":  c.SetSlot(t.Context(), admin, admin.Public(), 1, make([]byte, mailbox.MaxSlot+1)),
	} {
		if !errors.Is(err, mailbox.ErrTooLarge) {
			t.Errorf("%s that is too large: %v", what, err)
		}
	}
	if !errors.Is(none, mailbox.ErrBadDeposit) {
		t.Errorf("an entry of no kind: %v", none)
	}
}
