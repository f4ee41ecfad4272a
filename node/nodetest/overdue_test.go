package nodetest

import (
	"strings"
	"testing"
	"time"

	"sotto/node"
)

// Ben opens an invite and is never heard of again: Ana sees him as pending, and after
// thirty days not at all. What the invite had of secrets is gone, and the link is used up.
func TestSomebodyNeverHeardIsDropped(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	inv, err := ana.Invite(t.Context(), node.InviteOptions{Name: "Ben"})
	if err != nil {
		t.Fatal(err)
	}
	ana.Stop() // so that Ben's request is answered when he is gone
	if _, err := ben.Accept(t.Context(), inv.Link, "Ana"); err != nil {
		t.Fatal(err)
	}
	ben.Until("the request", func() bool {
		c, _ := ben.Contact(t.Context(), "Ana")
		return strings.HasPrefix(c.Reason, "waiting for the other side to answer")
	})
	ben.Stop()
	ana.Start()
	ana.Until("the pending contact", func() bool { return ana.StateOf("Ben") == node.ContactPending })
	if _, err := ana.Send(t.Context(), "Ben", "are you there?"); err != nil {
		t.Errorf("a message to a pending contact: %v", err)
	}
	ana.Stop()

	later := func(days int) func() time.Time {
		return func() time.Time { return time.Now().AddDate(0, 0, days) }
	}
	ana.Clock(later(29))
	ana.Start()
	if got := ana.StateOf("Ben"); got != node.ContactPending {
		t.Errorf("after 29 days the contact is %q", got)
	}
	ana.Stop()
	ana.Clock(later(31))
	ana.Start()
	ana.Until("the end", func() bool { return ana.StateOf("Ben") == "" })
	if cs, err := ana.Conversations(t.Context()); err != nil || len(cs) != 0 {
		t.Errorf("conversations are left: %+v, %v", cs, err)
	}
	ana.Stop()
	ana.Start() // what is left starts cleanly
	if s, err := ana.Status(t.Context()); err != nil || s.Problem != "" || s.Contacts != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
}

// Ben's request is never answered: after thirty days his node says so.
func TestRequestNeverAnswered(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	inv, err := ana.Invite(t.Context(), node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ana.Stop()
	if _, err := ben.Accept(t.Context(), inv.Link, "Ana"); err != nil {
		t.Fatal(err)
	}
	ben.Stop()
	ben.Clock(func() time.Time { return time.Now().AddDate(0, 0, 31) })
	ben.Start()
	ben.Until("the end", func() bool { return ben.StateOf("Ana") == node.ContactFailed })
	if c, _ := ben.Contact(t.Context(), "Ana"); !strings.Contains(c.Reason, "30 days") && !strings.Contains(c.Reason, "expired") {
		t.Errorf("the reason is %q", c.Reason)
	}
}
