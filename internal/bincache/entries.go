package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

// Entries yields all entries, in no particular order: one for each that clients can
// use, and an error that names the file for each that they can't, most of which wrap
// [ErrDamaged]. If there is an entry with the error, only its NAR is not as it says. What
// comes or goes meanwhile may be among them or not.
func (c *Cache) Entries(ctx context.Context) iter.Seq2[*NarInfo, error] {
	return func(yield func(*NarInfo, error) bool) {
		names, err := c.readDir(".")
		if err != nil {
			yield(nil, fmt.Errorf("list cache: %w", err))
			return
		}
		narInfos := names[:0]
		for _, name := range names {
			if isNarInfo(name) {
				narInfos = append(narInfos, name)
			}
		}
		inParallel(ctx, narInfos, c.readEntry)(yield)
	}
}

// Named returns the store paths of all entries with a name, whatever their hash, in
// no particular order. It reads every narinfo of the cache.
func (c *Cache) Named(ctx context.Context, name string) ([]string, error) {
	var found []string
	for n, err := range c.Entries(ctx) {
		switch {
		case errors.Is(err, ErrDamaged):
			continue // (ignored) no help to anybody
		case err != nil:
			return nil, err
		}
		if _, after, _ := strings.Cut(path.Base(n.StorePath), "-"); after == name {
			found = append(found, n.StorePath)
		}
	}
	return found, nil
}

func isNarInfo(name string) bool { return strings.HasSuffix(name, narInfoEnding) }

// readEntry returns the entry whose narinfo has this name, and how large that is.
func (c *Cache) readEntry(name string) (n *NarInfo, size int, err error) {
	n, text, err := c.Read(strings.TrimSuffix(name, narInfoEnding))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // or it was removed meanwhile
		err = fmt.Errorf("read %s: %w", name, err)
	}
	return n, len(text), err
}

// readDir returns the names in a directory of the cache, in no particular order.
func (c *Cache) readDir(name string) ([]string, error) {
	d, err := c.openDir(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

const (
	readers   = 16 // so that the answers of a slow file system come at the same time
	readBatch = 64 // files, so that a fast one is not held up by handing them over

	// readBytes is how much is kept of a batch: narinfos may be of any size, but for
	// nearly all it takes longer to hand them over than to read them.
	readBytes = 1 << 20
)

// inParallel yields what read returns for each of some files, in no particular order,
// but nothing for those that are gone. With it read returns how many bytes it keeps.
func inParallel[T any](ctx context.Context, names []string, read func(name string) (value T, size int, err error)) iter.Seq2[T, error] {
	type result struct {
		value T
		err   error
	}
	return func(yield func(T, error) bool) {
		reading, stop := context.WithCancel(ctx)
		results := make(chan []result)
		var next atomic.Int64 // in names
		var all sync.WaitGroup
		for range min(readers, len(names)) {
			all.Go(func() {
				for reading.Err() == nil {
					end := int(next.Add(readBatch))
					if end-readBatch >= len(names) {
						return
					}
					var batch []result
					kept := 0
					handOver := func() {
						select {
						case results <- batch:
						case <-reading.Done():
						}
						batch, kept = nil, 0
					}
					for _, name := range names[end-readBatch : min(end, len(names))] {
						if value, size, err := read(name); !errors.Is(err, fs.ErrNotExist) {
							batch = append(batch, result{value, err})
							kept += size
						}
						if kept > readBytes {
							handOver()
						}
					}
					handOver()
				}
			})
		}
		defer all.Wait()
		defer stop()
		go func() {
			all.Wait()
			close(results)
		}()
		for batch := range results {
			for _, r := range batch {
				if !yield(r.value, r.err) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(*new(T), err)
		}
	}
}
