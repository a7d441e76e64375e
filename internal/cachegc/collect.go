package cachegc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// Options say how Collect works.
type Options struct {
	Policy Policy

	// Grace is how long what goes is kept for others who have seen it, and may be reading
	// it: NARs stay in place, and narinfos in the trash. Zero means that nobody else uses
	// the cache.
	Grace time.Duration

	// Now is the time. The zero value means the clock's.
	Now time.Time

	// step, if it is not nil, is called before each change to the cache. Its error ends
	// the collection at once, as a crash does.
	step func() error
}

// A Result is what a collection did.
type Result struct {
	*Plan
	bincache.Swept
	Reinstated int // entries that came back, since others need them
}

// Collect removes what the policy does not keep. Whatever it is interrupted by, the cache
// is whole, and the next collection goes on.
//
// Others may add entries meanwhile, and read.
func Collect(ctx context.Context, c *bincache.Cache, o Options) (*Result, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.step == nil {
		o.step = func() error { return nil }
	}
	unlock, err := c.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	g := &collection{Options: o, ctx: ctx, cache: c}
	if err := g.heal(); err != nil {
		return nil, fmt.Errorf("go on after an interrupted collection: %w", err)
	}
	if err := g.look(); err != nil {
		return nil, err
	}
	if err := g.survey.Blind(); err != nil {
		return nil, err
	}
	r := &Result{Plan: g.survey.Plan(o.Policy)}
	if err = g.carryOut(r); bincache.IsFull(err) {
		if err = g.makeRoom(r); err == nil {
			err = g.carryOut(r)
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// carryOut does what is planned. It may be called again after an error.
func (g *collection) carryOut(r *Result) error {
	if err := g.keepDates(r.Plan); err != nil {
		return fmt.Errorf("keep dates of use: %w", err)
	}
	if err := g.evict(r.Plan); err != nil {
		return fmt.Errorf("remove entries: %w", err)
	}
	r.Reinstated = g.reinstated
	if err := g.retireLoose(); err != nil {
		return fmt.Errorf("retire what nobody needs: %w", err)
	}
	if err := g.fold(r.Plan); err != nil {
		return fmt.Errorf("fold records of runs: %w", err)
	}
	swept, err := g.sweep()
	r.add(swept)
	return err
}

// add adds what was swept once more.
func (r *Result) add(swept bincache.Swept) {
	swept.Removed += r.Removed
	swept.RemovedBytes += r.RemovedBytes
	r.Swept = swept
}

// makeRoom makes some room on a full disk: it takes a little to note what is removed, and
// whoever collects may do so because there is none. What takes the least is done first, and
// nobody misses the logs and listings of what is to go.
func (g *collection) makeRoom(r *Result) error {
	var paths []string
	for _, e := range r.Evict {
		paths = append(paths, e.Path)
	}
	names, err := g.unneeded(paths)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := g.cache.RemoveExtra(name); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
	}
	swept, err := g.sweep()
	r.add(swept)
	if err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	return nil
}

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
	g := &collection{Options: Options{step: func() error { return nil }}, ctx: ctx, cache: c}
	if err := g.heal(); err != nil {
		return fmt.Errorf("go on after an interrupted collection: %w", err)
	}
	return nil
}

// A collection is one call of Collect.
type collection struct {
	Options
	ctx        context.Context
	cache      *bincache.Cache
	survey     *Survey
	seen       map[string]bool // hashes of entries that were there before the survey; nil for those in it
	reinstated int
}

// look surveys the cache. If an entry lacks another one that is in the trash, that comes
// back: who added it was killed before it could see that.
func (g *collection) look() (err error) {
	if g.survey, err = Look(g.ctx, g.cache); err != nil {
		return err
	}
	trashed, err := g.trashed()
	if err != nil {
		return err
	}
	for id := range int32(g.survey.graph.Len()) {
		if !g.survey.graph.Has(id) && trashed[bincache.HashPart(g.survey.graph.Name(id))] != nil {
			if err := g.finish(nil); err != nil {
				return err
			}
			g.survey, err = Look(g.ctx, g.cache)
			return err
		}
	}
	return nil
}

// trashed returns where the narinfos of the trash are, by the first parts of their store
// paths.
func (g *collection) trashed() (map[string]*bincache.Removal, error) {
	removals, err := g.cache.Removed()
	if err != nil {
		return nil, err
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
	if err != nil || !removing {
		return err
	}
	if _, err := g.cache.SweepRetiredLocked(g.ctx, time.Time{}, false); err != nil {
		return err
	}
	return g.finish(nil)
}

// evict takes entries out of the cache: their narinfos go to the trash, their NARs are
// retired.
func (g *collection) evict(plan *Plan) error {
	var hashes, paths []string
	for _, e := range plan.Evict {
		hashes, paths = append(hashes, bincache.HashPart(e.Path)), append(paths, e.Path)
	}
	return g.withdraw(hashes, paths)
}

// withdraw takes entries out of the cache, those first that refer to others. paths are
// theirs, as far as they are known.
func (g *collection) withdraw(hashes, paths []string) error {
	if len(hashes) == 0 {
		return nil
	}
	if err := g.step(); err != nil {
		return err
	}
	// Before the entries go: should we be killed, the worst is that files are called
	// retired that are needed, which the sweeper sees.
	unneeded, err := g.unneeded(paths)
	if err != nil {
		return err
	}
	if err := g.cache.Retire(g.Now.Add(g.Grace), unneeded...); err != nil {
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	if err := g.cache.RecordSummary(bincache.Run{Ended: g.Now, Gone: paths}); err != nil {
		return err
	}
	removal, err := g.cache.BeginRemoval(g.Now.Add(g.Grace))
	if err != nil {
		return err
	}
	seen := g.seen
	if seen == nil {
		seen = g.survey.hashes()
	}
	if err := g.cache.TellRemoval(true); err != nil {
		return err
	}
	for _, hash := range hashes {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := g.step(); err != nil {
			return err
		}
		if err := g.cache.Withdraw(removal, hash); err != nil {
			return err
		}
		delete(seen, hash) // somebody may add it again
	}
	if err := g.step(); err != nil {
		return err
	}
	return g.finish(seen)
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

// sweep removes what was taken out of the cache, and for which the grace is over.
func (g *collection) sweep() (bincache.Swept, error) {
	if err := g.step(); err != nil {
		return bincache.Swept{}, err
	}
	removals, err := g.cache.Removed()
	if err != nil {
		return bincache.Swept{}, err
	}
	for _, r := range removals {
		if r.Until.After(g.Now) && g.Grace > 0 {
			continue
		}
		if err := g.step(); err != nil {
			return bincache.Swept{}, err
		}
		if err := g.cache.EndRemoval(r); err != nil {
			return bincache.Swept{}, err
		}
	}
	if err := g.step(); err != nil {
		return bincache.Swept{}, err
	}
	return g.cache.SweepRetiredLocked(g.ctx, g.Now, g.Grace == 0)
}

// hashes returns the first parts of the store paths of all entries.
func (s *Survey) hashes() map[string]bool {
	all := make(map[string]bool, s.count)
	for id := range int32(s.graph.Len()) {
		if s.graph.Has(id) {
			all[bincache.HashPart(s.graph.Name(id))] = true
		}
	}
	return all
}
