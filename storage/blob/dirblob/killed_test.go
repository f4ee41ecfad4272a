package dirblob

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/storage/blob"
	"sotto/storage/blob/blobtest"
)

// A process is killed while it stores and deletes; what it has said is so, and
// nothing is left over.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("DIRBLOB_CHILD"); dir != "" {
		child(dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "blobs")
	stored, deleted := map[blob.ID]bool{}, map[blob.ID]bool{}
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "DIRBLOB_CHILD="+dir, fmt.Sprint("DIRBLOB_ROUND=", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		hear := func() {
			var word, text string
			if _, err := fmt.Sscanf(lines.Text(), "%s %s", &word, &text); err != nil {
				t.Fatalf("the child said %q", lines.Text())
			}
			raw, err := hex.DecodeString(text)
			if err != nil || len(raw) != 32 {
				t.Fatalf("the child said %q", lines.Text())
			}
			switch id := blob.ID(raw); word {
			case "stored":
				stored[id] = true
			case "deleting":
				delete(stored, id) // from here on it may be gone
			case "deleted":
				deleted[id] = true
			}
		}
		for n := 0; n < 100+50*round && lines.Scan(); n++ {
			hear()
		}
		cmd.Process.Kill()
		for lines.Scan() { // what was under way counts as well
			hear()
		}
		cmd.Wait()
	}
	s := openAt(t, Config{Dir: dir}, blobtest.NewClock())
	if len(stored) < 100 || len(deleted) < 20 {
		t.Errorf("only %d stored and %d deleted", len(stored), len(deleted))
	}
	for id := range stored {
		if b, err := blob.Get(t.Context(), s, id); err != nil || blob.Sum(b) != id {
			t.Errorf("%v was stored and is %d bytes, %v", id, len(b), err)
		}
	}
	for id := range deleted {
		if _, err := s.Stat(t.Context(), id); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%v was deleted: %v", id, err)
		}
	}
	whole(t, s.Store)
	if _, coming := files(t, dir); len(coming) > 0 {
		t.Errorf("left over: %v", coming)
	}
}

func child(dir string) {
	c := blobtest.NewClock()
	s, err := Open(Config{Dir: dir, Clock: c.Now})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var mu sync.Mutex
	say := func(word string, id blob.ID) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(word, hex.EncodeToString(id[:]))
	}
	for i := range 8 {
		go func() {
			for n := 0; ; n++ {
				b := bytes.Repeat([]byte(fmt.Sprintf("%s.%d.%d ", os.Getenv("DIRBLOB_ROUND"), i, n)), 1+(n%5)*15_000)
				id, err := blob.Put(context.Background(), s, blob.Terms{Owner: blobtest.Ana, Expires: c.Minute() + 60}, b)
				if err != nil {
					fmt.Println("failed:", err)
					os.Exit(1)
				}
				say("stored", id)
				if n%4 == 0 {
					say("deleting", id)
					if err := s.Delete(context.Background(), id, blobtest.Ana); err != nil {
						fmt.Println("failed:", err)
						os.Exit(1)
					}
					say("deleted", id)
				}
			}
		}()
	}
	select {}
}

// BenchmarkPut stores blobs of 1 MiB, durably, from so many writers at once; floor is a
// bare file for each, written and flushed, on the same disk.
func BenchmarkPut(b *testing.B) {
	const size = 1 << 20
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprint("w", writers), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir(), SweepPeriod: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			tm := blob.Terms{Owner: blobtest.Ana, Expires: s.now() + 60}
			spread(b, writers, size, func(n int, content []byte) error {
				_, err := blob.Put(b.Context(), s, tm, content)
				return err
			})
		})
		b.Run(fmt.Sprint("floor-w", writers), func(b *testing.B) {
			dir := b.TempDir()
			spread(b, writers, size, func(n int, content []byte) error {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
				if err != nil {
					return err
				}
				_, err = f.Write(content)
				return errors.Join(err, f.Sync(), f.Close())
			})
		})
	}
}

// BenchmarkGet reads blobs of 1 MiB and checks them; floor reads bare files.
func BenchmarkGet(b *testing.B) {
	const size, n = 1 << 20, 16
	s, err := Open(Config{Dir: b.TempDir(), SweepPeriod: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var ids []blob.ID
	for i := range n {
		id, err := blob.Put(b.Context(), s, blob.Terms{Owner: blobtest.Ana, Expires: s.now() + 60}, blobtest.Bytes(i, size))
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	b.Run("store", func(b *testing.B) {
		b.SetBytes(size)
		for i := range b.N {
			if _, err := blob.Get(b.Context(), s, ids[i%n]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor", func(b *testing.B) {
		b.SetBytes(size)
		for i := range b.N {
			if _, err := os.ReadFile(s.blobPath(ids[i%n])); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// spread lets writers share b.N calls of f, each with content of its own.
func spread(b *testing.B, writers, size int, f func(n int, content []byte) error) {
	b.SetBytes(int64(size))
	var next atomic.Int64
	var wg sync.WaitGroup
	base := blobtest.Bytes(1, size)
	b.ResetTimer()
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			content := bytes.Clone(base)
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				copy(content, fmt.Sprint(n))
				if err := f(int(n), content); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
}
