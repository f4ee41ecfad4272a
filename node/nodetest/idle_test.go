package nodetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/node"
)

// Ben is not seen for sixty days: Ana's node, who owns the group, removes his device, all
// see why, and Cem, who has renewed his keys, stays. Ben's own node learns it when it is back.
func TestIdleDeviceIsRemoved(t *testing.T) {
	w := New(t)
	r := w.Relay()
	people := circle(t, w, r, "Ana", "Ben", "Cem")
	ana, ben, cem := people[0], people[1], people[2]
	const name = "Hikers"
	ana.group(node.GroupOptions{Name: name, Members: []string{"Ben", "Cem"}})
	for _, p := range people {
		p.Until("three members", func() bool { return len(p.members(name)) == 3 })
	}
	for _, p := range people {
		p.send(name, "see you") // behind the first update of its path: none is read only later
	}
	for _, p := range people {
		p.Until("the messages", func() bool { return len(p.said(name)) == 3 })
	}
	for _, p := range people {
		p.Stop()
	}
	at := func(days int, who ...*Person) {
		for _, p := range who {
			p.Stop()
			p.Clock(func() time.Time { return time.Now().AddDate(0, 0, days) })
			p.Start()
		}
	}
	at(58, ana, cem)
	cem.send(name, "anybody here?") // behind an update of his path
	ana.Until("the message", func() bool { return len(ana.said(name)) == 4 })
	if got := ana.members(name); len(got) != 3 {
		t.Errorf("after 58 days: %q", got)
	}
	at(61, ana, cem)
	want := []string{"Ana owner", "Cem member"}
	for _, p := range []*Person{ana, cem} {
		p.Until("the removal", func() bool { return slices.Equal(p.members(name), want) })
		p.Until("a word", func() bool {
			return slices.ContainsFunc(p.Texts(name), func(s string) bool { return strings.Contains(s, "a device of Ben that had not been seen for long") })
		})
	}
	ben.Start()
	ben.Until("the end", func() bool { return ben.stateIn(name) == node.StateLeft })
	ana.send(name, "just us")
	cem.Until("the message", func() bool { return len(cem.said(name)) == 5 })
}
