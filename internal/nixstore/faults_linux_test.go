package nixstore

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["read as nobody"] = readAsNobody
	parts["write and wait"] = writeAndWait
}

// readAsNobody is a child that may read the database, but not write its directory.
func readAsNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	s, err := Open(Dirs{Store: args[0], State: args[1]}, 5*time.Second)
	if err != nil {
		return err
	}
	defer s.Close()
	path, want := args[2], args[3]
	if want == "unavailable" {
		s.db.busy = 100 * time.Millisecond
	}
	info, err := s.Info(context.Background(), path)
	switch {
	case want == "allowed" && err == nil && info.Path == path:
		return nil
	case want == "unavailable" && errors.Is(err, ErrUnavailable):
		return nil
	}
	return fmt.Errorf("read as nobody: %v; want it to be %s", err, want)
}

// writeAndWait is a child that registers a path, and waits to be killed.
func writeAndWait(args []string) error {
	db, err := sql.Open("sqlite3", "file:"+args[0])
	if err != nil {
		return err
	}
	_, err = db.Exec("insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)", args[1], "sha256:"+fmt.Sprintf("%064d", 0))
	if err != nil {
		return err
	}
	fmt.Println("written")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// killWriter has a path registered by a writer that is killed, so that the path is
// in the log alone.
func killWriter(t *testing.T, nix *nixtest.Store) (path string) {
	t.Helper()
	path = filepath.Join(nix.Dir, fmt.Sprintf("%032d-by-the-killed", 0))
	must(t, os.WriteFile(path, nil, 0o644))
	cmd := trouble.Command(t, "write and wait", dbFile(nix), path)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if said := bufio.NewScanner(out); !said.Scan() {
		t.Fatal("the writer ended without a word")
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // (ignored) it was killed
	if dbFiles(t, nix)["db.sqlite-wal"] == 0 {
		t.Fatal("the killed writer left no log, and so the test shows nothing")
	}
	return path
}

// readByRoot leaves behind what root's readers do: a log with nothing in it.
func readByRoot(t *testing.T, nix *nixtest.Store, path string) {
	t.Helper()
	s, err := Open(Dirs{Store: nix.Dir, State: nix.State}, time.Second)
	must(t, err)
	defer s.Close()
	_, err = s.Info(t.Context(), path)
	must(t, err)
}

// TestOthersReadTheStore reads as somebody who may write nothing there.
func TestOthersReadTheStore(t *testing.T) {
	trouble.NeedRoot(t)
	for name, test := range map[string]struct {
		conf    string
		prepare func(t *testing.T, nix *nixtest.Store, source string) (path string)
		want    string
	}{
		"at rest": {"", func(_ *testing.T, _ *nixtest.Store, source string) string { return source }, "allowed"},
		"while somebody reads": {"", func(t *testing.T, nix *nixtest.Store, source string) string {
			_, err := openStore(t, nix).Info(t.Context(), source)
			must(t, err)
			return source
		}, "allowed"},
		"while somebody writes": {"", func(t *testing.T, nix *nixtest.Store, source string) string {
			db, err := sql.Open("sqlite3", "file:"+dbFile(nix))
			must(t, err)
			tx, err := db.Begin()
			must(t, err)
			_, err = tx.Exec("delete from ValidPaths")
			must(t, err)
			t.Cleanup(func() { must(t, errors.Join(tx.Rollback(), db.Close())) })
			return source
		}, "allowed"},
		"after a reader": {"", func(t *testing.T, nix *nixtest.Store, source string) string {
			readByRoot(t, nix, source)
			return source
		}, "allowed"},
		"after a reader, without the log's index": {"", func(t *testing.T, nix *nixtest.Store, source string) string {
			readByRoot(t, nix, source)
			must(t, os.Remove(dbFile(nix)+"-shm"))
			return source
		}, "allowed"},
		"after a killed writer": {"", func(t *testing.T, nix *nixtest.Store, _ string) string {
			return killWriter(t, nix)
		}, "allowed"},
		// Only who may make an index can read the log, and without it the file tells half.
		"after a killed writer, without the log's index": {"", func(t *testing.T, nix *nixtest.Store, source string) string {
			killWriter(t, nix)
			must(t, os.Remove(dbFile(nix)+"-shm"))
			return source
		}, "unavailable"},
		"without a log": {"use-sqlite-wal = false", func(_ *testing.T, _ *nixtest.Store, source string) string { return source }, "allowed"},
		"without a log, after a killed writer": {"use-sqlite-wal = false", func(t *testing.T, nix *nixtest.Store, source string) string {
			must(t, os.WriteFile(dbFile(nix)+"-journal", []byte("half"), 0o644))
			return source
		}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			nix := nixtest.New(t, test.conf)
			must(t, os.Chmod(filepath.Dir(filepath.Dir(nix.Dir)), 0o755)) // so that nobody gets there
			path := test.prepare(t, nix, nix.Add(t, "source", "source"))
			before := dbFiles(t, nix)
			child := trouble.Command(t, "read as nobody", nix.Dir, nix.State, path, test.want)
			child.Env = append(child.Env, "GORACE=atexit_sleep_ms=0")
			must(t, child.Run())
			if diff := cmp.Diff(before, dbFiles(t, nix)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}

// TestNixWorksBesideReaders has Nix write while root reads, and after that.
func TestNixWorksBesideReaders(t *testing.T) {
	nix := nixtest.New(t)
	source := nix.Add(t, "source", "source")
	before := dbFiles(t, nix)
	s := openStore(t, nix)
	want := []string{source}
	for i := range 3 {
		for _, path := range want {
			_, err := s.Info(t.Context(), path)
			must(t, err)
		}
		want = append(want, nix.Add(t, fmt.Sprint("more-", i), "Nix waits for nobody"))
	}
	must(t, s.Close())
	readByRoot(t, nix, want[3])
	want = append(want, nix.Add(t, "last", "Nix picks up what a reader left"))
	nix.Run(t, "nix-store", "--verify")
	if diff := cmp.Diff(sortedStrings(want), sortedStrings(nix.Lines(t, "nix", "path-info", "--all"))); diff != "" {
		t.Errorf("paths (-want +nix):\n%s", diff)
	}
	for name := range dbFiles(t, nix) {
		if _, ok := before[name]; !ok {
			t.Errorf("%s stayed behind", name)
		}
	}
}
