package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
)

// openers are the ways to open a queue.
var openers = map[string]func(file string) error{
	"Create": func(file string) error { return closing(Create(background, file)) },
	"Open":   func(file string) error { return closing(Open(background, file)) },
	"OpenForHook": func(file string) error {
		return closing(OpenForHook(file, 100*time.Millisecond))
	},
}

func closing[Q io.Closer](q Q, err error) error {
	if err != nil {
		return err
	}
	return q.Close()
}

func TestNameMayBeAnything(t *testing.T) {
	for _, name := range []string{
		"what?.db", "100%.db", "100%41.db", "a#b.db", "a b.db", "a&mode=memory.db", "ö→.db", "a?b/c%20d/e#f/queue", "file:x", ":memory:",
	} {
		t.Run(name, func(t *testing.T) {
			dir := trouble.PublicDir(t)
			file := filepath.Join(dir, name)
			q := create(t, file)
			add(t, q, path("x"))
			for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
				if _, err := os.Stat(file + suffix); err != nil {
					t.Error(err)
				}
			}
			hook, err := OpenForHook(file, time.Second)
			must(t, err)
			must(t, hook.Add("", path("y")))
			must(t, hook.Close())
			if got := len(rows(t, create(t, file))); got != 2 {
				t.Errorf("%d rows, want 2", got)
			}
		})
	}
}

func TestMissingQueueIsNotMade(t *testing.T) {
	for _, name := range []string{"queue.db", "missing/queue.db"} {
		dir := trouble.PublicDir(t)
		file := filepath.Join(dir, name)
		for _, opener := range []string{"Open", "OpenForHook"} {
			err := openers[opener](file)
			wantIs(t, err, fs.ErrNotExist)
			wantText(t, err, fmt.Sprintf("open queue %q: ", file))
		}
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) > 0 {
			t.Errorf("directory has %v, want nothing", entries)
		}
	}
}

func TestNewerQueueIsRefused(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	must(t, q.Close())
	_, err := raw(t, q.File()).Exec("pragma user_version = 77")
	must(t, err)
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			err := open(q.File())
			wantIs(t, err, ErrTooNew)
			wantText(t, err, fmt.Sprintf("open queue %q: schema version 77 is newer than this program's %d", q.File(), len(schema())))
		})
	}
}

func TestOtherDatabasesAreRefused(t *testing.T) {
	for name, statements := range map[string]string{
		"without versions": "create table t (x)",
		"with a version":   "create table jobs (path unique, drv, added, due, state, again); pragma user_version = 1",
		"of another app":   "create table t (x); pragma user_version = 1; pragma application_id = 4711",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(trouble.PublicDir(t), "other.db")
			_, err := raw(t, file).Exec(statements)
			must(t, err)
			for name, open := range openers {
				err := open(file)
				if half := "schema version 0 is older"; name == "OpenForHook" && err != nil && strings.Contains(err.Error(), half) {
					continue // a hook can't tell it from a queue that is being made
				}
				wantIs(t, err, ErrNotQueue)
			}
			var n int
			must(t, raw(t, file).QueryRow("select count(*) from sqlite_schema where name = 'settings'").Scan(&n))
			if n != 0 {
				t.Error("the database was changed")
			}
		})
	}
}

func TestHalfMadeQueueIsFinishedByAWorkerOnly(t *testing.T) {
	// What is left if the power fails between the file and the schema.
	file := filepath.Join(trouble.PublicDir(t), "queue.db")
	must(t, os.WriteFile(file, nil, 0o644))
	wantText(t, openers["OpenForHook"](file), "schema version 0 is older than this program's")
	must(t, openers["Open"](file))
	must(t, openers["OpenForHook"](file))
}

func TestCorruptQueueIsCalledCorrupt(t *testing.T) {
	const page = 4096
	for name, spoil := range map[string]func(data []byte) []byte{
		"cut at a page":   func(data []byte) []byte { return data[:len(data)/2/page*page] },
		"cut in a page":   func(data []byte) []byte { return data[:len(data)/2+100] },
		"cut in the head": func(data []byte) []byte { return data[:50] },
		"another header":  func(data []byte) []byte { copy(data, "this is no database"); return data },
		"no database": func([]byte) []byte {
			return []byte(strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 200))
		},
		"garbage in the middle": func(data []byte) []byte {
			for i := page; i < len(data); i++ {
				data[i] = byte(i * 7)
			}
			return data
		},
		"garbage in the schema": func(data []byte) []byte {
			for i := 100; i < page; i++ {
				data[i] = 0xff
			}
			return data
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			add(t, q, paths("job", 500)...)
			must(t, q.Close())
			data, err := os.ReadFile(q.File())
			must(t, err)
			must(t, os.WriteFile(q.File(), spoil(data), 0o644))

			wantCorrupt(t, "worker", useAsWorker(t, q.File()))
			wantCorrupt(t, "hook", useAsHook(t, q.File()))
		})
	}
}

func wantCorrupt(t *testing.T, who string, err error) {
	t.Helper()
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("to the %s the error is %v, want %v", who, err, ErrCorrupt)
	}
}

// useAsWorker does all that a worker does, and returns what went wrong.
func useAsWorker(t *testing.T, file string) error {
	q, err := Open(t.Context(), file)
	if err != nil {
		return err
	}
	defer q.Close()
	var problems []error
	for {
		job, err := q.Claim(t.Context())
		if err != nil {
			problems = append(problems, err)
			break
		}
		if err := q.Done(t.Context(), job, nil); err != nil {
			problems = append(problems, err)
			break
		}
	}
	for _, err := range q.Rows(t.Context()) {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func useAsHook(t *testing.T, file string) error {
	q, err := OpenForHook(file, 100*time.Millisecond)
	if err != nil {
		return err
	}
	defer q.Close()
	return q.Add("", paths("more", 500)...)
}

func TestLockedQueueEndsTheHooksPatience(t *testing.T) {
	q := newQueue(t)
	tx, err := raw(t, q.File()).Begin()
	must(t, err)
	defer tx.Rollback()
	hook, err := OpenForHook(q.File(), 50*time.Millisecond)
	must(t, err)
	defer hook.Close()
	begin := time.Now()
	wantText(t, hook.Add("", path("x")), "add to queue: database is locked")
	if d := time.Since(begin); d < 40*time.Millisecond || d > 20*time.Second {
		t.Errorf("Add gave up after %v, want 50ms", d)
	}
}

func TestForeignQueueIsRefused(t *testing.T) {
	q := newQueue(t)
	add(t, q, path("x"))
	closed := newQueue(t)
	must(t, closed.Close())
	for name, file := range map[string]string{
		"new":         filepath.Join(trouble.PublicDir(t), "queue.db"),
		"in use":      q.File(),
		"not in use":  closed.File(),
		"new in a /x": filepath.Join(trouble.PublicDir(t), "x", "queue.db"),
	} {
		t.Run(name, func(t *testing.T) {
			verbs := []string{"create", "lock", "add"}
			if strings.HasPrefix(name, "new") {
				verbs = verbs[:1]
			}
			for _, verb := range verbs {
				words := strings.Join(start(t, nobody, verb, file).finish(t), "\n")
				if !strings.Contains(words, "["+fs.ErrPermission.Error()+"]") {
					t.Errorf("%s says %q, want %q", verb, words, fs.ErrPermission)
				}
			}
		})
	}
	if got := len(rows(t, q)); got != 1 {
		t.Errorf("%d rows, want 1", got)
	}
}

func TestUsersQueueStaysTheUsersBesideRootsHook(t *testing.T) {
	dir := trouble.PublicDir(t)
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir, int(nobody.Uid), int(nobody.Gid)))
	}
	file := filepath.Join(dir, "queue.db")
	user := start(t, nobody, "create", file)
	user.line(t)
	must(t, user.stdin.Close())
	user.line(t)
	must(t, user.cmd.Wait())
	if _, err := os.Stat(file + "-wal"); err != nil {
		t.Fatalf("the user's process leaves no log, and so the test shows nothing: %v", err)
	}
	must(t, os.Remove(file+"-shm")) // root's hook is the first to come back

	start(t, nil, "add", file).finish(t)
	for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
		info, err := os.Stat(file + suffix)
		must(t, err)
		if sys := info.Sys().(*syscall.Stat_t); sys.Uid != nobody.Uid || sys.Gid != nobody.Gid {
			t.Errorf("%s belongs to %d:%d, want the user", file+suffix, sys.Uid, sys.Gid)
		}
	}
	user = start(t, nobody, "claim", file)
	user.line(t)
	if got := user.finish(t); len(got) != 2 {
		t.Errorf("the user claims %q, want two paths", got)
	}
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want %q in it", err, text)
	}
}
