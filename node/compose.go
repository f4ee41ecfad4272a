package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// Limits of what is noted for later.
const (
	maxTimer = 365 * 24 * time.Hour
	maxLater = 100 // texts in one conversation
	maxAhead = 366 * 24 * time.Hour
)

// NewMessage is a message to be sent: a text, a poll, or one that is forwarded.
type NewMessage struct {
	Text     string    `json:"text,omitempty" doc:"at most 61,440 bytes of UTF-8"`
	ReplyTo  string    `json:"reply_to,omitempty" doc:"id of the message that it answers"`
	Mentions []Mention `json:"mentions,omitempty" doc:"parts of the text that name members"`
	Poll     *NewPoll  `json:"poll,omitempty" doc:"instead of a text"`
	Forward  *Forward  `json:"forward,omitempty" doc:"instead of a text: the text of this message"`
	At       time.Time `json:"at,omitzero" required:"false" doc:"when to send it; without it now"`
	Key      string    `json:"key,omitempty" maxLength:"128" doc:"of those with one key for one conversation, by one token, only the first is sent; the others are answered as it was"`
}

// NewPoll is a question to be asked.
type NewPoll struct {
	Question string   `json:"question" doc:"at most 1,024 bytes"`
	Options  []string `json:"options" doc:"2 to 16, of at most 256 bytes"`
	Multiple bool     `json:"multiple,omitempty"`
}

// Forward names a message to be forwarded.
type Forward struct {
	Conversation string `json:"conversation"`
	Message      string `json:"message"`
}

// inConversation runs f in a turn of a conversation.
func (n *Node) inConversation(ref string, f func(t *turn) error) error {
	var rec store.Conversation
	err := n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err == nil {
			rec = *c
		}
		return err
	})
	if err != nil {
		return apiError(err)
	}
	o := n.needOwner(rec.Group)
	if o == nil {
		return ErrStopped
	}
	return apiError(o.do(f))
}

// mayAct returns why nothing can be said in a conversation, nil if it can.
func (t *turn) mayAct() error {
	switch {
	case !t.rec.Many && t.blocked(t.rec.Contact):
		return fmt.Errorf("%w: %s", ErrBlocked, t.contactName())
	case t.core.Frozen != "":
		return fmt.Errorf("%w: %s", ErrFrozen, t.core.Frozen)
	case t.core.Over || t.core.Leaving:
		return fmt.Errorf("%w: you have left %s", ErrFrozen, t.title())
	}
	return t.gate()
}

// mayWrite returns why nothing can be written, nil if it can.
func (t *turn) mayWrite() error {
	if err := t.mayAct(); err != nil {
		return err
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	if info.May(t.n.account.ID())&conversation.MayWrite == 0 {
		return fmt.Errorf("%w: only admins and owners write in %s", ErrNotAllowed, t.rec.Name)
	}
	return nil
}

// common is what a message of ours says of its making.
func (t *turn) common() content.Common {
	c := content.Common{Sent: t.now}
	for _, h := range t.rec.Heads {
		c.Parents = append(c.Parents, content.ID(h))
	}
	t.rec.Lamport++
	c.Lamport = t.rec.Lamport
	return c
}

// line is a message as it is kept.
func (t *turn) line(c *content.Message, id content.ID, from [32]byte, info *conversation.GroupInfo) (*store.Message, error) {
	m := &store.Message{ID: id, From: from, Mine: from == t.n.account.ID(), Arrived: t.now, Sent: c.Sent, Kind: store.KindUnknown}
	switch c.Kind {
	case content.Text:
		m.Kind, m.Text, m.Mentions, m.Forwarded = store.KindText, c.Text, storedMentions(c.Mentions), c.Forwarded
	case content.Poll:
		m.Kind, m.Text, m.Options, m.Multiple = store.KindPoll, c.Text, c.Options, c.On
	}
	if c.InReplyTo != nil {
		// An answer to what stands in another conversation answers nothing here.
		known, err := t.tx.Known(t.o.group, *c.InReplyTo)
		if err != nil {
			return nil, err
		}
		foreign := false
		if !known {
			if foreign, err = t.foreign(*c.InReplyTo); err != nil {
				return nil, err
			}
		}
		if !foreign {
			m.ReplyTo = *c.InReplyTo
		}
	}
	life := c.Expires
	if all := timer(info); all > 0 && (life == 0 || life > all) {
		life = all
	}
	if life > 0 {
		m.Expires = uint32(life / time.Second)
		m.Alone()
	}
	return m, nil
}

// say makes a message of the user's durable and sends it.
func (t *turn) say(c *content.Message) (*store.Message, error) {
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return nil, err
	}
	c.Expires = timer(info)
	encoded, err := c.Encode()
	if err != nil {
		return nil, err
	}
	account := t.n.account.ID()
	id := content.IDOf(account, t.o.group, encoded, c.Salt)
	m, err := t.line(c, id, account, info)
	if err != nil {
		return nil, err
	}
	m.State, m.Content = store.MessageQueued, encoded
	t.remember(id)
	if err := errors.Join(t.clearOut(), t.show(m)); err != nil {
		return nil, err
	}
	return m, t.step(conversation.Send{ID: id})
}

// Send sends a text: see SendMessage.
func (n *Node) Send(ctx context.Context, ref, text string) (Message, error) {
	return n.SendMessage(ctx, ref, NewMessage{Text: text})
}

// SendMessage makes a message durable and on its way, and returns it as it stands. It
// returns ErrNotFound, ErrInvalid, ErrTooLarge, ErrBlocked, ErrFrozen, ErrNotAllowed,
// ErrDiskFull, and ErrUncertain, after which the caller looks before it repeats.
//
// A text to a contact that is not complete waits until it is. One that is to be sent at
// a time is returned without an id, and is sent then or, if the node is down, as soon as
// it is up again.
//
// Who does not know what became of a message with a Key sends it again with the same: it
// is sent once. While the contact is not complete one with a Key is ErrNotReady.
func (n *Node) SendMessage(ctx context.Context, ref string, m NewMessage) (out Message, err error) {
	if err := m.checkKey(); err != nil {
		return out, err
	}
	if m.Forward != nil {
		if m.Text != "" || m.Poll != nil {
			return out, fmt.Errorf("%w: a message that is forwarded has no other text", ErrInvalid)
		}
		if m.Text, err = n.textOf(*m.Forward); err != nil {
			return out, apiError(err)
		}
	}
	if m.Poll != nil {
		if err := content.CheckPoll(m.Poll.Question, m.Poll.Options); err != nil || m.Text != "" || m.ReplyTo != "" || !m.At.IsZero() {
			return out, fmt.Errorf("%w: %w", ErrInvalid, errors.Join(err, errors.New("a poll stands by itself")))
		}
	} else if err := checkText(m.Text); err != nil {
		return out, err
	}
	var waiting *store.Contact
	err = n.view(func(tx *store.Tx) error {
		contact, err := findContact(tx, ref)
		if err == nil && contact.Blocked {
			return fmt.Errorf("%w: %s", ErrBlocked, contact.Name)
		}
		if err == nil && len(contact.Group) == 0 && contact.State == store.ContactPending {
			waiting = contact
		}
		return nil
	})
	if err != nil {
		return out, apiError(err)
	}
	if waiting != nil {
		if m.Key != "" {
			return out, fmt.Errorf("%w: %s is no complete contact yet", ErrNotReady, waiting.Name)
		}
		if m.Poll != nil || m.ReplyTo != "" || len(m.Mentions) > 0 || !m.At.IsZero() {
			return out, fmt.Errorf("%w: %s is no complete contact yet, and until then only texts can be left for it", ErrNotReady, waiting.Name)
		}
		return n.sendLater(waiting.Account, &content.Message{Text: m.Text, Forwarded: m.Forward != nil})
	}
	err = n.inConversation(ref, func(t *turn) error {
		if was, err := t.sentBefore(m.Key, &out); err != nil || was {
			return err
		}
		if err := t.mayWrite(); err != nil {
			return err
		}
		c, err := t.compose(&m)
		if err != nil {
			return err
		}
		if !m.At.IsZero() {
			return t.schedule(c, m.At, &out)
		}
		said, err := t.say(c)
		if err != nil {
			return err
		}
		// Sealing may have moved it on already.
		now, err := t.tx.Message(t.o.group, said.ID)
		if err == nil {
			out = t.n.namer(t.tx).message(t.o.group, &now)
		}
		return errors.Join(err, t.noteSent(m.Key, said.ID))
	})
	return out, err
}

func checkText(text string) error {
	switch err := content.CheckText(text); {
	case errors.Is(err, content.ErrTooLong):
		return fmt.Errorf("%w: %w; split it or send it as a file", ErrTooLarge, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// textOf returns the text of a message that is to be forwarded.
func (n *Node) textOf(f Forward) (text string, err error) {
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, f.Conversation)
		if err != nil {
			return err
		}
		m, err := findMessage(tx, c.Group, f.Message)
		if err != nil {
			return err
		}
		if m.Kind != store.KindText || m.Deleted != 0 {
			return fmt.Errorf("%w: only texts can be forwarded", ErrInvalid)
		}
		text = m.Text
		return nil
	})
	return text, err
}

// compose makes the content of a new message.
func (t *turn) compose(m *NewMessage) (*content.Message, error) {
	if m.Poll != nil {
		c := content.New(content.Poll, t.common())
		c.Text, c.Options, c.On = m.Poll.Question, m.Poll.Options, m.Poll.Multiple
		return c, nil
	}
	c := content.New(content.Text, t.common())
	c.Text, c.Forwarded = m.Text, m.Forward != nil
	if m.ReplyTo != "" {
		to, err := t.message1(m.ReplyTo)
		if err != nil {
			return nil, err
		}
		if to.Deleted != 0 || to.Kind != store.KindText && to.Kind != store.KindPoll {
			return nil, fmt.Errorf("%w: message %s cannot be answered", ErrInvalid, m.ReplyTo)
		}
		id := content.ID(to.ID)
		if to.Version != [32]byte{} {
			id = to.Version
		}
		c.InReplyTo = &id
	}
	var err error
	c.Mentions, err = t.mentions(m.Mentions)
	return c, err
}

// mentions resolves who is mentioned: accounts of the conversation.
func (t *turn) mentions(all []Mention) (out []content.Mention, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	members, err := t.n.members(t.tx, t.group)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		who := m.Account
		if who == "" {
			who = m.Name
		}
		account, err := findMember(members, who)
		if err != nil {
			return nil, err
		}
		if m.Start < 0 || m.Length < 1 {
			return nil, fmt.Errorf("%w: a mention outside of the text", ErrInvalid)
		}
		out = append(out, content.Mention{Start: uint64(m.Start), Length: uint64(m.Length), Account: account})
	}
	return out, nil
}

func contentMentions(all []store.Mention) (out []content.Mention) {
	for _, m := range all {
		out = append(out, content.Mention{Start: uint64(m.Start), Length: uint64(m.Length), Account: m.Account})
	}
	return out
}

// message1 returns the one message that an id, or the beginning of one, names.
func (t *turn) message1(ref string) (store.Message, error) { return findMessage(t.tx, t.o.group, ref) }

// minMessagePrefix is the shortest beginning of a message id that names one: all begin
// with 01.
const minMessagePrefix = 6

func findMessage(tx *store.Tx, group []byte, ref string) (store.Message, error) {
	unknown := fmt.Errorf("%w: there is no message %q; sotto chat read --ids shows them", ErrNotFound, ref)
	ref = strings.ToLower(ref)
	if len(ref) < minMessagePrefix || len(ref) > 64 || strings.Trim(ref, "0123456789abcdef") != "" {
		return store.Message{}, unknown
	}
	ids, err := tx.MessageIDs(group, ref)
	if err != nil {
		return store.Message{}, err
	}
	switch len(ids) {
	case 0:
		return store.Message{}, unknown
	case 1:
		m, err := tx.Message(group, ids[0])
		if errors.Is(err, store.ErrNotFound) || err == nil && m.Kind == store.KindHidden {
			err = unknown
		}
		return m, err
	}
	return store.Message{}, fmt.Errorf("%w: more than one message begins with %q", ErrAmbiguous, ref)
}

// onMessage runs f in a turn with a message of the conversation, and returns that as it
// stands then.
func (n *Node) onMessage(ref, id string, f func(t *turn, m *store.Message) error) (out Message, err error) {
	err = n.inConversation(ref, func(t *turn) error {
		m, err := t.message1(id)
		if err != nil {
			return err
		}
		if err := f(t, &m); err != nil {
			return err
		}
		now, err := t.tx.Message(t.o.group, m.ID)
		if errors.Is(err, store.ErrNotFound) {
			out = Message{ID: hex.EncodeToString(m.ID[:]), Conversation: groupID(t.o.group), State: MessageReceived, Kind: "removed"}
			return nil
		}
		if err == nil {
			out = t.n.namer(t.tx).message(t.o.group, &now)
		}
		return err
	})
	return out, err
}

// about makes content about a message that is here and stands for all.
func (t *turn) aboutMessage(m *store.Message, k content.Kind) (*content.Message, error) {
	if err := t.mayAct(); err != nil {
		return nil, err
	}
	if m.Deleted != 0 || m.Kind != store.KindText && m.Kind != store.KindPoll && m.Kind != store.KindUnknown {
		return nil, fmt.Errorf("%w: this is no message that something can be said about", ErrInvalid)
	}
	c := content.New(k, t.common())
	id := content.ID(m.ID)
	c.InReplyTo = &id
	return c, nil
}

// Message returns a message with its history and what became of it.
func (n *Node) Message(ctx context.Context, ref, id string) (out MessageDetails, err error) {
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		m, err := findMessage(tx, c.Group, id)
		if err == nil {
			out, err = n.namer(tx).details(c.Group, &m)
		}
		return err
	})
	return out, apiError(err)
}

// EditMessage gives a text of the user's another version, within 48 hours. The others see
// that it was edited, and can read what it said.
func (n *Node) EditMessage(ctx context.Context, ref, id, text string, mentions []Mention) (Message, error) {
	if err := checkText(text); err != nil {
		return Message{}, err
	}
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		if err := t.mayWrite(); err != nil {
			return err
		}
		if !m.Mine || m.Kind != store.KindText || m.Deleted != 0 {
			return fmt.Errorf("%w: only texts of one's own can be edited", ErrNotAllowed)
		}
		if err := t.young(m); err != nil {
			return err
		}
		versions, err := t.tx.Versions(t.o.group, m.ID)
		if err != nil {
			return err
		}
		if len(versions) > maxEdits {
			return fmt.Errorf("%w: a message can be edited %d times", ErrInvalid, maxEdits)
		}
		c, err := t.compose(&NewMessage{Text: text, Mentions: mentions})
		if err != nil {
			return err
		}
		original := content.ID(m.ID)
		c.Replaces = &original
		return t.act(c)
	})
}

// young returns an error for a message that is too old to be changed for others.
func (t *turn) young(m *store.Message) error {
	if t.now.Sub(m.Sent) > editLife {
		return fmt.Errorf("%w: it was sent more than 48 hours ago", ErrNotAllowed)
	}
	return nil
}

// DeleteMessage takes a message away: here alone, or from all if it is the user's own and
// at most 48 hours old, or the user's role in the group permits it.
func (n *Node) DeleteMessage(ctx context.Context, ref, id string, all bool) (Message, error) {
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		if !all {
			if m.State == store.MessageQueued {
				return fmt.Errorf("%w: it is on its way; delete it for all, or wait until it is stored", ErrNotReady)
			}
			return t.remove(m)
		}
		c, err := t.aboutMessage(m, content.Delete)
		if err != nil {
			return err
		}
		c.Replaces, c.InReplyTo = c.InReplyTo, nil
		if m.Mine {
			if err := t.young(m); err != nil {
				return err
			}
			return t.act(c)
		}
		info, err := conversation.Group(t.group.Context())
		if err != nil {
			return err
		}
		own := t.n.account.ID()
		if !t.mayModerate(&item{from: own, rights: info.May(own), role: info.Role(own)}, m) {
			return fmt.Errorf("%w: you may not take this message away from all", ErrNotAllowed)
		}
		c.Kind = content.Moderate
		return t.act(c)
	})
}

// React makes reactions the user's own to a message, in place of those before; none takes
// them back.
func (n *Node) React(ctx context.Context, ref, id string, reactions []string) (Message, error) {
	if len(reactions) > content.MaxReactions {
		return Message{}, fmt.Errorf("%w: at most %d reactions to one message", ErrInvalid, content.MaxReactions)
	}
	var set []string
	for _, r := range reactions {
		if err := content.CheckReaction(r); err != nil {
			return Message{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if !slices.Contains(set, r) {
			set = append(set, r)
		}
	}
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		c, err := t.aboutMessage(m, content.Reaction)
		if err != nil {
			return err
		}
		c.Reactions = set
		return t.act(c)
	})
}

// Vote makes options, counted from 0, the user's own in a poll; none takes the vote back.
func (n *Node) Vote(ctx context.Context, ref, id string, options []int) (Message, error) {
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		c, err := t.aboutMessage(m, content.Vote)
		if err != nil {
			return err
		}
		a, err := t.tx.About(t.o.group, m.ID)
		switch {
		case err != nil:
			return err
		case m.Kind != store.KindPoll:
			return fmt.Errorf("%w: this is no poll", ErrInvalid)
		case a.Closed != 0:
			return fmt.Errorf("%w: the poll is closed", ErrNotAllowed)
		case len(options) > 1 && !m.Multiple:
			return fmt.Errorf("%w: one option can be voted for", ErrInvalid)
		}
		for _, o := range slices.Compact(slices.Sorted(slices.Values(options))) {
			if o < 0 || o >= len(m.Options) {
				return fmt.Errorf("%w: there is no option %d", ErrInvalid, o)
			}
			c.Choices = append(c.Choices, uint64(o))
		}
		return t.act(c)
	})
}

// ClosePoll ends a poll of the user's.
func (n *Node) ClosePoll(ctx context.Context, ref, id string) (Message, error) {
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		c, err := t.aboutMessage(m, content.Close)
		if err != nil {
			return err
		}
		if m.Kind != store.KindPoll || !m.Mine {
			return fmt.Errorf("%w: only who has made a poll can close it", ErrNotAllowed)
		}
		return t.act(c)
	})
}

// Pin holds a message up to all, or no longer. In a group it takes the right to rename.
func (n *Node) Pin(ctx context.Context, ref, id string, on bool) (Message, error) {
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		c, err := t.aboutMessage(m, content.Pin)
		if err != nil {
			return err
		}
		info, err := conversation.Group(t.group.Context())
		if err != nil {
			return err
		}
		if t.rec.Many && info.May(t.n.account.ID())&conversation.MayRename == 0 {
			return fmt.Errorf("%w: only admins and owners pin in %s", ErrNotAllowed, t.rec.Name)
		}
		c.On = on
		return t.act(c)
	})
}

// Star marks a message for oneself, or no longer.
func (n *Node) Star(ctx context.Context, ref, id string, on bool) (Message, error) {
	return n.onMessage(ref, id, func(t *turn, m *store.Message) error {
		t.events = true
		return errors.Join(t.tx.SetStar(t.o.group, m.ID, on), t.n.noteMessage(t.tx, t.o.group, m.ID))
	})
}

// Marked returns the messages of a conversation that are pinned or, if starred, those
// that the user has marked, in their order.
func (n *Node) Marked(ctx context.Context, ref string, starred bool) (out []Message, err error) {
	out = []Message{}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		var ids [][32]byte
		if starred {
			ids, err = tx.Stars(c.Group)
		} else {
			var pins []store.Pin
			pins, err = tx.Pins(c.Group)
			for _, p := range pins {
				if p.On {
					ids = append(ids, p.Message)
				}
			}
		}
		if err != nil {
			return err
		}
		names := n.namer(tx)
		for _, id := range ids {
			m, err := tx.Message(c.Group, id)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			out = append(out, names.message(c.Group, &m))
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Message) int { return a.Sent.Compare(b.Sent) })
	return out, apiError(err)
}

// ConversationChange is what is to change about a conversation. What is nil stays.
type ConversationChange struct {
	Timer      *int       `json:"timer,omitempty" minimum:"0" doc:"seconds, whole minutes, up to a year, after which new messages disappear from all devices; 0: never. It comes about when the relay has taken it"`
	MutedUntil *time.Time `json:"muted_until,omitempty" doc:"a time that is over: no longer"`
	Archived   *bool      `json:"archived,omitempty"`
	Draft      *Draft     `json:"draft,omitempty"`
}

// ChangeConversation changes what the user has noted of a conversation, and for all how
// long messages stay.
func (n *Node) ChangeConversation(ctx context.Context, ref string, g ConversationChange) (out Conversation, err error) {
	err = n.inConversation(ref, func(t *turn) error {
		if g.Timer != nil {
			if err := t.wishTimer(time.Duration(*g.Timer) * time.Second); err != nil {
				return err
			}
		}
		if g.MutedUntil != nil || g.Archived != nil {
			shelf, err := t.tx.Shelf(t.o.group)
			if err != nil {
				return err
			}
			shelf.Changed = t.now
			if g.Archived != nil {
				shelf.Archived = *g.Archived
			}
			if g.MutedUntil != nil {
				shelf.Muted = *g.MutedUntil
				if shelf.Muted.After(t.now) {
					t.dues = true
					if err := t.tx.AddDue(&store.Due{At: shelf.Muted, What: store.DueUnmute, Group: t.o.group}); err != nil {
						return err
					}
				}
			}
			if err := t.tx.PutShelf(t.o.group, &shelf); err != nil {
				return err
			}
		}
		if g.Draft != nil {
			if err := t.keepDraft(g.Draft); err != nil {
				return err
			}
		}
		t.events = true
		if err := t.n.noteConversation(t.tx, t.o.group); err != nil {
			return err
		}
		return t.showInto(&out)
	})
	return out, err
}

// showInto shows the conversation as this turn leaves it.
func (t *turn) showInto(out *Conversation) error {
	rec := t.rec
	rec.Core = t.core.Append(nil)
	c, err := t.n.showConversation(t.tx, t.n.namer(t.tx), &rec)
	*out = c
	return err
}

func (t *turn) keepDraft(d *Draft) error {
	if len(d.Text) > content.MaxText || !utf8.ValidString(d.Text) {
		return fmt.Errorf("%w: a draft is UTF-8 of at most %d bytes", ErrInvalid, content.MaxText)
	}
	rec := store.Draft{Text: d.Text, Changed: t.now}
	if d.ReplyTo != "" {
		m, err := t.message1(d.ReplyTo)
		if err != nil {
			return err
		}
		rec.ReplyTo = m.ID
	}
	return t.tx.PutDraft(t.o.group, &rec)
}

// wishTimer notes that messages are to disappear after a time: a change of the group, that
// everybody sees and may make who has the right to.
func (t *turn) wishTimer(after time.Duration) error {
	if err := t.mayAct(); err != nil {
		return err
	}
	if after < 0 || after > maxTimer || after%time.Minute != 0 {
		return fmt.Errorf("%w: messages disappear after whole minutes, at most a year", ErrInvalid)
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return err
	}
	if info.May(t.n.account.ID())&conversation.MayChangeRetention == 0 {
		return fmt.Errorf("%w: you may not change how long messages stay in %s", ErrNotAllowed, t.title())
	}
	c := store.Change{What: store.ChangeTimer, Text: strconv.Itoa(int(after / time.Minute))}
	if err := t.tx.AddChange(t.o.group, &c); err != nil {
		return err
	}
	return t.step(conversation.Change{ID: conversation.ChangeID(c.ID)})
}

// Scheduled is a text that is to be sent at a time.
type Scheduled struct {
	ID           uint64    `json:"id"`
	Conversation string    `json:"conversation"`
	At           time.Time `json:"at"`
	Text         string    `json:"text"`
}

// schedule keeps a text until its time.
func (t *turn) schedule(c *content.Message, at time.Time, out *Message) error {
	if c.Kind != content.Text || c.Forwarded {
		return fmt.Errorf("%w: only texts can be sent later", ErrInvalid)
	}
	if at.Sub(t.now) > maxAhead {
		return fmt.Errorf("%w: a text can be sent at most a year later", ErrInvalid)
	}
	all, err := t.tx.Laters(t.o.group)
	if err != nil {
		return err
	}
	if len(all) >= maxLater {
		return fmt.Errorf("%w: %d texts wait in this conversation already", ErrInvalid, maxLater)
	}
	if _, err := c.Encode(); err != nil { // mentions may be wrong: now is the time to say so
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	l := store.Later{At: at, Made: t.now, Text: c.Text, Mentions: storedMentions(c.Mentions)}
	if c.InReplyTo != nil {
		l.ReplyTo = *c.InReplyTo
	}
	if err := t.tx.AddLater(t.o.group, &l); err != nil {
		return err
	}
	t.dues, t.events = true, true
	*out = Message{Conversation: groupID(t.o.group), Sender: t.n.device.Name, Mine: true, Sent: at.UTC(), State: MessageQueued, Text: c.Text, Kind: "text"}
	return errors.Join(t.tx.AddDue(&store.Due{At: at, What: store.DueLater, Group: t.o.group, Number: l.Number}), t.n.noteConversation(t.tx, t.o.group))
}

// Scheduled returns the texts that are to be sent in a conversation, the first first.
func (n *Node) Scheduled(ctx context.Context, ref string) (out []Scheduled, err error) {
	out = []Scheduled{}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		all, err := tx.Laters(c.Group)
		for _, l := range all {
			out = append(out, Scheduled{ID: l.Number, Conversation: groupID(c.Group), At: l.At, Text: l.Text})
		}
		return err
	})
	slices.SortStableFunc(out, func(a, b Scheduled) int { return a.At.Compare(b.At) })
	return out, apiError(err)
}

// Unschedule takes a text back that is to be sent.
func (n *Node) Unschedule(ctx context.Context, ref string, id uint64) error {
	return n.inConversation(ref, func(t *turn) error {
		if _, err := t.tx.Later(t.o.group, id); err != nil {
			return fmt.Errorf("%w: no text numbered %d is to be sent", ErrNotFound, id)
		}
		t.events = true
		return errors.Join(t.tx.DeleteLater(t.o.group, id), t.n.noteConversation(t.tx, t.o.group))
	})
}
