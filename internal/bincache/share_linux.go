package bincache

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// linkFile gives an open file another name. Unlike link(2) by name it can't hit on
// another file than the one that was looked at.
func linkFile(f, dir *os.File, name string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
	return os.NewSyscallError("linkat", err)
}

// cloneFile makes an empty file share the blocks of another one until either is
// changed, on file systems that can do that.
func cloneFile(from, to *os.File) error {
	return os.NewSyscallError("ioctl", unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
}
