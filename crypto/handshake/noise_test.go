package handshake

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flynn/noise"

	"sotto/crypto/key"
)

var psk = fill(0x51)

// sides begins a handshake whose message 1 is made from one seed.
func sides(t *testing.T, psk []byte) (initiator, responder run) {
	t.Helper()
	i, err := initiate(psk, []byte("prologue"), ben.static, ana.static.Public(), bytes.NewReader(fill(1)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := respond(psk, []byte("prologue"), ana.static, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return i, r
}

// The library takes a missing key for the wish to have none.
func TestWithoutPresharedKeyNothingRuns(t *testing.T) {
	for name, bad := range map[string][]byte{"nil": nil, "empty": {}, "zero": make([]byte, 32), "31 bytes": fill(1)[:31], "33 bytes": append(fill(1), 1)} {
		if _, err := initiate(bad, nil, ben.static, ana.static.Public(), rand.Reader); err == nil {
			t.Errorf("a pre-shared key that is %s: the initiator begins", name)
		}
		if _, err := respond(bad, nil, ana.static, rand.Reader); err == nil {
			t.Errorf("a pre-shared key that is %s: the responder begins", name)
		}
	}
}

// T30: a peer that runs another handshake than ours does not get through.
func TestOtherHandshakesAreRefused(t *testing.T) {
	ours := noise.Config{CipherSuite: suite, Pattern: noise.HandshakeIK, Initiator: true, Prologue: []byte("prologue"),
		StaticKeypair: pair(ben.static), PeerStatic: ana.static.Public().Bytes(), PresharedKey: psk}
	for _, tt := range []struct {
		name   string
		change func(c *noise.Config)
	}{
		{"", func(c *noise.Config) {}},
		{"without a pre-shared key", func(c *noise.Config) { c.PresharedKey = nil }},
		{"with a zero pre-shared key", func(c *noise.Config) { c.PresharedKey = make([]byte, 32) }},
		{"with another pre-shared key", func(c *noise.Config) { c.PresharedKey = fill(9) }},
		{"psk1", func(c *noise.Config) { c.PresharedKeyPlacement = 1 }},
		{"psk2", func(c *noise.Config) { c.PresharedKeyPlacement = 2 }},
		{"with another prologue", func(c *noise.Config) { c.Prologue = []byte("prolog") }},
		{"AESGCM", func(c *noise.Config) {
			c.CipherSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)
		}},
		{"BLAKE2s", func(c *noise.Config) {
			c.CipherSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s)
		}},
		{"XK", func(c *noise.Config) { c.Pattern = noise.HandshakeXK }},
		{"to another key", func(c *noise.Config) { c.PeerStatic = mallory.static.Public().Bytes() }},
	} {
		c := ours
		tt.change(&c)
		hs, err := noise.NewHandshakeState(c)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _, err := hs.WriteMessage(nil, []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		_, r := sides(t, psk)
		payload, err := r.read(first)
		if ok := err == nil && string(payload) == "hello"; ok != (tt.name == "") {
			t.Errorf("handshake %q: read %q, %v", tt.name, payload, err)
		}
	}
}

// The library does not bound a message; Noise says 65535 bytes, we say less.
func TestMessagesAreBounded(t *testing.T) {
	i, r := sides(t, psk)
	first, err := i.write(make([]byte, maxPayload))
	if err != nil || len(first) != maxNoise || maxNoise > noise.MaxMsgLen {
		t.Fatalf("the largest message 1 has %d bytes, want %d: %v", len(first), maxNoise, err)
	}
	if p, err := r.read(first); err != nil || len(p) != maxPayload {
		t.Errorf("it is read as %d bytes, %v", len(p), err)
	}
	if second, err := r.write(make([]byte, maxPayload)); err != nil || len(second) > maxNoise {
		t.Errorf("the largest message 2 has %d bytes, %v", len(second), err)
	}
	i, r = sides(t, psk)
	if _, err := i.write(make([]byte, maxPayload+1)); err == nil {
		t.Error("a payload of a byte more is written")
	}
	// The library makes and reads it: what stops it is ours.
	longer, _, _, err := i.hs().WriteMessage(nil, make([]byte, maxPayload+1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.read(longer); err == nil {
		t.Error("a message of a byte more is read")
	}
}

// The library's hash is its own: what follows changes it.
func TestHashStaysWhatItWas(t *testing.T) {
	i, r := sides(t, psk)
	first := must(i.write(nil))
	must(r.read(first))
	before, theirs := r.hash(), i.hash()
	keep := bytes.Clone(before)
	second := must(r.write([]byte("answer")))
	must(i.read(second))
	if !bytes.Equal(before, keep) || !bytes.Equal(theirs, keep) {
		t.Error("the hash after message 1 differs between the sides, or has changed with message 2")
	}
	if bytes.Equal(r.hash(), keep) {
		t.Error("message 2 does not change the hash: nothing was tested")
	}
	clear(r.hash())
	if bytes.Equal(r.hash(), make([]byte, 32)) {
		t.Error("a caller can change the handshake's hash")
	}
}

// The library cannot store a handshake: we run it again.
func TestMessage1IsMadeAgain(t *testing.T) {
	a, r := sides(t, psk)
	first := must(a.write([]byte("hello")))
	must(r.read(first))
	second := must(r.write([]byte("answer")))
	b, _ := sides(t, psk)
	if again := must(b.write([]byte("hello"))); !bytes.Equal(again, first) {
		t.Fatal("one seed and one payload give two messages")
	}
	if p, err := b.read(second); err != nil || string(p) != "answer" {
		t.Errorf("the handshake that was run again reads %q, %v", p, err)
	}
}

// The points whose product with any key is zero: 0, 1, two of order 8, and those that
// the field's size makes of 0, 1 and -1.
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func TestLowOrderPoints(t *testing.T) {
	for _, s := range lowOrder {
		point := must(hex.DecodeString(s))
		i, err := initiate(psk, nil, ben.static, must(key.ParseNoise(point)), rand.Reader)
		if err == nil {
			_, err = i.write(nil)
		}
		if err == nil {
			t.Errorf("message 1 is written to %s", s)
		}
		i, r := sides(t, psk)
		first := must(i.write(nil))
		if _, err := r.read(append(bytes.Clone(point), first[32:]...)); err == nil {
			t.Errorf("message 1 with the ephemeral key %s is read", s)
		}
		second := append(bytes.Clone(point), make([]byte, 16)...)
		if _, err := i.read(second); err == nil {
			t.Errorf("message 2 with the ephemeral key %s is read", s)
		}
	}
}

// The library's own vectors of our handshake, which lie beside its source.
func TestPublishedVectors(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/flynn/noise").Output()
	if err != nil {
		t.Skip("the source of flynn/noise is not here, nor are its vectors")
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "vectors.txt"))
	if err != nil {
		t.Skipf("no vectors beside flynn/noise: %v", err)
	}
	seen := 0
	for block := range strings.SplitSeq(string(b), "\n\n") {
		v := map[string][]byte{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if name == "handshake" {
				v[name] = []byte(value)
			} else if raw, err := hex.DecodeString(value); err == nil {
				v[name] = raw
			}
		}
		if string(v["handshake"]) != "Noise_IKpsk0_25519_ChaChaPoly_SHA256" {
			continue
		}
		seen++
		inviter, invitee := key.NoiseFromSeed(v["resp_static"]), key.NoiseFromSeed(v["init_static"])
		i := must(initiate(v["preshared_key"], v["prologue"], invitee, inviter.Public(), bytes.NewReader(v["gen_init_ephemeral"])))
		r := must(respond(v["preshared_key"], v["prologue"], inviter, bytes.NewReader(v["gen_resp_ephemeral"])))
		first := must(i.write(v["msg_0_payload"]))
		got, err := r.read(first)
		if err != nil || !bytes.Equal(got, v["msg_0_payload"]) || !bytes.Equal(first, v["msg_0_ciphertext"]) {
			t.Errorf("vector %d: message 1 is %x, read as %x, %v", seen, first, got, err)
		}
		second := must(r.write(v["msg_1_payload"]))
		got, err = i.read(second)
		if err != nil || !bytes.Equal(got, v["msg_1_payload"]) || !bytes.Equal(second, v["msg_1_ciphertext"]) {
			t.Errorf("vector %d: message 2 is %x, read as %x, %v", seen, second, got, err)
		}
		if from, err := r.peer(); err != nil || from != invitee.Public() || !bytes.Equal(r.hash(), i.hash()) {
			t.Errorf("vector %d: the sides end differently", seen)
		}

		// The reference that pins our own vectors is held against the same ones.
		s, e := newReference(v["prologue"], x25519(v["resp_static"]).PublicKey()), x25519(v["gen_init_ephemeral"])
		static := x25519(v["init_static"])
		if b := s.first(v["preshared_key"], e, static, x25519(v["resp_static"]).PublicKey(), v["msg_0_payload"]); !bytes.Equal(b, v["msg_0_ciphertext"]) {
			t.Errorf("vector %d: the reference makes message 1 %x", seen, b)
		}
		if b := s.second(x25519(v["gen_resp_ephemeral"]), e.PublicKey(), static.PublicKey(), v["msg_1_payload"]); !bytes.Equal(b, v["msg_1_ciphertext"]) {
			t.Errorf("vector %d: the reference makes message 2 %x", seen, b)
		}
	}
	if seen != 4 {
		t.Errorf("%d vectors of our handshake, want 4", seen)
	}
}
