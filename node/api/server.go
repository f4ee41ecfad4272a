package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sotto/node"
)

// Server answers requests with a node.
type Server struct {
	node     Node
	log      *slog.Logger
	api      huma.API
	http     *http.Server
	stopping context.Context // over when Close has begun; ends the streams
	stop     context.CancelFunc
	streams  chan struct{} // a place for each stream

	mu     sync.Mutex     // guards closed
	live   sync.WaitGroup // requests; Add only with mu held and not closed
	closed bool
}

// NewServer returns a server of n's API. The version is that of the program.
func NewServer(n Node, version string, log *slog.Logger) *Server {
	s := &Server{node: n, log: log, streams: make(chan struct{}, maxStreams)}
	s.stopping, s.stop = context.WithCancel(context.Background())

	config := huma.DefaultConfig("Sotto, the local API of a node", version)
	config.OpenAPIPath = "/v1/openapi"
	config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", nil
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{func(_ huma.Context, _ string, v any) (any, error) {
		if e, ok := v.(*huma.ErrorModel); ok {
			return ofHuma(e), nil
		}
		return v, nil
	}}
	mux := http.NewServeMux()
	s.api = humago.New(mux, config)
	s.api.UseMiddleware(s.permit)
	s.routes()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.complain(w, problem(http.StatusNotFound, codeRoute, "the API has no such path or method; GET /v1/openapi.json lists them"))
	})
	s.http = &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: bodyTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers who connects to l until Close, and returns nil then.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the local API: %w", err)
	}
	return nil
}

// Close takes no more requests, ends the streams, waits five seconds for the
// requests under way, then ends these too, and returns when all are gone.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	s.live.Wait()
	return err
}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.live.Add(1)
	return true
}

// guard refuses what a browser might have sent and reads a request's body, so that
// no handler waits for one.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.begin() {
			s.complain(w, problemOf(ErrStopped))
			return
		}
		defer s.live.Done()
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if why := refused(r); why != "" {
			w.Header().Set("Connection", "close")
			s.complain(w, problem(http.StatusForbidden, codeRefused, why))
			return
		}
		r, err := s.identify(r)
		if err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			s.complain(w, problemOf(err))
			return
		}
		if !s.readBody(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refused returns why a request is not answered, nothing if it may be.
func refused(r *http.Request) string {
	if r.Host != "sotto" && r.Host != "localhost" {
		return `the host of a request is "sotto" or "localhost"`
	}
	for name := range r.Header {
		if name == "Origin" || name == "Referer" || strings.HasPrefix(name, "Sec-Fetch-") {
			return "this API is not for browsers: a request with the header " + name + " is refused"
		}
	}
	return ""
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == http.NoBody {
		return true
	}
	c := http.NewResponseController(w)
	if err := c.SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
		s.complain(w, problemOf(err))
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		s.complain(w, problemOf(fmt.Errorf("a request of more than %d bytes is %w", maxBody, node.ErrTooLarge)))
		return false
	case err != nil:
		s.complain(w, problemOf(fmt.Errorf("the request's body is %w: %v", node.ErrInvalid, err)))
		return false
	}
	// What reads on for the next request must not end this one's context by the
	// deadline that was for its body.
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		s.complain(w, problemOf(err))
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return true
}

func (s *Server) complain(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := huma.DefaultJSONFormat.Marshal(w, p); err != nil {
		s.log.Debug("a client did not take an answer", "error", err)
	}
}

type (
	none          struct{}
	answer[T any] struct{ Body T }
	refInput      struct {
		Ref string `path:"ref" maxLength:"256" doc:"name, id, or a prefix of the id that fits no other"`
	}
	refBody[T any] struct {
		Ref  string `path:"ref" maxLength:"256" doc:"name, id, or a prefix of the id that fits no other"`
		Body T
	}
)

// The bodies of answers that are lists, so that more can be said beside them later.
type (
	invites struct {
		Invites []node.Invite `json:"invites" nullable:"false"`
	}
	contacts struct {
		Contacts []node.Contact `json:"contacts" nullable:"false"`
	}
	allEvidence struct {
		Evidence []node.Evidence `json:"evidence" nullable:"false"`
	}
	conversations struct {
		Conversations []node.Conversation `json:"conversations" nullable:"false"`
	}
	groupLinks struct {
		Links []node.GroupLink `json:"links" nullable:"false"`
	}
	groupRequests struct {
		Requests []node.GroupRequest `json:"requests" nullable:"false"`
	}
	joinings struct {
		Joinings []node.Joining `json:"joinings" nullable:"false"`
	}
	messages struct {
		Messages []node.Message `json:"messages" nullable:"false"`
	}
	settings struct {
		Settings []Setting `json:"settings" nullable:"false"`
	}
	tokens struct {
		Tokens []node.Token `json:"tokens" nullable:"false"`
	}
	checks struct {
		Checks []node.Check `json:"checks" nullable:"false"`
	}
	lastEvent struct {
		Seq uint64 `json:"seq" doc:"of the newest event; 0 if there is none"`
	}
)

// The bodies of requests.
type (
	inviteBody struct {
		Expires int64  `json:"expires_in,omitempty" minimum:"0" maximum:"31622400" doc:"seconds; 0 means the node's default"`
		Name    string `json:"name,omitempty" doc:"what to call who opens it"`
		Ask     bool   `json:"ask,omitempty" doc:"whoever opens it is a request first, about which you decide"`
	}
	acceptBody struct {
		Link string `json:"link"`
		Name string `json:"name,omitempty" doc:"what to call the inviter; otherwise by their profile name"`
	}
	nameBody struct {
		Name string `json:"name"`
	}
	acceptedBody struct {
		Accepted bool `json:"accepted"`
	}
	blockedBody struct {
		Blocked bool `json:"blocked"`
	}
	numberBody struct {
		Number string `json:"number" doc:"60 digits, or the safety code that the contact shows"`
	}
	reportBody struct {
		Messages []string `json:"messages" minItems:"1" maxItems:"100" doc:"ids of messages that others wrote"`
		Reason   string   `json:"reason,omitempty" maxLength:"4096" doc:"what is wrong with them; nobody signs it"`
	}
	tokenBody struct {
		Name    string   `json:"name" doc:"what you call it"`
		Read    bool     `json:"read,omitempty"`
		Post    bool     `json:"post,omitempty"`
		Chats   []string `json:"chats,omitempty" maxItems:"256" doc:"conversations, by name or id; none: all"`
		Expires int64    `json:"expires_in,omitempty" minimum:"0" maximum:"316224000" doc:"seconds; 0: never"`
	}
	linkBody struct {
		Expires int64 `json:"expires_in,omitempty" minimum:"0" maximum:"31622400" doc:"seconds; 0 means the node's default"`
	}
	joinBody struct {
		Link string `json:"link"`
	}
	answerBody struct {
		Who string `json:"who" doc:"who asks, by account or name"`
		In  bool   `json:"in"`
	}
	valueBody struct {
		Value string `json:"value"`
	}
)

func (s *Server) routes() {
	n := s.node
	route(s, http.MethodGet, "/v1/status", "status", "The node at a glance",
		func(ctx context.Context, _ *none) (node.Status, error) { return n.Status(ctx) })
	route(s, http.MethodPost, "/v1/shutdown", "shutdown", "Stop the node",
		func(context.Context, *none) (none, error) {
			n.Shutdown()
			return none{}, nil
		})
	route(s, http.MethodGet, "/v1/doctor", "doctor", "Look for what is wrong; the report names nobody",
		func(ctx context.Context, _ *none) (checks, error) {
			c, err := n.Doctor(ctx)
			return checks{list(c)}, err
		})

	route(s, http.MethodPost, "/v1/invites", "invite", "Make a link",
		func(ctx context.Context, in *struct{ Body inviteBody }) (node.Invite, error) {
			return n.Invite(ctx, InviteOptions{Expires: time.Duration(in.Body.Expires) * time.Second, Name: in.Body.Name, Ask: in.Body.Ask})
		})
	route(s, http.MethodGet, "/v1/invites", "invites", "Invites that can still be used",
		func(ctx context.Context, _ *none) (invites, error) {
			i, err := n.Invites(ctx)
			return invites{list(i)}, err
		})
	route(s, http.MethodDelete, "/v1/invites/{id}", "revoke-invite", "Make a link useless",
		func(ctx context.Context, in *struct {
			ID string `path:"id" maxLength:"256"`
		}) (none, error) {
			return none{}, n.RevokeInvite(ctx, in.ID)
		})

	route(s, http.MethodPost, "/v1/contacts", "accept", "Open an invite; the contact is pending at first",
		func(ctx context.Context, in *struct{ Body acceptBody }) (node.Contact, error) {
			return n.Accept(ctx, in.Body.Link, in.Body.Name)
		})
	route(s, http.MethodGet, "/v1/contacts", "contacts", "All contacts",
		func(ctx context.Context, _ *none) (contacts, error) {
			c, err := n.Contacts(ctx)
			return contacts{list(c)}, err
		})
	route(s, http.MethodGet, "/v1/contacts/{ref}", "contact", "One contact",
		func(ctx context.Context, in *refInput) (node.Contact, error) { return n.Contact(ctx, in.Ref) })
	route(s, http.MethodPut, "/v1/contacts/{ref}/name", "rename", "Call a contact otherwise",
		func(ctx context.Context, in *refBody[nameBody]) (node.Contact, error) {
			return n.Rename(ctx, in.Ref, in.Body.Name)
		})
	route(s, http.MethodPut, "/v1/contacts/{ref}/blocked", "block", "Block a contact, or no longer",
		func(ctx context.Context, in *refBody[blockedBody]) (node.Contact, error) {
			return n.Block(ctx, in.Ref, in.Body.Blocked)
		})
	route(s, http.MethodPut, "/v1/contacts/{ref}/accepted", "decide", "Accept or decline who asks to be a contact",
		func(ctx context.Context, in *refBody[acceptedBody]) (node.Contact, error) {
			return n.Decide(ctx, in.Ref, in.Body.Accepted)
		})
	route(s, http.MethodGet, "/v1/contacts/{ref}/safety-number", "safety-number", "What two people compare",
		func(ctx context.Context, in *refInput) (node.SafetyNumber, error) { return n.SafetyNumber(ctx, in.Ref) })
	route(s, http.MethodPut, "/v1/contacts/{ref}/safety-number", "verify", "Mark a contact as verified, if this is its safety number",
		func(ctx context.Context, in *refBody[numberBody]) (node.SafetyNumber, error) {
			return n.SetVerified(ctx, in.Ref, in.Body.Number)
		})
	route(s, http.MethodDelete, "/v1/contacts/{ref}/safety-number", "unverify", "A contact is verified no longer",
		func(ctx context.Context, in *refInput) (node.SafetyNumber, error) { return n.Unverify(ctx, in.Ref) })

	route(s, http.MethodGet, "/v1/conversations", "conversations", "All conversations, the one that changed last first",
		func(ctx context.Context, _ *none) (conversations, error) {
			c, err := n.Conversations(ctx)
			b := bearerOf(ctx)
			c = slices.DeleteFunc(c, func(one node.Conversation) bool { return !b.covers(one.ID) })
			for i := range c {
				if b != nil {
					withoutDraft(&c[i])
				}
			}
			return conversations{list(c)}, err
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}", "conversation", "One conversation",
		func(ctx context.Context, in *refInput) (node.Conversation, error) {
			c, err := n.Conversation(ctx, in.Ref)
			if bearerOf(ctx) != nil {
				withoutDraft(&c)
			}
			return c, err
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/evidence", "evidence", "What the relay has contradicted itself by",
		func(ctx context.Context, in *refInput) (allEvidence, error) {
			e, err := n.Evidence(ctx, in.Ref)
			return allEvidence{list(e)}, err
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/messages", "messages", "Messages, the oldest first",
		func(ctx context.Context, in *struct {
			Ref    string `path:"ref" maxLength:"256"`
			Before string `query:"before" maxLength:"256" doc:"id of a message: the newest before it"`
			After  string `query:"after" maxLength:"256" doc:"id of a message: the oldest after it"`
			Around string `query:"around" maxLength:"256" doc:"id of a message: it, in the middle of others"`
			Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
		}) (messages, error) {
			if in.Before != "" && in.After != "" {
				return messages{}, fmt.Errorf("before together with after is %w", node.ErrInvalid)
			}
			if in.Around != "" {
				if in.Before+in.After != "" {
					return messages{}, fmt.Errorf("around together with before or after is %w", node.ErrInvalid)
				}
				m, err := n.Around(ctx, in.Ref, in.Around, in.Limit)
				return messages{list(m)}, err
			}
			m, err := n.Messages(ctx, in.Ref, in.Before, in.After, in.Limit)
			return messages{list(m)}, err
		})

	route(s, http.MethodPost, "/v1/conversations/{ref}/report", "report", "Make a report of messages, by which a stranger sees who wrote them; nothing is sent",
		func(ctx context.Context, in *refBody[reportBody]) (node.Report, error) {
			return n.Report(ctx, in.Ref, in.Body.Messages, in.Body.Reason)
		})

	route(s, http.MethodGet, "/v1/search", "search", "Search messages, the newest first",
		func(ctx context.Context, in *struct {
			Query  string `query:"q" required:"true" maxLength:"1024" doc:"words, \"phrases\", begin*, -not, from:NAME, in:NAME, before:DATE, after:DATE, has:KIND"`
			In     string `query:"in" maxLength:"256" doc:"a conversation; absent for all"`
			Cursor string `query:"cursor" maxLength:"64" doc:"next of the page before"`
			Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
		}) (node.SearchPage, error) {
			return n.Search(ctx, in.Query, in.In, in.Cursor, in.Limit)
		})

	route(s, http.MethodPost, "/v1/groups", "create-group", "Make a group; contacts are added as soon as the relay can be reached",
		func(ctx context.Context, in *struct{ Body node.GroupOptions }) (node.Conversation, error) {
			return n.CreateGroup(ctx, in.Body)
		})
	route(s, http.MethodGet, "/v1/groups/{ref}", "group", "One group with its members",
		func(ctx context.Context, in *refInput) (node.Group, error) {
			g, err := n.Group(ctx, in.Ref)
			if bearerOf(ctx) != nil {
				withoutDraft(&g.Conversation)
			}
			return g, err
		})
	route(s, http.MethodPatch, "/v1/groups/{ref}", "change-group", "Change a group; it comes about when the relay has taken it",
		func(ctx context.Context, in *refBody[node.GroupChange]) (node.Group, error) {
			return n.ChangeGroup(ctx, in.Ref, in.Body)
		})
	route(s, http.MethodPost, "/v1/groups/{ref}/links", "link-group", "Make a link to a group: who opens it asks to be let in",
		func(ctx context.Context, in *refBody[linkBody]) (node.GroupLink, error) {
			return n.LinkGroup(ctx, in.Ref, time.Duration(in.Body.Expires)*time.Second)
		})
	route(s, http.MethodGet, "/v1/groups/{ref}/links", "group-links", "Links to a group that can be opened; DELETE /v1/invites/{id} ends one",
		func(ctx context.Context, in *refInput) (groupLinks, error) {
			l, err := n.GroupLinks(ctx, in.Ref)
			return groupLinks{list(l)}, err
		})
	route(s, http.MethodGet, "/v1/groups/{ref}/requests", "group-requests", "Who asks to be let into a group",
		func(ctx context.Context, in *refInput) (groupRequests, error) {
			r, err := n.GroupRequests(ctx, in.Ref)
			return groupRequests{list(r)}, err
		})
	route(s, http.MethodPost, "/v1/groups/{ref}/requests", "answer-request", "Let somebody in who asks, or decline",
		func(ctx context.Context, in *refBody[answerBody]) (none, error) {
			return none{}, n.AnswerRequest(ctx, in.Ref, in.Body.Who, in.Body.In)
		})
	route(s, http.MethodPost, "/v1/joinings", "join-group", "Open a link to a group and ask to be let in",
		func(ctx context.Context, in *struct{ Body joinBody }) (node.Joining, error) {
			return n.JoinGroup(ctx, in.Body.Link)
		})
	route(s, http.MethodGet, "/v1/joinings", "joinings", "Groups that were asked to let this account in",
		func(ctx context.Context, _ *none) (joinings, error) {
			j, err := n.Joinings(ctx)
			return joinings{list(j)}, err
		})
	route(s, http.MethodPost, "/v1/groups/{ref}/leave", "leave-group", "Leave a group; its history stays",
		func(ctx context.Context, in *refInput) (none, error) { return none{}, n.LeaveGroup(ctx, in.Ref) })

	s.deviceRoutes()

	route(s, http.MethodGet, "/v1/config", "config", "All settings",
		func(ctx context.Context, _ *none) (settings, error) {
			c, err := n.Config(ctx, "")
			return settings{list(c)}, err
		})
	route(s, http.MethodPut, "/v1/config/{key}", "set-config", "Change a setting",
		func(ctx context.Context, in *struct {
			Key  string `path:"key" maxLength:"256"`
			Body valueBody
		}) (Setting, error) {
			return n.SetConfig(ctx, "", in.Key, in.Body.Value)
		})
	route(s, http.MethodDelete, "/v1/config/{key}", "unset-config", "Let a setting be what it is by default",
		func(ctx context.Context, in *struct {
			Key string `path:"key" maxLength:"256"`
		}) (Setting, error) {
			return n.UnsetConfig(ctx, "", in.Key)
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/config", "conversation-config", "The settings of a conversation",
		func(ctx context.Context, in *refInput) (settings, error) {
			c, err := n.Config(ctx, in.Ref)
			return settings{list(c)}, err
		})
	route(s, http.MethodPut, "/v1/conversations/{ref}/config/{key}", "set-conversation-config", "Change a setting for a conversation",
		func(ctx context.Context, in *struct {
			Ref  string `path:"ref" maxLength:"256"`
			Key  string `path:"key" maxLength:"256"`
			Body valueBody
		}) (Setting, error) {
			return n.SetConfig(ctx, in.Ref, in.Key, in.Body.Value)
		})
	route(s, http.MethodDelete, "/v1/conversations/{ref}/config/{key}", "unset-conversation-config", "Let a setting be for a conversation what it is for all",
		func(ctx context.Context, in *struct {
			Ref string `path:"ref" maxLength:"256"`
			Key string `path:"key" maxLength:"256"`
		}) (Setting, error) {
			return n.UnsetConfig(ctx, in.Ref, in.Key)
		})

	route(s, http.MethodPost, "/v1/tokens", "create-token", "Make a token",
		func(ctx context.Context, in *struct{ Body tokenBody }) (node.Token, error) {
			b := &in.Body
			return n.CreateToken(ctx, node.TokenOptions{Name: b.Name, Read: b.Read, Post: b.Post, Chats: b.Chats, Expires: time.Duration(b.Expires) * time.Second})
		})
	route(s, http.MethodGet, "/v1/tokens", "tokens", "All tokens, without their secrets",
		func(ctx context.Context, _ *none) (tokens, error) {
			t, err := n.Tokens(ctx)
			return tokens{list(t)}, err
		})
	route(s, http.MethodDelete, "/v1/tokens/{token}", "revoke-token", "Make a token useless",
		func(ctx context.Context, in *struct {
			Token string `path:"token" maxLength:"256" doc:"name or id"`
		}) (none, error) {
			return none{}, n.RevokeToken(ctx, in.Token)
		})

	route(s, http.MethodGet, "/v1/events/last", "last-event", "The number of the newest event",
		func(ctx context.Context, _ *none) (lastEvent, error) {
			seq, err := n.LastEvent(ctx)
			return lastEvent{seq}, err
		})
	s.messageRoutes()
	s.streamRoute()
}

// list makes an empty list of none, so that its JSON is [] and not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// route registers a handler that answers with an O, or with nothing if O is none.
func route[I, O any](s *Server, method, path, id, summary string, f func(context.Context, *I) (O, error)) {
	op := s.operation(method, path, id, summary)
	if reflect.TypeFor[O]() == reflect.TypeFor[none]() {
		op.DefaultStatus = http.StatusNoContent
		huma.Register(s.api, op, func(ctx context.Context, in *I) (*none, error) {
			if _, err := f(ctx, in); err != nil {
				return nil, problemOf(err)
			}
			return nil, nil
		})
		return
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*answer[O], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, problemOf(err)
		}
		return &answer[O]{out}, nil
	})
}

func (s *Server) operation(method, path, id, summary string) huma.Operation {
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	return huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary,
		MaxBodyBytes:    maxBody,
		BodyReadTimeout: -1, // guard has read it
		Responses: map[string]*huma.Response{"default": {
			Description: "A problem",
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
		}},
	}
}
