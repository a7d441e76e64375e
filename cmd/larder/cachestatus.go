package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/cachegc"
	"github.com/nix-larder/larder/queue"
)

// cacheStatusFlags are those of status that are about a cache. A variable that names the
// cache of other commands does not make it another command.
func cacheStatusFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "cache", Usage: "show how large a cache is, and what was used of it, in place of a queue: a directory `DIR`, or file:///DIR"},
	}, policyFlags("with --cache, what larder gc would do: ")...)
}

// A cacheReport is what status --cache prints.
type cacheReport struct {
	Cache    string `json:"cache"`
	Entries  int    `json:"entries"` // that clients can use
	Damaged  int    `json:"damaged"` // entries that they can't
	Bytes    int64  `json:"bytes"`   // of files, each once: as many as --max-size is compared with
	NarBytes int64  `json:"nar_bytes"`

	Shared      int   `json:"shared"`       // entries whose NAR another one has as well
	SharedBytes int64 `json:"shared_bytes"` // more that there would be if each had its own

	WaitingFiles int   `json:"waiting_files"` // that nobody needs any more, until larder gc removes them
	WaitingBytes int64 `json:"waiting_bytes"`

	Pins          []reportedPin `json:"pins"`
	PinnedEntries int           `json:"pinned_entries"` // with all that they need
	PinnedBytes   int64         `json:"pinned_bytes"`

	OldestUse *time.Time `json:"oldest_use"` // of the entry that was not used for the longest time; null if no record tells
	NewestUse *time.Time `json:"newest_use"`
	Undated   int        `json:"undated"` // entries of which no record tells: they count as just used

	Runs []reportedRun `json:"runs"` // that are recorded, oldest first

	GC *reportedPlan `json:"gc"` // null if no limit is given
}

type reportedPin struct {
	Name     string `json:"name"`
	Versions int    `json:"versions"` // that it stands for
	Paths    int    `json:"paths"`
}

type reportedRun struct {
	Ended   time.Time `json:"ended"`
	Added   int       `json:"added"`
	Bytes   int64     `json:"bytes"`    // how much larger that made the cache
	Used    int       `json:"used"`     // entries that were there already
	HitRate *float64  `json:"hit_rate"` // those, of all that the run had to do with
}

// A reportedPlan is what larder gc would do.
type reportedPlan struct {
	Evicted      int   `json:"evicted"`
	EvictedBytes int64 `json:"evicted_bytes"`
	Pinned       int   `json:"pinned"` // entries that stay for that reason
	Recent       int   `json:"recent"`
	Short        int64 `json:"short"` // bytes more than --max-size that stay
}

func cacheStatus(c *cli.Context) error {
	policy, err := policyOf(c)
	if err != nil {
		return err
	}
	cache, err := openReadOnly(c, queue.Settings{}, "")
	if err != nil {
		return err
	}
	defer cache.Close()
	grace, _ := parseTime(gcGrace) // (ignored) a constant is right
	survey, err := cachegc.Look(c.Context, cache, time.Now().Add(grace))
	if err == nil && policy != (cachegc.Policy{}) {
		err = survey.Blind()
	}
	if err != nil {
		return orHint(err, hintVerify)
	}
	stats := survey.Stats()
	r := &cacheReport{
		Cache: bincache.URL(cache.Path()), Entries: stats.Entries, Damaged: len(survey.Damaged), Bytes: stats.Bytes, NarBytes: stats.NarBytes,
		Shared: stats.Shared, SharedBytes: stats.SharedBytes,
		Pins: []reportedPin{}, PinnedEntries: stats.Pinned, PinnedBytes: stats.PinnedBytes,
		OldestUse: timeOrNull(stats.OldestUse), NewestUse: timeOrNull(stats.NewestUse), Undated: stats.Undated, Runs: []reportedRun{},
	}
	pins, err := cache.Pins()
	if err != nil {
		return err
	}
	for _, p := range pins {
		r.Pins = append(r.Pins, reportedPin{p.Name, len(p.History), len(p.Paths())})
	}
	waiting, err := cache.Waiting(survey.Needs)
	if err != nil {
		return err
	}
	r.WaitingFiles, r.WaitingBytes = waiting.Waiting, waiting.WaitingBytes
	for _, run := range stats.Runs {
		reported := reportedRun{Ended: run.Ended, Added: run.Added, Bytes: run.Bytes, Used: run.Used}
		if rate := run.HitRate(); rate >= 0 {
			reported.HitRate = &rate
		}
		r.Runs = append(r.Runs, reported)
	}
	if policy != (cachegc.Policy{}) {
		plan := survey.Plan(policy)
		r.GC = &reportedPlan{len(plan.Evict), plan.Freed, plan.Kept[cachegc.Pinned], plan.Kept[cachegc.Recent], plan.Short}
	}
	return printResult(c, r, r.text())
}

// onlyQueue refuses flags that are about a cache where none is named.
func onlyQueue(c *cli.Context) error {
	for flag, variable := range map[string]string{"max-size": "LARDER_MAX_SIZE", "max-age": "LARDER_MAX_AGE", "keep-last": "LARDER_KEEP_LAST"} {
		if _, inEnv := os.LookupEnv(variable); c.IsSet(flag) && !inEnv {
			return usageError(fmt.Sprintf("--%s is for a cache, and none is named", flag), "larder status --cache DIR --max-size 5G")
		}
	}
	return nil
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// lastRuns is how many runs people are shown; --json has all.
const lastRuns = 10

func (r *cacheReport) text() string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("cache", "%s", r.Cache)
	line("entries", "%d, %s in files, %s unpacked", r.Entries, ibytes(r.Bytes), ibytes(r.NarBytes))
	if r.Damaged > 0 {
		line("damaged", "%d entries that nobody can use: larder verify tells of them", r.Damaged)
	}
	if r.Shared > 0 {
		line("shared", "%d entries have a NAR with others, which saves %s", r.Shared, ibytes(r.SharedBytes))
	}
	if r.WaitingFiles > 0 {
		line("waiting", "%d files that nobody needs any more, %s: larder gc removes them", r.WaitingFiles, ibytes(r.WaitingBytes))
	}
	if len(r.Pins) > 0 {
		line("pinned", "%s by %d pins, %s", paths(r.PinnedEntries), len(r.Pins), ibytes(r.PinnedBytes))
	}
	switch {
	case r.NewestUse != nil && r.OldestUse != nil:
		line("used", "last %s; what was not used for the longest time: %s", localTime(*r.NewestUse), localTime(*r.OldestUse))
	case r.NewestUse != nil: // nothing is left of what was used
		line("used", "last %s", localTime(*r.NewestUse))
	}
	if r.Undated > 0 && r.NewestUse != nil {
		line("undated", "%d entries of which no record tells, and which count as used last", r.Undated)
	}
	if r.GC != nil {
		line("gc", "would remove %s of %d, with %s of %s%s", paths(r.GC.Evicted), r.Entries+r.Damaged, ibytes(r.GC.EvictedBytes), ibytes(r.Bytes),
			keptText(&printedPlan{Pinned: r.GC.Pinned, Recent: r.GC.Recent, Short: r.GC.Short}))
	}
	line("runs", "%d recorded", len(r.Runs))
	for _, run := range r.Runs[max(0, len(r.Runs)-lastRuns):] {
		rate := ""
		if run.HitRate != nil {
			rate = fmt.Sprintf(" (%.0f%%)", 100**run.HitRate)
		}
		fmt.Fprintf(&b, "  %s  added %d, %s; found %d%s\n", localTime(run.Ended), run.Added, ibytes(run.Bytes), run.Used, rate)
	}
	return b.String()
}
