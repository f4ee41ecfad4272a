package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"sotto/crypto/codec"
	"sotto/crypto/mls"
	pb "sotto/crypto/mls/interop/mlsclient"
)

// A member is one device's side of a group. Whatever happens to the group is
// written as records and read back, as an application does it: so a run of the
// runner proves the stored form too.
type member struct {
	config  mls.Config
	public  bool // handshakes are PublicMessages
	group   *mls.Group
	disk    map[string][]byte
	pending []byte            // a commit of one's own, stored
	refs    map[string][]byte // of this epoch's proposals, by their messages
	psks    map[string][]byte // external keys, by name
	old     *member           // the group that this one continues, or nil
}

// A joiner has handed out a key package and waits for a welcome.
type joiner struct {
	config mls.Config
	bundle []byte // stored
	psks   map[string][]byte
	old    *member // the group that the welcome will continue, or nil
}

func newConfig(id mls.Suite) (mls.Config, error) {
	signer, err := newSigner(id)
	return mls.Config{
		Signer:             signer,
		ValidateCredential: func(leaf, old *mls.LeafNode) error { return nil },
		PastEpochs:         16,
	}, err
}

func newSigner(id mls.Suite) (crypto.Signer, error) {
	var curve elliptic.Curve
	switch id {
	case mls.P256AES128:
		curve = elliptic.P256()
	case mls.P384AES256:
		curve = elliptic.P384()
	case mls.P521AES256:
		curve = elliptic.P521()
	default:
		if !id.Supported() {
			return nil, fmt.Errorf("%w: suite %v", mls.ErrUnsupported, id)
		}
		_, key, err := ed25519.GenerateKey(nil)
		return key, err
	}
	return ecdsa.GenerateKey(curve, rand.Reader)
}

// now is the time, in seconds since 1970, and lifetime that of a key package made now.
func now() uint64 { return uint64(time.Now().Unix()) }

func lifetime() mls.Lifetime {
	return mls.Lifetime{NotBefore: now() - 3600, NotAfter: now() + 84*24*3600}
}

func newMember(c mls.Config, public bool, g *mls.Group) (*member, error) {
	m := &member{config: c, public: public, disk: make(map[string][]byte), psks: make(map[string][]byte)}
	return m, m.save(g)
}

// save makes next the member's group.
func (m *member) save(next *mls.Group) error {
	for _, r := range next.Changes() {
		if r.Value == nil {
			delete(m.disk, string(r.Name))
		} else {
			m.disk[string(r.Name)] = r.Value
		}
	}
	if m.group == nil || m.group.Epoch() != next.Epoch() {
		m.refs = make(map[string][]byte)
	}
	var records []mls.Record
	for name, value := range m.disk {
		records = append(records, mls.Record{Name: []byte(name), Value: bytes.Clone(value)})
	}
	g, err := mls.LoadGroup(m.config, records)
	if err != nil {
		return err
	}
	m.group = g
	return nil
}

// psk is the member's [mls.PSKs].
func (m *member) psk(id mls.PreSharedKeyID) ([]byte, error) {
	if id.Type == mls.PSKExternal {
		return lookup(m.psks)(id)
	}
	if m.old != nil && bytes.Equal(id.GroupID, m.old.group.GroupID()) && id.Epoch == m.old.group.Epoch() {
		return m.old.group.ResumptionPSK(), nil
	}
	return nil, mls.ErrMissingPSK
}

func lookup(known map[string][]byte) mls.PSKs {
	return func(id mls.PreSharedKeyID) ([]byte, error) {
		if secret, ok := known[string(id.ID)]; ok && id.Type == mls.PSKExternal {
			return secret, nil
		}
		return nil, mls.ErrMissingPSK
	}
}

// leafOf returns the place of the member with an identity.
func leafOf(roster []mls.Member, identity []byte) (mls.LeafIndex, error) {
	for _, m := range roster {
		if bytes.Equal(m.Node.Credential.Identity, identity) {
			return m.Leaf, nil
		}
	}
	return 0, fmt.Errorf("%q: %w", identity, mls.ErrNotMember)
}

// propose makes a proposal, and remembers how commits refer to it.
func (m *member) propose(p mls.Proposal) (*pb.ProposalResponse, error) {
	next := m.group.Clone()
	msg, err := next.Propose(p, &mls.ProposeOptions{Public: m.public})
	if err != nil {
		return nil, err
	}
	if err := m.save(next); err != nil {
		return nil, err
	}
	all := m.group.PendingProposals()
	m.refs[string(msg)] = all[len(all)-1].Ref
	return &pb.ProposalResponse{Proposal: msg}, nil
}

// learn reads the proposals that a commit refers to, as far as they are new, and
// forgets all others.
func (m *member) learn(g *mls.Group, msgs [][]byte) error {
	var keep [][]byte
	for _, msg := range msgs {
		ref := m.refs[string(msg)]
		if ref == nil {
			got, err := g.Process(msg, nil)
			if err != nil {
				return err
			}
			ref = got.Ref
			m.refs[string(msg)] = ref
		}
		keep = append(keep, ref)
	}
	for _, p := range g.PendingProposals() {
		if !slices.ContainsFunc(keep, func(ref []byte) bool { return bytes.Equal(ref, p.Ref) }) {
			g.DropProposal(p.Ref)
		}
	}
	return nil
}

// commit makes a commit of the proposals in msgs and values, which waits for
// merge.
func (m *member) commit(msgs [][]byte, values []mls.Proposal, forcePath, treeOutside bool) (*pb.CommitResponse, error) {
	next := m.group.Clone()
	if err := m.learn(next, msgs); err != nil {
		return nil, err
	}
	all := slices.Clone(values)
	for _, p := range next.PendingProposals() {
		all = append(all, p.Proposal)
	}
	staged, err := next.Commit(&mls.CommitOptions{
		Proposals:   values,
		NoPath:      !forcePath && pathless(all),
		Public:      m.public,
		PSK:         m.psk,
		TreeOutside: treeOutside,
		Now:         now(),
	})
	if err != nil {
		return nil, err
	}
	if got := len(staged.Proposals()); got != len(all) {
		return nil, fmt.Errorf("%w: only %d of %d proposals can be committed together", mls.ErrInvalid, got, len(all))
	}
	if err := m.save(next); err != nil {
		return nil, err
	}
	m.pending = staged.Marshal()
	out := &pb.CommitResponse{Commit: staged.Message(), Welcome: staged.Welcome()}
	if treeOutside {
		out.RatchetTree = staged.RatchetTree()
	}
	return out, nil
}

// pathless reports whether a commit of ps may do without a path (RFC 9420,
// Section 12.4).
func pathless(ps []mls.Proposal) bool {
	for _, p := range ps {
		switch p.(type) {
		case mls.Add, mls.PreSharedKey, mls.ReInit:
		default:
			return false
		}
	}
	return len(ps) > 0
}

// merge goes to the epoch of the member's own commit.
func (m *member) merge() error {
	if m.pending == nil {
		return errors.New("no commit is pending")
	}
	staged, err := mls.ParseStaged(m.config, m.pending)
	if err != nil {
		return err
	}
	m.pending = nil
	return m.follow(staged)
}

func (m *member) follow(staged *mls.Staged) error {
	next, err := staged.Merge(m.group)
	if err != nil {
		return err
	}
	return m.save(next)
}

// handle reads another's commit with the proposals it refers to, and merges it.
func (m *member) handle(msgs [][]byte, commit []byte) error {
	next := m.group.Clone()
	if err := m.learn(next, msgs); err != nil {
		return err
	}
	got, err := next.Process(commit, &mls.ProcessOptions{PSK: m.psk})
	if err != nil {
		return err
	}
	if got.Staged == nil {
		return fmt.Errorf("%w: not a commit", mls.ErrInvalid)
	}
	staged, err := mls.ParseStaged(m.config, got.Staged.Marshal())
	if err != nil {
		return err
	}
	if err := m.save(next); err != nil {
		return err
	}
	m.pending = nil
	return m.follow(staged)
}

// proposal makes what d describes, in a group with these members.
func proposal(d *pb.ProposalDescription, roster []mls.Member, groupID []byte) (mls.Proposal, error) {
	switch kind := string(d.ProposalType); kind {
	case "add":
		k, err := parseKeyPackage(d.KeyPackage)
		return mls.Add{KeyPackage: k}, err
	case "remove":
		l, err := leafOf(roster, d.RemovedId)
		return mls.Remove{Removed: l}, err
	case "externalPSK":
		return mls.ExternalPSK(d.PskId), nil
	case "resumptionPSK":
		return resumption(mls.ResumptionApplication, groupID, d.EpochId), nil
	case "groupContextExtensions":
		return mls.GroupContextExtensions{Extensions: extensions(d.Extensions)}, nil
	case "reinit":
		return reInit(d.GroupId, d.CipherSuite, d.Extensions), nil
	default:
		return nil, fmt.Errorf("%w: proposal of type %q", mls.ErrUnsupported, kind)
	}
}

func resumption(usage mls.ResumptionUsage, groupID []byte, epoch uint64) mls.Proposal {
	return mls.PreSharedKey{ID: mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: usage, GroupID: groupID, Epoch: epoch}}
}

func reInit(groupID []byte, id uint32, x []*pb.Extension) mls.Proposal {
	return mls.ReInit{GroupID: groupID, Version: 1, Suite: mls.Suite(id), Extensions: extensions(x)}
}

func extensions(in []*pb.Extension) (out mls.Extensions) {
	for _, x := range in {
		out = append(out, mls.Extension{Type: mls.ExtensionType(x.ExtensionType), Data: x.ExtensionData})
	}
	return out
}

// newJoiner makes a key package.
func newJoiner(id mls.Suite, identity []byte) (*joiner, *mls.KeyPackageBundle, error) {
	c, err := newConfig(id)
	if err != nil {
		return nil, nil, err
	}
	b, err := mls.NewKeyPackage(mls.KeyPackageOptions{
		Suite: id, Signer: c.Signer, Credential: mls.BasicCredential(identity), Lifetime: lifetime(),
	})
	if err != nil {
		return nil, nil, err
	}
	return &joiner{config: c, bundle: b.Marshal(), psks: make(map[string][]byte)}, b, nil
}

// join makes a member of j.
func (j *joiner) join(welcome, tree []byte, public bool) (*member, error) {
	b, err := mls.ParseKeyPackageBundle(j.bundle)
	if err != nil {
		return nil, err
	}
	o := &mls.JoinOptions{PSK: lookup(j.psks)}
	if len(tree) > 0 {
		o.RatchetTree = tree
	}
	if j.old != nil {
		o.Resumes = j.old.group
	}
	g, _, err := mls.Join(j.config, welcome, b, o)
	if err != nil {
		return nil, err
	}
	m, err := newMember(j.config, public, g)
	if err == nil {
		m.psks = j.psks
	}
	return m, err
}

// subgroup begins a group that continues m's, with those of the key packages.
func (m *member) subgroup(usage mls.ResumptionUsage, o mls.GroupOptions, c mls.Config, packages [][]byte, forcePath, treeOutside bool) (*member, *pb.CreateSubgroupResponse, error) {
	own, _ := m.group.Member(m.group.OwnLeaf())
	o.Credential, o.Lifetime = own.Credential, lifetime()
	g, err := mls.NewGroup(c, o)
	if err != nil {
		return nil, nil, err
	}
	next, err := newMember(c, m.public, g)
	if err != nil {
		return nil, nil, err
	}
	next.old = m
	values := []mls.Proposal{resumption(usage, m.group.GroupID(), m.group.Epoch())}
	for _, msg := range packages {
		k, err := parseKeyPackage(msg)
		if err != nil {
			return nil, nil, err
		}
		values = append(values, mls.Add{KeyPackage: k})
	}
	made, err := next.commit(nil, values, forcePath, treeOutside)
	if err != nil {
		return nil, nil, err
	}
	if err := next.merge(); err != nil {
		return nil, nil, err
	}
	return next, &pb.CreateSubgroupResponse{
		Welcome: made.Welcome, RatchetTree: made.RatchetTree, EpochAuthenticator: next.group.EpochAuthenticator(),
	}, nil
}

// parseKeyPackage reads an MLSMessage with a key package.
func parseKeyPackage(msg []byte) (*mls.KeyPackage, error) {
	r := codec.NewReader(msg)
	if version, format := r.U16(), r.U16(); r.Err() == nil && (version != 1 || format != 5) {
		r.Fail("no key package but wire format %d of version %d", format, version)
	}
	if r.Err() != nil {
		return nil, r.Err()
	}
	return mls.ParseKeyPackage(r.Rest())
}

// privateKeys returns the secret keys of a stored bundle and a signer, for the
// runner's transcript.
func privateKeys(bundle []byte, signer crypto.Signer) (initKey, leafKey, signatureKey []byte, err error) {
	r := codec.NewReader(bundle)
	r.U8() // version
	r.Vec(codec.MaxVec)
	initKey, leafKey = r.Vec(codec.MaxVec), r.Vec(codec.MaxVec)
	if err := r.Done(); err != nil {
		return nil, nil, nil, err
	}
	switch k := signer.(type) {
	case ed25519.PrivateKey:
		signatureKey = k.Seed()
	case *ecdsa.PrivateKey:
		signatureKey, err = k.Bytes()
	}
	return initKey, leafKey, signatureKey, err
}
