// Package sim plays a world of many devices through bad days, in one process and in an
// order that a seed decides, and then looks whether everybody has the same.
//
//	r, err := sim.Run(ctx, sim.Options{Devices: 200, Seed: 7})
//	fmt.Printf("%x\n", r.Digest) // the same for the same options, every time
//
// # What is real
//
// Nodes, with all they consist of: vaults on disk, MLS in the product's suite, envelopes,
// the pure core and the code that carries out what it wants, invites, letters and groups;
// the client of a relay and the relay's server, with every signature and chain between
// them. A [node.Stepper] takes the place of the goroutines of [node.Node.Run]: what is done is the
// node's own, when is the seed's choice. One thing happens at a time; who is at work waits
// for the relay's answer.
//
// # What is simulated
//
// Time: clocks are set, not read, and each device's goes wrong by up to twenty minutes.
// The passphrase is not stretched, which would take most of the time. The network: pipes,
// which are cut as the seed wants. The relay's disk: its store is in
// memory, outlives its crashes, and has the faults of the way to it. At its
// door deposits are lost, stored without an answer, stored twice, or held back and stored
// behind later ones; reading fails. Writes of devices' vaults fail, before and after
// they have happened, whereupon a node reads everything back. Devices are stopped and
// started.
//
// People meet, and groups are made, before the faults begin. Relays here are honest: what
// those do that are not is tested in package nodetest.
package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"sotto/node"
	"sotto/storage/vault"
)

// Options say what to play.
type Options struct {
	Devices int    // 2 to 200
	Seed    uint64 // decides everything
	Steps   int    // of the bad days; 0 means 60 for each device

	// Say, if not nil, is told what is going on.
	Say func(words string)
}

// MaxDevices is how many devices a world may have.
const MaxDevices = 200

// Result is what a world came to.
type Result struct {
	Devices       int           `json:"devices"`
	Seed          uint64        `json:"seed"`
	Conversations int           `json:"conversations"`
	Messages      int           `json:"messages"` // in all conversations, each once
	Commits       int           `json:"commits"`  // stored by relays
	Faults        Faults        `json:"faults"`
	Virtual       time.Duration `json:"virtual_ns"` // that passed in the world
	Digest        string        `json:"digest"`     // of all that happened, and of what everybody has in the end
}

// Faults counts what went wrong.
type Faults struct {
	Lost       int `json:"lost"`       // deposits that did not arrive
	Unanswered int `json:"unanswered"` // that were stored without an answer
	Doubled    int `json:"doubled"`
	Late       int `json:"late"` // that arrived behind later ones, or never
	Unread     int `json:"unread"`
	Writes     int `json:"writes"` // of vaults that failed
	Partitions int `json:"partitions"`
	Crashes    int `json:"crashes"`  // of relays
	Restarts   int `json:"restarts"` // of devices
}

// ErrDiverged is wrapped by what Run returns when devices do not have the same in the end,
// or when something is lost or doubled.
var ErrDiverged = errors.New("the world does not heal")

// world is what a run consists of.
type world struct {
	ctx      context.Context
	o        Options
	rng      *rand.Rand
	now      time.Time
	clock    atomic.Int64 // now, in nanoseconds, for those who ask from goroutines of their own
	began    time.Time
	storming bool // faults happen
	devices  []*device
	relays   []*relay
	groups   []*group
	faults   Faults
	trace    hash.Hash
	said     int // texts so far
}

// group is a conversation of many, as those know it who made it.
type group struct {
	name    string
	maker   *device
	admin   *device
	members []*device // from the beginning; the maker is the first
	reserve *device   // to be added some day; nil if it was
	added   *device
	removed *device
}

// Run plays a world to its end. It returns an error that wraps ErrDiverged if the devices
// then differ, and any other if the world could not be played.
func Run(ctx context.Context, o Options) (_ Result, err error) {
	if o.Devices < 2 || o.Devices > MaxDevices {
		return Result{}, fmt.Errorf("a world of %d devices: between 2 and %d", o.Devices, MaxDevices)
	}
	if o.Steps == 0 {
		o.Steps = 60 * o.Devices
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	dir, err := folder()
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	w := &world{ctx: ctx, o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x5077)), trace: sha256.New()}
	w.began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	w.now = w.began
	w.pass(0)
	defer func() {
		for _, d := range w.devices {
			err = errors.Join(err, d.stop())
		}
		for _, r := range w.relays {
			r.stop()
		}
	}()
	for _, act := range []func() error{func() error { return w.settle(dir) }, w.befriend, w.storm, w.heal} {
		if err := act(); err != nil {
			return Result{}, err
		}
	}
	r := Result{Devices: o.Devices, Seed: o.Seed, Faults: w.faults, Virtual: w.now.Sub(w.began)}
	if err := w.judge(&r); err != nil {
		return Result{}, err
	}
	for _, at := range w.relays {
		r.Commits += at.commits
	}
	r.Digest = fmt.Sprintf("%x", w.trace.Sum(nil))
	return r, nil
}

// folder makes an empty folder, in memory where that can be had.
func folder() (string, error) {
	dir, err := os.MkdirTemp("/dev/shm", "sotto-sim-*")
	if err != nil {
		return os.MkdirTemp("", "sotto-sim-*")
	}
	return dir, nil
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.clock.Store(w.now.UnixNano())
}

// time is what right clocks show.
func (w *world) time() time.Time { return time.Unix(0, w.clock.Load()).UTC() }

// note adds a line to what the digest is of.
func (w *world) note(format string, args ...any) { fmt.Fprintf(w.trace, format+"\n", args...) }

// chance is true once in so many times.
func (w *world) chance(in int) bool { return w.rng.IntN(in) == 0 }

func pick[T any](w *world, of []T) T { return of[w.rng.IntN(len(of))] }

// devicesAtRelay is how many have their home at one relay.
const devicesAtRelay = 40

// settle makes relays and devices.
func (w *world) settle(dir string) error {
	w.o.Say(fmt.Sprintf("making %d devices", w.o.Devices))
	for range (w.o.Devices + devicesAtRelay - 1) / devicesAtRelay {
		w.relays = append(w.relays, w.newRelay())
	}
	for i := range w.o.Devices {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		d := &device{w: w, name: fmt.Sprintf("D%d", i), home: filepath.Join(dir, fmt.Sprint(i)), cut: map[*relay]time.Time{}}
		d.skew = time.Duration(w.rng.Int64N(int64(2*maxSkew))) - maxSkew
		d.rng = rand.New(rand.NewPCG(w.o.Seed, uint64(i)))
		home := w.relays[i%len(w.relays)]
		_, err := node.Init(w.ctx, d.home, node.InitOptions{Name: d.name, Passphrase: passphrase, Params: vault.FloorParams, Stretch: stretch, Relay: home.address.String()})
		if err != nil {
			return err
		}
		if err := d.start(); err != nil {
			return err
		}
		w.devices = append(w.devices, d)
	}
	return nil
}

// befriend makes contacts and groups: every device is in a group, if there are enough.
func (w *world) befriend() error {
	order := w.rng.Perm(len(w.devices))
	for len(order) > 0 {
		n := min(2+w.rng.IntN(6), len(order))
		if len(order)-n == 1 {
			n = len(order)
		}
		var circle []*device
		for _, i := range order[:n] {
			circle = append(circle, w.devices[i])
		}
		order = order[n:]
		for _, b := range circle[1:] {
			if err := w.meet(circle[0], b); err != nil {
				return err
			}
		}
		if n == 2 {
			continue // they have a conversation now
		}
		if err := w.assemble(circle); err != nil {
			return err
		}
	}
	w.o.Say(fmt.Sprintf("%d groups have been made", len(w.groups)))
	return nil
}

// tries bounds how often what must come about is waited for.
const tries = 500

// until works with some devices until ok.
func (w *world) until(what string, ok func() bool, with ...*device) error {
	for range tries {
		for _, d := range with {
			if err := d.work(); err != nil {
				return err
			}
		}
		if ok() {
			return nil
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		w.pass(time.Second)
	}
	return fmt.Errorf("%s: has not come about", what)
}

// meet makes contacts of two.
func (w *world) meet(a, b *device) error {
	// Nobody waits for the relay: it is asked when the turn comes.
	gone, stop := context.WithCancel(w.ctx)
	stop()
	inv, err := a.Invite(gone, node.InviteOptions{Name: b.name})
	if err != nil {
		return err
	}
	if err := a.work(); err != nil {
		return err
	}
	if _, err := b.Accept(w.ctx, inv.Link, a.name); err != nil {
		return err
	}
	known := func(d *device, name string) bool {
		c, err := d.Contact(w.ctx, name)
		return err == nil && c.State == node.ContactEstablished
	}
	w.note("meet %s %s", a.name, b.name)
	a.known, b.known = append(a.known, b), append(b.known, a)
	return w.until(fmt.Sprintf("%s and %s are contacts", a.name, b.name), func() bool { return known(a, b.name) && known(b, a.name) }, a, b)
}

// assemble makes a group of the first one's contacts. In larger ones the last is added later.
func (w *world) assemble(circle []*device) error {
	g := &group{name: fmt.Sprintf("G%d", len(w.groups)), maker: circle[0], admin: circle[1], members: circle}
	if len(circle) > 3 {
		g.reserve, g.members = circle[len(circle)-1], circle[:len(circle)-1]
	}
	var names []string
	for _, d := range g.members[1:] {
		names = append(names, d.name)
	}
	w.note("group %s %v", g.name, names)
	var failed error
	made := func() bool {
		_, failed = g.maker.CreateGroup(w.ctx, node.GroupOptions{Name: g.name, Members: names})
		return failed == nil
	}
	if err := w.until("a group can be made", made, circle...); err != nil {
		return errors.Join(err, failed)
	}
	there := func() bool {
		for _, d := range g.members {
			is, err := d.Group(w.ctx, g.name)
			if err != nil || len(is.Members) != len(g.members) {
				return false
			}
		}
		return true
	}
	if err := w.until("everybody is in "+g.name, there, g.members...); err != nil {
		return err
	}
	if _, err := g.maker.ChangeGroup(w.ctx, g.name, node.GroupChange{Roles: []node.RoleOf{{Member: g.admin.name, Role: "admin"}}}); err != nil {
		return err
	}
	w.groups = append(w.groups, g)
	return nil
}

// storm lets people write and change groups while everything around them fails.
func (w *world) storm() error {
	w.storming = true
	defer func() { w.storming = false }()
	for i := range w.o.Steps {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if i%(max(w.o.Steps/10, 1)) == 0 {
			w.o.Say(fmt.Sprintf("step %d of %d, %d texts written", i, w.o.Steps, w.said))
		}
		w.pass(time.Duration(w.rng.Int64N(int64(400 * time.Millisecond))))
		w.repair()
		d := pick(w, w.devices)
		var err error
		switch n := w.rng.IntN(100); {
		case n < 1:
			w.trouble(d)
		case n < 2:
			err = d.restart()
		case n < 20:
			err = w.speak(d)
		case n < 23 && len(w.groups) > 0:
			err = w.govern(pick(w, w.groups))
		default:
			err = d.turn()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// trouble begins a partition or the crash of a relay.
func (w *world) trouble(d *device) {
	r := pick(w, w.relays)
	until := w.now.Add(time.Duration(w.rng.Int64N(int64(20 * time.Second))))
	if w.chance(4) && r.server != nil {
		r.stop()
		r.down = until
		w.faults.Crashes++
		w.note("crash")
		return
	}
	d.cut[r] = until
	r.hangUp(d)
	w.faults.Partitions++
	w.note("cut %s", d.name)
}

// repair ends what has lasted long enough.
func (w *world) repair() {
	for _, r := range w.relays {
		if r.server == nil && !w.now.Before(r.down) {
			r.start()
		}
	}
}

// speak lets somebody write.
func (w *world) speak(d *device) error {
	refs, err := d.steps.Conversations()
	if err != nil || len(refs) == 0 {
		return d.tolerate(err)
	}
	ref := pick(w, refs)
	text := fmt.Sprintf("%s %d", d.name, w.said)
	w.said++
	_, err = d.Send(w.ctx, ref, text)
	w.note("%s says %q in %s: %v", d.name, text, ref, err == nil)
	switch {
	case err == nil:
		d.sent = append(d.sent, said{ref, text})
	case errors.Is(err, node.ErrFrozen), errors.Is(err, node.ErrNotAllowed), errors.Is(err, node.ErrNotFound):
		return nil // not a member any more
	}
	return d.tolerate(err)
}

// govern changes a group.
func (w *world) govern(g *group) error {
	who, change := pick(w, []*device{g.maker, g.admin}), node.GroupChange{}
	switch n := w.rng.IntN(10); {
	case n == 0 && g.reserve != nil:
		who, change.Add = g.maker, []string{g.reserve.name}
	case n == 1 && g.removed == nil && len(g.members) > 3:
		g.removed = g.members[2+w.rng.IntN(len(g.members)-2)]
		who, change.Remove = g.maker, []string{g.removed.name}
	default:
		about := fmt.Sprint(w.said)
		change.Description = &about
	}
	_, err := who.ChangeGroup(w.ctx, g.name, change)
	w.note("%s changes %s: %v", who.name, g.name, err == nil)
	if len(change.Add) > 0 && (err == nil || errors.Is(err, node.ErrUncertain)) {
		g.added, g.reserve = g.reserve, nil
	}
	return who.tolerate(err)
}

// healed is how many quiet rounds in a row show that nothing more comes.
const healed = 5

// heal ends all faults and works until nothing happens any more.
func (w *world) heal() error {
	w.o.Say("healing")
	for _, r := range w.relays {
		r.deliverAll()
		if r.server == nil {
			r.start()
		}
	}
	for _, d := range w.devices {
		clear(d.cut)
	}
	before, quiet := "", 0
	for range tries {
		now, queued := "", 0
		for _, d := range w.devices {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			if err := d.work(); err != nil {
				return err
			}
			s, err := d.Status(w.ctx)
			if err != nil {
				return err
			}
			queued += s.Queued
			last, err := d.LastEvent(w.ctx)
			if err != nil {
				return err
			}
			now += fmt.Sprint(last, " ")
		}
		w.pass(time.Second)
		if quiet++; now != before || queued > 0 {
			quiet = 0
		}
		if before = now; quiet == healed {
			return nil
		}
	}
	return fmt.Errorf("%w: after %d rounds without faults something is still on its way", ErrDiverged, tries)
}

// judge compares what everybody has.
func (w *world) judge(r *Result) error {
	var wrong []error
	complain := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%w: %s", ErrDiverged, fmt.Sprintf(format, args...)))
	}
	has := map[*device]map[string][]string{} // texts that are placed, by the name of the conversation
	stored := map[string]bool{}              // texts that their senders were told are stored
	for _, d := range w.devices {
		has[d] = map[string][]string{}
		all, err := d.Node.Conversations(w.ctx)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.State == "frozen" || c.Missing > 0 || c.Unreadable > 0 {
				complain("%s: %s is %s (%s), %d missing, %d unreadable", d.name, c.Name, c.State, c.Reason, c.Missing, c.Unreadable)
			}
			ms, err := d.Messages(w.ctx, c.ID, "", "", 0)
			if err != nil {
				return err
			}
			for _, m := range ms {
				switch {
				case m.Kind != "text":
				case m.State == node.MessageStored, m.State == node.MessageDelivered, m.State == node.MessageRead, m.State == node.MessageReceived:
					has[d][c.Name] = append(has[d][c.Name], m.Text)
					stored[m.Text] = true
				case m.State == node.MessageFailed && c.State == node.StateLeft:
					stored[m.Text] = true // it says so
				default:
					complain("%s: %q in %s is %s", d.name, m.Text, c.Name, m.State)
				}
			}
		}
		for _, s := range d.sent {
			if !stored[s.text] {
				complain("%s: %q in %s was taken and is lost", d.name, s.text, s.ref)
			}
		}
	}
	compare := func(name string, reference []string, of *device, got []string, whole bool) {
		switch {
		case whole && !slices.Equal(got, reference):
			complain("%s: %s has %q, others %q", name, of.name, got, reference)
		case !contains(reference, got):
			complain("%s: %s has %q, which is no part of %q", name, of.name, got, reference)
		}
	}
	tell := func(name string, texts []string) {
		once := map[string]bool{}
		for _, t := range texts {
			if once[t] {
				complain("%s: %q is there twice", name, t)
			}
			once[t] = true
		}
		w.note("%s: %q", name, texts)
		r.Conversations++
		r.Messages += len(texts)
	}
	for _, g := range w.groups {
		reference := has[g.maker][g.name]
		tell(g.name, reference)
		for _, d := range append(slices.Clone(g.members), g.added) {
			if d != nil {
				compare(g.name, reference, d, has[d][g.name], d != g.removed && d != g.added)
			}
		}
	}
	for _, a := range w.devices {
		for _, b := range a.known {
			if a.home < b.home {
				tell(a.name+" and "+b.name, has[a][b.name])
				compare(a.name+" and "+b.name, has[a][b.name], b, has[b][a.name], true)
			}
		}
	}
	if len(wrong) > 10 {
		wrong = append(wrong[:10], fmt.Errorf("and %d more", len(wrong)-10))
	}
	return errors.Join(wrong...)
}

// contains reports whether part is a run of whole.
func contains(whole, part []string) bool {
	for i := 0; i+len(part) <= len(whole); i++ {
		if slices.Equal(whole[i:i+len(part)], part) {
			return true
		}
	}
	return false
}
