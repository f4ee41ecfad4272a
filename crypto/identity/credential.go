package identity

import (
	"fmt"
	"slices"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// MaxCredential is the largest encoding of a [Credential] in bytes.
const MaxCredential = 16 << 10

// Credential proves, by itself, that a device is of an account: it is the identity
// in a leaf's basic credential (spec/identity.md, section 3). It cannot show what
// was revoked after; that is for the log, whose head it names.
type Credential struct {
	Account AccountID
	Device  DeviceID
	Proof   []Entry // genesis, every key rotation, and what added the device
	Head    Head    // the newest entry of the log that the device knew
}

// Credential returns the credential of an active device. It fails for another one,
// and for a log with so many key rotations that no credential holds them.
func (l *Log) Credential(id DeviceID) (Credential, error) {
	d := l.devices[id]
	if d.state != DeviceActive {
		return Credential{}, fmt.Errorf("credential of %s: %w", id.Short(), ErrUnknownDevice)
	}
	c := Credential{Account: l.id, Device: id, Head: l.Head()}
	for _, e := range l.entries {
		if e.Type == Genesis || e.Type == RotateKey || e.Seq == d.added {
			c.Proof = append(c.Proof, e)
		}
	}
	if n := len(c.Append(nil)); n > MaxCredential {
		return Credential{}, fmt.Errorf("credential of %d bytes, at most %d", n, MaxCredential)
	}
	return c, nil
}

// Append appends the encoding of c to b.
func (c Credential) Append(b []byte) []byte {
	b = codec.AppendU16(b, version)
	b = append(b, c.Account[:]...)
	b = append(b, c.Device[:]...)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range c.Proof {
			b = c.Proof[i].Append(b)
		}
		return b
	})
	b = codec.AppendU32(b, c.Head.Seq)
	return append(b, c.Head.Hash[:]...)
}

// ParseCredential reads a credential. It copies what it keeps. Before anything in it is
// believed, [Credential.Verify] must have said so.
func ParseCredential(b []byte) (Credential, error) {
	if len(b) > MaxCredential {
		return Credential{}, fmt.Errorf("credential: %w: %d bytes, at most %d", codec.ErrMalformed, len(b), MaxCredential)
	}
	var c Credential
	r := codec.NewReader(b)
	readVersion(r)
	r.Copy(c.Account[:])
	r.Copy(c.Device[:])
	r.Each(MaxCredential, func(r *codec.Reader) { c.Proof = append(c.Proof, readEntry(r)) })
	c.Head.Seq = r.U32()
	r.Copy(c.Head.Hash[:])
	if err := r.Done(); err != nil {
		return Credential{}, fmt.Errorf("credential: %w", err)
	}
	return c, nil
}

// Verify checks that the proof leads from the account id to the certificate of the
// device, and returns that. It asks the bytes alone, so that everyone comes to the
// same answer. The error wraps [ErrInvalid].
func (c Credential) Verify() (DeviceCert, error) {
	cert, err := c.verify()
	if err != nil {
		return DeviceCert{}, fmt.Errorf("credential: %w", err)
	}
	return cert, nil
}

func (c Credential) verify() (cert DeviceCert, err error) {
	var (
		accountKey key.AccountPublic
		next       [32]byte
		generation uint8
		found      bool
		first      DeviceCert // the genesis device
	)
	for i := range c.Proof {
		e := &c.Proof[i]
		x, err := e.effect()
		if err != nil {
			return cert, err
		}
		switch {
		case e.Account != c.Account:
			return cert, invalid("an entry of another account")
		case (i == 0) != (e.Type == Genesis):
			return cert, invalid("%v out of place", e.Type)
		case i > 0 && e.Seq <= c.Proof[i-1].Seq:
			return cert, invalid("entries out of order")
		case i > 0 && e.Seq == c.Proof[i-1].Seq+1 && e.Prev != c.Proof[i-1].Hash():
			return cert, invalid("an entry that does not follow the one before")
		case e.Seq >= MaxEntries:
			return cert, invalid("more than %d entries", MaxEntries)
		}
		switch e.Type {
		case Genesis:
			if accountID(e.Body) != c.Account || e.Seq != 0 || e.Prev != [32]byte{} || e.Generation != 0 || e.Acting != x.cert.Device {
				return cert, invalid("not the genesis of the account")
			}
			accountKey, next, first = x.key, x.next, x.cert
		case RotateKey:
			if generation == MaxGeneration || e.Generation != generation+1 || commitment(x.key) != next {
				return cert, invalid("another account key than the log was committed to")
			}
			accountKey, next, generation = x.key, x.next, e.Generation
		case AddDevice:
			if found || e.Generation != generation || x.cert.Device != c.Device {
				return cert, invalid("an entry that has no place in the proof")
			}
		default:
			return cert, invalid("an entry that has no place in the proof")
		}
		if !e.signedByAccount(accountKey) {
			return cert, invalid("the account's signature is wrong")
		}
		// Of other acting devices the proof does not hold the key. What makes
		// a device one is the account's signature.
		switch acting := e.Acting; {
		case acting == first.Device && !e.signedByDevice(first.DeviceKey),
			e.Type == AddDevice && acting != first.Device && acting == x.cert.Device && !e.signedByDevice(x.cert.DeviceKey):
			return cert, invalid("the device's signature is wrong")
		}
		if (e.Type == Genesis || e.Type == AddDevice) && x.cert.Device == c.Device {
			cert, found = x.cert, true
		}
	}
	if !found {
		return cert, invalid("no entry that added the device")
	}
	last := &c.Proof[len(c.Proof)-1]
	if c.Head.Seq < last.Seq || c.Head.Seq >= MaxEntries || c.Head.Seq == last.Seq && c.Head.Hash != last.Hash() {
		return DeviceCert{}, invalid("a head that is not behind the proof")
	}
	return cert, nil
}

// RevokedBy checks that an entry of the account's log revokes the credential's device, by
// their bytes alone: a suspension signed by another device, whose certificate acting
// returns, or a final one by the account key that the proof leads to. The caller has
// verified the credential. The error wraps [ErrInvalid].
func (c Credential) RevokedBy(e *Entry, acting func(DeviceID) (DeviceCert, bool)) error {
	x, err := e.effect()
	if err != nil {
		return err
	}
	if e.Account != c.Account || e.Type != RevokeDevice || x.device != c.Device {
		return invalid("an entry that does not revoke the device")
	}
	var force effect
	var generation uint8
	for i := range c.Proof {
		p := &c.Proof[i]
		switch p.Type {
		case Genesis, RotateKey:
			if force, err = p.effect(); err != nil {
				return err
			}
			generation = p.Generation
		}
		if e.Seq <= p.Seq {
			return invalid("a revocation before the device was added")
		}
	}
	if x.final {
		if e.Generation != generation || !e.signedByAccount(force.key) {
			return invalid("a revocation that is not by the account key")
		}
		return nil
	}
	by, ok := acting(e.Acting)
	if !ok || e.Acting == c.Device || !e.signedByDevice(by.DeviceKey) {
		return invalid("a suspension that is not by another device")
	}
	return nil
}

// DeviceSet is a device's statement of which devices its account has at a head of the
// log. Who brings an account into a group brings exactly these (spec/identity.md,
// section 4).
type DeviceSet struct {
	Account AccountID
	Head    Head
	Devices []DeviceID // ascending
	Signer  DeviceID

	signature [key.SignatureSize]byte
}

const deviceSetLabel = "sotto/deviceset/1"

// DeviceSet states the active devices of the log, signed by one of them.
func (l *Log) DeviceSet(by Actor) (DeviceSet, error) {
	s := DeviceSet{Account: l.id, Head: l.Head(), Signer: by.Device}
	for _, c := range l.Active() {
		s.Devices = append(s.Devices, c.Device)
	}
	copy(s.signature[:], by.Key.Sign(deviceSetLabel, s.appendSigned(nil)))
	return s, s.Verify(l)
}

func (s DeviceSet) appendSigned(b []byte) []byte {
	b = append(b, s.Account[:]...)
	b = codec.AppendU32(b, s.Head.Seq)
	b = append(b, s.Head.Hash[:]...)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, id := range s.Devices {
			b = append(b, id[:]...)
		}
		return b
	})
	return append(b, s.Signer[:]...)
}

// Append appends the encoding of s to b.
func (s DeviceSet) Append(b []byte) []byte { return append(s.appendSigned(b), s.signature[:]...) }

// ParseDeviceSet reads a device set, which is to be verified before it is believed.
func ParseDeviceSet(b []byte) (DeviceSet, error) {
	r := codec.NewReader(b)
	s := ReadDeviceSet(r)
	if err := r.Done(); err != nil {
		return DeviceSet{}, fmt.Errorf("device set: %w", err)
	}
	return s, nil
}

// ReadDeviceSet reads a device set that stands within another structure.
func ReadDeviceSet(r *codec.Reader) (s DeviceSet) {
	r.Copy(s.Account[:])
	s.Head.Seq = r.U32()
	r.Copy(s.Head.Hash[:])
	r.Each(MaxEntries*len(DeviceID{}), func(r *codec.Reader) {
		var id DeviceID
		r.Copy(id[:])
		if n := len(s.Devices); n > 0 && slices.Compare(s.Devices[n-1][:], id[:]) >= 0 {
			r.Fail("devices out of order")
		}
		s.Devices = append(s.Devices, id)
	})
	r.Copy(s.Signer[:])
	r.Copy(s.signature[:])
	return s
}

// Verify checks s against the account's log, which may be newer: the devices are
// those that were active at the head that s names, and one of them signed. The error
// wraps [ErrInvalid].
func (s DeviceSet) Verify(l *Log) error {
	if s.Account != l.id || !l.Contains(s.Head) {
		return invalid("device set: it is for another log")
	}
	at := l
	if s.Head != l.Head() {
		at = l.At(s.Head.Seq)
	}
	active := at.Active()
	if !slices.EqualFunc(active, s.Devices, func(c DeviceCert, id DeviceID) bool { return c.Device == id }) {
		return invalid("device set: it names other devices than the log")
	}
	c, state := at.Device(s.Signer)
	if state != DeviceActive {
		return invalid("device set: signer %s: %w", s.Signer.Short(), ErrUnknownDevice)
	}
	if !c.DeviceKey.Verify(s.signature[:], deviceSetLabel, s.appendSigned(nil)) {
		return invalid("device set: the signature is wrong")
	}
	return nil
}
