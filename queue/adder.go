package queue

/*
// What a hook needs of SQLite. The driver brings SQLite into the program, but keeps
// its header for itself.
#define CONFIG_PAGECACHE 7
#define CONFIG_MEMSTATUS 9
#define CONFIG_LOOKASIDE 13
#define OK 0
#define ROW 100
#define OPEN_READWRITE 0x00000002
#define OPEN_NOMUTEX 0x00008000
#define OPEN_EXRESCODE 0x02000000

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;

int sqlite3_config(int, ...);
int sqlite3_open_v2(const char *, sqlite3 **, int, const char *);
int sqlite3_close(sqlite3 *);
int sqlite3_busy_timeout(sqlite3 *, int);
int sqlite3_wal_autocheckpoint(sqlite3 *, int);
int sqlite3_changes(sqlite3 *);
int sqlite3_prepare_v2(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
int sqlite3_bind_text(sqlite3_stmt *, int, const char *, int, void (*)(void *));
int sqlite3_bind_int64(sqlite3_stmt *, int, long long);
int sqlite3_step(sqlite3_stmt *);
int sqlite3_reset(sqlite3_stmt *);
int sqlite3_finalize(sqlite3_stmt *);
long long sqlite3_column_int64(sqlite3_stmt *, int);
const char *sqlite3_errmsg(sqlite3 *);
int sqlite3_system_errno(sqlite3 *);

static int open_database(const char *file, int busy, sqlite3 **db) {
	// Or SQLite makes room for 20 pages and 120 small things at once, writes to all of
	// it, and counts what it uses: a twentieth of the hook's time. These are refused, and
	// do not matter, where SQLite is in use.
	sqlite3_config(CONFIG_PAGECACHE, (void *)0, 0, 0);
	sqlite3_config(CONFIG_LOOKASIDE, 1200, 12);
	sqlite3_config(CONFIG_MEMSTATUS, 0);
	int rc = sqlite3_open_v2(file, db, OPEN_READWRITE | OPEN_NOMUTEX | OPEN_EXRESCODE, 0);
	if (rc == OK)
		rc = sqlite3_busy_timeout(*db, busy);
	if (rc == OK) // the WAL is the worker's to look after, or Tidy's
		rc = sqlite3_wal_autocheckpoint(*db, 0);
	return rc;
}

// run runs one statement, and gives the number in its first row, if it has any.
static int run(sqlite3 *db, const char *sql, int len, long long *number) {
	sqlite3_stmt *stmt;
	int rc = sqlite3_prepare_v2(db, sql, len, &stmt, 0);
	if (rc != OK)
		return rc;
	if (sqlite3_step(stmt) == ROW)
		*number = sqlite3_column_int64(stmt, 0);
	return sqlite3_finalize(stmt);
}

static int add(sqlite3_stmt *stmt, const char *path, int path_len, const char *drv, int drv_len, long long now) {
	sqlite3_bind_text(stmt, 1, path, path_len, 0);
	sqlite3_bind_text(stmt, 2, drv, drv_len, 0);
	sqlite3_bind_int64(stmt, 3, now);
	sqlite3_step(stmt);
	return sqlite3_reset(stmt);
}
*/
import "C"

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/mattn/go-sqlite3"
)

// maxWAL is how large the WAL may be, in bytes, for a hook to leave it as it is.
// Without a worker it must not grow for ever: the first process that opens a queue
// reads all of it, and every hook may be the first.
const maxWAL = 256 << 10

// maxWorkersWAL is the same beside a worker, which leaves less than half of that: it may
// hang.
const maxWorkersWAL = 8 << 20

// An Adder is a queue as a hook sees it: something to add to, and nothing else.
//
// It speaks to SQLite itself, since every build waits for its hook. The goroutines of
// database/sql would make the runtime start threads, and the driver does twice as much
// before it begins. It is not safe for use by several goroutines.
type Adder struct {
	file             string
	db               *C.sqlite3
	addNew, addAgain *C.sqlite3_stmt
}

// OpenForHook opens an existing queue to add to it. Every wait for other processes
// ends after busy. The process may end without closing the queue, and should:
// closing would make it wait for the disk.
func OpenForHook(file string, busy time.Duration) (*Adder, error) {
	a := &Adder{file: file}
	err := a.check(C.open_database(text(file+"\x00"), C.int(busy.Milliseconds()), &a.db))
	if err == nil {
		err = a.prepare()
	}
	if err != nil {
		a.Close()
		return nil, openError(file, err)
	}
	return a, nil
}

func (a *Adder) prepare() error {
	if _, err := a.run("pragma synchronous = normal"); err != nil { // in WAL mode: a commit does not wait for the disk
		return err
	}
	version, err := a.run("pragma user_version")
	if err != nil {
		return err
	}
	app, err := a.run("pragma application_id")
	if err != nil {
		return err
	}
	return checkSchema(app, version)
}

// Add is [Queue.Add].
func (a *Adder) Add(drv string, paths ...string) error {
	if err := a.add(drv, paths); err != nil {
		return fmt.Errorf("add to queue: %w", explain(err))
	}
	return nil
}

func (a *Adder) add(drv string, paths []string) error {
	if len(paths) == 1 { // a transaction of its own
		return a.addOne(drv, paths[0])
	}
	if _, err := a.run("begin immediate"); err != nil {
		return err
	}
	for _, path := range paths {
		if err := a.addOne(drv, path); err != nil {
			_, _ = a.run("rollback") // (ignored) SQLite may have done so already
			return err
		}
	}
	_, err := a.run("commit")
	return err
}

// addOne adds a path. Mostly there is none like it, and what SQLite prepares for one
// would be noticed.
func (a *Adder) addOne(drv, path string) (err error) {
	if a.addNew, err = a.exec(a.addNew, addNewSQL, drv, path); err != nil || C.sqlite3_changes(a.db) > 0 {
		return err
	}
	a.addAgain, err = a.exec(a.addAgain, addOneSQL, drv, path)
	return err
}

// exec runs a statement that adds, prepares it if it is nil, and returns it.
func (a *Adder) exec(stmt *C.sqlite3_stmt, sql, drv, path string) (*C.sqlite3_stmt, error) {
	if stmt == nil {
		if err := a.check(C.sqlite3_prepare_v2(a.db, text(sql), C.int(len(sql)), &stmt, nil)); err != nil {
			return nil, err
		}
	}
	now := C.longlong(time.Now().UnixMilli())
	return stmt, a.check(C.add(stmt, text(path), C.int(len(path)), text(drv), C.int(len(drv)), now))
}

// Tidy empties the WAL if it has grown large. Hooks call it when all else is done:
// what they added does not depend on it.
func (a *Adder) Tidy() error {
	info, err := os.Stat(a.file + "-wal")
	if err != nil || info.Size() <= maxWAL {
		return nil // (ignored) no file is no large file
	}
	if alive, _ := workerAlive(a.file); alive && info.Size() <= maxWorkersWAL {
		return nil // (ignored) who can't tell does it himself
	}
	// An automatic checkpoint would not do: that it is done stands in memory which
	// the last process takes with it, so that the next one would do it again.
	if _, err := a.run("pragma wal_checkpoint(truncate)"); err != nil {
		return fmt.Errorf("empty the queue's log: %w", explain(err))
	}
	return nil
}

// Close closes the queue.
func (a *Adder) Close() error {
	C.sqlite3_finalize(a.addNew)
	C.sqlite3_finalize(a.addAgain)
	a.addNew, a.addAgain = nil, nil
	return a.check(C.sqlite3_close(a.db))
}

// run runs a statement, and returns the number that it answers, or 0.
func (a *Adder) run(statement string) (int64, error) {
	var n C.longlong
	err := a.check(C.run(a.db, text(statement), C.int(len(statement)), &n))
	return int64(n), err
}

// check returns what SQLite's code means, as an error like the driver's.
func (a *Adder) check(code C.int) error {
	if code == C.OK {
		return nil
	}
	e := sqlite3.Error{Code: sqlite3.ErrNo(code & 0xff), ExtendedCode: sqlite3.ErrNoExtended(code)}
	if a.db != nil && (e.Code == sqlite3.ErrCantOpen || e.Code == sqlite3.ErrIoErr) {
		e.SystemErrno = syscall.Errno(C.sqlite3_system_errno(a.db))
	}
	if more := C.GoString(C.sqlite3_errmsg(a.db)); !strings.HasPrefix(e.Error(), more) {
		return fmt.Errorf("%w: %s", e, more)
	}
	return e
}

// text returns where C finds a string. SQLite takes its length with it, but where that
// is 0 there must be something, or it is no string.
func text(s string) *C.char {
	if s == "" {
		s = "\x00"
	}
	return (*C.char)(unsafe.Pointer(unsafe.StringData(s)))
}
