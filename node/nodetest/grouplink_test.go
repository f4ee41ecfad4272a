package nodetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"sotto/node"
)

// Ana makes a link to her group; Dov and Eva, whom nobody there knows, open it. Ben, an admin,
// sees both, lets Dov in and declines Eva; all see that, and Dov talks. A link that was revoked
// lets nobody ask, and no kind of link is taken for another.
func TestGroupLink(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben")
	ana, ben := people[0], people[1]
	dov, eva := w.Person("Dov", r), w.Person("Eva", r)
	const name = "Hikers"
	ana.group(node.GroupOptions{Name: name, Members: []string{"Ben"}})
	for _, p := range people {
		p.Until("the group", func() bool { return len(p.members(name)) == 2 })
	}
	if _, err := ben.LinkGroup(t.Context(), name, 0); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a member makes a link: %v", err)
	}
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Roles: []node.RoleOf{{Member: "Ben", Role: "admin"}}}); err != nil {
		t.Fatal(err)
	}
	ben.Until("the role", func() bool { return slices.Contains(ben.members(name), "Ben admin") })
	link, err := ana.LinkGroup(t.Context(), name, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dov.Accept(t.Context(), link.Link, ""); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("a group's link is taken for an invite: %v", err)
	}
	invite, err := ana.Invite(t.Context(), node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dov.JoinGroup(t.Context(), invite.Link); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("an invite is taken for a group's link: %v", err)
	}
	for _, p := range []*Person{dov, eva} {
		if _, err := p.JoinGroup(t.Context(), link.Link); err != nil {
			t.Fatal(err)
		}
	}
	asking := func(p *Person) (out []string) {
		all, _ := p.GroupRequests(t.Context(), name)
		for _, r := range all {
			out = append(out, r.Name)
		}
		slices.Sort(out)
		return out
	}
	for _, p := range people {
		p.Until("the requests", func() bool { return slices.Equal(asking(p), []string{"Dov", "Eva"}) })
	}
	all, _ := ben.GroupRequests(t.Context(), name)
	for _, r := range all {
		if want := dov.Account().String(); r.Name == "Dov" && r.Account != want {
			t.Errorf("Dov asks as %s, want %s", r.Account, want)
		}
	}
	if err := ben.AnswerRequest(t.Context(), name, "Dov", true); err != nil {
		t.Fatal(err)
	}
	if err := ben.AnswerRequest(t.Context(), name, "Eva", false); err != nil {
		t.Fatal(err)
	}
	dov.Until("the group", func() bool { return len(dov.members(name)) == 3 })
	dov.send(name, "I found your link")
	for _, p := range people {
		p.Until("the message", func() bool { return slices.Contains(p.said(name), "Dov: I found your link") })
		p.Until("no requests", func() bool { return len(asking(p)) == 0 })
	}
	if js, err := dov.Joinings(t.Context()); err != nil || len(js) != 1 || js[0].State != "joined" || js[0].Group != name || js[0].By != "Ana" {
		t.Errorf("Dov's links: %+v, %v", js, err)
	}
	if got := eva.stateIn(name); got != "" {
		t.Errorf("Eva is in the group: %s", got)
	}

	if links, err := ana.GroupLinks(t.Context(), name); err != nil || len(links) != 1 || links[0].ID != link.ID || links[0].Link != "" {
		t.Errorf("links: %+v, %v", links, err)
	}
	if err := ana.RevokeInvite(t.Context(), link.ID); err != nil {
		t.Fatal(err)
	}
	if links, err := ana.GroupLinks(t.Context(), name); err != nil || len(links) != 0 {
		t.Errorf("links: %+v, %v", links, err)
	}
}

// Dov opens a link to a group at his laptop. That asks for itself, and brings his phone in.
func TestGroupLinkOpenedByOneOfTwoDevices(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben")
	ana, dov := people[0], w.Person("Dov", r)
	const name = "Hikers"
	ana.group(node.GroupOptions{Name: name, Members: []string{"Ben"}})
	link, err := ana.LinkGroup(t.Context(), name, 0)
	if err != nil {
		t.Fatal(err)
	}
	laptop := w.Device(dov, "laptop")
	if _, err := laptop.JoinGroup(t.Context(), link.Link); err != nil {
		t.Fatal(err)
	}
	ana.Until("the request", func() bool { all, _ := ana.GroupRequests(context.Background(), name); return len(all) == 1 })
	if err := ana.AnswerRequest(t.Context(), name, "Dov", true); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Person{laptop, dov} {
		p.Until("the group", func() bool { return p.stateIn(name) == node.StateOpen && len(p.members(name)) == 3 })
	}
	ana.send(name, "welcome")
	dov.reads(name, "Ana: welcome")
	dov.send(name, "from the phone")
	laptop.reads(name, "Dov: from the phone")
	ana.reads(name, "Dov: from the phone")
}
