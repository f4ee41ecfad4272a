package client

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/blob"
	"sotto/storage/blob/blobtest"
)

// keeper is a relay that says it keeps blobs, and answers as a test wants.
func keeper(answer func(fr wire.Frame, send func(wire.Type, uint32, wire.Message))) *evil {
	return &evil{hello: func(h *wire.RelayHello) { h.Features = wire.FeatureBlobs }, answer: answer}
}

// Whatever a relay gives out, what the client takes is the blob.
func TestHostileGet(t *testing.T) {
	b := blobtest.Bytes(1, 2*blob.ChunkSize+10)
	id := blob.Sum(b)
	honest := func(i int) wire.BlobData { return wire.BlobData{Size: uint32(len(b)), Data: blob.Chunk(b, i)} }
	for _, tt := range []struct {
		name   string
		answer func(i int) wire.Message // to the request for chunk i
		want   error
	}{
		{"honest", func(i int) wire.Message { d := honest(i); return &d }, nil},
		{"a wrong byte", func(i int) wire.Message {
			d := honest(i)
			if i == 1 {
				d.Data = bytes.Clone(d.Data)
				d.Data[77] ^= 1
			}
			return &d
		}, ErrWrongBlob},
		{"chunks in another order", func(i int) wire.Message { d := honest(i ^ i&1); return &d }, ErrWrongBlob},
		{"a chunk too short", func(i int) wire.Message {
			d := honest(i)
			if i == 1 {
				d.Data = d.Data[1:]
			}
			return &d
		}, ErrWrongBlob},
		{"a last chunk too long", func(i int) wire.Message {
			d := honest(i)
			if i == 2 {
				d.Data = make([]byte, 11)
			}
			return &d
		}, ErrWrongBlob},
		{"nothing of it", func(i int) wire.Message { d := honest(i); d.Data = nil; return &d }, ErrWrongBlob},
		{"no bytes at all", func(i int) wire.Message { return &wire.BlobData{} }, ErrWrongBlob},
		{"a size that changes", func(i int) wire.Message { d := honest(i); d.Size += uint32(i); return &d }, ErrWrongBlob},
		{"a size too large", func(i int) wire.Message { d := honest(i); d.Size = blob.MaxSize + 1; return &d }, ErrWrongBlob},
		{"bytes without end", func(i int) wire.Message {
			return &wire.BlobData{Size: blob.MaxSize, Data: make([]byte, blob.ChunkSize)}
		}, ErrWrongBlob},
		{"another, shorter blob", func(i int) wire.Message { return &wire.BlobData{Size: 3, Data: []byte("abc")} }, ErrWrongBlob},
		{"what is no answer", func(i int) wire.Message { return &wire.Flags{Each: []byte{1}} }, ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked sync.Map
			e := keeper(func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
				var m wire.BlobRead
				if fr.Type != wire.TBlobRead || wire.Decode(fr.Body, &m) != nil || m.Blob != id || m.Length != blob.ChunkSize {
					t.Errorf("asked %+v", fr)
				}
				if _, again := asked.LoadOrStore(m.Offset, true); again {
					t.Errorf("asked twice for what is at %d", m.Offset)
				}
				send(wire.TOK, fr.ID, tt.answer(int(m.Offset/blob.ChunkSize)))
			})
			got, err := e.client(t).GetBlob(t.Context(), id)
			if !errors.Is(err, tt.want) || tt.want == nil && !bytes.Equal(got, b) || tt.want != nil && got != nil {
				t.Errorf("got %d bytes, %v; want %v", len(got), err, tt.want)
			}
		})
	}
}

// More answers that no honest relay gives.
func TestHostileBlobAnswers(t *testing.T) {
	b := []byte("sealed")
	k := key.NewCapability()
	put := func(c *Client, t *testing.T) error { _, err := c.PutBlob(t.Context(), k, b, 100, nil); return err }
	code := func(c wire.Code) wire.Message { return &wire.Error{Code: c} }
	for _, tt := range []struct {
		name   string
		do     func(c *Client, t *testing.T) error
		answer wire.Message
		want   error
	}{
		{"it lacks what there is not", put, &wire.BlobMissing{Chunks: 0b10}, ErrProtocol},
		{"it is full", put, code(wire.CodeQuota), blob.ErrQuota},
		{"it is another's", put, code(wire.CodeExists), blob.ErrExists},
		{"terms it does not grant", put, code(wire.CodeTerms), blob.ErrTerms},
		{"it wants a ticket", put, code(wire.CodeRefused), nil},
		{"a wrong proof", func(c *Client, t *testing.T) error { return c.AuditBlob(t.Context(), blob.Sum(b), blob.NewAudit(b)) }, &wire.BlobProof{}, ErrAudit},
		{"half a proof", func(c *Client, t *testing.T) error { return c.AuditBlob(t.Context(), blob.Sum(b), blob.NewAudit(b)) }, &wire.Flags{Each: make([]byte, 16)}, ErrProtocol},
		{"an audit of what it has lost", func(c *Client, t *testing.T) error { return c.AuditBlob(t.Context(), blob.Sum(b), blob.NewAudit(b)) }, code(wire.CodeDenied), blob.ErrNotFound},
		{"renewed for less", func(c *Client, t *testing.T) error {
			_, err := c.RenewBlob(t.Context(), k, blob.ID{1}, 100)
			return err
		}, &wire.BlobRenewed{Expires: 99}, ErrProtocol},
		{"larger than any", func(c *Client, t *testing.T) error { _, err := c.StatBlob(t.Context(), blob.ID{1}); return err }, &wire.BlobInfo{Size: 1 << 31}, ErrProtocol},
		{"of no size", func(c *Client, t *testing.T) error { _, err := c.StatBlob(t.Context(), blob.ID{1}); return err }, &wire.BlobInfo{}, ErrProtocol},
		{"damaged", func(c *Client, t *testing.T) error { _, err := c.GetBlob(t.Context(), blob.ID{1}); return err }, code(wire.CodeDamaged), blob.ErrDamaged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			c := keeper(func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
				n++
				typ := wire.TOK
				if _, bad := tt.answer.(*wire.Error); bad {
					typ = wire.TError
				}
				send(typ, fr.ID, tt.answer)
			}).client(t)
			err := tt.do(c, t)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if n != 1 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// A relay that never has enough, never answers, or is always busy, is given up.
func TestBlobGivesUp(t *testing.T) {
	b := blobtest.Bytes(1, 3*blob.ChunkSize)
	for name, tt := range map[string]struct {
		answer func(fr wire.Frame, send func(wire.Type, uint32, wire.Message))
		want   error
	}{
		"it never has enough": {func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TOK, fr.ID, &wire.BlobMissing{Chunks: 0b111})
		}, errBegunAnew},
		"it forgets the upload": {func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			if fr.Type == wire.TBlobCreate {
				send(wire.TOK, fr.ID, &wire.BlobMissing{Chunks: 0b111})
			} else {
				send(wire.TError, fr.ID, &wire.Error{Code: wire.CodeDenied})
			}
		}, blob.ErrNotFound},
		"it never answers": {func(wire.Frame, func(wire.Type, uint32, wire.Message)) {}, mailbox.ErrUnknown},
		"it is always busy": {func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TError, fr.ID, &wire.Error{Code: wire.CodeBusy, Wait: 10e9})
		}, blob.ErrBusy},
		"it always hangs up": {func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TGoAway, 0, &wire.GoAway{Reason: wire.GoStopping})
		}, ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				n := 0
				e := keeper(nil)
				e.answer = func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
					mu.Lock()
					n++
					mu.Unlock()
					tt.answer(fr, send)
				}
				c := e.client(t)
				_, err := c.PutBlob(t.Context(), key.NewCapability(), b, 100, nil)
				if !errors.Is(err, tt.want) {
					t.Errorf("put: %v, want %v", err, tt.want)
				}
				mu.Lock()
				defer mu.Unlock()
				if n < blobTries || n > (blobTries+1)*4 {
					t.Errorf("it was asked %d times", n)
				}
				c.Close()
				e.done.Wait()
			})
		})
	}
}

// flaky is a relay that keeps one blob, and hangs up after so many answers.
type flaky struct {
	mu      sync.Mutex
	b       []byte
	missing blob.Chunks
	every   int
	n       int
	got     []int // how often each chunk came or was asked for
}

func (f *flaky) answer(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n%f.every == 0 {
		send(wire.TGoAway, 0, &wire.GoAway{Reason: wire.GoStopping})
		return
	}
	var w wire.BlobWrite
	var r wire.BlobRead
	switch {
	case fr.Type == wire.TBlobCreate:
		send(wire.TOK, fr.ID, &wire.BlobMissing{Chunks: f.missing})
	case fr.Type == wire.TBlobWrite && wire.Decode(fr.Body, &w) == nil:
		i := int(w.Chunk)
		f.got[i]++
		copy(f.b[i*blob.ChunkSize:], w.Data)
		f.missing = f.missing.Without(i)
		send(wire.TOK, fr.ID, &wire.BlobMissing{Chunks: f.missing})
	case fr.Type == wire.TBlobRead && wire.Decode(fr.Body, &r) == nil:
		i := int(r.Offset) / blob.ChunkSize
		f.got[i]++
		send(wire.TOK, fr.ID, &wire.BlobData{Size: uint32(len(f.b)), Data: blob.Chunk(f.b, i)})
	}
}

// A connection that is lost again and again costs time, and no chunk twice that the
// relay or the client already had.
func TestLostConnections(t *testing.T) {
	b := blobtest.Bytes(1, blob.MaxSize-3)
	for _, every := range []int{3, 4, 7} { // below 3 nothing comes through
		synctest.Test(t, func(t *testing.T) {
			put := &flaky{b: make([]byte, len(b)), missing: blob.AllChunks(len(b)), every: every, got: make([]int, 16)}
			e := keeper(put.answer)
			c := e.client(t)
			if _, err := c.PutBlob(t.Context(), key.NewCapability(), b, 100, nil); err != nil {
				t.Fatalf("put, cut off after every %d: %v", every, err)
			}
			if !bytes.Equal(put.b, b) {
				t.Errorf("put, cut off after every %d: other bytes came", every)
			}
			get := &flaky{b: b, every: every, got: make([]int, 16)}
			e.answer = get.answer
			got, err := c.GetBlob(t.Context(), blob.Sum(b))
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("get, cut off after every %d: %d bytes, %v", every, len(got), err)
			}
			c.Close()
			e.done.Wait()
			for i, n := range put.got {
				if n != 1 {
					t.Errorf("cut off after every %d: chunk %d was sent %d times", every, i, n)
				}
			}
			asked := 0
			for _, n := range get.got {
				asked += n
			}
			if asked > blobWindow*len(get.got) { // what is under way when the relay hangs up is asked again
				t.Errorf("cut off after every %d: %d times asked for %d chunks", every, asked, len(get.got))
			}
		})
	}
}

// Closing ends what waits to be tried again.
func TestCloseWhileAPutWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := keeper(func(fr wire.Frame, send func(wire.Type, uint32, wire.Message)) {
			send(wire.TError, fr.ID, &wire.Error{Code: wire.CodeBusy, Wait: 60e9})
		})
		c := e.client(t)
		done := make(chan error)
		go func() { _, err := c.PutBlob(t.Context(), key.NewCapability(), []byte("x"), 100, nil); done <- err }()
		synctest.Wait()
		c.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("put: %v", err)
		}
		e.done.Wait()
	})
}
