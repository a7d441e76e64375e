package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// heldDirs are directories of a cache that are open, since files are made and
// linked in them one after the other: to walk to them from the top each time takes
// longer than the rest.
type heldDirs struct {
	mu     sync.Mutex // guards what is below
	byName map[string]*heldDir
	old    []*heldDir // somebody may be using them yet
}

type heldDir struct {
	*os.File
	dev, ino uint64
}

// is tells whether s is of the same directory.
func (d *heldDir) is(s *unix.Stat_t) bool { return uint64(s.Dev) == d.dev && s.Ino == d.ino }

// dir returns one of the directories that larder makes, open until the cache is closed.
// It is the one that is at that place now: if somebody has put another one there,
// nothing gets into the one that was there before.
func (c *Cache) dir(name string) (*os.File, error) {
	c.held.mu.Lock()
	defer c.held.mu.Unlock()
	return c.hold(name)
}

// inDir calls f with a directory of the cache. Of others' directories there may be more
// than can be open.
func (c *Cache) inDir(name string, f func(dir *os.File) error) error {
	if name == "." || path.Dir(name) == ".larder" || slices.Contains(dirs, name) {
		dir, err := c.dir(name)
		if err != nil {
			return err
		}
		return f(dir)
	}
	dir, err := c.openDir(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(dir)
}

// hold opens a directory, unless it is held and there. The mutex is held.
func (c *Cache) hold(name string) (*os.File, error) {
	have := c.held.byName[name]
	var above *os.File
	if name == "." {
		if have != nil { // no other can take its place
			return have.File, nil
		}
	} else {
		var err error
		if above, err = c.hold(path.Dir(name)); err != nil {
			return nil, err
		}
		var s unix.Stat_t
		err = retry(func() error { return unix.Fstatat(int(above.Fd()), path.Base(name), &s, unix.AT_SYMLINK_NOFOLLOW) })
		if err == nil && have != nil && have.is(&s) {
			return have.File, nil
		}
	}
	f, err := c.openHeld(above, name)
	if err != nil {
		return nil, err
	}
	var s unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(f.Fd()), &s) }); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if have != nil && have.is(&s) { // through a link
		f.Close()
		return have.File, nil
	}
	if have != nil {
		c.held.old = append(c.held.old, have)
	}
	if c.held.byName == nil {
		c.held.byName = make(map[string]*heldDir)
	}
	c.held.byName[name] = &heldDir{f, uint64(s.Dev), s.Ino}
	return f, nil
}

// openHeld opens a directory that lies in another one. What is swept, locked and recorded
// is never reached through a link: it would be another directory that is swept.
func (c *Cache) openHeld(above *os.File, name string) (*os.File, error) {
	if name != ".larder" && !strings.HasPrefix(name, ".larder/") {
		return c.openDir(name)
	}
	f, err := openIn(above, path.Base(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s has to be a directory, and no link: %w", name, unix.ENOTDIR)
	}
	return f, err
}

// close closes all of them.
func (h *heldDirs) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range slices.AppendSeq(h.old, maps.Values(h.byName)) {
		d.Close()
	}
	h.byName, h.old = nil, nil
}

// openIn opens a file in a directory, and never follows a link.
func openIn(dir *os.File, name string, flags int, mode fs.FileMode) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
}

// retry calls f until no signal interrupts it, as package os does.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
