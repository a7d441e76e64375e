package bincache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// realisedBy fails the test if realisations have other signatures than those by some keys.
func realisedBy(t *testing.T, c *Cache, list []*Realisation, keys ...signature.SecretKey) {
	t.Helper()
	for _, r := range list {
		have, err := c.Realisation(r.File())
		must(t, err)
		want, err := r.sign(keys)
		must(t, err)
		if diff := cmp.Diff(sortedSet(want), have.Sigs); diff != "" {
			t.Errorf("signatures of %s (-want +got):\n%s", r.File(), diff)
		}
	}
}

func TestRealisationsGoFromOneKeyToTheOther(t *testing.T) {
	before, after := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 2, before)
	of := func(path string) *Realisation {
		return &Realisation{Drv: filepath.Base(path) + ".drv", Output: "out", OutPath: filepath.Base(path)}
	}
	first, second := append(chained(2, paths[0]), of(paths[0])), []*Realisation{of(paths[1])}
	addRealisations(t, c, append(first, second...), before)
	realisedBy(t, c, append(first, second...), before)
	o := Resigning{Keys: []signature.SecretKey{after}, Drop: []string{"old-1"}, Trusted: publicKeys(before), Paths: paths[:1], DryRun: true}
	was := snapshot(t, c.Path())
	// The one that depends on another has two signatures by each key.
	want := Resigned{Entries: 1, Changed: 1, Added: 5, Dropped: 5, Realisations: 3, RealisationsChanged: 3}
	resigned(t, c, o, want)
	if diff := cmp.Diff(was, snapshot(t, c.Path())); diff != "" {
		t.Errorf("a dry run changed (-before +after):\n%s", diff)
	}
	o.DryRun = false
	resigned(t, c, o, want)
	realisedBy(t, c, first, after)
	realisedBy(t, c, second, before)
	o.Paths = nil
	resigned(t, c, o, Resigned{Entries: 2, Changed: 1, Added: 2, Dropped: 2, Realisations: 4, RealisationsChanged: 1})
	realisedBy(t, c, append(first, second...), after)
	stamps := times(t, c.Path())
	o.Trusted = nil
	resigned(t, c, o, Resigned{Entries: 2, Realisations: 4})
	if diff := cmp.Diff(stamps, times(t, c.Path())); diff != "" {
		t.Errorf("the second time changed (-before +after):\n%s", diff)
	}
}

// Nix since 2.33 signs only that a realisation is what it is, not what it depends on.
func TestOnlyPromisesOfTrustedKeysAreSigned(t *testing.T) {
	trusted, key := newKey(t, "old-1"), newKey(t, "new-1")
	c, paths := manyEntries(t, 1, trusted)
	list := chained(2, paths[0])
	later := list[1].fingerprints()[1]
	sigs, err := list[1].signAs([]string{later}, []signature.SecretKey{trusted})
	must(t, err)
	list[1].Sigs = sigs
	addRealisations(t, c, list)
	o := Resigning{Keys: []signature.SecretKey{key}, Trusted: publicKeys(trusted)}
	resigned(t, c, o, Resigned{Entries: 1, Changed: 1, Added: 2, Untrusted: 1, Realisations: 2, RealisationsChanged: 1})
	realisedBy(t, c, list[:1])
	ours, err := list[1].signAs([]string{later}, []signature.SecretKey{key})
	must(t, err)
	have, err := c.Realisation(list[1].File())
	must(t, err)
	if diff := cmp.Diff(sortedSet(append(ours, sigs...)), have.Sigs); diff != "" {
		t.Errorf("signatures (-want +got):\n%s", diff)
	}
}

func TestDamagedRealisationIsToldOf(t *testing.T) {
	c, paths := manyEntries(t, 1, newKey(t, "old-1"))
	file := filepath.Join("realisations", chained(1, paths[0])[0].ID()+".doi")
	must(t, os.MkdirAll(filepath.Join(c.Path(), "realisations"), 0o755))
	must(t, os.WriteFile(filepath.Join(c.Path(), file), []byte("nonsense"), 0o644))
	var told []string
	o := Resigning{Drop: []string{"nobody-1"}, Tell: func(err error) { told = append(told, err.Error()) }}
	resigned(t, c, o, Resigned{Entries: 1, Realisations: 1, Damaged: 1})
	if len(told) != 1 || !strings.Contains(told[0], file) {
		t.Errorf("told %q", told)
	}
}
