//go:build !linux

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
	return int64(min(s.Bavail, unknownSpace/uint64(s.Bsize)) * uint64(s.Bsize)), nil
}
