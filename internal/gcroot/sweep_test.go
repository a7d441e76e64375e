package gcroot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const idle = time.Hour

// makeOld makes a queue's directory with a root in it, which has not changed for
// a given time.
func makeOld(t *testing.T, state, id string, age time.Duration) *Dir {
	t.Helper()
	owner := us()
	owner.ID, owner.Queue = id, "/queues/"+id
	d, err := Make(state, owner)
	must(t, err)
	must(t, d.Add(path("x")))
	setAge(t, d, age)
	return d
}

func setAge(t *testing.T, d *Dir, age time.Duration) {
	t.Helper()
	then := time.Now().Add(-age)
	must(t, os.Chtimes(d.path, then, then))
}

// sweep sweeps, with every queue gone but those given, and returns which queues
// were looked for.
func sweep(t *testing.T, state string, living ...string) (asked []string) {
	t.Helper()
	must(t, Sweep(state, idle, func(queue string) bool {
		asked = append(asked, queue)
		return !slices.Contains(living, queue)
	}))
	return asked
}

func wantDirs(t *testing.T, state string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(base(state))
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("directories (-want +got):\n%s", diff)
	}
}

func TestSweepTakesWhatIsIdleAndGone(t *testing.T) {
	state := t.TempDir()
	makeOld(t, state, "gone", 2*idle)
	makeOld(t, state, "lives", 2*idle)
	makeOld(t, state, "young", idle/2)                            // it may be in a mount namespace that is not ours
	must(t, os.Mkdir(filepath.Join(base(state), "new-1"), 0o700)) // a hook was killed
	setAge(t, Open(state, "new-1"), 2*idle)
	must(t, os.Mkdir(filepath.Join(base(state), "new-2"), 0o700)) // a hook is at it
	must(t, AddHook(state, path("larder-hook")))
	setAge(t, Hooks(state), 2*idle)

	asked := sweep(t, state, "/queues/lives")
	if diff := cmp.Diff([]string{"/queues/gone", "/queues/lives"}, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	wantDirs(t, state, "hooks", "lives", "new-2", "young")
}

func TestSweepOfNothingIsNothing(t *testing.T) {
	if asked := sweep(t, t.TempDir()); asked != nil {
		t.Errorf("asked for %q", asked)
	}
}

// The owner of a directory may put there what he likes, and root sweeps.
func TestSweepIsNotLedAstray(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("/queues/gone\n"), 0o644))
	for name, plant := range map[string]func(file string) error{
		"link":      func(file string) error { return os.Symlink(outside, file) },
		"pipe":      func(file string) error { return syscall.Mkfifo(file, 0o644) },
		"endless":   func(file string) error { return os.Symlink("/dev/zero", file) },
		"directory": func(file string) error { return os.Mkdir(file, 0o755) },
		"nothing":   func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			d := makeOld(t, state, "planted", 2*idle)
			must(t, os.Remove(filepath.Join(d.path, nameFile)))
			must(t, plant(filepath.Join(d.path, nameFile)))
			setAge(t, d, 2*idle)
			if asked := sweep(t, state); asked != nil {
				t.Errorf("asked for %q, want nothing: the directory names no queue", asked)
			}
			wantDirs(t, state, "planted")
		})
	}
}

func TestSweepRemovesLinksAndNotWhatTheyPointTo(t *testing.T) {
	state, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o644))
	d := makeOld(t, state, "gone", 2*idle)
	must(t, os.Symlink(outside, filepath.Join(d.path, "link")))
	setAge(t, d, 2*idle)
	must(t, os.Symlink(outside, filepath.Join(base(state), "dir-link")))

	sweep(t, state)
	wantDirs(t, state, "dir-link")
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

func TestSweepReadsABoundedName(t *testing.T) {
	state := t.TempDir()
	d := makeOld(t, state, "long", 2*idle)
	must(t, os.WriteFile(filepath.Join(d.path, nameFile), []byte(strings.Repeat("x", 10<<20)), 0o644))
	setAge(t, d, 2*idle)
	if asked := sweep(t, state); len(asked) != 1 || len(asked[0]) > 64<<10 {
		t.Errorf("asked %d times, want once, for at most 64 KiB", len(asked))
	}
}
