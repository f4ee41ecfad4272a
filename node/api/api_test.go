package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/api/apitest"
	"sotto/node/setting"
)

// served is a node, its server and a client, over a socket in a home of its own.
type served struct {
	*apitest.Node
	home   string
	client *api.Client
	server *api.Server
	ended  chan error
}

func serve(t *testing.T) *served {
	t.Helper()
	s := &served{Node: apitest.New("Ada"), home: shortFolder(t), ended: make(chan error, 1)}
	lock, err := api.Lock(s.home)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s.server = api.NewServer(s.Node, "1.2.3", slog.New(slog.DiscardHandler))
	go func() { s.ended <- s.server.Serve(l) }()
	s.client = api.NewClient(s.home)
	t.Cleanup(func() {
		s.client.Close()
		if err := s.server.Close(); err != nil {
			t.Error("close:", err)
		}
		if err := <-s.ended; err != nil {
			t.Error("serve:", err)
		}
		if err := lock.Close(); err != nil {
			t.Error("unlock:", err)
		}
		noGoroutines(t)
	})
	return s
}

// shortFolder is t.TempDir with a path that a socket can have.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sotto-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// noGoroutines fails unless all goroutines that run in this package or serve HTTP
// are gone or about to go.
func noGoroutines(t *testing.T) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for until := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := ""
		for _, s := range strings.Split(stacks, "\n\n") {
			if (strings.Contains(s, "sotto/node/api.") || strings.Contains(s, "net/http.")) && !strings.Contains(s, "noGoroutines") {
				left = s
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("left over:\n%s", left)
		}
	}
}

func TestEveryMethodReachesTheNode(t *testing.T) {
	s, ctx := serve(t), t.Context()
	n, c := s.Node, s.client
	bob, ana := n.AddContact("Bob"), n.AddContact("Ana")

	// Each asks the client and then the node itself; the answers are the same.
	same := func(name string, got any, err error, want any, werr error) {
		t.Helper()
		if err != nil || werr != nil {
			t.Fatalf("%s: %v; the node: %v", name, err, werr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %+v, want %+v", name, got, want)
		}
	}
	{
		got, err := c.Status(ctx)
		want, werr := n.Status(ctx)
		same("status", got, err, want, werr)
	}
	{
		got, err := c.Contacts(ctx)
		want, werr := n.Contacts(ctx)
		same("contacts", got, err, want, werr)
	}
	for _, ref := range []string{"Bob", bob.ID, bob.ID[:8]} {
		got, err := c.Contact(ctx, ref)
		same("contact "+ref, got, err, bob, nil)
	}
	{
		got, err := c.Block(ctx, "Ana", true)
		want, werr := n.Contact(ctx, "Ana")
		same("block", got, err, want, werr)
		if !got.Blocked {
			t.Error("Ana is not blocked")
		}
		if got, err := c.Block(ctx, ana.ID, false); err != nil || got.Blocked {
			t.Errorf("unblock = %+v, %v", got, err)
		}
	}
	{
		got, err := c.SafetyNumber(ctx, "Bob")
		want, werr := n.SafetyNumber(ctx, "Bob")
		same("safety number", got, err, want, werr)
		if _, err := c.SetVerified(ctx, "Bob", strings.Repeat("0", 60)); !errors.Is(err, node.ErrNotTrusted) {
			t.Errorf("a wrong number: %v, want %v", err, node.ErrNotTrusted)
		}
		if got, err := c.SetVerified(ctx, "Bob", got.Code); err != nil || !got.Verified {
			t.Errorf("verify by code = %+v, %v", got, err)
		}
		if got, err := c.Unverify(ctx, "Bob"); err != nil || got.Verified {
			t.Errorf("unverify = %+v, %v", got, err)
		}
		if got, err := c.SetVerified(ctx, "Bob", got.Number); err != nil || !got.Verified {
			t.Errorf("verify = %+v, %v", got, err)
		}
	}
	{
		in, err := c.Invite(ctx, api.InviteOptions{Expires: time.Hour, Name: "Eve"})
		if err != nil || in.Link == "" || !in.Expires.Equal(apitest.Start.Add(time.Hour)) {
			t.Errorf("invite = %+v, %v", in, err)
		}
		got, err := c.Invites(ctx)
		want, werr := n.Invites(ctx)
		same("invites", got, err, want, werr)
		if len(got) != 1 || got[0].Link != "" {
			t.Errorf("invites = %+v, want one without its link", got)
		}
		if err := c.RevokeInvite(ctx, in.ID); err != nil {
			t.Error("revoke:", err)
		}
		if got, err := c.Invites(ctx); err != nil || got == nil || len(got) != 0 {
			t.Errorf("invites after it was revoked = %#v, %v", got, err)
		}
	}
	{
		got, err := c.Accept(ctx, "sotto:i#x", "Eve")
		want, werr := n.Contact(ctx, "Eve")
		same("accept", got, err, want, werr)
	}
	{
		sent, err := c.Send(ctx, "Bob", "line\n\x00 & <ünï> \u2028")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Messages(ctx, "Bob", "", "", 0)
		want, werr := n.Messages(ctx, "Bob", "", "", 50)
		same("messages", got, err, want, werr)
		if len(got) != 1 || got[0].Text != sent.Text || sent.Text != "line\n\x00 & <ünï> \u2028" {
			t.Errorf("messages = %+v", got)
		}
	}
	{
		got, err := c.Conversations(ctx)
		want, werr := n.Conversations(ctx)
		same("conversations", got, err, want, werr)
		one, err := c.Conversation(ctx, "Bob")
		same("conversation", one, err, want[0], nil)
	}
	{
		d, err := setting.Lookup("receipts")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.SetConfig(ctx, "", "receipts", "OFF")
		same("set config", got, err, api.Setting{Definition: d, Value: "off", From: node.FromUser}, nil)
		got, err = c.SetConfig(ctx, "Bob", "receipts", "on")
		same("set config of Bob", got, err, api.Setting{Definition: d, Value: "on", From: node.FromConversation, Conversation: bob.Conversation}, nil)
		for _, chat := range []string{"", "Bob"} {
			all, err := c.Config(ctx, chat)
			want, werr := n.Config(ctx, chat)
			same("config "+chat, all, err, want, werr)
		}
		got, err = c.UnsetConfig(ctx, "Bob", "receipts")
		same("unset config of Bob", got, err, api.Setting{Definition: d, Value: "off", From: node.FromUser, Conversation: bob.Conversation}, nil)
		got, err = c.UnsetConfig(ctx, "", "receipts")
		same("unset config", got, err, api.Setting{Definition: d, Value: "on", From: node.FromDefault}, nil)
		for _, key := range []string{"", "recipts", "a/b"} {
			if _, err := c.SetConfig(ctx, "", key, "on"); !errors.Is(err, node.ErrInvalid) {
				t.Errorf("set config %q: %v, want %v", key, err, node.ErrInvalid)
			}
		}
	}
	{
		got, err := c.Doctor(ctx)
		want, werr := n.Doctor(ctx)
		same("doctor", got, err, want, werr)
	}
	{
		got, err := c.LastEvent(ctx)
		want, werr := n.LastEvent(ctx)
		same("last event", got, err, want, werr)
	}
	{
		got, err := c.Rename(ctx, "Bob", "Robert")
		want, werr := n.Contact(ctx, "Robert")
		same("rename", got, err, want, werr)
	}
	if err := c.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	<-n.Down()
}

func TestNamesAreAnyText(t *testing.T) {
	s := serve(t)
	for _, name := range []string{"a/b", "..", ".", "a?b=c&d#e", "%2F", "ä ö ü", "名前", "a//b/../c", "+", "name", " "} {
		want := s.AddContact(name)
		got, err := s.client.Contact(t.Context(), name)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("contact %q = %+v, %v", name, got, err)
		}
		if m, err := s.client.Send(t.Context(), name, "to "+name); err != nil || m.Conversation != want.Conversation {
			t.Errorf("send to %q = %+v, %v", name, m, err)
		}
	}
	if _, err := s.client.Contact(t.Context(), ""); !errors.Is(err, node.ErrNotFound) {
		t.Errorf("contact without a name: %v", err)
	}
}

func TestMessagesByPage(t *testing.T) {
	s, ctx := serve(t), t.Context()
	s.AddContact("Bob")
	for i := range 9 {
		if _, err := s.client.Send(ctx, "Bob", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	page := func(before, after string, limit int) string {
		t.Helper()
		list, err := s.client.Messages(ctx, "Bob", before, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, m := range list {
			out += m.Text
		}
		return out
	}
	all, err := s.client.Messages(ctx, "Bob", "", "", api.MaxMessages)
	if err != nil || len(all) != 9 {
		t.Fatal(len(all), err)
	}
	for _, test := range []struct{ got, want string }{
		{page("", "", 3), "678"},
		{page(all[6].ID, "", 3), "345"},
		{page("", all[1].ID, 3), "234"},
		{page(all[0].ID, "", 3), ""},
		{page("", all[8].ID, 3), ""},
	} {
		if test.got != test.want {
			t.Errorf("page = %q, want %q", test.got, test.want)
		}
	}
	for _, limit := range []int{-1, api.MaxMessages + 1} {
		if _, err := s.client.Messages(ctx, "Bob", "", "", limit); !errors.Is(err, node.ErrInvalid) {
			t.Errorf("limit %d: %v, want %v", limit, err, node.ErrInvalid)
		}
	}
	if _, err := s.client.Messages(ctx, "Bob", all[1].ID, all[2].ID, 3); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("before and after: %v", err)
	}
}

// The largest text can be sent whatever it is made of, one byte more is too large.
func TestLargestText(t *testing.T) {
	s := serve(t)
	s.AddContact("Bob")
	for _, char := range []string{"a", "\x01", "\"", "名"} {
		text := strings.Repeat(char, node.MaxText/len(char))
		if _, err := s.client.Send(t.Context(), "Bob", text); err != nil {
			t.Errorf("%d bytes of %q: %v", len(text), char, err)
		}
		if _, err := s.client.Send(t.Context(), "Bob", text+"more"); !errors.Is(err, node.ErrTooLarge) {
			t.Errorf("%d bytes of %q: %v, want %v", len(text)+4, char, err, node.ErrTooLarge)
		}
	}
	if _, err := s.client.Send(t.Context(), "Bob", strings.Repeat("a", 2<<20)); !errors.Is(err, node.ErrTooLarge) {
		t.Errorf("2 MiB: %v, want %v", err, node.ErrTooLarge)
	}
	list, err := s.client.Messages(t.Context(), "Bob", "", "", 2)
	if err != nil || len(list) != 2 || list[1].Text != strings.Repeat("名", node.MaxText/3) {
		t.Errorf("%d messages came back: %v", len(list), err)
	}
}

// sentinels are all errors of package node that a client may act on.
var sentinels = []error{
	node.ErrNotFound, node.ErrAmbiguous, node.ErrExists, node.ErrInvalid, node.ErrTooLarge, node.ErrLocked, node.ErrNotTrusted, node.ErrUnreachable,
	node.ErrGone, node.ErrDiskFull, node.ErrBusy, node.ErrDamaged, node.ErrNewer, node.ErrFrozen, node.ErrBlocked, node.ErrUncertain, node.ErrNotReady, node.ErrNotAllowed,
	api.ErrBadToken, api.ErrNotPermitted,
}

func TestErrorsAreTheSameOnTheFarSide(t *testing.T) {
	s := serve(t)
	seen := map[string]bool{}
	for _, want := range append(slices.Clone(sentinels), context.DeadlineExceeded) {
		s.Fail("Status", fmt.Errorf("look at the weather: %w", want))
		_, err := s.client.Status(t.Context())
		if !errors.Is(err, want) {
			t.Errorf("%v came as %v", want, err)
		}
		if want := "look at the weather: " + want.Error(); err.Error() != want {
			t.Errorf("error = %q, want %q", err, want)
		}
		for _, other := range sentinels {
			if other != want && errors.Is(err, other) {
				t.Errorf("%v is %v too", want, other)
			}
		}
		code := api.CodeOf(err)
		if seen[code] {
			t.Errorf("two errors have the code %q", code)
		}
		seen[code] = true
	}
	s.Fail("Status", errors.New("the dog ate it"))
	_, err := s.client.Status(t.Context())
	if err == nil || err.Error() != "the dog ate it" || api.CodeOf(err) != "internal" {
		t.Errorf("error = %v, code %s", err, api.CodeOf(err))
	}
	// Whatever else is known, the doubt is passed on.
	s.Fail("Status", fmt.Errorf("%w: %w", node.ErrUnreachable, node.ErrUncertain))
	if _, err := s.client.Status(t.Context()); !errors.Is(err, node.ErrUncertain) {
		t.Errorf("error = %v, want %v", err, node.ErrUncertain)
	}
}

// Every method passes on what the node says.
func TestEveryMethodFails(t *testing.T) {
	s, ctx := serve(t), t.Context()
	s.AddContact("Bob")
	c := s.client
	for name, call := range map[string]func() error{
		"Status":        func() error { _, err := c.Status(ctx); return err },
		"Invite":        func() error { _, err := c.Invite(ctx, api.InviteOptions{}); return err },
		"Invites":       func() error { _, err := c.Invites(ctx); return err },
		"RevokeInvite":  func() error { return c.RevokeInvite(ctx, "x") },
		"Accept":        func() error { _, err := c.Accept(ctx, "sotto:i#x", ""); return err },
		"Contacts":      func() error { _, err := c.Contacts(ctx); return err },
		"Contact":       func() error { _, err := c.Contact(ctx, "Bob"); return err },
		"Rename":        func() error { _, err := c.Rename(ctx, "Bob", "Rob"); return err },
		"Block":         func() error { _, err := c.Block(ctx, "Bob", true); return err },
		"Decide":        func() error { _, err := c.Decide(ctx, "Bob", true); return err },
		"SafetyNumber":  func() error { _, err := c.SafetyNumber(ctx, "Bob"); return err },
		"Report":        func() error { _, err := c.Report(ctx, "Bob", []string{"x"}, ""); return err },
		"Unverify":      func() error { _, err := c.Unverify(ctx, "Bob"); return err },
		"SetVerified":   func() error { _, err := c.SetVerified(ctx, "Bob", "1"); return err },
		"Conversations": func() error { _, err := c.Conversations(ctx); return err },
		"Evidence":      func() error { _, err := c.Evidence(ctx, "Bob"); return err },
		"Conversation":  func() error { _, err := c.Conversation(ctx, "Bob"); return err },
		"SendMessage":   func() error { _, err := c.Send(ctx, "Bob", "x"); return err },
		"Message":       func() error { _, err := c.Message(ctx, "Bob", "x"); return err },
		"EditMessage":   func() error { _, err := c.EditMessage(ctx, "Bob", "x", "y", nil); return err },
		"DeleteMessage": func() error { _, err := c.DeleteMessage(ctx, "Bob", "x", true); return err },
		"React":         func() error { _, err := c.React(ctx, "Bob", "x", nil); return err },
		"Vote":          func() error { _, err := c.Vote(ctx, "Bob", "x", nil); return err },
		"ClosePoll":     func() error { _, err := c.ClosePoll(ctx, "Bob", "x"); return err },
		"Pin":           func() error { _, err := c.Pin(ctx, "Bob", "x", true); return err },
		"Star":          func() error { _, err := c.Star(ctx, "Bob", "x", true); return err },
		"Marked":        func() error { _, err := c.Marked(ctx, "Bob", true); return err },
		"Scheduled":     func() error { _, err := c.Scheduled(ctx, "Bob"); return err },
		"Unschedule":    func() error { return c.Unschedule(ctx, "Bob", 1) },
		"MarkRead":      func() error { _, err := c.MarkRead(ctx, "Bob", node.ReadMark{}); return err },
		"ChangeConversation": func() error {
			_, err := c.ChangeConversation(ctx, "Bob", node.ConversationChange{})
			return err
		},
		"Typing":      func() error { return c.Typing(ctx, "Bob") },
		"Messages":    func() error { _, err := c.Messages(ctx, "Bob", "", "", 1); return err },
		"LastEvent":   func() error { _, err := c.LastEvent(ctx); return err },
		"Config":      func() error { _, err := c.Config(ctx, ""); return err },
		"CreateToken": func() error { _, err := c.CreateToken(ctx, node.TokenOptions{Name: "t", Read: true}); return err },
		"Tokens":      func() error { _, err := c.Tokens(ctx); return err },
		"RevokeToken": func() error { return c.RevokeToken(ctx, "t") },
		"SetConfig":   func() error { _, err := c.SetConfig(ctx, "", "sound", "off"); return err },
		"UnsetConfig": func() error { _, err := c.UnsetConfig(ctx, "", "sound"); return err },
		"Doctor":      func() error { _, err := c.Doctor(ctx); return err },
		"Events": func() error {
			for _, err := range c.Events(ctx, 99) {
				return err
			}
			return nil
		},
	} {
		s.Fail(name, node.ErrDamaged)
		if err := call(); !errors.Is(err, node.ErrDamaged) {
			t.Errorf("%s: %v, want %v", name, err, node.ErrDamaged)
		}
		s.Fail(name, nil)
		if name == "Events" {
			continue // it would wait
		}
		if err := call(); errors.Is(err, node.ErrDamaged) {
			t.Errorf("%s fails still: %v", name, err)
		}
	}
}

// raw sends a request as it is and returns the answer.
func raw(t *testing.T, home, request string) (status int, code, body string, header http.Header) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(home, "run", "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go io.WriteString(conn, request)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body) // cut short where the server closes early
	var p api.Problem
	if res.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(b, &p); err != nil || p.Status != res.StatusCode || p.Title == "" || p.Detail == "" {
			t.Errorf("%.80q: problem %s: %v", request, b, err)
		}
	}
	return res.StatusCode, p.Code, string(b), res.Header
}

func TestRefusesWhatNoClientSends(t *testing.T) {
	s := serve(t)
	s.AddContact("Bob")
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	for _, test := range []struct {
		name, request string
		status        int
		code          string
	}{
		{"a good one", "GET /v1/status HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n", 200, ""},
		{"curl's", "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n", 200, ""},
		{"from a page", "GET /v1/status HTTP/1.1\r\nHost: sotto\r\nOrigin: http://sotto\r\n\r\n", 403, "refused"},
		{"from a page that hides", "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", 403, "refused"},
		{"from a link", "GET /v1/status HTTP/1.1\r\nHost: sotto\r\nReferer: http://localhost/\r\n\r\n", 403, "refused"},
		{"from a browser", "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Mode: navigate\r\n\r\n", 403, "refused"},
		{"a preflight", "OPTIONS /v1/status HTTP/1.1\r\nHost: sotto\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n", 403, "refused"},
		{"another host", "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "refused"},
		{"a forwarded port", "GET /v1/status HTTP/1.1\r\nHost: localhost:8080\r\n\r\n", 403, "refused"},
		{"no host", "GET /v1/status HTTP/1.0\r\n\r\n", 403, "refused"},
		{"no such path", "GET /v1/everything HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n", 404, "no_route"},
		{"no such method", "DELETE /v1/status HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n", 404, "no_route"},
		{"an unknown parameter", "GET /v1/status?verbose=1 HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n", 422, "invalid"},
		{"no number", "GET /v1/events?after=-1 HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n", 422, "invalid"},
		{"no JSON", post("/v1/contacts/Bob", "{"), 404, "no_route"},
		{"cut JSON", post("/v1/conversations/Bob/messages", `{"text":"secret`), 400, "invalid"},
		{"a field missing", post("/v1/conversations/Bob/messages", `{}`), 422, "invalid"},
		{"a field too many", post("/v1/conversations/Bob/messages", `{"text":"secret","to":"secret"}`), 422, "invalid"},
		{"a field of another type", post("/v1/conversations/Bob/messages", `{"text":["secret"]}`), 422, "invalid"},
		{"a body too large", post("/v1/conversations/Bob/messages", `{"text":"`+strings.Repeat("a", 600<<10)+`"}`), 413, "too_large"},
		{"a header too large", "GET /v1/status HTTP/1.1\r\nHost: sotto\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 431, ""},
		{"not HTTP", "hello\r\n\r\n", 400, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, code, body, header := raw(t, s.home, test.request)
			if status != test.status || code != test.code {
				t.Errorf("status %d, code %q, want %d, %q; body %s", status, code, test.status, test.code, body)
			}
			for name := range header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("the answer has %s", name)
				}
			}
			if strings.Contains(body, "secret") {
				t.Errorf("the answer repeats what was sent: %s", body)
			}
		})
	}
	if list, err := s.client.Messages(t.Context(), "Bob", "", "", 1); err != nil || len(list) != 0 {
		t.Errorf("a message was sent: %+v, %v", list, err)
	}
}

// The limit for a request's body is none for what the node does with it.
func TestSlowNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &slow{Node: apitest.New("Ada")}
		s := api.NewServer(n, "1", slog.New(slog.DiscardHandler))
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		here, there := net.Pipe()
		l.conns <- there
		go io.WriteString(here, "POST /v1/contacts HTTP/1.1\r\nHost: sotto\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"link\":\"sotto:i#x\"}")
		res, err := http.ReadResponse(bufio.NewReader(here), nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("answer %+v, %v", res, err)
		}
		here.Close()
		if err := errors.Join(s.Close(), <-ended); err != nil {
			t.Error(err)
		}
	})
}

type slow struct{ *apitest.Node }

func (s *slow) Accept(ctx context.Context, link, name string) (node.Contact, error) {
	select {
	case <-time.After(10 * time.Minute):
		return s.Node.Accept(ctx, link, name)
	case <-ctx.Done():
		return node.Contact{}, ctx.Err()
	}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

func TestSocketIsPrivate(t *testing.T) {
	s := serve(t)
	for name, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, "run": 0o700 | fs.ModeDir, "run/api.sock": 0o600 | fs.ModeSocket, "api.lock": 0o600} {
		info, err := os.Lstat(filepath.Join(s.home, name))
		if err != nil || info.Mode() != want {
			t.Errorf("mode of %q = %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestOpenFolderIsClosedToOthers(t *testing.T) {
	home := shortFolder(t)
	for _, dir := range []string{home, filepath.Join(home, "run")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, dir := range []string{home, filepath.Join(home, "run")} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode of %s = %v, %v", dir, info.Mode(), err)
		}
	}
}

func TestSecondNodeIsBusy(t *testing.T) {
	s := serve(t)
	if l, err := api.Lock(s.home); !errors.Is(err, node.ErrBusy) {
		t.Errorf("a second lock: %v, %v; want %v", l, err, node.ErrBusy)
	}
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Errorf("the first node does not answer any more: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := api.WaitFree(ctx, s.home); !errors.Is(err, context.Canceled) {
		t.Errorf("wait for a home in use: %v", err)
	}
}

func TestWaitFreeReturnsWhenTheNodeHasGone(t *testing.T) {
	home := shortFolder(t)
	if err := api.WaitFree(t.Context(), home); err != nil {
		t.Errorf("a home that was never used: %v", err)
	}
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan error)
	go func() { free <- api.WaitFree(context.Background(), home) }()
	select {
	case err := <-free:
		t.Fatalf("the home is in use, and WaitFree returned %v", err)
	default:
	}
	lock.Close()
	if err := <-free; err != nil {
		t.Error(err)
	}
}

func TestNoNode(t *testing.T) {
	c := api.NewClient(shortFolder(t))
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("no socket: %v, want %v", err, api.ErrNotRunning)
	}
	if _, err := c.Send(t.Context(), "Bob", "x"); !errors.Is(err, api.ErrNotRunning) || errors.Is(err, node.ErrUncertain) {
		t.Errorf("no socket: %v, want %v", err, api.ErrNotRunning)
	}
	for _, err := range c.Events(t.Context(), 0) {
		if !errors.Is(err, api.ErrNotRunning) {
			t.Errorf("no socket: %v, want %v", err, api.ErrNotRunning)
		}
	}
}

// A path that no socket can have.
func TestLongHome(t *testing.T) {
	runtimeDir := shortFolder(t)
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	home := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	open := func() (net.Listener, *api.HomeLock) {
		t.Helper()
		lock, err := api.Lock(home)
		if err != nil {
			t.Fatal(err)
		}
		l, err := lock.Listen()
		if err != nil {
			t.Fatal(err)
		}
		return l, lock
	}
	l, lock := open()
	path := l.Addr().String()
	if !strings.HasPrefix(path, runtimeDir) {
		t.Errorf("the socket is at %s, not in %s", path, runtimeDir)
	}
	if info, err := os.Lstat(filepath.Dir(path)); err != nil || info.Mode() != 0o700|fs.ModeDir {
		t.Errorf("folder of the socket: %v, %v", info.Mode(), err)
	}
	n := apitest.New("Ada")
	s := api.NewServer(n, "1", slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	c := api.NewClient(home)
	if got, err := c.Status(t.Context()); err != nil || got.Name != "Ada" {
		t.Errorf("status = %+v, %v", got, err)
	}
	c.Close()
	if err := errors.Join(s.Close(), <-ended, lock.Close()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{filepath.Dir(path), filepath.Join(home, "api.addr")} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was left: %v", name, err)
		}
	}

	// A node that was killed leaves folder and note; the next one uses them.
	l, lock = open()
	path = l.Addr().String()
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
	keep, err := os.ReadFile(filepath.Join(home, "api.addr"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // the folder is not empty, and stays
	lock.Close()
	if err := os.WriteFile(filepath.Join(home, "api.addr"), keep, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.NewClient(home).Status(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("a socket that nobody listens at: %v, want %v", err, api.ErrNotRunning)
	}
	l, lock = open()
	if got := l.Addr().String(); got != path {
		t.Errorf("the socket is at %s, not where it was, %s", got, path)
	}
	l.Close()
	lock.Close()

	for _, note := range []string{"", "relative/sotto-1/api.sock", "/tmp/other/api.sock", "/tmp/sotto-1/other", "/tmp/sotto-1/api.sock/../../x"} {
		if err := os.WriteFile(filepath.Join(home, "api.addr"), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := api.NewClient(home).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("note %q: %v", note, err)
		}
	}
}

const childHome = "SOTTO_TEST_CHILD_HOME"

func TestMain(m *testing.M) {
	if home := os.Getenv(childHome); home != "" {
		lock, err := api.Lock(home)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		l, err := lock.Listen()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		fmt.Println(api.NewServer(apitest.New("Ada"), "1", slog.New(slog.DiscardHandler)).Serve(l))
		runtime.KeepAlive(lock)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSocketOfAKilledNodeIsReplaced(t *testing.T) {
	home := shortFolder(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childHome+"="+home)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	c := api.NewClient(home)
	defer c.Close()
	if got, err := c.Status(t.Context()); err != nil || got.Name != "Ada" {
		t.Errorf("status = %+v, %v", got, err)
	}
	if _, err := api.Lock(home); !errors.Is(err, node.ErrBusy) {
		t.Errorf("lock while the child lives: %v, want %v", err, node.ErrBusy)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if _, err := os.Lstat(filepath.Join(home, "run", "api.sock")); err != nil {
		t.Fatalf("the socket is gone, and this test shows nothing: %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrNotRunning) && !errors.Is(err, api.ErrStopped) {
		t.Errorf("status of a killed node: %v", err)
	}
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// Who asked for a change and lost the connection does not know what became of it.
func TestLostAnswer(t *testing.T) {
	home := shortFolder(t)
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for answer := range answers {
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				t.Error(err)
			}
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	c := api.NewClient(home)
	defer c.Close()
	for name, answer := range map[string]string{
		"nothing":     "",
		"half a head": "HTTP/1.1 200 OK\r\nContent-",
		"half a body": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"id\":",
		"nonsense":    "hello\r\n\r\n",
	} {
		answers <- answer
		if _, err := c.Send(t.Context(), "Bob", "x"); !errors.Is(err, node.ErrUncertain) {
			t.Errorf("%s: send: %v, want %v", name, err, node.ErrUncertain)
		}
		answers <- answer
		if _, err := c.Status(t.Context()); err == nil || errors.Is(err, node.ErrUncertain) {
			t.Errorf("%s: status: %v", name, err)
		}
	}
	for name, answer := range map[string]string{
		"no problem document": "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
		"a redirect":          "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
	} {
		answers <- answer
		if _, err := c.Status(t.Context()); err == nil || api.CodeOf(err) != "internal" {
			t.Errorf("%s: %v", name, err)
		}
	}
	close(answers)
	l.Close()
	<-done
}

func TestContextEndsARequest(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.client.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("status: %v, want %v", err, context.Canceled)
	}
}

// The document that the node serves describes what it serves, and spec/api.md names
// all of it.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	_, _, body, _ := raw(t, s.home, "GET /v1/openapi.json HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n")
	var doc struct {
		OpenAPI string
		Info    struct{ Version string }
		Paths   map[string]map[string]struct {
			Responses map[string]struct{ Content map[string]any }
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Version != "1.2.3" || len(doc.Paths) < 15 {
		t.Errorf("openapi %s, version %s, %d paths", doc.OpenAPI, doc.Info.Version, len(doc.Paths))
	}
	if doc.Components.Schemas["Problem"] == nil {
		t.Error("no schema for problems")
	}
	page, err := os.ReadFile("../../spec/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if _, ok := op.Responses["default"].Content["application/problem+json"]; !ok {
				t.Errorf("%s %s does not say how it fails", method, path)
			}
			if line := "| " + strings.ToUpper(method) + " | `" + path + "` |"; !bytes.Contains(page, []byte(line)) {
				t.Errorf("spec/api.md has no line %q", line)
			}
		}
	}
	for _, err := range sentinels {
		if code := api.CodeOf(err); !bytes.Contains(page, []byte("| `"+code+"` |")) {
			t.Errorf("spec/api.md does not have the code %q", code)
		}
	}
}

// serveNode serves n in a home of its own and returns the home.
func serveNode(t *testing.T, n api.Node) string {
	t.Helper()
	home := shortFolder(t)
	lock, err := api.Lock(home)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(n, "1", slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-ended, lock.Close()); err != nil {
			t.Error(err)
		}
	})
	return home
}
