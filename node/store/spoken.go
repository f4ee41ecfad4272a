package store

import (
	"crypto/sha256"
	"errors"

	"sotto/storage/vault"
)

// CredentialName is how a Proof names a credential.
func CredentialName(credential []byte) [16]byte {
	sum := sha256.Sum256(credential)
	return [16]byte(sum[:16])
}

// PutSpoken keeps what the proofs of a conversation have in common, once: the group
// context of an epoch, and the credential of who speaks in it.
func (t *Tx) PutSpoken(group []byte, epoch uint64, context, credential []byte) error {
	name := CredentialName(credential)
	for _, x := range []struct {
		table vault.Table
		order string
		value []byte
	}{{tContext, vault.U64(epoch), context}, {tCredential, string(name[:]), credential}} {
		r := vault.Ref{Table: x.table, Partition: string(group), Order: x.order}
		if _, err := t.tx.Get(r); err == nil {
			continue
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		if err := t.tx.Put(r, plain, x.value); err != nil {
			return err
		}
	}
	return nil
}

// Spoken returns what PutSpoken keeps for a proof, or ErrNotFound.
func (t *Tx) Spoken(group []byte, p *Proof) (context, credential []byte, err error) {
	context, err = t.tx.Get(vault.Ref{Table: tContext, Partition: string(group), Order: vault.U64(p.Epoch)})
	if err != nil {
		return nil, nil, err
	}
	credential, err = t.tx.Get(vault.Ref{Table: tCredential, Partition: string(group), Order: string(p.Credential[:])})
	return context, credential, err
}
