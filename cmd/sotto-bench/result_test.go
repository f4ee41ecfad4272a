package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 4, 3, 2, 1}, 0.25, 2},
		{[]float64{5, 4, 3, 2, 1}, 0.75, 4},
		{[]float64{1, 2, 3, 4, 5}, 0, 1},
		{[]float64{1, 2, 3, 4, 5}, 1, 5},
		{[]float64{10, 20}, 0.99, 19.9},
	} {
		before := append([]float64(nil), c.values...)
		if got := quantile(c.values, c.q); !near(got, c.want) {
			t.Errorf("quantile(%v, %v) = %v, want %v", before, c.q, got, c.want)
		}
		for i := range before {
			if c.values[i] != before[i] {
				t.Errorf("quantile has put %v in order, which is the caller's", before)
				break
			}
		}
	}
}

// One round out of line moves neither the value nor the spread by much.
func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		name                string
		samples             []sample
		value, floor, ratio float64 // floor 0: none
		spread              float64
	}{
		{"slower than the floor", []sample{{30, 10}, {20, 10}, {40, 8}}, 30, 10, 3, 1. / 3},
		{"a rate below the floor", []sample{{50, 200}, {50, 200}, {50, 200}}, 50, 200, 0.25, 0},
		{"without a floor", []sample{{24, 0}, {25, 0}, {26, 0}}, 25, 0, 0, 1. / 25},
		{"one round", []sample{{24, 12}}, 24, 12, 2, 0},
		{"one of five disturbed", []sample{{10, 5}, {11, 5}, {10, 5}, {9, 5}, {900, 70}}, 10, 5, 2, 0.1},
	} {
		r := summarize(benchmark{name: "a/b", unit: "ms"}, c.samples)
		if r.Name != "a/b" || r.Unit != "ms" || !near(r.Value, c.value) || !near(r.Spread, c.spread) {
			t.Errorf("%s: %+v", c.name, r)
		}
		switch {
		case c.floor == 0:
			if r.Floor != nil || r.Ratio != nil {
				t.Errorf("%s: floor %v and ratio %v out of nothing", c.name, *r.Floor, *r.Ratio)
			}
		case r.Floor == nil || r.Ratio == nil || !near(*r.Floor, c.floor) || !near(*r.Ratio, c.ratio):
			t.Errorf("%s: floor and ratio %v, %v, want %v, %v", c.name, r.Floor, r.Ratio, c.floor, c.ratio)
		}
	}
}

// What reads results.json reads exactly this.
func TestResultsForm(t *testing.T) {
	floor, ratio := 30.5, 1.25
	path := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(path, []byte("of an earlier run, and longer than what comes now by a good deal: "+strings.Repeat("x", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	err := writeResults(path, []result{
		{"mls/send_1k_n2", 38.125, "us", &floor, &ratio, 0.02},
		{"node/idle_rss", 35, "MiB", nil, nil, 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var form bytes.Buffer
	if err := json.Compact(&form, got); err != nil {
		t.Fatal(err)
	}
	want := `[{"name":"mls/send_1k_n2","value":38.125,"unit":"us","floor":30.5,"ratio":1.25,"spread":0.02},` +
		`{"name":"node/idle_rss","value":35,"unit":"MiB","floor":null,"ratio":null,"spread":0}]`
	if form.String() != want {
		t.Errorf("got  %s\nwant %s", form.String(), want)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("beside the results lies something: %v", left)
	}
}

func TestTable(t *testing.T) {
	floor, ratio := 106000., 0.0712
	var b strings.Builder
	err := writeTable(&b, []benchmark{{best: higher, what: "durable"}, {best: lower, what: "idle"}}, []result{
		{"relay/append_w64", 7547.4, "appends/s", &floor, &ratio, 0.123},
		{"node/idle_rss", 34.56, "MiB", nil, nil, 0.004},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{
		"name value floor ratio better spread what",
		"relay/append_w64 7547 appends/s 106000 0.071 higher 12 % durable",
		"node/idle_rss 34.6 MiB - - lower 0 % idle",
	} {
		if got := strings.Join(strings.Fields(lines[i]), " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
