package cachegc

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// An Unfit entry is one that can't be used, and is to be withdrawn.
type Unfit struct {
	Hash string // first part of its store path
	Path string // store path, or "" if it is unknown
	URL  string // of its NAR, which is removed when the grace is over and nobody names it; or ""

	// Elsewhere says that those who need it have it from somewhere else, and stay.
	Elsewhere bool
}

// Withdraw removes entries that can't be used, and all that need them, whose store paths it
// returns. choose says which: it is called with the cache's lock held, when nobody but those
// who add can change anything. Their files are kept in the trash until the next collection.
func Withdraw(ctx context.Context, c *bincache.Cache, choose func() ([]Unfit, error)) (needing []string, err error) {
	unlock, err := c.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	unfit, err := choose()
	if err != nil || len(unfit) == 0 {
		return nil, err
	}
	there, err := c.Hashes()
	if err != nil {
		return nil, err
	}
	s, err := lookAtEntries(ctx, c, time.Time{})
	if err != nil {
		return nil, err
	}
	gone := make(map[string]bool, len(unfit)) // hashes
	var missing []string                      // hashes of what those lack who need it
	var hashes, paths, urls []string
	for _, u := range unfit {
		gone[u.Hash] = true
		if !u.Elsewhere {
			missing = append(missing, u.Hash)
		}
		if u.Path != "" {
			paths = append(paths, u.Path)
		}
		if u.URL != "" {
			urls = append(urls, u.URL)
		}
	}
	for id := range s.needing(missing) {
		if hash := bincache.HashPart(s.graph.Name(id)); !gone[hash] {
			gone[hash] = true
			needing = append(needing, s.path(id))
		}
	}
	order := s.graph.Order()
	slices.Reverse(order) // who refers to others before them
	for _, id := range order {
		if hash := bincache.HashPart(s.graph.Name(id)); gone[hash] {
			hashes = append(hashes, hash)
			delete(gone, hash)
		}
	}
	for _, u := range unfit { // what the survey could not read is behind all that needs it
		if gone[u.Hash] {
			hashes = append(hashes, u.Hash)
			delete(gone, u.Hash)
		}
	}
	slices.Sort(needing)
	g := newCollection(ctx, c, Options{})
	if err := c.Retire(g.Now, urls...); err != nil {
		return nil, err
	}
	g.begin(s)
	for _, hash := range there { // also what is damaged: it must not bring back what it needs
		g.seen[hash] = true
	}
	return needing, g.withdraw(hashes, append(paths, needing...))
}

// Complete makes the cache whole for who has added entries and can't add what was removed
// meanwhile, given by store paths: what the trash still has of it comes back, if an entry
// needs it. Entries that need the rest are withdrawn, unless elsewhere says that clients have
// that from somewhere else.
func Complete(ctx context.Context, c *bincache.Cache, removed []string, elsewhere bool) error {
	unlock, err := c.Lock(ctx)
	if err != nil {
		return err
	}
	err = newCollection(ctx, c, Options{}).finish(nil)
	if err = errors.Join(err, unlock()); err != nil || elsewhere {
		return err
	}
	_, err = Withdraw(ctx, c, func() (unfit []Unfit, err error) {
		for _, p := range removed {
			if _, err := c.Entry(p); errors.Is(err, fs.ErrNotExist) {
				unfit = append(unfit, Unfit{Hash: bincache.HashPart(p), Path: p})
			} else if err != nil && !errors.Is(err, bincache.ErrDamaged) {
				return nil, err
			}
		}
		return unfit, nil
	})
	return err
}

// needing returns the entries that need some others, given by their hashes: also if there
// are no entries of these, and also if they need each other. One that is damaged itself is
// not among them: whoever withdraws has decided about it.
func (s *Survey) needing(missing []string) map[int32]bool {
	lacking := make(map[string]bool, len(missing))
	for _, hash := range missing {
		lacking[hash] = true
	}
	referrers := make([][]int32, s.graph.Len())
	var todo []int32
	for id := range int32(s.graph.Len()) {
		for _, ref := range s.graph.References(id) {
			referrers[ref] = append(referrers[ref], id)
		}
		if lacking[bincache.HashPart(s.graph.Name(id))] {
			todo = append(todo, id)
		}
	}
	needing := make(map[int32]bool)
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, r := range referrers[id] {
			if !needing[r] && !s.broken[r] {
				needing[r] = true
				todo = append(todo, r)
			}
		}
	}
	return needing
}
