package cachegc

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/bincache"
)

// write writes a file of a cache.
func write(t testing.TB, c *bincache.Cache, name, text string) {
	t.Helper()
	file := filepath.Join(c.Path(), name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

// files returns the names of all files of a cache but larder's own.
func files(t testing.TB, c *bincache.Cache) []string {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(c.Path(), func(name string, d fs.DirEntry, err error) error {
		name = strings.TrimPrefix(name, c.Path()+"/")
		if err == nil && d.IsDir() && name == ".larder" {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() && d.Name() != ".keep" && !slices.Contains([]string{"nix-cache-info", ".gitignore", "CACHEDIR.TAG"}, name) {
			names = append(names, name)
		}
		return err
	}))
	return names
}

func collect(t testing.TB, c *bincache.Cache, o Options) *Result {
	t.Helper()
	r, err := Collect(t.Context(), c, o)
	must(t, err)
	return r
}

func TestWhatBelongsToAnEntryGoesWithIt(t *testing.T) {
	c := newCache(t)
	out, doc := add(t, c, "a", 1000), add(t, c, "ad", 1000)
	add(t, c, "c", 1000)
	drv := out.Deriver
	// Two outputs of one derivation, of which there is one log.
	text, err := os.ReadFile(filepath.Join(c.Path(), bincache.HashPart(doc.StorePath)+".narinfo"))
	must(t, err)
	write(t, c, bincache.HashPart(doc.StorePath)+".narinfo", strings.Replace(string(text), doc.Deriver, drv, 1))
	realised := func(out *bincache.NarInfo) string {
		return fmt.Sprintf(`{"dependentRealisations":{},"id":"sha256:%064d!out","outPath":%q,"signatures":[]}`, len(out.StorePath), filepath.Base(out.StorePath))
	}
	belongs := map[*bincache.NarInfo][]string{}
	for _, n := range []*bincache.NarInfo{out, doc} {
		realisation := fmt.Sprintf("realisations/sha256:%064d!out.doi", len(n.StorePath))
		write(t, c, bincache.ListingName(n.StorePath), `{"root":{},"version":1}`)
		write(t, c, realisation, realised(n))
		belongs[n] = []string{bincache.HashPart(n.StorePath) + ".narinfo", bincache.ListingName(n.StorePath), n.URL, realisation}
	}
	write(t, c, bincache.LogName(drv), "the log")
	used(t, c, day(3), "a")
	used(t, c, day(2), "ad")
	used(t, c, day(1), "c")
	all := files(t, c)
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(names, name) })
	}
	same := func(what string, want []string) {
		t.Helper()
		if diff := cmp.Diff(want, files(t, c)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}

	const age = 36 * time.Hour
	r := collect(t, c, Options{Now: noon, Grace: time.Hour, Policy: Policy{MaxAge: age}})
	if len(r.Evict) != 1 || r.Removed != 0 || r.Waiting != 3 {
		t.Errorf("%d go, %d files are removed and %d wait", len(r.Evict), r.Removed, r.Waiting)
	}
	same("in its grace", without(belongs[out][0]))
	collect(t, c, Options{Now: noon.Add(time.Hour), Grace: time.Hour, Policy: Policy{MaxAge: age}})
	same("after its grace", without(belongs[out]...))
	collect(t, c, Options{Now: noon.Add(time.Hour), Policy: Policy{MaxAge: age / 2}})
	same("with nobody else", without(append(slices.Concat(belongs[out], belongs[doc]), bincache.LogName(drv))...))
}

// What waits for the end of its grace is no reason for more entries to go.
func TestCollectionsAgainTakeNoMore(t *testing.T) {
	c := newCache(t)
	for i, name := range []string{"a", "b", "c", "d"} {
		n := add(t, c, name, 1000)
		n.Deriver = "00000000000000000000000000000000-" + name + ".drv"
		write(t, c, bincache.HashPart(n.StorePath)+".narinfo", string(n.Format()))
		write(t, c, bincache.ListingName(n.StorePath), strings.Repeat(" ", 5000))
		write(t, c, bincache.LogName(n.Deriver), strings.Repeat("a line\n", 1000))
		used(t, c, day(1+i), name)
	}
	s, err := Look(t.Context(), c, noon)
	must(t, err)
	o := Options{Now: noon, Grace: time.Hour, Policy: Policy{MaxSize: s.bytes * 3 / 4}}
	for _, want := range []int{1, 0, 0} {
		if r := collect(t, c, o); len(r.Evict) != want || r.Waiting != 3 {
			t.Errorf("%d entries go, want %d, and %d files wait", len(r.Evict), want, r.Waiting)
		}
		o.Now = o.Now.Add(time.Minute)
	}
	const failed = "log/00000000000000000000000000000000-failed.drv"
	write(t, c, failed, strings.Repeat("a line\n", 1000))
	for range 2 { // it stays, and counts
		if s, err := Look(t.Context(), c, o.Now.Add(o.Grace)); err != nil || s.bytes <= o.Policy.MaxSize {
			t.Errorf("%d bytes, %v; want more than %d", s.bytes, err, o.Policy.MaxSize)
		}
		must(t, c.Retire(o.Now.Add(looseLogs), failed))
	}
}

func TestWhatIsOfNobodyGoesInTheEnd(t *testing.T) {
	c := newCache(t)
	n := add(t, c, "a", 1000)
	kept := files(t, c)
	write(t, c, "nar/"+sum("orphan").Digits()+".nar", "orphan")
	write(t, c, strings.Repeat("1", 32)+".ls", "{}")
	write(t, c, "log/"+strings.Repeat("2", 32)+"-failed.drv", "it failed")
	write(t, c, "README", "somebody's")
	write(t, c, "debuginfo/x", "somebody's")
	collect(t, c, Options{Now: noon})
	want := append(slices.Clone(kept), "README", "debuginfo/x", "log/"+strings.Repeat("2", 32)+"-failed.drv")
	slices.Sort(want)
	is := files(t, c)
	slices.Sort(is)
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r := collect(t, c, Options{Now: noon.Add(looseLogs), Grace: time.Hour})
	if r.Removed != 1 || c.Has("log/"+strings.Repeat("2", 32)+"-failed.drv") {
		t.Errorf("%d files are removed", r.Removed)
	}
	if _, err := c.Entry(n.StorePath); err != nil {
		t.Error(err)
	}
}

// TestWhatIsNeededSinceTheSurveyStays has somebody need retired files, of which the survey
// could not know that, at every moment of a collection.
func TestWhatIsNeededSinceTheSurveyStays(t *testing.T) {
	for at := 0; ; at++ {
		c := newCache(t)
		add(t, c, "old", 1000)
		kept := add(t, c, "kept", 1000)
		used(t, c, day(9), "old")
		used(t, c, day(1), "kept")
		log := bincache.LogName(kept.Deriver)
		var retired []string
		for _, contents := range []string{"other contents", "new contents"} {
			retired = append(retired, bincache.NarName(sum(contents), "none"))
			write(t, c, retired[len(retired)-1], contents)
		}
		must(t, c.Retire(day(8), append(retired, log, kept.URL)...)) // the last one was needed all the time
		steps := 0
		var needed []string // store paths
		collect(t, c, Options{Now: noon, Policy: Policy{MaxAge: 48 * time.Hour}, step: func() error {
			if steps++; steps-1 == at {
				write(t, c, log, "a log")
				needed = append(needed, addWith(t, c, "new", "new contents").StorePath)
				if !c.Has(bincache.HashPart(pathOf("old")) + ".narinfo") {
					needed = append(needed, addWith(t, c, "old", "other contents").StorePath)
				}
			}
			return nil
		}})
		if at >= steps {
			return
		}
		for _, p := range append(needed, kept.StorePath) {
			if _, err := c.Entry(p); err != nil {
				t.Errorf("in step %d of %d: %v", at, steps, err)
			}
		}
		if !c.Has(log) {
			t.Errorf("in step %d of %d: the log is gone", at, steps)
		}
	}
}

// TestNothingToDoChangesNothing is about providers that save what has changed.
func TestNothingToDoChangesNothing(t *testing.T) {
	c := newCache(t)
	add(t, c, "lib", 1000)
	add(t, c, "app", 1000, "lib")
	used(t, c, day(1), "app")
	o := Options{Policy: Policy{MaxSize: 1 << 30, MaxAge: 1000 * time.Hour, KeepLast: 2}}
	collect(t, c, o)
	before := changed(t, c)
	collect(t, c, o)
	o.Grace = time.Hour
	collect(t, c, o)
	if diff := cmp.Diff(before, changed(t, c)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// changed returns when each file and directory of a cache was changed.
func changed(t testing.TB, c *bincache.Cache) map[string]time.Time {
	t.Helper()
	times := make(map[string]time.Time)
	must(t, filepath.WalkDir(c.Path(), func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(name)
		if err == nil {
			times[name] = info.ModTime()
		}
		return err
	}))
	return times
}

// TestRecordsBecomeFew has a cache in which there was a run every hour for a year.
func TestRecordsBecomeFew(t *testing.T) {
	c := newCache(t)
	const runs = 600
	names := []string{"a", "b", "c", "d"}
	add(t, c, "lib", 1000)
	for _, name := range names {
		add(t, c, name, 1000, "lib")
	}
	want := make(map[string]time.Time)
	for i := range runs {
		name := names[i*len(names)/runs]
		ended := noon.Add(-time.Duration(runs-i) * 3 * time.Hour)
		run := bincache.Run{Ended: ended, Used: []string{pathOf(name)}}
		if i%100 == 0 {
			run.Used, run.Added = nil, []bincache.RunEntry{{Path: pathOf(name), Build: time.Minute}}
		}
		must(t, recordRun(c, run))
		want[filepath.Base(pathOf(name))] = ended
	}
	collect(t, c, Options{Now: noon})
	count, summaries := 0, 0
	builds := make(map[string]time.Duration)
	for r, err := range c.Runs() {
		must(t, err)
		if r.Summary {
			summaries++
		} else {
			count++
		}
		for _, e := range r.Added {
			builds[e.Path] = e.Build
		}
	}
	if count != foldNever || summaries == 0 || summaries > len(names)+1 {
		t.Errorf("there are %d records of runs and %d others", count, summaries)
	}
	last, damaged := c.Used()
	if len(damaged) > 0 {
		t.Error(damaged)
	}
	for name, at := range want {
		if early, late := last[name].Before(at), last[name].After(at.Add(24*time.Hour)); early || late {
			t.Errorf("%s was used last at %v, want %v", name, last[name], at)
		}
		if builds[storeDir+"/"+name] != time.Minute {
			t.Errorf("nobody knows any more how long %s took to build", name)
		}
	}
	before := changed(t, c)
	collect(t, c, Options{Now: noon})
	if diff := cmp.Diff(before, changed(t, c)); diff != "" {
		t.Errorf("the second time (-before +after):\n%s", diff)
	}
}

func recordRun(c *bincache.Cache, r bincache.Run) error {
	_, err := c.RecordRun(r, -24*365*time.Hour) // whatever others say
	return err
}

// TestDatesStayWhenWhatNeededAnEntryGoes has a library outlive the program that was its
// only user: it is as old as the use of that.
func TestDatesStayWhenWhatNeededAnEntryGoes(t *testing.T) {
	c := newCache(t)
	add(t, c, "lib", 100)
	add(t, c, "app", 10_000, "lib")
	add(t, c, "new", 1000)
	used(t, c, day(9), "app")
	used(t, c, day(1), "new")
	collect(t, c, Options{Now: noon, Policy: Policy{MaxSize: 8000}})
	if got := evicted(t, c, Policy{MaxAge: 5 * 24 * time.Hour}); !slices.Equal(got, []string{"lib: too old"}) {
		t.Errorf("%q go", got)
	}
}

// TestWhatIsThereAgainIsNew has an entry come back after it was removed.
func TestWhatIsThereAgainIsNew(t *testing.T) {
	c := newCache(t)
	add(t, c, "app", 1000)
	add(t, c, "new", 1000)
	used(t, c, day(90), "app")
	used(t, c, day(1), "new")
	o := Options{Now: noon, Policy: Policy{MaxAge: 30 * 24 * time.Hour}}
	if r := collect(t, c, o); len(r.Evict) != 1 {
		t.Fatalf("%d go", len(r.Evict))
	}
	add(t, c, "app", 1000)
	if r := collect(t, c, o); len(r.Evict) != 0 {
		t.Errorf("%d go", len(r.Evict))
	}
	before := changed(t, c)
	collect(t, c, o)
	if diff := cmp.Diff(before, changed(t, c)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
