package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sotto/node"
	"sotto/node/api"
	"sotto/relay/server"
)

const version = node.Version

// relayFolder is where the embedded relay lies in a home.
const relayFolder = "relay"

// program is the engine: packages node and relay/server.
type program struct {
	quick bool                             // passphrases are stretched as little as is allowed: for vaults that are thrown away
	free  func(dir string) (uint64, error) // as node.Options.Free
}

func (program) HasAccount(home string) (bool, error) { return node.HasAccount(home) }

func (e program) Init(ctx context.Context, home string, o initOptions) (account, error) {
	options := node.InitOptions{Name: o.Name, Relay: o.Relay, Passphrase: o.Passphrase}
	if e.quick {
		options.Params.Memory, options.Params.Time, options.Params.Lanes = 64<<10, 3, 4
	}
	r, err := node.Init(ctx, home, options)
	if err != nil {
		return account{}, err
	}
	return account{Account: r.Account, Device: r.Device, RecoveryWords: strings.Fields(r.RecoveryWords)}, nil
}

func (e program) Enter(ctx context.Context, home string, o enterOptions) (account, error) {
	options := node.EnterOptions{Options: node.Options{Passphrase: o.Passphrase, Free: e.free}, Link: o.Link, Name: o.Name, Show: o.Show}
	if e.quick {
		options.Params.Memory, options.Params.Time, options.Params.Lanes = 64<<10, 3, 4
	}
	r, err := node.Enter(ctx, home, options)
	return account{Account: r.Account, Device: r.Device}, err
}

func (e program) Open(home string, o openOptions) (running, error) {
	r := &embedding{}
	options := node.Options{Passphrase: o.Passphrase, Logger: o.Logger, Free: e.free}
	if o.Embedded {
		in, err := startRelay(filepath.Join(home, relayFolder), o)
		if err != nil {
			return nil, hint(fmt.Errorf("embedded relay: %w", err), "give it another place with --listen, or do without: --embedded-relay=false")
		}
		r.relay = in
		options.Embedded = &node.EmbeddedRelay{Address: in.Address(), Ticket: in.Ticket}
	}
	n, err := node.Open(home, options)
	if err != nil {
		return nil, errors.Join(err, r.closeRelay())
	}
	r.Node, r.node = n, n
	return r, nil
}

// anyPort is where a relay listens if the usual port is not to be had.
var anyPort = []string{"/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"}

// startRelay starts the relay inside a node. It stays where it was at its first start:
// contacts know it there. At the first start any port will do, for the usual one may
// belong to another node's.
func startRelay(home string, o openOptions) (*server.Instance, error) {
	_, err := os.Stat(home)
	first := errors.Is(err, fs.ErrNotExist)
	options := server.Options{Listen: o.Listen, NeedTicket: true, Small: true, Logger: o.Logger}
	in, err := server.Start(home, options)
	if err == nil || !first || len(o.Listen) > 0 {
		return in, err
	}
	options.Listen = anyPort
	in, again := server.Start(home, options)
	if again != nil {
		return nil, err
	}
	return in, nil
}

// embedding is a node with the relay inside its process, if it has one.
type embedding struct {
	api.Node
	node  *node.Node
	relay *server.Instance
}

// Run works until ctx is over, the node is asked to stop, or the relay fails.
func (e *embedding) Run(ctx context.Context) error {
	if e.relay == nil {
		return e.node.Run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.node.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case err := <-e.relay.Failed():
		cancel()
		if err == nil {
			err = errors.New("it stopped")
		}
		return errors.Join(fmt.Errorf("embedded relay: %w", err), <-ended)
	}
}

// RelayAddress is where the relay inside can be reached.
func (e *embedding) RelayAddress() string {
	if e.relay == nil {
		return ""
	}
	return e.relay.Address().String()
}

// Close closes the node first: it says goodbye to its relay.
func (e *embedding) Close() error { return errors.Join(e.node.Close(), e.closeRelay()) }

func (e *embedding) closeRelay() error {
	if e.relay == nil {
		return nil
	}
	return e.relay.Close()
}
