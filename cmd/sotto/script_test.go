package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sotto/node"
	"sotto/node/api"
)

// tests removes what they have built.
type tests struct{ *testing.M }

func (t tests) Run() int {
	defer os.RemoveAll(programs)
	return t.M.Run()
}

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"sotto": func() {
			switch os.Getenv("ENGINE") {
			case "real":
				os.Exit(start(program{}))
			case "quick":
				os.Exit(start(program{quick: true, free: freeAsTold(os.Getenv("FREE"))}))
			}
			os.Exit(start(fake{}))
		},
	})
}

// The scripts run the command with an engine that needs no network and little time.
func TestScript(t *testing.T) { scripts(t, "testdata/script", "fake") }

// These scripts run the whole program: vault, libp2p, a relay inside the node.
func TestWholeProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("it unlocks real vaults, which takes seconds")
	}
	scripts(t, "testdata/real", "real")
}

func scripts(t *testing.T, dir, engine string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			pass := filepath.Join(e.WorkDir, "pass")
			e.Setenv("ENGINE", engine)
			e.Setenv("SOTTO_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("SOTTO_PASSPHRASE_FILE", pass)
			e.Setenv("TZ", "UTC")
			e.Setenv("USER", "ada")
			e.Setenv("XDG_RUNTIME_DIR", e.WorkDir)
			e.Defer(func() {
				// Scripts with several people have several homes.
				locks, err := filepath.Glob(filepath.Join(e.WorkDir, "*", "api.lock"))
				if err != nil {
					t.Error(err)
				}
				for _, lock := range locks {
					stopNode(t, filepath.Dir(lock))
				}
			})
			if err := os.WriteFile(filepath.Join(e.WorkDir, "latin1"), []byte("\xe4"), 0o600); err != nil {
				return err
			}
			return os.WriteFile(pass, []byte("correct horse\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE PROGRAM ARGS… runs a program that must end with that code.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if err != nil || neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
				}
				got := 0
				err = ts.Exec(args[1], args[2:]...)
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					got = exit.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("%q exits with %d, want %d", args[1:], got, want)
				}
			},
			// grow FILE SIZE makes a file that large.
			"grow": func(ts *testscript.TestScript, neg bool, args []string) {
				size, err := strconv.ParseInt(args[1], 10, 64)
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
				ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
			},
			// mode FILE MODE checks permissions.
			"mode": func(ts *testscript.TestScript, neg bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
					ts.Fatalf("mode of %s is %s, want %s", args[0], got, args[1])
				}
			},
			// until REGEXP PROGRAM ARGS… runs a program until its output matches.
			"until": func(ts *testscript.TestScript, neg bool, args []string) {
				want := regexp.MustCompile(args[0])
				for end := time.Now().Add(time.Minute); ; {
					err := ts.Exec(args[1], args[2:]...)
					if out := ts.ReadFile("stdout"); err == nil && want.MatchString(out) {
						return
					} else if time.Now().After(end) {
						ts.Fatalf("%q never came; last: %v %s", args[0], err, out)
					}
				}
			},
			// confirm HOME does at a home what a person does who sees the digits there.
			"confirm": func(ts *testscript.TestScript, neg bool, args []string) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				c := api.NewClient(ts.MkAbs(args[0]))
				defer c.Close()
				for _, err := range c.Events(ctx, 0) {
					ts.Check(err)
					if l, err := c.Link(ctx); err == nil && l.State == node.LinkCompare {
						ts.Check(ts.Exec("sotto", "device", "confirm", l.Digits))
						return
					}
				}
			},
			// answers waits until a node works in the home.
			"answers": func(ts *testscript.TestScript, neg bool, args []string) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				c := api.NewClient(ts.Getenv("SOTTO_HOME"))
				defer c.Close()
				for {
					_, err := c.Status(ctx)
					if err == nil {
						return
					}
					if ctx.Err() != nil {
						ts.Fatalf("no node answers: %v", err)
					}
				}
			},
		},
	})
}

// stopNode stops what a script has left behind.
func stopNode(t *testing.T, home string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := api.NewClient(home)
	defer c.Close()
	if err := c.Shutdown(ctx); err != nil && !errors.Is(err, api.ErrNotRunning) {
		t.Error("stop the node:", err)
	}
	if err := api.WaitFree(ctx, home); err != nil {
		t.Error("wait until the node has stopped:", err)
	}
}
