package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["denied"] = denied
	parts["nobody"] = func(args []string) error {
		if err := trouble.BecomeNobody(); err != nil {
			return err
		}
		return examine(args)
	}
}

// needDisk skips the test where the disk of temporary files is a finding itself.
func needDisk(t *testing.T) {
	t.Helper()
	d, err := statDisk(t.TempDir())
	must(t, err)
	if d.memory || d.name == "overlay" {
		t.Skipf("TMPDIR is on a %s", d.name)
	}
}

// onDisk moves the cache to a file system of their own.
func (s *site) onDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = trouble.Tmpfs(t, size)
	s.Cache = filepath.Join(dir, "cache")
	must(t, os.Mkdir(s.Cache, 0o755))
	return dir
}

func TestDiskThatForgetsIsFound(t *testing.T) {
	needDisk(t)
	s := newSite(t)
	s.not(t, checkDisks, "in memory")
	dir := s.onDisk(t, "8m")
	if f := s.of(t, checkDisks, "the cache "+s.Cache+" is in memory (tmpfs)"); f.Severity != Warning {
		t.Errorf("found %s", show([]Finding{f}))
	}
	s.Queue.File = filepath.Join(dir, "queue.db")
	if f := s.of(t, checkDisks, "the queue "+s.Queue.File+" is in memory"); f.Severity != Warning || !strings.Contains(f.Advice, "larder init --queue") {
		t.Errorf("found %s", show([]Finding{f}))
	}
}

func TestFullDiskIsFound(t *testing.T) {
	s := newSite(t)
	dir := s.onDisk(t, "8m")
	s.of(t, checkDisks, "disk of the cache is nearly full")
	filler := filepath.Join(dir, "filler")
	must(t, os.WriteFile(filler, make([]byte, 7<<20+1<<19), 0o644))
	if f := s.of(t, checkDisks, "disk of the cache is full"); f.Severity != Problem || !strings.HasPrefix(f.Run[0], "df -h") {
		t.Errorf("found %s", show([]Finding{f}))
	}
	// If Nix's store is on it, that can be made smaller.
	s.Dirs.Store = dir
	if f := s.of(t, checkDisks, "is full"); f.Run[0] != "nix-collect-garbage" {
		t.Errorf("type %q", f.Run)
	}
	must(t, os.Remove(filler))
	s.not(t, checkDisks, "is full")
}

func TestWorkerThatPausesForRoomIsFound(t *testing.T) {
	s := newSite(t)
	dir := s.onDisk(t, "8m")
	s.not(t, checkDisks, "workers pause")
	s.Queue.Settings.MinFree = "4194304"
	s.not(t, checkDisks, "workers pause")
	filler := filepath.Join(dir, "filler")
	must(t, os.WriteFile(filler, make([]byte, 5<<20), 0o644))
	f := s.of(t, checkDisks, "workers pause: 3.0 MiB are left on the cache's disk, of which 4.0 MiB are to stay free")
	if f.Severity != Problem || !strings.Contains(f.Advice, "larder gc") {
		t.Errorf("found %s", show([]Finding{f}))
	}
	must(t, os.Remove(filler))
	s.not(t, checkDisks, "workers pause")
}

func TestDiskWithoutInodesIsFound(t *testing.T) {
	s := newSite(t)
	dir := s.onDisk(t, "2g,nr_inodes=100")
	s.of(t, checkDisks, "inodes left")
	for i := range 90 {
		must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("x", i+1)), nil, 0o644))
	}
	if f := s.of(t, checkDisks, "disk of the cache is full"); f.Severity != Problem {
		t.Errorf("found %s", show([]Finding{f}))
	}
}

func TestReadOnlyDiskIsFound(t *testing.T) {
	s := newSite(t)
	dir := s.onDisk(t, "8m")
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	f := s.of(t, checkDisks, "read-only file system")
	if f.Severity != Problem {
		t.Errorf("found %s", show([]Finding{f}))
	}
	s.Queue = nil
	if f := s.of(t, checkDisks, "read-only file system"); f.Severity != Warning || !strings.HasPrefix(f.Run[0], "larder run --read-only") {
		t.Errorf("for larder run found %s", show([]Finding{f}))
	}
	s.do(t, f)
	s.of(t, checkDisks, "files can be published")
}

func TestHookOnADiskWithoutProgramsIsFound(t *testing.T) {
	s := newSite(t)
	dir := trouble.Tmpfs(t, "1m")
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	hook := filepath.Join(dir, "hook")
	must(t, os.WriteFile(hook, nil, 0o755))
	s.otherHook(t, hook, s.Queue.File)
	s.cures(t, checkHook, s.finds(t, checkHook, Problem, "noexec"))
}

func TestCacheThatWeMayNotWriteIsFound(t *testing.T) {
	trouble.NeedRoot(t)
	needDisk(t)
	s := newSite(t)
	if f := inChild(t, "nobody", "disk", s.Cache); f.Severity != Warning || !strings.Contains(f.What, "permission denied") {
		t.Errorf("nobody finds %s", show([]Finding{f}))
	}
	// Whose queue it is, writes.
	must(t, os.Chown(s.Queue.File+"-lock", 65534, 65534))
	s.of(t, checkDisks, "belongs to another user")
}

// calls that the publishing of a file takes, and what is found if one fails.
func TestFileSystemThatCantPublishIsFound(t *testing.T) {
	needDisk(t)
	for _, test := range []struct {
		call, errno string
		want        Severity
		what        string
	}{
		{"fsync", "EIO", Problem, "can't be made durable: "},
		{"linkat", "EPERM", Warning, "has no link(2)"},
		{"linkat", "EOPNOTSUPP", Warning, "has no link(2)"},
		{"renameat", "EXDEV", Problem, "can't put one file in the place of another"},
	} {
		s := newSite(t)
		f := inChild(t, "denied", test.call, test.errno, s.Cache)
		if f.Severity != test.want || !strings.Contains(f.What, test.what) {
			t.Errorf("%s with %s: found %s", test.call, test.errno, show([]Finding{f}))
		}
		left, err := filepath.Glob(filepath.Join(s.Cache, ".larder", "tmp", "doctor-*"))
		must(t, err)
		if len(left) > 0 {
			t.Errorf("%s: left %q", test.call, left)
		}
	}
}

func denied(args []string) error {
	calls := map[string]uintptr{"fsync": unix.SYS_FSYNC, "linkat": unix.SYS_LINKAT, "renameat": unix.SYS_RENAMEAT}
	errnos := map[string]syscall.Errno{"EIO": unix.EIO, "EPERM": unix.EPERM, "EOPNOTSUPP": unix.EOPNOTSUPP, "EXDEV": unix.EXDEV}
	if err := trouble.Deny(calls[args[0]], errnos[args[1]]); err != nil {
		return err
	}
	return examine([]string{"disk", args[2]})
}

func TestClockThatIsOffIsFound(t *testing.T) {
	for skew, found := range map[time.Duration]bool{0: false, time.Second: false, -time.Second: false, time.Minute: true, -time.Hour: true} {
		if f := skewOf(skew); (len(f) > 0) != found {
			t.Errorf("skew %v: found %s", skew, show(f))
		}
	}
}

// Nothing of ours is left in the cache, nor above one that is not there yet.
func TestProbingLeavesNothing(t *testing.T) {
	s := newSite(t)
	for range 2 {
		s.isFine(t, func(_ context.Context, s *Setup) []Finding { return s.probe(existing(s.Cache)) })
		if left, _ := filepath.Glob(filepath.Join(existing(s.Cache), "doctor-*")); len(left) > 0 {
			t.Errorf("left %q", left)
		}
		must(t, os.RemoveAll(s.Cache))
	}
}
