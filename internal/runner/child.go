package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// Exit codes of a command that could not be run, as a shell has them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // and the signal's number
)

// A Child is the command that a run is around. It has our terminal and our place among
// the jobs of it, so that ^C, ^Z and fg do what they do without us.
type Child struct {
	cmd     *exec.Cmd
	signals chan os.Signal
	ended   chan struct{}

	// Interrupted is when the last signal came that asks to end, or the zero time. It
	// is good after Wait.
	Interrupted time.Time
}

// ErrInterrupted says that a command was not started, since somebody wants the end.
var ErrInterrupted = errors.New("interrupted")

// NewChild returns a command that is not started yet. From here on signals that ask to
// end do not end us, until Close.
func NewChild(argv []string) *Child {
	c := &Child{cmd: exec.Command(argv[0], argv[1:]...), signals: make(chan os.Signal, 16), ended: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signal.Notify(c.signals, NotIgnored(syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)...)
	return c
}

// NotIgnored leaves out what we were started to ignore, as by nohup, or in the background
// of a script: to ask for it would mean that the command does not ignore it either.
func NotIgnored(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
}

// Start starts the command, unless a signal came since NewChild that asks to end: then
// the error is [ErrInterrupted]. Whatever the error, the exit code says so.
func (c *Child) Start(env []string) (code int, err error) {
	for len(c.signals) > 0 {
		if s := (<-c.signals).(syscall.Signal); asksToEnd(s) {
			return exitSignal + int(s), ErrInterrupted
		}
	}
	c.cmd.Env = env
	err = c.cmd.Start()
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		code = exitNotFound
	default:
		code = exitNotExecutable
	}
	var cause *fs.PathError // which says fork/exec
	if errors.As(err, &cause) {
		err = cause.Err
	}
	// (Not %w: it is nothing of ours to which access is denied, or that is missing.)
	return code, fmt.Errorf("run %s: %v", c.cmd.Args[0], err)
}

func asksToEnd(s syscall.Signal) bool {
	return s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGQUIT || s == syscall.SIGHUP
}

// Wait waits for the command's end, passes signals on until then, and returns its exit
// code.
func (c *Child) Wait() int {
	go func() {
		_ = c.cmd.Wait() // (ignored) ProcessState tells
		close(c.ended)
	}()
	for {
		select {
		case s := <-c.signals:
			c.pass(s.(syscall.Signal))
		case <-c.ended:
			signal.Ignore(syscall.SIGUSR1, syscall.SIGUSR2) // they mean nothing to us
			return exitCode(c.cmd.ProcessState)
		}
	}
}

// pass passes a signal on, unless the terminal has sent it to all of us.
func (c *Child) pass(s syscall.Signal) {
	if asksToEnd(s) {
		c.Interrupted = time.Now()
	}
	fromTerminal := asksToEnd(s) && s != syscall.SIGTERM && inForeground()
	if !fromTerminal {
		_ = c.cmd.Process.Signal(s) // (ignored) it has just ended
	}
}

// Signals are those that came after the command's end.
func (c *Child) Signals() <-chan os.Signal { return c.signals }

// Close lets signals do again what they do.
func (c *Child) Close() { signal.Stop(c.signals) }

func exitCode(s *os.ProcessState) int {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return s.ExitCode()
}

// inForeground tells whether our process group is the one to which the terminal sends
// what is typed. (The system knows who sent a signal, but Go does not pass it on. So
// somebody who sends SIGINT with kill to a run in the foreground of a terminal reaches
// only us; SIGTERM reaches the command always.)
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return false // no terminal at all
	}
	defer tty.Close()
	group, err := foregroundGroup(tty)
	return err == nil && group == syscall.Getpgrp()
}
