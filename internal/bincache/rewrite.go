package bincache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// A rewrite is a narinfo, or a realisation, that is to have another text.
type rewrite struct {
	file string

	// change returns the text that the file has, and the one that it should have, or
	// nil if it is to be left alone. It is called again if somebody has changed the file
	// meanwhile, and by several goroutines for several files.
	change func() (before, after []byte, err error)

	before []byte
	temp   *Temp // what it should have; nil if it is to be left alone
	done   bool
}

// rewriteAll gives files their other texts: the cache's lock is only taken, and
// waited for, to put in place what has been made durable before. Whoever reads sees one
// text or the other. What is done tells which were rewritten, also after an error.
func (c *Cache) rewriteAll(ctx context.Context, batch []*rewrite) error {
	defer func() {
		for _, r := range batch {
			if r.temp != nil {
				r.temp.Discard()
			}
		}
	}()
	// Somebody may change a file between its look and the lock.
	for left := batch; len(left) > 0; {
		if err := EachOf(left, func(r *rewrite) error { return r.prepare(c) }); err != nil {
			return err
		}
		left = slices.DeleteFunc(slices.Clone(left), func(r *rewrite) bool { return r.temp == nil })
		// Only now that all are written: the file system commits all of them with the
		// first.
		if err := EachOf(left, func(r *rewrite) error { return r.temp.Sync() }); err != nil {
			return err
		}
		if err := c.putRewritten(ctx, left); err != nil {
			return err
		}
		left = slices.DeleteFunc(left, func(r *rewrite) bool { return r.done })
	}
	changed := make(map[string]bool) // directories
	for _, r := range batch {
		if r.done {
			changed[path.Dir(r.file)] = true
		}
	}
	return EachOf(slices.Collect(maps.Keys(changed)), c.SyncDir)
}

func (r *rewrite) prepare(c *Cache) error {
	r.temp = nil
	before, after, err := r.change()
	if err != nil || after == nil {
		return err
	}
	r.before = before
	r.temp, err = c.TempAdded(after)
	return err
}

// putRewritten puts files in place that are still what they were when they were
// prepared.
func (c *Cache) putRewritten(ctx context.Context, batch []*rewrite) error {
	if len(batch) == 0 {
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, r := range batch {
		now, err := c.readFile(r.file, maxNarInfo)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || !bytes.Equal(now, r.before) {
			r.temp.Discard()
			continue
		}
		if err := r.temp.Replace(r.file); err != nil {
			return err
		}
		r.done = true
	}
	return nil
}
