package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"sotto/crypto/envelope"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

// owner is a conversation's goroutines: turns change its state one after the
// other, a reader brings entries, a poster takes the outbox to the relay.
type owner struct {
	n     *Node
	group []byte
	life  context.Context // of the goroutines
	stop  context.CancelFunc

	turns sync.Mutex // held for a turn
	state *ownerState
	lost  uint64    // of Node.lost when state was read
	gated [2]uint64 // epoch (and one) and Node.wishes when every device was found to be one; see gate

	fetched *fetched // for the entry that the reader is at

	kick chan struct{} // holds one: the poster looks again
	seek chan struct{} // holds one: the reader tries again
	tick chan time.Duration

	mu     sync.Mutex                 // guards the following fields
	held   map[mailbox.Hash]time.Time // answered, and to be left until the core decides, but not beyond; zero: for ever
	pages  int                        // taken in by the reader
	behind bool                       // reason is that the relay withholds something
	reason string                     // why the reader does not get on
	caught bool                       // everything up to the relay's newest known head is here
	typing map[[32]byte]time.Time     // who writes, until when that is shown
	typed  time.Time                  // when others were last told that the user writes
}

// ownerState is what a turn works on a copy of.
type ownerState struct {
	rec    store.Conversation
	core   *conversation.Core
	group  *mls.Group
	staged *mls.Staged
	keys   []store.EpochKeys // of the epochs that are remembered, the newest last
	outbox []store.Outgoing
}

// startOwner begins a conversation's goroutines.
func (n *Node) startOwner(rec store.Conversation) {
	o := &owner{n: n, group: rec.Group, kick: make(chan struct{}, 1), seek: make(chan struct{}, 1), tick: make(chan time.Duration, 16), held: map[mailbox.Hash]time.Time{}, typing: map[[32]byte]time.Time{}}
	n.mu.Lock()
	if old := n.owners[string(rec.Group)]; old != nil && old.life.Err() == nil {
		n.mu.Unlock()
		return
	}
	if n.running == nil {
		n.mu.Unlock()
		return
	}
	o.life, o.stop = context.WithCancel(n.running)
	n.owners[string(rec.Group)] = o
	n.mu.Unlock()
	for _, run := range []func(context.Context){o.wait, o.post, o.read} {
		n.spawn(func(context.Context) { run(o.life) })
	}
}

// ownerOf returns a conversation's owner, or nil if the node does not run.
func (n *Node) ownerOf(group []byte) *owner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.owners[string(group)]
}

// needOwner is ownerOf for a conversation that may just have come about, and whose owner
// is then about to be started.
func (n *Node) needOwner(group []byte) *owner {
	if o := n.ownerOf(group); o != nil {
		return o
	}
	var rec store.Conversation
	if err := n.view(func(tx *store.Tx) (err error) { rec, err = tx.Conversation(group); return err }); err != nil {
		return nil
	}
	n.startOwner(rec)
	return n.ownerOf(group)
}

// errGone ends a conversation's goroutines: it has been deleted.
var errGone = errors.New("the conversation is gone")

// load reads the state from the vault.
func (o *owner) load(tx *store.Tx) (*ownerState, error) {
	s := &ownerState{}
	var err error
	if s.rec, err = tx.Conversation(o.group); err != nil {
		return nil, err
	}
	if s.core, err = conversation.ParseCore(s.rec.Core); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	records, err := tx.MLS(o.group)
	if err != nil {
		return nil, err
	}
	if s.core.Over {
		return s, nil // there is no group any more
	}
	if s.group, err = mls.LoadGroup(o.n.mlsConfig(), records); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	staged, err := tx.Staged(o.group)
	if err != nil {
		return nil, err
	}
	if staged != nil {
		if s.staged, err = mls.ParseStaged(o.n.mlsConfig(), staged); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if s.keys, err = tx.EpochKeys(o.group); err != nil {
		return nil, err
	}
	s.outbox, err = tx.Outbox(o.group)
	return s, err
}

func (s *ownerState) clone() *ownerState {
	c := *s
	core, err := conversation.ParseCore(s.core.Append(nil))
	if err != nil {
		panic("node: " + err.Error()) // unreachable: it was just written
	}
	c.core = core
	if s.group != nil {
		c.group = s.group.Clone()
	}
	if s.rec.Made != nil {
		made := *s.rec.Made
		c.rec.Made = &made
	}
	c.rec.Heads = append([][32]byte(nil), s.rec.Heads...)
	c.keys = append([]store.EpochKeys(nil), s.keys...)
	c.outbox = append([]store.Outgoing(nil), s.outbox...)
	return &c
}

// turn is one transaction's work on a conversation.
type turn struct {
	*ownerState
	o  *owner
	n  *Node
	tx *store.Tx

	now      time.Time
	fresh    *store.Message // found in the entry at hand
	incoming *mls.Staged    // found in the entry at hand
	wait     time.Duration
	posts    bool
	events   bool
	letters  bool
	garbage  bool
	later    []func() error // for the core, once it is through with the step at hand
	dues     bool
	durable  []func() // once the turn is
}

// do runs f on a copy of the state within a transaction, and makes the copy the
// state once that is durable.
func (o *owner) do(f func(t *turn) error) error {
	o.turns.Lock()
	defer o.turns.Unlock()
	lost, wishes := o.n.lost.Load(), o.n.wishes.Load()
	var t *turn
	var before *mls.Group
	err := o.n.doubt(o.n.db.Update(func(tx *store.Tx) error {
		// What was deleted or replaced is not written again by a turn that remembers it.
		rec, err := tx.Conversation(o.group)
		if errors.Is(err, store.ErrNotFound) {
			return errGone
		}
		if err != nil {
			return err
		}
		if o.state == nil || o.lost != lost || !bytes.Equal(o.state.rec.Core, rec.Core) {
			s, err := o.load(tx)
			if err != nil {
				return err
			}
			o.state, o.lost = s, lost
		}
		before = o.state.group
		t = &turn{ownerState: o.state.clone(), o: o, n: o.n, tx: tx, now: o.n.clock()}
		if err := f(t); err != nil {
			return err
		}
		for ; len(t.later) > 0; t.later = t.later[1:] {
			if err := t.later[0](); err != nil {
				return err
			}
		}
		return t.save()
	}))
	if errors.Is(err, errGone) {
		o.state = nil
		o.stop()
	}
	if err != nil {
		return apiError(err)
	}
	o.state = t.ownerState
	if before != nil && t.group != nil {
		before.Retire(t.group) // of snapshots only what is no secret is read
	}
	if t.wait > 0 {
		o.wake(t.wait + o.n.opt.Random(t.wait/2+1)) // members that lost one race do not all meet in the next
	}
	if t.posts {
		o.hurryPost()
	}
	if t.events {
		o.n.events.ring()
	}
	if t.letters {
		o.n.startLetters()
	}
	if t.garbage {
		o.n.collect()
	}
	if o.n.wishes.Load() != wishes {
		o.n.wishes.Add(1) // what was looked at before this was durable is looked at again
		o.n.accountChanged()
	}
	if t.dues {
		o.n.lookAtDues()
	}
	for _, f := range t.durable {
		f()
	}
	if t.core.Over {
		o.stop()
	}
	return nil
}

// save writes what every turn changes.
func (t *turn) save() error {
	t.rec.Core = t.core.Append(nil)
	if t.core.Over {
		return t.tx.PutConversation(&t.rec) // there is no group any more
	}
	return errors.Join(t.tx.PutMLS(t.o.group, t.group.Changes()), t.tx.PutConversation(&t.rec))
}

// step gives the core an input and does what it wants.
func (t *turn) step(in conversation.Input) error {
	for _, e := range t.core.Step(t.now, in) {
		if err := t.effect(e); err != nil {
			return err
		}
	}
	return nil
}

func (t *turn) effect(e conversation.Effect) error {
	switch e := e.(type) {
	case conversation.Seal:
		return t.seal(e.ID)
	case conversation.Stage:
		return t.stage(e)
	case conversation.Propose:
		return t.propose()
	case conversation.Post:
		t.posts = true
	case conversation.Forget:
		return t.forget(e.Hash)
	case conversation.Merge:
		s := t.staged
		if t.rec.Own && len(s.Added()) > 0 {
			t.later = append(t.later, t.retell)
		}
		return errors.Join(t.enter(s), t.drop(), t.welcome(s))
	case conversation.Apply:
		return t.enter(t.incoming)
	case conversation.Changed:
		return t.forgetChanges(e.IDs)
	case conversation.Ended:
		return errors.Join(t.tellChanges(t.incoming), t.ended())
	case conversation.Drop:
		return errors.Join(t.discard(), t.drop())
	case conversation.GivenUp:
		t.events = true
		return errors.Join(t.forgetChanges(e.IDs), t.n.notice(t.tx, fmt.Sprintf("%s cannot be changed: %s.", t.title(), e.Reason)))
	case conversation.Deliver:
		return t.deliver(e.At)
	case conversation.Place:
		return t.mine(e.ID, func(m *store.Message) { m.Seq, m.State = uint64(e.At.Seq), store.MessageStored })
	case conversation.Fail:
		return t.mine(e.ID, func(m *store.Message) { m.State, m.Reason = store.MessageFailed, e.Reason })
	case conversation.Missing:
		t.rec.Missing += uint32(e.Count)
		m := &store.Message{ID: gapID(t.o.group, e.At.Seq), Seq: uint64(e.At.Seq), State: store.MessageReceived, Kind: store.KindGap,
			Sent: t.now, Arrived: t.now, Count: uint32(e.Count), Reason: e.Cause.String()}
		return t.show(m)
	case conversation.Opened:
		return t.opened()
	case conversation.Freeze:
		t.events = true
		return errors.Join(t.n.noteConversation(t.tx, t.o.group),
			t.n.notice(t.tx, fmt.Sprintf("Nothing more is sent to %s: %s.", t.title(), e.Reason)))
	case conversation.Wait:
		t.wait = e.For
	default:
		panic(fmt.Sprintf("node: unknown effect %T", e))
	}
	return nil
}

// newest returns the keys of the present epoch.
func (t *turn) newest() *store.EpochKeys { return &t.keys[len(t.keys)-1] }

func (t *turn) context() []byte { return t.seen().Append(nil) }

// seen is what goes into the authenticated data of all we send.
func (t *turn) seen() conversation.Context {
	head := t.n.account.Head()
	return conversation.Context{Seen: t.core.Cursor, Chain: t.core.Chain, AccountSeq: head.Seq, AccountHead: head.Hash}
}

// enclose puts an MLS message into an envelope and that into the outbox.
func (t *turn) enclose(kind mailbox.Kind, message []byte, out store.Outgoing) (mailbox.Hash, error) {
	keys, err := envelope.NewKeys(t.newest().Envelope)
	if err != nil {
		return mailbox.Hash{}, err
	}
	out.Kind, out.Gen, out.Epoch = uint8(kind), uint32(t.core.Gen), t.core.Epoch
	if out.Payload, err = keys.Seal(envelopeContext(t.rec.Mailbox, kind, t.core.Gen), message); err != nil {
		return mailbox.Hash{}, err
	}
	out.Hash = mailbox.EntryHash(kind, t.core.Gen, out.Meta, out.Payload)
	if err := t.tx.PutSeen(t.o.group, t.core.Epoch, sha256.Sum256(message), true); err != nil {
		return mailbox.Hash{}, err
	}
	if err := t.tx.AddOutgoing(t.o.group, &out); err != nil {
		return mailbox.Hash{}, err
	}
	t.outbox = append(t.outbox, out)
	return out.Hash, nil
}

func envelopeContext(box mailbox.ID, kind mailbox.Kind, gen mailbox.Gen) envelope.Context {
	return envelope.Context{Mailbox: box, Kind: uint8(kind), Generation: uint32(gen)}
}

func (t *turn) seal(id content.ID) error {
	m, err := t.tx.Message(t.o.group, id)
	if err != nil {
		return err
	}
	message, err := t.group.Encrypt(content.Pack(m.Content), t.context())
	if err != nil {
		return err
	}
	h, err := t.enclose(mailbox.Message, message, store.Outgoing{Message: id})
	if err != nil {
		return err
	}
	return t.step(conversation.Sealed{ID: id, Hash: h})
}

// propose puts our wish to leave into the outbox.
func (t *turn) propose() error {
	message, err := t.group.Propose(mls.Remove{Removed: t.group.OwnLeaf()}, &mls.ProposeOptions{AuthenticatedData: t.context()})
	if err != nil {
		return err
	}
	h, err := t.enclose(mailbox.Message, message, store.Outgoing{})
	if err != nil {
		return err
	}
	return t.step(conversation.Proposed{Hash: h})
}

func (t *turn) drop() error {
	t.staged = nil
	return t.tx.PutStaged(t.o.group, nil)
}

func (t *turn) forget(h mailbox.Hash) error {
	for i := range t.outbox {
		if t.outbox[i].Hash == h {
			err := t.tx.DeleteOutgoing(t.o.group, &t.outbox[i])
			t.outbox = append(t.outbox[:i:i], t.outbox[i+1:]...)
			t.o.release(h)
			return err
		}
	}
	return nil
}

// pastEpochs are remembered for late messages, so long.
const (
	pastEpochs    = 3
	pastEpochLife = 48 * time.Hour
)

// enter makes the group in the epoch that a commit leads to the state, tells of what it
// changes, and forgets epochs.
func (t *turn) enter(s *mls.Staged) error {
	if err := errors.Join(t.tellChanges(s), t.noteRenewal(s)); err != nil {
		return err
	}
	next, err := s.Merge(t.group)
	if err != nil {
		return err
	}
	if len(t.keys) > 0 {
		t.newest().Ended = t.now
	}
	t.group = next
	keys, err := conversation.DeriveKeys(next, t.rec.Mailbox)
	if err != nil {
		return err
	}
	t.keys = append(t.keys, store.EpochKeys{Epoch: next.Epoch(), Envelope: keys.Envelope, Read: keys.Read.Seed(), Append: keys.Append.Seed()})
	for i := range t.keys {
		if err := t.tx.PutEpochKeys(t.o.group, &t.keys[i]); err != nil {
			return err
		}
	}
	if err := t.settleRequests(); err != nil {
		return err
	}
	return t.forgetEpochs()
}

// forgetEpochs drops what is too old to be needed. An epoch in which something of ours
// is still on its way stays.
func (t *turn) forgetEpochs() error {
	for len(t.keys) > 1 {
		old := t.keys[0]
		if len(t.keys) <= pastEpochs+1 && t.now.Sub(old.Ended) < pastEpochLife {
			return nil
		}
		for _, out := range t.outbox {
			if out.Epoch == old.Epoch {
				return nil
			}
		}
		t.group.ForgetBefore(old.Epoch + 1)
		// Records that the group takes back itself go first: their bucket is then
		// empty, and goes for good.
		if err := t.tx.PutMLS(t.o.group, t.group.Changes()); err != nil {
			return err
		}
		if err := t.tx.ForgetEpoch(t.o.group, old.Epoch); err != nil {
			return err
		}
		t.keys = t.keys[1:]
	}
	return nil
}

// mine changes a message of ours and tells of it.
func (t *turn) mine(id content.ID, change func(*store.Message)) error {
	m, err := t.tx.Message(t.o.group, id)
	if err != nil {
		return err
	}
	change(&m)
	t.events = true
	if m.Kind == store.KindHidden { // it has done its work
		return errors.Join(t.placed(&m), t.tx.DeleteMessage(t.o.group, id), t.tx.Erase(t.o.group, &m), t.n.noteConversation(t.tx, t.o.group))
	}
	if m.State == store.MessageStored {
		if err := t.startTimer(&m); err != nil {
			return err
		}
	}
	if m.State == store.MessageStored && m.Deleted != 0 && m.Content != nil { // it is not sealed again
		m.Content = nil
		if err := t.tx.Erase(t.o.group, &m); err != nil {
			return err
		}
	}
	return errors.Join(t.tx.PutMessage(t.o.group, &m), t.n.noteMessage(t.tx, t.o.group, id))
}

// show writes a message that is new and tells of it.
func (t *turn) show(m *store.Message) error {
	t.rec.Messages++
	t.events = true
	return errors.Join(t.tx.PutMessage(t.o.group, m), t.n.noteMessage(t.tx, t.o.group, m.ID))
}

func (t *turn) deliver(at mailbox.Mark) error {
	m := t.fresh
	if m == nil {
		return nil
	}
	m.Seq = uint64(at.Seq)
	if c, err := t.tx.Contact(m.From); err == nil && c.Blocked {
		return nil // read, and shown to nobody
	}
	t.remember(m.ID)
	return errors.Join(t.arrived(m), t.show(m), t.takeEarly(m.ID))
}

// remember keeps the newest ids: parents of what is sent next.
func (t *turn) remember(id [32]byte) {
	t.rec.Heads = append(t.rec.Heads, id)
	if len(t.rec.Heads) > 3 {
		t.rec.Heads = t.rec.Heads[len(t.rec.Heads)-3:]
	}
}

func (t *turn) contactName() string {
	if c, err := t.tx.Contact(t.rec.Contact); err == nil {
		return c.Name
	}
	return "this contact"
}

// opened makes the contact complete: both sides have heard each other.
func (t *turn) opened() error {
	t.events = true
	t.later = append(t.later, t.handOut, t.keepUp)
	c, err := t.tx.Contact(t.rec.Contact)
	if err != nil {
		return err
	}
	c.State, c.Reason, c.Cause = store.ContactEstablished, "", ""
	return errors.Join(t.tx.PutContact(&c), t.n.noteContact(t.tx, c.Account), t.n.noteConversation(t.tx, t.o.group))
}

// gapID is the id under which a gap is shown.
func gapID(group []byte, at mailbox.Seq) [32]byte {
	return sha256.Sum256(fmt.Appendf([]byte("sotto/gap"), "%x/%d", group, at))
}

// entry deals with one entry of the mailbox.
func (t *turn) entry(e *mailbox.Entry, chain mailbox.Hash) error {
	at := mailbox.Mark{Era: e.Era, Seq: e.Seq}
	if e.Seq <= t.core.Cursor.Seq || t.core.Over {
		return nil
	}
	in := conversation.Read{At: at, Chain: chain, Hash: e.Hash(), Kind: e.Kind, Meta: len(e.Meta) > 0}
	t.fresh, t.incoming = nil, nil
	var err error
	if err := t.tx.PutChain(t.o.group, at, chain); err != nil {
		return err
	}
	if in.Found, err = t.find(e, &in); err != nil {
		return err
	}
	if in.Found == conversation.Unreadable {
		t.rec.Unreadable++
		t.n.log.Warn("a message does not open", "why", in.Note)
	}
	return t.step(in)
}

// find opens an entry and says what it is. An error is ours, not the entry's.
func (t *turn) find(e *mailbox.Entry, in *conversation.Read) (conversation.Found, error) {
	bad, reason := conversation.Unreadable, func(format string, args ...any) { in.Note = fmt.Sprintf(format, args...) }
	if e.Kind == mailbox.Commit {
		bad = conversation.Invalid
	}
	for i := range t.outbox {
		if t.outbox[i].Hash == in.Hash {
			return conversation.Own, nil
		}
	}
	message, err := t.open(e)
	if err != nil {
		reason("%v", err)
		return bad, nil
	}
	hash := sha256.Sum256(message) // of what the envelope holds
	seen, own, err := t.tx.Seen(t.o.group, hash)
	if err != nil {
		return 0, err
	}
	switch {
	case own && e.Kind == mailbox.Message:
		return conversation.Own, nil
	case own:
		return conversation.Invalid, nil // a commit of ours that was given up
	case seen && e.Kind == mailbox.Message:
		return conversation.Duplicate, nil
	}
	if envelope.IsSpilled(message) {
		var missing *missingBlobs
		if message, err = t.unspill(e, message, hash); errors.As(err, &missing) {
			return 0, err
		} else if err != nil {
			reason("%v", err)
			return bad, nil
		}
	}
	r, err := t.group.Process(message, nil)
	if errors.Is(err, mls.ErrOwnMessage) && e.Kind == mailbox.Message {
		return conversation.Own, nil
	}
	if errors.Is(err, mls.ErrRolledBack) {
		// This state is older than what left the device: nothing more is sealed
		// in this epoch.
		t.core.Wanted = true
		reason("%v", err)
		return bad, nil
	}
	if err != nil {
		reason("%v", err)
		return bad, nil
	}
	if err := t.tx.PutSeen(t.o.group, r.Epoch, hash, false); err != nil {
		return 0, err
	}
	if r.Type == mls.ContentApplication {
		if leaf, err := conversation.ReadLeaf(r.SenderNode); err == nil {
			if err := t.compare(r.AuthenticatedData, leaf); err != nil {
				return 0, err
			}
		}
	}
	switch {
	case e.Kind == mailbox.Commit && r.Type == mls.ContentCommit:
		if err := conversation.Validate(t.group, r.Staged, e.Meta); err != nil {
			reason("%v", err)
			return conversation.Invalid, nil
		}
		t.incoming = r.Staged
		if r.Staged.RemovesSelf() {
			return conversation.Ending, nil
		}
		return conversation.Valid, nil
	case e.Kind == mailbox.Message && r.Type == mls.ContentProposal:
		if !conversation.Parts(r.Proposal, r.Sender) || r.Epoch != t.core.Epoch {
			t.group.DropProposal(r.Ref)
			reason("a proposal that is not its sender's own leave")
			return bad, nil
		}
		in.Spread = t.n.opt.Random(partingSpread)
		return conversation.Parting, nil
	case e.Kind == mailbox.Message && r.Type == mls.ContentApplication:
		m, err := t.message(&r, e)
		if err != nil {
			reason("%v", err)
			return bad, nil
		}
		if m == nil {
			return conversation.Duplicate, nil // heard, and not to be shown
		}
		if known, err := t.tx.Known(t.o.group, m.ID); err != nil {
			return 0, err
		} else if known {
			return conversation.Duplicate, nil
		}
		t.fresh, in.ID = m, m.ID
		return conversation.Fresh, nil
	}
	reason("an entry of %v that holds something else", e.Kind)
	return bad, nil
}

var errNoEpoch = errors.New("sealed in no epoch that this device remembers")

// open takes what an envelope holds out of it.
func (t *turn) open(e *mailbox.Entry) ([]byte, error) {
	for i := len(t.keys) - 1; i >= 0; i-- {
		keys, err := envelope.NewKeys(t.keys[i].Envelope)
		if err != nil {
			return nil, err
		}
		if keys.Match(e.Payload) {
			return keys.Open(envelopeContext(t.rec.Mailbox, e.Kind, e.Gen), e.Payload)
		}
	}
	return nil, errNoEpoch
}

// lateEntries is how far behind a commit a message of the epoch before may stand.
const lateEntries = 256

// partingSpread is for how long at most a device leaves it to others to commit that a
// member goes.
const partingSpread = 3 * time.Second

// message reads a message and checks that its sender may have sent it there. It returns
// nil for one that is not to be shown.
func (t *turn) message(r *mls.Received, e *mailbox.Entry) (*store.Message, error) {
	if _, err := conversation.ParseContext(r.AuthenticatedData); err != nil {
		return nil, err
	}
	var leaf conversation.Leaf
	var err error
	if leaf.Account, leaf.Device, err = conversation.LeafOf(r.SenderNode); err != nil {
		return nil, err
	}
	if r.Epoch != t.core.Epoch {
		now, ok := t.group.Member(r.Sender.Leaf)
		if !ok {
			return nil, errors.New("from a device that has been removed")
		}
		if a, d, err := conversation.LeafOf(now); err != nil || d != leaf.Device || a != leaf.Account {
			return nil, errors.New("from a device that has been removed")
		}
		if t.core.Fence.Seq > 0 && e.Seq > t.core.Fence.Seq+lateEntries {
			return nil, errors.New("too far behind the end of its epoch")
		}
	}
	if leaf.Account == t.n.account.ID() {
		t.events = true
		if err := t.n.saw(t.tx, leaf.Device, t.now); err != nil {
			return nil, err
		}
	}
	plain, err := content.Unpack(r.Content)
	if err != nil {
		return nil, err
	}
	c, err := content.Decode(plain)
	if err != nil {
		return nil, err
	}
	info, err := conversation.Group(t.group.Context())
	if err != nil {
		return nil, err
	}
	id := content.IDOf(leaf.Account, t.o.group, plain, c.Salt)
	sent := shownTime(c.Sent, e.Minute)
	if c.Kind.Hidden() {
		return nil, t.hear(leaf, c, &item{id: id, from: leaf.Account, seq: uint64(e.Seq), sent: sent, rights: info.May(leaf.Account), role: info.Role(leaf.Account)})
	}
	if info.May(leaf.Account)&conversation.MayWrite == 0 {
		return nil, errors.New("from a member that may not write")
	}
	if t.rec.Own {
		return nil, errors.New("of a kind that one's own devices do not send each other")
	}
	t.rec.Lamport = max(t.rec.Lamport, c.Lamport)
	if c.Edit() {
		return nil, t.hear(leaf, c, &item{id: id, from: leaf.Account, seq: uint64(e.Seq), sent: sent, rights: info.May(leaf.Account), role: info.Role(leaf.Account)})
	}
	m, err := t.line(c, id, leaf.Account, info)
	if err != nil {
		return nil, err
	}
	m.State, m.Sent = store.MessageReceived, sent
	if m.Mine { // of another device of the account
		m.State = store.MessageStored
		return m, nil
	}
	return m, t.prove(m, r)
}

// shownTime is the sender's time if it can be right, else the relay's.
func shownTime(sent time.Time, minute mailbox.Minute) time.Time {
	if d := sent.Sub(minute.Time()); d > -10*time.Minute && d < 10*time.Minute {
		return sent
	}
	return minute.Time()
}

func (t *turn) gap(s *mailbox.Span, chain mailbox.Hash) error {
	if s.End.Seq <= t.core.Cursor.Seq {
		return nil
	}
	if err := t.tx.PutChain(t.o.group, s.End.Mark(), chain); err != nil {
		return err
	}
	from := max(s.From, t.core.Cursor.Seq+1)
	return t.step(conversation.Gap{At: s.End.Mark(), Chain: chain, Fence: s.End.Commit, Count: uint64(s.End.Seq - from + 1), Cause: s.Cause})
}

// Bounds of what one transaction of a page takes in.
const (
	pageEntries = 32
	pageBytes   = 64 << 10
)

// page takes in a verified page. What it names in blobs it fetches, between turns.
func (o *owner) page(ctx context.Context, p *client.Page) error {
	for i := 0; i < len(p.Items); {
		end := i
		var missing *missingBlobs
		err := o.do(func(t *turn) error {
			bytes := 0
			for end < len(p.Items) && end-i < pageEntries && bytes < pageBytes {
				it := p.Items[end]
				end++
				var err error
				if it.Entry != nil {
					bytes += len(it.Entry.Payload)
					err = t.entry(it.Entry, it.Chain)
				} else {
					err = t.gap(it.Span, it.Chain)
				}
				if errors.As(err, &missing) {
					end--
					return nil
				}
				if err != nil {
					return err
				}
			}
			if end == len(p.Items) {
				return t.tx.PutHead(o.group, wire.Encode(&p.Head))
			}
			return nil
		})
		if err != nil {
			return err
		}
		i, o.fetched = end, nil
		if missing != nil {
			s, err := o.snapshot()
			if err != nil {
				return err
			}
			blobs, err := o.n.getSpilled(ctx, s.rec.Relay, missing.spilled)
			if err != nil {
				return err
			}
			o.fetched = &fetched{missing.of, blobs}
		}
	}
	o.mu.Lock()
	o.pages++
	o.mu.Unlock()
	o.setReading(nil, !p.More)
	return nil
}

// setReading keeps why the reader does not get on, if it does not.
func (o *owner) setReading(why error, caught bool) {
	reason := ""
	var w withheld
	behind := errors.As(why, &w)
	if behind {
		reason = "a change of this conversation cannot be read yet: " + w.Error() + "; it is tried again"
	} else if why != nil {
		reason = why.Error()
	}
	o.mu.Lock()
	tell := behind != o.behind || caught && !o.caught
	o.reason, o.caught, o.behind = reason, caught, behind
	o.mu.Unlock()
	if !tell {
		return
	}
	if err := o.n.update(func(tx *store.Tx) error { return o.n.noteConversation(tx, o.group) }); err != nil {
		o.n.log.Warn("why a conversation does not get on is not told", "err", err)
	}
}

// snapshot returns a copy of the state, read from the vault if it must be.
func (o *owner) snapshot() (*ownerState, error) {
	o.turns.Lock()
	defer o.turns.Unlock()
	if lost := o.n.lost.Load(); o.state == nil || o.lost != lost {
		err := o.n.view(func(tx *store.Tx) error {
			s, err := o.load(tx)
			if err == nil {
				o.state, o.lost = s, lost
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return o.state.clone(), nil
}

// ticked tells the core that the time it waits for has come.
func (o *owner) ticked() error {
	return o.do(func(t *turn) error { return t.step(conversation.Tick{}) })
}

// wait gives the core its ticks.
func (o *owner) wait(ctx context.Context) {
	var timer <-chan time.Time
	tick := func() {
		if err := o.ticked(); err != nil && ctx.Err() == nil {
			o.n.log.Warn("a conversation does not get on", "err", err)
			timer = time.After(jitter(firstBackoff))
		}
	}
	tick()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-o.tick:
			timer = time.After(d)
		case <-timer:
			timer = nil
			tick()
		}
	}
}

// hurryRead makes a reader that waits for its next try go on.
func (o *owner) hurryRead() {
	select {
	case o.seek <- struct{}{}:
	default:
	}
}

// wake gives the core a tick so long from now.
func (o *owner) wake(in time.Duration) {
	select {
	case o.tick <- in:
	default: // enough of them wait
	}
}

// pause waits before a next try; it reports false if the node stops.
func pause(ctx context.Context, failures int, kick <-chan struct{}) bool {
	wait := firstBackoff
	for range min(failures, 12) {
		wait = min(wait*2, lastBackoff)
	}
	select {
	case <-ctx.Done():
		return false
	case <-kick:
	case <-time.After(jitter(wait)):
	}
	return true
}

// read brings what stands and comes in the mailbox, generation after generation.
func (o *owner) read(ctx context.Context) {
	for failures, pages := 0, 0; ctx.Err() == nil; {
		err := o.readOn(ctx, (*client.Client).Subscribe)
		o.mu.Lock()
		if o.pages != pages {
			failures, pages = 0, o.pages
		}
		o.mu.Unlock()
		switch {
		case err == nil:
			failures = 0
			continue
		case ctx.Err() != nil:
			return
		}
		if o.unread(err) || !pause(ctx, failures, o.seek) {
			return
		}
		failures++
	}
}

// unread deals with an error of readOn. It reports whether nothing more is to be read.
func (o *owner) unread(err error) bool {
	var evidence *client.EvidenceError
	reason := ""
	errors.As(err, &evidence)
	switch {
	case evidence != nil:
		reason = evidence.Error()
	case errors.Is(err, mailbox.ErrEra):
		reason = "the relay's history has gone back behind what this device has read"
	}
	if reason != "" {
		if err = o.suspect(reason, evidence); err == nil {
			return true
		}
	}
	o.setReading(err, false)
	o.n.log.Debug("a conversation is not read", "err", err)
	return false
}

// reading brings what stands behind a place of a mailbox: as Subscribe of a client does
// without end, or a page of it.
type reading func(c *client.Client, ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen, from client.Place, take func(*client.Page) error) error

// readOn reads to the end of a generation.
func (o *owner) readOn(ctx context.Context, bring reading) error {
	s, err := o.snapshot()
	if err != nil {
		return err
	}
	r, err := o.n.relayAt(s.rec.Relay)
	if err != nil {
		return err
	}
	if s.core.Over {
		o.stop()
		return ctx.Err()
	}
	if s.rec.Made != nil && !s.rec.Made.Created {
		if err := o.create(ctx, s); err != nil {
			return err
		}
	}
	read := key.CapabilityFromSeed(s.keys[len(s.keys)-1].Read)
	if err := o.remind(r.client); err != nil {
		return err
	}
	err = bring(r.client, ctx, read, s.rec.Mailbox, s.core.Gen, client.Place{At: s.core.Cursor, Chain: s.core.Chain},
		func(p *client.Page) error { return o.page(ctx, p) })
	if errors.Is(err, mailbox.ErrEra) {
		// Asked where it stands, a relay that has gone back in one era gives itself away.
		var evidence *client.EvidenceError
		if _, said := r.client.Status(ctx, read, s.rec.Mailbox, s.core.Gen); errors.As(said, &evidence) {
			return said
		}
	}
	return err
}

// create makes the conversation's mailbox at the relay.
func (o *owner) create(ctx context.Context, s *ownerState) error {
	if err := o.n.createMailbox(ctx, s.rec.Made); err != nil {
		return err
	}
	if err := o.do(func(t *turn) error { t.rec.Made.Created = true; return nil }); err != nil {
		return err
	}
	o.n.startLetters()
	o.hurryPost()
	return nil
}

func (o *owner) hurryPost() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// heldFor is how long a relay is believed that another commit came first: an honest one
// shows it meanwhile, and the core has decided. Behind it the same is asked again, so that
// a lie lasts no longer than the relay keeps to it.
const heldFor = 10 * time.Second

// hold leaves an entry alone until the core has decided about it, but not beyond a time
// unless that is zero.
func (o *owner) hold(h mailbox.Hash, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held[h] = until
}

func (o *owner) release(h mailbox.Hash) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.held, h)
}

// first returns the entry of the outbox that is to be sent next.
func (o *owner) first(s *ownerState) *store.Outgoing {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range s.outbox {
		if until, held := o.held[s.outbox[i].Hash]; !held || !until.IsZero() && !o.n.clock().Before(until) {
			return &s.outbox[i]
		}
	}
	return nil
}

// post takes the outbox to the relay, one after the other: an order that the relay
// sees broken would be seen by everyone.
func (o *owner) post(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		idle, err := o.postNext(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case idle:
			select {
			case <-ctx.Done():
				return
			case <-o.kick:
			case <-time.After(heldFor):
			}
		case err == nil:
			failures = 0
		case !pause(ctx, failures, o.kick):
			return
		default:
			failures++
		}
	}
}

var errAgain = errors.New("the same is to be sent again")

// postNext takes the next entry of the outbox to the relay, and tells the core what became
// of it. It reports whether there was none that may go, and returns an error if the same is
// to be done again.
func (o *owner) postNext(ctx context.Context) (idle bool, err error) {
	s, err := o.snapshot()
	if err != nil {
		return false, err
	}
	out := o.first(s)
	if out == nil || s.core.Frozen != "" || s.rec.Made != nil && !s.rec.Made.Created {
		return true, nil
	}
	in, again := o.deposit(ctx, s, out)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if in != nil {
		if err := o.do(func(t *turn) error { return t.step(in) }); err != nil {
			// The core may not have heard: the same again, which the relay
			// knows by its hash.
			o.release(out.Hash)
			again = true
		}
	}
	if again {
		return false, errAgain
	}
	return false, nil
}

// deposit sends one entry and says what the core is to hear, and whether the same
// is to be sent again.
func (o *owner) deposit(ctx context.Context, s *ownerState, out *store.Outgoing) (in conversation.Input, again bool) {
	r, err := o.n.relayAt(s.rec.Relay)
	if err != nil {
		return nil, true
	}
	var seed []byte
	for _, k := range s.keys {
		if k.Epoch == out.Epoch {
			seed = k.Append
		}
	}
	if seed == nil {
		return conversation.Refused{Hash: out.Hash, Why: conversation.RefusedForGood, Reason: "its epoch is forgotten"}, false
	}
	var full noRoom
	switch err := o.storeSpills(ctx, r, s, out); {
	case errors.As(err, &full):
		o.hold(out.Hash, time.Time{})
		return conversation.Refused{Hash: out.Hash, Why: conversation.NoRoom, Reason: full.Error()}, false
	case err != nil:
		o.n.log.Debug("what an entry names is stored later", "err", err)
		return nil, true
	}
	d := mailbox.Deposit{Mailbox: s.rec.Mailbox, Kind: mailbox.Kind(out.Kind), Gen: mailbox.Gen(out.Gen), Expect: out.Expect, Meta: out.Meta, Payload: out.Payload}
	receipt, err := r.client.Append(ctx, key.CapabilityFromSeed(seed), d)
	var evidence *client.EvidenceError
	var refused *wire.Error
	switch {
	case err == nil:
		if d.Kind == mailbox.Commit {
			o.hold(out.Hash, time.Time{}) // until it is read
		}
		return conversation.Stored{Hash: out.Hash, At: receipt.Head.Head.Mark()}, false
	case errors.Is(err, mailbox.ErrConflict):
		o.hold(out.Hash, o.n.clock().Add(heldFor))
		return conversation.Refused{Hash: out.Hash, Why: conversation.LostRace}, false
	case errors.Is(err, mailbox.ErrStale):
		o.hold(out.Hash, o.n.clock().Add(heldFor))
		return conversation.Refused{Hash: out.Hash, Why: conversation.Stale}, false
	case errors.As(err, &evidence):
		if err := o.suspect(evidence.Error(), evidence); err != nil {
			o.n.log.Warn("a relay's contradiction is not kept yet", "err", err)
		}
		return nil, true
	case errors.As(err, &refused) && (refused.Code == wire.CodeTooLarge || refused.Code == wire.CodeMalformed):
		return conversation.Refused{Hash: out.Hash, Why: conversation.RefusedForGood, Reason: refused.Error()}, false
	}
	o.n.log.Debug("an entry is sent again later", "err", err)
	return conversation.Refused{Hash: out.Hash, Why: conversation.Later}, true
}

// accountsOf lists the accounts whose devices are in a tree.
func accountsOf(g *mls.Group) (map[identity.DeviceID]identity.AccountID, error) {
	out := map[identity.DeviceID]identity.AccountID{}
	for _, m := range g.Roster() {
		account, device, err := conversation.LeafOf(m.Node)
		if err != nil {
			return nil, err
		}
		out[device] = account
	}
	return out, nil
}
