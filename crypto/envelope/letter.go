package envelope

import (
	"crypto/hpke"
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// Of letters (spec/envelope.md, section 3), in bytes.
const (
	letterStep = 16 << 10 // padded to a multiple of
	maxPadded  = 3 * letterStep
	encSize    = 1120 // of what X-Wing encapsulates
	gcmTagSize = 16
	maxEntry   = 1 + encSize + maxPadded + gcmTagSize
	minEntry   = 1 + encSize + letterStep + gcmTagSize
	// MaxLetter is the largest body of a letter.
	MaxLetter = maxPadded - 1 - 4 // type, length
)

// LetterType says what a letter is.
type LetterType uint8

// The types of letters. A letter of another type is of a later version.
const (
	ContactRequest LetterType = 1
	ContactAccept  LetterType = 2
	Welcome        LetterType = 3
	LinkRequest    LetterType = 12
	LinkAnswer     LetterType = 13
	LinkMessage    LetterType = 14
)

func letterInfo(mailbox [32]byte) []byte { return append([]byte("sotto/inbox/1"), mailbox[:]...) }

// SealLetter seals a letter to a device and returns the entry for its inbox.
func SealLetter(to key.SealingPublic, mailbox [32]byte, t LetterType, body []byte) ([]byte, error) {
	if len(body) > MaxLetter {
		return nil, fmt.Errorf("seal letter: %w: %d bytes, at most %d", ErrTooLarge, len(body), MaxLetter)
	}
	return sealLetter(to, mailbox, padLetter(t, body))
}

func sealLetter(to key.SealingPublic, mailbox [32]byte, padded []byte) ([]byte, error) {
	sealed, err := hpke.Seal(to.HPKE(), hpke.HKDFSHA384(), hpke.AES256GCM(), letterInfo(mailbox), padded)
	if err != nil {
		return nil, fmt.Errorf("seal letter: %w", err)
	}
	return append([]byte{version}, sealed...), nil
}

// OpenLetter opens an entry of an inbox. Anybody who knows the inbox can write rubbish
// there: an error concerns the entry alone.
func OpenLetter(k key.SealingSecret, mailbox [32]byte, entry []byte) (LetterType, []byte, error) {
	t, body, err := openLetter(k, mailbox, entry)
	if err != nil {
		return 0, nil, fmt.Errorf("open letter: %w", err)
	}
	return t, body, nil
}

func openLetter(k key.SealingSecret, mailbox [32]byte, entry []byte) (LetterType, []byte, error) {
	switch {
	case len(entry) > 0 && entry[0] != version:
		return 0, nil, fmt.Errorf("%w: %d", ErrVersion, entry[0])
	case len(entry) < minEntry:
		return 0, nil, fmt.Errorf("%w: %d bytes, at least %d", codec.ErrMalformed, len(entry), minEntry)
	case len(entry) > maxEntry:
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(entry), maxEntry)
	}
	padded, err := hpke.Open(k.HPKE(), hpke.HKDFSHA384(), hpke.AES256GCM(), letterInfo(mailbox), entry[1:])
	if err != nil {
		return 0, nil, ErrNotOurs
	}
	return unpadLetter(padded)
}

func padLetter(t LetterType, body []byte) []byte {
	b := codec.AppendVec([]byte{byte(t)}, body)
	return append(b, make([]byte, -len(b)&(letterStep-1))...)
}

// unpadLetter takes more steps than needed: a sender may hide which of two letters the
// longer is.
func unpadLetter(padded []byte) (LetterType, []byte, error) {
	r := codec.NewReader(padded)
	t, body, zeros := LetterType(r.U8()), r.Vec(MaxLetter), r.Rest()
	if err := r.Err(); err != nil {
		return 0, nil, err
	}
	if len(padded)%letterStep != 0 || !allZero(zeros) {
		return 0, nil, ErrPadding
	}
	return t, body, nil
}
