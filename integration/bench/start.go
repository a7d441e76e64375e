package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nix-larder/larder/internal/cachetest"
)

var startRow = row{
	Name:    "start",
	Title:   "larder daemon, from its start until it is ready",
	Measure: measureStart,
	Goals: []goal{
		{What: "with a cache of 200,000 entries", Limit: 1, Unit: "s", Is: valueOf(medianWall, "200000")},
	},
}

// measureStart measures how long a daemon needs until it is ready, with a cache that
// has nothing and with one that has much.
func measureStart(ctx context.Context, b *bench) ([]result, error) {
	if !b.hasLarder() {
		return nil, nil
	}
	many := 200_000
	if b.Quick {
		many = 20_000
	}
	var queues []string
	var results []result
	for _, count := range []int{0, many} {
		cache, err := openEntries(ctx, b, count)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprint(count)
		queue, err := makeQueue(ctx, b, "start-"+name, cache)
		if err != nil {
			return nil, err
		}
		queues = append(queues, queue)
		results = append(results, newResult(contender{Key: name, Label: name + " entries"}))
	}
	defer os.RemoveAll("/nix/var/nix/gcroots/larder") // as for the row hook
	for n := range b.Runs + 1 {
		for i, queue := range queues {
			s, err := startOnce(ctx, b, queue)
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first is the warm-up
				results[i].add(s)
			}
		}
	}
	return results, nil
}

// startOnce starts a daemon, and ends it when it is ready.
func startOnce(ctx context.Context, b *bench, queue string) (sample, error) {
	start := time.Now()
	daemon, end, err := startDaemon(ctx, b, queue)
	if err != nil {
		return sample{}, err
	}
	defer end()
	s := sample{Wall: time.Since(start)}
	u, err := readUsage(daemon.Pid)
	s.CPU, s.RSS = u.cpu, u.peak
	return s, err
}

// openEntries returns a cache with so many entries, and makes it first if it is not
// there yet.
func openEntries(ctx context.Context, b *bench, count int) (dir string, err error) {
	dir = filepath.Join(b.Dir, fmt.Sprintf("entries-%d", count))
	last := filepath.Join(dir, "nix-cache-info") // without it a directory is no cache
	if _, err := os.Stat(last); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	status("making a cache of %d entries, once (%s)", count, dir)
	if err = os.RemoveAll(dir); err == nil {
		err = cachetest.Fill(ctx, dir, count)
	}
	for _, inner := range []string{"log", "realisations"} { // as any writer makes them
		if err == nil {
			err = os.MkdirAll(filepath.Join(dir, inner), 0o755)
		}
	}
	if err == nil {
		err = os.WriteFile(last, []byte("StoreDir: /nix/store\n"), 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("make cache of entries: %w", err)
	}
	return dir, nil
}
