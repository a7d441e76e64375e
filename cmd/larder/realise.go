package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/queue"
)

// realise publishes the realisations that Nix has noted of what is in the cache, some of
// them after the jobs of their paths were done, maybe by a daemon.
func realise(ctx context.Context, c *cli.Context, s queue.Settings) error {
	store, err := openStore()
	if err != nil {
		return err
	}
	any, err := store.HasRealisations(ctx)
	store.Close()
	if err != nil || !any {
		return err
	}
	t, err := openTarget(c, s, targetOptions{log: stderrLog(c)})
	if err != nil {
		return err
	}
	defer t.close()
	return t.writer.Realise(ctx)
}

// realiseAlways does that at once, and then every poll.
func realiseAlways(ctx context.Context, t *target, poll time.Duration, log *slog.Logger) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	said := ""
	for {
		err := t.writer.Realise(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err.Error() != said {
			log.Warn("realisations could not be copied, will retry", "err", err)
		}
		said = fmt.Sprint(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
