package queue

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"iter"
	"time"
)

var (
	//go:embed sql/counts.sql
	countsSQL string
	//go:embed sql/list.sql
	listSQL string
	//go:embed sql/find.sql
	findSQL string
	//go:embed sql/missing.sql
	missingSQL string
)

// Counts is how many jobs are in each state.
type Counts struct {
	Waiting, Claimed, Dead int64
}

// Left is how many jobs a worker still has to do.
func (c Counts) Left() int64 { return c.Waiting + c.Claimed }

// Counts returns how many jobs are in each state.
func (q *Queue) Counts(ctx context.Context) (Counts, error) {
	var c Counts
	if err := q.db.QueryRowContext(ctx, countsSQL).Scan(&c.Waiting, &c.Claimed, &c.Dead); err != nil {
		return Counts{}, fmt.Errorf("count jobs: %w", explain(err))
	}
	return c, nil
}

// A Row is a job as people see it.
type Row struct {
	Path     string    `json:"path"`
	Drv      string    `json:"drv,omitempty"`
	State    State     `json:"state"`
	Attempts int       `json:"attempts"`
	Added    time.Time `json:"added"`
	Due      time.Time `json:"due"`
	Error    string    `json:"error,omitempty"`
}

// Rows returns every job in the order in which they will be claimed, dead
// letters last. Until the loop over them ends the queue does nothing else: its
// other methods wait.
func (q *Queue) Rows(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		rows, err := q.db.QueryContext(ctx, listSQL)
		if err != nil {
			yield(Row{}, fmt.Errorf("list jobs: %w", explain(err)))
			return
		}
		defer rows.Close()
		for rows.Next() {
			row, err := scanRow(rows)
			if err != nil {
				err = fmt.Errorf("list jobs: %w", err)
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Row{}, fmt.Errorf("list jobs: %w", explain(err)))
		}
	}
}

// Find returns the job of a path, or nil if it has none.
func (q *Queue) Find(ctx context.Context, path string) (*Row, error) {
	r, err := scanRow(q.db.QueryRowContext(ctx, findSQL, sql.Named("path", path)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find job: %w", explain(err))
	}
	return &r, nil
}

func scanRow(row interface{ Scan(...any) error }) (Row, error) {
	var r Row
	var added, due int64
	if err := row.Scan(&r.Path, &r.Drv, &r.State, &r.Attempts, &added, &due, &r.Error); err != nil {
		return Row{}, err
	}
	r.Added, r.Due = time.UnixMilli(added), time.UnixMilli(due)
	return r, nil
}

// Missing returns those of the given paths that have no job.
func (q *Queue) Missing(ctx context.Context, paths []string) ([]string, error) {
	list, err := pathList(paths)
	if err != nil {
		return nil, fmt.Errorf("look for jobs: %w", err)
	}
	rows, err := q.db.QueryContext(ctx, missingSQL, sql.Named("paths", list))
	if err != nil {
		return nil, fmt.Errorf("look for jobs: %w", explain(err))
	}
	defer rows.Close()
	var missing []string
	for rows.Next() {
		var path string
		if err := rows.Scan(&path); err != nil {
			return nil, fmt.Errorf("look for jobs: %w", err)
		}
		missing = append(missing, path)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look for jobs: %w", explain(err))
	}
	return missing, nil
}
