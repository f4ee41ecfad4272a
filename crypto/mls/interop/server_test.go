package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sotto/crypto/mls"
	pb "sotto/crypto/mls/interop/mlsclient"
)

// A world is two servers and the actors on them, who play a script as the runner
// makes them play it.
type world struct {
	t       *testing.T
	suite   mls.Suite
	encrypt bool
	servers []pb.MLSClientClient
	actors  map[string]*actor
}

type actor struct {
	pb.MLSClientClient
	name        string
	state       uint32
	transaction uint32
	pkg         []byte
}

var ctx = context.Background()

// connect starts a server on loopback.
func connect(t *testing.T) pb.MLSClientClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newGRPC()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return pb.NewMLSClientClient(conn)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) same(a *actor, got, want []byte) {
	w.t.Helper()
	if len(want) == 0 || !bytes.Equal(got, want) {
		w.t.Fatalf("%s has epoch authenticator %x, want %x", a.name, got, want)
	}
}

// as returns the actors with these names: by turns on one server and the other.
func (w *world) as(names string) (out []*actor) {
	for _, name := range strings.Fields(names) {
		if w.actors[name] == nil {
			w.actors[name] = &actor{MLSClientClient: w.servers[len(w.actors)%len(w.servers)], name: name}
		}
		out = append(out, w.actors[name])
	}
	return out
}

func (w *world) keyPackage(name string) []byte {
	w.t.Helper()
	a := w.as(name)[0]
	made, err := a.CreateKeyPackage(ctx, &pb.CreateKeyPackageRequest{CipherSuite: uint32(w.suite), Identity: []byte(name)})
	w.check(err)
	if len(made.InitPriv) == 0 || len(made.EncryptionPriv) == 0 || len(made.SignaturePriv) == 0 {
		w.t.Error("a key package without its private keys")
	}
	a.transaction, a.pkg = made.TransactionId, made.KeyPackage
	return made.KeyPackage
}

func value(kind string, d *pb.ProposalDescription) *pb.ProposalDescription {
	d.ProposalType = []byte(kind)
	return d
}

func (w *world) add(name string) *pb.ProposalDescription {
	w.t.Helper()
	return value("add", &pb.ProposalDescription{KeyPackage: w.keyPackage(name)})
}

// group makes a group of the first of names with the others.
func (w *world) group(names string) {
	w.t.Helper()
	all := w.as(names)
	made, err := all[0].CreateGroup(ctx, &pb.CreateGroupRequest{
		GroupId: []byte(w.t.Name()), CipherSuite: uint32(w.suite), EncryptHandshake: w.encrypt, Identity: []byte(all[0].name),
	})
	w.check(err)
	all[0].state = made.StateId
	if len(all) == 1 {
		return
	}
	r := &pb.CommitRequest{}
	for _, a := range all[1:] {
		r.ByValue = append(r.ByValue, w.add(a.name))
	}
	_, joiners, _ := strings.Cut(names, " ")
	w.commit(all[0].name, r, "", joiners)
}

// commit makes a commit, which the members handle, and by which the joiners join.
func (w *world) commit(name string, r *pb.CommitRequest, members, joiners string) {
	w.t.Helper()
	by := w.as(name)[0]
	r.StateId = by.state
	made, err := by.Commit(ctx, r)
	w.check(err)
	if r.ExternalTree != (made.RatchetTree != nil) {
		w.t.Error("the tree is where it should not be")
	}
	merged, err := by.HandlePendingCommit(ctx, &pb.HandlePendingCommitRequest{StateId: by.state})
	w.check(err)
	by.state = merged.StateId
	for _, m := range w.as(members) {
		got, err := m.HandleCommit(ctx, &pb.HandleCommitRequest{StateId: m.state, Proposal: r.ByReference, Commit: made.Commit})
		w.check(err)
		w.same(m, got.EpochAuthenticator, merged.EpochAuthenticator)
		m.state = got.StateId
	}
	for _, j := range w.as(joiners) {
		got, err := j.JoinGroup(ctx, &pb.JoinGroupRequest{
			TransactionId: j.transaction, Welcome: made.Welcome, EncryptHandshake: w.encrypt, Identity: []byte(j.name), RatchetTree: made.RatchetTree,
		})
		w.check(err)
		w.same(j, got.EpochAuthenticator, merged.EpochAuthenticator)
		j.state = got.StateId
	}
}

// refs are proposals for a commit.
func refs(ps ...*pb.ProposalResponse) *pb.CommitRequest {
	r := &pb.CommitRequest{}
	for _, p := range ps {
		r.ByReference = append(r.ByReference, p.Proposal)
	}
	return r
}

// talk makes every one of names send what all others read.
func (w *world) talk(names string) {
	w.t.Helper()
	for _, from := range w.as(names) {
		text, aad := []byte("hello from "+from.name), []byte("aad")
		sent, err := from.Protect(ctx, &pb.ProtectRequest{StateId: from.state, Plaintext: text, AuthenticatedData: aad})
		w.check(err)
		for _, to := range w.as(names) {
			if to == from {
				continue
			}
			got, err := to.Unprotect(ctx, &pb.UnprotectRequest{StateId: to.state, Ciphertext: sent.Ciphertext})
			w.check(err)
			if !bytes.Equal(got.Plaintext, text) || !bytes.Equal(got.AuthenticatedData, aad) {
				w.t.Errorf("%s reads %q with %q", to.name, got.Plaintext, got.AuthenticatedData)
			}
		}
	}
	var first []byte
	for i, a := range w.as(names) {
		auth, err := a.StateAuth(ctx, &pb.StateAuthRequest{StateId: a.state})
		w.check(err)
		exported, err := a.Export(ctx, &pb.ExportRequest{StateId: a.state, Label: "l", Context: []byte("c"), KeyLength: 32})
		w.check(err)
		both := append(auth.StateAuthSecret, exported.ExportedSecret...)
		if i == 0 {
			first = both
		} else if !bytes.Equal(first, both) {
			w.t.Errorf("%s has other secrets", a.name)
		}
	}
}

// psk gives all of names one external key.
func (w *world) psk(names, id string) {
	w.t.Helper()
	for _, a := range w.as(names) {
		to := a.state
		if to == 0 {
			to = a.transaction
		}
		_, err := a.StorePSK(ctx, &pb.StorePSKRequest{StateOrTransactionId: to, PskId: []byte(id), PskSecret: []byte("secret of " + id)})
		w.check(err)
	}
}

func (w *world) externalJoin(by, joiner, others string, tree, prior bool, psks ...*pb.PreSharedKey) {
	w.t.Helper()
	host, j := w.as(by)[0], w.as(joiner)[0]
	info, err := host.GroupInfo(ctx, &pb.GroupInfoRequest{StateId: host.state, ExternalTree: tree})
	w.check(err)
	joined, err := j.ExternalJoin(ctx, &pb.ExternalJoinRequest{
		GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree, EncryptHandshake: w.encrypt, Identity: []byte(joiner), RemovePrior: prior, Psks: psks,
	})
	w.check(err)
	j.state = joined.StateId
	for _, m := range append(w.as(others), host) {
		got, err := m.HandleCommit(ctx, &pb.HandleCommitRequest{StateId: m.state, Commit: joined.Commit})
		w.check(err)
		w.same(m, got.EpochAuthenticator, joined.EpochAuthenticator)
	}
}

// reinit takes all of names through a commit that ends the group, and the welcomer's
// welcome to the next.
func (w *world) reinit(proposal []byte, committer, welcomer, names string, path, tree bool) {
	w.t.Helper()
	by := w.as(committer)[0]
	made, err := by.ReInitCommit(ctx, &pb.CommitRequest{StateId: by.state, ByReference: [][]byte{proposal}})
	w.check(err)
	over := make(map[string]*pb.HandleReInitCommitResponse)
	over[committer], err = by.HandlePendingReInitCommit(ctx, &pb.HandlePendingCommitRequest{StateId: by.state})
	w.check(err)
	r := &pb.ReInitWelcomeRequest{ForcePath: path, ExternalTree: tree}
	for _, m := range w.as(names) {
		if m != by {
			over[m.name], err = m.HandleReInitCommit(ctx, &pb.HandleCommitRequest{StateId: m.state, Proposal: [][]byte{proposal}, Commit: made.Commit})
			w.check(err)
			w.same(m, over[m.name].EpochAuthenticator, over[committer].EpochAuthenticator)
		}
		if m.name != welcomer {
			r.KeyPackage = append(r.KeyPackage, over[m.name].KeyPackage)
		}
	}
	host := w.as(welcomer)[0]
	r.ReinitId = over[welcomer].ReinitId
	next, err := host.ReInitWelcome(ctx, r)
	w.check(err)
	host.state = next.StateId
	for _, m := range w.as(names) {
		if m == host {
			continue
		}
		got, err := m.HandleReInitWelcome(ctx, &pb.HandleReInitWelcomeRequest{ReinitId: over[m.name].ReinitId, Welcome: next.Welcome, RatchetTree: next.RatchetTree})
		w.check(err)
		w.same(m, got.EpochAuthenticator, next.EpochAuthenticator)
		m.state = got.StateId
	}
}

var required = []*pb.Extension{{ExtensionType: 3, ExtensionData: []byte{0, 0, 0}}, {ExtensionType: 5, ExtensionData: []byte{0}}}

// The runner's deep_random has 90 commits among up to 70 members, who check some 130,000
// signatures on the way. That is what takes its time: Go checks one of Ed25519 in 0.06 ms, of
// P-384 in 0.65 and of P-521 in 2.8, so that a run takes two minutes in suite 7 and more
// than a quarter of an hour in suite 5 (spec/mls-figures.md).
// Ours is bounded by operations, so many commits among so many, and not by time.
const deepCommits, deepMembers = 12, 8

// scripts are after those of the runner, one for each of its files.
var scripts = map[string]func(w *world){
	"deep_random": func(w *world) {
		r := rand.New(rand.NewPCG(9420, 1)) // the same every time
		sometimes := func() bool { return r.IntN(3) == 0 }
		w.group("m0 m1")
		members, made := []string{"m0", "m1"}, 2
		for range deepCommits {
			r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			by, others := members[0], members[1:]
			if len(members) < deepMembers && sometimes() {
				fresh := fmt.Sprint("m", made)
				made++
				w.externalJoin(by, fresh, strings.Join(others, " "), sometimes(), false)
				members = append(members, fresh)
				continue
			}
			commit := &pb.CommitRequest{ForcePath: sometimes()}
			if len(others) > 2 && sometimes() {
				commit.ByValue = append(commit.ByValue, value("remove", &pb.ProposalDescription{RemovedId: []byte(others[0])}))
				others = others[1:]
			}
			for _, a := range w.as(strings.Join(others, " ")) {
				if sometimes() {
					p, err := a.UpdateProposal(ctx, &pb.UpdateProposalRequest{StateId: a.state})
					w.check(err)
					commit.ByReference = append(commit.ByReference, p.Proposal)
				}
			}
			var joiners []string
			for 1+len(others)+len(joiners) < deepMembers && !sometimes() {
				joiners = append(joiners, fmt.Sprint("m", made))
				commit.ByValue = append(commit.ByValue, w.add(fmt.Sprint("m", made)))
				made++
			}
			w.commit(by, commit, strings.Join(others, " "), strings.Join(joiners, " "))
			members = slices.Concat([]string{by}, others, joiners)
		}
		if made < 10 {
			w.t.Errorf("%d members in all", made)
		}
		w.talk(strings.Join(members, " "))
	},
	"welcome_join": func(w *world) {
		w.group("ana")
		w.keyPackage("ben")
		w.psk("ana ben", "k")
		ana := w.as("ana")[0]
		add, err := ana.AddProposal(ctx, &pb.AddProposalRequest{StateId: ana.state, KeyPackage: w.as("ben")[0].pkg})
		w.check(err)
		mix, err := ana.ExternalPSKProposal(ctx, &pb.ExternalPSKProposalRequest{StateId: ana.state, PskId: []byte("k")})
		w.check(err)
		r := refs(add, mix)
		r.ForcePath, r.ExternalTree = true, true
		w.commit("ana", r, "", "ben")
		w.commit("ben", &pb.CommitRequest{ByValue: []*pb.ProposalDescription{w.add("cem")}}, "ana", "cem")
		w.talk("ana ben cem")
	},
	"application": func(w *world) {
		w.group("ana ben")
		ana, ben := w.as("ana")[0], w.as("ben")[0]
		var sent [][]byte
		for i := range 4 {
			out, err := ana.Protect(ctx, &pb.ProtectRequest{StateId: ana.state, Plaintext: fmt.Append(nil, i)})
			w.check(err)
			sent = append(sent, out.Ciphertext)
		}
		w.commit("ben", &pb.CommitRequest{}, "ana", "")
		for _, i := range []int{2, 0, 3, 1} { // out of order, and late
			got, err := ben.Unprotect(ctx, &pb.UnprotectRequest{StateId: ben.state, Ciphertext: sent[i]})
			w.check(err)
			if string(got.Plaintext) != fmt.Sprint(i) {
				w.t.Errorf("message %d is %q", i, got.Plaintext)
			}
			if _, err := ben.Unprotect(ctx, &pb.UnprotectRequest{StateId: ben.state, Ciphertext: sent[i]}); status.Code(err) != codes.InvalidArgument {
				w.t.Errorf("message %d again: %v", i, err)
			}
		}
		w.talk("ben ana")
	},
	"commit": func(w *world) {
		w.group("ana ben cem dora")
		w.psk("ana ben cem dora", "k")
		ana, ben, cem, dora := w.as("ana")[0], w.as("ben")[0], w.as("cem")[0], w.as("dora")[0]
		update, err := ben.UpdateProposal(ctx, &pb.UpdateProposalRequest{StateId: ben.state})
		w.check(err)
		mix, err := cem.ExternalPSKProposal(ctx, &pb.ExternalPSKProposalRequest{StateId: cem.state, PskId: []byte("k")})
		w.check(err)
		resume, err := dora.ResumptionPSKProposal(ctx, &pb.ResumptionPSKProposalRequest{StateId: dora.state, EpochId: 1})
		w.check(err)
		change, err := ana.GroupContextExtensionsProposal(ctx, &pb.GroupContextExtensionsProposalRequest{StateId: ana.state, Extensions: required[:1]})
		w.check(err)
		w.commit("ana", refs(update, mix, resume, change), "ben cem dora", "")
		w.talk("ana ben cem dora")
		remove, err := ana.RemoveProposal(ctx, &pb.RemoveProposalRequest{StateId: ana.state, RemovedId: []byte("ben")})
		w.check(err)
		w.commit("cem", refs(remove), "ana dora", "")
		w.commit("dora", &pb.CommitRequest{ByValue: []*pb.ProposalDescription{
			w.add("ed"), value("remove", &pb.ProposalDescription{RemovedId: []byte("cem")}),
			value("externalPSK", &pb.ProposalDescription{PskId: []byte("k")}),
			value("groupContextExtensions", &pb.ProposalDescription{}),
		}, ForcePath: true}, "ana", "")
		if _, err := ben.Unprotect(ctx, &pb.UnprotectRequest{StateId: ben.state, Ciphertext: remove.Proposal}); status.Code(err) != codes.InvalidArgument {
			w.t.Errorf("a proposal is read as a message: %v", err)
		}
		w.talk("ana dora")
	},
	"external_join": func(w *world) {
		w.group("ana ben")
		w.psk("ana ben", "k")
		w.externalJoin("ana", "cem", "ben", true, false, &pb.PreSharedKey{PskId: []byte("k"), PskSecret: []byte("secret of k")})
		w.externalJoin("ben", "cem", "ana", false, true)
		w.talk("ana ben cem")
	},
	"external_proposals": func(w *world) {
		w.group("ana ben")
		ana, cem := w.as("ana")[0], w.as("cem")[0]
		info, err := ana.GroupInfo(ctx, &pb.GroupInfoRequest{StateId: ana.state})
		w.check(err)
		add, err := cem.NewMemberAddProposal(ctx, &pb.NewMemberAddProposalRequest{GroupInfo: info.GroupInfo, Identity: []byte("cem")})
		w.check(err)
		cem.transaction = add.TransactionId
		w.commit("ben", refs(&pb.ProposalResponse{Proposal: add.Proposal}), "ana", "cem")
		ids := make(map[string]uint32)
		for _, ds := range w.as("one two") {
			signer, err := ds.CreateExternalSigner(ctx, &pb.CreateExternalSignerRequest{CipherSuite: uint32(w.suite), Identity: []byte(ds.name)})
			w.check(err)
			ids[ds.name] = signer.SignerId
			more, err := ana.AddExternalSigner(ctx, &pb.AddExternalSignerRequest{StateId: ana.state, ExternalSender: signer.ExternalSender})
			w.check(err)
			w.commit("ana", refs(more), "ben cem", "")
		}
		from := func(ds string, kind string, d *pb.ProposalDescription) *pb.ProposalResponse {
			w.t.Helper()
			info, err := ana.GroupInfo(ctx, &pb.GroupInfoRequest{StateId: ana.state, ExternalTree: true})
			w.check(err)
			out, err := w.as(ds)[0].ExternalSignerProposal(ctx, &pb.ExternalSignerProposalRequest{
				SignerId: ids[ds], GroupInfo: info.GroupInfo, RatchetTree: info.RatchetTree, Description: value(kind, d),
			})
			w.check(err)
			return out
		}
		w.psk("ana ben cem", "k")
		resume := from("two", "resumptionPSK", &pb.ProposalDescription{EpochId: 3})
		w.commit("cem", refs(from("one", "externalPSK", &pb.ProposalDescription{PskId: []byte("k")}), resume), "ana ben", "")
		w.commit("ana", refs(
			from("one", "remove", &pb.ProposalDescription{RemovedId: []byte("ben")}),
			from("two", "add", &pb.ProposalDescription{KeyPackage: w.keyPackage("dora")}),
		), "cem", "dora")
		w.talk("ana cem dora")
		over := from("two", "reinit", &pb.ProposalDescription{GroupId: []byte("next"), CipherSuite: uint32(mls.X25519AES128), Extensions: required})
		w.reinit(over.Proposal, "dora", "cem", "ana cem dora", true, false)
		w.talk("ana cem dora")
	},
	"reinit": func(w *world) {
		w.group("ana ben cem")
		for i, id := range []mls.Suite{mls.XWing, w.suite} {
			ana := w.as("ana")[0]
			p, err := ana.ReInitProposal(ctx, &pb.ReInitProposalRequest{
				StateId: ana.state, CipherSuite: uint32(id), GroupId: []byte(w.t.Name()), Extensions: required,
			})
			w.check(err)
			w.reinit(p.Proposal, []string{"ben", "ana"}[i], []string{"cem", "ana"}[i], "ana ben cem", i == 0, i == 1)
			w.talk("ana ben cem")
		}
	},
	"branch": func(w *world) {
		w.group("ana ben cem")
		for i, path := range []bool{true, false} {
			ana, ben := w.as("ana")[0], w.as("ben")[0]
			made, err := ana.CreateBranch(ctx, &pb.CreateBranchRequest{
				StateId: ana.state, GroupId: fmt.Append(nil, "branch ", i), Extensions: required,
				KeyPackages: [][]byte{w.keyPackage("ben")}, ForcePath: path, ExternalTree: !path,
			})
			w.check(err)
			got, err := ben.HandleBranch(ctx, &pb.HandleBranchRequest{StateId: ben.state, TransactionId: ben.transaction, Welcome: made.Welcome, RatchetTree: made.RatchetTree})
			w.check(err)
			w.same(ben, got.EpochAuthenticator, made.EpochAuthenticator)
			for _, a := range []*actor{ana, ben} {
				_, err := a.Free(ctx, &pb.FreeRequest{StateId: a.state})
				w.check(err)
			}
			ana.state, ben.state = made.StateId, got.StateId
			w.talk("ana ben")
		}
	},
}

func TestScripts(t *testing.T) {
	servers := []pb.MLSClientClient{connect(t), connect(t)}
	offered, err := servers[0].SupportedCiphersuites(ctx, &pb.SupportedCiphersuitesRequest{})
	if err != nil || len(offered.Ciphersuites) != 6 {
		t.Fatalf("SupportedCiphersuites = %v, %v", offered, err)
	}
	for name, play := range scripts {
		for _, id := range offered.Ciphersuites {
			for _, encrypt := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%#04x/encrypt=%t", name, id, encrypt), func(t *testing.T) {
					play(&world{t: t, suite: mls.Suite(id), encrypt: encrypt, servers: servers, actors: make(map[string]*actor)})
				})
			}
		}
	}
}

// What a caller gets wrong is an error of a kind, and the server goes on.
func TestErrors(t *testing.T) {
	c := connect(t)
	if n, err := c.Name(ctx, &pb.NameRequest{}); err != nil || n.Name != "Sotto" {
		t.Errorf("Name = %v, %v", n, err)
	}
	group, err := c.CreateGroup(ctx, &pb.CreateGroupRequest{CipherSuite: 1, Identity: []byte("ana")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		call func() (any, error)
		want codes.Code
	}{
		{"a suite that is not here", func() (any, error) {
			return c.CreateGroup(ctx, &pb.CreateGroupRequest{CipherSuite: 4})
		}, codes.Unimplemented},
		{"a key package of it", func() (any, error) {
			return c.CreateKeyPackage(ctx, &pb.CreateKeyPackageRequest{CipherSuite: 6})
		}, codes.Unimplemented},
		{"no such state", func() (any, error) { return c.GroupInfo(ctx, &pb.GroupInfoRequest{StateId: 99}) }, codes.NotFound},
		{"no such transaction", func() (any, error) { return c.JoinGroup(ctx, &pb.JoinGroupRequest{TransactionId: 99}) }, codes.NotFound},
		{"no such reinit", func() (any, error) { return c.ReInitWelcome(ctx, &pb.ReInitWelcomeRequest{ReinitId: 99}) }, codes.NotFound},
		{"a state freed twice", func() (any, error) { return c.Free(ctx, &pb.FreeRequest{StateId: 99}) }, codes.NotFound},
		{"nothing to merge", func() (any, error) {
			return c.HandlePendingCommit(ctx, &pb.HandlePendingCommitRequest{StateId: group.StateId})
		}, codes.InvalidArgument},
		{"no key package", func() (any, error) {
			return c.AddProposal(ctx, &pb.AddProposalRequest{StateId: group.StateId, KeyPackage: []byte{0, 1, 0, 4}})
		}, codes.InvalidArgument},
		{"no group info", func() (any, error) {
			return c.ExternalJoin(ctx, &pb.ExternalJoinRequest{GroupInfo: []byte{0, 1, 0, 5}})
		}, codes.InvalidArgument},
		{"removal of a stranger", func() (any, error) {
			return c.RemoveProposal(ctx, &pb.RemoveProposalRequest{StateId: group.StateId, RemovedId: []byte("ben")})
		}, codes.InvalidArgument},
		{"a proposal of no type", func() (any, error) {
			return c.Commit(ctx, &pb.CommitRequest{StateId: group.StateId, ByValue: []*pb.ProposalDescription{{}}})
		}, codes.Unimplemented},
		{"a commit that is none", func() (any, error) {
			return c.HandleCommit(ctx, &pb.HandleCommitRequest{StateId: group.StateId, Commit: []byte("x")})
		}, codes.InvalidArgument},
	} {
		if _, err := tt.call(); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := c.Commit(ctx, &pb.CommitRequest{StateId: group.StateId}); err != nil {
		t.Errorf("a commit after all that: %v", err)
	}
}
