package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/recompress"
)

// defaultGrace is how long Nix remembers what it has read of a cache over HTTP.
const defaultGrace = "30d"

func recompressCommand() *cli.Command {
	return &cli.Command{
		Name:      "recompress",
		Usage:     "make a cache smaller, in idle time",
		ArgsUsage: "[PATH…]",
		Description: "Compresses what is in the cache, or only the PATHs, once more, at the lowest priority, and lets entries name the new NARs where those are smaller. " +
			"Store paths, NAR hashes and signatures stay. It needs neither Nix nor, with --cache, a queue. The old NARs stay for --grace, and go when recompress runs again after that: " +
			"until then the cache is larger. It can be ended at any moment, and goes on when it is called again.\n\n" +
			"For example:  larder recompress --cache DIR --older-than 14d --budget 1h",
		Flags: []cli.Flag{
			cacheFlag(), queueFlag(),
			&cli.StringFlag{Name: "compression", Value: "zstd:19", DefaultText: "zstd:19", Usage: "`METHOD`: zstd:1 to zstd:22, or xz:0 to xz:9"},
			timeFlag("older-than", "", "", "leave out what a run has used within `TIME` before the newest one, such as 14d"),
			timeFlag("budget", "", "", "begin nothing new after `TIME`, such as 1h; the rest is for the next time (default: as long as it takes)"),
			timeFlag("grace", defaultGrace, "", "let old NARs stay for `TIME`: clients over HTTP remember for so long where they are. 0s is for a cache that nobody uses meanwhile"),
			&cli.BoolFlag{Name: "remember", Usage: "compress what comes into the cache from now on in the same way"},
			dryRunFlag("change nothing, but say how much there is to do"),
			workersFlag(), minFreeFlag(), jsonFlag(), quietFlag(),
		},
		Action: recompressCache,
	}
}

func recompressCache(c *cli.Context) error {
	o, err := recompressOptions(c)
	if err != nil {
		return err
	}
	if o.Cache, _, err = openNamed(c, !o.DryRun); err != nil {
		return err
	}
	defer o.Cache.Close()
	for _, arg := range c.Args().Slice() {
		p, err := nixstore.ParsePath(o.Cache.StoreDir(), arg)
		if err != nil {
			return withHint(fmt.Errorf("%q is not a store path: %w", arg, err), "larder list prints what is in the cache")
		}
		o.Paths = append(o.Paths, p)
	}
	if c.Bool("remember") {
		if err := o.Cache.Remember(c.Context, bincache.Settings{Compression: o.Method.String()}); err != nil {
			if errors.As(err, new(*bincache.FileError)) {
				return hintSettings(err)
			}
			return orHint(err, hintCache)
		}
	}
	r := recompress.New(o)
	done := showProgress(c, func() progress {
		p := r.Progress()
		return progress{done: p.Done, total: p.Total, read: p.Read, bytes: p.Bytes}
	})
	result, err := r.Run(c.Context)
	done()
	if errors.Is(err, fs.ErrNotExist) && len(o.Paths) > 0 {
		return withHint(err, "larder list prints what is in the cache")
	}
	if bincache.IsFull(err) {
		return withHint(err, "make room on the cache's disk (larder gc --max-size SIZE; old NARs go after --grace), or choose another --min-free; what is done stays, run the command again to go on")
	}
	if err != nil {
		return orHint(err, "what is done stays; run the command again to go on")
	}
	return printRecompressed(c, o, result)
}

// recompressOptions reads the flags.
func recompressOptions(c *cli.Context) (o recompress.Options, err error) {
	if o.Method, err = parseCompression(c.String("compression")); err != nil {
		return o, err
	}
	if o.Method.Name == "none" {
		return o, usageError("--compression none makes nothing smaller", "for example --compression zstd:19")
	}
	o.OlderThan, o.Grace, o.Budget = timeOf(c, "older-than"), timeOf(c, "grace"), timeOf(c, "budget")
	if c.IsSet("budget") && o.Budget == 0 {
		return o, usageError("--budget leaves no time", "for example --budget 1h")
	}
	if err := checkWorkers(c); err != nil {
		return o, err
	}
	o.Workers, o.DryRun, o.Log = c.Int("workers"), c.Bool("dry-run"), stderrLog(c)
	if o.DryRun && c.Bool("remember") {
		return o, usageError("--dry-run changes nothing, and --remember does", "leave one of them out")
	}
	if o.DryRun {
		return o, nil
	}
	return o, checkCompression(o.Method)
}

func printRecompressed(c *cli.Context, o recompress.Options, r recompress.Result) error {
	var damaged []string
	for _, d := range r.Damaged {
		cause := printable(d.Cause)
		if d.Path != "" {
			cause = d.Path + ": " + cause
		}
		damaged = append(damaged, cause+"; left as it is")
	}
	printWarnings(c.App.ErrWriter, damaged)
	result := struct {
		Cache       string `json:"cache"`
		Compression string `json:"compression"`
		DryRun      bool   `json:"dry_run"`
		recompress.Result
	}{bincache.URL(o.Cache.Path()), o.Method.String(), o.DryRun, r}
	if err := printResult(c, result, recompressText(o.Method, o.DryRun, r)); err != nil {
		return err
	}
	if len(r.Damaged) > 0 {
		return withHint(errors.New("recompress cache: some entries could not be used"), hintVerify)
	}
	return nil
}

func recompressText(m compress.Method, dryRun bool, r recompress.Result) string {
	if dryRun {
		return fmt.Sprintf("would recompress %d NARs with %s, %s, of %d entries\n", r.Candidates, m, ibytes(r.Bytes), r.Entries)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "recompressed %d NARs with %s: %s became %s\n", r.Recompressed, m, ibytes(r.Before), ibytes(r.After))
	if r.Kept > 0 {
		fmt.Fprintf(&text, "%d would not get smaller\n", r.Kept)
	}
	if r.Left > 0 {
		fmt.Fprintf(&text, "there was no time for %d; run the command again to go on\n", r.Left)
	}
	if r.Removed > 0 {
		fmt.Fprintf(&text, "removed old files: %d, %s\n", r.Removed, ibytes(r.RemovedBytes))
	}
	if r.Waiting > 0 {
		fmt.Fprintf(&text, "old files that stay until their grace is over, and go when recompress runs after that: %d, %s\n", r.Waiting, ibytes(r.WaitingBytes))
	}
	return text.String()
}
