//go:build !linux && !darwin && !freebsd

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
)

// On a system where the owner of a home and the other end of a socket cannot be
// made out, there is no local API: nothing else keeps other users from it.
const maxSocketPath = 107

func unsupported() error {
	return fmt.Errorf("the local API on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func lockFile(*os.File) error { return unsupported() }

func ownedByUs(fs.FileInfo) bool { return false }

func peerUID(*net.UnixConn) (uint32, error) { return 0, unsupported() }
