// Package apitest has a node that does what it is told, for tests of what is built
// on the local API: the server and client themselves, the command line, bots.
package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/setting"
	"sotto/storage/search"
)

// Node is an [api.Node] in memory, without relay or vault. Its clock is still: each
// event is one second after the one before.
type Node struct {
	down chan struct{} // closed by Shutdown

	mu       sync.Mutex // guards the following fields
	status   node.Status
	contacts []node.Contact
	messages map[string][]node.Message // by conversation
	groups   []node.Group
	links    []node.GroupLink
	joinings []node.Joining
	answered bool // the one request to be let into a group
	invites  []node.Invite
	versions map[string][]node.MessageVersion // by message
	later    []node.Scheduled
	notes    map[string]*noted    // by conversation
	set      map[[2]string]string // by conversation and key
	tokens   []node.Token
	once     map[[2]string]node.Message // by conversation and key
	events   []node.Event
	devices  []node.Device
	link     *node.DeviceLink
	fail     map[string]error
	news     chan struct{} // closed and replaced with each event
	stopped  bool
	next     uint64
}

// Start is when an [Node]'s time begins.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// New returns a node of an account with that profile name.
func New(name string) *Node {
	n := &Node{
		down: make(chan struct{}), news: make(chan struct{}), messages: map[string][]node.Message{}, versions: map[string][]node.MessageVersion{}, notes: map[string]*noted{}, fail: map[string]error{},
		set: map[[2]string]string{}, once: map[[2]string]node.Message{},
	}
	n.status = node.Status{
		Version: "test", Name: name, Account: n.id("account", name), Device: n.id("device", name)[:32], Started: Start,
		Relays:   []node.RelayStatus{{Address: "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWtest", State: "connected", Words: "connected", Own: true}},
		FreeDisk: 1 << 30,
	}
	return n
}

// Fail makes the method of that name return err until it is told otherwise with nil.
func (n *Node) Fail(method string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail[method] = err
}

// AddContact adds an established contact with a conversation.
func (n *Node) AddContact(name string) node.Contact {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := node.Contact{ID: n.id("account", name), Name: name, State: node.ContactEstablished, Conversation: n.id("conversation", name), Since: n.nowLocked()}
	n.contacts = append(n.contacts, c)
	n.tellLocked(node.Event{Type: node.EventContact, Contact: &c})
	return c
}

// SetContact changes the state of a contact, as the handshake does.
func (n *Node) SetContact(ref, state, reason string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return err
	}
	c.State, c.Reason = state, reason
	n.tellLocked(node.Event{Type: node.EventContact, Contact: ptr(*c)})
	return nil
}

// Receive adds a message from a contact.
func (n *Node) Receive(ref, text string) (node.Message, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return node.Message{}, err
	}
	return n.addLocked(c, node.Message{Sender: c.Name, State: node.MessageReceived, Text: text}), nil
}

// SetMessage changes the state of a message that was sent, as a relay's answer does.
func (n *Node) SetMessage(id, state, reason string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, list := range n.messages {
		for i := range list {
			if m := &list[i]; m.ID == id {
				m.State, m.Reason = state, reason
				n.tellLocked(node.Event{Type: node.EventMessage, Message: ptr(*m)})
			}
		}
	}
}

// Notice adds a notice.
func (n *Node) Notice(words string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellLocked(node.Event{Type: node.EventNotice, Notice: words})
}

// Down returns a channel that is closed once the node was asked to stop.
func (n *Node) Down() <-chan struct{} { return n.down }

// id makes up an id that is the same in each run.
func (n *Node) id(kind, name string) string {
	sum := sha256.Sum256([]byte(kind + "/" + name))
	return hex.EncodeToString(sum[:])
}

func (n *Node) nowLocked() time.Time { return Start.Add(time.Duration(len(n.events)) * time.Second) }

func (n *Node) tellLocked(e node.Event) {
	e.Time = n.nowLocked()
	e.Seq = uint64(len(n.events) + 1)
	n.events = append(n.events, e)
	close(n.news)
	n.news = make(chan struct{})
}

func (n *Node) addLocked(c *node.Contact, m node.Message) node.Message {
	n.next++
	m.ID = n.id("message", fmt.Sprint(n.next))
	m.Conversation, m.Seq, m.Sent = c.Conversation, n.next, n.nowLocked()
	if m.Kind == "" {
		m.Kind = "text"
	}
	n.messages[c.Conversation] = append(n.messages[c.Conversation], m)
	n.tellLocked(node.Event{Type: node.EventMessage, Message: &m})
	return m
}

func ptr[T any](v T) *T { return &v }

// begin starts a method: it returns with mu held, or with the error that was asked
// for.
func (n *Node) begin(method string) error {
	n.mu.Lock()
	if err := n.fail[method]; err != nil {
		n.mu.Unlock()
		return err
	}
	return nil
}

func (n *Node) contactLocked(ref string) (found *node.Contact, err error) {
	for i := range n.contacts {
		switch c := &n.contacts[i]; {
		case ref == c.Name || ref == c.ID || ref == c.Conversation:
			return c, nil
		case ref != "" && (strings.HasPrefix(c.ID, ref) || strings.HasPrefix(c.Conversation, ref)):
			if found != nil {
				return nil, fmt.Errorf("%q: %w", ref, node.ErrAmbiguous)
			}
			found = c
		}
	}
	if found == nil {
		return nil, fmt.Errorf("contact %q: %w", ref, node.ErrNotFound)
	}
	return found, nil
}

// Status implements [api.Node], as do all methods below.
func (n *Node) Status(context.Context) (node.Status, error) {
	if err := n.begin("Status"); err != nil {
		return node.Status{}, err
	}
	defer n.mu.Unlock()
	s := n.status
	s.Contacts = len(n.contacts)
	for _, c := range n.contacts {
		if c.State == node.ContactPending {
			s.Pending++
		}
	}
	for _, list := range n.messages {
		for _, m := range list {
			if m.State == node.MessageQueued {
				s.Queued++
			}
		}
	}
	return s, nil
}

func (n *Node) Invite(_ context.Context, o api.InviteOptions) (node.Invite, error) {
	if err := n.begin("Invite"); err != nil {
		return node.Invite{}, err
	}
	defer n.mu.Unlock()
	n.next++
	if o.Expires == 0 {
		o.Expires = 24 * time.Hour
	}
	i := node.Invite{
		ID: n.id("invite", fmt.Sprint(n.next))[:16], Link: fmt.Sprintf("sotto:i#link%d", n.next), Expires: Start.Add(o.Expires),
		Reach: "machine", Words: "only programs on this machine can reach your relay",
	}
	kept := i
	kept.Link = ""
	n.invites = append(n.invites, kept)
	return i, nil
}

func (n *Node) Invites(context.Context) ([]node.Invite, error) {
	if err := n.begin("Invites"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return slices.Clone(n.invites), nil
}

func (n *Node) RevokeInvite(_ context.Context, id string) error {
	if err := n.begin("RevokeInvite"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	for i, in := range n.invites {
		if in.ID == id {
			n.invites = slices.Delete(n.invites, i, i+1)
			return nil
		}
	}
	return fmt.Errorf("invite %q: %w", id, node.ErrNotFound)
}

func (n *Node) Accept(_ context.Context, link, name string) (node.Contact, error) {
	if err := n.begin("Accept"); err != nil {
		return node.Contact{}, err
	}
	defer n.mu.Unlock()
	if !strings.HasPrefix(link, "sotto:i#") {
		return node.Contact{}, fmt.Errorf("link: %w: it does not begin with sotto:i#", node.ErrInvalid)
	}
	if name == "" {
		name = "somebody"
	}
	if _, err := n.contactLocked(name); err == nil {
		return node.Contact{}, fmt.Errorf("contact %q %w", name, node.ErrExists)
	}
	c := node.Contact{ID: n.id("account", name), Name: name, State: node.ContactPending, Reason: "waits for their node", Conversation: n.id("conversation", name), Since: n.nowLocked()}
	n.contacts = append(n.contacts, c)
	n.tellLocked(node.Event{Type: node.EventContact, Contact: &c})
	return c, nil
}

func (n *Node) Contacts(context.Context) ([]node.Contact, error) {
	if err := n.begin("Contacts"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return slices.Clone(n.contacts), nil
}

// change does something with a contact and tells of it if it says so.
func (n *Node) change(method, ref string, f func(*node.Contact) (tell bool, err error)) (node.Contact, error) {
	if err := n.begin(method); err != nil {
		return node.Contact{}, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return node.Contact{}, err
	}
	tell, err := f(c)
	if err != nil {
		return node.Contact{}, err
	}
	if tell {
		n.tellLocked(node.Event{Type: node.EventContact, Contact: ptr(*c)})
	}
	return *c, nil
}

func (n *Node) Contact(_ context.Context, ref string) (node.Contact, error) {
	return n.change("Contact", ref, func(*node.Contact) (bool, error) { return false, nil })
}

func (n *Node) Rename(_ context.Context, ref, name string) (node.Contact, error) {
	return n.change("Rename", ref, func(c *node.Contact) (bool, error) {
		if name == "" {
			return false, fmt.Errorf("an empty name is %w", node.ErrInvalid)
		}
		c.Name = name
		return true, nil
	})
}

func (n *Node) Block(_ context.Context, ref string, blocked bool) (node.Contact, error) {
	return n.change("Block", ref, func(c *node.Contact) (bool, error) {
		c.Blocked = blocked
		return true, nil
	})
}

// Decide forgets who is declined.
func (n *Node) Decide(_ context.Context, ref string, accept bool) (node.Contact, error) {
	c, err := n.change("Decide", ref, func(c *node.Contact) (bool, error) {
		if c.State != node.ContactRequested {
			return false, fmt.Errorf("%s asks for nothing: %w", c.Name, node.ErrInvalid)
		}
		c.State = node.ContactFailed
		if accept {
			c.State = node.ContactPending
		}
		return true, nil
	})
	if err == nil && !accept {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.contacts = slices.DeleteFunc(n.contacts, func(o node.Contact) bool { return o.ID == c.ID })
	}
	return c, err
}

// Number returns the safety number of an account id.
func Number(id string) string {
	var b strings.Builder
	sum := sha256.Sum256([]byte(id))
	for i := range 12 {
		fmt.Fprintf(&b, "%05d", binary.BigEndian.Uint16(sum[2*i:]))
	}
	return b.String()
}

func (n *Node) safetyNumber(c node.Contact) node.SafetyNumber {
	return node.SafetyNumber{Contact: c.ID, Name: c.Name, Number: Number(c.ID), Code: "sotto:v#" + c.ID, Verified: c.Verified, Changed: c.Changed}
}

func (n *Node) SafetyNumber(ctx context.Context, ref string) (node.SafetyNumber, error) {
	c, err := n.change("SafetyNumber", ref, func(*node.Contact) (bool, error) { return false, nil })
	return n.safetyNumber(c), err
}

func (n *Node) SetVerified(ctx context.Context, ref, number string) (node.SafetyNumber, error) {
	c, err := n.change("SetVerified", ref, func(c *node.Contact) (bool, error) {
		if number != Number(c.ID) && number != "sotto:v#"+c.ID {
			return false, fmt.Errorf("the safety number of %q is another: %w", c.Name, node.ErrNotTrusted)
		}
		c.Verified, c.Changed = true, false
		return true, nil
	})
	return n.safetyNumber(c), err
}

func (n *Node) Unverify(ctx context.Context, ref string) (node.SafetyNumber, error) {
	c, err := n.change("Unverify", ref, func(c *node.Contact) (bool, error) {
		c.Verified, c.Changed = false, false
		return true, nil
	})
	return n.safetyNumber(c), err
}

func (n *Node) Report(_ context.Context, ref string, messages []string, reason string) (node.Report, error) {
	_, err := n.change("Report", ref, func(*node.Contact) (bool, error) { return false, nil })
	return node.Report{Messages: len(messages), Data: []byte("a report: " + reason)}, err
}

func (n *Node) Evidence(_ context.Context, ref string) ([]node.Evidence, error) {
	_, err := n.change("Evidence", ref, func(*node.Contact) (bool, error) { return false, nil })
	return []node.Evidence{}, err
}

func (n *Node) conversationLocked(c *node.Contact) node.Conversation {
	list := n.messages[c.Conversation]
	conv := node.Conversation{
		ID: c.Conversation, Kind: node.KindDirect, Contact: c.ID, Name: c.Name, State: "open", Relay: n.status.Relays[0].Address,
		Complete: true, Messages: len(list), Since: c.Since,
	}
	switch {
	case c.Blocked:
		conv.State = "blocked"
	case c.State == node.ContactPending:
		conv.State, conv.Complete = "pending", false
	}
	for _, m := range list {
		if m.State == node.MessageQueued {
			conv.Queued++
		}
	}
	if len(list) > 0 {
		conv.Last = ptr(list[len(list)-1])
	}
	n.fillLocked(&conv)
	return conv
}

func (n *Node) Conversations(context.Context) (all []node.Conversation, err error) {
	if err := n.begin("Conversations"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	for i := range n.contacts {
		all = append(all, n.conversationLocked(&n.contacts[i]))
	}
	for _, g := range n.groups {
		all = append(all, g.Conversation)
	}
	return all, nil
}

func (n *Node) Conversation(_ context.Context, ref string) (node.Conversation, error) {
	if err := n.begin("Conversation"); err != nil {
		return node.Conversation{}, err
	}
	defer n.mu.Unlock()
	if g, err := n.groupLocked(ref); err == nil {
		return g.Conversation, nil
	}
	c, err := n.contactLocked(ref)
	if err != nil {
		return node.Conversation{}, err
	}
	return n.conversationLocked(c), nil
}

func (n *Node) Messages(_ context.Context, ref, before, after string, limit int) ([]node.Message, error) {
	if err := n.begin("Messages"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return nil, err
	}
	list := n.messages[c.Conversation]
	find := func(id string) (int, error) {
		i := slices.IndexFunc(list, func(m node.Message) bool { return m.ID == id })
		if i < 0 {
			return 0, fmt.Errorf("message %q: %w", id, node.ErrNotFound)
		}
		return i, nil
	}
	switch {
	case before != "":
		i, err := find(before)
		if err != nil {
			return nil, err
		}
		list = list[max(0, i-limit):i]
	case after != "":
		i, err := find(after)
		if err != nil {
			return nil, err
		}
		list = list[i+1:]
		list = list[:min(limit, len(list))]
	default:
		list = list[max(0, len(list)-limit):]
	}
	return slices.Clone(list), nil
}

func (n *Node) Around(_ context.Context, ref, id string, limit int) ([]node.Message, error) {
	if err := n.begin("Around"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return nil, err
	}
	list := n.messages[c.Conversation]
	i := slices.IndexFunc(list, func(m node.Message) bool { return m.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("message %q: %w", id, node.ErrNotFound)
	}
	from := max(0, i-(limit-1)/2)
	return slices.Clone(list[from:min(len(list), from+limit)]), nil
}

// Search finds what the query matches by a look at every text.
func (n *Node) Search(_ context.Context, query, in, cursor string, limit int) (node.SearchPage, error) {
	out := node.SearchPage{Hits: []node.Hit{}}
	q, err := search.Parse(query, time.UTC)
	if err != nil {
		return out, fmt.Errorf("%w: %w", node.ErrInvalid, err)
	}
	if err := n.begin("Search"); err != nil {
		return out, err
	}
	defer n.mu.Unlock()
	only := ""
	if in != "" {
		c, err := n.contactLocked(in)
		if err != nil {
			return out, err
		}
		only = c.Conversation
	}
	var all []node.Hit
	for id, list := range n.messages {
		for _, m := range list {
			if (only == "" || only == id) && q.Within(m.Sent) && q.Match(m.Text) {
				all = append(all, node.Hit{Message: m, Highlights: q.Highlights(m.Text)})
			}
		}
	}
	slices.SortFunc(all, func(a, b node.Hit) int { return b.Message.Sent.Compare(a.Message.Sent) })
	from, _ := strconv.Atoi(cursor)
	from = min(from, len(all))
	end := min(from+limit, len(all))
	if out.Hits = append(out.Hits, all[from:end]...); end < len(all) {
		out.Next = strconv.Itoa(end)
	}
	return out, nil
}

func (n *Node) CreateGroup(_ context.Context, o node.GroupOptions) (node.Conversation, error) {
	if err := n.begin("CreateGroup"); err != nil {
		return node.Conversation{}, err
	}
	defer n.mu.Unlock()
	if o.Name == "" {
		return node.Conversation{}, fmt.Errorf("an empty name is %w", node.ErrInvalid)
	}
	g := node.Group{
		Conversation: node.Conversation{ID: n.id("group", o.Name), Kind: node.KindGroup, Name: o.Name, State: node.StateOpen, Complete: true, Since: n.nowLocked()},
		Description:  o.Description, Members: []node.GroupMember{{Account: n.status.Account, Name: n.status.Name, Role: "owner", You: true, Devices: 1}},
	}
	if err := n.addMembersLocked(&g, o.Members); err != nil {
		return node.Conversation{}, err
	}
	n.groups = append(n.groups, g)
	n.tellLocked(node.Event{Type: node.EventConversation, Conversation: &g.Conversation})
	return g.Conversation, nil
}

func (n *Node) addMembersLocked(g *node.Group, refs []string) error {
	for _, ref := range refs {
		c, err := n.contactLocked(ref)
		if err != nil {
			return err
		}
		g.Members = append(g.Members, node.GroupMember{Account: c.ID, Name: c.Name, Role: "member", Devices: 1})
	}
	return nil
}

func (n *Node) groupLocked(ref string) (*node.Group, error) {
	for i := range n.groups {
		if g := &n.groups[i]; g.Name == ref || g.ID == ref {
			return g, nil
		}
	}
	return nil, fmt.Errorf("group %q: %w", ref, node.ErrNotFound)
}

func (n *Node) Group(_ context.Context, ref string) (node.Group, error) {
	if err := n.begin("Group"); err != nil {
		return node.Group{}, err
	}
	defer n.mu.Unlock()
	g, err := n.groupLocked(ref)
	if err != nil {
		return node.Group{}, err
	}
	return *g, nil
}

// ChangeGroup makes a change at once.
func (n *Node) ChangeGroup(_ context.Context, ref string, c node.GroupChange) (node.Group, error) {
	if err := n.begin("ChangeGroup"); err != nil {
		return node.Group{}, err
	}
	defer n.mu.Unlock()
	g, err := n.groupLocked(ref)
	if err != nil {
		return node.Group{}, err
	}
	member := func(ref string) (int, error) {
		i := slices.IndexFunc(g.Members, func(m node.GroupMember) bool { return m.Name == ref })
		if i < 0 {
			return 0, fmt.Errorf("member %q: %w", ref, node.ErrNotFound)
		}
		return i, nil
	}
	for _, ref := range c.Remove {
		i, err := member(ref)
		if err != nil {
			return node.Group{}, err
		}
		g.Members = slices.Delete(slices.Clone(g.Members), i, i+1)
	}
	for _, r := range c.Roles {
		i, err := member(r.Member)
		if err != nil {
			return node.Group{}, err
		}
		g.Members = slices.Clone(g.Members)
		g.Members[i].Role = r.Role
	}
	if err := n.addMembersLocked(g, c.Add); err != nil {
		return node.Group{}, err
	}
	if c.Name != nil {
		g.Name = *c.Name
	}
	if c.Description != nil {
		g.Description = *c.Description
	}
	if c.Announce != nil {
		g.Announce = *c.Announce
	}
	if c.Picture != nil {
		g.Picture = *c.Picture
	}
	for _, p := range c.Policy {
		g.Policy = slices.DeleteFunc(slices.Clone(g.Policy), func(old node.Policy) bool { return old.Role == p.Role && old.Right == p.Right })
		g.Policy = append(g.Policy, p)
	}
	n.tellLocked(node.Event{Type: node.EventConversation, Conversation: ptr(g.Conversation)})
	return *g, nil
}

func (n *Node) LeaveGroup(_ context.Context, ref string) error {
	if err := n.begin("LeaveGroup"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	g, err := n.groupLocked(ref)
	if err != nil {
		return err
	}
	g.State, g.Members = node.StateLeft, nil
	return nil
}

func (n *Node) LastEvent(context.Context) (uint64, error) {
	if err := n.begin("LastEvent"); err != nil {
		return 0, err
	}
	defer n.mu.Unlock()
	return uint64(len(n.events)), nil
}

func (n *Node) Events(ctx context.Context, after uint64) iter.Seq2[node.Event, error] {
	return func(yield func(node.Event, error) bool) {
		for {
			if err := n.begin("Events"); err != nil {
				yield(node.Event{}, err)
				return
			}
			var more []node.Event
			if after < uint64(len(n.events)) {
				more = slices.Clone(n.events[after:])
			}
			news := n.news
			n.mu.Unlock()
			for _, e := range more {
				if !yield(e, nil) {
					return
				}
				after = e.Seq
			}
			if len(more) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-news:
			}
		}
	}
}

// chatLocked returns the id of a conversation, or "".
func (n *Node) chatLocked(chat string) (string, error) {
	if chat == "" {
		return "", nil
	}
	if g, err := n.groupLocked(chat); err == nil {
		return g.ID, nil
	}
	c, err := n.contactLocked(chat)
	if err != nil {
		return "", err
	}
	return c.Conversation, nil
}

func (n *Node) settingLocked(chat string, d setting.Definition) api.Setting {
	s := api.Setting{Definition: d, Value: d.Default, From: node.FromDefault, Conversation: chat}
	if v, ok := n.set[[2]string{"", d.Key}]; ok {
		s.Value, s.From = v, node.FromUser
	}
	if v, ok := n.set[[2]string{chat, d.Key}]; ok && chat != "" {
		s.Value, s.From = v, node.FromConversation
	}
	return s
}

func (n *Node) Config(_ context.Context, chat string) ([]api.Setting, error) {
	if err := n.begin("Config"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	chat, err := n.chatLocked(chat)
	if err != nil {
		return nil, err
	}
	var all []api.Setting
	for _, d := range setting.All() {
		if chat == "" || d.PerChat {
			all = append(all, n.settingLocked(chat, d))
		}
	}
	return all, nil
}

func (n *Node) SetConfig(_ context.Context, chat, key, value string) (api.Setting, error) {
	return n.changeSetting("SetConfig", chat, key, func(at [2]string, d setting.Definition) error {
		parsed, err := d.Parse(value)
		if err == nil {
			n.set[at] = parsed
		}
		return err
	})
}

func (n *Node) UnsetConfig(_ context.Context, chat, key string) (api.Setting, error) {
	return n.changeSetting("UnsetConfig", chat, key, func(at [2]string, _ setting.Definition) error {
		delete(n.set, at)
		return nil
	})
}

func (n *Node) changeSetting(method, chat, key string, change func(at [2]string, d setting.Definition) error) (api.Setting, error) {
	if err := n.begin(method); err != nil {
		return api.Setting{}, err
	}
	defer n.mu.Unlock()
	chat, err := n.chatLocked(chat)
	if err != nil {
		return api.Setting{}, err
	}
	d, err := setting.Lookup(key)
	if err == nil && chat != "" && !d.PerChat {
		err = fmt.Errorf("%s cannot be set for one conversation", key)
	}
	if err == nil {
		err = change([2]string{chat, key}, d)
	}
	if err != nil {
		return api.Setting{}, fmt.Errorf("%w: %w", node.ErrInvalid, err)
	}
	s := n.settingLocked(chat, d)
	n.tellLocked(node.Event{Type: node.EventSetting, Setting: &s})
	return s, nil
}

func (n *Node) CreateToken(_ context.Context, o node.TokenOptions) (node.Token, error) {
	if err := n.begin("CreateToken"); err != nil {
		return node.Token{}, err
	}
	defer n.mu.Unlock()
	if !o.Read && !o.Post {
		return node.Token{}, fmt.Errorf("a token for nothing is %w", node.ErrInvalid)
	}
	n.next++
	t := node.Token{ID: n.id("token", fmt.Sprint(n.next))[:16], Name: o.Name, Secret: fmt.Sprintf("sotto-token-%d", n.next), Read: o.Read, Post: o.Post, Created: n.nowLocked()}
	if o.Expires > 0 {
		t.Expires = time.Now().Add(o.Expires) // it ends streams, by the clock on the wall
	}
	for _, ref := range o.Chats {
		id, err := n.chatLocked(ref)
		if err != nil {
			return node.Token{}, err
		}
		t.Chats = append(t.Chats, node.TokenChat{ID: id, Name: ref})
	}
	n.tokens = append(n.tokens, t)
	kept := t
	kept.Secret = ""
	n.tellLocked(node.Event{Type: node.EventToken, Token: &kept})
	return t, nil
}

func (n *Node) Tokens(context.Context) ([]node.Token, error) {
	if err := n.begin("Tokens"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	all := slices.Clone(n.tokens)
	for i := range all {
		all[i].Secret = ""
	}
	return all, nil
}

func (n *Node) RevokeToken(_ context.Context, ref string) error {
	if err := n.begin("RevokeToken"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.tokens, func(t node.Token) bool { return t.Name == ref || t.ID == ref })
	if i < 0 {
		return fmt.Errorf("token %q: %w", ref, node.ErrNotFound)
	}
	n.tellLocked(node.Event{Type: node.EventToken, Token: &node.Token{ID: n.tokens[i].ID, Revoked: true}})
	n.tokens = slices.Delete(n.tokens, i, i+1)
	return nil
}

func (n *Node) Bearer(_ context.Context, secret string) (node.Token, error) {
	if err := n.begin("Bearer"); err != nil {
		return node.Token{}, err
	}
	defer n.mu.Unlock()
	for i := range n.tokens {
		if t := &n.tokens[i]; t.Secret == secret && (t.Expires.IsZero() || time.Now().Before(t.Expires)) {
			t.Used = n.nowLocked()
			return *t, nil
		}
	}
	return node.Token{}, fmt.Errorf("token: %w", node.ErrNotFound)
}

func (n *Node) Doctor(context.Context) ([]node.Check, error) {
	if err := n.begin("Doctor"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return []node.Check{{Name: "vault", OK: true, Detail: "opens and reads"}}, nil
}

func (n *Node) Shutdown() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stopped {
		n.stopped = true
		close(n.down)
	}
}

// LinkGroup makes a link that leads nowhere.
func (n *Node) LinkGroup(_ context.Context, ref string, expires time.Duration) (node.GroupLink, error) {
	if err := n.begin("LinkGroup"); err != nil {
		return node.GroupLink{}, err
	}
	defer n.mu.Unlock()
	if _, err := n.groupLocked(ref); err != nil {
		return node.GroupLink{}, err
	}
	l := node.GroupLink{ID: n.id("link", ref), Link: "sotto:g#" + n.id("secret", ref), Expires: n.nowLocked().Add(max(expires, time.Minute))}
	n.links = append(n.links, node.GroupLink{ID: l.ID, Expires: l.Expires})
	return l, nil
}

func (n *Node) GroupLinks(_ context.Context, ref string) ([]node.GroupLink, error) {
	if err := n.begin("GroupLinks"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	_, err := n.groupLocked(ref)
	return n.links, err
}

// GroupRequests returns one request, of somebody called Zoe, until it is answered.
func (n *Node) GroupRequests(_ context.Context, ref string) ([]node.GroupRequest, error) {
	if err := n.begin("GroupRequests"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	if _, err := n.groupLocked(ref); err != nil || n.answered {
		return nil, err
	}
	return []node.GroupRequest{{Account: n.id("account", "Zoe"), Name: "Zoe", Since: n.nowLocked()}}, nil
}

func (n *Node) AnswerRequest(_ context.Context, ref, who string, in bool) error {
	if err := n.begin("AnswerRequest"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	if _, err := n.groupLocked(ref); err != nil {
		return err
	}
	if who != "Zoe" || n.answered {
		return fmt.Errorf("request of %q: %w", who, node.ErrNotFound)
	}
	n.answered = true
	return nil
}

func (n *Node) JoinGroup(_ context.Context, link string) (node.Joining, error) {
	if err := n.begin("JoinGroup"); err != nil {
		return node.Joining{}, err
	}
	defer n.mu.Unlock()
	if !strings.HasPrefix(link, "sotto:g#") {
		return node.Joining{}, fmt.Errorf("this link does not lead to a group: %w", node.ErrInvalid)
	}
	j := node.Joining{ID: n.id("joining", link), State: "opening", Since: n.nowLocked()}
	n.joinings = append(n.joinings, j)
	return j, nil
}

func (n *Node) Joinings(context.Context) ([]node.Joining, error) {
	if err := n.begin("Joinings"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return n.joinings, nil
}
