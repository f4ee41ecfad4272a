package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/setting"
	"sotto/node/store"
	"sotto/relay/wire"
	"sotto/storage/kv"
	"sotto/storage/vault"
)

// The folders of a home beside what commands keep there.
const vaultDir = "vault"

// InitOptions says what a new home is made of.
type InitOptions struct {
	Name       string // profile name
	Passphrase []byte // opens the vault; stays the caller's
	Relay      string // address of the relay for new mailboxes; may be empty

	// Params is what the passphrase is stretched with; the zero value is the
	// default. Tests take vault.FloorParams.
	Params vault.Params

	Stretch func(passphrase, salt []byte, p vault.Params) []byte // of the vault, for simulations
}

// InitResult is what a new home's owner must know.
type InitResult struct {
	Account       string
	Device        string
	RecoveryWords string // 24 words; shown once, kept nowhere
}

// Init makes a new account with this machine as its first device, and a home for
// it. It returns ErrExists if there is one, and ErrInvalid.
func Init(ctx context.Context, home string, o InitOptions) (InitResult, error) {
	name, err := identity.NormalizeName(o.Name)
	if err != nil {
		return InitResult{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(o.Passphrase) == 0 {
		return InitResult{}, fmt.Errorf("%w: an empty passphrase", ErrInvalid)
	}
	if o.Relay != "" {
		if _, err := wire.ParseAddress(o.Relay); err != nil {
			return InitResult{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	dir := filepath.Join(home, vaultDir)
	if there, err := vault.Exists(dir); err != nil {
		return InitResult{}, apiError(err)
	} else if there {
		return InitResult{}, fmt.Errorf("%w: there is an account in %s", ErrExists, home)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return InitResult{}, err
	}

	seed := identity.NewSeed()
	id, device, handshake, sealing := identity.NewDeviceID(), key.NewDevice(), key.NewNoise(), key.NewSealing()
	cert := identity.DeviceCert{Device: id, DeviceKey: device.Public(), HandshakeKey: handshake.Public(), SealingHash: identity.SealingHash(sealing.Public())}
	log, err := identity.NewLog(seed, cert, device, random16())
	if err != nil {
		return InitResult{}, fmt.Errorf("make account: %w", err)
	}
	vaultKey := seed.VaultKey()
	defer clear(vaultKey)
	params := o.Params
	if params == (vault.Params{}) {
		params = vault.DefaultParams
	}
	v, err := vault.Create(dir, vault.Options{Passphrase: o.Passphrase, Params: params, Keys: map[string][]byte{"recovery": vaultKey}, Config: vault.Config{Schema: store.Schema, Stretch: o.Stretch}})
	if err != nil {
		return InitResult{}, apiError(fmt.Errorf("make vault: %w", err))
	}
	defer v.Close()
	account := seed.AccountKey(0).Seed()
	defer clear(account)
	if err := v.PutPrivileged(o.Passphrase, account); err != nil {
		return InitResult{}, apiError(fmt.Errorf("make vault: %w", err))
	}
	d := &store.Device{Name: name, Log: entries(log), ID: id, Seed: device.Seed(), Handshake: handshake.Seed(), Sealing: sealing.Seed(), Created: time.Now()}
	err = store.DB{Vault: v}.Update(func(tx *store.Tx) error {
		if o.Relay != "" {
			if err := tx.PutSetting(nil, setting.Relay, &store.Setting{Value: o.Relay, Set: true, Lamport: 1, Device: id}); err != nil {
				return err
			}
		}
		return tx.PutDevice(d)
	})
	if err != nil {
		return InitResult{}, apiError(fmt.Errorf("write account: %w", err))
	}
	return InitResult{Account: log.ID().String(), Device: id.String(), RecoveryWords: seed.Words()}, nil
}

// HasAccount reports whether there is an account in a home. It returns ErrDamaged if
// there are the remains of one.
func HasAccount(home string) (bool, error) {
	is, err := vault.Exists(filepath.Join(home, vaultDir))
	return is, apiError(err)
}

// entries returns a log entry by entry, as it is stored.
func entries(l *identity.Log) (out [][]byte) {
	for i := range l.Len() {
		e := l.Entry(uint32(i))
		out = append(out, e.Append(nil))
	}
	return out
}

// parseLog reads and verifies what entries returned.
func parseLog(raw [][]byte) (*identity.Log, error) {
	var b []byte
	for _, e := range raw {
		b = append(b, e...)
	}
	return identity.ParseLog(b)
}

// apiError gives an error the sentinel that the API's users act on.
func apiError(err error) error {
	for _, m := range []struct{ is, as error }{
		{vault.ErrWrongPassphrase, ErrLocked}, {vault.ErrWrongKey, ErrLocked}, {vault.ErrDamaged, ErrDamaged}, {vault.ErrFormat, ErrNewer},
		{vault.ErrExists, ErrExists}, {kv.ErrLocked, ErrBusy}, {kv.ErrFull, ErrDiskFull}, {kv.ErrCorrupt, ErrDamaged}, {kv.ErrUnknown, ErrUncertain},
	} {
		if errors.Is(err, m.is) {
			return fmt.Errorf("%w: %w", m.as, err)
		}
	}
	return err
}

// platform is the machine's kind, for reports.
func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
