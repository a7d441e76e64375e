package nixstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

// withoutLog returns the store of a Nix that uses no write-ahead log.
func withoutLog(t testing.TB) *nixtest.Store {
	t.Helper()
	nix := nixtest.New(t, "use-sqlite-wal = false")
	head, err := os.ReadFile(dbFile(nix))
	must(t, err)
	if head[18] != 1 || head[19] != 1 {
		t.Fatalf("versions in the database's header are %d and %d, want 1: Nix uses a log all the same", head[18], head[19])
	}
	return nix
}

func dbFile(nix *nixtest.Store) string { return filepath.Join(nix.State, "db", "db.sqlite") }

// dotfile opens a database that has no log as Nix does.
func dotfile(t testing.TB, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+file+"?vfs=unix-dotfile&_busy_timeout=10000")
	must(t, err)
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	return db
}

// dbFiles returns what is in the directory of Nix's database, and the size of each.
func dbFiles(t testing.TB, nix *nixtest.Store) map[string]int64 {
	t.Helper()
	files := make(map[string]int64)
	entries, err := os.ReadDir(filepath.Join(nix.State, "db"))
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		files[e.Name()] = info.Size()
	}
	return files
}

// TestStoreWithoutALogIsReadAndLeftAlone looks for what a reader makes, even if it
// takes it away again: Nix would wait for it.
func TestStoreWithoutALogIsReadAndLeftAlone(t *testing.T) {
	nix := withoutLog(t)
	top := nix.AddTexts(t, "text", 30)
	before := dbFiles(t, nix)
	w, err := fsnotify.NewWatcher()
	must(t, err)
	defer w.Close()
	must(t, w.Add(filepath.Dir(dbFile(nix))))

	s := openStore(t, nix)
	for range 20 {
		g, err := s.Closure(t.Context(), []string{top}, nothing)
		must(t, err)
		if len(g) != 30 {
			t.Errorf("closure of %d paths, want 30", len(g))
		}
	}
	// Events come in their order: this is the last.
	last := filepath.Join(filepath.Dir(dbFile(nix)), "last")
	must(t, os.WriteFile(last, nil, 0o644))
	for e := range w.Events {
		if e.Name == last {
			break
		}
		t.Errorf("reading did this: %v", e)
	}
	must(t, os.Remove(last))
	if diff := cmp.Diff(before, dbFiles(t, nix)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	nix.Add(t, "source", "Nix waits for nobody")
}

// A moment is what a store had in it, all at once: paths, and how many references
// each has.
type moment map[string]int

// readMoment reads all of a store in one transaction.
func readMoment(ctx context.Context, read func(context.Context, func(*sql.Tx) error) error) (m moment, err error) {
	err = read(ctx, func(tx *sql.Tx) error {
		m = make(moment)
		rows, err := tx.QueryContext(ctx, `select p.path, (select count(v.id) from Refs r
			left join ValidPaths v on v.id = r.reference where r.referrer = p.id) from ValidPaths p`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var path string
			var refs int
			if err := rows.Scan(&path, &refs); err != nil {
				return err
			}
			m[path] = refs
		}
		return rows.Err()
	})
	return m, err
}

// check reports a text, of nixtest.AddTexts, that lacks a reference.
func (m moment) check() error {
	for path, refs := range m {
		number, err := strconv.Atoi(path[strings.LastIndex(path, "-")+1:])
		if err != nil {
			return err
		}
		want := 2
		if number <= 2 {
			want = min(number, 1) // both are the same
		}
		if refs != want {
			return fmt.Errorf("%s refers to %d valid paths, want %d", path, refs, want)
		}
	}
	return nil
}

// TestEveryReadIsOfOneMoment reads, in every way and many times, while Nix writes.
func TestEveryReadIsOfOneMoment(t *testing.T) {
	for name, conf := range map[string]string{"with a log": "", "without": "use-sqlite-wal = false"} {
		t.Run(name, func(t *testing.T) {
			nix := nixtest.New(t, conf)
			nix.AddTexts(t, "first", 10)
			s := openStore(t, nix)
			ways := map[string]func(context.Context, func(*sql.Tx) error) error{
				"read": s.db.read, "live": s.db.readLive, "snapshot": s.db.readSnapshot,
			}
			if conf != "" {
				delete(ways, "live")
			}
			stop := make(chan bool)
			var readers sync.WaitGroup
			for way, read := range ways {
				for range 4 {
					readers.Go(func() {
						n, err := readUntil(t.Context(), stop, read)
						t.Logf("%s: %d times", way, n)
						if err != nil {
							t.Errorf("%s: %v", way, err)
						}
						if n == 0 && way != "snapshot" { // which waits for nobody
							t.Errorf("%s: nothing could be read", way)
						}
					})
				}
			}
			const rounds, count = 6, 20
			for i := range rounds {
				nix.AddTexts(t, fmt.Sprint("text", i), count)
			}
			close(stop)
			readers.Wait()
			m, err := readMoment(t.Context(), s.db.read)
			must(t, err)
			if len(m) != 10+rounds*count {
				t.Errorf("%d paths in the end, want %d", len(m), 10+rounds*count)
			}
		})
	}
}

// readUntil reads all of a store again and again, at least once after stop, and
// returns how many times it could. The error says what is wrong with one of them.
func readUntil(ctx context.Context, stop <-chan bool, read func(context.Context, func(*sql.Tx) error) error) (n int, err error) {
	for last, stopped := 0, false; !stopped; {
		select {
		case <-stop:
			stopped = true
		default:
		}
		m, err := readMoment(ctx, read)
		if errors.Is(err, errChanging) && !errors.Is(err, ErrUnavailable) {
			continue
		}
		if err != nil {
			return n, err
		}
		if err := m.check(); err != nil {
			return n, err
		}
		if len(m) < max(last, 10) {
			return n, fmt.Errorf("%d paths, after there were %d", len(m), last)
		}
		last = len(m)
		n++
	}
	return n, nil
}

// TestTornReadIsNeverReturned changes the database in the middle of a read.
func TestTornReadIsNeverReturned(t *testing.T) {
	const update = "update ValidPaths set narSize = narSize + 1"
	for name, change := range map[string]func(t *testing.T, file string) (end func() error){
		"a commit": func(t *testing.T, file string) func() error {
			_, err := dotfile(t, file).Exec(update)
			must(t, err)
			return nil
		},
		"a touch": func(t *testing.T, file string) func() error {
			must(t, os.Chtimes(file, time.Time{}, time.Unix(0, 0)))
			return nil
		},
		"another file": func(t *testing.T, file string) func() error {
			data, err := os.ReadFile(file)
			must(t, err)
			must(t, os.WriteFile(file+"-new", data, 0o644))
			must(t, os.Rename(file+"-new", file))
			return nil
		},
		"a writer that is still at it": func(t *testing.T, file string) func() error {
			tx, err := dotfile(t, file).Begin()
			must(t, err)
			_, err = tx.Exec(update)
			must(t, err)
			return tx.Commit
		},
	} {
		t.Run(name, func(t *testing.T) {
			nix := withoutLog(t)
			nix.Add(t, "source", "source")
			s := openStore(t, nix)
			for what, result := range map[string]error{"a result": nil, "an error": ErrNotValid} {
				calls := 0
				ended := make(chan error, 1)
				err := s.db.read(t.Context(), func(*sql.Tx) error {
					if calls++; calls > 1 {
						return nil
					}
					end := change(t, dbFile(nix))
					if end == nil {
						untilSettled(t, s) // a long read must find out all the same
						ended <- nil
						return result
					}
					// Meanwhile others look in vain.
					time.AfterFunc(50*time.Millisecond, func() { ended <- end() })
					return result
				})
				if err != nil || calls < 2 {
					t.Errorf("%s: read %d times, and then %v; want another look, and no error", what, calls, err)
				}
				must(t, <-ended)
			}
		})
	}
}

// TestSnapshotBesideALogIsNone has a writer whose changes are in the log alone: they are
// of the database, but not in its file.
func TestSnapshotBesideALogIsNone(t *testing.T) {
	nix := nixtest.New(t)
	nix.Add(t, "source", "source")
	s := openStore(t, nix)
	db, err := sql.Open("sqlite3", "file:"+dbFile(nix))
	must(t, err)
	defer db.Close()
	untilSettled(t, s)
	for _, when := range []string{"meanwhile", "before"} {
		err := s.db.readSnapshot(t.Context(), func(*sql.Tx) error {
			_, err := db.Exec("update ValidPaths set narSize = narSize + 1")
			return err
		})
		if !errors.Is(err, errChanging) {
			t.Errorf("a commit %s: %v, want errChanging", when, err)
		}
	}
	must(t, db.Close()) // which empties the log
	untilSettled(t, s)
	must(t, s.db.readSnapshot(t.Context(), func(*sql.Tx) error { return nil }))
}

// untilSettled waits until a store's database is at rest.
func untilSettled(t *testing.T, s *Store) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := s.db.state()
		if err == nil {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatal(err)
		}
	}
}

// TestWriterThatNeverEndsMakesTheStoreUnavailable has what is left of one that was
// killed, and one that goes on for longer than anybody waits.
func TestWriterThatNeverEndsMakesTheStoreUnavailable(t *testing.T) {
	nix := withoutLog(t)
	source := nix.Add(t, "source", "source")
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, 100*time.Millisecond)
	must(t, err)
	defer s.Close()
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotValid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want ErrUnavailable, in one line", what, err)
		}
	}
	journal := dbFile(nix) + "-journal"
	must(t, os.WriteFile(journal, []byte("half"), 0o644))
	_, err = s.Info(t.Context(), source)
	check("a killed writer's journal", err)
	must(t, os.Truncate(journal, 0))

	check("writes without a pause", s.db.read(t.Context(), func(*sql.Tx) error {
		return os.Chtimes(dbFile(nix), time.Time{}, time.Now())
	}))
	ctx, cancel := context.WithCancel(t.Context())
	err = s.db.read(ctx, func(*sql.Tx) error {
		cancel()
		return os.Chtimes(dbFile(nix), time.Time{}, time.Now())
	})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Errorf("canceled: %v, want context.Canceled", err)
	}
	untilSettled(t, s)
	if _, err := s.Info(t.Context(), source); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestClockThatWasSetBackIsNoTrouble has a database that was changed in the future.
func TestClockThatWasSetBackIsNoTrouble(t *testing.T) {
	nix := withoutLog(t)
	source := nix.Add(t, "source", "source")
	synctest.Test(t, func(t *testing.T) {
		if year := time.Now().Year(); year != 2000 {
			t.Fatalf("it is the year %d, and so the test shows nothing", year)
		}
		if _, err := openStore(t, nix).Info(t.Context(), source); err != nil {
			t.Error(err)
		}
	})
}
