package bincache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInfoIsReadAsNixDoes(t *testing.T) {
	const gnu = "/gnu/store"
	c := newCache(t)
	for text, want := range map[string]string{ // "" is an error
		"StoreDir: /nix/store\n":                                        storeDir,
		"StoreDir:/nix/store":                                           storeDir,
		"StoreDir: \t/nix/store \r\nPriority: 40\r\n":                   storeDir,
		"WantMassQuery: 1\nStoreDir: /gnu/store\nPriority: 41\nX: y: z": gnu,
		"Store: /gnu/store\n storeDir: /gnu/store\njunk\n\n":            storeDir,
		"":                                     storeDir,
		"Priority: -5\n":                       storeDir,
		"Priority: 40 or so\n":                 storeDir,
		"Priority: +7\n":                       storeDir,
		"Priority: high\n":                     "",
		"Priority: \n":                         "",
		"Priority: +-7\n":                      "",
		"Priority: 2147483648\n":               "",
		"Priority: " + strings.Repeat("9", 50): "",
		"StoreDir: /nix/store\nStoreDir: /gnu/store\n": "",
		strings.Repeat("#", maxInfo+1):                 "",
	} {
		must(t, os.WriteFile(filepath.Join(c.Path(), infoFile), []byte(text), 0o644))
		got, err := OpenReadOnly(c.Path(), "")
		if err == nil {
			defer got.Close()
		}
		if (err == nil) != (want != "") || err == nil && got.StoreDir() != want {
			t.Errorf("%.60q: %v, %v; want %q", text, got, err, want)
		}
		if want == "" && !strings.Contains(err.Error(), c.Path()) {
			t.Errorf("error does not name the cache: %v", err)
		}
	}
}

// lose makes a cache with an entry that has lost its nix-cache-info.
func lose(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	c := create1(t, dir, Options{})
	publish(t, c, hello, "hello")
	for _, name := range []string{infoFile, ".larder", ".gitignore", "CACHEDIR.TAG", "log", "realisations"} {
		must(t, os.RemoveAll(filepath.Join(dir, name)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "README"), []byte("mine"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("0", 32)+narInfoEnding), []byte("damaged"), 0o600))
	must(t, os.Chmod(filepath.Join(dir, narInfoName(hello)), 0o440))
	must(t, os.Chmod(filepath.Join(dir, "nar"), 0o750))
	must(t, os.Chmod(dir, 0o750))
	return dir
}

// TestCacheWithoutInfoIsOne as for Nix, which makes nix-cache-info if it is missing.
func TestCacheWithoutInfoIsOne(t *testing.T) {
	dir := lose(t)
	before := snapshot(t, dir)
	c, err := OpenReadOnly(dir, "")
	must(t, err)
	defer c.Close()
	if _, err := c.Entry(hello); err != nil || c.StoreDir() != storeDir || c.HasInfo() || c.Replaced() {
		t.Errorf("entry: %v; store %s; has info: %v; replaced: %v", err, c.StoreDir(), c.HasInfo(), c.Replaced())
	}
	id := c.Identity()
	must(t, os.WriteFile(filepath.Join(dir, "another"), nil, 0o644))
	again, err := OpenReadOnly(dir, storeDir)
	must(t, err)
	defer again.Close()
	if again.Identity() != id || c.Replaced() {
		t.Errorf("it is %s, and was %s; replaced: %v", again.Identity(), id, c.Replaced())
	}
	must(t, os.Remove(filepath.Join(dir, "another")))
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("looking at it changed it (-before +after):\n%s", diff)
	}
	for _, open := range []func() (*Cache, error){
		func() (*Cache, error) { return Open(dir, "/gnu/store") },
		func() (*Cache, error) { return Create(dir, "/gnu/store", Options{}) },
	} {
		if _, err := open(); !errors.Is(err, ErrStoreDir) {
			t.Errorf("error is %v, want ErrStoreDir", err)
		}
	}

	written, err := Create(dir, storeDir, Options{})
	must(t, err)
	defer written.Close()
	after := snapshot(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s is %s, was %s", name, after[name], text)
		}
	}
	// As open as what was there; but who made it can write to it.
	if got, want := after["./"+infoFile], strings.Replace(whole["./"+infoFile], "-rw-r--r--", "-rw-r-----", 1); got != want || !written.HasInfo() {
		t.Errorf("%s is %s, want %s", infoFile, got, want)
	}
	publish(t, written, libc, "libc")
}

// TestDirectoryWithoutEntriesIsNoCache has what others may call so.
func TestDirectoryWithoutEntriesIsNoCache(t *testing.T) {
	for name, text := range map[string]string{
		"x.narinfo":                                 string(narInfo(hello, "hello").Format()),
		narInfoName(libc):                           string(narInfo(hello, "hello").Format()),
		strings.Repeat("0", 32) + narInfoEnding:     "notes",
		strings.Repeat("0", 32) + narInfoEnding[1:]: string(narInfo(hello, "hello").Format()),
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		if _, err := OpenReadOnly(dir, ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want fs.ErrNotExist", name, err)
		}
		if _, err := Create(dir, storeDir, Options{}); !errors.Is(err, ErrNotCache) {
			t.Errorf("%s: %v, want ErrNotCache", name, err)
		}
	}
}

// TestCacheOutOfANixStoreCanBeWritten has a copy of what mkBinaryCache made, in which
// nothing can.
func TestCacheOutOfANixStoreCanBeWritten(t *testing.T) {
	c := newCache(t)
	publish(t, c, hello, "hello")
	for name, text := range snapshot(t, c.Path()) {
		if text[0] == '-' {
			must(t, os.Chmod(filepath.Join(c.Path(), name), 0o444))
		}
	}
	must(t, c.Close())
	must(t, os.RemoveAll(filepath.Join(c.Path(), ".larder")))
	again, err := Open(c.Path(), storeDir)
	must(t, err)
	defer again.Close()
	publish(t, again, libc, "libc")
	for name, text := range snapshot(t, filepath.Join(c.Path(), ".larder")) {
		if text[0] == '-' && !strings.HasPrefix(text, "-rw-r--r--") {
			t.Errorf("%s is %s", name, text)
		}
	}
}

// TestMkBinaryCachesFileHashIsNotBelieved, since it is that of the NAR: to compare with
// it would take every one of its NARs for damaged, and to mend by it would overwrite
// others.
func TestMkBinaryCachesFileHashIsNotBelieved(t *testing.T) {
	source, other, target := newCache(t), newCache(t), newCache(t)
	n := narInfo(hello, "hello")
	n.Compression, n.URL, n.FileSize = "xz", "nar/"+n.NarHash.Digits()+".nar.xz", 10
	write(t, source, n.URL, "compressed")
	for _, file := range []string{narInfoName(hello), n.URL} { // as from another disk: nothing is linked
		write(t, source, narInfoName(hello), string(n.Format()))
		must(t, os.Chmod(filepath.Join(source.Path(), file), 0o600))
	}
	if how, _, err := target.TakeNar(t.Context(), source, n); err != nil || how != Copied {
		t.Errorf("%v, %v; want it copied", how, err)
	}
	longer := *n
	longer.FileSize = 20
	write(t, other, n.URL, "compressed otherwise")
	if _, _, err := target.TakeNar(t.Context(), other, &longer); !errors.Is(err, ErrNameTaken) {
		t.Errorf("error is %v, want ErrNameTaken", err)
	}
	if text, err := os.ReadFile(filepath.Join(target.Path(), n.URL)); err != nil || string(text) != "compressed" {
		t.Errorf("NAR is %q, %v", text, err)
	}
}
