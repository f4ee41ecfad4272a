package key

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
)

// NoisePublic is the static X25519 key of one side of a handshake.
type NoisePublic struct{ b [Size]byte }

// NoiseSecret is the secret half of a [NoisePublic]. It prints as such.
type NoiseSecret struct {
	reveal func() *ecdh.PrivateKey
}

// NewNoise makes a static handshake key from the system's randomness.
func NewNoise() NoiseSecret {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("key: " + err.Error()) // unreachable: crypto/rand does not fail
	}
	return NoiseSecret{func() *ecdh.PrivateKey { return k }}
}

// NoiseFromSeed makes the key of a stored 32-byte seed. It panics on any other length.
func NoiseFromSeed(seed []byte) NoiseSecret {
	k, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		panic("key: " + err.Error())
	}
	return NoiseSecret{func() *ecdh.PrivateKey { return k }}
}

// ParseNoise returns the key whose 32 bytes are b.
func ParseNoise(b []byte) (NoisePublic, error) {
	if len(b) != Size {
		return NoisePublic{}, fmt.Errorf("%w: %d bytes, want %d", ErrBadKey, len(b), Size)
	}
	return NoisePublic{[Size]byte(b)}, nil
}

// Bytes returns the 32 bytes of p.
func (p NoisePublic) Bytes() []byte { return append([]byte(nil), p.b[:]...) }

// Append appends the 32 bytes of p to b.
func (p NoisePublic) Append(b []byte) []byte { return append(b, p.b[:]...) }

// IsZero reports whether s holds no key.
func (s NoiseSecret) IsZero() bool { return s.reveal == nil }

// Public returns the public half.
func (s NoiseSecret) Public() NoisePublic {
	return NoisePublic{[Size]byte(s.reveal().PublicKey().Bytes())}
}

// Seed returns a copy of the secret's 32 bytes.
func (s NoiseSecret) Seed() []byte { return s.reveal().Bytes() }

func (s NoiseSecret) String() string {
	if s.reveal == nil {
		return "no secret noise"
	}
	return "a noise secret"
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s NoiseSecret) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s NoiseSecret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText lets JSON and the like show String. There is no way back.
func (s NoiseSecret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SealingSize is the length in bytes of a [SealingPublic].
const SealingSize = 1216

// SealingPublic is an X-Wing key to which things are sealed: a device's inbox,
// or the post-quantum half of an invite.
type SealingPublic struct{ k hpke.PublicKey }

// SealingSecret is the secret half of a [SealingPublic]. It prints as such.
type SealingSecret struct {
	reveal func() hpke.PrivateKey
}

// xwing is HPKE's KEM 0x647a.
func xwing() hpke.KEM { return hpke.MLKEM768X25519() }

// NewSealing makes an X-Wing key from the system's randomness.
func NewSealing() SealingSecret {
	k, err := xwing().GenerateKey()
	if err != nil {
		panic("key: " + err.Error()) // unreachable: crypto/rand does not fail
	}
	return SealingSecret{func() hpke.PrivateKey { return k }}
}

// SealingFromSeed makes the key of a stored 32-byte seed. It panics on any other length.
func SealingFromSeed(seed []byte) SealingSecret {
	k, err := xwing().NewPrivateKey(seed)
	if err != nil {
		panic("key: " + err.Error())
	}
	return SealingSecret{func() hpke.PrivateKey { return k }}
}

// ParseSealing returns the key whose 1216 bytes are b.
func ParseSealing(b []byte) (SealingPublic, error) {
	k, err := xwing().NewPublicKey(b)
	if err != nil {
		return SealingPublic{}, fmt.Errorf("%w: %v", ErrBadKey, err)
	}
	return SealingPublic{k}, nil
}

// Bytes returns the 1216 bytes of p.
func (p SealingPublic) Bytes() []byte { return p.k.Bytes() }

// HPKE returns p for use with package crypto/hpke.
func (p SealingPublic) HPKE() hpke.PublicKey { return p.k }

// IsZero reports whether p holds no key.
func (p SealingPublic) IsZero() bool { return p.k == nil }

// IsZero reports whether s holds no key.
func (s SealingSecret) IsZero() bool { return s.reveal == nil }

// Public returns the public half.
func (s SealingSecret) Public() SealingPublic { return SealingPublic{s.reveal().PublicKey()} }

// HPKE returns s for use with package crypto/hpke.
func (s SealingSecret) HPKE() hpke.PrivateKey { return s.reveal() }

// Seed returns a copy of the secret's 32 bytes.
func (s SealingSecret) Seed() []byte {
	b, err := s.reveal().Bytes()
	if err != nil {
		panic("key: " + err.Error()) // unreachable: every X-Wing key has its seed
	}
	return b
}

func (s SealingSecret) String() string {
	if s.reveal == nil {
		return "no secret sealing"
	}
	return "a sealing secret"
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s SealingSecret) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s SealingSecret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText lets JSON and the like show String. There is no way back.
func (s SealingSecret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
