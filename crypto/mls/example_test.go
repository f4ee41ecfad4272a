package mls_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log"
	"math/big"
	"time"

	"sotto/crypto/mls"
)

// check ends an example that went wrong.
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// newDevice returns what a device needs to be a member: its signature key, how it
// judges others, and its name.
func newDevice(name string) (mls.Config, mls.Credential) {
	_, key, err := ed25519.GenerateKey(nil)
	check(err)
	validate := func(leaf, old *mls.LeafNode) error {
		if old != nil && !bytes.Equal(leaf.Credential.Identity, old.Credential.Identity) {
			return errors.New("a member does not change its name")
		}
		return nil
	}
	return mls.Config{Signer: key, ValidateCredential: validate}, mls.BasicCredential([]byte(name))
}

// newPair returns two members of a group.
func newPair() (ana, ben *mls.Group, anaConfig, benConfig mls.Config) {
	anaConfig, anaName := newDevice("ana")
	benConfig, benName := newDevice("ben")
	ana, err := mls.NewGroup(anaConfig, mls.GroupOptions{Suite: mls.XWing, Credential: anaName})
	check(err)
	bundle, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: benConfig.Signer, Credential: benName})
	check(err)
	staged, err := ana.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Add{KeyPackage: bundle.KeyPackage()}}})
	check(err)
	ana, err = staged.Merge(ana)
	check(err)
	ben, _, err = mls.Join(benConfig, staged.Welcome(), bundle, nil)
	check(err)
	return ana, ben, anaConfig, benConfig
}

// Two devices meet and talk. What a real caller writes to disk is left out here; see the
// example of Group.Changes.
func Example() {
	anaConfig, anaName := newDevice("ana")
	benConfig, benName := newDevice("ben")

	// Ben hands out a key package and keeps the bundle.
	bundle, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: benConfig.Signer, Credential: benName})
	check(err)

	// Ana makes a group and adds him. Once her commit is accepted, she merges it
	// and lets the welcome out.
	ana, err := mls.NewGroup(anaConfig, mls.GroupOptions{Suite: mls.XWing, Credential: anaName})
	check(err)
	staged, err := ana.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Add{KeyPackage: bundle.KeyPackage()}}})
	check(err)
	ana, err = staged.Merge(ana)
	check(err)
	ben, _, err := mls.Join(benConfig, staged.Welcome(), bundle, nil)
	check(err)

	msg, err := ana.Encrypt([]byte("hello, ben"), nil)
	check(err)
	got, err := ben.Process(msg, nil)
	check(err)
	fmt.Printf("%s: %s\n", got.SenderNode.Credential.Identity, got.Content)

	// Ben renews his keys.
	staged, err = ben.Commit(nil)
	check(err)
	got, err = ana.Process(staged.Message(), nil)
	check(err)
	fmt.Println("ben's commit leads to epoch", got.Staged.Epoch())
	// Output:
	// ana: hello, ben
	// ben's commit leads to epoch 2
}

// A step is durable before anything of it shows, and a group comes back as it was.
func ExampleGroup_Changes() {
	ana, ben, _, benConfig := newPair()
	disk := make(map[string][]byte) // a database
	write := func(records []mls.Record) {
		for _, r := range records { // in one durable transaction
			if r.Value == nil {
				delete(disk, string(r.Name))
			} else {
				disk[string(r.Name)] = r.Value
			}
		}
	}
	write(ben.Changes()) // all of it, the first time

	msg, err := ana.Encrypt([]byte("once"), nil)
	check(err)
	next := ben.Clone()
	got, err := next.Process(msg, nil)
	check(err)
	write(next.Changes())
	ben.Retire(next)
	ben = next
	fmt.Printf("%s\n", got.Content) // only now

	// The process dies, and starts again.
	var records []mls.Record
	for name, value := range disk {
		records = append(records, mls.Record{Name: []byte(name), Value: value})
	}
	ben, err = mls.LoadGroup(benConfig, records)
	check(err)
	_, err = ben.Process(msg, nil)
	fmt.Println("again:", errors.Is(err, mls.ErrReplayed))
	// Output:
	// once
	// again: true
}

// Two members commit at once. Who was first is decided outside; the other drops what
// it staged and is where it was.
func ExampleStaged_Merge() {
	ana, ben, _, _ := newPair()
	hers, err := ana.Commit(nil)
	check(err)
	his, err := ben.Commit(nil)
	check(err)

	// The one order says that Ben's was the first: Ana does not merge hers.
	got, err := ana.Process(his.Message(), nil)
	check(err)
	ana, err = got.Staged.Merge(ana)
	check(err)
	ben, err = his.Merge(ben)
	check(err)
	fmt.Println("one epoch:", bytes.Equal(ana.EpochAuthenticator(), ben.EpochAuthenticator()))

	_, err = hers.Merge(ana)
	fmt.Println("too late:", errors.Is(err, mls.ErrStale))
	// Output:
	// one epoch: true
	// too late: true
}

// An application looks at a commit before it merges it.
func ExampleGroup_Process() {
	ana, ben, _, _ := newPair()
	staged, err := ana.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Remove{Removed: ben.OwnLeaf()}}})
	check(err)
	got, err := ben.Process(staged.Message(), nil)
	switch {
	case errors.Is(err, mls.ErrReplayed), errors.Is(err, mls.ErrOwnMessage), errors.Is(err, mls.ErrWrongEpoch):
		return // it was read before, is ours, or is of an epoch that is over
	case errors.Is(err, mls.ErrUnknownProposal):
		return // it is read again once the proposal has come
	case err != nil:
		log.Fatal(err)
	}
	for _, p := range got.Staged.Proposals() {
		switch p := p.Proposal.(type) {
		case mls.Add:
			fmt.Printf("adds %s\n", p.KeyPackage.LeafNode.Credential.Identity)
		case mls.Remove:
			who, _ := ben.Member(p.Removed)
			fmt.Printf("removes %s\n", who.Credential.Identity)
		}
	}
	if got.Staged.RemovesSelf() {
		fmt.Println("and that is me")
	}
	// Output:
	// removes ben
	// and that is me
}

// Who received a message can show a stranger who said it.
func ExampleReceived_Signed() {
	ana, ben, _, _ := newPair()
	msg, err := ana.Encrypt([]byte("I owe you ten"), nil)
	check(err)
	got, err := ben.Process(msg, nil)
	check(err)
	said := got.Signed()

	hers, _ := ben.Member(ana.OwnLeaf())
	his, _ := ben.Member(ben.OwnLeaf())
	_, err = said.Verify(hers.SignatureKey)
	fmt.Println("Ana said so:", err == nil)
	_, err = said.Verify(his.SignatureKey)
	fmt.Println("Ben said so:", err == nil)
	said.Content = []byte("I owe you ninety")
	_, err = said.Verify(hers.SignatureKey)
	fmt.Println("she said something else:", err == nil)
	// Output:
	// Ana said so: true
	// Ben said so: false
	// she said something else: false
}

// Who comes in by a welcome sees who made it, and may not want to be there.
func ExampleJoin() {
	anaConfig, anaName := newDevice("ana")
	benConfig, benName := newDevice("ben")
	month := mls.Lifetime{NotBefore: uint64(time.Now().Unix()) - 3600, NotAfter: uint64(time.Now().Unix()) + 30*24*3600}
	bundle, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: benConfig.Signer, Credential: benName, Lifetime: month})
	check(err)
	stored := bundle.Marshal() // before the key package is handed out

	ana, err := mls.NewGroup(anaConfig, mls.GroupOptions{Suite: mls.XWing, Credential: anaName})
	check(err)
	received, err := mls.ParseKeyPackage(bundle.KeyPackage().Marshal())
	check(err)
	staged, err := ana.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Add{KeyPackage: received}}, Now: uint64(time.Now().Unix())})
	check(err)

	bundle, err = mls.ParseKeyPackageBundle(stored)
	check(err)
	refs, err := mls.WelcomeRefs(staged.Welcome())
	check(err)
	fmt.Println("for this bundle:", len(refs) == 1 && bytes.Equal(refs[0], bundle.Ref()))
	ben, by, err := mls.Join(benConfig, staged.Welcome(), bundle, nil)
	check(err)
	inviter, _ := ben.Member(by)
	fmt.Printf("invited by %s\n", inviter.Credential.Identity)
	// Output:
	// for this bundle: true
	// invited by ana
}

// A member cannot remove itself: it proposes that, and another commits it.
func ExampleGroup_Propose() {
	ana, ben, _, _ := newPair()
	leave, err := ben.Propose(mls.Remove{Removed: ben.OwnLeaf()}, nil)
	check(err)
	got, err := ana.Process(leave, nil)
	check(err)
	fmt.Printf("%s asks for a proposal of type %d\n", got.SenderNode.Credential.Identity, got.Proposal.Type())

	_, err = ana.Encrypt([]byte("still there?"), nil)
	fmt.Println("first the commit:", errors.Is(err, mls.ErrPendingProposals))
	staged, err := ana.Commit(nil) // of what is pending
	check(err)
	ana, err = staged.Merge(ana)
	check(err)
	fmt.Println(len(ana.Roster()), "member")
	// Output:
	// ben asks for a proposal of type 3
	// first the commit: true
	// 1 member
}

// A device that lost its state comes back in its old place, by a commit of its own.
func ExampleJoinExternal() {
	ana, ben, _, _ := newPair()
	benConfig, benName := newDevice("ben") // with another key

	info, err := ana.GroupInfo(true)
	check(err)
	seen, err := mls.ParseGroupInfo(info, nil)
	check(err)
	var old mls.LeafIndex
	for _, m := range seen.Roster {
		if bytes.Equal(m.Node.Credential.Identity, benName.Identity) {
			old = m.Leaf
		}
	}
	staged, err := mls.JoinExternal(benConfig, info, mls.ExternalJoinOptions{Credential: benName, Replaces: &old})
	check(err)
	got, err := ana.Process(staged.Message(), nil)
	check(err)
	ana, err = got.Staged.Merge(ana)
	check(err)
	ben, err = staged.Merge(nil) // of no group, once the commit is known to be the first
	check(err)
	fmt.Println(len(ana.Roster()), "members, ben at leaf", ben.OwnLeaf())
	// Output:
	// 2 members, ben at leaf 1
}

// Who trusts certificates says so in ValidateCredential: to this package they are bytes.
func ExampleConfig() {
	authority, root := newAuthority()
	validate := func(leaf, _ *mls.LeafNode) error {
		if leaf.Credential.Type != mls.CredentialX509 || len(leaf.Credential.Certificates) == 0 {
			return errors.New("no certificate")
		}
		cert, err := x509.ParseCertificate(leaf.Credential.Certificates[0])
		if err != nil {
			return err
		}
		// The leaf must have the certificate's key (RFC 9420, Section 5.3).
		key, err := mls.P256AES128.SignatureKey(cert.PublicKey)
		if err != nil {
			return err
		}
		if !bytes.Equal(key, leaf.SignatureKey) {
			return errors.New("certificate for another key")
		}
		// Not by the clock: all members must come to one answer.
		return cert.CheckSignatureFrom(root)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	credential := mls.Credential{Type: mls.CredentialX509, Certificates: [][]byte{authority(key)}}
	_, err = mls.NewGroup(mls.Config{Signer: key, ValidateCredential: validate}, mls.GroupOptions{Suite: mls.P256AES128, Credential: credential})
	fmt.Println("its own:", err)

	thief, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	_, err = mls.NewGroup(mls.Config{Signer: thief, ValidateCredential: validate}, mls.GroupOptions{Suite: mls.P256AES128, Credential: credential})
	fmt.Println("another's:", errors.Is(err, mls.ErrInvalid))
	// Output:
	// its own: <nil>
	// another's: true
}

// newAuthority returns what makes certificates, and its own.
func newAuthority() (issue func(*ecdsa.PrivateKey) []byte, root *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Unix(1<<32, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	root, err = x509.ParseCertificate(der)
	check(err)
	return func(k *ecdsa.PrivateKey) []byte {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "device"}, NotAfter: time.Unix(1<<32, 0)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, &k.PublicKey, key)
		check(err)
		return der
	}, root
}
