package mls

import "sotto/crypto/codec"

// A preSharedKey is a key and its name.
type preSharedKey struct {
	id     PreSharedKeyID
	secret []byte
}

// pskSecret combines keys in their order (RFC 9420, Section 8.4).
func (s *suite) pskSecret(psks []preSharedKey) []byte {
	secret := make([]byte, s.nh)
	for i := range psks {
		extracted := s.extract(nil, psks[i].secret)
		context := psks[i].id.encode(nil)
		context = codec.AppendU16(context, uint16(i))
		context = codec.AppendU16(context, uint16(len(psks)))
		input := s.expandWithLabel(extracted, "derived psk", context, s.nh)
		next := s.extract(input, secret)
		clear(extracted)
		clear(input)
		clear(secret)
		secret = next
	}
	return secret
}
