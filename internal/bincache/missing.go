package bincache

import (
	"errors"
	"io/fs"
)

// ReaderDirs are the directories that some version of Nix makes when it opens a cache,
// be it to read: where it may not, all of the cache is of no use to it.
var ReaderDirs = []string{"nar", logsDir, realisationsDir, buildTraceDir}

// insteadOf says which directory other versions of Nix make in place of one.
var insteadOf = map[string]string{realisationsDir: buildTraceDir, buildTraceDir: realisationsDir}

// Missing returns the directories that the cache has lost, and that some version of Nix
// can't read it without if it may not make them. Those in unknown are such that the Nix that
// wrote the cache need not know: it has made what it knows in their place.
func (c *Cache) Missing() (lost, unknown []string) {
	for _, dir := range ReaderDirs {
		switch {
		case c.isDir(dir):
		case insteadOf[dir] != "" && c.isDir(insteadOf[dir]) && c.isFree(dir):
			unknown = append(unknown, dir)
		default:
			lost = append(lost, dir)
		}
	}
	return lost, unknown
}

func (c *Cache) isDir(name string) bool {
	info, err := c.root.Stat(name)
	return err == nil && info.IsDir()
}

// isFree tells whether nothing is in the way of a directory.
func (c *Cache) isFree(name string) bool {
	_, err := c.root.Lstat(name)
	return errors.Is(err, fs.ErrNotExist)
}
