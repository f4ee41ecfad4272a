package identity

import (
	"crypto/sha512"
	"fmt"
	"strings"

	"sotto/crypto/key"
)

// SafetyDigits is the length of a safety number.
const SafetyDigits = 60

// Party is one side of a safety number.
type Party struct {
	Account AccountID
	Key     key.AccountPublic // the newest
}

// Party returns the account with the key in force.
func (l *Log) Party() Party { return Party{l.id, l.key} }

// SafetyNumber returns the 60 digits that two people compare to know that nobody
// stands between them. Both sides get the same, whichever comes first. It stays the same
// until one of the two changes its account key (spec/identity.md, section 6).
func SafetyNumber(a, b Party) string {
	x, y := a.digits(), b.digits()
	return min(x, y) + max(x, y)
}

// iterations make each of a forger's tries at a key whose digits look alike cost
// that many hashes: some 12 bits more, on top of the digits' 100.
const iterations = 5200

func (p Party) digits() string {
	k := p.Key.Bytes()
	digest := append([]byte{0, 0}, k...)
	digest = append(digest, p.Account[:]...)
	for range iterations {
		sum := sha512.Sum512(append(digest, k...))
		digest = append(digest[:0], sum[:]...)
	}
	var out strings.Builder
	for i := 0; i < SafetyDigits/2; i += 5 { // five bytes make five digits
		var n uint64
		for _, c := range digest[i : i+5] {
			n = n<<8 | uint64(c)
		}
		fmt.Fprintf(&out, "%05d", n%100_000)
	}
	return out.String()
}
