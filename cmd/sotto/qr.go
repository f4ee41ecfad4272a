package main

import (
	"fmt"
	"io"
	"strings"

	"rsc.io/qr"
)

// quiet is how many light modules a reader wants around a code.
const quiet = 4

// showQR draws text as a QR code, two modules in a character. Light modules are
// drawn and dark ones left out: on a dark terminal it is as printed, on a light one
// inverted, which readers take as well.
func showQR(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return fmt.Errorf("draw a QR code of %d characters: %w", len(text), err)
	}
	light := func(x, y int) bool { return !code.Black(x, y) } // outside too
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			below := light(x, y+1) && y+1 < code.Size+quiet
			switch {
			case light(x, y) && below:
				b.WriteRune('█')
			case light(x, y):
				b.WriteRune('▀')
			case below:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	_, err = io.WriteString(w, b.String())
	return err
}
