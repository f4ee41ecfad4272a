package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/node"
	"sotto/node/api"
)

// process is a relay or a node in a process of its own.
type process struct {
	t    *testing.T
	name string
	args []string
	env  []string
	cmd  *exec.Cmd
	out  *bufio.Reader
	log  *bytes.Buffer // whole once it has ended
	done chan struct{} // closed when it has ended
	err  error         // how it ended
}

func (p *process) start(path string) {
	p.t.Helper()
	p.log = &bytes.Buffer{}
	p.cmd = &exec.Cmd{Path: path, Args: p.args, Env: append(os.Environ(), p.env...), Stderr: p.log}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		p.err = cmd.Wait()
		close(done)
	}(p.cmd, p.done)
}

// wait waits until it has ended, and says how.
func (p *process) wait() error {
	<-p.done
	p.cmd = nil
	return p.err
}

func (p *process) kill() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.wait()
	}
}

// said ends it and returns its log.
func (p *process) said() *bytes.Buffer {
	p.kill()
	return p.log
}

// answers waits until a node answers, and fails when it has ended instead or a minute
// has passed.
func (p *process) answers(c *api.Client) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		_, err := c.Status(ctx)
		if err == nil {
			return
		}
		select {
		case <-p.done:
			p.t.Fatalf("%s ended instead of answering: %v\n%s", p.name, p.err, p.log)
		case <-ctx.Done():
			p.t.Fatalf("%s does not answer: %v\n%s", p.name, err, p.said())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// three is a relay and two people, each in a process of its own.
type three struct {
	t       *testing.T
	dir     string
	relay   *process
	bin     string // of the relay
	address string
	people  map[string]*process
	clients map[string]*api.Client
}

// relayProgram builds the relay, once.
var relayProgram = sync.OnceValues(func() (string, error) {
	if err := os.MkdirAll(programs, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(programs, "sotto-relay")
	if out, err := exec.Command("go", "build", "-o", name, "sotto/cmd/sotto-relay").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the relay: %w\n%s", err, out)
	}
	return name, nil
})

// programs is where this process puts what it builds.
var programs = filepath.Join(os.TempDir(), fmt.Sprint("sotto-test-programs-", os.Getpid()))

func newThree(t *testing.T) *three {
	if testing.Short() {
		t.Skip("it runs whole programs, which takes seconds")
	}
	x := &three{t: t, dir: t.TempDir(), people: map[string]*process{}, clients: map[string]*api.Client{}}
	var err error
	if x.bin, err = relayProgram(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(x.dir, "pass"), []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.startRelay()
	t.Cleanup(x.relay.kill)
	x.newPerson("Ana")
	x.newPerson("Ben")
	return x
}

func (x *three) home(name string) string { return filepath.Join(x.dir, name) }

// newPerson makes an account at the relay and starts its node.
func (x *three) newPerson(name string, env ...string) {
	x.t.Helper()
	p := &process{t: x.t, name: name}
	p.env = append([]string{"ENGINE=quick", "SOTTO_HOME=" + x.home(name), "SOTTO_PASSPHRASE_FILE=" + filepath.Join(x.dir, "pass"), "XDG_RUNTIME_DIR=" + x.dir}, env...)
	p.args = []string{"sotto", "init", "--name", name, "--relay", x.address}
	p.start(os.Args[0])
	if err := p.wait(); err != nil {
		x.t.Fatalf("init: %v\n%s", err, p.log)
	}
	p.args = []string{"sotto", "up", "--embedded-relay=false"}
	x.people[name] = p
	x.startPerson(name)
	x.t.Cleanup(p.kill)
}

// sotto runs a command of somebody's and returns what it printed and its exit code.
func (x *three) sotto(name string, args ...string) (stdout, stderr string, exit int) {
	x.t.Helper()
	var out, log bytes.Buffer
	c := &exec.Cmd{Path: os.Args[0], Args: append([]string{"sotto"}, args...), Env: append(os.Environ(), x.people[name].env...), Stdout: &out, Stderr: &log}
	if err := c.Run(); err != nil && c.ProcessState == nil {
		x.t.Fatal(err)
	}
	if strings.Contains(log.String(), "goroutine ") {
		x.t.Errorf("sotto %q panics:\n%s", args, &log)
	}
	return out.String(), log.String(), c.ProcessState.ExitCode()
}

func (x *three) startRelay() {
	x.t.Helper()
	listen := "/ip4/127.0.0.1/tcp/0"
	if x.relay == nil {
		x.relay = &process{t: x.t, name: "relay"}
	} else {
		listen, _, _ = strings.Cut(x.address, "/p2p/")
	}
	x.relay.args = []string{"sotto-relay", "serve", "--home", filepath.Join(x.dir, "relay"), "--listen", listen}
	x.relay.start(x.bin)
	line, err := x.relay.out.ReadString('\n')
	if err != nil {
		x.t.Fatalf("the relay did not start: %v\n%s", err, x.relay.said())
	}
	x.address = strings.TrimSpace(line)
}

// startPerson starts a node and waits until it answers.
func (x *three) startPerson(name string) {
	x.t.Helper()
	p := x.people[name]
	p.start(os.Args[0])
	c := api.NewClient(x.home(name))
	p.answers(c)
	x.clients[name] = c
}

func (x *three) stopPerson(name string) {
	x.t.Helper()
	p := x.people[name]
	p.cmd.Process.Signal(os.Interrupt)
	if err := p.wait(); err != nil {
		x.t.Errorf("%s: %v\n%s", name, err, p.log)
	}
	x.clients[name].Close()
}

// until waits for an event after which ok holds.
func (x *three) until(name, what string, ok func(c *api.Client) bool) {
	x.t.Helper()
	c := x.clients[name]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	last, err := c.LastEvent(ctx)
	if err != nil {
		x.t.Fatal(err)
	}
	if ok(c) {
		return
	}
	for _, err := range c.Events(ctx, last) {
		if err != nil {
			x.t.Fatalf("%s: %s has not come about: %v", name, what, err)
		}
		if ok(c) {
			return
		}
	}
	if !ok(c) {
		x.t.Fatalf("%s: %s has not come about\n%s", name, what, x.people[name].said())
	}
}

func (x *three) meet() {
	x.t.Helper()
	ctx := context.Background()
	inv, err := x.clients["Ana"].Invite(ctx, node.InviteOptions{Name: "Ben"})
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err := x.clients["Ben"].Accept(ctx, inv.Link, "Ana"); err != nil {
		x.t.Fatal(err)
	}
	for me, other := range map[string]string{"Ana": "Ben", "Ben": "Ana"} {
		x.until(me, "the contact", func(c *api.Client) bool {
			k, err := c.Contact(ctx, other)
			return err == nil && k.State == node.ContactEstablished
		})
	}
}

// all returns the texts of a conversation, oldest first, those of the other side and
// one's own.
func all(c *api.Client, with string) (theirs, mine []string, err error) {
	var back []node.Message
	for before := ""; ; before = back[0].ID {
		got, err := c.Messages(context.Background(), with, before, "", api.MaxMessages)
		if err != nil {
			return nil, nil, err
		}
		back = append(got, back...)
		if len(got) < api.MaxMessages {
			break
		}
	}
	for _, m := range back {
		if m.Mine {
			mine = append(mine, m.Text)
		} else {
			theirs = append(theirs, m.Text)
		}
	}
	return theirs, mine, nil
}

// Texts of every kind go both ways; an empty one and one too large are refused, with
// the limit named.
func TestThreeProcessesTalk(t *testing.T) {
	x := newThree(t)
	x.meet()
	ctx := context.Background()
	texts := []string{"hello", "你好，世界", "👋🏽 👨‍👩‍👧", strings.Repeat("x", node.MaxText), "line\nline\ttab"}
	for _, text := range texts {
		for me, other := range map[string]string{"Ana": "Ben", "Ben": "Ana"} {
			if _, err := x.clients[me].Send(ctx, other, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	for me, other := range map[string]string{"Ana": "Ben", "Ben": "Ana"} {
		x.until(me, "all texts", func(c *api.Client) bool {
			got, _, err := all(c, other)
			return err == nil && fmt.Sprint(got) == fmt.Sprint(texts)
		})
	}
	if _, err := x.clients["Ana"].Send(ctx, "Ben", ""); !errors.Is(err, node.ErrInvalid) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty text: %v", err)
	}
	if _, err := x.clients["Ana"].Send(ctx, "Ben", strings.Repeat("x", node.MaxText+1)); !errors.Is(err, node.ErrTooLarge) || !strings.Contains(err.Error(), "61440") {
		t.Errorf("a text one byte too large: %v", err)
	}
	a, err1 := x.clients["Ana"].SafetyNumber(ctx, "Ben")
	b, err2 := x.clients["Ben"].SafetyNumber(ctx, "Ana")
	if err1 != nil || err2 != nil || a.Number != b.Number || len(a.Number) != 60 {
		t.Errorf("safety numbers %q and %q (%v, %v)", a.Number, b.Number, err1, err2)
	}
}

// Ben is away while Ana sends 500 messages and goes; the relay is killed and started;
// Ben starts alone and has all of them, once each, in order.
func TestFiveHundredForSomebodyAway(t *testing.T) {
	x := newThree(t)
	x.meet()
	x.stopPerson("Ben")
	for i := range 500 {
		if _, err := x.clients["Ana"].Send(context.Background(), "Ben", fmt.Sprint("message ", i)); err != nil {
			t.Fatal(err)
		}
	}
	x.until("Ana", "all stored", func(c *api.Client) bool {
		s, err := c.Status(context.Background())
		return err == nil && s.Queued == 0
	})
	x.stopPerson("Ana")
	x.relay.kill()
	x.startRelay()
	x.startPerson("Ben")
	x.until("Ben", "all 500", func(c *api.Client) bool {
		got, _, err := all(c, "Ana")
		return err == nil && len(got) >= 500
	})
	got, _, err := all(x.clients["Ben"], "Ana")
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range got {
		if text != fmt.Sprint("message ", i) {
			t.Fatalf("at place %d stands %q", i, text)
		}
	}
}

// Relay and nodes are killed at random moments, 30 times, while both people write:
// nothing that was acknowledged is lost, nothing is shown twice, and what one
// person wrote stays in its order.
func TestKilledThirtyTimes(t *testing.T) {
	x := newThree(t)
	x.meet()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	rounds := 30
	var mu sync.Mutex
	acked := map[string][]string{}
	progress := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	write := func(me, other string) {
		defer wg.Done()
		for n := 0; ctx.Err() == nil; n++ {
			mu.Lock()
			c := x.clients[me]
			mu.Unlock()
			text := fmt.Sprintf("%s %05d", me, n)
			if _, err := c.Send(ctx, other, text); err != nil {
				continue // it may have worked: then it comes, once
			}
			mu.Lock()
			acked[me] = append(acked[me], text)
			mu.Unlock()
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}
	total := func() int { mu.Lock(); defer mu.Unlock(); return len(acked["Ana"]) + len(acked["Ben"]) }
	wg.Add(2)
	go write("Ana", "Ben")
	go write("Ben", "Ana")
	for range rounds {
		for want := total() + 1 + rng.IntN(60); total() < want; {
			select {
			case <-progress:
			case <-time.After(2 * time.Minute):
				t.Fatalf("nobody could send for two minutes\nrelay: %s\nAna: %s\nBen: %s", x.relay.said(), x.people["Ana"].said(), x.people["Ben"].said())
			}
		}
		switch victim := rng.IntN(3); victim {
		case 0:
			x.relay.kill()
			x.startRelay()
		default:
			name := []string{"Ana", "Ben"}[victim-1]
			x.people[name].kill()
			p := x.people[name]
			p.start(os.Args[0])
			fresh := api.NewClient(x.home(name))
			p.answers(fresh)
			mu.Lock()
			x.clients[name] = fresh
			mu.Unlock()
		}
	}
	stop()
	wg.Wait()
	for me, other := range map[string]string{"Ana": "Ben", "Ben": "Ana"} {
		x.until(me, "everything", func(c *api.Client) bool {
			theirs, _, err := all(c, other)
			if err != nil {
				return false
			}
			have := map[string]bool{}
			for _, s := range theirs {
				have[s] = true
			}
			for _, s := range acked[other] {
				if !have[s] {
					return false
				}
			}
			return true
		})
		theirs, mine, err := all(x.clients[me], other)
		if err != nil {
			t.Fatal(err)
		}
		for who, texts := range map[string][]string{other: theirs, me: mine} {
			last := ""
			for _, s := range texts {
				if s <= last {
					t.Errorf("%s sees %q of %s behind %q", me, s, who, last)
				}
				last = s
			}
		}
	}
	t.Logf("%d messages acknowledged over %d kills", total(), rounds)
}
