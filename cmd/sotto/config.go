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
	"sotto/node/setting"
)

func (a *app) configCommand() *cobra.Command {
	chat := ""
	// of lets a command be about one conversation, and the shell complete its words.
	of := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&chat, "chat", "", "of the conversation with this `name` alone")
		a.completeChats(c, "chat")
		c.ValidArgsFunction = completeSettings
		return c
	}
	get := of(a.command("get KEY [--chat NAME]", "One setting", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		list, err := a.settings(ctx, chat)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.Key == args[0] {
				return a.print(s, func(w io.Writer) { fmt.Fprintln(w, safe(s.Value)) })
			}
		}
		if _, err = setting.Lookup(args[0]); err == nil {
			err = fmt.Errorf("%s is no setting of one conversation", args[0])
		}
		return hint(fmt.Errorf("%w: %w", err, node.ErrNotFound), "see them: sotto config list")
	}))
	set := of(a.command("set KEY VALUE [--chat NAME]", "Change a setting", 2, 2, func(ctx context.Context, _ *cobra.Command, args []string) error {
		return a.changed(func(cl *api.Client) (api.Setting, error) { return cl.SetConfig(ctx, chat, args[0], args[1]) })
	}))
	unset := of(a.command("unset KEY [--chat NAME]", "Let a setting be what it is by default, or in a conversation what it is for all", 1, 1,
		func(ctx context.Context, _ *cobra.Command, args []string) error {
			return a.changed(func(cl *api.Client) (api.Setting, error) { return cl.UnsetConfig(ctx, chat, args[0]) })
		}))
	list := of(a.command("list [--chat NAME]", "All settings", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		list, err := a.settings(ctx, chat)
		if err != nil {
			return err
		}
		return a.print(map[string][]api.Setting{"settings": list}, func(w io.Writer) {
			var rows [][]string
			for _, s := range list {
				words := safe(s.Words)
				if len(s.Allowed) > 0 {
					words += " (" + strings.Join(s.Allowed, ", ") + ")"
				}
				rows = append(rows, []string{safe(s.Key), firstOf(safe(s.Value), "-"), setBy[s.From], words})
			}
			table(w, []string{"KEY", "VALUE", "SET", ""}, rows)
		})
	}))
	path := a.command("path", "The home; the settings are in its vault", 0, 0, func(context.Context, *cobra.Command, []string) error {
		return a.print(map[string]string{"home": a.home}, func(w io.Writer) { fmt.Fprintln(w, a.home) })
	})
	edit := a.lasting("edit [--chat NAME]", "Change settings in an editor ($VISUAL, else $EDITOR, else vi)", 0, 0, func(ctx context.Context, c *cobra.Command, _ []string) error {
		return a.editConfig(ctx, c, chat)
	})
	of(edit)
	return a.group("config", "Settings", get, set, unset, list, edit, path)
}

// setBy says in a word where a value comes from.
var setBy = map[string]string{node.FromDefault: "-", node.FromUser: "for all", node.FromConversation: "here"}

func (a *app) settings(ctx context.Context, chat string) ([]api.Setting, error) {
	cl := a.client()
	defer cl.Close()
	list, err := cl.Config(ctx, chat)
	return list, a.whom(err)
}

// changed makes a change and says what holds now.
func (a *app) changed(change func(*api.Client) (api.Setting, error)) error {
	cl := a.client()
	defer cl.Close()
	s, err := change(cl)
	if errors.Is(err, node.ErrInvalid) {
		return hint(err, "see them: sotto config list")
	} else if err != nil {
		return a.whom(err)
	}
	return a.print(s, func(io.Writer) {
		if s.Value == "" {
			a.say("%s is not set now.", safe(s.Key))
		} else {
			a.say("%s is %q now.", safe(s.Key), s.Value)
		}
	})
}

// completeSettings lets the shell complete keys, and values that are one of a few.
func completeSettings(c *cobra.Command, args []string, prefix string) (out []string, _ cobra.ShellCompDirective) {
	switch {
	case c.Name() == "list":
	case len(args) == 0:
		for _, d := range setting.All() {
			if strings.HasPrefix(d.Key, prefix) {
				out = append(out, d.Key)
			}
		}
	case len(args) == 1 && c.Name() == "set":
		if d, err := setting.Lookup(args[0]); err == nil {
			for _, v := range d.Allowed {
				if strings.HasPrefix(v, prefix) {
					out = append(out, v)
				}
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
