package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The names in a vault's folder, beside the database.
const (
	headerFile = "vault.header"
	newFile    = "vault.header.new" // what is being written
	oldFile    = "vault.header.old" // what was replaced and must go
)

// files are the operations on the header's folder. Each test fails or crashes at
// each of them in turn.
type files interface {
	read(name string) ([]byte, error)             // at most maxHeader+1 bytes
	create(name string) error                     // makes an empty file, which must not exist
	write(name string, b []byte) error            // fills an empty file, and syncs it
	link(from, to string) error                   // to must not exist
	rename(from, to string) error                 // replaces to
	same(a, b string) (exist, is bool, err error) // whether a exists, and is the same file as b
	overwrite(name string) error                  // with zeros, in place, and syncs it
	remove(name string) error
	sync() error // the folder
}

// replaceHeader makes b the header, durably, and leaves nothing of the one before
// it: that holds an erasure key or a slot which is to be gone. After an error the
// header is the old one or the new one, and tidy puts the rest in order.
func replaceHeader(f files, b []byte) error {
	if err := tidy(f, newFile, oldFile); err != nil {
		return err
	}
	if err := place(f, newFile, b); err != nil {
		return errors.Join(err, tidy(f, newFile)) // on a full disk, say
	}
	if err := f.link(headerFile, oldFile); err != nil {
		return err
	}
	// The old name is durable before its file has no other.
	if err := f.sync(); err != nil {
		return err
	}
	if err := f.rename(newFile, headerFile); err != nil {
		return err
	}
	return tidy(f, oldFile)
}

// place writes a file whose name is durable before there is anything in it: after a
// loss of power no bytes lie about that no name leads to.
func place(f files, name string, b []byte) error {
	if err := f.create(name); err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		return err
	}
	return f.write(name, b)
}

// firstFile is where a new vault's header is written first. It is of this vault alone: of
// two that create a vault in one folder neither touches the other's file.
func firstFile(id vaultID) string { return headerFile + "." + hex.EncodeToString(id[:4]) }

// createHeader makes b the first header; it fails with fs.ErrExist if there is one.
func createHeader(f files, id vaultID, b []byte) error {
	name := firstFile(id)
	if err := place(f, name, b); err != nil {
		return errors.Join(err, tidy(f, name))
	}
	// The database that the header names is there before it.
	if err := f.sync(); err != nil {
		return err
	}
	if err := f.link(name, headerFile); err != nil {
		return errors.Join(err, tidy(f, name))
	}
	return tidy(f, name)
}

// tidy finishes what a crash or an error left of files that are not the header, or not
// under its own name.
func tidy(f files, names ...string) error {
	for _, name := range names {
		exists, isHeader, err := f.same(name, headerFile)
		if err != nil {
			return err
		}
		if !exists {
			continue
		}
		// What now looks replaced must be so after a loss of power too, before
		// its bytes are destroyed.
		if err := f.sync(); err != nil {
			return err
		}
		if !isHeader {
			if err := f.overwrite(name); err != nil {
				return err
			}
		}
		if err := f.remove(name); err != nil {
			return err
		}
		if err := f.sync(); err != nil {
			return err
		}
	}
	return nil
}

// folder is the real files.
type folder string

func (d folder) path(name string) string { return filepath.Join(string(d), name) }

func (d folder) read(name string) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxHeader+1))
}

func (d folder) create(name string) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (d folder) write(name string, b []byte) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	return closeSynced(f, err)
}

func closeSynced(f *os.File, err error) error {
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d folder) link(from, to string) error {
	if err := os.Link(d.path(from), d.path(to)); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		return fmt.Errorf("%w (a vault needs a file system with hard links)", err)
	}
	return nil
}

func (d folder) rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d folder) same(a, b string) (exist, is bool, err error) {
	ia, err := os.Lstat(d.path(a))
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	ib, err := os.Lstat(d.path(b))
	if errors.Is(err, fs.ErrNotExist) {
		return true, false, nil
	}
	if err != nil {
		return true, false, err
	}
	return true, os.SameFile(ia, ib), nil
}

func (d folder) overwrite(name string) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, min(info.Size(), maxHeader)))
	}
	return closeSynced(f, err)
}

func (d folder) remove(name string) error { return os.Remove(d.path(name)) }

func (d folder) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
