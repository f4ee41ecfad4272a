package search

import (
	"context"
	"fmt"
	"slices"

	"sotto/storage/vault"
)

// The sizes of segments. Loose docs become one when there are smallest of them; fanIn
// neighbours of one size become one, unless that would have more than largest.
const (
	smallest = 128
	fanIn    = 8
	largest  = 1 << 17
)

// Bulk is how many docs Fill asks for at a time.
const Bulk = 20_000

// size is the class of a segment: as many times as it is fanIn times smallest.
func (g *segment) size() (class int) {
	for n := g.Docs / smallest; n >= fanIn; n /= fanIn {
		class++
	}
	return class
}

// Maintain does what there is to do: it makes segments of loose docs and larger ones of
// small ones, and deletes what nothing names. With clean it also writes anew whatever
// still holds a part of what was removed, and rotates the erasure key, so that nobody can
// read it any more; that takes time in proportion to the segments concerned, each of at
// most 131,072 docs.
func (x *Index) Maintain(ctx context.Context, v *vault.Vault, clean bool) error {
	x.work.Lock()
	defer x.work.Unlock()
	for again := true; again; {
		err := x.sweep(ctx, v)
		var p *plan
		if err == nil {
			p, err = x.plan(v, clean)
		}
		if again = p != nil; err == nil && again {
			again, err = x.carryOut(ctx, v, p) // what was overtaken by a change waits for the next time
		}
		if err != nil {
			return wrap("tidy the search index", err)
		}
	}
	if !clean {
		return nil
	}
	return wrap("tidy the search index", x.rotate(v))
}

// rotate makes final what was dropped.
func (x *Index) rotate(v *vault.Vault) error {
	due := false
	err := v.View(func(tx *vault.Tx) error {
		s, err := load(tx)
		if err == nil {
			due = s.Dropped
		}
		return err
	})
	if err != nil || !due {
		return err
	}
	if err := v.RotateErasure(vault.Messages); err != nil {
		return err
	}
	return v.Update(func(tx *vault.Tx) error {
		s, err := load(tx)
		if err != nil {
			return err
		}
		s.Dropped = false
		return s.save(tx)
	})
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// begin lets x.watch hear of all changes from here on: no other update is under way in
// f's transaction.
func (x *Index) begin(v *vault.Vault, f func(tx *vault.Tx) (*watch, error)) error {
	return v.Update(func(tx *vault.Tx) error {
		w, err := f(tx)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.watch = w
		return err
	})
}

// overtaken ends the watch and reports whether there was a change.
func (x *Index) overtaken() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.watch
	x.watch = nil
	return w == nil || w.disturbed
}

// plan finds the next thing to do; nil if there is none.
func (x *Index) plan(v *vault.Vault, clean bool) (p *plan, err error) {
	err = x.begin(v, func(tx *vault.Tx) (*watch, error) {
		s, err := load(tx)
		if err != nil {
			return nil, err
		}
		if p, err = s.next(tx, clean); err != nil || p == nil {
			return nil, err
		}
		p.state = *s
		if p.no, err = tx.Next(seqPart); err != nil {
			return nil, err
		}
		return &watch{min: p.min, max: p.max}, nil
	})
	return p, err
}

func (s *state) next(tx *vault.Tx, clean bool) (*plan, error) {
	tail, err := s.tail(tx, clean && s.Unclean)
	if err != nil || tail != nil {
		return tail, err
	}
	for from := 0; from < len(s.Segments); {
		to, docs := from+1, s.Segments[from].Docs
		for to < len(s.Segments) && to-from < fanIn && s.Segments[to].size() == s.Segments[from].size() && docs+s.Segments[to].Docs <= largest {
			docs += s.Segments[to].Docs
			to++
		}
		full := to < len(s.Segments) && docs+s.Segments[to].Docs > largest && s.Segments[to].size() == s.Segments[from].size()
		if to-from == fanIn || full && to-from > 1 && docs > largest/2 {
			return s.over(tx, from, to)
		}
		from = to
	}
	if !clean {
		return nil, nil
	}
	for i := range s.Segments {
		g := &s.Segments[i]
		gone, err := s.numbers(tx, gonePart, g.Min, g.Max)
		if err != nil {
			return nil, err
		}
		loose, err := s.numbers(tx, loosePart, g.Min, g.Max)
		if err != nil {
			return nil, err
		}
		if len(gone)+len(loose) > 0 {
			return s.over(tx, i, i+1)
		}
	}
	if s.Unclean { // nothing is loose
		return &plan{}, nil
	}
	return nil, nil
}

// over is a plan for a run of segments.
func (s *state) over(tx *vault.Tx, from, to int) (*plan, error) {
	p := &plan{inputs: slices.Clone(s.Segments[from:to]), min: s.Segments[to-1].Min, max: s.Segments[from].Max}
	return p, p.overlay(tx, s)
}

// maxTail bounds the memory of a plan.
const maxTail = 8192

// tail is a plan for the docs that are newer than all segments.
func (s *state) tail(tx *vault.Tx, any bool) (*plan, error) {
	from := base
	if len(s.Segments) > 0 {
		from = max(from, s.Segments[0].Max+1)
	}
	numbers, err := s.numbers(tx, loosePart, from, ^uint64(0))
	if err != nil || len(numbers) < smallest && !any || len(numbers) == 0 {
		return nil, err
	}
	numbers = numbers[:min(len(numbers), maxTail)]
	p := &plan{min: from, max: numbers[len(numbers)-1]}
	return p, p.overlay(tx, s)
}

// overlay adds to a plan what is loose and gone within its bounds.
func (p *plan) overlay(tx *vault.Tx, s *state) (err error) {
	for d, err := range s.loose(tx, p.min, p.max) {
		if err != nil {
			return err
		}
		p.loose = append(p.loose, d)
	}
	slices.SortFunc(p.loose, newerFirst)
	p.gone, err = s.numbers(tx, gonePart, p.min, p.max)
	return err
}

// carryOut writes a plan's segment and puts it in the place of what it was made of,
// unless that has changed meanwhile.
func (x *Index) carryOut(ctx context.Context, v *vault.Vault, p *plan) (done bool, err error) {
	defer x.overtaken() // ends the watch
	g, err := p.build(ctx, v)
	if err != nil {
		return false, err
	}
	err = v.Update(func(tx *vault.Tx) error {
		if done = !x.overtaken(); !done {
			return nil
		}
		s, err := load(tx)
		if err != nil {
			return err
		}
		if done = s.Era == p.state.Era; !done {
			return nil
		}
		return s.replace(tx, p, &g)
	})
	return done && err == nil, err
}

func (s *state) replace(tx *vault.Tx, p *plan, g *segment) error {
	s.Segments = slices.DeleteFunc(s.Segments, func(have segment) bool {
		return slices.ContainsFunc(p.inputs, func(in segment) bool { return in.No == have.No })
	})
	if g.Docs > 0 {
		at, _ := slices.BinarySearchFunc(s.Segments, g.Max, func(have segment, max uint64) int {
			if have.Max > max {
				return -1
			}
			return 1
		})
		s.Segments = slices.Insert(s.Segments, at, *g)
	}
	for _, in := range p.inputs {
		if err := tx.DropBucket(bucket(in.No)); err != nil {
			return err
		}
	}
	for _, d := range p.loose {
		if err := tx.Delete(ref(s.prefix(loosePart) + vault.U64(d.number))); err != nil {
			return err
		}
	}
	for _, n := range p.gone {
		if err := tx.Delete(ref(s.prefix(gonePart) + vault.U64(n))); err != nil {
			return err
		}
	}
	// The bucket of loose docs goes once none is left in it.
	left, err := s.count(tx, loosePart)
	if err != nil {
		return err
	}
	if left == 0 {
		if err := tx.DropBucket(bucket(s.Loose)); err != nil {
			return err
		}
		if s.Loose, err = tx.Next(seqPart); err != nil {
			return err
		}
		s.Unclean, s.Dropped = false, s.Dropped || s.Unclean
	}
	s.Dropped = s.Dropped || len(p.gone) > 0
	return s.save(tx)
}

// deleteSize is how many records are deleted in one transaction.
const deleteSize = 2000

// sweep deletes what the state does not name.
func (x *Index) sweep(ctx context.Context, v *vault.Vault) error {
	for ctx.Err() == nil {
		var old []string
		var buckets []uint64
		err := v.View(func(tx *vault.Tx) error {
			s, err := load(tx)
			if err != nil {
				return err
			}
			if old, err = s.unnamed(tx); err != nil {
				return err
			}
			all, err := tx.Buckets(vault.Messages, partition)
			for _, n := range all {
				if n != s.Loose && !slices.ContainsFunc(s.Segments, func(g segment) bool { return g.No == n }) {
					buckets = append(buckets, n)
				}
			}
			return err
		})
		if err != nil || len(old)+len(buckets) == 0 {
			return err
		}
		err = v.Update(func(tx *vault.Tx) error {
			if len(buckets) > 0 { // of builds that were overtaken by a removal, maybe
				s, err := load(tx)
				if err != nil {
					return err
				}
				s.Dropped = true
				if err := s.save(tx); err != nil {
					return err
				}
			}
			for _, n := range buckets {
				if err := tx.DropBucket(bucket(n)); err != nil {
					return err
				}
			}
			for _, o := range old {
				if err := tx.Delete(ref(o)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// unnamed returns orders of records that the state does not name, at most deleteSize.
func (s *state) unnamed(tx *vault.Tx) (out []string, err error) {
	own := vault.U64(s.Era)
	for from := ""; ; {
		on := ""
		for o, err := range tx.Orders(Table, partition, from, false) {
			if err != nil {
				return nil, err
			}
			if len(o) < 9 { // state and key
				continue
			}
			if o[:8] == own {
				if o[8:9] != segPart {
					on = own + o[8:9] + "\xff\xff\xff\xff\xff\xff\xff\xff\xff" // the others of its part are named
					break
				}
				no, _ := vault.Number(o[9:min(17, len(o))])
				if slices.ContainsFunc(s.Segments, func(g segment) bool { return g.No == no }) {
					on = o[:min(17, len(o))] + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
					break
				}
			}
			if out = append(out, o); len(out) == deleteSize {
				return out, nil
			}
		}
		if on == "" {
			return out, nil
		}
		from = on
	}
}

// Fill adds texts that were there before the index, until there are no more. Each time
// read returns the next of them, at most Bulk, from the newest to the oldest, and a
// function that notes in the vault that they are done; none at all ends it. A text that
// was changed while it was being added is asked for again.
func (x *Index) Fill(ctx context.Context, v *vault.Vault, read func(*vault.Tx) ([]Doc, func(*vault.Tx) error, error)) error {
	for {
		over, err := x.fill(ctx, v, read)
		if err != nil || over {
			return wrap("fill the search index", err)
		}
	}
}

func (x *Index) fill(ctx context.Context, v *vault.Vault, read func(*vault.Tx) ([]Doc, func(*vault.Tx) error, error)) (over bool, err error) {
	x.work.Lock()
	defer x.work.Unlock()
	defer x.overtaken()
	p := &plan{}
	filling := false
	w := &watch{names: map[string]bool{}}
	err = x.begin(v, func(tx *vault.Tx) (*watch, error) {
		s, err := load(tx)
		if err != nil {
			return nil, err
		}
		p.state, filling = *s, s.Filling
		p.no, err = tx.Next(seqPart)
		return w, err
	})
	if err != nil || !filling {
		return true, err
	}
	var docs []Doc
	var note func(*vault.Tx) error
	err = v.View(func(tx *vault.Tx) error {
		if docs, note, err = read(tx); err != nil {
			return err
		}
		p.loose, err = x.strangers(tx, &p.state, docs)
		return err
	})
	if err != nil {
		return false, err
	}
	at := p.state.Down
	for i := range p.loose {
		at--
		p.loose[i].number = at
	}
	p.min, p.max = at, p.state.Down-1
	var g segment
	if len(p.loose) > 0 {
		if g, err = p.build(ctx, v); err != nil {
			return false, err
		}
	}
	err = v.Update(func(tx *vault.Tx) error {
		if x.overtaken() || slices.ContainsFunc(docs, func(d Doc) bool { return w.names[d.Name] }) {
			return nil
		}
		if err := note(tx); err != nil {
			return err
		}
		s, err := load(tx)
		if err != nil || s.Era != p.state.Era {
			return err
		}
		if over = len(docs) == 0; over {
			s.Filling = false
		}
		if s.Down = at; g.Docs > 0 {
			s.Segments = append(s.Segments, g)
		}
		return s.save(tx)
	})
	return over, err
}

// strangers returns the docs of texts that are not in the index yet: those that were
// changed since there is one are.
func (x *Index) strangers(tx *vault.Tx, s *state, docs []Doc) (out []doc, err error) {
	known := map[string]bool{}
	for d, err := range s.loose(tx, base, ^uint64(0)) {
		if err != nil {
			return nil, err
		}
		known[d.name] = true
	}
	for i := range docs {
		e, err := x.entry(&docs[i])
		if err != nil {
			return nil, err
		}
		in := known[e.name]
		for k := 0; !in && k < len(s.Segments) && s.Segments[k].Max >= base; k++ {
			n, err := s.named(tx, &s.Segments[k], x.hash(termName+e.name), e.name)
			if err != nil {
				return nil, err
			}
			in = n != 0
		}
		if !in {
			out = append(out, e)
		}
	}
	return out, nil
}
