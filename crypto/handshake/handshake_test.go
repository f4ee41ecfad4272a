package handshake

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"sotto/crypto/codec"
	"sotto/crypto/identity"
	"sotto/crypto/key"
)

// Two people who do not meet at once, each of whom is stored in between.
func TestFirstContact(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	in := must(ParseInviter(i.state.Append(nil)))
	e = must(ParseInvitee(e.Append(nil)))
	q, err := in.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	if q.Name != "Ben" || q.Log.ID() != ben.log.ID() || q.Hash != body.Hash() || q.Hash != e.RequestHash() || len(q.KeyPackages) != 1 ||
		string(q.KeyPackages[0]) != "a key package of Ben" || q.Greeting != "hello" || q.Inbox.Mailbox != ben.inbox().Mailbox {
		t.Errorf("the request is read as %+v", q)
	}
	before := q.Secrets()
	raw, err := q.Accept(ContactAccept{Welcome: []byte("welcome"), Name: "Ana"})
	if err != nil {
		t.Fatal(err)
	}
	answer := must(ParseAcceptBody(raw))
	if answer.RequestHash != q.Hash {
		t.Error("the answer names another request")
	}
	for range 2 { // as often as one likes
		a, s, err := e.Finish(answer)
		if err != nil {
			t.Fatal(err)
		}
		if string(a.Welcome) != "welcome" || a.Name != "Ana" {
			t.Errorf("the answer is read as %+v", a)
		}
		if !same(s, q.Secrets()) || !same(s, before) {
			t.Error("the two sides have different secrets")
		}
	}
	if len(before.PSK()) != 48 || bytes.Equal(before.PSK(), make([]byte, 48)) || before.Binding == [32]byte{} {
		t.Error("there is no secret")
	}
}

// Noise does not tell a replay of message 1, so the inviter's caller must: it knows it
// by its hash. Read twice it gives two answers, of which each stands for itself.
func TestRequestThatComesAgain(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	one, two := must(i.state.Read(body)), must(i.state.Read(body))
	if one.Hash != two.Hash || one.Hash != body.Hash() {
		t.Error("a repeat has another hash")
	}
	if other, _ := i.begin(ben); other.Hash() == body.Hash() {
		t.Error("another request has the same hash")
	}
	if same(one.Secrets(), two.Secrets()) {
		t.Error("two answers have one key")
	}
	for _, q := range []*Request{one, two} {
		raw := must(q.Accept(ContactAccept{Name: "Ana"}))
		if _, s, err := e.Finish(must(ParseAcceptBody(raw))); err != nil || !same(s, q.Secrets()) {
			t.Errorf("an answer does not give its own secrets: %v", err)
		}
		if again, err := q.Accept(ContactAccept{Name: "Ana"}); again != nil || err == nil || !strings.Contains(err.Error(), "has been answered") {
			t.Errorf("answered twice: %v", err)
		}
	}
}

// T41: what was stored between message 1 and message 2 leads to the very bytes that were
// sent, whenever it is read back; no state holds a seed and another payload.
func TestSeedIsUsedWithOnePayload(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	state := e.Append(nil)
	for range 3 {
		e = must(ParseInvitee(state))
		first, _, err := e.message1()
		if err != nil || !bytes.Equal(first, body.noise) {
			t.Fatalf("the stored state leads to another message 1, %v", err)
		}
		if !bytes.Equal(e.Append(nil), state) {
			t.Fatal("the state changes when it is read back")
		}
	}
	// A second request, as after a crash before the first was stored, has a seed of its own.
	again, f := i.begin(ben)
	if bytes.Equal(e.seed(), f.seed()) || bytes.Equal(again.noise[:32], body.noise[:32]) || bytes.Equal(e.random(), f.random()) {
		t.Error("two requests have one ephemeral key")
	}
	// The payload of one with the seed of the other.
	mixed := *e
	mixed.payload = f.payload
	if _, err := ParseInvitee(mixed.Append(nil)); !errors.Is(err, ErrState) {
		t.Errorf("a seed with another payload: %v, want ErrState", err)
	}
}

func TestStoredStates(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	good := e.Append(nil)
	refused := func(name string, b []byte) {
		t.Helper()
		if x, err := ParseInvitee(b); !errors.Is(err, ErrState) || x != nil {
			t.Errorf("an invitee, %s: %v, want ErrState", name, err)
		}
	}
	for at := 0; at < len(good); at += 11 {
		b := bytes.Clone(good)
		b[at] ^= 8 // X25519 does not look at three lower and two higher bits of a key
		refused(fmt.Sprintf("byte %d changed", at), b)
	}
	for _, n := range []int{0, 1, 2, 34, 1154, len(good) - 1} {
		refused(fmt.Sprintf("of %d bytes", n), good[:n])
	}
	refused("a byte more", append(bytes.Clone(good), 0))

	stored := i.state.Append(nil)
	for name, b := range map[string][]byte{"empty": nil, "cut off": stored[:len(stored)-1], "a byte more": append(bytes.Clone(stored), 0),
		"version 0": append([]byte{0}, stored[1:]...), "version 2": append([]byte{2}, stored[1:]...)} {
		if x, err := ParseInviter(b); !errors.Is(err, ErrState) || x != nil {
			t.Errorf("an inviter, %s: %v, want ErrState", name, err)
		}
	}
	if in := must(ParseInviter(stored)); !bytes.Equal(in.Append(nil), stored) {
		t.Error("an inviter does not come back")
	}
	// Nothing in an inviter's state says what it was, so it shows in what it reads.
	for at := 1; at < len(stored); at++ {
		b := bytes.Clone(stored)
		b[at] ^= 8
		if _, err := must(ParseInviter(b)).Read(body); !errors.Is(err, ErrHandshake) {
			t.Errorf("an inviter with byte %d changed reads a request: %v", at, err)
		}
	}
}

// T30 and T31: what was changed on the way to the inviter.
func TestRequestThatDoesNotHold(t *testing.T) {
	i := ana.invite()
	body, _ := i.begin(ben)
	other, _ := i.begin(mallory)
	elsewhere, _ := ana.invite().begin(ben)
	const mlkemEnc = 1088
	for _, tt := range []struct {
		name   string
		change func(b *RequestBody)
	}{
		{"for another invite", func(b *RequestBody) { b.OfferHash[0] ^= 1 }},
		{"of another invite", func(b *RequestBody) { *b = *elsewhere }},
		{"of another invite, with this one's name", func(b *RequestBody) { *b = *elsewhere; b.OfferHash = body.OfferHash }},
		{"enc of another request", func(b *RequestBody) { b.enc = other.enc }},
		{"message 1 of another request", func(b *RequestBody) { b.noise = other.noise }},
		{"ML-KEM half of another request", func(b *RequestBody) { copy(b.enc, other.enc[:mlkemEnc]) }},
		{"X25519 half of another request", func(b *RequestBody) { copy(b.enc[mlkemEnc:], other.enc[mlkemEnc:]) }},
		{"ML-KEM half of 0", func(b *RequestBody) { clear(b.enc[:mlkemEnc]) }},
		{"X25519 half of 0", func(b *RequestBody) { clear(b.enc[mlkemEnc:]) }},
		{"halves exchanged", func(b *RequestBody) { b.enc = append(bytes.Clone(b.enc[mlkemEnc:]), b.enc[:mlkemEnc]...) }},
		{"ephemeral key changed", func(b *RequestBody) { b.noise[0] ^= 1 }},
		{"ephemeral key of another request", func(b *RequestBody) { copy(b.noise, other.noise[:32]) }},
		{"static key changed", func(b *RequestBody) { b.noise[32] ^= 1 }},
		{"static key of another request", func(b *RequestBody) { copy(b.noise[32:80], other.noise[32:80]) }},
		{"payload changed", func(b *RequestBody) { b.noise[80] ^= 1 }},
		{"payload of another request", func(b *RequestBody) { b.noise = append(b.noise[:80], other.noise[80:]...) }},
		{"last byte changed", func(b *RequestBody) { b.noise[len(b.noise)-1] ^= 1 }},
		{"cut off in the payload", func(b *RequestBody) { b.noise = b.noise[:len(b.noise)-1] }},
		{"cut off in the static key", func(b *RequestBody) { b.noise = b.noise[:79] }},
		{"cut off in the ephemeral key", func(b *RequestBody) { b.noise = b.noise[:31] }},
		{"without message 1", func(b *RequestBody) { b.noise = nil }},
		{"a byte more", func(b *RequestBody) { b.noise = append(b.noise, 0) }},
	} {
		b := must(ParseRequestBody(bytes.Clone(body.encode())))
		tt.change(b)
		if q, err := i.state.Read(b); !errors.Is(err, ErrHandshake) || q != nil {
			t.Errorf("%s: %v, want ErrHandshake", tt.name, err)
		}
	}
	if _, err := ana.invite().state.Read(body); !errors.Is(err, ErrHandshake) {
		t.Errorf("at another invite: %v, want ErrHandshake", err)
	}

	raw := body.encode()
	for name, b := range map[string][]byte{"nothing": nil, "cut off": raw[:len(raw)-1], "the front alone": raw[:32], "a byte more": append(bytes.Clone(raw), 0),
		"message 1 over its limit": codec.AppendVec(bytes.Clone(raw[:32+encSize]), make([]byte, maxNoise+1))} {
		if b, err := ParseRequestBody(b); !errors.Is(err, codec.ErrMalformed) || b != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

// T31: the inviter's X-Wing key, as a hostile inviter may make it.
func TestOfferedKeyOfNoUse(t *testing.T) {
	i := ana.invite()
	o := i.offer()
	raw := o.KEM.Bytes()
	clear(raw[len(raw)-32:])
	o.KEM = must(key.ParseSealing(raw))
	if b, e, err := Begin(i.link, o, ben.static, ben.request()); err == nil || b != nil || e != nil {
		t.Error("a request is made to an X-Wing key whose X25519 half is 0")
	}
	o = i.offer()
	o.Handshake = must(key.ParseNoise(make([]byte, 32)))
	if b, e, err := Begin(i.link, o, ben.static, ben.request()); err == nil || b != nil || e != nil {
		t.Error("a request is made to a handshake key of 0")
	}
	for name, half := range map[string]func(ours, theirs []byte){
		"ML-KEM": func(ours, theirs []byte) { copy(ours, theirs[:1184]) }, "X25519": func(ours, theirs []byte) { copy(ours[1184:], theirs[1184:]) },
	} {
		o, raw := i.offer(), i.offer().KEM.Bytes()
		half(raw, mallory.invite().offer().KEM.Bytes())
		o.KEM = must(key.ParseSealing(raw))
		b, _, err := Begin(i.link, o, ben.static, ben.request())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.state.Read(must(ParseRequestBody(b))); !errors.Is(err, ErrHandshake) {
			t.Errorf("with another %s key: %v, want ErrHandshake", name, err)
		}
	}
}

// What was changed on the way to the invitee.
func TestAnswerThatDoesNotHold(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	answer := must(ParseAcceptBody(must(must(i.state.Read(body)).Accept(ContactAccept{Welcome: []byte("welcome"), Name: "Ana"}))))
	otherBody, _ := i.begin(ben)
	other := must(ParseAcceptBody(must(must(i.state.Read(otherBody)).Accept(ContactAccept{Welcome: []byte("welcome"), Name: "Ana"}))))
	for _, tt := range []struct {
		name   string
		change func(b *AcceptBody)
	}{
		{"to another request", func(b *AcceptBody) { b.RequestHash[0] ^= 1 }},
		{"of another request", func(b *AcceptBody) { *b = *other }},
		{"of another request, with this one's name", func(b *AcceptBody) { b.noise = other.noise }},
		{"ephemeral key changed", func(b *AcceptBody) { b.noise[0] ^= 1 }},
		{"ephemeral key of 0", func(b *AcceptBody) { clear(b.noise[:32]) }},
		{"payload changed", func(b *AcceptBody) { b.noise[40] ^= 1 }},
		{"payload of another request", func(b *AcceptBody) { copy(b.noise[32:], other.noise[32:]) }},
		{"last byte changed", func(b *AcceptBody) { b.noise[len(b.noise)-1] ^= 1 }},
		{"cut off", func(b *AcceptBody) { b.noise = b.noise[:len(b.noise)-1] }},
		{"cut off in the ephemeral key", func(b *AcceptBody) { b.noise = b.noise[:31] }},
		{"without message 2", func(b *AcceptBody) { b.noise = nil }},
		{"message 1 sent back", func(b *AcceptBody) { b.noise = body.noise }},
	} {
		b := must(ParseAcceptBody(bytes.Clone(answer.encode())))
		tt.change(b)
		if a, s, err := e.Finish(b); !errors.Is(err, ErrHandshake) || a != nil || s.psk != nil {
			t.Errorf("%s: %v, want ErrHandshake", tt.name, err)
		}
	}
	if _, _, err := e.Finish(answer); err != nil {
		t.Errorf("after all these the true answer: %v", err)
	}

	raw := answer.encode()
	for name, b := range map[string][]byte{"nothing": nil, "cut off": raw[:len(raw)-1], "the front alone": raw[:32], "a byte more": append(bytes.Clone(raw), 0),
		"message 2 over its limit": codec.AppendVec(bytes.Clone(raw[:32]), make([]byte, maxNoise+1))} {
		if b, err := ParseAcceptBody(b); !errors.Is(err, codec.ErrMalformed) || b != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

// What an invitee says who has the link and does not keep to the protocol.
func TestRequestThatIsNotOne(t *testing.T) {
	laptop := newPerson(0x44, "laptop")
	two := must(ben.log.AddDevice(ben.seed.AccountKey(0), ben.Actor, laptop.cert()))
	suspended := must(two.SuspendDevice(laptop.Actor, ben.Device))
	// say lets the invitee's side say whatever bytes it likes, from whatever device.
	i := ana.invite()
	say := func(static key.NoiseSecret, payload []byte) error {
		honest, e := i.begin(ben)
		e.static, e.payload = static, hide(payload)
		first, _, err := e.message1()
		if err != nil {
			t.Fatal(err)
		}
		_, err = i.state.Read(&RequestBody{e.session.offerHash, honest.enc, first})
		return err
	}
	for _, tt := range []struct {
		name   string
		static key.NoiseSecret
		change func(m *ContactRequest)
		want   string // "" if it holds
	}{
		{"as it should be", ben.static, func(m *ContactRequest) {}, ""},
		{"two devices", ben.static, func(m *ContactRequest) {
			m.Log, m.Devices = two, must(two.DeviceSet(ben.Actor))
		}, ""},
		{"by the second", laptop.static, func(m *ContactRequest) {
			m.Log, m.Devices, m.Inbox = two, must(two.DeviceSet(ben.Actor)), laptop.inbox()
		}, ""},
		{"without a key package", ben.static, func(m *ContactRequest) { m.KeyPackages = nil }, "0 key packages"},
		{"a key package too many", ben.static, func(m *ContactRequest) { m.KeyPackages = append(m.KeyPackages, nil) }, "2 key packages, want one"},
		{"a device set of another account", ben.static, func(m *ContactRequest) { m.Devices = must(mallory.log.DeviceSet(mallory.Actor)) }, "another log"},
		{"a device set of an older log", ben.static, func(m *ContactRequest) { m.Log = two }, "older than its log"},
		{"by nobody's key", mallory.static, func(m *ContactRequest) {}, "no device's"},
		{"by a suspended device", ben.static, func(m *ContactRequest) { m.Log, m.Devices = suspended, must(suspended.DeviceSet(laptop.Actor)) }, "no device's"},
		{"to another's inbox", ben.static, func(m *ContactRequest) { m.Inbox = mallory.inbox() }, "another device's"},
		{"without a name", ben.static, func(m *ContactRequest) { m.Name = "" }, "not a name"},
		{"a name of 65 characters", ben.static, func(m *ContactRequest) { m.Name = strings.Repeat("é", 65) }, "at most 64"},
		{"a name that turns the line", ben.static, func(m *ContactRequest) { m.Name = "Ben\u202e" }, "not a name"},
		{"a greeting of 280 characters", ben.static, func(m *ContactRequest) { m.Greeting = strings.Repeat("雷", 280) }, ""},
		{"a greeting of 281 characters", ben.static, func(m *ContactRequest) { m.Greeting = strings.Repeat("x", 281) }, "at most 280"},
		{"a greeting of two lines", ben.static, func(m *ContactRequest) { m.Greeting = "hello\nthere" }, ""},
		{"a greeting that moves the cursor", ben.static, func(m *ContactRequest) { m.Greeting = "\x1b[2J" }, "control character"},
		{"a greeting that is not text", ben.static, func(m *ContactRequest) { m.Greeting = "\xff" }, "not text"},
	} {
		m := ben.request()
		tt.change(&m)
		err := say(tt.static, m.encode([32]byte{1}))
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrHandshake) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if _, _, err := Begin(i.link, i.offer(), tt.static, m); (err == nil) != (tt.want == "") {
			t.Errorf("%s: Begin = %v", tt.name, err)
		}
	}

	m := ben.request()
	good := m.encode([32]byte{1})
	bytesOf := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	many := ben.request()
	many.KeyPackages = make([][]byte, maxPackages+1)
	for name, b := range map[string][]byte{
		"nothing": nil, "cut off": good[:len(good)-1], "a byte more": append(bytes.Clone(good), 0),
		"version 0":       bytesOf(func(b []byte) []byte { b[1] = 0; return b }),
		"version 2":       bytesOf(func(b []byte) []byte { b[1] = 2; return b }),
		"33 key packages": many.encode([32]byte{1}),
	} {
		if err := say(ben.static, b); !errors.Is(err, ErrHandshake) || !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%s: %v, want ErrHandshake, malformed", name, err)
		}
	}
	large := ben.request()
	large.KeyPackages = [][]byte{make([]byte, maxPayload)}
	if _, _, err := Begin(i.link, i.offer(), ben.static, large); err == nil {
		t.Error("a request over its limit is made")
	}
}

// What an inviter says who does not keep to the protocol, and what it is kept from.
func TestAnswerThatIsNotOne(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	good := (&ContactAccept{Welcome: []byte("welcome"), Name: "Ana"}).encode([32]byte{1})
	bytesOf := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	for _, tt := range []struct {
		name    string
		payload []byte
		want    error
	}{
		{"nothing", nil, codec.ErrMalformed},
		{"cut off", good[:len(good)-1], codec.ErrMalformed},
		{"a byte more", append(bytes.Clone(good), 0), codec.ErrMalformed},
		{"version 0", bytesOf(func(b []byte) []byte { b[1] = 0; return b }), codec.ErrMalformed},
		{"version 2", bytesOf(func(b []byte) []byte { b[1] = 2; return b }), codec.ErrMalformed},
		{"without a name", (&ContactAccept{}).encode([32]byte{1}), identity.ErrName},
		{"a name with a line break", (&ContactAccept{Name: "A\nB"}).encode([32]byte{1}), identity.ErrName},
	} {
		q := must(i.state.Read(body))
		b := &AcceptBody{q.Hash, must(q.run.write(tt.payload))}
		if a, _, err := e.Finish(b); !errors.Is(err, ErrHandshake) || !errors.Is(err, tt.want) || a != nil {
			t.Errorf("%s: %v, want ErrHandshake, %v", tt.name, err, tt.want)
		}
	}
	q := must(i.state.Read(body))
	for _, a := range []ContactAccept{{Name: ""}, {Welcome: make([]byte, maxPayload), Name: "Ana"}, {Welcome: make([]byte, maxPayload+1), Name: "Ana"}} {
		if b, err := q.Accept(a); err == nil || b != nil {
			t.Errorf("a name of %d bytes and a welcome of %d are accepted", len(a.Name), len(a.Welcome))
		}
	}
	// None of these has used the request up.
	largest := ContactAccept{Welcome: make([]byte, maxPayload-2-32-4-4), Name: "Ana"}
	raw, err := q.Accept(largest)
	if err != nil {
		t.Fatal(err)
	}
	if a, _, err := e.Finish(must(ParseAcceptBody(raw))); err != nil || len(a.Welcome) != len(largest.Welcome) {
		t.Errorf("the largest answer is read with %v", err)
	}
}

// T30: the mode is in all that is derived.
func TestModeIsBound(t *testing.T) {
	i := ana.invite()
	honest, e := i.begin(ben)
	e.session.mode = 2
	first, _, err := e.message1()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.state.Read(&RequestBody{honest.OfferHash, honest.enc, first}); !errors.Is(err, ErrHandshake) {
		t.Errorf("a message 1 of another mode: %v, want ErrHandshake", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	i := ana.invite()
	body, e := i.begin(ben)
	q := must(i.state.Read(body))
	s, secret, append_ := q.Secrets(), i.link.Secret.reveal(), ben.inbox().AppendKey.Seed()
	o := i.offer()
	var out bytes.Buffer
	for name, v := range map[string]any{
		"link": i.link, "secret": i.link.Secret, "secrets": s, "inviter": i.state, "inviter value": *i.state, "invitee": e, "invitee value": *e,
		"request": q, "request value": *q, "offer": o, "offer value": *o, "contact request": q.ContactRequest,
	} {
		within := struct{ v any }{v}
		for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			slog.New(h).Info(name, "v", v, "pointer", &v, "within", within)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t", "%p"} {
			for _, v := range []any{v, &v, within, &within, []any{v}, map[string]any{"v": within}} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
		}
		json.NewEncoder(&out).Encode(map[string]any{"v": v, "w": within})
	}
	for _, v := range []any{i.link.Secret, s} {
		for _, verb := range []string{"%d", "%x", "%v", "%#v"} {
			if got := fmt.Sprintf(verb, v); got != v.(fmt.Stringer).String() {
				t.Errorf("under %s a %T prints as %s", verb, v, got)
			}
		}
	}
	for name, b := range map[string][]byte{
		"the link's secret": secret[:], "the slot's key": i.link.Secret.SlotRead().Seed(), "the offer key": i.link.Secret.offerKey(), "the X-Wing secret": e.session.ss(),
		"the seed of the ephemeral key": e.seed(), "r of the invitee": e.random(), "r of the inviter": q.random(), "the group's key": s.PSK(),
		"the handshake's key": e.session.psk(), "the invite's handshake key": i.state.static.Seed(), "the invite's X-Wing key": i.state.kem.Seed(),
		"the device's handshake key": ben.static.Seed(), "the append key of an inbox": append_, "the append key of the inviter's inbox": o.Inbox.AppendKey.Seed(),
	} {
		part := b[:8] // some keys here are of one byte over and over
		for _, form := range []string{string(part), hex.EncodeToString(part), fmt.Sprintf("%X", part), strings.Trim(fmt.Sprint(part), "[]"), base64.StdEncoding.EncodeToString(b)[:10]} {
			if strings.Contains(out.String(), form) {
				t.Errorf("output holds %s as %q", name, form)
			}
		}
	}
}
