package watcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/rules"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{}

// A rig is a Nix store, and a watcher's Config with a queue and roots of its own.
type rig struct {
	Config
	t    *testing.T
	nix  *nixtest.Store
	lock *queue.Lock
	log  trouble.Log

	mu      sync.Mutex // guards what is below
	present map[string]bool
	asked   map[string]int // how often Present was
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, nixtest.New(t))
}

// newRigWith has a queue of its own for a store that is there.
func newRigWith(t *testing.T, nix *nixtest.Store) *rig {
	t.Helper()
	r := &rig{t: t, nix: nix, present: make(map[string]bool), asked: make(map[string]int)}
	q, err := queue.Create(t.Context(), filepath.Join(t.TempDir(), "queue.db"))
	must(t, err)
	t.Cleanup(func() { q.Close() })
	r.lock, err = q.Lock()
	must(t, err)
	t.Cleanup(func() { r.lock.Unlock() })
	r.Config = Config{
		Queue: q, Present: r.arePresent, Epoch: "one", Rules: rules.Default(),
		Poll: time.Hour, // what a test waits for has to come by itself
		Log:  slog.New(slog.NewTextHandler(io.MultiWriter(&r.log, t.Output()), nil)),
	}
	r.makeRoots()
	r.reopen()
	return r
}

// makeRoots makes the roots' directory, which is part of Nix's state.
func (r *rig) makeRoots() {
	r.t.Helper()
	id := r.Queue.Identity()
	files, err := gcroot.Make(r.nix.State, gcroot.Owner{Queue: r.Queue.File(), ID: id.ID, UID: id.UID, GID: id.GID})
	must(r.t, err)
	r.Roots = gcroot.Join(files, gcroot.OpenLinks(r.Queue.File()+"-roots"))
}

// reopen opens the store anew, as a new process would.
func (r *rig) reopen() {
	r.t.Helper()
	if r.Store != nil {
		must(r.t, r.Store.Close())
	}
	s, err := nixstore.Open(nixstore.Dirs{Store: r.nix.Dir, State: r.nix.State}, 10*time.Second)
	must(r.t, err)
	r.t.Cleanup(func() { s.Close() })
	r.Store = s
}

func (r *rig) arePresent(_ context.Context, paths []string) []bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	present := make([]bool, len(paths))
	for i, path := range paths {
		r.asked[path]++
		present[i] = r.present[path]
	}
	return present
}

// absent is a Present of a cache that has nothing.
func absent(_ context.Context, paths []string) []bool { return make([]bool, len(paths)) }

// setPresent says which paths are in the cache.
func (r *rig) setPresent(are bool, paths ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range paths {
		r.present[path] = are
	}
}

// queuedInAll is how many jobs were added by looks so far, as the log has it.
func (r *rig) queuedInAll() (n int) {
	r.t.Helper()
	for field := range strings.FieldsSeq(r.log.String()) {
		if count, ok := strings.CutPrefix(field, "queued="); ok {
			i, err := strconv.Atoi(count)
			must(r.t, err)
			n += i
		}
	}
	return n
}

func (r *rig) begin() {
	r.t.Helper()
	must(r.t, Begin(r.t.Context(), r.Queue, r.Store))
}

func (r *rig) look() Result {
	r.t.Helper()
	result, err := Look(r.t.Context(), r.Config)
	must(r.t, err)
	return result
}

func (r *rig) cursor() *queue.Cursor {
	r.t.Helper()
	c, err := r.Queue.Cursor(r.t.Context())
	must(r.t, err)
	return c
}

// work does all jobs, as a worker would, and returns their paths in the order in
// which they came. They are in the cache then.
func (r *rig) work() (paths []string) {
	r.t.Helper()
	for {
		job, err := r.Queue.Claim(r.t.Context())
		if errors.Is(err, queue.ErrEmpty) {
			return paths
		}
		must(r.t, err)
		if !slices.Contains(r.roots(), filepath.Base(job.Path)) {
			r.t.Errorf("%s is a job without a root", job.Path)
		}
		must(r.t, r.Queue.Done(r.t.Context(), job, func() error { return r.Roots.Remove(job.Path) }))
		r.setPresent(true, job.Path)
		paths = append(paths, job.Path)
	}
}

// roots returns the base names of what has a root, sorted.
func (r *rig) roots() []string {
	r.t.Helper()
	names, err := r.Roots.List()
	must(r.t, err)
	slices.Sort(names)
	return names
}

// want does all jobs, and reports what is not as it should be.
func (r *rig) want(what string, paths ...string) {
	r.t.Helper()
	if diff := cmp.Diff(paths, r.work()); diff != "" {
		r.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// wantAll is want in any order.
func (r *rig) wantAll(what string, paths ...string) {
	r.t.Helper()
	got := r.work()
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(slices.Values(paths)), got); diff != "" {
		r.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (r *rig) add(name string) string { return r.nix.Add(r.t, name, name) }

// addMany adds files that do not refer to each other.
func (r *rig) addMany(name string, n int) []string {
	r.t.Helper()
	dir := r.t.TempDir()
	args := []string{"--add"}
	for i := range n {
		file := filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
		must(r.t, os.WriteFile(file, []byte(file), 0o644))
		args = append(args, file)
	}
	return r.nix.Lines(r.t, "nix-store", args...)
}

// registerMany registers empty files in one commit, and returns them in the order of
// their rows.
func (r *rig) registerMany(name string, n int) (paths []string) {
	r.t.Helper()
	var text strings.Builder
	for i := range n {
		path := fmt.Sprintf("%s/%032d-%s", r.nix.Dir, i, name)
		must(r.t, os.WriteFile(path, nil, 0o644))
		fmt.Fprintf(&text, "%s\n%064d\n112\n\n0\n", path, i)
		paths = append(paths, path)
	}
	r.nix.Register(r.t, text.String())
	return paths
}

func (r *rig) delete(paths ...string) {
	r.t.Helper()
	r.nix.Run(r.t, "nix-store", append([]string{"--delete"}, paths...)...)
}

// row returns the number of a path's registration.
func (r *rig) row(path string) int64 {
	r.t.Helper()
	reg, err := r.Store.Registration(r.t.Context(), path)
	must(r.t, err)
	return reg.ID
}

// backup copies Nix's database, and returns what puts the copy back.
func (r *rig) backup() (restore func()) {
	r.t.Helper()
	must(r.t, r.Store.Close())
	db, copied := filepath.Join(r.nix.State, "db"), filepath.Join(r.t.TempDir(), "db")
	must(r.t, os.CopyFS(copied, os.DirFS(db)))
	r.reopen()
	return func() {
		r.t.Helper()
		must(r.t, errors.Join(r.Store.Close(), os.RemoveAll(db), os.CopyFS(db, os.DirFS(copied))))
		r.reopen()
	}
}

// A running is one call of Run.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

// start starts Run. It is canceled with the test.
func (r *rig) start() *running {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &running{cancel: cancel, done: make(chan error, 1)}
	go func() { w.done <- Run(ctx, r.Config) }()
	r.t.Cleanup(func() { _ = w.stop(r.t) })
	return w
}

// stop ends Run, which must not take long, and returns its error.
func (w *running) stop(t *testing.T) error {
	t.Helper()
	w.cancel()
	select {
	case err := <-w.done:
		w.done <- err // for the cleanup
		return err
	case <-time.After(time.Minute):
		t.Error("Run goes on and on")
		return nil
	}
}

// hasJob tells whether a path is in the queue.
func (r *rig) hasJob(path string) bool {
	r.t.Helper()
	row, err := r.Queue.Find(context.Background(), path)
	must(r.t, err)
	return row != nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
