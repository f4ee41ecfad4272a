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
	MaxTicket    = 255
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

// FirstChunk is how much of a frame is allocated on the word of its length alone.
const FirstChunk = 16 << 10

// ReadFrame reads a frame. Its body is newly allocated, after the length has been
// checked, and grows with what has come: who announces much and sends little holds
// little. It returns io.EOF if the stream ends between frames.
func ReadFrame(r FrameReader) (Frame, error) {
	return ReadFrameRoom(r, func(int) error { return nil })
}

// ReadFrameRoom is like ReadFrame and asks room before a frame grows over FirstChunk
// to its n bytes. If room returns an error, it skips the frame and returns that error
// with the frame's type and id: the stream goes on behind it.
func ReadFrameRoom(r FrameReader, room func(n int) error) (Frame, error) {
	n, err := readLength(r)
	if err != nil {
		return Frame{}, err
	}
	b := make([]byte, min(n, FirstChunk))
	for have := 0; ; {
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return Frame{}, cutOff(err)
		}
		if have = len(b); have == n {
			break
		}
		if have == FirstChunk {
			if full := room(n); full != nil {
				if _, err := io.CopyN(io.Discard, r, int64(n-have)); err != nil {
					return Frame{}, cutOff(err)
				}
				return Frame{Type: Type(b[0]), ID: binary.BigEndian.Uint32(b[1:])}, full
			}
		}
		grown := make([]byte, min(n, 4*have))
		copy(grown, b)
		b = grown
	}
	return Frame{Type: Type(b[0]), ID: binary.BigEndian.Uint32(b[1:]), Body: b[MinFrame:]}, nil
}

func readLength(r io.ByteReader) (int, error) {
	n := 0
	for i := 0; ; i++ {
		c, err := r.ReadByte()
		if err != nil {
			if i > 0 {
				err = cutOff(err)
			}
			return 0, err
		}
		n |= int(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, fmt.Errorf("%w: a length that is not the shortest", ErrFrame)
			}
			break
		}
		if i == 2 {
			return 0, fmt.Errorf("%w: a length of more than 3 bytes", ErrFrame)
		}
	}
	if n < MinFrame || n > MaxFrame {
		return 0, fmt.Errorf("%w: %d bytes, allowed are %d to %d", ErrFrame, n, MinFrame, MaxFrame)
	}
	return n, nil
}

// cutOff is the error of a stream that ends within a frame.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
