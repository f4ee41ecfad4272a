package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/crypto/handshake"
	"sotto/crypto/key"
	"sotto/node"
	"sotto/node/api"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/server"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

// What is wrong with an invite is told apart in words and by the exit code, and no
// contact comes of it.
func TestInvitesThatAreRefused(t *testing.T) {
	x := newThree(t)
	good, _ := x.invite("Ana", "")
	body := good[len("sotto:i#"):]
	expired, err := handshake.ParseLink(good)
	if err != nil {
		t.Fatal(err)
	}
	expired.Expires = uint32(mailbox.MinuteOf(time.Now())) - 1
	other := "A"
	if body[40] == 'A' {
		other = "B"
	}
	revoked, id := x.invite("Ana", "")
	if _, log, exit := x.sotto("Ana", "contact", "revoke", id[:6]); exit != 0 {
		t.Fatal(log)
	}
	stolen, id := x.invite("Ana", "Ben")
	steal(t, x.address, stolen)

	for _, c := range []struct {
		name, who, link string
		exit            int
		words           string
	}{
		{"another text", "Ben", "https://example.org/", 2, "this is not a Sotto link"},
		{"a part is missing", "Ben", "sotto:i#" + body[:len(body)-7], 2, "the link is damaged"},
		{"a letter is another", "Ben", "sotto:i#" + body[:40] + other + body[41:], 2, "the link is damaged"},
		{"it links a device", "Ben", "sotto:d#" + body, 2, "never open one that somebody else gave you"},
		{"one's own", "Ana", good, 2, "this is your own invite"},
		{"expired", "Ben", expired.Text(), 5, "the link has expired; ask for a new one"},
		{"revoked", "Ben", revoked, 5, "the invite was revoked by who made it"},
		{"taken by a thief", "Ben", stolen, 5, "the invite has been used by somebody else; if that was not you, tell who gave it to you"},
	} {
		_, log, exit := x.sotto(c.who, "contact", "accept", c.link, "--wait", "1m")
		if exit != c.exit || !strings.Contains(log, c.words) {
			t.Errorf("%s: exit %d, want %d and %q: %s", c.name, exit, c.exit, c.words, log)
		}
	}
	for _, name := range []string{"Ana", "Ben"} {
		if got := x.contacts(name); len(got) > 0 {
			t.Errorf("%s has contacts: %q", name, got)
		}
	}
	// The inviter is told of the thief, who has not answered.
	if out, log, _ := x.sotto("Ana", "contact", "invites"); !strings.Contains(out, id[:12]) || strings.Count(out, "by somebody who has not answered yet") != 1 {
		t.Errorf("the inviter is told: %s%s", out, log)
	}
}

// Of two who open one invite the first becomes the contact. The other is refused, and
// the inviter sees who it is.
func TestInviteUsedTwice(t *testing.T) {
	x := newThree(t)
	x.newPerson("Eve")
	link, _ := x.invite("Ana", "Ben")
	if _, log, exit := x.sotto("Eve", "contact", "accept", link, "--name", "Ana", "--wait", "1m"); exit != 0 {
		t.Fatal(log)
	}
	for _, c := range []struct {
		who   string
		exit  int
		words string
	}{
		{"Ben", 5, "the invite has been used by somebody else"},
		{"Ben", 1, "this invite was opened here before"},
		{"Eve", 1, "this invite was opened here before"},
	} {
		if _, log, exit := x.sotto(c.who, "contact", "accept", link, "--wait", "1m"); exit != c.exit || !strings.Contains(log, c.words) {
			t.Errorf("%s: exit %d, want %d and %q: %s", c.who, exit, c.exit, c.words, log)
		}
	}
	x.established("Ana", "Ben")
	if out, _, _ := x.sotto("Ana", "contact", "list"); !strings.Contains(out, "calls themselves Eve") {
		t.Errorf("the inviter is told: %s", out)
	}
	x.oneOf("Ana", "Ben", "Eve")
}

// A relay that is away, and another in its place, are told of; when the true one is
// back the invite meets one of the two who have waited.
func TestInviteWhileItsRelayIsAway(t *testing.T) {
	x := newThree(t)
	x.newPerson("Zoe")
	link, _ := x.invite("Ana", "somebody")
	x.relay.kill()
	_, log, exit := x.sotto("Ben", "contact", "accept", link, "--name", "Ana", "--wait", "2s")
	if exit != 7 || !strings.Contains(log, "the relay cannot be reached; it is tried again") || !strings.Contains(log, "next:  it goes on by itself") {
		t.Errorf("exit %d, want 7: %s", exit, log)
	}

	listen, _, _ := strings.Cut(x.address, "/p2p/")
	wrong, err := server.Start(filepath.Join(t.TempDir(), "wrong"), server.Options{Listen: []string{listen}, Small: true})
	if err != nil {
		t.Fatal(err)
	}
	_, log, exit = x.sotto("Zoe", "contact", "accept", link, "--name", "Ana", "--wait", "2s")
	if exit != 6 || !strings.Contains(log, "another relay answers at the address that the invite names; it is tried again") {
		t.Errorf("exit %d, want 6: %s", exit, log)
	}
	if err := wrong.Close(); err != nil {
		t.Fatal(err)
	}

	x.startRelay()
	x.established("Ana", "somebody")
	x.oneOf("Ana", "Ben", "Zoe")
}

// What a relay has put into the slot of an invite makes no contact.
func TestOfferThatWasChanged(t *testing.T) {
	x := newThree(t)
	hostile, err := server.Start(filepath.Join(t.TempDir(), "hostile"), server.Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Small: true,
		Watch: func(s server.Store) server.Store { return changes{s} }})
	if err != nil {
		t.Fatal(err)
	}
	defer hostile.Close()
	x.address = hostile.Address().String()
	x.newPerson("Mel")
	link, _ := x.invite("Mel", "Ben")
	_, log, exit := x.sotto("Ben", "contact", "accept", link, "--name", "Mel", "--wait", "1m")
	if exit != 6 || !strings.Contains(log, "the invite's offer does not hold") || !strings.Contains(log, "no contact is made") {
		t.Errorf("exit %d, want 6: %s", exit, log)
	}
	for _, name := range []string{"Mel", "Ben"} {
		if got := x.contacts(name); len(got) > 0 {
			t.Errorf("%s has contacts: %q", name, got)
		}
	}
}

// changes changes a bit of what is taken from slots.
type changes struct{ server.Store }

func (c changes) TakeSlot(ctx context.Context, id mailbox.SlotID, tag mailbox.Tag) (mailbox.Slot, error) {
	s, err := c.Store.TakeSlot(ctx, id, tag)
	if err == nil {
		s.Value = slices.Clone(s.Value)
		s.Value[len(s.Value)/2] ^= 1
	}
	return s, err
}

// A relay that asks for a ticket says so, and takes one.
func TestRelayThatAsksForATicket(t *testing.T) {
	x := newThree(t)
	closed, err := server.Start(filepath.Join(t.TempDir(), "closed"), server.Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Small: true, NeedTicket: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	x.address = closed.Address().String()
	x.newPerson("Tom")
	link, log, exit := x.sotto("Tom", "contact", "invite", "--name", "Ben")
	if exit != 0 || !strings.Contains(log, "It does not work yet: the relay lets only those make mailboxes who have a ticket") {
		t.Errorf("an invite without a ticket: exit %d: %s", exit, log)
	}
	if out, _, _ := x.sotto("Tom", "status"); !strings.Contains(out, "sotto config set ticket TICKET") {
		t.Errorf("status without a ticket: %s", out)
	}
	if _, log, exit := x.sotto("Tom", "config", "set", "ticket", "!"); exit != 2 || !strings.Contains(log, "not a ticket") {
		t.Errorf("what is no ticket: exit %d: %s", exit, log)
	}
	ticket := base64.RawURLEncoding.EncodeToString(closed.Ticket(time.Hour))
	if _, log, exit := x.sotto("Tom", "config", "set", "ticket", ticket); exit != 0 {
		t.Fatal(log)
	}
	if _, log, exit := x.sotto("Ben", "contact", "accept", strings.TrimSpace(link), "--name", "Tom", "--wait", "1m"); exit != 0 {
		t.Fatalf("with a ticket: exit %d: %s", exit, log)
	}
	if out, _, _ := x.sotto("Tom", "status"); strings.Contains(out, "problem") {
		t.Errorf("status with a ticket: %s", out)
	}
}

func (x *three) invite(name, other string) (link, id string) {
	x.t.Helper()
	inv, err := x.clients[name].Invite(context.Background(), node.InviteOptions{Name: other, Expires: time.Hour})
	if err != nil {
		x.t.Fatal(err)
	}
	return inv.Link, inv.ID
}

func (x *three) established(name, other string) {
	x.t.Helper()
	x.until(name, "the contact", func(c *api.Client) bool {
		one, err := c.Contact(context.Background(), other)
		return err == nil && one.State == node.ContactEstablished
	})
}

// oneOf checks that of two who have opened somebody's one invite one is a contact and
// the other nobody.
func (x *three) oneOf(inviter, a, b string) {
	x.t.Helper()
	for _, name := range []string{a, b} {
		x.until(name, "an end", func(c *api.Client) bool {
			all, err := c.Contacts(context.Background())
			return err == nil && !slices.ContainsFunc(all, func(k node.Contact) bool { return k.State == node.ContactPending })
		})
	}
	ca, cb := x.contacts(a), x.contacts(b)
	if len(ca)+len(cb) != 1 {
		x.t.Errorf("%s has contacts %q and %s has %q", a, ca, b, cb)
	}
	cs, err := x.clients[inviter].Conversations(context.Background())
	if got := x.contacts(inviter); len(got) != 1 || len(cs) != 1 || err != nil {
		x.t.Errorf("%s has contacts %q and %d conversations, %v", inviter, got, len(cs), err)
	}
}

// contacts returns the names of somebody's contacts but for those that came to nothing.
func (x *three) contacts(name string) (out []string) {
	x.t.Helper()
	all, err := x.clients[name].Contacts(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	for _, c := range all {
		if c.State != node.ContactFailed {
			out = append(out, c.Name)
		}
	}
	return out
}

// steal takes what a link's slot holds, as who has seen the link can.
func steal(t *testing.T, address, link string) {
	t.Helper()
	at, err := wire.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := handshake.ParseLink(link)
	if err != nil {
		t.Fatal(err)
	}
	d, err := transport.NewDialer()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := client.New(client.Config{Relay: at.Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return d.Dial(ctx, at) }})
	defer c.Close()
	var tag mailbox.Tag
	rand.Read(tag[:])
	if _, err := c.TakeSlot(context.Background(), l.Secret.SlotRead(), tag); err != nil {
		t.Fatal(err)
	}
}
