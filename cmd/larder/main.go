// Larder keeps what enters the Nix store: it copies every new store path, with all
// that it needs, into a binary cache in a directory. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/hookmain"
	"github.com/nix-larder/larder/internal/runner"
)

// version is set by the linker.
var version = "unknown"

// Exit codes: see README.md.
const (
	exitError    = 1
	exitUsage    = 2
	exitLeftOver = 3
	exitDead     = 4
	exitProblems = 5
)

func main() {
	// First of all: Nix waits for the hook, and signals are not for it. What packages
	// do before main counts, too: it takes half a millisecond, which larder-hook does
	// not need. GODEBUG=inittrace=1 shows it.
	if hookmain.Called() {
		hookmain.Main()
	}
	// A second signal must not wait for what the first one began.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, runner.NotIgnored(syscall.SIGINT, syscall.SIGTERM)...)
	ctx, interrupt := context.WithCancelCause(context.Background())
	go func() {
		s := <-signals
		signal.Stop(signals)
		interrupt(interruption{s})
	}()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// An interruption is why a context ends of which a signal is the cause.
type interruption struct{ os.Signal }

func (i interruption) Error() string { return "interrupted" }

// interrupted returns the error of a command as somebody's who wanted it to end, if that was
// so. The exit code is that of a shell.
func interrupted(ctx context.Context, err error) error {
	var by interruption
	if !errors.As(context.Cause(ctx), &by) || !errors.Is(err, context.Canceled) || errors.As(err, new(*exitCoder)) {
		return err
	}
	number, _ := by.Signal.(syscall.Signal)
	said := error(by)
	if hint := hintFor(err); hint != "" {
		said = withHint(said, hint)
	}
	return &exitCoder{128 + int(number), said}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:  "larder",
		Usage: "keep what enters the Nix store in a binary cache directory, by itself",
		Description: "In a CI job:               larder run --cache DIR -- nix build\nOn a machine of your own:  larder init --cache DIR, once\n\n" +
			"Flags may be before arguments, between, or behind them; what is behind -- is none. Those of larder run are before the command. " +
			"A TIME is like 90s, 36h or 30d, and a SIZE like 500MB or 20GiB.\n\n" +
			"Exit codes: 0 all is done; 1 an error; 2 the command line is wrong; 3 the deadline passed with jobs left over; 4 some jobs failed for good; " +
			"5 doctor or verify found problems; 130 and 143 interrupted. That of larder run is its command's.",
		Version:                   version,
		HideHelpCommand:           true,
		UseShortOptionHandling:    true,
		DisableSliceFlagSeparator: true,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		ExitErrHandler:            func(*cli.Context, error) {}, // main decides
		OnUsageError:              onUsageError,
		Action:                    noCommand,
		Flags:                     []cli.Flag{cpuProfileFlag},
		Before:                    startProfile,
		After:                     stopProfile,
		Metadata:                  map[string]any{"keys": newKeyring()},
		Commands: []*cli.Command{
			runCommand(),
			startCommand(),
			stopCommand(),
			sessionWorkerCommand(),
			initCommand(),
			daemonCommand(),
			drainCommand(),
			syncCommand(),
			explainCommand(),
			pushCommand(),
			listCommand(),
			gcCommand(),
			pinCommand(),
			unpinCommand(),
			pinsCommand(),
			verifyCommand(),
			mergeCommand(),
			signCommand(),
			exportCommand(),
			importCommand(),
			recompressCommand(),
			doctorCommand(),
			statusCommand(),
			retryCommand(),
			uninstallCommand(),
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true
	}
	err := app.RunContext(ctx, flagsFirst(app, args))
	return report(stderr, interrupted(ctx, err))
}

// noCommand is called when the first word is no command.
func noCommand(c *cli.Context) error {
	if c.NArg() == 0 {
		return cli.ShowAppHelp(c)
	}
	return usageError(fmt.Sprintf("%q is not a command", c.Args().First()), "larder --help lists the commands")
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	name := "larder"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "larder" {
		name += " " + c.Command.Name
	}
	// What the library says of flags that take times and numbers.
	invalid := regexp.MustCompile(`(?s)^invalid value (".*") for flag -(\S+): (.*)$`)
	problem := invalid.ReplaceAllString(err.Error(), "--$2 is $1, $3")
	return usageError(strings.Replace(problem, ", parse error", ", want a number", 1), name+" --help lists the flags")
}

// An exitCoder is an error with an exit code of its own.
type exitCoder struct {
	code int
	err  error // nil if there is nothing to say
}

func (e *exitCoder) Error() string { return fmt.Sprint(e.err) }
func (e *exitCoder) Unwrap() error { return e.err }

// usageError says that the command line is wrong, and what to type instead.
func usageError(problem, hint string) error {
	return &exitCoder{exitUsage, withHint(errors.New(problem), hint)}
}

// report prints an error as people want it, and returns the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code := exitError
	var e *exitCoder
	if errors.As(err, &e) {
		code = e.code
		if e.err == nil {
			return code
		}
	}
	fmt.Fprintf(stderr, "larder: error: %v\n", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(stderr, "larder: hint: %s\n", hint)
	}
	return code
}
