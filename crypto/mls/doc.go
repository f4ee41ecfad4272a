// Package mls implements Messaging Layer Security, [RFC 9420]: continuous group
// key agreement among devices, and the encryption of their messages.
//
// Comments cite the RFC by section. Where the RFC and this package use
// different words, this package's come from spec/vocabulary.md: an RFC "client"
// is a device.
//
// # What the caller does
//
// The package does no I/O, keeps no clock and no global state. The caller
// carries bytes between members and hands every group its commits in one order
// (the Delivery Service of RFC 9750, Section 5).
//
// A [Group] is a value: [Group.Clone] is cheap, because a group and its clones
// share what neither has changed. One operation goes like this:
//
//	next := g.Clone()
//	msg, err := next.Encrypt(content, authenticatedData)
//	…                       // on an error next is dropped and g is as it was
//	write(next.Changes())   // all records in one durable transaction
//	g.Retire(next)          // overwrites what was used up
//	g = next                // only now
//	send(msg)               // and only now
//
// What [Group.Changes] returns must be durable, all of it or none, before the
// ciphertext that Encrypt, Propose or Commit returned leaves the device, and
// before plaintext that Process returned is shown or acknowledged. A group restored
// from older records would encrypt two messages with one key, and open messages
// a second time. In return the records are small: a message writes the ratchet
// it moved and, the first time a member is heard in an epoch, a logarithmic number
// of nodes of the secret tree.
//
// # Commits
//
// [Group.Commit] and, for a commit that arrives, [Group.Process] return a
// [Staged]: the epoch the commit would lead to. The application looks at it
// (who committed, what changes, keys exported from the new epoch), then merges it
// or drops it; the group does not show anything of it before. A device merges its own
// commit only when the one order says that it was the first of its epoch.
//
// # What is not here
//
// Policy: who may add whom, which proposals an application allows, how long an
// epoch is kept. The application states what it thinks of credentials through
// [Config], and everything else by merging or dropping what was staged.
// Lifetimes are checked only against times that the caller states.
//
// Cipher suites with X448 and Ed448 (4 and 6), for which the standard library
// has no primitives, and custom proposal types.
//
// [RFC 9420]: https://www.rfc-editor.org/rfc/rfc9420.html
package mls
