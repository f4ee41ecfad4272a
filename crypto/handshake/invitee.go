package handshake

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// Invitee is the invitee's side from its request to the answer. It is stored in a
// vault: a Noise handshake cannot be, so it keeps what reproduces message 1 byte for
// byte, the seed of the ephemeral key and the one payload that the seed is used with.
type Invitee struct {
	session session
	peer    key.NoisePublic // the offer's
	static  key.NoiseSecret
	seed    hidden // 32 bytes
	payload hidden
	random  hidden // 32 bytes, out of the payload
	hash    [32]byte
}

// Begin makes a request to the inviter of an offer, from the device that has the
// handshake key static. It returns the body of a letter of type contact_request and the
// state to keep.
func Begin(l Link, o *Offer, static key.NoiseSecret, m ContactRequest) ([]byte, *Invitee, error) {
	fail := func(err error) ([]byte, *Invitee, error) {
		return nil, nil, fmt.Errorf("make contact request: %w", err)
	}
	ses, err := newSession(Invite, l, o)
	if err != nil {
		return fail(err)
	}
	var random, seed [32]byte
	rand.Read(random[:])
	rand.Read(seed[:])
	e := &Invitee{session: ses, peer: o.Handshake, static: static, seed: hide(seed[:]), payload: hide(m.encode(random))}
	first, err := e.begin()
	if err != nil {
		return fail(err)
	}
	return (&RequestBody{ses.offerHash, ses.enc, first}).encode(), e, nil
}

// begin makes message 1 and what follows from it. What we could not read nobody can.
func (e *Invitee) begin() ([]byte, error) {
	_, random, err := parseRequest(e.payload(), e.static.Public())
	if err != nil {
		return nil, err
	}
	first, _, err := e.message1()
	if err != nil {
		return nil, err
	}
	e.random, e.hash = hide(random[:]), sha256.Sum256(first)
	return first, nil
}

// message1 runs the handshake up to message 1, always to the same bytes.
func (e *Invitee) message1() ([]byte, run, error) {
	run, err := initiate(e.session.psk(), e.session.prologue(), e.static, e.peer, bytes.NewReader(e.seed()))
	if err != nil {
		return nil, run, err
	}
	first, err := run.write(e.payload())
	return first, run, err
}

// RequestHash names the request, as the answer does.
func (e *Invitee) RequestHash() [32]byte { return e.hash }

// Finish reads an answer. It may be called as often as one likes: an answer that does
// not hold leaves the true one to come.
func (e *Invitee) Finish(b *AcceptBody) (*ContactAccept, Secrets, error) {
	a, s, err := e.finish(b)
	if err != nil {
		return nil, Secrets{}, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return a, s, nil
}

func (e *Invitee) finish(b *AcceptBody) (*ContactAccept, Secrets, error) {
	if b.RequestHash != e.hash {
		return nil, Secrets{}, errors.New("it answers another request")
	}
	_, run, err := e.message1()
	if err != nil {
		return nil, Secrets{}, err
	}
	h := run.hash()
	payload, err := run.read(b.noise)
	if err != nil {
		return nil, Secrets{}, err
	}
	a, random, err := parseAccept(payload)
	if err != nil {
		return nil, Secrets{}, err
	}
	return a, newSecrets(h, [32]byte(e.random()), random, e.session.ss()), nil
}

// Append appends the state with its secrets.
func (e *Invitee) Append(b []byte) []byte {
	s, salt := &e.session, e.session.salt.reveal()
	b = codec.AppendU8(append(b, stateVersion), s.mode)
	b = append(append(b, s.offerHash[:]...), s.enc...)
	b = append(append(b, s.ss()...), salt[:]...)
	b = append(append(e.peer.Append(b), e.static.Seed()...), e.seed()...)
	return codec.AppendVec(append(b, e.hash[:]...), e.payload())
}

// ParseInvitee reads what Append wrote, and makes sure that it leads to the request
// that was sent. Its error wraps [ErrState].
func ParseInvitee(b []byte) (*Invitee, error) {
	fail := func(err error) (*Invitee, error) { return nil, fmt.Errorf("%w: a request: %w", ErrState, err) }
	r := codec.NewReader(bytes.Clone(b))
	readStateVersion(r)
	e := &Invitee{session: session{mode: r.U8()}}
	r.Copy(e.session.offerHash[:])
	e.session.enc, e.session.ss = r.Bytes(encSize), hide(r.Bytes(32))
	var salt, sent [32]byte
	r.Copy(salt[:])
	peer, static := r.Bytes(key.Size), r.Bytes(key.Size)
	e.seed = hide(r.Bytes(32))
	r.Copy(sent[:])
	e.payload = hide(r.Vec(maxPayload))
	err := r.Done()
	if err != nil {
		return fail(err)
	}
	e.session.salt, e.static = newSecret(salt), key.NoiseFromSeed(static)
	if e.peer, err = key.ParseNoise(peer); err != nil {
		return fail(err)
	}
	if _, err := e.begin(); err != nil {
		return fail(err)
	}
	if e.hash != sent {
		return fail(errors.New("it does not lead to the request that was sent"))
	}
	return e, nil
}
