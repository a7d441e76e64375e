package bincache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// An unfit file is none that a cache has: whatever is in it, nobody can use it. Who can
// write to a cache can put a pipe in the place of a file, which takes forever to open, or
// a device, for which opening it may do anything.
type unfit string

func (u unfit) Error() string { return string(u) }

const (
	isNoFile unfit = "it is not a regular file"
	isLink   unfit = "it is a link that leads out of the cache"
)

// openRegular opens a file of the cache for reading. The error is an unfit one if what is
// there is not a regular file of the cache.
func (c *Cache) openRegular(name string) (*os.File, fs.FileInfo, error) {
	info, err := c.root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = isNoFile
	}
	if err != nil {
		return nil, nil, fitness(err)
	}
	// It may be another one by now.
	f, err := c.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fitness(err)
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = isNoFile
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// fitness says of a link that it is one.
func fitness(err error) error {
	if leadsOut(err) || errors.Is(err, syscall.ELOOP) {
		return isLink
	}
	return err
}

// leadsOut tells whether an error is not the system's, but os.Root's, which does not
// follow links out of the cache.
func leadsOut(err error) bool {
	return err != nil && !errors.As(err, new(syscall.Errno)) && !errors.As(err, new(unfit))
}

// openDir opens a directory of the cache for reading.
func (c *Cache) openDir(name string) (*os.File, error) {
	d, err := c.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if leadsOut(err) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: isLink}
	}
	return d, err
}

// readFile returns what is in a file. One that is larger than limit is unfit.
func (c *Cache) readFile(name string, limit int64) ([]byte, error) {
	f, info, err := c.openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, info, limit)
}

// readSmall is readFile for a file in the top directory that is as most are. Of any other
// the error is errNotQuick.
func (c *Cache) readSmall(name string) ([]byte, error) {
	top, err := c.dir(".")
	if err != nil {
		return nil, err
	}
	return readIn(top, name, nil)
}

// readAll returns what is in an open file, unless that is more than limit.
func readAll(f *os.File, info fs.FileInfo, limit int64) ([]byte, error) {
	if info.Size() > limit {
		return nil, tooLarge(limit)
	}
	var text bytes.Buffer
	text.Grow(int(info.Size()) + bytes.MinRead)
	if _, err := text.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(text.Len()) > limit { // it has grown
		return nil, tooLarge(limit)
	}
	return text.Bytes(), nil
}

func tooLarge(limit int64) error { return unfit(fmt.Sprintf("it is larger than %d bytes", limit)) }
