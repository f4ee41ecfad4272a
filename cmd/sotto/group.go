package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

func (a *app) groupCommand() *cobra.Command {
	change := func(use, short string, least, most int, f func(c *cobra.Command, args []string) (node.GroupChange, error)) *cobra.Command {
		return a.command(use, short, least, most, func(ctx context.Context, c *cobra.Command, args []string) error {
			g, err := f(c, args)
			if err != nil {
				return err
			}
			return a.changeGroup(ctx, args[0], g)
		})
	}
	return a.group("group", "Conversations of many people", a.createGroupCommand(), a.membersCommand(),
		a.named(change("add GROUP CONTACT…", "Add contacts", 2, -1, func(_ *cobra.Command, args []string) (node.GroupChange, error) {
			return node.GroupChange{Add: args[1:]}, nil
		}), true),
		change("remove GROUP MEMBER…", "Remove members", 2, -1, func(_ *cobra.Command, args []string) (node.GroupChange, error) {
			return node.GroupChange{Remove: args[1:]}, nil
		}),
		change("rename GROUP NAME", "Call the group otherwise", 2, 2, func(_ *cobra.Command, args []string) (node.GroupChange, error) {
			return node.GroupChange{Name: &args[1]}, nil
		}),
		change("describe GROUP TEXT", "Say what the group is about", 2, 2, func(_ *cobra.Command, args []string) (node.GroupChange, error) {
			return node.GroupChange{Description: &args[1]}, nil
		}),
		change("role GROUP MEMBER member|admin|owner", "Give a member a role", 3, 3, func(_ *cobra.Command, args []string) (node.GroupChange, error) {
			return node.GroupChange{Roles: []node.RoleOf{{Member: args[1], Role: args[2]}}}, nil
		}),
		change("announce GROUP on|off", "Let only admins and owners write, or all", 2, 2, func(c *cobra.Command, args []string) (node.GroupChange, error) {
			on := args[1] == "on"
			if !on && args[1] != "off" {
				return node.GroupChange{}, usage(c, "%q is neither on nor off", args[1])
			}
			return node.GroupChange{Announce: &on}, nil
		}),
		a.policyCommand(), a.pictureCommand(), a.linkCommand(), a.joinCommand(), a.requestsCommand(), a.answerCommand("approve", "Let somebody in who asks", true),
		a.answerCommand("decline", "Do not let somebody in; they are not told", false), a.leaveCommand())
}

func (a *app) policyCommand() *cobra.Command {
	return a.command("policy GROUP [member|admin RIGHT on|off]", "What members, admins and owners may do; owners change it", 1, 4, func(ctx context.Context, c *cobra.Command, args []string) error {
		if len(args) == 4 {
			on := args[3] == "on"
			if !on && args[3] != "off" {
				return usage(c, "%q is neither on nor off", args[3])
			}
			return a.changeGroup(ctx, args[0], node.GroupChange{Policy: []node.Policy{{Role: args[1], Right: args[2], Allowed: on}}})
		}
		if len(args) != 1 {
			return usage(c, "a change of policy takes a role, a right, and on or off")
		}
		cl := a.client()
		defer cl.Close()
		g, err := cl.Group(ctx, args[0])
		if err != nil {
			return a.whom(err)
		}
		return a.print(g, func(w io.Writer) {
			var rights []string
			allowed := map[string]map[string]string{}
			for _, p := range g.Policy {
				if allowed[p.Right] == nil {
					rights, allowed[p.Right] = append(rights, p.Right), map[string]string{}
				}
				allowed[p.Right][p.Role] = map[bool]string{true: "yes", false: "no"}[p.Allowed]
			}
			var rows [][]string
			for _, r := range rights {
				rows = append(rows, []string{r, allowed[r]["member"], allowed[r]["admin"], allowed[r]["owner"]})
			}
			table(w, []string{"RIGHT", "MEMBER", "ADMIN", "OWNER"}, rows)
		})
	})
}

func (a *app) pictureCommand() *cobra.Command {
	return a.command("picture GROUP [FILE|none]", "Give the group a picture, a JPEG or PNG; without a file it is written to standard output", 1, 2, func(ctx context.Context, c *cobra.Command, args []string) error {
		if len(args) == 2 {
			small := []byte{}
			if args[1] != "none" {
				file, err := readPicture(args[1])
				if err != nil {
					return err
				}
				if small, err = node.ShrinkPicture(file); err != nil {
					return err
				}
			}
			return a.changeGroup(ctx, args[0], node.GroupChange{Picture: &small})
		}
		cl := a.client()
		defer cl.Close()
		g, err := cl.Group(ctx, args[0])
		if err != nil {
			return a.whom(err)
		}
		if len(g.Picture) == 0 {
			return fmt.Errorf("%w: the group has no picture", node.ErrNotFound)
		}
		return a.print(g, func(w io.Writer) { w.Write(g.Picture) })
	})
}

// readPicture reads a file that is no larger than a picture may be.
func readPicture(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, node.MaxPictureFile+1))
}

func (a *app) createGroupCommand() *cobra.Command {
	var o node.GroupOptions
	c := a.command("create NAME [CONTACT…] [--about TEXT] [--max-leaves NUMBER]", "Make a group and add contacts to it", 1, -1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		o.Name, o.Members = args[0], args[1:]
		made, err := cl.CreateGroup(ctx, o)
		if err != nil {
			return a.whom(err)
		}
		g, err := a.settled(ctx, cl, made.ID)
		if err != nil {
			return err
		}
		return a.print(g, func(io.Writer) { a.sayGroup(g, "The group is made.") })
	})
	c.Flags().StringVar(&o.Description, "about", "", "what the group is about: a `text`")
	c.Flags().IntVar(&o.MaxLeaves, "max-leaves", 0, "how many devices it has room for, for good: a `number` up to 750; 256 if not given")
	return a.named(c, true)
}

// changeGroup asks for a change and waits a while for it to come about.
func (a *app) changeGroup(ctx context.Context, ref string, g node.GroupChange) error {
	cl := a.client()
	defer cl.Close()
	at, err := cl.ChangeGroup(ctx, ref, g)
	if err != nil {
		return a.whom(err)
	}
	if at, err = a.settled(ctx, cl, at.ID); err != nil {
		return err
	}
	return a.print(at, func(io.Writer) { a.sayGroup(at, "Done.") })
}

func (a *app) sayGroup(g node.Group, done string) {
	if g.Changing > 0 {
		a.say("Noted: it comes about as soon as the relay can be reached.")
		return
	}
	a.say("%s", done)
}

// settleTime is how long a command waits for a change of a group to come about.
const settleTime = 10 * time.Second

// settled returns a group when no change of ours is under way, or after a while as it is.
func (a *app) settled(ctx context.Context, cl *api.Client, id string) (g node.Group, err error) {
	last, err := cl.LastEvent(ctx)
	if err != nil {
		return g, err
	}
	if g, err = cl.Group(ctx, id); err != nil || g.Changing == 0 {
		return g, err
	}
	wait, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for _, err := range cl.Events(wait, last) {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break
		}
		if err != nil {
			return g, err
		}
		if g, err = cl.Group(ctx, id); err != nil || g.Changing == 0 {
			return g, err
		}
	}
	return g, nil
}

func (a *app) membersCommand() *cobra.Command {
	return a.command("members GROUP", "Who is in a group, and as what", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		g, err := cl.Group(ctx, args[0])
		if err != nil {
			return a.whom(err)
		}
		return a.print(g, func(w io.Writer) {
			if g.Description != "" {
				a.say("%s: %s", safe(g.Name), safe(g.Description))
			}
			if g.Announce {
				a.say("Only admins and owners write here.")
			}
			var rows [][]string
			for _, m := range g.Members {
				you := ""
				if m.You {
					you = "you"
				}
				rows = append(rows, []string{safe(m.Name), m.Role, count(m.Devices, "device", "devices"), short(m.Account), you})
			}
			table(w, []string{"NAME", "ROLE", "DEVICES", "ACCOUNT", ""}, rows)
		})
	})
}

func (a *app) leaveCommand() *cobra.Command {
	return a.command("leave GROUP", "Leave a group; what was said stays here", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if err := cl.LeaveGroup(ctx, args[0]); err != nil {
			return a.whom(err)
		}
		c, err := cl.Conversation(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(c, func(io.Writer) {
			if c.State == node.StateLeft {
				a.say("You have left %s.", safe(c.Name))
			} else {
				a.say("You leave %s as soon as another member's node has seen it.", safe(c.Name))
			}
		})
	})
}

func (a *app) linkCommand() *cobra.Command {
	var expires time.Duration
	var show bool
	var revoke string
	c := a.command("link GROUP [--expires DURATION] | --list | --revoke ID", "Make a link to a group: who opens it asks to be let in", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if revoke != "" {
			if err := cl.RevokeInvite(ctx, revoke); err != nil {
				return a.whom(err)
			}
			return a.print(map[string]string{"revoked": revoke}, func(io.Writer) { a.say("The link is useless now.") })
		}
		if show {
			links, err := cl.GroupLinks(ctx, args[0])
			if err != nil {
				return a.whom(err)
			}
			return a.print(map[string][]node.GroupLink{"links": orNone(links)}, func(w io.Writer) {
				var rows [][]string
				for _, l := range links {
					rows = append(rows, []string{l.ID, l.Expires.Local().Format("2006-01-02 15:04")})
				}
				table(w, []string{"ID", "EXPIRES"}, rows)
			})
		}
		l, err := cl.LinkGroup(ctx, args[0], expires)
		if err != nil {
			return a.whom(err)
		}
		return a.print(l, func(w io.Writer) {
			fmt.Fprintln(w, l.Link)
			a.say("Whoever opens it asks to be let in: sotto group requests %s. It works until %s. %s", safe(args[0]), l.Expires.Local().Format("2006-01-02 15:04"), l.Words)
		})
	})
	c.Flags().DurationVar(&expires, "expires", 0, "how long it can be opened: a `duration`, 168h if not given")
	c.Flags().BoolVar(&show, "list", false, "show the links that can be opened")
	c.Flags().StringVar(&revoke, "revoke", "", "make the link with this `id` useless")
	return c
}

func (a *app) joinCommand() *cobra.Command {
	return a.command("join [LINK]", "Open a link to a group and ask to be let in; without one, show what came of those", 0, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if len(args) == 1 {
			j, err := cl.JoinGroup(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(j, func(io.Writer) {
				a.say("You have asked to be let in. The group is there as soon as somebody has done that.")
			})
		}
		all, err := cl.Joinings(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Joining{"joinings": orNone(all)}, func(w io.Writer) {
			var rows [][]string
			for _, j := range all {
				rows = append(rows, []string{safe(j.Group), safe(j.By), j.State, safe(j.Words)})
			}
			table(w, []string{"GROUP", "BY", "STATE", ""}, rows)
		})
	})
}

func (a *app) requestsCommand() *cobra.Command {
	return a.command("requests GROUP", "Who asks to be let into a group", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		all, err := cl.GroupRequests(ctx, args[0])
		if err != nil {
			return a.whom(err)
		}
		return a.print(map[string][]node.GroupRequest{"requests": orNone(all)}, func(w io.Writer) {
			var rows [][]string
			for _, r := range all {
				rows = append(rows, []string{safe(r.Name), r.Account, r.Since.Local().Format("2006-01-02 15:04")})
			}
			table(w, []string{"NAME", "ACCOUNT", "SINCE"}, rows)
		})
	})
}

func (a *app) answerCommand(verb, short string, in bool) *cobra.Command {
	return a.command(verb+" GROUP WHO", short, 2, 2, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if err := cl.AnswerRequest(ctx, args[0], args[1], in); err != nil {
			return a.whom(err)
		}
		g, err := a.settled(ctx, cl, args[0])
		if err != nil {
			return err
		}
		return a.print(g, func(io.Writer) { a.sayGroup(g, "Done.") })
	})
}
