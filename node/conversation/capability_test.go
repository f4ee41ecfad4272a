package conversation

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
)

// exporter is MLS-Exporter of RFC 9420, Section 8.5, with the hash of the product's
// suite, written down a second time.
type exporter []byte

func (secret exporter) Export(label string, context []byte, length int) ([]byte, error) {
	expand := func(secret []byte, label string, context []byte, length int) []byte {
		info := codec.AppendU16(nil, uint16(length))
		info = codec.AppendVec(codec.AppendVec(info, "MLS 1.0 "+label), context)
		out, err := hkdf.Expand(sha512.New384, secret, string(info), length)
		if err != nil {
			panic(err)
		}
		return out
	}
	hash := sha512.Sum384(context)
	return expand(expand(secret, label, nil, sha512.Size384), "exported", hash[:], length), nil
}

// The keys are those of spec/vectors/envelope: an epoch's capabilities and the secret
// of its envelopes, different for each epoch, mailbox and role.
func TestCapabilityVectors(t *testing.T) {
	b, err := os.ReadFile("../../spec/vectors/envelope/capabilities.json")
	if err != nil {
		t.Fatal(err)
	}
	var v []struct {
		Exporter string `json:"exporter_secret"`
		Mailbox  string `json:"mailbox_id"`
		Envelope string `json:"envelope_secret"`
		Read     string `json:"read_seed"`
		ReadKey  string `json:"read_key"`
		Append   string `json:"append_seed"`
		Key      string `json:"append_key"`
		NextCaps string `json:"next_caps"`
	}
	if err := json.Unmarshal(b, &v); err != nil || len(v) < 3 {
		t.Fatalf("%d vectors, %v", len(v), err)
	}
	un := func(s string) []byte { b, _ := hex.DecodeString(s); return b }
	seen := map[string]bool{}
	for i, v := range v {
		k, err := DeriveKeys(exporter(un(v.Exporter)), mailbox.ID(un(v.Mailbox)))
		if err != nil {
			t.Fatal(err)
		}
		for name, x := range map[string]struct {
			got  []byte
			want string
		}{
			"the envelopes' secret": {k.Envelope, v.Envelope}, "the read seed": {k.Read.Seed(), v.Read}, "the read key": {k.Read.Public().Bytes(), v.ReadKey},
			"the append seed": {k.Append.Seed(), v.Append}, "the append key": {k.Append.Public().Bytes(), v.Key}, "what a commit carries": {k.NextCaps(), v.NextCaps},
		} {
			if !bytes.Equal(x.got, un(x.want)) {
				t.Errorf("%d: %s is %x, want %s", i, name, x.got, x.want)
			}
		}
		if seen[v.Read] || seen[v.Append] || v.Read == v.Append {
			t.Errorf("%d: a seed comes twice", i)
		}
		seen[v.Read], seen[v.Append] = true, true
	}
}
