package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

const (
	logName = "node.log"
	maxLog  = 10 << 20 // bytes: a log that is larger at start is set aside

	// What a detached node finds open: where its passphrase comes from, and where it
	// says that it works, or why not.
	passphraseFD = 3
	reportFD     = 4
)

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	c := a.lasting("init --name NAME [--relay ADDRESS]", "Make an account, with this machine as its first device", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			if o.Name == "" {
				return usage(c, "--name is missing: what others see you as")
			}
			acc, err := a.init(ctx, o)
			if err != nil {
				return err
			}
			return a.print(acc, func(w io.Writer) { showWords(w, acc.RecoveryWords) })
		})
	c.Flags().StringVar(&o.Name, "name", "", "what others see you as, 1 to 64 `characters`")
	c.Flags().StringVar(&o.Relay, "relay", "", "`address` of a relay for your mailboxes, ending in /p2p/…")
	return c
}

// init makes an account. The home is ours meanwhile.
func (a *app) init(ctx context.Context, o initOptions) (account, error) {
	lock, err := api.Lock(a.home)
	if err != nil {
		return account{}, err
	}
	defer lock.Close()
	if there, err := a.engine.HasAccount(a.home); err != nil {
		return account{}, err
	} else if there {
		return account{}, hint(fmt.Errorf("an account in %s %w", a.home, node.ErrExists), "sotto up")
	}
	if o.Passphrase == nil {
		if o.Passphrase, err = a.passphrase(ctx, true); err != nil {
			return account{}, err
		}
	}
	defer clear(o.Passphrase)
	acc, err := a.engine.Init(ctx, a.home, o)
	if err != nil {
		return account{}, err
	}
	acc.Home = a.home
	if !a.json {
		a.say("Account %s is made, in %s.", short(acc.Account), safe(a.home))
	}
	return acc, nil
}

// showWords shows the recovery words, which are shown once.
func showWords(w io.Writer, words []string) {
	fmt.Fprintf(w, "These %d words bring your account back if this machine is lost. They are\nshown only now, and kept nowhere: write them on paper.\n\n", len(words))
	for i, word := range words {
		if i%4 == 3 || i == len(words)-1 {
			fmt.Fprintf(w, "%4d %s\n", i+1, word)
		} else {
			fmt.Fprintf(w, "%4d %-10s", i+1, word)
		}
	}
	fmt.Fprintln(w)
}

// upOptions are the flags of up and run.
type upOptions struct {
	embedded bool
	listen   []string
	level    string
	detach   bool
	detached int // this is the node that the process of this id, up --detach, has started
}

func (o *upOptions) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.embedded, "embedded-relay", true, "run a relay inside the node")
	c.Flags().StringSliceVar(&o.listen, "listen", nil, "`multiaddr` that the embedded relay listens on, such as /ip4/0.0.0.0/tcp/4655 (default: as last time)")
	c.Flags().StringVar(&o.level, "log-level", "", "debug, info, warn or error (default warn; info if detached)")
}

func (o *upOptions) check(c *cobra.Command) error {
	if len(o.listen) > 0 && !o.embedded {
		return usage(c, "--listen is for the embedded relay, which is off")
	}
	if _, err := o.logger(io.Discard); err != nil {
		return usage(c, "--log-level %q: debug, info, warn or error", o.level)
	}
	return nil
}

func (o *upOptions) logger(w io.Writer) (*slog.Logger, error) {
	level := slog.LevelWarn
	if o.detached != 0 {
		level = slog.LevelInfo
	}
	if o.level != "" {
		if err := level.UnmarshalText([]byte(o.level)); err != nil {
			return nil, err
		}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	c := a.lasting("up [--detach] [--embedded-relay=false] [--listen MULTIADDR]", "Start the node", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			if err := o.check(c); err != nil {
				return err
			}
			switch {
			case o.detached != 0:
				return a.child(ctx, o)
			case o.detach:
				return a.detach(ctx, o)
			}
			return a.foreground(ctx, o, func() ([]byte, error) { return a.passphrase(ctx, false) }, nil)
		})
	o.flags(c)
	c.Flags().BoolVar(&o.detach, "detach", false, "in the background; return when it works")
	c.Flags().IntVar(&o.detached, "detached", 0, "")
	c.Flags().Lookup("detached").Hidden = true
	return c
}

func (a *app) runCommand() *cobra.Command {
	var o upOptions
	c := a.lasting("run", "Make an account if there is none, then start the node", 0, 0,
		func(ctx context.Context, c *cobra.Command, _ []string) error {
			if err := o.check(c); err != nil {
				return err
			}
			there, err := a.engine.HasAccount(a.home)
			if err != nil {
				return err
			}
			passphrase := func() ([]byte, error) { return a.passphrase(ctx, false) }
			if !there {
				secret, err := a.firstPassphrase(ctx)
				if err != nil {
					return err
				}
				// Who has just typed it is not asked again.
				passphrase = func() ([]byte, error) { return secret, nil }
				acc, err := a.init(ctx, initOptions{Name: userName(a.env), Passphrase: bytes.Clone(secret)})
				if err != nil {
					return err
				}
				if a.json {
					err = a.line(acc)
				} else {
					showWords(a.err, acc.RecoveryWords)
				}
				if err != nil {
					return err
				}
			}
			return a.foreground(ctx, o, passphrase, func() {
				a.say("\nNext, in another terminal%s:\n", a.homeWords())
				me := "sotto"
				if strings.ContainsRune(os.Args[0], filepath.Separator) {
					me = os.Args[0] // it may be in no folder that the shell looks into
				}
				a.say("  %s contact invite                      a link to hand to somebody", me)
				a.say("  %s contact accept LINK --name NAME     open a link that you were handed", me)
				a.say("  %s chat send NAME TEXT                 and %[1]s chat watch to see the answer\n", me)
			})
		})
	o.flags(c)
	return c
}

// homeWords says what another terminal needs to find the same home.
func (a *app) homeWords() string {
	if a.env("SOTTO_HOME") == "" {
		return ""
	}
	return " with SOTTO_HOME=" + safe(a.home)
}

// userName is a name for somebody who was not asked.
func userName(env func(string) string) string {
	if name := env("USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "me"
}

// foreground works until a signal or sotto down ends it.
func (a *app) foreground(ctx context.Context, o upOptions, passphrase func() ([]byte, error), next func()) error {
	log, err := o.logger(a.err)
	if err != nil {
		return err
	}
	err = a.work(ctx, o, log, passphrase, func(s node.Status, relay string) error {
		if a.json {
			return a.line(s)
		}
		a.say("%s's node works, in %s. Stop it with ctrl-c or sotto down.", safe(s.Name), safe(a.home))
		a.relayWords(relay)
		if next != nil {
			next()
		}
		return nil
	})
	if err == nil && !a.json {
		a.say("Stopped.")
	}
	return err
}

func (a *app) relayWords(address string) {
	for i, one := range strings.Split(address, ",") {
		if one != "" && i == 0 {
			a.say("Its relay is at")
		}
		if one != "" {
			a.say("  %s", safe(one))
		}
	}
}

// work runs the node until ctx is over or it is asked to stop. It calls ready when
// the API answers.
func (a *app) work(ctx context.Context, o upOptions, log *slog.Logger, passphrase func() ([]byte, error), ready func(s node.Status, relay string) error) (err error) {
	if err := a.needAccount(); err != nil {
		return err
	}
	lock, err := api.Lock(a.home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	secret, err := passphrase()
	if err != nil {
		return err
	}
	defer clear(secret)
	// From here on clients wait until the node is open.
	l, err := lock.Listen()
	if err != nil {
		return err
	}
	n, err := a.engine.Open(a.home, openOptions{Passphrase: secret, Embedded: o.embedded, Listen: o.listen, Logger: log})
	clear(secret)
	if err != nil {
		l.Close()
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := api.NewServer(n, version, log)
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	go func() { ran <- n.Run(ctx) }()

	status, err := n.Status(ctx)
	if err == nil {
		err = ready(status, n.RelayAddress())
	} else if ctx.Err() != nil {
		err = nil // it was asked to stop
	}
	if err == nil {
		select {
		case err = <-ran:
			ran <- nil
		case err = <-served:
			served <- nil
		case <-ctx.Done():
		}
	}
	// Streams and requests end first, then what they might ask.
	err = errors.Join(err, s.Close())
	cancel()
	return errors.Join(err, <-served, <-ran)
}

func (a *app) needAccount() error {
	there, err := a.engine.HasAccount(a.home)
	if err != nil {
		return err
	}
	if !there {
		return hint(fmt.Errorf("account in %s: %w", a.home, node.ErrNotFound), "make one: sotto init --name NAME")
	}
	return nil
}

// detach starts a node in the background and waits until it works.
func (a *app) detach(ctx context.Context, o upOptions) error {
	if err := a.needAccount(); err != nil {
		return err
	}
	// Nobody is asked for a passphrase in vain. The child takes the lock for good.
	lock, err := api.Lock(a.home)
	if err != nil {
		return err
	}
	lock.Close()
	secret, err := a.passphrase(ctx, false)
	if err != nil {
		return err
	}
	defer clear(secret)

	log, err := openLog(filepath.Join(a.home, logName))
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	secretOut, secretIn, err := os.Pipe()
	if err != nil {
		return err
	}
	defer secretIn.Close()
	reportOut, reportIn, err := os.Pipe()
	if err != nil {
		secretOut.Close()
		return err
	}
	defer reportOut.Close()

	exe, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"sotto", "up", fmt.Sprintf("--detached=%d", os.Getpid()), fmt.Sprintf("--embedded-relay=%v", o.embedded)}
	for _, l := range o.listen {
		args = append(args, "--listen="+l)
	}
	if o.level != "" {
		args = append(args, "--log-level="+o.level)
	}
	cmd := &exec.Cmd{
		Path: exe, Args: args, Dir: a.home, Env: append(os.Environ(), "SOTTO_HOME="+a.home),
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{secretOut, reportIn}, SysProcAttr: ownSession(),
	}
	err = cmd.Start()
	secretOut.Close()
	reportIn.Close()
	if err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	_, err = secretIn.Write(secret) // fits into the pipe
	relay := ""
	if err = errors.Join(err, secretIn.Close()); err == nil {
		relay, err = await(ctx, reportOut)
	}
	if err != nil {
		// It has gone, or goes now.
		cmd.Process.Kill()
		state := cmd.Wait()
		if errors.Is(err, errSilent) {
			return hint(fmt.Errorf("the node ended at once (%v)%s", state, lastLines(filepath.Join(a.home, logName))), "see "+filepath.Join(a.home, logName))
		}
		return err
	}
	if err := cmd.Process.Release(); err != nil {
		return err
	}
	c := a.client()
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return a.print(s, func(io.Writer) {
		a.say("%s's node works, in %s. Stop it with sotto down.", safe(s.Name), safe(a.home))
		a.relayWords(relay)
	})
}

var errSilent = errors.New("it ended without a word")

// report is what the detached node says of itself, as JSON: that it works, or why
// it does not.
type report struct {
	Ready bool    `json:"ready"`
	Relay string  `json:"relay,omitempty"`
	Error *remote `json:"error,omitempty"`
}

// await reads what the detached node reports, and returns where its relay is.
func await(ctx context.Context, from io.Reader) (relay string, err error) {
	said := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(from, 64<<10)) // what came before an error counts
		said <- b
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case b := <-said:
		var r report
		switch err := json.Unmarshal(b, &r); {
		case err == nil && r.Ready:
			return r.Relay, nil
		case err == nil && r.Error != nil && r.Error.Exit != exitDone:
			return "", r.Error
		}
		return "", errSilent
	}
}

// child is what the detached node does.
func (a *app) child(ctx context.Context, o upOptions) error {
	// In a process that up --detach has not started these files are others.
	if os.Getppid() != o.detached {
		return &usageError{errors.New("--detached is for up --detach"), "sotto up --detach"}
	}
	secret, out := os.NewFile(passphraseFD, "passphrase"), os.NewFile(reportFD, "report")
	say := func(r report) error { return errors.Join(json.NewEncoder(out).Encode(r), out.Close()) }
	log, err := o.logger(a.err)
	if err != nil {
		return err
	}
	told := false
	err = a.work(ctx, o, log, func() ([]byte, error) {
		defer secret.Close()
		return readPassphrase(secret, "the pipe")
	}, func(_ node.Status, relay string) error {
		told = true
		log.Info("the node works", "version", version)
		return say(report{Ready: true, Relay: relay})
	})
	if err != nil && !told {
		why := tell(err)
		return errors.Join(err, say(report{Error: &why}))
	}
	log.Info("the node has stopped")
	return err
}

// openLog opens the log of a detached node, and sets an older one aside that has
// grown too large.
func openLog(name string) (*os.File, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.Size() > maxLog:
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// lastLines returns the end of a log, for an error.
func lastLines(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(-1000, io.SeekEnd); err != nil {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(f)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return ": " + lines[len(lines)-1]
}

func (a *app) downCommand() *cobra.Command {
	return a.command("down", "Stop the node", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		c := a.client()
		defer c.Close()
		was := true
		if err := c.Shutdown(ctx); errors.Is(err, api.ErrNotRunning) {
			was = false
		} else if err != nil {
			return err
		}
		if was {
			if err := api.WaitFree(ctx, a.home); err != nil {
				return fmt.Errorf("wait until the node has stopped: %w", err)
			}
		}
		return a.print(map[string]bool{"stopped": was}, func(io.Writer) {
			if was {
				a.say("Stopped.")
			} else {
				a.say("No node was running.")
			}
		})
	})
}
