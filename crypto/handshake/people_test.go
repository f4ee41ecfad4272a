package handshake

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"sotto/crypto/identity"
	"sotto/crypto/key"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func fill(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// A person has an account of one device, all of it made from n.
type person struct {
	identity.Actor
	seed    identity.Seed
	static  key.NoiseSecret
	sealing key.SealingSecret
	log     *identity.Log
	name    string
}

func newPerson(n byte, name string) *person {
	p := &person{Actor: identity.Actor{Device: identity.DeviceID(fill(n)[:16]), Key: key.DeviceFromSeed(fill(n))}, seed: identity.SeedFromBytes(fill(n)),
		static: key.NoiseFromSeed(fill(n ^ 0x40)), sealing: key.SealingFromSeed(fill(n ^ 0x80)), name: name}
	p.log = must(identity.NewLog(p.seed, p.cert(), p.Key, [16]byte{}))
	return p
}

func (p *person) cert() identity.DeviceCert {
	return identity.DeviceCert{Device: p.Device, DeviceKey: p.Key.Public(), HandshakeKey: p.static.Public(), SealingHash: identity.SealingHash(p.sealing.Public())}
}

func (p *person) inbox() identity.InboxRef {
	return identity.InboxRef{Relay: append(fill(0x31), 0), Mailbox: [32]byte{p.Device[0]}, AppendKey: key.CapabilityFromSeed(fill(p.Device[0] ^ 0xff)), SealingKey: p.sealing.Public()}
}

var theRelay = key.RelayFromSeed(fill(0x77)).Public()

// slotID is that of spec/relay.md, section 4.
func slotID(read key.CapabilityPublic) [32]byte {
	return sha256.Sum256(read.Append(theRelay.Append([]byte("sotto/slot/1"))))
}

const expires = 30_000_000

func (p *person) options() InviteOptions {
	return InviteOptions{Log: p.log, Actor: p.Actor, Inbox: p.inbox(), Ticket: []byte("ticket"), Name: p.name, Expires: expires,
		Relay: theRelay, Hints: [][]byte{{4, 127, 0, 0, 1, 6, 0x1f, 0x90}}, SlotID: slotID}
}

func (p *person) request() ContactRequest {
	return ContactRequest{Log: p.log, Devices: must(p.log.DeviceSet(p.Actor)), KeyPackages: [][]byte{[]byte("a key package of " + p.name)}, Inbox: p.inbox(), Name: p.name, Greeting: "hello"}
}

// An invitation is what one has made and handed over.
type invitation struct {
	link   Link
	sealed []byte
	state  *Inviter
}

func (p *person) invite() invitation {
	l, sealed, in, err := NewInvite(p.options())
	if err != nil {
		panic(err)
	}
	return invitation{l, sealed, in}
}

func (i invitation) slot() [32]byte { return slotID(i.link.Secret.SlotRead().Public()) }

func (i invitation) offer() *Offer { return must(i.link.OpenOffer(i.slot(), i.sealed)) }

func (i invitation) begin(p *person) (*RequestBody, *Invitee) {
	raw, e, err := Begin(i.link, i.offer(), p.static, p.request())
	if err != nil {
		panic(err)
	}
	return must(ParseRequestBody(raw)), e
}

var (
	ana     = newPerson(0x21, "Ana")
	ben     = newPerson(0x22, "Ben")
	mallory = newPerson(0x23, "Mallory")
)

// same says whether two sides have come to the same secrets.
func same(a, b Secrets) bool {
	return bytes.Equal(a.PSK(), b.PSK()) && bytes.Equal(a.PSKID, b.PSKID) && a.Binding == b.Binding
}

func Example() {
	ana, ben := newPerson(1, "Ana"), newPerson(2, "Ben")
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}

	// Ana makes an invite, writes down her state, puts the offer into a slot of her relay
	// and hands the link to Ben.
	link, value, inviter, err := NewInvite(ana.options())
	check(err)
	text := link.Text()

	// Ben takes the value of the slot that the link names, writes down his state, and
	// sends a letter to the inbox in the offer.
	link, err = ParseLink(text)
	check(err)
	check(link.Check(29_000_000))
	offer, err := link.OpenOffer(slotID(link.Secret.SlotRead().Public()), value)
	check(err)
	request, invitee, err := Begin(link, offer, ben.static, ben.request())
	check(err)

	// Ana makes a group with what comes of the request, and answers.
	body, err := ParseRequestBody(request)
	check(err)
	q, err := inviter.Read(body)
	check(err)
	hers := q.Secrets()
	answer, err := q.Accept(ContactAccept{Welcome: []byte("an MLS Welcome"), Name: "Ana"})
	check(err)

	// Ben joins it.
	accept, err := ParseAcceptBody(answer)
	check(err)
	a, his, err := invitee.Finish(accept)
	check(err)
	fmt.Println(q.Name, "and", a.Name, "share secrets:", same(hers, his))
	// Output: Ben and Ana share secrets: true
}
