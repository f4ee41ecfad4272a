package nodetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/node"
)

// find returns the message of a conversation whose text is text, or the zero message.
func (p *Person) find(name, text string) node.Message {
	ms, _ := p.Messages(p.w.t.Context(), name, "", "", 0)
	for _, m := range ms {
		if m.Text == text {
			return m
		}
	}
	return node.Message{}
}

// message returns a message as it is now, or the zero message.
func (p *Person) message(name, id string) node.MessageDetails {
	m, err := p.Message(p.w.t.Context(), name, id)
	if err != nil && !errors.Is(err, node.ErrNotFound) {
		p.w.t.Error(err)
	}
	return m
}

func (p *Person) conversation(name string) node.Conversation {
	c, err := p.Conversation(p.w.t.Context(), name)
	if err != nil {
		p.w.t.Error(err)
	}
	return c
}

// say sends a message and returns it.
func (p *Person) say(name string, m node.NewMessage) node.Message {
	p.w.t.Helper()
	out, err := p.SendMessage(p.w.t.Context(), name, m)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return out
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// trio makes three people with a group, in which all have spoken and no commit is due.
func trio(t *testing.T) (ana, ben, cem *Person, name string) {
	w := New(t)
	people := circle(t, w, w.Relay(), "Ana", "Ben", "Cem")
	name = "Trio"
	people[0].group(node.GroupOptions{Name: name, Members: []string{"Ben", "Cem"}})
	for _, p := range people {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	for i, p := range people {
		p.say(name, node.NewMessage{Text: fmt.Sprint("here is ", i)})
	}
	for _, p := range people {
		p.Until("all have spoken", func() bool { return len(p.said(name)) == 3 && p.conversation(name).Queued == 0 })
	}
	return people[0], people[1], people[2], name
}

// pair makes two people who have met.
func pair(t *testing.T) (w *World, ana, ben *Person) {
	w = New(t)
	r := w.Relay()
	ana, ben = w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	return w, ana, ben
}

// Everything that can be said about a message arrives, and stays over a restart.
func TestWhatIsSaidAboutMessages(t *testing.T) {
	_, ana, ben := pair(t)
	ctx, msg := t.Context(), ok[node.Message](t)
	first := ana.say("Ben", node.NewMessage{Text: "shall we meet at 10?"})
	ben.Until("the question", func() bool { return ben.find("Ana", first.Text).ID != "" })

	// Ben answers; Ana edits; the answer shows what was answered.
	answer := ben.say("Ana", node.NewMessage{Text: "yes @Ana", ReplyTo: first.ID[:12], Mentions: []node.Mention{{Start: 4, Length: 4, Account: "Ana"}}})
	ana.Until("the answer", func() bool { return ana.find("Ben", answer.Text).ID != "" })
	msg(ana.EditMessage(ctx, "Ben", first.ID, "shall we meet at 11?", nil))
	msg(ana.EditMessage(ctx, "Ben", first.ID, "shall we meet at 12?", nil))
	ben.Until("the edit", func() bool { return ben.message("Ana", first.ID).Text == "shall we meet at 12?" })
	for _, p := range []*Person{ana, ben} {
		name := map[*Person]string{ana: "Ben", ben: "Ana"}[p]
		m := p.message(name, first.ID)
		var texts []string
		for _, v := range m.Versions {
			texts = append(texts, v.Text)
		}
		if want := []string{"shall we meet at 10?", "shall we meet at 11?", "shall we meet at 12?"}; !slices.Equal(texts, want) || m.Edited.IsZero() {
			t.Errorf("%s reads the versions %q", name, texts)
		}
		a := p.message(name, answer.ID)
		if q := a.ReplyTo; q == nil || q.ID != first.ID || q.Excerpt != "shall we meet at 10?" || !q.Edited || q.Sender != "Ana" {
			t.Errorf("the answer quotes %+v", q)
		}
		if len(a.Mentions) != 1 || a.Mentions[0].Name != "Ana" || a.MentionsYou != (p == ana) {
			t.Errorf("the answer mentions %+v, you %v", a.Mentions, a.MentionsYou)
		}
	}

	// Reactions are a set of each account's; the last counts.
	msg(ben.React(ctx, "Ana", first.ID, []string{"👍", "🎉"}))
	msg(ana.React(ctx, "Ben", first.ID, []string{"👍"}))
	msg(ben.React(ctx, "Ana", first.ID, []string{"👍"}))
	for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		p.Until("one reaction of both", func() bool {
			r := p.message(name, first.ID).Reactions
			return len(r) == 1 && r[0].Reaction == "👍" && len(r[0].By) == 2 && r[0].Mine
		})
	}
	msg(ben.React(ctx, "Ana", first.ID, nil))
	ana.Until("no reaction of Ben's", func() bool { r := ana.message("Ben", first.ID).Reactions; return len(r) == 1 && len(r[0].By) == 1 })

	// Pins are for all, stars for oneself.
	msg(ben.Pin(ctx, "Ana", first.ID, true))
	msg(ben.Star(ctx, "Ana", answer.ID, true))
	ana.Until("the pin", func() bool { return ana.message("Ben", first.ID).Pinned })
	if ms := ok[[]node.Message](t)(ana.Marked(ctx, "Ben", false)); len(ms) != 1 || ms[0].ID != first.ID {
		t.Errorf("Ana sees as pinned %+v", ms)
	}
	if ms := ok[[]node.Message](t)(ana.Marked(ctx, "Ben", true)); len(ms) != 0 {
		t.Errorf("Ana sees as starred %+v", ms)
	}

	// A poll: votes change, and end with it.
	poll := ana.say("Ben", node.NewMessage{Poll: &node.NewPoll{Question: "When?", Options: []string{"Saturday", "Sunday"}}})
	ben.Until("the poll", func() bool { return ben.find("Ana", "When?").Poll != nil })
	msg(ben.Vote(ctx, "Ana", poll.ID, []int{0}))
	msg(ben.Vote(ctx, "Ana", poll.ID, []int{1}))
	msg(ana.Vote(ctx, "Ben", poll.ID, []int{1}))
	if _, err := ben.Vote(ctx, "Ana", poll.ID, []int{0, 1}); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("two votes where one counts: %v", err)
	}
	for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		p.Until("two votes", func() bool {
			v := p.message(name, poll.ID).Poll
			return v != nil && v.Voters == 2 && v.Options[1].Votes == 2 && v.Options[0].Votes == 0 && v.Options[1].Mine
		})
	}
	msg(ana.ClosePoll(ctx, "Ben", poll.ID))
	ben.Until("the end of the poll", func() bool { return ben.message("Ana", poll.ID).Poll.Closed })
	if _, err := ben.Vote(ctx, "Ana", poll.ID, []int{0}); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a vote in a poll that is over: %v", err)
	}

	// A text is forwarded without where it is from.
	sent := ben.say("Ana", node.NewMessage{Forward: &node.Forward{Conversation: "Ana", Message: first.ID}})
	ana.Until("what was forwarded", func() bool { return ana.message("Ben", sent.ID).Forwarded })
	if m := ana.message("Ben", sent.ID); m.Text != "shall we meet at 12?" || m.Sender != "Ben" || m.ReplyTo != nil {
		t.Errorf("forwarded as %+v", m)
	}

	// Deleted for all: its text, its versions, what was said about it.
	msg(ana.DeleteMessage(ctx, "Ben", first.ID, true))
	ben.Until("the deletion", func() bool { return ben.message("Ana", first.ID).Deleted == "author" })
	for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		m := p.message(name, first.ID)
		if m.Text != "" || len(m.Versions)+len(m.Reactions) != 0 || m.Pinned || m.DeletedBy != "Ana" {
			t.Errorf("deleted as %+v", m)
		}
		if q := p.message(name, answer.ID).ReplyTo; q == nil || !q.Missing || q.Excerpt != "" {
			t.Errorf("what was deleted is quoted as %+v", q)
		}
	}
	// Deleted for oneself: the others keep it, and it does not come back.
	msg(ben.DeleteMessage(ctx, "Ana", answer.ID, false))
	if m := ben.message("Ana", answer.ID); m.ID != "" {
		t.Errorf("deleted here and still %+v", m)
	}
	ben.Stop()
	ben.Start()
	msg(ana.React(ctx, "Ben", answer.ID, []string{"x"}))
	last := ana.say("Ben", node.NewMessage{Text: "over"})
	ben.Until("the last message", func() bool { return ben.message("Ana", last.ID).ID != "" })
	if m := ben.message("Ana", answer.ID); m.ID != "" {
		t.Errorf("it has come back as %+v", m)
	}
	if m := ana.message("Ben", answer.ID); m.Text != "yes @Ana" {
		t.Errorf("Ana has %+v", m)
	}
	if m := ben.message("Ana", poll.ID); m.Poll == nil || !m.Poll.Closed || m.Poll.Voters != 2 {
		t.Errorf("after a restart the poll is %+v", m.Poll)
	}
}

// Who may do what: the author alone edits, for 48 hours; an admin takes away from members.
func TestWhoMayChangeMessages(t *testing.T) {
	ana, ben, cem, name := trio(t)
	people := []*Person{ana, ben, cem}
	ctx := t.Context()
	of := map[*Person]string{}
	for _, p := range people {
		of[p] = p.say(name, node.NewMessage{Text: fmt.Sprint("by ", len(of))}).ID
	}
	for _, p := range people {
		p.Until("all messages", func() bool { return len(p.said(name)) == 6 })
	}
	for _, step := range []struct {
		what string
		do   func() error
		want error
	}{
		{"a member edits another's", func() error { _, err := ben.EditMessage(ctx, name, of[cem], "x", nil); return err }, node.ErrNotAllowed},
		{"a member deletes another's", func() error { _, err := ben.DeleteMessage(ctx, name, of[cem], true); return err }, node.ErrNotAllowed},
		{"a member pins", func() error { _, err := ben.Pin(ctx, name, of[ben], true); return err }, node.ErrNotAllowed},
		{"an empty edit", func() error { _, err := ben.EditMessage(ctx, name, of[ben], "", nil); return err }, node.ErrInvalid},
		{"a reaction in two lines", func() error { _, err := ben.React(ctx, name, of[ben], []string{"a\nb"}); return err }, node.ErrInvalid},
		{"an answer to nothing", func() error {
			_, err := ben.SendMessage(ctx, name, node.NewMessage{Text: "x", ReplyTo: "01" + strings.Repeat("ab", 31)})
			return err
		}, node.ErrNotFound},
		{"an id that all begin with", func() error { _, err := ben.React(ctx, name, "01", nil); return err }, node.ErrNotFound},
		{"the owner takes a member's away", func() error { _, err := ana.DeleteMessage(ctx, name, of[cem], true); return err }, nil},
		{"the owner pins", func() error { _, err := ana.Pin(ctx, name, of[ben], true); return err }, nil},
	} {
		if err := step.do(); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.what, err, step.want)
		}
	}
	for _, p := range people {
		p.Until("the admin's work", func() bool {
			m := p.message(name, of[cem])
			return m.Deleted == "admin" && m.DeletedBy == "Ana" && m.Text == "" && p.message(name, of[ben]).Pinned
		})
	}
	// Two days later nothing of it can be changed any more.
	ben.Stop()
	ben.Clock(func() time.Time { return time.Now().Add(49 * time.Hour) })
	ben.Start()
	for what, f := range map[string]func() error{
		"edited":  func() error { _, err := ben.EditMessage(ctx, name, of[ben], "late", nil); return err },
		"deleted": func() error { _, err := ben.DeleteMessage(ctx, name, of[ben], true); return err },
	} {
		if err := f(); !errors.Is(err, node.ErrNotAllowed) {
			t.Errorf("after 49 hours it is %s: %v", what, err)
		}
	}
}
