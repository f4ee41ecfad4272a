package node

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	_ "image/png"

	"sotto/node/conversation"
)

// A picture as people choose it.
const (
	MaxPictureFile = 16 << 20 // bytes
	maxPixels      = 50_000_000
	pictureSide    = 128
)

// ShrinkPicture makes the picture of a group out of a JPEG or PNG: its middle, 128 pixels
// square, as a JPEG of at most 8 KiB. What the file says beside the picture (where and when
// it was taken, with what) is not kept. It returns ErrTooLarge and ErrInvalid.
func ShrinkPicture(file []byte) ([]byte, error) {
	if len(file) > MaxPictureFile {
		return nil, fmt.Errorf("%w: a picture of %d bytes, at most %d", ErrTooLarge, len(file), MaxPictureFile)
	}
	// The header first: a small file can claim to be a very large picture.
	c, format, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil || format != "jpeg" && format != "png" {
		return nil, fmt.Errorf("%w: this is no JPEG or PNG", ErrInvalid)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxPixels/c.Height {
		return nil, fmt.Errorf("%w: a picture of %d by %d pixels, at most %d in all", ErrTooLarge, c.Width, c.Height, maxPixels)
	}
	img, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("%w: the picture does not decode: %w", ErrInvalid, err)
	}
	small := shrink(img, pictureSide)
	for quality := 90; quality > 0; quality -= 10 {
		var out bytes.Buffer
		if err := jpeg.Encode(&out, small, &jpeg.Options{Quality: quality}); err != nil {
			return nil, err
		}
		if out.Len() <= conversation.MaxPicture {
			return out.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("%w: the picture does not become small enough", ErrTooLarge)
}

// shrink returns the middle square of a picture, side pixels wide, each the mean of what it
// covers. What is transparent becomes white.
func shrink(img image.Image, side int) image.Image {
	b := img.Bounds()
	n := min(b.Dx(), b.Dy())
	left, top := b.Min.X+(b.Dx()-n)/2, b.Min.Y+(b.Dy()-n)/2
	out := image.NewRGBA(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			var sum [3]uint64
			var count uint64
			for v := y * n / side; v < max((y+1)*n/side, y*n/side+1); v++ {
				for u := x * n / side; u < max((x+1)*n/side, x*n/side+1); u++ {
					r, g, b, a := img.At(left+u, top+v).RGBA()
					white := uint64(0xffff - a)
					sum[0], sum[1], sum[2] = sum[0]+uint64(r)+white, sum[1]+uint64(g)+white, sum[2]+uint64(b)+white
					count++
				}
			}
			out.SetRGBA(x, y, color.RGBA{uint8(sum[0] / count >> 8), uint8(sum[1] / count >> 8), uint8(sum[2] / count >> 8), 0xff})
		}
	}
	return out
}

// shownPicture returns a group's picture if it is one: a member's bytes go to no viewer
// that would have to find out.
func shownPicture(p []byte) []byte {
	c, format, err := image.DecodeConfig(bytes.NewReader(p))
	if err != nil || format != "jpeg" || c.Width > pictureSide || c.Height > pictureSide {
		return nil
	}
	return p
}
