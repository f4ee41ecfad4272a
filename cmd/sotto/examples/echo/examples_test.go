package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/nodetest"
)

// The test is its own bot: it is started again as echo.
func TestMain(m *testing.M) {
	if os.Getenv("SOTTO_TEST_ECHO") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// house is somebody's node, with its API at a socket, which can be stopped and started.
type house struct {
	t *testing.T
	*nodetest.Person
	stopAPI func()
}

func newHouse(t *testing.T, p *nodetest.Person) *house {
	h := &house{t: t, Person: p}
	h.open()
	t.Cleanup(func() { h.stopAPI() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	lock, err := api.Lock(h.Home)
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := lock.Listen()
	if err != nil {
		h.t.Fatal(err)
	}
	s := api.NewServer(h.Node, "test", slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	h.stopAPI = sync.OnceFunc(func() {
		if err := errors.Join(s.Close(), <-ended, lock.Close()); err != nil {
			h.t.Error(err)
		}
	})
}

// restart stops the node, does what is to be done meanwhile, and starts it again.
func (h *house) restart(meanwhile func()) {
	h.t.Helper()
	h.stopAPI()
	h.Stop()
	meanwhile()
	h.Start()
	h.open()
}

// token makes a token and returns the file that it is in.
func (h *house) token(o node.TokenOptions) string {
	h.t.Helper()
	tok, err := h.CreateToken(context.Background(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(tok.Secret+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// program is a bot at work.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	said bytes.Buffer
	env  []string
	dir  string
	args []string
}

func (p *program) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Dir, p.cmd.Env = p.dir, append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends it without a warning.
func (p *program) kill() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.cmd = nil
	}
}

func run(t *testing.T, dir string, env []string, args ...string) *program {
	p := &program{t: t, dir: dir, env: env, args: args}
	p.start()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said: %s", filepath.Base(args[0]), p.said.String())
		}
	})
	return p
}

// await waits until a file that another process writes is as it should be.
func await(t *testing.T, file, what string, ok func(text string) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond) // a file cannot be waited for
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		b, err := os.ReadFile(file)
		if err == nil && ok(string(b)) {
			return
		} else if time.Now().After(end) {
			t.Fatalf("%s has not come about; %s is %q, %v", what, filepath.Base(file), b, err)
		}
	}
}

func anything(string) bool { return true }

// couple is a bot's home and somebody who talks to it.
func couple(t *testing.T) (bot *house, ben *nodetest.Person) {
	t.Helper()
	w := nodetest.New(t)
	r := w.Relay()
	ana := w.Person("Ana", r)
	ben = w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	return newHouse(t, ana), ben
}

func send(t *testing.T, p *nodetest.Person, to string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := p.Send(context.Background(), to, text); err != nil {
			t.Fatal(err)
		}
	}
}

// times counts how often each text is in a conversation.
func times(p *nodetest.Person, with string) map[string]int {
	out := map[string]int{}
	for _, text := range p.Texts(with) {
		out[text]++
	}
	return out
}

// Whatever is restarted or killed, each message is answered once.
func TestEcho(t *testing.T) {
	h, ben := couple(t)
	dir := t.TempDir()
	env := []string{"SOTTO_TEST_ECHO=1", "SOTTO_HOME=" + h.Home, "SOTTO_TOKEN_FILE=" + h.token(node.TokenOptions{Name: "echo", Read: true, Post: true})}
	bot := run(t, dir, env, os.Args[0])
	await(t, filepath.Join(dir, "echo.position"), "a position", anything)
	all := func(want int, texts ...string) func() bool {
		return func() bool {
			n := times(ben, "Ana")
			for _, text := range texts {
				if n[text] < want {
					return false
				}
			}
			return true
		}
	}
	send(t, ben, "Ana", "one")
	ben.Until("the first answer", all(2, "one"))

	// The node is away while more comes, and comes back under the bot.
	h.restart(func() { send(t, ben, "Ana", "two", "three") })
	ben.Until("the answers after a restart", all(2, "one", "two", "three"))

	// The bot is killed when it has answered; what it had written down is lost.
	bot.kill()
	if err := os.WriteFile(filepath.Join(dir, "echo.position"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	send(t, ben, "Ana", "four")
	bot.start()
	ben.Until("the answer of the next bot", all(2, "one", "two", "three", "four"))
	send(t, ben, "Ana", "five")
	ben.Until("the last answer", all(2, "five"))
	for text, n := range times(ben, "Ana") {
		if n != 2 {
			t.Errorf("%q is there %d times: asked and answered would be 2", text, n)
		}
	}
}

func TestWebhook(t *testing.T) {
	needs(t, "curl", "awk", "od", "sed")
	h, ben := couple(t)
	script, err := filepath.Abs("../webhook.sh")
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "SOTTO_HOME="+h.Home, "SOTTO_TOKEN_FILE="+h.token(node.TokenOptions{Name: "webhook", Post: true, Chats: []string{"Ben"}}))
	post := func(chat, text string) (string, error) {
		cmd := exec.Command(script, chat)
		cmd.Env, cmd.Stdin = env, strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	texts := map[string]string{
		"a plain line\n":                            "a plain line",
		"a \"quote\", a \\ and a \\\\\n":            "a \"quote\", a \\ and a \\\\",
		"two\n\n\tlines, näive 名前 & %s $HOME 'x'\n": "two\n\n\tlines, näive 名前 & %s $HOME 'x'",
		"bells\a and \x1b[31mcolours\r\n":           "bells and [31mcolours",
	}
	for in := range texts {
		if out, err := post("Ben", in); err != nil || out != "" {
			t.Errorf("post %q: %v, %s", in, err, out)
		}
	}
	for chat, want := range map[string]string{"Nobody": "not_permitted", "../status": "not_permitted"} {
		if out, err := post(chat, "x"); err == nil || !strings.Contains(out, want) {
			t.Errorf("to %q: %v, %s; want %s", chat, err, out, want)
		}
	}

	// Its node is away when it begins.
	var late *exec.Cmd
	h.restart(func() {
		late = exec.Command(script, "Ben")
		late.Env, late.Stdin = env, strings.NewReader("posted while the node was away")
		if err := late.Start(); err != nil {
			t.Fatal(err)
		}
	})
	if err := late.Wait(); err != nil {
		t.Error("while the node was away:", err)
	}
	want := append(slices.Collect(maps.Values(texts)), "posted while the node was away")
	ben.Until("all that was posted", func() bool { return len(ben.Texts("Ana")) >= len(want) })
	got := ben.Texts("Ana")
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Ben got %q, want %q", got, want)
	}
}

func TestReporter(t *testing.T) {
	needs(t, "python3")
	h, ben := couple(t)
	script, err := filepath.Abs("../reporter.py")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	env := []string{"SOTTO_HOME=" + h.Home, "SOTTO_TOKEN_FILE=" + h.token(node.TokenOptions{Name: "reporter", Read: true})}
	bot := run(t, folder, env, "python3", script, folder)
	await(t, filepath.Join(folder, "state.json"), "a state", anything)
	today := filepath.Join(folder, time.Now().UTC().Format("2006-01-02")+".txt")
	reports := func(n int) {
		t.Helper()
		want := fmt.Sprintf("%6d  Ben\n", n)
		await(t, today, fmt.Sprint("a report of ", n), func(text string) bool { return text == want })
	}
	send(t, ben, "Ana", "one", "two")
	send(t, h.Person, "Ben", "three")
	reports(3)
	h.restart(func() { send(t, ben, "Ana", "four") })
	reports(4)
	bot.kill()
	send(t, ben, "Ana", "five")
	h.Until("the fifth", func() bool { return len(h.Texts("Ben")) == 5 })
	bot.start()
	reports(5)
	send(t, h.Person, "Ben", "six")
	reports(6)
}

// needs skips where a program is missing.
func needs(t *testing.T, programs ...string) {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("there is no %s here", p)
		}
	}
}

// README shows this bot as it is.
func TestReadme(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "\nfunc main() {\n")
	var want strings.Builder
	for line := range strings.Lines("func main() {\n" + body) {
		want.WriteString("    " + strings.ReplaceAll(line, "\t", "    "))
	}
	if body == "" || !strings.Contains(string(readme), "\n"+want.String()) {
		t.Errorf("README.md does not show:\n%s", want.String())
	}
}
