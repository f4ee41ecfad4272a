package badgerbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/kv"
)

const recordVersion = 1

func corrupt(what string, err error) error {
	return fmt.Errorf("mailboxes: %s: %w: %w", what, kv.ErrCorrupt, err)
}

func idKey(kind byte, id []byte) []byte { return append([]byte{kind}, id...) }

func entryKey(id mailbox.ID, seq mailbox.Seq) []byte {
	return codec.AppendU64(idKey('e', id[:]), uint64(seq))
}

func hashKey(id mailbox.ID, h mailbox.Hash) []byte { return append(idKey('k', id[:]), h[:]...) }

func genKey(id mailbox.ID, g mailbox.Gen) []byte {
	return codec.AppendU32(idKey('g', id[:]), uint32(g))
}

func spanKey(id mailbox.ID, from mailbox.Seq) []byte {
	return codec.AppendU64(idKey('l', id[:]), uint64(from))
}

func minuteKey(kind byte, m mailbox.Minute, id []byte) []byte {
	return append(codec.AppendU32([]byte{kind}, uint32(m)), id...)
}

func expiryKey(m mailbox.Minute, id mailbox.ID, seq mailbox.Seq) []byte {
	return codec.AppendU64(minuteKey('x', m, id[:]), uint64(seq))
}

// reader begins a record and checks its version.
func reader(b []byte) *codec.Reader {
	r := codec.NewReader(b)
	if v := r.U8(); v != recordVersion {
		r.Fail("record of version %d", v)
	}
	return r
}

func appendMark(b []byte, m mailbox.Mark) []byte {
	return codec.AppendU64(codec.AppendU64(b, uint64(m.Era)), uint64(m.Seq))
}

func readMark(r *codec.Reader) mailbox.Mark {
	return mailbox.Mark{Era: mailbox.Era(r.U64()), Seq: mailbox.Seq(r.U64())}
}

// head is the record of a mailbox.
type head struct {
	id      mailbox.ID
	deleted bool
	terms   mailbox.Terms
	seq     mailbox.Seq
	era     mailbox.Era // of the entry at seq
	fence   mailbox.Mark
	chain   mailbox.Hash
	gen     mailbox.Gen
	lowGen  mailbox.Gen // the lowest generation whose record is kept
	first   mailbox.Seq // the oldest entry held, if entries > 0
	entries uint32
	bytes   uint64

	// What is never dropped for room, and how far there is nothing else: so that
	// making room looks only at what goes.
	commits     uint32
	commitBytes uint64
	droppable   mailbox.Seq // no message is held before it

	changed bool         // must be saved
	last    mailbox.Span // written by this transaction last
}

// head returns what the relay signs; era is the store's, for an empty mailbox.
func (h *head) head(era mailbox.Era) mailbox.Head {
	if h.seq > 0 {
		era = h.era
	}
	return mailbox.Head{Mailbox: h.id, Era: era, Seq: h.seq, Commit: h.fence, Chain: h.chain}
}

func (h *head) save(tx *kv.Tx) error {
	b := codec.AppendU8([]byte{recordVersion}, map[bool]uint8{true: 1}[h.deleted])
	if !h.deleted {
		b = codec.AppendU32(codec.AppendU32(b, uint32(h.terms.Keep)), h.terms.MaxEntries)
		b = codec.AppendU8(codec.AppendU64(b, h.terms.MaxBytes), uint8(h.terms.Full))
		b = codec.AppendVec(b, h.terms.Meta)
		b = appendMark(b, mailbox.Mark{Era: h.era, Seq: h.seq})
		b = append(appendMark(b, h.fence), h.chain[:]...)
		b = codec.AppendU32(codec.AppendU32(b, uint32(h.gen)), uint32(h.lowGen))
		b = codec.AppendU32(codec.AppendU64(b, uint64(h.first)), h.entries)
		b = codec.AppendU64(b, h.bytes)
		b = codec.AppendU64(codec.AppendU32(b, h.commits), h.commitBytes)
		b = codec.AppendU64(b, uint64(h.droppable))
	}
	return tx.Set(idKey('h', h.id[:]), b)
}

// count takes an entry into account (1), or out again (-1).
func (h *head) count(e *entry, n int) {
	h.entries += uint32(n)
	h.bytes += uint64(n) * e.size()
	if e.Kind == mailbox.Commit {
		h.commits += uint32(n)
		h.commitBytes += uint64(n) * e.size()
	}
	h.changed = true
}

// loadHead returns the record, also of a deleted mailbox, or ErrNotFound.
func loadHead(tx *kv.Tx, id mailbox.ID) (*head, error) {
	b, err := tx.Get(idKey('h', id[:]))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, mailbox.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r := reader(b)
	h := &head{id: id, deleted: r.U8() == 1}
	if !h.deleted {
		h.terms.Keep, h.terms.MaxEntries = mailbox.Minute(r.U32()), r.U32()
		h.terms.MaxBytes, h.terms.Full = r.U64(), mailbox.Full(r.U8())
		h.terms.Meta = r.Vec(mailbox.MaxMeta)
		at := readMark(r)
		h.era, h.seq, h.fence = at.Era, at.Seq, readMark(r)
		r.Copy(h.chain[:])
		h.gen, h.lowGen = mailbox.Gen(r.U32()), mailbox.Gen(r.U32())
		h.first, h.entries, h.bytes = mailbox.Seq(r.U64()), r.U32(), r.U64()
		h.commits, h.commitBytes, h.droppable = r.U32(), r.U64(), mailbox.Seq(r.U64())
	}
	if err := r.Done(); err != nil {
		return nil, corrupt("head", err)
	}
	return h, nil
}

// entry is the record of an entry.
type entry struct {
	mailbox.Entry
	expires mailbox.Minute
	fence   mailbox.Mark // the last commit at or before it
	chain   mailbox.Hash // after it
}

func (e *entry) size() uint64 { return uint64(len(e.Payload) + len(e.Meta)) }

func (e *entry) head(id mailbox.ID) mailbox.Head {
	return mailbox.Head{Mailbox: id, Era: e.Era, Seq: e.Seq, Commit: e.fence, Chain: e.chain}
}

func (e *entry) encode() []byte {
	b := make([]byte, 0, 128+e.size())
	b = append(b, recordVersion)
	b = appendMark(b, mailbox.Mark{Era: e.Era, Seq: e.Seq})
	b = codec.AppendU32(codec.AppendU8(b, uint8(e.Kind)), uint32(e.Minute))
	b = codec.AppendU32(codec.AppendU32(b, uint32(e.Gen)), uint32(e.expires))
	b = append(appendMark(b, e.fence), e.chain[:]...)
	return codec.AppendVec(codec.AppendVec(b, e.Meta), e.Payload)
}

// decodeEntry copies what it returns.
func decodeEntry(b []byte) (*entry, error) {
	r := reader(append([]byte(nil), b...))
	at := readMark(r)
	e := &entry{Entry: mailbox.Entry{Era: at.Era, Seq: at.Seq, Kind: mailbox.Kind(r.U8()), Minute: mailbox.Minute(r.U32()), Gen: mailbox.Gen(r.U32())}}
	e.expires, e.fence = mailbox.Minute(r.U32()), readMark(r)
	r.Copy(e.chain[:])
	e.Meta, e.Payload = r.Vec(mailbox.MaxMeta), r.Vec(mailbox.MaxPayload)
	if err := r.Done(); err != nil {
		return nil, corrupt("entry", err)
	}
	return e, nil
}

func loadEntry(tx *kv.Tx, id mailbox.ID, seq mailbox.Seq) (*entry, error) {
	b, err := tx.Get(entryKey(id, seq))
	if err != nil {
		return nil, corrupt("entry", err)
	}
	return decodeEntry(b)
}

// scanEntries goes over the entries held from a position on.
func scanEntries(tx *kv.Tx, id mailbox.ID, from mailbox.Seq, each func(*entry) bool) error {
	seq, failed := tx.Range(idKey('e', id[:]), entryKey(id, from), false)
	for _, v := range seq {
		e, err := decodeEntry(v)
		if err != nil {
			return err
		}
		if !each(e) {
			break
		}
	}
	return failed()
}

// appendHead appends a head of a mailbox that the key names.
func appendHead(b []byte, h mailbox.Head) []byte {
	return append(appendMark(appendMark(b, h.Mark()), h.Commit), h.Chain[:]...)
}

func readHead(r *codec.Reader, id mailbox.ID) mailbox.Head {
	at := readMark(r)
	h := mailbox.Head{Mailbox: id, Era: at.Era, Seq: at.Seq, Commit: readMark(r)}
	r.Copy(h.Chain[:])
	return h
}

func encodeGeneration(at mailbox.Head, meta []byte) []byte {
	return codec.AppendVec(appendHead([]byte{recordVersion}, at), meta)
}

func decodeGeneration(id mailbox.ID, gen mailbox.Gen, b []byte) (mailbox.Generation, error) {
	r := reader(b)
	g := mailbox.Generation{Gen: gen, Head: readHead(r, id), Meta: r.Vec(mailbox.MaxMeta)}
	if gen == 0 {
		g.Head = mailbox.Head{} // no commit has installed it
	}
	if err := r.Done(); err != nil {
		return g, corrupt("generation", err)
	}
	return g, nil
}

func encodeSpan(s mailbox.Span) []byte {
	return appendHead(codec.AppendU8([]byte{recordVersion}, uint8(s.Cause)), s.End)
}

func decodeSpan(id mailbox.ID, key, b []byte) (mailbox.Span, error) {
	r := reader(b)
	s := mailbox.Span{Cause: mailbox.Cause(r.U8()), End: readHead(r, id)}
	if len(key) != 41 {
		r.Fail("a span under a key of %d bytes", len(key))
	} else {
		s.From = mailbox.Seq(binary.BigEndian.Uint64(key[33:]))
	}
	if err := r.Done(); err != nil {
		return s, corrupt("span", err)
	}
	return s, nil
}

// spanAt returns the last span that begins at or before seq, if there is one.
func spanAt(tx *kv.Tx, id mailbox.ID, seq mailbox.Seq) (s mailbox.Span, ok bool, err error) {
	all, failed := tx.Range(idKey('l', id[:]), spanKey(id, seq), true)
	for k, v := range all {
		s, err = decodeSpan(id, k, v)
		ok = true
		break
	}
	return s, ok, errors.Join(err, failed())
}

// loadSpans returns the spans that have a part from from to through, and of those
// the first that make a page and one more.
func loadSpans(tx *kv.Tx, id mailbox.ID, from, through mailbox.Seq) (out []mailbox.Span, err error) {
	start := from
	if s, ok, err := spanAt(tx, id, from); err != nil {
		return nil, err
	} else if ok && s.End.Seq >= from {
		start = s.From
	}
	all, failed := tx.Range(idKey('l', id[:]), spanKey(id, start), false)
	for k, v := range all {
		s, err := decodeSpan(id, k, v)
		if err != nil {
			return nil, err
		}
		if s.From > through || len(out) > mailbox.MaxSpans {
			break
		}
		out = append(out, s)
	}
	return out, failed()
}

// headAt returns the head at a position that the mailbox has passed, and the
// last seq that shares a span with it. Within a span only era and seq are known.
func headAt(tx *kv.Tx, h *head, seq mailbox.Seq) (at mailbox.Head, end mailbox.Seq, err error) {
	if seq > h.seq {
		return at, 0, mailbox.ErrEra
	}
	b, err := tx.Get(entryKey(h.id, seq))
	if err == nil {
		e, err := decodeEntry(b)
		if err != nil {
			return at, 0, err
		}
		return e.head(h.id), seq, nil
	}
	if !errors.Is(err, kv.ErrNotFound) {
		return at, 0, err
	}
	s, ok, err := spanAt(tx, h.id, seq)
	if err != nil {
		return at, 0, err
	}
	if !ok || s.End.Seq < seq {
		return at, 0, corrupt("mailbox", fmt.Errorf("nothing tells of a position it has passed"))
	}
	if s.End.Seq == seq {
		return s.End, seq, nil
	}
	return mailbox.Head{Mailbox: h.id, Era: s.End.Era, Seq: seq}, s.End.Seq, nil
}

// spanBefore returns the span that ends right before seq, a zero one if there is none.
// Entries mostly go one after the other: looking for a span in a transaction costs
// as much as the transaction has written.
func spanBefore(tx *kv.Tx, h *head, seq mailbox.Seq) (mailbox.Span, error) {
	if h.last.End.Seq == seq-1 {
		return h.last, nil
	}
	if held, err := tx.Has(entryKey(h.id, seq-1)); err != nil || held || seq == 1 {
		return mailbox.Span{}, err
	}
	s, ok, err := spanAt(tx, h.id, seq-1)
	if err != nil || !ok || s.End.Seq != seq-1 {
		return mailbox.Span{}, err
	}
	return s, nil
}

// remove takes an entry out and notes it in a span. The caller settles and saves
// the head.
func remove(tx *kv.Tx, h *head, e *entry, cause mailbox.Cause) error {
	s := mailbox.Span{From: e.Seq, Cause: cause, End: e.head(h.id)}
	before, err := spanBefore(tx, h, e.Seq)
	if err != nil {
		return err
	}
	if before.End.Seq > 0 && before.Cause == cause && before.End.Era == e.Era {
		s.From = before.From
	}
	next := spanKey(h.id, e.Seq+1)
	if b, err := tx.Get(next); err == nil {
		after, err := decodeSpan(h.id, next, b)
		if err != nil {
			return err
		}
		if after.Cause == cause && after.End.Era == e.Era {
			s.End = after.End
			if err := tx.Delete(next); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	// The index may lead to a newer entry of the same hash by now.
	index := hashKey(h.id, e.Hash())
	if b, err := tx.Get(index); err == nil && bytes.Equal(b, codec.AppendU64([]byte{recordVersion}, uint64(e.Seq))) {
		if err := tx.Delete(index); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	h.count(e, -1)
	h.last = s
	return errors.Join(
		tx.Set(spanKey(h.id, s.From), encodeSpan(s)),
		tx.Delete(entryKey(h.id, e.Seq)),
		tx.Delete(expiryKey(e.expires, h.id, e.Seq)),
	)
}

// settle brings first and the kept generations up to date after removals. The
// entries of generation g lie behind the commit that installed it, up to and with
// the one that installed g+1.
func settle(tx *kv.Tx, h *head) error {
	first := h.seq + 1
	if h.entries > 0 {
		keys, failed := tx.Keys(idKey('e', h.id[:]), entryKey(h.id, h.first), false)
		for k := range keys {
			first = mailbox.Seq(binary.BigEndian.Uint64(k[33:]))
			break
		}
		if err := failed(); err != nil {
			return err
		}
	}
	h.first, h.changed = first, true
	for h.lowGen < h.gen {
		b, err := tx.Get(genKey(h.id, h.lowGen+1))
		if err != nil {
			return corrupt("generation", err)
		}
		next, err := decodeGeneration(h.id, h.lowGen+1, b)
		if err != nil {
			return err
		}
		if first <= next.Head.Seq {
			return nil
		}
		if err := tx.Delete(genKey(h.id, h.lowGen)); err != nil {
			return err
		}
		h.lowGen++
	}
	return nil
}
