package cachegc

import (
	"context"
	"fmt"
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
	unlock, err := c.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	g := newCollection(ctx, c, o)
	if err := g.heal(); err != nil {
		return nil, err
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
		if bincache.IsFull(err) && g.Grace == 0 {
			if err = g.removeFirst(r); err == nil {
				err = g.carryOut(r)
			}
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

// A collection is one call of Collect.
type collection struct {
	Options
	ctx        context.Context
	cache      *bincache.Cache
	survey     *Survey
	seen       map[string]bool // hashes of entries that the survey saw whole, and that were not withdrawn since
	users      []int32         // how many entries use a file that were not withdrawn, by its number
	withdrawn  map[string]bool // hashes
	reinstated int
	aside      *bincache.Removal // what is being removed outside of the trash, or nil
}

func newCollection(ctx context.Context, c *bincache.Cache, o Options) *collection {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.step == nil {
		o.step = func() error { return nil }
	}
	return &collection{Options: o, ctx: ctx, cache: c}
}

// look surveys the cache. If an entry lacks another one that is in the trash, that comes
// back: who added it was killed before it could see that.
func (g *collection) look() (err error) {
	if err := g.lookOnce(); err != nil {
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
			return g.lookOnce()
		}
	}
	return nil
}

func (g *collection) lookOnce() error {
	s, err := Look(g.ctx, g.cache, g.Now.Add(g.Grace))
	if err == nil {
		g.begin(s)
	}
	return err
}

// begin makes a survey the one that the collection works with.
func (g *collection) begin(s *Survey) {
	g.survey, g.seen, g.users, g.withdrawn = s, make(map[string]bool, s.count), make([]int32, len(s.files)), make(map[string]bool)
	for id := range int32(s.graph.Len()) {
		if s.graph.Has(id) && !s.broken[id] { // or somebody may mend it, with another NAR
			g.seen[bincache.HashPart(s.graph.Name(id))] = true
		}
	}
	for i, f := range s.files {
		g.users[i] = f.users
	}
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
	if err := g.cache.TellRemoval(true); err != nil {
		return err
	}
	if err := g.takeOut(removal, hashes, paths); err != nil {
		return err
	}
	if err := g.step(); err != nil {
		return err
	}
	return g.finish(g.seen)
}

// takeOut moves the narinfos of entries away, in this order.
func (g *collection) takeOut(to *bincache.Removal, hashes, paths []string) error {
	ids := g.survey.ids(paths)
	for _, hash := range hashes {
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := g.step(); err != nil {
			return err
		}
		if err := g.cache.Withdraw(to, hash); err != nil {
			return err
		}
		delete(g.seen, hash) // somebody may add it again
		if id, known := ids[hash]; known && !g.withdrawn[hash] {
			for _, f := range g.survey.entries[id].sharedFiles() {
				g.users[f]--
			}
		}
		g.withdrawn[hash] = true
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
	return g.cache.SweepRetiredLocked(g.ctx, g.Now, g.Grace == 0, bincache.Known{Hashes: g.seen, Needs: g.needs})
}

// needs tells whether an entry that was seen, and is there, may need a NAR or a log. Who needs
// a log that has come since the survey, nobody knows.
func (g *collection) needs(name string) bool {
	id, used := g.survey.fileIDs[name]
	if !used {
		_, loose := g.survey.extras[name]
		return isLog(name) && !loose
	}
	return g.users[id] > 0
}
