package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"sotto/node"
)

// Six owners rename, describe, add and write all at once, while writes of their vaults
// fail at random, in both ways. Every change that was acknowledged comes about once, everybody
// that was added is there, and all end with one name, one roster and the same messages in the
// same order: what was typed while commits were undecided was sealed in the epoch that one
// ended in.
func TestStorm(t *testing.T) {
	const rounds, points = 4, 120
	names := []string{"Ana", "Ben", "Cem", "Dov", "Eva", "Fay"}
	ctx := context.Background()
	d := newDoomed(t, 7, points, names...)
	d.every(0)
	ana, w := d.people[0], d.people[0].w
	var r *Relay
	for _, r = range w.relays {
	}
	var others []node.RoleOf
	for i, p := range d.people[1:] {
		w.Meet(ana, p, names[i+1], "Ana")
		others = append(others, node.RoleOf{Member: names[i+1], Role: "owner"})
	}
	guests := make([][]string, len(names))
	for i, p := range d.people {
		_, guests[i] = p.crowd(r, rounds)
	}
	group := ana.group(node.GroupOptions{Name: "Storm", Members: names[1:]}).ID
	ana.Until("six members", func() bool { return len(ana.members(group)) == len(names) })
	if _, err := ana.ChangeGroup(ctx, group, node.GroupChange{Roles: others}); err != nil {
		t.Fatal(err)
	}
	owners := func(p *Person) bool {
		g, _ := p.Group(ctx, group)
		return len(g.Members) == len(names) && !slices.ContainsFunc(g.Members, func(m node.GroupMember) bool { return m.Role != "owner" })
	}
	for _, p := range d.people {
		p.Until("six owners", func() bool { return owners(p) })
	}

	d.every(12)
	rng := rand.New(rand.NewPCG(7, 7))
	acked, added := map[string]bool{}, map[string]bool{}
	change := func(p *Person, g node.GroupChange) bool {
		_, err := p.ChangeGroup(ctx, group, g)
		if err != nil && !errors.Is(err, node.ErrUncertain) && !errors.Is(err, node.ErrNotReady) {
			t.Fatalf("%s: %v", filepath.Base(p.Home), err)
		}
		return err == nil
	}
	for n := range rounds {
		for _, i := range rng.Perm(len(d.people)) {
			p, who := d.people[i], filepath.Base(d.people[i].Home)
			name, about := fmt.Sprintf("Storm %d of %s", n, who), fmt.Sprintf("%d", n)
			change(p, node.GroupChange{Name: &name})
			if change(p, node.GroupChange{Add: guests[i][n : n+1]}) {
				added[guests[i][n]] = true
			}
			change(p, node.GroupChange{Description: &about})
			for k := range 3 {
				if text := fmt.Sprint(who, " ", 3*n+k); d.send(p, group, text) {
					acked[text] = true
				}
			}
		}
	}
	d.every(0)
	for _, p := range d.people {
		p.Until("what was sent", func() bool { return has(p.Texts(group), acked) })
		p.Until("the changes", func() bool {
			g, err := p.Group(ctx, group)
			s, _ := p.Status(ctx)
			return err == nil && g.Changing == 0 && s.Queued == 0
		})
	}
	// A last message behind all that has been committed.
	ana.send(group, "Ana 9999")
	acked["Ana 9999"] = true
	accounts := func(p *Person) (out []string) {
		g, _ := p.Group(ctx, group)
		for _, m := range g.Members {
			out = append(out, m.Account)
		}
		return out
	}
	shown := func(p *Person) (out []string) {
		ms, _ := p.Messages(ctx, group, "", "", 0)
		for _, m := range ms {
			if m.Kind == "text" {
				out = append(out, m.Text)
			}
		}
		return out
	}
	for _, p := range d.people {
		p.Until("the last message", func() bool { return has(p.Texts(group), acked) })
	}
	first, _ := ana.Group(ctx, group)
	for _, p := range d.people {
		g, err := p.Group(ctx, group)
		if err != nil || g.Name != first.Name || g.Description != first.Description {
			t.Errorf("%s: %q, %q, %v; Ana: %q, %q", filepath.Base(p.Home), g.Name, g.Description, err, first.Name, first.Description)
		}
		if got := accounts(p); !slices.Equal(got, accounts(ana)) || len(got) < len(names)+len(added) {
			t.Errorf("%s has %d members, Ana %d; %d were added", filepath.Base(p.Home), len(got), len(accounts(ana)), len(added))
		}
		if got, want := shown(p), shown(ana); !slices.Equal(got, want) {
			t.Errorf("%s reads %q, Ana %q", filepath.Base(p.Home), got, want)
		}
		if c, err := p.Conversation(ctx, group); err != nil || c.Unreadable != 0 || c.Missing != 0 || c.State != node.StateOpen {
			t.Errorf("%s: %+v, %v", filepath.Base(p.Home), c, err)
		}
	}
	t.Logf("%d writes failed; %d members, %d messages", points-int(max(d.left.Load(), 0)), len(first.Members), len(shown(ana)))
}
