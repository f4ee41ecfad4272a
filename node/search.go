package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/node/store"
	"sotto/storage/search"
)

// Hit is a message that was found.
type Hit struct {
	Message    Message        `json:"message"`
	Highlights []search.Range `json:"highlights" nullable:"false" doc:"what was looked for, in bytes of the message's text"`
}

// SearchPage is some hits, the newest first.
type SearchPage struct {
	Hits    []Hit  `json:"hits" nullable:"false"`
	Next    string `json:"next,omitempty" doc:"cursor of the next page, which there may be though this one has few hits or none; absent if there is none"`
	Partial bool   `json:"partial,omitempty" doc:"the index is still being made: older messages are not found yet"`
}

// SearchStatus says how far the index is while it is being made.
type SearchStatus struct {
	Indexed int `json:"indexed" doc:"messages that can be found"`
	Of      int `json:"of" doc:"messages in all conversations, about"`
}

// Search looks for messages (spec/search.md says how a query is written), in one
// conversation or, if in is empty, in all. It returns ErrInvalid, ErrNotFound and
// ErrDamaged, after which the index is made anew.
func (n *Node) Search(ctx context.Context, query, in, cursor string, limit int) (out SearchPage, err error) {
	out.Hits = []Hit{}
	q, err := search.Parse(query, time.Local)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	err = n.view(func(tx *store.Tx) error {
		var has, not []string
		filters := q.Filters
		if in != "" {
			filters = append([]search.Filter{{Key: search.FilterIn, Value: in}}, filters...)
		}
		for _, f := range filters {
			tag, err := n.searchTag(tx, f)
			if err != nil {
				return err
			}
			if f.Not {
				not = append(not, tag)
			} else {
				has = append(has, tag)
			}
		}
		found, next, err := tx.Search(q, has, not, cursor, limit, ctx.Err)
		if err != nil {
			return err
		}
		stats, err := tx.IndexStats()
		if err != nil {
			return err
		}
		out.Next, out.Partial = next, stats.Filling
		names := n.namer(tx)
		for i := range found {
			f := &found[i]
			out.Hits = append(out.Hits, Hit{names.message(f.Group, &f.Message), append([]search.Range{}, q.Highlights(f.Message.Text)...)})
		}
		return nil
	})
	switch {
	case errors.Is(err, search.ErrCursor):
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	case errors.Is(err, search.ErrDamaged):
		err = fmt.Errorf("%w: %w; it is being made anew", ErrDamaged, err)
		if again := n.doubt(n.db.Index.Reset(n.db.Vault)); again != nil {
			err = errors.Join(err, again)
		}
		n.keepIndex()
	}
	return out, apiError(err)
}

func (n *Node) searchTag(tx *store.Tx, f search.Filter) (string, error) {
	switch f.Key {
	case search.FilterIn:
		c, err := n.findConversation(tx, f.Value)
		if err != nil {
			return "", err
		}
		return store.TagIn(c.Group), nil
	case search.FilterFrom:
		if f.Value == "me" || f.Value == n.device.Name {
			return store.TagFrom(n.account.ID()), nil
		}
		c, err := findContact(tx, f.Value)
		if err != nil {
			return "", err
		}
		return store.TagFrom(c.Account), nil
	}
	return store.TagHas(f.Value), nil
}

// keepIndex fills the index with what was there before it, and tidies it when there is
// something to tidy, until the node stops.
func (n *Node) keepIndex() {
	if n.byHand {
		return // a task without end; nothing but search needs it
	}
	n.task("index", func(ctx context.Context) error {
		for {
			err := n.db.Index.Fill(ctx, n.db.Vault, n.db.Unindexed)
			if err == nil {
				err = n.db.Index.Maintain(ctx, n.db.Vault, false)
			}
			if errors.Is(err, search.ErrDamaged) {
				n.log.Warn("the search index is damaged, and made anew", "err", err)
				err = errors.Join(n.db.Index.Reset(n.db.Vault), err)
			}
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-n.db.Index.Wanted():
			}
		}
	})
}

// cleanIndex makes unreadable what the index still holds of messages that are gone.
func (n *Node) cleanIndex() {
	n.task("clean index", func(ctx context.Context) error {
		return n.db.Index.Maintain(ctx, n.db.Vault, true)
	})
}

// searchStatus is nil when the index is whole.
func searchStatus(tx *store.Tx, messages int) *SearchStatus {
	stats, err := tx.IndexStats()
	if err != nil || !stats.Filling {
		return nil
	}
	return &SearchStatus{Indexed: stats.Docs, Of: messages}
}

// Around returns up to limit messages of a conversation, the oldest first, with the one
// that id names in their middle.
func (n *Node) Around(ctx context.Context, ref, id string, limit int) (out []Message, err error) {
	var middle Message
	err = n.view(func(tx *store.Tx) error {
		c, err := n.findConversation(tx, ref)
		if err != nil {
			return err
		}
		m, err := findMessage(tx, c.Group, id)
		if err != nil {
			return err
		}
		middle = n.namer(tx).message(c.Group, &m)
		return nil
	})
	if err != nil {
		return nil, apiError(err)
	}
	if half := (limit - 1) / 2; half > 0 {
		if out, err = n.Messages(ctx, ref, middle.ID, "", half); err != nil {
			return nil, err
		}
	}
	out = append(out, middle)
	if rest := limit - len(out); rest > 0 {
		after, err := n.Messages(ctx, ref, "", middle.ID, rest)
		if err != nil {
			return nil, err
		}
		out = append(out, after...)
	}
	return out, nil
}
