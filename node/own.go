package node

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"time"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/setting"
	"sotto/node/store"
	"sotto/relay/mailbox"
)

// selfGroup returns the conversation among the account's own devices, nil before there is
// one: an account of one device has none.
func selfGroup(tx *store.Tx) []byte {
	own, err := tx.Self()
	if err != nil {
		return nil
	}
	return own.Group
}

// makeSelf makes the conversation among the account's own devices, if there is none, and
// lets it share what there is to share.
func (n *Node) makeSelf(tx *store.Tx) (group []byte, err error) {
	if group := selfGroup(tx); len(group) > 0 {
		return group, nil
	}
	in, err := tx.Inbox()
	if err != nil {
		return nil, err
	}
	g, box, err := n.foundGroup(&in, in.Mailbox.Relay, func(at conversation.MailboxRef) *conversation.GroupInfo {
		return conversation.NewSelf(at, n.account.ID())
	})
	if err != nil {
		return nil, err
	}
	keys, err := openWith(&box, g)
	if err != nil {
		return nil, err
	}
	group = g.GroupID()
	rec := &store.Conversation{Group: group, Contact: n.account.ID(), Relay: box.Relay, Mailbox: box.ID, Made: &box, Since: n.clock(), Own: true}
	core := &conversation.Core{Chain: mailbox.FirstChain(box.ID), Open: true, Updated: n.clock(), Active: n.clock()}
	own, err := tx.Self()
	if err != nil {
		return nil, err
	}
	own.Group = group
	if err := errors.Join(tx.PutSelf(&own), n.putConversation(tx, rec, g, core, keys)); err != nil {
		return nil, err
	}
	contacts, err := tx.Contacts()
	if err != nil {
		return nil, err
	}
	for i := range contacts {
		if err := n.shareContact(tx, contacts[i].Account); err != nil {
			return nil, err
		}
	}
	conversations, err := tx.Conversations()
	if err != nil {
		return nil, err
	}
	groups := [][]byte{nil}
	for i := range conversations {
		groups = append(groups, conversations[i].Group)
	}
	for _, g := range groups {
		set, err := tx.Settings(g)
		if err != nil {
			return nil, err
		}
		for key, s := range set {
			if err := n.shareSetting(tx, g, key, &s); err != nil {
				return nil, err
			}
		}
	}
	return group, nil
}

// Share writes what the account's devices share under a key, for the others to hear of.
// Keys begin with the name of a kind and a slash; see shared. A nil value says that there is
// nothing any more. Without other devices it does nothing.
func (n *Node) share(tx *store.Tx, key string, value []byte) error {
	if len(selfGroup(tx)) == 0 {
		return nil
	}
	r, err := tx.Record(key)
	if err != nil {
		return err
	}
	if r.Lamport > 0 && bytes.Equal(r.Value, value) || r.Lamport == 0 && len(value) == 0 {
		return nil
	}
	n.wishes.Add(1)
	return tx.PutRecord(&store.Record{Key: key, Lamport: r.Lamport + 1, Device: n.device.ID, Value: value, Untold: true})
}

// shared says what is done with what another device has written under a key that begins so.
// A kind that is not known here is kept for devices that know it.
var shared = map[string]func(n *Node, tx *store.Tx, name string, value []byte) error{
	"contact": (*Node).takeContact,
	"device":  (*Node).takeDevice,
	"setting": (*Node).takeSetting,
}

// tellRecords tells the other devices what they have not heard of.
func (t *turn) tellRecords() error {
	if !t.rec.Own || len(t.group.Roster()) < 2 {
		return nil
	}
	untold, err := t.tx.Records(true)
	if err != nil {
		return err
	}
	var batch []content.Record
	size := 0
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		t.rec.Lamport++
		_, err := t.tell(content.NewRecords(batch, t.now, t.rec.Lamport))
		batch, size = nil, 0
		return err
	}
	for i := range untold {
		r := &untold[i]
		out := content.Record{Key: r.Key, Lamport: r.Lamport, Device: r.Device, Value: r.Value}
		if n := out.Size(); size+n > content.MaxRecords {
			if err := send(); err != nil {
				return err
			}
		}
		size += out.Size()
		batch = append(batch, out)
		r.Untold = false
		if err := t.tx.PutRecord(r); err != nil {
			return err
		}
	}
	return send()
}

// retell makes every record be told again: a device has come that knows none.
func (t *turn) retell() error {
	t.n.wishes.Add(1) // history waits for it, too
	all, err := t.tx.Records(false)
	if err != nil {
		return err
	}
	for i := range all {
		all[i].Untold = true
		if err := t.tx.PutRecord(&all[i]); err != nil {
			return err
		}
	}
	return t.tellRecords()
}

// hearRecords takes in what another device of the account shares.
func (t *turn) hearRecords(raw []byte) error {
	records, err := content.ParseRecords(raw)
	if err != nil {
		return nil // a kind that was decoded holds: unreachable
	}
	for i := range records {
		r := &records[i]
		old, err := t.tx.Record(r.Key)
		if err != nil {
			return err
		}
		if !r.Newer(&content.Record{Lamport: old.Lamport, Device: old.Device}) {
			continue
		}
		if err := t.tx.PutRecord(&store.Record{Key: r.Key, Lamport: r.Lamport, Device: r.Device, Value: bytes.Clone(r.Value)}); err != nil {
			return err
		}
		kind, name, _ := strings.Cut(r.Key, "/")
		if take := shared[kind]; take != nil {
			if err := take(t.n, t.tx, name, r.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// sharedContact is what an account's devices share of a contact.
type sharedContact struct {
	Name, Profile     string
	Blocked, Verified bool
	Changed           bool // since it was verified it has another account key
	Log               []byte
	Since             uint64 // Unix milliseconds
}

func (c *sharedContact) fields(f *codec.Fields) {
	sharedVersion(f)
	f.Text(256, &c.Name)
	f.Text(256, &c.Profile)
	f.Flag(&c.Blocked)
	f.Flag(&c.Verified)
	f.Flag(&c.Changed)
	f.Vec(content.MaxRecords, &c.Log)
	f.U64(&c.Since)
}

// sharedVersion is in front of every value: 1. A later one is kept and not understood.
func sharedVersion(f *codec.Fields) {
	v := uint8(1)
	if f.U8(&v); f.OK() && v != 1 {
		f.Fail("version %d", v)
	}
}

// maxSharedLog is how much of a record a contact's account log may take. A longer one the
// other devices hear from the contact.
const maxSharedLog = content.MaxRecords - 4096

// shareContact shares a contact that is complete.
func (n *Node) shareContact(tx *store.Tx, account [32]byte) error {
	c, err := tx.Contact(account)
	if errors.Is(err, store.ErrNotFound) || err == nil && c.State != store.ContactEstablished {
		return nil
	}
	if err != nil {
		return err
	}
	v := sharedContact{Name: c.Name, Profile: c.Profile, Blocked: c.Blocked, Verified: c.Verified, Changed: c.Changed, Since: uint64(c.Since.UnixMilli()), Log: bytes.Join(c.Log, nil)}
	if len(v.Log) > maxSharedLog {
		v.Log = nil
	}
	return n.share(tx, "contact/"+identity.AccountID(account).String(), codec.Write(v.fields))
}

// takeContact takes in what another device shares of a contact.
func (n *Node) takeContact(tx *store.Tx, name string, value []byte) error {
	account, err := identity.ParseAccountID(name)
	var v sharedContact
	if err == nil {
		err = codec.Read(value, v.fields)
	}
	if err != nil || account == n.account.ID() {
		n.log.Debug("a record is passed over", "err", err)
		return nil
	}
	c, err := tx.Contact(account)
	if errors.Is(err, store.ErrNotFound) {
		c = store.Contact{Account: account, State: store.ContactEstablished}
	} else if err != nil {
		return err
	}
	if c.Name != v.Name {
		if c.Name, err = freeName(tx, v.Name, account); err != nil {
			return err
		}
	}
	c.Profile, c.Blocked, c.Verified, c.Changed, c.Since = v.Profile, v.Blocked, v.Verified, v.Changed, time.UnixMilli(int64(v.Since)).UTC()
	if log, err := identity.ParseLog(v.Log); err == nil && log.ID() == account {
		changed, err := n.mergeLog(tx, &c, log)
		if err != nil {
			return err
		}
		if changed {
			n.wishes.Add(1)
		}
	}
	if c.Blocked {
		if err := dropBundles(tx, account); err != nil {
			return err
		}
	}
	return errors.Join(tx.PutContact(&c), n.noteContact(tx, account))
}

// sharedSetting is what an account's devices share of a setting.
type sharedSetting struct {
	Value   string
	Set     bool
	Lamport uint64
	Device  [16]byte
}

func (v *sharedSetting) fields(f *codec.Fields) {
	sharedVersion(f)
	f.Text(4096, &v.Value)
	f.Flag(&v.Set)
	f.U64(&v.Lamport)
	f.Array(v.Device[:])
}

// shareSetting shares a setting, unless it is about the device: which relay it uses.
func (n *Node) shareSetting(tx *store.Tx, group []byte, key string, s *store.Setting) error {
	if key == setting.Relay || key == setting.Ticket {
		return nil
	}
	v := sharedSetting{s.Value, s.Set, s.Lamport, s.Device}
	return n.share(tx, "setting/"+key+"/"+groupID(group), codec.Write(v.fields))
}

// takeSetting takes in what another device has set.
func (n *Node) takeSetting(tx *store.Tx, name string, value []byte) error {
	key, of, _ := strings.Cut(name, "/")
	d, err := setting.Lookup(key)
	var v sharedSetting
	if err == nil {
		err = codec.Read(value, v.fields)
	}
	if err == nil && v.Set {
		_, err = d.Parse(v.Value)
	}
	if err != nil || key == setting.Relay || key == setting.Ticket {
		n.log.Debug("a record is passed over", "err", err)
		return nil
	}
	group := groupOf(of)
	old, err := tx.Setting(group, key)
	now := store.Setting{Value: v.Value, Set: v.Set, Lamport: v.Lamport, Device: v.Device}
	if err != nil || !now.After(&old) {
		return err
	}
	return errors.Join(tx.PutSetting(group, key, &now), n.noteSetting(tx, group, key))
}

// dropBundles takes from a contact what it holds for adding this device to groups.
func dropBundles(tx *store.Tx, account [32]byte) error {
	all, err := tx.Bundles()
	for _, b := range all {
		if b.Contact == account {
			err = errors.Join(err, tx.DeleteBundle(b.Ref))
		}
	}
	return err
}

// sharedDevice is what an account's devices share of one of them.
type sharedDevice struct {
	Name  string
	Added uint64 // Unix milliseconds, by the device that added it
}

func (d *sharedDevice) fields(f *codec.Fields) {
	sharedVersion(f)
	f.Text(256, &d.Name)
	f.U64(&d.Added)
}

// takeDevice tells of what another device shares of one of them.
func (n *Node) takeDevice(tx *store.Tx, name string, value []byte) error {
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		return nil
	}
	return n.noteDevice(tx, id)
}

func (n *Node) sharedDevice(tx *store.Tx, id identity.DeviceID) (d sharedDevice, known bool) {
	r, err := tx.Record("device/" + id.String())
	if err != nil || r.Lamport == 0 || codec.Read(r.Value, d.fields) != nil {
		return sharedDevice{}, false
	}
	return d, true
}

// deviceName is what the user calls a device.
func (n *Node) deviceName(tx *store.Tx, id identity.DeviceID) string {
	if d, ok := n.sharedDevice(tx, id); ok && d.Name != "" {
		return d.Name
	}
	if id == identity.DeviceID(n.device.ID) {
		if own, err := tx.Self(); err == nil && own.Name != "" {
			return own.Name
		}
		return machineName()
	}
	return "device " + id.Short()
}

// machineName is what a device is called that nobody has named.
func machineName() string {
	host, err := os.Hostname()
	if err == nil {
		host, err = identity.NormalizeName(host)
	}
	if err != nil {
		return "first device"
	}
	return host
}

// shareDevice shares a device's name.
func (n *Node) shareDevice(tx *store.Tx, id identity.DeviceID, name string) error {
	d, ok := n.sharedDevice(tx, id)
	if !ok {
		d.Added = uint64(n.clock().UnixMilli())
		if id == identity.DeviceID(n.device.ID) {
			d.Added = uint64(n.device.Created.UnixMilli())
		}
	}
	d.Name = name
	return n.share(tx, "device/"+id.String(), codec.Write(d.fields))
}
