package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"sotto/crypto/identity"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// namer turns records into what the API shows; it remembers names within one
// transaction.
type namer struct {
	n     *Node
	tx    *store.Tx
	names map[[32]byte]string
}

func (n *Node) namer(tx *store.Tx) *namer {
	return &namer{n: n, tx: tx, names: map[[32]byte]string{n.account.ID(): n.device.Name}}
}

const unknownName = "unknown"

func (na *namer) of(account [32]byte) string {
	if name, ok := na.names[account]; ok {
		return name
	}
	name := unknownName
	if c, err := na.tx.Contact(account); err == nil {
		name = c.Name
	}
	na.names[account] = name
	return name
}

var messageStates = map[uint8]string{
	store.MessageQueued: MessageQueued, store.MessageStored: MessageStored, store.MessageFailed: MessageFailed, store.MessageReceived: MessageReceived,
}

func (na *namer) message(group []byte, m *store.Message) Message {
	out := Message{ID: hex.EncodeToString(m.ID[:]), Conversation: groupID(group), Seq: m.Seq, Mine: m.Mine, Sent: m.Sent.UTC(),
		State: messageStates[m.State], Reason: m.Reason, Text: m.Text, Kind: "text"}
	switch m.Kind {
	case store.KindGap:
		out.Kind, out.Text = "gap", fmt.Sprintf("%d entries are missing here: %s", m.Count, m.Reason)
	case store.KindChange:
		out.Kind, out.Text = "change", na.changes(group, m)
	case store.KindUnknown:
		out.Kind, out.Text = "unknown", "a message that this version cannot show"
	}
	if m.From != [32]byte{} {
		out.Sender = na.in(group, m.From)
	}
	return out
}

// in is the name of an account as a group's members know it.
func (na *namer) in(group []byte, account [32]byte) string {
	name := na.of(account)
	if name == unknownName {
		if own, err := na.tx.Name(group, account); err == nil && own != "" {
			return own
		}
		return identity.AccountID(account).String()[:8]
	}
	return name
}

// changes says in words what a message tells of a group.
func (na *namer) changes(group []byte, m *store.Message) string {
	var did, others []string // by who made the change; by themselves
	whom := map[uint8][]string{}
	for _, c := range m.Told {
		of := na.in(group, c.Of)
		switch c.What {
		case store.ToldAdded, store.ToldRemoved:
			whom[c.What] = append(whom[c.What], of)
		case store.ToldLeft:
			others = append(others, of+" left")
		case store.ToldName:
			did = append(did, fmt.Sprintf("named the group %q", c.Text))
		case store.ToldAbout:
			did = append(did, "changed the description")
		case store.ToldRole:
			did = append(did, fmt.Sprintf("made %s %s", of, roleNames[conversation.Role(c.Value)]))
		case store.ToldAnnounce:
			did = append(did, [...]string{"lets all members write", "lets only admins and owners write"}[c.Value&1])
		case store.ToldPicture:
			did = append(did, "changed the picture")
		case store.ToldPolicy:
			did = append(did, "changed what members and admins may do")
		case store.ToldIdle:
			did = append(did, fmt.Sprintf("removed a device of %s that had not been seen for long", of))
		case store.ToldNewDevice:
			did = append(did, "added a device of "+of)
		}
	}
	for _, v := range []struct {
		what uint8
		verb string
	}{{store.ToldRemoved, "removed "}, {store.ToldAdded, "added "}} {
		if names := whom[v.what]; len(names) > 0 {
			did = append([]string{v.verb + strings.Join(names, ", ")}, did...)
		}
	}
	if len(did) > 0 {
		others = append([]string{na.in(group, m.From) + " " + strings.Join(did, ", ")}, others...)
	}
	return strings.Join(others, "; ")
}

// groupID is the text form of a conversation's id.
func groupID(group []byte) string { return hex.EncodeToString(group) }

func groupOf(id string) []byte {
	b, _ := hex.DecodeString(id)
	return b
}

// Conversations returns all conversations, the oldest first.
func (n *Node) Conversations(ctx context.Context) (out []Conversation, err error) {
	out = []Conversation{}
	err = n.view(func(tx *store.Tx) error {
		cs, err := tx.Conversations()
		if err != nil {
			return err
		}
		names := n.namer(tx)
		for i := range cs {
			c, err := n.showConversation(tx, names, &cs[i])
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	return out, apiError(err)
}

// Conversation returns one, by the name or id of its contact or by its own id.
func (n *Node) Conversation(ctx context.Context, ref string) (out Conversation, err error) {
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err == nil {
			out, err = n.showConversation(tx, n.namer(tx), c)
		}
		return err
	})
	return out, apiError(err)
}

func (n *Node) showConversation(tx *store.Tx, names *namer, c *store.Conversation) (Conversation, error) {
	core, err := coreOf(c)
	if err != nil {
		return Conversation{}, err
	}
	out := Conversation{ID: groupID(c.Group), Kind: KindDirect, Name: names.of(c.Contact), Relay: c.Relay, State: "pending", Messages: int(c.Messages),
		Missing: int(c.Missing), Unreadable: int(c.Unreadable), Queued: len(core.Queue) + len(core.Flight), Since: c.Since.UTC()}
	if c.Many {
		out.Kind, out.Name = KindGroup, c.Name
		switch {
		case core.Over:
			out.State = StateLeft
		case core.Leaving:
			out.State = "leaving"
		case core.Frozen != "":
			out.State, out.Reason = "frozen", core.Frozen
		default:
			out.State = StateOpen
		}
	} else if contact, err := tx.Contact(c.Contact); err == nil {
		out.Contact = identity.AccountID(contact.Account).String()
		switch {
		case contact.Blocked:
			out.State = "blocked"
		case core.Frozen != "":
			out.State, out.Reason = "frozen", core.Frozen
		case core.Open:
			out.State = "open"
		}
	}
	if o := n.ownerOf(c.Group); o != nil {
		o.mu.Lock()
		out.Complete = o.caught
		if out.Reason == "" {
			out.Reason = o.reason
		}
		o.mu.Unlock()
	}
	for m, err := range tx.Messages(c.Group, [32]byte{}, true) {
		if err != nil {
			return out, err
		}
		if m.Kind == store.KindHidden {
			continue
		}
		last := names.message(c.Group, &m)
		out.Last = &last
		break
	}
	return out, nil
}

// findConversation finds a conversation by its id or a unique beginning of it, or by
// its contact.
func (n *Node) findConversation(tx *store.Tx, ref string) (*store.Conversation, error) {
	all, err := tx.Conversations()
	if err != nil {
		return nil, err
	}
	var found []*store.Conversation
	if len(ref) >= minPrefix {
		for i := range all {
			if strings.HasPrefix(groupID(all[i].Group), ref) {
				found = append(found, &all[i])
			}
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	contact, err := findContact(tx, ref)
	if errors.Is(err, ErrNotFound) {
		for i := range all {
			if all[i].Many && all[i].Name == ref {
				found = append(found, &all[i])
			}
		}
		switch len(found) {
		case 0:
			return nil, fmt.Errorf("%w: there is no contact or group %q; sotto chat list shows them", ErrNotFound, ref)
		case 1:
			return found[0], nil
		}
		return nil, fmt.Errorf("%w: %d groups are called %q; use the id", ErrAmbiguous, len(found), ref)
	}
	if err != nil {
		return nil, err
	}
	for i := range all {
		if string(all[i].Group) == string(contact.Group) {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("%w: there is no conversation with %s yet: %s", ErrNotFound, contact.Name, contactWaits(contact))
}

// contactWaits says why there is no conversation.
func contactWaits(c *store.Contact) string {
	if c.Reason != "" {
		return c.Reason
	}
	return "the contact is not complete"
}

// Send makes a message durable and on its way, and returns it as it stands. It
// returns ErrNotFound, ErrInvalid, ErrTooLarge, ErrBlocked, ErrFrozen, ErrDiskFull,
// and ErrUncertain, after which the caller looks before it repeats.
//
// A message to a contact that is not complete waits until it is.
func (n *Node) Send(ctx context.Context, ref, text string) (out Message, err error) {
	switch err := content.CheckText(text); {
	case errors.Is(err, content.ErrTooLong):
		return out, fmt.Errorf("%w: %w; split it or send it as a file", ErrTooLarge, err)
	case err != nil:
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var group []byte
	var waiting *store.Contact
	err = n.view(func(tx *store.Tx) error {
		contact, err := findContact(tx, ref)
		if err == nil && contact.Blocked {
			return fmt.Errorf("%w: %s", ErrBlocked, contact.Name)
		}
		if err == nil && len(contact.Group) == 0 && contact.State == store.ContactPending {
			waiting = contact
			return nil
		}
		c, err := n.findConversation(tx, ref)
		if err == nil {
			group = c.Group
		}
		return err
	})
	if err != nil {
		return out, apiError(err)
	}
	if waiting != nil {
		return n.sendLater(waiting.Account, text)
	}
	o := n.needOwner(group)
	if o == nil {
		return out, fmt.Errorf("%w: the node is stopping", ErrBusy)
	}
	err = o.do(func(t *turn) error {
		if t.core.Frozen != "" {
			return fmt.Errorf("%w: %s", ErrFrozen, t.core.Frozen)
		}
		if t.core.Over || t.core.Leaving {
			return fmt.Errorf("%w: you have left %s", ErrFrozen, t.rec.Name)
		}
		info, err := conversation.Group(t.group.Context())
		if err != nil {
			return err
		}
		if info.May(n.account.ID())&conversation.MayWrite == 0 {
			return fmt.Errorf("%w: only admins and owners write in %s", ErrNotAllowed, t.rec.Name)
		}
		m, err := t.send(text)
		if err == nil {
			// Sealing may have moved it on already.
			var now store.Message
			if now, err = t.tx.Message(t.o.group, m.ID); err == nil {
				out = t.n.namer(t.tx).message(t.o.group, &now)
			}
		}
		return err
	})
	return out, apiError(err)
}

// Messages returns up to limit messages of a conversation, the oldest first: those
// behind the message after, else those in front of the message before, else the newest.
func (n *Node) Messages(ctx context.Context, ref, before, after string, limit int) (out []Message, err error) {
	out = []Message{}
	if limit <= 0 {
		limit = 1 << 30
	}
	var from [32]byte
	reverse := after == ""
	if s := before + after; s != "" {
		id, err := content.ParseID(s)
		if err != nil || before != "" && after != "" {
			return out, fmt.Errorf("%w: %q is no message id", ErrInvalid, s)
		}
		from = id
	}
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		names := n.namer(tx)
		for m, err := range tx.Messages(c.Group, from, reverse) {
			if err != nil {
				return err
			}
			if m.Kind == store.KindHidden {
				continue
			}
			if out = append(out, names.message(c.Group, &m)); len(out) >= limit {
				break
			}
		}
		return nil
	})
	if reverse {
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
	}
	return out, apiError(err)
}
