# make          builds bin/dbgsh, and in bin/share its manual page and completion
# make install  installs them below PREFIX (/usr/local); packages set DESTDIR, too
# make dist     what is released, for amd64 and arm64: archives and packages, in DIST (dist)
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
.PHONY: build install dist demo test lint fuzz bench bench-search bench-core bench-kernel docs deps demo-deps clean

# Where it is built, for which GOARCH (empty: this machine's), and of which commit.
OUT = bin
ARCH =
LDFLAGS =
COMMIT = $(shell git -c safe.directory='*' describe --always --exclude '*' --abbrev=12 --dirty=' with changes' 2>/dev/null)
PROGRAM = $(shell find cmd commands internal pt repl target vm -type f ! -path '*/testdata/*' ! -name '*_test.go')
compile = CGO_ENABLED=0 GOARCH=$(ARCH) $(GO) build -ldflags "$(LDFLAGS) -X 'main.built=$(COMMIT)'" -o $(OUT)/dbgsh ./cmd/dbgsh

build: $(OUT)/share
	$(compile)

$(OUT)/dbgsh: go.mod go.sum $(PROGRAM)
	$(compile)

$(OUT)/share: README.md docs/usage.md docs/commands.md cmd/dbgsh/version.go $(wildcard docs/*.go)
	$(GO) run ./docs share $@
	@touch $@

PREFIX = /usr/local
ZSHDIR = $(PREFIX)/share/zsh/site-functions

# Root may have no Go: what was built before it need not build again.
install: $(OUT)/dbgsh $(OUT)/share
	@set -e; put() { install -D -m "$$1" "$$2" "$(DESTDIR)$$3"; }; \
	put 755 $(OUT)/dbgsh $(PREFIX)/bin/dbgsh; \
	put 644 $(OUT)/share/dbgsh.1.gz $(PREFIX)/share/man/man1/dbgsh.1.gz; \
	put 644 $(OUT)/share/dbgsh.bash $(PREFIX)/share/bash-completion/completions/dbgsh; \
	put 644 $(OUT)/share/dbgsh.fish $(PREFIX)/share/fish/vendor_completions.d/dbgsh.fish; \
	put 644 $(OUT)/share/_dbgsh $(ZSHDIR)/_dbgsh; \
	put 644 LICENSE $(PREFIX)/share/doc/dbgsh/copyright; \
	for f in *.md docs/*.md docs/*.svg; do put 644 $$f $(PREFIX)/share/doc/dbgsh/$$f; done; \
	for f in $$(find scripts -type f); do put 644 $$f $(PREFIX)/share/dbgsh/$$f; done

DIST = dist
# Not in go.mod, since nothing else needs it and it needs a lot; later ones want
# modules that the module proxy does not hand out.
NFPM_VERSION = v2.45.2
NFPM = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dbgsh/nfpm-$(NFPM_VERSION)/nfpm
SOURCE_DATE_EPOCH ?= $(shell git -c safe.directory='*' log -1 --format=%ct 2>/dev/null)

$(NFPM):
	GOBIN='$(@D)' $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)

dist: $(NFPM)
	@GO='$(GO)' NFPM='$(NFPM)' COMMIT="$(COMMIT)" SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' .ci/dist '$(DIST)'

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

deps: $(NFPM)
	@.ci/install gdb gdb-multiarch gdbserver gcc g++ libc6-dev binutils python3 nodejs procps less \
		qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-mips-linux-gnu libc6-dev-mips-cross \
		gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross \
		gcc-powerpc64-linux-gnu libc6-dev-ppc64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross \
		qemu-system-x86 qemu-system-arm qemu-system-misc \
		man-db zsh fish mmdebstrap
	@.ci/qemu-user
	@.ci/kernels amd64 arm64 riscv64 686 686-pae armmp armmp-lpae
	@.ci/debian-root

demo-deps:
	@.ci/install gdb gcc libc6-dev

clean:
	rm -rf bin dist
