// Interop serves package sotto/crypto/mls to the interop test runner of the MLS
// working group (github.com/mlswg/mls-implementations), which lets
// implementations make groups with each other over gRPC.
//
//	go run . [-listen address]
//
// It listens on 127.0.0.1:50001, or another address, until it is interrupted. The
// runner takes that address with -client; two such servers, or one of ours and
// one of another implementation, play all roles of a script:
//
//	test-runner -client 127.0.0.1:50001 -client 127.0.0.1:50002 -config configs/commit.json
//
// The server holds the secrets of test groups, hands them to whoever asks, and is
// of no other use. It is a module of its own, so that Sotto does not depend on
// gRPC.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("interop", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:50001", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "listening on", l.Addr())
	s := newGRPC()
	defer context.AfterFunc(ctx, s.GracefulStop)()
	return s.Serve(l)
}
