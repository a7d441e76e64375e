package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/queue"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:   "status",
		Usage:  "show what is queued, and what went wrong",
		Flags:  []cli.Flag{queueFlag(), jsonFlag(), &cli.BoolFlag{Name: "jobs", Usage: "list every job, as --json does, not only those that failed"}},
		Action: status,
	}
}

// A statusReport is what status prints.
type statusReport struct {
	Queue       string      `json:"queue"`
	Cache       string      `json:"cache"`
	WorkerAlive bool        `json:"worker_alive"`
	Waiting     int64       `json:"waiting"`
	Claimed     int64       `json:"claimed"`
	Dead        int64       `json:"dead"`
	NarBytes    *int64      `json:"nar_bytes"` // of the paths waiting and claimed, without their closures; null if Nix can't be asked
	Jobs        []queue.Row `json:"jobs"`
}

func status(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	r := statusReport{Queue: q.File(), Cache: settings.Cache, Jobs: []queue.Row{}}
	if r.WorkerAlive, err = q.WorkerAlive(); err != nil {
		return err
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
	if bytes, err := narBytes(c.Context, left); err == nil {
		r.NarBytes = &bytes
	} else {
		stderrLog(c).Warn("sizes are unknown", "err", err)
	}
	return printResult(c, r, r.text())
}

// addJobs adds the jobs that were asked for, and returns the paths that a worker
// still has to do.
func (r *statusReport) addJobs(ctx context.Context, q *queue.Queue, all bool) (left []string, err error) {
	for job, err := range q.Rows(ctx) {
		if err != nil {
			return nil, err
		}
		if all || job.State == queue.Dead || job.Error != "" {
			r.Jobs = append(r.Jobs, job)
		}
		if job.State != queue.Dead {
			left = append(left, job.Path)
		}
	}
	return left, nil
}

// narBytes adds up the sizes of those paths that are still in the store.
func narBytes(ctx context.Context, paths []string) (sum int64, err error) {
	if len(paths) == 0 {
		return 0, nil
	}
	store, err := openStore()
	if err != nil {
		return 0, err
	}
	defer store.Close()
	for _, path := range paths {
		info, err := store.Info(ctx, path)
		if errors.Is(err, nixstore.ErrNotValid) {
			continue
		}
		if err != nil {
			return 0, err
		}
		sum += info.NarSize
	}
	return sum, nil
}

func (r *statusReport) text() string {
	var b strings.Builder
	worker := "not running (larder daemon, or larder drain)"
	if r.WorkerAlive {
		worker = "alive"
	}
	fmt.Fprintf(&b, "queue    %s\ncache    %s\nworker   %s\n", r.Queue, r.Cache, worker)
	fmt.Fprintf(&b, "waiting  %d\nclaimed  %d\ndead     %d\n", r.Waiting, r.Claimed, r.Dead)
	if r.NarBytes != nil {
		fmt.Fprintf(&b, "to copy  %s, closures not counted\n", humanize.IBytes(uint64(*r.NarBytes)))
	}
	for _, job := range r.Jobs {
		fmt.Fprintf(&b, "\n%s\n  %s", job.Path, job.State)
		if job.Attempts > 0 {
			fmt.Fprintf(&b, " after %d attempts", job.Attempts)
		}
		if job.State == queue.Waiting {
			fmt.Fprintf(&b, ", due %s", humanize.Time(job.Due))
		}
		if job.Error != "" {
			fmt.Fprintf(&b, "\n  %s", strings.ReplaceAll(job.Error, "\n", "\n  "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
