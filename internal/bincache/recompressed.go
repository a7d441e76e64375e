package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// Recompressed is what a cache remembers of NARs that were compressed once more, by
// their URLs. The package comment has the format.
type Recompressed struct {
	// Replaced says since when NARs wait whose entries name another one.
	Replaced map[string]time.Time

	// Tried says with what NARs need not be compressed once more: they were, or would
	// not get smaller.
	Tried map[string]string
}

const (
	recompressedFile    = ".larder/recompressed"
	recompressedVersion = 1
	recompressedHeader  = "larder-recompressed "
	maxRecompressed     = 256 << 20 // a million NARs
)

// Recompressed returns what the cache remembers of NARs that were compressed once more.
func (c *Cache) Recompressed() (*Recompressed, error) {
	r := &Recompressed{Replaced: make(map[string]time.Time), Tried: make(map[string]string)}
	text, err := c.readFile(recompressedFile, maxRecompressed)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was recompressed: %w", err)
	}
	body, err := checkHeader(string(text), recompressedHeader, recompressedVersion)
	if err != nil {
		return nil, fmt.Errorf("read what was recompressed: %s: %w", recompressedFile, err)
	}
	for line := range strings.Lines(body) {
		line, whole := strings.CutSuffix(line, "\n")
		kind, rest, _ := strings.Cut(line, " ")
		value, url, ok := strings.Cut(rest, " ")
		if !whole || !ok || checkURL(url) != nil {
			continue // (ignored) cut off, or of other releases
		}
		switch kind {
		case "replaced":
			if t, err := time.Parse(runTime, value); err == nil {
				r.Replaced[url] = t
			}
		case "tried":
			r.Tried[url] = value
		}
	}
	return r, nil
}

// replacedNars remembers what was read of the list, as long as that is the same.
type replacedNars struct {
	mu    sync.Mutex // guards what is below
	list  fs.FileInfo
	since map[string]time.Time
}

// waits tells whether a NAR was replaced, and so may be about to be removed. Whoever
// wants to name it has to put it in place anew, since a sweeper spares what is not the
// file any more of which it has found that nobody names it.
func (c *Cache) waits(url string) bool {
	c.replaced.mu.Lock()
	defer c.replaced.mu.Unlock()
	list, err := c.root.Stat(recompressedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true // (ignored) to put it in place anew is never wrong
	}
	if have := c.replaced.list; have == nil || !os.SameFile(have, list) || have.Size() != list.Size() || !have.ModTime().Equal(list.ModTime()) {
		r, err := c.Recompressed()
		if err != nil {
			return true // (ignored) as above
		}
		c.replaced.list, c.replaced.since = list, r.Replaced
	}
	_, ok := c.replaced.since[url]
	return ok
}

func replacedLine(since time.Time, url string) string {
	return "replaced " + since.UTC().Format(runTime) + " " + url + "\n"
}

func triedLine(method, url string) string { return "tried " + method + " " + url + "\n" }

// appendRecompressed adds lines, durably. The cache's lock is held.
func (c *Cache) appendRecompressed(lines string) error {
	if lines == "" {
		return nil
	}
	if err := c.writeOnce(recompressedFile, fmt.Sprintf("%s%d\n", recompressedHeader, recompressedVersion)); err != nil {
		return err
	}
	f, err := c.root.OpenFile(recompressedFile, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	first := make([]byte, 64)
	n, _ := f.ReadAt(first, 0) // (ignored) it may be shorter
	if _, err := checkHeader(string(first[:n]), recompressedHeader, recompressedVersion); err != nil {
		return fmt.Errorf("%s: %w", recompressedFile, err)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Whoever was killed here has left half a line.
	if last := make([]byte, 1); info.Size() > 0 {
		if _, err := f.ReadAt(last, info.Size()-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			lines = "\n" + lines
		}
	}
	if _, err := f.WriteString(lines); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return c.SyncDir(path.Dir(recompressedFile))
}

// rewriteRecompressed writes all of it anew. The cache's lock is held.
func (c *Cache) rewriteRecompressed(r *Recompressed) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d\n", recompressedHeader, recompressedVersion)
	for url, since := range r.Replaced {
		b.WriteString(replacedLine(since, url))
	}
	for url, method := range r.Tried {
		b.WriteString(triedLine(method, url))
	}
	t, err := c.TempText([]byte(b.String()))
	if err != nil {
		return err
	}
	if err = t.Sync(); err == nil {
		err = t.Replace(recompressedFile)
	}
	if err != nil {
		t.Discard()
		return err
	}
	return c.SyncDir(path.Dir(recompressedFile))
}
