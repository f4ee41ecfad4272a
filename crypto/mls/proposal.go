package mls

import (
	"crypto/rand"
	"fmt"

	"sotto/crypto/codec"
)

// ProposalType names a kind of proposal.
type ProposalType uint16

// The proposal types of RFC 9420, Section 12.1.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPreSharedKey           ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

func (t ProposalType) isDefault() bool { return t >= 1 && t <= 7 }

// needsPath reports whether a commit of such a proposal must carry a path
// (Section 12.4).
func (t ProposalType) needsPath() bool {
	return t != ProposalAdd && t != ProposalPreSharedKey && t != ProposalReInit
}

// Proposal is one of [Add], [Update], [Remove], [PreSharedKey], [ReInit],
// [ExternalInit] and [GroupContextExtensions].
type Proposal interface {
	Type() ProposalType
	encode(b []byte) []byte // without the type
}

type (
	// Add adds a member at the leftmost free leaf.
	Add struct{ KeyPackage *KeyPackage }

	// Update replaces its sender's leaf. Groups make it in [Group.Propose]: the
	// LeafNode of an Update handed to Propose is ignored.
	Update struct{ LeafNode *LeafNode }

	// Remove removes a member.
	Remove struct{ Removed LeafIndex }

	// PreSharedKey mixes a pre-shared key into the next epoch.
	PreSharedKey struct{ ID PreSharedKeyID }

	// ReInit ends the group in favour of another with the same members.
	ReInit struct {
		GroupID    []byte
		Version    uint16
		Suite      Suite
		Extensions Extensions
	}

	// ExternalInit stands in commits by which a device adds itself.
	ExternalInit struct{ KEMOutput []byte }

	// GroupContextExtensions replaces all extensions of the group's context.
	GroupContextExtensions struct{ Extensions Extensions }
)

// Type returns ProposalAdd.
func (Add) Type() ProposalType { return ProposalAdd }

// Type returns ProposalUpdate.
func (Update) Type() ProposalType { return ProposalUpdate }

// Type returns ProposalRemove.
func (Remove) Type() ProposalType { return ProposalRemove }

// Type returns ProposalPreSharedKey.
func (PreSharedKey) Type() ProposalType { return ProposalPreSharedKey }

// Type returns ProposalReInit.
func (ReInit) Type() ProposalType { return ProposalReInit }

// Type returns ProposalExternalInit.
func (ExternalInit) Type() ProposalType { return ProposalExternalInit }

// Type returns ProposalGroupContextExtensions.
func (GroupContextExtensions) Type() ProposalType { return ProposalGroupContextExtensions }

func (p Add) encode(b []byte) []byte          { return p.KeyPackage.encode(b) }
func (p Update) encode(b []byte) []byte       { return p.LeafNode.encode(b) }
func (p Remove) encode(b []byte) []byte       { return codec.AppendU32(b, uint32(p.Removed)) }
func (p PreSharedKey) encode(b []byte) []byte { return p.ID.encode(b) }
func (p ExternalInit) encode(b []byte) []byte { return codec.AppendVec(b, p.KEMOutput) }
func (p GroupContextExtensions) encode(b []byte) []byte {
	return p.Extensions.encode(b)
}

func (p ReInit) encode(b []byte) []byte {
	b = codec.AppendVec(b, p.GroupID)
	b = codec.AppendU16(b, p.Version)
	b = codec.AppendU16(b, uint16(p.Suite))
	return p.Extensions.encode(b)
}

func encodeProposal(b []byte, p Proposal) []byte {
	return p.encode(codec.AppendU16(b, uint16(p.Type())))
}

func decodeProposal(r *codec.Reader) Proposal {
	switch t := ProposalType(r.U16()); t {
	case ProposalAdd:
		return Add{decodeKeyPackage(r)}
	case ProposalUpdate:
		return Update{decodeLeafNode(r)}
	case ProposalRemove:
		return Remove{LeafIndex(r.U32())}
	case ProposalPreSharedKey:
		return PreSharedKey{decodePreSharedKeyID(r)}
	case ProposalReInit:
		return ReInit{r.Vec(maxVec), r.U16(), Suite(r.U16()), decodeExtensions(r)}
	case ProposalExternalInit:
		return ExternalInit{r.Vec(maxVec)}
	case ProposalGroupContextExtensions:
		return GroupContextExtensions{decodeExtensions(r)}
	default:
		// A proposal does not say how long it is.
		if r.Err() == nil {
			r.Take(fmt.Errorf("%w: proposal type %#04x", ErrUnsupported, uint16(t)))
		}
		return nil
	}
}

// PSKType says where a pre-shared key comes from.
type PSKType uint8

// The types of RFC 9420, Section 8.4.
const (
	PSKExternal   PSKType = 1 // from the application
	PSKResumption PSKType = 2 // from an epoch of a group
)

// ResumptionUsage says what a resumption key is for.
type ResumptionUsage uint8

// The usages of RFC 9420, Section 8.4.
const (
	ResumptionApplication ResumptionUsage = 1
	ResumptionReInit      ResumptionUsage = 2
	ResumptionBranch      ResumptionUsage = 3
)

// PreSharedKeyID names a pre-shared key and one use of it (RFC 9420,
// Section 8.4).
type PreSharedKeyID struct {
	Type    PSKType
	ID      []byte          // of an external key
	Usage   ResumptionUsage // of a resumption key, as the following
	GroupID []byte
	Epoch   uint64
	Nonce   []byte // fresh for each use; Commit and Propose fill an empty one
}

// ExternalPSK returns the proposal to mix in the application's key named id.
func ExternalPSK(id []byte) PreSharedKey {
	return PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: id}}
}

func (id *PreSharedKeyID) encode(b []byte) []byte {
	b = codec.AppendU8(b, uint8(id.Type))
	if id.Type == PSKExternal {
		b = codec.AppendVec(b, id.ID)
	} else {
		b = codec.AppendU8(b, uint8(id.Usage))
		b = codec.AppendVec(b, id.GroupID)
		b = codec.AppendU64(b, id.Epoch)
	}
	return codec.AppendVec(b, id.Nonce)
}

func decodePreSharedKeyID(r *codec.Reader) (id PreSharedKeyID) {
	id.Type = PSKType(r.U8())
	switch id.Type {
	case PSKExternal:
		id.ID = r.Vec(maxVec)
	case PSKResumption:
		id.Usage = ResumptionUsage(r.U8())
		if id.Usage < ResumptionApplication || id.Usage > ResumptionBranch {
			r.Fail("resumption usage %d", id.Usage)
		}
		id.GroupID = r.Vec(maxVec)
		id.Epoch = r.U64()
	default:
		r.Fail("pre-shared key type %d", id.Type)
	}
	id.Nonce = r.Vec(maxVec)
	return id
}

// withNonce returns p with a nonce for this use, if it is a PreSharedKey
// without one.
func withNonce(s *suite, p Proposal) Proposal {
	psk, ok := p.(PreSharedKey)
	if !ok || len(psk.ID.Nonce) > 0 {
		return p
	}
	psk.ID.Nonce = make([]byte, s.nh)
	rand.Read(psk.ID.Nonce)
	return psk
}
