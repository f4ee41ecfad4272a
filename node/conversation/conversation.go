// Package conversation decides what a device does about a conversation: what
// to seal, what to send and when, when to commit, when to give up, when to stop.
// It does no I/O, starts no goroutine and reads no clock: inputs go into
// [Core.Step], effects come out, and package node carries them out.
//
// MLS does not run inside: the node opens an entry first and says what it found,
// and does what an effect asks for, within one transaction of its vault. The
// rules that judge a commit are here as well ([Validate]); they too depend on
// nothing but bytes, the group's state and the place in the mailbox.
package conversation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sotto/crypto/codec"
	"sotto/node/content"
	"sotto/relay/mailbox"
)

// The schedule of spec/group.md, section 5.
const (
	UpdateAfterSent = 100                // messages sealed since the last path update of one's own
	UpdateAfterIdle = 24 * time.Hour     // without a message of one's own
	UpdateAfter     = 7 * 24 * time.Hour // since the last path update
	firstRetry      = 50 * time.Millisecond
	maxRetry        = 2 * time.Second
	roomRetry       = time.Minute // when the relay had no room for what a commit needs
)

// Input is something that happened.
type Input interface{ input() }

type (
	// Send says that a message of the user is durable and wants to go out.
	Send struct{ ID content.ID }
	// Change says that a change of the group which the user wants is durable.
	Change struct{ ID ChangeID }
	// Leave says that the user wants to leave the group.
	Leave struct{}
	// Sealed says what became of a Seal effect: the entry with this hash.
	Sealed struct {
		ID   content.ID
		Hash mailbox.Hash
	}
	// Staged says what became of a Stage effect: a commit that makes the changes
	// named. Those in Moot need none: they are made already, or cannot be.
	Staged struct {
		Hash    mailbox.Hash
		Changes []ChangeID
		Moot    []ChangeID
	}
	// Unstaged says that all changes of a Stage effect were moot, and nothing was
	// to be committed.
	Unstaged struct{ Moot []ChangeID }
	// Proposed says what became of a Propose effect.
	Proposed struct{ Hash mailbox.Hash }
	// Stored says that the relay has signed a receipt for an entry of ours.
	Stored struct {
		Hash mailbox.Hash
		At   mailbox.Mark
	}
	// Refused says that the relay did not take an entry of ours.
	Refused struct {
		Hash   mailbox.Hash
		Why    Refusal
		Reason string // of RefusedForGood: what to show the user
	}
	// Read says that an entry has been read, and what the node found in it.
	// Entries come in the order of the mailbox, each once.
	Read struct {
		At    mailbox.Mark
		Chain mailbox.Hash // after the entry
		Hash  mailbox.Hash // the entry hash
		Kind  mailbox.Kind
		Meta  bool // the commit raised the mailbox's generation
		Found Found
		ID    content.ID // of a Fresh message
		Note  string     // of an Invalid commit or an Unreadable message: why

		// Spread, of Parting, is how long to leave it to others: another time on
		// each device.
		Spread time.Duration
	}
	// Gap says that entries up to At are gone.
	Gap struct {
		At    mailbox.Mark
		Chain mailbox.Hash
		Fence mailbox.Mark // of the head at its end
		Count uint64
		Cause mailbox.Cause
	}
	// Suspect says that the relay contradicts itself or what we hold.
	Suspect struct{ Reason string }
	// Tick says that the time given with an earlier Wait has come, or that the
	// node started.
	Tick struct{}
)

func (Send) input()     {}
func (Change) input()   {}
func (Leave) input()    {}
func (Sealed) input()   {}
func (Staged) input()   {}
func (Unstaged) input() {}
func (Proposed) input() {}
func (Stored) input()   {}
func (Refused) input()  {}
func (Read) input()     {}
func (Gap) input()      {}
func (Suspect) input()  {}
func (Tick) input()     {}

// ChangeID numbers the changes of groups that the user of a device wants.
type ChangeID uint64

// Refusal is why the relay did not take an entry.
type Refusal uint8

const (
	LostRace       Refusal = 1 // another commit came first
	Stale          Refusal = 2 // the mailbox is at another generation
	Later          Refusal = 3 // busy, full, unreachable, or not known: the same bytes again
	RefusedForGood Refusal = 4
	NoRoom         Refusal = 5 // what a commit needs beside it is not kept
)

func (r Refusal) String() string {
	return [...]string{"", "lost race", "stale", "later", "for good", "no room"}[r]
}

// Found is what the node found an entry to be.
type Found uint8

const (
	Own        Found = 1 // of this device, by its hash
	Fresh      Found = 2 // a message not seen before
	Duplicate  Found = 3 // a message seen before
	Unreadable Found = 4 // a message that does not open
	Valid      Found = 5 // another's commit that leads to the next epoch
	Invalid    Found = 6 // a commit that everyone skips
	Ending     Found = 7 // another's commit that removes this device
	Parting    Found = 8 // a member's proposal to be removed itself
)

func (f Found) String() string {
	return [...]string{"", "own", "fresh", "duplicate", "unreadable", "valid", "invalid", "ending", "parting"}[f]
}

// Effect is something for the node to do. Effects are done in order. Those up to
// the first Post or Wait belong into the transaction of the step; none of the
// others leaves the device before that transaction is durable.
type Effect interface{ String() string }

type (
	// Seal asks for a message to be encrypted in the present epoch and put into
	// the outbox. The node answers with Sealed in the same transaction.
	Seal struct{ ID content.ID }
	// Stage asks for a commit that updates this device's path and makes these
	// changes as far as they are still wanted, and for it to be put into the
	// outbox. Without an Update nothing is committed if no change is left. The node
	// answers with Staged or Unstaged in the same transaction.
	Stage struct {
		Expect  mailbox.Mark
		Changes []ChangeID
		Update  bool
	}
	// Propose asks for the proposal to remove this device to be put into the outbox.
	// The node answers with Proposed in the same transaction.
	Propose struct{}
	// Post asks for an entry of the outbox to be sent to the relay. Posts of a
	// conversation go out in order.
	Post struct{ Hash mailbox.Hash }
	// Forget asks for an entry to be taken out of the outbox.
	Forget struct{ Hash mailbox.Hash }
	// Merge asks for the staged commit of our own to become the group's state.
	Merge struct{ Epoch uint64 }
	// Apply asks for the commit just read to become the group's state.
	Apply struct{ Epoch uint64 }
	// Changed says that changes of ours have come about, with the Merge before it.
	Changed struct{ IDs []ChangeID }
	// GivenUp says that changes of ours will not come about, or, if it names none, that a
	// path update of ours must wait.
	GivenUp struct {
		IDs    []ChangeID
		Reason string
	}
	// Ended says that this device is no member any more.
	Ended struct{}
	// Drop asks for the staged commit of our own to be discarded.
	Drop struct{}
	// Deliver asks for the message just read to be shown.
	Deliver struct {
		ID content.ID
		At mailbox.Mark
	}
	// Place says that a message of ours is stored, and where.
	Place struct {
		ID content.ID
		At mailbox.Mark
	}
	// Fail says that a message of ours will not be sent.
	Fail struct {
		ID     content.ID
		Reason string
	}
	// Missing says that entries are gone.
	Missing struct {
		At    mailbox.Mark
		Count uint64
		Cause mailbox.Cause
	}
	// Opened says that both sides have been heard: the conversation is open.
	Opened struct{}
	// Freeze says that nothing more is sent, and why.
	Freeze struct{ Reason string }
	// Wait asks for a Tick after a time; a later Wait replaces an earlier one.
	Wait struct{ For time.Duration }
)

func (e Seal) String() string { return "seal " + short(e.ID[1:]) }
func (e Stage) String() string {
	s := fmt.Sprintf("stage expecting %d", e.Expect.Seq)
	if len(e.Changes) > 0 {
		s += fmt.Sprintf(" changes %d", e.Changes)
	}
	return s
}
func (e Propose) String() string { return "propose to leave" }
func (e Changed) String() string { return fmt.Sprintf("changed %d", e.IDs) }
func (e GivenUp) String() string { return fmt.Sprintf("given up %d: %s", e.IDs, e.Reason) }
func (e Ended) String() string   { return "ended" }
func (e Post) String() string    { return "post " + short(e.Hash[:]) }
func (e Forget) String() string  { return "forget " + short(e.Hash[:]) }
func (e Merge) String() string   { return fmt.Sprintf("merge, epoch %d", e.Epoch) }
func (e Apply) String() string   { return fmt.Sprintf("apply, epoch %d", e.Epoch) }
func (e Drop) String() string    { return "drop" }
func (e Deliver) String() string { return fmt.Sprintf("deliver %s at %d", short(e.ID[1:]), e.At.Seq) }
func (e Place) String() string   { return fmt.Sprintf("place %s at %d", short(e.ID[1:]), e.At.Seq) }
func (e Fail) String() string    { return fmt.Sprintf("fail %s: %s", short(e.ID[1:]), e.Reason) }
func (e Missing) String() string {
	return fmt.Sprintf("missing %d to %d: %v", e.Count, e.At.Seq, e.Cause)
}
func (e Opened) String() string { return "opened" }
func (e Freeze) String() string { return "freeze: " + e.Reason }
func (e Wait) String() string   { return "wait " + e.For.String() }

// short names an id or hash by its printable start, which the scripts of the
// tests choose, or by two bytes in hex.
func short(b []byte) string {
	if s := strings.TrimRight(string(b), "\x00"); s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' }) {
		return s
	}
	return fmt.Sprintf("%x", b[:2])
}

// Item is an entry of ours on its way.
type Item struct {
	ID    content.ID
	Hash  mailbox.Hash
	Gen   mailbox.Gen
	Stale bool // the relay is at another generation; decided once we are too
}

// Core is the state of one conversation on one device. It is not safe for
// concurrent use; its owner is the conversation's goroutine in package node.
type Core struct {
	Epoch  uint64
	Gen    mailbox.Gen  // the mailbox's generation that belongs to Epoch
	Cursor mailbox.Mark // everything up to here has been read
	Chain  mailbox.Hash // the chain value there
	Fence  mailbox.Mark // the last commit up to there
	Open   bool         // both sides have been heard; until then messages wait
	Frozen string       // why nothing is sent; empty if it is
	Over   bool         // this device is no member any more: nothing is read either

	Queue  []content.ID // to be sealed, in order
	Flight []Item       // sealed and not yet known to be stored, in order

	Commit     mailbox.Hash // our undecided commit; zero if there is none
	CommitMark mailbox.Mark // where the relay's receipt puts it; zero if there is none
	Wanted     bool         // a path update is due
	Later      time.Time    // until then it may wait, if nothing is to be sent
	Aside      bool         // until Later messages do not wait for it either
	Called     time.Time    // a member wants to leave, and from then on we commit that; zero if none does
	Changes    []ChangeID   // of the group, wanted by the user, in order
	Committing []ChangeID   // those of them that are in Commit
	Leaving    bool         // the user wants to leave
	Parting    mailbox.Hash // our proposal to leave, of this epoch; zero if there is none

	Tries   int       // commits of ours that lost in a row
	Retry   time.Time // no new commit before
	Sent    int       // messages sealed since our last path update
	Updated time.Time // when that was; zero if there was none
	Active  time.Time // when we sealed last
}

// Undecided reports whether a commit of ours is with the relay or about to be.
func (c *Core) Undecided() bool { return c.Commit != mailbox.Hash{} }

// Step takes in one event at time now and returns what to do about it.
func (c *Core) Step(now time.Time, in Input) (out []Effect) {
	switch in := in.(type) {
	case Send:
		c.Queue = append(c.Queue, in.ID)
	case Sealed:
		// The message stays where it is in the order: at the end of the flight.
		c.Flight = append(c.Flight, Item{ID: in.ID, Hash: in.Hash, Gen: c.Gen})
		c.Sent++
		c.Active = now
		return []Effect{Post{in.Hash}}
	case Staged:
		c.Commit, c.CommitMark, c.Committing = in.Hash, mailbox.Mark{}, in.Changes
		c.settle(in.Moot)
		return []Effect{Post{in.Hash}}
	case Unstaged:
		c.settle(in.Moot)
	case Change:
		c.Changes = append(c.Changes, in.ID)
	case Leave:
		c.Leaving = true
	case Proposed:
		c.Parting = in.Hash
		return []Effect{Post{in.Hash}}
	case Stored:
		out = c.stored(in)
	case Refused:
		out = c.refused(now, in)
	case Read:
		out = c.read(now, in)
	case Gap:
		out = append(out, Missing{in.At, in.Count, in.Cause})
		if in.Fence != c.Fence {
			out = append(out, c.freeze("this device was away for so long that the relay no longer has a commit it needs; it must be added again")...)
		}
		c.Cursor, c.Chain, c.Fence = in.At, in.Chain, in.Fence
	case Suspect:
		out = c.freeze(in.Reason)
	case Tick:
	default:
		panic(fmt.Sprintf("conversation: unknown input %T", in))
	}
	return append(out, c.advance(now)...)
}

// advance starts what can be started: a commit if one is due, else the queue.
func (c *Core) advance(now time.Time) (out []Effect) {
	if c.Frozen != "" || c.Over || c.Undecided() || len(c.olderFlight()) > 0 {
		return nil
	}
	if c.Leaving {
		// Proposed once in each epoch, until somebody commits it.
		if c.Parting != (mailbox.Hash{}) {
			return nil
		}
		return []Effect{Propose{}}
	}
	if c.due(now) {
		// The commit comes behind everything of ours that is on its way, so that
		// it makes none of it stale.
		if len(c.Flight) > 0 {
			return nil
		}
		if wait := c.Retry.Sub(now); wait > 0 {
			return []Effect{Wait{wait}}
		}
		return []Effect{Stage{c.Fence, slices.Clone(c.Changes), c.update(now)}}
	}
	if !c.Open {
		return nil
	}
	if until, wanted := c.wanted(); wanted {
		out = append(out, Wait{until.Sub(now)})
	}
	// What is sealed up to the next update; the rest waits for its epoch.
	n := min(len(c.Queue), UpdateAfterSent-c.Sent)
	for _, id := range c.Queue[:n] {
		out = append(out, Seal{id})
	}
	c.Queue = slices.Delete(c.Queue, 0, n)
	return out
}

// Idle reports whether a message would go out now and alone: nothing is on its way, and
// no commit would come before it.
func (c *Core) Idle(now time.Time) bool {
	if !c.Open || c.Frozen != "" || c.Over || c.Leaving || c.Undecided() || len(c.Flight)+len(c.Queue)+len(c.Changes) > 0 {
		return false
	}
	_, wanted := c.wanted()
	return !wanted && !c.stale(now)
}

// due reports whether a commit of ours must come before the next message.
func (c *Core) due(now time.Time) bool { return c.update(now) || c.Open && len(c.Changes) > 0 }

// update reports whether a path update of ours must.
func (c *Core) update(now time.Time) bool {
	if until, wanted := c.wanted(); wanted && (len(c.Queue) > 0 && !c.aside() || !until.After(now)) {
		return true
	}
	return c.Open && len(c.Queue) > 0 && c.stale(now)
}

// stale reports whether a path update must come before what is sealed next.
func (c *Core) stale(now time.Time) bool {
	if c.aside() {
		return c.Sent >= UpdateAfterSent
	}
	return c.Sent >= UpdateAfterSent || now.Sub(c.Updated) >= UpdateAfter ||
		now.Sub(c.Updated) >= UpdateAfterIdle && now.Sub(c.Active) >= UpdateAfterIdle
}

// wanted reports whether a path update is wanted, and until when it may wait.
func (c *Core) wanted() (until time.Time, wanted bool) {
	switch {
	case !c.Wanted:
		return c.Called, !c.Called.IsZero()
	case c.Called.IsZero() || c.Later.Before(c.Called):
		return c.Later, true
	}
	return c.Called, true
}

// aside reports whether messages go before the path update that is wanted. A member that
// wants to leave they wait for: MLS has them sealed without it.
func (c *Core) aside() bool { return c.Aside && c.Wanted && c.Called.IsZero() }

// settle takes changes off the list.
func (c *Core) settle(ids []ChangeID) {
	c.Changes = slices.DeleteFunc(c.Changes, func(id ChangeID) bool { return slices.Contains(ids, id) })
}

// giveUp discards our undecided commit. What it was for is still wanted.
func (c *Core) giveUp() []Effect {
	h := c.Commit
	c.Wanted = c.Wanted || len(c.Committing) == 0
	c.Commit, c.CommitMark, c.Committing = mailbox.Hash{}, mailbox.Mark{}, nil
	return []Effect{Drop{}, Forget{h}}
}

// olderFlight returns the items sealed in an earlier epoch whose fate is open.
// Nothing new is sealed before it is known, or the order would be lost.
func (c *Core) olderFlight() (older []Item) {
	for _, it := range c.Flight {
		if it.Gen < c.Gen {
			older = append(older, it)
		}
	}
	return older
}

func (c *Core) stored(in Stored) []Effect {
	if in.Hash == c.Commit {
		// It is merged when it is read, not before: only the mailbox shows
		// whether it is the first valid one.
		c.CommitMark = in.At
		return nil
	}
	if in.Hash == c.Parting {
		return []Effect{Forget{in.Hash}}
	}
	i := slices.IndexFunc(c.Flight, func(it Item) bool { return it.Hash == in.Hash })
	if i < 0 {
		return nil
	}
	id := c.Flight[i].ID
	c.Flight = slices.Delete(c.Flight, i, i+1)
	return []Effect{Place{id, in.At}, Forget{in.Hash}}
}

func (c *Core) refused(now time.Time, in Refused) []Effect {
	if in.Hash == c.Commit {
		switch in.Why {
		case LostRace, Stale:
			if in.Why == LostRace {
				c.lost(now)
			}
			// Another commit is in the mailbox. Reading it decides: a valid one
			// drops ours, an invalid one only moves the fence.
			return nil
		case RefusedForGood:
			return append(c.giveUp(), c.freeze("the relay refuses commits: "+in.Reason)...)
		case NoRoom:
			// Messages do not wait for a change that cannot be made. Keys that
			// must be renewed they do wait for.
			first, ids := c.Tries == 0, c.Committing
			out := c.giveUp()
			c.settle(ids)
			if len(ids) == 0 {
				c.Tries++
				c.Retry = now.Add(roomRetry)
			}
			if first || len(ids) > 0 {
				out = append(out, GivenUp{ids, in.Reason})
			}
			return out
		}
		return nil
	}
	if in.Hash == c.Parting && in.Why != Later {
		// Another epoch has begun, in which it is made anew; or it cannot be sent.
		out := []Effect{Forget{in.Hash}}
		if in.Why == RefusedForGood {
			out = append(out, c.freeze("the relay refuses the wish to leave: "+in.Reason)...)
		}
		return out
	}
	i := slices.IndexFunc(c.Flight, func(it Item) bool { return it.Hash == in.Hash })
	if i < 0 {
		return nil
	}
	switch in.Why {
	case Stale, LostRace:
		c.Flight[i].Stale = true
		return c.requeue()
	case RefusedForGood:
		id := c.Flight[i].ID
		c.Flight = slices.Delete(c.Flight, i, i+1)
		return []Effect{Fail{id, in.Reason}, Forget{in.Hash}}
	}
	return nil
}

// requeue takes back the items that the relay called stale, once we are in a
// later epoch than they were sealed in and the fate of all of them is known.
func (c *Core) requeue() (out []Effect) {
	older := c.olderFlight()
	if len(older) == 0 || slices.ContainsFunc(older, func(it Item) bool { return !it.Stale }) {
		return nil
	}
	var ids []content.ID
	for _, it := range older {
		ids = append(ids, it.ID)
		out = append(out, Forget{it.Hash})
	}
	c.Flight = slices.DeleteFunc(c.Flight, func(it Item) bool { return it.Gen < c.Gen })
	c.Queue = append(ids, c.Queue...)
	return out
}

func (c *Core) lost(now time.Time) {
	c.Tries++
	wait := firstRetry
	for range min(c.Tries-1, 8) {
		wait = min(wait*3, maxRetry)
	}
	c.Retry = now.Add(wait)
}

func (c *Core) read(now time.Time, in Read) (out []Effect) {
	c.Cursor, c.Chain = in.At, in.Chain
	if c.CommitMark == in.At && c.Undecided() && in.Hash != c.Commit {
		return c.freeze("the relay confirmed a commit of this device and shows another entry in its place")
	}
	if in.Kind == mailbox.Message {
		switch in.Found {
		case Own:
			return c.stored(Stored{in.Hash, in.At})
		case Fresh:
			return []Effect{Deliver{in.ID, in.At}}
		case Parting:
			// Whoever comes first commits it.
			if c.Called.IsZero() {
				c.Called = now.Add(in.Spread)
			}
		}
		return nil
	}

	c.Fence = in.At
	switch in.Found {
	case Own:
		if in.Hash != c.Commit {
			return nil // one that had been decided before
		}
		done := c.Committing
		c.Commit, c.CommitMark, c.Committing = mailbox.Hash{}, mailbox.Mark{}, nil
		c.settle(done)
		c.Wanted, c.Later, c.Aside, c.Tries, c.Sent, c.Updated, c.Active = false, time.Time{}, false, 0, 0, now, now
		out = append(c.next(), Merge{c.Epoch}, Forget{in.Hash})
		if len(done) > 0 {
			out = append(out, Changed{done})
		}
	case Valid:
		if c.Undecided() {
			out = c.giveUp()
			if c.Tries == 0 {
				c.lost(now)
			}
		}
		out = append(append(out, c.next()...), Apply{c.Epoch})
	case Ending:
		if c.Undecided() {
			out = c.giveUp()
		}
		for _, it := range c.Flight {
			out = append(out, Fail{it.ID, noMember})
		}
		for _, id := range c.Queue {
			out = append(out, Fail{id, noMember})
		}
		c.Over, c.Flight, c.Queue, c.Changes = true, nil, nil, nil
		return append(out, Ended{})
	case Invalid:
		if in.Meta {
			// The relay now follows keys that no member has derived.
			return c.freeze("a member has made the mailbox unusable: " + in.Note)
		}
		if c.Undecided() {
			// Ours expected the fence as it was. It is made anew for the new place.
			out = c.giveUp()
		}
		return out
	default:
		panic(fmt.Sprintf("conversation: a commit found %v", in.Found))
	}
	if !c.Open {
		c.Open = true
		out = append(out, Opened{})
	}
	return append(out, c.requeue()...)
}

const noMember = "this device is no member of the group any more"

// next begins the next epoch. What was proposed in the one before is void.
func (c *Core) next() (out []Effect) {
	if c.Parting != (mailbox.Hash{}) {
		out = append(out, Forget{c.Parting})
	}
	c.Parting, c.Called = mailbox.Hash{}, time.Time{}
	c.Epoch++
	c.Gen++
	return out
}

func (c *Core) freeze(reason string) []Effect {
	if c.Frozen != "" {
		return nil
	}
	c.Frozen = reason
	return []Effect{Freeze{reason}}
}

// coreVersion is the version of the bytes below: 1 since the beginning.
const coreVersion = 1

// Append appends the state as the node stores it.
func (c *Core) Append(b []byte) []byte {
	b = codec.AppendU8(b, coreVersion)
	b = codec.AppendU32(codec.AppendU64(b, c.Epoch), uint32(c.Gen))
	b = appendMark(b, c.Cursor)
	b = append(b, c.Chain[:]...)
	b = appendMark(b, c.Fence)
	b = codec.AppendU8(codec.AppendU8(b, boolByte(c.Open)), boolByte(c.Wanted))
	b = codec.AppendU8(codec.AppendU8(b, boolByte(c.Over)), boolByte(c.Leaving))
	b = codec.AppendU8(b, boolByte(c.Aside))
	b = codec.AppendVec(b, c.Frozen)
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, id := range c.Queue {
			b = append(b, id[:]...)
		}
		return b
	})
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for _, it := range c.Flight {
			b = append(append(b, it.ID[:]...), it.Hash[:]...)
			b = codec.AppendU8(codec.AppendU32(b, uint32(it.Gen)), boolByte(it.Stale))
		}
		return b
	})
	for _, ids := range [][]ChangeID{c.Changes, c.Committing} {
		b = codec.AppendVecFunc(b, func(b []byte) []byte {
			for _, id := range ids {
				b = codec.AppendU64(b, uint64(id))
			}
			return b
		})
	}
	b = append(b, c.Parting[:]...)
	b = appendMark(append(b, c.Commit[:]...), c.CommitMark)
	b = codec.AppendU32(codec.AppendU32(b, uint32(c.Tries)), uint32(c.Sent))
	for _, t := range []time.Time{c.Retry, c.Updated, c.Active, c.Later, c.Called} {
		b = codec.AppendU64(b, millis(t))
	}
	return b
}

// ParseCore reads what Append wrote.
func ParseCore(b []byte) (*Core, error) {
	r := codec.NewReader(b)
	if v := r.U8(); v != coreVersion {
		r.Fail("conversation state of version %d", v)
	}
	c := &Core{Epoch: r.U64(), Gen: mailbox.Gen(r.U32()), Cursor: readMark(r)}
	r.Copy(c.Chain[:])
	c.Fence = readMark(r)
	c.Open, c.Wanted = r.U8() == 1, r.U8() == 1
	c.Over, c.Leaving = r.U8() == 1, r.U8() == 1
	c.Aside = r.U8() == 1
	c.Frozen = string(r.Vec(1 << 12))
	r.Each(codec.MaxVec, func(r *codec.Reader) {
		var id content.ID
		r.Copy(id[:])
		c.Queue = append(c.Queue, id)
	})
	r.Each(codec.MaxVec, func(r *codec.Reader) {
		var it Item
		r.Copy(it.ID[:])
		r.Copy(it.Hash[:])
		it.Gen, it.Stale = mailbox.Gen(r.U32()), r.U8() == 1
		c.Flight = append(c.Flight, it)
	})
	for _, ids := range []*[]ChangeID{&c.Changes, &c.Committing} {
		r.Each(codec.MaxVec, func(r *codec.Reader) { *ids = append(*ids, ChangeID(r.U64())) })
	}
	r.Copy(c.Parting[:])
	r.Copy(c.Commit[:])
	c.CommitMark = readMark(r)
	c.Tries, c.Sent = int(r.U32()), int(r.U32())
	for _, t := range []*time.Time{&c.Retry, &c.Updated, &c.Active, &c.Later, &c.Called} {
		if ms := r.U64(); ms > 0 {
			*t = time.UnixMilli(int64(ms)).UTC()
		}
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("conversation state: %w", err)
	}
	return c, nil
}

func appendMark(b []byte, m mailbox.Mark) []byte {
	return codec.AppendU64(codec.AppendU64(b, uint64(m.Era)), uint64(m.Seq))
}

func readMark(r *codec.Reader) mailbox.Mark {
	return mailbox.Mark{Era: mailbox.Era(r.U64()), Seq: mailbox.Seq(r.U64())}
}

func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli())
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
