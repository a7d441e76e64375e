package main

import (
	"context"
	"errors"
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
	watch.Observe = t.observe
	cfg, err := workerConfig(s.queue, s.lock, t, s.log)
	if err != nil {
		return err
	}
	forgot := time.Now()
	cfg.Alive = func() {
		if time.Since(forgot) > forgetEvery {
			t.writer.Forget()
			forgot = time.Now()
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
			t.writer.Foreground()
			done = showProgress(s.cli, t.writer)
		})
	}()
	err = worker.Run(ctx, cfg)
	return errors.Join(err, <-watching)
}

// watchUntil watches until finish is closed, and then looks for the last time.
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
	if err := watcher.Run(watching, c); ctx.Err() != nil || !errors.Is(err, context.Canceled) {
		return err
	}
	finishing()
	_, err := watcher.Look(ctx, c)
	return err
}
