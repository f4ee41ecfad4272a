package mls

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"sotto/crypto/codec"
)

// SenderType says in which role a message was sent.
type SenderType uint8

// The sender types of RFC 9420, Section 6.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender is who sent a message.
type Sender struct {
	Type SenderType
	Leaf LeafIndex // of a member; of SenderExternal, the place among the external senders
}

func (s Sender) encode(b []byte) []byte {
	b = codec.AppendU8(b, uint8(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		b = codec.AppendU32(b, uint32(s.Leaf))
	}
	return b
}

// size returns how many bytes encode appends.
func (s Sender) size() int {
	if s.Type == SenderMember || s.Type == SenderExternal {
		return 5
	}
	return 1
}

func (s *Sender) decode(r *codec.Reader) {
	s.Type = SenderType(r.U8())
	switch s.Type {
	case SenderMember, SenderExternal:
		s.Leaf = LeafIndex(r.U32())
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.Fail("sender type %d", s.Type)
	}
}

// signsContext reports whether the sender's signatures cover the group's context
// (Section 6.1).
func (s Sender) signsContext() bool {
	return s.Type == SenderMember || s.Type == SenderNewMemberCommit
}

// ContentType says what a message holds.
type ContentType uint8

// The content types of RFC 9420, Section 6.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// framedContent is FramedContent of Section 6. The content itself stands both
// encoded, as body, and decoded.
type framedContent struct {
	groupID  []byte
	epoch    uint64
	sender   Sender
	authData []byte
	kind     ContentType
	body     []byte

	application []byte
	proposal    Proposal
	commit      *commit
}

func (f *framedContent) encode(b []byte) []byte {
	return append(f.encodeHeader(b), f.body...)
}

// encodeHeader appends all but the body.
func (f *framedContent) encodeHeader(b []byte) []byte {
	b = codec.AppendVec(b, f.groupID)
	b = codec.AppendU64(b, f.epoch)
	b = f.sender.encode(b)
	b = codec.AppendVec(b, f.authData)
	return codec.AppendU8(b, uint8(f.kind))
}

func (f *framedContent) decodeHeader(r *codec.Reader) {
	f.groupID = r.Vec(maxVec)
	f.epoch = r.U64()
	f.sender.decode(r)
	f.authData = r.Vec(maxVec)
	f.kind = ContentType(r.U8())
	if f.kind < ContentApplication || f.kind > ContentCommit {
		r.Fail("content type %d", f.kind)
	}
}

// decodeBody reads the content from r, which reads all.
func (f *framedContent) decodeBody(r *codec.Reader, all []byte) {
	start := len(all) - r.Len()
	switch f.kind {
	case ContentApplication:
		f.application = r.Vec(maxVec)
	case ContentProposal:
		f.proposal = decodeProposal(r)
	case ContentCommit:
		f.commit = decodeCommit(r)
	}
	if r.Err() == nil {
		f.body = all[start : len(all)-r.Len()]
	}
}

// authenticatedContent is AuthenticatedContent of Section 6.
type authenticatedContent struct {
	wire      wireFormat
	content   framedContent
	signature []byte
	tag       []byte // confirmation tag, of a commit
}

func (a *authenticatedContent) encode(b []byte) []byte {
	return a.encodeAuth(a.content.encode(codec.AppendU16(b, uint16(a.wire))))
}

func (a *authenticatedContent) encodeAuth(b []byte) []byte {
	b = codec.AppendVec(b, a.signature)
	if a.content.kind == ContentCommit {
		b = codec.AppendVec(b, a.tag)
	}
	return b
}

func (a *authenticatedContent) decodeAuth(r *codec.Reader) {
	a.signature = r.Vec(maxVec)
	if a.content.kind == ContentCommit {
		a.tag = r.Vec(maxVec)
	}
}

// tbs appends FramedContentTBS. context is the encoded GroupContext.
func (a *authenticatedContent) tbs(b, context []byte) []byte {
	b = appendMessageHeader(b, a.wire)
	b = a.content.encode(b)
	if a.content.sender.signsContext() {
		b = append(b, context...)
	}
	return b
}

// signContent appends what the signature is over.
func (a *authenticatedContent) signContent(b, context []byte) []byte {
	f := &a.content
	size := messageHeaderLen + codec.VarintLen(len(f.groupID)) + len(f.groupID) + 8 + f.sender.size() +
		codec.VarintLen(len(f.authData)) + len(f.authData) + 1 + len(f.body)
	if f.sender.signsContext() {
		size += len(context)
	}
	return a.tbs(appendSignContent(slices.Grow(b, size+40), "FramedContentTBS", size), context)
}

func (a *authenticatedContent) sign(s *suite, signer crypto.Signer, context []byte) error {
	return a.signInto(nil, s, signer, context)
}

// signInto is sign with room for the signature.
func (a *authenticatedContent) signInto(room []byte, s *suite, signer crypto.Signer, context []byte) (err error) {
	w := newWorkspace()
	defer w.done()
	w.buf = a.signContent(w.buf, context)
	if a.signature, err = s.appendSignature(room, signer, w.buf); err != nil {
		return fmt.Errorf("sign message: %w", err)
	}
	return nil
}

// signCommit is sign for a commit, which it also encodes, in the place where that is
// signed: one that adds many is megabytes long.
func (a *authenticatedContent) signCommit(s *suite, signer crypto.Signer, context []byte, c *commit) (err error) {
	const room = 32 // for what stands before: label and length
	f := &a.content
	b := make([]byte, room, room+len(f.groupID)+len(f.authData)+32+c.size()+len(context))
	b = f.encodeHeader(appendMessageHeader(b, a.wire))
	body := len(b)
	b = c.encode(b)
	f.body = b[body:len(b):len(b)]
	if f.sender.signsContext() {
		b = append(b, context...)
	}
	var before [room]byte
	n := len(appendSignContent(before[:0], "FramedContentTBS", len(b)-room))
	copy(b[room-n:], before[:n])
	if a.signature, err = s.appendSignature(nil, signer, b[room-n:]); err != nil {
		return fmt.Errorf("sign message: %w", err)
	}
	return nil
}

func (a *authenticatedContent) verify(s *suite, key, context []byte) error {
	w := newWorkspace()
	defer w.done()
	w.buf = a.signContent(w.buf, context)
	if !s.verifyRaw(key, w.buf, a.signature) {
		return fmt.Errorf("%w: signature of the message", ErrAuthentication)
	}
	return nil
}

// A workspace holds what a message needs while it is made or read. It is wiped and
// used again, so that nothing of it is left to the garbage collector.
type workspace struct {
	buf             []byte // what is signed, or the content
	key, senderData messageKey
	sender          [senderDataLen]byte
	signature       [ed25519.SignatureSize]byte
}

var workspaces sync.Pool

func newWorkspace() *workspace {
	if w, ok := workspaces.Get().(*workspace); ok {
		return w
	}
	return new(workspace)
}

func (w *workspace) done() {
	clear(w.buf)
	*w = workspace{buf: w.buf[:0]}
	if cap(w.buf) <= 1<<16 {
		workspaces.Put(w)
	}
}

// proposalRef returns the reference of a proposal (Section 5.2).
func (a *authenticatedContent) proposalRef(s *suite) []byte {
	return s.refHash("MLS 1.0 Proposal Reference", a.encode(nil))
}

// membershipTag is the MAC of Section 6.2.
func (a *authenticatedContent) membershipTag(s *suite, key, context []byte) []byte {
	return s.mac(key, a.encodeAuth(a.tbs(nil, context)))
}

// publicMessage returns a as an MLSMessage.
func (a *authenticatedContent) publicMessage(s *suite, membershipKey, context []byte) []byte {
	b := a.encodeAuth(a.content.encode(appendMessageHeader(nil, a.wire)))
	if a.content.sender.Type == SenderMember {
		b = codec.AppendVec(b, a.membershipTag(s, membershipKey, context))
	}
	return b
}

// decodePublicMessage reads an MLSMessage with a PublicMessage.
func decodePublicMessage(msg []byte) (a *authenticatedContent, membershipTag []byte, err error) {
	r, err := readMessageOf(msg, wirePublicMessage)
	if err != nil {
		return nil, nil, err
	}
	a = &authenticatedContent{wire: wirePublicMessage}
	a.content.decodeHeader(r)
	a.content.decodeBody(r, msg)
	a.decodeAuth(r)
	if a.content.sender.Type == SenderMember {
		membershipTag = r.Vec(maxVec)
	}
	if err := r.Done(); err != nil {
		return nil, nil, fmt.Errorf("read public message: %w", err)
	}
	return a, membershipTag, nil
}

// privateHeader is the clear part of PrivateMessage (Section 6.3).
type privateHeader struct {
	groupID  []byte
	epoch    uint64
	kind     ContentType
	authData []byte

	encryptedSenderData []byte
	ciphertext          []byte
}

func decodePrivateHeader(r *codec.Reader) (p privateHeader) {
	p.groupID = r.Vec(maxVec)
	p.epoch = r.U64()
	p.kind = ContentType(r.U8())
	if p.kind < ContentApplication || p.kind > ContentCommit {
		r.Fail("content type %d", p.kind)
	}
	p.authData = r.Vec(maxVec)
	return p
}

// aads returns the additional data of the content and of the sender data, both
// of which stand at the beginning of the message as they are authenticated.
func (p *privateHeader) aads(msg []byte) (content, senderData []byte) {
	senderEnd := messageHeaderLen + codec.VarintLen(len(p.groupID)) + len(p.groupID) + 8 + 1
	contentEnd := senderEnd + codec.VarintLen(len(p.authData)) + len(p.authData)
	return msg[messageHeaderLen:contentEnd], msg[messageHeaderLen:senderEnd]
}

// senderData says whose key of which number opens a message (Section 6.3.2).
type senderData struct {
	leaf       LeafIndex
	generation uint32
	guard      [4]byte
}

const senderDataLen = 4 + 4 + 4 // leaf, generation, reuse guard

// applyGuard makes the nonce of the key one for this use of it.
func (d *senderData) applyGuard(nonce *[nonceSize]byte) {
	for i, g := range d.guard {
		nonce[i] ^= g
	}
}

// senderDataKey fills key with the key of the sender data, which it derives from a
// sample of the ciphertext (Section 6.3.2).
func (s *suite) senderDataKey(key *messageKey, secret, ciphertext []byte) {
	sample := ciphertext[:min(len(ciphertext), s.nh)]
	d := s.kdf(secret)
	defer d.done()
	d.expand(key.key[:s.nk], "key", sample)
	d.expand(key.nonce[:], "nonce", sample)
}

// seal makes a PrivateMessage in an MLSMessage of a, which is signed. It uses up
// w.key.
func (s *suite) seal(w *workspace, a *authenticatedContent, data senderData, senderSecret []byte, padding int) ([]byte, error) {
	plain := len(a.content.body) + codec.VarintLen(len(a.signature)) + len(a.signature)
	if a.content.kind == ContentCommit {
		plain += codec.VarintLen(len(a.tag)) + len(a.tag)
	}
	padded := plain
	if padding > 0 {
		padded = (plain + padding - 1) / padding * padding
	}
	if padded > maxVec-1024-len(a.content.authData) {
		return nil, fmt.Errorf("%w: a message of %d bytes", ErrInvalid, padded)
	}
	p := privateHeader{groupID: a.content.groupID, authData: a.content.authData}
	out := make([]byte, 0, messageHeaderLen+len(p.groupID)+len(p.authData)+padded+senderDataLen+2*tagSize+32)
	out = appendMessageHeader(out, wirePrivateMessage)
	out = codec.AppendVec(out, p.groupID)
	out = codec.AppendU64(out, a.content.epoch)
	out = codec.AppendU8(out, uint8(a.content.kind))
	out = codec.AppendVec(out, p.authData)
	out = codec.AppendVarint(out, senderDataLen+tagSize)
	sender := len(out)
	out = out[:sender+senderDataLen+tagSize] // filled in below
	out = codec.AppendVarint(out, padded+tagSize)
	start := len(out)
	out = append(out, a.content.body...)
	out = a.encodeAuth(out)
	out = out[:len(out)+padded-plain] // zero still
	contentAAD, senderAAD := p.aads(out)

	data.applyGuard(&w.key.nonce)
	aead, err := s.newAEAD(w.key.key[:s.nk])
	if err != nil {
		return nil, err
	}
	out = aead.Seal(out[:start], w.key.nonce[:], out[start:], contentAAD)

	s.senderDataKey(&w.senderData, senderSecret, out[start:])
	if aead, err = s.newAEAD(w.senderData.key[:s.nk]); err != nil {
		return nil, err
	}
	plainSender := out[sender : sender+senderDataLen]
	binary.BigEndian.PutUint32(plainSender, uint32(data.leaf))
	binary.BigEndian.PutUint32(plainSender[4:], data.generation)
	copy(plainSender[8:], data.guard[:])
	aead.Seal(out[:sender], w.senderData.nonce[:], plainSender, senderAAD)
	return out, nil
}

// openSenderData reads who sent p, which is the whole of msg.
func (s *suite) openSenderData(w *workspace, p *privateHeader, msg, secret []byte) (d senderData, err error) {
	if len(p.encryptedSenderData) != senderDataLen+tagSize || len(p.ciphertext) < tagSize {
		return d, fmt.Errorf("read private message: %w: too short", codec.ErrMalformed)
	}
	s.senderDataKey(&w.senderData, secret, p.ciphertext)
	_, aad := p.aads(msg)
	aead, err := s.newAEAD(w.senderData.key[:s.nk])
	if err != nil {
		return d, err
	}
	plain, err := aead.Open(w.sender[:0], w.senderData.nonce[:], p.encryptedSenderData, aad)
	if err != nil {
		return d, fmt.Errorf("%w: sender data does not decrypt", ErrAuthentication)
	}
	d.leaf = LeafIndex(binary.BigEndian.Uint32(plain))
	d.generation = binary.BigEndian.Uint32(plain[4:])
	copy(d.guard[:], plain[8:])
	return d, nil
}

// openContent decrypts the content of p, which is the whole of msg, into a. It uses
// up w.key. The result shares no memory with msg but for the header's fields.
func (s *suite) openContent(w *workspace, p *privateHeader, msg []byte, d senderData, a *authenticatedContent) error {
	d.applyGuard(&w.key.nonce)
	contentAAD, _ := p.aads(msg)
	aead, err := s.newAEAD(w.key.key[:s.nk])
	if err != nil {
		return err
	}
	plain, err := aead.Open(nil, w.key.nonce[:], p.ciphertext, contentAAD)
	if err != nil {
		return fmt.Errorf("%w: content does not decrypt", ErrAuthentication)
	}
	*a = authenticatedContent{wire: wirePrivateMessage, content: framedContent{
		groupID: p.groupID, epoch: p.epoch, authData: p.authData, kind: p.kind,
		sender: Sender{SenderMember, d.leaf},
	}}
	r := *codec.NewReader(plain)
	a.content.decodeBody(&r, plain)
	a.decodeAuth(&r)
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail("padding that is not zero")
			break
		}
	}
	if err := r.Err(); err != nil {
		return fmt.Errorf("read private message: %w", err)
	}
	return nil
}

// decodePrivateMessage reads a PrivateMessage.
func decodePrivateMessage(r *codec.Reader) (privateHeader, error) {
	p := decodePrivateHeader(r)
	p.encryptedSenderData = r.Vec(maxVec)
	p.ciphertext = r.Vec(maxVec)
	if err := r.Done(); err != nil {
		return p, fmt.Errorf("read private message: %w", err)
	}
	return p, nil
}

// newGuard returns a fresh reuse guard.
func newGuard() (g [4]byte) {
	rand.Read(g[:])
	return g
}

// sameTag compares tags in constant time.
func sameTag(a, b []byte) bool { return hmac.Equal(a, b) }
