package handshake

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"
)

// reference is Noise_IKpsk0_25519_ChaChaPoly_SHA256 as the Noise specification
// (revision 34) writes it down, without the library: what it makes must be what the
// library makes, byte for byte.
type reference struct {
	ck, h, k []byte
	n        uint64
}

func newReference(prologue []byte, responder *ecdh.PublicKey) *reference {
	name := sha256.Sum256([]byte("Noise_IKpsk0_25519_ChaChaPoly_SHA256")) // longer than a hash
	s := &reference{ck: name[:], h: name[:]}
	s.mixHash(prologue)
	s.mixHash(responder.Bytes())
	return s
}

func (s *reference) mixHash(b []byte) {
	h := sha256.Sum256(append(append([]byte(nil), s.h...), b...))
	s.h = h[:]
}

func (s *reference) mixKey(ikm []byte) {
	out := must(hkdf.Key(sha256.New, ikm, s.ck, "", 64))
	s.ck, s.k, s.n = out[:32], out[32:], 0
}

func (s *reference) mixKeyAndHash(ikm []byte) {
	out := must(hkdf.Key(sha256.New, ikm, s.ck, "", 96))
	s.ck, s.k, s.n = out[:32], out[64:], 0
	s.mixHash(out[32:64])
}

func (s *reference) encrypt(plain []byte) []byte {
	var nonce [12]byte
	binary.LittleEndian.PutUint64(nonce[4:], s.n)
	c := must(chacha20poly1305.New(s.k)).Seal(nil, nonce[:], plain, s.h)
	s.n++
	s.mixHash(c)
	return c
}

// e is the ephemeral key in PSK mode: its public half goes into the key as well.
func (s *reference) e(k *ecdh.PublicKey) []byte {
	s.mixHash(k.Bytes())
	s.mixKey(k.Bytes())
	return k.Bytes()
}

func dh(a *ecdh.PrivateKey, b *ecdh.PublicKey) []byte { return must(a.ECDH(b)) }

// first is "-> psk, e, es, s, ss".
func (s *reference) first(psk []byte, e, static *ecdh.PrivateKey, responder *ecdh.PublicKey, payload []byte) []byte {
	s.mixKeyAndHash(psk)
	out := s.e(e.PublicKey())
	s.mixKey(dh(e, responder))
	out = append(out, s.encrypt(static.PublicKey().Bytes())...)
	s.mixKey(dh(static, responder))
	return append(out, s.encrypt(payload)...)
}

// second is "<- e, ee, se".
func (s *reference) second(e *ecdh.PrivateKey, initiatorE, initiator *ecdh.PublicKey, payload []byte) []byte {
	out := append([]byte(nil), s.e(e.PublicKey())...)
	s.mixKey(dh(e, initiatorE))
	s.mixKey(dh(e, initiator))
	return append(out, s.encrypt(payload)...)
}

func x25519(seed []byte) *ecdh.PrivateKey { return must(ecdh.X25519().NewPrivateKey(seed)) }
