package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

var coldRow = row{
	Name:  "cold",
	Title: "the whole closure to an empty cache, zstd 3",
	Measure: func(ctx context.Context, b *bench) ([]result, error) {
		return measureCold(ctx, b, b.corpus, b.contenders)
	},
	Goals: []goal{
		{What: "wall against nix 2.34", Limit: 0.95, Is: ratioOf(medianWall, "larder", "nix-sid", "2.34.")},
		{What: "cpu against nix 2.34", Limit: 0.95, Is: ratioOf(medianCPU, "larder", "nix-sid", "2.34.")},
		{What: "NAR files against nix 2.34", Limit: 1, Is: ratioOf(narFiles, "larder", "nix-sid", "2.34.")},
		{What: "wall against nix 2.34, parallel-compression", Limit: 0.95, Is: ratioOf(medianWall, "larder", "nix-sid-parallel", "2.34.")},
		{What: "cpu against nix 2.34, parallel-compression", Limit: 0.95, Is: ratioOf(medianCPU, "larder", "nix-sid-parallel", "2.34.")},
		{What: "NAR files against nix 2.34, parallel-compression", Limit: 1, Is: ratioOf(narFiles, "larder", "nix-sid-parallel", "2.34.")},
		{What: "wall against nix 2.8", Limit: 0.40, Is: ratioOf(medianWall, "larder", "nix-host", "2.8.")},
		{What: "wall against the floor", Limit: 1.11, Is: ratioOf(medianWall, "larder", "floor", "")},
	},
}

var fullRow = row{
	Name:    "full",
	Title:   "the same again, when all of it is there",
	Measure: measureFull,
	Goals: []goal{
		{What: "wall against the host's nix", Limit: 0.30, Is: ratioOf(medianWall, "larder", "nix-host", "")},
		{What: "wall against nix 2.34", Limit: 0.30, Is: ratioOf(medianWall, "larder", "nix-sid", "2.34.")},
	},
}

// narFiles is the size of the cache's NAR files, in MB.
var narFiles = figureOf("NAR files")

// measureCold measures copies of a closure to caches that do not exist yet. The
// untimed warm-up run of each contender brings store and programs into the page
// cache.
func measureCold(ctx context.Context, b *bench, c *corpus, contenders []contender) ([]result, error) {
	results := make([]result, len(contenders))
	for i, con := range contenders {
		results[i] = newResult(con)
	}
	for n := range b.Runs + 1 {
		for i, con := range contenders {
			cache := fmt.Sprintf("cold-%d-%d-%s", len(c.Entries), n, con.Key)
			s, err := copyOnce(ctx, b.w, c, con, cache)
			if err != nil {
				return nil, err
			}
			status("%d/%d: %s %.2f s", n, b.Runs, con.Label, s.Wall.Seconds())
			if n > 0 {
				bytes, err := narFileBytes(b.w.path(cache))
				if err != nil {
					return nil, err
				}
				results[i].add(s)
				results[i].note("NAR files", "MB", float64(bytes)/1e6)
			}
			if err := emptyFiles(b.w.path(cache)); err != nil {
				return nil, fmt.Errorf("empty cache: %w", err)
			}
		}
	}
	return results, nil
}

// emptyFiles makes room on the disk. The files stay until the benchmark has ended: ext4 does
// not use the inodes of deleted ones again for some minutes, and who makes files meanwhile
// searches past them, whoever has deleted them.
func emptyFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return os.Truncate(path, 0)
	})
}

// measureFull measures copies to caches that have everything. The untimed
// warm-up run fills them.
func measureFull(ctx context.Context, b *bench) ([]result, error) {
	contenders := b.pick("larder", "larder-1", "nix-host", "nix-sid")
	results := make([]result, len(contenders))
	for i, con := range contenders {
		results[i] = newResult(con)
		defer os.RemoveAll(b.w.path(con.Key + "-full")) // or the next start does (ignored)
	}
	runs := 4 * b.Runs // they are short
	for n := range runs + 1 {
		for i, con := range contenders {
			s, err := copyOnce(ctx, b.w, b.corpus, con, con.Key+"-full")
			if err != nil {
				return nil, err
			}
			status("%d/%d: %s %.3f s", n, runs, con.Label, s.Wall.Seconds())
			if n > 0 {
				results[i].add(s)
			}
		}
	}
	return results, nil
}

// copyOnce copies the corpus into the cache called name and checks that all of
// it is there: a contender that does less must not win.
func copyOnce(ctx context.Context, w *workshop, c *corpus, con contender, name string) (sample, error) {
	// Someone who syncs what he wrote must not pay for what the one before left
	// behind. This also means that nobody is charged for writing back later.
	syscall.Sync()
	s, err := measure(con.copy(ctx, name, c), w)
	if err != nil {
		return s, fmt.Errorf("copy with %s: %w", con.Label, err)
	}
	made, err := filepath.Glob(filepath.Join(w.path(name), con.files))
	if err != nil {
		return s, fmt.Errorf("count entries: %w", err)
	}
	if len(made) != len(c.Entries) {
		return s, fmt.Errorf("copy with %s: cache has %d entries, want %d", con.Label, len(made), len(c.Entries))
	}
	return s, nil
}

// narFileBytes is the size of all NAR files of a cache.
func narFileBytes(cache string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(filepath.Join(cache, "nar"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure cache: %w", err)
	}
	return sum, nil
}
