package identity

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// MaxEntries is how many entries a log may have.
const MaxEntries = 1024

// MaxGeneration is the last generation of an account key.
const MaxGeneration = 255

// Head says how far a log goes: the seq of an entry and its hash.
type Head struct {
	Seq  uint32
	Hash [32]byte
}

// Actor is the device that signs an entry or a statement.
type Actor struct {
	Device DeviceID
	Key    key.DeviceSecret
}

// DeviceState says whether a device may act for its account.
type DeviceState uint8

const (
	DeviceActive    DeviceState = 1
	DeviceSuspended DeviceState = 2 // until the account key lifts it
	DeviceRevoked   DeviceState = 3 // for good
)

type device struct {
	cert  DeviceCert
	state DeviceState
	added uint32 // seq of the entry that added it first
}

// Log is an account log that has been verified from its first entry to its last. It
// never changes: what adds to it returns another. It may be used from several
// goroutines.
type Log struct {
	id      AccountID
	entries []Entry
	hashes  [][32]byte
	key     key.AccountPublic // in force at the end
	next    [32]byte          // commitment to the key after it
	gen     uint8
	devices map[DeviceID]device
	keys    map[[key.Size]byte]bool // device and handshake keys that were ever in it
}

// NewLog makes the log of a new account with its first device. Salt is random: it
// makes two accounts of one seed two accounts.
func NewLog(s Seed, first DeviceCert, k key.DeviceSecret, salt [16]byte) (*Log, error) {
	body := appendKey(nil, s, 0)
	body = append(body, salt[:]...)
	body = first.Append(body)
	e := Entry{Account: accountID(body), Type: Genesis, Body: body, Acting: first.Device}
	e.sign(s.AccountKey(0), Actor{first.Device, k})
	return VerifyLog([]Entry{e})
}

func accountID(genesis []byte) AccountID { return AccountID(hash("sotto/account/1", genesis)) }

// ParseLog reads the entries of a log, one behind the other, and verifies them.
// The error wraps [codec.ErrMalformed], [ErrNewer] or [ErrInvalid].
func ParseLog(b []byte) (*Log, error) {
	r := codec.NewReader(b)
	var entries []Entry
	for r.Len() > 0 {
		if len(entries) == MaxEntries {
			r.Fail("more than %d entries", MaxEntries)
			break
		}
		entries = append(entries, readEntry(r))
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("account log: %w", err)
	}
	return VerifyLog(entries)
}

// VerifyLog verifies the entries of a whole log.
func VerifyLog(entries []Entry) (*Log, error) {
	if len(entries) == 0 {
		return nil, invalid("account log is empty")
	}
	l := &Log{id: entries[0].Account, devices: map[DeviceID]device{}, keys: map[[key.Size]byte]bool{}}
	for _, e := range entries {
		if err := l.apply(e, true); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Extend returns the log with more entries at its end.
func (l *Log) Extend(entries ...Entry) (*Log, error) {
	next := l.clone()
	for _, e := range entries {
		if err := next.apply(e, true); err != nil {
			return nil, err
		}
	}
	return next, nil
}

func (l *Log) clone() *Log {
	c := *l
	c.entries = slices.Clip(c.entries)
	c.hashes = slices.Clip(c.hashes)
	c.devices = maps.Clone(l.devices)
	c.keys = maps.Clone(l.keys)
	return &c
}

// apply adds one entry. Only what has been verified before may go without verify.
func (l *Log) apply(e Entry, verify bool) error {
	if err := l.check(e, verify); err != nil {
		return fmt.Errorf("account log, entry %d: %w", len(l.entries), err)
	}
	l.entries = append(l.entries, e)
	l.hashes = append(l.hashes, e.Hash())
	return nil
}

// check says whether e may stand at the end of the log, and if so gives it its effect.
func (l *Log) check(e Entry, verify bool) error {
	seq := uint32(len(l.entries))
	switch {
	case seq >= MaxEntries:
		return invalid("more than %d entries", MaxEntries)
	case e.Seq != seq:
		return invalid("it calls itself number %d", e.Seq)
	case e.Account != l.id:
		return invalid("it is of another account")
	case (e.Type == Genesis) != (seq == 0):
		return invalid("%v out of place", e.Type)
	case seq == 0 && e.Prev != [32]byte{} || seq > 0 && e.Prev != l.hashes[seq-1]:
		return invalid("it does not follow the entry before")
	}
	x, err := e.effect()
	if err != nil {
		return err
	}

	accountKey := l.key
	switch e.Type {
	case Genesis:
		if e.Account != accountID(e.Body) {
			return invalid("the account id is not that of the body")
		}
		if e.Generation != 0 || e.Acting != x.cert.Device {
			return invalid("a genesis by another than its own key and device")
		}
		accountKey = x.key
	case RotateKey:
		if l.gen == MaxGeneration || e.Generation != l.gen+1 {
			return invalid("key generation %d after %d", e.Generation, l.gen)
		}
		if commitment(x.key) != l.next {
			return invalid("another account key than the log was committed to")
		}
		accountKey = x.key
	}
	if e.Type != Genesis && e.Type != RotateKey && e.Generation != l.gen {
		return invalid("key generation %d where %d is in force", e.Generation, l.gen)
	}

	// A device may add itself: an owner with nothing but the recovery words has
	// no other. The account signature is what makes it one.
	actor := l.devices[e.Acting]
	actorKey, known := actor.cert.DeviceKey, actor.state == DeviceActive
	if (e.Type == Genesis || e.Type == AddDevice) && e.Acting == x.cert.Device {
		actorKey, known = x.cert.DeviceKey, true
	}
	if !known {
		return invalid("acting device %s: %w", e.Acting.Short(), ErrUnknownDevice)
	}

	if verify {
		suspension := e.Type == RevokeDevice && !x.final && e.accountSig == [key.SignatureSize]byte{}
		if !suspension && !e.signedByAccount(accountKey) {
			return invalid("the account's signature is wrong")
		}
		if !e.signedByDevice(actorKey) {
			return invalid("the device's signature is wrong")
		}
	}

	switch e.Type {
	case Genesis, AddDevice:
		if err := l.admit(x.cert, seq); err != nil {
			return err
		}
	case RevokeDevice:
		d, ok := l.devices[x.device]
		switch {
		case !ok:
			return invalid("revokes %s: %w", x.device.Short(), ErrUnknownDevice)
		case d.state == DeviceRevoked, d.state == DeviceSuspended && !x.final:
			return invalid("revokes %s, which has been", x.device.Short())
		case x.final:
			d.state = DeviceRevoked
		default:
			d.state = DeviceSuspended
		}
		l.devices[x.device] = d
	}
	if e.Type == Genesis || e.Type == RotateKey {
		l.key, l.next, l.gen = x.key, x.next, e.Generation
	}
	return nil
}

// admit makes a device active: a new one, or a suspended one with the certificate
// it had.
func (l *Log) admit(c DeviceCert, seq uint32) error {
	if d, ok := l.devices[c.Device]; ok {
		if d.state != DeviceSuspended || d.cert != c {
			return invalid("device %s a second time", c.Device.Short())
		}
		d.state = DeviceActive
		l.devices[c.Device] = d
		return nil
	}
	a, b := [key.Size]byte(c.DeviceKey.Bytes()), [key.Size]byte(c.HandshakeKey.Bytes())
	if l.keys[a] || l.keys[b] || a == b {
		return invalid("a key of device %s is another's", c.Device.Short())
	}
	l.keys[a], l.keys[b] = true, true
	l.devices[c.Device] = device{cert: c, state: DeviceActive, added: seq}
	return nil
}

// add signs an entry and returns the log with it. Without an account key it can
// only be a suspension.
func (l *Log) add(t EntryType, body []byte, generation uint8, account key.AccountSecret, by Actor) (*Log, error) {
	head := l.Head()
	e := Entry{Account: l.id, Seq: head.Seq + 1, Prev: head.Hash, Type: t, Body: body, Generation: generation, Acting: by.Device}
	e.sign(account, by)
	return l.Extend(e)
}

// AddDevice returns the log with one device more, or with one that was suspended
// active again. The account key is that in force; who acts is an active device, or the
// one that is added.
func (l *Log) AddDevice(account key.AccountSecret, by Actor, c DeviceCert) (*Log, error) {
	return l.add(AddDevice, c.Append(nil), l.gen, account, by)
}

// SuspendDevice returns the log with a device suspended. Any active device can do
// that, so that a stolen one is stopped at once; it takes the account key to lift.
func (l *Log) SuspendDevice(by Actor, id DeviceID) (*Log, error) {
	return l.add(RevokeDevice, append(id[:], 0), l.gen, key.AccountSecret{}, by)
}

// RevokeDevice returns the log with a device revoked for good.
func (l *Log) RevokeDevice(account key.AccountSecret, by Actor, id DeviceID) (*Log, error) {
	return l.add(RevokeDevice, append(id[:], 1), l.gen, account, by)
}

// RotateKey returns the log with the account key of the next generation, which only
// the seed has. It makes void what a thief of the present key adds to a branch of
// the log.
func (l *Log) RotateKey(s Seed, by Actor) (*Log, error) {
	if l.gen == MaxGeneration {
		return nil, fmt.Errorf("account key: no generation after %d", l.gen)
	}
	return l.add(RotateKey, appendKey(nil, s, l.gen+1), l.gen+1, s.AccountKey(l.gen+1), by)
}

// ID returns the account's id.
func (l *Log) ID() AccountID { return l.id }

// Len returns the number of entries.
func (l *Log) Len() int { return len(l.entries) }

// Entry returns the entry with a seq below Len.
func (l *Log) Entry(seq uint32) Entry { return l.entries[seq] }

// Head returns the seq and hash of the last entry.
func (l *Log) Head() Head {
	last := len(l.entries) - 1
	return Head{uint32(last), l.hashes[last]}
}

// Contains reports whether h is an entry of the log. False with a seq beyond
// Head means that there is a newer log; otherwise that h is of another branch.
func (l *Log) Contains(h Head) bool {
	return int64(h.Seq) < int64(len(l.hashes)) && l.hashes[h.Seq] == h.Hash
}

// At returns the log as it was up to and with an entry. It panics if there is none.
func (l *Log) At(seq uint32) *Log {
	past := &Log{id: l.id, devices: map[DeviceID]device{}, keys: map[[key.Size]byte]bool{}}
	for _, e := range l.entries[:seq+1] {
		if err := past.apply(e, false); err != nil {
			panic("identity: " + err.Error()) // unreachable: it was applied before
		}
	}
	return past
}

// AccountKey returns the account key in force and its generation.
func (l *Log) AccountKey() (key.AccountPublic, uint8) { return l.key, l.gen }

// Active returns the certificates of the active devices, by ascending id.
func (l *Log) Active() []DeviceCert {
	var out []DeviceCert
	for _, d := range l.devices {
		if d.state == DeviceActive {
			out = append(out, d.cert)
		}
	}
	slices.SortFunc(out, func(a, b DeviceCert) int { return bytes.Compare(a.Device[:], b.Device[:]) })
	return out
}

// Device returns the certificate of a device and its state, which is 0 for one
// that the log does not know.
func (l *Log) Device(id DeviceID) (DeviceCert, DeviceState) {
	d := l.devices[id]
	return d.cert, d.state
}

// Devices returns the certificates of all devices that the log knows, the oldest first.
func (l *Log) Devices() (out []DeviceCert) {
	for i := range l.entries {
		if x, err := l.entries[i].effect(); err == nil && l.devices[x.cert.Device].added == uint32(i) && x.cert.Device != (DeviceID{}) {
			out = append(out, x.cert)
		}
	}
	return out
}

// Added returns the entry that made a device one of the account.
func (l *Log) Added(id DeviceID) (Entry, bool) {
	d, ok := l.devices[id]
	if !ok {
		return Entry{}, false
	}
	return l.entries[d.added], true
}

// Revocation returns the newest entry that revokes a device, if it is not active.
func (l *Log) Revocation(id DeviceID) (Entry, bool) {
	if d, ok := l.devices[id]; !ok || d.state == DeviceActive {
		return Entry{}, false
	}
	for i := len(l.entries) - 1; i >= 0; i-- {
		if x, err := l.entries[i].effect(); err == nil && l.entries[i].Type == RevokeDevice && x.device == id {
			return l.entries[i], true
		}
	}
	return Entry{}, false
}

// ByHandshakeKey returns the active device with a handshake key.
func (l *Log) ByHandshakeKey(p key.NoisePublic) (DeviceCert, bool) {
	for _, d := range l.devices {
		if d.state == DeviceActive && d.cert.HandshakeKey == p {
			return d.cert, true
		}
	}
	return DeviceCert{}, false
}

// Append appends all entries to b, one behind the other, as [ParseLog] reads them.
func (l *Log) Append(b []byte) []byte {
	for i := range l.entries {
		b = l.entries[i].Append(b)
	}
	return b
}

// Relation is how one log stands to another.
type Relation uint8

const (
	Unrelated Relation = iota // of two accounts
	Same
	Longer  // the other, and more
	Shorter // a part of the other
	Wins    // they disagree; this one has the higher key generation
	Loses   // they disagree; the other has the higher key generation
	Forked  // they disagree, and nothing decides
)

// Compare says how l stands to another log.
//
// The higher key generation wins, wherever the two part: whoever has stolen a key can
// go on from any entry it could sign, but the next key is only in the seed.
func (l *Log) Compare(other *Log) Relation {
	if l.id != other.id {
		return Unrelated
	}
	n := min(len(l.hashes), len(other.hashes))
	// Each hash stands for all entries before it.
	switch agree := l.hashes[n-1] == other.hashes[n-1]; {
	case agree && len(l.hashes) == len(other.hashes):
		return Same
	case agree && n == len(other.hashes):
		return Longer
	case agree:
		return Shorter
	case l.gen > other.gen:
		return Wins
	case l.gen < other.gen:
		return Loses
	}
	return Forked
}

// Update returns which of two logs of one account to keep, given that l was known
// and other was received. The error wraps [ErrFork] if nothing decides between them, and
// [ErrInvalid] if they are of two accounts.
func (l *Log) Update(other *Log) (*Log, error) {
	switch l.Compare(other) {
	case Same, Longer, Wins:
		return l, nil
	case Shorter, Loses:
		return other, nil
	case Forked:
		n := 0
		for l.hashes[n] == other.hashes[n] {
			n++
		}
		return nil, fmt.Errorf("%w: two entries %d", ErrFork, n)
	}
	return nil, fmt.Errorf("%w: %w", ErrInvalid, errors.New("logs of two accounts"))
}
