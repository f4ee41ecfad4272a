// Package membox keeps mailboxes and slots in memory: the simplest engine that
// keeps the contract of package mailbox. Nothing outlives the process. Tests use
// it, and other engines are compared with it.
package membox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"sotto/relay/mailbox"
)

// Store is a mailbox.Store and mailbox.Slots.
type Store struct {
	clock func() time.Time

	mu        sync.Mutex // guards the following fields
	era       mailbox.Era
	boxes     map[mailbox.ID]*box
	slots     map[mailbox.SlotID]*slot
	listeners map[int]func(mailbox.ID)
	nextID    int
	closed    bool
}

type box struct {
	terms   mailbox.Terms
	log     []item // every entry there ever was, the payload of those that are gone dropped
	gen     mailbox.Gen
	gens    []mailbox.Generation
	deleted mailbox.Minute // when the tombstone ends; 0 if the box is there
}

type item struct {
	mailbox.Entry
	hash    mailbox.Hash
	expires mailbox.Minute
	head    mailbox.Head
	gone    mailbox.Cause // 0 while it is held
	size    uint64
}

type slot struct {
	mailbox.Slot
	tag   mailbox.Tag
	gone  mailbox.SlotCause
	until mailbox.Minute
}

// New makes an empty store. A nil clock is time.Now, an era of 0 a random one.
func New(clock func() time.Time, era mailbox.Era) *Store {
	if clock == nil {
		clock = time.Now
	}
	s := &Store{clock: clock, boxes: map[mailbox.ID]*box{}, slots: map[mailbox.SlotID]*slot{}, listeners: map[int]func(mailbox.ID){}}
	if s.era = era; era == 0 {
		s.RenewEra()
	}
	return s
}

// RenewEra draws a new era, as after a restore.
func (s *Store) RenewEra() {
	var b [8]byte
	rand.Read(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.era = mailbox.Era(binary.BigEndian.Uint64(b[:]) | 1)
}

func (s *Store) now() mailbox.Minute { return mailbox.MinuteOf(s.clock()) }

// Era implements mailbox.Store.
func (s *Store) Era() mailbox.Era {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.era
}

func (s *Store) boxLocked(id mailbox.ID) (*box, error) {
	b := s.boxes[id]
	if b == nil || b.deleted != 0 {
		return nil, mailbox.ErrNotFound
	}
	return b, nil
}

func (b *box) head(id mailbox.ID, era mailbox.Era) mailbox.Head {
	if n := len(b.log); n > 0 {
		return b.log[n-1].head
	}
	return mailbox.Head{Mailbox: id, Era: era, Chain: mailbox.FirstChain(id)}
}

// held returns what the box holds: entries, bytes, the first seq.
func (b *box) held() (n uint32, size uint64, first mailbox.Seq) {
	first = mailbox.Seq(len(b.log)) + 1
	for i := range b.log {
		if it := &b.log[i]; it.gone == 0 {
			n++
			size += it.size
			first = min(first, it.Seq)
		}
	}
	return n, size, first
}

func (it *item) lose(cause mailbox.Cause) {
	it.gone, it.Payload, it.Meta = cause, nil, nil
}

// Create implements mailbox.Store.
func (s *Store) Create(ctx context.Context, id mailbox.ID, t mailbox.Terms) error {
	if err := t.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil {
		u := b.terms
		switch {
		case b.deleted != 0:
			return mailbox.ErrGone
		case u.Keep != t.Keep || u.MaxEntries != t.MaxEntries || u.MaxBytes != t.MaxBytes || u.Full != t.Full || !bytes.Equal(u.Meta, t.Meta):
			return fmt.Errorf("%w: the mailbox exists with others", mailbox.ErrTerms)
		}
		return nil
	}
	t.Meta = bytes.Clone(t.Meta)
	s.boxes[id] = &box{terms: t, gens: []mailbox.Generation{{Meta: t.Meta}}}
	return nil
}

// Put implements mailbox.Store.
func (s *Store) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	out := make([]mailbox.Outcome, len(ds))
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := &mailbox.Batch{}
	for i := range ds {
		if s.closed {
			out[i].Err = mailbox.ErrBusy
			continue
		}
		r, err := s.putLocked(&ds[i])
		if out[i].Err = err; err != nil {
			continue
		}
		if r.Batch = batch; r.Again {
			r.Batch = &mailbox.Batch{Heads: []mailbox.Head{r.Head}}
		} else {
			batch.Heads = append(batch.Heads, r.Head)
			for _, ring := range s.listeners {
				ring(ds[i].Mailbox)
			}
		}
		out[i].Receipt = r
	}
	return out
}

func (s *Store) putLocked(d *mailbox.Deposit) (r mailbox.Receipt, err error) {
	if err := d.Check(); err != nil {
		return r, err
	}
	b, err := s.boxLocked(d.Mailbox)
	if err != nil {
		return r, err
	}
	now, hash := s.now(), d.Hash()
	for i := range b.log {
		if it := &b.log[i]; it.hash == hash && it.gone == 0 && it.expires > now {
			return mailbox.Receipt{Head: it.head, Minute: it.Minute, Again: true}, nil
		}
	}
	head := b.head(d.Mailbox, s.era)
	switch {
	case d.Gen != b.gen:
		return r, mailbox.ErrStale
	case d.Kind == mailbox.Commit && d.Expect != head.Commit:
		return r, &mailbox.ConflictError{Head: head}
	}
	size := uint64(len(d.Payload) + len(d.Meta))
	if err := b.makeRoom(size, now); err != nil {
		return r, err
	}
	keep := b.terms.Keep
	if d.Kind == mailbox.Commit {
		keep = mailbox.CommitMinutes
	}
	head.Seq++
	head.Era = s.era
	head.Chain = mailbox.NextChain(head.Chain, s.era, head.Seq, now, hash)
	if d.Kind == mailbox.Commit {
		head.Commit = head.Mark()
	}
	b.log = append(b.log, item{
		Entry: mailbox.Entry{Seq: head.Seq, Era: s.era, Kind: d.Kind, Minute: now, Gen: d.Gen, Meta: bytes.Clone(d.Meta), Payload: bytes.Clone(d.Payload)},
		hash:  hash, expires: now + keep, head: head, size: size,
	})
	if len(d.Meta) > 0 {
		b.gen++
		b.gens = append(b.gens, mailbox.Generation{Gen: b.gen, Head: head, Meta: bytes.Clone(d.Meta)})
	}
	return mailbox.Receipt{Head: head, Minute: now}, nil
}

func (b *box) makeRoom(size uint64, now mailbox.Minute) error {
	n, bytes, _ := b.held()
	fits := func() bool { return n < b.terms.MaxEntries && bytes+size <= b.terms.MaxBytes }
	var drop []*item
	for i := 0; i < len(b.log) && !fits(); i++ {
		it := &b.log[i]
		if it.gone != 0 {
			continue
		}
		if it.expires > now {
			if b.terms.Full == mailbox.Refuse {
				break
			}
			if it.Kind == mailbox.Commit {
				continue
			}
		}
		drop = append(drop, it)
		n--
		bytes -= it.size
	}
	if !fits() {
		return fmt.Errorf("%w: it holds too much", mailbox.ErrQuota)
	}
	for _, it := range drop {
		if it.expires <= now {
			it.lose(mailbox.Expired)
		} else {
			it.lose(mailbox.Quota)
		}
	}
	return nil
}

// Read implements mailbox.Store.
func (s *Store) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, limit mailbox.Limit) (mailbox.Page, error) {
	if limit.Entries <= 0 || limit.Entries > mailbox.MaxPage {
		limit.Entries = mailbox.MaxPage
	}
	if limit.Bytes <= 0 {
		limit.Bytes = 1 << 20
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.boxLocked(id)
	if err != nil {
		return mailbox.Page{}, err
	}
	now, last := s.now(), mailbox.Seq(len(b.log))
	p := mailbox.Page{End: mailbox.Head{Mailbox: id, Era: s.era, Chain: mailbox.FirstChain(id)}}
	if after.Seq > 0 {
		if after.Seq > last || b.log[after.Seq-1].Era != after.Era {
			return mailbox.Page{}, mailbox.ErrEra
		}
		p.End = b.log[after.Seq-1].head
	}
	through := last
	if limit.Through > 0 && limit.Through < through {
		through = limit.Through
	}
	size := 0
	for seq := after.Seq + 1; seq <= through; seq++ {
		it := &b.log[seq-1]
		cause := it.gone
		if cause == 0 && it.expires <= now {
			cause = mailbox.Expired
		}
		if cause != 0 {
			if len(p.Entries) > 0 {
				break
			}
			if n := len(p.Lost); n > 0 && p.Lost[n-1].Cause == cause && p.Lost[n-1].End.Seq+1 == seq && p.Lost[n-1].End.Era == it.Era {
				p.Lost[n-1].End = it.head
			} else if n == mailbox.MaxSpans {
				break
			} else {
				p.Lost = append(p.Lost, mailbox.Span{From: seq, Cause: cause, End: it.head})
			}
			p.End = it.head
			continue
		}
		if len(p.Entries) >= limit.Entries || size >= limit.Bytes {
			break
		}
		e := it.Entry
		e.Payload, e.Meta = bytes.Clone(e.Payload), bytes.Clone(e.Meta)
		p.Entries = append(p.Entries, e)
		p.End = it.head
		size += int(it.size)
	}
	p.More = p.End.Seq < last
	return p, nil
}

// State implements mailbox.Store.
func (s *Store) State(ctx context.Context, id mailbox.ID) (mailbox.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.boxLocked(id)
	if err != nil {
		return mailbox.State{}, err
	}
	st := mailbox.State{Head: b.head(id, s.era), Era: s.era, Gen: b.gen, Terms: b.terms}
	st.Entries, st.Bytes, st.First = b.held()
	return st, nil
}

// Generation implements mailbox.Store.
func (s *Store) Generation(ctx context.Context, id mailbox.ID, gen mailbox.Gen) (mailbox.Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.boxLocked(id)
	if err != nil {
		return mailbox.Generation{}, err
	}
	_, _, first := b.held()
	if int(gen) >= len(b.gens) || gen < b.gen && b.gens[gen+1].Head.Seq < first {
		return mailbox.Generation{}, mailbox.ErrNotFound
	}
	return b.gens[gen], nil
}

// Trim implements mailbox.Store.
func (s *Store) Trim(ctx context.Context, id mailbox.ID, through mailbox.Seq) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.boxLocked(id)
	if err != nil {
		return err
	}
	for i := range b.log {
		if it := &b.log[i]; it.Seq <= through && it.gone == 0 {
			it.lose(mailbox.Trimmed)
		}
	}
	s.ringLocked(id)
	return nil
}

// Delete implements mailbox.Store.
func (s *Store) Delete(ctx context.Context, id mailbox.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boxes[id]
	if b == nil {
		return mailbox.ErrNotFound
	}
	if b.deleted == 0 {
		*b = box{deleted: s.now() + mailbox.CommitMinutes}
		s.ringLocked(id)
	}
	return nil
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

func (s *Store) ringLocked(id mailbox.ID) {
	for _, ring := range s.listeners {
		ring(id)
	}
}

// Sweep implements mailbox.Store.
func (s *Store) Sweep(ctx context.Context) (freed int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for id, b := range s.boxes {
		if b.deleted != 0 && b.deleted <= now {
			delete(s.boxes, id)
			continue
		}
		for i := range b.log {
			if it := &b.log[i]; it.gone == 0 && it.expires <= now {
				it.lose(mailbox.Expired)
				freed++
			}
		}
	}
	for id, sl := range s.slots {
		if sl.gone == 0 && sl.Expires <= now {
			freed++
		}
		if s.slotLocked(id) == nil {
			delete(s.slots, id)
		}
	}
	return freed, nil
}

// Close implements mailbox.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// slotLocked returns what stands there, also a tombstone.
func (s *Store) slotLocked(id mailbox.SlotID) *slot {
	sl, now := s.slots[id], s.now()
	if sl == nil {
		return nil
	}
	if sl.gone == 0 && sl.Expires <= now {
		sl.gone, sl.until, sl.Value = mailbox.SlotExpired, sl.Expires+mailbox.TombstoneMinutes, nil
	}
	if sl.gone != 0 && sl.until <= now {
		return nil
	}
	return sl
}

func (s *Store) thereLocked(id mailbox.SlotID) (*slot, error) {
	sl := s.slotLocked(id)
	switch {
	case sl == nil:
		return nil, mailbox.ErrNotFound
	case sl.gone != 0:
		return nil, &mailbox.GoneError{Cause: sl.gone}
	}
	return sl, nil
}

func (sl *slot) clone() mailbox.Slot {
	out := sl.Slot
	out.Value = bytes.Clone(out.Value)
	return out
}

// CreateSlot implements mailbox.Slots.
func (s *Store) CreateSlot(ctx context.Context, id mailbox.SlotID, want mailbox.Slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch now := s.now(); {
	case len(want.Value) == 0 || len(want.Value) > mailbox.MaxSlot:
		return mailbox.ErrTooLarge
	case want.Expires <= now || want.Expires > now+mailbox.MaxMinutes:
		return mailbox.ErrTerms
	}
	if have := s.slotLocked(id); have != nil {
		switch {
		case have.gone != 0:
			return &mailbox.GoneError{Cause: have.gone}
		case have.Owner == want.Owner && have.Read == want.Read && have.Once == want.Once && have.Expires == want.Expires &&
			have.Version == 1 && bytes.Equal(have.Value, want.Value):
			return nil
		}
		return mailbox.ErrExists
	}
	want.Version, want.Taken, want.Value = 1, 0, slices.Clone(want.Value)
	s.slots[id] = &slot{Slot: want}
	return nil
}

// Slot implements mailbox.Slots.
func (s *Store) Slot(ctx context.Context, id mailbox.SlotID) (mailbox.Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl, err := s.thereLocked(id)
	if err != nil {
		return mailbox.Slot{}, err
	}
	return sl.clone(), nil
}

// Keys implements mailbox.Slots.
func (s *Store) Keys(ctx context.Context, id mailbox.SlotID) (owner, read [32]byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slotLocked(id)
	if sl == nil {
		return owner, read, mailbox.ErrNotFound
	}
	return sl.Owner, sl.Read, nil
}

// SetSlot implements mailbox.Slots.
func (s *Store) SetSlot(ctx context.Context, id mailbox.SlotID, version uint32, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(value) == 0 || len(value) > mailbox.MaxSlot {
		return mailbox.ErrTooLarge
	}
	sl, err := s.thereLocked(id)
	switch {
	case err != nil:
		return err
	case sl.Version == version+1 && bytes.Equal(sl.Value, value):
		return nil
	case sl.Version != version:
		return mailbox.ErrVersion
	}
	sl.Version++
	sl.Value = slices.Clone(value)
	return nil
}

// TakeSlot implements mailbox.Slots.
func (s *Store) TakeSlot(ctx context.Context, id mailbox.SlotID, tag mailbox.Tag) (mailbox.Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl, err := s.thereLocked(id)
	if err != nil {
		return mailbox.Slot{}, err
	}
	if sl.Taken == 0 {
		sl.Taken, sl.tag = max(s.now(), 1), tag
	} else if sl.Once && sl.tag != tag {
		return mailbox.Slot{}, &mailbox.GoneError{Cause: mailbox.SlotTaken}
	}
	return sl.clone(), nil
}

// RevokeSlot implements mailbox.Slots.
func (s *Store) RevokeSlot(ctx context.Context, id mailbox.SlotID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slotLocked(id)
	switch {
	case sl == nil:
		return mailbox.ErrNotFound
	case sl.gone == mailbox.SlotRevoked:
		return nil
	case sl.gone != 0:
		return &mailbox.GoneError{Cause: sl.gone}
	}
	sl.gone, sl.until, sl.Value = mailbox.SlotRevoked, s.now()+mailbox.TombstoneMinutes, nil
	return nil
}

// Clone returns a store that holds the same, of the same era: what a copy of a disk is.
// Nobody listens to it.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := New(s.clock, s.era)
	for id, b := range s.boxes {
		other := *b
		other.log, other.gens = slices.Clone(b.log), slices.Clone(b.gens)
		c.boxes[id] = &other
	}
	for id, sl := range s.slots {
		other := *sl
		c.slots[id] = &other
	}
	return c
}
