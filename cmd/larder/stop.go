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
		}, drainFlags()),
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
	if err := s.takeFrom(state.Worker); err != nil {
		s.queue.Close()
		return err
	}
	defer s.remove()
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}

	finish, hurry := make(chan struct{}), make(chan struct{})
	close(finish)
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context))
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	working := make(chan error, 1)
	go func() { working <- s.work(ctx, finish, hurry) }()
	err = waitForWork(working, c.Duration("deadline")-time.Since(begin), signals, cancel, hurry)
	return s.conclude(nil, time.Since(begin), err)
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
	if s.lock, err = s.queue.Lock(); err != nil {
		return err
	}
	defer s.lock.Unlock()
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}
	defer s.journal.Close()
	s.detached = true
	err = s.work(c.Context, nil, nil)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
