package conversation

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"testing"

	"sotto/crypto/envelope"
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
	return &Welcome{At: mailbox.Mark{Era: 5, Seq: 6}, Chain: mailbox.Hash{1}, Package: [32]byte{2}, Names: []MemberName{{[32]byte{9}, "Ana"}},
		Inline: Invitation{Welcome: []byte("welcome"), Tree: []byte("tree")}.Append(nil)}
}

// spilledWelcome is the same with the invitation elsewhere.
func spilledWelcome() *Welcome {
	w := sampleWelcome()
	s, _, err := envelope.Spill([32]byte{3}, w.Inline)
	if err != nil {
		panic(err)
	}
	w.Inline, w.Relay, w.Spilled = nil, []byte("relay"), s
	return w
}

type welcomeFile struct {
	Welcome string            `json:"welcome"`
	Spilled string            `json:"spilled_welcome"`
	Profile string            `json:"profile"`
	Bad     map[string]string `json:"bad_welcome"`
	BadName map[string]string `json:"bad_profile"`
}

// The bytes are those of spec/vectors/group.
func TestWelcomeVectors(t *testing.T) {
	const file = "../../spec/vectors/group/welcome.json"
	inline, spilled := sampleWelcome().Append(nil), spilledWelcome().Append(nil)
	profile := Profile{Name: "Hikers", Description: "on Sundays", Picture: []byte("jpeg")}
	if *rewrite {
		bad := func(b []byte, change func(b []byte) []byte) string { return hex.EncodeToString(change(bytes.Clone(b))) }
		form := len(inline) - len(sampleWelcome().Inline) - 2
		v := welcomeFile{Welcome: hex.EncodeToString(inline), Spilled: hex.EncodeToString(spilled), Profile: hex.EncodeToString(profile.Append(nil)),
			Bad: map[string]string{
				"version 2":             bad(inline, func(b []byte) []byte { b[1] = 2; return b }),
				"form 3":                bad(inline, func(b []byte) []byte { b[form] = 3; return b }),
				"empty invitation":      bad(inline, func(b []byte) []byte { return append(b[:form+1], 0) }),
				"cut short":             bad(inline, func(b []byte) []byte { return b[:len(b)-1] }),
				"something behind it":   bad(inline, func(b []byte) []byte { return append(b, 0) }),
				"spilled and cut short": bad(spilled, func(b []byte) []byte { return b[:len(b)-1] }),
				"spilled to no blob":    bad(spilled, func(b []byte) []byte { return append(b[:form+1], 0, 0) }),
				"empty":                 "",
			}, BadName: map[string]string{
				"version 2":                     "00020648696b6572730a6f6e2053756e6461797300",
				"no name":                       "0001000000",
				"name with a control character": "000103610a620000",
				"name not in NFC":               "00010365cc810000",
				"description not UTF-8":         "0001017801ff00",
				"something behind it":           "00010648696b6572730a6f6e2053756e646179730000",
				"without a picture":             "00010648696b6572730a6f6e2053756e64617973",
			}}
		b, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v welcomeFile
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{string(inline): v.Welcome, string(spilled): v.Spilled} {
		raw, _ := hex.DecodeString(want)
		if got != string(raw) {
			t.Errorf("welcome is %x, want %s", got, want)
		}
		w, err := ParseWelcome(raw)
		if err != nil || !bytes.Equal(w.Append(nil), raw) {
			t.Errorf("the welcome does not come back: %+v, %v", w, err)
		}
	}
	i, err := ParseInvitation(sampleWelcome().Inline)
	if err != nil || string(i.Welcome) != "welcome" || string(i.Tree) != "tree" {
		t.Errorf("the invitation does not come back: %+v, %v", i, err)
	}
	if got := hex.EncodeToString(profile.Append(nil)); got != v.Profile {
		t.Errorf("profile is %s, want %s", got, v.Profile)
	}
	raw, _ := hex.DecodeString(v.Profile)
	if p, err := ParseProfile(raw); err != nil || !reflect.DeepEqual(p, profile) {
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

// Names are what a letter has room for.
func TestNamesOfAWelcome(t *testing.T) {
	w := sampleWelcome()
	for i := range 1000 {
		w.AddName([32]byte{1, byte(i), byte(i >> 8)}, "a member of the group")
	}
	got, err := ParseWelcome(w.Append(nil))
	if err != nil || len(got.Names) < 200 || len(got.Names) > 400 {
		t.Errorf("%d names, %v", len(got.Names), err)
	}
}

func FuzzParseWelcome(f *testing.F) {
	f.Add(sampleWelcome().Append(nil))
	f.Add(spilledWelcome().Append(nil))
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

func FuzzParseInvitation(f *testing.F) {
	f.Add(sampleWelcome().Inline)
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := ParseInvitation(b); err == nil && !bytes.Equal(i.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}
