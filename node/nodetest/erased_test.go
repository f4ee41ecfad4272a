package nodetest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sotto/node"
	"sotto/storage/kv"
)

// ledger follows what a vault writes (spec/vault.md, 3): which bucket keys there are, which
// erasure key each was ever wrapped under, and into which buckets large values went.
type ledger struct {
	mu    sync.Mutex          // guards the following fields
	live  map[string]string   // name of a bucket key: its bucket's id
	wraps map[string][]string // bucket's id: the erasure keys that its key was wrapped under
	large map[string]bool     // ids of buckets that large values were sealed in
	plain int                 // large values in the bucket that cannot be erased
}

const (
	largeValue  = 20 << 10
	bucketTable = 0xf0
	outboxTable = 10 // holds what is sealed for the relay: its keys go with their epoch
	idAt        = 2 + 16 + 8
)

func newLedger() *ledger {
	return &ledger{live: map[string]string{}, wraps: map[string][]string{}, large: map[string]bool{}}
}

func (l *ledger) BeforeCommit(writes []kv.Write) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range writes {
		switch {
		case w.Key[0] == bucketTable && w.Value == nil:
			delete(l.live, string(w.Key))
		case w.Key[0] == bucketTable:
			id := string(w.Value[1:9])
			l.live[string(w.Key)] = id
			l.wraps[id] = append(l.wraps[id], string(w.Value[9:17]))
		case len(w.Value) < largeValue || w.Key[0] == outboxTable:
		case w.Value[1] == 0:
			l.plain++
		default:
			l.large[string(w.Value[idAt:idAt+8])] = true
		}
	}
	return nil
}

func (l *ledger) AfterCommit() error { return nil }

// gone fails the test unless every key that a large value was sealed under is deleted, and
// was wrapped only under erasure keys that the vault has no more.
func (l *ledger) gone(t *testing.T, p *Person) {
	t.Helper()
	header, err := os.ReadFile(filepath.Join(p.Home, "vault", "vault.header"))
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.large) == 0 || l.plain > 0 {
		t.Errorf("%s: the text was sealed in %d buckets, and %d times where nothing can be erased", filepath.Base(p.Home), len(l.large), l.plain)
	}
	for _, id := range l.live {
		if l.large[id] {
			t.Errorf("%s: a key under which the text was sealed is still there", filepath.Base(p.Home))
		}
	}
	for id := range l.large {
		for _, erasure := range l.wraps[id] {
			if bytes.Contains(header, []byte(erasure)) {
				t.Errorf("%s: a key under which the text was sealed lies on the disk, wrapped under an erasure key that is there", filepath.Base(p.Home))
			}
		}
	}
}

// holds reports whether a large value can be opened still: else gone would show nothing.
func (l *ledger) holds() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.live {
		if l.large[id] {
			return true
		}
	}
	return false
}

// T33: a text that was taken back from all, one that was removed, one that has
// disappeared, one that was edited before it was taken back, a draft and a text that
// was to be sent later: each was sealed under keys that are destroyed when the node has
// closed, while what was said beside them stays.
func TestErasedTextsAreGoneFromTheVault(t *testing.T) {
	random := make([]byte, 24<<10) // nothing makes it smaller than largeValue
	rand.Read(random)
	large := base64.StdEncoding.EncodeToString(random)
	minute := 60
	for _, tt := range []struct {
		name  string
		timer bool
		erase func(t *testing.T, ana, ben *Person, id string, c *clock)
	}{
		{"taken back", false, func(t *testing.T, ana, ben *Person, id string, _ *clock) {
			ok[node.Message](t)(ana.DeleteMessage(t.Context(), "Ben", id, true))
			ben.Until("the deletion", func() bool { return ben.message("Ana", id).Deleted != "" })
			ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
		}},
		{"edited and taken back", false, func(t *testing.T, ana, ben *Person, id string, _ *clock) {
			ok[node.Message](t)(ana.EditMessage(t.Context(), "Ben", id, "edited "+large, nil))
			ben.Until("the edit", func() bool { return len(ben.message("Ana", id).Versions) == 2 })
			ok[node.Message](t)(ana.DeleteMessage(t.Context(), "Ben", id, true))
			ben.Until("the deletion", func() bool { return ben.message("Ana", id).Deleted != "" })
			ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
		}},
		{"removed", false, func(t *testing.T, ana, ben *Person, id string, _ *clock) {
			for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
				p.Until("an empty outbox", func() bool { return p.conversation(name).Queued == 0 })
				ok[node.Message](t)(p.DeleteMessage(t.Context(), name, id, false))
			}
		}},
		{"disappeared", true, func(t *testing.T, ana, ben *Person, id string, c *clock) {
			ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
			ok[node.Conversation](t)(ben.MarkRead(t.Context(), "Ana", node.ReadMark{}))
			c.forward(2 * time.Minute)
			for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
				p.Stop()
				p.Start()
				p.Until("the end", func() bool { return p.message(name, id).ID == "" })
			}
		}},
		{"drafts and texts for later", false, func(t *testing.T, ana, ben *Person, id string, c *clock) {
			for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
				p.Until("an empty outbox", func() bool { return p.conversation(name).Queued == 0 })
				ok[node.Message](t)(p.DeleteMessage(t.Context(), name, id, false))
				for _, text := range []string{large, large + "!", ""} {
					ok[node.Conversation](t)(p.ChangeConversation(t.Context(), name, node.ConversationChange{Draft: &node.Draft{Text: text}}))
				}
				p.say(name, node.NewMessage{Text: large, At: time.Now().Add(time.Hour)})
				l := ok[[]node.Scheduled](t)(p.Scheduled(t.Context(), name))
				if len(l) != 1 {
					t.Fatalf("scheduled are %d texts", len(l))
				}
				if err := p.Unschedule(t.Context(), name, l[0].ID); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, ana, ben := pair(t)
			c := &clock{}
			ledgers := map[*Person]*ledger{}
			for _, p := range []*Person{ana, ben} {
				p.Stop()
				ledgers[p] = newLedger()
				p.Hook(ledgers[p])
				p.Clock(c.now)
				p.Start()
			}
			before := ana.say("Ben", node.NewMessage{Text: "what stays"})
			if tt.timer {
				ok[node.Conversation](t)(ben.ChangeConversation(t.Context(), "Ana", node.ConversationChange{Timer: &minute}))
				ana.Until("the timer", func() bool { return ana.conversation("Ben").Timer == minute })
			}
			secret := ana.say("Ben", node.NewMessage{Text: large})
			ben.Until("the text", func() bool { return ben.message("Ana", secret.ID).Text == large })
			ok[node.Message](t)(ben.React(t.Context(), "Ana", before.ID, []string{"👍"}))
			for p, l := range ledgers {
				if !l.holds() {
					t.Errorf("%s has not written the text", filepath.Base(p.Home))
				}
			}
			tt.erase(t, ana, ben, secret.ID, c)
			for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
				p.Stop() // closing erases
				ledgers[p].gone(t, p)
				p.Start()
				if m := p.message(name, before.ID); m.Text != "what stays" {
					t.Errorf("%s: of what was to stay is left %+v", filepath.Base(p.Home), m)
				}
			}
			ana.Until("the reaction", func() bool { return len(ana.message("Ben", before.ID).Reactions) == 1 })
		})
	}
}
