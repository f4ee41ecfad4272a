package nodetest

import (
	"errors"
	"strings"
	"testing"

	"sotto/node"
)

// What one person shows verifies it at the other, who is told so by an event; what a
// third shows, a code for a third, a damaged code and other digits do not.
func TestSafetyCode(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben, eve := w.Person("Ana", r), w.Person("Ben", r), w.Person("Eve", r)
	w.Meet(ana, ben, "Ben", "Ana")
	w.Meet(ana, eve, "Eve", "Ana")
	shown := func(p *Person, of string) string {
		n, err := p.SafetyNumber(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		return n.Code
	}
	verified := func(p *Person, name string) bool {
		c, err := p.Contact(t.Context(), name)
		return err == nil && c.Verified
	}
	code := shown(ben, "Ana")
	for name, bad := range map[string]struct {
		code string
		want error
	}{
		"a third person's": {shown(eve, "Ana"), node.ErrNotTrusted},
		"one's own":        {shown(ana, "Ben"), node.ErrNotTrusted},
		"a damaged one":    {code[:len(code)-3], node.ErrInvalid},
		"digits":           {strings.Repeat("7", 60), node.ErrNotTrusted},
	} {
		if _, err := ana.SetVerified(t.Context(), "Ben", bad.code); !errors.Is(err, bad.want) {
			t.Errorf("%s: %v, want %v", name, err, bad.want)
		}
	}
	if verified(ana, "Ben") {
		t.Fatal("a wrong code has verified Ben")
	}
	if n, err := ana.SetVerified(t.Context(), "Ben", code); err != nil || !n.Verified {
		t.Fatalf("Ben's code: %+v, %v", n, err)
	}
	ana.Until("Ben is verified", func() bool { return verified(ana, "Ben") })
	ana.Stop()
	ana.Start()
	if !verified(ana, "Ben") || verified(ana, "Eve") || verified(ben, "Ana") {
		t.Error("after a restart not Ben alone is verified, at Ana's alone")
	}
	if n, err := ana.Unverify(t.Context(), "Ben"); err != nil || n.Verified || verified(ana, "Ben") {
		t.Errorf("taken back: %+v, %v", n, err)
	}
}
