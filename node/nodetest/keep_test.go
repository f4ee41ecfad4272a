package nodetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sotto/node"
)

// What came longer ago than the setting keep says goes, on the device whose user wants
// that, when it is set and later; starred messages stay, and what is on its way.
func TestKeep(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ctx := t.Context()
	c := &clock{}
	ana.Stop()
	ana.Clock(c.now)
	ana.Start()

	var old []string
	for i := range 250 { // more than one turn takes
		old = append(old, ana.say("Ben", node.NewMessage{Text: fmt.Sprint("old ", i)}).Text)
	}
	starred := ana.find("Ben", "old 7")
	ok[node.Message](t)(ana.Star(ctx, "Ben", starred.ID, true))
	ben.Until("all that is old", func() bool { return slices.Equal(ben.Texts("Ana"), old) })
	ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })
	unread := ben.say("Ana", node.NewMessage{Text: "old, and never read"})
	ana.Until("what Ben says", func() bool { return ana.message("Ben", unread.ID).ID != "" })
	old = append(old, unread.Text)
	r.Stop()
	ana.say("Ben", node.NewMessage{Text: "on its way"})
	c.forward(26 * time.Hour)
	ana.say("Ben", node.NewMessage{Text: "new"})

	if n := ana.conversation("Ben").Unread; n != 1 {
		t.Errorf("%d are unread", n)
	}
	ok[node.Setting](t)(ana.SetConfig(ctx, "Ben", "keep", "1d"))
	want := []string{"old 7", "on its way", "new"}
	ana.Until("the end of what is old", func() bool { return slices.Equal(ana.Texts("Ben"), want) })
	if n := ana.conversation("Ben").Unread; n != 0 {
		t.Errorf("%d are unread of what is gone", n)
	}
	r.Start()
	ben.Until("what came after", func() bool { return len(ben.Texts("Ana")) == len(old)+2 })
	ana.Until("an empty outbox", func() bool { return ana.conversation("Ben").Queued == 0 })

	ana.Stop()
	c.forward(26 * time.Hour)
	ana.Start()
	ana.Until("the end of the rest", func() bool { return slices.Equal(ana.Texts("Ben"), []string{"old 7"}) })
	if m := ben.find("Ana", "new"); m.ID == "" || len(ben.Texts("Ana")) != len(old)+2 {
		t.Errorf("Ben's history has %d texts", len(ben.Texts("Ana")))
	}
}
