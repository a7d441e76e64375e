package bincache

import (
	"os"

	"golang.org/x/sys/unix"
)

// startSync begins to write a file, and does not wait. Without it the blocks of each
// file are allotted only when its turn to be synced has come, in another commit of
// the file system's journal.
func startSync(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // (ignored) Sync tells
}
