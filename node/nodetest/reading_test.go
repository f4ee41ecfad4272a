package nodetest

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sotto/node"
)

// prompt restarts people so that receipts go out at once.
func prompt(people ...*Person) {
	for _, p := range people {
		p.Stop()
		p.Prompt()
		p.Start()
	}
}

// A text is delivered, then read; each side sees it, also after restarts. Who does not
// tell is not told. Edits and reactions are not acknowledged.
func TestReceipts(t *testing.T) {
	_, ana, ben := pair(t)
	prompt(ana, ben)
	ctx := t.Context()
	first := ana.say("Ben", node.NewMessage{Text: "one"})
	ana.Until("delivered", func() bool { return ana.message("Ben", first.ID).State == node.MessageDelivered })
	ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{}))
	ana.Until("read", func() bool { return ana.message("Ben", first.ID).State == node.MessageRead })
	ana.Stop()
	ana.Start()
	m := ana.message("Ben", first.ID)
	if m.State != node.MessageRead || m.ReadBy != 1 || len(m.Receipts) != 1 || m.Receipts[0].Name != "Ben" || m.Receipts[0].Read.Before(m.Receipts[0].Delivered) {
		t.Errorf("read is shown as %+v", m)
	}

	// Ben does not say any more that he has read: nor is he told.
	if _, err := ben.SetConfig(ctx, "", "receipts", "maybe"); err == nil {
		t.Error("a switch was set to maybe")
	}
	ok[node.Setting](t)(ben.SetConfig(ctx, "", "receipts", "off"))
	second := ana.say("Ben", node.NewMessage{Text: "two"})
	ana.Until("delivered", func() bool { return ana.message("Ben", second.ID).State == node.MessageDelivered })
	ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{}))
	third := ben.say("Ana", node.NewMessage{Text: "three"})
	ana.Until("the third", func() bool { return ana.message("Ben", third.ID).ID != "" })
	ok[node.Conversation](t)(ana.MarkRead(ctx, "Ben", node.ReadMark{}))
	ben.Until("delivered", func() bool { return ben.message("Ana", third.ID).State == node.MessageDelivered })
	// What Ana says after her receipt comes behind it.
	last := ana.say("Ben", node.NewMessage{Text: "four"})
	ben.Until("the last", func() bool { return ben.message("Ana", last.ID).ID != "" })
	if s := ben.message("Ana", third.ID).State; s != node.MessageDelivered {
		t.Errorf("who does not tell is told that a text was %s", s)
	}
	if s := ana.message("Ben", second.ID).State; s != node.MessageDelivered {
		t.Errorf("who was not told knows that a text was %s", s)
	}
}

// The number of unread messages is right: after reading up to one, after one is taken
// back or removed, after edits, by hand, and after a restart.
func TestUnread(t *testing.T) {
	_, ana, ben := pair(t)
	ctx := t.Context()
	var ids []string
	for _, text := range []string{"1", "2", "3", "4", "5"} {
		ids = append(ids, ana.say("Ben", node.NewMessage{Text: text}).ID)
	}
	unread := func(want int) {
		t.Helper()
		ben.Until("unread messages", func() bool { return ben.conversation("Ana").Unread == want })
	}
	unread(5)
	ben.say("Ana", node.NewMessage{Text: "of one's own it does not speak"})
	unread(5)
	c := ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{Through: ids[1]}))
	if c.Unread != 3 || c.ReadSeq == 0 {
		t.Errorf("after two were read there are %d", c.Unread)
	}
	if c = ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{Through: ids[0]})); c.Unread != 3 {
		t.Errorf("what was read is unread again: %d", c.Unread)
	}
	ok[node.Message](t)(ana.EditMessage(ctx, "Ben", ids[2], "3, edited", nil))
	ok[node.Message](t)(ana.React(ctx, "Ben", ids[3], []string{"👍"}))
	ok[node.Message](t)(ana.DeleteMessage(ctx, "Ben", ids[4], true))
	unread(2)
	ok[node.Message](t)(ana.DeleteMessage(ctx, "Ben", ids[0], true)) // that was read
	ben.Until("both deletions", func() bool { return ben.message("Ana", ids[0]).Deleted != "" })
	unread(2)
	ok[node.Message](t)(ben.DeleteMessage(ctx, "Ana", ids[3], false))
	unread(1)
	ben.Stop()
	ben.Start()
	unread(1)
	if c = ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{})); c.Unread != 0 || c.MarkedUnread {
		t.Errorf("all was read, and %+v", c)
	}
	if c = ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{Unread: true})); c.Unread != 0 || !c.MarkedUnread {
		t.Errorf("marked by hand as %+v", c)
	}
	ben.Stop()
	ben.Start()
	if c := ben.conversation("Ana"); !c.MarkedUnread {
		t.Errorf("after a restart it is %+v", c)
	}
}

// Who writes is shown while it writes, and nothing of it is kept.
func TestTyping(t *testing.T) {
	_, ana, ben := pair(t)
	first := ana.say("Ben", node.NewMessage{Text: "hello"})
	ben.Until("the message", func() bool { return ben.message("Ana", first.ID).ID != "" })
	ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
	if err := ana.Typing(t.Context(), "Ben"); err != nil {
		t.Fatal(err)
	}
	ben.Until("that Ana writes", func() bool { return slices.Equal(ben.conversation("Ana").Typing, []string{"Ana"}) })
	ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
	if err := ana.Typing(t.Context(), "Ben"); err != nil || ana.conversation("Ben").Queued != 0 {
		t.Errorf("once more, too soon: %v, and %d are queued", err, ana.conversation("Ben").Queued)
	}
	second := ana.say("Ben", node.NewMessage{Text: "written"})
	ben.Until("what was written", func() bool { return ben.message("Ana", second.ID).ID != "" && len(ben.conversation("Ana").Typing) == 0 })
	if ms := ok[[]node.Message](t)(ben.Messages(t.Context(), "Ana", "", "", 0)); len(ms) != 2 {
		t.Errorf("the history has %d messages", len(ms))
	}
}

// The clock of a world in which time can be moved on.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// Messages disappear: at the sender's so long after they were sent, at the receiver's so
// long after they were read; also when the node was down then. Everybody sees who has set
// the timer. Then nothing of their text is in the vault.
func TestDisappearing(t *testing.T) {
	_, ana, ben := pair(t)
	ctx := t.Context()
	c := &clock{}
	for _, p := range []*Person{ana, ben} {
		p.Stop()
		p.Clock(c.now)
		p.Start()
	}
	stays := ana.say("Ben", node.NewMessage{Text: "this stays"})
	hour := 3600
	ok[node.Conversation](t)(ben.ChangeConversation(ctx, "Ana", node.ConversationChange{Timer: &hour}))
	for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		p.Until("the timer", func() bool { return p.conversation(name).Timer == hour })
		if m := p.find(name, "Ben lets new messages disappear after 1 h"); m.Kind != "change" {
			t.Errorf("%s is not told who has set the timer", name)
		}
	}
	bad := 90
	if _, err := ben.ChangeConversation(ctx, "Ana", node.ConversationChange{Timer: &bad}); err == nil {
		t.Error("a timer of a minute and a half")
	}
	secret := ana.say("Ben", node.NewMessage{Text: "the secret is in the oven"})
	ana.Until("the beginning of its time", func() bool { return !ana.message("Ben", secret.ID).Disappears.IsZero() })
	ben.Until("the secret", func() bool { return ben.message("Ana", secret.ID).Timer == hour })

	c.forward(2 * time.Hour)
	ana.Stop() // and is down when it is due; it goes when she is back
	ana.Start()
	ana.Until("her secret's end", func() bool { return ana.message("Ben", secret.ID).ID == "" })
	if m := ben.message("Ana", secret.ID); m.Text == "" || !m.Disappears.IsZero() {
		t.Errorf("Ben has not read it, and it is %+v", m)
	}
	ok[node.Conversation](t)(ben.MarkRead(ctx, "Ana", node.ReadMark{}))
	if m := ben.message("Ana", secret.ID); m.Disappears.Sub(c.now()) > time.Hour {
		t.Errorf("Ben has read it, and it is %+v", m)
	}
	c.forward(2 * time.Hour)
	ben.Stop()
	ben.Start()
	ben.Until("his secret's end", func() bool { return ben.message("Ana", secret.ID).ID == "" })
	for p, name := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		if m := p.message(name, stays.ID); m.Text != "this stays" {
			t.Errorf("what was sent before is %+v", m)
		}
	}
}
