package handshake

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

// This file links a device (spec/link.md): the same handshake as between two people, and
// behind it three messages more. Who stands between the two devices can be noticed by six
// digits, which it cannot choose: the new device commits to its random number before it
// learns the other's.

// The numbers of the messages behind the handshake. Odd ones are the new device's.
const (
	numberReveal uint8 = 3
	numberGrant  uint8 = 4
	numberReady  uint8 = 5
)

// ErrMismatch is wrapped when a random number is not the one that was committed to:
// somebody stands between the two devices.
var ErrMismatch = errors.New("the new device shows another number than it has committed to")

// DeviceRequest is what a new device says of itself.
type DeviceRequest struct {
	Cert  identity.DeviceCert
	Inbox identity.InboxRef // of the device
	Name  string            // what its user calls it
}

func (m *DeviceRequest) encode(commitment [32]byte) []byte {
	b := append(codec.AppendU16(nil, messageVersion), commitment[:]...)
	return codec.AppendVec(m.Inbox.Append(m.Cert.Append(b)), m.Name)
}

func parseDeviceRequest(raw []byte, from key.NoisePublic) (m *DeviceRequest, commitment [32]byte, err error) {
	r := codec.NewReader(bytes.Clone(raw))
	readVersion(r)
	r.Copy(commitment[:])
	m = &DeviceRequest{Cert: identity.ReadDeviceCert(r), Inbox: identity.ReadInboxRef(r), Name: string(r.Vec(maxName))}
	if err = r.Done(); err == nil {
		err = identity.CheckName(m.Name)
	}
	switch {
	case err != nil:
	case m.Cert.HandshakeKey != from:
		err = errors.New("its handshake key is another than its certificate's")
	case !m.Inbox.BelongsTo(m.Cert):
		err = errors.New("its inbox is another device's")
	}
	if err != nil {
		return nil, commitment, fmt.Errorf("device request: %w", err)
	}
	return m, commitment, nil
}

func commit(random [32]byte) [32]byte {
	return sha256.Sum256(append([]byte("sotto/link commit/1"), random[:]...))
}

// digits is what both devices show: six digits out of the handshake's hash after message 1
// and what either side drew.
func digits(h []byte, theNew, existing [32]byte) string {
	b := append(append(append([]byte("sotto/link sas/1"), h...), theNew[:]...), existing[:]...)
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(sum[:])%1_000_000)
}

// Digits is how many of them there are.
const Digits = 6

// LinkBody is a letter of type link_message, taken apart.
type LinkBody struct {
	RequestHash [32]byte // which request it belongs to
	Number      uint8
	sealed      []byte
}

func (b *LinkBody) bound() []byte { return append(b.RequestHash[:], b.Number) }

func (b *LinkBody) encode() []byte { return codec.AppendVec(b.bound(), b.sealed) }

// ParseLinkBody reads the body of such a letter. It keeps parts of raw.
func ParseLinkBody(raw []byte) (*LinkBody, error) {
	r := codec.NewReader(raw)
	b := &LinkBody{}
	r.Copy(b.RequestHash[:])
	b.Number, b.sealed = r.U8(), r.Vec(maxNoise)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("link message: %w", err)
	}
	return b, nil
}

func sealBody(r run, request [32]byte, number uint8, payload []byte) ([]byte, error) {
	b := &LinkBody{RequestHash: request, Number: number}
	var err error
	if b.sealed, err = r.seal(number, b.bound(), payload); err != nil {
		return nil, err
	}
	return b.encode(), nil
}

func (b *LinkBody) open(r run, request [32]byte, number uint8) ([]byte, error) {
	if b.RequestHash != request || b.Number != number {
		return nil, errors.New("it belongs elsewhere")
	}
	return r.unseal(number, b.bound(), b.sealed)
}

// LinkingDevice is the existing device's side from the request on. It is stored in a vault
// and leads to the same messages each time.
type LinkingDevice struct {
	Request DeviceRequest
	Hash    [32]byte // names the request

	in         *Inviter
	body       *RequestBody
	seed       hidden   // 32 bytes, of the ephemeral key
	random     [32]byte // ours
	commitment [32]byte
	h          []byte // the handshake's hash after message 1
	run        run
	answer     []byte
}

// ReadDevice opens a request of a new device. A caller answers one request of a link.
func (in *Inviter) ReadDevice(b *RequestBody) (*LinkingDevice, error) {
	var seed, random [32]byte
	rand.Read(seed[:])
	rand.Read(random[:])
	d := &LinkingDevice{in: in, body: b, seed: hide(seed[:]), random: random}
	if err := d.begin(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return d, nil
}

// begin runs the handshake, always to the same bytes.
func (d *LinkingDevice) begin() error {
	run, _, payload, from, err := d.in.open(Device, d.body, bytes.NewReader(d.seed()))
	if err != nil {
		return err
	}
	m, commitment, err := parseDeviceRequest(payload, from)
	if err != nil {
		return err
	}
	d.Request, d.Hash, d.commitment, d.run, d.h = *m, d.body.Hash(), commitment, run, run.hash()
	second, err := run.write(append(codec.AppendU16(nil, messageVersion), d.random[:]...))
	d.answer = (&AcceptBody{d.Hash, second}).encode()
	return err
}

// Answer is the body of a letter of type link_answer.
func (d *LinkingDevice) Answer() []byte { return d.answer }

// Reveal reads the message with the new device's random number, and returns the digits to
// compare. Its error wraps [ErrHandshake], and [ErrMismatch] if the number is another than
// was committed to.
func (d *LinkingDevice) Reveal(b *LinkBody) (string, error) {
	payload, err := b.open(d.run, d.Hash, numberReveal)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	random, err := parseRandom(payload)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	if c := commit(random); subtle.ConstantTimeCompare(c[:], d.commitment[:]) != 1 {
		return "", fmt.Errorf("%w: %w", ErrHandshake, ErrMismatch)
	}
	return digits(d.h, random, d.random), nil
}

func parseRandom(payload []byte) (random [32]byte, err error) {
	r := codec.NewReader(payload)
	readVersion(r)
	r.Copy(random[:])
	return random, r.Done()
}

// Grant seals what makes the new device one of the account, or says why it is not. It is
// called once: the message must never have two contents.
func (d *LinkingDevice) Grant(payload []byte) ([]byte, error) {
	return sealBody(d.run, d.Hash, numberGrant, payload)
}

// Ready opens what the new device has sent once it is one of the account.
func (d *LinkingDevice) Ready(b *LinkBody) ([]byte, error) {
	payload, err := b.open(d.run, d.Hash, numberReady)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return payload, nil
}

// Append appends the state with its secrets.
func (d *LinkingDevice) Append(b []byte) []byte {
	b = codec.AppendVec(append(b, stateVersion), d.in.Append(nil))
	b = codec.AppendVec(b, d.body.encode())
	return append(append(b, d.seed()...), d.random[:]...)
}

// ParseLinkingDevice reads what Append wrote. Its error wraps [ErrState].
func ParseLinkingDevice(b []byte) (*LinkingDevice, error) {
	fail := func(err error) (*LinkingDevice, error) {
		return nil, fmt.Errorf("%w: a device link: %w", ErrState, err)
	}
	r := codec.NewReader(bytes.Clone(b))
	readStateVersion(r)
	in, body := r.Vec(maxPayload), r.Vec(2*maxNoise)
	d := &LinkingDevice{seed: hide(r.Bytes(32))}
	r.Copy(d.random[:])
	err := r.Done()
	if err != nil {
		return fail(err)
	}
	if d.in, err = ParseInviter(in); err != nil {
		return fail(err)
	}
	if d.body, err = ParseRequestBody(body); err != nil {
		return fail(err)
	}
	if err := d.begin(); err != nil {
		return fail(err)
	}
	return d, nil
}

// NewDevice is the new device's side. Like [Invitee] it keeps what leads to the same
// messages each time.
type NewDevice struct {
	invitee Invitee
	random  [32]byte
	answer  *AcceptBody // once it is there
	theirs  [32]byte    // random number in it
	run     run
	h       []byte
}

// BeginDevice makes a request to the existing device of an offer, from the new device that
// has the handshake key static. It returns the body of a letter of type link_request and
// the state to keep.
func BeginDevice(l Link, o *Offer, static key.NoiseSecret, m DeviceRequest) ([]byte, *NewDevice, error) {
	fail := func(err error) ([]byte, *NewDevice, error) {
		return nil, nil, fmt.Errorf("make device request: %w", err)
	}
	ses, err := newSession(Device, l, o)
	if err != nil {
		return fail(err)
	}
	d := &NewDevice{}
	var seed [32]byte
	rand.Read(d.random[:])
	rand.Read(seed[:])
	d.invitee = Invitee{session: ses, peer: o.Handshake, static: static,
		seed: hide(seed[:]), payload: hide(m.encode(commit(d.random)))}
	first, err := d.begin()
	if err != nil {
		return fail(err)
	}
	return (&RequestBody{ses.offerHash, ses.enc, first}).encode(), d, nil
}

func (d *NewDevice) begin() ([]byte, error) {
	if _, _, err := parseDeviceRequest(d.invitee.payload(), d.invitee.static.Public()); err != nil {
		return nil, err // what we could not read nobody can
	}
	first, run, err := d.invitee.message1()
	if err != nil {
		return nil, err
	}
	d.invitee.hash, d.run, d.h = sha256.Sum256(first), run, run.hash()
	return first, nil
}

// RequestHash names the request, as answers do.
func (d *NewDevice) RequestHash() [32]byte { return d.invitee.hash }

// Answered reports whether an answer has been read.
func (d *NewDevice) Answered() bool { return d.answer != nil }

// Answer reads the existing device's answer and returns the digits to compare and the body
// of the next letter, of type link_message. An answer that does not hold leaves the true
// one to come; of those that hold the first counts.
func (d *NewDevice) Answer(b *AcceptBody) (sas string, reveal []byte, err error) {
	fail := func(err error) (string, []byte, error) {
		return "", nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	if d.answer != nil {
		return fail(errors.New("it has been answered"))
	}
	if b.RequestHash != d.invitee.hash {
		return fail(errors.New("it answers another request"))
	}
	if err := d.read(b); err != nil {
		_, again := d.begin() // a run is of no use after an error
		return fail(errors.Join(err, again))
	}
	reveal, err = sealBody(d.run, d.invitee.hash, numberReveal, append(codec.AppendU16(nil, messageVersion), d.random[:]...))
	if err != nil {
		return fail(err)
	}
	return d.SAS(), reveal, nil
}

func (d *NewDevice) read(b *AcceptBody) error {
	payload, err := d.run.read(b.noise)
	if err != nil {
		return err
	}
	if d.theirs, err = parseRandom(payload); err != nil {
		return err
	}
	d.answer = b
	return nil
}

// SAS returns the digits to compare, once there is an answer.
func (d *NewDevice) SAS() string { return digits(d.h, d.random, d.theirs) }

// Grant opens what the existing device has decided, once there is an answer.
func (d *NewDevice) Grant(b *LinkBody) ([]byte, error) {
	payload, err := b.open(d.run, d.invitee.hash, numberGrant)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return payload, nil
}

// Ready seals what makes the existing device bring this one into the account's
// conversations. It is called once.
func (d *NewDevice) Ready(payload []byte) ([]byte, error) {
	return sealBody(d.run, d.invitee.hash, numberReady, payload)
}

// Append appends the state with its secrets.
func (d *NewDevice) Append(b []byte) []byte {
	e := &d.invitee
	s, salt := &e.session, e.session.salt.reveal()
	b = append(append(append(b, stateVersion), s.offerHash[:]...), s.enc...)
	b = append(append(b, s.ss()...), salt[:]...)
	b = append(append(e.peer.Append(b), e.static.Seed()...), e.seed()...)
	b = codec.AppendVec(append(b, d.random[:]...), e.payload())
	var answer []byte
	if d.answer != nil {
		answer = d.answer.encode()
	}
	return codec.AppendVec(b, answer)
}

// ParseNewDevice reads what Append wrote. Its error wraps [ErrState].
func ParseNewDevice(b []byte) (*NewDevice, error) {
	fail := func(err error) (*NewDevice, error) { return nil, fmt.Errorf("%w: a device link: %w", ErrState, err) }
	r := codec.NewReader(bytes.Clone(b))
	readStateVersion(r)
	d := &NewDevice{}
	e := &d.invitee
	e.session.mode = Device
	r.Copy(e.session.offerHash[:])
	e.session.enc, e.session.ss = r.Bytes(encSize), hide(r.Bytes(32))
	var salt [32]byte
	r.Copy(salt[:])
	peer, static := r.Bytes(key.Size), r.Bytes(key.Size)
	e.seed = hide(r.Bytes(32))
	r.Copy(d.random[:])
	e.payload = hide(r.Vec(maxPayload))
	answer := r.Vec(2 * maxNoise)
	err := r.Done()
	if err != nil {
		return fail(err)
	}
	e.session.salt, e.static = newSecret(salt), key.NoiseFromSeed(static)
	if e.peer, err = key.ParseNoise(peer); err != nil {
		return fail(err)
	}
	if _, err := d.begin(); err != nil {
		return fail(err)
	}
	if len(answer) > 0 {
		body, err := ParseAcceptBody(answer)
		if err == nil {
			err = d.read(body)
		}
		if err != nil {
			return fail(err)
		}
	}
	return d, nil
}

func (d *LinkingDevice) String() string { return "a device link" }
func (d *NewDevice) String() string     { return "a device link" }

// Format implements [fmt.Formatter]: every verb prints String.
func (d *LinkingDevice) Format(w fmt.State, verb rune) { io.WriteString(w, d.String()) }

// Format implements [fmt.Formatter]: every verb prints String.
func (d *NewDevice) Format(w fmt.State, verb rune) { io.WriteString(w, d.String()) }
