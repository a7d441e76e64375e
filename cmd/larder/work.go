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
	watch.Observe = observer(s.journal.Add)
	cfg, err := workerConfig(s.queue, s.lock, t, s.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forgot := time.Now()
	cfg.Alive = func() {
		if time.Since(forgot) > forgetEvery {
			t.writer.Forget()
			forgot = time.Now()
		}
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
			t.writer.Foreground()
			done = showProgress(s.cli, t.writer)
		})
	}()
	err = worker.Run(ctx, cfg)
	return errors.Join(err, <-watching)
}

// idleEnd is how long start's worker waits for something to do.
const idleEnd = 24 * time.Hour

// forgotten tells whether a session was deleted, or nothing has happened in it for long.
func (s *session) forgotten() bool {
	info, err := os.Stat(s.file("journal"))
	return err != nil || time.Since(info.ModTime()) > idleEnd
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
