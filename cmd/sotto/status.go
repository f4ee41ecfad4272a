package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

func (a *app) statusCommand() *cobra.Command {
	return a.command("status", "The node at a glance", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		cl := a.client()
		defer cl.Close()
		s, err := cl.Status(ctx)
		if err != nil {
			return err
		}
		return a.print(s, func(w io.Writer) {
			fmt.Fprintf(w, "name      %s\naccount   %s\ndevice    %s\n", safe(s.Name), s.Account, s.Device)
			fmt.Fprintf(w, "version   %s, started %s\n", safe(s.Version), when(s.Started))
			for _, r := range s.Relays {
				kind := ""
				if r.Embedded {
					kind = " (inside this node)"
				} else if r.Own {
					kind = " (yours)"
				}
				first, more, _ := strings.Cut(safe(r.Address), ",")
				fmt.Fprintf(w, "relay     %s%s\n", first, kind)
				for one := range strings.SplitSeq(more, ",") {
					if one != "" {
						fmt.Fprintf(w, "          %s\n", one)
					}
				}
				fmt.Fprintf(w, "          %s\n", safe(firstOf(r.Words, r.State)))
			}
			if len(s.Relays) == 0 {
				fmt.Fprintln(w, "relay     none")
			}
			fmt.Fprintf(w, "contacts  %d, %d pending\n", s.Contacts, s.Pending)
			fmt.Fprintf(w, "queued    %s\n", count(s.Queued, "message", "messages"))
			if s.Frozen > 0 {
				fmt.Fprintf(w, "frozen    %s: sotto chat list says why\n", count(s.Frozen, "conversation", "conversations"))
			}
			fmt.Fprintf(w, "disk      %d MiB free\n", s.FreeDisk>>20)
			if s.Problem != "" {
				fmt.Fprintf(w, "problem   %s\n", safe(s.Problem))
			}
		})
	})
}

func (a *app) doctorCommand() *cobra.Command {
	return a.command("doctor", "Look for what is wrong; the report names nobody", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		checks := []node.Check{a.checkHome()}
		cl := a.client()
		defer cl.Close()
		more, err := cl.Doctor(ctx)
		switch {
		case errors.Is(err, api.ErrNotRunning):
			checks = append(checks, node.Check{Name: "node", Detail: err.Error(), Advice: "start it: sotto up --detach"})
		case err != nil:
			checks = append(checks, node.Check{Name: "node", Detail: err.Error(), Advice: tell(err).Hint})
		default:
			checks = append(append(checks, node.Check{Name: "node", OK: true, Detail: "answers"}), more...)
		}
		unwell := 0
		for _, c := range checks {
			if !c.OK {
				unwell++
			}
		}
		err = a.print(map[string]any{"version": version, "system": runtime.GOOS + "/" + runtime.GOARCH, "checks": checks}, func(w io.Writer) {
			fmt.Fprintf(w, "sotto %s on %s/%s\n", version, runtime.GOOS, runtime.GOARCH)
			for _, c := range checks {
				mark := "ok   "
				if !c.OK {
					mark = "WRONG"
				}
				fmt.Fprintf(w, "%s  %s: %s\n", mark, safe(c.Name), safe(c.Detail))
				if c.Advice != "" {
					fmt.Fprintf(w, "       %s\n", safe(c.Advice))
				}
			}
		})
		if err == nil && unwell > 0 {
			return fmt.Errorf("%d of %d checks found something wrong", unwell, len(checks))
		}
		return err
	})
}

// checkHome looks at the home from outside. It does not say where that is: the path
// may hold the user's name.
func (a *app) checkHome() node.Check {
	c := node.Check{Name: "home"}
	info, err := os.Stat(a.home)
	there := false
	if err == nil {
		there, err = a.engine.HasAccount(a.home)
	}
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && !there:
		c.Detail, c.Advice = "there is no account", "make one: sotto init --name NAME"
	case errors.Is(err, node.ErrDamaged):
		c.Detail, c.Advice = "the vault's database is there, and the file vault.header that opens it is missing", "put it back from a copy; sotto up says where"
	case err != nil:
		c.Detail, c.Advice = "it cannot be read", "sotto up says why"
	case info.Mode().Perm()&0o077 != 0:
		c.Detail, c.Advice = fmt.Sprintf("others can read it (%v)", info.Mode().Perm()), "chmod 700 it"
	default:
		c.OK, c.Detail = true, "there is an account, and only you can read it"
	}
	return c
}

func (a *app) versionCommand() *cobra.Command {
	return a.command("version", "The version of this program", 0, 0, func(context.Context, *cobra.Command, []string) error {
		v := struct {
			Version  string `json:"version"`
			Revision string `json:"revision,omitempty"`
			Go       string `json:"go"`
			System   string `json:"system"`
		}{version, "", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				switch {
				case s.Key == "vcs.revision":
					v.Revision = short(s.Value) + v.Revision
				case s.Key == "vcs.modified" && s.Value == "true":
					v.Revision += "+"
				}
			}
		}
		return a.print(v, func(w io.Writer) {
			fmt.Fprintf(w, "sotto %s", v.Version)
			if v.Revision != "" {
				fmt.Fprintf(w, " (%s)", v.Revision)
			}
			fmt.Fprintf(w, ", %s, %s\n", v.Go, v.System)
		})
	})
}
