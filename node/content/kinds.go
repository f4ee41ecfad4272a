package content

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Limits of the kinds that say something about another message.
const (
	MaxReactions = 8  // of one account to one message
	MaxReaction  = 32 // bytes of one
	MaxReceipts  = 64 // in one message
	MaxMentions  = 64
	MaxOptions   = 16   // of a poll
	MaxOption    = 256  // bytes of one
	MaxQuestion  = 1024 // bytes
)

// Receipted says what a receipt is for.
type Receipted uint8

const (
	Delivered Receipted = 1 // a device has it
	Seen      Receipted = 2 // a person has read it
)

// Mention is a part of a text that names an account.
type Mention struct {
	_       struct{} `cbor:",toarray"`
	Start   uint64   // in bytes
	Length  uint64
	Account [32]byte
}

// Common is what every message says of its making.
type Common struct {
	Sent    time.Time
	Lamport uint64
	Parents []ID
	Expires time.Duration // of Text and Poll
}

// New makes a message of a kind, for the caller to fill in.
func New(k Kind, c Common) *Message {
	m := newMessage(k, c.Sent, c.Lamport)
	m.Parents, m.Expires = c.Parents, c.Expires
	return m
}

// Target returns the message that m says something about: the one it replaces, takes
// back or reacts to. There is none for a text that is no edit.
func (m *Message) Target() (ID, bool) {
	switch {
	case m.Replaces != nil:
		return *m.Replaces, true
	case m.Kind != Text && m.InReplyTo != nil:
		return *m.InReplyTo, true
	}
	return ID{}, false
}

// Edit reports whether m is another version of a text.
func (m *Message) Edit() bool { return m.Kind == Text && m.Replaces != nil }

// checkTarget holds a message to naming another where its kind does, and not otherwise.
func (m *Message) checkTarget() error {
	switch m.Kind {
	case Text:
		return nil
	case Delete, Moderate:
		if m.Replaces == nil || m.InReplyTo != nil {
			return errors.New("a deletion that does not replace a message")
		}
	case Reaction, Vote, Close, Pin:
		if m.InReplyTo == nil || m.Replaces != nil {
			return errors.New("it does not say about which message it is")
		}
	case Receipt, Typing, Poll:
		if m.InReplyTo != nil || m.Replaces != nil {
			return errors.New("it is about another message")
		}
	}
	return nil
}

func (m *Message) checkMentions() error {
	if len(m.Mentions) > MaxMentions {
		return fmt.Errorf("%w: %d mentions", ErrMalformed, len(m.Mentions))
	}
	end := uint64(0)
	for _, x := range m.Mentions {
		size := uint64(len(m.Text))
		if x.Length == 0 || x.Start < end || x.Start > size || x.Length > size-x.Start || !utf8.ValidString(m.Text[x.Start:x.Start+x.Length]) {
			return fmt.Errorf("%w: a mention outside of the text", ErrMalformed)
		}
		end = x.Start + x.Length
	}
	return nil
}

// CheckReaction returns an error for what is no reaction: a few characters that show.
func CheckReaction(s string) error {
	if len(s) < 1 || len(s) > MaxReaction || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return fmt.Errorf("a reaction is 1 to %d bytes of visible characters", MaxReaction)
	}
	return nil
}

func (m *Message) checkMore() error {
	switch m.Kind {
	case Reaction:
		if len(m.Reactions) > MaxReactions {
			return fmt.Errorf("%d reactions", len(m.Reactions))
		}
		for i, r := range m.Reactions {
			if err := CheckReaction(r); err != nil {
				return err
			}
			if slices.Contains(m.Reactions[:i], r) {
				return errors.New("one reaction twice")
			}
		}
	case Receipt:
		if m.Receipt != Delivered && m.Receipt != Seen {
			return fmt.Errorf("a receipt of kind %d", m.Receipt)
		}
		if n := len(m.IDs); n < 1 || n > MaxReceipts {
			return fmt.Errorf("a receipt for %d messages", n)
		}
	case Poll:
		return CheckPoll(m.Text, m.Options)
	case Vote:
		if len(m.Choices) > MaxOptions {
			return fmt.Errorf("%d choices", len(m.Choices))
		}
		for i, c := range m.Choices {
			if c >= MaxOptions || i > 0 && c <= m.Choices[i-1] {
				return errors.New("choices that are not ascending numbers of options")
			}
		}
	}
	return nil
}

// CheckPoll returns an error for what is no poll.
func CheckPoll(question string, options []string) error {
	if n := len(question); n < 1 || n > MaxQuestion || !utf8.ValidString(question) {
		return fmt.Errorf("a question is 1 to %d bytes of UTF-8", MaxQuestion)
	}
	if n := len(options); n < 2 || n > MaxOptions {
		return fmt.Errorf("a poll has 2 to %d options", MaxOptions)
	}
	for i, o := range options {
		if len(o) < 1 || len(o) > MaxOption || !utf8.ValidString(o) {
			return fmt.Errorf("an option is 1 to %d bytes of UTF-8", MaxOption)
		}
		if slices.Contains(options[:i], o) {
			return errors.New("an option twice")
		}
	}
	return nil
}

// readExtensions reads what stands beside the body of a text. Elsewhere it is ignored.
func (m *Message) readExtensions(ext map[uint64]cbor.RawMessage) error {
	if m.Kind != Text {
		return nil
	}
	if raw, ok := ext[2]; ok {
		var all []struct {
			_       struct{} `cbor:",toarray"`
			Start   uint64
			Length  uint64
			Account []byte
		}
		if err := decoder.Unmarshal(raw, &all); err != nil {
			return fmt.Errorf("extension 2: %w", err)
		}
		if len(all) == 0 {
			return errors.New("extension 2 without a mention")
		}
		for _, x := range all {
			if len(x.Account) != 32 {
				return errors.New("a mention of what is no account")
			}
			m.Mentions = append(m.Mentions, Mention{Start: x.Start, Length: x.Length, Account: [32]byte(x.Account)})
		}
	}
	if raw, ok := ext[3]; ok {
		if err := decoder.Unmarshal(raw, &m.Forwarded); err != nil || !m.Forwarded {
			return errors.New("extension 3 is true or absent")
		}
	}
	return nil
}

// some makes an empty list of none: null is another encoding.
func some[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
