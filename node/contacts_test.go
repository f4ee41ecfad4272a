package node

import (
	"testing"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/store"
)

// Another account key makes a verified contact a changed one, for good until it is
// compared again; a new device does not.
func TestChangedAccountKey(t *testing.T) {
	seed, device := identity.NewSeed(), key.NewDevice()
	cert := func(d key.DeviceSecret) identity.DeviceCert {
		return identity.DeviceCert{Device: identity.NewDeviceID(), DeviceKey: d.Public(), HandshakeKey: key.NewNoise().Public()}
	}
	first := cert(device)
	by := identity.Actor{Device: first.Device, Key: device}
	log, err := identity.NewLog(seed, first, device, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	longer, err1 := log.AddDevice(seed.AccountKey(0), by, cert(key.NewDevice()))
	rotated, err2 := log.RotateKey(seed, by)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for _, tt := range []struct {
		name              string
		verified, changed bool
		log               *identity.Log
		wantV, wantC      bool
	}{
		{"a new device of a verified contact", true, false, longer, true, false},
		{"a new key of a verified contact", true, false, rotated, false, true},
		{"a new key of one never compared", false, false, rotated, false, false},
		{"a new device of a changed contact", false, true, longer, false, true},
	} {
		c := &store.Contact{Verified: tt.verified, Changed: tt.changed, Log: entries(log)}
		if err := takeLog(c, tt.log); err != nil || c.Verified != tt.wantV || c.Changed != tt.wantC {
			t.Errorf("%s: verified %v, changed %v, %v", tt.name, c.Verified, c.Changed, err)
		}
		if len(c.Log) != tt.log.Len() {
			t.Errorf("%s: a log of %d entries, want %d", tt.name, len(c.Log), tt.log.Len())
		}
	}
}
