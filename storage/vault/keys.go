package vault

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
)

const (
	keySize   = chacha20poly1305.KeySize
	nonceSize = chacha20poly1305.NonceSizeX
	overhead  = nonceSize + chacha20poly1305.Overhead // what sealing adds: nonce and tag
)

// Params are what argon2id (RFC 9106) costs: who guesses a passphrase pays it for
// every guess. The zero value stands for [DefaultParams].
type Params struct {
	Memory uint32 // KiB
	Time   uint32 // passes over the memory
	Lanes  uint8
}

// DefaultParams take 256 MiB of memory for a moment.
var DefaultParams = Params{Memory: 256 << 10, Time: 3, Lanes: 4}

// FloorParams are the lowest that are accepted, in a header too: RFC 9106's second
// choice, for machines with little memory, and for tests.
var FloorParams = Params{Memory: 64 << 10, Time: 3, Lanes: 4}

// Above these a header is refused before any memory is asked for: who can write to
// the disk could otherwise make unlocking take the machine down.
const (
	maxMemory = 4 << 20 // KiB
	maxTime   = 64
	maxLanes  = 64
)

func (p Params) check() error {
	switch f := FloorParams; {
	case p.Memory < f.Memory || p.Time < f.Time || p.Lanes < 1:
		return fmt.Errorf("argon2id with %d KiB, %d passes and %d lanes is too weak: at least %d KiB, %d passes and 1 lane",
			p.Memory, p.Time, p.Lanes, f.Memory, f.Time)
	case p.Memory > maxMemory || p.Time > maxTime || p.Lanes > maxLanes:
		return fmt.Errorf("argon2id with %d KiB, %d passes and %d lanes: at most %d KiB, %d passes and %d lanes",
			p.Memory, p.Time, p.Lanes, maxMemory, maxTime, maxLanes)
	}
	return nil
}

func (p Params) append(b []byte) []byte {
	return codec.AppendU8(codec.AppendU32(codec.AppendU32(b, p.Memory), p.Time), p.Lanes)
}

// stretch turns a passphrase into a key and gives the memory it took back to the
// system at once: a messenger idles for days after its one unlocking.
func stretch(passphrase, salt []byte, p Params) []byte {
	defer debug.FreeOSMemory()
	return argon2.IDKey(passphrase, salt, p.Time, p.Memory, p.Lanes, keySize)
}

// derive is HKDF-SHA-256 of a key that is uniform already.
func derive(key, salt []byte, info string) (k [keySize]byte) {
	b, err := hkdf.Key(sha256.New, key, salt, info, keySize)
	if err != nil {
		panic(err) // of lengths alone, which are constant
	}
	copy(k[:], b)
	clear(b)
	return k
}

// A keyring holds what an unlocked vault works with: the master key, what is
// derived from it, and the erasure keys of the header.
type keyring struct {
	master [keySize]byte
	index  [keySize]byte // names records
	plain  [keySize]byte // seals records of the plain domain
	mac    [keySize]byte // authenticates the header
	wrap   [keySize]byte // wraps erasure keys
	badger [keySize]byte

	// erasure keys by domain, one or two, the older first. New bucket keys are
	// wrapped under the last.
	erasure [domains][]erasureKey
}

type erasureKey struct {
	id  [idSize]byte
	key [keySize]byte
}

func newKeyring(master []byte, id vaultID) *keyring {
	k := &keyring{
		index:  derive(master, id[:], "sotto/vault/index/1"),
		plain:  derive(master, id[:], "sotto/vault/plain/1"),
		mac:    derive(master, id[:], "sotto/vault/header mac/1"),
		wrap:   derive(master, id[:], "sotto/vault/erasure wrap/1"),
		badger: derive(master, id[:], "sotto/vault/badger/1"),
	}
	copy(k.master[:], master)
	return k
}

func (k *keyring) clear() {
	for _, b := range []*[keySize]byte{&k.master, &k.index, &k.plain, &k.mac, &k.wrap, &k.badger} {
		clear(b[:])
	}
	for d := range k.erasure {
		clear(k.erasure[d])
		k.erasure[d] = nil
	}
}

// current returns the erasure key that new bucket keys are wrapped under.
func (k *keyring) current(d Domain) *erasureKey { return &k.erasure[d][len(k.erasure[d])-1] }

// push adds an erasure key and leaves no copy of the others behind.
func (k *keyring) push(d Domain, e erasureKey) {
	old := k.erasure[d]
	k.erasure[d] = append(append(make([]erasureKey, 0, 2), old...), e)
	clear(old)
}

func (k *keyring) find(d Domain, id [idSize]byte) *erasureKey {
	for i := range k.erasure[d] {
		if k.erasure[d][i].id == id {
			return &k.erasure[d][i]
		}
	}
	return nil
}

// tag hides a partition's name in Badger's keys.
func (k *keyring) tag(prefix []byte, partition string) (t [tagSize]byte) {
	h := hmac.New(sha256.New, k.index[:])
	h.Write(prefix)
	h.Write([]byte(partition))
	copy(t[:], h.Sum(nil))
	return t
}

// seal appends nonce ‖ XChaCha20-Poly1305 of plain to dst. Nonces are random: with
// 24 bytes one key can seal more than will ever be written.
func (e *env) seal(dst []byte, key *[keySize]byte, aad, plain []byte) []byte {
	a, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // of the key's length, which is constant
	}
	var nonce [nonceSize]byte
	e.random(nonce[:])
	if e.sealed != nil {
		e.sealed(sha256.Sum256(key[:]), nonce)
	}
	return a.Seal(append(dst, nonce[:]...), nonce[:], plain, aad)
}

// unseal returns what seal was given, in a slice of its own.
func unseal(key *[keySize]byte, aad, sealed []byte) ([]byte, bool) {
	if len(sealed) < overhead {
		return nil, false
	}
	a, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err)
	}
	plain, err := a.Open(nil, sealed[:nonceSize], sealed[nonceSize:], aad)
	return plain, err == nil
}
