//go:build !linux

package main

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is for what /proc tells of processes, and there is none.
func bootTime() (time.Time, error) { return time.Time{}, errors.ErrUnsupported }

// bootID names this run of the kernel, or is "" if the system does not tell.
func bootID() string {
	id, _ := unix.Sysctl("kern.bootsessionuuid") // (ignored) only macOS has it
	return id
}
