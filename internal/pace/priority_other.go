//go:build !linux

package pace

// Lowest does nothing: elsewhere a priority is the whole process's, and
// the queue's transactions must not get a low one.
func Lowest() error { return nil }

// New returns none: nobody tells how long a thread waits.
func New() *Pacer { return nil }
