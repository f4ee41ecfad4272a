package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/storage/kv"
)

var loopback = Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Small: true}

// What is damaged in a relay's home is named, with what to do, and nothing is made in
// its place: a relay that had lost its key took a new name, and nobody found it.
func TestDamagedHome(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(home string) error
		want   string
		is     error
		listen []string
	}{
		{name: "no key", damage: func(home string) error { return os.Remove(filepath.Join(home, keyFile)) }, want: "relay.key is missing"},
		{name: "an empty key", damage: write(keyFile, ""), want: "relay.key is damaged"},
		{name: "half a key", damage: write(keyFile, strings.Repeat("ab", 16)), want: "relay.key is damaged"},
		{name: "a key of rubbish", damage: write(keyFile, strings.Repeat("xy", 32)), want: "relay.key is damaged"},
		{name: "a key that others can read", damage: func(home string) error { return os.Chmod(filepath.Join(home, keyFile), 0o644) }, want: "can be read by others"},
		{name: "half a ticket key", damage: write(ticketFile, "abcd"), want: "ticket.key is damaged"},
		{name: "an empty listen file", damage: write(listenFile, "\n"), want: "listen is damaged: it is empty"},
		{name: "a listen file of rubbish", damage: write(listenFile, "\x00\x01\x02 tcp/1"), want: "listen is damaged"},
		{name: "a listen file that is a folder", damage: func(home string) error {
			path := filepath.Join(home, listenFile)
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, want: "listen"},
		{name: "a store cut short", damage: eachFile(".sst", func(path string, size int64) error { return os.Truncate(path, size/2) }), is: kv.ErrCorrupt, listen: loopback.Listen},
		{name: "a store without its list of tables", damage: write(filepath.Join(storeDir, "MANIFEST"), "rubbish and more rubbish"), is: kv.ErrCorrupt, listen: loopback.Listen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "relay")
			in, err := Start(home, loopback)
			if err != nil {
				t.Fatal(err)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(home); err != nil {
				t.Fatal(err)
			}
			o := loopback
			o.Listen = tt.listen
			in, err = Start(home, o)
			if err == nil {
				in.Close()
				t.Fatal("it starts")
			}
			if !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("start: %v, want %q, %v", err, tt.want, tt.is)
			}
			bad := 0
			for _, f := range Check(home, o.Listen) {
				if !f.OK {
					bad++
				}
			}
			if bad == 0 && !strings.Contains(tt.name, "ticket") {
				t.Error("check finds nothing")
			}
			// Nothing has been made up in its place.
			if _, err := os.Stat(filepath.Join(home, keyFile)); tt.name == "no key" && !errors.Is(err, fs.ErrNotExist) {
				t.Error("a new key was made")
			}
		})
	}
}

func write(name, content string) func(string) error {
	return func(home string) error { return os.WriteFile(filepath.Join(home, name), []byte(content), 0o600) }
}

// eachFile does something to every file of the store that ends so; there must be one.
func eachFile(ext string, do func(path string, size int64) error) func(string) error {
	return func(home string) error {
		all, _ := filepath.Glob(filepath.Join(home, storeDir, "*"+ext))
		if len(all) == 0 {
			return errors.New("no such file")
		}
		for _, path := range all {
			info, err := os.Stat(path)
			if err == nil {
				err = do(path, info.Size())
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// A relay starts where it did last, with its old name and port.
func TestStartsWhereItDidLast(t *testing.T) {
	home := filepath.Join(t.TempDir(), "relay")
	in, err := Start(home, loopback)
	if err != nil {
		t.Fatal(err)
	}
	was := in.Address().String()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err := AddressAt(home, nil); err != nil || a.String() != was {
		t.Errorf("its address is %v, %v, and was %s", a, err, was)
	}
	if in, err = Start(home, Options{Small: true}); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if in.Address().String() != was {
		t.Errorf("it is at %v and was at %s", in.Address(), was)
	}
}
