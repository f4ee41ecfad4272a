# make run    builds and starts a node with its embedded relay (its home: $SOTTO_HOME, else ~/.local/share/sotto)
# make test   builds everything and runs all tests, under the race detector where there is a C compiler (the crash
#             points, of which the detector takes a tenth, then once more in full)
# make check  what must hold before a change lands: format, vet, layers, fuzz corpora
# make fuzz   runs every fuzz target for FUZZTIME (30s)
# make bench  measures, prints a table, writes .bench/results.json
# make sim    plays WORLDS (1,000) simulated worlds, which takes the better part of an hour: for the night
# make demo   a relay and two people in a temporary folder meet and talk
# make build  puts the two commands into bin/
# make interop  vets and tests crypto/mls/interop, a module of its own; it downloads gRPC
# make rivals   measures crypto/mls beside other implementations; it downloads them, by Go and npm

GO       ?= go
FUZZTIME ?= 30s
WORLDS   ?= 1000
export CGO_ENABLED ?= 0

.PHONY: run test check fuzz bench sim demo build interop rivals

build:
	$(GO) build -trimpath -o bin/ ./cmd/sotto ./cmd/sotto-relay

run: build
	./bin/sotto run

test: build
	@if echo '#include <stdlib.h>' | $$($(GO) env CC) -E -xc - >/dev/null 2>&1; then \
	  CGO_ENABLED=1 $(GO) test -race -timeout 30m ./... && \
	  $(GO) test -timeout 30m -run '^TestCrashPoints$$' ./node/nodetest; \
	else \
	  echo 'There is no C compiler here: the tests run without the race detector.'; \
	  $(GO) test -timeout 30m ./...; \
	fi

check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'not gofmt-clean'; exit 1; }
	$(GO) vet ./...
	$(GO) mod verify
	$(GO) test ./spec/
	$(GO) test -run '^Fuzz' ./...

fuzz:
	@.ci/fuzz $(FUZZTIME)

bench:
	$(GO) run ./cmd/sotto-bench

sim:
	SOTTO_SIM_WORLDS=$(WORLDS) $(GO) test -count 1 -timeout 12h -run '^TestWorldsHeal$$' ./node/sim

demo: build
	./bin/sotto demo

rivals:
	cd crypto/mls/rivals && $(GO) vet ./... && $(GO) run .

interop:
	cd crypto/mls/interop && $(GO) vet ./... && $(GO) test ./...
