package node

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"

	"sotto/crypto/codec"
	"sotto/node/store"
)

var makeVectors = flag.Bool("make-vectors", false, "write vector files that do not exist; those that do are never changed")

func samplePack() []section {
	return []section{
		{Group: []byte{1, 2, 3}, Contact: [32]byte{4}, Since: 1764000000000, Items: []handed{
			{ID: [32]byte{1, 9}, Seq: 7, From: [32]byte{4}, Sent: 1764000000001, Arrived: 1764000000002, Kind: store.KindText, Text: "hello", ReplyTo: [32]byte{1, 8}, Edited: 1764000000003},
			{ID: [32]byte{1, 8}, Seq: 6, Arrived: 1764000000000, Kind: store.KindGap, Count: 3, Reason: "expired"},
			{ID: [32]byte{1, 7}, Seq: 5, Kind: store.KindPoll, Text: "tea?", Options: []string{"yes", "no"}, Multiple: true},
		}},
		{Group: []byte{5}, Many: true, Over: true, Name: "Hikers", Items: []handed{
			{ID: [32]byte{2}, Seq: 1, From: [32]byte{4}, Kind: store.KindChange, Told: []store.Told{{What: store.ToldNewDevice, Of: [32]byte{4}, Text: "aaaa", Other: "bbbb"}}},
		}},
	}
}

func writePack(s []section) []byte {
	return codec.Write(func(f *codec.Fields) { packFields(f, &s) })
}

// spec/devices.md, section 6.
func TestPackVectors(t *testing.T) {
	const path = "../spec/vectors/content/history.json"
	var v struct {
		Pack string `json:"pack"`
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *makeVectors {
		v.Pack = hex.EncodeToString(writePack(samplePack()))
		b, _ = json.MarshalIndent(v, "", "  ")
		err = os.WriteFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	raw, _ := hex.DecodeString(v.Pack)
	got, err := parsePack(raw)
	if err != nil || len(got) != 2 || len(got[0].Items) != 3 || got[0].Items[0].Text != "hello" || !reflect.DeepEqual(got[1].Items[0].Told, samplePack()[1].Items[0].Told) {
		t.Errorf("read %+v, %v", got, err)
	}
	if again := writePack(samplePack()); !bytes.Equal(again, raw) {
		t.Errorf("made now: %x", again)
	}
	for _, bad := range [][]byte{nil, {2, 0}, raw[:len(raw)-1], append(bytes.Clone(raw), 0)} {
		if _, err := parsePack(bad); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%x is read: %v", bad, err)
		}
	}
}

// Another device of the account may be in other hands.
func FuzzParsePack(f *testing.F) {
	f.Add(writePack(samplePack()))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parsePack(b)
		if err != nil {
			return
		}
		if again := writePack(got); !bytes.Equal(again, b) {
			t.Errorf("%x is read, and written as %x", b, again)
		}
	})
}

// A link's own structures come back, and nothing else is taken for them.
func FuzzLinkPayloads(f *testing.F) {
	f.Add(codec.Write((&grant{Log: []byte("log"), Name: "Ana", Relay: "/ip4/127.0.0.1"}).fields))
	f.Add(codec.Write((&ready{KeyPackage: []byte("key package")}).fields))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, fields := range []func(*codec.Fields){new(grant).fields, new(ready).fields, new(sharedContact).fields, new(sharedDevice).fields, new(sharedSetting).fields} {
			if codec.Read(b, fields) == nil && !bytes.Equal(codec.Write(fields), b) {
				t.Errorf("%x is written otherwise than it was read", b)
			}
		}
	})
}
