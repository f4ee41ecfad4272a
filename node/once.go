package node

import (
	"encoding/hex"
	"errors"
	"fmt"

	"sotto/node/store"
)

// MaxKey is the longest key of a message in bytes.
const MaxKey = 256

func (m *NewMessage) checkKey() error {
	switch {
	case len(m.Key) > MaxKey:
		return fmt.Errorf("%w: a key of more than %d bytes", ErrInvalid, MaxKey)
	case m.Key != "" && !m.At.IsZero():
		return fmt.Errorf("%w: a key together with a time", ErrInvalid)
	}
	return nil
}

// sentBefore reports whether a message was sent with a key, and shows it. It need not be
// here any more. The empty key is none.
func (t *turn) sentBefore(key string, out *Message) (bool, error) {
	if key == "" {
		return false, nil
	}
	id, was, err := t.tx.Sent(t.o.group, key)
	if err != nil || !was {
		return false, err
	}
	m, err := t.tx.Message(t.o.group, id)
	switch {
	case err == nil:
		*out = t.n.namer(t.tx).message(t.o.group, &m)
	case errors.Is(err, store.ErrNotFound):
		*out = Message{ID: hex.EncodeToString(id[:]), Conversation: groupID(t.o.group), Mine: true, Kind: "removed"}
	default:
		return false, err
	}
	return true, nil
}

// noteSent notes with which key a message was sent.
func (t *turn) noteSent(key string, id [32]byte) error {
	if key == "" {
		return nil
	}
	return t.tx.PutSent(t.o.group, key, id)
}
