package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"sotto/crypto/codec"
)

type spillVector struct {
	Name    string   `json:"name"`
	Seed    hexBytes `json:"seed"`
	Content hexBytes `json:"content"`
	Spilled hexBytes `json:"spilled"` // what stands for it
	Blob    hexBytes `json:"blob"`
}

type spillFile struct {
	Good []spillVector       `json:"good"`
	Bad  map[string]hexBytes `json:"bad"` // malformed
}

// spec/envelope.md, section 4.
func TestSpillVectors(t *testing.T) {
	var v spillFile
	for name, content := range map[string][]byte{"short": []byte("a commit"), "beyond the floor": fill(0x61, 1100)} {
		s, blobs, err := Spill([32]byte(fill(0x11, 32)), content)
		if err != nil || len(blobs) != 1 {
			t.Fatal(len(blobs), err)
		}
		v.Good = append(v.Good, spillVector{name, fill(0x11, 32), content, s.Append(nil), blobs[0]})
	}
	good := v.Good[0].Spilled
	with := func(change func(b []byte) []byte) hexBytes { return change(bytes.Clone(good)) }
	v.Bad = map[string]hexBytes{
		"another tag":       with(func(b []byte) []byte { b[1]++; return b }),
		"no content":        with(func(b []byte) []byte { clear(b[2:6]); return b }),
		"too much content":  with(func(b []byte) []byte { b[2] = 1; return b }),
		"too few blobs":     with(func(b []byte) []byte { b[3] = 0x50; return b }),
		"half an id":        with(func(b []byte) []byte { b = b[:len(b)-16]; b[38] = 16; return b }),
		"cut off":           with(func(b []byte) []byte { return b[:len(b)-1] }),
		"one byte too many": with(func(b []byte) []byte { return append(b, 0) }),
		"no blobs":          with(func(b []byte) []byte { b = b[:39]; b[38] = 0; return b }),
		"an id too many": with(func(b []byte) []byte {
			return append(append(b[:38:38], 0x40, 0x40), append(good[39:len(good):len(good)], good[39:]...)...)
		}),
		"nothing": {},
	}
	loadVectors(t, "spill.json", &v)
	for _, g := range v.Good {
		s, blobs, err := Spill([32]byte(g.Seed), g.Content)
		if err != nil || !bytes.Equal(s.Append(nil), g.Spilled) || !bytes.Equal(blobs[0], g.Blob) {
			t.Errorf("%s: Spill = %x, %x, %v", g.Name, s.Append(nil), blobs, err)
		}
		back, err := ParseSpilled(g.Spilled)
		if err != nil || !bytes.Equal(back.Append(nil), g.Spilled) {
			t.Fatalf("%s: ParseSpilled: %v", g.Name, err)
		}
		if content, err := back.Open([][]byte{g.Blob}); err != nil || !bytes.Equal(content, g.Content) {
			t.Errorf("%s: Open = %x, %v", g.Name, content, err)
		}
	}
	if len(v.Bad) == 0 {
		t.Error("no bad vectors")
	}
	for name, b := range v.Bad {
		if _, err := ParseSpilled(b); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%s: ParseSpilled: %v, want ErrMalformed", name, err)
		}
	}
}

// What is too large for one blob comes back out of several, and only out of these in
// this order.
func TestSpillInSeveralBlobs(t *testing.T) {
	for _, size := range []int{1, 3 << 20, blobSize, MaxSpill} {
		content := bytes.Repeat([]byte{7, 8, 9}, size/3+1)[:size]
		s, blobs, err := Spill(NewSpillSeed(), content)
		if err != nil {
			t.Fatal(err)
		}
		s, err = ParseSpilled(s.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Open(blobs); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d come back, %v", size, len(got), err)
		}
		for i := range blobs {
			changed := append([][]byte(nil), blobs...)
			changed[i] = append([]byte{blobs[i][0] ^ 1}, blobs[i][1:]...)
			if _, err := s.Open(changed); !errors.Is(err, ErrDamaged) {
				t.Errorf("%d bytes, blob %d changed: %v", size, i, err)
			}
		}
		if len(blobs) > 1 {
			blobs[0], blobs[1] = blobs[1], blobs[0]
			if _, err := s.Open(blobs); !errors.Is(err, ErrDamaged) {
				t.Errorf("%d bytes, out of order: %v", size, err)
			}
		}
	}
	if _, _, err := Spill(NewSpillSeed(), make([]byte, MaxSpill+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
}

// A seed that seals two contents does not seal them under one key.
func TestSpillSeedTwice(t *testing.T) {
	seed := NewSpillSeed()
	a, _, _ := Spill(seed, []byte("one"))
	b, _, _ := Spill(seed, []byte("two"))
	if a.key() == b.key() {
		t.Error("one key for two contents")
	}
	if text := fmt.Sprintf("%v %+v %d %x", a, a, a, a); bytes.Contains([]byte(text), fmt.Appendf(nil, "%x", a.key())) {
		t.Errorf("it prints its key: %s", text)
	}
}

func FuzzParseSpilled(f *testing.F) {
	s, _, _ := Spill([32]byte{1}, []byte("content"))
	f.Add(s.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSpilled(b); err == nil && !bytes.Equal(s.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}
