package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// one signs one head.
func (e *evil) one(h mailbox.Head) wire.SignedHead {
	return wire.SignHeads(e.key, []mailbox.Head{h}).Head(0)
}

// What a relay signs for one request while it answers another is newer than that
// answer, and no evidence.
func TestStatusOvertaken(t *testing.T) {
	_, heads := history(5)
	e := &evil{key: key.NewRelay()}
	asked, answer := make(chan struct{}), make(chan struct{})
	e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
		switch fr.Type {
		case wire.TCreate:
			h := e.one(heads[5])
			send(wire.TOK, fr.ID, &h)
		case wire.TRead:
			send(wire.TOK, fr.ID, &wire.Page{End: e.one(heads[5])})
		case wire.TStatus:
			var m wire.StatusRequest
			wire.Decode(fr.Body, &m)
			st := &wire.Status{Head: heads[3]}
			st.Sign(e.key, m.Nonce)
			close(asked)
			<-answer
			send(wire.TOK, fr.ID, st)
		}
	}
	c := e.client(t)
	k := key.NewCapability()
	got := make(chan error)
	go func() { _, err := c.Status(t.Context(), k, box, 0); got <- err }()
	<-asked
	if _, err := c.Read(t.Context(), k, box, 0, Place{heads[5].Mark(), heads[5].Chain}, mailbox.Limit{}); err != nil {
		t.Fatal(err)
	}
	close(answer)
	if err := <-got; err != nil {
		t.Errorf("an honest status: %v", err)
	}
}

// The evidence of a status verifies with its nonce.
func TestStatusEvidenceVerifies(t *testing.T) {
	_, heads := history(3)
	fork := heads[3]
	fork.Chain[0] ^= 1
	for name, told := range map[string]mailbox.Head{"behind": heads[2], "another": fork} {
		e := &evil{key: key.NewRelay()}
		e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			if fr.Type == wire.TRead {
				send(wire.TOK, fr.ID, &wire.Page{End: e.one(heads[3])})
				return
			}
			var m wire.StatusRequest
			wire.Decode(fr.Body, &m)
			st := &wire.Status{Head: told}
			st.Sign(e.key, m.Nonce)
			send(wire.TOK, fr.ID, st)
		}
		c := e.client(t)
		k := key.NewCapability()
		if _, err := c.Read(t.Context(), k, box, 0, Place{heads[3].Mark(), heads[3].Chain}, mailbox.Limit{}); err != nil {
			t.Fatal(err)
		}
		_, err := c.Status(t.Context(), k, box, 0)
		var ev *EvidenceError
		if !errors.As(err, &ev) || !ev.Status {
			t.Fatalf("%s: %v", name, err)
		}
		var sh wire.SignedHead
		var st wire.Status
		if wire.Decode(ev.A, &sh) != nil || sh.Verify(e.key.Public()) != nil || wire.Decode(ev.B, &st) != nil || st.Verify(e.key.Public(), ev.Nonce) != nil {
			t.Errorf("%s: the evidence does not verify by itself", name)
		}
	}
}

// A receipt is for what was sent, where it can be told.
func TestHostileReceipts(t *testing.T) {
	entries, heads := history(2)
	commit := heads[1]
	other := heads[1]
	other.Chain[0] ^= 1
	for _, tt := range []struct {
		name string
		kind mailbox.Kind
		head mailbox.Head
		want error
	}{
		{"good", mailbox.Message, heads[1], nil},
		{"for another entry", mailbox.Message, other, ErrProtocol},
		{"for no position", mailbox.Message, heads[0], ErrProtocol},
		{"of a commit that did not move the fence", mailbox.Commit, commit, ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &evil{key: key.NewRelay()}
			e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
				send(wire.TOK, fr.ID, &wire.Receipt{Head: e.one(tt.head), Minute: 7})
			}
			_, err := e.client(t).Append(t.Context(), key.NewCapability(), mailbox.Deposit{Mailbox: box, Kind: tt.kind, Payload: entries[0].Payload})
			if !errors.Is(err, tt.want) {
				t.Errorf("append: %v, want %v", err, tt.want)
			}
		})
	}
}

// More of T7: pages that lead to a signed head and still lie.
func TestHostileEntries(t *testing.T) {
	caps := make([]byte, wire.NextCapsSize)
	build := func(es ...mailbox.Entry) (out []mailbox.Entry, end mailbox.Head) {
		end = mailbox.Head{Mailbox: box, Era: 5, Chain: mailbox.FirstChain(box)}
		for i, e := range es {
			e.Seq, e.Era = mailbox.Seq(i+1), 5
			end.Seq, end.Chain = e.Seq, mailbox.NextChain(end.Chain, 5, e.Seq, e.Minute, e.Hash())
			if e.Kind == mailbox.Commit {
				end.Commit = end.Mark()
			}
			out = append(out, e)
		}
		return out, end
	}
	msg := mailbox.Entry{Kind: mailbox.Message, Payload: []byte("m")}
	ends := mailbox.Entry{Kind: mailbox.Commit, Meta: caps, Payload: []byte("c")}
	next := mailbox.Entry{Kind: mailbox.Message, Gen: 1, Payload: []byte("n")}
	fence := func(m mailbox.Mark) func(*mailbox.Head) { return func(h *mailbox.Head) { h.Commit = m } }
	for _, tt := range []struct {
		name    string
		entries []mailbox.Entry
		change  func(*mailbox.Head)
		want    error
	}{
		{"up to the end of the generation", []mailbox.Entry{msg, ends}, nil, nil},
		{"behind the end of the generation", []mailbox.Entry{msg, ends, msg}, nil, ErrProtocol},
		{"of the next generation", []mailbox.Entry{msg, next}, nil, ErrProtocol},
		{"a message with keys", []mailbox.Entry{{Kind: mailbox.Message, Meta: caps, Payload: []byte("m")}}, nil, ErrProtocol},
		{"an empty entry", []mailbox.Entry{{Kind: mailbox.Message}}, nil, ErrProtocol},
		{"a fence that the commit did not move", []mailbox.Entry{ends}, fence(mailbox.Mark{}), ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &evil{key: key.NewRelay()}
			entries, end := build(tt.entries...)
			if tt.change != nil {
				tt.change(&end)
			}
			e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
				send(wire.TOK, fr.ID, &wire.Page{Entries: entries, End: e.one(end)})
			}
			p, err := e.client(t).Read(t.Context(), key.NewCapability(), box, 0, Start(box), mailbox.Limit{})
			if !errors.Is(err, tt.want) {
				t.Errorf("read %+v, %v; want %v", p, err, tt.want)
			}
		})
	}
}

// What many want to show at once is shown together.
func TestProofsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &evil{key: key.NewRelay()}
		_, heads := history(0)
		e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			var m wire.Read
			wire.Decode(fr.Body, &m)
			h := heads[0]
			h.Mailbox, h.Chain = m.Mailbox, mailbox.FirstChain(m.Mailbox)
			send(wire.TOK, fr.ID, &wire.Page{End: e.one(h)})
		}
		e.slow = 100 * time.Millisecond // for one answer to a proof
		c := e.client(t)
		var wg sync.WaitGroup
		start := time.Now()
		const n = 600
		for i := range n {
			wg.Add(1)
			go func() {
				defer wg.Done()
				id := mailbox.ID{byte(i), byte(i >> 8)}
				for range 2 {
					if _, err := c.Read(t.Context(), key.NewCapability(), id, 0, Start(id), mailbox.Limit{}); err != nil {
						t.Errorf("read %d: %v", i, err)
					}
				}
			}()
		}
		wg.Wait()
		// The first alone, then 256 at a time.
		if took := time.Since(start); took > 4*e.slow || e.proofs.Load() != n {
			t.Errorf("%d proofs took %v", e.proofs.Load(), took)
		}
	})
}

// A relay that takes no proofs tells all who wait for one: each wrote its own request's
// name into the one answer.
func TestRefusedProofsRaced(t *testing.T) {
	e := &evil{key: key.NewRelay(), refuse: &wire.Error{Code: wire.CodeBusy}}
	c := e.client(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			id := mailbox.ID{byte(i)}
			_, err := c.Read(t.Context(), key.NewCapability(), id, 0, Start(id), mailbox.Limit{})
			if we := (*wire.Error)(nil); !errors.As(err, &we) || we.Op != "prove" || !errors.Is(err, mailbox.ErrBusy) {
				t.Errorf("read: %v", err)
			}
		}()
	}
	wg.Wait()
}

// A relay that goes silent is found out, and left.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &evil{key: key.NewRelay()}
		var pings atomic.Int64
		e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			if fr.Type == wire.TPing && pings.Add(1) <= 3 {
				send(wire.TOK, fr.ID, &wire.Empty{})
			}
		}
		c := e.client(t)
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * (pingAfter + time.Second))
		synctest.Wait()
		if st := c.State(); !st.Connected || pings.Load() != 3 {
			t.Fatalf("after silence: %+v, %d pings", st, pings.Load())
		}
		time.Sleep(pingAfter + pingTimeout + time.Second)
		synctest.Wait()
		if st := c.State(); st.Connected || st.Err == nil {
			t.Errorf("a relay that does not answer: %+v", st)
		}
	})
}

// A request with little time costs nobody else the session.
func TestImpatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &evil{key: key.NewRelay()}
		e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			time.Sleep(500 * time.Millisecond)
			send(wire.TOK, fr.ID, &wire.Empty{})
		}
		c := e.client(t)
		other := make(chan error)
		go func() { other <- c.Ping(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := c.Ping(ctx); !errors.Is(err, mailbox.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with little time: %v", err)
		}
		if err := <-other; err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}

// A relay that sends its clients away is not come back to at once, and not forgotten.
func TestGoingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &evil{key: key.NewRelay()}
		var times []time.Time
		var mu sync.Mutex
		e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			if fr.Type != wire.TSubscribe {
				return
			}
			mu.Lock()
			times = append(times, time.Now())
			mu.Unlock()
			send(wire.TGoAway, 0, &wire.GoAway{Reason: wire.GoStopping, Wait: 1 << 31})
		}
		c := e.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := c.Subscribe(ctx, key.NewCapability(), box, 0, Start(box), func(*Page) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("subscribe: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if n := len(times); n < 20 || n > 120 { // about one a minute: the relay cannot ask for more
			t.Errorf("it came back %d times in an hour", n)
		}
	})
}

// A subscriber tries again and again, more and more seldom, and tells when.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		c := New(Config{Relay: key.NewRelay().Public(), Dial: func(context.Context) (net.Conn, key.RelayPublic, error) {
			times = append(times, time.Now())
			return nil, key.RelayPublic{}, errors.New("nobody there")
		}})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		done := make(chan error)
		go func() {
			done <- c.Subscribe(ctx, key.NewCapability(), box, 0, Start(box), func(*Page) error { return nil })
		}()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := c.State(); st.Connected || !errors.Is(st.Err, ErrUnreachable) || !st.Retry.After(time.Now()) || st.Retry.After(time.Now().Add(lastWait*3/2)) {
			t.Errorf("state %+v at %v", st, time.Now())
		}
		<-done
		if n := len(times); n < 15 || n > 60 {
			t.Errorf("%d tries in ten minutes", n)
		}
		if first := times[1].Sub(times[0]); first > time.Second {
			t.Errorf("the second try came after %v", first)
		}
	})
}

// Close is the end, whatever is under way.
func TestClose(t *testing.T) {
	for range 50 {
		e := &evil{key: key.NewRelay()}
		c := e.client(t)
		done := make(chan error, 3)
		go func() { done <- c.Ping(t.Context()) }()
		go func() {
			done <- c.Subscribe(t.Context(), key.NewCapability(), box, 0, Start(box), func(*Page) error { return nil })
		}()
		go func() { _, err := c.Status(t.Context(), key.NewCapability(), box, 0); done <- err }()
		c.Close()
		for range 3 {
			if err := <-done; !errors.Is(err, ErrClosed) && !errors.Is(err, mailbox.ErrUnknown) && !errors.Is(err, ErrLost) {
				t.Errorf("a request when closed: %v", err)
			}
		}
		if err := c.Ping(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after closing: %v", err)
		}
		e.done.Wait()
	}
}

// A session that has ended before a request was sent is none of the caller's
// business.
func TestSessionLostBeforeSending(t *testing.T) {
	e := &evil{key: key.NewRelay()}
	e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) { send(wire.TOK, fr.ID, &wire.Empty{}) }
	c := e.client(t)
	for i := range 50 {
		if err := c.Ping(t.Context()); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
		c.mu.Lock()
		s := c.now
		c.mu.Unlock()
		s.fail(errors.New("cut"))
	}
}

// FuzzSession sends a client anything after Hello, while it reads, subscribes and
// asks: all of it ends, at the latest when the relay hangs up.
func FuzzSession(f *testing.F) {
	relay := key.RelayFromSeed(slices.Repeat([]byte{3}, 32))
	_, heads := history(1)
	end := wire.SignHeads(relay, heads[1:]).Head(0)
	for id := range uint32(4) {
		frame := func(t wire.Type, m wire.Message) {
			f.Add(wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil))
		}
		frame(wire.TOK, &wire.Flags{Each: []byte{1, 1, 1}})
		frame(wire.TOK, &wire.Page{End: end})
		frame(wire.TEvent, &wire.Event{Mailbox: box, Page: wire.Page{End: end}})
		frame(wire.TError, &wire.Error{Code: wire.CodeDenied, Detail: box[:]})
	}
	f.Add(wire.Frame{Type: wire.TGoAway, Body: wire.Encode(&wire.GoAway{Reason: 1})}.Append(nil))
	// All have been shown, so that requests go out at once. In a bubble what waits for a
	// time that passes costs none.
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) { fuzzSession(t, relay, b) })
	})
}

func fuzzSession(t *testing.T, relay key.RelaySecret, b []byte) {
	var done sync.WaitGroup
	c := New(Config{Relay: relay.Public(), Timeout: 200 * time.Millisecond, Dial: func(context.Context) (net.Conn, key.RelayPublic, error) {
		here, there := net.Pipe()
		done.Add(2)
		go func() {
			defer done.Done()
			defer there.Close()
			h := wire.RelayHello{Version: 1, Key: relay.Public()}
			there.Write(wire.Frame{Type: wire.THello, Body: wire.Encode(&h)}.Append(nil))
			there.Write(append(wire.Frame{Type: wire.TOK, ID: 1, Body: []byte{1}}.Append(nil), b...))
		}()
		go func() {
			defer done.Done()
			buf := make([]byte, 1<<10)
			for {
				if _, err := there.Read(buf); err != nil {
					return
				}
			}
		}()
		return here, relay.Public(), nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	k := key.CapabilityFromSeed(slices.Repeat([]byte{4}, 32))
	stop := errors.New("stop")
	c.Read(ctx, k, box, 0, Start(box), mailbox.Limit{})
	c.Subscribe(ctx, k, box, 0, Start(box), func(p *Page) error {
		if len(p.Items) > 0 && p.Head.Verify(relay.Public()) != nil {
			t.Error("a page that nobody signed was taken")
		}
		return stop
	})
	cancel()
	c.Close()
	done.Wait()
}

func ExampleEvidenceError() {
	err := fmt.Errorf("read on: %w", &EvidenceError{What: "two heads for one position"})
	var e *EvidenceError
	fmt.Println(errors.As(err, &e), err)
	// Output: true read on: the relay contradicts itself: two heads for one position
}
