package queue

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

var (
	//go:embed sql/add.sql
	addListSQL string
	//go:embed sql/add_one.sql
	addPathSQL string
	//go:embed sql/add_again.sql
	addAgainSQL string
	//go:embed sql/claim.sql
	claimSQL string
	//go:embed sql/done.sql
	doneSQL string
	//go:embed sql/done_by.sql
	doneBySQL string
	//go:embed sql/drop.sql
	dropSQL string
	//go:embed sql/release.sql
	releaseSQL string
	//go:embed sql/reclaim.sql
	reclaimSQL string
	//go:embed sql/retry.sql
	retrySQL string
	//go:embed sql/retry_all.sql
	retryAllSQL string
	//go:embed sql/next_due.sql
	nextDueSQL string
)

// Both ways to add do the same with what is there already.
var (
	addSQL    = addListSQL + addAgainSQL
	addOneSQL = addPathSQL + addAgainSQL
	addNewSQL = addPathSQL + "on conflict (path) do nothing"
)

// A State is where a job stands.
type State string

const (
	Waiting State = "waiting" // it will be handed out when it is due
	Claimed State = "claimed" // the worker has it in hand
	Dead    State = "dead"    // its attempts are used up; a person decides
)

// A Job is a store path whose closure has to be in the cache.
type Job struct {
	ID       int64
	Path     string    // the store path
	Drv      string    // the derivation that built it, or ""
	Attempts int       // how often it failed through its own fault
	Added    time.Time // when it came into the queue
}

// Add puts store paths into the queue, all or none. drv is the derivation that
// built them, or "". A path that is there already becomes due.
func (q *Queue) Add(ctx context.Context, drv string, paths ...string) error {
	list, err := pathList(paths)
	if err != nil {
		return fmt.Errorf("add to queue: %w", err)
	}
	_, err = q.db.ExecContext(ctx, addSQL,
		sql.Named("paths", list), sql.Named("drv", drv), sql.Named("now", time.Now().UnixMilli()))
	q.wal.written()
	if err != nil {
		return fmt.Errorf("add to queue: %w", explain(err))
	}
	return nil
}

// AddRooted is Add without a derivation. root, if it is not nil, is called when the
// paths are in the queue, but not yet for others: roots that an earlier job took with
// it just now can be made again, before anybody can do that once more.
func (q *Queue) AddRooted(ctx context.Context, root func() error, paths ...string) error {
	list, err := pathList(paths)
	if err != nil {
		return fmt.Errorf("add to queue: %w", err)
	}
	err = q.transaction(ctx, func(tx *sql.Tx) error { return addRooted(ctx, tx, list, root) })
	if err != nil {
		return fmt.Errorf("add to queue: %w", explain(err))
	}
	return nil
}

func addRooted(ctx context.Context, tx *sql.Tx, list string, root func() error) error {
	_, err := tx.ExecContext(ctx, addSQL,
		sql.Named("paths", list), sql.Named("drv", ""), sql.Named("now", time.Now().UnixMilli()))
	if err != nil || root == nil {
		return err
	}
	return root()
}

// pathList returns paths as the JSON array that statements take.
func pathList(paths []string) (string, error) {
	if paths == nil {
		return "[]", nil // JSON's null would be an element to SQLite
	}
	list, err := json.Marshal(paths)
	return string(list), err
}

// Claim hands out the job that has been due for longest. It returns [ErrEmpty]
// if none is due.
//
// Only the holder of the queue's [Lock] may call it; what it claimed and did not
// finish returns to waiting when the queue is locked the next time.
func (q *Queue) Claim(ctx context.Context) (*Job, error) {
	var job Job
	var added int64
	// Without a transaction the row would be there before the commit is, and if that
	// fails, for want of space, nobody would hear of it.
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, claimSQL, sql.Named("now", time.Now().UnixMilli())).
			Scan(&job.ID, &job.Path, &job.Drv, &job.Attempts, &added)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrEmpty
	}
	if err != nil {
		return nil, fmt.Errorf("claim job: %w", explain(err))
	}
	job.Added = time.UnixMilli(added)
	return &job, nil
}

// Done removes a claimed job whose path is in the cache. To have been added again
// meanwhile makes no difference: what a store path is does not change.
//
// unroot, if it is not nil, is called just before the job is gone for good, while
// nobody can add to the queue: whoever adds the path afterwards finds it without
// a root and makes one.
func (q *Queue) Done(ctx context.Context, job *Job, unroot func() error) error {
	return q.end(ctx, job, doneSQL, unroot)
}

// DoneBy is Done where it matters what built the path. A job that was added again
// meanwhile, with another derivation, waits for its next turn instead.
func (q *Queue) DoneBy(ctx context.Context, job *Job, unroot func() error) error {
	return q.end(ctx, job, doneBySQL, unroot, sql.Named("drv", job.Drv))
}

// Drop removes a claimed job whose path is not to be copied: it is gone from the
// store, or not wanted. A job that was added again meanwhile waits for its next turn
// instead: the path may be there again. unroot is as for Done.
func (q *Queue) Drop(ctx context.Context, job *Job, unroot func() error) error {
	return q.end(ctx, job, dropSQL, unroot)
}

func (q *Queue) end(ctx context.Context, job *Job, statement string, unroot func() error, further ...any) error {
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		var deleted int64
		if err := count(&deleted)(tx.ExecContext(ctx, statement, append(further, sql.Named("id", job.ID))...)); err != nil {
			return err
		}
		if deleted == 0 {
			return release(ctx, tx, job, Waiting, 0, time.Now(), nil)
		}
		if unroot == nil {
			return nil
		}
		return unroot()
	})
	if err != nil {
		return fmt.Errorf("finish job: %w", explain(err))
	}
	return nil
}

// Release puts a claimed job back, due at the given time, as if that attempt had
// never been. cause, if it is not nil, is kept for people to read.
func (q *Queue) Release(ctx context.Context, job *Job, due time.Time, cause error) error {
	return q.putBack(ctx, job, Waiting, job.Attempts, due, cause)
}

// Fail puts a claimed job back after an attempt that failed through the job's
// own fault, to be tried again at the given time.
func (q *Queue) Fail(ctx context.Context, job *Job, due time.Time, cause error) error {
	return q.putBack(ctx, job, Waiting, job.Attempts+1, due, cause)
}

// Bury makes a claimed job a dead letter.
func (q *Queue) Bury(ctx context.Context, job *Job, cause error) error {
	return q.putBack(ctx, job, Dead, job.Attempts+1, time.Now(), cause)
}

func (q *Queue) putBack(ctx context.Context, job *Job, state State, attempts int, due time.Time, cause error) error {
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		return release(ctx, tx, job, state, attempts, due, cause)
	})
	if err != nil {
		return fmt.Errorf("put job back: %w", explain(err))
	}
	return nil
}

func release(ctx context.Context, tx *sql.Tx, job *Job, state State, attempts int, due time.Time, cause error) error {
	var text string
	if cause != nil {
		text = cause.Error()
	}
	_, err := tx.ExecContext(ctx, releaseSQL,
		sql.Named("id", job.ID), sql.Named("state", state), sql.Named("attempts", attempts),
		sql.Named("due", due.UnixMilli()), sql.Named("now", time.Now().UnixMilli()), sql.Named("error", text))
	return err
}

func (q *Queue) reclaim() error {
	if _, err := q.db.Exec(reclaimSQL); err != nil {
		return fmt.Errorf("return a dead worker's claims: %w", explain(err))
	}
	return nil
}

// Retry makes jobs due now, with all their attempts before them again: those of
// the given paths, or without paths every dead letter and every job that waits
// for its next attempt. It returns how many jobs that were; claimed ones are
// left alone.
func (q *Queue) Retry(ctx context.Context, paths ...string) (int64, error) {
	var n int64
	err := q.transaction(ctx, func(tx *sql.Tx) error {
		now := sql.Named("now", time.Now().UnixMilli())
		if len(paths) == 0 {
			return count(&n)(tx.ExecContext(ctx, retryAllSQL, now))
		}
		for _, path := range paths {
			if err := count(&n)(tx.ExecContext(ctx, retrySQL, now, sql.Named("path", path))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("retry jobs: %w", explain(err))
	}
	return n, nil
}

// count adds the rows that a statement changed to n.
func count(n *int64) func(sql.Result, error) error {
	return func(res sql.Result, err error) error {
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		*n += rows
		return err
	}
}

// NextDue returns when the next waiting job is due; ok is false if none waits.
func (q *Queue) NextDue(ctx context.Context) (due time.Time, ok bool, err error) {
	var ms int64
	err = q.db.QueryRowContext(ctx, nextDueSQL).Scan(&ms)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("look for the next job: %w", explain(err))
	}
	return time.UnixMilli(ms), true, nil
}

// transaction runs f in a transaction that nobody else can write beside.
func (q *Queue) transaction(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := q.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // (ignored) after a commit there is nothing to roll back
	if err := f(tx); err != nil {
		return err
	}
	err = tx.Commit()
	q.wal.written()
	return err
}
