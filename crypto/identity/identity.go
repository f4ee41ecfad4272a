// Package identity is who people and their machines are: the recovery seed, the
// account log, and what is derived from a log for others to check.
//
// An account is named by the hash of the first body of its log. The log is a
// chain of entries, each signed by the account key and by the device that acted;
// see [Log]. From it come a [Credential], which proves within an MLS leaf that a
// device belongs to an account, and a [DeviceSet], which says which devices the
// account has. Both can be checked by whoever has their bytes, with no one to ask.
//
// # What the caller does
//
// The package does no I/O. The caller keeps the logs of its contacts and, given a
// newer copy, takes what [Log.Update] returns; it keeps secret keys in the vault;
// and it asks for the recovery words and forgets the [Seed] again when it has
// signed what takes the account key.
//
// # What is not here
//
// Whether a contact whose log is forked may be written to, how long a device may
// be silent, whom to show what: that is policy, and package node's.
//
// Bytes, limits and reasons: spec/identity.md.
package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

var (
	// ErrInvalid is wrapped by the error about a log, credential or device set
	// that can be read and does not hold: a signature, the chain, a rule of
	// spec/identity.md. Bytes that cannot be read wrap [codec.ErrMalformed].
	ErrInvalid = errors.New("identity does not verify")

	// ErrNewer is wrapped by the error about bytes of a version, or keys of an
	// algorithm, that this program does not know.
	ErrNewer = errors.New("made by a newer version of sotto")

	// ErrFork is wrapped by the error of [Log.Update] about two valid logs of
	// one account that disagree, with nothing to decide between them.
	ErrFork = errors.New("account log is forked")

	// ErrUnknownDevice is wrapped by errors about a device that the log does
	// not know, or that is not active where it has to be.
	ErrUnknownDevice = errors.New("not an active device of the account")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

var letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// shortLen is the length of a short form: 40 bits, enough to tell one's own
// contacts apart, not enough to name a stranger.
const shortLen = 8

func toText(b []byte) string { return strings.ToLower(letters.EncodeToString(b)) }

func fromText(into []byte, s, what string) error {
	b, err := letters.DecodeString(strings.ToUpper(s))
	if err != nil || len(b) != len(into) || toText(b) != strings.ToLower(s) {
		return fmt.Errorf("%w: %s is %d letters and digits", codec.ErrMalformed, what, letters.EncodedLen(len(into)))
	}
	copy(into, b)
	return nil
}

// AccountID names an account: the hash of the body of its first entry.
type AccountID [sha256.Size]byte

// ParseAccountID reads what [AccountID.String] returns.
func ParseAccountID(s string) (id AccountID, err error) {
	return id, fromText(id[:], s, "an account id")
}

// String returns the text form: 52 lower-case letters and digits.
func (id AccountID) String() string { return toText(id[:]) }

// Short returns the first 8 letters of String, for people to tell accounts apart
// that they know. It names nobody for certain.
func (id AccountID) Short() string { return id.String()[:shortLen] }

// LogValue implements [slog.LogValuer]: a log must not tell who the contacts are, so
// it shows 4 letters.
func (id AccountID) LogValue() slog.Value { return slog.StringValue(id.String()[:4]) }

// MarshalText implements [encoding.TextMarshaler] with String.
func (id AccountID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *AccountID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseAccountID(string(b))
	return err
}

// DeviceID names a device within its account. It is random.
type DeviceID [16]byte

// NewDeviceID returns a random device id.
func NewDeviceID() (id DeviceID) {
	rand.Read(id[:]) // does not fail
	return id
}

// ParseDeviceID reads what [DeviceID.String] returns.
func ParseDeviceID(s string) (id DeviceID, err error) {
	return id, fromText(id[:], s, "a device id")
}

// String returns the text form: 26 lower-case letters and digits.
func (id DeviceID) String() string { return toText(id[:]) }

// Short returns the first 8 letters of String.
func (id DeviceID) Short() string { return id.String()[:shortLen] }

// LogValue implements [slog.LogValuer] with 4 letters.
func (id DeviceID) LogValue() slog.Value { return slog.StringValue(id.String()[:4]) }

// MarshalText implements [encoding.TextMarshaler] with String.
func (id DeviceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *DeviceID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseDeviceID(string(b))
	return err
}

// DeviceCert says which keys a device has. It is part of a log entry, and true
// because that entry is signed.
type DeviceCert struct {
	Device       DeviceID
	DeviceKey    key.DevicePublic // signs the device's leaf in every group
	HandshakeKey key.NoisePublic  // its static key in handshakes
	SealingHash  [32]byte         // SealingHash of its inbox's key
}

// SealingHash returns the hash by which a certificate names an inbox key.
func SealingHash(p key.SealingPublic) [32]byte {
	return hash("sotto/sealing/1", p.Bytes())
}

// Fingerprint is a short form of the device key for people to compare: 16 letters and
// digits in groups of four.
func (c DeviceCert) Fingerprint() string {
	sum := hash("sotto/device fingerprint/1", c.DeviceKey.Bytes())
	s := toText(sum[:])
	return s[:4] + " " + s[4:8] + " " + s[8:12] + " " + s[12:16]
}

// Append appends the 112 bytes of c to b.
func (c DeviceCert) Append(b []byte) []byte {
	b = append(b, c.Device[:]...)
	b = c.DeviceKey.Append(b)
	b = c.HandshakeKey.Append(b)
	return append(b, c.SealingHash[:]...)
}

// ReadDeviceCert reads a certificate that stands within another structure.
func ReadDeviceCert(r *codec.Reader) (c DeviceCert) {
	r.Copy(c.Device[:])
	c.DeviceKey = readPublic[key.DevicePublic](r)
	if b := r.Bytes(key.Size); r.Err() == nil {
		c.HandshakeKey, _ = key.ParseNoise(b) // the length is right
	}
	r.Copy(c.SealingHash[:])
	return c
}

func readPublic[P interface {
	key.AccountPublic | key.DevicePublic
}](r *codec.Reader) (p P) {
	b := r.Bytes(key.Size)
	if r.Err() != nil {
		return p
	}
	switch p := any(&p).(type) { // the length is right
	case *key.AccountPublic:
		*p, _ = key.ParsePublic[key.AccountPublic](b)
	case *key.DevicePublic:
		*p, _ = key.ParsePublic[key.DevicePublic](b)
	}
	return p
}

func hash(label string, parts ...[]byte) (sum [32]byte) {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}
