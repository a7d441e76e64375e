//go:build !linux

package cachewriter

// lowestPriority does nothing: elsewhere a priority is the whole process's, and
// the queue's transactions must not get a low one.
func lowestPriority() error { return nil }
