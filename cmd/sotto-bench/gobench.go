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

// goBench measures with a Go benchmark of a package, in microseconds; name is without
// "Benchmark". One that works against a floor reports op-ns and floor-ns; of any other
// the time of an operation counts, and there is no floor.
func goBench(pkg, name string) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		bin, err := once(l.run, "test "+pkg, func() (string, error) {
			path := l.path(strings.ReplaceAll(pkg, "/", "-") + ".test")
			return path, goTool(ctx, "test", "-c", "-o", path, "sotto/"+pkg)
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
		return goSample(metrics)
	}
}

// inMS is a measurement in microseconds, told in milliseconds.
func inMS(round func(context.Context, *lab) (sample, error)) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		s, err := round(ctx, l)
		return sample{s.value / 1e3, s.floor / 1e3}, err
	}
}

// searchMillion takes a figure of the search benchmarks with a million messages, in
// milliseconds. To index these takes a minute or more, so that one process does it, once a
// run, for all of them.
func searchMillion(name string) func(context.Context, *lab) (sample, error) {
	return func(ctx context.Context, l *lab) (sample, error) {
		out, err := once(l.run, "search million", func() (string, error) {
			bin := l.path("storage-search.test")
			if err := goTool(ctx, "test", "-c", "-o", bin, "sotto/storage/search"); err != nil {
				return "", err
			}
			c := exec.CommandContext(ctx, bin, "-test.run=^$", "-test.bench=^Benchmark(Index|Queries)$/^(p50|p99|N=1000000)$/^(N=1000000)?$", "-test.benchtime=1s")
			c.Dir = l.dir
			b, err := c.CombinedOutput()
			if err != nil {
				return "", fmt.Errorf("%w\n%s", err, b)
			}
			return string(b), nil
		})
		if err != nil {
			return sample{}, err
		}
		metrics, err := parseGoBench(out, "Benchmark"+name)
		if err != nil {
			return sample{}, err
		}
		s, err := goSample(metrics)
		return sample{s.value / 1e3, s.floor / 1e3}, err
	}
}

func goSample(metrics map[string]float64) (sample, error) {
	value, floored := metrics["op-ns"]
	if !floored {
		value = metrics["ns/op"]
	}
	floor := metrics["floor-ns"]
	if value <= 0 || floored && floor <= 0 {
		return sample{}, fmt.Errorf("%w: %v", errBenchOutput, metrics)
	}
	return sample{value / 1e3, floor / 1e3}, nil
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
