package content

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// packAbove is the size from which on packing is tried: below it the padding of the
// envelope leaves nothing to gain.
const packAbove = 512

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd} // no array of CBOR begins so

var (
	packer = must(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)))
	// One goroutine, and no more memory than a message may take: what claims to be
	// larger is refused before it is unpacked.
	unpacker = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxEncoded), zstd.WithDecoderMaxWindow(MaxEncoded)))
)

// Pack returns what is sealed for an encoded message: a frame of zstd if that is
// shorter, else the message itself. Each is packed by itself: what one holds changes the
// size of no other.
func Pack(encoded []byte) []byte {
	if len(encoded) <= packAbove {
		return encoded
	}
	if packed := packer.EncodeAll(encoded, nil); len(packed) < len(encoded) {
		return packed
	}
	return encoded
}

// Unpack returns the message in what was sealed. It returns an error that wraps
// ErrMalformed for a frame that is damaged or of more than MaxEncoded bytes.
func Unpack(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, zstdMagic) {
		return b, nil
	}
	out, err := unpacker.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(out) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(out), MaxEncoded)
	}
	return out, nil
}
