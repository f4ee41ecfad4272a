package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sotto/crypto/key"
	"sotto/relay/access"
	"sotto/relay/mailbox"
	"sotto/relay/mailbox/badgerbox"
	"sotto/relay/transport"
	"sotto/relay/wire"
	"sotto/storage/blob"
	"sotto/storage/blob/dirblob"
	"sotto/storage/kv"
)

// The files of a relay's home. The folder is 0700, the files are 0600.
const (
	keyFile    = "relay.key"  // seed of the relay's key, in hex: losing it loses the relay's name
	ticketFile = "ticket.key" // secret of its tickets, in hex
	listenFile = "listen"     // what it listens on, or did last, a multiaddr a line
	tellFile   = "announce"   // what it gives to people in place of that, if anything
	storeDir   = "mailboxes"
	blobDir    = "blobs"
)

// ErrNoHome is returned for a home that no relay has been started in.
var ErrNoHome = errors.New("no relay has been started there")

// Options says how to run a relay out of its home.
type Options struct {
	Listen     []string // multiaddrs; none: what it listened on last, or every address, port 4655
	Announce   []string // multiaddrs to give to people; none: those listened on
	NeedTicket bool     // without a ticket nothing is created
	BlobQuota  int64    // bytes of blobs kept for those without a ticket; 0: 10 GiB, 1 GiB if Small
	Small      bool     // for a few people: a relay inside a node
	Logger     *slog.Logger

	// Watch, if set, puts something between the server and its store: through it goes
	// everything that a relay gets to see of mailboxes and slots. For demonstrations.
	Watch func(Store) Store
}

// Store is what a relay keeps things in.
type Store interface {
	mailbox.Store
	mailbox.Slots
}

// DefaultListen is where a relay listens that is told nothing.
var DefaultListen = []string{"/ip4/0.0.0.0/tcp/4655", "/ip6/::/tcp/4655"}

// Instance is a running relay.
type Instance struct {
	store    *badgerbox.Store
	blobs    *dirblob.Store
	server   *Server
	listener *transport.Listener
	tickets  *access.Tickets
	address  wire.Address
	served   chan error
}

// Start runs the relay of a home, which is made if it is not there.
func Start(home string, o Options) (*Instance, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("start relay: %w", err)
	}
	k, err := loadKey(home, true)
	if err != nil {
		return nil, err
	}
	secret, err := loadSecret(filepath.Join(home, ticketFile), true)
	if err != nil {
		return nil, err
	}
	if o.Listen, err = listening(home, o.Listen); err != nil {
		return nil, fmt.Errorf("start relay: %w", err)
	}
	var sessions int
	var held int64
	if o.Small {
		sessions, held = 2000, 32<<20
	}
	in := &Instance{tickets: access.NewTickets(secret), served: make(chan error, 1)}
	in.store, err = badgerbox.Open(badgerbox.Config{Dir: filepath.Join(home, storeDir), Small: o.Small, Logger: o.Logger})
	if err != nil {
		if errors.Is(err, kv.ErrLocked) {
			return nil, fmt.Errorf("start relay: another relay runs in %s: %w", home, err)
		}
		return nil, fmt.Errorf("start relay: %w", err)
	}
	if o.BlobQuota == 0 {
		o.BlobQuota = 10 << 30
		if o.Small {
			o.BlobQuota = 1 << 30
		}
	}
	in.blobs, err = dirblob.Open(dirblob.Config{Dir: filepath.Join(home, blobDir), Quota: map[blob.Class]int64{access.Strangers: o.BlobQuota}, Logger: o.Logger})
	if err != nil {
		in.store.Close()
		return nil, fmt.Errorf("start relay: %w", err)
	}
	var store Store = in.store
	if o.Watch != nil {
		store = o.Watch(store)
	}
	in.server = New(Config{Key: k, Store: store, Slots: store, Blobs: in.blobs, Logger: o.Logger,
		Sessions: sessions, Bytes: held, Policy: access.Policy{Tickets: in.tickets, NeedTicket: o.NeedTicket}})
	in.listener, err = transport.Listen(transport.Config{Key: k, Listen: o.Listen, Announce: o.Announce, MaxConns: sessions})
	if err == nil {
		in.address, err = in.listener.Address()
	}
	if err == nil {
		err = in.note(home, o.Announce)
	}
	if err != nil {
		in.shut()
		return nil, fmt.Errorf("start relay: %w", err)
	}
	go func() { in.served <- in.server.Serve(in.listener) }()
	return in, nil
}

// note writes down what is listened on, wildcards as such, with real ports: so that
// the next start takes the same, and AddressAt can tell.
func (in *Instance) note(home string, announce []string) error {
	write := func(name string, lines []string) error {
		if len(lines) == 0 {
			if err := os.Remove(filepath.Join(home, name)); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		return writeFile(filepath.Join(home, name), strings.Join(lines, "\n")+"\n")
	}
	return errors.Join(write(listenFile, in.listener.Listening()), write(tellFile, announce))
}

// Address is where the relay can be reached.
func (in *Instance) Address() wire.Address { return in.address }

// Ticket issues a ticket that is good for a time.
func (in *Instance) Ticket(life time.Duration) []byte {
	return in.tickets.Issue(mailbox.MinuteOf(time.Now().Add(life)))
}

// Failed gives an error if the relay stops by itself.
func (in *Instance) Failed() <-chan error { return in.served }

// Close says goodbye to clients, waits for what is under way and closes the stores.
func (in *Instance) Close() error {
	in.listener.Stop()
	in.server.Close()
	err := in.listener.Close()
	return errors.Join(err, in.store.Close(), in.blobs.Close())
}

func (in *Instance) shut() {
	if in.listener != nil {
		in.listener.Close()
	}
	in.server.Close()
	in.store.Close()
	in.blobs.Close()
}

// AddressAt returns the address of the relay in a home, whether or not it runs: what
// gives to people, or did last, or would if it listened on these multiaddrs. The relay's
// key is made if there is none.
func AddressAt(home string, listen []string) (wire.Address, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return wire.Address{}, err
	}
	k, err := loadKey(home, true)
	if err != nil {
		return wire.Address{}, err
	}
	if len(listen) == 0 {
		if listen, err = lines(home, tellFile); err != nil {
			return wire.Address{}, err
		}
	}
	if listen, err = listening(home, listen); err != nil {
		return wire.Address{}, err
	}
	return transport.AddressOf(k.Public(), listen)
}

// TicketAt issues a ticket of the relay in a home.
func TicketAt(home string, life time.Duration) ([]byte, error) {
	secret, err := loadSecret(filepath.Join(home, ticketFile), false)
	if err != nil {
		return nil, err
	}
	return access.NewTickets(secret).Issue(mailbox.MinuteOf(time.Now().Add(life))), nil
}

// RenewEraAt draws a new era for the relay in a home, which must not be running.
func RenewEraAt(home string) (mailbox.Era, error) {
	if _, err := os.Stat(filepath.Join(home, storeDir)); err != nil {
		return 0, fmt.Errorf("%s: %w", home, ErrNoHome)
	}
	return badgerbox.RenewEra(filepath.Join(home, storeDir))
}

// Finding is one line of Check's report.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Check looks whether a relay could run, or runs, in a home, and how fast its disk
// makes things durable.
func Check(home string, listen []string) []Finding {
	var out []Finding
	add := func(name string, err error, detail string) {
		if err != nil {
			detail = err.Error()
		}
		out = append(out, Finding{name, err == nil, detail})
	}
	info, err := os.Stat(home)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s can be read by others (%v); chmod 700 it", home, info.Mode().Perm())
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: %w; sotto-relay serve makes it", home, ErrNoHome)
	}
	add("home", err, home)
	if info == nil {
		return out
	}
	k, err := loadKey(home, false)
	if err != nil {
		add("key", err, "")
	} else {
		add("key", nil, wire.PeerID(k.Public()))
	}
	running := false
	if store, err := badgerbox.Open(badgerbox.Config{Dir: filepath.Join(home, storeDir), Small: true, SweepPeriod: -1}); errors.Is(err, kv.ErrLocked) {
		running = true
		add("store", nil, "in use by a running relay")
	} else if err != nil {
		add("store", err, "")
	} else {
		size, _ := store.Size()
		add("store", store.Close(), fmt.Sprintf("opens, %d MiB", size>>20))
	}
	if running {
		add("blobs", nil, "in use by a running relay")
	} else if blobs, err := dirblob.Open(dirblob.Config{Dir: filepath.Join(home, blobDir), SweepPeriod: -1}); err != nil {
		add("blobs", err, "")
	} else {
		size, _ := blobs.Size()
		add("blobs", blobs.Close(), fmt.Sprintf("open, %d MiB", size>>20))
	}
	free, err := kv.FreeAt(home)
	if err == nil && free < kv.DefaultReserve {
		err = fmt.Errorf("%d MiB are free; below %d MiB nothing is taken", free>>20, kv.DefaultReserve>>20)
	}
	add("disk", err, fmt.Sprintf("%d MiB free", free>>20))
	rate, err := flushRate(home)
	add("flush", err, fmt.Sprintf("%.0f a second, one after the other", rate))
	if !running {
		listen, err := listening(home, listen)
		if err == nil {
			var l *transport.Listener
			if l, err = transport.Listen(transport.Config{Key: key.NewRelay(), Listen: listen}); err == nil {
				l.Close()
			}
		}
		add("listen", err, strings.Join(listen, ", ")+" can be listened on")
	}
	return out
}

// flushRate measures how often a second the disk of a folder makes 4 KiB durable.
func flushRate(dir string) (float64, error) {
	f, err := os.CreateTemp(dir, ".check-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4<<10)
	start, n := time.Now(), 0
	for time.Since(start) < time.Second && n < 5000 {
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// listening is what a relay listens on that was told listen: if nothing, what it did
// last, or its default.
func listening(home string, listen []string) ([]string, error) {
	if len(listen) > 0 {
		return listen, nil
	}
	listen, err := lines(home, listenFile)
	if err == nil && len(listen) == 0 {
		listen = DefaultListen
	}
	return listen, err
}

// lines reads a file of a home, a multiaddr a line; nothing if it is not there.
func lines(home, name string) ([]string, error) {
	path := filepath.Join(home, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := strings.Fields(string(b))
	if len(all) == 0 {
		return nil, fmt.Errorf("%s is damaged: it is empty; remove it, and say --listen again", path)
	}
	for _, s := range all {
		if !transport.IsMultiaddr(s) {
			return nil, fmt.Errorf("%s is damaged: %.40q is no multiaddr; remove it, and say --listen again", path, s)
		}
	}
	return all, nil
}

func loadKey(home string, make bool) (key.RelaySecret, error) {
	path := filepath.Join(home, keyFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(home, storeDir)); err == nil {
			return key.RelaySecret{}, fmt.Errorf("%s is missing, without which nobody knows this relay; put back your copy of it", path)
		}
	}
	seed, err := loadSecret(path, make)
	if err != nil {
		return key.RelaySecret{}, err
	}
	defer clear(seed)
	return key.RelayFromSeed(seed), nil
}

// loadSecret reads 32 bytes in hex, or makes them.
func loadSecret(path string, create bool) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		secret := make([]byte, 32)
		rand.Read(secret)
		return secret, writeFile(path, hex.EncodeToString(secret)+"\n")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", filepath.Dir(path), ErrNoHome)
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (%v); chmod 600 it", path, info.Mode().Perm())
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(secret) != 32 {
		return nil, fmt.Errorf("%s is damaged: want 64 hex digits; put back your copy of it", path)
	}
	return secret, nil
}

// writeFile replaces a file, whole or not at all.
func writeFile(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
