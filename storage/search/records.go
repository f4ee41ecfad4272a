package search

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"sotto/crypto/codec"
	"sotto/storage/vault"
)

// partition is that of all records, and of the buckets that hold what texts say.
const partition = "search"

// The sequences of the vault: doc numbers, and numbers of segments, eras and buckets.
const (
	seqDoc  = "search doc"
	seqPart = "search part"
)

// base parts the numbers of docs: those that came while there was an index count up from
// here, those that were there before it count down.
const base = uint64(1) << 32

// The orders of records: state and key have one of their own, all others begin with the
// era, eight bytes, and a letter.
const (
	orderState = "m"
	orderKey   = "k"
	segPart    = "s" // segment u64, then one of those below
	gonePart   = "w" // doc number u64
	loosePart  = "x" // doc number u64; last, so that who has read them all does not walk over deleted segments
	docsPart   = "d" // block u32
	blockPart  = "b" // block u32
	listPart   = "p" // hash u64, chunk u32
)

func (s *state) prefix(part string) string { return vault.U64(s.Era) + part }

func (g *segment) prefix(era uint64) string { return vault.U64(era) + segPart + vault.U64(g.No) }

func u32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

func (g *segment) docsOrder(era uint64, block uint32) string {
	return g.prefix(era) + docsPart + u32(block)
}

func (g *segment) blockOrder(era uint64, block uint32) string {
	return g.prefix(era) + blockPart + u32(block)
}

func (g *segment) listOrder(era, hash uint64, chunk uint32) string {
	return g.prefix(era) + listPart + vault.U64(hash) + u32(chunk)
}

func bucket(n uint64) vault.Bucket {
	return vault.Bucket{Domain: vault.Messages, Partition: partition, Number: n}
}

const recordVersion = 1

// state says which records make up the index. What it does not name is on its way, or
// left over.
type state struct {
	Era      uint64 // of the numbers of docs: another after Reset
	Loose    uint64 // bucket of loose docs
	Unclean  bool   // a loose doc was removed: its bucket must go
	Dropped  bool   // buckets of removed docs are gone, and the erasure key is to be rotated
	Filling  bool   // what was there before the index is still being added
	Down     uint64 // the number after the next doc that is filled in
	Segments []segment
}

// segment is docs whose numbers follow on each other, with their postings. It is written
// once, and sealed under the key of its own bucket.
type segment struct {
	No       uint64
	Min, Max uint64 // numbers that belong here
	Docs     uint32
	Bits     uint8  // there are 1<<Bits blocks of postings
	Bytes    uint64 // of postings
	From, To uint64 // times, in milliseconds
}

// Bounds of what is in a record: our own bytes, read back.
const (
	big          = 1 << 20
	maxSegments  = 4096
	maxTerms     = 1 << 17
	docsInBlock  = 64
	blockSize    = 4 << 10  // of postings, about
	inlineList   = 2 << 10  // a longer one has records of its own
	chunkSize    = 16 << 10 // of one of them
	maxBlockBits = 20
)

func (s *state) fields(f *codec.Fields) {
	f.U64(&s.Era)
	f.U64(&s.Loose)
	f.Flag(&s.Unclean)
	f.Flag(&s.Dropped)
	f.Flag(&s.Filling)
	f.U64(&s.Down)
	codec.List(f, big, maxSegments, &s.Segments, func(g *segment, f *codec.Fields) {
		f.U64(&g.No)
		f.U64(&g.Min)
		f.U64(&g.Max)
		f.U32(&g.Docs)
		f.U8(&g.Bits)
		f.U64(&g.Bytes)
		f.U64(&g.From)
		f.U64(&g.To)
		if f.Reading() && (g.Bits > maxBlockBits || g.Min > g.Max || g.Docs == 0) {
			f.Fail("segment of %d docs and 1<<%d blocks", g.Docs, g.Bits)
		}
	})
	if !f.Reading() {
		return
	}
	for i := 1; i < len(s.Segments); i++ {
		if s.Segments[i].Max >= s.Segments[i-1].Min {
			f.Fail("segments out of order")
		}
	}
}

// doc is one text's entry. Docs are kept from the newest to the oldest.
type doc struct {
	number uint64
	time   uint64 // milliseconds
	name   string
	hashes []uint64 // of a loose doc's terms, in order; nil in a segment
}

func newerFirst(a, b doc) int { return cmp.Compare(b.number, a.number) }

func (d *doc) looseFields(f *codec.Fields) {
	f.U64(&d.time)
	f.Text(MaxName, &d.name)
	codec.List(f, big, maxTerms, &d.hashes, func(h *uint64, f *codec.Fields) { f.U64(h) })
}

func docFields(d *doc, f *codec.Fields) {
	f.U64(&d.number)
	f.U64(&d.time)
	f.Text(MaxName, &d.name)
}

func write(fields func(*codec.Fields)) []byte { return codec.Append([]byte{recordVersion}, fields) }

func read(b []byte, what string, fields func(*codec.Fields)) error {
	r := codec.NewReader(b)
	if v := r.U8(); v != recordVersion {
		r.Fail("record of version %d", v)
	}
	codec.ReadFrom(r, fields)
	if err := r.Done(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
	}
	return nil
}

// get reads a record that must be there.
func get(tx *vault.Tx, order, what string) ([]byte, error) {
	b, err := tx.Get(ref(order))
	if errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrDamaged) {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, what, err)
	}
	return b, err
}

func ref(order string) vault.Ref { return vault.Ref{Table: Table, Partition: partition, Order: order} }

// listWriter makes the bytes of a list of places, which go up: varints of the
// differences, in chunks that each begin anew.
type listWriter struct {
	chunks [][]byte
	b      []byte
	last   uint32
}

func (w *listWriter) add(place uint32) {
	if len(w.b) >= chunkSize {
		w.chunks, w.b = append(w.chunks, w.b), nil
	}
	if len(w.b) == 0 {
		w.last = 0
	}
	w.b = binary.AppendUvarint(w.b, uint64(place-w.last))
	w.last = place
}

// list reads one.
type list struct {
	next func() ([]byte, error) // the chunk after the one at hand; nil at the end
	b    []byte
	last uint32
	any  bool // a place was read from the chunk at hand
	docs uint32
}

var errList = fmt.Errorf("%w: a list of postings", ErrDamaged)

// read returns the next place; ok is false at the end.
func (l *list) read() (place uint32, ok bool, err error) {
	before, had := l.last, l.any
	for len(l.b) == 0 {
		if l.next == nil {
			return 0, false, nil
		}
		if l.b, err = l.next(); err != nil {
			return 0, false, err
		}
		if l.b == nil {
			l.next = nil
			return 0, false, nil
		}
		l.last = 0
	}
	d, n := binary.Uvarint(l.b)
	if n <= 0 || d >= uint64(l.docs) || uint64(l.last)+d >= uint64(l.docs) {
		return 0, false, errList
	}
	l.b = l.b[n:]
	l.last += uint32(d)
	if had && l.last <= before {
		return 0, false, errList
	}
	l.any = true
	return l.last, true, nil
}

// posting is an entry of a block: the list of a term, or where it lies.
type posting struct {
	hash   uint64
	chunks uint32 // in records of their own; 0: inline
	inline []byte
}

// appendPosting appends an entry: hash, length of the list or number of its chunks, and
// which of the two as the lowest bit.
func appendPosting(b []byte, p posting) []byte {
	b = binary.BigEndian.AppendUint64(b, p.hash)
	if p.chunks > 0 {
		return binary.AppendUvarint(b, uint64(p.chunks)<<1|1)
	}
	return append(binary.AppendUvarint(b, uint64(len(p.inline))<<1), p.inline...)
}

func readPosting(b []byte) (p posting, rest []byte, err error) {
	bad := fmt.Errorf("%w: a block of postings", ErrDamaged)
	if len(b) < 9 {
		return p, nil, bad
	}
	p.hash = binary.BigEndian.Uint64(b)
	n, size := binary.Uvarint(b[8:])
	if size <= 0 {
		return p, nil, bad
	}
	b = b[8+size:]
	if n&1 == 1 {
		if n>>1 == 0 || n>>1 > maxTerms {
			return p, nil, bad
		}
		p.chunks = uint32(n >> 1)
		return p, b, nil
	}
	if n>>1 > uint64(len(b)) {
		return p, nil, bad
	}
	p.inline = b[:n>>1]
	return p, b[n>>1:], nil
}

// bytes returns the entries of a block.
func (g *segment) bytes(tx *vault.Tx, era uint64, n uint32) ([]byte, error) {
	b, err := get(tx, g.blockOrder(era, n), "a block of postings")
	if err == nil && (len(b) < 5 || b[0] != recordVersion || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5)) {
		err = fmt.Errorf("%w: a block of postings of another version or length", ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	return b[5:], nil
}

// block reads all entries of one.
func (g *segment) block(tx *vault.Tx, era uint64, n uint32) (out []posting, err error) {
	b, err := g.bytes(tx, era, n)
	if err != nil {
		return nil, err
	}
	for len(b) > 0 {
		var p posting
		if p, b, err = readPosting(b); err != nil {
			return nil, err
		}
		if p.hash>>(64-g.Bits) != uint64(n) || len(out) > 0 && out[len(out)-1].hash >= p.hash {
			return nil, fmt.Errorf("%w: postings out of order", ErrDamaged)
		}
		out = append(out, p)
	}
	return out, nil
}

// find returns the list of a term, or nil if no doc has it.
func (g *segment) find(tx *vault.Tx, era, hash uint64) (*list, error) {
	b, err := g.bytes(tx, era, uint32(hash>>(64-g.Bits)))
	for err == nil && len(b) > 0 {
		var p posting
		if p, b, err = readPosting(b); err == nil && p.hash >= hash {
			if p.hash > hash {
				return nil, nil
			}
			return g.list(tx, era, p), nil
		}
	}
	return nil, err
}

func (g *segment) list(tx *vault.Tx, era uint64, p posting) *list {
	if p.chunks == 0 {
		return &list{b: p.inline, docs: g.Docs}
	}
	chunk := uint32(0)
	return &list{docs: g.Docs, next: func() ([]byte, error) {
		if chunk == p.chunks {
			return nil, nil
		}
		chunk++
		return get(tx, g.listOrder(era, p.hash, chunk-1), "a list of postings")
	}}
}

// all is the list of every place.
func (g *segment) all() *list {
	b := make([]byte, g.Docs)
	for i := 1; i < len(b); i++ {
		b[i] = 1
	}
	return &list{b: b, docs: g.Docs}
}

// docs reads a block of docs.
func (g *segment) docs(tx *vault.Tx, era uint64, block uint32) (out []doc, err error) {
	b, err := get(tx, g.docsOrder(era, block), "a block of docs")
	if err != nil {
		return nil, err
	}
	err = read(b, "a block of docs", func(f *codec.Fields) { codec.List(f, big, docsInBlock, &out, docFields) })
	if err == nil && (uint32(len(out)) != min(docsInBlock, g.Docs-block*docsInBlock) || !slices.IsSortedFunc(out, newerFirst)) {
		err = fmt.Errorf("%w: a block of %d docs", ErrDamaged, len(out))
	}
	return out, err
}
