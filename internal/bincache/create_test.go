package bincache

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
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

// whole is what a new cache looks like, with the default mode.
var whole = map[string]string{
	".":                      "drwxr-xr-x",
	"./.gitignore":           `-rw-r--r-- "*\n"`,
	"./.keep":                `-rw-r--r-- ""`,
	"./.larder":              "drwxr-xr-x",
	"./.larder/.keep":        `-rw-r--r-- ""`,
	"./.larder/lock":         `-rw-r--r-- ""`,
	"./.larder/runs":         "drwxr-xr-x",
	"./.larder/runs/.keep":   `-rw-r--r-- ""`,
	"./.larder/tmp":          "drwxr-xr-x",
	"./.larder/tmp/.keep":    `-rw-r--r-- ""`,
	"./CACHEDIR.TAG":         `-rw-r--r-- "Signature: 8a477f597d28d172789f06886806bc55\n# A binary cache for Nix. See https://bford.info/cachedir/\n"`,
	"./build-trace-v2":       "drwxr-xr-x",
	"./build-trace-v2/.keep": `-rw-r--r-- ""`,
	"./log":                  "drwxr-xr-x",
	"./log/.keep":            `-rw-r--r-- ""`,
	"./nar":                  "drwxr-xr-x",
	"./nar/.keep":            `-rw-r--r-- ""`,
	"./nix-cache-info":       `-rw-r--r-- "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"`,
	"./realisations":         "drwxr-xr-x",
	"./realisations/.keep":   `-rw-r--r-- ""`,
}

func TestCreateMakesAWholeCacheWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0o022, 0o077, 0} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			top := t.TempDir()
			withUmask(t, mask)
			// A directory from mktemp is there, and closed to others.
			closed := filepath.Join(top, "closed")
			must(t, os.Mkdir(closed, 0o700))
			for _, dir := range []string{filepath.Join(top, "missing"), filepath.Join(top, "parents", "missing", "too"), closed} {
				create1(t, dir, Options{})
				if diff := cmp.Diff(whole, snapshot(t, dir)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", dir, diff)
				}
			}
			for _, parent := range []string{"parents", "parents/missing"} {
				info, err := os.Stat(filepath.Join(top, parent))
				must(t, err)
				if info.Mode().Perm() != 0o755 {
					t.Errorf("%s is %v, so that nobody gets to the cache", parent, info.Mode())
				}
			}
		})
	}
}

func TestCreateGivesFilesTheModeAndGroupAskedFor(t *testing.T) {
	trouble.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "cache")
	withUmask(t, 0o077)
	const group = 54321
	create1(t, dir, Options{Mode: 0o660, Group: fmt.Sprint(group)}).Close()
	// Whoever opens it later has another umask, and no options.
	syscall.Umask(0o027)
	c, err := Open(dir, storeDir)
	must(t, err)
	defer c.Close()
	publish(t, c, hello, "hello")

	checked := 0
	for name := range snapshot(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		want := fs.FileMode(0o660)
		if info.IsDir() {
			want = fs.ModeDir | fs.ModeSetgid | 0o770
		}
		if info.Mode() != want {
			t.Errorf("%s is %v, want %v", name, info.Mode(), want)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != group {
			t.Errorf("%s has group %d, want %d", name, gid, group)
		}
		checked++
	}
	if want := len(whole) + 2; checked != want {
		t.Errorf("%d files checked, want %d", checked, want)
	}
}

func TestSetgidOfAGivenDirectoryIsKept(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, fs.ModeSetgid|0o700))
	create1(t, dir, Options{})
	for name, text := range snapshot(t, dir) {
		if strings.HasPrefix(text, "d") && text != "dgrwxr-xr-x" {
			t.Errorf("%s is %s, want dgrwxr-xr-x", name, text)
		}
	}
}

func TestCreateOpensWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	create1(t, dir, Options{Mode: 0o640}).Close()
	info := "StoreDir: /nix/store\nPriority: 12\n"
	must(t, os.WriteFile(filepath.Join(dir, infoFile), []byte(info), 0))
	before := snapshot(t, dir)
	create1(t, dir, Options{Mode: 0o600})
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("Create changed a cache (-before +after):\n%s", diff)
	}
}

func TestCreateRefusesAnotherDirectory(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
	must(t, os.Chmod(dir, 0o700))
	before := snapshot(t, dir)
	_, err := Create(dir, storeDir, Options{})
	if !errors.Is(err, ErrNotCache) || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("Create: %v, want ErrNotCache, for thesis.tex", err)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("Create touched it (-before +after):\n%s", diff)
	}
	if _, err := Create(filepath.Join(dir, "thesis.tex"), storeDir, Options{}); err == nil {
		t.Error("Create took a file for a directory")
	}
	// A new file system is not quite empty.
	fresh := t.TempDir()
	must(t, os.Mkdir(filepath.Join(fresh, "lost+found"), 0o700))
	create1(t, fresh, Options{})
}

func TestCacheOfAnotherStoreIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	create1(t, dir, Options{})
	for _, open := range []func() (*Cache, error){
		func() (*Cache, error) { return Open(dir, "/gnu/store") },
		func() (*Cache, error) { return Create(dir, "/gnu/store", Options{}) },
	} {
		if _, err := open(); !errors.Is(err, ErrStoreDir) {
			t.Errorf("error is %v, want ErrStoreDir", err)
		}
	}
}

func TestOpenMakesNothingWhereNoCacheIs(t *testing.T) {
	empty := t.TempDir()
	for _, dir := range []string{empty, filepath.Join(empty, "missing")} {
		if _, err := Open(dir, storeDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open: %v, want fs.ErrNotExist", err)
		}
	}
	if files := snapshot(t, empty); len(files) != 1 {
		t.Errorf("Open left %v", files)
	}
}

func TestOpenMakesAgainWhatAnArchiveLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	create1(t, dir, Options{}).Close()
	withUmask(t, 0o077)
	for name := range whole {
		if name != "." && name != "./"+infoFile {
			must(t, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	c, err := Open(dir, storeDir)
	must(t, err)
	defer c.Close()
	if diff := cmp.Diff(whole, snapshot(t, dir)); diff != "" {
		t.Errorf("after Open (-want +got):\n%s", diff)
	}
}

// makeCache is a child that makes a cache with a umask that hides it.
func makeCache(args []string) error {
	syscall.Umask(0o077)
	fmt.Println("ready")
	c, err := Create(args[0], storeDir, Options{})
	if err != nil {
		return err
	}
	return c.Close()
}

func TestKilledCreateIsResumed(t *testing.T) {
	unfinishedCaches := 0
	for round := range 40 {
		dir := filepath.Join(t.TempDir(), "cache")
		child := trouble.Command(t, "make a cache", dir)
		stdout, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		_, err = stdout.Read(make([]byte, 6))
		must(t, err)
		time.Sleep(rand.N(20 * time.Millisecond)) // not to wait for it: to hit anything
		must(t, child.Process.Kill())
		_ = child.Wait()

		if _, err := os.Stat(filepath.Join(dir, infoFile)); err != nil {
			unfinishedCaches++
		}
		c := create1(t, dir, Options{})
		must(t, c.SweepTemp(0))
		if diff := cmp.Diff(whole, snapshot(t, dir)); diff != "" {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
	}
	t.Logf("%d of 40 were killed in the middle", unfinishedCaches)
}

// TestCreateIsResumedFromAnyPoint has what a killed Create can leave, to the
// directory that has the umask's mode.
func TestCreateIsResumedFromAnyPoint(t *testing.T) {
	names := slices.Sorted(maps.Keys(whole))
	for i, last := range names {
		dir := filepath.Join(t.TempDir(), "cache")
		create1(t, dir, Options{}).Close()
		for _, name := range names[i+1:] {
			must(t, os.RemoveAll(filepath.Join(dir, name)))
		}
		must(t, os.RemoveAll(filepath.Join(dir, infoFile)))
		if strings.HasPrefix(whole[last], "d") {
			must(t, os.Chmod(filepath.Join(dir, last), 0o700))
		}
		create1(t, dir, Options{})
		if diff := cmp.Diff(whole, snapshot(t, dir)); diff != "" {
			t.Errorf("killed after %s (-want +got):\n%s", last, diff)
		}
	}
}

func TestManyMayCreateTheSameCache(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "parent", "cache")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				c, err := Create(dir, storeDir, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			})
		}
		all.Wait()
		if diff := cmp.Diff(whole, snapshot(t, dir)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func TestReplacedCacheIsNoticed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := create1(t, dir, Options{})
	publish(t, c, hello, "hello")
	if c.Replaced() {
		t.Error("the cache is said to be another one")
	}
	must(t, os.Rename(dir, dir+"-moved"))
	if !c.Replaced() {
		t.Error("the cache is gone, and nobody noticed")
	}
	create1(t, dir, Options{})
	if !c.Replaced() {
		t.Error("the cache is another one, and nobody noticed")
	}

	for what, change := range map[string]func(dir string) error{
		"emptied": func(dir string) error { return os.RemoveAll(filepath.Join(dir, ".larder")) },
		// What is deleted and made again may get the same inode.
		"made again": func(dir string) error {
			later := time.Now().Add(time.Second)
			return os.Chtimes(filepath.Join(dir, infoFile), later, later)
		},
	} {
		c := newCache(t)
		must(t, change(c.Path()))
		if !c.Replaced() {
			t.Errorf("the cache was %s, and nobody noticed", what)
		}
	}
}

// Who copies a cache may leave out directories, and another one keeps them empty.
func TestCacheThatHasLostItsNarsIsTheSame(t *testing.T) {
	dir := newCache(t).Path()
	for range 2 {
		c, err := OpenReadOnly(dir, "")
		must(t, err)
		defer c.Close()
		if c.Replaced() {
			t.Error("the cache is said to be another one")
		}
		must(t, os.RemoveAll(filepath.Join(dir, "nar")))
	}
}

func TestNothingIsMadeForAnUnknownGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "parent", "cache")
	if _, err := Create(dir, storeDir, Options{Group: "no such group"}); err == nil {
		t.Error("Create knows a group that there is not")
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("something was made")
	}
}
