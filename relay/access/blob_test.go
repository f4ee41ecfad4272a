package access

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"sotto/relay/mailbox"
	"sotto/storage/blob"
)

func TestUpload(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	tickets := NewTickets(bytes.Repeat([]byte{1}, 32))
	good := tickets.Issue(mailbox.MinuteOf(now) + 1)
	a, b := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.7")
	l := NewBlobLimiter(NewLimiter(Policy{Tickets: tickets, PerMinute: 1, Burst: 5}, clock), BlobPolicy{PerMinute: 60, Burst: 100}, clock)
	for i, tt := range []struct {
		wait   time.Duration
		addr   netip.Addr
		ticket []byte
		size   int
		class  blob.Class
		ok     bool
	}{
		{0, a, nil, 60, Strangers, true},
		{0, a, nil, 60, Strangers, false},        // 40 are left
		{0, a.Next(), nil, 41, Strangers, false}, // for its neighbour too
		{0, b, nil, 100, Strangers, true},        // not for others
		{0, b, nil, 101, Strangers, false},       // never so much
		{0, a, good, 1 << 20, Ticketed, true},    // nor with a ticket
		{20 * time.Second, a, nil, 60, Strangers, true},
		{0, a, nil, 0, Strangers, true},
		{0, a, nil, 0, Strangers, false}, // the fifth thing created has been
		{time.Minute, a, good, 1, 0, false},
	} {
		now = now.Add(tt.wait)
		class, err := l.Upload(tt.addr, tt.ticket, tt.size)
		if (err == nil) != tt.ok || class != tt.class || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%d: class %d, %v; want class %d, allowed: %v", i, class, err, tt.class, tt.ok)
		}
	}
}
