package node

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"

	"sotto/crypto/codec"
	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/setting"
	"sotto/node/store"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/vault"
)

// How long a device link can be entered, and how long behind that the digits can be
// compared.
const (
	linkLife    = 5 * time.Minute
	compareLife = 10 * time.Minute
)

// The states of a DeviceLink.
const (
	LinkOpen    = "open"    // it can be entered at the new device
	LinkEntered = "entered" // a device has entered it, and the digits are on their way
	LinkCompare = "compare" // the new device shows the digits: type them here
	LinkGranted = "granted" // it is a device of the account, and has not come in yet
	LinkDone    = "done"
	LinkFailed  = "failed" // Reason says why
)

var linkStates = map[uint8]string{store.LinkOpen: LinkOpen, store.LinkEntered: LinkEntered, store.LinkCompare: LinkCompare,
	store.LinkGranted: LinkGranted, store.LinkDone: LinkDone, store.LinkFailed: LinkFailed}

// DeviceLink is a device that is being linked by this one, or was last.
type DeviceLink struct {
	State   string    `json:"state" enum:"open,entered,compare,granted,done,failed"`
	Link    string    `json:"link,omitempty" doc:"to be entered at the new device; shown once"`
	Expires time.Time `json:"expires"`
	Reach   string    `json:"reach,omitempty" enum:"anyone,network,machine" doc:"who can reach the relay it names"`
	Words   string    `json:"words,omitempty" doc:"what to know before entering it"`
	Device  string    `json:"device,omitempty" doc:"id of the device that has entered it"`
	Name    string    `json:"name,omitempty" doc:"what that device calls itself"`
	Digits  string    `json:"digits,omitempty" doc:"what the new device must show; never confirm others"`
	Reason  string    `json:"reason,omitempty" doc:"why it failed"`
	Cause   string    `json:"cause,omitempty" enum:"gone,not_trusted" doc:"the same by the code of a problem"`
}

func showLink(l *store.Linking) DeviceLink {
	out := DeviceLink{State: linkStates[l.State], Expires: mailbox.Minute(l.Expires).Time(), Name: l.Name, Digits: l.Digits, Reason: l.Reason, Cause: l.Cause}
	if l.ID != [16]byte{} {
		out.Device = identity.DeviceID(l.ID).String()
	}
	return out
}

// LinkDevice makes a link to enter at a new device, which then becomes one of this account
// if ConfirmLink is called with the digits that it shows. An earlier link is void. It
// returns ErrUnreachable if no relay is known, and ErrNotAllowed at a device that does not
// hold the account key.
func (n *Node) LinkDevice(ctx context.Context) (DeviceLink, error) {
	if !n.db.HasPrivileged() {
		return DeviceLink{}, errNoAccountKey
	}
	home, ref, err := n.inviting()
	if err != nil {
		return DeviceLink{}, err
	}
	offer, at, err := n.offer(home, linkLife)
	if err != nil {
		return DeviceLink{}, err
	}
	offer.Inbox = ref
	if offer.Ticket == nil {
		offer.Ticket = n.ticket(home) // of the account's own, for its device
	}
	link, value, secrets, err := handshake.NewDeviceLink(offer)
	if err != nil {
		return DeviceLink{}, err
	}
	rec := &store.Linking{Offer: secrets.OfferHash, State: store.LinkOpen, Secrets: secrets.Append(nil), Relay: home, Owner: key.NewCapability().Seed(),
		Reader: link.Secret.SlotRead().Seed(), Value: value, Expires: offer.Expires}
	if err := n.update(func(tx *store.Tx) error { return errors.Join(tx.PutLinking(rec), n.noteLink(tx)) }); err != nil {
		return DeviceLink{}, apiError(err)
	}
	n.placeLink(rec.Offer)
	placed := n.waitUntil(ctx, func(tx *store.Tx) bool {
		l, err := tx.Linking()
		return err == nil && (l.Placed || l.State != store.LinkOpen)
	})
	out := showLink(rec)
	out.Link, out.Reach, out.Words = link.Text(), n.showInvite(&store.Invite{Relay: home}).Reach, n.placeWords(at, placed)
	return out, nil
}

// placeLink puts the offer into its slot.
func (n *Node) placeLink(offer [32]byte) {
	n.task("link", func(ctx context.Context) error {
		var l store.Linking
		if err := n.view(func(tx *store.Tx) (err error) { l, err = tx.Linking(); return err }); err != nil {
			return nil
		}
		if l.Offer != offer || l.State != store.LinkOpen || l.Placed || l.Expires <= uint32(mailbox.MinuteOf(n.clock())) {
			return nil
		}
		if err := n.placeOffer(ctx, l.Relay, l.Owner, l.Reader, true, mailbox.Minute(l.Expires), l.Value); err != nil {
			return err
		}
		return n.changeLink(offer, func(tx *store.Tx, l *store.Linking) error { l.Placed = true; return nil })
	})
}

// changeLink changes the link of this offer, if it is still the one there is.
func (n *Node) changeLink(offer [32]byte, change func(tx *store.Tx, l *store.Linking) error) error {
	return n.update(func(tx *store.Tx) error {
		l, err := tx.Linking()
		if err != nil || l.Offer != offer {
			return err
		}
		if err := change(tx, &l); err != nil {
			return err
		}
		return errors.Join(tx.PutLinking(&l), n.noteLink(tx))
	})
}

// Link returns the device that is being linked, or was last. It returns ErrNotFound if
// there never was one.
func (n *Node) Link(ctx context.Context) (out DeviceLink, err error) {
	err = n.view(func(tx *store.Tx) error {
		l, err := tx.Linking()
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: no device is being linked", ErrNotFound)
		}
		out = showLink(&l)
		return err
	})
	return out, apiError(err)
}

// failLink ends a link; the new device hears of it if it can.
func (n *Node) failLink(tx *store.Tx, l *store.Linking, verdict uint8, cause, reason string) error {
	if l.State == store.LinkEntered || l.State == store.LinkCompare {
		if err := n.postGrant(tx, l, grant{Verdict: verdict}); err != nil {
			return err
		}
	}
	l.State, l.Cause, l.Reason, l.Secrets, l.Value, l.Device, l.Digits = store.LinkFailed, cause, reason, nil, nil, nil, ""
	return errors.Join(tx.PutLinking(l), n.noteLink(tx))
}

// CancelLink ends a link that is under way.
func (n *Node) CancelLink(ctx context.Context) error {
	var gone store.Linking
	err := n.update(func(tx *store.Tx) error {
		l, err := tx.Linking()
		if errors.Is(err, store.ErrNotFound) || err == nil && (l.State == store.LinkDone || l.State == store.LinkFailed || l.State == store.LinkGranted) {
			return fmt.Errorf("%w: no device is being linked", ErrNotFound)
		}
		if err != nil {
			return err
		}
		gone = l
		return n.failLink(tx, &l, grantRefused, CauseGone, "you have ended it")
	})
	if err != nil {
		return apiError(err)
	}
	n.startLetters()
	n.revokeSlot("revoke link", gone.Relay, gone.Owner, gone.Reader)
	return nil
}

// The verdicts of a grant.
const (
	grantGiven   uint8 = 0
	grantDiffers uint8 = 1 // the digits
	grantRefused uint8 = 2 // or too late
)

// grant is what makes a new device one of the account (spec/link.md, section 4).
type grant struct {
	Verdict uint8
	Log     []byte // the account's, with the entry that adds the device
	Name    string // profile name
	Relay   string // for new mailboxes; may be empty
}

const linkMessageVersion = 1

func (g *grant) fields(f *codec.Fields) {
	v := uint16(linkMessageVersion)
	if f.U16(&v); f.OK() && v != linkMessageVersion {
		f.Fail("version %d", v)
	}
	f.U8(&g.Verdict)
	f.Vec(40<<10, &g.Log)
	f.Text(256, &g.Name)
	f.Text(2048, &g.Relay)
}

// ready is what a new device sends once it is one (spec/link.md, section 2).
type ready struct{ KeyPackage []byte }

func (m *ready) fields(f *codec.Fields) {
	v := uint16(linkMessageVersion)
	if f.U16(&v); f.OK() && v != linkMessageVersion {
		f.Fail("version %d", v)
	}
	f.Vec(16<<10, &m.KeyPackage)
}

// postGrant puts the decision into the outbox.
func (n *Node) postGrant(tx *store.Tx, l *store.Linking, g grant) error {
	d, err := handshake.ParseLinkingDevice(l.Device)
	if err != nil {
		return err
	}
	body, err := d.Grant(codec.Write(g.fields))
	if err != nil {
		return fmt.Errorf("%w: the account's log is too long to be handed over in one letter: %w", ErrTooLarge, err)
	}
	return addLetter(tx, d.Request.Inbox, envelope.LinkMessage, body)
}

// addLetter puts a letter to an inbox into the outbox.
func addLetter(tx *store.Tx, to identity.InboxRef, t envelope.LetterType, body []byte) error {
	at, err := wire.ReadAddress(to.Relay)
	if err != nil {
		return passOver("its inbox: %w", err)
	}
	entry, err := envelope.SealLetter(to.SealingKey, to.Mailbox, t, body)
	if err != nil {
		return passOver("its inbox: %w", err)
	}
	return tx.AddLetter(&store.Letter{Relay: at.String(), Inbox: to.Mailbox, AppendSeed: to.AppendKey.Seed(), Entry: entry})
}

// linkRequest answers the first device that enters the link.
func (n *Node) linkRequest(tx *store.Tx, body []byte) error {
	b, err := handshake.ParseRequestBody(body)
	if err != nil {
		return passOver("%w", err)
	}
	l, err := tx.Linking()
	if err != nil || l.Offer != b.OfferHash {
		return passOver("a device that enters no link of ours")
	}
	if l.State != store.LinkOpen {
		return passOver("a device that enters a link that is used or over")
	}
	secrets, err := handshake.ParseInviter(l.Secrets)
	if err != nil {
		return err
	}
	d, err := secrets.ReadDevice(b)
	if err != nil {
		return passOver("%w", err)
	}
	if uint32(mailbox.MinuteOf(n.clock())) > l.Expires {
		return n.failLink(tx, &l, grantRefused, CauseGone, "it was entered too late")
	}
	l.State, l.Device, l.Secrets, l.Value = store.LinkEntered, d.Append(nil), nil, nil
	l.ID, l.Name = d.Request.Cert.Device, d.Request.Name
	return errors.Join(addLetter(tx, d.Request.Inbox, envelope.LinkAnswer, d.Answer()), tx.PutLinking(&l), n.noteLink(tx))
}

// linkMessage deals with what a device that enters the link says after that. It returns
// the conversation among the account's devices once the device has come in.
func (n *Node) linkMessage(tx *store.Tx, body []byte) (group []byte, err error) {
	b, err := handshake.ParseLinkBody(body)
	if err != nil {
		return nil, passOver("%w", err)
	}
	l, err := tx.Linking()
	if err != nil || len(l.Device) == 0 {
		return nil, passOver("a message to no link of ours")
	}
	d, err := handshake.ParseLinkingDevice(l.Device)
	if err != nil {
		return nil, err
	}
	switch l.State {
	case store.LinkEntered:
		digits, err := d.Reveal(b)
		if errors.Is(err, handshake.ErrMismatch) {
			return nil, errors.Join(n.failLink(tx, &l, grantDiffers, CauseNotTrusted, err.Error()),
				n.notice(tx, "Somebody stood between this device and the one that you were linking. Nothing was given to either; make a new link."))
		}
		if err != nil {
			return nil, passOver("%w", err)
		}
		l.State, l.Digits = store.LinkCompare, digits
		return nil, errors.Join(tx.PutLinking(&l), n.noteLink(tx))
	case store.LinkGranted:
		payload, err := d.Ready(b)
		if err != nil {
			return nil, passOver("%w", err)
		}
		var m ready
		if err := codec.Read(payload, m.fields); err != nil {
			return nil, passOver("%w", err)
		}
		if err := n.takeOwnPackage(tx, l.ID, m.KeyPackage); err != nil {
			return nil, err
		}
		l.State, l.Device, l.Digits = store.LinkDone, nil, ""
		if group, err = n.makeSelf(tx); err != nil {
			return nil, err
		}
		if err := errors.Join(n.handOver(tx, l.ID), n.shareDevice(tx, n.device.ID, n.deviceName(tx, n.device.ID)), n.shareDevice(tx, l.ID, l.Name)); err != nil {
			return nil, err
		}
		n.wishes.Add(1)
		return group, errors.Join(tx.PutLinking(&l), n.noteLink(tx), n.noteDevice(tx, l.ID))
	}
	return nil, passOver("a message out of its place")
}

// takeOwnPackage keeps a key package of another device of the account.
func (n *Node) takeOwnPackage(tx *store.Tx, device [16]byte, raw []byte) error {
	kp, account, err := readPackage(raw)
	if err != nil {
		return passOver("%w", err)
	}
	leaf, err := conversation.ReadLeaf(kp.LeafNode)
	if err != nil || account != n.account.ID() || leaf.Device != identity.DeviceID(device) || !isLastResort(kp) {
		return passOver("a key package of another device than it was sent for (%v)", err)
	}
	return tx.AddPackage(&store.Package{Contact: account, Device: device, LastResort: true, Package: raw})
}

var errNoAccountKey = fmt.Errorf("%w: this device does not hold the account key; do it at the device that the account was made on, or with the recovery words", ErrNotAllowed)

// accountKey opens the account key with the passphrase, which is asked for each time. It
// returns ErrLocked for a wrong one.
func (n *Node) accountKey(passphrase []byte) (key.AccountSecret, error) {
	seed, err := n.db.Privileged(passphrase)
	if errors.Is(err, vault.ErrNotFound) {
		return key.AccountSecret{}, errNoAccountKey
	}
	if err != nil {
		return key.AccountSecret{}, apiError(err)
	}
	defer clear(seed)
	k := key.NewAccount(seed)
	if in, _ := n.account.now().AccountKey(); in != k.Public() {
		return key.AccountSecret{}, fmt.Errorf("%w: the account has another key now than this device holds", ErrNotAllowed)
	}
	return k, nil
}

// ConfirmLink makes the device that has entered the link one of this account: digits are
// those that it shows, and the passphrase opens the account key. Other digits end the link
// and return ErrNotTrusted; a wrong passphrase returns ErrLocked and can be tried again.
func (n *Node) ConfirmLink(ctx context.Context, digits string, passphrase []byte) (DeviceLink, error) {
	typed := strings.Join(strings.Fields(digits), "")
	var l store.Linking
	differs := false
	err := n.update(func(tx *store.Tx) (err error) {
		differs = false
		if l, err = tx.Linking(); err != nil {
			return fmt.Errorf("%w: no device is being linked", ErrNotFound)
		}
		switch {
		case l.State == store.LinkOpen, l.State == store.LinkEntered:
			return fmt.Errorf("%w: no digits to compare have come yet", ErrNotReady)
		case l.State != store.LinkCompare:
			return fmt.Errorf("%w: this link is used", ErrGone)
		case n.clock().After(mailbox.Minute(l.Expires).Time().Add(compareLife)):
			return fmt.Errorf("%w: it has taken too long; make a new link", ErrGone)
		case subtle.ConstantTimeCompare([]byte(typed), []byte(l.Digits)) != 1:
			differs = true
			return n.failLink(tx, &l, grantDiffers, CauseNotTrusted, "the digits that were typed are not those that this device has")
		}
		return nil
	})
	if err != nil {
		return DeviceLink{}, apiError(err)
	}
	if differs {
		n.startLetters()
		return DeviceLink{}, fmt.Errorf("%w: the digits differ: somebody may stand between the two devices, or they were mistyped. This link is void; make a new one", ErrNotTrusted)
	}
	account, err := n.accountKey(passphrase)
	if err != nil {
		return DeviceLink{}, err
	}
	err = n.update(func(tx *store.Tx) error {
		now, err := tx.Linking()
		if err != nil || now.Offer != l.Offer || now.State != store.LinkCompare {
			return fmt.Errorf("%w: this link is used", ErrGone)
		}
		l = now
		d, err := handshake.ParseLinkingDevice(l.Device)
		if err != nil {
			return err
		}
		log, err := accountLog(tx)
		if err != nil {
			return err
		}
		if log, err = log.AddDevice(account, n.actor(), d.Request.Cert); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		relay, err := value(tx, nil, setting.Relay)
		if err != nil {
			return err
		}
		l.State = store.LinkGranted
		n.wishes.Add(1)
		return errors.Join(n.postGrant(tx, &l, grant{Log: log.Append(nil), Name: n.device.Name, Relay: relay}), n.putAccount(tx, log), tx.PutLinking(&l), n.noteLink(tx))
	})
	if err != nil {
		return DeviceLink{}, apiError(err)
	}
	n.startLetters()
	return showLink(&l), nil
}

func (n *Node) noteLink(tx *store.Tx) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventLink, Time: n.clock()})
	return err
}

func (n *Node) noteDevice(tx *store.Tx, id [16]byte) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventDevice, Time: n.clock(), Device: id})
	return err
}

// newLastResort makes a key package of last resort for the account's other devices.
func (n *Node) newLastResort(tx *store.Tx, in *store.Inbox) (*mls.KeyPackageBundle, error) {
	b, err := n.keyPackage(in, conversation.LastResort)
	if err != nil {
		return nil, err
	}
	return b, tx.PutBundle(&store.Bundle{Ref: bundleRef(b), Contact: n.account.ID(), LastResort: true, Made: n.clock(), Bundle: b.Marshal()})
}
