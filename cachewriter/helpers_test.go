package cachewriter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// parts are what children of these tests do.
var parts = map[string]func(args []string) error{"copy": copyInChild}

// A fixture is a Nix store and a cache.
type fixture struct {
	nix   *nixtest.Store
	store *nixstore.Store
	cache *bincache.Cache
	dir   string // of the cache
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	nix := nixtest.New(t)
	return newFixtureAt(t, nix, filepath.Join(t.TempDir(), "cache"))
}

func newFixtureAt(t testing.TB, nix *nixtest.Store, dir string) *fixture {
	t.Helper()
	f := &fixture{nix: nix, dir: dir}
	var err error
	f.store, err = nixstore.Open(nixstore.Dirs{Store: nix.Dir, State: nix.State}, 10*time.Second)
	must(t, err)
	t.Cleanup(func() { f.store.Close() })
	f.cache, err = bincache.Create(dir, nix.Dir, bincache.Options{})
	must(t, err)
	t.Cleanup(func() { f.cache.Close() })
	return f
}

// writer returns a Writer that is closed with the test.
func (f *fixture) writer(t testing.TB, o Options) *Writer {
	t.Helper()
	o.Cache, o.Store = f.cache, f.store
	w := New(o)
	t.Cleanup(w.Close)
	return w
}

// copy copies with a new Writer, as a new process would.
func (f *fixture) copy(t testing.TB, o Options, paths ...string) Result {
	t.Helper()
	w := f.writer(t, o)
	r, err := w.Copy(t.Context(), paths...)
	must(t, err)
	w.Close()
	return r
}

// child returns a process that copies paths, and prints a line before it does.
func (f *fixture) child(t testing.TB, compression string, paths ...string) *exec.Cmd {
	t.Helper()
	return trouble.Command(t, "copy", append([]string{f.nix.Dir, f.nix.State, f.dir, compression}, paths...)...)
}

func copyInChild(args []string) error {
	return copyFrom(context.Background(), nixstore.Dirs{Store: args[0], State: args[1]}, args[2], args[3], args[4:])
}

func copyFrom(ctx context.Context, dirs nixstore.Dirs, cacheDir, compression string, paths []string) error {
	c, err := compress.Parse(compression)
	if err != nil {
		return err
	}
	store, err := nixstore.Open(dirs, 10*time.Second)
	if err != nil {
		return err
	}
	defer store.Close()
	cache, err := bincache.Open(cacheDir, dirs.Store)
	if err != nil {
		return err
	}
	defer cache.Close()
	w := New(Options{Cache: cache, Store: store, Compression: c})
	defer w.Close()
	fmt.Println("ready")
	_, err = w.Copy(ctx, paths...)
	return err
}

// entry returns the narinfo's and the NAR's files of a store path.
func (f *fixture) entry(t testing.TB, path string) (narInfo, nar string) {
	t.Helper()
	n, err := f.cache.Entry(path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return f.narInfoFile(path), filepath.Join(f.dir, n.URL)
}

func (f *fixture) narInfoFile(path string) string {
	return filepath.Join(f.dir, nixstore.HashPart(path)+".narinfo")
}

// check reports everything that is wrong with the cache: it has to be whole, and
// right, with nothing unfinished in it.
func (f *fixture) check(t testing.TB) {
	t.Helper()
	for _, problem := range problems(f.dir, true) {
		t.Error(problem)
	}
	// A call that fails does not wait for what it has stopped.
	trouble.Eventually(t, "no unfinished file is left", func() bool { return len(unfinished(t, f.dir)) == 0 })
}

// has reports which of the paths have no entry.
func (f *fixture) has(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := f.cache.Entry(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// hasNot reports which of the paths have an entry.
func (f *fixture) hasNot(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(f.narInfoFile(path)); err == nil {
			t.Errorf("%s has an entry", path)
		}
	}
}

// problems returns what is wrong with a cache at this moment. If it should be
// right as well as whole, it reads every byte.
func problems(dir string, right bool) (problems []string) {
	names, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	if err != nil {
		return []string{err.Error()}
	}
	for _, name := range names {
		if err := checkEntry(dir, name, right); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", filepath.Base(name), err))
		}
	}
	return problems
}

func checkEntry(dir, name string, right bool) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	n, err := bincache.ParseNarInfo(text)
	if err != nil {
		return fmt.Errorf("%w in %q", err, text)
	}
	if filepath.Base(name) != nixstore.HashPart(n.StorePath)+".narinfo" {
		return fmt.Errorf("it is for %s", n.StorePath)
	}
	for _, ref := range n.References {
		if _, err := os.Stat(filepath.Join(dir, nixstore.HashPart(ref)+".narinfo")); err != nil {
			return fmt.Errorf("reference %s: %w", ref, err)
		}
	}
	file := filepath.Join(dir, n.URL)
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() != n.FileSize {
		return fmt.Errorf("size of %s is %d, want %d", n.URL, info.Size(), n.FileSize)
	}
	if !right {
		return nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if hash := bincache.Hash(sha256.Sum256(content)); hash != n.FileHash || n.URL != bincache.NarName(hash, n.Compression) {
		return fmt.Errorf("hash of %s is %s, want %s", n.URL, hash, n.FileHash)
	}
	r, err := compress.NewReader(n.Compression, bytes.NewReader(content), n.NarSize)
	if err != nil {
		return err
	}
	defer r.Close()
	if content, err = io.ReadAll(r); err != nil {
		return fmt.Errorf("decompress %s: %w", n.URL, err)
	}
	if hash := bincache.Hash(sha256.Sum256(content)); hash != n.NarHash || int64(len(content)) != n.NarSize {
		return fmt.Errorf("nar hash is %s with %d bytes, want %s with %d", hash, len(content), n.NarHash, n.NarSize)
	}
	return nil
}

// unfinished returns the names below .larder/tmp.
func unfinished(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".larder", "tmp"))
	must(t, err)
	for _, e := range entries {
		if e.Name() != ".keep" {
			names = append(names, e.Name())
		}
	}
	return names
}

// tooLong is after what time a test takes something for hanging.
const tooLong = 3 * time.Minute

// within returns what comes through a channel, which must not take too long.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(tooLong):
		t.Fatalf("%s took longer than %v", what, tooLong)
		panic("unreachable")
	}
}

// copyAsync starts a Copy, whose error will come through the channel.
func copyAsync(ctx context.Context, w *Writer, paths ...string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.Copy(ctx, paths...)
		done <- err
	}()
	return done
}

// logged returns a log, and what is in it.
func logged() (*slog.Logger, func() string) {
	b := &trouble.Log{}
	return slog.New(slog.NewTextHandler(b, nil)), b.String
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample returns data of which some can be compressed and some can't.
func sample(size int) []byte {
	random := rand.NewChaCha8([32]byte{})
	b := make([]byte, size)
	for part := range slices.Chunk(b, 100_000) {
		_, _ = random.Read(part[:len(part)/3])
	}
	return b
}
