package main

import (
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
