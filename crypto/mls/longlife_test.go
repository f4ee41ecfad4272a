package mls

import (
	"bytes"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
)

// A longLife is a group of 2 to 64 members to which thousands of random things
// happen. Handshakes stand in one log, which everyone reads at its own pace;
// messages come in any order, late, twice or never. Everything follows from the
// seed.
type longLife struct {
	t     *testing.T
	seed  uint64
	rand  *mrand.Rand
	suite Suite
	step  int
	did   map[string]int

	log     []logged
	epochs  map[uint64]*lifeEpoch
	tip     *lifeEpoch
	members []*lifeMember          // of the newest epoch
	gone    []*lifeMember          // removed, with the state they had
	invited map[string]*lifeMember // whose key packages are out
	posted  []post
	born    int
	target  int // how many members there should be
}

// maxLife is how many members there may be.
const maxLife = 64

// A lifeEpoch is what must be the same for all who are in it.
type lifeEpoch struct {
	number        uint64
	authenticator []byte
	members       []*lifeMember
}

// A logged handshake is a proposal, or a commit that was the first of its epoch.
type logged struct {
	by    *lifeMember
	epoch uint64
	msg   []byte
}

// A lifeMember is a device in the group, or on its way into it.
type lifeMember struct {
	name   string
	config Config
	group  *Group
	disk   map[string][]byte
	read   int    // how much of the log
	staged []byte // its own commit in the log

	bundle  []byte // while it waits for a welcome
	welcome []byte
	since   uint64

	heard map[heardFrom]uint32 // newest generation, plus one
}

type heardFrom struct {
	sender *lifeMember
	epoch  uint64
}

// A post is a message on its way to one member.
type post struct {
	to, from   *lifeMember
	epoch      uint64
	generation uint32
	text       string
	msg        []byte
}

func (l *longLife) fatalf(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("seed %d, step %d: %s", l.seed, l.step, fmt.Sprintf(format, args...))
}

func (l *longLife) check(m *lifeMember, err error) {
	l.t.Helper()
	if err != nil {
		l.fatalf("%s: %v", m.name, err)
	}
}

func (l *longLife) chance(n int) bool { return l.rand.IntN(n) == 0 }

func (l *longLife) pick(of []*lifeMember) *lifeMember { return of[l.rand.IntN(len(of))] }

func (l *longLife) newMember() *lifeMember {
	l.born++
	return &lifeMember{
		name:   fmt.Sprint("device ", l.born),
		config: Config{Signer: newSigner(l.t, l.suite), ValidateCredential: anyCredential},
		disk:   make(map[string][]byte),
		heard:  make(map[heardFrom]uint32),
	}
}

// save stores what changed and, now and then, goes on from what is stored.
func (l *longLife) save(m *lifeMember, next *Group) {
	l.t.Helper()
	for _, r := range next.Changes() {
		if r.Value == nil {
			delete(m.disk, string(r.Name))
		} else {
			m.disk[string(r.Name)] = r.Value
		}
	}
	if m.group != nil && m.group != next {
		m.group.Retire(next)
	}
	m.group = next
	if l.chance(8) {
		l.restore(m)
	}
}

func (l *longLife) restore(m *lifeMember) {
	l.t.Helper()
	var records []Record
	for name, value := range m.disk {
		records = append(records, Record{[]byte(name), bytes.Clone(value)})
	}
	g, err := LoadGroup(m.config, records)
	l.check(m, err)
	m.group = g
}

// arrived checks that m is where everyone in its epoch is.
func (l *longLife) arrived(m *lifeMember) {
	l.t.Helper()
	if want := l.epochs[m.group.Epoch()].authenticator; !bytes.Equal(m.group.EpochAuthenticator(), want) {
		l.fatalf("%s has another epoch %d than the others", m.name, m.group.Epoch())
	}
}

// catchUp makes m read at most n entries of the log.
func (l *longLife) catchUp(m *lifeMember, n int) {
	l.t.Helper()
	if m.group == nil {
		b, err := ParseKeyPackageBundle(m.bundle)
		l.check(m, err)
		g, _, err := Join(m.config, m.welcome, b, &JoinOptions{PSK: lifePSK})
		l.check(m, err)
		l.save(m, g)
		l.arrived(m)
	}
	for ; n > 0 && m.read < len(l.log); n-- {
		entry := l.log[m.read]
		m.read++
		if entry.epoch != m.group.Epoch() {
			l.fatalf("%s is in epoch %d before entry %d, of epoch %d", m.name, m.group.Epoch(), m.read, entry.epoch)
		}
		if entry.by == m {
			if m.staged != nil {
				staged, err := ParseStaged(m.config, m.staged)
				l.check(m, err)
				m.staged = nil
				l.merge(m, staged)
			}
			continue
		}
		next := m.group.Clone()
		got, err := next.Process(entry.msg, &ProcessOptions{PSK: lifePSK})
		l.check(m, err)
		if got.Staged == nil {
			l.save(m, next)
			continue
		}
		if got.Staged.RemovesSelf() {
			l.fatalf("%s is removed unnoticed", m.name)
		}
		l.merge(m, got.Staged)
	}
}

func (l *longLife) merge(m *lifeMember, s *Staged) {
	l.t.Helper()
	next, err := s.Merge(m.group)
	l.check(m, err)
	m.config.Signer = s.signer
	l.save(m, next)
	l.arrived(m)
}

// present is catchUp to the end, for who is about to make a handshake.
func (l *longLife) present(m *lifeMember) *lifeMember {
	l.t.Helper()
	l.catchUp(m, len(l.log))
	return m
}

func lifePSK(id PreSharedKeyID) ([]byte, error) {
	if id.Type != PSKExternal {
		return nil, ErrMissingPSK
	}
	return append([]byte("secret of "), id.ID...), nil
}

// accept puts a commit, the first of its epoch, into the log.
func (l *longLife) accept(by *lifeMember, s *Staged, members []*lifeMember) {
	l.t.Helper()
	l.log = append(l.log, logged{by, l.tip.number, s.Message()})
	l.tip = &lifeEpoch{s.Epoch(), s.EpochAuthenticator(), members}
	l.epochs[l.tip.number] = l.tip
	var left []*lifeMember
	for _, m := range l.members {
		if !slices.Contains(members, m) {
			left = append(left, m)
		}
	}
	l.members = members
	for _, m := range left {
		l.leave(m, s)
	}
}

// leave makes m, which the newest commit removes, see that, and tries all keys that
// m has on the path that leads the others away.
func (l *longLife) leave(m *lifeMember, s *Staged) {
	l.t.Helper()
	last := len(l.log) - 1
	l.catchUp(m, last-m.read)
	got, err := m.group.Clone().Process(s.Message(), &ProcessOptions{PSK: lifePSK})
	l.check(m, err)
	if !got.Staged.RemovesSelf() {
		l.fatalf("%s does not see its removal", m.name)
	}
	if _, err := got.Staged.Merge(m.group); !errors.Is(err, ErrRemoved) {
		l.fatalf("%s goes on: %v", m.name, err)
	}
	l.gone = append(l.gone, m)
	if !s.Public() {
		return
	}
	l.did["a removed member's keys, tried"]++
	path := contentOf(l.t, s.Message()).content.commit.path
	provisional := s.Context()
	provisional.ConfirmedTranscriptHash = m.group.cur.context.ConfirmedTranscriptHash
	context := provisional.encode(nil)
	for _, k := range m.group.cur.keys {
		for _, n := range path.nodes {
			for _, ct := range n.secrets {
				if _, err := l.epochSuite().decryptWithLabel(k.key, "UpdatePathNode", context, ct); err == nil {
					l.fatalf("%s was removed and opens a path secret", m.name)
				}
			}
		}
	}
}

func (l *longLife) epochSuite() *suite {
	s, err := l.suite.lookup()
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// say sends a message, in whatever epoch its sender is. Some of those it is for
// will get it, and some who are gone try.
func (l *longLife) say() {
	m := l.pick(l.members)
	if !l.chance(3) || m.group == nil {
		l.present(m)
	}
	next := m.group.Clone()
	text := fmt.Sprint("message ", l.step)
	msg, err := next.Encrypt([]byte(text), nil)
	if len(m.group.PendingProposals()) > 0 {
		if !errors.Is(err, ErrPendingProposals) {
			l.fatalf("%s speaks with proposals pending: %v", m.name, err)
		}
		return
	}
	l.check(m, err)
	e := l.epochs[m.group.Epoch()]
	own := heardFrom{m, e.number}
	generation := m.heard[own]
	m.heard[own]++
	l.save(m, next)
	for _, i := range l.rand.Perm(len(e.members))[:min(4, len(e.members))] {
		if to := e.members[i]; to != m {
			l.posted = append(l.posted, post{to, m, e.number, generation, text, msg})
		}
	}
	for range min(2, len(l.gone)) {
		g := l.pick(l.gone)
		if g.group.Epoch() >= e.number {
			continue // it was a member then
		}
		if _, err := g.group.Clone().Process(msg, nil); !errors.Is(err, ErrWrongEpoch) {
			l.fatalf("%s was removed and reads on: %v", g.name, err)
		}
	}
}

// hear delivers one message: one of the newer ones or, sometimes, any.
func (l *longLife) hear() {
	if len(l.posted) == 0 {
		return
	}
	i := l.rand.IntN(len(l.posted))
	if !l.chance(10) {
		i = len(l.posted) - 1 - l.rand.IntN(min(len(l.posted), 24))
	}
	p := l.posted[i]
	m := p.to
	last := len(l.posted) - 1
	l.posted[i], l.posted[last] = l.posted[last], post{}
	l.posted = l.posted[:last]
	if !slices.Contains(l.members, m) || l.chance(10) {
		return // its recipient is gone, or it is lost
	}
	if m.group == nil {
		l.catchUp(m, 0)
	}
	next := m.group.Clone()
	got, err := next.Process(p.msg, nil)
	now := m.group.Epoch()
	from := heardFrom{p.from, p.epoch}
	switch {
	case p.epoch > now:
		if !errors.Is(err, ErrWrongEpoch) {
			l.fatalf("%s, in epoch %d, reads a message of %d: %v", m.name, now, p.epoch, err)
		}
		l.did["a message, too early"]++
		l.posted = append(l.posted, p)
		if l.chance(2) {
			l.present(m)
		}
		return
	case now-p.epoch > 3:
		if !errors.Is(err, ErrEpochForgotten) {
			l.fatalf("%s, in epoch %d, reads a message of %d: %v", m.name, now, p.epoch, err)
		}
		l.did["a message, too late"]++
		return
	case p.generation+64 < m.heard[from]:
		return // its key may be gone
	}
	if err != nil {
		l.fatalf("%s does not read generation %d of %s in epoch %d, now in %d: %v", m.name, p.generation, p.from.name, p.epoch, now, err)
	}
	if string(got.Content) != p.text || string(got.SenderNode.Credential.Identity) != p.from.name || got.Generation != p.generation {
		l.fatalf("%s reads %q of %q, not %q of %s", m.name, got.Content, got.SenderNode.Credential.Identity, p.text, p.from.name)
	}
	l.did["a message, read"]++
	if p.epoch < now {
		l.did["a message, read late"]++
	}
	m.heard[from] = max(m.heard[from], p.generation+1)
	l.save(m, next)
	if l.chance(4) {
		l.did["a message, twice"]++
		if _, err := m.group.Clone().Process(p.msg, nil); !errors.Is(err, ErrReplayed) {
			l.fatalf("%s reads a message twice: %v", m.name, err)
		}
	}
}

// propose makes a proposal for another to commit.
func (l *longLife) propose() {
	m := l.present(l.pick(l.members))
	var p Proposal = Update{}
	switch l.rand.IntN(4) {
	case 0:
		p = ExternalPSK(fmt.Append(nil, "psk ", l.step))
	case 1:
		if len(l.members)+len(m.group.PendingProposals()) < maxLife {
			p = Add{l.invite().KeyPackage()}
		}
	case 2:
		if v := l.pick(l.members); v != m && len(l.members) > 3 {
			p = Remove{l.leafOf(m, v)}
		}
	}
	next := m.group.Clone()
	msg, err := next.Propose(p, &ProposeOptions{Public: l.chance(2)})
	l.check(m, err)
	l.save(m, next)
	l.log = append(l.log, logged{m, l.tip.number, msg})
	m.read = len(l.log)
}

func (l *longLife) invite() *KeyPackageBundle {
	m := l.newMember()
	b, err := NewKeyPackage(KeyPackageOptions{Suite: l.suite, Signer: m.config.Signer, Credential: BasicCredential([]byte(m.name))})
	l.check(m, err)
	m.bundle = b.Marshal()
	l.invited[m.name] = m
	return b
}

func (l *longLife) leafOf(seenBy, m *lifeMember) LeafIndex {
	for _, member := range seenBy.group.Roster() {
		if string(member.Node.Credential.Identity) == m.name {
			return member.Leaf
		}
	}
	l.fatalf("%s does not see %s", seenBy.name, m.name)
	return 0
}

// change makes a commit of random content. Now and then another member makes one at
// the same time, which comes second.
func (l *longLife) change() {
	m := l.present(l.pick(l.members))
	o := &CommitOptions{PSK: lifePSK, Public: l.chance(2), AuthenticatedData: fmt.Append(nil, l.step)}
	pending := m.group.PendingProposals()
	busy := make(map[LeafIndex]bool) // whom a proposal concerns already
	going, adding := 0, 0
	for _, p := range pending {
		switch p := p.Proposal.(type) {
		case Remove:
			busy[p.Removed] = true
			going++
		case Add:
			adding++
		}
	}
	grow := len(l.members) < l.target
	for range l.rand.IntN(3) {
		switch {
		case grow && len(l.members)+adding < maxLife:
			adding++
			o.Proposals = append(o.Proposals, Add{l.invite().KeyPackage()})
		case l.chance(3):
			o.Proposals = append(o.Proposals, ExternalPSK(fmt.Append(nil, "psk ", l.step)))
		default:
			v := l.pick(l.members)
			leaf := l.leafOf(m, v)
			if v != m && !busy[leaf] && len(l.members)-going > 2 {
				busy[leaf] = true
				going++
				o.Proposals = append(o.Proposals, Remove{leaf})
			}
		}
	}
	pathless := len(o.Proposals)+len(pending) > 0
	for _, p := range pending {
		pathless = pathless && !p.Proposal.Type().needsPath()
	}
	for _, p := range o.Proposals {
		pathless = pathless && !p.Type().needsPath()
	}
	o.NoPath = pathless && l.chance(2)
	if !o.NoPath && l.chance(8) {
		o.Leaf = &LeafChange{Signer: newSigner(l.t, l.suite)}
	}
	if l.chance(5) { // the loser's
		loser := l.present(l.pick(l.members))
		if loser != m {
			next := loser.group.Clone()
			_, err := next.Commit(&CommitOptions{PSK: lifePSK})
			l.check(loser, err)
			l.save(loser, next)
			l.did["a commit that came second"]++
		}
	}
	next := m.group.Clone()
	staged, err := next.Commit(o)
	l.check(m, err)
	l.save(m, next)
	m.staged = staged.Marshal()
	if o.Leaf != nil {
		m.config.Signer = o.Leaf.Signer // of what was staged; the old group needs none before it is merged
	}
	l.accept(m, staged, l.roster(staged))
	l.catchUp(m, 1)
}

// roster returns the members of the epoch a commit leads to, and welcomes those that
// are new.
func (l *longLife) roster(s *Staged) (out []*lifeMember) {
	for _, n := range s.Roster() {
		name := string(n.Node.Credential.Identity)
		i := slices.IndexFunc(l.members, func(m *lifeMember) bool { return m.name == name })
		if i >= 0 {
			out = append(out, l.members[i])
			continue
		}
		m := l.invited[name]
		m.welcome, m.since, m.read = s.Welcome(), s.Epoch(), len(l.log)+1
		out = append(out, m)
	}
	return out
}

// joinAlone lets a device join by an external commit: a new one, or one that has
// lost its state.
func (l *longLife) joinAlone() {
	host := l.present(l.pick(l.members))
	if len(host.group.PendingProposals()) > 0 && l.chance(2) {
		return
	}
	m := l.newMember()
	info, err := host.group.GroupInfo(true)
	l.check(host, err)
	o := ExternalJoinOptions{PSK: lifePSK}
	members := slices.Clone(l.members)
	if old := l.pick(l.members); old != host && l.chance(2) {
		leaf := l.leafOf(host, old)
		o.Replaces = &leaf
		m.name, m.config = old.name, old.config
		members = slices.DeleteFunc(members, func(o *lifeMember) bool { return o == old })
		l.did["a state lost, and back"]++
	}
	if l.chance(2) {
		o.PreSharedKeys = []PreSharedKey{ExternalPSK(fmt.Append(nil, "psk ", l.step))}
	}
	o.Credential = BasicCredential([]byte(m.name))
	staged, err := JoinExternal(m.config, info, o)
	l.check(m, err)
	m.since = staged.Epoch()
	l.accept(m, staged, append(members, m))
	g, err := staged.Merge(nil)
	l.check(m, err)
	m.read = len(l.log)
	l.save(m, g)
	l.arrived(m)
}

func (l *longLife) run(steps int) {
	first := l.newMember()
	g, err := NewGroup(first.config, GroupOptions{Suite: l.suite, Credential: BasicCredential([]byte(first.name))})
	l.check(first, err)
	l.tip = &lifeEpoch{0, g.EpochAuthenticator(), []*lifeMember{first}}
	l.epochs[0] = l.tip
	l.members = l.tip.members
	l.save(first, g)
	largest := 0
	for l.step = range steps {
		if l.step%1000 == 0 {
			l.target = []int{8, 64, 12, 3, 32}[l.step/1000%5]
		}
		kind := "message"
		switch n := l.rand.IntN(100); {
		case n < 30:
			l.say()
		case n < 70:
			l.hear()
			kind = "delivery"
		case n < 80:
			kind = "catching up"
			l.catchUp(l.pick(l.members), 1+l.rand.IntN(4))
		case n < 84:
			kind = "restart"
			if m := l.pick(l.members); m.group != nil {
				l.restore(m)
			}
		case n < 88:
			kind = "proposal"
			l.propose()
		case n < 98 || len(l.members) < 2 || len(l.members) >= maxLife:
			kind = "commit"
			l.change()
		default:
			kind = "external commit"
			l.joinAlone()
		}
		l.did[kind]++
		largest = max(largest, len(l.members))
	}
	for _, m := range l.members {
		l.present(m)
		if !bytes.Equal(m.group.EpochAuthenticator(), l.tip.authenticator) {
			l.fatalf("%s is not where the others are", m.name)
		}
	}
	l.t.Logf("seed %d: %d steps, %d epochs, up to %d members, %d removed; %v", l.seed, steps, l.tip.number, largest, len(l.gone), l.did)
	if steps >= 1000 && (len(l.gone) == 0 || largest < 8 || largest > maxLife || l.did["a message, read"] < steps/10) {
		l.t.Errorf("not much of a life")
	}
}

// raceDetector tells whether the test was built with it; then it takes ten times as
// long.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

// lifeSetting reads a number from the environment.
func lifeSetting(t *testing.T, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		t.Fatalf("%s is %q, not a number", name, v)
	}
	return n
}

// Whatever ten thousand random things happen to a group, all members of an epoch
// agree, read what they should, once, and who was removed reads nothing more.
//
// SOTTO_MLS_LIFE is how many things, by default 10,000, or 1,000 with the race
// detector or -short, and a tenth of them in a group of X-Wing; SOTTO_MLS_LIFE_SEED
// which.
func TestLongLife(t *testing.T) {
	steps := 10000
	if raceDetector() || testing.Short() {
		steps = 1000
	}
	steps = lifeSetting(t, "SOTTO_MLS_LIFE", steps)
	seed := uint64(lifeSetting(t, "SOTTO_MLS_LIFE_SEED", 1))
	for _, tt := range []struct {
		suite Suite
		steps int
	}{{X25519AES128, steps}, {XWing, steps / 10}} {
		t.Run(tt.suite.String(), func(t *testing.T) {
			t.Parallel()
			l := &longLife{
				t: t, seed: seed, rand: mrand.New(mrand.NewPCG(seed, 0x11fe)), suite: tt.suite,
				did: make(map[string]int), epochs: make(map[uint64]*lifeEpoch), invited: make(map[string]*lifeMember),
			}
			l.run(tt.steps)
		})
	}
}
