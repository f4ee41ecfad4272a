package server

import (
	"context"
	"errors"
	"time"

	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// ring wakes the sessions that watch a mailbox.
func (s *Server) ring(id mailbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.watching[id] {
		ss.wake(id)
	}
}

func (ss *session) subscribe(ctx context.Context, id uint32, m *wire.Subscribe) error {
	out := &wire.Flags{Each: make([]byte, len(m.Cursors))}
	begun := map[mailbox.ID]*sub{}
	for i, c := range m.Cursors {
		r, err := ss.reach(ctx, c.Mailbox, c.Gen)
		if err == nil && r.ended && c.After.Seq >= r.through {
			err = mailbox.ErrNotFound
		}
		if err == nil {
			_, err = ss.s.cfg.Store.Read(ctx, c.Mailbox, c.After, mailbox.Limit{Entries: 1, Bytes: 1, Through: r.through})
		}
		switch {
		case err == nil:
			out.Each[i] = wire.SubscribeOK
			begun[c.Mailbox] = &sub{id: id, gen: c.Gen, after: c.After}
		case errors.Is(err, mailbox.ErrEra):
			out.Each[i] = wire.SubscribeEra
		case !errors.Is(err, mailbox.ErrNotFound):
			return err
		}
	}
	ss.paging.Lock() // the answer goes before the first event
	err := ss.watch(begun)
	if err == nil {
		ss.answer(id, out)
	}
	ss.paging.Unlock()
	if err != nil {
		return err
	}
	for box := range begun {
		ss.wake(box)
	}
	return nil
}

// watch adds subscriptions, all or none.
func (ss *session) watch(begun map[mailbox.ID]*sub) error {
	s := ss.s
	s.mu.Lock()
	defer s.mu.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	n := len(ss.subs)
	for id := range begun {
		if ss.subs[id] == nil {
			n++
		}
	}
	if n > wire.MaxSubscribe {
		return &wire.Error{Code: wire.CodeBusy}
	}
	for id, sb := range begun {
		ss.subs[id] = sb
		delete(ss.dirty, id) // nothing of the new one goes before its answer
		if s.watching[id] == nil {
			s.watching[id] = map[*session]bool{}
		}
		s.watching[id][ss] = true
	}
	return nil
}

// unsubscribe ends the subscription of a mailbox, if it is sb or sb is nil. It
// reports whether it did.
func (ss *session) unsubscribe(id mailbox.ID, sb *sub) bool {
	ss.s.mu.Lock()
	defer ss.s.mu.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if sb != nil && ss.subs[id] != sb {
		return false
	}
	ss.unsubscribeLocked(id)
	return true
}

// unsubscribeLocked needs the server's mu and the session's.
func (ss *session) unsubscribeLocked(id mailbox.ID) {
	delete(ss.subs, id)
	delete(ss.dirty, id)
	w := ss.s.watching[id]
	if delete(w, ss); len(w) == 0 {
		delete(ss.s.watching, id)
	}
}

func (ss *session) credit(c wire.Credit) {
	ss.mu.Lock()
	ss.frames = min(ss.frames+int64(c.Frames), wire.MaxCredit)
	ss.bytes = min(ss.bytes+int64(c.Bytes), wire.MaxCredit)
	ss.mu.Unlock()
	ss.hurry()
}

// wake notes that a subscription may have something to read.
func (ss *session) wake(id mailbox.ID) {
	ss.mu.Lock()
	if ss.subs[id] != nil {
		ss.dirty[id] = true
		if !ss.pump && !ss.ended {
			ss.pump = true
			ss.busy.Add(1)
			go ss.pumpEvents()
		}
	}
	ss.mu.Unlock()
	ss.hurry()
}

func (ss *session) hurry() {
	select {
	case ss.work <- struct{}{}:
	default:
	}
}

// pumpEvents sends events while there is credit and something to send.
func (ss *session) pumpEvents() {
	defer ss.busy.Done()
	for {
		select {
		case <-ss.over:
			return
		case <-ss.work:
		}
		for ss.pumpOne() {
		}
	}
}

// pumpOne sends one event. It reports whether there may be more to do.
func (ss *session) pumpOne() bool {
	ss.paging.Lock()
	defer ss.paging.Unlock()
	ss.mu.Lock()
	if ss.ended || ss.frames <= 0 || ss.bytes <= 0 || len(ss.dirty) == 0 {
		ss.mu.Unlock()
		return false
	}
	var id mailbox.ID
	for id = range ss.dirty { // any one: the map's order is random, so none starves
		break
	}
	// A ring from here on makes it dirty again.
	delete(ss.dirty, id)
	sb := ss.subs[id]
	after, credit := sb.after, int(min(ss.bytes, pageBytes)) // what is dirty is subscribed
	ss.mu.Unlock()

	ctx := ss.s.ctx
	r, err := ss.reach(ctx, id, sb.gen)
	var pg pageBody
	if err == nil {
		pg, err = ss.makePage(ctx, wire.Cursor{Mailbox: id, Gen: sb.gen, After: after}, &r, 0, credit,
			func(p *wire.Page) wire.Message { return &wire.Event{Mailbox: id, Page: *p} })
	}
	defer ss.s.give(pg.held)
	switch {
	case err == errCrowded:
		time.AfterFunc(errCrowded.Wait, func() { ss.wake(id) })
		return true
	case errors.Is(err, mailbox.ErrNotFound), errors.Is(err, mailbox.ErrEra):
		// The mailbox was deleted, or what the key reaches is gone.
		if ss.unsubscribe(id, sb) {
			e := wire.ErrorOf(err)
			e.Detail = id[:]
			ss.refuse(sb.id, e)
		}
		return true
	case err != nil:
		// The client comes back and subscribes again behind what it has.
		ss.s.log.Error("a subscription failed", "err", err)
		ss.conn.Close()
		return false
	}
	if pg.end.Seq == after.Seq {
		return true
	}
	ss.mu.Lock()
	if ss.subs[id] != sb {
		ss.mu.Unlock() // replaced or ended meanwhile
		return true
	}
	ss.frames--
	ss.bytes -= int64(len(pg.body))
	sb.after = pg.end.Mark()
	if pg.more {
		ss.dirty[id] = true
	}
	ss.mu.Unlock()
	if ss.send(wire.Frame{Type: wire.TEvent, ID: sb.id, Body: pg.body}) != nil {
		return false
	}
	if r.ended && pg.end.Seq >= r.through {
		ss.unsubscribe(id, sb)
	}
	return true
}
