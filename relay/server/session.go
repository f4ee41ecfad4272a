package server

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// session is one stream from Hello to its end.
type session struct {
	s      *Server
	conn   net.Conn
	addr   netip.Addr
	access *access.Session
	tokens chan struct{} // one for each request under way
	over   chan struct{} // closed when the session ends
	busy   sync.WaitGroup

	writing sync.Mutex // held to write a frame

	appendOnce sync.Once
	appends    chan appendJob

	mu     sync.Mutex // guards the following fields
	ended  bool
	subs   map[mailbox.ID]*sub
	dirty  map[mailbox.ID]bool // subscriptions that may have something to read
	frames int64               // credit
	bytes  int64
	work   chan struct{} // holds one: look at dirty and credit
	pump   bool          // runs
}

// sub is a subscription.
type sub struct {
	id    uint32 // of the SUBSCRIBE
	gen   mailbox.Gen
	after mailbox.Mark
}

type appendJob struct {
	id  uint32
	req wire.Append
}

// send writes a frame. An error ends the session.
func (ss *session) send(fr wire.Frame) error {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	ss.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := ss.conn.Write(fr.Append(make([]byte, 0, len(fr.Body)+8)))
	if err != nil {
		ss.conn.Close()
	}
	return err
}

func (ss *session) answer(id uint32, m wire.Message) {
	ss.send(wire.Frame{Type: wire.TOK, ID: id, Body: wire.Encode(m)})
}

func (ss *session) refuse(id uint32, err error) {
	e := wire.ErrorOf(err)
	if e.Code == wire.CodeInternal {
		ss.s.log.Error("a request failed", "err", err)
	}
	ss.send(wire.Frame{Type: wire.TError, ID: id, Body: wire.Encode(e)})
}

// goAway tells the client to leave and ends the session.
func (ss *session) goAway(reason uint8, wait uint32) {
	ss.send(wire.Frame{Type: wire.TGoAway, Body: wire.Encode(&wire.GoAway{Reason: reason, Wait: wait})})
	ss.conn.Close()
}

// end waits for everything that the session has started.
func (ss *session) end() {
	ss.conn.Close()
	ss.mu.Lock()
	ss.ended = true
	var watched []mailbox.ID
	for id := range ss.subs {
		watched = append(watched, id)
	}
	ss.mu.Unlock()
	for _, id := range watched {
		ss.s.unwatch(ss, id)
	}
	close(ss.over)
	ss.busy.Wait()
}

// read reads requests until the stream ends.
func (ss *session) read(in *bufio.Reader) {
	for {
		ss.conn.SetReadDeadline(time.Now().Add(ss.s.cfg.Idle))
		fr, err := wire.ReadFrame(in)
		if err != nil {
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				ss.goAway(wire.GoIdle, 1)
			case errors.Is(err, wire.ErrFrame):
				ss.refuse(0, &wire.Error{Code: wire.CodeMalformed})
			}
			return
		}
		if !ss.dispatch(fr) {
			return
		}
	}
}

// dispatch begins a request. It reports false if the session is to end.
func (ss *session) dispatch(fr wire.Frame) bool {
	ctx := ss.s.stopped
	malformed := func() bool {
		ss.refuse(fr.ID, &wire.Error{Code: wire.CodeMalformed})
		return true
	}
	// now answers in the order of the stream, here in the reading goroutine.
	now := func(m wire.Message, f func() (wire.Message, error)) bool {
		if wire.Decode(fr.Body, m) != nil {
			return malformed()
		}
		if out, err := f(); err != nil {
			ss.refuse(fr.ID, err)
		} else if out != nil {
			ss.answer(fr.ID, out)
		}
		return true
	}
	// soon answers when it is done, beside other requests.
	soon := func(m wire.Message, f func() (wire.Message, error)) bool {
		if wire.Decode(fr.Body, m) != nil {
			return malformed()
		}
		select {
		case ss.tokens <- struct{}{}:
		default:
			ss.refuse(fr.ID, &wire.Error{Code: wire.CodeBusy, Wait: time.Second})
			return true
		}
		ss.busy.Add(1)
		go func() {
			defer func() { <-ss.tokens; ss.busy.Done() }()
			if out, err := f(); err != nil {
				ss.refuse(fr.ID, err)
			} else {
				ss.answer(fr.ID, out)
			}
		}()
		return true
	}
	store, slots := ss.s.cfg.Store, ss.s.cfg.Slots

	switch fr.Type {
	case wire.TProve:
		var m wire.Prove
		return now(&m, func() (wire.Message, error) {
			out, err := ss.access.Prove(ctx, m.Proofs)
			return &wire.Flags{Each: out}, err
		})
	case wire.TCreate:
		var m wire.Create
		return now(&m, func() (wire.Message, error) { return ss.create(ctx, &m) })
	case wire.TCredit:
		var m wire.Credit
		return now(&m, func() (wire.Message, error) { ss.credit(m); return nil, nil })
	case wire.TSubscribe:
		var m wire.Subscribe
		return now(&m, func() (wire.Message, error) { return ss.subscribe(ctx, fr.ID, &m) })
	case wire.TUnsubscribe:
		var m wire.Object
		return now(&m, func() (wire.Message, error) { ss.unsubscribe(mailbox.ID(m.ID)); return &wire.Empty{}, nil })
	case wire.TPing:
		var m wire.Ping
		return now(&m, func() (wire.Message, error) { return &m, nil })

	case wire.TAppend:
		var m wire.Append
		if wire.Decode(fr.Body, &m) != nil || m.Kind == mailbox.Commit && len(m.Meta) != 0 && len(m.Meta) != wire.NextCapsSize {
			return malformed()
		}
		return ss.append(appendJob{fr.ID, m})

	case wire.TRead:
		var m wire.Read
		return soon(&m, func() (wire.Message, error) { return ss.readPage(ctx, m) })
	case wire.TStatus:
		var m wire.StatusRequest
		return soon(&m, func() (wire.Message, error) { return ss.status(ctx, m) })
	case wire.TTrim:
		var m wire.Trim
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleAdmin, Object: m.Mailbox}) {
				return nil, mailbox.ErrNotFound
			}
			return &wire.Empty{}, store.Trim(ctx, m.Mailbox, m.Through)
		})
	case wire.TDelete:
		var m wire.Object
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleAdmin, Object: m.ID}) {
				return nil, mailbox.ErrNotFound
			}
			return &wire.Empty{}, store.Delete(ctx, m.ID)
		})

	case wire.TSlotCreate:
		var m wire.SlotCreate
		return soon(&m, func() (wire.Message, error) { return &wire.Empty{}, ss.createSlot(ctx, &m) })
	case wire.TSlotRead:
		var m wire.Object
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleSlotRead, Object: m.ID}) {
				return nil, mailbox.ErrNotFound
			}
			sl, err := slots.Slot(ctx, m.ID)
			if err == nil && sl.Once {
				return nil, &wire.Error{Code: wire.CodeMalformed}
			}
			return &wire.SlotValue{Version: sl.Version, Value: sl.Value}, err
		})
	case wire.TSlotTake:
		var m wire.SlotTake
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleSlotRead, Object: m.Slot}) {
				return nil, mailbox.ErrNotFound
			}
			sl, err := slots.TakeSlot(ctx, m.Slot, m.Tag)
			return &wire.SlotValue{Version: sl.Version, Value: sl.Value}, err
		})
	case wire.TSlotSet:
		var m wire.SlotSet
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleSlotOwner, Object: m.Slot}) {
				return nil, mailbox.ErrNotFound
			}
			return &wire.Empty{}, slots.SetSlot(ctx, m.Slot, m.Version, m.Value)
		})
	case wire.TSlotState:
		var m wire.Object
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleSlotOwner, Object: m.ID}) {
				return nil, mailbox.ErrNotFound
			}
			sl, err := slots.Slot(ctx, m.ID)
			return &wire.SlotState{Version: sl.Version, Expires: sl.Expires, Taken: sl.Taken}, err
		})
	case wire.TSlotRevoke:
		var m wire.Object
		return soon(&m, func() (wire.Message, error) {
			if !ss.access.Shown(wire.Claim{Role: wire.RoleSlotOwner, Object: m.ID}) {
				return nil, mailbox.ErrNotFound
			}
			return &wire.Empty{}, slots.RevokeSlot(ctx, m.ID)
		})
	case wire.THello:
		return false // a session begins once
	}
	return malformed()
}

func (ss *session) create(ctx context.Context, m *wire.Create) (wire.Message, error) {
	if !m.Verify(ss.access.ID()) {
		return nil, &wire.Error{Code: wire.CodeDenied}
	}
	if err := ss.s.limiter.Create(ss.addr, m.Ticket); err != nil {
		return nil, &wire.Error{Code: wire.CodeRefused, Wait: time.Minute}
	}
	t := ss.s.cfg.Terms
	t.Meta = m.Caps()
	if m.Keep != 0 {
		t.Keep = m.Keep
	}
	if m.MaxEntries != 0 {
		t.MaxEntries = min(m.MaxEntries, t.MaxEntries)
	}
	if m.MaxBytes != 0 {
		t.MaxBytes = min(m.MaxBytes, t.MaxBytes)
	}
	if m.Full != 0 {
		t.Full = m.Full
	}
	id := m.ID(ss.access.ID().Relay)
	if err := ss.s.cfg.Store.Create(ctx, id, t); err != nil {
		return nil, err
	}
	ss.access.Grant(wire.Claim{Role: wire.RoleAdmin, Object: id})
	st, err := ss.s.cfg.Store.State(ctx, id)
	if err != nil {
		return nil, err
	}
	sh := ss.s.sign(st.Head)
	return &sh, nil
}

func (ss *session) createSlot(ctx context.Context, m *wire.SlotCreate) error {
	if !m.Verify(ss.access.ID()) {
		return &wire.Error{Code: wire.CodeDenied}
	}
	if err := ss.s.limiter.Create(ss.addr, m.Ticket); err != nil {
		return &wire.Error{Code: wire.CodeRefused, Wait: time.Minute}
	}
	id := wire.SlotID(ss.access.ID().Relay, m.Reader)
	err := ss.s.cfg.Slots.CreateSlot(ctx, id, mailbox.Slot{
		Owner: [32]byte(m.Owner.Bytes()), Read: [32]byte(m.Reader.Bytes()), Once: m.Once, Expires: m.Expires, Value: m.Value})
	if err == nil {
		ss.access.Grant(wire.Claim{Role: wire.RoleSlotOwner, Object: id})
		ss.access.Grant(wire.Claim{Role: wire.RoleSlotRead, Object: id})
	}
	return err
}

// append queues an append behind those of the session before it.
func (ss *session) append(j appendJob) bool {
	ss.appendOnce.Do(func() {
		ss.appends = make(chan appendJob, appendQueue)
		ss.busy.Add(1)
		go ss.store()
	})
	select {
	case ss.appends <- j:
	default:
		ss.refuse(j.id, &wire.Error{Code: wire.CodeBusy, Wait: time.Second})
	}
	return true
}

// store puts what is queued into the store, all at once, in order.
func (ss *session) store() {
	defer ss.busy.Done()
	for {
		var jobs []appendJob
		select {
		case j := <-ss.appends:
			jobs = append(jobs, j)
		case <-ss.over:
			return
		}
		for more := true; more && len(jobs) < appendQueue; {
			select {
			case j := <-ss.appends:
				jobs = append(jobs, j)
			default:
				more = false
			}
		}
		ds := make([]mailbox.Deposit, 0, len(jobs))
		put := jobs[:0]
		for _, j := range jobs {
			if !ss.mayAppend(&j.req) {
				ss.refuse(j.id, mailbox.ErrNotFound)
				continue
			}
			put = append(put, j)
			ds = append(ds, j.req.Deposit())
		}
		if len(ds) == 0 {
			continue
		}
		// The session may end meanwhile; what has been handed to the store is
		// stored or not, whoever still listens.
		for i, o := range ss.s.cfg.Store.Put(context.Background(), ds) {
			if o.Err != nil {
				ss.refuse(put[i].id, o.Err)
			} else {
				ss.answer(put[i].id, ss.s.receipt(o.Receipt))
			}
		}
	}
}

// mayAppend looks for the capability of the generation that the entry names. The
// store compares that generation with the mailbox's in the very write.
func (ss *session) mayAppend(m *wire.Append) bool {
	return ss.access.Shown(wire.Claim{Role: wire.RoleAppend, Object: m.Mailbox, Gen: m.Gen})
}

// reach returns how far the read key of a generation reaches: to the commit that
// installs the next, 0 for no end yet.
func (ss *session) reach(ctx context.Context, id mailbox.ID, gen mailbox.Gen) (mailbox.Seq, error) {
	if !ss.access.Shown(wire.Claim{Role: wire.RoleRead, Object: id, Gen: gen}) {
		return 0, mailbox.ErrNotFound
	}
	next, err := ss.s.cfg.Store.Generation(ctx, id, gen+1)
	if errors.Is(err, mailbox.ErrNotFound) {
		st, err := ss.s.cfg.Store.State(ctx, id)
		if err == nil && st.Gen > gen {
			// Its commit came between the two questions, or is gone by now.
			if next, err := ss.s.cfg.Store.Generation(ctx, id, gen+1); err == nil {
				return next.Seq, nil
			}
			return 0, mailbox.ErrNotFound
		}
		return 0, err
	}
	return next.Seq, err
}

func (ss *session) readPage(ctx context.Context, m wire.Read) (wire.Message, error) {
	through, err := ss.reach(ctx, m.Mailbox, m.Gen)
	if err != nil {
		return nil, err
	}
	p, err := ss.page(ctx, m.Cursor, through, int(m.MaxEntries), int(m.MaxBytes))
	return p, err
}

// page reads a page that fits into a frame.
func (ss *session) page(ctx context.Context, c wire.Cursor, through mailbox.Seq, entries, bytes int) (*wire.Page, error) {
	if bytes <= 0 || bytes > pageBytes {
		bytes = pageBytes
	}
	if through != 0 && c.After.Seq >= through {
		return nil, &wire.Error{Code: wire.CodeDenied} // behind what this key may read
	}
	for {
		p, err := ss.s.cfg.Store.Read(ctx, c.Mailbox, c.After, mailbox.Limit{Entries: entries, Bytes: bytes, Through: through})
		if err != nil {
			return nil, err
		}
		size, fit := wire.PageOverhead, len(p.Entries)
		for i, e := range p.Entries {
			if size += wire.EntryOverhead + len(e.Meta) + len(e.Payload); size > wire.MaxFrame && i > 0 {
				fit = i
				break
			}
		}
		lost := len(p.Lost) * (8 + 1 + 96)
		switch {
		case fit < len(p.Entries):
			entries = fit
			continue
		case size+lost > wire.MaxFrame && len(p.Lost) > 1:
			through = p.Lost[len(p.Lost)/2].End.Seq
			continue
		}
		return &wire.Page{Entries: p.Entries, Lost: p.Lost, End: ss.s.sign(p.End), More: p.More}, nil
	}
}

func (ss *session) status(ctx context.Context, m wire.StatusRequest) (wire.Message, error) {
	through, err := ss.reach(ctx, m.Mailbox, m.Gen)
	if err != nil {
		return nil, err
	}
	st, err := ss.s.cfg.Store.State(ctx, m.Mailbox)
	if err != nil {
		return nil, err
	}
	out := &wire.Status{Head: st.Head, Gen: st.Gen, Minute: mailbox.MinuteOf(ss.s.cfg.Clock())}
	if through != 0 {
		// An old key learns where its own generation ended, and no more.
		p, err := ss.s.cfg.Store.Read(ctx, m.Mailbox, mailbox.Mark{}, mailbox.Limit{Entries: 1, Through: through})
		if err != nil {
			return nil, err
		}
		for p.End.Seq < through {
			if p, err = ss.s.cfg.Store.Read(ctx, m.Mailbox, p.End.Mark(), mailbox.Limit{Through: through}); err != nil {
				return nil, err
			}
		}
		out.Head, out.Gen, out.Ended = p.End, m.Gen, true
	}
	out.Sign(ss.s.cfg.Key, m.Nonce)
	return out, nil
}
