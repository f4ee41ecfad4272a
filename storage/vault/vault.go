// Package vault is a device's encrypted database: records in package kv, each sealed
// by itself, and a header file whose slots open it. spec/vault.md gives the bytes.
//
// # What the caller does
//
// A record is named by a [Ref] and sealed under the key of a [Bucket]. What belongs to
// one input goes into one [Vault.Update], which is durable when it returns nil, and
// has not happened when it returns an error, save one: after [kv.ErrUnknown] nobody
// knows, and the caller drops what it holds in memory, calls [Vault.Reopen] and reads
// its state back.
//
// # Erasing
//
// Disks do not forget what is deleted, so what must be forgotten is made unreadable:
// [Tx.DropBucket] deletes the key of all records of a bucket, and
// [Vault.RotateErasure] then destroys the key under which that key had been wrapped.
// Only after the second is the first final. Records of [Plain] cannot be erased.
//
//   - [Messages]: a bucket for each conversation and day. Rotate after messages were
//     erased.
//   - [MLS]: a bucket for each conversation and epoch. Since every change of a record
//     leaves its old value on the disk, a live state holds keys that it has used up:
//     seal it again with [Tx.Rebucket], then rotate; within an hour and at close.
//
// # What is not here
//
// Protection from who puts back an older copy of a whole record, of the database or of
// the folder: the old value is genuine. Wrong-passphrase delays, which cost a thief of
// the disk nothing. Unicode: a passphrase is bytes here.
package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"sotto/storage/kv"
)

// The errors of this package. Those of package kv that a caller acts on, ErrUnknown,
// ErrFull, ErrLocked and ErrTooBig, are passed on.
var (
	// ErrNotFound: there is no vault in the folder, or no such record.
	ErrNotFound = errors.New("not found")
	// ErrErased: the record is there and its bucket was dropped. It is an ErrNotFound.
	ErrErased = fmt.Errorf("%w: erased", ErrNotFound)
	// ErrExists: there is a vault already.
	ErrExists = errors.New("there is a vault already")
	// ErrWrongPassphrase cannot be told from a damaged passphrase slot, nor from one
	// that belongs to another vault.
	ErrWrongPassphrase = errors.New("wrong passphrase, or the vault's passphrase slot is damaged")
	// ErrWrongKey is the same of key slots.
	ErrWrongKey = errors.New("no slot of the vault opens with this key")
	// ErrDamaged: bytes on the disk are not what was written there.
	ErrDamaged = errors.New("vault is damaged")
	// ErrFormat: the vault was written by a newer version of the program.
	ErrFormat = errors.New("vault is of a newer version")
	// ErrClosed: the vault was closed.
	ErrClosed = errors.New("vault is closed")
)

// Config is what Create and Open have in common.
type Config struct {
	// Schema is the version of the caller's records, from 0. A new vault gets it; one
	// with a higher one is refused with ErrFormat. See [Tx.Schema].
	Schema uint32

	// Reserve, Free, MaxTx, Hook and Logger are those of [kv.Options].
	Reserve int64
	Free    func(dir string) (uint64, error)
	MaxTx   int64
	Hook    kv.Hook
	Logger  *slog.Logger

	// Sealed, if set, hears of every use of a key: its SHA-256, and the nonce. A test
	// sees by it that no pair comes twice. Calls may be concurrent.
	Sealed func(key [32]byte, nonce [24]byte)

	// Stretch, if set, takes the place of argon2id, for simulations of many vaults: the
	// passphrase then protects nothing.
	Stretch func(passphrase, salt []byte, p Params) []byte
}

// Options says what a new vault is opened by: a passphrase, keys or both. The slices
// stay the caller's, to be cleared.
type Options struct {
	Passphrase []byte
	Params     Params            // of the passphrase
	Keys       map[string][]byte // key slots by name: 32 bytes each, from good randomness
	Config
}

// Unlock opens a vault: one of the two is set. The slice stays the caller's.
type Unlock struct {
	Passphrase []byte
	Key        []byte
}

// Format and LogValue keep secrets out of what is printed.

func (Options) Format(w fmt.State, _ rune) { io.WriteString(w, "vault options") }
func (Unlock) Format(w fmt.State, _ rune)  { io.WriteString(w, "vault unlock") }
func (*Vault) Format(w fmt.State, _ rune)  { io.WriteString(w, "vault") }
func (*Tx) Format(w fmt.State, _ rune)     { io.WriteString(w, "vault transaction") }
func (Options) LogValue() slog.Value       { return slog.StringValue("vault options") }
func (Unlock) LogValue() slog.Value        { return slog.StringValue("vault unlock") }
func (*Vault) LogValue() slog.Value        { return slog.StringValue("vault") }
func (*Tx) LogValue() slog.Value           { return slog.StringValue("vault transaction") }

// Vault is an open vault. Its methods may be called concurrently, but not from inside
// the function given to View or Update.
type Vault struct {
	env    *env
	files  files
	kv     *kv.DB
	schema uint32

	headers sync.Mutex // guards header, and is held while the file changes; before keying
	header  *header

	keying sync.RWMutex // guards keys; held for reading by every transaction, before kv's locks
	keys   *keyring     // nil when closed; changed with headers held too
}

// env is what a vault needs of the world.
type env struct {
	random  func([]byte)
	sealed  func(key [32]byte, nonce [24]byte)
	stretch func(passphrase, salt []byte, p Params) []byte
	files   func(dir string) files
	batch   int  // bucket keys rewrapped in one update
	bare    bool // leave Badger's encryption off, for a test that reads its files
}

func newEnv(c Config) *env {
	if c.Stretch == nil {
		c.Stretch = stretch
	}
	return &env{
		random:  func(b []byte) { rand.Read(b) }, // which does not fail
		sealed:  c.Sealed,
		stretch: c.Stretch,
		files:   func(dir string) files { return folder(dir) },
		batch:   256,
	}
}

// Create makes a vault in dir, which is made if it is not there, and opens it. It
// returns ErrExists if dir has one.
func Create(dir string, o Options) (*Vault, error) { return newEnv(o.Config).create(dir, o) }

// Open opens the vault in dir and finishes what a crash left half done. Its errors
// are ErrNotFound, ErrWrongPassphrase, ErrWrongKey, ErrDamaged, ErrFormat, kv.ErrLocked
// if another process has it open, and kv.ErrFull. With a passphrase it takes the time and memory of
// the slot's Params; the memory is given back.
func Open(dir string, u Unlock, c Config) (*Vault, error) { return newEnv(c).open(dir, u, c) }

// Exists reports whether there is a vault in dir, open or not. It returns ErrDamaged
// for a database without the header that opens it, so that nobody begins anew beside
// what may be put back; a Create that was killed leaves the same.
func Exists(dir string) (bool, error) {
	exists, _, err := folder(dir).same(headerFile, headerFile)
	if exists || err != nil {
		return exists, err
	}
	left, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), databasePrefix) {
			return false, fmt.Errorf("%w: %s has a database, but the file %s that opens it is missing; put it back from a copy, or move the folder away if it was never whole", ErrDamaged, dir, headerFile)
		}
	}
	return false, err
}

func (e *env) create(dir string, o Options) (_ *Vault, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("create vault in %s: %w", dir, err)
		}
	}()
	if o.Params == (Params{}) {
		o.Params = DefaultParams
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	f := e.files(dir)
	if exists, _, err := f.same(headerFile, headerFile); err != nil {
		return nil, err
	} else if exists {
		return nil, ErrExists
	}

	h := &header{}
	e.random(h.id[:])
	var master [keySize]byte
	e.random(master[:])
	keys := newKeyring(master[:], h.id)
	defer clear(master[:])
	for d := MLS; d < domains; d++ {
		k, w := e.newErasure(h.id, d, &keys.wrap)
		keys.push(d, k)
		h.erasure = append(h.erasure, w)
	}
	if o.Passphrase != nil {
		h.slots = append(h.slots, e.newSlot(h.id, PassphraseSlot, passphraseName, o.Passphrase, o.Params, &master))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Keys)) {
		h.slots = append(h.slots, e.newSlot(h.id, KeySlot, name, o.Keys[name], Params{}, &master))
	}

	// The header comes last: where there is one there is a database.
	path := databasePath(dir, h.id)
	db, err := e.openDatabase(path, keys, o.Config)
	if err != nil {
		keys.clear()
		os.RemoveAll(path)
		return nil, err
	}
	v := &Vault{env: e, files: f, kv: db, schema: o.Schema, header: h, keys: keys}
	b := h.marshal(&keys.mac)
	err = v.Update(func(tx *Tx) error { return tx.SetSchema(o.Schema) })
	if err == nil {
		err = createHeader(f, h.id, b)
	}
	if err != nil {
		v.Close()
		is, readErr := f.read(headerFile)
		if errors.Is(readErr, fs.ErrNotExist) || readErr == nil && !bytes.Equal(is, b) {
			os.RemoveAll(path) // it failed, and did not happen
		}
		if errors.Is(err, fs.ErrExist) {
			return nil, ErrExists // another process was faster
		}
		return nil, err
	}
	return v, nil
}

func (o *Options) check() error {
	n := len(o.Keys)
	if o.Passphrase != nil {
		n++
		if err := checkPassphrase(o.Passphrase, o.Params); err != nil {
			return err
		}
	}
	if n < 1 || n > maxSlots {
		return fmt.Errorf("a vault has 1 to %d slots, not %d", maxSlots, n)
	}
	for name, key := range o.Keys {
		if err := checkKeySlot(name, key); err != nil {
			return err
		}
	}
	return nil
}

func checkPassphrase(passphrase []byte, p Params) error {
	if len(passphrase) == 0 {
		return errors.New("the passphrase is empty")
	}
	return p.check()
}

func checkKeySlot(name string, key []byte) error {
	if name == passphraseName {
		return fmt.Errorf("a key slot named %q", name)
	}
	if len(key) != keySize {
		return fmt.Errorf("the key of slot %q has %d bytes, not %d", name, len(key), keySize)
	}
	return checkName(name)
}

// private takes a folder away from everybody else.
func private(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

const databasePrefix = "db-"

// databasePath carries the vault's id, so that of two that create a vault at once
// neither touches the other's database.
func databasePath(dir string, id vaultID) string {
	return filepath.Join(dir, databasePrefix+hex.EncodeToString(id[:4]))
}

func (e *env) openDatabase(path string, keys *keyring, c Config) (*kv.DB, error) {
	o := kv.Options{
		Dir: path, Key: keys.badger[:], Small: true,
		Reserve: c.Reserve, Free: c.Free, MaxTx: c.MaxTx, Hook: c.Hook, Logger: c.Logger,
	}
	if e.bare {
		o.Key = nil
	}
	db, err := kv.Open(o)
	switch {
	case errors.Is(err, kv.ErrWrongKey):
		return nil, fmt.Errorf("%w: the database does not belong to the header: %w", ErrDamaged, err)
	case err != nil:
		return nil, storageError(err)
	}
	return db, nil
}

// storageError gives what kv says of damage and versions this package's names.
func storageError(err error) error {
	switch {
	case errors.Is(err, kv.ErrUnknown): // which may have any cause
		return err
	case errors.Is(err, kv.ErrCorrupt):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, kv.ErrFormat):
		return fmt.Errorf("%w: %w", ErrFormat, err)
	case errors.Is(err, kv.ErrClosed):
		return ErrClosed
	}
	return err
}

func (e *env) open(dir string, u Unlock, c Config) (_ *Vault, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open vault in %s: %w", dir, err)
		}
	}()
	f := e.files(dir)
	b, err := f.read(headerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("vault %w", ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	keys, err := e.unlock(h, b, u)
	if err != nil {
		return nil, err
	}
	path := databasePath(dir, h.id)
	var db *kv.DB
	if err = private(dir); err == nil {
		if _, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: the header names the folder %s, which is not there", ErrDamaged, filepath.Base(path))
		} else if err == nil {
			db, err = e.openDatabase(path, keys, c)
		}
	}
	if err != nil {
		keys.clear()
		return nil, err
	}
	v := &Vault{env: e, files: f, kv: db, schema: c.Schema, header: h, keys: keys}
	if err := v.recover(b, c.Logger); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// recover finishes what it finds. The database is locked: from here on no other
// process changes the header.
func (v *Vault) recover(b []byte, log *slog.Logger) error {
	now, err := v.files.read(headerFile)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, b) { // another process had the vault while we unlocked it
		h, err := parseHeader(now)
		if err != nil {
			return err
		}
		if h.id != v.header.id {
			return fmt.Errorf("%w: the header was replaced while the vault was opened", ErrDamaged)
		}
		keys, err := h.keyring(v.keys.master[:], now)
		if err != nil {
			return err
		}
		// Of one id and one master key, they differ in the erasure keys at most.
		for d := range keys.erasure {
			clear(v.keys.erasure[d])
			v.keys.erasure[d], keys.erasure[d] = keys.erasure[d], nil
		}
		keys.clear()
		v.header = h
	}
	if err := tidy(v.files, newFile, oldFile, firstFile(v.header.id)); err != nil {
		return err
	}
	err = v.View(func(tx *Tx) error {
		schema, err := tx.Schema()
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: the database has no schema version", ErrDamaged)
		}
		if err == nil && schema > v.schema {
			err = fmt.Errorf("%w: its records have version %d, this program knows up to %d", ErrFormat, schema, v.schema)
		}
		return err
	})
	if err != nil {
		return err
	}
	for d := MLS; d < domains; d++ {
		err := v.finishRotation(d)
		// Both keys are good: nothing is lost, and the next rotation finishes it.
		if errors.Is(err, kv.ErrFull) || errors.Is(err, ErrDamaged) {
			if log != nil {
				log.Warn("erased data is not yet unreadable", "domain", d.String(), "error", err)
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close waits for transactions under way, closes the database and clears the keys.
func (v *Vault) Close() error {
	v.headers.Lock()
	defer v.headers.Unlock()
	v.keying.Lock()
	defer v.keying.Unlock()
	if v.keys == nil {
		return nil
	}
	err := v.kv.Close()
	v.keys.clear()
	v.keys = nil
	return err
}

// Reopen is the way on after kv.ErrUnknown: what is read after it is what the disk
// holds.
func (v *Vault) Reopen() error { return storageError(v.kv.Reopen()) }

// View runs f on a snapshot.
func (v *Vault) View(f func(*Tx) error) error {
	return v.run(v.kv.View, f, false)
}

// Update runs f and makes what it wrote durable, all of it or none. An error of f is
// returned as it is, and nothing has happened; so it is with an error of any Put,
// even one that f did not look at. Updates run one after the other.
func (v *Vault) Update(f func(*Tx) error) error {
	return v.run(v.kv.Update, f, true)
}

func (v *Vault) run(begin func(func(*kv.Tx) error) error, f func(*Tx) error, writable bool) error {
	v.keying.RLock()
	defer v.keying.RUnlock()
	if v.keys == nil {
		return ErrClosed
	}
	var own error
	err := begin(func(k *kv.Tx) error {
		tx := &Tx{v: v, kv: k, writable: writable}
		defer tx.end()
		if own = f(tx); own == nil {
			own = tx.err
		}
		return own
	})
	if own != nil {
		return own
	}
	return storageError(err)
}

// A Slot is one way to open the vault.
type Slot struct {
	Name   string
	Kind   SlotKind
	Params Params // of a passphrase slot
}

// Slots returns the ways to open the vault.
func (v *Vault) Slots() []Slot {
	v.headers.Lock()
	defer v.headers.Unlock()
	var s []Slot
	for _, h := range v.header.slots {
		s = append(s, Slot{h.name, h.kind, h.params})
	}
	return s
}

// changeHeader writes the header that change makes of a clone of the present one.
// Of a vault that returns an error the old header or the new one is in force.
func (v *Vault) changeHeader(change func(h *header) error) error {
	v.headers.Lock()
	defer v.headers.Unlock()
	if v.keys == nil {
		return ErrClosed
	}
	h := v.header.clone()
	if err := change(h); err != nil {
		return err
	}
	return v.setHeaderLocked(h, nil)
}

// setHeaderLocked puts h on the disk, then in force, and with it what apply does to
// the keys. After an error that is so too if h is found to be on the disk.
func (v *Vault) setHeaderLocked(h *header, apply func(*keyring)) error {
	if err := h.check(); err != nil {
		return err
	}
	b := h.marshal(&v.keys.mac)
	err := replaceHeader(v.files, b)
	if err != nil {
		if is, readErr := v.files.read(headerFile); readErr != nil || !bytes.Equal(is, b) {
			return fmt.Errorf("write the vault's header: %w", err)
		}
	}
	v.header = h
	if apply != nil {
		v.keying.Lock()
		apply(v.keys)
		v.keying.Unlock()
	}
	if err != nil {
		return fmt.Errorf("write the vault's header: %w", err)
	}
	return nil
}

// ChangePassphrase replaces the passphrase. A privileged secret stays. It returns
// ErrWrongPassphrase if old is not the present one; after another error either may
// be in force. Zero Params are DefaultParams.
func (v *Vault) ChangePassphrase(old, new []byte, p Params) error {
	if p == (Params{}) {
		p = DefaultParams
	}
	if err := checkPassphrase(new, p); err != nil {
		return err
	}
	return v.changeHeader(func(h *header) error {
		i, err := v.checkPassphraseLocked(h, old)
		if err != nil {
			return err
		}
		h.slots[i] = v.env.newSlot(h.id, PassphraseSlot, passphraseName, new, p, &v.keys.master)
		if h.privileged != nil {
			secret, ok := v.env.openPrivileged(h.id, h.privileged, old)
			if !ok {
				return fmt.Errorf("%w: the privileged secret does not open with the passphrase", ErrDamaged)
			}
			defer clear(secret)
			h.privileged = v.env.newPrivileged(h.id, new, secret, p)
		}
		return nil
	})
}

// ResetPassphrase sets the passphrase of a vault that was opened with a key, without
// asking for the one before. A privileged secret is lost: its owner puts it again.
func (v *Vault) ResetPassphrase(new []byte, p Params) error {
	if p == (Params{}) {
		p = DefaultParams
	}
	if err := checkPassphrase(new, p); err != nil {
		return err
	}
	return v.changeHeader(func(h *header) error {
		s := v.env.newSlot(h.id, PassphraseSlot, passphraseName, new, p, &v.keys.master)
		if i := h.slot(passphraseName); i >= 0 {
			h.slots[i] = s
		} else {
			h.slots = append(h.slots, s)
		}
		h.privileged = nil
		return nil
	})
}

// AddKey adds a key slot. Key has 32 bytes and comes from good randomness: it is not
// stretched. It returns ErrExists if there is a slot of that name.
func (v *Vault) AddKey(name string, key []byte) error {
	if err := checkKeySlot(name, key); err != nil {
		return err
	}
	return v.changeHeader(func(h *header) error {
		if h.slot(name) >= 0 {
			return fmt.Errorf("add slot %q: %w", name, ErrExists)
		}
		h.slots = append(h.slots, v.env.newSlot(h.id, KeySlot, name, key, Params{}, &v.keys.master))
		return nil
	})
}

// RemoveSlot removes a slot, but never the last. The master key stays: who had
// learned it still opens the vault. With the passphrase slot goes the privileged
// secret.
func (v *Vault) RemoveSlot(name string) error {
	return v.changeHeader(func(h *header) error {
		i := h.slot(name)
		if i < 0 {
			return fmt.Errorf("remove slot %q: %w", name, ErrNotFound)
		}
		if len(h.slots) == 1 {
			return fmt.Errorf("remove slot %q: nothing else opens the vault", name)
		}
		h.slots = slices.Delete(h.slots, i, i+1)
		if name == passphraseName {
			h.privileged = nil
		}
		return nil
	})
}

// PutPrivileged keeps a secret of 1 to 1,024 bytes that the open vault does not give
// away without the passphrase: the account key. It replaces the one before. It
// stretches the passphrase twice.
func (v *Vault) PutPrivileged(passphrase, secret []byte) error {
	if n := len(secret); n < 1 || n > maxPrivileged {
		return fmt.Errorf("a privileged secret has 1 to %d bytes, not %d", maxPrivileged, n)
	}
	return v.changeHeader(func(h *header) error {
		i, err := v.checkPassphraseLocked(h, passphrase)
		if err != nil {
			return err
		}
		h.privileged = v.env.newPrivileged(h.id, passphrase, secret, h.slots[i].params)
		return nil
	})
}

// Privileged returns the secret, which the caller clears after use. It returns
// ErrNotFound if there is none.
func (v *Vault) Privileged(passphrase []byte) ([]byte, error) {
	v.headers.Lock()
	defer v.headers.Unlock()
	if v.keys == nil {
		return nil, ErrClosed
	}
	if v.header.privileged == nil {
		return nil, fmt.Errorf("privileged secret %w", ErrNotFound)
	}
	secret, ok := v.env.openPrivileged(v.header.id, v.header.privileged, passphrase)
	if !ok {
		return nil, ErrWrongPassphrase
	}
	return secret, nil
}

// HasPrivileged reports whether there is a privileged secret.
func (v *Vault) HasPrivileged() bool {
	v.headers.Lock()
	defer v.headers.Unlock()
	return v.header != nil && v.header.privileged != nil
}

// checkPassphraseLocked returns the index of the passphrase slot if it opens.
func (v *Vault) checkPassphraseLocked(h *header, passphrase []byte) (int, error) {
	i := h.slot(passphraseName)
	if i < 0 {
		return 0, fmt.Errorf("%w: the vault has no passphrase slot", ErrWrongPassphrase)
	}
	master, ok := v.env.openSlot(h, &h.slots[i], passphrase)
	clear(master)
	if !ok {
		return 0, ErrWrongPassphrase
	}
	return i, nil
}
