package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// The examples of RFC 9420, Section 2.1.2 (they are those of RFC 9000, A.1).
func TestVarint(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{0, "00"}, {37, "25"}, {63, "3f"}, {64, "4040"}, {15293, "7bbd"}, {16383, "7fff"},
		{16384, "80004000"}, {494878333, "9d7f3e7d"}, {MaxVec, "bfffffff"},
	} {
		b := AppendVarint(nil, tt.n)
		if got := hex.EncodeToString(b); got != tt.want {
			t.Errorf("AppendVarint(%d) = %s, want %s", tt.n, got, tt.want)
		}
		if got := VarintLen(tt.n); got != len(b) {
			t.Errorf("VarintLen(%d) = %d, want %d", tt.n, got, len(b))
		}
		r := NewReader(b)
		if got := r.Varint(); got != tt.n || r.Done() != nil {
			t.Errorf("Varint(%s) = %d, %v, want %d", tt.want, got, r.Err(), tt.n)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"length of 37 in two bytes", "4025", "takes two bytes"},
		{"length of 37 in four bytes", "80000025", "takes four bytes"},
		{"the reserved length form", "c000000000000000", "begins with 0xc0"},
		{"length cut off", "40", "ends early"},
		{"content cut off", "0501020304", "ends early"},
		{"one byte over the limit", "0b" + strings.Repeat("00", 11), "at most 10"},
		{"one byte left over", "010000", "1 bytes too many"},
		{"nothing", "", "ends early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := hex.DecodeString(tt.in)
			r := NewReader(b)
			r.Vec(10)
			err := r.Done()
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("reading %s: %v, want %q", tt.in, err, tt.want)
			}
			if r.U64() != 0 || r.Len() != 0 || r.Vec(10) != nil {
				t.Error("a Reader goes on after its error")
			}
		})
	}
}

func TestAppendVecFunc(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 16383, 16384, 70000} {
		content := bytes.Repeat([]byte{7}, n)
		got := AppendVecFunc([]byte("before"), func(b []byte) []byte { return append(b, content...) })
		want := AppendVec([]byte("before"), content)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: AppendVecFunc and AppendVec differ", n)
		}
	}
}

func TestEach(t *testing.T) {
	b := AppendVecFunc(nil, func(b []byte) []byte {
		for i := range uint16(100) {
			b = AppendU16(b, i)
		}
		return b
	})
	var got []uint16
	r := NewReader(b)
	r.Each(200, func(r *Reader) { got = append(got, r.U16()) })
	if err := r.Done(); err != nil || len(got) != 100 || got[99] != 99 {
		t.Errorf("Each read %d elements, %v", len(got), err)
	}
	r = NewReader(append([]byte{3}, 0, 1, 2))
	r.Each(200, func(r *Reader) { r.U16() })
	if r.Done() == nil {
		t.Error("half an element was read as one")
	}
}

// What has been read once is written again as the same bytes: there is one
// encoding of every value.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{0x40, 0x40})
	f.Add(append([]byte{0x80, 0, 0x40, 0}, make([]byte, 1<<14)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(b)
		v := r.Vec(len(b))
		n := r.U16()
		w := r.Vec(100)
		if r.Done() != nil {
			return
		}
		out := AppendVec(AppendU16(AppendVec(nil, v), n), w)
		if !bytes.Equal(out, b) {
			t.Errorf("%x was read, and written as %x", b, out)
		}
	})
}
