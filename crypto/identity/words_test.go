package identity

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRecoveryVectors(t *testing.T) {
	type seed struct {
		Seed    string   `json:"seed"`
		Words   string   `json:"words"`
		Account []string `json:"account_keys"`
		Vault   string   `json:"vault_key"`
	}
	type wrong struct {
		Name     string `json:"name"`
		Words    string `json:"words"`
		Position int    `json:"position"` // of the word that is not in the list
		Error    string `json:"error"`    // count, word or checksum
	}
	var v struct {
		Good []seed  `json:"good"`
		Bad  []wrong `json:"bad"`
	}
	for _, b := range [][]byte{make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), fill(0x11)} {
		s := SeedFromBytes(b)
		one := seed{Seed: hex.EncodeToString(b), Words: s.Words(), Vault: hex.EncodeToString(s.VaultKey())}
		for gen := range uint8(3) {
			one.Account = append(one.Account, hex.EncodeToString(s.AccountKey(gen).Public().Bytes()))
		}
		v.Good = append(v.Good, one)
	}
	words := strings.Fields(owner.Words())
	with := func(i int, w string) string {
		c := append([]string(nil), words...)
		c[i] = w
		return strings.Join(c, " ")
	}
	swapped := append([]string(nil), strings.Fields(v.Good[2].Words)...)
	for swapped[0] == swapped[1] {
		swapped = append(swapped[1:], swapped[0])
	}
	swapped[0], swapped[1] = swapped[1], swapped[0]
	v.Bad = []wrong{
		{"nothing", "", 0, "count"},
		{"23 words", strings.Join(words[1:], " "), 0, "count"},
		{"25 words", strings.Join(words, " ") + " zoo", 0, "count"},
		{"first word misspelt", with(0, "abandn"), 1, "word"},
		{"word 7 misspelt", with(6, "xylophone"), 7, "word"},
		{"last word of another language", with(23, "vélo"), 24, "word"},
		{"one word exchanged for another", with(3, "zoo"), 0, "checksum"},
		{"two words in the wrong order", strings.Join(swapped, " "), 0, "checksum"},
	}
	checkVectors(t, "recovery.json", v)

	for _, g := range v.Good {
		s, err := ParseWords("  " + strings.ToUpper(strings.ReplaceAll(g.Words, " ", "\n\t")))
		if err != nil || s.Words() != g.Words || s.AccountKey(0).Public() != SeedFromBytes(must(hex.DecodeString(g.Seed))).AccountKey(0).Public() {
			t.Errorf("the words of %s: %v", g.Seed, err)
		}
	}
	// The two that everybody knows, of the BIP-39 test vectors.
	if got := v.Good[0].Words; got != strings.Repeat("abandon ", 23)+"art" {
		t.Errorf("words of zero: %s", got)
	}
	if got := v.Good[1].Words; got != strings.Repeat("zoo ", 23)+"vote" {
		t.Errorf("words of ones: %s", got)
	}
	for _, b := range v.Bad {
		_, err := ParseWords(b.Words)
		var wordError *WordError
		got := "checksum"
		if errors.As(err, &wordError) {
			got = "count"
			if wordError.Position > 0 {
				got = "word"
			}
			if wordError.Position != b.Position {
				t.Errorf("%s: position %d, want %d", b.Name, wordError.Position, b.Position)
			}
		} else if !errors.Is(err, ErrChecksum) {
			t.Errorf("%s: %v", b.Name, err)
		}
		if got != b.Error {
			t.Errorf("%s: %v, want %s", b.Name, err, b.Error)
		}
		for _, w := range words {
			for _, part := range strings.Fields(err.Error()) {
				if part == w && w != "the" {
					t.Errorf("%s: the error names the word %q", b.Name, w)
				}
			}
		}
	}
}

func TestSeedDoesNotPrint(t *testing.T) {
	s := NewSeed()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%p"} {
		for _, v := range []any{s, &s, struct{ s Seed }{s}, []Seed{s}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "seed", s)
	json.NewEncoder(&out).Encode(map[string]any{"s": s})
	b := s.reveal()
	for _, form := range []string{string(b[4:12]), hex.EncodeToString(b[4:12]), fmt.Sprintf("%X", b[4:12]), strings.Trim(fmt.Sprint(b[4:12]), "[]"), strings.Fields(s.Words())[3] + " "} {
		if strings.Contains(out.String(), form) {
			t.Errorf("output holds the seed as %q:\n%s", form, out.Bytes())
		}
	}
	if NewSeed().Words() == s.Words() {
		t.Error("two new seeds are one")
	}
	if (Seed{}).String() != "no recovery seed" || !(Seed{}).IsZero() {
		t.Error("no seed does not say so")
	}
}

func TestNames(t *testing.T) {
	type name struct {
		Name  string `json:"name"`
		In    string `json:"in"` // hex of the bytes
		Out   string `json:"out,omitempty"`
		Error string `json:"error,omitempty"`
	}
	long := strings.Repeat("é", MaxName)
	v := []name{
		{Name: "plain", In: "Ana", Out: "Ana"},
		{Name: "space around", In: "  Ana\n", Out: "Ana"},
		{Name: "decomposed", In: "Zoe\u0308", Out: "Zoë"},
		{Name: "64 characters", In: long, Out: long},
		{Name: "64 characters, decomposed", In: strings.Repeat("e\u0301", MaxName), Out: long},
		{Name: "Chinese", In: "李雷", Out: "李雷"},
		{Name: "Hebrew, which needs no marks", In: "דנה", Out: "דנה"},
		{Name: "Persian with a joiner", In: "می\u200cخواهم", Out: "می\u200cخواهم"},
		{Name: "joined emoji", In: "👩\u200d🚀", Out: "👩\u200d🚀"},
		{Name: "empty", In: "", Error: "name"},
		{Name: "only space", In: " \u3000 ", Error: "name"},
		{Name: "65 characters", In: long + "x", Error: "name"},
		{Name: "far too long", In: strings.Repeat("x", 16*MaxName+1), Error: "name"},
		{Name: "line feed inside", In: "Ana\nBo", Error: "name"},
		{Name: "escape", In: "Ana\x1b[31m", Error: "name"},
		{Name: "control of the second set", In: "Ana\u009b1m", Error: "name"},
		{Name: "zero byte", In: "A\x00", Error: "name"},
		{Name: "right-to-left override", In: "Ana\u202eoB", Error: "name"},
		{Name: "isolate", In: "\u2066Ana", Error: "name"},
		{Name: "Arabic letter mark", In: "Ana\u061c", Error: "name"},
		{Name: "zero width space", In: "A\u200bna", Error: "name"},
		{Name: "line separator", In: "A\u2028na", Error: "name"},
		{Name: "tag characters", In: "Ana\U000e0041", Error: "name"},
		{Name: "filler", In: "\u3164", Error: "name"},
		{Name: "only joiners", In: "\u200d\u200d", Error: "name"},
		{Name: "only a mark", In: "\u0301", Error: "name"},
		{Name: "private use", In: "\ue000", Error: "name"},
		{Name: "not UTF-8", In: "Ana\xff", Error: "name"},
	}
	out := make([]name, len(v))
	for i, n := range v {
		out[i] = n
		out[i].In = hex.EncodeToString([]byte(n.In))
		out[i].Out = hex.EncodeToString([]byte(n.Out))
	}
	checkVectors(t, "names.json", out)
	for _, n := range v {
		got, err := NormalizeName(n.In)
		if got != n.Out || (err != nil) != (n.Error != "") || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%s: NormalizeName(%q) = %q, %v, want %q", n.Name, n.In, got, err, n.Out)
		}
		if err := CheckName(n.In); (err == nil) != (n.In == n.Out && n.Error == "") {
			t.Errorf("%s: CheckName(%q) = %v", n.Name, n.In, err)
		}
	}
}

func FuzzNormalizeName(f *testing.F) {
	f.Add("Ana")
	f.Add("e\u0301\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := NormalizeName(s)
		if err != nil {
			return
		}
		if c := utf8.RuneCountInString(n); c == 0 || c > MaxName {
			t.Errorf("%q has %d characters", n, c)
		}
		if err := CheckName(n); err != nil {
			t.Errorf("NormalizeName(%q) = %q, which is refused: %v", s, n, err)
		}
	})
}

func FuzzParseWords(f *testing.F) {
	f.Add(owner.Words())
	f.Add("abandon art")
	f.Fuzz(func(t *testing.T, s string) {
		if seed, err := ParseWords(s); err == nil && seed.Words() != strings.Join(strings.Fields(strings.ToLower(s)), " ") {
			t.Error("words are read as those of another seed")
		}
	})
}
