// Sotto-bench measures what stands in this checkout.
//
//	go run ./cmd/sotto-bench [--rounds N] [--quick] [--json] [PREFIX …]
//
// It prints a table, or with --json the results as JSON, and writes them to
// .bench/results.json: an array of objects, one for each name in the table.
//
//	name    as mls/send_1k_n2; names are stable
//	value   median of the rounds
//	unit    appends/s, inputs/s; or us, ms, s, MiB, s/10k, of which less is better
//	floor   median, in the same unit, of what no program could do without, measured
//	        in the same rounds; null where there is none
//	ratio   value / floor, so that 1 is the floor; null where there is none
//	spread  distance of the rounds' quartiles, as a part of value
//
// With prefixes only what begins with one of them is measured: "mls/ relay/append".
//
// Each round measures every name once, and its floor right beside it or in turns with
// it: what disturbs the machine for a while disturbs both. Compare ratios, and results
// of one machine; a difference within the spread is none.
//
// The programs are built from the checkout, run as people run them, and speak over
// the loopback. Each writer of relay/append has a mailbox and a connection of its own.
// Vaults have the default argon2id parameters, so that node/start shows what they
// cost. Homes and the floor's log lie in a folder under .bench, thus on the checkout's
// disk; it is removed at the end, also after an interrupt.
//
// It exits with 0 when all is measured, 1 when something failed, 2 when it was
// called wrongly, 130 when interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := moduleRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sotto-bench:", err)
		os.Exit(1)
	}
	os.Exit(run(ctx, filepath.Join(root, ".bench"), os.Args[1:], os.Stdout, os.Stderr))
}

// moduleRoot is the checkout's folder.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sotto").Output()
	if err != nil {
		return "", fmt.Errorf("find the checkout: run it inside one: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// defaultRounds is odd, so that one of them is the median.
const defaultRounds = 5

// run is main with its surroundings passed in, for tests. Results go into dir.
func run(ctx context.Context, dir string, args []string, stdout, stderr io.Writer) int {
	rounds, asJSON, quick, called := defaultRounds, false, false, false
	root := &cobra.Command{
		Use: "sotto-bench [PREFIX …]", Short: "measures what stands in this checkout",
		SilenceUsage: true, SilenceErrors: true, CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(_ *cobra.Command, prefixes []string) error {
			all := benchmarks
			if !quick {
				all = slices.Concat(benchmarks, long)
			}
			chosen, err := choose(all, prefixes)
			if err != nil {
				return err
			}
			if rounds < 1 {
				return fmt.Errorf("--rounds %d: at least 1", rounds)
			}
			called = true
			results, err := bench(ctx, dir, chosen, rounds, stderr)
			if err != nil {
				return err
			}
			if err := writeResults(filepath.Join(dir, "results.json"), results); err != nil {
				return err
			}
			if asJSON {
				return encodeResults(stdout, results)
			}
			fmt.Fprintf(stdout, "%s, %d CPUs, medians of %d rounds\n\n", runtime.Version(), runtime.NumCPU(), rounds)
			return writeTable(stdout, chosen, results)
		},
	}
	root.Flags().IntVar(&rounds, "rounds", rounds, "how often each name is measured")
	root.Flags().BoolVar(&quick, "quick", false, "leave out what takes more than some seconds a round")
	root.Flags().BoolVar(&asJSON, "json", false, "print JSON in place of the table")
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	err := root.Execute()
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "sotto-bench: interrupted")
		return 130
	case !called:
		fmt.Fprintf(stderr, "sotto-bench: %v; run sotto-bench --help\n", err)
		return 2
	}
	fmt.Fprintln(stderr, "sotto-bench:", err)
	return 1
}

// choose returns what begins with one of the prefixes; all if there are none.
func choose(all []benchmark, prefixes []string) (chosen []benchmark, err error) {
	used := make([]bool, len(prefixes))
	for _, b := range all {
		take := len(prefixes) == 0
		for i, p := range prefixes {
			if strings.HasPrefix(b.name, p) {
				take, used[i] = true, true
			}
		}
		if take {
			chosen = append(chosen, b)
		}
	}
	for i, p := range prefixes {
		if !used[i] {
			return nil, fmt.Errorf("nothing begins with %q", p)
		}
	}
	return chosen, nil
}

// bench measures in a laboratory of its own under dir.
func bench(ctx context.Context, dir string, chosen []benchmark, rounds int, progress io.Writer) (results []result, err error) {
	l, err := newLab(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	samples, err := measure(ctx, l, chosen, rounds, progress)
	if err != nil {
		return nil, err
	}
	for i, b := range chosen {
		results = append(results, summarize(b, samples[i]))
	}
	return results, nil
}

// measure goes over the benchmarks once a round, and returns the samples of each.
func measure(ctx context.Context, l *lab, chosen []benchmark, rounds int, progress io.Writer) ([][]sample, error) {
	samples := make([][]sample, len(chosen))
	for r := range rounds {
		fmt.Fprintf(progress, "round %d of %d\n", r+1, rounds)
		for i, b := range chosen {
			s, err := b.round(ctx, l)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", b.name, err)
			}
			samples[i] = append(samples[i], s)
		}
		l.round.close()
	}
	return samples, nil
}
