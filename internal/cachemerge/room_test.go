package cachemerge

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// What is new needs room, be it linked or copied, and what is there does not.
func TestMergeLeavesTheReserveFree(t *testing.T) {
	for name, mode := range map[string]fs.FileMode{"linked": 0o644, "copied": 0o444} {
		t.Run(name, func(t *testing.T) {
			dir, source := newCache(t, named("a")...), newCache(t, named("a", "b", "c")...)
			for _, i := range named("b", "c") {
				must(t, os.Chmod(narFile(source, i), mode))
			}
			from, err := bincache.OpenReadOnly(source, "")
			must(t, err)
			defer from.Close()
			target, err := bincache.Open(dir, "")
			must(t, err)
			defer target.Close()
			run := func() (Result, error) {
				return New(Options{Target: target, Sources: []*bincache.Cache{from}}).Run(t.Context())
			}
			target.Reserve(1 << 60)
			if r, err := run(); !errors.Is(err, bincache.ErrNoRoom) || r.Added+int(r.CopiedBytes) > 0 {
				t.Errorf("merged without room: %+v, %v", r, err)
			}
			has(t, dir, "a")
			if left, err := filepath.Glob(filepath.Join(dir, ".larder", "tmp", "*-*")); len(left) > 0 || err != nil {
				t.Errorf("unfinished: %q, %v", left, err)
			}
			target.Reserve(1)
			r, err := run()
			must(t, err)
			if r.Added != 2 {
				t.Errorf("with room: %+v", r)
			}
			has(t, dir, "a", "b", "c")
			target.Reserve(1 << 60)
			if r, err := run(); err != nil || r.Present != 3 {
				t.Errorf("when all is there: %+v, %v", r, err)
			}
		})
	}
}
