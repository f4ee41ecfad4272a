package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
	"sotto/relay/mailbox"
)

// ErrSignature is wrapped when what a relay signed does not verify, or is about
// something else than was asked.
var ErrSignature = errors.New("the relay's signature does not hold")

const (
	headSize = 32 + 4*8 + 32
	maxPath  = 32 // hashes in a Merkle path
)

// MailboxID returns the id of a mailbox: who creates it chooses nothing of it.
func MailboxID(relay key.RelayPublic, admin key.CapabilityPublic, salt [16]byte) mailbox.ID {
	b := append([]byte("sotto/mailbox/1"), relay.Bytes()...)
	return sha256.Sum256(append(admin.Append(b), salt[:]...))
}

// SlotID returns the id of a slot.
func SlotID(relay key.RelayPublic, read key.CapabilityPublic) mailbox.SlotID {
	return sha256.Sum256(read.Append(relay.Append([]byte("sotto/slot/1"))))
}

func headFields(h *mailbox.Head, f *codec.Fields) {
	f.Array(h.Mailbox[:])
	f.U64((*uint64)(&h.Era))
	f.U64((*uint64)(&h.Seq))
	mark(f, &h.Commit)
	f.Array(h.Chain[:])
}

func headBytes(h mailbox.Head) []byte {
	return codec.Write(func(f *codec.Fields) { headFields(&h, f) })
}

// Tree is a signed Merkle tree over heads (spec/relay.md, section 5).
type Tree struct {
	heads     []mailbox.Head
	levels    [][]mailbox.Hash     // levels[0] are the leaves
	places    map[mailbox.Hash]int // of leaves, if there are many
	signature [key.SignatureSize]byte
}

func leafHash(h mailbox.Head) mailbox.Hash {
	return sha256.Sum256(append([]byte("sotto/leaf/1"), headBytes(h)...))
}

func nodeHash(l, r mailbox.Hash) mailbox.Hash {
	return sha256.Sum256(append(append([]byte("sotto/node/1"), l[:]...), r[:]...))
}

func rootLabel(leaves uint32, root mailbox.Hash) []byte {
	return append(codec.AppendU32(nil, leaves), root[:]...)
}

// SignHeads signs heads with one signature. Pairing neighbours level by level, a
// last one without neighbour going up as it is, gives the shape of RFC 9162.
func SignHeads(k key.RelaySecret, heads []mailbox.Head) *Tree {
	t := &Tree{heads: heads}
	level := make([]mailbox.Hash, len(heads))
	for i, h := range heads {
		level[i] = leafHash(h)
	}
	if len(heads) > 8 {
		t.places = make(map[mailbox.Hash]int, len(heads))
		for i, leaf := range level {
			t.places[leaf] = i
		}
	}
	for t.levels = append(t.levels, level); len(level) > 1; t.levels = append(t.levels, level) {
		var up []mailbox.Hash
		for i := 0; i+1 < len(level); i += 2 {
			up = append(up, nodeHash(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			up = append(up, level[len(level)-1])
		}
		level = up
	}
	t.signature = [key.SignatureSize]byte(k.Sign("sotto/root/1", rootLabel(uint32(len(heads)), level[0])))
	return t
}

// Head returns the head at position i with its proof.
func (t *Tree) Head(i int) SignedHead {
	s := SignedHead{Head: t.heads[i], Index: uint32(i), Leaves: uint32(len(t.heads)), Signature: t.signature}
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			s.Path = append(s.Path, level[sibling])
		}
		i /= 2
	}
	return s
}

// Find returns the position of a head.
func (t *Tree) Find(h mailbox.Head) (int, bool) {
	if t.places != nil {
		i, ok := t.places[leafHash(h)]
		return i, ok
	}
	for i := range t.heads {
		if t.heads[i] == h {
			return i, true
		}
	}
	return 0, false
}

// SignedHead is a head with the relay's signature: transferable, and says only
// what stood at its seq.
type SignedHead struct {
	Head      mailbox.Head
	Index     uint32
	Leaves    uint32
	Path      []mailbox.Hash
	Signature [key.SignatureSize]byte
}

func (s *SignedHead) fields(f *codec.Fields) {
	headFields(&s.Head, f)
	f.U32(&s.Index)
	f.U32(&s.Leaves)
	codec.List(f, maxPath*len(mailbox.Hash{}), maxPath, &s.Path, func(h *mailbox.Hash, f *codec.Fields) { f.Array(h[:]) })
	f.Array(s.Signature[:])
}

// Verify returns an error that wraps ErrSignature unless the relay signed the head.
func (s *SignedHead) Verify(relay key.RelayPublic) error {
	if s.Leaves == 0 || s.Index >= s.Leaves {
		return fmt.Errorf("%w: leaf %d of %d", ErrSignature, s.Index, s.Leaves)
	}
	h, path := leafHash(s.Head), s.Path
	for i, n := s.Index, s.Leaves; n > 1; i, n = i/2, (n+1)/2 {
		if i^1 >= n {
			continue // goes up as it is
		}
		if len(path) == 0 {
			return fmt.Errorf("%w: a path that is too short", ErrSignature)
		}
		if i%2 == 0 {
			h = nodeHash(h, path[0])
		} else {
			h = nodeHash(path[0], h)
		}
		path = path[1:]
	}
	if len(path) > 0 {
		return fmt.Errorf("%w: a path that is too long", ErrSignature)
	}
	if !relay.Verify(s.Signature[:], "sotto/root/1", rootLabel(s.Leaves, h)) {
		return fmt.Errorf("%w: on a head", ErrSignature)
	}
	return nil
}

// Receipt is the relay's word that an entry is durable.
type Receipt struct {
	Head   SignedHead
	Minute mailbox.Minute
	Again  bool // it had been stored before
}

func (r *Receipt) fields(f *codec.Fields) {
	r.Head.fields(f)
	f.U32((*uint32)(&r.Minute))
	f.Flag(&r.Again)
}

// StatusRequest asks where a mailbox stands now.
type StatusRequest struct {
	Mailbox mailbox.ID
	Gen     mailbox.Gen
	Nonce   Nonce
}

func (m *StatusRequest) fields(f *codec.Fields) {
	f.Array(m.Mailbox[:])
	f.U32((*uint32)(&m.Gen))
	f.Array(m.Nonce[:])
}

// Status says where a mailbox stands, and that this is the newest.
type Status struct {
	Head      mailbox.Head
	Gen       mailbox.Gen
	Ended     bool // Gen is over, and Head is where it ended
	Minute    mailbox.Minute
	Signature [key.SignatureSize]byte
}

func (s *Status) unsigned(f *codec.Fields) {
	headFields(&s.Head, f)
	f.U32((*uint32)(&s.Gen))
	f.Flag(&s.Ended)
	f.U32((*uint32)(&s.Minute))
}

func (s *Status) fields(f *codec.Fields) {
	s.unsigned(f)
	f.Array(s.Signature[:])
}

func (s *Status) signed(n Nonce) []byte {
	return append(codec.Write(s.unsigned), n[:]...)
}

// Sign signs the status for one request.
func (s *Status) Sign(k key.RelaySecret, n Nonce) {
	s.Signature = [key.SignatureSize]byte(k.Sign("sotto/status/1", s.signed(n)))
}

// Verify returns an error that wraps ErrSignature unless the relay signed the
// status for the request with this nonce.
func (s *Status) Verify(relay key.RelayPublic, n Nonce) error {
	if !relay.Verify(s.Signature[:], "sotto/status/1", s.signed(n)) {
		return fmt.Errorf("%w: on a status", ErrSignature)
	}
	return nil
}
