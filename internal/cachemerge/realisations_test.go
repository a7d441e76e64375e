package cachemerge

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
)

// realisation returns one of a derivation that a digit stands for.
func realisation(digit byte, name string, on ...*bincache.Realisation) *bincache.Realisation {
	drv := []byte("sha256:0000000000000000000000000000000000000000000000000000000000000000")
	drv[len(drv)-1] = digit
	r := &bincache.Realisation{Drv: string(drv), Output: "out", OutPath: baseName(name)}
	for _, o := range on {
		if r.Dependent == nil {
			r.Dependent = make(map[string]string)
		}
		r.Dependent[o.ID()] = o.OutPath
	}
	return r
}

func trace(drv, name string) *bincache.Realisation {
	return &bincache.Realisation{Drv: baseName(drv) + ".drv", Output: "out", OutPath: baseName(name)}
}

// realise puts realisations into a cache as they are.
func realise(t *testing.T, dir string, list ...*bincache.Realisation) {
	t.Helper()
	for _, r := range list {
		write(t, filepath.Join(dir, r.File()), string(r.Format()))
	}
}

func TestRealisationsAreMergedWithTheirSignatures(t *testing.T) {
	one, two, target := newCache(t, named("a", "b")...), newCache(t, named("a", "c")...), newCache(t)
	a, b := realisation('1', "a"), realisation('2', "b", realisation('1', "a"))
	realise(t, one, a, b, trace("a", "a"))
	signed, c := realisation('1', "a"), realisation('3', "c", a)
	signed.Sigs = []string{"key-1:c2ln"}
	realise(t, two, signed, c, trace("c", "c"))
	r := merge(t, target, one, two)
	if r.Files != 5 || r.Signatures != 1 || r.Conflicts != nil {
		t.Errorf("result is %+v, want 5 files and a signature", r)
	}
	want := make(map[string]string)
	for _, r := range []*bincache.Realisation{signed, b, c, trace("a", "a"), trace("c", "c")} {
		want[r.File()] = string(r.Format())
	}
	if diff := cmp.Diff(want, filesOf(t, target)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if r := merge(t, target, two, one); r.Files+r.Signatures != 0 {
		t.Errorf("the second time: %+v", r)
	}
}

func TestOtherRealisationIsAConflict(t *testing.T) {
	one, two, target := newCache(t, named("a", "b")...), newCache(t, named("c", "d")...), newCache(t)
	realise(t, one, realisation('1', "a"), trace("x", "a"))
	other := realisation('1', "c")
	realise(t, two, other, realisation('2', "d", other), trace("x", "c"))
	r := merge(t, target, one, two)
	want := []Conflict{{realisation('1', "c").File(), target, two}, {realisation('2', "d").File(), target, two}, {trace("x", "c").File(), target, two}}
	slices.SortFunc(want, func(a, b Conflict) int { return strings.Compare(a.Name, b.Name) })
	if diff := cmp.Diff(want, r.Conflicts); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	files := map[string]string{}
	for _, r := range []*bincache.Realisation{realisation('1', "a"), trace("x", "a")} {
		files[r.File()] = string(r.Format())
	}
	if diff := cmp.Diff(files, filesOf(t, target)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A realisation promises that the path is there.
func TestRealisationOfWhatIsLostIsNotMerged(t *testing.T) {
	source, target := newCache(t, named("a", "b")...), newCache(t)
	realise(t, source, realisation('1', "a"), realisation('2', "b"), realisation('3', "of-a-base"))
	write(t, filepath.Join(source, realisation('4', "b").File()), "{")
	must(t, os.Remove(narFile(source, item{name: "a"})))
	merge(t, target, source)
	want := map[string]string{}
	for _, r := range []*bincache.Realisation{realisation('2', "b"), realisation('3', "of-a-base")} {
		want[r.File()] = string(r.Format())
	}
	if diff := cmp.Diff(want, filesOf(t, target)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
