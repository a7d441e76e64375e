package bincache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"time"
)

// trashDir is made when something is thrown away. What others throw away is not in it.
const trashDir = ".larder/trash/recompressed"

// Swept is what SweepReplaced has done.
type Swept struct {
	Removed      int   // NARs
	RemovedBytes int64 // of those
	Waiting      int   // NARs that were replaced, and stay for now
	WaitingBytes int64
}

// SweepReplaced removes NARs that were replaced before some time. One that an entry names,
// again or still, stays, and is forgotten. If there is nothing to remove, nothing changes.
//
// Whoever publishes an entry with a NAR that waits puts that in place anew (see
// [Cache.PublishNar]): another file of the same name, which stays. Only who has found it
// there before it was replaced does not, and needs some time until the entry is published:
// so the time must not be that of a moment ago while others write to the cache.
func (c *Cache) SweepReplaced(ctx context.Context, before time.Time) (Swept, error) {
	swept, err := c.sweepReplaced(ctx, before)
	if err != nil {
		return swept, fmt.Errorf("remove NARs that were replaced: %w", err)
	}
	return swept, nil
}

func (c *Cache) sweepReplaced(ctx context.Context, before time.Time) (Swept, error) {
	r, err := c.Recompressed()
	if err != nil {
		return Swept{}, err
	}
	if len(c.due(r, before)) == 0 && len(c.trash()) == 0 {
		return c.waiting(r), nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return Swept{}, err
	}
	defer unlock()
	if r, err = c.Recompressed(); err != nil {
		return Swept{}, err
	}
	s := &sweeper{cache: c, log: r, was: make(map[string]fs.FileInfo)}
	err = s.run(ctx, c.due(r, before))
	// What is remembered of those that are gone is of no use any more.
	for url := range r.Tried {
		if _, err := c.root.Lstat(url); errors.Is(err, fs.ErrNotExist) {
			delete(r.Tried, url)
		}
	}
	err = errors.Join(err, c.rewriteRecompressed(r))
	swept := c.waiting(r)
	swept.Removed, swept.RemovedBytes = s.removed, s.bytes
	return swept, err
}

// due returns the NARs that were replaced before some time.
func (c *Cache) due(r *Recompressed, before time.Time) (urls []string) {
	for url, since := range r.Replaced {
		if since.Before(before) {
			urls = append(urls, url)
		}
	}
	slices.Sort(urls)
	return urls
}

// waiting counts the NARs that were replaced and are there.
func (c *Cache) waiting(r *Recompressed) (s Swept) {
	for url := range r.Replaced {
		if info, err := c.root.Lstat(url); err == nil {
			s.Waiting++
			s.WaitingBytes += info.Size()
		}
	}
	return s
}

// trash returns what a sweeper has left that was killed.
func (c *Cache) trash() []string {
	names, _ := c.readDir(trashDir) // (ignored) there is none
	return slices.DeleteFunc(names, func(name string) bool { return name[0] == '.' })
}

// A sweeper removes NARs that nobody needs. It holds the cache's lock.
type sweeper struct {
	cache   *Cache
	log     *Recompressed
	was     map[string]fs.FileInfo // of NARs that may go, before it was asked who names them
	removed int
	bytes   int64
}

func (s *sweeper) run(ctx context.Context, due []string) error {
	for _, url := range due {
		info, err := s.cache.root.Lstat(url)
		if err == nil && info.Mode().IsRegular() && isNarPlace(url) {
			s.was[url] = info
		} else if err == nil || errors.Is(err, fs.ErrNotExist) {
			delete(s.log.Replaced, url)
		}
	}
	named, err := s.cache.named(ctx)
	if err != nil {
		return err
	}
	if err := s.takeBack(named); err != nil {
		return err
	}
	if len(s.was) == 0 {
		return nil
	}
	if err := s.cache.makeDir(trashDir); err != nil {
		return err
	}
	for _, url := range slices.Sorted(maps.Keys(s.was)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !named[url] {
			if err := s.remove(url); err != nil {
				return err
			}
		}
		delete(s.log.Replaced, url)
	}
	return s.cache.SyncDir("nar")
}

// named returns the URLs of all entries. It is an error if one can't be read.
func (c *Cache) named(ctx context.Context) (map[string]bool, error) {
	names, err := c.readDir(".")
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isNarInfo(name) })
	all := make(map[string]bool)
	for url, err := range inParallel(ctx, names, c.urlOf) {
		if err != nil {
			return nil, err
		}
		all[path.Clean(url)] = true
	}
	return all, ctx.Err()
}

// urlOf returns the URL that a narinfo names, or "" if it is none.
func (c *Cache) urlOf(name string) (url string, size int, err error) {
	text, err := c.readFile(name, maxNarInfo)
	if err != nil {
		return "", 0, err
	}
	n, err := ParseNarInfo(text)
	if err != nil {
		return "", 0, nil // of no use to anybody
	}
	return n.URL, 0, nil
}

// remove removes a NAR that nobody names. Somebody who is adding an entry may have put it
// in place anew: that is seen once it is out of the way, where no one else can get at it.
func (s *sweeper) remove(nar string) error {
	c := s.cache
	trash := path.Join(trashDir, url.PathEscape(nar))
	if err := c.root.Rename(nar, trash); err != nil {
		return ignoreNotExist(err)
	}
	info, err := c.root.Lstat(trash)
	if err != nil {
		return err
	}
	if !os.SameFile(info, s.was[nar]) {
		return c.putBack(trash, nar)
	}
	if err := c.root.Remove(trash); err != nil {
		return err
	}
	s.removed++
	s.bytes += info.Size()
	return nil
}

// takeBack deals with what a sweeper has left that was killed: what an entry names goes
// back, the rest goes.
func (s *sweeper) takeBack(named map[string]bool) error {
	for _, name := range s.cache.trash() {
		nar, err := url.PathUnescape(name)
		trash := path.Join(trashDir, name)
		switch {
		case err != nil || !isNarPlace(nar):
			continue // (ignored) not ours
		case named[nar]:
			err = s.cache.putBack(trash, nar)
		default:
			err = ignoreNotExist(s.cache.root.Remove(trash))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putBack gives a NAR its name again, unless another has it.
func (c *Cache) putBack(trash, nar string) error {
	err := c.root.Link(trash, nar)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return c.root.Remove(trash)
	case cannotLink(err):
		return c.root.Rename(trash, nar)
	}
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
