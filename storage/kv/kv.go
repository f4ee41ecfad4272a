// Package kv is Badger opened our way, once, for node and relay: a map of ordered
// byte keys with transactions that are durable when they return.
//
// An update has three outcomes. It returns nil, and the write survives the loss of
// power. It returns an error of the caller's function, or one of the errors named
// here, and nothing has happened. Or it returns an error that wraps [ErrUnknown]:
// Badger makes a transaction visible before it syncs, so after an error from
// a commit nobody knows what the disk holds. The DB then refuses everything until
// [DB.Reopen] has read it back.
//
// Keys are at most 1 KiB, values at most 1 MiB. What is deleted is given back to
// the file system by [DB.Reclaim], which the DB also calls by itself now and then.
package kv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// Limits, in bytes.
const (
	MaxKey         = 1 << 10
	MaxValue       = 1 << 20
	DefaultReserve = 64 << 20
)

// The errors of this package.
var (
	ErrNotFound = errors.New("no such key")
	ErrUnknown  = errors.New("it is not known whether the write reached the disk")
	ErrFull     = errors.New("disk is full")
	ErrLocked   = errors.New("in use by another process")
	ErrWrongKey = errors.New("database opened with another key")
	ErrCorrupt  = errors.New("database is damaged")
	ErrFormat   = errors.New("database of a newer version of this program")
	ErrTooBig   = errors.New("transaction is too big")
	ErrClosed   = errors.New("database is closed")
)

// format is the version of what this package keeps beside the caller's records:
//
//	1	the version itself, under the key "\x00format"
const format = 1

var formatKey = []byte("\x00format")

// Write is one write of an update; a nil Value deletes.
type Write struct{ Key, Value []byte }

// Hook stands between an update and the disk, for tests. An error of BeforeCommit
// is a write that failed; one of AfterCommit a write that failed but happened.
type Hook interface {
	BeforeCommit(writes []Write) error
	AfterCommit() error
}

// Options says how to open a database.
type Options struct {
	Dir string // made if it is not there; its parent must exist

	// Key encrypts Badger's files: 32 bytes, or nil for none. It hides keys from who
	// has the disk and protects nothing from being changed.
	Key []byte

	// Small saves memory and disk where writes are few: a node, a test.
	Small bool

	// Reserve is how many bytes of disk stay free: an update below it returns
	// ErrFull. Badger maps its files, and a process dies when the disk behind a
	// map is full; so what Badger may need while it rewrites its tables stays free
	// as well. 0 means DefaultReserve, a negative number none.
	Reserve int64

	// Free returns how many bytes are free at a directory. Default: the file
	// system's word.
	Free func(dir string) (uint64, error)

	// MaxTx is how many bytes of keys and values one update may write. It is
	// raised to what the options above need. 0 means 2 MiB.
	MaxTx int64

	Hook   Hook
	Logger *slog.Logger // default: nothing is logged
}

// DB is an open database. Its methods may be called concurrently.
type DB struct {
	opt  Options
	stop chan struct{}
	done sync.WaitGroup

	writing sync.Mutex // held by an update; taken before state

	state  sync.RWMutex // guards the following fields; held for reading by every transaction
	db     *badger.DB
	broken error // why db may not be used
	closed bool
	grown  int64 // bytes written since the free space was last asked for
	free   uint64
	room   int64 // that Badger may need for a while, beside what it holds
	asked  bool
}

// Open opens the database in o.Dir, or makes one.
func Open(o Options) (*DB, error) {
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Free == nil {
		o.Free = freeBytes
	}
	if o.MaxTx == 0 {
		o.MaxTx = 2 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	d := &DB{opt: o, stop: make(chan struct{})}
	if err := d.checkSpace(0, true); err != nil {
		return nil, fmt.Errorf("open database %s: %w", o.Dir, err)
	}
	var err error
	if d.db, err = d.open(); err != nil {
		return nil, fmt.Errorf("open database %s: %w", o.Dir, err)
	}
	d.done.Add(1)
	go d.keepHouse()
	return d, nil
}

// memtable is how much Badger holds before it writes a table.
func (o *Options) memtable() int64 {
	mem := int64(64 << 20)
	if o.Small {
		mem = 8 << 20
	}
	return max(mem, o.MaxTx*8) // Badger takes a transaction of at most 15 % of a memtable
}

// maxRoom is how much Badger writes before it removes what it replaces: as many
// tables as gather before they are merged, and those on their way.
func (o *Options) maxRoom() int64 { return 8 * o.memtable() }

// badgerOptions are chosen so that one flush of the log makes a transaction
// durable, values lie beside their keys (a scan reads one place), and nothing is
// dropped silently.
func (o *Options) badgerOptions() badger.Options {
	mem, cache := o.memtable(), int64(64<<20)
	if o.Small {
		cache = 4 << 20
	}
	b := badger.DefaultOptions(o.Dir).
		WithSyncWrites(true).
		WithDetectConflicts(false). // updates come one at a time
		WithNumVersionsToKeep(1).
		WithCompactL0OnClose(false).
		WithMemTableSize(mem).
		WithNumMemtables(2).
		WithBaseTableSize(2 << 20).
		WithBaseLevelSize(10 << 20).
		WithValueThreshold(MaxValue). // values stay in the tables: no second write, no value log to clean
		WithValueLogFileSize(16 << 20).
		WithNumCompactors(2).
		WithBlockCacheSize(cache).
		WithIndexCacheSize(cache).
		WithCompression(options.None). // what is stored is sealed
		WithMetricsEnabled(false).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnTableRead).
		WithLogger(badgerLog{o.Logger})
	b = b.WithNumLevelZeroTables(2).WithNumLevelZeroTablesStall(6) // see maxRoom
	if o.Key != nil {
		b = b.WithEncryptionKey(o.Key)
	}
	return b
}

func (d *DB) open() (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil { // Badger trusts its files
			db, err = nil, fmt.Errorf("%w: %v; keep a copy of the folder, and restore a backup", ErrCorrupt, p)
		}
	}()
	o := d.opt.badgerOptions()
	if err := removeEmpty(o.Dir); err != nil {
		return nil, err
	}
	if err := checkTables(o); err != nil {
		return nil, err
	}
	db, err = badger.Open(o)
	if err != nil {
		return nil, openError(err)
	}
	err = db.Update(func(tx *badger.Txn) error {
		it, err := tx.Get(formatKey)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return tx.Set(formatKey, []byte{format})
		}
		if err != nil {
			return err
		}
		return it.Value(func(v []byte) error {
			if len(v) != 1 || v[0] > format {
				return fmt.Errorf("%w: it has format %x, this program knows up to %d", ErrFormat, v, format)
			}
			return nil
		})
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// openError names what Badger says in words only.
func openError(err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, badger.ErrEncryptionKeyMismatch), errors.Is(err, badger.ErrInvalidEncryptionKey):
		return ErrWrongKey
	case strings.Contains(text, "Another process is using"), strings.Contains(text, "Cannot acquire directory lock"):
		return ErrLocked
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOSPC):
		return err
	}
	return fmt.Errorf("%w: %v; keep a copy of the folder, and restore a backup", ErrCorrupt, err)
}

// Close ends the database. It waits for transactions under way.
func (d *DB) Close() error {
	d.state.Lock()
	if d.closed {
		d.state.Unlock()
		return nil
	}
	d.closed = true
	close(d.stop)
	db := d.db
	d.db = nil
	var err error
	if db != nil {
		err = db.Close()
	}
	d.state.Unlock()
	d.done.Wait()
	return err
}

// Reopen closes the files and opens them again: what is read then is what the
// disk holds. It is the way on after ErrUnknown.
func (d *DB) Reopen() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.state.Lock()
	defer d.state.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.db != nil {
		func() {
			defer func() { recover() }() // a Badger that failed to write may fail to close
			d.db.Close()
		}()
		d.db = nil
	}
	db, err := d.open()
	if err != nil {
		d.broken = fmt.Errorf("%w: %w", ErrUnknown, err)
		return fmt.Errorf("reopen database %s: %w", d.opt.Dir, err)
	}
	d.db, d.broken = db, nil
	return nil
}

// usable returns the error of a DB that cannot be used; state is held.
func (d *DB) usable() error {
	switch {
	case d.closed:
		return ErrClosed
	case d.broken != nil:
		return d.broken
	}
	return nil
}

// View runs f on a snapshot. The Tx must not be used after f has returned.
func (d *DB) View(f func(*Tx) error) (err error) {
	d.state.RLock()
	defer d.state.RUnlock()
	if err := d.usable(); err != nil {
		return err
	}
	tx := d.db.NewTransaction(false)
	defer tx.Discard()
	return f(&Tx{tx: tx})
}

// Update runs f and makes what it wrote durable, all of it or none. Updates run
// one after the other. See the package comment for its errors.
func (d *DB) Update(f func(*Tx) error) error { return d.write(f, false) }

// Shrink is like Update for what makes room in the end: it may use half of the
// reserve, so that a full database can be made smaller.
func (d *DB) Shrink(f func(*Tx) error) error { return d.write(f, true) }

func (d *DB) write(f func(*Tx) error, shrinks bool) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	err := d.update(f, shrinks)
	if errors.Is(err, ErrUnknown) {
		d.state.Lock()
		if d.broken == nil {
			d.broken = err
		}
		d.state.Unlock()
	}
	return err
}

func (d *DB) update(f func(*Tx) error, shrinks bool) error {
	d.state.RLock()
	defer d.state.RUnlock()
	if err := d.usable(); err != nil {
		return err
	}
	raw := d.db.NewTransaction(true)
	defer raw.Discard()
	tx := &Tx{tx: raw, limit: d.opt.MaxTx, record: d.opt.Hook != nil}
	if err := f(tx); err != nil {
		return err
	}
	if tx.err != nil {
		return tx.err
	}
	if tx.size == 0 {
		return nil
	}
	if err := d.checkSpace(tx.size, shrinks); err != nil {
		return err
	}
	if h := d.opt.Hook; h != nil {
		if err := h.BeforeCommit(tx.writes); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if h := d.opt.Hook; h != nil {
		if err := h.AfterCommit(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return nil
}

// checkSpace returns ErrFull if a write of n bytes could eat into the reserve. It
// asks the file system once for every 4 MiB written.
func (d *DB) checkSpace(n int64, shrinks bool) error {
	if d.opt.Reserve < 0 {
		return nil
	}
	d.grown += n
	if !d.asked || d.grown > 4<<20 || d.free < uint64(d.opt.Reserve+d.room)+64<<20 {
		free, err := d.opt.Free(d.opt.Dir)
		if err != nil {
			return fmt.Errorf("ask for free disk space: %w", err)
		}
		size, err := d.Size()
		if err != nil {
			return fmt.Errorf("ask for the size of the database: %w", err)
		}
		d.free, d.room, d.grown, d.asked = free, min(size, d.opt.maxRoom()), 0, true
	}
	reserve := d.opt.Reserve + d.room
	if shrinks {
		reserve = d.opt.Reserve / 2
	}
	if d.free < uint64(reserve)+uint64(n) {
		return fmt.Errorf("%w: %d MiB are free at %s and %d MiB are kept in reserve; free some and try again",
			ErrFull, d.free>>20, d.opt.Dir, reserve>>20)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// Free returns how many bytes are free where the database lies.
func (d *DB) Free() (uint64, error) { return d.opt.Free(d.opt.Dir) }

// Size returns how many bytes the database's files take up on the disk.
func (d *DB) Size() (int64, error) {
	var sum int64
	entries, err := os.ReadDir(d.opt.Dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		var s unix.Stat_t
		if unix.Stat(filepath.Join(d.opt.Dir, e.Name()), &s) == nil {
			sum += s.Blocks * 512
		}
	}
	return sum, nil
}

// housePeriod is how often a database looks after its files by itself.
const housePeriod = 10 * time.Minute

func (d *DB) keepHouse() {
	defer d.done.Done()
	t := time.NewTicker(housePeriod)
	defer t.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-t.C:
			d.state.RLock()
			if d.usable() == nil {
				for d.db.RunValueLogGC(0.5) == nil {
				}
			}
			d.state.RUnlock()
		}
	}
}

// Reclaim rewrites the files so that what was deleted is given back. It takes
// time and disk in proportion to the database; reading and writing go on, but for a
// moment at its beginning: what was deleted last is in memory, and Badger writes it
// down when it is closed.
func (d *DB) Reclaim(ctx context.Context) error {
	if err := d.Reopen(); err != nil {
		return fmt.Errorf("reclaim: %w", err)
	}
	d.state.RLock()
	defer d.state.RUnlock()
	if err := d.usable(); err != nil {
		return err
	}
	if err := d.db.Flatten(2); err != nil {
		return fmt.Errorf("reclaim: %w", err)
	}
	for ctx.Err() == nil {
		if err := d.db.RunValueLogGC(0.1); err != nil {
			break // nothing left to rewrite
		}
	}
	return ctx.Err()
}

// Tx is a transaction.
type Tx struct {
	tx     *badger.Txn
	limit  int64
	size   int64
	record bool
	writes []Write
	err    error // of a write; it ends the transaction
}

// Get returns a copy of the value, or ErrNotFound.
func (t *Tx) Get(key []byte) ([]byte, error) {
	it, err := t.tx.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, readError(err)
	}
	v, err := it.ValueCopy(nil)
	if err != nil {
		return nil, readError(err)
	}
	return v, nil
}

// Has reports whether there is a value.
func (t *Tx) Has(key []byte) (bool, error) {
	_, err := t.tx.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, readError(err)
	}
	return true, nil
}

func readError(err error) error { return fmt.Errorf("%w: %w", ErrCorrupt, err) }

// Set writes a value, which may be empty. The transaction keeps both slices until
// it ends. An error makes the whole update fail, whether or not it is looked at.
func (t *Tx) Set(key, value []byte) error {
	if len(key) > MaxKey || len(value) > MaxValue {
		return t.fail(fmt.Errorf("%w: a key of %d and a value of %d bytes", ErrTooBig, len(key), len(value)))
	}
	return t.write(key, value, t.tx.Set)
}

// Delete removes a value, if there is one.
func (t *Tx) Delete(key []byte) error {
	return t.write(key, nil, func(k, _ []byte) error { return t.tx.Delete(k) })
}

func (t *Tx) write(key, value []byte, do func(k, v []byte) error) error {
	if t.err != nil {
		return t.err
	}
	t.size += int64(len(key)+len(value)) + 32
	if t.size > t.limit {
		return t.fail(fmt.Errorf("%w: over %d bytes", ErrTooBig, t.limit))
	}
	if err := do(key, value); err != nil {
		if errors.Is(err, badger.ErrTxnTooBig) {
			err = fmt.Errorf("%w: %w", ErrTooBig, err)
		}
		return t.fail(err)
	}
	if t.record {
		t.writes = append(t.writes, Write{append([]byte(nil), key...), append([]byte(nil), value...)})
		if value == nil {
			t.writes[len(t.writes)-1].Value = nil
		}
	}
	return nil
}

func (t *Tx) fail(err error) error {
	if t.err == nil {
		t.err = err
	}
	return err
}

// Size returns how many bytes have been written so far, as MaxTx counts them.
func (t *Tx) Size() int64 { return t.size }

// Range goes over the keys that begin with prefix, in order, from the first that is
// not before from (nil: from the start), or, if reverse, down from the last that
// is not after from (nil: from the end). Slices are good until the next step.
// It must not be nested in an update, and an update must not write while it goes on.
// An error ends it and is returned by the function that Range returns second.
func (t *Tx) Range(prefix, from []byte, reverse bool) (iter.Seq2[[]byte, []byte], func() error) {
	var failed error
	seq := func(yield func(k, v []byte) bool) {
		failed = t.scan(prefix, from, reverse, true, func(it *badger.Item) (bool, error) {
			more := false
			err := it.Value(func(v []byte) error { more = yield(it.Key(), v); return nil })
			return more, err
		})
	}
	return seq, func() error { return failed }
}

// Keys is like Range without reading values.
func (t *Tx) Keys(prefix, from []byte, reverse bool) (iter.Seq[[]byte], func() error) {
	var failed error
	seq := func(yield func(k []byte) bool) {
		failed = t.scan(prefix, from, reverse, false, func(it *badger.Item) (bool, error) { return yield(it.Key()), nil })
	}
	return seq, func() error { return failed }
}

func (t *Tx) scan(prefix, from []byte, reverse, values bool, each func(*badger.Item) (bool, error)) error {
	o := badger.DefaultIteratorOptions
	o.PrefetchValues, o.PrefetchSize = values, 16
	o.Reverse = reverse
	if !reverse {
		o.Prefix = prefix // Badger looks for tables by it, and, in reverse, misses the end
	}
	it := t.tx.NewIterator(o)
	defer it.Close()
	start := from
	switch {
	case start == nil && !reverse:
		start = prefix
	case start == nil:
		start = append(append([]byte(nil), prefix...), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	}
	for it.Seek(start); it.ValidForPrefix(prefix); it.Next() {
		more, err := each(it.Item())
		if err != nil {
			return readError(err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// Counter returns the number under key, 0 if there is none.
func (t *Tx) Counter(key []byte) (uint64, error) {
	b, err := t.Get(key)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil || len(b) != 8 {
		return 0, fmt.Errorf("%w: a counter of %d bytes (%v)", ErrCorrupt, len(b), err)
	}
	return binary.BigEndian.Uint64(b), nil
}

// SetCounter writes the number under key.
func (t *Tx) SetCounter(key []byte, n uint64) error {
	return t.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// badgerLog passes on what an operator should hear: not Badger's talk.
type badgerLog struct{ l *slog.Logger }

func (b badgerLog) Errorf(f string, a ...any)   { b.l.Error("badger", "text", fmt.Sprintf(f, a...)) }
func (b badgerLog) Warningf(f string, a ...any) { b.l.Debug("badger", "text", fmt.Sprintf(f, a...)) }
func (b badgerLog) Infof(string, ...any)        {}
func (b badgerLog) Debugf(string, ...any)       {}

// FreeAt returns how many bytes are free at a directory.
func FreeAt(dir string) (uint64, error) { return freeBytes(dir) }
