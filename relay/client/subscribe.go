package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// subscription is a reader of one mailbox within a session.
type subscription struct {
	id     uint32
	events chan event // as many as there can be credit for
	ended  chan error // holds one: the relay has ended it
}

type event struct {
	page *wire.Page
	size int
}

// ErrSubscribed is returned for a second subscription of one mailbox.
var ErrSubscribed = errors.New("mailbox is subscribed already")

// Subscribe calls take with everything that stands and comes behind a place, page
// after page, each verified, and goes on across reconnects. It returns nil when
// the generation has ended: the last page's last entry is the commit that installs
// the next. It returns the error of take; ctx's; ErrClosed; and the relay's word when
// it denies the mailbox (mailbox.ErrNotFound), does not know the place
// (mailbox.ErrEra), or contradicts itself (*EvidenceError).
func (c *Client) Subscribe(ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen, from Place, take func(*Page) error) error {
	for failures := 0; ; {
		before := from.At
		err := c.subscribeOnce(ctx, read, id, gen, &from, take)
		var gave *takeError
		var evidence *EvidenceError
		var refused *wire.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &gave):
			return gave.err
		case ctx.Err() != nil:
			return ctx.Err()
		case c.ctx.Err() != nil:
			return ErrClosed
		case errors.As(err, &evidence), errors.Is(err, ErrSubscribed):
			return err
		case errors.As(err, &refused) && (refused.Code == wire.CodeDenied || refused.Code == wire.CodeEra || refused.Code == wire.CodeVersion):
			return err
		}
		if from.At != before {
			failures = 0
		}
		wait := backoff(failures)
		failures++
		c.mu.Lock()
		if !c.state.Connected {
			c.state.Retry = time.Now().Add(wait)
		}
		c.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

type takeError struct{ err error }

func (e *takeError) Error() string { return e.err.Error() }

func (c *Client) subscribeOnce(ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen, from *Place, take func(*Page) error) error {
	actx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	s, err := c.session(actx)
	if err != nil {
		return err
	}
	if err := s.prove(actx, []Capability{{wire.Claim{Role: wire.RoleRead, Object: id, Gen: gen}, read}}); err != nil {
		return err
	}
	sub := &subscription{events: make(chan event, creditFrames), ended: make(chan error, 1)}
	cursor := wire.Cursor{Mailbox: id, Gen: gen, After: from.At}
	b, err := s.ask(actx, wire.TSubscribe, &wire.Subscribe{Cursors: []wire.Cursor{cursor}}, func(n uint32) error {
		if s.subs[id] != nil {
			return ErrSubscribed
		}
		sub.id = n
		s.subs[id] = sub
		return nil
	})
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.subs[id] == sub {
			delete(s.subs, id)
		}
		for { // what was not looked at has used up credit
			select {
			case e := <-sub.events:
				s.grantLocked(e.size)
			default:
				return
			}
		}
	}()
	switch {
	case err != nil:
		return err
	case len(b) != 1:
		err := fmt.Errorf("%w: %d answers to one cursor", ErrProtocol, len(b))
		s.fail(err)
		return err
	case b[0] == wire.SubscribeDenied:
		return &wire.Error{Code: wire.CodeDenied, Op: "subscribe"}
	case b[0] == wire.SubscribeEra:
		return &wire.Error{Code: wire.CodeEra, Op: "subscribe"}
	}
	for {
		var e event
		select {
		case e = <-sub.events:
		case <-ctx.Done():
			s.write(wire.TUnsubscribe, s.unheard(), &wire.Object{ID: id})
			return ctx.Err()
		case err := <-sub.ended:
			return err
		case <-s.over:
			return fmt.Errorf("%w: %w", ErrLost, s.failure())
		}
		p, err := c.checkPage(e.page, id, gen, *from)
		if err != nil {
			s.grant(e.size)
			if ev := (*EvidenceError)(nil); !errors.As(err, &ev) {
				s.fail(err) // nothing more is believed of this session
			}
			return err
		}
		err = take(p)
		s.grant(e.size) // taken or not, it is looked at
		if err != nil {
			s.write(wire.TUnsubscribe, s.unheard(), &wire.Object{ID: id})
			return &takeError{err}
		}
		*from = p.End
		if n := len(p.Items); n > 0 && p.Items[n-1].ends(gen) {
			return nil
		}
	}
}

// unheard returns the id of a request whose answer nobody waits for.
func (s *session) unheard() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	return s.nextID
}
