package mls

import (
	"crypto/hpke"
	"fmt"

	"sotto/crypto/codec"
)

func (c *GroupContext) encode(b []byte) []byte {
	b = codec.AppendU16(b, version)
	b = codec.AppendU16(b, uint16(c.Suite))
	b = codec.AppendVec(b, c.GroupID)
	b = codec.AppendU64(b, c.Epoch)
	b = codec.AppendVec(b, c.TreeHash)
	b = codec.AppendVec(b, c.ConfirmedTranscriptHash)
	return c.Extensions.encode(b)
}

func decodeGroupContext(r *codec.Reader) (c GroupContext) {
	if v := r.U16(); v != version && r.Err() == nil {
		r.Take(fmt.Errorf("%w: protocol version %d", ErrUnsupported, v))
	}
	c.Suite = Suite(r.U16())
	c.GroupID = r.Vec(maxVec)
	c.Epoch = r.U64()
	c.TreeHash = r.Vec(maxVec)
	c.ConfirmedTranscriptHash = r.Vec(maxVec)
	c.Extensions = decodeExtensions(r)
	return c
}

// epochSecrets are what is derived from an epoch's secret and kept (RFC 9420,
// Section 8, Table 4). The encryption secret is not among them: it goes into
// the secret tree, which takes it apart.
type epochSecrets struct {
	senderData    []byte
	exporter      []byte
	external      []byte
	confirmation  []byte
	membership    []byte
	resumption    []byte
	authenticator []byte
	init          []byte
}

// joinerSecret begins the key schedule of a new epoch.
func (s *suite) joinerSecret(initSecret, commitSecret, context []byte) []byte {
	joined := s.extract(initSecret, commitSecret)
	defer clear(joined)
	return s.expandWithLabel(joined, "joiner", context, s.nh)
}

// A keySchedule stands between the joiner secret and the epoch's secrets. Its
// owner calls wipe.
type keySchedule struct {
	s            *suite
	intermediate []byte
}

func (s *suite) keySchedule(joiner, psk []byte) keySchedule {
	return keySchedule{s, s.extract(joiner, psk)}
}

func (k keySchedule) wipe() { clear(k.intermediate) }

// welcomeKey returns the key and nonce of the group info in a welcome
// (Section 12.4.3.1).
func (k keySchedule) welcomeKey() (key, nonce []byte) {
	secret := k.s.deriveSecret(k.intermediate, "welcome")
	defer clear(secret)
	d := k.s.kdf(secret)
	defer d.done()
	key, nonce = make([]byte, k.s.nk), make([]byte, nonceSize)
	d.expand(key, "key", nil)
	d.expand(nonce, "nonce", nil)
	return key, nonce
}

// epoch returns the secrets of the epoch with this context, and the encryption
// secret apart.
func (k keySchedule) epoch(context []byte) (e *epochSecrets, encryption []byte) {
	secret := k.s.expandWithLabel(k.intermediate, "epoch", context, k.s.nh)
	defer clear(secret)
	return k.s.epochSecrets(secret)
}

func (s *suite) epochSecrets(epochSecret []byte) (e *epochSecrets, encryption []byte) {
	d := s.kdf(epochSecret)
	defer d.done()
	return &epochSecrets{
		senderData:    d.derive("sender data"),
		exporter:      d.derive("exporter"),
		external:      d.derive("external"),
		confirmation:  d.derive("confirm"),
		membership:    d.derive("membership"),
		resumption:    d.derive("resumption"),
		authenticator: d.derive("authentication"),
		init:          d.derive("init"),
	}, d.derive("encryption")
}

// export is MLS-Exporter (Section 8.5).
func (s *suite) export(exporter []byte, name string, context []byte, length int) ([]byte, error) {
	if length < 0 || length > 255*s.nh {
		return nil, fmt.Errorf("export %q: %w: %d bytes, at most %d", name, ErrInvalid, length, 255*s.nh)
	}
	secret := s.deriveSecret(exporter, name)
	defer clear(secret)
	return s.expandWithLabel(secret, "exported", s.sum(context), length), nil
}

// transcript hashes of Section 8.2: confirmed from the interim hash before and the
// commit with its signature, then interim from that and the confirmation tag.

func (s *suite) confirmedTranscriptHash(interim []byte, c *authenticatedContent) []byte {
	header := c.content.encodeHeader(codec.AppendU16(nil, uint16(c.wire)))
	return s.sum(interim, header, c.content.body, codec.AppendVec(nil, c.signature))
}

func (s *suite) interimTranscriptHash(confirmed, tag []byte) []byte {
	return s.sum(confirmed, codec.AppendVec(nil, tag))
}

const externalInitLabel = "MLS 1.0 external init secret"

// encapsulateInit makes an init secret for the holders of the external key
// (Section 8.3).
func (s *suite) encapsulateInit(externalPub []byte) (kemOutput, initSecret []byte, err error) {
	pub, err := s.kem.NewPublicKey(externalPub)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: external key: %w", ErrInvalid, errPublicKey)
	}
	kemOutput, sender, err := hpke.NewSender(pub, s.hkdf, s.aead, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: external key: %w", ErrInvalid, err)
	}
	initSecret, err = sender.Export(externalInitLabel, s.nh)
	return kemOutput, initSecret, err
}

func (s *suite) decapsulateInit(externalSecret, kemOutput []byte) ([]byte, error) {
	key, err := s.deriveKey(externalSecret)
	if err != nil {
		return nil, err
	}
	k, err := key.parse()
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(kemOutput, k, s.hkdf, s.aead, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: external init: %w", ErrAuthentication, err)
	}
	return recipient.Export(externalInitLabel, s.nh)
}
