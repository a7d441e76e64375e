//go:build !linux

package queue

// Wait does nothing: elsewhere workers have normal priority, whoever waits.
func (q *Queue) Wait() (end func() error, err error) { return func() error { return nil }, nil }

// Awaited tells that nobody waits.
func (q *Queue) Awaited() (bool, error) { return false, nil }
