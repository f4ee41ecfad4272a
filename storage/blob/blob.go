// Package blob is the contract of a store of blobs: immutable bytes that are named
// by their hash. They carry what is too large for an entry of a mailbox.
// The engines are packages memblob (in memory) and dirblob (files of one machine);
// package blobtest is the suite that each of them passes.
//
//	id := blob.Sum(b)
//	missing, err := s.Create(ctx, id, blob.Terms{Size: len(b), Owner: owner, Expires: expires})
//	for i := range missing.Each() {
//		missing, err = s.Write(ctx, id, owner, i, blob.Chunk(b, i))
//	}
//	// missing is 0: it is stored
//
// [Put] does that for bytes that are at hand.
//
// # What an answer means
//
// A call that returns a nil error has been made durable, where it says so: it
// survives the loss of power. A call that returns one of the errors named at the
// method has not taken effect. A call that returns [ErrUnknown], or any error not
// named there, may or may not have taken effect; the caller asks again with the same
// arguments, and every method can be repeated. After an error that is not named,
// an upload that was under way may have to be begun again: its Create says what is
// missing.
//
// A blob is checked against its name when it is stored, and what Read returns is
// checked against what was stored: damage is a [*DamageError], and wrong bytes are
// never returned.
//
// # Who may do what
//
// Who knows the id of a blob may read it: that is the hash of sealed bytes, which
// nobody guesses. Who created it is its owner, and alone renews and deletes it. The
// store compares the owner in the very write; that the caller speaks for the owner is
// judged above.
//
// # What is not here
//
// Sealing: a blob is sealed before it comes here. Chunks of a larger file are blobs of
// their own. An engine may keep an upload that is under way to one process, and
// lose it with that: stored is only what nothing is missing of.
package blob

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"time"
)

// Sizes and times that hold for every store.
const (
	MaxSize   = 4 << 20   // bytes of a blob
	ChunkSize = 256 << 10 // bytes of each chunk of an upload but the last
	MaxRead   = ChunkSize // bytes that one Read returns

	MaxMinutes Minute = 180 * 24 * 60 // that a blob is kept without being renewed

	// UploadMinutes is how long an upload may wait for its next chunk. Whoever
	// comes later begins again.
	UploadMinutes Minute = 30
)

type (
	// ID names a blob: SHA-256 of its bytes.
	ID [32]byte
	// Owner is the capability key that may renew and delete a blob, opaque here.
	Owner [32]byte
	// Class is who pays for a blob: owners of one class share a quota. What classes
	// there are is the caller's business.
	Class uint8
	// Minute is a time: minutes since 1970 began, UTC.
	Minute uint32
)

// Sum returns the id of a blob.
func Sum(b []byte) ID { return sha256.Sum256(b) }

// String returns the first 4 hex digits, all that a log may show.
func (id ID) String() string { return hex.EncodeToString(id[:2]) + "…" }

// MinuteOf returns the minute that t lies in.
func MinuteOf(t time.Time) Minute { return Minute(t.Unix() / 60) }

// Chunks is a set of chunks of a blob: bit i is chunk i.
type Chunks uint32

// AllChunks returns the chunks that a blob of so many bytes has.
func AllChunks(size int) Chunks { return 1<<((size+ChunkSize-1)/ChunkSize) - 1 }

// Has reports whether chunk i is in the set.
func (c Chunks) Has(i int) bool { return i >= 0 && i < 32 && c&(1<<i) != 0 }

// Without returns the set without chunk i.
func (c Chunks) Without(i int) Chunks { return c &^ (1 << i) }

// Each goes over the chunks in order.
func (c Chunks) Each() iter.Seq[int] {
	return func(yield func(int) bool) {
		for rest := c; rest != 0; rest &= rest - 1 {
			if !yield(bits.TrailingZeros32(uint32(rest))) {
				return
			}
		}
	}
}

// ChunkLen returns how many bytes chunk i has of a blob of size bytes; 0 if it has
// no such chunk.
func ChunkLen(size, i int) int {
	if i < 0 || i >= MaxSize/ChunkSize {
		return 0
	}
	return max(0, min(ChunkSize, size-i*ChunkSize))
}

// Chunk returns chunk i of b, a part of it.
func Chunk(b []byte, i int) []byte {
	n := ChunkLen(len(b), i)
	if n == 0 {
		return nil
	}
	return b[i*ChunkSize:][:n]
}

// Terms are what a blob is created with.
type Terms struct {
	Size    int // 1 to MaxSize bytes
	Owner   Owner
	Class   Class
	Expires Minute // gone from then on; at most MaxMinutes ahead
}

// Check returns an error that wraps ErrTooLarge or ErrTerms.
func (t Terms) Check(now Minute) error {
	if t.Size < 1 || t.Size > MaxSize {
		return fmt.Errorf("%w: %d bytes, allowed are 1 to %d", ErrTooLarge, t.Size, MaxSize)
	}
	return CheckExpires(t.Expires, now)
}

// CheckExpires returns an error that wraps ErrTerms.
func CheckExpires(expires, now Minute) error {
	if expires <= now || expires > now+MaxMinutes {
		return fmt.Errorf("%w: a blob must expire within %d days", ErrTerms, MaxMinutes/24/60)
	}
	return nil
}

// Info says of a blob what who knows its id may know.
type Info struct {
	Size    int
	Expires Minute
}

// Usage is what a class holds.
type Usage struct {
	Blobs int
	Bytes int64
	// Uploading is how many bytes more are promised to uploads under way.
	Uploading int64
}

// Store keeps blobs. Its methods may be called concurrently.
type Store interface {
	// Create begins an upload, or goes on with the owner's own of the same size, and
	// returns the chunks that are missing. If none is, the blob is stored: then it
	// was stored before, its bytes have been looked at, and it expires when t
	// says if that is later; one whose bytes are damaged is begun anew. What is
	// begun counts against the quota of t.Class.
	//
	// It returns ErrTooLarge, ErrTerms, ErrExists if it is another's, ErrQuota,
	// and ErrBusy when the store takes no new data.
	Create(ctx context.Context, id ID, t Terms) (missing Chunks, err error)

	// Write adds a chunk, in any order, and returns those that are missing. The one
	// after which none is makes the blob durable, before it returns. A chunk that is
	// held already is not looked at. The store does not keep data.
	//
	// It returns ErrNotFound if the owner has no upload and no blob of this id,
	// ErrBadChunk, ErrExists if another stored it first, ErrBusy when the store
	// takes no new data, and ErrMismatch if all chunks together are not what the
	// id names: then nothing of them is kept.
	Write(ctx context.Context, id ID, owner Owner, chunk int, data []byte) (missing Chunks, err error)

	// Read returns n bytes, at most MaxRead, from offset on: fewer only where the
	// blob ends, none behind that. It returns ErrNotFound and a *DamageError.
	Read(ctx context.Context, id ID, offset, n int) ([]byte, error)

	// Stat returns what is known of a blob, or ErrNotFound.
	Stat(ctx context.Context, id ID) (Info, error)

	// Renew makes a blob expire later, never sooner, and returns when it does. It
	// returns ErrTerms, and ErrNotFound if it is not the owner's.
	Renew(ctx context.Context, id ID, owner Owner, expires Minute) (Minute, error)

	// Delete removes a blob or an upload. It returns ErrNotFound if it is not the
	// owner's or not there; also when repeated.
	Delete(ctx context.Context, id ID, owner Owner) error

	// Usage returns what the classes hold.
	Usage(ctx context.Context) (map[Class]Usage, error)

	// Sweep gives back what has expired, uploads too, and returns how many blobs
	// that were. The store calls it by itself as well, now and then.
	Sweep(ctx context.Context) (int, error)

	// Close waits for calls under way and closes the store.
	Close() error
}

// The errors of a store.
var (
	ErrNotFound = errors.New("no such blob")
	ErrExists   = errors.New("the blob is another's")
	ErrTooLarge = errors.New("too large for a blob")
	ErrTerms    = errors.New("terms not allowed for a blob")
	ErrBadChunk = errors.New("not a chunk of the blob")
	ErrMismatch = errors.New("the bytes are not those that the blob is named by")
	ErrQuota    = errors.New("no room for more blobs")
	ErrBusy     = errors.New("the store takes no new blobs for now")
	ErrDamaged  = errors.New("the blob is damaged")
	ErrUnknown  = errors.New("it is not known whether the blob was stored")
)

// DamageError says that what is stored is not what was stored. It names the file,
// and never shows what is in it.
type DamageError struct {
	File   string
	Offset int // of the chunk that is damaged
	Err    error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("blob file %s is damaged at or behind byte %d: %v", e.File, e.Offset, e.Err)
}

func (e *DamageError) Unwrap() error { return e.Err }

// Is makes a DamageError an [ErrDamaged].
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }

// Put stores bytes under their hash; t.Size need not be set.
func Put(ctx context.Context, s Store, t Terms, b []byte) (ID, error) {
	id := Sum(b)
	t.Size = len(b)
	missing, err := s.Create(ctx, id, t)
	for i := range missing.Each() {
		if err != nil {
			break
		}
		missing, err = s.Write(ctx, id, t.Owner, i, Chunk(b, i))
	}
	if err == nil && missing != 0 {
		err = fmt.Errorf("%w: its upload was begun anew meanwhile", ErrUnknown)
	}
	return id, err
}

// Get returns a whole blob.
func Get(ctx context.Context, s Store, id ID) ([]byte, error) {
	info, err := s.Stat(ctx, id)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, info.Size)
	for len(b) < info.Size {
		part, err := s.Read(ctx, id, len(b), MaxRead)
		if err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return b, nil
}

// Audit is a question that only who holds a blob can answer, with its answer.
// It is made while one has the bytes, kept secret, and asked once: a holder
// that knows the question could keep the answer in place of the blob.
type Audit struct {
	Nonce [32]byte
	MAC   [32]byte // HMAC-SHA-256(nonce, blob)
}

// NewAudit makes a question about b.
func NewAudit(b []byte) Audit {
	var a Audit
	rand.Read(a.Nonce[:])
	a.MAC = Answer(a.Nonce, b)
	return a
}

// Answer is the answer of who holds b.
func Answer(nonce [32]byte, b []byte) [32]byte {
	h := hmac.New(sha256.New, nonce[:])
	h.Write(b)
	return [32]byte(h.Sum(nil))
}

// AnswerFrom is the answer of a store.
func AnswerFrom(ctx context.Context, s Store, id ID, nonce [32]byte) ([32]byte, error) {
	h := hmac.New(sha256.New, nonce[:])
	for offset := 0; ; {
		b, err := s.Read(ctx, id, offset, MaxRead)
		if err != nil {
			return [32]byte{}, err
		}
		h.Write(b)
		if offset += len(b); len(b) < MaxRead {
			return [32]byte(h.Sum(nil)), nil
		}
	}
}
