package handshake

import (
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

func kemInfo(offerHash [32]byte) []byte { return append([]byte("sotto/kem/1"), offerHash[:]...) }

const kemExport = "sotto/contact/1"

// Inviter is the inviter's side until it has answered. It is stored in a vault and
// erased when it has done its work.
type Inviter struct {
	OfferHash [32]byte
	mode      uint8             // of the handshake: Device, or Invite for every other link
	static    key.NoiseSecret   // made for this invite alone
	kem       key.SealingSecret // likewise
	salt      Secret            // the link's
}

// InviteOptions says who invites.
type InviteOptions struct {
	Log     *identity.Log
	Actor   identity.Actor    // this device
	Inbox   identity.InboxRef // its inbox
	Ticket  []byte            // at most 255 bytes; see [Offer]
	Name    string            // profile name
	Expires uint32            // minute
	Relay   key.RelayPublic
	Hints   [][]byte // of the relay: at most 8, of 255 bytes each and 512 in all
	// Of a link to a group: its id and name. Such a link is opened by many.
	Group     []byte
	GroupName string
	// SlotID names the slot of a read key at the relay (spec/relay.md, section 4).
	SlotID func(read key.CapabilityPublic) [32]byte
}

// NewInvite makes an invite: the link to hand over, the value of its slot, and the
// state to keep.
func NewInvite(o InviteOptions) (Link, []byte, *Inviter, error) { return newLink(Invite, o) }

// NewDeviceLink makes a link for a new device of the account that o.Log is of.
func NewDeviceLink(o InviteOptions) (Link, []byte, *Inviter, error) { return newLink(Device, o) }

func newLink(kind uint8, o InviteOptions) (Link, []byte, *Inviter, error) {
	var secret, noise, kem [32]byte
	var nonce [nonceSize]byte
	for _, b := range [][]byte{secret[:], noise[:], kem[:], nonce[:]} {
		rand.Read(b)
	}
	in := &Inviter{mode: kind, static: key.NoiseFromSeed(noise[:]), kem: key.SealingFromSeed(kem[:]), salt: newSecret(secret)}
	l, sealed, err := in.invite(o, nonce)
	if err != nil {
		return Link{}, nil, nil, fmt.Errorf("make link: %w", err)
	}
	return l, sealed, in, nil
}

func (in *Inviter) invite(o InviteOptions, nonce [nonceSize]byte) (Link, []byte, error) {
	kind := in.mode
	if o.Group != nil {
		kind = Group
	}
	l := Link{Kind: kind, Expires: o.Expires, Relay: o.Relay, Hints: o.Hints, Secret: in.salt}
	if err := l.check(); err != nil {
		return Link{}, nil, err
	}
	offer := &Offer{Mode: kind, Expires: o.Expires, Log: o.Log, Device: o.Actor.Device, Handshake: in.static.Public(), KEM: in.kem.Public(), Inbox: o.Inbox, Ticket: o.Ticket, Name: o.Name, Group: o.Group, GroupName: o.GroupName}
	raw := offer.sign(o.Actor.Key)
	offer, err := parseOffer(raw) // what we could not read nobody can
	if err != nil {
		return Link{}, nil, err
	}
	in.OfferHash = offer.Hash()
	sealed, err := sealOffer(raw, l.Secret, o.SlotID(l.Secret.SlotRead().Public()), nonce)
	return l, sealed, err
}

const stateVersion = 1

// Append appends the state with its secrets.
func (in *Inviter) Append(b []byte) []byte {
	salt := in.salt.reveal()
	b = append(append(b, stateVersion), in.OfferHash[:]...)
	b = append(append(b, in.static.Seed()...), in.kem.Seed()...)
	return append(append(b, salt[:]...), in.mode)
}

// ParseInviter reads what Append wrote. Its error wraps [ErrState].
func ParseInviter(b []byte) (*Inviter, error) {
	r := codec.NewReader(b)
	readStateVersion(r)
	in := &Inviter{}
	r.Copy(in.OfferHash[:])
	static, kem := r.Bytes(key.Size), r.Bytes(key.Size)
	var salt [32]byte
	r.Copy(salt[:])
	in.mode = r.U8()
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("%w: an invite: %w", ErrState, err)
	}
	in.static, in.kem, in.salt = key.NoiseFromSeed(static), key.SealingFromSeed(kem), newSecret(salt)
	return in, nil
}

func readStateVersion(r *codec.Reader) {
	if v := r.U8(); r.Err() == nil && v != stateVersion {
		r.Fail("version %d", v)
	}
}

// Request is a request that has been read.
type Request struct {
	ContactRequest
	Hash [32]byte // names it, as [RequestBody.Hash] does

	run      run
	secrets  Secrets
	random   hidden // 32 bytes, of the answer
	answered bool
}

// Read opens a request for this invite. Nothing has been answered yet: a request may be
// read as often as one likes, and each time has other [Secrets].
func (in *Inviter) Read(b *RequestBody) (*Request, error) {
	q, err := in.read(b, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return q, nil
}

// open reads message 1, with what the answer is made with from random.
func (in *Inviter) open(kind uint8, b *RequestBody, random io.Reader) (run, *session, []byte, key.NoisePublic, error) {
	fail := func(err error) (run, *session, []byte, key.NoisePublic, error) {
		return run{}, nil, nil, key.NoisePublic{}, err
	}
	if b.OfferHash != in.OfferHash || kind != in.mode {
		return fail(errors.New("it is for another link"))
	}
	ctx, err := hpke.NewRecipient(b.enc, in.kem.HPKE(), hpke.HKDFSHA384(), hpke.ExportOnly(), kemInfo(in.OfferHash))
	if err != nil {
		return fail(err)
	}
	ss, err := ctx.Export(kemExport, 32)
	if err != nil {
		return fail(err)
	}
	s := &session{in.mode, in.OfferHash, b.enc, hide(ss), in.salt}
	run, err := respond(s.psk(), s.prologue(), in.static, random)
	if err != nil {
		return fail(err)
	}
	payload, err := run.read(b.noise)
	if err != nil {
		return fail(err)
	}
	from, err := run.peer()
	return run, s, payload, from, err
}

// read takes from random what the answer is made with.
func (in *Inviter) read(b *RequestBody, random io.Reader) (*Request, error) {
	run, s, payload, from, err := in.open(Invite, b, random)
	if err != nil {
		return nil, err
	}
	m, theirs, err := parseRequest(payload, from)
	if err != nil {
		return nil, err
	}
	var ours [32]byte
	if _, err := io.ReadFull(random, ours[:]); err != nil {
		return nil, err
	}
	return &Request{ContactRequest: *m, Hash: b.Hash(), run: run, secrets: newSecrets(run.hash(), theirs, ours, s.ss()), random: hide(ours[:])}, nil
}

// Secrets gives what the group is made with.
func (q *Request) Secrets() Secrets { return q.secrets }

// Accept makes the answer, the body of a letter of type contact_accept. It can be
// called once; the caller stores what it returns with the group that it was made for.
func (q *Request) Accept(a ContactAccept) ([]byte, error) {
	if q.answered {
		return nil, errors.New("accept: the request has been answered")
	}
	payload := a.encode([32]byte(q.random()))
	if _, _, err := parseAccept(payload); err != nil {
		return nil, fmt.Errorf("accept: %w", err) // what we could not read nobody can
	}
	out, err := q.run.write(payload)
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	q.answered = true
	return (&AcceptBody{q.Hash, out}).encode(), nil
}
