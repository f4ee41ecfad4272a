package markup

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// show writes blocks as a line each: kind, then spans with their styles.
func show(blocks []Block) string {
	var lines []string
	for _, b := range blocks {
		s := [...]string{"", "quote ", "item ", "code "}[b.Kind]
		for _, p := range b.Spans {
			style := ""
			for i, letter := range "bimslu" { // bold, italic, mono, spoiler, link, mention (user)
				if p.Style&(1<<i) != 0 {
					style += string(letter)
				}
			}
			s += fmt.Sprintf("%s[%s]", style, p.Text)
		}
		lines = append(lines, s)
	}
	return strings.Join(lines, "\n")
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, text, want, plain string }{
		{"plain", "hello", "[hello]", "hello"},
		{"empty", "", "", ""},
		{"bold", "a *b c* d", "[a ]b[b c][ d]", "a b c d"},
		{"italic", "_all_", "i[all]", "all"},
		{"one in the other", "*a _b_ c*", "b[a ]bi[b]b[ c]", "a b c"},
		{"one across the other", "*a _b* c_", "b[a _b][ c_]", "a _b c_"},
		{"code", "`*a*`", "m[*a*]", "*a*"},
		{"spoiler", "it is ||the butler||!", "[it is ]s[the butler][!]", "it is ██████████!"},
		{"bold in a spoiler", "||*b*||", "sb[b]", "█"},
		{"arithmetic", "2*3*4 = 24", "[2*3*4 = 24]", "2*3*4 = 24"},
		{"snake case", "a snake_case_name", "[a snake_case_name]", "a snake_case_name"},
		{"not closed", "*a", "[*a]", "*a"},
		{"with a space inside", "* a*", "[* a*]", "* a*"},
		{"nothing inside", "** and ``", "[** and ``]", "** and ``"},
		{"over two lines", "*a\nb*", "[*a]\n[b*]", "*a\nb*"},
		{"quote and list", "> q\n- i\n-no", "quote [q]\nitem [i]\n[-no]", "> q\n- i\n-no"},
		{"block of code", "a\n```\n*x*\n y\n```\nb", "[a]\ncode m[*x*\n y]\n[b]", "a\n*x*\n y\nb"},
		{"block that is not closed", "```\nx", "[```]\n[x]", "```\nx"},
		{"link", "see https://example.org/a_b_c?x=1.", "[see ]l[https://example.org/a_b_c?x=1][.]", "see https://example.org/a_b_c?x=1."},
		{"link in bold", "*http://a.b*", "bl[http://a.b]", "http://a.b"},
		{"no link", "xhttps://a javascript:alert(1) https://", "[xhttps://a javascript:alert(1) https://]", "xhttps://a javascript:alert(1) https://"},
		{"tags", "<b>&amp;</b>", "[<b>&amp;</b>]", "<b>&amp;</b>"},
		{"Chinese", "*你好*，世界", "b[你好][，世界]", "你好，世界"},
	} {
		// Letters are in the order of the bits, whatever opened first.
		want := strings.ReplaceAll(tt.want, "sb[", "bs[")
		if got := show(Parse(tt.text, nil)); got != want {
			t.Errorf("%s: %q is %s, want %s", tt.name, tt.text, got, want)
		}
		if got := Plain(tt.text); got != tt.plain {
			t.Errorf("%s: %q is in plain %q, want %q", tt.name, tt.text, got, tt.plain)
		}
	}
}

func TestMentions(t *testing.T) {
	for _, tt := range []struct {
		text     string
		mentions []Range
		want     string
	}{
		{"hi @ana and *@ben*", []Range{{3, 4}, {13, 4}}, "[hi ]u[@ana][ and ]bu[@ben]"},
		{"`@ana` @ben", []Range{{1, 4}, {7, 4}}, "m[@ana][ ]u[@ben]"},
		{"- @ana\n@ben", []Range{{2, 4}, {7, 4}}, "item u[@ana]\nu[@ben]"},
		{"over\nlines", []Range{{3, 4}}, "[over]\n[lines]"},
		{"behind", []Range{{99, 4}}, "[behind]"},
		{"ä", []Range{{0, 1}}, "[ä]"},
	} {
		if got := show(Parse(tt.text, tt.mentions)); got != tt.want {
			t.Errorf("%q is %s, want %s", tt.text, got, tt.want)
		}
	}
}

// Texts made to be slow are not.
func TestParseIsLinear(t *testing.T) {
	for _, part := range []string{"*a ", "_a* ", "||", "`x ", "https://", "```\n", "*_||`", "> *"} {
		text := strings.Repeat(part, (1<<20)/len(part))
		start := time.Now()
		Parse(text, nil)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("a MiB of %q takes %v", part, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"*a _b_ c* `d` ||e||", "> q\n- i\n```\ncode\n```", "https://a.b/c. @ana", "*a _b* c_", "||*||*"} {
		f.Add(s, 3, 4)
	}
	f.Fuzz(func(t *testing.T, text string, start, length int) {
		if !utf8.ValidString(text) {
			return
		}
		at := 0
		for _, b := range Parse(text, []Range{{start, length}}) {
			for _, s := range b.Spans {
				// Spans are parts of the text in its order, whole characters, none empty.
				if s.At < at || s.At+len(s.Text) > len(text) || text[s.At:s.At+len(s.Text)] != s.Text || s.Text == "" || !utf8.ValidString(s.Text) {
					t.Fatalf("%q has the span %+v behind %d", text, s, at)
				}
				at = s.At + len(s.Text)
			}
		}
		if p := Plain(text); utf8.RuneCountInString(p) > utf8.RuneCountInString(text) {
			t.Errorf("%q becomes longer: %q", text, p)
		}
	})
}
