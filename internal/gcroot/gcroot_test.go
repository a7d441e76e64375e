package gcroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/trouble"
)

const nobody = 65534

// A test that needs a second process runs this binary again, to make the roots
// of a queue below this state directory as soon as its standard input ends.
const stateVar = "LARDER_TEST_STATE"

func TestMain(m *testing.M) {
	state := os.Getenv(stateVar)
	if state == "" {
		os.Exit(m.Run())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	if err == nil {
		_, err = Make(state, us())
	}
	if err != nil {
		fmt.Println(err)
	}
	os.Exit(0)
}

func us() Owner {
	return Owner{Queue: "/queues/ours.db", ID: strings.Repeat("a", 32), UID: os.Geteuid(), GID: os.Getegid()}
}

func newDir(t *testing.T) (state string, d *Dir) {
	t.Helper()
	state = t.TempDir()
	d, err := Make(state, us())
	must(t, err)
	return state, d
}

func path(name string) string { return "/nix/store/" + strings.Repeat("0", 32) + "-" + name }

func TestMakeGivesTheDirectoryToTheQueuesOwner(t *testing.T) {
	trouble.NeedRoot(t)
	state := t.TempDir()
	old := syscall.Umask(0o077) // whoever calls the hook decides
	defer syscall.Umask(old)
	d, err := Make(state, Owner{Queue: "/home/x/queue.db", ID: "abc", UID: nobody, GID: nobody})
	must(t, err)
	syscall.Umask(old)

	for name, want := range map[string]struct {
		mode fs.FileMode
		uid  uint32
	}{
		"gcroots/larder":           {fs.ModeDir | 0o755, 0},
		"gcroots/larder/abc":       {fs.ModeDir | 0o755, nobody},
		"gcroots/larder/abc/queue": {0o644, nobody},
	} {
		info, err := os.Lstat(filepath.Join(state, name))
		must(t, err)
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != want.mode || uid != want.uid {
			t.Errorf("%s is %v of user %d, want %v of user %d", name, info.Mode(), uid, want.mode, want.uid)
		}
	}
	text, err := os.ReadFile(filepath.Join(d.path, "queue"))
	must(t, err)
	if string(text) != "/home/x/queue.db\n" {
		t.Errorf("queue says %q", text)
	}
}

func TestMakeKeepsWhatIsThere(t *testing.T) {
	state, d := newDir(t)
	must(t, d.Add(path("x")))
	again, err := Make(state, us())
	must(t, err)
	wantRoots(t, again, "x")
}

func TestMakeRefusesWhatIsNotTheQueues(t *testing.T) {
	trouble.NeedRoot(t)
	for name, test := range map[string]struct {
		plant func(t *testing.T, path string)
		want  string
	}{
		"another user's": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o755))
			must(t, os.Lchown(path, nobody, nobody))
		}, "belongs to user 65534, and the queue to user 0"},
		"file": {func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o644)) }, "is something else"},
		"link": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path+"-target", 0o755))
			must(t, os.Symlink(path+"-target", path))
		}, "is something else"},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			must(t, os.MkdirAll(base(state), 0o755))
			test.plant(t, Open(state, us().ID).path)
			_, err := Make(state, us())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestMakeSaysThatItMayNot(t *testing.T) {
	trouble.NeedRoot(t)
	state := trouble.PublicDir(t)
	cmd := child(t, state)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.Output()
	must(t, err)
	if !strings.Contains(string(out), fs.ErrPermission.Error()) {
		t.Errorf("process says %q, want %q", out, fs.ErrPermission)
	}
	_, err = Make(filepath.Join(state, "none"), us())
	must(t, err) // but a root makes what is missing
}

func TestManyMakeOneDirectory(t *testing.T) {
	state := trouble.PublicDir(t)
	var processes []*exec.Cmd
	var gates []io.Closer
	var outs []*strings.Builder
	for range 4 {
		cmd := child(t, state)
		gate, err := cmd.StdinPipe()
		must(t, err)
		out := new(strings.Builder)
		cmd.Stdout = out
		must(t, cmd.Start())
		processes, gates, outs = append(processes, cmd), append(gates, gate), append(outs, out)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			d, err := Make(state, us())
			if err == nil {
				err = d.Add(path(fmt.Sprint(i)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	for _, gate := range gates {
		must(t, gate.Close())
	}
	wg.Wait()
	for i, p := range processes {
		must(t, p.Wait())
		if out := outs[i].String(); out != "" {
			t.Errorf("a process says %q", out)
		}
	}
	roots, err := Open(state, us().ID).List()
	must(t, err)
	if len(roots) != 16 {
		t.Errorf("%d roots, want 16", len(roots))
	}
	entries, err := os.ReadDir(base(state))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("directory has %v, want one entry", entries)
	}
}

func TestToComeSecondIsToBeDone(t *testing.T) {
	state, d := newDir(t)
	must(t, d.Add(path("x")))
	must(t, d.create(us())) // as if there had been none a moment ago
	wantRoots(t, d, "x")
	wantDirs(t, state, us().ID)
}

func TestAddAndRemoveAreIdempotent(t *testing.T) {
	_, d := newDir(t)
	for range 2 {
		must(t, d.Add(path("x")))
		wantRoots(t, d, "x")
	}
	must(t, d.Add(path("y")))
	for range 2 {
		must(t, d.Remove(path("x")))
		wantRoots(t, d, "y")
	}
	must(t, d.RemoveAll())
	must(t, d.RemoveAll())
	must(t, d.Remove(path("y")))
	wantRoots(t, d)
	if err := d.Add(path("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error of a root without a directory is %v, want %v", err, fs.ErrNotExist)
	}
}

func TestRootIsAFileThatAllMayRead(t *testing.T) {
	_, d := newDir(t)
	must(t, d.Add(path("x")))
	must(t, os.Remove(filepath.Join(d.path, nameFile))) // as if it could have no more names
	must(t, d.Add(path("y")))
	wantRoots(t, d, "x", "y")
	for _, name := range []string{"x", "y"} {
		info, err := os.Lstat(d.file(path(name)))
		must(t, err)
		if info.Mode() != 0o644 || info.Name() != filepath.Base(path(name)) {
			t.Errorf("root is %v, %s", info.Mode(), info.Name())
		}
	}
}

func TestPlantedLinksAreNotFollowed(t *testing.T) {
	_, d := newDir(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Symlink(outside, d.file(path("x"))))
	must(t, d.Add(path("x")))
	if _, err := os.Lstat(outside); err == nil {
		t.Error("Add made a file where a link points")
	}
	wantRoots(t, d) // a link to nowhere keeps nothing

	must(t, os.WriteFile(outside, nil, 0o644))
	must(t, d.Remove(path("x")))
	if _, err := os.Lstat(outside); err != nil {
		t.Errorf("Remove removed what a link points to: %v", err)
	}
}

func TestOnlyRootsAreListed(t *testing.T) {
	_, d := newDir(t)
	must(t, d.Add(path("x")))
	must(t, os.Mkdir(d.file(path("directory")), 0o755))
	must(t, syscall.Mkfifo(d.file(path("pipe")), 0o644))
	wantRoots(t, d, "x")
}

func TestSinceIsWhenTheDirectoryWasMade(t *testing.T) {
	state, d := newDir(t)
	made := time.Now().Add(-100 * time.Hour)
	must(t, os.Chtimes(filepath.Join(d.path, "queue"), made, made))
	must(t, d.Add(path("x"))) // later roots change nothing
	for want, d := range map[time.Time]*Dir{made: d, time.Now(): Open(state, "missing")} {
		got, err := d.Since()
		must(t, err)
		if got.Sub(want).Abs() > time.Minute {
			t.Errorf("since %v, want %v", got, want)
		}
	}
}

func wantRoots(t *testing.T, d *Dir, names ...string) {
	t.Helper()
	got, err := d.List()
	must(t, err)
	var want []string
	for _, name := range names {
		want = append(want, filepath.Base(path(name)))
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
}

// child returns this binary as a process that makes roots.
func child(t *testing.T, state string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // another user can't reach it by name
	cmd.Env = append(os.Environ(), stateVar+"="+state, "GORACE=atexit_sleep_ms=0")
	return cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
