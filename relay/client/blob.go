package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/blob"
)

// Errors about blobs.
var (
	ErrNoBlobs   = errors.New("the relay keeps no blobs")
	ErrWrongBlob = errors.New("what the relay gives out is not the blob")
	ErrAudit     = errors.New("the relay does not hold the blob")
)

const (
	blobWindow = 4 // chunks under way at once
	blobTries  = 5 // in a row that bring nothing on
	blobSlower = 3 // times Timeout for a chunk: it is large, and others are before it
)

// errBegunAnew is why chunks are sent again.
var errBegunAnew = errors.New("the relay has lost the upload")

// PutBlob stores bytes at the relay until a minute, and returns their id. The owner's key
// renews and deletes them. It sends what the relay lacks, goes on where it was when
// the connection is lost, and gives up when that happens again and again, or for an
// answer that will not change. An error that is mailbox.ErrUnknown does not say
// whether the blob was stored; a repeat costs little.
func (c *Client) PutBlob(ctx context.Context, owner key.CapabilitySecret, b []byte, expires blob.Minute, ticket []byte) (blob.ID, error) {
	id := blob.Sum(b)
	create := &wire.BlobCreate{Owner: ownerID(owner), Blob: id, Size: uint32(len(b)), Expires: expires, Ticket: ticket}
	if len(b) == 0 || len(b) > blob.MaxSize {
		return id, fmt.Errorf("put blob: %w: %d bytes", blob.ErrTooLarge, len(b))
	}
	all := blob.AllChunks(len(b))
	missing := func(m *wire.BlobMissing, err error) (blob.Chunks, error) {
		if err == nil && m.Chunks&^all != 0 {
			err = fmt.Errorf("%w: it lacks chunks that the blob has not", ErrProtocol)
		}
		return m.Chunks, err
	}
	left := all
	return id, c.keepOn(ctx, func() (progress, done bool, err error) {
		now, err := missing(blobCall(ctx, c, "create blob", 1, wire.TBlobCreate, create, &wire.BlobMissing{}, ownership(owner)...))
		if err != nil || now == 0 {
			return false, now == 0, err
		}
		progress = now&left != left
		left &= now
		err = each(ctx, now, func(ctx context.Context, i int) error {
			m := &wire.BlobWrite{Owner: create.Owner, Blob: id, Chunk: uint8(i), Data: blob.Chunk(b, i)}
			now, err := missing(blobCall(ctx, c, "write blob", blobSlower, wire.TBlobWrite, m, &wire.BlobMissing{}, ownership(owner)...))
			if errors.Is(err, blob.ErrNotFound) {
				err = fmt.Errorf("%w: %w", errBegunAnew, err)
			}
			if err == nil && now == 0 {
				err = errAllThere
			}
			return err
		})
		if errors.Is(err, errAllThere) {
			return false, true, nil
		}
		if err == nil {
			err = errBegunAnew
		}
		return progress, false, err
	})
}

// errAllThere ends an upload that is stored.
var errAllThere = errors.New("stored")

// GetBlob returns a blob, which is what its id says or an error: ErrWrongBlob for a
// relay that gives out anything else. It goes on where it was when the connection
// is lost, and gives up when that happens again and again.
func (c *Client) GetBlob(ctx context.Context, id blob.ID) ([]byte, error) {
	var b []byte // once its size is known
	var mu sync.Mutex
	missing := blob.Chunks(1)
	read := func(ctx context.Context, i int) error {
		m := &wire.BlobRead{Blob: id, Offset: uint32(i * blob.ChunkSize), Length: blob.ChunkSize}
		d, err := blobCall(ctx, c, "read blob", blobSlower, wire.TBlobRead, m, &wire.BlobData{})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if b == nil && d.Size >= 1 && d.Size <= blob.MaxSize {
			b = make([]byte, d.Size)
			missing = blob.AllChunks(len(b))
		}
		if int(d.Size) != len(b) || len(d.Data) != blob.ChunkLen(len(b), i) {
			return fmt.Errorf("read blob: %w: %d bytes of %d at %d, where %d were before", ErrWrongBlob, len(d.Data), d.Size, m.Offset, len(b))
		}
		copy(b[m.Offset:], d.Data)
		missing = missing.Without(i)
		return nil
	}
	err := c.keepOn(ctx, func() (progress, done bool, err error) {
		before := missing
		err = each(ctx, missing, read)
		return missing != before, missing == 0, err
	})
	if err != nil {
		return nil, err
	}
	if blob.Sum(b) != id {
		return nil, fmt.Errorf("read blob: %w: its hash is another", ErrWrongBlob)
	}
	return b, nil
}

// StatBlob returns how large a blob is and when it expires, as the relay says.
func (c *Client) StatBlob(ctx context.Context, id blob.ID) (blob.Info, error) {
	m, err := blobCall(ctx, c, "stat blob", 1, wire.TBlobStat, &wire.Object{ID: id}, &wire.BlobInfo{})
	if err == nil && (m.Size < 1 || m.Size > blob.MaxSize) {
		err = fmt.Errorf("stat blob: %w: a blob of %d bytes", ErrProtocol, m.Size)
	}
	return blob.Info{Size: int(m.Size), Expires: m.Expires}, err
}

// RenewBlob keeps a blob at least until a minute, and returns when it expires.
func (c *Client) RenewBlob(ctx context.Context, owner key.CapabilitySecret, id blob.ID, expires blob.Minute) (blob.Minute, error) {
	q := &wire.BlobRenew{Owner: ownerID(owner), Blob: id, Expires: expires}
	m, err := blobCall(ctx, c, "renew blob", 1, wire.TBlobRenew, q, &wire.BlobRenewed{}, ownership(owner)...)
	if err == nil && m.Expires < expires {
		err = fmt.Errorf("renew blob: %w: it expires before the minute asked for", ErrProtocol)
	}
	return m.Expires, err
}

// DeleteBlob removes a blob or an upload. It returns an error that is
// blob.ErrNotFound if there is none of this owner, as after the same request before.
func (c *Client) DeleteBlob(ctx context.Context, owner key.CapabilitySecret, id blob.ID) error {
	_, err := blobCall(ctx, c, "delete blob", 1, wire.TBlobDelete, &wire.BlobDelete{Owner: ownerID(owner), Blob: id}, &wire.Empty{}, ownership(owner)...)
	return err
}

// AuditBlob asks the relay a question that only who holds the blob can answer. It
// returns ErrAudit for a wrong answer, and an error that is blob.ErrNotFound or
// blob.ErrDamaged from a relay that says so itself.
func (c *Client) AuditBlob(ctx context.Context, id blob.ID, a blob.Audit) error {
	m, err := blobCall(ctx, c, "audit blob", 1, wire.TBlobAudit, &wire.BlobAudit{Blob: id, Nonce: a.Nonce}, &wire.BlobProof{})
	if err == nil && m.MAC != a.MAC {
		err = fmt.Errorf("audit blob: %w", ErrAudit)
	}
	return err
}

func ownerID(k key.CapabilitySecret) blob.Owner { return blob.Owner(k.Public().Bytes()) }

func ownership(k key.CapabilitySecret) []Capability {
	return []Capability{{wire.Claim{Role: wire.RoleBlobOwner, Object: ownerID(k)}, k}}
}

// blobCall asks a relay that keeps blobs. The answer is never nil.
func blobCall[M wire.Message](ctx context.Context, c *Client, op string, slower time.Duration, t wire.Type, q wire.Message, answer M, caps ...Capability) (M, error) {
	ctx, cancel := context.WithTimeout(ctx, slower*c.cfg.Timeout)
	defer cancel()
	s, err := c.session(ctx)
	if err == nil && s.features&wire.FeatureBlobs == 0 {
		err = ErrNoBlobs
	}
	if err != nil {
		return answer, fmt.Errorf("%s: %w", op, err)
	}
	b, err := c.callWithin(ctx, slower*c.cfg.Timeout, op, t, still(q), caps...)
	return decode(c, b, err, answer)
}

// each does something with chunks, some at once, until all are done or one fails.
func each(ctx context.Context, chunks blob.Chunks, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	window := make(chan struct{}, blobWindow)
	var wg sync.WaitGroup
	for i := range chunks.Each() {
		window <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-window }()
			if err := do(ctx, i); err != nil {
				cancel(err) // only the first counts
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// keepOn does something again and again until it is done, or fails for good, or
// has failed too often without having made progress.
func (c *Client) keepOn(ctx context.Context, do func() (progress, done bool, err error)) error {
	for failures := 0; ; {
		progress, done, err := do()
		switch {
		case err == nil && done:
			return nil
		case err != nil && !passing(err), ctx.Err() != nil:
			return err
		case progress:
			failures = 0
		case err != nil:
			if failures++; failures >= blobTries {
				return err
			}
		}
		if err == nil {
			continue
		}
		wait := backoff(failures)
		var we *wire.Error
		if errors.As(err, &we) {
			wait = max(wait, min(we.Wait, longestWait))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		case <-c.ctx.Done():
			t.Stop()
			return ErrClosed
		}
	}
}

// passing reports whether what failed may go well another time.
func passing(err error) bool {
	var we *wire.Error
	if errors.As(err, &we) && (we.Code == wire.CodeBusy || we.Code == wire.CodeMismatch) {
		return true // with what was sent, or with what came of it at the relay
	}
	return errors.Is(err, mailbox.ErrUnknown) || errors.Is(err, ErrLost) || errors.Is(err, ErrUnreachable) || errors.Is(err, errBegunAnew)
}
