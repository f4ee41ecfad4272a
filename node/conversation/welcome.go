package conversation

import (
	"fmt"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
)

// Welcome is the letter that brings a device into a group (spec/group.md, section 6).
type Welcome struct {
	At      mailbox.Mark // of the commit that added the device: it reads on from there
	Chain   mailbox.Hash // at that place
	Names   []MemberName // what members are called, as far as the sender knows; hearsay
	Welcome []byte       // of MLS, with the tree inside
}

// MemberName is what an account calls itself.
type MemberName struct {
	Account [32]byte
	Name    string
}

const (
	welcomeVersion = 1
	maxNames       = 64 << 10
	maxMemberName  = 256
)

// Append appends the letter's bytes.
func (w *Welcome) Append(b []byte) []byte {
	b = appendMark(codec.AppendU16(b, welcomeVersion), w.At)
	b = append(b, w.Chain[:]...)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, n := range w.Names {
			b = codec.AppendVec(append(b, n.Account[:]...), n.Name)
		}
		return b
	})
	return codec.AppendVec(b, w.Welcome)
}

// ParseWelcome reads the letter. Its slices are parts of b.
func ParseWelcome(b []byte) (*Welcome, error) {
	r := codec.NewReader(b)
	if v := r.U16(); r.Err() == nil && v != welcomeVersion {
		r.Fail("welcome of version %d", v)
	}
	w := &Welcome{At: readMark(r)}
	r.Copy(w.Chain[:])
	r.Each(maxNames, func(r *codec.Reader) {
		var n MemberName
		r.Copy(n.Account[:])
		n.Name = string(r.Vec(maxMemberName))
		w.Names = append(w.Names, n)
	})
	w.Welcome = r.Vec(codec.MaxVec)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return w, nil
}
