package nodetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"sotto/node"
	"sotto/node/store"
)

// What is set for a conversation holds there, what is set for all elsewhere; each
// change is told of once, and all is there after a restart.
func TestSettings(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ctx := t.Context()
	first, err := ana.LastEvent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	set := func(chat, key, value, holds, from string, told bool) {
		t.Helper()
		var s node.Setting
		var err error
		if value == "" {
			s, err = ana.UnsetConfig(ctx, chat, key)
		} else {
			s, err = ana.SetConfig(ctx, chat, key, value)
		}
		if err != nil || s.Value != holds || s.From != from || (s.Conversation == "") != (chat == "") {
			t.Errorf("set %s of %q to %q: %+v, %v", key, chat, value, s, err)
		}
		if told {
			want = append(want, key+"/"+s.Conversation)
		}
	}
	value := func(chat, key string) (value, from string) {
		t.Helper()
		all, err := ana.Config(ctx, chat)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.Key == key {
				return s.Value, s.From
			}
		}
		return "", "nowhere"
	}
	set("", "receipts", "Off", "off", node.FromUser, true)
	set("", "receipts", "off", "off", node.FromUser, false)
	set("Ben", "receipts", "on", "on", node.FromConversation, true)
	set("Ben", "receipts", "", "off", node.FromUser, true)
	set("Ben", "receipts", "", "off", node.FromUser, false)
	set("Ben", "keep", "30d", "30d", node.FromConversation, true)
	set("", "theme", "dark", "dark", node.FromUser, true)
	set("", "theme", "", "system", node.FromDefault, true)
	for _, bad := range [][3]string{{"", "receipts", "maybe"}, {"", "recipts", "on"}, {"Ben", "theme", "dark"}, {"", "relay", "nonsense"}} {
		if s, err := ana.SetConfig(ctx, bad[0], bad[1], bad[2]); !errors.Is(err, node.ErrInvalid) {
			t.Errorf("%q: %+v, %v; want %v", bad, s, err, node.ErrInvalid)
		}
	}
	if _, err := ana.SetConfig(ctx, "Nobody", "receipts", "on"); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("a conversation that there is not: %v", err)
	}

	var told []string
	last, err := ana.LastEvent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range ana.Events(ctx, first) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == node.EventSetting {
			told = append(told, e.Setting.Key+"/"+e.Setting.Conversation)
		}
		if e.Seq == last {
			break
		}
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("told of %v, want %v", told, want)
	}

	ana.Stop()
	inside(t, ana, func(tx *store.Tx) error {
		s, err := tx.Setting(nil, "theme")
		if err != nil || s.Set || s.Lamport != 2 || s.Device == [16]byte{} {
			t.Errorf("what is left of a setting that was unset: %+v, %v", s, err)
		}
		return nil
	})
	ana.Start()
	for _, test := range [][4]string{
		{"", "receipts", "off", node.FromUser}, {"Ben", "receipts", "off", node.FromUser}, {"Ben", "keep", "30d", node.FromConversation},
		{"", "keep", "off", node.FromDefault}, {"Ben", "theme", "", "nowhere"}, {"", "relay", r.Address.String(), node.FromUser},
	} {
		if v, from := value(test[0], test[1]); v != test[2] || from != test[3] {
			t.Errorf("after a restart %s of %q is %q from %s, want %q from %s", test[1], test[0], v, from, test[2], test[3])
		}
	}
	if _, err := ana.Send(context.Background(), "Ben", "still here"); err != nil {
		t.Error(err)
	}
}
