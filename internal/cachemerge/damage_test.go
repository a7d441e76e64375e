package cachemerge

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// damages are what may happen to an entry in a cache.
var damages = map[string]func(narInfo, nar string) error{
	"narinfo is empty":   func(narInfo, _ string) error { return os.Truncate(narInfo, 0) },
	"narinfo is cut off": func(narInfo, _ string) error { return os.Truncate(narInfo, 100) },
	"NAR is missing":     func(_, nar string) error { return os.Remove(nar) },
	"NAR is empty":       func(_, nar string) error { return os.Truncate(nar, 0) },
	"NAR is cut off":     func(_, nar string) error { return os.Truncate(nar, 3) },
	"NAR is too long":    func(_, nar string) error { return os.Truncate(nar, 300) },
	"NAR is elsewhere": func(_, nar string) error {
		return errors.Join(os.Remove(nar), os.Symlink("/etc/hostname", nar))
	},
	"NAR is a directory": func(_, nar string) error { return errors.Join(os.Remove(nar), os.Mkdir(nar, 0o755)) },
}

var graph = []item{{name: "a"}, {name: "on-a", refs: []string{"a", "b"}}, {name: "on-on-a", refs: []string{"on-a"}}, {name: "b"}}

func damage(t testing.TB, dir, name, how string) {
	t.Helper()
	must(t, damages[how](narInfoFile(dir, name), narFile(dir, item{name: name})))
}

func TestDamagedEntryIsLeftOutWithAllThatNeedsIt(t *testing.T) {
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			source, target := newCache(t, graph...), filepath.Join(t.TempDir(), "cache")
			damage(t, source, "a", how)
			r := merge(t, target, source)
			has(t, target, "b")
			if len(r.Damaged) != 1 || r.Lost() != 1 || r.Damaged[0].Cache != source || !strings.HasPrefix(storePath("a"), filepath.Join(storeDir, filepath.Base(r.Damaged[0].Path))) {
				t.Errorf("damaged is %+v, want a in %s", r.Damaged, source)
			}
			want := []string{storePath("on-a"), storePath("on-on-a")}
			slices.Sort(want)
			if diff := cmp.Diff(want, r.LeftOut); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDamagedEntryIsTakenFromAnotherCache(t *testing.T) {
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			source, other, target := newCache(t, graph...), newCache(t, graph[0]), filepath.Join(t.TempDir(), "cache")
			damage(t, source, "a", how)
			r := merge(t, target, source, other)
			has(t, target, "a", "b", "on-a", "on-on-a")
			if len(r.Damaged) != 1 || r.Lost() != 0 || r.LeftOut != nil {
				t.Errorf("result is %+v, want a damaged and not lost", r)
			}
		})
	}
}

func TestDamagedEntryOfTheTargetIsMended(t *testing.T) {
	for how := range damages {
		t.Run(how, func(t *testing.T) {
			target := newCache(t, graph...)
			signed := graph[0]
			signed.sigs = []string{"k:QUFB"}
			source := newCache(t, signed)
			damage(t, target, "a", how)
			if info, err := os.Lstat(narFile(target, graph[0])); err == nil && !info.Mode().IsRegular() {
				// A person has done that, and a person has to undo it.
				r, err := mergeIn(t.Context(), target, source)
				must(t, err)
				if r.Lost() != 1 || len(r.Damaged) != 2 {
					t.Errorf("result is %+v, want a lost, in both caches", r)
				}
				return
			}
			r := merge(t, target, source)
			has(t, target, "a", "b", "on-a", "on-on-a")
			if r.Mended != 1 || r.Added != 0 || r.Lost() != 0 || r.Present != 3 {
				t.Errorf("result is %+v, want 1 mended of 4", r)
			}
			text, err := os.ReadFile(narInfoFile(target, "a"))
			if must(t, err); !strings.Contains(string(text), "Sig: k:QUFB\n") {
				t.Errorf("the signature is not in %s", text)
			}
		})
	}
}

// A damaged NAR is replaced under its name, for all entries that have it, but not by
// one that is no better.
func TestNarIsReplacedOnlyByARightOne(t *testing.T) {
	target, source := newCache(t, item{name: "a", text: "the same"}), newCache(t, item{name: "b", text: "the same"})
	i := item{name: "b", text: "the same"}
	edit(t, narFile(source, i), "the same", "shorter")
	edit(t, narInfoFile(source, "b"), "FileSize: 8", "FileSize: 7")
	r := merge(t, target, source)
	has(t, target, "a")
	if r.Lost() != 1 {
		t.Errorf("result is %+v, want b lost", r)
	}
}

// What can't be seen in a name or a size is seen when a NAR is copied.
func TestNarIsVerifiedWhenItIsCopied(t *testing.T) {
	source, other := newCache(t, graph...), newCache(t, graph[0])
	for _, dir := range []string{source, other} { // now no NAR is linked
		for _, i := range graph {
			_ = os.Chmod(narFile(dir, i), 0o600)
		}
	}
	edit(t, narFile(source, graph[0]), "contents", "nonsense")
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, source, other)
	has(t, target, "a", "b", "on-a", "on-on-a")
	if len(r.Damaged) != 1 || r.Lost() != 0 || r.LinkedBytes != 0 || r.CopiedBytes == 0 {
		t.Errorf("result is %+v, want a damaged and not lost", r)
	}

	target = filepath.Join(t.TempDir(), "alone")
	r = merge(t, target, source)
	has(t, target, "b")
	if r.Lost() != 1 || len(r.LeftOut) != 2 {
		t.Errorf("result is %+v, want a lost and 2 left out", r)
	}
}
