package bincache

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// chained returns realisations of which each depends on the one before.
func chained(count int, outPath string) []*Realisation {
	var list []*Realisation
	for i := range count {
		r := &Realisation{Drv: fmt.Sprintf("sha256:%064x", i), Output: "out", OutPath: filepath.Base(outPath)}
		if i > 0 {
			r.Dependent = map[string]string{list[i-1].ID(): list[i-1].OutPath}
		}
		list = append(list, r)
	}
	return list
}

func addRealisations(t *testing.T, c *Cache, list []*Realisation, keys ...signature.SecretKey) RealisationsAdded {
	t.Helper()
	r, err := c.AddRealisations(t.Context(), list, keys)
	must(t, err)
	if left := unfinished(t, c); left != nil {
		t.Errorf("unfinished files are left: %q", left)
	}
	return r
}

func TestRealisationsAreAddedOnceAndStay(t *testing.T) {
	c := newCache(t)
	list := chained(3, hello)
	trace := &Realisation{Drv: filepath.Base(hello) + ".drv", Output: "out", OutPath: filepath.Base(hello)}
	slices.Reverse(list) // the order does not matter
	all := append(list, trace)
	if r := addRealisations(t, c, append(all, trace)); r.Added != 4 || r.Signed != 0 || r.Kept != nil {
		t.Errorf("result is %+v, want 4 added", r)
	}
	for _, r := range all {
		have, err := c.Realisation(r.File())
		must(t, err)
		if string(have.Format()) != string(r.Format()) {
			t.Errorf("%s is %s, want %s", r.File(), have.Format(), r.Format())
		}
	}
	before := times(t, c.Path())
	if r := addRealisations(t, c, all); r.Added+r.Signed != 0 || r.Kept != nil {
		t.Errorf("again: %+v", r)
	}
	if after := times(t, c.Path()); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("files have changed:\n%v, were\n%v", after, before)
	}
}

// Nix gives up a build when what a realisation depends on is not what it was promised.
func TestOtherRealisationIsKeptWithAllThatDependOnIt(t *testing.T) {
	c := newCache(t)
	list := chained(4, hello)
	first := *list[1]
	first.OutPath, first.Dependent = filepath.Base(libc), nil
	addRealisations(t, c, []*Realisation{&first})
	r := addRealisations(t, c, list)
	if r.Added != 1 || !slices.Equal(r.Kept, list[1:]) {
		t.Errorf("result is %+v, want the first added, and the others kept", r)
	}
	have, err := c.Realisation(first.File())
	must(t, err)
	if have.OutPath != first.OutPath {
		t.Errorf("%s is now %s", first.File(), have.OutPath)
	}
	for _, r := range list[2:] {
		if have, err := c.Realisation(r.File()); err == nil {
			t.Errorf("there is %+v", have)
		}
	}
}

func TestRealisationWithoutWhatItDependsOnIsNotAdded(t *testing.T) {
	c := newCache(t)
	list := chained(2, hello)
	if r := addRealisations(t, c, list[1:]); r.Added != 0 || !slices.Equal(r.Kept, list[1:]) {
		t.Errorf("result is %+v", r)
	}
	if r := addRealisations(t, c, list); r.Added != 2 {
		t.Errorf("with it: %+v", r)
	}
	self := chained(1, libc)
	self[0].Drv = hashTwo
	self[0].Dependent = map[string]string{self[0].ID(): self[0].OutPath}
	if r := addRealisations(t, c, self); r.Added != 1 {
		t.Errorf("one that depends on itself: %+v", r)
	}
}

func TestSignaturesOfRealisationsAreUnited(t *testing.T) {
	c := newCache(t)
	list := chained(2, hello)
	list[0].Sigs = []string{sigOne}
	addRealisations(t, c, list)
	again := chained(2, hello)
	again[0].Sigs = []string{sigTwo}
	key := newKey(t, "ci-1")
	if r := addRealisations(t, c, again, key); r.Added != 0 || r.Signed != 2 {
		t.Errorf("result is %+v, want 2 signed", r)
	}
	have, err := c.Realisation(list[0].File())
	must(t, err)
	ours, err := list[0].sign([]signature.SecretKey{key})
	must(t, err)
	want := append(ours, sigOne, sigTwo)
	if slices.Sort(want); !slices.Equal(have.Sigs, want) {
		t.Errorf("signatures are %q, want %q", have.Sigs, want)
	}
	have, err = c.Realisation(list[1].File())
	must(t, err)
	if len(have.Sigs) != 2 { // with what it depends on, and without
		t.Errorf("signatures are %q, want 2", have.Sigs)
	}
	before := times(t, c.Path())
	addRealisations(t, c, again, key)
	addRealisations(t, c, list)
	if after := times(t, c.Path()); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("what is signed is written again")
	}
}

func TestDamagedRealisationIsReplaced(t *testing.T) {
	for _, text := range []string{"", "{", `{"id":"x"}`} {
		c := newCache(t)
		list := chained(1, hello)
		must(t, os.WriteFile(filepath.Join(c.Path(), list[0].File()), []byte(text), 0o644))
		if r := addRealisations(t, c, list); r.Added != 1 {
			t.Errorf("%q: %+v", text, r)
		}
		if _, err := c.Realisation(list[0].File()); err != nil {
			t.Error(err)
		}
	}
}

func TestManyWritersOfOneRealisation(t *testing.T) {
	c := newCache(t)
	list := chained(40, hello)
	var all sync.WaitGroup
	keys := []signature.SecretKey{newKey(t, "a-1"), newKey(t, "b-1"), newKey(t, "c-1")}
	for _, key := range keys {
		all.Go(func() {
			if _, err := c.AddRealisations(t.Context(), list, []signature.SecretKey{key}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i, r := range list {
		have, err := c.Realisation(r.File())
		must(t, err)
		want := len(keys)
		if i > 0 {
			want *= 2
		}
		if len(have.Sigs) != want {
			t.Errorf("%d signatures of %s, want %d", len(have.Sigs), r.File(), want)
		}
	}
}

func TestAnyNumberOfRealisationsIsAddedInOrder(t *testing.T) {
	c := newCache(t)
	list := chained(2*addAtOnce+1, hello)
	slices.Reverse(list)
	if r := addRealisations(t, c, list); r.Added != len(list) {
		t.Errorf("result is %+v, want %d added", r, len(list))
	}
}

// There is a directory for each derivation: to hold them all open would be too much.
func TestDirectoriesOfDerivationsAreNotHeldOpen(t *testing.T) {
	c := newCache(t)
	var list []*Realisation
	for i := range 300 {
		drv := fmt.Sprintf("%032d-x.drv", i)
		list = append(list, &Realisation{Drv: drv, Output: "out", OutPath: filepath.Base(hello)})
	}
	addRealisations(t, c, list)
	if n := len(c.held.byName); n > len(dirs)+1 {
		t.Errorf("%d directories are held open", n)
	}
}

func TestRealisationsDoNotGetOutOfTheCache(t *testing.T) {
	c := newCache(t)
	outside := t.TempDir()
	drv := filepath.Base(hello) + ".drv"
	must(t, os.Symlink(outside, filepath.Join(c.Path(), buildTraceDir, drv)))
	_, err := c.AddRealisations(t.Context(), []*Realisation{{Drv: drv, Output: "out", OutPath: filepath.Base(hello)}}, nil)
	if err == nil {
		t.Error("added through a link")
	}
	for _, r := range []*Realisation{
		{Drv: "../x", Output: "out", OutPath: filepath.Base(hello)},
		{Drv: drv, Output: "../out", OutPath: filepath.Base(hello)},
		{Drv: drv, Output: "..", OutPath: filepath.Base(hello)},
	} {
		if _, err := c.AddRealisations(t.Context(), []*Realisation{r}, nil); err == nil {
			t.Errorf("added %+v", r)
		}
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) > 0 {
		t.Errorf("outside is %v, %v", found, err)
	}
}
