package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sotto/node/api"
)

// engine is what is behind the command line; program is the real one.
type engine interface {
	HasAccount(home string) (bool, error)
	Init(ctx context.Context, home string, o initOptions) (account, error)
	Enter(ctx context.Context, home string, o enterOptions) (account, error)
	Open(home string, o openOptions) (running, error)
}

type initOptions struct {
	Name, Relay string
	Passphrase  []byte
}

type account struct {
	Account       string   `json:"account"`
	Device        string   `json:"device"`
	Home          string   `json:"home"`
	RecoveryWords []string `json:"recovery_words,omitempty"`
}

type openOptions struct {
	Passphrase []byte
	Embedded   bool     // with a relay inside
	Listen     []string // multiaddrs of that relay; none: as before
	Logger     *slog.Logger
}

// running is an open home.
type running interface {
	api.Node
	Run(ctx context.Context) error
	Close() error
	RelayAddress() string // of the relay inside; "" if there is none
}

// app is one call of the command line, with its surroundings.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	engine   engine

	home           string
	json           bool
	passphraseFile string
	token          string // shown to the node, if any
}

// patience is how long a request to the node may take.
const patience = time.Minute

// run carries out a command and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	// Flags are not parsed when they are what is wrong.
	for _, arg := range args {
		if arg == "--json" {
			a.json = true
		}
	}
	return a.report(err)
}

func (a *app) root() *cobra.Command {
	root := a.group("sotto", "A messenger that trusts no server",
		a.runCommand(), a.initCommand(), a.upCommand(), a.downCommand(), a.statusCommand(), a.doctorCommand(),
		a.contactCommand(), a.chatCommand(), a.groupCommand(), a.deviceCommand(), a.eventsCommand(), a.configCommand(), a.tokenCommand(), a.reportCommand(),
		a.rpcCommand(), a.bugReportCommand(), a.manCommand(), a.demoCommand(), a.simCommand(), a.versionCommand())
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentFlags().BoolVar(&a.json, "json", false, "data as JSON: one object, or one a line")
	root.PersistentFlags().StringVar(&a.passphraseFile, "passphrase-file", "", "`file` with the vault's passphrase, - for stdin (else $SOTTO_PASSPHRASE_FILE)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, "%v", err) })
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		var err error
		if a.home, err = findHome(a.env); err != nil {
			return err
		}
		a.token, err = readToken(a.env("SOTTO_TOKEN_FILE"))
		return err
	}
	return root
}

// findHome returns the home's absolute path.
func findHome(env func(string) string) (string, error) {
	if home := env("SOTTO_HOME"); home != "" {
		return filepath.Abs(home)
	}
	// Where there is no HOME the root folder is taken for it, which is nobody's.
	if data := env("XDG_DATA_HOME"); !filepath.IsAbs(data) && (xdg.Home == "" || xdg.Home == "/") {
		return "", &usageError{errors.New("there is no folder for data: neither SOTTO_HOME nor HOME is set"), "set SOTTO_HOME to a folder of your own"}
	}
	return filepath.Join(xdg.DataHome, "sotto"), nil
}

// group makes a command that is nothing without one of its own.
func (a *app) group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			c.SetOut(a.err)
			if err := c.Help(); err != nil {
				return err
			}
			return usage(c, "a command is missing")
		}
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			return usage(c, "unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
		}
		return usage(c, "unknown command %q", args[0])
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(sub...)
	return c
}

// command makes a command that takes from least to most arguments; most < 0 means any
// number. Its context ends after patience; lasting makes one without that.
func (a *app) command(use, short string, least, most int, f func(ctx context.Context, c *cobra.Command, args []string) error) *cobra.Command {
	return a.lasting(use, short, least, most, func(ctx context.Context, c *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := f(ctx, c, args)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
			return fmt.Errorf("the node has not answered in %v: %w", patience, err)
		}
		return err
	})
}

func (a *app) lasting(use, short string, least, most int, f func(ctx context.Context, c *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, DisableFlagsInUseLine: true,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) < least:
				return usage(c, "something is missing: %s", c.UseLine())
			case most >= 0 && len(args) > most:
				return usage(c, "%q is too much: %s", args[most], c.UseLine())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return f(c.Context(), c, args) },
	}
}

// client returns a client of the home's node.
func (a *app) client() *api.Client {
	cl := api.NewClient(a.home)
	if a.token != "" {
		cl.UseToken(a.token)
	}
	return cl
}

// readToken reads the token that a bot's commands show; there is none if name is empty.
func readToken(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read the token that $SOTTO_TOKEN_FILE names: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || len(token) > 256 {
		return "", &usageError{fmt.Errorf("%s holds no token", name), "make one: sotto token create"}
	}
	return token, nil
}

// say talks to the person at the terminal.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// isTerminal reports whether a person reads or writes there.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
