package search

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"sotto/storage/vault"
)

// history makes texts as people write them, near enough: half of them Latin, of 30,000
// words, half Han, of 3,500 letters, both by Zipf; about 54 bytes each.
type history struct {
	rng       *rand.Rand
	word, han *rand.Zipf
}

func newHistory() *history {
	rng := rand.New(rand.NewPCG(1, 1))
	return &history{rng, rand.NewZipf(rng, 1.1, 4, 29_999), rand.NewZipf(rng, 1.1, 8, 3_499)}
}

func (h *history) text() string {
	var b []byte
	if h.rng.IntN(2) == 0 {
		for range 4 + h.rng.IntN(12) {
			b = append(strconv.AppendUint(append(b, 'w'), h.word.Uint64(), 36), ' ')
		}
		return string(b)
	}
	for range 8 + h.rng.IntN(22) {
		b = append(b, string(rune(0x4e00+h.han.Uint64()))...)
	}
	return string(b)
}

func (h *history) doc(i int) Doc {
	return Doc{Name: fmt.Sprintf("%032d%032d", i%50, i), Time: time.Unix(int64(i)*60, 0), Text: h.text(), Tags: []string{fmt.Sprintf("in %032d", i%50), fmt.Sprintf("from %032d", i%9)}}
}

// filled is an index of n texts that stand in the vault beside it, made once.
type filled struct {
	v    *vault.Vault
	x    *Index
	took time.Duration
}

var (
	fills   = map[int]*filled{}
	fillsMu sync.Mutex
)

const textTable vault.Table = 11

func fillOf(b *testing.B, n int) *filled {
	fillsMu.Lock()
	defer fillsMu.Unlock()
	if f := fills[n]; f != nil {
		return f
	}
	dir, err := os.MkdirTemp("", "sotto-search-*")
	if err != nil {
		b.Fatal(err)
	}
	cleanups = append(cleanups, func() { os.RemoveAll(dir) })
	v, x := create(b, dir+"/vault")
	cleanups = append(cleanups, func() { v.Close() })
	h := newHistory()
	start := time.Now()
	done := n
	err = x.Fill(context.Background(), v, func(*vault.Tx) ([]Doc, func(*vault.Tx) error, error) {
		var docs []Doc
		for i := done - 1; i >= max(0, done-Bulk); i-- {
			docs = append(docs, h.doc(i))
		}
		for part := range slices.Chunk(docs, 2000) { // the texts themselves
			err := v.Update(func(tx *vault.Tx) error {
				for _, d := range part {
					r := vault.Ref{Table: textTable, Partition: d.Name[:32], Order: d.Name[32:]}
					if err := tx.Put(r, vault.Bucket{}, []byte(d.Text)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, nil, err
			}
		}
		return docs, func(*vault.Tx) error { done -= len(docs); return nil }, nil
	})
	if err == nil {
		err = x.Maintain(context.Background(), v, false)
	}
	if err != nil {
		b.Fatal(err)
	}
	fills[n] = &filled{v, x, time.Since(start)}
	return fills[n]
}

var cleanups []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
	os.Exit(code)
}

// queries are a frequent word, a rare one, two, a phrase, one letter of Han, two, five, and
// what stands nowhere.
var queries = []string{"w1", "wmg0", "w1 w2a", `"w1 w2"`, "一", "丁七", "一丁七丂万", "nowhere", "w1 after:1970-02 before:1970-03"}

func (f *filled) ask(b *testing.B, query string) int {
	q, err := Parse(query, time.UTC)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	err = f.v.View(func(tx *vault.Tx) error {
		p, err := f.x.Search(tx, Request{Query: q, Limit: 50}, func(name string) (bool, error) {
			text, err := tx.Get(vault.Ref{Table: textTable, Partition: name[:32], Order: name[32:]})
			return err == nil && q.Match(string(text)), err
		})
		n = len(p.Names)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// Each query, for a page of 50, with the look at the texts.
func BenchmarkQuery(b *testing.B) {
	for _, n := range []int{20_000, 1_000_000} {
		for _, q := range queries {
			b.Run(fmt.Sprintf("N=%d/%s", n, q), func(b *testing.B) {
				f := fillOf(b, n)
				hits := 0
				b.ReportAllocs()
				for b.Loop() {
					hits = f.ask(b, q)
				}
				b.ReportMetric(float64(hits), "hits")
			})
		}
	}
}

// All of them by turns: the time that half of them, and 99 in a hundred, stay below.
// The floor is the least that any index in the vault can do for a page of 50: read and open
// fifty texts.
func BenchmarkQueries(b *testing.B) {
	for _, n := range []int{20_000, 1_000_000} {
		for name, part := range map[string]float64{"p50": 0.50, "p99": 0.99} {
			b.Run(fmt.Sprintf("%s/N=%d", name, n), func(b *testing.B) {
				f := fillOf(b, n)
				var took, floor []time.Duration
				for b.Loop() {
					for _, q := range queries {
						start := time.Now()
						f.ask(b, q)
						took = append(took, time.Since(start))
					}
					floor = append(floor, f.floor(b, n))
				}
				slices.Sort(took)
				slices.Sort(floor)
				b.ReportMetric(float64(took[int(float64(len(took)-1)*part)]), "op-ns")
				b.ReportMetric(float64(floor[len(floor)/2]), "floor-ns")
			})
		}
	}
}

func (f *filled) floor(b *testing.B, n int) time.Duration {
	start := time.Now()
	err := f.v.View(func(tx *vault.Tx) error {
		for range 50 {
			i := rand.IntN(n)
			if _, err := tx.Get(vault.Ref{Table: textTable, Partition: fmt.Sprintf("%032d", i%50), Order: fmt.Sprintf("%032d", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// Indexing all texts, with writing them down; the floor is to write them down alone, in
// transactions of the same size.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{20_000, 1_000_000} {
		b.Run(fmt.Sprintf("N=%d", n), func(b *testing.B) {
			f := fillOf(b, n)
			for b.Loop() {
			}
			b.ReportMetric(float64(f.took), "op-ns")
			b.ReportMetric(float64(f.writeAlone(b, n)), "floor-ns")
		})
	}
}

// writeAlone says how long n texts take that are not indexed: a twentieth is measured.
func (f *filled) writeAlone(b *testing.B, n int) time.Duration {
	h := newHistory()
	part := max(n/20, 1)
	start := time.Now()
	for from := 0; from < part; from += 2000 {
		err := f.v.Update(func(tx *vault.Tx) error {
			for i := from; i < min(from+2000, part); i++ {
				d := h.doc(i)
				if err := tx.Put(vault.Ref{Table: textTable + 1, Partition: d.Name[:32], Order: d.Name[32:]}, vault.Bucket{}, []byte(d.Text)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start) * time.Duration(n) / time.Duration(part)
}

// One text more, durable; against the text alone.
func BenchmarkAdd(b *testing.B) {
	for _, indexed := range []bool{false, true} {
		b.Run(fmt.Sprintf("indexed=%v", indexed), func(b *testing.B) {
			f := fillOf(b, 20_000)
			h := newHistory()
			for i := 1 << 30; b.Loop(); i++ {
				d := h.doc(i)
				err := f.v.Update(func(tx *vault.Tx) error {
					if indexed {
						if err := f.x.Add(tx, &d); err != nil {
							return err
						}
					}
					return tx.Put(vault.Ref{Table: textTable, Partition: d.Name[:32], Order: d.Name[32:]}, vault.Bucket{}, []byte(d.Text))
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
