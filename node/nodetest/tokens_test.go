package nodetest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/node"
	"sotto/node/store"
)

// A token permits what it was made for until it expires or is revoked, also after a
// restart; its secret is nowhere in the home.
func TestTokens(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	now := time.Now()
	ana.Stop()
	ana.Clock(func() time.Time { return now })
	ana.Start()
	ctx := t.Context()

	for name, o := range map[string]node.TokenOptions{
		"for nothing": {Name: "x"}, "without a name": {Read: true}, "over": {Name: "x", Read: true, Expires: -1},
		"for too many": {Name: "x", Read: true, Chats: make([]string, 300)},
	} {
		if tok, err := ana.CreateToken(ctx, o); !errors.Is(err, node.ErrInvalid) {
			t.Errorf("a token %s: %+v, %v; want %v", name, tok, err, node.ErrInvalid)
		}
	}
	tok, err := ana.CreateToken(ctx, node.TokenOptions{Name: "echo", Read: true, Chats: []string{"Ben", "Ben"}, Expires: time.Hour})
	if err != nil || !strings.HasPrefix(tok.Secret, "sotto-token-") || len(tok.Chats) != 1 || tok.Chats[0].Name != "Ben" || !tok.Read || tok.Post {
		t.Fatalf("token %+v, %v", tok, err)
	}
	if _, err := ana.CreateToken(ctx, node.TokenOptions{Name: "echo", Post: true}); !errors.Is(err, node.ErrExists) {
		t.Errorf("another of the name: %v", err)
	}
	if _, err := ana.CreateToken(ctx, node.TokenOptions{Name: "other", Post: true, Chats: []string{"nobody"}}); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("for a conversation that there is not: %v", err)
	}
	used := func() time.Time {
		t.Helper()
		all, err := ana.Tokens(ctx)
		if err != nil || len(all) != 1 || all[0].Secret != "" {
			t.Fatalf("tokens %+v, %v", all, err)
		}
		return all[0].Used
	}
	if !used().IsZero() {
		t.Error("it was used before it was")
	}
	ana.Stop()
	filepath.WalkDir(ana.Home, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte(tok.Secret[12:])) {
			t.Errorf("%s holds the secret, or cannot be read: %v", path, err)
		}
		return nil
	})
	inside(t, ana, func(tx *store.Tx) error {
		all, err := tx.Tokens()
		if len(all) != 1 || strings.Contains(string(all[0].Hash[:]), tok.Secret[12:]) {
			t.Errorf("the vault has %+v", all)
		}
		return err
	})
	ana.Start()
	got, err := ana.Bearer(ctx, tok.Secret)
	if err != nil || got.ID != tok.ID || got.Secret != "" || !got.Read || len(got.Chats) != 1 {
		t.Errorf("after a restart the token is %+v, %v", got, err)
	}
	if !used().Equal(now.UTC().Truncate(time.Millisecond)) {
		t.Errorf("it was used at %v, want %v", used(), now)
	}
	first := now
	now = now.Add(30 * time.Second)
	if _, err := ana.Bearer(ctx, tok.Secret); err != nil || !used().Equal(first.UTC().Truncate(time.Millisecond)) {
		t.Errorf("within a minute its use is written again: %v, %v", used(), err)
	}
	for _, bad := range []string{"", "sotto-token-", tok.Secret[:20], tok.Secret + "A", tok.ID} {
		if got, err := ana.Bearer(ctx, bad); !errors.Is(err, node.ErrNotFound) {
			t.Errorf("%q is a token: %+v, %v", bad, got, err)
		}
	}
	now = first.Add(time.Hour)
	if got, err := ana.Bearer(ctx, tok.Secret); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("an hour later it is still one: %+v, %v", got, err)
	}

	last, err := ana.LastEvent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := ana.RevokeToken(ctx, tok.ID); err != nil {
		t.Fatal(err)
	}
	if err := ana.RevokeToken(ctx, "echo"); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	for e, err := range ana.Events(ctx, last) {
		if err != nil || e.Type != node.EventToken || e.Token.ID != tok.ID || !e.Token.Revoked {
			t.Errorf("event %+v, %v", e, err)
		}
		break
	}
	now = first
	if _, err := ana.Bearer(ctx, tok.Secret); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("revoked, it is still one: %v", err)
	}
}
