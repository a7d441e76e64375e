package cachegc

import (
	"context"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Withdraw removes entries that can't be used, by the first parts of their store paths, and
// all that need them. It returns the store paths of the latter, and of those of the former
// that can be read. Their files are kept in the trash until the next collection.
func Withdraw(ctx context.Context, c *bincache.Cache, hashes []string) (withdrawn []string, err error) {
	unlock, err := c.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := lookAtEntries(ctx, c)
	if err != nil {
		return nil, err
	}
	gone := make(map[string]bool, len(hashes))
	for _, hash := range hashes {
		gone[hash] = true
	}
	var all []string // hashes, and what they need before them
	for _, id := range s.graph.Order() {
		hash := bincache.HashPart(s.graph.Name(id))
		needs := slices.ContainsFunc(s.graph.References(id), func(ref int32) bool { return gone[bincache.HashPart(s.graph.Name(ref))] })
		if needs || gone[hash] {
			gone[hash] = true
			all = append(all, hash)
			withdrawn = append(withdrawn, s.path(id))
		}
	}
	// What can't be read is behind all that needs it.
	for _, hash := range hashes {
		if !slices.Contains(all, hash) {
			all = slices.Insert(all, 0, hash)
		}
	}
	slices.Reverse(all)
	g := &collection{Options: Options{Now: time.Now(), step: func() error { return nil }}, ctx: ctx, cache: c, survey: s}
	return withdrawn, g.withdraw(all, withdrawn)
}
