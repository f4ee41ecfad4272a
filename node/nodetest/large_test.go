package nodetest

import (
	"bytes"
	"errors"
	"image"
	"image/jpeg"
	"image/png"
	"slices"
	"testing"

	"sotto/node"
	"sotto/node/conversation"
)

// A group of a hundred is made in one go, by several commits that are too large for the
// mailbox and welcomes that are too large for letters. Who is added ends in the group and
// talks in it; a second owner adds one more.
func TestLargeGroup(t *testing.T) {
	w := New(t)
	r := w.Relay()
	const size = 100
	ana, ben, crowd, names := w.crowded(r, size-2)
	const name = "Everybody"
	ana.group(node.GroupOptions{Name: name, Members: append(names, "Ben")})
	for _, p := range []*Person{ana, ben} {
		p.Until("the group", func() bool { return len(p.members(name)) == size })
	}
	ben.send(name, "so many")
	ana.Until("the message", func() bool { return slices.Contains(ana.said(name), "Ben: so many") })

	// Everybody of the crowd can join.
	for _, o := range []*one{crowd[0], crowd[63], crowd[len(crowd)-1]} {
		w, err := o.welcome(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if w.Inline != nil {
			t.Error("a welcome of so many is in a letter")
		}
		g, inviter, err := o.join(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conversation.ValidateWelcome(g, inviter, ana.Account()); err != nil {
			t.Error(err)
		}
	}
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Roles: []node.RoleOf{{Member: "Ben", Role: "owner"}}}); err != nil {
		t.Fatal(err)
	}
	ben.Until("the role", func() bool { return slices.Contains(ben.members(name), "Ben owner") })
	cem := w.Person("Cem", r)
	w.Meet(ben, cem, "Cem", "Ben")
	ben.Until("one more", func() bool {
		_, err := ben.ChangeGroup(t.Context(), name, node.GroupChange{Add: []string{"Cem"}})
		if err != nil && !errors.Is(err, node.ErrNotReady) {
			t.Fatal(err)
		}
		return err == nil
	})
	cem.Until("the group", func() bool { return len(cem.members(name)) == size+1 })
	cem.send(name, "me too")
	for _, p := range []*Person{ana, ben} {
		p.Until("the message", func() bool { return slices.Contains(p.said(name), "Cem: me too") })
	}
}

// Owners decide what others may do, and whoever may rename gives the group a picture; all
// see it.
func TestPolicyAndPicture(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben")
	ana, ben := people[0], people[1]
	const name = "Hikers"
	ana.group(node.GroupOptions{Name: name, Members: []string{"Ben"}})
	ben.Until("the group", func() bool { return len(ben.members(name)) == 2 })
	var photo bytes.Buffer
	if err := png.Encode(&photo, image.NewRGBA(image.Rect(0, 0, 500, 400))); err != nil {
		t.Fatal(err)
	}
	raw := photo.Bytes()
	picture := node.GroupChange{Picture: &raw}
	if _, err := ben.ChangeGroup(t.Context(), name, picture); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a member gives a picture: %v", err)
	}
	policy := node.GroupChange{Policy: []node.Policy{{Role: "member", Right: "rename", Allowed: true}}}
	if _, err := ben.ChangeGroup(t.Context(), name, policy); !errors.Is(err, node.ErrNotAllowed) {
		t.Errorf("a member changes the policy: %v", err)
	}
	if _, err := ana.ChangeGroup(t.Context(), name, policy); err != nil {
		t.Fatal(err)
	}
	ben.Until("the right", func() bool {
		g, _ := ben.Group(t.Context(), name)
		return slices.Contains(g.Policy, policy.Policy[0])
	})
	if _, err := ben.ChangeGroup(t.Context(), name, picture); err != nil {
		t.Fatal(err)
	}
	for _, p := range people {
		p.Until("the picture", func() bool {
			g, _ := p.Group(t.Context(), name)
			c, err := jpeg.DecodeConfig(bytes.NewReader(g.Picture))
			return err == nil && c.Width == 128 && c.Height == 128
		})
	}
	none := []byte{}
	if _, err := ana.ChangeGroup(t.Context(), name, node.GroupChange{Picture: &none}); err != nil {
		t.Fatal(err)
	}
	ben.Until("no picture", func() bool { g, err := ben.Group(t.Context(), name); return err == nil && len(g.Picture) == 0 })
}
