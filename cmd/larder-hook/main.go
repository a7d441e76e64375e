// Larder-hook is for Nix's post-build-hook: it puts what was just built into the
// queue, and a worker copies it to the cache.
//
//	larder-hook [--queue FILE] [--deadline DURATION]
//
// Nix passes no arguments; a script around the hook may. The queue is that of
// --queue, else LARDER_QUEUE, else what the file larder-hook.queue beside the
// program says, else the user's default. The deadline is that of --deadline,
// else LARDER_HOOK_DEADLINE, else 250ms.
//
// It exits with 0, whatever happens: see package hook.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nix-larder/larder/hook"
)

const defaultDeadline = 250 * time.Millisecond

var started = time.Now()

func main() {
	// Nix, or the terminal, may be gone when there is something to say, and a ^C
	// is for Nix: what was built is worth keeping all the same.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	exitZeroOnFaults()
	defer exit()
	defer func() {
		if p := recover(); p != nil {
			complain(fmt.Sprint("panic: ", p))
		}
	}()

	c := hook.Config{Argv0: os.Args[0], Getenv: os.Getenv, Stage: new(atomic.Value)}
	c.Stage.Store("starting")
	deadline := parseArgs(&c, os.Args[1:])
	// A path on a dead disk or a stopped writer can hold us for ever.
	time.AfterFunc(deadline-time.Since(started), func() {
		go complain(fmt.Sprintf("gave up after %v while %v", deadline, c.Stage.Load()))
		time.Sleep(10 * time.Millisecond) // the line has this long to be written
		exit()
	})
	c.Busy = deadline * 6 / 10
	if err := hook.Run(context.Background(), c); err != nil {
		complain(hook.OneLine(err))
	}
}

// parseArgs fills in c and returns the deadline. Nothing here is worth failing
// for: what can't be understood is told, and left out.
func parseArgs(c *hook.Config, args []string) time.Duration {
	deadline := os.Getenv("LARDER_HOOK_DEADLINE")
	for ; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "--queue" && len(args) > 1:
			c.Queue = args[1]
			args = args[1:]
		case args[0] == "--deadline" && len(args) > 1:
			deadline = args[1]
			args = args[1:]
		default:
			complain(fmt.Sprintf("argument %q ignored", args[0]))
		}
	}
	if deadline == "" {
		return defaultDeadline
	}
	d, err := time.ParseDuration(deadline)
	if err != nil || d <= 0 {
		complain(fmt.Sprintf("deadline %q ignored: want something like 250ms", deadline))
		return defaultDeadline
	}
	return d
}

// complain prints one line.
func complain(text string) {
	fmt.Fprintf(os.Stderr, "larder-hook: %s\n", text)
}

// exit ends the process as it is: nothing is closed, flushed or waited for.
func exit() { os.Exit(0) }
