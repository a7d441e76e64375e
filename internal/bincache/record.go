package bincache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"time"
)

// A Record is that of a run that goes on for long, such as a day of a daemon. Its one
// writer writes it again when there is more to tell; who reads it sees what was written
// last, whole.
type Record struct {
	cache *Cache
	name  string
	added int // of what was written last
}

// NewRecord returns a record that only its owner writes. It is found by the others who look
// for what is newer than until, and so the run must not end later than that.
func (c *Cache) NewRecord(until time.Time) *Record { return &Record{cache: c, name: c.runName(until)} }

// Write writes the record, durably, and tells whether it did: if nothing was added since
// the last time, and what was used is in records that are not older than granularity,
// there is no need.
func (r *Record) Write(run Run, granularity time.Duration) (written bool, err error) {
	if len(run.Added) == r.added && r.cache.covered(run.Used, run.Ended.Add(-granularity)) {
		return false, nil
	}
	text, err := r.cache.checkedRun(run)
	if err == nil {
		err = r.cache.makeDir(runsDir)
	}
	if err == nil {
		err = r.cache.replaceText(path.Join(runsDir, r.name), text)
	}
	if err == nil {
		err = r.cache.SyncDir(path.Dir(runsDir)) // the first record's directory may be new
	}
	if err != nil {
		return false, fmt.Errorf("record run: %w", err)
	}
	r.added = len(run.Added)
	return true, nil
}

// runName returns the name of a record that is newer than those of earlier runs.
func (c *Cache) runName(ended time.Time) string {
	return stamp(ended) + "-" + hostName() + "-" + rand.Text()
}

// checkedRun returns the text of a record that can be read again.
func (c *Cache) checkedRun(r Run) ([]byte, error) {
	for p := range r.Paths() {
		if err := checkBaseName(path.Base(p)); err != nil {
			return nil, err
		}
	}
	text := r.format()
	_, err := parseRun(text, c.storeDir)
	return text, err
}

// TakeNewerRun puts the record of another cache in place of ours of the same name, if it
// tells of more: its writer has gone on since it was copied. It tells whether it did.
func (c *Cache) TakeNewerRun(from *Cache, name string) (taken bool, err error) {
	theirs, err := from.readRun(path.Base(name))
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	ours, err := c.readRun(path.Base(name))
	if errors.Is(err, errNewer) || err == nil && !ours.Ended.Before(theirs.Ended) {
		return false, nil
	}
	// Or ours is damaged.
	text, err := from.readFile(path.Join(runsDir, path.Base(name)), maxRun)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return true, c.replaceText(path.Join(runsDir, path.Base(name)), text)
}
