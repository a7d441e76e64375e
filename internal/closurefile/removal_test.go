package closurefile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
)

// TestImportTellsOfWhatIsRemovedMeanwhile has a collector remove what an import has found.
func TestImportTellsOfWhatIsRemovedMeanwhile(t *testing.T) {
	lib, app := thing{name: "lib"}, thing{name: "app", refs: []string{"lib"}}
	c := filled(t, lib)
	_, err := imports(t, c, stream(lib, app), func(x *Target) {
		x.Found = func(storePath string) {
			unlock, err := c.Lock(t.Context())
			must(t, err)
			defer unlock()
			must(t, c.TellRemoval(true))
			removal, err := c.BeginRemoval(time.Now())
			must(t, err)
			must(t, c.Withdraw(removal, bincache.HashPart(storePath)))
			must(t, c.TellRemoval(false))
		}
	})
	// Nothing is missing in the stream, so that another one would do no good.
	if err == nil || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), storePath("lib")+" was removed") {
		t.Errorf("error is %v", err)
	}
	r, err := imports(t, c, stream(lib, app))
	if err != nil || r.Added != 1 {
		t.Errorf("the second time: %+v, %v", r, err)
	}
}

// TestImportHasTheCacheMadeWhole has what was removed come back.
func TestImportHasTheCacheMadeWhole(t *testing.T) {
	lib, app := thing{name: "lib"}, thing{name: "app", refs: []string{"lib"}}
	c := filled(t, lib)
	var removal *bincache.Removal
	var told []string
	r, err := imports(t, c, stream(lib, app), func(x *Target) {
		x.Found = func(storePath string) {
			unlock, err := c.Lock(t.Context())
			must(t, err)
			defer unlock()
			must(t, c.TellRemoval(true))
			removal, err = c.BeginRemoval(time.Now())
			must(t, err)
			must(t, c.Withdraw(removal, bincache.HashPart(storePath)))
			must(t, c.TellRemoval(false))
		}
		x.Removed = func(_ context.Context, storePaths []string) error {
			told = append(told, storePaths...)
			return c.Reinstate(removal, bincache.HashPart(storePaths[0]))
		}
	})
	if err != nil || r.Added != 1 || len(told) != 1 || told[0] != storePath("lib") {
		t.Errorf("%+v, %v, told of %q", r, err, told)
	}
}
