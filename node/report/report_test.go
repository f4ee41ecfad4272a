package report

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/crypto/identity"
	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node/content"
)

var makeVectors = flag.Bool("make-vectors", false, "write the vector file if it does not exist; one that does is never changed")

// device is a member of a group.
type device struct {
	log        *identity.Log
	credential []byte
	config     mls.Config
	group      *mls.Group
}

func newDevice(t testing.TB) *device {
	t.Helper()
	k := key.NewDevice()
	cert := identity.DeviceCert{Device: identity.NewDeviceID(), DeviceKey: k.Public(), HandshakeKey: key.NewNoise().Public()}
	log, err := identity.NewLog(identity.NewSeed(), cert, k, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := log.Credential(cert.Device)
	if err != nil {
		t.Fatal(err)
	}
	return &device{log: log, credential: c.Append(nil), config: mls.Config{Signer: k.Signer(), ValidateCredential: func(_, _ *mls.LeafNode) error { return nil }}}
}

// talk makes a group of two devices, lets the first say texts to the second, with a
// commit between each two, and returns what the second can report.
func talk(t testing.TB, texts ...string) (from *device, items []Item) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ana, ben := newDevice(t), newDevice(t)
	life := mls.Lifetime{NotAfter: 1 << 40}
	var err error
	ana.group, err = mls.NewGroup(ana.config, mls.GroupOptions{Suite: mls.XWing, GroupID: []byte("a group"), Credential: mls.BasicCredential(ana.credential), Lifetime: life})
	check(err)
	b, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: ben.config.Signer, Credential: mls.BasicCredential(ben.credential), Lifetime: life})
	check(err)
	staged, err := ana.group.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Add{KeyPackage: b.KeyPackage()}}})
	check(err)
	ana.group, err = staged.Merge(ana.group)
	check(err)
	ben.group, _, err = mls.Join(ben.config, staged.Welcome(), b, nil)
	check(err)
	for i, text := range texts {
		if i > 0 {
			staged, err := ana.group.Commit(nil)
			check(err)
			got, err := ben.group.Process(staged.Message(), nil)
			check(err)
			ben.group, err = got.Staged.Merge(ben.group)
			check(err)
			ana.group, err = staged.Merge(ana.group)
			check(err)
		}
		m, err := content.NewText(text, time.UnixMilli(1_800_000_000_000+int64(i)), uint64(i), nil)
		check(err)
		encoded, err := m.Encode()
		check(err)
		sealed, err := ana.group.Encrypt(encoded, []byte("context"))
		check(err)
		got, err := ben.group.Process(sealed, nil)
		check(err)
		items = append(items, Item{Signed: *got.Signed(), Credential: got.SenderNode.Credential.Identity})
	}
	return ana, items
}

func TestReport(t *testing.T) {
	ana, items := talk(t, "one", "two", "三")
	r := &Report{Reason: "unkind", Items: items}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil || got.Reason != "unkind" || len(got.Items) != 3 {
		t.Fatalf("Parse = %+v, %v", got, err)
	}
	proved, err := got.Verify()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one", "two", "三"} {
		p := proved[i]
		if p.Message.Text != want || p.Account != ana.log.ID() || string(p.Conversation) != "a group" || p.Epoch != uint64(1+i) || p.Sent.UnixMilli() != 1_800_000_000_000+int64(i) {
			t.Errorf("message %d proves %+v", i, p)
		}
	}
}

// A report proves nothing that was not said so, there, by that device.
func TestForgedReport(t *testing.T) {
	_, hers := talk(t, "I owe you ten", "good night")
	_, his := talk(t, "never mind")
	fresh := func() []Item {
		out := []Item{hers[0], hers[1], his[0]}
		for i := range out {
			s := &out[i].Signed
			for _, b := range []*[]byte{&s.Context, &s.AuthenticatedData, &s.Content, &s.Signature, &out[i].Credential} {
				*b = bytes.Clone(*b)
			}
		}
		return out
	}
	if _, err := (&Report{Items: fresh()}).Verify(); err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func(it []Item){
		"another text": func(it []Item) {
			it[0].Signed.Content = bytes.Replace(it[0].Signed.Content, []byte("ten"), []byte("two"), 1)
		},
		"another's content":         func(it []Item) { it[0].Signed.Content = it[2].Signed.Content },
		"another's signature":       func(it []Item) { it[0].Signed.Signature = it[1].Signed.Signature },
		"another epoch":             func(it []Item) { it[0].Signed.Context = it[1].Signed.Context },
		"another conversation":      func(it []Item) { it[0].Signed.Context = it[2].Signed.Context },
		"another sender":            func(it []Item) { it[0].Credential = it[2].Credential },
		"another place in the tree": func(it []Item) { it[0].Signed.Leaf++ },
		"another context of ours":   func(it []Item) { it[0].Signed.AuthenticatedData = []byte("other") },
		"a context that is none":    func(it []Item) { it[0].Signed.Context = nil },
		"a damaged credential":      func(it []Item) { it[0].Credential[len(it[0].Credential)/2] ^= 1 },
	} {
		it := fresh()
		forge(it)
		if got, err := (&Report{Items: it}).Verify(); !errors.Is(err, ErrFalse) || got != nil {
			t.Errorf("%s: %v, %v, want ErrFalse", name, got, err)
		} else if !strings.Contains(err.Error(), "message 1") {
			t.Errorf("%s: %v does not name the message", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	_, items := talk(t, "a")
	many := make([]Item, MaxItems+1)
	for i := range many {
		many[i] = items[0]
	}
	for name, tt := range map[string]struct {
		r    Report
		want error
	}{
		"no messages":     {Report{}, ErrMalformed},
		"too many":        {Report{Items: many}, ErrLimit},
		"a long reason":   {Report{Reason: strings.Repeat("x", MaxReason+1), Items: items}, ErrLimit},
		"a broken reason": {Report{Reason: "\xff", Items: items}, ErrMalformed},
	} {
		if _, err := tt.r.Encode(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if b, err := (&Report{Items: many[:MaxItems]}).Encode(); err != nil || len(b) > 100*1000+4000 {
		t.Errorf("%d times the same: %d bytes, %v", MaxItems, len(b), err)
	}
}

type vector struct {
	Report   string   `json:"report"`
	Reason   string   `json:"reason"`
	Account  string   `json:"account_id"`
	Device   string   `json:"device_id"`
	Group    string   `json:"group_id"`
	Epochs   []uint64 `json:"epochs"`
	Messages []string `json:"message_ids"`
	Texts    []string `json:"texts"`
}

// The vector was made once, with keys that nobody has any more.
func TestVector(t *testing.T) {
	path := "../../spec/vectors/report/report.json"
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && *makeVectors {
		_, items := talk(t, "hello", "goodbye")
		b, err := (&Report{Reason: "an example", Items: items}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		out, _ := json.MarshalIndent(describe(t, b), "", "  ")
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want vector
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(want.Report)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(describe(t, b))
	again, _ := json.Marshal(want)
	if !bytes.Equal(got, again) {
		t.Errorf("the vector proves\n%s\nwant\n%s", got, again)
	}
}

func describe(t *testing.T, b []byte) vector {
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	proved, err := r.Verify()
	if err != nil {
		t.Fatal(err)
	}
	v := vector{Report: hex.EncodeToString(b), Reason: r.Reason}
	for _, p := range proved {
		v.Account, v.Device, v.Group = hex.EncodeToString(p.Account[:]), hex.EncodeToString(p.Device[:]), hex.EncodeToString(p.Conversation)
		v.Epochs, v.Messages, v.Texts = append(v.Epochs, p.Epoch), append(v.Messages, p.ID.String()), append(v.Texts, p.Message.Text)
	}
	return v
}

func FuzzParse(f *testing.F) {
	_, items := talk(f, "a", "b")
	b, err := (&Report{Reason: "x", Items: items}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(header))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x has two forms", b)
		}
		r.Verify()
	})
}
