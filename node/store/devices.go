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

// Handover is history that this device gives to another of the account, newest first.
type Handover struct {
	Device [16]byte
	Total  uint32 // messages there were when it began
	Given  uint32
	Places []HandoverPlace // of the conversations, that which changed last first
}

// HandoverPlace says how far the history of a conversation is given.
type HandoverPlace struct {
	Group  []byte
	Before [32]byte // what is in front of this message is still to be given; zero: all
	Begun  bool     // its newest messages are
	Done   bool
}

func (h *Handover) fields(f *codec.Fields) {
	f.Array(h.Device[:])
	f.U32(&h.Total)
	f.U32(&h.Given)
	codec.List(f, big, most, &h.Places, func(p *HandoverPlace, f *codec.Fields) {
		blob(f, &p.Group)
		f.Array(p.Before[:])
		f.Flag(&p.Begun)
		f.Flag(&p.Done)
	})
}

// Pack is history that another device of the account has given to this one: a blob at a
// relay.
type Pack struct {
	Number uint64
	From   [16]byte
	Relay  string
	Blob   [32]byte
	Key    []byte
	Owner  []byte // seed of the key that deletes it
	Taken  bool   // all of it is here, and the blob is to be deleted
}

func (p *Pack) fields(f *codec.Fields) {
	f.U64(&p.Number)
	f.Array(p.From[:])
	text(f, &p.Relay)
	f.Array(p.Blob[:])
	blob(f, &p.Key)
	blob(f, &p.Owner)
	f.Flag(&p.Taken)
}

// Progress is how much of an account's history this device has been given.
type Progress struct {
	From     [16]byte
	Total    uint32
	Imported uint32
	Ended    bool // no more packs will come
}

func (p *Progress) fields(f *codec.Fields) {
	f.Array(p.From[:])
	f.U32(&p.Total)
	f.U32(&p.Imported)
	f.Flag(&p.Ended)
}

// PutHandover writes what is to be given to a device.
func (t *Tx) PutHandover(h *Handover) error {
	return t.put(vault.Ref{Table: tHandover, Order: string(h.Device[:])}, plain, h)
}

// DeleteHandover removes it.
func (t *Tx) DeleteHandover(device [16]byte) error {
	return t.tx.Delete(vault.Ref{Table: tHandover, Order: string(device[:])})
}

// Handovers returns all of them.
func (t *Tx) Handovers() ([]Handover, error) { return all[Handover](t, tHandover, "") }

// AddPack writes a pack behind those there are.
func (t *Tx) AddPack(p *Pack) (err error) {
	if p.Number, err = t.tx.Next(seqOrder); err != nil {
		return err
	}
	return t.PutPack(p)
}

// PutPack writes it again.
func (t *Tx) PutPack(p *Pack) error {
	return t.put(vault.Ref{Table: tPack, Order: vault.U64(p.Number)}, plain, p)
}

// DeletePack removes it.
func (t *Tx) DeletePack(number uint64) error {
	return t.tx.Delete(vault.Ref{Table: tPack, Order: vault.U64(number)})
}

// Packs returns the packs that are not imported yet, in order.
func (t *Tx) Packs() ([]Pack, error) { return all[Pack](t, tPack, "") }

// Progress returns how much history has come, or ErrNotFound if there is none to come.
func (t *Tx) Progress() (Progress, error) { return load[Progress](t, vault.Ref{Table: tProgress}) }

// PutProgress writes it.
func (t *Tx) PutProgress(p *Progress) error { return t.put(vault.Ref{Table: tProgress}, plain, p) }

// Import writes a message of the history where it stood, and reports whether it did: not
// one that is known, nor in the place of another.
func (t *Tx) Import(group []byte, m *Message) (bool, error) {
	if at, err := t.place(group, m.ID); err != nil || at != 0 || m.Seq == 0 || m.Seq >= queuedPlace {
		return false, err
	}
	_, err := t.tx.Get(messageRef(group, m.Seq))
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return true, t.PutMessage(group, m)
}

// Self is what this device is among the account's.
type Self struct {
	Name  string // what the user calls it; empty: the machine's name
	Group []byte // the conversation among the account's devices; empty while there is none
}

func (o *Self) fields(f *codec.Fields) {
	text(f, &o.Name)
	blob(f, &o.Group)
}

// Self returns it; nothing is no error.
func (t *Tx) Self() (Self, error) {
	o, err := load[Self](t, vault.Ref{Table: tSelf})
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return o, err
}

// PutSelf writes it.
func (t *Tx) PutSelf(o *Self) error { return t.put(vault.Ref{Table: tSelf}, plain, o) }
