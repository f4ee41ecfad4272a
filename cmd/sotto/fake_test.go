package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sotto/node"
	"sotto/node/api/apitest"
)

// fake is an engine without vault, relay or network: a home is a file with name and
// passphrase, and its node forgets everything when it stops.
type fake struct{}

func (fake) file(home string) string { return filepath.Join(home, "fake") }

func (f fake) HasAccount(home string) (bool, error) {
	_, err := os.Stat(f.file(home))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (f fake) Init(_ context.Context, home string, o initOptions) (account, error) {
	if o.Relay != "" && !strings.HasPrefix(o.Relay, "/") {
		return account{}, fmt.Errorf("relay %q: %w", o.Relay, node.ErrInvalid)
	}
	words := strings.Fields(strings.Repeat("abandon ", 23) + "art")
	return account{Account: "1122334455667788", Device: "99aa", RecoveryWords: words}, os.WriteFile(f.file(home), []byte(o.Name+"\n"+string(o.Passphrase)), 0o600)
}

func (f fake) Enter(_ context.Context, home string, o enterOptions) (account, error) {
	if !strings.HasPrefix(o.Link, "sotto:d#") {
		return account{}, fmt.Errorf("link %q: %w", o.Link, node.ErrInvalid)
	}
	o.Show(apitest.Digits)
	return account{Account: "1122334455667788", Device: "77bb"}, os.WriteFile(f.file(home), []byte("Ada\n"+string(o.Passphrase)), 0o600)
}

func (f fake) Open(home string, o openOptions) (running, error) {
	switch os.Getenv("FAKE_OPEN") {
	case "panic":
		panic("the fake node was told to panic")
	case "exit":
		os.Exit(7)
	}
	b, err := os.ReadFile(f.file(home))
	if err != nil {
		return nil, err
	}
	name, passphrase, _ := strings.Cut(string(b), "\n")
	if string(o.Passphrase) != passphrase {
		return nil, fmt.Errorf("open %s: %w", home, node.ErrLocked)
	}
	o.Logger.Info("the fake node is open", "embedded", o.Embedded, "listen", o.Listen)
	n := &fakeNode{Node: apitest.New(name)}
	if o.Embedded {
		n.relay = "/ip4/127.0.0.1/tcp/4655/p2p/12D3KooWfake"
	}
	n.AddContact("bob")
	n.AddContact("ana \x1b[31m")
	return n, nil
}

// fakeNode establishes contacts and answers messages as their text says.
type fakeNode struct {
	*apitest.Node
	relay string
}

func (n *fakeNode) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-n.Down():
	}
	return nil
}

func (n *fakeNode) Close() error { return nil }

func (n *fakeNode) RelayAddress() string { return n.relay }

func (n *fakeNode) Accept(ctx context.Context, link, name string) (node.Contact, error) {
	c, err := n.Node.Accept(ctx, link, name)
	if err != nil {
		return c, err
	}
	switch link {
	case "sotto:i#used":
		return node.Contact{}, fmt.Errorf("link: it was used: %w", node.ErrGone)
	case "sotto:i#quick":
		err = n.SetContact(c.ID, node.ContactEstablished, "")
	case "sotto:i#asks": // as if they had opened one of ours
		err = n.SetContact(c.ID, node.ContactRequested, "asks to be your contact")
	case "sotto:i#bad":
		err = n.SetContact(c.ID, node.ContactFailed, "the relay says the invite was revoked")
	}
	return c, err
}

func (n *fakeNode) SendMessage(ctx context.Context, ref string, in node.NewMessage) (node.Message, error) {
	text := in.Text
	errs := map[string]error{"unreachable": node.ErrUnreachable, "full": node.ErrDiskFull, "damaged": node.ErrDamaged, "frozen": node.ErrFrozen, "uncertain": node.ErrUncertain}
	if err := errs[text]; err != nil {
		return node.Message{}, fmt.Errorf("send: %w", err)
	}
	m, err := n.Node.SendMessage(ctx, ref, in)
	if answer, ok := strings.CutPrefix(text, "say "); ok && err == nil {
		_, err = n.Receive(ref, strings.ReplaceAll(answer, "|", "\n"))
	}
	return m, err
}
