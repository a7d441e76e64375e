package cachegc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// day returns a time some days before noon.
func day(n int) time.Time { return noon.Add(-time.Duration(n) * 24 * time.Hour) }

func newCache(t testing.TB) *bincache.Cache {
	t.Helper()
	c, err := bincache.Create(filepath.Join(t.TempDir(), "cache"), storeDir, bincache.Options{})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// pathOf returns the store path of a name.
func pathOf(name string) string {
	return fmt.Sprintf("%s/%s-%s", storeDir, strings.Repeat("0", 32-len(name))+strings.NewReplacer("e", "f", "o", "q", "u", "v", "t", "s").Replace(name), name)
}

// namesOf returns the names of store paths.
func namesOf(paths []string) []string {
	names := []string{}
	for _, p := range paths {
		names = append(names, p[strings.LastIndex(p, "-")+1:])
	}
	return names
}

// add adds an entry of some size that refers to others.
func add(t testing.TB, c *bincache.Cache, name string, size int, refs ...string) *bincache.NarInfo {
	t.Helper()
	return addWith(t, c, name, strings.Repeat(name, size/len(name)), refs...)
}

// addWith adds an entry with a certain NAR.
func addWith(t testing.TB, c *bincache.Cache, name, nar string, refs ...string) *bincache.NarInfo {
	t.Helper()
	n := &bincache.NarInfo{StorePath: pathOf(name), Compression: "none", NarHash: sum(nar), NarSize: int64(len(nar))}
	n.URL, n.FileHash, n.FileSize = bincache.NarName(n.NarHash, "none"), n.NarHash, n.NarSize
	n.Deriver = filepath.Base(n.StorePath) + ".drv"
	for _, ref := range refs {
		n.References = append(n.References, filepath.Base(pathOf(ref)))
	}
	file, err := c.TempText([]byte(nar))
	must(t, err)
	must(t, c.PublishNar(file, n.URL))
	file, err = c.TempNarInfo(n)
	must(t, err)
	_, err = c.PublishNarInfo(t.Context(), file, n.StorePath)
	must(t, err)
	return n
}

// used records a run.
func used(t testing.TB, c *bincache.Cache, ended time.Time, names ...string) {
	t.Helper()
	run := bincache.Run{Ended: ended}
	for _, name := range names {
		run.Added = append(run.Added, bincache.RunEntry{Path: pathOf(name)})
	}
	_, err := c.RecordRun(run, 0)
	must(t, err)
}

// evicted returns the names of what a policy removes, in order, with the reasons.
func evicted(t testing.TB, c *bincache.Cache, p Policy) []string {
	t.Helper()
	s, err := Look(t.Context(), c, noon)
	must(t, err)
	var is []string
	for _, e := range s.Plan(p).Evict {
		is = append(is, namesOf([]string{e.Path})[0]+": "+string(e.Why))
	}
	return is
}

func TestWhatIsUnusedForTheLongestTimeGoesFirst(t *testing.T) {
	c := newCache(t)
	add(t, c, "libc", 1000)
	add(t, c, "lib", 1000, "libc", "lib")
	add(t, c, "app", 1000, "lib")
	add(t, c, "tool", 1000, "libc")
	add(t, c, "old", 1000)
	used(t, c, day(40), "old", "tool")
	used(t, c, day(20), "app")
	used(t, c, day(10), "tool")
	must(t, c.Pin(t.Context(), "keep", noon, 1, pathOf("app")))
	s, err := Look(t.Context(), c, noon)
	must(t, err)
	all := s.Plan(Policy{}).Bytes
	for name, tt := range map[string]struct {
		policy Policy
		pins   bool
		want   []string
	}{
		"no limit":               {Policy{}, false, nil},
		"age from the newest":    {Policy{MaxAge: 29 * 24 * time.Hour}, false, []string{"old: too old"}},
		"all but the newest":     {Policy{MaxAge: 9 * 24 * time.Hour}, false, []string{"old: too old", "app: too old", "lib: too old"}},
		"pins stay":              {Policy{MaxAge: 9 * 24 * time.Hour}, true, []string{"old: too old"}},
		"a little too much":      {Policy{MaxSize: all - 1}, false, []string{"old: no room"}},
		"more":                   {Policy{MaxSize: all - 1500}, false, []string{"old: no room", "app: no room"}},
		"everything":             {Policy{MaxSize: 1}, false, []string{"old: no room", "app: no room", "lib: no room", "tool: no room", "libc: no room"}},
		"the last run stays":     {Policy{MaxSize: 1, KeepLast: 1}, false, []string{"old: no room", "app: no room", "lib: no room"}},
		"as many as there are":   {Policy{MaxSize: 1, KeepLast: 100}, false, nil},
		"both limits":            {Policy{MaxSize: all - 1500, MaxAge: 29 * 24 * time.Hour}, false, []string{"old: too old", "app: no room"}},
		"pins are more than max": {Policy{MaxSize: 1}, true, []string{"old: no room", "tool: no room"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !tt.pins {
				must(t, c.Unpin(t.Context(), "keep"))
				defer func() { must(t, c.Pin(context.Background(), "keep", noon, 1, pathOf("app"))) }()
			}
			if diff := cmp.Diff(tt.want, evicted(t, c, tt.policy)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNarOfManyGoesWithTheLastOfThem(t *testing.T) {
	c := newCache(t)
	for _, name := range []string{"a", "b", "c"} {
		addWith(t, c, name, strings.Repeat("x", 10_000))
	}
	used(t, c, day(3), "a")
	used(t, c, day(2), "b")
	used(t, c, day(1), "c")
	s, err := Look(t.Context(), c, noon)
	must(t, err)
	p := s.Plan(Policy{MaxSize: 1})
	if len(p.Evict) != 3 || p.Evict[0].Bytes > 1000 || p.Evict[1].Bytes > 1000 || p.Evict[2].Bytes < 10_000 || p.Freed != p.Bytes {
		t.Errorf("%+v", p)
	}
}

func TestCirclesGoTogether(t *testing.T) {
	c := newCache(t)
	add(t, c, "a", 1000, "b")
	add(t, c, "b", 1000, "c")
	add(t, c, "c", 1000, "a")
	used(t, c, day(1), "b")
	if got := evicted(t, c, Policy{MaxSize: 2000}); len(got) != 3 {
		t.Errorf("%q go", got)
	}
	if got := evicted(t, c, Policy{MaxSize: 1, KeepLast: 1}); len(got) != 0 {
		t.Errorf("%q go", got)
	}
}

// TestWhatNoRecordTellsOfAgesFromNowOn has entries that came without a run.
func TestWhatNoRecordTellsOfAgesFromNowOn(t *testing.T) {
	c := newCache(t)
	add(t, c, "lib", 1000)
	policy := Policy{MaxAge: 24 * time.Hour}
	collect := func(now time.Time, want ...string) {
		t.Helper()
		r, err := Collect(t.Context(), c, Options{Policy: policy, Now: now})
		must(t, err)
		var paths []string
		for _, e := range r.Evict {
			paths = append(paths, e.Path)
		}
		got := namesOf(paths)
		slices.Sort(got) // of the same age any may be first
		if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	collect(day(100)) // nobody has ever recorded a run
	collect(day(90))
	add(t, c, "app", 1000, "lib")
	used(t, c, day(80), "app")
	add(t, c, "copied", 1000)
	collect(day(70))
	collect(noon) // and since then there was no run
	add(t, c, "new", 1000)
	used(t, c, day(1), "new")
	collect(noon, "app", "copied", "lib")
}

func TestUnreadableRecordsAndPinsEndIt(t *testing.T) {
	for _, file := range []string{".larder/runs/20261121T120000Z-host-x", ".larder/pins/prod"} {
		for _, text := range []string{"", "nonsense", "larder-run 2\nended 2026-11-21T08:00:00Z\nend\n", "larder-pin 2\nend\n", "larder-pin 1\nsince 2026-11-21T08:00:00Z\n"} {
			c := newCache(t)
			add(t, c, "lib", 1000)
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.Path(), file)), 0o755))
			must(t, os.WriteFile(filepath.Join(c.Path(), file), []byte(text), 0o644))
			_, err := Collect(t.Context(), c, Options{Policy: Policy{MaxSize: 1}})
			if err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s with %q: %v", file, text, err)
			}
			if _, err := c.Entry(pathOf("lib")); err != nil {
				t.Error(err)
			}
		}
	}
}
