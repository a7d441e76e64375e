package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/bincache"
	"github.com/nix-larder/larder/internal/runner"
)

// newTestRecorder returns a recorder of a cache that no store is needed for.
func newTestRecorder(t *testing.T) *recorder {
	t.Helper()
	cache, err := bincache.Create(filepath.Join(t.TempDir(), "cache"), "/nix/store", bincache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	return newRecorder(&target{view: &view{cache: cache}}, 24*time.Hour, 0, slog.New(slog.DiscardHandler))
}

func testPath(i int) string { return fmt.Sprintf("/nix/store/%032d-item", i) }

// recordedUses returns how many entries the records of a cache name as used, oldest first.
func recordedUses(t *testing.T, r *recorder) (counts []int) {
	t.Helper()
	for run, err := range r.target.cache.Runs() {
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, len(run.Used))
	}
	return counts
}

func TestRecorderBeginsARecordForEachDayAndForSoManyEntries(t *testing.T) {
	r := newTestRecorder(t)
	r.most = 3
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for i, at := range []time.Time{today.Add(-36 * time.Hour), today.Add(-25 * time.Hour), today.Add(-24 * time.Hour)} {
		r.today(at).used[testPath(i)] = true
	}
	for range 2 {
		for i := range 4 {
			r.tell(runner.Event{Kind: runner.Registered, Present: true, Path: testPath(10 + i)})
		}
	}
	r.tell(runner.Event{Kind: runner.Registered, Path: testPath(20)}) // which is not there
	r.tell(runner.Event{Kind: runner.LeftOut, Path: testPath(21)})
	if err := r.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Of two days before, of the day before, and of today. What came again to a third one of
	// today others have.
	if got := fmt.Sprint(recordedUses(t, r)); got != "[2 1 3 3]" {
		t.Errorf("records have %s entries", got)
	}
	if len(r.days) != 1 {
		t.Errorf("%d days are kept in memory", len(r.days))
	}
}

func TestRecorderTriesAgainAndWritesAtItsEnd(t *testing.T) {
	r := newTestRecorder(t)
	runs := filepath.Join(r.target.cache.Path(), ".larder", "runs")
	if err := os.RemoveAll(runs); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(runs, nil, 0o644); err != nil { // in the way
		t.Fatal(err)
	}
	r.tell(runner.Event{Kind: runner.Done, Path: testPath(1)})
	if err := r.write(t.Context()); err == nil {
		t.Fatal("it was written")
	}
	if err := os.Remove(runs); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	r.every = time.Hour
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.keepUntil(ctx)
	}()
	r.tell(runner.Event{Kind: runner.Done, Path: testPath(2)})
	end()
	<-done
	if got := recordedUses(t, r); len(got) != 1 || got[0] != 2 {
		t.Errorf("records have %v entries, want one of 2", got)
	}
}
