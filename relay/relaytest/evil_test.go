package relaytest

import (
	"testing"

	"sotto/relay/mailbox/mailboxtest"
)

// Without a script it keeps the contract, and what it forks off is the same.
func TestWithoutAScript(t *testing.T) {
	mailboxtest.TestStore(t, mailboxtest.Harness{
		Open: func(t *testing.T, c *mailboxtest.Clock) mailboxtest.Engine { return New(c.Now) },
		Reopen: func(t *testing.T, e mailboxtest.Engine, newEra bool) mailboxtest.Engine {
			other := e.(*Evil).Fork()
			if newEra {
				other.Restore()
			}
			return other
		},
	})
}
