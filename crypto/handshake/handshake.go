// Package handshake is the first contact of two people through a relay that nobody
// trusts: link, offer, and one Noise handshake (spec/invite.md). It does no I/O and
// keeps no clock.
//
// # What the caller does
//
// An inviter calls [NewInvite], stores the [Inviter], hands over the [Link] and puts
// the sealed offer into a relay's slot. An invitee reads the link with [ParseLink],
// takes the offer with [Link.OpenOffer], calls [Begin], stores the [Invitee] and
// posts the request. The inviter reads it with [Inviter.Read], makes the group with
// [Request.Secrets], and answers with [Request.Accept]; the invitee reads that with
// [Invitee.Finish]. Neither need be online at the same time.
//
// A request can be read again as often as it comes: Noise does not tell a replay. The
// caller answers one request once, and knows a repeat by [RequestBody.Hash]. What it
// has made it writes down before anything leaves, and once an invite has been answered
// it erases the Inviter.
//
// # What is not here
//
// The MLS group, which gets its pre-shared key and its binding from [Secrets]; the
// letters in which requests and answers travel (package envelope); slots, inboxes, and
// whom to invite.
package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

var (
	// ErrHandshake is wrapped when a message of the handshake does not hold: it was
	// changed on the way, is for another handshake, or comes from who does not keep
	// to the protocol.
	ErrHandshake = errors.New("the handshake does not hold")

	// ErrState is wrapped when what is read back is not what was stored.
	ErrState = errors.New("the stored state of a handshake is damaged")
)

// hidden is bytes that do not print: of a function fmt shows the address alone.
type hidden func() []byte

func hide(b []byte) hidden { return func() []byte { return b } }

// Secrets is what a handshake gives to the group that comes of it
// (spec/invite.md, section 5). It prints without its key.
type Secrets struct {
	PSKID   []byte   // id of the external pre-shared key
	Binding [32]byte // stands in the group's context
	psk     hidden
}

// PSK returns the pre-shared key, 48 bytes.
func (s Secrets) PSK() []byte { return s.psk() }

func (s Secrets) String() string { return "a handshake's secrets" }

// Format implements [fmt.Formatter]: every verb prints String.
func (s Secrets) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Secrets) LogValue() slog.Value { return slog.StringValue(s.String()) }

// newSecrets derives them from the handshake's hash after message 1, what either side
// drew, and what X-Wing gave.
func newSecrets(h []byte, invitee, inviter [32]byte, ss []byte) Secrets {
	ikm := append(append(append([]byte(nil), invitee[:]...), inviter[:]...), ss...)
	psk, err := hkdf.Key(sha512.New384, ikm, h, "sotto/contact-psk/1", 48)
	if err != nil {
		panic("handshake: " + err.Error()) // unreachable: 48 bytes are never too many
	}
	id := sha256.Sum256(h)
	return Secrets{append([]byte("sotto/contact"), id[:]...), sha256.Sum256(append([]byte("sotto/bind"), h...)), hide(psk)}
}
