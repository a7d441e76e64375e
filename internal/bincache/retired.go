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

// retiredFile remembers NARs that entries do not name any more. They stay for a while, for
// those who have read such an entry before. The list tells since when: times of files mean
// nothing in a cache that is copied to and fro. The package comment has the format.
var retiredFile = lineFile{name: ".larder/retired", header: "larder-retired ", version: 1, max: 256 << 20}

const retiredDir = ".larder/trash/nars" // what is being removed

// RetireNars remembers of NARs, by their URLs, that entries are about to name them no
// more. Those that an entry names when they are to be removed, are not. The cache's lock is
// held.
func (c *Cache) RetireNars(now time.Time, urls ...string) error {
	var lines strings.Builder
	for _, url := range urls {
		lines.WriteString(retiredLine(now, url))
	}
	return c.appendLines(retiredFile, lines.String())
}

func retiredLine(since time.Time, url string) string {
	return "retired " + since.UTC().Format(runTime) + " " + url + "\n"
}

// Retired tells since when NARs wait to be removed, by their URLs.
func (c *Cache) Retired() (map[string]time.Time, error) {
	lines, err := c.lines(retiredFile)
	if err != nil {
		return nil, err
	}
	retired := make(map[string]time.Time)
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		when, url, _ := strings.Cut(rest, " ")
		since, err := time.Parse(runTime, when)
		if kind == "retired" && err == nil && checkURL(url) == nil && isNarPlace(url) { // or it is of other releases
			retired[url] = since
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
	Removed      int   // NARs
	RemovedBytes int64 // of those
	Waiting      int   // NARs that stay for now
	WaitingBytes int64
}

// SweepRetired removes NARs that were retired at some time or before. One that an entry
// names, again or still, stays, and is forgotten. If there is nothing to remove, nothing
// changes, and nobody is waited for.
func (c *Cache) SweepRetired(ctx context.Context, before time.Time) (swept Swept, err error) {
	retired, err := c.Retired()
	if err != nil {
		return swept, err
	}
	if len(due(retired, before)) == 0 && len(c.moved()) == 0 {
		return c.waiting(retired), nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return swept, err
	}
	defer unlock()
	return c.SweepRetiredLocked(ctx, before)
}

// SweepRetiredLocked is SweepRetired for who holds the cache's lock.
func (c *Cache) SweepRetiredLocked(ctx context.Context, before time.Time) (swept Swept, err error) {
	retired, err := c.Retired()
	if err != nil {
		return swept, err
	}
	urls := due(retired, before)
	if len(urls) > 0 || len(c.moved()) > 0 {
		if swept, err = c.removeNars(ctx, urls); err != nil {
			return swept, fmt.Errorf("remove NARs that nobody needs: %w", err)
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

// due returns the NARs that were retired at some time or before, sorted.
func due(retired map[string]time.Time, before time.Time) (urls []string) {
	for url, since := range retired {
		if !since.After(before) {
			urls = append(urls, url)
		}
	}
	slices.Sort(urls)
	return urls
}

// waiting counts the NARs that were retired and are there.
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

// removeNars removes those NARs that no entry names. Somebody may be adding an entry with
// one of them at this moment: so they are moved away first, and when that is told, those
// that are named by then go back. What comes later is the business of who adds it.
func (c *Cache) removeNars(ctx context.Context, urls []string) (s Swept, err error) {
	if err := c.makeDir(retiredDir); err != nil {
		return s, err
	}
	named := &namedNars{cache: c}
	if err := named.look(ctx); err != nil {
		return s, err
	}
	if err := c.TellRemoval(true); err != nil {
		return s, err
	}
	for _, nar := range urls {
		info, err := c.root.Lstat(nar)
		if err != nil || !info.Mode().IsRegular() || named.urls[path.Clean(nar)] {
			continue // (ignored) gone, or not ours
		}
		if err := c.root.Rename(nar, path.Join(retiredDir, url.PathEscape(nar))); err != nil {
			return s, err
		}
	}
	if err := c.TellRemoval(true); err != nil {
		return s, err
	}
	if err := named.look(ctx); err != nil {
		return s, err
	}
	for _, name := range c.moved() {
		size, err := c.dealWith(name, named)
		if err != nil {
			return s, err
		}
		if size >= 0 {
			s.Removed++
			s.RemovedBytes += size
		}
	}
	if err := c.SyncDir("nar"); err != nil {
		return s, err
	}
	return s, c.TellRemoval(false)
}

// dealWith puts a NAR of the trash back if an entry names it, and removes it if not. It
// returns the size of what it removed, or -1.
func (c *Cache) dealWith(name string, named *namedNars) (size int64, err error) {
	nar, err := url.PathUnescape(name)
	if err != nil || !isNarPlace(nar) {
		return -1, nil // (ignored) not ours
	}
	trash := path.Join(retiredDir, name)
	if named.urls[path.Clean(nar)] {
		return -1, c.putBack(trash, nar)
	}
	info, err := c.root.Lstat(trash)
	if err == nil {
		err = c.root.Remove(trash)
	}
	if err != nil {
		return -1, err
	}
	return info.Size(), nil
}

// namedNars are the URLs of all entries that there were at the last look.
type namedNars struct {
	cache *Cache
	files map[string]bool // narinfos that were read
	urls  map[string]bool
}

// look reads what is new. It is an error if a narinfo can't be read. The cache's lock is
// held, so that none changes.
func (n *namedNars) look(ctx context.Context) error {
	if n.files == nil {
		n.files, n.urls = make(map[string]bool), make(map[string]bool)
	}
	names, err := n.cache.readDir(".")
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isNarInfo(name) || n.files[name] })
	for url, err := range inParallel(ctx, names, n.cache.urlOf) {
		if err != nil {
			return err
		}
		n.urls[path.Clean(url)] = true
	}
	for _, name := range names {
		n.files[name] = true
	}
	return ctx.Err()
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
	return strings.Clone(n.URL), 0, nil
}
