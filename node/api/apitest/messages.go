package apitest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sotto/node"
)

// Send sends a text.
func (n *Node) Send(ctx context.Context, ref, text string) (node.Message, error) {
	return n.SendMessage(ctx, ref, node.NewMessage{Text: text})
}

func (n *Node) SendMessage(_ context.Context, ref string, m node.NewMessage) (node.Message, error) {
	if err := n.begin("SendMessage"); err != nil {
		return node.Message{}, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return node.Message{}, err
	}
	at := [2]string{c.Conversation, m.Key}
	if was, ok := n.once[at]; ok && m.Key != "" {
		return was, nil
	}
	if m.Forward != nil {
		from, err := n.messageLocked(m.Forward.Conversation, m.Forward.Message)
		if err != nil {
			return node.Message{}, err
		}
		m.Text = from.Text
	}
	out := node.Message{Sender: n.status.Name, Mine: true, State: node.MessageQueued, Text: m.Text, Forwarded: m.Forward != nil, Mentions: m.Mentions}
	if m.Poll != nil {
		out.Kind, out.Text, out.Poll = "poll", m.Poll.Question, &node.Poll{Multiple: m.Poll.Multiple}
		for _, o := range m.Poll.Options {
			out.Poll.Options = append(out.Poll.Options, node.Option{Text: o})
		}
	}
	if m.ReplyTo != "" {
		to, err := n.messageLocked(ref, m.ReplyTo)
		if err != nil {
			return node.Message{}, err
		}
		out.ReplyTo = &node.Quote{ID: to.ID, Sender: to.Sender, Excerpt: to.Text}
	}
	switch {
	case out.Text == "":
		return node.Message{}, fmt.Errorf("an empty text is %w", node.ErrInvalid)
	case len(out.Text) > node.MaxText:
		return node.Message{}, fmt.Errorf("a text of %d bytes is %w: at most %d", len(out.Text), node.ErrTooLarge, node.MaxText)
	case c.Blocked:
		return node.Message{}, fmt.Errorf("send to %q: %w", c.Name, node.ErrBlocked)
	}
	if !m.At.IsZero() {
		n.next++
		n.later = append(n.later, node.Scheduled{ID: n.next, Conversation: c.Conversation, At: m.At, Text: m.Text})
		out.Conversation, out.Sent, out.Kind = c.Conversation, m.At, "text"
		return out, nil
	}
	n.once[at] = n.addLocked(c, out)
	return n.once[at], nil
}

// messageLocked finds a message by the beginning of its id.
func (n *Node) messageLocked(ref, id string) (*node.Message, error) {
	c, err := n.contactLocked(ref)
	if err != nil {
		return nil, err
	}
	all := n.messages[c.Conversation]
	for i := range all {
		if id != "" && strings.HasPrefix(all[i].ID, id) {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("message %q: %w", id, node.ErrNotFound)
}

// onMessage changes a message and tells of it.
func (n *Node) onMessage(method, ref, id string, f func(*node.Message) error) (node.Message, error) {
	if err := n.begin(method); err != nil {
		return node.Message{}, err
	}
	defer n.mu.Unlock()
	m, err := n.messageLocked(ref, id)
	if err != nil {
		return node.Message{}, err
	}
	if err := f(m); err != nil {
		return node.Message{}, err
	}
	n.tellLocked(node.Event{Type: node.EventMessage, Message: ptr(*m)})
	return *m, nil
}

func (n *Node) Message(_ context.Context, ref, id string) (node.MessageDetails, error) {
	if err := n.begin("Message"); err != nil {
		return node.MessageDetails{}, err
	}
	defer n.mu.Unlock()
	m, err := n.messageLocked(ref, id)
	if err != nil {
		return node.MessageDetails{}, err
	}
	return node.MessageDetails{Message: *m, Versions: n.versions[m.ID]}, nil
}

func (n *Node) EditMessage(_ context.Context, ref, id, text string, mentions []node.Mention) (node.Message, error) {
	return n.onMessage("EditMessage", ref, id, func(m *node.Message) error {
		if !m.Mine {
			return fmt.Errorf("edit: %w", node.ErrNotAllowed)
		}
		if len(n.versions[m.ID]) == 0 {
			n.versions[m.ID] = []node.MessageVersion{{ID: m.ID, Sent: m.Sent, Text: m.Text}}
		}
		m.Text, m.Mentions, m.Edited = text, mentions, n.nowLocked()
		n.versions[m.ID] = append(n.versions[m.ID], node.MessageVersion{ID: m.ID, Sent: m.Edited, Text: text})
		return nil
	})
}

func (n *Node) DeleteMessage(_ context.Context, ref, id string, all bool) (node.Message, error) {
	return n.onMessage("DeleteMessage", ref, id, func(m *node.Message) error {
		if all && !m.Mine {
			return fmt.Errorf("delete: %w", node.ErrNotAllowed)
		}
		m.Text, m.Deleted, m.DeletedBy = "", "author", n.status.Name
		if !all {
			m.Kind, m.Deleted, m.DeletedBy = "removed", "", ""
		}
		return nil
	})
}

func (n *Node) React(_ context.Context, ref, id string, reactions []string) (node.Message, error) {
	return n.onMessage("React", ref, id, func(m *node.Message) error {
		m.Reactions = nil
		for _, r := range reactions {
			m.Reactions = append(m.Reactions, node.Reaction{Reaction: r, By: []string{n.status.Name}, Mine: true})
		}
		return nil
	})
}

func (n *Node) Vote(_ context.Context, ref, id string, options []int) (node.Message, error) {
	return n.onMessage("Vote", ref, id, func(m *node.Message) error {
		if m.Poll == nil {
			return fmt.Errorf("no poll: %w", node.ErrInvalid)
		}
		p := *m.Poll
		p.Options, p.Voters = slices.Clone(p.Options), 1
		for i := range p.Options {
			p.Options[i].Votes, p.Options[i].Mine = 0, false
			if slices.Contains(options, i) {
				p.Options[i].Votes, p.Options[i].Mine = 1, true
			}
		}
		m.Poll = &p
		return nil
	})
}

func (n *Node) ClosePoll(_ context.Context, ref, id string) (node.Message, error) {
	return n.onMessage("ClosePoll", ref, id, func(m *node.Message) error {
		if m.Poll == nil {
			return fmt.Errorf("no poll: %w", node.ErrInvalid)
		}
		p := *m.Poll
		p.Closed = true
		m.Poll = &p
		return nil
	})
}

func (n *Node) Pin(_ context.Context, ref, id string, on bool) (node.Message, error) {
	return n.onMessage("Pin", ref, id, func(m *node.Message) error { m.Pinned = on; return nil })
}

func (n *Node) Star(_ context.Context, ref, id string, on bool) (node.Message, error) {
	return n.onMessage("Star", ref, id, func(m *node.Message) error { m.Starred = on; return nil })
}

func (n *Node) Marked(_ context.Context, ref string, starred bool) (out []node.Message, err error) {
	if err := n.begin("Marked"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return nil, err
	}
	for _, m := range n.messages[c.Conversation] {
		if starred && m.Starred || !starred && m.Pinned {
			out = append(out, m)
		}
	}
	return out, nil
}

func (n *Node) Scheduled(_ context.Context, ref string) (out []node.Scheduled, err error) {
	if err := n.begin("Scheduled"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return nil, err
	}
	for _, l := range n.later {
		if l.Conversation == c.Conversation {
			out = append(out, l)
		}
	}
	return out, nil
}

func (n *Node) Unschedule(_ context.Context, ref string, id uint64) error {
	if err := n.begin("Unschedule"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	for i, l := range n.later {
		if l.ID == id {
			n.later = slices.Delete(n.later, i, i+1)
			return nil
		}
	}
	return fmt.Errorf("text %d: %w", id, node.ErrNotFound)
}

// note changes what is noted of a conversation, and tells of it.
func (n *Node) note(method, ref string, f func(*noted) error) (node.Conversation, error) {
	if err := n.begin(method); err != nil {
		return node.Conversation{}, err
	}
	defer n.mu.Unlock()
	c, err := n.contactLocked(ref)
	if err != nil {
		return node.Conversation{}, err
	}
	if n.notes[c.Conversation] == nil {
		n.notes[c.Conversation] = &noted{}
	}
	if err := f(n.notes[c.Conversation]); err != nil {
		return node.Conversation{}, err
	}
	conv := n.conversationLocked(c)
	n.tellLocked(node.Event{Type: node.EventConversation, Conversation: &conv})
	return conv, nil
}

// noted is what the user has noted of a conversation.
type noted struct {
	read     uint64
	unread   bool
	muted    time.Time
	archived bool
	timer    int
	draft    *node.Draft
}

// fillLocked puts what is noted into a conversation.
func (n *Node) fillLocked(conv *node.Conversation) {
	o := n.notes[conv.ID]
	if o == nil {
		o = &noted{}
	}
	conv.ReadSeq, conv.MarkedUnread, conv.MutedUntil, conv.Archived, conv.Timer, conv.Draft = o.read, o.unread, o.muted, o.archived, o.timer, o.draft
	for _, m := range n.messages[conv.ID] {
		if !m.Mine && m.Seq > o.read {
			conv.Unread++
		}
	}
	for _, l := range n.later {
		if l.Conversation == conv.ID {
			conv.Scheduled++
		}
	}
}

func (n *Node) MarkRead(_ context.Context, ref string, r node.ReadMark) (node.Conversation, error) {
	return n.note("MarkRead", ref, func(o *noted) error {
		if o.unread = r.Unread; r.Unread {
			return nil
		}
		if r.Through == "" {
			o.read = n.next
			return nil
		}
		m, err := n.messageLocked(ref, r.Through)
		if err == nil {
			o.read = m.Seq
		}
		return err
	})
}

func (n *Node) ChangeConversation(_ context.Context, ref string, g node.ConversationChange) (node.Conversation, error) {
	return n.note("ChangeConversation", ref, func(o *noted) error {
		if g.Timer != nil {
			o.timer = *g.Timer
		}
		if g.MutedUntil != nil {
			o.muted = *g.MutedUntil
		}
		if g.Archived != nil {
			o.archived = *g.Archived
		}
		if g.Draft != nil {
			if o.draft = g.Draft; g.Draft.Text == "" {
				o.draft = nil
			}
		}
		return nil
	})
}

func (n *Node) Typing(_ context.Context, ref string) error {
	if err := n.begin("Typing"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	_, err := n.contactLocked(ref)
	return err
}
