package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"sotto/node"
	"sotto/node/store"
	"sotto/storage/vault"
)

// library is how many messages a new device is given.
const library = 100_000

// scribe is somebody with a contact and a long history with it.
type scribe struct {
	*person
	newest string // text of the newest message
}

// inscribe makes one: what would take hours to send is written into the vault, where it
// stands as if it had been.
func inscribe(ctx context.Context, l *lab) (*scribe, error) {
	return once(l.run, "scribe", func() (*scribe, error) {
		r, err := l.startRelay(ctx, l.run, "relay-link")
		if err != nil {
			return nil, err
		}
		var s scope
		var people [2]*person
		defer s.close()
		for i, name := range []string{"Ada", "Bea"} {
			if err := l.sotto(ctx, l.path(name), "init", "--name", name, "--relay", r.address.String()); err != nil {
				return nil, err
			}
			if people[i], err = l.startNode(ctx, &s, l.path(name), "--embedded-relay=false"); err != nil {
				return nil, err
			}
		}
		in, err := people[0].client.Invite(ctx, node.InviteOptions{Name: "Bea"})
		if err != nil {
			return nil, err
		}
		if _, err := people[1].client.Accept(ctx, in.Link, "Ada"); err != nil {
			return nil, err
		}
		if err := people[0].established(ctx, "Bea"); err != nil {
			return nil, err
		}
		c, err := people[0].client.Conversation(ctx, "Bea")
		if err != nil {
			return nil, err
		}
		s.close() // both stop
		text := ""
		if text, err = fill(l.path("Ada"), c.ID); err != nil {
			return nil, fmt.Errorf("write %d messages: %w", library, err)
		}
		p, err := l.startNode(ctx, l.run, l.path("Ada"), "--embedded-relay=false")
		return &scribe{p, text}, err
	})
}

// fill writes messages of a year into a conversation of a home that no node uses.
func fill(home, conversation string) (newest string, err error) {
	group, err := hex.DecodeString(conversation)
	if err != nil {
		return "", err
	}
	v, err := vault.Open(filepath.Join(home, "vault"), vault.Unlock{Passphrase: []byte(passphrase)}, vault.Config{Schema: store.Schema, MaxTx: 4 << 20})
	if err != nil {
		return "", err
	}
	db := store.DB{Vault: v}
	defer func() { err = errors.Join(err, db.Close()) }()
	year := time.Now().Add(-365 * 24 * time.Hour)
	const step = 500
	for at := 0; at < library; at += step {
		err := db.Update(func(tx *store.Tx) error {
			rec, err := tx.Conversation(group)
			if err != nil {
				return err
			}
			for i := at; i < at+step; i++ {
				newest = fmt.Sprintf("message %d, and a few words more, as many as people write to each other", i)
				when := year.Add(time.Duration(i) * 5 * time.Minute)
				m := &store.Message{Seq: 1000 + uint64(i), Mine: i%2 == 0, From: rec.Contact, Sent: when, Arrived: when, State: store.MessageReceived, Kind: store.KindText, Text: newest}
				copy(m.ID[:], fmt.Appendf([]byte{1}, "%031d", i))
				if err := tx.PutMessage(group, m); err != nil {
					return err
				}
			}
			rec.Messages += step
			return tx.PutConversation(&rec)
		})
		if err != nil {
			return "", err
		}
	}
	return newest, nil
}

// linking is how long a round's new device took, in seconds.
type linking struct{ usable, complete float64 }

// linkDevice links one more device and starts it; time counts from its start.
func linkDevice(ctx context.Context, l *lab) (linking, error) {
	return once(l.round, "linking", func() (out linking, err error) {
		s, err := inscribe(ctx, l)
		if err != nil {
			return out, err
		}
		link, err := s.client.LinkDevice(ctx)
		if err != nil {
			return out, err
		}
		home := l.path(fmt.Sprintf("device-%d", time.Now().UnixNano()))
		entered := make(chan error, 1)
		go func() { entered <- l.sotto(ctx, home, "device", "link", "--enter", link.Link) }()
		for link.State != node.LinkCompare {
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return out, err
			}
			if link, err = s.client.Link(ctx); err != nil {
				return out, err
			}
			select {
			case err := <-entered:
				return out, fmt.Errorf("the new device: %w", errors.Join(err, errors.New("it has ended early")))
			default:
			}
		}
		if _, err := s.client.ConfirmLink(ctx, link.Digits, bytes.Clone([]byte(passphrase))); err != nil {
			return out, err
		}
		if err := <-entered; err != nil {
			return out, err
		}
		p, err := l.startNode(ctx, l.round, home, "--embedded-relay=false")
		if err != nil {
			return out, err
		}
		for {
			took := time.Since(p.started)
			if took > 10*patience {
				return out, fmt.Errorf("the history has not come in %v", took)
			}
			if out.usable == 0 {
				ms, err := p.client.Messages(ctx, "Bea", "", "", 1)
				if err == nil && len(ms) == 1 && ms[0].Text == s.newest {
					out.usable = took.Seconds()
				}
			}
			st, err := p.client.Status(ctx)
			if err != nil {
				return out, err
			}
			if st.History != nil && st.History.Done {
				if st.History.Imported < library {
					return out, fmt.Errorf("%d messages have come, not %d", st.History.Imported, library)
				}
				out.complete = took.Seconds()
				return out, nil
			}
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return out, err
			}
		}
	})
}

func linkComplete(ctx context.Context, l *lab) (sample, error) {
	t, err := linkDevice(ctx, l)
	return sample{value: t.complete}, err
}

func linkUsable(ctx context.Context, l *lab) (sample, error) {
	t, err := linkDevice(ctx, l)
	return sample{value: t.usable}, err
}
