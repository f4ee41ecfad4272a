// Package transport carries a relay's streams over libp2p. Above it a stream is a
// [net.Conn], and nothing knows of libp2p.
//
// A relay listens with its own key, which is its name. A client dials with a host
// that listens nowhere and has a fresh random key, so that relays cannot tell by
// it that two connections come from one device; see [NewDialer].
//
// libp2p's own defaults would serve some 250 connections and then refuse without
// a word: every limit here is set by name.
package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"sotto/crypto/key"
	"sotto/relay/wire"
)

// Protocol is the libp2p protocol of a relay's stream.
const Protocol = "/sotto/relay/1"

// ErrWrongRelay is returned when another key answers at a relay's address.
var ErrWrongRelay = errors.New("another relay answers at this address")

// Config says how a relay listens.
type Config struct {
	Key      key.RelaySecret
	Listen   []string // multiaddrs, /ip4/…/tcp/… or /ip6/…/tcp/…; port 0 takes a free one
	Announce []string // multiaddrs to give in place of those, as behind a port forward
	MaxConns int      // connections at once; default 50,000
}

// Listener is a relay's host.
type Listener struct {
	host     host.Host
	key      key.RelaySecret
	announce []ma.Multiaddr
	streams  chan net.Conn
	stopped  chan struct{}
	once     sync.Once
}

// security is what connections are secured with, the preferred first.
func security() libp2p.Option {
	return libp2p.ChainOptions(libp2p.Security(noise.ID, noise.New), libp2p.Security(libp2ptls.ID, libp2ptls.New))
}

// Listen starts listening.
func Listen(c Config) (*Listener, error) {
	if c.MaxConns == 0 {
		c.MaxConns = 50_000
	}
	if len(c.Listen) == 0 {
		return nil, errors.New("listen: no address given")
	}
	secret, err := hostKey(c.Key)
	if err != nil {
		return nil, err
	}
	limits, err := serverLimits(c.MaxConns)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	trim, err := connmgr.NewConnManager(c.MaxConns*9/10, c.MaxConns*19/20, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l := &Listener{key: c.Key, streams: make(chan net.Conn), stopped: make(chan struct{})}
	for _, s := range c.Announce {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("announce %s: %w", s, err)
		}
		l.announce = append(l.announce, m)
	}
	l.host, err = libp2p.New(
		libp2p.Identity(secret), libp2p.ListenAddrStrings(c.Listen...),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), security(),
		libp2p.ResourceManager(limits), libp2p.ConnectionManager(trim),
		libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery(), libp2p.DisableMetrics(),
		libp2p.Ping(false), libp2p.UserAgent("sotto-relay"),
		// Where we listen is in the address that people hand out; identify need not
		// tell the machine's other addresses.
		libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr { return nil }),
	)
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", c.Listen, err)
	}
	l.host.SetStreamHandler(protocol.ID(Protocol), func(s network.Stream) {
		select {
		case l.streams <- newConn(s, nil):
		case <-l.stopped:
			s.Reset()
		}
	})
	return l, nil
}

// Accept returns the next stream; after Stop, net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.stopped:
		return nil, net.ErrClosed
	}
}

// Stop ends Accept and leaves the streams open: the server says goodbye on them
// before Close.
func (l *Listener) Stop() {
	l.once.Do(func() {
		l.host.RemoveStreamHandler(protocol.ID(Protocol))
		close(l.stopped)
	})
}

// Close ends the host and all its connections.
func (l *Listener) Close() error {
	l.Stop()
	return l.host.Close()
}

// Address returns where the relay can be reached: what is announced, or what it
// listens on, with real ports and, for a wildcard, one multiaddr for each address of
// the machine that another could use.
func (l *Listener) Address() (wire.Address, error) {
	addrs := l.announce
	if len(addrs) == 0 {
		var err error
		if addrs, err = l.host.Network().InterfaceListenAddresses(); err != nil {
			return wire.Address{}, fmt.Errorf("listen addresses: %w", err)
		}
	}
	return usable(l.key.Public(), addrs)
}

// Listening returns the multiaddrs that are listened on, wildcards as such, with real
// ports.
func (l *Listener) Listening() []string {
	var out []string
	for _, m := range l.host.Network().ListenAddresses() {
		out = append(out, m.String())
	}
	return out
}

// IsMultiaddr reports whether s can be listened on at all.
func IsMultiaddr(s string) bool {
	_, err := ma.NewMultiaddr(s)
	return err == nil
}

// AddressOf returns the address that a relay with this key would have if it
// listened on these multiaddrs.
func AddressOf(k key.RelayPublic, listen []string) (wire.Address, error) {
	var out []ma.Multiaddr
	for _, s := range listen {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			return wire.Address{}, fmt.Errorf("listen address %s: %w", s, err)
		}
		out = append(out, m)
	}
	ifaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return wire.Address{}, err
	}
	var resolved []ma.Multiaddr
	for _, m := range out {
		if !manet.IsIPUnspecified(m) {
			resolved = append(resolved, m)
			continue
		}
		first, rest := ma.SplitFirst(m)
		for _, i := range ifaces {
			if p, _ := ma.SplitFirst(i); p != nil && first != nil && p.Protocol().Code == first.Protocol().Code {
				resolved = append(resolved, i.Encapsulate(rest))
			}
		}
	}
	return usable(k, resolved)
}

// usable orders addresses by who can use them, public ones first, and leaves out
// link-local ones, which mean nothing on another machine.
func usable(k key.RelayPublic, all []ma.Multiaddr) (wire.Address, error) {
	a := wire.Address{Key: k}
	classes := []func(ma.Multiaddr) bool{
		func(m ma.Multiaddr) bool { return manet.IsPublicAddr(m) },
		func(m ma.Multiaddr) bool { return !manet.IsPublicAddr(m) && !manet.IsIPLoopback(m) },
		manet.IsIPLoopback,
	}
	for _, class := range classes {
		for _, m := range all {
			if !manet.IsIP6LinkLocal(m) && class(m) && len(a.Hints) < 8 {
				a.Hints = append(a.Hints, m)
			}
		}
	}
	if len(a.Hints) == 0 {
		return a, errors.New("the relay listens on no address that another could use")
	}
	return a, nil
}

// Reach says from where an address can be used.
type Reach string

// The reaches, from widest to narrowest.
const (
	Anyone  Reach = "anyone"
	Network Reach = "network" // this local network
	Machine Reach = "machine" // this machine
)

// ReachOf returns the widest reach of an address's multiaddrs.
func ReachOf(a wire.Address) Reach {
	reach := Machine
	for _, m := range a.Hints {
		ip, err := manet.ToIP(m)
		switch {
		case err != nil, manet.IsPublicAddr(m): // a name is meant for the world
			return Anyone
		case !ip.IsLoopback():
			reach = Network
		}
	}
	return reach
}

// Dialer is a client's host toward one relay.
type Dialer struct{ host host.Host }

// NewDialer makes a host with a fresh random key that listens nowhere.
func NewDialer() (*Dialer, error) {
	trim, err := connmgr.NewConnManager(4, 16)
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(
		libp2p.RandomIdentity, libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), security(),
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.ConnectionManager(trim),
		libp2p.DisableRelay(), libp2p.Ping(false), libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(), libp2p.UserAgent("sotto"),
	)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	return &Dialer{h}, nil
}

// Dial opens a stream to a relay and returns the key of who answered. It returns an
// error that wraps ErrWrongRelay if somebody else did. The stream is agreed on with
// the first Write and the first Read: a deadline that passes in those ends it.
func (d *Dialer) Dial(ctx context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) {
	var none key.RelayPublic
	id, err := peer.Decode(wire.PeerID(a.Key))
	if err != nil {
		return nil, none, fmt.Errorf("dial: %w", err)
	}
	d.host.Peerstore().ClearAddrs(id)
	d.host.Peerstore().AddAddrs(id, a.Hints, peerstore.PermanentAddrTTL)
	// A reconnect is ours to time; libp2p would wait up to five minutes.
	clearBackoff(d.host, id)
	if err := d.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: a.Hints}); err != nil {
		if isMismatch(err) {
			return nil, none, ErrWrongRelay
		}
		return nil, none, fmt.Errorf("dial: %w", shorten(err))
	}
	s, err := d.host.NewStream(ctx, id, protocol.ID(Protocol))
	if err != nil {
		return nil, none, fmt.Errorf("dial: %w", shorten(err))
	}
	raw, err := s.Conn().RemotePublicKey().Raw()
	if err != nil {
		s.Reset()
		return nil, none, fmt.Errorf("dial: %w", err)
	}
	k, err := key.ParsePublic[key.RelayPublic](raw)
	if err != nil {
		s.Reset()
		return nil, none, fmt.Errorf("dial: %w", err)
	}
	return newConn(s, s.Conn()), k, nil
}

// Close ends the host.
func (d *Dialer) Close() error { return d.host.Close() }

func hostKey(k key.RelaySecret) (crypto.PrivKey, error) {
	seed := k.Seed()
	defer clear(seed)
	pub := k.Public().Bytes()
	return crypto.UnmarshalEd25519PrivateKey(append(append([]byte(nil), seed...), pub...))
}

// serverLimits starts from no limits and sets each that is meant.
func serverLimits(maxConns int) (network.ResourceManager, error) {
	lv := func(n int) rcmgr.LimitVal { return rcmgr.LimitVal(n) }
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: lv(maxConns + 1000), ConnsInbound: lv(maxConns), ConnsOutbound: 16, FD: lv(maxConns + 2000),
			Streams: lv(maxConns * 6), StreamsInbound: lv(maxConns * 4), StreamsOutbound: lv(maxConns * 2),
			Memory: rcmgr.LimitVal64(int64(maxConns) * 4 * 256 << 10), // yamux books 256 KiB a stream before a byte comes
		},
		Transient: rcmgr.ResourceLimits{ // handshakes under way
			Conns: 2000, ConnsInbound: 2000, ConnsOutbound: 16, Streams: 8000, StreamsInbound: 6000, StreamsOutbound: 4000, FD: 2000, Memory: 2 << 30,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 3, ConnsInbound: 3, ConnsOutbound: 1, FD: 3, Streams: 24, StreamsInbound: 16, StreamsOutbound: 8, Memory: 12 << 20,
		},
		Conn:   rcmgr.ResourceLimits{Conns: 1, ConnsInbound: 1, ConnsOutbound: 1, FD: 1, Memory: 16 << 20},
		Stream: rcmgr.ResourceLimits{Streams: 1, StreamsInbound: 1, StreamsOutbound: 1, Memory: 8 << 20},
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			protocol.ID(Protocol): {Streams: lv(maxConns * 2), StreamsInbound: lv(maxConns * 2), StreamsOutbound: 1, Memory: rcmgr.Unlimited64},
			identify.ID:           {Streams: 12000, StreamsInbound: 6000, StreamsOutbound: 6000, Memory: 4 << 30},
			identify.IDPush:       {Streams: 4000, StreamsInbound: 2000, StreamsOutbound: 2000, Memory: 1 << 30},
		},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{
			protocol.ID(Protocol): {Streams: 4, StreamsInbound: 4, StreamsOutbound: 1, Memory: 12 << 20},
		},
	}.Build(rcmgr.InfiniteLimits)
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		// libp2p allows 8 of one IPv4 address: a flat-share, an office or a Tor exit has more.
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 512}, {PrefixLength: 24, ConnCount: 4096}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: 128}, {PrefixLength: 48, ConnCount: 2048}}),
		// and one new connection every five seconds.
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			GlobalLimit:         rate.Limit{RPS: 600, Burst: 3000},
			NetworkPrefixLimits: []rate.PrefixLimit{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: 20, Burst: 400}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 64, Limit: rate.Limit{RPS: 5, Burst: 64}}},
				GracePeriod:      time.Minute,
			},
		}))
}
