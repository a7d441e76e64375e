package bincache

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{
	"make a cache": makeCache,
	"hold a file":  holdFile,
}

// Two store paths.
const (
	storeDir = "/nix/store"
	hello    = storeDir + "/0c0chgmb3fjpgzrxdhbhb6qjpmsyr7sh-hello-2.12"
	libc     = storeDir + "/1xr5jp6kjm1kxxm3l1g2bgnpi9h5xc9k-glibc-2.38"
)

// newCache makes an empty cache.
func newCache(t testing.TB) *Cache {
	t.Helper()
	return create1(t, filepath.Join(t.TempDir(), "cache"), Options{})
}

func create1(t testing.TB, dir string, o Options) *Cache {
	t.Helper()
	c, err := Create(dir, storeDir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// withUmask runs the rest of the test with a umask.
func withUmask(t testing.TB, mask int) {
	t.Helper()
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

// narInfo returns a narinfo for a NAR with some text in it.
func narInfo(storePath, text string) *NarInfo {
	hash := sum(text)
	return &NarInfo{
		StorePath: storePath, URL: NarName(hash, "none"), Compression: "none",
		FileHash: hash, FileSize: int64(len(text)), NarHash: hash, NarSize: int64(len(text)),
	}
}

// publish publishes an entry, with some text for its NAR.
func publish(t testing.TB, c *Cache, storePath, text string) *NarInfo {
	t.Helper()
	n := narInfo(storePath, text)
	must(t, c.PublishNar(temp(t, c, text), n.URL))
	file, err := c.TempNarInfo(n)
	must(t, err)
	_, err = c.PublishNarInfo(t.Context(), file, storePath)
	must(t, err)
	return n
}

// temp returns an unfinished file.
func temp(t testing.TB, c *Cache, text string) *Temp {
	t.Helper()
	f, err := c.CreateTemp()
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	return f
}

// unfinished returns the names below .larder/tmp.
func unfinished(t testing.TB, c *Cache) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.Path(), tmpDir))
	must(t, err)
	var names []string
	for _, e := range entries {
		if e.Name() != ".keep" {
			names = append(names, e.Name())
		}
	}
	return names
}

// snapshot returns the mode and the contents of everything below a directory.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %q", content)
		}
		files["."+strings.TrimPrefix(path, dir)] = text
		return nil
	}))
	return files
}

// times returns when everything below a directory was changed last.
func times(t testing.TB, dir string) map[string]string {
	t.Helper()
	changed := make(map[string]string)
	for name := range snapshot(t, dir) {
		var s unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &s))
		changed[name] = fmt.Sprint(s.Mtim, s.Ctim, s.Ino)
	}
	return changed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
