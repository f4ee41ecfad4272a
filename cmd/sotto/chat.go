package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/content/markup"
)

// maxShown is how many messages chat watch remembers as shown.
const maxShown = 1000

// maxRead is how many messages chat read shows at most.
const maxRead = 100_000

func (a *app) chatCommand() *cobra.Command {
	return a.group("chat", "Conversations", append([]*cobra.Command{a.chatListCommand(), a.sendCommand(), a.readCommand(), a.searchCommand(), a.watchCommand(), a.evidenceCommand()}, a.messageCommands()...)...)
}

func (a *app) chatListCommand() *cobra.Command {
	return a.command("list", "All conversations", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		list, err := cl.Conversations(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Conversation{"conversations": list}, func(w io.Writer) {
			if len(list) == 0 {
				a.say("None yet. Make a link: sotto contact invite")
				return
			}
			var rows [][]string
			for _, c := range list {
				var notes []string
				if c.Unread > 0 {
					notes = append(notes, fmt.Sprintf("%d unread", c.Unread))
				} else if c.MarkedUnread {
					notes = append(notes, "unread")
				}
				for _, n := range []struct {
					is   bool
					word string
				}{{c.Draft != nil, "draft"}, {!c.MutedUntil.IsZero(), "muted"}, {c.Archived, "archived"}} {
					if n.is {
						notes = append(notes, n.word)
					}
				}
				if c.Timer > 0 {
					notes = append(notes, fmt.Sprintf("messages disappear after %v", time.Duration(c.Timer)*time.Second))
				}
				if c.Scheduled > 0 {
					notes = append(notes, fmt.Sprintf("%d to be sent later", c.Scheduled))
				}
				if len(c.Typing) > 0 {
					notes = append(notes, safe(strings.Join(c.Typing, ", "))+" writing")
				}
				if c.Queued > 0 {
					notes = append(notes, fmt.Sprintf("%d queued", c.Queued))
				}
				if !c.Complete {
					notes = append(notes, "not complete yet")
				}
				if c.Missing > 0 {
					notes = append(notes, count(c.Missing, "entry is gone", "entries are gone"))
				}
				if c.Reason != "" {
					notes = append(notes, safe(c.Reason))
				}
				last := "-"
				if c.Last != nil {
					last = when(c.Last.Sent)
				}
				rows = append(rows, []string{safe(c.Name), c.State, fmt.Sprint(c.Messages), last, strings.Join(notes, ", ")})
			}
			table(w, []string{"NAME", "STATE", "MESSAGES", "LAST", ""}, rows)
		})
	})
}

func (a *app) sendCommand() *cobra.Command {
	var names []string
	when, key := "", ""
	c := a.named(a.command("send NAME TEXT [--at TIME] [--mention MEMBER] [--once KEY]", "Send a text (- reads it from stdin)", 2, 2, func(ctx context.Context, c *cobra.Command, args []string) error {
		text, named, err := a.said(c, args[1], names)
		if err != nil {
			return err
		}
		m := node.NewMessage{Text: text, Mentions: named, Key: key}
		if m.At, err = sendAt(c, when); err != nil {
			return err
		}
		cl := a.client()
		defer cl.Close()
		sent, err := cl.SendMessage(ctx, args[0], m)
		if errors.Is(err, node.ErrUncertain) {
			return hint(err, "see whether it is there: sotto chat read "+args[0])
		} else if err != nil {
			return a.whom(err)
		}
		return a.print(sent, func(io.Writer) { a.say("%s.", capital(sent.State)) })
	}), false)
	c.Flags().StringVar(&when, "at", "", "send it at this `time`, or so long from now")
	c.Flags().StringVar(&key, "once", "", "`key` of your choice: however often it is sent with this key, it is sent once")
	return mentionFlag(c, &names)
}

// checkText refuses what cannot be sent before anything is asked of the node.
func (a *app) checkText(c *cobra.Command, text string) error {
	switch {
	case text == "":
		return usage(c, "there is no text")
	case len(text) > node.MaxText:
		return fmt.Errorf("a text of more than %d bytes is %w", node.MaxText, node.ErrTooLarge)
	case !utf8.ValidString(text):
		return usage(c, "the text is not UTF-8; files cannot be sent yet")
	}
	return nil
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func (a *app) readCommand() *cobra.Command {
	around := ""
	limit, ids := 50, false
	c := a.named(a.command("read NAME [--around ID] [--limit N] [--ids]", "The newest messages, oldest first", 1, 1, func(ctx context.Context, c *cobra.Command, args []string) error {
		if limit < 1 || limit > maxRead {
			return usage(c, "--limit %d: from 1 to %d", limit, maxRead)
		}
		cl := a.client()
		defer cl.Close()
		if around != "" {
			list, err := cl.Around(ctx, args[0], around, min(limit, api.MaxMessages))
			if err != nil {
				return a.whom(err)
			}
			for _, m := range list {
				if err := a.print(m, func(w io.Writer) { a.show(w, m) }); err != nil {
					return err
				}
			}
			return nil
		}
		pages, err := newest(ctx, cl, args[0], limit)
		if err != nil {
			return a.whom(err)
		}
		for _, page := range slices.Backward(pages) {
			for _, m := range page {
				show := a.show
				if ids {
					show = a.showWithID
				}
				if err := a.print(m, func(w io.Writer) { show(w, m) }); err != nil {
					return err
				}
			}
		}
		return nil
	}), false)
	c.Flags().BoolVar(&ids, "ids", false, "with the beginning of each message's id, by which other commands name it")
	c.Flags().StringVar(&around, "around", "", "the message with this `id`, in the middle of others")
	c.Flags().IntVar(&limit, "limit", limit, "at most so `many`")
	return c
}

// newest returns the newest messages in pages, the newest page first.
func newest(ctx context.Context, cl *api.Client, ref string, limit int) (pages [][]node.Message, err error) {
	for before := ""; limit > 0; {
		want := min(limit, api.MaxMessages)
		page, err := cl.Messages(ctx, ref, before, "", want)
		if err != nil {
			return nil, err
		}
		if len(page) > 0 {
			pages = append(pages, page)
			before = page[0].ID
		}
		if len(page) < want {
			break
		}
		limit -= len(page)
	}
	return pages, nil
}

// showWithID writes a message behind the beginning of its id.
func (a *app) showWithID(w io.Writer, m node.Message) {
	fmt.Fprintf(w, "%-12s  ", short(m.ID))
	a.show(w, m)
}

// show writes a message for a person.
func (a *app) show(w io.Writer, m node.Message) {
	text := paragraph(markup.Plain(m.Text))
	switch m.Kind {
	case "gap":
		text = "(" + firstOf(safe(m.Reason), "entries that the relay no longer had") + ")"
	case "unknown":
		text = "(a message that this version cannot show)"
	case "removed":
		text = "(a message was removed)"
	}
	switch m.Deleted {
	case "author":
		text = "(taken back)"
	case "admin":
		text = "(taken away by " + safe(m.DeletedBy) + ")"
	}
	var notes []string
	switch m.State {
	case node.MessageQueued, node.MessageDelivered, node.MessageRead:
		notes = append(notes, m.State)
	case node.MessageFailed:
		notes = append(notes, "failed: "+safe(m.Reason))
	}
	for _, n := range []struct {
		is   bool
		word string
	}{{!m.Edited.IsZero(), "edited"}, {m.Forwarded, "forwarded"}, {m.Pinned, "pinned"}, {m.Starred, "starred"}} {
		if n.is {
			notes = append(notes, n.word)
		}
	}
	if !m.Disappears.IsZero() {
		notes = append(notes, "disappears "+when(m.Disappears))
	}
	note := ""
	if len(notes) > 0 {
		note = " (" + strings.Join(notes, ", ") + ")"
	}
	if m.Kind == "change" {
		text = "* " + text
	}
	if m.Kind == "gap" || m.Kind == "change" || m.Kind == "removed" {
		fmt.Fprintf(w, "%s  %s\n", when(m.Sent), text)
		return
	}
	fmt.Fprintf(w, "%s  %s: %s%s\n", when(m.Sent), a.paint(a.out, bold, safe(m.Sender)), text, note)
	indent := strings.Repeat(" ", len(timeForm)+2)
	if q := m.ReplyTo; q != nil && m.Deleted == "" {
		answered := "a message that is not here"
		if !q.Missing {
			answered = safe(q.Sender) + ": " + safe(q.Excerpt)
		}
		fmt.Fprintf(w, "%sin answer to %s\n", indent, answered)
	}
	if p := m.Poll; p != nil {
		for i, o := range p.Options {
			mine := ""
			if o.Mine {
				mine = ", yours"
			}
			fmt.Fprintf(w, "%s%d. %s (%d%s)\n", indent, i+1, safe(o.Text), o.Votes, mine)
		}
		if p.Closed {
			fmt.Fprintf(w, "%sclosed\n", indent)
		}
	}
	for _, r := range m.Reactions {
		fmt.Fprintf(w, "%s%s %s\n", indent, safe(r.Reaction), safe(strings.Join(r.By, ", ")))
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (a *app) watchCommand() *cobra.Command {
	return a.named(a.lasting("watch [NAME]", "Messages as they come, until ctrl-c", 0, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		after, err := cl.LastEvent(ctx)
		if err != nil {
			return err
		}
		only := ""
		if len(args) == 1 {
			conv, err := cl.Conversation(ctx, args[0])
			if err != nil {
				return a.whom(err)
			}
			only = conv.ID
		}
		if isTerminal(a.err) && !a.json {
			a.say("Watching; ctrl-c ends it.")
		}
		shown := map[string]string{} // by id, as it stood
		for e, err := range cl.Events(ctx, after) {
			if err != nil {
				return err
			}
			switch {
			case e.Type == node.EventNotice && only == "" && !a.json:
				a.say("%s", safe(e.Notice))
				continue
			case e.Type != node.EventMessage || e.Message == nil || only != "" && e.Message.Conversation != only:
				continue
			}
			m := *e.Message
			if a.json {
				if err := a.line(m); err != nil {
					return err
				}
				continue
			}
			// What was shown is not shown again when it has been stored or read.
			said := m
			said.State, said.Seq, said.DeliveredTo, said.ReadBy = "", 0, 0, 0
			if m.State != node.MessageFailed {
				b, err := json.Marshal(said)
				if err != nil {
					return err
				}
				if shown[m.ID] == string(b) {
					continue
				}
				if len(shown) > maxShown {
					clear(shown) // better twice than never
				}
				shown[m.ID] = string(b)
			}
			if err := a.print(m, func(w io.Writer) { a.show(w, m) }); err != nil {
				return err
			}
		}
		return ctx.Err()
	}), false)
}

func (a *app) eventsCommand() *cobra.Command {
	var after uint64
	c := a.lasting("events [--after SEQ]", "Everything that happens, one JSON object a line, until ctrl-c", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			cl := a.client()
			defer cl.Close()
			if !c.Flags().Changed("after") {
				var err error
				if after, err = cl.LastEvent(ctx); err != nil {
					return err
				}
			}
			for e, err := range cl.Events(ctx, after) {
				if err != nil {
					return err
				}
				if err := a.line(e); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	c.Flags().Uint64Var(&after, "after", 0, "first what came after this `number`; 0 for all there is (default: only what comes)")
	return c
}
