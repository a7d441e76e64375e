//go:build !linux

package cachewriter

// lowestPriority does nothing: elsewhere a priority is the whole process's, and
// the queue's transactions must not get a low one.
func lowestPriority() error { return nil }

// newPacer returns none: nobody tells how long a thread waits.
func newPacer() *pacer { return nil }
