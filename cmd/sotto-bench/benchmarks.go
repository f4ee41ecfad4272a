package main

import (
	"context"
	"slices"
	"strings"
)

// A benchmark is one name.
type benchmark struct {
	name string
	unit string
	best best
	what string // what value and floor are, in a few words

	// round measures value and floor once. What several names need it takes from
	// the lab, which does it once: see [once].
	round func(context.Context, *lab) (sample, error)
}

// best says which values are better.
type best string

const (
	lower  best = "lower"
	higher best = "higher"
)

// A sample is what one round gives. A floor of 0 means that there is none.
type sample struct{ value, floor float64 }

// benchmarks is all there is to measure, in this order; another name is another line
// here. What starts and what idles lies apart so that all idle at the same time.
var benchmarks = slices.Concat(mls("", "suite 1"), mls("_xwing", "the product's suite"), []benchmark{
	{"relay/append_w1", "appends/s", higher, "1 KiB, durable; 1 connection; floor: a log file whose writers share a flush", appends(1)},
	{"relay/append_w16", "appends/s", higher, "the same, 16 connections", appends(16)},
	{"relay/append_w64", "appends/s", higher, "the same, 64 connections", appends(64)},
	{"relay/append_w256", "appends/s", higher, "the same, 256 connections", appends(256)},
	{"relay/append_cpu_w64", "s/10k", lower, "processor time of the relay for 10,000 of append_w64", appendCPU(64)},

	{"e2e/relay_p50", "ms", lower, "send call to the other's event, one at a time; floor: 3 flushes of 1 KiB", latency(0.50)},
	{"e2e/relay_p99", "ms", lower, "the same", latency(0.99)},

	{"conversation/core_inputs", "inputs/s", higher, "what happens in a conversation, decided by the pure core on one core", coreInputs},

	{"relay/start", "ms", lower, "process start to the first answer, in a home that exists", relayStart},
	{"node/start", "ms", lower, "the same, with the relay inside; floor: argon2id alone, 256 MiB", nodeStart},
	{"relay/idle_rss", "MiB", lower, "5 s after start", relayRSS},
	{"node/idle_rss", "MiB", lower, "5 s after start, with the relay inside", nodeRSS},
})

// long are those of which one round takes more than some seconds: --quick leaves them
// out.
var long = []benchmark{
	{"conversation/link_100k", "s", lower, "start of a new device to 100,000 messages of history", linkComplete},
	{"conversation/link_100k_usable", "s", lower, "the same, to the newest of them", linkUsable},
	{"sim/200", "s", lower, "a world of 200 devices, from making them to the last comparison", world},
	{"conversation/group_250", "ms", lower, "CreateGroup call to the last of 249 letters at the relay; node and relay in one process, on disk", inMS(goBench("node/nodetest", "Conversation/group_250"))},
	{"conversation/add_250", "ms", lower, "ChangeGroup call that adds one to 250, to their letter; the same", inMS(goBench("node/nodetest", "Conversation/add_250"))},
	{"search/query_1m_p50", "ms", lower, "a page of 50 hits among a million messages, read and matched; floor: to read 50 messages; once a run", searchMillion("Queries/p50/N=1000000")},
	{"search/query_1m_p99", "ms", lower, "the same", searchMillion("Queries/p99/N=1000000")},
	{"search/index_1m", "ms", lower, "a million messages, written and indexed; floor: written alone; once a run", searchMillion("Index/N=1000000")},
}

// mls are the operations of a suite. The floor of each is what the RFC demands: of a
// message the signature, the KDF calls and both AEADs, of the others the signatures, HPKE
// operations and hashes.
func mls(suffix, suite string) []benchmark {
	line := func(name, what, bench string) benchmark {
		kind, rest, _ := strings.Cut(bench, "/")
		return benchmark{"mls/" + name + suffix, "us", lower, suite + ", " + what, goBench("crypto/mls", kind+suffix+"/"+rest)}
	}
	return []benchmark{
		line("send_1k_n2", "in memory; floor: signature, KDF calls, AEADs", "Send1K/against/N=2"),
		line("send_1k_n100", "the same", "Send1K/against/N=100"),
		line("send_1k_n1000", "the same", "Send1K/against/N=1000"),
		line("send_saved_1k_n1000", "the record written each time", "Send1K/against-saved/N=1000"),
		line("receive_1k_n2", "in memory; floor: signature, KDF calls, AEADs", "Receive1K/against/N=2"),
		line("receive_1k_n100", "the same", "Receive1K/against/N=100"),
		line("receive_1k_n1000", "the same", "Receive1K/against/N=1000"),
		line("receive_saved_1k_n1000", "the record written each time", "Receive1K/against-saved/N=1000"),
		line("create_n1000", "one commit, tree beside the welcome; floor: its HPKE and signatures", "Create/against-tree-outside/N=1000"),
		line("join_n100", "floor: the leaves' signatures on all cores", "Create/join/against-tree-outside/N=100"),
		line("join_n1000", "the same", "Create/join/against-tree-outside/N=1000"),
		line("update_create_full_n100", "a full tree; floor: its HPKE, signatures, hashes", "Update/against-create/N=100"),
		line("update_create_full_n1000", "the same", "Update/against-create/N=1000"),
		line("update_process_full_n100", "the same", "Update/against-process/N=100"),
		line("update_process_full_n1000", "the same", "Update/against-process/N=1000"),
		line("remove_create_full_n1000", "the same", "Remove/against-create/N=1000"),
	}
}
