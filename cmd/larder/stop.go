package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "copy what is left of what larder start began to keep, and report",
		Description: "Works from the queue on disk, whatever became of the worker. To stop twice is no error. " +
			"Fails only with --strict if not all came into the cache.",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "session", EnvVars: []string{insideVariable}, Usage: "the session's `DIR`", DefaultText: "the newest of the cache"},
			cacheFlag(), workersFlag(),
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "say what is done"},
		}, keyFlags(), drainFlags()),
		Action: stop,
	}
}

func stop(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	dir, err := findSession(c)
	if err != nil {
		return err
	}
	s, state, err := openSession(c, dir)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(c.App.ErrWriter, "larder: nothing to stop\n")
		return nil
	}
	if err != nil {
		return err
	}
	begin := time.Now()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context))
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, runner.NotIgnored(syscall.SIGINT, syscall.SIGTERM)...)
	defer signal.Stop(signals)

	keys := s.checkKeys()
	if keys != nil {
		s.letFinish(ctx, state.Worker, c.Duration("deadline"), signals)
	}
	if err := s.takeFrom(state.Worker); err != nil {
		s.queue.Close()
		return err
	}
	defer s.remove()
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}
	if keys != nil {
		if counts, err := s.queue.Counts(ctx); err == nil && counts.Left() == 0 {
			keys = nil // the worker had them, and has done everything
		}
		return s.conclude(nil, time.Since(begin), keys)
	}
	finish, hurry := make(chan struct{}), make(chan struct{})
	close(finish)
	working := make(chan error, 1)
	go func() { working <- s.work(ctx, finish, hurry) }()
	err = waitForWork(working, c.Duration("deadline")-time.Since(begin), false, signals, cancel, hurry)
	return s.conclude(nil, time.Since(begin), err)
}

// checkKeys returns an error if we have not all the keys that the session signs with:
// what is not signed like the rest would be of no use.
func (s *session) checkKeys() error {
	keys, err := signingKeys(s.cli, s.settings)
	if err != nil {
		return err
	}
	have := make(map[string]bool)
	for _, key := range keys {
		have[key.ToPublicKey().String()] = true
	}
	for _, signer := range s.signers {
		if !have[signer] {
			name, _, _ := strings.Cut(signer, ":")
			return fmt.Errorf("larder start had a key %s, which larder stop has not; give both the same --%s or %s", name, keyFileFlag, keyVariable)
		}
	}
	return nil
}

// letFinish tells the worker that start left to do all there is to do, and waits for it.
func (s *session) letFinish(ctx context.Context, pid int, deadline time.Duration, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if alive, err := s.queue.WorkerAlive(); err != nil || !alive {
		return // (ignored) what it leaves shows
	}
	_ = syscall.Kill(pid, syscall.SIGUSR1) // (ignored) it has just ended
	for {
		alive, err := s.queue.WorkerAlive()
		if err != nil || !alive {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-signals:
			return
		case <-ctx.Done():
			return
		}
	}
}

// takeFrom makes this process the session's worker. The one that start left is told
// to end, and gets the time to finish what it has in hand.
func (s *session) takeFrom(pid int) (err error) {
	end := time.Now().Add(stopTimeout + time.Second)
	for sig := syscall.SIGTERM; ; time.Sleep(5 * time.Millisecond) {
		s.lock, err = s.queue.Lock()
		if !errors.Is(err, queue.ErrLocked) {
			return err
		}
		switch {
		case sig == syscall.SIGTERM, sig == syscall.SIGKILL && time.Now().After(end):
			// It holds the lock, so it is alive, and that process is it.
			_ = syscall.Kill(pid, sig) // (ignored) it has just ended
			sig = syscall.SIGKILL
		case time.Now().After(end.Add(stopTimeout)):
			return err
		}
	}
}

// workInBackground is what larder start leaves behind.
func workInBackground(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("this is for larder start", "larder start --cache DIR")
	}
	s, _, err := openSession(c, c.Args().First())
	if err != nil {
		return err
	}
	s.log = slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	defer s.queue.Close()
	finish := onSignal(c.Context, syscall.SIGUSR1) // before somebody can see that we are alive
	if s.lock, err = s.queue.Lock(); err != nil {
		return err
	}
	defer s.lock.Unlock()
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}
	defer s.journal.Close()
	s.detached = true
	err = s.work(c.Context, finish, nil)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// onSignal returns a channel that is closed when a signal comes.
func onSignal(ctx context.Context, sig os.Signal) <-chan struct{} {
	came := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	go func() {
		defer signal.Stop(signals)
		select {
		case <-signals:
			close(came)
		case <-ctx.Done():
		}
	}()
	return came
}
