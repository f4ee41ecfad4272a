package mls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sotto/crypto/codec"
)

// The tests in this file run the vectors that implementations of RFC 9420 share.
// They are looked for where SOTTO_MLS_VECTORS says.

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(in []byte) error {
	var s *string
	if err := json.Unmarshal(in, &s); err != nil || s == nil {
		return err
	}
	b, err := hex.DecodeString(*s)
	if b == nil {
		b = []byte{}
	}
	*h = b
	return err
}

func loadVectors[T any](t *testing.T, name string) []T {
	t.Helper()
	dir := os.Getenv("SOTTO_MLS_VECTORS")
	if dir == "" {
		t.Skip("SOTTO_MLS_VECTORS is not set: the shared MLS vectors are not run")
	}
	b, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("%s.json holds no vectors", name)
	}
	return out
}

// A suiteCount makes sure that vectors of every suite were run, and names those
// that were not.
type suiteCount struct{ run, unsupported map[Suite]int }

// suite returns the suite to run a vector with, or nil if it is one of the two
// that this package leaves out.
func (c *suiteCount) suite(t *testing.T, id Suite) *suite {
	t.Helper()
	if c.run == nil {
		c.run, c.unsupported = make(map[Suite]int), make(map[Suite]int)
	}
	s, err := id.lookup()
	if err != nil {
		if id != 4 && id != 6 {
			t.Fatal(err)
		}
		c.unsupported[id]++
		return nil
	}
	c.run[id]++
	return s
}

func (c *suiteCount) report(t *testing.T) {
	t.Helper()
	for _, id := range []Suite{1, 2, 3, 5, 7} {
		if c.run[id] == 0 {
			t.Errorf("no vector of suite %d was run", id)
		}
	}
	n := 0
	for _, of := range []map[Suite]int{c.run, c.unsupported} {
		for _, m := range of {
			n += m
		}
	}
	t.Logf("all %d vectors: run %v, of unsupported suites %v", n, c.run, c.unsupported)
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", what, got, want)
	}
}

// vectorSigner returns the signature key of a vector.
func vectorSigner(t *testing.T, s *suite, priv []byte) crypto.Signer {
	t.Helper()
	if s.curve == nil {
		return ed25519.NewKeyFromSeed(priv)
	}
	k, err := ecdsa.ParseRawPrivateKey(s.curve, scalar(s, priv))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// scalar returns a private key at full length: some vectors leave out leading
// zeros.
func scalar(s *suite, priv []byte) []byte {
	if s.curve == nil {
		return priv
	}
	size := (s.curve.Params().BitSize + 7) / 8
	return append(make([]byte, max(0, size-len(priv))), priv...)
}

func parsed[T any](t *testing.T, b []byte, decode func(*codec.Reader) T) T {
	t.Helper()
	r := codec.NewReader(b)
	v := decode(r)
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorsTreeMath(t *testing.T) {
	type vector struct {
		Leaves  leafCount    `json:"n_leaves"`
		Nodes   int          `json:"n_nodes"`
		Root    nodeIndex    `json:"root"`
		Left    []*nodeIndex `json:"left"`
		Right   []*nodeIndex `json:"right"`
		Parent  []*nodeIndex `json:"parent"`
		Sibling []*nodeIndex `json:"sibling"`
	}
	for _, tt := range loadVectors[vector](t, "tree-math") {
		if got := tt.Leaves.nodes(); got != tt.Nodes {
			t.Errorf("%d leaves: nodes() = %d, want %d", tt.Leaves, got, tt.Nodes)
		}
		if got := tt.Leaves.root(); got != tt.Root {
			t.Errorf("%d leaves: root() = %d, want %d", tt.Leaves, got, tt.Root)
		}
		for i := range tt.Nodes {
			x := nodeIndex(i)
			if want := tt.Left[i]; (want == nil) != x.isLeaf() || want != nil && x.left() != *want {
				t.Errorf("%d leaves: left(%d) is wrong", tt.Leaves, x)
			}
			if want := tt.Right[i]; (want == nil) != x.isLeaf() || want != nil && x.right() != *want {
				t.Errorf("%d leaves: right(%d) is wrong", tt.Leaves, x)
			}
			p, ok := tt.Leaves.parent(x)
			if want := tt.Parent[i]; (want != nil) != ok || ok && p != *want {
				t.Errorf("%d leaves: parent(%d) = %d, %v", tt.Leaves, x, p, ok)
			}
			if want := tt.Sibling[i]; want != nil && x.sibling() != *want {
				t.Errorf("%d leaves: sibling(%d) = %d, want %d", tt.Leaves, x, x.sibling(), *want)
			}
		}
	}
}

func TestVectorsCryptoBasics(t *testing.T) {
	type vector struct {
		Suite   Suite `json:"cipher_suite"`
		RefHash struct {
			Label      string
			Out, Value hexBytes
		} `json:"ref_hash"`
		Expand struct {
			Secret, Context, Out hexBytes
			Label                string
			Length               int
		} `json:"expand_with_label"`
		Derive struct {
			Secret, Out hexBytes
			Label       string
		} `json:"derive_secret"`
		DeriveTree struct {
			Secret, Out hexBytes
			Label       string
			Generation  uint32
			Length      int
		} `json:"derive_tree_secret"`
		Sign struct {
			Priv, Pub, Content, Signature hexBytes
			Label                         string
		} `json:"sign_with_label"`
		Encrypt struct {
			Priv, Pub, Context, Plaintext, Ciphertext hexBytes
			KEMOutput                                 hexBytes `json:"kem_output"`
			Label                                     string
		} `json:"encrypt_with_label"`
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "crypto-basics") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			same(t, "RefHash", s.refHash(tt.RefHash.Label, tt.RefHash.Value), tt.RefHash.Out)
			same(t, "ExpandWithLabel", s.expandWithLabel(tt.Expand.Secret, tt.Expand.Label, tt.Expand.Context, tt.Expand.Length), tt.Expand.Out)
			same(t, "DeriveSecret", s.deriveSecret(tt.Derive.Secret, tt.Derive.Label), tt.Derive.Out)
			context := codec.AppendU32(nil, tt.DeriveTree.Generation)
			same(t, "DeriveTreeSecret", s.expandWithLabel(tt.DeriveTree.Secret, tt.DeriveTree.Label, context, tt.DeriveTree.Length), tt.DeriveTree.Out)

			if !s.verify(tt.Sign.Pub, tt.Sign.Label, tt.Sign.Content, tt.Sign.Signature) {
				t.Error("the signature does not verify")
			}
			signer := vectorSigner(t, s, tt.Sign.Priv)
			pub, err := s.signatureKey(signer)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "signature key", pub, tt.Sign.Pub)
			sig, err := s.sign(signer, tt.Sign.Label, tt.Sign.Content)
			if err != nil || !s.verify(pub, tt.Sign.Label, tt.Sign.Content, sig) {
				t.Errorf("a signature of ours does not verify: %v", err)
			}

			key := s.storedKey(scalar(s, tt.Encrypt.Priv))
			same(t, "public key", key.public(), tt.Encrypt.Pub)
			got, err := s.decryptWithLabel(key, tt.Encrypt.Label, tt.Encrypt.Context, hpkeCiphertext{tt.Encrypt.KEMOutput, tt.Encrypt.Ciphertext})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "plaintext", got, tt.Encrypt.Plaintext)
			ct, err := s.encryptWithLabel(tt.Encrypt.Pub, tt.Encrypt.Label, tt.Encrypt.Context, tt.Encrypt.Plaintext)
			if err != nil {
				t.Fatal(err)
			}
			got, err = s.decryptWithLabel(key, tt.Encrypt.Label, tt.Encrypt.Context, ct)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "plaintext of ours", got, tt.Encrypt.Plaintext)
		})
	}
	count.report(t)
}

func TestVectorsSecretTree(t *testing.T) {
	type vector struct {
		Suite      Suite    `json:"cipher_suite"`
		Encryption hexBytes `json:"encryption_secret"`
		SenderData struct {
			Secret     hexBytes `json:"sender_data_secret"`
			Ciphertext hexBytes
			Key, Nonce hexBytes
		} `json:"sender_data"`
		Leaves [][]struct {
			Generation uint32
			AppKey     hexBytes `json:"application_key"`
			AppNonce   hexBytes `json:"application_nonce"`
			HSKey      hexBytes `json:"handshake_key"`
			HSNonce    hexBytes `json:"handshake_nonce"`
		}
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "secret-tree") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(fmt.Sprint(s.name, " ", len(tt.Leaves)), func(t *testing.T) {
			var key messageKey
			s.senderDataKey(&key, tt.SenderData.Secret, tt.SenderData.Ciphertext)
			same(t, "sender data key", key.key[:s.nk], tt.SenderData.Key)
			same(t, "sender data nonce", key.nonce[:], tt.SenderData.Nonce)
			tree := newSecretTree(s, leafCountFor(LeafIndex(len(tt.Leaves)-1)), tt.Encryption)
			for i, keys := range tt.Leaves {
				l := LeafIndex(i)
				opened, err := tree.opened(l)
				if err != nil {
					t.Fatal(err)
				}
				tree = opened
				for _, want := range keys {
					for kind, k := range map[ratchetKind][2]hexBytes{application: {want.AppKey, want.AppNonce}, handshake: {want.HSKey, want.HSNonce}} {
						var key messageKey
						r, err := tree.ratchet(l, kind).key(s, want.Generation, &key, 64, 1000)
						if err != nil {
							t.Fatal(err)
						}
						tree.set(newOwner(), l, kind, r)
						same(t, "key", key.key[:s.nk], k[0])
						same(t, "nonce", key.nonce[:], k[1])
					}
				}
			}
			if len(tree.subtrees) != 0 && len(tt.Leaves)&(len(tt.Leaves)-1) == 0 {
				t.Errorf("%d secrets left in a tree that was used up", len(tree.subtrees))
			}
		})
	}
	count.report(t)
}

func TestVectorsMessageProtection(t *testing.T) {
	type vector struct {
		Suite           Suite    `json:"cipher_suite"`
		GroupID         hexBytes `json:"group_id"`
		Epoch           uint64
		TreeHash        hexBytes `json:"tree_hash"`
		Transcript      hexBytes `json:"confirmed_transcript_hash"`
		SignaturePriv   hexBytes `json:"signature_priv"`
		SignaturePub    hexBytes `json:"signature_pub"`
		Encryption      hexBytes `json:"encryption_secret"`
		SenderData      hexBytes `json:"sender_data_secret"`
		Membership      hexBytes `json:"membership_key"`
		Proposal        hexBytes
		ProposalPriv    hexBytes `json:"proposal_priv"`
		ProposalPub     hexBytes `json:"proposal_pub"`
		Commit          hexBytes
		CommitPriv      hexBytes `json:"commit_priv"`
		CommitPub       hexBytes `json:"commit_pub"`
		Application     hexBytes
		ApplicationPriv hexBytes `json:"application_priv"`
	}
	const sender = LeafIndex(1) // of a group of two, as the vectors' description says
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "message-protection") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			context := (&GroupContext{Suite: s.id, GroupID: tt.GroupID, Epoch: tt.Epoch, TreeHash: tt.TreeHash, ConfirmedTranscriptHash: tt.Transcript}).encode(nil)
			openPublic := func(msg []byte, want []byte) {
				t.Helper()
				a, tag, err := decodePublicMessage(msg)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "membership tag", a.membershipTag(s, tt.Membership, context), tag)
				if err := a.verify(s, tt.SignaturePub, context); err != nil {
					t.Error(err)
				}
				same(t, "content", a.content.body, want)
			}
			tree := newSecretTree(s, 2, tt.Encryption)
			openPrivate := func(msg []byte, want []byte) {
				t.Helper()
				r, err := readMessageOf(msg, wirePrivateMessage)
				if err != nil {
					t.Fatal(err)
				}
				p, err := decodePrivateMessage(r)
				if err != nil {
					t.Fatal(err)
				}
				w := newWorkspace()
				d, err := s.openSenderData(w, &p, msg, tt.SenderData)
				if err != nil {
					t.Fatal(err)
				}
				opened, err := tree.opened(d.leaf)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := opened.ratchet(d.leaf, kindOf(p.kind)).key(s, d.generation, &w.key, 64, 1000); err != nil {
					t.Fatal(err)
				}
				var a authenticatedContent
				if err := s.openContent(w, &p, msg, d, &a); err != nil {
					t.Fatal(err)
				}
				if err := a.verify(s, tt.SignaturePub, context); err != nil {
					t.Error(err)
				}
				if p.kind == ContentApplication {
					same(t, "content", a.content.application, want)
				} else {
					same(t, "content", a.content.body, want)
				}
			}
			openPublic(tt.ProposalPub, tt.Proposal)
			openPublic(tt.CommitPub, tt.Commit)
			openPrivate(tt.ProposalPriv, tt.Proposal)
			openPrivate(tt.CommitPriv, tt.Commit)
			openPrivate(tt.ApplicationPriv, tt.Application)

			// And what this package seals, it opens.
			for kind, body := range map[ContentType][]byte{
				ContentProposal: tt.Proposal, ContentCommit: tt.Commit, ContentApplication: codec.AppendVec(nil, tt.Application),
			} {
				for _, wire := range []wireFormat{wirePublicMessage, wirePrivateMessage} {
					a := &authenticatedContent{wire: wire, content: framedContent{
						groupID: tt.GroupID, epoch: tt.Epoch, sender: Sender{SenderMember, sender}, kind: kind, body: body,
					}}
					if kind == ContentCommit {
						a.tag = make([]byte, s.nh)
					}
					if err := a.sign(s, vectorSigner(t, s, tt.SignaturePriv), context); err != nil {
						t.Fatal(err)
					}
					if wire == wirePublicMessage {
						if kind != ContentApplication {
							openPublic(a.publicMessage(s, tt.Membership, context), body)
						}
						continue
					}
					opened, err := tree.opened(sender)
					if err != nil {
						t.Fatal(err)
					}
					var key messageKey
					if _, err := opened.ratchet(sender, kindOf(kind)).next(s, &key); err != nil {
						t.Fatal(err)
					}
					for _, padding := range []int{0, 1, 512} {
						w := newWorkspace()
						w.key = key
						msg, err := s.seal(w, a, senderData{leaf: sender, guard: newGuard()}, tt.SenderData, padding)
						if err != nil {
							t.Fatal(err)
						}
						if kind == ContentApplication {
							openPrivate(msg, tt.Application)
						} else {
							openPrivate(msg, body)
						}
					}
				}
			}
		})
	}
	count.report(t)
}

func TestVectorsKeySchedule(t *testing.T) {
	type vector struct {
		Suite   Suite    `json:"cipher_suite"`
		GroupID hexBytes `json:"group_id"`
		Init    hexBytes `json:"initial_init_secret"`
		Epochs  []struct {
			TreeHash      hexBytes `json:"tree_hash"`
			Commit        hexBytes `json:"commit_secret"`
			PSK           hexBytes `json:"psk_secret"`
			Transcript    hexBytes `json:"confirmed_transcript_hash"`
			Context       hexBytes `json:"group_context"`
			Joiner        hexBytes `json:"joiner_secret"`
			Welcome       hexBytes `json:"welcome_secret"`
			Init          hexBytes `json:"init_secret"`
			SenderData    hexBytes `json:"sender_data_secret"`
			Encryption    hexBytes `json:"encryption_secret"`
			ExporterSec   hexBytes `json:"exporter_secret"`
			Authenticator hexBytes `json:"epoch_authenticator"`
			External      hexBytes `json:"external_secret"`
			ExternalPub   hexBytes `json:"external_pub"`
			Confirmation  hexBytes `json:"confirmation_key"`
			Membership    hexBytes `json:"membership_key"`
			Resumption    hexBytes `json:"resumption_psk"`
			Exporter      struct {
				Label           string
				Context, Secret hexBytes
				Length          int
			}
		}
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "key-schedule") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			initSecret := []byte(tt.Init)
			for i, e := range tt.Epochs {
				context := (&GroupContext{Suite: s.id, GroupID: tt.GroupID, Epoch: uint64(i), TreeHash: e.TreeHash, ConfirmedTranscriptHash: e.Transcript}).encode(nil)
				same(t, "group context", context, e.Context)
				joiner := s.joinerSecret(initSecret, e.Commit, context)
				same(t, "joiner secret", joiner, e.Joiner)
				ks := s.keySchedule(joiner, e.PSK)
				same(t, "welcome secret", s.deriveSecret(ks.intermediate, "welcome"), e.Welcome)
				got, encryption := ks.epoch(context)
				same(t, "encryption secret", encryption, e.Encryption)
				same(t, "sender data secret", got.senderData, e.SenderData)
				same(t, "exporter secret", got.exporter, e.ExporterSec)
				same(t, "external secret", got.external, e.External)
				same(t, "confirmation key", got.confirmation, e.Confirmation)
				same(t, "membership key", got.membership, e.Membership)
				same(t, "resumption key", got.resumption, e.Resumption)
				same(t, "epoch authenticator", got.authenticator, e.Authenticator)
				same(t, "init secret", got.init, e.Init)
				external, err := s.deriveKey(got.external)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "external public key", external.public(), e.ExternalPub)
				exported, err := s.export(got.exporter, e.Exporter.Label, e.Exporter.Context, e.Exporter.Length)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "exported secret", exported, e.Exporter.Secret)
				initSecret = got.init
			}
		})
	}
	count.report(t)
}

func TestVectorsPSKSecret(t *testing.T) {
	type vector struct {
		Suite Suite `json:"cipher_suite"`
		PSKs  []struct {
			ID    hexBytes `json:"psk_id"`
			PSK   hexBytes
			Nonce hexBytes `json:"psk_nonce"`
		}
		Secret hexBytes `json:"psk_secret"`
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "psk_secret") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		var psks []preSharedKey
		for _, p := range tt.PSKs {
			psks = append(psks, preSharedKey{PreSharedKeyID{Type: PSKExternal, ID: p.ID, Nonce: p.Nonce}, p.PSK})
		}
		same(t, fmt.Sprint(s.name, " with ", len(psks), " keys"), s.pskSecret(psks), tt.Secret)
	}
	count.report(t)
}

func TestVectorsTranscriptHashes(t *testing.T) {
	type vector struct {
		Suite     Suite    `json:"cipher_suite"`
		Key       hexBytes `json:"confirmation_key"`
		Content   hexBytes `json:"authenticated_content"`
		Interim   hexBytes `json:"interim_transcript_hash_before"`
		Confirmed hexBytes `json:"confirmed_transcript_hash_after"`
		After     hexBytes `json:"interim_transcript_hash_after"`
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "transcript-hashes") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		a := parsed(t, tt.Content, func(r *codec.Reader) *authenticatedContent {
			a := &authenticatedContent{wire: wireFormat(r.U16())}
			a.content.decodeHeader(r)
			a.content.decodeBody(r, tt.Content)
			a.decodeAuth(r)
			return a
		})
		confirmed := s.confirmedTranscriptHash(tt.Interim, a)
		same(t, "confirmed transcript hash", confirmed, tt.Confirmed)
		same(t, "confirmation tag", s.mac(tt.Key, confirmed), a.tag)
		same(t, "interim transcript hash", s.interimTranscriptHash(confirmed, a.tag), tt.After)
	}
	count.report(t)
}

func TestVectorsWelcome(t *testing.T) {
	type vector struct {
		Suite      Suite    `json:"cipher_suite"`
		Init       hexBytes `json:"init_priv"`
		KeyPackage hexBytes `json:"key_package"`
		Signer     hexBytes `json:"signer_pub"`
		Welcome    hexBytes
	}
	var count suiteCount
	for _, tt := range loadVectors[vector](t, "welcome") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			k := parsed(t, tt.KeyPackage[messageHeaderLen:], decodeKeyPackage)
			w, err := parseWelcome(tt.Welcome)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := k.Ref()
			if err != nil {
				t.Fatal(err)
			}
			at := slices.IndexFunc(w.secrets, func(e encryptedGroupSecrets) bool { return bytes.Equal(e.newMember, ref) })
			if at < 0 {
				t.Fatal("the welcome is not for the key package")
			}
			plain, err := s.decryptWithLabel(s.storedKey(scalar(s, tt.Init)), "Welcome", w.groupInfo, w.secrets[at].secrets)
			if err != nil {
				t.Fatal(err)
			}
			secrets := parsed(t, plain, decodeGroupSecrets)
			ks := s.keySchedule(secrets.joiner, s.pskSecret(nil))
			key, nonce := ks.welcomeKey()
			opened, err := s.open(key, nonce, w.groupInfo, nil)
			if err != nil {
				t.Fatal(err)
			}
			info := parsed(t, opened, decodeGroupInfo)
			if !s.verify(tt.Signer, "GroupInfoTBS", info.tbs(nil), info.signature) {
				t.Error("signature of the group info")
			}
			e, _ := ks.epoch(info.context.encode(nil))
			same(t, "confirmation tag", s.mac(e.confirmation, info.context.ConfirmedTranscriptHash), info.tag)
		})
	}
	count.report(t)
}

func TestVectorsTreeOperations(t *testing.T) {
	type vector struct {
		Suite      Suite    `json:"cipher_suite"`
		Before     hexBytes `json:"tree_before"`
		Proposal   hexBytes
		Sender     LeafIndex `json:"proposal_sender"`
		After      hexBytes  `json:"tree_after"`
		HashBefore hexBytes  `json:"tree_hash_before"`
		HashAfter  hexBytes  `json:"tree_hash_after"`
	}
	for _, tt := range loadVectors[vector](t, "tree-operations") {
		s, err := tt.Suite.lookup()
		if err != nil {
			t.Fatal(err)
		}
		tree := parsed(t, tt.Before, func(r *codec.Reader) *ratchetTree { return decodeTree(s, r) })
		same(t, "tree hash before", tree.rootHash(), tt.HashBefore)
		p := parsed(t, tt.Proposal, decodeProposal)
		list := &proposalList{}
		switch v := p.(type) {
		case Add:
			list.adds = append(list.adds, v)
		case Update:
			list.updates = append(list.updates, CommittedProposal{v, Sender{SenderMember, tt.Sender}, true})
		case Remove:
			list.removes = append(list.removes, v.Removed)
		default:
			t.Fatalf("proposal %T", p)
		}
		after, _, _, err := (&epoch{s: s, tree: tree}).apply(list)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "tree after", after.encode(nil), tt.After)
		same(t, "tree hash after", after.rootHash(), tt.HashAfter)
		same(t, "tree before, afterwards", tree.encode(nil), tt.Before)
	}
}

func TestVectorsTreeValidation(t *testing.T) {
	type vector struct {
		Suite       Suite `json:"cipher_suite"`
		Tree        hexBytes
		GroupID     hexBytes      `json:"group_id"`
		Hashes      []hexBytes    `json:"tree_hashes"`
		Resolutions [][]nodeIndex `json:"resolutions"`
	}
	var count suiteCount
	for i, tt := range loadVectors[vector](t, "tree-validation") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(fmt.Sprint(i, " ", s.name), func(t *testing.T) {
			tree := parsed(t, tt.Tree, func(r *codec.Reader) *ratchetTree { return decodeTree(s, r) })
			if len(tree.nodes) != len(tt.Hashes) {
				t.Fatalf("%d nodes, want %d", len(tree.nodes), len(tt.Hashes))
			}
			for x := range tree.nodes {
				same(t, fmt.Sprint("tree hash of ", x), tree.hash(nodeIndex(x)), tt.Hashes[x])
				if got := tree.resolution(nil, nodeIndex(x), nil); !slices.Equal(got, tt.Resolutions[x]) {
					t.Errorf("resolution of %d = %v, want %v", x, got, tt.Resolutions[x])
				}
			}
			if err := tree.verify(tt.GroupID, nil, anyCredential); err != nil {
				t.Error(err)
			}
			same(t, "tree written again", tree.encode(nil), tt.Tree)
		})
	}
	count.report(t)
}

func anyCredential(leaf, old *LeafNode) error { return nil }

func TestVectorsTreeKEM(t *testing.T) {
	type vector struct {
		Suite      Suite    `json:"cipher_suite"`
		GroupID    hexBytes `json:"group_id"`
		Epoch      uint64
		Transcript hexBytes `json:"confirmed_transcript_hash"`
		Tree       hexBytes `json:"ratchet_tree"`
		Private    []struct {
			Index         LeafIndex
			Encryption    hexBytes `json:"encryption_priv"`
			SignaturePriv hexBytes `json:"signature_priv"`
			PathSecrets   []struct {
				Node   nodeIndex
				Secret hexBytes `json:"path_secret"`
			} `json:"path_secrets"`
		} `json:"leaves_private"`
		Paths []struct {
			Sender      LeafIndex
			Path        hexBytes   `json:"update_path"`
			PathSecrets []hexBytes `json:"path_secrets"`
			Commit      hexBytes   `json:"commit_secret"`
			HashAfter   hexBytes   `json:"tree_hash_after"`
		} `json:"update_paths"`
	}
	var count suiteCount
	for i, tt := range loadVectors[vector](t, "treekem") {
		s := count.suite(t, tt.Suite)
		if s == nil {
			continue
		}
		t.Run(fmt.Sprint(i, " ", s.name), func(t *testing.T) {
			tree := parsed(t, tt.Tree, func(r *codec.Reader) *ratchetTree { return decodeTree(s, r) })
			keys := make(map[LeafIndex][]pathKey)
			signers := make(map[LeafIndex]crypto.Signer)
			for _, p := range tt.Private {
				own := []pathKey{{p.Index.node(), s.storedKey(scalar(s, p.Encryption))}}
				same(t, "leaf key", own[0].key.public(), tree.leaf(p.Index).EncryptionKey)
				for _, ps := range p.PathSecrets {
					key, err := s.pathNodeKey(ps.Secret)
					if err != nil {
						t.Fatal(err)
					}
					same(t, "path key", key.public(), tree.nodes[ps.Node].parent.encryptionKey)
					own = append(own, pathKey{ps.Node, key})
				}
				keys[p.Index], signers[p.Index] = own, vectorSigner(t, s, p.SignaturePriv)
			}
			context := func(tree *ratchetTree) []byte {
				return (&GroupContext{Suite: s.id, GroupID: tt.GroupID, Epoch: tt.Epoch, TreeHash: tree.rootHash(), ConfirmedTranscriptHash: tt.Transcript}).encode(nil)
			}
			for _, up := range tt.Paths {
				path := parsed(t, up.Path, decodeUpdatePath)
				after := tree.clone()
				steps, err := after.mergePath(up.Sender, path)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "tree hash", after.rootHash(), up.HashAfter)
				if err := path.leaf.verify(s, tt.GroupID, up.Sender); err != nil {
					t.Error(err)
				}
				if err := after.checkParentHashes(); err != nil {
					t.Error(err)
				}
				for self, own := range keys {
					if self == up.Sender {
						continue
					}
					got, commit, err := after.openPath(path, steps, self, own, context(after), nil)
					if err != nil {
						t.Fatal(err)
					}
					same(t, "commit secret", commit, up.Commit)
					meet, err := s.pathNodeKey(up.PathSecrets[self])
					if err != nil {
						t.Fatal(err)
					}
					x := commonAncestor(self.node(), up.Sender.node())
					same(t, "path key", keyOf(got, x).raw, meet.raw)
				}

				// A path of ours over the same tree.
				ours := tree.clone()
				made, err := ours.makePath(up.Sender, *tree.leaf(up.Sender), signers[up.Sender], tt.GroupID)
				if err != nil {
					t.Fatal(err)
				}
				sealed, err := made.seal(ours, context(ours), nil)
				if err != nil {
					t.Fatal(err)
				}
				theirs := tree.clone()
				steps, err = theirs.mergePath(up.Sender, parsed(t, sealed.encode(nil), decodeUpdatePath))
				if err != nil {
					t.Fatal(err)
				}
				same(t, "tree hash", theirs.rootHash(), ours.rootHash())
				for self, own := range keys {
					if self == up.Sender {
						continue
					}
					_, commit, err := theirs.openPath(sealed, steps, self, own, context(theirs), nil)
					if err != nil {
						t.Fatal(err)
					}
					same(t, "commit secret of ours", commit, made.commit)
				}
			}
		})
	}
	count.report(t)
}

func TestVectorsDeserialization(t *testing.T) {
	type vector struct {
		Header hexBytes `json:"vlbytes_header"`
		Length int
	}
	for _, tt := range loadVectors[vector](t, "deserialization") {
		r := codec.NewReader(tt.Header)
		if got := r.Varint(); r.Done() != nil || got != tt.Length {
			t.Errorf("length of %x = %d, %v, want %d", tt.Header, got, r.Err(), tt.Length)
		}
		same(t, "header", codec.AppendVarint(nil, tt.Length), tt.Header)
	}
}

func TestVectorsMessages(t *testing.T) {
	type vector map[string]hexBytes
	message := func(w wireFormat, decode func(r *codec.Reader, all []byte) []byte) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) {
			r, err := readMessageOf(b, w)
			if err != nil {
				return nil, err
			}
			out := decode(r, b)
			return append(appendMessageHeader(nil, w), out...), r.Done()
		}
	}
	public := message(wirePublicMessage, func(r *codec.Reader, all []byte) []byte {
		r.Rest()
		a, tag, err := decodePublicMessage(all)
		if err != nil {
			r.Take(err)
			return nil
		}
		b := a.encodeAuth(a.content.encode(nil))
		if a.content.sender.Type == SenderMember {
			b = codec.AppendVec(b, tag)
		}
		return b
	})
	proposal := func(kind ProposalType) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) {
			r := codec.NewReader(append(codec.AppendU16(nil, uint16(kind)), b...))
			p := decodeProposal(r)
			if err := r.Done(); err != nil {
				return nil, err
			}
			return p.encode(nil), nil
		}
	}
	suite, _ := X25519AES128.lookup()
	kinds := map[string]func([]byte) ([]byte, error){
		"mls_welcome": message(wireWelcome, func(r *codec.Reader, _ []byte) []byte { return decodeWelcome(r).encode(nil) }),
		"mls_group_info": message(wireGroupInfo, func(r *codec.Reader, _ []byte) []byte {
			return decodeGroupInfo(r).encode(nil)
		}),
		"mls_key_package": message(wireKeyPackage, func(r *codec.Reader, _ []byte) []byte { return decodeKeyPackage(r).encode(nil) }),
		"ratchet_tree": func(b []byte) ([]byte, error) {
			r := codec.NewReader(b)
			tree := decodeTree(suite, r)
			if err := r.Done(); err != nil {
				return nil, err
			}
			return tree.encode(nil), nil
		},
		"group_secrets": func(b []byte) ([]byte, error) {
			r := codec.NewReader(b)
			s := decodeGroupSecrets(r)
			return s.encode(nil), r.Done()
		},
		"add_proposal":                      proposal(ProposalAdd),
		"update_proposal":                   proposal(ProposalUpdate),
		"remove_proposal":                   proposal(ProposalRemove),
		"pre_shared_key_proposal":           proposal(ProposalPreSharedKey),
		"re_init_proposal":                  proposal(ProposalReInit),
		"external_init_proposal":            proposal(ProposalExternalInit),
		"group_context_extensions_proposal": proposal(ProposalGroupContextExtensions),
		"commit": func(b []byte) ([]byte, error) {
			r := codec.NewReader(b)
			c := decodeCommit(r)
			return c.encode(nil), r.Done()
		},
		"public_message_application": public,
		"public_message_proposal":    public,
		"public_message_commit":      public,
		"private_message": message(wirePrivateMessage, func(r *codec.Reader, all []byte) []byte {
			p, err := decodePrivateMessage(r)
			if err != nil {
				r.Take(err)
				return nil
			}
			aad, _ := p.aads(all)
			return codec.AppendVec(codec.AppendVec(bytes.Clone(aad), p.encryptedSenderData), p.ciphertext)
		}),
	}
	all := loadVectors[vector](t, "messages")
	if len(all[0]) != len(kinds) {
		t.Errorf("%d structures in a vector, %d are read", len(all[0]), len(kinds))
	}
	for i, tt := range all {
		for kind, b := range tt {
			again, ok := kinds[kind]
			if !ok {
				t.Fatalf("vector %d has a %s", i, kind)
			}
			got, err := again(b)
			if err != nil {
				t.Errorf("vector %d, %s: %v", i, kind, err)
				continue
			}
			same(t, fmt.Sprintf("vector %d, %s, written again", i, kind), got, b)
		}
	}
}

type passiveVector struct {
	Suite        Suite `json:"cipher_suite"`
	ExternalPSKs []struct {
		ID  hexBytes `json:"psk_id"`
		PSK hexBytes
	} `json:"external_psks"`
	KeyPackage    hexBytes  `json:"key_package"`
	SignaturePriv hexBytes  `json:"signature_priv"`
	Encryption    hexBytes  `json:"encryption_priv"`
	Init          hexBytes  `json:"init_priv"`
	Welcome       hexBytes  `json:"welcome"`
	Tree          *hexBytes `json:"ratchet_tree"`
	Authenticator hexBytes  `json:"initial_epoch_authenticator"`
	Epochs        []struct {
		Proposals     []hexBytes
		Commit        hexBytes
		Authenticator hexBytes `json:"epoch_authenticator"`
	}
}

func TestVectorsPassiveClient(t *testing.T) {
	for _, name := range []string{"passive-client-welcome", "passive-client-handling-commit"} {
		t.Run(name, func(t *testing.T) {
			var count suiteCount
			commits := 0
			for i, tt := range loadVectors[passiveVector](t, name) {
				s := count.suite(t, tt.Suite)
				t.Run(fmt.Sprint(i, " ", tt.Suite), func(t *testing.T) {
					if s == nil {
						k, err := ParseKeyPackage(tt.KeyPackage[messageHeaderLen:])
						if err != nil {
							t.Fatal(err)
						}
						if err := k.Verify(); !errors.Is(err, ErrUnsupported) {
							t.Fatalf("a key package of %v: %v", tt.Suite, err)
						}
						t.Skipf("unsupported suite %v", tt.Suite)
					}
					commits += runPassive(t, s, tt)
				})
			}
			count.report(t)
			t.Logf("%d commits processed", commits)
		})
	}
}

func runPassive(t *testing.T, s *suite, tt passiveVector) (commits int) {
	k, err := ParseKeyPackage(tt.KeyPackage[messageHeaderLen:])
	if err != nil {
		t.Fatal(err)
	}
	b := &KeyPackageBundle{pkg: k, init: s.storedKey(scalar(s, tt.Init)), leaf: s.storedKey(scalar(s, tt.Encryption))}
	if err := k.Verify(); err != nil {
		t.Fatal(err)
	}
	same(t, "init key", b.init.public(), k.InitKey)
	same(t, "leaf key", b.leaf.public(), k.LeafNode.EncryptionKey)
	psk := func(id PreSharedKeyID) ([]byte, error) {
		for _, p := range tt.ExternalPSKs {
			if id.Type == PSKExternal && bytes.Equal(p.ID, id.ID) {
				return p.PSK, nil
			}
		}
		return nil, ErrMissingPSK
	}
	c := Config{Signer: vectorSigner(t, s, tt.SignaturePriv), ValidateCredential: anyCredential}
	o := &JoinOptions{PSK: psk}
	if tt.Tree != nil {
		o.RatchetTree = *tt.Tree
	}
	g, _, err := Join(c, tt.Welcome, b, o)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "epoch authenticator", g.EpochAuthenticator(), tt.Authenticator)
	for i, e := range tt.Epochs {
		for _, p := range e.Proposals {
			if _, err := g.Process(p, nil); err != nil {
				t.Fatalf("epoch %d: %v", i, err)
			}
		}
		got, err := g.Process(e.Commit, &ProcessOptions{PSK: psk})
		if err != nil {
			t.Fatalf("epoch %d: %v", i, err)
		}
		if g, err = got.Staged.Merge(g); err != nil {
			t.Fatalf("epoch %d: %v", i, err)
		}
		same(t, "epoch authenticator", g.EpochAuthenticator(), e.Authenticator)
		commits++
	}
	return commits
}
