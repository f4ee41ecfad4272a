// Sotto-relay keeps sealed mailboxes for people whose devices are offline.
//
//	sotto-relay serve     --home DIR [--listen MULTIADDR …] [--announce MULTIADDR …] [--tickets-only]
//	sotto-relay address   --home DIR [--listen MULTIADDR …]
//	sotto-relay check     --home DIR [--listen MULTIADDR …] [--json]
//	sotto-relay ticket    --home DIR [--days N]
//	sotto-relay renew-era --home DIR
//	sotto-relay version
//
// A home is made by the first serve. Its file relay.key is the relay's name: keep a
// copy of it. Without --home the environment's SOTTO_RELAY_HOME is taken. Without --listen
// a relay listens where it did last, at first on port 4655 of every address; port
// 0 takes a free one. The address to give to people goes to standard output, once
// the relay is ready; everything else goes to standard error.
//
// After a home was restored from a copy, run renew-era before serve: clients then
// know that something may be missing, and bring it back.
//
// It exits with 0 when asked to stop, 1 when it could not go on, 2 when it was
// called wrongly.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sotto/relay/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// failed is an error of the work; every other is one of the call.
type failed struct{ error }

// run is main with its surroundings passed in, for tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (status int) {
	var home, level string
	var listen, announce []string
	var ticketsOnly, asJSON bool
	var days int
	root := &cobra.Command{
		Use: "sotto-relay", Short: "keeps sealed mailboxes for people whose devices are offline",
		SilenceUsage: true, SilenceErrors: true, CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	command := func(use, short string, do func() error, flags func(c *cobra.Command)) {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			if home == "" && use != "version" {
				if home = os.Getenv("SOTTO_RELAY_HOME"); home == "" {
					return errors.New("which relay? Give --home DIR or set SOTTO_RELAY_HOME")
				}
			}
			if err := do(); err != nil {
				return failed{err}
			}
			return nil
		}}
		c.Flags().StringVar(&home, "home", "", "the relay's `folder`")
		if flags != nil {
			flags(c)
		}
		root.AddCommand(c)
	}
	listenFlag := func(c *cobra.Command) {
		c.Flags().StringSliceVar(&listen, "listen", nil, "`multiaddr` to listen on, as /ip4/0.0.0.0/tcp/4655")
	}

	command("serve", "run the relay until it is asked to stop", func() error {
		return serve(ctx, home, level, server.Options{Listen: listen, Announce: announce, NeedTicket: ticketsOnly}, stdout, stderr)
	}, func(c *cobra.Command) {
		listenFlag(c)
		c.Flags().StringSliceVar(&announce, "announce", nil, "`multiaddr` to give to people in place of those listened on")
		c.Flags().BoolVar(&ticketsOnly, "tickets-only", false, "create mailboxes only for who has a ticket")
		c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	})
	command("address", "print the relay's address, whether or not it runs", func() error {
		a, err := server.AddressAt(home, listen)
		if err == nil {
			fmt.Fprintln(stdout, a)
		}
		return err
	}, listenFlag)
	command("check", "look whether the relay could run, and how fast its disk is", func() error {
		return check(server.Check(home, listen), asJSON, stdout)
	}, func(c *cobra.Command) {
		listenFlag(c)
		c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	})
	command("ticket", "print a ticket that lets its bearer create mailboxes", func() error {
		b, err := server.TicketAt(home, time.Duration(days)*24*time.Hour)
		if err == nil {
			fmt.Fprintln(stdout, base64.RawURLEncoding.EncodeToString(b))
		}
		return err
	}, func(c *cobra.Command) { c.Flags().IntVar(&days, "days", 30, "how long it is good, in days") })
	command("renew-era", "tell clients that the store was restored from a copy", func() error {
		_, err := server.RenewEraAt(home)
		if err == nil {
			fmt.Fprintln(stderr, "The relay has a new era. Clients will bring back what is missing.")
		}
		return err
	}, nil)
	command("version", "print the version", func() error {
		fmt.Fprintln(stdout, "sotto-relay", version())
		return nil
	}, nil)

	err := root.ExecuteContext(ctx)
	var f failed
	switch {
	case err == nil:
		return 0
	case errors.As(err, &f):
		fmt.Fprintln(stderr, "sotto-relay:", f.error)
		return 1
	}
	fmt.Fprintf(stderr, "sotto-relay: %v; run sotto-relay --help\n", err)
	return 2
}

func serve(ctx context.Context, home, level string, o server.Options, stdout, stderr io.Writer) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("--log-level %s: want debug, info, warn or error", level)
	}
	o.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: l}))
	r, err := server.Start(home, o)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, r.Address())
	o.Logger.Info("serving")
	select {
	case <-ctx.Done():
		o.Logger.Info("stopping")
		return r.Close()
	case err := <-r.Failed():
		return errors.Join(fmt.Errorf("the relay stopped: %w", err), r.Close())
	}
}

func check(found []server.Finding, asJSON bool, stdout io.Writer) error {
	bad := 0
	for _, f := range found {
		word := "ok"
		if !f.OK {
			word = "BAD"
			bad++
		}
		if !asJSON {
			fmt.Fprintf(stdout, "%-7s %-4s %s\n", f.Name, word, f.Detail)
		}
	}
	if asJSON {
		json.NewEncoder(stdout).Encode(map[string]any{"ok": bad == 0, "checks": found})
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(found))
	}
	return nil
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
