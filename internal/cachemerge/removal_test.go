package cachemerge

import (
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// TestWhatIsRemovedMeanwhileIsAddedAgain has a collector remove what the merge has found in
// the target.
func TestWhatIsRemovedMeanwhileIsAddedAgain(t *testing.T) {
	lib, app := item{name: "lib", text: "lib"}, item{name: "app", text: "app", refs: []string{"lib"}}
	source, dir := newCache(t, lib, app), newCache(t, lib)
	target, err := bincache.Open(dir, storeDir)
	must(t, err)
	defer target.Close()
	from, err := bincache.OpenReadOnly(source, storeDir)
	must(t, err)
	defer from.Close()

	m := New(Options{Target: target, Sources: []*bincache.Cache{from}})
	before, _, err := target.Removals()
	must(t, err)
	must(t, m.run(t.Context()))
	unlock, err := target.Lock(t.Context())
	must(t, err)
	must(t, target.TellRemoval(true))
	removal, err := target.BeginRemoval(time.Now())
	must(t, err)
	must(t, target.Withdraw(removal, bincache.HashPart(storePath("lib")))) // and is killed
	must(t, unlock())

	must(t, m.runAgain(t.Context(), before))
	has(t, dir, "lib", "app")
	if m.result.Added != 2 {
		t.Errorf("%d were added, want 2", m.result.Added)
	}
}
