package node_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"sotto/node"
	"sotto/relay/server"
	"sotto/storage/vault"
)

// Two nodes and a relay in one process: they meet by a link, and one writes to the other.
func Example() {
	dir, err := os.MkdirTemp("", "sotto-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	relay, err := server.Start(filepath.Join(dir, "relay"), server.Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Small: true})
	if err != nil {
		log.Fatal(err)
	}
	defer relay.Close()

	ctx, cancel := context.WithCancel(context.Background())
	ana, closeAna := open(ctx, filepath.Join(dir, "ana"), "Ana", relay.Address().String())
	ben, closeBen := open(ctx, filepath.Join(dir, "ben"), "Ben", relay.Address().String())
	defer closeAna()
	defer closeBen()
	defer cancel()

	invite, err := ana.Invite(ctx, node.InviteOptions{Name: "Ben"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := ben.Accept(ctx, invite.Link, "Ana"); err != nil {
		log.Fatal(err)
	}
	// Ana is no complete contact yet; what is sent to her waits until she is.
	if _, err := ben.Send(ctx, "Ana", "Hello Ana"); err != nil {
		log.Fatal(err)
	}
	for e, err := range ana.Events(ctx, 0) {
		if err != nil {
			log.Fatal(err)
		}
		if m := e.Message; m != nil && m.Kind == "text" {
			fmt.Printf("%s: %s\n", m.Sender, m.Text)
			break
		}
	}
	// Output: Ben: Hello Ana
}

// open makes an account in a new home and starts its node. The function that it returns
// waits until the node has stopped, once ctx is over.
func open(ctx context.Context, home, name, relay string) (*node.Node, func()) {
	passphrase := []byte("correct horse")
	// FloorParams is for vaults that are thrown away: without it a passphrase takes a second.
	_, err := node.Init(ctx, home, node.InitOptions{Name: name, Passphrase: passphrase, Relay: relay, Params: vault.FloorParams})
	if err != nil {
		log.Fatal(err)
	}
	n, err := node.Open(home, node.Options{Passphrase: passphrase})
	if err != nil {
		log.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	return n, func() {
		if err := <-ran; err != nil {
			log.Print(err)
		}
		if err := n.Close(); err != nil {
			log.Print(err)
		}
	}
}
