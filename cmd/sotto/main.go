// Sotto is a messenger's node and its command line.
//
//	sotto run                       make an account if there is none, and work
//	sotto init --name NAME          make an account
//	sotto up [--detach]             work
//	sotto down | status | doctor
//	sotto contact …                 meet people, verify and block them
//	sotto chat …                    write, read, search, and all that a message can do
//	sotto group …                   the same with many
//	sotto report make NAME ID… | check FILE
//	sotto events | config | token | rpc | bug-report
//	sotto version | completion | man FOLDER
//	sotto demo                      see a relay and two people meet and talk
//	sotto sim [--devices N] [--seed N]   play a world of devices through bad days
//
// All but run, init, up, demo and sim are clients of the node that works in the same home:
// $SOTTO_HOME, else ~/.local/share/sotto. The passphrase of the vault comes from
// --passphrase-file, from the file that $SOTTO_PASSPHRASE_FILE names, from the file
// "passphrase" in the home, or is asked for; it is in no argument.
// With $SOTTO_TOKEN_FILE commands may do what the token in that file permits, and no more.
//
// Data goes to stdout, talk to stderr; --json makes data of everything. Exit codes:
// 0 done, 1 failed, 2 called wrongly, 3 partly done, 4 wrong passphrase, 5 not found,
// 6 not trusted, 7 no network or relay, 8 timed out, 9 disk full, 10 damaged,
// 11 another node uses the home, 130 interrupted. spec/api.md says more.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(start(program{})) }

// start is main with what is behind the command line.
func start(e engine) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A second signal ends the process, whatever it does; but not what comes with the
	// first, as when it is sent to a process and to its group.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })()
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, engine: e}
	return a.run(ctx, os.Args[1:])
}
