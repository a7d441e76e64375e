package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nix-larder/larder/internal/gcroot"
	"github.com/nix-larder/larder/internal/trouble"
	"github.com/nix-larder/larder/queue"
)

func TestJobsRunSideBySide(t *testing.T) {
	r := newRig(t)
	r.Jobs = 3
	var now, most atomic.Int32
	release := make(chan struct{})
	r.copy = func(context.Context, string, int) error {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		return nil
	}
	r.add(1, 2, 3, 4, 5, 6, 7, 8)
	r.start()
	trouble.Eventually(t, "three run", func() bool { return now.Load() == 3 })
	close(release)
	trouble.Eventually(t, "all are done", func() bool { counts, err := r.Queue.Counts(t.Context()); return err == nil && counts.Left() == 0 })
	if most.Load() != 3 {
		t.Errorf("%d ran at a time, want 3", most.Load())
	}
}

// TestAddedJobIsCopiedAtOnce has a worker that would look by itself in an hour.
func TestAddedJobIsCopiedAtOnce(t *testing.T) {
	r := newRig(t)
	idle := make(chan struct{}, 1)
	r.Alive = func() {
		select {
		case idle <- struct{}{}:
		default:
		}
	}
	r.start()
	<-idle
	for n := range 50 {
		r.add(n)
		trouble.Eventually(t, "it is done", func() bool { return r.gone(n) })
	}
}

func TestRootsWithoutJobsAreAdopted(t *testing.T) {
	r := newRig(t)
	must(t, r.Roots.Protect(t.Context(), path(1))) // its hook could not reach the queue
	running := r.start()
	trouble.Eventually(t, "it is done", func() bool { return r.copied(1) == 1 && r.gone(1) && !r.rooted(1) })
	_ = running.stop(t)

	// Later, from time to time.
	w, stop := r.worker()
	defer stop()
	must(t, w.round(t.Context()))
	must(t, r.Roots.Protect(t.Context(), path(2)))
	must(t, w.round(t.Context()))
	if w.running != 0 {
		t.Error("roots were looked through too soon")
	}
	w.adopted = w.adopted.Add(-adoptEvery)
	must(t, w.round(t.Context()))
	if w.running != 1 {
		t.Error("root was not adopted")
	}
	w.running--
	w.settle(<-w.done)
	if r.copied(2) != 1 || r.rooted(2) {
		t.Errorf("copied %d times, rooted: %v", r.copied(2), r.rooted(2))
	}
}

// worker returns a worker whose rounds the test makes.
func (r *rig) worker() (*worker, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	c := r.Config
	c.Jobs, c.Attempts = 4, 10
	return &worker{Config: c, ctx: ctx, done: make(chan outcome)}, cancel
}

func TestWorkerSaysThatItIsAlive(t *testing.T) {
	r := newRig(t)
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(r.Queue.File()+"-lock", old, old))
	var rounds atomic.Int32
	r.Poll = 5 * time.Millisecond
	r.Alive = func() { rounds.Add(1) }
	begin := time.Now()
	r.start()
	trouble.Eventually(t, "it is alive for long", func() bool { return rounds.Load() > 20 })
	id, err := queue.Identify(r.Queue.File())
	must(t, err)
	if id.Worker.Before(begin.Add(-time.Second)) {
		t.Errorf("the queue has a worker that was alive at %v", id.Worker)
	}
}

// TestRootsTroubleStopsNoCopies has a roots' directory that is none.
func TestRootsTroubleStopsNoCopies(t *testing.T) {
	r := newRig(t)
	r.add(1)
	state := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(state, "gcroots", "larder"), 0o755))
	must(t, os.WriteFile(filepath.Join(state, "gcroots", "larder", "id"), nil, 0o644))
	good := r.Roots
	r.Roots = gcroot.Join(gcroot.Open(state, "id"), gcroot.OpenLinks(filepath.Join(state, "links")))
	w := r.start()
	trouble.Eventually(t, "it is copied", func() bool { return r.copied(1) == 1 })
	_ = w.stop(t)
	if !strings.Contains(r.log.String(), "not a directory") {
		t.Error("nobody was told")
	}
	// The root must go before the job does.
	if r.gone(1) {
		t.Error("the job is gone, and its root is there")
	}
	r.Roots = good
}

func TestStopLetsClaimedJobsFinish(t *testing.T) {
	r := newRig(t)
	r.Jobs = 2
	release := make(chan struct{})
	r.copy = func(ctx context.Context, _ string, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.add(1, 2, 3)
	w := r.start()
	trouble.Eventually(t, "two are claimed", func() bool { return r.copied(1)+r.copied(2) == 2 })
	w.cancel()
	trouble.Eventually(t, "it has heard", func() bool { return strings.Contains(r.log.String(), "msg=draining") })
	close(release)
	if err := w.wait(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want context.Canceled", err)
	}
	if !r.gone(1) || !r.gone(2) {
		t.Error("claimed jobs are not done")
	}
	if row, _ := r.row(3); row.State != queue.Waiting || r.copied(3) != 0 {
		t.Errorf("job 3 is %+v after %d copies, want it untouched", row, r.copied(3))
	}
}

// TestStopReturnsWhatDoesNotFinish has jobs that end in one way or another when
// they have to.
func TestStopReturnsWhatDoesNotFinish(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		for name, result := range map[string]error{"canceled": context.Canceled, "some error": errDisk, "hopeless": ErrHopeless, "unavailable": ErrUnavailable} {
			t.Run(map[bool]string{false: "timeout ", true: "hurry "}[hurry]+name, func(t *testing.T) {
				r := newRig(t)
				r.copy = func(ctx context.Context, _ string, _ int) error {
					<-ctx.Done()
					return result
				}
				hurried := make(chan struct{})
				r.Hurry = hurried
				r.StopTimeout = time.Hour
				if !hurry {
					r.StopTimeout = time.Millisecond
				}
				r.add(1, 2)
				w := r.start()
				trouble.Eventually(t, "both are claimed", func() bool { return r.copied(1)+r.copied(2) == 2 })
				w.cancel()
				if hurry {
					trouble.Eventually(t, "it has heard", func() bool { return strings.Contains(r.log.String(), "msg=draining") })
					close(hurried)
				}
				if err := w.wait(t); !errors.Is(err, context.Canceled) {
					t.Errorf("Run: %v, want context.Canceled", err)
				}
				for _, n := range []int{1, 2} {
					row, _ := r.row(n)
					if row.State != queue.Waiting || row.Attempts != 0 || time.Until(row.Due) > 0 || !r.rooted(n) {
						t.Errorf("job is %+v, rooted: %v; want it as it was", row, r.rooted(n))
					}
				}
			})
		}
	}
}

// TestStopLeavesNothingClaimed stops workers at any moment.
func TestStopLeavesNothingClaimed(t *testing.T) {
	r := newRig(t)
	r.Jobs = 3
	var jobs []int
	for n := range 400 {
		jobs = append(jobs, n)
	}
	paths := make([]string, len(jobs))
	for i, n := range jobs {
		paths[i] = path(n)
	}
	for round := range 60 {
		must(t, r.Queue.Add(t.Context(), "", paths...))
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond)) // not to wait for anything: to hit anything
		err := Run(ctx, r.Config)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v, want context.DeadlineExceeded", err)
		}
		counts, err := r.Queue.Counts(t.Context())
		must(t, err)
		if counts.Claimed != 0 {
			t.Fatalf("round %d: %d jobs are claimed by nobody", round, counts.Claimed)
		}
	}
}
