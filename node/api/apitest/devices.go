package apitest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sotto/node"
)

// Passphrase opens the account key of a [Node], and Digits are what a device shows that has
// entered its link.
const (
	Passphrase = "correct horse"
	Digits     = "123456"
)

func (n *Node) devicesLocked() []node.Device {
	if n.devices == nil {
		n.devices = []node.Device{{ID: n.status.Device, Name: "phone", State: node.DeviceActive, This: true, AccountKey: true, Fingerprint: "aaaa bbbb cccc dddd", Added: Start, Seen: Start}}
	}
	return n.devices
}

func (n *Node) Devices(context.Context) ([]node.Device, error) {
	if err := n.begin("Devices"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return slices.Clone(n.devicesLocked()), nil
}

func (n *Node) changeDevice(method, ref string, f func(d *node.Device) error) (node.Device, error) {
	if err := n.begin(method); err != nil {
		return node.Device{}, err
	}
	defer n.mu.Unlock()
	all := n.devicesLocked()
	for i := range all {
		d := &all[i]
		if ref != d.Name && ref != d.ID && !(ref == "this" && d.This) {
			continue
		}
		if err := f(d); err != nil {
			return node.Device{}, err
		}
		n.tellLocked(node.Event{Type: node.EventDevice, Device: ptr(*d)})
		return *d, nil
	}
	return node.Device{}, fmt.Errorf("device %q: %w", ref, node.ErrNotFound)
}

func (n *Node) RenameDevice(_ context.Context, ref, name string) (node.Device, error) {
	return n.changeDevice("RenameDevice", ref, func(d *node.Device) error { d.Name = name; return nil })
}

func (n *Node) VerifyDevice(_ context.Context, ref, fingerprint string) (node.Device, error) {
	return n.changeDevice("VerifyDevice", ref, func(d *node.Device) error {
		if fingerprint != d.Fingerprint {
			return fmt.Errorf("another fingerprint: %w", node.ErrNotTrusted)
		}
		d.Verified = true
		return nil
	})
}

func (n *Node) SuspendDevice(_ context.Context, ref string) (node.Device, error) {
	return n.changeDevice("SuspendDevice", ref, func(d *node.Device) error {
		if d.This {
			return fmt.Errorf("itself: %w", node.ErrInvalid)
		}
		d.State = node.DeviceSuspended
		return nil
	})
}

func locked(passphrase []byte) error {
	if string(passphrase) != Passphrase {
		return fmt.Errorf("the account key: %w", node.ErrLocked)
	}
	return nil
}

func (n *Node) RevokeDevice(_ context.Context, ref string, passphrase []byte) (node.Device, error) {
	return n.changeDevice("RevokeDevice", ref, func(d *node.Device) error {
		if err := locked(passphrase); err != nil {
			return err
		}
		d.State = node.DeviceRevoked
		return nil
	})
}

func (n *Node) RestoreDevice(_ context.Context, ref string, passphrase []byte) (node.Device, error) {
	return n.changeDevice("RestoreDevice", ref, func(d *node.Device) error {
		if err := locked(passphrase); err != nil {
			return err
		}
		d.State = node.DeviceActive
		return nil
	})
}

func (n *Node) LinkDevice(context.Context) (node.DeviceLink, error) {
	if err := n.begin("LinkDevice"); err != nil {
		return node.DeviceLink{}, err
	}
	defer n.mu.Unlock()
	n.link = &node.DeviceLink{State: node.LinkOpen, Expires: Start.Add(5 * time.Minute)}
	n.tellLocked(node.Event{Type: node.EventLink, Link: ptr(*n.link)})
	out := *n.link
	out.Link, out.Reach = "sotto:d#link", "machine"
	return out, nil
}

func (n *Node) Link(context.Context) (node.DeviceLink, error) {
	if err := n.begin("Link"); err != nil {
		return node.DeviceLink{}, err
	}
	defer n.mu.Unlock()
	if n.link == nil {
		return node.DeviceLink{}, fmt.Errorf("a link: %w", node.ErrNotFound)
	}
	return *n.link, nil
}

// ConfirmLink comes too early the first time; a device has entered the link by then.
func (n *Node) ConfirmLink(_ context.Context, digits string, passphrase []byte) (node.DeviceLink, error) {
	if err := n.begin("ConfirmLink"); err != nil {
		return node.DeviceLink{}, err
	}
	defer n.mu.Unlock()
	if n.link != nil && n.link.State == node.LinkOpen {
		n.link.State, n.link.Name, n.link.Device, n.link.Digits = node.LinkCompare, "laptop", n.id("device", "laptop")[:26], Digits
		n.tellLocked(node.Event{Type: node.EventLink, Link: ptr(*n.link)})
		return node.DeviceLink{}, fmt.Errorf("digits: %w", node.ErrNotReady)
	}
	switch {
	case n.link == nil || n.link.State != node.LinkCompare:
		return node.DeviceLink{}, fmt.Errorf("digits: %w", node.ErrNotReady)
	case digits != n.link.Digits:
		n.link.State, n.link.Reason, n.link.Cause = node.LinkFailed, "the digits differ", node.CauseNotTrusted
		n.tellLocked(node.Event{Type: node.EventLink, Link: ptr(*n.link)})
		return node.DeviceLink{}, fmt.Errorf("the digits: %w", node.ErrNotTrusted)
	}
	if err := locked(passphrase); err != nil {
		return node.DeviceLink{}, err
	}
	n.link.State = node.LinkDone
	d := node.Device{ID: n.link.Device, Name: n.link.Name, State: node.DeviceActive, Fingerprint: "eeee ffff gggg hhhh", AddedBy: n.status.Device, Added: Start, Quarantine: Start.Add(24 * time.Hour)}
	n.devices = append(n.devicesLocked(), d)
	n.tellLocked(node.Event{Type: node.EventLink, Link: ptr(*n.link)})
	n.tellLocked(node.Event{Type: node.EventDevice, Device: &d})
	return *n.link, nil
}

func (n *Node) CancelLink(context.Context) error {
	if err := n.begin("CancelLink"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	if n.link == nil || n.link.State == node.LinkDone || n.link.State == node.LinkFailed {
		return fmt.Errorf("a link: %w", node.ErrNotFound)
	}
	n.link.State, n.link.Reason, n.link.Cause = node.LinkFailed, "you have ended it", node.CauseGone
	n.tellLocked(node.Event{Type: node.EventLink, Link: ptr(*n.link)})
	return nil
}
