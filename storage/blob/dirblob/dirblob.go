// Package dirblob is the store of blobs of one machine: a file for each blob, and
// an index in Badger that says whose it is and when it goes.
//
// # On the disk
//
//	data/ab/abcd…   a blob, named by its id in hex
//	new/abcd….7     an upload under way
//	index/          the index; numbers are big-endian
//	  b id            record: owner, class, size, expiry, SHA-256 of each chunk
//	  x minute id     blob that expires in this minute
//	  g id            blob that is gone from the index and whose file is to go
//	  u class         how many blobs and bytes the class holds
//
// Every value begins with a version byte, 1.
//
// A blob comes in this order: its file in new is whole, hashes to its name, and is
// flushed; so is the folder new; the file gets its second name, in data, and that
// folder is flushed; the record is written, durably; the first name goes. It
// goes in this order: the record becomes a g record, durably; the file goes; its
// folder is flushed; the g record goes. So whatever is cut short where,
//
//   - a record has its file, whole and flushed;
//   - a file in data without a record has a name in new or a g record, and opening
//     the store removes it. Nothing is ever looked for by going over data.
//
// Everything that changes blobs is written by one goroutine at a time: whoever finds
// the store free writes, in one transaction, what has queued up meanwhile.
package dirblob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sotto/storage/blob"
	"sotto/storage/kv"
)

// Config says how to open a store.
type Config struct {
	Dir   string // made if it is not there
	Clock func() time.Time
	Quota map[blob.Class]int64 // bytes that a class may hold; none: what the disk does

	// Reserve is how many bytes of disk stay free; 0 means kv.DefaultReserve, a
	// negative number none. Half of it is left for the index, so that blobs can go
	// when there is no room for new ones.
	Reserve int64
	Free    func(dir string) (uint64, error) // default: the file system's word

	Uploads     int           // of a class, under way at once; default 10,000
	SweepPeriod time.Duration // default: a minute; negative: never by itself
	Hook        Hook
	Logger      *slog.Logger
}

// Step is one thing that the store does to the disk.
type Step string

// The steps.
const (
	StepWrite      Step = "write a chunk"
	StepSync       Step = "flush a file"
	StepSyncFolder Step = "flush a folder"
	StepLink       Step = "link a file"
	StepReplace    Step = "replace a file"
	StepRemove     Step = "remove a file"
	StepIndex      Step = "write to the index"
)

// Hook stands between the store and the disk, for tests. An error of Before is a step
// that failed; one of After is a step that failed but happened.
type Hook interface {
	Before(Step) error
	After(Step) error
}

// indexHook makes a Hook one of the index.
type indexHook struct{ h Hook }

func (i indexHook) BeforeCommit([]kv.Write) error { return i.h.Before(StepIndex) }
func (i indexHook) AfterCommit() error            { return i.h.After(StepIndex) }

const (
	dataDir, newDir, indexDir = "data", "new", "index"

	maxBatch = 256 // changes in one transaction
	maxTx    = 1 << 20
)

// Store is a blob.Store.
type Store struct {
	cfg  Config
	db   *kv.DB
	log  *slog.Logger
	stop chan struct{}
	done sync.WaitGroup

	// Locks are taken in the order in which they stand here; an upload's comes
	// before all of them.

	writing sync.Mutex // held by who changes blobs; guards the following fields
	gone    []blob.ID  // with a g record
	doubt   bool       // names in new may be left over

	mu      sync.Mutex // guards the following fields
	closed  bool
	calls   sync.WaitGroup // Add only with mu held and not closed
	queue   []*change
	uploads map[uploadKey]*upload
	number  map[blob.Class]int // of uploads
	usage   map[blob.Class]blob.Usage
	coming  int64 // bytes that uploads have been promised room for and not brought yet
	serial  int
}

// Open opens the store in c.Dir, or makes one.
func Open(c Config) (*Store, error) {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Reserve == 0 {
		c.Reserve = kv.DefaultReserve
	}
	if c.Free == nil {
		c.Free = kv.FreeAt
	}
	if c.Uploads == 0 {
		c.Uploads = 10_000
	}
	if c.SweepPeriod == 0 {
		c.SweepPeriod = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: c, log: c.Logger, stop: make(chan struct{}), uploads: map[uploadKey]*upload{}, number: map[blob.Class]int{}}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open blobs %s: %w", c.Dir, err)
	}
	if c.SweepPeriod > 0 {
		s.done.Add(1)
		go s.keepSweeping()
	}
	return s, nil
}

func (s *Store) open() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	o := kv.Options{Dir: s.path(indexDir), Small: true, Reserve: s.cfg.Reserve, Free: s.cfg.Free, MaxTx: maxTx, Logger: s.log}
	if o.Reserve > 1 {
		o.Reserve /= 2
	}
	if s.cfg.Hook != nil {
		o.Hook = indexHook{s.cfg.Hook}
	}
	var err error
	if s.db, err = kv.Open(o); err != nil { // and nobody else has it
		return err
	}
	if err = s.makeFolders(); err == nil {
		err = s.reconcile()
	}
	if err != nil {
		s.db.Close()
	}
	return err
}

func (s *Store) makeFolders() error {
	if err := os.MkdirAll(s.path(newDir), 0o700); err != nil {
		return err
	}
	last := s.path(dataDir, "ff")
	if _, err := os.Stat(last); err == nil {
		return nil
	}
	for i := range 256 {
		if err := os.MkdirAll(s.path(dataDir, hex.EncodeToString([]byte{byte(i)})), 0o700); err != nil {
			return err
		}
	}
	return errors.Join(s.syncFolder(s.path(dataDir)), s.syncFolder(s.cfg.Dir))
}

// load reads what the store keeps in memory of the index.
func (s *Store) load() error {
	usage := map[blob.Class]blob.Usage{}
	var gone []blob.ID
	err := s.view(func(tx *kv.Tx) error {
		all, failed := tx.Range([]byte("u"), nil, false)
		for k, v := range all {
			u, err := decodeUsage(v)
			if err != nil || len(k) != 2 {
				return corrupt("usage", err)
			}
			usage[blob.Class(k[1])] = u
		}
		if err := failed(); err != nil {
			return err
		}
		keys, failed := tx.Keys([]byte("g"), nil, false)
		for k := range keys {
			if len(k) != 33 {
				return corrupt("key", nil)
			}
			gone = append(gone, blob.ID(k[1:]))
		}
		return failed()
	})
	if err != nil {
		return err
	}
	s.gone = gone
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uploads {
		c := usage[u.Class]
		c.Uploading += int64(u.Size)
		usage[u.Class] = c
	}
	s.usage = usage
	return nil
}

// reconcile reads the index back and finishes what was cut short. It needs writing
// held, but for Open's.
func (s *Store) reconcile() error {
	s.doubt = true
	if err := s.load(); err != nil {
		return err
	}
	names, err := os.ReadDir(s.path(newDir))
	if err != nil {
		return err
	}
	s.mu.Lock()
	busy := map[string]bool{}
	for _, u := range s.uploads {
		busy[filepath.Base(u.path)] = true
	}
	s.mu.Unlock()
	var left []string
	var orphans []blob.ID
	for _, n := range names {
		hexID, _, _ := strings.Cut(n.Name(), ".")
		raw, err := hex.DecodeString(hexID)
		if busy[n.Name()] {
			continue
		}
		if left = append(left, s.path(newDir, n.Name())); err != nil || len(raw) != len(blob.ID{}) {
			continue // nobody's
		}
		rec, err := s.record(blob.ID(raw))
		if err != nil {
			return err
		}
		if rec == nil {
			orphans = append(orphans, blob.ID(raw))
		}
	}
	if err := s.removeBlobs(orphans); err != nil {
		return err
	}
	for _, path := range left {
		if err := s.remove(path); err != nil {
			return err
		}
	}
	if err := s.bury(); err != nil {
		return err
	}
	s.doubt = false
	return nil
}

// removeBlobs removes files from data, durably.
func (s *Store) removeBlobs(ids []blob.ID) error {
	folders := map[string]bool{}
	for _, id := range ids {
		path := s.blobPath(id)
		if err := s.remove(path); err != nil {
			return err
		}
		folders[filepath.Dir(path)] = true
	}
	for f := range folders {
		if err := s.syncFolder(f); err != nil {
			return err
		}
	}
	return nil
}

// bury ends what is known to be gone: its file goes, durably, and then its g record.
func (s *Store) bury() error {
	for len(s.gone) > 0 {
		some := s.gone[:min(len(s.gone), maxBatch)]
		if err := s.removeBlobs(some); err != nil {
			return err
		}
		err := s.db.Update(func(tx *kv.Tx) error {
			for _, id := range some {
				if err := tx.Delete(idKey('g', id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return s.failed(err)
		}
		s.gone = s.gone[len(some):]
	}
	s.gone = nil
	return nil
}

func (s *Store) now() blob.Minute { return blob.MinuteOf(s.cfg.Clock()) }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, parts...)...)
}

func (s *Store) blobPath(id blob.ID) string {
	name := hex.EncodeToString(id[:])
	return s.path(dataDir, name[:2], name)
}

// do does one step.
func (s *Store) do(step Step, f func() error) error {
	h := s.cfg.Hook
	if h != nil {
		if err := h.Before(step); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", step, withoutPath(err))
	}
	if h != nil {
		return h.After(step)
	}
	return nil
}

// withoutPath returns what the system says, without the file: its name is the id of a
// blob, whoever knows that may read it, and errors end in logs.
func withoutPath(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}

func (s *Store) syncFolder(path string) error {
	return s.do(StepSyncFolder, func() error {
		d, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	})
}

// remove removes a file if it is there.
func (s *Store) remove(path string) error {
	return s.do(StepRemove, func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// begin begins a call, unless the store is closed.
func (s *Store) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("%w: it is closed", blob.ErrBusy)
	}
	s.calls.Add(1)
	return nil
}

// Close implements blob.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	s.done.Wait()
	s.calls.Wait()
	return s.db.Close()
}

// failed translates an error of the index. After doubt it reads the index back.
func (s *Store) failed(err error) error {
	switch {
	case errors.Is(err, kv.ErrUnknown):
		s.log.Error("a write to the index of blobs is in doubt; it is read back", "err", err)
		s.doubt = true
		if again := s.db.Reopen(); again != nil {
			s.log.Error("the index of blobs could not be read back", "err", again)
		}
		return fmt.Errorf("%w: %w", blob.ErrUnknown, err)
	case errors.Is(err, kv.ErrFull):
		return fmt.Errorf("%w: %w", blob.ErrBusy, err)
	}
	return err
}

// view runs f on a snapshot of the index.
func (s *Store) view(f func(tx *kv.Tx) error) error {
	err := s.db.View(f)
	if errors.Is(err, kv.ErrUnknown) {
		if s.db.Reopen() == nil { // whoever writes next looks at the rest
			err = s.db.View(f)
		} else {
			err = fmt.Errorf("%w: %w", blob.ErrUnknown, err)
		}
	}
	return err
}

// record returns the record of a blob, also of one that has expired; nil if
// there is none.
func (s *Store) record(id blob.ID) (rec *record, err error) {
	err = s.view(func(tx *kv.Tx) (err error) { rec, err = loadRecord(tx, id); return err })
	return rec, err
}

// there returns the record of a blob that has not expired, or ErrNotFound.
func (s *Store) there(id blob.ID) (*record, error) {
	rec, err := s.record(id)
	if err == nil && (rec == nil || rec.Expires <= s.now()) {
		err = blob.ErrNotFound
	}
	return rec, err
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, id blob.ID) (blob.Info, error) {
	if err := s.begin(); err != nil {
		return blob.Info{}, err
	}
	defer s.calls.Done()
	rec, err := s.there(id)
	if err != nil {
		return blob.Info{}, err
	}
	return blob.Info{Size: rec.Size, Expires: rec.Expires}, nil
}

// Read implements blob.Store.
func (s *Store) Read(ctx context.Context, id blob.ID, offset, n int) ([]byte, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	rec, err := s.there(id)
	if err != nil {
		return nil, err
	}
	from := min(max(offset, 0), rec.Size)
	to := from + min(max(n, 0), blob.MaxRead, rec.Size-from)
	if from == to {
		return nil, nil
	}
	out := make([]byte, to-from)
	err = s.read(id, rec, from/blob.ChunkSize, (to-1)/blob.ChunkSize, func(i int, chunk []byte) {
		at := i * blob.ChunkSize
		copy(out[max(at-from, 0):], chunk[max(from-at, 0):])
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// read reads chunks of a blob and checks them.
func (s *Store) read(id blob.ID, rec *record, first, last int, each func(i int, chunk []byte)) error {
	err := s.readFile(id, rec, first, last, each)
	if !errors.Is(err, blob.ErrDamaged) {
		return err
	}
	// It may have been removed meanwhile, and even have come again. While nobody
	// writes, a record has its file.
	s.writing.Lock()
	defer s.writing.Unlock()
	if rec, err = s.there(id); err == nil {
		err = s.readFile(id, rec, first, last, each)
	}
	var damage *blob.DamageError
	if errors.As(err, &damage) {
		s.log.Error("a blob is damaged", "blob", id, "offset", damage.Offset, "err", damage.Err)
	}
	return err
}

func (s *Store) readFile(id blob.ID, rec *record, first, last int, each func(i int, chunk []byte)) error {
	path := s.blobPath(id)
	damage := func(i int, err error) error {
		return &blob.DamageError{File: path, Offset: i * blob.ChunkSize, Err: err}
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return damage(first, errors.New("the file is missing"))
	}
	if err != nil {
		return fmt.Errorf("open blob %v: %w", id, withoutPath(err))
	}
	defer f.Close()
	buf := make([]byte, min(blob.ChunkSize, rec.Size))
	for i := first; i <= last; i++ {
		b := buf[:blob.ChunkLen(rec.Size, i)]
		if _, err := f.ReadAt(b, int64(i)*blob.ChunkSize); errors.Is(err, io.EOF) {
			return damage(i, errors.New("the file is too short"))
		} else if err != nil {
			return damage(i, withoutPath(err))
		}
		if sha256.Sum256(b) != rec.sums[i] {
			return damage(i, errors.New("it is not what was stored"))
		}
		each(i, b)
	}
	return nil
}

// Renew implements blob.Store.
func (s *Store) Renew(ctx context.Context, id blob.ID, owner blob.Owner, expires blob.Minute) (blob.Minute, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.calls.Done()
	if err := blob.CheckExpires(expires, s.now()); err != nil {
		return 0, err
	}
	c := &change{id: id, decide: func(old *record) (*record, error) {
		if old == nil || old.Owner != owner || old.Expires <= s.now() {
			return nil, blob.ErrNotFound
		}
		if expires <= old.Expires {
			expires = old.Expires
			return old, nil
		}
		now := *old
		now.Expires = expires
		return &now, nil
	}}
	err := s.commit(c)
	return expires, err
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, id blob.ID, owner blob.Owner) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.calls.Done()
	dropped := false
	if u := s.upload(id, owner); u != nil {
		dropped = s.drop(u)
		u.mu.Unlock()
	}
	err := s.commit(&change{id: id, decide: func(old *record) (*record, error) {
		if old == nil || old.Owner != owner || old.Expires <= s.now() {
			return nil, blob.ErrNotFound
		}
		return nil, nil
	}})
	if dropped && errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	return err
}

// Usage implements blob.Store.
func (s *Store) Usage(ctx context.Context) (map[blob.Class]blob.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[blob.Class]blob.Usage{}
	for c, u := range s.usage {
		if u != (blob.Usage{}) {
			out[c] = u
		}
	}
	return out, nil
}

// Size returns how many bytes the store takes up on the disk.
func (s *Store) Size() (sum int64, err error) {
	err = filepath.WalkDir(s.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// Sweep implements blob.Store.
func (s *Store) Sweep(ctx context.Context) (n int, err error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.calls.Done()
	now := s.now()
	s.sweepUploads(now)
	for before := -1; ctx.Err() == nil && n != before; {
		before = n
		ids, err := s.due(now)
		if err != nil {
			return n, err
		}
		var cs []*change
		for _, id := range ids {
			cs = append(cs, &change{id: id, decide: func(old *record) (*record, error) {
				if old == nil || old.Expires > now {
					return old, nil // renewed meanwhile
				}
				n++ // only one decides at a time
				return nil, nil
			}})
		}
		if err := s.commit(cs...); err != nil {
			return n, err
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.doubt {
		return n, s.reconcile()
	}
	return n, s.bury()
}

// due returns some of the blobs that have expired.
func (s *Store) due(now blob.Minute) (ids []blob.ID, err error) {
	err = s.view(func(tx *kv.Tx) error {
		keys, failed := tx.Keys([]byte("x"), nil, false)
		for k := range keys {
			minute, id, ok := parseMinuteKey(k)
			if !ok {
				return corrupt("key", nil)
			}
			if minute > now || len(ids) == maxBatch {
				break
			}
			ids = append(ids, id)
		}
		return failed()
	})
	return ids, err
}

func (s *Store) keepSweeping() {
	defer s.done.Done()
	t := time.NewTicker(s.cfg.SweepPeriod)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			if _, err := s.Sweep(context.Background()); err != nil && !errors.Is(err, blob.ErrBusy) {
				s.log.Error("sweeping blobs", "err", err)
			}
		}
	}
}
