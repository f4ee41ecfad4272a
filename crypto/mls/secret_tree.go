package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// ratchetKind tells the two ratchets of a leaf apart.
type ratchetKind uint8

const (
	handshake ratchetKind = iota
	application
)

func kindOf(t ContentType) ratchetKind {
	if t == ContentApplication {
		return application
	}
	return handshake
}

// A messageKey encrypts one message.
type messageKey struct {
	key   [maxKey]byte
	nonce [nonceSize]byte
}

func (k *messageKey) wipe() { *k = messageKey{} }

// A skippedKey waits for a message that was overtaken.
type skippedKey struct {
	generation uint32
	messageKey
}

// A ratchet derives the keys of one sender's messages of one kind (RFC 9420,
// Section 9.1). It is not changed once made: moving on makes another.
type ratchet struct {
	generation uint32        // of the next message that has not been derived
	secret     [maxHash]byte // from which it is derived; the first Nh bytes count
	skipped    []skippedKey  // ascending; shared between ratchets
}

// A ratchetStepper derives key after key from a ratchet.
type ratchetStepper struct {
	s      *suite
	secret [maxHash]byte
}

// step fills key, unless it is nil, with the key of generation and moves on.
func (r *ratchetStepper) step(generation uint32, key *messageKey) {
	var context [4]byte
	binary.BigEndian.PutUint32(context[:], generation)
	d := r.s.kdf(r.secret[:r.s.nh])
	if key != nil {
		d.expand(key.key[:r.s.nk], "key", context[:])
		d.expand(key.nonce[:], "nonce", context[:])
	}
	d.expand(r.secret[:r.s.nh], "secret", context[:])
}

// next fills key with the next key, for sending, and returns the ratchet after it.
func (r *ratchet) next(s *suite, key *messageKey) (*ratchet, error) {
	if r.generation == math.MaxUint32 {
		return nil, fmt.Errorf("%w: all message keys of the epoch are used", ErrInvalid)
	}
	step := ratchetStepper{s, r.secret}
	step.step(r.generation, key)
	return &ratchet{generation: r.generation + 1, secret: step.secret, skipped: r.skipped}, nil
}

// key fills key with the key of generation, for receiving, and returns the ratchet
// after it.
func (r *ratchet) key(s *suite, generation uint32, key *messageKey, keep, forward int) (*ratchet, error) {
	if generation < r.generation {
		i, found := slices.BinarySearchFunc(r.skipped, generation, func(k skippedKey, g uint32) int {
			return int(int64(k.generation) - int64(g))
		})
		if !found {
			return nil, fmt.Errorf("%w: generation %d", ErrReplayed, generation)
		}
		*key = r.skipped[i].messageKey
		out := &ratchet{generation: r.generation, secret: r.secret}
		if len(r.skipped) > 1 {
			out.skipped = slices.Concat(r.skipped[:i], r.skipped[i+1:])
		}
		return out, nil
	}
	ahead := generation - r.generation
	if int64(ahead) > int64(forward) || generation == math.MaxUint32 {
		return nil, fmt.Errorf("%w: %d", ErrTooFarAhead, generation)
	}
	out := &ratchet{generation: generation + 1, skipped: r.skipped}
	step := ratchetStepper{s, r.secret}
	if ahead > 0 && keep > 0 {
		fresh := min(int(ahead), keep)
		old := r.skipped[max(0, len(r.skipped)+fresh-keep):]
		out.skipped = make([]skippedKey, len(old), len(old)+fresh)
		copy(out.skipped, old)
	}
	for g := r.generation; g < generation; g++ {
		if int64(generation-g) > int64(keep) {
			step.step(g, nil)
			continue
		}
		k := skippedKey{generation: g}
		step.step(g, &k.messageKey)
		out.skipped = append(out.skipped, k)
	}
	step.step(generation, key)
	out.secret = step.secret
	return out, nil
}

// A subtreeSecret is the secret of a tree node under which no key was used yet.
type subtreeSecret struct {
	node   nodeIndex
	secret []byte
}

// chunkLeaves is how many leaves' ratchets lie together. Changing one copies its
// chunk and the list of chunks, so that both are short in groups up to a thousand.
const chunkLeaves = 16

type ratchetChunk [2 * chunkLeaves]*ratchet

// A secretTree holds the keys of all members' messages in one epoch (Section 9).
// It is a value: its methods return changed copies, which share what is the same.
type secretTree struct {
	s      *suite
	leaves leafCount
	past   bool // of an epoch that is over, in which no handshake message is read

	// subtrees are the secrets that have not been taken apart, from the left: at
	// first that of the root. What is consumed is not here any more.
	subtrees []subtreeSecret
	chunks   []*ratchetChunk
}

func newSecretTree(s *suite, leaves leafCount, encryption []byte) secretTree {
	return secretTree{s: s, leaves: leaves, subtrees: []subtreeSecret{{leaves.root(), encryption}}}
}

func (t *secretTree) ratchet(l LeafIndex, kind ratchetKind) *ratchet {
	if c := int(l / chunkLeaves); c < len(t.chunks) && t.chunks[c] != nil {
		return t.chunks[c][2*(l%chunkLeaves)+LeafIndex(kind)]
	}
	return nil
}

// with returns t with r as a ratchet of l.
func (t secretTree) with(l LeafIndex, kind ratchetKind, r *ratchet) secretTree {
	c := int(l / chunkLeaves)
	chunks := make([]*ratchetChunk, max(len(t.chunks), c+1))
	copy(chunks, t.chunks)
	chunk := new(ratchetChunk)
	if chunks[c] != nil {
		*chunk = *chunks[c]
	}
	chunk[2*(l%chunkLeaves)+LeafIndex(kind)] = r
	chunks[c] = chunk
	t.chunks = chunks
	return t
}

// subtreeOf returns the position in subtrees of the one with l in it.
func (t *secretTree) subtreeOf(l LeafIndex) (int, bool) {
	i, _ := slices.BinarySearchFunc(t.subtrees, l.node(), func(s subtreeSecret, x nodeIndex) int {
		return int(s.node.last()) - int(x)
	})
	return i, i < len(t.subtrees) && t.subtrees[i].node.contains(l.node())
}

// opened returns t with the ratchets of l made, if they were not.
func (t secretTree) opened(l LeafIndex) (secretTree, error) {
	i, found := t.subtreeOf(l)
	if !found {
		if t.ratchet(l, application) == nil && t.ratchet(l, handshake) == nil {
			return t, fmt.Errorf("%w: no secret for leaf %d", ErrReplayed, l)
		}
		return t, nil
	}
	// Walk down to the leaf; what branches off on the way stays, what is on it is
	// consumed. The first secret may belong to others too (see Group.Retire).
	x, secret := t.subtrees[i].node, bytes.Clone(t.subtrees[i].secret)
	var left, right []subtreeSecret
	for !x.isLeaf() {
		d := t.s.kdf(secret)
		a := subtreeSecret{x.left(), d.secret("tree", []byte("left"))}
		b := subtreeSecret{x.right(), d.secret("tree", []byte("right"))}
		clear(secret)
		if l.node() < x {
			right = append(right, b)
			x, secret = a.node, a.secret
		} else {
			left = append(left, a)
			x, secret = b.node, b.secret
		}
	}
	slices.Reverse(right)
	t.subtrees = slices.Concat(t.subtrees[:i], left, right, t.subtrees[i+1:])
	d := t.s.kdf(secret)
	defer clear(secret)
	if !t.past {
		hs := new(ratchet)
		d.expand(hs.secret[:t.s.nh], "handshake", nil)
		t = t.with(l, handshake, hs)
	}
	app := new(ratchet)
	d.expand(app.secret[:t.s.nh], "application", nil)
	return t.with(l, application, app), nil
}

// receiving returns what of t opens late application messages of others than self.
func (t secretTree) receiving(self LeafIndex) secretTree {
	chunks := make([]*ratchetChunk, len(t.chunks))
	for c, old := range t.chunks {
		if old == nil {
			continue
		}
		chunk := *old
		for i := range chunk {
			if ratchetKind(i%2) == handshake || LeafIndex(c*chunkLeaves+i/2) == self {
				chunk[i] = nil
			}
		}
		chunks[c] = &chunk
	}
	t.chunks, t.past = chunks, true
	return t
}

// whole reports whether a stored tree has for each leaf either a secret above it or
// its ratchets.
func (t *secretTree) whole() bool {
	for l := range LeafIndex(t.leaves) {
		hs, app := t.ratchet(l, handshake) != nil, t.ratchet(l, application) != nil
		if _, covered := t.subtreeOf(l); covered && (hs || app) || t.past && hs || !t.past && (app != hs || app == covered) {
			return false
		}
	}
	return true
}

// each calls f for every ratchet of t.
func (t *secretTree) each(f func(LeafIndex, ratchetKind)) {
	for c, chunk := range t.chunks {
		if chunk == nil {
			continue
		}
		for i, r := range chunk {
			if r != nil {
				f(LeafIndex(c*chunkLeaves+i/2), ratchetKind(i%2))
			}
		}
	}
}

// set is with for a tree that nobody else shares.
func (t *secretTree) set(l LeafIndex, kind ratchetKind, r *ratchet) {
	c := int(l / chunkLeaves)
	for len(t.chunks) <= c {
		t.chunks = append(t.chunks, nil)
	}
	if t.chunks[c] == nil {
		t.chunks[c] = new(ratchetChunk)
	}
	t.chunks[c][2*(l%chunkLeaves)+LeafIndex(kind)] = r
}
