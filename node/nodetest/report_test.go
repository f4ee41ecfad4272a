package nodetest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"sotto/node"
	"sotto/node/report"
)

// What was said in two conversations and in several epochs can be reported, also after
// a restart, and a stranger sees who said it. One's own messages, and those of another
// conversation, cannot.
func TestReport(t *testing.T) {
	w := New(t)
	r := w.Relay()
	ana, ben := w.Person("Ana", r), w.Person("Ben", r)
	w.Meet(ana, ben, "Ben", "Ana")
	texts := []string{"one", "two", "三", strings.Repeat("long, and packed by its sender ", 500)}
	for _, text := range texts {
		if _, err := ben.Send(t.Context(), "Ana", text); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := ana.Send(t.Context(), "Ben", "mine")
	if err != nil {
		t.Fatal(err)
	}
	ana.Until("the messages", func() bool { return len(ana.Texts("Ben")) == len(texts)+1 })
	ana.Stop()
	ana.Start()
	all, err := ana.Messages(t.Context(), "Ben", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range all {
		if !m.Mine {
			ids = append(ids, m.ID)
		}
	}
	made, err := ana.Report(t.Context(), "Ben", ids, "unkind")
	if err != nil || made.Messages != len(texts) {
		t.Fatalf("Report = %+v, %v", made, err)
	}
	bens, err := ana.Contact(t.Context(), "Ben")
	if err != nil {
		t.Fatal(err)
	}
	me, err := ana.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(made.Data, []byte(me.Account)) {
		t.Error("the report names who made it")
	}

	got, err := report.Parse(made.Data)
	if err != nil {
		t.Fatal(err)
	}
	proved, err := got.Verify()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for i, p := range proved {
		if p.Account.String() != bens.ID || p.ID.String() != ids[i] {
			t.Errorf("message %d is of %s, %s", i, p.Account, p.ID)
		}
		said = append(said, p.Message.Text)
	}
	if !slices.Equal(said, texts) {
		t.Errorf("it proves %q", said)
	}

	for name, tt := range map[string]struct {
		ids  []string
		want error
	}{
		"nothing":          {nil, node.ErrInvalid},
		"one's own":        {[]string{mine.ID}, node.ErrInvalid},
		"no id":            {[]string{"x"}, node.ErrInvalid},
		"of nowhere":       {[]string{"01" + ids[0][4:] + "00"}, node.ErrNotFound},
		"more than it can": {slices.Repeat(ids, 40), node.ErrInvalid},
	} {
		if _, err := ana.Report(t.Context(), "Ben", tt.ids, ""); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}
