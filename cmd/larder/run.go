package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command whose Nix uses the cache, and keep what comes into the store",
		ArgsUsage: "-- COMMAND [ARGUMENT…]",
		Description: "Makes the cache if it is not there, and needs no queue. Exits with the command's own code. What is wrong with the cache is a warning, " +
			"and the command runs all the same, unless --strict is given.\n\n" +
			"For example:  larder run --cache DIR --max-size 5G --pin main -- nix build",
		Flags:  slices.Concat(sessionFlags(), drainFlags()),
		Action: runAround,
	}
}

// sessionFlags are those of run and start.
func sessionFlags() []cli.Flag {
	return slices.Concat([]cli.Flag{cacheFlag(), compressionFlag(), workersFlag(), minFreeFlag()}, contentFlags(), keyFlags(), ruleFlags(), []cli.Flag{
		failedLogsFlag(), trustedKeyFlag(),
		&cli.BoolFlag{Name: "read-only", EnvVars: []string{"LARDER_READ_ONLY"}, Usage: "use what the cache has, and write nothing"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "also log what is done meanwhile"},
	})
}

// drainFlags are those of run and stop.
func drainFlags() []cli.Flag {
	return slices.Concat([]cli.Flag{
		timeFlag("deadline", "10m", "LARDER_DEADLINE", "put the end off until everything is in the cache, for at most `TIME`, such as 90s or 1h"),
		&cli.BoolFlag{Name: "strict", EnvVars: []string{"LARDER_STRICT"}, Usage: "fail if the cache can't be used (1), there was no time for something (3), or something could not be copied (4)"},
	}, pinFlags(), reportFlags(), gcFlags("0s"), []cli.Flag{quietFlag()})
}

func runAround(c *cli.Context) error {
	goOnUnread()
	argv := c.Args().Slice()
	if len(argv) == 0 {
		return usageError("no command is named", "larder run --cache DIR -- nix build")
	}
	if _, _, err := gcOptions(c); err != nil {
		return err // now, and not when the command has run
	}
	if err := checkPinFlags(c); err != nil {
		return err
	}
	child := runner.NewChild(argv)
	defer child.Close()
	if outer := outerSession(c); outer != "" {
		fmt.Fprintf(c.App.ErrWriter, "larder: part of a run of the same cache, which sees to it\n")
		nothingPinned(c, "only the whole run can pin its results")
		return plainly(child)
	}
	s, err := openedSession(c)
	switch {
	case err != nil && c.Context.Err() != nil, err == nil && s == nil:
		nothingPinned(c, "the cache is not used")
		return plainly(child) // which has heard of a signal, too
	case err != nil:
		return err
	}
	defer s.remove()
	s.introduce()
	if s.queue == nil { // --read-only
		nothingPinned(c, "the cache is only read")
		return runChild(child, s.environ(), codeError)
	}
	return s.around(child)
}

// openedSession returns a session for a command: with all that was asked for, or else
// one that only reads, or else none. It says what is less.
func openedSession(c *cli.Context) (*session, error) {
	s, err := newSession(c, !c.Bool("read-only"), sessionLog(c))
	var usage *exitCoder
	if err == nil || errors.As(err, &usage) || c.Bool("strict") || c.Context.Err() != nil {
		return s, err
	}
	if !c.Bool("read-only") {
		if s, readErr := newSession(c, false, sessionLog(c)); readErr == nil {
			warn(c, "nothing is written to the cache: %v", err)
			return s, nil
		}
	}
	warn(c, "the cache is not used: %v", err)
	return nil, nil
}

// outerSession returns the session that we are called in, if it is of the same cache.
func outerSession(c *cli.Context) string {
	dir := os.Getenv(insideVariable)
	if dir == "" || c.String("cache") == "" {
		return ""
	}
	cacheDir, err := parseCache(c.String("cache"))
	if err != nil {
		return ""
	}
	q, err := queue.Open(c.Context, filepath.Join(dir, "queue.db"))
	if err != nil {
		return "" // (ignored) it has ended
	}
	defer q.Close()
	settings, err := q.Settings(c.Context)
	if alive, aliveErr := q.WorkerAlive(); err != nil || aliveErr != nil || !alive || settings.Cache != bincache.URL(cacheDir) {
		return ""
	}
	return dir
}

// plainly runs the command as if we were not there.
func plainly(child *runner.Child) error { return runChild(child, os.Environ(), codeError) }

// runChild runs a command, and calls after with its exit code.
func runChild(child *runner.Child, env []string, after func(code int) error) error {
	code, err := child.Start(env)
	if errors.Is(err, runner.ErrInterrupted) {
		return codeError(code)
	}
	if err != nil {
		return &exitCoder{code, err}
	}
	return after(child.Wait())
}

// codeError returns what makes us exit with a command's code, without a word.
func codeError(code int) error {
	if code == 0 {
		return nil
	}
	return &exitCoder{code, nil}
}

// around runs the command, and copies what comes into the store meanwhile.
func (s *session) around(child *runner.Child) error {
	finish, hurry := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.cli.Context))
	defer cancel()
	working := make(chan error, 1)
	go func() {
		defer close(working)
		working <- s.work(ctx, finish, hurry)
	}()
	err := runChild(child, s.environ(), func(code int) error {
		ended := time.Now()
		left, interrupted := timeOf(s.cli, "deadline"), ended.Sub(child.Interrupted) < 2*stopTimeout
		if interrupted {
			// Somebody wants the end: nothing new is begun.
			left = stopTimeout - ended.Sub(child.Interrupted)
			cancel()
		} else {
			close(finish)
		}
		workErr := waitForWork(working, left, interrupted, child.Signals(), cancel, hurry)
		return s.conclude(&code, time.Since(ended), workErr)
	})
	cancel()
	for range working { // if there was no command to wait for
	}
	return err
}

// waitForWork waits for the end of the work. When time is up, what is in hand goes
// back; a signal ends it as it does while the command runs, and a second one at once.
// interrupted says that there was one already.
func waitForWork(working <-chan error, left time.Duration, interrupted bool, signals <-chan os.Signal, cancel func(), hurry chan struct{}) error {
	deadline := time.NewTimer(left)
	defer deadline.Stop()
	closeHurry := sync.OnceFunc(func() { close(hurry) })
	for {
		select {
		case err := <-working:
			return err
		case <-deadline.C:
			cancel()
			closeHurry()
		case <-signals:
			cancel()
			if interrupted {
				closeHurry()
			} else {
				interrupted = true
				deadline.Reset(stopTimeout)
			}
		}
	}
}

// withoutVariables returns an environment without some variables.
func withoutVariables(env []string, names ...string) []string {
	return slices.DeleteFunc(env, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(names, name)
	})
}
