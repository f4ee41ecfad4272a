package dirblob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"sotto/storage/blob"
)

// uploadKey names an upload: nobody can hinder another's by beginning it as well.
type uploadKey struct {
	id    blob.ID
	owner blob.Owner
}

// upload is a blob that is not whole yet.
type upload struct {
	id   blob.ID
	path string
	blob.Terms

	mu      sync.Mutex // guards the following fields, and Expires
	missing blob.Chunks
	touched blob.Minute
	over    bool // it has been stored, or dropped
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, id blob.ID, t blob.Terms) (blob.Chunks, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.calls.Done()
	if err := t.Check(s.now()); err != nil {
		return 0, err
	}
	for {
		missing, err := s.create(id, t)
		if err != errAgain {
			return missing, err
		}
	}
}

// errAgain is returned when somebody else has begun the same upload meanwhile.
var errAgain = errors.New("look again")

func (s *Store) create(id blob.ID, t blob.Terms) (blob.Chunks, error) {
	u := s.upload(id, t.Owner) // and if it was being stored, it has been
	if u != nil {
		defer u.mu.Unlock()
	}
	rec, err := s.there(id)
	switch {
	case err == nil && rec.Owner != t.Owner:
		return 0, blob.ErrExists
	case err == nil:
		if stored, err := s.createAgain(id, rec, t); stored || err != nil {
			return 0, err
		}
	case !errors.Is(err, blob.ErrNotFound):
		return 0, err
	}
	if u != nil && u.Size == t.Size {
		u.Expires, u.touched = t.Expires, s.now()
		return u.missing, nil
	}
	if u != nil {
		s.drop(u)
	}
	return s.newUpload(id, t)
}

// createAgain deals with a blob that its owner creates again. It reports whether the
// blob is there: one whose file is damaged is removed.
func (s *Store) createAgain(id blob.ID, rec *record, t blob.Terms) (stored bool, err error) {
	if err := s.read(id, rec, 0, (rec.Size-1)/blob.ChunkSize, func(int, []byte) {}); err != nil {
		if !errors.Is(err, blob.ErrDamaged) {
			return false, err
		}
		return false, s.commit(&change{id: id, decide: func(old *record) (*record, error) {
			if old != nil && *old == *rec {
				return nil, nil
			}
			return old, nil
		}})
	}
	err = s.commit(&change{id: id, decide: func(old *record) (*record, error) {
		if old == nil || old.Owner != t.Owner {
			return nil, fmt.Errorf("%w: it was removed meanwhile", blob.ErrUnknown)
		}
		if old.Expires >= t.Expires {
			return old, nil
		}
		now := *old
		now.Expires = t.Expires
		return &now, nil
	}})
	return err == nil, err
}

func (s *Store) newUpload(id blob.ID, t blob.Terms) (blob.Chunks, error) {
	if err := s.room(t.Size); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := uploadKey{id, t.Owner}
	use := s.usage[t.Class]
	quota, limited := s.cfg.Quota[t.Class]
	switch {
	case s.uploads[k] != nil:
		return 0, errAgain
	case s.number[t.Class] >= s.cfg.Uploads:
		return 0, fmt.Errorf("%w: too many uploads", blob.ErrBusy)
	case limited && use.Bytes+use.Uploading+int64(t.Size) > quota:
		return 0, blob.ErrQuota
	}
	s.serial++
	u := &upload{id: id, Terms: t, missing: blob.AllChunks(t.Size), touched: s.now(),
		path: s.path(newDir, fmt.Sprintf("%s.%d", hex.EncodeToString(id[:]), s.serial))}
	use.Uploading += int64(t.Size)
	s.coming += int64(t.Size)
	s.uploads[k], s.usage[t.Class] = u, use
	s.number[t.Class]++
	return u.missing, nil
}

// room returns ErrBusy if n bytes more, beside what is to come, would eat into the
// reserve.
func (s *Store) room(n int) error {
	if s.cfg.Reserve < 0 {
		return nil
	}
	free, err := s.cfg.Free(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("ask for free disk space: %w", err)
	}
	s.mu.Lock()
	need := s.cfg.Reserve + s.coming + int64(n)
	s.mu.Unlock()
	if free < uint64(need) {
		return fmt.Errorf("%w: %d MiB are free at %s and %d MiB are kept in reserve; free some and try again",
			blob.ErrBusy, free>>20, s.cfg.Dir, s.cfg.Reserve>>20)
	}
	return nil
}

// upload returns an upload that is under way, with its mu held, or nil. It waits for
// one that is being stored.
func (s *Store) upload(id blob.ID, owner blob.Owner) *upload {
	for {
		s.mu.Lock()
		u := s.uploads[uploadKey{id, owner}]
		s.mu.Unlock()
		if u == nil {
			return nil
		}
		u.mu.Lock()
		if !u.over {
			return u
		}
		u.mu.Unlock()
	}
}

// drop ends an upload whose mu is held, and removes its file. It reports true.
func (s *Store) drop(u *upload) bool {
	s.end(u)
	if err := s.remove(u.path); err != nil {
		s.log.Error("removing an upload; it goes when the store is opened again", "err", err)
	}
	return true
}

// end ends an upload whose mu is held.
func (s *Store) end(u *upload) {
	u.over = true
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, uploadKey{u.id, u.Owner})
	s.number[u.Class]--
	use := s.usage[u.Class]
	use.Uploading -= int64(u.Size)
	s.usage[u.Class] = use
	for i := range u.missing.Each() {
		s.coming -= int64(blob.ChunkLen(u.Size, i))
	}
}

// Write implements blob.Store.
func (s *Store) Write(ctx context.Context, id blob.ID, owner blob.Owner, chunk int, data []byte) (blob.Chunks, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.calls.Done()
	u := s.upload(id, owner)
	if u == nil {
		rec, err := s.there(id)
		if err == nil && rec.Owner != owner {
			err = blob.ErrNotFound
		}
		return 0, err
	}
	defer u.mu.Unlock()
	if len(data) == 0 || len(data) != blob.ChunkLen(u.Size, chunk) {
		return 0, fmt.Errorf("%w: chunk %d of %d bytes", blob.ErrBadChunk, chunk, len(data))
	}
	u.touched = s.now()
	if u.missing.Has(chunk) {
		if err := s.room(0); err != nil { // the chunk itself is among what is to come
			return 0, err
		}
		if err := s.writeChunk(u, chunk, data); err != nil {
			return 0, err
		}
		u.missing = u.missing.Without(chunk)
		s.mu.Lock()
		s.coming -= int64(len(data))
		s.mu.Unlock()
	}
	if u.missing != 0 {
		return u.missing, nil
	}
	return 0, s.finish(u)
}

func (s *Store) writeChunk(u *upload, chunk int, data []byte) error {
	err := s.do(StepWrite, func() error {
		f, err := os.OpenFile(u.path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(data, int64(chunk)*blob.ChunkSize)
		return errors.Join(err, f.Close())
	})
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", blob.ErrBusy, err)
	}
	return err
}

// finish stores an upload that is whole, and ends it whatever comes of that.
func (s *Store) finish(u *upload) error {
	rec := &record{}
	if err := s.check(u, rec); err != nil {
		s.drop(u)
		return err
	}
	rec.Terms = u.Terms
	return s.commit(&change{id: u.id, up: u, decide: func(old *record) (*record, error) {
		if old != nil && old.Owner != u.Owner && old.Expires > s.now() {
			return nil, blob.ErrExists
		}
		if old != nil && old.Owner == u.Owner {
			rec.Expires = max(rec.Expires, old.Expires)
		}
		return rec, nil
	}}) // and that has ended it
}

// check looks at what has come, flushes it, and notes its sums.
func (s *Store) check(u *upload, rec *record) error {
	f, err := os.OpenFile(u.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open upload of %v: %w", u.id, withoutPath(err))
	}
	defer f.Close()
	whole := sha256.New()
	buf := make([]byte, blob.ChunkSize)
	for i := range blob.AllChunks(u.Size).Each() {
		b := buf[:blob.ChunkLen(u.Size, i)]
		if _, err := io.ReadFull(f, b); err != nil {
			return fmt.Errorf("read upload of %v: %w", u.id, withoutPath(err))
		}
		whole.Write(b)
		rec.sums[i] = sha256.Sum256(b)
	}
	if blob.ID(whole.Sum(nil)) != u.id {
		return blob.ErrMismatch
	}
	return s.do(StepSync, f.Sync)
}

// sweepUploads drops the uploads that nobody goes on with.
func (s *Store) sweepUploads(now blob.Minute) {
	s.mu.Lock()
	var all []*upload
	for _, u := range s.uploads {
		all = append(all, u)
	}
	s.mu.Unlock()
	for _, u := range all {
		if !u.mu.TryLock() {
			continue // somebody is at it
		}
		if !u.over && u.touched+blob.UploadMinutes <= now {
			s.drop(u)
		}
		u.mu.Unlock()
	}
}
