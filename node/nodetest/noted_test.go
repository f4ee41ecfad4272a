package nodetest

import (
	"errors"
	"testing"
	"time"

	"sotto/node"
)

// What one notes of a conversation stays over a restart, and the other does not learn of
// it. A mute ends at its time, and that is told.
func TestNoted(t *testing.T) {
	_, ana, ben := pair(t)
	ctx, conv := t.Context(), ok[node.Conversation](t)
	c := &clock{}
	ana.Stop()
	ana.Clock(c.now)
	ana.Start()
	first := ben.say("Ana", node.NewMessage{Text: "hello"})
	ana.Until("the message", func() bool { return ana.message("Ben", first.ID).ID != "" })
	until, yes := c.now().Add(8*time.Hour).UTC(), true
	conv(ana.ChangeConversation(ctx, "Ben", node.ConversationChange{MutedUntil: &until, Archived: &yes}))
	conv(ana.ChangeConversation(ctx, "Ben", node.ConversationChange{Draft: &node.Draft{Text: "I was about to say", ReplyTo: first.ID}}))
	ana.Stop()
	ana.Start()
	got := ana.conversation("Ben")
	if got.MutedUntil.Sub(until).Abs() > time.Second || !got.Archived || got.Draft == nil || got.Draft.Text != "I was about to say" || got.Draft.ReplyTo != first.ID {
		t.Errorf("after a restart is noted %+v", got)
	}
	if other := ben.conversation("Ana"); !other.MutedUntil.IsZero() || other.Archived || other.Draft != nil {
		t.Errorf("the other has noted %+v", other)
	}
	if got := ana.conversation("Ben"); got.Queued != 0 {
		t.Errorf("notes are sent: %d queued", got.Queued)
	}
	c.forward(9 * time.Hour)
	last, err := ana.LastEvent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ana.Stop()
	ana.Start()
	ana.Until("the end of the mute", func() bool { n, err := ana.LastEvent(ctx); return err == nil && n > last })
	if got := conv(ana.ChangeConversation(ctx, "Ben", node.ConversationChange{Draft: &node.Draft{}})); !got.MutedUntil.IsZero() || got.Draft != nil {
		t.Errorf("after nine hours is noted %+v", got)
	}
	if _, err := ana.ChangeConversation(ctx, "Ben", node.ConversationChange{Draft: &node.Draft{Text: "\xff"}}); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("a draft that is no text: %v", err)
	}
}

// A text is sent at its time; one whose time came while the node was down as soon as it is
// up; one that was taken back, never.
func TestSendLater(t *testing.T) {
	_, ana, ben := pair(t)
	ctx := t.Context()
	c := &clock{}
	ana.Stop()
	ana.Clock(c.now)
	ana.Start()
	hello := ana.say("Ben", node.NewMessage{Text: "hello"})
	soon := ana.say("Ben", node.NewMessage{Text: "soon", At: c.now().Add(300 * time.Millisecond), ReplyTo: hello.ID})
	if soon.ID != "" || soon.State != node.MessageQueued {
		t.Errorf("to be sent soon is %+v", soon)
	}
	ben.Until("what was to be sent soon", func() bool { return ben.find("Ana", "soon").ID != "" })
	if m := ben.find("Ana", "soon"); m.ReplyTo == nil || m.ReplyTo.Excerpt != "hello" {
		t.Errorf("it came as %+v", m)
	}

	for _, text := range []string{"while away", "never"} {
		ana.say("Ben", node.NewMessage{Text: text, At: c.now().Add(time.Hour)})
	}
	if got := ana.conversation("Ben").Scheduled; got != 2 {
		t.Errorf("%d texts are to be sent later", got)
	}
	for _, l := range ok[[]node.Scheduled](t)(ana.Scheduled(ctx, "Ben")) {
		if l.Text == "never" {
			if err := ana.Unschedule(ctx, "Ben", l.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := ana.Unschedule(ctx, "Ben", 999); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	ana.Stop()
	c.forward(2 * time.Hour)
	ana.Start()
	ben.Until("what was due meanwhile", func() bool { return ben.find("Ana", "while away").ID != "" })
	last := ana.say("Ben", node.NewMessage{Text: "over"})
	ben.Until("the last", func() bool { return ben.message("Ana", last.ID).ID != "" })
	if m := ben.find("Ana", "never"); m.ID != "" {
		t.Errorf("what was taken back was sent: %+v", m)
	}
	if got := ana.conversation("Ben").Scheduled; got != 0 {
		t.Errorf("%d texts are still to be sent", got)
	}
}
