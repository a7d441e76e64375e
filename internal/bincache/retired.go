package bincache

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// retiredFile remembers files that nobody needs any more: NARs that no entry names, and
// what belonged to entries that are gone. They stay for a while, for those who have read
// such an entry before. The list tells until when: times of files mean nothing in a cache
// that is copied to and fro. The package comment has the format.
var retiredFile = lineFile{name: ".larder/retired", header: "larder-retired ", version: 1, max: 256 << 20}

const retiredDir = ".larder/trash/nars" // what is being removed

// Retire remembers of NARs, listings, logs and realisations, by their names, that nobody is
// about to need them any more, and until when they stay for those who do not know that.
// Those that are needed when they are to be removed, are not. The cache's lock is held.
func (c *Cache) Retire(until time.Time, names ...string) error {
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(retiredLine(until, name))
	}
	return c.appendLines(retiredFile, lines.String())
}

func retiredLine(until time.Time, name string) string {
	return "until " + until.UTC().Format(runTime) + " " + name + "\n"
}

// Retired tells until when files stay that are to be removed.
func (c *Cache) Retired() (map[string]time.Time, error) {
	lines, err := c.lines(retiredFile)
	if err != nil {
		return nil, err
	}
	retired := make(map[string]time.Time)
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		when, url, _ := strings.Cut(rest, " ")
		until, err := time.Parse(runTime, when)
		if kind == "until" && err == nil && checkURL(url) == nil && isRetirable(url) { // or it is of other releases
			retired[url] = until
		}
	}
	return retired, nil
}

func (c *Cache) rewriteRetired(retired map[string]time.Time) error {
	var lines strings.Builder
	for _, url := range slices.Sorted(maps.Keys(retired)) {
		lines.WriteString(retiredLine(retired[url], url))
	}
	return c.rewriteLines(retiredFile, lines.String())
}

// Swept is what SweepRetired has done.
type Swept struct {
	Removed      int   // files
	RemovedBytes int64 // of those
	Waiting      int   // files that stay for now
	WaitingBytes int64
}

// SweepRetired removes retired files whose time is over, or all but logs if nobody else
// reads the cache. One that is needed, again or still, stays, and is forgotten. If there
// is nothing to remove, nothing changes, and nobody is waited for.
func (c *Cache) SweepRetired(ctx context.Context, now time.Time, alone bool) (swept Swept, err error) {
	retired, err := c.Retired()
	if err != nil {
		return swept, err
	}
	if len(due(retired, now, alone)) == 0 && len(c.moved()) == 0 {
		return c.waiting(retired), nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return swept, err
	}
	defer unlock()
	return c.SweepRetiredLocked(ctx, now, alone, Known{})
}

// SweepRetiredLocked is SweepRetired for who holds the cache's lock. What he knows of entries
// is not read again.
func (c *Cache) SweepRetiredLocked(ctx context.Context, now time.Time, alone bool, known Known) (swept Swept, err error) {
	retired, err := c.Retired()
	if err != nil {
		return swept, err
	}
	urls := due(retired, now, alone)
	if len(urls) > 0 || len(c.moved()) > 0 {
		if swept, err = c.RemoveFiles(ctx, urls, known); err != nil {
			return swept, err
		}
		for _, url := range urls {
			delete(retired, url)
		}
		if err := c.rewriteRetired(retired); err != nil {
			return swept, err
		}
	}
	wait := c.waiting(retired)
	swept.Waiting, swept.WaitingBytes = wait.Waiting, wait.WaitingBytes
	return swept, nil
}

// due returns the files that SweepRetired removes, sorted.
func due(retired map[string]time.Time, now time.Time, alone bool) (urls []string) {
	for url, until := range retired {
		if !until.After(now) || alone && path.Dir(url) != logsDir {
			urls = append(urls, url)
		}
	}
	slices.Sort(urls)
	return urls
}

// Waiting counts the files that were retired, are there, and are not needed again.
func (c *Cache) Waiting(needed func(name string) bool) (Swept, error) {
	retired, err := c.Retired()
	if err != nil {
		return Swept{}, err
	}
	maps.DeleteFunc(retired, func(name string, _ time.Time) bool { return needed(name) })
	return c.waiting(retired), nil
}

// waiting counts the files that were retired and are there.
func (c *Cache) waiting(retired map[string]time.Time) (s Swept) {
	for url := range retired {
		if info, err := c.root.Lstat(url); err == nil && info.Mode().IsRegular() {
			s.Waiting++
			s.WaitingBytes += info.Size()
		}
	}
	return s
}

// moved returns what somebody has moved to the trash, and was killed before he could deal
// with it.
func (c *Cache) moved() []string {
	names, _ := c.readDir(retiredDir) // (ignored) there is none
	return slices.DeleteFunc(names, func(name string) bool { return name[0] == '.' })
}

// RemoveFiles removes those NARs, listings, logs and realisations that nobody needs. The cache's
// lock is held.
func (c *Cache) RemoveFiles(ctx context.Context, names []string, known Known) (Swept, error) {
	s, err := c.removeFiles(ctx, names, known)
	if err != nil {
		err = fmt.Errorf("remove files that nobody needs: %w", err)
	}
	return s, err
}

// removeFiles is RemoveFiles. Somebody may be adding an entry with one of them at this moment:
// so NARs are moved away first, and when that is told, those that are named by then go back.
// What comes later is the business of who adds it.
func (c *Cache) removeFiles(ctx context.Context, names []string, known Known) (s Swept, err error) {
	if err := c.makeDir(retiredDir); err != nil {
		return s, err
	}
	n := newNeeds(c, known)
	if err := n.look(ctx); err != nil {
		return s, err
	}
	if err := c.TellRemoval(true); err != nil {
		return s, err
	}
	for _, name := range names {
		info, err := c.root.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || !isNarPlace(name) || n.nar(name) {
			continue // (ignored) gone, or not ours, or not to be moved
		}
		if err := c.root.Rename(name, path.Join(retiredDir, url.PathEscape(name))); err != nil {
			return s, err
		}
	}
	if err := c.TellRemoval(true); err != nil {
		return s, err
	}
	if err := n.look(ctx); err != nil {
		return s, err
	}
	for _, name := range c.moved() {
		if err := s.dealWith(c, name, n); err != nil {
			return s, err
		}
	}
	for _, name := range names {
		if isNarPlace(name) || n.extra(name) {
			continue
		}
		if err := s.remove(c, name); err != nil {
			return s, err
		}
		_ = c.root.Remove(path.Dir(name)) // (ignored) a directory of its own, or not empty: each has .keep
	}
	if err := c.SyncDir("nar"); err != nil {
		return s, err
	}
	return s, c.TellRemoval(false)
}

// dealWith puts a NAR of the trash back if an entry names it, and removes it if not.
func (s *Swept) dealWith(c *Cache, name string, n *needs) error {
	nar, err := url.PathUnescape(name)
	if err != nil || !isNarPlace(nar) {
		return nil // (ignored) not ours
	}
	trash := path.Join(retiredDir, name)
	if n.nar(nar) {
		return c.putBack(trash, nar)
	}
	return s.remove(c, trash)
}

// DropExtra removes a listing or a log, without which a cache is whole, at once. The
// cache's lock is held.
func (c *Cache) DropExtra(name string) error {
	if path.Dir(name) != logsDir && path.Ext(name) != listingEnding || !isRetirable(name) {
		return nil
	}
	return new(Swept).remove(c, name)
}

func (s *Swept) remove(c *Cache, name string) error {
	info, err := c.root.Lstat(name)
	if err == nil && info.Mode().IsRegular() {
		err = c.root.Remove(name)
		s.Removed++
		s.RemovedBytes += info.Size()
	}
	return ignoreNotExist(err)
}
