package cachemerge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/bincache"
)

// overlapping returns three caches: each has a closure, of which some is in the others.
func overlapping(t testing.TB) []string {
	t.Helper()
	base := []item{{name: "libc"}, {name: "lib", refs: []string{"libc", "lib"}}}
	with := func(items ...item) string { return newCache(t, append(items, base...)...) }
	return []string{
		with(item{name: "one", refs: []string{"lib"}}),
		with(item{name: "two", refs: []string{"lib", "libc"}}, item{name: "three", refs: []string{"two"}}),
		with(item{name: "one", refs: []string{"lib"}}, item{name: "four", refs: []string{"one"}}),
	}
}

var overlappingNames = []string{"libc", "lib", "one", "two", "three", "four"}

func TestMergedCacheHasWhatEachHad(t *testing.T) {
	sources := overlapping(t)
	var before []map[string]string
	for _, dir := range sources {
		before = append(before, snapshot(t, dir))
	}
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, sources...)
	var bytes int64
	for _, name := range overlappingNames {
		bytes += item{name: name}.narInfo().FileSize
	}
	if diff := cmp.Diff(Result{Added: 6, LinkedBytes: bytes}, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	has(t, target, overlappingNames...)
	for i, dir := range sources {
		if diff := cmp.Diff(before[i], snapshot(t, dir)); diff != "" {
			t.Errorf("source %d was changed (-before +after):\n%s", i, diff)
		}
	}
	if libc := (item{name: "libc"}); !sameFile(t, narFile(sources[0], libc), narFile(target, libc)) {
		t.Error("NAR was not linked")
	}
	if sameFile(t, narInfoFile(sources[0], "libc"), narInfoFile(target, "libc")) {
		t.Error("narinfo was linked, which may be changed")
	}

	made := snapshot(t, target)
	if diff := cmp.Diff(Result{Present: 6}, merge(t, target, sources...)); diff != "" {
		t.Errorf("second result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(made, snapshot(t, target)); diff != "" {
		t.Errorf("second merge changed something (-before +after):\n%s", diff)
	}
}

func TestFirstOfTwoBuildsIsKept(t *testing.T) {
	first := newCache(t, item{name: "a", text: "first"}, item{name: "on-a", refs: []string{"a"}})
	second := newCache(t, item{name: "a", text: "second", sigs: []string{"k:QUFB"}}, item{name: "also-on-a", refs: []string{"a"}})
	third := newCache(t, item{name: "a", text: "first", refs: []string{"b"}}, item{name: "b"})
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, first, second, third)
	conflicts := func(kept string, others ...string) (all []Conflict) {
		for _, other := range others {
			all = append(all, Conflict{Name: storePath("a"), Kept: kept, Other: other})
		}
		return all
	}
	byOther := cmpopts.SortSlices(func(a, b Conflict) bool { return a.Other < b.Other })
	if diff := cmp.Diff(conflicts(first, second, third), r.Conflicts, byOther); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	has(t, target, "a", "b", "on-a", "also-on-a")
	want, err := os.ReadFile(narInfoFile(first, "a"))
	must(t, err)
	if got, err := os.ReadFile(narInfoFile(target, "a")); err != nil || string(got) != string(want) {
		t.Errorf("narinfo is %s, %v", got, err)
	}

	// What the target has goes before all sources.
	r = merge(t, second, first)
	if diff := cmp.Diff(conflicts(second, first), r.Conflicts); diff != "" {
		t.Errorf("conflicts with the target (-want +got):\n%s", diff)
	}
}

func TestMergeUnitesSignatures(t *testing.T) {
	signed := func(sigs ...string) item { return item{name: "a", sigs: sigs} }
	one, two := newCache(t, signed("a:QUFB", "b:QUFB")), newCache(t, signed("b:QUFB", "c:QUFB"))
	edit(t, narInfoFile(one, "a"), "NarSize", "Of-Another-Nix: 1\nNarSize")
	for name, had := range map[string][]item{
		"new":         nil,
		"unsigned":    {signed()},
		"signed":      {signed("d:QUFB")},
		"signed by a": {signed("a:QUFB")},
	} {
		t.Run(name, func(t *testing.T) {
			target := newCache(t, had...)
			r := merge(t, target, one, two)
			text, err := os.ReadFile(narInfoFile(target, "a"))
			must(t, err)
			want := map[string]int{"new": 1, "unsigned": 3, "signed": 3, "signed by a": 2}[name]
			if r.Signatures != want {
				t.Errorf("added %d signatures, want %d", r.Signatures, want)
			}
			sigs := "Sig: a:QUFB\nSig: b:QUFB\nSig: c:QUFB\n"
			if name == "signed" {
				sigs += "Sig: d:QUFB\n"
			}
			if !strings.HasSuffix(string(text), sigs) {
				t.Errorf("narinfo is %s, want all signatures", text)
			}
			if kept := strings.Contains(string(text), "Of-Another-Nix: 1\n"); kept != (had == nil) {
				t.Errorf("narinfo is %s, which is not the one that was first", text)
			}
			if r := merge(t, target, two, one); r.Signatures != 0 {
				t.Errorf("added %d signatures again", r.Signatures)
			}
		})
	}
}

// A cache that was written with --base or --skip-signed-by has such references.
func TestReferenceThatNoCacheHasIsLeftToOthers(t *testing.T) {
	relying := newCache(t, item{name: "a", refs: []string{"elsewhere"}}, item{name: "on-a", refs: []string{"a"}}, item{name: "b", refs: []string{"libc"}})
	other := newCache(t, named("libc")...)
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, relying, other)
	if r.Added != 4 || r.Relying != 1 || r.LeftOut != nil {
		t.Errorf("result is %+v, want 4 added of which 1 relies on others", r)
	}
	has(t, target, "a", "on-a", "b", "libc")
}

func TestCircleOfReferencesStaysOut(t *testing.T) {
	source := newCache(t,
		item{name: "a", refs: []string{"b"}}, item{name: "b", refs: []string{"c"}}, item{name: "c", refs: []string{"a", "d"}},
		item{name: "d"}, item{name: "on-a", refs: []string{"a", "d"}})
	target := filepath.Join(t.TempDir(), "cache")
	r := merge(t, target, source)
	if len(r.LeftOut) != 3 || len(r.Damaged) != 1 || r.Lost() != 1 || !strings.Contains(r.Damaged[0].Cause, "what it refers to refers to it") {
		t.Errorf("left out is %q, and damaged %+v; want 3, and the one by which the circle was found", r.LeftOut, r.Damaged)
	}
	has(t, target, "d")
}

// TestReferenceThatTheListMissedIsMerged has an entry come while a directory is listed, which
// the list misses, and then one that needs it.
func TestReferenceThatTheListMissedIsMerged(t *testing.T) {
	source := newCache(t, item{name: "a", refs: []string{"b"}}, item{name: "b", refs: []string{"c"}}, item{name: "c"})
	c, err := bincache.OpenReadOnly(source, storeDir)
	must(t, err)
	defer c.Close()
	target := newCache(t)
	to, err := bincache.Open(target, storeDir)
	must(t, err)
	defer to.Close()
	m := New(Options{Target: to, Sources: []*bincache.Cache{c}})
	must(t, m.read(t.Context(), 1, []string{baseName("a")[:32]}))
	must(t, m.readUnseen(t.Context()))
	must(t, m.add(t.Context(), m.order()))
	has(t, target, "a", "b", "c")
}
