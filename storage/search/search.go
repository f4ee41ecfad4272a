// Package search finds texts by the words in them: an inverted index among the records
// of a vault, so that a text and its entry are written in one transaction.
// spec/search.md gives the bytes.
//
// # What the caller does
//
// A text is a Doc with a name of the caller's. [Index.Add] enters it in the transaction
// that stores it, [Index.Put] when it may be there already, [Index.Remove] takes it out.
// [Index.Search] goes over what may match, the newest first, and asks the caller about
// each: the caller reads the text, and [Query.Match] says whether it does. So neither a
// collision nor a stale entry ever shows as a hit.
//
// [Index.Maintain] keeps the index quick, and is called when there is time. Without it
// everything is found all the same.
//
// An index that is new, or was [Index.Reset] since it was damaged, is filled with the
// texts that are there by [Index.Fill]; meanwhile it finds what has been filled in.
// Any method may return ErrDamaged.
//
// # Forgetting
//
// What texts say is sealed in buckets of the domain Messages, and terms are named by a
// keyed hash alone. What was removed is left out at once; with clean, Maintain writes the
// rest of its segment anew, drops the old bucket and rotates the erasure key.
//
// # What is not here
//
// Ranking: the newest comes first. Words that are bent: a query says begin* for the
// beginning of a word, which is indexed as such, since keyed hashes have no order.
package search

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"sotto/storage/vault"
)

// ErrDamaged: the index is not what was written. The texts are not touched by it: Reset
// and Fill make another.
var ErrDamaged = errors.New("search index is damaged")

// ErrCursor is returned for a cursor that is none, or of an index that was made anew.
var ErrCursor = errors.New("the search cannot be continued: the index was made anew")

// Table is the vault's table that the index lies in.
const Table vault.Table = 48

// Limits, in bytes. A text is what the caller's limit of texts lets through.
const (
	MaxName = 128
	MaxTag  = 128
)

// Doc is a text to be found.
type Doc struct {
	Name string // names it, for the caller
	Time time.Time
	Text string
	Tags []string // found by exactly: who wrote it, where it stands
}

// Index is the index of one vault. It may be used by several goroutines.
type Index struct {
	key    []byte // of the hashes of terms
	wanted chan struct{}

	mu    sync.Mutex // guards the following fields
	mac   hash.Hash
	known map[string]uint64 // hashes
	watch *watch            // a build that is under way

	work sync.Mutex // held by Maintain, Fill and Reset; before mu
}

// watch notices when a build is overtaken: docs that it has read were changed.
type watch struct {
	min, max  uint64
	disturbed bool            // a doc with a number between them was changed
	names     map[string]bool // what was changed, if not nil
}

// maxWatched bounds the memory of a watch.
const maxWatched = 1 << 16

// Open opens the index in a vault, or makes an empty one that is to be filled.
func Open(v *vault.Vault) (*Index, error) {
	x := &Index{known: map[string]uint64{}, wanted: make(chan struct{}, 1)}
	err := v.Update(func(tx *vault.Tx) error {
		key, err := tx.Get(ref(orderKey))
		if errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrDamaged) || err == nil && len(key) != sha256.Size {
			key = make([]byte, sha256.Size)
			rand.Read(key)
			if err := tx.Put(ref(orderKey), vault.Bucket{}, key); err != nil {
				return err
			}
			if err := reset(tx); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		x.key = key
		_, err = load(tx)
		if errors.Is(err, ErrDamaged) {
			return reset(tx)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the search index: %w", err)
	}
	x.mac = hmac.New(sha256.New, x.key)
	return x, nil
}

// Reset makes the index empty and to be filled. What it held is deleted by Maintain.
func (x *Index) Reset(v *vault.Vault) error {
	x.work.Lock()
	defer x.work.Unlock()
	return v.Update(x.ResetIn)
}

// ResetIn is Reset in a transaction of the caller's, which has met with damage.
func (x *Index) ResetIn(tx *vault.Tx) error {
	x.want() // whoever fills begins with an update, and so comes behind this one
	return reset(tx)
}

func (x *Index) want() {
	select {
	case x.wanted <- struct{}{}:
	default:
	}
}

// Wanted receives when Fill or Maintain has something to do.
func (x *Index) Wanted() <-chan struct{} { return x.wanted }

func reset(tx *vault.Tx) error {
	s := &state{Filling: true, Down: base, Dropped: true}
	var err error
	if s.Era, err = tx.Next(seqPart); err != nil {
		return err
	}
	if s.Loose, err = tx.Next(seqPart); err != nil {
		return err
	}
	return s.save(tx)
}

func load(tx *vault.Tx) (*state, error) {
	b, err := get(tx, orderState, "its state")
	if err != nil {
		return nil, err
	}
	s := &state{}
	return s, read(b, "its state", s.fields)
}

func (s *state) save(tx *vault.Tx) error {
	return tx.Put(ref(orderState), vault.Bucket{}, write(s.fields))
}

// maxKnown bounds the memory of hashes that are remembered.
const maxKnown = 1 << 16

// hash names a term. Terms that hash alike are told apart by the caller's look at the text.
func (x *Index) hash(term string) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	h, ok := x.known[term]
	if ok {
		return h
	}
	x.mac.Reset()
	x.mac.Write([]byte(term))
	var sum [sha256.Size]byte
	h = binary.BigEndian.Uint64(x.mac.Sum(sum[:0]))
	if len(x.known) >= maxKnown {
		clear(x.known)
	}
	x.known[term] = h
	return h
}

// entry makes the doc of a text, with its terms.
func (x *Index) entry(d *Doc) (doc, error) {
	if len(d.Name) == 0 || len(d.Name) > MaxName {
		return doc{}, fmt.Errorf("name of %d bytes in the search index: 1 to %d are allowed", len(d.Name), MaxName)
	}
	out := doc{name: d.Name, time: uint64(max(d.Time.UnixMilli(), 0)), hashes: []uint64{x.hash(termName + d.Name)}}
	terms(Tokens(d.Text), func(kind, term string) { out.hashes = append(out.hashes, x.hash(kind+term)) })
	for _, tag := range d.Tags {
		if len(tag) > MaxTag {
			return doc{}, fmt.Errorf("tag of %d bytes in the search index: at most %d are allowed", len(tag), MaxTag)
		}
		out.hashes = append(out.hashes, x.hash(termTag+tag))
	}
	slices.Sort(out.hashes)
	out.hashes = slices.Compact(out.hashes)
	if len(out.hashes) > maxTerms {
		return doc{}, fmt.Errorf("%d terms in one text, and at most %d are indexed", len(out.hashes), maxTerms)
	}
	return out, nil
}

// Add enters a text that is new.
func (x *Index) Add(tx *vault.Tx, d *Doc) error {
	s, err := load(tx)
	if err != nil {
		return err
	}
	return x.add(tx, s, d)
}

func (x *Index) add(tx *vault.Tx, s *state, d *Doc) error {
	e, err := x.entry(d)
	if err != nil {
		return err
	}
	n, err := tx.Next(seqDoc)
	if err != nil {
		return err
	}
	e.number = base + n
	if n%smallest == 0 {
		x.want()
	}
	x.touch(0, d.Name)
	return s.putLoose(tx, &e)
}

func (s *state) putLoose(tx *vault.Tx, d *doc) error {
	return tx.Put(ref(s.prefix(loosePart)+vault.U64(d.number)), bucket(s.Loose), write(d.looseFields))
}

// touch tells a build that is under way of a change.
func (x *Index) touch(number uint64, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.watch
	switch {
	case w == nil:
	case number != 0:
		w.disturbed = w.disturbed || w.min <= number && number <= w.max
	case w.names != nil && len(w.names) < maxWatched:
		w.names[name] = true
	case w.names != nil:
		w.disturbed = true
	}
}

// Put enters a text, or puts it in the place of the text of that name.
func (x *Index) Put(tx *vault.Tx, d *Doc) error {
	s, err := load(tx)
	if err != nil {
		return err
	}
	old, err := x.take(tx, s, d.Name)
	if err != nil {
		return err
	}
	if old == 0 {
		return x.add(tx, s, d)
	}
	e, err := x.entry(d)
	if err != nil {
		return err
	}
	e.number = old
	return errors.Join(s.putLoose(tx, &e), s.save(tx))
}

// Remove takes a text out, if it is there.
func (x *Index) Remove(tx *vault.Tx, name string) error {
	s, err := load(tx)
	if err != nil {
		return err
	}
	old, err := x.take(tx, s, name)
	if err != nil || old == 0 {
		return err
	}
	return s.save(tx)
}

// take removes a doc and returns its number, 0 if it was not there. The caller saves s.
func (x *Index) take(tx *vault.Tx, s *state, name string) (uint64, error) {
	x.touch(0, name)
	for d, err := range s.loose(tx, 0, ^uint64(0)) {
		if err != nil {
			return 0, err
		}
		if d.name == name {
			return d.number, x.drop(tx, s, d.number, true)
		}
	}
	h := x.hash(termName + name)
	for i := range s.Segments {
		n, err := s.named(tx, &s.Segments[i], h, name)
		if err != nil {
			return 0, err
		}
		if n != 0 {
			return n, x.drop(tx, s, n, false)
		}
	}
	return 0, nil
}

// drop removes a doc by its number.
func (x *Index) drop(tx *vault.Tx, s *state, number uint64, loose bool) error {
	x.touch(number, "")
	if loose {
		s.Unclean = true
		return tx.Delete(ref(s.prefix(loosePart) + vault.U64(number)))
	}
	return tx.Put(ref(s.prefix(gonePart)+vault.U64(number)), vault.Bucket{}, nil)
}

// named finds a doc in a segment by its name.
func (s *state) named(tx *vault.Tx, g *segment, hash uint64, name string) (uint64, error) {
	l, err := g.find(tx, s.Era, hash)
	if err != nil || l == nil {
		return 0, err
	}
	for {
		place, ok, err := l.read()
		if err != nil || !ok {
			return 0, err
		}
		block, err := g.docs(tx, s.Era, place/docsInBlock)
		if err != nil {
			return 0, err
		}
		if d := block[place%docsInBlock]; d.name == name {
			gone, err := s.gone(tx, d.number)
			if err != nil {
				return 0, err
			}
			if !gone {
				return d.number, nil
			}
		}
	}
}

// gone reports whether a doc of a segment has been removed from it.
func (s *state) gone(tx *vault.Tx, number uint64) (bool, error) {
	_, err := tx.Get(ref(s.prefix(gonePart) + vault.U64(number)))
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return false, nil
	case errors.Is(err, vault.ErrDamaged):
		return false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err == nil, err
}

// RemoveTag takes out all texts with a tag.
func (x *Index) RemoveTag(tx *vault.Tx, tag string) error {
	s, err := load(tx)
	if err != nil {
		return err
	}
	h := x.hash(termTag + tag)
	var loose, placed []uint64
	for d, err := range s.loose(tx, 0, ^uint64(0)) {
		if err != nil {
			return err
		}
		if _, has := slices.BinarySearch(d.hashes, h); has {
			loose = append(loose, d.number)
		}
	}
	for i := range s.Segments {
		g := &s.Segments[i]
		l, err := g.find(tx, s.Era, h)
		if err != nil {
			return err
		}
		if l == nil {
			continue
		}
		r := reader{s: s, g: g}
		for {
			place, ok, err := l.read()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			d, err := r.doc(tx, place)
			if err != nil {
				return err
			}
			placed = append(placed, d.number)
		}
	}
	for _, n := range loose {
		if err := x.drop(tx, s, n, true); err != nil {
			return err
		}
	}
	for _, n := range placed {
		// One that was amended is loose too: if it is not among those above, it has
		// lost the tag, and only its old place is gone, as it was before.
		if err := x.drop(tx, s, n, false); err != nil {
			return err
		}
	}
	return s.save(tx)
}

// Stats says how far the index is.
type Stats struct {
	Era     uint64
	Docs    int  // in segments and beside them
	Filling bool // not all texts are in it yet
}

// Stats returns how far the index is.
func (x *Index) Stats(tx *vault.Tx) (out Stats, err error) {
	s, err := load(tx)
	if err != nil {
		return out, err
	}
	out.Era, out.Filling = s.Era, s.Filling
	for _, g := range s.Segments {
		out.Docs += int(g.Docs)
	}
	n, err := s.count(tx, loosePart)
	out.Docs += n
	return out, err
}
