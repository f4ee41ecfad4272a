package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/storage/blob"
)

const vectorFile = "../../spec/vectors/relay/structures.json"

var write = flag.Bool("write-vectors", false, "write the vector file; it was made once and does not change")

func seed(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// samples holds one message of every kind, made of fixed keys and numbers.
func samples() map[string]Message {
	relay, admin, read, app := key.RelayFromSeed(seed(1)), key.CapabilityFromSeed(seed(2)), key.CapabilityFromSeed(seed(3)), key.CapabilityFromSeed(seed(4))
	s := Session{Relay: relay.Public(), RelayNonce: Nonce{5}, ClientNonce: Nonce{6}}
	create := &Create{Salt: [16]byte{7}, Read: read.Public(), Append: app.Public(), Keep: 43200, MaxEntries: 100, MaxBytes: 1 << 20, Full: mailbox.DropOldest, Ticket: []byte("ticket")}
	create.Sign(s, admin)
	slot := &SlotCreate{Once: true, Expires: 29_000_000, Value: []byte("value")}
	slot.Sign(s, admin, read)
	box := create.ID(relay.Public())
	entry := mailbox.Entry{Seq: 1, Era: 8, Kind: mailbox.Commit, Minute: 29_000_000, Gen: 0, Meta: append(read.Public().Bytes(), app.Public().Bytes()...), Payload: []byte("payload")}
	chain := mailbox.NextChain(mailbox.FirstChain(box), 8, 1, entry.Minute, entry.Hash())
	head := mailbox.Head{Mailbox: box, Era: 8, Seq: 1, Commit: mailbox.Mark{Era: 8, Seq: 1}, Chain: chain}
	heads := []mailbox.Head{{Mailbox: mailbox.ID{1}}, head, {Mailbox: mailbox.ID{2}}}
	status := &Status{Head: head, Gen: 1, Minute: 29_000_001}
	status.Sign(relay, Nonce{9})
	signed := SignHeads(relay, heads).Head(1)
	page := Page{Entries: []mailbox.Entry{entry}, Lost: []mailbox.Span{{From: 2, Cause: mailbox.Quota, End: head}}, End: signed, More: true}
	cursor := Cursor{Mailbox: box, Gen: 1, After: mailbox.Mark{Era: 8, Seq: 1}}
	owner, id := blob.Owner(admin.Public().Bytes()), blob.Sum([]byte("blob"))
	return map[string]Message{
		"ClientHello":   &ClientHello{MinVersion: 1, MaxVersion: 1, Nonce: Nonce{6}},
		"RelayHello":    &RelayHello{Version: 1, Key: relay.Public(), Era: 8, Nonce: Nonce{5}, Minute: 29_000_000, MaxFrame: MaxFrame, MaxInFlight: MaxInFlight, KeepMax: 259200},
		"Prove":         &Prove{[]Proof{s.Prove(read, Claim{Role: RoleRead, Object: box, Gen: 1})}},
		"Create":        create,
		"Append":        &Append{Mailbox: box, Gen: 1, Kind: mailbox.Message, Payload: []byte("payload")},
		"AppendCommit":  &Append{Mailbox: box, Gen: 1, Kind: mailbox.Commit, Expect: mailbox.Mark{Era: 8, Seq: 1}, Meta: entry.Meta, Payload: []byte("payload")},
		"Read":          &Read{Cursor: cursor, MaxEntries: 10, MaxBytes: 1000},
		"StatusRequest": &StatusRequest{Mailbox: box, Gen: 1, Nonce: Nonce{9}},
		"Subscribe":     &Subscribe{[]Cursor{cursor}},
		"Object":        &Object{ID: box},
		"Credit":        &Credit{Frames: 1, Bytes: 2},
		"Trim":          &Trim{Mailbox: box, Through: 3},
		"SlotCreate":    slot,
		"SlotTake":      &SlotTake{Slot: SlotID(relay.Public(), read.Public()), Tag: mailbox.Tag{1}},
		"SlotSet":       &SlotSet{Slot: mailbox.SlotID{1}, Version: 1, Value: []byte("value")},
		"SlotValue":     &SlotValue{Version: 1, Value: []byte("value")},
		"SlotState":     &SlotState{Version: 1, Expires: 29_000_000, Taken: 28_000_000},
		"Ping":          &Ping{[]byte("ping")},
		"GoAway":        &GoAway{Reason: GoStopping, Wait: 30},
		"Error":         &Error{Code: CodeGone, Wait: 10 * time.Second, Detail: []byte{1}},
		"Page":          &page,
		"Event":         &Event{Mailbox: box, Page: page},
		"Receipt":       &Receipt{Head: signed, Minute: 29_000_000, Again: true},
		"SignedHead":    &signed,
		"Status":        status,
		"Empty":         &Empty{},
		"Flags":         &Flags{[]byte{1, 0}},
		"BlobCreate":    &BlobCreate{Owner: owner, Blob: id, Size: 300_000, Expires: 29_000_000, Ticket: []byte("ticket")},
		"BlobWrite":     &BlobWrite{Owner: owner, Blob: id, Chunk: 1, Data: []byte("chunk")},
		"BlobMissing":   &BlobMissing{Chunks: 0b10},
		"BlobRead":      &BlobRead{Blob: id, Offset: 262_144, Length: 37_856},
		"BlobData":      &BlobData{Size: 262_149, Data: []byte("chunk")},
		"BlobInfo":      &BlobInfo{Size: 300_000, Expires: 29_000_000},
		"BlobRenew":     &BlobRenew{Owner: owner, Blob: id, Expires: 29_000_001},
		"BlobRenewed":   &BlobRenewed{Expires: 29_000_001},
		"BlobDelete":    &BlobDelete{Owner: owner, Blob: id},
		"BlobAudit":     &BlobAudit{Blob: id, Nonce: Nonce{9}},
		"BlobProof":     &BlobProof{MAC: blob.Answer(Nonce{9}, []byte("blob"))},
		"ProveBlobs":    &Prove{[]Proof{s.Prove(admin, Claim{Role: RoleBlobOwner, Object: owner})}},
	}
}

func TestVectors(t *testing.T) {
	got := map[string]string{}
	for name, m := range samples() {
		got[name] = hex.EncodeToString(Encode(m))
	}
	if *write {
		b, _ := json.MarshalIndent(got, "", "  ")
		os.MkdirAll("../../spec/vectors/relay", 0o755)
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Errorf("%d vectors, %d messages", len(want), len(got))
	}
	for name, m := range samples() {
		if got[name] != want[name] {
			t.Errorf("%s is %s, want %s", name, got[name], want[name])
		}
		raw, _ := hex.DecodeString(want[name])
		back := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
		if err := Decode(raw, back); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if again := Encode(back); !bytes.Equal(again, raw) {
			t.Errorf("%s comes back as %x", name, again)
		}
	}
}

func TestSignaturesBindTheirSession(t *testing.T) {
	s := Session{Relay: key.NewRelay().Public(), RelayNonce: Nonce{1}, ClientNonce: Nonce{2}}
	k := key.NewCapability()
	p := s.Prove(k, Claim{Role: RoleRead, Object: [32]byte{3}, Gen: 4})
	if !s.Verify(k.Public(), p) {
		t.Fatal("a good proof does not verify")
	}
	for name, change := range map[string]func(*Session, *Proof){
		"relay":        func(s *Session, p *Proof) { s.Relay = key.NewRelay().Public() },
		"relay nonce":  func(s *Session, p *Proof) { s.RelayNonce[0]++ },
		"client nonce": func(s *Session, p *Proof) { s.ClientNonce[0]++ },
		"role":         func(s *Session, p *Proof) { p.Role++ },
		"object":       func(s *Session, p *Proof) { p.Object[0]++ },
		"generation":   func(s *Session, p *Proof) { p.Gen++ },
	} {
		s, p := s, p
		if change(&s, &p); s.Verify(k.Public(), p) {
			t.Errorf("with another %s it verifies", name)
		}
	}
}

// Every head of every batch size proves itself, and no other.
func TestMerkle(t *testing.T) {
	relay := key.NewRelay()
	for n := 1; n <= 33; n++ {
		var heads []mailbox.Head
		for i := range n {
			heads = append(heads, mailbox.Head{Mailbox: mailbox.ID{byte(i)}, Seq: mailbox.Seq(i)})
		}
		tree := SignHeads(relay, heads)
		for i := range n {
			s := tree.Head(i)
			if err := s.Verify(relay.Public()); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			bad := s
			bad.Head.Seq++
			other := s
			other.Index = uint32((i + 1) % n)
			short := s
			if len(s.Path) > 0 {
				short.Path = s.Path[1:]
			} else {
				short.Path = []mailbox.Hash{{}}
			}
			for name, x := range map[string]SignedHead{"another head": bad, "a path of another length": short} {
				if x.Verify(relay.Public()) == nil {
					t.Errorf("leaf %d of %d: %s verifies", i, n, name)
				}
			}
			if n > 1 && other.Verify(relay.Public()) == nil {
				t.Errorf("leaf %d of %d verifies at another place", i, n)
			}
		}
	}
	if (&SignedHead{}).Verify(relay.Public()) == nil {
		t.Error("a head of no leaves verifies")
	}
}

// An error keeps its meaning from the store to the far end of the wire.
func TestErrorsCrossTheWire(t *testing.T) {
	for _, s := range sentinels {
		sent := ErrorOf(fmt.Errorf("badgerbox: box 01…: %w", s.err))
		var back Error
		if err := Decode(Encode(sent), &back); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Errorf("deliver to ana: %w", &back); !errors.Is(got, s.err) {
			t.Errorf("%v crossed the wire as code %d and came back as %v", s.err, sent.Code, got)
		}
	}
	if got := ErrorOf(errors.New("disk on fire")); got.Code != CodeInternal || !errors.Is(got, mailbox.ErrUnknown) || len(got.Detail) != 0 {
		t.Errorf("an unknown error became %+v", got)
	}
	if got := ErrorOf(&mailbox.GoneError{Cause: mailbox.SlotTaken}); got.Gone() != mailbox.SlotTaken {
		t.Errorf("gone became %+v", got)
	}
}

func TestAddress(t *testing.T) {
	k := key.RelayFromSeed(seed(1)).Public()
	id := PeerID(k)
	s := "/ip4/192.0.2.7/tcp/4001/p2p/" + id + ",/dns4/relay.example/tcp/443/p2p/" + id
	a, err := ParseAddress(" " + s + "\n")
	if err != nil || a.Key != k || a.String() != s {
		t.Fatalf("ParseAddress(%s) = %v, %v", s, a, err)
	}
	back, err := ReadAddress(a.Append(nil))
	if err != nil || back.String() != s {
		t.Errorf("came back as %v, %v", back, err)
	}
	other := PeerID(key.RelayFromSeed(seed(2)).Public())
	for name, s := range map[string]string{
		"nothing":          "",
		"no id":            "/ip4/192.0.2.7/tcp/4001",
		"an id alone":      "/p2p/" + id,
		"two relays":       "/ip4/192.0.2.7/tcp/4001/p2p/" + id + ",/ip4/192.0.2.7/tcp/4001/p2p/" + other,
		"an RSA key's id":  "/ip4/192.0.2.7/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
		"no multiaddr":     "relay.example:4001",
		"nine of them":     s + "," + s + "," + s + "," + s + "," + s,
		"far too long":     "/dns4/" + string(bytes.Repeat([]byte("a"), 2000)),
		"a comma too many": s + ",",
	} {
		if a, err := ParseAddress(s); !errors.Is(err, ErrBadAddress) {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	if _, err := ReadAddress(append(k.Bytes(), 0)); err == nil {
		t.Error("an address without hints is read")
	}
}

func TestFrame(t *testing.T) {
	for _, n := range []int{0, 1, 122, 123, 124, 16384, MaxFrame - MinFrame} {
		b := Frame{TEvent, 77, make([]byte, n)}.Append(nil)
		fr, err := ReadFrame(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || fr.Type != TEvent || fr.ID != 77 || len(fr.Body) != n {
			t.Errorf("%d bytes: %v", n, err)
		}
		for _, cut := range []int{1, len(b) / 2, len(b) - 1} {
			if _, err := ReadFrame(bufio.NewReader(bytes.NewReader(b[:cut]))); err == nil {
				t.Errorf("%d bytes, cut off at %d: read", n, cut)
			}
		}
	}
	if _, err := ReadFrame(bufio.NewReader(bytes.NewReader(nil))); err != io.EOF {
		t.Errorf("an empty stream: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(Frame{TPing, 1, []byte("x")}.Append(nil))
	f.Add([]byte{0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := ReadFrame(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && !bytes.HasPrefix(b, fr.Append(nil)) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

// Every structure, by name: what is read is written again as the same bytes, but
// for Hello's extensions.
func FuzzDecode(f *testing.F) {
	all := samples()
	var names []string
	for name := range all {
		names = append(names, name)
	}
	for i, name := range names {
		f.Add(uint8(i), Encode(all[name]))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		for _, name := range names { // the map's order is random, so all of them
			m := reflect.New(reflect.TypeOf(all[name]).Elem()).Interface().(Message)
			if Decode(b, m) != nil || name == "ClientHello" || name == "RelayHello" {
				continue
			}
			if again := Encode(m); !bytes.Equal(again, b) {
				t.Errorf("%s: %x comes back as %x", name, b, again)
			}
		}
	})
}

func FuzzReadAddress(f *testing.F) {
	a, _ := ParseAddress("/ip4/192.0.2.7/tcp/4001/p2p/" + PeerID(key.RelayFromSeed(seed(1)).Public()))
	f.Add(a.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ReadAddress(b); err == nil && !bytes.Equal(a.Append(nil), b) {
			t.Errorf("%x has two encodings", b)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add("/ip4/192.0.2.7/tcp/4001/p2p/" + PeerID(key.RelayFromSeed(seed(1)).Public()))
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if back, err := ParseAddress(a.String()); err != nil || back.String() != a.String() {
			t.Errorf("%q was read as %v, which is read as %v, %v", s, a, back, err)
		}
	})
}
