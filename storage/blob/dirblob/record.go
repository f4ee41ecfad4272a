package dirblob

import (
	"encoding/binary"
	"errors"
	"fmt"

	"sotto/crypto/codec"
	"sotto/storage/blob"
	"sotto/storage/kv"
)

const recordVersion = 1

// record is what the index knows of a blob.
type record struct {
	blob.Terms
	sums [blob.MaxSize / blob.ChunkSize][32]byte // SHA-256 of each chunk that it has
}

func (r *record) fields(f *codec.Fields) {
	version := uint8(recordVersion)
	size := uint32(r.Size)
	f.U8(&version)
	f.U8((*uint8)(&r.Class))
	f.Array(r.Owner[:])
	f.U32((*uint32)(&r.Expires))
	f.U32(&size)
	if f.Reading() && (version != recordVersion || size < 1 || size > blob.MaxSize) {
		f.Fail("version %d, %d bytes", version, size)
		return
	}
	r.Size = int(size)
	for i := range blob.AllChunks(r.Size).Each() {
		f.Array(r.sums[i][:])
	}
}

// loadRecord returns nil if there is none.
func loadRecord(tx *kv.Tx, id blob.ID) (*record, error) {
	b, err := tx.Get(idKey('b', id))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeRecord(b)
}

func encodeRecord(r *record) []byte { return codec.Write(r.fields) }

func decodeRecord(b []byte) (*record, error) {
	r := &record{}
	if err := codec.Read(b, r.fields); err != nil {
		return nil, corrupt("record", err)
	}
	return r, nil
}

func encodeUsage(u blob.Usage) []byte {
	b := codec.AppendU64(codec.AppendU8(nil, recordVersion), uint64(u.Blobs))
	return codec.AppendU64(b, uint64(u.Bytes))
}

func decodeUsage(b []byte) (u blob.Usage, err error) {
	r := codec.NewReader(b)
	version := r.U8()
	u.Blobs, u.Bytes = int(r.U64()), int64(r.U64())
	if err = r.Done(); err == nil && (version != recordVersion || u.Blobs < 0 || u.Bytes < 0) {
		err = fmt.Errorf("version %d, %d blobs, %d bytes", version, u.Blobs, u.Bytes)
	}
	return u, err
}

func corrupt(what string, err error) error {
	return fmt.Errorf("%w: a %s of the index of blobs: %w", kv.ErrCorrupt, what, err)
}

func idKey(kind byte, id blob.ID) []byte { return append([]byte{kind}, id[:]...) }

func minuteKey(m blob.Minute, id blob.ID) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{'x'}, uint32(m)), id[:]...)
}

func parseMinuteKey(k []byte) (blob.Minute, blob.ID, bool) {
	if len(k) != 1+4+32 {
		return 0, blob.ID{}, false
	}
	return blob.Minute(binary.BigEndian.Uint32(k[1:])), blob.ID(k[5:]), true
}
