package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{}

const storeDir = "/nix/store"

// path returns a store path.
func path(n int) string { return fmt.Sprintf("%s/%032d-path", storeDir, n) }

// A rig is a queue with its roots, and a worker's Config whose Copy the test
// scripts.
type rig struct {
	Config
	t *testing.T

	// copy is the script. attempt counts from 1, for each path.
	copy func(ctx context.Context, path string, attempt int) error
	log  trouble.Log

	mu     sync.Mutex // guards what is below
	copies map[string]int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigAt(t, t.TempDir())
}

// newRigAt has the queue in a given directory.
func newRigAt(t *testing.T, dir string) *rig {
	t.Helper()
	q, err := queue.Create(t.Context(), filepath.Join(dir, "queue.db"))
	must(t, err)
	t.Cleanup(func() { q.Close() })
	lock, err := q.Lock()
	must(t, err)
	t.Cleanup(func() { lock.Unlock() })
	id := q.Identity()
	files, err := gcroot.Make(t.TempDir(), gcroot.Owner{Queue: q.File(), ID: id.ID, UID: id.UID, GID: id.GID})
	must(t, err)
	roots := gcroot.Join(files, gcroot.OpenLinks(filepath.Join(dir, "links")))
	r := &rig{t: t, copies: make(map[string]int), copy: func(context.Context, string, int) error { return nil }}
	r.Config = Config{
		Queue: q, Lock: lock, Roots: roots, StoreDir: storeDir, Copy: r.doCopy,
		Poll: time.Hour, // what a test waits for has to come by itself
		Log:  slog.New(slog.NewTextHandler(io.MultiWriter(&r.log, t.Output()), nil)),
	}
	return r
}

func (r *rig) doCopy(ctx context.Context, job *queue.Job) ([]slog.Attr, error) {
	path := job.Path
	r.mu.Lock()
	r.copies[path]++
	attempt := r.copies[path]
	r.mu.Unlock()
	return []slog.Attr{slog.Int("attempt", attempt)}, r.copy(ctx, path, attempt)
}

// copied returns how often a path was copied, or tried to be.
func (r *rig) copied(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.copies[path(n)]
}

// add adds jobs with their roots, as a hook does.
func (r *rig) add(ns ...int) {
	r.t.Helper()
	for _, n := range ns {
		must(r.t, r.Roots.Protect(r.t.Context(), path(n)))
		hook, err := queue.OpenForHook(r.Queue.File(), 10*time.Second)
		must(r.t, err)
		must(r.t, hook.Add("", path(n)))
		must(r.t, hook.Close())
	}
}

// row returns a job, and whether there is one.
func (r *rig) row(n int) (queue.Row, bool) {
	r.t.Helper()
	for row, err := range r.Queue.Rows(context.Background()) {
		must(r.t, err)
		if row.Path == path(n) {
			return row, true
		}
	}
	return queue.Row{}, false
}

// gone tells whether nothing is left of a job.
func (r *rig) gone(n int) bool {
	r.t.Helper()
	_, there := r.row(n)
	return !there
}

// rooted tells whether a path has a root.
func (r *rig) rooted(n int) bool {
	r.t.Helper()
	names, err := r.Roots.List()
	must(r.t, err)
	for _, name := range names {
		if filepath.Join(storeDir, name) == path(n) {
			return true
		}
	}
	return false
}

// A working worker is one call of Run or Drain.
type working struct {
	cancel context.CancelFunc
	done   chan error
}

// start starts Run. It is canceled with the test.
func (r *rig) start() *working { return r.startWith(Run) }

func (r *rig) startWith(work func(context.Context, Config) error) *working {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &working{cancel: cancel, done: make(chan error, 1)}
	go func() { w.done <- work(ctx, r.Config) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case <-w.done:
		case <-time.After(time.Minute):
			r.t.Error("the worker did not stop")
		}
	})
	return w
}

// stop ends the run, which must not take long.
func (w *working) stop(t *testing.T) error {
	t.Helper()
	w.cancel()
	return w.wait(t)
}

// wait waits for the end of the run.
func (w *working) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.done:
		w.done <- err // for the cleanup
		return err
	case <-time.After(time.Minute):
		t.Fatal("the worker goes on and on")
		return nil
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
