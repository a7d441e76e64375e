package cachewriter

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// realised is what a Writer remembers of realisations.
type realised struct {
	looking sync.Mutex // held by Realise
	mark    nixstore.RealisationMark
}

// realiseAtOnce is how many outputs realisations are read of together.
const realiseAtOnce = 1000

// realise publishes the realisations of those paths of a closure that are in the cache
// now, and of some paths that may not be part of it, since an earlier call has come to
// them. It is called when the narinfos are durable.
//
// Nix registers some realisations later than their paths. Those that are not there yet,
// Realise finds: it sees that the paths are in the cache.
func (w *Writer) realise(ctx context.Context, graph nixstore.Graph, paths []string) (replaced int, err error) {
	for first := 0; first < max(1, len(graph)); first += realiseAtOnce {
		list, err := w.store.Realisations(ctx, graph[first:min(first+realiseAtOnce, len(graph))], paths...)
		if err != nil {
			return replaced, err
		}
		some, err := w.publishRealisations(ctx, list)
		replaced += some
		if err != nil {
			return replaced, err
		}
		paths = nil
	}
	return replaced, nil
}

// Realise publishes realisations that came into Nix's database since it was called last,
// of paths that are in the cache: a derivation that came down to what was built before
// gives no path that there was not.
func (w *Writer) Realise(ctx context.Context) error {
	w.realised.looking.Lock()
	defer w.realised.looking.Unlock()
	for {
		// What is not in the cache now, but comes later, brings its realisations along.
		list, next, err := w.store.RealisationsAfter(ctx, w.realised.mark, realiseAtOnce)
		if err != nil {
			return err
		}
		if next == w.realised.mark {
			return nil
		}
		if len(list) > 0 {
			// Another writer may just have published the entries.
			if err := w.cache.SyncDir("."); err != nil {
				return realiseError(err)
			}
		}
		if _, err := w.publishRealisations(ctx, list); err != nil {
			return err
		}
		w.realised.mark = next
	}
}

// publishRealisations publishes those realisations whose paths, with those of all that
// they depend on, are in the cache, or elsewhere. It returns how many have taken the place of
// others.
func (w *Writer) publishRealisations(ctx context.Context, list []nixstore.Realisation) (replaced int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	present, err := w.presentOutputs(ctx, list)
	if err != nil {
		return 0, err
	}
	var ready []*bincache.Realisation
	for _, r := range list {
		if !present[r.OutPath] {
			continue
		}
		n := newRealisation(&r)
		if err := n.Check(); err != nil {
			if w.sayOnce(r.ID()) {
				w.log.Warn("left out realisation that no Nix can read", "output", r.ID(), "err", err)
			}
			continue
		}
		ready = append(ready, n)
	}
	add := w.cache.AddRealisations
	if w.replace {
		add = w.cache.ReplaceRealisations
	}
	added, err := add(ctx, ready, w.keys)
	for _, r := range added.Replaced {
		w.log.Info("replaced realisation", "output", r.ID(), "was", path.Join(w.store.Dirs().Store, r.OutPath))
	}
	for _, r := range added.Withdrawn {
		w.log.Warn("withdrew realisation, which depends on one that was replaced: push it as well once it is built anew",
			"output", r.ID(), "path", path.Join(w.store.Dirs().Store, r.OutPath))
	}
	if err != nil {
		return len(added.Replaced), realiseError(err)
	}
	for _, r := range added.Kept {
		if w.sayOnce(r.ID() + " " + r.OutPath) {
			w.log.Warn("left out realisation: the cache has another one, of the same output or of what this depends on",
				"output", r.ID(), "path", path.Join(w.store.Dirs().Store, r.OutPath))
		}
	}
	return len(added.Replaced), nil
}

func realiseError(err error) error { return cacheError(fmt.Errorf("copy realisations: %w", err)) }

// presentOutputs tells which outputs of some realisations those have who read the cache.
func (w *Writer) presentOutputs(ctx context.Context, list []nixstore.Realisation) (map[string]bool, error) {
	var paths []string
	for _, r := range list {
		paths = append(paths, r.OutPath)
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	present := make(map[string]bool)
	for i, found := range w.cache.Find(ctx, paths) {
		if found.Err == nil {
			present[paths[i]] = true
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		info, err := w.store.Info(ctx, paths[i])
		if errors.Is(err, nixstore.ErrNotValid) {
			continue // it is gone by now
		}
		if err != nil {
			return nil, err
		}
		if present[paths[i]], err = w.elsewhere(ctx, info); err != nil {
			return nil, fmt.Errorf("%w: look for %s elsewhere: %w", ErrUnavailable, info.Path, err)
		}
	}
	return present, nil
}

// newRealisation returns a realisation as a cache has it.
func newRealisation(r *nixstore.Realisation) *bincache.Realisation {
	n := &bincache.Realisation{Drv: r.Drv, Output: r.Output, OutPath: path.Base(r.OutPath), Sigs: bincache.ValidSigs(r.Sigs)}
	for id, outPath := range r.Dependent {
		if n.Dependent == nil {
			n.Dependent = make(map[string]string)
		}
		n.Dependent[id] = path.Base(outPath)
	}
	return n
}
