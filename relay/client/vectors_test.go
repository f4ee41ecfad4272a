package client

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"sotto/crypto/key"
	"sotto/relay/mailbox"
	"sotto/relay/wire"
)

const pageVectors = "../../spec/vectors/relay/page.json"

var writeVectors = flag.Bool("write-vectors", false, "write the vector file; it was made once and does not change")

// pageVector is a page that answers a READ from the start with the key of generation 0.
type pageVector struct {
	Name  string `json:"name"`
	Page  string `json:"page"`
	Error string `json:"error,omitempty"`
}

// A mailbox of two messages that are gone, a message, a commit that ends the generation
// and one of the next, and what a client refuses of it.
func makePageVectors(relay key.RelaySecret) (out []pageVector) {
	end := mailbox.Head{Mailbox: box, Era: 5, Chain: mailbox.FirstChain(box)}
	var entries []mailbox.Entry
	var lost mailbox.Span
	var heads []mailbox.Head
	for i, e := range []mailbox.Entry{
		{Kind: mailbox.Message, Payload: []byte("gone")}, {Kind: mailbox.Message, Payload: []byte("gone too")}, {Kind: mailbox.Message, Payload: []byte("three")},
		{Kind: mailbox.Commit, Meta: bytes.Repeat([]byte{3}, wire.NextCapsSize), Payload: []byte("four")},
		{Kind: mailbox.Message, Gen: 1, Payload: []byte("five")},
	} {
		e.Seq, e.Era, e.Minute = mailbox.Seq(i+1), 5, 29_000_000+mailbox.Minute(i)
		end.Seq, end.Chain = e.Seq, mailbox.NextChain(end.Chain, e.Era, e.Seq, e.Minute, e.Hash())
		if e.Kind == mailbox.Commit {
			end.Commit = end.Mark()
		}
		heads = append(heads, end)
		if e.Seq <= 2 {
			lost = mailbox.Span{From: 1, Cause: mailbox.Expired, End: end}
		} else {
			entries = append(entries, e)
		}
	}
	add := func(name, err string, change func(p *wire.Page)) {
		p := wire.Page{Entries: append([]mailbox.Entry{}, entries[:2]...), Lost: []mailbox.Span{lost}, End: wire.SignHeads(relay, heads[3:4]).Head(0)}
		change(&p)
		out = append(out, pageVector{name, hex.EncodeToString(wire.Encode(&p)), err})
	}
	sign := func(h mailbox.Head) wire.SignedHead { return wire.SignHeads(relay, []mailbox.Head{h}).Head(0) }
	add("good", "", func(p *wire.Page) {})
	add("good: the span alone", "", func(p *wire.Page) { p.Entries, p.End, p.More = nil, sign(heads[1]), true })
	add("good: nothing yet", "", func(p *wire.Page) {
		*p = wire.Page{End: sign(mailbox.Head{Mailbox: box, Era: 5, Chain: mailbox.FirstChain(box)})}
	})
	add("the first entry left out", "protocol", func(p *wire.Page) { p.Entries = p.Entries[1:] })
	add("the span left out", "protocol", func(p *wire.Page) { p.Lost = nil })
	add("the last entry left out", "protocol", func(p *wire.Page) { p.Entries = p.Entries[:1] })
	add("an entry twice", "protocol", func(p *wire.Page) { p.Entries = append(p.Entries[:1], p.Entries...) })
	add("a payload altered", "protocol", func(p *wire.Page) { p.Entries[0].Payload = []byte("other") })
	add("a minute altered", "protocol", func(p *wire.Page) { p.Entries[0].Minute++ })
	add("an era altered", "protocol", func(p *wire.Page) { p.Entries[0].Era++ })
	add("a generation altered", "protocol", func(p *wire.Page) { p.Entries[1].Gen = 1 })
	add("a message made a commit", "protocol", func(p *wire.Page) { p.Entries[0].Kind = mailbox.Commit })
	add("keys altered", "protocol", func(p *wire.Page) { p.Entries[1].Meta = bytes.Repeat([]byte{4}, wire.NextCapsSize) })
	add("an entry of kind 3", "protocol", func(p *wire.Page) { p.Entries[0].Kind = 3 })
	add("a span that begins late", "protocol", func(p *wire.Page) { p.Lost[0].From = 2 })
	add("a span behind an entry", "protocol", func(p *wire.Page) {
		first := mailbox.Entry{Seq: 1, Era: 5, Kind: mailbox.Message, Minute: 29_000_000, Payload: []byte("whatever the relay likes")}
		p.Entries, p.Lost[0].From = append([]mailbox.Entry{first}, p.Entries...), 2
	})
	add("a span with another chain", "protocol", func(p *wire.Page) { p.Lost[0].End.Chain[0] ^= 1 })
	add("a span of another mailbox", "protocol", func(p *wire.Page) { p.Lost[0].End.Mailbox[0] ^= 1 })
	add("a span to the end of all numbers", "protocol", func(p *wire.Page) { p.Lost[0].End.Seq = 1<<64 - 1 })
	add("behind the end of the generation", "protocol", func(p *wire.Page) { p.Entries, p.End = append(p.Entries, entries[2]), sign(heads[4]) })
	add("a fence that the commit did not move", "protocol", func(p *wire.Page) {
		h := heads[3]
		h.Commit = mailbox.Mark{}
		p.End = sign(h)
	})
	add("an empty page that says there is more", "protocol", func(p *wire.Page) {
		*p = wire.Page{End: sign(mailbox.Head{Mailbox: box, Era: 5, Chain: mailbox.FirstChain(box)}), More: true}
	})
	add("the head of another mailbox", "signature", func(p *wire.Page) { h := heads[3]; h.Mailbox[0] ^= 1; p.End = sign(h) })
	add("a head by another relay", "signature", func(p *wire.Page) {
		p.End = wire.SignHeads(key.RelayFromSeed(bytes.Repeat([]byte{4}, 32)), heads[3:4]).Head(0)
	})
	return out
}

// A reader takes the good pages of spec/vectors/relay, and refuses the others as they say.
func TestPageVectors(t *testing.T) {
	relay := key.RelayFromSeed(bytes.Repeat([]byte{3}, 32))
	b, err := json.MarshalIndent(makePageVectors(relay), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *writeVectors {
		if err := os.WriteFile(pageVectors, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pinned, err := os.ReadFile(pageVectors)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, pinned) {
		t.Errorf("the pages are made differently now:\n%s", b)
	}
	var v []pageVector
	if err := json.Unmarshal(pinned, &v); err != nil {
		t.Fatal(err)
	}
	want := map[string]error{"": nil, "protocol": ErrProtocol, "signature": wire.ErrSignature}
	for _, v := range v {
		raw, _ := hex.DecodeString(v.Page)
		var p wire.Page
		if err := wire.Decode(raw, &p); err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		c := New(Config{Relay: relay.Public()})
		_, err := c.checkPage(&p, box, 0, Start(box))
		if !errors.Is(err, want[v.Error]) || (err == nil) != (v.Error == "") {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Error)
		}
	}
}
