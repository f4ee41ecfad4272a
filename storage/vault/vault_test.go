package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/storage/kv"
)

var testKey = bytes.Repeat([]byte{7}, keySize)

func testOptions() Options {
	return Options{Keys: map[string][]byte{"test": testKey}, Config: Config{Reserve: -1}}
}

// create makes a vault that opens with testKey; the test closes it.
func create(t testing.TB, e *env) (*Vault, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	v, err := e.create(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v, dir
}

func reopen(t testing.TB, e *env, dir string) *Vault {
	t.Helper()
	v, err := e.open(dir, Unlock{Key: testKey}, Config{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func update(t testing.TB, v *Vault, f func(*Tx) error) {
	t.Helper()
	if err := v.Update(f); err != nil {
		t.Fatal(err)
	}
}

func get(v *Vault, r Ref) (value []byte, err error) {
	err = v.View(func(tx *Tx) error { value, err = tx.Get(r); return err })
	return value, err
}

func wantValue(t testing.TB, v *Vault, r Ref, want string) {
	t.Helper()
	if got, err := get(v, r); err != nil || string(got) != want {
		t.Errorf("Get(%v) = %q, %v, want %q", r, got, err, want)
	}
}

func wantError(t testing.TB, v *Vault, r Ref, want error) {
	t.Helper()
	if got, err := get(v, r); !errors.Is(err, want) {
		t.Errorf("Get(%v) = %q, %v, want %v", r, got, err, want)
	}
}

func TestWhatIsPutIsReadAfterReopening(t *testing.T) {
	e := newEnv(Config{})
	v, dir := create(t, e)
	plain := Ref{1, "settings", "name"}
	secret := Ref{2, "ana", U64(1)}
	update(t, v, func(tx *Tx) error {
		if err := tx.Put(plain, Bucket{}, []byte("Ben")); err != nil {
			return err
		}
		if err := tx.Put(secret, Bucket{MLS, "ana", 3}, []byte("ratchet")); err != nil {
			return err
		}
		if got, err := tx.Get(secret); err != nil || string(got) != "ratchet" {
			t.Errorf("in the same update: %q, %v", got, err)
		}
		return tx.Put(Ref{1, "settings", "empty"}, Bucket{}, nil)
	})
	wantError(t, v, Ref{1, "settings", "other"}, ErrNotFound)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	wantError(t, v, plain, ErrClosed)
	if err := v.RotateErasure(MLS); !errors.Is(err, ErrClosed) {
		t.Errorf("rotation of a closed vault: %v", err)
	}

	v = reopen(t, e, dir)
	wantValue(t, v, plain, "Ben")
	wantValue(t, v, secret, "ratchet")
	wantValue(t, v, Ref{1, "settings", "empty"}, "")
	update(t, v, func(tx *Tx) error { return tx.Delete(plain) })
	wantError(t, v, plain, ErrNotFound)
}

func TestAnUpdateThatFailsHasNotHappened(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	r := Ref{1, "p", ""}
	mine := errors.New("mine")
	err := v.Update(func(tx *Tx) error {
		tx.Put(r, Bucket{MLS, "p", 1}, []byte("x"))
		tx.Next("seq")
		return mine
	})
	if err != mine {
		t.Errorf("Update = %v, want the function's own error", err)
	}
	for name, write := range map[string]func(*Tx){
		"table 0":                      func(tx *Tx) { tx.Put(Ref{0, "p", ""}, Bucket{}, nil) },
		"table of the vault itself":    func(tx *Tx) { tx.Put(Ref{bucketTable, "p", ""}, Bucket{}, nil) },
		"table too high":               func(tx *Tx) { tx.Delete(Ref{MaxTable + 1, "p", ""}) },
		"partition too long":           func(tx *Tx) { tx.Put(Ref{1, strings.Repeat("p", MaxPartition+1), ""}, Bucket{}, nil) },
		"order too long":               func(tx *Tx) { tx.Put(Ref{1, "p", strings.Repeat("o", MaxOrder+1)}, Bucket{}, nil) },
		"value too long":               func(tx *Tx) { tx.Put(Ref{1, "p", ""}, Bucket{}, make([]byte, MaxValue+1)) },
		"bucket of another partition":  func(tx *Tx) { tx.Put(Ref{1, "p", ""}, Bucket{MLS, "q", 1}, nil) },
		"bucket of no domain":          func(tx *Tx) { tx.Put(Ref{1, "p", ""}, Bucket{domains, "p", 1}, nil) },
		"plain bucket with a name":     func(tx *Tx) { tx.Put(Ref{1, "p", ""}, Bucket{Plain, "p", 0}, nil) },
		"plain bucket dropped":         func(tx *Tx) { tx.DropBucket(Bucket{}) },
		"rebucket to plain":            func(tx *Tx) { tx.Rebucket(Bucket{MLS, "p", 1}, Bucket{}) },
		"rebucket to another domain":   func(tx *Tx) { tx.Rebucket(Bucket{MLS, "p", 1}, Bucket{Messages, "p", 1}) },
		"rebucket to another's bucket": func(tx *Tx) { tx.Rebucket(Bucket{MLS, "p", 1}, Bucket{MLS, "q", 1}) },
	} {
		err := v.Update(func(tx *Tx) error {
			if err := tx.Put(r, Bucket{}, []byte("x")); err != nil {
				t.Fatal(err)
			}
			write(tx)
			return nil
		})
		if err == nil {
			t.Errorf("%s: the update that did not look at the error went through", name)
		}
	}
	wantError(t, v, r, ErrNotFound)
	if err := v.View(func(tx *Tx) error { return tx.Put(r, Bucket{}, nil) }); !errors.Is(err, errReadOnly) {
		t.Errorf("write in a View: %v", err)
	}
	v.View(func(tx *Tx) error {
		if n, err := tx.Last("seq"); n != 0 || err != nil {
			t.Errorf("a sequence went on in an update that failed: %d, %v", n, err)
		}
		if b, err := tx.Buckets(MLS, "p"); len(b) != 0 || err != nil {
			t.Errorf("a bucket was made by an update that failed: %v, %v", b, err)
		}
		return nil
	})
	var kept *Tx
	update(t, v, func(tx *Tx) error { kept = tx; return nil })
	if err := kept.Put(r, Bucket{}, nil); !errors.Is(err, errEnded) {
		t.Errorf("Put after the end: %v", err)
	}
	if _, err := kept.Get(r); !errors.Is(err, errEnded) {
		t.Errorf("Get after the end: %v", err)
	}
	for _, err := range kept.Range(1, "p", "", false) {
		if !errors.Is(err, errEnded) {
			t.Errorf("Range after the end: %v", err)
		}
	}
}

func TestRange(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	const n = 3*pageRecords + 5
	update(t, v, func(tx *Tx) error {
		for i := range uint64(n) {
			if err := tx.Put(Ref{1, "p", U64(i)}, Bucket{Messages, "p", i % 2}, []byte(fmt.Sprint(i))); err != nil {
				return err
			}
		}
		// Neighbours that must not be met: another partition, another table, the
		// highest order there is.
		tx.Put(Ref{1, "q", U64(5)}, Bucket{}, []byte("q"))
		tx.Put(Ref{2, "p", U64(5)}, Bucket{}, []byte("2"))
		return tx.Put(Ref{1, "p", strings.Repeat("\xff", MaxOrder)}, Bucket{}, []byte("end"))
	})
	collect := func(from string, reverse bool) (got []string) {
		err := v.Update(func(tx *Tx) error { // an update allows one iterator at once
			for r, err := range tx.Range(1, "p", from, reverse) {
				if err != nil {
					return err
				}
				for range tx.Orders(2, "p", "", false) { // nested
				}
				got = append(got, string(r.Value))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	want = append(want, "end")
	if got := collect("", false); !slices.Equal(got, want) {
		t.Errorf("forward: %v", got)
	}
	if got := collect(U64(100), false); !slices.Equal(got, want[100:]) {
		t.Errorf("from 100: %v", got)
	}
	slices.Reverse(want)
	if got := collect("", true); !slices.Equal(got, want) {
		t.Errorf("backward: %v", got)
	}
	if got := collect(U64(100), true); !slices.Equal(got, want[len(want)-101:]) {
		t.Errorf("down from 100: %v", got)
	}

	// Deleting in the loop, and what was erased.
	update(t, v, func(tx *Tx) error {
		if err := tx.DropBucket(Bucket{Messages, "p", 1}); err != nil {
			return err
		}
		for order, err := range tx.Orders(1, "p", "", false) {
			if err != nil {
				return err
			}
			if i, ok := Number(order); ok && i >= 10 {
				if err := tx.Delete(Ref{1, "p", order}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if got, want := collect("", false), []string{"0", "2", "4", "6", "8", "end"}; !slices.Equal(got, want) {
		t.Errorf("after deleting and dropping: %v, want %v", got, want)
	}
	wantError(t, v, Ref{1, "p", U64(3)}, ErrErased)
	wantError(t, v, Ref{1, "p", U64(3)}, ErrNotFound)
	v.View(func(tx *Tx) error {
		if got, err := tx.Buckets(Messages, "p"); err != nil || !slices.Equal(got, []uint64{0}) {
			t.Errorf("Buckets = %v, %v", got, err)
		}
		return nil
	})
	// A loop that is left early leaves the transaction usable.
	v.View(func(tx *Tx) error {
		for range tx.Range(1, "p", "", false) {
			break
		}
		_, err := tx.Get(Ref{1, "p", U64(0)})
		if err != nil {
			t.Error(err)
		}
		return nil
	})
}

func TestABucketOfADroppedNameBeginsAnew(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	b := Bucket{Messages, "p", 20000}
	first, second := Ref{1, "p", "1"}, Ref{1, "p", "2"}
	update(t, v, func(tx *Tx) error { return tx.Put(first, b, []byte("one")) })
	update(t, v, func(tx *Tx) error {
		if _, err := tx.Get(first); err != nil {
			t.Error(err)
		}
		if err := tx.DropBucket(b); err != nil {
			return err
		}
		if _, err := tx.Get(first); !errors.Is(err, ErrErased) {
			t.Errorf("Get after DropBucket in the same update: %v", err)
		}
		return tx.Put(second, b, []byte("two"))
	})
	wantError(t, v, first, ErrErased)
	wantValue(t, v, second, "two")
	if n, err := v.Sweep(); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v, want 1", n, err)
	}
	if _, err := get(v, first); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrErased) {
		t.Errorf("after Sweep: %v", err)
	}
	wantValue(t, v, second, "two")
}

func TestSweepGoesThroughTheWholeVault(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	const n = sweepRecords + sweepRecords/2
	for part := range 4 {
		update(t, v, func(tx *Tx) error {
			for i := part * n / 4; i < (part+1)*n/4; i++ {
				if err := tx.Put(Ref{9, "p", U64(uint64(i))}, Bucket{Messages, "p", uint64(i % 3)}, nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	update(t, v, func(tx *Tx) error {
		tx.Put(Ref{MaxTable, "q", ""}, Bucket{}, nil)
		tx.DropBucket(Bucket{Messages, "p", 0})
		return tx.DropBucket(Bucket{Messages, "p", 2})
	})
	if got, err := v.Sweep(); got != n*2/3 || err != nil {
		t.Errorf("Sweep = %d, %v, want %d", got, err, n*2/3)
	}
	left := 0
	v.View(func(tx *Tx) error {
		for _, err := range tx.Orders(9, "p", "", false) {
			if err != nil {
				t.Error(err)
			}
			left++
		}
		return nil
	})
	if left != n/3 {
		t.Errorf("%d records left, want %d", left, n/3)
	}
	wantValue(t, v, Ref{MaxTable, "q", ""}, "")
}

func TestRebucket(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	old := Bucket{MLS, "p", 1}
	put := func(order string, b Bucket) {
		t.Helper()
		update(t, v, func(tx *Tx) error { return tx.Put(Ref{3, "p", order}, b, []byte("v"+order)) })
	}
	stored := func(order string) (b []byte) {
		v.kv.View(func(tx *kv.Tx) (err error) {
			b, err = tx.Get(v.keys.recordKey(Ref{3, "p", order}))
			return err
		})
		return b
	}
	for _, tt := range []struct {
		name string
		new  Bucket
	}{
		{"a bucket of the next epoch", Bucket{MLS, "p", 2}},
		{"a fresh key of the same bucket", old},
	} {
		t.Run(tt.name, func(t *testing.T) {
			put("a", old)
			put("b", old)
			put("other", Bucket{MLS, "p", 7})
			before := stored("a")
			update(t, v, func(tx *Tx) error {
				n, err := tx.Rebucket(old, tt.new)
				if n != 2 {
					t.Errorf("%d records moved, want 2", n)
				}
				return err
			})
			wantValue(t, v, Ref{3, "p", "a"}, "va")
			wantValue(t, v, Ref{3, "p", "b"}, "vb")
			wantValue(t, v, Ref{3, "p", "other"}, "vother")
			// What was stored before is of a key that is gone.
			v.View(func(tx *Tx) error {
				if _, err := tx.open(v.keys.recordKey(Ref{3, "p", "a"}), before); !errors.Is(err, ErrErased) {
					t.Errorf("the old bytes: %v, want ErrErased", err)
				}
				return nil
			})
		})
	}
	update(t, v, func(tx *Tx) error {
		if n, err := tx.Rebucket(Bucket{MLS, "p", 99}, Bucket{MLS, "p", 100}); n != 0 || err != nil {
			t.Errorf("Rebucket of a bucket that is not there = %d, %v", n, err)
		}
		return nil
	})
	// Named tables: the record of another is erased, as the comment says.
	update(t, v, func(tx *Tx) error {
		tx.Put(Ref{4, "p", ""}, old, []byte("in 4"))
		tx.Put(Ref{5, "p", ""}, old, []byte("in 5"))
		_, err := tx.Rebucket(old, Bucket{MLS, "p", 3}, 4)
		return err
	})
	wantValue(t, v, Ref{4, "p", ""}, "in 4")
	wantError(t, v, Ref{5, "p", ""}, ErrErased)
}

func TestSequence(t *testing.T) {
	e := newEnv(Config{})
	v, dir := create(t, e)
	for want := uint64(1); want <= 3; want++ {
		update(t, v, func(tx *Tx) error {
			if got, err := tx.Next("events"); got != want || err != nil {
				t.Errorf("Next = %d, %v, want %d", got, err, want)
			}
			return nil
		})
	}
	v.Close()
	v = reopen(t, e, dir)
	update(t, v, func(tx *Tx) error {
		for want := uint64(4); want <= 5; want++ {
			if got, err := tx.Next("events"); got != want || err != nil {
				t.Errorf("Next = %d, %v, want %d", got, err, want)
			}
		}
		if got, err := tx.Next("other"); got != 1 || err != nil {
			t.Errorf("Next of another = %d, %v", got, err)
		}
		return nil
	})
}

func TestSchema(t *testing.T) {
	dir := t.TempDir()
	o := testOptions()
	o.Schema = 2
	v, err := Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	open := func(schema uint32) (*Vault, error) {
		return Open(dir, Unlock{Key: testKey}, Config{Reserve: -1, Schema: schema})
	}
	if _, err := open(1); !errors.Is(err, ErrFormat) {
		t.Fatalf("an older program opens the vault: %v", err)
	}
	v, err = open(3)
	if err != nil {
		t.Fatal(err)
	}
	update(t, v, func(tx *Tx) error {
		if got, err := tx.Schema(); got != 2 || err != nil {
			t.Errorf("Schema = %d, %v, want 2", got, err)
		}
		return tx.SetSchema(3)
	})
	v.Close()
	if _, err := open(2); !errors.Is(err, ErrFormat) {
		t.Errorf("after the records were brought up to date, the older program opens them: %v", err)
	}
}

// One process, and nobody else's eyes.
func TestFolder(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "vault")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if is, err := Exists(dir); is || err != nil {
		t.Errorf("Exists = %v, %v", is, err)
	}
	if _, err := Open(dir, Unlock{Key: testKey}, Config{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of an empty folder: %v", err)
	}
	v, err := Create(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if is, err := Exists(dir); !is || err != nil {
		t.Errorf("Exists = %v, %v", is, err)
	}
	if _, err := Create(dir, testOptions()); !errors.Is(err, ErrExists) {
		t.Errorf("Create again: %v", err)
	}
	if _, err := Open(dir, Unlock{Key: testKey}, Config{Reserve: -1}); !errors.Is(err, kv.ErrLocked) {
		t.Errorf("Open of an open vault: %v", err)
	}
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if want := fs.FileMode(0o700); e.IsDir() && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), info.Mode().Perm(), want)
		}
		if want := fs.FileMode(0o600); e.Name() == headerFile && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), info.Mode().Perm(), want)
		}
		return nil
	})
	v.Close()
	header := filepath.Join(dir, headerFile)
	if err := os.Rename(header, header+".away"); err != nil {
		t.Fatal(err)
	}
	if is, err := Exists(dir); is || !errors.Is(err, ErrDamaged) {
		t.Errorf("Exists without a header = %v, %v", is, err)
	}
	if err := os.Rename(header+".away", header); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(databasePath(dir, v.header.id)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Unlock{Key: testKey}, Config{Reserve: -1}); !errors.Is(err, ErrDamaged) {
		t.Errorf("Open without the database: %v, want ErrDamaged rather than an empty vault", err)
	}
}

func TestOptionsThatMakeNoVault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	key := testKey
	many := map[string][]byte{}
	for i := range maxSlots + 1 {
		many[fmt.Sprint(i)] = key
	}
	for _, tt := range []struct {
		name string
		o    Options
	}{
		{"no slot", Options{}},
		{"an empty passphrase", Options{Passphrase: []byte{}}},
		{"weak parameters", Options{Passphrase: []byte("x"), Params: Params{FloorParams.Memory - 1, 3, 4}}},
		{"too few passes", Options{Passphrase: []byte("x"), Params: Params{FloorParams.Memory, 2, 4}}},
		{"absurd parameters", Options{Passphrase: []byte("x"), Params: Params{maxMemory + 1, 3, 4}}},
		{"a short key", Options{Keys: map[string][]byte{"k": key[1:]}}},
		{"a key named passphrase", Options{Keys: map[string][]byte{"passphrase": key}}},
		{"a key without a name", Options{Keys: map[string][]byte{"": key}}},
		{"too many slots", Options{Keys: many}},
	} {
		if _, err := Create(dir, tt.o); err == nil {
			t.Errorf("%s: a vault was made", tt.name)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a refused Create left a folder")
	}
	v, err := Create(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	for _, u := range []Unlock{{}, {Passphrase: []byte("x"), Key: key}} {
		if v, err := Open(dir, u, Config{}); err == nil {
			v.Close()
			t.Error("opened with none or both")
		}
	}
}

// faults makes the nth commit go wrong.
type faults struct {
	before, after error
	writes        func([]kv.Write)
}

func (f *faults) BeforeCommit(w []kv.Write) error {
	if f.writes != nil {
		f.writes(w)
	}
	return f.before
}
func (f *faults) AfterCommit() error { return f.after }

func TestAfterAnUnknownOutcomeTheDiskDecides(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault faults
		want  string
	}{
		{"the write failed", faults{before: errDisk}, "old"},
		{"the write failed but happened", faults{after: errDisk}, "new"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &faults{}
			o := testOptions()
			o.Hook = f
			v, err := Create(t.TempDir(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			r := Ref{1, "p", ""}
			put := func(s string) error {
				return v.Update(func(tx *Tx) error { return tx.Put(r, Bucket{Messages, "p", 1}, []byte(s)) })
			}
			if err := put("old"); err != nil {
				t.Fatal(err)
			}
			*f = tt.fault
			if err := put("new"); !errors.Is(err, kv.ErrUnknown) {
				t.Fatalf("Update = %v, want ErrUnknown", err)
			}
			*f = faults{}
			wantError(t, v, r, kv.ErrUnknown)
			if err := v.Reopen(); err != nil {
				t.Fatal(err)
			}
			wantValue(t, v, r, tt.want)
			if err := put("newest"); err != nil {
				t.Fatal(err)
			}
			wantValue(t, v, r, "newest")
		})
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 40)
	o := testOptions()
	o.Config = Config{Reserve: 64 << 20, Free: func(string) (uint64, error) { return free.Load(), nil }}
	dir := t.TempDir()
	v, err := Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	r := Ref{1, "p", ""}
	b := Bucket{Messages, "p", 1}
	update(t, v, func(tx *Tx) error { return tx.Put(r, b, []byte("kept")) })
	free.Store(1 << 20)
	// The free space is asked for again after 4 MiB at the latest.
	for i := 0; ; i++ {
		err = v.Update(func(tx *Tx) error { return tx.Put(Ref{2, "p", U64(uint64(i))}, b, make([]byte, 1<<19)) })
		if err != nil || i > 20 {
			break
		}
	}
	if !errors.Is(err, kv.ErrFull) {
		t.Fatalf("Update on a full disk: %v", err)
	}
	wantValue(t, v, r, "kept")
	if err := v.RotateErasure(Messages); !errors.Is(err, kv.ErrFull) {
		t.Errorf("rotation on a full disk: %v", err)
	}
	wantValue(t, v, r, "kept")
	free.Store(1 << 40)
	if err := v.RotateErasure(Messages); err != nil {
		t.Errorf("rotation when there is room again: %v", err)
	}
	update(t, v, func(tx *Tx) error { return tx.Put(r, b, []byte("goes on")) })
	wantValue(t, v, r, "goes on")
	v.Close()
}

// Everything that seals is heard of, and no key meets a nonce twice.
func TestNoKeyMeetsANonceTwice(t *testing.T) {
	var mu sync.Mutex
	seen := map[[56]byte]bool{}
	keys := map[[32]byte]bool{}
	o := testOptions()
	o.Sealed = func(key [32]byte, nonce [24]byte) {
		mu.Lock()
		defer mu.Unlock()
		pair := [56]byte(append(key[:], nonce[:]...))
		if seen[pair] {
			t.Error("a key and a nonce met twice")
		}
		seen[pair], keys[key] = true, true
	}
	f := &faults{}
	o.Hook = f
	dir := t.TempDir()
	v, err := Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	const rounds, each = 60, 50
	for i := range rounds {
		*f = faults{}
		switch i % 5 {
		case 3:
			f.before = errDisk
		case 4:
			f.after = errDisk
		}
		err := v.Update(func(tx *Tx) error {
			for j := range each {
				// The same record, the same value, again and again.
				if err := tx.Put(Ref{1, "p", U64(uint64(j))}, Bucket{MLS, "p", uint64(i / 10)}, []byte("same")); err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, kv.ErrUnknown) {
			*f = faults{}
			err = v.Reopen()
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%20 == 19 {
			if err := v.RotateErasure(MLS); err != nil {
				t.Fatal(err)
			}
		}
	}
	v.Close()
	if len(seen) < rounds*each || len(keys) < 6 {
		t.Errorf("heard of %d pairs of %d keys", len(seen), len(keys))
	}
}

func TestNothingSecretPrints(t *testing.T) {
	passphrase := "correct horse battery staple"
	o := testOptions()
	o.Passphrase = []byte(passphrase)
	v, _ := create(t, newEnv(Config{}))
	update(t, v, func(tx *Tx) error {
		tx.Put(Ref{1, "p", ""}, Bucket{MLS, "p", 1}, []byte(passphrase))
		var log bytes.Buffer
		l := slog.New(slog.NewJSONHandler(&log, nil))
		values := []any{o, Unlock{Passphrase: []byte(passphrase), Key: testKey}, v, tx}
		for _, x := range values {
			l.Info("x", "x", x)
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b"} {
				s := fmt.Sprintf(verb, x)
				if len(s) > 60 || strings.Contains(s, "staple") {
					t.Errorf("%s of %T prints %q", verb, x, s)
				}
			}
		}
		if strings.Contains(log.String(), "staple") || strings.Contains(log.String(), "BwcHB") || log.Len() > 800 {
			t.Errorf("logged: %s", log.String())
		}
		return nil
	})
}

func TestConcurrentUse(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	const conversations, messages = 4, 60
	var wg sync.WaitGroup
	var done atomic.Int32
	for c := range conversations {
		p := fmt.Sprint("conversation ", c)
		wg.Go(func() {
			defer done.Add(1)
			for i := range uint64(messages) {
				err := v.Update(func(tx *Tx) error {
					if err := tx.Put(Ref{1, p, ""}, Bucket{MLS, p, i / 10}, []byte(fmt.Sprint("state ", i))); err != nil {
						return err
					}
					if i > 0 && i%10 == 0 {
						if err := tx.DropBucket(Bucket{MLS, p, i/10 - 1}); err != nil {
							return err
						}
					}
					return tx.Put(Ref{2, p, U64(i)}, Bucket{Messages, p, i / 20}, []byte(fmt.Sprint("message ", i)))
				})
				if err != nil {
					t.Error(err)
					return
				}
				wantValue(t, v, Ref{1, p, ""}, fmt.Sprint("state ", i))
			}
		})
		wg.Go(func() {
			for done.Load() < conversations {
				err := v.View(func(tx *Tx) error {
					n := uint64(0)
					for r, err := range tx.Range(2, p, "", false) {
						if err != nil {
							return err
						}
						if want := fmt.Sprint("message ", n); string(r.Value) != want || r.Order != U64(n) {
							return fmt.Errorf("record %d is %q", n, r.Value)
						}
						n++
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
			}
		})
	}
	wg.Go(func() {
		for done.Load() < conversations {
			for _, d := range []Domain{MLS, Messages} {
				if err := v.RotateErasure(d); err != nil {
					t.Error(err)
					return
				}
			}
			runtime.Gosched()
		}
	})
	wg.Wait()
	for c := range conversations {
		wantValue(t, v, Ref{1, fmt.Sprint("conversation ", c), ""}, fmt.Sprint("state ", messages-1))
	}
}

// A vault and a map are given the same random operations, and must hold the same.
func TestAgainstAMap(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { againstAMap(t, uint64(seed)) })
	}
}

func againstAMap(t *testing.T, seed uint64) {
	type held struct {
		bucket Bucket
		value  string
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	e := newEnv(Config{})
	e.batch = 3
	f := &faults{}
	c := Config{Reserve: -1, Hook: f}
	dir := t.TempDir()
	o := testOptions()
	o.Config = c
	v, err := e.create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { v.Close() }()
	model := map[Ref]held{}
	partitions := []string{"a", "b", ""}
	ref := func() Ref {
		return Ref{Table(1 + rnd.IntN(2)), partitions[rnd.IntN(3)], U64(rnd.Uint64N(12))}
	}
	bucket := func(p string) Bucket {
		if d := Domain(rnd.IntN(3)); d != Plain {
			return Bucket{d, p, rnd.Uint64N(3)}
		}
		return Bucket{}
	}
	compare := func() {
		t.Helper()
		err := v.View(func(tx *Tx) error {
			n := 0
			for table := Table(1); table <= 2; table++ {
				for _, p := range partitions {
					for r, err := range tx.Range(table, p, "", false) {
						if err != nil {
							return err
						}
						n++
						if want, ok := model[Ref{table, p, r.Order}]; !ok || want.value != string(r.Value) {
							return fmt.Errorf("table %d, %q, %x: %q, want %q", table, p, r.Order, r.Value, want.value)
						}
					}
				}
			}
			if n != len(model) {
				return fmt.Errorf("%d records, want %d", n, len(model))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for step := range 400 {
		*f = faults{}
		switch rnd.IntN(12) {
		case 0:
			if err := v.RotateErasure(Domain(1 + rnd.IntN(2))); err != nil {
				t.Fatal(err)
			}
		case 1:
			if step%3 == 0 {
				v.Close()
				if v, err = e.open(dir, Unlock{Key: testKey}, c); err != nil {
					t.Fatal(err)
				}
			}
		case 2:
			if _, err := v.Sweep(); err != nil {
				t.Fatal(err)
			}
		default:
			next := map[Ref]held{}
			for k, h := range model {
				next[k] = h
			}
			if rnd.IntN(6) == 0 {
				f.before = errDisk
			} else if rnd.IntN(6) == 0 {
				f.after = errDisk
			}
			abandon := rnd.IntN(8) == 0
			wrote := false
			err := v.Update(func(tx *Tx) error {
				for range 1 + rnd.IntN(5) {
					r := ref()
					b := bucket(r.Partition)
					switch op := rnd.IntN(7); {
					case op < 4:
						h := held{b, fmt.Sprint(step, " ", rnd.Uint32())}
						if err := tx.Put(r, b, []byte(h.value)); err != nil {
							return err
						}
						next[r], wrote = h, true
					case op == 4:
						if err := tx.Delete(r); err != nil {
							return err
						}
						delete(next, r)
						wrote = true
					case b == Bucket{}:
					case op == 5:
						if err := tx.DropBucket(b); err != nil {
							return err
						}
						for k, h := range next {
							if h.bucket == b {
								delete(next, k)
							}
						}
						wrote = true
					default:
						to := b
						to.Number = rnd.Uint64N(3)
						if _, err := tx.Rebucket(b, to); err != nil {
							return err
						}
						for k, h := range next {
							if h.bucket == b {
								next[k] = held{to, h.value}
							}
						}
					}
				}
				if abandon {
					return errEnded
				}
				return nil
			})
			switch {
			case abandon && err == errEnded:
			case err == nil:
				model = next
			case errors.Is(err, kv.ErrUnknown):
				if f.before == nil {
					model = next
				}
				*f = faults{}
				if err := v.Reopen(); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatal(err)
			}
			if err == nil && wrote && (f.before != nil || f.after != nil) {
				t.Fatal("a fault was not reported")
			}
		}
		if step%5 == 0 {
			compare()
		}
	}
	*f = faults{}
	compare()
	v.Close()
	if v, err = e.open(dir, Unlock{Key: testKey}, c); err != nil {
		t.Fatal(err)
	}
	compare()
}

func BenchmarkPut(b *testing.B) {
	v, _ := create(b, newEnv(Config{}))
	value := make([]byte, 1024)
	sum := sha256.Sum256(nil)
	conversation := string(sum[:])
	i := uint64(0)
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		i++
		err := v.Update(func(tx *Tx) error {
			return tx.Put(Ref{1, conversation, U64(i)}, Bucket{Messages, conversation, i / 1000}, value)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// What one input of a conversation writes: state, message, cursor and event.
func BenchmarkInput(b *testing.B) {
	v, _ := create(b, newEnv(Config{}))
	state, message := make([]byte, 4096), make([]byte, 300)
	conversation := strings.Repeat("c", 32)
	i := uint64(0)
	for b.Loop() {
		i++
		err := v.Update(func(tx *Tx) error {
			seq, err := tx.Next("events")
			return errors.Join(err,
				tx.Put(Ref{1, conversation, ""}, Bucket{MLS, conversation, 1}, state),
				tx.Put(Ref{2, conversation, U64(i)}, Bucket{Messages, conversation, i / 1000}, message),
				tx.Put(Ref{3, conversation, ""}, Bucket{}, binary.BigEndian.AppendUint64(nil, i)),
				tx.Put(Ref{4, "", U64(seq)}, Bucket{}, message[:40]))
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	v, _ := create(b, newEnv(Config{}))
	value := make([]byte, 1024)
	const n = 1000
	update(b, v, func(tx *Tx) error {
		for i := range uint64(n) {
			if err := tx.Put(Ref{1, "p", U64(i)}, Bucket{Messages, "p", i / 100}, value); err != nil {
				return err
			}
		}
		return nil
	})
	i := uint64(0)
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		i++
		if err := v.View(func(tx *Tx) error { _, err := tx.Get(Ref{1, "p", U64(i % n)}); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRange50(b *testing.B) {
	v, _ := create(b, newEnv(Config{}))
	update(b, v, func(tx *Tx) error {
		for i := range uint64(1000) {
			if err := tx.Put(Ref{1, "p", U64(i)}, Bucket{Messages, "p", i / 100}, make([]byte, 300)); err != nil {
				return err
			}
		}
		return nil
	})
	for b.Loop() {
		err := v.View(func(tx *Tx) error {
			n := 0
			for _, err := range tx.Range(1, "p", "", true) {
				if err != nil {
					return err
				}
				if n++; n == 50 {
					break
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
