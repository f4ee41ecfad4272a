package conversation

import (
	"crypto/sha256"
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/envelope"
	"sotto/relay/mailbox"
)

// Welcome is the letter that brings a device into a group (spec/group.md, section 6).
// What all devices need that one commit adds is the [Invitation]: it is in the letter
// or, if it is too large for that, spilled.
type Welcome struct {
	At      mailbox.Mark // of the commit that added the device: it reads on from there
	Chain   mailbox.Hash // at that place
	Package [32]byte     // names the key package that the device was added by; see PackageName
	Names   []MemberName // what members are called, as far as the sender knows; hearsay

	Inline  []byte // an Invitation; nil if it is spilled
	Relay   []byte // a RelayAddress: where it is spilled to
	Spilled envelope.Spilled
}

// MemberName is what an account calls itself.
type MemberName struct {
	Account [32]byte
	Name    string
}

// PackageName names a key package in a welcome: only who has it can make the name.
func PackageName(ref []byte) [32]byte { return sha256.Sum256(ref) }

const (
	welcomeVersion = 1
	maxNames       = 16 << 10
	maxMemberName  = 256

	inlineForm  = 1
	spilledForm = 2
)

// AddName adds a name unless there are too many; then members say it themselves.
func (w *Welcome) AddName(account [32]byte, name string) {
	sum := 0
	for _, n := range append(w.Names, MemberName{account, name}) {
		sum += len(n.Account) + codec.VarintLen(len(n.Name)) + len(n.Name)
	}
	if sum <= maxNames {
		w.Names = append(w.Names, MemberName{account, name})
	}
}

// Append appends the letter's bytes.
func (w *Welcome) Append(b []byte) []byte {
	b = appendMark(codec.AppendU16(b, welcomeVersion), w.At)
	b = append(append(b, w.Chain[:]...), w.Package[:]...)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, n := range w.Names {
			b = codec.AppendVec(append(b, n.Account[:]...), n.Name)
		}
		return b
	})
	if w.Inline != nil {
		return codec.AppendVec(codec.AppendU8(b, inlineForm), w.Inline)
	}
	return codec.AppendVecFunc(codec.AppendVec(codec.AppendU8(b, spilledForm), w.Relay), w.Spilled.Append)
}

// ParseWelcome reads the letter. Its slices are parts of b.
func ParseWelcome(b []byte) (*Welcome, error) {
	r := codec.NewReader(b)
	if v := r.U16(); r.Err() == nil && v != welcomeVersion {
		r.Fail("welcome of version %d", v)
	}
	w := &Welcome{At: readMark(r)}
	r.Copy(w.Chain[:])
	r.Copy(w.Package[:])
	r.Each(maxNames, func(r *codec.Reader) {
		var n MemberName
		r.Copy(n.Account[:])
		n.Name = string(r.Vec(maxMemberName))
		w.Names = append(w.Names, n)
	})
	switch form := r.U8(); form {
	case inlineForm:
		if w.Inline = r.Vec(envelope.MaxLetter); len(w.Inline) == 0 {
			r.Fail("an empty invitation")
		}
	case spilledForm:
		w.Relay = r.Vec(maxRelay)
		spilled := r.Vec(envelope.MaxSpill)
		if r.Err() == nil {
			var err error
			w.Spilled, err = envelope.ParseSpilled(spilled)
			r.Take(err)
		}
	default:
		r.Fail("a welcome of form %d", form)
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return w, nil
}

// Invitation is what all devices need that one commit adds: the MLS Welcome, and the
// tree, which is not in it.
type Invitation struct{ Welcome, Tree []byte }

// Append appends its bytes.
func (i Invitation) Append(b []byte) []byte {
	return codec.AppendVec(codec.AppendVec(b, i.Welcome), i.Tree)
}

// ParseInvitation reads them. Its slices are parts of b.
func ParseInvitation(b []byte) (i Invitation, err error) {
	r := codec.NewReader(b)
	i.Welcome, i.Tree = r.Vec(envelope.MaxSpill), r.Vec(envelope.MaxSpill)
	if err := r.Done(); err != nil {
		return Invitation{}, fmt.Errorf("%w: invitation: %w", ErrMalformed, err)
	}
	return i, nil
}
