package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/node/api"
)

// A home that does not open says what is wrong with which file, why, and what to do;
// it is not touched, and what was in it is there when it is whole again.
func TestHomesThatDoNotOpen(t *testing.T) {
	x := newThree(t)
	x.meet()
	want := []string{"one", "two", "三"}
	for _, text := range want {
		if _, err := x.clients["Ana"].Send(context.Background(), "Ben", text); err != nil {
			t.Fatal(err)
		}
	}
	x.until("Ana", "all stored", func(c *api.Client) bool {
		s, err := c.Status(context.Background())
		return err == nil && s.Queued == 0
	})
	if _, log, exit := x.sotto("Ana", "up", "--embedded-relay=false"); exit != 11 || !strings.Contains(log, "in use by another node") || !strings.Contains(log, "next:") {
		t.Errorf("a home in use: exit %d, want 11: %s", exit, log)
	}
	x.stopPerson("Ana")
	wrong := filepath.Join(x.dir, "wrong")
	if err := os.WriteFile(wrong, []byte("battery staple\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	const gone = 3 // the header: nothing is made in its place
	for i, c := range []struct {
		name   string
		damage func(vault string) error
		exit   int
		words  string
	}{
		{"the header's end is another", at("vault.header", change(-1)), 10, "the header was changed"},
		{"the header's beginning is another", at("vault.header", change(0)), 10, "the header does not begin like one"},
		{"the header is cut", at("vault.header", cutTo(100)), 10, "ends early"},
		{"the header is gone", at("vault.header", os.Remove), 10, "vault.header that opens it is missing"},
		{"the header is newer", at("vault.header", change(12)), 1, "newer version"},
		{"the database is gone", at("db-*", os.RemoveAll), 10, "which is not there"},
		{"the list of tables is another", at("db-*/MANIFEST", change(20)), 10, "MANIFEST"},
		{"a table is another", at("db-*/*.sst", change(100)), 10, ".sst"},
		{"a table is gone", at("db-*/*.sst", os.Remove), 10, ".sst"},
		{"the keys of the tables are others", at("db-*/KEYREGISTRY", change(20)), 10, "the database does not belong to the header"},
	} {
		name := fmt.Sprint("copy", i)
		x.people[name] = &process{env: append(slices.Clone(x.people["Ana"].env), "SOTTO_HOME="+x.home(name))}
		if err := os.CopyFS(x.home(name), os.DirFS(x.home("Ana"))); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(filepath.Join(x.home(name), "vault")); err != nil {
			t.Fatal(err)
		}
		before := files(t, x.home(name))
		commands := [][]string{{"run"}}
		switch i {
		case 0:
			commands = append(commands, []string{"up"}, []string{"up", "--detach"})
		case gone:
			commands = append(commands, []string{"init", "--name", "Ana"})
		}
		for _, command := range commands {
			_, log, exit := x.sotto(name, command...)
			if exit != c.exit || !strings.Contains(log, c.words) || !strings.Contains(log, x.home(name)) || !strings.Contains(log, "next:") {
				t.Errorf("%s: sotto %q ends with %d, want %d and %q: %s", c.name, command, exit, c.exit, c.words, log)
			}
		}
		if i == gone {
			if out, _, exit := x.sotto(name, "doctor"); exit != 1 || !strings.Contains(out, "WRONG  home: the vault's database is there") || strings.Contains(out, x.dir) {
				t.Errorf("%s: doctor ends with %d: %s", c.name, exit, out)
			}
		}
		if after := files(t, x.home(name)); after != before {
			t.Errorf("%s: the files were changed:\n%s\nthen\n%s", c.name, before, after)
		}
	}

	for _, command := range [][]string{{"up"}, {"up", "--detach"}} {
		_, log, exit := x.sotto("Ana", append(command, "--passphrase-file", wrong)...)
		if exit != 4 || !strings.Contains(log, "wrong passphrase") || !strings.Contains(log, x.home("Ana")) || !strings.Contains(log, "next:  try again") {
			t.Errorf("a wrong passphrase: exit %d, want 4: %s", exit, log)
		}
	}
	x.startPerson("Ana")
	if _, mine, err := all(x.clients["Ana"], "Ben"); err != nil || !slices.Equal(mine, want) {
		t.Errorf("Ana has written %q, %v", mine, err)
	}
}

// at damages the files that a pattern names.
func at(pattern string, damage func(name string) error) func(dir string) error {
	return func(dir string) error {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(names) == 0 {
			return fmt.Errorf("%s names %q, %v", pattern, names, err)
		}
		return damage(names[0])
	}
}

// change changes a bit of the byte at i, from the end if i is negative.
func change(i int) func(name string) error {
	return func(name string) error {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if i < 0 {
			b[len(b)+i] ^= 1
		} else {
			b[i] ^= 1
		}
		return os.WriteFile(name, b, 0)
	}
}

func cutTo(n int64) func(string) error {
	return func(name string) error { return os.Truncate(name, n) }
}

// files lists what is in a vault, with sizes and times.
func files(t *testing.T, home string) string {
	t.Helper()
	var b strings.Builder
	names, err := filepath.Glob(filepath.Join(home, "vault", "*"))
	more, err2 := filepath.Glob(filepath.Join(home, "vault", "*", "*.sst"))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, name := range append(names, more...) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, name, info.Size(), info.Mode())
	}
	return b.String()
}
