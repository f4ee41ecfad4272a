package store

import (
	"bytes"
	"fmt"
	"time"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
)

// recordVersion is in front of every record: 1 since the beginning. A record of
// another version is not read.
const recordVersion = 1

type record interface{ fields(f *codec.Fields) }

// encode returns the bytes of a record.
func encode(rec record) []byte { return codec.Append([]byte{recordVersion}, rec.fields) }

// decode reads a record. It copies what it keeps.
func decode(b []byte, rec record) error {
	r := codec.NewReader(bytes.Clone(b))
	if v := r.U8(); v != recordVersion {
		r.Fail("record of version %d", v)
	}
	codec.ReadFrom(r, rec.fields)
	if err := r.Done(); err != nil {
		return fmt.Errorf("read %T: %w", rec, err)
	}
	return nil
}

// Bounds of what is in a record: our own bytes, read back.
const (
	big  = 1 << 20
	most = 1 << 12
)

func blob(f *codec.Fields, v *[]byte) { f.Vec(big, v) }
func text(f *codec.Fields, v *string) { f.Text(big, v) }

func blobs(f *codec.Fields, v *[][]byte) {
	codec.List(f, big, most, v, func(b *[]byte, f *codec.Fields) { f.Vec(big, b) })
}

// moment keeps milliseconds; the zero time stays one.
func moment(f *codec.Fields, v *time.Time) {
	var ms uint64
	if !v.IsZero() {
		ms = uint64(v.UnixMilli())
	}
	f.U64(&ms)
	if f.Reading() {
		*v = time.Time{}
		if ms != 0 {
			*v = time.UnixMilli(int64(ms)).UTC()
		}
	}
}

func mark(f *codec.Fields, v *mailbox.Mark) {
	f.U64((*uint64)(&v.Era))
	f.U64((*uint64)(&v.Seq))
}

// Device is this device: who it is and its secret keys. There is one.
type Device struct {
	Name      string   // profile name
	Log       [][]byte // the account log, entry by entry
	ID        [16]byte
	Seed      []byte // of the device key
	Handshake []byte // of the handshake key
	Sealing   []byte // of the inbox's sealing key
	Created   time.Time
}

func (d *Device) fields(f *codec.Fields) {
	text(f, &d.Name)
	blobs(f, &d.Log)
	f.Array(d.ID[:])
	blob(f, &d.Seed)
	blob(f, &d.Handshake)
	blob(f, &d.Sealing)
	moment(f, &d.Created)
}

// Mailbox is a mailbox that this node made: an inbox or a conversation's.
type Mailbox struct {
	Relay      string // address as people write it
	ID         mailbox.ID
	Salt       [16]byte
	Admin      []byte // seed
	ReadKey    [32]byte
	AppendKey  [32]byte
	Keep       uint32
	MaxEntries uint32
	MaxBytes   uint64
	Full       uint8
	Ticket     []byte
	Created    bool // the relay has it
}

func (m *Mailbox) fields(f *codec.Fields) {
	text(f, &m.Relay)
	f.Array(m.ID[:])
	f.Array(m.Salt[:])
	blob(f, &m.Admin)
	f.Array(m.ReadKey[:])
	f.Array(m.AppendKey[:])
	f.U32(&m.Keep)
	f.U32(&m.MaxEntries)
	f.U64(&m.MaxBytes)
	f.U8(&m.Full)
	blob(f, &m.Ticket)
	f.Flag(&m.Created)
}

// Inbox is this device's inbox. There is one.
type Inbox struct {
	Mailbox Mailbox
	Read    []byte // seed
	Append  []byte // seed; in the InboxRef that others get
	Cursor  mailbox.Mark
	Chain   mailbox.Hash
	Trimmed uint64 // up to this seq
}

func (i *Inbox) fields(f *codec.Fields) {
	i.Mailbox.fields(f)
	blob(f, &i.Read)
	blob(f, &i.Append)
	mark(f, &i.Cursor)
	f.Array(i.Chain[:])
	f.U64(&i.Trimmed)
}

// The states of an Invite.
const (
	InviteOpen     uint8 = 1
	InviteAnswered uint8 = 2 // its secrets are gone
	InviteRevoked  uint8 = 3
	InviteExpired  uint8 = 4
	InviteAsked    uint8 = 5 // somebody has opened it, and the user is to decide about them
)

// Invite is a link that this node made, under the hash of its offer.
type Invite struct {
	OfferHash [32]byte
	Secrets   []byte // a handshake.Inviter; empty unless open
	Relay     string
	Slot      [32]byte
	Owner     []byte // seed of the slot's owner key
	Reader    []byte // seed of the slot's read key
	Value     []byte // what the slot holds
	Ticket    []byte
	Expires   uint32
	Placed    bool   // the relay has the slot
	Name      string // what to call who opens it; may be empty
	State     uint8
	Request   [32]byte // hash of the message 1 that was answered
	Contact   [32]byte // account that it was answered to, or that asks
	Created   time.Time
	Group     []byte // of a link to a group; empty for an invite
	Ask       bool   // the user decides who becomes a contact
	Asked     []byte // of InviteAsked: the request that waits
}

func (i *Invite) fields(f *codec.Fields) {
	f.Array(i.OfferHash[:])
	blob(f, &i.Secrets)
	text(f, &i.Relay)
	f.Array(i.Slot[:])
	blob(f, &i.Owner)
	blob(f, &i.Reader)
	blob(f, &i.Value)
	blob(f, &i.Ticket)
	f.U32(&i.Expires)
	f.Flag(&i.Placed)
	text(f, &i.Name)
	f.U8(&i.State)
	f.Array(i.Request[:])
	f.Array(i.Contact[:])
	moment(f, &i.Created)
	blob(f, &i.Group)
	f.Flag(&i.Ask)
	blob(f, &i.Asked)
}

// GroupRequest is somebody who asks to be let into a group.
type GroupRequest struct {
	Account  [32]byte
	Name     string
	Log      []byte
	Set      []byte
	Packages [][]byte
	Since    time.Time
	Pass     bool // the others in the group are still to be told
}

func (r *GroupRequest) fields(f *codec.Fields) {
	f.Array(r.Account[:])
	text(f, &r.Name)
	blob(f, &r.Log)
	blob(f, &r.Set)
	blobs(f, &r.Packages)
	moment(f, &r.Since)
	f.Flag(&r.Pass)
}

// Joining is a link to a group that was opened here. Its steps are those of an Acceptance.
type Joining struct {
	ID         [32]byte
	Link       string // erased when it has done its work
	Step       uint8
	Reason     string
	Name       string // of the group
	By         string // what who made the link calls itself
	Group      []byte
	Account    [32]byte // who made it
	Relay      string   // of their inbox
	Inbox      [32]byte
	AppendSeed []byte
	Entry      []byte // the sealed request
	Since      time.Time
}

func (j *Joining) fields(f *codec.Fields) {
	f.Array(j.ID[:])
	text(f, &j.Link)
	f.U8(&j.Step)
	text(f, &j.Reason)
	text(f, &j.Name)
	text(f, &j.By)
	blob(f, &j.Group)
	f.Array(j.Account[:])
	text(f, &j.Relay)
	f.Array(j.Inbox[:])
	blob(f, &j.AppendSeed)
	blob(f, &j.Entry)
	moment(f, &j.Since)
}

// The steps of an Acceptance.
const (
	AcceptTaking  uint8 = 1 // the slot is to be taken
	AcceptSending uint8 = 2 // the request is made and to be posted
	AcceptWaiting uint8 = 3 // the relay has the request; the answer is awaited
	AcceptDone    uint8 = 4
	AcceptFailed  uint8 = 5
)

// Acceptance is an invite that this node has opened, on its way.
type Acceptance struct {
	ID         [32]byte // provisional id of the contact
	Link       string   // erased when done
	Tag        [16]byte
	Step       uint8
	Reason     string
	State      []byte   // a handshake.Invitee, once there is one
	KeyPackage []byte   // an mls key package bundle
	Relay      string   // of the inviter's inbox
	Inbox      [32]byte // the inviter's inbox
	AppendSeed []byte
	Entry      []byte   // the sealed request
	Request    [32]byte // hash of message 1
	Log        [][]byte // the inviter's account log
	Name       string   // what the user calls the contact
	Created    time.Time
}

func (a *Acceptance) fields(f *codec.Fields) {
	f.Array(a.ID[:])
	text(f, &a.Link)
	f.Array(a.Tag[:])
	f.U8(&a.Step)
	text(f, &a.Reason)
	blob(f, &a.State)
	blob(f, &a.KeyPackage)
	text(f, &a.Relay)
	f.Array(a.Inbox[:])
	blob(f, &a.AppendSeed)
	blob(f, &a.Entry)
	f.Array(a.Request[:])
	blobs(f, &a.Log)
	text(f, &a.Name)
	moment(f, &a.Created)
}

// Letter is an entry on its way to another's inbox.
type Letter struct {
	Number     uint64
	Relay      string
	Inbox      [32]byte
	AppendSeed []byte
	Entry      []byte
	Group      []byte // the conversation that it is about
}

func (l *Letter) fields(f *codec.Fields) {
	f.U64(&l.Number)
	text(f, &l.Relay)
	f.Array(l.Inbox[:])
	blob(f, &l.AppendSeed)
	blob(f, &l.Entry)
	blob(f, &l.Group)
}

// The states of a Contact.
const (
	ContactPending     uint8 = 1
	ContactEstablished uint8 = 2
	ContactFailed      uint8 = 3
	ContactRequested   uint8 = 4 // they ask, and the user is to decide
)

// Contact is an account that this one has met.
type Contact struct {
	Account  [32]byte // provisional while an acceptance is under way
	Name     string
	Profile  string
	State    uint8
	Reason   string
	Cause    string // of the reason; see package node
	Blocked  bool
	Verified bool
	Changed  bool     // its account key is another than the one that was verified
	Log      [][]byte // account log as far as it is known
	Group    []byte   // the conversation with them; empty while there is none
	Since    time.Time
}

func (c *Contact) fields(f *codec.Fields) {
	f.Array(c.Account[:])
	text(f, &c.Name)
	text(f, &c.Profile)
	f.U8(&c.State)
	text(f, &c.Reason)
	text(f, &c.Cause)
	f.Flag(&c.Blocked)
	f.Flag(&c.Verified)
	f.Flag(&c.Changed)
	blobs(f, &c.Log)
	blob(f, &c.Group)
	moment(f, &c.Since)
}

// Conversation is what a node keeps of one, beside messages and MLS records.
type Conversation struct {
	Group      []byte // MLS group id
	Contact    [32]byte
	Relay      string
	Mailbox    mailbox.ID
	BaseEpoch  uint64
	Made       *Mailbox // if this node created the mailbox
	Core       []byte   // a conversation.Core
	Lamport    uint64
	Heads      [][32]byte // ids of the newest messages, at most 3
	Messages   uint32
	Missing    uint32 // entries that the relay no longer had
	Unreadable uint32 // messages that did not open
	Since      time.Time

	Many      bool   // of many people, not with one contact
	Name      string // of a group, as its members have it
	Announced bool   // this device has told the group its name
	Retention uint32 // minutes after which messages disappear; 0 if they stay

	Own     bool   // among the account's own devices
	LogTold uint32 // how many entries of the account's log the others have been told of here
}

func (c *Conversation) fields(f *codec.Fields) {
	blob(f, &c.Group)
	f.Array(c.Contact[:])
	text(f, &c.Relay)
	f.Array(c.Mailbox[:])
	f.U64(&c.BaseEpoch)
	made := c.Made != nil
	f.Flag(&made)
	if made {
		if c.Made == nil {
			c.Made = &Mailbox{}
		}
		c.Made.fields(f)
	}
	blob(f, &c.Core)
	f.U64(&c.Lamport)
	codec.List(f, big, 3, &c.Heads, func(id *[32]byte, f *codec.Fields) { f.Array(id[:]) })
	f.U32(&c.Messages)
	f.U32(&c.Missing)
	f.U32(&c.Unreadable)
	moment(f, &c.Since)
	f.Flag(&c.Many)
	text(f, &c.Name)
	f.Flag(&c.Announced)
	f.U32(&c.Retention)
	f.Flag(&c.Own)
	f.U32(&c.LogTold)
}

// Bundle is a key package of this device that a contact holds, with its secrets.
type Bundle struct {
	Ref        [32]byte // hash of the key package
	Contact    [32]byte // who was given it, and may add this device with it
	LastResort bool     // may be used more than once
	Made       time.Time
	Bundle     []byte   // an mls key package bundle
	Joining    [32]byte // of a link to a group: only into that it leads; else zero
}

func (b *Bundle) fields(f *codec.Fields) {
	f.Array(b.Ref[:])
	f.Array(b.Contact[:])
	f.Flag(&b.LastResort)
	moment(f, &b.Made)
	blob(f, &b.Bundle)
	f.Array(b.Joining[:])
}

// Package is a key package of a contact's device, for adding it to a group.
type Package struct {
	Contact    [32]byte
	Device     [16]byte
	LastResort bool
	Number     uint64 // in the order of arrival
	Package    []byte
}

func (p *Package) fields(f *codec.Fields) {
	f.Array(p.Contact[:])
	f.Array(p.Device[:])
	f.Flag(&p.LastResort)
	f.U64(&p.Number)
	blob(f, &p.Package)
}

// What a Change does.
const (
	ChangeAdd      uint8 = 1 // the accounts
	ChangeRemove   uint8 = 2 // the accounts
	ChangeName     uint8 = 3 // to Text
	ChangeAbout    uint8 = 4 // the description, to Text
	ChangeRole     uint8 = 5 // of the accounts, to Role
	ChangeAnnounce uint8 = 6 // only who may change the group writes (Role 1), or all (0)
	ChangeIdle     uint8 = 7 // remove the leaves if they are still idle
	ChangePicture  uint8 = 8 // to Picture
	ChangePolicy   uint8 = 9 // of a Role: its Right is On, or not

	ChangeEnlist  uint8 = 20 // the device of this account whose package it is comes in
	ChangeDismiss uint8 = 21 // the devices go, which their accounts have revoked
	ChangeTimer   uint8 = 40 // messages disappear after the minutes in Text
)

// Change is a change of a group that the user wants.
type Change struct {
	ID       uint64
	What     uint8
	Accounts [][32]byte
	Role     uint8
	Text     string
	Packages [][]byte   // of ChangeAdd and ChangeEnlist: set aside for it
	Devices  [][16]byte // of ChangeEnlist and ChangeDismiss
	Leaves   []LeafKey
	Picture  []byte
	Right    uint32
	On       bool
}

func (c *Change) fields(f *codec.Fields) {
	f.U64(&c.ID)
	f.U8(&c.What)
	codec.List(f, big, most, &c.Accounts, func(a *[32]byte, f *codec.Fields) { f.Array(a[:]) })
	f.U8(&c.Role)
	text(f, &c.Text)
	blobs(f, &c.Packages)
	codec.List(f, big, most, &c.Devices, func(d *[16]byte, f *codec.Fields) { f.Array(d[:]) })
	codec.List(f, big, most, &c.Leaves, func(k *LeafKey, f *codec.Fields) { f.Array(k[:]) })
	blob(f, &c.Picture)
	f.U32(&c.Right)
	f.Flag(&c.On)
}

// EpochKeys is what the exporter of an epoch gave (spec/envelope.md).
type EpochKeys struct {
	Epoch    uint64
	Envelope []byte // 48 bytes; gone once the epoch is forgotten
	Read     []byte // seed
	Append   []byte // seed
	Ended    time.Time
}

func (e *EpochKeys) fields(f *codec.Fields) {
	f.U64(&e.Epoch)
	blob(f, &e.Envelope)
	blob(f, &e.Read)
	blob(f, &e.Append)
	moment(f, &e.Ended)
}

// Outgoing is an entry in the outbox.
type Outgoing struct {
	Hash     mailbox.Hash
	Order    uint64
	Kind     uint8
	Gen      uint32
	Expect   mailbox.Mark
	Meta     []byte
	Payload  []byte
	Epoch    uint64   // whose append key it takes
	Message  [32]byte // id of the message, zero for a commit
	Envelope [32]byte // hash of the MLS message inside
	Spills   []Spill  // of a commit: what is to be stored before it
}

// What a Spill holds, of the staged commit.
const (
	SpillCommit     uint8 = 1
	SpillInvitation uint8 = 2
)

// Spill is a part of a staged commit that goes into blobs. These are made again from
// what is staged.
type Spill struct {
	What    uint8
	Seed    [32]byte // of envelope.Spill
	Owner   []byte   // seed of the key that may delete the blobs
	Spilled []byte   // an envelope.Spilled
}

func (s *Spill) fields(f *codec.Fields) {
	f.U8(&s.What)
	f.Array(s.Seed[:])
	blob(f, &s.Owner)
	blob(f, &s.Spilled)
}

func (o *Outgoing) fields(f *codec.Fields) {
	f.Array(o.Hash[:])
	f.U64(&o.Order)
	f.U8(&o.Kind)
	f.U32(&o.Gen)
	mark(f, &o.Expect)
	blob(f, &o.Meta)
	blob(f, &o.Payload)
	f.U64(&o.Epoch)
	f.Array(o.Message[:])
	f.Array(o.Envelope[:])
	codec.List(f, big, 2, &o.Spills, (*Spill).fields)
}

// Garbage is a blob of ours that nobody needs.
type Garbage struct {
	Relay string
	Blob  [32]byte
	Owner []byte // seed
}

func (g *Garbage) fields(f *codec.Fields) {
	text(f, &g.Relay)
	f.Array(g.Blob[:])
	blob(f, &g.Owner)
}

// Invited is a welcome whose invitation is still at a relay.
type Invited struct {
	ID     [32]byte // hash of the letter
	Letter []byte
	Reason string // why it is still there; empty if nothing has failed
	Since  time.Time
}

func (i *Invited) fields(f *codec.Fields) {
	f.Array(i.ID[:])
	blob(f, &i.Letter)
	text(f, &i.Reason)
	moment(f, &i.Since)
}

// The states of a Message.
const (
	MessageQueued   uint8 = 1
	MessageStored   uint8 = 2
	MessageFailed   uint8 = 3
	MessageReceived uint8 = 4
)

// The kinds of a Message.
const (
	KindText    uint8 = 1
	KindGap     uint8 = 2 // Count entries are gone
	KindUnknown uint8 = 3
	KindHidden  uint8 = 4 // for devices, not shown; ours only, until it is stored
	KindChange  uint8 = 5 // the group was changed by From
	KindPoll    uint8 = 6
)

// Told is one thing that a Message of KindChange tells of.
type Told struct {
	What  uint8
	Of    [32]byte // account
	Text  string
	Value uint32
	Other string
}

// What a Told tells of.
const (
	ToldAdded     uint8 = 1
	ToldRemoved   uint8 = 2
	ToldLeft      uint8 = 3
	ToldName      uint8 = 4 // Text is the new name
	ToldAbout     uint8 = 5 // Text is the new description
	ToldRole      uint8 = 6 // Value is the new role
	ToldAnnounce  uint8 = 7 // Value is 1 if members may not write any more, 0 if they may again
	ToldNewDevice uint8 = 8 // Text is its fingerprint, Other that of the device that added it
	ToldIdle      uint8 = 9 // removed since its keys had not been renewed for long
	ToldPicture   uint8 = 10
	ToldPolicy    uint8 = 11

	ToldGoneDevice uint8 = 20 // Text is its fingerprint
	ToldThisDevice uint8 = 21 // this device was brought in by another of the account

	ToldTimer uint8 = 40 // Value is the minutes after which messages disappear, 0 if they stay
)

// Message is a message as it is shown. Its place in the vault is its order:
// positions in the mailbox first, then what is queued.
type Message struct {
	ID      [32]byte
	Seq     uint64
	Mine    bool
	Sent    time.Time
	Arrived time.Time
	State   uint8
	Kind    uint8
	Reason  string
	Text    string
	From    [32]byte // account of the sender
	Content []byte   // as it was made: ours, to be sealed again unchanged; another's, to be reported
	Count   uint32
	Told    []Told // of KindChange, by From

	Bucket    uint64 // that it is sealed in; 0 until it is first written
	ReplyTo   [32]byte
	Mentions  []Mention
	Version   [32]byte  // whose text this is, if it was edited
	Edited    time.Time // when; zero if it was not
	Deleted   uint8     // by whom, if it was
	DeletedBy [32]byte
	Forwarded bool
	Expires   uint32    // seconds after which it disappears once it was read, or sent; 0 for never
	Until     time.Time // when it disappears; zero while that is not known
	Options   []string  // of KindPoll; Text is the question
	Multiple  bool      // of KindPoll
	Proof     *Proof    // of another's; nil if there is none
	Imported  [16]byte  // the device of one's own account that has handed it over; zero if it was read here
}

// Proof is, with Content and what PutSpoken keeps, what shows who said a Message.
type Proof struct {
	Epoch      uint64
	Leaf       uint32
	Credential [16]byte // names it
	AuthData   []byte
	Signature  []byte
}

func (p *Proof) fields(f *codec.Fields) {
	f.U64(&p.Epoch)
	f.U32(&p.Leaf)
	f.Array(p.Credential[:])
	blob(f, &p.AuthData)
	blob(f, &p.Signature)
}

// Who deleted a Message for all.
const (
	DeletedByAuthor uint8 = 1
	DeletedByAdmin  uint8 = 2
)

func (m *Message) fields(f *codec.Fields) {
	f.Array(m.ID[:])
	f.U64(&m.Seq)
	f.Flag(&m.Mine)
	moment(f, &m.Sent)
	moment(f, &m.Arrived)
	f.U8(&m.State)
	f.U8(&m.Kind)
	text(f, &m.Reason)
	text(f, &m.Text)
	f.Array(m.From[:])
	blob(f, &m.Content)
	f.U32(&m.Count)
	codec.List(f, big, most, &m.Told, func(t *Told, f *codec.Fields) {
		f.U8(&t.What)
		f.Array(t.Of[:])
		text(f, &t.Text)
		f.U32(&t.Value)
		text(f, &t.Other)
	})
	f.U64(&m.Bucket)
	f.Array(m.ReplyTo[:])
	mentions(f, &m.Mentions)
	f.Array(m.Version[:])
	moment(f, &m.Edited)
	f.U8(&m.Deleted)
	f.Array(m.DeletedBy[:])
	f.Flag(&m.Forwarded)
	f.U32(&m.Expires)
	moment(f, &m.Until)
	codec.List(f, big, most, &m.Options, func(s *string, f *codec.Fields) { text(f, s) })
	f.Flag(&m.Multiple)
	proved := m.Proof != nil
	if f.Flag(&proved); proved {
		if f.Reading() {
			m.Proof = &Proof{}
		}
		m.Proof.fields(f)
	}
	f.Array(m.Imported[:])
}

// Setting is what was set last, or that it was unset. Of two, made on two devices, the
// one counts that is After the other.
type Setting struct {
	Value   string
	Set     bool
	Lamport uint64   // one more with each change
	Device  [16]byte // that made the change
}

func (s *Setting) fields(f *codec.Fields) {
	text(f, &s.Value)
	f.Flag(&s.Set)
	f.U64(&s.Lamport)
	f.Array(s.Device[:])
}

// After reports whether s replaces o wherever the two meet.
func (s *Setting) After(o *Setting) bool {
	if s.Lamport != o.Lamport {
		return s.Lamport > o.Lamport
	}
	return bytes.Compare(s.Device[:], o.Device[:]) > 0
}

// decodeSetting reads a setting. At first it was the bare text, of an address or a
// ticket, neither of which begins with the version of a record.
func decodeSetting(b []byte) (s Setting, err error) {
	if len(b) > 0 && b[0] != recordVersion {
		return Setting{Value: string(b), Set: true}, nil
	}
	return s, decode(b, &s)
}

// Event is what happened, by reference: it is shown as things are when it is read.
type Event struct {
	Type    uint8
	Time    time.Time
	Group   []byte
	Message [32]byte
	Contact [32]byte
	Notice  string // words, the key of a setting or the id of a token
	Device  [16]byte
}

// The types of an Event.
const (
	EventMessage      uint8 = 1
	EventContact      uint8 = 2
	EventConversation uint8 = 3
	EventNotice       uint8 = 4
	EventSetting      uint8 = 43
	EventToken        uint8 = 44

	EventDevice uint8 = 20 // Device is the one
	EventLink   uint8 = 21
)

func (e *Event) fields(f *codec.Fields) {
	f.U8(&e.Type)
	moment(f, &e.Time)
	blob(f, &e.Group)
	f.Array(e.Message[:])
	f.Array(e.Contact[:])
	text(f, &e.Notice)
	f.Array(e.Device[:])
}
