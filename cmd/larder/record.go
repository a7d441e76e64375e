package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// granularityFlag is for those who record what they have used.
func granularityFlag() cli.Flag {
	return timeFlag("use-granularity", "24h", "LARDER_USE_GRANULARITY",
		"note in the cache what was used, also if nothing was added, but leave the cache untouched if that was noted less than `TIME` ago")
}

func useGranularity(c *cli.Context) time.Duration { return timeOf(c, "use-granularity") }

// record puts down in the cache what a run has used, and in the report what earlier
// records say that it saved. t must be finished.
func record(ctx context.Context, c *cli.Context, s queue.Settings, t *runner.Tally) error {
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
	err = recordUse(ctx, store, cache, t, t.Used, useGranularity(c))
	return errors.Join(err, compare(ctx, store, cache, t))
}

// recordUse puts down in the cache what a run has added, and which entries it has used.
func recordUse(ctx context.Context, store *nixstore.Store, cache *bincache.Cache, t *runner.Tally, used []string, granularity time.Duration) error {
	used = slices.DeleteFunc(slices.Clone(used), func(path string) bool { return t.Wrote[path] })
	run := bincache.Run{Ended: time.Now(), Used: used, Bytes: t.FileBytes}
	wrote := slices.Sorted(maps.Keys(t.Wrote))
	shares, err := buildShares(ctx, store, wrote)
	if err != nil {
		return err
	}
	for _, path := range wrote {
		run.Added = append(run.Added, bincache.RunEntry{Path: path, Build: shares[path]})
	}
	_, err = cache.RecordRun(run, granularity)
	return err
}

// buildShares returns how long it took to build some paths, as far as that is known.
func buildShares(ctx context.Context, store *nixstore.Store, paths []string) (map[string]time.Duration, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	times, err := store.BuildTimes(ctx, paths)
	if err != nil {
		return nil, err
	}
	return runner.Shares(times), nil
}

// recordNow puts down what a command has used that copies at once. What is copied is good
// without it.
func recordNow(c *cli.Context, t *target, tally *runner.Tally, used []string) {
	// Also what was added until somebody interrupted it.
	err := recordUse(context.WithoutCancel(c.Context), t.store, t.cache, tally, slices.Compact(slices.Sorted(slices.Values(used))), useGranularity(c))
	if err != nil {
		warn(c, "what was used could not be put down in the cache: %v", err)
	}
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
