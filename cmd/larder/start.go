package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
)

func startCommand() *cli.Command {
	return &cli.Command{
		Name:  "start",
		Usage: "do what run does, for all commands from here to larder stop",
		Description: "Prints lines for the shell: eval \"$(larder start --cache DIR)\". Where GITHUB_ENV is set, later steps have them, too. " +
			"A worker goes on in the background until larder stop, whose flags are the others of run.",
		Flags:  append(sessionFlags(), &cli.BoolFlag{Name: "join", Usage: "become part of what was started for the same cache, if it goes on: for shells that come and go"}),
		Action: start,
	}
}

func start(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if joined, err := join(c); joined || err != nil {
		return err
	}
	s, err := newSession(c, !c.Bool("read-only"), sessionLog(c))
	if err != nil {
		return err
	}
	s.introduce()
	if s.queue == nil {
		return printStarted(c, "", s.wiring.NixConfig(os.Getenv("NIX_CONFIG"), ""))
	}
	state := sessionState{
		Version: sessionVersion, Begin: s.begin, Wiring: s.wiring, Hook: s.hook, Signers: s.signers,
		NixConfig: s.wiring.NixConfig(os.Getenv("NIX_CONFIG"), s.hook),
	}
	if err := s.detach(state); err != nil {
		s.remove()
		return err
	}
	return printStarted(c, s.dir, state.NixConfig)
}

// join prints what a session says that goes on, if we are to be part of one.
func join(c *cli.Context) (bool, error) {
	dir := outerSession(c)
	if dir == "" && c.Bool("join") {
		if c.String("cache") == "" {
			return false, usageError("no cache is named", "larder start --join --cache DIR")
		}
		var err error
		if dir, err = findSession(c); err != nil {
			return false, err
		}
	}
	if dir == "" {
		return false, nil
	}
	s, state, err := openSession(c, dir)
	if err != nil {
		return false, nil // (ignored) it has just ended, or is one of larder run
	}
	defer s.queue.Close()
	if alive, err := s.queue.WorkerAlive(); err != nil || !alive {
		return false, nil // (ignored) there is nothing to be part of
	}
	fmt.Fprintf(c.App.ErrWriter, "larder: already started\n")
	return true, printStarted(c, s.dir, state.NixConfig)
}

// detach leaves the session to a worker in the background.
func (s *session) detach(state sessionState) error {
	if err := s.save(state); err != nil {
		return err
	}
	if err := errors.Join(s.journal.Close(), s.lock.Unlock()); err != nil {
		return err
	}
	s.journal, s.lock = nil, nil
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	log, err := os.OpenFile(s.file("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, sessionWorker, fmt.Sprintf("--workers=%d", s.cli.Int("workers")), s.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/" // no directory is kept busy
	// Jenkins and GitHub end what a step leaves behind, and know it by its environment.
	cmd.Env = append(withoutVariables(os.Environ(), "LARDER_CACHE", "LARDER_COMPRESSION", keyFileVariable), "JENKINS_NODE_COOKIE=dontKillMe", "BUILD_ID=dontKillMe", "RUNNER_TRACKING_ID=")
	secret, err := secretPipe(keyringOf(s.cli).secret)
	if err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	defer secret.Close()
	cmd.Stdin = secret
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // (ignored) its log tells
		close(ended)
	}()
	s.awaitWorker(ended)
	return s.queue.Close()
}

// secretPipe returns a pipe with the secret key in it, or with nothing. The worker's
// environment would show it, in /proc, to all that later steps of a job run as this user.
func secretPipe(secret string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(secret) // less than a pipe holds
	if err := errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// awaitWorker waits until the worker has the session, so that what the shell calls next
// is part of it.
func (s *session) awaitWorker(ended <-chan struct{}) {
	timeout := time.After(stopTimeout)
	for {
		if alive, err := s.queue.WorkerAlive(); alive || err != nil {
			return // (ignored) stop does without it
		}
		select {
		case <-ended:
			warn(s.cli, "nothing is copied before larder stop: the worker ended, and %s says why", s.file("log"))
			return
		case <-timeout:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// printStarted prints what the shell is to set.
func printStarted(c *cli.Context, dir, nixConfig string) error {
	variables := [][2]string{{"NIX_CONFIG", nixConfig}}
	if dir != "" {
		variables = append(variables, [2]string{insideVariable, dir})
	}
	if os.Getenv("LARDER_QUEUE") != "" {
		variables = append(variables, [2]string{"LARDER_QUEUE", ""}) // the hook would take that one
	}
	if file := os.Getenv("GITHUB_ENV"); file != "" {
		var b strings.Builder
		for _, v := range variables {
			// Nothing that is in it may look like its end.
			end := "LARDER_" + rand.Text()
			fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", v[0], end, strings.TrimSuffix(v[1], "\n"), end)
		}
		if err := appendFile(file, b.String()); err != nil {
			return fmt.Errorf("tell GitHub: %w", err)
		}
	}
	for _, v := range variables {
		if _, err := fmt.Fprintf(c.App.Writer, "export %s=%s\n", v[0], shellQuote(v[1])); err != nil {
			return err
		}
	}
	return nil
}

func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// sessionWorker is the command by which start's worker is started.
const sessionWorker = "session-worker"

func sessionWorkerCommand() *cli.Command {
	return &cli.Command{
		Name: sessionWorker, Hidden: true, ArgsUsage: "DIR",
		Usage:  "what larder start leaves in the background",
		Flags:  append(keyFlags(), cacheFlag(), compressionFlag(), workersFlag()),
		Action: workInBackground,
	}
}

// findSession returns the directory of the session that stop is to end: that of the
// flag, of the environment, or the newest that there is. It returns "" if there is none.
func findSession(c *cli.Context) (string, error) {
	if dir := c.String("session"); dir != "" {
		return dir, nil
	}
	parent, err := sessionsDir()
	if err != nil {
		return "", err
	}
	dirs, err := sessionDirs(parent)
	if err != nil {
		return "", err
	}
	var trouble error // with those that are newer
	for _, dir := range slices.Backward(dirs) {
		s, _, err := openSession(c, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a run's, or just ended
		}
		if err != nil {
			trouble = cmp.Or(trouble, err)
			continue
		}
		s.queue.Close()
		if c.String("cache") == "" {
			return dir, nil
		}
		cacheDir, err := parseCache(c.String("cache"))
		if err != nil {
			return "", err
		}
		if s.settings.Cache == bincache.URL(cacheDir) {
			return dir, nil
		}
	}
	return "", trouble
}
