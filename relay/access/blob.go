package access

import (
	"net/netip"
	"time"

	"sotto/relay/wire"
	"sotto/storage/blob"
)

// Classes of who owns blobs. Each has a quota of its own at a relay: strangers
// cannot take the room of those who have a ticket.
const (
	Strangers blob.Class = 0
	Ticketed  blob.Class = 1
)

// BlobPolicy says how much those without a ticket may upload, beside what Policy
// says of creating.
type BlobPolicy struct {
	PerMinute int64 // bytes a minute and address prefix; 0 means 16 MiB
	Burst     int64 // bytes at once; 0 means 64 MiB
}

// BlobLimiter applies a policy to uploads.
type BlobLimiter struct {
	create *Limiter // counts blobs
	bytes  *Limiter // counts their bytes
}

// NewBlobLimiter makes one that counts a blob among the things that create lets a
// client create. A nil clock is time.Now.
func NewBlobLimiter(create *Limiter, p BlobPolicy, clock func() time.Time) *BlobLimiter {
	if p.PerMinute == 0 {
		p.PerMinute = 16 << 20
	}
	if p.Burst == 0 {
		p.Burst = 64 << 20
	}
	c := create.p
	c.PerMinute, c.Burst = float64(p.PerMinute), int(p.Burst)
	return &BlobLimiter{create, NewLimiter(c, clock)}
}

// Upload returns which class pays for a blob of a client at addr, if it may upload so
// many bytes now, with this ticket or without. It returns an error that wraps
// ErrRefused.
func (l *BlobLimiter) Upload(addr netip.Addr, ticket []byte, size int) (blob.Class, error) {
	if err := l.create.Create(addr, ticket); err != nil {
		return 0, err
	}
	if err := l.bytes.take(addr, ticket, size); err != nil {
		return 0, err
	}
	if len(ticket) > 0 && l.create.p.Tickets != nil {
		return Ticketed, nil
	}
	return Strangers, nil
}

// Owns reports whether the session speaks for an owner of blobs.
func (s *Session) Owns(o blob.Owner) bool {
	return s.Shown(wire.Claim{Role: wire.RoleBlobOwner, Object: o})
}
