//go:build !linux

package main

import (
	"errors"
	"time"
)

// bootTime is asked where there is a /proc only.
func bootTime() (time.Time, error) { return time.Time{}, errors.ErrUnsupported }

// bootID has nothing to tell either.
func bootID() string { return "" }
