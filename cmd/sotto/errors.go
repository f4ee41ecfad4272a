package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sotto/node"
	"sotto/node/api"
)

// Exit codes (spec/api.md, section 5).
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartly      = 3
	exitLocked      = 4
	exitNotFound    = 5
	exitNotTrusted  = 6
	exitUnreachable = 7
	exitTimedOut    = 8
	exitQuota       = 9
	exitDamaged     = 10
	exitBusy        = 11
	exitInterrupted = 130
)

// usageError is a call that is wrong in itself.
type usageError struct {
	err  error
	next string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(c *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), c.CommandPath() + " --help"}
}

// hinted is an error with what to do next.
type hinted struct {
	error
	next string
}

func (e *hinted) Unwrap() error { return e.error }

func hint(err error, next string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, next}
}

var (
	errPartly     = errors.New("only some of it is done")
	errPassphrase = errors.New("no passphrase")
)

// remote is an error that another process of ours has reported.
type remote struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Exit    int    `json:"exit"`
}

func (r *remote) Error() string { return r.Message }

// answers says for each error how the command ends and what to do next. The first
// that fits counts.
var answers = []struct {
	err  error
	exit int
	next string
}{
	{context.Canceled, exitInterrupted, ""},
	{errPartly, exitPartly, ""},
	{errPassphrase, exitLocked, "write it to a file that only you can read, and use --passphrase-file FILE"},
	{api.ErrNotRunning, exitFailed, "start it: sotto up --detach"},
	{node.ErrUncertain, exitFailed, "look before you repeat it: sotto status"},
	{context.DeadlineExceeded, exitTimedOut, ""},
	{node.ErrLocked, exitLocked, "try again; nobody can reset a passphrase"},
	{node.ErrNotFound, exitNotFound, ""},
	{node.ErrGone, exitNotFound, "ask for a new link"},
	{node.ErrNotTrusted, exitNotTrusted, ""},
	{node.ErrFrozen, exitNotTrusted, "see why: sotto chat list"},
	{node.ErrUnreachable, exitUnreachable, "see what is tried: sotto status"},
	{node.ErrDiskFull, exitQuota, "make room; nothing is lost, and it goes on by itself"},
	{node.ErrDamaged, exitDamaged, "nothing was changed; keep a copy of the folder, and put back from another what is named above"},
	{node.ErrNewer, exitFailed, "update Sotto; nothing was changed"},
	{node.ErrBusy, exitBusy, "use that node (sotto status) or stop it (sotto down)"},
	{node.ErrBlocked, exitFailed, "sotto contact unblock NAME"},
	{node.ErrNotReady, exitFailed, "try again in a while"},
	{api.ErrBadToken, exitNotTrusted, "make another: sotto token create"},
	{api.ErrNotPermitted, exitNotTrusted, "see what it permits: sotto token list"},
	{node.ErrNotAllowed, exitNotTrusted, "see who may: sotto group members GROUP"},
	{node.ErrAmbiguous, exitUsage, "use more of the id: sotto contact list"},
	{node.ErrInvalid, exitUsage, ""},
	{node.ErrTooLarge, exitUsage, ""},
}

// tell returns what is reported of err.
func tell(err error) remote {
	r := remote{Code: api.CodeOf(err), Message: strings.ReplaceAll(err.Error(), "\n", "; "), Exit: exitFailed}
	var far *remote
	if errors.As(err, &far) {
		return *far
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			r.Exit, r.Hint = a.exit, a.next
			break
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		r.Code, r.Message = "interrupted", "interrupted"
	case errors.Is(err, errPassphrase):
		r.Code = "locked"
	case errors.Is(err, errPartly):
		r.Code = "partly"
	}
	var u *usageError
	var h *hinted
	if errors.As(err, &u) {
		r.Code, r.Exit, r.Hint = "usage", exitUsage, u.next
	} else if errors.As(err, &h) {
		r.Hint = h.next
	}
	// Some errors know themselves what to do next.
	if _, command, _ := strings.Cut(r.Hint, "sotto "); command != "" && strings.Contains(r.Message, "sotto "+command) {
		r.Hint = ""
	}
	return r
}

// report says what went wrong and returns the exit code.
func (a *app) report(err error) int {
	r := tell(err)
	if a.json {
		b, _ := json.Marshal(map[string]remote{"error": r}) // strings and a number
		a.say("%s", b)
		return r.Exit
	}
	a.say("%s %s", a.paint(a.err, red, "sotto:"), safe(r.Message))
	if r.Hint != "" {
		a.say("next:  %s", safe(r.Hint))
	}
	return r.Exit
}
