package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) manCommand() *cobra.Command {
	return a.command("man FOLDER", "Write a manual page for each command into a folder", 1, 1, func(_ context.Context, c *cobra.Command, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return err
		}
		var files []string
		var write func(c *cobra.Command) error
		write = func(c *cobra.Command) error {
			name := filepath.Join(args[0], pageName(c)+".1")
			if err := os.WriteFile(name, []byte(page(c)), 0o644); err != nil {
				return err
			}
			files = append(files, name)
			for _, sub := range listed(c) {
				if err := write(sub); err != nil {
					return err
				}
			}
			return nil
		}
		if err := write(c.Root()); err != nil {
			return err
		}
		return a.print(map[string][]string{"files": files}, func(io.Writer) {
			a.say("%s written. Read the first: man %s", count(len(files), "page", "pages"), safe(files[0]))
		})
	})
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// listed returns the commands under c that people see.
func listed(c *cobra.Command) (out []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			out = append(out, sub)
		}
	}
	return out
}

// page returns a command's manual page (man(7)).
func page(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q 1 \"\" \"sotto %s\" \"Sotto\"\n", strings.ToUpper(pageName(c)), version)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	use := c.UseLine()
	if len(listed(c)) > 0 {
		use = c.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n", roff(use))
	if subs := listed(c); len(subs) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range subs {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(sub.Name()), roff(sub.Short))
		}
	}
	flags := func(title string, set *pflag.FlagSet) {
		if !set.HasAvailableFlags() {
			return
		}
		fmt.Fprintf(&b, ".SH %s\n", title)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			value, words := pflag.UnquoteUsage(f)
			fmt.Fprintf(&b, ".TP\n.B \\-\\-%s %s\n%s\n", roff(f.Name), roff(value), roff(words))
		})
	}
	flags("OPTIONS", c.NonInheritedFlags())
	flags("OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	b.WriteString(".SH EXIT STATUS\n0 done, 1 failed, 2 called wrongly, 3 partly done, 4 wrong passphrase, 5 not found, 6 not trusted or not allowed,\n7 no network or relay, 8 timed out, 9 disk full, 10 damaged, 11 another node uses the home, 130 interrupted.\n")
	if p := c.Parent(); p != nil {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(pageName(p)))
	}
	return b.String()
}

// roff escapes what troff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}
