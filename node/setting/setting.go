// Package setting is the table of a node's settings: which there are, what may be
// written there, and what holds when nothing is.
//
// Values are text in one form each, which [Definition.Parse] makes of what people
// type, so that two values are the same if their texts are. Who reads a value that
// was parsed turns it into what it means with [On], [Number], [Duration], [Size] or
// [ParseHours].
//
// Storing values, and saying which one holds in a conversation, is package node's.
package setting

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"sotto/relay/wire"
)

// The types of a value.
const (
	TypeSwitch   = "switch"   // on or off
	TypeChoice   = "choice"   // one of Allowed
	TypeNumber   = "number"   // from Min to Max
	TypeDuration = "duration" // as 90m, 12h, 30d, 8w, or off; Min and Max in seconds
	TypeSize     = "size"     // as 500KiB, 10MiB, 2GiB, or off; Min and Max in bytes
	TypeHours    = "hours"    // as 22:00-07:00 by the clock on the wall, or off
	TypeRelay    = "relay"    // address of a relay; empty until one is named
	TypeTicket   = "ticket"   // as sotto-relay prints it; empty until there is one
)

// Off is the value of a switch, a duration, a size or hours that do not hold.
const Off = "off"

// The keys.
const (
	Relay        = "relay"
	Ticket       = "ticket"
	Notify       = "notify"
	Sound        = "sound"
	Preview      = "preview"
	QuietHours   = "quiet-hours"
	Delivered    = "delivered"
	Receipts     = "receipts"
	Typing       = "typing"
	Direct       = "direct"
	Keep         = "keep"
	AutoDownload = "auto-download"
	Theme        = "theme"
	Density      = "density"
	FontSize     = "font-size"
	Language     = "language"
)

// MaxTicket is the size of the largest ticket in bytes, before it is written as text.
const MaxTicket = 255

// maxValue is the longest value in bytes: of an address with many places.
const maxValue = 4096

// Definition is one line of the table.
type Definition struct {
	Key     string   `json:"key"`
	Type    string   `json:"type" enum:"switch,choice,number,duration,size,hours,relay,ticket"`
	Default string   `json:"default" doc:"what holds when nothing is set"`
	Allowed []string `json:"allowed,omitempty" doc:"of a switch or choice: its values"`
	Min     int64    `json:"min,omitempty" doc:"the least: a number, seconds or bytes"`
	Max     int64    `json:"max,omitempty" doc:"the most"`
	PerChat bool     `json:"per_chat,omitempty" doc:"it can be set for one conversation too"`
	Local   bool     `json:"local,omitempty" doc:"it is for this device; others are the same on all of one's devices"`
	Words   string   `json:"words" doc:"what it does"`
}

const day = 24 * 60 * 60

var onOff = []string{"on", Off}

// table is in the order in which people are shown it.
var table = []Definition{
	{Key: Relay, Type: TypeRelay, Local: true, Words: "Address of the relay where new mailboxes are made. Takes effect at once; existing conversations stay where they are."},
	{Key: Ticket, Type: TypeTicket, Local: true, Words: "Ticket for that relay, from its operator, if it asks for one. Takes effect with the next try."},
	{Key: Notify, Type: TypeChoice, Default: "all", Allowed: []string{"all", "mentions", "none"}, PerChat: true, Words: "Which messages a screen tells of."},
	{Key: Sound, Type: TypeSwitch, Default: "on", PerChat: true, Local: true, Words: "Whether it does so with a sound."},
	{Key: Preview, Type: TypeChoice, Default: "none", Allowed: []string{"none", "sender", "text"}, PerChat: true, Words: "What it shows of a message: nothing, who sent it, or that and the text."},
	{Key: QuietHours, Type: TypeHours, Default: Off, Words: "When it tells of nothing."},
	{Key: Delivered, Type: TypeSwitch, Default: "on", PerChat: true, Words: "Whether contacts are told what has arrived here, and you what has at theirs."},
	{Key: Receipts, Type: TypeSwitch, Default: "on", PerChat: true, Words: "Whether contacts are told what you have read, and you what they have."},
	{Key: Typing, Type: TypeSwitch, Default: "on", PerChat: true, Words: "Whether contacts are shown that you are writing, and you that they are."},
	{Key: Direct, Type: TypeSwitch, Default: Off, PerChat: true, Words: "Whether to connect to a contact's device directly, which shows it where you are. Not used by this version yet."},
	{Key: Keep, Type: TypeDuration, Default: Off, Min: 60 * 60, Max: 3650 * day, PerChat: true, Words: "How long messages are kept on your devices, but for starred ones; off: forever. Older ones are deleted at once, for you alone."},
	{Key: AutoDownload, Type: TypeSize, Default: "10MiB", Max: 1 << 40, PerChat: true, Local: true, Words: "Up to which size files are fetched unasked; off: none. Not used by this version yet."},
	{Key: Theme, Type: TypeChoice, Default: "system", Allowed: []string{"system", "light", "dark", "contrast"}, Local: true, Words: "Colours of a screen."},
	{Key: Density, Type: TypeChoice, Default: "cosy", Allowed: []string{"cosy", "compact"}, Local: true, Words: "How much room a screen leaves."},
	{Key: FontSize, Type: TypeNumber, Default: "15", Min: 12, Max: 24, Local: true, Words: "Height of a screen's letters in pixels."},
	{Key: Language, Type: TypeChoice, Default: "system", Allowed: []string{"system", "en", "zh-CN"}, Words: "Language of a screen."},
}

func init() {
	for i := range table {
		if table[i].Type == TypeSwitch {
			table[i].Allowed = onOff
		}
	}
}

// All returns the table; it is the caller's.
func All() []Definition { return slices.Clone(table) }

// Lookup returns the definition of a key. The error names keys that are nearly it.
func Lookup(key string) (Definition, error) {
	for _, d := range table {
		if d.Key == key {
			return d, nil
		}
	}
	var near []string
	for _, d := range table {
		if distance(strings.ToLower(key), d.Key) <= 2 || len(key) >= 3 && strings.Contains(d.Key, strings.ToLower(key)) {
			near = append(near, d.Key)
		}
	}
	if len(near) > 0 {
		return Definition{}, fmt.Errorf("there is no setting %.64q; did you mean %s?", key, strings.Join(near, " or "))
	}
	return Definition{}, fmt.Errorf("there is no setting %.64q", key)
}

// distance returns how many letters must be changed, added or left out to make b of a.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Parse returns a value in its one form, or says what it should have been.
func (d *Definition) Parse(value string) (string, error) {
	value = strings.TrimSpace(value)
	bad := func(want string) (string, error) {
		return "", fmt.Errorf("%s: %.64q is not %s", d.Key, value, want)
	}
	if len(value) > maxValue {
		return "", fmt.Errorf("%s: a value of more than %d bytes", d.Key, maxValue)
	}
	switch d.Type {
	case TypeSwitch, TypeChoice:
		for _, a := range d.Allowed {
			if strings.EqualFold(a, value) {
				return a, nil
			}
		}
		return bad("one of " + strings.Join(d.Allowed, ", "))
	case TypeNumber:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < d.Min || n > d.Max {
			return bad(fmt.Sprintf("a number from %d to %d", d.Min, d.Max))
		}
		return strconv.FormatInt(n, 10), nil
	case TypeDuration:
		out, n, ok := scaled(value, durations)
		if !ok || n != 0 && (n < d.Min || n > d.Max) {
			return bad(fmt.Sprintf("a duration such as 30d (m, h, d or w), from %s to %s, or off", shortest(d.Min, durations), shortest(d.Max, durations)))
		}
		return out, nil
	case TypeSize:
		out, n, ok := scaled(value, sizes)
		if !ok || n < d.Min || n > d.Max {
			return bad(fmt.Sprintf("a size such as 10MiB (KiB, MiB or GiB), up to %s, or off", shortest(d.Max, sizes)))
		}
		return out, nil
	case TypeHours:
		h, err := ParseHours(value)
		if err != nil {
			return bad("a time of day such as 22:00-07:00, or off")
		}
		return h.String(), nil
	case TypeRelay:
		if _, err := wire.ParseAddress(value); err != nil {
			return "", fmt.Errorf("%s: %w", d.Key, err)
		}
		return value, nil
	case TypeTicket:
		if _, err := ParseTicket(value); err != nil {
			return "", fmt.Errorf("%s: %w", d.Key, err)
		}
		return value, nil
	}
	panic("setting: a definition without a type")
}

// On reports whether a switch is on.
func On(value string) bool { return value == "on" }

// Number returns a number.
func Number(value string) int64 {
	n, _ := strconv.ParseInt(value, 10, 64)
	return n
}

// Duration returns a duration; 0 for off.
func Duration(value string) time.Duration {
	_, n, _ := scaled(value, durations)
	return time.Duration(n) * time.Second
}

// Size returns a size in bytes; 0 for off.
func Size(value string) int64 {
	_, n, _ := scaled(value, sizes)
	return n
}

type unit struct {
	name string
	is   int64
}

var (
	durations = []unit{{"w", 7 * day}, {"d", day}, {"h", 60 * 60}, {"m", 60}} // in seconds
	sizes     = []unit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}  // in bytes
)

// scaled reads a number with a unit, or off, which is 0.
func scaled(value string, units []unit) (form string, n int64, ok bool) {
	if strings.EqualFold(value, Off) {
		return Off, 0, true
	}
	for _, u := range units {
		if at := len(value) - len(u.name); at > 0 && strings.EqualFold(value[at:], u.name) {
			n, err := strconv.ParseUint(value[:at], 10, 63)
			if err != nil || n == 0 || int64(n) > math.MaxInt64/u.is {
				return "", 0, false
			}
			return strconv.FormatUint(n, 10) + u.name, int64(n) * u.is, true
		}
	}
	return "", 0, false
}

// shortest writes a number with the largest unit that it is a multiple of.
func shortest(n int64, units []unit) string {
	for _, u := range units {
		if n%u.is == 0 {
			return strconv.FormatInt(n/u.is, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Hours are a part of each day, by the clock on the wall. The zero value is none.
type Hours struct{ From, To int } // minutes after midnight; To may come before From

// ParseHours reads a value of TypeHours.
func ParseHours(value string) (Hours, error) {
	if strings.EqualFold(value, Off) {
		return Hours{}, nil
	}
	var h Hours
	from, to, _ := strings.Cut(value, "-")
	for _, p := range []struct {
		text string
		into *int
	}{{from, &h.From}, {to, &h.To}} {
		t, err := time.Parse("15:04", strings.TrimSpace(p.text))
		if err != nil {
			return Hours{}, errors.New("not two times of day")
		}
		*p.into = t.Hour()*60 + t.Minute()
	}
	if h.From == h.To {
		return Hours{}, errors.New("it begins when it ends")
	}
	return h, nil
}

// Holds reports whether t is within them, in t's own zone.
func (h Hours) Holds(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	if h.From <= h.To {
		return h.From <= m && m < h.To
	}
	return m >= h.From || m < h.To
}

// String returns the value.
func (h Hours) String() string {
	if h == (Hours{}) {
		return Off
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", h.From/60, h.From%60, h.To/60, h.To%60)
}

// ParseTicket reads a ticket as sotto-relay prints it.
func ParseTicket(text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || len(b) > MaxTicket {
		return nil, errors.New("this is not a ticket of a relay's")
	}
	return b, nil
}
