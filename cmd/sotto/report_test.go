package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A report is made once into a file, and checked without a node: the true one shows
// what it proves, a changed one and a file that is none are refused.
func TestReports(t *testing.T) {
	_, home, _ := serving(t)
	file := filepath.Join(t.TempDir(), "made")
	c := run(t, home, "report", "make", "Bob", strings.Repeat("01", 32), "--out", file, "--reason", "rude", "--block")
	if said := c.ends(t, 5); !strings.Contains(said, "not found") {
		t.Errorf("of nobody: %s", said)
	}

	raw, err := os.ReadFile("../../spec/vectors/report/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Report string }
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(v.Report)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c = run(t, home, "report", "check", write("true", b), "--json")
	if got := c.line(t); !strings.Contains(got, `"text":"hello"`) || !strings.Contains(got, `"reason":"an example"`) {
		t.Errorf("it proves %s", got)
	}
	c.ends(t, 0)
	changed := strings.Replace(string(b), "hello", "hullo", 1)
	if said := run(t, home, "report", "check", write("false", []byte(changed))).ends(t, 6); !strings.Contains(said, "message 1") {
		t.Errorf("a changed one: %s", said)
	}
	if said := run(t, home, "report", "check", write("none", []byte("hello"))).ends(t, 2); !strings.Contains(said, "not a report") {
		t.Errorf("none: %s", said)
	}
}
