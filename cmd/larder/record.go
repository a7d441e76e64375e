package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// useGranularity is how old the records of use may be that make another one needless,
// so that a job that finds everything leaves the directory as it was.
const useGranularity = 24 * time.Hour

// record puts down in the cache what a run has used, and in the report what earlier
// records say that it saved. t must be finished.
func record(ctx context.Context, s queue.Settings, t *runner.Tally) error {
	if len(t.Used)+len(t.Wrote) == 0 {
		return nil // there is nothing to put down, and nobody should wait for it
	}
	store, err := openStore()
	if err != nil {
		return err
	}
	defer store.Close()
	cache, err := openCache(s.Cache, nil, store.Dirs().Store)
	if err != nil {
		return err
	}
	defer cache.Close()

	countSaved(cache, t)
	used := slices.DeleteFunc(slices.Clone(t.Used), func(path string) bool { return t.Wrote[path] })
	run := bincache.Run{Ended: time.Now(), Used: used}
	wrote := slices.Sorted(maps.Keys(t.Wrote))
	times, err := store.BuildTimes(ctx, wrote)
	if err != nil {
		return err
	}
	shares := runner.Shares(times)
	for _, path := range wrote {
		run.Added = append(run.Added, bincache.RunEntry{Path: path, Build: shares[path]})
	}
	_, err = cache.RecordRun(run, useGranularity)
	return errors.Join(err, compare(ctx, store, cache, t))
}

// compare finds out of which paths that were built, although the cache had them, it has
// other contents: no job comes to them.
func compare(ctx context.Context, store *nixstore.Store, cache *bincache.Cache, t *runner.Tally) error {
	for conflict, err := range conflictsAmong(ctx, store, cache, t.There) {
		if err != nil {
			return err
		}
		t.Conflict(conflict.Path, conflict.Cache.NarHash, conflict.Store.NarHash)
	}
	return nil
}

// countSaved adds up how long it took to build what came from the cache, when that was
// built. Records that can't be read have nothing to say.
func countSaved(cache *bincache.Cache, t *runner.Tally) {
	hit := make(map[string]bool, len(t.Hit))
	for _, path := range t.Hit {
		hit[path] = true
	}
	if len(hit) == 0 {
		return
	}
	for run, err := range cache.Runs() {
		if err != nil {
			continue // (ignored) larder list tells of it
		}
		for _, e := range run.Added {
			if e.Build > 0 && hit[e.Path] {
				t.TimedHits++
				t.Saved += runner.Seconds(e.Build)
				delete(hit, e.Path) // another record may have it too
			}
		}
	}
}
