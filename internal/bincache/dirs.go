package bincache

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// dir returns a directory of the cache, open until the cache is closed. It is the
// one that is at that place now: if somebody has put another one there, nothing
// gets into the one that was there before.
func (c *Cache) dir(name string) (*os.File, error) {
	c.held.mu.Lock()
	defer c.held.mu.Unlock()
	top, err := c.hold(".", func(*heldDir) bool { return true }) // no other can take its place
	if err != nil || name == "." {
		return top, err
	}
	return c.hold(name, func(d *heldDir) bool {
		var s unix.Stat_t
		err := retry(func() error { return unix.Fstatat(int(top.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW) })
		return err == nil && d.is(&s)
	})
}

// hold opens a directory, unless it is held and there. The mutex is held.
func (c *Cache) hold(name string, isThere func(*heldDir) bool) (*os.File, error) {
	have := c.held.byName[name]
	if have != nil && isThere(have) {
		return have.File, nil
	}
	f, err := c.root.Open(name)
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
