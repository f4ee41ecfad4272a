package search

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrQuery is wrapped by the errors of Parse: what is wrong, in words for who typed it.
var ErrQuery = errors.New("not a query")

// Limits of a query.
const (
	MaxQuery = 1 << 10 // bytes
	maxParts = 32
)

// Query is what somebody looks for: everything in it must hold.
type Query struct {
	Phrases []Phrase
	Filters []Filter
	Before  time.Time // zero: no bound; else only what is older
	After   time.Time // zero: no bound; else only what is as old or newer
}

// Phrase is a word, or words that follow on each other.
type Phrase struct {
	Tokens []Token
	Prefix bool // the last is the beginning of a word
	Not    bool
}

// Filter is a name before a colon and what stands behind it. Whom it means is the
// caller's to find out.
type Filter struct {
	Key   string // FilterFrom, FilterIn or FilterHas
	Value string
	Not   bool
}

// The keys of filters.
const (
	FilterFrom = "from"
	FilterIn   = "in"
	FilterHas  = "has"
)

// Kinds are the values of FilterHas.
var Kinds = []string{"link", "file", "image", "voice", "poll"}

// Parse reads a query: words; "words in this order"; begin* for the beginning of a word, at
// least three letters; from:NAME, in:NAME, has:KIND; before:DATE and after:DATE (that day
// or later), where DATE is a day, month or year in loc: 2026-03-01, 2026-03, 2026. A minus
// in front of a word, phrase or filter excludes it. A value with spaces is quoted.
func Parse(s string, loc *time.Location) (*Query, error) {
	if len(s) > MaxQuery {
		return nil, fmt.Errorf("%w: it has %d bytes, and at most %d are allowed", ErrQuery, len(s), MaxQuery)
	}
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrQuery)
	}
	q := &Query{}
	for parts := 0; ; parts++ {
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
		if s == "" {
			break
		}
		if parts == maxParts {
			return nil, fmt.Errorf("%w: it has more than %d parts", ErrQuery, maxParts)
		}
		rest, not := strings.CutPrefix(s, "-")
		var err error
		if s, err = q.part(rest, not, loc); err != nil {
			return nil, err
		}
	}
	if !slices.ContainsFunc(q.Phrases, func(p Phrase) bool { return !p.Not }) &&
		!slices.ContainsFunc(q.Filters, func(f Filter) bool { return !f.Not }) && q.Before.IsZero() && q.After.IsZero() {
		if len(q.Phrases)+len(q.Filters) > 0 {
			return nil, fmt.Errorf("%w: it only excludes; add what to look for", ErrQuery)
		}
		return nil, fmt.Errorf("%w: there is no word, number or emoji in it", ErrQuery)
	}
	return q, nil
}

// part reads one part and returns what follows it.
func (q *Query) part(s string, not bool, loc *time.Location) (rest string, err error) {
	if i := strings.IndexFunc(s, func(r rune) bool { return r == ':' || r == '"' || unicode.IsSpace(r) }); i > 0 && s[i] == ':' {
		key := strings.ToLower(s[:i])
		switch key {
		case FilterFrom, FilterIn, FilterHas, "before", "after":
			value, _, rest, err := word(s[i+1:])
			if err != nil {
				return "", err
			}
			return rest, q.filter(key, value, not, loc)
		}
	}
	text, quoted, rest, err := word(s)
	if err != nil {
		return "", err
	}
	p := Phrase{Tokens: Tokens(text), Not: not}
	if len(p.Tokens) == 0 {
		return rest, nil // a dash, a comma
	}
	last := p.Tokens[len(p.Tokens)-1]
	if p.Prefix = !quoted && strings.HasSuffix(text, "*") && !last.Gram; p.Prefix && utf8.RuneCountInString(last.Text) < 3 {
		return "", fmt.Errorf("%w: the beginning of a word has at least three letters, and %q has fewer", ErrQuery, text)
	}
	q.Phrases = append(q.Phrases, p)
	return rest, nil
}

// word takes a word, or what is quoted.
func word(s string) (text string, quoted bool, rest string, err error) {
	if inner, ok := strings.CutPrefix(s, `"`); ok {
		text, rest, ok = strings.Cut(inner, `"`)
		if !ok {
			return "", true, "", fmt.Errorf("%w: a quotation mark is not closed", ErrQuery)
		}
		return text, true, rest, nil
	}
	if i := strings.IndexFunc(s, unicode.IsSpace); i >= 0 {
		return s[:i], false, s[i:], nil
	}
	return s, false, "", nil
}

func (q *Query) filter(key, value string, not bool, loc *time.Location) error {
	if value == "" {
		return fmt.Errorf("%w: there is nothing behind %s:", ErrQuery, key)
	}
	switch key {
	case FilterHas:
		if value = strings.ToLower(value); !slices.Contains(Kinds, value) {
			return fmt.Errorf("%w: has:%s is not known; there are: %s", ErrQuery, value, strings.Join(Kinds, ", "))
		}
	case "before", "after":
		at, err := date(value, loc)
		if err != nil {
			return err
		}
		if not {
			return fmt.Errorf("%w: -%s: is written without the minus; before: and after: are each other's opposite", ErrQuery, key)
		}
		switch {
		case key == "before" && (q.Before.IsZero() || at.Before(q.Before)):
			q.Before = at
		case key == "after" && at.After(q.After):
			q.After = at
		}
		return nil
	}
	q.Filters = append(q.Filters, Filter{key, value, not})
	return nil
}

func date(s string, loc *time.Location) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, "2006-01", "2006"} {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q is no date; write 2026-03-01, 2026-03 or 2026", ErrQuery, s)
}

// Within reports whether a time is within the query's bounds.
func (q *Query) Within(t time.Time) bool {
	return (q.Before.IsZero() || t.Before(q.Before)) && !t.Before(q.After)
}

// Match reports whether a text has all the query's phrases and none that it excludes. It
// knows nothing of filters and times.
func (q *Query) Match(text string) bool {
	tokens := Tokens(text)
	for _, p := range q.Phrases {
		found := false
		p.find(tokens, func(int) bool { found = true; return false })
		if found == p.Not {
			return false
		}
	}
	return true
}

// Range is a stretch of a text, in bytes.
type Range struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// maxRanges is how many stretches of one text are pointed out.
const maxRanges = 256

// Highlights returns where a text has what the query looks for: in order, apart from
// each other, at most 256.
func (q *Query) Highlights(text string) []Range {
	tokens := Tokens(text)
	var all []Range
	for _, p := range q.Phrases {
		if p.Not {
			continue
		}
		n := 0
		p.find(tokens, func(i int) bool {
			all = append(all, Range{tokens[i].Start, tokens[i+len(p.Tokens)-1].End})
			n++
			return n < maxRanges
		})
	}
	slices.SortFunc(all, func(a, b Range) int { return a.Start - b.Start })
	out := all[:0]
	for _, r := range all {
		if len(out) > 0 && r.Start <= out[len(out)-1].End {
			out[len(out)-1].End = max(out[len(out)-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out[:min(len(out), maxRanges)]
}

// find calls f with each place where the phrase stands, until it returns false.
func (p *Phrase) find(tokens []Token, f func(int) bool) {
	for i := 0; i+len(p.Tokens) <= len(tokens); i++ {
		if p.at(tokens[i:]) && !f(i) {
			return
		}
	}
}

func (p *Phrase) at(tokens []Token) bool {
	for i, want := range p.Tokens {
		got := tokens[i]
		same := got.Text == want.Text || p.Prefix && i == len(p.Tokens)-1 && !got.Gram && strings.HasPrefix(got.Text, want.Text)
		if !same || i > 0 && touching(p.Tokens[i-1], want) && !touching(tokens[i-1], got) {
			return false
		}
	}
	return true
}

// terms returns what a text that matches must have in the index.
func (q *Query) terms() (out []string) {
	add := func(kind, term string) { out = append(out, kind+term) }
	for _, p := range q.Phrases {
		if p.Not {
			continue
		}
		for i, t := range p.Tokens {
			switch before := i > 0 && touching(p.Tokens[i-1], t); {
			case p.Prefix && i == len(p.Tokens)-1:
				for _, n := range prefixes {
					if b, long := beginning(t.Text, n); long {
						add(termPrefix, b)
						break
					}
				}
			case !t.Gram:
				add(termWord, t.Text)
			case i+1 < len(p.Tokens) && touching(t, p.Tokens[i+1]):
				add(termGrams, t.Text+p.Tokens[i+1].Text)
			case !before:
				add(termGrams, t.Text)
			}
		}
	}
	return out
}
