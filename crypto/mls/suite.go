package mls

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
)

// Suite is a cipher suite (RFC 9420, Section 17.1).
type Suite uint16

// The suites this package implements.
const (
	X25519AES128   Suite = 1 // MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519
	P256AES128     Suite = 2 // MLS_128_DHKEMP256_AES128GCM_SHA256_P256
	X25519ChaCha20 Suite = 3 // MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519
	P521AES256     Suite = 5 // MLS_256_DHKEMP521_AES256GCM_SHA512_P521
	P384AES256     Suite = 7 // MLS_256_DHKEMP384_AES256GCM_SHA384_P384

	// XWing is X-Wing (KEM 0x647a), HKDF-SHA384, AES-256-GCM, SHA-384 and
	// Ed25519, in the range for private use until the suite has a number.
	// X-Wing keeps content confidential as long as X25519 or ML-KEM-768 does.
	XWing Suite = 0xF04E
)

// suite holds the algorithms of a Suite.
type suite struct {
	id     Suite
	name   string
	kem    hpke.KEM
	hkdf   hpke.KDF
	aead   hpke.AEAD
	hash   crypto.Hash
	new    func() hash.Hash
	nh, nk int            // KDF.Nh, AEAD.Nk; AEAD.Nn is nonceSize in all
	curve  elliptic.Curve // of ECDSA; nil for Ed25519
}

// What all suites share, or stay under.
const (
	nonceSize = 12
	tagSize   = 16
	maxHash   = sha512.Size
	maxKey    = 32

	minKEMOutput = 32 // of X25519
)

var suites = []*suite{
	{X25519AES128, "X25519-AES128GCM-SHA256-Ed25519", hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.AES128GCM(), crypto.SHA256, sha256.New, 32, 16, nil},
	{P256AES128, "P256-AES128GCM-SHA256-P256", hpke.DHKEM(ecdh.P256()), hpke.HKDFSHA256(), hpke.AES128GCM(), crypto.SHA256, sha256.New, 32, 16, elliptic.P256()},
	{X25519ChaCha20, "X25519-CHACHA20POLY1305-SHA256-Ed25519", hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), crypto.SHA256, sha256.New, 32, 32, nil},
	{P521AES256, "P521-AES256GCM-SHA512-P521", hpke.DHKEM(ecdh.P521()), hpke.HKDFSHA512(), hpke.AES256GCM(), crypto.SHA512, sha512.New, 64, 32, elliptic.P521()},
	{P384AES256, "P384-AES256GCM-SHA384-P384", hpke.DHKEM(ecdh.P384()), hpke.HKDFSHA384(), hpke.AES256GCM(), crypto.SHA384, sha512.New384, 48, 32, elliptic.P384()},
	{XWing, "XWING-AES256GCM-SHA384-Ed25519", hpke.MLKEM768X25519(), hpke.HKDFSHA384(), hpke.AES256GCM(), crypto.SHA384, sha512.New384, 48, 32, nil},
}

// refused are the suites of the RFC that need X448 and Ed448, for which the standard
// library has no primitives.
var refused = map[Suite]string{4: "X448-AES256GCM-SHA512-Ed448", 6: "X448-CHACHA20POLY1305-SHA512-Ed448"}

func (s Suite) known() *suite {
	for _, known := range suites {
		if known.id == s {
			return known
		}
	}
	return nil
}

func (s Suite) lookup() (*suite, error) {
	if known := s.known(); known != nil {
		return known, nil
	}
	return nil, fmt.Errorf("%w: cipher suite %v", ErrUnsupported, s)
}

// Supported reports whether this package implements s.
func (s Suite) Supported() bool { return s.known() != nil }

func (s Suite) String() string {
	if known := s.known(); known != nil {
		return known.name
	}
	if name, ok := refused[s]; ok {
		return name
	}
	return fmt.Sprintf("%#04x", uint16(s))
}

// label prefixes every label of Section 5.
const label = "MLS 1.0 "

// A kdf derives secrets from one (ExpandWithLabel, Section 8). It is HKDF-Expand
// (RFC 5869) over an HMAC that, unlike one of crypto/hmac, can be given another key
// without making its six objects anew: a message needs two keys that no other has.
// Its user calls done.
type kdf struct {
	s            *suite
	inner, outer hash.Hash
	ipad, opad   []byte // their states after the key
	buf, sum     []byte
}

// kdfs holds kdfs that are not in use, by hash.
var kdfs = map[crypto.Hash]*sync.Pool{crypto.SHA256: {}, crypto.SHA384: {}, crypto.SHA512: {}}

// kdf returns one for secret, which is not longer than a block of the hash.
func (s *suite) kdf(secret []byte) *kdf {
	k, ok := kdfs[s.hash].Get().(*kdf)
	if !ok {
		k = &kdf{inner: s.new(), outer: s.new(), buf: make([]byte, 0, 256), sum: make([]byte, 0, maxHash)}
	}
	k.s = s
	k.ipad = k.begin(k.inner, k.ipad, secret, 0x36)
	k.opad = k.begin(k.outer, k.opad, secret, 0x5c)
	return k
}

// begin gives h the block of the key xor pad and appends its state to the empty state.
func (k *kdf) begin(h hash.Hash, state, secret []byte, pad byte) []byte {
	block := append(k.buf[:0], secret...)
	block = append(block, make([]byte, h.BlockSize()-len(secret))...)
	for i := range block {
		block[i] ^= pad
	}
	h.Reset()
	h.Write(block)
	clear(block)
	state, err := h.(encoding.BinaryAppender).AppendBinary(state[:0])
	if err != nil {
		panic("mls: state of a hash: " + err.Error())
	}
	return state
}

// done wipes k, which must not be used any more.
func (k *kdf) done() {
	clear(k.ipad)
	clear(k.opad)
	clear(k.buf[:cap(k.buf)])
	k.inner.Reset()
	k.outer.Reset()
	kdfs[k.s.hash].Put(k)
}

// mac leaves the HMAC of k.buf in k.sum.
func (k *kdf) mac() {
	restore(k.inner, k.ipad)
	k.inner.Write(k.buf)
	k.sum = k.inner.Sum(k.sum[:0])
	restore(k.outer, k.opad)
	k.outer.Write(k.sum)
	k.sum = k.outer.Sum(k.sum[:0])
}

func restore(h hash.Hash, state []byte) {
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic("mls: state of a hash: " + err.Error())
	}
}

// expand fills out with ExpandWithLabel(secret, name, context, len(out)).
func (k *kdf) expand(out []byte, name string, context []byte) {
	if len(out) > 255*k.s.nh {
		panic("mls: expand: too long") // callers bound the length
	}
	length := len(out)
	for i := byte(1); len(out) > 0; i++ {
		k.buf = k.buf[:0]
		if i > 1 {
			k.buf = append(k.buf, k.sum...)
		}
		k.buf = codec.AppendU16(k.buf, uint16(length))
		k.buf = codec.AppendVarint(k.buf, len(label)+len(name))
		k.buf = append(append(k.buf, label...), name...)
		k.buf = append(codec.AppendVec(k.buf, context), i)
		k.mac()
		out = out[copy(out, k.sum):]
	}
	clear(k.sum)
}

// secret returns ExpandWithLabel(secret, name, context, Nh).
func (k *kdf) secret(name string, context []byte) []byte {
	out := make([]byte, k.s.nh)
	k.expand(out, name, context)
	return out
}

// derive returns DeriveSecret(secret, name) of Section 8.
func (k *kdf) derive(name string) []byte { return k.secret(name, nil) }

func (s *suite) deriveSecret(secret []byte, name string) []byte {
	return s.expandWithLabel(secret, name, nil, s.nh)
}

func (s *suite) expandWithLabel(secret []byte, name string, context []byte, length int) []byte {
	out := make([]byte, length)
	k := s.kdf(secret)
	defer k.done()
	k.expand(out, name, context)
	return out
}

// extract is KDF.Extract. A nil salt or secret stands for Nh zero bytes.
func (s *suite) extract(salt, secret []byte) []byte {
	zero := make([]byte, s.nh)
	if salt == nil {
		salt = zero
	}
	if secret == nil {
		secret = zero
	}
	out, err := hkdf.Extract(s.new, secret, salt)
	if err != nil {
		panic("mls: extract: " + err.Error()) // unreachable outside FIPS-only mode
	}
	return out
}

// hashes holds hashes that are not in use.
var hashes = map[crypto.Hash]*sync.Pool{crypto.SHA256: {}, crypto.SHA384: {}, crypto.SHA512: {}}

func (s *suite) sum(parts ...[]byte) []byte {
	h, ok := hashes[s.hash].Get().(hash.Hash)
	if !ok {
		h = s.new()
	}
	for _, p := range parts {
		h.Write(p)
	}
	out := h.Sum(make([]byte, 0, s.nh))
	h.Reset()
	hashes[s.hash].Put(h)
	return out
}

func (s *suite) mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(s.new, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// refHash is RefHash of Section 5.2; name comes with its prefix.
func (s *suite) refHash(name string, value []byte) []byte {
	return s.sum(codec.AppendVarint(codec.AppendVec(nil, name), len(value)), value)
}

// newAEAD returns the suite's AEAD under key.
func (s *suite) newAEAD(key []byte) (cipher.AEAD, error) {
	if s.id == X25519ChaCha20 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s *suite) open(key, nonce, ciphertext, aad []byte) ([]byte, error) {
	a, err := s.newAEAD(key)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, nonce, ciphertext, aad)
}

// appendSignContent begins SignContent of Section 5.1.2; size bytes of content follow.
func appendSignContent(b []byte, name string, size int) []byte {
	b = codec.AppendVarint(b, len(label)+len(name))
	b = append(append(b, label...), name...)
	return codec.AppendVarint(b, size)
}

func signContent(name string, content []byte) []byte {
	b := make([]byte, 0, len(label)+len(name)+len(content)+5)
	return append(appendSignContent(b, name, len(content)), content...)
}

func (s *suite) sign(signer crypto.Signer, name string, content []byte) ([]byte, error) {
	return s.appendSignature(nil, signer, signContent(name, content))
}

// appendSignature signs a SignContent.
func (s *suite) appendSignature(b []byte, signer crypto.Signer, content []byte) ([]byte, error) {
	opts := crypto.SignerOpts(crypto.Hash(0))
	if s.curve == nil {
		switch signer := signer.(type) {
		case ed25519.PrivateKey:
			return append(b, ed25519.Sign(signer, content)...), nil
		case interface {
			AppendSignature(b, message []byte) []byte
		}:
			return signer.AppendSignature(b, content), nil
		}
	} else {
		h := s.new()
		h.Write(content)
		content, opts = h.Sum(nil), s.hash
	}
	signature, err := signer.Sign(rand.Reader, content, opts)
	return append(b, signature...), err
}

func (s *suite) verify(key []byte, name string, content, signature []byte) bool {
	w := newWorkspace()
	defer w.done()
	w.buf = append(appendSignContent(w.buf, name, len(content)), content...)
	return s.verifyRaw(key, w.buf, signature)
}

// verifyRaw verifies a signature over a SignContent.
func (s *suite) verifyRaw(key, content, signature []byte) bool {
	if s.curve == nil {
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, content, signature)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(s.curve, key)
	if err != nil {
		return false
	}
	h := s.new()
	h.Write(content)
	return ecdsa.VerifyASN1(pub, h.Sum(nil), signature)
}

// signatureKey returns the public key of signer as the tree holds it.
func (s *suite) signatureKey(signer crypto.Signer) ([]byte, error) {
	if signer == nil {
		return nil, fmt.Errorf("%w: no signer", ErrInvalid)
	}
	return s.encodeSignatureKey(signer.Public())
}

func (s *suite) encodeSignatureKey(key crypto.PublicKey) ([]byte, error) {
	switch key := key.(type) {
	case ed25519.PublicKey:
		if s.curve == nil {
			return bytes.Clone(key), nil
		}
	case *ecdsa.PublicKey:
		if s.curve == key.Curve {
			return key.Bytes()
		}
	}
	return nil, fmt.Errorf("%w: signature key of another algorithm than that of suite %v", ErrInvalid, s.id)
}

// SignatureKey returns key, an ed25519.PublicKey or *ecdsa.PublicKey, as leaves hold
// it. It serves to compare a leaf with its certificate: they must have one key
// (RFC 9420, Section 5.3).
func (s Suite) SignatureKey(key crypto.PublicKey) ([]byte, error) {
	suite, err := s.lookup()
	if err != nil {
		return nil, err
	}
	return suite.encodeSignatureKey(key)
}

// A privateKey is an HPKE private key. It is parsed when it is used, once:
// parsing one of X25519 costs a scalar multiplication.
type privateKey struct {
	raw   []byte
	parse func() (hpke.PrivateKey, error)
}

func (s *suite) storedKey(raw []byte) *privateKey {
	return &privateKey{raw: raw, parse: sync.OnceValues(func() (hpke.PrivateKey, error) {
		k, err := s.kem.NewPrivateKey(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: private key: %w", ErrCorrupt, err)
		}
		return k, nil
	})}
}

func parsedKey(k hpke.PrivateKey) (*privateKey, error) {
	raw, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	return &privateKey{raw: raw, parse: func() (hpke.PrivateKey, error) { return k, nil }}, nil
}

func (s *suite) generateKey() (*privateKey, error) {
	k, err := s.kem.GenerateKey()
	if err != nil {
		return nil, err
	}
	return parsedKey(k)
}

// deriveKey is KEM.DeriveKeyPair.
func (s *suite) deriveKey(secret []byte) (*privateKey, error) {
	k, err := s.kem.DeriveKeyPair(secret)
	if err != nil {
		return nil, err
	}
	return parsedKey(k)
}

// public returns the public half of a key of one's own.
func (k *privateKey) public() []byte {
	key, err := k.parse()
	if err != nil {
		panic("mls: own key does not parse: " + err.Error())
	}
	return key.PublicKey().Bytes()
}

var errPublicKey = errors.New("not a public key of the suite")

// checkPublicKey tells whether key can be encrypted to.
func (s *suite) checkPublicKey(key []byte) error {
	if s.id == XWing {
		// As KEM.NewPublicKey does it, without what that prepares for encrypting: half as
		// much work as a signature, and 7 KB.
		if len(key) != mlkem.EncapsulationKeySize768+32 || !reduced(key[:mlkem.EncapsulationKeySize768-32]) ||
			lowOrder([32]byte(key[len(key)-32:])) {
			return errPublicKey
		}
		return nil
	}
	if _, err := s.kem.NewPublicKey(key); err != nil {
		return errPublicKey
	}
	// The other suites with Ed25519 are those with X25519.
	if s.curve == nil && lowOrder([32]byte(key[len(key)-32:])) {
		return errPublicKey
	}
	return nil
}

// reduced reports whether the coefficients in an ML-KEM key, of 12 bits each, are those of
// a polynomial: below q (the modulus check of FIPS 203, Section 7.2).
func reduced(key []byte) bool {
	const q = 3329
	for ; len(key) > 0; key = key[3:] {
		a, b, c := uint(key[0]), uint(key[1]), uint(key[2])
		if a|b&0xf<<8 >= q || b>>4|c<<4 >= q {
			return false
		}
	}
	return true
}

// lowOrder reports whether an X25519 public key is of low order: its product with any
// private key is zero, so that encrypting to it fails (RFC 7748, Section 6.1). In a
// tree it would keep every other member from committing.
func lowOrder(key [32]byte) bool {
	key[31] &= 0x7f // which does not count
	for i := range lowOrderPoints {
		if key == lowOrderPoints[i] {
			return true
		}
	}
	return false
}

// lowOrderPoints are the u-coordinates of the points whose order divides 8, of the curve
// and of its twist, with those that are not reduced: 0, 1, two of order 8, p-1, p, p+1.
var lowOrderPoints = [...][32]byte{
	{},
	{1},
	{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	},
	{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	},
	nearP(0xec),
	nearP(0xed),
	nearP(0xee),
}

// nearP returns the number next to p = 2^255 - 19 whose lowest byte is low.
func nearP(low byte) (b [32]byte) {
	for i := range b {
		b[i] = 0xff
	}
	b[0], b[31] = low, 0x7f
	return b
}

// hpkeCiphertext is HPKECiphertext of Section 7.6.
type hpkeCiphertext struct{ kemOutput, ciphertext []byte }

func (c *hpkeCiphertext) encode(b []byte) []byte {
	return codec.AppendVec(codec.AppendVec(b, c.kemOutput), c.ciphertext)
}

func decodeHPKECiphertext(r *codec.Reader) hpkeCiphertext {
	c := hpkeCiphertext{r.Vec(maxVec), r.Vec(maxVec)}
	if r.Err() == nil && (len(c.kemOutput) < minKEMOutput || len(c.ciphertext) < tagSize) {
		r.Fail("ciphertext of %d bytes with a KEM output of %d", len(c.ciphertext), len(c.kemOutput))
	}
	return c
}

func encryptContext(name string, context []byte) []byte {
	b := make([]byte, 0, len(label)+len(name)+len(context)+8)
	b = codec.AppendVarint(b, len(label)+len(name))
	b = append(append(b, label...), name...)
	return codec.AppendVec(b, context)
}

// encryptWithLabel is EncryptWithLabel of Section 5.1.3.
func (s *suite) encryptWithLabel(key []byte, name string, context, plaintext []byte) (hpkeCiphertext, error) {
	return s.encrypt(key, encryptContext(name, context), plaintext)
}

// encrypt is encryptWithLabel for who encrypts much in one context.
func (s *suite) encrypt(key, context, plaintext []byte) (c hpkeCiphertext, err error) {
	pub, err := s.kem.NewPublicKey(key)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrInvalid, errPublicKey)
	}
	enc, sender, err := hpke.NewSender(pub, s.hkdf, s.aead, context)
	if err != nil {
		return c, fmt.Errorf("%w: encrypt to a public key: %w", ErrInvalid, err)
	}
	ct, err := sender.Seal(nil, plaintext)
	return hpkeCiphertext{enc, ct}, err
}

// decryptWithLabel is DecryptWithLabel of Section 5.1.3.
func (s *suite) decryptWithLabel(key *privateKey, name string, context []byte, c hpkeCiphertext) ([]byte, error) {
	k, err := key.parse()
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(c.kemOutput, k, s.hkdf, s.aead, encryptContext(name, context))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrAuthentication, name, err)
	}
	plaintext, err := recipient.Open(nil, c.ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not decrypt", ErrAuthentication, name)
	}
	return plaintext, nil
}
