package search

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"sotto/storage/vault"
)

// Request is what to look for.
type Request struct {
	Query *Query
	Tags  []string // that a text must have; those of the query's filters are the caller's to add

	Cursor string // Page.Next of the page before
	Limit  int    // hits on a page
}

// Page is some hits.
type Page struct {
	Names []string // the newest first
	Next  string   // where the next page begins; empty if this was the last
}

// maxCandidates bounds how many texts are looked at for one page: it may have few hits,
// or none, and yet a next one.
const maxCandidates = 5000

// Search returns the next page. Of each text that may match it asks check, which looks
// at the text itself, with all that the query says.
func (x *Index) Search(tx *vault.Tx, r Request, check func(name string) (bool, error)) (p Page, err error) {
	s, err := load(tx)
	if err != nil {
		return p, err
	}
	below := ^uint64(0)
	if r.Cursor != "" {
		if below, err = s.cursor(r.Cursor); err != nil {
			return p, err
		}
	}
	var hashes []uint64
	for _, t := range r.Query.terms() {
		hashes = append(hashes, x.hash(t))
	}
	for _, t := range r.Tags {
		hashes = append(hashes, x.hash(termTag+t))
	}
	slices.Sort(hashes)
	hashes = slices.Compact(hashes)

	looked := 0
	for d, err := range s.candidates(tx, hashes, below, r.Query) {
		if err != nil {
			return p, err
		}
		if len(p.Names) == r.Limit || looked == maxCandidates {
			p.Next = fmt.Sprintf("%d-%d", s.Era, d.number+1)
			return p, nil
		}
		looked++
		ok, err := check(d.name)
		if err != nil {
			return p, err
		}
		if ok {
			p.Names = append(p.Names, d.name)
		}
	}
	return p, nil
}

func (s *state) cursor(c string) (uint64, error) {
	era, at, _ := strings.Cut(c, "-")
	e, err := strconv.ParseUint(era, 10, 64)
	n, err2 := strconv.ParseUint(at, 10, 64)
	if err != nil || err2 != nil || e != s.Era {
		return 0, ErrCursor
	}
	return n, nil
}

func (q *Query) within(ms uint64) bool { return q.Within(time.UnixMilli(int64(ms))) }

// candidates goes over docs with all the terms, and a number below, from the newest.
func (s *state) candidates(tx *vault.Tx, hashes []uint64, below uint64, q *Query) iter.Seq2[doc, error] {
	return func(yield func(doc, error) bool) {
		var loose []doc
		for d, err := range s.loose(tx, 0, below-1) {
			if err != nil {
				yield(doc{}, err)
				return
			}
			if q.within(d.time) && hasAll(d.hashes, hashes) {
				loose = append(loose, doc{number: d.number, time: d.time, name: d.name})
			}
		}
		slices.SortFunc(loose, newerFirst)
		// Loose docs that are newer than what comes from a segment go before it.
		upTo := func(number uint64) bool {
			for len(loose) > 0 && loose[0].number > number {
				if !yield(loose[0], nil) {
					return false
				}
				loose = loose[1:]
			}
			return true
		}
		for i := range s.Segments {
			g := &s.Segments[i]
			if g.Min >= below || !q.Before.IsZero() && int64(g.From) >= q.Before.UnixMilli() || !q.After.IsZero() && int64(g.To) < q.After.UnixMilli() {
				continue
			}
			for d, err := range s.inSegment(tx, g, hashes, below) {
				if err != nil {
					yield(doc{}, err)
					return
				}
				if q.within(d.time) && (!upTo(d.number) || !yield(d, nil)) {
					return
				}
			}
		}
		upTo(0)
	}
}

func hasAll(sorted, want []uint64) bool {
	for _, h := range want {
		if _, ok := slices.BinarySearch(sorted, h); !ok {
			return false
		}
	}
	return true
}

// inSegment goes over the docs of a segment with all the terms.
func (s *state) inSegment(tx *vault.Tx, g *segment, hashes []uint64, below uint64) iter.Seq2[doc, error] {
	return func(yield func(doc, error) bool) {
		fail := func(err error) { yield(doc{}, err) }
		var lists []*list
		for _, h := range hashes {
			l, err := g.find(tx, s.Era, h)
			if err != nil {
				fail(err)
				return
			}
			if l == nil {
				return
			}
			lists = append(lists, l)
		}
		if len(lists) == 0 {
			lists = append(lists, g.all())
		}
		r := reader{s: s, g: g}
		at, err := r.firstBelow(tx, below)
		if err != nil {
			fail(err)
			return
		}
		// at is a place that all lists which were read so far have come to.
		places := make([]int64, len(lists))
		for i := range places {
			places[i] = -1
		}
		for agreed := 0; ; {
			i := agreed
			for places[i] < int64(at) {
				place, ok, err := lists[i].read()
				if err != nil {
					fail(err)
					return
				}
				if !ok {
					return
				}
				places[i] = int64(place)
			}
			if places[i] > int64(at) {
				if at = uint32(places[i]); i > 0 {
					agreed = 0
					continue
				}
			}
			if agreed++; agreed < len(lists) {
				continue
			}
			agreed = 0
			d, err := r.doc(tx, at)
			if err != nil {
				fail(err)
				return
			}
			gone, err := s.gone(tx, d.number)
			if err != nil {
				fail(err)
				return
			}
			if !gone && !yield(d, nil) {
				return
			}
			at++
		}
	}
}

// reader reads the docs of a segment by their places.
type reader struct {
	s     *state
	g     *segment
	block []doc
	at    uint32 // the block's number, from 1
}

func (r *reader) doc(tx *vault.Tx, place uint32) (doc, error) {
	if n := place / docsInBlock; n+1 != r.at {
		block, err := r.g.docs(tx, r.s.Era, n)
		if err != nil {
			return doc{}, err
		}
		r.block, r.at = block, n+1
	}
	return r.block[place%docsInBlock], nil
}

// firstBelow returns the first place whose doc has a number below.
func (r *reader) firstBelow(tx *vault.Tx, below uint64) (uint32, error) {
	if r.g.Max < below {
		return 0, nil
	}
	from, to := uint32(0), r.g.Docs
	for from < to {
		mid := (from + to) / 2
		d, err := r.doc(tx, mid)
		if err != nil {
			return 0, err
		}
		if d.number < below {
			to = mid
		} else {
			from = mid + 1
		}
	}
	return from, nil
}

// loose goes over the docs that are in no segment, or stand in the place of one that is
// gone from it, with numbers from min to max, from the oldest.
func (s *state) loose(tx *vault.Tx, min, max uint64) iter.Seq2[doc, error] {
	return func(yield func(doc, error) bool) {
		prefix := s.prefix(loosePart)
		for r, err := range tx.Range(Table, partition, prefix+vault.U64(min), false) {
			if err != nil && errors.Is(err, vault.ErrDamaged) {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if err == nil && !strings.HasPrefix(r.Order, prefix) {
				return
			}
			var d doc
			if err == nil {
				d.number, _ = vault.Number(r.Order[len(prefix):])
				if d.number > max {
					return
				}
				err = read(r.Value, "a doc", d.looseFields)
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// numbers returns those of the docs that are gone from segments, within bounds.
func (s *state) numbers(tx *vault.Tx, part string, min, max uint64) (out []uint64, err error) {
	prefix := s.prefix(part)
	for o, err := range tx.Orders(Table, partition, prefix+vault.U64(min), false) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(o, prefix) {
			break
		}
		n, ok := vault.Number(o[len(prefix):])
		if !ok || n > max {
			break
		}
		out = append(out, n)
	}
	return out, nil
}

func (s *state) count(tx *vault.Tx, part string) (int, error) {
	n, err := s.numbers(tx, part, 0, ^uint64(0))
	return len(n), err
}
