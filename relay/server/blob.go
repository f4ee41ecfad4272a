package server

import (
	"context"
	"time"

	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/blob"
)

// audits is how many blobs are looked through at once for those who ask for a proof:
// the request is small and the work is not.
const audits = 4

// blobCopies is how often what a client reads of a blob is in memory until it is sent:
// read, in the answer, and in its frame.
const blobCopies = 3

// dispatchBlob begins a request about blobs. What an owner asks for is denied unless
// the session speaks for the owner; the store compares that with whose the blob is.
func (ss *session) dispatchBlob(fr wire.Frame) bool {
	store, ctx := ss.s.cfg.Blobs, ss.s.ctx
	request := func(m wire.Message, f func() (wire.Message, error)) bool {
		if wire.Decode(fr.Body, m) != nil {
			return ss.malformed(fr.ID)
		}
		return ss.begin(fr, func() {
			out, err := f()
			ss.reply(fr.ID, out, err)
		})
	}
	owned := func(m wire.Message, owner *blob.Owner, f func() (wire.Message, error)) bool {
		return request(m, func() (wire.Message, error) {
			if !ss.access.Owns(*owner) {
				return nil, blob.ErrNotFound
			}
			return f()
		})
	}
	switch fr.Type {
	case wire.TBlobCreate:
		var m wire.BlobCreate
		return owned(&m, &m.Owner, func() (wire.Message, error) { return ss.createBlob(ctx, &m) })
	case wire.TBlobWrite:
		var m wire.BlobWrite
		return owned(&m, &m.Owner, func() (wire.Message, error) {
			missing, err := store.Write(ctx, m.Blob, m.Owner, int(m.Chunk), m.Data)
			return &wire.BlobMissing{Chunks: missing}, err
		})
	case wire.TBlobRenew:
		var m wire.BlobRenew
		return owned(&m, &m.Owner, func() (wire.Message, error) {
			expires, err := store.Renew(ctx, m.Blob, m.Owner, m.Expires)
			return &wire.BlobRenewed{Expires: expires}, err
		})
	case wire.TBlobDelete:
		var m wire.BlobDelete
		return owned(&m, &m.Owner, func() (wire.Message, error) { return &wire.Empty{}, store.Delete(ctx, m.Blob, m.Owner) })

	case wire.TBlobStat:
		var m wire.Object
		return request(&m, func() (wire.Message, error) {
			info, err := store.Stat(ctx, m.ID)
			return &wire.BlobInfo{Size: uint32(info.Size), Expires: info.Expires}, err
		})
	case wire.TBlobRead:
		var m wire.BlobRead
		if wire.Decode(fr.Body, &m) != nil {
			return ss.malformed(fr.ID)
		}
		n := int(min(m.Length, blob.MaxRead))
		return ss.beginHolding(fr.ID, len(fr.Body)+blobCopies*n, func() {
			info, err := store.Stat(ctx, m.Blob)
			var b []byte
			if err == nil {
				b, err = store.Read(ctx, m.Blob, int(min(m.Offset, blob.MaxSize)), n)
			}
			ss.reply(fr.ID, &wire.BlobData{Size: uint32(info.Size), Data: b}, err)
		})
	case wire.TBlobAudit:
		var m wire.BlobAudit
		return request(&m, func() (wire.Message, error) {
			ss.audit <- struct{}{} // one of them at a time is this session's
			ss.s.audits <- struct{}{}
			defer func() { <-ss.s.audits; <-ss.audit }()
			mac, err := blob.AnswerFrom(ctx, store, m.Blob, m.Nonce)
			return &wire.BlobProof{MAC: mac}, err
		})
	}
	return ss.malformed(fr.ID)
}

func (ss *session) createBlob(ctx context.Context, m *wire.BlobCreate) (wire.Message, error) {
	t := blob.Terms{Size: int(m.Size), Owner: m.Owner, Expires: m.Expires}
	if err := t.Check(blob.Minute(mailbox.MinuteOf(ss.s.cfg.Clock()))); err != nil {
		return nil, err // before it is counted
	}
	var err error
	if t.Class, err = ss.s.blobLimiter.Upload(ss.addr, m.Ticket, t.Size); err != nil {
		return nil, &wire.Error{Code: wire.CodeRefused, Wait: time.Minute}
	}
	missing, err := ss.s.cfg.Blobs.Create(ctx, m.Blob, t)
	return &wire.BlobMissing{Chunks: missing}, err
}
