package node

import (
	"context"
	"errors"
	"fmt"

	"sotto/node/setting"
	"sotto/node/store"
)

// Setting is one setting as it holds: for one conversation, or for all.
type Setting struct {
	setting.Definition
	Value        string `json:"value" doc:"what holds"`
	From         string `json:"from" enum:"default,user,conversation" doc:"where the value comes from"`
	Conversation string `json:"conversation,omitempty" doc:"id of the conversation that this is about; none: all of them"`
}

// Where a setting's value comes from.
const (
	FromDefault      = "default"
	FromUser         = "user"         // set for all conversations
	FromConversation = "conversation" // set for this one
)

// value returns what holds in a conversation: what is set for it, else for all, else
// the default. A nil group is about all.
func value(tx *store.Tx, group []byte, key string) (string, error) {
	v, _, err := valueFrom(tx, group, key)
	return v, err
}

// isOn is value of a switch.
func isOn(tx *store.Tx, group []byte, key string) (bool, error) {
	v, err := value(tx, group, key)
	return setting.On(v), err
}

func valueFrom(tx *store.Tx, group []byte, key string) (value, from string, err error) {
	d, err := setting.Lookup(key)
	if err != nil {
		return "", "", err
	}
	if len(group) > 0 && d.PerChat {
		if s, err := tx.Setting(group, key); err != nil || s.Set {
			return s.Value, FromConversation, err
		}
	}
	if s, err := tx.Setting(nil, key); err != nil || s.Set {
		return s.Value, FromUser, err
	}
	return d.Default, FromDefault, nil
}

func (n *Node) showSetting(tx *store.Tx, group []byte, key string) (out Setting, err error) {
	if out.Definition, err = setting.Lookup(key); err != nil {
		return out, err
	}
	if len(group) > 0 {
		if _, err := tx.Conversation(group); err != nil {
			return out, err
		}
		out.Conversation = groupID(group)
	}
	out.Value, out.From, err = valueFrom(tx, group, key)
	return out, err
}

// settingGroup returns the conversation that a setting is about, nil for all.
func (n *Node) settingGroup(tx *store.Tx, chat string) ([]byte, error) {
	if chat == "" {
		return nil, nil
	}
	c, err := n.findConversation(tx, chat)
	if err != nil {
		return nil, err
	}
	return c.Group, nil
}

// Config returns all settings; of those that can be set for a conversation what holds
// there if chat, its name or id, is not empty.
func (n *Node) Config(ctx context.Context, chat string) (out []Setting, err error) {
	err = n.view(func(tx *store.Tx) error {
		group, err := n.settingGroup(tx, chat)
		if err != nil {
			return err
		}
		for _, d := range setting.All() {
			if group != nil && !d.PerChat {
				continue
			}
			s, err := n.showSetting(tx, group, d.Key)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return nil
	})
	return out, apiError(err)
}

// SetConfig sets a setting, for one conversation if chat is not empty. It returns
// ErrInvalid for a key that there is not or a value that it cannot have.
func (n *Node) SetConfig(ctx context.Context, chat, key, value string) (Setting, error) {
	d, err := setting.Lookup(key)
	if err == nil {
		value, err = d.Parse(value)
	}
	if err != nil {
		return Setting{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n.changeSetting(chat, d, store.Setting{Value: value, Set: true})
}

// UnsetConfig makes a setting what it is when nothing is set: in a conversation what it
// is for all.
func (n *Node) UnsetConfig(ctx context.Context, chat, key string) (Setting, error) {
	d, err := setting.Lookup(key)
	if err != nil {
		return Setting{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n.changeSetting(chat, d, store.Setting{})
}

// changeSetting writes a setting and tells of it, unless it is so already.
func (n *Node) changeSetting(chat string, d setting.Definition, to store.Setting) (out Setting, err error) {
	err = n.update(func(tx *store.Tx) error {
		group, err := n.settingGroup(tx, chat)
		if err != nil {
			return err
		}
		if group != nil && !d.PerChat {
			return fmt.Errorf("%w: %s cannot be set for one conversation", ErrInvalid, d.Key)
		}
		old, err := tx.Setting(group, d.Key)
		if err != nil {
			return err
		}
		if old.Set != to.Set || old.Value != to.Value {
			to.Lamport, to.Device = old.Lamport+1, n.device.ID
			if err := tx.PutSetting(group, d.Key, &to); err != nil {
				return err
			}
			if err := errors.Join(n.noteSetting(tx, group, d.Key), n.shareSetting(tx, group, d.Key, &to)); err != nil {
				return err
			}
		}
		out, err = n.showSetting(tx, group, d.Key)
		return err
	})
	if err == nil && (d.Key == setting.Relay || d.Key == setting.Ticket) {
		n.hurry()
	}
	if err == nil && d.Key == setting.Keep {
		n.task("old", func(context.Context) error { return n.dropOld() })
	}
	return out, apiError(err)
}

// noteSetting tells that a setting has changed.
func (n *Node) noteSetting(tx *store.Tx, group []byte, key string) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventSetting, Time: n.clock(), Group: group, Notice: key})
	return err
}
