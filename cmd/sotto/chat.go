package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

// maxRead is how many messages chat read shows at most.
const maxRead = 100_000

func (a *app) chatCommand() *cobra.Command {
	return a.group("chat", "Conversations", a.chatListCommand(), a.sendCommand(), a.readCommand(), a.watchCommand())
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
	key := ""
	c := a.named(a.command("send NAME TEXT [--once KEY]", "Send a text (- reads it from stdin)", 2, 2, func(ctx context.Context, c *cobra.Command, args []string) error {
		text := args[1]
		if text == "-" {
			b, err := io.ReadAll(io.LimitReader(a.in, node.MaxText+3))
			if err != nil {
				return fmt.Errorf("read the text: %w", err)
			}
			text = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		}
		switch {
		case text == "":
			return usage(c, "there is no text")
		case len(text) > node.MaxText:
			return fmt.Errorf("a text of more than %d bytes is %w", node.MaxText, node.ErrTooLarge)
		case !utf8.ValidString(text):
			return usage(c, "the text is not UTF-8; files cannot be sent yet")
		}
		cl := a.client()
		defer cl.Close()
		m, err := cl.SendOnce(ctx, args[0], key, text)
		if errors.Is(err, node.ErrUncertain) {
			return hint(err, "see whether it is there: sotto chat read "+args[0])
		} else if err != nil {
			return a.whom(err)
		}
		return a.print(m, func(io.Writer) { a.say("%s.", capital(m.State)) })
	}), false)
	c.Flags().StringVar(&key, "once", "", "`key` of your choice: however often it is sent with this key, it is sent once")
	return c
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func (a *app) readCommand() *cobra.Command {
	limit := 50
	c := a.named(a.command("read NAME [--limit N]", "The newest messages, oldest first", 1, 1, func(ctx context.Context, c *cobra.Command, args []string) error {
		if limit < 1 || limit > maxRead {
			return usage(c, "--limit %d: from 1 to %d", limit, maxRead)
		}
		cl := a.client()
		defer cl.Close()
		pages, err := newest(ctx, cl, args[0], limit)
		if err != nil {
			return a.whom(err)
		}
		for _, page := range slices.Backward(pages) {
			for _, m := range page {
				if err := a.print(m, func(w io.Writer) { a.show(w, m) }); err != nil {
					return err
				}
			}
		}
		return nil
	}), false)
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

// show writes a message for a person.
func (a *app) show(w io.Writer, m node.Message) {
	text := paragraph(m.Text)
	switch m.Kind {
	case "gap":
		text = "(" + firstOf(safe(m.Reason), "entries that the relay no longer had") + ")"
	case "unknown":
		text = "(a message that this version cannot show)"
	}
	note := ""
	switch m.State {
	case node.MessageQueued:
		note = " (queued)"
	case node.MessageFailed:
		note = " (failed: " + safe(m.Reason) + ")"
	}
	if m.Kind == "change" {
		text = "* " + text
	}
	if m.Kind == "gap" || m.Kind == "change" {
		fmt.Fprintf(w, "%s  %s\n", when(m.Sent), text)
		return
	}
	fmt.Fprintf(w, "%s  %s: %s%s\n", when(m.Sent), a.paint(a.out, bold, safe(m.Sender)), text, note)
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
		// What was shown as queued is not shown again when a relay has stored it.
		shown := map[string]bool{}
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
			if m.State == node.MessageStored && shown[m.ID] {
				delete(shown, m.ID)
				continue
			}
			if m.State == node.MessageQueued {
				if shown[m.ID] {
					continue
				}
				shown[m.ID] = true
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
