package vault

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"sotto/spec/vectors"
)

var testPassphrase = []byte("correct horse battery staple")

// newHeader returns a header with a passphrase slot of the floor parameters, a key slot
// and a privileged secret, and its bytes.
func newHeader(e *env) (*header, []byte, *keyring) {
	h := &header{}
	e.random(h.id[:])
	var master [keySize]byte
	e.random(master[:])
	keys := newKeyring(master[:], h.id)
	for d := MLS; d < domains; d++ {
		k, w := e.newErasure(h.id, d, &keys.wrap)
		keys.push(d, k)
		h.erasure = append(h.erasure, w)
	}
	h.slots = []slot{
		e.newSlot(h.id, PassphraseSlot, passphraseName, testPassphrase, FloorParams, &master),
		e.newSlot(h.id, KeySlot, "recovery", testKey, Params{}, &master),
	}
	h.privileged = e.newPrivileged(h.id, testPassphrase, []byte("account key"), FloorParams)
	return h, h.marshal(&keys.mac), keys
}

// remembering returns an environment that stretches the same passphrase, salt and
// parameters only once. Parameters that would take long give random bytes: that these
// do not open the slot is what argon2id promises.
func remembering() *env {
	e := newEnv(Config{})
	var mu sync.Mutex
	known := map[string][]byte{}
	e.stretch = func(passphrase, salt []byte, p Params) []byte {
		mu.Lock()
		defer mu.Unlock()
		if int64(p.Memory)*int64(p.Time) > 3*256<<10 {
			b := make([]byte, keySize)
			e.random(b)
			return b
		}
		key := fmt.Sprintf("%x %x %v", passphrase, salt, p)
		if known[key] == nil {
			known[key] = stretch(passphrase, salt, p)
		}
		return bytes.Clone(known[key])
	}
	return e
}

func (e *env) unlockBytes(b []byte, u Unlock) (*keyring, error) {
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	return e.unlock(h, b, u)
}

func TestAHeaderWithOneBitChangedIsRefused(t *testing.T) {
	e := remembering()
	h, b, keys := newHeader(e)
	if got, err := e.unlockBytes(b, Unlock{Key: testKey}); err != nil || got.master != keys.master {
		t.Fatalf("the header itself: %v", err)
	}
	met := map[error]bool{}
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			_, err := e.unlockBytes(c, Unlock{Key: testKey})
			refused := false
			for _, is := range []error{ErrDamaged, ErrWrongKey, ErrFormat} {
				if errors.Is(err, is) {
					met[is], refused = true, true
				}
			}
			if !refused {
				t.Errorf("byte %d bit %d changed: %v", i, bit, err)
			}
		}
	}
	if len(met) != 3 {
		t.Errorf("only these errors were met: %v", met)
	}
	// With the passphrase, whose slot is the first: every bit of it that is not argon2id's
	// to refuse, a bit of every byte of the rest.
	first := len(magic) + 2 + len(h.id)
	end := first + 2 + len(h.slots[0].open(nil)) + wrappedKeySize
	salt := first + 2 + 2 + len(passphraseName)
	for i := range b {
		for bit := range 8 {
			slow := i >= salt && i < salt+saltSize+9
			if i >= end && bit != i%8 || slow && bit != i%8 || testing.Short() && slow {
				continue
			}
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, err := e.unlockBytes(c, Unlock{Passphrase: testPassphrase}); !errors.Is(err, ErrDamaged) &&
				!errors.Is(err, ErrWrongPassphrase) && !errors.Is(err, ErrFormat) {
				t.Errorf("byte %d bit %d changed, passphrase: %v", i, bit, err)
			}
		}
	}
	for n := range b {
		if _, err := e.unlockBytes(b[:n], Unlock{Key: testKey}); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := e.unlockBytes(append(bytes.Clone(b), 0), Unlock{Key: testKey}); !errors.Is(err, ErrDamaged) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestSlots(t *testing.T) {
	e := remembering()
	h, b, keys := newHeader(e)
	other, otherBytes, _ := newHeader(e)
	open := func(h *header, u Unlock) error {
		// As who forges has no key, the MAC is the old one.
		c := append(h.body(), b[len(b)-macSize:]...)
		_, err := e.unlockBytes(c, u)
		return err
	}
	phrase, key := Unlock{Passphrase: testPassphrase}, Unlock{Key: testKey}
	wrongKey := bytes.Repeat([]byte{8}, keySize)
	for _, tt := range []struct {
		name   string
		change func(h *header)
		u      Unlock
		want   error
	}{
		{"nothing", func(h *header) {}, phrase, nil},
		{"nothing", func(h *header) {}, key, nil},
		{"wrong passphrase", func(h *header) {}, Unlock{Passphrase: []byte("correct horse")}, ErrWrongPassphrase},
		{"wrong key", func(h *header) {}, Unlock{Key: wrongKey}, ErrWrongKey},
		{"short key", func(h *header) {}, Unlock{Key: testKey[1:]}, ErrWrongKey},
		{"passphrase slot of another vault", func(h *header) { h.slots[0] = other.slots[0] }, phrase, ErrWrongPassphrase},
		{"key slot of another vault", func(h *header) { h.slots[1] = other.slots[1] }, key, ErrWrongKey},
		{"another vault's id with its slot", func(h *header) { h.slots[0], h.id = other.slots[0], other.id }, phrase, ErrDamaged},
		{"less memory, above the floor", func(h *header) { h.slots[0].params.Memory++ }, phrase, ErrWrongPassphrase},
		{"fewer lanes", func(h *header) { h.slots[0].params.Lanes-- }, phrase, ErrWrongPassphrase},
		{"memory below the floor", func(h *header) { h.slots[0].params.Memory-- }, phrase, ErrDamaged},
		{"passes below the floor", func(h *header) { h.slots[0].params.Time-- }, phrase, ErrDamaged},
		{"no lanes", func(h *header) { h.slots[0].params.Lanes = 0 }, phrase, ErrDamaged},
		{"absurd memory", func(h *header) { h.slots[0].params.Memory = maxMemory + 1 }, phrase, ErrDamaged},
		{"absurd time", func(h *header) { h.slots[0].params.Time = maxTime + 1 }, phrase, ErrDamaged},
		{"absurd lanes", func(h *header) { h.slots[0].params.Lanes = 255 }, phrase, ErrDamaged},
		{"slot removed", func(h *header) { h.slots = h.slots[:1] }, phrase, ErrDamaged},
		{"slot renamed", func(h *header) { h.slots[1].name = "recoverY" }, key, ErrWrongKey},
		{"slots of one name", func(h *header) { h.slots = append(h.slots, h.slots[1]) }, key, ErrDamaged},
		{"slots exchanged", func(h *header) { slices.Reverse(h.slots) }, key, ErrDamaged},
		{"privileged secret removed", func(h *header) { h.privileged = nil }, key, ErrDamaged},
		{"erasure keys exchanged", func(h *header) { slices.Reverse(h.erasure) }, key, ErrDamaged},
		{"an erasure key removed", func(h *header) { h.erasure = h.erasure[1:] }, key, ErrDamaged},
		{"an erasure key of another vault", func(h *header) { h.erasure[0] = other.erasure[0] }, key, ErrDamaged},
		{"an erasure key of another domain", func(h *header) { h.erasure[0].domain = Messages }, key, ErrDamaged},
		{"an erasure key of no domain", func(h *header) { h.erasure[0].domain = domains }, key, ErrDamaged},
	} {
		c := h.clone()
		tt.change(c)
		if err := open(c, tt.u); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	newer := bytes.Clone(b)
	newer[len(magic)+1] = headerVersion + 1
	if _, err := parseHeader(newer); !errors.Is(err, ErrFormat) {
		t.Errorf("a newer version: %v", err)
	}
	// The AAD holds the parameters: even who knows the key that they lead to cannot lower
	// them for a slot that was sealed with others.
	s := h.slots[0]
	stretched := e.stretch(testPassphrase, s.salt[:], s.params)
	kek := s.kek(stretched, h.id)
	s.params.Time++
	if _, ok := unseal(&kek, s.aad(h.id), s.wrapped); ok {
		t.Error("the parameters are not authenticated")
	}
	if bytes.Equal(b, otherBytes) || keys.master == [keySize]byte{} {
		t.Error("no randomness")
	}
}

func TestPassphraseAndPrivilegedSecret(t *testing.T) {
	e := remembering()
	dir := t.TempDir()
	o := testOptions()
	o.Passphrase, o.Params = testPassphrase, FloorParams
	v, err := e.create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { v.Close() }()
	again := func(u Unlock) error {
		t.Helper()
		v.Close()
		w, err := e.open(dir, u, Config{Reserve: -1})
		if err == nil {
			v = w
		}
		return err
	}
	wrong, next := []byte("wrong"), []byte("next")
	account := []byte("the account's seed")

	if _, err := v.Privileged(testPassphrase); !errors.Is(err, ErrNotFound) {
		t.Errorf("Privileged before there is one: %v", err)
	}
	if err := v.PutPrivileged(wrong, account); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("PutPrivileged with the wrong passphrase: %v", err)
	}
	for _, n := range []int{0, maxPrivileged + 1} {
		if err := v.PutPrivileged(testPassphrase, make([]byte, n)); err == nil {
			t.Errorf("a privileged secret of %d bytes was taken", n)
		}
	}
	if err := v.PutPrivileged(testPassphrase, account); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Privileged(wrong); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("Privileged with the wrong passphrase: %v", err)
	}
	if err := v.ChangePassphrase(wrong, next, FloorParams); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("ChangePassphrase with the wrong one: %v", err)
	}
	if err := v.ChangePassphrase(testPassphrase, nil, FloorParams); err == nil {
		t.Error("an empty passphrase was taken")
	}
	stronger := FloorParams
	stronger.Time++
	if err := v.ChangePassphrase(testPassphrase, next, stronger); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Privileged(next); err != nil || !bytes.Equal(got, account) {
		t.Errorf("Privileged after the change = %q, %v", got, err)
	}
	if err := again(Unlock{Passphrase: testPassphrase}); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("the old passphrase: %v", err)
	}
	if err := again(Unlock{Passphrase: next}); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Privileged(next); err != nil || !bytes.Equal(got, account) {
		t.Errorf("Privileged after opening = %q, %v", got, err)
	}
	if got, want := v.Slots(), []Slot{{"passphrase", PassphraseSlot, stronger}, {"test", KeySlot, Params{}}}; !slices.Equal(got, want) {
		t.Errorf("Slots = %v, want %v", got, want)
	}

	// A forgotten passphrase: the key opens, and sets another. What the passphrase alone
	// kept is gone.
	if err := again(Unlock{Key: testKey}); err != nil {
		t.Fatal(err)
	}
	if err := v.ResetPassphrase(wrong, FloorParams); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Privileged(wrong); !errors.Is(err, ErrNotFound) {
		t.Errorf("Privileged after the reset: %v", err)
	}
	if err := again(Unlock{Passphrase: next}); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("the forgotten passphrase: %v", err)
	}
	if err := again(Unlock{Passphrase: wrong}); err != nil {
		t.Fatal(err)
	}

	// Key slots come and go.
	second := bytes.Repeat([]byte{9}, keySize)
	if err := v.AddKey("test", second); !errors.Is(err, ErrExists) {
		t.Errorf("AddKey of a name that is taken: %v", err)
	}
	if err := v.AddKey("second", second[1:]); err == nil {
		t.Error("a short key was taken")
	}
	if err := v.AddKey("second", second); err != nil {
		t.Fatal(err)
	}
	if err := v.RemoveSlot("third"); !errors.Is(err, ErrNotFound) {
		t.Errorf("RemoveSlot of none: %v", err)
	}
	for _, name := range []string{"test", passphraseName} {
		if err := v.RemoveSlot(name); err != nil {
			t.Errorf("RemoveSlot(%q): %v", name, err)
		}
	}
	if err := v.RemoveSlot("second"); err == nil {
		t.Error("the last slot was removed")
	}
	if err := v.ChangePassphrase(wrong, next, FloorParams); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("ChangePassphrase of a vault that has none: %v", err)
	}
	if err := again(Unlock{Key: testKey}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("the removed key: %v", err)
	}
	if err := again(Unlock{Passphrase: wrong}); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("the removed passphrase: %v", err)
	}
	if err := again(Unlock{Key: second}); err != nil {
		t.Fatal(err)
	}
	if err := v.ResetPassphrase(next, FloorParams); err != nil {
		t.Fatal(err)
	}
	if err := again(Unlock{Passphrase: next}); err != nil {
		t.Fatal(err)
	}
	for i := range maxSlots {
		if err := v.AddKey(fmt.Sprint(i), second); (err == nil) != (i < maxSlots-2) {
			t.Errorf("slot %d: %v", i+3, err)
		}
	}
}

func TestUnlockingGivesItsMemoryBack(t *testing.T) {
	e := newEnv(Config{})
	_, b, _ := newHeader(e)
	if _, err := e.unlockBytes(b, Unlock{Passphrase: testPassphrase}); err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if kept := m.Sys - m.HeapReleased; kept > 40<<20 {
		t.Errorf("%d MiB stay with the process after 64 MiB were used", kept>>20)
	}
}

// headerVector is spec/vectors/vault/header.json: "random" is what the randomness gave, in
// the order in which the header took it.
type headerVector struct {
	Passphrase string `json:"passphrase"`
	Memory     uint32 `json:"memory_kib"`
	Time       uint32 `json:"time"`
	Lanes      uint8  `json:"lanes"`
	Recovery   string `json:"recovery_key"`
	Privileged string `json:"privileged"`
	Random     []struct {
		What  string `json:"what"`
		Bytes string `json:"bytes"`
	} `json:"random"`
	Derived map[string]string `json:"derived"`
	Header  string            `json:"header"`
}

// recordVector is an element of spec/vectors/vault/records.json. The vault is that of
// header.json.
type recordVector struct {
	Name      string `json:"name"`
	Table     uint8  `json:"table"`
	Partition string `json:"partition"`
	Order     string `json:"order"`
	Domain    uint8  `json:"domain"`
	Number    uint64 `json:"number"`
	BucketID  string `json:"bucket_id,omitempty"`
	BucketKey string `json:"bucket_key,omitempty"`
	KeyNonce  string `json:"bucket_key_nonce,omitempty"`
	Nonce     string `json:"nonce"`
	Value     string `json:"value"`

	Key             string `json:"key"`
	Stored          string `json:"stored"`
	BucketName      string `json:"bucket_name,omitempty"`
	StoredBucketKey string `json:"stored_bucket_key,omitempty"`
}

func readVector(t testing.TB, name string, into any) {
	t.Helper()
	b, err := vectors.FS.ReadFile("vault/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve gives out bytes that were written down.
func serve(t testing.TB, parts ...string) func([]byte) {
	return func(b []byte) {
		if len(parts) == 0 {
			t.Fatal("more randomness was used than is written down")
		}
		next := unhex(t, parts[0])
		if len(next) != len(b) {
			t.Fatalf("%d random bytes were used where %d are written down", len(b), len(next))
		}
		copy(b, next)
		parts = parts[1:]
	}
}

func vectorHeader(t testing.TB) (headerVector, *header, *keyring) {
	var x headerVector
	readVector(t, "header.json", &x)
	b := unhex(t, x.Header)
	h, err := parseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := newEnv(Config{}).unlock(h, b, Unlock{Key: unhex(t, x.Recovery)})
	if err != nil {
		t.Fatal(err)
	}
	return x, h, keys
}

func TestHeaderVector(t *testing.T) {
	x, h, keys := vectorHeader(t)
	e := newEnv(Config{})
	passphrase := []byte(x.Passphrase)
	if got, err := e.unlock(h, unhex(t, x.Header), Unlock{Passphrase: passphrase}); err != nil || got.master != keys.master {
		t.Errorf("unlocking with the passphrase: %v", err)
	}
	if got, ok := e.openPrivileged(h.id, h.privileged, passphrase); !ok || hex.EncodeToString(got) != x.Privileged {
		t.Errorf("the privileged secret is %x", got)
	}
	for name, key := range map[string][keySize]byte{
		"master": keys.master, "index": keys.index, "plain": keys.plain, "header_mac": keys.mac,
		"erasure_wrap": keys.wrap, "badger": keys.badger,
		"erasure_mls": keys.erasure[MLS][0].key, "erasure_messages": keys.erasure[Messages][0].key,
	} {
		if got := hex.EncodeToString(key[:]); got != x.Derived[name] {
			t.Errorf("%s is %s, want %s", name, got, x.Derived[name])
		}
	}
	// Made again from the same randomness.
	var random []string
	for _, r := range x.Random {
		random = append(random, r.Bytes)
	}
	e.random = serve(t, random...)
	p := Params{x.Memory, x.Time, x.Lanes}
	again := &header{}
	e.random(again.id[:])
	var master [keySize]byte
	e.random(master[:])
	for d := MLS; d < domains; d++ {
		_, w := e.newErasure(again.id, d, &keys.wrap)
		again.erasure = append(again.erasure, w)
	}
	again.slots = []slot{
		e.newSlot(again.id, PassphraseSlot, passphraseName, passphrase, p, &master),
		e.newSlot(again.id, KeySlot, "recovery", unhex(t, x.Recovery), Params{}, &master),
	}
	again.privileged = e.newPrivileged(again.id, passphrase, unhex(t, x.Privileged), p)
	if got := hex.EncodeToString(again.marshal(&keys.mac)); got != x.Header {
		t.Errorf("the header is\n%s, want\n%s", got, x.Header)
	}
}

func TestRecordVectors(t *testing.T) {
	var all []recordVector
	readVector(t, "records.json", &all)
	_, h, keys := vectorHeader(t)
	for _, x := range all {
		t.Run(x.Name, func(t *testing.T) {
			e := newEnv(Config{})
			v := &Vault{env: e, header: h, keys: keys}
			key := keys.recordKey(Ref{Table(x.Table), string(unhex(t, x.Partition)), string(unhex(t, x.Order))})
			if got := hex.EncodeToString(key); got != x.Key {
				t.Errorf("key %s, want %s", got, x.Key)
			}
			in, with := sealedIn{domain: Domain(x.Domain)}, keys.plain
			if in.domain != Plain {
				in.name = keys.bucketName(Bucket{in.domain, string(unhex(t, x.Partition)), x.Number})
				if got := hex.EncodeToString(in.name[:]); got != x.BucketName {
					t.Errorf("bucket name %s, want %s", got, x.BucketName)
				}
				in.id, with = [idSize]byte(unhex(t, x.BucketID)), [keySize]byte(unhex(t, x.BucketKey))
				e.random = serve(t, x.KeyNonce)
				if got := hex.EncodeToString(v.wrapBucketKey(&in.name, in.id, &with)); got != x.StoredBucketKey {
					t.Errorf("wrapped bucket key %s, want %s", got, x.StoredBucketKey)
				}
				k, err := parseBucketKey(unhex(t, x.StoredBucketKey))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := v.unwrapBucketKey(&in.name, &k); err != nil || got != with {
					t.Errorf("unwrapped: %x, %v", got, err)
				}
			}
			e.random = serve(t, x.Nonce)
			front := in.append(nil)
			stored := e.seal(front, &with, recordSealAAD(key, front), unhex(t, x.Value))
			if got := hex.EncodeToString(stored); got != x.Stored {
				t.Errorf("stored %s, want %s", got, x.Stored)
			}
			got, front, sealed, err := parseRecord(unhex(t, x.Stored))
			if err != nil || got != in {
				t.Errorf("parsed %v, %v, want %v", got, err, in)
			}
			if value, ok := unseal(&with, recordSealAAD(key, front), sealed); !ok || hex.EncodeToString(value) != x.Value {
				t.Errorf("value %x", value)
			}
		})
	}
}

// A vault that version 1 of everything wrote opens for ever. Its key is testKey.
func TestAVaultOfVersion1Opens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	if err := os.CopyFS(dir, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	v := reopen(t, newEnv(Config{}), dir)
	wantValue(t, v, Ref{1, "settings", "name"}, "Ben")
	wantValue(t, v, Ref{2, "conversation", U64(1)}, "the first message")
	wantValue(t, v, Ref{3, "conversation", ""}, "ratchet state")
	wantError(t, v, Ref{2, "conversation", U64(0)}, ErrErased)
	update(t, v, func(tx *Tx) error {
		if n, err := tx.Next("events"); n != 3 || err != nil {
			t.Errorf("Next = %d, %v, want 3", n, err)
		}
		return nil
	})
	for d := MLS; d < domains; d++ {
		if err := v.RotateErasure(d); err != nil {
			t.Error(err)
		}
	}
	wantValue(t, v, Ref{3, "conversation", ""}, "ratchet state")
}

func FuzzHeader(f *testing.F) {
	var x headerVector
	readVector(f, "header.json", &x)
	b := unhex(f, x.Header)
	f.Add(b)
	f.Add(b[:40])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Errorf("parseHeader: %v", err)
			}
			return
		}
		if got := h.body(); !bytes.Equal(got, b[:len(b)-macSize]) {
			t.Errorf("read\n%x, written again\n%x", b, got)
		}
		if _, err := h.keyring(make([]byte, keySize), b); !errors.Is(err, ErrDamaged) {
			t.Errorf("a header nobody sealed: %v", err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	var all []recordVector
	readVector(f, "records.json", &all)
	for _, x := range all {
		f.Add(unhex(f, x.Stored))
		f.Add(unhex(f, x.StoredBucketKey))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, front, sealed, err := parseRecord(b); err == nil {
			if got := append(in.append(nil), sealed...); !bytes.Equal(got, b) || !bytes.Equal(front, b[:len(front)]) {
				t.Errorf("record %x, written again %x", b, got)
			}
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Errorf("parseRecord: %v", err)
		}
		if k, err := parseBucketKey(b); err == nil {
			if got := append(k.open(nil), k.wrapped...); !bytes.Equal(got, b) {
				t.Errorf("bucket key %x, written again %x", b, got)
			}
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Errorf("parseBucketKey: %v", err)
		}
	})
}
