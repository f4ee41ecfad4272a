package content

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"
)

var makeRecords = flag.Bool("make-records", false, "write spec/vectors/content/records.json if it does not exist")

func sampleRecords() []Record {
	return []Record{
		{Key: "contact/abc", Lamport: 7, Device: [16]byte{1, 2}, Value: []byte{1, 3, 'A', 'n', 'a'}},
		{Key: "later/x", Lamport: 1, Device: [16]byte{0xff}},
	}
}

// spec/devices.md, section 2.
func TestRecordsVectors(t *testing.T) {
	const path = "../../spec/vectors/content/records.json"
	var v struct {
		Records string   `json:"records"`
		Bad     []string `json:"bad"`
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *makeRecords {
		good := appendRecords(sampleRecords())
		v.Records = hex.EncodeToString(good)
		newer, cut, nameless := bytes.Clone(good), good[:len(good)-1], appendRecords([]Record{{Lamport: 1}})
		newer[0] = 2
		for _, b := range [][]byte{newer, cut, append(bytes.Clone(good), 0), nameless, appendRecords([]Record{{Key: "k"}}), {}} {
			v.Bad = append(v.Bad, hex.EncodeToString(b))
		}
		b, _ = json.MarshalIndent(v, "", "  ")
		err = os.WriteFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	raw, _ := hex.DecodeString(v.Records)
	got, err := ParseRecords(raw)
	if err != nil || len(got) != 2 || got[0].Key != "contact/abc" || got[0].Lamport != 7 || len(got[1].Value) != 0 {
		t.Errorf("read %+v, %v", got, err)
	}
	if again := appendRecords(sampleRecords()); !bytes.Equal(again, raw) {
		t.Errorf("made now: %x", again)
	}
	for _, s := range v.Bad {
		b, _ := hex.DecodeString(s)
		if _, err := ParseRecords(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is read: %v", s, err)
		}
	}
}

// Of two values of a key every device takes the same one, in whatever order they come.
func TestNewerRecord(t *testing.T) {
	a, b, c := Record{Lamport: 1, Device: [16]byte{9}}, Record{Lamport: 2, Device: [16]byte{1}}, Record{Lamport: 2, Device: [16]byte{2}}
	for _, tt := range []struct {
		a, b Record
		want bool
	}{{b, a, true}, {a, b, false}, {c, b, true}, {b, c, false}, {c, c, false}} {
		if got := tt.a.Newer(&tt.b); got != tt.want {
			t.Errorf("%+v newer than %+v: %v", tt.a, tt.b, got)
		}
	}
}

func TestDeviceKinds(t *testing.T) {
	at := time.UnixMilli(1764000000000).UTC()
	for _, m := range []*Message{NewRecords(sampleRecords(), at, 3), NewAccountLog([]byte("a log"), at, 4)} {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(b); err != nil || !reflect.DeepEqual(back, m) || !m.Kind.Hidden() {
			t.Errorf("%+v came back as %+v, %v", m, back, err)
		}
	}
	for name, m := range map[string]*Message{
		"no log":         NewAccountLog(nil, at, 1),
		"a log too long": NewAccountLog(make([]byte, maxAccountLog+1), at, 1),
	} {
		if _, err := m.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is made: %v", name, err)
		}
	}
}

// Another device of the account may be in other hands.
func FuzzParseRecords(f *testing.F) {
	f.Add(appendRecords(sampleRecords()))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseRecords(b)
		if err != nil {
			return
		}
		if again := appendRecords(got); !bytes.Equal(again, b) {
			t.Errorf("%x is read, and written as %x", b, again)
		}
		for i := range got {
			if got[i].Key == "" || got[i].Lamport == 0 {
				t.Errorf("read %+v", got[i])
			}
		}
	})
}
