package wire

import (
	"errors"
	"fmt"
	"time"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/blob"
)

// Code is the class of a failed request. Codes are part of the protocol: values
// are never reused, and a new one goes at the end of its group.
type Code uint16

// The codes of spec/relay.md, section 4.
const (
	CodeInternal    Code = 1
	CodeMalformed   Code = 2
	CodeVersion     Code = 3
	CodeUnknown     Code = 4
	CodeDenied      Code = 10
	CodeConflict    Code = 20
	CodeStale       Code = 21
	CodeEra         Code = 22
	CodeTooLarge    Code = 23
	CodeExists      Code = 24
	CodeGone        Code = 25
	CodeTerms       Code = 26
	CodeSlotVersion Code = 27
	CodeDamaged     Code = 28
	CodeMismatch    Code = 29
	CodeQuota       Code = 30
	CodeBusy        Code = 31
	CodeRefused     Code = 32
)

var words = map[Code]string{
	CodeInternal:    "it failed",
	CodeMalformed:   "it could not read the request",
	CodeVersion:     "it speaks no version that we do",
	CodeUnknown:     "it does not know whether that was stored",
	CodeDenied:      "no such mailbox, slot or blob, or no right to use it",
	CodeConflict:    "another commit came first",
	CodeStale:       "the mailbox is at another generation",
	CodeEra:         "the mailbox never stood there",
	CodeTooLarge:    "too large",
	CodeExists:      "it exists with another content",
	CodeGone:        "it is gone",
	CodeTerms:       "it does not grant these terms",
	CodeSlotVersion: "the slot has another version",
	CodeDamaged:     "what it keeps of it is damaged",
	CodeMismatch:    "the bytes are not those that it is named by",
	CodeQuota:       "there is no room for it: its quota is used up",
	CodeBusy:        "it takes nothing new for now",
	CodeRefused:     "it does not let us create anything",
}

const maxDetail = 512

// Error is a relay's answer to a request that it did not carry out.
type Error struct {
	Code   Code
	Wait   time.Duration // if positive, not again before; whole seconds
	Detail []byte        // at most 512 bytes, by code
	Op     string        // the request, as in "append"; filled in by the client
}

func (e *Error) Error() string {
	s := "relay: "
	if e.Op != "" {
		s += e.Op + ": "
	}
	if w, ok := words[e.Code]; ok {
		s += w
	} else {
		s += fmt.Sprintf("code %d", e.Code)
	}
	if cause := e.Gone(); cause != 0 {
		s += ": " + cause.String()
	}
	if e.Wait > 0 {
		s += fmt.Sprintf(", retry in %v", e.Wait)
	}
	return s
}

// Gone returns why a slot is gone, 0 if that is not what the error says.
func (e *Error) Gone() mailbox.SlotCause {
	if e.Code == CodeGone && len(e.Detail) == 1 {
		return mailbox.SlotCause(e.Detail[0])
	}
	return 0
}

// sentinels pairs the stores' errors with codes, for both directions.
var sentinels = []struct {
	err  error
	code Code
}{
	{mailbox.ErrNotFound, CodeDenied},
	{mailbox.ErrConflict, CodeConflict},
	{mailbox.ErrStale, CodeStale},
	{mailbox.ErrEra, CodeEra},
	{mailbox.ErrTooLarge, CodeTooLarge},
	{mailbox.ErrBadDeposit, CodeMalformed},
	{mailbox.ErrExists, CodeExists},
	{mailbox.ErrGone, CodeGone},
	{mailbox.ErrTerms, CodeTerms},
	{mailbox.ErrVersion, CodeSlotVersion},
	{mailbox.ErrQuota, CodeQuota},
	{mailbox.ErrBusy, CodeBusy},
	{mailbox.ErrUnknown, CodeUnknown},
	{blob.ErrNotFound, CodeDenied},
	{blob.ErrExists, CodeExists},
	{blob.ErrTooLarge, CodeTooLarge},
	{blob.ErrTerms, CodeTerms},
	{blob.ErrBadChunk, CodeMalformed},
	{blob.ErrMismatch, CodeMismatch},
	{blob.ErrDamaged, CodeDamaged},
	{blob.ErrQuota, CodeQuota},
	{blob.ErrBusy, CodeBusy},
	{blob.ErrUnknown, CodeUnknown},
}

// Is lets callers on either side of the wire test for the same sentinel. A relay
// that failed may have stored what was asked: CodeInternal is ErrUnknown too.
func (e *Error) Is(target error) bool {
	if e.Code == CodeInternal {
		return target == mailbox.ErrUnknown || target == blob.ErrUnknown
	}
	for _, s := range sentinels {
		if e.Code == s.code && target == s.err {
			return true
		}
	}
	return false
}

// ErrorOf returns what a relay answers for err. An error that it does not know is
// CodeInternal: its text stays with the relay.
func ErrorOf(err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	e := &Error{Code: CodeInternal}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			e.Code = s.code
			break
		}
	}
	var gone *mailbox.GoneError
	if errors.As(err, &gone) {
		e.Detail = []byte{byte(gone.Cause)}
	}
	switch e.Code {
	case CodeBusy, CodeQuota:
		e.Wait = 10 * time.Second
	}
	return e
}

func (e *Error) fields(f *codec.Fields) {
	wait := uint32(e.Wait / time.Second)
	f.U16((*uint16)(&e.Code))
	f.U32(&wait)
	f.Vec(maxDetail, &e.Detail)
	e.Wait = time.Duration(wait) * time.Second
}
