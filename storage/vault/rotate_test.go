package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sotto/storage/kv"
)

// onDisk returns an environment whose header lies on d.
func onDisk(d *disk) *env {
	e := newEnv(Config{})
	e.files = func(string) files { return d }
	e.batch = 2
	return e
}

// The state before each rotation of these tests: five buckets, two of them dropped.
func fill(t testing.TB, v *Vault) {
	t.Helper()
	update(t, v, func(tx *Tx) error {
		for i := range uint64(5) {
			b := Bucket{MLS, "p", i}
			if err := tx.Put(Ref{1, "p", U64(i)}, b, []byte(fmt.Sprint("epoch ", i))); err != nil {
				return err
			}
			if i < 2 {
				if err := tx.DropBucket(b); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func checkFilled(t testing.TB, v *Vault) {
	t.Helper()
	for i := range uint64(5) {
		if r := (Ref{1, "p", U64(i)}); i < 2 {
			wantError(t, v, r, ErrErased)
		} else {
			wantValue(t, v, r, fmt.Sprint("epoch ", i))
		}
	}
}

// copyFolder copies what a process that is killed leaves, without its lock.
func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if e.Name() == "LOCK" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(to, rel), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		// Badger's files are mostly holes.
		if _, err = f.Write(bytes.TrimRight(b, "\x00")); err == nil {
			err = f.Truncate(int64(len(b)))
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A rotation is stopped at every operation on the header's files, in every way, by the
// end of the process and by a loss of power; opening finishes it, and can itself be
// stopped anywhere.
func TestRotationStoppedAtEveryStep(t *testing.T) {
	first := newDisk()
	v, dir := create(t, onDisk(first))
	fill(t, v)
	v.Close()
	before := slices.Clone(first.names[headerFile].data)

	whole := first.clone()
	rotated := filepath.Join(t.TempDir(), "vault")
	copyFolder(t, dir, rotated)
	v = reopen(t, onDisk(whole), rotated)
	if err := v.RotateErasure(MLS); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, v)
	v.Close()
	if left := whole.remains(); len(left) > 0 {
		t.Fatalf("a rotation leaves %d old headers readable", len(left))
	}
	steps := whole.steps
	if steps < 20 {
		t.Fatalf("a rotation has %d steps", steps)
	}

	type crash struct {
		at    int
		how   failure
		power bool
		keep  int
	}
	var crashes []crash
	for at := 1; at <= steps; at++ {
		for _, how := range []failure{failed, happened, torn} {
			crashes = append(crashes, crash{at, how, false, 0}, crash{at, how, true, 0}, crash{at, how, true, 1})
		}
	}
	run := 0
	for _, c := range crashes {
		if testing.Short() && run%7 != 0 {
			run++
			continue
		}
		d := first.clone()
		// The database is copied: what one crash leaves in it is not the next one's.
		copied := filepath.Join(t.TempDir(), "vault")
		copyFolder(t, dir, copied)
		e := onDisk(d)
		v := reopen(t, e, copied)
		d.at, d.steps, d.how, d.stop = c.at, 0, c.how, true
		err := v.RotateErasure(MLS)
		if err == nil && d.stopped {
			t.Fatalf("%+v: a crash and no error", c)
		}
		v.Close()

		// Opening is stopped too, once, somewhere: then what the second crash leaves.
		d.restart(c.power, c.keep)
		run++
		d.at, d.how, d.stop = 1+run%6, []failure{failed, happened, torn}[run%3], true
		if w, err := e.open(copied, Unlock{Key: testKey}, Config{Reserve: -1}); err == nil {
			w.Close()
		}
		d.restart(run%2 == 0, run/2%2)

		w, err := e.open(copied, Unlock{Key: testKey}, Config{Reserve: -1})
		if err != nil {
			t.Fatalf("%+v: open: %v; the folder has %v", c, err, d.list())
		}
		checkFilled(t, w)
		if n := len(w.keys.erasure[MLS]); n != 1 {
			t.Errorf("%+v: %d erasure keys after opening", c, n)
		}
		if got := d.list(); !slices.Equal(got, []string{headerFile}) {
			t.Errorf("%+v: after opening the folder has %v", c, got)
		}
		update(t, w, func(tx *Tx) error { return tx.Put(Ref{2, "p", ""}, Bucket{MLS, "p", 9}, []byte("new")) })
		if err := w.RotateErasure(MLS); err != nil {
			t.Errorf("%+v: rotation after it: %v", c, err)
		}
		checkFilled(t, w)
		wantValue(t, w, Ref{2, "p", ""}, "new")
		if bytes.Equal(d.names[headerFile].data, before) {
			t.Errorf("%+v: the header is the first one", c)
		}
		if left := d.remains(); len(left) > 0 {
			t.Errorf("%+v: %d old headers are left readable", c, len(left))
		}
		w.Close()
		os.RemoveAll(copied)
	}
}

// The same without a crash: an operation returns an error, and the process lives on.
func TestRotationGoesOnAfterAnError(t *testing.T) {
	first := newDisk()
	v, dir := create(t, onDisk(first))
	fill(t, v)
	v.Close()
	for _, how := range []failure{failed, happened, torn} {
		for at := 1; ; at++ {
			d := first.clone()
			copied := filepath.Join(t.TempDir(), "vault")
			copyFolder(t, dir, copied)
			v := reopen(t, onDisk(d), copied)
			d.at, d.steps, d.how = at, 0, how
			err := v.RotateErasure(MLS)
			if d.steps < at {
				break // all steps have had their turn
			}
			if err == nil {
				t.Errorf("step %d %s: no error", at, how)
			}
			checkFilled(t, v)
			update(t, v, func(tx *Tx) error { return tx.Put(Ref{2, "p", ""}, Bucket{MLS, "p", 9}, []byte("new")) })
			if err := v.RotateErasure(MLS); err != nil {
				t.Errorf("step %d %s: again: %v", at, how, err)
			}
			checkFilled(t, v)
			wantValue(t, v, Ref{2, "p", ""}, "new")
			v.Close()
			w := reopen(t, onDisk(d), copied)
			checkFilled(t, w)
			wantValue(t, w, Ref{2, "p", ""}, "new")
			if n := len(w.keys.erasure[MLS]); n != 1 {
				t.Errorf("step %d %s: %d erasure keys", at, how, n)
			}
			if left := d.remains(); len(left) > 0 {
				t.Errorf("step %d %s: %d old headers are left readable", at, how, len(left))
			}
			w.Close()
			os.RemoveAll(copied)
			if testing.Short() {
				at += 4
			}
		}
	}
}

// Rewrapping goes in batches; each commit fails, or fails but happens.
func TestRotationStoppedWhileRewrapping(t *testing.T) {
	for _, how := range []failure{failed, happened} {
		for at := 1; at <= 2; at++ {
			for _, killed := range []bool{false, true} {
				t.Run(fmt.Sprint("commit ", at, " ", how, ", process killed: ", killed), func(t *testing.T) {
					e := newEnv(Config{})
					e.batch = 2
					commits := 0
					f := &faults{}
					o := testOptions()
					o.Hook = f
					dir := t.TempDir()
					v, err := e.create(dir, o)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { v.Close() }()
					fill(t, v)
					f.writes = func([]kv.Write) {
						if commits++; commits == at {
							if how == failed {
								f.before = errDisk
							} else {
								f.after = errDisk
							}
						}
					}
					if err := v.RotateErasure(MLS); !errors.Is(err, kv.ErrUnknown) {
						t.Fatalf("RotateErasure = %v", err)
					}
					*f = faults{}
					if killed {
						v.Close()
						if v, err = e.open(dir, Unlock{Key: testKey}, o.Config); err != nil {
							t.Fatal(err)
						}
						if n := len(v.keys.erasure[MLS]); n != 1 {
							t.Errorf("%d erasure keys after opening", n)
						}
					} else {
						if err := v.Reopen(); err != nil {
							t.Fatal(err)
						}
						checkFilled(t, v) // with both keys
						if err := v.RotateErasure(MLS); err != nil {
							t.Fatal(err)
						}
					}
					checkFilled(t, v)
				})
			}
		}
	}
}

// Creating a vault is stopped at every step: either there is one that opens, or none and
// it can be made.
func TestCreateStoppedAtEveryStep(t *testing.T) {
	for _, how := range []failure{failed, happened, torn} {
		for _, power := range []bool{false, true} {
			for keep := range 2 {
				for at := 1; ; at++ {
					d := newDisk()
					e := onDisk(d)
					dir := t.TempDir()
					d.at, d.how, d.stop = at, how, true
					v, err := e.create(dir, testOptions())
					if err == nil {
						v.Close()
						break
					}
					d.restart(power, keep)
					v, err = e.open(dir, Unlock{Key: testKey}, Config{Reserve: -1})
					if errors.Is(err, ErrNotFound) {
						v, err = e.create(dir, testOptions())
					}
					if err != nil {
						t.Fatalf("step %d %s, power lost %v: %v", at, how, power, err)
					}
					fill(t, v)
					checkFilled(t, v)
					if got := d.list(); slices.Contains(got, firstFile(v.header.id)) || slices.Contains(got, newFile) {
						t.Errorf("step %d %s: the folder has %v", at, how, got)
					}
					v.Close()
				}
			}
		}
	}
}

// Two processes that create at once: one wins, and its vault is whole.
func TestCreateTwiceAtOnce(t *testing.T) {
	dir := t.TempDir()
	results := make(chan error, 4)
	for range 4 {
		go func() {
			v, err := Create(dir, testOptions())
			if err == nil {
				fill(t, v)
				err = v.Close()
			}
			results <- err
		}()
	}
	won := 0
	for range 4 {
		// Who loses may also stumble over the other's half-written header.
		if err := <-results; err == nil {
			won++
		} else {
			t.Log(err)
		}
	}
	if won != 1 {
		t.Fatalf("%d won", won)
	}
	v := reopen(t, newEnv(Config{}), dir)
	checkFilled(t, v)
}

func TestADamagedBucketKeyDoesNotHoldUpTheRest(t *testing.T) {
	e := newEnv(Config{})
	e.batch = 2
	v, dir := create(t, e)
	fill(t, v)
	name := v.keys.bucketName(Bucket{MLS, "p", 2})
	err := v.kv.Update(func(tx *kv.Tx) error {
		b, err := tx.Get(name[:])
		if err != nil {
			return err
		}
		b[len(b)-1] ^= 1
		return tx.Set(name[:], b)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.RotateErasure(MLS); err != nil {
		t.Fatal(err)
	}
	wantError(t, v, Ref{1, "p", U64(2)}, ErrDamaged)
	wantValue(t, v, Ref{1, "p", U64(3)}, "epoch 3")
	v.Close()
	v = reopen(t, e, dir)
	wantError(t, v, Ref{1, "p", U64(2)}, ErrDamaged)
	wantValue(t, v, Ref{1, "p", U64(3)}, "epoch 3")
	if err := v.RotateErasure(Plain); err == nil {
		t.Error("the plain domain was rotated")
	}
}

// A carver has the master key and every byte of the folder, and looks for a value whose
// name and place it knows. It says how often it met the sealed value and its bucket's
// wrapped key, and the plaintexts it could open.
type carver struct {
	v   *Vault // for its names
	key [keySize]byte
}

func (c *carver) carve(t testing.TB, dir string, r Ref, b Bucket, id [idSize]byte, size int, extra ...erasureKey) (plain []string, values, wraps int) {
	t.Helper()
	var all [][]byte
	erasure := slices.Clone(extra)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	each := func(pattern []byte, size int, found func([]byte)) {
		for _, data := range all {
			for {
				i := bytes.Index(data, pattern)
				if i < 0 || i+size > len(data) {
					break
				}
				found(data[i : i+size])
				data = data[i+1:]
			}
		}
	}
	// Every erasure key that any header-like bytes still hold.
	wrap := newKeyring(c.key[:], c.v.header.id).wrap
	for d := MLS; d < domains; d++ {
		each([]byte{byte(d)}, 1+idSize+wrappedKeySize, func(x []byte) {
			w := wrappedErasure{domain: d, id: [idSize]byte(x[1:]), wrapped: x[1+idSize:]}
			if d != b.Domain || len(bytes.Trim(w.id[:], "\x00")) == 0 {
				return
			}
			if key, ok := unseal(&wrap, w.aad(c.v.header.id), w.wrapped); ok {
				erasure = append(erasure, erasureKey{w.id, [keySize]byte(key)})
			}
		})
	}
	names := newKeyring(c.key[:], c.v.header.id)
	name := names.bucketName(b)
	var buckets [][keySize]byte
	each(append([]byte{bucketKeyVersion}, id[:]...), 1+2*idSize+wrappedKeySize, func(x []byte) {
		k, err := parseBucketKey(x)
		if err != nil {
			return
		}
		wraps++
		for _, e := range erasure {
			if key, ok := unseal(&e.key, k.aad(&name), k.wrapped); ok {
				buckets = append(buckets, [keySize]byte(key))
			}
		}
	})
	key := names.recordKey(r)
	in := sealedIn{domain: b.Domain, name: name, id: id}
	front := in.append(nil)
	each(front, len(front)+overhead+size, func(x []byte) {
		values++
		for _, k := range buckets {
			if value, ok := unseal(&k, recordSealAAD(key, front), x[len(front):]); ok {
				plain = append(plain, string(value))
			}
		}
	})
	slices.Sort(plain)
	return slices.Compact(plain), values, wraps
}

func bucketID(t testing.TB, v *Vault, b Bucket) (id [idSize]byte) {
	t.Helper()
	err := v.View(func(tx *Tx) error {
		open, err := tx.bucket(v.keys.bucketName(b))
		if err == nil {
			id = open.id
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// T33. Who has the disk and the master key after a rotation finds the sealed values and
// their wrapped keys, and nothing that opens them. The carver is shown to work: it finds
// the values before, and after the rotation with the old erasure key. Badger's own
// encryption is left off, so that it sees at least what the holder of the master key can.
//
// What this shows is a folder on a medium that overwrites in place: spec/vault.md 5 says
// what copy-on-write file systems and flash keep besides.
func TestWhatWasErasedIsNotOnTheDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    Bucket
		// erase makes the value "to be erased" unreadable, keeping "to be kept".
		erase func(t *testing.T, v *Vault, b Bucket)
	}{
		{"a day of messages", Bucket{Messages, "p", 20415}, func(t *testing.T, v *Vault, b Bucket) {
			update(t, v, func(tx *Tx) error { return tx.DropBucket(b) })
		}},
		{"an epoch", Bucket{MLS, "p", 3}, func(t *testing.T, v *Vault, b Bucket) {
			update(t, v, func(tx *Tx) error { return tx.DropBucket(b) })
		}},
		{"a used ratchet key of a live state", Bucket{MLS, "p", 3}, func(t *testing.T, v *Vault, b Bucket) {
			update(t, v, func(tx *Tx) error { return tx.Put(Ref{1, "p", "x"}, b, []byte("advanced ....")) })
			update(t, v, func(tx *Tx) error { _, err := tx.Rebucket(b, b); return err })
			wantValue(t, v, Ref{1, "p", "x"}, "advanced ....")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEnv(Config{})
			e.bare = true
			v, dir := create(t, e)
			r, secret := Ref{1, "p", "x"}, "to be erased!"
			kept := Bucket{tt.b.Domain, "p", tt.b.Number + 1}
			update(t, v, func(tx *Tx) error {
				tx.Put(Ref{1, "p", "kept"}, kept, []byte("to be kept..."))
				return tx.Put(r, tt.b, []byte(secret))
			})
			c := &carver{v, v.keys.master}
			id, keptID := bucketID(t, v, tt.b), bucketID(t, v, kept)
			old := v.keys.erasure[tt.b.Domain][0]
			// The file of today's header, held open as a forensic reader of its blocks would.
			blocks, err := os.Open(filepath.Join(dir, headerFile))
			if err != nil {
				t.Fatal(err)
			}
			defer blocks.Close()

			carve := func(r Ref, b Bucket, id [idSize]byte, extra ...erasureKey) (plain []string, values, wraps int) {
				t.Helper()
				return c.carve(t, dir, r, b, id, len(secret), extra...)
			}
			if plain, _, _ := carve(r, tt.b, id); !slices.Contains(plain, secret) {
				t.Fatalf("the carver finds %q before anything is erased", plain)
			}
			tt.erase(t, v, tt.b)
			if plain, _, _ := carve(r, tt.b, id); !slices.Contains(plain, secret) {
				t.Fatalf("the carver finds %q before the rotation: it would prove nothing after it", plain)
			}
			if err := v.RotateErasure(tt.b.Domain); err != nil {
				t.Fatal(err)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}

			plain, values, wraps := carve(r, tt.b, id)
			if len(plain) > 0 {
				t.Errorf("after the rotation the disk gives away %q", plain)
			}
			// Closing may compact the old bytes away; while they are there, the old key is all
			// that is missing.
			again, _, _ := carve(r, tt.b, id, old)
			t.Logf("%d sealed values and %d wrapped keys lie on the disk; with the old erasure key they give %q", values, wraps, again)
			if plain, _, _ := carve(Ref{1, "p", "kept"}, kept, keptID); !slices.Contains(plain, "to be kept...") {
				t.Errorf("the carver does not find what was kept: %q", plain)
			}
			raw := make([]byte, maxHeader)
			n, _ := blocks.Read(raw)
			if n == 0 || len(bytes.Trim(raw[:n], "\x00")) > 0 {
				t.Errorf("the blocks of the old header hold %d bytes that are not overwritten", n)
			}
		})
	}
}

// The same while the vault is open: the bytes are still in Badger's log.
func TestWhatWasErasedIsOutOfReachBeforeTheDiskForgets(t *testing.T) {
	e := newEnv(Config{})
	e.bare = true
	v, dir := create(t, e)
	b, r, secret := Bucket{Messages, "p", 1}, Ref{1, "p", "x"}, "to be erased!"
	update(t, v, func(tx *Tx) error { return tx.Put(r, b, []byte(secret)) })
	id, old := bucketID(t, v, b), v.keys.erasure[Messages][0]
	update(t, v, func(tx *Tx) error { return tx.DropBucket(b) })
	if err := v.RotateErasure(Messages); err != nil {
		t.Fatal(err)
	}
	c := &carver{v, v.keys.master}
	plain, values, wraps := c.carve(t, dir, r, b, id, len(secret))
	if len(plain) > 0 || values == 0 || wraps == 0 {
		t.Errorf("carved %q of %d sealed values and %d wrapped keys: want none of some", plain, values, wraps)
	}
	if plain, _, _ := c.carve(t, dir, r, b, id, len(secret), old); !slices.Contains(plain, secret) {
		t.Errorf("with the old erasure key: %q, want what was erased: else the test shows nothing", plain)
	}
}
