package cachewriter

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/nix-larder/larder/internal/bincache"
)

// publishAll publishes what is ready until the Writer is closed.
func (w *Writer) publishAll() {
	for {
		batch := w.nextBatch()
		if batch == nil {
			return
		}
		if w.publish(batch) == nil {
			w.end(batch, nil)
			continue
		}
		// One by one, so that one that can't be published takes only those with it
		// that need it.
		for i := range batch {
			one := batch[i : i+1]
			if !w.isFinished(one[0]) {
				w.end(one, w.publish(one))
			}
		}
	}
}

// end ends the entries of a batch.
func (w *Writer) end(batch []*entry, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range batch {
		if err != nil {
			w.finish(e, cacheError(fmt.Errorf("copy %s: %w", e.info.Path, err)))
			continue
		}
		if e.ours && !e.finished {
			w.published(e.dump.narInfo)
		}
		w.finish(e, nil)
	}
}

func (w *Writer) isFinished(e *entry) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return e.finished
}

// nextBatch waits for entries to publish, and returns them references first. It
// returns nil when there will be none.
func (w *Writer) nextBatch() []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.ready) == 0 && w.ctx.Err() == nil {
			w.changed.Wait()
		}
		if w.ctx.Err() != nil {
			return nil
		}
		// What waited only for entries of this batch becomes ready, and comes behind
		// them.
		var batch []*entry
		for i := 0; i < len(w.ready); i++ {
			e := w.ready[i]
			if e.finished {
				continue // one of its references failed
			}
			e.batched = true
			batch = append(batch, e)
			for _, r := range e.referrers {
				r.unpublished--
				w.makeReady(r)
			}
		}
		w.ready = nil
		if len(batch) > 0 {
			return batch
		}
	}
}

// publish makes a batch visible, all of it durable. After an error some of it may
// be, in order, so that the cache is whole; it can be called again.
func (w *Writer) publish(batch []*entry) error {
	batch = slices.DeleteFunc(slices.Clone(batch), func(e *entry) bool { return e.dump == nil })
	if len(batch) == 0 {
		return nil
	}
	// All files of all entries, before any of them has its name: the fewer the
	// times, the fewer the commits of the file system's journal to wait for.
	if err := bincache.EachOf(batch, func(e *entry) error { return e.dump.sync() }); err != nil {
		return err
	}
	for _, e := range batch {
		if d := e.dump; !d.narPublished {
			publish := w.cache.PublishNar
			if e.rewrite {
				publish = (*bincache.Temp).Replace
			}
			if err := publish(d.nar, d.narInfo.URL); err != nil {
				return err
			}
			d.narPublished = true
		}
	}
	if err := w.cache.SyncDir("nar"); err != nil {
		return err
	}
	// From here on every NAR is durable, and has its name.
	for _, e := range batch {
		if err := w.publishListing(e); err != nil {
			return err
		}
		if d := e.dump; !d.infoPublished {
			published, was, err := w.publishNarInfo(e)
			if err != nil {
				return err
			}
			d.infoPublished = true
			e.ours = published
			if was != nil {
				e.replaced = true
				w.replaced(was, d.narInfo)
			}
			if err := w.takeBackListing(e); err != nil {
				return err
			}
		}
	}
	w.publishLogs(batch)
	if err := w.cache.SyncDir("."); err != nil {
		return err
	}
	return w.signPublished(batch)
}

// publishNarInfo publishes the narinfo of an entry. It tells whether it did, and what it
// has replaced.
func (w *Writer) publishNarInfo(e *entry) (published bool, was *bincache.NarInfo, err error) {
	if e.rewrite {
		return true, nil, w.cache.RewriteNarInfo(w.ctx, e.dump.infoFile, e.info.Path)
	}
	if w.replace {
		return w.cache.ReplaceNarInfo(w.ctx, e.dump.infoFile, e.dump.narInfo)
	}
	published, err = w.cache.PublishNarInfo(w.ctx, e.dump.infoFile, e.info.Path)
	return published, nil, err
}

// cacheError adds [ErrUnavailable] to an error of the cache that no path is to
// blame for.
func cacheError(err error) error {
	if errors.Is(err, bincache.ErrNoRoom) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, errno := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EIO,
		syscall.ENOENT, syscall.ENOTDIR, syscall.ESTALE, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.EMFILE, syscall.ENFILE,
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return err
}
