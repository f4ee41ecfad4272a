package search

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Token is a unit of a text: a word or number, an emoji, or one letter of a script that
// is written without spaces.
type Token struct {
	Text       string // NFKC, lower case, without the marks of Latin letters
	Start, End int    // bytes of the text it was made of
	Gram       bool   // a letter of Han, Kana or Hangul
}

// maxWord is how many bytes of a word count. What is longer is no word that somebody
// types, and its beginning finds it.
const maxWord = 64

var gramScripts = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul}

// prolonged are the marks of Kana and Han that Unicode gives to several scripts.
func prolonged(r rune) bool { return r == 'ー' || r == '々' || r == '〆' }

func isGram(r rune) bool {
	return r >= 0x1100 && (r >= 0x4e00 && r <= 0x9fff || prolonged(r) || unicode.IsLetter(r) && unicode.In(r, gramScripts...))
}

// isEmoji reports symbols that stand for themselves. The colours of skin and the joiners
// do not count: 👍 finds 👍🏽.
func isEmoji(r rune) bool { return r >= 0x2000 && r != utf8.RuneError && unicode.Is(unicode.So, r) }

// Tokens returns the tokens of a text, in order. Bytes that are not UTF-8 end a word.
func Tokens(text string) []Token {
	t := tokenizer{tokens: make([]Token, 0, len(text)/5+1)}
	for i := 0; i < len(text); {
		// What cannot be changed by what follows it is normal already.
		if c := text[i]; c < utf8.RuneSelf && (i+1 == len(text) || text[i+1] < utf8.RuneSelf) {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			t.rune(rune(c), i, i+1)
			i++
			continue
		}
		if r, n := utf8.DecodeRuneInString(text[i:]); r >= 0x4e00 && r <= 0x9fff {
			t.rune(r, i, i+n)
			i += n
			continue
		}
		n := norm.NFKD.NextBoundaryInString(text[i:], true)
		if n <= 0 {
			n = len(text) - i
		}
		t.segment(text[i:i+n], i)
		i += n
	}
	t.word()
	return t.tokens
}

type tokenizer struct {
	tokens     []Token
	buf        []byte // of the word at hand
	start, end int
}

// segment takes a letter with its marks, or whatever Unicode keeps together.
func (t *tokenizer) segment(s string, at int) {
	d := norm.NFKD.String(s)
	latin := false
	for _, r := range d {
		if latin = unicode.Is(unicode.Latin, r); latin {
			break
		}
	}
	if latin {
		d = strings.Map(func(r rune) rune {
			if unicode.Is(unicode.Mn, r) {
				return -1
			}
			return r
		}, d)
	}
	for _, r := range norm.NFC.String(d) {
		t.rune(unicode.ToLower(r), at, at+len(s))
	}
}

func (t *tokenizer) rune(r rune, start, end int) {
	switch {
	case isGram(r):
		t.word()
		t.tokens = append(t.tokens, Token{string(r), start, end, true})
	case r < utf8.RuneSelf && ('a' <= r && r <= 'z' || '0' <= r && r <= '9'),
		r >= utf8.RuneSelf && r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsNumber(r)),
		len(t.buf) > 0 && unicode.In(r, unicode.Mn, unicode.Mc) && !unicode.Is(unicode.Variation_Selector, r):
		if len(t.buf) == 0 {
			t.start = start
		}
		if t.end = end; len(t.buf)+utf8.RuneLen(r) <= maxWord {
			t.buf = utf8.AppendRune(t.buf, r)
		}
	case isEmoji(r):
		t.word()
		t.tokens = append(t.tokens, Token{string(r), start, end, false})
	case r == 0xad || r == 0x200d || unicode.Is(unicode.Variation_Selector, r): // seen by nobody
	default:
		t.word()
	}
}

func (t *tokenizer) word() {
	if len(t.buf) > 0 {
		t.tokens = append(t.tokens, Token{string(t.buf), t.start, t.end, false})
		t.buf = t.buf[:0]
	}
}

// touching reports whether b is the letter right behind a.
func touching(a, b Token) bool { return a.Gram && b.Gram && a.End == b.Start }

// prefixes are the lengths, in letters, of the beginnings under which a word is found too.
var prefixes = [...]int{5, 3}

// Terms come in kinds, told by their first byte, so that no text makes another's.
const (
	termWord   = "w"
	termGrams  = "g" // one letter, or two that touch
	termPrefix = "p"
	termTag    = "t"
	termName   = "n"
)

// terms calls f with each term of a text; some come more than once.
func terms(tokens []Token, f func(kind, term string)) {
	for i, t := range tokens {
		if !t.Gram {
			f(termWord, t.Text)
			for _, n := range prefixes {
				if p, longer := beginning(t.Text, n); longer {
					f(termPrefix, p)
				}
			}
			continue
		}
		f(termGrams, t.Text)
		if i+1 < len(tokens) && touching(t, tokens[i+1]) {
			f(termGrams, t.Text+tokens[i+1].Text)
		}
	}
}

// beginning returns the first n letters of a word, and whether it has as many.
func beginning(word string, n int) (string, bool) {
	for i := range word {
		if n == 0 {
			return word[:i], true
		}
		n--
	}
	return word, n == 0
}
