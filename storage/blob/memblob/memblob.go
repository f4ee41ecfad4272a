// Package memblob is a store of blobs in memory, for tests and for comparing
// others with.
package memblob

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sotto/storage/blob"
)

// Store is a blob.Store.
type Store struct {
	clock func() time.Time
	quota map[blob.Class]int64

	mu      sync.Mutex // guards the following fields
	blobs   map[blob.ID]*held
	uploads map[key]*upload
}

type key struct {
	id    blob.ID
	owner blob.Owner
}

type held struct {
	blob.Terms
	b []byte
}

type upload struct {
	blob.Terms
	b       []byte
	missing blob.Chunks
	touched blob.Minute
}

// New makes an empty store. A nil clock is time.Now; a class without a quota has none.
func New(clock func() time.Time, quota map[blob.Class]int64) *Store {
	if clock == nil {
		clock = time.Now
	}
	return &Store{clock: clock, quota: quota, blobs: map[blob.ID]*held{}, uploads: map[key]*upload{}}
}

func (s *Store) now() blob.Minute { return blob.MinuteOf(s.clock()) }

// at returns a blob that has not expired, or nil.
func (s *Store) at(id blob.ID) *held {
	if h := s.blobs[id]; h != nil && h.Expires > s.now() {
		return h
	}
	return nil
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, id blob.ID, t blob.Terms) (blob.Chunks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if err := t.Check(now); err != nil {
		return 0, err
	}
	if h := s.at(id); h != nil {
		if h.Owner != t.Owner {
			return 0, blob.ErrExists
		}
		h.Expires = max(h.Expires, t.Expires)
		return 0, nil
	}
	k := key{id, t.Owner}
	s.sweepUploads()
	if u := s.uploads[k]; u != nil && u.Size == t.Size {
		u.Expires, u.touched = t.Expires, now
		return u.missing, nil
	}
	delete(s.uploads, k)
	if q, ok := s.quota[t.Class]; ok {
		if u := s.usage()[t.Class]; u.Bytes+u.Uploading+int64(t.Size) > q {
			return 0, blob.ErrQuota
		}
	}
	u := &upload{t, make([]byte, t.Size), blob.AllChunks(t.Size), now}
	s.uploads[k] = u
	return u.missing, nil
}

// Write implements blob.Store.
func (s *Store) Write(ctx context.Context, id blob.ID, owner blob.Owner, chunk int, data []byte) (blob.Chunks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{id, owner}
	s.sweepUploads()
	u := s.uploads[k]
	if u == nil {
		if h := s.at(id); h != nil && h.Owner == owner {
			return 0, nil
		}
		return 0, blob.ErrNotFound
	}
	if len(data) == 0 || len(data) != blob.ChunkLen(u.Size, chunk) {
		return 0, fmt.Errorf("%w: chunk %d of %d bytes", blob.ErrBadChunk, chunk, len(data))
	}
	u.touched = s.now()
	if u.missing.Has(chunk) {
		copy(u.b[chunk*blob.ChunkSize:], data)
		u.missing = u.missing.Without(chunk)
	}
	if u.missing != 0 {
		return u.missing, nil
	}
	delete(s.uploads, k)
	switch h := s.at(id); {
	case blob.Sum(u.b) != id:
		return 0, blob.ErrMismatch
	case h != nil && h.Owner != owner:
		return 0, blob.ErrExists
	}
	s.blobs[id] = &held{u.Terms, u.b}
	return 0, nil
}

// Read implements blob.Store.
func (s *Store) Read(ctx context.Context, id blob.ID, offset, n int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.at(id)
	if h == nil {
		return nil, blob.ErrNotFound
	}
	from := min(max(offset, 0), len(h.b))
	return append([]byte(nil), h.b[from:][:min(max(n, 0), blob.MaxRead, len(h.b)-from)]...), nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, id blob.ID) (blob.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.at(id)
	if h == nil {
		return blob.Info{}, blob.ErrNotFound
	}
	return blob.Info{Size: h.Size, Expires: h.Expires}, nil
}

// Renew implements blob.Store.
func (s *Store) Renew(ctx context.Context, id blob.ID, owner blob.Owner, expires blob.Minute) (blob.Minute, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := blob.CheckExpires(expires, s.now()); err != nil {
		return 0, err
	}
	h := s.at(id)
	if h == nil || h.Owner != owner {
		return 0, blob.ErrNotFound
	}
	h.Expires = max(h.Expires, expires)
	return h.Expires, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, id blob.ID, owner blob.Owner) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, h := key{id, owner}, s.at(id)
	mine := h != nil && h.Owner == owner
	if s.uploads[k] == nil && !mine {
		return blob.ErrNotFound
	}
	delete(s.uploads, k)
	if mine {
		delete(s.blobs, id)
	}
	return nil
}

// Usage implements blob.Store.
func (s *Store) Usage(ctx context.Context) (map[blob.Class]blob.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage(), nil
}

func (s *Store) usage() map[blob.Class]blob.Usage {
	out := map[blob.Class]blob.Usage{}
	for _, h := range s.blobs {
		u := out[h.Class]
		u.Blobs++
		u.Bytes += int64(h.Size)
		out[h.Class] = u
	}
	for _, up := range s.uploads {
		u := out[up.Class]
		u.Uploading += int64(up.Size)
		out[up.Class] = u
	}
	return out
}

// Sweep implements blob.Store.
func (s *Store) Sweep(ctx context.Context) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.blobs {
		if s.at(id) == nil {
			delete(s.blobs, id)
			n++
		}
	}
	s.sweepUploads()
	return n, nil
}

func (s *Store) sweepUploads() {
	for k, u := range s.uploads {
		if u.touched+blob.UploadMinutes <= s.now() {
			delete(s.uploads, k)
		}
	}
}

// Close implements blob.Store.
func (s *Store) Close() error { return nil }
