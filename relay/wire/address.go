package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/mr-tron/base58"
	ma "github.com/multiformats/go-multiaddr"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// Limits of an address (spec/relay.md, section 1).
const (
	maxHints       = 8
	maxHint        = 255
	maxHintBytes   = 512
	maxAddressText = 1024

	// MaxAddress is the size of the largest RelayAddress structure.
	MaxAddress = key.Size + 2 + maxHintBytes
)

// ErrBadAddress is wrapped by the errors of [ParseAddress].
var ErrBadAddress = errors.New("not a relay address")

// Address says who a relay is and where to look for it. It is comparable by its
// String.
type Address struct {
	Key   key.RelayPublic
	Hints []ma.Multiaddr // without /p2p; at most 8
}

// peerPrefix is the identity multihash of a libp2p Ed25519 key: hash 0, length
// 36, then the protobuf of the key: type 1, 32 bytes.
var peerPrefix = []byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// PeerID returns the libp2p PeerID of a relay's key, as text.
func PeerID(k key.RelayPublic) string {
	return base58.Encode(k.Append(bytes.Clone(peerPrefix)))
}

// ParseAddress reads an address as people write it: multiaddrs that end in
// /p2p/PEERID, comma-separated.
func ParseAddress(s string) (a Address, err error) {
	s = strings.TrimSpace(s)
	bad := func(format string, args ...any) (Address, error) {
		return Address{}, fmt.Errorf("%w: %s; it looks like /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…", ErrBadAddress, fmt.Sprintf(format, args...))
	}
	if len(s) > maxAddressText {
		return bad("%d characters, at most %d", len(s), maxAddressText)
	}
	for _, part := range strings.Split(s, ",") {
		m, err := ma.NewMultiaddr(strings.TrimSpace(part))
		if err != nil {
			return bad("%v", err)
		}
		hint, last := ma.SplitLast(m)
		if last == nil || last.Protocol().Code != ma.P_P2P || len(hint) == 0 {
			return bad("%q does not end in /p2p/ and the relay's id", part)
		}
		k, ok := bytes.CutPrefix(last.RawValue(), peerPrefix)
		if !ok || len(k) != key.Size {
			return bad("the id in %q is not that of an Ed25519 key", part)
		}
		relay, err := key.ParsePublic[key.RelayPublic](k)
		if err != nil {
			return bad("%v", err)
		}
		if !a.Key.IsZero() && a.Key != relay {
			return bad("it names two relays")
		}
		a.Key = relay
		a.Hints = append(a.Hints, hint)
	}
	if err := a.check(); err != nil {
		return bad("%v", err)
	}
	return a, nil
}

func (a Address) check() error {
	sum := 0
	for _, h := range a.Hints {
		n := len(h.Bytes())
		if n > maxHint {
			return fmt.Errorf("a multiaddr of %d bytes, at most %d", n, maxHint)
		}
		sum += n + codec.VarintLen(n)
	}
	if len(a.Hints) == 0 || len(a.Hints) > maxHints || sum > maxHintBytes {
		return fmt.Errorf("%d multiaddrs of %d bytes, allowed are 1 to %d of %d bytes", len(a.Hints), sum, maxHints, maxHintBytes)
	}
	return nil
}

// String returns the address as people write it.
func (a Address) String() string {
	var parts []string
	for _, h := range a.Hints {
		parts = append(parts, h.String()+"/p2p/"+PeerID(a.Key))
	}
	return strings.Join(parts, ",")
}

// Append appends the RelayAddress structure.
func (a Address) Append(b []byte) []byte { return codec.Append(b, a.fields) }

// ReadAddress reads a RelayAddress structure that makes up all of b.
func ReadAddress(b []byte) (a Address, err error) {
	if err := codec.Read(b, a.fields); err != nil {
		return Address{}, fmt.Errorf("%w: %w", ErrBadAddress, err)
	}
	return a, nil
}

func (a *Address) fields(f *codec.Fields) {
	k := a.Key.Bytes()
	f.Array(k)
	var hints [][]byte
	for _, h := range a.Hints {
		hints = append(hints, h.Bytes())
	}
	codec.List(f, maxHintBytes, maxHints, &hints, func(h *[]byte, f *codec.Fields) { f.Vec(maxHint, h) })
	if !f.Reading() || !f.OK() {
		return
	}
	a.Key, _ = key.ParsePublic[key.RelayPublic](k)
	a.Hints = nil
	for _, h := range hints {
		m, err := ma.NewMultiaddrBytes(h)
		if err != nil || !bytes.Equal(m.Bytes(), h) {
			f.Fail("a hint that is no multiaddr")
			return
		}
		if _, err := m.ValueForProtocol(ma.P_P2P); err == nil {
			f.Fail("a hint with /p2p")
			return
		}
		a.Hints = append(a.Hints, m)
	}
	if len(a.Hints) == 0 {
		f.Fail("no hints")
	}
}

// NewAddress makes an address of a key and binary multiaddrs.
func NewAddress(k key.RelayPublic, hints [][]byte) (Address, error) {
	b := k.Append(nil)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, h := range hints {
			b = codec.AppendVec(b, h)
		}
		return b
	})
	return ReadAddress(b)
}
