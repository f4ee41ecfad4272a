package nodetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sotto/crypto/key"
	"sotto/crypto/mls"
	"sotto/node"
	"sotto/node/store"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/badgerbox"
	"sotto/relay/server"
	"sotto/relay/wire"
	"sotto/storage/kv"
	"sotto/storage/vault"
)

// view is everything that a relay gets to see of its clients and writes down.
type view struct {
	frames [][]byte // what each connection sent, from its Hello on
	stored [][]byte // keys and values of its store
	log    string   // at debug level
}

// secrets are what a relay must not see, by what they are.
type secrets struct {
	bytes  map[string][]byte
	epochs uint64 // the highest
}

// object is what clients gave a relay for one mailbox or slot: ids, keys, proofs and
// payloads. What the relay made, as seqs and minutes, is not in it.
type object struct {
	id    [32]byte
	given [][]byte
}

// objects sorts what clients sent by what it is about. It returns payloads beside.
func (v *view) objects() (out []*object, payloads [][]byte, err error) {
	all := map[[32]byte]*object{}
	give := func(id [32]byte, given ...[]byte) {
		if all[id] == nil {
			all[id] = &object{id: id, given: [][]byte{id[:]}}
		}
		all[id].given = append(all[id].given, given...)
	}
	for _, stream := range v.frames {
		in := bufio.NewReader(bytes.NewReader(stream))
		for {
			fr, err := wire.ReadFrame(in)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break // it was cut off
			}
			if err != nil {
				return nil, nil, err
			}
			switch fr.Type {
			case wire.TProve:
				var m wire.Prove
				err = wire.Decode(fr.Body, &m)
				for _, p := range m.Proofs {
					give(p.Object, p.Signature[:])
				}
			case wire.TCreate:
				var m wire.Create
				err = wire.Decode(fr.Body, &m)
				give(m.ID(v.relay()), m.Admin.Bytes(), m.Salt[:], m.Read.Bytes(), m.Append.Bytes(), m.Signature[:])
			case wire.TAppend:
				var m wire.Append
				err = wire.Decode(fr.Body, &m)
				give(m.Mailbox, m.Meta, m.Payload)
				payloads = append(payloads, m.Payload)
			case wire.TSlotCreate:
				var m wire.SlotCreate
				err = wire.Decode(fr.Body, &m)
				give(wire.SlotID(v.relay(), m.Reader), m.Owner.Bytes(), m.Reader.Bytes(), m.OwnerSignature[:], m.ReadSignature[:], m.Value)
				payloads = append(payloads, m.Value)
			case wire.TSlotTake:
				var m wire.SlotTake
				err = wire.Decode(fr.Body, &m)
				give(m.Slot, m.Tag[:])
			}
			if err != nil {
				return nil, nil, err
			}
		}
	}
	return slices.Collect(maps.Values(all)), payloads, nil
}

// viewRelay is the key of the relay that is watched.
var viewRelay = key.RelayFromSeed(bytes.Repeat([]byte{42}, 32))

func (v *view) relay() key.RelayPublic { return viewRelay.Public() }

// named returns which secrets the view holds as they are.
func (v *view) named(s secrets) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	for name, b := range s.bytes {
		for where, all := range map[string][][]byte{"a connection": v.frames, "the store": v.stored} {
			for _, have := range all {
				if bytes.Contains(have, b) {
					complain("%s holds %s", where, name)
				}
			}
		}
		for _, text := range []string{string(b), hex.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b), base64.StdEncoding.EncodeToString(b), base32.StdEncoding.EncodeToString(b)} {
			if strings.Contains(strings.ToLower(v.log), strings.ToLower(text)) {
				complain("the log holds %s", name)
			}
		}
	}
	for _, address := range []string{"pipe", "127.0.0.1", "/ip4/", "12D3Koo"} {
		if strings.Contains(v.log, address) {
			complain("the log holds an address: %s", address)
		}
	}
	return complaints
}

// shared returns what the view tells without naming it: epochs, ids in the log, and
// that one mailbox has to do with another.
func (v *view) shared(s secrets) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	objects, payloads, err := v.objects()
	if err != nil {
		complain("a connection cannot be read: %v", err)
	}
	for epoch := range s.epochs + 2 {
		for _, p := range payloads {
			if bytes.Contains(p, binary.BigEndian.AppendUint64(nil, epoch)) {
				complain("a payload holds the number of epoch %d", epoch)
			}
		}
	}
	owner := map[[8]byte]*object{}
	for _, o := range objects {
		if strings.Contains(v.log, hex.EncodeToString(o.id[:])[:5]) {
			complain("the log holds more of an id than its first 4 letters")
		}
		for _, given := range o.given {
			for i := 0; i+8 <= len(given); i++ {
				w := [8]byte(given[i:])
				if other := owner[w]; other != nil && other != o {
					complain("%x… and %x… share %x", other.id[:2], o.id[:2], w)
				}
				owner[w] = o
			}
		}
	}
	return complaints
}

// tap records what a client writes.
type tap struct {
	net.Conn
	mu   *sync.Mutex
	into *[]byte
}

func (t *tap) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	t.mu.Lock()
	*t.into = append(*t.into, b[:n]...)
	t.mu.Unlock()
	return n, err
}

// watched is a world with one relay that is looked at.
type watched struct {
	*World
	dir   string
	relay *Relay
	box   *badgerbox.Store
	log   bytes.Buffer
	logs  sync.Mutex
	rings chan struct{}

	mu    sync.Mutex // guards the following field
	conns []*[]byte
}

// Write takes a line of the relay's log.
func (w *watched) Write(b []byte) (int, error) {
	w.logs.Lock()
	defer w.logs.Unlock()
	return w.log.Write(b)
}

func watch(t *testing.T) *watched {
	w := &watched{World: New(t), dir: filepath.Join(t.TempDir(), "mailboxes"), rings: make(chan struct{}, 1)}
	w.relay = w.Relay()
	w.relay.Stop()
	w.mu.Lock()
	delete(w.relays, w.relay.Address.Key)
	w.relay.key, w.relay.Address.Key = viewRelay, viewRelay.Public()
	w.relays[w.relay.Address.Key] = w.relay
	w.mu.Unlock()
	logger := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if w.box, err = badgerbox.Open(badgerbox.Config{Dir: w.dir, Small: true, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.box.Close() })
	w.box.Listen(func(mailbox.ID) {
		select {
		case w.rings <- struct{}{}:
		default:
		}
	})
	w.relay.srv = server.New(server.Config{Key: viewRelay, Store: w.box, Slots: w.box, Policy: access.Policy{Tickets: w.relay.tickets}, Logger: logger})
	return w
}

// person is somebody whose connections are recorded.
func (w *watched) person(t *testing.T, name string) *Person {
	t.Helper()
	p := &Person{w: w.World, Home: filepath.Join(t.TempDir(), "home")}
	if _, err := node.Init(t.Context(), p.Home, node.InitOptions{Name: name, Passphrase: Passphrase, Params: vault.FloorParams, Relay: w.relay.Address.String()}); err != nil {
		t.Fatal(err)
	}
	w.start(t, p)
	t.Cleanup(p.Stop)
	return p
}

func (w *watched) start(t *testing.T, p *Person) {
	t.Helper()
	n, err := node.Open(p.Home, node.Options{Passphrase: Passphrase, Dial: func(ctx context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) {
		conn, k, err := w.Dial(ctx, a)
		if err != nil {
			return nil, k, err
		}
		sent := new([]byte)
		w.mu.Lock()
		w.conns = append(w.conns, sent)
		w.mu.Unlock()
		return &tap{conn, &w.mu, sent}, k, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.Node, p.stop, p.done = n, stop, make(chan struct{})
	go func() {
		defer close(p.done)
		if err := n.Run(ctx); err != nil {
			t.Errorf("%s: %v", p.Home, err)
		}
	}()
}

// inside reads the vault of somebody who has stopped.
func inside(t *testing.T, p *Person, f func(tx *store.Tx) error) {
	t.Helper()
	v, err := vault.Open(filepath.Join(p.Home, "vault"), vault.Unlock{Passphrase: Passphrase}, vault.Config{Schema: store.Schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.DB{Vault: v}.View(f), v.Close()); err != nil {
		t.Fatal(err)
	}
}

// keyPackageOf reads the reference of the key package that somebody has sent in answer
// to an invite, before the other side has seen it.
func keyPackageOf(t *testing.T, p *Person) (ref []byte) {
	t.Helper()
	inside(t, p, func(tx *store.Tx) error {
		all, err := tx.Acceptances()
		for _, a := range all {
			if len(a.KeyPackage) > 0 {
				b, err := mls.ParseKeyPackageBundle(a.KeyPackage)
				if err != nil {
					return err
				}
				ref = b.Ref()
			}
		}
		return err
	})
	if len(ref) == 0 {
		t.Fatal("no key package is on its way")
	}
	return ref
}

// meet makes contacts of two, and returns the reference of the key package used.
func (w *watched) meet(t *testing.T, a, b *Person, nameOfA, nameOfB string) []byte {
	t.Helper()
	inv, err := a.Invite(t.Context(), node.InviteOptions{Name: nameOfB})
	if err != nil {
		t.Fatal(err)
	}
	a.Stop()
	select {
	case <-w.rings:
	default:
	}
	if _, err := b.Accept(t.Context(), inv.Link, nameOfA); err != nil {
		t.Fatal(err)
	}
	<-w.rings // the request is in the inbox
	b.Stop()
	ref := keyPackageOf(t, b)
	w.start(t, a)
	w.start(t, b)
	b.Until("the contact", func() bool { return b.StateOf(nameOfA) == node.ContactEstablished })
	a.Until("the contact", func() bool { return a.StateOf(nameOfB) == node.ContactEstablished })
	return ref
}

// T19: three people meet, all three pairs of them, and talk. What the relay receives,
// stores and logs names no account, device, group, epoch or key package, shows no
// text, and nothing of one mailbox is found in another.
func TestWhatARelaySees(t *testing.T) {
	w := watch(t)
	names := []string{"Anastasia Onassis", "Benedikt Ohnesorg", "Cleopatra Philopator"}
	s := secrets{bytes: map[string][]byte{}}
	var people []*Person
	for _, name := range names {
		people = append(people, w.person(t, name))
		s.bytes["the name "+name] = []byte(name)
	}
	n := 0
	for i := range people {
		for j := range i {
			a, b := people[i], people[j]
			s.bytes[fmt.Sprintf("a key package's reference %d", n)] = w.meet(t, a, b, names[i], names[j])
			for _, dir := range []struct {
				from, to *Person
				of, at   string
			}{{a, b, names[i], names[j]}, {b, a, names[j], names[i]}, {a, b, names[i], names[j]}} {
				text := fmt.Sprintf("text number %d, for %s alone", n, dir.at)
				n++
				s.bytes["the "+text] = []byte(text)
				if _, err := dir.from.Send(t.Context(), dir.at, text); err != nil {
					t.Fatal(err)
				}
				dir.to.Until("the text", func() bool { return slices.Contains(dir.to.Texts(dir.of), text) })
			}
		}
	}
	for _, p := range people {
		p.Until("everything stored", func() bool { st, _ := p.Status(t.Context()); return st.Queued == 0 })
		p.Stop()
	}
	groups := 0
	for i, p := range people {
		inside(t, p, func(tx *store.Tx) error {
			d, err := tx.Device()
			if err != nil {
				return err
			}
			s.bytes["the device id of "+names[i]] = d.ID[:]
			s.bytes["the device key of "+names[i]] = key.DeviceFromSeed(d.Seed).Public().Bytes()
			s.bytes["the handshake key of "+names[i]] = key.NoiseFromSeed(d.Handshake).Public().Bytes()
			s.bytes["the sealing key of "+names[i]] = key.SealingFromSeed(d.Sealing).Public().Bytes()[:64]
			s.bytes["an entry of the account log of "+names[i]] = d.Log[0][:min(64, len(d.Log[0]))]
			contacts, err := tx.Contacts()
			for _, c := range contacts {
				s.bytes["the account id of "+c.Profile] = c.Account[:]
			}
			if err != nil {
				return err
			}
			conversations, err := tx.Conversations()
			for _, c := range conversations {
				groups++
				s.bytes[fmt.Sprintf("the id of group %x", c.Group[:2])] = c.Group
				keys, err := tx.EpochKeys(c.Group)
				if err != nil {
					return err
				}
				for _, k := range keys {
					s.epochs = max(s.epochs, k.Epoch)
				}
			}
			return err
		})
	}
	w.relay.Stop()
	if err := w.box.Close(); err != nil {
		t.Fatal(err)
	}
	v := view{log: w.log.String()}
	for _, c := range w.conns {
		v.frames = append(v.frames, *c)
	}
	db, err := kv.Open(kv.Options{Dir: w.dir, Small: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *kv.Tx) error {
		all, failed := tx.Range([]byte{}, nil, false)
		for k, b := range all {
			v.stored = append(v.stored, bytes.Clone(k), bytes.Clone(b))
		}
		return failed()
	})
	if err != nil {
		t.Fatal(err)
	}

	objects, payloads, err := v.objects()
	if err != nil || len(objects) < 9 || len(payloads) < n || s.epochs < 2 || groups != 6 || len(v.stored) < 100 {
		t.Fatalf("the relay saw %d objects, %d payloads, stored %d; there are %d groups of up to %d epochs: %v",
			len(objects), len(payloads), len(v.stored), groups, s.epochs, err)
	}
	for name, b := range s.bytes {
		if len(b) < 8 {
			t.Errorf("%s is too short to be looked for: %x", name, b)
		}
	}
	for _, c := range append(v.named(s), v.shared(s)...) {
		t.Error(c)
	}
	if t.Failed() {
		return
	}

	// Whatever of this is planted is found.
	var boxes []*object
	for _, o := range objects {
		if len(o.given) > 4 {
			boxes = append(boxes, o)
		}
	}
	post := func(to *object, payload []byte) []byte {
		return wire.Frame{Type: wire.TAppend, ID: 1, Body: wire.Encode(&wire.Append{Mailbox: to.id, Kind: mailbox.Message, Payload: payload})}.Append(nil)
	}
	around := func(b []byte) []byte { return slices.Concat([]byte{7, 7, 7}, b, []byte{9}) }
	find := func(name string, look func(*view, secrets) []string, plant func(v *view)) {
		bad := view{frames: slices.Clone(v.frames), stored: slices.Clone(v.stored), log: v.log}
		if plant(&bad); len(look(&bad, s)) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
	find("an epoch's number in a payload", (*view).shared, func(v *view) {
		v.frames = append(v.frames, post(boxes[0], around(binary.BigEndian.AppendUint64(nil, s.epochs))))
	})
	find("8 bytes of another mailbox's payload", (*view).shared, func(v *view) {
		last := boxes[1].given[len(boxes[1].given)-1]
		v.frames = append(v.frames, post(boxes[0], around(last[len(last)-8:])))
	})
	find("8 bytes of another mailbox's id", (*view).shared, func(v *view) {
		v.frames = append(v.frames, post(boxes[0], around(boxes[1].id[12:20])))
	})
	find("5 letters of an id in the log", (*view).shared, func(v *view) { v.log += "box=" + hex.EncodeToString(boxes[0].id[:3])[:5] })
	find("an address in the log", (*view).named, func(v *view) { v.log += "from=127.0.0.1:4655" })
	for name, b := range s.bytes {
		find(name+" on a connection", (*view).named, func(v *view) { v.frames = append(v.frames, post(boxes[0], around(b))) })
		find(name+" in the store", (*view).named, func(v *view) { v.stored = append(v.stored, around(b)) })
		find(name+" in the log", (*view).named, func(v *view) { v.log += " x=" + hex.EncodeToString(b) })
	}
}
