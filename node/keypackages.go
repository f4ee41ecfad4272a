package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// What a contact holds of this device (spec/group.md, section 7).
const (
	oneTimePackages = 2
	lastResortLife  = 28 * 24 * time.Hour
	maxStock        = 8 // of one-time packages kept of a contact's device
)

// handOut gives the contact of a direct conversation key packages of this device, if it
// holds too few.
func (t *turn) handOut() error {
	if t.rec.Many || !t.core.Open || t.core.Frozen != "" || t.core.Over {
		return nil
	}
	oneTime, lastResort := 0, false
	if t.rec.Own {
		// The account's devices could use one twice, each for a conversation of its own.
		oneTime = oneTimePackages
	} else if c, err := t.tx.Contact(t.rec.Contact); err != nil || c.Blocked {
		return err
	}
	all, err := t.tx.Bundles()
	if err != nil {
		return err
	}
	for _, b := range all {
		switch age := t.now.Sub(b.Made); {
		case b.Contact != t.rec.Contact || b.Joining != [32]byte{}:
		case age > lifetimeAfter:
			if err := t.tx.DeleteBundle(b.Ref); err != nil {
				return err
			}
		case !b.LastResort:
			oneTime++
		case age < lastResortLife:
			lastResort = true
		}
	}
	flags := make([]byte, max(oneTimePackages-oneTime, 0))
	if !lastResort {
		flags = append(flags, conversation.LastResort)
	}
	if len(flags) == 0 {
		return nil
	}
	in, err := t.tx.Inbox()
	if err != nil {
		return err
	}
	var packages [][]byte
	for _, flag := range flags {
		b, err := t.n.keyPackage(&in, flag)
		if err != nil {
			return err
		}
		rec := &store.Bundle{Ref: bundleRef(b), Contact: t.rec.Contact, LastResort: flag == conversation.LastResort, Made: t.now, Bundle: b.Marshal()}
		if err := t.tx.PutBundle(rec); err != nil {
			return err
		}
		packages = append(packages, b.KeyPackage().Marshal())
	}
	set, err := t.n.account.now().DeviceSet(t.n.actor())
	if err != nil {
		return err
	}
	t.rec.Lamport++
	_, err = t.tell(content.NewKeyPackages(set.Append(nil), packages, t.now, t.rec.Lamport))
	return err
}

// bundleRef names a key package of ours.
func bundleRef(b *mls.KeyPackageBundle) [32]byte { return sha256.Sum256(b.Ref()) }

// tell sends what is no line of the conversation, and returns its id.
func (t *turn) tell(c *content.Message) (content.ID, error) {
	if err := t.clearOut(); err != nil {
		return content.ID{}, err
	}
	encoded, err := c.Encode()
	if err != nil {
		return content.ID{}, err
	}
	account := t.n.account.ID()
	id := content.IDOf(account, t.o.group, encoded, c.Salt)
	m := &store.Message{ID: id, Mine: true, From: account, Sent: c.Sent, Arrived: t.now, State: store.MessageQueued, Kind: store.KindHidden, Content: encoded}
	m.Alone()
	if err := t.tx.PutMessage(t.o.group, m); err != nil {
		return id, err
	}
	return id, t.step(conversation.Send{ID: id})
}

// announce tells a group that this device is new in what its user is called.
func (t *turn) announce() error {
	if !t.rec.Many || t.rec.Announced || t.core.Over {
		return nil
	}
	t.rec.Announced = true
	t.rec.Lamport++
	_, err := t.tell(content.NewName(t.n.device.Name, t.now, t.rec.Lamport))
	return err
}

// hear deals with what is no line of the conversation. What is wrong with it makes it be
// passed over.
func (t *turn) hear(from conversation.Leaf, c *content.Message, it *item) error {
	switch c.Kind {
	case content.Name:
		name, err := identity.NormalizeName(c.Text)
		if err != nil || !t.rec.Many {
			return nil
		}
		t.events = true
		return errors.Join(t.tx.PutName(t.o.group, from.Account, name), t.n.noteConversation(t.tx, t.o.group))
	case content.KeyPackages:
		t.events = true // who can be added may be another now
		return errors.Join(t.takePackages(from, c), t.n.noteConversation(t.tx, t.o.group))
	case content.AccountLog:
		t.events = true
		return t.hearLog(from, c.Bytes)
	case content.Records:
		if !t.rec.Own { // T42: only among one's own devices
			return nil
		}
		t.events = true
		return t.hearRecords(c.Bytes)
	case content.History:
		if !t.rec.Own {
			return nil
		}
		t.events = true
		return t.hearHistory(from, c.Bytes)
	}
	if t.blocked(from.Account) {
		return nil
	}
	switch c.Kind {
	case content.GroupRequest, content.GroupRefusal:
		return t.takeRequest(c, it.rights)
	case content.Receipt:
		return t.takeReceipt(c, it)
	case content.Typing:
		return t.takeTyping(c, it)
	}
	return t.apply(c, it)
}

// takePackages keeps what a contact's device hands out.
func (t *turn) takePackages(from conversation.Leaf, c *content.Message) error {
	pass := func(why error) error {
		t.n.log.Debug("key packages are passed over", "err", why)
		return nil
	}
	if t.rec.Many || from.Account != t.rec.Contact {
		return pass(fmt.Errorf("not of the contact"))
	}
	log, err := t.logOf(t.rec.Contact)
	if err != nil {
		return err
	}
	if log == nil {
		return pass(fmt.Errorf("the contact's log is not known here"))
	}
	set, err := identity.ParseDeviceSet(c.DeviceSet)
	if err == nil {
		err = set.Verify(log)
	}
	if err != nil {
		return pass(err)
	}
	stock, err := t.tx.Packages(t.rec.Contact)
	if err != nil {
		return err
	}
	for _, raw := range c.Packages {
		kp, account, err := readPackage(raw)
		if err != nil {
			return pass(err)
		}
		l, err := conversation.ReadLeaf(kp.LeafNode)
		if err != nil || account != from.Account || l.Device != from.Device && !isLastResort(kp) || !isActive(log, l.Device) {
			return pass(fmt.Errorf("a key package of another device (%v)", err))
		}
		if l.Device == t.n.device.ID {
			continue
		}
		p := store.Package{Contact: t.rec.Contact, Device: l.Device, LastResort: isLastResort(kp), Package: raw}
		// A new last resort replaces the old one; of the others the oldest go.
		same := 0
		for i := len(stock) - 1; i >= 0; i-- {
			if o := &stock[i]; o.Device == p.Device && o.LastResort == p.LastResort {
				if same++; p.LastResort || same >= maxStock {
					if err := t.tx.DeletePackage(o); err != nil {
						return err
					}
				}
			}
		}
		if err := t.tx.AddPackage(&p); err != nil {
			return err
		}
	}
	if t.rec.Own {
		t.n.wishes.Add(1)
	}
	return nil
}

func isLastResort(kp *mls.KeyPackage) bool {
	flags, ok := kp.Extensions.Get(mls.ExtensionType(conversation.ExtensionKeyPackage))
	return ok && len(flags) == 1 && flags[0]&conversation.LastResort != 0
}

// readPackage reads and verifies a key package and says whose it is.
func readPackage(raw []byte) (*mls.KeyPackage, identity.AccountID, error) {
	kp, err := mls.ParseKeyPackage(raw)
	if err != nil {
		return nil, identity.AccountID{}, err
	}
	if kp.Suite != mls.XWing {
		return nil, identity.AccountID{}, fmt.Errorf("a key package of suite %v", kp.Suite)
	}
	if err := kp.Verify(); err != nil {
		return nil, identity.AccountID{}, err
	}
	l, err := conversation.ReadLeaf(kp.LeafNode)
	return kp, l.Account, err
}

// setAside takes a key package of each device of a contact out of the stock, to add
// them all to a group.
func (t *turn) setAside(c *store.Contact) (packages [][]byte, err error) {
	log, err := parseLog(c.Log)
	if err != nil {
		return nil, err
	}
	for _, d := range log.Active() {
		best, err := t.packageOf(c.Account, d.Device)
		if err != nil {
			return nil, err
		}
		if best == nil {
			return nil, fmt.Errorf("%w: %s cannot be added to a group yet: what that takes comes from their node when it is online", ErrNotReady, c.Name)
		}
		if !best.LastResort {
			if err := t.tx.DeletePackage(best); err != nil {
				return nil, err
			}
		}
		packages = append(packages, best.Package)
	}
	return packages, nil
}
