package server_test

import (
	"fmt"
	"testing"

	"sotto/relay/access"
	"sotto/relay/client"
	"sotto/relay/mailbox"
)

// Commits outlive messages, so that a mailbox can be made to hold more spans than a
// page may name.
func TestMoreSpansThanAPageHolds(t *testing.T) {
	r := newRelay(t, access.Policy{})
	c := r.client()
	k := create(t, c)
	const n = 700
	var fence mailbox.Mark
	for i := range n {
		k.put(t, c, 0, fmt.Sprint("message ", i))
		d := mailbox.Deposit{Mailbox: k.id, Kind: mailbox.Commit, Expect: fence, Payload: []byte(fmt.Sprint("commit ", i))}
		rc, err := c.Append(t.Context(), k.append[0], d)
		if err != nil {
			t.Fatal(err)
		}
		fence = rc.Head.Head.Mark()
	}
	r.clock.Advance(31 * 24 * 60)
	commits, lost := 0, 0
	for at := client.Start(k.id); ; {
		p, err := c.Read(t.Context(), k.read[0], k.id, 0, at, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range p.Items {
			if it.Entry != nil {
				commits++
			} else {
				lost++
			}
		}
		if at = p.End; !p.More {
			break
		}
	}
	if commits != n || lost != n {
		t.Errorf("read %d commits and %d spans, want %d of each", commits, lost, n)
	}
}
