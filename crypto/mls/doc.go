// Package mls implements Messaging Layer Security, [RFC 9420]: continuous group
// key agreement among devices, and the encryption of their messages.
//
// Comments cite the RFC by section. Where the RFC and this package use
// different words, this package's come from spec/vocabulary.md: an RFC "client"
// is a device.
//
// # What the caller does
//
// The package does no I/O, keeps no clock and no state but what it returns. The
// caller carries bytes between members and hands every group its commits in one
// order (the Delivery Service of RFC 9750, Section 5).
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
// A device begins with a [Config] and a [NewKeyPackage], which it hands out, or with a
// [NewGroup]. A member adds it by [Group.Commit], and it comes in by [Join]; a device that
// nobody adds comes in by [JoinExternal]. What then arrives goes to [Group.Process], after a
// [Peek] at which group it is for. The examples show each of these.
//
// # What must be durable
//
// What [Group.Changes] returns must be durable, all of it or none, before the
// ciphertext that Encrypt, Propose or Commit returned leaves the device, and
// before plaintext that Process returned is shown or acknowledged. A group restored
// from older records would encrypt two messages with one key, and open messages
// a second time; if it sees what it sent itself, it says [ErrRolledBack]. A
// [KeyPackageBundle] must be durable before its key package is handed out, and one's
// own [Staged] commit before the commit is: it alone leads into the epoch that others
// enter by it.
//
// In return the records are small: a message writes the ratchet it moved and, the
// first time a member is heard in an epoch, a logarithmic number of nodes of the
// secret tree; a commit writes the nodes of the ratchet tree that it changed.
// [LoadGroup] restores all of it, skipped keys, used generations and pending
// proposals included. The form is versioned and has a page, spec/mls-state.md.
//
// # Commits
//
// [Group.Commit] and, for a commit that arrives, [Group.Process] return a
// [Staged]: the epoch the commit would lead to. The application looks at it
// (who committed, what changes, keys exported from the new epoch), then merges it
// or drops it; the group does not show anything of it before. A device merges its own
// commit only when the one order says that it was the first of its epoch, and
// only then lets the welcome out.
//
// # Secrets go when they were used
//
// The key of a message is deleted when the message is made or read, with whatever it
// was derived from; those of messages overtaken are kept for as many as
// Config.OutOfOrder says, and those of past epochs for as many as Config.PastEpochs says
// or until [Group.ForgetBefore] (RFC 9420, Section 9.2). A ratchet moves only after its message
// is authenticated, and by Config.MaxForward at most. Who steals the state of a
// device reads nothing that was sent or read before, and nothing that is sent after its
// owner's next commit with a path.
//
// # Errors
//
// An error on which a caller may act is one of this package's variables, found with
// [errors.Is]. In a log of messages some are normal: [ErrOwnMessage], [ErrReplayed],
// [ErrWrongEpoch] and [ErrEpochForgotten] say that a message has been dealt with or
// comes too late; after [ErrUnknownProposal] and [ErrMissingPSK] it may be processed
// again once what it lacks is there. All others are final for these bytes. No error
// leaves a group changed.
//
// # What it costs
//
// To send or read a message takes a signature or its check, the derivation of its keys and
// two AEAD operations, and a tenth at most besides, in a group of any size and with the
// state written each time; it leaves six objects to the garbage collector, if Retire is
// called. A commit with a path takes an encryption for each node beside it, and its reader a
// decryption, and both the keys above: in a group of 1,000 whose members renew their keys,
// some ten. Who joins checks the signatures of all leaves. Figures, also of other
// implementations, are in spec/mls-figures.md.
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
