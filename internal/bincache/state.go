package bincache

import (
	"context"
	"errors"
	"fmt"
)

// errNewer says that a file of ours is of a newer larder.
var errNewer = errors.New("newer than this program's")

// A FileError says that a file of ours can't be read.
type FileError struct {
	File string // below the cache
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("read %s: %v", e.File, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

// Newer tells whether a newer larder can read it.
func (e *FileError) Newer() bool { return errors.Is(e.Err, errNewer) }

// CheckState returns what is wrong with the files in which the cache remembers what no entry,
// record or pin says: its settings, and which NARs are to be removed, or need not be
// compressed once more.
func (c *Cache) CheckState() (damaged []*FileError) {
	_, _, settings := c.readSettings()
	_, retired := c.lines(retiredFile)
	_, recompressed := c.lines(recompressedFile)
	for _, err := range []error{settings, retired, recompressed} {
		var damage *FileError
		if errors.As(err, &damage) {
			damaged = append(damaged, damage)
		}
	}
	return damaged
}

// ForgetState removes a file that CheckState returned, if it is still damaged, and tells whether
// it did. That of the settings stays: what it said, nobody else knows. What the others said
// is found out anew.
func (c *Cache) ForgetState(ctx context.Context, file string) (forgotten bool, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	for _, damage := range c.CheckState() {
		if damage.File != file || damage.Newer() || file == settingsFile {
			continue
		}
		if err := c.root.Remove(file); err != nil {
			return false, err
		}
		return true, c.SyncDir(".larder")
	}
	return false, nil
}
