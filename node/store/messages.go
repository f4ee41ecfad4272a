package store

import (
	"encoding/hex"
	"errors"
	"iter"
	"strings"
	"time"

	"sotto/crypto/codec"
	"sotto/relay/mailbox"
	"sotto/storage/vault"
)

// The tables of what is said about messages. Those by conversation lie in the bucket of
// the message that they are about, so that they are forgotten with it.
const (
	tVersion vault.Table = 21 // by conversation, by message: each text that it has had
	tEdit    vault.Table = 22 // by conversation: whose version an edit is
	tAbout   vault.Table = 23 // by conversation, by message: reactions, receipts, votes
	tEarly   vault.Table = 24 // by conversation, by message: what came before the message it is about
	tRefuge  vault.Table = 25 // by conversation: where a bucket is emptied to
	tOwn     vault.Table = 26 // by conversation: what its user has noted
	tDue     vault.Table = 27 // by time: what is to be done then
	tLater   vault.Table = 28 // by conversation: texts to be sent at a time
	tPin     vault.Table = 29 // by conversation: messages held up to all
)

var messageTables = []vault.Table{tVersion, tEdit, tAbout, tEarly, tRefuge, tOwn, tLater, tPin}

const (
	seqBucket = "bucket" // of messages
	seqErased = "erased" // how often something was erased
	seqEarly  = "early"
	seqLater  = "later"
	seqDue    = "due"
)

// The numbers of message buckets that are no days.
const (
	aloneBuckets = 1 << 63 // one message, by its id
	moreBuckets  = 1 << 62 // from the sequence
	draftBucket  = moreBuckets - 1
)

// Alone gives a message a bucket of its own, to be erased without touching others. It is
// called before the message is first written.
func (m *Message) Alone() { m.Bucket = aloneBucket(m.ID) }

func aloneBucket(id [32]byte) uint64 {
	n, _ := vault.Number(string(id[1:9]))
	return n | aloneBuckets
}

func messageBucket(group []byte, number uint64) vault.Bucket {
	return vault.Bucket{Domain: vault.Messages, Partition: string(group), Number: number}
}

// settle gives a message the bucket that it is to be written to: that of its day until it
// has another, and never one that is being emptied. It reports whether what is said about
// the message is to follow.
func (t *Tx) settle(group []byte, m *Message) (follow bool, err error) {
	was := m.Bucket
	if was == 0 {
		m.Bucket = uint64(mailbox.MinuteOf(m.Arrived)) / minutesOfDay
	}
	m.Bucket, err = t.resolve(group, m.Bucket)
	return was != 0 && was != m.Bucket, err
}

// resolve returns where what belongs into a bucket is written.
func (t *Tx) resolve(group []byte, bucket uint64) (uint64, error) {
	for {
		to, err := t.refuge(group, bucket)
		if err != nil || to == 0 {
			return bucket, err
		}
		bucket = to
	}
}

func refugeRef(group []byte, bucket uint64) vault.Ref {
	return vault.Ref{Table: tRefuge, Partition: string(group), Order: vault.U64(bucket)}
}

// refuge returns where a bucket is emptied to, 0 if it is not.
func (t *Tx) refuge(group []byte, bucket uint64) (uint64, error) {
	b, err := t.tx.Get(refugeRef(group, bucket))
	if errors.Is(err, vault.ErrNotFound) {
		return 0, nil
	}
	n, _ := vault.Number(string(b))
	return n, err
}

// Erase makes what a message's bucket holds of it unreadable, once Empty has run and the
// erasure key has been rotated: at once if it is alone, else what lives in the bucket
// moves out first. It is called when the message has been deleted or is about to be
// written without its text.
func (t *Tx) Erase(group []byte, m *Message) error {
	if m.Bucket >= aloneBuckets {
		return t.dropMessages(group, m.Bucket)
	}
	if to, err := t.refuge(group, m.Bucket); err != nil || to != 0 {
		return err
	}
	n, err := t.tx.Next(seqBucket)
	if err != nil {
		return err
	}
	return t.tx.Put(refugeRef(group, m.Bucket), plain, []byte(vault.U64(moreBuckets+n)))
}

func (t *Tx) dropMessages(group []byte, number uint64) error {
	if _, err := t.tx.Next(seqErased); err != nil {
		return err
	}
	return t.tx.DropBucket(messageBucket(group, number))
}

// Bounds of one step of Empty.
const (
	emptyRecords = 256
	emptyBytes   = 1 << 20
)

// Emptying is how far the buckets of a conversation are emptied. The zero value begins.
type Emptying struct {
	buckets []string // those that held something erased when it began
	from    string   // the place that is looked at next
}

// Empty moves on with the buckets of a conversation that hold something erased, and
// reports whether it is done. After an error it is begun anew.
func (t *Tx) Empty(group []byte, e *Emptying) (done bool, err error) {
	if e.buckets == nil {
		for o, err := range t.tx.Orders(tRefuge, string(group), "", false) {
			if err != nil {
				return false, err
			}
			e.buckets = append(e.buckets, o)
		}
		if e.buckets == nil {
			return true, nil
		}
	}
	size, seen := t.Size(), 0
	for r, err := range t.tx.Range(tMessage, string(group), e.from, false) {
		if err != nil {
			return false, err
		}
		if seen++; seen > emptyRecords || t.Size()-size > emptyBytes {
			e.from = r.Order
			return false, nil
		}
		var m Message
		if err := decode(r.Value, &m); err != nil {
			return false, err
		}
		to, err := t.resolve(group, m.Bucket)
		if err != nil {
			return false, err
		}
		if to == m.Bucket {
			continue
		}
		if err := t.PutMessage(group, &m); err != nil {
			return false, err
		}
	}
	// Of a bucket that something was erased from meanwhile, messages may lie behind us: it
	// is the next run's.
	for _, o := range e.buckets {
		n, _ := vault.Number(o)
		if err := errors.Join(t.dropMessages(group, n), t.tx.Delete(vault.Ref{Table: tRefuge, Partition: string(group), Order: o})); err != nil {
			return false, err
		}
	}
	return true, nil
}

// follow writes what is said about a message into its bucket.
func (t *Tx) follow(group []byte, m *Message) error {
	versions, err := t.Versions(group, m.ID)
	if err != nil {
		return err
	}
	for i := range versions {
		if err := t.PutVersion(group, m, &versions[i]); err != nil {
			return err
		}
	}
	about, err := t.About(group, m.ID)
	if err != nil || about.empty() {
		return err
	}
	return t.PutAbout(group, m, &about)
}

// Unerased returns how often something of messages was erased, and how often had it been
// when the erasure key was last rotated.
func (t *Tx) Unerased() (erased, rotated uint64, err error) {
	if erased, err = t.tx.Last(seqErased); err != nil {
		return 0, 0, err
	}
	b, err := t.tx.Get(vault.Ref{Table: tRefuge, Partition: "rotated"})
	if errors.Is(err, vault.ErrNotFound) {
		return erased, 0, nil
	}
	rotated, _ = vault.Number(string(b))
	return erased, rotated, err
}

// PutRotated notes that the erasure key was rotated after so many erasures.
func (t *Tx) PutRotated(n uint64) error {
	return t.tx.Put(vault.Ref{Table: tRefuge, Partition: "rotated"}, plain, []byte(vault.U64(n)))
}

// RemoveMessage deletes a message for good, with everything said about it. Its id stays
// known, so that it does not come back.
func (t *Tx) RemoveMessage(group []byte, m *Message) error {
	if err := errors.Join(t.forgetAbout(group, m), t.DeleteMessage(group, m.ID), t.SetStar(group, m.ID, false), t.Erase(group, m)); err != nil {
		return err
	}
	return t.tx.Put(placeRef(group, m.ID), plain, []byte(vault.U64(0)))
}

// Gone reports whether a message was here and was removed.
func (t *Tx) Gone(group []byte, id [32]byte) (bool, error) {
	b, err := t.tx.Get(placeRef(group, id))
	if errors.Is(err, vault.ErrNotFound) {
		return false, nil
	}
	return string(b) == vault.U64(0), err
}

// Known reports whether an id names a message or a version of one, here or removed.
func (t *Tx) Known(group []byte, id [32]byte) (bool, error) {
	for _, r := range []vault.Ref{placeRef(group, id), {Table: tEdit, Partition: string(group), Order: string(id[:])}} {
		if _, err := t.tx.Get(r); !errors.Is(err, vault.ErrNotFound) {
			return err == nil, err
		}
	}
	return false, nil
}

// MessageIDs returns up to two ids of messages that begin with these letters of hex.
func (t *Tx) MessageIDs(group []byte, prefix string) (out [][32]byte, err error) {
	start, err := hex.DecodeString(prefix[:len(prefix)&^1])
	if err != nil {
		return nil, nil
	}
	for o, err := range t.tx.Orders(tPlace, string(group), string(start), false) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(o, string(start)) {
			break
		}
		if strings.HasPrefix(hex.EncodeToString([]byte(o)), prefix) && len(o) == 32 {
			if out = append(out, [32]byte([]byte(o))); len(out) == 2 {
				break
			}
		}
	}
	return out, nil
}

// BlankMessage takes text and everything said about it from a message that stays in its
// place. The caller has emptied m and marked it.
func (t *Tx) BlankMessage(group []byte, m *Message) error {
	if err := t.forgetAbout(group, m); err != nil {
		return err
	}
	if err := t.Erase(group, m); err != nil {
		return err
	}
	if m.Bucket >= aloneBuckets { // gone: what is left of the message holds nothing
		m.Bucket = 0
	}
	return t.PutMessage(group, m)
}

func (t *Tx) forgetAbout(group []byte, m *Message) error {
	versions, err := t.Versions(group, m.ID)
	if err != nil {
		return err
	}
	for _, v := range versions {
		err = errors.Join(err, t.tx.Delete(versionRef(group, m.ID, v.ID)), t.tx.Delete(vault.Ref{Table: tEdit, Partition: string(group), Order: string(v.ID[:])}))
	}
	return errors.Join(err, t.tx.Delete(aboutRef(group, m.ID)), t.tx.Delete(vault.Ref{Table: tPin, Partition: string(group), Order: string(m.ID[:])}))
}

// Version is a text that a message has had.
type Version struct {
	ID       [32]byte // of the message that brought it
	Seq      uint64
	Sent     time.Time
	Text     string
	Mentions []Mention
}

func (v *Version) fields(f *codec.Fields) {
	f.Array(v.ID[:])
	f.U64(&v.Seq)
	moment(f, &v.Sent)
	text(f, &v.Text)
	mentions(f, &v.Mentions)
}

// Mention is a part of a text that names an account.
type Mention struct {
	Start, Length uint32
	Account       [32]byte
}

func mentions(f *codec.Fields, l *[]Mention) {
	codec.List(f, big, most, l, func(m *Mention, f *codec.Fields) {
		f.U32(&m.Start)
		f.U32(&m.Length)
		f.Array(m.Account[:])
	})
}

func versionRef(group []byte, message, id [32]byte) vault.Ref {
	return vault.Ref{Table: tVersion, Partition: string(group), Order: string(message[:]) + string(id[:])}
}

// PutVersion writes a text that a message has had.
func (t *Tx) PutVersion(group []byte, m *Message, v *Version) error {
	bucket, err := t.resolve(group, m.Bucket)
	if err != nil {
		return err
	}
	return errors.Join(t.put(versionRef(group, m.ID, v.ID), messageBucket(group, bucket), v),
		t.tx.Put(vault.Ref{Table: tEdit, Partition: string(group), Order: string(v.ID[:])}, plain, m.ID[:]))
}

// Versions returns the texts that a message has had; none if it has had one only.
func (t *Tx) Versions(group []byte, message [32]byte) (out []Version, err error) {
	for r, err := range t.tx.Range(tVersion, string(group), string(message[:]), false) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(r.Order, string(message[:])) {
			break
		}
		var v Version
		if err := decode(r.Value, &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Original returns the message that an id names: itself, or the one it is a version of.
func (t *Tx) Original(group []byte, id [32]byte) ([32]byte, error) {
	b, err := t.tx.Get(vault.Ref{Table: tEdit, Partition: string(group), Order: string(id[:])})
	if errors.Is(err, vault.ErrNotFound) || err == nil && len(b) != len(id) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	return [32]byte(b), nil
}

// About is what others have said about a message.
type About struct {
	Reactions []Reaction
	Receipts  []Receipt
	Votes     []Vote
	Closed    uint64 // place of what closed the poll, 0 if it is open
}

// Reaction is what one account has reacted with.
type Reaction struct {
	Account [32]byte
	Seq     uint64
	Sent    time.Time
	Set     []string
}

// Receipt says what has become of a message at one account.
type Receipt struct {
	Account         [32]byte
	Delivered, Read time.Time
}

// Vote is what one account has voted for.
type Vote struct {
	Account [32]byte
	Seq     uint64
	Choices []uint32
}

func (a *About) empty() bool {
	return len(a.Reactions)+len(a.Receipts)+len(a.Votes) == 0 && a.Closed == 0
}

func (a *About) fields(f *codec.Fields) {
	codec.List(f, big, most, &a.Reactions, func(r *Reaction, f *codec.Fields) {
		f.Array(r.Account[:])
		f.U64(&r.Seq)
		moment(f, &r.Sent)
		codec.List(f, big, most, &r.Set, func(s *string, f *codec.Fields) { text(f, s) })
	})
	codec.List(f, big, most, &a.Receipts, func(r *Receipt, f *codec.Fields) {
		f.Array(r.Account[:])
		moment(f, &r.Delivered)
		moment(f, &r.Read)
	})
	codec.List(f, big, most, &a.Votes, func(v *Vote, f *codec.Fields) {
		f.Array(v.Account[:])
		f.U64(&v.Seq)
		codec.List(f, big, most, &v.Choices, func(c *uint32, f *codec.Fields) { f.U32(c) })
	})
	f.U64(&a.Closed)
}

func aboutRef(group []byte, id [32]byte) vault.Ref {
	return vault.Ref{Table: tAbout, Partition: string(group), Order: string(id[:])}
}

// About returns what was said about a message.
func (t *Tx) About(group []byte, id [32]byte) (About, error) {
	a, err := load[About](t, aboutRef(group, id))
	if errors.Is(err, ErrNotFound) {
		return About{}, nil
	}
	return a, err
}

// PutAbout writes it.
func (t *Tx) PutAbout(group []byte, m *Message, a *About) error {
	bucket, err := t.resolve(group, m.Bucket)
	if err != nil {
		return err
	}
	return t.put(aboutRef(group, m.ID), messageBucket(group, bucket), a)
}

// Early is what came before the message that it is about.
type Early struct {
	Number  uint64
	Of      [32]byte // that message
	ID      [32]byte
	From    [32]byte
	Seq     uint64
	Sent    time.Time
	Rights  uint32 // of its sender when it came
	Role    uint8
	Content []byte
}

func (e *Early) fields(f *codec.Fields) {
	f.U64(&e.Number)
	f.Array(e.Of[:])
	f.Array(e.ID[:])
	f.Array(e.From[:])
	f.U64(&e.Seq)
	moment(f, &e.Sent)
	f.U32(&e.Rights)
	f.U8(&e.Role)
	blob(f, &e.Content)
}

func (e *Early) ref(group []byte) vault.Ref {
	return vault.Ref{Table: tEarly, Partition: string(group), Order: string(e.Of[:]) + vault.U64(e.Number)}
}

// AddEarly keeps e, in a bucket of its own.
func (t *Tx) AddEarly(group []byte, e *Early) (err error) {
	if e.Number, err = t.tx.Next(seqEarly); err != nil {
		return err
	}
	return t.put(e.ref(group), messageBucket(group, aloneBucket(e.ID)), e)
}

// Early returns what waits for a message, or for any if it is zero, in the order in
// which it came for each.
func (t *Tx) Early(group []byte, of [32]byte) (out []Early, err error) {
	start := ""
	if of != [32]byte{} {
		start = string(of[:])
	}
	for r, err := range t.tx.Range(tEarly, string(group), start, false) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(r.Order, start) {
			break
		}
		var e Early
		if err := decode(r.Value, &e); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// DeleteEarly forgets e.
func (t *Tx) DeleteEarly(group []byte, e *Early) error {
	return errors.Join(t.tx.Delete(e.ref(group)), t.dropMessages(group, aloneBucket(e.ID)))
}

// Pin is a message that is held up to all, or is no longer.
type Pin struct {
	Message [32]byte
	By      [32]byte
	Seq     uint64
	Sent    time.Time
	On      bool
}

func (p *Pin) fields(f *codec.Fields) {
	f.Array(p.Message[:])
	f.Array(p.By[:])
	f.U64(&p.Seq)
	moment(f, &p.Sent)
	f.Flag(&p.On)
}

// PutPin writes p.
func (t *Tx) PutPin(group []byte, p *Pin) error {
	return t.put(vault.Ref{Table: tPin, Partition: string(group), Order: string(p.Message[:])}, plain, p)
}

// Pin returns what was last said about pinning a message, or ErrNotFound.
func (t *Tx) Pin(group []byte, id [32]byte) (Pin, error) {
	return load[Pin](t, vault.Ref{Table: tPin, Partition: string(group), Order: string(id[:])})
}

// Pins returns all of a conversation.
func (t *Tx) Pins(group []byte) ([]Pin, error) { return all[Pin](t, tPin, string(group)) }

// What the user has noted of a conversation is one record for each thing.
const (
	ownRead  = "read"
	ownDraft = "draft"
	ownMute  = "mute"
	ownStar  = "star/" // and the message's id
)

func ownRef(group []byte, what string) vault.Ref {
	return vault.Ref{Table: tOwn, Partition: string(group), Order: what}
}

// absent makes nothing of a record that is not there.
func absent[T any](v T, err error) (T, error) {
	if errors.Is(err, ErrNotFound) {
		return v, nil
	}
	return v, err
}

// ReadMark says how far the user has read a conversation.
type ReadMark struct {
	Seq     uint64 // up to and with this place
	Unread  uint32 // messages of others behind it
	Manual  bool   // marked as unread by hand
	Changed time.Time
}

func (r *ReadMark) fields(f *codec.Fields) {
	f.U64(&r.Seq)
	f.U32(&r.Unread)
	f.Flag(&r.Manual)
	moment(f, &r.Changed)
}

// ReadMark returns how far the user has read.
func (t *Tx) ReadMark(group []byte) (ReadMark, error) {
	return absent(load[ReadMark](t, ownRef(group, ownRead)))
}

// PutReadMark writes it.
func (t *Tx) PutReadMark(group []byte, r *ReadMark) error {
	return t.put(ownRef(group, ownRead), plain, r)
}

// Draft is a text that was not sent.
type Draft struct {
	Text    string
	ReplyTo [32]byte
	Changed time.Time
}

func (d *Draft) fields(f *codec.Fields) {
	text(f, &d.Text)
	f.Array(d.ReplyTo[:])
	moment(f, &d.Changed)
}

// Draft returns the draft of a conversation; its text is empty if there is none.
func (t *Tx) Draft(group []byte) (Draft, error) {
	return absent(load[Draft](t, ownRef(group, ownDraft)))
}

// PutDraft writes it. The one before is erased.
func (t *Tx) PutDraft(group []byte, d *Draft) error {
	if err := t.dropMessages(group, draftBucket); err != nil {
		return err
	}
	if d.Text == "" {
		return t.tx.Delete(ownRef(group, ownDraft))
	}
	return t.put(ownRef(group, ownDraft), messageBucket(group, draftBucket), d)
}

// Shelf is where the user has put a conversation.
type Shelf struct {
	Muted    time.Time // until then
	Archived bool
	Changed  time.Time
}

func (s *Shelf) fields(f *codec.Fields) {
	moment(f, &s.Muted)
	f.Flag(&s.Archived)
	moment(f, &s.Changed)
}

// Shelf returns where the user has put a conversation.
func (t *Tx) Shelf(group []byte) (Shelf, error) {
	return absent(load[Shelf](t, ownRef(group, ownMute)))
}

// PutShelf writes it.
func (t *Tx) PutShelf(group []byte, s *Shelf) error { return t.put(ownRef(group, ownMute), plain, s) }

// SetStar marks a message, or no longer.
func (t *Tx) SetStar(group []byte, id [32]byte, on bool) error {
	r := ownRef(group, ownStar+string(id[:]))
	if !on {
		return t.tx.Delete(r)
	}
	return t.tx.Put(r, plain, []byte{recordVersion})
}

// Star reports whether a message is marked.
func (t *Tx) Star(group []byte, id [32]byte) (bool, error) {
	_, err := t.tx.Get(ownRef(group, ownStar+string(id[:])))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Stars returns the ids of the marked messages of a conversation.
func (t *Tx) Stars(group []byte) (out [][32]byte, err error) {
	for o, err := range t.tx.Orders(tOwn, string(group), ownStar, false) {
		if err != nil {
			return nil, err
		}
		if id, ok := strings.CutPrefix(o, ownStar); ok && len(id) == 32 {
			out = append(out, [32]byte([]byte(id)))
		}
	}
	return out, nil
}

// What is owed for a message.
const (
	OwedDelivered = "owed/d/" // and the message's id
	OwedRead      = "owed/r/"
	owed          = "owed/"
)

// AddOwed notes that a message is to be acknowledged.
func (t *Tx) AddOwed(group []byte, what string, id [32]byte) error {
	return t.tx.Put(ownRef(group, what+string(id[:])), plain, []byte{recordVersion})
}

// DeleteOwed forgets that.
func (t *Tx) DeleteOwed(group []byte, what string, id [32]byte) error {
	return t.tx.Delete(ownRef(group, what+string(id[:])))
}

// Owed returns for which messages something is owed, at most so many.
func (t *Tx) Owed(group []byte, what string, limit int) (out [][32]byte, err error) {
	for o, err := range t.tx.Orders(tOwn, string(group), what, false) {
		if err != nil {
			return nil, err
		}
		id, ok := strings.CutPrefix(o, what)
		if !ok || len(out) == limit {
			break
		}
		out = append(out, [32]byte([]byte(id)))
	}
	return out, nil
}

// Owes reports whether anything is owed in a conversation.
func (t *Tx) Owes(group []byte) (bool, error) {
	for o, err := range t.tx.Orders(tOwn, string(group), owed, false) {
		return err == nil && strings.HasPrefix(o, owed), err
	}
	return false, nil
}

// MessagesBehind goes over the messages that stand behind a place of the mailbox, in
// their order; those that have no place yet come last.
func (t *Tx) MessagesBehind(group []byte, seq uint64) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for r, err := range t.tx.Range(tMessage, string(group), vault.U64(seq+1), false) {
			var m Message
			if err == nil {
				err = decode(r.Value, &m)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// What is due at a time.
const (
	DueReceipts uint8 = 1 // those owed in Group
	DueExpiry   uint8 = 2 // of the message
	DueLater    uint8 = 3 // the text numbered Number is to be sent
	DueUnmute   uint8 = 4 // Group is heard again
)

// Due is something to be done at a time.
type Due struct {
	At      time.Time
	Order   uint64
	What    uint8
	Group   []byte
	Message [32]byte
	Number  uint64
}

func (d *Due) fields(f *codec.Fields) {
	moment(f, &d.At)
	f.U64(&d.Order)
	f.U8(&d.What)
	blob(f, &d.Group)
	f.Array(d.Message[:])
	f.U64(&d.Number)
}

func (d *Due) ref() vault.Ref {
	return vault.Ref{Table: tDue, Order: vault.U64(uint64(d.At.UnixMilli())) + vault.U64(d.Order)}
}

// AddDue notes that something is to be done.
func (t *Tx) AddDue(d *Due) (err error) {
	if d.Order, err = t.tx.Next(seqDue); err != nil {
		return err
	}
	return t.put(d.ref(), plain, d)
}

// DeleteDue forgets it: it is done.
func (t *Tx) DeleteDue(d *Due) error { return t.tx.Delete(d.ref()) }

// Dues returns what is due first, at most so many.
func (t *Tx) Dues(limit int) (out []Due, err error) {
	for r, err := range t.tx.Range(tDue, "", "", false) {
		if err != nil {
			return nil, err
		}
		var d Due
		if err := decode(r.Value, &d); err != nil {
			return nil, err
		}
		if out = append(out, d); len(out) == limit {
			break
		}
	}
	return out, nil
}

// Later is a text to be sent at a time.
type Later struct {
	Number   uint64
	At       time.Time
	Made     time.Time
	Text     string
	ReplyTo  [32]byte
	Mentions []Mention
}

func (l *Later) fields(f *codec.Fields) {
	f.U64(&l.Number)
	moment(f, &l.At)
	moment(f, &l.Made)
	text(f, &l.Text)
	f.Array(l.ReplyTo[:])
	mentions(f, &l.Mentions)
}

func laterRef(group []byte, n uint64) vault.Ref {
	return vault.Ref{Table: tLater, Partition: string(group), Order: vault.U64(n)}
}

// AddLater keeps a text, in a bucket of its own.
func (t *Tx) AddLater(group []byte, l *Later) (err error) {
	if l.Number, err = t.tx.Next(seqLater); err != nil {
		return err
	}
	return t.put(laterRef(group, l.Number), messageBucket(group, draftBucket-l.Number), l)
}

// Later returns it, or ErrNotFound.
func (t *Tx) Later(group []byte, n uint64) (Later, error) { return load[Later](t, laterRef(group, n)) }

// Laters returns all of a conversation.
func (t *Tx) Laters(group []byte) ([]Later, error) { return all[Later](t, tLater, string(group)) }

// DeleteLater forgets it.
func (t *Tx) DeleteLater(group []byte, n uint64) error {
	return errors.Join(t.tx.Delete(laterRef(group, n)), t.dropMessages(group, draftBucket-n))
}
