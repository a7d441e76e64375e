package main

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime returns when the machine was started, by the clock that processes'
// starts are told by.
func bootTime() (time.Time, error) {
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(-time.Duration(since.Nano())), nil
}

// bootID names this run of the kernel, or is "" if the system does not tell.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // (ignored) without it other evidence has to do
	return strings.TrimSpace(string(id))
}
