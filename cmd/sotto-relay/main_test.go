package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sotto/crypto/key"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv("SOTTO_RELAY_MAIN") != "" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"sotto-relay": main})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// process is a relay in a process of its own.
type process struct {
	cmd     *exec.Cmd
	address wire.Address
	log     *strings.Builder
}

func start(t *testing.T, home string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "serve", "--home", home, "--listen", listen(home), "--log-level", "debug"), log: &strings.Builder{}}
	p.cmd.Env = append(os.Environ(), "SOTTO_RELAY_MAIN=1")
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.cmd.Wait()
		t.Fatalf("the relay did not start: %v\n%s", err, p.log)
	}
	if p.address, err = wire.ParseAddress(line); err != nil {
		t.Fatal(err)
	}
	return p
}

// listen takes a free port the first time and the same one from then on.
func listen(home string) string {
	if b, err := os.ReadFile(filepath.Join(home, "listen")); err == nil {
		return strings.TrimSpace(string(b))
	}
	return "/ip4/127.0.0.1/tcp/0"
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func connect(t *testing.T, a wire.Address) *client.Client {
	t.Helper()
	d, err := transport.NewDialer()
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(client.Config{Relay: a.Key, Dial: func(ctx context.Context) (net.Conn, key.RelayPublic, error) { return d.Dial(ctx, a) }})
	t.Cleanup(func() { c.Close(); d.Close() })
	return c
}

// A relay is killed again and again while clients deposit: what it signed for is
// there, at the same place with the same content, and a reader that stays
// subscribed sees everything once.
func TestKilledRelayKeepsItsWord(t *testing.T) {
	home := filepath.Join(t.TempDir(), "relay")
	p := start(t, home)
	c := connect(t, p.address)
	admin, read, app := key.NewCapability(), key.NewCapability(), key.NewCapability()
	req := client.CreateRequest{Admin: admin, Read: read.Public(), Append: app.Public()}
	rand.Read(req.Salt[:])
	if _, err := c.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	box := req.ID(p.address.Key)

	writing, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	receipts := map[mailbox.Seq]string{}
	total := func() int { mu.Lock(); defer mu.Unlock(); return len(receipts) }
	progress := make(chan struct{}, 1)
	var writers, wg sync.WaitGroup
	for w := range 8 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for n := 0; writing.Err() == nil; {
				text := fmt.Sprint(w, ".", n)
				r, err := c.Append(writing, app, mailbox.Deposit{Mailbox: box, Kind: mailbox.Message, Payload: []byte(text)})
				if err != nil {
					continue // the same again: it may be stored
				}
				mu.Lock()
				receipts[r.Head.Head.Seq] = text
				mu.Unlock()
				n++
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		}()
	}
	reader := connect(t, p.address)
	seen := map[mailbox.Seq]string{}
	var order []mailbox.Seq
	caughtUp := make(chan struct{}, 1)
	wg.Add(1)
	go func() {
		defer wg.Done()
		err := reader.Subscribe(ctx, read, box, 0, client.Start(box), func(pg *client.Page) error {
			mu.Lock()
			defer mu.Unlock()
			for _, it := range pg.Items {
				if it.Entry == nil {
					t.Errorf("lost %+v", it.Span)
					continue
				}
				seen[it.Entry.Seq] = string(it.Entry.Payload)
				order = append(order, it.Entry.Seq)
			}
			select {
			case caughtUp <- struct{}{}:
			default:
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("subscribe: %v", err)
		}
	}()
	for round := range 5 {
		for want := total() + 100 + 50*round; total() < want; {
			<-progress
		}
		p.kill()
		p = start(t, home)
	}
	for want := total() + 50; total() < want; {
		<-progress
	}
	stopWriting()
	writers.Wait()
	fully := func() bool {
		mu.Lock()
		defer mu.Unlock()
		for seq := range receipts {
			if seen[seq] == "" {
				return false
			}
		}
		return true
	}
	for !fully() {
		<-caughtUp
	}
	stop()
	wg.Wait()
	twice := map[string]mailbox.Seq{}
	for seq, text := range seen {
		if at, ok := twice[text]; ok {
			t.Errorf("%s stands at %d and at %d", text, at, seq)
		}
		twice[text] = seq
	}
	for seq, text := range receipts {
		if seen[seq] != text {
			t.Errorf("seq %d was receipted as %s and is %q", seq, text, seen[seq])
		}
	}
	for i, seq := range order {
		if seq != mailbox.Seq(i+1) {
			t.Fatalf("the reader saw %d at place %d", seq, i+1)
		}
	}
	// Who comes new reads the same, and maybe what was under way when all stopped.
	fresh, next := connect(t, p.address), mailbox.Seq(1)
	for at := client.Start(box); ; {
		pg, err := fresh.Read(t.Context(), read, box, 0, at, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range pg.Items {
			if it.Entry == nil || it.Entry.Seq != next || seen[next] != "" && string(it.Entry.Payload) != seen[next] {
				t.Fatalf("at %d is read %+v, the subscriber saw %q", next, it, seen[next])
			}
			next++
		}
		if at = pg.End; !pg.More {
			break
		}
	}
	if int(next) <= len(seen) {
		t.Errorf("%d entries were read, the subscriber saw %d", next-1, len(seen))
	}
	t.Logf("%d receipts over 5 kills", len(receipts))

	// Asked to stop, it says goodbye and exits with 0.
	p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("stopping: %v\n%s", err, p.log)
		}
	case <-time.After(30 * time.Second):
		t.Error("it does not stop")
	}
	// T19, in part: its log names no one.
	for _, secret := range []string{fmt.Sprintf("%x", box[:4]), wire.PeerID(p.address.Key), "127.0.0.1"} {
		if strings.Contains(p.log.String(), secret) {
			t.Errorf("the log holds %s:\n%s", secret, p.log)
		}
	}
}
