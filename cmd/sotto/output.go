package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// print writes data: v as one line of JSON if that is wished, else what human
// writes.
func (a *app) print(v any, human func(w io.Writer)) error {
	if a.json {
		return a.line(v)
	}
	w := &keepError{w: a.out}
	human(w)
	return w.err
}

// line writes v as one line of JSON.
func (a *app) line(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// keepError keeps the first error of a writer, so that it is looked at once.
type keepError struct {
	w   io.Writer
	err error
}

func (k *keepError) Write(p []byte) (int, error) {
	if k.err == nil {
		_, k.err = k.w.Write(p)
	}
	return len(p), nil
}

// table writes rows in columns.
func table(w io.Writer, head []string, rows [][]string) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// safe returns s with what could move the cursor, change colours or turn the
// direction of text shown as escapes: names and messages are written by others.
func safe(s string) string {
	if strings.IndexFunc(s, unsafeRune) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !unsafeRune(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func unsafeRune(r rune) bool {
	switch {
	case unicode.IsControl(r), r == '\u2028', r == '\u2029', r == '\ufeff':
		return true
	}
	return unicode.Is(unicode.Bidi_Control, r)
}

// paragraph is safe for a text of several lines: each but the first is indented, so
// that none can look like the beginning of another message.
func paragraph(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(safe(strings.ReplaceAll(l, "\t", "    ")), "\t", " ")
	}
	return strings.Join(lines, "\n"+strings.Repeat(" ", len(timeForm)+2))
}

const timeForm = "2006-01-02 15:04"

// when shows a time as the clock on the wall does.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(timeForm)
}

// short is the beginning of an id.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

const (
	red  = "\x1b[31m"
	bold = "\x1b[1m"
)

// paint colours s if w is a terminal and colours are not unwanted.
func (a *app) paint(w io.Writer, colour, s string) string {
	if !isTerminal(w) || a.env("NO_COLOR") != "" || a.env("TERM") == "dumb" {
		return s
	}
	return colour + s + "\x1b[0m"
}

// orNone makes an empty list of none, which JSON would call null.
func orNone[T any](list []T) []T { return append([]T{}, list...) }
