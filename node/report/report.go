// Package report makes and reads reports: messages that somebody chose to show to a
// person outside the conversation, who sees who said them without believing the one
// who reports (spec/report.md). It does no I/O.
//
// A report discloses the messages chosen, and for each epoch they were said in the
// group's context, which their signatures cover: the conversation's id, name and
// roles. It holds no key and opens no other message. It says nothing about who
// reports.
package report

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/content"
)

// Limits of a report.
const (
	MaxItems   = 100
	MaxReason  = 4 << 10 // bytes
	MaxEncoded = 16 << 20
)

const (
	header        = "sotto report 1\n"
	maxContext    = 64 << 10
	maxAuthData   = 1 << 10
	maxSignature  = 1 << 10
	maxReportPart = MaxEncoded
)

// The errors of this package.
var (
	ErrMalformed = errors.New("not a report")                       // the bytes are of another form, damaged, or of a newer version
	ErrLimit     = errors.New("too much for a report")              // more items, or longer, than a report holds
	ErrFalse     = errors.New("the report is not what it seems to") // a signature, credential or place does not hold
)

// Report is a report.
type Report struct {
	Reason string // what who reports has to say; nobody has signed it
	Items  []Item
}

// Item is a message as its sender signed it.
type Item struct {
	Signed     mls.Signed
	Credential []byte // identity.Credential of the sender
}

// Statement is what an item has proved: this device of this account said this in this
// conversation. When is the sender's word.
type Statement struct {
	Account      identity.AccountID
	Device       identity.DeviceID
	Conversation []byte // MLS group id
	Epoch        uint64
	ID           content.ID
	Message      *content.Message
	Sent         time.Time
}

type fileItem struct {
	context, credential uint8
	leaf                uint32
	authData, content   []byte
	signature           []byte
}

func (it *fileItem) fields(f *codec.Fields) {
	f.U8(&it.context)
	f.U8(&it.credential)
	f.U32(&it.leaf)
	f.Vec(maxAuthData, &it.authData)
	f.Vec(content.MaxEncoded, &it.content)
	f.Vec(maxSignature, &it.signature)
}

type file struct {
	reason                []byte
	contexts, credentials [][]byte
	items                 []fileItem
}

func (x *file) fields(f *codec.Fields) {
	f.Vec(MaxReason, &x.reason)
	codec.List(f, maxReportPart, MaxItems, &x.contexts, func(b *[]byte, f *codec.Fields) { f.Vec(maxContext, b) })
	codec.List(f, maxReportPart, MaxItems, &x.credentials, func(b *[]byte, f *codec.Fields) { f.Vec(identity.MaxCredential, b) })
	codec.List(f, maxReportPart, MaxItems, &x.items, func(it *fileItem, f *codec.Fields) { it.fields(f) })
}

// Encode returns the report's bytes. It returns ErrLimit for more than a report holds.
func (r *Report) Encode() ([]byte, error) {
	switch {
	case len(r.Items) == 0:
		return nil, fmt.Errorf("%w: no messages", ErrMalformed)
	case len(r.Items) > MaxItems:
		return nil, fmt.Errorf("%w: %d messages, at most %d", ErrLimit, len(r.Items), MaxItems)
	case len(r.Reason) > MaxReason:
		return nil, fmt.Errorf("%w: a reason of %d bytes, at most %d", ErrLimit, len(r.Reason), MaxReason)
	case !utf8.ValidString(r.Reason):
		return nil, fmt.Errorf("%w: a reason that is not UTF-8", ErrMalformed)
	}
	x := file{reason: []byte(r.Reason)}
	for i := range r.Items {
		it := &r.Items[i]
		s := &it.Signed
		if len(s.Context) > maxContext || len(it.Credential) > identity.MaxCredential || len(s.AuthenticatedData) > maxAuthData ||
			len(s.Content) > content.MaxEncoded || len(s.Signature) > maxSignature {
			return nil, fmt.Errorf("%w: message %d", ErrLimit, i+1)
		}
		x.items = append(x.items, fileItem{context: once(&x.contexts, s.Context), credential: once(&x.credentials, it.Credential),
			leaf: uint32(s.Leaf), authData: s.AuthenticatedData, content: s.Content, signature: s.Signature})
	}
	b := codec.Append([]byte(header), x.fields)
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrLimit, len(b), MaxEncoded)
	}
	return b, nil
}

// once returns the place of b in list, and puts it there if it is not.
func once(list *[][]byte, b []byte) uint8 {
	for i, have := range *list {
		if bytes.Equal(have, b) {
			return uint8(i)
		}
	}
	*list = append(*list, b)
	return uint8(len(*list) - 1)
}

// Parse reads a report. It believes nothing of it: see [Report.Verify]. The report
// shares b.
func Parse(b []byte) (*Report, error) {
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxEncoded)
	}
	rest, ok := bytes.CutPrefix(b, []byte(header))
	if !ok {
		return nil, fmt.Errorf("%w of a version known here: one begins with %q", ErrMalformed, header)
	}
	var x file
	if err := codec.Read(rest, x.fields); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !utf8.Valid(x.reason) || len(x.items) == 0 {
		return nil, fmt.Errorf("%w: a reason that is not UTF-8, or no messages", ErrMalformed)
	}
	r := &Report{Reason: string(x.reason)}
	contexts, credentials := 0, 0 // each stands where it is first needed: one form for one report
	for _, it := range x.items {
		if int(it.context) > contexts || int(it.credential) > credentials {
			return nil, fmt.Errorf("%w: parts in disorder", ErrMalformed)
		}
		contexts, credentials = max(contexts, int(it.context)+1), max(credentials, int(it.credential)+1)
		if contexts > len(x.contexts) || credentials > len(x.credentials) {
			return nil, fmt.Errorf("%w: a part is missing", ErrMalformed)
		}
		r.Items = append(r.Items, Item{Credential: x.credentials[it.credential], Signed: mls.Signed{Context: x.contexts[it.context],
			Leaf: mls.LeafIndex(it.leaf), AuthenticatedData: it.authData, Content: it.content, Signature: it.signature}})
	}
	if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: parts that nothing needs, or twice", ErrMalformed)
	}
	return r, nil
}

// Verify checks every item and returns what each proves, in their order. One that
// does not hold makes the whole report false: it returns an error that wraps ErrFalse
// and names the item.
func (r *Report) Verify() ([]Statement, error) {
	out := make([]Statement, 0, len(r.Items))
	for i := range r.Items {
		s, err := r.Items[i].verify()
		if err != nil {
			return nil, fmt.Errorf("%w: message %d: %w", ErrFalse, i+1, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (it *Item) verify() (s Statement, err error) {
	c, err := identity.ParseCredential(it.Credential)
	if err != nil {
		return s, err
	}
	cert, err := c.Verify()
	if err != nil {
		return s, err
	}
	// A device signs with the key of its certificate in every group.
	group, err := it.Signed.Verify(cert.DeviceKey.Bytes())
	if err != nil {
		return s, err
	}
	plain, err := content.Unpack(it.Signed.Content)
	if err != nil {
		return s, err
	}
	m, err := content.Decode(plain)
	if err != nil {
		return s, err
	}
	return Statement{Account: c.Account, Device: c.Device, Conversation: group.GroupID, Epoch: group.Epoch,
		ID: content.IDOf(c.Account, group.GroupID, plain, m.Salt), Message: m, Sent: m.Sent}, nil
}
