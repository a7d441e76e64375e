package watcher

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

// bound bounds the rig's queue.
func (r *rig) bound(most int) {
	r.t.Helper()
	s, err := r.Queue.Settings(r.t.Context())
	must(r.t, err)
	s.MaxQueue = strconv.Itoa(most)
	must(r.t, r.Queue.SetSettings(r.t.Context(), s))
}

func TestFullQueueLeavesTheCursorBehind(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.bound(3)
	all := r.registerMany("all", 8)
	r.setPresent(true, all[1])
	for _, want := range [][]string{{all[0], all[2], all[3]}, {all[4], all[5], all[6]}} {
		if got := r.look(); !got.Full || got.Queued != 3 {
			t.Errorf("result is %+v, want three queued, and it full", got)
		}
		if got := r.look(); got != (Result{Full: true}) {
			t.Errorf("result beside a full queue is %+v", got)
		}
		if n := len(r.roots()); n != 3 {
			t.Errorf("%d paths have a root, want as many as have a job", n)
		}
		r.want("jobs", want...)
	}
	if got := r.look(); got.Full || got.Queued != 1 {
		t.Errorf("last result is %+v", got)
	}
	r.want("jobs", all[7])
	if got := r.look(); got != (Result{}) {
		t.Errorf("result at the end is %+v", got)
	}
}

// A bound that is reached exactly is no reason to wait for anything.
func TestQueueThatHoldsAllIsNotFull(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.bound(3)
	all := r.addMany("all", 3)
	if got := r.look(); got.Full || got.Queued != 3 {
		t.Errorf("result is %+v", got)
	}
	r.wantAll("jobs", all...)
}

func TestWhatHooksTellOfHoldsTheWatcherBack(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.bound(1)
	built, other := r.add("built"), r.add("other")
	hook, err := queue.OpenForHook(r.Queue.File(), time.Minute)
	must(t, err)
	defer hook.Close()
	must(t, r.Roots.Protect(t.Context(), built, other))
	must(t, hook.Add("", built))
	must(t, hook.Add("", other))
	if got := r.look(); got != (Result{Full: true}) {
		t.Errorf("result is %+v", got)
	}
	r.wantAll("jobs", built, other)
	if got := r.look(); got.Full || got.Queued != 0 {
		t.Errorf("result is %+v", got)
	}
}

func TestRunGoesOnWhenTheQueueHasRoom(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.bound(2)
	all := r.addMany("all", 7)
	w := r.start()
	var got []string
	for len(got) < len(all) {
		trouble.Eventually(t, "there are jobs", func() bool {
			counts, err := r.Queue.Counts(t.Context())
			must(t, err)
			if counts.Left() > 2 {
				t.Fatalf("%d jobs are in a queue for two", counts.Left())
			}
			return counts.Left() > 0
		})
		job, err := r.Queue.Claim(t.Context())
		must(t, err)
		must(t, r.Queue.Done(t.Context(), job, nil))
		got = append(got, job.Path)
	}
	_ = w.stop(t)
	slices.Sort(all)
	slices.Sort(got)
	if !slices.Equal(got, all) {
		t.Errorf("jobs were %q, want %q", got, all)
	}
	if n := strings.Count(r.log.String(), "the queue is full"); n != 1 {
		t.Errorf("said %d times that it is full, want once", n)
	}
}

// What Sync does not come to, the watcher does, also what was there before the queue.
func TestSyncOfMoreThanTheQueueHoldsIsTheWatchersBusiness(t *testing.T) {
	r := newRig(t)
	all := r.registerMany("all", 7)
	r.begin()
	r.look()
	r.bound(3)
	if got := r.sync(); !got.Full || got.Queued != 3 || got.Registered != 3 {
		t.Errorf("result is %+v", got)
	}
	if c := r.cursor(); c.Start != 0 || c.Last != r.row(all[2]) {
		t.Errorf("cursor is %+v, want it behind %s", c, all[2])
	}
	r.want("jobs", all[:3]...)
	if got := r.look(); !got.Full || got.Queued != 3 {
		t.Errorf("result of a look is %+v", got)
	}
	r.want("jobs", all[3:6]...)
	r.look()
	r.want("jobs", all[6])
	// Plan is not bound: it queues nothing.
	r.setPresent(false, all...)
	if paths, got := r.plan(); got.Full || len(paths) != 7 {
		t.Errorf("plan is %+v: %q", got, paths)
	}
}
