// Package mailboxtest is the suite that every engine of package mailbox passes:
// [TestStore] plays each promise of the contract, [TestModel] random lives of a
// store beside a model.
package mailboxtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"sotto/relay/mailbox"
)

// Engine is what is tested.
type Engine interface {
	mailbox.Store
	mailbox.Slots
}

// Clock is a clock that the suite moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts in 2026.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(m mailbox.Minute) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Duration(m) * time.Minute)
}

// Harness makes engines.
type Harness struct {
	// Open makes an empty engine, closed by t.Cleanup, that does not sweep by itself.
	Open func(t *testing.T, c *Clock) Engine
	// Reopen closes an engine and opens what it stored, in a new era if asked.
	Reopen func(t *testing.T, e Engine, newEra bool) Engine
	// Doubt makes the next write of an engine fail, after it happened or before. It is
	// nil for an engine whose writes cannot fail.
	Doubt func(e Engine, happened bool)
}

const day = 24 * 60

// Terms are ordinary ones.
func Terms() mailbox.Terms {
	return mailbox.Terms{Keep: 30 * day, MaxEntries: 1000, MaxBytes: 10 << 20, Full: mailbox.Refuse, Meta: []byte("caps 0")}
}

type world struct {
	*testing.T
	h   Harness
	e   Engine
	c   *Clock
	ctx context.Context
	id  mailbox.ID
}

func (w *world) create(n byte, t mailbox.Terms) mailbox.ID {
	w.Helper()
	id := mailbox.ID{n, 0xff}
	if err := w.e.Create(w.ctx, id, t); err != nil {
		w.Fatalf("create: %v", err)
	}
	return id
}

func (w *world) msg(text string, gen mailbox.Gen) mailbox.Deposit {
	return mailbox.Deposit{Mailbox: w.id, Kind: mailbox.Message, Gen: gen, Payload: []byte(text)}
}

func (w *world) commit(text, meta string, gen mailbox.Gen, expect mailbox.Mark) mailbox.Deposit {
	return mailbox.Deposit{Mailbox: w.id, Kind: mailbox.Commit, Gen: gen, Expect: expect, Meta: []byte(meta), Payload: []byte(text)}
}

func (w *world) put(d mailbox.Deposit) (mailbox.Receipt, error) {
	out := w.e.Put(w.ctx, []mailbox.Deposit{d})
	return out[0].Receipt, out[0].Err
}

func (w *world) must(d mailbox.Deposit) mailbox.Receipt {
	w.Helper()
	r, err := w.put(d)
	if err != nil {
		w.Fatalf("put %s: %v", d.Payload, err)
	}
	return r
}

func (w *world) want(err, want error, what string) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (w *world) fence() mailbox.Mark {
	w.Helper()
	st, err := w.e.State(w.ctx, w.id)
	if err != nil {
		w.Fatal(err)
	}
	return st.Head.Commit
}

// readAll reads everything after a mark in pages of the given size, and checks that
// each position is covered once and that the chain leads to every page's end.
func (w *world) readAll(after mailbox.Mark, chain mailbox.Hash, pages int) (texts []string, lost []mailbox.Span) {
	w.Helper()
	for {
		p, err := w.e.Read(w.ctx, w.id, after, mailbox.Limit{Entries: pages})
		if err != nil {
			w.Fatalf("read after %v: %v", after, err)
		}
		chain = w.checkPage(p, after, chain)
		for _, e := range p.Entries {
			texts = append(texts, string(e.Payload))
		}
		lost = append(lost, p.Lost...)
		after = p.End.Mark()
		if !p.More {
			return texts, lost
		}
		if len(p.Entries)+len(p.Lost) == 0 {
			w.Fatal("an empty page says that there is more")
		}
	}
}

func (w *world) checkPage(p mailbox.Page, after mailbox.Mark, chain mailbox.Hash) mailbox.Hash {
	w.Helper()
	at, entries, lost := after.Seq, p.Entries, p.Lost
	for len(entries)+len(lost) > 0 {
		switch {
		case len(lost) > 0 && len(entries) < len(p.Entries):
			w.Fatalf("a page after %d has a span behind an entry: %+v", after.Seq, p)
		case len(entries) > 0 && entries[0].Seq == at+1:
			e := entries[0]
			chain = mailbox.NextChain(chain, e.Era, e.Seq, e.Minute, e.Hash())
			at, entries = e.Seq, entries[1:]
		case len(lost) > 0 && lost[0].From == at+1 && lost[0].End.Seq >= lost[0].From:
			at, chain, lost = lost[0].End.Seq, lost[0].End.Chain, lost[1:]
		default:
			w.Fatalf("a page after %d does not go on after %d: %+v", after.Seq, at, p)
		}
	}
	if p.End.Seq != at || p.End.Mailbox != w.id {
		w.Fatalf("a page after %d covers up to %d and ends at %d", after.Seq, at, p.End.Seq)
	}
	if p.End.Chain != chain {
		w.Fatalf("the chain does not lead to the page's end at %d", at)
	}
	return chain
}

// TestStore plays every promise.
func TestStore(t *testing.T, h Harness) {
	for _, tt := range []struct {
		name string
		run  func(w *world)
	}{
		{"positions are dense and chained", positions},
		{"a deposit is known by its hash", idempotency},
		{"the generation is compared in the write", generations},
		{"no entry slips behind the end of its generation", generationRace},
		{"a generation is kept as long as an entry of it", generationLife},
		{"one winner at the fence", fenceRace},
		{"the fence outlives the commit", fenceOutlives},
		{"expiry", expiry},
		{"a full mailbox refuses", quotaRefuse},
		{"a full mailbox drops its oldest messages", quotaDrop},
		{"many small entries make room for a large one", quotaManySmall},
		{"more spans than a page holds", manySpans},
		{"what is in doubt is asked again", doubt},
		{"trim", trim},
		{"marks in and around what is gone", marks},
		{"terms", terms},
		{"delete", deletion},
		{"many mailboxes in one call", many},
		{"a batch is signed once", batches},
		{"limits of a page", limits},
		{"listen", listen},
		{"concurrent deposits", concurrent},
		{"slots", slots},
		{"a slot is taken once", slotTake},
		{"slots end", slotEnds},
		{"what is closed stays", reopening},
		{"a new era", eras},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewClock()
			w := &world{T: t, h: h, c: c, e: h.Open(t, c), ctx: t.Context()}
			w.id = w.create(1, Terms())
			tt.run(w)
		})
	}
}

func (w *world) start() (mailbox.Mark, mailbox.Hash) {
	return mailbox.Mark{}, mailbox.FirstChain(w.id)
}

func positions(w *world) {
	chain := mailbox.FirstChain(w.id)
	st, err := w.e.State(w.ctx, w.id)
	if err != nil || st.Head.Seq != 0 || st.Head.Chain != chain || st.First != 1 || st.Era != w.e.Era() || st.Era == 0 {
		w.Fatalf("a new mailbox stands at %+v, %v", st, err)
	}
	for i := 1; i <= 50; i++ {
		d := w.msg(fmt.Sprint("m", i), 0)
		r := w.must(d)
		chain = mailbox.NextChain(chain, w.e.Era(), mailbox.Seq(i), r.Minute, d.Hash())
		want := mailbox.Head{Mailbox: w.id, Era: w.e.Era(), Seq: mailbox.Seq(i), Chain: chain}
		if r.Head != want || r.Again || r.Minute != mailbox.MinuteOf(w.c.Now()) {
			w.Fatalf("receipt %+v, want head %+v", r, want)
		}
		w.c.Advance(1)
	}
	for _, pages := range []int{1, 7, 50, 1000} {
		after, chain := w.start()
		if texts, lost := w.readAll(after, chain, pages); len(texts) != 50 || texts[49] != "m50" || len(lost) != 0 {
			w.Errorf("pages of %d: %d entries, lost %v", pages, len(texts), lost)
		}
	}
	for _, d := range []mailbox.Deposit{w.msg("", 0), {Mailbox: w.id, Kind: 3, Payload: []byte("x")}, {Mailbox: w.id, Kind: mailbox.Message, Meta: []byte("m"), Payload: []byte("x")}} {
		_, err := w.put(d)
		w.want(err, mailbox.ErrBadDeposit, "a deposit that is none")
	}
	big := w.msg("", 0)
	big.Payload = make([]byte, mailbox.MaxPayload+1)
	_, err = w.put(big)
	w.want(err, mailbox.ErrTooLarge, "one byte too large")
	big.Payload = big.Payload[:mailbox.MaxPayload]
	w.must(big)
	_, err = w.put(mailbox.Deposit{Mailbox: mailbox.ID{9}, Kind: mailbox.Message, Payload: []byte("x")})
	w.want(err, mailbox.ErrNotFound, "an unknown mailbox")
}

func idempotency(w *world) {
	a := w.must(w.msg("a", 0))
	w.must(w.msg("b", 0))
	again := w.must(w.msg("a", 0))
	if !again.Again || again.Head != a.Head || again.Minute != a.Minute || len(again.Batch.Heads) != 1 || again.Batch.Heads[0] != a.Head {
		w.Errorf("a repeat was answered %+v, want the head of %+v and Again", again, a)
	}
	// A repeat is known whatever the generation has become, also a commit's.
	c := w.commit("c", "caps 1", 0, mailbox.Mark{})
	r := w.must(c)
	if again := w.must(c); !again.Again || again.Head != r.Head {
		w.Errorf("a repeated commit was answered %+v", again)
	}
	if again := w.must(w.msg("a", 0)); !again.Again {
		w.Error("a message of the old generation was stored twice")
	}
	out := w.e.Put(w.ctx, []mailbox.Deposit{w.msg("d", 1), w.msg("d", 1)})
	if out[0].Err != nil || out[1].Err != nil || out[0].Receipt.Again || !out[1].Receipt.Again || out[0].Receipt.Head != out[1].Receipt.Head {
		w.Errorf("twice in one call: %+v", out)
	}
	// It is forgotten with the entry.
	w.e.Trim(w.ctx, w.id, 1)
	_, err := w.put(w.msg("a", 0))
	w.want(err, mailbox.ErrStale, "a repeat of what was trimmed, of an old generation")
}

func generations(w *world) {
	w.must(w.msg("a", 0))
	_, err := w.put(w.msg("early", 1))
	w.want(err, mailbox.ErrStale, "a generation that has not come")
	c := w.must(w.commit("c1", "caps 1", 0, mailbox.Mark{}))
	installed := c.Head
	_, err = w.put(w.msg("late", 0))
	w.want(err, mailbox.ErrStale, "a generation that is over")
	_, err = w.put(w.commit("late", "caps 1'", 0, c.Head.Commit))
	w.want(err, mailbox.ErrStale, "a commit of a generation that is over")
	// A commit without meta moves the fence alone.
	c2 := w.must(w.commit("c2", "", 1, c.Head.Commit))
	if c2.Head.Commit != (mailbox.Mark{Era: w.e.Era(), Seq: 3}) {
		w.Errorf("the fence is at %+v", c2.Head.Commit)
	}
	w.must(w.msg("b", 1))
	st, _ := w.e.State(w.ctx, w.id)
	if st.Gen != 1 || st.Head.Commit.Seq != 3 || st.Head.Seq != 4 || st.Entries != 4 {
		w.Errorf("state is %+v", st)
	}
	for gen, want := range []mailbox.Generation{{Gen: 0, Meta: []byte("caps 0")}, {Gen: 1, Head: installed, Meta: []byte("caps 1")}} {
		if g, err := w.e.Generation(w.ctx, w.id, mailbox.Gen(gen)); err != nil || !reflect.DeepEqual(g, want) {
			w.Errorf("generation %d is %+v, %v", gen, g, err)
		}
	}
	_, err = w.e.Generation(w.ctx, w.id, 2)
	w.want(err, mailbox.ErrNotFound, "a generation that has not come")
	p, err := w.e.Read(w.ctx, w.id, mailbox.Mark{}, mailbox.Limit{})
	if err != nil || string(p.Entries[1].Meta) != "caps 1" || p.Entries[1].Kind != mailbox.Commit || p.Entries[1].Gen != 0 || p.Entries[3].Gen != 1 {
		w.Errorf("read back: %+v, %v", p.Entries, err)
	}
}

func generationLife(w *world) {
	w.must(w.msg("a", 0))
	w.must(w.commit("c1", "caps 1", 0, w.fence()))
	w.must(w.msg("b", 1))
	w.must(w.commit("c2", "caps 2", 1, w.fence()))
	w.must(w.msg("c", 2))
	has := func(want ...bool) {
		w.Helper()
		for g, want := range want {
			if _, err := w.e.Generation(w.ctx, w.id, mailbox.Gen(g)); (err == nil) != want {
				w.Errorf("generation %d: %v, want there: %v", g, err, want)
			}
		}
	}
	has(true, true, true)
	w.c.Advance(31 * day)
	w.e.Sweep(w.ctx)
	has(true, true, true) // the commits are still held
	w.e.Trim(w.ctx, w.id, 2)
	has(false, true, true)
	w.c.Advance(150 * day)
	w.e.Sweep(w.ctx)
	has(false, false, true) // the newest stays
	st, _ := w.e.State(w.ctx, w.id)
	if st.Entries != 0 || st.Bytes != 0 || st.First != 6 || st.Gen != 2 || st.Head.Commit.Seq != 4 {
		w.Errorf("state is %+v", st)
	}
	w.must(w.msg("d", 2))
}

func fenceRace(w *world) {
	w.must(w.msg("a", 0))
	const racers = 32
	var wg sync.WaitGroup
	outs := make([]mailbox.Outcome, racers)
	for i := range racers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			outs[i] = w.e.Put(w.ctx, []mailbox.Deposit{w.commit(fmt.Sprint("racer ", i), "", 0, mailbox.Mark{})})[0]
		}()
	}
	wg.Wait()
	var won []mailbox.Head
	for _, o := range outs {
		if o.Err == nil {
			won = append(won, o.Receipt.Head)
		}
	}
	if len(won) != 1 {
		w.Fatalf("%d commits won", len(won))
	}
	for _, o := range outs {
		var c *mailbox.ConflictError
		if o.Err != nil && (!errors.As(o.Err, &c) || c.Head.Commit != won[0].Commit || c.Head.Mailbox != w.id) {
			w.Errorf("a loser was told %v", o.Err)
		}
	}
	_, err := w.put(w.commit("wrong era", "", 0, mailbox.Mark{Era: 1, Seq: won[0].Seq}))
	w.want(err, mailbox.ErrConflict, "the right seq in another era")
	w.must(w.commit("next", "", 0, won[0].Commit))
}

func fenceOutlives(w *world) {
	c := w.must(w.commit("c", "", 0, mailbox.Mark{}))
	w.e.Trim(w.ctx, w.id, c.Head.Seq)
	_, err := w.put(w.commit("d", "", 0, mailbox.Mark{}))
	w.want(err, mailbox.ErrConflict, "a commit after the last one was trimmed")
	d := w.must(w.commit("d", "", 0, c.Head.Commit))
	w.c.Advance(181 * day)
	w.e.Sweep(w.ctx)
	_, err = w.put(w.commit("e", "", 0, mailbox.Mark{}))
	w.want(err, mailbox.ErrConflict, "a commit after the last one expired")
	w.must(w.commit("e", "", 0, d.Head.Commit))
}

func expiry(w *world) {
	w.must(w.msg("a", 0))
	w.must(w.commit("c", "", 0, mailbox.Mark{}))
	w.c.Advance(10 * day)
	w.must(w.msg("b", 0))
	w.c.Advance(20*day - 1)
	check := func(what, wantTexts string, wantLost ...[2]mailbox.Seq) {
		w.Helper()
		after, chain := w.start()
		texts, lost := w.readAll(after, chain, 0)
		if fmt.Sprint(texts) != wantTexts || len(lost) != len(wantLost) {
			w.Fatalf("%s: %v, lost %+v", what, texts, lost)
		}
		for i, s := range lost {
			if s.From != wantLost[i][0] || s.End.Seq != wantLost[i][1] || s.Cause != mailbox.Expired {
				w.Errorf("%s: span %+v, want %v", what, s, wantLost[i])
			}
		}
	}
	check("a minute before", "[a c b]")
	w.c.Advance(1)
	check("expired and not swept", "[c b]", [2]mailbox.Seq{1, 1})
	if r := w.must(w.msg("a", 0)); r.Again || r.Head.Seq != 4 {
		w.Errorf("an expired entry was taken for the repeat of one: %+v", r)
	}
	if n, err := w.e.Sweep(w.ctx); n != 1 || err != nil {
		w.Errorf("sweep freed %d, %v", n, err)
	}
	check("swept", "[c b a]", [2]mailbox.Seq{1, 1})
	if r := w.must(w.msg("a", 0)); !r.Again || r.Head.Seq != 4 {
		w.Errorf("the sweep forgot the newer entry of the same hash: %+v", r)
	}
	w.c.Advance(150 * day)
	w.e.Sweep(w.ctx)
	check("everything gone", "[]", [2]mailbox.Seq{1, 4})
	if n, err := w.e.Sweep(w.ctx); n != 0 || err != nil {
		w.Errorf("a second sweep freed %d, %v", n, err)
	}
	if r := w.must(w.msg("z", 0)); r.Head.Seq != 5 {
		w.Errorf("a seq was used again: %+v", r)
	}
}

func quotaRefuse(w *world) {
	tm := Terms()
	tm.MaxEntries, tm.MaxBytes = 5, mailbox.MaxPayload
	w.id = w.create(2, tm)
	for i := range 5 {
		w.must(w.msg(fmt.Sprint(i), 0))
	}
	_, err := w.put(w.msg("six", 0))
	w.want(err, mailbox.ErrQuota, "one entry too many")
	if r := w.must(w.msg("0", 0)); !r.Again {
		w.Error("a repeat at the quota is not known")
	}
	w.e.Trim(w.ctx, w.id, 1)
	w.must(w.msg("six", 0))
	w.e.Trim(w.ctx, w.id, 100)
	big := w.msg("", 0)
	big.Payload = make([]byte, mailbox.MaxPayload-1)
	w.must(big)
	_, err = w.put(w.msg("xx", 0))
	w.want(err, mailbox.ErrQuota, "one byte too many")
	w.must(w.msg("x", 0))
	// What has expired makes room without a sweep.
	w.c.Advance(31 * day)
	w.must(w.msg("xx", 0))
}

func quotaDrop(w *world) {
	tm := Terms()
	tm.MaxEntries, tm.Full = 5, mailbox.DropOldest
	w.id = w.create(2, tm)
	w.must(w.msg("a", 0))
	c := w.must(w.commit("c1", "", 0, mailbox.Mark{}))
	for _, s := range []string{"b", "c", "d", "e", "f"} {
		w.must(w.msg(s, 0))
	}
	after, chain := w.start()
	texts, lost := w.readAll(after, chain, 2)
	if fmt.Sprint(texts) != "[c1 c d e f]" || len(lost) != 2 || lost[0].Cause != mailbox.Quota || lost[0].End.Seq != 1 || lost[1].From != 3 || lost[1].End.Seq != 3 {
		w.Fatalf("after dropping: %v, lost %+v", texts, lost)
	}
	for i := range 4 {
		c = w.must(w.commit(fmt.Sprint("k", i), "", 0, c.Head.Commit))
	}
	_, err := w.put(w.msg("no room", 0))
	w.want(err, mailbox.ErrQuota, "a mailbox full of commits")
	if texts, _ := w.readAll(after, chain, 0); fmt.Sprint(texts) != "[c1 k0 k1 k2 k3]" {
		w.Errorf("a refused deposit took something away: %v", texts)
	}
}

func generationRace(w *world) {
	// Within one call: whatever was right when it was made.
	out := w.e.Put(w.ctx, []mailbox.Deposit{w.msg("a", 0), w.commit("c1", "caps 1", 0, mailbox.Mark{}), w.msg("late", 0), w.msg("b", 1)})
	for i, want := range []error{nil, nil, mailbox.ErrStale, nil} {
		w.want(out[i].Err, want, fmt.Sprint("deposit ", i))
	}
	// Among many calls.
	fence := out[1].Receipt.Head.Mark()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 50 {
				o := w.e.Put(w.ctx, []mailbox.Deposit{w.msg(fmt.Sprint(i, ".", j), 1)})[0]
				if errors.Is(o.Err, mailbox.ErrStale) {
					return
				}
				if o.Err != nil {
					w.Error(o.Err)
				}
			}
		}()
	}
	end := w.must(w.commit("c2", "caps 2", 1, fence)).Head.Seq
	wg.Wait()
	w.must(w.msg("z", 2))
	p, err := w.e.Read(w.ctx, w.id, mailbox.Mark{}, mailbox.Limit{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range p.Entries {
		if (e.Gen <= 1) != (e.Seq <= end) {
			w.Errorf("an entry of generation %d stands at %d; generation 1 ends at %d", e.Gen, e.Seq, end)
		}
	}
}

func quotaManySmall(w *world) {
	tm := Terms()
	tm.MaxEntries, tm.MaxBytes, tm.Full = 10_000, 2*mailbox.MaxPayload, mailbox.DropOldest
	w.id = w.create(2, tm)
	c := w.must(w.commit("c1", "", 0, mailbox.Mark{}))
	var ds []mailbox.Deposit
	const small = 3000
	for i := range small {
		ds = append(ds, w.msg(fmt.Sprintf("%04d", i), 0))
	}
	for _, o := range w.e.Put(w.ctx, ds) {
		w.want(o.Err, nil, "a small entry")
	}
	big := func(n byte) mailbox.Deposit {
		d := w.msg("", 0)
		d.Payload = bytes.Repeat([]byte{n}, mailbox.MaxPayload)
		return d
	}
	w.must(big(1))
	if r := w.must(big(2)); r.Head.Seq != small+3 {
		w.Errorf("stored at %+v", r.Head)
	}
	st, err := w.e.State(w.ctx, w.id)
	if err != nil || st.Bytes > tm.MaxBytes || st.Entries != 2 || st.First != 1 {
		w.Errorf("state is %+v, %v: want the commit and one large entry", st, err)
	}
	after, chain := w.start()
	texts, lost := w.readAll(after, chain, 0)
	if len(texts) != 2 || texts[0] != "c1" || len(lost) != 1 || lost[0].Cause != mailbox.Quota {
		w.Errorf("%d entries, lost %+v", len(texts), lost)
	}
	// What can not be taken costs nothing, however much there is to drop.
	for range 2 {
		d := w.commit("", "", 0, c.Head.Commit)
		d.Payload = bytes.Repeat([]byte{byte(c.Head.Seq)}, mailbox.MaxPayload)
		if c.Head.Seq == 1 {
			c = w.must(d)
			w.must(w.msg("stays", 0))
			continue
		}
		_, err = w.put(d)
		w.want(err, mailbox.ErrQuota, "a commit for which commits would have to go")
	}
	if texts, _ := w.readAll(after, chain, 0); texts[len(texts)-1] != "stays" {
		w.Error("a refused deposit took something away")
	}
}

func manySpans(w *world) {
	tm := Terms()
	tm.MaxEntries = 10_000
	w.id = w.create(2, tm)
	const n = 2*mailbox.MaxSpans + 100
	var ds []mailbox.Deposit
	fence := mailbox.Mark{}
	for i := range n {
		ds = append(ds, w.msg(fmt.Sprint("m", i), 0), w.commit(fmt.Sprint("c", i), "", 0, fence))
		fence = mailbox.Mark{Era: w.e.Era(), Seq: mailbox.Seq(2*i + 2)}
	}
	for i, o := range w.e.Put(w.ctx, ds) {
		w.want(o.Err, nil, fmt.Sprint("deposit ", i))
	}
	w.c.Advance(31 * day)
	for _, how := range []string{"expired", "swept"} {
		for after := (mailbox.Mark{}); ; {
			p, err := w.e.Read(w.ctx, w.id, after, mailbox.Limit{})
			if err != nil || len(p.Lost) > mailbox.MaxSpans {
				w.Fatalf("%s: a page of %d spans, %v", how, len(p.Lost), err)
			}
			if after = p.End.Mark(); !p.More {
				break
			}
		}
		after, chain := w.start()
		if texts, lost := w.readAll(after, chain, 0); len(texts) != n || len(lost) != n {
			w.Errorf("%s: %d entries and %d spans, want %d of each", how, len(texts), len(lost), n)
		}
		w.e.Sweep(w.ctx)
	}
}

// doubt: a call that failed, and one that failed but happened, are both ErrUnknown.
// The same call again tells what there is, and nothing has been done twice.
func doubt(w *world) {
	if w.h.Doubt == nil {
		w.Skip("this engine's writes cannot fail")
	}
	for _, happened := range []bool{false, true} {
		name := map[bool]string{false: "failed: ", true: "failed but happened: "}[happened]
		var box mailbox.ID
		var id mailbox.SlotID
		var s mailbox.Slot
		if id, s = w.slot(10); happened {
			id, s = w.slot(11)
		}
		box = mailbox.ID{20, id[0]}
		w.id = box
		tag := mailbox.Tag{id[0]}
		a, c := w.msg("a", 0), w.commit("c", "caps 1", 0, mailbox.Mark{})
		put := func(ds ...mailbox.Deposit) func() error {
			return func() error {
				var errs []error
				for i, o := range w.e.Put(w.ctx, ds) {
					if errs = append(errs, o.Err); o.Err == nil && o.Receipt.Again != happened {
						w.Errorf("%sdeposit %d is said to be stored before: %v", name, i, o.Receipt.Again)
					}
				}
				return errors.Join(errs...)
			}
		}
		for _, call := range []struct {
			name string
			do   func() error
		}{
			{"create", func() error { return w.e.Create(w.ctx, box, Terms()) }},
			{"put", put(a)},
			{"put of a commit", put(c, w.msg("b", 1))},
			{"trim", func() error { return w.e.Trim(w.ctx, box, 1) }},
			{"create slot", func() error { return w.e.CreateSlot(w.ctx, id, s) }},
			{"set slot", func() error { return w.e.SetSlot(w.ctx, id, 1, []byte("two")) }},
			{"take slot", func() error { return take(w, id, tag) }},
			{"revoke slot", func() error { return w.e.RevokeSlot(w.ctx, id) }},
		} {
			w.h.Doubt(w.e, happened)
			w.want(call.do(), mailbox.ErrUnknown, name+call.name)
			w.want(call.do(), nil, name+call.name+" again")
		}
		st, err := w.e.State(w.ctx, box)
		if err != nil || st.Head.Seq != 3 || st.Entries != 2 || st.Gen != 1 || st.First != 2 {
			w.Errorf("%sstate is %+v, %v", name, st, err)
		}
		// What is refused in a batch whose fate is not known is in doubt as well.
		w.h.Doubt(w.e, happened)
		ds := []mailbox.Deposit{w.msg("d", 1), w.msg("e", 7)}
		for i, o := range w.e.Put(w.ctx, ds) {
			w.want(o.Err, mailbox.ErrUnknown, fmt.Sprint(name, "outcome ", i))
		}
		out := w.e.Put(w.ctx, ds)
		w.want(out[0].Err, nil, name+"the first again")
		w.want(out[1].Err, mailbox.ErrStale, name+"the second again")
		w.h.Doubt(w.e, happened)
		w.want(w.e.Delete(w.ctx, box), mailbox.ErrUnknown, name+"delete")
		w.want(w.e.Delete(w.ctx, box), nil, name+"delete again")
		w.want(w.e.Create(w.ctx, box, Terms()), mailbox.ErrGone, name+"create of what was deleted")
	}
}

func trim(w *world) {
	for i := range 10 {
		w.must(w.msg(fmt.Sprint(i), 0))
	}
	for _, tt := range []struct {
		through mailbox.Seq
		want    string
	}{{0, "[0 1 2 3 4 5 6 7 8 9]"}, {3, "[3 4 5 6 7 8 9]"}, {2, "[3 4 5 6 7 8 9]"}, {3, "[3 4 5 6 7 8 9]"}, {9, "[9]"}, {1 << 40, "[]"}} {
		if err := w.e.Trim(w.ctx, w.id, tt.through); err != nil {
			w.Fatal(err)
		}
		after, chain := w.start()
		texts, lost := w.readAll(after, chain, 0)
		if fmt.Sprint(texts) != tt.want || len(lost) > 1 || len(lost) == 1 && lost[0].Cause != mailbox.Trimmed {
			w.Errorf("trimmed through %d: %v, lost %+v; want %s", tt.through, texts, lost, tt.want)
		}
	}
	w.want(w.e.Trim(w.ctx, mailbox.ID{9}, 1), mailbox.ErrNotFound, "trim of an unknown mailbox")
	if r := w.must(w.msg("x", 0)); r.Head.Seq != 11 {
		w.Errorf("a seq was used again: %d", r.Head.Seq)
	}
}

func marks(w *world) {
	era := w.e.Era()
	for i := range 10 {
		w.must(w.msg(fmt.Sprint(i), 0))
	}
	w.e.Trim(w.ctx, w.id, 6)
	for _, seq := range []mailbox.Seq{1, 5, 6, 7, 10} {
		p, err := w.e.Read(w.ctx, w.id, mailbox.Mark{Era: era, Seq: seq}, mailbox.Limit{})
		if err != nil {
			w.Errorf("read after %d: %v", seq, err)
			continue
		}
		want := 4
		if seq >= 6 {
			want = 10 - int(seq)
		}
		if len(p.Entries) != want || p.End.Seq != 10 || p.More {
			w.Errorf("read after %d: %d entries up to %d", seq, len(p.Entries), p.End.Seq)
		}
		if seq < 6 && (len(p.Lost) != 1 || p.Lost[0].From != seq+1 || p.Lost[0].End.Seq != 6) {
			w.Errorf("read after %d: lost %+v", seq, p.Lost)
		}
	}
	p, err := w.e.Read(w.ctx, w.id, mailbox.Mark{Era: era, Seq: 2}, mailbox.Limit{Through: 4})
	if err != nil || p.End.Seq < 4 || p.End.Seq > 6 || p.End.Chain == (mailbox.Hash{}) || !p.More {
		w.Errorf("a page within a span ends at %+v, %v: its chain value must be known", p.End, err)
	}
	for _, m := range []mailbox.Mark{{Era: era, Seq: 11}, {Era: era + 1, Seq: 3}, {Era: era + 1, Seq: 8}, {Seq: 8}} {
		_, err := w.e.Read(w.ctx, w.id, m, mailbox.Limit{})
		w.want(err, mailbox.ErrEra, fmt.Sprintf("read after %+v", m))
	}
}

func terms(w *world) {
	if err := w.e.Create(w.ctx, w.id, Terms()); err != nil {
		w.Errorf("a repeated create: %v", err)
	}
	other := Terms()
	other.Meta = []byte("other")
	w.want(w.e.Create(w.ctx, w.id, other), mailbox.ErrTerms, "create with other terms")
	for name, change := range map[string]func(*mailbox.Terms){
		"no term":         func(t *mailbox.Terms) { t.Keep = 0 },
		"too long a term": func(t *mailbox.Terms) { t.Keep = mailbox.MaxMinutes + 1 },
		"no entries":      func(t *mailbox.Terms) { t.MaxEntries = 0 },
		"too few bytes":   func(t *mailbox.Terms) { t.MaxBytes = mailbox.MaxPayload - 1 },
		"unknown rule":    func(t *mailbox.Terms) { t.Full = 3 },
		"too much meta":   func(t *mailbox.Terms) { t.Meta = make([]byte, mailbox.MaxMeta+1) },
	} {
		tm := Terms()
		change(&tm)
		w.want(w.e.Create(w.ctx, mailbox.ID{77}, tm), mailbox.ErrTerms, name)
	}
	_, err := w.e.State(w.ctx, mailbox.ID{77})
	w.want(err, mailbox.ErrNotFound, "state of what was not created")
}

func deletion(w *world) {
	for i := range 300 {
		w.must(w.msg(fmt.Sprint(i), 0))
	}
	if err := w.e.Delete(w.ctx, w.id); err != nil {
		w.Fatal(err)
	}
	if err := w.e.Delete(w.ctx, w.id); err != nil {
		w.Errorf("a second delete: %v", err)
	}
	_, err := w.put(w.msg("x", 0))
	w.want(err, mailbox.ErrNotFound, "put")
	_, err = w.e.Read(w.ctx, w.id, mailbox.Mark{}, mailbox.Limit{})
	w.want(err, mailbox.ErrNotFound, "read")
	_, err = w.e.State(w.ctx, w.id)
	w.want(err, mailbox.ErrNotFound, "state")
	_, err = w.e.Generation(w.ctx, w.id, 0)
	w.want(err, mailbox.ErrNotFound, "generation")
	w.want(w.e.Trim(w.ctx, w.id, 1), mailbox.ErrNotFound, "trim")
	w.want(w.e.Create(w.ctx, w.id, Terms()), mailbox.ErrGone, "create")
	w.want(w.e.Delete(w.ctx, mailbox.ID{9}), mailbox.ErrNotFound, "delete of an unknown mailbox")
	w.c.Advance(179 * day)
	w.e.Sweep(w.ctx)
	w.want(w.e.Create(w.ctx, w.id, Terms()), mailbox.ErrGone, "create before the tombstone ends")
	w.c.Advance(2 * day)
	w.e.Sweep(w.ctx)
	if err := w.e.Create(w.ctx, w.id, Terms()); err != nil {
		w.Errorf("create after the tombstone ended: %v", err)
	}
	if r := w.must(w.msg("5", 0)); r.Head.Seq != 1 || r.Again {
		w.Errorf("something of the old mailbox is left: %+v", r)
	}
}

func many(w *world) {
	a, b := w.create(10, Terms()), w.create(11, Terms())
	at := func(id mailbox.ID, s string) mailbox.Deposit {
		return mailbox.Deposit{Mailbox: id, Kind: mailbox.Message, Payload: []byte(s)}
	}
	out := w.e.Put(w.ctx, []mailbox.Deposit{at(a, "1"), at(b, "1"), at(mailbox.ID{99}, "x"), at(a, "2"), at(a, ""), {Mailbox: b, Kind: mailbox.Message, Gen: 4, Payload: []byte("x")}, at(b, "2"), at(a, "3")})
	want := []struct {
		seq mailbox.Seq
		err error
	}{{1, nil}, {1, nil}, {0, mailbox.ErrNotFound}, {2, nil}, {0, mailbox.ErrBadDeposit}, {0, mailbox.ErrStale}, {2, nil}, {3, nil}}
	for i, o := range out {
		if !errors.Is(o.Err, want[i].err) || o.Err == nil && o.Receipt.Head.Seq != want[i].seq {
			w.Errorf("outcome %d is %+v, want %+v", i, o, want[i])
		}
	}
	if out := w.e.Put(w.ctx, nil); len(out) != 0 {
		w.Error("nothing has an outcome")
	}
}

func batches(w *world) {
	ds := make([]mailbox.Deposit, 20)
	for i := range ds {
		ds[i] = w.msg(fmt.Sprint(i), 0)
	}
	calls := 0
	for i, o := range w.e.Put(w.ctx, ds) {
		found := false
		for _, h := range o.Receipt.Batch.Heads {
			found = found || h == o.Receipt.Head
		}
		if !found {
			w.Errorf("receipt %d is not among the heads of its batch", i)
		}
		if got := o.Receipt.Batch.Sign(func(h []mailbox.Head) any { calls++; return len(h) }); got != 20 {
			w.Errorf("the batch of receipt %d has %v heads, want 20", i, got)
		}
	}
	if calls != 1 {
		w.Errorf("signed %d times", calls)
	}
}

func limits(w *world) {
	for i := range 10 {
		d := w.msg("", 0)
		d.Payload = bytes.Repeat([]byte{byte(i)}, 1000)
		w.must(d)
	}
	for _, tt := range []struct {
		limit mailbox.Limit
		want  int
		more  bool
	}{
		{mailbox.Limit{}, 10, false}, {mailbox.Limit{Entries: 3}, 3, true}, {mailbox.Limit{Entries: 10}, 10, false},
		{mailbox.Limit{Bytes: 1}, 1, true}, {mailbox.Limit{Bytes: 2500}, 3, true}, {mailbox.Limit{Through: 4}, 4, true},
		{mailbox.Limit{Through: 10}, 10, false}, {mailbox.Limit{Through: 99}, 10, false},
	} {
		p, err := w.e.Read(w.ctx, w.id, mailbox.Mark{}, tt.limit)
		if err != nil || len(p.Entries) != tt.want || p.More != tt.more {
			w.Errorf("%+v: %d entries, more %v, %v; want %d, %v", tt.limit, len(p.Entries), p.More, err, tt.want, tt.more)
		}
	}
	p, _ := w.e.Read(w.ctx, w.id, mailbox.Mark{}, mailbox.Limit{Entries: 1})
	p.Entries[0].Payload[0] = 99 // the page is the caller's
	if p, _ = w.e.Read(w.ctx, w.id, mailbox.Mark{}, mailbox.Limit{Entries: 1}); p.Entries[0].Payload[0] != 0 {
		w.Error("writing to a page changed the store")
	}
}

func listen(w *world) {
	rings := make(chan mailbox.ID, 100)
	stop := w.e.Listen(func(id mailbox.ID) { rings <- id })
	w.must(w.msg("a", 0))
	if id := <-rings; id != w.id {
		w.Errorf("rang for %v", id)
	}
	w.e.Trim(w.ctx, w.id, 1)
	<-rings
	for len(rings) > 0 {
		<-rings
	}
	stop()
	w.must(w.msg("b", 0))
	if len(rings) > 0 {
		w.Error("rang after stop")
	}
}

func concurrent(w *world) {
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			last := mailbox.Seq(0)
			for j := range each {
				o := w.e.Put(w.ctx, []mailbox.Deposit{w.msg(fmt.Sprint(i, ".", j), 0)})[0]
				if o.Err != nil || o.Receipt.Head.Seq <= last {
					w.Errorf("writer %d: %+v after %d", i, o, last)
					return
				}
				last = o.Receipt.Head.Seq
			}
		}()
	}
	wg.Wait()
	after, chain := w.start()
	texts, _ := w.readAll(after, chain, 0)
	seen := map[string]bool{}
	for _, s := range texts {
		seen[s] = true
	}
	if len(texts) != writers*each || len(seen) != len(texts) {
		w.Errorf("%d entries, %d different", len(texts), len(seen))
	}
}

func (w *world) slot(n byte) (mailbox.SlotID, mailbox.Slot) {
	return mailbox.SlotID{n}, mailbox.Slot{Owner: [32]byte{1}, Read: [32]byte{2}, Once: true, Expires: mailbox.MinuteOf(w.c.Now()) + 7*day, Value: []byte("value")}
}

func slots(w *world) {
	id, s := w.slot(1)
	_, err := w.e.Slot(w.ctx, id)
	w.want(err, mailbox.ErrNotFound, "a slot that is not there")
	_, _, err = w.e.Keys(w.ctx, id)
	w.want(err, mailbox.ErrNotFound, "its keys")
	for range 2 {
		if err := w.e.CreateSlot(w.ctx, id, s); err != nil {
			w.Fatal(err)
		}
	}
	other := s
	other.Value = []byte("other")
	w.want(w.e.CreateSlot(w.ctx, id, other), mailbox.ErrExists, "another slot of that name")
	got, err := w.e.Slot(w.ctx, id)
	s.Version = 1
	if err != nil || !reflect.DeepEqual(got, s) {
		w.Errorf("slot is %+v, %v, want %+v", got, err, s)
	}
	if o, r, err := w.e.Keys(w.ctx, id); o != s.Owner || r != s.Read || err != nil {
		w.Errorf("keys are %x, %x, %v", o, r, err)
	}
	for range 2 {
		if err := w.e.SetSlot(w.ctx, id, 1, []byte("two")); err != nil {
			w.Errorf("set: %v", err)
		}
	}
	w.want(w.e.SetSlot(w.ctx, id, 1, []byte("three")), mailbox.ErrVersion, "set of an old version")
	w.want(w.e.SetSlot(w.ctx, id, 3, []byte("three")), mailbox.ErrVersion, "set of a version to come")
	w.want(w.e.SetSlot(w.ctx, id, 2, nil), mailbox.ErrTooLarge, "an empty value")
	w.want(w.e.SetSlot(w.ctx, id, 2, make([]byte, mailbox.MaxSlot+1)), mailbox.ErrTooLarge, "a value one byte too large")
	w.want(w.e.SetSlot(w.ctx, mailbox.SlotID{9}, 1, []byte("x")), mailbox.ErrNotFound, "set of nothing")
	if got, _ := w.e.Slot(w.ctx, id); got.Version != 2 || string(got.Value) != "two" {
		w.Errorf("slot is %+v", got)
	}
	id, s = w.slot(2)
	s.Expires = mailbox.MinuteOf(w.c.Now())
	w.want(w.e.CreateSlot(w.ctx, id, s), mailbox.ErrTerms, "a slot that is over already")
	s.Expires += mailbox.MaxMinutes + 1
	w.want(w.e.CreateSlot(w.ctx, id, s), mailbox.ErrTerms, "a slot for too long")
}

func slotTake(w *world) {
	id, s := w.slot(1)
	w.e.CreateSlot(w.ctx, id, s)
	mine, theirs := mailbox.Tag{1}, mailbox.Tag{2}
	for range 2 {
		got, err := w.e.TakeSlot(w.ctx, id, mine)
		if err != nil || string(got.Value) != "value" || got.Taken == 0 {
			w.Fatalf("take: %+v, %v", got, err)
		}
	}
	wantGone(w, take(w, id, theirs), mailbox.SlotTaken)
	w.e = w.h.Reopen(w.T, w.e, false)
	if _, err := w.e.TakeSlot(w.ctx, id, mine); err != nil {
		w.Errorf("the same taker after a restart: %v", err)
	}
	wantGone(w, take(w, id, theirs), mailbox.SlotTaken)
	if got, err := w.e.Slot(w.ctx, id); err != nil || got.Taken == 0 {
		w.Errorf("the owner does not see it taken: %+v, %v", got, err)
	}
	// One of many takers gets it.
	id, s = w.slot(2)
	w.e.CreateSlot(w.ctx, id, s)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range byte(16) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := w.e.TakeSlot(w.ctx, id, mailbox.Tag{i + 1}); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if won != 1 {
		w.Errorf("%d takers got it", won)
	}
	id, s = w.slot(3)
	s.Once = false
	w.e.CreateSlot(w.ctx, id, s)
	for i := range byte(3) {
		if _, err := w.e.TakeSlot(w.ctx, id, mailbox.Tag{i}); err != nil {
			w.Errorf("a slot for many, taker %d: %v", i, err)
		}
	}
	w.want(take(w, mailbox.SlotID{9}, mine), mailbox.ErrNotFound, "take of nothing")
}

func take(w *world, id mailbox.SlotID, tag mailbox.Tag) error {
	_, err := w.e.TakeSlot(w.ctx, id, tag)
	return err
}

func wantGone(w *world, err error, cause mailbox.SlotCause) {
	w.Helper()
	var g *mailbox.GoneError
	if !errors.As(err, &g) || g.Cause != cause || !errors.Is(err, mailbox.ErrGone) {
		w.Errorf("%v, want gone: %v", err, cause)
	}
}

func slotEnds(w *world) {
	id, s := w.slot(1)
	w.e.CreateSlot(w.ctx, id, s)
	w.c.Advance(7*day - 1)
	if _, err := w.e.Slot(w.ctx, id); err != nil {
		w.Errorf("a minute before: %v", err)
	}
	w.c.Advance(1)
	for range 2 {
		wantGone(w, take(w, id, mailbox.Tag{1}), mailbox.SlotExpired)
		wantGone(w, w.e.RevokeSlot(w.ctx, id), mailbox.SlotExpired)
		wantGone(w, w.e.CreateSlot(w.ctx, id, s2(w, s)), mailbox.SlotExpired)
		if _, _, err := w.e.Keys(w.ctx, id); err != nil {
			w.Errorf("keys of a tombstone: %v", err)
		}
		w.e.Sweep(w.ctx)
	}
	revoked, s := w.slot(2)
	w.e.CreateSlot(w.ctx, revoked, s)
	for range 2 {
		if err := w.e.RevokeSlot(w.ctx, revoked); err != nil {
			w.Errorf("revoke: %v", err)
		}
	}
	wantGone(w, take(w, revoked, mailbox.Tag{1}), mailbox.SlotRevoked)
	w.want(w.e.RevokeSlot(w.ctx, mailbox.SlotID{9}), mailbox.ErrNotFound, "revoke of nothing")
	w.c.Advance(mailbox.TombstoneMinutes)
	w.want(take(w, revoked, mailbox.Tag{1}), mailbox.ErrNotFound, "after the tombstone")
	// A new slot of the name is not taken away by what is left of the old one.
	_, s = w.slot(2)
	if err := w.e.CreateSlot(w.ctx, revoked, s); err != nil {
		w.Errorf("create after the tombstone: %v", err)
	}
	w.e.Sweep(w.ctx)
	w.e.Sweep(w.ctx)
	if _, err := w.e.Slot(w.ctx, revoked); err != nil {
		w.Errorf("the new slot: %v", err)
	}
	w.want(take(w, id, mailbox.Tag{1}), mailbox.ErrNotFound, "after the tombstone")
}

func s2(w *world, s mailbox.Slot) mailbox.Slot {
	s.Expires = mailbox.MinuteOf(w.c.Now()) + day
	return s
}

func reopening(w *world) {
	era := w.e.Era()
	w.must(w.msg("a", 0))
	w.must(w.commit("c", "caps 1", 0, mailbox.Mark{}))
	w.e.Trim(w.ctx, w.id, 1)
	before, _ := w.e.State(w.ctx, w.id)
	w.e = w.h.Reopen(w.T, w.e, false)
	after, err := w.e.State(w.ctx, w.id)
	if err != nil || !reflect.DeepEqual(before, after) || w.e.Era() != era {
		w.Errorf("state is %+v, %v, want %+v", after, err, before)
	}
	if r := w.must(w.commit("c", "caps 1", 0, mailbox.Mark{})); !r.Again {
		w.Error("a repeat is not known after reopening")
	}
	m, chain := w.start()
	if texts, lost := w.readAll(m, chain, 0); fmt.Sprint(texts) != "[c]" || len(lost) != 1 {
		w.Errorf("read %v, lost %v", texts, lost)
	}
}

func eras(w *world) {
	old := w.e.Era()
	w.must(w.msg("a", 0))
	c := w.must(w.commit("c", "", 0, mailbox.Mark{}))
	w.e = w.h.Reopen(w.T, w.e, true)
	era := w.e.Era()
	if era == old || era == 0 {
		w.Fatalf("the era was %d and is %d", old, era)
	}
	st, _ := w.e.State(w.ctx, w.id)
	if st.Head.Era != old || st.Era != era {
		w.Errorf("state is %+v", st)
	}
	if r := w.must(w.msg("a", 0)); !r.Again || r.Head.Era != old {
		w.Errorf("a repeat of an old entry: %+v", r)
	}
	r := w.must(w.msg("b", 0))
	if r.Head.Era != era || r.Head.Seq != 3 || r.Head.Commit != c.Head.Commit {
		w.Errorf("the next entry: %+v", r)
	}
	m, chain := w.start()
	if texts, _ := w.readAll(m, chain, 1); fmt.Sprint(texts) != "[a c b]" {
		w.Errorf("read %v across the eras", texts)
	}
	if _, err := w.e.Read(w.ctx, w.id, mailbox.Mark{Era: old, Seq: 2}, mailbox.Limit{}); err != nil {
		w.Errorf("a mark of the old era that it knows: %v", err)
	}
	_, err := w.e.Read(w.ctx, w.id, mailbox.Mark{Era: old, Seq: 3}, mailbox.Limit{})
	w.want(err, mailbox.ErrEra, "a mark of the future that was lost")
	w.must(w.commit("d", "", 0, c.Head.Commit))
	// Spans do not run across eras: their marks would be ambiguous.
	w.e.Trim(w.ctx, w.id, 100)
	for _, k := range []mailbox.Mark{{Era: old, Seq: 1}, {Era: era, Seq: 3}} {
		if _, err := w.e.Read(w.ctx, w.id, k, mailbox.Limit{}); err != nil {
			w.Errorf("a mark in a span, %+v: %v", k, err)
		}
	}
}

// TestModel lives random lives of an engine beside a model that has the engine's
// era, and compares every answer.
func TestModel(t *testing.T, h Harness, model func(c *Clock, era mailbox.Era) Engine, lives int) {
	for life := range lives {
		t.Run(fmt.Sprint("seed ", life), func(t *testing.T) { live(t, h, model, uint64(life)) })
	}
}

func live(t *testing.T, h Harness, model func(c *Clock, era mailbox.Era) Engine, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	c, ctx := NewClock(), t.Context()
	e := h.Open(t, c)
	m := model(c, e.Era())
	same := func(what string, a, b any, ea, eb error) {
		t.Helper()
		kind := func(err error) string {
			for _, k := range []error{mailbox.ErrNotFound, mailbox.ErrGone, mailbox.ErrTerms, mailbox.ErrStale, mailbox.ErrConflict, mailbox.ErrQuota, mailbox.ErrEra, mailbox.ErrExists, mailbox.ErrVersion} {
				if errors.Is(err, k) {
					return k.Error()
				}
			}
			return fmt.Sprint(err)
		}
		if kind(ea) != kind(eb) || ea == nil && fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
			t.Fatalf("%s: engine\n%+v, %v\nmodel\n%+v, %v", what, a, ea, b, eb)
		}
	}
	ids := []mailbox.ID{{1}, {2}, {3}}
	for i, id := range ids {
		tm := mailbox.Terms{Keep: 100, MaxEntries: 20, MaxBytes: mailbox.MaxPayload, Full: mailbox.Full(1 + i%2), Meta: []byte{byte(i)}}
		same("create", nil, nil, e.Create(ctx, id, tm), m.Create(ctx, id, tm))
	}
	for step := range 400 {
		id := ids[rng.IntN(len(ids))]
		st, err := e.State(ctx, id)
		mst, merr := m.State(ctx, id)
		// Sweeping is the engine's affair: what has expired may be counted or not.
		st.Entries, st.Bytes, st.First, mst.Entries, mst.Bytes, mst.First = 0, 0, 0, 0, 0, 0
		same(fmt.Sprint(step, " state"), st, mst, err, merr)
		switch rng.IntN(12) {
		case 0, 1, 2, 3, 4, 5:
			var ds []mailbox.Deposit
			for range 1 + rng.IntN(4) {
				d := mailbox.Deposit{Mailbox: id, Kind: mailbox.Message, Gen: st.Gen, Payload: binary.BigEndian.AppendUint32(nil, rng.Uint32N(200))}
				if rng.IntN(10) == 0 {
					d.Gen++
				}
				if rng.IntN(3) == 0 {
					d.Kind, d.Expect = mailbox.Commit, st.Head.Commit
					if rng.IntN(4) == 0 {
						d.Expect.Seq++
					}
					if rng.IntN(2) == 0 {
						d.Meta = []byte{byte(rng.IntN(256))}
					}
				}
				ds = append(ds, d)
			}
			a, b := e.Put(ctx, ds), m.Put(ctx, ds)
			for i := range a {
				a[i].Receipt.Batch, b[i].Receipt.Batch = nil, nil
				same(fmt.Sprint(step, " put ", i), a[i].Receipt, b[i].Receipt, a[i].Err, b[i].Err)
			}
		case 6, 7, 8:
			after := mailbox.Mark{Era: st.Head.Era, Seq: mailbox.Seq(rng.IntN(int(st.Head.Seq) + 2))}
			l := mailbox.Limit{Entries: rng.IntN(10), Through: mailbox.Seq(rng.IntN(30))}
			a, ea := e.Read(ctx, id, after, l)
			b, eb := m.Read(ctx, id, after, l)
			// A mark within a span leads to the span's end at least, and where spans begin
			// differs with when they were swept: the end and the entries are compared.
			if ea == nil && eb == nil && a.End.Seq != b.End.Seq && l.Through > 0 {
				continue
			}
			if len(a.Lost) != len(b.Lost) {
				a.Lost, b.Lost = nil, nil
			}
			same(fmt.Sprint(step, " read"), a, b, ea, eb)
		case 9:
			c.Advance(mailbox.Minute(rng.IntN(60)))
			if rng.IntN(2) == 0 {
				e.Sweep(ctx)
				m.Sweep(ctx)
			}
		case 10:
			through := mailbox.Seq(rng.IntN(int(st.Head.Seq) + 1))
			if rng.IntN(3) == 0 {
				same(fmt.Sprint(step, " trim"), nil, nil, e.Trim(ctx, id, through), m.Trim(ctx, id, through))
			}
			gen := mailbox.Gen(rng.IntN(int(st.Gen) + 2))
			e.Sweep(ctx)
			m.Sweep(ctx)
			a, ea := e.Generation(ctx, id, gen)
			b, eb := m.Generation(ctx, id, gen)
			a.Meta, b.Meta = append([]byte{}, a.Meta...), append([]byte{}, b.Meta...)
			same(fmt.Sprint(step, " generation"), a, b, ea, eb)
		case 11:
			if rng.IntN(10) == 0 {
				e = h.Reopen(t, e, false)
			}
		}
	}
}
