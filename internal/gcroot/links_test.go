package gcroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/nixtest"
)

// newLinks returns links on a store of their own, on which nix-store works for the
// rest of the test.
func newLinks(t *testing.T) (*nixtest.Store, *Links) {
	t.Helper()
	store := nixtest.New(t)
	for _, v := range store.Command("nix-store").Env {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "NIX_") {
			t.Setenv(name, value)
		}
	}
	return store, OpenLinks(filepath.Join(t.TempDir(), "not", "yet", "links"))
}

// files adds files to a store in one go.
func files(t *testing.T, store *nixtest.Store, name string, n int) []string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"--add"}
	for i := range n {
		file := filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
		must(t, os.WriteFile(file, nil, 0o644))
		args = append(args, file)
	}
	return store.Lines(t, "nix-store", args...)
}

// wantLinks reports which paths should have a root and have none, or the reverse.
func wantLinks(t *testing.T, l *Links, paths ...string) {
	t.Helper()
	got, err := l.List()
	must(t, err)
	slices.Sort(got)
	want := []string{}
	for _, path := range paths {
		want = append(want, filepath.Base(path))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
}

func TestLinksKeepPathsFromNix(t *testing.T) {
	store, l := newLinks(t)
	kept, lost := files(t, store, "kept", 2), store.Add(t, "lost", "lost")
	top := store.Build(t, `build "top" "echo $dep > $out" { dep = builtins.storePath "`+store.Add(t, "dep", "dep")+`"; }`)[0]
	closure := store.Lines(t, "nix-store", "-qR", top)
	must(t, l.Protect(t.Context(), append(kept, top)...))
	wantLinks(t, l, append(kept, top)...)
	store.Run(t, "nix-store", "--gc")
	for _, path := range append(closure, kept...) {
		wantInStore(t, path, true)
	}
	wantInStore(t, lost, false)

	must(t, l.Remove(kept[0]))
	wantLinks(t, l, kept[1], top)
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, kept[0], false)
	wantInStore(t, kept[1], true)

	must(t, l.RemoveAll())
	must(t, l.RemoveAll())
	wantLinks(t, l)
	store.Run(t, "nix-store", "--gc")
	for _, path := range append(closure, kept...) {
		wantInStore(t, path, false)
	}
}

func TestNoLinksAreNoRoots(t *testing.T) {
	l := OpenLinks(filepath.Join(t.TempDir(), "none"))
	wantLinks(t, l)
	must(t, l.Remove(path("x")))
	must(t, l.RemoveAll())
}

// TestLinksOfOthersAreSeen has two processes work for one queue.
func TestLinksOfOthersAreSeen(t *testing.T) {
	store, ours := newLinks(t)
	theirs := OpenLinks(ours.dir)
	paths := files(t, store, "path", 3)
	must(t, ours.Protect(t.Context(), paths[0]))
	wantLinks(t, theirs, paths[0])
	must(t, theirs.Protect(t.Context(), paths[0], paths[1]))
	wantLinks(t, ours, paths[0], paths[1])

	// Both have made a root for it, and one of them removes both.
	must(t, ours.Remove(paths[0]))
	must(t, theirs.Remove(paths[0]))
	wantLinks(t, theirs, paths[1])
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, paths[0], false)
	wantInStore(t, paths[1], true)
}

func TestPathThatIsGoneLeavesNoneWithoutARoot(t *testing.T) {
	for name, tt := range map[string]struct{ valid, gone int }{
		"one of many": {5, 1}, "most of them": {1, 5}, "all of them": {0, 2}, "in several batches": {batch + 10, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store, l := newLinks(t)
			var valid []string
			if tt.valid > 0 {
				valid = files(t, store, "valid", tt.valid)
			}
			gone := files(t, store, "gone", tt.gone)
			store.Run(t, "nix-store", append([]string{"--delete"}, gone...)...)
			all := slices.Concat(gone[:1], valid, gone[1:])
			must(t, l.Protect(t.Context(), all...))
			wantLinks(t, l, valid...)
			store.Run(t, "nix-store", "--gc")
			if n := len(store.Lines(t, "nix", "path-info", "--all")); n != tt.valid {
				t.Errorf("%d paths are left, want %d", n, tt.valid)
			}
		})
	}
}

func TestManyPathsHaveLinks(t *testing.T) {
	store, l := newLinks(t)
	all := files(t, store, "path", 2*batch+1)
	must(t, l.Protect(t.Context(), all...))
	wantLinks(t, l, all...)
	store.Run(t, "nix-store", "--gc")
	for _, path := range all {
		wantInStore(t, path, true)
	}
	for _, path := range all {
		must(t, l.Remove(path))
	}
	wantLinks(t, l)
}

func TestLinksAreIdempotent(t *testing.T) {
	store, l := newLinks(t)
	path := store.Add(t, "path", "path")
	for range 2 {
		must(t, l.Protect(t.Context(), path, path))
		wantLinks(t, l, path)
	}
	for range 2 {
		must(t, l.Remove(path))
		wantLinks(t, l)
	}
	entries, err := os.ReadDir(l.dir)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("%v are left", entries)
	}
}

// TestLinksNeedNotBeListedToBeRemoved is how a worker without a watcher goes on.
func TestLinksNeedNotBeListedToBeRemoved(t *testing.T) {
	store, l := newLinks(t)
	for _, path := range files(t, store, "path", 3) {
		must(t, l.Protect(t.Context(), path))
		must(t, l.Remove(path))
		store.Run(t, "nix-store", "--delete", path)
	}
	wantLinks(t, l)
}

// TestStaleLinksAreRemovedLikeOthers has links whose paths are gone, and what is no
// link.
func TestStaleLinksAreRemovedLikeOthers(t *testing.T) {
	store, l := newLinks(t)
	live := store.Add(t, "live", "live")
	must(t, l.Protect(t.Context(), live))
	stale := store.Dir + "/" + filepath.Base(path("stale"))
	must(t, os.Symlink(stale, filepath.Join(l.dir, "stale")))
	must(t, os.WriteFile(filepath.Join(l.dir, "file"), nil, 0o644))
	wantLinks(t, l, live, stale)
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, live, true)
	must(t, l.Remove(stale))
	wantLinks(t, l, live)
}

func TestDerivationsAreKeptAndNotBuilt(t *testing.T) {
	store, l := newLinks(t)
	source := store.Add(t, "source", "source")
	out := store.Build(t, `build "built" "echo built > $out" { }`)[0]
	built := store.Run(t, "nix-store", "-q", "--deriver", out)
	unbuilt := store.Run(t, "nix-instantiate", "-E",
		`derivation { name = "unbuilt"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out; exit 0" ]; }`)
	must(t, l.Protect(t.Context(), built, source, unbuilt))
	wantLinks(t, l, built, source, unbuilt) // and not what derivations make
	store.Run(t, "nix-store", "--gc")
	wantInStore(t, built, true)
	wantInStore(t, unbuilt, true)
	if outputs := store.Run(t, "nix-store", "-q", "--outputs", unbuilt); outputs != "" {
		wantInStore(t, outputs, false)
	}
}

func TestWithoutNixThereAreNoLinks(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := program(); err == nil {
		t.Skip("Nix is where installers put it")
	}
	l := OpenLinks(filepath.Join(t.TempDir(), "links"))
	err := l.Protect(t.Context(), path("x"))
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "nix-store") {
		t.Errorf("error is %v, want one that says that there is no nix-store", err)
	}
}

func TestErrorsOfNixAreToldInItsWords(t *testing.T) {
	_, l := newLinks(t)
	err := l.Protect(t.Context(), "/etc/passwd")
	if err == nil || !strings.Contains(err.Error(), "is not in the Nix store") {
		t.Errorf("error is %v, want Nix's", err)
	}
	wantLinks(t, l)
}

func TestCanceledLinksAreNotWaitedFor(t *testing.T) {
	store, l := newLinks(t)
	source := store.Add(t, "source", "source")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Protect(ctx, source); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
}
