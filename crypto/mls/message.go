package mls

import (
	"fmt"

	"sotto/crypto/codec"
)

// wireFormat says what an MLSMessage holds (RFC 9420, Section 6).
type wireFormat uint16

const (
	wirePublicMessage  wireFormat = 1
	wirePrivateMessage wireFormat = 2
	wireWelcome        wireFormat = 3
	wireGroupInfo      wireFormat = 4
	wireKeyPackage     wireFormat = 5
)

func appendMessageHeader(b []byte, w wireFormat) []byte {
	return codec.AppendU16(codec.AppendU16(b, version), uint16(w))
}

// messageHeaderLen = 2 + 2 // version, wire format
const messageHeaderLen = 4

// present reads the first byte of an optional value (Section 2.1.1), or a flag.
func present(r *codec.Reader) bool {
	b := r.U8()
	if b > 1 {
		r.Fail("optional value or flag with %d", b)
	}
	return b == 1
}

// readMessageHeader begins to read an MLSMessage.
func readMessageHeader(b []byte) (codec.Reader, wireFormat, error) {
	r := *codec.NewReader(b)
	if len(b) > maxVec {
		return r, 0, fmt.Errorf("read message: %w: %d bytes, at most %d", codec.ErrMalformed, len(b), maxVec)
	}
	v, w := r.U16(), wireFormat(r.U16())
	if r.Err() == nil && v != version {
		return r, 0, fmt.Errorf("read message: %w: protocol version %d", ErrUnsupported, v)
	}
	if r.Err() == nil && (w < wirePublicMessage || w > wireKeyPackage) {
		return r, 0, fmt.Errorf("read message: %w: wire format %d", ErrUnsupported, w)
	}
	return r, w, r.Err()
}

// readMessageOf reads the header of an MLSMessage that must be of format w.
func readMessageOf(b []byte, w wireFormat) (*codec.Reader, error) {
	r, got, err := readMessageHeader(b)
	if err != nil {
		return nil, err
	}
	if got != w {
		return nil, fmt.Errorf("read message: %w: wire format %d where %d belongs", codec.ErrMalformed, got, w)
	}
	return &r, nil
}

// MessageInfo is what anyone can read of a message to a group.
type MessageInfo struct {
	GroupID []byte // part of the message
	Epoch   uint64
	Type    ContentType
	Public  bool // a PublicMessage
}

// Peek reads the unauthenticated header of an MLSMessage with a PublicMessage or
// PrivateMessage, for instance to find its group.
func Peek(msg []byte) (MessageInfo, error) {
	r, w, err := readMessageHeader(msg)
	if err != nil {
		return MessageInfo{}, err
	}
	switch w {
	case wirePrivateMessage:
		p := decodePrivateHeader(&r)
		return MessageInfo{GroupID: p.groupID, Epoch: p.epoch, Type: p.kind}, r.Err()
	case wirePublicMessage:
		var f framedContent
		f.decodeHeader(&r)
		return MessageInfo{GroupID: f.groupID, Epoch: f.epoch, Type: f.kind, Public: true}, r.Err()
	}
	return MessageInfo{}, fmt.Errorf("read message: %w: wire format %d is not for a group", codec.ErrMalformed, w)
}
