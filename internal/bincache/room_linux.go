package bincache

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace asks the file system of an open directory.
func freeSpace(dir *os.File) (int64, error) {
	var s unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(dir.Fd()), &s) }); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	if s.Blocks == 0 {
		return unknownSpace, nil
	}
	// Blocks are counted in fragments, where there are any: FUSE has both.
	size := s.Frsize
	if size == 0 {
		size = s.Bsize
	}
	return int64(min(s.Bavail, unknownSpace/uint64(size)) * uint64(size)), nil
}
