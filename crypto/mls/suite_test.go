package mls

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"fmt"
	"testing"

	"sotto/crypto/codec"
)

// The KDF is HKDF-Expand as the standard library has it, for every hash and any
// length, and its reuse leaves no trace.
func TestKDF(t *testing.T) {
	for _, s := range suites {
		secret := make([]byte, s.nh)
		for length := 1; length < 4*s.nh; length += 7 {
			rand.Read(secret)
			context := bytes.Repeat([]byte{7}, length)
			info := codec.AppendVec(codec.AppendU16(nil, uint16(length)), "MLS 1.0 test")
			want, err := hkdf.Expand(s.new, secret, string(codec.AppendVec(info, context)), length)
			if err != nil {
				t.Fatal(err)
			}
			k := s.kdf(secret)
			for range 2 {
				got := make([]byte, length)
				k.expand(got, "test", context)
				same(t, fmt.Sprint(s.name, " ", length), got, want)
			}
			k.done()
		}
	}
}

// A message does not leave much to the garbage collector, however large the group
// and whoever speaks.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector makes allocations of its own")
	}
	ds := newGroupOf(t, X25519AES128, "ana", "ben", "cem")
	ana, ben, cem := ds[0].g, ds[1].g, ds[2].g
	content := make([]byte, 1024)
	const runs = 50
	var msgs [][]byte
	send := testing.AllocsPerRun(2*runs, func() {
		msg, err := ana.Encrypt(content, nil)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, msg)
		ana, ben = ben, ana
	})
	receive := testing.AllocsPerRun(2*runs, func() {
		if _, err := cem.Process(msgs[0], nil); err != nil {
			t.Fatal(err)
		}
		msgs = msgs[1:]
	})
	if send > 6 || receive > 6 {
		t.Errorf("%v allocations to send, %v to receive", send, receive)
	}
}
