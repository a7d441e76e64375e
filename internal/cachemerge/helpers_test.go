package cachemerge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{
	"merge": func(args []string) error { _, err := mergeIn(context.Background(), args[0], args[1:]...); return err },
}

const storeDir = "/nix/store"

// An item is an entry to be made.
type item struct {
	name string
	text string // its NAR, by default something with the name in it
	refs []string
	sigs []string
}

func baseName(name string) string { return hashOf(name).Digits()[:32] + "-" + name }

func storePath(name string) string { return storeDir + "/" + baseName(name) }

func hashOf(text string) bincache.Hash { return sha256.Sum256([]byte(text)) }

// narInfo returns the narinfo of an item.
func (i item) narInfo() *bincache.NarInfo {
	if i.text == "" {
		i.text = "contents of " + i.name
	}
	hash := hashOf(i.text)
	n := &bincache.NarInfo{
		StorePath: storePath(i.name), URL: bincache.NarName(hash, "none"), Compression: "none", Sigs: i.sigs,
		FileHash: hash, FileSize: int64(len(i.text)), NarHash: hash, NarSize: int64(len(i.text)),
	}
	for _, ref := range i.refs {
		n.References = append(n.References, baseName(ref))
	}
	slices.Sort(n.References)
	return n
}

// newCache makes a cache with some entries, in no particular order.
func newCache(t testing.TB, items ...item) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	fill(t, dir, items...)
	return dir
}

func fill(t testing.TB, dir string, items ...item) {
	t.Helper()
	c, err := bincache.Create(dir, storeDir, bincache.Options{})
	must(t, err)
	must(t, c.Close())
	for _, i := range items {
		n := i.narInfo()
		text := i.text
		if text == "" {
			text = "contents of " + i.name
		}
		must(t, os.WriteFile(filepath.Join(dir, n.URL), []byte(text), 0o644))
		must(t, os.WriteFile(narInfoFile(dir, i.name), n.Format(), 0o644))
	}
}

func named(names ...string) (items []item) {
	for _, name := range names {
		items = append(items, item{name: name})
	}
	return items
}

func narInfoFile(dir, name string) string { return filepath.Join(dir, baseName(name)[:32]+".narinfo") }

func narFile(dir string, i item) string { return filepath.Join(dir, i.narInfo().URL) }

// merge merges, and fails the test if the target is not whole then.
func merge(t testing.TB, target string, sources ...string) Result {
	t.Helper()
	r, err := mergeIn(t.Context(), target, sources...)
	must(t, err)
	for _, problem := range problems(target) {
		t.Error(problem)
	}
	return r
}

func mergeIn(ctx context.Context, target string, sources ...string) (Result, error) {
	o := Options{}
	for _, dir := range sources {
		c, err := bincache.OpenReadOnly(dir, storeDir)
		if err != nil {
			return Result{}, err
		}
		defer c.Close()
		o.Sources = append(o.Sources, c)
	}
	var err error
	if o.Target, err = bincache.Create(target, storeDir, bincache.Options{}); err != nil {
		return Result{}, err
	}
	defer o.Target.Close()
	m := New(o)
	m.batch = 50 // so that there are some
	return m.Run(ctx)
}

// problems says which entries of a cache are not as they should be. It may be called
// at any moment.
func problems(dir string) (problems []string) {
	c, err := bincache.OpenReadOnly(dir, storeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []string{err.Error()}
	}
	defer c.Close()
	hashes, err := c.Hashes()
	if err != nil {
		return []string{err.Error()}
	}
	for _, hash := range hashes {
		n, _, err := c.Read(hash)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", hash, err))
			continue
		}
		nar, err := os.ReadFile(filepath.Join(dir, n.URL))
		if err != nil || hashOf(string(nar)) != n.FileHash && n.FileHash != (bincache.Hash{}) {
			problems = append(problems, fmt.Sprintf("%s: NAR is not right: %v", n.StorePath, err))
		}
		for _, ref := range n.References {
			// What is called so is on no cache: see TestReferenceThatNoCacheHasIsLeftToOthers.
			if _, err := os.Stat(filepath.Join(dir, bincache.HashPart(ref)+".narinfo")); err != nil && !strings.HasSuffix(ref, "-elsewhere") {
				problems = append(problems, fmt.Sprintf("%s: reference is missing: %v", n.StorePath, err))
			}
		}
	}
	return problems
}

// has fails the test if a cache has others than these entries.
func has(t testing.TB, dir string, names ...string) {
	t.Helper()
	c, err := bincache.OpenReadOnly(dir, storeDir)
	must(t, err)
	defer c.Close()
	hashes, err := c.Hashes()
	must(t, err)
	var got []string
	for _, hash := range hashes {
		n, _, err := c.Read(hash)
		must(t, err)
		got = append(got, path.Base(n.StorePath)[33:])
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

// snapshot returns what is in a directory: modes, owners, sizes, inodes and times, but
// for a directory only whether it is there.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sys := info.Sys().(*syscall.Stat_t)
		files[name] = fmt.Sprint(info.Mode(), sys.Uid, sys.Gid)
		if !d.IsDir() {
			files[name] += fmt.Sprint(" ", info.Size(), sys.Ino, info.ModTime())
		}
		return nil
	}))
	return files
}

func sameFile(t testing.TB, a, b string) bool {
	t.Helper()
	infoA, err := os.Stat(a)
	must(t, err)
	infoB, err := os.Stat(b)
	must(t, err)
	return os.SameFile(infoA, infoB)
}

// edit changes a file in place.
func edit(t testing.TB, file, from, to string) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	changed := strings.ReplaceAll(string(text), from, to)
	if changed == string(text) {
		t.Fatalf("%q is not in %s", from, file)
	}
	must(t, os.WriteFile(file, []byte(changed), 0o644))
}

func write(t testing.TB, file, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
