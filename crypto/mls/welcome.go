package mls

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"

	"sotto/crypto/codec"
)

// groupInfo is GroupInfo of RFC 9420, Section 12.4.3.
type groupInfo struct {
	context    GroupContext
	extensions Extensions
	tag        []byte
	signer     LeafIndex
	signature  []byte
}

func (i *groupInfo) tbs(b []byte) []byte {
	b = i.context.encode(b)
	b = i.extensions.encode(b)
	b = codec.AppendVec(b, i.tag)
	return codec.AppendU32(b, uint32(i.signer))
}

func (i *groupInfo) encode(b []byte) []byte { return codec.AppendVec(i.tbs(b), i.signature) }

func decodeGroupInfo(r *codec.Reader) *groupInfo {
	return &groupInfo{
		context:    decodeGroupContext(r),
		extensions: decodeExtensions(r),
		tag:        r.Vec(maxVec),
		signer:     LeafIndex(r.U32()),
		signature:  r.Vec(maxVec),
	}
}

// groupInfo returns the signed group info of e.
func (e *epoch) groupInfo(signer crypto.Signer, extensions Extensions) (*groupInfo, error) {
	i := &groupInfo{context: e.context, extensions: extensions, tag: e.tag, signer: e.self}
	var err error
	if i.signature, err = e.s.sign(signer, "GroupInfoTBS", i.tbs(nil)); err != nil {
		return nil, fmt.Errorf("sign group info: %w", err)
	}
	return i, nil
}

// encodedTree returns the tree in i, or else a copy of that from outside.
func (i *groupInfo) encodedTree(outside []byte) []byte {
	if encoded, inside := i.extensions.Get(ExtensionRatchetTree); inside {
		return encoded
	}
	return bytes.Clone(outside)
}

// parseTree reads a ratchet_tree structure, of which the tree keeps parts.
func parseTree(s *suite, encoded []byte) (*ratchetTree, error) {
	r := codec.NewReader(encoded)
	tree := decodeTree(s, r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read tree: %w", err)
	}
	return tree, nil
}

// ratchetTree returns the tree of i, from i itself or from outside, after
// verifying everything in it and the signature of i (Section 12.4.3.1).
func (i *groupInfo) ratchetTree(s *suite, outside []byte, c *Config) (*ratchetTree, error) {
	encoded := i.encodedTree(outside)
	if encoded == nil {
		return nil, fmt.Errorf("%w: group info without the tree", ErrInvalid)
	}
	tree, err := parseTree(s, encoded)
	if err != nil {
		return nil, err
	}
	tree.hashLeaves()
	if !bytes.Equal(tree.rootHash(), i.context.TreeHash) {
		return nil, fmt.Errorf("%w: tree that is not the group's", ErrInvalid)
	}
	signer := tree.leaf(i.signer)
	if signer == nil {
		return nil, fmt.Errorf("%w: group info signed by leaf %d", ErrNotMember, i.signer)
	}
	if !s.verify(signer.SignatureKey, "GroupInfoTBS", i.tbs(nil), i.signature) {
		return nil, fmt.Errorf("%w: signature of the group info", ErrAuthentication)
	}
	if err := c.checkContextExtensions(i.context.Extensions); err != nil {
		return nil, err
	}
	if err := tree.verify(i.context.GroupID, i.context.Extensions, c.ValidateCredential); err != nil {
		return nil, fmt.Errorf("verify tree: %w", err)
	}
	return tree, nil
}

// groupSecrets is GroupSecrets of Section 12.4.3.1.
type groupSecrets struct {
	joiner     []byte
	pathSecret []byte // nil if there is none
	psks       []PreSharedKeyID
}

func (g *groupSecrets) encode(b []byte) []byte {
	b = codec.AppendVec(b, g.joiner)
	if g.pathSecret == nil {
		b = append(b, 0)
	} else {
		b = codec.AppendVec(append(b, 1), g.pathSecret)
	}
	return codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range g.psks {
			b = g.psks[i].encode(b)
		}
		return b
	})
}

func decodeGroupSecrets(r *codec.Reader) *groupSecrets {
	g := &groupSecrets{joiner: r.Vec(maxVec)}
	if present(r) {
		g.pathSecret = r.Vec(maxVec)
	}
	r.Each(maxVec, func(r *codec.Reader) { g.psks = append(g.psks, decodePreSharedKeyID(r)) })
	return g
}

// welcomeMessage is Welcome of Section 12.4.3.1.
type welcomeMessage struct {
	suite     Suite
	secrets   []encryptedGroupSecrets
	groupInfo []byte // encrypted
}

type encryptedGroupSecrets struct {
	newMember []byte // reference of a key package
	secrets   hpkeCiphertext
}

// size returns about as many bytes as encode appends, and no less.
func (w *welcomeMessage) size() int {
	n := len(w.groupInfo) + 16
	for i := range w.secrets {
		s := &w.secrets[i]
		n += len(s.newMember) + len(s.secrets.kemOutput) + len(s.secrets.ciphertext) + 12
	}
	return n
}

func (w *welcomeMessage) encode(b []byte) []byte {
	b = codec.AppendU16(b, uint16(w.suite))
	b = codec.AppendVecFunc(b, func(b []byte) []byte {
		for i := range w.secrets {
			b = w.secrets[i].secrets.encode(codec.AppendVec(b, w.secrets[i].newMember))
		}
		return b
	})
	return codec.AppendVec(b, w.groupInfo)
}

func decodeWelcome(r *codec.Reader) *welcomeMessage {
	w := &welcomeMessage{suite: Suite(r.U16())}
	r.Each(maxVec, func(r *codec.Reader) {
		w.secrets = append(w.secrets, encryptedGroupSecrets{r.Vec(maxVec), decodeHPKECiphertext(r)})
	})
	w.groupInfo = r.Vec(maxVec)
	return w
}

func parseWelcome(msg []byte) (*welcomeMessage, error) {
	r, err := readMessageOf(msg, wireWelcome)
	if err != nil {
		return nil, err
	}
	w := decodeWelcome(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("read welcome: %w", err)
	}
	return w, nil
}

// WelcomeRefs returns the references of the key packages that a welcome, an
// MLSMessage, is for. They are parts of it.
func WelcomeRefs(welcome []byte) ([][]byte, error) {
	w, err := parseWelcome(welcome)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for i := range w.secrets {
		out = append(out, w.secrets[i].newMember)
	}
	return out, nil
}

// welcome makes the welcome to e for those whom list adds, at the leaves added.
// path is that of the commit, or nil.
func (e *epoch) welcome(signer crypto.Signer, ks keySchedule, joiner []byte, list *proposalList, added []LeafIndex, path *newPath, withTree bool) ([]byte, error) {
	s := e.s
	var extensions Extensions
	if withTree {
		extensions = Extensions{{ExtensionRatchetTree, e.tree.encode(nil)}}
	}
	info, err := e.groupInfo(signer, extensions)
	if err != nil {
		return nil, err
	}
	key, nonce := ks.welcomeKey()
	defer clear(key)
	aead, err := s.newAEAD(key)
	if err != nil {
		return nil, err
	}
	w := &welcomeMessage{
		suite:     s.id,
		secrets:   make([]encryptedGroupSecrets, len(added)),
		groupInfo: aead.Seal(nil, nonce, info.encode(nil), nil),
	}
	context := encryptContext("Welcome", w.groupInfo)
	err = parallel(len(added), func(i int) error {
		secrets := groupSecrets{joiner: joiner, psks: list.psks}
		if path != nil {
			meet := commonAncestor(added[i].node(), e.self.node())
			at := slices.IndexFunc(path.steps, func(s pathStep) bool { return s.node == meet })
			secrets.pathSecret = path.secrets[at]
		}
		plain := secrets.encode(nil)
		defer clear(plain)
		k := list.adds[i].KeyPackage
		ct, err := s.encrypt(k.InitKey, context, plain)
		if err != nil {
			return err
		}
		w.secrets[i] = encryptedGroupSecrets{k.ref(s), ct}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w.encode(appendMessageHeader(make([]byte, 0, messageHeaderLen+w.size()), wireWelcome)), nil
}

// JoinOptions says what a welcome may need besides. A nil *JoinOptions is empty.
type JoinOptions struct {
	PSK         PSKs
	RatchetTree []byte // the tree, if the welcome does not carry it

	// Resumes is the group that the welcome continues, by ReInit or branch. Join
	// verifies that they belong together (Section 12.4.3.1), except for the
	// members: whether those are the same is for the caller to judge. A welcome
	// that continues a group is not accepted without it, nor another with it.
	Resumes *Group
}

// Join joins a group by a welcome, an MLSMessage, made for the key package of b, and says
// which member made that. It verifies the whole tree; that the device is in no other group of the same
// name is for the caller to see. The bundle is deleted once Changes of the group is
// durable. It keeps no part of welcome, and returns ErrNotForUs for one that names
// other key packages.
func Join(c Config, welcome []byte, b *KeyPackageBundle, o *JoinOptions) (g *Group, inviter LeafIndex, err error) {
	if o == nil {
		o = &JoinOptions{}
	}
	if g, inviter, err = join(c, welcome, b, o); err != nil {
		return nil, 0, fmt.Errorf("join group: %w", err)
	}
	return g, inviter, nil
}

func join(c Config, welcome []byte, b *KeyPackageBundle, o *JoinOptions) (*Group, LeafIndex, error) {
	config, err := c.complete()
	if err != nil {
		return nil, 0, err
	}
	w, err := parseWelcome(welcome)
	if err != nil {
		return nil, 0, err
	}
	ref := b.Ref()
	at := slices.IndexFunc(w.secrets, func(s encryptedGroupSecrets) bool { return bytes.Equal(s.newMember, ref) })
	if at < 0 {
		return nil, 0, ErrNotForUs
	}
	if w.suite != b.pkg.Suite {
		return nil, 0, fmt.Errorf("%w: welcome of suite %v for a key package of %v", ErrInvalid, w.suite, b.pkg.Suite)
	}
	s, err := w.suite.lookup()
	if err != nil {
		return nil, 0, err
	}
	sigKey, err := s.signatureKey(c.Signer)
	if err != nil {
		return nil, 0, err
	}
	if !bytes.Equal(sigKey, b.pkg.LeafNode.SignatureKey) {
		return nil, 0, fmt.Errorf("%w: signer of another key than the key package's", ErrInvalid)
	}

	plain, err := s.decryptWithLabel(b.init, "Welcome", w.groupInfo, w.secrets[at].secrets)
	if err != nil {
		return nil, 0, err
	}
	defer clear(plain)
	r := codec.NewReader(plain)
	secrets := decodeGroupSecrets(r)
	if err := r.Done(); err != nil {
		return nil, 0, fmt.Errorf("read group secrets: %w", err)
	}
	for _, id := range secrets.psks {
		if len(id.Nonce) != s.nh {
			return nil, 0, fmt.Errorf("%w: nonce of a pre-shared key of %d bytes", ErrInvalid, len(id.Nonce))
		}
	}
	psks, err := lookupPSKs(secrets.psks, o.PSK, o.Resumes)
	if err != nil {
		return nil, 0, err
	}
	psk := s.pskSecret(psks)
	ks := s.keySchedule(secrets.joiner, psk)
	clear(psk)
	defer ks.wipe()
	key, nonce := ks.welcomeKey()
	defer clear(key)
	opened, err := s.open(key, nonce, w.groupInfo, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: group info does not decrypt", ErrAuthentication)
	}
	r = codec.NewReader(opened)
	info := decodeGroupInfo(r)
	if err := r.Done(); err != nil {
		return nil, 0, fmt.Errorf("read group info: %w", err)
	}
	if info.context.Suite != s.id {
		return nil, 0, fmt.Errorf("%w: group of suite %v", ErrInvalid, info.context.Suite)
	}
	if err := checkResumed(secrets.psks, &info.context, o.Resumes); err != nil {
		return nil, 0, err
	}
	tree, err := info.ratchetTree(s, o.RatchetTree, config)
	if err != nil {
		return nil, 0, err
	}
	self, found := tree.find(b.pkg.LeafNode)
	if !found {
		return nil, 0, fmt.Errorf("%w: tree without the own leaf", ErrInvalid)
	}
	e := &epoch{
		s: s, context: info.context.clone(), tree: tree, self: self, tag: bytes.Clone(info.tag),
		keys: []pathKey{{self.node(), b.leaf}},
	}
	e.encoded = e.context.encode(nil)
	if secrets.pathSecret != nil {
		if info.signer == self {
			return nil, 0, fmt.Errorf("%w: welcome from oneself", ErrInvalid)
		}
		steps := tree.filteredDirectPath(info.signer)
		meet := commonAncestor(self.node(), info.signer.node())
		from := slices.IndexFunc(steps, func(s pathStep) bool { return s.node == meet })
		if from < 0 {
			return nil, 0, fmt.Errorf("%w: path secret for a node off the path", ErrInvalid)
		}
		var last []byte
		if e.keys, last, err = tree.followPath(secrets.pathSecret, steps[from:], e.keys); err != nil {
			return nil, 0, err
		}
		clear(last)
	}
	var encryption []byte
	e.secrets, encryption = ks.epoch(e.encoded)
	if !sameTag(e.tag, s.mac(e.secrets.confirmation, e.context.ConfirmedTranscriptHash)) {
		return nil, 0, fmt.Errorf("%w: confirmation tag", ErrAuthentication)
	}
	e.interim = s.interimTranscriptHash(e.context.ConfirmedTranscriptHash, e.tag)
	return begun(config, e, newSecretTree(s, tree.leaves, encryption)), info.signer, nil
}

// clone copies c out of a message.
func (c *GroupContext) clone() GroupContext {
	return decodeGroupContext(codec.NewReader(c.encode(nil)))
}

// find returns the place of a leaf that is in t as it is.
func (t *ratchetTree) find(leaf *LeafNode) (at LeafIndex, found bool) {
	t.members(func(i LeafIndex, l *LeafNode) bool {
		if bytes.Equal(l.encoded, leaf.encoded) {
			at, found = i, true
		}
		return !found
	})
	return at, found
}

// resumptionID names the key by which another group continues g.
func (g *Group) resumptionID() PreSharedKeyID {
	id := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, GroupID: g.cur.context.GroupID, Epoch: g.cur.context.Epoch}
	if g.cur.reinit != nil {
		id.Usage = ResumptionReInit
	}
	return id
}

// checkResumed verifies that a group whose first epoch has this context, and which
// mixed in keys of these names, continues old or, if that is nil, none.
func checkResumed(psks []PreSharedKeyID, c *GroupContext, old *Group) error {
	var id *PreSharedKeyID
	for i := range psks {
		if psks[i].Type != PSKResumption || psks[i].Usage == ResumptionApplication {
			continue
		}
		if id != nil {
			return fmt.Errorf("%w: group that continues two", ErrInvalid)
		}
		id = &psks[i]
	}
	switch {
	case id == nil && old == nil:
		return nil
	case id == nil:
		return fmt.Errorf("%w: group that does not continue the other", ErrInvalid)
	case old == nil:
		return fmt.Errorf("%w: that of the group that is continued", ErrMissingPSK)
	case c.Epoch != 1:
		return fmt.Errorf("%w: group continued in its epoch %d", ErrInvalid, c.Epoch)
	case !bytes.Equal(id.GroupID, old.cur.context.GroupID):
		return fmt.Errorf("%w: group that continues another", ErrInvalid)
	}
	if id.Usage == ResumptionBranch {
		if c.Suite != old.cur.context.Suite {
			return fmt.Errorf("%w: branch of another suite", ErrInvalid)
		}
		return nil
	}
	want := old.cur.reinit
	if want == nil || id.Epoch != old.cur.context.Epoch {
		return fmt.Errorf("%w: reinitialization that was not committed", ErrInvalid)
	}
	if want.Version != version || want.Suite != c.Suite ||
		!bytes.Equal(want.GroupID, c.GroupID) || !want.Extensions.equal(c.Extensions) {
		return fmt.Errorf("%w: group that is not as the reinitialization says", ErrInvalid)
	}
	return nil
}
