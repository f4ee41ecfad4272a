package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/crypto/codec"
)

var makeVectors = flag.Bool("make-vectors", false, "write vector files that do not exist; those that do are never changed")

func fill(n byte, size int) []byte { return bytes.Repeat([]byte{n}, size) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	secret = fill(0x11, SecretSize)
	keys   = must(NewKeys(secret))
	home   = Context{Mailbox: [32]byte(fill(0x22, 32)), Kind: 1, Generation: 3}
	nonce  = [nonceSize]byte(fill(0x33, nonceSize))
)

// expected names the errors of the bad vectors.
var expected = map[string]error{
	"too large": ErrTooLarge, "version": ErrVersion, "not ours": ErrNotOurs, "damaged": ErrDamaged, "padding": ErrPadding, "malformed": codec.ErrMalformed,
}

// loadVectors reads the vector file of that name into v, once v has been written into it
// where there was none.
func loadVectors(t *testing.T, name string, v any) {
	t.Helper()
	path := filepath.Join("../../spec/vectors/envelope", name)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *makeVectors {
		b = append(must(json.MarshalIndent(v, "", "  ")), '\n')
		os.MkdirAll(filepath.Dir(path), 0o755)
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// hexBytes shows in JSON as hex.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(s []byte) (err error) { *b, err = hex.DecodeString(string(s)); return }

type vector struct {
	Name       string   `json:"name"`
	Mailbox    hexBytes `json:"mailbox"`
	Kind       uint8    `json:"kind"`
	Generation uint32   `json:"generation"`
	Nonce      hexBytes `json:"nonce,omitempty"`
	Message    hexBytes `json:"message,omitempty"`
	Envelope   hexBytes `json:"envelope"`
	Error      string   `json:"error,omitempty"`
}

func (v vector) context() Context { return Context{[32]byte(v.Mailbox), v.Kind, v.Generation} }

type vectorFile struct {
	Secret hexBytes `json:"epoch_secret"`
	Enc    hexBytes `json:"k_enc"`
	Tag    hexBytes `json:"k_tag"`
	Good   []vector `json:"good"`
	Bad    []vector `json:"bad"`
	Sizes  [][2]int `json:"padme"`
}

func madeVectors() *vectorFile {
	f := &vectorFile{Secret: secret}
	f.Enc, f.Tag = func() (a, b hexBytes) { x, y := keys.reveal(); return x, y }()
	good := func(name string, c Context, message []byte) {
		f.Good = append(f.Good, vector{name, c.Mailbox[:], c.Kind, c.Generation, nonce[:], message, must(keys.seal(c, message, nonce)), ""})
	}
	good("a message", home, []byte("an MLSMessage"))
	good("a commit of a late generation", Context{home.Mailbox, 2, 1<<32 - 1}, []byte("an MLSMessage"))
	good("empty", home, nil)
	good("the longest that fits the floor", home, fill(0xaa, floor-lengthSize))
	good("one byte more", home, fill(0xaa, floor-lengthSize+1))
	for _, tt := range damaged() {
		f.Bad = append(f.Bad, vector{tt.name, tt.at.Mailbox[:], tt.at.Kind, tt.at.Generation, nil, nil, tt.envelope, tt.want})
	}
	for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 100, 1023, 1024, 1025, 1088, 1089, 2047, 2048, 2049, 4097, 65535, 65537, lengthSize + MaxMessage} {
		f.Sizes = append(f.Sizes, [2]int{n, Padme(n)})
	}
	return f
}

type damage struct {
	name     string
	at       Context
	envelope []byte
	want     string
}

// damaged is everything that an envelope is refused for.
func damaged() (out []damage) {
	good := must(keys.seal(home, []byte("an MLSMessage"), nonce))
	elsewhere := func(name string, change func(*Context)) {
		c := home
		change(&c)
		out = append(out, damage{name, c, good, "damaged"})
	}
	// T8: the relay copies an envelope to another mailbox, or says that it is something
	// else than it was.
	elsewhere("in another mailbox", func(c *Context) { c.Mailbox[31] ^= 1 })
	elsewhere("a message as a commit", func(c *Context) { c.Kind = 2 })
	elsewhere("in another generation", func(c *Context) { c.Generation++ })

	changed := func(name, want string, change func(b []byte) []byte) {
		out = append(out, damage{name, home, change(bytes.Clone(good)), want})
	}
	flip := func(at int) func(b []byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	changed("version 0", "version", func(b []byte) []byte { b[0] = 0; return b })
	changed("version 2", "version", func(b []byte) []byte { b[0] = 2; return b })
	changed("first byte of the nonce", "not ours", flip(1))
	changed("last byte of the nonce", "not ours", flip(nonceSize))
	changed("first byte of the tag", "not ours", flip(1+nonceSize))
	changed("last byte of the tag", "not ours", flip(frontSize-1))
	changed("first byte of the ciphertext", "damaged", flip(frontSize))
	changed("a byte of the padding", "damaged", flip(frontSize+500))
	changed("last byte", "damaged", flip(-1))
	changed("one byte too many", "damaged", func(b []byte) []byte { return append(b, 0) })
	changed("one byte too few", "malformed", func(b []byte) []byte { return b[:len(b)-1] })
	changed("the front alone", "malformed", func(b []byte) []byte { return b[:frontSize] })
	changed("the version alone", "malformed", func(b []byte) []byte { return b[:1] })
	changed("nothing", "malformed", func(b []byte) []byte { return nil })

	// What a member seals who does not keep to the format.
	sealed := func(name, want string, padded []byte) {
		out = append(out, damage{name, home, must(keys.sealPadded(home, padded, nonce)), want})
	}
	padded := func(size int, length uint32, change func(b []byte)) []byte {
		b := append(codec.AppendU32(nil, length), make([]byte, size-lengthSize)...)
		change(b)
		return b
	}
	same := func([]byte) {}
	sealed("first byte of the padding is not zero", "padding", padded(floor, 100, func(b []byte) { b[lengthSize+100] = 1 }))
	sealed("last byte of the padding is not zero", "padding", padded(floor, 100, func(b []byte) { b[floor-1] = 1 }))
	sealed("padded to another size", "padding", padded(2*floor, 100, same))
	sealed("a length beyond the end", "malformed", padded(floor, floor-lengthSize+1, same))
	sealed("a length beyond any message", "too large", padded(floor, 1<<32-1, same))
	return out
}

// spec/envelope.md, section 1.
func TestVectors(t *testing.T) {
	var v vectorFile
	made := madeVectors()
	v = *made
	loadVectors(t, "envelope.json", &v)
	k, err := NewKeys(v.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if enc, tag := k.reveal(); !bytes.Equal(enc, v.Enc) || !bytes.Equal(tag, v.Tag) {
		t.Errorf("the keys are %x and %x, want %x and %x", enc, tag, v.Enc, v.Tag)
	}
	if len(v.Good) != len(made.Good) || len(v.Bad) != len(made.Bad) || len(v.Sizes) != len(made.Sizes) {
		t.Error("the file has not as many vectors as are made now")
	}
	for _, tt := range v.Good {
		t.Run(tt.Name, func(t *testing.T) {
			message, err := k.Open(tt.context(), tt.Envelope)
			if err != nil || !bytes.Equal(message, tt.Message) || !k.Match(tt.Envelope) {
				t.Errorf("Open = %x, %v, want %x", message, err, tt.Message)
			}
			if got, err := k.seal(tt.context(), tt.Message, [nonceSize]byte(tt.Nonce)); !bytes.Equal(got, tt.Envelope) {
				t.Errorf("seal = %x, %v, want %x", got, err, tt.Envelope)
			}
		})
	}
	for _, tt := range v.Bad {
		t.Run(tt.Name, func(t *testing.T) {
			want := expected[tt.Error]
			if m, err := k.Open(tt.context(), tt.Envelope); want == nil || !errors.Is(err, want) || m != nil {
				t.Errorf("Open = %x, %v, want %q", m, err, tt.Error)
			}
		})
	}
	for _, n := range v.Sizes {
		if got := Padme(n[0]); got != n[1] {
			t.Errorf("Padme(%d) = %d, want %d", n[0], got, n[1])
		}
	}
}

// Every byte counts.
func TestNoByteCanBeChanged(t *testing.T) {
	good := must(keys.Seal(home, []byte("an MLSMessage")))
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x80
		if _, err := keys.Open(home, b); err == nil {
			t.Errorf("with byte %d changed it opens", i)
		}
	}
}

func TestSeal(t *testing.T) {
	a, b := must(keys.Seal(home, []byte("twice"))), must(keys.Seal(home, []byte("twice")))
	if bytes.Equal(a[1:1+nonceSize], b[1:1+nonceSize]) {
		t.Error("two envelopes have one nonce")
	}
	for _, e := range [][]byte{a, b} {
		if m, err := keys.Open(home, e); err != nil || string(m) != "twice" {
			t.Errorf("Open = %q, %v", m, err)
		}
	}
	largest := must(keys.Seal(home, make([]byte, MaxMessage)))
	if len(largest) > MaxSize {
		t.Errorf("the largest message makes an envelope of %d bytes, at most %d", len(largest), MaxSize)
	}
	if m, err := keys.Open(home, largest); err != nil || len(m) != MaxMessage {
		t.Errorf("Open of the largest = %d bytes, %v", len(m), err)
	}
	if _, err := keys.Seal(home, make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a message of a byte more: %v, want ErrTooLarge", err)
	}
	front := must(keys.Seal(home, nil))[:frontSize]
	if _, err := keys.Open(home, append(front, make([]byte, MaxSize-frontSize+1)...)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an envelope of a byte too many: %v, want ErrTooLarge", err)
	}
}

// A receiver finds the epoch of an envelope by its tag.
func TestMatch(t *testing.T) {
	other := must(NewKeys(fill(0x12, SecretSize)))
	e := must(keys.Seal(home, nil))
	if !keys.Match(e) || other.Match(e) {
		t.Error("the tag names another epoch")
	}
	for _, n := range []int{0, 1, frontSize - 1} {
		if keys.Match(e[:n]) {
			t.Errorf("%d bytes match", n)
		}
	}
	if _, err := other.Open(home, e); !errors.Is(err, ErrNotOurs) {
		t.Errorf("under another epoch's keys: %v, want ErrNotOurs", err)
	}
	// The tag commits to the nonce: one that was seen does not do for another.
	f := must(keys.Seal(home, nil))
	copy(f[1+nonceSize:], e[1+nonceSize:frontSize])
	if keys.Match(f) {
		t.Error("another envelope's tag matches")
	}
}

func TestNewKeysWantsAWholeSecret(t *testing.T) {
	for _, n := range []int{0, 32, SecretSize - 1, SecretSize + 1} {
		if _, err := NewKeys(make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes is taken", n)
		}
	}
}

// The properties that spec/envelope.md names: never shorter, never more than 12 % and a
// few bytes longer, monotone, and the same once more.
func TestPadme(t *testing.T) {
	last := 0
	for n := range 300_000 {
		got := Padme(n)
		if got < n || got < last || Padme(got) != got || n > 64 && float64(got) > 1.12*float64(n) {
			t.Fatalf("Padme(%d) = %d after %d", n, got, last)
		}
		last = got
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	enc, tag := keys.reveal()
	within := struct{ k Keys }{keys}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("sealing", "keys", keys, "pointer", &keys, "within", within)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t", "%p"} {
		for _, v := range []any{keys, &keys, within, &within, []any{keys}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	json.NewEncoder(&out).Encode(map[string]any{"k": keys, "w": within})
	for _, b := range [][]byte{enc[8:16], tag[8:16], secret[8:16]} {
		for _, form := range []string{string(b), hex.EncodeToString(b), fmt.Sprintf("%X", b), strings.Trim(fmt.Sprint(b), "[]"), base64.StdEncoding.EncodeToString(b)[:8]} {
			if strings.Contains(out.String(), form) {
				t.Errorf("output holds a secret as %q", form)
			}
		}
	}
	if !strings.Contains(out.String(), "envelope keys") {
		t.Error("keys do not print at all")
	}
}

// Any bytes may stand in a mailbox, and any within an envelope of a member's.
func FuzzOpen(f *testing.F) {
	for _, tt := range damaged() {
		f.Add(tt.envelope)
	}
	f.Add(must(keys.seal(home, []byte("an MLSMessage"), nonce)))
	f.Add(pad([]byte("an MLSMessage")))
	known := func(t *testing.T, err error) {
		for _, e := range expected {
			if errors.Is(err, e) {
				return
			}
		}
		t.Errorf("an error of no kind: %v", err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		input := bytes.Clone(b)
		if m, err := keys.Open(home, b); err != nil {
			known(t, err)
		} else if again := must(keys.seal(home, m, [nonceSize]byte(b[1:]))); !bytes.Equal(again, b) {
			t.Errorf("%x was opened and sealed again as %x", b, again)
		}
		if m, err := unpad(b); err != nil {
			known(t, err)
		} else if again := pad(m); !bytes.Equal(again, b) {
			t.Errorf("%x was read as padded and is padded as %x", b, again)
		}
		if !bytes.Equal(b, input) {
			t.Error("reading changed its input")
		}
	})
}
