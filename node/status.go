package node

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"sotto/crypto/identity"
	"sotto/node/store"
	"sotto/relay/wire"
	"sotto/storage/kv"
)

// Status returns the node at a glance.
func (n *Node) Status(ctx context.Context) (Status, error) {
	out := Status{Version: Version, Name: n.device.Name, Account: n.account.ID().String(), Started: n.started.UTC(), Relays: n.relayStates()}
	out.Device = identity.DeviceID(n.device.ID).String()
	out.FreeDisk, _ = n.opt.Free(n.home)
	n.mu.Lock()
	if out.Problem = n.problem; out.Problem == "" {
		out.Problem = n.refused
	}
	n.mu.Unlock()
	err := n.view(func(tx *store.Tx) error {
		contacts, err := tx.Contacts()
		if err != nil {
			return err
		}
		for _, c := range contacts {
			out.Contacts++
			if c.State == store.ContactPending {
				out.Pending++
			}
		}
		cs, err := tx.Conversations()
		if err != nil {
			return err
		}
		messages := 0
		for i := range cs {
			core, err := coreOf(&cs[i])
			if err != nil {
				return err
			}
			out.Queued += len(core.Queue) + len(core.Flight)
			messages += int(cs[i].Messages)
			if core.Frozen != "" {
				out.Frozen++
			}
		}
		out.Search = searchStatus(tx, messages)
		out.History, err = n.showHistory(tx)
		return err
	})
	if err != nil && out.Problem == "" {
		out.Problem = err.Error()
	}
	return out, nil
}

func (n *Node) relayStates() []RelayStatus {
	own := n.homeRelay()
	n.mu.Lock()
	var all []*relay
	for _, r := range n.relays {
		all = append(all, r)
	}
	n.mu.Unlock()
	out := []RelayStatus{}
	for _, r := range all {
		s := RelayStatus{Address: r.where().String()}
		s.State, s.Words, s.RetryIn = words(r.client.State(), n.clock())
		s.Embedded = n.opt.Embedded != nil && n.opt.Embedded.Address.Key == r.where().Key
		if a, err := wire.ParseAddress(own); err == nil {
			s.Own = a.Key == r.where().Key
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Own != out[j].Own {
			return out[i].Own
		}
		return out[i].Address < out[j].Address
	})
	return out
}

// Doctor looks for what could keep the node from working. Its report names nobody.
func (n *Node) Doctor(ctx context.Context) ([]Check, error) {
	var out []Check
	add := func(name string, ok bool, detail, advice string) {
		if ok {
			advice = ""
		}
		out = append(out, Check{Name: name, OK: ok, Detail: detail, Advice: advice})
	}
	add("version", true, "sotto "+Version+", "+platform(), "")
	conversations, frozen, queued := 0, 0, 0
	oldest := time.Duration(0)
	err := n.view(func(tx *store.Tx) error {
		cs, err := tx.Conversations()
		if err != nil {
			return err
		}
		for i := range cs {
			core, err := coreOf(&cs[i])
			if err != nil {
				return err
			}
			if _, err := tx.MLS(cs[i].Group); err != nil {
				return err
			}
			conversations++
			if core.Frozen != "" {
				frozen++
			}
			waiting := slices.Clone(core.Queue)
			for _, it := range core.Flight {
				waiting = append(waiting, it.ID)
			}
			queued += len(waiting)
			for _, id := range waiting {
				if m, err := tx.Message(cs[i].Group, id); err == nil {
					oldest = max(oldest, n.clock().Sub(m.Arrived))
				}
			}
		}
		return nil
	})
	detail := "reads"
	if err != nil {
		detail = err.Error()
	}
	add("vault", err == nil, detail, "keep a copy of the home and restart the node; if it stays, restore a backup")
	free, err := n.opt.Free(n.home)
	add("disk", err == nil && free > 2*kv.DefaultReserve, fmt.Sprintf("%d MiB free", free>>20), "free some: below 64 MiB nothing is stored")
	relays := n.relayStates()
	add("relay", len(relays) > 0, fmt.Sprintf("%d in use", len(relays)), "name one with sotto config set relay ADDRESS, or start the node with its embedded relay")
	for i, r := range relays {
		kind := "a relay"
		if r.Embedded {
			kind = "the embedded relay"
		}
		add(fmt.Sprint("relay ", i+1), r.State == "connected", kind+": "+r.State, "is it running, and is this machine online? sotto status says more")
	}
	add("conversations", frozen == 0, fmt.Sprintf("%d, of which %d frozen", conversations, frozen), "sotto chat list says why")
	add("outbox", oldest < time.Hour, fmt.Sprintf("%d messages wait, the oldest for %v", queued, oldest.Round(time.Second)), "they go out by themselves when the relay can be reached")
	return out, nil
}
