package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/crypto/key"
	"sotto/relay/client"
	"sotto/storage/blob"
)

// A relay is killed again and again while clients upload, and while others download
// what is there: what it said was stored is there, byte for byte, and an upload and a
// download that are cut off go on by themselves.
func TestKilledRelayKeepsBlobs(t *testing.T) {
	home := filepath.Join(t.TempDir(), "relay")
	p := start(t, home)
	owner := key.NewCapability()
	expires := blob.MinuteOf(time.Now()) + 60
	content := func(n uint64) []byte {
		r := rand.NewChaCha8([32]byte{1, byte(n), byte(n >> 8)})
		b := make([]byte, 1+r.Uint64()%(3*blob.ChunkSize))
		r.Read(b)
		return b
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	stored := map[blob.ID]uint64{}
	total := func() int { mu.Lock(); defer mu.Unlock(); return len(stored) }
	progress := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for w := range uint64(4) {
		c := connect(t, p.address)
		wg.Go(func() {
			for n := w; ctx.Err() == nil; {
				id, err := c.PutBlob(ctx, owner, content(n), expires, nil)
				if err != nil {
					continue // the same again: it may be stored
				}
				mu.Lock()
				stored[id] = n
				mu.Unlock()
				n += 4
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	check := func(c *client.Client, id blob.ID, n uint64) error {
		b, err := c.GetBlob(ctx, id)
		if err == nil && !bytes.Equal(b, content(n)) {
			t.Errorf("blob %d is another", n)
		}
		return err
	}
	reader := connect(t, p.address)
	downloads := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			mu.Lock()
			some := map[blob.ID]uint64{}
			for id, n := range stored {
				if some[id] = n; len(some) == 5 {
					break
				}
			}
			mu.Unlock()
			for id, n := range some {
				// The relay is away for longer, sometimes, than the reader tries.
				if check(reader, id, n) == nil {
					downloads++
				}
			}
		}
	})
	const kills = 4
	for range kills {
		for want := total() + 12; total() < want; {
			<-progress
		}
		p.kill()
		p = start(t, home)
	}
	for want := total() + 8; total() < want; {
		<-progress
	}
	stop()
	wg.Wait()
	ctx = t.Context()
	for id, n := range stored {
		if err := check(reader, id, n); err != nil {
			t.Errorf("blob %d was stored: %v", n, err)
		}
	}
	if downloads == 0 {
		t.Error("nothing was downloaded meanwhile")
	}
	t.Logf("%d blobs stored and %d downloads over %d kills", len(stored), downloads, kills)
	p.kill() // then its log is whole
	for id := range stored {
		if name := fmt.Sprintf("%x", id[:4]); strings.Contains(p.log.String(), name) {
			t.Errorf("the log holds %s:\n%s", name, p.log)
		}
	}
}
