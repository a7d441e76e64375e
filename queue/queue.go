// Package queue keeps the list of store paths whose closures have not reached
// the binary cache yet.
//
// The hook adds jobs after every build; the worker claims them, copies them, and
// removes them. The two never talk to each other: the database file is the only
// thing they share, so either may crash, restart, or be upgraded alone.
//
// # States
//
//	           Claim              Done, Drop
//	waiting ──────────▶ claimed ──────────▶ (row deleted)
//	   ▲                   │
//	   │  worker restarts  │ Release, Fail
//	   ├───────────────────┤
//	   │                   ▼
//	   └──── delay ──── waiting, or dead when its attempts are used up
//
// One worker at a time holds the queue's [Lock]. Claims that a dead worker left
// behind return to waiting when the next one starts, so a job may be copied
// twice, and must give the same result both times.
//
// # Durability
//
// When Add returns nil the jobs survive a crash of every process. After a power
// failure the newest jobs may be gone; their roots, or Nix's own database, tell
// of them again. When Done returns nil the job is not handed out again.
//
// # Bounds
//
// A queue may be bounded: [Queue.Room] tells those who can come back later for how many
// more jobs there is room, and nothing is lost, since what is not queued yet is still in
// Nix's database, or has its root. A hook can't come back: its jobs are always taken. The
// database's file is as large as what is in it, but for some MiB: [Queue.Shrink].
//
// # Files
//
//	queue.db          the SQLite database, in WAL mode; its tables: sql/README.md
//	queue.db-wal      SQLite's, as is -shm
//	queue.db-lock     the queue's [Identity], and the worker's flock
//
// A queue lies on a local disk: SQLite's WAL does not work over NFS or SMB, and
// Create and Open refuse them.
package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mattn/go-sqlite3"
)

var (
	// ErrEmpty says that there is no job to claim now.
	ErrEmpty = errors.New("no claimable job")
	// ErrLocked says that a worker is alive already.
	ErrLocked = errors.New("another worker has this queue")
	// ErrTooNew says that a newer release made the queue.
	ErrTooNew = errors.New("newer than this program")
	// ErrNotQueue says that a file is some other SQLite database.
	ErrNotQueue = errors.New("not a larder queue")
	// ErrCorrupt says that SQLite can't make sense of the file.
	ErrCorrupt = errors.New("the queue is corrupt")
	// ErrRemote says that the queue would be on a network file system.
	ErrRemote = errors.New("a queue must be on a local disk")
)

const (
	// A worker may wait for others' commits: they take microseconds, or a disk's
	// sync at most.
	workerBusy = 30 * time.Second

	// Small pages: a hook changes a few, and writes each as a whole into the WAL.
	pageSize = 1024
)

// A Queue is an open queue. It is safe for use by several goroutines.
type Queue struct {
	file string
	db   *sql.DB
	id   Identity
	wal  *checkpointer
}

// Create opens the queue in file for a worker, and makes it, and the directory
// it is in, if there is none.
func Create(ctx context.Context, file string) (*Queue, error) {
	// Everyone may look: the hook of another user has to find its way in.
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, openError(file, err)
	}
	file, err := Resolve(file)
	if err != nil {
		return nil, err
	}
	return open(ctx, file, "rwc")
}

// CheckDisk returns an error, which wraps [ErrRemote], if no queue can be in a directory
// for what it is on.
func CheckDisk(dir string) error { return refuseRemote(dir) }

// Open opens the queue in file for a worker. The error wraps [fs.ErrNotExist] if
// there is none.
func Open(ctx context.Context, file string) (*Queue, error) {
	file, err := Resolve(file)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(file); err != nil {
		return nil, openError(file, err)
	}
	return open(ctx, file, "rw")
}

func open(ctx context.Context, file, mode string) (*Queue, error) {
	if err := CheckDisk(filepath.Dir(file)); err != nil {
		return nil, openError(file, err)
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		// Those who find the new database must find its identity.
		if _, err := identify(file); err != nil {
			return nil, openError(file, err)
		}
	}
	db, err := connect(file, mode, muchWAL)
	if err != nil {
		return nil, openError(file, err)
	}
	q := &Queue{file: file, db: db}
	if err := q.prepare(ctx); err != nil {
		db.Close()
		return nil, openError(file, err)
	}
	q.wal = startCheckpointer(file)
	return q, nil
}

// prepare brings the database up to date. A file that is something else is left as
// it is, and so is its directory.
func (q *Queue) prepare(ctx context.Context) (err error) {
	if _, err := schemaVersion(ctx, q.db); err != nil {
		return err
	}
	if q.id, err = identify(q.file); err != nil {
		return err
	}
	if err := format(ctx, q.db); err != nil {
		return err
	}
	return migrate(ctx, q.db)
}

// format makes the file what a queue's is. Both pragmas stay in it, so that hooks
// need not ask for them: the page size is that of the first table, and later
// nobody can change it.
func format(ctx context.Context, db *sql.DB) error {
	pragmas := fmt.Sprintf("pragma page_size = %d; pragma journal_mode = wal", pageSize)
	for giveUp := time.Now().Add(workerBusy); ; {
		_, err := db.ExecContext(ctx, pragmas)
		// While the mode changes nobody is let wait. It happens once, but then several
		// processes may be at it.
		var busy sqlite3.Error
		if !errors.As(err, &busy) || busy.Code != sqlite3.ErrBusy || time.Now().After(giveUp) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// dataSource returns how the driver is told to open a queue.
func dataSource(file, mode string, busy time.Duration) string {
	dsn := url.URL{Scheme: "file", Path: file, RawQuery: url.Values{
		"mode":             {mode},
		"_busy_timeout":    {strconv.FormatInt(busy.Milliseconds(), 10)},
		"_synchronous":     {"normal"}, // in WAL mode: a commit does not wait for the disk
		"_txlock":          {"immediate"},
		"_stmt_cache_size": {"16"},
	}.Encode()}
	return dsn.String()
}

// connect opens the database. A transaction that leaves so many pages in the WAL copies
// them back, or none does if that is 0.
func connect(file, mode string, autocheckpoint int) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", dataSource(file, mode, workerBusy))
	if err != nil {
		return nil, err
	}
	// One connection: there is one writer at a time anyway, and pragmas are a
	// connection's.
	db.SetMaxOpenConns(1)
	// With a limit of 0 the WAL's file is as small as what is in it, so that hooks
	// see by its size whether there is a worker that looks after it.
	pragmas := fmt.Sprintf("pragma wal_autocheckpoint = %d; pragma journal_size_limit = 0", autocheckpoint)
	if _, err := db.Exec(pragmas); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close closes the queue.
func (q *Queue) Close() error {
	q.wal.stop()
	return q.db.Close()
}

// File returns the absolute name of the queue's database.
func (q *Queue) File() string { return q.file }

// Identity returns what the queue is known by.
func (q *Queue) Identity() Identity { return q.id }

// Resolve returns the one name by which everybody knows the queue in file,
// whether there is one yet or not: two names of one database would have two lock
// files, and two workers.
func Resolve(file string) (string, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", openError(file, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", openError(file, err)
	}
	if info, err := os.Lstat(abs); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", openError(file, fmt.Errorf("it is a link to nothing: %w", fs.ErrNotExist))
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return abs, nil // (ignored) the directory has no other name yet
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

func openError(file string, err error) error {
	err = explain(err)
	if _, none := Identify(file); errors.Is(err, ErrCorrupt) && errors.Is(none, fs.ErrNotExist) {
		err = ErrNotQueue // it never was one
	}
	return fmt.Errorf("open queue %q: %w", file, err)
}

// explain makes SQLite's errors errors of this package, and of io/fs, so that
// callers need not know the driver.
func explain(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrAuth:
		return fmt.Errorf("%w: %v", fs.ErrPermission, err)
	case sqlite3.ErrCantOpen:
		// SQLite says "unable to open database file"; the system knows why.
		if e.SystemErrno != 0 {
			return e.SystemErrno
		}
	}
	return err
}

// Remove closes the queue and deletes its files. Its [Lock] must be held.
func (q *Queue) Remove() error {
	// The database first: SQLite writes what is in the log into it, and waits for the
	// disk, when the last connection is closed, unless there is none any more.
	errs := []error{os.Remove(q.file), q.Close()}
	for _, suffix := range []string{"-wal", "-shm", "-lock"} {
		errs = append(errs, os.Remove(q.file+suffix))
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove queue: %w", err)
		}
	}
	return nil
}
