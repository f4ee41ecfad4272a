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

	writing sync.Mutex // held to write a frame
	proving sync.Mutex // held while capabilities are shown

	mu      sync.Mutex // guards the following fields
	nextID  uint32
	pending map[uint32]chan answer
	proved  map[wire.Claim]bool
	subs    map[mailbox.ID]*subscription
	failed  error
	last    time.Time // of the last frame read
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

func (s *session) write(t wire.Type, id uint32, m wire.Message) error {
	b := wire.Frame{Type: t, ID: id, Body: wire.Encode(m)}.Append(nil)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := s.conn.Write(b); err != nil {
		s.fail(err)
		return &lostError{err}
	}
	return nil
}

// read deals out what comes until the stream ends, and then fails everything that
// waits.
func (s *session) read() {
	pinged := false
	for {
		s.conn.SetReadDeadline(time.Now().Add(pingAfter))
		// A deadline that passes within a frame loses the frame: it is only
		// taken for silence if nothing has come.
		_, err := s.in.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) && !pinged {
			pinged = true
			s.c.busy.Add(1)
			go func() {
				defer s.c.busy.Done()
				ctx, cancel := context.WithTimeout(s.c.ctx, 5*time.Second)
				defer cancel()
				if _, err := s.ask(ctx, "ping", wire.TPing, &wire.Ping{}); err != nil && s.c.ctx.Err() == nil {
					s.fail(err)
				}
			}()
			continue
		}
		if err != nil {
			s.fail(err)
			break
		}
		pinged = false
		s.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		fr, err := wire.ReadFrame(s.in)
		if err != nil {
			if errors.Is(err, wire.ErrFrame) {
				err = fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			s.fail(err)
			break
		}
		if err := s.take(fr); err != nil {
			s.fail(err)
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := &lostError{s.failed}
	for id, ch := range s.pending {
		ch <- answer{err: lost}
		delete(s.pending, id)
	}
	close(s.over)
}

// take deals with one frame. An error ends the session.
func (s *session) take(fr wire.Frame) error {
	switch fr.Type {
	case wire.TOK, wire.TError:
		s.mu.Lock()
		ch := s.pending[fr.ID]
		delete(s.pending, fr.ID)
		s.mu.Unlock()
		if ch == nil {
			if fr.ID == 0 && fr.Type == wire.TError {
				return decodeError(fr.Body, "session")
			}
			return nil // given up on
		}
		if fr.Type == wire.TError {
			ch <- answer{err: decodeError(fr.Body, "")}
		} else {
			ch <- answer{body: fr.Body}
		}
	case wire.TEvent:
		var e wire.Event
		if err := wire.Decode(fr.Body, &e); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		s.mu.Lock()
		sub := s.subs[e.Mailbox]
		s.mu.Unlock()
		if sub == nil || sub.id != fr.ID {
			return s.write(wire.TCredit, 0, &wire.Credit{Frames: 1, Bytes: uint32(len(fr.Body))})
		}
		select {
		case sub.events <- event{&e.Page, uint32(len(fr.Body))}:
		default:
			return fmt.Errorf("%w: more events than it has credit for", ErrProtocol)
		}
	case wire.TGoAway:
		var g wire.GoAway
		if err := wire.Decode(fr.Body, &g); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return errors.New("the relay asked us to go")
	}
	return nil
}

// ask sends a request and waits for its answer.
func (s *session) ask(ctx context.Context, op string, t wire.Type, m wire.Message) ([]byte, error) {
	return s.askWith(ctx, op, t, m, nil)
}

// askWith calls begin, with the request's id, before anything can be answered.
func (s *session) askWith(ctx context.Context, op string, t wire.Type, m wire.Message, begin func(id uint32)) ([]byte, error) {
	select {
	case s.tokens <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err() // nothing was sent
	case <-s.over:
		return nil, fmt.Errorf("%w: %w", ErrLost, s.failure()) // nothing was sent
	}
	defer func() { <-s.tokens }()
	ch := make(chan answer, 1)
	s.mu.Lock()
	if s.failed != nil {
		err := s.failed
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	s.nextID++
	id := s.nextID
	s.pending[id] = ch
	if begin != nil {
		begin(id)
	}
	s.mu.Unlock()
	if err := s.write(t, id, m); err != nil {
		s.forget(id)
		return nil, err
	}
	select {
	case a := <-ch:
		var we *wire.Error
		if errors.As(a.err, &we) {
			we.Op = op
		}
		return a.body, a.err
	case <-ctx.Done():
		s.forget(id)
		// A relay that does not answer is not there: the next request connects anew.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.fail(fmt.Errorf("no answer to %s", op))
		}
		return nil, &lostError{ctx.Err()}
	}
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
}

// prove shows the capabilities that the session has not shown yet.
func (s *session) prove(ctx context.Context, caps []Capability) error {
	if len(caps) == 0 {
		return nil
	}
	s.proving.Lock()
	defer s.proving.Unlock()
	var m wire.Prove
	s.mu.Lock()
	for _, c := range caps {
		if !s.proved[c.Claim] {
			m.Proofs = append(m.Proofs, s.id.Prove(c.Key, c.Claim))
		}
	}
	s.mu.Unlock()
	if len(m.Proofs) == 0 {
		return nil
	}
	b, err := s.ask(ctx, "prove", wire.TProve, &m)
	if err != nil {
		return err
	}
	if len(b) != len(m.Proofs) {
		return fmt.Errorf("%w: %d answers to %d proofs", ErrProtocol, len(b), len(m.Proofs))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range m.Proofs {
		if b[i] != 1 {
			return &wire.Error{Code: wire.CodeDenied, Op: "prove"}
		}
		s.proved[p.Claim] = true
	}
	return nil
}
