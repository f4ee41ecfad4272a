package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"sotto/crypto/codec"
	"sotto/crypto/key"
	"sotto/relay/mailbox"
)

// hexBytes are bytes as they stand in a vector file.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// vectors holds made against the file of spec/vectors/relay and returns what stands
// there. With -write-vectors it writes the file first.
func vectors[T any](t *testing.T, name string, made T) (want T) {
	t.Helper()
	file := filepath.Join("../../spec/vectors/relay", name)
	b, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *write {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pinned, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, pinned) {
		t.Errorf("%s is made differently now:\n%s", name, b)
	}
	if err := json.Unmarshal(pinned, &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// bad is a vector that is refused, and the error's name.
type bad struct {
	Name  string   `json:"name"`
	Type  string   `json:"type,omitempty"` // the structure that it should be
	Bytes hexBytes `json:"bytes,omitempty"`
	Text  string   `json:"text,omitempty"`
	Error string   `json:"error"`
}

// The names of errors in vectors.
var vectorErrors = map[string]error{
	"malformed": codec.ErrMalformed, "not a frame": ErrFrame, "cut off": io.ErrUnexpectedEOF,
	"not a relay address": ErrBadAddress, "signature": ErrSignature,
}

func (b *bad) check(t *testing.T, err error) {
	t.Helper()
	if want := vectorErrors[b.Error]; want == nil || !errors.Is(err, want) {
		t.Errorf("%s: %v, want %s", b.Name, err, b.Error)
	}
}

func with(b []byte, at int, x ...byte) hexBytes {
	b = bytes.Clone(b)
	copy(b[at:], x)
	return b
}

func TestAddressVectors(t *testing.T) {
	type good struct {
		Text  string   `json:"text"`
		Bytes hexBytes `json:"bytes"`
	}
	k := key.RelayFromSeed(seed(1)).Public()
	id, other := PeerID(k), PeerID(key.RelayFromSeed(seed(2)).Public())
	made := struct {
		Key  hexBytes `json:"relay_key"`
		Peer string   `json:"peer_id"`
		Good []good   `json:"good"`
		Bad  []bad    `json:"bad"`
	}{Key: k.Bytes(), Peer: id}
	for _, s := range []string{"/ip4/192.0.2.7/tcp/4655/p2p/" + id,
		"/ip6/2001:db8::7/tcp/4655/p2p/" + id + ",/dns4/relay.example/tcp/443/p2p/" + id} {
		a, err := ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		made.Good = append(made.Good, good{s, a.Append(nil)})
	}
	one := made.Good[0].Bytes
	many := "/ip4/192.0.2.7/tcp/4655/p2p/" + id
	for name, s := range map[string]string{
		"nothing": "", "no id": "/ip4/192.0.2.7/tcp/4655", "an id alone": "/p2p/" + id, "two relays": many + ",/ip4/192.0.2.7/tcp/4655/p2p/" + other,
		"the id of an RSA key": "/ip4/192.0.2.7/tcp/4655/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
		"nine multiaddrs":      strings.Repeat(many+",", 8) + many, "no multiaddr": "relay.example:4655", "a comma behind": many + ",",
	} {
		made.Bad = append(made.Bad, bad{Name: name, Text: s, Error: "not a relay address"})
	}
	front := len(k.Bytes())
	for name, b := range map[string]hexBytes{
		"no bytes": {}, "no hints": append(k.Bytes(), 0), "a byte behind": append(bytes.Clone(one), 0), "cut off": one[:len(one)-1],
		"a hint that is no multiaddr": with(one, front+2, 0xff), "a length that is not the shortest": slices.Concat(one[:front], []byte{0x40, one[front]}, one[front+1:]),
		"a hint with an id": addressOf(k, "/ip4/192.0.2.7/tcp/4655/p2p/"+id),
	} {
		made.Bad = append(made.Bad, bad{Name: "bytes: " + name, Type: "RelayAddress", Bytes: b, Error: "not a relay address"})
	}
	slices.SortFunc(made.Bad, func(a, b bad) int { return strings.Compare(a.Name, b.Name) })
	v := vectors(t, "address.json", made)
	for _, g := range v.Good {
		a, err := ReadAddress(g.Bytes)
		b, terr := ParseAddress(g.Text)
		if err != nil || terr != nil || a.String() != g.Text || !bytes.Equal(b.Append(nil), g.Bytes) || a.Key != k {
			t.Errorf("%s: %v, %v", g.Text, err, terr)
		}
	}
	for _, b := range v.Bad {
		var err error
		if b.Type != "" {
			_, err = ReadAddress(b.Bytes)
		} else {
			_, err = ParseAddress(b.Text)
		}
		b.check(t, err)
	}
}

// addressOf is a RelayAddress of one hint that may be anything.
func addressOf(k key.RelayPublic, hint string) []byte {
	return codec.AppendVecFunc(k.Bytes(), func(b []byte) []byte { return codec.AppendVec(b, ma.StringCast(hint).Bytes()) })
}

func TestFrameVectors(t *testing.T) {
	type good struct {
		Type  uint8    `json:"type"`
		ID    uint32   `json:"id"`
		Body  hexBytes `json:"body"`
		Bytes hexBytes `json:"bytes"`
	}
	var made struct {
		Good []good `json:"good"`
		Bad  []bad  `json:"bad"`
	}
	for _, fr := range []Frame{{THello, 0, Encode(samples()["ClientHello"])}, {TPing, 1, []byte("ping")}, {TStatus, 1<<32 - 1, nil}, {TOK, 2, make([]byte, 123)}} {
		made.Good = append(made.Good, good{uint8(fr.Type), fr.ID, fr.Body, fr.Append(nil)})
	}
	made.Bad = []bad{
		{Name: "a length of 0", Bytes: hexBytes{0}, Error: "not a frame"},
		{Name: "a length of 4", Bytes: hexBytes{4, 0x20, 0, 0, 0}, Error: "not a frame"},
		{Name: "a length of 307,201", Bytes: hexBytes{0x81, 0xe0, 0x12, 0x20}, Error: "not a frame"},
		{Name: "a length of four bytes", Bytes: hexBytes{0x85, 0x80, 0x80, 0x00, 0x20, 0, 0, 0, 1}, Error: "not a frame"},
		{Name: "a length that is not the shortest", Bytes: hexBytes{0x85, 0x00, 0x20, 0, 0, 0, 1}, Error: "not a frame"},
		{Name: "cut off in its length", Bytes: hexBytes{0x85}, Error: "cut off"},
		{Name: "cut off in its body", Bytes: hexBytes{0x05, 0x20, 0, 0, 0}, Error: "cut off"},
	}
	v := vectors(t, "frame.json", made)
	for _, g := range v.Good {
		fr, err := ReadFrame(bufio.NewReader(bytes.NewReader(g.Bytes)))
		if err != nil || fr.Type != Type(g.Type) || fr.ID != g.ID || !bytes.Equal(fr.Body, g.Body) {
			t.Errorf("%x: %+v, %v", g.Bytes, fr, err)
		}
	}
	for _, b := range v.Bad {
		_, err := ReadFrame(bufio.NewReader(bytes.NewReader(b.Bytes)))
		b.check(t, err)
	}
}

// Sessions: what is bound to them, and what of it holds nowhere else.
func TestSessionVectors(t *testing.T) {
	relay, admin, read, app := key.RelayFromSeed(seed(1)), key.CapabilityFromSeed(seed(2)), key.CapabilityFromSeed(seed(3)), key.CapabilityFromSeed(seed(4))
	s := Session{Relay: relay.Public(), RelayNonce: Nonce{5}, ClientNonce: Nonce{6}}
	salt := [16]byte{7}
	box := MailboxID(relay.Public(), admin.Public(), salt)
	claim := Claim{Role: RoleRead, Object: box, Gen: 1}
	proof := s.Prove(read, claim)
	encode := func(p Proof) hexBytes { return codec.Write(p.fields) }
	type binding struct {
		Signed hexBytes `json:"signed"` // label and all that follows it
		Bytes  hexBytes `json:"bytes"`
	}
	create, slot := samples()["Create"].(*Create), samples()["SlotCreate"].(*SlotCreate)
	made := struct {
		Seeds struct {
			Relay  hexBytes `json:"relay"`
			Admin  hexBytes `json:"admin_and_slot_owner"`
			Read   hexBytes `json:"read_and_slot_read"`
			Append hexBytes `json:"append"`
		} `json:"seeds"`
		RelayNonce  hexBytes `json:"relay_nonce"`
		ClientNonce hexBytes `json:"client_nonce"`
		Salt        hexBytes `json:"salt"`
		Mailbox     hexBytes `json:"mailbox_id"`
		Slot        hexBytes `json:"slot_id"`
		Proof       binding  `json:"proof"` // by read, generation 1
		Create      binding  `json:"create"`
		SlotCreate  binding  `json:"slot_create"`
		Bad         []bad    `json:"bad"` // in this session, with the keys above; relays answer denied
	}{}
	made.Seeds.Relay, made.Seeds.Admin, made.Seeds.Read, made.Seeds.Append = seed(1), seed(2), seed(3), seed(4)
	made.RelayNonce, made.ClientNonce, made.Salt = s.RelayNonce[:], s.ClientNonce[:], salt[:]
	slotID := SlotID(relay.Public(), read.Public())
	made.Mailbox, made.Slot = box[:], slotID[:]
	made.Proof = binding{slices.Concat([]byte(proofLabel), s.bytes(), claim.signed()), encode(proof)}
	made.Create = binding{slices.Concat([]byte(createLabel), s.bytes(), codec.Write(create.unsigned)), Encode(create)}
	made.SlotCreate = binding{slices.Concat([]byte(slotCreateLabel), s.bytes(), codec.Write(slot.unsigned)), Encode(slot)}
	elsewhere := func(change func(*Session)) Session { s := s; change(&s); return s }
	sessions := map[string]Session{
		"to another relay":                   elsewhere(func(s *Session) { s.Relay = key.RelayFromSeed(seed(9)).Public() }),
		"in a session of another relay's":    elsewhere(func(s *Session) { s.RelayNonce[0]++ }),
		"in a session of another client's":   elsewhere(func(s *Session) { s.ClientNonce[0]++ }),
		"in a session with nonces exchanged": elsewhere(func(s *Session) { s.RelayNonce, s.ClientNonce = s.ClientNonce, s.RelayNonce }),
	}
	refused := func(name, what string, b hexBytes) {
		made.Bad = append(made.Bad, bad{Name: name, Type: what, Bytes: b, Error: "denied"})
	}
	for name, other := range sessions {
		refused("proof made "+name, "Proof", encode(other.Prove(read, claim)))
		c, sl := *create, *slot
		c.Sign(other, admin)
		refused("create signed "+name, "Create", Encode(&c))
		sl.Sign(other, admin, read)
		refused("slot create signed "+name, "SlotCreate", Encode(&sl))
	}
	for name, c := range map[string]Claim{
		"another role": {RoleAppend, box, 1}, "another generation": {RoleRead, box, 0}, "another object": {RoleRead, slotID, 1},
	} {
		p := proof
		p.Claim = c
		refused("proof relabelled for "+name, "Proof", encode(p))
	}
	refused("proof with another key", "Proof", encode(s.Prove(app, claim)))
	c := *create
	c.Read = app.Public()
	refused("create with another read key than was signed", "Create", Encode(&c))
	sl := *slot
	sl.ReadSignature = sl.OwnerSignature
	refused("slot create signed by its owner alone", "SlotCreate", Encode(&sl))
	slices.SortFunc(made.Bad, func(a, b bad) int { return strings.Compare(a.Name, b.Name) })

	v := vectors(t, "session.json", made)
	holds := func(what string, b []byte) bool {
		switch what {
		case "Proof":
			var p Proof
			return codec.Read(b, p.fields) == nil && s.Verify(read.Public(), p)
		case "Create":
			var m Create
			return Decode(b, &m) == nil && m.Verify(s)
		case "SlotCreate":
			var m SlotCreate
			return Decode(b, &m) == nil && m.Verify(s)
		}
		t.Fatalf("what is a %s?", what)
		return false
	}
	for what, b := range map[string]binding{"Proof": v.Proof, "Create": v.Create, "SlotCreate": v.SlotCreate} {
		if !holds(what, b.Bytes) {
			t.Errorf("the good %s does not hold", what)
		}
	}
	for _, b := range v.Bad {
		if b.Error != "denied" || holds(b.Type, b.Bytes) {
			t.Errorf("%s: it holds, want %s", b.Name, b.Error)
		}
	}
}

// What relays sign: heads in a Merkle tree, receipts, statuses.
func TestHeadVectors(t *testing.T) {
	relay := key.RelayFromSeed(seed(1))
	var heads []mailbox.Head
	for i := range 5 {
		id := mailbox.ID{byte(i + 1)}
		h := mailbox.Head{Mailbox: id, Era: 8, Chain: mailbox.FirstChain(id)}
		for seq := mailbox.Seq(1); seq <= mailbox.Seq(i); seq++ {
			e := mailbox.Entry{Kind: mailbox.Message, Payload: []byte{byte(seq)}}
			h.Seq, h.Chain = seq, mailbox.NextChain(h.Chain, 8, seq, 29_000_000, e.Hash())
		}
		if i == 4 {
			h.Commit = mailbox.Mark{Era: 8, Seq: 2}
		}
		heads = append(heads, h)
	}
	tree := SignHeads(relay, heads)
	nonce := Nonce{9}
	status := &Status{Head: heads[4], Gen: 1, Minute: 29_000_001}
	status.Sign(relay, nonce)
	ended := &Status{Head: heads[4], Gen: 0, Ended: true, Minute: 29_000_001}
	ended.Sign(relay, nonce)
	sign := func(i int) *SignedHead { h := tree.Head(i); return &h }
	type leaf struct {
		Head   hexBytes `json:"head"`
		Hash   hexBytes `json:"leaf"`
		Signed hexBytes `json:"signed_head"`
	}
	made := struct {
		Seed    hexBytes `json:"relay_seed"`
		Leaves  []leaf   `json:"leaves"`
		Root    hexBytes `json:"root"`
		Alone   hexBytes `json:"first_alone"` // the first head in a tree of one
		Receipt hexBytes `json:"receipt_of_third"`
		Nonce   hexBytes `json:"status_nonce"`
		Status  hexBytes `json:"status_of_fifth"`
		Ended   hexBytes `json:"status_ended"`
		Bad     []bad    `json:"bad"`
	}{Seed: seed(1), Nonce: nonce[:], Status: Encode(status), Ended: Encode(ended)}
	for i, h := range heads {
		hash := leafHash(h)
		made.Leaves = append(made.Leaves, leaf{headBytes(h), hash[:], Encode(sign(i))})
	}
	root := tree.levels[len(tree.levels)-1][0]
	made.Root = root[:]
	alone := SignHeads(relay, heads[:1]).Head(0)
	made.Alone = Encode(&alone)
	made.Receipt = Encode(&Receipt{Head: *sign(2), Minute: 29_000_000})
	refused := func(name, what, err string, b hexBytes) {
		made.Bad = append(made.Bad, bad{Name: name, Type: what, Bytes: b, Error: err})
	}
	head := func(name string, change func(*SignedHead)) {
		h := sign(2)
		change(h)
		refused(name, "SignedHead", "signature", Encode(h))
	}
	head("another seq", func(h *SignedHead) { h.Head.Seq++ })
	head("another fence", func(h *SignedHead) { h.Head.Commit.Seq++ })
	head("another chain", func(h *SignedHead) { h.Head.Chain[0] ^= 1 })
	head("another era", func(h *SignedHead) { h.Head.Era++ })
	head("another place", func(h *SignedHead) { h.Index = 3 })
	head("a place outside", func(h *SignedHead) { h.Index = 5 })
	head("more leaves", func(h *SignedHead) { h.Leaves++ })
	head("no leaves", func(h *SignedHead) { h.Leaves = 0 })
	head("a path too short", func(h *SignedHead) { h.Path = h.Path[1:] })
	head("a path too long", func(h *SignedHead) { h.Path = append(slices.Clone(h.Path), mailbox.Hash{}) })
	head("signed by another relay", func(h *SignedHead) { *h = SignHeads(key.RelayFromSeed(seed(2)), heads).Head(2) })
	head("a node given for a leaf", func(h *SignedHead) {
		*h = SignedHead{Head: heads[0], Leaves: 1, Signature: tree.signature}
	})
	doubled := append(slices.Clone(heads), heads[4]) // as some trees double their last leaf
	twin := SignHeads(relay, doubled).Head(5)
	twin.Leaves, twin.Signature = 5, tree.signature
	refused("a last leaf doubled", "SignedHead", "signature", Encode(&twin))
	third := Encode(sign(2))
	refused("a byte behind", "SignedHead", "malformed", append(bytes.Clone(third), 0))
	refused("cut off", "SignedHead", "malformed", third[:len(third)-1])
	refused("a path of half a hash", "SignedHead", "malformed", slices.Concat(third[:headSize+8], []byte{16}, third[headSize+10:headSize+26], third[len(third)-64:]))
	st := func(name string, change func(*Status)) {
		s := *status
		change(&s)
		refused("status: "+name, "Status", "signature", Encode(&s))
	}
	st("another seq", func(s *Status) { s.Head.Seq++ })
	st("ended", func(s *Status) { s.Ended = true })
	st("another generation", func(s *Status) { s.Gen++ })
	st("another minute", func(s *Status) { s.Minute++ })
	st("for another question", func(s *Status) { s.Sign(relay, Nonce{10}) })
	st("by another relay", func(s *Status) { s.Sign(key.RelayFromSeed(seed(2)), nonce) })
	flag := bytes.Clone(made.Status)
	flag[headSize+4] = 2
	refused("status: a flag of 2", "Status", "malformed", flag)
	again := bytes.Clone(made.Receipt)
	again[len(again)-1] = 2
	refused("receipt: a flag of 2", "Receipt", "malformed", again)

	v := vectors(t, "head.json", made)
	verify := func(what string, b []byte) error {
		switch what {
		case "SignedHead":
			var h SignedHead
			if err := Decode(b, &h); err != nil {
				return err
			}
			return h.Verify(relay.Public())
		case "Receipt":
			var r Receipt
			if err := Decode(b, &r); err != nil {
				return err
			}
			return r.Head.Verify(relay.Public())
		}
		var s Status
		if err := Decode(b, &s); err != nil {
			return err
		}
		return s.Verify(relay.Public(), nonce)
	}
	good := map[string]hexBytes{"SignedHead": v.Alone, "Receipt": v.Receipt, "Status": v.Status, "Status ended": v.Ended}
	for i, l := range v.Leaves {
		good["SignedHead "+string(rune('1'+i))] = l.Signed
	}
	for what, b := range good {
		if err := verify(strings.Fields(what)[0], b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, b := range v.Bad {
		b.check(t, verify(b.Type, b.Bytes))
	}
}

// Of every structure what is refused.
func TestBadStructures(t *testing.T) {
	all := samples()
	var made []bad
	for name, m := range all {
		b := Encode(m)
		switch name {
		case "Empty":
			made = append(made, bad{Name: "Empty: a byte too many", Type: name, Bytes: hexBytes{0}, Error: "malformed"})
		case "Ping":
			made = append(made, bad{Name: "Ping: 65 bytes", Type: name, Bytes: make([]byte, 65), Error: "malformed"})
		case "Flags": // takes everything
		default:
			made = append(made,
				bad{Name: name + ": a byte too many", Type: name, Bytes: append(bytes.Clone(b), 0), Error: "malformed"},
				bad{Name: name + ": a byte too few", Type: name, Bytes: b[:len(b)-1], Error: "malformed"})
		}
	}
	raw := func(name string) []byte { return Encode(all[name]) }
	app := raw("Append")
	page := raw("Page")
	made = append(made,
		bad{Name: "Append: of kind 0", Type: "Append", Bytes: with(app, 36, 0), Error: "malformed"},
		bad{Name: "Append: of kind 3", Type: "Append", Bytes: with(app, 36, 3), Error: "malformed"},
		bad{Name: "Append: a payload longer than its frame", Type: "Append", Bytes: slices.Concat(app[:38], []byte{0x80, 0x04, 0x00, 0x01}), Error: "malformed"},
		bad{Name: "Append: a length that is not the shortest", Type: "Append", Bytes: slices.Concat(app[:37], []byte{0x40, 0x00}, app[38:]), Error: "malformed"},
		bad{Name: "Page: more is neither", Type: "Page", Bytes: with(page, len(page)-1, 2), Error: "malformed"},
		bad{Name: "Page: half an entry", Type: "Page", Bytes: slices.Concat([]byte{4}, page[2:6], page[len(page)-100:]), Error: "malformed"},
		bad{Name: "Prove: 257 proofs", Type: "Prove", Bytes: codec.AppendVec(nil, make([]byte, 257*101)), Error: "malformed"},
		bad{Name: "Subscribe: 257 cursors", Type: "Subscribe", Bytes: codec.AppendVec(nil, make([]byte, 257*52)), Error: "malformed"},
		bad{Name: "SlotSet: a value of 65,537 bytes announced", Type: "SlotSet", Bytes: slices.Concat(raw("SlotSet")[:36], []byte{0x80, 0x01, 0x00, 0x01}), Error: "malformed"},
		bad{Name: "SlotCreate: neither once nor for many", Type: "SlotCreate", Bytes: with(raw("SlotCreate"), 64, 2), Error: "malformed"},
		bad{Name: "BlobWrite: a chunk of 262,145 bytes announced", Type: "BlobWrite", Bytes: slices.Concat(raw("BlobWrite")[:65], []byte{0x80, 0x04, 0x00, 0x01}), Error: "malformed"},
		bad{Name: "BlobData: 262,145 bytes announced", Type: "BlobData", Bytes: slices.Concat(raw("BlobData")[:4], []byte{0x80, 0x04, 0x00, 0x01}), Error: "malformed"},
		bad{Name: "BlobCreate: a ticket of 256 bytes", Type: "BlobCreate", Bytes: slices.Concat(raw("BlobCreate")[:72], codec.AppendVec(nil, make([]byte, 256))), Error: "malformed"},
		bad{Name: "Error: a detail of 513 bytes", Type: "Error", Bytes: slices.Concat([]byte{0, 1, 0, 0, 0, 0}, codec.AppendVec(nil, make([]byte, 513))), Error: "malformed"},
	)
	slices.SortFunc(made, func(a, b bad) int { return strings.Compare(a.Name, b.Name) })
	seen := map[string]bool{}
	for _, b := range vectors(t, "bad.json", made) {
		m, ok := all[b.Type]
		if !ok {
			t.Fatalf("%s: what is a %s?", b.Name, b.Type)
		}
		seen[b.Type] = true
		b.check(t, Decode(b.Bytes, reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)))
	}
	for name := range maps.Keys(all) {
		if !seen[name] && name != "Flags" {
			t.Errorf("nothing bad of %s", name)
		}
	}
}

// T36: whatever a frame holds, reading it takes no more than some times its size.
func TestDecodingTakesLittleMemory(t *testing.T) {
	small := mailbox.Entry{Kind: mailbox.Message, Payload: []byte{1}}
	worst := map[string]Message{
		"Page":      &Page{Entries: slices.Repeat([]mailbox.Entry{small}, mailbox.MaxPage), Lost: make([]mailbox.Span, MaxSpans), End: SignedHead{Path: make([]mailbox.Hash, maxPath)}},
		"Prove":     &Prove{Proofs: make([]Proof, MaxProofs)},
		"Subscribe": &Subscribe{Cursors: make([]Cursor, MaxCursors)},
		"Append":    &Append{Kind: mailbox.Message, Payload: make([]byte, mailbox.MaxPayload)},
	}
	bodies := map[string][]byte{"zeros": make([]byte, MaxFrame-MinFrame), "lengths": bytes.Repeat([]byte{0x80, 0x04, 0xa0, 0x00}, (MaxFrame-MinFrame)/4), "ones": bytes.Repeat([]byte{1}, MaxFrame-MinFrame)}
	for name, m := range worst {
		bodies[name] = Encode(m)
	}
	const most = 16 << 20
	for what, b := range bodies {
		for name, m := range samples() {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			Decode(b, reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message))
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > most {
				t.Errorf("%s read as %s takes %d bytes", what, name, took)
			}
		}
	}
}
