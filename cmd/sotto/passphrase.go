package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"sotto/node"
)

const (
	passphraseName = "passphrase" // in the home, made by run where nobody can be asked
	maxPassphrase  = 1024         // bytes
)

// passphrase gets the vault's passphrase; where it is asked for, twice if it is new.
func (a *app) passphrase(ctx context.Context, isNew bool) ([]byte, error) {
	switch file := a.passphraseName(); {
	case file == "-":
		return readPassphrase(a.in, "stdin")
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPassphrase, err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			a.say("warning: %s can be read by others; chmod 600 it", safe(file))
		}
		return readPassphrase(f, file)
	}
	if !isTerminal(a.in) {
		return nil, fmt.Errorf("%w: there is no terminal to ask for it", errPassphrase)
	}
	if isNew {
		a.say("Choose a passphrase. It seals what is kept in %s; nobody can reset it.", safe(a.home))
	}
	first, err := a.ask(ctx, "Passphrase: ")
	if err != nil || !isNew {
		return first, err
	}
	second, err := a.ask(ctx, "The same again: ")
	if err != nil {
		return nil, err
	}
	defer clear(second)
	if !bytes.Equal(first, second) {
		return nil, &usageError{errors.New("the two passphrases differ"), ""}
	}
	return first, nil
}

// passphraseName returns the file that holds the passphrase, "" if there is none.
func (a *app) passphraseName() string {
	if a.passphraseFile != "" {
		return a.passphraseFile
	}
	if file := a.env("SOTTO_PASSPHRASE_FILE"); file != "" {
		return file
	}
	file := filepath.Join(a.home, passphraseName)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// readPassphrase reads a passphrase to the end of r, but for one line end.
func readPassphrase(r io.Reader, where string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPassphrase+3))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPassphrase, err)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: %s is empty", errPassphrase, where)
	case len(b) > maxPassphrase:
		return nil, fmt.Errorf("%w: %s has more than %d bytes", errPassphrase, where, maxPassphrase)
	}
	return b, nil
}

// ask reads a line from the terminal without showing it.
func (a *app) ask(ctx context.Context, prompt string) ([]byte, error) {
	fd := int(a.in.(*os.File).Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPassphrase, err)
	}
	fmt.Fprint(a.err, prompt)
	type line struct {
		b   []byte
		err error
	}
	read := make(chan line, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		read <- line{b, err}
	}()
	select {
	case <-ctx.Done():
		// The process is about to end, and the reading with it.
		fmt.Fprintln(a.err)
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	case l := <-read:
		fmt.Fprintln(a.err)
		switch {
		case l.err != nil:
			return nil, fmt.Errorf("%w: %w", errPassphrase, l.err)
		case len(l.b) == 0:
			return nil, fmt.Errorf("%w: it must not be empty", errPassphrase)
		case len(l.b) > maxPassphrase:
			return nil, fmt.Errorf("a passphrase of more than %d bytes is %w", maxPassphrase, node.ErrTooLarge)
		}
		return l.b, nil
	}
}

// firstPassphrase gets the passphrase of a new vault, or makes one where nobody can
// be asked.
func (a *app) firstPassphrase(ctx context.Context) ([]byte, error) {
	if a.passphraseName() == "" && !isTerminal(a.in) {
		secret, err := a.makePassphrase()
		if err != nil {
			return nil, fmt.Errorf("make a passphrase: %w", err)
		}
		return secret, nil
	}
	return a.passphrase(ctx, true)
}

// makePassphrase writes a new random passphrase to a file in the home.
func (a *app) makePassphrase() ([]byte, error) {
	if err := os.MkdirAll(a.home, 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(a.home, passphraseName)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	secret := []byte(rand.Text())
	_, err = f.Write(append(secret[:len(secret):len(secret)], '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	a.say("There is no terminal to ask for a passphrase: a random one was written to\n  %s\nWhoever can read that file can open your vault.", safe(name))
	return secret, nil
}
