package dirblob

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/storage/blob"
	"sotto/storage/blob/blobtest"
	"sotto/storage/blob/memblob"
	"sotto/storage/kv"
)

type engine struct {
	*Store
	c *blobtest.Clock
}

func openAt(t *testing.T, cfg Config, c *blobtest.Clock) engine {
	t.Helper()
	cfg.Clock, cfg.SweepPeriod = c.Now, -1
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return engine{s, c}
}

// folder makes a folder in memory, where that can be had: what a test does not flush for
// its own sake shows nothing on a disk.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sotto-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var harness = blobtest.Harness{
	Open: func(t *testing.T, c *blobtest.Clock, quota map[blob.Class]int64) blob.Store {
		return openAt(t, Config{Dir: folder(t), Quota: quota}, c)
	},
	Reopen: func(t *testing.T, s blob.Store) blob.Store {
		e := s.(engine)
		whole(t, e.Store)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return openAt(t, Config{Dir: e.cfg.Dir, Quota: e.cfg.Quota}, e.c)
	},
}

func TestStore(t *testing.T) { blobtest.TestStore(t, harness) }

func TestModel(t *testing.T) {
	blobtest.TestModel(t, harness, func(c *blobtest.Clock, quota map[blob.Class]int64) blob.Store { return memblob.New(c.Now, quota) }, 12)
}

// files returns the names in data and in new.
func files(t *testing.T, dir string) (data, coming []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasPrefix(rel, dataDir):
			data = append(data, filepath.Base(rel))
		case strings.HasPrefix(rel, newDir):
			coming = append(coming, filepath.Base(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return data, coming
}

// whole checks what always holds of a store that is at rest: index, usage and files
// agree.
func whole(t *testing.T, s *Store) {
	t.Helper()
	var want []string
	usage := map[blob.Class]blob.Usage{}
	expiries := 0
	err := s.view(func(tx *kv.Tx) error {
		all, failed := tx.Range([]byte("b"), nil, false)
		for k := range all {
			id := blob.ID(k[1:])
			rec, err := loadRecord(tx, id)
			if err != nil {
				return err
			}
			if ok, err := tx.Has(minuteKey(rec.Expires, id)); !ok || err != nil {
				t.Errorf("%v has no expiry in the index: %v", id, err)
			}
			if ok, _ := tx.Has(idKey('g', id)); ok {
				t.Errorf("%v is there and is to go", id)
			}
			if err := s.readFile(id, rec, 0, (rec.Size-1)/blob.ChunkSize, func(int, []byte) {}); err != nil {
				t.Errorf("%v: %v", id, err)
			}
			want = append(want, filepath.Base(s.blobPath(id)))
			u := usage[rec.Class]
			u.Blobs, u.Bytes = u.Blobs+1, u.Bytes+int64(rec.Size)
			usage[rec.Class] = u
		}
		keys, _ := tx.Keys([]byte("x"), nil, false)
		for range keys {
			expiries++
		}
		return failed()
	})
	if err != nil {
		t.Fatal(err)
	}
	if expiries != len(want) {
		t.Errorf("%d blobs and %d expiries", len(want), expiries)
	}
	data, _ := files(t, s.cfg.Dir)
	slices.Sort(data)
	slices.Sort(want)
	if !slices.Equal(data, want) {
		t.Errorf("files %v, records %v", data, want)
	}
	got, err := s.Usage(t.Context())
	for c := range got {
		u := got[c]
		if u.Uploading = 0; u != usage[c] {
			t.Errorf("class %d: usage says %+v, %v; the index %+v", c, u, err, usage[c])
		}
	}
}

// fault is a hook that lets one step fail, before it happens or after, and, if the
// process is to die there, everything from then on.
type fault struct {
	mu    sync.Mutex
	at    int // which step; 0 for none
	after bool
	dies  bool
	n     int
	dead  bool
	steps []Step
}

var errFault = errors.New("boom")

func (f *fault) Before(s Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	f.steps = append(f.steps, s)
	if f.dead || f.n == f.at && !f.after {
		f.dead = f.dead || f.dies
		return fmt.Errorf("%w before: %s", errFault, s)
	}
	return nil
}

func (f *fault) After(s Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == f.at && f.after {
		f.dead = f.dies
		return fmt.Errorf("%w after: %s", errFault, s)
	}
	return nil
}

// Every step of a life of some blobs fails once, in both ways, and the process goes on
// or dies of it. What was answered holds, what was not is there whole or not at all,
// and nothing is left over.
func TestFaults(t *testing.T) {
	const steps = 70 // more than the life below has
	reached, stride := 0, 1
	if race {
		stride = 9 // the detector makes it slow, and every step is taken without it
	}
	for at := 1; at <= steps; at += stride {
		for _, h := range []*fault{{at: at}, {at: at, after: true}, {at: at, dies: true}, {at: at, after: true, dies: true}} {
			name := fmt.Sprintf("step %d, after %v, dies %v", at, h.after, h.dies)
			dir, c := folder(t), blobtest.NewClock()
			armed := openAt(t, Config{Dir: dir, Hook: &fault{}}, c) // makes the folders
			armed.Close()
			cfg := Config{Dir: dir, Hook: h, Clock: c.Now, SweepPeriod: -1}
			s, err := Open(cfg)
			if err != nil {
				if at > 5 {
					t.Fatalf("%s: open: %v", name, err)
				}
				continue
			}
			ctx := t.Context()
			type state int
			const (
				absent, present, either state = 0, 1, 2
			)
			contents := map[string][]byte{"a": blobtest.Bytes(1, 10), "b": blobtest.Bytes(2, blob.ChunkSize+1), "c": blobtest.Bytes(3, 100), "damaged": blobtest.Bytes(4, 1000)}
			want := map[string]state{}
			put := func(k string, minutes blob.Minute) {
				before := want[k]
				_, err := blob.Put(ctx, s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + minutes}, contents[k])
				switch {
				case err == nil:
					want[k] = present
				case before == absent:
					want[k] = either
				}
			}
			del := func(k string) {
				before := want[k]
				err := s.Delete(ctx, blob.Sum(contents[k]), blobtest.Ana)
				switch {
				case err == nil:
					want[k] = absent
				case errors.Is(err, blob.ErrNotFound) && before == present:
					t.Errorf("%s: what was put was not there to delete", name)
				case errors.Is(err, blob.ErrNotFound):
					want[k] = absent
				default:
					want[k] = either
				}
			}
			put("a", 60)
			put("b", 60)
			put("damaged", 60)
			os.Truncate(s.blobPath(blob.Sum(contents["damaged"])), 3)
			if want["damaged"] == present {
				want["damaged"] = either
			}
			put("damaged", 60) // finds the damage, and mends it
			del("a")
			put("a", 60)
			put("c", 5)
			s.Renew(ctx, blob.Sum(contents["b"]), blobtest.Ana, c.Minute()+90)
			c.Advance(10)
			s.Sweep(ctx)
			want["c"] = absent
			del("b")
			put("b", 60)
			h.mu.Lock()
			hit := h.n >= at
			h.at = 0
			h.mu.Unlock()
			if hit {
				reached = max(reached, at)
			}
			check := func(s *Store) {
				t.Helper()
				for k, w := range want {
					got, err := blob.Get(ctx, s, blob.Sum(contents[k]))
					switch {
					case err == nil && w != absent && bytes.Equal(got, contents[k]):
					case errors.Is(err, blob.ErrNotFound) && w != present:
					case errors.Is(err, blob.ErrDamaged) && k == "damaged" && w == either:
					default:
						t.Errorf("%s: %s: %d bytes, %v; want state %d", name, k, len(got), err, w)
					}
				}
			}
			if !h.dies {
				check(s)
				// The same again goes well, now that nothing fails.
				put("a", 60)
				put("b", 60)
				put("damaged", 60)
				if want["a"] != present || want["b"] != present || want["damaged"] != present {
					t.Errorf("%s: it does not go on: %v", name, want)
				}
				check(s)
				c.Advance(blob.UploadMinutes)
				if _, err := s.Sweep(ctx); err != nil {
					t.Errorf("%s: sweep: %v", name, err)
				}
				whole(t, s)
				if _, coming := files(t, dir); len(coming) > 0 {
					t.Errorf("%s: left over: %v", name, coming)
				}
			}
			s.Close()
			again := openAt(t, Config{Dir: dir}, c)
			check(again.Store)
			if again.Store.doubt || len(again.gone) > 0 {
				t.Errorf("%s: opening did not finish", name)
			}
			if _, coming := files(t, dir); len(coming) > 0 {
				t.Errorf("%s: left over after opening: %v", name, coming)
			}
			put2, err := blob.Put(ctx, again, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}, contents["damaged"])
			if err != nil {
				t.Errorf("%s: put again: %v, %v", name, put2, err)
			}
			if _, err := again.Sweep(ctx); err != nil {
				t.Errorf("%s: sweep: %v", name, err)
			}
			whole(t, again.Store)
			again.Close()
			os.RemoveAll(dir)
			if t.Failed() {
				t.Fatalf("%s: its steps were %v", name, h.steps)
			}
		}
		if reached < at && at > 10 {
			t.Logf("failed at steps up to %d, four ways each", reached)
			return
		}
	}
	t.Errorf("the life has more than %d steps", steps)
}

// What makes a blob durable happens in this order.
func TestOrder(t *testing.T) {
	h := &fault{}
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t), Hook: h}, c)
	h.steps = nil
	tm := blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}
	id, err := blob.Put(t.Context(), s, tm, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Step{StepWrite, StepSync, StepSyncFolder, StepLink, StepSyncFolder, StepIndex, StepRemove}
	if !slices.Equal(h.steps, want) {
		t.Errorf("putting: %v, want %v", h.steps, want)
	}
	h.steps = nil
	if err := s.Delete(t.Context(), id, blobtest.Ana); err != nil {
		t.Fatal(err)
	}
	s.Sweep(t.Context())
	want = []Step{StepIndex, StepRemove, StepRemove, StepSyncFolder, StepIndex}
	if !slices.Equal(h.steps, want) {
		t.Errorf("deleting: %v, want %v", h.steps, want)
	}
}

// What is stored together is flushed together.
func TestGroupCommit(t *testing.T) {
	h := &gate{open: make(chan struct{}), waiting: make(chan struct{}, 1)}
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t), Hook: h}, c)
	h.armed.Store(true)
	var wg sync.WaitGroup
	put := func(i int) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := blob.Put(t.Context(), s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}, []byte{byte(i), byte(i >> 8)}); err != nil {
				t.Error(err)
			}
		}()
	}
	put(0)
	<-h.waiting // the first is being written
	const n = 100
	for i := range n {
		put(i + 1)
	}
	for queued := 0; queued < n; {
		s.mu.Lock()
		queued = len(s.queue)
		s.mu.Unlock()
	}
	close(h.open)
	wg.Wait()
	if got := h.index.Load(); got != 2 {
		t.Errorf("%d blobs took %d writes of the index, want 2", n+1, got)
	}
	whole(t, s.Store)
}

// gate stops the first write of the index.
type gate struct {
	armed   atomic.Bool
	index   atomic.Int64
	open    chan struct{}
	waiting chan struct{}
}

func (g *gate) Before(s Step) error {
	if s == StepIndex && g.armed.Load() {
		if g.index.Add(1) == 1 {
			g.waiting <- struct{}{}
		}
		<-g.open
	}
	return nil
}
func (g *gate) After(Step) error { return nil }

// A file that is torn, changed, lengthened or lost is found out, and named; what is whole
// of it is read. Its owner mends it by putting it again; others are not touched.
func TestDamage(t *testing.T) {
	b := blobtest.Bytes(1, 2*blob.ChunkSize+10)
	for _, tt := range []struct {
		name   string
		damage func(path string) error
		at     int // the first byte that cannot be read; -1 for none
	}{
		{"torn", func(p string) error { return os.Truncate(p, blob.ChunkSize+5) }, blob.ChunkSize},
		{"empty", func(p string) error { return os.Truncate(p, 0) }, 0},
		{"lost", os.Remove, 0},
		{"a bit in the last chunk", func(p string) error { return flip(p, 2*blob.ChunkSize+3) }, 2 * blob.ChunkSize},
		{"a bit at the start", func(p string) error { return flip(p, 0) }, 0},
		{"something behind it", func(p string) error { return os.WriteFile(p, append(bytes.Clone(b), 1), 0o600) }, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := blobtest.NewClock()
			var log strings.Builder
			s := openAt(t, Config{Dir: folder(t), Logger: slog.New(slog.NewTextHandler(&log, nil))}, c)
			tm := blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}
			other, err := blob.Put(t.Context(), s, tm, []byte("other"))
			if err != nil {
				t.Fatal(err)
			}
			id, err := blob.Put(t.Context(), s, tm, b)
			if err != nil {
				t.Fatal(err)
			}
			path := s.blobPath(id)
			if err := tt.damage(path); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				got, err := s.Read(t.Context(), id, i*blob.ChunkSize, blob.ChunkSize)
				var damage *blob.DamageError
				whole := tt.at < 0 || i*blob.ChunkSize < tt.at || tt.at == 0 && tt.name == "a bit at the start" && i > 0
				switch {
				case whole && (err != nil || !bytes.Equal(got, blob.Chunk(b, i))):
					t.Errorf("chunk %d: %v", i, err)
				case !whole && (got != nil || !errors.As(err, &damage) || !errors.Is(err, blob.ErrDamaged) || damage.File != path || damage.Offset != i*blob.ChunkSize):
					t.Errorf("chunk %d: %d bytes, %v; want damage of %s", i, len(got), err, path)
				}
			}
			if _, err := blob.Put(t.Context(), s, tm, b); err != nil {
				t.Fatalf("put again: %v", err)
			}
			if got, err := blob.Get(t.Context(), s, id); err != nil || !bytes.Equal(got, b) {
				t.Errorf("after it was put again: %d bytes, %v", len(got), err)
			}
			if _, err := blob.Get(t.Context(), s, other); err != nil {
				t.Errorf("the other: %v", err)
			}
			if tt.at >= 0 {
				whole(t, s.Store)
			}
			// Who reads the log must not be able to read the blob.
			if strings.Contains(log.String(), filepath.Base(path)) || (tt.at >= 0) != strings.Contains(log.String(), id.String()) {
				t.Errorf("the log says:\n%s", &log)
			}
		})
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	return err
}

// An upload whose file is changed while it comes is not stored.
func TestDamagedUpload(t *testing.T) {
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t)}, c)
	b := blobtest.Bytes(1, blob.ChunkSize+10)
	tm := blob.Terms{Size: len(b), Owner: blobtest.Ana, Expires: c.Minute() + 60}
	if _, err := s.Create(t.Context(), blob.Sum(b), tm); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), blob.Sum(b), blobtest.Ana, 0, blob.Chunk(b, 0)); err != nil {
		t.Fatal(err)
	}
	_, coming := files(t, s.cfg.Dir)
	if err := flip(s.path(newDir, coming[0]), 7); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), blob.Sum(b), blobtest.Ana, 1, blob.Chunk(b, 1)); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("the last chunk: %v, want ErrMismatch", err)
	}
	whole(t, s.Store)
}

// What has gone is given back to the file system.
func TestDiskIsGivenBack(t *testing.T) {
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: t.TempDir()}, c)
	size := func() int64 {
		n, err := s.Size()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	empty := size()
	const n, each = 24, 1 << 20
	for i := range n {
		tm := blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}
		if i%2 == 0 {
			tm.Expires += 60
		}
		if _, err := blob.Put(t.Context(), s, tm, blobtest.Bytes(i, each)); err != nil {
			t.Fatal(err)
		}
	}
	// An upload that nobody ends takes room too.
	b := blobtest.Bytes(n, each)
	s.Create(t.Context(), blob.Sum(b), blob.Terms{Size: each, Owner: blobtest.Ana, Expires: c.Minute() + 60})
	s.Write(t.Context(), blob.Sum(b), blobtest.Ana, 1, blob.Chunk(b, 1))
	full := size()
	if full-empty < n*each {
		t.Fatalf("%d MiB take up %d bytes", n, full-empty)
	}
	c.Advance(61)
	if freed, err := s.Sweep(t.Context()); freed != n/2 || err != nil {
		t.Fatalf("sweep: %d, %v", freed, err)
	}
	half := size()
	c.Advance(60)
	if freed, err := s.Sweep(t.Context()); freed != n/2 || err != nil {
		t.Fatalf("sweep: %d, %v", freed, err)
	}
	none := size()
	if full-half < n/2*each || none-empty > 1<<20 {
		t.Errorf("the disk held %d bytes, then %d, %d, and %d at last", empty, full, half, none)
	}
	whole(t, s.Store)
	t.Logf("bytes on the disk: empty %d, full %d, half %d, none %d", empty, full, half, none)
}

// Below the reserve nothing new is taken, reading, deleting and expiry go on, and with
// room again everything goes on.
func TestFullDisk(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t), Reserve: 100 << 20, Free: func(string) (uint64, error) { return free.Load(), nil }}, c)
	tm := blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}
	put := func(b []byte) error { _, err := blob.Put(t.Context(), s, tm, b); return err }
	if err := errors.Join(put([]byte("a")), put([]byte("b"))); err != nil {
		t.Fatal(err)
	}
	big := blobtest.Bytes(1, blob.MaxSize)
	tm.Size = len(big)
	if _, err := s.Create(t.Context(), blob.Sum(big), tm); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		free int
		size int
		ok   bool
	}{
		{100<<20 + blob.MaxSize + 9, 10, false}, // there is room for the big one that is coming, and no more
		{100<<20 + blob.MaxSize + 10, 10, true},
		{100 << 20, 10, false},
	} {
		free.Store(uint64(tt.free))
		b := blobtest.Bytes(tt.free, tt.size)
		if err := put(b); (err == nil) != tt.ok || err != nil && (!errors.Is(err, blob.ErrBusy) || !strings.Contains(err.Error(), "reserve")) {
			t.Errorf("with %d bytes free, put %d: %v; want it taken: %v", tt.free, tt.size, err, tt.ok)
		}
	}
	free.Store(99 << 20)
	if _, err := s.Write(t.Context(), blob.Sum(big), blobtest.Ana, 0, blob.Chunk(big, 0)); !errors.Is(err, blob.ErrBusy) {
		t.Errorf("a chunk below the reserve: %v", err)
	}
	if _, err := blob.Get(t.Context(), s, blob.Sum([]byte("a"))); err != nil {
		t.Errorf("reading below the reserve: %v", err)
	}
	if err := s.Delete(t.Context(), blob.Sum([]byte("a")), blobtest.Ana); err != nil {
		t.Errorf("deleting below the reserve: %v", err)
	}
	free.Store(1 << 30)
	for i := range blob.AllChunks(len(big)).Each() {
		if _, err := s.Write(t.Context(), blob.Sum(big), blobtest.Ana, i, blob.Chunk(big, i)); err != nil {
			t.Fatalf("with room again, chunk %d: %v", i, err)
		}
	}
	free.Store(99 << 20)
	s.Close()
	s = openAt(t, s.cfg, c) // also a store that is opened then
	c.Advance(61)
	if n, err := s.Sweep(t.Context()); n != 3 || err != nil {
		t.Errorf("sweeping below the reserve: %d, %v", n, err)
	}
	whole(t, s.Store)
	if s.coming != 0 {
		t.Errorf("%d bytes are still to come", s.coming)
	}
}

// Those of one class cannot keep others from uploading, and one that is ended makes
// room.
func TestTooManyUploads(t *testing.T) {
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t), Uploads: 2}, c)
	create := func(id byte, class blob.Class) error {
		_, err := s.Create(t.Context(), blob.ID{id}, blob.Terms{Size: 1, Owner: blobtest.Ana, Class: class, Expires: c.Minute() + 60})
		return err
	}
	if err := errors.Join(create(1, 0), create(2, 0), create(3, 1)); err != nil {
		t.Fatal(err)
	}
	if err := create(4, 0); !errors.Is(err, blob.ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	if err := errors.Join(create(1, 0), s.Delete(t.Context(), blob.ID{1}, blobtest.Ana), create(4, 0)); err != nil {
		t.Errorf("in place of one that was ended: %v", err)
	}
}

// What the system says of a file reaches no log with the file's name.
func TestErrorsWithoutNames(t *testing.T) {
	c := blobtest.NewClock()
	var log strings.Builder
	s := openAt(t, Config{Dir: folder(t), Logger: slog.New(slog.NewTextHandler(&log, nil))}, c)
	id, err := blob.Put(t.Context(), s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(s.blobPath(id))
	// A folder that is not empty stays.
	if err := errors.Join(os.Remove(s.blobPath(id)), os.MkdirAll(filepath.Join(s.blobPath(id), "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), id, blobtest.Ana); err != nil {
		t.Errorf("delete: %v", err)
	}
	_, err = s.Sweep(t.Context())
	if err == nil || strings.Contains(err.Error(), name) || strings.Contains(log.String(), name) || log.Len() == 0 {
		t.Errorf("sweep: %v; the log says:\n%s", err, &log)
	}
}

// Two processes do not share a store.
func TestLocked(t *testing.T) {
	c := blobtest.NewClock()
	s := openAt(t, Config{Dir: folder(t)}, c)
	if _, err := Open(Config{Dir: s.cfg.Dir}); !errors.Is(err, kv.ErrLocked) {
		t.Errorf("a second store: %v", err)
	}
	s.Close()
	if _, err := s.Read(t.Context(), blob.ID{}, 0, 1); !errors.Is(err, blob.ErrBusy) {
		t.Errorf("a closed store reads: %v", err)
	}
}

// The store sweeps by itself.
func TestSweepsByItself(t *testing.T) {
	c := blobtest.NewClock()
	s, err := Open(Config{Dir: folder(t), Clock: c.Now, SweepPeriod: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := blob.Put(t.Context(), s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 1}, []byte("a")); err != nil {
		t.Fatal(err)
	}
	c.Advance(1)
	for { // until it has
		if u, _ := s.Usage(t.Context()); u[0].Blobs == 0 {
			break
		}
		runtime.Gosched()
	}
}

// An index that says nonsense is refused, not believed.
func TestDamagedIndex(t *testing.T) {
	for name, write := range map[string]func(tx *kv.Tx, id blob.ID) error{
		"a record of another version": func(tx *kv.Tx, id blob.ID) error { return tx.Set(idKey('b', id), []byte{2}) },
		"half a record":               func(tx *kv.Tx, id blob.ID) error { return tx.Set(idKey('b', id), []byte{1, 0, 3}) },
		"an expiry of nothing":        func(tx *kv.Tx, id blob.ID) error { return tx.Set([]byte("x123"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			c := blobtest.NewClock()
			s := openAt(t, Config{Dir: folder(t)}, c)
			id, err := blob.Put(t.Context(), s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}, []byte("a"))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.db.Update(func(tx *kv.Tx) error { return write(tx, id) }); err != nil {
				t.Fatal(err)
			}
			_, read := s.Read(t.Context(), id, 0, 1)
			c.Advance(100)
			_, sweep := s.Sweep(t.Context())
			if !errors.Is(errors.Join(read, sweep), kv.ErrCorrupt) {
				t.Errorf("read: %v; sweep: %v; want one to be ErrCorrupt", read, sweep)
			}
		})
	}
}

func FuzzRecord(f *testing.F) {
	r := &record{Terms: blob.Terms{Size: blob.ChunkSize + 1, Owner: blobtest.Ana, Class: 1, Expires: 29_000_000}}
	f.Add(encodeRecord(r))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err == nil && !bytes.Equal(encodeRecord(r), b) {
			t.Errorf("%x comes back as %x", b, encodeRecord(r))
		}
	})
}
