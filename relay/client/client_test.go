package client

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// evil is a relay that says what the test wants.
type evil struct {
	key    key.RelaySecret
	who    key.RelayPublic // as the transport says
	hello  func(*wire.RelayHello)
	answer func(fr wire.Frame, send func(wire.Type, uint32, wire.Message))
	bytes  []byte // sent after Hello
	change func() // as Config.Changed
	slow   time.Duration
	refuse *wire.Error // in answer to proofs
	proofs atomic.Int64
	done   sync.WaitGroup
}

func (e *evil) dial(context.Context) (net.Conn, key.RelayPublic, error) {
	a, b := net.Pipe()
	e.done.Add(1)
	go func() {
		defer e.done.Done()
		defer b.Close()
		in := bufio.NewReader(b)
		if _, err := wire.ReadFrame(in); err != nil {
			return
		}
		h := wire.RelayHello{Version: 1, Key: e.key.Public(), Era: 5, MaxFrame: wire.MaxFrame, MaxInFlight: wire.MaxInFlight}
		if e.hello != nil {
			e.hello(&h)
		}
		var mu sync.Mutex
		send := func(t wire.Type, id uint32, m wire.Message) {
			mu.Lock()
			defer mu.Unlock()
			b.Write(wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil))
		}
		go func() {
			send(wire.THello, 0, &h)
			if e.bytes != nil {
				b.Write(e.bytes)
			}
		}()
		for {
			fr, err := wire.ReadFrame(in)
			if err != nil {
				return
			}
			if fr.Type == wire.TProve {
				var m wire.Prove
				wire.Decode(fr.Body, &m)
				flags := make([]byte, len(m.Proofs))
				for i := range flags {
					flags[i] = 1
				}
				e.proofs.Add(int64(len(flags)))
				go func() {
					time.Sleep(e.slow)
					if e.refuse != nil {
						send(wire.TError, fr.ID, e.refuse)
						return
					}
					send(wire.TOK, fr.ID, &wire.Flags{Each: flags})
				}()
			} else if e.answer != nil && fr.Type != wire.TCredit {
				go e.answer(fr, send)
			}
		}
	}()
	who := e.who
	if who.IsZero() {
		who = e.key.Public()
	}
	return a, who, nil
}

func (e *evil) client(t *testing.T) *Client {
	if e.key.IsZero() {
		e.key = key.NewRelay()
	}
	c := New(Config{Relay: e.key.Public(), Dial: e.dial, Changed: e.change, Timeout: 2 * time.Second})
	t.Cleanup(func() { c.Close(); e.done.Wait() })
	return c
}

var box = mailbox.ID{9}

// history is a mailbox that a relay could have.
func history(n int) (entries []mailbox.Entry, heads []mailbox.Head) {
	chain := mailbox.FirstChain(box)
	heads = append(heads, mailbox.Head{Mailbox: box, Era: 5, Chain: chain})
	for i := 1; i <= n; i++ {
		e := mailbox.Entry{Seq: mailbox.Seq(i), Era: 5, Kind: mailbox.Message, Minute: 7, Payload: []byte{byte(i)}}
		chain = mailbox.NextChain(chain, 5, e.Seq, 7, e.Hash())
		entries = append(entries, e)
		heads = append(heads, mailbox.Head{Mailbox: box, Era: 5, Seq: e.Seq, Chain: chain})
	}
	return entries, heads
}

// T7 and more: whatever a relay makes of a page, what the client takes is whole.
func TestHostilePages(t *testing.T) {
	entries, heads := history(4)
	for _, tt := range []struct {
		name string
		page func(sign func(mailbox.Head) wire.SignedHead) *wire.Page
		want error
	}{
		{"good", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Entries: entries, End: s(heads[4])}
		}, nil},
		{"an entry left out", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Entries: []mailbox.Entry{entries[0], entries[2], entries[3]}, End: s(heads[4])}
		}, ErrProtocol},
		{"the last left out", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Entries: entries[:3], End: s(heads[4])}
		}, ErrProtocol},
		{"two swapped", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Entries: []mailbox.Entry{entries[1], entries[0], entries[2], entries[3]}, End: s(heads[4])}
		}, ErrProtocol},
		{"two swapped and numbered anew", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			a, b := entries[1], entries[0]
			a.Seq, b.Seq = 1, 2
			return &wire.Page{Entries: []mailbox.Entry{a, b, entries[2], entries[3]}, End: s(heads[4])}
		}, ErrProtocol},
		{"an entry altered", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			a := entries[0]
			a.Payload = []byte{99}
			return &wire.Page{Entries: append([]mailbox.Entry{a}, entries[1:]...), End: s(heads[4])}
		}, ErrProtocol},
		{"a minute altered", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			a := entries[3]
			a.Minute++
			return &wire.Page{Entries: append(append([]mailbox.Entry{}, entries[:3]...), a), End: s(heads[4])}
		}, ErrProtocol},
		{"a head of another mailbox", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			h := heads[4]
			h.Mailbox = mailbox.ID{8}
			return &wire.Page{Entries: entries, End: s(h)}
		}, wire.ErrSignature},
		{"a head signed by another", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Entries: entries, End: wire.SignHeads(key.NewRelay(), heads[4:]).Head(0)}
		}, wire.ErrSignature},
		{"a signature for other leaves", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			sh := s(heads[4])
			sh.Leaves = 2
			return &wire.Page{Entries: entries, End: sh}
		}, wire.ErrSignature},
		{"a span that goes back", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Lost: []mailbox.Span{{From: 1, Cause: 1, End: heads[0]}}, End: s(heads[4])}
		}, ErrProtocol},
		{"a span of another mailbox", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			h := heads[4]
			h.Mailbox = mailbox.ID{8}
			return &wire.Page{Lost: []mailbox.Span{{From: 1, Cause: 1, End: h}}, End: s(heads[4])}
		}, ErrProtocol},
		{"a span that is honest", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{Lost: []mailbox.Span{{From: 1, Cause: 1, End: heads[3]}}, Entries: entries[3:], End: s(heads[4])}
		}, nil},
		{"a span to the end of all numbers, and round it", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			h := heads[3]
			h.Seq = 1<<64 - 1
			return &wire.Page{Lost: []mailbox.Span{{From: 1, Cause: 1, End: h}}, End: s(h)}
		}, ErrProtocol},
		{"nothing, for ever", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			return &wire.Page{End: s(heads[0]), More: true}
		}, ErrProtocol},
		{"two swapped before a span", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			a, b := entries[1], entries[0]
			a.Seq, b.Seq = 1, 2
			return &wire.Page{Entries: []mailbox.Entry{a, b, entries[3]}, Lost: []mailbox.Span{{From: 3, Cause: 1, End: heads[3]}}, End: s(heads[4])}
		}, ErrProtocol},
		{"an entry of an unknown kind", func(s func(mailbox.Head) wire.SignedHead) *wire.Page {
			a := entries[0]
			a.Kind = 7
			return &wire.Page{Entries: []mailbox.Entry{a}, End: s(heads[1])}
		}, ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &evil{key: key.NewRelay()}
			e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
				send(wire.TOK, fr.ID, tt.page(func(h mailbox.Head) wire.SignedHead { return wire.SignHeads(e.key, []mailbox.Head{h}).Head(0) }))
			}
			p, err := e.client(t).Read(t.Context(), key.NewCapability(), box, 0, Start(box), mailbox.Limit{})
			if !errors.Is(err, tt.want) {
				t.Errorf("read: %v, %v; want %v", p, err, tt.want)
			}
		})
	}
}

func TestEvidence(t *testing.T) {
	_, heads := history(3)
	fork := heads[2]
	fork.Chain[0] ^= 1
	e := &evil{key: key.NewRelay()}
	next := make(chan mailbox.Head, 1)
	e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
		switch fr.Type {
		case wire.TAppend:
			send(wire.TOK, fr.ID, &wire.Receipt{Head: wire.SignHeads(e.key, []mailbox.Head{<-next}).Head(0)})
		case wire.TStatus:
			var m wire.StatusRequest
			wire.Decode(fr.Body, &m)
			st := &wire.Status{Head: <-next}
			st.Sign(e.key, m.Nonce)
			send(wire.TOK, fr.ID, st)
		}
	}
	c := e.client(t)
	k := key.NewCapability()
	put := func(h mailbox.Head) error {
		next <- h
		_, err := c.Append(t.Context(), k, mailbox.Deposit{Mailbox: box, Kind: mailbox.Message, Payload: []byte("x")})
		return err
	}
	if err := put(heads[2]); err != nil {
		t.Fatal(err)
	}
	if err := put(heads[2]); err != nil {
		t.Errorf("the same head again: %v", err)
	}
	var ev *EvidenceError
	if err := put(fork); !errors.As(err, &ev) {
		t.Fatalf("two heads for one position: %v", err)
	}
	for _, b := range [][]byte{ev.A, ev.B} {
		var sh wire.SignedHead
		if wire.Decode(b, &sh) != nil || sh.Verify(e.key.Public()) != nil {
			t.Error("the evidence does not verify by itself")
		}
	}
	next <- heads[1]
	if _, err := c.Status(t.Context(), k, box, 0); !errors.As(err, &ev) {
		t.Errorf("a status behind a signed head: %v", err)
	}
	next <- heads[3]
	if st, err := c.Status(t.Context(), k, box, 0); err != nil || st.Head.Seq != 3 {
		t.Errorf("an honest status: %+v, %v", st, err)
	}
}

func TestHostileRelay(t *testing.T) {
	ask := func(e *evil) func(t *testing.T) error {
		return func(t *testing.T) error { return e.client(t).Ping(t.Context()) }
	}
	for _, tt := range []struct {
		name string
		do   func(t *testing.T) error
		want error
	}{
		{"another answers", ask(&evil{who: key.NewRelay().Public()}), ErrWrongRelay},
		{"it claims another key", ask(&evil{hello: func(h *wire.RelayHello) { h.Key = key.NewRelay().Public() }}), ErrWrongRelay},
		{"another version", ask(&evil{hello: func(h *wire.RelayHello) { h.Version = 2 }}), ErrProtocol},
		{"a frame too large", ask(&evil{bytes: []byte{0xff, 0xff, 0x7f}}), ErrProtocol},
		{"rubbish", ask(&evil{bytes: []byte{0, 0, 0}}), ErrProtocol},
		{"an answer that is none", ask(&evil{answer: func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TError, fr.ID, &wire.Flags{Each: []byte{1}})
		}}), ErrProtocol},
		{"it never answers", ask(&evil{}), mailbox.ErrUnknown},
		{"it hangs up", ask(&evil{answer: func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TGoAway, 0, &wire.GoAway{Reason: 1})
		}}), mailbox.ErrUnknown},
		{"a code nobody knows", ask(&evil{answer: func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TError, fr.ID, &wire.Error{Code: 999})
		}}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.do(t)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("ping: %v, want %v", err, tt.want)
			}
		})
	}
}

// A relay that floods a subscriber beyond its credit loses the session.
func TestFlood(t *testing.T) {
	entries, heads := history(200)
	e := &evil{key: key.NewRelay()}
	e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
		if fr.Type != wire.TSubscribe {
			return
		}
		send(wire.TOK, fr.ID, &wire.Flags{Each: []byte{1}})
		for i := range entries {
			send(wire.TEvent, fr.ID, &wire.Event{Mailbox: box, Page: wire.Page{Entries: entries[i : i+1], End: wire.SignHeads(e.key, heads[i+1:i+2]).Head(0)}})
		}
	}
	changed := make(chan struct{}, 100)
	e.change = func() { changed <- struct{}{} }
	c := e.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	block := make(chan struct{})
	n := 0
	done := make(chan error)
	go func() {
		done <- c.Subscribe(ctx, key.NewCapability(), box, 0, Start(box), func(p *Page) error {
			if n++; n == 1 {
				<-block
			}
			return nil
		})
	}()
	for c.State().Err == nil {
		<-changed
	}
	if err := c.State().Err; !errors.Is(err, ErrProtocol) {
		t.Errorf("the session ended with %v", err)
	}
	cancel()
	close(block)
	<-done
}
