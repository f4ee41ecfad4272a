package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"sotto/crypto/key"
	"sotto/node/store"
	"sotto/relay/client"
	"sotto/relay/mailbox"
)

// Stepper does by hand, one after the other, what [Node.Run] does in goroutines: for
// simulations, in which everything happens in an order of their choosing. What is done
// is the node's own; only when, and what waits for what, the caller decides.
//
// The index of a search is not kept. A Stepper is for one goroutine, and none of the node's methods is called beside it.
type Stepper struct {
	n    *Node
	stop context.CancelFunc
	due  map[*owner]time.Time // when the core wants to be asked again
}

// Stepper begins to work by hand. [Stepper.Close] comes before the node's.
func (n *Node) Stepper() (*Stepper, error) {
	n.mu.Lock()
	if n.running != nil {
		n.mu.Unlock()
		return nil, errors.New("the node runs already")
	}
	ctx, stop := context.WithCancel(context.Background())
	n.running, n.stop, n.tasks, n.byHand = ctx, stop, newTasks(ctx), true
	n.tasks.byHand = true
	n.mu.Unlock()
	s := &Stepper{n: n, stop: stop, due: map[*owner]time.Time{}}
	if err := n.begin(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the work.
func (s *Stepper) Close() {
	s.stop()
	s.n.tasks.close()
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.n.running, s.n.owners, s.n.inbox, s.n.byHand = nil, map[string]*owner{}, nil, false
}

// onePage is a [reading] of one page.
func onePage(c *client.Client, ctx context.Context, read key.CapabilitySecret, id mailbox.ID, gen mailbox.Gen, from client.Place, take func(*client.Page) error) error {
	p, err := c.Read(ctx, read, id, gen, from, mailbox.Limit{})
	if err != nil {
		return err
	}
	return take(p)
}

// Tasks tries once everything that waits to be done and what is due at this time, and
// reports whether there was anything.
func (s *Stepper) Tasks() bool {
	_, due, _ := s.n.doDues()
	return s.n.tasks.step() || due
}

// Inbox reads a page of the inbox. It returns the error that the node would try again
// after.
func (s *Stepper) Inbox() error {
	err := s.n.inboxOn(s.n.running, onePage, func() {})
	if errors.Is(err, store.ErrNotFound) {
		return nil // there is none yet
	}
	return err
}

// Conversations returns the names under which conversations are found that are at work,
// in their order.
func (s *Stepper) Conversations() (names []string, err error) {
	err = s.n.view(func(tx *store.Tx) error {
		all, err := tx.Conversations()
		called := s.n.namer(tx)
		for i := range all {
			if o := s.n.ownerOf(all[i].Group); o == nil || o.life.Err() != nil {
				continue
			}
			if name := all[i].Name; all[i].Many {
				names = append(names, name)
			} else {
				names = append(names, called.of(all[i].Contact))
			}
		}
		return err
	})
	slices.SortFunc(names, cmp.Compare)
	return names, err
}

func (s *Stepper) owner(ref string) (o *owner, err error) {
	err = s.n.view(func(tx *store.Tx) error {
		c, err := s.n.findConversation(tx, ref)
		if err == nil {
			o = s.n.ownerOf(c.Group)
		}
		return err
	})
	if err == nil && (o == nil || o.life.Err() != nil) {
		err = ErrNotFound
	}
	return o, err
}

// Read reads a page of a conversation.
func (s *Stepper) Read(ref string) error {
	o, err := s.owner(ref)
	if err != nil {
		return err
	}
	if err = o.readOn(o.life, onePage); err != nil && o.life.Err() == nil {
		o.unread(err)
	}
	return err
}

// Post sends the next entry that a conversation has to send. It reports whether there was
// one.
func (s *Stepper) Post(ref string) (any bool, err error) {
	o, err := s.owner(ref)
	if err != nil {
		return false, err
	}
	idle, err := o.postNext(o.life)
	return !idle, err
}

// Tick asks a conversation what is to be done now, if it has wanted to be asked by then
// or has never been.
func (s *Stepper) Tick(ref string) error {
	o, err := s.owner(ref)
	if err != nil {
		return err
	}
	for more := true; more; {
		select {
		case d := <-o.tick:
			s.due[o] = s.n.clock().Add(d)
		default:
			more = false
		}
	}
	if due, asked := s.due[o]; asked && (due.IsZero() || s.n.clock().Before(due)) {
		return nil
	}
	s.due[o] = time.Time{}
	if err := o.ticked(); err != nil {
		s.due[o] = s.n.clock() // as after any error: again
		return err
	}
	return nil
}
