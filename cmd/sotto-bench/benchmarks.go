package main

import "context"

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
var benchmarks = []benchmark{
	{"mls/send_1k_n2", "us", lower, "suite 1, in memory; floor: signature, 5 KDF calls, 2 AEADs", goBench("crypto/mls", "Send1K/against/N=2")},
	{"mls/receive_1k_n2", "us", lower, "suite 1, in memory; floor: signature, 5 KDF calls, 2 AEADs", goBench("crypto/mls", "Receive1K/against/N=2")},
	{"mls/send_1k_n2_xwing", "us", lower, "the same in the product's suite", goBench("crypto/mls", "Send1K_xwing/against/N=2")},
	{"mls/receive_1k_n2_xwing", "us", lower, "the same in the product's suite", goBench("crypto/mls", "Receive1K_xwing/against/N=2")},

	{"relay/append_w1", "appends/s", higher, "1 KiB, durable; 1 connection; floor: a log file whose writers share a flush", appends(1)},
	{"relay/append_w16", "appends/s", higher, "the same, 16 connections", appends(16)},
	{"relay/append_w64", "appends/s", higher, "the same, 64 connections", appends(64)},
	{"relay/append_w256", "appends/s", higher, "the same, 256 connections", appends(256)},
	{"relay/append_cpu_w64", "s/10k", lower, "processor time of the relay for 10,000 of append_w64", appendCPU(64)},

	{"e2e/relay_p50", "ms", lower, "send call to the other's event, one at a time; floor: 3 flushes of 1 KiB", latency(0.50)},
	{"e2e/relay_p99", "ms", lower, "the same", latency(0.99)},

	{"relay/start", "ms", lower, "process start to the first answer, in a home that exists", relayStart},
	{"node/start", "ms", lower, "the same, with the relay inside; floor: argon2id alone, 256 MiB", nodeStart},
	{"relay/idle_rss", "MiB", lower, "5 s after start", relayRSS},
	{"node/idle_rss", "MiB", lower, "5 s after start, with the relay inside", nodeRSS},
}
