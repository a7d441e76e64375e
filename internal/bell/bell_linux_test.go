package bell

import (
	"bytes"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/nix-larder/larder/internal/trouble"
)

// listen listens to a file. Nothing may be said in the log.
func listen(t *testing.T, file string) <-chan struct{} {
	t.Helper()
	var log bytes.Buffer
	rings, stop := Listen(file, slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() {
		stop()
		if log.Len() > 0 {
			t.Errorf("log has %q", &log)
		}
	})
	return rings
}

// wantRing waits for the bell.
func wantRing(t *testing.T, rings <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-rings:
	case <-time.After(time.Minute):
		t.Fatalf("the bell does not ring after %s", what)
	}
}

// write writes to a file, with one event.
func write(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	must(t, err)
	_, err = f.WriteString("x")
	must(t, err)
	must(t, f.Close())
}

func TestBellRingsForTheFileAndItsLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.sqlite")
	must(t, os.WriteFile(file, nil, 0o644))
	rings := listen(t, file)
	for range 3 {
		for _, suffix := range []string{"", "-wal"} {
			write(t, file+suffix)
			wantRing(t, rings, "a write to "+suffix)
		}
		must(t, os.Remove(file+"-wal")) // logs come and go
	}
}

func TestBellDoesNotRingForAnythingElse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "db.sqlite")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		must(t, os.WriteFile(file+suffix, []byte("text"), 0o644))
	}
	rings := listen(t, file)
	for _, do := range []struct {
		name string
		do   func() error
	}{
		{"a read", func() error { _, err := os.ReadFile(file); return err }},
		{"a read of the log", func() error { _, err := os.ReadFile(file + "-wal"); return err }},
		{"another mode", func() error { return os.Chmod(file, 0o600) }},
		{"another time", func() error { return os.Chtimes(file, time.Now(), time.Unix(0, 0)) }},
		{"the end of the log", func() error { return os.Remove(file + "-wal") }},
		{"the beginning of a log", func() error { return os.WriteFile(file+"-wal", nil, 0o644) }},
		{"a write to the index", func() error { return os.WriteFile(file+"-shm", []byte("index"), 0o644) }},
		{"a write to another file", func() error { return os.WriteFile(filepath.Join(dir, "other"), []byte("x"), 0o644) }},
		{"a write to a longer name", func() error { return os.WriteFile(file+"-wal2", []byte("x"), 0o644) }},
	} {
		must(t, do.do())
		select {
		case <-rings:
			t.Errorf("the bell rings after %s", do.name)
		case <-time.After(50 * time.Millisecond): // to see that nothing happens takes time
		}
	}
	write(t, file)
	wantRing(t, rings, "a write")
}

func TestManyChangesAreOneRing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.sqlite")
	rings := listen(t, file)
	for range 100 {
		write(t, file)
	}
	trouble.Eventually(t, "it rings", func() bool { return len(rings) > 0 })
	time.Sleep(100 * time.Millisecond) // not to wait for anything: events may come, and must not pile up
	if n := len(rings); n != 1 {
		t.Errorf("it rings %d times", n)
	}
}

// TestBellRingsForSQLite has a database that is written to, and read.
func TestBellRingsForSQLite(t *testing.T) {
	for _, mode := range []string{"wal", "truncate"} {
		t.Run(mode, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "db.sqlite")
			db, err := sql.Open("sqlite3", "file:"+file+"?_journal_mode="+mode)
			must(t, err)
			defer db.Close()
			_, err = db.Exec("create table t (n integer)")
			must(t, err)
			rings := listen(t, file)
			for range 10 {
				_, err := db.Exec("insert into t values (1)")
				must(t, err)
				wantRing(t, rings, "a commit")
			}
		})
	}
}

func TestBellThatCantBeHungIsSaid(t *testing.T) {
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "none", "db.sqlite")
	before := runtime.NumGoroutine()
	rings, stop := Listen(file, slog.New(slog.NewTextHandler(&log, nil)))
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), file) {
		t.Errorf("log has %q, want one warning for %s", &log, file)
	}
	must(t, os.Mkdir(filepath.Dir(file), 0o755))
	write(t, file)
	select {
	case <-rings:
		t.Error("it rings")
	case <-time.After(50 * time.Millisecond): // to see that nothing happens takes time
	}
	stop()
	wantGoroutines(t, before)
}

func TestStoppedBellLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	before := runtime.NumGoroutine()
	for range 20 {
		rings, stop := Listen(filepath.Join(dir, "db.sqlite"), slog.New(slog.DiscardHandler))
		write(t, filepath.Join(dir, "db.sqlite")) // a ring that nobody hears
		_ = rings
		stop()
		stop()
	}
	wantGoroutines(t, before)
}

// wantGoroutines waits until there are no more goroutines than there were.
func wantGoroutines(t *testing.T, before int) {
	t.Helper()
	trouble.Eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
