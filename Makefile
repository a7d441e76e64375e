# Everything is static, SQLite and libzstd included, so that the programs also
# run where a container or a mount namespace has no libraries.
TAGS    := sqlite_omit_load_extension osusergo netgo urfave_cli_no_docs
LDFLAGS := -s -w -linkmode external -extldflags -static
ifeq ($(shell uname -s),Darwin)
# macOS has no static libraries, and only its own know its users.
TAGS    := sqlite_omit_load_extension
LDFLAGS := -s -w
endif
VERSION := $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo unknown)

export CGO_ENABLED = 1

# The packages with benchmarks. Tests run each once, so that none rots.
BENCHMARKED = $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u)

# Tests on real Nix wait for half of their time.
PARALLEL = $$((2 * $$(getconf _NPROCESSORS_ONLN)))

.PHONY: help build demo test test-long check check-darwin bench bench-quick dist dist-check nix nix-roots ci-tools cross clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

build: ## build bin/larder and bin/larder-hook
	go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS) -X main.version=$(VERSION)' -o bin/ ./cmd/larder ./cmd/larder-hook

demo: build nix ## show the main job on real Nix
	integration/demo/run bin

test: build check nix-roots ci-tools ## run every test but the long ones
	LARDER_REQUIRE_NIX=1 go test -race -parallel $(PARALLEL) -tags '$(TAGS)' -timeout 40m ./...
	go test -run '^TestModel$$' -tags '$(TAGS)' ./internal/cachegc
	go test -run '^$$' -bench . -benchtime 1x -short -tags '$(TAGS)' $(BENCHMARKED)

test-long: build nix-roots ci-tools ## run the tests that take long
	LARDER_REQUIRE_NIX=1 LARDER_LONG=1 go test -race -parallel $(PARALLEL) -tags '$(TAGS)' -timeout 2h ./...

check: check-darwin ## gofmt, go vet, staticcheck, check-darwin
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted" >&2; exit 1; }
	go vet -tags '$(TAGS)' ./...
	go tool staticcheck -tags '$(TAGS)' ./...

check-darwin: ## type-check everything but integration for macOS
	@for arch in arm64 amd64; do \
		go run ./integration/typecheck -tags sqlite_omit_load_extension darwin/$$arch $$(go list ./... | grep -v /integration) || exit; \
	done

bench: build nix-roots ## measure, side by side with nix copy, and say which goals hold (half an hour)
	go run ./integration/bench --tags '$(TAGS)'

bench-quick: build nix-roots ## the same with less of everything, to see that it works (two minutes)
	go run ./integration/bench --quick --tags '$(TAGS)'

dist: cross ## make what a release consists of in dist/: static programs for amd64 and arm64, archives, an image
	VERSION='$(VERSION)' TAGS='$(TAGS)' LDFLAGS='$(LDFLAGS)' integration/dist/build dist

dist-check: cross nix ## build the last commit twice, in different places, and try the result (minutes)
	integration/dist/check

# Nix itself: Debian's package where there is none.
nix:
	@command -v nix-store > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends nix-bin; }

# The other versions of Nix, unpacked into folders.
nix-roots: nix
	integration/nix-roots

# C compilers for what the other machines are made of.
cross:
	@command -v x86_64-linux-gnu-gcc > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends gcc-x86-64-linux-gnu libc6-dev-amd64-cross; }
	@command -v aarch64-linux-gnu-gcc > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross; }

# What the recipes for CI are tested with, where it is missing.
ci-tools:
	@missing=; for tool in curl node:nodejs shellcheck; do \
		command -v "$${tool%:*}" > /dev/null || missing="$$missing $${tool#*:}"; done; \
	[ -z "$$missing" ] || { apt-get update && apt-get install --yes --no-install-recommends $$missing; }

clean: ## remove what was built
	rm -rf bin dist
