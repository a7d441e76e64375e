package cachemerge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// foreign writes an entry as others write it, with the NAR at a place of its own.
func foreign(t testing.TB, dir, name, url, nar string) {
	t.Helper()
	if nar != "" {
		write(t, filepath.Join(dir, url), nar)
	}
	write(t, narInfoFile(dir, name), "StorePath: "+storePath(name)+"\nURL: "+url+"\nCompression: xz\nNarHash: "+
		hashOf("nar of "+name).String()+"\nNarSize: 4711\nReferences: \nX-Other: field\n")
}

func TestEntryOfAnyLayoutIsCopiedAsItIs(t *testing.T) {
	source, target := newCache(t), newCache(t)
	places := map[string]string{"a": "nar/some name.nar.xz", "b": "at-the-top.nar", "c": "a/folder/of/its/own", "d": "nar/de/ep/er.nar.xz"}
	for name, url := range places {
		foreign(t, source, name, url, "compressed "+name)
	}
	foreign(t, source, "same-nar", places["c"], "compressed c")
	r := merge(t, target, source)
	if r.Added != 5 {
		t.Errorf("result is %+v, want 5 added", r)
	}
	for name, url := range places {
		for _, file := range []string{url, filepath.Base(narInfoFile(target, name))} {
			want, err := os.ReadFile(filepath.Join(source, file))
			must(t, err)
			if got, err := os.ReadFile(filepath.Join(target, file)); err != nil || string(got) != string(want) {
				t.Errorf("%s is %q, %v, want %q", file, got, err, want)
			}
		}
	}
	if r := merge(t, target, source); r.Added != 0 || r.Damaged != nil {
		t.Errorf("second result is %+v, want nothing", r)
	}
}

// Only Nix's names say that two files are the same.
func TestNarOfAnotherEntryIsNotOverwritten(t *testing.T) {
	one, two, target := newCache(t), newCache(t), newCache(t)
	foreign(t, one, "a", "nar/the.nar.xz", "first")
	foreign(t, one, "b", "nar/folder", "first")
	foreign(t, two, "c", "nar/the.nar.xz", "other")
	foreign(t, two, "d", "nar/the.nar.xz/deeper", "")
	must(t, os.Remove(filepath.Join(two, "nar/the.nar.xz")))
	foreign(t, two, "d", "nar/the.nar.xz/deeper", "other")
	foreign(t, two, "e", "nar/folder/deeper", "other")
	merge(t, target, one)
	r := merge(t, target, two)
	has(t, target, "a", "b")
	if r.Lost() != 3 {
		t.Errorf("result is %+v, want 3 that have no place", r)
	}

	three := newCache(t)
	foreign(t, three, "f", "nar/the.nar.xz", "third, and longer")
	if r := merge(t, target, three); r.Lost() != 1 || !strings.Contains(r.Damaged[0].Cause, bincache.ErrNameTaken.Error()) {
		t.Errorf("result is %+v, want 1 that has no place", r)
	}
	has(t, target, "a", "b")
}

// A narinfo may say what it wants.
func TestNarIsPutOnlyWhereNarsAre(t *testing.T) {
	for _, url := range []string{
		"nix-cache-info", "CACHEDIR.TAG", ".gitignore", ".larder/lock", ".larder/runs/x", ".larder/pins/x", "log/x.drv", "realisations/x.doi",
		"build-trace-v2/x/out.doi", "x.ls", "x.narinfo", "nar/.keep", "nar", "log",
	} {
		t.Run(url, func(t *testing.T) {
			source, target := newCache(t), newCache(t)
			nar := "NAR"
			if url == "nar" || url == "log" {
				nar = ""
			}
			if url == "nix-cache-info" {
				nar = "StoreDir: " + storeDir + "\nPriority: 1\n"
			}
			foreign(t, source, "a", url, nar)
			before, err := os.ReadFile(filepath.Join(target, "nix-cache-info"))
			must(t, err)
			r := merge(t, target, source)
			has(t, target)
			if r.Lost() != 1 {
				t.Errorf("result is %+v, want a lost", r)
			}
			if after, err := os.ReadFile(filepath.Join(target, "nix-cache-info")); err != nil || string(after) != string(before) {
				t.Errorf("nix-cache-info is %q, %v", after, err)
			}
		})
	}
}
