package membox

import (
	"testing"

	"sotto/relay/mailbox/mailboxtest"
)

// A Store in memory is "reopened" by going on with it.
func TestStore(t *testing.T) {
	mailboxtest.TestStore(t, mailboxtest.Harness{
		Open: func(t *testing.T, c *mailboxtest.Clock) mailboxtest.Engine { return New(c.Now, 0) },
		Reopen: func(t *testing.T, e mailboxtest.Engine, newEra bool) mailboxtest.Engine {
			if newEra {
				e.(*Store).RenewEra()
			}
			return e
		},
	})
}
