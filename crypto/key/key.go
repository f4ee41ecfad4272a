// Package key holds the key types of the project. Each kind of key is its own
// type, so that the compiler refuses a device key where an account key belongs.
//
// Secret keys cannot be compared with ==, and under every verb of package fmt,
// in every log and in JSON they show as a fingerprint of their public half. The
// bytes come out through Seed alone, which a reviewer can search for.
//
// A signature is always made over a label and a message. Labels begin with
// "sotto/" and are written in the spec page of what is signed; no two things
// share one, so that a signature on one thing never passes for another.
package key

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Size is the length in bytes of a public signing key, of the seed of a secret
// one, and of both halves of an X25519 key.
const Size = 32

// SignatureSize is the length of a signature in bytes.
const SignatureSize = ed25519.SignatureSize

// ErrBadKey is returned for bytes or text that are no key of the wanted kind.
var ErrBadKey = errors.New("not a key of this kind")

// A kind tells keys of one algorithm and different purposes apart.
type kind interface{ name() string }

type (
	accountKind    struct{}
	deviceKind     struct{}
	relayKind      struct{}
	capabilityKind struct{}
)

func (accountKind) name() string    { return "account" }
func (deviceKind) name() string     { return "device" }
func (relayKind) name() string      { return "relay" }
func (capabilityKind) name() string { return "capability" }

type (
	// AccountPublic verifies the account log (spec/identity.md).
	AccountPublic = Public[accountKind]
	// AccountSecret signs the account log. It is derived from the recovery seed.
	AccountSecret = Secret[accountKind]

	// DevicePublic is the signature key of a device's leaf in every group.
	DevicePublic = Public[deviceKind]
	// DeviceSecret signs for a device. It never leaves it.
	DeviceSecret = Secret[deviceKind]

	// RelayPublic names a relay. It is also the key inside its libp2p PeerID.
	RelayPublic = Public[relayKind]
	// RelaySecret signs a relay's heads and receipts, and is its libp2p key.
	RelaySecret = Secret[relayKind]

	// CapabilityPublic is what a relay stores: who proves possession of the
	// other half may read, append to or administer a mailbox, or use a slot.
	CapabilityPublic = Public[capabilityKind]
	// CapabilitySecret is the other half (spec/envelope.md, 2).
	CapabilitySecret = Secret[capabilityKind]
)

// Public is the public half of an Ed25519 key of kind K. It is comparable and
// its zero value is no valid key.
type Public[K kind] struct{ b [Size]byte }

// Secret is an Ed25519 key of kind K. The zero value is no key: its methods
// but String panic.
type Secret[K kind] struct {
	// reveal returns the key. It is a function because fmt prints every field
	// of a struct whose methods it may not call, following pointers, but of a
	// function only the address; and it makes the struct incomparable, which
	// it should be, as == does not run in constant time.
	reveal func() ed25519.PrivateKey
}

// NewAccount makes an account key from its 32-byte seed.
func NewAccount(seed []byte) AccountSecret { return fromSeed[accountKind](seed) }

// NewDevice makes a device key from the system's randomness.
func NewDevice() DeviceSecret { return generate[deviceKind]() }

// DeviceFromSeed makes the device key of a stored 32-byte seed.
func DeviceFromSeed(seed []byte) DeviceSecret { return fromSeed[deviceKind](seed) }

// NewRelay makes a relay key from the system's randomness.
func NewRelay() RelaySecret { return generate[relayKind]() }

// RelayFromSeed makes the relay key of a stored 32-byte seed.
func RelayFromSeed(seed []byte) RelaySecret { return fromSeed[relayKind](seed) }

// NewCapability makes a capability from the system's randomness.
func NewCapability() CapabilitySecret { return generate[capabilityKind]() }

// CapabilityFromSeed makes the capability of a 32-byte seed, stored or derived.
func CapabilityFromSeed(seed []byte) CapabilitySecret { return fromSeed[capabilityKind](seed) }

// ParsePublic returns the key whose 32 bytes are b. It does not tell whether the
// bytes are a point of the curve: a signature under a key that is none never
// verifies.
func ParsePublic[P Public[K], K kind](b []byte) (P, error) {
	if len(b) != Size {
		return P{}, fmt.Errorf("%w: %d bytes, want %d", ErrBadKey, len(b), Size)
	}
	return P(Public[K]{[Size]byte(b)}), nil
}

func generate[K kind]() Secret[K] {
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic("key: " + err.Error()) // unreachable: crypto/rand does not fail
	}
	return Secret[K]{reveal: func() ed25519.PrivateKey { return k }}
}

// fromSeed panics unless seed is 32 bytes long: a seed is derived or comes out
// of an authenticated record, so another length is a mistake of ours.
func fromSeed[K kind](seed []byte) Secret[K] {
	k := ed25519.NewKeyFromSeed(seed)
	return Secret[K]{reveal: func() ed25519.PrivateKey { return k }}
}

// IsZero reports whether s holds no key.
func (s Secret[K]) IsZero() bool { return s.reveal == nil }

// Public returns the public half of s.
func (s Secret[K]) Public() Public[K] {
	return Public[K]{[Size]byte(s.reveal().Public().(ed25519.PublicKey))}
}

// Seed returns a copy of the 32 bytes that s is made from. They are the secret:
// the caller seals them at once and clears the slice.
func (s Secret[K]) Seed() []byte { return s.reveal().Seed() }

// Sign returns the 64-byte signature over label and the parts of a message.
func (s Secret[K]) Sign(label string, parts ...[]byte) []byte {
	return ed25519.Sign(s.reveal(), join(label, parts))
}

// Signer returns s as a [crypto.Signer] for a protocol with labels of its own:
// MLS for device keys, libp2p for relay keys.
func (s Secret[K]) Signer() crypto.Signer { return signer[K]{s} }

type signer[K kind] struct{ s Secret[K] }

func (s signer[K]) Public() crypto.PublicKey { return s.s.reveal().Public() }
func (s signer[K]) Sign(rand io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.s.reveal().Sign(rand, msg, opts)
}

// AppendSignature is Sign with room for the signature, see mls.Config.
func (s signer[K]) AppendSignature(b, msg []byte) []byte {
	return append(b, ed25519.Sign(s.s.reveal(), msg)...)
}
func (s signer[K]) Format(w fmt.State, verb rune) { s.s.Format(w, verb) }

// String returns the fingerprint of the public half, marked as such.
func (s Secret[K]) String() string {
	if s.reveal == nil {
		var k K
		return "no secret " + k.name()
	}
	return "secret of " + s.Public().Fingerprint()
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s Secret[K]) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Secret[K]) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText lets JSON and the like show String. There is no way back.
func (s Secret[K]) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Verify reports whether sig is the signature of p's owner over label and the
// parts of a message.
func (p Public[K]) Verify(sig []byte, label string, parts ...[]byte) bool {
	return len(sig) == SignatureSize && ed25519.Verify(p.b[:], join(label, parts), sig)
}

func join(label string, parts [][]byte) []byte {
	n := len(label)
	for _, p := range parts {
		n += len(p)
	}
	b := append(make([]byte, 0, n), label...)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// Bytes returns the 32 bytes of p.
func (p Public[K]) Bytes() []byte { return append([]byte(nil), p.b[:]...) }

// Append appends the 32 bytes of p to b.
func (p Public[K]) Append(b []byte) []byte { return append(b, p.b[:]...) }

// IsZero reports whether p is the zero value.
func (p Public[K]) IsZero() bool { return p == Public[K]{} }

var text = base32.StdEncoding.WithPadding(base32.NoPadding)

// String returns the text form: the kind, a colon and 52 letters.
func (p Public[K]) String() string {
	var k K
	return k.name() + ":" + strings.ToLower(text.EncodeToString(p.b[:]))
}

// Fingerprint returns a short name for logs: the kind, a colon and 8 letters of
// a hash. It identifies nobody who is not already known.
func (p Public[K]) Fingerprint() string {
	var k K
	sum := sha256.Sum256(append([]byte("sotto/fingerprint/1"+k.name()), p.b[:]...))
	return k.name() + ":" + strings.ToLower(text.EncodeToString(sum[:5]))
}

// MarshalText implements [encoding.TextMarshaler] with String.
func (p Public[K]) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Public[K]) UnmarshalText(b []byte) error {
	var k K
	rest, ok := strings.CutPrefix(string(b), k.name()+":")
	raw, err := text.DecodeString(strings.ToUpper(rest))
	if !ok || err != nil || len(raw) != Size {
		return fmt.Errorf("%w: want %s: and 52 letters", ErrBadKey, k.name())
	}
	p.b = [Size]byte(raw)
	return nil
}
