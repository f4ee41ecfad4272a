package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sotto/crypto/identity"
	"sotto/node/store"
)

// quarantine is how long a device is new: until then the account key is not given to it
// (spec/devices.md, section 5).
const quarantine = 24 * time.Hour

// The states of a Device.
const (
	DeviceActive    = "active"
	DeviceSuspended = "suspended" // the account key can end that
	DeviceRevoked   = "revoked"   // for good
)

var deviceStates = map[identity.DeviceState]string{identity.DeviceActive: DeviceActive, identity.DeviceSuspended: DeviceSuspended, identity.DeviceRevoked: DeviceRevoked}

// Device is one machine of the account.
type Device struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	State       string    `json:"state" enum:"active,suspended,revoked"`
	This        bool      `json:"this,omitempty" doc:"the device that answers"`
	Fingerprint string    `json:"fingerprint" doc:"of its key: 16 letters and digits"`
	Verified    bool      `json:"verified,omitempty" doc:"you have compared its fingerprint"`
	AddedBy     string    `json:"added_by,omitempty" doc:"id of the device that added it; none for the first"`
	Added       time.Time `json:"added,omitzero"`
	Seen        time.Time `json:"seen,omitzero" doc:"when something of it was last read here"`
	Quarantine  time.Time `json:"quarantine,omitzero" doc:"until then it is new: look whether you know it"`
	AccountKey  bool      `json:"account_key,omitempty" doc:"it holds the account key, which adds and revokes devices; known of this device alone"`
}

func (n *Node) showDevice(tx *store.Tx, id identity.DeviceID) (Device, bool) {
	log, err := accountLog(tx)
	if err != nil {
		return Device{}, false
	}
	c, state := log.Device(id)
	if state == 0 {
		return Device{}, false
	}
	out := Device{ID: id.String(), Name: n.deviceName(tx, id), State: deviceStates[state], This: id == identity.DeviceID(n.device.ID), Fingerprint: c.Fingerprint()}
	if e, ok := log.Added(id); ok && e.Acting != id {
		out.AddedBy = e.Acting.String()
	}
	if d, ok := n.sharedDevice(tx, id); ok && d.Added > 0 {
		out.Added = time.UnixMilli(int64(d.Added)).UTC()
	} else if out.This {
		out.Added = n.device.Created.UTC()
	}
	if s, err := tx.Sighting(id); err == nil {
		out.Seen, out.Verified = s.Seen.UTC(), s.Verified
	}
	if out.AddedBy != "" && out.State == DeviceActive && n.clock().Before(out.Added.Add(quarantine)) {
		out.Quarantine = out.Added.Add(quarantine)
	}
	if out.This {
		out.Seen, out.AccountKey = n.clock().UTC(), n.db.HasPrivileged()
	}
	return out, true
}

// Devices returns the account's devices, the oldest first.
func (n *Node) Devices(ctx context.Context) (out []Device, err error) {
	out = []Device{}
	err = n.view(func(tx *store.Tx) error {
		log, err := accountLog(tx)
		if err != nil {
			return err
		}
		for _, c := range log.Devices() {
			if d, ok := n.showDevice(tx, c.Device); ok {
				out = append(out, d)
			}
		}
		return nil
	})
	return out, apiError(err)
}

// findDevice finds a device by its name, its id or a unique beginning of that; "this" is
// the one that answers.
func (n *Node) findDevice(tx *store.Tx, ref string) (identity.DeviceID, error) {
	log, err := accountLog(tx)
	if err != nil {
		return identity.DeviceID{}, err
	}
	var named, begun []identity.DeviceID
	for _, c := range log.Devices() {
		switch id := c.Device; {
		case ref == "this" && id == identity.DeviceID(n.device.ID), id.String() == ref:
			return id, nil
		case n.deviceName(tx, id) == ref:
			named = append(named, id)
		case len(ref) >= minPrefix && strings.HasPrefix(id.String(), strings.ToLower(ref)):
			begun = append(begun, id)
		}
	}
	if len(named) == 0 {
		named = begun
	}
	switch len(named) {
	case 0:
		return identity.DeviceID{}, fmt.Errorf("%w: your account has no device %q; sotto device list shows them", ErrNotFound, ref)
	case 1:
		return named[0], nil
	}
	return identity.DeviceID{}, fmt.Errorf("%w: %d devices are called %q; use the id", ErrAmbiguous, len(named), ref)
}

// changeDevice runs f on a device and tells of it.
func (n *Node) changeDevice(ref string, f func(tx *store.Tx, id identity.DeviceID) error) (out Device, err error) {
	err = n.update(func(tx *store.Tx) error {
		id, err := n.findDevice(tx, ref)
		if err != nil {
			return err
		}
		if err := f(tx, id); err != nil {
			return err
		}
		out, _ = n.showDevice(tx, id)
		return n.noteDevice(tx, id)
	})
	return out, apiError(err)
}

// RenameDevice calls a device otherwise, on all devices of the account.
func (n *Node) RenameDevice(ctx context.Context, ref, name string) (Device, error) {
	name, err := identity.NormalizeName(name)
	if err != nil {
		return Device{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n.changeDevice(ref, func(tx *store.Tx, id identity.DeviceID) error {
		if id == identity.DeviceID(n.device.ID) {
			own, err := tx.Self()
			if err != nil {
				return err
			}
			own.Name = name
			if err := tx.PutSelf(&own); err != nil {
				return err
			}
		}
		return n.shareDevice(tx, id, name)
	})
}

// VerifyDevice notes that a device's fingerprint has been compared with the one that the
// device itself shows. It returns ErrNotTrusted if they differ.
func (n *Node) VerifyDevice(ctx context.Context, ref, fingerprint string) (Device, error) {
	return n.changeDevice(ref, func(tx *store.Tx, id identity.DeviceID) error {
		d, _ := n.showDevice(tx, id)
		plain := func(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), "")) }
		if plain(fingerprint) != plain(d.Fingerprint) {
			return fmt.Errorf("%w: %s has another fingerprint; if it shows that one itself, suspend it", ErrNotTrusted, d.Name)
		}
		s, err := tx.Sighting(id)
		if err != nil {
			return err
		}
		s.Verified = true
		return tx.PutSighting(&s)
	})
}

// SuspendDevice stops a device at once: it is taken out of all conversations. Any device of
// the account can do that to another; RestoreDevice ends it.
func (n *Node) SuspendDevice(ctx context.Context, ref string) (Device, error) {
	return n.changeDevices(ref, func(log *identity.Log, id identity.DeviceID) (*identity.Log, error) {
		return log.SuspendDevice(n.actor(), id)
	})
}

// RevokeDevice ends a device for good. It takes the account key, which the passphrase opens.
func (n *Node) RevokeDevice(ctx context.Context, ref string, passphrase []byte) (Device, error) {
	account, err := n.accountKey(passphrase)
	if err != nil {
		return Device{}, err
	}
	return n.changeDevices(ref, func(log *identity.Log, id identity.DeviceID) (*identity.Log, error) {
		return log.RevokeDevice(account, n.actor(), id)
	})
}

// RestoreDevice ends a suspension. It takes the account key, which the passphrase opens.
func (n *Node) RestoreDevice(ctx context.Context, ref string, passphrase []byte) (Device, error) {
	account, err := n.accountKey(passphrase)
	if err != nil {
		return Device{}, err
	}
	return n.changeDevices(ref, func(log *identity.Log, id identity.DeviceID) (*identity.Log, error) {
		c, state := log.Device(id)
		if state != identity.DeviceSuspended {
			return nil, fmt.Errorf("%w: it is not suspended", ErrInvalid)
		}
		return log.AddDevice(account, n.actor(), c)
	})
}

// changeDevices changes the account's log.
func (n *Node) changeDevices(ref string, f func(log *identity.Log, id identity.DeviceID) (*identity.Log, error)) (Device, error) {
	return n.changeDevice(ref, func(tx *store.Tx, id identity.DeviceID) error {
		log, err := accountLog(tx)
		if err != nil {
			return err
		}
		if !isActive(log, n.device.ID) {
			return fmt.Errorf("%w: this device is no device of the account any more", ErrNotAllowed)
		}
		next, err := f(log, id)
		if errors.Is(err, identity.ErrInvalid) || err == nil && !isActive(next, n.device.ID) {
			return fmt.Errorf("%w: a device cannot do that to itself, nor twice to another", ErrInvalid)
		}
		if err != nil {
			return err
		}
		n.wishes.Add(1)
		return n.putAccount(tx, next)
	})
}

// seenEvery is how often it is written down that a device was seen.
const seenEvery = time.Minute

// saw notes that something of another device of the account was read.
func (n *Node) saw(tx *store.Tx, id identity.DeviceID, now time.Time) error {
	s, err := tx.Sighting(id)
	if err != nil || now.Sub(s.Seen) < seenEvery {
		return err
	}
	s.Seen = now
	return errors.Join(tx.PutSighting(&s), n.noteDevice(tx, id))
}
