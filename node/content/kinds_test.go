package content

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

const kindsFile = "../../spec/vectors/content/kinds.json"

type named struct {
	name string
	m    *Message
}

// kinds has a message of each kind that is about another, with every field in use.
func kinds() []named {
	target := ID{1, 0x51}
	make := func(k Kind, fill func(*Message)) *Message {
		m := New(k, Common{Sent: time.UnixMilli(1764000000000), Lamport: 5})
		m.Salt = [16]byte{byte(k)}
		fill(m)
		return m
	}
	return []named{
		{"a text with a mention", make(Text, func(m *Message) {
			m.Text, m.Mentions = "hello @ana", []Mention{{Start: 6, Length: 4, Account: [32]byte{0x41}}}
		})},
		{"a text that was forwarded", make(Text, func(m *Message) { m.Text, m.Forwarded = "news", true })},
		{"a reply that disappears", make(Text, func(m *Message) { m.Text, m.InReplyTo, m.Expires = "yes", &target, time.Hour })},
		{"an edit", make(Text, func(m *Message) { m.Text, m.Replaces = "hello, world", &target })},
		{"a deletion", make(Delete, func(m *Message) { m.Replaces = &target })},
		{"a deletion by an admin", make(Moderate, func(m *Message) { m.Replaces = &target })},
		{"two reactions", make(Reaction, func(m *Message) { m.InReplyTo, m.Reactions = &target, []string{"👍", "🎉"} })},
		{"no reaction any more", make(Reaction, func(m *Message) { m.InReplyTo, m.Reactions = &target, []string{} })},
		{"a receipt", make(Receipt, func(m *Message) { m.Receipt, m.IDs = Seen, []ID{target, {1, 0x52}} })},
		{"typing", make(Typing, func(m *Message) { m.On = true })},
		{"a poll", make(Poll, func(m *Message) { m.Text, m.Options, m.On = "When?", []string{"Saturday", "Sunday"}, true })},
		{"a vote", make(Vote, func(m *Message) { m.InReplyTo, m.Choices = &target, []uint64{0, 1} })},
		{"the end of a poll", make(Close, func(m *Message) { m.InReplyTo = &target })},
		{"a pin", make(Pin, func(m *Message) { m.InReplyTo, m.On = &target, true })},
	}
}

type kindVector struct {
	Name    string `json:"name"`
	Encoded string `json:"encoded"`
}

func TestKindVectors(t *testing.T) {
	if *write {
		var vs []kindVector
		for _, v := range kinds() {
			b, err := v.m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			vs = append(vs, kindVector{v.name, hex.EncodeToString(b)})
		}
		out, _ := json.MarshalIndent(vs, "", "  ")
		if err := os.WriteFile(kindsFile, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(kindsFile)
	if err != nil {
		t.Fatal(err)
	}
	var vs []kindVector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	want := kinds()
	if len(vs) != len(want) {
		t.Fatalf("%d vectors, want %d", len(vs), len(want))
	}
	for i, v := range vs {
		enc, _ := hex.DecodeString(v.Encoded)
		if got, err := want[i].m.Encode(); err != nil || !bytes.Equal(got, enc) {
			t.Errorf("%s is %x, %v; want %s", v.Name, got, err, v.Encoded)
		}
		if back, err := Decode(enc); err != nil || !reflect.DeepEqual(back, want[i].m) {
			t.Errorf("%s is read as %+v, %v; want %+v", v.Name, back, err, want[i].m)
		}
	}
}

// What breaks the rules of its kind is neither made nor read.
func TestKindsThatAreRefused(t *testing.T) {
	target := ID{1, 0x51}
	for name, m := range map[string]*Message{
		"a deletion of nothing":               {Kind: Delete},
		"a deletion that is a reply":          {Kind: Delete, InReplyTo: &target},
		"a reaction to nothing":               {Kind: Reaction, Reactions: []string{"x"}},
		"a reaction that replaces":            {Kind: Reaction, Reactions: []string{"x"}, InReplyTo: &target, Replaces: &target},
		"nine reactions":                      {Kind: Reaction, InReplyTo: &target, Reactions: strings.Split("abcdefghi", "")},
		"a reaction twice":                    {Kind: Reaction, InReplyTo: &target, Reactions: []string{"a", "a"}},
		"a reaction in two lines":             {Kind: Reaction, InReplyTo: &target, Reactions: []string{"a\nb"}},
		"a reaction as long as a text":        {Kind: Reaction, InReplyTo: &target, Reactions: []string{strings.Repeat("x", 33)}},
		"a receipt for nothing":               {Kind: Receipt, Receipt: Seen},
		"a receipt of a third kind":           {Kind: Receipt, Receipt: 3, IDs: []ID{target}},
		"a receipt for too many":              {Kind: Receipt, Receipt: Seen, IDs: make([]ID, 65)},
		"a poll with one option":              {Kind: Poll, Text: "?", Options: []string{"a"}},
		"a poll with an option twice":         {Kind: Poll, Text: "?", Options: []string{"a", "a"}},
		"a poll without a question":           {Kind: Poll, Options: []string{"a", "b"}},
		"a poll that replaces":                {Kind: Poll, Text: "?", Options: []string{"a", "b"}, Replaces: &target},
		"a vote in no poll":                   {Kind: Vote},
		"a vote for what no poll has":         {Kind: Vote, InReplyTo: &target, Choices: []uint64{16}},
		"a vote twice":                        {Kind: Vote, InReplyTo: &target, Choices: []uint64{1, 1}},
		"a mention behind the text":           {Kind: Text, Text: "hi", Mentions: []Mention{{Start: 1, Length: 2}}},
		"a mention behind all numbers":        {Kind: Text, Text: "hi", Mentions: []Mention{{Start: 1, Length: 1<<64 - 1}}},
		"a mention of half a character":       {Kind: Text, Text: "ä", Mentions: []Mention{{Start: 0, Length: 1}}},
		"mentions over each other":            {Kind: Text, Text: "hello", Mentions: []Mention{{Start: 0, Length: 3}, {Start: 2, Length: 2}}},
		"a pin of nothing":                    {Kind: Pin, On: true},
		"the end of a poll that is not named": {Kind: Close},
	} {
		if _, err := m.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is made: %v", name, err)
		}
		// The same from somebody who does not keep to the rules.
		it := item{Salt: m.Salt[:], Ext: map[uint64]cbor.RawMessage{}, Body: []cbor.RawMessage{must(encoder.Marshal(m.Kind))}}
		if m.Replaces != nil {
			it.Replaces = m.Replaces[:]
		}
		if m.InReplyTo != nil {
			it.InReplyTo = m.InReplyTo[:]
		}
		if len(m.Mentions) > 0 {
			it.Ext[2] = must(encoder.Marshal(m.Mentions))
		}
		for _, part := range map[Kind][]any{Text: {m.Text}, Reaction: {some(m.Reactions)}, Receipt: {m.Receipt, some(m.IDs)}, Typing: {m.On}, Pin: {m.On},
			Poll: {m.Text, m.Options, m.On}, Vote: {some(m.Choices)}}[m.Kind] {
			it.Body = append(it.Body, must(encoder.Marshal(part)))
		}
		if back, err := Decode(must(encoder.Marshal(it))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is read: %+v, %v", name, back, err)
		}
	}
}

// Null stands for no value of a kind: it would be a second encoding of none.
func TestNullIsNoValue(t *testing.T) {
	target := ID{1, 0x51}
	for _, k := range []Kind{Reaction, Vote, Pin} {
		it := item{Salt: make([]byte, 16), InReplyTo: target[:], Ext: map[uint64]cbor.RawMessage{}, Body: []cbor.RawMessage{must(encoder.Marshal(k)), {0xf6}}}
		if _, err := Decode(must(encoder.Marshal(it))); !errors.Is(err, ErrMalformed) {
			t.Errorf("kind %d with null is read: %v", k, err)
		}
	}
}

// A long text is packed and comes back; what would unpack to more than a message may be
// is refused without being unpacked.
func TestPack(t *testing.T) {
	for _, n := range []int{1, packAbove, MaxText} {
		m, err := NewText(strings.Repeat("lorem ipsum ", n)[:n], time.UnixMilli(1), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		packed := Pack(b)
		if n == MaxText && len(packed) > n/10 {
			t.Errorf("%d bytes that repeat themselves are packed into %d", n, len(packed))
		}
		if back, err := Unpack(packed); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%d bytes come back as %d, %v", len(b), len(back), err)
		}
	}
	for _, n := range []int{MaxEncoded + 1, 64 << 20} {
		bomb := packer.EncodeAll(make([]byte, n), nil)
		allocated := testing.AllocsPerRun(1, func() {
			if _, err := Unpack(bomb); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d zeros in %d bytes: %v", n, len(bomb), err)
			}
		})
		if allocated > 1000 {
			t.Errorf("a bomb takes %v allocations", allocated)
		}
	}
	if _, err := Unpack(append(bytes.Clone(zstdMagic), 1, 2, 3)); !errors.Is(err, ErrMalformed) {
		t.Errorf("half a frame: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packer.EncodeAll(make([]byte, 1000), nil))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := Unpack(b); err == nil && len(out) > MaxEncoded {
			t.Errorf("%d bytes unpack to %d", len(b), len(out))
		}
	})
}
