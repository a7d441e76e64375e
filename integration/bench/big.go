package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

var bigRow = row{
	Name:    "big",
	Title:   "one path with one file of 4 GiB (--quick: 256 MiB) to an empty cache, zstd 3",
	Measure: measureBig,
	Goals: []goal{
		{What: "wall against nix 2.34", Limit: 0.60, Is: ratioOf(medianWall, "larder", "nix-sid", "2.34.")},
		{What: "wall against nix 2.34, parallel-compression", Limit: 0.95, Is: ratioOf(medianWall, "larder", "nix-sid-parallel", "2.34.")},
		{What: "peak memory", Limit: 100, Unit: "MiB", Is: valueOf(peakRSS, "larder")},
	},
}

// measureBig measures copies of one path that is larger than all buffers.
func measureBig(ctx context.Context, b *bench) ([]result, error) {
	// Each of them is long enough to be told from noise.
	size, few := int64(4096), *b
	few.Runs = min(b.Runs, 3)
	if b.Quick {
		size, few.Runs = 256, min(b.Runs, 2)
	}
	c, unmount, err := openBig(ctx, b, size)
	if err != nil {
		return nil, err
	}
	defer unmount()
	return measureCold(ctx, &few, c, b.pick("larder", "nix-sid", "nix-sid-parallel"))
}

// openBig mounts a store that has one path with a file of so many MiB, and makes it
// first if it is not there yet.
func openBig(ctx context.Context, b *bench, mebibytes int64) (c *corpus, unmount func(), err error) {
	dir := filepath.Join(b.Dir, fmt.Sprintf("big-%d", mebibytes))
	file := filepath.Join(dir, "corpus.json")
	c, err = readCorpus(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	complete := err == nil && c.Format == corpusFormat
	if !complete {
		if err := os.RemoveAll(dir); err != nil {
			return nil, nil, fmt.Errorf("remove old big path: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "nix"), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make big path: %w", err)
	}
	if unmount, err = b.w.mountStore(filepath.Join(dir, "nix")); err != nil || complete {
		return c, unmount, err
	}
	status("making a path of %d MiB, once (%s)", mebibytes, dir)
	start := time.Now()
	if c, err = addBig(ctx, b, mebibytes<<20); err == nil {
		err = writeCorpus(file, c)
	}
	if err != nil {
		unmount()
		return nil, nil, err
	}
	status("made it in %.0f s", time.Since(start).Seconds())
	return c, unmount, nil
}

// addBig adds the path to the mounted store.
func addBig(ctx context.Context, b *bench, size int64) (*corpus, error) {
	source := b.w.path("larder-bench-big")
	if err := os.Mkdir(source, 0o755); err != nil {
		return nil, fmt.Errorf("make big path: %w", err)
	}
	defer os.RemoveAll(source) // or the next start does (ignored)
	if err := writeBig(ctx, filepath.Join(source, "content"), size); err != nil {
		return nil, fmt.Errorf("make big path: %w", err)
	}
	add := exec.CommandContext(ctx, "nix-store", "--add", source)
	add.Env = env(b.w.dir)
	out, err := add.Output()
	if err != nil {
		return nil, fmt.Errorf("make big path: nix-store --add: %w", err)
	}
	c := &corpus{Format: corpusFormat, Root: strings.TrimSpace(string(out))}
	c.Entries, err = queryStore(ctx, b.w, c.Root)
	return c, err
}

var errEnough = errors.New("enough")

// writeBig writes the files of /usr one after the other, as many as there is room
// for. Where a machine has less, it begins again: gigabytes are farther away than
// any of the compressors look back.
func writeBig(ctx context.Context, file string, size int64) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	left := size
	for left > 0 {
		before := left
		err := filepath.WalkDir("/usr", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it can't be read, or has no content: there are others
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			in, err := os.Open(path)
			if err != nil {
				return nil // the same
			}
			defer in.Close()
			n, err := io.Copy(out, io.LimitReader(in, left))
			if left -= n; left == 0 && err == nil {
				err = errEnough
			}
			return err
		})
		if errors.Is(err, errEnough) {
			break
		}
		if err == nil && left == before {
			err = errors.New("/usr has no files")
		}
		if err != nil {
			return err
		}
	}
	return out.Close()
}
