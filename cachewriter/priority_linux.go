package cachewriter

import "golang.org/x/sys/unix"

// lowestPriority makes the calling thread give way to everything else.
func lowestPriority() error {
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
}
