package main

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sotto/crypto/codec"
	"sotto/crypto/mls"
	pb "sotto/crypto/mls/interop/mlsclient"
)

// suites are those that the server offers.
var suites = []mls.Suite{
	mls.X25519AES128, mls.P256AES128, mls.X25519ChaCha20, mls.P521AES256, mls.P384AES256, mls.XWing,
}

// A signer proposes to groups from outside.
type signer struct {
	key crypto.Signer
	own mls.ExternalSender
}

// A server plays any number of devices.
type server struct {
	pb.UnimplementedMLSClientServer

	mu      sync.Mutex // guards the following fields; held while a call is served
	last    uint32     // id given out
	members map[uint32]*member
	joiners map[uint32]*joiner
	signers map[uint32]*signer
}

// newGRPC returns a gRPC server with a server in it.
func newGRPC() *grpc.Server {
	s := &server{members: make(map[uint32]*member), joiners: make(map[uint32]*joiner), signers: make(map[uint32]*signer)}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.serve))
	pb.RegisterMLSClientServer(g, s)
	return g
}

var errUnknownID = errors.New("no such id")

// serve serves one call at a time, and translates errors.
func (s *server) serve(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := h(ctx, req)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, errUnknownID):
		return nil, status.Error(codes.NotFound, err.Error())
	case errors.Is(err, mls.ErrUnsupported):
		return nil, status.Error(codes.Unimplemented, err.Error())
	}
	return nil, status.Error(codes.InvalidArgument, err.Error())
}

// add keeps v under a fresh id. States, transactions and signers share one row of
// ids: StorePSK does not say which it means.
func add[T any](s *server, to map[uint32]T, v T) uint32 {
	s.last++
	to[s.last] = v
	return s.last
}

func get[T any](from map[uint32]T, id uint32) (T, error) {
	v, ok := from[id]
	if !ok {
		return v, fmt.Errorf("%w: %d", errUnknownID, id)
	}
	return v, nil
}

func (s *server) Name(context.Context, *pb.NameRequest) (*pb.NameResponse, error) {
	return &pb.NameResponse{Name: "Sotto"}, nil
}

func (s *server) SupportedCiphersuites(context.Context, *pb.SupportedCiphersuitesRequest) (*pb.SupportedCiphersuitesResponse, error) {
	out := &pb.SupportedCiphersuitesResponse{}
	for _, id := range suites {
		out.Ciphersuites = append(out.Ciphersuites, uint32(id))
	}
	return out, nil
}

func (s *server) CreateGroup(_ context.Context, r *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	c, err := newConfig(mls.Suite(r.CipherSuite))
	if err != nil {
		return nil, err
	}
	g, err := mls.NewGroup(c, mls.GroupOptions{
		Suite: mls.Suite(r.CipherSuite), GroupID: r.GroupId, Credential: mls.BasicCredential(r.Identity), Lifetime: lifetime(),
	})
	if err != nil {
		return nil, err
	}
	m, err := newMember(c, !r.EncryptHandshake, g)
	if err != nil {
		return nil, err
	}
	return &pb.CreateGroupResponse{StateId: add(s, s.members, m)}, nil
}

func (s *server) CreateKeyPackage(_ context.Context, r *pb.CreateKeyPackageRequest) (*pb.CreateKeyPackageResponse, error) {
	j, b, err := newJoiner(mls.Suite(r.CipherSuite), r.Identity)
	if err != nil {
		return nil, err
	}
	out := &pb.CreateKeyPackageResponse{KeyPackage: b.KeyPackage().Message()}
	if out.InitPriv, out.EncryptionPriv, out.SignaturePriv, err = privateKeys(j.bundle, j.config.Signer); err != nil {
		return nil, err
	}
	out.TransactionId = add(s, s.joiners, j)
	return out, nil
}

// joined makes a member of the joiner with this id, which is used up.
func (s *server) joined(id uint32, welcome, tree []byte, public bool) (*pb.JoinGroupResponse, error) {
	j, err := get(s.joiners, id)
	if err != nil {
		return nil, err
	}
	m, err := j.join(welcome, tree, public)
	if err != nil {
		return nil, err
	}
	delete(s.joiners, id)
	return &pb.JoinGroupResponse{StateId: add(s, s.members, m), EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

func (s *server) JoinGroup(_ context.Context, r *pb.JoinGroupRequest) (*pb.JoinGroupResponse, error) {
	return s.joined(r.TransactionId, r.Welcome, r.RatchetTree, !r.EncryptHandshake)
}

func (s *server) ExternalJoin(_ context.Context, r *pb.ExternalJoinRequest) (*pb.ExternalJoinResponse, error) {
	info, err := mls.ParseGroupInfo(r.GroupInfo, r.RatchetTree)
	if err != nil {
		return nil, err
	}
	c, err := newConfig(info.Context.Suite)
	if err != nil {
		return nil, err
	}
	o := mls.ExternalJoinOptions{Credential: mls.BasicCredential(r.Identity), RatchetTree: r.RatchetTree}
	if r.RemovePrior {
		prior, err := leafOf(info.Roster, r.Identity)
		if err != nil {
			return nil, err
		}
		o.Replaces = &prior
	}
	known := make(map[string][]byte)
	for _, p := range r.Psks {
		known[string(p.PskId)] = p.PskSecret
		o.PreSharedKeys = append(o.PreSharedKeys, mls.ExternalPSK(p.PskId))
	}
	o.PSK = lookup(known)
	staged, err := mls.JoinExternal(c, r.GroupInfo, o)
	if err != nil {
		return nil, err
	}
	g, err := staged.Merge(nil)
	if err != nil {
		return nil, err
	}
	m, err := newMember(c, !r.EncryptHandshake, g)
	if err != nil {
		return nil, err
	}
	m.psks = known
	return &pb.ExternalJoinResponse{
		StateId: add(s, s.members, m), Commit: staged.Message(), EpochAuthenticator: m.group.EpochAuthenticator(),
	}, nil
}

func (s *server) GroupInfo(_ context.Context, r *pb.GroupInfoRequest) (*pb.GroupInfoResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	info, err := m.group.GroupInfo(!r.ExternalTree)
	if err != nil {
		return nil, err
	}
	out := &pb.GroupInfoResponse{GroupInfo: info}
	if r.ExternalTree {
		out.RatchetTree = m.group.RatchetTree()
	}
	return out, nil
}

func (s *server) StateAuth(_ context.Context, r *pb.StateAuthRequest) (*pb.StateAuthResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	return &pb.StateAuthResponse{StateAuthSecret: m.group.EpochAuthenticator()}, nil
}

func (s *server) Export(_ context.Context, r *pb.ExportRequest) (*pb.ExportResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	secret, err := m.group.Export(r.Label, r.Context, int(r.KeyLength))
	return &pb.ExportResponse{ExportedSecret: secret}, err
}

func (s *server) Protect(_ context.Context, r *pb.ProtectRequest) (*pb.ProtectResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	next := m.group.Clone()
	msg, err := next.Encrypt(r.Plaintext, r.AuthenticatedData)
	if err != nil {
		return nil, err
	}
	return &pb.ProtectResponse{Ciphertext: msg}, m.save(next)
}

func (s *server) Unprotect(_ context.Context, r *pb.UnprotectRequest) (*pb.UnprotectResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	next := m.group.Clone()
	got, err := next.Process(r.Ciphertext, nil)
	if err != nil {
		return nil, err
	}
	if got.Type != mls.ContentApplication {
		return nil, fmt.Errorf("%w: not an application message", mls.ErrInvalid)
	}
	return &pb.UnprotectResponse{Plaintext: got.Content, AuthenticatedData: got.AuthenticatedData}, m.save(next)
}

func (s *server) StorePSK(_ context.Context, r *pb.StorePSKRequest) (*pb.StorePSKResponse, error) {
	if m, err := get(s.members, r.StateOrTransactionId); err == nil {
		m.psks[string(r.PskId)] = r.PskSecret
		return &pb.StorePSKResponse{}, nil
	}
	j, err := get(s.joiners, r.StateOrTransactionId)
	if err != nil {
		return nil, err
	}
	j.psks[string(r.PskId)] = r.PskSecret
	return &pb.StorePSKResponse{}, nil
}

func (s *server) propose(state uint32, d *pb.ProposalDescription) (*pb.ProposalResponse, error) {
	m, err := get(s.members, state)
	if err != nil {
		return nil, err
	}
	p, err := proposal(d, m.group.Roster(), m.group.GroupID())
	if err != nil {
		return nil, err
	}
	return m.propose(p)
}

func (s *server) AddProposal(_ context.Context, r *pb.AddProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{ProposalType: []byte("add"), KeyPackage: r.KeyPackage})
}

func (s *server) UpdateProposal(_ context.Context, r *pb.UpdateProposalRequest) (*pb.ProposalResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	return m.propose(mls.Update{})
}

func (s *server) RemoveProposal(_ context.Context, r *pb.RemoveProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{ProposalType: []byte("remove"), RemovedId: r.RemovedId})
}

func (s *server) ExternalPSKProposal(_ context.Context, r *pb.ExternalPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{ProposalType: []byte("externalPSK"), PskId: r.PskId})
}

func (s *server) ResumptionPSKProposal(_ context.Context, r *pb.ResumptionPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{ProposalType: []byte("resumptionPSK"), EpochId: r.EpochId})
}

func (s *server) GroupContextExtensionsProposal(_ context.Context, r *pb.GroupContextExtensionsProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{ProposalType: []byte("groupContextExtensions"), Extensions: r.Extensions})
}

func (s *server) ReInitProposal(_ context.Context, r *pb.ReInitProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(r.StateId, &pb.ProposalDescription{
		ProposalType: []byte("reinit"), GroupId: r.GroupId, CipherSuite: r.CipherSuite, Extensions: r.Extensions,
	})
}

func (s *server) Commit(_ context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	var values []mls.Proposal
	for _, d := range r.ByValue {
		p, err := proposal(d, m.group.Roster(), m.group.GroupID())
		if err != nil {
			return nil, err
		}
		values = append(values, p)
	}
	return m.commit(r.ByReference, values, r.ForcePath, r.ExternalTree)
}

func (s *server) HandlePendingCommit(_ context.Context, r *pb.HandlePendingCommitRequest) (*pb.HandleCommitResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.merge(); err != nil {
		return nil, err
	}
	return &pb.HandleCommitResponse{StateId: r.StateId, EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

func (s *server) HandleCommit(_ context.Context, r *pb.HandleCommitRequest) (*pb.HandleCommitResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.handle(r.Proposal, r.Commit); err != nil {
		return nil, err
	}
	return &pb.HandleCommitResponse{StateId: r.StateId, EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

func (s *server) ReInitCommit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	return s.Commit(ctx, r)
}

// reinitialized answers for a group that has ended: with a key package for the next.
func (s *server) reinitialized(state uint32, authenticator []byte) (*pb.HandleReInitCommitResponse, error) {
	m, err := get(s.members, state)
	if err != nil {
		return nil, err
	}
	to := m.group.ReInit()
	if to == nil {
		return nil, fmt.Errorf("%w: the commit does not end the group", mls.ErrInvalid)
	}
	own, _ := m.group.Member(m.group.OwnLeaf())
	j, b, err := newJoiner(to.Suite, own.Credential.Identity)
	if err != nil {
		return nil, err
	}
	j.old = m
	return &pb.HandleReInitCommitResponse{
		ReinitId: add(s, s.joiners, j), KeyPackage: b.KeyPackage().Message(), EpochAuthenticator: authenticator,
	}, nil
}

func (s *server) HandlePendingReInitCommit(ctx context.Context, r *pb.HandlePendingCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	out, err := s.HandlePendingCommit(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.reinitialized(r.StateId, out.EpochAuthenticator)
}

func (s *server) HandleReInitCommit(ctx context.Context, r *pb.HandleCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	out, err := s.HandleCommit(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.reinitialized(r.StateId, out.EpochAuthenticator)
}

// ReInitWelcome is called on one member, whose own key package is not used.
func (s *server) ReInitWelcome(_ context.Context, r *pb.ReInitWelcomeRequest) (*pb.CreateSubgroupResponse, error) {
	j, err := get(s.joiners, r.ReinitId)
	if err != nil {
		return nil, err
	}
	if j.old == nil {
		return nil, fmt.Errorf("%w: %d continues no group", errUnknownID, r.ReinitId)
	}
	to := j.old.group.ReInit()
	o := mls.GroupOptions{Suite: to.Suite, GroupID: to.GroupID, Extensions: to.Extensions}
	m, out, err := j.old.subgroup(mls.ResumptionReInit, o, j.config, r.KeyPackage, r.ForcePath, r.ExternalTree)
	if err != nil {
		return nil, err
	}
	delete(s.joiners, r.ReinitId)
	out.StateId = add(s, s.members, m)
	return out, nil
}

func (s *server) HandleReInitWelcome(_ context.Context, r *pb.HandleReInitWelcomeRequest) (*pb.JoinGroupResponse, error) {
	j, err := get(s.joiners, r.ReinitId)
	if err != nil {
		return nil, err
	}
	return s.joined(r.ReinitId, r.Welcome, r.RatchetTree, j.old != nil && j.old.public)
}

func (s *server) CreateBranch(_ context.Context, r *pb.CreateBranchRequest) (*pb.CreateSubgroupResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	c, err := newConfig(m.group.Suite())
	if err != nil {
		return nil, err
	}
	o := mls.GroupOptions{Suite: m.group.Suite(), GroupID: r.GroupId, Extensions: extensions(r.Extensions)}
	branch, out, err := m.subgroup(mls.ResumptionBranch, o, c, r.KeyPackages, r.ForcePath, r.ExternalTree)
	if err != nil {
		return nil, err
	}
	out.StateId = add(s, s.members, branch)
	return out, nil
}

func (s *server) HandleBranch(_ context.Context, r *pb.HandleBranchRequest) (*pb.HandleBranchResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	j, err := get(s.joiners, r.TransactionId)
	if err != nil {
		return nil, err
	}
	j.old = m
	out, err := s.joined(r.TransactionId, r.Welcome, r.RatchetTree, m.public)
	if err != nil {
		return nil, err
	}
	return &pb.HandleBranchResponse{StateId: out.StateId, EpochAuthenticator: out.EpochAuthenticator}, nil
}

func (s *server) NewMemberAddProposal(_ context.Context, r *pb.NewMemberAddProposalRequest) (*pb.NewMemberAddProposalResponse, error) {
	info, err := mls.ParseGroupInfo(r.GroupInfo, nil)
	if err != nil {
		return nil, err
	}
	to := &info.Context
	j, b, err := newJoiner(to.Suite, r.Identity)
	if err != nil {
		return nil, err
	}
	msg, err := mls.ProposeExternal(j.config.Signer, to.Suite, to.GroupID, to.Epoch, -1, mls.Add{KeyPackage: b.KeyPackage()})
	if err != nil {
		return nil, err
	}
	out := &pb.NewMemberAddProposalResponse{Proposal: msg}
	if out.InitPriv, out.EncryptionPriv, out.SignaturePriv, err = privateKeys(j.bundle, j.config.Signer); err != nil {
		return nil, err
	}
	out.TransactionId = add(s, s.joiners, j)
	return out, nil
}

func (s *server) CreateExternalSigner(_ context.Context, r *pb.CreateExternalSignerRequest) (*pb.CreateExternalSignerResponse, error) {
	j, b, err := newJoiner(mls.Suite(r.CipherSuite), r.Identity)
	if err != nil {
		return nil, err
	}
	own := mls.ExternalSender{SignatureKey: b.KeyPackage().LeafNode.SignatureKey, Credential: mls.BasicCredential(r.Identity)}
	list := codec.NewReader(mls.ExternalSendersExtension([]mls.ExternalSender{own}).Data)
	return &pb.CreateExternalSignerResponse{
		SignerId:       add(s, s.signers, &signer{j.config.Signer, own}),
		ExternalSender: list.Vec(codec.MaxVec),
	}, nil
}

func (s *server) AddExternalSigner(_ context.Context, r *pb.AddExternalSignerRequest) (*pb.ProposalResponse, error) {
	m, err := get(s.members, r.StateId)
	if err != nil {
		return nil, err
	}
	more, err := mls.ParseExternalSenders(codec.AppendVec(nil, r.ExternalSender))
	if err != nil {
		return nil, err
	}
	var next mls.Extensions
	var senders []mls.ExternalSender
	for _, x := range m.group.Context().Extensions {
		if x.Type != mls.ExtensionExternalSenders {
			next = append(next, x)
		} else if senders, err = mls.ParseExternalSenders(x.Data); err != nil {
			return nil, err
		}
	}
	next = append(next, mls.ExternalSendersExtension(append(senders, more...)))
	return m.propose(mls.GroupContextExtensions{Extensions: next})
}

// ExternalSignerProposal finds the signer's place in the group's list by its key:
// the runner leaves signer_index at zero.
func (s *server) ExternalSignerProposal(_ context.Context, r *pb.ExternalSignerProposalRequest) (*pb.ProposalResponse, error) {
	from, err := get(s.signers, r.SignerId)
	if err != nil {
		return nil, err
	}
	if r.Description == nil {
		return nil, fmt.Errorf("%w: no description", mls.ErrInvalid)
	}
	info, err := mls.ParseGroupInfo(r.GroupInfo, r.RatchetTree)
	if err != nil {
		return nil, err
	}
	context := &info.Context
	data, _ := context.Extensions.Get(mls.ExtensionExternalSenders)
	senders, err := mls.ParseExternalSenders(data)
	if err != nil {
		return nil, err
	}
	for i, known := range senders {
		if !bytes.Equal(known.SignatureKey, from.own.SignatureKey) {
			continue
		}
		p, err := proposal(r.Description, info.Roster, context.GroupID)
		if err != nil {
			return nil, err
		}
		msg, err := mls.ProposeExternal(from.key, context.Suite, context.GroupID, context.Epoch, i, p)
		return &pb.ProposalResponse{Proposal: msg}, err
	}
	return nil, fmt.Errorf("%w: the signer may not send to the group", mls.ErrNotMember)
}

func (s *server) Free(_ context.Context, r *pb.FreeRequest) (*pb.FreeResponse, error) {
	if _, err := get(s.members, r.StateId); err != nil {
		return nil, err
	}
	delete(s.members, r.StateId)
	return &pb.FreeResponse{}, nil
}
