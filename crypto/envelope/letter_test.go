package envelope

import (
	"bytes"
	"crypto/hpke"
	"errors"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

var (
	inbox = key.SealingFromSeed(fill(0x44, key.Size))
	box   = [32]byte(fill(0x55, 32))
)

type letterVector struct {
	Name  string     `json:"name"`
	Type  LetterType `json:"type"`
	Body  hexBytes   `json:"body"`
	Entry hexBytes   `json:"entry"`
}

// A badLetter is the first good one with a byte changed, or cut off.
type badLetter struct {
	Name  string `json:"name"`
	At    int    `json:"at"`
	Xor   byte   `json:"xor,omitempty"`
	Cut   bool   `json:"cut,omitempty"` // ends before At
	Error string `json:"error"`
}

type letterFile struct {
	Seed    hexBytes       `json:"inbox_key_seed"`
	Mailbox hexBytes       `json:"mailbox"`
	Good    []letterVector `json:"good"`
	Bad     []badLetter    `json:"bad"`
}

// spec/envelope.md, section 3. Nobody can make a letter twice: what X-Wing encapsulates
// is random. So the vectors are opened.
func TestLetterVectors(t *testing.T) {
	v := letterFile{Seed: inbox.Seed(), Mailbox: box[:]}
	for _, l := range []letterVector{{"a request", ContactRequest, []byte("a request"), nil}, {"of a later type, and empty", 200, nil, nil}} {
		l.Entry = must(SealLetter(inbox.Public(), box, l.Type, l.Body))
		v.Good = append(v.Good, l)
	}
	v.Bad = []badLetter{
		{"version 0", 0, 1, false, "version"},
		{"version 3", 0, 2, false, "version"},
		{"ML-KEM part of what is encapsulated", 1, 1, false, "not ours"},
		{"X25519 part of what is encapsulated", encSize, 1, false, "not ours"},
		{"ciphertext", 1 + encSize, 1, false, "not ours"},
		{"last byte", minEntry - 1, 1, false, "not ours"},
		{"one byte too few", minEntry - 1, 0, true, "malformed"},
		{"version alone", 1, 0, true, "malformed"},
		{"nothing", 0, 0, true, "malformed"},
	}
	loadVectors(t, "letter.json", &v)
	k := key.SealingFromSeed(v.Seed)
	for _, l := range v.Good {
		typ, body, err := OpenLetter(k, [32]byte(v.Mailbox), l.Entry)
		if err != nil || typ != l.Type || !bytes.Equal(body, l.Body) {
			t.Errorf("%s: OpenLetter = %d, %x, %v", l.Name, typ, body, err)
		}
	}
	for _, l := range v.Bad {
		b := bytes.Clone(v.Good[0].Entry)
		if l.Cut {
			b = b[:l.At]
		} else {
			b[l.At] ^= l.Xor
		}
		want := expected[l.Error]
		if _, body, err := OpenLetter(k, [32]byte(v.Mailbox), b); want == nil || !errors.Is(err, want) || body != nil {
			t.Errorf("%s: OpenLetter = %x, %v, want %q", l.Name, body, err, l.Error)
		}
	}
}

// What an onlooker sees of a letter is in how many steps it comes.
func TestLetterSizes(t *testing.T) {
	const over = 1 + encSize + gcmTagSize
	for _, tt := range []struct{ body, want int }{
		{0, letterStep}, {letterStep - 1 - 2, letterStep}, {letterStep - 2, 2 * letterStep},
		{2*letterStep - 1 - 4, 2 * letterStep}, {2*letterStep - 4, 3 * letterStep}, {MaxLetter, 3 * letterStep},
	} {
		e, err := SealLetter(inbox.Public(), box, ContactAccept, make([]byte, tt.body))
		if err != nil || len(e) != over+tt.want {
			t.Errorf("a body of %d bytes makes %d, %v, want %d", tt.body, len(e), err, over+tt.want)
			continue
		}
		if typ, body, err := OpenLetter(inbox, box, e); err != nil || typ != ContactAccept || len(body) != tt.body {
			t.Errorf("a body of %d bytes: OpenLetter = %d, %d bytes, %v", tt.body, typ, len(body), err)
		}
	}
	if _, err := SealLetter(inbox.Public(), box, ContactAccept, make([]byte, MaxLetter+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a body of a byte too many: %v, want ErrTooLarge", err)
	}
	if _, _, err := OpenLetter(inbox, box, append([]byte{version}, make([]byte, maxEntry)...)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an entry of a byte too many: %v, want ErrTooLarge", err)
	}
}

func TestLetterOpensForItsInboxAlone(t *testing.T) {
	e := must(SealLetter(inbox.Public(), box, ContactRequest, []byte("hello")))
	if _, _, err := OpenLetter(key.NewSealing(), box, e); !errors.Is(err, ErrNotOurs) {
		t.Errorf("by another device: %v, want ErrNotOurs", err)
	}
	other := box
	other[0] ^= 1
	if _, _, err := OpenLetter(inbox, other, e); !errors.Is(err, ErrNotOurs) {
		t.Errorf("in another mailbox: %v, want ErrNotOurs", err)
	}
}

// T30: there is one suite.
func TestLettersOfOtherSuitesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		kdf  hpke.KDF
		aead hpke.AEAD
		info string
		want error
	}{
		{"ours", hpke.HKDFSHA384(), hpke.AES256GCM(), "sotto/inbox/1", nil},
		{"another KDF", hpke.HKDFSHA256(), hpke.AES256GCM(), "sotto/inbox/1", ErrNotOurs},
		{"another AEAD", hpke.HKDFSHA384(), hpke.ChaCha20Poly1305(), "sotto/inbox/1", ErrNotOurs},
		{"another label", hpke.HKDFSHA384(), hpke.AES256GCM(), "sotto/inbox/2", ErrNotOurs},
	} {
		sealed := must(hpke.Seal(inbox.Public().HPKE(), tt.kdf, tt.aead, append([]byte(tt.info), box[:]...), padLetter(ContactRequest, nil)))
		if _, _, err := OpenLetter(inbox, box, append([]byte{version}, sealed...)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// T31: each half of X-Wing is needed, on both ends.
func TestHalvesOfXWing(t *testing.T) {
	const mlkemKey, mlkemEnc = 1184, 1088 // of the two sizes; X25519 is the rest
	other := key.NewSealing()
	a, b := inbox.Public().Bytes(), other.Public().Bytes()
	for name, halves := range map[string][2][]byte{
		"another ML-KEM key":   {b[:mlkemKey], a[mlkemKey:]},
		"another X25519 key":   {a[:mlkemKey], b[mlkemKey:]},
		"an X25519 key of 0":   {a[:mlkemKey], make([]byte, 32)},
		"an X25519 key of 1":   {a[:mlkemKey], append([]byte{1}, make([]byte, 31)...)},
		"halves in each other": {a[mlkemKey:], a[:mlkemKey]},
	} {
		to, err := key.ParseSealing(bytes.Join(halves[:], nil))
		if err != nil {
			continue // refused before anything is sealed
		}
		e, err := SealLetter(to, box, ContactRequest, []byte("hello"))
		if err != nil {
			continue
		}
		for _, k := range []key.SealingSecret{inbox, other} {
			if _, _, err := OpenLetter(k, box, e); !errors.Is(err, ErrNotOurs) {
				t.Errorf("sealed to a key with %s: %v, want ErrNotOurs", name, err)
			}
		}
	}

	one, two := must(SealLetter(inbox.Public(), box, ContactRequest, []byte("one"))), must(SealLetter(inbox.Public(), box, ContactRequest, []byte("two")))
	for name, change := range map[string]func(e []byte){
		"another ML-KEM ciphertext": func(e []byte) { copy(e[1:], two[1:1+mlkemEnc]) },
		"an ML-KEM ciphertext of 0": func(e []byte) { clear(e[1 : 1+mlkemEnc]) },
		"another X25519 share":      func(e []byte) { copy(e[1+mlkemEnc:], two[1+mlkemEnc:1+encSize]) },
		"an X25519 share of 0":      func(e []byte) { clear(e[1+mlkemEnc : 1+encSize]) },
		"both of another letter":    func(e []byte) { copy(e[1:], two[1:1+encSize]) },
	} {
		e := bytes.Clone(one)
		change(e)
		if _, _, err := OpenLetter(inbox, box, e); !errors.Is(err, ErrNotOurs) {
			t.Errorf("a letter with %s: %v, want ErrNotOurs", name, err)
		}
	}
}

// What a writer seals who does not keep to the format.
func TestBadLetters(t *testing.T) {
	letter := func(size int, front ...byte) []byte { return append(front, make([]byte, size-len(front))...) }
	for _, tt := range []struct {
		name   string
		padded []byte
		want   error
	}{
		{"the last byte of the padding is not zero", append(letter(letterStep-1, 1, 0), 1), ErrPadding},
		{"the first byte of the padding is not zero", letter(letterStep, 1, 1, 'x', 'y'), ErrPadding},
		{"half a step more", letter(letterStep+letterStep/2, 1, 0), ErrPadding},
		{"a body beyond the end", letter(letterStep, 1, 0x80, 0, 0x40, 0), codec.ErrMalformed},
		{"a body beyond any letter", letter(letterStep, 1, 0xbf, 0xff, 0xff, 0xff), codec.ErrMalformed},
		{"a length in a longer form than it needs", letter(letterStep, 1, 0x40, 1), codec.ErrMalformed},
		{"in more steps than it needs", letter(3*letterStep, 1, 0), nil},
	} {
		if _, _, err := OpenLetter(inbox, box, must(sealLetter(inbox.Public(), box, tt.padded))); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// Anybody may write to an inbox, and seal what he likes.
func FuzzOpenLetter(f *testing.F) {
	f.Add(append([]byte{version}, make([]byte, minEntry-1)...))
	f.Add([]byte{})
	f.Add(padLetter(ContactRequest, []byte("hello")))
	f.Add(must(SealLetter(inbox.Public(), box, ContactRequest, []byte("hello"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, body, err := OpenLetter(inbox, box, b); err != nil && body != nil {
			t.Error("a body with an error")
		}
		typ, body, err := unpadLetter(b)
		switch {
		case err == nil && !bytes.HasPrefix(b, codec.AppendVec([]byte{byte(typ)}, body)):
			t.Errorf("%x is read as a letter of type %d, %x", b, typ, body)
		case err != nil && !errors.Is(err, ErrPadding) && !errors.Is(err, codec.ErrMalformed):
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
