package mls

import "math/bits"

// A leafCount is the number of leaves of a ratchet tree: a power of two
// (RFC 9420, Section 7.7). Its methods are the tree arithmetic of Appendix C.
type leafCount uint32

// maxLeaves bounds the trees this package reads.
const maxLeaves leafCount = 1 << 16

// A nodeIndex is a position in the array form of the tree. Leaves have even
// indices, parents odd ones:
//
//	      3
//	  1       5
//	0   2   4   6
//
// The nodes under a node stand on both sides of it, without a gap.
type nodeIndex uint32

func (l LeafIndex) node() nodeIndex { return nodeIndex(2 * l) }

func (x nodeIndex) isLeaf() bool { return x&1 == 0 }

// leaf returns the leaf at an even index.
func (x nodeIndex) leaf() LeafIndex { return LeafIndex(x / 2) }

// level returns the height of x: 0 for a leaf.
func (x nodeIndex) level() int { return bits.TrailingZeros32(^uint32(x)) }

// first and last return the outermost nodes under x.
func (x nodeIndex) first() nodeIndex { return x - (1<<x.level() - 1) }
func (x nodeIndex) last() nodeIndex  { return x + (1<<x.level() - 1) }

// contains reports whether y is x or under it.
func (x nodeIndex) contains(y nodeIndex) bool { return x.first() <= y && y <= x.last() }

// left and right return the children of a parent.
func (x nodeIndex) left() nodeIndex  { return x ^ 1<<(x.level()-1) }
func (x nodeIndex) right() nodeIndex { return x ^ 3<<(x.level()-1) }

// above returns the parent of x in a tree that is high enough.
func (x nodeIndex) above() nodeIndex {
	level := x.level()
	return x&^(1<<(level+1)) | 1<<level
}

// sibling returns the other child of the parent of x.
func (x nodeIndex) sibling() nodeIndex {
	p := x.above()
	if x < p {
		return p.right()
	}
	return p.left()
}

// nodes returns the length of the array.
func (n leafCount) nodes() int { return 2*int(n) - 1 }

// root returns the index of the root. The tree has at least one leaf.
func (n leafCount) root() nodeIndex { return nodeIndex(n - 1) }

// parent returns the parent of x. The root has none.
func (n leafCount) parent(x nodeIndex) (nodeIndex, bool) {
	if x == n.root() {
		return 0, false
	}
	return x.above(), true
}

// directPath returns the nodes above x, the root last.
func (n leafCount) directPath(x nodeIndex) []nodeIndex {
	var path []nodeIndex
	for p, ok := n.parent(x); ok; p, ok = n.parent(p) {
		path = append(path, p)
	}
	return path
}

// commonAncestor returns the lowest node that contains both x and y.
func commonAncestor(x, y nodeIndex) nodeIndex {
	for !x.contains(y) {
		x = x.above()
	}
	return x
}

// leafCountFor returns the smallest tree with leaf l in it.
func leafCountFor(l LeafIndex) leafCount {
	return leafCount(1) << bits.Len32(uint32(l))
}
