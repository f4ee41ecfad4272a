package vault

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"sotto/storage/kv"
)

// Tx is a transaction. It is good until the function it was given to returns, and for
// one goroutine.
type Tx struct {
	v        *Vault
	kv       *kv.Tx
	writable bool
	err      error // of a write: it fails the update

	buckets map[bucketName]*openBucket // those used so far
}

type openBucket struct {
	id  [idSize]byte
	key [keySize]byte
}

// end clears what the transaction held and makes it useless.
func (t *Tx) end() {
	for _, b := range t.buckets {
		clear(b.key[:])
	}
	t.buckets, t.kv = nil, nil
}

var (
	errEnded    = errors.New("vault transaction has ended")
	errReadOnly = errors.New("write in a vault's View")
)

func (t *Tx) fail(err error) error {
	if t.err == nil {
		t.err = err
	}
	return err
}

func (r Ref) check() error {
	own := r.Table == schemaTable || r.Table == sequenceTable
	switch {
	case (r.Table < 1 || r.Table > MaxTable) && !own:
		return fmt.Errorf("table %d: 1 to %d are allowed", r.Table, MaxTable)
	case len(r.Partition) > MaxPartition:
		return fmt.Errorf("table %d: a partition's name of %d bytes, at most %d are allowed", r.Table, len(r.Partition), MaxPartition)
	case len(r.Order) > MaxOrder:
		return fmt.Errorf("table %d: an order of %d bytes, at most %d are allowed", r.Table, len(r.Order), MaxOrder)
	}
	return nil
}

func (b Bucket) check() error {
	switch {
	case b.Domain >= domains:
		return fmt.Errorf("bucket of %v", b.Domain)
	case b.Domain == Plain && b != Bucket{}:
		return errors.New("the domain plain has one bucket, without a name")
	case len(b.Partition) > MaxPartition:
		return fmt.Errorf("bucket of %v: a partition's name of %d bytes, at most %d are allowed", b.Domain, len(b.Partition), MaxPartition)
	}
	return nil
}

// Get returns the value of r in a slice of its own. It returns ErrNotFound if there is
// none, the ErrErased of it if its bucket was dropped, and ErrDamaged if what is stored
// was not stored as the value of r by this vault.
func (t *Tx) Get(r Ref) ([]byte, error) {
	if t.kv == nil {
		return nil, errEnded
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	key := t.v.keys.recordKey(r)
	b, err := t.kv.Get(key)
	if err != nil {
		return nil, getError(err)
	}
	return t.open(key, b)
}

func getError(err error) error {
	if errors.Is(err, kv.ErrNotFound) {
		return ErrNotFound
	}
	return storageError(err)
}

// open unseals what is stored under a Badger key.
func (t *Tx) open(key, b []byte) ([]byte, error) {
	in, front, sealed, err := parseRecord(b)
	if err != nil {
		return nil, inTable(key, err)
	}
	with := &t.v.keys.plain
	if in.domain != Plain {
		bucket, err := t.bucket(in.name)
		if errors.Is(err, ErrNotFound) || err == nil && bucket.id != in.id {
			return nil, ErrErased
		}
		if err != nil {
			return nil, inTable(key, err)
		}
		with = &bucket.key
	}
	value, ok := unseal(with, recordSealAAD(key, front), sealed)
	if !ok {
		return nil, inTable(key, fmt.Errorf("%w: a record does not open", ErrDamaged))
	}
	return value, nil
}

func inTable(key []byte, err error) error { return fmt.Errorf("table %d: %w", key[0], err) }

// bucket returns the open bucket of a name, or ErrNotFound.
func (t *Tx) bucket(name bucketName) (*openBucket, error) {
	if b := t.buckets[name]; b != nil {
		return b, nil
	}
	stored, err := t.kv.Get(name[:])
	if err != nil {
		return nil, getError(err)
	}
	k, err := parseBucketKey(stored)
	if err != nil {
		return nil, err
	}
	key, err := t.v.unwrapBucketKey(&name, &k)
	if err != nil {
		return nil, err
	}
	defer clear(key[:])
	return t.hold(name, k.id, &key), nil
}

func (t *Tx) hold(name bucketName, id [idSize]byte, key *[keySize]byte) *openBucket {
	if t.buckets == nil {
		t.buckets = make(map[bucketName]*openBucket)
	}
	b := &openBucket{id: id, key: *key}
	t.buckets[name] = b
	return b
}

// newBucket makes the key of a bucket that has none, or another in its place.
func (t *Tx) newBucket(name bucketName) (*openBucket, error) {
	var id [idSize]byte
	var key [keySize]byte
	defer clear(key[:])
	t.v.env.random(id[:])
	t.v.env.random(key[:])
	if err := t.kv.Set(bytes.Clone(name[:]), t.v.wrapBucketKey(&name, id, &key)); err != nil {
		return nil, err
	}
	return t.hold(name, id, &key), nil
}

// Put sets the value of r, at most MaxValue bytes, sealed under the key of bucket. A
// bucket that is not Plain must have the partition of r. The value stays the caller's.
func (t *Tx) Put(r Ref, bucket Bucket, value []byte) error {
	if err := t.writing(); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return t.fail(err)
	}
	if err := bucket.check(); err != nil {
		return t.fail(err)
	}
	if bucket.Domain != Plain && bucket.Partition != r.Partition {
		return t.fail(fmt.Errorf("table %d: the bucket is of another partition than the record", r.Table))
	}
	if len(value) > MaxValue {
		return t.fail(fmt.Errorf("table %d: %w: a value of %d bytes, at most %d are allowed", r.Table, kv.ErrTooBig, len(value), MaxValue))
	}
	key := t.v.keys.recordKey(r)
	if bucket.Domain == Plain {
		return t.put(key, Bucket{}.Domain, bucketName{}, nil, value)
	}
	name := t.v.keys.bucketName(bucket)
	b, err := t.bucket(name)
	if errors.Is(err, ErrNotFound) {
		b, err = t.newBucket(name)
	}
	if err != nil {
		return t.fail(inTable(key, err))
	}
	return t.put(key, bucket.Domain, name, b, value)
}

func (t *Tx) put(key []byte, d Domain, name bucketName, b *openBucket, value []byte) error {
	in, with := sealedIn{domain: d, name: name}, &t.v.keys.plain
	if b != nil {
		in.id, with = b.id, &b.key
	}
	front := in.append(make([]byte, 0, 1+bucketNameSize-1+idSize+overhead+len(value)))
	stored := t.v.env.seal(front, with, recordSealAAD(key, front), value)
	if err := t.kv.Set(key, stored); err != nil {
		return t.fail(inTable(key, err))
	}
	return nil
}

func (t *Tx) writing() error {
	switch {
	case t.kv == nil:
		return errEnded
	case !t.writable:
		return errReadOnly
	}
	return t.err
}

// Delete removes a record, if there is one. Its bytes stay on the disk, readable with
// the key of its bucket, until that is dropped.
func (t *Tx) Delete(r Ref) error {
	if err := t.writing(); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return t.fail(err)
	}
	if err := t.kv.Delete(t.v.keys.recordKey(r)); err != nil {
		return t.fail(err)
	}
	return nil
}

// Record is what Range yields. Value is the caller's.
type Record struct {
	Order string
	Value []byte
}

// Range goes over the records of a table and a partition, in the order of Order, from
// the first that is not before from; or, if reverse, down from the last that is not
// after from. An empty from is the start, or the end. Records that were erased are left
// out. One that is damaged comes with an error and without a value, and the loop may
// go on; an error without an Order ends it.
//
// The loop may read and write, range too. Whether it meets what it writes ahead of
// itself is not said.
func (t *Tx) Range(table Table, partition, from string, reverse bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for e, err := range t.scan(table, partition, from, reverse, true) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			value, err := t.open(e.key, e.stored)
			if errors.Is(err, ErrErased) {
				continue
			}
			if !yield(Record{string(e.key[1+tagSize:]), value}, err) {
				return
			}
			if t.kv == nil {
				yield(Record{}, errEnded)
				return
			}
		}
	}
}

// Orders is like [Tx.Range], but reads no values and does not leave out what was erased.
// It is for counting and deleting.
func (t *Tx) Orders(table Table, partition, from string, reverse bool) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for e, err := range t.scan(table, partition, from, reverse, false) {
			if err != nil {
				yield("", err)
				return
			}
			if !yield(string(e.key[1+tagSize:]), nil) {
				return
			}
		}
	}
}

type entry struct{ key, stored []byte }

// scan walks a partition as it is stored.
func (t *Tx) scan(table Table, partition, from string, reverse, values bool) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		if err := (Ref{table, partition, from}).check(); err != nil {
			yield(entry{}, err)
			return
		}
		if t.kv == nil {
			yield(entry{}, errEnded)
			return
		}
		prefix := t.v.keys.recordKey(Ref{Table: table, Partition: partition})
		start := append(bytes.Clone(prefix), from...)
		if reverse && from == "" {
			start = append(start, bytes.Repeat([]byte{0xff}, MaxOrder+1)...)
		}
		t.walk(prefix, start, reverse, values, yield)
	}
}

// A page ends at either. Badger allows one iterator in an update and no write during
// it: records are fetched by the page, and handed out when the iterator is closed.
const (
	pageRecords = 64
	pageBytes   = 256 << 10
)

// walk goes over Badger keys that begin with prefix, from start. It reports whether it
// came to the end.
func (t *Tx) walk(prefix, start []byte, reverse, values bool, yield func(entry, error) bool) bool {
	var last []byte
	for {
		page, whole, err := t.page(prefix, start, last, reverse, values)
		if err != nil {
			yield(entry{}, err)
			return false
		}
		for _, e := range page {
			if !yield(e, nil) {
				return false
			}
			if t.kv == nil {
				return false
			}
		}
		if whole {
			return true
		}
		last = page[len(page)-1].key
		start = last
	}
}

// page fetches entries from start on without the one at last; whole says that these
// were all.
func (t *Tx) page(prefix, start, last []byte, reverse, values bool) (page []entry, whole bool, err error) {
	size := 0
	add := func(k, v []byte) bool {
		if last != nil && bytes.Equal(k, last) {
			return true
		}
		page = append(page, entry{bytes.Clone(k), bytes.Clone(v)})
		size += len(k) + len(v)
		return len(page) < pageRecords && size < pageBytes
	}
	whole = true
	if !values {
		seq, failed := t.kv.Keys(prefix, start, reverse)
		for k := range seq {
			if whole = add(k, nil); !whole {
				break
			}
		}
		return page, whole, storageError(failed())
	}
	seq, failed := t.kv.Range(prefix, start, reverse)
	for k, v := range seq {
		if whole = add(k, v); !whole {
			break
		}
	}
	return page, whole, storageError(failed())
}

// DropBucket deletes the key of a bucket: its records are gone for every reader at
// once, and for who has the disk and the master key after [Vault.RotateErasure]. The
// records' bytes stay until they are deleted too, one by one or by [Vault.Sweep]. A
// bucket of the same name can be begun anew.
func (t *Tx) DropBucket(b Bucket) error {
	if err := t.writing(); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return t.fail(err)
	}
	if b.Domain == Plain {
		return t.fail(errors.New("the plain bucket cannot be dropped"))
	}
	return t.drop(t.v.keys.bucketName(b))
}

func (t *Tx) drop(name bucketName) error {
	if open := t.buckets[name]; open != nil {
		clear(open.key[:])
		delete(t.buckets, name)
	}
	if err := t.kv.Delete(bytes.Clone(name[:])); err != nil {
		return t.fail(err)
	}
	return nil
}

// Buckets returns the numbers of a partition's buckets in a domain, from the lowest.
func (t *Tx) Buckets(d Domain, partition string) ([]uint64, error) {
	if t.kv == nil {
		return nil, errEnded
	}
	b := Bucket{Domain: d, Partition: partition}
	if err := b.check(); err != nil {
		return nil, err
	}
	if d == Plain {
		return nil, errors.New("the domain plain has no numbered buckets")
	}
	name := t.v.keys.bucketName(b)
	prefix := name[:bucketNameSize-8]
	var numbers []uint64
	var err error
	t.walk(prefix, name[:], false, false, func(e entry, failed error) bool {
		if err = failed; err == nil && len(e.key) == bucketNameSize {
			numbers = append(numbers, binary.BigEndian.Uint64(e.key[bucketNameSize-8:]))
		}
		return err == nil
	})
	return numbers, err
}

// Rebucket seals what lives in a bucket again under another of the same domain and
// partition, and drops the old one with all that records held before. Old and new may
// be the same: then the bucket gets a fresh key. It returns how many records it sealed.
//
// The records are looked for in the tables named, or in all: that takes time in
// proportion to what the partition holds. A record in a table that is not named is
// erased.
func (t *Tx) Rebucket(old, new Bucket, tables ...Table) (int, error) {
	if err := t.writing(); err != nil {
		return 0, err
	}
	for _, b := range []Bucket{old, new} {
		if err := b.check(); err != nil {
			return 0, t.fail(err)
		}
	}
	if old.Domain == Plain || old.Domain != new.Domain || old.Partition != new.Partition {
		return 0, t.fail(errors.New("records can be moved between buckets of one domain and partition, and not from or to plain"))
	}
	if len(tables) == 0 {
		for i := Table(1); i <= MaxTable; i++ {
			tables = append(tables, i)
		}
	}
	from, to := t.v.keys.bucketName(old), t.v.keys.bucketName(new)
	live, err := t.bucket(from)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, t.fail(err)
	}
	// What is moved is opened with a copy of the old key: the new one may take its place.
	was := *live
	defer clear(was.key[:])
	if err := t.drop(from); err != nil {
		return 0, err
	}
	target, err := t.bucket(to)
	if errors.Is(err, ErrNotFound) {
		target, err = t.newBucket(to)
	}
	if err != nil {
		return 0, t.fail(err)
	}
	moved := 0
	for _, table := range tables {
		for e, err := range t.scan(table, old.Partition, "", false, true) {
			if err != nil {
				return 0, t.fail(err)
			}
			in, front, sealed, err := parseRecord(e.stored)
			if err != nil {
				return 0, t.fail(inTable(e.key, err))
			}
			if in.domain != old.Domain || in.name != from || in.id != was.id {
				continue
			}
			value, ok := unseal(&was.key, recordSealAAD(e.key, front), sealed)
			if !ok {
				return 0, t.fail(inTable(e.key, fmt.Errorf("%w: a record does not open", ErrDamaged)))
			}
			err = t.put(e.key, new.Domain, to, target, value)
			clear(value)
			if err != nil {
				return 0, err
			}
			moved++
		}
	}
	return moved, nil
}

// Next returns the next number of a sequence: 1, 2, 3 … It is taken when the update is
// durable; an update that fails takes none.
func (t *Tx) Next(sequence string) (uint64, error) {
	if err := t.writing(); err != nil {
		return 0, err
	}
	n, err := t.Last(sequence)
	if err != nil {
		return 0, t.fail(err)
	}
	n++
	return n, t.Put(Ref{Table: sequenceTable, Partition: sequence}, Bucket{}, binary.BigEndian.AppendUint64(nil, n))
}

// Last returns the number of a sequence that was taken last, 0 if none was.
func (t *Tx) Last(sequence string) (uint64, error) {
	b, err := t.Get(Ref{Table: sequenceTable, Partition: sequence})
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, ok := Number(string(b))
	if !ok {
		return 0, fmt.Errorf("%w: a sequence number of %d bytes", ErrDamaged, len(b))
	}
	return n, nil
}

// Schema returns the version of the caller's records. It is Config.Schema or lower: who
// finds it lower brings the records up to date and sets it, in one Update.
func (t *Tx) Schema() (uint32, error) {
	b, err := t.Get(Ref{Table: schemaTable})
	if err != nil {
		return 0, err
	}
	if len(b) != 4 {
		return 0, fmt.Errorf("%w: a schema version of %d bytes", ErrDamaged, len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

// SetSchema sets the version of the caller's records.
func (t *Tx) SetSchema(n uint32) error {
	return t.Put(Ref{Table: schemaTable}, Bucket{}, binary.BigEndian.AppendUint32(nil, n))
}

// Size returns how many bytes the update has written so far, as Config.MaxTx counts them.
func (t *Tx) Size() int64 {
	if t.kv == nil {
		return 0
	}
	return t.kv.Size()
}

// Sweep deletes the records whose buckets were dropped. It takes time in proportion to
// the vault, in steps between which other updates run.
func (v *Vault) Sweep() (deleted int, err error) {
	for table := Table(1); table <= MaxTable; table++ {
		prefix := []byte{byte(table)}
		start := prefix
		for start != nil {
			n := 0
			err := v.Update(func(tx *Tx) error {
				n = 0
				next, err := tx.sweep(prefix, start, &n)
				start = next
				return err
			})
			if err != nil {
				return deleted, err
			}
			deleted += n
		}
	}
	return deleted, nil
}

// sweepRecords are looked at in one update.
const sweepRecords = 1024

func (t *Tx) sweep(prefix, start []byte, deleted *int) (next []byte, err error) {
	var gone [][]byte
	seen := 0
	t.walk(prefix, start, false, true, func(e entry, failed error) bool {
		if err = failed; err != nil {
			return false
		}
		if seen++; seen > sweepRecords {
			next = e.key
			return false
		}
		in, _, _, parseErr := parseRecord(e.stored)
		if parseErr != nil || in.domain == Plain {
			return true // damage is for its reader to find
		}
		b, bucketErr := t.bucket(in.name)
		if errors.Is(bucketErr, ErrNotFound) || bucketErr == nil && b.id != in.id {
			gone = append(gone, e.key)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	for _, key := range gone {
		if err := t.kv.Delete(key); err != nil {
			return nil, t.fail(err)
		}
		*deleted++
	}
	return next, nil
}
