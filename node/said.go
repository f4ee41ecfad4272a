package node

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sotto/crypto/identity"
	"sotto/node/conversation"
	"sotto/node/store"
)

// excerptLength is how much of a message is quoted in an answer, in characters.
const excerptLength = 120

var deletedWords = map[uint8]string{store.DeletedByAuthor: "author", store.DeletedByAdmin: "admin"}

// said fills in what was said about a message, and what it says about others. What
// cannot be read is left out: the message itself is shown all the same.
func (na *namer) said(group []byte, m *store.Message, out *Message) {
	switch m.Kind {
	case store.KindPoll:
		out.Kind = "poll"
	case store.KindText, store.KindUnknown:
	default:
		return
	}
	own := na.n.account.ID()
	out.Forwarded, out.Timer, out.Disappears = m.Forwarded, int(m.Expires), m.Until
	if m.Deleted != 0 {
		out.Text, out.Deleted, out.DeletedBy, out.Timer = "", deletedWords[m.Deleted], na.in(group, m.DeletedBy), 0
		return
	}
	out.Edited = m.Edited
	if m.ReplyTo != [32]byte{} {
		out.ReplyTo = na.quote(group, m.ReplyTo)
	}
	for _, x := range m.Mentions {
		out.Mentions = append(out.Mentions, Mention{Start: int(x.Start), Length: int(x.Length), Account: identity.AccountID(x.Account).String(), Name: na.in(group, x.Account)})
		out.MentionsYou = out.MentionsYou || x.Account == own && !m.Mine
	}
	out.Starred, _ = na.tx.Star(group, m.ID)
	if pin, err := na.tx.Pin(group, m.ID); err == nil {
		out.Pinned = pin.On
	}
	a, err := na.tx.About(group, m.ID)
	if err != nil {
		return
	}
	out.Reactions = na.reactions(group, &a)
	for _, r := range a.Receipts {
		out.DeliveredTo++
		if !r.Read.IsZero() {
			out.ReadBy++
		}
	}
	switch {
	case m.State != store.MessageStored:
	case out.ReadBy > 0:
		out.State = MessageRead
	case out.DeliveredTo > 0:
		out.State = MessageDelivered
	}
	if m.Kind == store.KindPoll {
		out.Poll = showPoll(m, &a, own)
	}
}

// quote shows the version of a message that was answered.
func (na *namer) quote(group []byte, version [32]byte) *Quote {
	q := &Quote{ID: hex.EncodeToString(version[:]), Missing: true}
	original, err := na.tx.Original(group, version)
	if err != nil {
		return q
	}
	q.ID = hex.EncodeToString(original[:])
	m, err := na.tx.Message(group, original)
	if err != nil || m.Deleted != 0 || m.Kind != store.KindText && m.Kind != store.KindPoll {
		return q
	}
	text := m.Text
	if versions, err := na.tx.Versions(group, original); err == nil {
		for _, v := range versions {
			if v.ID == version {
				text, q.Edited = v.Text, m.Version != version
			}
		}
	}
	q.Sender, q.Excerpt, q.Missing = na.in(group, m.From), excerpt(text), false
	return q
}

// excerpt returns the beginning of a text, in one line.
func excerpt(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= excerptLength {
		return s
	}
	return string([]rune(s)[:excerptLength]) + "…"
}

// reactions puts together what accounts have reacted with, the one that came first first.
func (na *namer) reactions(group []byte, a *store.About) (out []Reaction) {
	all := slices.Clone(a.Reactions)
	slices.SortStableFunc(all, func(x, y store.Reaction) int { return x.Sent.Compare(y.Sent) })
	for _, r := range all {
		for _, s := range r.Set {
			i := slices.IndexFunc(out, func(o Reaction) bool { return o.Reaction == s })
			if i < 0 {
				out = append(out, Reaction{Reaction: s})
				i = len(out) - 1
			}
			out[i].By = append(out[i].By, na.in(group, r.Account))
			out[i].Mine = out[i].Mine || r.Account == na.n.account.ID()
		}
	}
	return out
}

func showPoll(m *store.Message, a *store.About, own [32]byte) *Poll {
	p := &Poll{Multiple: m.Multiple, Closed: a.Closed != 0}
	for _, o := range m.Options {
		p.Options = append(p.Options, Option{Text: o})
	}
	for _, v := range a.Votes {
		if len(v.Choices) > 0 {
			p.Voters++
		}
		for _, c := range v.Choices {
			if int(c) < len(p.Options) {
				p.Options[c].Votes++
				p.Options[c].Mine = p.Options[c].Mine || v.Account == own
			}
		}
	}
	return p
}

// details shows a message with its history.
func (na *namer) details(group []byte, m *store.Message) (MessageDetails, error) {
	out := MessageDetails{Message: na.message(group, m)}
	versions, err := na.tx.Versions(group, m.ID)
	if err != nil {
		return out, err
	}
	slices.SortFunc(versions, func(a, b store.Version) int {
		if a.Seq != b.Seq {
			if a.Seq < b.Seq {
				return -1
			}
			return 1
		}
		return 0
	})
	for _, v := range versions {
		out.Versions = append(out.Versions, MessageVersion{ID: hex.EncodeToString(v.ID[:]), Sent: v.Sent, Text: v.Text})
	}
	a, err := na.tx.About(group, m.ID)
	for _, r := range a.Receipts {
		out.Receipts = append(out.Receipts, Receipt{Account: identity.AccountID(r.Account).String(), Name: na.in(group, r.Account), Delivered: r.Delivered, Read: r.Read})
	}
	return out, err
}

// showOwn fills in what the user has noted of a conversation, and its timer.
func (n *Node) showOwn(tx *store.Tx, names *namer, c *store.Conversation, out *Conversation) error {
	mark, err := tx.ReadMark(c.Group)
	if err != nil {
		return err
	}
	out.Unread, out.MarkedUnread, out.ReadSeq = int(mark.Unread), mark.Manual, mark.Seq
	draft, err := tx.Draft(c.Group)
	if err != nil {
		return err
	}
	if draft.Text != "" {
		out.Draft = showDraft(&draft)
	}
	shelf, err := tx.Shelf(c.Group)
	if err != nil {
		return err
	}
	out.Archived = shelf.Archived
	if shelf.Muted.After(n.clock()) {
		out.MutedUntil = shelf.Muted
	}
	later, err := tx.Laters(c.Group)
	if err != nil {
		return err
	}
	out.Scheduled, out.Timer = len(later), int(c.Retention)*60
	if o := n.ownerOf(c.Group); o != nil {
		o.mu.Lock()
		for account, until := range o.typing {
			if until.After(n.clock()) {
				out.Typing = append(out.Typing, names.in(c.Group, account))
			}
		}
		o.mu.Unlock()
		slices.Sort(out.Typing)
	}
	return nil
}

func showDraft(d *store.Draft) *Draft {
	out := &Draft{Text: d.Text, Changed: d.Changed}
	if d.ReplyTo != [32]byte{} {
		out.ReplyTo = hex.EncodeToString(d.ReplyTo[:])
	}
	return out
}

// timer is after how many seconds what is sent disappears: what the group says.
func timer(info *conversation.GroupInfo) time.Duration {
	return min(time.Duration(info.Retention)*time.Minute, maxTimer)
}
