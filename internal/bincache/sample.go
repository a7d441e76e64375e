package bincache

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// A Sample is one of a cache's entries.
type Sample struct {
	File string   // the narinfo's, in the cache
	Info *NarInfo // nil if it can't be read
	Err  error    // Entry's, if the entry is damaged
}

// Sample returns some of the entries, those that the directory names first: which ones
// is up to the file system.
func (c *Cache) Sample(limit int) ([]Sample, error) {
	dir, err := c.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("look into cache: %w", err)
	}
	defer dir.Close()
	var samples []Sample
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return samples, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look into cache: %w", err)
		}
		for _, name := range names {
			if !strings.HasSuffix(name, ".narinfo") {
				continue
			}
			if len(samples) == limit {
				return samples, nil
			}
			samples = append(samples, c.sample(name))
		}
	}
}

func (c *Cache) sample(file string) Sample {
	n, err := c.readNarInfo(file)
	if err != nil {
		return Sample{File: file, Err: err}
	}
	if narInfoName(n.StorePath) != file {
		return Sample{File: file, Info: n, Err: fmt.Errorf("%w: it is for %s", ErrDamaged, n.StorePath)}
	}
	_, err = c.Entry(n.StorePath)
	return Sample{File: file, Info: n, Err: err}
}

// readersNeed are the directories that some version of Nix makes when it opens a cache,
// be it to read: where it may not, all of the cache is of no use to it.
var readersNeed = []string{"nar", "log", "realisations", "build-trace-v2"}

// Missing returns the directories that the cache has lost, and that some version of Nix
// can't read it without.
func (c *Cache) Missing() []string {
	var missing []string
	for _, dir := range readersNeed {
		if info, err := c.root.Stat(dir); err != nil || !info.IsDir() {
			missing = append(missing, dir)
		}
	}
	return missing
}
