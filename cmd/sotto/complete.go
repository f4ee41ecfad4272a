package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/node/api"
)

// named lets the shell complete names of contacts and conversations where the first
// argument is one, or all are.
func (a *app) named(c *cobra.Command, all bool) *cobra.Command {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !all {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(prefix)
	}
	return c
}

// completeChats lets it complete them behind a flag.
func (a *app) completeChats(c *cobra.Command, flag string) {
	complete := func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return a.names(prefix)
	}
	if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // there is no such flag
	}
}

// names returns the names that begin with prefix, of contacts and of groups, if the node
// answers quickly.
func (a *app) names(prefix string) ([]string, cobra.ShellCompDirective) {
	home, err := findHome(a.env)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cl := api.NewClient(home)
	defer cl.Close()
	contacts, err := cl.Contacts(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	chats, err := cl.Conversations(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if safe(name) == name && strings.HasPrefix(name, prefix) && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, one := range contacts {
		add(one.Name)
	}
	for _, one := range chats {
		add(one.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
