package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"sotto/node"
)

var (
	// ErrNotRunning says that no node answers at the home's socket.
	ErrNotRunning = errors.New("no node is running")
	// ErrStopped is at the end of a stream whose node has stopped or gone away, too.
	ErrStopped = node.ErrStopped
)

// Codes of problems that are not about the node's answer but about the request.
const (
	codeInternal = "internal"  // the node failed; its log says more
	codeRoute    = "no_route"  // no such path or method
	codeRefused  = "refused"   // the request may come from a browser
	codeStreams  = "too_many"  // too many event streams
	codeStopping = "stopping"  // the node is about to stop
	codeTimeout  = "timed_out" // the node gave up waiting
)

// codes pairs errors with the code that stands for them in a problem, for both
// directions, and with the status that is nearest. Codes are never reused.
var codes = []struct {
	err    error
	code   string
	status int
}{
	// What may be so whatever else is: it comes first.
	{node.ErrUncertain, "uncertain", http.StatusInternalServerError},
	{node.ErrNotFound, "not_found", http.StatusNotFound},
	{node.ErrAmbiguous, "ambiguous", http.StatusConflict},
	{node.ErrExists, "exists", http.StatusConflict},
	{node.ErrInvalid, "invalid", http.StatusUnprocessableEntity},
	{node.ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge},
	{node.ErrLocked, "locked", http.StatusForbidden},
	{node.ErrNotTrusted, "not_trusted", http.StatusForbidden},
	{node.ErrUnreachable, "unreachable", http.StatusBadGateway},
	{node.ErrGone, "gone", http.StatusGone},
	{node.ErrDiskFull, "disk_full", http.StatusInsufficientStorage},
	{node.ErrBusy, "busy", http.StatusConflict},
	{node.ErrDamaged, "damaged", http.StatusInternalServerError},
	{node.ErrNewer, "newer", http.StatusInternalServerError},
	{node.ErrFrozen, "frozen", http.StatusConflict},
	{node.ErrBlocked, "blocked", http.StatusConflict},
	{node.ErrNotReady, "not_ready", http.StatusConflict},
	{node.ErrNotAllowed, "not_allowed", http.StatusForbidden},
	{context.DeadlineExceeded, codeTimeout, http.StatusGatewayTimeout},
	{ErrStopped, codeStopping, http.StatusServiceUnavailable},
	{ErrBadToken, "bad_token", http.StatusUnauthorized},
	{ErrNotPermitted, "not_permitted", http.StatusForbidden},
}

// Problem is the body of an answer that is an error: a problem document of RFC 9457
// with a code that programs can rely on.
type Problem struct {
	Title  string `json:"title" doc:"the status in words"`
	Status int    `json:"status"`
	Code   string `json:"code" doc:"what a program acts on; see spec/api.md"`
	Detail string `json:"detail" doc:"what was being done, and why it did not work"`
}

func problem(status int, code, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// problemOf returns what a client is told about err. The words of an error that has
// no code are the node's own; they name no secret.
func problemOf(err error) *Problem {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return problem(c.status, c.code, err.Error())
		}
	}
	return problem(http.StatusInternalServerError, codeInternal, err.Error())
}

// Error returns the detail.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail
}

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes it a problem document.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// Is lets a client test for the node's error.
func (p *Problem) Is(target error) bool {
	for _, c := range codes {
		if c.code == p.Code && c.err == target {
			return true
		}
	}
	return false
}

// ofHuma turns a complaint of the library's about a request into a problem. What
// the request held is not repeated.
func ofHuma(e *huma.ErrorModel) *Problem {
	p := problem(e.Status, "invalid", e.Detail)
	switch {
	case e.Status == http.StatusRequestEntityTooLarge:
		p.Code = "too_large"
	case e.Status >= 500:
		p.Code = codeInternal
	}
	for i, d := range e.Errors {
		if i == 8 {
			break
		}
		p.Detail += "; " + d.Location + ": " + d.Message
	}
	return p
}

// CodeOf returns the code that the API gives err, "internal" for an error that it
// does not know.
func CodeOf(err error) string {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p.Code
	case errors.Is(err, ErrNotRunning):
		return "not_running"
	}
	return problemOf(err).Code
}
