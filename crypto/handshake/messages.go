package handshake

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

const (
	messageVersion = 1
	encSize        = 1120
	maxPackages    = 32
	maxGreeting    = 280                       // characters
	maxName        = 4 * identity.MaxName      // bytes
	maxGreetingLen = utf8.UTFMax * maxGreeting // bytes
)

// ContactRequest is what the invitee says of itself.
type ContactRequest struct {
	Log         *identity.Log
	Devices     identity.DeviceSet // at the log's end
	KeyPackages [][]byte           // one MLS key package: of the device that asks, which adds the others itself
	Inbox       identity.InboxRef  // of the device that asks: where the answer goes
	Name        string             // profile name
	Greeting    string             // at most 280 characters; may be empty
}

func (m *ContactRequest) encode(random [32]byte) []byte {
	b := codec.AppendU16(nil, messageVersion)
	b = codec.AppendVec(b, m.Log.Append(nil))
	b = m.Devices.Append(b)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, kp := range m.KeyPackages {
			b = codec.AppendVec(b, kp)
		}
		return b
	})
	b = m.Inbox.Append(append(b, random[:]...))
	return codec.AppendVec(codec.AppendVec(b, m.Name), m.Greeting)
}

// parseRequest reads what a device with that handshake key has said.
func parseRequest(raw []byte, from key.NoisePublic) (m *ContactRequest, random [32]byte, err error) {
	m, random, err = readRequest(raw)
	if err == nil {
		err = m.check(from)
	}
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("contact request: %w", err)
	}
	return m, random, nil
}

func readRequest(raw []byte) (m *ContactRequest, random [32]byte, err error) {
	r := codec.NewReader(bytes.Clone(raw))
	readVersion(r)
	m = &ContactRequest{}
	log := r.Vec(maxPayload)
	m.Devices = identity.ReadDeviceSet(r)
	r.Each(maxPayload, func(r *codec.Reader) {
		if len(m.KeyPackages) == maxPackages {
			r.Fail("more than %d key packages", maxPackages)
			return
		}
		m.KeyPackages = append(m.KeyPackages, r.Vec(maxPayload))
	})
	r.Copy(random[:])
	m.Inbox = identity.ReadInboxRef(r)
	m.Name, m.Greeting = string(r.Vec(maxName)), string(r.Vec(maxGreetingLen))
	if err := r.Done(); err != nil {
		return nil, random, err
	}
	m.Log, err = identity.ParseLog(log)
	return m, random, err
}

func (m *ContactRequest) check(from key.NoisePublic) error {
	if err := m.Devices.Verify(m.Log); err != nil {
		return err
	}
	if err := identity.CheckName(m.Name); err != nil {
		return err
	}
	device, ok := m.Log.ByHandshakeKey(from)
	switch {
	case m.Devices.Head != m.Log.Head():
		return errors.New("its device set is older than its log")
	case !ok:
		return errors.New("its handshake key is no device's of the account")
	case !m.Inbox.BelongsTo(device):
		return errors.New("its inbox is another device's")
	case len(m.KeyPackages) != 1:
		return fmt.Errorf("%d key packages, want one", len(m.KeyPackages))
	}
	return checkGreeting(m.Greeting)
}

func checkGreeting(s string) error {
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxGreeting {
		return fmt.Errorf("its greeting is not text of at most %d characters", maxGreeting)
	}
	for _, c := range s {
		if unicode.IsControl(c) && c != '\n' {
			return fmt.Errorf("its greeting holds the control character %U", c)
		}
	}
	return nil
}

func readVersion(r *codec.Reader) {
	if v := r.U16(); r.Err() == nil && v != messageVersion {
		r.Fail("version %d", v)
	}
}

// ContactAccept is the inviter's answer.
type ContactAccept struct {
	Welcome []byte // an MLS Welcome
	Name    string // profile name
}

func (m *ContactAccept) encode(random [32]byte) []byte {
	b := append(codec.AppendU16(nil, messageVersion), random[:]...)
	return codec.AppendVec(codec.AppendVec(b, m.Welcome), m.Name)
}

func parseAccept(raw []byte) (m *ContactAccept, random [32]byte, err error) {
	r := codec.NewReader(bytes.Clone(raw))
	readVersion(r)
	r.Copy(random[:])
	m = &ContactAccept{Welcome: r.Vec(maxPayload), Name: string(r.Vec(maxName))}
	if err = r.Done(); err == nil {
		err = identity.CheckName(m.Name)
	}
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("contact accept: %w", err)
	}
	return m, random, nil
}

// RequestBody is a letter of type contact_request, taken apart.
type RequestBody struct {
	OfferHash [32]byte // which offer it answers
	enc       []byte
	noise     []byte // message 1
}

// Hash names the request: of two with one hash the second is a repeat.
func (b *RequestBody) Hash() [32]byte { return sha256.Sum256(b.noise) }

func (b *RequestBody) encode() []byte {
	return codec.AppendVec(append(append([]byte(nil), b.OfferHash[:]...), b.enc...), b.noise)
}

// ParseRequestBody reads the body of such a letter. It keeps parts of raw.
func ParseRequestBody(raw []byte) (*RequestBody, error) {
	r := codec.NewReader(raw)
	b := &RequestBody{}
	r.Copy(b.OfferHash[:])
	b.enc, b.noise = r.Bytes(encSize), r.Vec(maxNoise)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("contact request: %w", err)
	}
	return b, nil
}

// AcceptBody is a letter of type contact_accept, taken apart.
type AcceptBody struct {
	RequestHash [32]byte // which request it answers
	noise       []byte   // message 2
}

func (b *AcceptBody) encode() []byte {
	return codec.AppendVec(append([]byte(nil), b.RequestHash[:]...), b.noise)
}

// ParseAcceptBody reads the body of such a letter. It keeps parts of raw.
func ParseAcceptBody(raw []byte) (*AcceptBody, error) {
	r := codec.NewReader(raw)
	b := &AcceptBody{}
	r.Copy(b.RequestHash[:])
	b.noise = r.Vec(maxNoise)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("contact accept: %w", err)
	}
	return b, nil
}
