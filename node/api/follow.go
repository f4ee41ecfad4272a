package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sotto/node"
)

// followPause is how long a follower waits for a node that is not there.
const followPause = 250 * time.Millisecond

// Away reports whether an error is about a node that is not there, or stops, or did not
// say what became of a request: what was asked can be asked again in a while.
func Away(err error) bool {
	return errors.Is(err, ErrNotRunning) || errors.Is(err, ErrStopped) || errors.Is(err, node.ErrUncertain)
}

// Follow calls handle with each event, one after the other, until ctx is over, and waits
// for a node that is away. Which event was the last is in the file of that name, from
// where it goes on when it is called again; if there is no such file it begins with what
// comes now.
//
// An event is handled at least once: again if the process ended while it was, or if the
// error of handle says that the node is [Away]. What handle sends it sends with a
// key that it makes of the event. Any other error of handle's ends
// Follow; the event comes first when it is called again. [node.ErrGone] says that it was
// away too long: not all events are kept.
func (c *Client) Follow(ctx context.Context, file string, handle func(node.Event) error) error {
	for {
		err := c.follow(ctx, file, handle)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !Away(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followPause):
		}
	}
}

func (c *Client) follow(ctx context.Context, file string, handle func(node.Event) error) error {
	after, err := readPosition(file)
	if errors.Is(err, fs.ErrNotExist) {
		if after, err = c.LastEvent(ctx); err == nil {
			err = writePosition(file, after)
		}
	}
	if err != nil {
		return err
	}
	for e, err := range c.Events(ctx, after) {
		if err == nil {
			err = handle(e)
		}
		if err == nil {
			err = writePosition(file, e.Seq)
		}
		if err != nil {
			return err
		}
	}
	return ErrStopped
}

func readPosition(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read the last event's number: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not hold the number of an event; without it one begins with what comes", file)
	}
	return n, nil
}

// writePosition replaces the file as a whole.
func writePosition(file string, seq uint64) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write the last event's number: %w", err)
	}
	_, err = fmt.Fprintln(f, seq)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write the last event's number: %w", err)
	}
	return nil
}
