# make          builds bin/dbgsh
# make demo     shows it at work on a small program, installing GDB where missing
# make test     installs what the tests need, then lint and every test
# make fuzz     each fuzz target for FUZZTIME
# make bench    the map, the start, a line and long output beside GDB's;
#               bench-search: the search; bench-core: cores beside the processes
#               that they are of; bench-kernel: a machine's map beside QEMU's monitor
# make docs     docs/commands.md, the flags in docs/usage.md, the rooms in
#               docs/architecture.md and the pictures anew

GO ?= go
FUZZTIME ?= 20s
# Where the tree belongs to somebody else, git does not say what Go would stamp.
export GOFLAGS ?= -buildvcs=false

.NOTPARALLEL:
.PHONY: build demo test lint fuzz bench bench-search bench-core bench-kernel docs deps demo-deps clean

build:
	$(GO) build -o bin/dbgsh ./cmd/dbgsh

demo: demo-deps build
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	gcc -g -O0 -o "$$dir/tour" testdata/tour.c && \
	bin/dbgsh -n -ex 'source -v scripts/tour.dbgsh' "$$dir/tour"

test: deps lint
	@DBGSH_TEST_REQUIRE=1 $(GO) run .ci/test.go

# vet and staticcheck leave out folders whose names begin with a dot.
lint:
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./... && $(GO) vet .ci/test.go
	$(GO) tool staticcheck ./... && $(GO) tool staticcheck .ci/test.go

fuzz:
	@$(GO) run .ci/test.go -fuzz $(FUZZTIME)

bench:
	@$(GO) test -run '^$$' -bench 'Vmmap|Prompt|Commands|Output' -benchtime 1x ./cmd/dbgsh

bench-search:
	@$(GO) test -run '^$$' -bench 'Search' -benchtime 1x ./cmd/dbgsh

bench-core:
	@$(GO) test -run '^$$' -bench 'Core' -benchtime 1x ./cmd/dbgsh

bench-kernel:
	@$(GO) test -run '^$$' -bench 'Kernel' -benchtime 1x ./target/qemusys
	@$(GO) test -run '^$$' -bench 'WalkLinear/1TiB' -benchtime 5x ./pt

docs:
	$(GO) test ./cmd/dbgsh -run 'Doc$$' -update-docs
	$(GO) run ./docs

deps:
	@.ci/install gdb gdb-multiarch gdbserver gcc g++ libc6-dev binutils python3 nodejs procps less \
		qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-mips-linux-gnu libc6-dev-mips-cross \
		gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross \
		gcc-powerpc64-linux-gnu libc6-dev-ppc64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross \
		qemu-system-x86 qemu-system-arm qemu-system-misc
	@.ci/qemu-user
	@.ci/kernels amd64 arm64 riscv64 686 686-pae armmp armmp-lpae

demo-deps:
	@.ci/install gdb gcc libc6-dev

clean:
	rm -rf bin
