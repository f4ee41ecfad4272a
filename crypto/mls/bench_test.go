package mls

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Sending and receiving have a floor beside them: the primitives that RFC 9420
// demands for the same operation and nothing else. "against" does both in turns, for
// a ratio that holds on a machine with other work; cmd/sotto-bench reads it. Without
// a suffix it is suite 1, with _xwing the product's.

// benchGroup returns two members of a group of n.
func benchGroup(b *testing.B, id Suite, n int) (*Group, *Group) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	config := func() Config {
		return Config{Signer: newSigner(b, id), ValidateCredential: anyCredential}
	}
	c := config()
	g, err := NewGroup(c, GroupOptions{Suite: id, Credential: BasicCredential([]byte("ana"))})
	must(err)
	o := &CommitOptions{}
	var first *KeyPackageBundle
	var firstConfig Config
	for i := range n - 1 {
		c := config()
		k, err := NewKeyPackage(KeyPackageOptions{Suite: id, Signer: c.Signer, Credential: BasicCredential([]byte("member"))})
		must(err)
		if i == 0 {
			first, firstConfig = k, c
		}
		o.Proposals = append(o.Proposals, Add{k.KeyPackage()})
	}
	s, err := g.Commit(o)
	must(err)
	g, err = s.Merge(g)
	must(err)
	g.Changes()
	h, err := Join(firstConfig, s.Welcome(), first, nil)
	must(err)
	h.Changes()
	return g, h
}

// floor does what a message of 1 KiB cannot do without.
type floor struct {
	s       *suite
	signer  crypto.Signer
	public  ed25519.PublicKey
	signed  []byte
	sig     []byte
	secret  []byte
	plain   []byte
	sealed  []byte
	aad     []byte
	nonce   []byte
	sender  []byte
	senderC []byte
	info    []byte
	derived []byte
}

func newFloor(b *testing.B, id Suite) *floor {
	s, err := id.lookup()
	if err != nil {
		b.Fatal(err)
	}
	f := &floor{s: s, signer: newSigner(b, id), secret: make([]byte, s.nh), nonce: make([]byte, nonceSize)}
	f.public = f.signer.Public().(ed25519.PublicKey)
	f.signed = make([]byte, 1024+250) // label, content and group context
	f.plain = make([]byte, 1024+3+66) // content and signature
	f.aad = make([]byte, 44)
	f.sender = make([]byte, senderDataLen)
	f.info = make([]byte, 43) // length, label, context and block number
	f.derived = make([]byte, s.nh)
	f.sig, _ = f.signer.Sign(rand.Reader, f.signed, crypto.Hash(0))
	key := make([]byte, s.nk)
	aead, _ := s.newAEAD(key)
	f.sealed = aead.Seal(nil, f.nonce, f.plain, f.aad)
	f.senderC = aead.Seal(nil, f.nonce, f.sender, f.aad)
	return f
}

// derive does the five KDF calls, each an HMAC of one block: key, nonce and next
// secret of the ratchet under one key, key and nonce of the sender data under
// another.
func (f *floor) derive() {
	for _, outputs := range []int{3, 2} {
		mac := hmac.New(f.s.new, f.secret)
		for i := range outputs {
			if i > 0 {
				mac.Reset()
			}
			mac.Write(f.info)
			mac.Sum(f.derived[:0])
		}
	}
}

func (f *floor) send() {
	if _, err := f.signer.Sign(rand.Reader, f.signed, crypto.Hash(0)); err != nil {
		panic(err)
	}
	f.derive()
	var guard [4]byte
	rand.Read(guard[:])
	for _, plain := range [][]byte{f.plain, f.sender} {
		aead, err := f.s.newAEAD(make([]byte, f.s.nk))
		if err != nil {
			panic(err)
		}
		aead.Seal(nil, f.nonce, plain, f.aad)
	}
}

func (f *floor) receive() {
	f.derive()
	for _, sealed := range [][]byte{f.senderC, f.sealed} {
		aead, err := f.s.newAEAD(make([]byte, f.s.nk))
		if err != nil {
			panic(err)
		}
		if _, err := aead.Open(nil, f.nonce, sealed, f.aad); err != nil {
			panic(err)
		}
	}
	if !ed25519.Verify(f.public, f.signed, f.sig) {
		panic("signature")
	}
}

// against does an operation and its floor in turns, so that what disturbs the machine
// disturbs both, and reports the median turn of each.
func against(b *testing.B, prepare func(n int), op, floor func()) {
	const turn = 4 // some 200 us: most are not disturbed at all
	perTurn := func(f func()) float64 {
		start := time.Now()
		for range turn {
			f()
		}
		return float64(time.Since(start).Nanoseconds()) / turn
	}
	var ops, floors []float64
	for b.Loop() {
		prepare(turn)
		ops = append(ops, perTurn(op))
		floors = append(floors, perTurn(floor))
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	b.ReportMetric(0, "ns/op") // of both, and of what prepares them: not shown
	b.ReportMetric(median(ops), "op-ns")
	b.ReportMetric(median(floors), "floor-ns")
}

func benchSend(b *testing.B, id Suite) {
	content := make([]byte, 1024)
	b.Run("floor", func(b *testing.B) {
		f := newFloor(b, id)
		b.ReportAllocs()
		for b.Loop() {
			f.send()
		}
	})
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprintf("against/N=%d", n), func(b *testing.B) {
			g, _ := benchGroup(b, id, n)
			f := newFloor(b, id)
			against(b, func(int) {}, func() {
				if _, err := g.Encrypt(content, nil); err != nil {
					b.Fatal(err)
				}
			}, f.send)
		})
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			g, _ := benchGroup(b, id, n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Encrypt(content, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		// As a node does it: on a clone, with the records to write.
		b.Run(fmt.Sprintf("saved/N=%d", n), func(b *testing.B) {
			g, _ := benchGroup(b, id, n)
			b.ReportAllocs()
			for b.Loop() {
				next := g.Clone()
				if _, err := next.Encrypt(content, nil); err != nil {
					b.Fatal(err)
				}
				if len(next.Changes()) == 0 {
					b.Fatal("nothing to write")
				}
				g.Retire(next)
				g = next
			}
		})
	}
}

func BenchmarkSend1K(b *testing.B)       { benchSend(b, X25519AES128) }
func BenchmarkSend1K_xwing(b *testing.B) { benchSend(b, XWing) }

func benchReceive(b *testing.B, id Suite) {
	content := make([]byte, 1024)
	b.Run("floor", func(b *testing.B) {
		f := newFloor(b, id)
		b.ReportAllocs()
		for b.Loop() {
			f.receive()
		}
	})
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprintf("against/N=%d", n), func(b *testing.B) {
			g, h := benchGroup(b, id, n)
			f := newFloor(b, id)
			var msgs [][]byte
			against(b, func(n int) {
				for range n {
					m, err := g.Encrypt(content, nil)
					if err != nil {
						b.Fatal(err)
					}
					msgs = append(msgs, m)
				}
			}, func() {
				if _, err := h.Process(msgs[0], nil); err != nil {
					b.Fatal(err)
				}
				msgs = msgs[1:]
			}, f.receive)
		})
		for _, saved := range []bool{false, true} {
			name := fmt.Sprintf("N=%d", n)
			if saved {
				name = "saved/" + name
			}
			b.Run(name, func(b *testing.B) {
				g, h := benchGroup(b, id, n)
				b.ReportAllocs()
				var msgs [][]byte
				for b.Loop() {
					if len(msgs) == 0 {
						b.StopTimer()
						for range 500 {
							m, err := g.Encrypt(content, nil)
							if err != nil {
								b.Fatal(err)
							}
							msgs = append(msgs, m)
						}
						b.StartTimer()
					}
					next := h
					if saved {
						next = h.Clone()
					}
					if _, err := next.Process(msgs[0], nil); err != nil {
						b.Fatal(err)
					}
					if saved {
						if len(next.Changes()) == 0 {
							b.Fatal("nothing to write")
						}
						h.Retire(next)
						h = next
					}
					msgs = msgs[1:]
				}
			})
		}
	}
}

func BenchmarkReceive1K(b *testing.B)       { benchReceive(b, X25519AES128) }
func BenchmarkReceive1K_xwing(b *testing.B) { benchReceive(b, XWing) }

func benchCommit(b *testing.B, id Suite) {
	for _, n := range []int{2, 100, 1000} {
		g, h := benchGroup(b, id, n)
		// Renew a tenth of the tree, as it would be in use, from two places.
		for range 2 {
			for _, who := range []**Group{&g, &h} {
				other := &h
				if who == &h {
					other = &g
				}
				s, err := (*who).Commit(nil)
				if err != nil {
					b.Fatal(err)
				}
				got, err := (*other).Process(s.Message(), nil)
				if err != nil {
					b.Fatal(err)
				}
				if *other, err = got.Staged.Merge(*other); err != nil {
					b.Fatal(err)
				}
				if *who, err = s.Merge(*who); err != nil {
					b.Fatal(err)
				}
			}
		}
		var msg []byte
		b.Run(fmt.Sprintf("create/N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s, err := g.Clone().Commit(nil)
				if err != nil {
					b.Fatal(err)
				}
				msg = s.Message()
			}
			b.ReportMetric(float64(len(msg)), "message-bytes")
		})
		b.Run(fmt.Sprintf("process/N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Process(msg, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		s, err := g.Clone().Commit(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("save/N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				next, err := s.Merge(g)
				if err != nil {
					b.Fatal(err)
				}
				size = 0
				for _, r := range next.Changes() {
					size += len(r.Value)
				}
			}
			b.ReportMetric(float64(size), "record-bytes")
		})
	}
}

// BenchmarkCommit renews a member's keys, in a tree most of which was added at
// once and never renewed: the worst case.
func BenchmarkCommit(b *testing.B)       { benchCommit(b, X25519AES128) }
func BenchmarkCommit_xwing(b *testing.B) { benchCommit(b, XWing) }

func benchCreate(b *testing.B, id Suite) {
	for _, n := range []int{100, 1000} {
		config := Config{Signer: newSigner(b, id), ValidateCredential: anyCredential}
		o := &CommitOptions{}
		var last *KeyPackageBundle
		var lastConfig Config
		for range n - 1 {
			lastConfig = Config{Signer: newSigner(b, id), ValidateCredential: anyCredential}
			k, err := NewKeyPackage(KeyPackageOptions{Suite: id, Signer: lastConfig.Signer, Credential: BasicCredential([]byte("member"))})
			if err != nil {
				b.Fatal(err)
			}
			last = k
			o.Proposals = append(o.Proposals, Add{k.KeyPackage()})
		}
		var welcome []byte
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				g, err := NewGroup(config, GroupOptions{Suite: id, Credential: BasicCredential([]byte("ana"))})
				if err != nil {
					b.Fatal(err)
				}
				s, err := g.Commit(o)
				if err != nil {
					b.Fatal(err)
				}
				welcome = s.Welcome()
			}
			b.ReportMetric(float64(len(welcome)), "welcome-bytes")
		})
		b.Run(fmt.Sprintf("join/N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Join(lastConfig, welcome, last, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCreate makes a group in one commit, and joins it.
func BenchmarkCreate(b *testing.B)       { benchCreate(b, X25519AES128) }
func BenchmarkCreate_xwing(b *testing.B) { benchCreate(b, XWing) }

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{2, 100, 1000} {
		g, _ := benchGroup(b, X25519AES128, n)
		var records []Record
		for name, value := range dump(g) {
			records = append(records, Record{[]byte(name), value})
		}
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := LoadGroup(*g.config, records); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
