package setting_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"sotto/node/setting"
)

const relay = "/ip4/127.0.0.1/tcp/4655/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

// TestParse is the table of what may be written into each kind of setting.
func TestParse(t *testing.T) {
	for _, test := range []struct{ key, value, want, err string }{
		{setting.Receipts, "on", "on", ""},
		{setting.Receipts, " OFF ", "off", ""},
		{setting.Receipts, "yes", "", "one of on, off"},
		{setting.Receipts, "", "", "one of on, off"},
		{setting.Notify, "Mentions", "mentions", ""},
		{setting.Notify, "some", "", "one of all, mentions, none"},
		{setting.Language, "zh-cn", "zh-CN", ""},
		{setting.FontSize, "012", "12", ""},
		{setting.FontSize, "24", "24", ""},
		{setting.FontSize, "11", "", "from 12 to 24"},
		{setting.FontSize, "25", "", "from 12 to 24"},
		{setting.FontSize, "1e1", "", "from 12 to 24"},
		{setting.Keep, "30d", "30d", ""},
		{setting.Keep, "08W", "8w", ""},
		{setting.Keep, "60m", "60m", ""},
		{setting.Keep, "off", "off", ""},
		{setting.Keep, "59m", "", "from 1h to 3650d"},
		{setting.Keep, "3651d", "", "from 1h to 3650d"},
		{setting.Keep, "0d", "", "from 1h to 3650d"},
		{setting.Keep, "-1d", "", "from 1h to 3650d"},
		{setting.Keep, "99999999999999999w", "", "from 1h to 3650d"},
		{setting.Keep, "d", "", "from 1h to 3650d"},
		{setting.Keep, "1d2h", "", "from 1h to 3650d"},
		{setting.AutoDownload, "10mib", "10MiB", ""},
		{setting.AutoDownload, "off", "off", ""},
		{setting.AutoDownload, "10MB", "", "up to 1024GiB"},
		{setting.AutoDownload, "1025GiB", "", "up to 1024GiB"},
		{setting.AutoDownload, "9223372036854775807GiB", "", "up to 1024GiB"},
		{setting.QuietHours, "22:00-7:00", "22:00-07:00", ""},
		{setting.QuietHours, "off", "off", ""},
		{setting.QuietHours, "22:00", "", "a time of day"},
		{setting.QuietHours, "22:00-24:00", "", "a time of day"},
		{setting.QuietHours, "22:00-22:00", "", "a time of day"},
		{setting.Relay, relay, relay, ""},
		{setting.Relay, "", "", "relay: "},
		{setting.Relay, "example.org", "", "relay: "},
		{setting.Relay, strings.Repeat("a", 5000), "", "more than 4096 bytes"},
		{setting.Ticket, "dGlja2V0", "dGlja2V0", ""},
		{setting.Ticket, "", "", "not a ticket"},
		{setting.Ticket, "not a ticket", "", "not a ticket"},
	} {
		d, err := setting.Lookup(test.key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Parse(test.value)
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s %.40q: %q, %v; want an error with %q", test.key, test.value, got, err, test.err)
			}
		case err != nil || got != test.want:
			t.Errorf("%s %q = %q, %v; want %q", test.key, test.value, got, err, test.want)
		}
	}
}

// Every line of the table holds together, and spec/api.md has it.
func TestTable(t *testing.T) {
	page, err := os.ReadFile("../../spec/api.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range setting.All() {
		if seen[d.Key] || d.Words == "" || !strings.HasSuffix(d.Words, ".") {
			t.Errorf("%s stands there twice or says nothing", d.Key)
		}
		seen[d.Key] = true
		if d.Default == "" && d.Type != setting.TypeRelay && d.Type != setting.TypeTicket {
			t.Errorf("%s has no default", d.Key)
		}
		for _, v := range append(d.Allowed, d.Default) {
			if got, err := d.Parse(v); v != "" && (err != nil || got != v) {
				t.Errorf("%s: %q is read as %q, %v", d.Key, v, got, err)
			}
		}
		if !strings.Contains(string(page), "| `"+d.Key+"` |") {
			t.Errorf("spec/api.md has no line for the setting %s", d.Key)
		}
	}
	all := setting.All()
	all[0].Key = "changed"
	if setting.All()[0].Key == "changed" {
		t.Error("the table can be changed from outside")
	}
}

func TestLookup(t *testing.T) {
	for key, want := range map[string]string{
		"recipts":                `there is no setting "recipts"; did you mean receipts?`,
		"Theme":                  `there is no setting "Theme"; did you mean theme?`,
		"size":                   `there is no setting "size"; did you mean font-size?`,
		"quiet":                  `there is no setting "quiet"; did you mean quiet-hours?`,
		"frobnicate":             `there is no setting "frobnicate"`,
		"":                       `there is no setting ""`,
		strings.Repeat("a", 999): `there is no setting "` + strings.Repeat("a", 64) + `"`,
	} {
		if _, err := setting.Lookup(key); err == nil || err.Error() != want {
			t.Errorf("Lookup(%.20q) = %v, want %s", key, err, want)
		}
	}
}

func TestMeaning(t *testing.T) {
	if !setting.On("on") || setting.On("off") || setting.Number("15") != 15 || setting.Duration("2d") != 48*time.Hour || setting.Duration("off") != 0 ||
		setting.Size("3KiB") != 3072 || setting.Size("off") != 0 {
		t.Error("a value does not mean what it says")
	}
	at := func(clock string) time.Time {
		v, err := time.Parse("15:04", clock)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, test := range []struct {
		hours, clock string
		want         bool
	}{
		{"22:00-07:00", "22:00", true}, {"22:00-07:00", "03:00", true}, {"22:00-07:00", "07:00", false}, {"22:00-07:00", "21:59", false},
		{"09:00-17:30", "09:00", true}, {"09:00-17:30", "17:30", false}, {"09:00-17:30", "08:59", false}, {"off", "00:00", false},
	} {
		h, err := setting.ParseHours(test.hours)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Holds(at(test.clock)); got != test.want {
			t.Errorf("%s at %s: %v", test.hours, test.clock, got)
		}
	}
}

// What was read once is read again as the same.
func FuzzParse(f *testing.F) {
	for _, d := range setting.All() {
		f.Add(d.Key, d.Default)
	}
	f.Add(setting.QuietHours, "7:00-22:00")
	f.Add(setting.Relay, relay)
	f.Add(setting.Ticket, "dGlja2V0")
	f.Fuzz(func(t *testing.T, key, value string) {
		d, err := setting.Lookup(key)
		if err != nil {
			return
		}
		once, err := d.Parse(value)
		if err != nil {
			return
		}
		if again, err := d.Parse(once); err != nil || again != once {
			t.Errorf("%s: %q becomes %q, and that %q, %v", key, value, once, again, err)
		}
	})
}
