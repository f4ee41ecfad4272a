package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"testing"

	"sotto/node/conversation"
)

func picture(t *testing.T, w, h int, encode func(b *bytes.Buffer, img image.Image) error) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	rng := rand.New(rand.NewPCG(1, 2))
	for y := range h {
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{uint8(rng.Uint32()), uint8(x), uint8(y), 255})
		}
	}
	var b bytes.Buffer
	if err := encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asPNG(b *bytes.Buffer, img image.Image) error  { return png.Encode(b, img) }
func asJPEG(b *bytes.Buffer, img image.Image) error { return jpeg.Encode(b, img, nil) }

func TestShrinkPicture(t *testing.T) {
	withNote := func(b []byte) []byte { // a comment, where a camera says what it knows
		note := "taken at home"
		seg := append([]byte{0xff, 0xfe, 0, byte(2 + len(note))}, note...)
		return append(append(append([]byte(nil), b[:2]...), seg...), b[2:]...)
	}
	huge := picture(t, 2, 2, asPNG) // whose header lies
	binary.BigEndian.PutUint32(huge[16:], 1<<20)
	binary.BigEndian.PutUint32(huge[20:], 1<<20)
	binary.BigEndian.PutUint32(huge[29:], crc32.ChecksumIEEE(huge[12:29]))
	good := picture(t, 300, 200, asJPEG)
	for _, tt := range []struct {
		name string
		file []byte
		want error
	}{
		{"jpeg", good, nil},
		{"png", picture(t, 64, 640, asPNG), nil},
		{"one pixel", picture(t, 1, 1, asPNG), nil},
		{"with a note", withNote(good), nil},
		{"nothing", nil, ErrInvalid},
		{"text", []byte("GIF89a is not ours"), ErrInvalid},
		{"cut off", good[:len(good)/2], ErrInvalid},
		{"a very large picture in a small file", huge, ErrTooLarge},
		{"a file too large", make([]byte, MaxPictureFile+1), ErrTooLarge},
	} {
		got, err := ShrinkPicture(tt.file)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			continue
		}
		if tt.want != nil {
			continue
		}
		c, err := jpeg.DecodeConfig(bytes.NewReader(got))
		if err != nil || c.Width != pictureSide || c.Height != pictureSide || len(got) > conversation.MaxPicture {
			t.Errorf("%s: %d bytes, %+v, %v", tt.name, len(got), c, err)
		}
		if bytes.Contains(got, []byte("taken at home")) {
			t.Errorf("%s: the note is kept", tt.name)
		}
		if shownPicture(got) == nil {
			t.Errorf("%s: it is not shown", tt.name)
		}
	}
	if shownPicture(good) != nil || shownPicture([]byte("<svg>")) != nil {
		t.Error("what no node makes is shown")
	}
}
