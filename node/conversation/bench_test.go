package conversation

import (
	"encoding/binary"
	"testing"
	"time"

	"sotto/node/content"
	"sotto/relay/mailbox"
)

// BenchmarkCoreInputs gives a core what a busy conversation does: messages of one's own,
// sealed and stored, others' messages between them, and a commit at every hundred.
func BenchmarkCoreInputs(b *testing.B) {
	c := &Core{Open: true, Updated: time.Unix(0, 0)}
	now := time.Unix(1, 0)
	seq, n := mailbox.Seq(0), uint64(0)
	at := func() mailbox.Mark { seq++; return mailbox.Mark{Era: 1, Seq: seq} }
	name := func() (h mailbox.Hash) { n++; binary.BigEndian.PutUint64(h[:], n); return h }
	b.ReportAllocs()
	for i := 0; i < b.N; {
		step := func(in Input) []Effect {
			i++
			return c.Step(now, in)
		}
		now = now.Add(time.Millisecond)
		switch {
		case n%100 == 99: // another's commit, and a message of its epoch before
			step(Read{At: at(), Hash: name(), Kind: mailbox.Commit, Meta: true, Found: Valid})
		case n%3 == 0:
			step(Read{At: at(), Hash: name(), Kind: mailbox.Message, Found: Fresh, ID: content.ID(name())})
		default:
			id := content.ID(name())
			for todo := step(Send{ID: id}); len(todo) > 0; todo = todo[1:] {
				switch e := todo[0].(type) {
				case Seal:
					h := name()
					todo = append(todo, step(Sealed{ID: e.ID, Hash: h})...)
					todo = append(todo, step(Stored{Hash: h, At: at()})...)
				case Stage:
					h := name()
					todo = append(todo, step(Staged{Hash: h})...)
					todo = append(todo, step(Read{At: at(), Hash: h, Kind: mailbox.Commit, Meta: true, Found: Own})...)
				}
			}
		}
	}
	if len(c.Queue)+len(c.Flight) > 0 || c.Frozen != "" || c.Epoch == 0 && b.N > 1000 {
		b.Fatalf("the core got stuck: %d queued, %d on their way, %q", len(c.Queue), len(c.Flight), c.Frozen)
	}
}
