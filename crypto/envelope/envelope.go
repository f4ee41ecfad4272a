// Package envelope seals and pads what a relay stores: messages and commits of a
// conversation, and letters to a device's inbox (spec/envelope.md). What it makes
// names nothing, and its length says little.
package envelope

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
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
	"sotto/crypto/key"
)

// Sizes, in bytes.
const (
	SecretSize = 48        // of an epoch's secret
	MaxSize    = 256 << 10 // of an envelope
	MaxMessage = 240 << 10 // of an MLSMessage in one
	floor      = 1 << 10   // padded to at least
	nonceSize  = chacha20poly1305.NonceSizeX
	tagSize    = 16
	frontSize  = 1 + nonceSize + tagSize
)

const version = 1

// The errors of this package.
var (
	ErrTooLarge = errors.New("too large for an envelope")
	ErrNotOurs  = errors.New("sealed under another key") // or damaged: nobody can tell
	ErrVersion  = errors.New("of a version that this program does not know")
	ErrPadding  = errors.New("padding that is not zero") // of a sender who does not keep to the format
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
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(message), MaxMessage)
	}
	size := max(floor, Padme(4+len(message)))
	plain := make([]byte, size)
	binary.BigEndian.PutUint32(plain, uint32(len(message)))
	copy(plain[4:], message)
	enc, _ := k.reveal()
	aead, err := chacha20poly1305.NewX(enc)
	if err != nil {
		return nil, fmt.Errorf("seal envelope: %w", err)
	}
	out := make([]byte, 0, frontSize+size+aead.Overhead())
	out = append(append(append(out, version), nonce[:]...), k.tag(nonce[:])...)
	return aead.Seal(out, nonce[:], plain, c.aad()), nil
}

// Match reports whether an envelope was sealed under these keys, from its front
// alone: the tag commits to the key.
func (k Keys) Match(envelope []byte) bool {
	return len(envelope) >= frontSize && hmac.Equal(envelope[1+nonceSize:frontSize], k.tag(envelope[1:1+nonceSize]))
}

// Open returns the MLSMessage of an envelope.
func (k Keys) Open(c Context, envelope []byte) ([]byte, error) {
	switch {
	case len(envelope) > MaxSize:
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(envelope), MaxSize)
	case len(envelope) > 0 && envelope[0] != version:
		return nil, fmt.Errorf("an envelope %w: %d", ErrVersion, envelope[0])
	case !k.Match(envelope):
		return nil, ErrNotOurs
	}
	enc, _ := k.reveal()
	aead, err := chacha20poly1305.NewX(enc)
	if err != nil {
		return nil, fmt.Errorf("open envelope: %w", err)
	}
	plain, err := aead.Open(nil, envelope[1:1+nonceSize], envelope[frontSize:], c.aad())
	if err != nil {
		return nil, fmt.Errorf("%w, or for another mailbox, kind or generation", ErrNotOurs)
	}
	return unpad(plain)
}

func unpad(plain []byte) ([]byte, error) {
	r := codec.NewReader(plain)
	n := r.U32()
	if uint64(n) > uint64(r.Len()) {
		r.Fail("a message of %d bytes", n)
	}
	message := r.Bytes(int(n))
	for _, b := range r.Rest() {
		if b != 0 {
			return nil, ErrPadding
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("an envelope: %w", err)
	}
	return message, nil
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

// Of inbox entries (spec/envelope.md, section 3), in bytes.
const (
	inboxStep = 16 << 10
	// MaxLetter is the largest body of an inbox entry.
	MaxLetter = 3*inboxStep - 1 - 4
)

// LetterType says what a letter is.
type LetterType uint8

// The types of letters.
const (
	ContactRequest LetterType = 1
	ContactAccept  LetterType = 2
	Welcome        LetterType = 3
)

func inboxInfo(mailbox [32]byte) []byte { return append([]byte("sotto/inbox/1"), mailbox[:]...) }

// SealLetter seals a letter to an inbox.
func SealLetter(to key.SealingPublic, mailbox [32]byte, t LetterType, body []byte) ([]byte, error) {
	if len(body) > MaxLetter {
		return nil, fmt.Errorf("%w: a letter of %d bytes, at most %d", ErrTooLarge, len(body), MaxLetter)
	}
	plain := codec.AppendVec([]byte{byte(t)}, body)
	plain = append(plain, make([]byte, (inboxStep-len(plain)%inboxStep)%inboxStep)...)
	sealed, err := hpke.Seal(to.HPKE(), hpke.HKDFSHA384(), hpke.AES256GCM(), inboxInfo(mailbox), plain)
	if err != nil {
		return nil, fmt.Errorf("seal letter: %w", err)
	}
	return append([]byte{version}, sealed...), nil
}

// OpenLetter opens an inbox entry. Anybody who knows the inbox can write rubbish
// there: an error concerns the entry alone.
func OpenLetter(k key.SealingSecret, mailbox [32]byte, entry []byte) (LetterType, []byte, error) {
	if len(entry) == 0 || entry[0] != version {
		return 0, nil, fmt.Errorf("a letter %w", ErrVersion)
	}
	if len(entry) > 1+1120+3*inboxStep+16 {
		return 0, nil, fmt.Errorf("%w: a letter of %d bytes", ErrTooLarge, len(entry))
	}
	plain, err := hpke.Open(k.HPKE(), hpke.HKDFSHA384(), hpke.AES256GCM(), inboxInfo(mailbox), entry[1:])
	if err != nil {
		return 0, nil, ErrNotOurs
	}
	r := codec.NewReader(plain)
	t, body := LetterType(r.U8()), r.Vec(MaxLetter)
	if len(plain)%inboxStep != 0 {
		r.Fail("a letter that is not padded")
	}
	for _, b := range r.Rest() {
		if b != 0 {
			return 0, nil, ErrPadding
		}
	}
	if err := r.Err(); err != nil {
		return 0, nil, fmt.Errorf("a letter: %w", err)
	}
	return t, body, nil
}
