package node

import (
	"errors"

	"sotto/node/setting"
	"sotto/node/store"
)

// dropAtOnce bounds what one turn takes away, so that a conversation is not held up.
const dropAtOnce = 100

// dropOld takes away what the setting keep says is kept for no longer, in every
// conversation.
func (n *Node) dropOld() error {
	var errs []error
	for _, o := range n.allOwners() {
		for more := true; more; {
			err := o.do(func(t *turn) (err error) { more, err = t.dropOld(); return err })
			if err != nil {
				if !errors.Is(err, errGone) {
					errs = append(errs, err)
				}
				break
			}
		}
	}
	return errors.Join(errs...)
}

// dropOld takes away the oldest of what is kept for no longer, and reports whether there
// is more of it.
func (t *turn) dropOld() (more bool, err error) {
	v, err := value(t.tx, t.o.group, setting.Keep)
	if err != nil || v == setting.Off {
		return false, err
	}
	before := t.now.Add(-setting.Duration(v))
	var old []store.Message
	for m, err := range t.tx.Messages(t.o.group, [32]byte{}, false) {
		if err != nil {
			return false, err
		}
		if !m.Arrived.Before(before) {
			break
		}
		if m.State == store.MessageQueued {
			continue
		}
		starred, err := t.tx.Star(t.o.group, m.ID)
		if err != nil {
			return false, err
		}
		if starred {
			continue
		}
		if len(old) == dropAtOnce {
			more = true
			break
		}
		old = append(old, m)
	}
	for i := range old {
		if err := t.remove(&old[i]); err != nil {
			return false, err
		}
	}
	return more, nil
}
