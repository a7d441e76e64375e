package watcher

import (
	"context"
)

// Sync compares the whole store with the cache, and queues everything that the rules
// want and the cache has not. From then on all of the store is the queue's business,
// whatever was there before it. Others may look and work meanwhile.
func Sync(ctx context.Context, c Config) (Result, error) {
	if err := Begin(ctx, c.Queue, c.Store); err != nil {
		return Result{}, err // or the end below would be without a beginning
	}
	r, err := each(ctx, c, func(paths []string) error {
		if err := c.protect(ctx, paths); err != nil {
			return err
		}
		return c.Queue.AddRooted(ctx, c.again(paths), paths...)
	})
	if err != nil {
		return r, err
	}
	return r, c.Queue.ForgetStart(ctx)
}

// Plan tells what Sync would do.
func Plan(ctx context.Context, c Config, show func(path string) error) (Result, error) {
	return each(ctx, c, func(paths []string) error {
		for _, path := range paths {
			if err := show(path); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls f for everything in the store that is to be queued, a batch at a time.
func each(ctx context.Context, c Config, f func(paths []string) error) (Result, error) {
	var total Result
	for last := int64(0); ; {
		regs, err := c.Store.Registrations(ctx, last, batch)
		if err != nil || len(regs) == 0 {
			return total, err
		}
		paths, r := queued(c.choose(ctx, regs))
		total.add(r)
		if err := f(paths); err != nil {
			return total, err
		}
		last = regs[len(regs)-1].ID
	}
}
