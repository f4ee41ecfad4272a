package identity

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/tyler-smith/go-bip39"

	"sotto/crypto/key"
)

// SeedSize is the length of a recovery seed in bytes.
const SeedSize = 32

// Words is how many words a recovery seed is written with.
const Words = 24

// ErrChecksum is returned for 24 words of the list that do not fit together: at
// least one is another than was written down, or two have changed places.
var ErrChecksum = errors.New("the recovery words do not fit together: one is wrong, or the order is")

// A WordError says what is wrong with recovery words, by position, never by
// word: every one of them is part of a secret.
type WordError struct {
	// Position of the first word that is not in the list, from 1; 0 if it is
	// only their number that is wrong.
	Position int
	Count    int // how many words there were
}

func (e *WordError) Error() string {
	if e.Position == 0 {
		return fmt.Sprintf("%d recovery words, want %d", e.Count, Words)
	}
	return fmt.Sprintf("recovery word %d is not in the word list", e.Position)
}

// Seed is the recovery seed of an account, from which every generation of its
// account key is derived. Whoever has it is the owner. The zero value is none.
type Seed struct{ reveal func() [SeedSize]byte }

// NewSeed makes a seed from the system's randomness.
func NewSeed() Seed {
	var b [SeedSize]byte
	rand.Read(b[:]) // does not fail
	return Seed{func() [SeedSize]byte { return b }}
}

// SeedFromBytes returns the seed of 32 bytes. It panics on any other number.
func SeedFromBytes(b []byte) Seed {
	if len(b) != SeedSize {
		panic(fmt.Sprintf("identity: a seed of %d bytes", len(b)))
	}
	s := [SeedSize]byte(b)
	return Seed{func() [SeedSize]byte { return s }}
}

// ParseWords reads 24 words in the order they were written down; case and the
// space between them do not matter. The error is a [*WordError] or [ErrChecksum].
func ParseWords(text string) (Seed, error) {
	words := strings.Fields(strings.ToLower(text))
	if len(words) != Words {
		return Seed{}, &WordError{Count: len(words)}
	}
	for i, w := range words {
		if _, ok := bip39.GetWordIndex(w); !ok {
			return Seed{}, &WordError{Position: i + 1, Count: len(words)}
		}
	}
	b, err := bip39.EntropyFromMnemonic(strings.Join(words, " "))
	if err != nil || len(b) != SeedSize {
		return Seed{}, ErrChecksum // its own error could name a word
	}
	return SeedFromBytes(b), nil
}

// Words returns the 24 words of s, separated by spaces. They are the secret.
func (s Seed) Words() string {
	b := s.reveal()
	words, err := bip39.NewMnemonic(b[:])
	if err != nil {
		panic("identity: " + err.Error()) // unreachable: 32 bytes have 24 words
	}
	return words
}

// AccountKey derives the account key of a generation; the first is 0.
func (s Seed) AccountKey(generation uint8) key.AccountSecret {
	return key.NewAccount(s.derive("sotto/aik/1" + string([]byte{generation})))
}

// VaultKey derives the key of the vault's recovery slot. The caller clears it.
func (s Seed) VaultKey() []byte { return s.derive("sotto/vault/1") }

func (s Seed) derive(info string) []byte {
	b := s.reveal()
	defer clear(b[:])
	out, err := hkdf.Key(sha256.New, b[:], nil, info, 32)
	if err != nil {
		panic("identity: " + err.Error()) // unreachable: the length is fixed
	}
	return out
}

// IsZero reports whether s is no seed.
func (s Seed) IsZero() bool { return s.reveal == nil }

func (s Seed) String() string {
	if s.reveal == nil {
		return "no recovery seed"
	}
	return "a recovery seed"
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s Seed) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Seed) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText lets JSON and the like show String. There is no way back.
func (s Seed) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
