// Package wire is the protocol between a relay and its clients, written down in
// spec/relay.md: frames, structures, what is signed, limits and error codes. It
// does no I/O but to read and write a frame.
//
// What is parsed refers to the bytes it was parsed from.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"sotto/crypto/codec"
)

// Type is the type of a frame.
type Type uint8

// The types of spec/relay.md, section 2.
const (
	THello       Type = 0x01
	TProve       Type = 0x02
	TCreate      Type = 0x03
	TAppend      Type = 0x04
	TRead        Type = 0x05
	TStatus      Type = 0x06
	TSubscribe   Type = 0x07
	TUnsubscribe Type = 0x08
	TCredit      Type = 0x09
	TTrim        Type = 0x0a
	TDelete      Type = 0x0b
	TSlotCreate  Type = 0x10
	TSlotRead    Type = 0x11
	TSlotTake    Type = 0x12
	TSlotSet     Type = 0x13
	TSlotState   Type = 0x14
	TSlotRevoke  Type = 0x15
	TPing        Type = 0x20
	TOK          Type = 0x80
	TError       Type = 0x81
	TEvent       Type = 0x82
	TGoAway      Type = 0x83
)

// Limits of spec/relay.md, sections 2 and 6.
const (
	Version      = 1
	MaxFrame     = 300 << 10 // bytes of a frame
	MinFrame     = 5
	MaxInFlight  = 32   // requests of a session under way at once
	MaxProofs    = 256  // in one PROVE
	MaxCursors   = 256  // in one SUBSCRIBE
	MaxSubscribe = 2000 // subscriptions of a session
	MaxCredit    = 1<<31 - 1
	MaxPing      = 64
)

// ErrFrame is wrapped when a frame's length is not allowed: the stream is lost.
var ErrFrame = errors.New("not a frame")

// Frame is one unit on a stream.
type Frame struct {
	Type Type
	ID   uint32
	Body []byte
}

// Append appends the frame with its length in front. It panics if the frame is
// over MaxFrame: bodies are bounded before they are made.
func (fr Frame) Append(b []byte) []byte {
	n := MinFrame + len(fr.Body)
	if n > MaxFrame {
		panic(fmt.Sprintf("wire: a frame of %d bytes", n))
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = codec.AppendU32(codec.AppendU8(b, uint8(fr.Type)), fr.ID)
	return append(b, fr.Body...)
}

// FrameReader is what frames are read from.
type FrameReader interface {
	io.Reader
	io.ByteReader
}

// ReadFrame reads a frame. Its body is newly allocated, after the length has been
// checked. It returns io.EOF if the stream ends between frames.
func ReadFrame(r FrameReader) (Frame, error) {
	var n uint64
	for i := 0; ; i++ {
		c, err := r.ReadByte()
		if err != nil {
			if i > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return Frame{}, fmt.Errorf("%w: a length that is not the shortest", ErrFrame)
			}
			break
		}
		if i == 2 {
			return Frame{}, fmt.Errorf("%w: a length of more than 3 bytes", ErrFrame)
		}
	}
	if n < MinFrame || n > MaxFrame {
		return Frame{}, fmt.Errorf("%w: %d bytes, allowed are %d to %d", ErrFrame, n, MinFrame, MaxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Type: Type(b[0]), ID: binary.BigEndian.Uint32(b[1:]), Body: b[MinFrame:]}, nil
}
