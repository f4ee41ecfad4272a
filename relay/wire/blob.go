package wire

import (
	"sotto/crypto/codec"
	"sotto/storage/blob"
)

// The frames of spec/relay.md, section 8.
const (
	TBlobCreate Type = 0x30
	TBlobWrite  Type = 0x31
	TBlobRead   Type = 0x32
	TBlobStat   Type = 0x33
	TBlobRenew  Type = 0x34
	TBlobDelete Type = 0x35
	TBlobAudit  Type = 0x36
)

// RoleBlobOwner is the role of who owns blobs. Its object is the owner's key itself:
// one proof is good for all blobs of that key, and needs no look-up.
const RoleBlobOwner Role = 6

// FeatureBlobs is the bit in a relay's Hello that says that it keeps blobs.
const FeatureBlobs uint64 = 1

// BlobCreate begins or resumes an upload, or says that the blob is there.
type BlobCreate struct {
	Owner   blob.Owner
	Blob    blob.ID
	Size    uint32
	Expires blob.Minute
	Ticket  []byte
}

func (m *BlobCreate) fields(f *codec.Fields) {
	f.Array(m.Owner[:])
	f.Array(m.Blob[:])
	f.U32(&m.Size)
	f.U32((*uint32)(&m.Expires))
	f.Vec(255, &m.Ticket)
}

// BlobWrite brings a chunk.
type BlobWrite struct {
	Owner blob.Owner
	Blob  blob.ID
	Chunk uint8
	Data  []byte
}

func (m *BlobWrite) fields(f *codec.Fields) {
	f.Array(m.Owner[:])
	f.Array(m.Blob[:])
	f.U8(&m.Chunk)
	f.Vec(blob.ChunkSize, &m.Data)
}

// BlobMissing is the answer to both: the chunks that are missing. If none is, the
// blob is durable.
type BlobMissing struct{ Chunks blob.Chunks }

func (m *BlobMissing) fields(f *codec.Fields) { f.U32((*uint32)(&m.Chunks)) }

// BlobRead asks for bytes of a blob, at most blob.MaxRead.
type BlobRead struct {
	Blob   blob.ID
	Offset uint32
	Length uint32
}

func (m *BlobRead) fields(f *codec.Fields) {
	f.Array(m.Blob[:])
	f.U32(&m.Offset)
	f.U32(&m.Length)
}

// BlobData is the answer to it: as many bytes as there are of those asked for, and
// how many the blob has.
type BlobData struct {
	Size uint32
	Data []byte
}

func (m *BlobData) fields(f *codec.Fields) {
	f.U32(&m.Size)
	f.Vec(blob.MaxRead, &m.Data)
}

// BlobInfo is what there is to know of a blob: the answer to BLOB_STAT.
type BlobInfo struct {
	Size    uint32
	Expires blob.Minute
}

func (m *BlobInfo) fields(f *codec.Fields) {
	f.U32(&m.Size)
	f.U32((*uint32)(&m.Expires))
}

// BlobRenew asks to keep a blob longer.
type BlobRenew struct {
	Owner   blob.Owner
	Blob    blob.ID
	Expires blob.Minute
}

func (m *BlobRenew) fields(f *codec.Fields) {
	f.Array(m.Owner[:])
	f.Array(m.Blob[:])
	f.U32((*uint32)(&m.Expires))
}

// BlobRenewed is the answer to it.
type BlobRenewed struct{ Expires blob.Minute }

func (m *BlobRenewed) fields(f *codec.Fields) { f.U32((*uint32)(&m.Expires)) }

// BlobDelete removes a blob or an upload.
type BlobDelete struct {
	Owner blob.Owner
	Blob  blob.ID
}

func (m *BlobDelete) fields(f *codec.Fields) {
	f.Array(m.Owner[:])
	f.Array(m.Blob[:])
}

// BlobAudit asks for a proof that the blob is held.
type BlobAudit struct {
	Blob  blob.ID
	Nonce Nonce
}

func (m *BlobAudit) fields(f *codec.Fields) {
	f.Array(m.Blob[:])
	f.Array(m.Nonce[:])
}

// BlobProof is the answer to it: HMAC-SHA-256(nonce, blob).
type BlobProof struct{ MAC [32]byte }

func (m *BlobProof) fields(f *codec.Fields) { f.Array(m.MAC[:]) }
