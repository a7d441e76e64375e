package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/queue"
)

var background = context.Background()

const nobody = 65534

// A hook that gives up root's rights can't give them back: a test of that runs
// this binary again, as a hook that takes all from its environment.
const asHookVar = "LARDER_TEST_HOOK"

func TestMain(m *testing.M) {
	if os.Getenv(asHookVar) == "" {
		os.Exit(m.Run())
	}
	if err := Run(background, Config{Argv0: os.Args[0], Getenv: os.Getenv, Busy: time.Minute}); err != nil {
		fmt.Println(OneLine(err))
	}
	os.Exit(0)
}

// A site is a Nix installation without Nix, and a queue.
type site struct {
	dir, store, state string

	file string // the queue's database
	env  map[string]string
}

// newSite makes a site in a directory that every user may look into. It has no
// queue yet.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "hook-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	s := &site{
		dir:   dir,
		store: filepath.Join(dir, "store"),
		state: filepath.Join(dir, "state"),
		file:  filepath.Join(dir, "queue", "queue.db"),
	}
	s.env = map[string]string{"LARDER_QUEUE": s.file}
	must(t, os.Mkdir(s.store, 0o755))
	t.Setenv("NIX_STORE_DIR", s.store)
	t.Setenv("NIX_STATE_DIR", s.state)
	return s
}

// newSiteWithQueue makes a site with a queue, and opens that as a worker does.
func newSiteWithQueue(t *testing.T) (*site, *queue.Queue) {
	t.Helper()
	s := newSite(t)
	return s, s.open(t)
}

func (s *site) open(t *testing.T) *queue.Queue {
	t.Helper()
	q, err := queue.Create(t.Context(), s.file)
	must(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

// path returns a store path.
func (s *site) path(name string) string {
	return filepath.Join(s.store, strings.Repeat("0", 32)+"-"+name)
}

// drv writes a derivation with the given outputs, and returns its path.
func (s *site) drv(t *testing.T, name string, outputs ...string) string {
	t.Helper()
	var terms []string
	for i, path := range outputs {
		terms = append(terms, fmt.Sprintf(`("out%d","%s","","")`, i, path))
	}
	drv := s.path(name + ".drv")
	text := fmt.Sprintf(`Derive([%s],[],[],"x86_64-linux","/bin/sh",[],[])`, strings.Join(terms, ","))
	must(t, os.WriteFile(drv, []byte(text), 0o644))
	return drv
}

func (s *site) config() Config {
	return Config{Getenv: func(name string) string { return s.env[name] }, Busy: time.Minute}
}

// run runs a hook with OUT_PATHS, and returns what it says.
func (s *site) run(t *testing.T, outPaths string) string {
	t.Helper()
	s.env["OUT_PATHS"] = outPaths
	return says(Run(t.Context(), s.config()))
}

func says(err error) string {
	if err == nil {
		return ""
	}
	return OneLine(err)
}

// runAs runs a hook in a process of its own, as a user, and returns what it says.
func (s *site) runAs(t *testing.T, uid uint32, outPaths string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // another user can't reach it by name
	cmd.Env = append(os.Environ(), asHookVar+"=1", "GORACE=atexit_sleep_ms=0", "OUT_PATHS="+outPaths)
	for name, value := range s.env {
		if name != "OUT_PATHS" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSuffix(string(out), "\n")
}

// wantRows fails the test if the queue does not have exactly these paths.
func (s *site) wantRows(t *testing.T, want ...string) {
	t.Helper()
	wantPaths(t, "rows", s.rows(t), want)
}

// wantRoots fails the test if the queue does not have exactly these roots.
func (s *site) wantRoots(t *testing.T, want ...string) {
	t.Helper()
	wantPaths(t, "roots", s.roots(t), want)
}

func wantPaths(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (s *site) rows(t *testing.T) (paths []string) {
	t.Helper()
	q, err := queue.Open(t.Context(), s.file)
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

func (s *site) roots(t *testing.T) (paths []string) {
	t.Helper()
	names, err := s.rootDir().List()
	must(t, err)
	for _, name := range names {
		paths = append(paths, filepath.Join(s.store, name))
	}
	return paths
}

func (s *site) rootDir() *gcroot.Dir {
	return gcroot.Open(s.state, queue.ExpectedID(s.file))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantSays fails the test if a hook did not say this, in one line.
func wantSays(t *testing.T, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) || (want == "" && got != "") || strings.Contains(got, "\n") {
		t.Errorf("hook says %q, want %q in one line", got, want)
	}
}
