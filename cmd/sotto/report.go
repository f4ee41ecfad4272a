package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/content"
	reports "sotto/node/report"
)

func (a *app) reportCommand() *cobra.Command {
	return a.group("report", "Show messages to somebody outside, with proof of who wrote them", a.reportMakeCommand(), a.reportCheckCommand())
}

func (a *app) reportMakeCommand() *cobra.Command {
	var reason, out string
	var block bool
	c := a.named(a.command("make NAME ID... --out FILE [--reason TEXT] [--block]", "Write a report of messages into a file; nothing is sent", 2, -1,
		func(ctx context.Context, c *cobra.Command, args []string) error {
			if out == "" {
				return usage(c, "--out is missing: the file to write")
			}
			cl := a.client()
			defer cl.Close()
			r, err := cl.Report(ctx, args[0], args[1:], reason)
			if err != nil {
				return a.whom(err)
			}
			// A report that is there is not replaced: it may be the only one.
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(r.Data)
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return fmt.Errorf("write %s: %w", out, err)
			}
			if block {
				if _, err := cl.Block(ctx, args[0], true); err != nil {
					return fmt.Errorf("%w: the report is written; blocking: %w", errPartly, err)
				}
			}
			return a.print(map[string]any{"file": out, "messages": r.Messages, "blocked": block}, func(io.Writer) {
				a.say("%s in %s. Whoever has the file sees who wrote them, and the name and roles of the conversation; not who you are.", count(r.Messages, "message is", "messages are"), safe(out))
				if block {
					a.say("%s is blocked.", safe(args[0]))
				}
			})
		}), false)
	c.Flags().StringVar(&out, "out", "", "the `file` to write")
	c.Flags().StringVar(&reason, "reason", "", "what is wrong with the messages, at most 4,096 `bytes`")
	c.Flags().BoolVar(&block, "block", false, "block the contact as well")
	return c
}

// statement is what a report proves of one message.
type statement struct {
	ID           string `json:"id"`
	Account      string `json:"account"`
	Device       string `json:"device"`
	Conversation string `json:"conversation"`
	Epoch        uint64 `json:"epoch"`
	Sent         string `json:"sent"` // by the sender's clock
	Kind         uint64 `json:"kind"`
	Text         string `json:"text,omitempty"`
}

func (a *app) reportCheckCommand() *cobra.Command {
	return a.command("check FILE", "Check a report, and show what it proves; this needs no account", 1, 1, func(_ context.Context, _ *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, reports.MaxEncoded+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", args[0], err)
		}
		r, err := reports.Parse(b)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", node.ErrInvalid, args[0], err)
		}
		proved, err := r.Verify()
		if err != nil {
			return fmt.Errorf("%w: %s: %w", node.ErrNotTrusted, args[0], err)
		}
		list := make([]statement, 0, len(proved))
		for _, p := range proved {
			list = append(list, statement{ID: p.ID.String(), Account: p.Account.String(), Device: p.Device.String(), Conversation: hex.EncodeToString(p.Conversation),
				Epoch: p.Epoch, Sent: p.Sent.Format("2006-01-02T15:04:05.000Z"), Kind: uint64(p.Message.Kind), Text: p.Message.Text})
		}
		return a.print(map[string]any{"reason": r.Reason, "messages": list}, func(w io.Writer) {
			if r.Reason != "" {
				a.say("Whoever made the report says, without proof: %s", safe(r.Reason))
			}
			a.say("Each of these was signed by a device of the account named; the time is the sender's.")
			for i, s := range list {
				text := s.Text
				if proved[i].Message.Kind != content.Text {
					text = fmt.Sprintf("(a message of kind %d)", s.Kind)
				}
				fmt.Fprintf(w, "%s  %s  in %s\n    %s\n", s.Sent, s.Account, s.Conversation[:min(16, len(s.Conversation))], safe(text))
			}
		})
	})
}
