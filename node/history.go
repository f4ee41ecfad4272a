package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sotto/crypto/codec"
	"sotto/crypto/envelope"
	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
	"sotto/relay/mailbox"
	"sotto/storage/blob"
)

// What was said before a device came in another gives to it: packs of messages, the newest
// first, sealed as blobs at a relay, and where they are in the self conversation
// (spec/devices.md, section 6).
const (
	newestFirst  = 50        // messages of every conversation before the rest of any
	packBytes    = 512 << 10 // of a pack, about
	packMessages = 6000      // of a pack
	packLife     = 14 * 24 * time.Hour
	importStep   = 400 // messages in a transaction
)

// History is how much of what was said before this device has been given.
type History struct {
	From     string `json:"from" doc:"id of the device that hands it over"`
	Imported int    `json:"imported" doc:"messages that are here"`
	Total    int    `json:"total" doc:"messages that there are"`
	Done     bool   `json:"done"`
}

func (n *Node) showHistory(tx *store.Tx) (*History, error) {
	p, err := tx.Progress()
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	packs, err := tx.Packs()
	return &History{From: identity.DeviceID(p.From).String(), Imported: int(p.Imported), Total: int(p.Total), Done: p.Ended && len(packs) == 0}, err
}

// section is what a pack holds of one conversation.
type section struct {
	Group   []byte
	Many    bool
	Over    bool // the account is no member any more: the device that is given it never was
	Contact [32]byte
	Name    string
	Since   uint64 // Unix milliseconds
	Items   []handed
}

// handed is a message as it is handed over: what is shown of it, no keys, no proof.
type handed struct {
	ID            [32]byte
	Seq           uint64
	From          [32]byte
	Sent, Arrived uint64 // Unix milliseconds
	Kind          uint8
	Reason, Text  string
	Count         uint32
	Told          []store.Told
	ReplyTo       [32]byte
	Edited        uint64 // Unix milliseconds; 0 if it was not
	Forwarded     bool
	Options       []string // of a poll
	Multiple      bool     // likewise
}

func packFields(f *codec.Fields, sections *[]section) {
	version := uint8(1)
	if f.U8(&version); f.OK() && version != 1 {
		f.Fail("history of version %d", version)
	}
	codec.List(f, envelope.MaxBlob, 1<<12, sections, func(s *section, f *codec.Fields) {
		f.Vec(255, &s.Group)
		f.Flag(&s.Many)
		f.Flag(&s.Over)
		f.Array(s.Contact[:])
		f.Text(256, &s.Name)
		f.U64(&s.Since)
		codec.List(f, envelope.MaxBlob, 2*packMessages, &s.Items, func(i *handed, f *codec.Fields) { i.fields(f) })
	})
}

func (i *handed) fields(f *codec.Fields) {
	f.Array(i.ID[:])
	f.U64(&i.Seq)
	f.Array(i.From[:])
	f.U64(&i.Sent)
	f.U64(&i.Arrived)
	f.U8(&i.Kind)
	f.Text(1<<10, &i.Reason)
	f.Text(content.MaxText, &i.Text)
	f.U32(&i.Count)
	codec.List(f, 1<<16, 1<<10, &i.Told, func(t *store.Told, f *codec.Fields) {
		f.U8(&t.What)
		f.Array(t.Of[:])
		f.Text(1<<12, &t.Text)
		f.U32(&t.Value)
		f.Text(1<<10, &t.Other)
	})
	f.Array(i.ReplyTo[:])
	f.U64(&i.Edited)
	f.Flag(&i.Forwarded)
	codec.List(f, 1<<14, 16, &i.Options, func(o *string, f *codec.Fields) { f.Text(1<<10, o) })
	f.Flag(&i.Multiple)
}

// parsePack reads a pack.
func parsePack(b []byte) (out []section, err error) {
	if err := codec.Read(b, func(f *codec.Fields) { packFields(f, &out) }); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return out, nil
}

// itemOf returns what is handed over of a message, and whether anything is.
func itemOf(m *store.Message) (handed, bool) {
	switch m.Kind {
	case store.KindText, store.KindPoll, store.KindGap, store.KindUnknown, store.KindChange:
	default:
		return handed{}, false
	}
	if m.Seq == 0 || len(m.Text) > content.MaxText { // what is on its way comes by itself
		return handed{}, false
	}
	if m.Expires > 0 || !m.Until.IsZero() || m.Deleted > 0 { // it is to disappear, or has
		return handed{}, false
	}
	var edited uint64
	if !m.Edited.IsZero() {
		edited = uint64(m.Edited.UnixMilli())
	}
	return handed{ReplyTo: m.ReplyTo, Edited: edited, Forwarded: m.Forwarded, Options: m.Options, Multiple: m.Multiple, ID: m.ID, Seq: m.Seq, From: m.From, Sent: uint64(m.Sent.UnixMilli()), Arrived: uint64(m.Arrived.UnixMilli()), Kind: m.Kind,
		Reason: m.Reason, Text: m.Text, Count: m.Count, Told: m.Told}, true
}

func (i *handed) message(n *Node, from [16]byte) *store.Message {
	m := &store.Message{ID: i.ID, Seq: i.Seq, From: i.From, Mine: i.From == n.account.ID(), Sent: time.UnixMilli(int64(i.Sent)).UTC(), Arrived: time.UnixMilli(int64(i.Arrived)).UTC(),
		State: store.MessageReceived, Kind: i.Kind, Reason: i.Reason, Text: i.Text, Count: i.Count, Told: i.Told, Imported: from}
	m.ReplyTo, m.Forwarded, m.Options, m.Multiple = i.ReplyTo, i.Forwarded, i.Options, i.Multiple
	if i.Edited > 0 {
		m.Edited = time.UnixMilli(int64(i.Edited)).UTC()
	}
	if m.Mine && (m.Kind == store.KindText || m.Kind == store.KindPoll) {
		m.State = store.MessageStored
	}
	return m
}

// handOver notes that a device is to be given what this one has.
func (n *Node) handOver(tx *store.Tx, device [16]byte) error {
	all, err := tx.Conversations()
	if err != nil {
		return err
	}
	type dated struct {
		store.HandoverPlace
		last time.Time
	}
	h := &store.Handover{Device: device}
	var places []dated
	for i := range all {
		c := &all[i]
		if c.Own || c.Messages == 0 {
			continue
		}
		d := dated{store.HandoverPlace{Group: c.Group}, c.Since}
		for m, err := range tx.Messages(c.Group, [32]byte{}, true) {
			if err != nil {
				return err
			}
			d.last = m.Arrived
			break
		}
		h.Total += c.Messages
		places = append(places, d)
	}
	slices.SortStableFunc(places, func(a, b dated) int { return b.last.Compare(a.last) })
	for _, d := range places {
		h.Places = append(h.Places, d.HandoverPlace)
	}
	return tx.PutHandover(h)
}

// giveHistory goes on with what is to be given.
func (n *Node) giveHistory() {
	n.task("give history", func(ctx context.Context) error {
		for ctx.Err() == nil {
			var all []store.Handover
			if err := n.view(func(tx *store.Tx) (err error) { all, err = tx.Handovers(); return err }); err != nil || len(all) == 0 {
				return err
			}
			if err := n.givePack(ctx, &all[0]); err != nil {
				return err
			}
		}
		return nil
	})
}

// givePack puts the next pack for a device at a relay and says where it is.
func (n *Node) givePack(ctx context.Context, h *store.Handover) error {
	var self []byte
	var in store.Inbox
	var sections []section
	active := n.account.active(h.Device)
	err := n.view(func(tx *store.Tx) (err error) {
		self = selfGroup(tx)
		if in, err = tx.Inbox(); err != nil {
			return err
		}
		sections, err = n.nextPack(tx, h)
		return err
	})
	if err != nil {
		return err
	}
	o := n.ownerOf(self)
	if o == nil {
		return errNotIn // the conversation is about to be taken up
	}
	if !active {
		return n.update(func(tx *store.Tx) error { return tx.DeleteHandover(h.Device) })
	}
	if in, err := o.holds(h.Device); err != nil || !in {
		return errors.Join(errNotIn, err) // nothing is put at a relay for it yet
	}
	pack := content.HistoryPack{Device: h.Device, Relay: in.Mailbox.Relay, Total: h.Total, Last: len(sections) == 0}
	if !pack.Last {
		sealed, k, err := envelope.SealBlob(codec.Write(func(f *codec.Fields) { packFields(f, &sections) }))
		if err != nil {
			return err
		}
		r, err := n.relayAt(in.Mailbox.Relay)
		if err != nil {
			return err
		}
		ticket := n.ticket(in.Mailbox.Relay)
		if ticket == nil {
			ticket = in.Mailbox.Ticket
		}
		owner := key.NewCapability()
		id, err := r.client.PutBlob(ctx, owner, sealed, blob.Minute(mailbox.MinuteOf(n.clock().Add(packLife))), ticket)
		if err != nil {
			return err
		}
		pack.Blob, pack.Key, pack.Owner = id, k, owner.Seed()
	}
	return o.do(func(t *turn) error {
		t.rec.Lamport++
		_, err := t.tell(content.NewHistory(pack, t.now, t.rec.Lamport))
		if pack.Last {
			return errors.Join(err, t.tx.DeleteHandover(h.Device))
		}
		return errors.Join(err, t.tx.PutHandover(h))
	})
}

var errNotIn = errors.New("the device has not come in yet")

// holds reports whether a device of the account is in the conversation.
func (o *owner) holds(device [16]byte) (bool, error) {
	s, err := o.snapshot()
	if err != nil || s.core.Over {
		return false, err
	}
	accounts, err := accountsOf(s.group)
	return accounts[device] == o.n.account.ID(), err
}

// nextPack collects the next messages to be given and moves h on.
func (n *Node) nextPack(tx *store.Tx, h *store.Handover) (out []section, err error) {
	size, count := 0, 0
	full := func() bool { return size >= packBytes || count >= packMessages }
	take := func(p *store.HandoverPlace, most int) error {
		c, err := tx.Conversation(p.Group)
		if errors.Is(err, store.ErrNotFound) {
			p.Done = true
			return nil
		}
		if err != nil {
			return err
		}
		core, err := coreOf(&c)
		if err != nil {
			return err
		}
		s := section{Group: c.Group, Many: c.Many, Over: core.Over, Contact: c.Contact, Name: c.Name, Since: uint64(c.Since.UnixMilli())}
		done := true
		for m, err := range tx.Messages(c.Group, p.Before, true) {
			if errors.Is(err, store.ErrNotFound) { // it was deleted meanwhile: what was given is known there
				p.Before, done = [32]byte{}, false
				break
			}
			if err != nil {
				return err
			}
			if most == 0 || full() {
				done = false
				break
			}
			if i, ok := itemOf(&m); ok {
				most--
				p.Before = m.ID
				s.Items = append(s.Items, i)
				size += len(codec.Write(i.fields))
				count++
			}
		}
		p.Begun, p.Done = true, done
		if len(s.Items) > 0 {
			out = append(out, s)
		}
		return nil
	}
	for i := range h.Places {
		if p := &h.Places[i]; !p.Begun && !full() {
			if err := take(p, newestFirst); err != nil {
				return nil, err
			}
		}
	}
	for i := range h.Places {
		for p := &h.Places[i]; p.Begun && !p.Done && !full(); {
			if err := take(p, -1); err != nil {
				return nil, err
			}
		}
	}
	h.Given += uint32(count)
	return out, nil
}

// hearHistory notes where history is that another device gives to this one.
func (t *turn) hearHistory(from conversation.Leaf, raw []byte) error {
	p, err := content.ParseHistoryPack(raw)
	if err != nil || p.Device != [16]byte(t.n.device.ID) {
		return nil
	}
	progress, err := t.tx.Progress()
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	progress.From, progress.Total, progress.Ended = from.Device, p.Total, p.Last
	if err := t.tx.PutProgress(&progress); err != nil {
		return err
	}
	if len(p.Key) > 0 {
		pack := &store.Pack{From: from.Device, Relay: p.Relay, Blob: p.Blob, Key: bytes.Clone(p.Key), Owner: bytes.Clone(p.Owner)}
		if err := t.tx.AddPack(pack); err != nil {
			return err
		}
	}
	t.n.wishes.Add(1)
	return t.n.noteDevice(t.tx, t.n.device.ID)
}

// takeHistory goes on with what another device gives to this one.
func (n *Node) takeHistory() {
	n.task("take history", func(ctx context.Context) error {
		var packs []store.Pack
		if err := n.view(func(tx *store.Tx) (err error) { packs, err = tx.Packs(); return err }); err != nil {
			return err
		}
		var failed error // the next packs do not wait for one that cannot be had now
		for i := range packs {
			if err := n.takePack(ctx, &packs[i]); err != nil {
				failed = err
			}
			if ctx.Err() != nil {
				break
			}
		}
		return failed
	})
}

func (n *Node) takePack(ctx context.Context, p *store.Pack) error {
	r, err := n.relayAt(p.Relay)
	if err != nil {
		return n.dropPack(p, "it names no relay")
	}
	if !p.Taken {
		sealed, err := r.client.GetBlob(ctx, p.Blob)
		if errors.Is(err, blob.ErrNotFound) {
			return n.dropPack(p, "its relay has it no longer")
		}
		if err != nil {
			return err
		}
		plain, err := envelope.OpenBlob(sealed, p.Key)
		var sections []section
		if err == nil {
			sections, err = parsePack(plain)
		}
		if err != nil {
			return n.dropPack(p, err.Error())
		}
		for i := range sections {
			if err := n.importSection(ctx, p, &sections[i]); err != nil {
				return err
			}
		}
		p.Taken = true
		if err := n.update(func(tx *store.Tx) error { return tx.PutPack(p) }); err != nil {
			return err
		}
	}
	if err := r.client.DeleteBlob(ctx, key.CapabilityFromSeed(p.Owner), p.Blob); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	return n.update(func(tx *store.Tx) error { return errors.Join(tx.DeletePack(p.Number), n.noteDevice(tx, n.device.ID)) })
}

// dropPack gives up a part of the history and says so.
func (n *Node) dropPack(p *store.Pack, why string) error {
	return n.update(func(tx *store.Tx) error {
		return errors.Join(tx.DeletePack(p.Number), n.noteDevice(tx, n.device.ID),
			n.notice(tx, "A part of what was said before cannot be taken over: "+why+"."))
	})
}

// importSection writes what a pack holds of one conversation. That must be there: its
// welcome may come later than the pack.
func (n *Node) importSection(ctx context.Context, p *store.Pack, s *section) error {
	for from := 0; from < len(s.Items) && ctx.Err() == nil; from += importStep {
		items := s.Items[from:min(from+importStep, len(s.Items))]
		var imported uint32
		write := func(tx *store.Tx) error {
			imported = 0
			for i := range items {
				if items[i].Kind == store.KindHidden {
					continue
				}
				ok, err := tx.Import(s.Group, items[i].message(n, p.From))
				if err != nil {
					return err
				}
				if ok {
					imported++
				}
			}
			progress, err := tx.Progress()
			if err != nil {
				return err
			}
			progress.Imported = min(progress.Imported+uint32(len(items)), progress.Total)
			return errors.Join(tx.PutProgress(&progress), n.noteConversation(tx, s.Group), n.noteDevice(tx, n.device.ID))
		}
		var rec store.Conversation
		err := n.view(func(tx *store.Tx) (err error) { rec, err = tx.Conversation(s.Group); return err })
		missing := errors.Is(err, store.ErrNotFound)
		switch o := n.ownerOf(s.Group); {
		case err != nil && !missing:
			return err
		case missing && !s.Over:
			return fmt.Errorf("the conversation that history is of is not there yet")
		case missing || o == nil || o.life.Err() != nil:
			// Nobody owns what is over.
			err = n.update(func(tx *store.Tx) error {
				if missing {
					rec = store.Conversation{Group: s.Group, Many: s.Many, Name: s.Name, Contact: s.Contact, Since: time.UnixMilli(int64(s.Since)).UTC(),
						Core: (&conversation.Core{Over: true}).Append(nil)}
				}
				if err := write(tx); err != nil {
					return err
				}
				rec.Messages += imported
				return tx.PutConversation(&rec)
			})
		default:
			err = o.do(func(t *turn) error {
				if err := write(t.tx); err != nil {
					return err
				}
				t.rec.Messages += imported
				t.events = true
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
