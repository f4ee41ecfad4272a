package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// goBenchTime is how long a Go benchmark lasts in a round.
const goBenchTime = "250ms"

// goBench measures with a benchmark of crypto/mls that reports a value as op-ns and its
// floor as floor-ns; name is without "Benchmark".
func goBench(name string) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		bin, err := once(l.run, "mls.test", func() (string, error) {
			path := l.path("mls.test")
			return path, goTool(ctx, "test", "-c", "-o", path, "sotto/crypto/mls")
		})
		if err != nil {
			return sample{}, err
		}
		pattern := "^Benchmark" + strings.ReplaceAll(name, "/", "$/^") + "$"
		c := exec.CommandContext(ctx, bin, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+goBenchTime)
		c.Dir = l.dir
		out, err := c.CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("%w\n%s", err, out)
		}
		metrics, err := parseGoBench(string(out), "Benchmark"+name)
		if err != nil {
			return sample{}, err
		}
		for _, unit := range []string{"op-ns", "floor-ns"} {
			if metrics[unit] <= 0 {
				return sample{}, fmt.Errorf("%w: no %s", errBenchOutput, unit)
			}
		}
		return sample{metrics["op-ns"] / 1e3, metrics["floor-ns"] / 1e3}, nil
	}
}

var errBenchOutput = errors.New("a Go benchmark says something else than expected")

// procs is what Go adds to a benchmark's name: how many CPUs it used, if not one.
var procs = regexp.MustCompile(`-[0-9]+$`)

// parseGoBench finds the line of a benchmark in the output of Go's tool, and returns
// its metrics by unit.
func parseGoBench(out, name string) (map[string]float64, error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 2 || procs.ReplaceAllString(f[0], "") != name {
			continue
		}
		// The name, how often it ran, and then pairs of value and unit.
		if len(f)%2 != 0 {
			return nil, fmt.Errorf("%w: %s", errBenchOutput, strings.TrimSpace(line))
		}
		metrics := map[string]float64{}
		for i := 2; i < len(f); i += 2 {
			x, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%w: %s", errBenchOutput, strings.TrimSpace(line))
			}
			metrics[f[i+1]] = x
		}
		return metrics, nil
	}
	return nil, fmt.Errorf("%w: nothing of %s in\n%s", errBenchOutput, name, out)
}
