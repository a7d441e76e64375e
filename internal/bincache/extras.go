package bincache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	listingEnding = ".ls"
	logsDir       = "log"
)

// ListingName returns the file that lists what is in the NAR of a store path.
func ListingName(storePath string) string { return HashPart(storePath) + listingEnding }

// LogName returns the file of the log of a derivation's build.
func LogName(drv string) string { return logsDir + "/" + path.Base(drv) }

// Has tells whether there is a regular file of that name in the cache, not through a
// link.
func (c *Cache) Has(name string) bool {
	dir, err := c.dir(path.Dir(name))
	return err == nil && hasIn(dir, path.Base(name)) // (ignored) who writes it will say
}

// hasIn is Has for a file in an open directory.
func hasIn(dir *os.File, name string) bool {
	var s unix.Stat_t
	err := retry(func() error { return unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW) })
	return err == nil && s.Mode&unix.S_IFMT == unix.S_IFREG
}

// PublishExtra publishes a file that belongs to an entry, or to a derivation, but
// without which a cache is whole. What has that name already is kept, unless it is to be
// replaced: then, if it is another file, the cache's lock is taken, and waited for.
func (c *Cache) PublishExtra(ctx context.Context, t *Temp, name string, replace bool) error {
	err := t.Publish(name)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !replace || c.isSame(t, name) {
		t.Discard()
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return t.Replace(name)
}

// RemoveListing removes the listing of a store path, if there is one, under the cache's
// lock. It is for those who have seen that it lists other contents than the entry has.
func (c *Cache) RemoveListing(ctx context.Context, storePath string) error {
	_, err := c.RemoveExtra(ctx, ListingName(storePath), func() (bool, error) { return true, nil })
	return err
}

// RemoveExtra removes a listing or a log under the cache's lock, if it is there, and still is
// of no use. It tells whether it did.
func (c *Cache) RemoveExtra(ctx context.Context, name string, useless func() (bool, error)) (removed bool, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	if _, err := c.root.Lstat(name); err != nil {
		return false, ignoreNotExist(err)
	}
	if bad, err := useless(); !bad || err != nil {
		return false, err
	}
	if err := c.root.Remove(name); err != nil {
		return false, ignoreNotExist(err)
	}
	return true, c.SyncDir(path.Dir(name))
}

// Extras returns the files of listings, realisations and logs, whatever they are: also those
// that can't be read.
func (c *Cache) Extras() (listings, realisations, logs []string, err error) {
	names, err := c.readDir(".")
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list cache: %w", err)
	}
	for _, name := range names {
		if hash, ok := strings.CutSuffix(name, listingEnding); ok && len(hash) == hashLen {
			listings = append(listings, name)
		}
	}
	for _, dir := range RealisationDirs {
		err := fs.WalkDir(c.FS(), dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && (realisationName().MatchString(name) || buildTraceName().MatchString(name)) {
				realisations = append(realisations, name)
			}
			return ignoreNotExist(err)
		})
		if err != nil {
			return nil, nil, nil, fmt.Errorf("list realisations: %w", err)
		}
	}
	names, err = c.readDir(logsDir)
	if err = ignoreNotExist(err); err != nil {
		return nil, nil, nil, fmt.Errorf("list logs: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".drv") {
			logs = append(logs, LogName(name))
		}
	}
	return listings, realisations, logs, nil
}

// OpenExtra opens a listing or a log. The error wraps [fs.ErrNotExist] if there is none, and
// [ErrDamaged] if it is not a file of the cache.
func (c *Cache) OpenExtra(name string) (*os.File, error) {
	f, _, err := c.openRegular(name)
	if errors.As(err, new(unfit)) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return f, err
}

// isSame tells whether a file of the cache is a regular one with the contents of another
// one.
func (c *Cache) isSame(t *Temp, name string) bool {
	if !c.Has(name) {
		return false
	}
	f, err := c.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // (ignored) it is of no use to anybody
	}
	defer f.Close()
	have, err := f.Stat()
	want, err2 := t.Stat()
	if err != nil || err2 != nil || have.Size() != want.Size() {
		return false
	}
	same, err := sameContents(f, t.File)
	return same && err == nil
}

// CreateFrom writes what r has into an unfinished file: all of it, or none.
func (c *Cache) CreateFrom(r io.Reader) (*Temp, error) {
	t, err := c.CreateTemp()
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(t.File, r); err != nil {
		t.Discard()
		return nil, err
	}
	t.StartSync()
	return t, nil
}
