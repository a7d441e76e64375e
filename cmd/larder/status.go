package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/queue"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show what is queued, and what went wrong; or how large a cache is, and what is used of it",
		Description: "Without --cache it is about the queue. With it, which needs no queue and no Nix: entries, bytes, what pins keep, when what was used, " +
			"how the last runs have made it larger, and which part of what they needed they have found there; with a limit, what larder gc would remove. " +
			"What found everything, less than a day after that was noted, leaves no record, and so is not among the runs.",
		Flags:  append([]cli.Flag{queueFlag(), jsonFlag(), &cli.BoolFlag{Name: "jobs", Usage: "list all jobs, not only those that failed, as --json does"}}, cacheStatusFlags()...),
		Action: status,
	}
}

// A statusReport is what status prints.
type statusReport struct {
	Queue       string      `json:"queue"`
	Cache       string      `json:"cache"`
	Mode        string      `json:"mode"` // hook-only, watch-only, or both
	Rules       rules.Rules `json:"rules"`
	WorkerAlive bool        `json:"worker_alive"`
	Waiting     int64       `json:"waiting"`
	Claimed     int64       `json:"claimed"`
	Dead        int64       `json:"dead"`
	NarBytes    *int64      `json:"nar_bytes"` // of the paths waiting and claimed, without their closures; null if Nix can't be asked
	Unseen      *int64      `json:"unseen"`    // registrations that nobody has looked at yet; null if nobody is to, or Nix can't be asked
	Roots       int         `json:"roots"`     // paths kept from the garbage collector
	WeakRoots   bool        `json:"weak_roots"`
	Jobs        []statusJob `json:"jobs"`
	space
}

// A statusJob is a job as status prints it.
type statusJob struct {
	queue.Row
	Rooted bool `json:"rooted"`
}

func status(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if c.IsSet("cache") {
		return cacheStatus(c)
	}
	if err := onlyQueue(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	r := statusReport{Queue: q.File(), Cache: settings.Cache, Mode: cmp.Or(settings.Mode, "both"), Jobs: []statusJob{}}
	if r.Rules, err = rules.Parse(settings.Rules); err != nil {
		return err
	}
	if r.space, err = spaceOf(settings); err != nil {
		return err
	}
	if r.WorkerAlive, err = q.WorkerAlive(); err != nil {
		return err
	}
	// What is looked at while we count becomes a job, so this comes first.
	store, nixErr := openStore()
	if nixErr == nil {
		defer store.Close()
		nixErr = r.countUnseen(c.Context, q, store, settings)
	}
	counts, err := q.Counts(c.Context)
	if err != nil {
		return err
	}
	r.Waiting, r.Claimed, r.Dead = counts.Waiting, counts.Claimed, counts.Dead
	left, err := r.addJobs(c.Context, q, c.Bool("jobs") || c.Bool("json"))
	if err != nil {
		return err
	}
	if nixErr == nil {
		nixErr = r.addSizes(c.Context, store, left)
	}
	if nixErr != nil {
		stderrLog(c).Warn("Nix can't be asked", "err", nixErr)
	}
	return printResult(c, r, r.text())
}

// addJobs adds the jobs that were asked for, and returns the paths that a worker
// still has to do.
func (r *statusReport) addJobs(ctx context.Context, q *queue.Queue, all bool) (left []string, err error) {
	roots := rootsOf(q)
	names, err := roots.List()
	if err != nil {
		return nil, err
	}
	rooted := make(map[string]bool, len(names))
	for _, name := range names {
		rooted[name] = true
	}
	r.Roots, r.WeakRoots = len(rooted), roots.Weak()
	for job, err := range q.Rows(ctx) {
		if err != nil {
			return nil, err
		}
		if all || job.State == queue.Dead || job.Error != "" {
			r.Jobs = append(r.Jobs, statusJob{job, rooted[filepath.Base(job.Path)]})
		}
		if job.State != queue.Dead {
			left = append(left, job.Path)
		}
	}
	return left, nil
}

// countUnseen counts the registrations that nobody has looked at.
func (r *statusReport) countUnseen(ctx context.Context, q *queue.Queue, store *nixstore.Store, s queue.Settings) error {
	cursor, err := q.Cursor(ctx)
	if err != nil || cursor == nil || s.Mode == hookOnly {
		return err
	}
	unseen, err := store.CountAfter(ctx, cursor.Last)
	if err != nil {
		return err
	}
	r.Unseen = &unseen
	return nil
}

// addSizes adds up the sizes of those paths that are still in the store.
func (r *statusReport) addSizes(ctx context.Context, store *nixstore.Store, paths []string) error {
	var sum int64
	for _, path := range paths {
		info, err := store.Info(ctx, path)
		if errors.Is(err, nixstore.ErrNotValid) {
			continue
		}
		if err != nil {
			return err
		}
		sum += info.NarSize
	}
	r.NarBytes = &sum
	return nil
}

// weakness says what is weaker when roots are links: README.md.
var weakness = map[bool]string{true: ", by links that nix-store makes: root has made this queue no directory for its own"}

func (r *statusReport) text() string {
	var b strings.Builder
	worker := "not running (larder daemon, or larder drain)"
	if r.WorkerAlive {
		worker = "alive"
	}
	fmt.Fprintf(&b, "queue    %s\ncache    %s\nworker   %s\n", r.Queue, r.Cache, worker)
	b.WriteString(r.space.text())
	fmt.Fprintf(&b, "waiting  %d%s\nclaimed  %d\ndead     %d\n", r.Waiting, r.space.bound(), r.Claimed, r.Dead)
	if r.Unseen != nil {
		fmt.Fprintf(&b, "unseen   %d registrations in the store that nobody has looked at yet\n", *r.Unseen)
	}
	fmt.Fprintf(&b, "roots    %d paths are kept from the garbage collector%s\n", r.Roots, weakness[r.WeakRoots])
	if r.NarBytes != nil {
		fmt.Fprintf(&b, "to copy  %s, closures not counted\n", ibytes(*r.NarBytes))
	}
	for _, job := range r.Jobs {
		fmt.Fprintf(&b, "\n%s\n  %s", job.Path, job.State)
		if job.Attempts > 0 {
			fmt.Fprintf(&b, " after %d attempts", job.Attempts)
		}
		if job.State == queue.Waiting {
			fmt.Fprintf(&b, ", due %s", humanize.Time(job.Due))
		}
		if job.Rooted {
			b.WriteString(", kept by its root")
		}
		if job.Error != "" {
			fmt.Fprintf(&b, "\n  %s", strings.ReplaceAll(job.Error, "\n", "\n  "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
