package watcher

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nix-larder/larder/queue"
)

// plan returns what Plan shows.
func (r *rig) plan() (paths []string, result Result) {
	r.t.Helper()
	result, err := Plan(r.t.Context(), r.Config, func(path string) error {
		paths = append(paths, path)
		return nil
	})
	must(r.t, err)
	return paths, result
}

func (r *rig) sync() Result {
	r.t.Helper()
	result, err := Sync(r.t.Context(), r.Config)
	must(r.t, err)
	return result
}

// jobs returns all rows of the queue.
func (r *rig) jobs() (jobs []queue.Row) {
	r.t.Helper()
	for row, err := range r.Queue.Rows(r.t.Context()) {
		must(r.t, err)
		jobs = append(jobs, row)
	}
	return jobs
}

func TestSyncQueuesTheWholeStore(t *testing.T) {
	r := newRig(t)
	r.Rules.MaxSourceSize = 1000
	before := r.registerMany("before", batch+2) // more than are looked at together
	built := r.nix.Build(t, `build "built" "echo built > $out" { }`)[0]
	large := make([]byte, 2000)
	r.nix.Add(t, "large", string(large))
	r.begin()
	after := r.add("after")
	r.look()
	r.want("before", after)
	r.setPresent(true, before[0])

	got := r.sync()
	got.NarBytes = 0
	// The derivation and the large source are not wanted.
	if want := (Result{Registered: batch + 6, Wanted: batch + 4, Queued: batch + 2}); got != want {
		t.Errorf("result is %+v, want %+v", got, want)
	}
	if n := len(r.roots()); n != batch+2 {
		t.Errorf("%d roots, want %d", n, batch+2)
	}
	var jobs []string
	for _, job := range r.jobs() {
		jobs = append(jobs, job.Path)
	}
	if diff := cmp.Diff(append(before[1:], built), jobs); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}

// TestPlanIsWhatSyncDoesAndDoesNothing compares the two.
func TestPlanIsWhatSyncDoesAndDoesNothing(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(map[bool]string{false: "before the beginning", true: "after a look"}[begun], func(t *testing.T) {
			r := newRig(t)
			before := r.addMany("before", 3)
			r.setPresent(true, before[1])
			if begun {
				r.begin()
				r.add("after")
				r.look()
			}
			r.add("last")
			jobs, roots, cursor := r.jobs(), r.roots(), r.cursor()
			planned, plan := r.plan()
			if diff := cmp.Diff([]any{jobs, roots, cursor}, []any{r.jobs(), r.roots(), r.cursor()}); diff != "" {
				t.Errorf("queue (-before +after):\n%s", diff)
			}
			if done := r.sync(); done != plan {
				t.Errorf("sync is %+v, planned was %+v", done, plan)
			}
			if len(planned) < 3 {
				t.Errorf("planned are %q only", planned)
			}
			r.wantAll("jobs", planned...)
		})
	}
}

func TestPlanEndsWhenNobodyWantsToSeeMore(t *testing.T) {
	r := newRig(t)
	r.addMany("some", 3)
	enough := errors.New("enough")
	shown := 0
	_, err := Plan(t.Context(), r.Config, func(string) error {
		shown++
		return enough
	})
	if !errors.Is(err, enough) || shown != 1 {
		t.Errorf("Plan: %v after %d, want %v after one", err, shown, enough)
	}
}

// TestAfterSyncTheWholeStoreIsCompared has what was there before the queue vanish from
// the cache.
func TestAfterSyncTheWholeStoreIsCompared(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(map[bool]string{false: "of a queue without a cursor", true: "of a queue with one"}[begun], func(t *testing.T) {
			r := newRig(t)
			before := r.addMany("before", 3)
			if begun {
				r.begin()
				r.look()
			}
			r.sync()
			r.want("of the sync", before...)
			r.look()
			r.want("afterwards")
			r.setPresent(false, before[1])
			r.Epoch = "two"
			r.look()
			r.want("in a new epoch", before[1])
			if c := r.cursor(); c.Start != 0 || c.Last != 3 {
				t.Errorf("cursor is %+v, want it at 3, from 0", c)
			}
			next := r.add("next")
			r.look()
			r.want("afterwards", next)
		})
	}
}

// TestSyncThatFailsDoesNotMoveTheStart has it end in the middle.
func TestSyncThatFailsDoesNotMoveTheStart(t *testing.T) {
	r := newRig(t)
	before := r.addMany("before", 3)
	r.begin()
	r.look()
	cursor := r.cursor()
	c := r.Config
	c.Present = func(ctx context.Context, paths []string) []bool {
		must(t, r.Queue.Close()) // its disk is gone, for example
		return absent(ctx, paths)
	}
	if _, err := Sync(t.Context(), c); err == nil {
		t.Error("Sync of a closed queue: no error")
	}
	q, err := queue.Open(t.Context(), r.Queue.File())
	must(t, err)
	t.Cleanup(func() { q.Close() })
	r.Queue = q
	if diff := cmp.Diff(cursor, r.cursor()); diff != "" {
		t.Errorf("cursor (-before +after):\n%s", diff)
	}
	r.sync()
	r.want("of the next sync", before...)
}
