package badgerbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sotto/relay/mailbox"
	"sotto/relay/mailbox/mailboxtest"
	"sotto/storage/kv"
)

// smallDisk mounts a file system of so many MiB, or skips the test.
func smallDisk(t *testing.T, mib int64) string {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close(), os.Mkdir(at, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("a small file system takes mkfs.ext4, mount and root: %s: %v %s", args[0], err, bytes.TrimSpace(out))
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return at
}

// A disk fills up, truly: the relay stops taking before the file system does, loses
// nothing, starts again, frees what has expired and goes on.
func TestDiskThatFillsUp(t *testing.T) {
	dir := filepath.Join(smallDisk(t, 400), "store")
	c := mailboxtest.NewClock()
	cfg := Config{Dir: dir, Clock: c.Now, Small: true, SweepPeriod: -1}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	id, tm := mailbox.ID{1}, mailboxtest.Terms()
	tm.MaxBytes, tm.MaxEntries = 1<<40, 1<<30
	if err := s.Create(t.Context(), id, tm); err != nil {
		t.Fatal(err)
	}
	n := uint32(0)
	put := func(count int) (stored int, err error) {
		var ds []mailbox.Deposit
		for range count {
			n++
			d := message(id, "")
			d.Payload = binary.BigEndian.AppendUint32(bytes.Repeat([]byte{byte(n)}, 128<<10), n)
			ds = append(ds, d)
		}
		for _, o := range s.Put(t.Context(), ds) {
			if err = o.Err; err == nil {
				stored++
			}
		}
		return stored, err
	}
	total := 0
	for err == nil {
		var more int
		more, err = put(16)
		total += more
	}
	if !errors.Is(err, mailbox.ErrBusy) || total < 16 {
		t.Fatalf("after %d entries: %v, want ErrBusy", total, err)
	}
	for range 50 { // those who ask again do not use up the reserve
		more, err := put(4)
		if total += more; err != nil && !errors.Is(err, mailbox.ErrBusy) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	free, err := s.Free()
	if err != nil || free < kv.DefaultReserve {
		t.Errorf("%d MiB are free, %v", free>>20, err)
	}
	// There is room to rewrite what there is: without it the process dies.
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatalf("reclaim on a full disk: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close on a full disk: %v", err)
	}
	if s, err = Open(cfg); err != nil {
		t.Fatalf("open on a full disk: %v", err)
	}
	found := 0
	for after := (mailbox.Mark{}); ; {
		p, err := s.Read(t.Context(), id, after, mailbox.Limit{})
		if err != nil {
			t.Fatal(err)
		}
		found += len(p.Entries)
		if after = p.End.Mark(); !p.More {
			break
		}
	}
	if found != total {
		t.Errorf("%d entries are there, %d were receipted", found, total)
	}
	c.Advance(tm.Keep)
	if freed, err := s.Sweep(t.Context()); err != nil || freed != total {
		t.Errorf("sweep freed %d of %d, %v", freed, total, err)
	}
	if err := s.Reclaim(t.Context()); err != nil {
		t.Errorf("reclaim: %v", err)
	}
	after, err := s.Free()
	if err != nil || after < 300<<20 {
		t.Errorf("%d MiB were free, %d are, %v", free>>20, after>>20, err)
	}
	if more, err := put(16); more != 16 {
		t.Errorf("with room again: %d of 16, %v", more, err)
	}
	t.Logf("%d entries of 128 KiB; %d MiB free when full, %d after", total, free>>20, after>>20)
}
