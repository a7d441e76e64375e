package bincache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Key returns 32 letters and digits that name what is in the cache. They change when,
// and only when, there is something new worth saving: when a file comes, changes or
// goes that belongs to an entry (its narinfo, NAR, listing, or debug info), a log, a
// realisation, a pin, or a run record, or when the cache remembers other settings.
//
// Of files that are small or may change in place their contents count, of others their
// size. Nothing else does: neither times, owners and modes, nor directories, nor
// unfinished files, nor where the cache is.
func (c *Cache) Key(ctx context.Context) (string, error) {
	var names []string
	for _, dir := range []string{".", "nar", "log", "debuginfo", "realisations", "build-trace-v2", ".larder/pins", runsDir} {
		found, err := c.keyFiles(dir)
		if err != nil {
			return "", fmt.Errorf("find key of cache: %w", err)
		}
		names = append(names, found...)
	}
	names = append(names, settingsFile)
	var files []string
	for file, err := range inParallel(ctx, names, c.keyOf) {
		if err != nil {
			return "", fmt.Errorf("find key of cache: %w", err)
		}
		files = append(files, file)
	}
	slices.Sort(files)
	sum := Hash(sha256.Sum256([]byte(strings.Join(files, ""))))
	return sum.Digits()[:32], nil
}

// pattern returns what compiles a regular expression when it is used first: all of them together
// would take every command, and so the hook, half a millisecond.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// ofNix matches files that some Nix has not finished.
var ofNix = pattern(`\.tmp\.[0-9]+\.[0-9]+$`)

// keyFiles returns the files below a directory of the cache on which its key depends.
func (c *Cache) keyFiles(dir string) (names []string, err error) {
	err = fs.WalkDir(c.root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // not in every cache, or removed meanwhile
		case err != nil:
			return err
		case name == dir:
			return nil
		case dir == "." && d.IsDir():
			return fs.SkipDir
		case dir == "." && !isNarInfo(name) && !strings.HasSuffix(name, ".ls"):
			return nil
		case !d.IsDir() && !strings.HasPrefix(d.Name(), ".") && !ofNix().MatchString(name):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// byContents matches the files whose contents count.
var byContents = pattern(`\.narinfo$|^realisations/|^build-trace-v2/|^\.larder/pins/|^\.larder/settings$`)

// keyOf returns what a file contributes to the key. A name has no NUL in it.
func (c *Cache) keyOf(name string) (line string, size int, err error) {
	if !byContents().MatchString(name) {
		info, err := c.root.Lstat(name)
		if err != nil {
			return "", 0, err
		}
		return fmt.Sprintf("%s\x00%d\x00", name, info.Size()), 0, nil
	}
	text, err := c.readFile(name, maxNarInfo)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Sprintf("%s\x00%x\x00", name, sha256.Sum256(text)), 0, nil
}
