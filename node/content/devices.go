package content

import (
	"fmt"
	"time"

	"sotto/crypto/codec"
)

// The kinds by which devices of one account keep together (spec/devices.md).
const (
	AccountLog Kind = 20 // the sender's account log, for who has not seen its newest entries
	Records    Kind = 21 // what an account's devices share; only among them
	History    Kind = 22 // where history is that one of them gives to another; only among them
)

// Limits of these, in bytes.
const (
	maxAccountLog = 96 << 10
	MaxRecords    = 64 << 10 // of all records of a message
	maxRecordKey  = 255
	maxRecords    = 1024
)

// Record is one thing that an account's devices share: the newest value of a key, which is
// that of the higher lamport time, and among equal ones of the higher device.
type Record struct {
	Key     string
	Lamport uint64
	Device  [16]byte
	Value   []byte // empty: there is none any more
}

// Newer reports whether r replaces old.
func (r *Record) Newer(old *Record) bool {
	if r.Lamport != old.Lamport {
		return r.Lamport > old.Lamport
	}
	return string(r.Device[:]) > string(old.Device[:])
}

func (r *Record) fields(f *codec.Fields) {
	f.Text(maxRecordKey, &r.Key)
	f.U64(&r.Lamport)
	f.Array(r.Device[:])
	f.Vec(MaxRecords, &r.Value)
	if f.Reading() && f.OK() && (r.Key == "" || r.Lamport == 0 || r.Lamport > 1<<53) {
		f.Fail("a record out of bounds")
	}
}

// Size is how many bytes r takes in a message.
func (r *Record) Size() int { return len(codec.Write(r.fields)) }

const recordsVersion = 1

func appendRecords(records []Record) []byte {
	return codec.Write(func(f *codec.Fields) { recordsFields(f, &records) })
}

func recordsFields(f *codec.Fields, records *[]Record) {
	version := uint8(recordsVersion)
	if f.U8(&version); f.OK() && version != recordsVersion {
		f.Fail("records of version %d", version)
	}
	codec.List(f, 2*MaxRecords, maxRecords, records, func(r *Record, f *codec.Fields) { r.fields(f) })
}

// ParseRecords reads the records of a message of kind Records. Their values are parts of b.
func ParseRecords(b []byte) (out []Record, err error) {
	if err := codec.Read(b, func(f *codec.Fields) { recordsFields(f, &out) }); err != nil {
		return nil, fmt.Errorf("%w: records: %w", ErrMalformed, err)
	}
	return out, nil
}

// NewRecords makes the message that tells the account's other devices of records.
func NewRecords(records []Record, sent time.Time, lamport uint64) *Message {
	m := newMessage(Records, sent, lamport)
	m.Bytes = appendRecords(records)
	return m
}

// NewAccountLog makes the message that tells of the sender's account log, whole.
func NewAccountLog(log []byte, sent time.Time, lamport uint64) *Message {
	m := newMessage(AccountLog, sent, lamport)
	m.Bytes = log
	return m
}

// HistoryPack says where a part of the history is: a blob at a relay, sealed under a key of
// its own (spec/devices.md, 6).
type HistoryPack struct {
	Device [16]byte // for whom
	Relay  string   // address
	Blob   [32]byte
	Key    []byte
	Owner  []byte // seed of the key that deletes the blob
	Total  uint32 // messages that are given in all
	Last   bool   // there is no more; then there may be no blob: Key is empty
}

func (p *HistoryPack) fields(f *codec.Fields) {
	version := uint8(1)
	if f.U8(&version); f.OK() && version != 1 {
		f.Fail("a pack of version %d", version)
	}
	f.Array(p.Device[:])
	f.Text(2048, &p.Relay)
	f.Array(p.Blob[:])
	f.Vec(32, &p.Key)
	f.Vec(32, &p.Owner)
	f.U32(&p.Total)
	f.Flag(&p.Last)
	if f.Reading() && f.OK() && (len(p.Key) != 0 && (len(p.Key) != 32 || len(p.Owner) != 32) || len(p.Key) == 0 && !p.Last) {
		f.Fail("a pack without its keys")
	}
}

// ParseHistoryPack reads what a message of kind History holds. Its slices are parts of b.
func ParseHistoryPack(b []byte) (p HistoryPack, err error) {
	if err := codec.Read(b, p.fields); err != nil {
		return HistoryPack{}, fmt.Errorf("%w: history: %w", ErrMalformed, err)
	}
	return p, nil
}

// NewHistory makes the message that says where a part of the history is.
func NewHistory(p HistoryPack, sent time.Time, lamport uint64) *Message {
	m := newMessage(History, sent, lamport)
	m.Bytes = codec.Write(p.fields)
	return m
}

// checkBytes holds a message of these kinds to its limits.
func (m *Message) checkBytes() error {
	if m.Kind == AccountLog {
		if n := len(m.Bytes); n == 0 || n > maxAccountLog {
			return fmt.Errorf("%w: an account log of %d bytes", ErrMalformed, n)
		}
		return nil
	}
	if m.Kind == History {
		_, err := ParseHistoryPack(m.Bytes)
		return err
	}
	_, err := ParseRecords(m.Bytes)
	return err
}
