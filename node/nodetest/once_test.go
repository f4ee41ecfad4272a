package nodetest

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"sotto/node"
	"sotto/node/store"
	"sotto/storage/vault"
)

// What is sent twice with a key is there once, also across a restart; a reader of events
// that would miss some is told.
func TestSendOnce(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ctx := t.Context()
	send := func(key, text string) node.Message {
		t.Helper()
		m, err := ana.SendMessage(ctx, "Ben", node.NewMessage{Key: key, Text: text})
		for errors.Is(err, node.ErrStopped) { // it has only begun
			m, err = ana.SendMessage(ctx, "Ben", node.NewMessage{Key: key, Text: text})
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := send("k", "one")
	if again := send("k", "another text"); again.ID != first.ID || again.Text != "one" {
		t.Errorf("sent again it is %+v", again)
	}
	if other := send("l", "two"); other.ID == first.ID {
		t.Error("another key is the same message")
	}
	if a, b := send("", "three"), send("", "three"); a.ID == b.ID {
		t.Error("two without a key are one message")
	}
	ana.Stop()
	ana.Start()
	if again := send("k", "one"); again.ID != first.ID {
		t.Errorf("after a restart it is sent again: %+v", again)
	}
	ben.Until("all of them", func() bool { return len(ben.Texts("Ana")) == 4 })
	if got := strings.Join(ben.Texts("Ana"), " "); got != "one two three three" {
		t.Errorf("Ben has %s", got)
	}
	if _, err := ana.SendMessage(ctx, "Ben", node.NewMessage{Key: strings.Repeat("k", node.MaxKey+1), Text: "x"}); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("with a key too long: %v", err)
	}

	last, err := ana.LastEvent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ana.Stop()
	v, err := vault.Open(filepath.Join(ana.Home, "vault"), vault.Unlock{Passphrase: Passphrase}, vault.Config{Schema: store.Schema})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(store.DB{Vault: v}.Update(func(tx *store.Tx) error { return tx.TrimEvents(3) }), v.Close())
	if err != nil {
		t.Fatal(err)
	}
	ana.Start()
	for after, gone := range map[uint64]bool{0: false, 1: true, last - 4: true, last - 3: false, last + 1000: true} {
		for e, err := range ana.Events(ctx, after) {
			if errors.Is(err, node.ErrGone) != gone || !gone && (err != nil || e.Seq != last-2) {
				t.Errorf("events behind %d of %d: %+v, %v", after, last, e, err)
			}
			break
		}
	}
}
