package cachewriter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
	"github.com/nix-larder/larder/internal/nixtest"
)

// newAddressed returns a store that builds content-addressed derivations, and a cache.
func newAddressed(t *testing.T, conf ...string) *fixture {
	t.Helper()
	nix := nixtest.New(t, append([]string{"experimental-features = nix-command ca-derivations"}, conf...)...)
	return newFixtureAt(t, nix, filepath.Join(t.TempDir(), "cache"))
}

// addressed is a chain of content-addressed derivations, of which an input changes the
// derivations, but not what comes out of them.
func addressed(input string) string {
	return fmt.Sprintf(`let
		addressed = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
		base = build "base" "test -n $input; echo base > $out" (addressed // { input = "%s"; });
		in build "top" "echo $base > $out" (addressed // { inherit base; })`, input)
}

// realisations returns the files of realisations in a cache, and what is in them.
func realisations(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "realisations", "*.doi"))
	must(t, err)
	all := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		all[filepath.Base(file)] = string(text)
	}
	return all
}

// TestRealisationsAreThoseThatNixWrites compares the bytes.
func TestRealisationsAreThoseThatNixWrites(t *testing.T) {
	key := newKey(t, "ci-1")
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(key.String()), 0o600))
	f := newAddressed(t, "secret-key-files = "+file)
	top := f.nix.Build(t, addressed("one"))[0]
	f.copy(t, Options{}, top)
	f.check(t)
	theirs := t.TempDir()
	f.nix.Run(t, "nix", "copy", "--to", "file://"+theirs, "--impure", "--expr", nixtest.Expr(addressed("one")))
	got, want := realisations(t, f.dir), realisations(t, theirs)
	if len(want) < 2 {
		t.Fatalf("Nix has copied %q", want)
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s is %s, Nix has %s", name, got[name], text)
		}
	}
}

func TestRealisationThatComesLaterIsCopied(t *testing.T) {
	f := newAddressed(t)
	top := f.nix.Build(t, addressed("one"))[0]
	w := f.writer(t, Options{})
	must(t, w.Realise(t.Context()))
	if got := realisations(t, f.dir); len(got) > 0 {
		t.Fatalf("there are realisations of what is not there: %q", got)
	}
	_, err := w.Copy(t.Context(), top)
	must(t, err)
	first := realisations(t, f.dir)
	if again := f.nix.Build(t, addressed("two"))[0]; again != top {
		t.Fatalf("built %s, want %s", again, top)
	}
	must(t, w.Realise(t.Context()))
	second := realisations(t, f.dir)
	if len(second) <= len(first) {
		t.Errorf("there are %q, after %q", second, first)
	}

	// By the path that the Writer has come to before.
	f.nix.Build(t, addressed("three"))
	_, err = w.Copy(t.Context(), top)
	must(t, err)
	if third := realisations(t, f.dir); len(third) <= len(second) {
		t.Errorf("there are %q, after %q", third, second)
	}
	f.check(t)
}

// TestNoRealisationIsThereBeforeItsPath looks all the time.
func TestNoRealisationIsThereBeforeItsPath(t *testing.T) {
	f := newAddressed(t)
	top := f.nix.Build(t, addressed("one"))[0]
	w := f.writer(t, Options{})
	copied, realising := copyAsync(t.Context(), w, top), make(chan error, 1)
	go func() { realising <- w.Realise(t.Context()) }()
	for done := false; !done; {
		select {
		case err := <-copied:
			must(t, err)
			done = true
		default:
		}
		for name, text := range realisations(t, f.dir) {
			r, err := bincache.ParseRealisation("realisations/"+name, []byte(text))
			must(t, err)
			f.has(t, filepath.Join(f.nix.Dir, r.OutPath))
			for id := range r.Dependent {
				if _, err := os.Stat(filepath.Join(f.dir, "realisations", id+".doi")); err != nil {
					t.Error(err)
				}
			}
		}
	}
	must(t, <-realising)
	if got := realisations(t, f.dir); len(got) == 0 {
		t.Error("there are no realisations")
	}
}

func TestRealisationOfWhatIsElsewhereIsCopied(t *testing.T) {
	f := newAddressed(t)
	top := f.nix.Build(t, addressed("one"))[0]
	f.copy(t, Options{Elsewhere: func(context.Context, *nixstore.Info) (bool, error) { return true, nil }}, top)
	f.hasNot(t, top)
	if got := realisations(t, f.dir); len(got) == 0 {
		t.Error("there are no realisations")
	}
}

func TestRealisationOfWhatStaysOutIsNotCopied(t *testing.T) {
	f := newAddressed(t)
	top := f.nix.Build(t, addressed("one"))[0]
	w := f.writer(t, Options{Cut: func(info *nixstore.Info) string {
		if strings.HasSuffix(info.Path, "-top") {
			return "so"
		}
		return ""
	}})
	_, err := w.Copy(t.Context(), top)
	if err == nil {
		t.Fatal("it was copied")
	}
	must(t, w.Realise(t.Context()))
	got := realisations(t, f.dir)
	if len(got) == 0 {
		t.Error("there is no realisation of what it needs")
	}
	for name, text := range got {
		if strings.Contains(text, filepath.Base(top)) {
			t.Errorf("there is %s: %s", name, text)
		}
	}
}

func TestOtherRealisationIsKeptAndToldOfOnce(t *testing.T) {
	f := newAddressed(t)
	top := f.nix.Build(t, addressed("one"))[0]
	list, err := f.store.Realisations(t.Context(), nil, top)
	must(t, err)
	other := filepath.Base(f.nix.Add(t, "other", "other"))
	for _, r := range list {
		_, err := f.cache.AddRealisations(t.Context(), []*bincache.Realisation{{Drv: r.Drv, Output: r.Output, OutPath: other}}, nil)
		must(t, err)
	}
	before := realisations(t, f.dir)
	log, text := logged()
	w := f.writer(t, Options{Log: log})
	for range 2 {
		_, err = w.Copy(t.Context(), top)
		must(t, err)
		must(t, w.Realise(t.Context()))
	}
	after := realisations(t, f.dir)
	for name := range before {
		if diff := cmp.Diff(before[name], after[name]); diff != "" {
			t.Errorf("%s has changed (-before +after):\n%s", name, diff)
		}
	}
	if n := strings.Count(text(), "left out realisation"); n != len(list) {
		t.Errorf("it is told of %d times, want %d:\n%s", n, len(list), text())
	}
	f.check(t)
}
