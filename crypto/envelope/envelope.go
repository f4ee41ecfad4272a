// Package envelope seals and pads what a relay stores: messages and commits of a
// conversation, letters to a device's inbox, and what is too large for either
// (spec/envelope.md). What it makes names nothing, and its length says little.
package envelope

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"

	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
)

// Sizes, in bytes.
const (
	SecretSize = 48        // of an epoch's secret
	MaxSize    = 256 << 10 // of an envelope
	MaxMessage = 240 << 10 // of an MLSMessage in one
	floor      = 1 << 10   // padded to at least
	lengthSize = 4         // in front of the message
	nonceSize  = chacha20poly1305.NonceSizeX
	tagSize    = 16
	frontSize  = 1 + nonceSize + tagSize // version, nonce, tag
	minSize    = frontSize + floor + chacha20poly1305.Overhead
)

const version = 1

// The errors of this package. What is too short to be anything, or wrong within,
// wraps [codec.ErrMalformed].
var (
	// ErrTooLarge is about what is longer than the format allows.
	ErrTooLarge = errors.New("too large")
	// ErrVersion is about what another version of the format has made.
	ErrVersion = errors.New("of a version that this program does not know")
	// ErrNotOurs is about an envelope of another epoch, and about a letter that does
	// not open: whose key it was sealed to, or what was changed, nobody can tell.
	ErrNotOurs = errors.New("sealed under another key")
	// ErrDamaged is about an envelope that was sealed under these keys and is not
	// what was sealed, or not where it was sealed for.
	ErrDamaged = errors.New("changed on the way, or meant for another mailbox, kind or generation")
	// ErrPadding is about a sender who does not keep to the format.
	ErrPadding = errors.New("padding that is not as the format has it")
)

// Context is what an envelope is bound to: it opens nowhere else.
type Context struct {
	Mailbox    [32]byte
	Kind       uint8 // message or commit
	Generation uint32
}

func (c Context) aad() []byte {
	b := append([]byte("sotto/env/1"), c.Mailbox[:]...)
	return codec.AppendU32(codec.AppendU8(b, c.Kind), c.Generation)
}

// Keys seals and opens the envelopes of one epoch. It prints without its secrets.
type Keys struct{ reveal func() (enc, tag []byte) }

// NewKeys derives the keys from an epoch's secret (spec/envelope.md, section 1).
func NewKeys(secret []byte) (Keys, error) {
	if len(secret) != SecretSize {
		return Keys{}, fmt.Errorf("envelope keys: a secret of %d bytes, want %d", len(secret), SecretSize)
	}
	enc, err := hkdf.Expand(sha512.New384, secret, "enc", chacha20poly1305.KeySize)
	if err != nil {
		return Keys{}, fmt.Errorf("envelope keys: %w", err)
	}
	tag, err := hkdf.Expand(sha512.New384, secret, "tag", sha256.Size)
	if err != nil {
		return Keys{}, fmt.Errorf("envelope keys: %w", err)
	}
	return Keys{func() ([]byte, []byte) { return enc, tag }}, nil
}

func (k Keys) String() string { return "envelope keys" }

// Format implements [fmt.Formatter]: every verb prints String.
func (k Keys) Format(w fmt.State, verb rune) { io.WriteString(w, k.String()) }

// LogValue implements [slog.LogValuer].
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

func (k Keys) tag(nonce []byte) []byte {
	_, key := k.reveal()
	h := hmac.New(sha256.New, key)
	h.Write(nonce)
	return h.Sum(nil)[:tagSize]
}

// Seal seals an MLSMessage of at most MaxMessage bytes.
func (k Keys) Seal(c Context, message []byte) ([]byte, error) {
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	return k.seal(c, message, nonce)
}

func (k Keys) seal(c Context, message []byte, nonce [nonceSize]byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return nil, fmt.Errorf("seal envelope: %w: a message of %d bytes, at most %d", ErrTooLarge, len(message), MaxMessage)
	}
	return k.sealPadded(c, pad(message), nonce)
}

func (k Keys) sealPadded(c Context, padded []byte, nonce [nonceSize]byte) ([]byte, error) {
	enc, _ := k.reveal()
	aead, err := chacha20poly1305.NewX(enc)
	if err != nil {
		return nil, fmt.Errorf("seal envelope: %w", err)
	}
	out := make([]byte, 0, frontSize+len(padded)+aead.Overhead())
	out = append(append(append(out, version), nonce[:]...), k.tag(nonce[:])...)
	return aead.Seal(out, nonce[:], padded, c.aad()), nil
}

// Match reports whether an envelope was sealed under these keys, from its front
// alone: the tag commits to the key.
func (k Keys) Match(envelope []byte) bool {
	return len(envelope) >= frontSize && hmac.Equal(envelope[1+nonceSize:frontSize], k.tag(envelope[1:1+nonceSize]))
}

// Open returns the MLSMessage of an envelope.
func (k Keys) Open(c Context, envelope []byte) ([]byte, error) {
	message, err := k.open(c, envelope)
	if err != nil {
		return nil, fmt.Errorf("open envelope: %w", err)
	}
	return message, nil
}

func (k Keys) open(c Context, envelope []byte) ([]byte, error) {
	switch {
	case len(envelope) > 0 && envelope[0] != version:
		return nil, fmt.Errorf("%w: %d", ErrVersion, envelope[0])
	case len(envelope) < minSize:
		return nil, fmt.Errorf("%w: %d bytes, at least %d", codec.ErrMalformed, len(envelope), minSize)
	case len(envelope) > MaxSize:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(envelope), MaxSize)
	case !k.Match(envelope):
		return nil, ErrNotOurs
	}
	enc, _ := k.reveal()
	aead, err := chacha20poly1305.NewX(enc)
	if err != nil {
		return nil, err
	}
	padded, err := aead.Open(nil, envelope[1:1+nonceSize], envelope[frontSize:], c.aad())
	if err != nil {
		return nil, ErrDamaged
	}
	return unpad(padded)
}

// paddedSize is the size of a message of n bytes once it is padded.
func paddedSize(n int) int { return max(floor, Padme(lengthSize+n)) }

func pad(message []byte) []byte {
	b := make([]byte, paddedSize(len(message)))
	binary.BigEndian.PutUint32(b, uint32(len(message)))
	copy(b[lengthSize:], message)
	return b
}

// unpad undoes pad and takes nothing else: a sender whose padding is its own would be
// known by it.
func unpad(padded []byte) ([]byte, error) {
	r := codec.NewReader(padded)
	n := r.U32()
	if n > MaxMessage {
		return nil, fmt.Errorf("%w: a message of %d bytes, at most %d", ErrTooLarge, n, MaxMessage)
	}
	message := r.Bytes(int(n))
	zeros := r.Rest()
	if err := r.Err(); err != nil {
		return nil, err
	}
	if len(padded) != paddedSize(len(message)) || !allZero(zeros) {
		return nil, ErrPadding
	}
	return message, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Padme rounds n up so that lengths of like size become equal: to a multiple of
// 2^(e-s), with e = floor(log2 n) and s = floor(log2 e) + 1. It adds at most 12 %.
func Padme(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	step := 1 << max(e-s, 0)
	return (n + step - 1) &^ (step - 1)
}
