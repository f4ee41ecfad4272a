package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/api/apitest"
)

// watched is a node that tells when somebody has connected to its events.
type watched struct {
	*apitest.Node
	connected chan struct{}
}

func (w *watched) Events(ctx context.Context, after uint64) iter.Seq2[node.Event, error] {
	w.connected <- struct{}{}
	return w.Node.Events(ctx, after)
}

// serving serves a node in a home of its own and returns a command line beside it.
func serving(t *testing.T) (*watched, string, func()) {
	t.Helper()
	home, err := os.MkdirTemp("", "sotto-test-")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	n := &watched{apitest.New("Ada"), make(chan struct{}, 100)}
	s := api.NewServer(n, "test", slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if err := errors.Join(s.Close(), <-ended, lock.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		stop()
		os.RemoveAll(home)
	})
	return n, home, stop
}

// command is one under way.
type command struct {
	*bufio.Reader               // its stdout
	stderr        *bytes.Buffer // once it has ended
	exit          chan int
	interrupt     context.CancelFunc
}

func run(t *testing.T, home string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	c := &command{bufio.NewReader(r), &bytes.Buffer{}, make(chan int, 1), cancel}
	a := &app{in: strings.NewReader(""), out: w, err: c.stderr, engine: fake{}, env: func(name string) string {
		if name == "SOTTO_HOME" {
			return home
		}
		return ""
	}}
	go func() {
		c.exit <- a.run(ctx, args)
		w.Close()
	}()
	return c
}

func (c *command) line(t *testing.T) string {
	t.Helper()
	s, err := c.ReadString('\n')
	if err != nil {
		t.Fatalf("a line: %q, %v", s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

// ends checks that the command ends so and has no more output.
func (c *command) ends(t *testing.T, want int) string {
	t.Helper()
	rest, err := io.ReadAll(c)
	if got := <-c.exit; got != want || err != nil || len(rest) > 0 {
		t.Errorf("exit %d, want %d; left to read %q, %v; stderr %s", got, want, rest, err, c.stderr)
	}
	return c.stderr.String()
}

func TestWatch(t *testing.T) {
	n, home, _ := serving(t)
	bob := n.AddContact("bob")
	n.AddContact("ana")
	if _, err := n.Receive("bob", "before"); err != nil {
		t.Fatal(err)
	}
	all, one := run(t, home, "chat", "watch"), run(t, home, "chat", "watch", bob.ID[:10], "--json")
	<-n.connected
	<-n.connected

	expect := func(c *command, want string) {
		t.Helper()
		if got := c.line(t); !strings.Contains(got, want) {
			t.Errorf("line %q, want %q", got, want)
		}
	}
	receive := func(from, text string) {
		t.Helper()
		if _, err := n.Receive(from, text); err != nil {
			t.Fatal(err)
		}
	}
	receive("bob", "one\x1b[2J")
	expect(all, `  bob: one\x1b[2J`)
	expect(one, `"text":"one\u001b[2J"`)
	receive("ana", "two")
	expect(all, "  ana: two")
	n.Notice("a notice") // stderr, for who watches everything

	// Our own are shown when they are queued, and again only if they fail.
	m, err := n.Send(t.Context(), "bob", "three")
	if err != nil {
		t.Fatal(err)
	}
	expect(all, "  Ada: three (queued)")
	expect(one, `"state":"queued","text":"three"`)
	n.SetMessage(m.ID, node.MessageStored, "")
	expect(one, `"state":"stored","text":"three"`)
	if m, err = n.Send(t.Context(), "bob", "four"); err != nil {
		t.Fatal(err)
	}
	expect(all, "  Ada: four (queued)")
	expect(one, `"text":"four"`)
	n.SetMessage(m.ID, node.MessageFailed, "the mailbox is full")
	expect(all, "  Ada: four (failed: the mailbox is full)")
	expect(one, `"state":"failed","reason":"the mailbox is full"`)

	all.interrupt()
	if got := all.ends(t, exitInterrupted); got != "a notice\nsotto: interrupted\n" {
		t.Errorf("stderr = %q", got)
	}
	one.interrupt()
	if got := one.ends(t, exitInterrupted); !strings.HasPrefix(got, `{"error":{"code":"interrupted"`) {
		t.Errorf("stderr = %q", got)
	}
}

func TestEvents(t *testing.T) {
	n, home, stop := serving(t)
	n.Notice("one")
	n.Notice("two")
	all, some, later := run(t, home, "events", "--after", "0"), run(t, home, "events", "--after=1"), run(t, home, "events")
	for range 3 {
		<-n.connected
	}
	n.Notice("three")
	for _, test := range []struct {
		c    *command
		want []uint64
	}{{all, []uint64{1, 2, 3}}, {some, []uint64{2, 3}}, {later, []uint64{3}}} {
		for _, want := range test.want {
			var e node.Event
			if err := json.Unmarshal([]byte(test.c.line(t)), &e); err != nil || e.Seq != want {
				t.Errorf("event %+v, %v; want %d", e, err, want)
			}
		}
	}
	all.interrupt()
	all.ends(t, exitInterrupted)
	stop()
	for _, c := range []*command{some, later} {
		if got := c.ends(t, exitFailed); !strings.Contains(got, "the node has stopped") {
			t.Errorf("stderr = %q", got)
		}
	}
}

// The contact is established only while the command waits, under another id.
func TestAcceptWaits(t *testing.T) {
	n, home, _ := serving(t)
	c := run(t, home, "contact", "accept", "sotto:i#x", "--name", "bob", "--wait", "10m", "--json")
	<-n.connected
	n.Notice("something else")
	if err := n.SetContact("bob", node.ContactPending, "the relay has it"); err != nil {
		t.Fatal(err)
	}
	if err := n.SetContact("bob", node.ContactEstablished, ""); err != nil {
		t.Fatal(err)
	}
	var got node.Contact
	if err := json.Unmarshal([]byte(c.line(t)), &got); err != nil || got.State != node.ContactEstablished || got.Name != "bob" {
		t.Errorf("contact %+v, %v", got, err)
	}
	c.ends(t, exitDone)

	c = run(t, home, "contact", "accept", "sotto:i#x", "--name", "ana", "--wait", "10m")
	<-n.connected
	c.interrupt()
	c.ends(t, exitInterrupted)
}

func TestReadPagesThroughAll(t *testing.T) {
	n, home, _ := serving(t)
	n.AddContact("bob")
	for i := range 450 {
		if _, err := n.Receive("bob", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ limit, first, lines int }{{450, 0, 450}, {1000, 0, 450}, {401, 49, 401}, {200, 250, 200}, {1, 449, 1}} {
		c := run(t, home, "chat", "read", "bob", "--json", fmt.Sprint("--limit=", test.limit))
		for i := range test.lines {
			var m node.Message
			if err := json.Unmarshal([]byte(c.line(t)), &m); err != nil || m.Text != fmt.Sprint(test.first+i) {
				t.Fatalf("limit %d: message %d = %q, %v", test.limit, i, m.Text, err)
			}
		}
		c.ends(t, exitDone)
	}
}

// A reader that goes away ends the command, which says why.
func TestStdoutIsGone(t *testing.T) {
	n, home, _ := serving(t)
	n.AddContact("bob")
	a := &app{in: strings.NewReader(""), out: gone{}, err: io.Discard, engine: fake{}, env: func(string) string { return home }}
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"contact", "list"}, {"contact", "verify", "bob"}} {
		if got := a.run(t.Context(), args); got != exitFailed {
			t.Errorf("%q exits with %d, want %d", args, got, exitFailed)
		}
	}
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

func TestExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		errors.New("x"):          1,
		api.ErrNotRunning:        1,
		node.ErrUncertain:        1,
		node.ErrExists:           1,
		node.ErrBlocked:          1,
		node.ErrInvalid:          2,
		node.ErrTooLarge:         2,
		node.ErrAmbiguous:        2,
		errPartly:                3,
		node.ErrLocked:           4,
		errPassphrase:            4,
		node.ErrNotFound:         5,
		node.ErrGone:             5,
		node.ErrNotTrusted:       6,
		node.ErrFrozen:           6,
		node.ErrUnreachable:      7,
		context.DeadlineExceeded: 8,
		node.ErrDiskFull:         9,
		node.ErrDamaged:          10,
		node.ErrNewer:            1,
		node.ErrBusy:             11,
		context.Canceled:         130,
		node.ErrStopped:          1,
		node.ErrNotReady:         1,
		node.ErrNotAllowed:       6,
		api.ErrBadToken:          6,
		api.ErrNotPermitted:      6,
		fmt.Errorf("%w: %w", node.ErrUncertain, context.Canceled): 130,
		&remote{Code: "busy", Exit: 11}:                           11,
		&usageError{node.ErrLocked, "sotto"}:                      2,
		hint(node.ErrDamaged, "keep the files"):                   10,
	} {
		if got := tell(fmt.Errorf("do it: %w", err)).Exit; got != want {
			t.Errorf("%v: exit %d, want %d", err, got, want)
		}
	}
	if r := tell(hint(errors.New("no such contact; sotto contact list shows them"), "see the names: sotto contact list")); r.Hint != "" {
		t.Errorf("the hint %q repeats the error", r.Hint)
	}
}

// spec/api.md has every exit code and no other.
func TestExitCodesAreWritten(t *testing.T) {
	page, err := os.ReadFile("../../spec/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| exit | means |\n|---|---|\n")
	var written []string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			break
		}
		written = append(written, strings.Fields(line)[1])
	}
	codes := map[int]bool{exitDone: true, exitFailed: true, exitUsage: true}
	for _, a := range answers {
		codes[a.exit] = true
	}
	var want []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		want = append(want, fmt.Sprint(code))
	}
	if !slices.Equal(written, want) {
		t.Errorf("spec/api.md has the exit codes %v, the program %v", written, want)
	}
}

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"Ünïcode 名前 👋🏽 \ufffd":   "Ünïcode 名前 👋🏽 \ufffd",
		"a\x1b[31mb":             `a\x1b[31mb`,
		"a\nb\tc\rd\x00\x7f":     `a\x0ab\x09c\x0dd\x00\x7f`,
		"\u009b31m":              `\u009b31m`,
		"\u202eevil\u2066\u200f": `\u202eevil\u2066\u200f`,
		"\u2028\ufeff":           `\u2028\ufeff`,
		"\xff\xfea":              `\xff\xfea`,
	} {
		if got := safe(in); got != want {
			t.Errorf("safe(%q) = %q, want %q", in, got, want)
		}
	}
	want := "one\n                  two    three\n                  2026-03-01 12:00  bob: four"
	if got := paragraph("one\r\ntwo\tthree\r\n2026-03-01 12:00  bob: four"); got != want {
		t.Errorf("paragraph = %q", got)
	}
}

func FuzzSafe(f *testing.F) {
	for _, seed := range []string{"", "a", "\x1b]0;x\a", "\u202e\u2069", "\xc3", "a\u200db"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range safe(s) {
			if unsafeRune(r) {
				t.Fatalf("safe(%q) has %q", s, r)
			}
		}
		if safe(safe(s)) != safe(s) {
			t.Errorf("safe(%q) is not safe", s)
		}
	})
}

func TestReadPassphrase(t *testing.T) {
	long := strings.Repeat("p", maxPassphrase)
	for in, want := range map[string]string{"a": "a", "a\n": "a", "a\r\n": "a", " a b \n": " a b ", "a\n\n": "a\n", "a\nb": "a\nb", long: long, long + "\r\n": long} {
		if got, err := readPassphrase(strings.NewReader(in), "test"); string(got) != want || err != nil {
			t.Errorf("%.20q is %.20q, %v; want %.20q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "\n", "\r\n", long + "p", long + "pppppppp"} {
		if got, err := readPassphrase(strings.NewReader(in), "test"); !errors.Is(err, errPassphrase) {
			t.Errorf("%.20q is %.20q, %v; want %v", in, got, err, errPassphrase)
		}
	}
}

// A node that does not answer is given up after a minute, and a command that lasts
// is not.
func TestPatience(t *testing.T) {
	a := &app{}
	for _, test := range []struct {
		name string
		make func(use, short string, least, most int, f func(context.Context, *cobra.Command, []string) error) *cobra.Command
		want int
	}{{"a request", a.command, exitTimedOut}, {"a stream", a.lasting, exitInterrupted}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			c := test.make("x", "", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(30 * time.Minute):
					return context.Canceled
				}
			})
			c.SilenceErrors, c.SilenceUsage = true, true
			c.SetArgs(nil)
			if got := tell(c.ExecuteContext(ctx)).Exit; got != test.want {
				t.Errorf("%s ends with %d, want %d", test.name, got, test.want)
			}
		})
	}
}

// With --json every command prints objects, one a line, and nothing beside them.
func TestEveryCommandSpeaksJSON(t *testing.T) {
	n, home, _ := serving(t)
	bob := n.AddContact("bob")
	theirs, err := n.Receive("bob", "你好\n👋🏽")
	if err != nil {
		t.Fatal(err)
	}
	own, err := n.Send(t.Context(), "bob", "hello")
	if err != nil {
		t.Fatal(err)
	}
	poll, err := n.SendMessage(t.Context(), "bob", node.NewMessage{Poll: &node.NewPoll{Question: "?", Options: []string{"a", "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eve", "mallory"} {
		if err := n.SetContact(n.AddContact(name).ID, node.ContactRequested, "asks"); err != nil {
			t.Fatal(err)
		}
	}
	inv, err := n.Invite(t.Context(), node.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A link that a device has entered.
	if _, err := n.LinkDevice(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ConfirmLink(t.Context(), apitest.Digits, nil); !errors.Is(err, node.ErrNotReady) {
		t.Fatal(err)
	}
	pass := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(pass, []byte(apitest.Passphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	key := []string{"--passphrase-file", pass}
	if _, err := (fake{}).Init(t.Context(), home, initOptions{Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	type call struct {
		name string
		args []string
	}
	commands := []call{
		{"status", nil}, {"doctor", nil}, {"version", nil},
		{"contact list", nil}, {"contact rename", []string{"bob", "ben"}}, {"contact verify", []string{"ben"}}, {"contact block", []string{"ben"}},
		{"contact unblock", []string{bob.ID}}, {"contact invites", nil}, {"contact revoke", []string{inv.ID}}, {"contact invite", nil},
		{"contact accept", []string{"sotto:i#slow", "--name", "carol"}},
		{"contact admit", []string{"eve"}}, {"contact decline", []string{"mallory"}},
		{"chat reply", []string{"ben", theirs.ID, "yes"}}, {"chat edit", []string{"ben", own.ID, "hello, ben"}}, {"chat react", []string{"ben", theirs.ID, "👍"}},
		{"chat forward", []string{"ben", theirs.ID, "ben"}}, {"chat info", []string{"ben", theirs.ID}}, {"chat pin", []string{"ben", theirs.ID}}, {"chat star", []string{"ben", theirs.ID}},
		{"chat delete", []string{"ben", own.ID, "--for-all"}}, {"chat poll", []string{"ben", "?", "a", "b"}}, {"chat vote", []string{"ben", poll.ID, "1"}}, {"chat close", []string{"ben", poll.ID}},
		{"chat mark", []string{"ben"}}, {"chat mute", []string{"ben", "8h"}}, {"chat archive", []string{"ben"}}, {"chat timer", []string{"ben", "24h"}},
		{"chat draft", []string{"ben", "not yet"}}, {"chat later", []string{"ben"}},
		{"chat list", nil}, {"chat read", []string{"ben", "--limit", "1"}}, {"chat send", []string{"ben", "hello"}},
		{"group create", []string{"Hikers"}}, {"group members", []string{"Hikers"}}, {"group add", []string{"Hikers", "ben"}}, {"group role", []string{"Hikers", "ben", "admin"}},
		{"group policy", []string{"Hikers"}}, {"group link", []string{"Hikers"}}, {"group requests", []string{"Hikers"}}, {"group approve", []string{"Hikers", "Zoe"}}, {"chat search", []string{"hello", "--limit", "1"}}, {"chat evidence", []string{"ben"}}, {"group announce", []string{"Hikers", "on"}}, {"group describe", []string{"Hikers", "on Sundays"}}, {"group remove", []string{"Hikers", "ben"}},
		{"group rename", []string{"Hikers", "Walkers"}}, {"group leave", []string{"Walkers"}}, {"group join", []string{"sotto:g#x"}},
		{"device pending", nil}, {"device confirm", append([]string{apitest.Digits}, key...)}, {"device list", nil}, {"device rename", []string{"laptop", "tablet"}},
		{"device verify", []string{"tablet"}}, {"device suspend", []string{"tablet"}}, {"device restore", append([]string{"tablet"}, key...)},
		{"device revoke", append([]string{"tablet"}, key...)}, {"device link", []string{"--no-wait"}}, {"device cancel", nil},
		{"config list", nil}, {"config get", []string{"sound"}}, {"config set", []string{"sound", "off"}}, {"config unset", []string{"sound"}}, {"config path", nil},
		{"token create", []string{"--name", "bot", "--read"}}, {"token list", nil}, {"token revoke", []string{"bot"}},
		{"man", []string{t.TempDir()}}, {"bug-report", nil}, {"rpc", []string{"--openapi"}},
	}
	elsewhere := []string{"init", "run", "up", "down", "demo", "events", "chat watch", "config edit", "completion", "help", "report make", "report check", "group picture", "group decline", "sim"} // their tests are elsewhere
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard, engine: fake{}, env: func(string) string { return home }}
	var names []string
	for _, c := range a.root().Commands() {
		if len(c.Commands()) == 0 || c.Name() == "completion" {
			names = append(names, c.Name())
			continue
		}
		for _, sub := range c.Commands() {
			names = append(names, c.Name()+" "+sub.Name())
		}
	}
	for _, name := range names {
		if !slices.Contains(elsewhere, name) && !slices.ContainsFunc(commands, func(c call) bool { return c.name == name }) {
			t.Errorf("sotto %s is not tested", name)
		}
	}
	for _, command := range commands {
		name := command.name
		c := run(t, home, append(append(strings.Fields(name), command.args...), "--json")...)
		line := c.line(t)
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil || len(object) == 0 {
			t.Errorf("sotto %s prints %q, %v", name, line, err)
		}
		if name == "chat read" {
			for _, field := range []string{"id", "sender", "sent", "state", "text"} {
				if object[field] == nil {
					t.Errorf("a message has no %s: %s", field, line)
				}
			}
		}
		if log := c.ends(t, exitDone); log != "" {
			t.Errorf("sotto %s says beside it: %s", name, log)
		}
	}
}
