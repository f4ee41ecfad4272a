package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sotto/node"
	"sotto/node/api"
)

// Who follows goes on behind the last event dealt with, whatever ended it; an event that
// was not finished comes again, and what is sent with a key is sent once.
func TestFollow(t *testing.T) {
	s := serve(t)
	s.AddContact("Bob")
	place := filepath.Join(t.TempDir(), "place")
	var heard []string
	follow := func(stop string, end error) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		away := true
		err := s.client.Follow(ctx, place, func(e node.Event) error {
			m := e.Message
			if m == nil || m.Mine {
				return nil
			}
			heard = append(heard, m.Text)
			if _, err := s.client.SendMessage(ctx, "Bob", node.NewMessage{Key: "answer/" + m.ID, Text: "you said " + m.Text}); err != nil {
				return err
			}
			switch {
			case m.Text == "hiccup" && away:
				away = false
				return fmt.Errorf("in between: %w", api.ErrStopped)
			case m.Text == stop:
				cancel()
				return end
			}
			return nil
		})
		return err
	}
	say := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if _, err := s.Receive("Bob", text); err != nil {
				t.Fatal(err)
			}
		}
	}
	say("before")
	if err := os.WriteFile(place, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	say("one", "two")
	broken := errors.New("the power went")
	ctx := t.Context()
	err := s.client.Follow(ctx, place, func(e node.Event) error {
		if e.Message != nil && e.Message.Text == "two" {
			heard = append(heard, "two")
			if _, err := s.client.SendMessage(ctx, "Bob", node.NewMessage{Key: "answer/" + e.Message.ID, Text: "you said two"}); err != nil {
				t.Error(err)
			}
			return broken // it had answered, and not written down that it had
		}
		if e.Message != nil && !e.Message.Mine {
			heard = append(heard, e.Message.Text)
			_, err := s.client.SendMessage(ctx, "Bob", node.NewMessage{Key: "answer/" + e.Message.ID, Text: "you said " + e.Message.Text})
			return err
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("followed until %v, want %v", err, broken)
	}
	say("hiccup", "three")
	if err := follow("three", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("followed until %v, want %v", err, context.Canceled)
	}
	if want := strings.Fields("before one two two hiccup hiccup three"); !reflect.DeepEqual(heard, want) {
		t.Errorf("heard %q, want %q", heard, want)
	}
	list, err := s.client.Messages(t.Context(), "Bob", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, m := range list {
		if m.Mine {
			said = append(said, strings.TrimPrefix(m.Text, "you said "))
		}
	}
	if want := strings.Fields("before one two hiccup three"); !reflect.DeepEqual(said, want) {
		t.Errorf("answered %q, want %q", said, want)
	}
}

// Without a file it begins with what comes; with a damaged one it does not guess.
func TestFollowBegins(t *testing.T) {
	s := serve(t)
	s.Notice("long ago")
	place := filepath.Join(t.TempDir(), "place")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for {
			if _, err := os.Stat(place); err == nil {
				s.Notice("now")
				return
			}
			if ctx.Err() != nil {
				return
			}
		}
	}()
	var got []string
	err := s.client.Follow(ctx, place, func(e node.Event) error {
		got = append(got, e.Notice)
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || !reflect.DeepEqual(got, []string{"now"}) {
		t.Errorf("followed %q until %v", got, err)
	}
	if b, err := os.ReadFile(place); err != nil || string(b) != "2\n" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	for _, bad := range []string{"", "x", "-1", "1 2"} {
		if err := os.WriteFile(place, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.client.Follow(t.Context(), place, func(node.Event) error { return errors.New("it read on") }); err == nil || !strings.Contains(err.Error(), "does not hold the number") {
			t.Errorf("with %q in the file: %v", bad, err)
		}
	}
	files, err := os.ReadDir(filepath.Dir(place))
	if err != nil || len(files) != 1 {
		t.Errorf("it leaves %v, %v", files, err)
	}
}
