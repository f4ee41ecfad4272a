package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// session is one stream from Hello to its end.
type session struct {
	c      *Client
	conn   net.Conn
	in     *bufio.Reader
	id     wire.Session
	tokens chan struct{} // one for each request under way
	over   chan struct{} // closed when the session has ended

	features uint64 // of the relay

	writing sync.Mutex // held to write a frame

	mu      sync.Mutex // guards the following fields
	nextID  uint32
	pending map[uint32]chan answer
	subs    map[mailbox.ID]*subscription
	failed  error
	last    time.Time // of the last frame read

	showing map[wire.Claim]*showing // capabilities shown, or about to be
	queue   []*showing              // not sent yet
	prover  bool                    // a goroutine sends the queue

	frames, bytes int64 // what the relay may still send in events
	backFrames    uint32
	backBytes     uint32 // used up and looked at: to be granted again
	granting      bool   // a goroutine does so
}

type answer struct {
	body []byte
	err  error
}

// fail ends the session. Only the first cause counts.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = err
	}
	s.mu.Unlock()
	s.conn.Close()
}

func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// write writes a frame. The goroutine that reads must not: the relay may be waiting
// for it.
func (s *session) write(t wire.Type, id uint32, m wire.Message) error {
	b := wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.conn.Write(b); err != nil {
		s.fail(err)
		return &lostError{s.failure()}
	}
	return nil
}

// read deals out what comes until the stream ends, and then fails everything that
// waits.
func (s *session) read() {
	err := s.readAll()
	s.fail(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := &lostError{s.failed}
	for id, ch := range s.pending {
		ch <- answer{err: lost}
		delete(s.pending, id)
	}
	close(s.over)
}

func (s *session) readAll() error {
	pinged := false
	for {
		s.conn.SetReadDeadline(time.Now().Add(pingAfter))
		// A deadline that passes within a frame loses the frame: it is only
		// taken for silence if nothing has come.
		_, err := s.in.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) && !pinged {
			pinged = true
			s.c.spawn(s.ping)
			continue
		}
		if err != nil {
			return err
		}
		pinged = false
		s.conn.SetReadDeadline(time.Now().Add(writeTimeout))
		fr, err := wire.ReadFrame(s.in)
		if err != nil {
			if errors.Is(err, wire.ErrFrame) {
				err = fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			return err
		}
		if err := s.take(fr); err != nil {
			return err
		}
	}
}

// ping ends the session unless the relay answers.
func (s *session) ping() {
	ctx, cancel := context.WithTimeout(s.c.ctx, pingTimeout)
	defer cancel()
	if _, err := s.ask(ctx, wire.TPing, &wire.Ping{}, nil); err != nil && s.c.ctx.Err() == nil {
		s.fail(errors.New("no answer to a ping"))
	}
}

// take deals with one frame. An error ends the session.
func (s *session) take(fr wire.Frame) error {
	s.mu.Lock()
	s.last = time.Now()
	s.mu.Unlock()
	switch fr.Type {
	case wire.TOK, wire.TError:
		s.mu.Lock()
		ch := s.pending[fr.ID]
		delete(s.pending, fr.ID)
		s.mu.Unlock()
		switch {
		case ch != nil && fr.Type == wire.TOK:
			ch <- answer{body: fr.Body}
		case ch != nil:
			ch <- answer{err: decodeError(fr.Body, "")}
		case fr.Type == wire.TError && fr.ID == 0:
			return decodeError(fr.Body, "session")
		case fr.Type == wire.TError:
			s.endSubscription(fr)
		}
		// Otherwise its asker has given up on it.
	case wire.TEvent:
		var e wire.Event
		if err := wire.Decode(fr.Body, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.frames <= 0 || s.bytes <= 0 {
			return fmt.Errorf("%w: more events than it has credit for", ErrProtocol)
		}
		s.frames--
		s.bytes -= int64(len(fr.Body))
		sub := s.subs[e.Mailbox]
		if sub == nil || sub.id != fr.ID {
			s.grantLocked(len(fr.Body)) // it was sent before the relay knew that nobody listens
			return nil
		}
		sub.events <- event{&e.Page, len(fr.Body)} // there is room for all that credit allows
	case wire.TGoAway:
		return decodeGone(fr.Body)
	}
	return nil
}

// endSubscription tells a subscriber that the relay has ended its subscription.
func (s *session) endSubscription(fr wire.Frame) {
	err := decodeError(fr.Body, "subscription")
	var e *wire.Error
	if !errors.As(err, &e) || len(e.Detail) != len(mailbox.ID{}) {
		return // an answer that nobody waits for
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub := s.subs[mailbox.ID(e.Detail)]; sub != nil && sub.id == fr.ID {
		select {
		case sub.ended <- err:
		default:
		}
	}
}

// grant lets the relay send as much again as an event has used up that has been
// dealt with.
func (s *session) grant(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grantLocked(size)
}

func (s *session) grantLocked(size int) {
	s.backFrames++
	s.backBytes += uint32(size)
	if s.granting || s.failed != nil {
		return
	}
	s.granting = s.c.spawn(func() {
		for {
			s.mu.Lock()
			m := wire.Credit{Frames: s.backFrames, Bytes: s.backBytes}
			s.backFrames, s.backBytes = 0, 0
			if m.Frames == 0 || s.failed != nil {
				s.granting = false
				s.mu.Unlock()
				return
			}
			s.frames += int64(m.Frames)
			s.bytes += int64(m.Bytes)
			s.mu.Unlock()
			s.write(wire.TCredit, 0, &m)
		}
	})
}

// ask sends a request and waits for its answer. It calls begin, if it is not nil, with
// the request's id before anything is sent and with mu held; an error from there
// goes no further. An error that wraps errUnsent says that nothing was sent.
func (s *session) ask(ctx context.Context, t wire.Type, m wire.Message, begin func(id uint32) error) ([]byte, error) {
	unsent := func(err error) error { return fmt.Errorf("%w: %w: %w", errUnsent, ErrLost, err) }
	select {
	case s.tokens <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("the relay is slow: %w", ctx.Err())
	case <-s.over:
		return nil, unsent(s.failure())
	}
	defer func() { <-s.tokens }()
	ch := make(chan answer, 1)
	sent := time.Now()
	s.mu.Lock()
	if s.failed != nil {
		defer s.mu.Unlock()
		return nil, unsent(s.failed)
	}
	if begin != nil {
		if err := begin(s.nextID + 1); err != nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	s.nextID++
	id := s.nextID
	s.pending[id] = ch
	s.mu.Unlock()
	if err := s.write(t, id, m); err != nil {
		s.forget(id)
		return nil, err
	}
	select {
	case a := <-ch:
		return a.body, a.err
	case <-ctx.Done():
	}
	s.forget(id)
	// A relay from which nothing has come for so long is not there: the next
	// request connects anew. One that was given little time says nothing of it.
	s.mu.Lock()
	silent := s.last.Before(sent) && time.Since(sent) >= min(s.c.cfg.Timeout/2, pingTimeout)
	s.mu.Unlock()
	if silent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.fail(errors.New("the relay does not answer"))
	}
	return nil, &lostError{fmt.Errorf("no answer: %w", ctx.Err())}
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
}

// showing is a capability that is being shown, or has been.
type showing struct {
	Capability
	done chan struct{} // closed when the relay has answered
	err  error         // set before done is closed
}

// prove shows the capabilities that the session has not shown yet. What many wait to
// show at once goes in one request.
func (s *session) prove(ctx context.Context, caps []Capability) error {
	for _, c := range caps {
		s.mu.Lock()
		sh := s.showing[c.Claim]
		if sh == nil {
			if s.failed != nil {
				defer s.mu.Unlock()
				return fmt.Errorf("%w: %w: %w", errUnsent, ErrLost, s.failed)
			}
			sh = &showing{Capability: c, done: make(chan struct{})}
			s.showing[c.Claim] = sh
			s.queue = append(s.queue, sh)
			if !s.prover {
				s.prover = s.c.spawn(s.proveAll)
			}
		}
		s.mu.Unlock()
		select {
		case <-sh.done:
			if sh.err != nil {
				return sh.err
			}
		case <-ctx.Done():
			return fmt.Errorf("the relay is slow: %w", ctx.Err())
		case <-s.c.ctx.Done():
			return ErrClosed
		}
	}
	return nil
}

// proveAll sends proofs until none is queued.
func (s *session) proveAll() {
	for {
		s.mu.Lock()
		batch := s.queue[:min(len(s.queue), wire.MaxProofs)]
		s.queue = s.queue[len(batch):]
		if len(batch) == 0 {
			s.prover = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		var m wire.Prove
		for _, sh := range batch {
			m.Proofs = append(m.Proofs, s.id.Prove(sh.Key, sh.Claim))
		}
		ctx, cancel := context.WithTimeout(s.c.ctx, s.c.cfg.Timeout)
		b, err := s.ask(ctx, wire.TProve, &m, nil)
		cancel()
		var refused *wire.Error
		if errors.As(err, &refused) {
			refused.Op = "prove" // here, as many will hold it
		}
		if err == nil && len(b) != len(batch) {
			err = fmt.Errorf("%w: %d answers to %d proofs", ErrProtocol, len(b), len(batch))
		}
		if errors.Is(err, ErrLost) {
			// Nothing was asked but to look at proofs.
			err = fmt.Errorf("%w: %w", errUnsent, err)
		}
		s.mu.Lock()
		for i, sh := range batch {
			if sh.err = err; err == nil && b[i] != 1 {
				sh.err = &wire.Error{Code: wire.CodeDenied, Op: "prove"}
			}
			if sh.err != nil {
				delete(s.showing, sh.Claim) // it may hold another time
			}
			close(sh.done)
		}
		s.mu.Unlock()
	}
}
