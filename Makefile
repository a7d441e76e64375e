# Everything is static, SQLite and libzstd included, so that the programs also
# run where a container or a mount namespace has no libraries.
TAGS    := sqlite_omit_load_extension osusergo netgo
LDFLAGS := -s -w -linkmode external -extldflags -static
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

export CGO_ENABLED = 1

.PHONY: build
build: ## build bin/larder and bin/larder-hook
	go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS) -X main.version=$(VERSION)' -o bin/ ./cmd/...
