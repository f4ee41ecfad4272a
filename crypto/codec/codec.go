// Package codec reads and writes the TLS presentation language: the bytes of
// everything Sotto signs, stores or sends to a relay.
//
// Integers are big-endian. A vector, written x<V> in spec/ and in RFC 9420, is
// a length of one, two or four bytes followed by that many bytes of content;
// the length has the variable form of RFC 9420, Section 2.1.2, and must take the
// shortest of the three (values below 2^6, 2^14 and 2^30).
//
// Writing appends to a slice, like package strconv:
//
//	b = codec.AppendU32(b, e.Seq)
//	b = codec.AppendVec(b, e.Body)
//
// Reading goes through a [Reader], which keeps its first error, so that a
// structure is read field by field and checked once:
//
//	r := codec.NewReader(b)
//	e.Seq = r.U32()
//	e.Body = r.Vec(maxBody)
//	return r.Done()
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// ErrMalformed is wrapped by every error of a [Reader]: the bytes are not what
// their type demands. Reading the same bytes again fails again.
var ErrMalformed = errors.New("malformed")

// MaxVec is the largest content of a vector, in bytes.
const MaxVec = 1<<30 - 1

// AppendU8 appends one byte.
func AppendU8(b []byte, v uint8) []byte { return append(b, v) }

// AppendU16 appends two bytes.
func AppendU16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }

// AppendU32 appends four bytes.
func AppendU32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// AppendU64 appends eight bytes.
func AppendU64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// AppendVarint appends the length n of a vector. It panics if n is over
// [MaxVec]: lengths are bounded long before they are written.
func AppendVarint(b []byte, n int) []byte {
	switch {
	case n < 0 || n > MaxVec:
		panic(fmt.Sprintf("codec: a vector of %d bytes", n))
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(n)|0x4000)
	}
	return binary.BigEndian.AppendUint32(b, uint32(n)|0x8000_0000)
}

// VarintLen returns how many bytes [AppendVarint] appends for n.
func VarintLen(n int) int {
	switch {
	case n < 1<<6:
		return 1
	case n < 1<<14:
		return 2
	}
	return 4
}

// AppendVec appends v as a vector.
func AppendVec[T ~[]byte | ~string](b []byte, v T) []byte {
	return append(AppendVarint(b, len(v)), v...)
}

// AppendVecFunc appends a vector whose content is what write appends. It is for
// vectors of structures, whose length is not known before they are written.
func AppendVecFunc(b []byte, write func([]byte) []byte) []byte {
	start := len(b)
	b = write(append(b, 0)) // most contents are short
	n := len(b) - start - 1
	if extra := VarintLen(n) - 1; extra > 0 {
		b = slices.Grow(b, extra)[:len(b)+extra]
		copy(b[start+1+extra:], b[start+1:len(b)-extra])
	}
	AppendVarint(b[start:start], n)
	return b
}

// Reader takes a structure apart from the front. After its first error every
// method returns zero values, and [Reader.Err] and [Reader.Done] that error. The
// slices it returns are parts of the input: who keeps them longer than the input
// copies them.
type Reader struct {
	rest  cryptobyte.String
	total int
	err   error
}

// NewReader returns a Reader of b.
func NewReader(b []byte) *Reader { return &Reader{rest: b, total: len(b)} }

// Fail makes the Reader's error one about the bytes read last, unless it has an
// error already. Callers use it for values that are well formed but not allowed.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at byte %d: %s", ErrMalformed, r.total-len(r.rest), fmt.Sprintf(format, args...))
		r.rest = nil
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Done returns the first error, and one if not everything has been read.
func (r *Reader) Done() error {
	if r.err == nil && len(r.rest) > 0 {
		r.Fail("%d bytes too many", len(r.rest))
	}
	return r.err
}

// Len returns how many bytes are left; 0 after an error, so that a loop over
// the elements of a vector ends.
func (r *Reader) Len() int { return len(r.rest) }

// Rest returns all that is left.
func (r *Reader) Rest() []byte { return r.Bytes(len(r.rest)) }

// U8 reads one byte.
func (r *Reader) U8() (v uint8) {
	if !r.rest.ReadUint8(&v) {
		r.Fail("ends early")
	}
	return v
}

// U16 reads two bytes.
func (r *Reader) U16() (v uint16) {
	if !r.rest.ReadUint16(&v) {
		r.Fail("ends early")
	}
	return v
}

// U32 reads four bytes.
func (r *Reader) U32() (v uint32) {
	if !r.rest.ReadUint32(&v) {
		r.Fail("ends early")
	}
	return v
}

// U64 reads eight bytes.
func (r *Reader) U64() (v uint64) {
	if !r.rest.ReadUint64(&v) {
		r.Fail("ends early")
	}
	return v
}

// Bytes reads exactly n bytes.
func (r *Reader) Bytes(n int) []byte {
	var v []byte
	if !r.rest.ReadBytes(&v, n) {
		r.Fail("ends early: %d bytes wanted, %d left", n, len(r.rest))
	}
	return v
}

// Copy reads exactly len(into) bytes into into; it is for arrays.
func (r *Reader) Copy(into []byte) {
	if !r.rest.CopyBytes(into) {
		r.Fail("ends early: %d bytes wanted, %d left", len(into), len(r.rest))
	}
}

// Varint reads the length of a vector.
func (r *Reader) Varint() int {
	first := r.U8()
	v := uint32(first & 0x3f)
	switch first >> 6 {
	case 0:
		return int(v)
	case 1:
		v = v<<8 | uint32(r.U8())
		if v < 1<<6 {
			r.Fail("a length of %d takes two bytes", v)
		}
	case 2:
		v = v<<24 | uint32(r.U8())<<16 | uint32(r.U16())
		if v < 1<<14 {
			r.Fail("a length of %d takes four bytes", v)
		}
	default:
		r.Fail("a length begins with %#02x", first)
	}
	if r.err != nil {
		return 0
	}
	return int(v)
}

// Vec reads a vector of at most limit bytes. A longer one is an error before
// anything is done with its content.
func (r *Reader) Vec(limit int) []byte {
	n := r.Varint()
	if n > limit {
		r.Fail("a vector of %d bytes where at most %d are allowed", n, limit)
		return nil
	}
	return r.Bytes(n)
}

// Sub reads a vector of at most limit bytes and returns a Reader of its content.
// The caller hands the sub-reader's error back by [Reader.Take].
func (r *Reader) Sub(limit int) *Reader {
	b := r.Vec(limit)
	return &Reader{rest: b, total: len(b), err: r.err}
}

// Take adopts err, the error of a structure nested in this one.
func (r *Reader) Take(err error) {
	if r.err == nil && err != nil {
		r.err = err
		r.rest = nil
	}
}

// Each reads a vector of at most limit bytes and calls element until its content
// is used up. Element must read at least one byte each time.
func (r *Reader) Each(limit int, element func(r *Reader)) {
	sub := r.Sub(limit)
	for sub.Len() > 0 {
		before := sub.Len()
		element(sub)
		if sub.Len() == before && sub.err == nil {
			panic("codec: an element of no bytes")
		}
	}
	r.Take(sub.err)
}
