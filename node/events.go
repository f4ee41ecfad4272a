package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"sync"

	"sotto/node/store"
)

// hub wakes those who wait for events.
type hub struct {
	mu   sync.Mutex // guards the following field
	wake chan struct{}
}

func newHub() *hub { return &hub{wake: make(chan struct{})} }

func (h *hub) ring() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.wake)
	h.wake = make(chan struct{})
}

// next is closed at the next ring.
func (h *hub) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wake
}

const eventPage = 256

// Events gives everything that happened behind number after, and goes on with what
// happens, until ctx is over or the node stops. It shows each thing as it is when
// it is read. It ends with ErrGone if there are events behind after that are not kept.
func (n *Node) Events(ctx context.Context, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		n.mu.Lock()
		stopped := n.running
		n.mu.Unlock()
		if stopped == nil {
			stopped = context.Background()
		}
		for {
			wake := n.events.next() // before looking, so that nothing slips between
			var out []Event
			err := n.view(func(tx *store.Tx) error {
				evs, err := tx.Events(after, eventPage)
				if err != nil {
					return err
				}
				if err := continues(tx, after, evs); err != nil {
					return err
				}
				names := n.namer(tx)
				for _, e := range evs {
					after = e.Seq
					if ev, ok := n.showEvent(tx, names, e); ok {
						out = append(out, ev)
					}
				}
				if len(evs) == eventPage {
					wake = nil
				}
				return nil
			})
			if err != nil {
				yield(Event{}, apiError(err))
				return
			}
			for _, e := range out {
				if !yield(e, nil) {
					return
				}
			}
			if wake == nil {
				continue
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			case <-stopped.Done():
				return
			}
		}
	}
}

// continues says if a reader would miss something without noticing. Who begins with 0
// takes what there is.
func continues(tx *store.Tx, after uint64, evs []store.Numbered) error {
	switch {
	case len(evs) > 0 && after > 0 && evs[0].Seq != after+1:
		return fmt.Errorf("%w: what happened between %d and %d is not kept any more; messages are, read these and go on with the newest event", ErrGone, after, evs[0].Seq)
	case len(evs) > 0:
		return nil
	}
	last, err := tx.LastEvent()
	if err == nil && after > last {
		err = fmt.Errorf("%w: there is no event %d yet, the newest is %d: an older state of the node was put back", ErrGone, after, last)
	}
	return err
}

// LastEvent returns the number of the newest event.
func (n *Node) LastEvent(ctx context.Context) (last uint64, err error) {
	err = n.view(func(tx *store.Tx) (err error) { last, err = tx.LastEvent(); return err })
	return last, apiError(err)
}

// showEvent fills an event in. What it was about may be gone: a message is then shown as
// removed, and anything else left out.
func (n *Node) showEvent(tx *store.Tx, names *namer, e store.Numbered) (Event, bool) {
	out := Event{Seq: e.Seq, Time: e.Time}
	switch e.Type {
	case store.EventMessage:
		m, err := tx.Message(e.Group, e.Message)
		if errors.Is(err, store.ErrNotFound) {
			out.Type, out.Message = EventMessage, &Message{ID: hex.EncodeToString(e.Message[:]), Conversation: groupID(e.Group), State: MessageReceived, Kind: "removed"}
			return out, true
		}
		if err != nil {
			return out, false
		}
		shown := names.message(e.Group, &m)
		out.Type, out.Message = EventMessage, &shown
	case store.EventContact:
		c, err := tx.Contact(e.Contact)
		if err != nil {
			return out, false
		}
		shown := showContact(&c)
		out.Type, out.Contact = EventContact, &shown
	case store.EventConversation:
		c, err := tx.Conversation(e.Group)
		if err != nil || c.Own {
			return out, false
		}
		shown, err := n.showConversation(tx, names, &c)
		if err != nil {
			return out, false
		}
		out.Type, out.Conversation = EventConversation, &shown
	case store.EventDevice:
		d, ok := n.showDevice(tx, e.Device)
		if !ok {
			return out, false
		}
		out.Type, out.Device = EventDevice, &d
	case store.EventLink:
		l, err := tx.Linking()
		if err != nil {
			return out, false
		}
		shown := showLink(&l)
		out.Type, out.Link = EventLink, &shown
	case store.EventNotice:
		out.Type, out.Notice = EventNotice, e.Notice
	case store.EventSetting:
		shown, err := n.showSetting(tx, e.Group, e.Notice)
		if err != nil {
			return out, false
		}
		out.Type, out.Setting = EventSetting, &shown
	case store.EventToken:
		shown, err := n.tokenNow(tx, e.Notice)
		if err != nil {
			return out, false
		}
		out.Type, out.Token = EventToken, &shown
	}
	return out, true
}

func (n *Node) noteMessage(tx *store.Tx, group []byte, id [32]byte) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventMessage, Time: n.clock(), Group: group, Message: id})
	return err
}

func (n *Node) noteContact(tx *store.Tx, account [32]byte) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventContact, Time: n.clock(), Contact: account})
	return errors.Join(err, n.shareContact(tx, account))
}

func (n *Node) noteConversation(tx *store.Tx, group []byte) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventConversation, Time: n.clock(), Group: group})
	return err
}

func (n *Node) notice(tx *store.Tx, text string) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventNotice, Time: n.clock(), Notice: text})
	return err
}
