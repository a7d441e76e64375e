package cachemerge

import (
	"context"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

var lib, app = item{name: "lib", text: "lib"}, item{name: "app", text: "app", refs: []string{"lib"}}

// mergeAndRemove merges up to the moment when it looks whether something was removed, and
// then has a collection remove entries of the target, which may be killed before it says so.
func mergeAndRemove(t *testing.T, source, target string, killed bool, names ...string) (m *Merger, before string, r *bincache.Removal) {
	t.Helper()
	to, err := bincache.Open(target, storeDir)
	must(t, err)
	t.Cleanup(func() { to.Close() })
	from, err := bincache.OpenReadOnly(source, storeDir)
	must(t, err)
	t.Cleanup(func() { from.Close() })
	m = New(Options{Target: to, Sources: []*bincache.Cache{from}})
	before, _, err = to.Removals()
	must(t, err)
	must(t, m.run(t.Context()))
	unlock, err := to.Lock(t.Context())
	must(t, err)
	must(t, to.TellRemoval(true))
	r, err = to.BeginRemoval(time.Now())
	must(t, err)
	for _, name := range names {
		must(t, to.Withdraw(r, bincache.HashPart(storePath(name))))
	}
	if !killed {
		must(t, to.TellRemoval(false))
	}
	must(t, unlock())
	return m, before, r
}

// TestWhatIsRemovedMeanwhileIsAddedAgain has a collector remove what the merge has found in
// the target.
func TestWhatIsRemovedMeanwhileIsAddedAgain(t *testing.T) {
	dir := newCache(t, lib)
	m, before, _ := mergeAndRemove(t, newCache(t, lib, app), dir, true, "lib")
	must(t, m.runAgain(t.Context(), before))
	has(t, dir, "lib", "app")
	if m.result.Added != 2 {
		t.Errorf("%d were added, want 2", m.result.Added)
	}
}

// TestTargetIsMadeWholeWhenOnlyItHadWhatIsNeeded has a collection, and its look at what is new,
// be over before what it removed is needed. What can't come back might as well have been
// removed before: then the target relies on others for it, unless a source should have it.
func TestTargetIsMadeWholeWhenOnlyItHadWhatIsNeeded(t *testing.T) {
	for name, tt := range map[string]struct{ comesBack, damaged bool }{
		"it comes back":                     {true, false},
		"it is lost":                        {false, false},
		"it comes back, a source is wrong":  {true, true},
		"it is lost, and a source is wrong": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := newCache(t, app), newCache(t, lib, item{name: "other"})
			if tt.damaged {
				source = newCache(t, lib, app)
				must(t, os.Remove(narFile(source, lib)))
			}
			m, before, removal := mergeAndRemove(t, source, target, false, "lib", "other")
			var told []string
			m.removed = func(_ context.Context, storePaths []string, elsewhere bool) error {
				told = append(told, storePaths...)
				if elsewhere == tt.damaged {
					t.Errorf("told that it is elsewhere: %v", elsewhere)
				}
				if tt.comesBack {
					return m.target().Reinstate(removal, bincache.HashPart(storePath("lib")))
				}
				if !elsewhere {
					return m.target().Withdraw(removal, bincache.HashPart(storePath("app")))
				}
				return nil
			}
			err := m.runAgain(t.Context(), before)
			if wrong := !tt.comesBack && tt.damaged; wrong != (err != nil) || !slices.Equal(told, []string{storePath("lib")}) {
				t.Errorf("error is %v, told of %q", err, told)
			}
			relying := 0
			if !tt.comesBack && !tt.damaged {
				relying = 1
			}
			if m.result.Relying != relying {
				t.Errorf("%d rely on others, want %d", m.result.Relying, relying)
			}

			// Who merges again finds nothing to do.
			was := snapshot(t, target)
			_, err = mergeIn(t.Context(), target, source)
			must(t, err)
			if !maps.Equal(was, snapshot(t, target)) {
				t.Error("merging again changes something")
			}
		})
	}
}

// TestWhatSourcesHaveFromElsewhereIsNotMissed has the target lose what the merge did not rely
// on when it added something.
func TestWhatSourcesHaveFromElsewhereIsNotMissed(t *testing.T) {
	dir := newCache(t, lib, app)
	m, before, _ := mergeAndRemove(t, newCache(t, app), dir, false, "app", "lib")
	must(t, m.runAgain(t.Context(), before))
	has(t, dir, "app")
	if m.result.Relying != 1 {
		t.Errorf("%d rely on others, want 1", m.result.Relying)
	}
}
