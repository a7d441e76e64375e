package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/internal/rules"
)

func TestJournalReadsBackWhatManyWrote(t *testing.T) {
	name := filepath.Join(t.TempDir(), "journal")
	var writers sync.WaitGroup
	for range 2 { // processes: each opens it for itself
		j, err := OpenJournal(name)
		must(t, err)
		for i := range 4 {
			writers.Go(func() {
				for n := range 100 {
					j.Add(Event{Kind: Done, Path: fmt.Sprintf("%d-%d", i, n)})
				}
			})
		}
		defer func() { must(t, j.Close()) }()
	}
	writers.Wait()
	seen := make(map[string]int)
	must(t, ReadJournal(name, func(e Event) { seen[e.Path]++ }))
	if len(seen) != 400 {
		t.Errorf("%d paths, want 400", len(seen))
	}
	for path, n := range seen {
		if n != 2 {
			t.Errorf("%s is there %d times, want 2", path, n)
		}
	}
}

func TestJournalOfAKilledWriterIsReadToItsEnd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "journal")
	must(t, ReadJournal(name, func(Event) { t.Error("there is none") }))
	// Somebody was killed in the middle of a line, and somebody else went on.
	must(t, os.WriteFile(name, []byte(`{"kind":"done","path":"a"}
{"kind":"done","path":"b"{"kind":"done","path":"c"}
{"kind":"done","path":"d"}
{"kind":"done","pa`), 0o600))
	var got []string
	must(t, ReadJournal(name, func(e Event) { got = append(got, e.Path) }))
	if diff := cmp.Diff([]string{"a", "d"}, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestJournalSaysWhatWentWrong(t *testing.T) {
	j, err := OpenJournal("/dev/full")
	must(t, err)
	j.Add(Event{Kind: Done, Path: "a"})
	if err := j.Close(); err == nil {
		t.Error("nothing went wrong")
	}
}

// TestTallyTellsTheTruth has a run in which everything happens.
func TestTallyTellsTheTruth(t *testing.T) {
	tally := NewTally()
	for _, e := range []Event{
		{Kind: Registered, Path: "hit", Class: rules.Downloaded, Present: true, NarBytes: 100},
		{Kind: Registered, Path: "hit", Class: rules.Downloaded, Present: true, NarBytes: 100}, // it was deleted meanwhile
		{Kind: Registered, Path: "upstream's", Class: rules.Downloaded, Present: true, Reason: "signed by u", NarBytes: 10},
		{Kind: Registered, Path: "downloaded", Class: rules.Downloaded, NarBytes: 7},
		{Kind: Registered, Path: "copied before it was looked at", Class: rules.Downloaded, Present: true},
		{Kind: Registered, Path: "built", Class: rules.Built},
		{Kind: Registered, Path: "built again", Class: rules.Built, Present: true},
		{Kind: Registered, Path: "source", Class: rules.Sources, Present: true},
		{Kind: Registered, Path: "excluded", Class: rules.Built, Reason: "its name"},
		{Kind: LeftOut, Path: "excluded", Reason: "its name"}, // the hook told of it too
		{Kind: LeftOut, Path: "another", Reason: "its name"},
		{Kind: LeftOut, Path: "large", Reason: "its size"},
		{Kind: Added, Path: "built", NarBytes: 1000, FileBytes: 500},
		{Kind: Added, Path: "downloaded", NarBytes: 7, FileBytes: 5},
		{Kind: Added, Path: "copied before it was looked at", NarBytes: 1, FileBytes: 1},
		{Kind: Done, Path: "built"},
		{Kind: Done, Path: "downloaded"},
		{Kind: Done, Path: "pushed anew"},
		{Kind: Done, Path: "built", Class: rules.Built},
		{Kind: Done, Path: "deleted before it was looked at", Class: rules.Built},
		{Kind: Gone, Path: "gone"},
		{Kind: FailedLog, Path: "failed.drv"},
		{Kind: FailedLog, Path: "failed.drv"}, // with more in it
		{Kind: Kept, Path: "other contents", CacheNarHash: "c", StoreNarHash: "s"},
		{Kind: Kept, Path: "built again", CacheNarHash: "c", StoreNarHash: "s"},
		{Kind: Kept, Path: "other contents", CacheNarHash: "c", StoreNarHash: "s"}, // another worker
	} {
		tally.Add(e)
	}
	tally.Failed = append(tally.Failed, Failed{"bad", "corrupt"})
	tally.LeftOver = 2
	tally.Drained = Seconds(1500 * time.Millisecond)
	text, err := json.Marshal(tally.Finish())
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(text, &got))
	want := map[string]any{
		"cache": "", "queued": 8., "done": 4., "gone": 1., "left_over": 2.,
		"failed": []any{map[string]any{"path": "bad", "error": "corrupt"}},
		"added":  3., "nar_bytes": 1008., "file_bytes": 506.,
		"built": 4., "downloaded": 2., "already_there": 4.,
		"left_out": []any{map[string]any{"reason": "its name", "paths": 2.}, map[string]any{"reason": "its size", "paths": 1.}},
		"conflicts": []any{
			map[string]any{"path": "built again", "cache_nar_hash": "c", "store_nar_hash": "s"},
			map[string]any{"path": "other contents", "cache_nar_hash": "c", "store_nar_hash": "s"},
		},
		"failed_logs": 1.,
		"hits":        2., "hit_nar_bytes": 110., "saved_seconds": 0., "timed_hits": 0.,
		"evicted": 0., "evicted_bytes": 0., "too_much_bytes": 0.,
		"drain_seconds": 1.5, "notes": []any{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"hit", "upstream's"}, tally.Hit); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"built again", "deleted before it was looked at", "pushed anew", "source"}, tally.There); diff != "" {
		t.Errorf("there (-want +got):\n%s", diff)
	}
	used := []string{"built", "built again", "deleted before it was looked at", "downloaded", "hit", "pushed anew", "source", "upstream's"}
	if diff := cmp.Diff(used, tally.Used); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTallyKnowsWhatTheRunHasMade(t *testing.T) {
	tally := NewTally()
	for _, e := range []Event{
		{Kind: Registered, Path: "killed run's", Class: rules.Built},
		{Kind: Earlier, Path: "killed run's"},
		{Kind: Earlier, Path: "killed run's job"},
		{Kind: Registered, Path: "deleted since", Class: rules.Built},
		{Kind: Earlier, Path: "deleted since"},
		{Kind: Registered, Path: "deleted since", Class: rules.Built},
		{Kind: Registered, Path: "built", Class: rules.Built},
		{Kind: Registered, Path: "hit", Class: rules.Downloaded, Present: true},
		{Kind: Registered, Path: "left out", Class: rules.Downloaded, Reason: "nobody wants it"},
		{Kind: Registered, Path: "source", Class: rules.Sources},
		{Kind: Done, Path: "built, says the hook", Class: rules.Built},
		{Kind: Done, Path: "killed run's job", Class: rules.Built},
		{Kind: Done, Path: "source"},
	} {
		tally.Add(e)
	}
	tally.Finish()
	if diff := cmp.Diff([]string{"built", "built, says the hook", "deleted since", "hit", "left out"}, tally.Made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if why := tally.WhyLeftOut("left out"); why != "nobody wants it" || tally.WhyLeftOut("built") != "" {
		t.Errorf("left out since %q", why)
	}
	if len(tally.Used) != 4 { // a killed run has recorded nothing
		t.Errorf("used is %q", tally.Used)
	}
}
