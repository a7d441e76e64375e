package cachegc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Heal makes the cache whole if a collection was interrupted in the moment when that matters:
// others had added entries that refer to what it was removing. There is nothing to do for it
// but in that case, and while a collection is under way, for which it waits.
func Heal(ctx context.Context, c *bincache.Cache) error {
	if _, removing, err := c.Removals(); err != nil || !removing {
		return err
	}
	unlock, err := c.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return newCollection(ctx, c, Options{}).heal()
}

// trashed returns where the narinfos of the trash are, by the first parts of their store
// paths.
func (g *collection) trashed() (map[string]*bincache.Removal, error) {
	removals, err := g.cache.Removed()
	if err != nil {
		return nil, err
	}
	if g.aside != nil {
		removals = append(removals, g.aside)
	}
	trashed := make(map[string]*bincache.Removal)
	for _, r := range removals {
		for _, hash := range r.Hashes {
			trashed[hash] = r // the newest
		}
	}
	return trashed, nil
}

// heal brings back entries that others refer to, and NARs that entries name, if a
// collection was interrupted before it could see that.
func (g *collection) heal() error {
	_, removing, err := g.cache.Removals()
	if err == nil && removing {
		if _, err = g.cache.SweepRetiredLocked(g.ctx, time.Time{}, false, bincache.Known{}); err == nil {
			err = g.finish(nil)
		}
	}
	if err != nil {
		return fmt.Errorf("go on after an interrupted collection: %w", err)
	}
	return nil
}

// finish makes the cache whole after entries were moved to the trash.
func (g *collection) finish(seen map[string]bool) error {
	if err := g.cache.TellRemoval(true); err != nil {
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	if err := g.reinstate(seen); err != nil {
		return err
	}
	if err := g.cache.SyncDir("."); err != nil {
		return err
	}
	return g.cache.TellRemoval(false)
}

// reinstate moves entries back from the trash that others need. It looks at all entries
// but those whose hashes were seen before anything was moved.
func (g *collection) reinstate(seen map[string]bool) error {
	trashed, err := g.trashed()
	if err != nil || len(trashed) == 0 {
		return err
	}
	hashes, err := g.cache.Hashes()
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(hashes))
	for _, hash := range hashes {
		there[hash] = true
	}
	var needed []string
	need := func(n *bincache.NarInfo) {
		for _, ref := range n.References {
			if hash := bincache.HashPart(ref); !there[hash] && trashed[hash] != nil {
				needed = append(needed, hash)
			}
		}
	}
	for _, hash := range hashes {
		if seen[hash] {
			continue
		}
		n, _, err := g.cache.Read(hash)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bincache.ErrDamaged) {
			return err
		}
		if n != nil {
			need(n)
		}
	}
	for len(needed) > 0 {
		hash := needed[len(needed)-1]
		needed = needed[:len(needed)-1]
		if there[hash] {
			continue
		}
		n, err := g.cache.ReadRemoved(trashed[hash], hash)
		if errors.Is(err, bincache.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			continue // (ignored) it can't be had back
		}
		if err != nil {
			return err
		}
		if err := g.step(); err != nil {
			return err
		}
		if err := g.cache.Reinstate(trashed[hash], hash); err != nil {
			return err
		}
		there[hash] = true
		g.reinstated++
		need(n)
	}
	return nil
}
