package nodetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sotto/node"
	"sotto/relay/mailbox"
	"sotto/relay/relaytest"
)

// lied makes two contacts at a relay that means ill, and lets both write.
func lied(t *testing.T) (r *Relay, e *relaytest.Evil, ana, ben *Person) {
	t.Helper()
	w := New(t)
	r, e = w.Evil()
	ana, ben = w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	ana.tells("Ben", "hello")
	ben.tells("Ana", "hello yourself")
	ana.hears("Ben", "hello yourself")
	ben.hears("Ana", "hello")
	return r, e, ana, ben
}

// tells sends a text as soon as the conversation is at work.
func (p *Person) tells(to, text string) {
	p.w.t.Helper()
	p.Until("a conversation at work", func() bool {
		_, err := p.Send(context.Background(), to, text)
		if err != nil && !errors.Is(err, node.ErrBusy) {
			p.w.t.Fatal(err)
		}
		return err == nil
	})
}

func (p *Person) hears(from string, texts ...string) {
	p.w.t.Helper()
	p.Until(fmt.Sprintf("%q", texts), func() bool {
		got := p.Texts(from)
		return !slices.ContainsFunc(texts, func(s string) bool { return !slices.Contains(got, s) })
	})
}

// stored waits until everything that somebody has written is stored.
func (p *Person) stored() {
	p.w.t.Helper()
	p.Until("an empty outbox", func() bool { s, err := p.Status(context.Background()); return err == nil && s.Queued == 0 })
}

func (p *Person) isFrozen(name string) {
	p.w.t.Helper()
	p.Until("a frozen conversation", func() bool { return p.stateIn(name) == "frozen" })
}

// lastBox returns the mailbox that was last written to.
func lastBox(e *relaytest.Evil) mailbox.ID {
	all := e.Taken()
	return all[len(all)-1].Mailbox
}

// T5: a relay shows two people different histories. Each of them freezes the conversation
// once it is shown the other's.
func TestTwoHistories(t *testing.T) {
	r, e, ana, ben := lied(t)
	other := e.Fork()
	r.Show(ben, other)
	ana.tells("Ben", "in one history")
	ben.tells("Ana", "in the other")
	ana.stored()
	ben.stored()
	if has := ben.Texts("Ana"); slices.Contains(has, "in one history") {
		t.Fatalf("the relay's two histories are one: %q", has)
	}
	r.Show(ana, other)
	r.Show(ben, e)
	ana.isFrozen("Ben")
	ben.isFrozen("Ana")
	for who, of := range map[*Person]string{ana: "Ben", ben: "Ana"} {
		who.proves(of)
	}
	// What proves it outlives the program.
	ana.Stop()
	ana.Start()
	ana.proves("Ben")
	if _, err := ana.Send(t.Context(), "Ben", "more"); !errors.Is(err, node.ErrFrozen) {
		t.Errorf("sending: %v", err)
	}
}

// proves checks that there is evidence, and that it holds.
func (p *Person) proves(name string) {
	p.w.t.Helper()
	all, err := p.Evidence(context.Background(), name)
	if err != nil || len(all) == 0 {
		p.w.t.Fatalf("%s has %d pieces of evidence, %v", name, len(all), err)
	}
	for _, e := range all {
		if !e.Holds {
			p.w.t.Errorf("evidence that does not hold: %+v", e)
		}
	}
}

// T5: a relay that joins two histories again is found out by the messages themselves, which
// say what their senders had seen.
func TestHistoriesJoinedAgain(t *testing.T) {
	r, e, ana, ben := lied(t)
	other := e.Fork()
	r.Show(ben, other)
	ana.tells("Ben", "in one history")
	ana.stored()
	// What Ben writes once he has read what he wrote before says that he has.
	for i := range 100 {
		before := len(other.Taken())
		ben.tells("Ana", fmt.Sprint("in the other ", i))
		ben.stored()
		for _, d := range other.Taken()[before:] {
			if out := e.Slip(t.Context(), d); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		ana.Until("something of the other", func() bool {
			return ana.stateIn("Ben") == "frozen" || slices.Contains(ana.Texts("Ben"), fmt.Sprint("in the other ", i))
		})
		if ana.stateIn("Ben") == "frozen" {
			break
		}
	}
	ana.isFrozen("Ben")
	if c, err := ana.Conversation(t.Context(), "Ben"); err != nil || !strings.Contains(c.Reason, "has shown Ben another history") {
		t.Errorf("%+v, %v", c, err)
	}
}

// T6: a relay goes back, in the same era or saying so. Nothing more is sent there.
func TestHistoryThatGoesBack(t *testing.T) {
	for _, says := range []bool{false, true} {
		t.Run(fmt.Sprintf("says so: %v", says), func(t *testing.T) {
			r, e, ana, ben := lied(t)
			ana.stored()
			ben.stored()
			before := e.Fork()
			for i := range 10 {
				ana.tells("Ben", fmt.Sprint("number ", i))
			}
			ben.hears("Ana", "number 9")
			ana.stored()
			if says {
				before.Restore()
			}
			// Who has been away has the head that it saw last to hold it against.
			ben.Stop()
			r.Become(before)
			ben.Start()
			ana.isFrozen("Ben")
			ben.isFrozen("Ana")
			if !says {
				ana.proves("Ben")
				ben.proves("Ana")
			}
			if got := ben.Texts("Ana"); got[len(got)-1] != "number 9" {
				t.Errorf("Ben has %q", got)
			}
		})
	}
}

// T7: entries that are exchanged, or left out, are not read; who shows the truth again is
// read on.
func TestPagesThatDoNotHold(t *testing.T) {
	for _, c := range []struct {
		name string
		lie  func(p *mailbox.Page)
	}{
		{"two are exchanged", func(p *mailbox.Page) {
			a, b := &p.Entries[len(p.Entries)-2], &p.Entries[len(p.Entries)-1]
			a.Payload, b.Payload = b.Payload, a.Payload
		}},
		{"one is left out", func(p *mailbox.Page) { p.Entries = slices.Delete(p.Entries, len(p.Entries)-2, len(p.Entries)-1) }},
		{"the order is another", func(p *mailbox.Page) { slices.Reverse(p.Entries) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, e, ana, ben := lied(t)
			ben.Stop()
			for i := range 5 {
				ana.tells("Ben", fmt.Sprint("number ", i))
			}
			ana.stored()
			box := lastBox(e)
			var lies atomic.Int64
			shown := make(chan struct{}, 100)
			e.OnRead(func(id mailbox.ID, p *mailbox.Page) {
				if id == box && len(p.Entries) > 2 {
					c.lie(p)
					lies.Add(1)
					shown <- struct{}{}
				}
			})
			ben.Start()
			for range 3 {
				<-shown
			}
			if got := ben.Texts("Ana"); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "number") }) {
				t.Errorf("Ben has read %q out of a page that does not hold", got)
			}
			e.OnRead(nil)
			ben.hears("Ana", "number 0", "number 1", "number 2", "number 3", "number 4")
		})
	}
}

// T8: what a relay copies from one mailbox to another, or passes off as a commit, opens
// nowhere, and keeps nobody from talking.
func TestEntriesOutOfPlace(t *testing.T) {
	w := New(t)
	r, e := w.Evil()
	ana, ben, cem := w.Person("Ana", r), w.Person("Ben", r), w.Person("Cem", r)
	w.Meet(ana, ben, "Ben", "Ana")
	w.Meet(ana, cem, "Cem", "Ana")
	ana.tells("Cem", "to Cem alone")
	ana.stored()
	theirs := e.Taken()[len(e.Taken())-1]
	ana.tells("Ben", "hello")
	ana.stored()
	ben.hears("Ana", "hello")
	mine := e.Taken()[len(e.Taken())-1]
	if theirs.Mailbox == mine.Mailbox {
		t.Fatal("two conversations have one mailbox")
	}
	state, err := e.State(t.Context(), mine.Mailbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []mailbox.Deposit{
		{Mailbox: mine.Mailbox, Kind: mailbox.Message, Gen: mine.Gen, Payload: theirs.Payload},
		{Mailbox: mine.Mailbox, Kind: mailbox.Commit, Gen: mine.Gen, Expect: state.Head.Commit, Payload: mine.Payload},
	} {
		if out := e.Slip(t.Context(), d); out.Err != nil || out.Receipt.Again {
			t.Fatalf("slip %v in: %+v", d.Kind, out)
		}
	}
	ben.tells("Ana", "still there?")
	ana.hears("Ben", "still there?")
	ana.tells("Ben", "still here")
	ben.hears("Ana", "still here")
	if got := ben.Texts("Ana"); slices.Contains(got, "to Cem alone") || len(got) != 3 {
		t.Errorf("Ben has %q", got)
	}
}

// duo makes two people who have talked in a group of theirs.
func duo(t *testing.T, w *World, r *Relay) (ana, ben *Person) {
	t.Helper()
	people := circle(t, w, r, "Ana", "Ben")
	ana, ben = people[0], people[1]
	ana.group(node.GroupOptions{Name: "Duo", Members: []string{"Ben"}})
	ben.Until("the group", func() bool { return ben.stateIn("Duo") == node.StateOpen })
	ben.tells("Duo", "hello")
	ana.hears("Duo", "hello")
	return ana, ben
}

// T9, T10: a relay that says to one member that another commit always comes first, or that
// takes nothing from it, keeps its changes from coming about, and that is all; what it could not
// send comes about once, when the relay tires of it.
func TestNeverAMembersTurn(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer relaytest.Answer
	}{{"conflict", relaytest.Conflict}, {"stale", relaytest.Stale}, {"nothing", relaytest.Lose}, {"held back", relaytest.Hold}} {
		t.Run(c.name, func(t *testing.T) {
			w := New(t)
			r, e := w.Evil()
			ana, ben := duo(t, w, r)
			tried := make(chan struct{}, 1000)
			e.OnPut(func(d mailbox.Deposit) relaytest.Answer {
				if d.Kind != mailbox.Commit {
					return relaytest.Store
				}
				tried <- struct{}{}
				return c.answer
			})
			about := "what we are about"
			if _, err := ana.ChangeGroup(t.Context(), "Duo", node.GroupChange{Description: &about}); err != nil {
				t.Fatal(err)
			}
			<-tried
			ana.tells("Duo", "behind the change")
			ben.tells("Duo", "beside it")
			ana.hears("Duo", "beside it")
			if got := ben.Texts("Duo"); slices.Contains(got, "behind the change") {
				t.Errorf("Ben reads %q before the change that comes first", got)
			}
			e.OnPut(nil)
			e.Release(t.Context())
			ben.hears("Duo", "behind the change")
			ana.stored()
			for _, p := range []*Person{ana, ben} {
				n := 0
				for _, s := range p.Texts("Duo") {
					if strings.Contains(s, "behind the change") {
						n++
					}
				}
				if n != 1 {
					t.Errorf("the message is there %d times: %q", n, p.Texts("Duo"))
				}
			}
		})
	}
}

// change makes a member's own commit.
func (p *Person) change(group, about string) {
	p.w.t.Helper()
	if _, err := p.ChangeGroup(context.Background(), group, node.GroupChange{Description: &about}); err != nil {
		p.w.t.Fatal(err)
	}
}

// T12: a thousand commits of rubbish move the fence, and no epoch; the group goes on.
func TestRubbishAtTheFence(t *testing.T) {
	_, e, ana, ben := lied(t)
	box := lastBox(e)
	for i := range 1000 {
		state, err := e.State(t.Context(), box)
		if err != nil {
			t.Fatal(err)
		}
		out := e.Slip(t.Context(), mailbox.Deposit{Mailbox: box, Kind: mailbox.Commit, Gen: state.Gen, Expect: state.Head.Commit, Payload: fmt.Appendf(nil, "rubbish %d", i)})
		if out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	began := time.Now()
	ana.tells("Ben", "behind rubbish")
	ben.hears("Ana", "behind rubbish")
	if each := time.Since(began) / 1000; each > 50*time.Millisecond {
		t.Errorf("each takes %v", each)
	}
}

// T38: what is accepted does not depend on clocks, nor on whom one has blocked.
func TestClocksAndBlocksDecideNothing(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem")
	ana, ben, cem := people[0], people[1], people[2]
	w.Meet(ben, cem, "Cem", "Ben")
	ana.group(node.GroupOptions{Name: "Trio", Members: []string{"Ben", "Cem"}})
	for _, p := range people {
		p.Until("three members", func() bool { return len(p.members("Trio")) == 3 })
		p.tells("Trio", "hello")
	}
	if _, err := cem.Block(t.Context(), "Ben", true); err != nil {
		t.Fatal(err)
	}
	ana.hearsAll("Trio", 3)
	for _, c := range []struct {
		p    *Person
		skew time.Duration
	}{{ben, 400 * 24 * time.Hour}, {cem, -400 * 24 * time.Hour}} {
		c.p.Stop()
		c.p.Clock(func() time.Time { return time.Now().Add(c.skew) })
		c.p.Start()
	}
	ana.role("Trio", "Ben", "admin")
	ben.Until("the role", func() bool { return slices.Contains(ben.members("Trio"), "Ben admin") })
	ben.change("Trio", "by Ben")
	ana.change("Trio", "by Ana")
	for _, p := range people {
		p.tells("Trio", "behind it all")
	}
	// Who is in another epoch reads nothing of it.
	ana.hearsAll("Trio", 6)
	ben.hearsAll("Trio", 6)
	cem.hearsAll("Trio", 4) // without what the blocked one says since
}

func (p *Person) role(group, member, role string) {
	p.w.t.Helper()
	if _, err := p.ChangeGroup(context.Background(), group, node.GroupChange{Roles: []node.RoleOf{{Member: member, Role: role}}}); err != nil {
		p.w.t.Fatal(err)
	}
}

// hearsAll waits until somebody has so many texts.
func (p *Person) hearsAll(group string, n int) {
	p.w.t.Helper()
	p.Until(fmt.Sprint(n, " texts"), func() bool {
		ms, err := p.Messages(context.Background(), group, "", "", 0)
		got := 0
		for _, m := range ms {
			if m.Kind == "text" {
				got++
			}
		}
		return err == nil && got >= n
	})
}

// T39: letters that a relay delivers once more, Welcomes among them, change nothing.
func TestLettersDeliveredAgain(t *testing.T) {
	w := New(t)
	r, e := w.Evil()
	ana, ben := duo(t, w, r)
	before, err := ben.Conversations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, d := range e.Taken() {
		if state, err := e.State(t.Context(), d.Mailbox); err != nil || d.Kind != mailbox.Message || state.Gen > 0 {
			continue // not an inbox
		}
		if out := e.Slip(t.Context(), d); out.Err == nil && !out.Receipt.Again {
			again++
		}
	}
	if again < 2 {
		t.Fatalf("%d letters could be delivered again", again)
	}
	ana.tells("Duo", "once more")
	ben.hears("Duo", "once more")
	ben.tells("Ana", "alone")
	ana.hears("Ben", "alone")
	after, err := ben.Conversations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("%d conversations, before %d", len(after), len(before))
	}
	for _, c := range after {
		if c.State != node.StateOpen || c.Unreadable > 0 {
			t.Errorf("%+v", c)
		}
	}
}
