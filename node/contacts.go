package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sotto/crypto/identity"
	"sotto/node/content"
	"sotto/node/conversation"
	"sotto/node/store"
)

// minPrefix is the length of the shortest beginning of an id that names something.
const minPrefix = 4

var contactStates = map[uint8]string{
	store.ContactPending: ContactPending, store.ContactEstablished: ContactEstablished, store.ContactFailed: ContactFailed, store.ContactRequested: ContactRequested,
}

func showContact(c *store.Contact) Contact {
	out := Contact{ID: identity.AccountID(c.Account).String(), Name: c.Name, Profile: c.Profile, State: contactStates[c.State], Reason: c.Reason, Cause: c.Cause,
		Blocked: c.Blocked, Verified: c.Verified, Changed: c.Changed, Since: c.Since.UTC()}
	if len(c.Group) > 0 {
		out.Conversation = groupID(c.Group)
	}
	return out
}

// findContact finds a contact by its name, its id or a unique beginning of that.
func findContact(tx *store.Tx, ref string) (*store.Contact, error) {
	all, err := tx.Contacts()
	if err != nil {
		return nil, err
	}
	return pickContact(all, ref)
}

// pickContact is findContact among contacts that have been read.
func pickContact(all []store.Contact, ref string) (*store.Contact, error) {
	for i := range all {
		if all[i].Name == ref || identity.AccountID(all[i].Account).String() == ref {
			return &all[i], nil
		}
	}
	var found []*store.Contact
	if len(ref) >= minPrefix {
		for i := range all {
			if strings.HasPrefix(identity.AccountID(all[i].Account).String(), strings.ToLower(ref)) {
				found = append(found, &all[i])
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("%w: there is no contact %q; sotto contact list shows them", ErrNotFound, ref)
	}
	return nil, fmt.Errorf("%w: %d contacts begin with %q", ErrAmbiguous, len(found), ref)
}

// freeName returns name, with a number behind it if another contact has it.
func freeName(tx *store.Tx, name string, but [32]byte) (string, error) {
	all, err := tx.Contacts()
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, c := range all {
		if c.Account != but {
			taken[c.Name] = true
		}
	}
	free := name
	for i := 2; taken[free]; i++ {
		free = fmt.Sprintf("%s %d", name, i)
	}
	return free, nil
}

// Contacts returns all contacts, the oldest first.
func (n *Node) Contacts(ctx context.Context) (out []Contact, err error) {
	out = []Contact{}
	err = n.view(func(tx *store.Tx) error {
		all, err := tx.Contacts()
		for i := range all {
			out = append(out, showContact(&all[i]))
		}
		return err
	})
	return out, apiError(err)
}

// Contact returns one contact, by name, id or a unique beginning of its id.
func (n *Node) Contact(ctx context.Context, ref string) (out Contact, err error) {
	err = n.view(func(tx *store.Tx) error {
		c, err := findContact(tx, ref)
		if err == nil {
			out = showContact(c)
		}
		return err
	})
	return out, apiError(err)
}

// changeContact changes a contact and tells of it.
func (n *Node) changeContact(ref string, change func(tx *store.Tx, c *store.Contact) error) (out Contact, err error) {
	err = n.update(func(tx *store.Tx) error {
		c, err := findContact(tx, ref)
		if err != nil {
			return err
		}
		if err := change(tx, c); err != nil {
			return err
		}
		out = showContact(c)
		return errors.Join(tx.PutContact(c), n.noteContact(tx, c.Account))
	})
	return out, apiError(err)
}

// Rename gives a contact another name. It returns ErrExists if one has it.
func (n *Node) Rename(ctx context.Context, ref, name string) (Contact, error) {
	name, err := identity.NormalizeName(name)
	if err != nil {
		return Contact{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n.changeContact(ref, func(tx *store.Tx, c *store.Contact) error {
		free, err := freeName(tx, name, c.Account)
		if err != nil {
			return err
		}
		if free != name {
			return fmt.Errorf("%w: another contact is called %q", ErrExists, name)
		}
		c.Name = name
		return nil
	})
}

// Block hides what a contact sends and refuses to send to it, or ends that. The
// contact is not told.
func (n *Node) Block(ctx context.Context, ref string, blocked bool) (Contact, error) {
	out, err := n.changeContact(ref, func(tx *store.Tx, c *store.Contact) error {
		if c.Blocked = blocked; !blocked {
			return nil
		}
		// With what it holds it could still add this device to groups.
		return dropBundles(tx, c.Account)
	})
	if err == nil && !blocked && out.Conversation != "" {
		n.takeUp(groupOf(out.Conversation))
	}
	return out, err
}

// SafetyNumber returns the number that a contact sees too if nobody stands between.
func (n *Node) SafetyNumber(ctx context.Context, ref string) (out SafetyNumber, err error) {
	err = n.view(func(tx *store.Tx) error { out, err = n.safetyNumber(tx, ref); return err })
	return out, apiError(err)
}

func (n *Node) safetyNumber(tx *store.Tx, ref string) (SafetyNumber, error) {
	c, err := findContact(tx, ref)
	if err != nil {
		return SafetyNumber{}, err
	}
	if len(c.Log) == 0 {
		return SafetyNumber{}, fmt.Errorf("%w: %s has no safety number yet: %s", ErrNotFound, c.Name, contactWaits(c))
	}
	log, err := parseLog(c.Log)
	if err != nil {
		return SafetyNumber{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return SafetyNumber{Contact: identity.AccountID(c.Account).String(), Name: c.Name,
		Number: identity.SafetyNumber(n.account.Party(), log.Party()), Code: identity.NewSafetyCode(n.account.now(), log).Text(),
		Verified: c.Verified, Changed: c.Changed}, nil
}

// SetVerified notes that the number has been compared: it must be the one that
// SafetyNumber returns, spaces aside, or the safety code that the contact shows. It
// returns ErrNotTrusted if it is another, and ErrInvalid for a damaged code.
func (n *Node) SetVerified(ctx context.Context, ref, number string) (out SafetyNumber, err error) {
	_, err = n.changeContact(ref, func(tx *store.Tx, c *store.Contact) error {
		if out, err = n.safetyNumber(tx, ref); err != nil {
			return err
		}
		if identity.IsSafetyCode(number) {
			if err := n.checkSafetyCode(c, number); err != nil {
				return err
			}
		} else if strings.Join(strings.Fields(number), "") != out.Number {
			return fmt.Errorf("%w: the numbers differ: somebody may stand between you and %s", ErrNotTrusted, c.Name)
		}
		c.Verified, c.Changed = true, false
		out.Verified, out.Changed = true, false
		return nil
	})
	return out, err
}

func (n *Node) checkSafetyCode(c *store.Contact, text string) error {
	code, err := identity.ParseSafetyCode(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	log, err := parseLog(c.Log)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := code.Check(n.account.now(), log); err != nil {
		return fmt.Errorf("%w: %w: this is not what %s should show; somebody may stand between you", ErrNotTrusted, err, c.Name)
	}
	return nil
}

// Unverify takes SetVerified back.
func (n *Node) Unverify(ctx context.Context, ref string) (out SafetyNumber, err error) {
	_, err = n.changeContact(ref, func(tx *store.Tx, c *store.Contact) error {
		c.Verified, c.Changed = false, false
		if out, err = n.safetyNumber(tx, ref); err != nil {
			return err
		}
		out.Verified, out.Changed = false, false
		return nil
	})
	return out, err
}

// takeLog gives a contact a newer account log. Who was verified by another key is
// so no longer, and is shown as changed until compared again.
func takeLog(c *store.Contact, log *identity.Log) error {
	old, err := parseLog(c.Log)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if c.Verified && old.Party() != log.Party() {
		c.Verified, c.Changed = false, true
	}
	c.Log = entries(log)
	return nil
}

func coreOf(c *store.Conversation) (*conversation.Core, error) {
	core, err := conversation.ParseCore(c.Core)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return core, nil
}

// waitingGroup is where messages wait for a conversation that is not there yet: a
// partition of the vault named by the contact.
func waitingGroup(account [32]byte) []byte { return append([]byte("waiting"), account[:]...) }

// sendLater keeps a message for a contact whose conversation does not exist yet. It
// is made anew, with an id of that conversation, when it does.
func (n *Node) sendLater(account [32]byte, c *content.Message) (out Message, err error) {
	group := waitingGroup(account)
	err = n.update(func(tx *store.Tx) error {
		now := n.clock()
		m := &store.Message{ID: random32(), Mine: true, From: n.account.ID(), Sent: now, Arrived: now, State: store.MessageQueued, Kind: store.KindText, Text: c.Text, Forwarded: c.Forwarded}
		m.ID[0] = 1
		out = n.namer(tx).message(group, m)
		return tx.PutMessage(group, m)
	})
	return out, apiError(err)
}

// takeWaiting gives a new conversation the messages that waited for it.
func (t *turn) takeWaiting(account [32]byte) error {
	group := waitingGroup(account)
	var waiting []store.Message
	for m, err := range t.tx.Messages(group, [32]byte{}, false) {
		if err != nil {
			return err
		}
		waiting = append(waiting, m)
	}
	for i := range waiting {
		c := content.New(content.Text, t.common())
		c.Text, c.Forwarded = waiting[i].Text, waiting[i].Forwarded
		if _, err := t.say(c); err != nil {
			return err
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	return t.tx.DeleteConversation(group)
}
