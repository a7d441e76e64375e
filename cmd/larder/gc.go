package main

import (
	"bufio"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "remove what has not been used for the longest time",
		Description: "Removes entries until the limits hold, those first that no run has used for the longest time, and never one that another needs, " +
			"nor what is pinned. Without a limit it only removes what nobody can see any more. It needs no Nix, and with --cache no queue; " +
			"others may add to the cache meanwhile, and read. Interrupted, it goes on the next time.\n\n" +
			"For example:  larder gc --cache DIR --max-size 20G --max-age 30d --keep-last 5 --dry-run",
		Flags: append([]cli.Flag{
			cacheFlag(), queueFlag(),
			dryRunFlag("change nothing, but print what would go, and why"),
			jsonFlag(), quietFlag(),
			timeFlag("grace", gcGrace, "", "keep the files of what goes for `TIME`, for those who are reading it; 0s where nobody else uses the cache"),
		}, policyFlags("")...),
		Action: gc,
	}
}

// policyFlags are the limits of a cache, and what they are for.
func policyFlags(of string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-size", EnvVars: []string{"LARDER_MAX_SIZE"}, Usage: of + "remove entries until the cache has at most `SIZE`, such as 20G"},
		timeFlag("max-age", "", "LARDER_MAX_AGE", of+"remove what was used last more than `TIME` before the newest run, such as 30d"),
		&cli.IntFlag{Name: "keep-last", EnvVars: []string{"LARDER_KEEP_LAST"}, Usage: of + "keep all that the last `N` runs have used, whatever the limits are"},
	}
}

// gcGrace is how long files stay of what was removed, where others may be reading.
const gcGrace = "1h"

// gcFlags are those of a command that collects when it is done with something else.
func gcFlags(grace string) []cli.Flag {
	return append(policyFlags(""), timeFlag("gc-grace", grace, "LARDER_GC_GRACE",
		"keep the files of what these limits remove for `TIME`, for others who use the same directory; 0s where nobody does"))
}

// gcOptions returns what to collect by, and whether there is a limit at all.
func gcOptions(c *cli.Context) (o cachegc.Options, limited bool, err error) {
	o.Policy, err = policyOf(c)
	o.Grace = timeOf(c, "gc-grace")
	return o, o.Policy.MaxSize > 0 || o.Policy.MaxAge > 0, err
}

// policyOf returns the limits of the command line.
func policyOf(c *cli.Context) (p cachegc.Policy, err error) {
	if text := c.String("max-size"); text != "" {
		size, err := humanize.ParseBytes(text)
		if err != nil || size == 0 || size > 1<<62 {
			return p, usageError(fmt.Sprintf("--max-size is %q, want a size", text), "for example --max-size 20G")
		}
		p.MaxSize = int64(size)
	}
	p.MaxAge = timeOf(c, "max-age")
	if p.KeepLast = c.Int("keep-last"); p.KeepLast < 0 {
		return p, usageError(fmt.Sprintf("--keep-last is %d, want a number of runs", p.KeepLast), "for example --keep-last 5")
	}
	return p, nil
}

func gc(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	policy, err := policyOf(c)
	if err != nil {
		return err
	}
	dryRun, grace := c.Bool("dry-run"), timeOf(c, "grace")
	cache, _, err := openNamed(c, !dryRun)
	if err != nil {
		return err
	}
	defer cache.Close()
	if dryRun {
		survey, err := cachegc.Look(c.Context, cache, time.Now().Add(grace))
		if err == nil {
			err = survey.Blind()
		}
		if err != nil {
			return orHint(err, hintVerify)
		}
		return printPlan(c, bincache.URL(cache.Path()), survey.Plan(policy))
	}
	r, err := cachegc.Collect(c.Context, cache, cachegc.Options{Policy: policy, Grace: grace})
	if err != nil {
		return hintGC(err, grace)
	}
	return printCollected(c, bincache.URL(cache.Path()), r)
}

func hintGC(err error, grace time.Duration) error {
	if bincache.IsFull(err) {
		hint := "there is no room to note what goes: "
		if grace > 0 {
			hint += "run it with --grace 0s if nobody else is using the cache, or "
		}
		err = withHint(err, hint+"remove a file of the cache's log directory, or something else on its disk, and run it again")
	}
	return orHint(err, hintVerify)
}

// A printedEviction is an entry that goes, as gc prints it.
type printedEviction struct {
	Path    string         `json:"path"`
	Why     cachegc.Reason `json:"why"`
	LastUse *time.Time     `json:"last_use"` // null if no record tells
	Bytes   int64          `json:"bytes"`    // in files that nobody needs without it and those before it
}

// A printedPlan is what gc prints.
type printedPlan struct {
	Cache        string            `json:"cache"`
	DryRun       bool              `json:"dry_run"`
	Entries      int               `json:"entries"` // before
	Bytes        int64             `json:"bytes"`
	Evicted      []printedEviction `json:"evicted"`
	EvictedBytes int64             `json:"evicted_bytes"`
	Pinned       int               `json:"pinned"` // entries that stay for that reason
	Recent       int               `json:"recent"`
	Short        int64             `json:"short"`         // bytes more than --max-size that stay, because they are kept
	RemovedBytes int64             `json:"removed_bytes"` // of NARs, that are gone from the disk now
	WaitingBytes int64             `json:"waiting_bytes"` // of NARs, that stay until the grace is over
}

func planned(cache string, p *cachegc.Plan) *printedPlan {
	r := &printedPlan{
		Cache: cache, Entries: p.Entries, Bytes: p.Bytes, Evicted: []printedEviction{}, EvictedBytes: p.Freed,
		Pinned: p.Kept[cachegc.Pinned], Recent: p.Kept[cachegc.Recent], Short: p.Short,
	}
	for _, e := range p.Evict {
		printed := printedEviction{Path: e.Path, Why: e.Why, Bytes: e.Bytes}
		if !e.LastUse.IsZero() {
			printed.LastUse = &e.LastUse
		}
		r.Evicted = append(r.Evicted, printed)
	}
	return r
}

func printPlan(c *cli.Context, cache string, p *cachegc.Plan) error {
	r := planned(cache, p)
	r.DryRun = true
	if c.Bool("json") {
		return printResult(c, r, "")
	}
	out := bufio.NewWriter(c.App.Writer)
	for _, e := range r.Evicted {
		last := "never used"
		if e.LastUse != nil {
			last = "last used " + localTime(*e.LastUse)
		}
		fmt.Fprintf(out, "%s  %s, %s, %s\n", e.Path, e.Why, last, ibytes(e.Bytes))
	}
	fmt.Fprintf(out, "%s of %d would go, with %s of %s%s\n", paths(len(r.Evicted)), r.Entries, ibytes(r.EvictedBytes), ibytes(r.Bytes), keptText(r))
	return out.Flush()
}

func printCollected(c *cli.Context, cache string, collected *cachegc.Result) error {
	r := planned(cache, collected.Plan)
	r.RemovedBytes, r.WaitingBytes = collected.RemovedBytes, collected.WaitingBytes
	text := fmt.Sprintf("removed %s of %d from %s, with %s of %s%s", paths(len(r.Evicted)), r.Entries, cache, ibytes(r.EvictedBytes), ibytes(r.Bytes), keptText(r))
	if r.WaitingBytes > 0 {
		text += fmt.Sprintf("; %s stay until the grace is over", ibytes(r.WaitingBytes))
	}
	return printResult(c, r, text+"\n")
}

// keptText tells what stays for a reason.
func keptText(r *printedPlan) (text string) {
	if r.Pinned > 0 {
		text += fmt.Sprintf("; %s pinned", paths(r.Pinned))
	}
	if r.Recent > 0 {
		text += fmt.Sprintf("; %s kept for recent runs", paths(r.Recent))
	}
	if r.Short > 0 {
		text += fmt.Sprintf("; that is %s more than --max-size", ibytes(r.Short))
	}
	return text
}
