package nodetest

import (
	"fmt"
	"strings"
	"testing"

	"sotto/node"
)

// First light: two people meet through a relay and talk both ways.
func TestTwoPeopleTalk(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")

	for i, text := range []string{"hello", "你好，世界", "👋🏽", strings.Repeat("long ", 12<<10)} {
		if len(text) > node.MaxText {
			text = text[:node.MaxText]
		}
		from, to, name := ana, ben, "Ben"
		back := "Ana"
		if i%2 == 1 {
			from, to, name, back = ben, ana, "Ana", "Ben"
		}
		m, err := from.Send(t.Context(), name, text)
		if err != nil {
			t.Fatal(err)
		}
		if m.State != node.MessageQueued || !m.Mine {
			t.Errorf("sent as %+v", m)
		}
		to.Until("the message", func() bool { ts := to.Texts(back); return len(ts) == i+1 && ts[i] == text })
		from.Until("the receipt", func() bool {
			ms, _ := from.Messages(t.Context(), name, "", "", 0)
			return len(ms) == i+1 && ms[i].State == node.MessageStored
		})
	}
	a, err := ana.SafetyNumber(t.Context(), "Ben")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ben.SafetyNumber(t.Context(), "Ana")
	if err != nil || a.Number != b.Number || len(a.Number) != 60 {
		t.Errorf("safety numbers %s and %s, %v", a.Number, b.Number, err)
	}
}

// Ben is away while Ana sends 500 messages, heals several times and goes; the relay is
// stopped and started; Ben comes back alone and has everything once and in order.
func TestFiveHundredWhileAway(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ben.Stop()
	const count = 500
	for i := range count {
		if _, err := ana.Send(t.Context(), "Ben", fmt.Sprint("message ", i)); err != nil {
			t.Fatal(err)
		}
	}
	ana.Until("all stored", func() bool { s, _ := ana.Status(t.Context()); return s.Queued == 0 })
	ana.Stop()
	r.Stop()
	r.Start()
	ben.Start()
	ben.Until("all messages", func() bool { return len(ben.Texts("Ana")) >= count })
	for i, text := range ben.Texts("Ana") {
		if text != fmt.Sprint("message ", i) {
			t.Fatalf("at place %d stands %q", i, text)
		}
	}
}
