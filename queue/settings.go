package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
