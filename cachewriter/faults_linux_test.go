package cachewriter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func init() {
	parts["copy as nobody"] = copyAsNobody
	parts["copy without fsync"] = copyWithoutFsync
}

// unavailable reports an error that is not ErrUnavailable, and for one cause.
func unavailable(t *testing.T, err error, cause error) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, cause) {
		t.Errorf("error is %v, want ErrUnavailable: %v", err, cause)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("error has several lines:\n%v", err)
	}
}

func TestFullDiskIsNotThePathsFault(t *testing.T) {
	disk := trouble.Tmpfs(t, "8m")
	f := newFixtureAt(t, nixtest.New(t), filepath.Join(disk, "cache"))
	var paths []string
	for i := range 8 {
		paths = append(paths, f.nix.Add(t, fmt.Sprintf("random-%d", i), string(sample(2 << 20)[i:])))
	}
	top := f.nix.Build(t, `build "top" "echo $deps > $out" { deps = map builtins.storePath [ "`+strings.Join(paths, `" "`)+`" ]; }`)[0]
	w := f.writer(t, Options{Compression: compress.Method{Name: "none"}})
	for range 3 {
		_, err := w.Copy(t.Context(), top)
		unavailable(t, err, syscall.ENOSPC)
		f.check(t)
		f.hasNot(t, top)
	}
	if n := len(entryFiles(t, f.dir)) / 2; n < 2 || n > 4 {
		t.Errorf("%d paths of 2 MiB are on a disk of 8 MiB", n)
	}

	// Somebody makes room.
	must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	_, err := w.Copy(t.Context(), top)
	must(t, err)
	f.has(t, append(paths, top)...)
	f.check(t)
}

// TestDiskWithoutInodesIsNotThePathsFault has room for bytes, but not for names.
func TestDiskWithoutInodesIsNotThePathsFault(t *testing.T) {
	disk := trouble.Tmpfs(t, "8m,nr_inodes=60")
	f := newFixtureAt(t, nixtest.New(t), filepath.Join(disk, "cache"))
	top := f.nix.AddTexts(t, "text", 50)
	w := f.writer(t, Options{})
	_, err := w.Copy(t.Context(), top)
	unavailable(t, err, syscall.ENOSPC)
	f.check(t)
	must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "nr_inodes=1000"))
	_, err = w.Copy(t.Context(), top)
	must(t, err)
	f.has(t, top)
	f.check(t)
}

// frozenFixture is a fixture with one path in its cache, whose disk is read-only until
// thaw is called.
func frozenFixture(t *testing.T) (f *fixture, base string, thaw func()) {
	t.Helper()
	disk := trouble.Tmpfs(t, "8m")
	f = newFixtureAt(t, nixtest.New(t), filepath.Join(disk, "cache"))
	base = f.nix.Add(t, "base", "base")
	f.copy(t, Options{}, base)
	must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	return f, base, func() {
		t.Helper()
		must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, ""))
	}
}

func TestReadOnlyDiskIsNotThePathsFault(t *testing.T) {
	f, base, thaw := frozenFixture(t)
	source := f.nix.Add(t, "source", "source")
	w := f.writer(t, Options{})
	_, err := w.Copy(t.Context(), source)
	unavailable(t, err, syscall.EROFS)
	// What is in the cache need not be written.
	_, err = w.Copy(t.Context(), base)
	must(t, err)
	thaw()
	_, err = w.Copy(t.Context(), source)
	must(t, err)
	f.has(t, source)
	f.check(t)
}

func TestListingThatCanNotBeWrittenIsTheCachesTrouble(t *testing.T) {
	f, base, thaw := frozenFixture(t)
	w := f.writer(t, everything)
	_, err := w.Copy(t.Context(), base)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
	thaw()
	must(t, copyOnly(t, w, base, Result{Paths: 1, Listed: 1}))
	f.check(t)
}

func TestEntryThatCanNotBeSignedIsNotThePathsFault(t *testing.T) {
	f, base, thaw := frozenFixture(t)
	keys := []signature.SecretKey{newKey(t, "one-1")}
	w := f.writer(t, Options{Keys: keys})
	_, err := w.Copy(t.Context(), base)
	unavailable(t, err, syscall.EROFS)
	thaw()
	must(t, copyOnly(t, w, base, Result{Paths: 1, Signed: 1}))
	f.signedBy(t, keys, base)
}

func TestCacheThatIsTakenAwayIsNotThePathsFault(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 20)
	w := f.writer(t, Options{})
	must(t, os.RemoveAll(f.dir))
	_, err := w.Copy(t.Context(), top)
	unavailable(t, err, syscall.ENOENT)
	if _, err := os.Stat(f.dir); err == nil {
		t.Error("something of the cache was made again")
	}
}

// copyAsNobody is a child that may not write the cache.
func copyAsNobody(args []string) error {
	if err := trouble.BecomeNobody(); err != nil {
		return err
	}
	err := copyFrom(context.Background(), nixstore.Dirs{Store: args[0], State: args[1]}, args[2], "zstd", args[3:])
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EACCES) || strings.Contains(err.Error(), "\n") {
		return fmt.Errorf("copy as nobody: %v, want ErrUnavailable: %v", err, syscall.EACCES)
	}
	return nil
}

func TestForbiddenCacheIsNotThePathsFault(t *testing.T) {
	trouble.NeedRoot(t)
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 20)
	must(t, os.Chmod(filepath.Dir(filepath.Dir(f.dir)), 0o755)) // so that nobody gets there
	const nobody = 65534
	// Nix before 2.22 lets only the owner read the database while nobody else does.
	must(t, filepath.WalkDir(f.nix.State, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	}))
	must(t, trouble.Command(t, "copy as nobody", f.nix.Dir, f.nix.State, f.dir, top).Run())
	f.hasNot(t, top)
	f.check(t)
}

// copyWithoutFsync is a child on a disk that can't make anything durable.
func copyWithoutFsync(args []string) error {
	if err := trouble.Deny(syscall.SYS_FSYNC, syscall.EIO); err != nil {
		return err
	}
	err := copyFrom(context.Background(), nixstore.Dirs{Store: args[0], State: args[1]}, args[2], "zstd", args[3:])
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("copy without fsync: %v, want ErrUnavailable: %v", err, syscall.EIO)
	}
	return nil
}

func TestNothingIsPublishedThatIsNotDurable(t *testing.T) {
	f := newFixture(t)
	top := f.nix.AddTexts(t, "text", 20)
	must(t, trouble.Command(t, "copy without fsync", f.nix.Dir, f.nix.State, f.dir, top).Run())
	if files := entryFiles(t, f.dir); len(files) > 0 {
		t.Errorf("published: %d files", len(files))
	}
	f.check(t)
}

// TestLostWritesStayLost has a disk that reports lost writes once, as Linux does.
func TestLostWritesStayLost(t *testing.T) {
	f := newFixture(t)
	file := func() *bincache.Temp {
		file, err := f.cache.CreateTemp()
		must(t, err)
		t.Cleanup(file.Discard)
		return file
	}
	d := &dump{nar: file(), infoFile: file(), narInfo: &bincache.NarInfo{URL: "nar/x"}, lost: syscall.EIO}
	w := f.writer(t, Options{})
	for range 2 {
		if err := w.publish([]*entry{{dump: d, info: &nixstore.Info{Path: f.nix.Dir + "/x"}}}); !errors.Is(err, syscall.EIO) {
			t.Errorf("publish: %v, want %v", err, syscall.EIO)
		}
	}
	if files := entryFiles(t, f.dir); len(files) > 0 {
		t.Errorf("published: %v", files)
	}
}

// lowThreads returns which threads of this process have the lowest priority.
func lowThreads(t *testing.T) (low []string, all int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, task := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + task.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		_, fields, _ := strings.Cut(string(text), ") ") // the name may have spaces in it
		if strings.Fields(fields)[16] == "19" {
			low = append(low, task.Name())
		}
		all++
	}
	return low, all
}

func TestOnlyDumpersHaveTheLowestPriority(t *testing.T) {
	f := newFixture(t)
	source := f.nix.Add(t, "source", "source")
	// A process can't end its first thread. If that was a dumper's in an earlier run
	// of this test, Go lets it sleep for ever.
	before, _ := lowThreads(t)
	w := f.writer(t, Options{Background: true, Workers: 3})
	trouble.Eventually(t, "three threads have it", func() bool { low, _ := lowThreads(t); return len(low) == len(before)+3 })
	_, err := w.Copy(t.Context(), source)
	must(t, err)
	if low, all := lowThreads(t); len(low) != len(before)+3 || all <= len(low) {
		t.Errorf("%d of %d threads have the lowest priority, want 3", len(low)-len(before), all)
	}
	w.Close()
	// Nothing else must ever run on them.
	first := fmt.Sprint(os.Getpid())
	trouble.Eventually(t, "the threads have ended", func() bool {
		low, _ := lowThreads(t)
		return !slices.ContainsFunc(low, func(thread string) bool { return thread != first })
	})
}
