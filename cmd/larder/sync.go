package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/nix-larder/larder/watcher"
)

func syncCommand() *cli.Command {
	return &cli.Command{
		Name:  "sync",
		Usage: "queue what the rules want and the cache has not, or not with its signature, listing and log",
		Description: "For a store that was filled before larder came, a new cache, or a lost queue. What is queued is copied by larder daemon or " +
			"larder drain. From then on all of the store is looked after, not only what comes in.",
		Flags: append([]cli.Flag{
			queueFlag(), jsonFlag(),
			dryRunFlag("queue nothing, but list on standard output what would be"),
		}, keyFlags()...),
		Action: syncStore,
	}
}

// A syncReport is what sync prints.
type syncReport struct {
	DryRun     bool     `json:"dry_run"`
	Registered int      `json:"registered"` // paths in the store
	Wanted     int      `json:"wanted"`     // of those: the rules want them
	Queued     int      `json:"queued"`     // of those: the cache has not, or not as it should
	NarBytes   int64    `json:"nar_bytes"`  // of those queued
	Paths      []string `json:"paths,omitempty"`
	Full       bool     `json:"full,omitempty"` // the queue had no room for more
}

func syncStore(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	q, settings, err := openQueue(c, false)
	if err != nil {
		return err
	}
	defer q.Close()
	v, err := openJobView(c, settings)
	if err != nil {
		return err
	}
	defer v.close()
	v.extras = extrasOf(c, settings)
	cfg, err := watcherConfig(q, v, settings, stderrLog(c))
	if err != nil {
		return err
	}
	report := syncReport{DryRun: c.Bool("dry-run")}
	var r watcher.Result
	if report.DryRun {
		r, err = watcher.Plan(c.Context, cfg, func(path string) error {
			if c.Bool("json") {
				report.Paths = append(report.Paths, path)
				return nil
			}
			_, err := fmt.Fprintln(c.App.Writer, path)
			return err
		})
	} else {
		r, err = watcher.Sync(c.Context, cfg)
	}
	if err != nil {
		return err
	}
	report.Registered, report.Wanted, report.Queued, report.NarBytes = r.Registered, r.Wanted, r.Queued, r.NarBytes
	report.Full = r.Full
	if err := report.print(c); err != nil || !r.Full {
		return err
	}
	if settings.Mode == hookOnly { // nobody looks at registrations
		return &exitCoder{exitLeftOver, withHint(errors.New("the queue is full, and not all of the store was looked at"), "larder drain empties it; then larder sync goes on; larder init --max-queue sets another bound")}
	}
	fmt.Fprintln(c.App.ErrWriter, "larder: the queue is full; the rest of the store is looked at as it gets room, by larder daemon or larder drain")
	return nil
}

func (r *syncReport) print(c *cli.Context) error {
	does := "queued"
	if r.DryRun {
		does = "would queue"
	}
	text := fmt.Sprintf("%s %d of %d paths, %s; %d are not wanted, %d are there\n",
		does, r.Queued, r.Registered, ibytes(r.NarBytes), r.Registered-r.Wanted, r.Wanted-r.Queued)
	if r.DryRun && !c.Bool("json") {
		_, err := fmt.Fprint(c.App.ErrWriter, "larder: ", text) // the list is the result
		return err
	}
	return printResult(c, r, text)
}
