package blob

import (
	"bytes"
	"slices"
	"testing"
)

func TestChunks(t *testing.T) {
	for _, tt := range []struct {
		size int
		lens []int
	}{
		{1, []int{1}},
		{ChunkSize - 1, []int{ChunkSize - 1}},
		{ChunkSize, []int{ChunkSize}},
		{ChunkSize + 1, []int{ChunkSize, 1}},
		{3 * ChunkSize, []int{ChunkSize, ChunkSize, ChunkSize}},
		{MaxSize, slices.Repeat([]int{ChunkSize}, 16)},
	} {
		b := make([]byte, tt.size)
		for i := range b {
			b[i] = byte(i / ChunkSize)
		}
		var lens []int
		var all []byte
		for i := range AllChunks(tt.size).Each() {
			if !AllChunks(tt.size).Has(i) || AllChunks(tt.size).Without(i).Has(i) {
				t.Errorf("%d bytes: chunk %d is in the set and is not", tt.size, i)
			}
			lens = append(lens, ChunkLen(tt.size, i))
			all = append(all, Chunk(b, i)...)
		}
		if !slices.Equal(lens, tt.lens) || !bytes.Equal(all, b) {
			t.Errorf("%d bytes have chunks of %v, want %v", tt.size, lens, tt.lens)
		}
		for _, i := range []int{-1, len(tt.lens), 16, 1 << 40} {
			if ChunkLen(tt.size, i) != 0 || Chunk(b, i) != nil || AllChunks(tt.size).Has(i) {
				t.Errorf("%d bytes have a chunk %d", tt.size, i)
			}
		}
	}
}

// Each bit of the blob and of the question counts.
func TestAudit(t *testing.T) {
	b := []byte("sealed bytes")
	a := NewAudit(b)
	if Answer(a.Nonce, b) != a.MAC {
		t.Error("the right answer is wrong")
	}
	if NewAudit(b).Nonce == a.Nonce {
		t.Error("a question is asked twice")
	}
	for i := range b {
		other := bytes.Clone(b)
		other[i] ^= 1
		if Answer(a.Nonce, other) == a.MAC {
			t.Errorf("without byte %d the answer is the same", i)
		}
	}
	if Answer([32]byte{}, b) == a.MAC || Answer(a.Nonce, b[:5]) == a.MAC {
		t.Error("another question has the same answer")
	}
}
