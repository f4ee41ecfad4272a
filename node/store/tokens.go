package store

import (
	"time"

	"sotto/crypto/codec"
	"sotto/storage/vault"
)

const tToken vault.Table = 43

// Token lets its bearer do some things, under the hash of what the bearer shows.
type Token struct {
	Hash    [32]byte // SHA-256 of a secret of 256 random bits
	Name    string
	Read    bool
	Post    bool
	Chats   [][]byte // conversations that it is for; none: all
	Created time.Time
	Expires time.Time // zero: never
	Used    time.Time
}

func (t *Token) fields(f *codec.Fields) {
	f.Array(t.Hash[:])
	text(f, &t.Name)
	f.Flag(&t.Read)
	f.Flag(&t.Post)
	blobs(f, &t.Chats)
	moment(f, &t.Created)
	moment(f, &t.Expires)
	moment(f, &t.Used)
}

// Token returns the token with this hash, or ErrNotFound.
func (t *Tx) Token(hash [32]byte) (Token, error) {
	return load[Token](t, vault.Ref{Table: tToken, Order: string(hash[:])})
}

// PutToken writes it.
func (t *Tx) PutToken(tok *Token) error {
	return t.put(vault.Ref{Table: tToken, Order: string(tok.Hash[:])}, plain, tok)
}

// DeleteToken removes it.
func (t *Tx) DeleteToken(hash [32]byte) error {
	return t.tx.Delete(vault.Ref{Table: tToken, Order: string(hash[:])})
}

// Tokens returns all of them.
func (t *Tx) Tokens() ([]Token, error) { return all[Token](t, tToken, "") }
