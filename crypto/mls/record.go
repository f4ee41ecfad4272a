package mls

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"sotto/crypto/codec"
)

// Record is a piece of a group's state (spec/mls-state.md). It prints without
// its value.
type Record struct {
	// Name is unique within the group and at most 13 bytes long. A name of 8 bytes
	// and more begins with the epoch it belongs to; the others are of the group.
	Name []byte

	// Value is nil for a record to be deleted, if it exists. It holds secrets.
	Value []byte
}

func (r Record) String() string {
	if r.Value == nil {
		return fmt.Sprintf("record %x, deleted", r.Name)
	}
	return fmt.Sprintf("record %x", r.Name)
}

// Format implements [fmt.Formatter]: every verb prints String.
func (r Record) Format(w fmt.State, verb rune) { io.WriteString(w, r.String()) }

// LogValue implements [slog.LogValuer].
func (r Record) LogValue() slog.Value { return slog.StringValue(r.String()) }

// recordVersion is the first byte of every record. Version 1 is the first.
const recordVersion = 1

// The kinds of records.
const (
	recordGroup       = 'g' // suite and current epoch; its name is this byte alone
	recordNode        = 't' // of a node of the current epoch's ratchet tree; of no epoch
	recordReceiving   = 'r' // of an epoch: context and what late messages need
	recordLeaves      = 'l' // of a past epoch: the leaves that the next one changed
	recordKeys        = 'k' // of the current epoch: all other secrets
	recordSubtree     = 'n' // of a node of an epoch's secret tree
	recordHandshake   = 'h' // of a leaf: its handshake ratchet
	recordApplication = 'a' // of a leaf: its application ratchet
	recordProposal    = 'p' // of the current epoch: a pending proposal
)

// A recordKey is the name of a record, taken apart.
type recordKey struct {
	epoch uint64
	kind  byte
	index uint32 // of a node, leaf or proposal
}

func (k recordKey) indexed() bool {
	return k.kind != recordGroup && k.kind != recordReceiving && k.kind != recordLeaves && k.kind != recordKeys
}

// maxRecordName = 8 + 1 + 4 // epoch, kind, index
const maxRecordName = 13

func (k recordKey) appendName(b []byte) []byte {
	if k.kind == recordGroup {
		return append(b, recordGroup)
	}
	if k.kind != recordNode {
		b = codec.AppendU64(b, k.epoch)
	}
	b = append(b, k.kind)
	if k.indexed() {
		b = codec.AppendU32(b, k.index)
	}
	return b
}

func parseRecordName(name []byte) (k recordKey, err error) {
	if len(name) == 1 && name[0] == recordGroup {
		return recordKey{kind: recordGroup}, nil
	}
	if len(name) == 5 && name[0] == recordNode {
		return recordKey{kind: recordNode, index: binary.BigEndian.Uint32(name[1:])}, nil
	}
	if len(name) < 9 {
		return k, fmt.Errorf("%w: record name %x", ErrCorrupt, name)
	}
	k.epoch, k.kind = binary.BigEndian.Uint64(name), name[8]
	switch k.kind {
	case recordReceiving, recordLeaves, recordKeys, recordSubtree, recordHandshake, recordApplication, recordProposal:
	default:
		return k, fmt.Errorf("%w: record name %x", ErrCorrupt, name)
	}
	switch {
	case k.indexed() && len(name) == 13:
		k.index = binary.BigEndian.Uint32(name[9:])
	case k.indexed() || len(name) != 9:
		return k, fmt.Errorf("%w: record name %x", ErrCorrupt, name)
	}
	return k, nil
}

// A dirtySet names the records that may have changed since the last Changes.
type dirtySet struct{ keys []recordKey }

func (d *dirtySet) clone() dirtySet { return dirtySet{slices.Clip(d.keys)} }

func (d *dirtySet) add(k recordKey) {
	if n := len(d.keys); n > 0 && d.keys[n-1] == k {
		return
	}
	if n := len(d.keys); n >= 64 && n == cap(d.keys) {
		d.compact() // of a group whose owner rarely asks for changes
	}
	d.keys = append(d.keys, k)
}

// compact sorts the keys and drops repetitions.
func (d *dirtySet) compact() {
	if len(d.keys) < 2 {
		return
	}
	keys := slices.Clone(d.keys)
	slices.SortFunc(keys, func(a, b recordKey) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.kind, b.kind), cmp.Compare(a.index, b.index))
	})
	d.keys = slices.Compact(keys)
}

func ratchetRecord(kind ratchetKind) byte {
	if kind == application {
		return recordApplication
	}
	return recordHandshake
}

func (d *dirtySet) ratchet(e *epoch, l LeafIndex, kind ratchetKind) {
	d.add(recordKey{e.context.Epoch, ratchetRecord(kind), uint32(l)})
}

func (d *dirtySet) pending(e *epoch, i int) {
	d.add(recordKey{e.context.Epoch, recordProposal, uint32(i)})
}

// opened notes what making the ratchets of l changes, given the tree before.
func (d *dirtySet) opened(e *epoch, before *secretTree, l LeafIndex) {
	i, found := before.subtreeOf(l)
	if !found {
		return
	}
	n := e.context.Epoch
	top := before.subtrees[i].node
	d.add(recordKey{n, recordSubtree, uint32(top)})
	for x := l.node(); x != top; x = x.above() {
		d.add(recordKey{n, recordSubtree, uint32(x.sibling())})
	}
	if !before.past {
		d.ratchet(e, l, handshake)
	}
	d.ratchet(e, l, application)
}

// secretTree notes all records of an epoch's secret tree.
func (d *dirtySet) secretTree(e *epoch, t *secretTree) {
	for _, s := range t.subtrees {
		d.add(recordKey{e.context.Epoch, recordSubtree, uint32(s.node)})
	}
	t.each(func(l LeafIndex, kind ratchetKind) { d.ratchet(e, l, kind) })
}

func (d *dirtySet) epochBegins(e *epoch, t *secretTree) {
	n := e.context.Epoch
	d.add(recordKey{kind: recordGroup})
	d.add(recordKey{n, recordReceiving, 0})
	d.add(recordKey{n, recordKeys, 0})
	d.secretTree(e, t)
}

// tree notes the nodes in which two trees differ. The first may be nil.
func (d *dirtySet) tree(old, next *ratchetTree) {
	var before []treeNode
	if old != nil {
		before = old.nodes
	}
	for x := range max(len(before), len(next.nodes)) {
		var a, b treeNode
		if x < len(before) {
			a = before[x]
		}
		if x < len(next.nodes) {
			b = next.nodes[x]
		}
		if !a.same(&b) {
			d.add(recordKey{0, recordNode, uint32(x)})
		}
	}
}

// epochEnds notes what comes and goes when an epoch becomes a past one.
func (d *dirtySet) epochEnds(e *epoch, t *secretTree) {
	d.add(recordKey{e.context.Epoch, recordLeaves, 0})
	d.add(recordKey{e.context.Epoch, recordKeys, 0})
	t.each(func(l LeafIndex, kind ratchetKind) {
		if kind == handshake || l == e.self {
			d.ratchet(e, l, kind)
		}
	})
}

func (d *dirtySet) epochForgotten(p *pastEpoch) {
	n := p.epoch.context.Epoch
	d.add(recordKey{n, recordReceiving, 0})
	d.add(recordKey{n, recordLeaves, 0})
	d.secretTree(p.epoch, &p.secrets)
}

// Changes returns the records that differ from what earlier calls on this group,
// and on those it was cloned or merged from, have returned; after LoadGroup, from
// what it was given. They are to be written in one durable transaction.
// The order is that of the names' epochs, kinds and indices.
func (g *Group) Changes() []Record {
	g.dirty.compact()
	keys, room := g.dirty.keys, g.room
	g.dirty, g.room = dirtySet{}, nil
	if len(keys) == 1 && room != nil {
		room.records[0] = g.record(room.bytes[:0], keys[0])
		return room.records[:]
	}
	out := make([]Record, len(keys))
	for i, k := range keys {
		out[i] = g.record(make([]byte, 0, recordRoom), k)
	}
	return out
}

// recordRoom is enough for most records: ratchets.
const recordRoom = maxRecordName + 1 + 4 + maxHash

// record returns the record of k as it is now, in b if there is room.
func (g *Group) record(b []byte, k recordKey) (r Record) {
	b = k.appendName(b)
	n := len(b)
	r.Name = b[:n:n]
	if b = g.appendRecord(b, k); b != nil {
		r.Value = b[n:]
	}
	return r
}

// appendRecord appends the present value of a record, or returns nil if there is none.
func (g *Group) appendRecord(b []byte, k recordKey) []byte {
	b = append(b, recordVersion)
	if k.kind == recordGroup {
		b = codec.AppendU16(b, uint16(g.cur.s.id))
		return codec.AppendU64(b, g.cur.context.Epoch)
	}
	if k.kind == recordNode {
		if nodes := g.cur.tree.nodes; int(k.index) < len(nodes) && !nodes[k.index].blank() {
			return nodes[k.index].encode(b)
		}
		return nil
	}
	e, secrets := g.cur, &g.secrets
	var past *pastEpoch
	if k.epoch != e.context.Epoch {
		if past = g.pastEpoch(k.epoch); past == nil {
			return nil
		}
		e, secrets = past.epoch, &past.secrets
	}
	current := past == nil
	switch k.kind {
	case recordReceiving:
		return e.encodeReceiving(e.encodePublic(b))
	case recordLeaves:
		if current {
			return nil
		}
		return encodeLeaves(b, past.changed)
	case recordKeys:
		if !current {
			return nil
		}
		return e.encodeSecret(b)
	case recordSubtree:
		for _, s := range secrets.subtrees {
			if s.node == nodeIndex(k.index) {
				return codec.AppendVec(b, s.secret)
			}
		}
	case recordHandshake:
		return secrets.ratchet(LeafIndex(k.index), handshake).encode(e.s, b)
	case recordApplication:
		return secrets.ratchet(LeafIndex(k.index), application).encode(e.s, b)
	case recordProposal:
		if current && int(k.index) < len(g.pending) {
			return g.pending[k.index].encode(b)
		}
	}
	return nil
}

// encode appends r; for no ratchet it returns nil.
func (r *ratchet) encode(s *suite, b []byte) []byte {
	if r == nil {
		return nil
	}
	b = slices.Grow(b, 4+s.nh+len(r.skipped)*(4+s.nk+nonceSize))
	b = codec.AppendU32(b, r.generation)
	b = append(b, r.secret[:s.nh]...)
	for i := range r.skipped {
		b = codec.AppendU32(b, r.skipped[i].generation)
		b = append(b, r.skipped[i].key[:s.nk]...)
		b = append(b, r.skipped[i].nonce[:]...)
	}
	return b
}

func decodeRatchet(s *suite, r *codec.Reader) ratchet {
	out := ratchet{generation: r.U32()}
	r.Copy(out.secret[:s.nh])
	for r.Len() > 0 {
		k := skippedKey{generation: r.U32()}
		r.Copy(k.key[:s.nk])
		r.Copy(k.nonce[:])
		if n := len(out.skipped); k.generation >= out.generation || n > 0 && out.skipped[n-1].generation >= k.generation {
			r.Fail("skipped keys out of order")
		}
		out.skipped = append(out.skipped, k)
	}
	return out
}

func (p *pendingProposal) encode(b []byte) []byte {
	b = codec.AppendVec(b, p.ref)
	if p.key == nil {
		b = codec.AppendVec(b, []byte(nil))
	} else {
		b = codec.AppendVec(b, p.key.raw)
	}
	return p.content.encode(b)
}

func decodePendingProposal(s *suite, r *codec.Reader, all []byte) *pendingProposal {
	p := &pendingProposal{ref: r.Vec(maxVec)}
	if raw := r.Vec(maxVec); len(raw) > 0 {
		p.key = s.storedKey(raw)
	}
	p.content = &authenticatedContent{wire: wireFormat(r.U16())}
	p.content.content.decodeHeader(r)
	p.content.content.decodeBody(r, all)
	p.content.decodeAuth(r)
	if r.Err() == nil && p.content.content.proposal == nil {
		r.Fail("a pending proposal that is none")
	}
	return p
}

// whole reports whether a stored proposal is one of e.
func (p *pendingProposal) whole(e *epoch) bool {
	a := p.content
	_, update := a.content.proposal.(Update)
	own := a.content.sender == Sender{SenderMember, e.self}
	return (a.wire == wirePublicMessage || a.wire == wirePrivateMessage) &&
		bytes.Equal(a.content.groupID, e.context.GroupID) && a.content.epoch == e.context.Epoch &&
		(p.key != nil) == (update && own) && bytes.Equal(p.ref, a.proposalRef(e.s))
}

func (e *epoch) encodePublic(b []byte) []byte {
	return codec.AppendU32(e.context.encode(b), uint32(e.self))
}

func (e *epoch) decodePublic(r *codec.Reader) {
	e.context = decodeGroupContext(r)
	e.self = LeafIndex(r.U32())
	if r.Err() == nil {
		e.encoded = e.context.encode(nil)
	}
}

// encodeReceiving appends what stays after the epoch is over.
func (e *epoch) encodeReceiving(b []byte) []byte {
	b = codec.AppendVec(b, e.secrets.senderData)
	return codec.AppendVec(b, e.secrets.resumption)
}

func (e *epoch) decodeReceiving(r *codec.Reader) {
	e.secrets.senderData = r.Vec(maxVec)
	e.secrets.resumption = r.Vec(maxVec)
}

// encodeSecret appends what goes when the epoch is over.
func (e *epoch) encodeSecret(b []byte) []byte {
	k := e.secrets
	for _, secret := range [][]byte{k.exporter, k.external, k.confirmation, k.membership, k.authenticator, k.init, e.tag, e.interim} {
		b = codec.AppendVec(b, secret)
	}
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, k := range e.keys {
			b = codec.AppendVec(codec.AppendU32(b, uint32(k.node)), k.key.raw)
		}
		return b
	})
	if e.reinit == nil {
		return append(b, 0)
	}
	return e.reinit.encode(append(b, 1))
}

func (e *epoch) decodeSecret(r *codec.Reader) {
	k := e.secrets
	for _, secret := range []*[]byte{&k.exporter, &k.external, &k.confirmation, &k.membership, &k.authenticator, &k.init, &e.tag, &e.interim} {
		*secret = r.Vec(maxVec)
	}
	r.Each(maxVec, func(r *codec.Reader) {
		node := nodeIndex(r.U32())
		e.keys = append(e.keys, pathKey{node, e.s.storedKey(r.Vec(maxVec))})
	})
	if present(r) {
		e.reinit = &ReInit{r.Vec(maxVec), r.U16(), Suite(r.U16()), decodeExtensions(r)}
	}
}

// checkStored verifies that a stored epoch is whole, and of the holder of signer.
func (e *epoch) checkStored(signer crypto.Signer) error {
	k := e.secrets
	for _, secret := range [][]byte{
		k.senderData, k.resumption, k.exporter, k.external, k.confirmation, k.membership, k.authenticator, k.init, e.tag, e.interim,
	} {
		if len(secret) != e.s.nh {
			return fmt.Errorf("%w: a secret of %d bytes", ErrCorrupt, len(secret))
		}
	}
	leaf := e.tree.leaf(e.self)
	if leaf == nil || keyOf(e.keys, e.self.node()) == nil {
		return fmt.Errorf("%w: no own leaf", ErrCorrupt)
	}
	for i, k := range e.keys {
		if int(k.node) >= len(e.tree.nodes) || !k.node.contains(e.self.node()) || e.tree.nodes[k.node].blank() || keyOf(e.keys[:i], k.node) != nil {
			return fmt.Errorf("%w: a key of node %d", ErrCorrupt, k.node)
		}
	}
	key, err := e.s.signatureKey(signer)
	if err != nil {
		return err
	}
	if !slices.Equal(key, leaf.SignatureKey) {
		return fmt.Errorf("%w: signer of another key than the own leaf's", ErrInvalid)
	}
	return nil
}

// LoadGroup restores a group from its records, in any order: what was written of
// the values that [Group.Changes] returned. Signatures are not verified again:
// records are trusted to be as they were written, and of one moment. Their
// slices are kept. It returns ErrCorrupt if they do not fit together.
func LoadGroup(c Config, records []Record) (*Group, error) {
	g, err := loadGroup(c, records)
	if err != nil {
		return nil, fmt.Errorf("load group: %w", err)
	}
	return g, nil
}

func loadGroup(c Config, records []Record) (*Group, error) {
	config, err := c.complete()
	if err != nil {
		return nil, err
	}
	var (
		s       *suite
		current uint64
		found   bool
		nodes   = make(map[nodeIndex]treeNode)
		epochs  = make(map[uint64]*pastEpoch)
		pending = make(map[uint32]*pendingProposal)
	)
	for _, rec := range records {
		if len(rec.Name) != 1 || rec.Name[0] != recordGroup {
			continue
		}
		r := codec.NewReader(rec.Value)
		readRecordVersion(r)
		id := Suite(r.U16())
		current = r.U64()
		if err := r.Done(); err != nil {
			return nil, corrupt(err)
		}
		if s, err = id.lookup(); err != nil {
			return nil, err
		}
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%w: no group record", ErrCorrupt)
	}
	epoch := func(n uint64) *pastEpoch {
		p := epochs[n]
		if p == nil {
			p = &pastEpoch{epoch: &epoch{s: s, secrets: &epochSecrets{}}, secrets: secretTree{s: s}}
			epochs[n] = p
		}
		return p
	}
	var later []func() error // what needs the size of a tree
	seen := make(map[recordKey]bool, len(records))
	for _, rec := range records {
		k, err := parseRecordName(rec.Name)
		if err != nil {
			return nil, err
		}
		if seen[k] {
			return nil, fmt.Errorf("%w: %v comes twice", ErrCorrupt, rec)
		}
		seen[k] = true
		if k.kind == recordGroup {
			continue
		}
		r := codec.NewReader(rec.Value)
		readRecordVersion(r)
		if k.kind == recordNode {
			nodes[nodeIndex(k.index)] = decodeTreeNode(r, rec.Value, nodeIndex(k.index))
			if err := r.Done(); err != nil {
				return nil, fmt.Errorf("%v: %w", rec, corrupt(err))
			}
			continue
		}
		if k.epoch > current || k.epoch != current && (k.kind == recordKeys || k.kind == recordProposal) || k.epoch == current && k.kind == recordLeaves {
			return nil, fmt.Errorf("%w: %v belongs to no epoch", ErrCorrupt, rec)
		}
		p := epoch(k.epoch)
		switch k.kind {
		case recordReceiving:
			p.epoch.decodePublic(r)
			p.epoch.decodeReceiving(r)
		case recordLeaves:
			p.changed = decodeLeaves(r)
		case recordKeys:
			p.epoch.decodeSecret(r)
		case recordSubtree:
			p.secrets.subtrees = append(p.secrets.subtrees, subtreeSecret{nodeIndex(k.index), r.Vec(maxVec)})
		case recordHandshake, recordApplication:
			ratchet, kind := decodeRatchet(s, r), handshake
			if k.kind == recordApplication {
				kind = application
			}
			later = append(later, func() error {
				if p.epoch.tree == nil || leafCount(k.index) >= p.epoch.tree.leaves {
					return fmt.Errorf("%w: ratchet of leaf %d", ErrCorrupt, k.index)
				}
				p.secrets.set(0, LeafIndex(k.index), kind, ratchet)
				return nil
			})
		case recordProposal:
			pending[k.index] = decodePendingProposal(s, r, rec.Value)
		}
		if err := r.Done(); err != nil {
			return nil, fmt.Errorf("%v: %w", rec, corrupt(err))
		}
	}
	if epochs[current] == nil {
		return nil, fmt.Errorf("%w: the current epoch is missing", ErrCorrupt)
	}
	tree, err := storedTree(s, nodes)
	if err != nil {
		return nil, err
	}
	tree.hashLeaves()
	if !bytes.Equal(tree.rootHash(), epochs[current].epoch.context.TreeHash) {
		return nil, fmt.Errorf("%w: the tree is another", ErrCorrupt)
	}
	epochs[current].epoch.tree = tree
	// Past epochs are without a gap; of their trees the leaves are left.
	for n := current - 1; len(epochs) > 1; n-- {
		p := epochs[n]
		if p == nil {
			break
		}
		if tree = tree.before(p.changed); tree == nil {
			return nil, fmt.Errorf("%w: leaves of epoch %d", ErrCorrupt, n)
		}
		p.epoch.tree = tree
	}
	for _, f := range later {
		if err := f(); err != nil {
			return nil, err
		}
	}
	g := &Group{config: config}
	for n, p := range epochs {
		if p.epoch.tree == nil || p.epoch.encoded == nil || n != current && p.changed == nil || p.epoch.context.Epoch != n || p.epoch.context.Suite != s.id {
			return nil, fmt.Errorf("%w: epoch %d is incomplete", ErrCorrupt, n)
		}
		if p.epoch.tree.leaf(p.epoch.self) == nil || len(p.epoch.secrets.senderData) != s.nh || len(p.epoch.secrets.resumption) != s.nh ||
			!bytes.Equal(p.epoch.context.GroupID, epochs[current].epoch.context.GroupID) {
			return nil, fmt.Errorf("%w: epoch %d does not belong to the group", ErrCorrupt, n)
		}
		p.secrets.leaves, p.secrets.past = p.epoch.tree.leaves, n != current
		slices.SortFunc(p.secrets.subtrees, func(a, b subtreeSecret) int { return cmp.Compare(a.node, b.node) })
		for i, t := range p.secrets.subtrees {
			if len(t.secret) != s.nh || int(t.node.last()) >= p.epoch.tree.leaves.nodes() ||
				i > 0 && p.secrets.subtrees[i-1].node.last() >= t.node.first() {
				return nil, fmt.Errorf("%w: secret tree of epoch %d", ErrCorrupt, n)
			}
		}
		if !p.secrets.whole() {
			return nil, fmt.Errorf("%w: ratchets of epoch %d", ErrCorrupt, n)
		}
		if n == current {
			g.cur, g.secrets = p.epoch, p.secrets
		} else {
			g.past = append(g.past, *p)
		}
	}
	slices.SortFunc(g.past, func(a, b pastEpoch) int { return cmp.Compare(b.epoch.context.Epoch, a.epoch.context.Epoch) })
	for i := range len(pending) {
		p := pending[uint32(i)]
		if p == nil {
			return nil, fmt.Errorf("%w: pending proposal %d is missing", ErrCorrupt, i)
		}
		if !p.whole(g.cur) {
			return nil, fmt.Errorf("%w: pending proposal %d", ErrCorrupt, i)
		}
		g.pending = append(g.pending, p)
	}
	return g, g.cur.checkStored(c.Signer)
}

func readRecordVersion(r *codec.Reader) {
	if v := r.U8(); v != recordVersion && r.Err() == nil {
		r.Take(fmt.Errorf("%w: record version %d", ErrUnsupported, v))
	}
}
