package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A larder is a machine with a queue, a cache, and a Nix that calls the hook.
type larder struct {
	*machine          // as whom larder's commands run
	cache    string   // the directory
	queue    string   // the database
	conf     []string // the lines for nix.conf that init printed
}

const rootsQueue = "/var/lib/larder/queue.db"

// patient makes hooks wait for as long as a slow machine needs. Tests have it
// that want rows: with roots alone, which is what a hurried hook may leave, the
// outcome is the same, but not what happens on the way.
const patient = "LARDER_HOOK_DEADLINE=5m"

// newLarder makes a machine, has larder init set it up for root, and puts the
// very lines that init prints into nix.conf. args are further ones for init.
func newLarder(t *testing.T, n nix, args ...string) *larder {
	t.Helper()
	l := &larder{
		machine: newMachine(t, n).with(patient),
		cache:   filepath.Join(tempDir(t), "cache"),
		queue:   rootsQueue,
	}
	l.conf = l.lines(t, append([]string{"larder", "init", "--cache", l.cache}, args...)...)
	l.configure(t, l.conf...)
	return l
}

// hook returns the program that init has laid down.
func (l *larder) hook(t *testing.T) string {
	t.Helper()
	hook, ok := strings.CutPrefix(l.conf[0], "post-build-hook = ")
	if !ok {
		t.Fatalf("the first line of larder init is %q", l.conf[0])
	}
	return hook
}

// unconfigure takes init's lines out of nix.conf, a while ago.
func (l *larder) unconfigure(t *testing.T) {
	t.Helper()
	file := l.host("/etc/nix/nix.conf")
	text, err := os.ReadFile(file)
	must(t, err)
	lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(line string) bool {
		return slices.Contains(l.conf, strings.TrimSuffix(line, "\n"))
	})
	must(t, os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644))
	ago := time.Now().Add(-10 * time.Second)
	must(t, os.Chtimes(file, ago, ago))
}

// built builds an expression, with options as for nix-build, and returns all
// outputs of all its derivations, sorted.
func (l *larder) built(t *testing.T, args ...string) []string {
	t.Helper()
	l.build(t, args...)
	return l.outputs(t, l.derivations(t, args...)...)
}

// buildOne builds a derivation without inputs whose output is a file of that name
// with that text in it.
func (m *machine) buildOne(t *testing.T, name string) string {
	t.Helper()
	return m.build(t, "--expr", oneExpr(name))[0]
}

func oneExpr(name string) string {
	return fmt.Sprintf(`import /larder/graphs/derive.nix "%s" { } "echo %s > $out"`, name, name)
}

// closure returns what the paths need, themselves included, sorted.
func (m *machine) closure(t *testing.T, paths ...string) []string {
	t.Helper()
	return m.query(t, "--requisites", paths...)
}

// drain drains the queue.
func (l *larder) drain(t *testing.T, args ...string) {
	t.Helper()
	l.run(t, append([]string{"larder", "drain", "--queue", l.queue}, args...)...)
}

// startWorker starts larder daemon, and returns when it says that it is ready.
func (l *larder) startWorker(t *testing.T, args ...string) *process {
	t.Helper()
	d := l.start(t, append([]string{"larder", "daemon", "--queue", l.queue}, args...)...)
	d.waitFor(t, "msg=ready")
	return d
}

// waitFor waits until the process has said something on stderr.
func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q", text), func() bool {
		if strings.Contains(p.stderr.String(), text) {
			return true
		}
		if p.ended() {
			t.Fatalf("ended without saying %q: %v", text, p)
		}
		return false
	})
}

// A status is what larder status --json prints.
type status struct {
	Queue       string `json:"queue"`
	Cache       string `json:"cache"`
	WorkerAlive bool   `json:"worker_alive"`
	Waiting     int    `json:"waiting"`
	Claimed     int    `json:"claimed"`
	Dead        int    `json:"dead"`
	NarBytes    int64  `json:"nar_bytes"`
	Jobs        []job  `json:"jobs"`
}

type job struct {
	Path     string    `json:"path"`
	Drv      string    `json:"drv"`
	State    string    `json:"state"`
	Attempts int       `json:"attempts"`
	Added    time.Time `json:"added"`
	Due      time.Time `json:"due"`
	Error    string    `json:"error"`
}

func (l *larder) status(t *testing.T) status {
	t.Helper()
	out := l.run(t, "larder", "status", "--queue", l.queue, "--json")
	var s status
	must(t, json.Unmarshal([]byte(out), &s))
	return s
}

// queued returns the paths that have a job, sorted.
func (l *larder) queued(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, j := range l.status(t).Jobs {
		paths = append(paths, j.Path)
	}
	slices.Sort(paths)
	return paths
}

// rootFiles returns the files that keep queued paths from Nix's collector, by
// their names on the host, sorted. Machines have one queue.
func (l *larder) rootFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(l.host("/nix/var/nix/gcroots/larder/*/*"))
	must(t, err)
	return slices.DeleteFunc(files, func(file string) bool {
		return filepath.Base(file) == "queue" || filepath.Base(filepath.Dir(file)) == "hooks"
	})
}

// rooted returns the store paths that have a root, sorted.
func (l *larder) rooted(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, file := range l.rootFiles(t) {
		paths = append(paths, "/nix/store/"+filepath.Base(file))
	}
	slices.Sort(paths)
	return paths
}

// nothingLeft fails the test if the queue has jobs or roots.
func (l *larder) nothingLeft(t *testing.T) {
	t.Helper()
	if s := l.status(t); len(s.Jobs) > 0 || s.Waiting+s.Claimed+s.Dead > 0 || s.NarBytes > 0 {
		t.Errorf("the queue still has %+v", s)
	}
	if roots := l.rootFiles(t); len(roots) > 0 {
		t.Errorf("roots are left: %q", roots)
	}
}

// A narInfo is what a test wants to know of an entry.
type narInfo struct {
	path       string
	nar        string // in the cache
	size       int64  // of that file
	references []string
	signers    []string // names of the keys
}

// entries returns the cache's entries by store path.
func entries(t *testing.T, cache string) map[string]narInfo {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*.narinfo"))
	must(t, err)
	all := make(map[string]narInfo)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		var n narInfo
		for line := range strings.Lines(string(text)) {
			switch name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); name {
			case "StorePath":
				n.path = value
			case "URL":
				n.nar = value
			case "FileSize":
				n.size, err = strconv.ParseInt(value, 10, 64)
				must(t, err)
			case "Sig":
				name, _, _ := strings.Cut(value, ":")
				n.signers = append(n.signers, name)
			case "References":
				for _, ref := range strings.Fields(value) {
					n.references = append(n.references, "/nix/store/"+ref)
				}
			}
		}
		all[n.path] = n
	}
	return all
}

// cached returns the store paths in the cache, sorted.
func (l *larder) cached(t *testing.T) []string {
	t.Helper()
	var paths []string
	for path := range entries(t, l.cache) {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// checkWhole fails the test if an entry's NAR or the entry of a reference is
// missing. It may be called at any moment.
func checkWhole(t *testing.T, cache string) {
	t.Helper()
	all := entries(t, cache)
	for path, n := range all {
		info, err := os.Stat(filepath.Join(cache, n.nar))
		if err != nil {
			t.Errorf("entry of %s: %v", path, err)
		} else if info.Size() != n.size {
			t.Errorf("size of %s is %d, want %d", n.nar, info.Size(), n.size)
		}
		for _, ref := range n.references {
			if _, ok := all[ref]; !ok {
				t.Errorf("entry of %s has no entry for its reference %s", path, ref)
			}
		}
	}
}

// verify has Nix read every entry of the cache.
func (l *larder) verify(t *testing.T) {
	t.Helper()
	l.run(t, "nix", "store", "verify", "--store", "file://"+l.cache, "--all", "--no-trust")
}

// equalPaths fails the test if two sorted lists of store paths differ, and says
// in what.
func equalPaths(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, path := range got {
		if _, found := slices.BinarySearch(want, path); !found {
			t.Errorf("%s: has %s, which it should not", what, path)
		}
	}
	hasPaths(t, what, got, want)
}

// hasPaths fails the test if something is missing in a sorted list of store paths.
func hasPaths(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, path := range want {
		if _, found := slices.BinarySearch(got, path); !found {
			t.Errorf("%s: %s is missing", what, path)
		}
	}
}

// files returns what is below some directories of the host: for every file its
// mode, owner, size, inode, and the time of its last change. Two results are equal
// if nothing has been written between them.
//
// Times and inodes of directories do not count, and neither does what to read a
// queue takes: SQLite's -shm and -wal, which it then copies into the database, and
// the time of the lock file, which says when a worker was alive.
func files(t *testing.T, dirs ...string) []string {
	t.Helper()
	var list []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(path, "-shm") || strings.HasSuffix(path, "-wal") {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			sys := info.Sys().(*syscall.Stat_t)
			line := fmt.Sprintf("%s %v %d:%d", path, info.Mode(), sys.Uid, sys.Gid)
			if !d.IsDir() && !strings.HasSuffix(path, "queue.db") && !strings.HasSuffix(path, "queue.db-lock") {
				line += fmt.Sprintf(" %d bytes, inode %d, %v", info.Size(), sys.Ino, info.ModTime())
			}
			list = append(list, line)
			return nil
		})
		must(t, err)
	}
	return list
}

// unchanged fails the test if two results of files differ.
func unchanged(t *testing.T, what string, before, after []string) {
	t.Helper()
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("%s: was %s", what, line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("%s: is now %s", what, line)
		}
	}
}
