// Package badgerbox is the store of a relay on one machine: mailboxes and slots
// in Badger.
//
// Badger flushes its log once for each transaction, so deposits are gathered: one
// goroutine, the committer, writes whatever has queued up behind the flush before,
// in one transaction, and no outcome is released before that is durable. When it
// is idle it flushes a deposit at once.
//
// # Keys
//
// Numbers are big-endian, so that keys lie in their order; the entries of a
// mailbox lie together, and reading from a cursor is one scan.
//
//	h id            head: terms, position, fence, chain, generation, quota
//	e id seq        entry
//	k id hash       seq of the entry with this hash, as long as it is held
//	g id gen        generation: the seq that installed it, and its meta
//	l id seq        span of entries that are gone, under its first seq
//	x minute id seq entry that expires in this minute
//	s id            slot
//	y minute id     slot, or its tombstone, that ends in this minute
//	d minute id     tombstone of a mailbox that ends in this minute
//	p id            mailbox that is deleted and whose records are to go
//	m era           the era
//
// Every value begins with a version byte, 1.
package badgerbox

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/kv"
)

// Config says how to open a store.
type Config struct {
	Dir         string           // made if it is not there
	Clock       func() time.Time // default: time.Now
	Small       bool             // less memory: a relay inside a node, a test
	Reserve     int64            // as in kv.Options
	Free        func(dir string) (uint64, error)
	Hook        kv.Hook
	SweepPeriod time.Duration // default: a minute; negative: never by itself
	Logger      *slog.Logger
}

// Limits of one flush.
const (
	maxBatch      = 1024                // deposits
	maxBatchBytes = 2 << 20             // of payload
	maxTx         = 5 << 20             // of everything written
	maxHead       = 2 << 10             // of a head
	maxDeposit    = 1 << 20             // of what one deposit writes and removes
	maxDrop       = 1 << 10             // entries that deposits remove in one transaction, or one more deposit's
	chunk         = 256                 // entries removed in one transaction otherwise
	maxSeen       = 4 * mailbox.MaxPage // entries looked at for one page
)

// errMoreRoom says that a deposit has removed as much as one transaction may, and
// goes on in the next.
var errMoreRoom = errors.New("more must go")

// Store is a mailbox.Store and mailbox.Slots.
type Store struct {
	db    *kv.DB
	clock func() time.Time
	era   mailbox.Era
	log   *slog.Logger

	queue   chan *job
	reading sync.Mutex  // held to read the database back
	full    atomic.Bool // the operator has been told
	stop    chan struct{}
	done    sync.WaitGroup

	mu        sync.Mutex // guards the following fields
	closed    bool
	calls     sync.WaitGroup // Puts under way; Add only with mu held and not closed
	listeners map[int]func(mailbox.ID)
	nextID    int
}

// job is one Put.
type job struct {
	ds     []mailbox.Deposit
	hashes []mailbox.Hash
	out    []mailbox.Outcome
	done   chan struct{}
}

// Open opens the store in c.Dir, or makes one.
func Open(c Config) (*Store, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.SweepPeriod == 0 {
		c.SweepPeriod = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	db, err := kv.Open(kv.Options{Dir: c.Dir, Small: c.Small, Reserve: c.Reserve, Free: c.Free, MaxTx: maxTx, Hook: c.Hook, Logger: c.Logger})
	if err != nil {
		return nil, fmt.Errorf("open mailboxes: %w", err)
	}
	s := &Store{db: db, clock: c.Clock, log: c.Logger, queue: make(chan *job, 4096), stop: make(chan struct{}), listeners: map[int]func(mailbox.ID){}}
	if s.era, err = loadEra(db, false); err != nil {
		db.Close()
		return nil, fmt.Errorf("open mailboxes: %w", err)
	}
	s.done.Add(1)
	go s.commit()
	if c.SweepPeriod > 0 {
		s.done.Add(1)
		go s.keepSweeping(c.SweepPeriod)
	}
	return s, nil
}

// RenewEra gives the closed store in dir a new era. It must be called before a
// store that was restored from a copy is served again.
func RenewEra(dir string) (mailbox.Era, error) {
	db, err := kv.Open(kv.Options{Dir: dir, Small: true, MaxTx: maxTx})
	if err != nil {
		return 0, fmt.Errorf("renew era: %w", err)
	}
	era, err := loadEra(db, true)
	return era, errors.Join(err, db.Close())
}

func loadEra(db *kv.DB, renew bool) (mailbox.Era, error) {
	var era uint64
	err := db.Update(func(tx *kv.Tx) (err error) {
		if era, err = tx.Counter([]byte("mera")); err != nil {
			return err
		}
		if era != 0 && !renew {
			return nil
		}
		var b [8]byte
		rand.Read(b[:])
		era = binary.BigEndian.Uint64(b[:]) | 1 // 0 means none
		return tx.SetCounter([]byte("mera"), era)
	})
	return mailbox.Era(era), err
}

// Era implements mailbox.Store.
func (s *Store) Era() mailbox.Era { return s.era }

func (s *Store) now() mailbox.Minute { return mailbox.MinuteOf(s.clock()) }

// Close implements mailbox.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	close(s.stop)
	s.done.Wait()
	return s.db.Close()
}

// Free returns how many bytes are free on the store's disk, and Size how many it uses.
func (s *Store) Free() (uint64, error) { return s.db.Free() }
func (s *Store) Size() (int64, error)  { return s.db.Size() }

// Reclaim gives what was freed back to the file system; see kv.DB.Reclaim.
func (s *Store) Reclaim(ctx context.Context) error { return s.db.Reclaim(ctx) }

// update runs f in a transaction and translates the store's own errors. After
// doubt it reads the disk back.
func (s *Store) update(f func(tx *kv.Tx) error) error {
	err := s.db.Update(f)
	switch full := errors.Is(err, kv.ErrFull); {
	case full && s.full.CompareAndSwap(false, true):
		s.log.Error("nothing is taken", "err", err)
	case err == nil && s.full.CompareAndSwap(true, false):
		s.log.Info("there is room again")
	}
	return s.outcome(err)
}

// shrink is like update for what makes room: a full disk is no reason to keep what may
// go.
func (s *Store) shrink(f func(tx *kv.Tx) error) error { return s.outcome(s.db.Shrink(f)) }

func (s *Store) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kv.ErrUnknown):
		s.log.Error("a write is in doubt; the store is read back", "err", err)
		s.readBack()
		return fmt.Errorf("%w: %w", mailbox.ErrUnknown, err)
	case errors.Is(err, kv.ErrFull):
		return fmt.Errorf("%w: %w", mailbox.ErrBusy, err)
	}
	return err
}

// readBack opens the database again after doubt, once for all who are in doubt.
func (s *Store) readBack() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	if err := s.db.View(func(*kv.Tx) error { return nil }); !errors.Is(err, kv.ErrUnknown) {
		return nil // another has done it
	}
	err := s.db.Reopen()
	if err != nil {
		s.log.Error("the store could not be read back", "err", err)
	}
	return err
}

// view runs f on a snapshot.
func (s *Store) view(f func(tx *kv.Tx) error) error {
	err := s.db.View(f)
	if errors.Is(err, kv.ErrUnknown) {
		if s.readBack() == nil {
			err = s.db.View(f)
		} else {
			err = fmt.Errorf("%w: %w", mailbox.ErrUnknown, err)
		}
	}
	return err
}

// Create implements mailbox.Store.
func (s *Store) Create(ctx context.Context, id mailbox.ID, t mailbox.Terms) error {
	if err := t.Check(); err != nil {
		return err
	}
	return s.update(func(tx *kv.Tx) error {
		h, err := loadHead(tx, id)
		switch {
		case err == nil && h.deleted:
			return mailbox.ErrGone
		case err == nil && !sameTerms(h.terms, t):
			return fmt.Errorf("%w: the mailbox exists with others", mailbox.ErrTerms)
		case err == nil:
			return nil
		case !errors.Is(err, mailbox.ErrNotFound):
			return err
		}
		h = &head{id: id, terms: t, chain: mailbox.FirstChain(id), first: 1}
		if err := tx.Set(genKey(id, 0), encodeGeneration(mailbox.Head{}, t.Meta)); err != nil {
			return err
		}
		return h.save(tx)
	})
}

func sameTerms(a, b mailbox.Terms) bool {
	return a.Keep == b.Keep && a.MaxEntries == b.MaxEntries && a.MaxBytes == b.MaxBytes && a.Full == b.Full && string(a.Meta) == string(b.Meta)
}

// Put implements mailbox.Store.
func (s *Store) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	j := &job{ds: ds, hashes: make([]mailbox.Hash, len(ds)), out: make([]mailbox.Outcome, len(ds)), done: make(chan struct{})}
	for i := range ds {
		if j.out[i].Err = ds[i].Check(); j.out[i].Err == nil {
			j.hashes[i] = ds[i].Hash()
		}
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return j.fail(mailbox.ErrBusy)
	}
	s.calls.Add(1)
	s.mu.Unlock()
	defer s.calls.Done()

	select {
	case s.queue <- j:
	case <-ctx.Done():
		return j.fail(fmt.Errorf("%w: %w", mailbox.ErrBusy, ctx.Err())) // nobody has looked at it
	}
	<-j.done // it is written or not; there is no way to take it back
	return j.out
}

func (j *job) fail(err error) []mailbox.Outcome {
	for i := range j.out {
		if j.out[i].Err == nil {
			j.out[i] = mailbox.Outcome{Err: err}
		}
	}
	return j.out
}

// commit is the committer.
func (s *Store) commit() {
	defer s.done.Done()
	for {
		var batch []*job
		var n, size int
		take := func(j *job) {
			batch = append(batch, j)
			n += len(j.ds)
			for i := range j.ds {
				size += len(j.ds[i].Payload) + len(j.ds[i].Meta)
			}
		}
		select {
		case j := <-s.queue:
			take(j)
		case <-s.stop:
			return
		}
		for more := true; more && n < maxBatch && size < maxBatchBytes; {
			select {
			case j := <-s.queue:
				take(j)
			default:
				more = false
			}
		}
		s.flush(batch)
	}
}

// place is a deposit of a job.
type place struct {
	j *job
	i int
}

func (p place) fail(err error) { p.j.out[p.i] = mailbox.Outcome{Err: err} }

// flush writes a batch, in as many transactions as its size takes.
func (s *Store) flush(jobs []*job) {
	var todo []place
	for _, j := range jobs {
		for i := range j.ds {
			if j.out[i].Err == nil {
				todo = append(todo, place{j, i})
			}
		}
	}
	for len(todo) > 0 {
		todo = s.write(todo)
	}
	for _, j := range jobs {
		close(j.done)
	}
}

// write settles deposits from the front of todo in one transaction, and returns
// those that are left.
func (s *Store) write(todo []place) (rest []place) {
	a := &appender{heads: map[mailbox.ID]*head{}, era: s.era, now: s.now()}
	n, size, damaged := 0, 0, -1
	err := s.update(func(tx *kv.Tx) error {
		a.tx = tx
		for n < len(todo) && size < maxBatchBytes && a.drops < maxDrop && tx.Size()+int64(len(a.heads))*maxHead < maxTx-maxDeposit {
			j, i := todo[n].j, todo[n].i
			r, err := a.append(&j.ds[i], j.hashes[i])
			if errors.Is(err, errMoreRoom) {
				break
			}
			if err != nil && !refusal(err) {
				damaged = n
				return err
			}
			j.out[i] = mailbox.Outcome{Receipt: r, Err: err}
			size += len(j.ds[i].Payload) + len(j.ds[i].Meta)
			n++
		}
		for _, h := range a.heads {
			if h.changed {
				if err := h.save(tx); err != nil {
					return err
				}
			}
		}
		return nil
	})
	switch {
	case err == nil:
	case damaged >= 0 && !errors.Is(err, mailbox.ErrUnknown):
		// Nothing has happened. A mailbox that cannot be read costs no other its deposits.
		s.log.Error("a mailbox cannot be written to", "err", err)
		todo[damaged].fail(err)
		return append(todo[:damaged:damaged], todo[damaged+1:]...)
	default:
		// What was refused was refused by a state that may not have come about.
		n = max(n, 1)
		for _, p := range todo[:n] {
			p.fail(err)
		}
		return todo[n:]
	}
	batch := &mailbox.Batch{Heads: a.stored}
	for _, p := range todo[:n] {
		if o := &p.j.out[p.i]; o.Err == nil {
			if o.Receipt.Batch = batch; o.Receipt.Again {
				o.Receipt.Batch = &mailbox.Batch{Heads: []mailbox.Head{o.Receipt.Head}}
			}
		}
	}
	for id, h := range a.heads {
		if h.changed {
			s.ring(id)
		}
	}
	return todo[n:]
}

// refusal reports whether err is an answer to one deposit alone.
func refusal(err error) bool {
	for _, r := range []error{mailbox.ErrNotFound, mailbox.ErrStale, mailbox.ErrConflict, mailbox.ErrQuota} {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// appender applies deposits to mailboxes within one transaction.
type appender struct {
	tx     *kv.Tx
	era    mailbox.Era
	now    mailbox.Minute
	heads  map[mailbox.ID]*head
	stored []mailbox.Head
	drops  int // entries removed to make room
}

func (a *appender) head(id mailbox.ID) (*head, error) {
	if h := a.heads[id]; h != nil {
		return h, nil
	}
	h, err := loadHead(a.tx, id)
	switch {
	case err != nil:
		return nil, err
	case h.deleted:
		return nil, mailbox.ErrNotFound
	}
	a.heads[id] = h
	return h, nil
}

func (a *appender) append(d *mailbox.Deposit, hash mailbox.Hash) (r mailbox.Receipt, err error) {
	h, err := a.head(d.Mailbox)
	if err != nil {
		return r, err
	}
	if e, err := a.held(d.Mailbox, hash); err != nil || e != nil {
		if err != nil {
			return r, err
		}
		return mailbox.Receipt{Head: e.head(d.Mailbox), Minute: e.Minute, Again: true}, nil
	}
	if d.Gen != h.gen {
		return r, mailbox.ErrStale
	}
	if d.Kind == mailbox.Commit && d.Expect != h.fence {
		return r, &mailbox.ConflictError{Head: h.head(a.era)}
	}
	size := uint64(len(d.Payload) + len(d.Meta))
	if err := a.makeRoom(h, size); err != nil {
		return r, err
	}

	keep := h.terms.Keep
	if d.Kind == mailbox.Commit {
		keep = mailbox.CommitMinutes
	}
	h.seq++
	h.era = a.era
	h.chain = mailbox.NextChain(h.chain, a.era, h.seq, a.now, hash)
	if d.Kind == mailbox.Commit {
		h.fence = mailbox.Mark{Era: a.era, Seq: h.seq}
	}
	e := &entry{
		Entry:   mailbox.Entry{Seq: h.seq, Era: a.era, Kind: d.Kind, Minute: a.now, Gen: d.Gen, Meta: d.Meta, Payload: d.Payload},
		expires: a.now + keep, fence: h.fence, chain: h.chain,
	}
	if h.entries == 0 {
		h.first = h.seq
	}
	h.count(e, 1)
	if len(d.Meta) > 0 {
		h.gen++
		if err := a.tx.Set(genKey(h.id, h.gen), encodeGeneration(e.head(h.id), d.Meta)); err != nil {
			return r, err
		}
	}
	if err := errors.Join(
		a.tx.Set(entryKey(h.id, e.Seq), e.encode()),
		a.tx.Set(hashKey(h.id, hash), codec.AppendU64([]byte{1}, uint64(e.Seq))),
		a.tx.Set(expiryKey(e.expires, h.id, e.Seq), nil),
	); err != nil {
		return r, err
	}
	at := e.head(h.id)
	a.stored = append(a.stored, at)
	return mailbox.Receipt{Head: at, Minute: a.now}, nil
}

// held returns the entry of this hash if it is there and has not expired.
func (a *appender) held(id mailbox.ID, hash mailbox.Hash) (*entry, error) {
	b, err := a.tx.Get(hashKey(id, hash))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := codec.NewReader(b)
	r.U8()
	seq := mailbox.Seq(r.U64())
	if err := r.Done(); err != nil {
		return nil, corrupt("hash index", err)
	}
	e, err := loadEntry(a.tx, id, seq)
	if err != nil || e.expires <= a.now {
		return nil, err
	}
	return e, nil
}

// makeRoom frees what has expired and, where the terms say so, the oldest
// messages, until size more bytes fit. It returns ErrQuota before anything is lost
// for a deposit that can not be taken, and errMoreRoom.
func (a *appender) makeRoom(h *head, size uint64) error {
	fits := func(entries uint32, bytes uint64) bool {
		return entries < h.terms.MaxEntries && bytes+size <= h.terms.MaxBytes
	}
	if fits(h.entries, h.bytes) {
		return nil
	}
	full := fmt.Errorf("%w: it holds %d entries, %d bytes", mailbox.ErrQuota, h.entries, h.bytes)
	drops := h.terms.Full == mailbox.DropOldest
	from := h.first
	if drops {
		if from = max(from, h.droppable); !fits(h.commits, h.commitBytes) {
			return full
		}
	}
	var drop []*entry
	entries, bytes, behind := h.entries, h.bytes, from
	err := scanEntries(a.tx, h.id, from, func(e *entry) bool {
		expired := e.expires <= a.now
		if !drops && !expired {
			return false
		}
		if behind = e.Seq + 1; expired || e.Kind == mailbox.Message {
			drop = append(drop, e)
			entries--
			bytes -= e.size()
		}
		return len(drop) < maxDrop && !fits(entries, bytes)
	})
	if err != nil {
		return err
	}
	if !fits(entries, bytes) && len(drop) < maxDrop {
		return full
	}
	for _, e := range drop {
		cause := mailbox.Quota
		if e.expires <= a.now {
			cause = mailbox.Expired
		}
		if err := remove(a.tx, h, e, cause); err != nil {
			return err
		}
	}
	if a.drops += len(drop); drops {
		h.droppable = behind
	}
	if err := settle(a.tx, h); err != nil {
		return err
	}
	if !fits(h.entries, h.bytes) {
		return errMoreRoom
	}
	return nil
}

// Read implements mailbox.Store.
func (s *Store) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, limit mailbox.Limit) (p mailbox.Page, err error) {
	if limit.Entries <= 0 || limit.Entries > mailbox.MaxPage {
		limit.Entries = mailbox.MaxPage
	}
	if limit.Bytes <= 0 {
		limit.Bytes = 1 << 20
	}
	now := s.now()
	err = s.view(func(tx *kv.Tx) error {
		h, err := loadHead(tx, id)
		if err != nil {
			return err
		}
		if h.deleted {
			return mailbox.ErrNotFound
		}
		through := h.seq
		if limit.Through > 0 && limit.Through < through {
			through = limit.Through
		}
		p = mailbox.Page{End: mailbox.Head{Mailbox: id, Era: s.era, Chain: mailbox.FirstChain(id)}}
		if after.Seq > 0 {
			at, end, err := headAt(tx, h, after.Seq)
			if err != nil {
				return err
			}
			if at.Era != after.Era {
				return mailbox.ErrEra
			}
			// A mark within a span: the page leads at least to its end, whose
			// chain value is known.
			p.End, through = at, max(through, end)
		}
		if p.End.Seq >= through {
			p.More = p.End.Seq < h.seq
			return nil
		}

		// Spans from the one that after lies in, or behind it. What lies behind those
		// that one page holds waits for the next.
		spans, err := loadSpans(tx, id, after.Seq+1, through)
		if err != nil {
			return err
		}
		if n := mailbox.MaxSpans; len(spans) > n {
			spans, through = spans[:n], spans[n].From-1
		}
		bytes, seen := 0, 0
		lose := func(from mailbox.Seq, cause mailbox.Cause, end mailbox.Head) bool {
			n := len(p.Lost)
			switch {
			case len(p.Entries) > 0:
				return false
			case n > 0 && p.Lost[n-1].Cause == cause && p.Lost[n-1].End.Seq+1 == from && p.Lost[n-1].End.Era == end.Era:
				p.Lost[n-1].End = end
			case n == mailbox.MaxSpans:
				return false
			default:
				p.Lost = append(p.Lost, mailbox.Span{From: from, Cause: cause, End: end})
			}
			p.End = end
			return true
		}
		takeSpans := func(before mailbox.Seq) bool {
			for len(spans) > 0 && spans[0].From < before {
				if !lose(max(spans[0].From, p.End.Seq+1), spans[0].Cause, spans[0].End) {
					return false
				}
				spans = spans[1:]
			}
			return true
		}
		full := false
		err = scanEntries(tx, id, after.Seq+1, func(e *entry) bool {
			// However much has expired, a page costs what a page does.
			seen++
			if full = !takeSpans(min(e.Seq, through+1)) || seen > maxSeen; full || e.Seq > through {
				return false
			}
			if full = len(p.Entries) >= limit.Entries || bytes >= limit.Bytes; full {
				return false
			}
			if e.expires <= now {
				full = !lose(e.Seq, mailbox.Expired, e.head(id))
				return !full
			}
			p.Entries = append(p.Entries, e.Entry)
			p.End = e.head(id)
			bytes += int(e.size())
			return true
		})
		if err != nil {
			return err
		}
		if !full {
			takeSpans(through + 1)
		}
		p.More = p.End.Seq < h.seq
		return nil
	})
	return p, err
}

// State implements mailbox.Store.
func (s *Store) State(ctx context.Context, id mailbox.ID) (st mailbox.State, err error) {
	err = s.view(func(tx *kv.Tx) error {
		h, err := loadHead(tx, id)
		if err != nil {
			return err
		}
		if h.deleted {
			return mailbox.ErrNotFound
		}
		st = mailbox.State{Head: h.head(s.era), Era: s.era, Gen: h.gen, First: h.first, Entries: h.entries, Bytes: h.bytes, Terms: h.terms}
		if h.entries == 0 {
			st.First = h.seq + 1
		}
		return nil
	})
	return st, err
}

// Generation implements mailbox.Store.
func (s *Store) Generation(ctx context.Context, id mailbox.ID, gen mailbox.Gen) (g mailbox.Generation, err error) {
	err = s.view(func(tx *kv.Tx) error {
		h, err := loadHead(tx, id)
		if err != nil {
			return err
		}
		if h.deleted || gen > h.gen {
			return mailbox.ErrNotFound
		}
		b, err := tx.Get(genKey(id, gen))
		if errors.Is(err, kv.ErrNotFound) {
			return mailbox.ErrNotFound
		}
		if err != nil {
			return err
		}
		g, err = decodeGeneration(id, gen, b)
		return err
	})
	return g, err
}

// Trim implements mailbox.Store.
func (s *Store) Trim(ctx context.Context, id mailbox.ID, through mailbox.Seq) error {
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		more = false
		err := s.shrink(func(tx *kv.Tx) error {
			h, err := loadHead(tx, id)
			if err != nil {
				return err
			}
			if h.deleted {
				return mailbox.ErrNotFound
			}
			var gone []*entry
			err = scanEntries(tx, id, h.first, func(e *entry) bool {
				if e.Seq > through {
					return false
				}
				more = len(gone) == chunk
				if !more {
					gone = append(gone, e)
				}
				return !more
			})
			if err != nil || len(gone) == 0 {
				return err
			}
			for _, e := range gone {
				if err := remove(tx, h, e, mailbox.Trimmed); err != nil {
					return err
				}
			}
			return errors.Join(settle(tx, h), h.save(tx))
		})
		if err != nil {
			return err
		}
	}
	s.ring(id)
	return nil
}

// Delete implements mailbox.Store.
func (s *Store) Delete(ctx context.Context, id mailbox.ID) error {
	err := s.shrink(func(tx *kv.Tx) error {
		h, err := loadHead(tx, id)
		if err != nil || h.deleted {
			return err
		}
		h.deleted = true
		return errors.Join(h.save(tx), tx.Set(idKey('p', id[:]), nil),
			tx.Set(minuteKey('d', s.now()+mailbox.CommitMinutes, id[:]), nil))
	})
	if err != nil {
		return err
	}
	s.ring(id)
	// Gone is gone; the records may follow with the next sweep.
	if _, err := s.purge(ctx, id); err != nil {
		s.log.Warn("what a mailbox held is not freed yet", "err", err)
	}
	return nil
}

// purge removes what a deleted mailbox held.
func (s *Store) purge(ctx context.Context, id mailbox.ID) (n int, err error) {
	for _, kind := range []byte("ekgl") {
		for more := true; more && ctx.Err() == nil; {
			err := s.shrink(func(tx *kv.Tx) error {
				var keys [][]byte
				seq, failed := tx.Range(idKey(kind, id[:]), nil, false)
				more = false
				for k, v := range seq {
					if more = len(keys) >= chunk; more {
						break
					}
					keys = append(keys, append([]byte(nil), k...))
					if kind == 'e' {
						e, err := decodeEntry(v)
						if err != nil {
							return err
						}
						keys = append(keys, expiryKey(e.expires, id, e.Seq))
						n++
					}
				}
				if err := failed(); err != nil {
					return err
				}
				for _, k := range keys {
					if err := tx.Delete(k); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return n, err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return n, err
	}
	return n, s.shrink(func(tx *kv.Tx) error { return tx.Delete(idKey('p', id[:])) })
}

// Listen implements mailbox.Store.
func (s *Store) Listen(ring func(mailbox.ID)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nextID
	s.nextID++
	s.listeners[n] = ring
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, n)
	}
}

func (s *Store) ring(id mailbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ring := range s.listeners {
		ring(id)
	}
}

func (s *Store) keepSweeping(period time.Duration) {
	defer s.done.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			freed, err := s.Sweep(ctx)
			if err == nil && freed > 0 && s.full.Load() {
				// On a full disk nothing is written that would make Badger rewrite its files.
				err = s.db.Reclaim(ctx)
			}
			if err != nil && ctx.Err() == nil {
				s.log.Warn("sweep", "err", err)
			}
		}
	}
}

// Sweep implements mailbox.Store.
func (s *Store) Sweep(ctx context.Context) (freed int, err error) {
	for _, sweep := range []func(*kv.Tx, mailbox.Minute) (freed, seen int, touched []mailbox.ID, err error){s.sweepEntries, s.sweepSlots, s.sweepTombstones} {
		for seen := chunk; seen == chunk; {
			if err := ctx.Err(); err != nil {
				return freed, err
			}
			var n int
			var touched []mailbox.ID
			err := s.shrink(func(tx *kv.Tx) (err error) {
				n, seen, touched, err = sweep(tx, s.now())
				return err
			})
			if err != nil {
				return freed, err
			}
			freed += n
			for _, id := range touched {
				s.ring(id)
			}
		}
	}
	var purge []mailbox.ID
	err = s.view(func(tx *kv.Tx) error {
		keys, failed := tx.Keys([]byte{'p'}, nil, false)
		for k := range keys {
			purge = append(purge, mailbox.ID(k[1:33]))
		}
		return failed()
	})
	for _, id := range purge {
		n, err := s.purge(ctx, id)
		if freed += n; err != nil {
			return freed, err
		}
	}
	return freed, err
}

// due returns up to chunk keys of a minute index whose minute has come.
func due(tx *kv.Tx, kind byte, now mailbox.Minute) (out [][]byte, err error) {
	keys, failed := tx.Keys([]byte{kind}, nil, false)
	for k := range keys {
		if len(k) < 37 {
			return nil, corrupt("expiry index", fmt.Errorf("a key of %d bytes", len(k)))
		}
		if mailbox.Minute(binary.BigEndian.Uint32(k[1:])) > now || len(out) == chunk {
			break
		}
		out = append(out, append([]byte(nil), k...))
	}
	return out, failed()
}

func (s *Store) sweepEntries(tx *kv.Tx, now mailbox.Minute) (freed, seen int, touched []mailbox.ID, err error) {
	keys, err := due(tx, 'x', now)
	if err != nil {
		return 0, 0, nil, err
	}
	heads := map[mailbox.ID]*head{}
	for _, k := range keys {
		id, seq := mailbox.ID(k[5:37]), mailbox.Seq(binary.BigEndian.Uint64(k[37:]))
		h := heads[id]
		if h == nil {
			if h, err = loadHead(tx, id); err != nil {
				return 0, 0, nil, err
			}
			heads[id] = h
		}
		if h.deleted {
			if err := tx.Delete(k); err != nil {
				return 0, 0, nil, err
			}
			continue // purge removes the entry
		}
		e, err := loadEntry(tx, id, seq)
		if err != nil {
			return 0, 0, nil, err
		}
		if err := remove(tx, h, e, mailbox.Expired); err != nil {
			return 0, 0, nil, err
		}
		freed++
	}
	for id, h := range heads {
		if !h.deleted {
			touched = append(touched, id)
			if err := errors.Join(settle(tx, h), h.save(tx)); err != nil {
				return 0, 0, nil, err
			}
		}
	}
	return freed, len(keys), touched, nil
}

func (s *Store) sweepTombstones(tx *kv.Tx, now mailbox.Minute) (freed, seen int, touched []mailbox.ID, err error) {
	keys, err := due(tx, 'd', now)
	for _, k := range keys {
		if err := errors.Join(tx.Delete(k), tx.Delete(idKey('h', k[5:37]))); err != nil {
			return 0, 0, nil, err
		}
	}
	return 0, len(keys), nil, err
}
