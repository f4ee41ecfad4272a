package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sotto/crypto/identity"
	"sotto/node/store"
)

// Token is what lets a program read or post, and no more. A program that shows none may
// do everything: tokens bound what a bot does by mistake, and what one can do that
// gets requests to the node only through something that adds its token.
type Token struct {
	ID      string      `json:"id"`
	Name    string      `json:"name" doc:"what you call it; unique"`
	Secret  string      `json:"secret,omitempty" doc:"what the bearer shows; in the answer that made it and in no other"`
	Read    bool        `json:"read" doc:"it sees messages and what happens"`
	Post    bool        `json:"post" doc:"it sends messages"`
	Chats   []TokenChat `json:"chats,omitempty" doc:"in these conversations alone; none: in all"`
	Created time.Time   `json:"created,omitzero"`
	Expires time.Time   `json:"expires,omitzero" doc:"never if there is no such time"`
	Used    time.Time   `json:"used,omitzero" doc:"when it was last shown, to the minute"`
	Revoked bool        `json:"revoked,omitempty" doc:"in an event: it is here no more"`
}

// TokenChat is a conversation that a token is for.
type TokenChat struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty" doc:"none if the conversation is here no more"`
}

// TokenOptions are the wishes for a token.
type TokenOptions struct {
	Name       string
	Read, Post bool          // at least one
	Chats      []string      // names or ids of conversations; none: all
	Expires    time.Duration // 0: never
}

const (
	tokenPrefix = "sotto-token-" // so that one is found where it should not be
	maxTokens   = 256
	maxChats    = 256
)

// CreateToken makes a token. Its secret is in what is returned, and nowhere else: the
// node keeps a hash. It returns ErrInvalid, ErrExists if another has the name, and
// ErrNotFound or ErrAmbiguous for a conversation.
func (n *Node) CreateToken(ctx context.Context, o TokenOptions) (out Token, err error) {
	name, err := identity.NormalizeName(o.Name)
	switch {
	case err != nil:
		return out, fmt.Errorf("%w: %w", ErrInvalid, err)
	case !o.Read && !o.Post:
		return out, fmt.Errorf("%w: a token that neither reads nor posts", ErrInvalid)
	case o.Expires < 0:
		return out, fmt.Errorf("%w: a token that has expired already", ErrInvalid)
	case len(o.Chats) > maxChats:
		return out, fmt.Errorf("%w: a token for more than %d conversations", ErrInvalid, maxChats)
	}
	var random [32]byte
	rand.Read(random[:])
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	rec := store.Token{Hash: sha256.Sum256([]byte(secret)), Name: name, Read: o.Read, Post: o.Post}
	err = n.update(func(tx *store.Tx) error {
		rec.Created, rec.Chats = n.clock(), nil
		if o.Expires > 0 {
			rec.Expires = rec.Created.Add(o.Expires)
		}
		for _, ref := range o.Chats {
			c, err := n.findConversation(tx, ref)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(rec.Chats, func(g []byte) bool { return string(g) == string(c.Group) }) {
				rec.Chats = append(rec.Chats, c.Group)
			}
		}
		all, err := tx.Tokens()
		if err != nil {
			return err
		}
		if len(all) >= maxTokens {
			return fmt.Errorf("%w: there are %d tokens; revoke one", ErrInvalid, len(all))
		}
		for i := range all {
			if all[i].Name == name {
				return fmt.Errorf("%w: another token is called %q", ErrExists, name)
			}
		}
		if out, err = n.showToken(tx, &rec); err != nil {
			return err
		}
		out.Secret = secret
		return errors.Join(tx.PutToken(&rec), n.noteToken(tx, out.ID))
	})
	if err != nil {
		return Token{}, apiError(err)
	}
	return out, nil
}

// Tokens returns all tokens, those that have expired too, by name.
func (n *Node) Tokens(ctx context.Context) (out []Token, err error) {
	err = n.view(func(tx *store.Tx) error {
		all, err := tx.Tokens()
		if err != nil {
			return err
		}
		for i := range all {
			t, err := n.showToken(tx, &all[i])
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return out, apiError(err)
}

// RevokeToken makes a token useless, by its name or id. It returns ErrNotFound.
func (n *Node) RevokeToken(ctx context.Context, ref string) error {
	err := n.update(func(tx *store.Tx) error {
		all, err := tx.Tokens()
		if err != nil {
			return err
		}
		for i := range all {
			if t := &all[i]; t.Name == ref || tokenID(t) == ref {
				return errors.Join(tx.DeleteToken(t.Hash), n.noteToken(tx, tokenID(t)))
			}
		}
		return fmt.Errorf("%w: there is no token %q", ErrNotFound, ref)
	})
	return apiError(err)
}

// Bearer returns the token whose secret was shown, and notes that it was. It returns
// ErrNotFound if there is none, or it has expired.
func (n *Node) Bearer(ctx context.Context, secret string) (out Token, err error) {
	hash, now := sha256.Sum256([]byte(secret)), n.clock()
	stale := false
	err = n.view(func(tx *store.Tx) error {
		rec, err := tx.Token(hash)
		if err != nil {
			return err
		}
		if !rec.Expires.IsZero() && !now.Before(rec.Expires) {
			return store.ErrNotFound
		}
		stale = now.Sub(rec.Used) >= time.Minute
		out, err = n.showToken(tx, &rec)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return Token{}, fmt.Errorf("%w: the token is not known, was revoked or has expired", ErrNotFound)
	}
	if err != nil || !stale {
		return out, apiError(err)
	}
	err = n.update(func(tx *store.Tx) error {
		rec, err := tx.Token(hash)
		if err != nil {
			return err
		}
		rec.Used = now
		return tx.PutToken(&rec)
	})
	if err != nil { // as on a full disk, where reading goes on
		n.log.Warn("when a token was used is not noted", "err", err)
	}
	return out, nil
}

// tokenID is derived from a hash of a secret that cannot be guessed: it tells nothing.
func tokenID(t *store.Token) string { return hex.EncodeToString(t.Hash[:8]) }

func (n *Node) showToken(tx *store.Tx, t *store.Token) (Token, error) {
	out := Token{ID: tokenID(t), Name: t.Name, Read: t.Read, Post: t.Post, Created: t.Created, Expires: t.Expires, Used: t.Used}
	names := n.namer(tx)
	for _, g := range t.Chats {
		chat := TokenChat{ID: groupID(g)}
		c, err := tx.Conversation(g)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return Token{}, err
		case c.Many:
			chat.Name = c.Name
		default:
			chat.Name = names.of(c.Contact)
		}
		out.Chats = append(out.Chats, chat)
	}
	return out, nil
}

// tokenNow is a token for an event: as it is, or that it is here no more.
func (n *Node) tokenNow(tx *store.Tx, id string) (Token, error) {
	all, err := tx.Tokens()
	if err != nil {
		return Token{}, err
	}
	for i := range all {
		if tokenID(&all[i]) == id {
			return n.showToken(tx, &all[i])
		}
	}
	return Token{ID: id, Revoked: true}, nil
}

// noteToken tells that a token was made or revoked.
func (n *Node) noteToken(tx *store.Tx, id string) error {
	_, err := tx.AddEvent(&store.Event{Type: store.EventToken, Time: n.clock(), Notice: id})
	return err
}
