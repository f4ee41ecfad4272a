package envelope

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

type blobVector struct {
	Key    hexBytes `json:"key"`
	Nonce  hexBytes `json:"nonce"`
	Plain  hexBytes `json:"plain"`
	Sealed hexBytes `json:"sealed_sha256"`
	Size   int      `json:"size"`
}

// spec/envelope.md, section 4.
func TestBlobVectors(t *testing.T) {
	v := blobVector{Key: bytes.Repeat([]byte{1}, BlobKeySize), Nonce: bytes.Repeat([]byte{2}, 24), Plain: []byte("a pack of history")}
	digest := func(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }
	make := func(v blobVector) []byte { return sealBlob(v.Plain, append([]byte{version}, v.Nonce...), v.Key) }
	sealed := make(v)
	v.Sealed, v.Size = digest(sealed), len(sealed)
	loadVectors(t, "blob.json", &v)
	sealed = make(v)
	if !bytes.Equal(digest(sealed), v.Sealed) || len(sealed) != v.Size {
		t.Errorf("made now: %d bytes, %x", len(sealed), digest(sealed))
	}
	if got, err := OpenBlob(sealed, v.Key); err != nil || !bytes.Equal(got, v.Plain) {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestBlob(t *testing.T) {
	for _, n := range []int{0, 1, blobStep - 4, blobStep - 3, MaxBlob} {
		plain := bytes.Repeat([]byte{7}, n)
		sealed, key, err := SealBlob(plain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := OpenBlob(sealed, key); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes come back as %d, %v", n, len(got), err)
		}
		if rest := (len(sealed) - blobFront - 16) % blobStep; rest != 0 {
			t.Errorf("%d bytes are sealed as %d", n, len(sealed))
		}
	}
	if _, _, err := SealBlob(make([]byte, MaxBlob+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too much: %v", err)
	}
	sealed, key, _ := SealBlob([]byte("x"))
	for i := 1; i < len(sealed); i += 997 {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		if _, err := OpenBlob(b, key); !errors.Is(err, ErrNotOurs) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for _, b := range [][]byte{nil, sealed[:1], sealed[:blobFront], sealed[:len(sealed)-1]} {
		if _, err := OpenBlob(b, key); err == nil {
			t.Errorf("%d bytes are opened", len(b))
		}
	}
	if _, err := OpenBlob(sealed, key[:31]); err == nil {
		t.Error("a short key opens it")
	}
}

// A relay gives out what it likes; another device of the account pads as it likes.
func FuzzOpenBlob(f *testing.F) {
	key := bytes.Repeat([]byte{1}, BlobKeySize)
	front := append([]byte{version}, make([]byte, 24)...)
	f.Add(sealBlob([]byte("x"), bytes.Clone(front), key), true)
	f.Add([]byte{0, 0, 0, 1, 'x', 0}, false)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, raw bool) {
		if !raw { // sealed as a device could that does not keep to the format
			b = aead.Seal(bytes.Clone(front), front[1:], b, blobLabel)
		}
		plain, err := OpenBlob(b, key)
		if err != nil {
			return
		}
		if again := sealBlob(plain, bytes.Clone(b[:blobFront]), key); len(again) > len(b) {
			t.Errorf("%d bytes open as what is sealed as %d", len(b), len(again))
		}
	})
}
