package nar

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody calls f with the rights of a user that owns nothing if the test runs
// as root, who could read files of any mode.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan error)
	go func() {
		// Rights belong to the thread. It stays locked and so ends with the
		// goroutine.
		runtime.LockOSThread()
		err := unix.Setfsuid(65534)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestUnreadableFileIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		f      tree
		closed string // what gets mode
		mode   fs.FileMode
	}{
		"file":                     {file(""), "f", 0},
		"directory":                {directory(nil), "f", 0},
		"directory without search": {file(""), ".", 0o444},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "x")
			directory(map[string]tree{"f": test.f}).create(t, path)
			closed := filepath.Join(path, test.closed)
			if err := os.Chmod(closed, test.mode); err != nil {
				t.Fatal(err)
			}
			// A user could not remove it otherwise.
			t.Cleanup(func() { os.Chmod(closed, 0o755) })

			var d Dumper
			var err error
			asNobody(t, func() { _, err = d.Dump(t.Context(), io.Discard, path) })
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path+"/f: ") {
				t.Errorf("error is %v, want one that wraps fs.ErrPermission and names %s/f", err, path)
			}
		})
	}
}
