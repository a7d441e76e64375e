// Package hooktest is for tests of the hook, as a package and as a program: a Nix
// installation without Nix, a queue, and what is in it.
package hooktest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

// A Site is where a hook is called.
type Site struct {
	Dir, Store, State string

	File string // the queue's database
}

// New makes a site that every user may look into, without a queue.
func New(t testing.TB) *Site {
	t.Helper()
	dir := trouble.PublicDir(t)
	s := &Site{Dir: dir, Store: filepath.Join(dir, "store"), State: filepath.Join(dir, "state"), File: filepath.Join(dir, "queue", "queue.db")}
	must(t, os.Mkdir(s.Store, 0o755))
	return s
}

// Open opens the queue as a worker does.
func (s *Site) Open(t testing.TB) *queue.Queue {
	t.Helper()
	q, err := queue.Create(t.Context(), s.File)
	must(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

// Path returns a store path.
func (s *Site) Path(name string) string {
	return filepath.Join(s.Store, strings.Repeat("0", 32)+"-"+name)
}

// Rows returns the store paths of the queue's jobs.
func (s *Site) Rows(t testing.TB) (paths []string) {
	t.Helper()
	q, err := queue.Open(t.Context(), s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(t, err)
	defer q.Close()
	for row, err := range q.Rows(t.Context()) {
		must(t, err)
		paths = append(paths, row.Path)
	}
	return paths
}

// RootDir is where the queue's roots are.
func (s *Site) RootDir() *gcroot.Dir { return gcroot.Open(s.State, queue.ExpectedID(s.File)) }

// Roots returns the store paths that the queue's roots keep.
func (s *Site) Roots(t testing.TB) (paths []string) {
	t.Helper()
	names, err := s.RootDir().List()
	must(t, err)
	for _, name := range names {
		paths = append(paths, filepath.Join(s.Store, name))
	}
	return paths
}

// WantRows fails the test if the queue does not have exactly these paths.
func (s *Site) WantRows(t testing.TB, want ...string) {
	t.Helper()
	WantPaths(t, "rows", s.Rows(t), want)
}

// WantRoots fails the test if the queue does not have exactly these roots.
func (s *Site) WantRoots(t testing.TB, want ...string) {
	t.Helper()
	WantPaths(t, "roots", s.Roots(t), want)
}

// WantPaths fails the test if these are not the same, in any order.
func WantPaths(t testing.TB, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// WantSays fails the test if a hook did not say this, in one line.
func WantSays(t testing.TB, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) || (want == "" && got != "") || strings.Contains(strings.TrimSuffix(got, "\n"), "\n") {
		t.Errorf("hook says %q, want %q in one line", got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
