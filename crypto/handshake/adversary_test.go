package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/conversation"
)

// What an adversary on the way may exchange for something of its own.
const (
	theOffer = 1 << iota
	theEnc
	theMessage1
	theMessage2
	theWelcome
	everything = 1<<iota - 1
)

func parts(mask int) string {
	var s []string
	for i, name := range []string{"offer", "enc", "message 1", "message 2", "Welcome"} {
		if mask&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, ", ")
}

// MLS, as package node uses it.

var now = uint64(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())

func (p *person) config() mls.Config {
	return mls.Config{Signer: p.Key.Signer(), ValidateCredential: conversation.ValidateCredential}
}

func (p *person) credential() mls.Credential {
	return mls.BasicCredential(must(p.log.Credential(p.Device)).Append(nil))
}

func (p *person) leaf() mls.Extensions {
	return mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionInbox), Data: p.inbox().Append(nil)}}
}

func capabilities() *mls.Capabilities {
	c := mls.DefaultCapabilities(mls.XWing, mls.ExtensionType(conversation.ExtensionGroup), mls.ExtensionType(conversation.ExtensionKeyPackage), mls.ExtensionType(conversation.ExtensionInbox))
	return &c
}

func lifetime() mls.Lifetime { return mls.Lifetime{NotBefore: now - 3600, NotAfter: now + 84*24*3600} }

func (p *person) keyPackage() *mls.KeyPackageBundle {
	return must(mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: p.Key.Signer(), Credential: p.credential(), Lifetime: lifetime(),
		Capabilities: capabilities(), LeafExtensions: p.leaf(),
		Extensions: mls.Extensions{{Type: mls.ExtensionType(conversation.ExtensionKeyPackage), Data: conversation.KeyPackageFlags(0)}}}))
}

func presharedKey(s Secrets) mls.PSKs {
	return func(id mls.PreSharedKeyID) ([]byte, error) {
		if id.Type == mls.PSKExternal && string(id.ID) == string(s.PSKID) {
			return s.PSK(), nil
		}
		return nil, mls.ErrMissingPSK
	}
}

// newGroup is an inviter's group with the devices of who asked, and its Welcome. Without
// secrets it has no pre-shared key.
func (p *person) newGroup(them identity.AccountID, packages [][]byte, s Secrets) (*mls.Group, []byte) {
	info := conversation.NewDirect(conversation.MailboxRef{Relay: p.inbox().Relay, Mailbox: [32]byte{1}, BaseEpoch: 1}, p.log.ID(), them, s.Binding[:])
	g := must(mls.NewGroup(p.config(), mls.GroupOptions{Suite: mls.XWing, Credential: p.credential(), Lifetime: lifetime(), Capabilities: capabilities(), LeafExtensions: p.leaf(),
		Extensions: mls.Extensions{conversation.RequiredCapabilities(), {Type: mls.ExtensionType(conversation.ExtensionGroup), Data: info.Append(nil)}}}))
	var proposals []mls.Proposal
	for _, raw := range packages {
		proposals = append(proposals, mls.Add{KeyPackage: must(mls.ParseKeyPackage(raw))})
	}
	if s.psk != nil {
		proposals = append(proposals, mls.ExternalPSK(s.PSKID))
	}
	staged := must(g.Commit(&mls.CommitOptions{Proposals: proposals, Now: now, PSK: presharedKey(s)}))
	return must(staged.Merge(g)), staged.Welcome()
}

// errNoGroup is wrapped by what an invitee says of a Welcome.
var errNoGroup = errors.New("no group comes of the Welcome")

// join is what the invitee makes of a Welcome.
func (p *person) join(welcome []byte, bundle *mls.KeyPackageBundle, s Secrets, inviter *identity.Log) (*mls.Group, error) {
	g, _, err := mls.Join(p.config(), welcome, bundle, &mls.JoinOptions{PSK: presharedKey(s)})
	if err == nil {
		devices := map[identity.DeviceID]identity.AccountID{p.Device: p.log.ID()}
		for _, c := range inviter.Active() {
			devices[c.Device] = inviter.ID()
		}
		_, err = conversation.ValidateDirect(g, s.Binding, p.log.ID(), inviter.ID(), devices)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoGroup, err)
	}
	return g, nil
}

// A meeting is a first contact, as far as it came.
type meeting struct {
	message   [everything + 1][]byte // what each side was given, by part; nil if nothing
	group     *mls.Group             // the inviter's
	joined    *mls.Group             // the invitee's
	hers, his Secrets
	inviter   error // why a side gave up, if it did
	invitee   error
}

// An adversary is given a part, or nil where nobody has made it, and returns what it
// hands on in its place.
type adversary func(part int, sent []byte) []byte

// meet lets ana invite ben. The adversary takes the place of the parts in mask.
func meet(i invitation, bundle *mls.KeyPackageBundle, mask int, evil adversary) *meeting {
	x := &meeting{}
	pass := func(part int, sent []byte) []byte {
		if mask&part != 0 {
			sent = evil(part, sent)
		}
		x.message[part] = sent
		return sent
	}

	// Ben takes the offer and asks.
	var enc, first []byte
	var e *Invitee
	o, err := i.link.OpenOffer(i.slot(), pass(theOffer, i.sealed))
	if err == nil {
		m := ben.request()
		m.KeyPackages = [][]byte{bundle.KeyPackage().Marshal()}
		var raw []byte
		if raw, e, err = Begin(i.link, o, ben.static, m); err == nil {
			b := must(ParseRequestBody(raw))
			enc, first = b.enc, b.noise
		}
	}
	x.invitee = err

	// Ana answers what reaches her.
	var second []byte
	enc, first = pass(theEnc, enc), pass(theMessage1, first)
	if enc != nil && first != nil {
		var q *Request
		if q, x.inviter = i.state.Read(&RequestBody{i.state.OfferHash, enc, first}); x.inviter == nil {
			var welcome []byte
			x.hers = q.Secrets()
			x.group, welcome = ana.newGroup(q.Log.ID(), q.KeyPackages, x.hers)
			second = must(ParseAcceptBody(must(q.Accept(ContactAccept{Welcome: pass(theWelcome, welcome), Name: "Ana"})))).noise
		}
	}

	// Ben joins by what reaches him, unless he has given up.
	if second = pass(theMessage2, second); e == nil || second == nil {
		return x
	}
	a, his, err := e.Finish(&AcceptBody{e.RequestHash(), second})
	if err == nil {
		x.his = his
		x.joined, err = ben.join(a.Welcome, bundle, his, o.Log)
	}
	x.invitee = err
	return x
}

// The adversaries. None has the link's secret: who has it is the invitee.
var adversaries = []struct {
	name string
	make func(i invitation, bundle *mls.KeyPackageBundle) adversary
}{
	{"changes a bit of what goes by", func(invitation, *mls.KeyPackageBundle) adversary {
		return func(_ int, sent []byte) []byte {
			if sent == nil {
				return nil
			}
			b := bytes.Clone(sent)
			b[len(b)/2] ^= 1
			return b
		}
	}},
	{"hands on what the same two said another time", func(invitation, *mls.KeyPackageBundle) adversary {
		old := meet(ana.invite(), ben.keyPackage(), 0, nil)
		return func(part int, _ []byte) []byte { return old.message[part] }
	}},
	// It is a contact of both, by other invites, and has all that it needs for that.
	{"plays ana to ben and ben to ana", func(_ invitation, bundle *mls.KeyPackageBundle) adversary {
		mine, hers := mallory.invite(), ana.invite()
		asking, _ := hers.begin(mallory)
		asked, _ := mine.begin(ben)
		q := must(mine.state.Read(asked))
		_, welcome := mallory.newGroup(ben.log.ID(), [][]byte{bundle.KeyPackage().Marshal()}, q.Secrets())
		answer := must(ParseAcceptBody(must(q.Accept(ContactAccept{Welcome: welcome, Name: "Ana"}))))
		return func(part int, _ []byte) []byte {
			return map[int][]byte{theOffer: mine.sealed, theEnc: asking.enc, theMessage1: asking.noise, theMessage2: answer.noise, theWelcome: welcome}[part]
		}
	}},
	// It has even seen the offer and the invitee's key package, and lacks the secret alone.
	{"knows the offer", func(i invitation, bundle *mls.KeyPackageBundle) adversary {
		o, guess := i.offer(), i.link
		guess.Secret = newSecret([32]byte{})
		forged := *o
		forged.Log, forged.Device, forged.Inbox = mallory.log, mallory.Device, mallory.inbox()
		sealed := must(sealOffer(forged.sign(mallory.Key), guess.Secret, i.slot(), [nonceSize]byte{}))
		raw, _, err := Begin(guess, o, mallory.static, mallory.request())
		asking := must(ParseRequestBody(must(raw, err)))
		blind := *i.state
		blind.salt = guess.Secret // as if it had the invite's keys as well
		answer := must(must(blind.Read(asking)).run.write([]byte("anything")))
		_, welcome := mallory.newGroup(ben.log.ID(), [][]byte{bundle.KeyPackage().Marshal()}, Secrets{})
		return func(part int, _ []byte) []byte {
			return map[int][]byte{theOffer: sealed, theEnc: asking.enc, theMessage1: asking.noise, theMessage2: answer, theWelcome: welcome}[part]
		}
	}},
}

// T14: whatever the adversary exchanges, no conversation comes about. The side whose
// bytes fail says why, the other goes on waiting.
func TestNobodyComesBetween(t *testing.T) {
	x := meet(ana.invite(), ben.keyPackage(), 0, nil)
	if x.inviter != nil || x.invitee != nil || !same(x.hers, x.his) || !bytes.Equal(x.group.EpochAuthenticator(), x.joined.EpochAuthenticator()) {
		t.Fatalf("with nobody between them: %v, %v", x.inviter, x.invitee)
	}
	for _, evil := range adversaries {
		t.Run(evil.name, func(t *testing.T) {
			for mask := 1; mask <= everything; mask++ {
				i, bundle := ana.invite(), ben.keyPackage()
				x := meet(i, bundle, mask, evil.make(i, bundle))
				exchanged := func(part int) bool { return mask&part != 0 && x.message[part] != nil }

				if x.joined != nil && x.invitee == nil {
					t.Errorf("%s exchanged: the invitee has a conversation", parts(mask))
				}
				var inviter, invitee error
				if heard := x.message[theEnc] != nil && x.message[theMessage1] != nil; heard && mask&(theEnc|theMessage1) != 0 {
					inviter = ErrHandshake
				}
				switch {
				case exchanged(theOffer):
					invitee = ErrOffer
				case exchanged(theMessage2):
					invitee = ErrHandshake
				case exchanged(theWelcome):
					invitee = errNoGroup
				}
				if !errors.Is(x.inviter, inviter) {
					t.Errorf("%s exchanged: the inviter says %v, want %v", parts(mask), x.inviter, inviter)
				}
				if !errors.Is(x.invitee, invitee) {
					t.Errorf("%s exchanged: the invitee says %v, want %v", parts(mask), x.invitee, invitee)
				}
				if inviter == nil && invitee == nil {
					t.Errorf("%s exchanged: neither side notices", parts(mask))
				}
				// Equal secrets there may be only where nothing but the Welcome was touched.
				if x.hers.psk != nil && x.his.psk != nil && same(x.hers, x.his) != (mask == theWelcome) {
					t.Errorf("%s exchanged: the sides have the same secrets: %v", parts(mask), same(x.hers, x.his))
				}
			}
		})
	}
}
