package conversation

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"testing"

	"sotto/relay/mailbox"
)

func sampleGroup() *GroupInfo {
	return NewDirect(MailboxRef{Relay: []byte("relay"), Mailbox: mailbox.ID{1, 2}, BaseEpoch: 1}, [32]byte{9}, [32]byte{4}, bytes.Repeat([]byte{7}, 32))
}

func sampleContext() Context {
	return Context{Seen: mailbox.Mark{Era: 5, Seq: 6}, Chain: mailbox.Hash{1}, AccountSeq: 3, AccountHead: [32]byte{8}}
}

// The bytes are those of spec/vectors/group.
func TestGroupVectors(t *testing.T) {
	b, err := os.ReadFile("../../spec/vectors/group/extensions.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Group   string            `json:"group_f051"`
		Context string            `json:"context"`
		Bad     map[string]string `json:"bad_group"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sampleGroup().Append(nil)); got != v.Group {
		t.Errorf("group is %s, want %s", got, v.Group)
	}
	if got := hex.EncodeToString(sampleContext().Append(nil)); got != v.Context {
		t.Errorf("context is %s, want %s", got, v.Context)
	}
	if len(v.Bad) == 0 {
		t.Error("no bad vectors")
	}
	for name, s := range v.Bad {
		raw, _ := hex.DecodeString(s)
		if _, err := ParseGroupInfo(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	raw, _ := hex.DecodeString(v.Group)
	g, err := ParseGroupInfo(raw)
	if err != nil || !bytes.Equal(g.Append(nil), raw) {
		t.Errorf("the group does not come back: %+v, %v", g, err)
	}
	raw, _ = hex.DecodeString(v.Context)
	if c, err := ParseContext(raw); err != nil || !reflect.DeepEqual(c, sampleContext()) {
		t.Errorf("the context does not come back: %+v, %v", c, err)
	}
}

func TestRoles(t *testing.T) {
	g := sampleGroup()
	if g.Roles[0].Account[0] != 4 {
		t.Error("roles are not in order")
	}
	if g.May([32]byte{9})&MayWrite == 0 || g.May([32]byte{1}) != 0 {
		t.Error("an owner may not write, or a stranger may")
	}
}

func sampleWelcome() *Welcome {
	return &Welcome{At: mailbox.Mark{Era: 5, Seq: 6}, Chain: mailbox.Hash{1}, Names: []MemberName{{[32]byte{9}, "Ana"}}, Welcome: []byte("welcome")}
}

// The bytes are those of spec/vectors/group.
func TestWelcomeVectors(t *testing.T) {
	b, err := os.ReadFile("../../spec/vectors/group/welcome.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Welcome string            `json:"welcome"`
		Profile string            `json:"profile"`
		Bad     map[string]string `json:"bad_welcome"`
		BadName map[string]string `json:"bad_profile"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	profile := Profile{Name: "Hikers", Description: "on Sundays"}
	if got := hex.EncodeToString(sampleWelcome().Append(nil)); got != v.Welcome {
		t.Errorf("welcome is %s, want %s", got, v.Welcome)
	}
	if got := hex.EncodeToString(profile.Append(nil)); got != v.Profile {
		t.Errorf("profile is %s, want %s", got, v.Profile)
	}
	raw, _ := hex.DecodeString(v.Welcome)
	if w, err := ParseWelcome(raw); err != nil || !reflect.DeepEqual(w, sampleWelcome()) {
		t.Errorf("the welcome does not come back: %+v, %v", w, err)
	}
	raw, _ = hex.DecodeString(v.Profile)
	if p, err := ParseProfile(raw); err != nil || p != profile {
		t.Errorf("the profile does not come back: %+v, %v", p, err)
	}
	if len(v.Bad) == 0 || len(v.BadName) == 0 {
		t.Error("no bad vectors")
	}
	for name, s := range v.Bad {
		raw, _ := hex.DecodeString(s)
		if _, err := ParseWelcome(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	for name, s := range v.BadName {
		raw, _ := hex.DecodeString(s)
		if _, err := ParseProfile(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

func FuzzParseWelcome(f *testing.F) {
	f.Add(sampleWelcome().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := ParseWelcome(b); err == nil && !bytes.Equal(w.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzParseProfile(f *testing.F) {
	f.Add(Profile{Name: "Hikers", Description: "on Sundays"}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseProfile(b); err == nil && !bytes.Equal(p.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzParseGroupInfo(f *testing.F) {
	f.Add(sampleGroup().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := ParseGroupInfo(b); err == nil && !bytes.Equal(g.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzParseContext(f *testing.F) {
	f.Add(sampleContext().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseContext(b); err == nil && !bytes.Equal(c.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}
