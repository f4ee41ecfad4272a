// Rivals measures package sotto/crypto/mls beside other implementations of RFC 9420, in
// one run on one machine.
//
//	go run . [-n 100] [-full 32] [-rounds 9] [-only sotto,mls-go]
//
// Each does the same in suite 1, by the interface it offers to applications, and in turns:
// what disturbs the machine disturbs all. An operation is from call to state: who makes a
// commit is in the next epoch when it is through, and Sotto's state is written out as
// records each time, as mls-go's and core-crypto's is to their stores in memory; ts-mls
// stores nothing. The last two run in node, are timed there, and compute in JavaScript and
// WebAssembly: of them the table tells what an application gets, not who wrote the better
// loop.
//
//	create   a group of n in one commit, with the welcome, the tree inside
//	join     by that welcome
//	send     a message of 1 KiB; receive reads it
//	update   of one's keys in a tree where nearly nobody has renewed its own: a path is
//	         encrypted to each of n members at first; process is the other's part
//	remove   of one member, likewise
//	full     update and process among -full members that have all renewed their keys
//
// The table has the median of the rounds, the distance between the quartiles in parts of
// it, and how many times Sotto's median it is. npm downloads the libraries for node, into a
// temporary folder. It is a module of its own, so that Sotto depends on none of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "rivals:", err)
		os.Exit(1)
	}
}

// An engine makes devices of one implementation. A device is the n-th of its group, if
// it is the first to be added as such.
type engine struct {
	name   string
	device func(n int) (device, error)
}

// A device does one thing at a time. What it returns is made by others' devices of the same
// engine only.
type device interface {
	keyPackage() (result, error)
	create(group []byte) (result, error)
	add(packages [][]byte) (result, error)
	join(welcome []byte) (result, error)
	update() (result, error)
	remove(n int) (result, error)
	process(message []byte) (result, error)
	encrypt(content []byte) (result, error)
}

// A result is what came of a call, and how long that took.
type result struct {
	took             time.Duration
	message, welcome []byte
}

// timed is for engines in this process.
func timed(f func(*result) error) (r result, err error) {
	start := time.Now()
	err = f(&r)
	r.took = time.Since(start)
	return r, err
}

func identityOf(n int) string { // as core-crypto wants it
	return fmt.Sprintf("00000000-0000-4000-8000-%012d:%x@sotto.test", n, n)
}

// A sheet holds the times of an engine, by operation.
type sheet map[string][]time.Duration

var operations = []string{"create", "join", "send", "receive", "update", "process update", "remove", "process remove", "full update", "full process"}

// group makes a group of n and returns its first and last device, and all if everybody joins.
func (e engine) group(s sheet, n int, everybody bool) (devices []device, err error) {
	var packages [][]byte
	for i := range n {
		d, err := e.device(i)
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
		if i == 0 {
			continue
		}
		k, err := d.keyPackage()
		if err != nil {
			return nil, fmt.Errorf("key package: %w", err)
		}
		packages = append(packages, k.message)
	}
	made, err := devices[0].create([]byte("rivals"))
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	added, err := devices[0].add(packages)
	if err != nil {
		return nil, fmt.Errorf("add: %w", err)
	}
	if !everybody {
		devices = []device{devices[0], devices[n-1]}
	}
	for _, d := range devices[1:] {
		joined, err := d.join(added.welcome)
		if err != nil {
			return nil, fmt.Errorf("join: %w", err)
		}
		s.add("join", joined.took)
	}
	s.add("create", made.took+added.took)
	return devices, nil
}

func (s sheet) add(operation string, d time.Duration) {
	if s != nil {
		s[operation] = append(s[operation], d)
	}
}

// messages is how many are sent in a round.
const messages = 20

// round does everything once.
func (e engine) round(s sheet, n int) error {
	ds, err := e.group(s, n, false)
	if err != nil {
		return err
	}
	a, b := ds[0], ds[1]
	content := make([]byte, 1024)
	for range messages {
		sent, err := a.encrypt(content)
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		read, err := b.process(sent.message)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		s.add("send", sent.took)
		s.add("receive", read.took)
	}
	change := func(operation string, f func() (result, error)) error {
		made, err := f()
		if err != nil {
			return fmt.Errorf("%s: %w", operation, err)
		}
		done, err := b.process(made.message)
		if err != nil {
			return fmt.Errorf("process %s: %w", operation, err)
		}
		s.add(operation, made.took)
		s.add("process "+operation, done.took)
		return nil
	}
	return errors.Join(change("update", a.update), change("remove", func() (result, error) { return a.remove(n / 2) }))
}

// full makes a group in which everybody renews its keys, and then measures that.
func (e engine) full(s sheet, n, rounds int) error {
	ds, err := e.group(nil, n, true)
	if err != nil {
		return err
	}
	for turn := range n + rounds {
		by := turn % n
		made, err := ds[by].update()
		if err != nil {
			return fmt.Errorf("update: %w", err)
		}
		for i, d := range ds {
			if i == by {
				continue
			}
			done, err := d.process(made.message)
			if err != nil {
				return fmt.Errorf("process: %w", err)
			}
			if turn >= n {
				s.add("full process", done.took)
			}
		}
		if turn >= n {
			s.add("full update", made.took)
		}
	}
	return nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("rivals", flag.ContinueOnError)
	n := flags.Int("n", 100, "members")
	full := flags.Int("full", 32, "members of the group that all renew their keys; 0 leaves it out")
	rounds := flags.Int("rounds", 9, "rounds")
	only := flags.String("only", "", "the engines to measure, with commas; default all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *n < 4 || *rounds < 1 {
		return errors.New("at least 4 members and 1 round")
	}
	engines := []engine{{"sotto", newSotto}, {"mls-go", newMLSGo}}
	wanted := func(name string) bool { return *only == "" || slices.Contains(strings.Split(*only, ","), name) }
	engines = slices.DeleteFunc(engines, func(e engine) bool { return !wanted(e.name) })
	if wanted("ts-mls") || wanted("core-crypto") {
		dir, err := install(ctx)
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		for _, name := range []string{"ts-mls", "core-crypto"} {
			if !wanted(name) {
				continue
			}
			d, err := start(ctx, dir, name+".mjs")
			if err != nil {
				return err
			}
			defer d.stop()
			engines = append(engines, engine{name, d.device})
		}
	}
	sheets := make([]sheet, len(engines))
	for i := range sheets {
		sheets[i] = make(sheet)
	}
	for round := range *rounds + 1 {
		for i, e := range engines {
			s := sheets[i]
			if round == 0 {
				s = make(sheet) // to get warm
			}
			if err := e.round(s, *n); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	if *full > 0 {
		for i, e := range engines {
			if err := e.full(sheets[i], *full, *rounds); err != nil {
				return fmt.Errorf("%s, full tree: %w", e.name, err)
			}
		}
	}
	return print(out, engines, sheets)
}

func print(out io.Writer, engines []engine, sheets []sheet) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "| us |")
	for _, e := range engines {
		fmt.Fprintf(w, "\t %s |", e.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("\t---|", len(engines)))
	for _, operation := range operations {
		if len(sheets[0][operation]) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |", operation)
		first := 0.0
		for i := range engines {
			d := sheets[i][operation]
			slices.Sort(d)
			at := func(part float64) float64 { return float64(d[int(part*float64(len(d)-1))].Nanoseconds()) / 1e3 }
			median := at(0.5)
			fmt.Fprintf(w, "\t %.0f ±%.0f %%", median, 50*(at(0.75)-at(0.25))/median)
			if i == 0 {
				first = median
			} else {
				fmt.Fprintf(w, ", x %.1f", median/first)
			}
			fmt.Fprint(w, " |")
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// install puts the libraries for node into a temporary folder.
func install(ctx context.Context) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "rivals"); err != nil {
		return "", err
	}
	if err = os.CopyFS(dir, os.DirFS(filepath.Join("..", "testdata", "foreign"))); err == nil {
		cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		var said []byte
		if said, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("npm ci: %w\n%s", err, said)
		}
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}
