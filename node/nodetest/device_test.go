package nodetest

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/node"
	"sotto/storage/vault"
)

// enter makes a home that enters a device link, and confirms it at the existing device
// with what confirm makes of the digits.
func (w *World) enter(p *Person, name string, confirm func(digits string) string) (*Person, error) {
	w.t.Helper()
	l, err := p.LinkDevice(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return w.enterLink(p, l.Link, name, confirm)
}

func (w *World) enterLink(p *Person, link, name string, confirm func(digits string) string) (*Person, error) {
	w.t.Helper()
	d := &Person{w: w, Home: filepath.Join(w.folder(), name)}
	_, err := node.Enter(w.t.Context(), d.Home, node.EnterOptions{Options: node.Options{Passphrase: Passphrase, Dial: w.Dial}, Link: link, Name: name, Params: vault.FloorParams,
		Show: func(digits string) {
			go func() { // as the person does, at another machine
				p.Until("digits to compare", func() bool { l, err := p.Link(context.Background()); return err == nil && l.State == node.LinkCompare })
				p.ConfirmLink(context.Background(), confirm(digits), Passphrase)
			}()
		}})
	if err != nil {
		return nil, err
	}
	d.Start()
	w.t.Cleanup(d.Stop)
	return d, nil
}

// Device links one more device of a person.
func (w *World) Device(p *Person, name string) *Person {
	w.t.Helper()
	d, err := w.enter(p, name, func(digits string) string { return digits })
	if err != nil {
		w.t.Fatal(err)
	}
	p.Until("the device", func() bool { l, err := p.Link(context.Background()); return err == nil && l.State == node.LinkDone })
	return d
}

func (p *Person) devices() (out []string) {
	ds, _ := p.Devices(context.Background())
	for _, d := range ds {
		out = append(out, d.Name+" "+d.State)
	}
	return out
}

// notes returns what a conversation's history tells of changes.
func (p *Person) notes(name string) (out []string) {
	ms, _ := p.Messages(context.Background(), name, "", "", 0)
	for _, m := range ms {
		if m.Kind == "change" {
			out = append(out, m.Text)
		}
	}
	return out
}

func (p *Person) reads(name, line string) {
	p.w.t.Helper()
	p.Until(line, func() bool { return slices.Contains(p.said(name), line) })
}

// Ana links a laptop. It takes part in what she has with Ben and in her group: what Ben
// writes comes to both, what one of hers writes the other has too, and everybody is told
// that there is a device more.
func TestLinkedDeviceTakesPart(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem")
	ana, ben, cem := people[0], people[1], people[2]
	ana.group(node.GroupOptions{Name: "Hikers", Members: []string{"Ben", "Cem"}})
	cem.Until("the group", func() bool { return cem.stateIn("Hikers") == node.StateOpen })
	ana.Rename(t.Context(), "Ben", "Benny")

	laptop := w.Device(ana, "laptop")
	laptop.Until("the contact", func() bool { return laptop.stateIn("Benny") == node.StateOpen })
	laptop.Until("the group", func() bool { return laptop.stateIn("Hikers") == node.StateOpen })
	for _, name := range []string{"Ana", "Hikers"} {
		ben.Until("the line about the device in "+name, func() bool {
			return slices.ContainsFunc(ben.notes(name), func(s string) bool { return strings.HasPrefix(s, "Ana added a device (") })
		})
	}

	ben.send("Ana", "to both")
	for _, p := range []*Person{ana, laptop} {
		p.reads("Benny", "Benny: to both")
	}
	laptop.send("Benny", "from the laptop")
	ben.reads("Ana", "Ana: from the laptop")
	ana.reads("Benny", "Ana: from the laptop")
	ms, err := ana.Messages(t.Context(), "Benny", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if last := ms[len(ms)-1]; !last.Mine || last.State != node.MessageStored {
		t.Errorf("the other device's message is shown as %+v", last)
	}
	ana.send("Benny", "from the phone")
	laptop.reads("Benny", "Ana: from the phone")
	cem.send("Hikers", "hello")
	laptop.reads("Hikers", "Cem: hello")
	laptop.send("Hikers", "here too")
	cem.reads("Hikers", "Ana: here too")

	// What one device changes of a contact the other has.
	if _, err := laptop.Rename(t.Context(), "Benny", "Ben B"); err != nil {
		t.Fatal(err)
	}
	ana.Until("the name", func() bool { return ana.StateOf("Ben B") == node.ContactEstablished })

	// Who has two devices meets somebody new at either, and is added to groups with both.
	dov := w.Person("Dov", r)
	w.Meet(laptop, dov, "Dov", "Ana")
	ana.Until("the contact that the laptop has made", func() bool { return ana.stateIn("Dov") == node.StateOpen })
	dov.send("Ana", "hi")
	for _, p := range []*Person{ana, laptop} {
		p.reads("Dov", "Dov: hi")
	}
	eve := w.Person("Eve", r)
	w.Meet(eve, laptop, "Ana", "Eve")
	ana.Until("the contact that the laptop has opened", func() bool { return ana.stateIn("Eve") == node.StateOpen })
	dov.group(node.GroupOptions{Name: "Two", Members: []string{"Ana"}})
	for _, p := range []*Person{ana, laptop} {
		p.Until("the group", func() bool { return p.stateIn("Two") == node.StateOpen })
	}
	if g, err := dov.Group(t.Context(), "Two"); err != nil || g.Members[1].Devices != 2 {
		t.Errorf("%+v, %v", g.Members, err)
	}
	if got := ana.devices(); len(got) != 2 || got[1] != "laptop active" || !slices.Equal(got, laptop.devices()) {
		t.Errorf("devices %q and %q", got, laptop.devices())
	}
}

// Whatever ends a link ends it on both sides, with words, and leaves the new machine as it
// was.
func TestLinkThatComesToNothing(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	same := func(digits string) string { return digits }

	_, err := w.enter(ana, "laptop", func(digits string) string {
		if digits[0] == '0' {
			return "1" + digits[1:]
		}
		return "0" + digits[1:]
	})
	if !errors.Is(err, node.ErrNotTrusted) {
		t.Errorf("other digits: %v", err)
	}
	if l, err := ana.Link(t.Context()); err != nil || l.State != node.LinkFailed || l.Cause != node.CauseNotTrusted {
		t.Errorf("the existing device shows %+v, %v", l, err)
	}
	if got := ana.devices(); len(got) != 1 {
		t.Errorf("devices %q", got)
	}

	// An invite is no device link, and a device link no invite (T27).
	inv, err := ana.Invite(t.Context(), node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.enterLink(ana, inv.Link, "laptop", same); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("an invite is entered: %v", err)
	}
	l, err := ana.LinkDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ben.Accept(t.Context(), l.Link, ""); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("a device link is accepted: %v", err)
	}

	// Ended by the user; used.
	if err := ana.CancelLink(t.Context()); err != nil {
		t.Fatal(err)
	}
	ana.Until("the end", func() bool { l, _ := ana.Link(t.Context()); return l.State == node.LinkFailed })
	laptop := w.Device(ana, "laptop")
	if _, err := laptop.LinkDevice(t.Context()); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a device without the account key links another: %v", err)
	}
	l, err = ana.LinkDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.enterLink(ana, l.Link, "tablet", same); err != nil {
		t.Fatal(err)
	}
	if _, err := w.enterLink(ana, l.Link, "another", same); !errors.Is(err, node.ErrGone) {
		t.Errorf("a link that is used: %v", err)
	}
	// A wrong passphrase confirms nothing, and can be mended.
	l, err = ana.LinkDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrong := make(chan error, 1)
	d, err := w.enterLink(ana, l.Link, "desk", func(digits string) string {
		_, err := ana.ConfirmLink(context.Background(), digits, []byte("wrong"))
		wrong <- err
		return digits
	})
	if err != nil || !errors.Is(<-wrong, node.ErrLocked) {
		t.Errorf("with a wrong passphrase first: %v", err)
	}
	d.Until("four devices", func() bool { return len(d.devices()) == 4 })
}
