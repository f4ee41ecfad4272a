package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"sotto/crypto/identity"
	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// ownLog is the log of this account as far as this device has it durable. It grows while
// the node runs: other devices are added and revoked, here or elsewhere.
type ownLog struct{ p atomic.Pointer[identity.Log] }

func (l *ownLog) now() *identity.Log      { return l.p.Load() }
func (l *ownLog) ID() identity.AccountID  { return l.now().ID() }
func (l *ownLog) Head() identity.Head     { return l.now().Head() }
func (l *ownLog) Party() identity.Party   { return l.now().Party() }
func (l *ownLog) active(id [16]byte) bool { return isActive(l.now(), id) }

func isActive(l *identity.Log, id [16]byte) bool {
	_, state := l.Device(id)
	return state == identity.DeviceActive
}

// readAccount takes the account's log from the vault.
func (n *Node) readAccount() error {
	var d store.Device
	if err := n.db.View(func(tx *store.Tx) (err error) { d, err = tx.Device(); return err }); err != nil {
		return err
	}
	log, err := parseLog(d.Log)
	if err != nil {
		return fmt.Errorf("%w: own account log: %w", ErrDamaged, err)
	}
	n.account.p.Store(log)
	return nil
}

// accountLog returns the account's log as the transaction sees it.
func accountLog(tx *store.Tx) (*identity.Log, error) {
	d, err := tx.Device()
	if err != nil {
		return nil, err
	}
	return parseLog(d.Log)
}

// putAccount writes the account's log and tells of every device that stands otherwise in
// it. The caller calls accountChanged once that is durable.
func (n *Node) putAccount(tx *store.Tx, log *identity.Log) error {
	d, err := tx.Device()
	if err != nil {
		return err
	}
	old, err := parseLog(d.Log)
	if err != nil {
		return err
	}
	d.Log = entries(log)
	if err := tx.PutDevice(&d); err != nil {
		return err
	}
	for _, c := range log.Devices() {
		_, was := old.Device(c.Device)
		_, is := log.Device(c.Device)
		if was == is {
			continue
		}
		if err := errors.Join(n.noteDevice(tx, c.Device), n.tellDevice(tx, log, c, was, is)); err != nil {
			return err
		}
	}
	return nil
}

// tellDevice gives the notice that nobody can suppress.
func (n *Node) tellDevice(tx *store.Tx, log *identity.Log, c identity.DeviceCert, was, is identity.DeviceState) error {
	name := n.deviceName(tx, c.Device)
	what := fmt.Sprintf("%s (%s) is a device of your account now. If you do not know it: sotto device suspend %q.", name, c.Fingerprint(), name)
	switch {
	case is == identity.DeviceActive && was == identity.DeviceSuspended:
		what = fmt.Sprintf("The device %s (%s) is no longer suspended.", name, c.Fingerprint())
	case is == identity.DeviceSuspended:
		what = fmt.Sprintf("The device %s (%s) is suspended: it is taken out of all conversations.", name, c.Fingerprint())
	case is == identity.DeviceRevoked:
		what = fmt.Sprintf("The device %s (%s) is revoked for good.", name, c.Fingerprint())
	}
	return n.notice(tx, what)
}

// accountChanged makes everything follow a log that has become durable.
func (n *Node) accountChanged() {
	if err := n.readAccount(); err != nil {
		n.log.Warn("the account's log is not read", "err", err)
		return
	}
	n.keepUp()
}

// keepUp makes every conversation have the devices that the logs say, and be told.
func (n *Node) keepUp() {
	n.giveHistory()
	n.takeHistory()
	n.task("devices", func(context.Context) error {
		n.mu.Lock()
		var os []*owner
		for _, o := range n.owners {
			os = append(os, o)
		}
		n.mu.Unlock()
		var failed error
		for _, o := range os {
			if o.life.Err() != nil {
				continue
			}
			if err := o.do(func(t *turn) error { return t.keepUp() }); err != nil && o.life.Err() == nil {
				failed = err
			}
		}
		return failed
	})
}

// keepUp does in one conversation what is to be done about devices.
func (t *turn) keepUp() error {
	if t.core.Over || t.core.Leaving || t.core.Frozen != "" {
		return nil
	}
	return errors.Join(t.dismiss(), t.enlist(), t.tellLog(), t.tellRecords())
}

// leaves returns whose the leaves of the group are.
func (t *turn) leaves() (out []conversation.Leaf, err error) {
	for _, m := range t.group.Roster() {
		var l conversation.Leaf
		if l.Account, l.Device, err = conversation.LeafOf(m.Node); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// enlist brings in the devices of this account that are not in the conversation. Nobody
// else can.
func (t *turn) enlist() error {
	if !t.core.Open || len(t.n.account.now().Active()) == 1 {
		return nil
	}
	leaves, err := t.leaves()
	if err != nil {
		return err
	}
	in := map[[16]byte]bool{}
	for _, l := range leaves {
		if l.Account == t.n.account.ID() {
			in[l.Device] = true
		}
	}
	wanted, err := t.tx.Changes(t.o.group)
	if err != nil {
		return err
	}
	for _, c := range wanted {
		if c.What == store.ChangeEnlist {
			for _, d := range c.Devices {
				in[d] = true
			}
		}
	}
	for _, c := range t.n.account.now().Active() {
		if in[c.Device] || c.Device == t.n.device.ID {
			continue
		}
		kp, err := t.packageOf(t.n.account.ID(), c.Device)
		if err != nil {
			return err
		}
		if kp == nil {
			continue // it comes when that device has sent one
		}
		if err := t.want(&store.Change{What: store.ChangeEnlist, Devices: [][16]byte{c.Device}, Packages: [][]byte{kp.Package}}); err != nil {
			return err
		}
	}
	return nil
}

// want notes a change and lets the core hear of it.
func (t *turn) want(c *store.Change) error {
	if err := t.tx.AddChange(t.o.group, c); err != nil {
		return err
	}
	return t.step(conversation.Change{ID: conversation.ChangeID(c.ID)})
}

// packageOf returns the best key package of a device that is held here, nil if there is
// none that is still good.
func (t *turn) packageOf(account [32]byte, device [16]byte) (best *store.Package, err error) {
	stock, err := t.tx.Packages(account)
	if err != nil {
		return nil, err
	}
	for i := range stock {
		p := &stock[i]
		if p.Device != device {
			continue
		}
		kp, err := mls.ParseKeyPackage(p.Package)
		if err != nil {
			return nil, err
		}
		if kp.LeafNode.Lifetime.NotAfter >= uint64(t.now.Unix()) && (best == nil || best.LastResort && !p.LastResort) {
			best = p
		}
	}
	return best, nil
}

// dismiss is the send gate (spec/devices.md, 4): a device that its account has revoked is
// taken out before anything more is said. As a change that the core makes first.
func (t *turn) dismiss() error { _, err := t.dismissed(); return err }

// dismissed is dismiss, and reports whether there was one.
func (t *turn) dismissed() (some bool, err error) {
	leaves, err := t.leaves()
	if err != nil {
		return false, err
	}
	gone := store.Change{What: store.ChangeDismiss}
	for _, l := range leaves {
		log, err := t.logOf(l.Account)
		if err != nil {
			return false, err
		}
		if log == nil {
			continue
		}
		if _, state := log.Device(l.Device); state == identity.DeviceSuspended || state == identity.DeviceRevoked {
			gone.Devices = append(gone.Devices, l.Device)
		}
	}
	if len(gone.Devices) == 0 || slices.Contains(gone.Devices, t.n.device.ID) {
		return false, nil
	}
	wanted, err := t.tx.Changes(t.o.group)
	if err != nil {
		return true, err
	}
	for _, c := range wanted {
		if c.What == store.ChangeDismiss && slices.Equal(c.Devices, gone.Devices) {
			return true, nil
		}
	}
	return true, t.want(&gone)
}

// gate stands before whatever is sent: revoked devices go first, and nothing is said to an
// account whose log is forked.
func (t *turn) gate() error {
	if !t.rec.Many && !t.rec.Own {
		c, err := t.tx.Contact(t.rec.Contact)
		if err != nil {
			return err
		}
		if forked(&c) {
			return fmt.Errorf("%w: %s", ErrFrozen, c.Reason)
		}
	}
	return t.clearOut()
}

// clearOut takes out devices that are revoked, if there may be one.
func (t *turn) clearOut() error {
	if t.group == nil || t.core.Over || t.core.Frozen != "" {
		return nil
	}
	// The leaves of a large group take a while to read: only after a change of either.
	epoch, wishes := t.core.Epoch, t.n.wishes.Load()
	if t.o.gated == [2]uint64{epoch + 1, wishes} {
		return nil
	}
	open, err := t.dismissed()
	if err == nil && !open {
		t.o.gated = [2]uint64{epoch + 1, wishes}
	}
	return err
}

// logOf returns the log of an account as far as it is known here, nil if it is not.
func (t *turn) logOf(account identity.AccountID) (*identity.Log, error) {
	if account == t.n.account.ID() {
		return t.n.account.now(), nil
	}
	c, err := t.tx.Contact(account)
	if errors.Is(err, store.ErrNotFound) || err == nil && len(c.Log) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseLog(c.Log)
}

// tellLog tells the other side of this account's log, with key packages of its devices,
// unless that has heard of its last entry here.
func (t *turn) tellLog() error {
	log := t.n.account.now()
	if t.rec.Many || !t.core.Open || t.rec.LogTold >= uint32(log.Len()) {
		return nil
	}
	t.rec.LogTold = uint32(log.Len())
	t.rec.Lamport++
	if _, err := t.tell(content.NewAccountLog(log.Append(nil), t.now, t.rec.Lamport)); err != nil {
		return err
	}
	if t.rec.Own {
		return nil
	}
	var packages [][]byte
	for _, c := range log.Active() {
		if c.Device == t.n.device.ID {
			continue
		}
		kp, err := t.packageOf(log.ID(), c.Device)
		if err != nil {
			return err
		}
		if kp != nil && len(packages) < maxStock {
			packages = append(packages, kp.Package)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	set, err := log.DeviceSet(t.n.actor())
	if err != nil {
		return err
	}
	t.rec.Lamport++
	_, err = t.tell(content.NewKeyPackages(set.Append(nil), packages, t.now, t.rec.Lamport))
	return err
}

// hearLog takes in what another device says of its account's log.
func (t *turn) hearLog(from conversation.Leaf, raw []byte) error {
	pass := func(why error) error {
		t.n.log.Debug("an account log is passed over", "err", why)
		return nil
	}
	log, err := identity.ParseLog(raw)
	if err != nil || log.ID() != from.Account {
		return pass(fmt.Errorf("not its own: %w", err))
	}
	if from.Account == t.n.account.ID() {
		t.rec.LogTold = max(t.rec.LogTold, uint32(log.Len()))
		return t.n.mergeOwnLog(t.tx, log)
	}
	c, err := t.tx.Contact(from.Account)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	changed, err := t.n.mergeLog(t.tx, &c, log)
	if err != nil || !changed {
		return err
	}
	t.n.wishes.Add(1)
	return errors.Join(t.tx.PutContact(&c), t.n.noteContact(t.tx, c.Account))
}

// mergeOwnLog takes in a log of this account that another device has. Two that nothing
// decides between are shown and not taken.
func (n *Node) mergeOwnLog(tx *store.Tx, log *identity.Log) error {
	old, err := accountLog(tx)
	if err != nil {
		return err
	}
	now, err := old.Update(log)
	switch {
	case errors.Is(err, identity.ErrFork):
		return n.notice(tx, "Two of your devices have different logs of your account: "+err.Error()+". One of them may be in other hands. Change the account key with your recovery words.")
	case err != nil:
		n.log.Debug("an account log is passed over", "err", err)
		return nil
	case now == old:
		return nil
	}
	n.wishes.Add(1)
	return n.putAccount(tx, now)
}

// forked reports whether two logs of a contact are about that nothing decides between.
func forked(c *store.Contact) bool {
	return c.State == store.ContactEstablished && c.Cause == CauseNotTrusted
}

// mergeLog takes a log of a contact into its record, and reports whether the record has
// changed. Two logs that nothing decides between make the contact forked: nothing is sent
// to it until a new account key decides.
func (n *Node) mergeLog(tx *store.Tx, c *store.Contact, log *identity.Log) (changed bool, err error) {
	if len(c.Log) == 0 {
		c.Log = entries(log)
		return true, nil
	}
	old, err := parseLog(c.Log)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	now, err := old.Update(log)
	switch {
	case errors.Is(err, identity.ErrFork):
		if forked(c) {
			return false, nil
		}
		c.Reason, c.Cause = "two different logs of this account are about: somebody may have stolen its key. Nothing is sent until a new key of the account decides", CauseNotTrusted
		return true, n.notice(tx, fmt.Sprintf("Nothing more is sent to %s: %s.", c.Name, c.Reason))
	case err != nil:
		return false, nil
	case now == old:
		return false, nil
	}
	_, before := old.AccountKey()
	if _, after := now.AccountKey(); forked(c) && after > before { // which only the owner has
		c.Reason, c.Cause = "", ""
	}
	return true, takeLog(c, now)
}
