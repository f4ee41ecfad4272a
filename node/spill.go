package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
	"sotto/storage/blob"
	"sotto/storage/kv"
)

// maxInline is the largest invitation that goes into letters: names are beside it.
const maxInline = envelope.MaxLetter - 17<<10

// How long a relay is asked to keep blobs: commits as long as it keeps the entries that
// name them, invitations as long as the letters. The day is for clocks that differ.
const (
	commitLife     = 179 * 24 * time.Hour
	invitationLife = 30 * 24 * time.Hour
)

// spill returns what of a staged commit goes into its envelope, and what must go into
// blobs before.
func (t *turn) spill(s *mls.Staged) (inner []byte, spills []store.Spill, err error) {
	put := func(what uint8) (envelope.Spilled, error) {
		seed := envelope.NewSpillSeed()
		x, _, err := envelope.Spill(seed, spillContent(s, what))
		spills = append(spills, store.Spill{What: what, Seed: seed, Owner: key.NewCapability().Seed(), Spilled: x.Append(nil)})
		return x, err
	}
	inner = s.Message()
	if len(inner) > envelope.MaxMessage {
		x, err := put(store.SpillCommit)
		if err != nil {
			return nil, nil, err
		}
		inner = x.Append(nil)
	}
	if len(s.Added()) > 0 && len(spillContent(s, store.SpillInvitation)) > maxInline {
		if _, err := put(store.SpillInvitation); err != nil {
			return nil, nil, err
		}
	}
	return inner, spills, nil
}

// spillContent is what lies in the blobs of a spill: the same whenever it is asked for.
func spillContent(s *mls.Staged, what uint8) []byte {
	if what == store.SpillCommit {
		return s.Message()
	}
	return conversation.Invitation{Welcome: s.Welcome(), Tree: s.RatchetTree()}.Append(nil)
}

// noRoom is why a relay does not keep what a commit needs, when waiting does not help.
type noRoom struct{ error }

// storeSpills makes the blobs durable that an entry names.
func (o *owner) storeSpills(ctx context.Context, r *relay, s *ownerState, out *store.Outgoing) error {
	for _, x := range out.Spills {
		if s.staged == nil {
			return errors.New("what an entry names is not staged any more")
		}
		_, blobs, err := envelope.Spill(x.Seed, spillContent(s.staged, x.What))
		if err != nil {
			return err
		}
		life := commitLife
		if x.What == store.SpillInvitation {
			life = invitationLife
		}
		ticket := o.n.ticket(s.rec.Relay)
		if ticket == nil && s.rec.Made != nil {
			ticket = s.rec.Made.Ticket
		}
		for _, b := range blobs {
			_, err := r.client.PutBlob(ctx, key.CapabilityFromSeed(x.Owner), b, blob.MinuteOf(o.n.clock().Add(life)), ticket)
			if err := spillRefusal(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// spillRefusal tells what waiting helps against from what it does not.
func spillRefusal(err error) error {
	var refused *wire.Error
	switch {
	case errors.Is(err, client.ErrNoBlobs):
		return noRoom{errors.New("the group's relay keeps no blobs, which a group of this size needs")}
	case errors.As(err, &refused):
		switch refused.Code {
		case wire.CodeExists: // somebody else has stored the same bytes
			return nil
		case wire.CodeQuota, wire.CodeRefused, wire.CodeTooLarge, wire.CodeTerms, wire.CodeMalformed:
			return noRoom{fmt.Errorf("the group's relay does not take what a group of this size needs: %w", err)}
		}
	}
	return err
}

// discard notes the blobs of a commit that was given up: nobody will ask for them.
func (t *turn) discard() error {
	for _, out := range t.outbox {
		for _, x := range out.Spills {
			s, err := envelope.ParseSpilled(x.Spilled)
			if err != nil {
				return err
			}
			for _, id := range s.Blobs {
				if err := t.tx.AddGarbage(&store.Garbage{Relay: t.rec.Relay, Blob: id, Owner: x.Owner}); err != nil {
					return err
				}
				t.garbage = true
			}
		}
	}
	return nil
}

// collect deletes blobs that nobody needs. What the relay never had, or does not let go,
// goes by its term.
func (n *Node) collect() {
	n.task("garbage", func(ctx context.Context) error {
		var all []store.Garbage
		if err := n.view(func(tx *store.Tx) (err error) { all, err = tx.Garbage(); return err }); err != nil {
			return err
		}
		for _, g := range all {
			r, err := n.relayAt(g.Relay)
			if err != nil {
				return err
			}
			err = r.client.DeleteBlob(ctx, key.CapabilityFromSeed(g.Owner), blob.ID(g.Blob))
			if errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrLost) || errors.Is(err, mailbox.ErrUnknown) || ctx.Err() != nil {
				return err
			}
			if err := n.update(func(tx *store.Tx) error { return tx.DeleteGarbage(g.Blob) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// fetched are the blobs that an entry names, under the hash of what its envelope holds.
type fetched struct {
	of    [32]byte
	blobs [][]byte
}

// missingBlobs says that an entry cannot be read before what it names is fetched.
type missingBlobs struct {
	of      [32]byte
	spilled envelope.Spilled
}

func (m *missingBlobs) Error() string { return "a commit is still to be fetched" }

// unspill returns the commit that an envelope names. The error is a *missingBlobs, or the
// fault of who made the entry and the same on every device.
func (t *turn) unspill(e *mailbox.Entry, inner []byte, of [32]byte) ([]byte, error) {
	s, err := envelope.ParseSpilled(inner)
	if err != nil {
		return nil, err
	}
	// Before it is fetched it must look as only a commit does that has raised the
	// mailbox's generation: nothing else makes members wait.
	if e.Kind != mailbox.Commit || len(e.Meta) == 0 || s.Size <= envelope.MaxMessage {
		return nil, errors.New("something is spilled that need not be")
	}
	if f := t.o.fetched; f != nil && f.of == of {
		return s.Open(f.blobs)
	}
	return nil, &missingBlobs{of, s}
}

// withheld is what a reader waits for, and why it does not come.
type withheld struct{ error }

func (w withheld) Unwrap() error { return w.error }

// getSpilled fetches the blobs of what was spilled.
func (n *Node) getSpilled(ctx context.Context, address string, s envelope.Spilled) (blobs [][]byte, err error) {
	r, err := n.relayAt(address)
	if err != nil {
		return nil, err
	}
	for _, id := range s.Blobs {
		b, err := r.client.GetBlob(ctx, blob.ID(id))
		switch {
		case err == nil:
			blobs = append(blobs, b)
			continue
		case errors.Is(err, client.ErrWrongBlob):
			err = withheld{fmt.Errorf("the relay gives out something else in its place: %w", err)}
		case errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrDamaged), errors.Is(err, client.ErrNoBlobs):
			err = withheld{fmt.Errorf("the relay does not have it, or does not give it out: %w", err)}
		}
		return nil, err
	}
	return blobs, nil
}

// maxInvited is how many invitations may wait to be fetched.
const maxInvited = 64

// welcomed deals with a welcome: it joins the group, or notes what is to be fetched first.
func (n *Node) welcomed(tx *store.Tx, body []byte) ([]byte, error) {
	w, err := conversation.ParseWelcome(body)
	if err != nil {
		return nil, passOver("%w", err)
	}
	// Nothing is fetched for somebody who was not given the key package.
	if _, _, err := n.invitedBy(tx, w); err != nil {
		return nil, err
	}
	if w.Inline != nil {
		return n.join(tx, w, w.Inline)
	}
	all, err := tx.AllInvited()
	if err != nil {
		return nil, err
	}
	if len(all) >= maxInvited {
		return nil, passOver("%d invitations wait already", len(all))
	}
	return nil, tx.PutInvited(&store.Invited{ID: sha256.Sum256(body), Letter: body, Since: n.clock()})
}

// fetchInvited fetches invitations and joins the groups.
func (n *Node) fetchInvited() {
	n.task("invited", func(ctx context.Context) error {
		var all []store.Invited
		if err := n.view(func(tx *store.Tx) (err error) { all, err = tx.AllInvited(); return err }); err != nil {
			return err
		}
		var failed error
		for i := range all {
			if err := n.acceptInvited(ctx, &all[i]); err != nil {
				failed = err
			}
		}
		return failed
	})
}

func (n *Node) acceptInvited(ctx context.Context, in *store.Invited) error {
	w, err := conversation.ParseWelcome(in.Letter)
	if err != nil {
		return err
	}
	at, err := wire.ReadAddress(w.Relay)
	var content []byte
	if err != nil {
		err = passOver("%w", err)
	} else {
		var blobs [][]byte
		blobs, err = n.getSpilled(ctx, at.String(), w.Spilled)
		if err == nil {
			if content, err = w.Spilled.Open(blobs); err != nil {
				err = passOver("%w", err)
			}
		}
	}
	var passed *passedOver
	if err != nil && !errors.As(err, &passed) {
		return n.stillInvited(in, w, err)
	}
	var group []byte
	err = n.update(func(tx *store.Tx) error {
		group = nil
		if _, err := tx.Invited(in.ID); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		again := err
		if again == nil {
			group, again = n.join(tx, w, content)
		}
		if errors.As(again, &passed) {
			n.log.Debug("a welcome is passed over", "err", again)
			again = nil
		}
		return errors.Join(again, tx.DeleteInvited(in.ID))
	})
	if errors.Is(err, kv.ErrTooBig) {
		return n.update(func(tx *store.Tx) error {
			return errors.Join(tx.DeleteInvited(in.ID), n.notice(tx, "Somebody added you to a group that is too large for this version."))
		})
	}
	if err == nil && group != nil {
		n.takeUp(group)
	}
	return err
}

// stillInvited says why an invitation is not here yet, once for each reason, and gives it
// up when the relay's term is over.
func (n *Node) stillInvited(in *store.Invited, w *conversation.Welcome, why error) error {
	over := n.clock().Sub(in.Since) > invitationLife
	var stays withheld
	reason := ""
	if errors.As(why, &stays) {
		reason = stays.Error()
	}
	if !over && reason == in.Reason {
		return why
	}
	err := n.update(func(tx *store.Tx) error {
		contact, _, err := n.invitedBy(tx, w)
		var passed *passedOver
		if over || errors.As(err, &passed) {
			if passed == nil {
				err = n.notice(tx, fmt.Sprintf("%s added you to a group, and what is needed to join it has not come. Ask to be added again.", contact.Name))
			} else {
				err = nil
			}
			return errors.Join(err, tx.DeleteInvited(in.ID))
		}
		if err != nil {
			return err
		}
		in.Reason = reason
		if reason != "" {
			err = n.notice(tx, fmt.Sprintf("%s added you to a group, and you cannot join it yet: %s. It is tried again.", contact.Name, reason))
		}
		return errors.Join(err, tx.PutInvited(in))
	})
	if err != nil || over {
		return err
	}
	return why
}
