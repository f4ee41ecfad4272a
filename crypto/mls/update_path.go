package mls

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// updatePath is UpdatePath of RFC 9420, Section 7.6.
type updatePath struct {
	leaf  *LeafNode
	nodes []updatePathNode
}

type updatePathNode struct {
	key     []byte
	secrets []hpkeCiphertext // the path secret, for each node of a resolution
}

// size returns about as many bytes as encode appends, and no less.
func (p *updatePath) size() int {
	n := len(p.leaf.encoded) + 4
	for i := range p.nodes {
		n += len(p.nodes[i].key) + 8
		for _, c := range p.nodes[i].secrets {
			n += len(c.kemOutput) + len(c.ciphertext) + 8
		}
	}
	return n
}

func (p *updatePath) encode(b []byte) []byte {
	b = p.leaf.encode(b)
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range p.nodes {
			b = codec.AppendVec(b, p.nodes[i].key)
			b = codec.AppendVecFunc(b, func(b []byte) []byte {
				for j := range p.nodes[i].secrets {
					b = p.nodes[i].secrets[j].encode(b)
				}
				return b
			})
		}
		return b
	})
}

func decodeUpdatePath(r *codec.Reader) *updatePath {
	p := &updatePath{leaf: decodeLeafNode(r)}
	r.Each(maxVec, func(r *codec.Reader) {
		if leafCount(1)<<len(p.nodes) >= maxLeaves {
			tooMany(r, "nodes of a path", len(p.nodes))
			return
		}
		n := updatePathNode{key: r.Vec(maxVec)}
		r.Each(maxVec, func(r *codec.Reader) { n.secrets = append(n.secrets, decodeHPKECiphertext(r)) })
		p.nodes = append(p.nodes, n)
	})
	return p
}

// A pathKey is the private key of a tree node of one's own.
type pathKey struct {
	node nodeIndex
	key  *privateKey
}

// keyOf returns the private key of node x, or nil.
func keyOf(keys []pathKey, x nodeIndex) *privateKey {
	for i := range keys {
		if keys[i].node == x {
			return keys[i].key
		}
	}
	return nil
}

// remaining returns the keys whose nodes are not blank in t.
func remaining(keys []pathKey, t *ratchetTree) []pathKey {
	return slices.DeleteFunc(slices.Clone(keys), func(k pathKey) bool {
		return int(k.node) >= len(t.nodes) || t.nodes[k.node].blank()
	})
}

// withKey returns keys with one set, keeping the slice that was given.
func withKey(keys []pathKey, x nodeIndex, k *privateKey) []pathKey {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k pathKey) bool { return k.node == x })
	return append(keys, pathKey{x, k})
}

// A newPath is an update path of one's own in the making.
type newPath struct {
	steps   []pathStep
	secrets [][]byte // of the steps
	commit  []byte   // commit secret
	keys    []pathKey
	leaf    *LeafNode
}

// makePath renews the leaf l and its path in t (Section 7.5). template is the
// leaf without keys and signature.
func (t *ratchetTree) makePath(l LeafIndex, template LeafNode, signer crypto.Signer, groupID []byte) (*newPath, error) {
	s := t.s
	leafKey, err := s.generateKey()
	if err != nil {
		return nil, err
	}
	p := &newPath{steps: t.filteredDirectPath(l), keys: []pathKey{{l.node(), leafKey}}}
	secret := make([]byte, s.nh)
	rand.Read(secret)
	publics := make([][]byte, len(p.steps))
	for i := range p.steps {
		p.secrets = append(p.secrets, secret)
		key, err := s.pathNodeKey(secret)
		if err != nil {
			return nil, err
		}
		publics[i] = key.public()
		p.keys = append(p.keys, pathKey{p.steps[i].node, key})
		secret = s.deriveSecret(secret, "path")
	}
	p.commit = secret
	leaf := template
	leaf.EncryptionKey = leafKey.public()
	leaf.Source = SourceCommit
	leaf.Lifetime = Lifetime{}
	leaf.ParentHash = t.setPath(l, p.steps, publics)
	if err := leaf.sign(s, signer, groupID, l); err != nil {
		return nil, err
	}
	t.setLeaf(l, &leaf)
	p.leaf = &leaf
	return p, nil
}

// pathNodeKey derives the key pair of a node from its path secret.
func (s *suite) pathNodeKey(pathSecret []byte) (*privateKey, error) {
	node := s.deriveSecret(pathSecret, "node")
	defer clear(node)
	return s.deriveKey(node)
}

// seal encrypts the path secrets to all other members but those added.
func (p *newPath) seal(t *ratchetTree, context []byte, added []LeafIndex) (*updatePath, error) {
	out := &updatePath{leaf: p.leaf, nodes: make([]updatePathNode, len(p.steps))}
	type job struct {
		step, place int
		to          nodeIndex
	}
	var jobs []job
	for i, step := range p.steps {
		to := t.resolution(nil, step.copath, added)
		out.nodes[i] = updatePathNode{t.nodes[step.node].parent.encryptionKey, make([]hpkeCiphertext, len(to))}
		for j, x := range to {
			jobs = append(jobs, job{i, j, x})
		}
	}
	context = encryptContext("UpdatePathNode", context)
	return out, parallel(len(jobs), func(i int) (err error) {
		j := jobs[i]
		out.nodes[j.step].secrets[j.place], err = t.s.encrypt(t.nodes[j.to].encryptionKey(), context, p.secrets[j.step])
		return err
	})
}

func (p *newPath) wipe() {
	for _, s := range p.secrets {
		clear(s)
	}
	clear(p.commit)
}

// mergePath puts a path that arrived into t (Section 7.5), the leaf at l.
func (t *ratchetTree) mergePath(l LeafIndex, p *updatePath) ([]pathStep, error) {
	steps := t.filteredDirectPath(l)
	if len(steps) != len(p.nodes) {
		return nil, fmt.Errorf("%w: path of %d nodes where %d belong", ErrInvalid, len(p.nodes), len(steps))
	}
	keys := make([][]byte, len(p.nodes), len(p.nodes)+1)
	for i := range p.nodes {
		keys[i] = p.nodes[i].key
	}
	var fresh [256][][]byte // by their marks
	for _, key := range append(keys, p.leaf.EncryptionKey) {
		m := mark(key)
		if slices.ContainsFunc(fresh[m], func(k []byte) bool { return bytes.Equal(k, key) }) {
			return nil, fmt.Errorf("%w: one key twice in a path", ErrInvalid)
		}
		fresh[m] = append(fresh[m], key)
	}
	for i := range t.nodes {
		if t.nodes[i].blank() {
			continue
		}
		key := t.nodes[i].encryptionKey()
		for _, k := range fresh[mark(key)] {
			if bytes.Equal(k, key) {
				return nil, fmt.Errorf("%w: path with a key that is in the tree already", ErrInvalid)
			}
		}
	}
	parentHash := t.setPath(l, steps, keys)
	if !bytes.Equal(parentHash, p.leaf.ParentHash) {
		return nil, fmt.Errorf("%w: parent hash of the committer's leaf", ErrInvalid)
	}
	t.setLeaf(l, p.leaf)
	return steps, nil
}

// openPath decrypts the path secret for self and derives what follows from it.
// It returns own keys with the new ones among them and the commit secret.
func (t *ratchetTree) openPath(p *updatePath, steps []pathStep, self LeafIndex, keys []pathKey, context []byte, added []LeafIndex) ([]pathKey, []byte, error) {
	at := slices.IndexFunc(steps, func(s pathStep) bool { return s.copath.contains(self.node()) })
	if at < 0 {
		return nil, nil, fmt.Errorf("%w: path that passes this member by", ErrInvalid)
	}
	for i := range steps {
		if want := len(t.resolution(nil, steps[i].copath, added)); len(p.nodes[i].secrets) != want {
			return nil, nil, fmt.Errorf("%w: path secret for %d nodes instead of %d", ErrInvalid, len(p.nodes[i].secrets), want)
		}
	}
	for i := range at { // the others are compared with what is derived
		if err := t.s.checkPublicKey(p.nodes[i].key); err != nil {
			return nil, nil, fmt.Errorf("%w: path: %w", ErrInvalid, err)
		}
	}
	for j, x := range t.resolution(nil, steps[at].copath, added) {
		key := keyOf(keys, x)
		if key == nil {
			continue
		}
		secret, err := t.s.decryptWithLabel(key, "UpdatePathNode", context, p.nodes[at].secrets[j])
		if err != nil {
			return nil, nil, err
		}
		return t.followPath(secret, steps[at:], keys)
	}
	return nil, nil, fmt.Errorf("%w: path that this member holds no key for", ErrInvalid)
}

// followPath derives the keys of steps, from the path secret of the first.
func (t *ratchetTree) followPath(secret []byte, steps []pathStep, keys []pathKey) ([]pathKey, []byte, error) {
	if len(secret) != t.s.nh {
		return nil, nil, fmt.Errorf("%w: path secret of %d bytes", ErrInvalid, len(secret))
	}
	for _, step := range steps {
		key, err := t.s.pathNodeKey(secret)
		if err != nil {
			return nil, nil, err
		}
		if p := t.nodes[step.node].parent; p == nil || !bytes.Equal(key.public(), p.encryptionKey) {
			return nil, nil, fmt.Errorf("%w: path secret that does not fit its public key", ErrInvalid)
		}
		keys = withKey(keys, step.node, key)
		next := t.s.deriveSecret(secret, "path")
		clear(secret)
		secret = next
	}
	return keys, secret, nil
}
