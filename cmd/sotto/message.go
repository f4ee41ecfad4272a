package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

// messageCommands are the commands about single messages and about what one notes of a
// conversation.
func (a *app) messageCommands() []*cobra.Command {
	return []*cobra.Command{
		a.replyCommand(), a.editCommand(), a.deleteCommand(), a.reactCommand(), a.forwardCommand(), a.infoCommand(),
		a.markedCommand("pin NAME [ID] [--off]", "Hold a message up to all; without an ID show those that are", false),
		a.markedCommand("star NAME [ID] [--off]", "Mark a message for yourself; without an ID show those you have", true),
		a.pollCommand(), a.voteCommand(), a.closeCommand(),
		a.markCommand(), a.muteCommand(), a.archiveCommand(), a.timerCommand(), a.draftCommand(), a.laterCommand(),
	}
}

// which adds to an error about a message how to see their ids.
func (a *app) which(err error, name string) error {
	if errors.Is(err, node.ErrNotFound) || errors.Is(err, node.ErrAmbiguous) {
		return hint(err, "see names and ids: sotto chat list; sotto chat read "+name+" --ids")
	}
	return a.whom(err)
}

// onMessage makes a command that does something with a message and shows it as it is then.
func (a *app) onMessage(use, short string, least, most int, f func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (node.Message, error)) *cobra.Command {
	return a.named(a.command(use, short, least, most, func(ctx context.Context, c *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		m, err := f(ctx, c, cl, args)
		if errors.Is(err, node.ErrUncertain) {
			return hint(err, "see whether it is so: sotto chat read "+args[0])
		} else if err != nil {
			return a.which(err, args[0])
		}
		return a.print(m, func(io.Writer) { a.say("%s.", firstOf(messageWords(m), "Done")) })
	}), false)
}

// messageWords says how a message stands.
func messageWords(m node.Message) string {
	switch {
	case m.Kind == "removed":
		return "Removed here; the others keep it"
	case m.Deleted != "":
		return "Taken back from all"
	}
	return ""
}

// text reads a text from an argument, or from stdin for "-".
func (a *app) text(c *cobra.Command, arg string) (string, error) {
	if arg != "-" {
		return arg, a.checkText(c, arg)
	}
	b, err := io.ReadAll(io.LimitReader(a.in, node.MaxText+3))
	if err != nil {
		return "", fmt.Errorf("read the text: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	return text, a.checkText(c, text)
}

// said reads a text, as text does, and the mentions in it.
func (a *app) said(c *cobra.Command, arg string, names []string) (string, []node.Mention, error) {
	text, err := a.text(c, arg)
	if err != nil {
		return "", nil, err
	}
	named, err := mentions(c, text, names)
	return text, named, err
}

// mentions finds the names that are mentioned in a text, each as @NAME.
func mentions(c *cobra.Command, text string, names []string) (out []node.Mention, err error) {
	for start := 0; start < len(text); {
		longest := ""
		for _, name := range names {
			if strings.HasPrefix(text[start:], "@"+name) && len(name) > len(longest) {
				longest = name
			}
		}
		if longest == "" {
			start++
			continue
		}
		out = append(out, node.Mention{Start: start, Length: len(longest) + 1, Account: longest})
		start += len(longest) + 1
	}
	for _, name := range names {
		if !strings.Contains(text, "@"+name) {
			return nil, usage(c, "the text does not say @%s", name)
		}
	}
	return out, nil
}

func mentionFlag(c *cobra.Command, names *[]string) *cobra.Command {
	c.Flags().StringArrayVar(names, "mention", nil, "a `member` whom the text names as @MEMBER; may be repeated")
	return c
}

func (a *app) replyCommand() *cobra.Command {
	var names []string
	return mentionFlag(a.onMessage("reply NAME ID TEXT", "Answer a message (- reads the text from stdin)", 3, 3,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (m node.Message, err error) {
			text, named, err := a.said(c, args[2], names)
			if err != nil {
				return m, err
			}
			return cl.SendMessage(ctx, args[0], node.NewMessage{Text: text, ReplyTo: args[1], Mentions: named})
		}), &names)
}

func (a *app) editCommand() *cobra.Command {
	var names []string
	return mentionFlag(a.onMessage("edit NAME ID TEXT", "Give a text of yours another version; the others can see both", 3, 3,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (m node.Message, err error) {
			text, named, err := a.said(c, args[2], names)
			if err != nil {
				return m, err
			}
			return cl.EditMessage(ctx, args[0], args[1], text, named)
		}), &names)
}

func (a *app) deleteCommand() *cobra.Command {
	all := false
	c := a.onMessage("delete NAME ID [--for-all]", "Take a message away, here or from all", 2, 2,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Message, error) {
			return cl.DeleteMessage(ctx, args[0], args[1], all)
		})
	c.Flags().BoolVar(&all, "for-all", false, "from everybody: your own for 48 hours, others' if your role permits it")
	return c
}

func (a *app) reactCommand() *cobra.Command {
	return a.onMessage("react NAME ID [REACTION…]", "Your reactions to a message; none takes them back", 2, -1,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Message, error) {
			return cl.React(ctx, args[0], args[1], args[2:])
		})
}

func (a *app) forwardCommand() *cobra.Command {
	return a.onMessage("forward NAME ID TO", "Send the text of a message to another conversation; from where is not said", 3, 3,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Message, error) {
			return cl.SendMessage(ctx, args[2], node.NewMessage{Forward: &node.Forward{Conversation: args[0], Message: args[1]}})
		})
}

func (a *app) infoCommand() *cobra.Command {
	return a.named(a.command("info NAME ID", "A message with its history, and who has it and has read it", 2, 2,
		func(ctx context.Context, _ *cobra.Command, args []string) error {
			cl := a.client()
			defer cl.Close()
			m, err := cl.Message(ctx, args[0], args[1])
			if err != nil {
				return a.which(err, args[0])
			}
			return a.print(m, func(w io.Writer) {
				fmt.Fprintf(w, "id     %s\nstate  %s\n", m.ID, m.State)
				a.show(w, m.Message)
				for _, v := range m.Versions {
					fmt.Fprintf(w, "said   %s  %s\n", when(v.Sent), paragraph(v.Text))
				}
				for _, r := range m.Receipts {
					fmt.Fprintf(w, "%-5s  delivered %s, read %s\n", safe(r.Name), when(r.Delivered), when(r.Read))
				}
			})
		}), false)
}

func (a *app) markedCommand(use, short string, star bool) *cobra.Command {
	off := false
	c := a.named(a.command(use, short, 1, 2, func(ctx context.Context, c *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if len(args) == 1 {
			if off {
				return usage(c, "--off needs the ID of a message")
			}
			list, err := cl.Marked(ctx, args[0], star)
			if err != nil {
				return a.whom(err)
			}
			for _, m := range list {
				if err := a.print(m, func(w io.Writer) { a.showWithID(w, m) }); err != nil {
					return err
				}
			}
			return nil
		}
		set := cl.Pin
		if star {
			set = cl.Star
		}
		m, err := set(ctx, args[0], args[1], !off)
		if err != nil {
			return a.which(err, args[0])
		}
		return a.print(m, func(io.Writer) { a.say("Done.") })
	}), false)
	c.Flags().BoolVar(&off, "off", false, "no longer")
	return c
}

func (a *app) pollCommand() *cobra.Command {
	multiple := false
	c := a.onMessage("poll NAME QUESTION OPTION OPTION… [--multiple]", "Ask a question with options to vote for", 4, -1,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Message, error) {
			return cl.SendMessage(ctx, args[0], node.NewMessage{Poll: &node.NewPoll{Question: args[1], Options: args[2:], Multiple: multiple}})
		})
	c.Flags().BoolVar(&multiple, "multiple", false, "one may vote for several")
	return c
}

func (a *app) voteCommand() *cobra.Command {
	return a.onMessage("vote NAME ID [NUMBER…]", "Your vote in a poll: options from 1; none takes it back", 2, -1,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (m node.Message, err error) {
			var options []int
			for _, s := range args[2:] {
				n, err := strconv.Atoi(s)
				if err != nil || n < 1 {
					return m, usage(c, "%q is no number of an option", s)
				}
				options = append(options, n-1)
			}
			return cl.Vote(ctx, args[0], args[1], options)
		})
}

func (a *app) closeCommand() *cobra.Command {
	return a.onMessage("close NAME ID", "End a poll of yours", 2, 2,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Message, error) {
			return cl.ClosePoll(ctx, args[0], args[1])
		})
}

// onConversation makes a command that changes what is noted of a conversation.
func (a *app) onConversation(use, short string, least, most int, f func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (node.Conversation, error)) *cobra.Command {
	return a.named(a.command(use, short, least, most, func(ctx context.Context, c *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		conv, err := f(ctx, c, cl, args)
		if err != nil {
			return a.which(err, args[0])
		}
		return a.print(conv, func(io.Writer) { a.say("Done.") })
	}), false)
}

func (a *app) markCommand() *cobra.Command {
	unread := false
	c := a.onConversation("mark NAME [ID] [--unread]", "Note that you have read all, or all up to a message", 1, 2,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (node.Conversation, error) {
			r := node.ReadMark{Unread: unread}
			if len(args) == 2 {
				if unread {
					return node.Conversation{}, usage(c, "--unread is about the whole conversation")
				}
				m, err := cl.Message(ctx, args[0], args[1])
				if err != nil {
					return node.Conversation{}, err
				}
				r.Through = m.ID
			}
			return cl.MarkRead(ctx, args[0], r)
		})
	c.Flags().BoolVar(&unread, "unread", false, "mark the conversation as unread")
	return c
}

func (a *app) muteCommand() *cobra.Command {
	off := false
	c := a.onConversation("mute NAME [DURATION] [--off]", "No notifications of a conversation, for a time such as 8h or for good", 1, 2,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (node.Conversation, error) {
			until := time.Now().AddDate(100, 0, 0)
			switch {
			case off:
				until = time.Unix(0, 0)
			case len(args) == 2:
				d, err := time.ParseDuration(args[1])
				if err != nil || d <= 0 {
					return node.Conversation{}, usage(c, "%q is no duration such as 8h", args[1])
				}
				until = time.Now().Add(d)
			}
			until = until.UTC()
			return cl.ChangeConversation(ctx, args[0], node.ConversationChange{MutedUntil: &until})
		})
	c.Flags().BoolVar(&off, "off", false, "no longer")
	return c
}

func (a *app) archiveCommand() *cobra.Command {
	off := false
	c := a.onConversation("archive NAME [--off]", "Put a conversation away", 1, 1,
		func(ctx context.Context, _ *cobra.Command, cl *api.Client, args []string) (node.Conversation, error) {
			on := !off
			return cl.ChangeConversation(ctx, args[0], node.ConversationChange{Archived: &on})
		})
	c.Flags().BoolVar(&off, "off", false, "take it out again")
	return c
}

func (a *app) timerCommand() *cobra.Command {
	return a.onConversation("timer NAME DURATION|off", "Let new messages disappear from all devices after a time such as 24h", 2, 2,
		func(ctx context.Context, c *cobra.Command, cl *api.Client, args []string) (node.Conversation, error) {
			seconds := 0
			if args[1] != "off" {
				d, err := time.ParseDuration(args[1])
				if err != nil || d < time.Minute || d%time.Minute != 0 {
					return node.Conversation{}, usage(c, "%q is no time of whole minutes such as 30m or 24h", args[1])
				}
				seconds = int(d / time.Second)
			}
			return cl.ChangeConversation(ctx, args[0], node.ConversationChange{Timer: &seconds})
		})
}

func (a *app) draftCommand() *cobra.Command {
	off := false
	c := a.named(a.command("draft NAME [TEXT] [--off]", "Keep a text without sending it; without a TEXT show it", 1, 2,
		func(ctx context.Context, c *cobra.Command, args []string) error {
			cl := a.client()
			defer cl.Close()
			if len(args) == 1 && !off {
				conv, err := cl.Conversation(ctx, args[0])
				if err != nil {
					return a.whom(err)
				}
				d := conv.Draft
				if d == nil {
					d = &node.Draft{}
				}
				return a.print(d, func(w io.Writer) {
					if d.Text != "" {
						fmt.Fprintln(w, paragraph(d.Text))
					}
				})
			}
			d := node.Draft{}
			if len(args) == 2 {
				text, err := a.text(c, args[1])
				if err != nil {
					return err
				}
				d.Text = text
			}
			conv, err := cl.ChangeConversation(ctx, args[0], node.ConversationChange{Draft: &d})
			if err != nil {
				return a.whom(err)
			}
			return a.print(conv, func(io.Writer) { a.say("Done.") })
		}), false)
	c.Flags().BoolVar(&off, "off", false, "forget it")
	return c
}

func (a *app) laterCommand() *cobra.Command {
	cancel := uint64(0)
	c := a.named(a.command("later NAME [--cancel NUMBER]", "Texts that are to be sent later (see send --at)", 1, 1,
		func(ctx context.Context, c *cobra.Command, args []string) error {
			cl := a.client()
			defer cl.Close()
			if c.Flags().Changed("cancel") {
				if err := cl.Unschedule(ctx, args[0], cancel); err != nil {
					return hint(err, "see the numbers: sotto chat later "+args[0])
				}
				return a.print(map[string]uint64{"cancelled": cancel}, func(io.Writer) { a.say("It is not sent.") })
			}
			list, err := cl.Scheduled(ctx, args[0])
			if err != nil {
				return a.whom(err)
			}
			return a.print(map[string][]node.Scheduled{"scheduled": list}, func(w io.Writer) {
				for _, l := range list {
					fmt.Fprintf(w, "%d  %s  %s\n", l.ID, when(l.At), paragraph(l.Text))
				}
			})
		}), false)
	c.Flags().Uint64Var(&cancel, "cancel", 0, "take the text of this `number` back")
	return c
}

// sendAt reads when a text is to be sent: a time as RFC 3339 has it, or so long from now.
func sendAt(c *cobra.Command, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return time.Now().Add(d).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usage(c, "--at %s: a time such as 2026-12-24T18:00:00Z, or a duration such as 8h", s)
	}
	return t.UTC(), nil
}
