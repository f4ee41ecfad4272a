package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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
		State: messageStates[m.State], Reason: m.Reason, Text: m.Text, Kind: "text", Imported: m.Imported != [16]byte{}}
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
	na.said(group, m, &out)
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
		case store.ToldTimer:
			did = append(did, timerWords(c.Value))
		case store.ToldNewDevice:
			others = append(others, fmt.Sprintf("%s added a device (%s, added by %s)", of, c.Text, c.Other))
		case store.ToldGoneDevice:
			others = append(others, fmt.Sprintf("a device of %s is gone (%s)", of, c.Text))
		case store.ToldThisDevice:
			others = append(others, "this device takes part from here on")
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

// timerWords says after how long messages disappear.
func timerWords(minutes uint32) string {
	switch n := minutes; {
	case n == 0:
		return "lets messages stay"
	case n%(24*60) == 0:
		return fmt.Sprintf("lets new messages disappear after %d d", n/(24*60))
	case n%60 == 0:
		return fmt.Sprintf("lets new messages disappear after %d h", n/60)
	default:
		return fmt.Sprintf("lets new messages disappear after %d min", n)
	}
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
			if cs[i].Own {
				continue
			}
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
		asking, err := tx.GroupRequests(c.Group)
		if err != nil {
			return out, err
		}
		out.Kind, out.Name, out.Requests = KindGroup, c.Name, len(asking)
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
		case core.Over:
			out.State, out.Reason = StateLeft, "this device is taken out of the conversation"
		case forked(&contact):
			out.State, out.Reason = "frozen", contact.Reason
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
	if err := n.showOwn(tx, names, c, &out); err != nil {
		return out, err
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
	all = slices.DeleteFunc(all, func(c store.Conversation) bool { return c.Own })
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

// Messages returns up to limit messages of a conversation, the oldest first: those
// behind the message after, else those in front of the message before, else the newest.
func (n *Node) Messages(ctx context.Context, ref, before, after string, limit int) (out []Message, err error) {
	out = []Message{}
	if limit <= 0 {
		limit = 1 << 30
	}
	var from [32]byte
	reverse := after == ""
	if before != "" && after != "" {
		return out, fmt.Errorf("%w: before together with after", ErrInvalid)
	}
	if s := before + after; s != "" {
		id, err := content.ParseID(s)
		if err != nil {
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
