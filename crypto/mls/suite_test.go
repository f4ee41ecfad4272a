package mls

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"fmt"
	"testing"

	"sotto/crypto/codec"
)

// The KDF is HKDF-Expand as the standard library has it, for every hash and any
// length, and its reuse leaves no trace.
func TestKDF(t *testing.T) {
	for _, s := range suites {
		secret := make([]byte, s.nh)
		for length := 1; length < 4*s.nh; length += 7 {
			rand.Read(secret)
			context := bytes.Repeat([]byte{7}, length)
			info := codec.AppendVec(codec.AppendU16(nil, uint16(length)), "MLS 1.0 test")
			want, err := hkdf.Expand(s.new, secret, string(codec.AppendVec(info, context)), length)
			if err != nil {
				t.Fatal(err)
			}
			k := s.kdf(secret)
			for range 2 {
				got := make([]byte, length)
				k.expand(got, "test", context)
				same(t, fmt.Sprint(s.name, " ", length), got, want)
			}
			k.done()
		}
	}
}

// An appender is a signer as applications have it: not the key itself.
type appender struct{ ed25519.PrivateKey }

func (a appender) AppendSignature(b, message []byte) []byte {
	return append(b, ed25519.Sign(a.PrivateKey, message)...)
}

// A message does not leave much to the garbage collector, however large the group,
// whoever speaks and whether the state is written each time: two objects for each AEAD, and
// the message, or the content; and the group's next state.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector makes allocations of its own")
	}
	content := make([]byte, 1024)
	for _, n := range []int{3, 100} {
		g, h := benchFull(t, XWing, n)
		for _, signer := range []crypto.Signer{g.config.Signer, appender{g.config.Signer.(ed25519.PrivateKey)}} {
			g.config.Signer = signer
			for _, saved := range []bool{false, true} {
				step := func(g **Group, f func(*Group) error) {
					next := *g
					if saved {
						next = next.Clone()
					}
					must(t, f(next))
					if saved {
						if len(next.Changes()) == 0 {
							t.Fatal("nothing to write")
						}
						(*g).Retire(next)
						*g = next
					}
				}
				const runs = 50
				msgs := make([][]byte, 0, runs+1)
				send := testing.AllocsPerRun(runs, func() {
					step(&g, func(g *Group) error {
						msg, err := g.Encrypt(content, nil)
						msgs = append(msgs, msg)
						return err
					})
				})
				receive := testing.AllocsPerRun(runs, func() {
					step(&h, func(h *Group) error {
						_, err := h.Process(msgs[0], nil)
						return err
					})
					msgs = msgs[1:]
				})
				want := 5.0
				if saved {
					want++
				}
				if send > want || receive > want {
					t.Errorf("among %d, saved %v: %v allocations to send, %v to receive", n, saved, send, receive)
				}
			}
		}
	}
}

// What a change of keys costs, and what is written for it, grows with the depth of the
// tree and not with the group.
func TestUpdateIsLogarithmic(t *testing.T) {
	for _, n := range []int{16, 128} {
		g, h := benchFull(t, X25519AES128, n)
		depth := float64(leafCountFor(LeafIndex(n - 1)).root().level())
		var s *Staged
		ops := keyOps(t, X25519AES128, func() {
			var err error
			s, err = g.Commit(nil)
			must(t, err)
		})
		// A key for each node of the path, and one to encrypt to.
		if ops > 2*depth {
			t.Errorf("to commit among %d takes %v keys, want %v", n, ops, 2*depth)
		}
		var next *Group
		ops = keyOps(t, X25519AES128, func() {
			got, err := h.Process(s.Message(), nil)
			must(t, err)
			next, err = got.Staged.Merge(h)
			must(t, err)
		})
		// A key for each node above both, and the committer's leaf.
		if ops > depth+1 {
			t.Errorf("to process a commit among %d takes %v keys, want %v", n, ops, depth+1)
		}
		written := 0
		for _, r := range next.Changes() {
			written += len(r.Name) + len(r.Value)
		}
		if limit := 1000 + 200*int(depth); written > limit {
			t.Errorf("a commit among %d writes %d bytes, want at most %d", n, written, limit)
		}
	}
}
