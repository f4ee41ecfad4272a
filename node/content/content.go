// Package content is what a message says: deterministic CBOR, and the id that
// messages are deduplicated by (spec/content.md). It does no I/O.
//
// Who sent a message is not in it: that comes from the sender's leaf.
package content

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"sotto/crypto/codec"
)

// Limits of a message, in bytes.
const (
	MaxText    = 60 << 10  // of a text
	MaxEncoded = 128 << 10 // of the whole item
	maxParents = 3
)

// The errors of this package.
var (
	ErrMalformed = errors.New("not a message") // the bytes are not deterministic CBOR of the wanted form
	ErrEmpty     = errors.New("the text is empty")
	ErrTooLong   = fmt.Errorf("the text is longer than %d bytes", MaxText)
	ErrNotText   = errors.New("the text is not UTF-8")
)

// Kind says what a message is.
type Kind uint64

// The kinds of version 1. Others are kept and shown as unknown.
const (
	Text        Kind = 1
	KeyPackages Kind = 2 // of the sending device, for the receiver to add it to groups
	Name        Kind = 3 // what the sender calls itself

	Delete   Kind = 4  // takes back the sender's message Replaces
	Moderate Kind = 5  // takes away another's message Replaces, where the role allows
	Reaction Kind = 6  // to InReplyTo: all of the sender's
	Receipt  Kind = 7  // for messages of others
	Typing   Kind = 8  // what lasts for seconds
	Poll     Kind = 9  // Text is the question
	Vote     Kind = 10 // in the poll InReplyTo: all of the sender's
	Close    Kind = 11 // ends the sender's poll InReplyTo
	Pin      Kind = 12 // holds the message InReplyTo up to all, or no longer

	GroupRequest Kind = 16 // somebody has opened a link to the group and asks to be let in
	GroupRefusal Kind = 17 // such an Account is not let in
)

// Hidden reports whether messages of this kind are no lines of a conversation: they are
// for devices, or say something about another message.
func (k Kind) Hidden() bool {
	return k >= KeyPackages && k <= Pin && k != Poll || k == GroupRequest || k == GroupRefusal || k >= AccountLog && k <= History
}

const (
	maxPackages  = 8
	maxPackage   = 16 << 10
	maxDeviceSet = 2 << 10
	maxLog       = 56 << 10
	maxName      = 256
)

// ID is the id of a message: the same when its content is sealed again.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (id ID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || b[0] != 1 {
		return ID{}, fmt.Errorf("%w: %q is no message id", ErrMalformed, s)
	}
	return ID(b), nil
}

// Message is a message as its sender made it.
type Message struct {
	Salt      [16]byte      // random
	Replaces  *ID           // the message that this one stands for
	InReplyTo *ID           // the message that this one answers
	Expires   time.Duration // whole seconds; 0 for never
	Lamport   uint64        // one more than the highest the sender had seen
	Sent      time.Time     // the sender's clock, in milliseconds
	Parents   []ID          // what the sender had seen last; at most 3
	Kind      Kind
	Text      string   // of Text and Name
	DeviceSet []byte   // of KeyPackages: the account's statement, an identity.DeviceSet
	Packages  [][]byte // of KeyPackages and GroupRequest: 1 to 8
	Log       []byte   // of GroupRequest: the account's log
	Account   []byte   // of GroupRefusal
	Bytes     []byte   // of AccountLog, Records and History

	Mentions  []Mention // of Text, ascending
	Forwarded bool      // of Text: it was written elsewhere; by whom and where is not said
	Reactions []string  // of Reaction: none to 8
	Receipt   Receipted // of Receipt
	IDs       []ID      // of Receipt: 1 to 64
	On        bool      // of Typing and Pin; of Poll: one may vote for several options
	Options   []string  // of Poll: 2 to 16
	Choices   []uint64  // of Vote: numbers of options from 0, ascending
}

// NewText makes a message. It returns ErrEmpty, ErrTooLong or ErrNotText.
func NewText(text string, sent time.Time, lamport uint64, parents []ID) (*Message, error) {
	if err := CheckText(text); err != nil {
		return nil, err
	}
	m := newMessage(Text, sent, lamport)
	m.Text, m.Parents = text, parents
	return m, nil
}

// NewName makes the message that tells the others what its sender calls itself.
func NewName(name string, sent time.Time, lamport uint64) *Message {
	m := newMessage(Name, sent, lamport)
	m.Text = name
	return m
}

// NewGroupRequest makes the message by which who made a link to a group passes on that
// somebody who calls itself so has opened it.
func NewGroupRequest(name string, log, set []byte, packages [][]byte, sent time.Time, lamport uint64) *Message {
	m := newMessage(GroupRequest, sent, lamport)
	m.Text, m.Log, m.DeviceSet, m.Packages = name, log, set, packages
	return m
}

// NewGroupRefusal makes the message that an account is not let in.
func NewGroupRefusal(account [32]byte, sent time.Time, lamport uint64) *Message {
	m := newMessage(GroupRefusal, sent, lamport)
	m.Account = account[:]
	return m
}

// NewKeyPackages makes the message that lets a contact add this device to groups.
func NewKeyPackages(set []byte, packages [][]byte, sent time.Time, lamport uint64) *Message {
	m := newMessage(KeyPackages, sent, lamport)
	m.DeviceSet, m.Packages = set, packages
	return m
}

func newMessage(k Kind, sent time.Time, lamport uint64) *Message {
	m := &Message{Kind: k, Lamport: lamport, Sent: time.UnixMilli(sent.UnixMilli()).UTC()}
	rand.Read(m.Salt[:])
	return m
}

// CheckText returns ErrEmpty, ErrTooLong or ErrNotText for a text that cannot be sent.
func CheckText(text string) error {
	switch {
	case text == "":
		return ErrEmpty
	case len(text) > MaxText:
		return fmt.Errorf("%w: it has %d", ErrTooLong, len(text))
	case !utf8.ValidString(text):
		return ErrNotText
	}
	return nil
}

// item is the outer array. Pointers and raw parts let null and unknown bodies through.
type item struct {
	_         struct{} `cbor:",toarray"`
	Salt      []byte
	Replaces  []byte
	InReplyTo []byte
	Expires   *uint64
	Ext       map[uint64]cbor.RawMessage
	Body      []cbor.RawMessage
}

type ext1 struct {
	_       struct{} `cbor:",toarray"`
	Lamport uint64
	SentMS  uint64
	Parents [][]byte
}

var (
	encoder = must(cbor.CoreDetEncOptions().EncMode())
	decoder = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: 1024,
		MaxMapPairs:      1024,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("content: " + err.Error()) // unreachable: the options above are constants
	}
	return v
}

// Encode returns the message's bytes, always the same.
func (m *Message) Encode() ([]byte, error) {
	body, err := m.body()
	if err != nil {
		return nil, err
	}
	e := ext1{Lamport: m.Lamport, SentMS: uint64(m.Sent.UnixMilli()), Parents: [][]byte{}}
	if len(m.Parents) > maxParents {
		return nil, fmt.Errorf("%w: %d parents, at most %d", ErrMalformed, len(m.Parents), maxParents)
	}
	for _, p := range m.Parents {
		e.Parents = append(e.Parents, p[:])
	}
	it := item{Salt: m.Salt[:], Ext: map[uint64]cbor.RawMessage{1: must(encoder.Marshal(e))},
		Body: []cbor.RawMessage{must(encoder.Marshal(m.Kind))}}
	if len(m.Mentions) > 0 {
		it.Ext[2] = must(encoder.Marshal(m.Mentions))
	}
	if m.Forwarded {
		it.Ext[3] = must(encoder.Marshal(true))
	}
	for _, part := range body {
		it.Body = append(it.Body, must(encoder.Marshal(part)))
	}
	if m.Replaces != nil {
		it.Replaces = m.Replaces[:]
	}
	if m.InReplyTo != nil {
		it.InReplyTo = m.InReplyTo[:]
	}
	if s := uint64(m.Expires / time.Second); s > 0 {
		it.Expires = &s
	}
	return encoder.Marshal(it)
}

// body returns what stands behind the kind, if the message may be made.
func (m *Message) body() ([]any, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	switch m.Kind {
	case Text, Name:
		return []any{m.Text}, nil
	case KeyPackages:
		return []any{m.DeviceSet, m.Packages}, nil
	case AccountLog, Records, History:
		return []any{m.Bytes}, nil
	case GroupRequest:
		return []any{m.Text, m.Log, m.DeviceSet, m.Packages}, nil
	case GroupRefusal:
		return []any{m.Account}, nil
	case Delete, Moderate, Close:
		return nil, nil
	case Reaction:
		return []any{some(m.Reactions)}, nil
	case Receipt:
		return []any{m.Receipt, m.IDs}, nil
	case Typing, Pin:
		return []any{m.On}, nil
	case Poll:
		return []any{m.Text, m.Options, m.On}, nil
	case Vote:
		return []any{some(m.Choices)}, nil
	}
	return nil, fmt.Errorf("%w: kind %d cannot be made", ErrMalformed, m.Kind)
}

// check holds a message of a kind that is known to its limits.
func (m *Message) check() error {
	malformed := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	if err := m.checkTarget(); err != nil {
		return malformed("%v", err)
	}
	switch m.Kind {
	case Text:
		return errors.Join(CheckText(m.Text), m.checkMentions())
	case AccountLog, Records, History:
		return m.checkBytes()
	case Name:
		if len(m.Text) < 1 || len(m.Text) > maxName {
			return malformed("a name of %d bytes", len(m.Text))
		}
	case GroupRefusal:
		if len(m.Account) != 32 {
			return malformed("an account of %d bytes", len(m.Account))
		}
	case KeyPackages, GroupRequest:
		if m.Kind == GroupRequest && (len(m.Text) < 1 || len(m.Text) > maxName || len(m.Log) < 1 || len(m.Log) > maxLog) {
			return malformed("a name of %d bytes, a log of %d", len(m.Text), len(m.Log))
		}
		if n := len(m.Packages); n < 1 || n > maxPackages {
			return malformed("%d key packages", n)
		}
		if len(m.DeviceSet) > maxDeviceSet {
			return malformed("a device set of %d bytes", len(m.DeviceSet))
		}
		for _, p := range m.Packages {
			if len(p) > maxPackage {
				return malformed("a key package of %d bytes", len(p))
			}
		}
	default:
		if err := m.checkMore(); err != nil {
			return malformed("%v", err)
		}
	}
	return nil
}

// Decode reads a message. It returns an error that wraps ErrMalformed for bytes
// that Encode, of this version or a later one, would not have made.
func Decode(b []byte) (*Message, error) {
	malformed := func(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }
	if len(b) > MaxEncoded {
		return nil, malformed(fmt.Sprintf("%d bytes, at most %d", len(b), MaxEncoded))
	}
	// One encoding of each value: what does not come out as it went in has
	// another id at another reader.
	var whole any
	if err := decoder.Unmarshal(b, &whole); err != nil {
		return nil, malformed(err.Error())
	}
	if again, err := encoder.Marshal(whole); err != nil || string(again) != string(b) {
		return nil, malformed("not the deterministic encoding")
	}
	var it item
	if err := decoder.Unmarshal(b, &it); err != nil {
		return nil, malformed(err.Error())
	}
	m := &Message{Sent: time.UnixMilli(0).UTC()} // without extension 1: nobody knows
	if len(it.Salt) != len(m.Salt) {
		return nil, malformed("a salt of another length")
	}
	m.Salt = [16]byte(it.Salt)
	var err error
	if m.Replaces, err = optionalID(it.Replaces); err != nil {
		return nil, err
	}
	if m.InReplyTo, err = optionalID(it.InReplyTo); err != nil {
		return nil, err
	}
	if it.Expires != nil {
		const year = 366 * 24 * 3600
		if *it.Expires == 0 || *it.Expires > year {
			return nil, malformed("a term outside 1 second to 1 year")
		}
		m.Expires = time.Duration(*it.Expires) * time.Second
	}
	if raw, ok := it.Ext[1]; ok {
		var e ext1
		if err := decoder.Unmarshal(raw, &e); err != nil {
			return nil, malformed("extension 1: " + err.Error())
		}
		if len(e.Parents) > maxParents || e.SentMS > 1<<53 || e.Lamport > 1<<53 {
			return nil, malformed("extension 1 out of bounds")
		}
		m.Lamport, m.Sent = e.Lamport, time.UnixMilli(int64(e.SentMS)).UTC()
		for _, p := range e.Parents {
			id, err := optionalID(p)
			if err != nil || id == nil {
				return nil, malformed("a parent that is no id")
			}
			m.Parents = append(m.Parents, *id)
		}
	}
	if len(it.Body) == 0 || decoder.Unmarshal(it.Body[0], (*uint64)(&m.Kind)) != nil {
		return nil, malformed("no kind")
	}
	var ids [][]byte
	into, known := map[Kind][]any{Text: {&m.Text}, Name: {&m.Text}, KeyPackages: {&m.DeviceSet, &m.Packages},
		GroupRequest: {&m.Text, &m.Log, &m.DeviceSet, &m.Packages}, GroupRefusal: {&m.Account},
		Delete: {}, Moderate: {}, Close: {}, Reaction: {&m.Reactions}, Receipt: {&m.Receipt, &ids}, Typing: {&m.On}, Pin: {&m.On},
		Poll: {&m.Text, &m.Options, &m.On}, Vote: {&m.Choices},
		AccountLog: {&m.Bytes}, Records: {&m.Bytes}, History: {&m.Bytes}}[m.Kind]
	if !known {
		return m, nil // of a later version
	}
	if len(it.Body) != 1+len(into) {
		return nil, malformed(fmt.Sprintf("kind %d with a body of %d parts", m.Kind, len(it.Body)))
	}
	for i, v := range into {
		if m.Kind >= Delete && string(it.Body[1+i]) == "\xf6" {
			return nil, malformed("null where a value belongs")
		}
		if err := decoder.Unmarshal(it.Body[1+i], v); err != nil {
			return nil, malformed(err.Error())
		}
	}
	for _, raw := range ids {
		id, err := optionalID(raw)
		if err != nil || id == nil {
			return nil, malformed("a receipt for what is no id")
		}
		m.IDs = append(m.IDs, *id)
	}
	if err := m.readExtensions(it.Ext); err != nil {
		return nil, malformed(err.Error())
	}
	if err := m.check(); err != nil {
		return nil, malformed(err.Error())
	}
	return m, nil
}

func optionalID(b []byte) (*ID, error) {
	if b == nil {
		return nil, nil
	}
	if len(b) != len(ID{}) || b[0] != 1 {
		return nil, fmt.Errorf("%w: a message id of another form", ErrMalformed)
	}
	id := ID(b)
	return &id, nil
}

// IDOf returns the id of encoded, a message of account in the group:
// 0x01 ‖ H(account ‖ group ‖ content ‖ salt)[0..31), the first two with lengths.
func IDOf(account [32]byte, group, encoded []byte, salt [16]byte) ID {
	b := append(codec.AppendU16(nil, 32), account[:]...)
	b = append(codec.AppendU16(b, uint16(len(group))), group...)
	h := sha256.New()
	h.Write(b)
	h.Write(encoded)
	h.Write(salt[:])
	id := ID{1}
	copy(id[1:], h.Sum(nil))
	return id
}
