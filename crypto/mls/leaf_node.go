package mls

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// maxVec bounds every vector, and with it every message, that this package
// reads: 16 MiB. A tree of 1,000 leaves with X-Wing keys takes 3.
const maxVec = 1 << 24

// Lists whose elements may be as short as a byte or two take many times their
// length in memory. More of them than anyone needs are not read.
const (
	maxCertificates    = 1 << 7
	maxExtensions      = 1 << 10
	maxExternalSenders = 1 << 10
)

// tooMany ends the reading of a list that has n elements already.
func tooMany(r *codec.Reader, what string, n int) {
	r.Take(fmt.Errorf("%w: more than %d %s", ErrUnsupported, n, what))
}

// version is mls10, the only protocol version.
const version = 1

// LeafIndex numbers the leaves of a group's tree from the left. It names a
// member within one epoch; a later member may get the index of a removed one.
type LeafIndex uint32

// CredentialType says what a [Credential] holds.
type CredentialType uint16

// The credential types of RFC 9420, Section 5.3.
const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// Credential says who a member is (RFC 9420, Section 5.3). To this package it
// is opaque; the application judges it in [Config.ValidateCredential].
type Credential struct {
	Type         CredentialType
	Identity     []byte   // of a basic credential
	Certificates [][]byte // of an X.509 credential: DER, the end entity first
}

// BasicCredential returns the basic credential with the given identity.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

func (c *Credential) encode(b []byte) []byte {
	b = codec.AppendU16(b, uint16(c.Type))
	if c.Type == CredentialX509 {
		return codec.AppendVecFunc(b, func(b []byte) []byte {
			for _, cert := range c.Certificates {
				b = codec.AppendVec(b, cert)
			}
			return b
		})
	}
	return codec.AppendVec(b, c.Identity)
}

func (c *Credential) decode(r *codec.Reader) {
	c.Type = CredentialType(r.U16())
	switch c.Type {
	case CredentialBasic:
		c.Identity = r.Vec(maxVec)
	case CredentialX509:
		r.Each(maxVec, func(r *codec.Reader) {
			if len(c.Certificates) == maxCertificates {
				tooMany(r, "certificates in a credential", maxCertificates)
				return
			}
			c.Certificates = append(c.Certificates, r.Vec(maxVec))
		})
	default:
		// The length of what follows is not known, so there is no skipping it.
		if r.Err() == nil {
			r.Take(fmt.Errorf("%w: credential type %#04x", ErrUnsupported, uint16(c.Type)))
		}
	}
}

// ExtensionType names an extension. Values from 0xF000 are for private use.
type ExtensionType uint16

// The extension types of RFC 9420, Section 17.3. Every implementation knows
// them; all others must be listed in the capabilities of who uses them.
const (
	ExtensionApplicationID        ExtensionType = 1
	ExtensionRatchetTree          ExtensionType = 2
	ExtensionRequiredCapabilities ExtensionType = 3
	ExtensionExternalPub          ExtensionType = 4
	ExtensionExternalSenders      ExtensionType = 5
)

// isDefault reports whether t needs no mention in capabilities (Section 7.2).
func (t ExtensionType) isDefault() bool { return t >= 1 && t <= 5 }

// Extension is data under a type (RFC 9420, Section 13.4).
type Extension struct {
	Type ExtensionType
	Data []byte
}

// Extensions is a list of extensions with at most one of each type.
type Extensions []Extension

// Get returns the data of the extension of type t, and whether there is one.
func (x Extensions) Get(t ExtensionType) ([]byte, bool) {
	for i := range x {
		if x[i].Type == t {
			return x[i].Data, true
		}
	}
	return nil, false
}

func (x Extensions) encode(b []byte) []byte {
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range x {
			b = codec.AppendVec(codec.AppendU16(b, uint16(x[i].Type)), x[i].Data)
		}
		return b
	})
}

func decodeExtensions(r *codec.Reader) (x Extensions) {
	r.Each(maxVec, func(r *codec.Reader) {
		if len(x) == maxExtensions {
			tooMany(r, "extensions", maxExtensions)
			return
		}
		x = append(x, Extension{ExtensionType(r.U16()), r.Vec(maxVec)})
	})
	if r.Err() == nil {
		if err := x.check(); err != nil {
			r.Fail("%v", err)
		}
	}
	return x
}

// check looks for a type that occurs twice (Section 13.4).
func (x Extensions) check() error {
	var seen map[ExtensionType]bool
	if len(x) > 8 {
		seen = make(map[ExtensionType]bool, len(x))
	}
	for i := range x {
		t := x[i].Type
		twice := seen[t]
		if seen == nil {
			_, twice = x[:i].Get(t)
		} else {
			seen[t] = true
		}
		if twice {
			return fmt.Errorf("%w: two extensions of type %#04x", ErrInvalid, uint16(t))
		}
	}
	return nil
}

func (x Extensions) equal(y Extensions) bool {
	return slices.EqualFunc(x, y, func(a, b Extension) bool {
		return a.Type == b.Type && bytes.Equal(a.Data, b.Data)
	})
}

// Capabilities lists what a member understands (RFC 9420, Section 7.2). Types
// that every implementation understands are not listed.
type Capabilities struct {
	Versions    []uint16
	Suites      []Suite
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// DefaultCapabilities returns the capabilities of this package with suite s,
// basic credentials and the application's own extension types.
func DefaultCapabilities(s Suite, extensions ...ExtensionType) Capabilities {
	return Capabilities{
		Versions:    []uint16{version},
		Suites:      []Suite{s},
		Extensions:  extensions,
		Credentials: []CredentialType{CredentialBasic},
	}
}

func (c *Capabilities) encode(b []byte) []byte {
	b = appendU16s(b, c.Versions)
	b = appendU16s(b, c.Suites)
	b = appendU16s(b, c.Extensions)
	b = appendU16s(b, c.Proposals)
	return appendU16s(b, c.Credentials)
}

func (c *Capabilities) decode(r *codec.Reader) {
	c.Versions = readU16s[uint16](r)
	c.Suites = readU16s[Suite](r)
	c.Extensions = readU16s[ExtensionType](r)
	c.Proposals = readU16s[ProposalType](r)
	c.Credentials = readU16s[CredentialType](r)
}

func appendU16s[T ~uint16](b []byte, vs []T) []byte {
	b = codec.AppendVarint(b, 2*len(vs))
	for _, v := range vs {
		b = codec.AppendU16(b, uint16(v))
	}
	return b
}

func readU16s[T ~uint16](r *codec.Reader) (vs []T) {
	sub := r.Sub(maxVec)
	if n := sub.Len() / 2; n > 0 {
		vs = make([]T, 0, n)
	}
	for sub.Len() > 0 {
		vs = append(vs, T(sub.U16()))
	}
	r.Take(sub.Err())
	return vs
}

// RequiredCapabilities is the extension of a group's context that says what
// every member must understand (RFC 9420, Section 11.1).
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// Extension returns rc as an extension of a group's context.
func (rc RequiredCapabilities) Extension() Extension {
	b := appendU16s(nil, rc.Extensions)
	b = appendU16s(b, rc.Proposals)
	return Extension{ExtensionRequiredCapabilities, appendU16s(b, rc.Credentials)}
}

// ParseRequiredCapabilities reads the data of such an extension.
func ParseRequiredCapabilities(data []byte) (rc RequiredCapabilities, err error) {
	r := codec.NewReader(data)
	rc.Extensions = readU16s[ExtensionType](r)
	rc.Proposals = readU16s[ProposalType](r)
	rc.Credentials = readU16s[CredentialType](r)
	if err := r.Done(); err != nil {
		return RequiredCapabilities{}, fmt.Errorf("read required_capabilities: %w", err)
	}
	return rc, nil
}

// Lifetime is the time in which a key package may be used, in seconds since
// 1970, both ends included.
type Lifetime struct{ NotBefore, NotAfter uint64 }

// Contains reports whether the time now, in seconds since 1970, lies in l.
func (l Lifetime) Contains(now uint64) bool { return l.NotBefore <= now && now <= l.NotAfter }

// LeafNodeSource says how a leaf came into the tree.
type LeafNodeSource uint8

// The sources of RFC 9420, Section 7.2.
const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// LeafNode is what a group knows about a member (RFC 9420, Section 7.2). The
// package hands out leaves that groups share: they must not be changed.
type LeafNode struct {
	EncryptionKey []byte // an HPKE public key
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // if Source is SourceKeyPackage
	ParentHash    []byte   // if Source is SourceCommit
	Extensions    Extensions
	Signature     []byte

	encoded []byte // the whole, made once when the leaf is read or signed
}

// encodeUnsigned appends all but the signature.
func (l *LeafNode) encodeUnsigned(b []byte) []byte {
	b = codec.AppendVec(b, l.EncryptionKey)
	b = codec.AppendVec(b, l.SignatureKey)
	b = l.Credential.encode(b)
	b = l.Capabilities.encode(b)
	b = codec.AppendU8(b, uint8(l.Source))
	switch l.Source {
	case SourceKeyPackage:
		b = codec.AppendU64(b, l.Lifetime.NotBefore)
		b = codec.AppendU64(b, l.Lifetime.NotAfter)
	case SourceCommit:
		b = codec.AppendVec(b, l.ParentHash)
	}
	return l.Extensions.encode(b)
}

func (l *LeafNode) encode(b []byte) []byte {
	if l.encoded != nil {
		return append(b, l.encoded...)
	}
	return codec.AppendVec(l.encodeUnsigned(b), l.Signature)
}

func (l *LeafNode) same(o *LeafNode) bool { return l == o || bytes.Equal(l.encoded, o.encoded) }

func decodeLeafNode(r *codec.Reader) *LeafNode {
	l := readLeafNode(r)
	if r.Err() != nil {
		return l
	}
	// Leaves live long. One that is part of its own encoding does not keep the
	// message or tree that it came in.
	encoded := l.encode(nil)
	l = readLeafNode(codec.NewReader(encoded))
	l.encoded = encoded
	return l
}

func readLeafNode(r *codec.Reader) *LeafNode {
	l := &LeafNode{}
	l.EncryptionKey = r.Vec(maxVec)
	l.SignatureKey = r.Vec(maxVec)
	l.Credential.decode(r)
	l.Capabilities.decode(r)
	l.Source = LeafNodeSource(r.U8())
	switch l.Source {
	case SourceKeyPackage:
		l.Lifetime = Lifetime{r.U64(), r.U64()}
	case SourceUpdate:
	case SourceCommit:
		l.ParentHash = r.Vec(maxVec)
	default:
		r.Fail("leaf node source %d", l.Source)
	}
	l.Extensions = decodeExtensions(r)
	l.Signature = r.Vec(maxVec)
	return l
}

// tbs appends what a leaf's signature is over (Section 7.2). A leaf made within
// a group is bound to the group and its place.
func (l *LeafNode) tbs(b, groupID []byte, leaf LeafIndex) []byte {
	b = l.encodeUnsigned(b)
	if l.Source != SourceKeyPackage {
		b = codec.AppendU32(codec.AppendVec(b, groupID), uint32(leaf))
	}
	return b
}

func (l *LeafNode) sign(s *suite, signer crypto.Signer, groupID []byte, leaf LeafIndex) (err error) {
	l.encoded = nil
	if l.Signature, err = s.sign(signer, "LeafNodeTBS", l.tbs(nil, groupID, leaf)); err != nil {
		return fmt.Errorf("sign leaf node: %w", err)
	}
	l.encoded = l.encode(nil)
	return nil
}

func (l *LeafNode) verify(s *suite, groupID []byte, leaf LeafIndex) error {
	w := newWorkspace()
	defer w.done()
	w.buf = l.tbs(w.buf, groupID, leaf)
	if !s.verify(l.SignatureKey, "LeafNodeTBS", w.buf, l.Signature) {
		return fmt.Errorf("%w: signature of the leaf node", ErrAuthentication)
	}
	return nil
}

// validate checks what can be said of a leaf by itself: its signature, its keys,
// and that it lists what it uses (Section 7.3). The other members' part is in
// ratchetTree.checkMembers.
func (l *LeafNode) validate(s *suite, source LeafNodeSource, groupID []byte, leaf LeafIndex) error {
	if l.Source != source {
		return fmt.Errorf("%w: leaf node of source %d where %d belongs", ErrInvalid, l.Source, source)
	}
	if err := s.checkPublicKey(l.EncryptionKey); err != nil {
		return fmt.Errorf("%w: encryption key of the leaf node: %w", ErrInvalid, err)
	}
	if err := l.checkListed(s); err != nil {
		return err
	}
	return l.verify(s, groupID, leaf)
}

// checkListed verifies that a leaf lists what it uses.
func (l *LeafNode) checkListed(s *suite) error {
	caps := &l.Capabilities
	switch {
	case !slices.Contains(caps.Versions, version):
		return fmt.Errorf("%w: leaf node does not list the protocol version", ErrInvalid)
	case !slices.Contains(caps.Suites, s.id):
		return fmt.Errorf("%w: leaf node does not list suite %v", ErrInvalid, s.id)
	case !slices.Contains(caps.Credentials, l.Credential.Type):
		return fmt.Errorf("%w: leaf node does not list its credential type", ErrInvalid)
	}
	if err := l.Extensions.check(); err != nil {
		return err
	}
	for _, x := range l.Extensions {
		if !x.Type.isDefault() && !slices.Contains(caps.Extensions, x.Type) {
			return fmt.Errorf("%w: leaf node does not list its extension %#04x", ErrInvalid, uint16(x.Type))
		}
	}
	return nil
}

// supports checks that l lists what the extensions of a group's context demand
// (Sections 7.3, 11.1 and 13.4). required may be nil.
func (l *LeafNode) supports(context Extensions, required *RequiredCapabilities) error {
	caps := &l.Capabilities
	for i := range context {
		if t := context[i].Type; !t.isDefault() && !slices.Contains(caps.Extensions, t) {
			return fmt.Errorf("%w: a member does not support the group's extension %#04x", ErrInvalid, uint16(t))
		}
	}
	if required == nil {
		return nil
	}
	for _, t := range required.Extensions {
		if !t.isDefault() && !slices.Contains(caps.Extensions, t) {
			return fmt.Errorf("%w: a member lacks required extension %#04x", ErrInvalid, uint16(t))
		}
	}
	for _, t := range required.Proposals {
		if !t.isDefault() && !slices.Contains(caps.Proposals, t) {
			return fmt.Errorf("%w: a member lacks required proposal type %#04x", ErrInvalid, uint16(t))
		}
	}
	for _, t := range required.Credentials {
		if !slices.Contains(caps.Credentials, t) {
			return fmt.Errorf("%w: a member lacks required credential type %#04x", ErrInvalid, uint16(t))
		}
	}
	return nil
}
