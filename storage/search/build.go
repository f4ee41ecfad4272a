package search

import (
	"cmp"
	"context"
	"encoding/binary"
	"math/bits"
	"slices"

	"sotto/crypto/codec"
	"sotto/storage/vault"
)

// plan is a segment to be written: from segments that follow on each other, the loose docs
// between their numbers, and less what is gone from them.
type plan struct {
	state  state
	inputs []segment // newest first
	loose  []doc     // newest first
	gone   []uint64
	min    uint64
	max    uint64
	no     uint64 // of the new segment
}

// writeSize is how much is written in one transaction.
const writeSize = 1 << 20

// writer writes records that nothing names yet, in as many transactions as it takes.
type writer struct {
	v       *vault.Vault
	ctx     context.Context
	bucket  vault.Bucket
	pending []vault.Record
	size    int
}

func (w *writer) put(order string, value []byte) error {
	w.pending = append(w.pending, vault.Record{Order: order, Value: value})
	if w.size += len(order) + len(value) + 256; w.size < writeSize {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	if err := w.ctx.Err(); err != nil || len(w.pending) == 0 {
		return err
	}
	err := w.v.Update(func(tx *vault.Tx) error {
		for _, r := range w.pending {
			if err := tx.Put(ref(r.Order), w.bucket, r.Value); err != nil {
				return err
			}
		}
		return nil
	})
	w.pending, w.size = w.pending[:0], 0
	return err
}

const nowhere = ^uint32(0)

// build writes the plan's segment and returns what the state is to say of it; Docs is 0
// if nothing is left.
func (p *plan) build(ctx context.Context, v *vault.Vault) (segment, error) {
	g := segment{No: p.no, Min: p.min, Max: p.max}
	w := &writer{v: v, ctx: ctx, bucket: bucket(p.no)}
	docs, moved, err := p.docs(v)
	if err != nil || len(docs) == 0 {
		return g, err
	}
	g.Docs, g.From = uint32(len(docs)), ^uint64(0)
	for _, d := range docs {
		g.From, g.To = min(g.From, d.time), max(g.To, d.time)
	}
	n := uint32(0)
	for block := range slices.Chunk(docs, docsInBlock) {
		b := write(func(f *codec.Fields) { codec.List(f, big, docsInBlock, &block, docFields) })
		if err := w.put(g.docsOrder(p.state.Era, n), b); err != nil {
			return g, err
		}
		n++
	}
	sources, size := p.sources(v, docs, moved)
	g.Bits = uint8(min(bits.Len64(size/blockSize), maxBlockBits))
	if err := p.postings(w, &g, sources); err != nil {
		return g, err
	}
	return g, w.flush()
}

// docs returns the docs of the new segment, and for each input where its docs have gone.
func (p *plan) docs(v *vault.Vault) (docs []doc, moved [][]uint32, err error) {
	gone := make(map[uint64]bool, len(p.gone))
	for _, n := range p.gone {
		gone[n] = true
	}
	for _, d := range p.loose {
		docs = append(docs, doc{number: d.number, time: d.time, name: d.name})
	}
	numbers := make([][]uint64, len(p.inputs))
	for i := range p.inputs {
		g := &p.inputs[i]
		for b := uint32(0); b*docsInBlock < g.Docs; {
			err := v.View(func(tx *vault.Tx) error {
				for end := b + 64; b < end && b*docsInBlock < g.Docs; b++ {
					block, err := g.docs(tx, p.state.Era, b)
					if err != nil {
						return err
					}
					for _, d := range block {
						numbers[i] = append(numbers[i], d.number)
						if !gone[d.number] {
							docs = append(docs, d)
						}
					}
				}
				return nil
			})
			if err != nil {
				return nil, nil, err
			}
		}
	}
	slices.SortFunc(docs, newerFirst)
	places := make(map[uint64]uint32, len(docs))
	for i, d := range docs {
		places[d.number] = uint32(i)
	}
	for _, of := range numbers {
		to := make([]uint32, len(of))
		for i, n := range of {
			if to[i] = nowhere; !gone[n] {
				to[i] = places[n]
			}
		}
		moved = append(moved, to)
	}
	return docs, moved, nil
}

// source gives terms with the places of their docs, in the order of their hashes.
type source interface {
	hash() (h uint64, ok bool, err error)
	take(add func(place uint32)) error
}

func (p *plan) sources(v *vault.Vault, docs []doc, moved [][]uint32) (out []source, size uint64) {
	for i := range p.inputs {
		size += p.inputs[i].Bytes
		out = append(out, &segmentSource{v: v, era: p.state.Era, g: &p.inputs[i], moved: moved[i]})
	}
	if len(p.loose) == 0 {
		return out, size
	}
	m := &memorySource{}
	at := 0
	for _, d := range p.loose {
		for docs[at].number != d.number { // both are newest first
			at++
		}
		for _, h := range d.hashes {
			m.pairs = append(m.pairs, pair{h, uint32(at)})
		}
	}
	slices.SortFunc(m.pairs, func(a, b pair) int {
		if a.hash != b.hash {
			return cmp.Compare(a.hash, b.hash)
		}
		return cmp.Compare(a.place, b.place)
	})
	last := uint64(0)
	for _, pr := range m.pairs {
		if size++; pr.hash != last {
			size += 9
		}
		last = pr.hash
	}
	return append(out, m), size
}

type pair struct {
	hash  uint64
	place uint32
}

type memorySource struct{ pairs []pair }

func (m *memorySource) hash() (uint64, bool, error) {
	if len(m.pairs) == 0 {
		return 0, false, nil
	}
	return m.pairs[0].hash, true, nil
}

func (m *memorySource) take(add func(uint32)) error {
	h := m.pairs[0].hash
	for len(m.pairs) > 0 && m.pairs[0].hash == h {
		add(m.pairs[0].place)
		m.pairs = m.pairs[1:]
	}
	return nil
}

// segmentSource reads the postings of a segment, a few blocks at a time.
type segmentSource struct {
	v     *vault.Vault
	era   uint64
	g     *segment
	moved []uint32
	next  uint32
	ready []posting
}

const blocksAtOnce = 32

func (s *segmentSource) hash() (uint64, bool, error) {
	for len(s.ready) == 0 {
		if s.next == 1<<s.g.Bits {
			return 0, false, nil
		}
		err := s.v.View(func(tx *vault.Tx) error {
			for end := s.next + blocksAtOnce; s.next < end && s.next < 1<<s.g.Bits; s.next++ {
				block, err := s.g.block(tx, s.era, s.next)
				if err != nil {
					return err
				}
				s.ready = append(s.ready, block...)
			}
			return nil
		})
		if err != nil {
			return 0, false, err
		}
	}
	return s.ready[0].hash, true, nil
}

func (s *segmentSource) take(add func(uint32)) error {
	p := s.ready[0]
	s.ready = s.ready[1:]
	each := func(tx *vault.Tx) error {
		l := s.g.list(tx, s.era, p)
		for {
			place, ok, err := l.read()
			if err != nil || !ok {
				return err
			}
			if to := s.moved[place]; to != nowhere {
				add(to)
			}
		}
	}
	if p.chunks == 0 {
		return each(nil)
	}
	return s.v.View(each)
}

// postings merges the sources and writes the blocks and lists of the segment.
func (p *plan) postings(w *writer, g *segment, sources []source) error {
	var block []byte
	number, places := uint32(0), []uint32(nil)
	// close writes the blocks before the one numbered to.
	close := func(to uint32) error {
		for ; number < to; number++ {
			if err := w.put(g.blockOrder(p.state.Era, number), append(binary.BigEndian.AppendUint32([]byte{recordVersion}, uint32(len(block))), block...)); err != nil {
				return err
			}
			block = nil
		}
		return nil
	}
	for {
		var least uint64
		any := false
		for _, s := range sources {
			h, ok, err := s.hash()
			if err != nil {
				return err
			}
			if ok && (!any || h < least) {
				least, any = h, true
			}
		}
		if !any {
			return close(1 << g.Bits)
		}
		places = places[:0]
		for _, s := range sources {
			h, ok, err := s.hash()
			if err != nil {
				return err
			}
			if ok && h == least {
				if err := s.take(func(at uint32) { places = append(places, at) }); err != nil {
					return err
				}
			}
		}
		if len(places) == 0 {
			continue // all are gone
		}
		slices.Sort(places)
		if err := close(uint32(least >> (64 - g.Bits))); err != nil {
			return err
		}
		var l listWriter
		for _, at := range places {
			l.add(at)
		}
		entry := posting{hash: least, inline: l.b}
		if len(l.chunks) > 0 || len(l.b) > inlineList {
			l.chunks = append(l.chunks, l.b)
			entry = posting{hash: least, chunks: uint32(len(l.chunks))}
			for i, c := range l.chunks {
				if err := w.put(g.listOrder(p.state.Era, least, uint32(i)), c); err != nil {
					return err
				}
			}
		}
		before := len(block)
		block = appendPosting(block, entry)
		g.Bytes += uint64(len(block) - before)
	}
}
