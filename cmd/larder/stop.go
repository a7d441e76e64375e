package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
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
		Usage: "end what larder start began: copy what is left, and report",
		Description: "Works from the queue on disk, whatever became of the worker. To stop twice is no error. " +
			"Without --strict it is no error either if something did not come into the cache.",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "session", EnvVars: []string{insideVariable}, Usage: "the session's `DIR`, which larder start has put into this variable", DefaultText: "the newest, of the cache if one is named"},
			cacheFlag(), workersFlag(),
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "also log what is done"},
		}, keyFlags(), drainFlags()),
		Action: stop,
	}
}

func stop(c *cli.Context) error {
	goOnUnread()
	if err := noArgs(c); err != nil {
		return err
	}
	if _, _, err := gcOptions(c); err != nil {
		return err
	}
	if err := checkPinFlags(c); err != nil {
		return err
	}
	dir, err := findSession(c)
	if err != nil {
		return err
	}
	if dir == "" {
		return nothingToStop(c)
	}
	s, _, err := openSession(c, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nothingToStop(c)
	}
	if err != nil {
		return err
	}
	// It has found the session, whose cache is where its jobs belong: the variable may
	// name another one.
	if err := c.Set("cache", ""); err != nil {
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
		s.letFinish(ctx, timeOf(c, "deadline"), signals)
	}
	if err := s.takeFromWorker(timeOf(c, "deadline"), signals); err != nil {
		s.queue.Close()
		if errors.Is(err, fs.ErrNotExist) { // by another larder stop
			return nothingToStop(c)
		}
		return err
	}
	if s.journal, err = runner.OpenJournal(s.file("journal")); err != nil {
		return err
	}
	if keys != nil {
		// The worker had them, and may have done everything. If not, the session stays for
		// a larder stop that has them, or for the next run.
		if counts, err := s.queue.Counts(ctx); err == nil && counts.Left() == 0 {
			defer s.remove()
			keys = nil
		}
		return s.conclude(nil, time.Since(begin), keys)
	}
	defer s.remove()
	finish, hurry := make(chan struct{}), make(chan struct{})
	close(finish)
	working := make(chan error, 1)
	go func() { working <- s.work(ctx, finish, hurry) }()
	err = waitForWork(working, timeOf(c, "deadline")-time.Since(begin), false, signals, cancel, hurry)
	return s.conclude(nil, time.Since(begin), err)
}

func nothingToStop(c *cli.Context) error {
	_, err := fmt.Fprintf(c.App.ErrWriter, "larder: nothing to stop\n")
	return err
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
func (s *session) letFinish(ctx context.Context, deadline time.Duration, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if alive, err := s.queue.WorkerAlive(); err != nil || !alive {
		return // (ignored) what it leaves shows
	}
	if pid := s.worker(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGUSR1) // (ignored) it has just ended
	}
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

// takeFromWorker makes this process the session's worker. The one that start left is told
// to end, and gets the time to finish what it has in hand. The error wraps
// [fs.ErrNotExist] if another larder stop has ended the session.
func (s *session) takeFromWorker(deadline time.Duration, signals <-chan os.Signal) (err error) {
	begin := time.Now()
	kill := begin.Add(stopTimeout + time.Second)
	sig := syscall.SIGTERM
	for {
		s.lock, err = s.queue.Lock()
		if !errors.Is(err, queue.ErrLocked) {
			return err
		}
		var interrupted <-chan os.Signal
		switch pid := s.worker(); {
		case pid == 0 && time.Since(begin) > deadline, time.Since(kill) > max(deadline, stopTimeout):
			return err
		case pid == 0:
			interrupted = signals // another larder stop is at it
		case sig == syscall.SIGTERM, time.Now().After(kill):
			_ = syscall.Kill(pid, sig) // (ignored) it has just ended
			sig = syscall.SIGKILL
		}
		select {
		case <-interrupted:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// worker returns the process that start left, or 0 if it is not to be seen. The number may
// be another one's by now, or be one of another container, and nobody else is to be killed.
func (s *session) worker() int {
	state, err := s.load()
	if err != nil || state.Worker <= 0 {
		return 0
	}
	words, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", state.Worker))
	switch _, noProc := os.Stat("/proc/self/cmdline"); {
	case noProc != nil:
		return state.Worker // macOS does not tell
	case err != nil, !bytes.Contains(words, []byte("\x00"+sessionWorker+"\x00")), !bytes.Contains(words, []byte("/"+filepath.Base(s.dir)+"\x00")):
		return 0
	}
	return state.Worker
}

// workInBackground is what larder start leaves behind.
func workInBackground(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("this is for larder start", "larder start --cache DIR")
	}
	secret, err := io.ReadAll(io.LimitReader(c.App.Reader, maxKeyFile))
	if err != nil {
		return fmt.Errorf("read signing key: %w", err)
	}
	keyringOf(c).secret = string(secret)
	s, state, err := openSession(c, c.Args().First())
	if err != nil {
		return err
	}
	s.log = slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	defer s.queue.Close()
	// Before somebody can see that we are alive.
	finish := onSignal(c.Context, syscall.SIGUSR1)
	state.Worker = os.Getpid()
	if err := s.save(*state); err != nil {
		return err
	}
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
