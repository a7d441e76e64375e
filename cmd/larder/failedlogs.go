package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

const (
	// failedEvery is how often a daemon looks for logs of failed builds, which takes a
	// look at every log there is.
	failedEvery = time.Minute

	// clockStep is how much older than it is a file's time may be: file systems have a
	// coarser clock than programs.
	clockStep = 20 * time.Millisecond
)

// A failedLogs finds the logs of builds that failed: those of whose derivation nothing
// is in the store. Nix calls no hook for them, and writes nothing into its database.
type failedLogs struct {
	*target
	log   *slog.Logger
	since time.Time            // what was written before has been looked at
	seen  map[string]time.Time // what was not: the logs that have been looked at, as of then
}

// newFailedLogs returns one for what is written from now on, or since then, or nil if
// nobody wants to have such logs.
func newFailedLogs(c *cli.Context, s queue.Settings, t *target, since time.Time, log *slog.Logger) *failedLogs {
	setContents(c, &s)
	if s.FailedLogs != "true" {
		return nil
	}
	return &failedLogs{target: t, log: log, since: since.Add(-clockStep), seen: make(map[string]time.Time)}
}

// keep copies logs of builds that have failed, as far as it can. The log of a build that
// goes on may be among them if Nix does not compress it; it is looked at again when
// there is more of it, and the log that comes with an entry takes its place.
func (f *failedLogs) keep(ctx context.Context) {
	if f == nil {
		return
	}
	begin := time.Now()
	logs, err := f.store.Dirs().LogsSince(f.since)
	if err != nil {
		f.log.Warn("logs of failed builds could not be looked for", "err", err)
		return
	}
	all := true
	for drv, written := range logs {
		if f.seen[drv].Equal(written) {
			continue
		}
		err := f.keepOne(ctx, drv)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, io.ErrUnexpectedEOF):
			continue // it is still being written, and will have another time
		case err != nil:
			f.log.Warn("log of a failed build was left out", "err", err)
			all = false
			continue
		}
		f.seen[drv] = written
	}
	if all {
		f.since = begin.Add(-clockStep)
		maps.DeleteFunc(f.seen, func(_ string, written time.Time) bool { return written.Before(f.since) })
	}
}

// keepOne copies the log of a derivation's build, if that has failed. It takes the place
// of an earlier one only if the cache has nothing that was built.
func (f *failedLogs) keepOne(ctx context.Context, drv string) error {
	valid, err := f.store.Outputs(ctx, drv)
	if err != nil || len(valid) > 0 {
		return err
	}
	outputs, err := f.store.Dirs().DrvOutputs(drv)
	replace := err == nil // or nobody can tell
	for _, path := range outputs {
		_, err := f.cache.Entry(path)
		replace = replace && err != nil
	}
	if err := f.writer.CopyLog(ctx, drv, replace); err != nil {
		return err
	}
	f.tell(runner.Event{Kind: runner.FailedLog, Path: drv})
	f.log.Info("kept the log of a failed build", "drv", filepath.Base(drv))
	return nil
}

// keepUntil calls keep now and then until ctx ends, and once more after that, for as long
// as lookTimeout.
func (f *failedLogs) keepUntil(ctx context.Context) {
	if f == nil {
		return
	}
	tick := time.NewTicker(failedEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.keep(ctx)
		case <-ctx.Done():
			f.keepAtLast(ctx)
			return
		}
	}
}

// keepAtLast is keep for the end, be it sudden.
func (f *failedLogs) keepAtLast(ctx context.Context) {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
	}
	f.keep(ctx)
}
