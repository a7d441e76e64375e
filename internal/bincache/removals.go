package bincache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// The package comment has the order in which entries are removed.
const (
	removedDir  = ".larder/trash/entries" // has a directory for each removal, named by its time
	removalFile = ".larder/removals"      // has the word
	underWay    = "removing "
)

// Removals returns a word that is another one after entries were removed, and whether
// that is under way, or was interrupted.
func (c *Cache) Removals() (word string, removing bool, err error) {
	text, err := c.readFile(removalFile, 1<<10)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("look whether entries were removed: %w", err)
	}
	return string(text), strings.HasPrefix(string(text), underWay), nil
}

// TellRemoval makes Removals return another word. The cache's lock is held.
func (c *Cache) TellRemoval(removing bool) error {
	text := rand.Text() + "\n"
	if removing {
		text = underWay + text
	}
	t, err := c.TempText([]byte(text))
	if err == nil {
		if err = t.Replace(removalFile); err != nil {
			t.Discard()
		}
	}
	if IsFull(err) {
		err = c.overwriteRemovals(text)
	}
	if err != nil {
		return fmt.Errorf("tell that entries are removed: %w", err)
	}
	return nil
}

// overwriteRemovals puts a word where there is something already, which takes no space: on a
// full disk nobody could make room otherwise. Who reads it in between sees yet another word.
// Before the first removal, that is a file that is made anew when the cache is opened next.
func (c *Cache) overwriteRemovals(text string) error {
	if _, err := c.root.Lstat(removalFile); errors.Is(err, fs.ErrNotExist) && c.Has(cacheTag) {
		if err := c.root.Rename(cacheTag, removalFile); err != nil {
			return err
		}
	}
	f, err := c.root.OpenFile(removalFile, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// Lock takes the cache's one lock, for what changes entries or removes them. It waits
// for whoever has it until ctx ends.
func (c *Cache) Lock(ctx context.Context) (unlock func() error, err error) { return c.lock(ctx) }

// A Removal is a directory of the trash: narinfos that were moved there together.
type Removal struct {
	Name   string
	Until  time.Time // when it may be thrown away, to the second
	Hashes []string  // the first parts of their store paths

	aside string // what unfinished files begin with that have them; or ""
}

// file returns where the removal has a narinfo.
func (r *Removal) file(hash string) string {
	if r.aside != "" {
		return path.Join(tmpDir, r.aside+hash+narInfoEnding)
	}
	return path.Join(removedDir, r.Name, hash+narInfoEnding)
}

// BeginRemoval makes a removal, without any narinfos yet. The cache's lock is held, by
// all that follow as well.
func (c *Cache) BeginRemoval(until time.Time) (*Removal, error) {
	r := &Removal{Name: stamp(until) + "-" + rand.Text(), Until: until.Truncate(time.Second)}
	if err := c.makeDir(path.Join(removedDir, r.Name)); err != nil {
		return nil, fmt.Errorf("make trash: %w", err)
	}
	return r, nil
}

// BeginRemovalAside makes a removal which takes no room on the disk, and that nobody else finds
// in the trash: whoever makes it ends it at once.
func (c *Cache) BeginRemovalAside() *Removal { return &Removal{aside: tempPrefix() + "removed-"} }

// Withdraw moves a narinfo to the trash: clients no longer see its entry, whose NAR stays
// in place. It is nothing new if it is gone already.
func (c *Cache) Withdraw(r *Removal, hash string) error {
	err := c.root.Rename(hash+narInfoEnding, r.file(hash))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.Hashes = append(r.Hashes, hash)
	}
	return err
}

// Reinstate moves a narinfo back from the trash, unless there is an entry again.
func (c *Cache) Reinstate(r *Removal, hash string) error {
	return c.putBack(r.file(hash), hash+narInfoEnding)
}

// ReadRemoved returns a narinfo of the trash. The error wraps [ErrDamaged] if its NAR is
// gone.
func (c *Cache) ReadRemoved(r *Removal, hash string) (*NarInfo, error) {
	n, _, err := c.readNarInfo(r.file(hash))
	if err == nil && HashPart(n.StorePath) != hash {
		err = fmt.Errorf("%w: it is for %s", ErrDamaged, n.StorePath)
	}
	if err == nil {
		err = c.checkNar(n)
	}
	return n, err
}

// EndRemoval throws away a removal with all narinfos that are left in it.
func (c *Cache) EndRemoval(r *Removal) error {
	if r.aside != "" {
		for _, hash := range r.Hashes {
			if err := ignoreNotExist(c.root.Remove(r.file(hash))); err != nil {
				return fmt.Errorf("remove entry: %w", err)
			}
		}
		return nil
	}
	dir := path.Join(removedDir, r.Name)
	names, err := c.readDir(dir)
	for _, name := range names {
		err = cmp.Or(err, ignoreNotExist(c.root.Remove(path.Join(dir, name))))
	}
	if err = ignoreNotExist(cmp.Or(err, c.root.Remove(dir))); err != nil {
		return fmt.Errorf("empty trash: %w", err)
	}
	return nil
}

// Removed returns all removals in the trash, those first that may go first.
func (c *Cache) Removed() ([]*Removal, error) {
	names, err := c.readDir(removedDir)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	slices.Sort(names)
	var all []*Removal
	for _, name := range names {
		when, _, _ := strings.Cut(name, "-")
		until, err := time.Parse(runStamp, when)
		if err != nil {
			continue // not ours
		}
		files, err := c.readDir(path.Join(removedDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list trash: %w", err)
		}
		r := &Removal{Name: name, Until: until}
		for _, file := range files {
			if hash, ok := strings.CutSuffix(file, narInfoEnding); ok {
				r.Hashes = append(r.Hashes, hash)
			}
		}
		all = append(all, r)
	}
	return all, nil
}

// putBack gives a file of the trash its name again, unless another has it.
func (c *Cache) putBack(trash, name string) error {
	err := c.root.Link(trash, name)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return c.root.Remove(trash)
	case cannotLink(err):
		return c.root.Rename(trash, name)
	}
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
