package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"sotto/crypto/codec"
)

// A fuzzWorld is the group of a state vector, in which fuzzed bytes arrive. It
// is the same in every process, so that what one finds means the same to others.
type fuzzWorld struct {
	config   Config // of one who may join
	bundle   *KeyPackageBundle
	ana, ben *Group
	v        *stateVector
	messages [][]byte // from ana to ben
}

func newFuzzWorld(f *testing.F) *fuzzWorld {
	v := loadState(f, stateVectors[0])
	w := &fuzzWorld{
		config: v.config("dora"), ana: v.load(f, "ana"), ben: v.load(f, "ben"), v: v,
		messages: [][]byte{v.Private, v.Public, v.Update, v.Next, v.Late},
	}
	var err error
	if w.bundle, err = ParseKeyPackageBundle(v.Bundle); err != nil {
		f.Fatal(err)
	}
	return w
}

// expected reports whether err is one that bad bytes may lead to.
func expected(err error) bool {
	for _, known := range []error{
		codec.ErrMalformed, ErrUnsupported, ErrInvalid, ErrAuthentication, ErrWrongGroup, ErrWrongEpoch, ErrEpochForgotten,
		ErrTooFarAhead, ErrReplayed, ErrNotMember, ErrOwnMessage, ErrUnknownProposal, ErrMissingPSK, ErrNotForUs, ErrCorrupt,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// Any bytes may arrive as a message.
func FuzzMessage(f *testing.F) {
	w := newFuzzWorld(f)
	for _, m := range w.messages {
		f.Add(m)
	}
	before := dump(w.ben)
	f.Fuzz(func(t *testing.T, b []byte) {
		g := w.ben.Clone()
		input := bytes.Clone(b)
		_, err := g.Process(b, &ProcessOptions{PSK: w.v.psk})
		if !bytes.Equal(b, input) {
			t.Error("Process changed the message")
		}
		if err == nil {
			return // one of the seeds
		}
		if !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
		if !sameRecords(before, dump(g)) {
			t.Error("a message that failed changed the group")
		}
		Peek(b)
	})
}

// A member may sign and encrypt whatever content it likes.
func FuzzContentOfMember(f *testing.F) {
	w := newFuzzWorld(f)
	for _, m := range w.messages[1:3] {
		a, _, err := decodePublicMessage(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.content.body, uint8(a.content.kind), uint8(SenderMember))
	}
	f.Add(encodeProposal(nil, Add{w.bundle.KeyPackage()}), uint8(ContentProposal), uint8(SenderNewMemberProposal))
	f.Add([]byte{0}, uint8(ContentCommit), uint8(SenderNewMemberCommit))
	before := dump(w.ben)
	e := w.ana.cur
	f.Fuzz(func(t *testing.T, body []byte, kind, sender uint8) {
		a := &authenticatedContent{wire: wirePublicMessage, tag: make([]byte, 32), content: framedContent{
			groupID: e.context.GroupID, epoch: e.context.Epoch, sender: Sender{Type: SenderType(sender % 5)},
			kind: ContentType(kind % 4), body: body,
		}}
		if err := a.sign(e.s, w.ana.config.Signer, e.encoded); err != nil {
			t.Fatal(err)
		}
		g := w.ben.Clone()
		if _, err := g.Process(a.publicMessage(e.s, e.secrets.membership, e.encoded), nil); err != nil {
			if !expected(err) {
				t.Errorf("an error of no kind: %v", err)
			}
			if !sameRecords(before, dump(g)) {
				t.Error("a message that failed changed the group")
			}
		}
		a.wire = wirePrivateMessage
		if kind%4 == 0 {
			return
		}
		if err := a.sign(e.s, w.ana.config.Signer, e.encoded); err != nil {
			t.Fatal(err)
		}
		msg, err := w.ana.Clone().seal(a)
		if err != nil {
			t.Fatal(err)
		}
		g = w.ben.Clone()
		if _, err := g.Process(msg, nil); err != nil && !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}

// again checks that what was read is written as the same bytes.
func again(t *testing.T, b []byte, r *codec.Reader, encode func() []byte) bool {
	t.Helper()
	if err := r.Done(); err != nil {
		if !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
		return false
	}
	if got := encode(); !bytes.Equal(got, b) {
		t.Errorf("%x was read, and written as %x", b, got)
	}
	return true
}

func FuzzWelcome(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add([]byte(w.v.Welcome))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := Join(w.config, b, w.bundle, &JoinOptions{PSK: w.v.psk}); err != nil && !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
		if len(b) > messageHeaderLen {
			r := codec.NewReader(b[messageHeaderLen:])
			v := decodeWelcome(r)
			again(t, b[messageHeaderLen:], r, func() []byte { return v.encode(nil) })
		}
	})
}

// FuzzWelcomeContent is about what is encrypted in a welcome: any member, and who
// is none, can encrypt to a key package.
func FuzzWelcomeContent(f *testing.F) {
	w := newFuzzWorld(f)
	s := w.ana.cur.s
	info, err := w.ana.cur.groupInfo(w.ana.config.Signer, Extensions{{ExtensionRatchetTree, w.ana.RatchetTree()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(info.encode(nil), (&groupSecrets{joiner: make([]byte, 32)}).encode(nil))
	f.Add(info.encode(nil), (&groupSecrets{joiner: make([]byte, 32), pathSecret: make([]byte, 32), psks: []PreSharedKeyID{{Type: PSKExternal}}}).encode(nil))
	f.Fuzz(func(t *testing.T, info, secrets []byte) {
		r := codec.NewReader(secrets)
		g := decodeGroupSecrets(r)
		if !again(t, secrets, r, func() []byte { return g.encode(nil) }) {
			return
		}
		ks := s.keySchedule(g.joiner, s.pskSecret(nil))
		key, nonce := ks.welcomeKey()
		aead, err := s.newAEAD(key)
		if err != nil {
			t.Fatal(err)
		}
		m := &welcomeMessage{suite: s.id, groupInfo: aead.Seal(nil, nonce, info, nil)}
		ct, err := s.encryptWithLabel(w.bundle.pkg.InitKey, "Welcome", m.groupInfo, secrets)
		if err != nil {
			t.Fatal(err)
		}
		m.secrets = []encryptedGroupSecrets{{w.bundle.Ref(), ct}}
		if _, _, err := Join(w.config, m.encode(appendMessageHeader(nil, wireWelcome)), w.bundle, nil); err == nil {
			t.Error("a group that nobody made was joined")
		} else if !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}

func FuzzKeyPackage(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add(w.bundle.KeyPackage().Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeyPackage(b)
		if err != nil {
			if !expected(err) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if !bytes.Equal(k.Marshal(), b) {
			t.Errorf("%x was read, and written as %x", b, k.Marshal())
		}
		k.Verify()
		k.Ref()
	})
}

func FuzzTree(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add(w.ana.RatchetTree())
	s := w.ana.cur.s
	f.Fuzz(func(t *testing.T, b []byte) {
		r := codec.NewReader(b)
		tree := decodeTree(s, r)
		if !again(t, b, r, func() []byte { return tree.encode(nil) }) {
			return
		}
		tree.rootHash()
		tree.verify(w.ana.GroupID(), nil, anyCredential)
		// The checks that come after the signatures.
		tree.checkUnique()
		tree.checkMembers(nil, nil)
		if tree.checkUnmerged() == nil {
			tree.checkParentHashes()
		}
		tree.filteredDirectPath(0)
	})
}

func FuzzGroupInfo(f *testing.F) {
	w := newFuzzWorld(f)
	info, err := w.ana.GroupInfo(true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(info)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := JoinExternal(w.config, b, ExternalJoinOptions{Credential: BasicCredential(nil)}); err != nil && !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
		if _, err := ParseGroupInfo(b, nil); err != nil && !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
		if len(b) > messageHeaderLen {
			r := codec.NewReader(b[messageHeaderLen:])
			v := decodeGroupInfo(r)
			again(t, b[messageHeaderLen:], r, func() []byte { return v.encode(nil) })
		}
	})
}

// Stored state is ours, but a disk may damage it.
func FuzzStaged(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add([]byte(w.v.Staged))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStaged(*w.ana.config, b)
		if err != nil {
			if !expected(err) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if !bytes.Equal(s.Marshal(), b) {
			t.Errorf("%x was read, and written as %x", b, s.Marshal())
		}
		s.Merge(w.ana)
	})
}

func FuzzRecord(f *testing.F) {
	w := newFuzzWorld(f)
	records := dump(w.ben)
	for name, value := range records {
		f.Add([]byte(name), value)
	}
	f.Fuzz(func(t *testing.T, name, value []byte) {
		all := []Record{{name, value}}
		for n, v := range records {
			if n != string(name) {
				all = append(all, Record{[]byte(n), v})
			}
		}
		g, err := LoadGroup(*w.ben.config, all)
		if err != nil {
			if !expected(err) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		stored := map[string][]byte{}
		for _, r := range all {
			stored[string(r.Name)] = r.Value
		}
		if !sameRecords(dump(g), stored) {
			t.Errorf("record %x was read as %x, and written differently", name, value)
		}
		for _, m := range w.messages {
			g.Clone().Process(m, nil)
		}
		g.Encrypt(nil, nil)
		_ = fmt.Sprint(g)
	})
}

func FuzzBundle(f *testing.F) {
	w := newFuzzWorld(f)
	f.Add(w.bundle.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeyPackageBundle(b)
		if err != nil {
			if !expected(err) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if !bytes.Equal(k.Marshal(), b) {
			t.Errorf("%x was read, and written as %x", b, k.Marshal())
		}
		if _, _, err := Join(w.config, []byte(w.v.Welcome), k, nil); err != nil && !expected(err) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
