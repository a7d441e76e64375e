package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Hashes returns the first parts of the store paths of all entries, damaged or not, in
// no particular order.
func (c *Cache) Hashes() ([]string, error) {
	names, err := c.readDir(".")
	if err != nil {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	hashes := names[:0]
	for _, name := range names {
		if hash, ok := strings.CutSuffix(name, narInfoEnding); ok && len(hash) == hashLen {
			hashes = append(hashes, hash)
		}
	}
	return hashes, nil
}

// Read returns the entry whose store path has this first part, and the text of its
// narinfo. Its errors are Entry's; with [ErrDamaged] there is a NarInfo as well if
// only the NAR has a fault.
func (c *Cache) Read(hash string) (*NarInfo, []byte, error) {
	name := hash + narInfoEnding
	n, text, err := c.readNarInfo(name)
	if err == nil && (narInfoName(n.StorePath) != name || path.Dir(n.StorePath) != c.storeDir) {
		n, text, err = nil, nil, fmt.Errorf("%w: it is for %s", ErrDamaged, n.StorePath)
	}
	if err == nil {
		err = c.checkNar(n)
	}
	if err != nil {
		there, gone := c.root.Lstat(name)
		if errors.Is(gone, fs.ErrNotExist) {
			return nil, nil, gone // its NAR may have been removed behind it
		}
		if gone == nil && there.Mode().Type() == fs.ModeSymlink && errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: it is a link to nothing", ErrDamaged)
		}
	}
	return n, text, err
}

// ParseFile returns what is in a narinfo, whatever path it is for.
func (c *Cache) ParseFile(name string) (*NarInfo, error) {
	n, _, err := c.readNarInfo(name)
	return n, err
}

// StoreDir returns where the store is whose paths the cache has.
func (c *Cache) StoreDir() string { return c.storeDir }

// Mode returns the mode of the cache's files.
func (c *Cache) Mode() fs.FileMode { return c.fileMode }

// FS returns the cache's files, for reading.
func (c *Cache) FS() fs.FS { return c.root.FS() }

// maxFile is the largest of other files that is read: a pin has some store paths in it.
const maxFile = 1 << 20

// ReadFile returns what is in a small file of the cache that is neither narinfo nor NAR.
func (c *Cache) ReadFile(name string) ([]byte, error) { return c.readFile(name, maxFile) }

// makeDir makes a directory of the cache, durably, with those above it.
func (c *Cache) makeDir(name string) error {
	if _, err := c.root.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := path.Dir(name)
	if err := c.makeDir(parent); err != nil {
		return err
	}
	if err := c.root.Mkdir(name, 0o777); err != nil {
		return ignoreExist(err)
	}
	if err := chmodDir(c.root, name, dirMode(c.fileMode)); err != nil {
		return err
	}
	return c.SyncDir(parent)
}
