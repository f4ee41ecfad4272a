package vault

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// The header file, spec/vault.md 2.
const (
	magic         = "sotto vault\n"
	headerVersion = 1

	maxHeader     = 16 << 10
	maxSlots      = 8
	maxName       = 32
	maxPrivileged = 1 << 10

	saltSize = 16
	idSize   = 8 // of bucket keys and erasure keys
	macSize  = sha256.Size

	wrappedKeySize = overhead + keySize
)

const (
	slotAAD       = "sotto/vault/slot/1"
	privilegedAAD = "sotto/vault/privileged/1"
	erasureAAD    = "sotto/vault/erasure key/1"
)

type vaultID [16]byte

// SlotKind says what opens a slot.
type SlotKind uint8

const (
	PassphraseSlot SlotKind = 1
	KeySlot        SlotKind = 2 // a key of 32 bytes, kept or derived elsewhere
)

func (k SlotKind) String() string {
	switch k {
	case PassphraseSlot:
		return "passphrase"
	case KeySlot:
		return "key"
	}
	return fmt.Sprintf("slot kind %d", uint8(k))
}

// passphraseName is the name of the one passphrase slot.
const passphraseName = "passphrase"

// A slot wraps the master key.
type slot struct {
	kind    SlotKind
	name    string
	salt    [saltSize]byte
	params  Params // of a passphrase slot
	wrapped []byte // nonce ‖ sealed master key
}

// open is everything before what is wrapped; it is authenticated with it.
func (s *slot) open(b []byte) []byte {
	b = codec.AppendU8(b, uint8(s.kind))
	b = codec.AppendVec(b, s.name)
	b = append(b, s.salt[:]...)
	if s.kind == PassphraseSlot {
		b = s.params.append(b)
	}
	return b
}

func (s *slot) aad(id vaultID) []byte { return s.open(append([]byte(slotAAD), id[:]...)) }

// kek derives the key that wraps the master key from the key of a key slot, or from
// the stretched passphrase. The vault's id is in it twice, here and in the AAD: one
// recovery key may open several vaults.
func (s *slot) kek(secret []byte, id vaultID) [keySize]byte {
	return derive(secret, s.salt[:], slotAAD+string(id[:]))
}

// privileged wraps a secret that asks for the passphrase every time.
type privileged struct {
	salt    [saltSize]byte
	params  Params
	wrapped []byte // nonce ‖ sealed secret
}

func (p *privileged) open(b []byte) []byte { return p.params.append(append(b, p.salt[:]...)) }

func (p *privileged) aad(id vaultID) []byte { return p.open(append([]byte(privilegedAAD), id[:]...)) }

func (p *privileged) kek(stretched []byte, id vaultID) [keySize]byte {
	return derive(stretched, p.salt[:], privilegedAAD+string(id[:]))
}

// wrappedErasure is an erasure key under the master key.
type wrappedErasure struct {
	domain  Domain
	id      [idSize]byte
	wrapped []byte
}

func (w *wrappedErasure) open(b []byte) []byte {
	return append(codec.AppendU8(b, uint8(w.domain)), w.id[:]...)
}

func (w *wrappedErasure) aad(id vaultID) []byte {
	return w.open(append([]byte(erasureAAD), id[:]...))
}

// A header is never changed once it is shared: whoever changes it takes a clone.
type header struct {
	id         vaultID
	slots      []slot
	privileged *privileged
	erasure    []wrappedErasure // of one domain, the older first
}

func (h *header) clone() *header {
	c := *h
	c.slots, c.erasure = slices.Clone(h.slots), slices.Clone(h.erasure)
	return &c
}

func (h *header) slot(name string) int {
	return slices.IndexFunc(h.slots, func(s slot) bool { return s.name == name })
}

// body is all but the MAC.
func (h *header) body() []byte {
	b := append([]byte(nil), magic...)
	b = codec.AppendU16(b, headerVersion)
	b = append(b, h.id[:]...)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range h.slots {
			b = append(h.slots[i].open(b), h.slots[i].wrapped...)
		}
		return b
	})
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		if h.privileged == nil {
			return b
		}
		return append(h.privileged.open(b), h.privileged.wrapped...)
	})
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range h.erasure {
			b = append(h.erasure[i].open(b), h.erasure[i].wrapped...)
		}
		return b
	})
}

func headerMAC(key *[keySize]byte, body []byte) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("sotto/vault/header/1"))
	m.Write(body)
	return m.Sum(nil)
}

func (h *header) marshal(key *[keySize]byte) []byte {
	b := h.body()
	return append(b, headerMAC(key, b)...)
}

// parseHeader reads a header without knowing any key. Its slices are its own.
func parseHeader(b []byte) (*header, error) {
	if len(b) > maxHeader {
		return nil, fmt.Errorf("%w: the header has over %d bytes", ErrDamaged, maxHeader)
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return nil, fmt.Errorf("%w: the header does not begin like one", ErrDamaged)
	}
	b = bytes.Clone(b[len(magic):])
	r := codec.NewReader(b)
	if v := r.U16(); r.Err() == nil && v > headerVersion {
		return nil, fmt.Errorf("%w: the header has version %d, this program knows up to %d", ErrFormat, v, headerVersion)
	} else if r.Err() == nil && v == 0 {
		r.Fail("version 0")
	}
	h := &header{}
	r.Copy(h.id[:])
	r.Each(maxHeader, func(r *codec.Reader) { h.slots = append(h.slots, readSlot(r)) })
	if sub := r.Sub(maxHeader); sub.Len() > 0 {
		p := &privileged{}
		sub.Copy(p.salt[:])
		p.params = readParams(sub)
		p.wrapped = sub.Rest()
		if n := len(p.wrapped) - overhead; n < 1 || n > maxPrivileged {
			sub.Fail("a privileged secret of %d bytes", n)
		}
		r.Take(sub.Done())
		h.privileged = p
	} else {
		r.Take(sub.Err())
	}
	r.Each(maxHeader, func(r *codec.Reader) {
		w := wrappedErasure{domain: Domain(r.U8())}
		r.Copy(w.id[:])
		w.wrapped = r.Bytes(wrappedKeySize)
		h.erasure = append(h.erasure, w)
	})
	r.Bytes(macSize)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	return h, nil
}

func readSlot(r *codec.Reader) slot {
	s := slot{kind: SlotKind(r.U8()), name: string(r.Vec(maxName))}
	r.Copy(s.salt[:])
	switch s.kind {
	case PassphraseSlot:
		s.params = readParams(r)
	case KeySlot:
	default:
		r.Fail("%v", s.kind)
	}
	s.wrapped = r.Bytes(wrappedKeySize)
	return s
}

func readParams(r *codec.Reader) Params {
	p := Params{Memory: r.U32(), Time: r.U32(), Lanes: r.U8()}
	if err := p.check(); err != nil {
		r.Fail("%v", err)
	}
	return p
}

// check holds what is written against the rules of spec/vault.md 2.
func (h *header) check() error {
	if n := len(h.slots); n < 1 || n > maxSlots {
		return fmt.Errorf("%d slots", n)
	}
	for i := range h.slots {
		s := &h.slots[i]
		if err := checkName(s.name); err != nil {
			return err
		}
		if h.slot(s.name) != i || (s.kind == PassphraseSlot) != (s.name == passphraseName) {
			return errors.New("slots of one name, or a passphrase slot of another")
		}
	}
	if h.privileged != nil && h.slot(passphraseName) < 0 {
		return errors.New("a privileged secret and no passphrase")
	}
	var count [domains]int
	for i, w := range h.erasure {
		if w.domain == Plain || w.domain >= domains {
			return fmt.Errorf("an erasure key of domain %d", uint8(w.domain))
		}
		if slices.ContainsFunc(h.erasure[:i], func(o wrappedErasure) bool { return o.id == w.id }) {
			return errors.New("two erasure keys of one id")
		}
		count[w.domain]++
	}
	for d := MLS; d < domains; d++ {
		if count[d] < 1 || count[d] > 2 {
			return fmt.Errorf("%d erasure keys for %v", count[d], d)
		}
	}
	return nil
}

func checkName(name string) error {
	if len(name) < 1 || len(name) > maxName {
		return fmt.Errorf("a slot's name has %d bytes: 1 to %d are allowed", len(name), maxName)
	}
	return nil
}

// unlock returns the keys of the vault whose header is b, parsed as h. Only then is
// it known that nothing in b was changed by who does not know them.
func (e *env) unlock(h *header, b []byte, u Unlock) (*keyring, error) {
	if (u.Passphrase == nil) == (u.Key == nil) {
		return nil, errors.New("unlock a vault with a passphrase or with a key: give one of them")
	}
	var master []byte
	if u.Passphrase != nil {
		i := h.slot(passphraseName)
		if i < 0 {
			return nil, fmt.Errorf("%w: the vault has no passphrase slot", ErrWrongPassphrase)
		}
		var ok bool
		if master, ok = e.openSlot(h, &h.slots[i], u.Passphrase); !ok {
			return nil, ErrWrongPassphrase
		}
	} else {
		for i := range h.slots {
			if h.slots[i].kind != KeySlot {
				continue
			}
			if m, ok := e.openSlot(h, &h.slots[i], u.Key); ok {
				master = m
				break
			}
		}
		if master == nil {
			return nil, ErrWrongKey
		}
	}
	defer clear(master)
	return h.keyring(master, b)
}

// keyring checks the header's MAC and opens its erasure keys.
func (h *header) keyring(master, b []byte) (*keyring, error) {
	k := newKeyring(master, h.id)
	if n := len(b) - macSize; !hmac.Equal(headerMAC(&k.mac, b[:n]), b[n:]) {
		k.clear()
		return nil, fmt.Errorf("%w: the header was changed", ErrDamaged)
	}
	for i := range h.erasure {
		w := &h.erasure[i]
		key, ok := unseal(&k.wrap, w.aad(h.id), w.wrapped)
		if !ok {
			k.clear()
			return nil, fmt.Errorf("%w: an erasure key of %v in the header", ErrDamaged, w.domain)
		}
		k.push(w.domain, erasureKey{w.id, [keySize]byte(key)})
		clear(key)
	}
	return k, nil
}

func (e *env) openSlot(h *header, s *slot, secret []byte) (master []byte, ok bool) {
	if s.kind == PassphraseSlot {
		secret = e.stretch(secret, s.salt[:], s.params)
		defer clear(secret)
	}
	kek := s.kek(secret, h.id)
	defer clear(kek[:])
	return unseal(&kek, s.aad(h.id), s.wrapped)
}

// newSlot wraps the master key under a secret: a passphrase or a key.
func (e *env) newSlot(id vaultID, kind SlotKind, name string, secret []byte, p Params, master *[keySize]byte) slot {
	s := slot{kind: kind, name: name}
	e.random(s.salt[:])
	if kind == PassphraseSlot {
		s.params = p
		secret = e.stretch(secret, s.salt[:], p)
		defer clear(secret)
	}
	kek := s.kek(secret, id)
	defer clear(kek[:])
	s.wrapped = e.seal(nil, &kek, s.aad(id), master[:])
	return s
}

func (e *env) newPrivileged(id vaultID, passphrase, secret []byte, p Params) *privileged {
	w := &privileged{params: p}
	e.random(w.salt[:])
	stretched := e.stretch(passphrase, w.salt[:], p)
	defer clear(stretched)
	kek := w.kek(stretched, id)
	defer clear(kek[:])
	w.wrapped = e.seal(nil, &kek, w.aad(id), secret)
	return w
}

func (e *env) openPrivileged(id vaultID, w *privileged, passphrase []byte) (secret []byte, ok bool) {
	stretched := e.stretch(passphrase, w.salt[:], w.params)
	defer clear(stretched)
	kek := w.kek(stretched, id)
	defer clear(kek[:])
	return unseal(&kek, w.aad(id), w.wrapped)
}

// newErasure makes an erasure key and wraps it.
func (e *env) newErasure(id vaultID, d Domain, wrap *[keySize]byte) (erasureKey, wrappedErasure) {
	var k erasureKey
	e.random(k.id[:])
	e.random(k.key[:])
	w := wrappedErasure{domain: d, id: k.id}
	w.wrapped = e.seal(nil, wrap, w.aad(id), k.key[:])
	return k, w
}
