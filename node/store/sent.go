package store

import (
	"crypto/sha256"
	"errors"

	"sotto/storage/vault"
)

const tSent vault.Table = 44 // by conversation: messages by the key that they were sent with

func sentRef(group []byte, key string) vault.Ref {
	hash := sha256.Sum256([]byte(key))
	return vault.Ref{Table: tSent, Partition: string(group), Order: string(hash[:])}
}

// Sent returns the id of the message that was sent with a key, and whether one was.
func (t *Tx) Sent(group []byte, key string) (id [32]byte, was bool, err error) {
	b, err := t.tx.Get(sentRef(group, key))
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return id, false, nil
	case err == nil && len(b) != len(id):
		err = vault.ErrDamaged
	}
	if err != nil {
		return id, false, err
	}
	return [32]byte(b), true, nil
}

// PutSent notes that a message was sent with a key. It is known as long as the
// conversation is.
func (t *Tx) PutSent(group []byte, key string, id [32]byte) error {
	return t.tx.Put(sentRef(group, key), plain, id[:])
}
