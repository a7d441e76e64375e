package main

import (
	"context"

	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

// lookedAt returns the highest registration that was looked at for a queue.
func lookedAt(ctx context.Context, q *queue.Queue, store *nixstore.Store) (id int64, err error) {
	cursor, err := q.Cursor(ctx)
	if err != nil || cursor == nil {
		return 0, err
	}
	last, err := store.Last(ctx)
	if err != nil || last < cursor.Last {
		return 0, err // the numbers are used again
	}
	return cursor.Last, nil
}

// observer returns what tells of registrations that the watcher has dealt with. It does not
// tell of those up to looked once more if the cache has them, as after each start of the
// machine: nobody has used them since.
func observer(tell func(runner.Event), looked int64) func(reg nixstore.Registration, unwanted string, present bool) {
	return func(reg nixstore.Registration, unwanted string, present bool) {
		if present && reg.ID <= looked {
			return
		}
		class := rules.ClassOf(reg, false)
		if class == rules.Drvs && unwanted != "" {
			return // there are as many of them as of everything else, and nobody asks
		}
		tell(runner.Event{Kind: runner.Registered, Path: reg.Path, Class: class, Present: present, Reason: unwanted, NarBytes: reg.NarSize})
	}
}
