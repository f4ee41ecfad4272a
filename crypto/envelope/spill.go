package envelope

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/crypto/chacha20poly1305"

	"sotto/crypto/codec"
)

// Of what is spilled (spec/envelope.md, section 4), in bytes.
const (
	MaxSpill      = 7 << 20 // of the content
	SpillSeedSize = 32
	blobSize      = 4 << 20 // of each blob but the last
	maxBlobs      = 2
	spilledTag    = 0xf055 // where an MLSMessage has its version
)

// Spilled names what is too large for an entry or a letter: it lies, sealed, in blobs,
// and stands in its place. Who has it can read the content; it prints without its key.
type Spilled struct {
	Size  int        // of the content
	Blobs [][32]byte // ids, in order
	key   func() [32]byte
}

// NewSpillSeed draws what Spill seals content under.
func NewSpillSeed() (seed [SpillSeedSize]byte) { rand.Read(seed[:]); return seed }

// Spill seals content and returns the blobs that are to be stored before what names
// them is handed out. The same seed and content always make the same blobs, so that
// those need not be kept; another content makes another key.
func Spill(seed [SpillSeedSize]byte, content []byte) (Spilled, [][]byte, error) {
	if len(content) > MaxSpill {
		return Spilled{}, nil, fmt.Errorf("spill: %w: %d bytes, at most %d", ErrTooLarge, len(content), MaxSpill)
	}
	h := hmac.New(sha256.New, seed[:])
	h.Write(content)
	k := [32]byte(h.Sum(nil))
	padded := make([]byte, paddedSize(len(content)), paddedSize(len(content))+chacha20poly1305.Overhead)
	binary.BigEndian.PutUint32(padded, uint32(len(content)))
	copy(padded[lengthSize:], content)
	// One key seals one content: the nonce is always the same.
	sealed := spillAEAD(k).Seal(padded[:0], make([]byte, nonceSize), padded, spillAAD)
	s := Spilled{Size: len(content), key: func() [32]byte { return k }}
	var blobs [][]byte
	for ; len(sealed) > 0; sealed = sealed[min(blobSize, len(sealed)):] {
		b := sealed[:min(blobSize, len(sealed))]
		blobs, s.Blobs = append(blobs, b), append(s.Blobs, sha256.Sum256(b))
	}
	return s, blobs, nil
}

var spillAAD = []byte("sotto/spill/1")

func spillAEAD(k [32]byte) cipher.AEAD {
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		panic("envelope: " + err.Error()) // unreachable: the key has its size
	}
	return aead
}

// Open returns the content of blobs whose ids are those of s, in their order. What
// does not open is the fault of who made s, never of who kept the blobs.
func (s Spilled) Open(blobs [][]byte) ([]byte, error) {
	var sealed []byte
	if len(blobs) != len(s.Blobs) {
		return nil, fmt.Errorf("open what was spilled: %w: %d blobs, want %d", codec.ErrMalformed, len(blobs), len(s.Blobs))
	}
	for i, b := range blobs {
		if sha256.Sum256(b) != s.Blobs[i] {
			return nil, fmt.Errorf("open what was spilled: %w: another blob", ErrDamaged)
		}
		if i+1 < len(blobs) && len(b) != blobSize {
			return nil, fmt.Errorf("open what was spilled: %w: a blob of %d bytes before the last", ErrPadding, len(b))
		}
		sealed = append(sealed, b...)
	}
	padded, err := spillAEAD(s.key()).Open(sealed[:0], make([]byte, nonceSize), sealed, spillAAD)
	if err != nil {
		return nil, fmt.Errorf("open what was spilled: %w", ErrDamaged)
	}
	if len(padded) != paddedSize(s.Size) || int64(binary.BigEndian.Uint32(padded)) != int64(s.Size) || !allZero(padded[lengthSize+s.Size:]) {
		return nil, fmt.Errorf("open what was spilled: %w", ErrPadding)
	}
	return padded[lengthSize:][:s.Size], nil
}

// Append appends the bytes that stand for the content.
func (s Spilled) Append(b []byte) []byte {
	k := s.key()
	b = append(codec.AppendU32(codec.AppendU16(b, spilledTag), uint32(s.Size)), k[:]...)
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, id := range s.Blobs {
			b = append(b, id[:]...)
		}
		return b
	})
}

// IsSpilled reports whether b stands for an MLSMessage and is none.
func IsSpilled(b []byte) bool { return len(b) >= 2 && binary.BigEndian.Uint16(b) == spilledTag }

// ParseSpilled reads what Append wrote. The number of blobs is that of the size.
func ParseSpilled(b []byte) (s Spilled, err error) {
	r := codec.NewReader(b)
	if t := r.U16(); r.Err() == nil && t != spilledTag {
		r.Fail("a tag %04x", t)
	}
	s.Size = int(r.U32())
	if s.Size < 1 || s.Size > MaxSpill {
		r.Fail("%d bytes spilled", s.Size)
	}
	var k [32]byte
	r.Copy(k[:])
	s.key = func() [32]byte { return k }
	r.Each(maxBlobs*32, func(r *codec.Reader) {
		var id [32]byte
		r.Copy(id[:])
		s.Blobs = append(s.Blobs, id)
	})
	if sealed := paddedSize(max(s.Size, 0)) + chacha20poly1305.Overhead; r.Err() == nil && len(s.Blobs) != (sealed+blobSize-1)/blobSize {
		r.Fail("%d blobs for %d bytes", len(s.Blobs), s.Size)
	}
	if err := r.Done(); err != nil {
		return Spilled{}, fmt.Errorf("read what was spilled: %w", err)
	}
	return s, nil
}

func (s Spilled) String() string {
	return fmt.Sprintf("%d bytes in %d blobs", s.Size, len(s.Blobs))
}

// Format implements [fmt.Formatter]: every verb prints String.
func (s Spilled) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Spilled) LogValue() slog.Value { return slog.StringValue(s.String()) }
