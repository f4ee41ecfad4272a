package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/crypto/identity"
	"sotto/node"
	"sotto/node/api"
)

func (a *app) contactCommand() *cobra.Command {
	return a.group("contact", "People you know",
		a.inviteCommand(), a.acceptCommand(), a.contactListCommand(), a.renameCommand(), a.verifyCommand(),
		a.blockCommand("block", "Take nothing more from somebody, and send nothing", true), a.blockCommand("unblock", "No longer block somebody", false),
		a.decideCommand("admit", "Make a contact of somebody who asks to be one", true), a.decideCommand("decline", "Forget somebody who asks; they are not told", false),
		a.invitesCommand(), a.revokeCommand())
}

func (a *app) inviteCommand() *cobra.Command {
	var o api.InviteOptions
	var draw bool
	c := a.command("invite [--expires 24h] [--name NAME] [--ask] [--qr]", "Make a link that lets somebody become a contact, once", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			if o.Expires < time.Second {
				return usage(c, "--expires %v is too short", o.Expires)
			}
			cl := a.client()
			defer cl.Close()
			in, err := cl.Invite(ctx, o)
			if err != nil {
				return err
			}
			if !a.json {
				if o.Ask {
					a.say("Whoever opens this link first asks to be your contact: see sotto contact list. It is good until %s, and for one.", when(in.Expires))
				} else {
					a.say("Whoever opens this link first becomes your contact. It is good until %s, and for one.", when(in.Expires))
				}
				if in.Words != "" {
					a.say("%s", safe(in.Words))
				}
			}
			var drawn error
			return errors.Join(a.print(in, func(w io.Writer) {
				fmt.Fprintln(w, in.Link)
				if draw {
					drawn = showQR(w, in.Link)
				}
			}), drawn)
		})
	c.Flags().BoolVar(&draw, "qr", false, "draw it as a QR code, too")
	c.Flags().DurationVar(&o.Expires, "expires", 24*time.Hour, "how `long` it is good")
	c.Flags().StringVar(&o.Name, "name", "", "what to call who opens it (default: their profile name)")
	c.Flags().BoolVar(&o.Ask, "ask", false, "decide about who opens it before they are a contact")
	return c
}

func (a *app) acceptCommand() *cobra.Command {
	var name string
	var wait time.Duration
	c := a.lasting("accept LINK --name NAME [--wait DURATION]", "Open a link (- reads it from stdin)", 1, 1,
		func(ctx context.Context, c *cobra.Command, args []string) error {
			if wait < 0 {
				return usage(c, "--wait %v is in the past", wait)
			}
			link := args[0]
			if link == "-" {
				b, err := io.ReadAll(io.LimitReader(a.in, 4<<10))
				if err != nil {
					return fmt.Errorf("read the link: %w", err)
				}
				link = string(b)
			}
			cl := a.client()
			defer cl.Close()
			return a.accept(ctx, cl, strings.TrimSpace(link), name, wait)
		})
	c.Flags().StringVar(&name, "name", "", "what to call who made it (default: their profile name)")
	c.Flags().DurationVar(&wait, "wait", 0, "how `long` to wait until both sides have heard each other")
	return c
}

func (a *app) accept(ctx context.Context, cl *api.Client, link, name string, wait time.Duration) error {
	begin, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	after, err := cl.LastEvent(begin)
	if err != nil {
		return err
	}
	one, err := cl.Accept(begin, link, name)
	if err != nil {
		return err
	}
	if wait > 0 {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		one, err = settle(ctx, cl, one, after)
		if errors.Is(err, context.DeadlineExceeded) {
			why := fmt.Sprintf("%s is still pending after %v: %s", one.Name, wait, firstOf(one.Reason, "it waits"))
			err = fmt.Errorf("%s: %w", why, err)
			if one.Cause != "" {
				err = &api.Problem{Code: one.Cause, Detail: why}
			}
			err = hint(err, "it goes on by itself: sotto contact list")
		} else if err != nil {
			return err
		}
	}
	return errors.Join(err, a.print(one, func(io.Writer) {
		switch {
		case one.State == node.ContactEstablished:
			a.say("%s is your contact.", safe(one.Name))
		case err == nil:
			a.say("%s is pending; what you send is queued until their node has answered.", safe(one.Name))
		}
	}))
}

// settle waits until a contact is no longer pending. The events after the one
// numbered after tell of it.
func settle(ctx context.Context, cl *api.Client, one node.Contact, after uint64) (node.Contact, error) {
	for e, err := range cl.Events(ctx, after) {
		if err != nil {
			return one, err
		}
		if e.Type != node.EventContact {
			continue
		}
		// Its id may have been provisional; its name is our own.
		now, err := cl.Contact(ctx, one.Name)
		if errors.Is(err, node.ErrNotFound) {
			now, err = cl.Contact(ctx, one.ID)
		}
		if err != nil {
			return one, err
		}
		switch one = now; one.State {
		case node.ContactEstablished:
			return one, nil
		case node.ContactFailed:
			return one, &api.Problem{Code: firstOf(one.Cause, "internal"), Detail: one.Name + ": " + one.Reason}
		}
	}
	return one, ctx.Err()
}

func (a *app) contactListCommand() *cobra.Command {
	return a.command("list", "All contacts", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		list, err := cl.Contacts(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Contact{"contacts": list}, func(w io.Writer) {
			if len(list) == 0 {
				a.say("Nobody yet. Make a link: sotto contact invite")
				return
			}
			var rows [][]string
			for _, c := range list {
				var notes []string
				if c.Blocked {
					notes = append(notes, "blocked")
				}
				if c.Verified {
					notes = append(notes, "verified")
				}
				if c.Changed {
					notes = append(notes, "account key changed since you verified them: compare again")
				}
				if c.Profile != "" && c.Profile != c.Name {
					notes = append(notes, "calls themselves "+safe(c.Profile))
				}
				if c.Reason != "" {
					notes = append(notes, safe(c.Reason))
				}
				rows = append(rows, []string{safe(c.Name), c.State, short(c.ID), strings.Join(notes, ", ")})
			}
			table(w, []string{"NAME", "STATE", "ID", ""}, rows)
		})
	})
}

func (a *app) renameCommand() *cobra.Command {
	return a.named(a.command("rename OLD NEW", "Call somebody otherwise", 2, 2, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		c, err := cl.Rename(ctx, args[0], args[1])
		if err != nil {
			return a.whom(err)
		}
		return a.print(c, func(io.Writer) { a.say("%s is %s now.", safe(args[0]), safe(c.Name)) })
	}), false)
}

// whom adds to a name that nobody has where the names are.
func (a *app) whom(err error) error {
	if errors.Is(err, node.ErrNotFound) {
		return hint(err, "see the names: sotto contact list")
	}
	return err
}

func (a *app) decideCommand(use, short string, accept bool) *cobra.Command {
	return a.named(a.command(use+" NAME", short, 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		c, err := cl.Decide(ctx, args[0], accept)
		if err != nil {
			return a.whom(err)
		}
		return a.print(c, func(io.Writer) {
			if accept {
				a.say("%s becomes your contact.", safe(c.Name))
			} else {
				a.say("%s is forgotten.", safe(c.Name))
			}
		})
	}), false)
}

func (a *app) blockCommand(use, short string, blocked bool) *cobra.Command {
	return a.named(a.command(use+" NAME...", short, 1, -1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		done := []node.Contact{}
		var failed []error
		for _, name := range args {
			c, err := cl.Block(ctx, name, blocked)
			if err != nil {
				failed = append(failed, a.whom(err))
				continue
			}
			done = append(done, c)
		}
		if len(done) == 0 {
			return errors.Join(failed...)
		}
		err := a.print(map[string][]node.Contact{"contacts": done}, func(io.Writer) {
			for _, c := range done {
				a.say("%s is %sed.", safe(c.Name), use)
			}
		})
		if len(failed) > 0 {
			return fmt.Errorf("%w: %w", errPartly, errors.Join(append(failed, err)...))
		}
		return err
	}), true)
}

func (a *app) verifyCommand() *cobra.Command {
	var draw, undo bool
	c := a.named(a.command("verify NAME [DIGITS | CODE] [--qr] [--undo]", "Show the safety number to compare, or mark somebody as verified by theirs", 1, -1,
		func(ctx context.Context, c *cobra.Command, args []string) error {
			digits := strings.Join(strings.Fields(strings.Join(args[1:], "")), "")
			switch {
			case undo && (digits != "" || draw):
				return usage(c, "--undo takes a name and nothing else")
			case draw && digits != "":
				return usage(c, "--qr shows your code and takes none")
			case len(args) > 1 && !identity.IsSafetyCode(digits) && (len(digits) != 60 || strings.Trim(digits, "0123456789") != ""):
				return usage(c, "a safety number has 60 digits, a safety code begins with sotto:v#, and this is neither")
			}
			cl := a.client()
			defer cl.Close()
			var n node.SafetyNumber
			var err error
			switch {
			case undo:
				n, err = cl.Unverify(ctx, args[0])
			case digits == "":
				n, err = cl.SafetyNumber(ctx, args[0])
			default:
				n, err = cl.SetVerified(ctx, args[0], digits)
			}
			if errors.Is(err, node.ErrNotTrusted) {
				return hint(err, "compare again; if it stays so, somebody is between you")
			} else if err != nil {
				return a.whom(err)
			}
			var drawn error
			return errors.Join(a.print(n, func(w io.Writer) {
				switch {
				case undo:
					a.say("%s is verified no longer.", safe(n.Name))
					return
				case digits != "":
					a.say("They are the same: %s is verified.", safe(n.Name))
					return
				case n.Verified:
					a.say("%s is verified. The number is", safe(n.Name))
				default:
					if n.Changed {
						a.say("%s has another account key than the one you verified. Somebody may stand between you.", safe(n.Name))
					}
					a.say("Compare with what %s sees, over a call or side by side. If it is the same:\n  sotto contact verify %s DIGITS", safe(n.Name), safe(n.Name))
				}
				fmt.Fprint(w, groups(n.Number))
				if draw {
					a.say("Or let %s scan this:", safe(n.Name))
					drawn = showQR(w, n.Code)
				}
			}), drawn)
		}), false)
	c.Flags().BoolVar(&draw, "qr", false, "draw your safety code for them to scan")
	c.Flags().BoolVar(&undo, "undo", false, "mark them as not verified")
	return c
}

// groups writes a safety number as three lines of four groups of five digits.
func groups(number string) string {
	var b strings.Builder
	for i := 0; i < len(number); i += 5 {
		b.WriteString(number[i:min(i+5, len(number))])
		if i%20 == 15 || i+5 >= len(number) {
			b.WriteByte('\n')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func (a *app) invitesCommand() *cobra.Command {
	return a.command("invites", "Links that can still be used", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		list, err := cl.Invites(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Invite{"invites": list}, func(w io.Writer) {
			if len(list) == 0 {
				a.say("None.")
				return
			}
			var rows [][]string
			for _, in := range list {
				note := ""
				if !in.Taken.IsZero() {
					note = "taken " + when(in.Taken) + " by somebody who has not answered yet"
				}
				rows = append(rows, []string{short(in.ID), when(in.Expires), in.Reach, note})
			}
			table(w, []string{"ID", "EXPIRES", "WHO CAN REACH IT", ""}, rows)
		})
	})
}

func (a *app) revokeCommand() *cobra.Command {
	return a.command("revoke ID", "Make a link useless", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		list, err := cl.Invites(ctx)
		if err != nil {
			return err
		}
		id := args[0]
		for _, in := range list {
			if strings.HasPrefix(in.ID, args[0]) {
				if id != args[0] {
					return fmt.Errorf("invite %q: %w", args[0], node.ErrAmbiguous)
				}
				id = in.ID
			}
		}
		if err := cl.RevokeInvite(ctx, id); errors.Is(err, node.ErrNotFound) {
			return hint(err, "see them: sotto contact invites")
		} else if err != nil {
			return err
		}
		return a.print(map[string]string{"revoked": id}, func(io.Writer) { a.say("The link is useless now.") })
	})
}
