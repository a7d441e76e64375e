package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/runner"
	"github.com/nix-larder/larder/queue"
)

func pushCommand() *cli.Command {
	return &cli.Command{
		Name:      "push",
		Usage:     "copy the closures of store paths to the cache, now",
		ArgsUsage: "PATH…",
		Description: "Copies what is missing, as nix copy --to file://… does, without a daemon. A PATH is a store path, a file in one, " +
			"or a link to one, such as ./result. With --cache it needs no queue.",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(), compressionFlag(), workersFlag(), minFreeFlag(), jsonFlag(), quietFlag(),
			stdinFlag(), withDrvsFlag(), granularityFlag(),
			&cli.BoolFlag{Name: "build-closure", Usage: "copy also what it took to build the paths, as far as it is in the store: derivations, and their outputs"},
			&cli.BoolFlag{Name: "replace", Usage: "put what the store has in place of entries with other contents (builds that are not reproducible), and of what the cache says of the outputs of content-addressed derivations; what depends on those, and is not among the paths, is no longer found by its derivation"},
		}, append(contentFlags(), keyFlags()...)...),
		Action: push,
	}
}

func push(c *cli.Context) error {
	args, err := pathArgs(c)
	if err != nil {
		return err
	}
	if len(args) == 0 && !c.Bool("stdin") {
		return usageError("no path is named", "larder push --cache DIR ./result")
	}
	paths, err := parsePaths(args)
	if err != nil {
		return err
	}
	if paths, err = withBuild(c, paths); err != nil {
		return err
	}
	settings, err := pushSettings(c)
	if err != nil {
		return err
	}
	tally := &safeTally{Tally: runner.NewTally()}
	t, err := openTarget(c, settings, targetOptions{log: stderrLog(c), wanted: paths, replace: c.Bool("replace"), tell: tally.Add})
	if err != nil {
		return err
	}
	defer t.close()

	done := showProgress(c, t.progress)
	result, err := t.writer.Copy(c.Context, paths...)
	done()
	used := paths
	if err != nil {
		used = nil // who knows which of them are there
	}
	recordNow(c, t, tally.Tally, used)
	if err != nil {
		return err
	}
	return printPushed(c, bincache.URL(t.cache.Path()), result)
}

// withBuild returns some paths, and what else of their making is asked for.
func withBuild(c *cli.Context, paths []string) ([]string, error) {
	all, drvs := c.Bool("build-closure"), c.Bool("with-drvs")
	if !all && !drvs {
		return paths, nil
	}
	store, err := openStore()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	derivers, err := deriversOf(c.Context, store, paths, all)
	if err != nil || !all {
		return append(paths, derivers...), err
	}
	closure, err := store.BuildClosure(c.Context, derivers)
	return append(paths, closure...), err
}

// pushSettings returns the settings of the user's queue, for the cache that the
// command line does not name.
func pushSettings(c *cli.Context) (queue.Settings, error) {
	if c.String("cache") != "" {
		return queue.Settings{}, checkCacheFlag(c)
	}
	q, s, err := openQueue(c, false)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, fmt.Sprintf("name a cache: larder %s --cache DIR; or larder init --cache DIR makes a queue, which remembers it", c.Command.Name))
	}
	if err != nil {
		return s, err
	}
	return s, q.Close()
}

func stdinFlag() cli.Flag {
	return &cli.BoolFlag{Name: "stdin", Usage: "read more paths from standard input, one per line"}
}

// pathArgs returns the arguments, and the lines of standard input if they count.
func pathArgs(c *cli.Context) ([]string, error) {
	args := c.Args().Slice()
	if !c.Bool("stdin") {
		return args, nil
	}
	lines, err := readLines(c.App.Reader)
	return append(args, lines...), err
}

func parsePaths(args []string) ([]string, error) {
	return parsePathsIn(nixstore.DefaultDirs().Store, args)
}

func readLines(r io.Reader) ([]string, error) {
	var lines []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read paths: %w", err)
	}
	return lines, nil
}

func printPushed(c *cli.Context, url string, r cachewriter.Result) error {
	result := struct {
		Cache     string `json:"cache"`
		Paths     int    `json:"paths"`
		Copied    int    `json:"copied"`
		Replaced  int    `json:"replaced"`              // of those: in place of other contents
		Realised  int    `json:"replaced_realisations"` // outputs of content-addressed derivations that are other paths now
		Signed    int    `json:"signed"`                // that were there
		Listed    int    `json:"listed"`                // as well
		NarBytes  int64  `json:"nar_bytes"`
		FileBytes int64  `json:"file_bytes"`
	}{url, r.Paths, r.Copied, r.Replaced, r.Realised, r.Signed, r.Listed, r.NarBytes, r.FileBytes}
	text := fmt.Sprintf("copied %d of %d paths to %s (%s, %s compressed)",
		r.Copied, r.Paths, url, ibytes(r.NarBytes), ibytes(r.FileBytes))
	if r.Replaced > 0 {
		text += fmt.Sprintf(", %d of them in place of other contents", r.Replaced)
	}
	if r.Realised > 0 {
		text += fmt.Sprintf(", and replaced %d realisations", r.Realised)
	}
	if r.Signed > 0 {
		text += fmt.Sprintf(", and signed %d that were there", r.Signed)
	}
	if r.Listed > 0 {
		text += fmt.Sprintf(", and listed %d that were there", r.Listed)
	}
	return printResult(c, result, text+"\n")
}
