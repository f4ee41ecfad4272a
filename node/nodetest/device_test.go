package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/node"
	"sotto/storage/kv"
	"sotto/storage/vault"
)

// asShown types the digits that are shown.
func asShown(digits string) string { return digits }

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
	d := w.machine(name)
	if err := d.enter(w.t.Context(), link, nil, func(digits string) { go p.confirms(digits, confirm) }); err != nil {
		return nil, err
	}
	d.begin()
	return d, nil
}

// machine is one that has no account yet, and may enter a link.
func (w *World) machine(name string) *Person {
	return &Person{w: w, Home: filepath.Join(w.folder(), name)}
}

func (p *Person) enter(ctx context.Context, link string, hook kv.Hook, show func(digits string)) error {
	_, err := node.Enter(ctx, p.Home, node.EnterOptions{Options: node.Options{Passphrase: Passphrase, Dial: p.w.Dial, Hook: hook}, Link: link,
		Name: filepath.Base(p.Home), Params: vault.FloorParams, Show: show})
	return err
}

// begin starts what has entered.
func (p *Person) begin() {
	p.Start()
	p.w.t.Cleanup(p.Stop)
}

// confirms waits until there are digits to compare, and types what confirm makes of those that
// are shown: as the person does, at another machine.
func (p *Person) confirms(digits string, confirm func(digits string) string) {
	p.Until("digits to compare", func() bool { l, err := p.Link(context.Background()); return err == nil && l.State == node.LinkCompare })
	p.ConfirmLink(context.Background(), confirm(digits), Passphrase)
}

// Device links one more device of a person.
func (w *World) Device(p *Person, name string) *Person {
	w.t.Helper()
	d, err := w.enter(p, name, asShown)
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
	if _, err := w.enterLink(ana, inv.Link, "laptop", asShown); !errors.Is(err, node.ErrInvalid) {
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
	if _, err := w.enterLink(ana, l.Link, "tablet", asShown); err != nil {
		t.Fatal(err)
	}
	if _, err := w.enterLink(ana, l.Link, "another", asShown); !errors.Is(err, node.ErrGone) {
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

// devicesIn is how many devices of an account a person sees in a group.
func (p *Person) devicesIn(group, name string) int {
	g, _ := p.Group(context.Background(), group)
	for _, m := range g.Members {
		if m.Name == name {
			return m.Devices
		}
	}
	return 0
}

// T28: the laptop suspends the phone while that is away. Whatever anybody sends then the
// phone does not get, and it cannot undo that; the account key can.
func TestSuspendedDeviceGetsNothing(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben")
	ana, ben := people[0], people[1]
	ana.group(node.GroupOptions{Name: "Hikers", Members: []string{"Ben"}})
	ben.Until("the group", func() bool { return ben.stateIn("Hikers") == node.StateOpen })
	laptop := w.Device(ana, "laptop")
	for _, name := range []string{"Ben", "Hikers"} {
		laptop.Until(name, func() bool { return laptop.stateIn(name) == node.StateOpen })
	}
	laptop.send("Ben", "it works")
	ben.reads("Ana", "Ana: it works")
	laptop.Stop()

	d, err := ana.SuspendDevice(t.Context(), "laptop")
	if err != nil || d.State != node.DeviceSuspended {
		t.Fatalf("%+v, %v", d, err)
	}
	for _, name := range []string{"Ana", "Hikers"} {
		ben.Until("the line in "+name, func() bool {
			return slices.ContainsFunc(ben.notes(name), func(s string) bool { return strings.Contains(s, "a device of Ana is gone (") })
		})
	}
	ben.Until("one device", func() bool { return ben.devicesIn("Hikers", "Ana") == 1 })
	ben.send("Ana", "secret")
	ben.send("Hikers", "secret too")
	ana.reads("Ben", "Ben: secret")
	ana.reads("Hikers", "Ben: secret too")

	laptop.Start()
	for _, name := range []string{"Ben", "Hikers"} {
		laptop.Until("the end of "+name, func() bool { return laptop.stateIn(name) == node.StateLeft })
		if got := laptop.said(name); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "secret") }) {
			t.Errorf("the suspended device reads %q", got)
		}
		if _, err := laptop.Send(t.Context(), name, "still here"); !errors.Is(err, node.ErrFrozen) {
			t.Errorf("it sends to %s: %v", name, err)
		}
	}
	// T4: what it holds does not undo that, nor add or end another.
	for what, err := range map[string]error{
		"restore": func() error { _, err := laptop.RestoreDevice(t.Context(), "this", Passphrase); return err }(),
		"revoke": func() error {
			_, err := laptop.RevokeDevice(t.Context(), ana.devices()[0][:len(ana.devices()[0])-len(" active")], Passphrase)
			return err
		}(),
		"link": func() error { _, err := laptop.LinkDevice(t.Context()); return err }(),
	} {
		if !errors.Is(err, node.ErrNotAllowed) {
			t.Errorf("a device without the account key may %s: %v", what, err)
		}
	}

	if _, err := ana.RestoreDevice(t.Context(), "laptop", []byte("wrong")); !errors.Is(err, node.ErrLocked) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	if _, err := ana.RestoreDevice(t.Context(), "laptop", Passphrase); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Ben", "Hikers"} {
		laptop.Until("its return to "+name, func() bool { return laptop.stateIn(name) == node.StateOpen })
	}
	ben.send("Ana", "welcome back")
	laptop.reads("Ben", "Ben: welcome back")

	// For good.
	if _, err := ana.RevokeDevice(t.Context(), "laptop", Passphrase); err != nil {
		t.Fatal(err)
	}
	laptop.Until("the end", func() bool { return laptop.stateIn("Ben") == node.StateLeft })
	if _, err := ana.RestoreDevice(t.Context(), "laptop", Passphrase); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("a device revoked for good is restored: %v", err)
	}
}

// The existing device is killed in the midst of every write while a device is linked, half
// of the writes happened: it goes on where it was, and the device comes in.
func TestLinkSurvivesFaults(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ana.Stop()
	left := &atomic.Int64{}
	left.Store(60)
	f := &faults{rng: rand.New(rand.NewPCG(1, 2)), left: left}
	ana.Hook(f)
	ana.Start()
	l, err := ana.LinkDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.set(3)
	d := w.machine("laptop")
	err = d.enter(t.Context(), l.Link, nil, func(digits string) {
		go func() {
			for t.Context().Err() == nil { // what has failed may have happened: look, and try again
				l, err := ana.Link(context.Background())
				if err == nil && l.State == node.LinkCompare {
					_, err = ana.ConfirmLink(context.Background(), digits, Passphrase)
				}
				if err == nil && (l.State == node.LinkGranted || l.State == node.LinkDone) {
					return
				}
				if errors.Is(err, node.ErrNotTrusted) {
					t.Error(err)
					return
				}
			}
		}()
	})
	if err != nil {
		t.Fatal(err)
	}
	d.begin()
	f.set(0)
	d.Until("the conversation", func() bool { return d.stateIn("Ben") == node.StateOpen })
	if left.Load() == 60 {
		t.Error("nothing has failed")
	}
	ben.send("Ana", "hello")
	d.reads("Ben", "Ben: hello")
	if got := ana.devices(); len(got) != 2 {
		t.Errorf("devices %q", got)
	}
}

// The new device is killed at every write while it enters, and enters again: it becomes one
// device, not two, and shows the same digits.
func TestEnterSurvivesKills(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	l, err := ana.LinkDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := w.machine("laptop")
	kills, shown := 0, map[string]bool{}
	var confirm sync.Once
	for n := int64(1); ; n++ {
		ctx, kill := context.WithCancel(t.Context())
		k := &killer{left: n, kill: kill}
		err := d.enter(ctx, l.Link, k, func(digits string) {
			shown[digits] = true
			confirm.Do(func() { go ana.confirms(digits, asShown) })
		})
		kill()
		if err == nil {
			break
		}
		if kills++; kills > 40 {
			t.Fatal(err)
		}
	}
	if kills == 0 || len(shown) != 1 {
		t.Errorf("killed %d times, shown %v", kills, shown)
	}
	d.begin()
	d.Until("the conversation", func() bool { return d.stateIn("Ben") == node.StateOpen })
	if got := ana.devices(); len(got) != 2 {
		t.Errorf("devices %q", got)
	}
}

// killer lets so many writes happen, fails the next, and all behind it.
type killer struct {
	left int64
	kill func()
}

func (k *killer) BeforeCommit([]kv.Write) error {
	if k.left--; k.left < 0 {
		k.kill()
		return errFault
	}
	return nil
}

func (k *killer) AfterCommit() error { return nil }

// What was said before the laptop came it gets from the phone: all of it, in its place,
// also of a group that Ana has left, and marked as handed over.
func TestHistoryIsHandedOver(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem")
	ana, ben := people[0], people[1]
	ben.group(node.GroupOptions{Name: "Hikers", Members: []string{"Ana"}})
	ana.Until("the group", func() bool { return ana.stateIn("Hikers") == node.StateOpen })
	ben.send("Hikers", "on Sunday?")
	ana.reads("Hikers", "Ben: on Sunday?")
	if err := ana.LeaveGroup(t.Context(), "Hikers"); err != nil {
		t.Fatal(err)
	}
	ana.Until("the leave", func() bool { return ana.stateIn("Hikers") == node.StateLeft })
	const many = 70 // more than are given first of each conversation
	for i := range many {
		ana.send("Ben", fmt.Sprint("to Ben ", i))
	}
	ben.send("Ana", "the last")
	ana.reads("Ben", "Ben: the last")
	ana.Until("all of it", func() bool { s, _ := ana.Status(t.Context()); return s.Queued == 0 })

	laptop := w.Device(ana, "laptop")
	laptop.Until("the history", func() bool {
		s, err := laptop.Status(t.Context())
		return err == nil && s.History != nil && s.History.Done
	})
	laptop.Until("the contact", func() bool { return laptop.stateIn("Ben") == node.StateOpen })
	if got, want := laptop.said("Ben"), ana.said("Ben"); !slices.Equal(got, want) || len(got) != many+1 {
		t.Errorf("the laptop has %d messages %q, the phone %d", len(got), got, len(want))
	}
	if got, want := laptop.said("Hikers"), ana.said("Hikers"); !slices.Equal(got, want) || laptop.stateIn("Hikers") != node.StateLeft {
		t.Errorf("the laptop has %q of the group, %s; the phone %q", got, laptop.stateIn("Hikers"), want)
	}
	laptop.finds("sunday", "", "on Sunday?")
	laptop.send("Ben", "new")
	ms, err := laptop.Messages(t.Context(), "Ben", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if m.Kind == "text" && m.Imported != (m.Text != "new") {
			t.Errorf("%q is imported: %v", m.Text, m.Imported)
		}
	}
	if s, _ := laptop.Status(t.Context()); s.History.Imported != s.History.Total {
		t.Errorf("%+v", s.History)
	}
	// Nothing of it stays at the relay.
	usage, err := r.Blobs.Usage(t.Context())
	for class, u := range usage {
		if u.Blobs != 0 {
			t.Errorf("%d blobs of class %v are left", u.Blobs, class)
		}
	}
	if err != nil {
		t.Error(err)
	}
}
