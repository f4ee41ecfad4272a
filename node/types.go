package node

import (
	"errors"
	"time"
)

// The types below are what the local API shows, in JSON, and nothing of them
// is secret to who may use it. Times are UTC.

// Status is a node at a glance.
type Status struct {
	Version  string        `json:"version"`
	Name     string        `json:"name" doc:"profile name, shown to contacts"`
	Account  string        `json:"account" doc:"account id"`
	Device   string        `json:"device" doc:"id of this device"`
	Started  time.Time     `json:"started"`
	Relays   []RelayStatus `json:"relays" doc:"relays this node uses, its own first"`
	Queued   int           `json:"queued" doc:"messages that no relay has stored yet"`
	Contacts int           `json:"contacts"`
	Pending  int           `json:"pending" doc:"contacts that are not complete yet"`
	Frozen   int           `json:"frozen" doc:"conversations in which nothing is sent until you have looked"`
	Search   *SearchStatus `json:"search,omitempty" doc:"how far the search index is, while it is being made"`
	FreeDisk uint64        `json:"free_disk" doc:"bytes free where the vault lies"`
	History  *History      `json:"history,omitempty" doc:"what another device of yours hands over to this one"`
	Problem  string        `json:"problem,omitempty" doc:"what keeps the node from working, and what to do"`
}

// RelayStatus is the state of the connection to one relay.
type RelayStatus struct {
	Address  string `json:"address"`
	State    string `json:"state" enum:"connected,connecting,waiting" doc:"waiting: between two tries"`
	Words    string `json:"words" doc:"the same in a sentence"`
	RetryIn  int    `json:"retry_in,omitempty" doc:"seconds until the next try"`
	Embedded bool   `json:"embedded,omitempty" doc:"the relay inside this node"`
	Own      bool   `json:"own,omitempty" doc:"new mailboxes of this node are made here"`
}

// Invite is a link to hand over.
type Invite struct {
	ID      string    `json:"id"`
	Link    string    `json:"link,omitempty" doc:"the link; shown once"`
	Expires time.Time `json:"expires"`
	Reach   string    `json:"reach" enum:"anyone,network,machine" doc:"who can reach the relay it names"`
	Taken   time.Time `json:"taken,omitzero" doc:"when somebody took it from the relay who has not answered yet"`
	Words   string    `json:"words,omitempty" doc:"what to know before handing it over"`
}

// Contact states.
const (
	ContactPending     = "pending"     // the handshake is under way
	ContactEstablished = "established" // both sides have heard each other
	ContactFailed      = "failed"      // the handshake came to nothing; Reason says why
	ContactRequested   = "requested"   // they have opened an invite that asks: Decide about them
)

// Causes of a contact's reason: codes of problems (spec/api.md, section 4).
const (
	CauseGone        = "gone"        // the invite was used, revoked or has expired
	CauseNotTrusted  = "not_trusted" // bytes that do not hold, or another relay
	CauseUnreachable = "unreachable" // the relay is not there now
	CauseInvalid     = "invalid"     // not for this node
	CauseExists      = "exists"      // a contact already
)

// Contact is an account that this one has met.
type Contact struct {
	ID           string    `json:"id" doc:"account id; while a contact that was invited is pending, a provisional id"`
	Name         string    `json:"name" doc:"what you call them; unique"`
	Profile      string    `json:"profile,omitempty" doc:"what they call themselves"`
	State        string    `json:"state" enum:"pending,established,failed,requested"`
	Reason       string    `json:"reason,omitempty" doc:"why it failed, or what it waits for"`
	Cause        string    `json:"cause,omitempty" enum:"gone,not_trusted,unreachable,invalid,exists" doc:"what is wrong, by the code of a problem; none while all goes well"`
	Blocked      bool      `json:"blocked,omitempty"`
	Verified     bool      `json:"verified,omitempty" doc:"you have compared safety numbers"`
	Changed      bool      `json:"changed,omitempty" doc:"you had compared safety numbers, and their account key is another since"`
	Conversation string    `json:"conversation,omitempty"`
	Since        time.Time `json:"since"`
}

// SafetyNumber is what two people compare.
type SafetyNumber struct {
	Contact  string `json:"contact"`
	Name     string `json:"name"`
	Number   string `json:"number" doc:"60 digits"`
	Code     string `json:"code" doc:"what the other side scans, as a QR code, instead of comparing digits"`
	Verified bool   `json:"verified"`
	Changed  bool   `json:"changed,omitempty" doc:"it was verified, and their account key is another since"`
}

// Conversation is one conversation in the list.
type Conversation struct {
	ID       string `json:"id"`
	Kind     string `json:"kind" enum:"direct,group"`
	Contact  string `json:"contact,omitempty" doc:"of a direct conversation"`
	Name     string `json:"name"`
	State    string `json:"state" enum:"pending,open,frozen,blocked,leaving,left"`
	Reason   string `json:"reason,omitempty"`
	Relay    string `json:"relay" doc:"where its mailbox is"`
	Complete bool   `json:"complete" doc:"everything up to the relay's newest known head is here"`
	Messages int    `json:"messages"`
	Queued   int    `json:"queued"`
	Missing  int    `json:"missing,omitempty" doc:"entries that the relay no longer had"`
	// Unreadable counts messages that this device could not open.
	Unreadable int       `json:"unreadable,omitempty" doc:"messages that did not open"`
	Last       *Message  `json:"last,omitempty"`
	Since      time.Time `json:"since"`

	Unread       int       `json:"unread" doc:"messages of others that were not read"`
	MarkedUnread bool      `json:"marked_unread,omitempty" doc:"by hand"`
	ReadSeq      uint64    `json:"read_seq,omitempty" doc:"position up to which it was read"`
	Typing       []string  `json:"typing,omitempty" doc:"who writes just now"`
	Draft        *Draft    `json:"draft,omitempty" doc:"what was written and not sent"`
	MutedUntil   time.Time `json:"muted_until,omitzero"`
	Archived     bool      `json:"archived,omitempty"`
	Timer        int       `json:"timer,omitempty" doc:"seconds after which new messages disappear, once they were read; 0: never"`
	Requests     int       `json:"requests,omitempty" doc:"how many ask to be let into the group"`
	Scheduled    int       `json:"scheduled,omitempty" doc:"texts that are to be sent later"`
}

// Draft is a text that was written and not sent.
type Draft struct {
	Text    string    `json:"text" doc:"empty: there is none"`
	ReplyTo string    `json:"reply_to,omitempty" doc:"id of a message"`
	Changed time.Time `json:"changed,omitzero" required:"false"`
}

// The kinds of a conversation, and two of its states.
const (
	KindDirect = "direct"
	KindGroup  = "group"
	KindSelf   = "self" // among one's own devices; not listed
	StateOpen  = "open"
	StateLeft  = "left" // this account is no member any more: the history stays
)

// Message states.
const (
	MessageQueued = "queued" // durable here
	MessageStored = "stored" // the relay signed that it is durable there

	MessageDelivered = "delivered" // a device of another has it, and said so
	MessageRead      = "read"      // another has read it, and said so

	MessageFailed   = "failed"   // refused for good; Reason says why
	MessageReceived = "received" // from the other side
)

// Message is one message of a conversation.
type Message struct {
	ID           string    `json:"id"`
	Conversation string    `json:"conversation"`
	Seq          uint64    `json:"seq,omitempty" doc:"position in the mailbox; 0 while queued"`
	Sender       string    `json:"sender" doc:"name of the contact, or your own"`
	Mine         bool      `json:"mine"`
	Sent         time.Time `json:"sent" doc:"by the sender's clock if it can be right, else by the relay's"`
	State        string    `json:"state" enum:"queued,stored,delivered,read,failed,received"`
	Reason       string    `json:"reason,omitempty"`
	Text         string    `json:"text"`
	// Kind is "text", "poll", "gap" for entries the relay no longer had, "change" for a
	// change of a group, which Text says in words, "unknown" for a message that this
	// version cannot show, or, in an event, "removed" for one that is here no more.
	Kind string `json:"kind" enum:"text,poll,gap,change,unknown,removed"`

	Imported bool `json:"imported,omitempty" doc:"another device of yours has handed it over: that it was sent so, only that device has seen"`

	ReplyTo     *Quote     `json:"reply_to,omitempty"`
	Mentions    []Mention  `json:"mentions,omitempty"`
	MentionsYou bool       `json:"mentions_you,omitempty"`
	Edited      time.Time  `json:"edited,omitzero"`
	Deleted     string     `json:"deleted,omitempty" enum:"author,admin" doc:"who took it away from all"`
	DeletedBy   string     `json:"deleted_by,omitempty"`
	Forwarded   bool       `json:"forwarded,omitempty" doc:"it was written elsewhere"`
	Reactions   []Reaction `json:"reactions,omitempty"`
	DeliveredTo int        `json:"delivered_to,omitempty" doc:"accounts that have it, as far as they say so"`
	ReadBy      int        `json:"read_by,omitempty"`
	Pinned      bool       `json:"pinned,omitempty"`
	Starred     bool       `json:"starred,omitempty"`
	Poll        *Poll      `json:"poll,omitempty"`
	Timer       int        `json:"timer,omitempty" doc:"seconds after which it disappears, once it was read or sent"`
	Disappears  time.Time  `json:"disappears,omitzero" doc:"when it does"`
}

// Quote is the message that another answers, in the version that was answered.
type Quote struct {
	ID      string `json:"id" doc:"of the message"`
	Sender  string `json:"sender,omitempty"`
	Excerpt string `json:"excerpt,omitempty" doc:"its beginning"`
	Edited  bool   `json:"edited,omitempty" doc:"it says something else now"`
	Missing bool   `json:"missing,omitempty" doc:"it is not here, or not any more"`
}

// Mention is a part of a text that names somebody.
type Mention struct {
	Start   int    `json:"start" minimum:"0" doc:"in bytes of UTF-8"`
	Length  int    `json:"length" minimum:"1"`
	Account string `json:"account" doc:"account id; in a request also a name"`
	Name    string `json:"name,omitempty"`
}

// Reaction is one reaction to a message with those who had it.
type Reaction struct {
	Reaction string   `json:"reaction"`
	By       []string `json:"by" nullable:"false"`
	Mine     bool     `json:"mine,omitempty"`
}

// Poll is a question with options to vote for.
type Poll struct {
	Options  []Option `json:"options" nullable:"false"`
	Multiple bool     `json:"multiple,omitempty" doc:"one may vote for several"`
	Closed   bool     `json:"closed,omitempty"`
	Voters   int      `json:"voters"`
}

// Option is one of a poll.
type Option struct {
	Text  string `json:"text"`
	Votes int    `json:"votes"`
	Mine  bool   `json:"mine,omitempty"`
}

// MessageDetails is a message with its history and what became of it at others.
type MessageDetails struct {
	Message
	Versions []MessageVersion `json:"versions,omitempty" doc:"all texts that it has had, the first first, if it was edited"`
	Receipts []Receipt        `json:"receipts,omitempty"`
}

// MessageVersion is a text that a message has had.
type MessageVersion struct {
	ID   string    `json:"id"`
	Sent time.Time `json:"sent"`
	Text string    `json:"text"`
}

// Receipt is what has become of a message at another account.
type Receipt struct {
	Account   string    `json:"account"`
	Name      string    `json:"name"`
	Delivered time.Time `json:"delivered,omitzero"`
	Read      time.Time `json:"read,omitzero"`
}

// Event types.
const (
	EventMessage      = "message"      // a message is new, or its state has changed
	EventContact      = "contact"      // a contact is new or has changed
	EventConversation = "conversation" // a conversation is new or has changed
	EventNotice       = "notice"       // something a person should read
	EventSetting      = "setting"      // a setting has changed
	EventDevice       = "device"       // a device of the account is new or has changed
	EventLink         = "link"         // the link of a device has got further
	EventToken        = "token"        // a token was made or revoked
	EventSkipped      = "skipped"      // for a reader with a token: many before it were not shown
)

// Event is something that happened. Events are durable: a reader goes on after
// the last Seq it has dealt with, and sees each at least once.
type Event struct {
	Seq          uint64        `json:"seq"`
	Time         time.Time     `json:"time"`
	Type         string        `json:"type" enum:"message,contact,conversation,notice,setting,token,skipped,device,link"`
	Message      *Message      `json:"message,omitempty"`
	Contact      *Contact      `json:"contact,omitempty"`
	Conversation *Conversation `json:"conversation,omitempty"`
	Notice       string        `json:"notice,omitempty"`
	Setting      *Setting      `json:"setting,omitempty"`
	Device       *Device       `json:"device,omitempty"`
	Link         *DeviceLink   `json:"link,omitempty"`
	Token        *Token        `json:"token,omitempty"`
}

// MaxText is the largest text of a message in bytes.
const MaxText = 60 << 10

// Check is one line of a doctor's report. It holds nothing that tells who the
// user or a contact is, so that it can be shown to others.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty" doc:"what to do"`
}

// What an API's user may act on. Each error of a Node that is about its
// arguments or its state wraps one of these.
var (
	ErrNotFound    = errors.New("not found")                                  // no such contact, conversation, message or invite
	ErrAmbiguous   = errors.New("more than one fits")                         // a name or prefix
	ErrExists      = errors.New("exists already")                             // a name, or a home
	ErrInvalid     = errors.New("not valid")                                  // an argument
	ErrTooLarge    = errors.New("too large")                                  // a text
	ErrLocked      = errors.New("wrong passphrase")                           // the vault did not open
	ErrNotTrusted  = errors.New("not trusted")                                // a signature or identity is not what it should be
	ErrUnreachable = errors.New("relay not reachable")                        // no relay answered
	ErrGone        = errors.New("gone")                                       // an invite that was used, revoked or has expired; events that are not kept
	ErrDiskFull    = errors.New("disk is full")                               // below the reserve
	ErrBusy        = errors.New("in use by another node")                     // the home
	ErrDamaged     = errors.New("damaged")                                    // the vault
	ErrNewer       = errors.New("written by a newer version")                 // the vault
	ErrFrozen      = errors.New("conversation is frozen")                     // see its Reason
	ErrBlocked     = errors.New("contact is blocked")                         // unblock first
	ErrNotReady    = errors.New("not ready yet")                              // wait for what the error names, and try again
	ErrNotAllowed  = errors.New("not allowed")                                // by one's role in a group
	ErrStopped     = errors.New("the node has stopped, or has not begun yet") // ask again in a while
	ErrUncertain   = errors.New("it may or may not have worked")              // look before you repeat
)
