package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"sotto/crypto/key"
	"sotto/node"
	"sotto/relay/wire"
	"sotto/storage/kv"
	"sotto/storage/vault"
)

var passphrase = []byte("correct horse")

// stretch takes the place of argon2id.
func stretch(passphrase, salt []byte, _ vault.Params) []byte {
	h := sha256.Sum256(append(append([]byte(nil), salt...), passphrase...))
	return h[:]
}

const (
	maxSkew   = 20 * time.Minute
	writeFail = 80 // one write of a vault in so many fails, while there are faults
)

// device is somebody with a node.
type device struct {
	*node.Node
	w     *world
	name  string
	home  string
	skew  time.Duration
	rng   *rand.Rand // for what the node leaves to chance
	steps *node.Stepper
	known []*device
	cut   map[*relay]time.Time // that cannot be reached before
	sent  []said
	after bool // the write under way will fail when it has happened
}

// said is a text that a node has taken.
type said struct{ ref, text string }

func (d *device) start() (err error) {
	d.Node, err = node.Open(d.home, node.Options{Passphrase: passphrase, Dial: d.dial, Hook: d, Reserve: -1, Stretch: stretch,
		Clock:  func() time.Time { return d.w.time().Add(d.skew) },
		Random: func(n time.Duration) time.Duration { return time.Duration(d.rng.Int64N(int64(n))) }})
	if err != nil {
		return err
	}
	d.steps, err = d.Stepper()
	return err
}

func (d *device) stop() error {
	if d.Node == nil {
		return nil
	}
	d.steps.Close()
	err := d.Node.Close()
	d.Node = nil
	return err
}

// restart stops a device and starts it. Its vault does not fail meanwhile: when it is
// opened or closed nobody reads it back.
func (d *device) restart() error {
	d.w.note("restart %s", d.name)
	d.w.faults.Restarts++
	d.w.storming = false
	defer func() { d.w.storming = true }()
	if err := d.stop(); err != nil {
		return err
	}
	return d.start()
}

// dial connects to a relay if the world lets it.
func (d *device) dial(_ context.Context, a wire.Address) (net.Conn, key.RelayPublic, error) {
	for _, r := range d.w.relays {
		if r.address.Key == a.Key && r.server != nil && !d.w.now.Before(d.cut[r]) {
			return r.connect(d), a.Key, nil
		}
	}
	return nil, key.RelayPublic{}, errors.New("there is no way to this relay now")
}

var errDisk = errors.New("the disk failed")

// BeforeCommit lets a write fail, or decides that it is to fail once it has happened.
func (d *device) BeforeCommit([]kv.Write) error {
	d.after = false
	if !d.w.storming || d.rng.IntN(writeFail) != 0 {
		return nil
	}
	d.w.faults.Writes++
	if d.after = d.rng.IntN(2) == 0; d.after {
		return nil
	}
	return errDisk
}

// AfterCommit lets a write fail that has happened.
func (d *device) AfterCommit() error {
	if d.after {
		return errDisk
	}
	return nil
}

// tolerate returns an error only if no fault explains it.
func (d *device) tolerate(err error) error {
	if d.w.storming {
		return nil
	}
	return err
}

// turn does one thing that is to be done, whichever chance wants.
func (d *device) turn() error {
	switch d.w.rng.IntN(8) {
	case 0:
		d.w.note("%s tasks %v", d.name, d.steps.Tasks())
		return nil
	case 1:
		d.w.note("%s inbox %v", d.name, d.steps.Inbox() == nil)
		return nil
	}
	refs, err := d.steps.Conversations()
	if err != nil || len(refs) == 0 {
		return d.tolerate(err)
	}
	ref := pick(d.w, refs)
	err = d.steps.Tick(ref)
	ticked := err == nil
	did := "read"
	if d.w.chance(2) {
		err = d.steps.Read(ref)
	} else {
		did = "post"
		_, err = d.steps.Post(ref)
	}
	d.w.note("%s %s %s %v %v", d.name, did, ref, ticked, err == nil)
	return d.tolerate(err)
}

// most bounds how much of one thing is done in a row.
const most = 50

// work does everything that is to be done, once there are no faults: an error is one of
// the program's.
func (d *device) work() error {
	d.steps.Tasks()
	if err := d.steps.Inbox(); err != nil {
		return err
	}
	refs, err := d.steps.Conversations()
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if err := d.steps.Tick(ref); err != nil && !errors.Is(err, node.ErrNotFound) {
			return err
		}
		for range most {
			before, err := d.LastEvent(d.w.ctx)
			if err != nil {
				return err
			}
			if err := d.steps.Read(ref); err != nil && !errors.Is(err, node.ErrNotFound) {
				break // the mailbox may not be there yet, or its keys may have changed
			}
			if after, err := d.LastEvent(d.w.ctx); err != nil || after == before {
				break
			}
		}
		for range most {
			if any, err := d.steps.Post(ref); !any || err != nil {
				break
			}
		}
	}
	return nil
}
