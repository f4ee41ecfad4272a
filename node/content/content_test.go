package content

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

const vectorFile = "../../spec/vectors/content/text.json"

var write = flag.Bool("write-vectors", false, "write the vector file; it was made once and does not change")

type vector struct {
	Name    string `json:"name"`
	Account string `json:"account"`
	Group   string `json:"group"`
	Salt    string `json:"salt,omitempty"`
	Lamport uint64 `json:"lamport,omitempty"`
	SentMS  int64  `json:"sent_ms,omitempty"`
	Parent  string `json:"parent,omitempty"`
	ReplyTo string `json:"in_reply_to,omitempty"`
	Expires int64  `json:"expires,omitempty"`
	Text    string `json:"text,omitempty"`
	Encoded string `json:"encoded"`
	ID      string `json:"id,omitempty"`
	Bad     bool   `json:"bad,omitempty"` // Encoded must be refused
}

func (v vector) message(t *testing.T) *Message {
	m := &Message{Kind: Text, Text: v.Text, Lamport: v.Lamport, Sent: time.UnixMilli(v.SentMS).UTC(), Expires: time.Duration(v.Expires) * time.Second}
	salt, _ := hex.DecodeString(v.Salt)
	copy(m.Salt[:], salt)
	for s, set := range map[string]func(ID){v.Parent: func(id ID) { m.Parents = []ID{id} }, v.ReplyTo: func(id ID) { m.InReplyTo = &id }} {
		if s != "" {
			id, err := ParseID(s)
			if err != nil {
				t.Fatal(err)
			}
			set(id)
		}
	}
	return m
}

func TestVectors(t *testing.T) {
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	for i, v := range vs {
		t.Run(v.Name, func(t *testing.T) {
			enc, _ := hex.DecodeString(v.Encoded)
			if v.Bad {
				if m, err := Decode(enc); !errors.Is(err, ErrMalformed) {
					t.Errorf("Decode(%x) = %+v, %v, want ErrMalformed", enc, m, err)
				}
				return
			}
			m := v.message(t)
			got, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			var account [32]byte
			a, _ := hex.DecodeString(v.Account)
			copy(account[:], a)
			group, _ := hex.DecodeString(v.Group)
			id := IDOf(account, group, got, m.Salt)
			if *write {
				vs[i].Encoded, vs[i].ID = hex.EncodeToString(got), id.String()
				return
			}
			if hex.EncodeToString(got) != v.Encoded || id.String() != v.ID {
				t.Errorf("Encode = %x, id %v; want %s, id %s", got, id, v.Encoded, v.ID)
			}
			back, err := Decode(enc)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := back.Encode(); !bytes.Equal(again, enc) {
				t.Errorf("decoded and encoded again it is %x", again)
			}
		})
	}
	if *write {
		out, _ := json.MarshalIndent(vs, "", "  ")
		if err := os.WriteFile(vectorFile, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       error
	}{
		{"empty", "", ErrEmpty},
		{"one byte", "a", nil},
		{"60 KiB", strings.Repeat("a", MaxText), nil},
		{"one byte more", strings.Repeat("a", MaxText+1), ErrTooLong},
		{"half a character", "\xe4\xbd", ErrNotText},
		{"Chinese and emoji", "你好，世界 👋🏽", nil},
	} {
		if _, err := NewText(tt.text, time.Now(), 0, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// A kind of a later version is kept, not refused.
func TestUnknownKind(t *testing.T) {
	body := []cbor.RawMessage{must(encoder.Marshal(99)), must(encoder.Marshal("new"))}
	b := must(encoder.Marshal(item{Salt: make([]byte, 16), Ext: map[uint64]cbor.RawMessage{}, Body: body}))
	m, err := Decode(b)
	if err != nil || m.Kind != 99 {
		t.Fatalf("Decode(%x) = %+v, %v", b, m, err)
	}
	if _, err := m.Encode(); err == nil {
		t.Error("a kind this version does not know was made")
	}
}

func FuzzDecode(f *testing.F) {
	m, _ := NewText("hello", time.UnixMilli(1), 3, []ID{{1, 2}})
	b, _ := m.Encode()
	f.Add(b)
	f.Add([]byte{0x86})
	for _, v := range kinds() {
		b, _ := v.m.Encode()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil || m.Kind == 0 || m.Kind > Pin {
			return
		}
		out, err := m.Encode()
		if err != nil {
			t.Fatalf("%x was read and cannot be written: %v", b, err)
		}
		if back, err := Decode(out); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%x was read as %+v and came back as %+v, %v", b, m, back, err)
		}
	})
}

// Messages for devices come back as they were made, and what breaks their limits is refused.
func TestHiddenKinds(t *testing.T) {
	at := time.UnixMilli(1764000000000).UTC()
	for _, m := range []*Message{
		NewName("Ana", at, 3),
		NewKeyPackages([]byte("set"), [][]byte{[]byte("one"), []byte("two")}, at, 4),
	} {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil || !reflect.DeepEqual(back, m) || !m.Kind.Hidden() {
			t.Errorf("%+v came back as %+v, %v", m, back, err)
		}
	}
	for name, m := range map[string]*Message{
		"no name":            NewName("", at, 1),
		"a name too long":    NewName(strings.Repeat("x", maxName+1), at, 1),
		"no packages":        NewKeyPackages(nil, nil, at, 1),
		"too many packages":  NewKeyPackages(nil, make([][]byte, maxPackages+1), at, 1),
		"a package too long": NewKeyPackages(nil, [][]byte{make([]byte, maxPackage+1)}, at, 1),
		"a set too long":     NewKeyPackages(make([]byte, maxDeviceSet+1), [][]byte{{1}}, at, 1),
	} {
		if _, err := m.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is made: %v", name, err)
		}
		// The same from somebody who does not keep to the limits.
		it := item{Salt: m.Salt[:], Ext: map[uint64]cbor.RawMessage{}, Body: []cbor.RawMessage{must(encoder.Marshal(m.Kind))}}
		if m.Kind == Name {
			it.Body = append(it.Body, must(encoder.Marshal(m.Text)))
		} else {
			it.Body = append(it.Body, must(encoder.Marshal(m.DeviceSet)), must(encoder.Marshal(m.Packages)))
		}
		if _, err := Decode(must(encoder.Marshal(it))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is read: %v", name, err)
		}
	}
	if Text.Hidden() || Kind(99).Hidden() {
		t.Error("a text is hidden, or what nobody knows")
	}
}

// Who asks to be let into a group, and who is not, come back as they were said, within limits.
func TestGroupRequests(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000).UTC()
	for name, m := range map[string]*Message{
		"request": NewGroupRequest("Dov", []byte("log"), []byte("set"), [][]byte{{1}, {2}}, now, 3),
		"refusal": NewGroupRefusal([32]byte{7}, now, 4),
	} {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		back, err := Decode(b)
		if err != nil || !m.Kind.Hidden() || !reflect.DeepEqual(back, m) {
			t.Errorf("%s: %+v, %v, want %+v", name, back, err, m)
		}
	}
	for name, m := range map[string]*Message{
		"no name":     NewGroupRequest("", []byte("log"), nil, [][]byte{{1}}, now, 1),
		"no log":      NewGroupRequest("Dov", nil, nil, [][]byte{{1}}, now, 1),
		"no packages": NewGroupRequest("Dov", []byte("log"), nil, nil, now, 1),
		"a large log": NewGroupRequest("Dov", make([]byte, maxLog+1), nil, [][]byte{{1}}, now, 1),
	} {
		if _, err := m.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}
