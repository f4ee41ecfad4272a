package identity

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxName is the length of a profile name in characters (code points).
const MaxName = 64

// ErrName is wrapped by the errors about a profile name. Their text is for who chose
// the name.
var ErrName = errors.New("not a name")

// NormalizeName returns a name as it goes to others: in Unicode form NFC, without
// space around it. It refuses a name that is empty or longer than 64 characters,
// shows nothing, or holds what does not show: controls, line breaks, marks that
// turn the direction of what stands beside the name. The error wraps [ErrName].
func NormalizeName(name string) (string, error) {
	if len(name) > 16*MaxName { // before normalising, which may shorten it
		return "", fmt.Errorf("%w: longer than %d characters", ErrName, MaxName)
	}
	if !utf8.ValidString(name) {
		return "", fmt.Errorf("%w: not UTF-8", ErrName)
	}
	name = strings.TrimSpace(norm.NFC.String(name))
	shows := false
	for _, c := range name {
		if hidden(c) {
			return "", fmt.Errorf("%w: it holds the invisible character %U", ErrName, c)
		}
		shows = shows || unicode.In(c, unicode.L, unicode.N, unicode.P, unicode.S)
	}
	switch n := utf8.RuneCountInString(name); {
	case !shows:
		return "", fmt.Errorf("%w: it shows nothing", ErrName)
	case n > MaxName:
		return "", fmt.Errorf("%w: %d characters, at most %d", ErrName, n, MaxName)
	}
	return name, nil
}

// CheckName checks a name that came from somebody else: it must be as
// [NormalizeName] returns it.
func CheckName(name string) error {
	n, err := NormalizeName(name)
	if err == nil && n != name {
		err = fmt.Errorf("%w: not in normal form", ErrName)
	}
	return err
}

// hidden says what no name may hold. Of the format characters only the two joiners
// are allowed, which some scripts and joined emoji need.
func hidden(c rune) bool {
	if c == '\u200c' || c == '\u200d' {
		return false
	}
	return unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) ||
		c == '\u3164' || c == '\u115f' || c == '\u1160' || c == '\uffa0' // fillers: letters that show nothing
}
