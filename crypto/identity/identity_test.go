package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

var makeVectors = flag.Bool("make-vectors", false, "write vector files that do not exist; those that do are never changed")

// checkVectors compares v with the vector file of that name.
func checkVectors(t *testing.T, name string, v any) {
	t.Helper()
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("../../spec/vectors/identity", name)
	want, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *makeVectors {
		os.MkdirAll(filepath.Dir(path), 0o755)
		want, err = got.Bytes(), os.WriteFile(path, got.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s differs from what is made now:\n%s", path, got.Bytes())
	}
}

// expected names the errors of the bad vectors.
var expected = map[string]error{
	"malformed": codec.ErrMalformed, "newer": ErrNewer, "invalid": ErrInvalid, "name": ErrName, "checksum": ErrChecksum,
}

type bad struct {
	Name  string `json:"name"`
	Bytes string `json:"bytes"`
	Error string `json:"error"`
}

func checkBad(t *testing.T, list []bad, parse func([]byte) error) {
	t.Helper()
	for _, b := range list {
		raw, err := hex.DecodeString(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		want := expected[b.Error]
		if got := parse(raw); want == nil || !errors.Is(got, want) {
			t.Errorf("%s: %v, want %q", b.Name, got, b.Error)
		}
	}
}

func fill(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// A machine is a device with its secrets, all of them made from n.
type machine struct {
	Actor
	cert    DeviceCert
	sealing key.SealingSecret
}

func newMachine(n byte) machine {
	k := key.DeviceFromSeed(fill(n))
	m := machine{Actor: Actor{DeviceID(fill(n)[:16]), k}, sealing: key.SealingFromSeed(fill(n ^ 0x80))}
	m.cert = DeviceCert{m.Device, k.Public(), key.NoiseFromSeed(fill(n ^ 0x40)).Public(), SealingHash(m.sealing.Public())}
	return m
}

var (
	owner  = SeedFromBytes(fill(0x11))
	desk   = newMachine(0x21)
	laptop = newMachine(0x22)
	phone  = newMachine(0x23)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newLog() *Log { return must(NewLog(owner, desk.cert, desk.Key, [16]byte{7})) }

// history is a log in which everything happens: devices come, one is suspended and
// comes back, the key is rotated, one goes for good.
func history() *Log {
	l := newLog()
	l = must(l.AddDevice(owner.AccountKey(0), desk.Actor, laptop.cert))
	l = must(l.SuspendDevice(laptop.Actor, desk.Device))
	l = must(l.AddDevice(owner.AccountKey(0), laptop.Actor, desk.cert))
	l = must(l.RotateKey(owner, laptop.Actor))
	l = must(l.AddDevice(owner.AccountKey(1), phone.Actor, phone.cert))
	return must(l.RevokeDevice(owner.AccountKey(1), phone.Actor, desk.Device))
}

func encode(e Entry) string { return hex.EncodeToString(e.Append(nil)) }

func TestLogVectors(t *testing.T) {
	l := history()
	type device struct {
		ID           string `json:"id"`
		DeviceSeed   string `json:"device_seed"`
		Handshake    string `json:"handshake_seed"`
		SealingSeed  string `json:"sealing_seed"`
		Cert         string `json:"cert"`
		SealingKey   string `json:"sealing_key"`
		IDText       string `json:"id_text"`
		HandshakeKey string `json:"handshake_key"`
	}
	var v struct {
		Seed      string   `json:"recovery_seed"`
		Devices   []device `json:"devices"`
		Entries   []string `json:"entries"`
		Hashes    []string `json:"hashes"`
		Account   string   `json:"account_id"`
		Text      string   `json:"account_id_text"`
		Active    []string `json:"active"`
		DeviceSet string   `json:"device_set_of_phone"`
		Cred      string   `json:"credential_of_laptop"`
		Inbox     string   `json:"inbox_ref_of_phone"`
		BadLogs   []bad    `json:"bad_logs"`
		BadCreds  []bad    `json:"bad_credentials"`
		BadSets   []bad    `json:"bad_device_sets"`
		BadInbox  []bad    `json:"bad_inbox_refs"`
	}
	v.Seed = hex.EncodeToString(fill(0x11))
	for i, m := range []machine{desk, laptop, phone} {
		n := byte(0x21 + i)
		v.Devices = append(v.Devices, device{
			hex.EncodeToString(m.Device[:]), hex.EncodeToString(fill(n)), hex.EncodeToString(fill(n ^ 0x40)), hex.EncodeToString(fill(n ^ 0x80)),
			hex.EncodeToString(m.cert.Append(nil)), hex.EncodeToString(m.sealing.Public().Bytes()), m.Device.String(), hex.EncodeToString(m.cert.HandshakeKey.Bytes()),
		})
	}
	for i, e := range l.entries {
		v.Entries = append(v.Entries, encode(e))
		v.Hashes = append(v.Hashes, hex.EncodeToString(l.hashes[i][:]))
	}
	id := l.ID()
	v.Account, v.Text = hex.EncodeToString(id[:]), id.String()
	for _, c := range l.Active() {
		v.Active = append(v.Active, c.Device.String())
	}
	v.DeviceSet = hex.EncodeToString(must(l.DeviceSet(phone.Actor)).Append(nil))
	v.Cred = hex.EncodeToString(must(l.Credential(laptop.Device)).Append(nil))
	v.Inbox = hex.EncodeToString(sampleInbox().Append(nil))
	v.BadLogs, v.BadCreds, v.BadSets, v.BadInbox = badLogs(l), badCredentials(l), badDeviceSets(l), badInboxRefs()
	checkVectors(t, "log.json", v)

	back, err := ParseLog(l.Append(nil))
	if err != nil || back.Compare(l) != Same || !bytes.Equal(back.Append(nil), l.Append(nil)) {
		t.Errorf("the log does not come back: %v", err)
	}
	cert, err := must(ParseCredential(must(hex.DecodeString(v.Cred)))).Verify()
	if err != nil || cert != laptop.cert {
		t.Errorf("credential: %+v, %v, want the laptop's certificate", cert, err)
	}
	set, err := ParseDeviceSet(must(hex.DecodeString(v.DeviceSet)))
	if err != nil || set.Verify(l) != nil {
		t.Errorf("device set: %v, %v", err, set.Verify(l))
	}
	ref, err := ParseInboxRef(must(hex.DecodeString(v.Inbox)))
	if err != nil || !ref.BelongsTo(phone.cert) || ref.BelongsTo(desk.cert) || !bytes.Equal(ref.AppendKey.Seed(), fill(0x51)) {
		t.Errorf("inbox reference: %v", err)
	}
	checkBad(t, v.BadLogs, func(b []byte) error { _, err := ParseLog(b); return err })
	checkBad(t, v.BadCreds, func(b []byte) error {
		c, err := ParseCredential(b)
		if err != nil {
			return err
		}
		_, err = c.Verify()
		return err
	})
	checkBad(t, v.BadSets, func(b []byte) error {
		s, err := ParseDeviceSet(b)
		if err != nil {
			return err
		}
		return s.Verify(l)
	})
	checkBad(t, v.BadInbox, func(b []byte) error { _, err := ParseInboxRef(b); return err })
}

func sampleInbox() InboxRef {
	return InboxRef{Relay: append(fill(0x31), 0), Mailbox: [32]byte{0x41}, AppendKey: key.CapabilityFromSeed(fill(0x51)), SealingKey: phone.sealing.Public()}
}

// made returns an entry that follows a log, signed by the keys given and otherwise as
// change makes it.
func made(l *Log, account key.AccountSecret, by Actor, change func(e *Entry)) Entry {
	h := l.Head()
	e := Entry{Account: l.id, Seq: h.Seq + 1, Prev: h.Hash, Type: AddDevice, Generation: l.gen, Acting: by.Device, Body: newMachine(0x77).cert.Append(nil)}
	change(&e)
	e.sign(account, by)
	return e
}

func badLogs(whole *Log) (out []bad) {
	l, k0, k1 := newLog(), owner.AccountKey(0), owner.AccountKey(1)
	stranger := newMachine(0x66)
	add := func(name, want string, b []byte) { out = append(out, bad{name, hex.EncodeToString(b), want}) }
	after := func(name, want string, l *Log, e Entry) { add(name, want, e.Append(l.Append(nil))) }
	follow := func(name, want string, change func(e *Entry)) { after(name, want, l, made(l, k0, desk.Actor, change)) }

	add("empty", "invalid", nil)
	add("cut off", "malformed", l.Append(nil)[:300])
	add("one byte behind", "malformed", append(l.Append(nil), 0))
	add("without its genesis", "invalid", func() (b []byte) {
		for _, e := range whole.entries[1:] {
			b = e.Append(b)
		}
		return b
	}())
	add("version 2", "newer", func() []byte { b := l.Append(nil); b[1] = 2; return b }())
	add("version 0", "malformed", func() []byte { b := l.Append(nil); b[1] = 0; return b }())
	flipped := func(at int) []byte { b := l.Append(nil); b[at] ^= 1; return b }
	add("genesis for another account", "invalid", flipped(2))
	add("another account key in the genesis", "invalid", flipped(2+32+4+32+1+2+1))
	add("account signature flipped", "invalid", flipped(len(l.Append(nil))-128))
	add("device signature flipped", "invalid", flipped(len(l.Append(nil))-1))
	add("account key of algorithm 2", "newer", func() []byte { b := l.Append(nil); b[2+32+4+32+1+2] = 2; return b }())

	follow("seq left out", "invalid", func(e *Entry) { e.Seq++ })
	follow("prev of another entry", "invalid", func(e *Entry) { e.Prev[0] ^= 1 })
	follow("second genesis", "invalid", func(e *Entry) { e.Type, e.Body = Genesis, l.entries[0].Body })
	follow("generation not in force", "invalid", func(e *Entry) { e.Generation = 1 })
	follow("type 0", "malformed", func(e *Entry) { e.Type = 0 })
	follow("device twice", "invalid", func(e *Entry) { e.Body = desk.cert.Append(nil) })
	follow("device key twice", "invalid", func(e *Entry) {
		c := laptop.cert
		c.DeviceKey = desk.cert.DeviceKey
		e.Body = c.Append(nil)
	})
	follow("handshake key twice", "invalid", func(e *Entry) {
		c := laptop.cert
		c.HandshakeKey = desk.cert.HandshakeKey
		e.Body = c.Append(nil)
	})
	follow("certificate too long", "malformed", func(e *Entry) { e.Body = append(e.Body, 0) })
	follow("final is 2", "malformed", func(e *Entry) { e.Type, e.Body = RevokeDevice, append(desk.Device[:], 2) })
	follow("revokes a stranger", "invalid", func(e *Entry) { e.Type, e.Body = RevokeDevice, append(stranger.Device[:], 1) })
	follow("rotation without raising the generation", "invalid", func(e *Entry) { e.Type, e.Body = RotateKey, appendKey(nil, owner, 1) })
	after("body of 1025 bytes", "malformed", l, made(l, k0, desk.Actor, func(e *Entry) { e.Type, e.Body = 9, make([]byte, maxBody+1) }))
	after("acted by a stranger", "invalid", l, made(l, k0, stranger.Actor, func(e *Entry) {}))
	after("signed by another account", "invalid", l, made(l, SeedFromBytes(fill(9)).AccountKey(0), desk.Actor, func(e *Entry) {}))
	after("signed by another device", "invalid", l, made(l, k0, Actor{desk.Device, stranger.Key}, func(e *Entry) {}))
	after("device added without the account's signature", "invalid", l, made(l, key.AccountSecret{}, desk.Actor, func(e *Entry) {}))
	after("revoked for good without the account's signature", "invalid", l, made(l, key.AccountSecret{}, desk.Actor, func(e *Entry) { e.Type, e.Body = RevokeDevice, append(desk.Device[:], 1) }))
	after("unknown type without the account's signature", "invalid", l, made(l, key.AccountSecret{}, desk.Actor, func(e *Entry) { e.Type, e.Body = 9, nil }))
	after("rotation signed by the key before", "invalid", l, made(l, k0, desk.Actor, func(e *Entry) { e.Type, e.Generation, e.Body = RotateKey, 1, appendKey(nil, owner, 1) }))
	thief := SeedFromBytes(fill(0x99))
	after("rotation to a key that was not committed to", "invalid", l, made(l, thief.AccountKey(1), desk.Actor, func(e *Entry) { e.Type, e.Generation, e.Body = RotateKey, 1, appendKey(nil, thief, 1) }))
	after("rotation over a generation", "invalid", l, made(l, owner.AccountKey(2), desk.Actor, func(e *Entry) { e.Type, e.Generation, e.Body = RotateKey, 2, appendKey(nil, owner, 2) }))

	two := must(l.AddDevice(k0, desk.Actor, laptop.cert))
	suspended := must(two.SuspendDevice(laptop.Actor, desk.Device))
	after("acted by a suspended device", "invalid", suspended, made(suspended, k0, desk.Actor, func(e *Entry) {}))
	after("suspended twice", "invalid", suspended, made(suspended, key.AccountSecret{}, laptop.Actor, func(e *Entry) { e.Type, e.Body = RevokeDevice, append(desk.Device[:], 0) }))
	after("suspension with a wrong account signature", "invalid", two, made(two, SeedFromBytes(fill(9)).AccountKey(0), laptop.Actor, func(e *Entry) { e.Type, e.Body = RevokeDevice, append(desk.Device[:], 0) }))
	after("suspension lifted with another certificate", "invalid", suspended, made(suspended, k0, laptop.Actor, func(e *Entry) {
		c := desk.cert
		c.SealingHash[0] ^= 1
		e.Body = c.Append(nil)
	}))
	after("suspended device lifts itself without the account key", "invalid", suspended, made(suspended, key.AccountSecret{}, desk.Actor, func(e *Entry) { e.Body = desk.cert.Append(nil) }))
	after("revoked device comes back", "invalid", whole, made(whole, k1, phone.Actor, func(e *Entry) { e.Body = desk.cert.Append(nil) }))
	after("rotation by a revoked device", "invalid", whole, made(whole, owner.AccountKey(2), desk.Actor, func(e *Entry) { e.Type, e.Generation, e.Body = RotateKey, 2, appendKey(nil, owner, 2) }))
	after("added by the key before", "invalid", whole, made(whole, k0, phone.Actor, func(e *Entry) {}))
	return out
}

func badCredentials(l *Log) (out []bad) {
	good := must(l.Credential(phone.Device))
	add := func(name, want string, change func(c *Credential)) {
		c := good
		c.Proof = append([]Entry(nil), good.Proof...)
		change(&c)
		out = append(out, bad{name, hex.EncodeToString(c.Append(nil)), want})
	}
	// The proof of the phone is genesis, rotation, addition.
	add("no proof", "invalid", func(c *Credential) { c.Proof = nil })
	add("for another device", "invalid", func(c *Credential) { c.Device = laptop.Device })
	add("for another account", "invalid", func(c *Credential) { c.Account[0] ^= 1 })
	add("without the genesis", "invalid", func(c *Credential) { c.Proof = c.Proof[1:] })
	add("without the rotation", "invalid", func(c *Credential) { c.Proof = append(c.Proof[:1], c.Proof[2]) })
	add("without the addition", "invalid", func(c *Credential) { c.Proof = c.Proof[:2] })
	add("out of order", "invalid", func(c *Credential) { c.Proof[1], c.Proof[2] = c.Proof[2], c.Proof[1] })
	add("an entry twice", "invalid", func(c *Credential) { c.Proof = append(c.Proof, c.Proof[2]) })
	add("an entry that proves nothing", "invalid", func(c *Credential) { c.Proof = append(c.Proof, l.entries[6]) })
	add("another device's addition", "invalid", func(c *Credential) { c.Proof = []Entry{c.Proof[0], l.entries[1], c.Proof[1], c.Proof[2]} })
	add("account signature wrong", "invalid", func(c *Credential) { c.Proof[2].accountSig[0] ^= 1 })
	add("device signature wrong", "invalid", func(c *Credential) { c.Proof[2].deviceSig[0] ^= 1 })
	add("genesis device signature wrong", "invalid", func(c *Credential) { c.Proof[0].deviceSig[0] ^= 1 })
	add("neighbours that do not follow", "invalid", func(c *Credential) {
		e := made(l.At(4), owner.AccountKey(1), phone.Actor, func(e *Entry) { e.Body, e.Prev[0] = phone.cert.Append(nil), e.Prev[0]^1 })
		c.Proof[2] = e
	})
	add("head before the proof", "invalid", func(c *Credential) { c.Head = Head{4, l.hashes[4]} })
	add("head of another hash", "invalid", func(c *Credential) { c.Head = Head{5, [32]byte{1}} })
	add("head beyond any log", "invalid", func(c *Credential) { c.Head.Seq = MaxEntries })
	b := good.Append(nil)
	out = append(out,
		bad{"version 2", hex.EncodeToString(append([]byte{0, 2}, b[2:]...)), "newer"},
		bad{"cut off", hex.EncodeToString(b[:len(b)-1]), "malformed"},
		bad{"one byte behind", hex.EncodeToString(append(b, 0)), "malformed"})
	return out
}

func badDeviceSets(l *Log) (out []bad) {
	add := func(name, want string, by Actor, change func(s *DeviceSet)) {
		s := must(l.DeviceSet(phone.Actor))
		s.Signer = by.Device
		change(&s)
		copy(s.signature[:], by.Key.Sign(deviceSetLabel, s.appendSigned(nil)))
		out = append(out, bad{name, hex.EncodeToString(s.Append(nil)), want})
	}
	add("one device omitted", "invalid", phone.Actor, func(s *DeviceSet) { s.Devices = s.Devices[:1] })
	add("one device too many", "invalid", phone.Actor, func(s *DeviceSet) { s.Devices = append(s.Devices, newMachine(0x77).Device) })
	add("a revoked device", "invalid", phone.Actor, func(s *DeviceSet) { s.Devices = append([]DeviceID{desk.Device}, s.Devices...) })
	add("no device", "invalid", phone.Actor, func(s *DeviceSet) { s.Devices = nil })
	add("of an older head", "invalid", phone.Actor, func(s *DeviceSet) { s.Head = Head{5, l.hashes[5]} })
	add("of another branch", "invalid", phone.Actor, func(s *DeviceSet) { s.Head.Hash[0] ^= 1 })
	add("of a newer head", "invalid", phone.Actor, func(s *DeviceSet) { s.Head.Seq++ })
	add("of another account", "invalid", phone.Actor, func(s *DeviceSet) { s.Account[0] ^= 1 })
	add("signed by a revoked device", "invalid", desk.Actor, func(s *DeviceSet) {})
	add("signed by another", "invalid", Actor{phone.Device, desk.Key}, func(s *DeviceSet) {})
	add("out of order", "malformed", phone.Actor, func(s *DeviceSet) { s.Devices[0], s.Devices[1] = s.Devices[1], s.Devices[0] })
	add("a device twice", "malformed", phone.Actor, func(s *DeviceSet) { s.Devices = append(s.Devices, s.Devices[1]) })
	b := must(l.DeviceSet(phone.Actor)).Append(nil)
	return append(out, bad{"cut off", hex.EncodeToString(b[:len(b)-1]), "malformed"}, bad{"half a device", hex.EncodeToString(append(append(b[:68:68], 3, 1, 2, 3), make([]byte, 80)...)), "malformed"})
}

func badInboxRefs() (out []bad) {
	add := func(name string, b []byte) { out = append(out, bad{name, hex.EncodeToString(b), "malformed"}) }
	b := sampleInbox().Append(nil)
	add("empty", nil)
	add("cut off", b[:len(b)-1])
	add("one byte behind", append(b, 0))
	long := codec.AppendVec(nil, make([]byte, maxRelay+1))
	add("relay address of 601 bytes", append(long, b[34:]...))
	wrong := append([]byte(nil), b[:len(b)-1]...)
	wrong = append(wrong, b[len(b)-1])
	// A coefficient of the ML-KEM key that is not below the modulus.
	wrong[len(b)-key.SealingSize], wrong[len(b)-key.SealingSize+1] = 0xff, 0xff
	add("sealing key with a coefficient out of range", wrong)
	return out
}

// spec/identity.md, section 2: what each kind of entry does.
func TestDevicesComeAndGo(t *testing.T) {
	l := history()
	active := func(l *Log) (s string) {
		for _, c := range l.Active() {
			s += fmt.Sprintf("%x ", c.Device[0])
		}
		return s
	}
	for seq, want := range []string{"21 ", "21 22 ", "22 ", "21 22 ", "21 22 ", "21 22 23 ", "22 23 "} {
		if got := active(l.At(uint32(seq))); got != want {
			t.Errorf("after entry %d active are %s, want %s", seq, got, want)
		}
	}
	if _, s := l.Device(desk.Device); s != DeviceRevoked {
		t.Errorf("the desk is in state %d, want revoked", s)
	}
	if _, s := l.Device(newMachine(1).Device); s != 0 {
		t.Errorf("a stranger is in state %d", s)
	}
	if k, gen := l.AccountKey(); gen != 1 || k != owner.AccountKey(1).Public() {
		t.Errorf("account key is %v, generation %d", k, gen)
	}
	if c, ok := l.ByHandshakeKey(phone.cert.HandshakeKey); !ok || c != phone.cert {
		t.Error("the phone is not found by its handshake key")
	}
	if _, ok := l.ByHandshakeKey(desk.cert.HandshakeKey); ok {
		t.Error("a revoked device is found by its handshake key")
	}
}

// An owner with nothing but the recovery words makes a new device, rotates the key and
// shuts the lost one out.
func TestOwnerWithPaperAlone(t *testing.T) {
	seed, err := ParseWords(owner.Words())
	if err != nil {
		t.Fatal(err)
	}
	fresh := newMachine(0x44)
	l := must(newLog().AddDevice(seed.AccountKey(0), fresh.Actor, fresh.cert))
	l = must(l.RotateKey(seed, fresh.Actor))
	l = must(l.RevokeDevice(seed.AccountKey(1), fresh.Actor, desk.Device))
	if a := l.Active(); len(a) != 1 || a[0] != fresh.cert {
		t.Errorf("active are %v, want the new device alone", a)
	}
}

func TestUnknownTypesAreKept(t *testing.T) {
	l := newLog()
	e := made(l, owner.AccountKey(0), desk.Actor, func(e *Entry) { e.Type, e.Body = 200, []byte("later") })
	next, err := l.Extend(e)
	if err != nil || next.Len() != 2 || len(next.Active()) != 1 {
		t.Errorf("an entry of an unknown type: %v", err)
	}
}

func TestExtendLeavesTheLogAsItWas(t *testing.T) {
	l := must(newLog().AddDevice(owner.AccountKey(0), desk.Actor, laptop.cert))
	before := l.Append(nil)
	a := must(l.SuspendDevice(desk.Actor, laptop.Device))
	b := must(l.AddDevice(owner.AccountKey(0), desk.Actor, phone.cert))
	if _, err := l.AddDevice(owner.AccountKey(1), desk.Actor, phone.cert); !errors.Is(err, ErrInvalid) {
		t.Errorf("an addition by a wrong key: %v", err)
	}
	if !bytes.Equal(l.Append(nil), before) || len(l.Active()) != 2 || len(a.Active()) != 1 || len(b.Active()) != 3 {
		t.Error("a log changes with what is made from it")
	}
	if a.Entry(2).Type != RevokeDevice || b.Entry(2).Type != AddDevice {
		t.Error("two extensions share their last entry")
	}
}

func TestCompare(t *testing.T) {
	l, k0 := must(newLog().AddDevice(owner.AccountKey(0), desk.Actor, laptop.cert)), owner.AccountKey(0)
	one := must(l.AddDevice(k0, desk.Actor, phone.cert))
	two := must(l.SuspendDevice(desk.Actor, laptop.Device))
	rotated := must(must(l.SuspendDevice(laptop.Actor, desk.Device)).RotateKey(owner, laptop.Actor))
	late := must(two.AddDevice(k0, desk.Actor, phone.cert))
	again := must(rotated.RotateKey(owner, laptop.Actor))
	other := must(NewLog(SeedFromBytes(fill(0x12)), phone.cert, phone.Key, [16]byte{}))
	for _, tt := range []struct {
		name string
		a, b *Log
		want Relation
		back Relation
	}{
		{"a log and itself", one, one, Same, Same},
		{"a log and its beginning", one, l, Longer, Shorter},
		{"two at one seq", one, two, Forked, Forked},
		{"two of different length", one, late, Forked, Forked},
		{"rotated after the branch", rotated, one, Wins, Loses},
		{"rotated, against a longer branch of the stolen key", rotated, late, Wins, Loses},
		{"rotated twice", again, one, Wins, Loses},
		{"two accounts", one, other, Unrelated, Unrelated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.Compare(tt.b); got != tt.want {
				t.Errorf("Compare = %d, want %d", got, tt.want)
			}
			if got := tt.b.Compare(tt.a); got != tt.back {
				t.Errorf("Compare the other way = %d, want %d", got, tt.back)
			}
		})
	}
	if got, err := one.Update(rotated); err != nil || got != rotated {
		t.Errorf("Update with a rotated log: %v", err)
	}
	if got, err := rotated.Update(one); err != nil || got != rotated {
		t.Errorf("Update of a rotated log: %v", err)
	}
	if _, err := one.Update(two); !errors.Is(err, ErrFork) || !strings.Contains(err.Error(), "entries 2") {
		t.Errorf("Update with a fork: %v, want ErrFork at 2", err)
	}
	if _, err := one.Update(other); !errors.Is(err, ErrInvalid) {
		t.Errorf("Update with another account: %v", err)
	}
	if !one.Contains(l.Head()) || l.Contains(one.Head()) || one.Contains(two.Head()) {
		t.Error("Contains is wrong about heads")
	}
}

// A stolen account key adds devices, and that is all: the next key is not its to name.
func TestThiefOfTheAccountKeyCannotRotate(t *testing.T) {
	l, thief := newLog(), SeedFromBytes(fill(0x99))
	mine := newMachine(0x66)
	branch := must(l.AddDevice(owner.AccountKey(0), mine.Actor, mine.cert)) // the stolen key
	if _, err := branch.RotateKey(thief, mine.Actor); !errors.Is(err, ErrInvalid) {
		t.Errorf("a thief rotated the key: %v", err)
	}
	healed := must(must(l.RotateKey(owner, desk.Actor)).AddDevice(owner.AccountKey(1), desk.Actor, laptop.cert))
	if got := branch.Compare(healed); got != Loses {
		t.Errorf("the thief's branch against the owner's: %d, want Loses", got)
	}
}

func TestLogIsBounded(t *testing.T) {
	l := newLog()
	for l.Len() < MaxEntries {
		// Signatures of its own making are not looked at, to save the time.
		e := made(l, owner.AccountKey(0), desk.Actor, func(e *Entry) { e.Type, e.Body = 200, nil })
		if err := l.apply(e, false); err != nil {
			t.Fatal(err)
		}
	}
	b := l.Append(nil)
	e := made(l, owner.AccountKey(0), desk.Actor, func(e *Entry) { e.Type, e.Body = 200, nil })
	if _, err := l.Extend(e); !errors.Is(err, ErrInvalid) {
		t.Errorf("entry 1024: %v, want ErrInvalid", err)
	}
	if _, err := ParseLog(e.Append(b)); !errors.Is(err, codec.ErrMalformed) {
		t.Errorf("a log of 1025 entries: %v, want ErrMalformed", err)
	}
}

func TestCredentialsOfAHistory(t *testing.T) {
	for seq := range history().Len() {
		l := history().At(uint32(seq))
		for _, m := range []machine{desk, laptop, phone} {
			c, err := l.Credential(m.Device)
			if _, state := l.Device(m.Device); state != DeviceActive {
				if !errors.Is(err, ErrUnknownDevice) {
					t.Errorf("entry %d: credential of an inactive device: %v", seq, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			back := must(ParseCredential(c.Append(nil)))
			if cert, err := back.Verify(); err != nil || cert != m.cert || !l.Contains(back.Head) {
				t.Errorf("entry %d: credential: %v, %v", seq, cert, err)
			}
		}
	}
	big := make([]byte, MaxCredential+1)
	if _, err := ParseCredential(big); !errors.Is(err, codec.ErrMalformed) {
		t.Errorf("a credential of 16 KiB and a byte: %v", err)
	}
}

func TestDeviceSetOfAnOlderHead(t *testing.T) {
	l := history()
	s := must(l.At(3).DeviceSet(laptop.Actor))
	if err := s.Verify(l); err != nil {
		t.Errorf("a set of an older head, by the log of today: %v", err)
	}
	if _, err := l.DeviceSet(desk.Actor); !errors.Is(err, ErrUnknownDevice) {
		t.Errorf("a set by a revoked device: %v", err)
	}
}

func TestIDText(t *testing.T) {
	id, d := newLog().ID(), desk.Device
	if got, err := ParseAccountID(strings.ToUpper(id.String())); err != nil || got != id {
		t.Errorf("ParseAccountID = %v, %v", got, err)
	}
	if got, err := ParseDeviceID(d.String()); err != nil || got != d {
		t.Errorf("ParseDeviceID = %v, %v", got, err)
	}
	for _, s := range []string{"", "a", id.String()[1:], id.String() + "a", d.String(), strings.Repeat("1", 52), id.String()[:51] + "z"} {
		if _, err := ParseAccountID(s); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("ParseAccountID(%q) = %v, want ErrMalformed", s, err)
		}
	}
	if len(id.Short()) != 8 || len(d.Short()) != 8 {
		t.Error("a short form has not 8 letters")
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "account", id, "device", d)
	if strings.Contains(out.String(), id.String()[:5]) || strings.Contains(out.String(), d.String()[:5]) {
		t.Errorf("a log shows more than 4 letters of an id: %s", out.Bytes())
	}
	b := must(json.Marshal(map[string]any{"a": id, "d": d}))
	var back struct {
		A AccountID
		D DeviceID
	}
	if err := json.Unmarshal(b, &back); err != nil || back.A != id || back.D != d {
		t.Errorf("JSON: %s, %v", b, err)
	}
}

func TestSafetyNumber(t *testing.T) {
	a, b := newLog(), must(NewLog(SeedFromBytes(fill(0x12)), phone.cert, phone.Key, [16]byte{}))
	rotated := must(a.RotateKey(owner, desk.Actor))
	type side struct {
		Account string `json:"account_id"`
		Key     string `json:"account_key"`
	}
	party := func(l *Log) side {
		id, k := l.ID(), l.Party().Key
		return side{hex.EncodeToString(id[:]), hex.EncodeToString(k.Bytes())}
	}
	n := SafetyNumber(a.Party(), b.Party())
	checkVectors(t, "safety.json", []struct {
		A      side   `json:"a"`
		B      side   `json:"b"`
		Number string `json:"number"`
	}{{party(a), party(b), n}, {party(rotated), party(b), SafetyNumber(rotated.Party(), b.Party())}})

	if len(n) != SafetyDigits || strings.Trim(n, "0123456789") != "" {
		t.Errorf("%q is not 60 digits", n)
	}
	if SafetyNumber(b.Party(), a.Party()) != n {
		t.Error("the two sides see different numbers")
	}
	if SafetyNumber(must(a.AddDevice(owner.AccountKey(0), desk.Actor, laptop.cert)).Party(), b.Party()) != n {
		t.Error("a new device changes the number")
	}
	if SafetyNumber(rotated.Party(), b.Party()) == n {
		t.Error("a new account key does not change the number")
	}
}

func TestSafetyCode(t *testing.T) {
	a, b := newLog(), must(NewLog(SeedFromBytes(fill(0x12)), phone.cert, phone.Key, [16]byte{}))
	code := NewSafetyCode(a, b)
	text := code.Text()
	checkVectors(t, "safetycode.json", []struct {
		Mine   string `json:"mine"`
		Theirs string `json:"theirs"`
		Text   string `json:"text"`
	}{{hex.EncodeToString(a.Append(nil)), hex.EncodeToString(b.Append(nil)), text}})
	got, err := ParseSafetyCode(" " + text + "\n")
	if err != nil || got.Text() != text {
		t.Fatalf("ParseSafetyCode = %v, %v", got, err)
	}

	longer := must(a.AddDevice(owner.AccountKey(0), desk.Actor, laptop.cert))
	branch := must(a.SuspendDevice(desk.Actor, desk.Device))
	rotated := must(a.RotateKey(owner, desk.Actor))
	for _, tt := range []struct {
		name         string
		shown        SafetyCode
		mine, theirs *Log
		want         error
	}{
		{"the same on both sides", code, b, a, nil},
		{"the reader knows more", code, b, longer, nil},
		{"the reader knows less", NewSafetyCode(longer, b), b, a, nil},
		{"the shower knows less of the reader", NewSafetyCode(b, a), longer, b, nil},
		{"one's own code", code, a, b, ErrOthersCode},
		{"a third person's", NewSafetyCode(a, a), b, a, ErrOthersCode},
		{"another branch of theirs", NewSafetyCode(longer, b), b, branch, ErrLogsDiffer},
		{"another branch of the reader's", NewSafetyCode(b, branch), longer, b, ErrLogsDiffer},
		{"another account key", NewSafetyCode(rotated, b), b, a, ErrKeysDiffer},
		{"an account key that the shower has not heard of", NewSafetyCode(b, a), rotated, b, ErrKeysDiffer},
	} {
		if err := tt.shown.Check(tt.mine, tt.theirs); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}

	newer := []byte{2, 0}
	for text, want := range map[string]error{
		"":                          ErrNotSafetyCode,
		"sotto:i#AAAA":              ErrNotSafetyCode,
		"sotto:v#":                  ErrCodeDamaged,
		text[:50]:                   ErrCodeDamaged,
		text[:60] + "x" + text[61:]: ErrCodeDamaged,
		text + "A":                  ErrCodeDamaged,
		safetyPrefix + base64.RawURLEncoding.EncodeToString(append(newer, codeChecksum(newer)...)): ErrCodeNewer,
	} {
		if _, err := ParseSafetyCode(text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

func FuzzParseSafetyCode(f *testing.F) {
	f.Add(NewSafetyCode(newLog(), newLog()).Text())
	f.Add("sotto:v#AQ")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseSafetyCode(text)
		if err == nil && c.Text() != strings.TrimSpace(text) {
			t.Errorf("%q has two forms", text)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	for i := range history().entries {
		f.Add(history().entries[i].Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEntry(b); err == nil && !bytes.Equal(e.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add(newLog().Append(nil))
	f.Add(history().Append(nil))
	for _, b := range badLogs(history()) {
		f.Add(must(hex.DecodeString(b.Bytes)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLog(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
		for _, c := range l.Active() {
			if cred, err := l.Credential(c.Device); err != nil {
				t.Error(err)
			} else if got, err := cred.Verify(); err != nil || got != c {
				t.Errorf("the credential of a valid log: %v", err)
			}
		}
	})
}

func FuzzParseCredential(f *testing.F) {
	f.Add(must(history().Credential(phone.Device)).Append(nil))
	for _, b := range badCredentials(history()) {
		f.Add(must(hex.DecodeString(b.Bytes)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCredential(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
		c.Verify()
	})
}

func FuzzParseDeviceSet(f *testing.F) {
	l := history()
	f.Add(must(l.DeviceSet(phone.Actor)).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseDeviceSet(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
		s.Verify(l)
	})
}

func FuzzParseInboxRef(f *testing.F) {
	f.Add(sampleInbox().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ref, err := ParseInboxRef(b); err == nil && !bytes.Equal(ref.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}
