package mls

import (
	"bytes"
	"errors"
	"fmt"

	"sotto/crypto/codec"
)

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

// lookupPSKs finds pre-shared keys, those of the epochs of groups at hand first.
func lookupPSKs(ids []PreSharedKeyID, psk PSKs, groups ...*Group) (out []preSharedKey, err error) {
	for _, id := range ids {
		var secret []byte
		for _, g := range groups {
			if g != nil && secret == nil && id.Type == PSKResumption && bytes.Equal(id.GroupID, g.cur.context.GroupID) {
				secret = g.resumption(id.Epoch)
			}
		}
		if secret == nil && psk != nil {
			if secret, err = psk(id); err != nil {
				if !errors.Is(err, ErrMissingPSK) {
					err = fmt.Errorf("%w: %w", ErrMissingPSK, err)
				}
				return nil, err
			}
		}
		if secret == nil {
			return nil, ErrMissingPSK
		}
		out = append(out, preSharedKey{id, secret})
	}
	return out, nil
}
