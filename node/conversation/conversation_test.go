package conversation

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/node/content"
	"sotto/relay/mailbox"
)

var rewrite = flag.Bool("rewrite", false, "write what happened into the scripts; read the diff before you commit it")

// TestScripts plays testdata/*.txt: a line is an input, the lines indented
// below it are its effects. Seal and Stage are answered at once, as the node
// does: the entry of message m sealed in epoch 3 is m@3, a commit out of epoch 3
// is commit@3. After each line the state is written and read back.
func TestScripts(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			p := newPlayer(t)
			for lines := bufio.NewScanner(bytes.NewReader(want)); lines.Scan(); {
				line := lines.Text()
				if strings.HasPrefix(line, "\t") {
					continue
				}
				fmt.Fprintln(&got, line)
				for _, e := range p.play(line) {
					fmt.Fprintf(&got, "\t%v\n", e)
				}
				back, err := ParseCore(p.core.Append(nil))
				if err != nil {
					t.Fatalf("after %q: %v", line, err)
				}
				p.core = back
			}
			if *rewrite {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got.Bytes(), want)
			}
		})
	}
}

type player struct {
	t    *testing.T
	core *Core
	now  time.Time
	seq  mailbox.Seq
	moot []ChangeID
}

func newPlayer(t *testing.T) *player {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &player{t: t, now: now, core: &Core{Epoch: 1, Open: true, Updated: now}}
}

func msg(name string) (id content.ID)       { id[0] = 1; copy(id[1:], name); return id }
func hash(name string) (h mailbox.Hash)     { copy(h[:], name); return h }
func mark(seq mailbox.Seq) (m mailbox.Mark) { return mailbox.Mark{Era: 7, Seq: seq} }

// step answers Seal and Stage like the node.
func (p *player) step(in Input) (out []Effect) {
	for _, e := range p.core.Step(p.now, in) {
		out = append(out, e)
		switch e := e.(type) {
		case Seal:
			out = append(out, p.step(Sealed{e.ID, hash(fmt.Sprintf("%s@%d", short(e.ID[1:]), p.core.Epoch))})...)
		case Stage:
			staged := Staged{Hash: hash(fmt.Sprintf("commit@%d", p.core.Epoch))}
			for _, id := range e.Changes {
				if slices.Contains(p.moot, id) {
					staged.Moot = append(staged.Moot, id)
				} else {
					staged.Changes = append(staged.Changes, id)
				}
			}
			if len(staged.Changes) == 0 && !e.Update {
				out = append(out, p.step(Unstaged{staged.Moot})...)
			} else {
				out = append(out, p.step(staged)...)
			}
		case Propose:
			out = append(out, p.step(Proposed{hash(fmt.Sprintf("leave@%d", p.core.Epoch))})...)
		}
	}
	return out
}

func (p *player) play(line string) []Effect {
	p.t.Helper()
	f := strings.Fields(line)
	if len(f) == 0 || f[0] == "#" {
		return nil
	}
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	num := func(i int) (n int) { fmt.Sscan(arg(i), &n); return n }
	read := func(kind mailbox.Kind, found Found, h string, meta bool, note string) []Effect {
		p.seq++
		return p.step(Read{At: mark(p.seq), Hash: hash(h), Kind: kind, Found: found, ID: msg(h), Meta: meta, Note: note})
	}
	switch f[0] {
	case "closed":
		p.core.Open = false
		return nil
	case "wanted":
		p.core.Wanted = true
		return p.step(Tick{})
	case "after":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = p.now.Add(d)
		return p.step(Tick{})
	case "later":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			p.t.Fatal(err)
		}
		p.core.Wanted, p.core.Later = true, p.now.Add(d)
		if arg(2) == "aside" {
			p.core.Aside, p.core.Updated = true, time.Time{}
		}
		return p.step(Tick{})
	case "change":
		return p.step(Change{ChangeID(num(1))})
	case "moot":
		p.moot = append(p.moot, ChangeID(num(1)))
		return nil
	case "leave":
		return p.step(Leave{})
	case "send":
		return p.step(Send{msg(arg(1))})
	case "send-many": // n messages, without their effects
		for i := range num(1) {
			p.step(Send{msg(fmt.Sprint("m", i))})
		}
		return nil
	case "store-all": // and read them
		for len(p.core.Flight) > 0 {
			p.seq++
			p.core.Step(p.now, Read{At: mark(p.seq), Hash: p.core.Flight[0].Hash, Kind: mailbox.Message, Found: Own})
		}
		return p.step(Tick{})
	case "stored":
		return p.step(Stored{hash(arg(1)), mark(mailbox.Seq(num(2)))})
	case "lost":
		return p.step(Refused{Hash: hash(arg(1)), Why: LostRace})
	case "stale":
		return p.step(Refused{Hash: hash(arg(1)), Why: Stale})
	case "busy":
		return p.step(Refused{Hash: hash(arg(1)), Why: Later})
	case "no-room":
		return p.step(Refused{Hash: hash(arg(1)), Why: NoRoom, Reason: "quota"})
	case "refused":
		return p.step(Refused{Hash: hash(arg(1)), Why: RefusedForGood, Reason: strings.Join(f[2:], " ")})
	case "read":
		switch arg(1) {
		case "own":
			kind := mailbox.Message
			if strings.HasPrefix(arg(2), "commit") {
				kind = mailbox.Commit
			}
			return read(kind, Own, arg(2), kind == mailbox.Commit, "")
		case "fresh":
			return read(mailbox.Message, Fresh, arg(2), false, "")
		case "duplicate":
			return read(mailbox.Message, Duplicate, arg(2), false, "")
		case "valid":
			return read(mailbox.Commit, Valid, arg(2), true, "")
		case "ending":
			return read(mailbox.Commit, Ending, arg(2), true, "")
		case "parting":
			p.seq++
			return p.step(Read{At: mark(p.seq), Hash: hash(arg(2)), Kind: mailbox.Message, Found: Parting, Spread: 3 * time.Second})
		case "invalid":
			return read(mailbox.Commit, Invalid, arg(2), false, "garbage")
		case "burned":
			return read(mailbox.Commit, Invalid, arg(2), true, "wrong capabilities")
		}
	case "gap":
		p.seq += mailbox.Seq(num(1))
		fence := p.core.Fence
		if arg(2) == "commit" {
			fence = mark(p.seq)
		}
		return p.step(Gap{At: mark(p.seq), Fence: fence, Count: uint64(num(1)), Cause: mailbox.Expired})
	}
	p.t.Fatalf("unknown line %q", line)
	return nil
}

// Whatever the relay answers in whatever order, a message of ours is placed or
// failed exactly once, messages are placed in the order they were typed, and
// nothing is sealed while a commit is undecided.
func TestEveryMessageEndsOnce(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := newPlayer(t)
		var posted []entry     // at the relay's door, unanswered
		var log []entry        // stored
		var gen, read int      // of the relay; how far we have read
		var fence mailbox.Mark // of the relay
		ended := map[content.ID]int{}
		var placed []string
		var expect mailbox.Mark

		var handle func(es []Effect)
		step := func(in Input) { handle(p.core.Step(p.now, in)) }
		handle = func(es []Effect) {
			for _, e := range es {
				switch e := e.(type) {
				case Seal:
					if p.core.Undecided() {
						t.Fatalf("seed %d: sealed while a commit is undecided", seed)
					}
					step(Sealed{e.ID, hash(fmt.Sprintf("%s@%d", short(e.ID[1:]), p.core.Epoch))})
				case Stage:
					expect = e.Expect
					step(Staged{Hash: hash(fmt.Sprintf("commit@%d@%d", p.core.Epoch, e.Expect.Seq))})
				case Post:
					posted = append(posted, entry{e.Hash, strings.HasPrefix(short(e.Hash[:]), "commit")})
				case Forget:
					posted = slices.DeleteFunc(posted, func(x entry) bool { return x.hash == e.Hash })
				case Place:
					ended[e.ID]++
					placed = append(placed, short(e.ID[1:]))
				case Freeze:
					t.Fatalf("seed %d: froze: %s", seed, e.Reason)
				}
			}
		}
		itemGen := func(h mailbox.Hash) (g int) {
			s := strings.Split(short(h[:]), "@")
			fmt.Sscan(s[1], &g)
			return g - 1
		}
		sent := 0
		for range 2000 {
			switch rng.IntN(6) {
			case 0:
				if sent < 250 {
					step(Send{msg(fmt.Sprintf("%04d", sent))})
					sent++
				}
			case 1: // the relay takes the first in line
				if len(posted) == 0 {
					continue
				}
				x := posted[0]
				if at := indexHash(log, x.hash); at >= 0 { // a repeat
					step(Stored{x.hash, mark(mailbox.Seq(at + 1))})
					posted = slices.DeleteFunc(posted, func(y entry) bool { return y.hash == x.hash })
					continue
				}
				switch {
				case itemGen(x.hash) != gen:
					step(Refused{Hash: x.hash, Why: Stale})
				case x.commit && expect != fence:
					step(Refused{Hash: x.hash, Why: LostRace})
				case rng.IntN(4) == 0:
					step(Refused{Hash: x.hash, Why: Later})
					continue
				default:
					log = append(log, x)
					if x.commit {
						gen++
						fence = mark(mailbox.Seq(len(log)))
					}
					if rng.IntN(3) == 0 {
						continue // stored, and the receipt is lost
					}
					step(Stored{x.hash, mark(mailbox.Seq(len(log)))})
				}
				posted = slices.DeleteFunc(posted, func(y entry) bool { return y.hash == x.hash })
			case 2, 3: // we read on
				if read == len(log) {
					continue
				}
				x := log[read]
				read++
				in := Read{At: mark(mailbox.Seq(read)), Hash: x.hash, Kind: mailbox.Message, Found: Own}
				if x.commit {
					in.Kind, in.Meta = mailbox.Commit, true
					if strings.HasPrefix(short(x.hash[:]), "commit-theirs") {
						in.Found = Valid
					}
				}
				step(in)
			case 4: // another member commits
				if rng.IntN(20) == 0 {
					log = append(log, entry{hash(fmt.Sprint("commit-theirs", len(log))), true})
					gen++
					fence = mark(mailbox.Seq(len(log)))
				}
			case 5:
				p.now = p.now.Add(time.Duration(rng.IntN(int(40 * time.Second))))
				step(Tick{})
			}
		}
		// At last the relay takes everything, and we read everything.
		for round := 0; len(posted) > 0 || read < len(log) || len(p.core.Queue) > 0; round++ {
			if round > 5000 {
				t.Fatalf("seed %d: stuck with %d queued, %d in flight, commit %v", seed, len(p.core.Queue), len(p.core.Flight), p.core.Undecided())
			}
			if len(posted) > 0 {
				x := posted[0]
				posted = posted[1:]
				if at := indexHash(log, x.hash); at >= 0 {
					step(Stored{x.hash, mark(mailbox.Seq(at + 1))})
				} else if itemGen(x.hash) != gen {
					step(Refused{Hash: x.hash, Why: Stale})
				} else if x.commit && expect != fence {
					step(Refused{Hash: x.hash, Why: LostRace})
				} else {
					log = append(log, x)
					if x.commit {
						gen++
						fence = mark(mailbox.Seq(len(log)))
					}
					step(Stored{x.hash, mark(mailbox.Seq(len(log)))})
				}
			}
			for read < len(log) {
				x := log[read]
				read++
				in := Read{At: mark(mailbox.Seq(read)), Hash: x.hash, Kind: mailbox.Message, Found: Own}
				if x.commit {
					in.Kind, in.Meta = mailbox.Commit, true
					if strings.HasPrefix(short(x.hash[:]), "commit-theirs") {
						in.Found = Valid
					}
				}
				step(in)
			}
			p.now = p.now.Add(time.Minute)
			step(Tick{})
		}
		for i := range sent {
			if n := ended[msg(fmt.Sprintf("%04d", i))]; n != 1 {
				t.Fatalf("seed %d: message %d ended %d times", seed, i, n)
			}
		}
		inLog := 0
		for _, x := range log {
			if !x.commit {
				if want := fmt.Sprintf("%04d", inLog); !strings.HasPrefix(short(x.hash[:]), want) {
					t.Fatalf("seed %d: place %d in the mailbox holds %s", seed, inLog, short(x.hash[:]))
				}
				inLog++
			}
		}
		if inLog != sent {
			t.Fatalf("seed %d: the mailbox holds %d messages, %d were sent", seed, inLog, sent)
		}
	}
}

type entry struct {
	hash   mailbox.Hash
	commit bool
}

func indexHash(log []entry, h mailbox.Hash) int {
	return slices.IndexFunc(log, func(x entry) bool { return x.hash == h })
}

func TestCoreIsReadAsWritten(t *testing.T) {
	now := time.UnixMilli(1764000000000).UTC()
	c := &Core{Epoch: 9, Gen: 8, Cursor: mark(3), Chain: hash("chain"), Fence: mark(2), Open: true, Frozen: "why", Over: true, Wanted: true, Later: now, Called: now.Add(time.Hour),
		Changes: []ChangeID{3, 4}, Committing: []ChangeID{3}, Leaving: true, Parting: hash("p"),
		Queue: []content.ID{msg("a"), msg("b")}, Flight: []Item{{msg("c"), hash("h"), 7, true}}, Commit: hash("k"), CommitMark: mark(4),
		Tries: 3, Retry: now, Sent: 99, Updated: now.Add(time.Second), Active: now.Add(2 * time.Second)}
	back, err := ParseCore(c.Append(nil))
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("read back as %+v, %v", back, err)
	}
	b := c.Append(nil)
	for i := range b {
		if _, err := ParseCore(b[:i]); err == nil {
			t.Fatalf("a state cut off at byte %d was read", i)
		}
	}
}

func BenchmarkCore(b *testing.B) {
	c := &Core{Epoch: 1, Open: true, Updated: time.Unix(0, 0)}
	now := time.Unix(1, 0)
	for i := 0; b.Loop(); i++ {
		c.Sent = 0
		c.Step(now, Send{msg("a")})
		c.Step(now, Sealed{msg("a"), hash("h")})
		c.Step(now, Stored{hash("h"), mark(mailbox.Seq(i))})
	}
}
