package transport

import (
	"errors"
	"net"
	"os"
	"strings"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	manet "github.com/multiformats/go-multiaddr/net"
)

// conn is a stream as a net.Conn.
type conn struct {
	network.Stream
	whole network.Conn // closed with the stream, if not nil
}

func newConn(s network.Stream, whole network.Conn) net.Conn { return &conn{s, whole} }

// Read and Write return os.ErrDeadlineExceeded past a deadline, as any net.Conn:
// the muxer has an error of its own.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	return n, deadline(err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	return n, deadline(err)
}

func deadline(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close ends the stream at once, in both directions: what a peer has confirmed
// counts, and nothing is lost that it has not.
func (c *conn) Close() error {
	err := c.Stream.Reset()
	if c.whole != nil {
		err = errors.Join(err, c.whole.Close())
	}
	return err
}

func (c *conn) LocalAddr() net.Addr  { return netAddr(c.Conn(), true) }
func (c *conn) RemoteAddr() net.Addr { return netAddr(c.Conn(), false) }

func netAddr(c network.Conn, local bool) net.Addr {
	m := c.RemoteMultiaddr()
	if local {
		m = c.LocalMultiaddr()
	}
	if a, err := manet.ToNetAddr(m); err == nil {
		return a
	}
	return &net.TCPAddr{}
}

// clearBackoff makes libp2p dial again at once.
func clearBackoff(h host.Host, id peer.ID) {
	if s, ok := h.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(id)
	}
}

// isMismatch looks into the words of a dial error, which the Noise handshake's
// reason reaches as text only.
func isMismatch(err error) bool { return strings.Contains(err.Error(), "peer id mismatch") }

// shorten keeps the first line of libp2p's many.
func shorten(err error) error {
	var dial *swarm.DialError
	if errors.As(err, &dial) && len(dial.DialErrors) > 0 {
		return dial.DialErrors[0].Cause
	}
	return err
}
