package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// measureCopies measures the rows cold and full.
//
// The untimed warm-up run of each contender brings store and programs into the
// page cache, and leaves the full cache for the row of that name.
func measureCopies(ctx context.Context, cfg config, w *workshop, c *corpus, contenders []contender) ([]result, error) {
	cold := make([]result, len(contenders))
	full := make([]result, len(contenders))
	for i, con := range contenders {
		status("warming up %s", con.Label)
		if _, err := copyOnce(ctx, w, c, con, con.Key+"-full"); err != nil {
			return nil, err
		}
		cold[i] = newResult("cold", con)
		full[i] = newResult("full", con)
	}
	var results []result
	if slices.Contains(cfg.Rows, "cold") {
		for n := range cfg.Runs {
			for i, con := range contenders {
				name := con.Key + "-cold"
				s, err := copyOnce(ctx, w, c, con, name)
				if err != nil {
					return nil, err
				}
				status("cold %d/%d: %s %.2f s", n+1, cfg.Runs, con.Label, s.Wall.Seconds())
				cold[i].add(s)
				if cold[i].Bytes, err = narFileBytes(w.path(name)); err != nil {
					return nil, err
				}
				if err := os.RemoveAll(w.path(name)); err != nil {
					return nil, fmt.Errorf("remove cache: %w", err)
				}
			}
		}
		results = append(results, cold...)
	}
	if slices.Contains(cfg.Rows, "full") {
		for n := range cfg.Runs {
			for i, con := range contenders {
				s, err := copyOnce(ctx, w, c, con, con.Key+"-full")
				if err != nil {
					return nil, err
				}
				status("full %d/%d: %s %.3f s", n+1, cfg.Runs, con.Label, s.Wall.Seconds())
				full[i].add(s)
			}
		}
		results = append(results, full...)
	}
	return results, nil
}

// copyOnce copies the corpus into the cache called name and checks that all of
// it is there: a contender that does less must not win.
func copyOnce(ctx context.Context, w *workshop, c *corpus, con contender, name string) (sample, error) {
	// Someone who syncs what he wrote must not pay for what the one before left
	// behind. This also means that nobody is charged for writing back later.
	syscall.Sync()
	s, err := measure(con.copy(ctx, name, c.Root), w)
	if err != nil {
		return s, fmt.Errorf("copy with %s: %w", con.Label, err)
	}
	narinfos, err := filepath.Glob(filepath.Join(w.path(name), "*.narinfo"))
	if err != nil {
		return s, fmt.Errorf("count entries: %w", err)
	}
	if len(narinfos) != len(c.Entries) {
		return s, fmt.Errorf("copy with %s: cache has %d entries, want %d", con.Label, len(narinfos), len(c.Entries))
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
