package cachegc

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
)

// past is before all that these tests record.
var past = noon.Add(-1000 * 24 * time.Hour)

func newCacheInMemory(t *testing.T) *bincache.Cache {
	t.Helper()
	c, err := bincache.Create(filepath.Join(memoryDir(t), "cache"), storeDir, bincache.Options{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// summariesOf returns the records of a cache that are of no run.
func summariesOf(t *testing.T, c *bincache.Cache) (all []bincache.Run) {
	t.Helper()
	for r, err := range c.Runs() {
		must(t, err)
		if r.Summary {
			all = append(all, r)
		}
	}
	return all
}

// TestRecordsOfRemovalsBecomeFew has a cache that only Nix copies into, and a collection after
// each time.
func TestRecordsOfRemovalsBecomeFew(t *testing.T) {
	c := newCacheInMemory(t)
	const times = foldNever + foldAtLeast // and each makes two
	kept, most := "", 0
	for i := range times {
		name := fmt.Sprint(i)
		add(t, c, name, 1000)
		if i == 1 {
			kept = filepath.Base(pathOf(name))
			must(t, c.Pin(t.Context(), "kept", past, 1, pathOf(name)))
		}
		collect(t, c, Options{Now: past.Add(time.Duration(i) * 7 * time.Hour), Policy: Policy{MaxSize: 8000}})
		most = max(most, len(summariesOf(t, c)))
	}
	if most > foldNever+foldAtLeast+2 {
		t.Errorf("there are up to %d", most)
	}
	last, damaged := c.Used()
	if want := past.Add(7 * time.Hour); len(damaged) > 0 || !last[kept].Equal(want) {
		t.Errorf("%s was used last at %v, want %v; %v", kept, last[kept], want, damaged)
	}
	before := changed(t, c)
	collect(t, c, Options{Now: past.Add(times * 7 * time.Hour), Policy: Policy{MaxSize: 8000}})
	if diff := cmp.Diff(before, changed(t, c)); diff != "" {
		t.Errorf("when there is nothing to do (-before +after):\n%s", diff)
	}
}

// TestRecordsOfManyDatesAreFoldedByDay has entries stay that came every hour.
func TestRecordsOfManyDatesAreFoldedByDay(t *testing.T) {
	c := newCacheInMemory(t)
	want := make(map[string]time.Time)
	for i := range foldNever + 2*foldAtLeast {
		name := fmt.Sprint(i)
		add(t, c, name, 1000)
		want[filepath.Base(pathOf(name))] = past.Add(time.Duration(i) * time.Hour)
		must(t, c.RecordSummary(bincache.Run{Ended: past.Add(time.Duration(i) * time.Hour), Used: []string{pathOf(name)}}))
	}
	collect(t, c, Options{Now: past.Add(1000 * time.Hour)})
	if n := len(summariesOf(t, c)); n > foldNever+2*foldAtLeast/24+2 {
		t.Errorf("there are %d", n)
	}
	last, _ := c.Used()
	for name, at := range want {
		if last[name].Before(at) || last[name].After(at.Add(24*time.Hour)) {
			t.Errorf("%s was used last at %v, want %v", name, last[name], at)
		}
	}
}

// TestRemovalsOfWhatRunsNameStayKnown folds the records of removals of two entries, of which a
// run names one.
func TestRemovalsOfWhatRunsNameStayKnown(t *testing.T) {
	c := newCacheInMemory(t)
	for _, name := range []string{"a", "b"} {
		add(t, c, name, 1000)
	}
	used(t, c, past, "a")
	for i := range foldNever + 2*foldAtLeast {
		gone := "c"
		if i < 2*foldAtLeast {
			gone = []string{"a", "b"}[i%2]
		}
		must(t, c.RecordSummary(bincache.Run{Ended: past.Add(time.Duration(1+i) * time.Hour), Gone: []string{pathOf(gone)}}))
	}
	was := summariesOf(t, c)
	collect(t, c, Options{Now: past.Add(1000 * time.Hour)})
	is := summariesOf(t, c)
	var gone []time.Time
	for _, r := range is {
		if slices.Contains(r.Gone, pathOf("a")) {
			gone = append(gone, r.Ended)
		}
	}
	if want := past.Add((2*foldAtLeast - 1) * time.Hour); len(is) >= len(was) || len(gone) != 1 || !gone[0].Equal(want) {
		t.Errorf("of %d records %d are left, and it was removed at %v, want %v", len(was), len(is), gone, want)
	}
}
