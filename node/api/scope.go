package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sotto/node"
)

var (
	// ErrBadToken says that a request showed a token that is not known, was revoked or
	// has expired.
	ErrBadToken = errors.New("the token is not valid")
	// ErrNotPermitted says that a token does not permit what was asked.
	ErrNotPermitted = errors.New("the token does not permit it")
)

// right is what a route asks of a token.
type right int

const (
	owner right = iota // nobody's who shows a token
	reads
	posts
	both
)

// scope says what a token must permit for a route.
type scope struct {
	right right
	chat  bool // in the conversation that the path names; otherwise the answer shows only what the token permits
}

// scopes has every route by its operation's id. One that is not here is the owner's.
var scopes = map[string]scope{
	"status": {owner, false}, "shutdown": {owner, false}, "doctor": {owner, false},
	"invite": {owner, false}, "invites": {owner, false}, "revoke-invite": {owner, false},
	"accept": {owner, false}, "contacts": {owner, false}, "contact": {owner, false}, "rename": {owner, false}, "block": {owner, false},
	"safety-number": {owner, false}, "verify": {owner, false}, "unverify": {owner, false}, "report": {owner, false}, "evidence": {owner, false},

	"conversations": {reads, false},
	"conversation":  {reads, true},
	"messages":      {reads, true},
	"message":       {reads, true},
	"pinned":        {reads, true},
	"send":          {posts, true},
	"typing":        {posts, true},
	"react":         {both, true}, // these are answered with the message
	"vote":          {both, true},

	// What a person has written, marked or read is theirs.
	"edit": {owner, false}, "delete": {owner, false}, "close-poll": {owner, false}, "pin": {owner, false}, "star": {owner, false}, "starred": {owner, false},
	"scheduled": {owner, false}, "unschedule": {owner, false}, "read": {owner, false}, "change-conversation": {owner, false},

	"link-group": {owner, false}, "group-links": {owner, false}, "group-requests": {owner, false}, "answer-request": {owner, false}, "join-group": {owner, false}, "joinings": {owner, false},
	"create-group": {owner, false}, "change-group": {owner, false}, "leave-group": {owner, false},
	"group": {reads, true},

	"config": {owner, false}, "set-config": {owner, false}, "unset-config": {owner, false},
	"conversation-config": {owner, false}, "set-conversation-config": {owner, false}, "unset-conversation-config": {owner, false},
	"create-token": {owner, false}, "tokens": {owner, false}, "revoke-token": {owner, false},

	"decide": {owner, false}, "search": {owner, false},

	"events": {reads, false}, "last-event": {reads, false},
}

// shown has every type of event: what of it the bearer of a token that reads may see, and
// the conversation that it is about; nil is for the owner alone.
var shown = map[string]func(e, out *node.Event) (chat string){
	node.EventMessage: func(e, out *node.Event) string {
		out.Message = e.Message
		return e.Message.Conversation
	},
	node.EventConversation: func(e, out *node.Event) string {
		c := *e.Conversation
		withoutDraft(&c)
		out.Conversation = &c
		return c.ID
	},
	node.EventContact: nil,
	node.EventNotice:  nil,
	node.EventSetting: nil,
	node.EventToken:   nil,
	node.EventSkipped: nil, // the server itself makes these
}

// withoutDraft takes from a conversation what its owner has written and not sent.
func withoutDraft(c *node.Conversation) { c.Draft = nil }

// bearer is the token that a request has shown.
type bearer struct {
	node.Token
	secret string
}

type bearerKey struct{}

// bearerOf returns what a request's token is, nil if it showed none.
func bearerOf(ctx context.Context) *bearer {
	b, _ := ctx.Value(bearerKey{}).(*bearer)
	return b
}

// identify finds the token that a request shows, and returns the request with it.
func (s *Server) identify(r *http.Request) (*http.Request, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return r, nil
	}
	kind, secret, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(kind, "Bearer") || secret == "" {
		return nil, fmt.Errorf("%w: what is wanted is one header Authorization: Bearer TOKEN", ErrBadToken)
	}
	b, err := s.bearer(r.Context(), secret)
	if err != nil {
		return nil, err
	}
	return r.WithContext(context.WithValue(r.Context(), bearerKey{}, b)), nil
}

func (s *Server) bearer(ctx context.Context, secret string) (*bearer, error) {
	t, err := s.node.Bearer(ctx, secret)
	if errors.Is(err, node.ErrNotFound) {
		return nil, fmt.Errorf("%w: it is not known, was revoked or has expired", ErrBadToken)
	}
	if err != nil {
		return nil, err
	}
	return &bearer{t, secret}, nil
}

// permit lets through what a request's token permits.
func (s *Server) permit(ctx huma.Context, next func(huma.Context)) {
	b := bearerOf(ctx.Context())
	if b == nil {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	need := scopes[ctx.Operation().OperationID]
	if err := b.may(need.right); err != nil {
		s.complain(w, problemOf(err))
		return
	}
	if need.chat && len(b.Chats) > 0 {
		// What there is beside its conversations is not told either. From here on the
		// conversation goes by its id: a name may come to mean another.
		c, err := s.node.Conversation(ctx.Context(), ctx.Param("ref"))
		if err != nil || !b.covers(c.ID) {
			s.complain(w, problemOf(fmt.Errorf("%w: it is for other conversations", ErrNotPermitted)))
			return
		}
		r.SetPathValue("ref", c.ID)
	}
	next(ctx)
}

func (b *bearer) may(what right) error {
	switch {
	case what == reads && b.Read || what == posts && b.Post || what == both && b.Read && b.Post:
		return nil
	case what == reads || what == both && !b.Read:
		return fmt.Errorf("%w: it does not read", ErrNotPermitted)
	case what == posts || what == both:
		return fmt.Errorf("%w: it does not post", ErrNotPermitted)
	}
	return fmt.Errorf("%w: this is for who shows no token", ErrNotPermitted)
}

// covers reports whether a token is for a conversation. A nil bearer is for all.
func (b *bearer) covers(chat string) bool {
	return b == nil || len(b.Chats) == 0 || slices.ContainsFunc(b.Chats, func(c node.TokenChat) bool { return c.ID == chat })
}

// sees returns what of an event the bearer may see, if anything.
func (b *bearer) sees(e node.Event) (node.Event, bool) {
	if b == nil {
		return e, true
	}
	show := shown[e.Type]
	if show == nil {
		return node.Event{}, false
	}
	out := node.Event{Seq: e.Seq, Time: e.Time, Type: e.Type}
	chat := show(&e, &out)
	return out, b.covers(chat)
}

// sendFor sends a message for the bearer of a token that posts there.
func (s *Server) sendFor(ctx context.Context, b *bearer, ref string, m node.NewMessage) (node.Message, error) {
	if m.Key != "" {
		m.Key = b.ID + "/" + m.Key // two bots may take the same
	}
	if f := m.Forward; f != nil {
		// What it forwards it must be able to read.
		if err := b.may(reads); err != nil {
			return node.Message{}, err
		}
		c, err := s.node.Conversation(ctx, f.Conversation)
		if len(b.Chats) > 0 && (err != nil || !b.covers(c.ID)) {
			return node.Message{}, fmt.Errorf("%w: it is for other conversations", ErrNotPermitted)
		}
		if err != nil {
			return node.Message{}, err
		}
		m.Forward = &node.Forward{Conversation: c.ID, Message: f.Message}
	}
	out, err := s.node.SendMessage(ctx, ref, m)
	if !b.Read {
		out.ReplyTo = nil // it would tell what another wrote
	}
	return out, err
}
