package gcroot

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wantNames reports which paths should have a root and have none, or the reverse.
func wantNames(t *testing.T, r *Roots, paths ...string) {
	t.Helper()
	got, err := r.List()
	must(t, err)
	slices.Sort(got)
	var want []string
	for _, path := range paths {
		want = append(want, filepath.Base(path))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
}

// TestRootsAreFilesWhereTheyMayBe has the directory come after the first roots.
func TestRootsAreFilesWhereTheyMayBe(t *testing.T) {
	store, links := newLinks(t)
	paths := files(t, store, "path", 4)
	r := Join(Open(store.State, us().ID), links)
	wantNames(t, r)
	if !r.Weak() {
		t.Error("roots are strong without a directory")
	}
	must(t, r.Protect(t.Context(), paths[0], paths[1]))
	wantLinks(t, links, paths[0], paths[1])

	d, err := Make(store.State, us())
	must(t, err)
	if r.Weak() {
		t.Error("roots are weak with a directory")
	}
	must(t, r.Protect(t.Context(), paths[1], paths[2]))
	wantLinks(t, links, paths[0], paths[1])
	got, err := d.List()
	must(t, err)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(slices.Values([]string{filepath.Base(paths[1]), filepath.Base(paths[2])})), got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	store.Run(t, "nix-store", "--gc")
	for i, path := range paths {
		wantInStore(t, path, i < 3)
	}

	must(t, r.Remove(paths[0])) // a link
	must(t, r.Remove(paths[1])) // both
	must(t, r.Remove(paths[3])) // neither
	wantNames(t, r, paths[2])
	store.Run(t, "nix-store", "--gc")
	for i, path := range paths {
		wantInStore(t, path, i == 2)
	}
	must(t, links.Protect(t.Context(), paths[2]))
	must(t, r.RemoveAll())
	wantNames(t, r)
	if !r.Weak() {
		t.Error("the directory is left")
	}
}

func TestCollectorIsToldOfFiles(t *testing.T) {
	state, socket := collector(t)
	d, err := Make(state, us())
	must(t, err)
	told := make(chan []string, 1)
	go func() {
		conn, err := socket.Accept()
		if err != nil {
			return
		}
		var paths []string
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			// By now the root must be there, or it would be too late for both.
			if _, err := os.Lstat(d.file(lines.Text())); err != nil {
				t.Error(err)
			}
			paths = append(paths, lines.Text())
			conn.Write([]byte("1"))
		}
		told <- paths
	}()
	r := Join(d, OpenLinks(filepath.Join(state, "links")))
	must(t, r.Protect(t.Context(), path("one"), path("two")))
	select {
	case got := <-told:
		if diff := cmp.Diff([]string{path("one"), path("two")}, got); diff != "" {
			t.Errorf("it was told of (-want +got):\n%s", diff)
		}
	case <-time.After(time.Minute):
		t.Error("it was told of nothing")
	}
	if _, err := os.Lstat(filepath.Join(state, "links")); err == nil {
		t.Error("links were made beside files")
	}
}

func TestNothingToProtectIsNothing(t *testing.T) {
	state := t.TempDir()
	must(t, os.Symlink("gc.lock", filepath.Join(state, "gc.lock"))) // nobody can open that
	d, err := Make(state, us())
	must(t, err)
	r := Join(d, OpenLinks(filepath.Join(state, "links")))
	must(t, r.Protect(t.Context()))
	if err := r.Protect(t.Context(), path("x")); err == nil || !strings.Contains(err.Error(), "garbage collector") {
		t.Errorf("error is %v, want one of the collector's lock", err)
	}
}

// TestTroubleWithFilesIsSaid has a directory that is none: that is not the case for
// which there are links.
func TestTroubleWithFilesIsSaid(t *testing.T) {
	state := t.TempDir()
	must(t, os.MkdirAll(base(state), 0o755))
	must(t, os.WriteFile(filepath.Join(base(state), "id"), nil, 0o644))
	links := OpenLinks(filepath.Join(state, "links"))
	err := Join(Open(state, "id"), links).Protect(t.Context(), path("x"))
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("error is %v, want one that says that it is not a directory", err)
	}
	if _, err := os.Lstat(links.dir); err == nil {
		t.Error("links were made")
	}
}
