package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

func (a *app) deviceCommand() *cobra.Command {
	return a.group("device", "Your own devices", a.deviceListCommand(), a.deviceLinkCommand(), a.pendingCommand(), a.confirmCommand(), a.cancelCommand(),
		a.renameDeviceCommand(), a.verifyDeviceCommand(), a.suspendCommand(), a.revokeDeviceCommand(), a.restoreCommand())
}

func (a *app) deviceListCommand() *cobra.Command {
	return a.command("list", "The devices of your account", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		all, err := cl.Devices(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string]any{"devices": all}, func(w io.Writer) {
			var rows [][]string
			for _, d := range all {
				rows = append(rows, []string{safe(d.Name), d.State, seen(d), d.Fingerprint, short(d.ID), strings.Join(remarks(d), ", ")})
			}
			table(w, []string{"NAME", "STATE", "LAST SEEN", "FINGERPRINT", "ID", ""}, rows)
		})
	})
}

func seen(d node.Device) string {
	switch {
	case d.This:
		return "now"
	case d.Seen.IsZero():
		return "not yet"
	}
	return when(d.Seen)
}

func remarks(d node.Device) (out []string) {
	if d.This {
		out = append(out, "this device")
	}
	if d.AccountKey {
		out = append(out, "holds the account key")
	}
	if d.Verified {
		out = append(out, "verified")
	}
	if !d.Quarantine.IsZero() {
		out = append(out, "new until "+when(d.Quarantine))
	}
	return out
}

type enterOptions struct {
	Link, Name string
	Passphrase []byte
	Show       func(digits string)
}

func (a *app) deviceLinkCommand() *cobra.Command {
	var enter, name string
	var noWait bool
	c := a.lasting("link [--no-wait] | link --enter LINK [--name NAME]", "Make this account's device of another machine, or of this one", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			switch {
			case enter == "" && name != "":
				return usage(c, "--name goes with --enter")
			case enter != "" && noWait:
				return usage(c, "--no-wait does not go with --enter")
			case enter != "":
				return a.enterLink(ctx, enter, name)
			}
			return a.makeLink(ctx, !noWait && isTerminal(a.in))
		})
	c.Flags().StringVar(&enter, "enter", "", "make this machine a device of the account that this `link` is of (- reads it from stdin)")
	c.Flags().StringVar(&name, "name", "", "what to call this `device` (default: the machine's name)")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return at once; sotto device confirm goes on")
	return c
}

// makeLink makes a link and, if somebody is there to type, goes on until the device is
// one of the account.
func (a *app) makeLink(ctx context.Context, wait bool) error {
	cl := a.client()
	defer cl.Close()
	begin, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	after, err := cl.LastEvent(begin)
	if err != nil {
		return err
	}
	l, err := cl.LinkDevice(begin)
	if err != nil {
		return deviceHint(err)
	}
	if !a.json {
		a.say("At the new device, by %s:\n  sotto device link --enter LINK\nGive this link to nobody: who enters it and is confirmed reads all you read.", l.Expires.Local().Format("15:04"))
		if l.Words != "" {
			a.say("%s", safe(l.Words))
		}
	}
	if err := a.print(l, func(w io.Writer) { fmt.Fprintln(w, l.Link) }); err != nil {
		return err
	}
	if !wait {
		if !a.json {
			a.say("Then, with the digits that it shows: sotto device confirm DIGITS")
		}
		return nil
	}
	if l, err = a.linkGets(ctx, cl, after, node.LinkCompare); err != nil {
		return err
	}
	a.say("A device called %s has entered it.", safe(l.Name))
	digits, err := a.ask(ctx, "The digits that it shows: ")
	if err != nil {
		return err
	}
	return a.confirm(ctx, cl, string(digits))
}

// linkGets waits until the link has got so far.
func (a *app) linkGets(ctx context.Context, cl *api.Client, after uint64, far ...string) (l node.DeviceLink, err error) {
	for e, err := range cl.Events(ctx, after) {
		if err != nil {
			return l, err
		}
		if e.Type != node.EventLink {
			continue
		}
		if l, err = cl.Link(ctx); err != nil {
			return l, err
		}
		for _, state := range far {
			if l.State == state {
				return l, nil
			}
		}
		if l.State == node.LinkFailed {
			return l, &api.Problem{Code: l.Cause, Detail: "the device is not linked: " + l.Reason}
		}
	}
	return l, api.ErrStopped
}

func (a *app) confirmCommand() *cobra.Command {
	return a.lasting("confirm DIGITS", "Make the device that shows these digits one of your account", 1, 1,
		func(ctx context.Context, _ *cobra.Command, args []string) error {
			cl := a.client()
			defer cl.Close()
			return a.confirm(ctx, cl, args[0])
		})
}

func (a *app) confirm(ctx context.Context, cl *api.Client, digits string) error {
	passphrase, err := a.passphrase(ctx, false)
	if err != nil {
		return err
	}
	defer clear(passphrase)
	l, err := cl.ConfirmLink(ctx, digits, passphrase)
	if err != nil {
		return deviceHint(err)
	}
	return a.print(l, func(io.Writer) {
		a.say("%s is a device of your account. Your contacts are told that there is one more.", safe(l.Name))
		a.say("It comes in as soon as its node runs: there, sotto up.")
	})
}

func (a *app) pendingCommand() *cobra.Command {
	return a.command("pending", "How the link of a device stands", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		l, err := cl.Link(ctx)
		if err != nil {
			return err
		}
		return a.print(l, func(w io.Writer) {
			fmt.Fprintln(w, l.State)
			switch l.State {
			case node.LinkCompare:
				a.say("%s must show %s.", safe(l.Name), l.Digits)
			case node.LinkFailed:
				a.say("%s", safe(l.Reason))
			}
		})
	})
}

func (a *app) cancelCommand() *cobra.Command {
	return a.command("cancel", "End the link that is under way", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		if err := cl.CancelLink(ctx); err != nil {
			return err
		}
		l, err := cl.Link(ctx)
		if err != nil {
			return err
		}
		return a.print(l, func(io.Writer) { a.say("The link is void.") })
	})
}

// enterLink makes this machine a device of another's account. The home is ours meanwhile.
func (a *app) enterLink(ctx context.Context, link, name string) error {
	if link == "-" {
		b, err := io.ReadAll(io.LimitReader(a.in, 4<<10))
		if err != nil {
			return fmt.Errorf("read the link: %w", err)
		}
		link = string(b)
	}
	lock, err := api.Lock(a.home)
	if err != nil {
		return err
	}
	defer lock.Close()
	passphrase, err := a.passphrase(ctx, true)
	if err != nil {
		return err
	}
	defer clear(passphrase)
	shown := error(nil)
	acc, err := a.engine.Enter(ctx, a.home, enterOptions{Link: strings.TrimSpace(link), Name: name, Passphrase: passphrase, Show: func(digits string) {
		if a.json {
			shown = a.line(map[string]string{"digits": digits})
			return
		}
		a.say("This device shows %s. Type that at the other one.", digits)
	}})
	if err := errors.Join(err, shown); err != nil {
		return err
	}
	acc.Home = a.home
	return a.print(acc, func(io.Writer) {
		a.say("This is a device of account %s now. Start it: sotto up --detach", short(acc.Account))
	})
}

func (a *app) oneDevice(use, brief string, least, most int, say string, f func(ctx context.Context, cl *api.Client, args []string) (node.Device, error)) *cobra.Command {
	return a.lasting(use, brief, least, most, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		d, err := f(ctx, cl, args)
		if err != nil {
			return deviceHint(err)
		}
		return a.print(d, func(io.Writer) { a.say(say, safe(d.Name)) })
	})
}

// deviceHint says what to do next where that is another thing than with contacts and
// groups.
func deviceHint(err error) error {
	switch {
	case errors.Is(err, node.ErrAmbiguous):
		return hint(err, "use more of the id: sotto device list")
	case errors.Is(err, node.ErrNotAllowed):
		return hint(err, "see which device: sotto device list")
	}
	return err
}

func (a *app) renameDeviceCommand() *cobra.Command {
	return a.oneDevice("rename DEVICE NAME", "Call a device otherwise", 2, 2, "It is called %s now.", func(ctx context.Context, cl *api.Client, args []string) (node.Device, error) {
		return cl.RenameDevice(ctx, args[0], args[1])
	})
}

func (a *app) verifyDeviceCommand() *cobra.Command {
	return a.lasting("verify DEVICE [FINGERPRINT]", "Show a device's fingerprint, or mark it as compared", 1, -1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if len(args) > 1 {
			d, err := cl.VerifyDevice(ctx, args[0], strings.Join(args[1:], " "))
			if err != nil {
				return deviceHint(err)
			}
			return a.print(d, func(io.Writer) { a.say("%s is verified.", safe(d.Name)) })
		}
		all, err := cl.Devices(ctx)
		if err != nil {
			return err
		}
		for _, d := range all {
			if d.Name == args[0] || d.ID == args[0] || args[0] == "this" && d.This {
				return a.print(d, func(w io.Writer) {
					a.say("%s itself must show the same with sotto device verify this.", safe(d.Name))
					fmt.Fprintln(w, d.Fingerprint)
				})
			}
		}
		return fmt.Errorf("%w: your account has no device %q; sotto device list shows them", node.ErrNotFound, args[0])
	})
}

func (a *app) suspendCommand() *cobra.Command {
	return a.oneDevice("suspend DEVICE", "Stop a device at once, from any of yours", 1, 1, "%s is suspended: it is taken out of all conversations. The account key can end that: sotto device restore.",
		func(ctx context.Context, cl *api.Client, args []string) (node.Device, error) {
			return cl.SuspendDevice(ctx, args[0])
		})
}

func (a *app) revokeDeviceCommand() *cobra.Command {
	return a.oneDevice("revoke DEVICE", "End a device for good", 1, 1, "%s is revoked for good.", a.withKey((*api.Client).RevokeDevice))
}

func (a *app) restoreCommand() *cobra.Command {
	return a.oneDevice("restore DEVICE", "End a suspension", 1, 1, "%s takes part again.", a.withKey((*api.Client).RestoreDevice))
}

// withKey asks for the passphrase, which opens the account key.
func (a *app) withKey(f func(cl *api.Client, ctx context.Context, ref string, passphrase []byte) (node.Device, error)) func(context.Context, *api.Client, []string) (node.Device, error) {
	return func(ctx context.Context, cl *api.Client, args []string) (node.Device, error) {
		passphrase, err := a.passphrase(ctx, false)
		if err != nil {
			return node.Device{}, err
		}
		defer clear(passphrase)
		return f(cl, ctx, args[0], passphrase)
	}
}
