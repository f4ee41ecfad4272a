package handshake

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"

	"sotto/crypto/key"
)

// This file is the only one that uses flynn/noise, and keeps its surprises from the
// rest: without a pre-shared key it runs a pattern without one and says nothing; it does
// not bound a message; the handshake's hash that it returns is its own, and changes; a
// handshake cannot be stored.

const (
	maxPayload = 40 << 10
	maxNoise   = maxPayload + 32 + 48 + 16 // message 1: e, s with its tag, the payload's tag
	pskSize    = 32
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// session is what both sides know before message 1.
type session struct {
	mode      uint8
	offerHash [32]byte
	enc       []byte // 1120 bytes, what X-Wing encapsulated
	ss        hidden // 32 bytes, what came of it
	salt      Secret // the link's
}

// newSession makes the initiator's side of one: it encapsulates to the offer's key.
func newSession(mode uint8, l Link, o *Offer) (session, error) {
	enc, ctx, err := hpke.NewSender(o.KEM.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(o.Hash()))
	if err != nil {
		return session{}, err
	}
	ss, err := ctx.Export(kemExport, 32)
	if err != nil {
		return session{}, err
	}
	return session{mode, o.Hash(), enc, hide(ss), l.Secret}, nil
}

func (s *session) bound() []byte {
	return append(append([]byte{s.mode}, s.offerHash[:]...), s.enc...)
}

func (s *session) prologue() []byte { return append([]byte("sotto/contact/1"), s.bound()...) }

func (s *session) psk() []byte {
	salt := s.salt.reveal()
	psk, err := hkdf.Key(sha512.New384, s.ss(), salt[:], "sotto/psk/1"+string(s.bound()), pskSize)
	if err != nil {
		panic("handshake: " + err.Error()) // unreachable: 32 bytes are never too many
	}
	return psk
}

// run is one side of a Noise_IKpsk0_25519_ChaChaPoly_SHA256. It is behind a function as
// the secrets of ours are: fmt goes into the library's.
type run struct {
	hs  func() *noise.HandshakeState
	out func() *transport
}

// transport is what comes behind message 2, empty before.
type transport struct{ initiator, responder *noise.CipherState } // by who seals with it

// initiate begins the side that writes message 1, with an ephemeral key of 32 bytes of
// random: the same ones give the same message.
func initiate(psk, prologue []byte, static key.NoiseSecret, peer key.NoisePublic, random io.Reader) (run, error) {
	return newRun(psk, noise.Config{Initiator: true, Prologue: prologue, StaticKeypair: pair(static), PeerStatic: peer.Bytes(), Random: random})
}

// respond begins the side that writes message 2.
func respond(psk, prologue []byte, static key.NoiseSecret, random io.Reader) (run, error) {
	return newRun(psk, noise.Config{Prologue: prologue, StaticKeypair: pair(static), Random: random})
}

func pair(static key.NoiseSecret) noise.DHKey {
	return noise.DHKey{Private: static.Seed(), Public: static.Public().Bytes()}
}

func newRun(psk []byte, c noise.Config) (run, error) {
	if len(psk) != pskSize || bytes.Equal(psk, make([]byte, pskSize)) {
		return run{}, errors.New("no pre-shared key")
	}
	c.CipherSuite, c.Pattern, c.PresharedKey, c.PresharedKeyPlacement = suite, noise.HandshakeIK, psk, 0
	hs, err := noise.NewHandshakeState(c)
	t := &transport{}
	return run{func() *noise.HandshakeState { return hs }, func() *transport { return t }}, err
}

// write makes the next message. After an error the run is of no use.
func (r run) write(payload []byte) ([]byte, error) {
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("%d bytes, at most %d", len(payload), maxPayload)
	}
	out, a, b, err := r.hs().WriteMessage(nil, payload)
	*r.out() = transport{a, b}
	return out, err
}

// read returns the payload of the next message. After an error the run is of no use.
func (r run) read(message []byte) ([]byte, error) {
	if len(message) > maxNoise {
		return nil, fmt.Errorf("%d bytes, at most %d", len(message), maxNoise)
	}
	payload, a, b, err := r.hs().ReadMessage(nil, message)
	if err != nil {
		return nil, fmt.Errorf("its Noise message does not open: %w", err)
	}
	*r.out() = transport{a, b}
	return payload, nil
}

// seal makes the message with this number of those behind message 2: odd ones are the
// initiator's. A number never has two payloads.
func (r run) seal(number uint8, bound, payload []byte) ([]byte, error) {
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("%d bytes, at most %d", len(payload), maxPayload)
	}
	c := r.cipher(number)
	c.SetNonce(uint64(number))
	return c.Encrypt(nil, bound, payload)
}

// unseal opens what seal made on the other side.
func (r run) unseal(number uint8, bound, message []byte) ([]byte, error) {
	c := r.cipher(number)
	c.SetNonce(uint64(number))
	payload, err := c.Decrypt(nil, bound, message)
	if err != nil {
		return nil, fmt.Errorf("message %d does not open: %w", number, err)
	}
	return payload, nil
}

func (r run) cipher(number uint8) *noise.CipherState {
	if number%2 == 1 {
		return r.out().initiator
	}
	return r.out().responder
}

// hash is the handshake's hash at this point.
func (r run) hash() []byte { return bytes.Clone(r.hs().ChannelBinding()) }

// peer is the initiator's static key, once message 1 has been read.
func (r run) peer() (key.NoisePublic, error) { return key.ParseNoise(r.hs().PeerStatic()) }
