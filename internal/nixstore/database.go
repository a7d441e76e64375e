package nixstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

// Nix's schema version, as it stands in db/schema.
const schemaVersion = "10"

// A database is Nix's, for reading, in one of two ways.
//
// Live: in WAL mode, with SQLite's own locks, beside whoever writes.
//
// As a snapshot: the file alone, without a lock, and what was read counts only if
// the file was the same before and after. That is for those whom SQLite does not
// let in:
//
//   - With use-sqlite-wal = false Nix locks by means of a directory beside the file,
//     which a reader has to make too. Whoever is killed meanwhile leaves it behind,
//     and then Nix waits for ever: that is not for guests.
//   - Before 2.22 Nix removes its log when it is idle, and only those who may write
//     the directory can make one. Without a log the file is all there is.
type database struct {
	dir  string
	file string
	busy time.Duration
	live *sql.DB

	// mu keeps snapshots and live reads apart: to close a file drops the locks that
	// a process has on it, through whatever it opened it.
	mu sync.RWMutex
}

var (
	// errNoWAL says that the database can't be read live.
	errNoWAL = errors.New("it has no write-ahead log")
	// errChanging says that a snapshot could not be had: somebody writes.
	errChanging = errors.New("it is being written to")
)

func openDatabase(dir string, busy time.Duration) (*database, error) {
	d := &database{dir: dir, file: filepath.Join(dir, "db.sqlite"), busy: busy}
	if err := d.checkSchema(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(d.file); err != nil {
		return nil, err
	}
	d.live = sql.OpenDB(&connector{d, d.dataSource(nil), needWAL})
	d.live.SetConnMaxIdleTime(2 * time.Second)
	d.live.SetConnMaxLifetime(time.Minute) // or a new schema would not be noticed
	return d, nil
}

func (d *database) close() error { return d.live.Close() }

// checkSchema returns an error if the schema is not the one that we know. Nix
// changes it with the first command of a release that has a new one.
func (d *database) checkSchema() error {
	version, err := os.ReadFile(filepath.Join(d.dir, "schema"))
	if err != nil {
		return err
	}
	if v := strings.TrimSpace(string(version)); v != schemaVersion {
		return fmt.Errorf("%w: its schema is version %s, want %s; a newer larder may know it", ErrUnavailable, v, schemaVersion)
	}
	return nil
}

func (d *database) dataSource(further url.Values) string {
	query := url.Values{
		"mode":             {"ro"},
		"_busy_timeout":    {strconv.FormatInt(d.busy.Milliseconds(), 10)},
		"_stmt_cache_size": {"16"},
	}
	maps.Copy(query, further)
	dsn := url.URL{Scheme: "file", Path: d.file, RawQuery: query.Encode()}
	return dsn.String()
}

// read runs f in a transaction: one state of the database, however long others
// write beside it. Any such state is complete: Nix registers a path together
// with, or after, all that it refers to. f may be called several times; the last
// time counts.
func (d *database) read(ctx context.Context, f func(*sql.Tx) error) error {
	for giveUp := time.Now().Add(d.busy); ; {
		err := d.readLive(ctx, f)
		if !lockedOut(err) {
			return unavailable(err)
		}
		noSnapshot := d.readSnapshot(ctx, f)
		if !errors.Is(noSnapshot, errChanging) {
			return unavailable(noSnapshot)
		}
		if time.Now().After(giveUp) {
			return unavailable(fmt.Errorf("%w, and %w", noSnapshot, err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settled):
		}
	}
}

func (d *database) readLive(ctx context.Context, f func(*sql.Tx) error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return transact(ctx, d.live, f)
}

func (d *database) readSnapshot(ctx context.Context, f func(*sql.Tx) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live.SetMaxIdleConns(0)
	defer d.live.SetMaxIdleConns(2)
	before, err := d.state()
	if err != nil {
		return err
	}
	db := sql.OpenDB(&connector{d, d.dataSource(url.Values{"immutable": {"1"}}), nil})
	defer db.Close()
	err = transact(ctx, db, f)
	// If it changed, whatever f saw does not count.
	switch after, err := d.state(); {
	case err != nil && !errors.Is(err, errChanging):
		return fmt.Errorf("%w: %w", errChanging, err)
	case err != nil || after != before:
		return errChanging
	}
	return err
}

func transact(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // (ignored) nothing was written
	return f(tx)
}

// settled is how long a file must have been left alone for its times to tell
// whether it is changed: longer than a tick of the kernel's clock.
const settled = 20 * time.Millisecond

// A state is what changes with a file.
type state struct {
	inode, size, changed int64
}

// state returns the state of a database that is at rest. The error wraps
// errChanging if it is not.
func (d *database) state() (state, error) {
	var s unix.Stat_t
	if err := unix.Stat(d.file, &s); err != nil {
		return state{}, &fs.PathError{Op: "stat", Path: d.file, Err: err}
	}
	// A change in the future was before the clock was set back.
	if time.Since(time.Unix(s.Ctim.Unix())).Abs() < settled {
		return state{}, errChanging
	}
	// What is in a log belongs to the database, or to a writer that is at work, or was
	// killed.
	for _, log := range []string{"-wal", "-journal"} {
		info, err := os.Stat(d.file + log)
		if err == nil && info.Size() > 0 {
			return state{}, errChanging
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return state{}, err
		}
	}
	return state{int64(s.Ino), s.Size, s.Ctim.Nano()}, nil
}

// lockedOut tells whether SQLite does not let us in live.
func lockedOut(err error) bool {
	var e sqlite3.Error
	return err == errNoWAL || errors.As(err, &e) && (e.Code == sqlite3.ErrCantOpen || e.Code == sqlite3.ErrReadonly)
}

// unavailable adds [ErrUnavailable] to what the database says.
func unavailable(err error) error {
	var e sqlite3.Error
	var file *fs.PathError
	if errors.As(err, &e) || errors.As(err, &file) || errors.Is(err, errChanging) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// needWAL returns errNoWAL if Nix uses no log.
func needWAL(conn *sqlite3.SQLiteConn) error {
	mode, err := journalMode(conn)
	var e sqlite3.Error
	if errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB) {
		// Without a log, and without locks that we see, a database looks like that
		// while it is written. A snapshot tells whether it really is.
		return errNoWAL
	}
	if err == nil && mode != "wal" {
		err = errNoWAL
	}
	return err
}

func journalMode(conn *sqlite3.SQLiteConn) (any, error) {
	rows, err := conn.Query("pragma journal_mode", nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	mode := make([]driver.Value, 1)
	err = rows.Next(mode)
	return mode[0], err
}

// A connector opens connections, each after a look at the schema.
type connector struct {
	of         *database
	dataSource string
	opened     func(*sqlite3.SQLiteConn) error
}

func (c *connector) Connect(context.Context) (driver.Conn, error) {
	if err := c.of.checkSchema(); err != nil {
		return nil, err
	}
	return c.Driver().Open(c.dataSource)
}

func (c *connector) Driver() driver.Driver { return &sqlite3.SQLiteDriver{ConnectHook: c.opened} }
