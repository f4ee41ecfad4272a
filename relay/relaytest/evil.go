// Package relaytest is the store of a relay that means ill, for tests.
//
// It stands behind a real server, which signs whatever the store says: so what its lies
// meet at the clients is everything that is to find them out, down to the signatures.
//
//	e := relaytest.New(nil)
//	srv := server.New(server.Config{Key: k, Store: e, Slots: e})
//	e.OnPut(func(d mailbox.Deposit) relaytest.Answer { return relaytest.Conflict })
//
// Without a script an Evil keeps to the contract of package mailbox.
package relaytest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sotto/relay/mailbox"
	"sotto/relay/mailbox/membox"
)

// Answer is what is done with a deposit.
type Answer int

const (
	Store    Answer = iota // as an honest relay would
	Lose                   // not stored, and no answer
	Pretend                // not stored, and confirmed
	Hold                   // stored when Release is called, and no answer
	Conflict               // not stored: another commit is said to have come first
	Stale                  // not stored: the generation is said to be another
)

// Evil is a mailbox.Store and mailbox.Slots. Its methods may be called concurrently.
type Evil struct {
	mailbox.Store
	mailbox.Slots
	mem *membox.Store // both of them

	mu    sync.Mutex // guards the following fields
	put   func(mailbox.Deposit) Answer
	page  func(mailbox.ID, *mailbox.Page)
	held  []mailbox.Deposit
	taken []mailbox.Deposit // all that was stored, in order
}

// New makes an empty one. A nil clock is time.Now.
func New(clock func() time.Time) *Evil { return of(membox.New(clock, 0)) }

func of(m *membox.Store) *Evil { return &Evil{Store: m, Slots: m, mem: m} }

// Fork returns another with the same history, in the same era. From here on each goes its
// own way: whoever is shown one of them and then the other has been lied to. It is also
// what the relay can go back to.
func (e *Evil) Fork() *Evil {
	other := of(e.mem.Clone())
	e.mu.Lock()
	defer e.mu.Unlock()
	other.taken = append(other.taken, e.taken...)
	return other
}

// Restore draws another era, as an honest relay does when it has gone back.
func (e *Evil) Restore() { e.mem.RenewEra() }

// OnPut sets what is done with deposits; nil: they are stored.
func (e *Evil) OnPut(f func(mailbox.Deposit) Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put = f
}

// OnRead sets what is done to pages before they are shown; nil: nothing.
func (e *Evil) OnRead(f func(mailbox.ID, *mailbox.Page)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.page = f
}

// Release stores what was held, the last first.
func (e *Evil) Release(ctx context.Context) []mailbox.Outcome {
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	var out []mailbox.Outcome
	for i := len(held) - 1; i >= 0; i-- {
		out = append(out, e.Slip(ctx, held[i]))
	}
	return out
}

// Slip stores a deposit of the relay's own making, which asks nobody for a capability.
func (e *Evil) Slip(ctx context.Context, d mailbox.Deposit) mailbox.Outcome {
	out := e.mem.Put(ctx, []mailbox.Deposit{d})[0]
	e.note(d, out)
	return out
}

// note remembers a deposit that was stored.
func (e *Evil) note(d mailbox.Deposit, out mailbox.Outcome) {
	if out.Err != nil || out.Receipt.Again {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.taken = append(e.taken, own(d))
}

// own copies what is the caller's.
func own(d mailbox.Deposit) mailbox.Deposit {
	d.Meta, d.Payload = append([]byte(nil), d.Meta...), append([]byte(nil), d.Payload...)
	return d
}

// Taken returns everything that was stored, in order.
func (e *Evil) Taken() []mailbox.Deposit {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]mailbox.Deposit(nil), e.taken...)
}

// Put implements mailbox.Store, or does what OnPut wants.
func (e *Evil) Put(ctx context.Context, ds []mailbox.Deposit) []mailbox.Outcome {
	e.mu.Lock()
	put := e.put
	e.mu.Unlock()
	if put == nil {
		out := e.mem.Put(ctx, ds)
		for i := range out {
			e.note(ds[i], out[i])
		}
		return out
	}
	out := make([]mailbox.Outcome, len(ds))
	for i, d := range ds {
		out[i] = e.answer(ctx, d, put(d))
	}
	return out
}

func (e *Evil) answer(ctx context.Context, d mailbox.Deposit, answer Answer) mailbox.Outcome {
	state, err := e.mem.State(ctx, d.Mailbox)
	if err != nil {
		return mailbox.Outcome{Err: err}
	}
	switch answer {
	case Lose:
		return mailbox.Outcome{Err: mailbox.ErrUnknown}
	case Hold:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.held = append(e.held, own(d))
		return mailbox.Outcome{Err: mailbox.ErrUnknown}
	case Conflict:
		return mailbox.Outcome{Err: &mailbox.ConflictError{Head: state.Head}}
	case Stale:
		return mailbox.Outcome{Err: fmt.Errorf("%w: so it says", mailbox.ErrStale)}
	case Pretend:
		c := e.mem.Clone() // where it is stored, and nobody looks
		defer c.Close()
		return c.Put(ctx, []mailbox.Deposit{d})[0]
	}
	return e.Slip(ctx, d)
}

// Read implements mailbox.Store, and shows what OnRead makes of it.
func (e *Evil) Read(ctx context.Context, id mailbox.ID, after mailbox.Mark, limit mailbox.Limit) (mailbox.Page, error) {
	p, err := e.mem.Read(ctx, id, after, limit)
	e.mu.Lock()
	page := e.page
	e.mu.Unlock()
	if err == nil && page != nil {
		page(id, &p)
	}
	return p, err
}

// Close implements mailbox.Store.
func (e *Evil) Close() error { return e.mem.Close() }
