package handshake

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/key"
)

// expectedLink names the errors of the bad vectors.
var expectedLink = map[string]error{
	"not a link": ErrNotLink, "damaged": ErrDamaged, "wrong kind": ErrWrongKind, "newer": ErrNewer,
}

type linkVector struct {
	Text    string     `json:"text"`
	Expires uint32     `json:"expires"`
	Relay   hexBytes   `json:"relay_key"`
	Hints   []hexBytes `json:"hints"`
	Secret  hexBytes   `json:"secret"`
	Read    hexBytes   `json:"slot_read_seed"`
	Offer   hexBytes   `json:"offer_key"`
	ID      hexBytes   `json:"id"`
}

type badLink struct {
	Name  string `json:"name"`
	Text  string `json:"text"`
	Error string `json:"error"`
}

func sampleLink(hints ...[]byte) Link {
	return Link{Kind: Invite, Expires: expires, Relay: theRelay, Hints: hints, Secret: newSecret([32]byte(fill(0x61)))}
}

func badLinks() (out []badLink) {
	l := sampleLink([]byte{4, 127, 0, 0, 1, 6, 0x1f, 0x90})
	good, body := l.Text(), codec.Write(l.fields)
	add := func(name, want, text string) { out = append(out, badLink{name, text, want}) }
	add("empty", "not a link", "")
	add("words", "not a link", "come and talk to me")
	add("a web address", "not a link", "https://example.org/sotto:i#"+good[8:])
	add("another scheme", "not a link", "simplex:i#"+good[8:])
	add("the scheme alone", "not a link", "sotto:")
	add("a kind of text that nobody makes", "not a link", "sotto:x#"+good[8:])
	add("the prefix alone", "damaged", "sotto:i#")
	add("the last character is missing", "damaged", good[:len(good)-1])
	add("the second half is missing", "damaged", good[:len(good)/2])
	add("a character more", "damaged", good+"A")
	add("a character changed", "damaged", good[:20]+swap(good[20])+good[21:])
	add("the last character changed", "damaged", good[:len(good)-1]+swap(good[len(good)-1]))
	add("the other base64 alphabet", "damaged", good[:30]+"+/"+good[32:])
	add("a space inside", "damaged", good[:30]+" "+good[30:])
	add("far too long", "damaged", good+strings.Repeat("A", maxLinkText))

	with := func(change func(b []byte) []byte) string { return toText(inviteLetter, change(bytes.Clone(body))) }
	add("cut off, with a right checksum", "damaged", with(func(b []byte) []byte { return b[:len(b)-1] }))
	add("a byte more, with a right checksum", "damaged", with(func(b []byte) []byte { return append(b, 0) }))
	add("nine hints", "damaged", with(func(b []byte) []byte {
		return append(codec.AppendVec(b[:38:38], bytes.Repeat([]byte{1, 7}, 9)), b[len(b)-32:]...)
	}))
	add("version 0", "damaged", with(func(b []byte) []byte { b[0] = 0; return b }))
	add("version 2", "newer", with(func(b []byte) []byte { b[0] = 2; return b }))
	add("version 2, of another form", "newer", toText(inviteLetter, []byte{2, 9, 9}))
	add("kind 0", "wrong kind", with(func(b []byte) []byte { b[1] = 0; return b }))
	add("kind 2", "wrong kind", with(func(b []byte) []byte { b[1] = 2; return b }))
	// T27: a text that links a device is not an invite, and does not become one.
	add("links a device", "wrong kind", toText(deviceLetter, body))
	add("links a device, and is damaged", "wrong kind", "sotto:d#AAAA")
	add("links a device, with an invite's letter", "damaged", "sotto:i#"+toText(deviceLetter, body)[8:])
	return out
}

// swap returns another character than c.
func swap(c byte) string {
	if c == 'A' {
		return "E"
	}
	return "A"
}

// spec/invite.md, section 1.
func TestLinkVectors(t *testing.T) {
	var v struct {
		Good []linkVector `json:"good"`
		Bad  []badLink    `json:"bad"`
	}
	for _, l := range []Link{sampleLink([]byte{4, 127, 0, 0, 1, 6, 0x1f, 0x90}), sampleLink(), sampleLink(make([]byte, 1), make([]byte, 255))} {
		id := l.ID()
		g := linkVector{l.Text(), l.Expires, l.Relay.Bytes(), nil, fill(0x61), l.Secret.SlotRead().Seed(), l.Secret.offerKey(), id[:]}
		for _, h := range l.Hints {
			g.Hints = append(g.Hints, h)
		}
		v.Good = append(v.Good, g)
	}
	v.Bad = badLinks()
	wantGood, wantBad := len(v.Good), len(v.Bad)
	loadVectors(t, "link.json", &v)
	if len(v.Good) != wantGood || len(v.Bad) != wantBad {
		t.Error("the file has not as many vectors as are made now")
	}
	for _, g := range v.Good {
		l, err := ParseLink(g.Text)
		if err != nil {
			t.Fatalf("%s: %v", g.Text, err)
		}
		var hints []hexBytes
		for _, h := range l.Hints {
			hints = append(hints, h)
		}
		secret, id := l.Secret.reveal(), l.ID()
		got := linkVector{l.Text(), l.Expires, l.Relay.Bytes(), hints, secret[:], l.Secret.SlotRead().Seed(), l.Secret.offerKey(), id[:]}
		if !reflect.DeepEqual(got, g) {
			t.Errorf("%s is read as %+v, want %+v", g.Text, got, g)
		}
	}
	for _, b := range v.Bad {
		want := expectedLink[b.Error]
		if l, err := ParseLink(b.Text); want == nil || !errors.Is(err, want) || l.Relay != (key.RelayPublic{}) {
			t.Errorf("%s: ParseLink(%s) = %v, want %q", b.Name, b.Text, err, b.Error)
		}
	}
}

// The two kinds of text are refused by each other's reader, before anything in them is
// looked at; with the letter exchanged the checksum says so.
func TestInvitesAndDeviceLinksAreNotTakenForEachOther(t *testing.T) {
	body := codec.Write((&Link{Kind: Invite, Relay: theRelay, Secret: newSecret([32]byte{1})}).fields)
	for _, letters := range [][2]byte{{inviteLetter, deviceLetter}, {deviceLetter, inviteLetter}} {
		text := toText(letters[0], body)
		if b, err := fromText(letters[0], text); err != nil || !bytes.Equal(b, body) {
			t.Errorf("%c as %c: %x, %v", letters[0], letters[0], b, err)
		}
		if _, err := fromText(letters[1], text); !errors.Is(err, ErrWrongKind) {
			t.Errorf("%c as %c: %v, want ErrWrongKind", letters[0], letters[1], err)
		}
		if _, err := fromText(letters[1], prefix(letters[1])+text[8:]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%c with the letter %c: %v, want ErrDamaged", letters[0], letters[1], err)
		}
	}
}

// What mail and chat programs do to a line of text does no harm.
func TestLinkAsItIsPasted(t *testing.T) {
	good := sampleLink().Text()
	for _, s := range []string{" " + good + "\r\n", good[:70] + "\n" + good[70:], "\n\n" + good[:40] + "\r\n" + good[40:]} {
		if l, err := ParseLink(s); err != nil || l.Text() != good {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestExpiry(t *testing.T) {
	l := sampleLink()
	for now, want := range map[uint32]error{0: nil, expires - 1: nil, expires: ErrExpired, 1<<32 - 1: ErrExpired} {
		if err := l.Check(now); err != want {
			t.Errorf("Check(%d) = %v, want %v", now, err, want)
		}
	}
}

func TestLinkIsShortAndRandom(t *testing.T) {
	a, b := ana.invite(), ana.invite()
	if a.link.Secret.reveal() == b.link.Secret.reveal() || a.link.ID() == b.link.ID() || a.state.OfferHash == b.state.OfferHash {
		t.Error("two invites have something in common")
	}
	if n := len(a.link.Text()); n > 150 {
		t.Errorf("a link of one hint has %d characters", n)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(a.link.Text()[8:])
	if id := a.link.ID(); bytes.Contains(raw, id[:8]) {
		t.Error("the link holds its id, by which the node logs it")
	}
	if s := fmt.Sprint(a.link, &a.link); strings.Contains(s, "sotto:") {
		t.Errorf("a link prints as %s", s)
	}
}

func TestHintsAreBounded(t *testing.T) {
	many := func(n, size int) (h [][]byte) {
		for range n {
			h = append(h, make([]byte, size))
		}
		return h
	}
	for _, tt := range []struct {
		name  string
		hints [][]byte
		ok    bool
	}{
		{"none", nil, true}, {"eight", many(8, 63), true}, {"nine", many(9, 1), false},
		{"the longest", many(1, 255), true}, {"too long", many(1, 256), false},
		{"too many bytes", many(3, 180), false}, {"as many bytes as there may be", append(many(1, 255), make([]byte, 253)), true},
	} {
		o := ana.options()
		o.Hints = tt.hints
		l, _, _, err := NewInvite(o)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil {
			continue
		}
		if back, err := ParseLink(l.Text()); err != nil || len(back.Hints) != len(tt.hints) {
			t.Errorf("%s: the link is read with %d hints, %v", tt.name, len(back.Hints), err)
		}
	}
}

// A link to a group is opened as such and nothing else is, and neither an invite's scanner
// takes it (T27).
func TestGroupLinkIsOfItsKind(t *testing.T) {
	g := Link{Kind: Group, Expires: 1000, Relay: key.NewRelay().Public(), Secret: newSecret([32]byte{1})}
	i := g
	i.Kind = Invite
	if back, err := ParseGroupLink(g.Text()); err != nil || back.Text() != g.Text() || back.Kind != Group {
		t.Errorf("ParseGroupLink = %v, %v", back, err)
	}
	if _, err := ParseLink(g.Text()); !errors.Is(err, ErrWrongKind) {
		t.Errorf("a group's link as an invite: %v", err)
	}
	body := codec.Write(g.fields)
	for name, text := range map[string]string{"an invite": i.Text(), "a device's link": toText(deviceLetter, body), "an invite under a group's letter": toText(groupLetter, codec.Write(i.fields))} {
		if _, err := ParseGroupLink(text); !errors.Is(err, ErrNotGroupLink) {
			t.Errorf("%s as a group's link: %v", name, err)
		}
	}
	if _, err := ParseLink("sotto:i#" + g.Text()[8:]); !errors.Is(err, ErrDamaged) {
		t.Errorf("a group's link under an invite's letter: %v", err)
	}
}
