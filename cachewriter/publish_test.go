package cachewriter

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// TestOneThatCanNotBePublishedLeavesTheOthers publishes a batch with one entry that
// has a directory in its place, and then each by itself, as the publisher does.
func TestOneThatCanNotBePublishedLeavesTheOthers(t *testing.T) {
	f := newFixture(t)
	w := f.writer(t, Options{})
	var batch []*entry
	for _, name := range []string{"first", "second", "third"} {
		info, err := f.store.Info(t.Context(), f.nix.Add(t, name, name))
		must(t, err)
		e := &entry{info: info}
		e.dump, err = w.dump(t.Context(), w.newDumper(false), e)
		must(t, err)
		t.Cleanup(e.dump.discard)
		batch = append(batch, e)
	}
	inTheWay := filepath.Join(f.dir, bincache.HashPart(batch[1].info.Path)+".narinfo")
	must(t, os.MkdirAll(filepath.Join(inTheWay, "directory"), 0o755))

	if err := w.publish(batch); err == nil {
		t.Error("a directory was replaced")
	}
	for i := range batch {
		if err := w.publish(batch[i : i+1]); (err == nil) != (i != 1) {
			t.Errorf("publish number %d again: %v", i, err)
		}
		if batch[i].ours != (i != 1) {
			t.Errorf("number %d: ours is %t", i, batch[i].ours)
		}
	}
	f.has(t, batch[0].info.Path, batch[2].info.Path)

	must(t, os.RemoveAll(inTheWay))
	must(t, w.publish(batch))
	f.has(t, batch[1].info.Path)
	f.check(t)
}
