package mailbox

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// The hashes are those of spec/vectors/mailbox.
func TestHashVectors(t *testing.T) {
	b, err := os.ReadFile("../../spec/vectors/mailbox/hashes.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Mailbox string `json:"mailbox"`
		Chain0  string `json:"chain_0"`
		Entries []struct {
			Kind    Kind   `json:"kind"`
			Gen     Gen    `json:"generation"`
			Meta    string `json:"meta"`
			Payload string `json:"payload"`
			Hash    string `json:"entry_hash"`
			Era     Era    `json:"era"`
			Seq     Seq    `json:"seq"`
			Minute  Minute `json:"minute"`
			Chain   string `json:"chain"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	un := func(s string) []byte { b, _ := hex.DecodeString(s); return b }
	chain := FirstChain(ID(un(v.Mailbox)))
	if got := hex.EncodeToString(chain[:]); got != v.Chain0 {
		t.Errorf("chain_0 is %s, want %s", got, v.Chain0)
	}
	if len(v.Entries) == 0 {
		t.Error("no entries")
	}
	for i, e := range v.Entries {
		h := EntryHash(e.Kind, e.Gen, un(e.Meta), un(e.Payload))
		chain = NextChain(chain, e.Era, e.Seq, e.Minute, h)
		if got := hex.EncodeToString(h[:]); got != e.Hash {
			t.Errorf("entry %d: hash %s, want %s", i, got, e.Hash)
		}
		if got := hex.EncodeToString(chain[:]); got != e.Chain {
			t.Errorf("entry %d: chain %s, want %s", i, got, e.Chain)
		}
	}
}

func TestMinute(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 59, 0, time.UTC)
	if m := MinuteOf(at); m.Time() != at.Truncate(time.Minute) {
		t.Errorf("%v lies in %v", at, m.Time())
	}
}

func TestErrorsAreTheirSentinels(t *testing.T) {
	if !errors.Is(&ConflictError{}, ErrConflict) || !errors.Is(&GoneError{SlotTaken}, ErrGone) || errors.Is(&GoneError{}, ErrConflict) {
		t.Error("an error is not its sentinel")
	}
}
