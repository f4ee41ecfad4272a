package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// What may be wrong with a safety code, each for the user to be told apart.
var (
	ErrNotSafetyCode = errors.New("this is not a safety code; one begins with " + safetyPrefix)
	ErrCodeDamaged   = errors.New("the safety code is damaged: a part is missing or was changed")
	ErrCodeNewer     = errors.New("the safety code was made by a newer version of Sotto; update and try again")
	ErrOthersCode    = errors.New("the safety code is of other people")
	ErrKeysDiffer    = errors.New("the account keys differ")
	ErrLogsDiffer    = errors.New("the account logs differ")
)

const (
	safetyPrefix   = "sotto:v#"
	safetyVersion  = 1
	safetySize     = 1 + 2*(32+key.Size+4+32)
	safetyChecksum = 4
)

// Side is what a safety code says of one account.
type Side struct {
	Account AccountID
	Key     key.AccountPublic // the newest
	Head    Head              // of the account log
}

func (l *Log) side() Side { return Side{l.id, l.key, l.Head()} }

// SafetyCode is what one person's screen shows for the other to scan: more than a
// safety number, it holds the heads of both account logs, so that a relay that shows
// the two of them different logs is found out (spec/identity.md, section 7).
type SafetyCode struct {
	Mine   Side // of who shows it
	Theirs Side // of the other, as who shows it knows them
}

// NewSafetyCode returns the code that the owner of mine shows the owner of theirs.
func NewSafetyCode(mine, theirs *Log) SafetyCode { return SafetyCode{mine.side(), theirs.side()} }

// Text returns the code as it is shown, about 280 characters.
func (c SafetyCode) Text() string {
	b := make([]byte, 0, safetySize+safetyChecksum)
	b = codec.AppendU8(b, safetyVersion)
	for _, s := range []Side{c.Mine, c.Theirs} {
		b = s.Key.Append(append(b, s.Account[:]...))
		b = append(codec.AppendU32(b, s.Head.Seq), s.Head.Hash[:]...)
	}
	return safetyPrefix + base64.RawURLEncoding.EncodeToString(append(b, codeChecksum(b)...))
}

func codeChecksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("sotto/safety code/1"), b...))
	return sum[:safetyChecksum]
}

// IsSafetyCode reports whether a text means to be a safety code.
func IsSafetyCode(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), safetyPrefix) }

// ParseSafetyCode reads what Text wrote. It returns ErrNotSafetyCode,
// ErrCodeDamaged or ErrCodeNewer.
func ParseSafetyCode(text string) (SafetyCode, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), safetyPrefix)
	if !ok {
		return SafetyCode{}, ErrNotSafetyCode
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) < 1+safetyChecksum {
		return SafetyCode{}, ErrCodeDamaged
	}
	b, sum := b[:len(b)-safetyChecksum], b[len(b)-safetyChecksum:]
	switch {
	case string(sum) != string(codeChecksum(b)) || b[0] == 0:
		return SafetyCode{}, ErrCodeDamaged
	case b[0] != safetyVersion:
		return SafetyCode{}, ErrCodeNewer
	}
	r := codec.NewReader(b[1:])
	var c SafetyCode
	for _, s := range []*Side{&c.Mine, &c.Theirs} {
		r.Copy(s.Account[:])
		s.Key = readPublic[key.AccountPublic](r)
		s.Head.Seq = r.U32()
		r.Copy(s.Head.Hash[:])
	}
	if r.Done() != nil {
		return SafetyCode{}, ErrCodeDamaged
	}
	return c, nil
}

// Check holds a code that the owner of theirs has shown against what this side
// knows. It returns an error that wraps ErrOthersCode, ErrKeysDiffer or ErrLogsDiffer.
// A log of which one side knows more than the other is no error if the key in force
// is the same.
func (c SafetyCode) Check(mine, theirs *Log) error {
	if c.Mine.Account != theirs.id || c.Theirs.Account != mine.id {
		return fmt.Errorf("%w: of %s and %s", ErrOthersCode, c.Mine.Account.Short(), c.Theirs.Account.Short())
	}
	for _, s := range []struct {
		of   string
		code Side
		log  *Log
	}{{"theirs", c.Mine, theirs}, {"yours", c.Theirs, mine}} {
		if s.code.Head.Seq <= s.log.Head().Seq && !s.log.Contains(s.code.Head) {
			return fmt.Errorf("%w: of %s there are two at entry %d", ErrLogsDiffer, s.of, s.code.Head.Seq)
		}
		if string(s.code.Key.Bytes()) != string(s.log.key.Bytes()) {
			return fmt.Errorf("%w: %s are not the same here and there", ErrKeysDiffer, s.of)
		}
	}
	return nil
}
