// Package store is the schema of a node's vault: a type for each kind of record, the
// table it lies in, and how it is forgotten. Package node decides what goes into
// one transaction.
//
// Records of conversations lie in a partition named by the group's id. Those of
// MLS, and what came of it, are sealed under a key of their epoch, and messages under
// one of their day, so that both can be made unreadable (spec/vault.md).
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"sotto/crypto/mls"
	"sotto/storage/search"
	"sotto/storage/vault"
)

// Schema is the version of the tables below: 1 since the beginning.
const Schema = 1

// ErrNotFound is returned for a record that is not there.
var ErrNotFound = vault.ErrNotFound

// The tables. Numbers are never used again.
const (
	tDevice       vault.Table = 1
	tInbox        vault.Table = 2
	tInvite       vault.Table = 3
	tAcceptance   vault.Table = 4
	tContact      vault.Table = 5
	tConversation vault.Table = 6
	tMLS          vault.Table = 7  // by conversation: records of crypto/mls
	tEpoch        vault.Table = 8  // by conversation: EpochKeys
	tSeen         vault.Table = 9  // by conversation: hashes of MLS messages that were dealt with
	tOutgoing     vault.Table = 10 // by conversation: the outbox, in its order
	tMessage      vault.Table = 11 // by conversation, by place
	tPlace        vault.Table = 12 // by conversation: where a message id stands
	tLetter       vault.Table = 13
	tEvent        vault.Table = 14
	tSetting      vault.Table = 15 // by conversation, or of all
	tStaged       vault.Table = 16 // by conversation: a commit of ours that is undecided
	tBundle       vault.Table = 17 // key packages that contacts hold
	tPackage      vault.Table = 18 // by contact: key packages of theirs
	tChange       vault.Table = 19 // by conversation: what the user wants changed
	tName         vault.Table = 20 // by conversation: what members call themselves
	tGarbage      vault.Table = 30 // blobs of ours that nobody needs
	tInvited      vault.Table = 31 // welcomes whose invitation is still at a relay
	tJoining      vault.Table = 33 // links to groups that were opened here
	tRequest      vault.Table = 34 // by conversation: who asks to be let in
	tRenewed      vault.Table = 32 // by conversation: when a device last renewed its keys
	tLinking      vault.Table = 35 // a device that is being linked by this one
	tEntering     vault.Table = 36 // the account that this device is being linked to
	tRecord       vault.Table = 37 // by key: what the account's devices share
	tSighting     vault.Table = 38 // by device: what this one knows of another of the account
	tHandover     vault.Table = 39 // by device: history that is given to it
	tPack         vault.Table = 40 // history that was given to this device
	tProgress     vault.Table = 41 // how much of it has come
	tSelf         vault.Table = 42 // what this device is among the account's
	tContext      vault.Table = 56 // by conversation: the group contexts that messages were signed in
	tCredential   vault.Table = 57 // by conversation: of those who said something
)

// The sequences.
const (
	seqEvent  = "event"
	seqOrder  = "outbox"
	seqLetter = "letter"
	seqChange = "change"
)

// DB is the node's vault. Its methods are those of vault.Vault.
type DB struct {
	*vault.Vault
	Index *search.Index // of messages; nil where none are written
}

// View runs f on a snapshot.
func (db DB) View(f func(*Tx) error) error {
	return db.Vault.View(func(tx *vault.Tx) error { return f(&Tx{tx, db.Index}) })
}

// Update runs f and makes what it wrote durable; see vault.Vault.Update.
func (db DB) Update(f func(*Tx) error) error {
	return db.Vault.Update(func(tx *vault.Tx) error { return f(&Tx{tx, db.Index}) })
}

// Tx is a transaction.
type Tx struct {
	tx     *vault.Tx
	search *search.Index
}

// Size returns how many bytes have been written.
func (t *Tx) Size() int64 { return t.tx.Size() }

func (t *Tx) get(r vault.Ref, rec record) error {
	b, err := t.tx.Get(r)
	if err != nil {
		return err
	}
	return decode(b, rec)
}

func (t *Tx) put(r vault.Ref, b vault.Bucket, rec record) error { return t.tx.Put(r, b, encode(rec)) }

func load[T any, P interface {
	*T
	record
}](t *Tx, r vault.Ref) (T, error) {
	var v T
	err := t.get(r, P(&v))
	return v, err
}

func all[T any, P interface {
	*T
	record
}](t *Tx, table vault.Table, partition string) (out []T, err error) {
	for r, err := range t.tx.Range(table, partition, "", false) {
		if err != nil {
			return nil, err
		}
		var v T
		if err := decode(r.Value, P(&v)); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

var plain vault.Bucket

// Device returns this device, or ErrNotFound before there is one.
func (t *Tx) Device() (Device, error) { return load[Device](t, vault.Ref{Table: tDevice}) }

// PutDevice writes this device.
func (t *Tx) PutDevice(d *Device) error { return t.put(vault.Ref{Table: tDevice}, plain, d) }

// Inbox returns this device's inbox, or ErrNotFound.
func (t *Tx) Inbox() (Inbox, error) { return load[Inbox](t, vault.Ref{Table: tInbox}) }

// PutInbox writes it.
func (t *Tx) PutInbox(i *Inbox) error { return t.put(vault.Ref{Table: tInbox}, plain, i) }

// Invite returns the invite whose offer has this hash, or ErrNotFound.
func (t *Tx) Invite(offer [32]byte) (Invite, error) {
	return load[Invite](t, vault.Ref{Table: tInvite, Partition: meeting, Order: string(offer[:])})
}

// PutInvite writes it.
func (t *Tx) PutInvite(i *Invite) error {
	return t.put(vault.Ref{Table: tInvite, Partition: meeting, Order: string(i.OfferHash[:])}, meetingBucket, i)
}

// DeleteInvite removes it.
func (t *Tx) DeleteInvite(offer [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tInvite, Partition: meeting, Order: string(offer[:])})
}

// Invites returns all of them.
func (t *Tx) Invites() ([]Invite, error) { return all[Invite](t, tInvite, meeting) }

// Acceptance returns an invite that was opened here, or ErrNotFound.
func (t *Tx) Acceptance(id [32]byte) (Acceptance, error) {
	return load[Acceptance](t, vault.Ref{Table: tAcceptance, Partition: meeting, Order: string(id[:])})
}

// PutAcceptance writes it.
func (t *Tx) PutAcceptance(a *Acceptance) error {
	return t.put(vault.Ref{Table: tAcceptance, Partition: meeting, Order: string(a.ID[:])}, meetingBucket, a)
}

// Acceptances returns all of them.
func (t *Tx) Acceptances() ([]Acceptance, error) { return all[Acceptance](t, tAcceptance, meeting) }

// Contact returns a contact, or ErrNotFound.
func (t *Tx) Contact(account [32]byte) (Contact, error) {
	return load[Contact](t, vault.Ref{Table: tContact, Order: string(account[:])})
}

// PutContact writes it.
func (t *Tx) PutContact(c *Contact) error {
	return t.put(vault.Ref{Table: tContact, Order: string(c.Account[:])}, plain, c)
}

// DeleteContact removes it.
func (t *Tx) DeleteContact(account [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tContact, Order: string(account[:])})
}

// Contacts returns all of them, the oldest first.
func (t *Tx) Contacts() ([]Contact, error) {
	out, err := all[Contact](t, tContact, "")
	slices.SortStableFunc(out, func(a, b Contact) int { return a.Since.Compare(b.Since) })
	return out, err
}

// Conversation returns a conversation, or ErrNotFound.
func (t *Tx) Conversation(group []byte) (Conversation, error) {
	return load[Conversation](t, vault.Ref{Table: tConversation, Order: string(group)})
}

// PutConversation writes it.
func (t *Tx) PutConversation(c *Conversation) error {
	return t.put(vault.Ref{Table: tConversation, Order: string(c.Group)}, plain, c)
}

// Conversations returns all of them, the oldest first.
func (t *Tx) Conversations() ([]Conversation, error) {
	out, err := all[Conversation](t, tConversation, "")
	slices.SortStableFunc(out, func(a, b Conversation) int { return a.Since.Compare(b.Since) })
	return out, err
}

// DeleteConversation removes a conversation with everything of it.
func (t *Tx) DeleteConversation(group []byte) error {
	if err := t.ForgetGroup(group); err != nil {
		return err
	}
	if err := t.clear(group, slices.Concat([]vault.Table{tMessage, tPlace, tName, tContext, tCredential, tSetting, tSent}, messageTables, evidenceTables)...); err != nil {
		return err
	}
	if err := t.unindexConversation(group); err != nil {
		return err
	}
	if err := t.dropBuckets(vault.Messages, group); err != nil {
		return err
	}
	if _, err := t.tx.Next(seqErased); err != nil {
		return err
	}
	return t.tx.Delete(vault.Ref{Table: tConversation, Order: string(group)})
}

// ForgetGroup removes the cryptographic side of a conversation: its history stays.
func (t *Tx) ForgetGroup(group []byte) error {
	if err := t.clear(group, tMLS, tEpoch, tSeen, tStaged, tOutgoing, tChange, tRenewed, tRequest); err != nil {
		return err
	}
	return t.dropBuckets(vault.MLS, group)
}

// clear removes all records of a partition in these tables.
func (t *Tx) clear(partition []byte, tables ...vault.Table) error {
	for _, table := range tables {
		var orders []string
		for o, err := range t.tx.Orders(table, string(partition), "", false) {
			if err != nil {
				return err
			}
			orders = append(orders, o)
		}
		for _, o := range orders {
			if err := t.tx.Delete(vault.Ref{Table: table, Partition: string(partition), Order: o}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Tx) dropBuckets(d vault.Domain, partition []byte) error {
	numbers, err := t.tx.Buckets(d, string(partition))
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := t.tx.DropBucket(vault.Bucket{Domain: d, Partition: string(partition), Number: n}); err != nil {
			return err
		}
	}
	return nil
}

// Bundle returns a key package that a contact holds, by its hash, or ErrNotFound.
func (t *Tx) Bundle(ref [32]byte) (Bundle, error) {
	return load[Bundle](t, vault.Ref{Table: tBundle, Partition: meeting, Order: string(ref[:])})
}

// PutBundle writes it.
func (t *Tx) PutBundle(b *Bundle) error {
	return t.put(vault.Ref{Table: tBundle, Partition: meeting, Order: string(b.Ref[:])}, meetingBucket, b)
}

// DeleteBundle removes it.
func (t *Tx) DeleteBundle(ref [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tBundle, Partition: meeting, Order: string(ref[:])})
}

// Bundles returns all of them.
func (t *Tx) Bundles() ([]Bundle, error) { return all[Bundle](t, tBundle, meeting) }

// AddPackage writes a key package of a contact's device.
func (t *Tx) AddPackage(p *Package) (err error) {
	if p.Number, err = t.tx.Next(seqOrder); err != nil {
		return err
	}
	return t.put(vault.Ref{Table: tPackage, Partition: string(p.Contact[:]), Order: vault.U64(p.Number)}, plain, p)
}

// DeletePackage removes it.
func (t *Tx) DeletePackage(p *Package) error {
	return t.tx.Delete(vault.Ref{Table: tPackage, Partition: string(p.Contact[:]), Order: vault.U64(p.Number)})
}

// Packages returns the key packages of a contact's devices, the oldest first.
func (t *Tx) Packages(contact [32]byte) ([]Package, error) {
	return all[Package](t, tPackage, string(contact[:]))
}

// AddChange writes a change that is wanted.
func (t *Tx) AddChange(group []byte, c *Change) (err error) {
	if c.ID, err = t.tx.Next(seqChange); err != nil {
		return err
	}
	return t.PutChange(group, c)
}

func changeRef(group []byte, id uint64) vault.Ref {
	return vault.Ref{Table: tChange, Partition: string(group), Order: vault.U64(id)}
}

// PutChange writes it again.
func (t *Tx) PutChange(group []byte, c *Change) error { return t.put(changeRef(group, c.ID), plain, c) }

// Change returns it, or ErrNotFound.
func (t *Tx) Change(group []byte, id uint64) (Change, error) {
	return load[Change](t, changeRef(group, id))
}

// DeleteChange removes it.
func (t *Tx) DeleteChange(group []byte, id uint64) error { return t.tx.Delete(changeRef(group, id)) }

// Changes returns what the user wants changed, in order.
func (t *Tx) Changes(group []byte) ([]Change, error) { return all[Change](t, tChange, string(group)) }

// Name returns what a member of a group calls itself; "" if it has not said.
func (t *Tx) Name(group []byte, account [32]byte) (string, error) {
	b, err := t.tx.Get(vault.Ref{Table: tName, Partition: string(group), Order: string(account[:])})
	if errors.Is(err, vault.ErrNotFound) {
		return "", nil
	}
	return string(b), err
}

// PutName writes it.
func (t *Tx) PutName(group []byte, account [32]byte, name string) error {
	return t.tx.Put(vault.Ref{Table: tName, Partition: string(group), Order: string(account[:])}, plain, []byte(name))
}

func epochBucket(group []byte, epoch uint64) vault.Bucket {
	return vault.Bucket{Domain: vault.MLS, Partition: string(group), Number: epoch}
}

// currentBucket holds the MLS records whose names have no epoch, and staged commits.
const currentBucket = 1<<64 - 1

// PutMLS writes what mls.Group.Changes returned.
func (t *Tx) PutMLS(group []byte, changes []mls.Record) error {
	for _, c := range changes {
		r := vault.Ref{Table: tMLS, Partition: string(group), Order: string(c.Name)}
		if c.Value == nil {
			if err := t.tx.Delete(r); err != nil {
				return err
			}
			continue
		}
		epoch := uint64(currentBucket)
		if len(c.Name) >= 8 {
			epoch = binary.BigEndian.Uint64(c.Name)
		}
		if err := t.tx.Put(r, epochBucket(group, epoch), c.Value); err != nil {
			return err
		}
	}
	return nil
}

// MLS returns the records of mls.LoadGroup.
func (t *Tx) MLS(group []byte) (out []mls.Record, err error) {
	for r, err := range t.tx.Range(tMLS, string(group), "", false) {
		if err != nil {
			return nil, err
		}
		out = append(out, mls.Record{Name: []byte(r.Order), Value: r.Value})
	}
	return out, nil
}

// PutEpochKeys writes an epoch's keys: those that reach back only in the epoch's
// own bucket.
func (t *Tx) PutEpochKeys(group []byte, k *EpochKeys) error {
	return t.put(vault.Ref{Table: tEpoch, Partition: string(group), Order: vault.U64(k.Epoch)}, epochBucket(group, k.Epoch), k)
}

// EpochKeys returns the keys of the epochs that are remembered, the oldest first.
func (t *Tx) EpochKeys(group []byte) ([]EpochKeys, error) {
	return all[EpochKeys](t, tEpoch, string(group))
}

// ForgetEpoch makes everything of an epoch unreadable, once the erasure key has
// been rotated.
func (t *Tx) ForgetEpoch(group []byte, epoch uint64) error {
	if err := t.tx.Delete(vault.Ref{Table: tEpoch, Partition: string(group), Order: vault.U64(epoch)}); err != nil {
		return err
	}
	return t.tx.DropBucket(epochBucket(group, epoch))
}

// stagedPiece is how much of a staged commit one record holds: that of a large group is
// more than a record may be.
const stagedPiece = 512 << 10

// PutStaged writes the staged commit of ours, with its secrets; nil removes it.
func (t *Tx) PutStaged(group, staged []byte) error {
	if err := t.clear(group, tStaged); err != nil {
		return err
	}
	for i := uint64(0); len(staged) > 0; i++ {
		n := min(len(staged), stagedPiece)
		if err := t.tx.Put(vault.Ref{Table: tStaged, Partition: string(group), Order: vault.U64(i)}, epochBucket(group, currentBucket), staged[:n]); err != nil {
			return err
		}
		staged = staged[n:]
	}
	return nil
}

// Staged returns it, or nil if there is none.
func (t *Tx) Staged(group []byte) (staged []byte, err error) {
	for r, err := range t.tx.Range(tStaged, string(group), "", false) {
		if err != nil {
			return nil, err
		}
		staged = append(staged, r.Value...)
	}
	return staged, nil
}

// LeafKey names a leaf of a group: account and device.
type LeafKey [48]byte

// Parts returns account and device.
func (k LeafKey) Parts() (account [32]byte, device [16]byte) {
	return [32]byte(k[:32]), [16]byte(k[32:])
}

func renewedRef(group []byte, k LeafKey) vault.Ref {
	return vault.Ref{Table: tRenewed, Partition: string(group), Order: string(k[:])}
}

// PutRenewed notes when a device renewed its keys.
func (t *Tx) PutRenewed(group []byte, k LeafKey, at time.Time) error {
	return t.tx.Put(renewedRef(group, k), plain, []byte(vault.U64(uint64(at.UnixMilli()))))
}

// DeleteRenewed forgets it.
func (t *Tx) DeleteRenewed(group []byte, k LeafKey) error { return t.tx.Delete(renewedRef(group, k)) }

// Renewed returns when the devices of a group renewed their keys, as far as that was noted.
func (t *Tx) Renewed(group []byte) (map[LeafKey]time.Time, error) {
	out := map[LeafKey]time.Time{}
	for r, err := range t.tx.Range(tRenewed, string(group), "", false) {
		if err != nil {
			return nil, err
		}
		ms, ok := vault.Number(string(r.Value))
		if !ok || len(r.Order) != len(LeafKey{}) {
			return nil, fmt.Errorf("when keys were renewed: %w", vault.ErrDamaged)
		}
		out[LeafKey([]byte(r.Order))] = time.UnixMilli(int64(ms)).UTC()
	}
	return out, nil
}

// PutGroupRequest writes who asks to be let into a group.
func (t *Tx) PutGroupRequest(group []byte, r *GroupRequest) error {
	return t.put(vault.Ref{Table: tRequest, Partition: string(group), Order: string(r.Account[:])}, plain, r)
}

// DeleteGroupRequest removes it.
func (t *Tx) DeleteGroupRequest(group []byte, account [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tRequest, Partition: string(group), Order: string(account[:])})
}

// GroupRequests returns all who ask.
func (t *Tx) GroupRequests(group []byte) ([]GroupRequest, error) {
	return all[GroupRequest](t, tRequest, string(group))
}

// PutJoining writes a link to a group that was opened here.
func (t *Tx) PutJoining(j *Joining) error {
	return t.put(vault.Ref{Table: tJoining, Partition: meeting, Order: string(j.ID[:])}, meetingBucket, j)
}

// Joining returns it, or ErrNotFound.
func (t *Tx) Joining(id [32]byte) (Joining, error) {
	return load[Joining](t, vault.Ref{Table: tJoining, Partition: meeting, Order: string(id[:])})
}

// Joinings returns all of them.
func (t *Tx) Joinings() ([]Joining, error) { return all[Joining](t, tJoining, meeting) }

// AddGarbage notes a blob to be deleted.
func (t *Tx) AddGarbage(g *Garbage) error {
	return t.put(vault.Ref{Table: tGarbage, Order: string(g.Blob[:])}, plain, g)
}

// DeleteGarbage removes the note.
func (t *Tx) DeleteGarbage(blob [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tGarbage, Order: string(blob[:])})
}

// Garbage returns the blobs to be deleted.
func (t *Tx) Garbage() ([]Garbage, error) { return all[Garbage](t, tGarbage, "") }

// PutInvited writes a welcome whose invitation is still to be fetched.
func (t *Tx) PutInvited(i *Invited) error {
	return t.put(vault.Ref{Table: tInvited, Partition: meeting, Order: string(i.ID[:])}, meetingBucket, i)
}

// Invited returns one, or ErrNotFound.
func (t *Tx) Invited(id [32]byte) (Invited, error) {
	return load[Invited](t, vault.Ref{Table: tInvited, Partition: meeting, Order: string(id[:])})
}

// DeleteInvited removes it.
func (t *Tx) DeleteInvited(id [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tInvited, Partition: meeting, Order: string(id[:])})
}

// AllInvited returns all of them.
func (t *Tx) AllInvited() ([]Invited, error) { return all[Invited](t, tInvited, meeting) }

// meeting is the partition of invites made and opened: their secrets are to be
// forgotten when they have done their work.
const meeting = "meeting"

var meetingBucket = vault.Bucket{Domain: vault.MLS, Partition: meeting}

// Rebucket seals what lives of a conversation's epochs again under fresh keys, so
// that what has been used up can be made unreadable. A nil group means invites.
func (t *Tx) Rebucket(group []byte) error {
	partition := string(group)
	if group == nil {
		partition = meeting
	}
	numbers, err := t.tx.Buckets(vault.MLS, partition)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		b := vault.Bucket{Domain: vault.MLS, Partition: partition, Number: n}
		if _, err := t.tx.Rebucket(b, b, tMLS, tEpoch, tSeen, tStaged, tInvite, tAcceptance, tBundle, tInvited, tJoining, tLinking, tEntering); err != nil {
			return err
		}
	}
	return nil
}

// PutSeen notes an MLS message as dealt with, by its hash. Own is one of ours.
func (t *Tx) PutSeen(group []byte, epoch uint64, hash [32]byte, own bool) error {
	v := []byte{recordVersion, 0}
	if own {
		v[1] = 1
	}
	return t.tx.Put(vault.Ref{Table: tSeen, Partition: string(group), Order: string(hash[:])}, epochBucket(group, epoch), v)
}

// Seen reports whether an MLS message has been dealt with, and whether it is ours.
func (t *Tx) Seen(group []byte, hash [32]byte) (seen, own bool, err error) {
	b, err := t.tx.Get(vault.Ref{Table: tSeen, Partition: string(group), Order: string(hash[:])})
	if errors.Is(err, vault.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	return true, len(b) == 2 && b[1] == 1, nil
}

// AddOutgoing puts an entry at the end of the outbox.
func (t *Tx) AddOutgoing(group []byte, o *Outgoing) (err error) {
	if o.Order, err = t.tx.Next(seqOrder); err != nil {
		return err
	}
	return t.put(vault.Ref{Table: tOutgoing, Partition: string(group), Order: vault.U64(o.Order)}, plain, o)
}

// DeleteOutgoing takes an entry out of the outbox.
func (t *Tx) DeleteOutgoing(group []byte, o *Outgoing) error {
	return t.tx.Delete(vault.Ref{Table: tOutgoing, Partition: string(group), Order: vault.U64(o.Order)})
}

// Outbox returns a conversation's outbox, in order.
func (t *Tx) Outbox(group []byte) ([]Outgoing, error) {
	return all[Outgoing](t, tOutgoing, string(group))
}

// queuedPlace is where messages stand that have no position yet.
const queuedPlace = 1 << 63

const minutesOfDay = 24 * 60

func messageRef(group []byte, place uint64) vault.Ref {
	return vault.Ref{Table: tMessage, Partition: string(group), Order: vault.U64(place)}
}

func placeRef(group []byte, id [32]byte) vault.Ref {
	return vault.Ref{Table: tPlace, Partition: string(group), Order: string(id[:])}
}

// place returns where a message stands, 0 if nowhere.
func (t *Tx) place(group []byte, id [32]byte) (uint64, error) {
	b, err := t.tx.Get(placeRef(group, id))
	if errors.Is(err, vault.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, ok := vault.Number(string(b))
	if !ok {
		return 0, fmt.Errorf("place of a message: %w", vault.ErrDamaged)
	}
	return n, nil
}

// PutMessage writes a message where it stands: behind everything queued if it is new
// and has no Seq, else at its Seq.
func (t *Tx) PutMessage(group []byte, m *Message) error {
	old, err := t.place(group, m.ID)
	if err != nil {
		return err
	}
	if err := t.indexMessage(group, old, m); err != nil {
		return err
	}
	at := m.Seq
	switch {
	case at == 0 && old != 0:
		at = old
	case at == 0:
		n, err := t.tx.Next(seqOrder)
		if err != nil {
			return err
		}
		at = queuedPlace + n
	}
	if old != 0 && old != at {
		if err := t.tx.Delete(messageRef(group, old)); err != nil {
			return err
		}
	}
	follow, err := t.settle(group, m)
	if err != nil {
		return err
	}
	if follow {
		if err := t.follow(group, m); err != nil {
			return err
		}
	}
	return errors.Join(t.put(messageRef(group, at), messageBucket(group, m.Bucket), m), t.tx.Put(placeRef(group, m.ID), plain, []byte(vault.U64(at))))
}

// Message returns a message by its id, or ErrNotFound.
func (t *Tx) Message(group []byte, id [32]byte) (Message, error) {
	at, err := t.place(group, id)
	if err != nil {
		return Message{}, err
	}
	if at == 0 {
		return Message{}, ErrNotFound
	}
	return load[Message](t, messageRef(group, at))
}

// DeleteMessage removes a message.
func (t *Tx) DeleteMessage(group []byte, id [32]byte) error {
	at, err := t.place(group, id)
	if err != nil || at == 0 {
		return err
	}
	return errors.Join(t.unindexMessage(group, id), t.tx.Delete(messageRef(group, at)), t.tx.Delete(placeRef(group, id)))
}

// Messages goes over a conversation's messages in their order, from behind the
// message after or, if reverse, backwards from before it; the zero id is the
// beginning, or the end.
func (t *Tx) Messages(group []byte, from [32]byte, reverse bool) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		start := ""
		if from != [32]byte{} {
			at, err := t.place(group, from)
			if err == nil && at == 0 {
				err = ErrNotFound
			}
			if err != nil {
				yield(Message{}, err)
				return
			}
			if start = vault.U64(at + 1); reverse {
				start = vault.U64(at - 1)
			}
		}
		for r, err := range t.tx.Range(tMessage, string(group), start, reverse) {
			var m Message
			if err == nil {
				err = decode(r.Value, &m)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// AddLetter puts a letter at the end of those to be sent.
func (t *Tx) AddLetter(l *Letter) (err error) {
	if l.Number, err = t.tx.Next(seqLetter); err != nil {
		return err
	}
	return t.put(vault.Ref{Table: tLetter, Order: vault.U64(l.Number)}, plain, l)
}

// DeleteLetter removes a letter that was sent.
func (t *Tx) DeleteLetter(n uint64) error {
	return t.tx.Delete(vault.Ref{Table: tLetter, Order: vault.U64(n)})
}

// Letters returns the letters to be sent, in order.
func (t *Tx) Letters() ([]Letter, error) { return all[Letter](t, tLetter, "") }

// AddEvent writes an event and returns its number.
func (t *Tx) AddEvent(e *Event) (uint64, error) {
	n, err := t.tx.Next(seqEvent)
	if err != nil {
		return 0, err
	}
	return n, t.put(vault.Ref{Table: tEvent, Order: vault.U64(n)}, plain, e)
}

// Numbered is an event with its number.
type Numbered struct {
	Seq uint64
	Event
}

// Events returns up to limit events behind number after.
func (t *Tx) Events(after uint64, limit int) (out []Numbered, err error) {
	for r, err := range t.tx.Range(tEvent, "", vault.U64(after+1), false) {
		if err != nil {
			return nil, err
		}
		n := Numbered{}
		n.Seq, _ = vault.Number(r.Order)
		if err := decode(r.Value, &n.Event); err != nil {
			return nil, err
		}
		if out = append(out, n); len(out) == limit {
			break
		}
	}
	return out, nil
}

// LastEvent returns the number of the newest event.
func (t *Tx) LastEvent() (uint64, error) { return t.tx.Last(seqEvent) }

// TrimEvents removes the oldest events but for so many, at most a thousand at once.
func (t *Tx) TrimEvents(keep uint64) error {
	last, err := t.LastEvent()
	if err != nil || last <= keep {
		return err
	}
	var old []string
	for o, err := range t.tx.Orders(tEvent, "", "", false) {
		if err != nil {
			return err
		}
		if n, _ := vault.Number(o); n > last-keep || len(old) == 1000 {
			break
		}
		old = append(old, o)
	}
	for _, o := range old {
		if err := t.tx.Delete(vault.Ref{Table: tEvent, Order: o}); err != nil {
			return err
		}
	}
	return nil
}

// Setting returns what is set for a conversation, or for all of them if group is nil;
// the zero Setting if nothing ever was.
func (t *Tx) Setting(group []byte, key string) (Setting, error) {
	b, err := t.tx.Get(settingRef(group, key))
	if errors.Is(err, vault.ErrNotFound) {
		return Setting{}, nil
	}
	if err != nil {
		return Setting{}, err
	}
	return decodeSetting(b)
}

// PutSetting writes it.
func (t *Tx) PutSetting(group []byte, key string, s *Setting) error {
	return t.put(settingRef(group, key), plain, s)
}

// Settings returns what is or was set for a conversation, or for all, by key.
func (t *Tx) Settings(group []byte) (map[string]Setting, error) {
	out := map[string]Setting{}
	for r, err := range t.tx.Range(tSetting, string(group), "", false) {
		if err != nil {
			return nil, err
		}
		if out[r.Order], err = decodeSetting(r.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func settingRef(group []byte, key string) vault.Ref {
	return vault.Ref{Table: tSetting, Partition: string(group), Order: key}
}

// MoveMessages moves the messages of one partition to another, in their order.
func (t *Tx) MoveMessages(from, to []byte) error {
	var all []Message
	for m, err := range t.Messages(from, [32]byte{}, false) {
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	for i := range all {
		if err := t.PutMessage(to, &all[i]); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	return t.DeleteConversation(from)
}
