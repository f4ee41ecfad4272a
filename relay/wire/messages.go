package wire

import (
	"fmt"

	"sotto/crypto/codec"
	"sotto/crypto/key"
	"sotto/relay/mailbox"
)

// Message is the body of a frame.
type Message interface{ fields(*codec.Fields) }

// Encode returns the bytes of a message.
func Encode(m Message) []byte { return codec.Write(m.fields) }

// Decode reads a message that makes up all of b.
func Decode(b []byte, m Message) error {
	if err := codec.Read(b, m.fields); err != nil {
		return fmt.Errorf("read %T: %w", m, err)
	}
	return nil
}

func public[K interface {
	Bytes() []byte
}](f *codec.Fields, k *K, parse func([]byte) (K, error)) {
	b := (*k).Bytes()
	f.Array(b)
	if f.Reading() {
		*k, _ = parse(b)
	}
}

func relayKey(f *codec.Fields, k *key.RelayPublic) {
	public(f, k, key.ParsePublic[key.RelayPublic])
}

func capKey(f *codec.Fields, k *key.CapabilityPublic) {
	public(f, k, key.ParsePublic[key.CapabilityPublic])
}

func mark(f *codec.Fields, m *mailbox.Mark) {
	f.U64((*uint64)(&m.Era))
	f.U64((*uint64)(&m.Seq))
}

// Nonce is 32 fresh random bytes.
type Nonce [32]byte

// Empty is a body without content.
type Empty struct{}

func (*Empty) fields(*codec.Fields) {}

// ClientHello is the first frame of a session.
type ClientHello struct {
	MinVersion, MaxVersion uint16
	Features               uint64
	Nonce                  Nonce
}

func (m *ClientHello) fields(f *codec.Fields) {
	f.U16(&m.MinVersion)
	f.U16(&m.MaxVersion)
	f.U64(&m.Features)
	f.Array(m.Nonce[:])
	extensions(f)
}

// extensions is room to grow: what is there is not looked at.
func extensions(f *codec.Fields) {
	var x []byte
	f.Vec(1024, &x)
}

// RelayHello is the relay's answer to it.
type RelayHello struct {
	Version     uint16
	Features    uint64
	Key         key.RelayPublic
	Era         mailbox.Era
	Nonce       Nonce
	Minute      mailbox.Minute
	MaxFrame    uint32
	MaxInFlight uint32
	KeepMax     uint64
}

func (m *RelayHello) fields(f *codec.Fields) {
	f.U16(&m.Version)
	f.U64(&m.Features)
	relayKey(f, &m.Key)
	f.U64((*uint64)(&m.Era))
	f.Array(m.Nonce[:])
	f.U32((*uint32)(&m.Minute))
	f.U32(&m.MaxFrame)
	f.U32(&m.MaxInFlight)
	f.U64(&m.KeepMax)
	extensions(f)
}

// Role is what a capability is for.
type Role uint8

// The roles of spec/relay.md, section 3.
const (
	RoleRead      Role = 1
	RoleAppend    Role = 2
	RoleAdmin     Role = 3
	RoleSlotRead  Role = 4
	RoleSlotOwner Role = 5
)

// Session is what a proof is bound to: the relay that the transport authenticated,
// and both sides' nonces.
type Session struct {
	Relay       key.RelayPublic
	RelayNonce  Nonce
	ClientNonce Nonce
}

func (s Session) bytes() []byte {
	return append(append(s.Relay.Bytes(), s.RelayNonce[:]...), s.ClientNonce[:]...)
}

// Claim is what a proof shows: a role for an object. Object is a mailbox or slot.
type Claim struct {
	Role   Role
	Object [32]byte
	Gen    mailbox.Gen
}

func (c Claim) signed() []byte {
	return codec.AppendU8(codec.AppendU32(append([]byte(nil), c.Object[:]...), uint32(c.Gen)), uint8(c.Role))
}

// Proof shows possession of a capability in a session.
type Proof struct {
	Claim
	Signature [key.SignatureSize]byte
}

const proofLabel = "sotto/cap/1"

// Prove makes a proof.
func (s Session) Prove(k key.CapabilitySecret, c Claim) Proof {
	return Proof{c, [key.SignatureSize]byte(k.Sign(proofLabel, s.bytes(), c.signed()))}
}

// Verify reports whether p shows possession of k in this session.
func (s Session) Verify(k key.CapabilityPublic, p Proof) bool {
	return k.Verify(p.Signature[:], proofLabel, s.bytes(), p.Claim.signed())
}

func (p *Proof) fields(f *codec.Fields) {
	f.U8((*uint8)(&p.Role))
	f.Array(p.Object[:])
	f.U32((*uint32)(&p.Gen))
	f.Array(p.Signature[:])
}

// Prove is the body of PROVE.
type Prove struct{ Proofs []Proof }

func (m *Prove) fields(f *codec.Fields) {
	codec.List(f, MaxProofs*(1+32+4+64), MaxProofs, &m.Proofs, (*Proof).fields)
}

// Flags is an answer of one byte for each thing asked.
type Flags struct{ Each []byte }

func (m *Flags) fields(f *codec.Fields) { f.Rest(&m.Each) }

// The bytes of Flags in the answer to SUBSCRIBE.
const (
	SubscribeDenied uint8 = 0
	SubscribeOK     uint8 = 1
	SubscribeEra    uint8 = 2
)

const createLabel = "sotto/create/1"

// Create asks for a mailbox. Zero terms mean the relay's own default.
type Create struct {
	Admin      key.CapabilityPublic
	Salt       [16]byte
	Read       key.CapabilityPublic
	Append     key.CapabilityPublic
	Keep       mailbox.Minute
	MaxEntries uint32
	MaxBytes   uint64
	Full       mailbox.Full
	Ticket     []byte
	Signature  [key.SignatureSize]byte
}

func (m *Create) unsigned(f *codec.Fields) {
	capKey(f, &m.Admin)
	f.Array(m.Salt[:])
	capKey(f, &m.Read)
	capKey(f, &m.Append)
	f.U32((*uint32)(&m.Keep))
	f.U32(&m.MaxEntries)
	f.U64(&m.MaxBytes)
	f.U8((*uint8)(&m.Full))
	f.Vec(MaxTicket, &m.Ticket)
}

func (m *Create) fields(f *codec.Fields) {
	m.unsigned(f)
	f.Array(m.Signature[:])
}

// Sign signs the request with the admin key.
func (m *Create) Sign(s Session, admin key.CapabilitySecret) {
	m.Admin = admin.Public()
	m.Signature = [key.SignatureSize]byte(admin.Sign(createLabel, s.bytes(), codec.Write(m.unsigned)))
}

// Verify reports whether the request is signed.
func (m *Create) Verify(s Session) bool {
	return m.Admin.Verify(m.Signature[:], createLabel, s.bytes(), codec.Write(m.unsigned))
}

// ID is the mailbox's id at a relay.
func (m *Create) ID(relay key.RelayPublic) mailbox.ID { return MailboxID(relay, m.Admin, m.Salt) }

// Caps is the Meta of generation 0.
func (m *Create) Caps() []byte {
	return m.Append.Append(m.Read.Append(m.Admin.Bytes()))
}

// Append asks for an entry to be stored.
type Append struct {
	Mailbox mailbox.ID
	Gen     mailbox.Gen
	Kind    mailbox.Kind
	Expect  mailbox.Mark // of a commit
	Meta    []byte
	Payload []byte
}

func (m *Append) fields(f *codec.Fields) {
	f.Array(m.Mailbox[:])
	f.U32((*uint32)(&m.Gen))
	f.U8((*uint8)(&m.Kind))
	switch m.Kind {
	case mailbox.Message:
	case mailbox.Commit:
		mark(f, &m.Expect)
	default:
		f.Fail("an entry of %v", m.Kind)
	}
	f.Vec(mailbox.MaxMeta, &m.Meta)
	f.Vec(mailbox.MaxPayload, &m.Payload)
}

// Deposit is the request as the store takes it.
func (m *Append) Deposit() mailbox.Deposit {
	return mailbox.Deposit{Mailbox: m.Mailbox, Kind: m.Kind, Gen: m.Gen, Expect: m.Expect, Meta: m.Meta, Payload: m.Payload}
}

// NextCapsSize is the size of a commit's Meta: read key, then append key.
const NextCapsSize = 2 * key.Size

// Read asks for what stands behind a mark.
type Read struct {
	Cursor
	MaxEntries uint32
	MaxBytes   uint32
}

func (m *Read) fields(f *codec.Fields) {
	m.Cursor.fields(f)
	f.U32(&m.MaxEntries)
	f.U32(&m.MaxBytes)
}

// Cursor is a reader's place in a mailbox.
type Cursor struct {
	Mailbox mailbox.ID
	Gen     mailbox.Gen // whose read key has been shown
	After   mailbox.Mark
}

func (m *Cursor) fields(f *codec.Fields) {
	f.Array(m.Mailbox[:])
	f.U32((*uint32)(&m.Gen))
	mark(f, &m.After)
}

// Subscribe asks for what stands behind cursors, and for what comes.
type Subscribe struct{ Cursors []Cursor }

func (m *Subscribe) fields(f *codec.Fields) {
	codec.List(f, MaxCursors*(32+4+16), MaxCursors, &m.Cursors, (*Cursor).fields)
}

// Object is a request that names a mailbox or slot and nothing else.
type Object struct{ ID [32]byte }

func (m *Object) fields(f *codec.Fields) { f.Array(m.ID[:]) }

// Credit lets the relay send more events.
type Credit struct{ Frames, Bytes uint32 }

func (m *Credit) fields(f *codec.Fields) {
	f.U32(&m.Frames)
	f.U32(&m.Bytes)
}

// Trim asks for entries to be removed.
type Trim struct {
	Mailbox mailbox.ID
	Through mailbox.Seq
}

func (m *Trim) fields(f *codec.Fields) {
	f.Array(m.Mailbox[:])
	f.U64((*uint64)(&m.Through))
}

// Page is a stretch of a mailbox with its signed end.
type Page struct {
	Entries []mailbox.Entry
	Lost    []mailbox.Span
	End     SignedHead
	More    bool
}

// EntryOverhead is how many bytes an entry takes up in a page beside its meta and
// payload, at most; SpanSize what a span does; PageOverhead what a page does
// beside both, in an event.
const (
	EntryOverhead = 8 + 8 + 1 + 4 + 4 + 4 + 4 // seq, era, kind, minute, generation, two lengths
	SpanSize      = 8 + 1 + headSize          // from, cause, end
	PageOverhead  = 2048
	MaxSpans      = mailbox.MaxSpans
)

func entryFields(e *mailbox.Entry, f *codec.Fields) {
	f.U64((*uint64)(&e.Seq))
	f.U64((*uint64)(&e.Era))
	f.U8((*uint8)(&e.Kind))
	f.U32((*uint32)(&e.Minute))
	f.U32((*uint32)(&e.Gen))
	f.Vec(mailbox.MaxMeta, &e.Meta)
	f.Vec(mailbox.MaxPayload, &e.Payload)
}

func spanFields(s *mailbox.Span, f *codec.Fields) {
	f.U64((*uint64)(&s.From))
	f.U8((*uint8)(&s.Cause))
	headFields(&s.End, f)
}

func (m *Page) fields(f *codec.Fields) {
	codec.List(f, MaxFrame, mailbox.MaxPage, &m.Entries, entryFields)
	codec.List(f, MaxSpans*SpanSize, MaxSpans, &m.Lost, spanFields)
	m.End.fields(f)
	f.Flag(&m.More)
}

// Event is a page that the relay sends to a subscriber.
type Event struct {
	Mailbox mailbox.ID
	Page    Page
}

func (m *Event) fields(f *codec.Fields) {
	f.Array(m.Mailbox[:])
	m.Page.fields(f)
}

const slotCreateLabel = "sotto/slot-create/1"

// SlotCreate asks for a slot.
type SlotCreate struct {
	Owner          key.CapabilityPublic
	Reader         key.CapabilityPublic
	Once           bool
	Expires        mailbox.Minute
	Value          []byte
	Ticket         []byte
	OwnerSignature [key.SignatureSize]byte
	ReadSignature  [key.SignatureSize]byte
}

func (m *SlotCreate) unsigned(f *codec.Fields) {
	capKey(f, &m.Owner)
	capKey(f, &m.Reader)
	f.Flag(&m.Once)
	f.U32((*uint32)(&m.Expires))
	f.Vec(mailbox.MaxSlot, &m.Value)
	f.Vec(MaxTicket, &m.Ticket)
}

func (m *SlotCreate) fields(f *codec.Fields) {
	m.unsigned(f)
	f.Array(m.OwnerSignature[:])
	f.Array(m.ReadSignature[:])
}

// Sign signs the request with both keys.
func (m *SlotCreate) Sign(s Session, owner, read key.CapabilitySecret) {
	m.Owner, m.Reader = owner.Public(), read.Public()
	b := codec.Write(m.unsigned)
	m.OwnerSignature = [key.SignatureSize]byte(owner.Sign(slotCreateLabel, s.bytes(), b))
	m.ReadSignature = [key.SignatureSize]byte(read.Sign(slotCreateLabel, s.bytes(), b))
}

// Verify reports whether the request is signed with both keys.
func (m *SlotCreate) Verify(s Session) bool {
	b := codec.Write(m.unsigned)
	return m.Owner.Verify(m.OwnerSignature[:], slotCreateLabel, s.bytes(), b) &&
		m.Reader.Verify(m.ReadSignature[:], slotCreateLabel, s.bytes(), b)
}

// SlotTake takes a slot.
type SlotTake struct {
	Slot mailbox.SlotID
	Tag  mailbox.Tag
}

func (m *SlotTake) fields(f *codec.Fields) {
	f.Array(m.Slot[:])
	f.Array(m.Tag[:])
}

// SlotSet replaces a slot's value.
type SlotSet struct {
	Slot    mailbox.SlotID
	Version uint32
	Value   []byte
}

func (m *SlotSet) fields(f *codec.Fields) {
	f.Array(m.Slot[:])
	f.U32(&m.Version)
	f.Vec(mailbox.MaxSlot, &m.Value)
}

// SlotValue is the answer to who reads or takes a slot.
type SlotValue struct {
	Version uint32
	Value   []byte
}

func (m *SlotValue) fields(f *codec.Fields) {
	f.U32(&m.Version)
	f.Vec(mailbox.MaxSlot, &m.Value)
}

// SlotState is the answer to a slot's owner.
type SlotState struct {
	Version uint32
	Expires mailbox.Minute
	Taken   mailbox.Minute
}

func (m *SlotState) fields(f *codec.Fields) {
	f.U32(&m.Version)
	f.U32((*uint32)(&m.Expires))
	f.U32((*uint32)(&m.Taken))
}

// Ping is echoed.
type Ping struct{ Data []byte }

func (m *Ping) fields(f *codec.Fields) {
	f.Rest(&m.Data)
	if len(m.Data) > MaxPing {
		f.Fail("a ping of %d bytes", len(m.Data))
	}
}

// GoAway asks the client to leave.
type GoAway struct {
	Reason uint8
	Wait   uint32 // seconds
}

// The reasons of a GoAway.
const (
	GoStopping uint8 = 1
	GoIdle     uint8 = 2
	GoTooMany  uint8 = 3
)

func (m *GoAway) fields(f *codec.Fields) {
	f.U8(&m.Reason)
	f.U32(&m.Wait)
}
