package badgerbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/kv"
)

// slot is the record of a slot or of its tombstone.
type slot struct {
	mailbox.Slot
	tag   mailbox.Tag       // of who took it
	gone  mailbox.SlotCause // 0 while it is there
	until mailbox.Minute    // of a tombstone
}

func (s *slot) encode() []byte {
	flags := uint8(s.gone) << 1
	if s.Once {
		flags |= 1
	}
	b := codec.AppendU8([]byte{recordVersion}, flags)
	b = append(append(append(b, s.Owner[:]...), s.Read[:]...), s.tag[:]...)
	b = codec.AppendU32(codec.AppendU32(b, uint32(s.Expires)), uint32(s.Taken))
	b = codec.AppendU32(codec.AppendU32(b, uint32(s.until)), s.Version)
	return codec.AppendVec(b, s.Value)
}

func decodeSlot(b []byte) (*slot, error) {
	r := reader(b)
	flags := r.U8()
	s := &slot{gone: mailbox.SlotCause(flags >> 1)}
	s.Once = flags&1 == 1
	r.Copy(s.Owner[:])
	r.Copy(s.Read[:])
	r.Copy(s.tag[:])
	s.Expires, s.Taken = mailbox.Minute(r.U32()), mailbox.Minute(r.U32())
	s.until, s.Version = mailbox.Minute(r.U32()), r.U32()
	s.Value = r.Vec(mailbox.MaxSlot)
	if err := r.Done(); err != nil {
		return nil, corrupt("slot", err)
	}
	return s, nil
}

// loadSlot returns what stands there, also a tombstone; nil for nothing. What has
// expired is a tombstone from that minute on, whether or not it has been swept.
func (s *Store) loadSlot(tx *kv.Tx, id mailbox.SlotID) (*slot, error) {
	b, err := tx.Get(idKey('s', id[:]))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sl, err := decodeSlot(b)
	if err != nil {
		return nil, err
	}
	now := s.now()
	if sl.gone == 0 && sl.Expires <= now {
		sl.gone, sl.until = mailbox.SlotExpired, sl.Expires+mailbox.TombstoneMinutes
	}
	if sl.gone != 0 && sl.until <= now {
		return nil, nil
	}
	return sl, nil
}

// there returns the slot, or the error of one that is not there.
func (s *Store) there(tx *kv.Tx, id mailbox.SlotID) (*slot, error) {
	sl, err := s.loadSlot(tx, id)
	switch {
	case err != nil:
		return nil, err
	case sl == nil:
		return nil, mailbox.ErrNotFound
	case sl.gone != 0:
		return nil, &mailbox.GoneError{Cause: sl.gone}
	}
	return sl, nil
}

func saveSlot(tx *kv.Tx, id mailbox.SlotID, sl *slot) error {
	return tx.Set(idKey('s', id[:]), sl.encode())
}

// CreateSlot implements mailbox.Slots.
func (s *Store) CreateSlot(ctx context.Context, id mailbox.SlotID, want mailbox.Slot) error {
	switch now := s.now(); {
	case len(want.Value) == 0 || len(want.Value) > mailbox.MaxSlot:
		return fmt.Errorf("%w: a value of %d bytes, allowed are 1 to %d", mailbox.ErrTooLarge, len(want.Value), mailbox.MaxSlot)
	case want.Expires <= now || want.Expires > now+mailbox.MaxMinutes:
		return fmt.Errorf("%w: a slot must expire within %d days", mailbox.ErrTerms, mailbox.MaxMinutes/24/60)
	}
	want.Version, want.Taken = 1, 0
	return s.update(func(tx *kv.Tx) error {
		have, err := s.loadSlot(tx, id)
		switch {
		case err != nil:
			return err
		case have != nil && have.gone != 0:
			return &mailbox.GoneError{Cause: have.gone}
		case have != nil && have.Owner == want.Owner && have.Read == want.Read && have.Once == want.Once &&
			have.Expires == want.Expires && have.Version == 1 && bytes.Equal(have.Value, want.Value):
			return nil
		case have != nil:
			return mailbox.ErrExists
		}
		return errors.Join(saveSlot(tx, id, &slot{Slot: want}), tx.Set(minuteKey('y', want.Expires, id[:]), nil))
	})
}

// Slot implements mailbox.Slots.
func (s *Store) Slot(ctx context.Context, id mailbox.SlotID) (out mailbox.Slot, err error) {
	err = s.view(func(tx *kv.Tx) error {
		sl, err := s.there(tx, id)
		if err == nil {
			out = sl.Slot
		}
		return err
	})
	return out, err
}

// Keys implements mailbox.Slots.
func (s *Store) Keys(ctx context.Context, id mailbox.SlotID) (owner, read [32]byte, err error) {
	err = s.view(func(tx *kv.Tx) error {
		sl, err := s.loadSlot(tx, id)
		if err == nil && sl == nil {
			return mailbox.ErrNotFound
		}
		if err == nil {
			owner, read = sl.Owner, sl.Read
		}
		return err
	})
	return owner, read, err
}

// SetSlot implements mailbox.Slots.
func (s *Store) SetSlot(ctx context.Context, id mailbox.SlotID, version uint32, value []byte) error {
	if len(value) == 0 || len(value) > mailbox.MaxSlot {
		return fmt.Errorf("%w: a value of %d bytes, allowed are 1 to %d", mailbox.ErrTooLarge, len(value), mailbox.MaxSlot)
	}
	return s.update(func(tx *kv.Tx) error {
		sl, err := s.there(tx, id)
		switch {
		case err != nil:
			return err
		case sl.Version == version+1 && bytes.Equal(sl.Value, value):
			return nil
		case sl.Version != version:
			return mailbox.ErrVersion
		}
		sl.Version++
		sl.Value = value
		return saveSlot(tx, id, sl)
	})
}

// TakeSlot implements mailbox.Slots.
func (s *Store) TakeSlot(ctx context.Context, id mailbox.SlotID, tag mailbox.Tag) (out mailbox.Slot, err error) {
	err = s.update(func(tx *kv.Tx) error {
		sl, err := s.there(tx, id)
		if err != nil {
			return err
		}
		if sl.Taken == 0 {
			sl.Taken, sl.tag = max(s.now(), 1), tag
			if err := saveSlot(tx, id, sl); err != nil {
				return err
			}
		} else if sl.Once && sl.tag != tag {
			return &mailbox.GoneError{Cause: mailbox.SlotTaken}
		}
		out = sl.Slot
		return nil
	})
	return out, err
}

// RevokeSlot implements mailbox.Slots.
func (s *Store) RevokeSlot(ctx context.Context, id mailbox.SlotID) error {
	return s.shrink(func(tx *kv.Tx) error {
		sl, err := s.loadSlot(tx, id)
		switch {
		case err != nil:
			return err
		case sl == nil:
			return mailbox.ErrNotFound
		case sl.gone == mailbox.SlotRevoked:
			return nil
		case sl.gone != 0:
			return &mailbox.GoneError{Cause: sl.gone}
		}
		return bury(tx, id, sl, mailbox.SlotRevoked, s.now())
	})
}

// bury makes a tombstone of a slot: its keys, and why it is gone.
func bury(tx *kv.Tx, id mailbox.SlotID, sl *slot, cause mailbox.SlotCause, now mailbox.Minute) error {
	old := minuteKey('y', sl.Expires, id[:])
	sl.gone, sl.until, sl.Value = cause, now+mailbox.TombstoneMinutes, nil
	return errors.Join(tx.Delete(old), saveSlot(tx, id, sl), tx.Set(minuteKey('y', sl.until, id[:]), nil))
}

func (s *Store) sweepSlots(tx *kv.Tx, now mailbox.Minute) (freed, seen int, touched []mailbox.ID, err error) {
	keys, err := due(tx, 'y', now)
	if err != nil {
		return 0, 0, nil, err
	}
	for _, k := range keys {
		id := mailbox.SlotID(k[5:37])
		b, err := tx.Get(idKey('s', id[:]))
		if errors.Is(err, kv.ErrNotFound) {
			if err := tx.Delete(k); err != nil {
				return 0, 0, nil, err
			}
			continue
		}
		if err != nil {
			return 0, 0, nil, corrupt("slot", err)
		}
		sl, err := decodeSlot(b)
		if err != nil {
			return 0, 0, nil, err
		}
		switch {
		case sl.gone == 0 && sl.Expires > now, sl.gone != 0 && sl.until > now:
			err = tx.Delete(k) // of a slot that was there before
		case sl.gone != 0 || sl.Expires+mailbox.TombstoneMinutes <= now:
			err = errors.Join(tx.Delete(k), tx.Delete(idKey('s', id[:])))
		default:
			err = bury(tx, id, sl, mailbox.SlotExpired, sl.Expires)
			freed++
		}
		if err != nil {
			return 0, 0, nil, err
		}
	}
	return freed, len(keys), nil, nil
}
