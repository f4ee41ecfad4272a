// Package markup says how the marks in a text are shown: it takes a text apart into
// blocks and spans for a screen to draw, or into plain text for a terminal. What is no
// mark stays as it was written; nothing is an error.
//
//	*bold*  _italic_  `code`  ||spoiler||  https://example.org
//	> a quote
//	- an item of a list
//	```
//	a block of code
//	```
//
// A mark opens where a word begins and closes where one ends, on the same line, so that
// 2*3*4 and snake_case stay as they are.
//
// # What is not here
//
// HTML: a screen puts the text of spans into text nodes. A link shows the very text that
// it leads to; nothing lets a text lead elsewhere.
package markup

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// BlockKind says what a line of a text is.
type BlockKind uint8

const (
	Line  BlockKind = iota // an ordinary one
	Quote                  // without its "> "
	Item                   // of a list, without its "- "
	Code                   // all lines of a block of code, without its fences
)

// Block is a line of a text, or a block of code.
type Block struct {
	Kind  BlockKind
	Spans []Span
}

// Style is how a span is shown: any of the bits.
type Style uint8

const (
	Bold Style = 1 << iota
	Italic
	Mono
	Spoiler
	Link    // Text is where it leads, too
	Mention // of the account that stands at this place of the text
)

// Span is a part of a line that is shown in one way.
type Span struct {
	Style Style
	Text  string
	At    int // where it stands in the text, in bytes
}

// Range is a part of a text, in bytes: a mention.
type Range struct{ Start, Length int }

// Parse takes a text apart. Mentions are ascending and none lies over another; those that
// are not in the text are left out. It takes time in proportion to the text.
func Parse(text string, mentions []Range) []Block {
	var out []Block
	lines := split(text)
	fences := fencesOf(lines)
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		if len(fences) > 0 && fences[0] == i {
			if len(fences) > 1 {
				out = append(out, Block{Code, codeOf(lines[i+1 : fences[1]])})
				i, fences = fences[1], fences[2:]
				continue
			}
			fences = nil // it is never closed
		}
		kind := Line
		switch {
		case strings.HasPrefix(l.text, "> "):
			kind = Quote
		case strings.HasPrefix(l.text, "- "):
			kind = Item
		}
		if kind != Line {
			l.text, l.at = l.text[2:], l.at+2
		}
		for len(mentions) > 0 && mentions[0].Start < l.at {
			mentions = mentions[1:]
		}
		out = append(out, Block{kind, inline(l, mentions)})
	}
	return out
}

// Plain returns a text for a terminal: without marks, and with what is behind a spoiler
// hidden.
func Plain(text string) string {
	var b strings.Builder
	for i, block := range Parse(text, nil) {
		if i > 0 {
			b.WriteByte('\n')
		}
		switch block.Kind {
		case Quote:
			b.WriteString("> ")
		case Item:
			b.WriteString("- ")
		}
		for _, s := range block.Spans {
			if s.Style&Spoiler == 0 {
				b.WriteString(s.Text)
				continue
			}
			for range utf8.RuneCountInString(s.Text) {
				b.WriteRune('█')
			}
		}
	}
	return b.String()
}

type line struct {
	text string
	at   int
}

func split(text string) (out []line) {
	at := 0
	for l := range strings.SplitSeq(text, "\n") {
		out = append(out, line{l, at})
		at += len(l) + 1
	}
	return out
}

const fence = "```"

// fencesOf returns the lines that are fences.
func fencesOf(lines []line) (out []int) {
	for i, l := range lines {
		if strings.TrimRight(l.text, " \r") == fence {
			out = append(out, i)
		}
	}
	return out
}

func codeOf(lines []line) []Span {
	if len(lines) == 0 {
		return nil
	}
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.text)
	}
	if b.Len() == 0 {
		return nil
	}
	return []Span{{Mono, b.String(), lines[0].at}}
}

// The marks within a line.
var marks = []struct {
	text  string
	style Style
}{{"||", Spoiler}, {"*", Bold}, {"_", Italic}, {"`", Mono}}

// open is a mark that is open, and where it closes.
type open struct {
	end   int
	mark  int
	style Style
}

// inline takes a line apart.
func inline(l line, mentions []Range) (out []Span) {
	s := l.text
	closers := make([][]int, len(marks))
	for m := range marks {
		closers[m] = closersOf(s, marks[m].text)
	}
	var stack []open
	style, from := Style(0), 0
	emit := func(to int, more Style) {
		if to > from {
			out = append(out, Span{style | more, s[from:to], l.at + from})
		}
		from = to
	}
	for i := 0; i < len(s); {
		limit := len(s)
		if n := len(stack); n > 0 {
			limit = stack[n-1].end
			if i == limit {
				emit(i, 0)
				i += len(marks[stack[n-1].mark].text)
				from, stack, style = i, stack[:n-1], style&^stack[n-1].style
				continue
			}
		}
		if len(mentions) > 0 && mentions[0].Start <= l.at+i {
			m := mentions[0]
			mentions = mentions[1:]
			if m.Start == l.at+i && m.Length > 0 && m.Length <= limit-i && utf8.ValidString(s[i:i+m.Length]) {
				emit(i, 0)
				emit(i+m.Length, Mention)
				i = from
			}
			continue
		}
		if n := linkAt(s[:limit], i); n > 0 {
			emit(i, 0)
			emit(i+n, Link)
			i = from
			continue
		}
		m, end := openAt(s, i, limit, style, closers)
		if m < 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			i += size
			continue
		}
		emit(i, 0)
		i += len(marks[m].text)
		from = i
		if marks[m].style == Mono { // nothing in it is a mark
			style |= Mono
			emit(end, 0)
			style &^= Mono
			i = end + len(marks[m].text)
			from = i
			for len(mentions) > 0 && mentions[0].Start < l.at+i {
				mentions = mentions[1:]
			}
			continue
		}
		style |= marks[m].style
		stack = append(stack, open{end, m, marks[m].style})
	}
	emit(len(s), 0)
	return out
}

// openAt returns the mark that opens at i and where it closes, before limit; -1 for none.
// What lies before i of closers is dropped: i only grows.
func openAt(s string, i, limit int, style Style, closers [][]int) (mark, end int) {
	for m, k := range marks {
		if style&k.style != 0 || strings.HasPrefix(s[min(i+len(k.text), limit):], k.text[:1]) || !strings.HasPrefix(s[i:limit], k.text) || !wordStarts(s, i, i+len(k.text)) {
			continue
		}
		for len(closers[m]) > 0 && closers[m][0] <= i+len(k.text) {
			closers[m] = closers[m][1:]
		}
		if len(closers[m]) > 0 && closers[m][0]+len(k.text) <= limit {
			return m, closers[m][0]
		}
	}
	return -1, 0
}

// wordStarts reports whether a mark from i to end stands where a word begins.
func wordStarts(s string, i, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:i])
	after, _ := utf8.DecodeRuneInString(s[end:])
	return end < len(s) && !unicode.IsSpace(after) && (i == 0 || !inWord(before))
}

// closersOf returns where a mark stands at the end of a word.
func closersOf(s, mark string) (out []int) {
	for at := 0; ; {
		i := strings.Index(s[at:], mark)
		if i < 0 {
			return out
		}
		i += at
		before, _ := utf8.DecodeLastRuneInString(s[:i])
		after, _ := utf8.DecodeRuneInString(s[i+len(mark):])
		if i > 0 && !unicode.IsSpace(before) && (i+len(mark) == len(s) || !inWord(after)) {
			out = append(out, i)
		}
		at = i + len(mark)
	}
}

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// linkAt returns the length of the link that begins at i, 0 if none does.
func linkAt(s string, i int) int {
	before, _ := utf8.DecodeLastRuneInString(s[:i])
	if i > 0 && inWord(before) {
		return 0
	}
	front := 0
	for _, scheme := range []string{"https://", "http://"} {
		if strings.HasPrefix(s[i:], scheme) {
			front = len(scheme)
		}
	}
	if front == 0 {
		return 0
	}
	link := s[i:]
	if end := strings.IndexFunc(link, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || slices.Contains([]rune("<>\"`|"), r)
	}); end >= 0 {
		link = link[:end]
	}
	// What ends a sentence is no part of the link.
	link = strings.TrimRight(link, ".,;:!?)]}'*_")
	if len(link) <= front {
		return 0
	}
	return len(link)
}
