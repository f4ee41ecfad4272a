package identity

import (
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

const (
	version      = 1
	algEd25519   = 1
	maxBody      = 1024
	accountLabel = "sotto/acctlog/1"
	deviceLabel  = "sotto/acctlog-device/1"
)

// maxEntrySize is what the fields of an entry come to: version, account, seq,
// prev, type, body with its length, generation, acting device, two signatures.
const maxEntrySize = 2 + 32 + 4 + 32 + 1 + 2 + maxBody + 1 + 16 + 2*key.SignatureSize

// EntryType says what an [Entry] does.
type EntryType uint8

const (
	Genesis      EntryType = 1 // the account and its first device
	AddDevice    EntryType = 2 // one more device, or the end of a suspension
	RevokeDevice EntryType = 3 // a device is one no longer
	RotateKey    EntryType = 4 // the next account key
)

func (t EntryType) String() string {
	switch t {
	case Genesis:
		return "genesis"
	case AddDevice:
		return "add device"
	case RevokeDevice:
		return "revoke device"
	case RotateKey:
		return "rotate key"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Entry is one entry of an account log (spec/identity.md, section 2). What
// [ParseEntry] returns can be read; that it is true, only its [Log] can say.
type Entry struct {
	Account    AccountID
	Seq        uint32
	Prev       [32]byte // hash of the entry before
	Type       EntryType
	Body       []byte   // not to be written to
	Generation uint8    // of the account key that signed
	Acting     DeviceID // the device that signed

	accountSig [key.SignatureSize]byte
	deviceSig  [key.SignatureSize]byte
}

// appendSigned appends what both signatures are over.
func (e *Entry) appendSigned(b []byte) []byte {
	b = codec.AppendU16(b, version)
	b = append(b, e.Account[:]...)
	b = codec.AppendU32(b, e.Seq)
	b = append(b, e.Prev[:]...)
	b = codec.AppendU8(b, uint8(e.Type))
	b = codec.AppendVec(b, e.Body)
	b = codec.AppendU8(b, e.Generation)
	return append(b, e.Acting[:]...)
}

// Append appends the encoding of e to b.
func (e *Entry) Append(b []byte) []byte {
	b = e.appendSigned(b)
	b = append(b, e.accountSig[:]...)
	return append(b, e.deviceSig[:]...)
}

// Hash returns what the next entry names e by.
func (e *Entry) Hash() [32]byte { return hash("sotto/acctlog-entry/1", e.Append(nil)) }

// ParseEntry reads one entry. It copies what it keeps.
func ParseEntry(b []byte) (Entry, error) {
	r := codec.NewReader(b)
	e := readEntry(r)
	if err := r.Done(); err != nil {
		return Entry{}, fmt.Errorf("account entry: %w", err)
	}
	return e, nil
}

func readEntry(r *codec.Reader) (e Entry) {
	readVersion(r)
	r.Copy(e.Account[:])
	e.Seq = r.U32()
	r.Copy(e.Prev[:])
	e.Type = EntryType(r.U8())
	e.Body = append([]byte(nil), r.Vec(maxBody)...)
	e.Generation = r.U8()
	r.Copy(e.Acting[:])
	r.Copy(e.accountSig[:])
	r.Copy(e.deviceSig[:])
	if r.Err() == nil {
		_, err := e.effect()
		r.Take(err)
	}
	return e
}

func readVersion(r *codec.Reader) {
	if v := r.U16(); v > version {
		r.Take(fmt.Errorf("%w: version %d", ErrNewer, v))
	} else if v != version {
		r.Fail("version %d", v)
	}
}

// effect is what the body of an entry says; which fields count depends on the type.
type effect struct {
	key    key.AccountPublic // genesis, rotate key
	next   [32]byte          // genesis, rotate key
	salt   [16]byte          // genesis
	cert   DeviceCert        // genesis, add device
	device DeviceID          // revoke device
	final  bool              // revoke device
}

func (e *Entry) effect() (x effect, err error) {
	r := codec.NewReader(e.Body)
	switch e.Type {
	case 0:
		r.Fail("an entry of type 0")
	case Genesis:
		x.readKey(r)
		r.Copy(x.salt[:])
		x.cert = ReadDeviceCert(r)
	case AddDevice:
		x.cert = ReadDeviceCert(r)
	case RevokeDevice:
		r.Copy(x.device[:])
		final := r.U8()
		if final > 1 {
			r.Fail("final is %d", final)
		}
		x.final = final == 1
	case RotateKey:
		x.readKey(r)
	default:
		return x, nil // left to who knows the type
	}
	return x, r.Done()
}

func (x *effect) readKey(r *codec.Reader) {
	if alg := r.U8(); alg != algEd25519 && r.Err() == nil {
		r.Take(fmt.Errorf("%w: an account key of algorithm %d", ErrNewer, alg))
	}
	x.key = readPublic[key.AccountPublic](r)
	r.Copy(x.next[:])
}

func appendKey(b []byte, s Seed, generation uint8) []byte {
	b = codec.AppendU8(b, algEd25519)
	b = s.AccountKey(generation).Public().Append(b)
	next := commitment(s.AccountKey(generation + 1).Public())
	return append(b, next[:]...)
}

// commitment is how an entry names the account key of the next generation
// without showing it.
func commitment(p key.AccountPublic) [32]byte {
	return hash("sotto/next/1", []byte{algEd25519}, p.Bytes())
}

func (e *Entry) sign(account key.AccountSecret, by Actor) {
	m := e.appendSigned(nil)
	if !account.IsZero() {
		copy(e.accountSig[:], account.Sign(accountLabel, m))
	}
	copy(e.deviceSig[:], by.Key.Sign(deviceLabel, m))
}

func (e *Entry) signedByAccount(p key.AccountPublic) bool {
	return p.Verify(e.accountSig[:], accountLabel, e.appendSigned(nil))
}

func (e *Entry) signedByDevice(p key.DevicePublic) bool {
	return p.Verify(e.deviceSig[:], deviceLabel, e.appendSigned(nil))
}
