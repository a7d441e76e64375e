package pace

import (
	"os"

	"golang.org/x/sys/unix"
)

// Lowest makes the calling thread give way to everything else of its group.
func Lowest() error {
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}

// New returns a pacer of the calling thread. Kernels without schedstat have
// none.
func New() *Pacer {
	f, err := os.Open("/proc/thread-self/schedstat")
	if err != nil {
		return nil // (ignored) the priority has to do
	}
	cores, err := os.Open("/proc/stat")
	if err != nil {
		cores = nil // (ignored) rests have an end without it
	}
	return &Pacer{stat: f, cores: cores}
}
