package conversation

import (
	"errors"
	"os"
	"testing"

	"sotto/crypto/envelope"
	"sotto/crypto/identity"
	"sotto/crypto/mls"
)

// A group grows to a thousand leaves, 64 with each commit: every commit is valid, what
// joins the last fits what may be spilled, and one more is refused. With SOTTO_LARGE
// unset it grows to the 256 that a group has room for by default.
func TestGroupsGrowToTheirLimit(t *testing.T) {
	room := DefaultLeaves
	if os.Getenv("SOTTO_LARGE") != "" {
		room = MaxLeaves
	}
	ana := newPerson(t)
	credential, leaf := ana.leaf()
	info := NewGroup(theBox, ana.account(), Profile{Name: "Everybody"}, room)
	var err error
	ana.group, err = mls.NewGroup(ana.config(), mls.GroupOptions{Suite: mls.XWing, Credential: credential, Lifetime: mls.Lifetime{NotAfter: 1 << 40}, Capabilities: capabilitiesOf(), LeafExtensions: leaf,
		Extensions: mls.Extensions{RequiredCapabilities(), {Type: mls.ExtensionType(ExtensionGroup), Data: info.Append(nil)}}})
	if err != nil {
		t.Fatal(err)
	}
	accounts := map[identity.AccountID]bool{ana.account(): true}
	add := func(n int) (*mls.Staged, []byte, *person, *mls.KeyPackageBundle) {
		var proposals []mls.Proposal
		var last *person
		var bundle *mls.KeyPackageBundle
		for range n {
			last = newPerson(t)
			bundle = last.keyPackage()
			accounts[last.account()] = true
			proposals = append(proposals, mls.Add{KeyPackage: bundle.KeyPackage()})
		}
		info.Roles = Roles(info, accounts)
		proposals = append(proposals, changeTo(ana, info))
		s, err := ana.group.Commit(&mls.CommitOptions{Proposals: proposals, AuthenticatedData: sampleContext().Append(nil), TreeOutside: true})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := DeriveKeys(s, theBox.Mailbox)
		if err != nil {
			t.Fatal(err)
		}
		return s, keys.NextCaps(), last, bundle
	}
	for n := 1; n < room; {
		more := min(64, room-n)
		s, meta, last, bundle := add(more)
		n += more
		if err := Validate(ana.group, s, meta); err != nil {
			t.Fatalf("%d leaves: %v", n, err)
		}
		i := Invitation{Welcome: s.Welcome(), Tree: s.RatchetTree()}
		if size := max(len(i.Append(nil)), len(s.Message())); size > envelope.MaxSpill {
			t.Fatalf("%d leaves: %d bytes are to be spilled, at most %d can be", n, size, envelope.MaxSpill)
		}
		if n == room {
			t.Logf("%d leaves: commit of %d bytes, welcome of %d, tree of %d, staged %d", n, len(s.Message()), len(i.Welcome), len(i.Tree), len(s.Marshal()))
			g, inviter, err := mls.Join(last.config(), i.Welcome, bundle, &mls.JoinOptions{RatchetTree: i.Tree})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ValidateWelcome(g, inviter, ana.account()); err != nil {
				t.Error(err)
			}
		}
		if ana.group, err = s.Merge(ana.group); err != nil {
			t.Fatal(err)
		}
	}
	s, meta, _, _ := add(1)
	if err := Validate(ana.group, s, meta); !errors.Is(err, ErrInvalid) {
		t.Errorf("one more than there is room for: %v", err)
	}
}
