package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

// plants are what somebody who can write to a cache may put in the place of a file.
// outside is what must not be touched.
var plants = map[string]func(file, outside string) error{
	"a pipe":               func(file, _ string) error { return unix.Mkfifo(file, 0o666) },
	"a socket":             func(file, _ string) error { return unix.Mknod(file, unix.S_IFSOCK|0o666, 0) },
	"a directory":          func(file, _ string) error { return os.Mkdir(file, 0o755) },
	"a link out":           func(file, outside string) error { return os.Symlink(filepath.Join(outside, "file"), file) },
	"a link to a pipe":     func(file, outside string) error { return os.Symlink(filepath.Join(outside, "pipe"), file) },
	"a link up":            func(file, _ string) error { return os.Symlink("../../../../../../../../etc/hostname", file) },
	"a link to itself":     func(file, _ string) error { return os.Symlink(filepath.Base(file), file) },
	"a link to the folder": func(file, _ string) error { return os.Symlink(".", file) },
	"a file of 1 TB": func(file, _ string) error {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return err
		}
		return os.Truncate(file, 1<<40)
	},
	"a device": func(file, _ string) error { return unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, // zero
}

// newOutside makes a directory beside a cache.
func newOutside(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("StoreDir: /outside\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "dir", "file"), []byte("outside"), 0o644))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o666))
	return dir
}

// useAll does everything that can be done with a cache. What fails has to say why; what
// never ends is found by the time that go test gives it.
func useAll(t testing.TB, dir string, good, target *Cache) (errs []error) {
	t.Helper()
	add := func(err error) { errs = append(errs, err) }
	for _, open := range []func() (*Cache, error){
		func() (*Cache, error) { return OpenReadOnly(dir, storeDir) },
		func() (*Cache, error) { return Create(dir, storeDir, Options{}) },
	} {
		c, err := open()
		if err != nil {
			add(err)
			continue
		}
		defer c.Close()
		_, err = c.Entry(hello)
		add(err)
		add(c.Find(t.Context(), []string{hello})[0].Err)
		_, _, err = c.Read(HashPart(hello))
		add(err)
		for _, err := range c.Entries(t.Context()) {
			add(err)
		}
		_, damaged := runs(c)
		errs = append(errs, damaged...)
		_, err = c.Key(t.Context())
		add(err)
		c.Replaced()
		c.Missing()
		_, _, err = target.TakeNar(t.Context(), c, narInfo(hello, "hello"))
		add(err)
		add(target.TakeFile(t.Context(), c, "log/x.drv"))
		for _, name := range []string{narInfo(hello, "hello").URL, "log/x.drv"} {
			_ = os.Remove(filepath.Join(target.Path(), name)) // (ignored) it was not taken
		}
		if c.proof != tmpDir {
			continue
		}
		add(c.CheckWritable())
		add(c.SweepTemp(0))
		n := narInfo(hello, "hello")
		n.Sigs = []string{sig}
		_, err = c.AddSignatures(t.Context(), n)
		add(err)
		_, err = c.RecordRun(Run{Ended: noon, Used: []string{libc}}, 0)
		add(err)
		if nar, err := c.CreateTemp(); err != nil {
			add(err)
		} else {
			_, err := nar.WriteString("hello")
			add(errors.Join(err, c.PublishNar(nar, n.URL)))
		}
		if info, err := c.TempNarInfo(n); err != nil {
			add(err)
		} else {
			_, err := c.PublishNarInfo(t.Context(), info, hello)
			add(err)
			info.Discard()
		}
		_, _, err = c.TakeNar(t.Context(), good, narInfo(hello, "hello"))
		add(err)
		add(c.TakeFile(t.Context(), good, "log/x.drv"))
	}
	return errs
}

// TestWhatIsPlantedInACacheIsNotFollowed has everything that larder reads or writes in
// a cache replaced by something else. Nothing hangs, and nothing outside is touched.
func TestWhatIsPlantedInACacheIsNotFollowed(t *testing.T) {
	trouble.NeedRoot(t) // to make a device
	nar := narInfo(hello, "hello").URL
	good, target := newCache(t), newCache(t)
	publish(t, good, hello, "hello")
	write(t, good, "log/x.drv", "log")
	for what, plant := range plants {
		for _, place := range []string{
			narInfoName(hello), nar, infoFile, lockFile, runsDir + "/x", tmpDir + "/x", "log/x.drv", "CACHEDIR.TAG",
			"nar", "log", ".larder", tmpDir, runsDir,
		} {
			t.Run(what+" as "+place, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "cache")
				must(t, os.CopyFS(dir, os.DirFS(good.Path())))
				outside := newOutside(t)
				before := times(t, outside)
				if err := os.Rename(filepath.Join(dir, place), filepath.Join(t.TempDir(), "away")); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				must(t, plant(filepath.Join(dir, place), outside))
				errs := useAll(t, dir, good, target)
				if diff := cmp.Diff(before, times(t, outside)); diff != "" {
					t.Errorf("outside (-before +after):\n%s", diff)
				}
				said := 0
				for _, err := range errs {
					if err != nil {
						said++
					}
				}
				if said == 0 && place != tmpDir+"/x" && place != "CACHEDIR.TAG" {
					t.Error("nobody said anything")
				}
			})
		}
	}
}

// TestLinkedDirectoryIsNotSwept has the directory of unfinished files be another one,
// in which everything is old, and nothing is locked.
func TestLinkedDirectoryIsNotSwept(t *testing.T) {
	for _, link := range []struct{ name, to string }{{tmpDir, "../nar"}, {tmpDir, ".."}, {".larder", "linked"}} {
		t.Run(link.name+" to "+link.to, func(t *testing.T) {
			made := newCache(t)
			publish(t, made, hello, "hello")
			must(t, os.Mkdir(filepath.Join(made.Path(), "linked"), 0o755))
			must(t, os.Symlink("../nar", filepath.Join(made.Path(), "linked/tmp")))
			must(t, os.RemoveAll(filepath.Join(made.Path(), link.name)))
			must(t, os.Symlink(link.to, filepath.Join(made.Path(), link.name)))
			c, err := OpenReadOnly(made.Path(), storeDir) // Open would refuse it
			must(t, err)
			defer c.Close()
			before := snapshot(t, c.Path())
			if err := c.SweepTemp(0); err == nil || !strings.Contains(err.Error(), "no link") {
				t.Errorf("error is %v", err)
			}
			if f, err := c.CreateTemp(); err == nil {
				t.Errorf("made %s", f.Name())
			}
			if diff := cmp.Diff(before, snapshot(t, c.Path())); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// TestWhatIsMovedOutWhileTheCacheIsOpenIsNotFollowed leaves a link where it was.
func TestWhatIsMovedOutWhileTheCacheIsOpenIsNotFollowed(t *testing.T) {
	for _, name := range []string{".larder", tmpDir, runsDir} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t)
			publish(t, c, hello, "hello")
			record(t, c, Run{Ended: noon.Add(-48 * time.Hour), Used: []string{hello}}, true)
			dir, away := filepath.Join(c.Path(), name), filepath.Join(t.TempDir(), "away")
			must(t, os.Rename(dir, away))
			must(t, os.Symlink(away, dir))
			before := snapshot(t, away)
			if f, err := c.CreateTemp(); err == nil && name != runsDir {
				t.Errorf("made %s", f.Name())
				f.Discard()
			}
			if written, err := c.RecordRun(Run{Ended: noon, Used: []string{hello}}, 0); err == nil {
				t.Errorf("recorded a run: %v", written)
			}
			if _, err := c.lock(t.Context()); err == nil && name == ".larder" {
				t.Error("took the lock")
			}
			if diff := cmp.Diff(before, snapshot(t, away)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// TestDirectoriesOfOthersAreNotHeldOpen publishes into more than can be open.
func TestDirectoriesOfOthersAreNotHeldOpen(t *testing.T) {
	source, c := newCache(t), newCache(t)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	for i := range 100 {
		n := narInfo(item(i), "hello")
		n.URL = fmt.Sprintf("nar/%d/x.nar", i)
		write(t, source, n.URL, "hello")
		if _, _, err := c.TakeNar(t.Context(), source, n); err != nil {
			t.Fatal(err)
		}
		must(t, c.SyncDir(filepath.Dir(n.URL)))
	}
	if n := len(c.held.byName) + len(c.held.old); n > len(dirs)+1 {
		t.Errorf("%d directories are held open", n)
	}
}

// TestNumbersOfAnySizeAreRead has sizes of which a sum, or a buffer, would be wrong.
func TestNumbersOfAnySizeAreRead(t *testing.T) {
	c, target := newCache(t), newCache(t)
	n := publish(t, c, hello, "hello")
	for _, size := range []string{"-1", "-9223372036854775808", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551617", "1e9", "0x10", "1_000", " 5", ""} {
		for _, field := range []string{"FileSize", "NarSize"} {
			write(t, c, narInfoName(hello), string(n.Format()))
			must(t, replace(filepath.Join(c.Path(), narInfoName(hello)), field+": 5", field+": "+size))
			if _, err := c.Entry(hello); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %q: %v, want ErrDamaged", field, size, err)
			}
			if _, _, err := target.TakeNar(t.Context(), c, n); err != nil {
				t.Errorf("%s: %q: %v", field, size, err)
			}
		}
	}
}

// TestLargeFilesAreNotHeldBack has as many as a batch has of the size that is kept.
func TestLargeFilesAreNotHeldBack(t *testing.T) {
	names := make([]string, readBatch) // for one reader
	var read atomic.Int64
	for range inParallel(t.Context(), names, func(string) (int64, int, error) { return read.Add(1), readBytes + 1, nil }) {
		if n := read.Load(); n > 2 { // one is here, and one waits
			t.Errorf("%d were read", n)
		}
		break
	}
}

// TestManyReferencesAreReadOrRefused has as many as a file of the largest size can have,
// and more.
func TestManyReferencesAreReadOrRefused(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	file := filepath.Join(c.Path(), narInfoName(hello))
	for count, wantErr := range map[int]bool{100_000: false, 1_000_000: true} {
		must(t, replace(file, "\nReferences: ", "\nReferences: "+strings.Repeat(refHello+" ", count)+"\nX: "))
		n, err := c.Entry(hello)
		if wantErr && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "larger than")) || !wantErr && (err != nil || len(n.References) != count) {
			t.Errorf("%d references: %v", count, err)
		}
		must(t, os.WriteFile(file, narInfo(hello, "hello").Format(), 0o644))
	}
}

// TestRecordOfTheFutureIsNotBelieved has one that says that everything was used, for
// ever: nothing would be recorded any more, and all else would be old.
func TestRecordOfTheFutureIsNotBelieved(t *testing.T) {
	c := newCache(t)
	writeRun(t, c, "99991231T235959Z-x", strings.Replace(runText, "2026-11-21T12:00:00Z", "9999-12-31T23:59:59Z", 1))
	now := time.Now()
	record(t, c, Run{Ended: now, Used: []string{libc}}, true)
	all, damaged := runs(c)
	if len(all) != 1 || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), "99991231T235959Z-x") || !strings.Contains(damaged[0].Error(), "future") {
		t.Errorf("%d records, and %v", len(all), damaged)
	}
	used, _ := c.Used()
	if !used[refLibc].Equal(now.Truncate(time.Second)) {
		t.Errorf("used is %v", used)
	}
}

// TestRecordThatLiesIsNoHarm has records that are none.
func TestRecordThatLiesIsNoHarm(t *testing.T) {
	for name, text := range map[string]string{
		"unclean":     "larder-run 1\nended 2026-11-21T12:00:00Z\nused ../../etc/passwd\nend\n",
		"no time":     "larder-run 1\nused " + refHello + "\nend\n",
		"huge build":  "larder-run 1\nended 2026-11-21T12:00:00Z\nadded " + refHello + " 1e300\nend\n",
		"no number":   "larder-run 1\nended 2026-11-21T12:00:00Z\nadded " + refHello + " NaN\nend\n",
		"negative":    "larder-run 1\nended 2026-11-21T12:00:00Z\nadded " + refHello + " -1\nend\n",
		"two ends":    "larder-run 1\nended 2026-11-21T12:00:00Z\nend\nused x\nend\n",
		"other bytes": "larder-run 1\x00\nended 2026-11-21T12:00:00Z\nend\n",
	} {
		c := newCache(t)
		writeRun(t, c, "x", text)
		if all, damaged := runs(c); len(all) != 0 || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), runsDir+"/x") {
			t.Errorf("%s: %v, %v", name, all, damaged)
		}
	}
}

// TestLinkToNothingIsNamed is of what a reader takes for no entry, and a writer replaces.
func TestLinkToNothingIsNamed(t *testing.T) {
	c := newCache(t)
	must(t, os.Symlink("nothing", filepath.Join(c.Path(), narInfoName(hello))))
	for _, err := range c.Entries(t.Context()) {
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), narInfoName(hello)) {
			t.Errorf("error is %v", err)
		}
	}
	publish(t, c, hello, "hello")
	if _, err := c.Entry(hello); err != nil {
		t.Error(err)
	}
}
