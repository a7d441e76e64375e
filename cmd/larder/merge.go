package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/internal/cachemerge"
	"github.com/nix-larder/larder/queue"
)

func mergeCommand() *cli.Command {
	return &cli.Command{
		Name:      "merge",
		Usage:     "make one cache of several, such as those of a CI matrix",
		ArgsUsage: "DIR…",
		Description: "Adds what the caches in the DIRs have to the one that --cache names, which is made if it is not there. " +
			"The first one is right where they disagree. NARs are hard-linked where that is possible, which takes no room. " +
			"What no cache has whole is left out, with all that needs it, and named; then the exit code is 1.\n\n" +
			"For example:  larder merge --cache all job-1 job-2 job-3",
		Flags:  []cli.Flag{cacheFlag(), minFreeFlag(), jsonFlag(), quietFlag()},
		Action: merge,
	}
}

func merge(c *cli.Context) error {
	const example = "larder merge --cache DIR DIR…"
	if c.NArg() == 0 {
		return usageError("no cache to merge is named", example)
	}
	if c.String("cache") == "" {
		return usageError("no cache to merge into is named", example)
	}
	dir, err := parseCache(c.String("cache"))
	if err != nil {
		return err
	}
	bounds, err := givenBounds(c, queue.Settings{})
	if err != nil {
		return err
	}
	sources, err := openSources(dir, c.Args().Slice())
	defer func() {
		for _, source := range sources {
			source.Close()
		}
	}()
	if err != nil {
		return err // before a cache is made for nothing
	}
	settings, err := sources[0].Settings()
	if err != nil {
		settings = bincache.Settings{} // (ignored) of a newer larder
	}
	cache, err := makeCache(dir, sources[0].StoreDir(), bincache.Options{
		Settings: settings,
		// Who may not read the sources is not to read them here.
		Mode: sources[0].Mode()&0o666 | 0o600,
	})
	if err != nil {
		return err
	}
	defer cache.Close()
	cache.Reserve(bounds.MinFree)
	if err := lookAfter(c.Context, cache); err != nil {
		return err
	}

	m := cachemerge.New(cachemerge.Options{
		Target: cache, Sources: sources, Log: stderrLog(c),
		Removed: func(ctx context.Context, storePaths []string, elsewhere bool) error {
			return cachegc.Complete(ctx, cache, storePaths, elsewhere)
		},
	})
	done := showProgress(c, func() progress {
		p := m.Progress()
		return progress{done: p.Done, total: p.Paths, read: p.Bytes}
	})
	r, err := m.Run(c.Context)
	done()
	if err != nil {
		return orHint(err, "what is merged stays; run the command again to go on")
	}
	return printMerged(c, cache, r)
}

// openSources opens the caches that are merged into one in dir. It returns those that
// it has opened also with an error.
func openSources(dir string, args []string) (sources []*bincache.Cache, err error) {
	var storeDir string
	target, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, orHint(err, hintCache)
	default:
		if cache, err := bincache.OpenReadOnly(dir, ""); err == nil {
			storeDir = cache.StoreDir()
			cache.Close()
		}
	}
	for _, arg := range args {
		source, err := bincache.ParseURL(arg)
		if err != nil {
			return sources, usageError(err.Error(), "name directories, or file:///directory")
		}
		if info, err := os.Stat(source); err == nil && target != nil && os.SameFile(info, target) {
			return sources, usageError(fmt.Sprintf("cache %q is to be merged into itself", arg), "name only the other caches behind --cache "+dir)
		}
		cache, err := bincache.OpenReadOnly(source, storeDir)
		if errors.Is(err, fs.ErrNotExist) {
			err = withHint(err, "name the directory that has nix-cache-info in it")
		}
		if err != nil {
			return sources, err
		}
		sources = append(sources, cache)
		storeDir = cache.StoreDir()
	}
	return sources, nil
}

func printMerged(c *cli.Context, cache *bincache.Cache, r cachemerge.Result) error {
	for _, warnings := range mergeWarnings(&r) {
		printWarnings(c.App.ErrWriter, warnings)
	}
	// In JSON an empty list is one.
	r.Conflicts = append([]cachemerge.Conflict{}, r.Conflicts...)
	r.Damaged = append([]cachemerge.Damage{}, r.Damaged...)
	r.LeftOut = append([]string{}, r.LeftOut...)
	result := struct {
		Cache string `json:"cache"`
		cachemerge.Result
	}{bincache.URL(cache.Path()), r}
	if err := printResult(c, result, mergeText(result.Cache, &r)); err != nil {
		return err
	}
	if lost := r.Lost(); lost+len(r.LeftOut) > 0 {
		return withHint(fmt.Errorf("left out %d damaged entries, and %d that need them; merged the rest", lost, len(r.LeftOut)),
			"build or push them again, then merge once more")
	}
	return nil
}

func mergeText(cache string, r *cachemerge.Result) string {
	var text strings.Builder
	fmt.Fprintf(&text, "added %d entries to %s (%s linked, %s copied), %d were there already\n",
		r.Added, cache, ibytes(r.LinkedBytes), ibytes(r.CopiedBytes), r.Present)
	for _, line := range []struct {
		count int
		what  string
	}{
		{r.Mended, "mended %d entries\n"},
		{r.Signatures, "added %d signatures\n"},
		{r.Files, "added %d logs, realisations and other files\n"},
		{r.Relying, "%d of the new entries refer to what none of the caches has: clients need its upstream or base too\n"},
	} {
		if line.count > 0 {
			fmt.Fprintf(&text, line.what, line.count)
		}
	}
	return text.String()
}

// mergeWarnings returns what was not united, by kind.
func mergeWarnings(r *cachemerge.Result) [3][]string {
	var conflicts, damaged, leftOut []string
	for _, x := range r.Conflicts {
		conflicts = append(conflicts, fmt.Sprintf("%s is another one in %s; kept that of %s", x.Name, x.Other, x.Kept))
	}
	for _, x := range r.Damaged {
		what := "another cache has it"
		if x.Lost {
			what = "left out"
		}
		damaged = append(damaged, fmt.Sprintf("%s in %s: %s; %s", x.Path, x.Cache, x.Cause, what))
	}
	for _, path := range r.LeftOut {
		leftOut = append(leftOut, path+" needs one that is damaged; left out")
	}
	return [3][]string{conflicts, damaged, leftOut}
}

// maxWarnings is how many problems of a kind are printed; --json has all.
const maxWarnings = 10

func printWarnings(w io.Writer, warnings []string) {
	for i, warning := range warnings {
		if i == maxWarnings {
			fmt.Fprintf(w, "larder: warning: and %d more\n", len(warnings)-i)
			return
		}
		fmt.Fprintf(w, "larder: warning: %s\n", printable(warning))
	}
}
