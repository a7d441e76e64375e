package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/nix-larder/larder/internal/worker"
	"github.com/nix-larder/larder/watcher"
)

const (
	// runAttempts is how often a job of a session may fail: what does not do within
	// some seconds would keep people waiting.
	runAttempts = 4

	// runPatience is how long the last pause for an unavailable cache is.
	runPatience = 2 * time.Second

	// stopTimeout is how long a session may finish what is in hand after it was told
	// to end. Providers kill after ten seconds.
	stopTimeout = 5 * time.Second

	// lookTimeout is how long a session that was told to end may still look what has
	// come into the store. A moment does, unless Nix's database is locked.
	lookTimeout = time.Second
)

// work copies what comes into the store until ctx ends, or, once finish is closed, until
// nothing is left to do. What is in hand when ctx ends may go on for stopTimeout, or
// until hurry is closed.
func (s *session) work(ctx context.Context, finish, hurry <-chan struct{}) error {
	t, err := openTarget(s.cli, s.settings, targetOptions{background: true, tell: s.journal.Add, log: s.log})
	if err != nil {
		return err
	}
	defer t.close()
	watch, err := watcherConfig(s.queue, t.view, s.settings, s.log)
	if err != nil {
		return err
	}
	watch.Observe = observer(s.journal.Add, 0)
	cfg, err := workerConfig(s.queue, s.lock, t, s.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Nobody has use for who gives way in the little time that is left.
	defer context.AfterFunc(ctx, func() { t.writer.SetBackground(false) })()
	cfg.Alive = func() {
		t.forget()
		if s.detached && s.forgotten() {
			s.log.Info("nobody needs the session any more")
			cancel()
		}
	}
	done := func() {}
	defer func() { done() }()
	looked := make(chan struct{}) // for the last time
	cfg.Finish, cfg.Hurry = looked, hurry
	cfg.Attempts, cfg.Patience, cfg.StopTimeout = runAttempts, runPatience, stopTimeout

	watching := make(chan error, 1)
	go func() {
		defer close(looked)
		watching <- watchUntil(ctx, watch, finish, func() {
			t.writer.SetBackground(false)
			done = showProgress(s.cli, t.progress)
		})
	}()
	err = worker.Run(ctx, cfg)
	err = errors.Join(err, <-watching)
	newFailedLogs(s.cli, s.settings, t, s.begin, s.log).keepAtLast(ctx)
	if err == nil {
		err = t.writer.Realise(ctx)
	}
	// What a killed job left unfinished is new again when a provider has restored it. If
	// it is older than we are, and nobody's, it is not of somebody who just began.
	if sweepErr := t.cache.SweepTemp(min(sweepAge, time.Since(s.begin))); sweepErr != nil {
		s.log.Warn("unfinished files could not be swept", "err", sweepErr)
	}
	return err
}

// idleEnd is how long start's worker waits for something to do.
const idleEnd = 24 * time.Hour

// forgotten tells whether a session was deleted, or nothing has happened in it for long.
func (s *session) forgotten() bool {
	info, err := os.Stat(s.file("journal"))
	return err != nil || time.Since(info.ModTime()) > idleEnd
}

// watchUntil watches until finish is closed, and then looks for the last time. If ctx
// ends before, it looks all the same, for as long as lookTimeout: what is left over has
// to be known.
func watchUntil(ctx context.Context, c watcher.Config, finish <-chan struct{}, finishing func()) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-finish:
			stop()
		case <-watching.Done():
		}
	}()
	_ = watcher.Run(watching, c) // (ignored) it has only this one
	if ctx.Err() == nil {
		finishing()
	}
	looking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lookTimeout, cancel) })()
	_, err := watcher.Look(looking, c)
	return err
}
