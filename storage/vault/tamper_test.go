package vault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sotto/storage/kv"
)

// raw reads and changes what is stored, as who holds Badger's key can.
func raw(t testing.TB, v *Vault, f func(tx *kv.Tx) error) {
	t.Helper()
	if err := v.kv.Update(f); err != nil {
		t.Fatal(err)
	}
}

func isRefusal(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrFormat) || errors.Is(err, ErrNotFound)
}

// T32, for who has even the key of Badger's encryption: every byte of every stored value
// changed, values exchanged and moved. The value is refused or absent, never another.
func TestStoredBytesChanged(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	buckets := []Bucket{{}, {MLS, "p", 1}, {Messages, "p", 1}, {Messages, "p", 2}}
	ref := func(table Table, i int) Ref { return Ref{table, "p", U64(uint64(i))} }
	value := func(table Table, i int) string { return fmt.Sprint("table ", table, " value ", i) }
	update(t, v, func(tx *Tx) error {
		for table := Table(1); table <= 3; table++ {
			for i, b := range buckets {
				if err := tx.Put(ref(table, i), b, []byte(value(table, i))); err != nil {
					return err
				}
			}
		}
		_, err := tx.Next("events")
		return err
	})
	var keys [][]byte
	stored := map[string][]byte{}
	raw(t, v, func(tx *kv.Tx) error {
		seq, failed := tx.Range([]byte{}, nil, false)
		for k, b := range seq {
			if k[0] == 0 {
				continue // kv's own
			}
			keys = append(keys, bytes.Clone(k))
			stored[string(k)] = bytes.Clone(b)
		}
		return failed()
	})
	if want := 3*4 + 3 + 1 + 1; len(keys) != want {
		t.Fatalf("%d keys are stored, want %d", len(keys), want)
	}
	// check reads everything; those whose value depends on the changed key may be refused.
	check := func(what string, changed ...[]byte) {
		t.Helper()
		refused := 0
		err := v.View(func(tx *Tx) error {
			for table := Table(1); table <= 3; table++ {
				for i := range buckets {
					got, err := tx.Get(ref(table, i))
					switch {
					case err == nil && string(got) != value(table, i):
						t.Errorf("%s: table %d value %d is %q", what, table, i, got)
					case err != nil && !isRefusal(err):
						t.Errorf("%s: %v", what, err)
					case err != nil:
						refused++
						own := slices.ContainsFunc(changed, func(k []byte) bool {
							return bytes.Equal(k, v.keys.recordKey(ref(table, i)))
						})
						name := v.keys.bucketName(buckets[i])
						if !own && !slices.ContainsFunc(changed, func(k []byte) bool { return bytes.Equal(k, name[:]) }) {
							t.Errorf("%s: table %d value %d was not touched and is refused: %v", what, table, i, err)
						}
					}
				}
			}
			if n, err := tx.Last("events"); err == nil && n != 1 || err != nil && !isRefusal(err) {
				t.Errorf("%s: the sequence is at %d, %v", what, n, err)
			} else if err != nil {
				refused++
			}
			if n, err := tx.Schema(); err == nil && n != 0 || err != nil && !isRefusal(err) {
				t.Errorf("%s: the schema is %d, %v", what, n, err)
			} else if err != nil {
				refused++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(changed) > 0 && refused == 0 {
			t.Errorf("%s: nothing was refused", what)
		}
	}
	set := func(key, b []byte) { raw(t, v, func(tx *kv.Tx) error { return tx.Set(key, b) }) }
	check("nothing changed")
	for _, k := range keys {
		was := stored[string(k)]
		for i := range was {
			if testing.Short() && i%5 != 0 {
				continue
			}
			b := bytes.Clone(was)
			b[i] ^= 1 << (i % 8)
			set(k, b)
			check(fmt.Sprintf("table %#x, byte %d changed", k[0], i), k)
		}
		for _, n := range []int{0, 1, 10, len(was) - 1} {
			set(k, was[:n])
			check(fmt.Sprintf("table %#x, cut to %d bytes", k[0], n), k)
		}
		set(k, append(bytes.Clone(was), 0))
		check("a byte more", k)
		raw(t, v, func(tx *kv.Tx) error { return tx.Delete(k) })
		if k[0] != byte(sequenceTable) { // a sequence that is absent begins anew
			check("deleted", k)
		}
		set(k, was)
	}
	for i, a := range keys {
		for _, b := range keys[i+1:] {
			set(a, stored[string(b)])
			set(b, stored[string(a)])
			check(fmt.Sprintf("tables %#x and %#x, values exchanged", a[0], b[0]), a, b)
			set(a, stored[string(a)])
			check("a copied to b", b)
			set(b, stored[string(b)])
		}
	}
	check("all put back")

	// What is not promised: an older value of the same key, put back whole, is genuine.
	r := ref(1, 1)
	old := stored[string(v.keys.recordKey(r))]
	update(t, v, func(tx *Tx) error { return tx.Put(r, buckets[1], []byte("newer")) })
	set(v.keys.recordKey(r), old)
	wantValue(t, v, r, value(1, 1))
}

// A range goes on behind a damaged record and says where it is.
func TestRangeOverDamage(t *testing.T) {
	v, _ := create(t, newEnv(Config{}))
	update(t, v, func(tx *Tx) error {
		for i := range uint64(5) {
			if err := tx.Put(Ref{1, "p", U64(i)}, Bucket{}, []byte(fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return nil
	})
	raw(t, v, func(tx *kv.Tx) error { return tx.Set(v.keys.recordKey(Ref{1, "p", U64(2)}), []byte("\x01rubbish")) })
	var got []string
	v.View(func(tx *Tx) error {
		for r, err := range tx.Range(1, "p", "", false) {
			if err != nil {
				n, _ := Number(r.Order)
				got = append(got, fmt.Sprint("damaged ", errors.Is(err, ErrDamaged), " at ", n))
				continue
			}
			got = append(got, string(r.Value))
		}
		return nil
	})
	if want := []string{"0", "1", "damaged true at 2", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// T32, for who has only the disk: bytes of every file changed, of a vault that was closed
// and of one whose process was killed, whose log is not yet in tables.
func TestFilesChanged(t *testing.T) {
	e := newEnv(Config{})
	v, dir := create(t, e)
	ref := func(i int) Ref { return Ref{1, "p", U64(uint64(i))} }
	value := func(i int) string { return fmt.Sprint(bytes.Repeat([]byte{byte(i)}, 40)) }
	const n = 20
	for i := range n {
		update(t, v, func(tx *Tx) error { return tx.Put(ref(i), Bucket{Messages, "p", uint64(i % 3)}, []byte(value(i))) })
	}
	killed := filepath.Join(t.TempDir(), "killed")
	copyFolder(t, dir, killed)
	v.Close()

	for _, from := range []string{dir, killed} {
		files, err := filepath.Glob(filepath.Join(from, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(from, headerFile))
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			end := len(bytes.TrimRight(data, "\x00"))
			rel, _ := filepath.Rel(from, path)
			spots := 12
			if testing.Short() {
				spots = 3
			}
			for s := range spots {
				if end == 0 {
					continue
				}
				at := s * (end - 1) / max(1, spots-1)
				to := filepath.Join(t.TempDir(), "vault")
				copyFolder(t, from, to)
				f, err := os.OpenFile(filepath.Join(to, rel), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.WriteAt([]byte{data[at] ^ 0x10}, int64(at))
				f.Close()
				what := fmt.Sprintf("%s, byte %d of %d changed", filepath.Base(rel), at, end)
				w, err := e.open(to, Unlock{Key: testKey}, Config{Reserve: -1})
				if err != nil {
					if !isRefusal(err) && !errors.Is(err, ErrWrongKey) {
						t.Errorf("%s: open: %v", what, err)
					}
				} else {
					for i := range n {
						if got, err := get(w, ref(i)); err == nil && string(got) != value(i) || err != nil && !isRefusal(err) {
							t.Errorf("%s: value %d is %q, %v", what, i, got, err)
						}
					}
					w.Close()
				}
				os.RemoveAll(to)
			}
		}
	}
}
