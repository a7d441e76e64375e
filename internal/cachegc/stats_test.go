package cachegc

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nix-larder/larder/internal/bincache"
)

func TestStatsCountEveryFileOnceAndEveryRunAsItWas(t *testing.T) {
	c := newCache(t)
	var texts int64 // narinfos
	for _, n := range []*bincache.NarInfo{
		add(t, c, "a", 1000), add(t, c, "b", 500, "a"), add(t, c, "c", 200, "b"), add(t, c, "d", 50),
		addWith(t, c, "s", strings.Repeat("x", 300)), addWith(t, c, "r", strings.Repeat("x", 300), "d"),
	} {
		texts += int64(len(n.Format()))
	}
	must(t, recordRun(c, bincache.Run{Ended: day(5), Added: []bincache.RunEntry{{Path: pathOf("a")}, {Path: pathOf("b")}, {Path: pathOf("gone")}}, Bytes: 7777}))
	must(t, recordRun(c, bincache.Run{Ended: day(3), Added: []bincache.RunEntry{{Path: pathOf("c")}}, Used: []string{pathOf("b"), pathOf("gone")}}))
	must(t, recordRun(c, bincache.Run{Ended: day(2), Used: []string{pathOf("d")}}))
	must(t, recordRun(c, bincache.Run{Ended: day(1), Used: []string{pathOf("gone")}}))
	must(t, c.RecordSummary(bincache.Run{Ended: day(1), Used: []string{pathOf("d")}}))
	must(t, c.Pin(t.Context(), "pin", noon, 1, pathOf("r"), pathOf("s")))
	write(t, c, "log/"+filepath.Base(pathOf("d"))+".drv", "a log")

	survey, err := Look(t.Context(), c, noon)
	must(t, err)
	var wrote int64
	for _, name := range []string{"c"} {
		id, _ := survey.graph.Find(pathOf(name))
		wrote += survey.entries[id].bytes
	}
	pinned := int64(0)
	for _, name := range []string{"d", "r", "s"} {
		id, _ := survey.graph.Find(pathOf(name))
		pinned += survey.entries[id].bytes
	}
	want := &Stats{
		Entries: 6, Bytes: texts + 1000 + 500 + 200 + 50 + 300 + 5, NarBytes: 1000 + 500 + 200 + 50 + 300 + 300,
		Shared: 2, SharedBytes: 300,
		Pinned: 3, PinnedBytes: pinned + 50 + 300 + 5,
		OldestUse: day(3), NewestUse: day(1), Undated: 2,
		Runs: []RunStats{
			{Ended: day(5), Added: 3, Bytes: 7777, Used: 0},
			{Ended: day(3), Added: 1, Bytes: wrote + 200, Used: 2},
			{Ended: day(2), Used: 1},
			{Ended: day(1)},
		},
	}
	got := survey.Stats()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, want := range []float64{0, 2. / 3, 1, -1} {
		if rate := got.Runs[i].HitRate(); rate != want {
			t.Errorf("hit rate of run %d is %v, want %v", i, rate, want)
		}
	}
	if !survey.Needs("log/"+filepath.Base(pathOf("d"))+".drv") || survey.Needs("nar/none.nar") {
		t.Error("what is needed is wrong")
	}
}

func TestStatsOfAnEmptyCache(t *testing.T) {
	survey, err := Look(t.Context(), newCache(t), noon)
	must(t, err)
	if diff := cmp.Diff(&Stats{}, survey.Stats(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
