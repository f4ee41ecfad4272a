package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// A driver is a process of node with the devices of a library (testdata/foreign).
type driver struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	next int
}

func start(ctx context.Context, dir, script string) (*driver, error) {
	cmd := exec.CommandContext(ctx, "node", script)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &driver{cmd: cmd, in: in, out: bufio.NewReader(out)}, cmd.Start()
}

func (d *driver) stop() error {
	d.in.Close()
	return d.cmd.Wait()
}

type request struct {
	Op       string   `json:"op"`
	Device   int      `json:"device"`
	Suite    int      `json:"suite"`
	Identity string   `json:"identity,omitempty"`
	Group    []byte   `json:"group,omitempty"`
	Packages [][]byte `json:"packages,omitempty"`
	Welcome  []byte   `json:"welcome,omitempty"`
	Leaf     int      `json:"leaf"`
	Message  []byte   `json:"message,omitempty"`
	Content  []byte   `json:"content,omitempty"`
}

// nodeDevice is a device of a driver.
type nodeDevice struct {
	*driver
	number int // among the driver's
	n      int
}

func (d *driver) device(n int) (device, error) {
	d.next++
	return &nodeDevice{d, d.next, n}, nil
}

func (d *nodeDevice) call(r request) (out result, err error) {
	r.Device, r.Suite = d.number, 1
	if r.Identity == "" {
		r.Identity = identityOf(d.n)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	if _, err := d.in.Write(append(b, '\n')); err != nil {
		return out, err
	}
	line, err := d.out.ReadBytes('\n')
	if err != nil {
		return out, err
	}
	var a struct {
		Error                                string
		Milliseconds                         float64
		KeyPackage, Commit, Welcome, Message []byte
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return out, fmt.Errorf("%w in %s", err, bytes.TrimSpace(line[:min(len(line), 200)]))
	}
	if a.Error != "" {
		return out, errors.New(a.Error)
	}
	out.took, out.welcome = time.Duration(a.Milliseconds*1e6), a.Welcome
	for _, m := range [][]byte{a.KeyPackage, a.Commit, a.Message} {
		if m != nil {
			out.message = m
		}
	}
	return out, nil
}

func (d *nodeDevice) keyPackage() (result, error) { return d.call(request{Op: "keyPackage"}) }
func (d *nodeDevice) create(group []byte) (result, error) {
	return d.call(request{Op: "create", Group: group})
}
func (d *nodeDevice) add(packages [][]byte) (result, error) {
	return d.call(request{Op: "add", Packages: packages})
}
func (d *nodeDevice) join(welcome []byte) (result, error) {
	return d.call(request{Op: "join", Welcome: welcome})
}
func (d *nodeDevice) update() (result, error) { return d.call(request{Op: "update"}) }
func (d *nodeDevice) remove(n int) (result, error) {
	return d.call(request{Op: "remove", Leaf: n, Identity: identityOf(n)})
}
func (d *nodeDevice) process(message []byte) (result, error) {
	return d.call(request{Op: "process", Message: message})
}
func (d *nodeDevice) encrypt(content []byte) (result, error) {
	return d.call(request{Op: "encrypt", Content: content})
}
