package mls

import (
	"bytes"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"sotto/crypto/codec"
)

// KeyPackage is what others need to add a device to a group (RFC 9420,
// Section 10). A parsed key package must not be changed.
type KeyPackage struct {
	Suite      Suite
	InitKey    []byte // an HPKE public key
	LeafNode   *LeafNode
	Extensions Extensions
	Signature  []byte

	encoded []byte
}

func (k *KeyPackage) tbs(b []byte) []byte {
	b = codec.AppendU16(b, version)
	b = codec.AppendU16(b, uint16(k.Suite))
	b = codec.AppendVec(b, k.InitKey)
	b = k.LeafNode.encode(b)
	return k.Extensions.encode(b)
}

func (k *KeyPackage) encode(b []byte) []byte {
	if k.encoded != nil {
		return append(b, k.encoded...)
	}
	return codec.AppendVec(k.tbs(b), k.Signature)
}

func decodeKeyPackage(r *codec.Reader) *KeyPackage {
	k := &KeyPackage{}
	if v := r.U16(); v != version && r.Err() == nil {
		r.Take(fmt.Errorf("%w: key package of protocol version %d", ErrUnsupported, v))
	}
	k.Suite = Suite(r.U16())
	k.InitKey = r.Vec(maxVec)
	k.LeafNode = decodeLeafNode(r)
	k.Extensions = decodeExtensions(r)
	k.Signature = r.Vec(maxVec)
	if r.Err() == nil {
		k.encoded = k.encode(nil)
	}
	return k
}

// Marshal returns the KeyPackage structure, without an MLSMessage around it.
func (k *KeyPackage) Marshal() []byte { return k.encode(nil) }

// Message returns the key package as an MLSMessage.
func (k *KeyPackage) Message() []byte { return k.encode(appendMessageHeader(nil, wireKeyPackage)) }

// Ref returns the hash by which a welcome names the key package (Section 5.2).
func (k *KeyPackage) Ref() ([]byte, error) {
	s, err := k.Suite.lookup()
	if err != nil {
		return nil, err
	}
	return k.ref(s), nil
}

func (k *KeyPackage) ref(s *suite) []byte {
	w := newWorkspace()
	defer w.done()
	w.buf = k.encode(w.buf)
	return s.refHash("MLS 1.0 KeyPackage Reference", w.buf)
}

// ParseKeyPackage reads a KeyPackage structure. It keeps no part of b. It does not
// verify it: see [KeyPackage.Verify].
func ParseKeyPackage(b []byte) (*KeyPackage, error) {
	r := codec.NewReader(bytes.Clone(b))
	k := decodeKeyPackage(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read key package: %w", err)
	}
	return k, nil
}

// ParseKeyPackageMessage is ParseKeyPackage for an MLSMessage.
func ParseKeyPackageMessage(msg []byte) (*KeyPackage, error) {
	if _, err := readMessageOf(msg, wireKeyPackage); err != nil {
		return nil, err
	}
	return ParseKeyPackage(msg[messageHeaderLen:])
}

// Verify checks the key package as Section 10.1 demands, except for the
// credential, the lifetime and what depends on a group.
func (k *KeyPackage) Verify() error {
	s, err := k.Suite.lookup()
	if err != nil {
		return fmt.Errorf("verify key package: %w", err)
	}
	return k.verify(s)
}

func (k *KeyPackage) verify(s *suite) error {
	if k.Suite != s.id {
		return fmt.Errorf("verify key package: %w: it is for suite %v, not %v", ErrInvalid, k.Suite, s.id)
	}
	if err := k.LeafNode.validate(s, SourceKeyPackage, nil, 0); err != nil {
		return fmt.Errorf("verify key package: %w", err)
	}
	if err := k.Extensions.check(); err != nil {
		return fmt.Errorf("verify key package: %w", err)
	}
	if bytes.Equal(k.InitKey, k.LeafNode.EncryptionKey) {
		return fmt.Errorf("verify key package: %w: one key used twice", ErrInvalid)
	}
	if err := s.checkPublicKey(k.InitKey); err != nil {
		return fmt.Errorf("verify key package: %w: init key: %w", ErrInvalid, err)
	}
	w := newWorkspace()
	defer w.done()
	w.buf = k.tbs(w.buf)
	if !s.verify(k.LeafNode.SignatureKey, "KeyPackageTBS", w.buf, k.Signature) {
		return fmt.Errorf("verify key package: %w: its signature", ErrAuthentication)
	}
	return nil
}

// KeyPackageOptions says what goes into a key package.
type KeyPackageOptions struct {
	Suite      Suite
	Signer     crypto.Signer // the device's signature key, of the suite's algorithm
	Credential Credential
	Lifetime   Lifetime // the zero value has passed for who checks it, see CommitOptions.Now

	// Capabilities defaults to DefaultCapabilities of the suite and of the types of
	// the extensions below.
	Capabilities   *Capabilities
	LeafExtensions Extensions // go into the tree
	Extensions     Extensions // stay in the key package
}

// KeyPackageBundle is a key package with its two secret keys. It prints without
// them.
type KeyPackageBundle struct {
	pkg        *KeyPackage
	init, leaf *privateKey
}

// NewKeyPackage makes a key package with fresh keys. Slices in o must not be
// changed afterwards. The bundle must be durable
// before the key package is handed out, or a welcome for it is lost; it is
// deleted once it has been used.
func NewKeyPackage(o KeyPackageOptions) (*KeyPackageBundle, error) {
	s, err := o.Suite.lookup()
	if err != nil {
		return nil, fmt.Errorf("make key package: %w", err)
	}
	leaf, leafKey, err := newLeafNode(s, o)
	if err != nil {
		return nil, fmt.Errorf("make key package: %w", err)
	}
	initKey, err := s.generateKey()
	if err != nil {
		return nil, fmt.Errorf("make key package: %w", err)
	}
	k := &KeyPackage{Suite: o.Suite, InitKey: initKey.public(), LeafNode: leaf, Extensions: o.Extensions}
	if err := k.Extensions.check(); err != nil {
		return nil, fmt.Errorf("make key package: %w", err)
	}
	for _, x := range k.Extensions {
		if !x.Type.isDefault() && !slices.Contains(leaf.Capabilities.Extensions, x.Type) {
			return nil, fmt.Errorf("make key package: %w: its extension %#04x is not listed", ErrInvalid, uint16(x.Type))
		}
	}
	if k.Signature, err = s.sign(o.Signer, "KeyPackageTBS", k.tbs(nil)); err != nil {
		return nil, fmt.Errorf("make key package: %w", err)
	}
	k.encoded = k.encode(nil)
	if err := k.verify(s); err != nil {
		return nil, err
	}
	return &KeyPackageBundle{pkg: k, init: initKey, leaf: leafKey}, nil
}

// newLeafNode makes a leaf as it stands in a key package, and its secret key.
func newLeafNode(s *suite, o KeyPackageOptions) (*LeafNode, *privateKey, error) {
	sigKey, err := s.signatureKey(o.Signer)
	if err != nil {
		return nil, nil, err
	}
	key, err := s.generateKey()
	if err != nil {
		return nil, nil, err
	}
	caps := o.Capabilities
	if caps == nil {
		var own []ExtensionType
		for _, x := range append(o.LeafExtensions[:len(o.LeafExtensions):len(o.LeafExtensions)], o.Extensions...) {
			if !x.Type.isDefault() {
				own = append(own, x.Type)
			}
		}
		c := DefaultCapabilities(s.id, own...)
		c.Credentials = []CredentialType{o.Credential.Type}
		caps = &c
	}
	if err := o.LeafExtensions.check(); err != nil {
		return nil, nil, err
	}
	l := &LeafNode{
		EncryptionKey: key.public(),
		SignatureKey:  sigKey,
		Credential:    o.Credential,
		Capabilities:  *caps,
		Source:        SourceKeyPackage,
		Lifetime:      o.Lifetime,
		Extensions:    o.LeafExtensions,
	}
	return l, key, l.sign(s, o.Signer, nil, 0)
}

// KeyPackage returns the public part.
func (b *KeyPackageBundle) KeyPackage() *KeyPackage { return b.pkg }

// Ref returns the hash by which a welcome names the key package.
func (b *KeyPackageBundle) Ref() []byte {
	ref, err := b.pkg.Ref()
	if err != nil {
		panic("mls: a bundle of an unknown suite: " + err.Error())
	}
	return ref
}

const bundleVersion = 1

// Marshal returns the bundle with its secret keys, for [ParseKeyPackageBundle].
func (b *KeyPackageBundle) Marshal() []byte {
	out := codec.AppendU8(nil, bundleVersion)
	out = codec.AppendVec(out, b.pkg.encode(nil))
	out = codec.AppendVec(out, b.init.raw)
	return codec.AppendVec(out, b.leaf.raw)
}

// ParseKeyPackageBundle reads what Marshal wrote. It keeps no part of in.
func ParseKeyPackageBundle(in []byte) (*KeyPackageBundle, error) {
	r := codec.NewReader(bytes.Clone(in))
	if v := r.U8(); v != bundleVersion {
		return nil, fmt.Errorf("read key package bundle: %w: version %d", ErrCorrupt, v)
	}
	sub := r.Sub(maxVec)
	k := decodeKeyPackage(sub)
	r.Take(sub.Done())
	initKey, leafKey := r.Vec(maxVec), r.Vec(maxVec)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read key package bundle: %w: %w", ErrCorrupt, err)
	}
	s, err := k.Suite.lookup()
	if err != nil {
		return nil, fmt.Errorf("read key package bundle: %w", err)
	}
	return &KeyPackageBundle{pkg: k, init: s.storedKey(initKey), leaf: s.storedKey(leafKey)}, nil
}

func (b *KeyPackageBundle) String() string {
	if b == nil || b.pkg == nil {
		return "no key package"
	}
	return fmt.Sprintf("key package %x", b.Ref()[:4])
}

// Format implements [fmt.Formatter]: every verb prints String.
func (b *KeyPackageBundle) Format(w fmt.State, verb rune) { io.WriteString(w, b.String()) }

// LogValue implements [slog.LogValuer].
func (b *KeyPackageBundle) LogValue() slog.Value { return slog.StringValue(b.String()) }
