package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// stderrLog returns the log of a command that a person waits for: only what that
// person should know.
func stderrLog(c *cli.Context) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A progress is how far a command is with store paths.
type progress struct {
	done, total int
	bytes       int64 // of those done
}

// showProgress shows how far a command is until done is called: as a bar on a
// terminal, as a line now and then elsewhere.
func showProgress(c *cli.Context, now func() progress) (done func()) {
	if c.Bool("quiet") {
		return func() {}
	}
	show, every := showLine(c.App.ErrWriter), 10*time.Second
	if isTerminal(c.App.ErrWriter) {
		show, every = showBar(c.App.ErrWriter), 100*time.Millisecond
	}
	stop := make(chan struct{})
	var task sync.WaitGroup
	task.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show(now())
			case <-stop:
				return
			}
		}
	})
	return func() {
		close(stop)
		task.Wait()
		if isTerminal(c.App.ErrWriter) {
			fmt.Fprint(c.App.ErrWriter, "\r\x1b[K")
		}
	}
}

func showLine(w io.Writer) func(progress) {
	return func(p progress) {
		fmt.Fprintf(w, "larder: %d of %d paths, %s\n", p.done, p.total, humanize.IBytes(uint64(p.bytes)))
	}
}

func showBar(w io.Writer) func(progress) {
	bar := progressbar.NewOptions(0, progressbar.OptionSetWriter(w), progressbar.OptionShowCount(),
		progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
	return func(p progress) {
		bar.Describe(humanize.IBytes(uint64(p.bytes)))
		bar.ChangeMax(p.total)
		_ = bar.Set(p.done) // (ignored) a bar is no reason to stop
	}
}

// printResult prints a command's result: as JSON if the flag says so, or as text.
func printResult(c *cli.Context, result any, text string) error {
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(result)
	}
	_, err := io.WriteString(c.App.Writer, text)
	return err
}
