package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
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
// Section 9.1). Its methods leave it as it is and return the one after it.
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
	defer d.done()
	if key != nil {
		d.expand(key.key[:r.s.nk], "key", context[:])
		d.expand(key.nonce[:], "nonce", context[:])
	}
	d.expand(r.secret[:r.s.nh], "secret", context[:])
}

// next fills key with the next key, for sending, and returns the ratchet after it.
func (r *ratchet) next(s *suite, key *messageKey) (ratchet, error) {
	if r.generation == math.MaxUint32 {
		return ratchet{}, fmt.Errorf("%w: all message keys of the epoch are used", ErrInvalid)
	}
	step := ratchetStepper{s, r.secret}
	step.step(r.generation, key)
	return ratchet{generation: r.generation + 1, secret: step.secret, skipped: r.skipped}, nil
}

// key fills key with the key of generation, for receiving, and returns the ratchet
// after it.
func (r *ratchet) key(s *suite, generation uint32, key *messageKey, keep, forward int) (ratchet, error) {
	if generation < r.generation {
		i, found := slices.BinarySearchFunc(r.skipped, generation, func(k skippedKey, g uint32) int {
			return int(int64(k.generation) - int64(g))
		})
		if !found {
			return ratchet{}, fmt.Errorf("%w: generation %d", ErrReplayed, generation)
		}
		*key = r.skipped[i].messageKey
		out := ratchet{generation: r.generation, secret: r.secret}
		if len(r.skipped) > 1 {
			out.skipped = slices.Concat(r.skipped[:i], r.skipped[i+1:])
		}
		return out, nil
	}
	ahead := generation - r.generation
	if int64(ahead) > int64(forward) || generation == math.MaxUint32 {
		return ratchet{}, fmt.Errorf("%w: %d", ErrTooFarAhead, generation)
	}
	out := ratchet{generation: generation + 1, skipped: r.skipped}
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

// An owner marks what one group has made and shares with no clone yet: that it may
// overwrite, everything else it copies first. Zero is nobody.
type owner = uint64

var owners atomic.Uint64

func newOwner() owner { return owners.Add(1) }

// chunkLeaves is how many leaves' ratchets lie together. Changing one copies its
// chunk and the list of chunks, so that both are short in groups up to a thousand.
const chunkLeaves = 16

type ratchetChunk struct {
	own      owner
	ratchets [2 * chunkLeaves]*ownedRatchet
}

type ownedRatchet struct {
	ratchet
	own owner
}

type chunkList struct {
	own    owner
	chunks []*ratchetChunk
}

// What a group copied and does not need any more, see Group.Retire, serves for the next
// copy: it is empty.
var (
	ratchetPool = sync.Pool{New: func() any { return new(ownedRatchet) }}
	chunkPool   = sync.Pool{New: func() any { return new(ratchetChunk) }}
	listPool    = sync.Pool{New: func() any { return new(chunkList) }}
)

// A secretTree holds the keys of all members' messages in one epoch (Section 9).
// It is a value, and shares what is the same with its copies.
type secretTree struct {
	s      *suite
	leaves leafCount
	past   bool // of an epoch that is over, in which no handshake message is read

	// subtrees are the secrets that have not been taken apart, from the left: at
	// first that of the root. What is consumed is not here any more.
	subtrees []subtreeSecret
	list     *chunkList // nil if there is no ratchet
}

func newSecretTree(s *suite, leaves leafCount, encryption []byte) secretTree {
	return secretTree{s: s, leaves: leaves, subtrees: []subtreeSecret{{leaves.root(), encryption}}}
}

// chunk returns the chunk of this number, or nil.
func (t *secretTree) chunk(c int) *ratchetChunk {
	if t.list == nil || c >= len(t.list.chunks) {
		return nil
	}
	return t.list.chunks[c]
}

// chunks returns all of them; those without a ratchet are nil.
func (t *secretTree) chunks() []*ratchetChunk {
	if t.list == nil {
		return nil
	}
	return t.list.chunks
}

func (t *secretTree) ratchet(l LeafIndex, kind ratchetKind) *ratchet {
	if chunk := t.chunk(int(l / chunkLeaves)); chunk != nil {
		if r := chunk.ratchets[2*(l%chunkLeaves)+LeafIndex(kind)]; r != nil {
			return &r.ratchet
		}
	}
	return nil
}

// set makes r a ratchet of l. It overwrites what is by's and copies the rest.
func (t *secretTree) set(by owner, l LeafIndex, kind ratchetKind, r ratchet) {
	c := int(l / chunkLeaves)
	if t.list == nil || t.list.own != by || c >= len(t.list.chunks) {
		list := listPool.Get().(*chunkList)
		list.own = by
		list.chunks = slices.Grow(list.chunks, max(len(t.chunks()), c+1))[:max(len(t.chunks()), c+1)]
		copy(list.chunks, t.chunks())
		t.list = list
	}
	chunk := t.list.chunks[c]
	if chunk == nil || chunk.own != by {
		old := chunk
		chunk = chunkPool.Get().(*ratchetChunk)
		chunk.own = by
		if old != nil {
			chunk.ratchets = old.ratchets
		}
		t.list.chunks[c] = chunk
	}
	slot := &chunk.ratchets[2*(l%chunkLeaves)+LeafIndex(kind)]
	if *slot == nil || (*slot).own != by {
		*slot = ratchetPool.Get().(*ownedRatchet)
		(*slot).own = by
	}
	(*slot).ratchet = r
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
		d.done()
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
	defer d.done()
	defer clear(secret)
	var hs, app ratchet
	by := newOwner()
	if !t.past {
		d.expand(hs.secret[:t.s.nh], "handshake", nil)
		t.set(by, l, handshake, hs)
	}
	d.expand(app.secret[:t.s.nh], "application", nil)
	t.set(by, l, application, app)
	return t, nil
}

// receiving returns what of t opens late application messages of others than self.
func (t secretTree) receiving(self LeafIndex) secretTree {
	list := &chunkList{chunks: make([]*ratchetChunk, len(t.chunks()))}
	for c, old := range t.chunks() {
		if old == nil {
			continue
		}
		chunk := &ratchetChunk{ratchets: old.ratchets}
		for i := range chunk.ratchets {
			if ratchetKind(i%2) == handshake || LeafIndex(c*chunkLeaves+i/2) == self {
				chunk.ratchets[i] = nil
			}
		}
		list.chunks[c] = chunk
	}
	t.list, t.past = list, true
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
	for c, chunk := range t.chunks() {
		if chunk == nil {
			continue
		}
		for i, r := range chunk.ratchets {
			if r != nil {
				f(LeafIndex(c*chunkLeaves+i/2), ratchetKind(i%2))
			}
		}
	}
}
