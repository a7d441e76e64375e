// Package hookmain is the program that Nix executes as its post-build-hook:
// larder-hook, and larder itself if it is called by that name, as through a link.
//
//	larder-hook [--queue FILE] [--deadline DURATION]
//
// Nix passes no arguments; a script around the hook may. The deadline is that of
// --deadline, else LARDER_HOOK_DEADLINE, else 250ms.
//
// Two files may lie beside the program: beside the name under which it is called,
// if that is an absolute path, whatever that leads to.
//
//	larder-hook.queue   the queue's database, unless --queue or LARDER_QUEUE names
//	                    one; without any of them it is the user's default
//	larder-hook.next    the next hook
//
// Both have one absolute path in them. Without a next hook the program exits with 0,
// whatever happens: see package hook.
//
// # The next hook
//
// Nix has only one post-build-hook, and what was configured before larder came goes
// on being called: larder's part runs in a child process, and when that has ended, or
// does not end within its deadline and is killed, the process executes the next hook.
// That finds what Nix gave to this one: user and groups, environment, standard files,
// working directory, signals, limits, process ID. It gets no arguments. What it says
// and exits with is what Nix sees: if it fails, the build fails, as it would without
// larder. The same is true if there can be no such hook:
//
//	exit code
//	127   the next hook does not exist
//	126   it can't be executed, or larder-hook.next does not say what it is
//
// The next hook may be one of another queue, with files of its own. If it leads back
// to this one, it is not called.
package hookmain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nix-larder/larder/hook"
)

const defaultDeadline = 250 * time.Millisecond

var started = time.Now()

// Main acts as the hook, and ends the process.
func Main() {
	// Nix, or the terminal, may be gone when there is something to say, and a ^C is
	// for Nix: what was built is worth keeping all the same.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	defer os.Exit(0) // after a panic, too; nothing is closed, flushed or waited for

	c := hook.Config{Argv0: os.Args[0], Getenv: os.Getenv}
	deadline, problems := parseArgs(&c, os.Args[1:])
	c.Busy = deadline * 6 / 10
	gaveUp := "gave up after " + deadline.String() + " while "
	c.Stage = func(stage string) {
		setLastWords(line(errors.Join(problems, errors.New(gaveUp+stage))))
	}
	c.Stage("starting")
	endAfter(deadline - time.Since(started))
	if err := errors.Join(problems, hook.Run(context.Background(), c)); err != nil {
		speakNow()
		fmt.Fprint(os.Stderr, line(err))
	}
}

// parseArgs fills in c and returns the deadline. Nothing here is worth failing
// for: what can't be understood is left out, and told of in the error.
func parseArgs(c *hook.Config, args []string) (time.Duration, error) {
	var problems []error
	deadline := os.Getenv("LARDER_HOOK_DEADLINE")
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, ok := strings.Cut(arg, "=")
		if !ok && len(args) > 0 && (name == "--queue" || name == "--deadline") {
			value, ok = args[0], true
			args = args[1:]
		}
		switch {
		case ok && name == "--queue":
			c.Queue = value
		case ok && name == "--deadline":
			deadline = value
		default:
			problems = append(problems, fmt.Errorf("argument %q ignored", arg))
		}
	}
	if deadline == "" {
		return defaultDeadline, errors.Join(problems...)
	}
	d, err := time.ParseDuration(deadline)
	if err != nil || d <= 0 {
		problems = append(problems, fmt.Errorf("deadline %q ignored: want something like 250ms", deadline))
		d = defaultDeadline
	}
	return d, errors.Join(problems...)
}

// line returns the one line that is printed.
func line(err error) string { return "larder-hook: " + hook.OneLine(err) + "\n" }
