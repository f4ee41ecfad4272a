package dirblob

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"sotto/storage/blob"
	"sotto/storage/kv"
)

// change is a change of one blob's record, waiting to be written.
type change struct {
	id blob.ID
	up *upload // whose file is to become the blob's, if not nil

	// decide returns the record that follows old, each nil for none, or an error,
	// with which nothing changes.
	decide func(old *record) (*record, error)

	done bool // guarded by the store's writing, as is the next
	err  error
}

// commit writes changes, durably, and returns the first error of one. What others
// wait to write at the same time goes with them.
func (s *Store) commit(cs ...*change) error {
	s.mu.Lock()
	s.queue = append(s.queue, cs...)
	s.mu.Unlock()
	for _, c := range cs {
		for done := false; !done; {
			s.writing.Lock()
			if !c.done {
				s.writeBatch(s.batch())
			}
			done = c.done
			s.writing.Unlock()
		}
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// batch takes changes off the queue, at most one of each blob.
func (s *Store) batch() (cs []*change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[blob.ID]bool{}
	for len(s.queue) > 0 && len(cs) < maxBatch && !seen[s.queue[0].id] {
		seen[s.queue[0].id] = true
		cs = append(cs, s.queue[0])
		s.queue = s.queue[1:]
	}
	return cs
}

// writeBatch carries out changes. Each is done after it, in one way or another.
func (s *Store) writeBatch(cs []*change) {
	err := error(nil)
	if s.doubt {
		err = s.reconcile()
	}
	if err == nil {
		s.place(cs)
		err = s.update(cs)
	}
	for _, c := range cs {
		if err != nil && (c.err == nil || errors.Is(err, blob.ErrUnknown)) {
			c.err = err
		}
		if c.up != nil {
			s.end(c.up) // whoever holds it waits here
		}
		c.done = true
	}
	if s.doubt {
		if err := s.reconcile(); err != nil {
			s.log.Error("looking after blobs; it is tried again", "err", err)
		}
	}
}

// update decides on changes, writes what comes of them to the index, and removes the
// files that are not needed any more. An error is that of all of them.
func (s *Store) update(cs []*change) error {
	var usage map[blob.Class]blob.Usage
	was, is := map[blob.ID]bool{}, map[blob.ID]bool{} // has a record: before, and now
	var gone []blob.ID
	err := s.db.Update(func(tx *kv.Tx) error {
		usage = s.usageNow()
		before := s.usageNow()
		for _, c := range cs {
			old, err := loadRecord(tx, c.id)
			if err != nil {
				return err
			}
			now := old
			if c.err == nil {
				if now, c.err = c.decide(old); c.err != nil {
					now = old
				}
			}
			was[c.id], is[c.id] = old != nil, now != nil
			if now == old {
				continue
			}
			if err := put(tx, c.id, old, now, usage); err != nil {
				return err
			}
			if now == nil {
				gone = append(gone, c.id)
			}
		}
		for class, u := range usage {
			if u != before[class] {
				if err := tx.Set([]byte{'u', byte(class)}, encodeUsage(u)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		err = s.failed(err)
		if errors.Is(err, blob.ErrBusy) { // nothing was written, and everything was decided
			s.clear(cs, was, true)
		} else {
			s.doubt = true
		}
		return err
	}
	s.setUsage(usage)
	s.clear(cs, is, false)
	// What is there again has taken its g record back.
	kept := s.gone[:0]
	for _, id := range s.gone {
		if !is[id] {
			kept = append(kept, id)
		}
	}
	s.gone = append(kept, gone...)
	return nil
}

// put replaces a record and everything that follows from it.
func put(tx *kv.Tx, id blob.ID, old, now *record, usage map[blob.Class]blob.Usage) error {
	if old != nil {
		u := usage[old.Class]
		u.Blobs--
		u.Bytes -= int64(old.Size)
		usage[old.Class] = u
		if err := tx.Delete(minuteKey(old.Expires, id)); err != nil {
			return err
		}
	}
	if now == nil {
		return errors.Join(tx.Delete(idKey('b', id)), tx.Set(idKey('g', id), []byte{recordVersion}))
	}
	u := usage[now.Class]
	u.Blobs++
	u.Bytes += int64(now.Size)
	usage[now.Class] = u
	return errors.Join(tx.Set(idKey('b', id), encodeRecord(now)), tx.Set(minuteKey(now.Expires, id), nil), tx.Delete(idKey('g', id)))
}

// place gives uploads' files their names in data, durably.
func (s *Store) place(cs []*change) {
	var ups []*change
	for _, c := range cs {
		if c.up != nil {
			ups = append(ups, c)
		}
	}
	if len(ups) == 0 {
		return
	}
	fail := func(err error) {
		for _, c := range ups {
			c.err = err
		}
	}
	if err := s.syncFolder(s.path(newDir)); err != nil {
		fail(err)
		return
	}
	folders := map[string]error{}
	for _, c := range ups {
		path := s.blobPath(c.id)
		err := s.do(StepLink, func() error { return os.Link(c.up.path, path) })
		if errors.Is(err, fs.ErrExist) {
			// A file that was to go, or that has the same bytes; or one that was
			// damaged. Whichever, it has a record.
			err = s.do(StepReplace, func() error { return os.Rename(c.up.path, path) })
		}
		c.err = err
		folders[filepath.Dir(path)] = nil
	}
	for f := range folders { // after all links: the first flush takes most of the others along
		folders[f] = s.syncFolder(f)
	}
	for _, c := range ups {
		if c.err == nil {
			c.err = folders[filepath.Dir(s.blobPath(c.id))]
		}
	}
}

// clear removes the files and names that are not needed any more, once it is known
// which blobs have a record. What fails here is done later.
func (s *Store) clear(cs []*change, is map[blob.ID]bool, refused bool) {
	var orphans []blob.ID
	for _, c := range cs {
		if c.up != nil && !is[c.id] {
			orphans = append(orphans, c.id)
		}
	}
	if err := s.removeBlobs(orphans); err != nil { // before their names in new
		s.doubt = true
		s.log.Error("removing what was not stored", "err", err)
		return
	}
	for _, c := range cs {
		var err error
		switch {
		case c.up != nil:
			if err = s.remove(c.up.path); err != nil {
				s.doubt = true
			}
		case !is[c.id] && !refused:
			err = s.remove(s.blobPath(c.id)) // it has a g record, and goes durably with that
		}
		if err != nil {
			s.log.Error("removing a file of a blob", "err", err)
		}
	}
}

// usageNow returns a copy of what the classes hold.
func (s *Store) usageNow() map[blob.Class]blob.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[blob.Class]blob.Usage, len(s.usage))
	for c, u := range s.usage {
		u.Uploading = 0
		out[c] = u
	}
	return out
}

// setUsage sets what the classes hold, but for uploads.
func (s *Store) setUsage(usage map[blob.Class]blob.Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, u := range usage {
		u.Uploading = s.usage[c].Uploading
		s.usage[c] = u
	}
}
