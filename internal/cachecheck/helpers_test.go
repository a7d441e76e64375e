package cachecheck

import (
	"crypto/rand"

	"context"
	"errors"
	"fmt"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/cachewriter"
	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/compress"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
	"github.com/nix-larder/larder/internal/trouble"
)

func TestMain(m *testing.M) { trouble.Main(m, parts) }

// A site is a Nix store, and a cache that has all of it and stays as it is.
type site struct {
	nix   *nixtest.Store
	store *nixstore.Store
	dir   string            // of the cache
	paths map[string]string // by name
}

// newSite builds base, left and right of equal size that need it, top that needs both,
// twin with the contents of base, and adds source.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{nix: nixtest.New(t), dir: filepath.Join(t.TempDir(), "cache"), paths: make(map[string]string)}
	all := s.nix.Build(t, `let
		base = build "base" "echo base > $out" { };
		left = build "left" "echo lleft $base > $out" { inherit base; };
		right = build "right" "echo right $base > $out" { inherit base; };
		in [ base left right (build "top" "echo $left $right > $out" { inherit left right; }) (build "twin" "echo base > $out" { }) ]`)
	all = append(all, s.nix.Add(t, "source", "a source\n"))
	for _, p := range all {
		s.paths[nixstore.Name(p)] = p
	}
	var err error
	s.store, err = nixstore.Open(nixstore.Dirs{Store: s.nix.Dir, State: s.nix.State}, 10*time.Second)
	must(t, err)
	t.Cleanup(func() { s.store.Close() })
	cache, err := bincache.Create(s.dir, s.nix.Dir, bincache.Options{})
	must(t, err)
	defer cache.Close()
	w := cachewriter.New(cachewriter.Options{Cache: cache, Store: s.store, Compression: compress.Method{Name: "none"}})
	defer w.Close()
	_, err = w.Copy(t.Context(), all...)
	must(t, err)
	return s
}

// A trial is a copy of the site's cache that something may happen to.
type trial struct {
	*site
	dir         string
	cache       *bincache.Cache
	hidden      map[string]bool // names of paths that the store has not
	compression string
	checker     Checker
	mender      Mender
	fault       func(storePaths []string) error // of Copy
	findErr     error
	builds      map[string]bincache.Hash // what the store has of a path, if it is something else
}

func (s *site) trial(t testing.TB) *trial {
	t.Helper()
	r := &trial{site: s, dir: filepath.Join(t.TempDir(), "cache"), hidden: make(map[string]bool), compression: "none"}
	must(t, os.CopyFS(r.dir, os.DirFS(s.dir)))
	r.reopen(t)
	r.checker.Contents = true
	r.mender.Store, r.mender.Closed = r, true
	return r
}

func (r *trial) reopen(t testing.TB) {
	t.Helper()
	c, err := bincache.Open(r.dir, "")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	r.cache = c
}

// hide makes the store have nothing of some names, or of any.
func (r *trial) hide(names ...string) {
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(r.paths))
	}
	for _, name := range names {
		r.hidden[r.paths[name]] = true
	}
}

func (r *trial) Find(ctx context.Context, hash string) (*bincache.NarInfo, error) {
	if r.findErr != nil {
		return nil, r.findErr
	}
	path, _, err := r.store.FindHash(ctx, hash)
	if errors.Is(err, nixstore.ErrNotValid) || r.hidden[path] {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := r.store.Info(ctx, path)
	if err != nil {
		return nil, err
	}
	n := &bincache.NarInfo{StorePath: path, NarHash: info.NarHash, NarSize: info.NarSize, CA: info.CA, Sigs: info.Sigs}
	for _, ref := range info.References {
		n.References = append(n.References, filepath.Base(ref))
	}
	if other, ok := r.builds[path]; ok {
		n.NarHash = other
	}
	return n, nil
}

func (r *trial) Copy(ctx context.Context, paths []string, anew map[string]bool) error {
	if r.fault != nil {
		if err := r.fault(paths); err != nil {
			return err
		}
	}
	w := cachewriter.New(cachewriter.Options{
		Cache: r.cache, Store: r.store, Compression: compress.Method{Name: r.compression, Level: map[string]int{"zstd": 3}[r.compression]},
		Rewrite: func(have *bincache.NarInfo) bool { return anew[bincache.HashPart(have.StorePath)] },
	})
	defer w.Close()
	_, err := w.Copy(ctx, paths...)
	return err
}

func (r *trial) check(t testing.TB) *Report {
	t.Helper()
	r.checker.Cache = r.cache
	report, err := r.checker.Check(t.Context())
	must(t, err)
	return report
}

// mend checks and mends, and fails the test if something goes that is not named.
func (r *trial) mend(t testing.TB) []Repair {
	t.Helper()
	return r.mendAll(t, r.check(t).Problems)
}

func (r *trial) mendAll(t testing.TB, problems []Problem) []Repair {
	t.Helper()
	before := r.snapshot(t)
	r.mender.Cache = r.cache
	repairs, err := r.mender.Mend(t.Context(), problems)
	must(t, err)
	after := r.snapshot(t)
	for file := range before {
		if _, ok := after[file]; ok {
			continue
		}
		if !slices.ContainsFunc(repairs, func(p Repair) bool {
			return (p.Action == Withdrawn || p.Action == Removed || p.Action == Rewritten) && (p.File == file || p.entry != nil && p.entry.URL == file)
		}) {
			t.Errorf("%s is gone, and nobody says so: %s", file, show(repairs))
		}
	}
	for _, p := range repairs {
		if p.Action == Left && p.Kind != Pin && before[p.File] != after[p.File] {
			t.Errorf("%s was left, and changed", p.File)
		}
	}
	return repairs
}

// snapshot returns what is in all files but those that removing and adding needs.
func (r *trial) snapshot(t testing.TB) map[string]string {
	t.Helper()
	files := make(map[string]string)
	must(t, filepath.WalkDir(r.dir, func(file string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(r.dir, file)
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(name, ".larder/trash/") || name == ".larder/removals" || name == ".larder/retired" {
			return err
		}
		text, err := os.ReadFile(file)
		files[name] = string(text)
		return err
	}))
	return files
}

// left returns the names of what the cache has, and can be used.
func (r *trial) left(t testing.TB) (names []string) {
	t.Helper()
	for n, err := range r.cache.Entries(t.Context()) {
		must(t, err)
		names = append(names, nixstore.Name(n.StorePath))
	}
	slices.Sort(names)
	return names
}

func (r *trial) narInfoFile(name string) string {
	return filepath.Join(r.dir, bincache.HashPart(r.paths[name])+".narinfo")
}

// narFile returns the NAR's file of a path in a cache in which nothing is damaged.
func (r *trial) narFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.site.dir, filepath.Base(r.narInfoFile(name))))
	must(t, err)
	n, err := bincache.ParseNarInfo(text)
	must(t, err)
	return filepath.Join(r.dir, n.URL)
}

// edit replaces something in a narinfo, all after a name up to the end of the line.
func (r *trial) edit(t testing.TB, name, field string, change func(value string) string) {
	t.Helper()
	text, err := os.ReadFile(r.narInfoFile(name))
	must(t, err)
	before, rest, ok := strings.Cut(string(text), field+": ")
	value, after, _ := strings.Cut(rest, "\n")
	if !ok || change(value) == value {
		t.Fatalf("%s of %s is %q", field, name, value)
	}
	must(t, os.WriteFile(r.narInfoFile(name), []byte(before+field+": "+change(value)+"\n"+after), 0o644))
}

// flip changes a digit of a hash, and keeps it one.
func flip(hash string) string {
	last := "0"
	if strings.HasSuffix(hash, "0") {
		last = "1"
	}
	return hash[:len(hash)-1] + last
}

// is fails the test if problems, or repairs, are not these: each "kind name", or "kind name
// action".
func is[T any](t testing.TB, r *trial, got []T, want ...string) {
	t.Helper()
	var said []string
	for _, g := range got {
		var p Problem
		action := ""
		switch g := any(g).(type) {
		case Problem:
			p = g
		case Repair:
			p, action = g.Problem, " "+string(g.Action)
		}
		name := p.File
		for n, path := range r.paths {
			if path == p.Path || p.Path == "" && bincache.HashPart(path)+".narinfo" == p.File {
				name = n
			}
		}
		said = append(said, fmt.Sprintf("%s %s%s", p.Kind, name, action))
	}
	slices.Sort(said)
	slices.Sort(want)
	if !slices.Equal(said, want) {
		t.Errorf("got  %q\nwant %q\n%s", said, want, show(got))
	}
}

func show[T any](list []T) string {
	var b strings.Builder
	for _, g := range list {
		switch g := any(g).(type) {
		case Problem:
			fmt.Fprintf(&b, "\n\t%s %s %s: %v", g.Kind, g.File, g.Path, g.Err)
		case Repair:
			fmt.Fprintf(&b, "\n\t%s %s %s: %v: %s, %v", g.Kind, g.File, g.Path, g.Err, g.Action, g.Why)
		}
	}
	return b.String()
}

func (r *trial) isWell(t testing.TB, names ...string) {
	t.Helper()
	r.checker.Contents, r.checker.Share = true, nil
	is(t, r, r.check(t).Problems)
	if len(names) == 0 {
		names = []string{"base", "left", "right", "source", "top", "twin"}
	}
	if got := r.left(t); !slices.Equal(got, names) {
		t.Errorf("the cache has %q, want %q", got, names)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testKey(t testing.TB) signature.PublicKey {
	t.Helper()
	_, public, err := signature.GenerateKeypair("test-1", rand.Reader)
	must(t, err)
	return public
}
