package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"sotto/crypto/identity"
	"sotto/node"
	"sotto/node/api"
	"sotto/relay/server"
)

func (a *app) demoCommand() *cobra.Command {
	return a.lasting("demo", "A relay and two people meet and talk, in a temporary folder", 0, 0, func(ctx context.Context, _ *cobra.Command, _ []string) error {
		return a.demo(ctx)
	})
}

// demoLife is how long a demo may take, on a machine that has better things to do.
const demoLife = 3 * time.Minute

func (a *app) demo(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, demoLife)
	defer cancel()
	dir, err := os.MkdirTemp("", "sotto-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{a: a, ctx: ctx, dir: dir}
	if err := os.WriteFile(d.passphrase(), []byte("correct horse battery staple\n"), 0o600); err != nil {
		return err
	}
	relay, err := server.Start(filepath.Join(dir, "relay"), server.Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Small: true,
		Watch: func(s server.Store) server.Store { d.relay = newWitness(s); return d.relay }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, relay.Close()) }()
	amelia, bashir := d.actor("Amelia"), d.actor("Bashir")
	defer func() { err = errors.Join(err, amelia.leave(), bashir.leave()) }() // whenever it ends
	d.play(relay.Address().String(), amelia, bashir)
	return d.err
}

// demo is a play with a relay and two people. Nothing in it is acted: each person is
// the command line with a home of its own, their nodes reach the relay over TCP, and
// what the relay has seen is what went through its store.
//
// After an error nothing more happens.
type demo struct {
	a     *app
	ctx   context.Context
	dir   string
	relay *witness
	scene scene // that is being played
	sent  []string
	err   error
}

// scene is what --json shows as a line.
type scene struct {
	Step     int     `json:"step"`
	Title    string  `json:"title"`
	Commands []typed `json:"commands"`
	Relay    []sight `json:"relay"`
	Words    string  `json:"words"`
}

// typed is a command and what it printed.
type typed struct {
	Who     string `json:"who"`
	Command string `json:"command"`
	Output  string `json:"output"`
}

// play is the story.
func (d *demo) play(relay string, amelia, bashir *actor) {
	d.tell("A relay and two people, in the folder\n   %s\nAll of this happens now: real nodes and commands, over TCP on this machine.\nAt the end of each scene stands what the relay got to see of it.", cut(d.dir, 77))

	d.begin("Two people make accounts, and start their nodes.")
	for _, p := range []*actor{amelia, bashir} {
		p.types("init", "--name", p.name, "--relay", relay)
		p.starts()
	}
	if d.err == nil {
		d.err = d.relay.until(d.ctx, 2, "made") // an inbox for each
	}
	d.end("An account is a key that its owner has made. A relay has no list of people.")

	d.begin("Amelia makes a link, and hands it to Bashir by any way she likes.")
	link := last(amelia.types("contact", "invite", "--name", "Bashir"))
	d.end("What the slot holds is sealed with the secret in the link.")

	d.begin("Bashir opens the link.")
	bashir.types("contact", "accept", link, "--name", "Amelia", "--wait", "1m")
	amelia.waits("the contact", func(c *api.Client) (bool, error) {
		one, err := c.Contact(d.ctx, "Bashir")
		return one.State == node.ContactEstablished, err
	})
	amelia.types("contact", "list")
	d.end("Request and answer went to inboxes of the same size for everybody. Then a\nconversation's mailbox was made: who writes there, the relay is not told.")

	d.begin("They compare safety numbers, over a call: nobody stands between them.")
	number := digits.FindString(amelia.types("contact", "verify", "Bashir"))
	bashir.types("contact", "verify", "Amelia", strings.Join(strings.Fields(number), ""))
	d.end("Nothing of this concerns the relay.")

	d.begin("They talk.")
	amelia.sends(bashir, "Good morning, Bashir!")
	bashir.sends(amelia, "早上好，阿米莉亚。今天喝茶吗？")
	amelia.sends(bashir, "🫖 + 🍰 at four? 👋🏽")
	bashir.types("chat", "read", "Amelia")
	d.end("Words, Chinese, faces: up to some 400 bytes all look alike.")

	d.begin("Bashir goes. Amelia writes on, and goes too.")
	bashir.stops()
	amelia.sends(nil, "The kettle is on.")
	amelia.sends(nil, "I keep you a slice of the lemon cake.")
	amelia.sends(nil, "Gone to fetch milk. 一会儿见！")
	amelia.waits("everything to be stored", func(c *api.Client) (bool, error) {
		s, err := c.Status(d.ctx)
		return s.Queued == 0, err
	})
	amelia.stops()
	d.end("Each was durable here before it left, and at the relay before it was called\nstored.")

	d.begin("Bashir comes back, alone, and catches up.")
	bashir.starts()
	bashir.waits("what was written meanwhile", d.has("Amelia"))
	bashir.types("chat", "read", "Amelia", "--limit", "3")
	d.end("Nothing is missing: the entries form a chain, and the relay signed its end.")

	d.begin("What the relay could tell.")
	d.search(amelia, bashir)
}

func (d *demo) begin(title string) {
	if d.err != nil {
		return
	}
	d.scene = scene{Step: d.scene.Step + 1, Title: title, Commands: []typed{}}
	d.tell("\n%d  %s", d.scene.Step, title)
}

func (d *demo) end(words string) {
	if d.err != nil {
		return
	}
	d.scene.Relay, d.scene.Words = d.relay.take(), words
	d.tell("\n   the relay saw")
	for _, s := range d.scene.Relay {
		d.tell("     %s", s)
	}
	if len(d.scene.Relay) == 0 {
		d.tell("     nothing")
	}
	d.tell("   %s", strings.ReplaceAll(words, "\n", "\n   "))
	d.print()
}

// search ends the play: it looks for everything that the two have said and are called
// in every byte that the relay was given to keep.
func (d *demo) search(people ...*actor) {
	if d.err != nil {
		return
	}
	secrets := d.sent
	for _, p := range people {
		id, err := identity.ParseAccountID(p.account)
		if err != nil {
			d.err = err
			return
		}
		secrets = append(secrets, p.name, string(id[:]))
	}
	found, bytes := 0, 0
	for _, s := range secrets {
		is, n := d.relay.holds([]byte(s))
		if bytes = n; is {
			found++
		}
	}
	d.scene.Relay = d.relay.take()
	d.scene.Words = fmt.Sprintf("It was given %s bytes to keep. Both names, both account ids and all\n%d texts were looked for in them: %d of %d found.", thousands(bytes), len(d.sent), found, len(secrets))
	d.tell("\n   %s", strings.ReplaceAll(d.scene.Words, "\n", "\n   "))
	d.tell("   It knows what is listed above, and from which addresses it was asked.\n\nThis was a demo: the folder is gone. Begin for yourself with  sotto run.")
	d.print()
	if found > 0 && d.err == nil {
		d.err = fmt.Errorf("the relay was given what it must not know: %w", node.ErrNotTrusted)
	}
}

// tell writes for people.
func (d *demo) tell(format string, args ...any) {
	if d.err == nil && !d.a.json {
		_, d.err = fmt.Fprintf(d.a.out, format+"\n", args...)
	}
}

// print writes the scene for programs.
func (d *demo) print() {
	if d.err == nil && d.a.json {
		d.err = d.a.line(d.scene)
	}
}

func (d *demo) passphrase() string { return filepath.Join(d.dir, "passphrase") }

// actor is somebody at a terminal.
type actor struct {
	d       *demo
	name    string
	home    string
	account string
	stop    context.CancelFunc
	stopped chan error // gives what the node ended with; nil if none runs
}

func (d *demo) actor(name string) *actor {
	return &actor{d: d, name: name, home: filepath.Join(d.dir, strings.ToLower(name))}
}

// app is the command line, writing to out.
func (p *actor) app(out *record) *app {
	vars := map[string]string{"SOTTO_HOME": p.home, "SOTTO_PASSPHRASE_FILE": p.d.passphrase()}
	return &app{in: strings.NewReader(""), out: out, err: out, env: func(name string) string { return vars[name] }, engine: program{quick: true}, home: p.home}
}

// types gives a command and returns what it printed.
func (p *actor) types(args ...string) string {
	d := p.d
	if d.err != nil {
		return ""
	}
	out := &record{}
	if exit := p.app(out).run(d.ctx, args); exit != exitDone {
		d.err = fmt.Errorf("%s: sotto %s: %s", p.name, args[0], strings.TrimSpace(out.String()))
		if d.ctx.Err() != nil {
			d.err = d.ctx.Err()
		}
		return ""
	}
	p.show("sotto "+quoted(args), out.String())
	return out.String()
}

// show writes down a command and what it printed.
func (p *actor) show(command, output string) {
	output = strings.TrimRight(output, " \n")
	p.d.scene.Commands = append(p.d.scene.Commands, typed{p.name, command, output})
	p.d.tell("   %s", cut(p.name+"$ "+command, 77))
	lines := strings.Split(output, "\n")
	if len(lines) > 7 { // the recovery words, which are long, and nobody needs these
		lines = append(lines[:3], "…")
	}
	for _, l := range lines {
		if l != "" {
			p.d.tell("     %s", strings.Join(fold(l, 75), "\n     "))
		}
	}
}

// starts starts the node and waits until it works.
func (p *actor) starts() {
	d := p.d
	if d.err != nil {
		return
	}
	out, ready := &record{}, make(chan struct{})
	a := p.app(out)
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.WithoutCancel(d.ctx))
	p.stopped = make(chan error, 1)
	go func() {
		p.stopped <- a.foreground(ctx, upOptions{}, func() ([]byte, error) { return a.passphrase(ctx, false) }, func() { close(ready) })
	}()
	select {
	case <-ready:
		p.show("sotto up --embedded-relay=false", out.String())
	case err := <-p.stopped:
		p.stopped <- nil
		d.err = fmt.Errorf("%s's node: %w", p.name, err)
		return
	case <-d.ctx.Done():
		d.err = d.ctx.Err()
		return
	}
	c := p.client()
	defer c.Close()
	s, err := c.Status(d.ctx)
	if err != nil {
		d.err = err
	}
	p.account = s.Account
}

// stops asks the node to stop.
func (p *actor) stops() {
	p.types("down")
	if p.d.err == nil {
		p.d.err = p.leave()
	}
}

// leave ends the node if there is one.
func (p *actor) leave() error {
	if p.stopped == nil {
		return nil
	}
	p.stop()
	err := <-p.stopped
	p.stopped = nil
	return err
}

// sends writes a message and waits until it has come to the other, if one is there.
func (p *actor) sends(to *actor, text string) {
	other := "Bashir"
	if p.name == other {
		other = "Amelia"
	}
	p.types("chat", "send", other, text)
	p.d.sent = append(p.d.sent, text)
	if to != nil {
		to.waits("a message", p.d.has(p.name))
	}
}

// has says whether the last text that was sent is there.
func (d *demo) has(from string) func(c *api.Client) (bool, error) {
	return func(c *api.Client) (bool, error) {
		ms, err := c.Messages(d.ctx, from, "", "", 1)
		return len(ms) == 1 && ms[0].Text == d.sent[len(d.sent)-1], err
	}
}

func (p *actor) client() *api.Client { return api.NewClient(p.home) }

// waits waits for something that an event tells of.
func (p *actor) waits(what string, ok func(c *api.Client) (bool, error)) {
	if p.d.err == nil {
		if err := p.await(ok); err != nil {
			p.d.err = fmt.Errorf("%s waits for %s: %w", p.name, what, err)
		}
	}
}

func (p *actor) await(ok func(c *api.Client) (bool, error)) error {
	c := p.client()
	defer c.Close()
	after, err := c.LastEvent(p.d.ctx)
	if err != nil {
		return err
	}
	if is, err := ok(c); is || err != nil {
		return err
	}
	for _, err := range c.Events(p.d.ctx, after) {
		if err != nil {
			return err
		}
		if is, err := ok(c); is || err != nil {
			return err
		}
	}
	return p.d.ctx.Err()
}

// record keeps what is printed.
type record struct {
	mu sync.Mutex // guards the following field
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// quoted is a command as a shell would be given it.
func quoted(args []string) string {
	var out []string
	for _, a := range args {
		if strings.ContainsAny(a, " #!?'") {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// digits finds a safety number as it is printed.
var digits = regexp.MustCompile(`(\d{5}\s+){11}\d{5}`)

// last returns the last line of an output.
func last(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}

// fold breaks a line at spaces, and shortens words that are longer than a line.
func fold(s string, columns int) []string {
	indent := s[:len(s)-len(strings.TrimLeft(s, " "))]
	line, lines := "", []string(nil)
	for _, word := range strings.SplitAfter(s[len(indent):], " ") {
		if line != "" && width(indent+line+strings.TrimRight(word, " ")) > columns {
			lines, line = append(lines, indent+strings.TrimRight(line, " ")), ""
		}
		line += cut(word, columns-len(indent))
	}
	return append(lines, indent+line)
}

// cut shortens a line.
func cut(s string, columns int) string {
	if width(s) <= columns {
		return s
	}
	for width(s) > columns-1 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s + "…"
}

// width is how many columns s takes on a terminal: Chinese and emoji take two.
func width(s string) (n int) {
	for _, r := range s {
		if n++; r >= 0x1100 && r != '…' {
			n++
		}
	}
	return n
}
