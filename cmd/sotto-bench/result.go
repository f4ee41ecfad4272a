package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// result is an object of results.json.
type result struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit"`
	Floor  *float64 `json:"floor"`
	Ratio  *float64 `json:"ratio"`
	Spread float64  `json:"spread"`
}

// quantile returns the value below which a part q of values lies, between two of them
// by linear interpolation. There must be one.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// spread returns how far the quartiles lie apart, as a part of the median.
func spread(values []float64) float64 {
	return (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
}

// summarize makes a result of a benchmark's rounds.
func summarize(b benchmark, samples []sample) result {
	var values, floors []float64
	for _, s := range samples {
		values = append(values, s.value)
		if s.floor != 0 {
			floors = append(floors, s.floor)
		}
	}
	r := result{Name: b.name, Value: median(values), Unit: b.unit, Spread: spread(values)}
	if len(floors) > 0 {
		floor := median(floors)
		ratio := r.Value / floor
		r.Floor, r.Ratio = &floor, &ratio
	}
	return r
}

func encodeResults(w io.Writer, results []result) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(results)
}

// writeResults replaces a file.
func writeResults(path string, results []result) error {
	f, err := os.CreateTemp(filepath.Dir(path), "results-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := encodeResults(f, results); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeTable shows results to people. results[i] is of all[i].
func writeTable(w io.Writer, all []benchmark, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "name\tvalue\tfloor\tratio\tbetter\tspread\twhat")
	for i, r := range results {
		floor, ratio := "-", "-"
		if r.Floor != nil {
			floor, ratio = digits(*r.Floor), digits(*r.Ratio)
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\t%.0f %%\t%s\n", r.Name, digits(r.Value), r.Unit, floor, ratio, all[i].best, 100*r.Spread, all[i].what)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\nratio: value / floor, 1 is the floor. spread: distance of the quartiles as a part of the value.")
	return err
}

// digits writes a number with three digits that count, and all before the point.
func digits(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}
