package mls

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"sotto/crypto/codec"
)

// parentNode is ParentNode of RFC 9420, Section 7.1. It is not changed once it
// is in a tree.
type parentNode struct {
	encryptionKey []byte
	parentHash    []byte
	unmerged      []LeafIndex // ascending
}

func (p *parentNode) encode(b []byte) []byte {
	b = codec.AppendVec(b, p.encryptionKey)
	b = codec.AppendVec(b, p.parentHash)
	b = codec.AppendVarint(b, 4*len(p.unmerged))
	for _, l := range p.unmerged {
		b = codec.AppendU32(b, uint32(l))
	}
	return b
}

func decodeParentNode(r *codec.Reader) *parentNode {
	p := &parentNode{encryptionKey: r.Vec(maxVec), parentHash: r.Vec(maxVec)}
	sub := r.Sub(maxVec)
	for sub.Len() > 0 {
		l := LeafIndex(sub.U32())
		if n := len(p.unmerged); n > 0 && p.unmerged[n-1] >= l {
			sub.Fail("unmerged leaves are not in ascending order")
			break
		}
		p.unmerged = append(p.unmerged, l)
	}
	r.Take(sub.Err())
	return p
}

// A treeNode is blank, a leaf or a parent.
type treeNode struct {
	leaf   *LeafNode
	parent *parentNode
	hash   []byte // tree hash of what is under the node; nil if it must be computed
}

func (n *treeNode) blank() bool { return n.leaf == nil && n.parent == nil }

// same reports whether two nodes are the same but for what is under them.
func (n *treeNode) same(o *treeNode) bool {
	switch {
	case n.leaf != nil && o.leaf != nil:
		return n.leaf.same(o.leaf)
	case n.parent != nil && o.parent != nil:
		a, b := n.parent, o.parent
		return a == b || bytes.Equal(a.encryptionKey, b.encryptionKey) && bytes.Equal(a.parentHash, b.parentHash) && slices.Equal(a.unmerged, b.unmerged)
	}
	return n.blank() && o.blank()
}

// encode appends Node of Section 7.8; the node is not blank.
func (n *treeNode) encode(b []byte) []byte {
	if n.leaf != nil {
		return n.leaf.encode(append(b, 1))
	}
	return n.parent.encode(append(b, 2))
}

// decodeTreeNode reads the node at x, as a part of all, of which r reads the rest.
func decodeTreeNode(r *codec.Reader, all []byte, x nodeIndex) (n treeNode) {
	switch kind := r.U8(); {
	case kind == 1 && x.isLeaf():
		n.leaf = partOf(all, r)
	case kind == 2 && !x.isLeaf():
		n.parent = decodeParentNode(r)
	default:
		r.Fail("node %d is of type %d", x, kind)
	}
	return n
}

func (n *treeNode) encryptionKey() []byte {
	if n.leaf != nil {
		return n.leaf.EncryptionKey
	}
	return n.parent.encryptionKey
}

func (n *treeNode) parentHash() []byte {
	if n.leaf != nil {
		return n.leaf.ParentHash
	}
	return n.parent.parentHash
}

// A ratchetTree is the public part of a group's ratchet tree (Section 7). A
// tree that belongs to an epoch is not changed any more, except that hashes are
// filled in before it is shared; changes are made to a clone.
type ratchetTree struct {
	s      *suite
	leaves leafCount
	nodes  []treeNode

	// There is no blank leaf before this one. It saves a search from the left
	// for each of many members added together.
	firstBlank LeafIndex
}

func newTree(s *suite, leaf *LeafNode) *ratchetTree {
	return &ratchetTree{s: s, leaves: 1, nodes: []treeNode{{leaf: leaf}}}
}

func (t *ratchetTree) clone() *ratchetTree {
	c := *t
	c.nodes = slices.Clone(t.nodes)
	return &c
}

// leaf returns the leaf at l, or nil.
func (t *ratchetTree) leaf(l LeafIndex) *LeafNode {
	if leafCount(l) >= t.leaves {
		return nil
	}
	return t.nodes[l.node()].leaf
}

// members calls f for every leaf that is not blank, from the left, until f
// returns false.
func (t *ratchetTree) members(f func(LeafIndex, *LeafNode) bool) {
	for i := 0; i < len(t.nodes); i += 2 {
		if l := t.nodes[i].leaf; l != nil && !f(LeafIndex(i/2), l) {
			return
		}
	}
}

func (t *ratchetTree) roster() (out []Member) {
	t.members(func(i LeafIndex, l *LeafNode) bool {
		out = append(out, Member{i, l})
		return true
	})
	return out
}

// encode appends the tree as ratchet_tree (Section 12.4.3.3).
func (t *ratchetTree) encode(b []byte) []byte {
	last := len(t.nodes)
	for last > 0 && t.nodes[last-1].blank() {
		last--
	}
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range t.nodes[:last] {
			if n := &t.nodes[i]; n.blank() {
				b = append(b, 0)
			} else {
				b = n.encode(append(b, 1))
			}
		}
		return b
	})
}

// decodeTree reads a tree, whose nodes are parts of the input.
func decodeTree(s *suite, r *codec.Reader) *ratchetTree {
	t := &ratchetTree{s: s}
	content := r.Vec(maxVec)
	sub := codec.NewReader(content)
	for sub.Len() > 0 {
		var n treeNode
		if len(t.nodes) >= maxLeaves.nodes() {
			sub.Fail("a tree of more than %d leaves", maxLeaves)
			break
		}
		if present(sub) {
			n = decodeTreeNode(sub, content, nodeIndex(len(t.nodes)))
		}
		if len(t.nodes) == cap(t.nodes) {
			t.nodes = slices.Grow(t.nodes, len(t.nodes)+1) // twice as many: a blank node is one byte
		}
		if len(t.nodes) == cap(t.nodes) {
			t.nodes = slices.Grow(t.nodes, len(t.nodes)+1) // twice as many: a blank node is one byte
		}
		t.nodes = append(t.nodes, n)
	}
	r.Take(sub.Err())
	if r.Err() != nil {
		return nil
	}
	if len(t.nodes) == 0 || t.nodes[len(t.nodes)-1].blank() {
		r.Fail("a tree that ends in a blank node")
		return nil
	}
	t.leaves = leafCountFor(LeafIndex(len(t.nodes) / 2))
	t.nodes = append(t.nodes, make([]treeNode, t.leaves.nodes()-len(t.nodes))...)
	return t
}

// storedTree returns the tree of these nodes.
func storedTree(s *suite, nodes map[nodeIndex]treeNode) (*ratchetTree, error) {
	last, found := nodeIndex(0), false
	for x := range nodes {
		if x.isLeaf() {
			last, found = max(last, x), true
		}
	}
	if !found || leafCount(last.leaf()) >= maxLeaves {
		return nil, fmt.Errorf("%w: a tree without leaves, or too many", ErrCorrupt)
	}
	t := &ratchetTree{s: s, leaves: leafCountFor(last.leaf())}
	t.nodes = make([]treeNode, t.leaves.nodes())
	for x, n := range nodes {
		if int(x) >= len(t.nodes) {
			return nil, fmt.Errorf("%w: node %d outside the tree", ErrCorrupt, x)
		}
		t.nodes[x] = n
	}
	return t, nil
}

// A changedLeaf is what a leaf of an epoch was before the next epoch changed it: nil if
// it was blank.
type changedLeaf struct {
	at  LeafIndex
	was *LeafNode
}

// changedLeaves returns the leaves of t that are others in next.
func (t *ratchetTree) changedLeaves(next *ratchetTree) []changedLeaf {
	out := []changedLeaf{}
	for l := range LeafIndex(max(t.leaves, next.leaves)) {
		if a, b := t.leaf(l), next.leaf(l); (a == nil) != (b == nil) || a != nil && !a.same(b) {
			out = append(out, changedLeaf{l, a})
		}
	}
	return out
}

// before returns the leaves of the epoch before that of t, or nil if there are none.
func (t *ratchetTree) before(changed []changedLeaf) *ratchetTree {
	nodes := make(map[nodeIndex]treeNode)
	t.members(func(l LeafIndex, leaf *LeafNode) bool {
		nodes[l.node()] = treeNode{leaf: leaf}
		return true
	})
	for _, c := range changed {
		if c.was == nil {
			delete(nodes, c.at.node())
		} else {
			nodes[c.at.node()] = treeNode{leaf: c.was}
		}
	}
	old, _ := storedTree(t.s, nodes)
	return old
}

func encodeLeaves(b []byte, changed []changedLeaf) []byte {
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, c := range changed {
			b = codec.AppendU32(b, uint32(c.at))
			if c.was == nil {
				b = append(b, 0)
			} else {
				b = c.was.encode(append(b, 1))
			}
		}
		return b
	})
}

// decodeLeaves reads what encodeLeaves wrote; the leaves are parts of the input.
func decodeLeaves(r *codec.Reader) []changedLeaf {
	out := []changedLeaf{}
	content := r.Vec(maxVec)
	sub := codec.NewReader(content)
	for sub.Len() > 0 {
		c := changedLeaf{at: LeafIndex(sub.U32())}
		if n := len(out); leafCount(c.at) >= maxLeaves || n > 0 && out[n-1].at >= c.at {
			sub.Fail("leaf %d out of order", c.at)
			break
		}
		if present(sub) {
			c.was = partOf(content, sub)
		}
		out = append(out, c)
	}
	r.Take(sub.Err())
	return out
}

// partOf reads a leaf off the rest of all, which r reads, and as a part of it.
func partOf(all []byte, r *codec.Reader) *LeafNode {
	start := len(all) - r.Len()
	l := readLeafNode(r)
	end := len(all) - r.Len()
	l.encoded = all[start:end:end]
	return l
}

// touch forgets the hashes that depend on x.
func (t *ratchetTree) touch(x nodeIndex) {
	t.nodes[x].hash = nil
	for p, ok := t.leaves.parent(x); ok; p, ok = t.leaves.parent(p) {
		t.nodes[p].hash = nil
	}
}

func (t *ratchetTree) blankPath(l LeafIndex) {
	for p, ok := t.leaves.parent(l.node()); ok; p, ok = t.leaves.parent(p) {
		t.nodes[p].parent = nil
	}
	t.touch(l.node())
}

// setLeaf puts leaf in the place of a member's.
func (t *ratchetTree) setLeaf(l LeafIndex, leaf *LeafNode) {
	t.nodes[l.node()].leaf = leaf
	t.touch(l.node())
}

// update applies an Update proposal (Section 12.1.2).
func (t *ratchetTree) update(l LeafIndex, leaf *LeafNode) {
	t.setLeaf(l, leaf)
	t.blankPath(l)
}

// remove applies a Remove proposal (Section 12.1.3), but for truncate.
func (t *ratchetTree) remove(l LeafIndex) {
	t.setLeaf(l, nil)
	t.blankPath(l)
	t.firstBlank = min(t.firstBlank, l)
}

// truncate drops the right half as long as there is no member in it (Section 7.7).
func (t *ratchetTree) truncate() {
	for t.leaves > 1 {
		for i := int(t.leaves.root()) + 1; i < len(t.nodes); i += 2 {
			if t.nodes[i].leaf != nil {
				return
			}
		}
		t.leaves /= 2
		clear(t.nodes[t.leaves.nodes():])
		t.nodes = t.nodes[:t.leaves.nodes()]
	}
}

// blankLeaf returns the leftmost blank leaf, extending the tree if there is none.
func (t *ratchetTree) blankLeaf() (LeafIndex, error) {
	for ; leafCount(t.firstBlank) < t.leaves; t.firstBlank++ {
		if t.nodes[t.firstBlank.node()].leaf == nil {
			return t.firstBlank, nil
		}
	}
	if t.leaves >= maxLeaves {
		return 0, fmt.Errorf("%w: a group of more than %d members", ErrUnsupported, maxLeaves)
	}
	t.leaves *= 2
	t.nodes = append(t.nodes, make([]treeNode, t.leaves.nodes()-len(t.nodes))...)
	return t.firstBlank, nil
}

// add applies an Add proposal (Section 12.1.1).
func (t *ratchetTree) add(leaf *LeafNode) (LeafIndex, error) {
	l, err := t.blankLeaf()
	if err != nil {
		return 0, err
	}
	for p, ok := t.leaves.parent(l.node()); ok; p, ok = t.leaves.parent(p) {
		old := t.nodes[p].parent
		if old == nil {
			continue
		}
		i, _ := slices.BinarySearch(old.unmerged, l)
		grown := make([]LeafIndex, 0, len(old.unmerged)+1)
		grown = append(append(append(grown, old.unmerged[:i]...), l), old.unmerged[i:]...)
		t.nodes[p].parent = &parentNode{old.encryptionKey, old.parentHash, grown}
	}
	t.setLeaf(l, leaf)
	return l, nil
}

// resolution appends the resolution of x (Section 4.1.1), without the leaves in
// except, which is ascending.
func (t *ratchetTree) resolution(out []nodeIndex, x nodeIndex, except []LeafIndex) []nodeIndex {
	excluded := func(l LeafIndex) bool {
		_, found := slices.BinarySearch(except, l)
		return found
	}
	n := &t.nodes[x]
	switch {
	case n.leaf != nil:
		if !excluded(x.leaf()) {
			out = append(out, x)
		}
	case n.parent != nil:
		out = append(out, x)
		for _, l := range n.parent.unmerged {
			if !excluded(l) {
				out = append(out, l.node())
			}
		}
	case !x.isLeaf():
		out = t.resolution(out, x.left(), except)
		out = t.resolution(out, x.right(), except)
	}
	return out
}

// empty reports whether the resolution of x is.
func (t *ratchetTree) empty(x nodeIndex) bool {
	n := &t.nodes[x]
	if !n.blank() || x.isLeaf() {
		return n.blank()
	}
	return t.empty(x.left()) && t.empty(x.right())
}

// A pathStep is a node of a filtered direct path and its child that is not on
// the path.
type pathStep struct{ node, copath nodeIndex }

// filteredDirectPath returns the path from l to the root without the nodes whose
// other child has an empty resolution (Section 4.1.2).
func (t *ratchetTree) filteredDirectPath(l LeafIndex) (path []pathStep) {
	x := l.node()
	for p, ok := t.leaves.parent(x); ok; p, ok = t.leaves.parent(p) {
		if sibling := x.sibling(); !t.empty(sibling) {
			path = append(path, pathStep{p, sibling})
		}
		x = p
	}
	return path
}

// hash returns the tree hash of x (Section 7.8). It fills in the hashes under x.
func (t *ratchetTree) hash(x nodeIndex) []byte {
	if n := &t.nodes[x]; n.hash == nil {
		n.hash = t.computeHash(x, nil)
	}
	return t.nodes[x].hash
}

// hashLeaves fills in the hashes of a tree that has none yet, most of whose bytes are
// in its leaves.
func (t *ratchetTree) hashLeaves() {
	parallel(int(t.leaves), func(i int) error {
		t.hash(LeafIndex(i).node())
		return nil
	})
}

func (t *ratchetTree) rootHash() []byte { return t.hash(t.leaves.root()) }

// hashWithout returns the tree hash of x as if the leaves in except, which is
// ascending, had not been added yet (Section 7.9).
func (t *ratchetTree) hashWithout(x nodeIndex, except []LeafIndex) []byte {
	from, _ := slices.BinarySearch(except, x.first().leaf())
	if from == len(except) || except[from] > x.last().leaf() {
		return t.hash(x)
	}
	return t.computeHash(x, except)
}

func (t *ratchetTree) computeHash(x nodeIndex, except []LeafIndex) []byte {
	var left, right []byte
	if !x.isLeaf() {
		left, right = t.hashWithout(x.left(), except), t.hashWithout(x.right(), except)
	}
	n := &t.nodes[x]
	w := newWorkspace()
	defer w.done()
	if x.isLeaf() {
		w.buf = codec.AppendU32(append(w.buf, 1), uint32(x.leaf()))
		_, gone := slices.BinarySearch(except, x.leaf())
		if n.leaf == nil || gone {
			w.buf = append(w.buf, 0)
		} else {
			w.buf = n.leaf.encode(append(w.buf, 1))
		}
		return t.s.sum(w.buf)
	}
	w.buf = append(w.buf, 2)
	if n.parent == nil {
		w.buf = append(w.buf, 0)
	} else {
		p := *n.parent
		if len(except) > 0 {
			p.unmerged = slices.DeleteFunc(slices.Clone(p.unmerged), func(l LeafIndex) bool {
				_, gone := slices.BinarySearch(except, l)
				return gone
			})
		}
		w.buf = p.encode(append(w.buf, 1))
	}
	w.buf = codec.AppendVec(codec.AppendVec(w.buf, left), right)
	return t.s.sum(w.buf)
}

// parentHash returns the parent hash of p with copath child sibling, whose
// original tree hash is given (Section 7.9).
func (t *ratchetTree) parentHash(p *parentNode, siblingHash []byte) []byte {
	w := newWorkspace()
	defer w.done()
	w.buf = codec.AppendVec(w.buf, p.encryptionKey)
	w.buf = codec.AppendVec(w.buf, p.parentHash)
	w.buf = codec.AppendVec(w.buf, siblingHash)
	return t.s.sum(w.buf)
}

// setPath puts the nodes of an update path on the filtered direct path of l,
// blanking the rest of the direct path, and returns the parent hash for the leaf
// (Section 7.5). The leaf itself is not changed.
func (t *ratchetTree) setPath(l LeafIndex, path []pathStep, keys [][]byte) []byte {
	t.blankPath(l)
	var above []byte
	for i := len(path) - 1; i >= 0; i-- {
		p := &parentNode{encryptionKey: bytes.Clone(keys[i]), parentHash: above} // which outlives the message
		t.nodes[path[i].node].parent = p
		above = t.parentHash(p, t.hash(path[i].copath))
	}
	return above
}

// parallel calls f for 0 to n-1 on all cores and returns the error of the lowest
// number that has one.
func parallel(n int, f func(int) error) error {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers < 2 || n < 8 {
		for i := range n {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	var (
		wg      sync.WaitGroup
		next    atomic.Int64
		mu      sync.Mutex // guards the following fields
		first   = n
		problem error
	)
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					if i < first {
						first, problem = i, err
					}
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return problem
}

// verify checks a tree that one did not see grow (Section 12.4.3.1).
func (t *ratchetTree) verify(groupID []byte, context Extensions, credential func(leaf, old *LeafNode) error) error {
	members := t.roster()
	err := parallel(len(members), func(i int) error {
		if err := members[i].Node.validate(t.s, members[i].Node.Source, groupID, members[i].Leaf); err != nil {
			return fmt.Errorf("leaf %d: %w", members[i].Leaf, err)
		}
		if err := credential(members[i].Node, nil); err != nil {
			return fmt.Errorf("leaf %d: %w: credential: %w", members[i].Leaf, ErrInvalid, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.checkUnique(); err != nil {
		return err
	}
	if err := t.checkMembers(context, nil); err != nil {
		return err
	}
	if err := t.checkUnmerged(); err != nil {
		return err
	}
	return t.checkParentHashes()
}

// checkUnmerged verifies that unmerged leaves are members under their nodes and
// stand in all nodes between.
func (t *ratchetTree) checkUnmerged() error {
	for x := nodeIndex(1); int(x) < len(t.nodes); x += 2 {
		p := t.nodes[x].parent
		if p == nil {
			continue
		}
		if err := t.s.checkPublicKey(p.encryptionKey); err != nil {
			return fmt.Errorf("%w: node %d: %w", ErrInvalid, x, err)
		}
		for _, l := range p.unmerged {
			if !x.contains(l.node()) || t.leaf(l) == nil {
				return fmt.Errorf("%w: unmerged leaf %d of node %d", ErrInvalid, l, x)
			}
			for y := l.node().above(); y != x; y = y.above() {
				between := t.nodes[y].parent
				if between == nil {
					continue
				}
				if _, found := slices.BinarySearch(between.unmerged, l); !found {
					return fmt.Errorf("%w: leaf %d is unmerged at node %d and not at %d below it", ErrInvalid, l, x, y)
				}
			}
		}
	}
	return nil
}

// checkParentHashes verifies that every parent's key was put there by a member
// under it (Section 7.9.2): each has exactly one descendant whose parent hash
// confirms it, and so, going on from there, a chain down to one leaf.
func (t *ratchetTree) checkParentHashes() error {
	var resolution []nodeIndex
	for x := nodeIndex(1); int(x) < len(t.nodes); x += 2 {
		p := t.nodes[x].parent
		if p == nil {
			continue
		}
		found := 0
		for _, side := range [2][2]nodeIndex{{x.left(), x.right()}, {x.right(), x.left()}} {
			child, sibling := side[0], side[1]
			resolution = t.resolution(resolution[:0], child, nil)
			d, ok := merged(resolution, child, p.unmerged)
			if !ok {
				continue
			}
			n := &t.nodes[d]
			if n.leaf != nil && n.leaf.Source != SourceCommit {
				continue
			}
			if bytes.Equal(n.parentHash(), t.parentHash(p, t.hashWithout(sibling, p.unmerged))) {
				found++
			}
		}
		if found != 1 {
			return fmt.Errorf("%w: node %d: %d nodes confirm its parent hash, not one", ErrInvalid, x, found)
		}
	}
	return nil
}

// merged returns the one node of a resolution, that of child, which is left when the
// leaves in unmerged are taken away, if there is one and nothing of unmerged under
// child is outside the resolution.
func merged(resolution []nodeIndex, child nodeIndex, unmerged []LeafIndex) (d nodeIndex, ok bool) {
	from, _ := slices.BinarySearch(unmerged, child.first().leaf())
	to, _ := slices.BinarySearch(unmerged, child.last().leaf()+1)
	if to-from != len(resolution)-1 {
		return 0, false
	}
	for _, x := range resolution {
		if x.isLeaf() {
			if _, found := slices.BinarySearch(unmerged, x.leaf()); found {
				continue
			}
		}
		if ok {
			return 0, false
		}
		d, ok = x, true
	}
	return d, ok
}

// checkUnique verifies that no encryption key occurs twice in the tree and no
// signature key twice among the leaves (Section 7.3).
func (t *ratchetTree) checkUnique() error {
	encryption := make([][]byte, 0, len(t.nodes))
	signature := make([][]byte, 0, t.leaves)
	for i := range t.nodes {
		if n := &t.nodes[i]; !n.blank() {
			encryption = append(encryption, n.encryptionKey())
			if n.leaf != nil {
				signature = append(signature, n.leaf.SignatureKey)
			}
		}
	}
	for _, keys := range [][][]byte{encryption, signature} {
		slices.SortFunc(keys, bytes.Compare)
		for i := 1; i < len(keys); i++ {
			if bytes.Equal(keys[i-1], keys[i]) {
				return errKeyTwice
			}
		}
	}
	return nil
}

var errKeyTwice = fmt.Errorf("%w: a key occurs twice in the tree", ErrInvalid)

// checkChanged is checkUnique for a tree in which only these nodes are new.
func (t *ratchetTree) checkChanged(changed []nodeIndex) error {
	if len(changed) > 64 {
		return t.checkUnique()
	}
	// New keys by their marks, so that nearly all others need no comparison.
	var encryption, signature [256][]nodeIndex
	for _, x := range changed {
		n := &t.nodes[x]
		if n.blank() {
			continue
		}
		m := mark(n.encryptionKey())
		encryption[m] = append(encryption[m], x)
		if n.leaf != nil {
			m := mark(n.leaf.SignatureKey)
			signature[m] = append(signature[m], x)
		}
	}
	for i := range t.nodes {
		n := &t.nodes[i]
		if n.blank() {
			continue
		}
		for _, x := range encryption[mark(n.encryptionKey())] {
			if x != nodeIndex(i) && bytes.Equal(t.nodes[x].encryptionKey(), n.encryptionKey()) {
				return errKeyTwice
			}
		}
		if n.leaf == nil {
			continue
		}
		for _, x := range signature[mark(n.leaf.SignatureKey)] {
			if x != nodeIndex(i) && bytes.Equal(t.nodes[x].leaf.SignatureKey, n.leaf.SignatureKey) {
				return errKeyTwice
			}
		}
	}
	return nil
}

// mark returns a byte that tells most keys apart: their last. They begin alike.
func mark(key []byte) byte {
	if len(key) == 0 {
		return 0
	}
	return key[len(key)-1]
}

// checkMembers verifies that the members understand each other's credentials and
// the group's extensions (Section 7.3). Given the leaves that changed, it trusts
// that the others have been checked against the same extensions.
func (t *ratchetTree) checkMembers(context Extensions, changed []LeafIndex) error {
	var required *RequiredCapabilities
	if data, ok := context.Get(ExtensionRequiredCapabilities); ok {
		rc, err := ParseRequiredCapabilities(data)
		if err != nil {
			return err
		}
		required = &rc
	}
	var err error
	if changed == nil {
		t.members(func(i LeafIndex, l *LeafNode) bool {
			err = l.supports(context, required)
			return err == nil
		})
	}
	for _, i := range changed {
		if err = t.leaf(i).supports(context, required); err != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	var used []CredentialType // in practice one or two
	t.members(func(_ LeafIndex, l *LeafNode) bool {
		if !slices.Contains(used, l.Credential.Type) {
			used = append(used, l.Credential.Type)
		}
		return true
	})
	t.members(func(i LeafIndex, l *LeafNode) bool {
		for _, c := range used {
			if !slices.Contains(l.Capabilities.Credentials, c) {
				err = fmt.Errorf("%w: leaf %d does not support credential type %#04x", ErrInvalid, i, uint16(c))
				return false
			}
		}
		return true
	})
	return err
}
