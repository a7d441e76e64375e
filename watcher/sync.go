package watcher

import (
	"context"

	"github.com/nix-larder/larder/internal/nixstore"
)

// Sync compares the whole store with the cache, and queues everything that the rules
// want and the cache has not. From then on all of the store is the queue's business,
// whatever was there before it. Others may look and work meanwhile.
//
// If the queue becomes full, Sync ends, and the cursor goes back to where it came to:
// whoever looks at registrations goes on from there.
func Sync(ctx context.Context, c Config) (Result, error) {
	if err := Begin(ctx, c.Queue, c.Store); err != nil {
		return Result{}, err // or the end below would be without a beginning
	}
	last, r, err := c.each(ctx, c.next, func(paths []string) error {
		if err := c.protect(ctx, paths); err != nil {
			return err
		}
		return c.Queue.AddRooted(ctx, c.again(paths), paths...)
	})
	switch {
	case err != nil:
		return r, err
	case r.Full:
		return r, c.Queue.GoBack(ctx, last)
	}
	return r, c.Queue.ForgetStart(ctx)
}

// Plan tells what Sync would do if the queue had room for all.
func Plan(ctx context.Context, c Config, show func(path string) error) (Result, error) {
	next := func(ctx context.Context, last int64) ([]nixstore.Registration, int, error) {
		regs, err := c.Store.Registrations(ctx, last, batch)
		return regs, batch, err
	}
	_, r, err := c.each(ctx, next, func(paths []string) error {
		for _, path := range paths {
			if err := show(path); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

// each calls f for everything in the store that is to be queued, as much at a time as next
// returns, and returns what it looked at last.
func (c *Config) each(ctx context.Context, next func(ctx context.Context, last int64) ([]nixstore.Registration, int, error), f func(paths []string) error) (last int64, total Result, err error) {
	for {
		regs, most, err := next(ctx, last)
		if err != nil || len(regs) == 0 || most == 0 {
			total.Full = len(regs) > 0
			return last, total, err
		}
		paths, r := queued(c.choose(ctx, regs))
		total.add(r)
		if err := f(paths); err != nil {
			return last, total, err
		}
		last = regs[len(regs)-1].ID
	}
}
