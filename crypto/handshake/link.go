package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// The ways in which a text is no link that can be opened, each for the user to be
// told apart.
var (
	ErrNotLink      = errors.New("this is not a Sotto link; one begins with sotto:i#")
	ErrDamaged      = errors.New("the link is damaged: a part is missing or was changed; ask for it again and copy it whole")
	ErrWrongKind    = errors.New("this link is of another kind")
	ErrNotGroupLink = errors.New("this link does not lead to a group")
	ErrNewer        = errors.New("the link was made by a newer version of Sotto; update and try again")
	ErrExpired      = errors.New("the link has expired; ask for a new one")
)

// The kinds of links.
const (
	Invite uint8 = 1 // meets one person
	Group  uint8 = 2 // asks to be let into a group, as often as one likes
	Device uint8 = 3 // makes one more device of one's own account
)

// The letters of the kinds of text, which are also in their checksums: one is never
// taken for the other.
const (
	inviteLetter = 'i'
	groupLetter  = 'g'
	deviceLetter = 'd' // links a device of one's own account
)

const (
	linkVersion  = 1
	checksumSize = 4
	maxLinkText  = 2048
	maxHints     = 8
	maxHint      = 255
	maxHintBytes = 512
)

// Secret is what a link carries. Whoever has it can take the invite. It prints
// as such.
type Secret struct{ reveal func() [32]byte }

func newSecret(b [32]byte) Secret { return Secret{func() [32]byte { return b }} }

func (s Secret) String() string { return "a link's secret" }

// Format implements [fmt.Formatter]: every verb prints String.
func (s Secret) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText lets JSON and the like show String. There is no way back.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Secret) derive(info string) []byte {
	secret := s.reveal()
	b, err := hkdf.Key(sha256.New, secret[:], nil, info, 32)
	if err != nil {
		panic("handshake: " + err.Error()) // unreachable: 32 bytes are never too many
	}
	return b
}

// SlotRead is the capability that takes the offer out of its slot.
func (s Secret) SlotRead() key.CapabilitySecret {
	return key.CapabilityFromSeed(s.derive("sotto/link/read/1"))
}

func (s Secret) offerKey() []byte { return s.derive("sotto/link/offer/1") }

// Link is an invite as it is handed over.
type Link struct {
	Kind    uint8  // Invite, Group or Device
	Expires uint32 // minute
	Relay   key.RelayPublic
	Hints   [][]byte // binary multiaddrs of the relay
	Secret  Secret
}

// ID names an invite without its secret.
func (l Link) ID() [32]byte {
	read := l.Secret.SlotRead().Public()
	return sha256.Sum256(read.Append([]byte("sotto/invite id/1")))
}

func (l *Link) fields(f *codec.Fields) {
	v, relay, secret := uint8(linkVersion), l.Relay.Bytes(), [32]byte{}
	if !f.Reading() {
		secret = l.Secret.reveal()
	}
	f.U8(&v)
	f.U8(&l.Kind)
	f.U32(&l.Expires)
	f.Array(relay)
	codec.List(f, maxHintBytes, maxHints, &l.Hints, func(h *[]byte, f *codec.Fields) { f.Vec(maxHint, h) })
	f.Array(secret[:])
	if f.Reading() {
		l.Relay, _ = key.ParsePublic[key.RelayPublic](relay)
		l.Secret = newSecret(secret)
	}
}

// check says whether the link can be written.
func (l *Link) check() error {
	sum := 0
	for _, h := range l.Hints {
		if len(h) > maxHint {
			return fmt.Errorf("a hint of %d bytes, at most %d", len(h), maxHint)
		}
		sum += codec.VarintLen(len(h)) + len(h)
	}
	if len(l.Hints) > maxHints || sum > maxHintBytes {
		return fmt.Errorf("%d hints of %d bytes, at most %d of %d", len(l.Hints), sum, maxHints, maxHintBytes)
	}
	return nil
}

func checksum(letter byte, b []byte) []byte {
	sum := sha256.Sum256(append(append([]byte("sotto/link/1"), letter), b...))
	return sum[:checksumSize]
}

var linkText = base64.RawURLEncoding.Strict()

// Text returns the link as people hand it over. It holds the secret.
func (l Link) Text() string {
	switch l.Kind {
	case Group:
		return toText(groupLetter, codec.Write(l.fields))
	case Device:
		return toText(deviceLetter, codec.Write(l.fields))
	}
	return toText(inviteLetter, codec.Write(l.fields))
}

func toText(letter byte, b []byte) string {
	return prefix(letter) + linkText.EncodeToString(append(b, checksum(letter, b)...))
}

func prefix(letter byte) string { return "sotto:" + string(letter) + "#" }

// String does not show the secret.
func (l Link) String() string {
	switch l.Kind {
	case Group:
		return "a link to a group"
	case Device:
		return "a device link"
	}
	return "an invite"
}

// ParseLink reads an invite. It does not look at the clock: see [Link.Check].
func ParseLink(text string) (Link, error) {
	return parseLink(text, inviteLetter, Invite, "it links a device of one's own account; never open one that somebody else gave you")
}

// ParseDeviceLink reads a link that makes this device one of an account.
func ParseDeviceLink(text string) (Link, error) {
	return parseLink(text, deviceLetter, Device, "it is an invite and makes a contact; sotto contact accept opens it")
}

// parseLink reads a link of one kind; other says what a link with the other letter is.
func parseLink(text string, letter byte, kind uint8, other string) (Link, error) {
	b, err := fromText(letter, text)
	switch {
	case errors.Is(err, ErrWrongKind) && strings.HasPrefix(strings.TrimSpace(text), prefix(groupLetter)):
		return Link{}, fmt.Errorf("%w: it asks to be let into a group; open it with sotto group join", err)
	case errors.Is(err, ErrWrongKind):
		return Link{}, fmt.Errorf("%w: %s", err, other)
	case err != nil:
		return Link{}, err
	case b[1] != kind:
		return Link{}, fmt.Errorf("%w than this version knows", ErrWrongKind)
	}
	return readLink(b)
}

func readLink(b []byte) (l Link, err error) {
	if err := codec.Read(b, l.fields); err != nil {
		return Link{}, ErrDamaged
	}
	return l, nil
}

// ParseGroupLink reads a link to a group, as ParseLink does an invite.
func ParseGroupLink(text string) (Link, error) {
	b, err := fromText(groupLetter, text)
	switch {
	case errors.Is(err, ErrWrongKind):
		return Link{}, ErrNotGroupLink
	case err != nil:
		return Link{}, err
	case b[1] != Group:
		return Link{}, ErrNotGroupLink
	}
	return readLink(b)
}

// fromText returns what toText was given, at least version and kind.
func fromText(letter byte, text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, prefix(letter))
	if !ok {
		for _, other := range []byte{inviteLetter, groupLetter, deviceLetter} {
			if strings.HasPrefix(text, prefix(other)) {
				return nil, ErrWrongKind
			}
		}
		return nil, ErrNotLink
	}
	if len(rest) > maxLinkText {
		return nil, ErrDamaged
	}
	b, err := linkText.DecodeString(rest)
	if err != nil || len(b) < 2+checksumSize {
		return nil, ErrDamaged
	}
	b, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	switch {
	case subtle.ConstantTimeCompare(sum, checksum(letter, b)) != 1 || b[0] == 0:
		return nil, ErrDamaged
	case b[0] != linkVersion:
		return nil, ErrNewer
	}
	return b, nil
}

// Check returns ErrExpired from the link's minute on.
func (l Link) Check(now uint32) error {
	if now >= l.Expires {
		return ErrExpired
	}
	return nil
}
