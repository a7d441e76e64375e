package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/nix-larder/larder/internal/nixstore"
)

// stderrLog returns the log of a command that a person waits for: only what that
// person should know.
func stderrLog(c *cli.Context) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// goOnUnread has a command go on when nobody reads any more what it says, as when a CI's log
// has ended: what it does is for others, and its exit code may be somebody else's. Without
// it, the first word that nobody reads is the end.
func goOnUnread() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A progress is how far a command is with store paths.
type progress struct {
	done, total int    // total is 0 if nobody knows how many there will be
	read, bytes int64  // how much of how much; 0 if nobody knows how much there will be
	current     string // the store path that takes the time, or ""
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
		bytes := ""
		switch {
		case p.bytes > 0:
			bytes = ", " + ibytes(p.read) + " of " + ibytes(p.bytes)
		case p.read > 0:
			bytes = ", " + ibytes(p.read)
		}
		paths := fmt.Sprint(p.done)
		if p.total > 0 {
			paths += fmt.Sprintf(" of %d", p.total)
		}
		fmt.Fprintf(w, "larder: %s paths%s\n", paths, bytes)
	}
}

// showBar shows bytes and their speed in a bar, and in front of it how many paths, and
// which one takes the time. Where nobody knows how many bytes there will be, the bar is
// one of paths.
func showBar(w io.Writer) func(progress) {
	// One of 0 would be at its end before it begins.
	bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionSetWidth(20), progressbar.OptionClearOnFinish())
	return func(p progress) {
		name := ""
		if p.current != "" {
			name = " " + nixstore.Name(p.current)
		}
		const width = 24 // the line should fit
		if len(name) > width {
			name = name[:width-1] + "…"
		}
		at, end := p.read, p.bytes
		if end == 0 {
			at, end = int64(p.done), int64(p.total)
		}
		bar.Describe(fmt.Sprintf("%d/%d%-*s", p.done, p.total, width, name))
		bar.ChangeMax64(max(1, end))
		_ = bar.Set64(min(at, max(0, end-1))) // (ignored) a bar is no reason to stop; a full one would be the end of it
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

func ibytes(n int64) string { return humanize.IBytes(uint64(n)) }

func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }
