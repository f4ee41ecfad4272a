package badgerbox

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/relay/mailbox"
	"sotto/relay/mailbox/mailboxtest"
	"sotto/relay/mailbox/membox"
	"sotto/storage/kv"
)

type engine struct {
	*Store
	dir  string
	c    *mailboxtest.Clock
	hook *hook
}

func openAt(t *testing.T, dir string, c *mailboxtest.Clock, h *hook) engine {
	t.Helper()
	cfg := Config{Dir: dir, Clock: c.Now, Small: true, SweepPeriod: -1}
	if h != nil {
		cfg.Hook = h
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return engine{s, dir, c, h}
}

var harness = mailboxtest.Harness{
	Open: func(t *testing.T, c *mailboxtest.Clock) mailboxtest.Engine { return openAt(t, t.TempDir(), c, &hook{}) },
	Reopen: func(t *testing.T, e mailboxtest.Engine, newEra bool) mailboxtest.Engine {
		old := e.(engine)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		if newEra {
			if _, err := RenewEra(old.dir); err != nil {
				t.Fatal(err)
			}
		}
		return openAt(t, old.dir, old.c, old.hook)
	},
	Doubt: func(e mailboxtest.Engine, happened bool) {
		boom := errors.New("boom")
		if h := e.(engine).hook; happened {
			h.after.Store(&boom)
		} else {
			h.before.Store(&boom)
		}
	},
}

func TestStore(t *testing.T) { mailboxtest.TestStore(t, harness) }

func TestModel(t *testing.T) {
	mailboxtest.TestModel(t, harness, func(c *mailboxtest.Clock, era mailbox.Era) mailboxtest.Engine { return membox.New(c.Now, era) }, 12)
}

type hook struct{ before, after atomic.Pointer[error] }

func (h *hook) BeforeCommit([]kv.Write) error { return take(&h.before) }
func (h *hook) AfterCommit() error            { return take(&h.after) }

func take(p *atomic.Pointer[error]) error {
	if err := p.Swap(nil); err != nil {
		return *err
	}
	return nil
}

// garble makes a record unreadable.
func garble(t *testing.T, s *Store, key []byte) {
	t.Helper()
	if err := s.db.Update(func(tx *kv.Tx) error { return tx.Set(key, []byte{99}) }); err != nil {
		t.Fatal(err)
	}
}

func message(id mailbox.ID, text string) mailbox.Deposit {
	return mailbox.Deposit{Mailbox: id, Kind: mailbox.Message, Payload: []byte(text)}
}

// One mailbox that cannot be read took with it whatever others deposited in the same
// flush, again and again.
func TestDamagedMailboxFailedTheDepositsOfOthers(t *testing.T) {
	s := openAt(t, t.TempDir(), mailboxtest.NewClock(), nil)
	good, bad := mailbox.ID{1}, mailbox.ID{2}
	for _, id := range []mailbox.ID{good, bad} {
		if err := s.Create(t.Context(), id, mailboxtest.Terms()); err != nil {
			t.Fatal(err)
		}
	}
	garble(t, s.Store, idKey('h', bad[:]))
	out := s.Put(t.Context(), []mailbox.Deposit{message(good, "a"), message(bad, "b"), message(good, "c"), message(bad, "d")})
	for i, o := range out {
		if i%2 == 0 && (o.Err != nil || o.Receipt.Head.Seq != mailbox.Seq(1+i/2)) || i%2 == 1 && !errors.Is(o.Err, kv.ErrCorrupt) {
			t.Errorf("outcome %d: %+v", i, o)
		}
	}
	if st, err := s.State(t.Context(), good); err != nil || st.Entries != 2 {
		t.Errorf("state %+v, %v", st, err)
	}
}

// A member filled a mailbox with commits, which are never dropped; each further
// deposit then read all of them, while everybody's deposits waited.
func TestMailboxFullOfCommitsStalledTheRelay(t *testing.T) {
	s := openAt(t, t.TempDir(), mailboxtest.NewClock(), nil)
	id, tm := mailbox.ID{1}, mailboxtest.Terms()
	tm.MaxEntries, tm.Full = 20, mailbox.DropOldest
	if err := s.Create(t.Context(), id, tm); err != nil {
		t.Fatal(err)
	}
	var fence mailbox.Mark
	put := func(d mailbox.Deposit) error {
		o := s.Put(t.Context(), []mailbox.Deposit{d})[0]
		if d.Kind == mailbox.Commit && o.Err == nil {
			fence = o.Receipt.Head.Mark()
		}
		return o.Err
	}
	commit := func(i int) error {
		return put(mailbox.Deposit{Mailbox: id, Kind: mailbox.Commit, Expect: fence, Payload: []byte(fmt.Sprint("commit ", i))})
	}
	for i := range 19 {
		if err := commit(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 { // the first goes for the second, and so on: the commits before are passed
		if err := put(message(id, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	garble(t, s.Store, entryKey(id, 5)) // whoever reads it complains
	if err := put(message(id, "next")); err != nil {
		t.Errorf("the commits were looked at again for one message: %v", err)
	}
	if err := commit(19); err != nil {
		t.Errorf("the commits were looked at again for one commit: %v", err)
	}
	if err := put(message(id, "no room")); !errors.Is(err, mailbox.ErrQuota) {
		t.Errorf("a mailbox full of commits: %v", err)
	}
}

// Deposits that each dropped many small entries made one transaction too large, and
// everything in it failed, whosever it was.
func TestManyDropsFailedTheDepositsOfOthers(t *testing.T) {
	s := openAt(t, t.TempDir(), mailboxtest.NewClock(), nil)
	full, other := mailbox.ID{1}, mailbox.ID{2}
	tm := mailboxtest.Terms()
	tm.MaxEntries, tm.MaxBytes, tm.Full = 1<<20, 4<<20, mailbox.DropOldest
	for _, id := range []mailbox.ID{full, other} {
		if err := s.Create(t.Context(), id, tm); err != nil {
			t.Fatal(err)
		}
	}
	put := func(n, size int) (failed error) {
		ds := []mailbox.Deposit{message(other, fmt.Sprint(n, size))}
		for i := range n {
			ds = append(ds, message(full, fmt.Sprintf("%0*d", size, i)))
		}
		for _, o := range s.Put(t.Context(), ds) {
			failed = errors.Join(failed, o.Err)
		}
		return failed
	}
	if err := put(4<<20/200, 200); err != nil {
		t.Fatal(err)
	}
	if err := put(80, 40_000); err != nil { // each drops 200
		t.Errorf("%v", err)
	}
	if st, err := s.State(t.Context(), full); err != nil || st.Bytes > tm.MaxBytes {
		t.Errorf("state %+v, %v", st, err)
	}
}

// Below the reserve nothing new is taken, reading goes on, and what may go can go: a
// relay that could not sweep when its disk was full stayed full for ever. With room
// again everything goes on.
func TestFullDisk(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	c := mailboxtest.NewClock()
	var log strings.Builder
	cfg := Config{Dir: t.TempDir(), Clock: c.Now, Small: true, SweepPeriod: -1, Logger: slog.New(slog.NewTextHandler(&log, nil)), Free: func(string) (uint64, error) { return free.Load(), nil }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	ctx, id, other, kept := t.Context(), mailbox.ID{1}, mailbox.ID{2}, mailbox.ID{3}
	for _, id := range []mailbox.ID{id, other, kept} {
		if err := s.Create(ctx, id, mailboxtest.Terms()); err != nil {
			t.Fatal(err)
		}
	}
	slot := mailbox.Slot{Expires: mailbox.MinuteOf(c.Now()) + 60, Value: []byte("v")}
	if err := s.CreateSlot(ctx, mailbox.SlotID{1}, slot); err != nil {
		t.Fatal(err)
	}
	put := func(id mailbox.ID, text string) error { return s.Put(ctx, []mailbox.Deposit{message(id, text)})[0].Err }
	payload := strings.Repeat("a", mailbox.MaxPayload)
	for i := range 20 { // the disk is asked every 4 MiB
		if err := put(id, fmt.Sprint(i, payload[10:])); err != nil {
			t.Fatal(err)
		}
	}
	free.Store(40 << 20)
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, mailbox.ErrBusy) || !strings.Contains(err.Error(), "disk is full: 40 MiB are free") || !strings.Contains(err.Error(), "MiB are kept in reserve") {
			t.Errorf("%s below the reserve: %v, want ErrBusy and why", what, err)
		}
	}
	for i := range 20 {
		err = put(id, fmt.Sprint("more ", i, payload[10:]))
	}
	full("put", err)
	full("create", s.Create(ctx, mailbox.ID{9}, mailboxtest.Terms()))
	full("create slot", s.CreateSlot(ctx, mailbox.SlotID{9}, slot))
	if p, err := s.Read(ctx, id, mailbox.Mark{}, mailbox.Limit{Entries: 5}); err != nil || len(p.Entries) != 5 {
		t.Errorf("reading below the reserve: %d entries, %v", len(p.Entries), err)
	}
	for what, err := range map[string]error{"trim": s.Trim(ctx, id, 3), "delete": s.Delete(ctx, other), "revoke slot": s.RevokeSlot(ctx, mailbox.SlotID{1})} {
		if err != nil {
			t.Errorf("%s below the reserve: %v", what, err)
		}
	}
	// It starts again, and frees what has expired.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(cfg); err != nil {
		t.Fatalf("starting again below the reserve: %v", err)
	}
	c.Advance(mailboxtest.Terms().Keep)
	if n, err := s.Sweep(ctx); n < 17 || err != nil {
		t.Errorf("sweeping below the reserve freed %d, %v", n, err)
	}
	full("put", put(kept, "b"))
	free.Store(1 << 30)
	if err := put(kept, "b"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	// The operator has been told, and not for each deposit.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"nothing is taken": 2, "there is room again": 1} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("the log says %d times, want %d: %s\n%s", got, want, text, &log)
		}
	}
}

// A process is killed while it stores; what it had a receipt for is there.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("BADGERBOX_CHILD"); dir != "" {
		child(dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "store")
	receipts := map[mailbox.Seq]string{}
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "BADGERBOX_CHILD="+dir, fmt.Sprint("BADGERBOX_ROUND=", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 200+50*round && lines.Scan(); n++ {
			var seq mailbox.Seq
			var text string
			if _, err := fmt.Sscanf(lines.Text(), "stored %d %s", &seq, &text); err != nil {
				t.Fatalf("the child said %q", lines.Text())
			}
			receipts[seq] = text
		}
		cmd.Process.Kill()
		for lines.Scan() { // receipts that were under way count as well
			var seq mailbox.Seq
			var text string
			if _, err := fmt.Sscanf(lines.Text(), "stored %d %s", &seq, &text); err == nil {
				receipts[seq] = text
			}
		}
		cmd.Wait()
	}
	s := openAt(t, dir, mailboxtest.NewClock(), nil)
	found := map[mailbox.Seq]string{}
	for after := (mailbox.Mark{}); ; {
		p, err := s.Read(context.Background(), mailbox.ID{1}, after, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Entries {
			found[e.Seq] = string(e.Payload)
		}
		after = p.End.Mark()
		if !p.More {
			break
		}
	}
	if len(receipts) < 1000 {
		t.Errorf("only %d receipts", len(receipts))
	}
	for seq, text := range receipts {
		if found[seq] != text {
			t.Errorf("seq %d was receipted as %s and is %q", seq, text, found[seq])
		}
	}
}

func child(dir string) {
	c := mailboxtest.NewClock()
	s, err := Open(Config{Dir: dir, Clock: c.Now, Small: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	tm := mailboxtest.Terms()
	tm.MaxEntries = 1 << 20
	s.Create(context.Background(), mailbox.ID{1}, tm)
	var mu sync.Mutex
	for i := range 8 {
		go func() {
			for n := 0; ; n++ {
				text := fmt.Sprintf("%s.%d.%d", os.Getenv("BADGERBOX_ROUND"), i, n)
				o := s.Put(context.Background(), []mailbox.Deposit{{Mailbox: mailbox.ID{1}, Kind: mailbox.Message, Payload: []byte(text)}})[0]
				if o.Err != nil {
					fmt.Println(o.Err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println("stored", o.Receipt.Head.Seq, text)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// BenchmarkAppend stores entries of 1 KiB, durably, from so many writers at once,
// each waiting for its receipt; floor is a bare log file with group commit on the
// same disk: the best that any store could do.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint("w", writers), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir(), SweepPeriod: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			tm := mailboxtest.Terms()
			tm.MaxEntries, tm.MaxBytes = 1<<30, 1<<40
			for i := range writers {
				s.Create(context.Background(), mailbox.ID{byte(i), byte(i >> 8)}, tm)
			}
			spread(b, writers, func(w, n int) {
				payload := make([]byte, 1<<10)
				binary.BigEndian.PutUint64(payload, uint64(n))
				o := s.Put(context.Background(), []mailbox.Deposit{{Mailbox: mailbox.ID{byte(w), byte(w >> 8)}, Kind: mailbox.Message, Payload: payload}})
				if o[0].Err != nil {
					b.Error(o[0].Err)
				}
			})
		})
		b.Run(fmt.Sprint("w", writers, "/floor"), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "log"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			var mu sync.Mutex
			var waiting []chan struct{}
			var buf []byte
			wake := make(chan struct{}, 1)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for {
					select {
					case <-wake:
					case <-stop:
						return
					}
					mu.Lock()
					out, who := buf, waiting
					buf, waiting = nil, nil
					mu.Unlock()
					f.Write(out)
					f.Sync()
					for _, c := range who {
						close(c)
					}
				}
			}()
			spread(b, writers, func(w, n int) {
				done := make(chan struct{})
				mu.Lock()
				buf = append(buf, make([]byte, 1<<10)...)
				waiting = append(waiting, done)
				mu.Unlock()
				select {
				case wake <- struct{}{}:
				default:
				}
				<-done
			})
		})
	}
}

func spread(b *testing.B, writers int, do func(w, n int)) {
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				do(w, int(n))
			}
		}()
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}
