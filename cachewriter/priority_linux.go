package cachewriter

import (
	"os"

	"golang.org/x/sys/unix"
)

// lowestPriority makes the calling thread give way to everything else of its group.
func lowestPriority() error {
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}

// newPacer returns a pacer of the calling thread. Kernels without schedstat have
// none.
func newPacer() *pacer {
	f, err := os.Open("/proc/thread-self/schedstat")
	if err != nil {
		return nil // (ignored) the priority has to do
	}
	cores, err := os.Open("/proc/stat")
	if err != nil {
		cores = nil // (ignored) rests have an end without it
	}
	return &pacer{stat: f, cores: cores}
}
