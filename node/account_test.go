package node

import (
	"testing"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/store"
	"sotto/storage/vault"
)

// T40: whoever has stolen a contact's account key signs another entry in the place of one.
// Of the two logs neither is taken, the contact is shown as forked and is sent nothing,
// until the owner's next key decides.
func TestForkedAccountLogStopsSending(t *testing.T) {
	home := t.TempDir()
	if _, err := Init(t.Context(), home, InitOptions{Name: "Ana", Passphrase: []byte("x"), Params: vault.FloorParams}); err != nil {
		t.Fatal(err)
	}
	n, err := Open(home, Options{Passphrase: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()

	seed, device := identity.NewSeed(), key.NewDevice()
	cert := func(k key.DeviceSecret) identity.DeviceCert {
		return identity.DeviceCert{Device: identity.NewDeviceID(), DeviceKey: k.Public(), HandshakeKey: key.NewNoise().Public()}
	}
	own := cert(device)
	by := identity.Actor{Device: own.Device, Key: device}
	log, err := identity.NewLog(seed, own, device, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	must := func(l *identity.Log, err error) *identity.Log {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one := must(log.AddDevice(seed.AccountKey(0), by, cert(key.NewDevice())))
	other := must(log.AddDevice(seed.AccountKey(0), by, cert(key.NewDevice())))
	healed := must(one.RotateKey(seed, by))

	c := &store.Contact{Account: log.ID(), Name: "Ben", State: store.ContactEstablished, Log: entries(log)}
	for _, step := range []struct {
		name    string
		log     *identity.Log
		changed bool
		forked  bool
		holds   *identity.Log
	}{
		{"the log grows", one, true, false, one},
		{"the same again", one, false, false, one},
		{"an older one", log, false, false, one},
		{"another in its place", other, true, true, one},
		{"the first again", one, false, true, one},
		{"the other again", other, false, true, one},
		{"the next key", healed, true, false, healed},
		{"what the thief has signed", other, false, false, healed},
	} {
		before, err := n.LastEvent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var changed bool
		if err := n.update(func(tx *store.Tx) (err error) { changed, err = n.mergeLog(tx, c, step.log); return err }); err != nil {
			t.Fatal(err)
		}
		held, err := parseLog(c.Log)
		if err != nil {
			t.Fatal(err)
		}
		if changed != step.changed || forked(c) != step.forked || held.Head() != step.holds.Head() {
			t.Errorf("%s: changed %v, forked %v, head %d", step.name, changed, forked(c), held.Head().Seq)
		}
		if after, _ := n.LastEvent(t.Context()); (after > before) != (step.forked && step.changed) {
			t.Errorf("%s: notice %v", step.name, after > before)
		}
	}
}
