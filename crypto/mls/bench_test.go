package mls

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// Sending and receiving have a floor beside them: the primitives that RFC 9420
// demands for the same operation and nothing else. "against" does both in turns, for
// a ratio that holds on a machine with other work; cmd/sotto-bench reads it. Without
// a suffix it is suite 1, with _xwing the product's.

// benchGroup returns two members of a group of n: leaves 0 and 1.
func benchGroup(b *testing.B, id Suite, n int) (*Group, *Group) {
	b.Helper()
	g, h, _ := benchMembers(b, id, n)
	return g, h
}

func benchConfig(b testing.TB, id Suite) Config {
	return Config{Signer: newSigner(b, id), ValidateCredential: anyCredential}
}

func must(b testing.TB, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// benchAdds returns the addition of n devices, and the last of their bundles.
func benchAdds(b testing.TB, id Suite, n int) (o CommitOptions, configs []Config, bundles []*KeyPackageBundle) {
	b.Helper()
	for range n {
		c := benchConfig(b, id)
		k, err := NewKeyPackage(KeyPackageOptions{Suite: id, Signer: c.Signer, Credential: BasicCredential([]byte("member"))})
		must(b, err)
		configs, bundles = append(configs, c), append(bundles, k)
		o.Proposals = append(o.Proposals, Add{k.KeyPackage()})
	}
	return o, configs, bundles
}

// benchMembers also returns how all members are configured.
func benchMembers(b testing.TB, id Suite, n int) (g, h *Group, configs []Config) {
	b.Helper()
	o, configs, bundles := benchAdds(b, id, n-1)
	o.TreeOutside = true
	c := benchConfig(b, id)
	g, err := NewGroup(c, GroupOptions{Suite: id, Credential: BasicCredential([]byte("ana"))})
	must(b, err)
	s, err := g.Commit(&o)
	must(b, err)
	g, err = s.Merge(g)
	must(b, err)
	g.Changes()
	h, _, err = Join(configs[0], s.Welcome(), bundles[0], &JoinOptions{RatchetTree: s.RatchetTree()})
	must(b, err)
	h.Changes()
	return g, h, append([]Config{c}, configs...)
}

// benchFull returns two members of a group of n in whose tree no node is blank, as
// when every other member has renewed its keys, leaf 0 last.
func benchFull(b testing.TB, id Suite, n int) (*Group, *Group) {
	b.Helper()
	g, h, configs := benchMembers(b, id, n)
	t := g.cur.tree.clone()
	keys := make(map[nodeIndex]*privateKey)
	for l := (n - 1) / 2 * 2; l >= 0; l -= 2 {
		p, err := t.makePath(LeafIndex(l), *t.leaf(LeafIndex(l)), configs[l].Signer, g.GroupID())
		must(b, err)
		for _, k := range p.keys {
			keys[k.node] = k.key
		}
	}
	keys[2] = keyOf(h.cur.keys, 2)
	must(b, t.verify(g.GroupID(), nil, anyCredential))
	for _, m := range []*Group{g, h} {
		e := *m.cur
		e.tree, e.context.TreeHash = t, t.rootHash()
		e.encoded = e.context.encode(nil)
		e.keys = []pathKey{{e.self.node(), keys[e.self.node()]}}
		for _, x := range t.leaves.directPath(e.self.node()) {
			e.keys = append(e.keys, pathKey{x, keys[x]})
		}
		m.cur = &e
	}
	return g, h
}

// floor does what a message of 1 KiB cannot do without.
type floor struct {
	s       *suite
	signer  crypto.Signer
	public  ed25519.PublicKey
	signed  []byte
	sig     []byte
	leafSig []byte
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
	f.leafSig, _ = f.signer.Sign(rand.Reader, f.signed[:300], crypto.Hash(0))
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
// disturbs both, and reports the median turn of each. A turn is some 200 us, or one
// operation: most are not disturbed at all.
func against(b *testing.B, turn int, prepare func(n int), op, floor func()) {
	perTurn := func(f func()) float64 {
		start := time.Now()
		for range turn {
			f()
		}
		return float64(time.Since(start).Nanoseconds()) / float64(turn)
	}
	var ops, floors []float64
	for b.Loop() {
		if prepare != nil {
			prepare(turn)
		}
		ops = append(ops, perTurn(op))
		floors = append(floors, perTurn(floor))
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	op1, floor1 := median(ops), median(floors)
	b.ReportMetric(0, "ns/op") // of both, and of what prepares them: not shown
	b.ReportMetric(op1, "op-ns")
	b.ReportMetric(floor1, "floor-ns")
	b.ReportMetric(op1/floor1, "ratio")
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
	for _, n := range []int{2, 100, 1000} {
		b.Run(fmt.Sprintf("against/N=%d", n), func(b *testing.B) {
			g, _ := benchGroup(b, id, n)
			f := newFloor(b, id)
			against(b, 4, nil, func() {
				_, err := g.Encrypt(content, nil)
				must(b, err)
			}, f.send)
		})
		b.Run(fmt.Sprintf("against-saved/N=%d", n), func(b *testing.B) {
			g, _ := benchGroup(b, id, n)
			f := newFloor(b, id)
			against(b, 4, nil, func() {
				next := g.Clone()
				_, err := next.Encrypt(content, nil)
				must(b, err)
				next.Changes()
				g.Retire(next)
				g = next
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
	for _, n := range []int{2, 100, 1000} {
		for _, saved := range []bool{false, true} {
			name := "against"
			if saved {
				name += "-saved"
			}
			b.Run(fmt.Sprintf("%s/N=%d", name, n), func(b *testing.B) {
				g, h := benchGroup(b, id, n)
				f := newFloor(b, id)
				var msgs [][]byte
				against(b, 4, func(n int) {
					for range n {
						m, err := g.Encrypt(content, nil)
						must(b, err)
						msgs = append(msgs, m)
					}
				}, func() {
					next := h
					if saved {
						next = h.Clone()
					}
					_, err := next.Process(msgs[0], nil)
					must(b, err)
					if saved {
						next.Changes()
						h.Retire(next)
						h = next
					}
					msgs = msgs[1:]
				}, f.receive)
			})
		}
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
							must(b, err)
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

// A commitFloor does what making or reading a commit with a path of depth nodes cannot
// do without: the public-key operations, the key schedule and the hashes.
type commitFloor struct {
	*floor
	depth  int
	seals  int // of path secrets: as many as depth unless nodes are blank
	to     []byte
	own    hpke.PrivateKey
	info   []byte
	kem    []byte // what was sealed
	sealed []byte
	node   []byte // what is hashed for a tree node
}

func newCommitFloor(b *testing.B, id Suite, n int) *commitFloor {
	f := &commitFloor{floor: newFloor(b, id), depth: bits.Len(uint(n - 1)), seals: bits.Len(uint(n - 1)), info: make([]byte, 250)}
	var err error
	f.own, err = f.s.kem.GenerateKey()
	must(b, err)
	f.to = f.own.PublicKey().Bytes()
	var sender *hpke.Sender
	f.kem, sender, err = hpke.NewSender(f.own.PublicKey(), f.s.hkdf, f.s.aead, f.info)
	must(b, err)
	f.sealed, err = sender.Seal(nil, f.secret)
	must(b, err)
	f.node = make([]byte, len(f.to)+3*f.s.nh+10)
	return f
}

// tree hashes a path twice (tree hashes and parent hashes), and schedule derives the
// secrets of an epoch and protects a message.
func (f *commitFloor) treeAndSchedule(protect func()) {
	for range f.depth {
		f.s.sum(f.node)
		f.s.sum(f.node)
	}
	for range 4 {
		f.derive() // some 20 derivations under 8 secrets
	}
	protect()
}

func (f *commitFloor) path(nodes int) {
	for range nodes {
		f.derive()
		k, err := f.s.kem.DeriveKeyPair(f.secret)
		if err != nil {
			panic(err)
		}
		k.PublicKey().Bytes()
	}
}

func (f *commitFloor) seal() {
	to, err := f.s.kem.NewPublicKey(f.to) // keys come as bytes
	if err == nil {
		var sender *hpke.Sender
		if _, sender, err = hpke.NewSender(to, f.s.hkdf, f.s.aead, f.info); err == nil {
			_, err = sender.Seal(nil, f.secret)
		}
	}
	if err != nil {
		panic(err)
	}
}

func (f *commitFloor) create() {
	if _, err := f.s.kem.GenerateKey(); err != nil {
		panic(err)
	}
	f.path(f.depth)
	parallel(f.seals, func(int) error { f.seal(); return nil })
	if _, err := f.signer.Sign(rand.Reader, f.signed, crypto.Hash(0)); err != nil { // the leaf
		panic(err)
	}
	f.treeAndSchedule(f.send)
}

func (f *commitFloor) process() {
	r, err := hpke.NewRecipient(f.kem, f.own, f.s.hkdf, f.s.aead, f.info)
	if err == nil {
		_, err = r.Open(nil, f.sealed)
	}
	if err != nil || !ed25519.Verify(f.public, f.signed, f.sig) { // the leaf
		panic("floor")
	}
	f.path(f.depth)
	f.treeAndSchedule(f.receive)
}

// verify checks n signatures, on all cores.
func (f *commitFloor) verify(n int) {
	parallel(n, func(int) error {
		if !ed25519.Verify(f.public, f.signed[:300], f.leafSig) {
			panic("signature")
		}
		return nil
	})
}

// garbage reports what an operation and its floor leave to the garbage collector, in
// bytes: that of the floor is what the standard library makes for what cannot be left out.
func garbage(b *testing.B, op, floor func()) {
	for unit, f := range map[string]func(){"garbage-bytes": op, "floor-garbage-bytes": floor} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc), unit)
	}
}

// A countedKEM counts the keys that are made and parsed: of the public-key operations
// of an update, each is one on a key of its own.
type countedKEM struct {
	hpke.KEM
	n *atomic.Int64
}

func (k countedKEM) NewPublicKey(b []byte) (hpke.PublicKey, error) {
	k.n.Add(1)
	return k.KEM.NewPublicKey(b)
}

func (k countedKEM) DeriveKeyPair(b []byte) (hpke.PrivateKey, error) {
	k.n.Add(1)
	return k.KEM.DeriveKeyPair(b)
}

// keyOps returns how many keys op makes and parses.
func keyOps(b testing.TB, id Suite, op func()) float64 {
	s, err := id.lookup()
	must(b, err)
	var n atomic.Int64
	plain := s.kem
	s.kem = countedKEM{plain, &n}
	op()
	s.kem = plain
	return float64(n.Load())
}

// changes are what benchChange measures: a commit that renews its maker's keys, and one that
// removes a member besides.
var changes = map[string]func(g *Group) *CommitOptions{
	"update": func(*Group) *CommitOptions { return nil },
	"remove": func(g *Group) *CommitOptions {
		r := g.Roster()
		return &CommitOptions{Proposals: []Proposal{Remove{r[len(r)/2].Leaf}}}
	},
}

// pathSecrets counts the ciphertexts in the path of a commit.
func pathSecrets(b testing.TB, g *Group, o *CommitOptions) (n int) {
	public := CommitOptions{Public: true}
	if o != nil {
		public.Proposals = o.Proposals
	}
	s, err := g.Clone().Commit(&public)
	must(b, err)
	a, _, err := decodePublicMessage(s.Message())
	must(b, err)
	for _, node := range a.content.commit.path.nodes {
		n += len(node.secrets)
	}
	return n
}

func benchChange(b *testing.B, id Suite, change string) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("against-create/N=%d", n), func(b *testing.B) {
			g, _ := benchFull(b, id, n)
			o := changes[change](g)
			op := func() {
				_, err := g.Clone().Commit(o)
				must(b, err)
			}
			f := newCommitFloor(b, id, n)
			f.seals = pathSecrets(b, g, o)
			against(b, 1, nil, op, f.create)
			garbage(b, op, f.create)
			b.ReportMetric(keyOps(b, id, op), "key-ops")
		})
		b.Run(fmt.Sprintf("against-process/N=%d", n), func(b *testing.B) {
			g, h := benchFull(b, id, n)
			s, err := g.Clone().Commit(changes[change](g))
			must(b, err)
			op := func() {
				_, err := h.Process(s.Message(), nil)
				must(b, err)
			}
			f := newCommitFloor(b, id, n)
			against(b, 1, nil, op, f.process)
			garbage(b, op, f.process)
			b.ReportMetric(keyOps(b, id, op), "key-ops")
			b.ReportMetric(float64(len(s.Message())), "message-bytes")
			got, err := h.Process(s.Message(), nil)
			must(b, err)
			next, err := got.Staged.Merge(h)
			must(b, err)
			written := 0
			for _, r := range next.Changes() {
				written += len(r.Name) + len(r.Value)
			}
			b.ReportMetric(float64(written), "record-bytes")
		})
	}
}

// BenchmarkUpdate and BenchmarkRemove change a group in whose tree no node is blank.
func BenchmarkUpdate(b *testing.B)       { benchChange(b, X25519AES128, "update") }
func BenchmarkUpdate_xwing(b *testing.B) { benchChange(b, XWing, "update") }
func BenchmarkRemove(b *testing.B)       { benchChange(b, X25519AES128, "remove") }
func BenchmarkRemove_xwing(b *testing.B) { benchChange(b, XWing, "remove") }

func benchCreate(b *testing.B, id Suite) {
	for _, n := range []int{100, 1000} {
		for _, outside := range []bool{false, true} {
			name := "against"
			if outside {
				name += "-tree-outside"
			}
			var s *Staged
			var o CommitOptions
			create := func(b *testing.B) func() {
				c := benchConfig(b, id)
				return func() {
					g, err := NewGroup(c, GroupOptions{Suite: id, Credential: BasicCredential([]byte("ana"))})
					must(b, err)
					s, err = g.Commit(&o)
					must(b, err)
				}
			}
			b.Run(fmt.Sprintf("%s/N=%d", name, n), func(b *testing.B) {
				o, _, _ = benchAdds(b, id, n-1)
				o.TreeOutside = outside
				op := create(b)
				op()
				f := newCommitFloor(b, id, n)
				w, err := parseWelcome(s.Welcome())
				must(b, err)
				f.info = w.groupInfo
				floor := func() {
					f.verify(2 * (n - 1))
					parallel(n-1, func(int) error { f.seal(); return nil })
				}
				against(b, 1, nil, op, floor)
				garbage(b, op, floor)
				b.ReportMetric(float64(len(s.Welcome())), "welcome-bytes")
			})
			b.Run(fmt.Sprintf("join/%s/N=%d", name, n), func(b *testing.B) {
				var configs []Config
				var bundles []*KeyPackageBundle
				o, configs, bundles = benchAdds(b, id, n-1)
				o.TreeOutside = outside
				create(b)()
				j := &JoinOptions{}
				if outside {
					j.RatchetTree = s.RatchetTree()
				}
				last := len(bundles) - 1
				op := func() {
					_, _, err := Join(configs[last], s.Welcome(), bundles[last], j)
					must(b, err)
				}
				f := newCommitFloor(b, id, n)
				floor := func() { f.verify(n) }
				against(b, 1, nil, op, floor)
				garbage(b, op, floor)
			})
		}
	}
}

// BenchmarkCreate makes a group in one commit, and joins it.
func BenchmarkCreate(b *testing.B)       { benchCreate(b, X25519AES128) }
func BenchmarkCreate_xwing(b *testing.B) { benchCreate(b, XWing) }

// benchHeap reports what a group takes in memory, and how much of it is its tree.
func benchHeap(b *testing.B, id Suite) {
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			g, _ := benchFull(b, id, n)
			var records []Record
			for name, value := range dump(g) {
				records = append(records, Record{[]byte(name), value})
			}
			config := *g.config
			tree := len(g.RatchetTree())
			heap := func() float64 {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return float64(m.HeapAlloc)
			}
			var loaded *Group
			size := 0.0
			for b.Loop() {
				before := heap()
				own := slices.Clone(records)
				for i := range own {
					own[i].Value = slices.Clone(own[i].Value)
				}
				var err error
				loaded, err = LoadGroup(config, own)
				must(b, err)
				loaded.cur.tree.rootHash()
				own = nil
				size = heap() - before
			}
			runtime.KeepAlive(loaded)
			runtime.KeepAlive(records)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(size, "heap-bytes")
			b.ReportMetric(float64(tree), "tree-bytes")
		})
	}
}

func BenchmarkHeap(b *testing.B)       { benchHeap(b, X25519AES128) }
func BenchmarkHeap_xwing(b *testing.B) { benchHeap(b, XWing) }

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
