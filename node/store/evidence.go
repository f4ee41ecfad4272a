package store

import (
	"time"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/vault"
)

// The tables of what a relay has said about a conversation's mailbox.
const (
	tEvidence vault.Table = 50 // by conversation: what contradicts itself
	tHead     vault.Table = 51 // by conversation: the newest head that it has signed
	tChain    vault.Table = 52 // by conversation, by seq: the chain value there, of the newest entries
)

var evidenceTables = []vault.Table{tEvidence, tHead, tChain}

const (
	seqEvidence  = "evidence"
	keepEvidence = 16
	keepChains   = 512
)

// Evidence is two things that a relay has signed and that cannot both be true.
type Evidence struct {
	When   time.Time
	What   string
	Relay  string // its address
	First  []byte // a wire.SignedHead
	Second []byte // another, or a wire.Status
	Status bool   // Second is a Status
	Nonce  [32]byte
}

func (e *Evidence) fields(f *codec.Fields) {
	moment(f, &e.When)
	text(f, &e.What)
	text(f, &e.Relay)
	blob(f, &e.First)
	blob(f, &e.Second)
	f.Flag(&e.Status)
	f.Array(e.Nonce[:])
}

// AddEvidence keeps evidence, unless there is a lot already.
func (t *Tx) AddEvidence(group []byte, e *Evidence) error {
	old, err := t.Evidence(group)
	if err != nil || len(old) >= keepEvidence {
		return err
	}
	n, err := t.tx.Next(seqEvidence)
	if err != nil {
		return err
	}
	return t.put(vault.Ref{Table: tEvidence, Partition: string(group), Order: vault.U64(n)}, plain, e)
}

// Evidence returns what is kept, the oldest first.
func (t *Tx) Evidence(group []byte) ([]Evidence, error) {
	return all[Evidence](t, tEvidence, string(group))
}

// PutHead keeps the newest head that the relay has signed, a wire.SignedHead.
func (t *Tx) PutHead(group, signed []byte) error {
	return t.tx.Put(vault.Ref{Table: tHead, Partition: string(group)}, plain, signed)
}

// Head returns it, or ErrNotFound.
func (t *Tx) Head(group []byte) ([]byte, error) {
	return t.tx.Get(vault.Ref{Table: tHead, Partition: string(group)})
}

// place is a chain value.
type place struct {
	era   uint64
	chain [32]byte
}

func (p *place) fields(f *codec.Fields) {
	f.U64(&p.era)
	f.Array(p.chain[:])
}

func chainRef(group []byte, at mailbox.Seq) vault.Ref {
	return vault.Ref{Table: tChain, Partition: string(group), Order: vault.U64(uint64(at))}
}

// PutChain keeps the chain value at a place, and forgets an old one.
func (t *Tx) PutChain(group []byte, at mailbox.Mark, chain mailbox.Hash) error {
	if at.Seq > keepChains {
		if err := t.tx.Delete(chainRef(group, at.Seq-keepChains)); err != nil {
			return err
		}
	}
	return t.put(chainRef(group, at.Seq), plain, &place{uint64(at.Era), chain})
}

// Chain returns the chain value at a place, or ErrNotFound if it is not known, or of
// another era.
func (t *Tx) Chain(group []byte, at mailbox.Mark) (mailbox.Hash, error) {
	p, err := load[place](t, chainRef(group, at.Seq))
	if err == nil && p.era != uint64(at.Era) {
		err = ErrNotFound
	}
	return p.chain, err
}
