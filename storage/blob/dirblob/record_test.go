package dirblob

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"sotto/storage/blob"
)

const vectorFile = "../../../spec/vectors/blob/index.json"

var write = flag.Bool("write-vectors", false, "write the vector file; it was made once and does not change")

// What stands in an index of version 1 is read for ever.
func TestVectors(t *testing.T) {
	one := &record{Terms: blob.Terms{Size: 5, Owner: blob.Owner{1}, Expires: 29_000_000}}
	one.sums[0] = blob.Sum([]byte("bytes"))
	two := &record{Terms: blob.Terms{Size: blob.ChunkSize + 1, Owner: blob.Owner{2}, Class: 1, Expires: 29_000_001}}
	two.sums[0], two.sums[1] = [32]byte{7}, [32]byte{8}
	got := map[string]string{
		"one chunk":  hex.EncodeToString(encodeRecord(one)),
		"two chunks": hex.EncodeToString(encodeRecord(two)),
		"usage":      hex.EncodeToString(encodeUsage(blob.Usage{Blobs: 2, Bytes: blob.ChunkSize + 6, Uploading: 9})),
		"expiry key": hex.EncodeToString(minuteKey(29_000_000, blob.ID{3})),
		"record key": hex.EncodeToString(idKey('b', blob.ID{3})),
	}
	if *write {
		b, _ := json.MarshalIndent(got, "", "  ")
		os.MkdirAll(filepath.Dir(vectorFile), 0o755)
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("%d vectors, want %d", len(want), len(got))
	}
	for name, hex := range got {
		if hex != want[name] {
			t.Errorf("%s is %s, want %s", name, hex, want[name])
		}
	}
	for name, r := range map[string]*record{"one chunk": one, "two chunks": two} {
		raw, _ := hex.DecodeString(want[name])
		back, err := decodeRecord(raw)
		if err != nil || *back != *r {
			t.Errorf("%s comes back as %+v, %v", name, back, err)
		}
		for _, cut := range []int{0, 1, 40, len(raw) - 1} {
			if _, err := decodeRecord(raw[:cut]); err == nil {
				t.Errorf("%s, cut off at %d, is read", name, cut)
			}
		}
		if _, err := decodeRecord(append(bytes.Clone(raw), 0)); err == nil {
			t.Errorf("%s, with a byte more, is read", name)
		}
	}
	raw, _ := hex.DecodeString(want["usage"])
	if u, err := decodeUsage(raw); err != nil || u != (blob.Usage{Blobs: 2, Bytes: blob.ChunkSize + 6}) {
		t.Errorf("usage comes back as %+v, %v", u, err)
	}
}
