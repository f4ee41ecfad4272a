package server

import (
	"context"
	"errors"

	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

func (ss *session) subscribe(ctx context.Context, id uint32, m *wire.Subscribe) (wire.Message, error) {
	out := &wire.Flags{Each: make([]byte, len(m.Cursors))}
	var added []mailbox.ID
	for i, c := range m.Cursors {
		through, err := ss.reach(ctx, c.Mailbox, c.Gen)
		if errors.Is(err, mailbox.ErrNotFound) || through != 0 && c.After.Seq >= through {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, err = ss.s.cfg.Store.Read(ctx, c.Mailbox, c.After, mailbox.Limit{Entries: 1, Bytes: 1})
		if errors.Is(err, mailbox.ErrEra) {
			out.Each[i] = wire.SubscribeEra
			continue
		}
		if err != nil {
			return nil, err
		}
		ss.mu.Lock()
		if len(ss.subs) >= wire.MaxSubscribe && ss.subs[c.Mailbox] == nil {
			ss.mu.Unlock()
			return nil, &wire.Error{Code: wire.CodeBusy}
		}
		ss.subs[c.Mailbox] = &sub{id: id, gen: c.Gen, after: c.After}
		ss.mu.Unlock()
		ss.s.watch(ss, c.Mailbox)
		added = append(added, c.Mailbox)
		out.Each[i] = wire.SubscribeOK
	}
	// The answer goes before the first event.
	ss.answer(id, out)
	for _, box := range added {
		ss.wake(box)
	}
	return nil, nil
}

func (ss *session) unsubscribe(id mailbox.ID) {
	ss.mu.Lock()
	delete(ss.subs, id)
	delete(ss.dirty, id)
	ss.mu.Unlock()
	ss.s.unwatch(ss, id)
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
	if sb == nil {
		ss.mu.Unlock()
		return true
	}
	s, credit := *sb, int(min(ss.bytes, pageBytes))
	ss.mu.Unlock()

	ctx := ss.s.stopped
	through, err := ss.reach(ctx, id, s.gen)
	var p *wire.Page
	if err == nil {
		p, err = ss.page(ctx, wire.Cursor{Mailbox: id, Gen: s.gen, After: s.after}, through, 0, credit)
	}
	if err != nil {
		// Deleted, or the key reaches no further: the client finds out by asking.
		ss.unsubscribe(id)
		return true
	}
	if p.End.Head.Seq == s.after.Seq {
		return true
	}
	body := wire.Encode(&wire.Event{Mailbox: id, Page: *p})
	if ss.send(wire.Frame{Type: wire.TEvent, ID: s.id, Body: body}) != nil {
		return false
	}
	ended := through != 0 && p.End.Head.Seq >= through
	ss.mu.Lock()
	ss.frames--
	ss.bytes -= int64(len(body))
	if ss.subs[id] == sb {
		sb.after = p.End.Head.Mark()
		if p.More && !ended {
			ss.dirty[id] = true
		}
	}
	ss.mu.Unlock()
	if ended {
		ss.mu.Lock()
		same := ss.subs[id] == sb
		ss.mu.Unlock()
		if same {
			ss.unsubscribe(id)
		}
	}
	return true
}
