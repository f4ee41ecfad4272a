package store

import (
	"crypto/sha256"
	"errors"
	"time"

	"sotto/crypto/codec"
	"sotto/storage/vault"
)

// The states of a Linking.
const (
	LinkOpen    uint8 = 1 // the link can be entered
	LinkEntered uint8 = 2 // a device has, and was answered
	LinkCompare uint8 = 3 // the digits are known
	LinkGranted uint8 = 4 // it is a device of the account, and has not said so yet
	LinkDone    uint8 = 5
	LinkFailed  uint8 = 6
)

// Linking is a device that is being linked by this one. There is one: the last.
type Linking struct {
	Offer   [32]byte // hash of the offer
	State   uint8
	Secrets []byte // a handshake.Inviter until the link was entered
	Relay   string
	Owner   []byte // seed of the slot's owner key
	Reader  []byte // seed of the slot's read key
	Value   []byte // what the slot holds
	Placed  bool
	Expires uint32 // minute
	Device  []byte // a handshake.LinkingDevice, once the link was entered
	ID      [16]byte
	Name    string
	Digits  string
	Reason  string // of LinkFailed
	Cause   string // likewise: code of a problem
}

func (l *Linking) fields(f *codec.Fields) {
	f.Array(l.Offer[:])
	f.U8(&l.State)
	blob(f, &l.Secrets)
	text(f, &l.Relay)
	blob(f, &l.Owner)
	blob(f, &l.Reader)
	blob(f, &l.Value)
	f.Flag(&l.Placed)
	f.U32(&l.Expires)
	blob(f, &l.Device)
	f.Array(l.ID[:])
	text(f, &l.Name)
	text(f, &l.Digits)
	text(f, &l.Reason)
	text(f, &l.Cause)
}

// The steps of an Entering.
const (
	EnterTaking  uint8 = 1 // the slot is to be taken
	EnterSending uint8 = 2 // the request is made and to be posted
	EnterWaiting uint8 = 3 // the answer is awaited
	EnterShowing uint8 = 4 // the digits are known, and the reveal is to be posted
)

// Entering is the account that this device is being linked to. There is one while there is
// no Device.
type Entering struct {
	Link       string
	Tag        [16]byte
	Step       uint8
	Device     Device   // with its keys; its log and name come at the end
	Name       string   // of the device
	State      []byte   // a handshake.NewDevice
	Relay      string   // of the existing device's inbox
	Inbox      [32]byte // likewise
	AppendSeed []byte
	Sealing    []byte   // key of that inbox
	Entry      []byte   // the letter to be posted
	By         [16]byte // the existing device
	Log        [][]byte // of the account, as the offer had it
}

func (e *Entering) fields(f *codec.Fields) {
	text(f, &e.Link)
	f.Array(e.Tag[:])
	f.U8(&e.Step)
	e.Device.fields(f)
	text(f, &e.Name)
	blob(f, &e.State)
	text(f, &e.Relay)
	f.Array(e.Inbox[:])
	blob(f, &e.AppendSeed)
	blob(f, &e.Sealing)
	blob(f, &e.Entry)
	f.Array(e.By[:])
	blobs(f, &e.Log)
}

// Record is what the account's devices share under a key.
type Record struct {
	Key     string
	Lamport uint64
	Device  [16]byte
	Value   []byte
	Untold  bool // the other devices are still to be told
}

func (r *Record) fields(f *codec.Fields) {
	text(f, &r.Key)
	f.U64(&r.Lamport)
	f.Array(r.Device[:])
	blob(f, &r.Value)
	f.Flag(&r.Untold)
}

// Sighting is what this device alone knows of another of the account.
type Sighting struct {
	Device   [16]byte
	Seen     time.Time // when something of it was last read
	Verified bool      // its fingerprint was compared
}

func (s *Sighting) fields(f *codec.Fields) {
	f.Array(s.Device[:])
	moment(f, &s.Seen)
	f.Flag(&s.Verified)
}

// Linking returns the device that is being linked, or was last, or ErrNotFound.
func (t *Tx) Linking() (Linking, error) {
	return load[Linking](t, vault.Ref{Table: tLinking, Partition: meeting})
}

// PutLinking writes it.
func (t *Tx) PutLinking(l *Linking) error {
	return t.put(vault.Ref{Table: tLinking, Partition: meeting}, meetingBucket, l)
}

// Entering returns the account that this device is being linked to, or ErrNotFound.
func (t *Tx) Entering() (Entering, error) {
	return load[Entering](t, vault.Ref{Table: tEntering, Partition: meeting})
}

// PutEntering writes it; nil removes it.
func (t *Tx) PutEntering(e *Entering) error {
	r := vault.Ref{Table: tEntering, Partition: meeting}
	if e == nil {
		return t.tx.Delete(r)
	}
	return t.put(r, meetingBucket, e)
}

// Record returns what the account's devices share under a key; one with lamport time 0 if
// there is nothing.
func (t *Tx) Record(key string) (Record, error) {
	r, err := load[Record](t, vault.Ref{Table: tRecord, Partition: key})
	if errors.Is(err, ErrNotFound) {
		return Record{Key: key}, nil
	}
	return r, err
}

// PutRecord writes it, and puts it on the list of those to be told or takes it off.
func (t *Tx) PutRecord(r *Record) error {
	list := vault.Ref{Table: tRecord, Order: "u" + hashed(r.Key)}
	all := vault.Ref{Table: tRecord, Order: "a" + hashed(r.Key)}
	err := errors.Join(t.put(vault.Ref{Table: tRecord, Partition: r.Key}, plain, r), t.tx.Put(all, plain, []byte(r.Key)))
	if r.Untold {
		return errors.Join(err, t.tx.Put(list, plain, []byte(r.Key)))
	}
	return errors.Join(err, t.tx.Delete(list))
}

// Records returns all of them, or those that are still to be told.
func (t *Tx) Records(untold bool) (out []Record, err error) {
	prefix := "a"
	if untold {
		prefix = "u"
	}
	for e, err := range t.tx.Range(tRecord, "", prefix, false) {
		if err != nil {
			return nil, err
		}
		if e.Order[:1] != prefix {
			break
		}
		r, err := t.Record(string(e.Value))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Sighting returns what this device knows of another; nothing is no error.
func (t *Tx) Sighting(device [16]byte) (Sighting, error) {
	s, err := load[Sighting](t, vault.Ref{Table: tSighting, Order: string(device[:])})
	if errors.Is(err, ErrNotFound) {
		return Sighting{Device: device}, nil
	}
	return s, err
}

// PutSighting writes it.
func (t *Tx) PutSighting(s *Sighting) error {
	return t.put(vault.Ref{Table: tSighting, Order: string(s.Device[:])}, plain, s)
}

// hashed makes a key short enough for an order.
func hashed(key string) string {
	sum := sha256.Sum256([]byte(key))
	return string(sum[:])
}
