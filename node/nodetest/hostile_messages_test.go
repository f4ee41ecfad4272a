package nodetest

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sotto/node"
	"sotto/node/content"
	"sotto/node/store"
	"sotto/relay/mailbox"
)

func groupBytes(p *Person, name string) []byte {
	b, err := hex.DecodeString(p.conversation(name).ID)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return b
}

func parseID(t *testing.T, s string) *content.ID {
	id, err := content.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return &id
}

// T42: an edit or a deletion of another's message, a deletion that only an admin may make,
// a reaction and an answer to a message of another conversation, all are dropped. What
// keeps to the rules is not.
func TestContentConfusion(t *testing.T) {
	ana, ben, cem, name := trio(t)
	elsewhere := ana.say("Cem", node.NewMessage{Text: "between Ana and Cem"})
	target := ana.say(name, node.NewMessage{Text: "the budget is 100"})
	poll := ana.say(name, node.NewMessage{Poll: &node.NewPoll{Question: "Agreed?", Options: []string{"yes", "no"}}})
	for _, p := range []*Person{ben, cem} {
		p.Until("the poll", func() bool { return p.find(name, "Agreed?").Poll != nil })
	}
	cem.Until("the other message", func() bool { return cem.find("Ana", elsewhere.Text).ID != "" })

	h := ben.hand(name)
	id, foreign, asked := parseID(t, target.ID), parseID(t, elsewhere.ID), parseID(t, poll.ID)
	own := h.text("mine")
	h.say(content.Text, func(m *content.Message) { m.Text, m.Replaces = "the budget is 900", id })
	h.say(content.Delete, func(m *content.Message) { m.Replaces = id })
	h.say(content.Moderate, func(m *content.Message) { m.Replaces = id })
	h.say(content.Pin, func(m *content.Message) { m.InReplyTo, m.On = id, true })
	h.say(content.Close, func(m *content.Message) { m.InReplyTo = asked })
	h.say(content.Vote, func(m *content.Message) { m.InReplyTo, m.Choices = asked, []uint64{0, 1} })
	h.say(content.Vote, func(m *content.Message) { m.InReplyTo, m.Choices = asked, []uint64{7} })
	h.say(content.Vote, func(m *content.Message) { m.InReplyTo, m.Choices = id, []uint64{0} })
	h.say(content.Reaction, func(m *content.Message) { m.InReplyTo, m.Reactions = foreign, []string{"👎"} })
	h.say(content.Text, func(m *content.Message) { m.Text, m.InReplyTo = "as you said", foreign })
	h.say(content.Text, func(m *content.Message) { m.Text, m.Replaces = "foreign", foreign })
	h.say(content.Reaction, func(m *content.Message) { m.InReplyTo, m.Reactions = id, []string{"👍"} })
	h.say(content.Text, func(m *content.Message) { m.Text, m.Replaces = "mine, edited", &own })
	h.text("the end")

	for _, p := range []*Person{ana, cem} {
		p.Until("the end", func() bool { return p.find(name, "the end").ID != "" })
		m := p.message(name, target.ID)
		if m.Text != "the budget is 100" || !m.Edited.IsZero() || m.Deleted != "" || m.Pinned {
			t.Errorf("a member has made of another's message %+v", m)
		}
		if len(m.Reactions) != 1 || m.Reactions[0].Reaction != "👍" {
			t.Errorf("a member's reaction shows as %+v", m.Reactions)
		}
		if v := p.message(name, poll.ID).Poll; v == nil || v.Closed || v.Voters != 0 {
			t.Errorf("a member has made of another's poll %+v", v)
		}
		if m := p.find(name, "as you said"); m.ID == "" || m.ReplyTo != nil && (p == ana || p == cem) {
			t.Errorf("an answer to what stands elsewhere shows as %+v", m)
		}
		if m := p.message(name, own.String()); m.Text != "mine, edited" {
			t.Errorf("an edit by the author shows as %+v", m)
		}
	}
	for p, with := range map[*Person]string{ana: "Cem", cem: "Ana"} {
		if m := p.message(with, elsewhere.ID); m.Text != elsewhere.Text || len(m.Reactions) != 0 || m.Deleted != "" {
			t.Errorf("from another conversation a message was made %+v", m)
		}
	}
}

// What is said about a message before it comes takes effect when it does; how much is kept
// is bounded, for each member.
func TestSaidBeforeItsMessage(t *testing.T) {
	ana, ben, _, name := trio(t)
	h := ben.hand(name)
	first, id := h.make(content.Text, func(m *content.Message) { m.Text = "first" })
	gone, goneID := h.make(content.Text, func(m *content.Message) { m.Text = "taken back" })
	h.say(content.Reaction, func(m *content.Message) { m.InReplyTo, m.Reactions = &id, []string{"🐦"} })
	h.say(content.Text, func(m *content.Message) { m.Text, m.Replaces = "second", &id })
	h.say(content.Delete, func(m *content.Message) { m.Replaces = &goneID })
	h.raw(first)
	h.raw(gone)
	ana.Until("the second version", func() bool { return ana.message(name, id.String()).Text == "second" })
	ana.Until("the deletion", func() bool { return ana.message(name, goneID.String()).Deleted == "author" })
	if m := ana.message(name, id.String()); len(m.Reactions) != 1 || len(m.Versions) != 2 || m.Versions[0].Text != "first" {
		t.Errorf("what came early has made %+v", m)
	}

	// Of what is about nothing only so much is kept.
	for i := range 100 {
		nothing := content.ID{1, byte(i), 0xff}
		h.say(content.Reaction, func(m *content.Message) { m.InReplyTo, m.Reactions = &nothing, []string{"x"} })
	}
	h.text("the end")
	ana.Until("the end", func() bool { return ana.find(name, "the end").ID != "" })
	group := groupBytes(ana, name)
	ana.Stop()
	inside(t, ana, func(tx *store.Tx) error {
		early, err := tx.Early(group, [32]byte{})
		if len(early) != 32 {
			t.Errorf("%d items about nothing are kept of one member", len(early))
		}
		return err
	})
}

// T23: a thousand edits, reactions, deletions, receipts, typing and unknown kinds, of
// messages that exist and that do not, by a contact, make the other's node send nothing.
// One text does.
func TestCarelessWhisper(t *testing.T) {
	_, ana, ben := pair(t)
	ana.Stop()
	ana.Prompt()
	ana.Start()
	target := ana.say("Ben", node.NewMessage{Text: "hello"})
	ben.Until("the message", func() bool { return ben.find("Ana", "hello").ID != "" })
	ana.Until("an empty outbox", func() bool {
		return ana.find("Ben", "hello").State == node.MessageStored && ana.conversation("Ben").Queued == 0
	})
	h := ben.hand("Ana")
	group := groupBytes(ana, "Ben")

	id := parseID(t, target.ID)
	_, ownID := h.make(content.Text, func(m *content.Message) { m.Text = "mine" })
	unknown := func(i int) []byte {
		b, err := cbor.Marshal([]any{make([]byte, 16), nil, nil, nil, map[int]any{}, []any{1000 + i}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const rounds = 1000
	var last mailbox.Seq
	for i := range rounds {
		other := content.ID{1, byte(i), byte(i >> 8)}
		about := []*content.ID{id, &ownID, &other}[i%3]
		switch i % 9 {
		case 0:
			h.say(content.Text, func(m *content.Message) { m.Text, m.Replaces = fmt.Sprint("edit ", i), about })
		case 1:
			h.say(content.Reaction, func(m *content.Message) { m.InReplyTo, m.Reactions = about, []string{"👍"} })
		case 2:
			h.say(content.Delete, func(m *content.Message) { m.Replaces = about })
		case 3:
			h.say(content.Receipt, func(m *content.Message) { m.Receipt, m.IDs = content.Seen, []content.ID{*about} })
		case 4:
			h.say(content.Typing, func(m *content.Message) { m.On = i%2 == 0 })
		case 5:
			h.raw(unknown(i))
		case 6:
			h.raw([]byte{0x86, byte(i)})
		case 7:
			h.say(content.Vote, func(m *content.Message) { m.InReplyTo, m.Choices = about, []uint64{1} })
		case 8:
			h.say(content.Moderate, func(m *content.Message) { m.Replaces = about })
		}
	}
	last = h.raw(unknown(0))
	ana.Until("the last of it", func() bool { c := ana.conversation("Ben"); return c.Last != nil && c.Last.Seq == uint64(last) })
	ana.Stop()
	silent := func(want bool) {
		t.Helper()
		inside(t, ana, func(tx *store.Tx) error {
			dues, err := tx.Dues(1)
			if err != nil {
				return err
			}
			out, err := tx.Outbox(group)
			if err != nil {
				return err
			}
			if quiet := len(dues)+len(out) == 0; quiet != want {
				t.Errorf("due are %+v, and %d entries are to be sent", dues, len(out))
			}
			return nil
		})
	}
	silent(true)
	h.text("a text")
	// In all of it Ana's node has sent not one entry: the text stands right behind.
	text := mailbox.Seq(0)
	ana.Start()
	ana.Until("the text", func() bool { text = mailbox.Seq(ana.find("Ben", "a text").Seq); return text != 0 })
	if text != last+1 {
		t.Errorf("between what was hostile and the text stand %d entries of Ana's", text-last-1)
	}
	// The text is acknowledged: so the silence before was no accident.
	for end := time.Now().Add(time.Minute); ; {
		if next := h.raw([]byte{0}); next > text+1 {
			break
		} else {
			text = next
		}
		if time.Now().After(end) {
			t.Fatal("no receipt came for a text")
		}
	}
}
