package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"sotto/node"
)

func TestReadStream(t *testing.T) {
	event := func(seq uint64) node.Event { return node.Event{Seq: seq, Type: node.EventNotice, Notice: "n"} }
	for _, test := range []struct {
		name, in string
		want     []node.Event
		err      error // nil: any
	}{
		{"nothing", "", nil, ErrStopped},
		{"a comment", ": hello\n\n", nil, ErrStopped},
		{"two", "id: 1\nevent: notice\ndata: {\"seq\":1,\"type\":\"notice\",\"notice\":\"n\"}\n\nid: 2\ndata: {\"seq\":2,\"type\":\"notice\",\"notice\":\"n\"}\n\n", []node.Event{event(1), event(2)}, ErrStopped},
		{"other ends of lines", "data:{\"seq\":1,\"type\":\"notice\",\"notice\":\"n\"}\r\n\r\n", []node.Event{event(1)}, ErrStopped},
		{"data in two lines", "data: {\"seq\":1,\ndata: \"type\":\"notice\",\"notice\":\"n\"}\n\n", []node.Event{event(1)}, ErrStopped},
		{"an unknown type", "event: new\ndata: {\"seq\":3,\"type\":\"new\",\"new\":{}}\n\n", []node.Event{{Seq: 3, Type: "new"}}, ErrStopped},
		{"cut in an event", "data: {\"seq\":1,\"type\":\"notice\",\"notice\":\"n\"}\n", nil, ErrStopped},
		{"cut in a line", "data: {\"seq\":1,\"type\":\"notice\",\"notice\":\"n\"}", nil, ErrStopped},
		{"a problem", "event: problem\ndata: {\"status\":409,\"code\":\"frozen\",\"detail\":\"d\"}\n\ndata: {}\n\n", nil, node.ErrFrozen},
		{"no JSON", "data: {\n\n", nil, nil},
		{"no data", "data\n\n", nil, nil},
		{"a line without end", "data: " + strings.Repeat("a", maxEvent+1), nil, node.ErrTooLarge},
		{"lines without end", strings.Repeat("data: "+strings.Repeat("a", maxEvent/2)+"\n", 3), nil, node.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []node.Event
			err := readStream(strings.NewReader(test.in), func(e node.Event) bool {
				got = append(got, e)
				return true
			})
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("events = %+v, want %+v", got, test.want)
			}
			if err == nil || test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
		})
	}
}

func TestReadStreamStopsWhenAsked(t *testing.T) {
	in := strings.Repeat("data: {\"seq\":1}\n\n", 3)
	n := 0
	if err := readStream(strings.NewReader(in), func(node.Event) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("%d events, %v", n, err)
	}
}

// What the stream says comes out again; whatever it says, it is read within bounds.
func FuzzReadStream(f *testing.F) {
	for _, seed := range []string{
		"", ": hello\n\n", "id: 1\nevent: notice\ndata: {\"seq\":1,\"type\":\"notice\",\"notice\":\"n\"}\n\n", "data:{\"seq\":1}\r\n\r\n",
		"event: problem\ndata: {\"code\":\"gone\"}\n\n", "data: {\"seq\":1,\ndata: \"type\":\"x\"}\n\n", "data\n\n", "event\ndata: []\n\n\n", "data: {\"message\":{\"text\":\"\\u0000\"}}\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var got []node.Event
		err := readStream(&limited{r: bytes.NewReader(in)}, func(e node.Event) bool {
			got = append(got, e)
			return len(got) < 1000
		})
		if err == nil && len(got) < 1000 {
			t.Error("it ended without a reason")
		}
		// Written as the server does, they are read as they were.
		var out bytes.Buffer
		for _, e := range got {
			data, err := json.Marshal(e)
			if err != nil {
				if year := e.Time.Year(); year >= 0 && year <= 9999 {
					t.Fatal(err)
				}
				return
			}
			fmt.Fprintf(&out, "id: %d\nevent: message\ndata: %s\n\n", e.Seq, data)
		}
		var again []node.Event
		if err := readStream(&out, func(e node.Event) bool {
			again = append(again, e)
			return true
		}); !errors.Is(err, ErrStopped) {
			t.Fatal(err)
		}
		if len(again) != len(got) {
			t.Fatalf("%d events came back of %d", len(again), len(got))
		}
		for i := range got {
			if a, g := again[i], got[i]; a.Seq != g.Seq || a.Type != g.Type || a.Notice != g.Notice || !a.Time.Equal(g.Time) {
				t.Errorf("event %+v came back as %+v", g, a)
			}
		}
	})
}

// limited reads a few bytes at a time, as a socket may.
type limited struct{ r io.Reader }

func (l *limited) Read(p []byte) (int, error) { return l.r.Read(p[:min(len(p), 7)]) }

func TestLimitsFit(t *testing.T) {
	text := strings.Repeat("\x01", node.MaxText)
	body, err := json.Marshal(node.NewMessage{Text: text, Key: strings.Repeat("k", 128)})
	if err != nil || len(body) > maxBody {
		t.Errorf("the largest text makes a body of %d bytes, more than %d: %v", len(body), maxBody, err)
	}
	m := node.Message{ID: strings.Repeat("a", 64), Conversation: strings.Repeat("a", 64), Sender: strings.Repeat("\U0001F600", 64), Sent: time.Now(), Text: text}
	event, err := json.Marshal(node.Event{Seq: 1 << 63, Type: node.EventConversation, Message: &m, Conversation: &node.Conversation{Last: &m}})
	if err != nil || len(event) > maxEvent {
		t.Errorf("the largest event has %d bytes, more than %d: %v", len(event), maxEvent, err)
	}
	one, err := json.Marshal(m)
	if err != nil || len(one)*MaxMessages > maxAnswer {
		t.Errorf("the largest answer has %d bytes, more than %d: %v", len(one)*MaxMessages, maxAnswer, err)
	}
}
