package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/membox"
	"sotto/relay/server"
	"sotto/relay/transport"
	"sotto/relay/wire"
	"sotto/storage/blob"
	"sotto/storage/blob/blobtest"
	"sotto/storage/blob/dirblob"
	"sotto/storage/blob/memblob"
)

// blobStore is a store of blobs that a test looks into and interferes with.
type blobStore struct {
	blob.Store
	writes atomic.Int64
	reads  atomic.Int64 // under way
	most   atomic.Int64 // of them at once
	gate   atomic.Pointer[chan struct{}]
}

func (s *blobStore) Write(ctx context.Context, id blob.ID, o blob.Owner, chunk int, data []byte) (blob.Chunks, error) {
	s.writes.Add(1)
	return s.Store.Write(ctx, id, o, chunk, data)
}

func (s *blobStore) Read(ctx context.Context, id blob.ID, offset, n int) ([]byte, error) {
	now := s.reads.Add(1)
	defer s.reads.Add(-1)
	for m := s.most.Load(); now > m && !s.most.CompareAndSwap(m, now); m = s.most.Load() {
	}
	if g := s.gate.Load(); g != nil {
		<-*g
	}
	return s.Store.Read(ctx, id, offset, n)
}

var blobQuota = map[blob.Class]int64{access.Strangers: 8 << 20, access.Ticketed: 16 << 20}

// blobRelay makes a relay that keeps blobs.
func blobRelay(t *testing.T, p access.Policy, change func(*server.Config)) (*relay, *blobStore) {
	r := newRelay(t, p)
	s := &blobStore{Store: memblob.New(r.clock.Now, blobQuota)}
	cfg := server.Config{Key: r.key, Store: r.store, Slots: r.store, Blobs: s, Clock: r.clock.Now, Policy: p}
	if change != nil {
		change(&cfg)
	}
	r.srv = server.New(cfg)
	t.Cleanup(r.srv.Close)
	return r, s
}

func (r *relay) soon() blob.Minute { return blob.MinuteOf(r.clock.Now()) + 60 }

func TestBlobs(t *testing.T) {
	r, s := blobRelay(t, access.Policy{}, nil)
	c, other := r.client(), r.client()
	owner := key.NewCapability()
	for i, n := range []int{1, blob.ChunkSize, blob.ChunkSize + 1, blob.MaxSize} {
		b := blobtest.Bytes(i, n)
		audit := blob.NewAudit(b)
		id, err := c.PutBlob(t.Context(), owner, b, r.soon(), nil)
		if err != nil || id != blob.Sum(b) {
			t.Fatalf("put %d bytes: %v, %v", n, id, err)
		}
		if got, err := other.GetBlob(t.Context(), id); err != nil || !bytes.Equal(got, b) {
			t.Errorf("get %d bytes: %d, %v", n, len(got), err)
		}
		if err := other.AuditBlob(t.Context(), id, audit); err != nil {
			t.Errorf("audit: %v", err)
		}
		before := s.writes.Load()
		if _, err := c.PutBlob(t.Context(), owner, b, r.soon()+1, nil); err != nil || s.writes.Load() != before {
			t.Errorf("put again: %v, with %d chunks", err, s.writes.Load()-before)
		}
		if got, err := c.RenewBlob(t.Context(), owner, id, r.soon()+20); err != nil || got != r.soon()+20 {
			t.Errorf("renew: %d, %v", got, err)
		}
		if info, err := other.StatBlob(t.Context(), id); err != nil || info != (blob.Info{Size: n, Expires: r.soon() + 20}) {
			t.Errorf("stat: %+v, %v", info, err)
		}
		if err := c.DeleteBlob(t.Context(), owner, id); err != nil {
			t.Errorf("delete: %v", err)
		}
		_, err = other.GetBlob(t.Context(), id)
		for what, err := range map[string]error{"get": err, "delete again": c.DeleteBlob(t.Context(), owner, id), "audit": c.AuditBlob(t.Context(), id, audit)} {
			if !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("%s of what is gone: %v", what, err)
			}
		}
	}
	for name, tt := range map[string]struct {
		size    int
		expires blob.Minute
		want    error
	}{
		"nothing": {0, r.soon(), blob.ErrTooLarge}, "too much": {blob.MaxSize + 1, r.soon(), blob.ErrTooLarge},
		"for no time": {1, r.soon() - 60, blob.ErrTerms}, "for too long": {1, r.soon() + blob.MaxMinutes, blob.ErrTerms},
	} {
		if _, err := c.PutBlob(t.Context(), owner, make([]byte, tt.size), tt.expires, nil); !errors.Is(err, tt.want) {
			t.Errorf("put %s: %v, want %v", name, err, tt.want)
		}
	}
}

// T22: what does not exist and what is not one's own are one answer.
func TestBlobUnknownAndUnauthorised(t *testing.T) {
	r, _ := blobRelay(t, access.Policy{}, nil)
	owner, other := key.NewCapability(), key.NewCapability()
	b := []byte("sealed")
	id, err := r.client().PutBlob(t.Context(), owner, b, r.soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	denied := func(what string, err error) {
		t.Helper()
		var we *wire.Error
		if !errors.As(err, &we) || we.Code != wire.CodeDenied || len(we.Detail) != 0 || we.Wait != 0 {
			t.Errorf("%s: %v, want denied and no more", what, err)
		}
	}
	stranger := r.client()
	for name, id := range map[string]blob.ID{"another's": id, "none": {1, 2, 3}} {
		_, renew := stranger.RenewBlob(t.Context(), other, id, r.soon()+1)
		denied("renew "+name, renew)
		denied("delete "+name, stranger.DeleteBlob(t.Context(), other, id))
	}
	_, stat := stranger.StatBlob(t.Context(), blob.ID{1})
	denied("stat none", stat)
	// Without a proof of the owner's key, or with one of another key, nothing is
	// the owner's.
	w := r.raw(t)
	w.prove(t, other, wire.Claim{Role: wire.RoleBlobOwner, Object: blob.Owner(other.Public().Bytes())})
	ana := blob.Owner(owner.Public().Bytes())
	for typ, m := range map[wire.Type]wire.Message{
		wire.TBlobCreate: &wire.BlobCreate{Owner: ana, Blob: blob.ID{5}, Size: 1, Expires: r.soon()},
		wire.TBlobWrite:  &wire.BlobWrite{Owner: ana, Blob: id, Data: b},
		wire.TBlobRenew:  &wire.BlobRenew{Owner: ana, Blob: id, Expires: r.soon() + 1},
		wire.TBlobDelete: &wire.BlobDelete{Owner: ana, Blob: id},
	} {
		w.write(typ, 9, m)
		var e wire.Error
		if fr := w.read(t); fr.Type != wire.TError || wire.Decode(fr.Body, &e) != nil || e.Code != wire.CodeDenied {
			t.Errorf("type %#x without the owner's proof: %+v", typ, fr)
		}
	}
	// Whose proof it is counts, and that it is of this session; a generation has no
	// meaning here.
	claim := wire.Claim{Role: wire.RoleBlobOwner, Object: ana}
	elsewhere := r.raw(t)
	w.write(wire.TProve, 1, &wire.Prove{Proofs: []wire.Proof{w.id.Prove(other, claim), elsewhere.id.Prove(owner, claim),
		w.id.Prove(owner, wire.Claim{Role: wire.RoleBlobOwner, Object: ana, Gen: 1}), w.id.Prove(owner, wire.Claim{Role: wire.RoleBlobOwner}), w.id.Prove(owner, claim)}})
	if fr := w.read(t); string(fr.Body) != "\x00\x00\x00\x00\x01" {
		t.Errorf("proofs were answered %x", fr.Body)
	}
	if got, err := stranger.GetBlob(t.Context(), id); err != nil || !bytes.Equal(got, b) {
		t.Errorf("after all that: %q, %v", got, err)
	}
}

// A proof that was shown for what was one's own opens nothing that is another's now.
func TestProofOfAFormerOwner(t *testing.T) {
	r, _ := blobRelay(t, access.Policy{}, nil)
	ana, ben := key.NewCapability(), key.NewCapability()
	b := []byte("sealed")
	first := r.client()
	id, err := first.PutBlob(t.Context(), ana, b, r.soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.clock.Advance(61)
	if _, err := r.client().PutBlob(t.Context(), ben, b, r.soon(), nil); err != nil {
		t.Fatal(err)
	}
	if err := first.DeleteBlob(t.Context(), ana, id); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("the former owner deletes: %v", err)
	}
	if _, err := first.PutBlob(t.Context(), ana, b, r.soon(), nil); !errors.Is(err, blob.ErrExists) {
		t.Errorf("the former owner puts: %v", err)
	}
	if _, err := first.GetBlob(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// An upload that was cut off goes on where it was, in another session.
func TestUploadGoesOn(t *testing.T) {
	r, s := blobRelay(t, access.Policy{}, nil)
	owner := key.NewCapability()
	b := blobtest.Bytes(1, 5*blob.ChunkSize)
	id, o := blob.Sum(b), blob.Owner(owner.Public().Bytes())
	w := r.raw(t)
	w.prove(t, owner, wire.Claim{Role: wire.RoleBlobOwner, Object: o})
	missing := func(typ wire.Type, m wire.Message) blob.Chunks {
		t.Helper()
		w.write(typ, 9, m)
		fr := w.read(t)
		var a wire.BlobMissing
		if fr.Type != wire.TOK || wire.Decode(fr.Body, &a) != nil {
			t.Fatalf("answered %+v", fr)
		}
		return a.Chunks
	}
	if m := missing(wire.TBlobCreate, &wire.BlobCreate{Owner: o, Blob: id, Size: uint32(len(b)), Expires: r.soon()}); m != 0b11111 {
		t.Fatalf("missing %b", m)
	}
	missing(wire.TBlobWrite, &wire.BlobWrite{Owner: o, Blob: id, Chunk: 3, Data: blob.Chunk(b, 3)})
	if m := missing(wire.TBlobWrite, &wire.BlobWrite{Owner: o, Blob: id, Chunk: 0, Data: blob.Chunk(b, 0)}); m != 0b10110 {
		t.Fatalf("missing %b", m)
	}
	r.cut()
	c := r.client()
	if _, err := c.PutBlob(t.Context(), owner, b, r.soon(), nil); err != nil {
		t.Fatal(err)
	}
	if n := s.writes.Load(); n != 5 {
		t.Errorf("%d chunks were sent, want 2 and then 3", n)
	}
	if got, err := c.GetBlob(t.Context(), id); err != nil || !bytes.Equal(got, b) {
		t.Errorf("get: %d bytes, %v", len(got), err)
	}
}

// Strangers have a quota, a rate and a relay's grace; who has a ticket has another.
func TestBlobLimits(t *testing.T) {
	tickets := access.NewTickets(bytes.Repeat([]byte{7}, 32))
	r, _ := blobRelay(t, access.Policy{Tickets: tickets}, func(c *server.Config) {
		c.Uploads = access.BlobPolicy{PerMinute: 1 << 20, Burst: 10 << 20}
	})
	owner := key.NewCapability()
	n := 0
	put := func(size int, ticket []byte) wire.Code {
		n++
		_, err := r.client().PutBlob(t.Context(), owner, blobtest.Bytes(n, size), r.soon(), ticket)
		var we *wire.Error
		if errors.As(err, &we) {
			return we.Code
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0
	}
	good := tickets.Issue(mailbox.MinuteOf(r.clock.Now()) + 10)
	for i, tt := range []struct {
		size   int
		ticket []byte
		want   wire.Code
	}{
		{4 << 20, nil, 0},
		{4 << 20, nil, 0},
		{1 << 20, nil, wire.CodeQuota},   // 8 MiB are taken
		{2 << 20, nil, wire.CodeRefused}, // and 9 of 10 used up
		{4 << 20, good, 0},
		{4 << 20, good[:9], wire.CodeRefused},
		{1, access.NewTickets(make([]byte, 32)).Issue(1 << 31), wire.CodeRefused},
		{4 << 20, good, 0},
		{4 << 20, good, 0},
		{4 << 20, good, 0},
		{1, good, wire.CodeQuota},
	} {
		if got := put(tt.size, tt.ticket); got != tt.want {
			t.Errorf("put %d: code %d, want %d", i, got, tt.want)
		}
	}
	only, _ := blobRelay(t, access.Policy{Tickets: tickets, NeedTicket: true}, nil)
	_, err := only.client().PutBlob(t.Context(), owner, []byte("x"), only.soon(), nil)
	var we *wire.Error
	if !errors.As(err, &we) || we.Code != wire.CodeRefused {
		t.Errorf("without the ticket that the relay wants: %v", err)
	}
}

// What a client asks to read counts, whether or not it takes the answers: for itself and
// for all.
func TestReadsAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := blobRelay(t, access.Policy{}, func(c *server.Config) { c.Bytes = 5 << 20 })
		b := blobtest.Bytes(1, blob.MaxSize)
		id, err := r.client().PutBlob(t.Context(), key.NewCapability(), b, r.soon(), nil)
		if err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		s.gate.Store(&gate)
		w, other := r.raw(t), r.raw(t)
		const n = 30
		go func() {
			for i := range n {
				w.write(wire.TBlobRead, uint32(100+i), &wire.BlobRead{Blob: id, Offset: uint32(i % 16 * blob.ChunkSize), Length: 1 << 31})
			}
		}()
		synctest.Wait()
		if got := s.reads.Load(); got != 5 { // of three times 256 KiB, in 4 MiB
			t.Errorf("%d reads at once in a session", got)
		}
		go func() {
			for i := range 2 {
				other.write(wire.TBlobRead, uint32(7+i), &wire.BlobRead{Blob: id, Length: blob.ChunkSize})
			}
		}()
		busy := 0
		fr := other.read(t)
		var e wire.Error
		if wire.Decode(fr.Body, &e) == nil && e.Code == wire.CodeBusy {
			busy++
		}
		close(gate)
		if fr = other.read(t); fr.Type == wire.TError {
			busy++
		}
		if busy != 1 {
			t.Errorf("of two reads beyond what all may hold %d were refused", busy)
		}
		for range n {
			fr := w.read(t)
			var d wire.BlobData
			i := int(fr.ID - 100)
			if fr.Type != wire.TOK || wire.Decode(fr.Body, &d) != nil || !bytes.Equal(d.Data, blob.Chunk(b, i%16)) || d.Size != blob.MaxSize {
				t.Fatalf("read %d was answered with type %#x", i, fr.Type)
			}
		}
	})
}

// A few blobs at a time are looked through, one of them for a session.
func TestAuditsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := blobRelay(t, access.Policy{}, nil)
		b := blobtest.Bytes(1, blob.ChunkSize+1)
		id, err := r.client().PutBlob(t.Context(), key.NewCapability(), b, r.soon(), nil)
		if err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		s.gate.Store(&gate)
		var ws []*raw
		for i := range 6 {
			w := r.raw(t)
			ws = append(ws, w)
			go func() {
				for j := range 5 {
					w.write(wire.TBlobAudit, uint32(j+1), &wire.BlobAudit{Blob: id, Nonce: wire.Nonce{9}})
				}
			}()
			synctest.Wait()
			if got := s.reads.Load(); got != int64(min(i+1, 4)) {
				t.Errorf("%d sessions have %d audits under way", i+1, got)
			}
		}
		close(gate)
		want := blob.Answer(wire.Nonce{9}, b)
		for _, w := range ws {
			for range 5 {
				fr := w.read(t)
				var p wire.BlobProof
				if fr.Type != wire.TOK || wire.Decode(fr.Body, &p) != nil || p.MAC != want {
					t.Fatalf("answered %+v", fr)
				}
			}
		}
		if s.most.Load() > 4 {
			t.Errorf("%d at once", s.most.Load())
		}
	})
}

// A relay without blobs says so, and is not asked.
func TestRelayWithoutBlobs(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	_, get := c.GetBlob(t.Context(), blob.ID{1})
	_, put := c.PutBlob(t.Context(), key.NewCapability(), []byte("x"), r.soon(), nil)
	for _, err := range []error{get, put, c.AuditBlob(t.Context(), blob.ID{1}, blob.Audit{})} {
		if !errors.Is(err, client.ErrNoBlobs) {
			t.Errorf("%v, want ErrNoBlobs", err)
		}
	}
}

// Whatever is damaged on the relay's disk, a client hears of it and gets no wrong byte;
// who puts the blob again mends it.
func TestDamagedBlob(t *testing.T) {
	dir := t.TempDir()
	var free atomic.Uint64
	free.Store(1 << 40)
	r, _ := blobRelay(t, access.Policy{}, nil)
	store, err := dirblob.Open(dirblob.Config{Dir: dir, Clock: r.clock.Now, SweepPeriod: -1, Free: func(string) (uint64, error) { return free.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.srv.Close(); store.Close() })
	r.srv = server.New(server.Config{Key: r.key, Store: r.store, Slots: r.store, Blobs: store, Clock: r.clock.Now})
	c, owner := r.client(), key.NewCapability()
	b := blobtest.Bytes(1, blob.ChunkSize+10)
	id, err := c.PutBlob(t.Context(), owner, b, r.soon(), nil)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%x", id[:])
	if err := os.Truncate(filepath.Join(dir, "data", name[:2], name), 100); err != nil {
		t.Fatal(err)
	}
	_, get := c.GetBlob(t.Context(), id)
	for what, err := range map[string]error{"get": get, "audit": c.AuditBlob(t.Context(), id, blob.NewAudit(b))} {
		if !errors.Is(err, blob.ErrDamaged) || bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%s: %v, want ErrDamaged, without the relay's file", what, err)
		}
	}
	if _, err := c.PutBlob(t.Context(), owner, b, r.soon(), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := c.GetBlob(t.Context(), id); err != nil || !bytes.Equal(got, b) {
		t.Errorf("after it was put again: %d bytes, %v", len(got), err)
	}
	// Ruling of the full disk: nothing new, and a clear word.
	free.Store(1 << 20)
	w := r.raw(t)
	o := blob.Owner(owner.Public().Bytes())
	w.prove(t, owner, wire.Claim{Role: wire.RoleBlobOwner, Object: o})
	w.write(wire.TBlobCreate, 9, &wire.BlobCreate{Owner: o, Blob: blob.ID{1}, Size: 1, Expires: r.soon()})
	var e wire.Error
	if fr := w.read(t); wire.Decode(fr.Body, &e) != nil || e.Code != wire.CodeBusy || e.Wait == 0 {
		t.Errorf("with a full disk: %+v", fr)
	}
	if _, err := c.GetBlob(t.Context(), id); err != nil {
		t.Errorf("reading with a full disk: %v", err)
	}
}

// A hostile client's requests about blobs are each answered once, and the relay goes on.
func TestHostileBlobRequests(t *testing.T) {
	r, _ := blobRelay(t, access.Policy{}, nil)
	owner := key.NewCapability()
	o := blob.Owner(owner.Public().Bytes())
	w := r.raw(t)
	w.prove(t, owner, wire.Claim{Role: wire.RoleBlobOwner, Object: o})
	w.write(wire.TBlobCreate, 1, &wire.BlobCreate{Owner: o, Blob: blob.ID{1}, Size: blob.ChunkSize + 5, Expires: r.soon()})
	if fr := w.read(t); fr.Type != wire.TOK {
		t.Fatalf("%+v", fr)
	}
	for name, tt := range map[string]struct {
		typ  wire.Type
		body []byte
		want wire.Code
	}{
		"a chunk that the blob has not":     {wire.TBlobWrite, wire.Encode(&wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 2, Data: []byte{1}}), wire.CodeMalformed},
		"the last chunk":                    {wire.TBlobWrite, wire.Encode(&wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 255, Data: []byte{1}}), wire.CodeMalformed},
		"a chunk too short":                 {wire.TBlobWrite, wire.Encode(&wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 0, Data: []byte{1}}), wire.CodeMalformed},
		"an empty chunk":                    {wire.TBlobWrite, wire.Encode(&wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 1}), wire.CodeMalformed},
		"a chunk of no upload":              {wire.TBlobWrite, wire.Encode(&wire.BlobWrite{Owner: o, Blob: blob.ID{2}, Data: []byte{1}}), wire.CodeDenied},
		"a blob of 4 GiB":                   {wire.TBlobCreate, wire.Encode(&wire.BlobCreate{Owner: o, Size: 1<<32 - 1, Expires: r.soon()}), wire.CodeTooLarge},
		"a blob of nothing":                 {wire.TBlobCreate, wire.Encode(&wire.BlobCreate{Owner: o, Expires: r.soon()}), wire.CodeTooLarge},
		"a blob for ever":                   {wire.TBlobCreate, wire.Encode(&wire.BlobCreate{Owner: o, Size: 1, Expires: 1<<32 - 1}), wire.CodeTerms},
		"far behind the end of none":        {wire.TBlobRead, wire.Encode(&wire.BlobRead{Offset: 1<<32 - 1, Length: 1<<32 - 1}), wire.CodeDenied},
		"an upload is read":                 {wire.TBlobRead, wire.Encode(&wire.BlobRead{Blob: blob.ID{1}, Length: 1}), wire.CodeDenied},
		"an upload is audited":              {wire.TBlobAudit, wire.Encode(&wire.BlobAudit{Blob: blob.ID{1}}), wire.CodeDenied},
		"bytes behind a request":            {wire.TBlobStat, make([]byte, 33), wire.CodeMalformed},
		"a type that may come to be":        {0x37, make([]byte, 32), wire.CodeMalformed},
		"a create without its end":          {wire.TBlobCreate, make([]byte, 70), wire.CodeMalformed},
		"renewing what has not been stored": {wire.TBlobRenew, wire.Encode(&wire.BlobRenew{Owner: o, Blob: blob.ID{1}, Expires: r.soon()}), wire.CodeDenied},
	} {
		w.conn.Write(wire.Frame{Type: tt.typ, ID: 77, Body: tt.body}.Append(nil))
		var e wire.Error
		if fr := w.read(t); fr.Type != wire.TError || fr.ID != 77 || wire.Decode(fr.Body, &e) != nil || e.Code != tt.want {
			t.Errorf("%s: answered %+v, want code %d", name, fr, tt.want)
		}
	}
	w.write(wire.TBlobWrite, 2, &wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 1, Data: make([]byte, 5)})
	if fr := w.read(t); fr.Type != wire.TOK {
		t.Errorf("the upload does not go on: %+v", fr)
	}
	w.write(wire.TBlobWrite, 3, &wire.BlobWrite{Owner: o, Blob: blob.ID{1}, Chunk: 0, Data: make([]byte, blob.ChunkSize)})
	var e wire.Error
	if fr := w.read(t); wire.Decode(fr.Body, &e) != nil || e.Code != wire.CodeMismatch {
		t.Errorf("bytes that are not what the id names: %+v", fr)
	}
}

// FuzzBlobRequest asks anything about blobs: it is answered once, and leaves nothing
// that the next request trips over.
func FuzzBlobRequest(f *testing.F) {
	owner := key.CapabilityFromSeed(bytes.Repeat([]byte{4}, 32))
	o := blob.Owner(owner.Public().Bytes())
	b := []byte("blob")
	id := blob.Sum(b)
	add := func(t wire.Type, m wire.Message) { f.Add(uint8(t), wire.Encode(m)) }
	add(wire.TBlobCreate, &wire.BlobCreate{Owner: o, Blob: id, Size: 4, Expires: 29_460_000})
	add(wire.TBlobWrite, &wire.BlobWrite{Owner: o, Blob: id, Data: b})
	add(wire.TBlobRead, &wire.BlobRead{Blob: id, Offset: 1, Length: 2})
	add(wire.TBlobStat, &wire.Object{ID: id})
	add(wire.TBlobRenew, &wire.BlobRenew{Owner: o, Blob: id, Expires: 29_460_001})
	add(wire.TBlobDelete, &wire.BlobDelete{Owner: o, Blob: id})
	add(wire.TBlobAudit, &wire.BlobAudit{Blob: id})
	clock := blobtest.NewClock()
	box := membox.New(clock.Now, 0)
	k := key.NewRelay()
	srv := server.New(server.Config{Key: k, Store: box, Slots: box, Blobs: memblob.New(clock.Now, blobQuota), Clock: clock.Now})
	f.Cleanup(srv.Close)
	f.Fuzz(func(t *testing.T, typ uint8, body []byte) {
		if len(body) > wire.MaxFrame-wire.MinFrame {
			return
		}
		r := &relay{t: t, key: k, srv: srv}
		w := r.raw(t)
		defer w.conn.Close()
		w.prove(t, owner, wire.Claim{Role: wire.RoleBlobOwner, Object: o})
		typ = uint8(wire.TBlobCreate) + typ%8
		w.conn.Write(wire.Frame{Type: wire.Type(typ), ID: 5, Body: body}.Append(nil))
		if fr := w.read(t); fr.ID != 5 || fr.Type != wire.TOK && fr.Type != wire.TError {
			t.Errorf("answered %+v", fr)
		}
		w.write(wire.TPing, 6, &wire.Ping{})
		if fr := w.read(t); fr.ID != 6 || fr.Type != wire.TOK {
			t.Errorf("then a ping was answered %+v", fr)
		}
	})
}

// overTCP starts a relay in a folder and returns a client of it, over the real transport,
// and a ticket.
func overTCP(b *testing.B) (*client.Client, []byte) {
	in, err := server.Start(b.TempDir(), server.Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		b.Fatal(err)
	}
	d, err := transport.NewDialer()
	if err != nil {
		b.Fatal(err)
	}
	c := client.New(client.Config{Relay: in.Address().Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return d.Dial(ctx, in.Address()) }})
	b.Cleanup(func() { c.Close(); d.Close(); in.Close() })
	return c, in.Ticket(time.Hour)
}

const benchSize = 1 << 20

// BenchmarkBlobPut stores blobs of 1 MiB at a relay, durably, eight at once; floor
// writes and flushes as many bare files in the same way.
func BenchmarkBlobPut(b *testing.B) {
	expires := blob.MinuteOf(time.Now()) + 60
	b.Run("relay", func(b *testing.B) {
		c, ticket := overTCP(b)
		owner := key.NewCapability()
		eight(b, func(n int, content []byte) error {
			_, err := c.PutBlob(b.Context(), owner, content, expires, ticket)
			return err
		})
	})
	b.Run("floor", func(b *testing.B) {
		dir := b.TempDir()
		eight(b, func(n int, content []byte) error {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
			if err != nil {
				return err
			}
			_, err = f.Write(content)
			return errors.Join(err, f.Sync(), f.Close())
		})
	})
}

// BenchmarkBlobGet reads blobs of 1 MiB from a relay, eight at once.
func BenchmarkBlobGet(b *testing.B) {
	c, ticket := overTCP(b)
	id, err := c.PutBlob(b.Context(), key.NewCapability(), blobtest.Bytes(1, benchSize), blob.MinuteOf(time.Now())+60, ticket)
	if err != nil {
		b.Fatal(err)
	}
	eight(b, func(int, []byte) error { _, err := c.GetBlob(b.Context(), id); return err })
}

// eight lets eight goroutines share b.N calls of f, each with content of its own.
func eight(b *testing.B, f func(n int, content []byte) error) {
	b.SetBytes(benchSize)
	base := blobtest.Bytes(1, benchSize)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 8 {
		wg.Go(func() {
			content := bytes.Clone(base)
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				copy(content, fmt.Sprint(n, " "))
				if err := f(int(n), content); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
