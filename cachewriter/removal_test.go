package cachewriter

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/nixstore"
)

// remove takes an entry out of the cache as a collector does, and tells it or is killed
// before that.
func (f *fixture) remove(t *testing.T, path string, told bool) {
	t.Helper()
	unlock, err := f.cache.Lock(t.Context())
	must(t, err)
	defer unlock()
	must(t, f.cache.TellRemoval(true))
	r, err := f.cache.BeginRemoval(time.Now())
	must(t, err)
	must(t, f.cache.Withdraw(r, bincache.HashPart(path)))
	if told {
		must(t, f.cache.TellRemoval(true))
		must(t, f.cache.TellRemoval(false))
	}
}

// TestWhatIsRemovedMeanwhileIsThereInTheEnd has a collector remove what the Writer has
// found to be there, before it adds what refers to that.
func TestWhatIsRemovedMeanwhileIsThereInTheEnd(t *testing.T) {
	for _, told := range []bool{true, false} {
		f := newFixture(t)
		m := f.family(t)
		f.copy(t, Options{}, m.base)
		var once sync.Once
		w := f.writer(t, Options{Cut: func(info *nixstore.Info) string {
			if filepath.Base(info.Path) == filepath.Base(m.top) { // all that it refers to has been looked at
				once.Do(func() { f.remove(t, m.base, told) })
			}
			return ""
		}})
		_, err := w.Copy(t.Context(), m.top)
		must(t, err)
		f.has(t, m.base, m.left, m.right, m.top)
	}
}

// TestRemovalEndsWhatIsRemembered has a collector remove what the Writer has copied.
func TestRemovalEndsWhatIsRemembered(t *testing.T) {
	f := newFixture(t)
	m := f.family(t)
	w := f.writer(t, Options{})
	_, err := w.Copy(t.Context(), m.base)
	must(t, err)
	f.remove(t, m.base, true)
	f.hasNot(t, m.base)
	_, err = w.Copy(t.Context(), m.base)
	must(t, err)
	f.has(t, m.base)
}
