package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sotto/node"
)

// Client speaks to the node of a home. Its methods are those of [Node], and return
// the node's errors so that errors.Is tells them apart; beside these
// [ErrNotRunning], the context's error, and [node.ErrUncertain] when the connection
// was lost while the node was asked to change something. It may be used by several
// goroutines.
type Client struct {
	home  string
	token string
	http  *http.Client
}

// NewClient returns a client of the node whose home that is. It does not connect
// yet.
func NewClient(home string) *Client {
	c := &Client{home: home}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:        c.dial,
			DisableCompression: true,
			MaxIdleConns:       4,
			IdleConnTimeout:    time.Minute,
			// An answer's head comes when the node has done what was asked.
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// UseToken makes the client show a token with each request, and be bound by it. It is
// called before the first.
func (c *Client) UseToken(secret string) { c.token = secret }

// Close ends the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	path, err := socketPath(c.home)
	if err != nil {
		return nil, &dialError{err}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, &dialError{ErrNotRunning}
	} else if err != nil {
		return nil, &dialError{err}
	}
	if err := checkPeer(conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, &dialError{err}
	}
	return conn, nil
}

// dialError says why there is no connection: nothing was asked yet.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// ask sends a request. The caller closes the answer's body.
func (c *Client) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader = http.NoBody
	if body != nil {
		var b bytes.Buffer
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			return nil, err
		}
		if b.Len() > maxBody {
			return nil, fmt.Errorf("a request of %d bytes is %w", b.Len(), node.ErrTooLarge)
		}
		content = &b
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sotto"+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err == nil {
		return res, nil
	}
	var dial *dialError
	dialing := errors.As(err, &dial)
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case dialing:
		return nil, dial.err
	default:
		if u := new(url.Error); errors.As(err, &u) {
			err = u.Err // without the address, which says nothing to anybody
		}
		err = fmt.Errorf("%w: %v", ErrStopped, err)
	}
	if method != http.MethodGet && !dialing {
		return nil, fmt.Errorf("%w: %w", node.ErrUncertain, err)
	}
	return nil, err
}

// call sends a request and reads the answer into out, which may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	res, err := c.ask(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return readProblem(res)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		err = fmt.Errorf("read the node's answer: %w", err)
		if method != http.MethodGet {
			return fmt.Errorf("%w: %w", node.ErrUncertain, err)
		}
		return err
	}
	return nil
}

// Do sends a request as it is, its body JSON or nil, and returns the answer's status and
// body, a [Problem] or not. What is a stream cannot be asked for.
func (c *Client) Do(ctx context.Context, method, path string, body json.RawMessage) (status int, answer json.RawMessage, err error) {
	if !strings.HasPrefix(path, "/v1/") {
		return 0, nil, fmt.Errorf("the path %.64q is %w: it begins with /v1/", path, node.ErrInvalid)
	}
	var in any
	if len(body) > 0 {
		in = body
	}
	res, err := c.ask(ctx, method, path, in)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return 0, nil, fmt.Errorf("%s is a stream, and no answer to one request: %w", path, node.ErrInvalid)
	}
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		err = fmt.Errorf("read the node's answer: %w", err)
		if method != http.MethodGet {
			err = fmt.Errorf("%w: %w", node.ErrUncertain, err)
		}
		return 0, nil, err
	}
	if len(answer) > 0 && !json.Valid(answer) {
		return 0, nil, fmt.Errorf("the node's answer is no JSON: %s", res.Status)
	}
	return res.StatusCode, bytes.TrimSpace(answer), nil
}

func readProblem(res *http.Response) error {
	var p Problem
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&p); err != nil || p.Code == "" {
		return problem(res.StatusCode, codeInternal, "the node answered "+res.Status)
	}
	return &p
}

func get[T any](ctx context.Context, c *Client, path string) (out T, err error) {
	return out, c.call(ctx, http.MethodGet, path, nil, &out)
}

// escape makes one segment of a path of s. Segments of dots alone would be taken for
// directions.
func escape(s string) string {
	if strings.Trim(s, ".") == "" {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// at returns a path in which each %s is one segment. An empty one names nothing.
func at(format string, segments ...string) (string, error) {
	args := make([]any, len(segments))
	for i, s := range segments {
		if s == "" {
			return "", fmt.Errorf("an empty name: %w", node.ErrNotFound)
		}
		args[i] = escape(s)
	}
	return fmt.Sprintf(format, args...), nil
}

func getAt[T any](ctx context.Context, c *Client, format, ref string) (out T, err error) {
	path, err := at(format, ref)
	if err != nil {
		return out, err
	}
	return get[T](ctx, c, path)
}

func put[T any](ctx context.Context, c *Client, method, format, ref string, body any) (out T, err error) {
	path, err := at(format, ref)
	if err != nil {
		return out, err
	}
	return out, c.call(ctx, method, path, body, &out)
}

// Status returns the node's state at a glance.
func (c *Client) Status(ctx context.Context) (node.Status, error) {
	return get[node.Status](ctx, c, "/v1/status")
}

// Invite makes a link.
func (c *Client) Invite(ctx context.Context, o InviteOptions) (out node.Invite, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/invites", inviteBody{int64(o.Expires / time.Second), o.Name, o.Ask}, &out)
}

// Invites returns the invites that can still be used.
func (c *Client) Invites(ctx context.Context) ([]node.Invite, error) {
	out, err := get[invites](ctx, c, "/v1/invites")
	return out.Invites, err
}

// RevokeInvite makes a link useless.
func (c *Client) RevokeInvite(ctx context.Context, id string) error {
	path, err := at("/v1/invites/%s", id)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// Accept opens an invite.
func (c *Client) Accept(ctx context.Context, link, name string) (out node.Contact, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/contacts", acceptBody{link, name}, &out)
}

// Contacts returns all contacts.
func (c *Client) Contacts(ctx context.Context) ([]node.Contact, error) {
	out, err := get[contacts](ctx, c, "/v1/contacts")
	return out.Contacts, err
}

// Contact returns one contact.
func (c *Client) Contact(ctx context.Context, ref string) (node.Contact, error) {
	return getAt[node.Contact](ctx, c, "/v1/contacts/%s", ref)
}

// Rename calls a contact otherwise.
func (c *Client) Rename(ctx context.Context, ref, name string) (node.Contact, error) {
	return put[node.Contact](ctx, c, http.MethodPut, "/v1/contacts/%s/name", ref, nameBody{name})
}

// Block blocks a contact, or no longer.
func (c *Client) Block(ctx context.Context, ref string, blocked bool) (node.Contact, error) {
	return put[node.Contact](ctx, c, http.MethodPut, "/v1/contacts/%s/blocked", ref, blockedBody{blocked})
}

// Decide accepts or declines who asks to be a contact.
func (c *Client) Decide(ctx context.Context, ref string, accept bool) (node.Contact, error) {
	return put[node.Contact](ctx, c, http.MethodPut, "/v1/contacts/%s/accepted", ref, acceptedBody{accept})
}

// SafetyNumber returns what two people compare.
func (c *Client) SafetyNumber(ctx context.Context, ref string) (node.SafetyNumber, error) {
	return getAt[node.SafetyNumber](ctx, c, "/v1/contacts/%s/safety-number", ref)
}

// Unverify takes SetVerified back.
func (c *Client) Unverify(ctx context.Context, ref string) (node.SafetyNumber, error) {
	return put[node.SafetyNumber](ctx, c, http.MethodDelete, "/v1/contacts/%s/safety-number", ref, nil)
}

// Report makes a report of messages that others wrote; nothing is sent.
func (c *Client) Report(ctx context.Context, ref string, messages []string, reason string) (node.Report, error) {
	return put[node.Report](ctx, c, http.MethodPost, "/v1/conversations/%s/report", ref, reportBody{messages, reason})
}

// SetVerified marks a contact as verified if number is its safety number or the
// safety code that it shows.
func (c *Client) SetVerified(ctx context.Context, ref, number string) (node.SafetyNumber, error) {
	return put[node.SafetyNumber](ctx, c, http.MethodPut, "/v1/contacts/%s/safety-number", ref, numberBody{number})
}

// Conversations returns all conversations.
func (c *Client) Conversations(ctx context.Context) ([]node.Conversation, error) {
	out, err := get[conversations](ctx, c, "/v1/conversations")
	return out.Conversations, err
}

// Conversation returns one conversation.
func (c *Client) Conversation(ctx context.Context, ref string) (node.Conversation, error) {
	return getAt[node.Conversation](ctx, c, "/v1/conversations/%s", ref)
}

// Messages returns messages of a conversation; limit is at most [MaxMessages], and 0
// means [DefaultMessages].
func (c *Client) Messages(ctx context.Context, ref, before, after string, limit int) ([]node.Message, error) {
	q := url.Values{}
	for name, v := range map[string]string{"before": before, "after": after} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	path, err := at("/v1/conversations/%s/messages", ref)
	if err != nil {
		return nil, err
	}
	out, err := get[messages](ctx, c, path+"?"+q.Encode())
	return out.Messages, err
}

// Evidence returns what a conversation's relay has contradicted itself by.
func (c *Client) Evidence(ctx context.Context, ref string) ([]node.Evidence, error) {
	out, err := getAt[allEvidence](ctx, c, "/v1/conversations/%s/evidence", ref)
	return out.Evidence, err
}

// Around returns messages of a conversation with one in their middle.
func (c *Client) Around(ctx context.Context, ref, id string, limit int) ([]node.Message, error) {
	path, err := at("/v1/conversations/%s/messages", ref)
	if err != nil {
		return nil, err
	}
	q := url.Values{"around": {id}, "limit": {strconv.Itoa(limit)}}
	out, err := get[messages](ctx, c, path+"?"+q.Encode())
	return out.Messages, err
}

// Search looks for messages; limit is at most [MaxMessages].
func (c *Client) Search(ctx context.Context, query, in, cursor string, limit int) (node.SearchPage, error) {
	q := url.Values{"q": {query}, "limit": {strconv.Itoa(limit)}}
	for name, v := range map[string]string{"in": in, "cursor": cursor} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return get[node.SearchPage](ctx, c, "/v1/search?"+q.Encode())
}

// CreateGroup makes a group.
func (c *Client) CreateGroup(ctx context.Context, o node.GroupOptions) (out node.Conversation, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/groups", o, &out)
}

// Group returns a group with its members.
func (c *Client) Group(ctx context.Context, ref string) (node.Group, error) {
	return getAt[node.Group](ctx, c, "/v1/groups/%s", ref)
}

// ChangeGroup changes a group.
func (c *Client) ChangeGroup(ctx context.Context, ref string, g node.GroupChange) (node.Group, error) {
	return put[node.Group](ctx, c, http.MethodPatch, "/v1/groups/%s", ref, g)
}

// LeaveGroup leaves a group.
func (c *Client) LeaveGroup(ctx context.Context, ref string) error {
	path, err := at("/v1/groups/%s/leave", ref)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

// LinkGroup makes a link to a group.
func (c *Client) LinkGroup(ctx context.Context, ref string, expires time.Duration) (node.GroupLink, error) {
	return put[node.GroupLink](ctx, c, http.MethodPost, "/v1/groups/%s/links", ref, linkBody{int64(expires / time.Second)})
}

// GroupLinks returns the links to a group that can be opened.
func (c *Client) GroupLinks(ctx context.Context, ref string) ([]node.GroupLink, error) {
	out, err := getAt[groupLinks](ctx, c, "/v1/groups/%s/links", ref)
	return out.Links, err
}

// GroupRequests returns who asks to be let into a group.
func (c *Client) GroupRequests(ctx context.Context, ref string) ([]node.GroupRequest, error) {
	out, err := getAt[groupRequests](ctx, c, "/v1/groups/%s/requests", ref)
	return out.Requests, err
}

// AnswerRequest lets somebody in who asks, or declines.
func (c *Client) AnswerRequest(ctx context.Context, ref, who string, in bool) error {
	path, err := at("/v1/groups/%s/requests", ref)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, answerBody{who, in}, nil)
}

// JoinGroup opens a link to a group and asks to be let in.
func (c *Client) JoinGroup(ctx context.Context, link string) (out node.Joining, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/joinings", joinBody{link}, &out)
}

// Joinings returns the groups that were asked to let this account in.
func (c *Client) Joinings(ctx context.Context) ([]node.Joining, error) {
	out, err := get[joinings](ctx, c, "/v1/joinings")
	return out.Joinings, err
}

// LastEvent returns the number of the newest event.
func (c *Client) LastEvent(ctx context.Context) (uint64, error) {
	out, err := get[lastEvent](ctx, c, "/v1/events/last")
	return out.Seq, err
}

// Events returns what has happened after the event numbered after, and goes on with
// what comes. It ends with an error: the context's, [ErrStopped] when the node has
// stopped, or what went wrong. A reader goes on later after the last Seq it has
// dealt with, and ignores types of events that it does not know.
func (c *Client) Events(ctx context.Context, after uint64) iter.Seq2[node.Event, error] {
	return func(yield func(node.Event, error) bool) {
		res, err := c.ask(ctx, http.MethodGet, "/v1/events"+afterQuery(after), nil)
		if err != nil {
			yield(node.Event{}, err)
			return
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			yield(node.Event{}, readProblem(res))
			return
		}
		enough := false
		err = readStream(res.Body, func(e node.Event) bool {
			enough = !yield(e, nil)
			return !enough
		})
		if enough {
			return
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrStopped
		}
		yield(node.Event{}, err)
	}
}

// Config returns all settings, or those of a conversation if chat names one.
func (c *Client) Config(ctx context.Context, chat string) ([]Setting, error) {
	path, err := configPath(chat)
	if err != nil {
		return nil, err
	}
	out, err := get[settings](ctx, c, path)
	return out.Settings, err
}

// SetConfig changes a setting.
func (c *Client) SetConfig(ctx context.Context, chat, key, value string) (Setting, error) {
	return changeConfig(ctx, c, http.MethodPut, chat, key, valueBody{value})
}

// UnsetConfig lets a setting be what it is when nothing is set.
func (c *Client) UnsetConfig(ctx context.Context, chat, key string) (Setting, error) {
	return changeConfig(ctx, c, http.MethodDelete, chat, key, nil)
}

func changeConfig(ctx context.Context, c *Client, method, chat, key string, body any) (Setting, error) {
	path, err := configPath(chat)
	if err != nil {
		return Setting{}, err
	}
	if key == "" {
		return Setting{}, fmt.Errorf("a setting without a name is %w", node.ErrInvalid)
	}
	var out Setting
	err = c.call(ctx, method, path+"/"+escape(key), body, &out)
	return out, err
}

// configPath returns where the settings of a conversation are, or of all if chat is
// empty.
func configPath(chat string) (string, error) {
	if chat == "" {
		return "/v1/config", nil
	}
	return at("/v1/conversations/%s/config", chat)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, o node.TokenOptions) (out node.Token, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/tokens", tokenBody{o.Name, o.Read, o.Post, o.Chats, int64((o.Expires + time.Second - 1) / time.Second)}, &out)
}

// Tokens returns all tokens.
func (c *Client) Tokens(ctx context.Context) ([]node.Token, error) {
	out, err := get[tokens](ctx, c, "/v1/tokens")
	return out.Tokens, err
}

// RevokeToken makes a token useless.
func (c *Client) RevokeToken(ctx context.Context, ref string) error {
	path, err := at("/v1/tokens/%s", ref)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// Doctor looks for what is wrong.
func (c *Client) Doctor(ctx context.Context) ([]node.Check, error) {
	out, err := get[checks](ctx, c, "/v1/doctor")
	return out.Checks, err
}

// Shutdown asks the node to stop and returns at once; [WaitFree] waits until it has.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/shutdown", nil, nil)
}
