package search

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func texts(tokens []Token) (out []string) {
	for _, t := range tokens {
		out = append(out, t.Text)
	}
	return out
}

func TestTokens(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"words and numbers", "Hello, World 2026!", []string{"hello", "world", "2026"}},
		{"marks of Latin letters", "CAFÉ naïve Ångström résumé", []string{"cafe", "naive", "angstrom", "resume"}},
		{"marks that follow their letter", "e\u0301te\u0301", []string{"ete"}},
		{"Cyrillic keeps its letters", "Йод й", []string{"йод", "й"}},
		{"Greek keeps its letters", "Ώρα", []string{"ώρα"}},
		{"compatibility forms", "ﬁne ＡＢＣ ①", []string{"fine", "abc", "1"}},
		{"apostrophes part words", "don't", []string{"don", "t"}},
		{"Han", "护照ok", []string{"护", "照", "ok"}},
		{"half-width Kana", "ｶﾞ", []string{"ガ"}},
		{"a long vowel", "ラーメン", []string{"ラ", "ー", "メ", "ン"}},
		{"Hangul, composed or not", "한\u1112\u1161\u11ab", []string{"한", "한"}},
		{"emoji without their colour", "👍🏽 ok❤️", []string{"👍", "ok", "❤"}},
		{"a family", "👨‍👩‍👧", []string{"👨", "👩", "👧"}},
		{"what is no UTF-8", "a\xffb", []string{"a", "b"}},
		{"nothing", " .,-— ", nil},
		{"a very long word", strings.Repeat("x", 100), []string{strings.Repeat("x", maxWord)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens := Tokens(c.text)
			if got := texts(tokens); !slices.Equal(got, c.want) {
				t.Errorf("%q: %q, want %q", c.text, got, c.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, query, want string }{
		{"words", "tea milk", "[tea] [milk]"},
		{"a phrase", `"green tea"`, "[green tea]"},
		{"a beginning", "photo*", "[photo]*"},
		{"what is excluded", `tea -milk -"hot water" -has:link`, "[tea] -[milk] -[hot water] -has:link"},
		{"filters", `from:ana in:"The Team" has:LINK`, "from:ana in:The Team has:link"},
		{"an address is no filter", "https://tea", "[https tea]"},
		{"a colon in a phrase", `"from:ana"`, "[from ana]"},
		{"days", "after:2026-03-01 before:2026-04", "2026-03-01..2026-04-01"},
		{"the closer of two bounds", "before:2026 before:2025 after:2020 after:2021-06", "2021-06-01..2025-01-01"},
		{"punctuation is nothing", "tea - , !", "[tea]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := Parse(c.query, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			minus := func(not bool) string { return map[bool]string{true: "-"}[not] }
			for _, p := range q.Phrases {
				got = append(got, minus(p.Not)+fmt.Sprint(texts(p.Tokens))+map[bool]string{true: "*"}[p.Prefix])
			}
			for _, f := range q.Filters {
				got = append(got, minus(f.Not)+f.Key+":"+f.Value)
			}
			if !q.After.IsZero() || !q.Before.IsZero() {
				got = append(got, q.After.Format(time.DateOnly)+".."+q.Before.Format(time.DateOnly))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s: %s, want %s", c.query, s, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for query, want := range map[string]string{
		"":                           "no word",
		" , ":                        "no word",
		"-tea":                       "only excludes",
		`"tea`:                       "not closed",
		"from:":                      "nothing behind from:",
		`in:""`:                      "nothing behind in:",
		"has:cake":                   "there are: link, file",
		"before:tomorrow":            "write 2026-03-01",
		"after:2026-02-30":           "write 2026-03-01",
		"-before:2026":               "without the minus",
		"ph*":                        "three letters",
		"a\xff":                      "not UTF-8",
		strings.Repeat("a ", 40):     "more than 32 parts",
		strings.Repeat("a", 1<<10+1): "at most 1024",
	} {
		if _, err := Parse(query, time.UTC); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", query, err, want)
		}
	}
}

func TestMatchAndHighlights(t *testing.T) {
	for _, c := range []struct {
		query, text string
		want        []string // what is pointed out; nil: no match
	}{
		{"tea", "Green TEA, teapot", []string{"TEA"}},
		{"tea*", "Green TEA, teapot", []string{"TEA", "teapot"}},
		{`"green tea"`, "green, tea; tea green", []string{"green, tea"}},
		{"cafe", "un café noir", []string{"café"}},
		{"复印", "护照复印件", []string{"复印"}},
		{"护照复印件", "护照 复印件", nil}, // letters must touch
		{"护照 复印件", "复印件，护照", []string{"复印件", "护照"}},
		{"tea -milk", "tea with milk", nil},
		{"aba", "aba aba", []string{"aba", "aba"}},
		{`"a b"`, "a b a b", []string{"a b", "a b"}},
		{"👍", "yes 👍🏽", []string{"👍"}},
		{"after:2020", "anything", []string{}},
	} {
		q, err := Parse(c.query, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Match(c.text); got != (c.want != nil) {
			t.Errorf("%q in %q: %v", c.query, c.text, got)
		}
		if c.want == nil {
			continue
		}
		got := []string{}
		for _, r := range q.Highlights(c.text) {
			got = append(got, c.text[r.Start:r.End])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q in %q points out %q, want %q", c.query, c.text, got, c.want)
		}
	}
}

// Tokens are in order, within the text, and say the same when they are taken again.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{"Hello café 护照", "e\u0301\u0302 ﬁ ｶﾞ 한", "👨‍👩‍👧👍🏽", "a\xff\xc3", "İǅ ẞ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at := 0
		for i, tok := range Tokens(text) {
			if tok.Start < at || tok.End <= tok.Start || tok.End > len(text) || tok.Text == "" || len(tok.Text) > maxWord || !utf8.ValidString(tok.Text) {
				t.Fatalf("token %d of %q is %+v behind %d", i, text, tok, at)
			}
			at = tok.Start
		}
	})
}

// A query never panics, and what it points out lies in the text. A text always has the
// terms of a query that it matches: else the index would hide it.
func FuzzQuery(f *testing.F) {
	f.Add(`tea "green tea" -milk from:ana before:2026-03-01`, "green tea")
	f.Add("护照复印件 pho*", "护照复印件 photo")
	f.Add(`-"a`, "a")
	f.Fuzz(func(t *testing.T, query, text string) {
		q, err := Parse(query, time.UTC)
		if err != nil {
			if !errors.Is(err, ErrQuery) {
				t.Fatal(err)
			}
			return
		}
		end := 0
		for _, r := range q.Highlights(text) {
			if r.Start < end || r.End <= r.Start || r.End > len(text) {
				t.Fatalf("%q in %q points out %v", query, text, r)
			}
			end = r.End
		}
		if !q.Match(text) {
			return
		}
		has := map[string]bool{}
		terms(Tokens(text), func(kind, term string) { has[kind+term] = true })
		for _, want := range q.terms() {
			if !has[want] {
				t.Fatalf("%q matches %q, which lacks the term %q", query, text, want)
			}
		}
	})
}
