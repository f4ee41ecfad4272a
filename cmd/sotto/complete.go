package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/node/api"
)

// named lets the shell complete names of contacts and groups where the first argument
// is one, or all are.
func (a *app) named(c *cobra.Command, all bool) *cobra.Command {
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !all {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(prefix, names)
	}
	return c
}

// completeChats lets it complete them behind a flag.
func (a *app) completeChats(c *cobra.Command, flag string) {
	err := c.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return a.complete(prefix, names)
	})
	if err != nil {
		panic(err) // there is no such flag
	}
}

// names returns those of contacts and groups.
func names(ctx context.Context, cl *api.Client) (names []string, err error) {
	contacts, err := cl.Contacts(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range contacts {
		names = append(names, one.Name)
	}
	chats, err := cl.Conversations(ctx)
	for _, one := range chats {
		names = append(names, one.Name)
	}
	return names, err
}

// complete returns those of the names that begin with prefix, if the node answers
// quickly. A name that could move the cursor is left out.
func (a *app) complete(prefix string, from func(context.Context, *api.Client) ([]string, error)) (out []string, _ cobra.ShellCompDirective) {
	home, err := findHome(a.env)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cl := api.NewClient(home)
	defer cl.Close()
	all, err := from(ctx, cl)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	seen := map[string]bool{}
	for _, name := range all {
		if safe(name) == name && strings.HasPrefix(name, prefix) && !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
