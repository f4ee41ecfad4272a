package vault

import (
	"encoding/binary"
	"fmt"

	"sotto/crypto/codec"
	"sotto/storage/kv"
)

// Domain says how records are forgotten.
type Domain uint8

const (
	Plain    Domain = 0 // never: settings, contacts
	MLS      Domain = 1 // keys of conversations: a bucket for each conversation and epoch
	Messages Domain = 2 // what people wrote: a bucket for each conversation and day

	domains = 3
)

func (d Domain) String() string {
	switch d {
	case Plain:
		return "plain"
	case MLS:
		return "MLS"
	case Messages:
		return "messages"
	}
	return fmt.Sprintf("domain %d", uint8(d))
}

// Table is a kind of record: 1 to MaxTable. The numbers are the caller's, for ever.
type Table uint8

const (
	MaxTable Table = 63

	// Tables of this package.
	bucketTable   Table = 0xf0 // wrapped bucket keys
	schemaTable   Table = 0xf1
	sequenceTable Table = 0xf2
)

// Limits, in bytes.
const (
	MaxPartition = 255
	MaxOrder     = 64
	MaxValue     = kv.MaxValue - 256
)

// Ref names a record. Partition and Order are bytes; they are strings so that a Ref
// can be compared.
//
// Within a table and a partition records are sorted by Order, and [Tx.Range] goes over
// them. On the disk the partition is hidden behind a keyed hash; Order is hidden only
// by Badger's encryption, from those who do not have the master key. A record that is only looked up by a name can have
// the name as its partition, and no order.
type Ref struct {
	Table     Table
	Partition string
	Order     string
}

// U64 returns n as an Order: eight bytes, which sort as numbers do.
func U64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// Number returns the n of an Order made by U64, and whether it is one.
func Number(order string) (n uint64, ok bool) {
	if len(order) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64([]byte(order)), true
}

// Bucket names the key that records are sealed under and forgotten with. Its key is
// made when a record is first put into it. It holds records of the partition of its
// own name only, of any table. The zero value is the bucket of the domain [Plain],
// which holds records of all partitions and cannot be dropped.
type Bucket struct {
	Domain    Domain
	Partition string
	Number    uint64 // the epoch, the day
}

const (
	tagSize = 16

	recordVersion    = 1
	bucketKeyVersion = 1

	recordAAD    = "sotto/vault/record/1"
	bucketKeyAAD = "sotto/vault/bucket key/1"

	bucketNameSize = 1 + 1 + tagSize + 8 // table, domain, tag, number
)

// recordKey is the Badger key of a record: table ‖ tag ‖ order.
func (k *keyring) recordKey(r Ref) []byte {
	b := append(make([]byte, 0, 1+tagSize+MaxOrder+1), byte(r.Table))
	tag := k.tag(b, r.Partition)
	return append(append(b, tag[:]...), r.Order...)
}

// bucketName is the Badger key of a bucket's wrapped key: table ‖ domain ‖ tag ‖ number.
type bucketName [bucketNameSize]byte

func (k *keyring) bucketName(b Bucket) (n bucketName) {
	n[0], n[1] = byte(bucketTable), byte(b.Domain)
	tag := k.tag(n[:2], b.Partition)
	copy(n[2:], tag[:])
	binary.BigEndian.PutUint64(n[2+tagSize:], b.Number)
	return n
}

func (n *bucketName) domain() Domain { return Domain(n[1]) }

// sealedIn says what a record is sealed under: the plain key, if domain is Plain, or the
// key of this id in the bucket of this name.
type sealedIn struct {
	domain Domain
	name   bucketName
	id     [idSize]byte
}

// append writes what stands before nonce and ciphertext.
func (s *sealedIn) append(b []byte) []byte {
	b = codec.AppendU8(b, recordVersion)
	if s.domain == Plain {
		return codec.AppendU8(b, uint8(Plain))
	}
	b = append(b, s.name[1:]...) // domain, tag, number
	return append(b, s.id[:]...)
}

// parseRecord takes a stored record apart: what it is sealed in, the bytes that say so,
// and nonce and ciphertext, all part of b.
func parseRecord(b []byte) (in sealedIn, front, sealed []byte, err error) {
	r := codec.NewReader(b)
	if v := r.U8(); r.Err() == nil && v != recordVersion {
		if v > recordVersion {
			return in, nil, nil, fmt.Errorf("%w: a record has version %d", ErrFormat, v)
		}
		r.Fail("version %d", v)
	}
	in.domain = Domain(r.U8())
	switch {
	case in.domain >= domains:
		r.Fail("%v", in.domain)
	case in.domain != Plain:
		in.name[0], in.name[1] = byte(bucketTable), byte(in.domain)
		r.Copy(in.name[2:])
		r.Copy(in.id[:])
	}
	front = b[:len(b)-r.Len()]
	if r.Len() < overhead {
		r.Fail("ends early")
	}
	sealed = r.Rest()
	if err := r.Done(); err != nil {
		return in, nil, nil, fmt.Errorf("%w: a record is %w", ErrDamaged, err)
	}
	return in, front, sealed, nil
}

func recordSealAAD(key, front []byte) []byte {
	b := append(make([]byte, 0, len(recordAAD)+2+len(key)+len(front)), recordAAD...)
	return append(codec.AppendVec(b, key), front...)
}

// bucketKey is the content of a wrapped key record.
type bucketKey struct {
	id      [idSize]byte // of this key: a name may be used again after it was dropped
	erasure [idSize]byte // id of the erasure key
	wrapped []byte
}

func (k *bucketKey) open(b []byte) []byte {
	b = codec.AppendU8(b, bucketKeyVersion)
	return append(append(b, k.id[:]...), k.erasure[:]...)
}

func (k *bucketKey) aad(name *bucketName) []byte {
	return k.open(append([]byte(bucketKeyAAD), name[:]...))
}

func parseBucketKey(b []byte) (k bucketKey, err error) {
	r := codec.NewReader(b)
	if v := r.U8(); r.Err() == nil && v != bucketKeyVersion {
		if v > bucketKeyVersion {
			return k, fmt.Errorf("%w: a bucket key has version %d", ErrFormat, v)
		}
		r.Fail("version %d", v)
	}
	r.Copy(k.id[:])
	r.Copy(k.erasure[:])
	k.wrapped = r.Bytes(wrappedKeySize)
	if err := r.Done(); err != nil {
		return bucketKey{}, fmt.Errorf("%w: a bucket key is %w", ErrDamaged, err)
	}
	return k, nil
}

// wrapBucketKey wraps a bucket's key under the domain's current erasure key.
func (v *Vault) wrapBucketKey(name *bucketName, id [idSize]byte, key *[keySize]byte) []byte {
	e := v.keys.current(name.domain())
	k := bucketKey{id: id, erasure: e.id}
	return v.env.seal(k.open(nil), &e.key, k.aad(name), key[:])
}

// unwrapBucketKey returns the key of a wrapped key record. Who gets it clears it.
func (v *Vault) unwrapBucketKey(name *bucketName, k *bucketKey) (key [keySize]byte, err error) {
	e := v.keys.find(name.domain(), k.erasure)
	if e == nil {
		return key, fmt.Errorf("%w: a bucket key of %v is wrapped under a key that the header does not have", ErrDamaged, name.domain())
	}
	b, ok := unseal(&e.key, k.aad(name), k.wrapped)
	if !ok {
		return key, fmt.Errorf("%w: a bucket key of %v", ErrDamaged, name.domain())
	}
	copy(key[:], b)
	clear(b)
	return key, nil
}
