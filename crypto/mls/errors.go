package mls

import (
	"errors"
	"fmt"
)

// Errors on which a caller may act. Every error of this package about the bytes
// of another member wraps one of these or [sotto/crypto/codec.ErrMalformed].
var (
	// ErrUnsupported is returned for what is valid, or may be, and is left out of
	// this package or not understood by it: a cipher suite, a proposal type, a
	// credential type.
	ErrUnsupported = errors.New("unsupported")

	// ErrInvalid is returned for messages and arguments that are well formed and
	// that RFC 9420 or the callbacks of Config forbid.
	ErrInvalid = errors.New("invalid")

	// ErrAuthentication is returned when a signature, a tag or a decryption fails.
	// Unless a [SenderError] says who sent these bytes, nobody is known to have.
	ErrAuthentication = errors.New("not authentic")

	// ErrWrongGroup is returned for a message of another group.
	ErrWrongGroup = errors.New("message of another group")

	// ErrWrongEpoch is returned for a message of an epoch that has not begun
	// here, and for a commit or proposal of one that is over.
	ErrWrongEpoch = errors.New("message of another epoch")

	// ErrEpochForgotten is returned for an application message of a past epoch
	// whose secrets are no longer, or never were, held.
	ErrEpochForgotten = errors.New("epoch forgotten")

	// ErrTooFarAhead is returned, before any work is done, for a message whose
	// generation is more than Config.MaxForward beyond the last one.
	ErrTooFarAhead = errors.New("generation too far ahead")

	// ErrReplayed is returned for a message whose key is gone: it was opened
	// before, or it comes later than Config.OutOfOrder allows.
	ErrReplayed = errors.New("message key already used")

	// ErrNotMember is returned for a message whose sender is no member, and for
	// an operation on a leaf at which there is no member.
	ErrNotMember = errors.New("not a member")

	// ErrOwnMessage is returned by Process for a message that this member sent:
	// its key was deleted when it was sent.
	ErrOwnMessage = errors.New("own message")

	// ErrRolledBack is returned by Process for a message that is proven to be
	// this member's own and that its state does not know to have been sent: the
	// state is older than what left the device. Nothing may be encrypted before a
	// commit with a path has led to another epoch.
	ErrRolledBack = errors.New("own message from the future of this state")

	// ErrPendingProposals is returned by Encrypt while proposals wait for a
	// commit (RFC 9420, Section 12.4).
	ErrPendingProposals = errors.New("proposals wait for a commit")

	// ErrUnknownProposal is returned for a commit that refers to a proposal which
	// has not arrived. The commit can be processed after the proposal.
	ErrUnknownProposal = errors.New("commit refers to an unknown proposal")

	// ErrMissingPSK is returned when a pre-shared key is needed and not known.
	ErrMissingPSK = errors.New("pre-shared key not known")

	// ErrNotForUs is returned by Join for a welcome that names another key package.
	ErrNotForUs = errors.New("welcome for another key package")

	// ErrRemoved is returned by Merge and Export of a staged commit that removes
	// this member.
	ErrRemoved = errors.New("removed from the group")

	// ErrReInit is returned for an operation on a group that a ReInit proposal
	// has ended (RFC 9420, Section 11.2).
	ErrReInit = errors.New("group ended by reinitialization")

	// ErrStale is returned by Merge for something staged from another epoch.
	ErrStale = errors.New("staged for another state of the group")

	// ErrCorrupt is returned for records, bundles and staged commits that were
	// not written by this package or have been damaged since.
	ErrCorrupt = errors.New("stored state is corrupt")
)

// SenderError is the error of [Group.Process] for a message that is proven to be
// of Sender and cannot be taken. Where it wraps ErrInvalid or ErrAuthentication the
// sender broke the rules, perhaps towards this member alone: so does a commit that
// leaves others no way to notice (RFC 9420, Section 16.12).
type SenderError struct {
	Sender Sender
	Err    error
}

func (e *SenderError) Error() string {
	if e.Sender.Type == SenderMember {
		return fmt.Sprintf("from leaf %d: %v", e.Sender.Leaf, e.Err)
	}
	return fmt.Sprintf("from sender of type %d: %v", e.Sender.Type, e.Err)
}

func (e *SenderError) Unwrap() error { return e.Err }
