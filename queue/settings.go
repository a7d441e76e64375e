package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
)

// Settings belong to a queue, so that every command that works for it agrees.
// An empty value means that nobody has set it.
type Settings struct {
	// Cache is the cache that the queue feeds, in its canonical form.
	Cache string

	// Compression is how NARs are compressed in it, such as "zstd:3".
	Compression string

	// Rules say what is worth keeping, in the form of package rules.
	Rules string

	// Mode says how jobs come into the queue: "" by the hook and the watcher,
	// "hook-only" or "watch-only".
	Mode string

	// SigningKeyFiles are the files of the secret keys that sign what is copied: their
	// absolute names, as a JSON list.
	SigningKeyFiles string

	// Listings, Logs and FailedLogs say whether entries are listed, whether the logs of
	// builds are kept, and whether those of builds that failed: "true" or "false".
	Listings, Logs, FailedLogs string

	// MinFree is how many bytes the cache's file system is to keep free, and MaxQueue how
	// many jobs the queue may hold: see [Settings.Bounds]. They are decimal numbers.
	MinFree, MaxQueue string
}

// Bounds are what a queue's settings bound. Zero means that there is no bound.
type Bounds struct {
	// MinFree is how many bytes of the cache's file system stay free. Below that the worker
	// pauses until there is more.
	MinFree int64

	// MaxQueue is for how many jobs that are still to be done the queue has room: see
	// [Queue.Room].
	MaxQueue int64
}

// Bounds returns the bounds.
func (s Settings) Bounds() (b Bounds, err error) {
	if b.MinFree, err = bound("min_free", s.MinFree); err != nil {
		return b, err
	}
	b.MaxQueue, err = bound("max_queue", s.MaxQueue)
	return b, err
}

func bound(name, value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("setting %s is %q, want a number", name, value)
	}
	return n, nil
}

// fields names the settings as they are stored.
func (s *Settings) fields() map[string]*string {
	return map[string]*string{
		"cache":             &s.Cache,
		"compression":       &s.Compression,
		"rules":             &s.Rules,
		"mode":              &s.Mode,
		"signing_key_files": &s.SigningKeyFiles,
		"listings":          &s.Listings,
		"logs":              &s.Logs,
		"failed_logs":       &s.FailedLogs,
		"min_free":          &s.MinFree,
		"max_queue":         &s.MaxQueue,
	}
}

// Settings returns the queue's settings.
func (q *Queue) Settings(ctx context.Context) (Settings, error) {
	var s Settings
	for name, value := range s.fields() {
		err := q.db.QueryRowContext(ctx, "select value from settings where name = ?", name).Scan(value)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Settings{}, fmt.Errorf("read setting %s: %w", name, explain(err))
		}
	}
	return s, nil
}

// SetSettings replaces the queue's settings.
func (q *Queue) SetSettings(ctx context.Context, s Settings) error {
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		for name, value := range s.fields() {
			_, err := tx.ExecContext(ctx, "insert or replace into settings (name, value) values (?, ?)", name, *value)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write settings: %w", explain(err))
	}
	return nil
}
