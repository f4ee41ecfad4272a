package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sotto/crypto/codec"
	"sotto/crypto/envelope"
	"sotto/crypto/handshake"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/setting"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/vault"
)

// EnterOptions says how a new home becomes a device of an account that there is.
type EnterOptions struct {
	Options        // Passphrase opens the new vault
	Link    string // of the existing device; "" goes on with one that was entered before
	Name    string // of the device; "" is the machine's
	Params  vault.Params

	// Show shows the digits, which the person then types at the existing device.
	Show func(digits string)
}

// Enter makes a home whose machine becomes a device of the account that a link is of. It
// works until the existing device has decided. What was begun and interrupted goes on when
// it is called again; what has failed for good leaves no home.
//
// It returns ErrInvalid for a text that is no device link, ErrGone for one that is used,
// revoked, expired or was refused, ErrNotTrusted if the digits differed or bytes did not
// hold, and ErrExists if there is an account in the home.
func Enter(ctx context.Context, home string, o EnterOptions) (InitResult, error) {
	o.complete()
	name := o.Name
	if name == "" {
		name = machineName()
	}
	name, err := identity.NormalizeName(name)
	if err != nil {
		return InitResult{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(o.Passphrase) == 0 {
		return InitResult{}, fmt.Errorf("%w: an empty passphrase", ErrInvalid)
	}
	if o.Link != "" {
		link, err := handshake.ParseDeviceLink(o.Link)
		if err != nil {
			return InitResult{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if err := link.Check(uint32(mailbox.MinuteOf(o.Clock()))); err != nil {
			return InitResult{}, fmt.Errorf("%w: %w", ErrGone, err)
		}
	}
	n, err := openEntering(home, o)
	if err != nil {
		return InitResult{}, apiError(err)
	}
	err = n.view(func(tx *store.Tx) error { _, err := tx.Device(); return err })
	if err == nil {
		return InitResult{}, errors.Join(fmt.Errorf("%w: there is an account in %s", ErrExists, home), n.db.Close())
	}
	if !errors.Is(err, store.ErrNotFound) {
		return InitResult{}, errors.Join(apiError(err), n.db.Close())
	}
	err = n.beginEntering(o.Link, name)
	if err == nil {
		err = n.enter(ctx, o.Show)
	}
	var out InitResult
	if err == nil {
		err = n.load()
		out = InitResult{Account: n.account.ID().String(), Device: identity.DeviceID(n.device.ID).String()}
	}
	for _, r := range n.relays {
		r.close()
	}
	if closing := n.db.Close(); err == nil {
		err = closing
	}
	var over *finalError
	if errors.As(err, &over) {
		// Nothing is in the vault but what was for this link.
		as := map[string]error{CauseInvalid: ErrInvalid, CauseGone: ErrGone, CauseNotTrusted: ErrNotTrusted}[over.cause]
		return InitResult{}, errors.Join(fmt.Errorf("%w: %w", as, err), os.RemoveAll(filepath.Join(home, vaultDir)))
	}
	return out, apiError(err)
}

// openEntering opens the vault of a device that is being linked, and makes it first.
func openEntering(home string, o EnterOptions) (*Node, error) {
	dir := filepath.Join(home, vaultDir)
	there, err := vault.Exists(dir)
	if err != nil {
		return nil, err
	}
	if there {
		v, err := vault.Open(dir, vault.Unlock{Passphrase: o.Passphrase}, o.vault())
		if err != nil {
			return nil, err
		}
		return newNode(home, o.Options, v)
	}
	if o.Link == "" {
		return nil, fmt.Errorf("%w: no link was entered in %s", ErrNotFound, home)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	if o.Params == (vault.Params{}) {
		o.Params = vault.DefaultParams
	}
	v, err := vault.Create(dir, vault.Options{Passphrase: o.Passphrase, Params: o.Params, Config: o.vault()})
	if err != nil {
		return nil, fmt.Errorf("make vault: %w", err)
	}
	return newNode(home, o.Options, v)
}

// beginEntering writes down what is to be entered, unless it is under way.
func (n *Node) beginEntering(link, name string) error {
	return n.update(func(tx *store.Tx) error {
		e, err := tx.Entering()
		if err == nil && (link == "" || e.Link == strings.TrimSpace(link)) {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if link == "" {
			return fmt.Errorf("%w: no link was entered in %s", ErrNotFound, n.home)
		}
		return tx.PutEntering(&store.Entering{Link: strings.TrimSpace(link), Tag: random16(), Step: store.EnterTaking, Name: name,
			Device: store.Device{ID: identity.NewDeviceID(), Seed: key.NewDevice().Seed(), Handshake: key.NewNoise().Seed(), Sealing: key.NewSealing().Seed(), Created: n.clock()}})
	})
}

// enter goes on until the device is one of the account.
func (n *Node) enter(ctx context.Context, show func(string)) error {
	shown := false
	for failures := 0; ; failures++ {
		var e store.Entering
		err := n.view(func(tx *store.Tx) (err error) { e, err = tx.Entering(); return err })
		if errors.Is(err, store.ErrNotFound) {
			return nil // done
		}
		if err != nil {
			return err
		}
		link, err := handshake.ParseDeviceLink(e.Link)
		if err != nil {
			return final(CauseInvalid, "%v", err)
		}
		end := mailbox.Minute(link.Expires).Time()
		if e.Step != store.EnterTaking {
			end = end.Add(compareLife)
		}
		left := end.Sub(n.clock())
		if left <= 0 {
			return final(CauseGone, "the existing device has not answered in time; make a new link there")
		}
		n.sealing = key.SealingFromSeed(e.Device.Sealing)
		if e.Step == store.EnterShowing && !shown && show != nil {
			d, err := handshake.ParseNewDevice(e.State)
			if err != nil {
				return err
			}
			show(d.SAS())
			shown = true
		}
		step, cancel := context.WithTimeout(ctx, left)
		switch e.Step {
		case store.EnterTaking:
			err = n.takeDeviceOffer(step, &e, link)
		case store.EnterSending:
			err = n.postEntry(step, &e, store.EnterWaiting)
		default:
			if len(e.Entry) > 0 {
				err = n.postEntry(step, &e, e.Step)
			} else {
				err = n.awaitLetters(step, e.Step)
			}
		}
		cancel()
		var over *finalError
		switch {
		case err == nil:
			failures = 0
			continue
		case errors.As(err, &over):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		n.log.Debug("the device is not linked yet", "err", err)
		// At the end of its time the loop says so.
		if step.Err() == nil && !pause(ctx, failures, nil) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// changeEntering changes the state of a link that is at this step.
func (n *Node) changeEntering(step uint8, change func(tx *store.Tx, e *store.Entering) error) error {
	return n.update(func(tx *store.Tx) error {
		e, err := tx.Entering()
		if err != nil || e.Step != step {
			return err
		}
		if err := change(tx, &e); err != nil {
			return err
		}
		return tx.PutEntering(&e)
	})
}

// takeDeviceOffer takes the offer out of its slot and makes the request.
func (n *Node) takeDeviceOffer(ctx context.Context, e *store.Entering, link handshake.Link) error {
	at, err := linkAddress(link)
	if err != nil {
		return final(CauseInvalid, "the link names no relay that this version can reach: %v", err)
	}
	value, err := n.takeSlot(ctx, link, at, e.Tag, "the link has been used at another device; if that was not yours, look at sotto device list there", "the existing device has ended this link")
	if err != nil {
		return err
	}
	offer, err := link.OpenOffer(wire.SlotID(link.Relay, link.Secret.SlotRead().Public()), value)
	if err != nil {
		return final(CauseNotTrusted, "%v", err)
	}
	peer, err := wire.ReadAddress(offer.Inbox.Relay)
	if err != nil {
		return final(CauseNotTrusted, "%v: its inbox: %v", handshake.ErrOffer, err)
	}
	if err := n.ensureInbox(at, offer.Ticket); err != nil {
		return err
	}
	in, err := n.openInbox(ctx)
	if err != nil {
		return err
	}
	ref, err := n.inboxRef(&in)
	if err != nil {
		return err
	}
	device, handshakeKey := key.DeviceFromSeed(e.Device.Seed), key.NoiseFromSeed(e.Device.Handshake)
	cert := identity.DeviceCert{Device: e.Device.ID, DeviceKey: device.Public(), HandshakeKey: handshakeKey.Public(), SealingHash: identity.SealingHash(n.sealing.Public())}
	body, state, err := handshake.BeginDevice(link, offer, handshakeKey, handshake.DeviceRequest{Cert: cert, Inbox: ref, Name: e.Name})
	if err != nil {
		return final(CauseNotTrusted, "the link cannot be answered: %v", err)
	}
	entry, err := envelope.SealLetter(offer.Inbox.SealingKey, offer.Inbox.Mailbox, envelope.LinkRequest, body)
	if err != nil {
		return final(CauseNotTrusted, "the link cannot be answered: %v", err)
	}
	return n.changeEntering(store.EnterTaking, func(tx *store.Tx, e *store.Entering) error {
		e.Step, e.State, e.Entry, e.By, e.Log = store.EnterSending, state.Append(nil), entry, offer.Device, entries(offer.Log)
		e.Relay, e.Inbox, e.AppendSeed = peer.String(), offer.Inbox.Mailbox, offer.Inbox.AppendKey.Seed()
		// What the letters that follow are sealed to.
		e.Sealing = offer.Inbox.SealingKey.Bytes()
		return nil
	})
}

// postEntry sends what is to be sent to the existing device.
func (n *Node) postEntry(ctx context.Context, e *store.Entering, next uint8) error {
	if err := n.deposit(ctx, e.Relay, e.Inbox, e.AppendSeed, e.Entry); err != nil {
		return err
	}
	return n.changeEntering(e.Step, func(tx *store.Tx, now *store.Entering) error {
		now.Step, now.Entry = next, nil
		return nil
	})
}

// errStep ends the reading of letters: the link has got further.
var errStep = errors.New("the link has got further")

// awaitLetters reads the inbox until the link gets further than step.
func (n *Node) awaitLetters(ctx context.Context, step uint8) error {
	in, err := n.openInbox(ctx)
	if err != nil {
		return err
	}
	r, err := n.relayAt(in.Mailbox.Relay)
	if err != nil {
		return err
	}
	err = r.client.Subscribe(ctx, key.CapabilityFromSeed(in.Read), in.Mailbox.ID, 0, client.Place{At: in.Cursor, Chain: in.Chain}, func(p *client.Page) error {
		for _, it := range p.Items {
			further := false
			err := n.update(func(tx *store.Tx) error {
				in, err := tx.Inbox()
				if err != nil {
					return err
				}
				behind(&in, &it)
				if err := tx.PutInbox(&in); err != nil || it.Entry == nil {
					return err
				}
				t, body, err := envelope.OpenLetter(n.sealing, in.Mailbox.ID, it.Entry.Payload)
				if err != nil {
					return nil // anybody can write there
				}
				further, err = n.linkLetter(tx, &in, t, body)
				return err
			})
			if err != nil {
				return err
			}
			if further {
				return errStep
			}
		}
		return nil
	})
	if errors.Is(err, errStep) {
		return nil
	}
	return err
}

// linkLetter takes in what the existing device says, and reports whether the link has got
// further. Letters that do not hold are passed over.
func (n *Node) linkLetter(tx *store.Tx, in *store.Inbox, t envelope.LetterType, body []byte) (further bool, err error) {
	e, err := tx.Entering()
	if err != nil || len(e.State) == 0 {
		return false, err
	}
	d, err := handshake.ParseNewDevice(e.State)
	if err != nil {
		return false, err
	}
	switch {
	case t == envelope.LinkAnswer && e.Step == store.EnterWaiting:
		b, err := handshake.ParseAcceptBody(body)
		if err != nil {
			return false, nil
		}
		_, reveal, err := d.Answer(b)
		if err != nil {
			n.log.Debug("a letter is passed over", "err", err)
			return false, nil
		}
		if e.Entry, err = n.toExisting(&e, reveal); err != nil {
			return false, err
		}
		e.Step, e.State = store.EnterShowing, d.Append(nil)
		return true, tx.PutEntering(&e)
	case t == envelope.LinkMessage && e.Step == store.EnterShowing:
		b, err := handshake.ParseLinkBody(body)
		if err != nil {
			return false, nil
		}
		payload, err := d.Grant(b)
		if err != nil {
			n.log.Debug("a letter is passed over", "err", err)
			return false, nil
		}
		var g grant
		if err := codec.Read(payload, g.fields); err != nil {
			return false, final(CauseInvalid, "the existing device has answered in a way that this version does not know: %v", err)
		}
		return true, n.entered(tx, in, &e, d, &g)
	}
	return false, nil
}

// toExisting seals a letter to the existing device.
func (n *Node) toExisting(e *store.Entering, body []byte) ([]byte, error) {
	to, err := key.ParseSealing(e.Sealing)
	if err != nil {
		return nil, err
	}
	return envelope.SealLetter(to, e.Inbox, envelope.LinkMessage, body)
}

// entered makes this device one of the account, if the existing device has granted that.
func (n *Node) entered(tx *store.Tx, in *store.Inbox, e *store.Entering, d *handshake.NewDevice, g *grant) error {
	switch g.Verdict {
	case grantGiven:
	case grantDiffers:
		return final(CauseNotTrusted, "the digits that were typed at the existing device are not those that this one shows: somebody may stand between them, or they were mistyped; make a new link")
	default:
		return final(CauseGone, "the existing device has refused, or it has taken too long; make a new link")
	}
	log, err := identity.ParseLog(g.Log)
	if err != nil {
		return final(CauseNotTrusted, "the account's log does not hold: %v", err)
	}
	offered, err := parseLog(e.Log)
	if err != nil {
		return err
	}
	cert, state := log.Device(e.Device.ID)
	switch {
	case log.ID() != offered.ID() || !log.Contains(offered.Head()):
		return final(CauseNotTrusted, "the log is another account's than the link is of")
	case state != identity.DeviceActive || cert.DeviceKey != key.DeviceFromSeed(e.Device.Seed).Public():
		return final(CauseNotTrusted, "the account's log does not have this device")
	case !isActive(log, e.By):
		return final(CauseNotTrusted, "the account does not have the device that made the link")
	}
	name, err := identity.NormalizeName(g.Name)
	if err != nil {
		return final(CauseNotTrusted, "the profile name: %v", err)
	}
	dev := e.Device
	dev.Name, dev.Log = name, entries(log)
	if g.Relay != "" {
		if _, err := wire.ParseAddress(g.Relay); err != nil {
			return final(CauseNotTrusted, "the account's relay: %v", err)
		}
		if err := tx.PutSetting(nil, setting.Relay, &store.Setting{Value: g.Relay, Set: true, Lamport: 1, Device: dev.ID}); err != nil {
			return err
		}
	}
	if err := errors.Join(tx.PutDevice(&dev), tx.PutSelf(&store.Self{Name: e.Name}), tx.PutEntering(nil)); err != nil {
		return err
	}
	n.device, n.signer = dev, key.DeviceFromSeed(dev.Seed)
	n.account.p.Store(log)
	bundle, err := n.newLastResort(tx, in)
	if err != nil {
		return err
	}
	body, err := d.Ready(codec.Write((&ready{KeyPackage: bundle.KeyPackage().Marshal()}).fields))
	if err != nil {
		return err
	}
	entry, err := n.toExisting(e, body)
	if err != nil {
		return err
	}
	return tx.AddLetter(&store.Letter{Relay: e.Relay, Inbox: e.Inbox, AppendSeed: e.AppendSeed, Entry: entry})
}
