package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sotto/node"
	"sotto/node/api"
	"sotto/storage/kv"
)

// freeAsTold reads from a file how many bytes are free, where there is one.
func freeAsTold(file string) func(string) (uint64, error) {
	return func(dir string) (uint64, error) {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return kv.FreeAt(dir)
		}
		var n uint64
		if err == nil {
			_, err = fmt.Sscan(string(b), &n)
		}
		return n, err
	}
}

// A disk that is full stops what a node would write before it is quite full, says so,
// and when there is room again everything goes on: nothing is lost. The disk is a
// small one where a test may mount one; else the node is told that it is.
func TestFullDisk(t *testing.T) {
	for _, disk := range []struct {
		name  string
		mount func(t *testing.T, dir string)
	}{
		{"a reading", func(*testing.T, string) {}},
		{"a small disk", func(t *testing.T, dir string) {
			if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=200m", "none", dir).CombinedOutput(); err != nil {
				t.Skipf("no small disk can be mounted here: %v %s", err, out)
			}
			t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
		}},
	} {
		t.Run(disk.name, func(t *testing.T) { fullDisk(t, disk.mount) })
	}
}

func fullDisk(t *testing.T, mount func(*testing.T, string)) {
	x := newThree(t)
	ctx := context.Background()
	dir := x.home("Dot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mount(t, dir)
	told := filepath.Join(dir, "told")
	small := t.Name() != "TestFullDisk/a_reading"
	fill := func() {
		if !small {
			if err := os.WriteFile(told, []byte("1000000"), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		free, err := kv.FreeAt(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, free-40<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	room := func() {
		name := told
		if small {
			name = filepath.Join(dir, "big")
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}

	x.newPerson("Dot", "FREE="+told)
	link, _ := x.invite("Dot", "Ben")
	if _, log, exit := x.sotto("Ben", "contact", "accept", link, "--name", "Dot", "--wait", "1m"); exit != 0 {
		t.Fatal(log)
	}
	x.established("Dot", "Ben")
	if _, err := x.clients["Dot"].Send(ctx, "Ben", "before"); err != nil {
		t.Fatal(err)
	}

	x.until("Dot", "that it is stored", func(c *api.Client) bool {
		s, err := c.Status(ctx)
		return err == nil && s.Queued == 0
	})
	fill()
	var err error
	for i := 0; i < 200 && err == nil; i++ { // the free space is looked at now and then
		_, err = x.clients["Dot"].Send(ctx, "Ben", strings.Repeat("x", node.MaxText))
	}
	_, log, exit := x.sotto("Dot", "chat", "send", "Ben", "one more")
	if exit != 9 || !strings.Contains(log, "disk is full") || !strings.Contains(log, "kept in reserve") || !strings.Contains(log, "next:  make room") {
		t.Errorf("exit %d, want 9: %s", exit, log)
	}
	if out, _, _ := x.sotto("Dot", "doctor"); !strings.Contains(out, "WRONG  disk") {
		t.Errorf("doctor says of a full disk: %s", out)
	}
	if _, err := x.clients["Ben"].Send(ctx, "Dot", "while it was full"); err != nil {
		t.Fatal(err)
	}
	room()
	if _, log, exit := x.sotto("Dot", "chat", "send", "Ben", "after"); exit != 0 {
		t.Errorf("with room again: exit %d: %s", exit, log)
	}
	x.until("Dot", "what came meanwhile", func(c *api.Client) bool {
		theirs, _, err := all(c, "Ben")
		return err == nil && len(theirs) == 1 && theirs[0] == "while it was full"
	})
	x.until("Ben", "everything", func(c *api.Client) bool {
		theirs, _, err := all(c, "Dot")
		return err == nil && len(theirs) > 1 && theirs[0] == "before" && theirs[len(theirs)-1] == "after"
	})
	x.stopPerson("Dot")
	x.startPerson("Dot")
}
