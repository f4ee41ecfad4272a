package nodetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"sotto/node"
)

// ask lets somebody open an invite that asks.
func ask(t *testing.T, ana, p *Person, name string) {
	t.Helper()
	inv, err := ana.Invite(t.Context(), node.InviteOptions{Ask: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Accept(t.Context(), inv.Link, "Ana"); err != nil {
		t.Fatal(err)
	}
	ana.Until("the request", func() bool { return ana.StateOf(name) == node.ContactRequested })
}

// Who opens an invite that asks is a request: nothing goes to them until the user decides.
// Who is accepted becomes a contact, also after a restart; who is declined waits in vain.
func TestRequests(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben, cem := w.Person("Ana", r), w.Person("Ben", r), w.Person("Cem", r)
	ctx := t.Context()
	ask(t, ana, ben, "Ben")
	ask(t, ana, cem, "Cem")
	if _, err := ana.Send(ctx, "Ben", "hello"); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("a text to who asks: %v", err)
	}
	if invites := ok[[]node.Invite](t)(ana.Invites(ctx)); len(invites) != 0 {
		t.Errorf("what was opened can still be opened: %+v", invites)
	}
	ana.Stop()
	ana.Start()
	ok[node.Contact](t)(ana.Rename(ctx, "Ben", "Benjamin"))
	if c := ok[node.Contact](t)(ana.Decide(ctx, "Benjamin", true)); c.State != node.ContactPending || c.Name != "Benjamin" {
		t.Errorf("accepted as %+v", c)
	}
	ben.Until("the contact", func() bool { return ben.StateOf("Ana") == node.ContactEstablished })
	ana.Until("the contact", func() bool { return ana.StateOf("Benjamin") == node.ContactEstablished })
	hello := ana.say("Benjamin", node.NewMessage{Text: "hello"})
	ben.Until("the text", func() bool { return ben.message("Ana", hello.ID).ID != "" })

	// Cem is blocked, cannot be accepted then, is declined, and hears nothing of all that.
	ok[node.Contact](t)(ana.Block(ctx, "Cem", true))
	if _, err := ana.Decide(ctx, "Cem", true); !errors.Is(err, node.ErrBlocked) {
		t.Errorf("who is blocked is accepted: %v", err)
	}
	ok[node.Contact](t)(ana.Decide(ctx, "Cem", false))
	if _, err := ana.Decide(ctx, "Cem", true); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("who was declined is accepted: %v", err)
	}
	if s := cem.StateOf("Ana"); s != node.ContactPending {
		t.Errorf("who was declined sees the contact as %s", s)
	}
	// Who is blocked asks in vain with another invite, which makes others contacts at once.
	again, err := ana.Invite(ctx, node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cem.Accept(context.Background(), again.Link, "Ana again"); err != nil && !errors.Is(err, node.ErrExists) {
		t.Fatal(err)
	}
	dov := w.Person("Dov", r)
	w.Meet(ana, dov, "Dov", "Ana") // its letter comes behind Cem's
	if s := ana.StateOf("Cem"); s != node.ContactFailed {
		t.Errorf("who is blocked is %s", s)
	}

	// A request that nobody decides about is forgotten after 30 days.
	eve := w.Person("Eve", r)
	ask(t, ana, eve, "Eve")
	ana.Stop()
	ana.Clock(func() time.Time { return time.Now().Add(31 * 24 * time.Hour) })
	ana.Start()
	ana.Until("the end of the request", func() bool { return ana.StateOf("Eve") == "" })
}
