package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/node"
)

// What a report must not tell, wherever it is planted.
var planted = []string{
	"Benedikt", "Cleopatra", "/home/benedikt", "/ip4/192.0.2.7/tcp/4655", "192.0.2.7", "12D3KooWplanted", "planted-ticket", "dGlja2V0cGxhbnRlZA",
	"correct horse", "sotto:i#planted", "sotto-token-planted", "meet me at noon", "Moonlight", "deadbeefdeadbeef", "abandon ability",
}

// A report says what helps, and of names, texts, addresses, paths, keys and tokens
// nothing, whatever stands in the vault and the log.
func TestBugReportTellsNothing(t *testing.T) {
	n, home, _ := serving(t)
	if _, err := (fake{}).Init(t.Context(), home, initOptions{Name: "Cleopatra", Passphrase: []byte("correct horse")}); err != nil {
		t.Fatal(err)
	}
	n.AddContact("Benedikt")
	if _, err := n.Receive("Benedikt", "meet me at noon"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CreateGroup(t.Context(), node.GroupOptions{Name: "Moonlight", Members: []string{"Benedikt"}}); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"ticket": "dGlja2V0cGxhbnRlZA", "theme": "dark"} {
		if _, err := n.SetConfig(t.Context(), "", key, value); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(home, logName))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(f, nil))
	log.Info("the node works", "version", version)
	for _, s := range planted {
		log.Warn("a task is tried again later", "err", s+": "+node.ErrUnreachable.Error()+": "+s, "to", s)
		log.Warn("with "+s+" in its words", "err", node.ErrDiskFull)
		log.Warn(s, s, s)
		io.WriteString(f, s+"\npanic: "+s+"\nmain.f(0x1, "+s+")\n\t"+s+"\n")
	}
	io.WriteString(f, "goroutine 7 [running]:\nsotto/node.(*Node).Send()\n\t/home/benedikt/src/node/chats.go:271 +0x1d\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"bug-report"}, {"bug-report", "--json"}} {
		c := run(t, home, args...)
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if exit := <-c.exit; exit != exitDone {
			t.Errorf("exit %d: %s", exit, c.stderr)
		}
		text := string(b)
		for _, s := range append(planted, home) {
			if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
				t.Errorf("%q tells %q", args, s)
			}
			for _, word := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" /:#-", r) }) {
				if len(word) > 7 && strings.Contains(strings.ToLower(text), strings.ToLower(word)) {
					t.Errorf("%q tells %q of %q", args, word, s)
				}
			}
		}
		for _, want := range []string{"the node works", "a task is tried again later (relay not reachable)", "(a message that is not shown) (disk is full)", "chats.go:271", "theme", "dark", "(set)", "conversations group open", "vault"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q does not tell %q:\n%s", args, want, text)
			}
		}
		if len(args) == 2 {
			var r bugReport
			if err := json.Unmarshal(b, &r); err != nil || r.Version != version {
				t.Errorf("%+v, %v", r, err)
			}
		}
	}
}

// The list of messages holds none that nobody logs.
func TestLoggedIsLogged(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"../../node", "../../relay", "../../storage", "."} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "bugreport.go") {
				return err
			}
			b, err := os.ReadFile(path)
			source.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, message := range logged {
		if !strings.Contains(source.String(), `("`+message+`"`) {
			t.Errorf("nobody logs %q", message)
		}
	}
}
