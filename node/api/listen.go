package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sotto/node"
)

// What lies in a home for the API.
const (
	lockName    = "api.lock" // held while a node uses the home
	runName     = "run"      // folder of the socket, 0700
	socketName  = "api.sock"
	noteName    = "api.addr" // path of the socket if it lies elsewhere
	shortPrefix = "sotto-"   // name of the folder elsewhere
)

// HomeLock is a node's hold on its home. Of all that ask for it one has it, until it
// is closed or its process is gone.
type HomeLock struct {
	home string
	file *os.File
}

// Lock takes hold of a home and makes the folder if need be, with mode 0700. It
// returns [node.ErrBusy] if another process has it.
func Lock(home string) (*HomeLock, error) {
	if err := privateFolder(home); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(home, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the home: %w", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", home, err)
	}
	return &HomeLock{home, f}, nil
}

// Close lets the home go.
func (l *HomeLock) Close() error { return l.file.Close() }

// WaitFree returns when no process has hold of the home, or when ctx ends.
func WaitFree(ctx context.Context, home string) error {
	if _, err := os.Stat(filepath.Join(home, lockName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The system has no way to wait for a lock and for something else besides.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := Lock(home)
		if err == nil {
			return l.Close()
		}
		if !errors.Is(err, node.ErrBusy) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Listen makes the socket. A socket that an earlier process left is replaced: whoever
// holds the lock knows that nobody listens there. If the path is too long for the
// system the socket lies in a short folder that is noted in the home.
func (l *HomeLock) Listen() (net.Listener, error) {
	path, elsewhere, err := l.place()
	if err != nil {
		return nil, fmt.Errorf("make the API's socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	in, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the API's socket: %w", err)
	}
	// Until here the folder alone kept others out.
	if err := os.Chmod(path, 0o600); err != nil {
		in.Close()
		return nil, fmt.Errorf("make the API's socket: %w", err)
	}
	out := &listener{UnixListener: in}
	if elsewhere {
		out.leftovers = []string{filepath.Dir(path), filepath.Join(l.home, noteName)}
	}
	return out, nil
}

// place chooses where the socket lies, makes the folder, and sees to the note.
func (l *HomeLock) place() (path string, elsewhere bool, err error) {
	note := filepath.Join(l.home, noteName)
	dir := filepath.Join(l.home, runName)
	path = filepath.Join(dir, socketName)
	if len(path) <= maxSocketPath {
		if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", false, err
		}
		return path, false, privateFolder(dir)
	}
	if old, err := readNote(note); err == nil && privateAlready(filepath.Dir(old)) {
		return old, true, nil
	}
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"} {
		// What MkdirTemp adds to the prefix is at most ten digits.
		if !filepath.IsAbs(base) || len(filepath.Join(base, shortPrefix+"0123456789", socketName)) > maxSocketPath {
			continue
		}
		dir, err := os.MkdirTemp(base, shortPrefix)
		if err != nil {
			continue
		}
		path := filepath.Join(dir, socketName)
		if err := writeNote(note, path); err != nil {
			os.Remove(dir)
			return "", false, err
		}
		return path, true, nil
	}
	return "", false, fmt.Errorf("%s is too long a path for a socket (%d bytes, at most %d), and no folder for short paths can be written; set XDG_RUNTIME_DIR", path, len(path), maxSocketPath)
}

// socketPath returns where the API of a home is to be found.
func socketPath(home string) (string, error) {
	path, err := readNote(filepath.Join(home, noteName))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(home, runName, socketName), nil
	}
	return path, err
}

func readNote(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	path := strings.TrimSuffix(string(b), "\n")
	dir, file := filepath.Split(path)
	if !filepath.IsAbs(path) || len(path) > maxSocketPath || file != socketName || !strings.HasPrefix(filepath.Base(dir), shortPrefix) {
		return "", fmt.Errorf("%s is damaged: it does not name a socket; remove it", name)
	}
	return path, nil
}

func writeNote(name, path string) error {
	if err := os.WriteFile(name+".new", []byte(path+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// privateFolder makes a folder that only its owner can use, or makes it so.
func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !ownedByUs(info) {
		return fmt.Errorf("%s belongs to another user: %w", dir, node.ErrNotTrusted)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// privateAlready reports whether dir is a folder, not a link to one, that only we
// can use.
func privateAlready(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && info.IsDir() && info.Mode().Perm()&0o077 == 0 && ownedByUs(info)
}

// listener gives only connections of our own user.
type listener struct {
	*net.UnixListener
	leftovers []string
}

// Accept waits for the next connection of our own user.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkPeer(c) == nil {
			return c, nil
		}
		c.Close()
	}
}

// Close removes the socket too, and its folder and note if it had these.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	for _, name := range l.leftovers {
		if e := os.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// checkPeer returns nil if the process at the other end runs as our user.
func checkPeer(c *net.UnixConn) error {
	uid, err := peerUID(c)
	if err != nil {
		return fmt.Errorf("ask who is at the other end of the socket: %w", err)
	}
	if int(uid) != os.Geteuid() {
		return fmt.Errorf("another user is at the other end of the socket: %w", node.ErrNotTrusted)
	}
	return nil
}
