// Package api is the local API of a node (spec/api.md): HTTP with JSON over a unix
// socket that only its owner can use. The command line and bots are its clients.
//
// # Who may use it
//
// Whoever runs as the user that runs the node: the socket has mode 0600, lies in a
// folder of mode 0700, and both ends ask the kernel who is at the other. Who shows a
// token may do what that permits, who shows none everything. There is nothing for
// browsers: requests that carry Origin, Referer or Sec-Fetch headers, or another Host
// than "sotto" or "localhost", are refused, and no answer allows another origin.
//
// # A node's side
//
//	lock, err := api.Lock(home) // one node a home; node.ErrBusy
//	l, err := lock.Listen()
//	s := api.NewServer(n, version, logger)
//	go s.Serve(l)
//	…
//	s.Close()   // ends streams, waits for requests
//	lock.Close() // last, when the vault is closed
//
// # A client's side
//
// [Client] has the methods of [Node]. An error of the node's can be told on the
// client's side as on the other: errors.Is(err, node.ErrNotFound).
package api

import (
	"context"
	"iter"
	"time"

	"sotto/node"
)

// Node is what the API shows: *node.Node, and in other tests a scripted one. A ref
// names a contact or conversation: its name, its id, or a prefix of the id that fits
// no other; [node.ErrNotFound] and [node.ErrAmbiguous] are about it. The context of
// a call ends with the request.
type Node interface {
	Status(ctx context.Context) (node.Status, error)

	// Invite makes a link. The link is in this answer and in no other.
	Invite(ctx context.Context, o InviteOptions) (node.Invite, error)
	// Invites returns the invites that can still be used, the oldest first.
	Invites(ctx context.Context) ([]node.Invite, error)
	RevokeInvite(ctx context.Context, id string) error

	// Accept opens an invite. It returns as soon as that is durable here; the
	// contact is pending then. An empty name lets the inviter's profile name stand.
	Accept(ctx context.Context, link, name string) (node.Contact, error)
	Contacts(ctx context.Context) ([]node.Contact, error)
	Contact(ctx context.Context, ref string) (node.Contact, error)
	Rename(ctx context.Context, ref, name string) (node.Contact, error)
	Block(ctx context.Context, ref string, blocked bool) (node.Contact, error)
	// Decide makes a contact of who asks to be one, or forgets them. They are not told.
	Decide(ctx context.Context, ref string, accept bool) (node.Contact, error)
	SafetyNumber(ctx context.Context, ref string) (node.SafetyNumber, error)
	// Unverify takes SetVerified back.
	Unverify(ctx context.Context, ref string) (node.SafetyNumber, error)
	// SetVerified marks a contact as verified if number is the safety number, 60
	// digits, or the safety code that the contact shows; [node.ErrNotTrusted] if not.
	SetVerified(ctx context.Context, ref, number string) (node.SafetyNumber, error)

	// Report makes a report of messages that others wrote; nothing is sent.
	Report(ctx context.Context, ref string, messages []string, reason string) (node.Report, error)

	// Conversations returns all of them, the one that changed last first.
	Conversations(ctx context.Context) ([]node.Conversation, error)
	Conversation(ctx context.Context, ref string) (node.Conversation, error)
	// Evidence returns what a conversation's relay has contradicted itself by.
	Evidence(ctx context.Context, ref string) ([]node.Evidence, error)
	Messenger

	// Around returns at most limit messages, the oldest first, with one in their middle.
	Around(ctx context.Context, ref, id string, limit int) ([]node.Message, error)
	// Search looks for messages in one conversation, or in all if in is empty.
	Search(ctx context.Context, query, in, cursor string, limit int) (node.SearchPage, error)

	// CreateGroup makes a group; its members are added as soon as the relay can be reached.
	CreateGroup(ctx context.Context, o node.GroupOptions) (node.Conversation, error)
	Group(ctx context.Context, ref string) (node.Group, error)
	// ChangeGroup notes a change and returns the group as it stands: the change comes
	// about when the relay has taken it.
	ChangeGroup(ctx context.Context, ref string, g node.GroupChange) (node.Group, error)
	LeaveGroup(ctx context.Context, ref string) error

	// LinkGroup makes a link to a group; GroupLinks lists those that can be opened, and
	// RevokeInvite ends one.
	LinkGroup(ctx context.Context, ref string, expires time.Duration) (node.GroupLink, error)
	GroupLinks(ctx context.Context, ref string) ([]node.GroupLink, error)
	// JoinGroup opens a link and asks to be let in.
	JoinGroup(ctx context.Context, link string) (node.Joining, error)
	Joinings(ctx context.Context) ([]node.Joining, error)
	GroupRequests(ctx context.Context, ref string) ([]node.GroupRequest, error)
	// AnswerRequest lets somebody in who asks, or declines.
	AnswerRequest(ctx context.Context, ref, who string, in bool) error

	// Devices returns the account's devices, the oldest first. A ref of a device is its name,
	// its id or a prefix of that, or "this".
	Devices(ctx context.Context) ([]node.Device, error)
	RenameDevice(ctx context.Context, ref, name string) (node.Device, error)
	VerifyDevice(ctx context.Context, ref, fingerprint string) (node.Device, error)
	SuspendDevice(ctx context.Context, ref string) (node.Device, error)
	// RevokeDevice and RestoreDevice take the account key, which the passphrase opens.
	RevokeDevice(ctx context.Context, ref string, passphrase []byte) (node.Device, error)
	RestoreDevice(ctx context.Context, ref string, passphrase []byte) (node.Device, error)

	// LinkDevice makes a link to enter at a new device; it is in this answer and no other.
	LinkDevice(ctx context.Context) (node.DeviceLink, error)
	Link(ctx context.Context) (node.DeviceLink, error)
	// ConfirmLink takes the digits that the new device shows; others end the link.
	ConfirmLink(ctx context.Context, digits string, passphrase []byte) (node.DeviceLink, error)
	CancelLink(ctx context.Context) error

	// Events returns what has happened after the event numbered after, first what
	// is there, then what comes, until ctx ends or an error is yielded.
	Events(ctx context.Context, after uint64) iter.Seq2[node.Event, error]
	// LastEvent returns the number of the newest event, 0 if there is none.
	LastEvent(ctx context.Context) (uint64, error)

	// Config returns all settings, or those of a conversation if chat names one.
	Config(ctx context.Context, chat string) ([]Setting, error)
	SetConfig(ctx context.Context, chat, key, value string) (Setting, error)
	UnsetConfig(ctx context.Context, chat, key string) (Setting, error)
	// CreateToken makes a token. Its secret is in this answer and in no other.
	CreateToken(ctx context.Context, o node.TokenOptions) (node.Token, error)
	Tokens(ctx context.Context) ([]node.Token, error)
	RevokeToken(ctx context.Context, ref string) error
	// Bearer returns the token with this secret; [node.ErrNotFound] if it is not valid.
	Bearer(ctx context.Context, secret string) (node.Token, error)

	Doctor(ctx context.Context) ([]node.Check, error)

	// Shutdown asks the node to stop and returns at once.
	Shutdown()
}

// Limits of the API.
const (
	// MaxMessages is the largest limit of Messages; DefaultMessages is what 0 means.
	MaxMessages     = 200
	DefaultMessages = 50

	maxBody     = 512 << 10 // of a request; a text of node.MaxText bytes, escaped, fits
	maxHeader   = 16 << 10
	maxStreams  = 64        // event streams at once
	maxHidden   = 1000      // events that a token does not show, before its reader hears of them
	maxAnswer   = 128 << 20 // of an answer: MaxMessages texts, escaped, fit
	maxEvent    = 2 << 20   // of one line of a stream
	bodyTime    = 10 * time.Second
	writeTime   = time.Minute // for a client to take an event
	closingTime = 5 * time.Second
)
