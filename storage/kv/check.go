package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// removeEmpty removes the log files that a process was killed while making or
// deleting: Badger makes a file and then gives it its size, takes its size away and
// then deletes it, and opens no database where the second step has not happened. Such
// a file holds nothing yet, or what stands in a table that the manifest names.
//
// Badger's own lock is held meanwhile, a lock of the folder: the process that makes a
// file may still be alive.
func removeEmpty(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return err
	}
	files, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range files {
		if kind := filepath.Ext(e.Name()); kind != ".mem" && kind != ".vlog" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// checkTables looks at the end of every table that the manifest names. Badger
// reads lengths there and, where one leads out of the file, panics in a goroutine
// of its own, which nobody can recover. What stands between is guarded by checksums
// that it does verify.
//
// A table ends with: index ‖ index length ‖ checksum ‖ checksum length, the lengths
// being four bytes, big-endian.
func checkTables(o badger.Options) error {
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if os.IsNotExist(err) {
		return nil // a new database, or one that Badger will call incomplete
	}
	if err != nil {
		return err
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrCorrupt, badger.ManifestFilename, err)
	}
	for id := range manifest.Tables {
		name := fmt.Sprintf("%06d.sst", id)
		if err := checkTable(filepath.Join(o.Dir, name)); err != nil {
			return fmt.Errorf("%w: %s: %v", ErrCorrupt, name, err)
		}
	}
	return nil
}

func checkTable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	at := info.Size()
	length := func() (int64, error) {
		var b [4]byte
		at -= 4
		if at < 0 {
			return 0, io.ErrUnexpectedEOF
		}
		if _, err := f.ReadAt(b[:], at); err != nil {
			return 0, err
		}
		n := int64(binary.BigEndian.Uint32(b[:]))
		if n == 0 || n > at {
			return 0, fmt.Errorf("a part of %d bytes ends at byte %d", n, at)
		}
		return n, nil
	}
	for range 2 { // the checksum, the index
		n, err := length()
		if err != nil {
			return err
		}
		at -= n
	}
	return nil
}
