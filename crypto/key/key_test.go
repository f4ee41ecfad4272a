package key

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
)

// No way of printing or logging a secret lets the secret out.
func TestSecretsDoNotPrint(t *testing.T) {
	device, noise, sealing := NewDevice(), NewNoise(), NewSealing()
	for _, tt := range []struct {
		name   string
		secret any
		within any
		seed   []byte
	}{
		{"device", device, struct{ k DeviceSecret }{device}, device.Seed()},
		{"signer", device.Signer(), struct{ k any }{device.Signer()}, device.Seed()},
		{"noise", noise, struct{ k NoiseSecret }{noise}, noise.Seed()},
		{"sealing", sealing, struct{ k SealingSecret }{sealing}, sealing.Seed()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
				slog.New(h).Info("signing", "key", tt.secret, "pointer", &tt.secret, "within", tt.within)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t", "%p"} {
				for _, v := range []any{tt.secret, &tt.secret, tt.within, &tt.within, []any{tt.secret}, map[string]any{"k": tt.within}} {
					fmt.Fprintf(&out, verb+"\n", v)
				}
			}
			json.NewEncoder(&out).Encode(map[string]any{"k": tt.secret, "w": tt.within, "exported": struct{ K any }{tt.secret}})

			part := tt.seed[8:16]
			for _, form := range []string{string(part), hex.EncodeToString(part), fmt.Sprintf("%X", part), fmt.Sprint(part)[1:20], base64.StdEncoding.EncodeToString(tt.seed)[:12]} {
				if bytes.Contains(out.Bytes(), []byte(form)) {
					t.Errorf("output holds the secret as %q:\n%s", form, out.Bytes())
				}
			}
		})
	}
}

func TestSignaturesAreBoundToLabelAndKind(t *testing.T) {
	k := RelayFromSeed(bytes.Repeat([]byte{1}, Size))
	sig := k.Sign("sotto/a/1", []byte("one"), []byte("two"))
	if !k.Public().Verify(sig, "sotto/a/1", []byte("onetwo")) {
		t.Error("a good signature does not verify")
	}
	for name, ok := range map[string]bool{
		"other label":     k.Public().Verify(sig, "sotto/b/1", []byte("onetwo")),
		"other message":   k.Public().Verify(sig, "sotto/a/1", []byte("onetw0")),
		"other key":       NewRelay().Public().Verify(sig, "sotto/a/1", []byte("onetwo")),
		"zero key":        RelayPublic{}.Verify(sig, "sotto/a/1", []byte("onetwo")),
		"short signature": k.Public().Verify(sig[:63], "sotto/a/1", []byte("onetwo")),
	} {
		if ok {
			t.Errorf("%s: the signature verifies", name)
		}
	}
}

func TestSignerAppends(t *testing.T) {
	k := DeviceFromSeed(bytes.Repeat([]byte{1}, Size))
	s := k.Signer()
	want, err := s.Sign(nil, []byte("message"), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	got := s.(interface {
		AppendSignature(b, message []byte) []byte
	}).AppendSignature([]byte("before"), []byte("message"))
	if !bytes.Equal(got, append([]byte("before"), want...)) {
		t.Errorf("AppendSignature = %x, Sign = %x", got, want)
	}
}

func TestTextForm(t *testing.T) {
	p := NewDevice().Public()
	b, _ := p.MarshalText()
	var back DevicePublic
	if err := back.UnmarshalText(b); err != nil || back != p {
		t.Errorf("UnmarshalText(%s) = %v, %v", b, back, err)
	}
	var relay RelayPublic
	if err := relay.UnmarshalText(b); !errors.Is(err, ErrBadKey) {
		t.Errorf("a device key was read as a relay key: %v", err)
	}
	for _, s := range []string{"", "device:", "device:a", string(b) + "a", string(b[:len(b)-1])} {
		if err := back.UnmarshalText([]byte(s)); !errors.Is(err, ErrBadKey) {
			t.Errorf("UnmarshalText(%q) = %v, want ErrBadKey", s, err)
		}
	}
}

func TestStoredKeysComeBack(t *testing.T) {
	n, s, d := NewNoise(), NewSealing(), NewDevice()
	if NoiseFromSeed(n.Seed()).Public() != n.Public() || DeviceFromSeed(d.Seed()).Public() != d.Public() ||
		!bytes.Equal(SealingFromSeed(s.Seed()).Public().Bytes(), s.Public().Bytes()) {
		t.Error("a key made from its seed is another key")
	}
	if len(s.Public().Bytes()) != SealingSize {
		t.Errorf("a sealing key has %d bytes, want %d", len(s.Public().Bytes()), SealingSize)
	}
	if _, err := ParseSealing(make([]byte, SealingSize-1)); !errors.Is(err, ErrBadKey) {
		t.Errorf("a short sealing key: %v", err)
	}
}

func FuzzUnmarshalText(f *testing.F) {
	f.Add([]byte(NewDevice().Public().String()))
	f.Add([]byte("device:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p DevicePublic
		if p.UnmarshalText(b) == nil {
			var again DevicePublic
			if err := again.UnmarshalText([]byte(p.String())); err != nil || again != p {
				t.Errorf("%q was read as %v, which is read as %v, %v", b, p, again, err)
			}
		}
	})
}
