//go:build linux || darwin || freebsd

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"sotto/node"
)

// maxSocketPath is the longest path of a socket in bytes; one is for the final zero.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the home is %w", node.ErrBusy)
	}
	return err
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
