// Package mailbox is the contract of a relay's store: mailboxes, which are
// append-only logs of opaque entries, and slots, which hold one small value.
// The engines are packages membox (in memory) and badgerbox (one machine);
// package mailboxtest is the suite that each of them passes.
//
// The store knows no accounts and checks no signature: capabilities are kept
// here as opaque bytes ([Terms.Meta], [Deposit.Meta]) and judged above, by
// packages access and server. spec/mailbox.md gives the hashes in bytes.
//
// # What an answer means
//
// A call that returns a nil error has been made durable: it survives the loss
// of power. A call that returns one of the errors named at the method has not
// taken effect. A call that returns [ErrUnknown], or any error not named there,
// may or may not have taken effect; the caller asks again with the same
// arguments, and every method can be repeated.
//
// Time is the store's own clock in whole minutes, [Minute].
package mailbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"sotto/crypto/codec"
)

type (
	// ID names a mailbox: SHA-256 over the relay's key, the admin key and a salt.
	ID [32]byte
	// Seq is a position: 1, 2, 3 … without holes, never reused within an era.
	// 0 is the place before the first entry.
	Seq uint64
	// Era is a random number that a store draws anew when its history may have
	// gone back, as after a restore from a backup.
	Era uint64
	// Gen is a generation: how many commits with Meta the mailbox has taken.
	Gen uint32
	// Minute is a time: minutes since 1970 began, UTC.
	Minute uint32
	// Hash is a SHA-256 digest.
	Hash [32]byte
)

// MinuteOf returns the minute that t lies in.
func MinuteOf(t time.Time) Minute { return Minute(t.Unix() / 60) }

// Time returns the minute's beginning.
func (m Minute) Time() time.Time { return time.Unix(int64(m)*60, 0).UTC() }

// String returns the first 4 hex digits, all that a log may show.
func (id ID) String() string { return hex.EncodeToString(id[:2]) + "…" }

// Sizes and times that hold on every relay.
const (
	MaxPayload = 256 << 10 // bytes of one entry's payload: an envelope
	MaxMeta    = 1 << 10   // bytes of Meta
	MaxSlot    = 64 << 10  // bytes of a slot's value
	MaxPage    = 1 << 10   // entries one Read returns at most
	MaxSpans   = 1 << 9    // spans one Read returns at most

	CommitMinutes    Minute = 180 * 24 * 60 // commits, and what is kept of deleted entries
	TombstoneMinutes Minute = 30 * 24 * 60  // what is kept of a slot that is gone
	MaxMinutes       Minute = 180 * 24 * 60 // the longest term of messages and of slots
)

// Kind tells a message from a commit. It is part of the entry hash.
type Kind uint8

const (
	Message Kind = 1
	Commit  Kind = 2 // moves the fence, and with Meta the generation
)

func (k Kind) String() string {
	switch k {
	case Message:
		return "message"
	case Commit:
		return "commit"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Mark is a position in an era: a cursor, or what a commit expects at the fence.
type Mark struct {
	Era Era
	Seq Seq
}

// Full says what becomes of a deposit to a mailbox that is at its quota.
type Full uint8

const (
	Refuse     Full = 1 // the deposit is refused with ErrQuota
	DropOldest Full = 2 // the oldest messages go, and are reported as Lost; commits never go
)

// Terms are what a mailbox was created with. They do not change.
type Terms struct {
	Keep       Minute // messages are kept so long: 1 to MaxMinutes
	MaxEntries uint32 // messages and commits held at once; at least 1
	MaxBytes   uint64 // sum of their payloads and Meta; at least MaxPayload
	Full       Full
	Meta       []byte // opaque, of generation 0; at most MaxMeta bytes
}

// Check returns an error that wraps ErrTerms if t is outside the limits above.
func (t Terms) Check() error {
	switch {
	case t.Keep < 1 || t.Keep > MaxMinutes:
		return fmt.Errorf("%w: messages kept for %d minutes, allowed are 1 to %d", ErrTerms, t.Keep, MaxMinutes)
	case t.MaxEntries < 1:
		return fmt.Errorf("%w: no entries allowed", ErrTerms)
	case t.MaxBytes < MaxPayload:
		return fmt.Errorf("%w: quota of %d bytes, at least %d", ErrTerms, t.MaxBytes, MaxPayload)
	case t.Full != Refuse && t.Full != DropOldest:
		return fmt.Errorf("%w: unknown rule %d for a full mailbox", ErrTerms, t.Full)
	case len(t.Meta) > MaxMeta:
		return fmt.Errorf("%w: %d bytes of meta, at most %d", ErrTerms, len(t.Meta), MaxMeta)
	}
	return nil
}

// Deposit asks for one entry to be appended. The store does not keep the slices
// after Put has returned.
type Deposit struct {
	Mailbox ID
	Kind    Kind
	Gen     Gen    // must be the mailbox's generation in the very write that appends
	Expect  Mark   // Commit only: the last commit so far, zero if there was none
	Meta    []byte // Commit only: if not empty, the generation rises by one
	Payload []byte // 1 to MaxPayload bytes
}

// Hash is the deposit's entry hash, by which a repeated deposit is recognised.
func (d *Deposit) Hash() Hash { return EntryHash(d.Kind, d.Gen, d.Meta, d.Payload) }

// Check returns an error that wraps ErrTooLarge or ErrBadDeposit.
func (d *Deposit) Check() error {
	switch {
	case d.Kind != Message && d.Kind != Commit:
		return fmt.Errorf("%w: %v", ErrBadDeposit, d.Kind)
	case d.Kind == Message && (len(d.Meta) > 0 || d.Expect != Mark{}):
		return fmt.Errorf("%w: a message with the meta or the fence of a commit", ErrBadDeposit)
	case len(d.Payload) == 0:
		return fmt.Errorf("%w: empty payload", ErrBadDeposit)
	case len(d.Payload) > MaxPayload:
		return fmt.Errorf("%w: a payload of %d bytes, at most %d", ErrTooLarge, len(d.Payload), MaxPayload)
	case len(d.Meta) > MaxMeta:
		return fmt.Errorf("%w: %d bytes of meta, at most %d", ErrTooLarge, len(d.Meta), MaxMeta)
	}
	return nil
}

// Entry is one stored entry.
type Entry struct {
	Seq     Seq
	Era     Era
	Kind    Kind
	Minute  Minute // when the store took it
	Gen     Gen
	Meta    []byte
	Payload []byte
}

// Hash is the entry hash.
func (e *Entry) Hash() Hash { return EntryHash(e.Kind, e.Gen, e.Meta, e.Payload) }

// EntryHash returns SHA-256("sotto/entry/1" ‖ kind ‖ gen ‖ meta<V> ‖ payload<V>).
func EntryHash(kind Kind, gen Gen, meta, payload []byte) Hash {
	h := sha256.New()
	b := append(make([]byte, 0, 64+len(meta)), "sotto/entry/1"...)
	b = codec.AppendU32(codec.AppendU8(b, uint8(kind)), uint32(gen))
	b = codec.AppendVarint(codec.AppendVec(b, meta), len(payload))
	h.Write(b)
	h.Write(payload)
	return Hash(h.Sum(nil))
}

// FirstChain returns the chain value of a mailbox without entries.
func FirstChain(id ID) Hash { return sha256.Sum256(append([]byte("sotto/head/0"), id[:]...)) }

// NextChain returns the chain value after the entry of hash h at seq:
// SHA-256("sotto/head/1" ‖ chain ‖ era ‖ seq ‖ minute ‖ entry hash).
func NextChain(chain Hash, era Era, seq Seq, minute Minute, h Hash) Hash {
	b := append(make([]byte, 0, 128), "sotto/head/1"...)
	b = append(b, chain[:]...)
	b = codec.AppendU64(codec.AppendU64(b, uint64(era)), uint64(seq))
	b = append(codec.AppendU32(b, uint32(minute)), h[:]...)
	return sha256.Sum256(b)
}

// Head says what stood at Seq: it is what a relay signs.
type Head struct {
	Mailbox ID
	Era     Era  // of the entry at Seq; of the store if Seq is 0
	Seq     Seq  // the last entry
	Commit  Mark // the last commit at or before Seq: the fence
	Chain   Hash // the chain value after Seq
}

// Mark returns the head's position.
func (h Head) Mark() Mark { return Mark{h.Era, h.Seq} }

// State is a mailbox as it stands.
type State struct {
	Head    Head
	Era     Era // of the store: what the next entry will carry
	Gen     Gen
	First   Seq // the oldest entry still held; Head.Seq+1 if none is
	Entries uint32
	Bytes   uint64
	Terms   Terms
}

// Receipt is the answer to a stored deposit.
type Receipt struct {
	Head   Head   // with the entry's seq
	Minute Minute // of the entry
	Again  bool   // the same deposit had been stored before
	Batch  *Batch // what became durable together with it; of one head if Again
}

// Batch is what one flush made durable. Its heads are signed together, once.
type Batch struct {
	Heads []Head

	once   sync.Once
	signed any
}

// Sign calls sign with the batch's heads, once in the batch's life, and returns
// what it returned, for every caller the same.
func (b *Batch) Sign(sign func([]Head) any) any {
	b.once.Do(func() { b.signed = sign(b.Heads) })
	return b.signed
}

// Outcome is what became of one deposit.
type Outcome struct {
	Receipt Receipt
	// Err is nil, or one that wraps ErrNotFound, ErrStale, ErrConflict (as a
	// *ConflictError), ErrQuota, ErrTooLarge, ErrBadDeposit or ErrBusy, all of
	// which mean that nothing was stored, or ErrUnknown.
	Err error
}

// Limit bounds one Read.
type Limit struct {
	Entries int // at most so many entries; 0 and more than MaxPage mean MaxPage
	Bytes   int // stop after the entry that reaches so many bytes of payload; 0 means 1 MiB
	Through Seq // nothing after this position; 0 means the newest
}

// Cause says why entries are gone.
type Cause uint8

const (
	Expired Cause = 1 // their term was over
	Quota   Cause = 2 // dropped for newer ones
	Trimmed Cause = 3 // by the mailbox's admin
)

func (c Cause) String() string {
	switch c {
	case Expired:
		return "expired"
	case Quota:
		return "dropped over quota"
	case Trimmed:
		return "trimmed"
	}
	return fmt.Sprintf("cause %d", uint8(c))
}

// Span is a run of entries that are gone. It keeps the head at its end, so that
// the chain can be taken up behind it.
type Span struct {
	From  Seq // the first entry that is gone
	Cause Cause
	End   Head // the head at the last one
}

// Page is a stretch of a mailbox: its Entries and Lost spans together cover every
// seq after the cursor up to End.Seq, each once. It is not empty if there is more. The
// spans come first: a chain can be followed up to a span, and on from its end, but
// not through it, and End vouches for what leads up to End.
type Page struct {
	Entries []Entry // in order; the caller owns the slices
	Lost    []Span  // in order
	End     Head    // the head at the last position covered
	More    bool    // there is more behind End
}

// Generation is the record of a generation: which commit installed it.
type Generation struct {
	Gen  Gen
	Head Head // at the installing commit; zero for generation 0
	Meta []byte
}

// Store keeps mailboxes. Its methods may be called concurrently.
type Store interface {
	// Era returns the store's era.
	Era() Era

	// Create makes a mailbox. It is idempotent for equal terms. It returns
	// ErrTerms, also for a mailbox that exists with others; ErrGone after
	// Delete; ErrBusy when the store takes no new data.
	Create(ctx context.Context, id ID, t Terms) error

	// Put appends deposits, each to its mailbox, and returns an outcome for
	// each in order. They are not one transaction. Deposits of one mailbox are
	// appended in the order given, as if by one Put after the other.
	//
	// A deposit whose entry hash is that of an entry still held is not stored
	// again: its receipt is that of the entry, with Again set. This is decided
	// before generation and fence are looked at.
	Put(ctx context.Context, ds []Deposit) []Outcome

	// Read returns what stands after a mark. What has expired is not returned,
	// whether or not it has been swept. It returns ErrNotFound, and ErrEra if
	// the mailbox never stood at that mark: the reader's or the store's history
	// has gone another way.
	Read(ctx context.Context, id ID, after Mark, limit Limit) (Page, error)

	// State returns a mailbox as it stands, or ErrNotFound.
	State(ctx context.Context, id ID) (State, error)

	// Generation returns the record of generation gen. It is kept until the
	// last entry of that generation is gone; then, and for one that has not
	// come yet, it returns ErrNotFound.
	Generation(ctx context.Context, id ID, gen Gen) (Generation, error)

	// Trim removes all entries up to and including through; a position beyond
	// the head means the head. It returns ErrNotFound.
	Trim(ctx context.Context, id ID, through Seq) error

	// Delete removes a mailbox and leaves a tombstone for CommitMinutes. It
	// returns ErrNotFound, and nil if it is deleted already.
	Delete(ctx context.Context, id ID) error

	// Listen calls ring after each change of a mailbox that Read would show,
	// until stop is called. Rings may be lost, doubled and merged, and carry no
	// data. Ring must not block and must not call the store.
	Listen(ring func(ID)) (stop func())

	// Sweep frees what has expired and returns how many entries and slots it
	// freed. The store calls it by itself as well, now and then.
	Sweep(ctx context.Context) (int, error)

	// Close waits for calls under way and closes the store.
	Close() error
}

// SlotID names a slot: SHA-256 over the relay's key and the slot's read key.
type SlotID [32]byte

func (id SlotID) String() string { return hex.EncodeToString(id[:2]) + "…" }

// Tag is the number under which one taker takes a slot, as often as it must.
type Tag [16]byte

// Slot is one small versioned value.
type Slot struct {
	Owner   [32]byte // capability key of its owner, opaque here
	Read    [32]byte // capability key of its readers, opaque here
	Once    bool     // only one taker gets it
	Expires Minute   // gone from then on; at most MaxMinutes ahead
	Version uint32   // 1 when created, one more with each Set
	Value   []byte   // 1 to MaxSlot bytes
	Taken   Minute   // when it was first taken; 0 if it was not
}

// Slots keeps slots. Its methods may be called concurrently.
type Slots interface {
	// CreateSlot makes a slot of version 1 that nobody has taken. It is
	// idempotent for an equal slot. It returns ErrExists, ErrTooLarge, ErrTerms,
	// ErrBusy, and a *GoneError while a tombstone stands.
	CreateSlot(ctx context.Context, id SlotID, s Slot) error

	// Slot returns a slot whole, its value also when it has been taken. It
	// returns ErrNotFound or a *GoneError.
	Slot(ctx context.Context, id SlotID) (Slot, error)

	// Keys returns the keys of a slot, also of one whose tombstone stands, or
	// ErrNotFound: it is what a proof is checked against.
	Keys(ctx context.Context, id SlotID) (owner, read [32]byte, err error)

	// SetSlot replaces the value if version is the slot's, and raises it. A
	// repeat with the version before and the value that stands is answered like
	// the first time. It returns ErrNotFound, a *GoneError, ErrVersion, ErrTooLarge.
	SetSlot(ctx context.Context, id SlotID, version uint32, value []byte) error

	// TakeSlot returns a slot to one taker for good: if Once is set, the first
	// tag may take it again until it expires, every other gets a *GoneError
	// with cause SlotTaken. It returns ErrNotFound, *GoneError.
	TakeSlot(ctx context.Context, id SlotID, tag Tag) (Slot, error)

	// RevokeSlot removes the value and leaves a tombstone; nil if it had been
	// revoked before. It returns ErrNotFound, or a *GoneError if it expired.
	RevokeSlot(ctx context.Context, id SlotID) error
}

// SlotCause says why a slot is gone.
type SlotCause uint8

const (
	SlotTaken   SlotCause = 1
	SlotExpired SlotCause = 2
	SlotRevoked SlotCause = 3
)

func (c SlotCause) String() string {
	switch c {
	case SlotTaken:
		return "taken"
	case SlotExpired:
		return "expired"
	case SlotRevoked:
		return "revoked"
	}
	return fmt.Sprintf("cause %d", uint8(c))
}

// GoneError says that a slot was there and why it is not. Only who has shown the
// slot's read key may learn it.
type GoneError struct{ Cause SlotCause }

func (e *GoneError) Error() string { return "slot is gone: " + e.Cause.String() }

// Is makes a GoneError an [ErrGone].
func (e *GoneError) Is(target error) bool { return target == ErrGone }

// ConflictError says that a commit lost the race to the fence.
type ConflictError struct{ Head Head } // as it stands; Head.Commit is the winner

func (e *ConflictError) Error() string {
	return fmt.Sprintf("another commit came first: the fence is at %d", e.Head.Commit.Seq)
}

// Is makes a ConflictError an [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// The errors of a store.
var (
	ErrNotFound   = errors.New("no such mailbox or slot")
	ErrGone       = errors.New("mailbox or slot is gone")
	ErrTerms      = errors.New("terms not allowed")
	ErrStale      = errors.New("the mailbox is at another generation")
	ErrConflict   = errors.New("another commit came first")
	ErrQuota      = errors.New("mailbox is full")
	ErrTooLarge   = errors.New("too large")
	ErrBadDeposit = errors.New("not an entry")
	ErrEra        = errors.New("the mailbox never stood there")
	ErrExists     = errors.New("slot exists with another content")
	ErrVersion    = errors.New("slot has another version")
	ErrBusy       = errors.New("the store takes no new data for now")
	ErrUnknown    = errors.New("it is not known whether this was stored")
)
