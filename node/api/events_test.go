package api_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"testing"

	"sotto/node"
	"sotto/node/api"
)

// expect reads the next event.
func expect(t *testing.T, next func() (node.Event, error, bool), seq uint64, words string) {
	t.Helper()
	e, err, ok := next()
	if !ok || err != nil || e.Seq != seq || e.Notice != words {
		t.Fatalf("event = %+v, %v, %v; want %d, %q", e, err, ok, seq, words)
	}
}

func TestEventsDurableThenLive(t *testing.T) {
	s := serve(t)
	s.Notice("one")
	s.Notice("two")
	ctx, cancel := context.WithCancel(t.Context())
	next, stop := iter.Pull2(s.client.Events(ctx, 0))
	defer stop()
	expect(t, next, 1, "one")
	expect(t, next, 2, "two")
	s.Notice("three")
	expect(t, next, 3, "three")

	// Another goes on where it was.
	again, stopAgain := iter.Pull2(s.client.Events(ctx, 2))
	defer stopAgain()
	expect(t, again, 3, "three")
	s.Notice("four")
	expect(t, again, 4, "four")
	expect(t, next, 4, "four")

	cancel()
	if _, err, ok := next(); !ok || !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	if _, _, ok := next(); ok {
		t.Error("the stream goes on after its error")
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	s := serve(t)
	s.Notice("one")
	next, stop := iter.Pull2(s.client.Events(t.Context(), 0))
	defer stop()
	expect(t, next, 1, "one")
	if err := s.server.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err, ok := next(); !ok || !errors.Is(err, api.ErrStopped) {
		t.Errorf("after the server closed: %v, want %v", err, api.ErrStopped)
	}
	if _, err := s.client.Status(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("status: %v, want %v", err, api.ErrNotRunning)
	}
}

func TestReaderMayStop(t *testing.T) {
	s := serve(t)
	s.Notice("one")
	for e, err := range s.client.Events(t.Context(), 0) {
		if e.Seq != 1 || err != nil {
			t.Errorf("event %+v, %v", e, err)
		}
		break
	}
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEventsFail(t *testing.T) {
	s := serve(t)
	s.Notice("one")
	next, stop := iter.Pull2(s.client.Events(t.Context(), 0))
	defer stop()
	expect(t, next, 1, "one")
	s.Fail("Events", fmt.Errorf("read the vault: %w", node.ErrDamaged))
	s.Notice("two") // wakes the stream
	for {
		e, err, ok := next()
		if err == nil && ok && e.Seq == 2 {
			continue
		}
		if !ok || !errors.Is(err, node.ErrDamaged) || err.Error() != "read the vault: damaged" {
			t.Errorf("error = %v, want %v", err, node.ErrDamaged)
		}
		break
	}
}

// As a program without our client reads them.
func TestEventsAsBytes(t *testing.T) {
	s := serve(t)
	for _, words := range []string{"one", "two", "three"} {
		s.Notice(words)
	}
	s.Fail("Events", nil)
	get := func(query, header string) string {
		t.Helper()
		// The stream is ended by the second event that the node fails to give.
		f := &ending{Node: s.Node, last: 3}
		other := serveNode(t, f)
		status, _, body, h := raw(t, other, "GET /v1/events"+query+" HTTP/1.1\r\nHost: localhost\r\n"+header+"Connection: close\r\n\r\n")
		if status != http.StatusOK || h.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("status %d, %v: %s", status, h, body)
		}
		return body
	}
	const comment = ": from here on\n\n"
	line := func(seq int, words string) string {
		return fmt.Sprintf("id: %d\nevent: notice\ndata: {\"seq\":%d,\"time\":\"2026-03-01T12:00:%02dZ\",\"type\":\"notice\",\"notice\":%q}\n\n", seq, seq, seq-1, words)
	}
	for _, test := range []struct{ name, query, header, want string }{
		{"from the start", "?after=0", "", comment + line(1, "one") + line(2, "two") + line(3, "three")},
		{"from the middle", "?after=2", "", comment + line(3, "three")},
		{"only what comes", "", "", comment},
		{"connected again", "?after=0", "Last-Event-ID: 1\r\n", comment + line(2, "two") + line(3, "three")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := get(test.query, test.header); got != test.want {
				t.Errorf("stream:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

// ending is a node whose events end behind the one numbered last.
type ending struct {
	api.Node
	last uint64
}

func (n *ending) Events(ctx context.Context, after uint64) iter.Seq2[node.Event, error] {
	return func(yield func(node.Event, error) bool) {
		if after >= n.last {
			return
		}
		for e, err := range n.Node.Events(ctx, after) {
			if !yield(e, err) || e.Seq == n.last {
				return
			}
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	s := serve(t)
	s.Notice("one")
	var stops []func()
	for range 64 {
		next, stop := iter.Pull2(s.client.Events(t.Context(), 0))
		stops = append(stops, stop)
		expect(t, next, 1, "one")
	}
	for _, err := range s.client.Events(t.Context(), 0) {
		if err == nil || api.CodeOf(err) != "too_many" || !strings.Contains(err.Error(), "64") {
			t.Errorf("stream 65: %v", err)
		}
	}
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Errorf("with 64 streams: %v", err)
	}
	for _, stop := range stops {
		stop()
	}
}
