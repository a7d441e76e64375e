// Package plainfile opens files for those who read one and end.
//
// At the first file that package os opens it sets up what it takes to wait for several
// at a time, and it asks for each whether it could be waited for. That is a twentieth of
// the time that a hook takes.
package plainfile

import (
	"io/fs"
	"os"
	"syscall"
)

// Open opens a file as [os.OpenFile] does, but for good: whoever reads from it keeps a
// thread of the system. With O_NONBLOCK nobody waits for a pipe's other end to be
// opened; the file itself blocks all the same.
func Open(name string, flag int) (*os.File, error) {
	fd, err := syscall.Open(name, flag|syscall.O_CLOEXEC, 0)
	for err == syscall.EINTR {
		fd, err = syscall.Open(name, flag|syscall.O_CLOEXEC, 0)
	}
	if err == nil && flag&syscall.O_NONBLOCK != 0 {
		err = syscall.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
