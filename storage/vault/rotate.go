package vault

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"sotto/storage/kv"
)

// RotateErasure makes every DropBucket of a domain that returned before final: it wraps
// the bucket keys that are left under a new erasure key and destroys the old one, on the
// disk too as far as the disk overwrites in place (spec/vault.md 5). It is complete when
// it returns nil. After an error call it again, once the vault is in order; after a crash
// Open finishes it. Transactions wait for it for moments only.
func (v *Vault) RotateErasure(d Domain) error {
	if d == Plain || d >= domains {
		return fmt.Errorf("rotate the erasure key of %v: it has none", d)
	}
	v.headers.Lock()
	defer v.headers.Unlock()
	if err := v.rotateLocked(d); err != nil {
		return fmt.Errorf("rotate the erasure key of %v: %w", d, err)
	}
	return nil
}

func (v *Vault) rotateLocked(d Domain) error {
	// One that was begun earlier may have wrapped what was dropped since under the
	// key it brought: finish it, then begin.
	if err := v.finishRotationLocked(d); err != nil {
		return err
	}
	h := v.header.clone()
	key, wrapped := v.env.newErasure(h.id, d, &v.keys.wrap)
	defer clear(key.key[:])
	h.erasure = append(h.erasure, wrapped)
	// Only when the header is durable is anything wrapped under the new key.
	err := v.setHeaderLocked(h, func(k *keyring) { k.push(d, key) })
	if err != nil {
		return err
	}
	return v.finishRotationLocked(d)
}

func (v *Vault) finishRotation(d Domain) error {
	v.headers.Lock()
	defer v.headers.Unlock()
	return v.finishRotationLocked(d)
}

// finishRotationLocked brings a domain with two erasure keys to one.
func (v *Vault) finishRotationLocked(d Domain) error {
	if v.keys == nil {
		return ErrClosed
	}
	if len(v.keys.erasure[d]) < 2 {
		return nil
	}
	// From here on no bucket key is wrapped under the old key: an update that was
	// running when the new one came has ended, since setHeaderLocked waited for it.
	start := []byte{byte(bucketTable), byte(d)}
	for start != nil {
		err := v.Update(func(tx *Tx) (err error) {
			start, err = tx.rewrap(d, start)
			return err
		})
		if err != nil {
			return err
		}
	}
	old := v.keys.erasure[d][0].id
	h := v.header.clone()
	h.erasure = slices.DeleteFunc(h.erasure, func(w wrappedErasure) bool { return w.id == old })
	return v.setHeaderLocked(h, func(k *keyring) {
		clear(k.erasure[d][0].key[:])
		k.erasure[d] = k.erasure[d][1:]
	})
}

// rewrap wraps a batch of bucket keys under the current erasure key, from the Badger key
// start on, and returns where the next begins, nil at the end. One that is damaged it
// leaves to be found by a reader.
func (t *Tx) rewrap(d Domain, start []byte) (next []byte, err error) {
	var names []bucketName
	prefix := []byte{byte(bucketTable), byte(d)}
	current := t.v.keys.current(d).id
	t.walk(prefix, start, false, true, func(e entry, failed error) bool {
		if err = failed; err != nil {
			return false
		}
		if len(names) == t.v.env.batch {
			next = e.key
			return false
		}
		k, parseErr := parseBucketKey(e.stored)
		if parseErr == nil && len(e.key) == bucketNameSize && k.erasure != current {
			names = append(names, bucketName(e.key))
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := t.bucket(name)
		if errors.Is(err, ErrDamaged) && !errors.Is(err, kv.ErrCorrupt) {
			continue // it is lost under the old key too
		}
		if err != nil {
			return nil, err
		}
		if err := t.kv.Set(bytes.Clone(name[:]), t.v.wrapBucketKey(&name, b.id, &b.key)); err != nil {
			return nil, err
		}
	}
	return next, nil
}
