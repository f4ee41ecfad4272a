package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"sotto/crypto/key"
	"sotto/relay/wire"
)

func listen(t *testing.T) (*Listener, wire.Address) {
	t.Helper()
	l, err := Listen(Config{Key: key.NewRelay(), Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	a, err := l.Address()
	if err != nil {
		t.Fatal(err)
	}
	return l, a
}

func dialer(t *testing.T) *Dialer {
	t.Helper()
	d, err := NewDialer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestStream(t *testing.T) {
	l, a := listen(t)
	conn, k, err := dialer(t).Dial(t.Context(), a)
	if err != nil || k != a.Key {
		t.Fatalf("dial: %v, %v", k, err)
	}
	defer conn.Close()
	// libp2p opens a stream when something is written.
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "hello" {
		t.Fatalf("read %q, %v", b, err)
	}
	if ip := s.RemoteAddr().(*net.TCPAddr).IP; !ip.IsLoopback() {
		t.Errorf("the client is at %v", ip)
	}
	if _, err := s.Write([]byte("there")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "there" {
		t.Fatalf("read %q, %v", b, err)
	}
	conn.SetReadDeadline(time.Unix(1, 0))
	if _, err := conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	conn.SetReadDeadline(time.Time{})
	if _, err := s.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "again" {
		t.Errorf("after a deadline that passed: %q, %v", b, err)
	}
	// A writer is held up by a reader that does not read, until its deadline.
	s.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err == nil {
		_, err = s.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing past the deadline: %v", err)
	}
}

func TestWrongRelayAndUnreachable(t *testing.T) {
	_, a := listen(t)
	wrong := wire.Address{Key: key.NewRelay().Public(), Hints: a.Hints}
	if _, _, err := dialer(t).Dial(t.Context(), wrong); !errors.Is(err, ErrWrongRelay) {
		t.Errorf("another key: %v, want ErrWrongRelay", err)
	}
	gone, err := Listen(Config{Key: key.NewRelay(), Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := gone.Address()
	gone.Close()
	if _, _, err := dialer(t).Dial(t.Context(), b); err == nil || errors.Is(err, ErrWrongRelay) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := gone.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept when closed: %v", err)
	}
}

// A relay that comes back is reached at once, not when libp2p thinks it is time.
func TestRedialAtOnce(t *testing.T) {
	k := key.NewRelay()
	first, err := Listen(Config{Key: k, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := first.Address()
	first.Close()
	d := dialer(t)
	for range 3 {
		if _, _, err := d.Dial(t.Context(), a); err == nil {
			t.Fatal("somebody answers")
		}
	}
	again, err := Listen(Config{Key: k, Listen: []string{a.Hints[0].String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, _, err := d.Dial(ctx, a)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	conn.Close()
}

// Every dialer has a key of its own.
func TestDialersAreUnlinkable(t *testing.T) {
	if a, b := dialer(t), dialer(t); a.host.ID() == b.host.ID() {
		t.Error("two dialers have one PeerID")
	}
}

func TestAddressOf(t *testing.T) {
	k := key.NewRelay().Public()
	for listen, ok := range map[string]bool{"/ip4/127.0.0.1/tcp/4001": true, "/ip4/0.0.0.0/tcp/4001": true, "rubbish": false} {
		a, err := AddressOf(k, []string{listen})
		if (err == nil) != ok {
			t.Errorf("AddressOf(%s): %v, %v", listen, a, err)
		}
		for _, h := range a.Hints {
			if ip, _ := h.ValueForProtocol(ma.P_IP4); ip == "0.0.0.0" {
				t.Errorf("AddressOf(%s) names a wildcard", listen)
			}
		}
	}
}

func TestReach(t *testing.T) {
	for s, want := range map[string]Reach{
		"/ip4/127.0.0.1/tcp/1": Machine, "/ip4/192.168.1.2/tcp/1": Network, "/ip4/8.8.8.8/tcp/1": Anyone, "/dns4/relay.example/tcp/1": Anyone,
	} {
		if got := ReachOf(wire.Address{Hints: []ma.Multiaddr{ma.StringCast(s)}}); got != want {
			t.Errorf("ReachOf(%s) = %s, want %s", s, got, want)
		}
	}
}
