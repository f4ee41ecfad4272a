package handshake

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/flynn/noise"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

// ErrHandshake is wrapped when a message of the handshake does not hold: it was
// changed on the way, or is for another handshake.
var ErrHandshake = errors.New("the handshake does not hold")

const (
	encSize        = 1120
	maxPayload     = 40 << 10
	maxNoise       = maxPayload + 256
	messageVersion = 1
	maxGreeting    = 280 * 4
	maxPackages    = 32
)

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// session is one handshake's pre-shared key and prologue.
type session struct {
	mode      uint8
	offerHash [32]byte
	enc       []byte // 1120 bytes
	ss        []byte // 32 bytes
	salt      [32]byte
}

func (s *session) bound() []byte {
	return append(append([]byte{s.mode}, s.offerHash[:]...), s.enc...)
}

// config makes the configuration of one side. flynn/noise would run without a
// pre-shared key where it is empty: it is checked here.
func (s *session) config(initiator bool, static key.NoiseSecret, random io.Reader) (noise.Config, error) {
	psk, err := hkdf.Key(sha512.New384, s.ss, s.salt[:], "sotto/psk/1"+string(s.bound()), 32)
	if err != nil {
		return noise.Config{}, err
	}
	return makeConfig(initiator, static, random, psk, append([]byte("sotto/contact/1"), s.bound()...))
}

func makeConfig(initiator bool, static key.NoiseSecret, random io.Reader, psk, prologue []byte) (noise.Config, error) {
	if len(psk) != 32 || bytes.Equal(psk, make([]byte, 32)) {
		return noise.Config{}, errors.New("handshake without a pre-shared key")
	}
	return noise.Config{CipherSuite: suite, Random: random, Pattern: noise.HandshakeIK, Initiator: initiator, Prologue: prologue,
		PresharedKey: psk, PresharedKeyPlacement: 0,
		StaticKeypair: noise.DHKey{Private: static.Seed(), Public: static.Public().Bytes()}}, nil
}

func kemInfo(offerHash [32]byte) []byte { return append([]byte("sotto/kem/1"), offerHash[:]...) }

const kemExport = "sotto/contact/1"

// Secrets is what a handshake gives to the group that comes of it.
type Secrets struct {
	PSKID   []byte
	PSK     []byte // 48 bytes
	Binding [32]byte
}

func (s Secrets) String() string { return "a handshake's secrets" }

// Format implements [fmt.Formatter]: every verb prints String.
func (s Secrets) Format(w fmt.State, verb rune) { io.WriteString(w, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Secrets) LogValue() slog.Value { return slog.StringValue(s.String()) }

func (s *session) secrets(h []byte, invitee, inviter [32]byte) (Secrets, error) {
	ikm := append(append(append([]byte(nil), invitee[:]...), inviter[:]...), s.ss...)
	psk, err := hkdf.Key(sha512.New384, ikm, h, "sotto/contact-psk/1", 48)
	if err != nil {
		return Secrets{}, err
	}
	id := sha256.Sum256(h)
	return Secrets{PSKID: append([]byte("sotto/contact"), id[:]...), PSK: psk, Binding: sha256.Sum256(append([]byte("sotto/bind"), h...))}, nil
}

// ContactRequest is what the invitee says of itself.
type ContactRequest struct {
	Log         *identity.Log
	Devices     identity.DeviceSet
	KeyPackages [][]byte // MLS key packages, one of each device, in the set's order
	Random      [32]byte
	Inbox       identity.InboxRef // where the answer goes
	Name        string
	Greeting    string
}

func (m *ContactRequest) encode() []byte {
	b := codec.AppendU16(nil, messageVersion)
	b = codec.AppendVec(b, m.Log.Append(nil))
	b = m.Devices.Append(b)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, kp := range m.KeyPackages {
			b = codec.AppendVec(b, kp)
		}
		return b
	})
	b = m.Inbox.Append(append(b, m.Random[:]...))
	return codec.AppendVec(codec.AppendVec(b, m.Name), m.Greeting)
}

func parseRequest(raw []byte) (*ContactRequest, error) {
	r := codec.NewReader(bytes.Clone(raw))
	if v := r.U16(); r.Err() == nil && v != messageVersion {
		r.Fail("a request of version %d", v)
	}
	m := &ContactRequest{}
	log := r.Vec(maxPayload)
	m.Devices = identity.ReadDeviceSet(r)
	r.Each(maxPayload, func(r *codec.Reader) {
		if len(m.KeyPackages) == maxPackages {
			r.Fail("more than %d key packages", maxPackages)
			return
		}
		m.KeyPackages = append(m.KeyPackages, r.Vec(maxPayload))
	})
	r.Copy(m.Random[:])
	m.Inbox = identity.ReadInboxRef(r)
	m.Name, m.Greeting = string(r.Vec(maxName)), string(r.Vec(maxGreeting))
	if err := r.Done(); err != nil {
		return nil, err
	}
	var err error
	if m.Log, err = identity.ParseLog(log); err != nil {
		return nil, err
	}
	if err := m.Devices.Verify(m.Log); err != nil {
		return nil, err
	}
	if err := identity.CheckName(m.Name); err != nil {
		return nil, err
	}
	if len(m.KeyPackages) != len(m.Devices.Devices) {
		return nil, fmt.Errorf("%d key packages of %d devices", len(m.KeyPackages), len(m.Devices.Devices))
	}
	return m, nil
}

// ContactAccept is the inviter's answer.
type ContactAccept struct {
	Random  [32]byte
	Welcome []byte // an MLS Welcome
	Name    string
}

func (m *ContactAccept) encode() []byte {
	b := append(codec.AppendU16(nil, messageVersion), m.Random[:]...)
	return codec.AppendVec(codec.AppendVec(b, m.Welcome), m.Name)
}

func parseAccept(raw []byte) (*ContactAccept, error) {
	r := codec.NewReader(bytes.Clone(raw))
	if v := r.U16(); r.Err() == nil && v != messageVersion {
		r.Fail("an answer of version %d", v)
	}
	m := &ContactAccept{}
	r.Copy(m.Random[:])
	m.Welcome, m.Name = r.Vec(maxPayload), string(r.Vec(maxName))
	if err := r.Done(); err != nil {
		return nil, err
	}
	return m, identity.CheckName(m.Name)
}

// RequestBody is the body of an inbox entry of type contact_request, taken apart.
type RequestBody struct {
	OfferHash [32]byte
	enc       []byte
	noise     []byte
}

// Hash names the request: of two with one hash the second is a repeat.
func (b *RequestBody) Hash() [32]byte { return sha256.Sum256(b.noise) }

// ParseRequestBody reads it.
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

// ParseAcceptBody reads the body of an inbox entry of type contact_accept: which
// request it answers, and the Noise message.
func ParseAcceptBody(raw []byte) (request [32]byte, noise []byte, err error) {
	r := codec.NewReader(raw)
	r.Copy(request[:])
	noise = r.Vec(maxNoise)
	if err := r.Done(); err != nil {
		return request, nil, fmt.Errorf("contact accept: %w", err)
	}
	return request, noise, nil
}

// Inviter is the inviter's side until it has answered. It is stored in a vault and
// erased when it has done its work.
type Inviter struct {
	OfferHash [32]byte
	noise     key.NoiseSecret
	kem       key.SealingSecret
	salt      [32]byte
}

// InviteOptions says who invites.
type InviteOptions struct {
	Log     *identity.Log
	Actor   identity.Actor // this device
	Inbox   identity.InboxRef
	Ticket  []byte
	Name    string
	Expires uint32 // minute
	Relay   key.RelayPublic
	Hints   [][]byte // of the relay
	// SlotID names the slot of a read key at the relay (spec/relay.md, section 4).
	SlotID func(read key.CapabilityPublic) [32]byte
}

// NewInvite makes an invite: the link to hand over, the value of its slot, and the
// state to keep.
func NewInvite(o InviteOptions) (Link, []byte, *Inviter, error) {
	fail := func(err error) (Link, []byte, *Inviter, error) {
		return Link{}, nil, nil, fmt.Errorf("make invite: %w", err)
	}
	if err := identity.CheckName(o.Name); err != nil {
		return fail(err)
	}
	l := newLink(o.Expires, o.Relay, o.Hints)
	in := &Inviter{noise: key.NewNoise(), kem: key.NewSealing(), salt: l.Secret.reveal()}
	offer := &Offer{Expires: o.Expires, Log: o.Log, Device: o.Actor.Device, Handshake: in.noise.Public(), KEM: in.kem.Public(), Inbox: o.Inbox, Ticket: o.Ticket, Name: o.Name}
	b := offer.unsigned()
	raw := append(b, o.Actor.Key.Sign(offerLabel, b)...)
	offer, err := parseOffer(raw) // what we could not read nobody can
	if err != nil {
		return fail(err)
	}
	in.OfferHash = offer.Hash()
	sealed, err := offer.seal(l.Secret, o.SlotID(l.Secret.SlotRead().Public()))
	if err != nil {
		return fail(err)
	}
	return l, sealed, in, nil
}

const stateVersion = 1

// Append appends the state with its secrets.
func (in *Inviter) Append(b []byte) []byte {
	b = append(append(b, stateVersion), in.OfferHash[:]...)
	b = append(append(b, in.noise.Seed()...), in.kem.Seed()...)
	return append(b, in.salt[:]...)
}

// ParseInviter reads what Append wrote.
func ParseInviter(b []byte) (*Inviter, error) {
	r := codec.NewReader(b)
	if v := r.U8(); v != stateVersion {
		r.Fail("state of version %d", v)
	}
	in := &Inviter{}
	r.Copy(in.OfferHash[:])
	noise, kem := r.Bytes(key.Size), r.Bytes(key.Size)
	r.Copy(in.salt[:])
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("an invite's state: %w", err)
	}
	in.noise, in.kem = key.NoiseFromSeed(noise), key.SealingFromSeed(kem)
	return in, nil
}

// Request is a request that has been read.
type Request struct {
	ContactRequest
	Hash [32]byte

	session session
	state   *noise.HandshakeState
	h       []byte
}

// Read opens a request for this invite. Nothing has been answered yet: a request
// may be read as often as one likes.
func (in *Inviter) Read(b *RequestBody) (*Request, error) {
	bad := func(err error) (*Request, error) { return nil, fmt.Errorf("%w: %w", ErrHandshake, err) }
	if b.OfferHash != in.OfferHash {
		return bad(errors.New("it is for another invite"))
	}
	ctx, err := hpke.NewRecipient(b.enc, in.kem.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(in.OfferHash))
	if err != nil {
		return bad(err)
	}
	ss, err := ctx.Export(kemExport, 32)
	if err != nil {
		return bad(err)
	}
	q := &Request{Hash: b.Hash(), session: session{mode: modeOneTime, offerHash: in.OfferHash, enc: b.enc, ss: ss, salt: in.salt}}
	cfg, err := q.session.config(false, in.noise, rand.Reader)
	if err != nil {
		return bad(err)
	}
	if q.state, err = noise.NewHandshakeState(cfg); err != nil {
		return bad(err)
	}
	payload, _, _, err := q.state.ReadMessage(nil, b.noise)
	if err != nil {
		return bad(err)
	}
	q.h = bytes.Clone(q.state.ChannelBinding()) // an alias of what message 2 changes
	m, err := parseRequest(payload)
	if err != nil {
		return bad(err)
	}
	cert, ok := m.Log.ByHandshakeKey(mustNoise(q.state.PeerStatic()))
	if !ok {
		return bad(errors.New("its handshake key is no device's of the account"))
	}
	if !m.Inbox.BelongsTo(cert) {
		return bad(errors.New("its inbox is another device's"))
	}
	q.ContactRequest = *m
	return q, nil
}

func mustNoise(b []byte) key.NoisePublic {
	k, err := key.ParseNoise(b)
	if err != nil {
		panic("handshake: " + err.Error()) // unreachable: Noise keys have 32 bytes
	}
	return k
}

// Secrets gives what the group is made with; random is the inviter's, fresh, and the
// same that Accept gets.
func (q *Request) Secrets(random [32]byte) (Secrets, error) {
	return q.session.secrets(q.h, q.Random, random)
}

// Accept makes the answer. It must be called once: another answer to the same
// request would use one key for two messages. The caller stores what it returns.
func (q *Request) Accept(a ContactAccept) ([]byte, error) {
	if q.state == nil {
		return nil, errors.New("accept: the request has been answered")
	}
	payload := a.encode()
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("accept: %d bytes, at most %d", len(payload), maxPayload)
	}
	out, _, _, err := q.state.WriteMessage(nil, payload)
	q.state = nil
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return codec.AppendVec(append([]byte(nil), q.Hash[:]...), out), nil
}

// Invitee is the invitee's side from its request to the answer. It is stored in a
// vault: a Noise handshake cannot be, so it keeps what reproduces message 1 byte for
// byte, the ephemeral seed and the one payload that the seed is used with.
type Invitee struct {
	session session
	peer    key.NoisePublic // the offer's
	static  key.NoiseSecret
	seed    [32]byte // of the ephemeral key
	payload []byte
	random  [32]byte
	hash    [32]byte // of message 1
}

// Begin makes a request to the inviter of an offer. It returns the body of the inbox
// entry and the state to keep.
func Begin(l Link, o *Offer, static key.NoiseSecret, m ContactRequest) ([]byte, *Invitee, error) {
	fail := func(err error) ([]byte, *Invitee, error) {
		return nil, nil, fmt.Errorf("make contact request: %w", err)
	}
	e := &Invitee{session: session{mode: modeOneTime, offerHash: o.Hash(), salt: l.Secret.reveal()}, peer: o.Handshake, static: static}
	rand.Read(m.Random[:])
	rand.Read(e.seed[:])
	e.random, e.payload = m.Random, m.encode()
	if len(e.payload) > maxPayload {
		return fail(fmt.Errorf("%d bytes, at most %d", len(e.payload), maxPayload))
	}
	if _, err := parseRequest(e.payload); err != nil {
		return fail(err) // what we could not read nobody can
	}
	enc, ctx, err := hpke.NewSender(o.KEM.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(e.session.offerHash))
	if err != nil {
		return fail(err)
	}
	e.session.enc = enc
	if e.session.ss, err = ctx.Export(kemExport, 32); err != nil {
		return fail(err)
	}
	first, _, err := e.message1()
	if err != nil {
		return fail(err)
	}
	e.hash = sha256.Sum256(first)
	body := append(append([]byte(nil), e.session.offerHash[:]...), enc...)
	return codec.AppendVec(body, first), e, nil
}

// message1 runs the handshake up to message 1, always to the same bytes.
func (e *Invitee) message1() ([]byte, *noise.HandshakeState, error) {
	cfg, err := e.session.config(true, e.static, bytes.NewReader(e.seed[:]))
	if err != nil {
		return nil, nil, err
	}
	cfg.PeerStatic = e.peer.Bytes()
	hs, err := noise.NewHandshakeState(cfg)
	if err != nil {
		return nil, nil, err
	}
	out, _, _, err := hs.WriteMessage(nil, e.payload)
	return out, hs, err
}

// RequestHash names the request, as the answer does.
func (e *Invitee) RequestHash() [32]byte { return e.hash }

// Finish reads the answer's Noise message. It may be called as often as one likes.
func (e *Invitee) Finish(answer []byte) (*ContactAccept, Secrets, error) {
	bad := func(err error) (*ContactAccept, Secrets, error) {
		return nil, Secrets{}, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	if len(answer) > maxNoise {
		return bad(fmt.Errorf("%d bytes, at most %d", len(answer), maxNoise))
	}
	first, hs, err := e.message1()
	if err != nil {
		return bad(err)
	}
	if sha256.Sum256(first) != e.hash {
		return bad(errors.New("the stored state does not lead to the request that was sent"))
	}
	h := bytes.Clone(hs.ChannelBinding())
	payload, _, _, err := hs.ReadMessage(nil, answer)
	if err != nil {
		return bad(err)
	}
	a, err := parseAccept(payload)
	if err != nil {
		return bad(err)
	}
	s, err := e.session.secrets(h, e.random, a.Random)
	if err != nil {
		return bad(err)
	}
	return a, s, nil
}

// Append appends the state with its secrets.
func (e *Invitee) Append(b []byte) []byte {
	b = codec.AppendU8(append(b, stateVersion), e.session.mode)
	b = append(append(b, e.session.offerHash[:]...), e.session.enc...)
	b = append(append(b, e.session.ss...), e.session.salt[:]...)
	b = append(append(e.peer.Append(b), e.static.Seed()...), e.seed[:]...)
	b = append(append(b, e.random[:]...), e.hash[:]...)
	return codec.AppendVec(b, e.payload)
}

// ParseInvitee reads what Append wrote.
func ParseInvitee(b []byte) (*Invitee, error) {
	r := codec.NewReader(bytes.Clone(b))
	if v := r.U8(); v != stateVersion {
		r.Fail("state of version %d", v)
	}
	e := &Invitee{session: session{mode: r.U8()}}
	r.Copy(e.session.offerHash[:])
	e.session.enc, e.session.ss = r.Bytes(encSize), r.Bytes(32)
	r.Copy(e.session.salt[:])
	peer, static := r.Bytes(key.Size), r.Bytes(key.Size)
	r.Copy(e.seed[:])
	r.Copy(e.random[:])
	r.Copy(e.hash[:])
	e.payload = r.Vec(maxPayload)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("a request's state: %w", err)
	}
	e.peer, e.static = mustNoise(peer), key.NoiseFromSeed(static)
	return e, nil
}
