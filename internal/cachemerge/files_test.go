package cachemerge

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestLogsRunsAndPinsAreMergedToo(t *testing.T) {
	one, two, target := newCache(t, named("a")...), newCache(t, named("a")...), newCache(t)
	want := make(map[string]string)
	for dir, files := range map[string][]string{
		one: {"log/x.drv", ".larder/runs/1", ".larder/pins/main", ".larder/pins/same"},
		two: {"log/y.drv", "log/y.drv.tmp.drv", ".larder/runs/2", ".larder/pins/same"},
	} {
		for _, file := range files {
			want[file] = file
			if strings.HasPrefix(file, runs) {
				want[file] = record
			}
			write(t, filepath.Join(dir, file), want[file])
		}
	}
	// The first one is right.
	write(t, filepath.Join(two, "log/x.drv"), "another log")
	write(t, filepath.Join(two, ".larder/pins/main"), "another pin")
	// These are none of the target's business.
	for _, file := range []string{
		".larder/tmp/unfinished", ".larder/trash/x.narinfo", ".larder/other/x", "log/z.drv.tmp.123.4", "log/z.drv.tmp.123", "other/x", "README",
	} {
		write(t, filepath.Join(one, file), file)
	}
	must(t, os.Symlink("/etc/hostname", filepath.Join(one, "log/link")))
	must(t, os.Mkdir(filepath.Join(one, "log/folder"), 0o755))

	r := merge(t, target, one, two)
	if diff := cmp.Diff([]Conflict{{".larder/pins/main", target, two}}, r.Conflicts); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	if r.Files != len(want) {
		t.Errorf("%d files, want %d", r.Files, len(want))
	}
	if diff := cmp.Diff(want, filesOf(t, target)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if r := merge(t, target, two, one); r.Files != 0 || len(r.Conflicts) != 1 {
		t.Errorf("second result is %+v, want no files", r)
	}
}

const record = "larder-run 1\nended 2026-11-21T12:00:00Z\nend\n"

// Records that nobody can read would be in the way of all who want to know what was used.
func TestUnreadableRecordsAreLeftOut(t *testing.T) {
	source := newCache(t, named("a")...)
	for name, text := range map[string]string{
		"good":   record,
		"newer":  "larder-run 999\nof which we know nothing",
		"junk":   "junk",
		"cut":    strings.TrimSuffix(record, "end\n"),
		"future": strings.Replace(record, "2026", "9999", 1),
	} {
		write(t, filepath.Join(source, runs, name), text)
	}
	must(t, unix.Mkfifo(filepath.Join(source, runs, "pipe"), 0o644))
	target := filepath.Join(t.TempDir(), "cache")
	merge(t, target, source)
	if diff := cmp.Diff([]string{runs + "/good", runs + "/newer"}, slices.Sorted(maps.Keys(filesOf(t, target)))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A folder that is a link has what is elsewhere in the cache.
func TestFolderThatIsALinkIsLeftOut(t *testing.T) {
	source := newCache(t, named("a")...)
	for _, folder := range folders {
		must(t, os.MkdirAll(filepath.Join(source, filepath.Dir(folder)), 0o755))
		must(t, os.RemoveAll(filepath.Join(source, folder)))
		to, err := filepath.Rel(filepath.Dir(folder), ".")
		must(t, err)
		must(t, os.Symlink(to, filepath.Join(source, folder)))
	}
	target := filepath.Join(t.TempDir(), "cache")
	merge(t, target, source)
	has(t, target, "a")
	if files := filesOf(t, target); len(files) > 0 {
		t.Errorf("files are %q", files)
	}
}

// filesOf returns what is in a cache beside entries, and what every cache has.
func filesOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch base := d.Name(); {
		case base == ".keep", base == ".gitignore", base == "CACHEDIR.TAG", base == "nix-cache-info", rel == ".larder/lock":
		case filepath.Dir(rel) == "nar", filepath.Ext(base) == ".narinfo":
		default:
			text, err := os.ReadFile(name)
			files[rel] = string(text)
			return err
		}
		return nil
	}))
	return files
}

// A listing says what is where in the NAR.
func TestListingComesWithItsOwnNar(t *testing.T) {
	first := newCache(t, item{name: "a", text: "first"}, item{name: "b"})
	second := newCache(t, item{name: "a", text: "second"}, item{name: "b"})
	listing := func(dir, name string) string { return filepath.Join(dir, baseName(name)[:32]+".ls") }
	write(t, listing(second, "a"), "of the second a")
	write(t, listing(second, "b"), "of b")
	write(t, listing(second, "gone"), "of nothing")
	target := filepath.Join(t.TempDir(), "cache")
	merge(t, target, first, second)
	want := map[string]string{filepath.Base(listing(target, "b")): "of b"}
	if diff := cmp.Diff(want, filesOf(t, target)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestCacheWithoutFoldersOfItsOwnIsEnough(t *testing.T) {
	source := newCache(t, named("a")...)
	for _, dir := range []string{".larder", "log", "realisations", "build-trace-v2"} {
		must(t, os.RemoveAll(filepath.Join(source, dir)))
	}
	target := filepath.Join(t.TempDir(), "cache")
	merge(t, target, source)
	has(t, target, "a")
	if _, err := os.Stat(filepath.Join(source, ".larder")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the source has one now: %v", err)
	}
}
