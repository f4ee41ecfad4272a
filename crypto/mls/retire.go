package mls

// Retire overwrites the secrets that g holds and next does not: those that were
// used up on the way from g to next, which is a later state of the group (a
// clone of g that was changed, or what a commit was merged into). It is for the
// moment at which next takes the place of g. Neither g nor another clone of it or state
// before it can encrypt, process, export or be stored afterwards, for their memory serves
// for later messages; and if next is in another epoch, what was staged and not merged
// cannot be merged either. What the standard library holds of parsed
// keys is left to the garbage collector.
func (g *Group) Retire(next *Group) {
	if g == next {
		return
	}
	if g.cur != next.cur {
		g.cur.retire(next)
	}
	g.secrets.retire(next.held(g.cur.context.Epoch))
	for i := range g.past {
		p := &g.past[i]
		kept := next.held(p.epoch.context.Epoch)
		p.secrets.retire(kept)
		if kept == nil {
			clear(p.epoch.secrets.senderData)
			clear(p.epoch.secrets.resumption)
		}
	}
	for _, p := range g.pending {
		if p.key != nil && !next.holds(p.key) {
			clear(p.key.raw)
		}
	}
	g.secrets, g.past, g.pending, g.own = secretTree{}, nil, nil, 0 // so that using g fails
}

// held returns the secret tree of an epoch of g that it still has, or nil.
func (g *Group) held(epoch uint64) *secretTree {
	if epoch == g.cur.context.Epoch {
		return &g.secrets
	}
	if p := g.pastEpoch(epoch); p != nil {
		return &p.secrets
	}
	return nil
}

// holds reports whether k is a key of g.
func (g *Group) holds(k *privateKey) bool {
	for _, own := range g.cur.keys {
		if own.key == k {
			return true
		}
	}
	for _, p := range g.pending {
		if p.key == k {
			return true
		}
	}
	return false
}

// retire overwrites what of e is not in next, to which e is past.
func (e *epoch) retire(next *Group) {
	k := e.secrets
	for _, secret := range [][]byte{k.exporter, k.external, k.confirmation, k.membership, k.authenticator, k.init} {
		clear(secret)
	}
	if next.held(e.context.Epoch) == nil {
		clear(k.senderData)
		clear(k.resumption)
	}
	for _, own := range e.keys {
		if !next.holds(own.key) {
			clear(own.key.raw)
		}
	}
}

// retire overwrites what of t is not in kept, which may be nil, and gives it back.
func (t *secretTree) retire(kept *secretTree) {
	if kept == nil {
		kept = &secretTree{}
	}
	for _, s := range t.subtrees {
		i, found := kept.subtreeOf(s.node.first().leaf())
		if !found || kept.subtrees[i].node != s.node {
			clear(s.secret)
		}
	}
	if t.list == nil || t.list == kept.list {
		return
	}
	for c, chunk := range t.chunks() {
		if chunk == nil || kept.chunk(c) == chunk {
			continue
		}
		for i, r := range chunk.ratchets {
			l, kind := LeafIndex(c*chunkLeaves+i/2), ratchetKind(i%2)
			now := kept.ratchet(l, kind)
			if r == nil || &r.ratchet == now {
				continue
			}
			if len(r.skipped) > 0 && (now == nil || len(now.skipped) == 0 || &now.skipped[0] != &r.skipped[0]) {
				clear(r.skipped)
			}
			*r = ownedRatchet{}
			ratchetPool.Put(r)
		}
		*chunk = ratchetChunk{}
		chunkPool.Put(chunk)
	}
	clear(t.list.chunks)
	t.list.own, t.list.chunks = 0, t.list.chunks[:0]
	listPool.Put(t.list)
}
