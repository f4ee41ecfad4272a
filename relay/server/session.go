package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// errLeaving is why a session goes on no more that is to end.
var errLeaving = errors.New("the session is to end")

// errCrowded is the answer when all sessions together hold as much as they may.
var errCrowded = &wire.Error{Code: wire.CodeBusy, Wait: time.Second}

// session is one stream from Hello to its end.
type session struct {
	s      *Server
	conn   net.Conn
	addr   netip.Addr
	access *access.Session
	tokens chan struct{} // one for each request under way
	held   atomic.Int64  // bytes of requests under way
	freed  chan struct{} // holds one: held has become less
	over   chan struct{} // closed when no request begins any more
	busy   sync.WaitGroup

	writing sync.Mutex // held to write a frame
	paging  sync.Mutex // held from making a page until it is sent

	audit chan struct{} // holds one: while a blob is looked through

	appendOnce sync.Once
	appends    chan appendJob

	mu      sync.Mutex // guards the following fields
	leaving uint8      // the reason if the session is to end, or 0
	ended   bool
	subs    map[mailbox.ID]*sub
	dirty   map[mailbox.ID]bool // subscriptions that may have something to read
	frames  int64               // credit
	bytes   int64
	work    chan struct{} // holds one: look at dirty and credit
	pump    bool          // runs
}

// sub is a subscription.
type sub struct {
	id    uint32 // of the SUBSCRIBE
	gen   mailbox.Gen
	after mailbox.Mark
}

type appendJob struct {
	id   uint32
	size int
	req  wire.Append
}

// await gives the client a time for what it sends next. It reports false if the
// session is to end.
func (ss *session) await(d time.Duration) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.leaving != 0 {
		return false
	}
	ss.conn.SetReadDeadline(time.Now().Add(d))
	return true
}

// leave makes the session end once what is under way is done.
func (ss *session) leave(reason uint8) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.leaving == 0 {
		ss.leaving = reason
		ss.conn.SetReadDeadline(time.Unix(1, 0))
	}
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

// reply answers with m, or with err if it is not nil.
func (ss *session) reply(id uint32, m wire.Message, err error) {
	if err != nil {
		ss.refuse(id, err)
	} else {
		ss.answer(id, m)
	}
}

// end finishes everything that the session has begun, and says goodbye.
func (ss *session) end(in *bufio.Reader) {
	s := ss.s
	s.mu.Lock()
	ss.mu.Lock()
	ss.ended = true
	for id := range ss.subs {
		ss.unsubscribeLocked(id)
	}
	reason := ss.leaving
	sessions := len(s.sessions)
	ss.mu.Unlock()
	s.mu.Unlock()
	close(ss.over)
	ss.busy.Wait()
	if ss.access != nil {
		ss.access.Close()
	}
	if reason != 0 {
		// Spread out over so long, those who come back do not come all at once.
		wait := uint32(1)
		if reason != wire.GoIdle {
			wait = min(1+uint32(sessions/200), 60)
		}
		ss.send(wire.Frame{Type: wire.TGoAway, Body: wire.Encode(&wire.GoAway{Reason: reason, Wait: wait})})
	}
	// A reset would overtake what has just been sent: the client hangs up.
	if half, ok := ss.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		ss.conn.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, in, 2*wire.MaxFrame)
	}
	ss.conn.Close()
}

// read reads requests until the stream ends.
func (ss *session) read(in *bufio.Reader) {
	for {
		if !ss.await(ss.s.cfg.Idle) {
			return
		}
		if _, err := in.Peek(1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				ss.leave(wire.GoIdle)
			}
			return
		}
		if !ss.await(frameTimeout) {
			return
		}
		coming := 0
		fr, err := wire.ReadFrameRoom(in, func(n int) error {
			if !ss.s.take(n) {
				return errCrowded
			}
			coming = n
			return nil
		})
		ss.s.give(coming)
		switch {
		case err == errCrowded:
			ss.refuse(fr.ID, err)
			continue
		case errors.Is(err, wire.ErrFrame):
			ss.refuse(0, &wire.Error{Code: wire.CodeMalformed})
			return
		case err != nil:
			return
		}
		if !ss.dispatch(fr) {
			return
		}
	}
}

// hold counts the bytes of a request that is under way. It waits while the
// session has too many: its client is then not read from. It returns an error if
// all sessions together have too many.
func (ss *session) hold(n int) error {
	for ss.held.Load() > 0 && ss.held.Load()+int64(n) > sessionBytes {
		<-ss.freed // whoever holds some frees it: requests end
	}
	if !ss.s.take(n) {
		return errCrowded
	}
	ss.held.Add(int64(n))
	return nil
}

func (ss *session) free(n int) {
	ss.held.Add(-int64(n))
	ss.s.give(n)
	select {
	case ss.freed <- struct{}{}:
	default:
	}
}

// dispatch begins a request. It reports false if the session is to end.
func (ss *session) dispatch(fr wire.Frame) bool {
	ctx := ss.s.ctx
	// now answers in the order of the stream, here in the reading goroutine.
	now := func(m wire.Message, f func() (wire.Message, error)) bool {
		if wire.Decode(fr.Body, m) != nil {
			return ss.malformed(fr.ID)
		}
		if out, err := f(); err != nil || out != nil {
			ss.reply(fr.ID, out, err)
		}
		return true
	}
	// soon answers when it is done, beside other requests, if the session has
	// shown what it needs.
	soon := func(m wire.Message, need func() wire.Claim, f func() (wire.Message, error)) bool {
		if wire.Decode(fr.Body, m) != nil {
			return ss.malformed(fr.ID)
		}
		if need != nil && !ss.access.Shown(need()) {
			ss.refuse(fr.ID, mailbox.ErrNotFound)
			return true
		}
		return ss.begin(fr, func() {
			out, err := f()
			ss.reply(fr.ID, out, err)
		})
	}
	store, slots := ss.s.cfg.Store, ss.s.cfg.Slots

	switch fr.Type {
	case wire.TProve:
		var m wire.Prove
		return now(&m, func() (wire.Message, error) {
			out, err := ss.access.Prove(ctx, m.Proofs)
			if errors.Is(err, access.ErrFull) {
				// In a new session it shows what it still needs.
				ss.leave(wire.GoTooMany)
				err = errCrowded
			}
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
		return now(&m, func() (wire.Message, error) { return nil, ss.subscribe(ctx, fr.ID, &m) })
	case wire.TUnsubscribe:
		var m wire.Object
		return now(&m, func() (wire.Message, error) { ss.unsubscribe(m.ID, nil); return &wire.Empty{}, nil })
	case wire.TPing:
		var m wire.Ping
		return now(&m, func() (wire.Message, error) { return &m, nil })

	case wire.TAppend:
		var m wire.Append
		if wire.Decode(fr.Body, &m) != nil || m.Kind == mailbox.Commit && len(m.Meta) != 0 && len(m.Meta) != wire.NextCapsSize {
			return ss.malformed(fr.ID)
		}
		return ss.append(appendJob{fr.ID, len(fr.Body), m})

	case wire.TRead:
		var m wire.Read
		if wire.Decode(fr.Body, &m) != nil {
			return ss.malformed(fr.ID)
		}
		return ss.begin(fr, func() {
			ss.paging.Lock()
			defer ss.paging.Unlock()
			pg, err := ss.readPage(ctx, m)
			if err != nil {
				ss.refuse(fr.ID, err)
				return
			}
			ss.send(wire.Frame{Type: wire.TOK, ID: fr.ID, Body: pg.body})
			ss.s.give(pg.held)
		})
	case wire.TStatus:
		var m wire.StatusRequest
		return soon(&m, nil, func() (wire.Message, error) { return ss.status(ctx, m) })
	case wire.TTrim:
		var m wire.Trim
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleAdmin, Object: m.Mailbox} },
			func() (wire.Message, error) { return &wire.Empty{}, store.Trim(ctx, m.Mailbox, m.Through) })
	case wire.TDelete:
		var m wire.Object
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleAdmin, Object: m.ID} },
			func() (wire.Message, error) { return &wire.Empty{}, store.Delete(ctx, m.ID) })

	case wire.TSlotCreate:
		var m wire.SlotCreate
		return soon(&m, nil, func() (wire.Message, error) { return &wire.Empty{}, ss.createSlot(ctx, &m) })
	case wire.TSlotRead:
		var m wire.Object
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleSlotRead, Object: m.ID} }, func() (wire.Message, error) {
			sl, err := slots.Slot(ctx, m.ID)
			if err == nil && sl.Once {
				err = &wire.Error{Code: wire.CodeMalformed} // only taking shows its value
			}
			return &wire.SlotValue{Version: sl.Version, Value: sl.Value}, err
		})
	case wire.TSlotTake:
		var m wire.SlotTake
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleSlotRead, Object: m.Slot} }, func() (wire.Message, error) {
			sl, err := slots.TakeSlot(ctx, m.Slot, m.Tag)
			return &wire.SlotValue{Version: sl.Version, Value: sl.Value}, err
		})
	case wire.TSlotSet:
		var m wire.SlotSet
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleSlotOwner, Object: m.Slot} },
			func() (wire.Message, error) { return &wire.Empty{}, slots.SetSlot(ctx, m.Slot, m.Version, m.Value) })
	case wire.TSlotState:
		var m wire.Object
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleSlotOwner, Object: m.ID} }, func() (wire.Message, error) {
			sl, err := slots.Slot(ctx, m.ID)
			return &wire.SlotState{Version: sl.Version, Expires: sl.Expires, Taken: sl.Taken}, err
		})
	case wire.TSlotRevoke:
		var m wire.Object
		return soon(&m, func() wire.Claim { return wire.Claim{Role: wire.RoleSlotOwner, Object: m.ID} },
			func() (wire.Message, error) { return &wire.Empty{}, slots.RevokeSlot(ctx, m.ID) })
	case wire.THello:
		return false // a session begins once
	}
	if ss.s.cfg.Blobs != nil {
		return ss.dispatchBlob(fr)
	}
	return ss.malformed(fr.ID)
}

func (ss *session) malformed(id uint32) bool {
	ss.refuse(id, &wire.Error{Code: wire.CodeMalformed})
	return true
}

// begin runs f beside other requests, if there are not too many.
func (ss *session) begin(fr wire.Frame, f func()) bool {
	return ss.beginHolding(fr.ID, len(fr.Body), f)
}

// beginHolding is begin for a request that holds n bytes, with its answer.
func (ss *session) beginHolding(id uint32, n int, f func()) bool {
	select {
	case ss.tokens <- struct{}{}:
	default:
		ss.refuse(id, &wire.Error{Code: wire.CodeBusy, Wait: time.Second})
		return true
	}
	if err := ss.hold(n); err != nil {
		<-ss.tokens
		ss.refuse(id, err)
		return true
	}
	ss.busy.Add(1)
	go func() {
		defer ss.busy.Done()
		f()
		ss.free(n)
		<-ss.tokens
	}()
	return true
}

func (ss *session) create(ctx context.Context, m *wire.Create) (wire.Message, error) {
	if !m.Verify(ss.access.ID()) {
		return nil, &wire.Error{Code: wire.CodeDenied}
	}
	if err := ss.s.limiter.Create(ss.addr, m.Ticket); err != nil {
		return nil, &wire.Error{Code: wire.CodeRefused, Wait: time.Minute}
	}
	t := ss.s.cfg.Terms
	if m.MaxEntries > t.MaxEntries || m.MaxBytes > t.MaxBytes {
		return nil, mailbox.ErrTerms
	}
	t.Meta = m.Caps()
	if m.Keep != 0 {
		t.Keep = m.Keep
	}
	if m.MaxEntries != 0 {
		t.MaxEntries = m.MaxEntries
	}
	if m.MaxBytes != 0 {
		t.MaxBytes = m.MaxBytes
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

// append queues an append behind those of the session before it. The capability is
// that of the generation that the entry names; the store compares it with the
// mailbox's in the very write.
func (ss *session) append(j appendJob) bool {
	if !ss.access.Shown(wire.Claim{Role: wire.RoleAppend, Object: j.req.Mailbox, Gen: j.req.Gen}) {
		ss.refuse(j.id, mailbox.ErrNotFound)
		return true
	}
	if err := ss.hold(j.size); err != nil {
		ss.refuse(j.id, err)
		return true
	}
	ss.appendOnce.Do(func() {
		ss.appends = make(chan appendJob, appendQueue)
		ss.busy.Add(1)
		go ss.store()
	})
	select {
	case ss.appends <- j:
	default:
		ss.free(j.size)
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
			if len(ss.appends) == 0 {
				return
			}
		}
		for more := true; more && len(jobs) < appendQueue; {
			select {
			case j := <-ss.appends:
				jobs = append(jobs, j)
			default:
				more = false
			}
		}
		ds := make([]mailbox.Deposit, len(jobs))
		size := 0
		for i, j := range jobs {
			ds[i] = j.req.Deposit()
			size += j.size
		}
		// What has been handed to the store is stored or not, whoever still listens.
		out := ss.s.cfg.Store.Put(context.Background(), ds)
		ss.free(size)
		for i, o := range out {
			if o.Err != nil {
				ss.refuse(jobs[i].id, o.Err)
			} else {
				ss.answer(jobs[i].id, ss.s.receipt(o.Receipt))
			}
		}
	}
}

// reach is how far a read key reaches: to the commit that ends its generation, or to
// where the mailbox stood when that generation was known to be the newest.
type reach struct {
	through mailbox.Seq
	ended   bool
	end     mailbox.Head // if ended
	state   mailbox.State
}

// reach returns how far the read key of a generation reaches. What comes between
// this answer and a read may belong to the next generation: the read goes no
// further than the answer.
func (ss *session) reach(ctx context.Context, id mailbox.ID, gen mailbox.Gen) (reach, error) {
	if !ss.access.Shown(wire.Claim{Role: wire.RoleRead, Object: id, Gen: gen}) {
		return reach{}, mailbox.ErrNotFound
	}
	st, err := ss.s.cfg.Store.State(ctx, id)
	if err != nil {
		return reach{}, err
	}
	if st.Gen == gen {
		return reach{through: max(st.Head.Seq, 1), state: st}, nil // the first entry is everyone's
	}
	next, err := ss.s.cfg.Store.Generation(ctx, id, gen+1)
	return reach{through: next.Head.Seq, ended: true, end: next.Head, state: st}, err
}

func (ss *session) readPage(ctx context.Context, m wire.Read) (pageBody, error) {
	r, err := ss.reach(ctx, m.Mailbox, m.Gen)
	if err != nil {
		return pageBody{}, err
	}
	return ss.makePage(ctx, m.Cursor, &r, int(min(m.MaxEntries, mailbox.MaxPage)), int(min(m.MaxBytes, pageBytes)),
		func(p *wire.Page) wire.Message { return p })
}

// pageBody is a page ready to be sent.
type pageBody struct {
	body []byte
	held int // bytes that are given back when it has been sent
	end  mailbox.Head
	more bool
}

// makePage makes a page and encodes it in a message. Only so many are made at once,
// and a large one counts as under way until it is sent: who does not read holds
// no more than all may.
func (ss *session) makePage(ctx context.Context, c wire.Cursor, r *reach, entries, bytes int, in func(*wire.Page) wire.Message) (pageBody, error) {
	ss.s.making <- struct{}{}
	defer func() { <-ss.s.making }()
	p, err := ss.page(ctx, c, r, entries, bytes)
	if err != nil {
		return pageBody{}, err
	}
	pg := pageBody{body: wire.Encode(in(p)), end: p.End.Head, more: p.More}
	if n := 2 * len(pg.body); n > wire.FirstChunk { // it is copied into a frame
		if !ss.s.take(n) {
			return pageBody{}, errCrowded
		}
		pg.held = n
	}
	return pg, nil
}

// page reads a page that fits into a frame. The reach is brought up to date if it
// must be.
func (ss *session) page(ctx context.Context, c wire.Cursor, r *reach, entries, bytes int) (*wire.Page, error) {
	if bytes <= 0 || bytes > pageBytes {
		bytes = pageBytes
	}
	for through := r.through; ; {
		if r.ended && c.After.Seq >= r.through {
			return nil, mailbox.ErrNotFound // behind what this key may read
		}
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
		switch {
		case fit < len(p.Entries):
			entries = fit
			continue
		case size+len(p.Lost)*wire.SpanSize > wire.MaxFrame && len(p.Lost) > 1:
			through = p.Lost[len(p.Lost)/2-1].End.Seq // a span alone always fits beside what does
			continue
		case p.End.Seq > r.through && r.ended:
			// The end of the generation lies within a span that goes on behind it.
			return nil, mailbox.ErrNotFound
		case p.End.Seq > r.through:
			// A span has grown since. It may go on behind an end that has come since.
			if *r, err = ss.reach(ctx, c.Mailbox, c.Gen); err != nil {
				return nil, err
			}
			through = r.through
			continue
		}
		// What has come since the reach was found rings, and is not said of an empty page.
		more := p.More && p.End.Seq > c.After.Seq && !(r.ended && p.End.Seq == r.through)
		return &wire.Page{Entries: p.Entries, Lost: p.Lost, End: ss.s.sign(p.End), More: more}, nil
	}
}

func (ss *session) status(ctx context.Context, m wire.StatusRequest) (wire.Message, error) {
	r, err := ss.reach(ctx, m.Mailbox, m.Gen)
	if err != nil {
		return nil, err
	}
	out := &wire.Status{Head: r.state.Head, Gen: r.state.Gen, Minute: mailbox.MinuteOf(ss.s.cfg.Clock())}
	if r.ended {
		// An old key learns where its own generation ended, and no more.
		out.Head, out.Gen, out.Ended = r.end, m.Gen, true
	}
	out.Sign(ss.s.cfg.Key, m.Nonce)
	return out, nil
}
