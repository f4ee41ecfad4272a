package api

import (
	"context"
	"net/http"
	"strconv"

	"sotto/node"
)

// Messenger is what the API does with messages.
type Messenger interface {
	// SendMessage makes a message durable here and returns; relays get it as soon as they
	// can be reached.
	SendMessage(ctx context.Context, ref string, m node.NewMessage) (node.Message, error)
	// Messages returns at most limit messages, the oldest first: the newest of the
	// conversation, or the newest before the message named before, or the oldest
	// after the one named after.
	Messages(ctx context.Context, ref, before, after string, limit int) ([]node.Message, error)
	// Message returns a message with its history. An id of a message is its whole id or a
	// beginning of at least 6 letters that fits no other, here and below.
	Message(ctx context.Context, ref, id string) (node.MessageDetails, error)
	EditMessage(ctx context.Context, ref, id, text string, mentions []node.Mention) (node.Message, error)
	// DeleteMessage takes a message away, from all if the caller says so.
	DeleteMessage(ctx context.Context, ref, id string, all bool) (node.Message, error)
	// React makes these the user's reactions to a message, in place of those before.
	React(ctx context.Context, ref, id string, reactions []string) (node.Message, error)
	// Vote makes these options, from 0, the user's in a poll, in place of those before.
	Vote(ctx context.Context, ref, id string, options []int) (node.Message, error)
	ClosePoll(ctx context.Context, ref, id string) (node.Message, error)
	Pin(ctx context.Context, ref, id string, on bool) (node.Message, error)
	Star(ctx context.Context, ref, id string, on bool) (node.Message, error)
	// Marked returns the messages that are pinned, or those that the user has starred.
	Marked(ctx context.Context, ref string, starred bool) ([]node.Message, error)

	// Scheduled returns the texts that are to be sent later.
	Scheduled(ctx context.Context, ref string) ([]node.Scheduled, error)
	Unschedule(ctx context.Context, ref string, id uint64) error

	MarkRead(ctx context.Context, ref string, r node.ReadMark) (node.Conversation, error)
	ChangeConversation(ctx context.Context, ref string, c node.ConversationChange) (node.Conversation, error)
	// Typing tells the others that the user writes.
	Typing(ctx context.Context, ref string) error
}

type (
	messageInput struct {
		Ref string `path:"ref" maxLength:"256" doc:"name, id, or a prefix of the id that fits no other"`
		ID  string `path:"id" maxLength:"64" doc:"id of a message, or a prefix of at least 6 letters that fits no other"`
	}
	messageBody[T any] struct {
		Ref  string `path:"ref" maxLength:"256" doc:"name, id, or a prefix of the id that fits no other"`
		ID   string `path:"id" maxLength:"64" doc:"id of a message, or a prefix of at least 6 letters that fits no other"`
		Body T
	}
	editBody struct {
		Text     string         `json:"text" doc:"at most 61,440 bytes of UTF-8"`
		Mentions []node.Mention `json:"mentions,omitempty"`
	}
	reactionsBody struct {
		Reactions []string `json:"reactions" nullable:"false" doc:"at most 8, of at most 32 bytes; none takes them back"`
	}
	voteBody struct {
		Options []int `json:"options" nullable:"false" doc:"numbers of options, from 0; none takes the vote back"`
	}
	onBody struct {
		On bool `json:"on"`
	}
	scheduledTexts struct {
		Scheduled []node.Scheduled `json:"scheduled" nullable:"false"`
	}
)

func (s *Server) messageRoutes() {
	n := s.node
	const one = "/v1/conversations/{ref}/messages/{id}"
	route(s, http.MethodPost, "/v1/conversations/{ref}/messages", "send", "Send a text, a poll, or a message that is forwarded; it is queued at first",
		func(ctx context.Context, in *refBody[node.NewMessage]) (node.Message, error) {
			m, b := in.Body, bearerOf(ctx)
			if b == nil {
				return n.SendMessage(ctx, in.Ref, m)
			}
			return s.sendFor(ctx, b, in.Ref, m)
		})
	route(s, http.MethodGet, one, "message", "One message with its history",
		func(ctx context.Context, in *messageInput) (node.MessageDetails, error) {
			return n.Message(ctx, in.Ref, in.ID)
		})
	route(s, http.MethodPut, one+"/text", "edit", "Give a text of your own another version",
		func(ctx context.Context, in *messageBody[editBody]) (node.Message, error) {
			return n.EditMessage(ctx, in.Ref, in.ID, in.Body.Text, in.Body.Mentions)
		})
	route(s, http.MethodDelete, one, "delete", "Take a message away, here or from all",
		func(ctx context.Context, in *struct {
			Ref string `path:"ref" maxLength:"256"`
			ID  string `path:"id" maxLength:"64"`
			For string `query:"for" enum:"me,all" default:"me"`
		}) (node.Message, error) {
			return n.DeleteMessage(ctx, in.Ref, in.ID, in.For == "all")
		})
	route(s, http.MethodPut, one+"/reactions", "react", "Your reactions to a message",
		func(ctx context.Context, in *messageBody[reactionsBody]) (node.Message, error) {
			return n.React(ctx, in.Ref, in.ID, in.Body.Reactions)
		})
	route(s, http.MethodPut, one+"/vote", "vote", "Your vote in a poll",
		func(ctx context.Context, in *messageBody[voteBody]) (node.Message, error) {
			return n.Vote(ctx, in.Ref, in.ID, in.Body.Options)
		})
	route(s, http.MethodPost, one+"/close", "close-poll", "End a poll of your own",
		func(ctx context.Context, in *messageInput) (node.Message, error) {
			return n.ClosePoll(ctx, in.Ref, in.ID)
		})
	route(s, http.MethodPut, one+"/pinned", "pin", "Hold a message up to all, or no longer",
		func(ctx context.Context, in *messageBody[onBody]) (node.Message, error) {
			return n.Pin(ctx, in.Ref, in.ID, in.Body.On)
		})
	route(s, http.MethodPut, one+"/starred", "star", "Mark a message for yourself, or no longer",
		func(ctx context.Context, in *messageBody[onBody]) (node.Message, error) {
			return n.Star(ctx, in.Ref, in.ID, in.Body.On)
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/pinned", "pinned", "Messages that are pinned",
		func(ctx context.Context, in *refInput) (messages, error) {
			m, err := n.Marked(ctx, in.Ref, false)
			return messages{list(m)}, err
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/starred", "starred", "Messages that you have starred",
		func(ctx context.Context, in *refInput) (messages, error) {
			m, err := n.Marked(ctx, in.Ref, true)
			return messages{list(m)}, err
		})
	route(s, http.MethodGet, "/v1/conversations/{ref}/scheduled", "scheduled", "Texts that are to be sent later",
		func(ctx context.Context, in *refInput) (scheduledTexts, error) {
			l, err := n.Scheduled(ctx, in.Ref)
			return scheduledTexts{list(l)}, err
		})
	route(s, http.MethodDelete, "/v1/conversations/{ref}/scheduled/{number}", "unschedule", "Take such a text back",
		func(ctx context.Context, in *struct {
			Ref    string `path:"ref" maxLength:"256"`
			Number uint64 `path:"number"`
		}) (none, error) {
			return none{}, n.Unschedule(ctx, in.Ref, in.Number)
		})
	route(s, http.MethodPost, "/v1/conversations/{ref}/read", "read", "Note how far you have read",
		func(ctx context.Context, in *refBody[node.ReadMark]) (node.Conversation, error) {
			return n.MarkRead(ctx, in.Ref, in.Body)
		})
	route(s, http.MethodPost, "/v1/conversations/{ref}/typing", "typing", "Tell the others that you are writing",
		func(ctx context.Context, in *refInput) (none, error) { return none{}, n.Typing(ctx, in.Ref) })
	route(s, http.MethodPatch, "/v1/conversations/{ref}", "change-conversation", "Mute, archive, keep a draft; let messages disappear, for all",
		func(ctx context.Context, in *refBody[node.ConversationChange]) (node.Conversation, error) {
			return n.ChangeConversation(ctx, in.Ref, in.Body)
		})
}

// Send sends a text: see SendMessage.
func (c *Client) Send(ctx context.Context, ref, text string) (node.Message, error) {
	return c.SendMessage(ctx, ref, node.NewMessage{Text: text})
}

// SendMessage sends a message. After [node.ErrUncertain] it may be sent: look before you
// repeat.
func (c *Client) SendMessage(ctx context.Context, ref string, m node.NewMessage) (node.Message, error) {
	return put[node.Message](ctx, c, http.MethodPost, "/v1/conversations/%s/messages", ref, m)
}

// onMessage asks for something to be done with a message.
func onMessage[T any](ctx context.Context, c *Client, method, ref, id, what string, body any) (out T, err error) {
	path, err := at("/v1/conversations/%s/messages/%s", ref, id)
	if err != nil {
		return out, err
	}
	return out, c.call(ctx, method, path+what, body, &out)
}

// Message returns a message with its history.
func (c *Client) Message(ctx context.Context, ref, id string) (node.MessageDetails, error) {
	return onMessage[node.MessageDetails](ctx, c, http.MethodGet, ref, id, "", nil)
}

// EditMessage gives a text another version.
func (c *Client) EditMessage(ctx context.Context, ref, id, text string, mentions []node.Mention) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPut, ref, id, "/text", editBody{text, mentions})
}

// DeleteMessage takes a message away.
func (c *Client) DeleteMessage(ctx context.Context, ref, id string, all bool) (node.Message, error) {
	from := "?for=me"
	if all {
		from = "?for=all"
	}
	return onMessage[node.Message](ctx, c, http.MethodDelete, ref, id, from, nil)
}

// React sets the user's reactions to a message.
func (c *Client) React(ctx context.Context, ref, id string, reactions []string) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPut, ref, id, "/reactions", reactionsBody{list(reactions)})
}

// Vote sets the user's vote in a poll.
func (c *Client) Vote(ctx context.Context, ref, id string, options []int) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPut, ref, id, "/vote", voteBody{list(options)})
}

// ClosePoll ends a poll.
func (c *Client) ClosePoll(ctx context.Context, ref, id string) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPost, ref, id, "/close", nil)
}

// Pin holds a message up to all, or no longer.
func (c *Client) Pin(ctx context.Context, ref, id string, on bool) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPut, ref, id, "/pinned", onBody{on})
}

// Star marks a message, or no longer.
func (c *Client) Star(ctx context.Context, ref, id string, on bool) (node.Message, error) {
	return onMessage[node.Message](ctx, c, http.MethodPut, ref, id, "/starred", onBody{on})
}

// Marked returns messages that are pinned, or starred.
func (c *Client) Marked(ctx context.Context, ref string, starred bool) ([]node.Message, error) {
	format := "/v1/conversations/%s/pinned"
	if starred {
		format = "/v1/conversations/%s/starred"
	}
	out, err := getAt[messages](ctx, c, format, ref)
	return out.Messages, err
}

// Scheduled returns the texts that are to be sent later.
func (c *Client) Scheduled(ctx context.Context, ref string) ([]node.Scheduled, error) {
	out, err := getAt[scheduledTexts](ctx, c, "/v1/conversations/%s/scheduled", ref)
	return out.Scheduled, err
}

// Unschedule takes such a text back.
func (c *Client) Unschedule(ctx context.Context, ref string, id uint64) error {
	path, err := at("/v1/conversations/%s/scheduled/%s", ref, strconv.FormatUint(id, 10))
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// MarkRead notes how far the user has read.
func (c *Client) MarkRead(ctx context.Context, ref string, r node.ReadMark) (node.Conversation, error) {
	return put[node.Conversation](ctx, c, http.MethodPost, "/v1/conversations/%s/read", ref, r)
}

// ChangeConversation changes what the user has noted of a conversation, and its timer.
func (c *Client) ChangeConversation(ctx context.Context, ref string, change node.ConversationChange) (node.Conversation, error) {
	return put[node.Conversation](ctx, c, http.MethodPatch, "/v1/conversations/%s", ref, change)
}

// Typing tells the others that the user writes.
func (c *Client) Typing(ctx context.Context, ref string) error {
	path, err := at("/v1/conversations/%s/typing", ref)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, nil)
}
