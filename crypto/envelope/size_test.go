package envelope_test

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/relay/mailbox"
)

// T21: of a text of 1 to 400 bytes a relay does not see how long it is. Each goes the
// whole way, with all that a message may say of others before it.
func TestTextsHaveOneSize(t *testing.T) {
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	config := mls.Config{Signer: signer, ValidateCredential: func(leaf, old *mls.LeafNode) error { return nil }}
	g, err := mls.NewGroup(config, mls.GroupOptions{Suite: mls.XWing, Credential: mls.BasicCredential([]byte("ana"))})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := g.Export("sotto envelope", nil, envelope.SecretSize)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := envelope.NewKeys(secret)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(m *content.Message, lamport uint64) int {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		seen := conversation.Context{Seen: mailbox.Mark{Era: 1, Seq: mailbox.Seq(lamport)}}
		message, err := g.Encrypt(b, seen.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		e, err := keys.Seal(envelope.Context{Generation: uint32(lamport)}, message)
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	seal := func(text string, lamport uint64, parents ...content.ID) int {
		m, err := content.NewText(text, time.Now(), lamport, parents)
		if err != nil {
			t.Fatal(err)
		}
		return sealed(m, lamport)
	}
	parent := content.ID{1, 2, 3}
	want := seal("a", 0)
	// What is said about messages looks like them, with all that may be in it.
	c := content.Common{Sent: time.Now(), Lamport: 1 << 40, Parents: []content.ID{parent, parent, parent}}
	for _, k := range []content.Kind{content.Delete, content.Moderate, content.Reaction, content.Receipt, content.Typing, content.Vote, content.Close, content.Pin} {
		m := content.New(k, c)
		switch k {
		case content.Delete, content.Moderate:
			m.Replaces = &parent
		case content.Reaction, content.Vote, content.Close, content.Pin:
			m.InReplyTo = &parent
		}
		switch k {
		case content.Reaction:
			m.Reactions = []string{"👍🏽", "🎉", "❤️", "👀", "🙏", "😀", "😂", "🫖"}
		case content.Receipt:
			m.Receipt, m.IDs = content.Seen, make([]content.ID, 10) // as a node sends them
			for i := range m.IDs {
				m.IDs[i] = content.ID{1, byte(i)}
			}
		case content.Vote:
			for i := range uint64(content.MaxOptions) {
				m.Choices = append(m.Choices, i)
			}
		}
		if got := sealed(m, 1<<40); got != want {
			t.Errorf("a message of kind %d takes %d bytes, a text %d", k, got, want)
		}
	}
	for n := 1; n <= 400; n++ {
		text := strings.Repeat("a", n)
		bare, full := seal(text, 0), seal(text, 1<<40, parent, parent, parent)
		if bare != want || full != want {
			t.Errorf("a text of %d bytes makes %d, and %d with all that may be said of it, want %d", n, bare, full, want)
		}
	}
	if got := seal(strings.Repeat("a", 2000), 0); got == want {
		t.Error("a text of 2000 bytes has the size of a short one: nothing was measured")
	}
}
