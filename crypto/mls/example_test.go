package mls_test

import (
	"crypto/ed25519"
	"fmt"
	"log"

	"sotto/crypto/mls"
)

// Two devices meet and talk. What a real caller writes to disk is left out; see
// the package's documentation for the order of things.
func Example() {
	device := func(name string) (mls.Config, mls.Credential) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			log.Fatal(err)
		}
		validate := func(leaf, old *mls.LeafNode) error {
			if len(leaf.Credential.Identity) == 0 {
				return fmt.Errorf("a member without a name")
			}
			return nil
		}
		return mls.Config{Signer: key, ValidateCredential: validate}, mls.BasicCredential([]byte(name))
	}
	anaConfig, anaName := device("ana")
	benConfig, benName := device("ben")

	// Ben hands out a key package and keeps the bundle.
	bundle, err := mls.NewKeyPackage(mls.KeyPackageOptions{Suite: mls.XWing, Signer: benConfig.Signer, Credential: benName})
	if err != nil {
		log.Fatal(err)
	}

	// Ana makes a group and adds him. Once her commit is accepted, she merges it
	// and lets the welcome out.
	ana, err := mls.NewGroup(anaConfig, mls.GroupOptions{Suite: mls.XWing, Credential: anaName})
	if err != nil {
		log.Fatal(err)
	}
	staged, err := ana.Commit(&mls.CommitOptions{Proposals: []mls.Proposal{mls.Add{KeyPackage: bundle.KeyPackage()}}})
	if err != nil {
		log.Fatal(err)
	}
	if ana, err = staged.Merge(ana); err != nil {
		log.Fatal(err)
	}
	ben, err := mls.Join(benConfig, staged.Welcome(), bundle, nil)
	if err != nil {
		log.Fatal(err)
	}

	msg, err := ana.Encrypt([]byte("hello, ben"), nil)
	if err != nil {
		log.Fatal(err)
	}
	got, err := ben.Process(msg, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", got.SenderNode.Credential.Identity, got.Content)

	// Ben renews his keys.
	if staged, err = ben.Commit(nil); err != nil {
		log.Fatal(err)
	}
	if got, err = ana.Process(staged.Message(), nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ben's commit leads to epoch", got.Staged.Epoch())
	// Output:
	// ana: hello, ben
	// ben's commit leads to epoch 2
}
