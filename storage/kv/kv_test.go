package kv

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, o Options) *DB {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Small = true
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func get(t *testing.T, d *DB, key string) string {
	t.Helper()
	var v []byte
	err := d.View(func(tx *Tx) (err error) { v, err = tx.Get([]byte(key)); return err })
	if errors.Is(err, ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return string(v)
}

func set(d *DB, key, value string) error {
	return d.Update(func(tx *Tx) error { return tx.Set([]byte(key), []byte(value)) })
}

type hook struct{ before, after error }

func (h *hook) BeforeCommit([]Write) error { return h.before }
func (h *hook) AfterCommit() error         { return h.after }

// An update whose commit fails is unknown, whether it failed or failed but
// happened; nothing more is done until the database has been opened again.
func TestDoubtfulCommit(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		hook hook
		want string
	}{
		{"failed", hook{before: boom}, "old"},
		{"failed but happened", hook{after: boom}, "new"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &hook{}
			d := open(t, Options{Hook: h})
			if err := set(d, "k", "old"); err != nil {
				t.Fatal(err)
			}
			*h = tt.hook
			if err := set(d, "k", "new"); !errors.Is(err, ErrUnknown) || !errors.Is(err, boom) {
				t.Fatalf("update: %v, want ErrUnknown and boom", err)
			}
			*h = hook{}
			if err := set(d, "k", "newer"); !errors.Is(err, ErrUnknown) {
				t.Errorf("the next update: %v, want ErrUnknown", err)
			}
			if err := d.View(func(*Tx) error { return nil }); !errors.Is(err, ErrUnknown) {
				t.Errorf("the next view: %v, want ErrUnknown", err)
			}
			if err := d.Reopen(); err != nil {
				t.Fatal(err)
			}
			if got := get(t, d, "k"); got != tt.want {
				t.Errorf("after reopening the value is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAFailedFunctionWritesNothing(t *testing.T) {
	d := open(t, Options{})
	boom := errors.New("boom")
	err := d.Update(func(tx *Tx) error { tx.Set([]byte("k"), []byte("v")); return boom })
	if err != boom {
		t.Errorf("update: %v, want boom itself", err)
	}
	if got := get(t, d, "k"); got != "-" {
		t.Errorf("k is %q", got)
	}
}

func TestRange(t *testing.T) {
	d := open(t, Options{})
	d.Update(func(tx *Tx) error {
		for _, k := range []string{"a1", "b1", "b2", "b3", "c1"} {
			tx.Set([]byte(k), []byte("v"+k))
		}
		return tx.Delete([]byte("b9"))
	})
	d.Update(func(tx *Tx) error { return tx.Delete([]byte("b2")) })
	for _, tt := range []struct {
		prefix, from string
		reverse      bool
		want         string
	}{
		{"b", "", false, "b1 b3"}, {"b", "b2", false, "b3"}, {"b", "b4", false, ""}, {"b", "", true, "b3 b1"},
		{"b", "b2", true, "b1"}, {"x", "", false, ""}, {"x", "", true, ""}, {"c", "", true, "c1"},
	} {
		var from []byte
		if tt.from != "" {
			from = []byte(tt.from)
		}
		d.View(func(tx *Tx) error {
			var got, keys []string
			seq, failed := tx.Range([]byte(tt.prefix), from, tt.reverse)
			for k, v := range seq {
				if string(v) != "v"+string(k) {
					t.Errorf("%s has value %s", k, v)
				}
				got = append(got, string(k))
			}
			ks, failed2 := tx.Keys([]byte(tt.prefix), from, tt.reverse)
			for k := range ks {
				keys = append(keys, string(k))
			}
			if s := strings.Join(got, " "); s != tt.want || strings.Join(keys, " ") != tt.want || failed() != nil || failed2() != nil {
				t.Errorf("range of %q from %q (reverse %v) = %q and %q, want %q", tt.prefix, tt.from, tt.reverse, s, keys, tt.want)
			}
			return nil
		})
	}
}

func TestFullDisk(t *testing.T) {
	var mu sync.Mutex
	free := uint64(1 << 30)
	d := open(t, Options{Free: func(string) (uint64, error) { mu.Lock(); defer mu.Unlock(); return free, nil }})
	if err := set(d, "k", "old"); err != nil {
		t.Fatal(err)
	}
	setFree := func(n uint64) { mu.Lock(); free = n; mu.Unlock(); d.asked = false }
	setFree(DefaultReserve)
	err := set(d, "k", "new")
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "64 MiB are kept") {
		t.Errorf("update on a full disk: %v, want ErrFull with the numbers", err)
	}
	if got := get(t, d, "k"); got != "old" {
		t.Errorf("k is %q, want old", got)
	}
	// What makes room may use half of the reserve.
	drop := func() error { return d.Shrink(func(tx *Tx) error { return tx.Delete([]byte("k")) }) }
	setFree(DefaultReserve / 2)
	if err := drop(); !errors.Is(err, ErrFull) {
		t.Errorf("shrink with half of the reserve gone: %v, want ErrFull", err)
	}
	setFree(DefaultReserve/2 + 1<<20)
	if err := drop(); err != nil {
		t.Errorf("shrink on a full disk: %v", err)
	}
	if err := set(d, "k", "new"); !errors.Is(err, ErrFull) {
		t.Errorf("update on a full disk: %v, want ErrFull", err)
	}
	setFree(1 << 30)
	if err := set(d, "k", "new"); err != nil || get(t, d, "k") != "new" {
		t.Errorf("with room again: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	dir := t.TempDir()
	d := open(t, Options{Dir: dir, Key: key})
	set(d, "k", "v")
	if _, err := Open(Options{Dir: dir, Key: key, Small: true}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second process: %v, want ErrLocked", err)
	}
	d.Close()
	if err := set(d, "k", "v"); !errors.Is(err, ErrClosed) {
		t.Errorf("update when closed: %v, want ErrClosed", err)
	}
	if _, err := Open(Options{Dir: dir, Key: other, Small: true}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: %v, want ErrWrongKey", err)
	}
	if _, err := Open(Options{Dir: dir, Small: true}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("no key: %v, want ErrWrongKey", err)
	}
	if _, err := Open(Options{Dir: filepath.Join(t.TempDir(), "file", "x")}); err != nil {
		t.Logf("a folder is made with its parents: %v", err)
	}
	d = open(t, Options{Dir: dir, Key: key})
	d.Update(func(tx *Tx) error { return tx.Set(formatKey, []byte{format + 1}) })
	d.Close()
	if _, err := Open(Options{Dir: dir, Key: key, Small: true}); !errors.Is(err, ErrFormat) {
		t.Errorf("a newer format: %v, want ErrFormat", err)
	}
}

// Whatever file of a database is damaged, opening and reading it gives an error or
// what was written, and never ends the process.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	want := strings.Repeat("value ", 200)
	for i := range 200 {
		set(d, fmt.Sprint("k", i), want)
	}
	d.Close()
	files, _ := os.ReadDir(dir)
	damaged := 0
	for _, f := range files {
		whole, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil || len(whole) == 0 {
			continue
		}
		for _, damage := range []func([]byte) []byte{
			func(b []byte) []byte { b[min(len(b)-1, 40)] ^= 0x40; return b },
			func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			func(b []byte) []byte { return b[:len(b)/3] },
			func(b []byte) []byte { return nil },
		} {
			copied := t.TempDir()
			for _, g := range files {
				b, _ := os.ReadFile(filepath.Join(dir, g.Name()))
				if g.Name() == f.Name() {
					b = damage(b)
				}
				os.WriteFile(filepath.Join(copied, g.Name()), b, 0o600)
			}
			damaged++
			x, err := Open(Options{Dir: copied, Small: true})
			if err != nil {
				continue
			}
			x.View(func(tx *Tx) error {
				for i := range 200 {
					v, err := tx.Get([]byte(fmt.Sprint("k", i)))
					if err == nil && string(v) != want {
						t.Errorf("%s damaged: k%d is altered", f.Name(), i)
					}
				}
				return nil
			})
			x.Close()
		}
	}
	if damaged < 8 {
		t.Errorf("only %d files could be damaged", damaged)
	}
}

// A log that a process was killed while making or deleting is empty: the database
// opens with all it had.
func TestEmptyLog(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	set(d, "k", "v")
	d.Close()
	for _, name := range []string{"00090.mem", "00091.mem", "000090.vlog", "000091.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d = open(t, Options{Dir: dir})
	if got := get(t, d, "k"); got != "v" {
		t.Errorf("beside empty logs: %q", got)
	}
}

// A process that opens a database and writes is killed at random moments, its opening
// and closing among them: the database opens again each time, with everything whose
// update had returned.
func TestKilledAtAnyMoment(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs a process again and again, which takes seconds")
	}
	dir := t.TempDir()
	acked := 0
	for range 60 {
		cmd := exec.Command(os.Args[0], "-test.run", "^$")
		cmd.Env = append(os.Environ(), "SOTTO_KV_CHILD="+dir)
		var log bytes.Buffer
		cmd.Stderr = &log
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if rand.N(3) > 0 { // before it opens, while it does, or later
			lines.Scan()
		}
		time.AfterFunc(rand.N(60*time.Millisecond), func() { cmd.Process.Kill() })
		for lines.Scan() {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				if n < acked {
					t.Errorf("the last update is %d, acknowledged was %d", n, acked)
				}
				acked = n
			}
		}
		cmd.Wait()
		if log.Len() > 0 {
			t.Fatalf("after %d updates: %s", acked, &log)
		}
	}
	d := open(t, Options{Dir: dir, Key: childKey})
	n, _ := strconv.Atoi(get(t, d, "last"))
	if n != acked && n != acked+1 {
		t.Errorf("the last update is %d, acknowledged was %d", n, acked)
	}
	t.Logf("%d updates acknowledged", acked)
}

var childKey = bytes.Repeat([]byte{7}, 32)

// TestMain is the process that TestKilledAtAnyMoment kills, where it is told so.
func TestMain(m *testing.M) {
	dir := os.Getenv("SOTTO_KV_CHILD")
	if dir == "" {
		os.Exit(m.Run())
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println("begun")
	for n := 0; ; { // opened and closed again and again: most is done then
		d, err := Open(Options{Dir: dir, Small: true, MaxTx: 64 << 10, Key: childKey})
		fail(err)
		d.View(func(tx *Tx) error {
			v, err := tx.Get([]byte("last"))
			if err == nil {
				n, err = strconv.Atoi(string(v))
			}
			return nil
		})
		fmt.Println(n)
		for range 20 {
			n++
			fail(d.Update(func(tx *Tx) error {
				if err := tx.Set([]byte("last"), []byte(strconv.Itoa(n))); err != nil {
					return err
				}
				return tx.Set([]byte(fmt.Sprint("k", n)), make([]byte, 20<<10))
			}))
			fmt.Println(n)
		}
		fail(d.Close())
	}
}

func TestTooBig(t *testing.T) {
	d := open(t, Options{MaxTx: 3 << 20})
	if err := d.Update(func(tx *Tx) error { tx.Set([]byte("k"), make([]byte, MaxValue+1)); return nil }); !errors.Is(err, ErrTooBig) {
		t.Errorf("a value over the limit: %v", err)
	}
	err := d.Update(func(tx *Tx) error {
		for i := range 4 {
			tx.Set([]byte{byte(i)}, make([]byte, MaxValue))
		}
		return nil
	})
	if !errors.Is(err, ErrTooBig) {
		t.Errorf("a transaction over the limit: %v", err)
	}
	if err := d.Update(func(tx *Tx) error {
		tx.Set([]byte("a"), make([]byte, MaxValue))
		return tx.Set([]byte("b"), make([]byte, MaxValue))
	}); err != nil {
		t.Errorf("2 MiB: %v", err)
	}
}

func TestCountersSurvive(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	for range 3 {
		d.Update(func(tx *Tx) error {
			n, err := tx.Counter([]byte("n"))
			if err != nil {
				return err
			}
			return tx.SetCounter([]byte("n"), n+1)
		})
	}
	d.Close()
	d = open(t, Options{Dir: dir})
	d.View(func(tx *Tx) error {
		if n, err := tx.Counter([]byte("n")); n != 3 || err != nil {
			t.Errorf("the counter is %d, %v", n, err)
		}
		return nil
	})
}

// What is deleted gives the disk back.
func TestReclaim(t *testing.T) {
	d := open(t, Options{})
	value := make([]byte, 64<<10)
	for i := range 600 {
		binary.BigEndian.PutUint64(value, uint64(i))
		if err := d.Update(func(tx *Tx) error { return tx.Set(binary.BigEndian.AppendUint64(nil, uint64(i)), bytes.Clone(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 {
		d.Update(func(tx *Tx) error { return tx.Delete(binary.BigEndian.AppendUint64(nil, uint64(i))) })
	}
	before, _ := d.Size()
	// The memtable must reach the tables first: reopening does that.
	d.Reopen()
	if err := d.Reclaim(context.Background()); err != nil {
		t.Fatal(err)
	}
	d.Reopen()
	after, _ := d.Size()
	if after > before/2 {
		t.Errorf("%d KiB before, %d KiB after", before>>10, after>>10)
	}
}

func BenchmarkUpdate(b *testing.B) {
	d, err := Open(Options{Dir: b.TempDir(), Small: true})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	value := make([]byte, 1<<10)
	for i := 0; b.Loop(); i++ {
		if err := d.Update(func(tx *Tx) error { return tx.Set(binary.BigEndian.AppendUint64(nil, uint64(i)), value) }); err != nil {
			b.Fatal(err)
		}
	}
}
