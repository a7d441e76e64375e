package queue

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// waitByte is the byte of the lock file, behind what is in it, that those who wait for
// the queue have locked. Such a lock belongs to an open file, and ends with it, and has
// nothing to do with the flock of the worker.
const waitByte = 1 << 20

// Wait tells the worker that somebody waits until the queue is empty, until end is
// called or the process ends.
func (q *Queue) Wait() (end func() error, err error) {
	f, err := os.Open(lockFile(q.file))
	if err == nil {
		lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: waitByte, Len: 1}
		if err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err == nil {
			return f.Close, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("wait for queue: %w", err)
}

// Awaited tells whether somebody waits until the queue is empty.
func (q *Queue) Awaited() (bool, error) {
	f, err := os.Open(lockFile(q.file))
	if err != nil {
		return false, fmt.Errorf("look who waits for the queue: %w", err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: waitByte, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("look who waits for the queue: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}
