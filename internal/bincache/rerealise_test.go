package bincache

import (
	"path/filepath"
	"slices"
	"testing"
)

func replaceRealisations(t *testing.T, c *Cache, list ...*Realisation) RealisationsAdded {
	t.Helper()
	r, err := c.ReplaceRealisations(t.Context(), list, nil)
	must(t, err)
	if left := unfinished(t, c); left != nil {
		t.Errorf("unfinished files are left: %q", left)
	}
	promisesAreKept(t, c)
	return r
}

// promisesAreKept fails the test if a realisation depends on what is not there.
func promisesAreKept(t *testing.T, c *Cache) {
	t.Helper()
	there, err := c.dependentRealisations()
	must(t, err)
	for file, r := range there {
		for id, outPath := range r.Dependent {
			if on, err := c.Realisation(fileOf(id)); err != nil || on.OutPath != outPath {
				t.Errorf("%s depends on %s as %s, which is %+v, %v", file, id, outPath, on, err)
			}
		}
	}
}

func TestReplacedRealisationTakesAlongWhatDependsOnIt(t *testing.T) {
	c := newCache(t)
	list := chained(4, hello)
	beside := &Realisation{Drv: hashOne, Output: "out", OutPath: filepath.Base(hello), Sigs: []string{sigOne}}
	other := &Realisation{Drv: hashTwo, Output: "out", OutPath: filepath.Base(hello), Dependent: map[string]string{list[2].ID(): list[2].OutPath}}
	trace := &Realisation{Drv: filepath.Base(hello) + ".drv", Output: "out", OutPath: filepath.Base(hello)}
	addRealisations(t, c, append(slices.Clone(list), beside, other, trace))

	// The second is another one now, the third comes down to the same, and the fourth was not
	// built again.
	again := chained(3, hello)
	again[1].OutPath = filepath.Base(libc)
	again[2].Dependent = map[string]string{again[1].ID(): again[1].OutPath}
	newTrace := *trace
	newTrace.OutPath = filepath.Base(libc)
	r := replaceRealisations(t, c, append(slices.Clone(again), beside, &newTrace)...)
	if len(r.Replaced) != 2 || r.Kept != nil || len(r.Withdrawn) != 2 {
		t.Errorf("result is %+v, want 2 replaced and 2 withdrawn", r)
	}
	for _, want := range append(again, &newTrace, beside) {
		if have, err := c.Realisation(want.File()); err != nil || string(have.Format()) != string(want.Format()) {
			t.Errorf("%s is %+v, %v", want.File(), have, err)
		}
	}
	for _, gone := range []*Realisation{list[3], other} {
		if have, err := c.Realisation(gone.File()); err == nil {
			t.Errorf("%s is still there: %+v", gone.File(), have)
		}
	}
	before := times(t, c.Path())
	if r := replaceRealisations(t, c, again...); r.Added+len(r.Replaced)+len(r.Withdrawn) != 0 {
		t.Errorf("again: %+v", r)
	}
	for name, was := range before {
		if is := times(t, c.Path())[name]; is != was && filepath.Dir(name) == realisationsDir {
			t.Errorf("%s has changed", name)
		}
	}
}

// What comes again as it was keeps the signatures that others have made.
func TestWithdrawnRealisationComesAgainWithItsSignatures(t *testing.T) {
	c := newCache(t)
	list := chained(3, hello)
	list[2].Sigs = []string{sigOne}
	addRealisations(t, c, list)
	// The first one changes to and fro: in between the others are not there.
	first := *list[0]
	first.OutPath = filepath.Base(libc)
	if r := replaceRealisations(t, c, &first); len(r.Withdrawn) != 2 {
		t.Errorf("result is %+v", r)
	}
	if r := replaceRealisations(t, c, list...); len(r.Replaced) != 1 || r.Added != 3 {
		t.Errorf("back: %+v", r)
	}
	have, err := c.Realisation(list[2].File())
	must(t, err)
	if !slices.Equal(have.Sigs, []string{sigOne}) {
		t.Errorf("signatures are %q", have.Sigs)
	}
}

// Somebody swaps what is depended on, between the look and the end of who adds.
func TestRealisationIsTakenBackIfWhatItDependsOnIsSwapped(t *testing.T) {
	c := newCache(t)
	list := chained(2, hello)
	addRealisations(t, c, list[:1])
	a := newAdding(c, nil)
	if ok, err := a.isPromised(&addition{Realisation: list[1]}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	first := *list[0]
	first.OutPath = filepath.Base(libc)
	replaceRealisations(t, c, &first)
	must(t, a.addAll(t.Context(), list[1:])) // it knows what it has seen
	if a.result.Added != 0 || len(a.result.Kept) != 1 {
		t.Errorf("result is %+v", a.result)
	}
	promisesAreKept(t, c)
}
