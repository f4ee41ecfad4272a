package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/setting"
)

func (a *app) tokenCommand() *cobra.Command {
	return a.group("token", "What bots may do", a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var o node.TokenOptions
	expires := ""
	c := a.command("create --name NAME [--read] [--post] [--chat NAME]... [--expires 30d]", "Make a token for a bot", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			switch {
			case o.Name == "":
				return usage(c, "--name is missing: what you call it")
			case !o.Read && !o.Post:
				return usage(c, "it would be for nothing: --read, --post or both")
			}
			if c.Flags().Changed("expires") {
				if o.Expires = setting.Duration(expires); o.Expires == 0 {
					return usage(c, "--expires %q: such as 12h, 30d or 8w", expires)
				}
			}
			cl := a.client()
			defer cl.Close()
			t, err := cl.CreateToken(ctx, o)
			if err != nil {
				return a.whom(err)
			}
			return a.print(t, func(w io.Writer) {
				a.say("Token %s %s. It is shown only now: give it to the bot in a file.", safe(t.Name), tokenWords(&t))
				fmt.Fprintln(w, t.Secret)
			})
		})
	c.Flags().StringVar(&o.Name, "name", "", "what you call it, 1 to 64 `characters`")
	c.Flags().BoolVar(&o.Read, "read", false, "it sees messages and what happens")
	c.Flags().BoolVar(&o.Post, "post", false, "it sends messages")
	c.Flags().StringArrayVar(&o.Chats, "chat", nil, "in the conversation with this `name` alone; may be given again (default: in all)")
	c.Flags().StringVar(&expires, "expires", "", "how `long` it is good for, such as 12h, 30d or 8w (default: until it is revoked)")
	a.completeChats(c, "chat")
	return c
}

// tokenWords says what a token permits.
func tokenWords(t *node.Token) string {
	does := "reads"
	switch {
	case t.Read && t.Post:
		does = "reads and posts"
	case t.Post:
		does = "posts"
	}
	where := "everywhere"
	if len(t.Chats) > 0 {
		var names []string
		for _, c := range t.Chats {
			names = append(names, safe(firstOf(c.Name, short(c.ID))))
		}
		where = "with " + strings.Join(names, ", ")
	}
	return does + " " + where
}

func (a *app) tokenListCommand() *cobra.Command {
	return a.command("list", "All tokens, and when they were last used", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		list, err := cl.Tokens(ctx)
		if err != nil {
			return err
		}
		return a.print(map[string][]node.Token{"tokens": list}, func(w io.Writer) {
			if len(list) == 0 {
				a.say("None. Make one: sotto token create --name NAME --read --post")
				return
			}
			var rows [][]string
			for _, t := range list {
				until := when(t.Expires)
				if !t.Expires.IsZero() && time.Now().After(t.Expires) {
					until += " (over)"
				}
				rows = append(rows, []string{safe(t.Name), when(t.Used), until, tokenWords(&t)})
			}
			table(w, []string{"NAME", "USED", "EXPIRES", ""}, rows)
		})
	})
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	c := a.command("revoke NAME", "Make a token useless", 1, 1, func(ctx context.Context, _ *cobra.Command, args []string) error {
		cl := a.client()
		defer cl.Close()
		if err := cl.RevokeToken(ctx, args[0]); err != nil {
			return hint(err, "see them: sotto token list")
		}
		return a.print(map[string]string{"revoked": args[0]}, func(io.Writer) { a.say("%s is revoked.", safe(args[0])) })
	})
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(prefix, func(ctx context.Context, cl *api.Client) (names []string, err error) {
			list, err := cl.Tokens(ctx)
			for _, t := range list {
				names = append(names, t.Name)
			}
			return names, err
		})
	}
	return c
}
