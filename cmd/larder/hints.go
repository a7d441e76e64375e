package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

// A hinted error knows what to type next.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return &hinted{err, hint} }

// orHint adds a hint to an error that has none.
func orHint(err error, hint string) error {
	if err == nil || hintFor(err) != "" {
		return err
	}
	if errors.Is(err, context.Canceled) && slices.Contains([]string{hintCache, hintQueue, hintVerify}, hint) {
		return err // nothing is wrong with these
	}
	return withHint(err, hint)
}

const (
	hintQueue  = "choose another file with --queue FILE"
	hintCache  = "choose another directory with --cache DIR"
	hintVerify = "larder verify tells what is wrong, and larder verify --repair mends it"
)

// hintFor returns what to type next after an error, or "". What was said where
// the error happened is better than what is said here.
func hintFor(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	for _, known := range []struct {
		is   error
		hint string
	}{
		{queue.ErrTooNew, "a newer larder made this queue: install that one, or use another queue with --queue FILE"},
		{queue.ErrNotQueue, hintQueue},
		{queue.ErrCorrupt, "move the file away and run larder init again: paths that still have roots are queued anew"},
		{rules.ErrInvalid, "larder init with other flags sets them anew; a newer larder may have written them"},
		{queue.ErrRemote, "choose a file on a local disk with --queue FILE"},
		{queue.ErrLocked, "larder status shows what it does; stop it first, or let it work"},
		{bincache.ErrNotCache, "choose an empty directory, one that is not there yet, or a binary cache"},
		{bincache.ErrStoreDir, "use a cache of its own for each store directory"},
		{cachewriter.ErrNotInStore, "build or download it first: nix-store --realise PATH"},
		{cachewriter.ErrStoreCorrupt, "let Nix repair it: nix-store --repair-path PATH"},
		{cachewriter.ErrLeftOut, "larder explain PATH says which rule it is; larder init sets others"},
		{bincache.ErrNoRoom, "make room on the cache's disk (larder gc --max-size SIZE, with --grace 0s at once), or choose another --min-free; then run the command again"},
		{syscall.EDQUOT, "the quota there is used up (quota): make room (in a cache: larder gc --max-size SIZE, with --grace 0s at once), then run the command again"},
		{syscall.ENOSPC, "look for free space there (df -h, df -i), make some (in a cache: larder gc --max-size SIZE, with --grace 0s at once), then run the command again"},
		{cachewriter.ErrUnavailable, "look for free space and permissions in the cache directory, then run the command again"},
		{fs.ErrPermission, "run it as the owner (sudo?), or choose others with --cache DIR and --queue FILE"},
	} {
		if errors.Is(err, known.is) {
			return known.hint
		}
	}
	if errors.As(err, new(*bincache.FileError)) {
		return hintVerify
	}
	return ""
}
