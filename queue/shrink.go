package queue

import (
	"context"
	"fmt"
)

const (
	// What is free in the database is kept for jobs to come, up to so many bytes.
	maxFree = 8 << 20

	// Those who add jobs wait while the database is written anew: no more than this of it
	// takes some milliseconds.
	maxRewritten = 4 << 20
)

// Shrink gives back what the database needed for jobs that are gone: SQLite's file stays as
// large as it was when the most jobs were in it. It does something only if that is worth it,
// and if few are left, so that nobody has to wait for long. Workers call it now and then.
func (q *Queue) Shrink(ctx context.Context) error {
	var free, pages int64
	err := q.db.QueryRowContext(ctx, "select freelist_count, page_count from pragma_freelist_count, pragma_page_count").Scan(&free, &pages)
	if err != nil {
		return fmt.Errorf("shrink queue: %w", explain(err))
	}
	if free*pageSize <= maxFree || (pages-free)*pageSize > maxRewritten {
		return nil
	}
	// What is left is little, and there may be no directory for a temporary file. The
	// database's own is cut when the log is copied back into it, and there is so little in
	// that now that nobody else would do it soon. What others hinder, the next one does.
	for _, statement := range []string{"pragma temp_store = memory", "vacuum", "pragma wal_checkpoint(passive)"} {
		if _, err := q.db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("shrink queue: %w", explain(err))
		}
	}
	return nil
}
