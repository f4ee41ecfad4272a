// Package blobtest is the suite that every store of blobs passes.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"sotto/storage/blob"
)

// Clock is a clock that the suite moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts in 2026.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Minute returns the time in minutes.
func (c *Clock) Minute() blob.Minute { return blob.MinuteOf(c.Now()) }

// Advance moves the clock.
func (c *Clock) Advance(m blob.Minute) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Duration(m) * time.Minute)
}

// Harness makes stores.
type Harness struct {
	// Open makes an empty store that does not sweep by itself.
	Open func(t *testing.T, c *Clock, quota map[blob.Class]int64) blob.Store
	// Reopen closes a store and opens it again; nil if it does not outlive that.
	Reopen func(t *testing.T, s blob.Store) blob.Store
}

// Bytes makes n bytes that no other seed makes.
func Bytes(seed, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// Ana and Ben own blobs.
var (
	Ana = blob.Owner{1}
	Ben = blob.Owner{2}
)

type suite struct {
	*testing.T
	h Harness
	c *Clock
	s blob.Store
}

func (t *suite) terms(o blob.Owner) blob.Terms {
	return blob.Terms{Owner: o, Class: 1, Expires: t.c.Minute() + 60}
}

func (t *suite) put(o blob.Owner, b []byte) blob.ID {
	t.Helper()
	id, err := blob.Put(t.Context(), t.s, t.terms(o), b)
	if err != nil {
		t.Fatalf("put %d bytes: %v", len(b), err)
	}
	return id
}

func (t *suite) want(id blob.ID, b []byte) {
	t.Helper()
	got, err := blob.Get(t.Context(), t.s, id)
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("get %v: %d bytes, %v; want the %d that were put", id, len(got), err, len(b))
	}
}

func (t *suite) gone(id blob.ID) {
	t.Helper()
	_, stat := t.s.Stat(t.Context(), id)
	_, read := t.s.Read(t.Context(), id, 0, 1)
	if !errors.Is(stat, blob.ErrNotFound) || !errors.Is(read, blob.ErrNotFound) {
		t.Errorf("%v: stat says %v, read %v; want ErrNotFound", id, stat, read)
	}
}

func (t *suite) usage(class blob.Class, want blob.Usage) {
	t.Helper()
	got, err := t.s.Usage(t.Context())
	if err != nil || got[class] != want {
		t.Errorf("class %d holds %+v, %v; want %+v", class, got[class], err, want)
	}
}

func is(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestStore runs the suite.
func TestStore(t *testing.T, h Harness) {
	for name, f := range map[string]func(*suite){
		"sizes": sizes, "chunks in any order": anyOrder, "put twice": putTwice, "another's": anothers, "not what it is named": mismatch,
		"bad requests": badRequests, "expiry": expiry, "renewal": renewal, "deletion": deletion, "quota": quota, "forgotten uploads": forgotten,
		"deletion while reading": deleteWhileReading, "many at once": manyAtOnce, "reopened": reopened, "audit": audit,
	} {
		t.Run(name, func(t *testing.T) {
			c := NewClock()
			s := h.Open(t, c, map[blob.Class]int64{1: 8 << 20, 2: 1 << 20})
			f(&suite{t, h, c, s})
		})
	}
}

func sizes(t *suite) {
	for i, n := range []int{1, 1000, blob.ChunkSize - 1, blob.ChunkSize, blob.ChunkSize + 1, blob.MaxSize} {
		b := Bytes(i, n)
		id := t.put(Ana, b)
		t.want(id, b)
		info, err := t.s.Stat(t.Context(), id)
		if err != nil || info != (blob.Info{Size: n, Expires: t.c.Minute() + 60}) {
			t.Errorf("stat %+v, %v", info, err)
		}
		for _, r := range [][2]int{{0, 1}, {n - 1, 1}, {n - 1, 100}, {n, 1}, {n + 5, 1}, {0, 0}, {n / 2, blob.MaxRead}, {0, 2 * blob.MaxRead}, {blob.ChunkSize - 3, 7}, {-1, 5}, {0, -1}} {
			from := min(max(r[0], 0), n)
			want := b[from:min(n, from+min(max(r[1], 0), blob.MaxRead))]
			if got, err := t.s.Read(t.Context(), id, r[0], r[1]); err != nil || !bytes.Equal(got, want) {
				t.Errorf("of %d bytes, read %d from %d: %d bytes, %v; want %d", n, r[1], r[0], len(got), err, len(want))
			}
		}
		if err := t.s.Delete(t.Context(), id, Ana); err != nil {
			t.Fatal(err)
		}
	}
}

func anyOrder(t *suite) {
	b := Bytes(1, 4*blob.ChunkSize+5)
	id := blob.Sum(b)
	tm := t.terms(Ana)
	tm.Size = len(b)
	missing, err := t.s.Create(t.Context(), id, tm)
	if err != nil || missing != 0b11111 {
		t.Fatalf("create: %b, %v", missing, err)
	}
	for _, i := range []int{4, 1, 1, 3} {
		if missing, err = t.s.Write(t.Context(), id, Ana, i, blob.Chunk(b, i)); err != nil || missing.Has(i) {
			t.Fatalf("write %d: %b, %v", i, missing, err)
		}
	}
	t.gone(id)
	// Whoever comes back hears what is missing.
	if missing, err = t.s.Create(t.Context(), id, tm); err != nil || missing != 0b00101 {
		t.Fatalf("create again: %b, %v", missing, err)
	}
	t.usage(1, blob.Usage{Uploading: int64(len(b))})
	for i := range missing.Each() {
		missing, err = t.s.Write(t.Context(), id, Ana, i, blob.Chunk(b, i))
	}
	if missing != 0 || err != nil {
		t.Fatalf("the last write: %b, %v", missing, err)
	}
	t.want(id, b)
	// The answer to the last was lost.
	if missing, err = t.s.Write(t.Context(), id, Ana, 2, blob.Chunk(b, 2)); missing != 0 || err != nil {
		t.Errorf("the last write again: %b, %v", missing, err)
	}
	t.usage(1, blob.Usage{Blobs: 1, Bytes: int64(len(b))})
}

func putTwice(t *suite) {
	b := Bytes(1, 300<<10)
	id := t.put(Ana, b)
	t.c.Advance(30)
	t.put(Ana, b)
	t.want(id, b)
	t.usage(1, blob.Usage{Blobs: 1, Bytes: int64(len(b))})
	if info, err := t.s.Stat(t.Context(), id); err != nil || info.Expires != t.c.Minute()+60 {
		t.Errorf("the second put left it to expire at %d, %v; want %d", info.Expires, err, t.c.Minute()+60)
	}
	tm := t.terms(Ana)
	tm.Size, tm.Expires = len(b), t.c.Minute()+1
	t.s.Create(t.Context(), id, tm)
	if info, _ := t.s.Stat(t.Context(), id); info.Expires != t.c.Minute()+60 {
		t.Errorf("a put with a shorter term shortened it to %d", info.Expires)
	}
}

func anothers(t *suite) {
	b := Bytes(1, 300<<10)
	id := blob.Sum(b)
	// Both begin; none hinders the other; the first to end has it.
	ben := t.terms(Ben)
	ben.Size = len(b)
	if m, err := t.s.Create(t.Context(), id, ben); err != nil || m != 0b11 {
		t.Fatal(m, err)
	}
	t.s.Write(t.Context(), id, Ben, 0, blob.Chunk(b, 0))
	t.put(Ana, b)
	_, err := t.s.Write(t.Context(), id, Ben, 1, blob.Chunk(b, 1))
	is(t.T, "another's last chunk", err, blob.ErrExists)
	t.want(id, b)
	_, err = t.s.Create(t.Context(), id, ben)
	is(t.T, "create another's", err, blob.ErrExists)
	_, err = t.s.Renew(t.Context(), id, Ben, t.c.Minute()+100)
	is(t.T, "renew another's", err, blob.ErrNotFound)
	is(t.T, "delete another's", t.s.Delete(t.Context(), id, Ben), blob.ErrNotFound)
	_, err = t.s.Write(t.Context(), id, Ben, 1, blob.Chunk(b, 1))
	is(t.T, "write to another's", err, blob.ErrNotFound)
	t.want(id, b)
	t.usage(1, blob.Usage{Blobs: 1, Bytes: int64(len(b))})
	// Once it has expired, anybody may have it.
	t.c.Advance(61)
	t.put(Ben, b)
	t.want(id, b)
	t.usage(1, blob.Usage{Blobs: 1, Bytes: int64(len(b))})
}

func mismatch(t *suite) {
	b := Bytes(1, 300<<10)
	id := blob.Sum(b)
	bad := bytes.Clone(b)
	bad[len(bad)-1] ^= 1
	tm := t.terms(Ana)
	tm.Size = len(b)
	for range 2 {
		missing, err := t.s.Create(t.Context(), id, tm)
		if err != nil || missing != 0b11 {
			t.Fatalf("create: %b, %v", missing, err)
		}
		t.s.Write(t.Context(), id, Ana, 1, blob.Chunk(bad, 1))
		_, err = t.s.Write(t.Context(), id, Ana, 0, blob.Chunk(bad, 0))
		is(t.T, "other bytes", err, blob.ErrMismatch)
		t.gone(id)
		t.usage(1, blob.Usage{})
	}
	t.put(Ana, b)
	t.want(id, b)
}

func badRequests(t *suite) {
	now := t.c.Minute()
	for name, tt := range map[string]struct {
		size    int
		expires blob.Minute
		want    error
	}{
		"no bytes":        {0, now + 60, blob.ErrTooLarge},
		"fewer":           {-1, now + 60, blob.ErrTooLarge},
		"a byte too many": {blob.MaxSize + 1, now + 60, blob.ErrTooLarge},
		"no time":         {1, now, blob.ErrTerms},
		"a day too long":  {1, now + blob.MaxMinutes + 1, blob.ErrTerms},
	} {
		_, err := t.s.Create(t.Context(), blob.ID{1}, blob.Terms{Size: tt.size, Owner: Ana, Expires: tt.expires})
		is(t.T, name, err, tt.want)
	}
	id := blob.ID{2}
	tm := t.terms(Ana)
	tm.Size = blob.ChunkSize + 10
	if _, err := t.s.Create(t.Context(), id, tm); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ chunk, n int }{
		"none such": {2, 10}, "below": {-1, 10}, "far above": {1 << 30, 10}, "too short": {0, 10}, "too long": {1, 11}, "empty": {1, 0}, "far too long": {0, 2 * blob.ChunkSize},
	} {
		_, err := t.s.Write(t.Context(), id, Ana, tt.chunk, make([]byte, tt.n))
		is(t.T, name, err, blob.ErrBadChunk)
	}
	_, err := t.s.Write(t.Context(), blob.ID{3}, Ana, 0, []byte{1})
	is(t.T, "write to what was not created", err, blob.ErrNotFound)
	_, err = t.s.Write(t.Context(), id, Ben, 0, make([]byte, blob.ChunkSize))
	is(t.T, "write to another's upload", err, blob.ErrNotFound)
	// Another size begins anew.
	tm.Size = 5
	if m, err := t.s.Create(t.Context(), id, tm); err != nil || m != 1 {
		t.Errorf("create with another size: %b, %v", m, err)
	}
	t.usage(1, blob.Usage{Uploading: 5})
}

func expiry(t *suite) {
	var ids []blob.ID
	var all [][]byte
	for i := range 10 {
		tm := t.terms(Ana)
		tm.Expires = t.c.Minute() + blob.Minute(i+1)
		all = append(all, Bytes(i, 1000))
		id, err := blob.Put(t.Context(), t.s, tm, all[i])
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	t.c.Advance(4)
	for i, id := range ids {
		if i < 4 {
			t.gone(id)
			_, err := t.s.Renew(t.Context(), id, Ana, t.c.Minute()+60)
			is(t.T, "renew what has expired", err, blob.ErrNotFound)
			is(t.T, "delete what has expired", t.s.Delete(t.Context(), id, Ana), blob.ErrNotFound)
		} else {
			t.want(id, all[i])
		}
	}
	if n, err := t.s.Sweep(t.Context()); n != 4 || err != nil {
		t.Errorf("sweep: %d, %v; want 4", n, err)
	}
	if n, err := t.s.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("sweep again: %d, %v", n, err)
	}
	t.usage(1, blob.Usage{Blobs: 6, Bytes: 6000})
	t.put(Ana, all[0])
	t.want(ids[0], all[0])
}

func renewal(t *suite) {
	b := Bytes(1, 1000)
	id := t.put(Ana, b)
	now := t.c.Minute()
	for _, tt := range []struct{ ask, want blob.Minute }{{now + 100, now + 100}, {now + 50, now + 100}, {now + 200, now + 200}} {
		if got, err := t.s.Renew(t.Context(), id, Ana, tt.ask); err != nil || got != tt.want {
			t.Errorf("renew to %d: %d, %v; want %d", tt.ask-now, got-now, err, tt.want-now)
		}
	}
	_, err := t.s.Renew(t.Context(), id, Ana, now+blob.MaxMinutes+1)
	is(t.T, "renew for too long", err, blob.ErrTerms)
	_, err = t.s.Renew(t.Context(), id, Ana, now)
	is(t.T, "renew to now", err, blob.ErrTerms)
	_, err = t.s.Renew(t.Context(), blob.ID{1}, Ana, now+10)
	is(t.T, "renew nothing", err, blob.ErrNotFound)
	t.c.Advance(150)
	if n, err := t.s.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("sweep: %d, %v", n, err)
	}
	t.want(id, b)
	t.c.Advance(50)
	t.gone(id)
	if n, err := t.s.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("sweep: %d, %v", n, err)
	}
	t.usage(1, blob.Usage{})
}

func deletion(t *suite) {
	b := Bytes(1, 300<<10)
	for range 3 {
		id := t.put(Ana, b)
		if err := t.s.Delete(t.Context(), id, Ana); err != nil {
			t.Fatal(err)
		}
		t.gone(id)
		is(t.T, "delete again", t.s.Delete(t.Context(), id, Ana), blob.ErrNotFound)
		t.usage(1, blob.Usage{})
	}
	tm := t.terms(Ana)
	tm.Size = len(b)
	t.s.Create(t.Context(), blob.Sum(b), tm)
	t.s.Write(t.Context(), blob.Sum(b), Ana, 0, blob.Chunk(b, 0))
	if err := t.s.Delete(t.Context(), blob.Sum(b), Ana); err != nil {
		t.Errorf("delete an upload: %v", err)
	}
	t.usage(1, blob.Usage{})
	if _, err := t.s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	t.want(t.put(Ana, b), b)
}

func quota(t *suite) {
	big := func(i int) []byte { return Bytes(i, 3<<20) }
	t.put(Ana, big(1))
	id := t.put(Ben, big(2))
	tm := t.terms(Ana)
	_, err := blob.Put(t.Context(), t.s, tm, big(3))
	is(t.T, "beyond the quota", err, blob.ErrQuota)
	tm.Size = 2 << 20
	if _, err = t.s.Create(t.Context(), blob.ID{1}, tm); err != nil {
		t.Errorf("up to the quota: %v", err)
	}
	tm.Size = 1
	_, err = t.s.Create(t.Context(), blob.ID{2}, tm)
	is(t.T, "beyond the quota with an upload under way", err, blob.ErrQuota)
	tm.Class, tm.Size = 2, 1<<20
	if _, err := t.s.Create(t.Context(), blob.ID{2}, tm); err != nil {
		t.Errorf("of another class: %v", err)
	}
	tm.Class, tm.Size = 3, blob.MaxSize
	if _, err := t.s.Create(t.Context(), blob.ID{3}, tm); err != nil {
		t.Errorf("of a class without a quota: %v", err)
	}
	t.usage(1, blob.Usage{Blobs: 2, Bytes: 6 << 20, Uploading: 2 << 20})
	t.usage(2, blob.Usage{Uploading: 1 << 20})
	if err := t.s.Delete(t.Context(), id, Ben); err != nil {
		t.Fatal(err)
	}
	t.put(Ana, big(3))
	t.c.Advance(61)
	if _, err := t.s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.usage(1, blob.Usage{})
	t.put(Ana, big(4))
}

func forgotten(t *suite) {
	b := Bytes(1, 300<<10)
	tm := t.terms(Ana)
	tm.Size = len(b)
	t.s.Create(t.Context(), blob.Sum(b), tm)
	for range 3 { // not as long as somebody is at it
		t.c.Advance(blob.UploadMinutes - 1)
		t.s.Sweep(t.Context())
		if m, err := t.s.Write(t.Context(), blob.Sum(b), Ana, 0, blob.Chunk(b, 0)); err != nil || m != 0b10 {
			t.Fatalf("write: %b, %v", m, err)
		}
	}
	t.c.Advance(blob.UploadMinutes)
	if n, err := t.s.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("sweep: %d, %v", n, err)
	}
	t.usage(1, blob.Usage{})
	_, err := t.s.Write(t.Context(), blob.Sum(b), Ana, 1, blob.Chunk(b, 1))
	is(t.T, "write to a forgotten upload", err, blob.ErrNotFound)
}

func deleteWhileReading(t *suite) {
	b := Bytes(1, 3*blob.ChunkSize+1)
	id := t.put(Ana, b)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				from := i * blob.ChunkSize
				got, err := t.s.Read(t.Context(), id, from, blob.MaxRead)
				if errors.Is(err, blob.ErrNotFound) {
					continue
				}
				if err != nil || !bytes.Equal(got, b[from:min(len(b), from+blob.MaxRead)]) {
					t.Errorf("read while it is deleted and put: %d bytes, %v", len(got), err)
					return
				}
			}
		}()
	}
	for range 20 {
		if err := t.s.Delete(t.Context(), id, Ana); err != nil {
			t.Error(err)
		}
		t.put(Ana, b)
	}
	close(stop)
	wg.Wait()
	t.want(id, b)
}

func manyAtOnce(t *suite) {
	var wg sync.WaitGroup
	shared := Bytes(9999, blob.ChunkSize+100)
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 12 {
				b := Bytes(w*100+i, 1000+7*i)
				id, err := blob.Put(t.Context(), t.s, t.terms(Ana), b)
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				t.want(id, b)
				if i%2 == 0 {
					if err := t.s.Delete(t.Context(), id, Ana); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
				// Everybody puts this one, over the same upload or one after the other.
				if _, err := blob.Put(t.Context(), t.s, t.terms(Ana), shared); err != nil && !errors.Is(err, blob.ErrUnknown) {
					t.Errorf("put what others put: %v", err)
				}
			}
		}()
	}
	wg.Wait()
	t.want(blob.Sum(shared), shared)
	sum := int64(len(shared))
	for i := 1; i < 12; i += 2 {
		sum += 8 * int64(1000+7*i)
	}
	t.usage(1, blob.Usage{Blobs: 8*6 + 1, Bytes: sum})
}

func reopened(t *suite) {
	if t.h.Reopen == nil {
		t.Skip("it does not outlive its process")
	}
	b, other := Bytes(1, 300<<10), Bytes(2, 10)
	id := t.put(Ana, b)
	gone := t.put(Ana, other)
	t.s.Delete(t.Context(), gone, Ana)
	tm := t.terms(Ana)
	tm.Size = 5
	t.s.Create(t.Context(), blob.ID{1}, tm)
	t.s = t.h.Reopen(t.T, t.s)
	t.want(id, b)
	t.gone(gone)
	t.usage(1, blob.Usage{Blobs: 1, Bytes: int64(len(b))})
	is(t.T, "delete another's", t.s.Delete(t.Context(), id, Ben), blob.ErrNotFound)
	if err := t.s.Delete(t.Context(), id, Ana); err != nil {
		t.Error(err)
	}
	t.gone(id)
}

func audit(t *suite) {
	for i, n := range []int{5, blob.ChunkSize, blob.ChunkSize + 1} {
		b := Bytes(i, n)
		id := t.put(Ana, b)
		a := blob.NewAudit(b)
		if got, err := blob.AnswerFrom(t.Context(), t.s, id, a.Nonce); err != nil || got != a.MAC {
			t.Errorf("an audit of %d bytes: %x, %v; want %x", n, got, err, a.MAC)
		}
	}
	_, err := blob.AnswerFrom(t.Context(), t.s, blob.ID{1}, [32]byte{})
	is(t.T, "an audit of nothing", err, blob.ErrNotFound)
}

// TestModel does the same to a store and to a model of it, at random, and compares
// their answers.
func TestModel(t *testing.T, h Harness, model func(c *Clock, quota map[blob.Class]int64) blob.Store, lives int) {
	for seed := range lives {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { life(t, h, model, uint64(seed)) })
	}
}

func life(t *testing.T, h Harness, model func(c *Clock, quota map[blob.Class]int64) blob.Store, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	c := NewClock()
	quotas := map[blob.Class]int64{0: 1 << 20, 1: 3 << 20}
	a, b := h.Open(t, c, quotas), model(c, quotas)
	ctx := context.Background()
	owners := []blob.Owner{Ana, Ben}
	var contents [][]byte
	for i := range 6 {
		contents = append(contents, Bytes(i, []int{1, 4000, blob.ChunkSize, blob.ChunkSize + 1, 3 * blob.ChunkSize, 600 << 10}[i]))
	}
	kind := func(err error) error {
		for _, k := range []error{blob.ErrNotFound, blob.ErrExists, blob.ErrTerms, blob.ErrTooLarge, blob.ErrBadChunk, blob.ErrMismatch, blob.ErrQuota} {
			if errors.Is(err, k) {
				return k
			}
		}
		return err
	}
	for step := range 250 {
		content := contents[r.IntN(len(contents))]
		id, owner := blob.Sum(content), owners[r.IntN(2)]
		chunk := r.IntN(4)
		expires := c.Minute() + blob.Minute(r.IntN(40))
		var do func(s blob.Store) (any, error)
		var name string
		switch r.IntN(9) {
		case 0, 1:
			tm := blob.Terms{Size: len(content), Owner: owner, Class: blob.Class(r.IntN(2)), Expires: expires}
			name, do = "create", func(s blob.Store) (any, error) { return s.Create(ctx, id, tm) }
		case 2, 3, 4:
			data := bytes.Clone(blob.Chunk(content, chunk))
			if r.IntN(10) == 0 && len(data) > 0 {
				data[0] ^= 1
			}
			name, do = "write", func(s blob.Store) (any, error) { return s.Write(ctx, id, owner, chunk, data) }
		case 5:
			from := r.IntN(len(content))
			name, do = "read", func(s blob.Store) (any, error) {
				b, err := s.Read(ctx, id, from, 5000)
				return string(b), err
			}
		case 6:
			name, do = "renew", func(s blob.Store) (any, error) { return s.Renew(ctx, id, owner, expires) }
		case 7:
			name, do = "delete", func(s blob.Store) (any, error) { return nil, s.Delete(ctx, id, owner) }
		case 8:
			c.Advance(blob.Minute(r.IntN(12)))
			if u, _ := a.Usage(ctx); h.Reopen != nil && u[0].Uploading+u[1].Uploading == 0 { // uploads are lost then
				a = h.Reopen(t, a)
			}
			name, do = "sweep", func(s blob.Store) (any, error) { return s.Sweep(ctx) }
		}
		gotA, errA := do(a)
		gotB, errB := do(b)
		if kind(errA) != kind(errB) || errA == nil && gotA != gotB {
			t.Fatalf("step %d: %s %v: %v, %v; the model says %v, %v", step, name, id, gotA, errA, gotB, errB)
		}
		ua, _ := a.Usage(ctx)
		ub, _ := b.Usage(ctx)
		if ua[0] != ub[0] || ua[1] != ub[1] {
			t.Fatalf("step %d: after %s: usage %+v; the model's %+v", step, name, ua, ub)
		}
	}
}
