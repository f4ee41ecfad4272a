package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/node"
	"sotto/node/api"
	"sotto/node/api/apitest"
)

// What each route asks of a token. A route that is not here fails the test.
var wanted = map[string]string{
	"GET /v1/conversations":                               "read",
	"GET /v1/conversations/{ref}":                         "read chat",
	"GET /v1/conversations/{ref}/messages":                "read chat",
	"POST /v1/conversations/{ref}/messages":               "post chat",
	"GET /v1/groups/{ref}":                                "read chat",
	"GET /v1/events":                                      "read",
	"GET /v1/events/last":                                 "read",
	"GET /v1/status":                                      "owner",
	"POST /v1/shutdown":                                   "owner",
	"GET /v1/doctor":                                      "owner",
	"POST /v1/invites":                                    "owner",
	"GET /v1/invites":                                     "owner",
	"DELETE /v1/invites/{id}":                             "owner",
	"POST /v1/contacts":                                   "owner",
	"GET /v1/contacts":                                    "owner",
	"GET /v1/contacts/{ref}":                              "owner",
	"PUT /v1/contacts/{ref}/name":                         "owner",
	"PUT /v1/contacts/{ref}/blocked":                      "owner",
	"GET /v1/contacts/{ref}/safety-number":                "owner",
	"PUT /v1/contacts/{ref}/safety-number":                "owner",
	"DELETE /v1/contacts/{ref}/safety-number":             "owner",
	"POST /v1/conversations/{ref}/report":                 "owner",
	"GET /v1/conversations/{ref}/messages/{id}":           "read chat",
	"GET /v1/conversations/{ref}/pinned":                  "read chat",
	"POST /v1/conversations/{ref}/typing":                 "post chat",
	"PUT /v1/conversations/{ref}/messages/{id}/reactions": "both chat",
	"PUT /v1/conversations/{ref}/messages/{id}/vote":      "both chat",
	"PUT /v1/conversations/{ref}/messages/{id}/text":      "owner",
	"DELETE /v1/conversations/{ref}/messages/{id}":        "owner",
	"POST /v1/conversations/{ref}/messages/{id}/close":    "owner",
	"PUT /v1/conversations/{ref}/messages/{id}/pinned":    "owner",
	"PUT /v1/conversations/{ref}/messages/{id}/starred":   "owner",
	"GET /v1/conversations/{ref}/starred":                 "owner",
	"GET /v1/conversations/{ref}/scheduled":               "owner",
	"DELETE /v1/conversations/{ref}/scheduled/{number}":   "owner",
	"POST /v1/conversations/{ref}/read":                   "owner",
	"PATCH /v1/conversations/{ref}":                       "owner",
	"PUT /v1/contacts/{ref}/accepted":                     "owner",
	"GET /v1/search":                                      "owner",
	"POST /v1/groups":                                     "owner",
	"PATCH /v1/groups/{ref}":                              "owner",
	"POST /v1/groups/{ref}/links":                         "owner",
	"GET /v1/groups/{ref}/links":                          "owner",
	"POST /v1/groups/{ref}/requests":                      "owner",
	"GET /v1/groups/{ref}/requests":                       "owner",
	"POST /v1/joinings":                                   "owner",
	"GET /v1/joinings":                                    "owner",
	"GET /v1/conversations/{ref}/evidence":                "owner",
	"POST /v1/groups/{ref}/leave":                         "owner",
	"GET /v1/config":                                      "owner",
	"PUT /v1/config/{key}":                                "owner",
	"DELETE /v1/config/{key}":                             "owner",
	"GET /v1/conversations/{ref}/config":                  "owner",
	"PUT /v1/conversations/{ref}/config/{key}":            "owner",
	"DELETE /v1/conversations/{ref}/config/{key}":         "owner",
	"POST /v1/tokens":                                     "owner",
	"GET /v1/tokens":                                      "owner",
	"DELETE /v1/tokens/{token}":                           "owner",
}

// operations returns what the API serves, as "GET /v1/status", by the id of the operation.
func operations(t *testing.T, s *served) map[string]string {
	t.Helper()
	_, _, body, _ := raw(t, s.home, "GET /v1/openapi.json HTTP/1.1\r\nHost: sotto\r\nConnection: close\r\n\r\n")
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			out[op.OperationID] = strings.ToUpper(method) + " " + path
		}
	}
	return out
}

// ask sends a request with a token and returns status and code; of a stream the head alone.
func ask(t *testing.T, s *served, token, method, path, body string) (int, string) {
	t.Helper()
	tr := &http.Transport{Dial: func(_, _ string) (net.Conn, error) { return net.Dial("unix", s.home+"/run/api.sock") }}
	defer tr.CloseIdleConnections()
	req := httptest.NewRequest(method, "http://sotto"+path, strings.NewReader(body))
	req.RequestURI = ""
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 400 {
		return res.StatusCode, ""
	}
	var p api.Problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, p.Code
}

// Every route with every kind of token: what is not permitted is refused, what is
// permitted is not, and no route is without a word on it.
func TestEveryRouteAndToken(t *testing.T) {
	s := serve(t)
	for _, name := range []string{"Bob", "Ana"} {
		s.AddContact(name)
	}
	for _, name := range []string{"Hikers", "Others"} {
		if _, err := s.Node.CreateGroup(t.Context(), node.GroupOptions{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	secrets := map[string]string{}
	for name, o := range map[string]node.TokenOptions{
		"reads":       {Read: true},
		"posts":       {Post: true},
		"both":        {Read: true, Post: true},
		"reads Bob":   {Read: true, Chats: []string{"Bob", "Hikers"}},
		"posts Bob":   {Post: true, Chats: []string{"Bob", "Hikers"}},
		"both of Bob": {Read: true, Post: true, Chats: []string{"Bob", "Hikers"}},
	} {
		o.Name = name
		tok, err := s.client.CreateToken(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		secrets[name] = "Bearer " + tok.Secret
	}
	served := operations(t, s)
	if len(served) < 30 {
		t.Fatalf("only %d operations", len(served))
	}
	for id, op := range served {
		if !api.Scoped(id) {
			t.Errorf("%s has no scope: scope.go must say who may use it", op)
		}
		want, ok := wanted[op]
		if !ok {
			t.Errorf("%s: this test must say who may use it", op)
			continue
		}
		right, chat, _ := strings.Cut(want, " ")
		method, path, _ := strings.Cut(op, " ")
		for name, secret := range secrets {
			bound := strings.Contains(name, "Bob")
			for _, ref := range []string{"Bob", "Ana", "nobody", "Hikers", "Others"} {
				if strings.Contains(path, "/groups/") != (ref == "Hikers" || ref == "Others" || ref == "nobody") && strings.Contains(path, "{ref}") {
					continue
				}
				at := strings.NewReplacer("{ref}", ref, "{key}", "sound", "{id}", "x", "{token}", "x", "{number}", "1").Replace(path)
				status, code := ask(t, s, secret, method, at, `{"text":"x"}`)
				may := right == "read" && !strings.HasPrefix(name, "posts") || right == "post" && !strings.HasPrefix(name, "reads") ||
					right == "both" && strings.HasPrefix(name, "both")
				if chat == "chat" && bound && ref != "Bob" && ref != "Hikers" {
					may = false
				}
				if refused := status == http.StatusForbidden && code == "not_permitted"; refused == may {
					t.Errorf("%s %s by a token that %s: %d %s", method, at, name, status, code)
				} else if may && ref != "nobody" && status >= 400 && !strings.Contains(path, "{id}") {
					t.Errorf("%s %s by a token that %s does not work: %d %s", method, at, name, status, code)
				}
			}
		}
	}
	all := slices.Collect(maps.Values(served))
	for op := range wanted {
		if !slices.Contains(all, op) {
			t.Errorf("%s is not served any more", op)
		}
	}
	select {
	case <-s.Down():
		t.Error("a token has stopped the node")
	default:
	}
	list, err := s.client.Messages(t.Context(), "Ana", "", "", 0)
	if err != nil || len(list) != 2 {
		t.Errorf("%d messages to Ana, %v; want those of the two tokens that are for all", len(list), err)
	}
}

func TestTokenMustBeGood(t *testing.T) {
	s := serve(t)
	tok, err := s.client.CreateToken(t.Context(), node.TokenOptions{Name: "bot", Read: true})
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]int{
		"Bearer " + tok.Secret: 200, "bearer " + tok.Secret: 200, "Bearer sotto-token-none": 401, "Bearer " + tok.Secret + "x": 401,
		"Basic " + tok.Secret: 401, tok.Secret: 401, "Bearer": 401, "Bearer  ": 401,
	} {
		if status, code := ask(t, s, header, "GET", "/v1/conversations", ""); status != want || want == 401 && code != "bad_token" {
			t.Errorf("%q: %d %s, want %d", header, status, code, want)
		}
	}
	// The document is for all, and a path that there is not is none for a token, too.
	if status, _ := ask(t, s, "Bearer "+tok.Secret, "GET", "/v1/openapi.json", ""); status != 200 {
		t.Errorf("the document: %d", status)
	}
	if status, code := ask(t, s, "Bearer sotto-token-none", "GET", "/v1/openapi.json", ""); status != 401 {
		t.Errorf("the document for a bad token: %d %s", status, code)
	}
	if err := s.client.RevokeToken(t.Context(), "bot"); err != nil {
		t.Fatal(err)
	}
	if status, code := ask(t, s, "Bearer "+tok.Secret, "GET", "/v1/conversations", ""); status != 401 || code != "bad_token" {
		t.Errorf("after it was revoked: %d %s", status, code)
	}
}

// bot is a client with a token.
func bot(t *testing.T, s *served, o node.TokenOptions) *api.Client {
	t.Helper()
	tok, err := s.Node.CreateToken(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient(s.home)
	c.UseToken(tok.Secret)
	t.Cleanup(c.Close)
	return c
}

// A stream shows a bot what is its own, and ends when its token is revoked.
func TestEventsOfAToken(t *testing.T) {
	s, ctx := serve(t), t.Context()
	s.AddContact("Bob")
	s.AddContact("Ana")
	c := bot(t, s, node.TokenOptions{Name: "bot", Read: true, Chats: []string{"Bob"}})
	if list, err := c.Conversations(ctx); err != nil || len(list) != 1 || list[0].Name != "Bob" {
		t.Errorf("conversations = %+v, %v", list, err)
	}
	if _, err := c.Status(ctx); !errors.Is(err, api.ErrNotPermitted) {
		t.Errorf("status: %v, want %v", err, api.ErrNotPermitted)
	}
	if _, err := c.Send(ctx, "Bob", "x"); !errors.Is(err, api.ErrNotPermitted) || errors.Is(err, node.ErrUncertain) {
		t.Errorf("send: %v, want %v", err, api.ErrNotPermitted)
	}
	say := func(name, text string) {
		t.Helper()
		if _, err := s.Receive(name, text); err != nil {
			t.Fatal(err)
		}
	}
	say("Ana", "a secret of Ana's")
	say("Bob", "one")
	s.Notice("a notice")
	if _, err := s.SetConfig(ctx, "Bob", "sound", "off"); err != nil {
		t.Fatal(err)
	}
	say("Ana", "another secret")
	say("Bob", "two")
	var got []string
	for e, err := range c.Events(ctx, 0) {
		if err != nil {
			if !errors.Is(err, api.ErrBadToken) {
				t.Errorf("the stream ended with %v, want %v", err, api.ErrBadToken)
			}
			break
		}
		got = append(got, e.Type+" "+e.Message.Text)
		if e.Message.Text == "two" {
			if err := s.RevokeToken(ctx, "bot"); err != nil {
				t.Fatal(err)
			}
			say("Bob", "three")
		}
	}
	if want := []string{"message one", "message two"}; !reflect.DeepEqual(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// What a token does not read it does not get by forwarding or answering, either.
func TestForwardingIsReading(t *testing.T) {
	s, ctx := serve(t), t.Context()
	for _, name := range []string{"Bob", "Ana"} {
		s.AddContact(name)
	}
	secret, err := s.Receive("Ana", "a secret of Ana's")
	if err != nil {
		t.Fatal(err)
	}
	asked, err := s.Receive("Bob", "a question of Bob's")
	if err != nil {
		t.Fatal(err)
	}
	forward := func(of, id string) node.NewMessage {
		return node.NewMessage{Forward: &node.Forward{Conversation: of, Message: id}}
	}
	posts := bot(t, s, node.TokenOptions{Name: "posts", Post: true})
	both := bot(t, s, node.TokenOptions{Name: "both", Read: true, Post: true, Chats: []string{"Bob"}})
	for name, try := range map[string]func() (node.Message, error){
		"posts":                func() (node.Message, error) { return posts.SendMessage(ctx, "Bob", forward("Ana", secret.ID)) },
		"both of Bob":          func() (node.Message, error) { return both.SendMessage(ctx, "Bob", forward("Ana", secret.ID)) },
		"both of Bob, by none": func() (node.Message, error) { return both.SendMessage(ctx, "Bob", forward("nobody", secret.ID)) },
	} {
		if m, err := try(); !errors.Is(err, api.ErrNotPermitted) {
			t.Errorf("a token that %s forwards %+v, %v", name, m, err)
		}
	}
	if m, err := both.SendMessage(ctx, "Bob", forward("Bob", asked.ID)); err != nil || m.Text != asked.Text {
		t.Errorf("what it reads it cannot forward: %+v, %v", m, err)
	}
	answer := node.NewMessage{Text: "yes", ReplyTo: asked.ID}
	if m, err := posts.SendMessage(ctx, "Bob", answer); err != nil || m.ReplyTo != nil {
		t.Errorf("a token that posts gets %+v, %v", m, err)
	}
	if m, err := both.SendMessage(ctx, "Bob", answer); err != nil || m.ReplyTo == nil {
		t.Errorf("a token that reads gets %+v, %v", m, err)
	}
	// A draft is its owner's.
	if _, err := s.ChangeConversation(ctx, "Bob", node.ConversationChange{Draft: &node.Draft{Text: "not yet"}}); err != nil {
		t.Fatal(err)
	}
	if c, err := s.client.Conversation(ctx, "Bob"); err != nil || c.Draft == nil {
		t.Fatalf("there is no draft, and this test shows nothing: %+v, %v", c, err)
	}
	one, err := both.Conversation(ctx, "Bob")
	all, err2 := both.Conversations(ctx)
	if err := errors.Join(err, err2); err != nil || one.Draft != nil || len(all) != 1 || all[0].Draft != nil {
		t.Errorf("a bot sees a draft: %+v, %+v, %v", one, all, err)
	}
	for e, err := range both.Events(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if c := e.Conversation; c != nil {
			if c.Draft != nil {
				t.Errorf("an event shows a draft: %+v", c)
			}
			break
		}
	}
}

// A bot that nothing concerns for long does not fall behind.
func TestHiddenEventsMoveOn(t *testing.T) {
	s := serve(t)
	s.AddContact("Bob")
	c := bot(t, s, node.TokenOptions{Name: "bot", Read: true})
	for range 2100 {
		s.Notice("not for bots")
	}
	if _, err := s.Receive("Bob", "the end"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range c.Events(t.Context(), 2) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Seq, " ", e.Type, e.Notice))
		if e.Type == node.EventMessage {
			break
		}
	}
	if want := []string{"1002 skipped", "2002 skipped", "2103 message"}; !reflect.DeepEqual(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestStreamEndsWithItsToken(t *testing.T) {
	s := serve(t)
	c := bot(t, s, node.TokenOptions{Name: "bot", Read: true, Expires: 50 * time.Millisecond})
	for e, err := range c.Events(t.Context(), 1000) {
		if !errors.Is(err, api.ErrBadToken) {
			t.Errorf("event %+v, %v; want %v", e, err, api.ErrBadToken)
		}
	}
}

// Every type of event is said to be for bots, or not.
func TestEveryEventAndToken(t *testing.T) {
	f, _ := reflect.TypeFor[node.Event]().FieldByName("Type")
	types := strings.Split(f.Tag.Get("enum"), ",")
	if len(types) < 6 {
		t.Fatalf("types of events: %q", types)
	}
	for _, kind := range types {
		if !api.EventScoped(kind) {
			t.Errorf("scope.go does not say who may see events of type %s", kind)
		}
	}
	if api.EventScoped("frobnicate") {
		t.Error("this test cannot fail")
	}
}

// witness notes which conversation a message was sent to, as the node was told.
type witness struct {
	*apitest.Node
	refs []string
}

func (w *witness) SendMessage(ctx context.Context, ref string, m node.NewMessage) (node.Message, error) {
	w.refs = append(w.refs, ref)
	return w.Node.SendMessage(ctx, ref, m)
}

// Keys of one bot are none of another's; and the node is asked by the id of the
// conversation that the token was looked up for, not by a name that may move.
func TestBotsDoNotMeet(t *testing.T) {
	ctx, w := t.Context(), &witness{Node: apitest.New("Ada")}
	bob := w.AddContact("Bob")
	home := serveNode(t, w)
	ids := map[string]bool{}
	for _, name := range []string{"one", "two", ""} {
		c := api.NewClient(home)
		defer c.Close()
		if name != "" {
			tok, err := w.CreateToken(ctx, node.TokenOptions{Name: name, Post: true, Chats: []string{"Bob"}})
			if err != nil {
				t.Fatal(err)
			}
			c.UseToken(tok.Secret)
		}
		for range 2 {
			m, err := c.SendMessage(ctx, "Bob", node.NewMessage{Text: "by " + name, Key: "k"})
			if err != nil || m.Text != "by "+name {
				t.Errorf("%q sends %+v, %v", name, m, err)
			}
			ids[m.ID] = true
		}
	}
	if len(ids) != 3 {
		t.Errorf("two bots and their owner have sent %d messages with one key", len(ids))
	}
	if want := []string{bob.Conversation, bob.Conversation, bob.Conversation, bob.Conversation, "Bob", "Bob"}; !reflect.DeepEqual(w.refs, want) {
		t.Errorf("the node was asked for %q, want %q", w.refs, want)
	}
}
