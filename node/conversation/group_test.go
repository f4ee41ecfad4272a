package conversation

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
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
	if c, err := ParseContext(raw); err != nil || c != sampleContext() {
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
