package cachewriter

import (
	"sync"
	"testing"

	"github.com/nix-larder/larder/internal/bincache"
)

// TestOfSeveralWritersOneIsToldOfAnEntry has all of them copy the same at the same time.
func TestOfSeveralWritersOneIsToldOfAnEntry(t *testing.T) {
	f := newFixture(t)
	const count = 200
	top := f.nix.AddTexts(t, "text", count)
	var mu sync.Mutex
	told := make(map[string]int)
	var writers sync.WaitGroup
	for range 3 {
		w := f.writer(t, Options{Published: func(n *bincache.NarInfo) {
			mu.Lock()
			defer mu.Unlock()
			told[n.StorePath]++
		}})
		writers.Go(func() {
			if _, err := w.Copy(t.Context(), top); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if len(told) != count {
		t.Errorf("told of %d entries, want %d", len(told), count)
	}
	for path, n := range told {
		if n != 1 {
			t.Errorf("told of %s %d times", path, n)
		}
	}
}
