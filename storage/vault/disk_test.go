package vault

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
)

// A disk holds the header's folder in memory, and can fail or stop at any operation. It
// forgets on a loss of power what was not synced, and keeps the bytes of every file that
// ever was: what no name leads to any more is still found by who reads the raw disk.
type disk struct {
	names   map[string]*file // what a process sees
	durable map[string]*file // what a loss of power leaves
	pending []func(map[string]*file)
	all     []*file

	steps   int // operations so far that change something
	at      int // the step that goes wrong, from 1; 0: none
	how     failure
	stop    bool // nothing works after it: the process was killed
	stopped bool
}

type file struct{ data []byte }

type failure string

const (
	failed   failure = "failed"
	happened failure = "failed but happened"
	torn     failure = "half of the bytes written"
)

var errDisk = errors.New("injected: input/output error")

func newDisk() *disk { return &disk{names: map[string]*file{}, durable: map[string]*file{}} }

// step does one operation, or fails as was asked for.
func (d *disk) step(do func(half bool)) error {
	if d.stopped {
		return errDisk
	}
	d.steps++
	if d.steps != d.at {
		do(false)
		return nil
	}
	d.stopped = d.stop
	switch d.how {
	case happened:
		do(false)
	case torn:
		do(true)
	}
	return errDisk
}

func (d *disk) dir(op func(map[string]*file)) {
	op(d.names)
	d.pending = append(d.pending, op)
}

func (d *disk) read(name string) ([]byte, error) {
	if d.stopped {
		return nil, errDisk
	}
	f := d.names[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(f.data), nil
}

func (d *disk) create(name string) error {
	if d.names[name] != nil {
		return fs.ErrExist
	}
	return d.step(func(half bool) {
		if !half {
			f := &file{}
			d.all = append(d.all, f)
			d.dir(func(m map[string]*file) { m[name] = f })
		}
	})
}

func (d *disk) write(name string, b []byte) error {
	f := d.names[name]
	return d.step(func(half bool) {
		f.data = bytes.Clone(b)
		if half {
			f.data = f.data[:len(b)/2]
		}
	})
}

func (d *disk) link(from, to string) error {
	if d.names[to] != nil {
		return fs.ErrExist
	}
	f := d.names[from]
	return d.step(func(half bool) {
		if !half {
			d.dir(func(m map[string]*file) { m[to] = f })
		}
	})
}

func (d *disk) rename(from, to string) error {
	f := d.names[from]
	return d.step(func(half bool) {
		if !half {
			d.dir(func(m map[string]*file) { m[to] = f; delete(m, from) })
		}
	})
}

func (d *disk) same(a, b string) (exist, is bool, err error) {
	if d.stopped {
		return false, false, errDisk
	}
	return d.names[a] != nil, d.names[a] != nil && d.names[a] == d.names[b], nil
}

func (d *disk) overwrite(name string) error {
	f := d.names[name]
	return d.step(func(half bool) {
		n := len(f.data)
		if half {
			n /= 2
		}
		clear(f.data[:n])
	})
}

func (d *disk) remove(name string) error {
	return d.step(func(half bool) {
		if !half {
			d.dir(func(m map[string]*file) { delete(m, name) })
		}
	})
}

func (d *disk) sync() error {
	return d.step(func(half bool) {
		if !half {
			d.durable, d.pending = maps.Clone(d.names), nil
		}
	})
}

// restart makes the disk work again after a crash: of the process, or a loss of power
// after which only the first keep of the folder's changes since its last sync are there.
func (d *disk) restart(power bool, keep int) {
	d.at, d.steps, d.stop, d.stopped = 0, 0, false, false
	if !power {
		return
	}
	d.names = maps.Clone(d.durable)
	for _, op := range d.pending[:min(keep, len(d.pending))] {
		op(d.names)
	}
	d.durable, d.pending = maps.Clone(d.names), nil
}

// remains returns what the raw disk holds beside the header, zeros left out.
func (d *disk) remains() (left [][]byte) {
	for _, f := range d.all {
		if f != d.names[headerFile] && len(bytes.Trim(f.data, "\x00")) > 0 {
			left = append(left, f.data)
		}
	}
	return left
}

func (d *disk) list() []string { return slices.Sorted(maps.Keys(d.names)) }

// clone returns the disk as it is, to crash differently.
func (d *disk) clone() *disk {
	c := newDisk()
	moved := map[*file]*file{}
	for _, f := range d.all {
		n := &file{bytes.Clone(f.data)}
		moved[f] = n
		c.all = append(c.all, n)
	}
	for name, f := range d.names {
		c.names[name], c.durable[name] = moved[f], moved[f]
	}
	return c
}
