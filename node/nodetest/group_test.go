package nodetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sotto/node"
)

// circle makes people who are all contacts of the first.
func circle(t *testing.T, w *World, r *Relay, names ...string) []*Person {
	t.Helper()
	var people []*Person
	for _, name := range names {
		people = append(people, w.Person(name, r))
	}
	for i, p := range people[1:] {
		w.Meet(people[0], p, names[i+1], names[0])
	}
	return people
}

// group makes a group of the first person's contacts once it can.
func (p *Person) group(o node.GroupOptions) node.Conversation {
	p.w.t.Helper()
	var c node.Conversation
	p.Until("key packages", func() bool {
		var err error
		if c, err = p.CreateGroup(context.Background(), o); err != nil && !errors.Is(err, node.ErrNotReady) {
			p.w.t.Fatal(err)
		}
		return err == nil
	})
	return c
}

func (p *Person) stateIn(group string) string {
	c, err := p.Conversation(context.Background(), group)
	if err != nil {
		return ""
	}
	return c.State
}

func (p *Person) members(group string) []string {
	g, err := p.Group(context.Background(), group)
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range g.Members {
		out = append(out, m.Name+" "+m.Role)
	}
	slices.Sort(out)
	return out
}

func (p *Person) send(to, text string) {
	p.w.t.Helper()
	if _, err := p.Send(context.Background(), to, text); err != nil {
		p.w.t.Fatal(err)
	}
}

// said returns the texts of a conversation without what tells of changes.
func (p *Person) said(name string) (out []string) {
	ms, _ := p.Messages(context.Background(), name, "", "", 0)
	for _, m := range ms {
		if m.Kind == "text" && m.Deleted == "" {
			out = append(out, m.Sender+": "+m.Text)
		}
	}
	return out
}

// Four people talk in a group: made with two, a third added, renamed, roles given, one
// removed, one leaves. Everybody sees the same messages in the same order.
func TestGroupLife(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem", "Dov")
	ana, ben, cem, dov := people[0], people[1], people[2], people[3]
	const name = "Hikers"
	c := ana.group(node.GroupOptions{Name: name, Description: "on Sundays", Members: []string{"Ben", "Cem"}})
	if c.Kind != node.KindGroup || c.State != node.StateOpen {
		t.Errorf("made %+v", c)
	}
	for _, p := range []*Person{ben, cem} {
		p.Until("the group", func() bool { return p.stateIn(name) == node.StateOpen })
	}
	for _, p := range people[:3] {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	ana.send(name, "hello all")
	ben.send(name, "hi")
	cem.send(name, "你好")
	all := func(n int, who ...*Person) {
		t.Helper()
		for _, p := range who {
			p.Until("all messages", func() bool { return len(p.said(name)) == n })
		}
		for _, p := range who[1:] {
			var a, b []string
			for _, m := range who[0].said(name) {
				a = append(a, m[strings.Index(m, ":"):])
			}
			for _, m := range p.said(name) {
				b = append(b, m[strings.Index(m, ":"):])
			}
			if !slices.Equal(a, b) {
				t.Errorf("%v and %v", a, b)
			}
		}
	}
	all(3, ana, ben, cem)
	// Ben and Cem have never met: they know each other's names by the group.
	if got := ben.said(name); !slices.Contains(got, "Cem: 你好") || !slices.Contains(got, "Ana: hello all") {
		t.Errorf("Ben reads %q", got)
	}

	// A member may neither add nor rename; an admin may.
	no := "No"
	if _, err := ben.ChangeGroup(t.Context(), name, node.GroupChange{Name: &no}); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a member renames: %v", err)
	}
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Add: []string{"Dov"}, Roles: []node.RoleOf{{Member: "Ben", Role: "admin"}}}); err != nil {
		t.Fatal(err)
	}
	dov.Until("the group", func() bool { return dov.stateIn(name) == node.StateOpen })
	want := []string{"Ana owner", "Ben admin", "Cem member", "Dov member"}
	for _, p := range people {
		p.Until("the new roles", func() bool { return slices.Equal(p.members(name), want) })
	}
	about := "on Saturdays"
	if _, err := ben.ChangeGroup(t.Context(), name, node.GroupChange{Description: &about}); err != nil {
		t.Fatal(err)
	}
	dov.Until("the description", func() bool { g, _ := dov.Group(t.Context(), name); return g.Description == about })
	dov.send(name, "I am new")
	all(4, ana, ben, cem)
	dov.Until("its own message", func() bool { return len(dov.said(name)) == 1 })

	// Ben removes Cem, who reads nothing more and keeps what there was.
	if _, err := ben.ChangeGroup(t.Context(), name, node.GroupChange{Remove: []string{"Cem"}}); err != nil {
		t.Fatal(err)
	}
	cem.Until("the end", func() bool { return cem.stateIn(name) == node.StateLeft })
	for _, p := range []*Person{ana, ben, dov} {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	ana.send(name, "without Cem")
	all(5, ana, ben)
	if got := cem.said(name); len(got) != 4 {
		t.Errorf("Cem reads %q", got)
	}
	if _, err := cem.Send(t.Context(), name, "still here?"); !errors.Is(err, node.ErrFrozen) {
		t.Errorf("who was removed writes: %v", err)
	}
	if _, err := ben.ChangeGroup(t.Context(), name, node.GroupChange{Remove: []string{"Ana"}}); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("an admin removes an owner: %v", err)
	}

	// Only those with a role write; then the owner leaves, and the group is Ben's.
	yes := true
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Announce: &yes}); err != nil {
		t.Fatal(err)
	}
	dov.Until("silence", func() bool { g, _ := dov.Group(t.Context(), name); return g.Announce })
	if _, err := dov.Send(t.Context(), name, "me too"); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a member writes where it may not: %v", err)
	}
	if err := ana.LeaveGroup(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	ana.Until("the end", func() bool { return ana.stateIn(name) == node.StateLeft })
	for _, p := range []*Person{ben, dov} {
		p.Until("two members", func() bool { return slices.Equal(p.members(name), []string{"Ben owner", "Dov member"}) })
	}
	ben.send(name, "goodbye Ana")
	dov.Until("the message", func() bool { return slices.Contains(dov.said(name), "Ben: goodbye Ana") })

	// Who has gone can come back, and keeps its history.
	ms, _ := dov.Messages(t.Context(), name, "", "", 0)
	var told []string
	for _, m := range ms {
		if m.Kind == "change" {
			told = append(told, m.Text)
		}
	}
	if got := strings.Join(told, "\n"); !strings.Contains(got, "Ana left") || !strings.Contains(got, "Ben removed Cem") || !strings.Contains(got, "Ana added Dov") {
		t.Errorf("Dov is told\n%s", got)
	}
	for _, p := range people {
		p.Stop()
		p.Start()
	}
	ben.send(name, "after a restart")
	dov.Until("the message", func() bool { return slices.Contains(dov.said(name), "Ben: after a restart") })
}

// Three members change the group at once, again and again, while all write: every change
// comes about, everybody ends in one epoch with the same messages in the same order.
func TestConcurrentChangesConverge(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem")
	const name = "Trio"
	people[0].group(node.GroupOptions{Name: name, Members: []string{"Ben", "Cem"}})
	for _, p := range people {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	if _, err := people[0].ChangeGroup(t.Context(), name, node.GroupChange{Roles: []node.RoleOf{{Member: "Ben", Role: "owner"}, {Member: "Cem", Role: "owner"}}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range people {
		p.Until("three owners", func() bool { return slices.Equal(p.members(name), []string{"Ana owner", "Ben owner", "Cem owner"}) })
	}
	const rounds = 5
	for i := range rounds {
		for k, p := range people {
			about := fmt.Sprintf("%d by %d", i, k)
			if _, err := p.ChangeGroup(t.Context(), name, node.GroupChange{Description: &about}); err != nil {
				t.Fatal(err)
			}
			p.send(name, about)
		}
	}
	var texts []string
	for _, p := range people {
		p.Until("all messages", func() bool { return len(p.said(name)) == rounds*len(people) })
		var mine []string
		for _, m := range p.said(name) {
			mine = append(mine, m)
		}
		if texts == nil {
			texts = mine
		} else if !slices.Equal(texts, mine) {
			t.Errorf("%q and %q", texts, mine)
		}
	}
	// What came last is everywhere the same.
	for _, p := range people {
		p.Until("the outbox", func() bool { s, _ := p.Status(t.Context()); return s.Queued == 0 })
	}
	last := func(p *Person) string { g, _ := p.Group(t.Context(), name); return g.Description }
	for _, p := range people[1:] {
		p.Until("one description", func() bool { return last(p) == last(people[0]) })
	}
}
