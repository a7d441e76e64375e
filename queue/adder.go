package queue

import (
	"context"
	"database/sql/driver"
	"fmt"
	"os"
	"time"

	"github.com/mattn/go-sqlite3"
)

// maxWAL is how large the WAL may be, in bytes, for a hook to leave it as it is.
// Without a worker it must not grow for ever: the first process that opens a queue
// reads all of it, and every hook may be the first.
const maxWAL = 256 << 10

// An Adder is a queue as a hook sees it: something to add to, and nothing else.
//
// It speaks to the driver itself. The goroutines of database/sql would make the
// runtime start threads, and every build waits for its hook.
type Adder struct {
	file string
	conn *sqlite3.SQLiteConn
}

// OpenForHook opens an existing queue to add to it. Every wait for other processes
// ends after busy. The process may end without closing the queue, and should:
// closing would make it wait for the disk.
func OpenForHook(ctx context.Context, file string, busy time.Duration) (*Adder, error) {
	conn, err := (&sqlite3.SQLiteDriver{}).Open(dataSource(file, "rw", busy))
	if err != nil {
		return nil, openError(file, err)
	}
	a := &Adder{file, conn.(*sqlite3.SQLiteConn)}
	if err := a.prepare(ctx); err != nil {
		a.Close()
		return nil, openError(file, err)
	}
	return a, nil
}

func (a *Adder) prepare(ctx context.Context) error {
	// The WAL is the worker's to look after, or Tidy's.
	if _, err := a.conn.ExecContext(ctx, "pragma wal_autocheckpoint = 0", nil); err != nil {
		return err
	}
	version, err := a.pragma(ctx, "user_version")
	if err != nil {
		return err
	}
	app, err := a.pragma(ctx, "application_id")
	if err != nil {
		return err
	}
	return checkSchema(app, version)
}

// pragma returns a number that the database's header has.
func (a *Adder) pragma(ctx context.Context, name string) (int64, error) {
	rows, err := a.conn.QueryContext(ctx, "pragma "+name, nil)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	row := make([]driver.Value, 1)
	if err := rows.Next(row); err != nil {
		return 0, err
	}
	n, ok := row[0].(int64)
	if !ok {
		return 0, fmt.Errorf("%s is %v, want a number", name, row[0])
	}
	return n, nil
}

// Add is [Queue.Add].
func (a *Adder) Add(ctx context.Context, drv string, paths ...string) error {
	list, err := pathList(paths)
	if err != nil {
		return fmt.Errorf("add to queue: %w", err)
	}
	_, err = a.conn.ExecContext(ctx, addSQL, []driver.NamedValue{
		{Name: "paths", Ordinal: 1, Value: list},
		{Name: "drv", Ordinal: 2, Value: drv},
		{Name: "now", Ordinal: 3, Value: time.Now().UnixMilli()},
	})
	if err != nil {
		return fmt.Errorf("add to queue: %w", explain(err))
	}
	return nil
}

// Tidy empties the WAL if it has grown large. Hooks call it when all else is done:
// what they added does not depend on it.
func (a *Adder) Tidy(ctx context.Context) error {
	info, err := os.Stat(a.file + "-wal")
	if err != nil || info.Size() <= maxWAL {
		return nil // (ignored) no file is no large file
	}
	// An automatic checkpoint would not do: that it is done stands in memory which
	// the last process takes with it, so that the next one would do it again.
	if _, err := a.conn.ExecContext(ctx, "pragma wal_checkpoint(truncate)", nil); err != nil {
		return fmt.Errorf("empty the queue's log: %w", explain(err))
	}
	return nil
}

// Close closes the queue.
func (a *Adder) Close() error { return a.conn.Close() }
