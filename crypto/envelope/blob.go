package envelope

import (
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
)

// Of sealed blobs (spec/envelope.md, section 4), in bytes.
const (
	// BlobKeySize is the length of a blob's key, which seals that blob alone.
	BlobKeySize = chacha20poly1305.KeySize
	blobStep    = 64 << 10 // padded to a multiple of
	blobFront   = 1 + chacha20poly1305.NonceSizeX
	// MaxBlob is the most that SealBlob seals, so that it fits a relay's blob.
	MaxBlob = 3 << 20
)

var blobLabel = []byte("sotto/blob/1")

// SealBlob seals bytes under a new key, which it returns, for a relay to keep.
func SealBlob(plain []byte) (sealed, key []byte, err error) {
	if len(plain) > MaxBlob {
		return nil, nil, fmt.Errorf("seal blob: %w: %d bytes, at most %d", ErrTooLarge, len(plain), MaxBlob)
	}
	key = make([]byte, BlobKeySize)
	front := append(make([]byte, 0, blobFront), version)
	front = front[:blobFront]
	rand.Read(key)
	rand.Read(front[1:])
	return sealBlob(plain, front, key), key, nil
}

func sealBlob(plain, front, key []byte) []byte {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		panic("envelope: " + err.Error()) // unreachable: the length is right
	}
	padded := append(codec.AppendU32(nil, uint32(len(plain))), plain...)
	padded = append(padded, make([]byte, -len(padded)&(blobStep-1))...)
	return aead.Seal(front, front[1:blobFront], padded, blobLabel)
}

// OpenBlob opens what SealBlob sealed. The error wraps [ErrNotOurs] for bytes that were
// not sealed under the key.
func OpenBlob(sealed, key []byte) ([]byte, error) {
	plain, err := openBlob(sealed, key)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return plain, nil
}

func openBlob(sealed, key []byte) ([]byte, error) {
	switch {
	case len(key) != BlobKeySize:
		return nil, fmt.Errorf("%w: a key of %d bytes", codec.ErrMalformed, len(key))
	case len(sealed) > 0 && sealed[0] != version:
		return nil, fmt.Errorf("%w: %d", ErrVersion, sealed[0])
	case len(sealed) < blobFront:
		return nil, fmt.Errorf("%w: %d bytes", codec.ErrMalformed, len(sealed))
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	padded, err := aead.Open(nil, sealed[1:blobFront], sealed[blobFront:], blobLabel)
	if err != nil {
		return nil, ErrNotOurs
	}
	r := codec.NewReader(padded)
	n := r.U32()
	if n > MaxBlob {
		r.Fail("%d bytes, at most %d", n, MaxBlob)
	}
	plain := r.Bytes(int(n))
	zeros := r.Rest()
	if err := r.Err(); err != nil {
		return nil, err
	}
	if len(padded)%blobStep != 0 || !allZero(zeros) {
		return nil, ErrPadding
	}
	return plain, nil
}
